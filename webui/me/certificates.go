package me

import (
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

func pathSerial(r *http.Request) depot.Serial { return depot.Serial(r.PathValue("serial")) }

func (m *Me) certificates(w http.ResponseWriter, r *http.Request) error {
	mine, more, err := m.Enroll.MyCertificates(r.Context(), caller(r))
	if err != nil {
		return refuse(err, "")
	}
	around, err := m.page(r, "me.certificates.title", sectionCertificates, "")
	if err != nil {
		return err
	}
	page := view.MeCertificates{Me: around}
	for _, c := range mine {
		if row := m.certificateRow(page.T, c); c.Status(m.Now()) == depot.Active {
			page.Good = append(page.Good, row)
		} else {
			page.Past = append(page.Past, row)
		}
	}
	if more {
		page.More = page.T.Say("me.certificates.more", "n", len(mine))
	}
	return m.Pages.Write(w, http.StatusOK, page)
}

func (m *Me) certificateRow(t *text.Texts, c enroll.OwnCertificate) view.MeCertificateRow {
	row := view.MeCertificateRow{
		URL: certificatePath(c.Serial), Name: certificateName(t, c), Subject: c.Subject,
		State: m.certificateState(t, c), Until: t.Say("me.certificate.until", "time", day(c.NotAfter)),
	}
	switch c.Status(m.Now()) {
	case depot.Expired:
		row.Until = t.Say("me.certificate.ended", "time", day(c.NotAfter))
	case depot.Revoked:
		row.Until = t.Say("me.certificate.revoked_at", "time", day(c.RevokedAt))
	}
	if c.Device.ID != "" {
		row.Device = deviceName(t, c.Device)
	}
	return row
}

// certificateName is what kind of certificate it is.
func certificateName(t *text.Texts, c enroll.OwnCertificate) string {
	switch {
	case c.Identity():
		return t.Say("me.certificate.management")
	case c.Template == issuance.SelfService:
		return t.Say("me.certificate.self_service")
	}
	return c.Template
}

func (m *Me) certificateState(t *text.Texts, c enroll.OwnCertificate) view.State {
	status := c.Status(m.Now())
	tone := view.Neutral
	switch status {
	case depot.Active:
		tone = view.Good
	case depot.Revoked:
		tone = view.Bad
	}
	return view.State{Text: t.Say("me.certificate." + string(status)), Tone: tone}
}

func (m *Me) certificate(w http.ResponseWriter, r *http.Request) error {
	c, err := m.Enroll.MyCertificate(r.Context(), caller(r), pathSerial(r))
	if err != nil {
		return refuse(err, sectionCertificates)
	}
	around, err := m.page(r, "me.certificate.title", sectionCertificates, "")
	if err != nil {
		return err
	}
	status := c.Status(m.Now())
	done(&around, r, "issued", status == depot.Active && c.Template == issuance.SelfService)
	done(&around, r, "revoked", status == depot.Revoked)
	t := around.T
	page := view.MeCertificate{Me: around, Name: certificateName(t, c), State: m.certificateState(t, c), Facts: certificateFacts(t, c)}
	switch {
	case c.Identity():
		page.Note = t.Say("me.certificate.identity_note")
	case c.Authority == depot.ExternalAuthority:
		page.Note = t.Say("me.certificate.external_note")
	}
	path := certificatePath(c.Serial)
	page.Downloads = []view.Link{
		{Label: t.Say("me.certificate.pem"), URL: path + "/" + filePEM}, {Label: t.Say("me.certificate.der"), URL: path + "/" + fileDER},
	}
	if len(c.Chain) > 0 {
		page.Downloads = append(page.Downloads, view.Link{Label: t.Say("me.certificate.chain"), URL: path + "/" + fileChain})
	}
	if c.Template == issuance.SelfService && (c.DeviceID == "" || c.Device.Live()) {
		page.Actions = append(page.Actions, view.Link{Label: t.Say("me.certificate.renew"), URL: "/me/certificates/new?renew=" + string(c.Serial)})
	}
	if c.Revocable(m.Now()) {
		page.Actions = append(page.Actions, view.Link{Label: t.Say("me.certificate.revoke"), URL: path + "/revoke"})
	}
	return m.Pages.Write(w, http.StatusOK, page)
}

func certificateFacts(t *text.Texts, c enroll.OwnCertificate) (facts []view.MeFact) {
	add := func(name, value string, mono bool) {
		if value != "" {
			facts = append(facts, view.MeFact{Label: t.Say("me.certificate." + name), Value: value, Mono: mono})
		}
	}
	from, to := exact(c.NotBefore), exact(c.NotAfter)
	add("subject", c.Subject, false)
	add("sans", strings.Join(c.Names, ", "), false)
	if c.Device.ID != "" {
		facts = append(facts, view.MeFact{Label: t.Say("me.certificate.device"), Value: deviceName(t, c.Device), URL: devicePath(c.Device.ID)})
	}
	facts = append(facts, view.MeFact{Label: t.Say("me.certificate.from"), Time: &from}, view.MeFact{Label: t.Say("me.certificate.to"), Time: &to})
	if !c.RevokedAt.IsZero() {
		revoked := exact(c.RevokedAt)
		facts = append(facts, view.MeFact{Label: t.Say("me.certificate.revoked.when"), Time: &revoked})
		reason := "me.reason." + c.RevocationReason
		if !t.Has(reason) {
			reason = "me.reason.other"
		}
		facts = append(facts, view.MeFact{Label: t.Say("me.certificate.revoked.why"), Value: t.Say(reason)})
	}
	add("serial", string(c.Serial), true)
	add("fingerprint", string(c.Fingerprint), true)
	return facts
}

// The files of a certificate.
const (
	filePEM   = "certificate.pem"
	fileDER   = "certificate.cer"
	fileChain = "chain.pem"
)

func (m *Me) download(w http.ResponseWriter, r *http.Request) error {
	file := r.PathValue("file")
	if file != filePEM && file != fileDER && file != fileChain {
		return refuse(fmt.Errorf("file %q: %w", file, storage.ErrNotFound), sectionCertificates)
	}
	c, err := m.Enroll.MyCertificate(r.Context(), caller(r), pathSerial(r))
	if err != nil {
		return refuse(err, sectionCertificates)
	}
	if file == fileDER {
		webui.SendFile(w, "application/pkix-cert", file, c.DER) // RFC 2585, 4.1
		return nil
	}
	body := asPEM(c.DER)
	if file == fileChain {
		for _, issuer := range c.Chain {
			body = append(body, asPEM(issuer.Raw)...)
		}
	}
	webui.SendFile(w, "application/x-pem-file", file, body)
	return nil
}

func asPEM(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}) }

func (m *Me) askRevoke(w http.ResponseWriter, r *http.Request) error {
	return m.revokeForm(w, r, http.StatusOK, false)
}

func (m *Me) revokeForm(w http.ResponseWriter, r *http.Request, status int, noReason bool) error {
	c, err := m.Enroll.MyCertificate(r.Context(), caller(r), pathSerial(r))
	if err != nil {
		return refuse(err, sectionCertificates)
	}
	path := certificatePath(c.Serial)
	switch {
	case c.Identity():
		return refuse(enroll.ErrIdentity, "")
	case c.Authority == depot.ExternalAuthority:
		return refuse(enroll.ErrExternal, "")
	case !c.Revocable(m.Now()):
		http.Redirect(w, r, path, http.StatusSeeOther) // which says why
		return nil
	}
	around, err := m.page(r, "me.revoke.title", sectionCertificates, path+"/revoke")
	if err != nil {
		return err
	}
	t := around.T
	page := view.MeConfirm{
		Me: around, Heading: t.Say("me.revoke.heading"),
		Lead:   t.Say("me.revoke.lead", "name", certificateName(t, c), "time", day(c.NotAfter)),
		Points: []string{t.Say("me.revoke.at_once"), t.Say("me.revoke.back")},
		Action: path + "/revoke", ChoiceName: "reason", Legend: t.Say("me.revoke.reason"),
		Button: t.Say("me.revoke.button"), Danger: true, Cancel: view.Link{Label: t.Say("me.cancel"), URL: path},
	}
	for _, reason := range enroll.OwnReasons() {
		page.Choices = append(page.Choices, view.MeChoice{Value: reason, Title: t.Say("me.reason." + reason)})
	}
	if noReason {
		m.refused(r, codeReason)
		page.Error = t.Say("me.revoke.reason.missing", "code", codeReason)
	}
	return m.Pages.Write(w, status, page)
}

func (m *Me) revoke(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return unreadable(err)
	}
	serial := pathSerial(r)
	err := m.Enroll.RevokeMine(r.Context(), caller(r), serial, r.PostForm.Get("reason"))
	var field *enroll.FieldError
	switch {
	case errors.As(err, &field):
		return m.revokeForm(w, r, http.StatusUnprocessableEntity, true)
	case err != nil:
		return refuse(err, "")
	}
	return seeOther(w, r, certificatePath(serial), "revoked")
}

// minFilePassword is the least number of characters of the password of a file with a key:
// whoever has the file can try as many as they like.
const (
	minFilePassword = 12
	maxFilePassword = 128 // bytes
)

// newFilePassword returns a password that is good to copy: 100 bits.
func newFilePassword() string {
	text := strings.ToLower(rand.Text()[:20])
	return strings.Join([]string{text[:5], text[5:10], text[10:15], text[15:]}, "-")
}

// forSelf is the choice of a certificate for whoever signed in; others are IDs of devices.
const forSelf = "me"

// wish is what the page for new certificates was sent, and what is wrong with that.
type wish struct {
	status       int
	whose        string // forSelf or a device's ID; empty: nothing chosen
	password     string
	problem      string // key of a text
	request      string
	requestError string
}

func (m *Me) newCertificate(w http.ResponseWriter, r *http.Request) error {
	return m.certificateForm(w, r, func(*text.Texts) wish { return wish{status: http.StatusOK, password: newFilePassword()} })
}

// certificateForm shows the page for new certificates, with a wish in the page's language.
func (m *Me) certificateForm(w http.ResponseWriter, r *http.Request, say func(*text.Texts) wish) error {
	p := caller(r)
	u, err := m.Identity.User(r.Context(), p.ID)
	if err != nil {
		return refuse(err, "")
	}
	mine, err := m.Enroll.MyDevices(r.Context(), p)
	if err != nil {
		return refuse(err, "")
	}
	around, err := m.page(r, "me.new.title", sectionCertificates, "/me/certificates/new")
	if err != nil {
		return err
	}
	t := around.T
	asked := say(t)
	page := view.MeNewCertificate{
		Me: around, Password: asked.password, Least: minFilePassword, Error: asked.problem,
		Request: asked.request, RequestError: asked.requestError,
	}
	if serial := r.URL.Query().Get("renew"); serial != "" && r.Method == http.MethodGet {
		old, err := m.Enroll.MyCertificate(r.Context(), p, depot.Serial(serial))
		if err != nil {
			return refuse(err, sectionCertificates)
		}
		asked.whose = forSelf
		if old.DeviceID != "" {
			asked.whose = string(old.Device.ID)
		}
		if old.Status(m.Now()) == depot.Active {
			page.Renews = t.Say("me.new.renews", "name", old.Subject, "time", day(old.NotAfter))
		}
	}
	if u.FullName != "" {
		page.For = append(page.For, view.MeChoice{Value: forSelf, Title: t.Say("me.new.for.me", "name", u.FullName)})
		page.Names = append(page.Names, requestNames(t, u))
	} else {
		page.NoName = t.Say("me.new.no_name")
	}
	for _, o := range mine {
		if !o.Live() {
			continue
		}
		name := deviceName(t, o.Device)
		page.For = append(page.For, view.MeChoice{Value: string(o.ID), Title: t.Say("me.new.for.device", "name", name)})
		page.Names = append(page.Names, t.Say("me.new.request.device", "device", name, "uri", "mdm-device://"+string(o.ID)))
	}
	for i := range page.For {
		page.For[i].Chosen = page.For[i].Value == asked.whose || len(page.For) == 1
	}
	if len(page.For) == 0 {
		page.NoName = t.Say("me.new.nothing")
	}
	return m.Pages.Write(w, asked.status, page)
}

// requestNames are the names that a request for a person may have.
func requestNames(t *text.Texts, u identity.User) string {
	names := []string{t.Say("me.new.request.cn", "name", u.FullName)}
	if u.Email != "" {
		names = append(names, t.Say("me.new.request.email", "email", u.Email))
	}
	if u.UPN() != "" {
		names = append(names, t.Say("me.new.request.upn", "upn", u.UPN()))
	}
	return strings.Join(names, " · ")
}

// makeFile makes a key and a certificate for it, and sends both in a file.
func (m *Me) makeFile(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return unreadable(err)
	}
	whose, password := r.PostForm.Get("for"), r.PostForm.Get("password")
	again := func(status int, code string, say func(*text.Texts) string) error {
		m.refused(r, code)
		return m.certificateForm(w, r, func(t *text.Texts) wish {
			return wish{status: status, whose: whose, password: password, problem: say(t)}
		})
	}
	switch {
	case whose == "":
		return again(http.StatusUnprocessableEntity, codeFile, func(t *text.Texts) string { return t.Say("me.new.for.missing", "code", codeFile) })
	case utf8.RuneCountInString(password) < minFilePassword:
		return again(http.StatusUnprocessableEntity, codeFile, func(t *text.Texts) string {
			return t.Many("me.new.password.short", minFilePassword, "code", codeFile)
		})
	case !fitsFile(password):
		return again(http.StatusUnprocessableEntity, codeFile, func(t *text.Texts) string { return t.Say("me.new.password.characters", "code", codeFile) })
	}
	order := issuance.OwnOrder{Peer: peer(r)}
	if whose != forSelf {
		order.DeviceID = mdm.DeviceID(whose)
	}
	made, err := m.Issuance.IssueOwn(r.Context(), caller(r), order)
	var field *depot.FieldError
	switch {
	case errors.Is(err, depot.ErrQuota):
		retryAfter(w, err)
		return again(http.StatusTooManyRequests, codeQuota, func(t *text.Texts) string { return t.Say("me.new.quota", "code", codeQuota) })
	case errors.As(err, &field):
		if whose != forSelf {
			whose = "" // what is none of theirs is not offered again
		}
		return again(http.StatusUnprocessableEntity, codeChanged, func(t *text.Texts) string { return t.Say("me.new.changed", "code", codeChanged) })
	case errors.Is(err, issuance.ErrForbidden):
		return refuse(fmt.Errorf("%w: %w", identity.ErrForbidden, err), "")
	case err != nil:
		return err
	}
	file, err := depot.EncodePKCS12(made.Key, made.Certificate, made.Chain, password, depot.Compatible)
	if err != nil {
		return err
	}
	serial := string(depot.SerialOf(made.Certificate))
	webui.SendFile(w, "application/x-pkcs12", "certificate-"+serial[:min(len(serial), 8)]+".p12", file)
	return nil
}

// fitsFile says whether a PKCS #12 file can have a password: it is encoded in 16 bits a
// character (RFC 7292, B.1).
func fitsFile(password string) bool {
	return len(password) <= maxFilePassword && utf8.ValidString(password) &&
		!strings.ContainsFunc(password, func(r rune) bool { return unicode.IsControl(r) || r > 0xffff })
}

func retryAfter(w http.ResponseWriter, err error) {
	w.Header().Set("Retry-After", strconv.Itoa(int(depot.RetryAfter(err).Seconds())+1))
}

// takeRequest certifies the key of a request that a person made.
func (m *Me) takeRequest(w http.ResponseWriter, r *http.Request) error {
	request, pasted, err := readRequest(r)
	if err != nil {
		return unreadable(err)
	}
	again := func(status int, code string, say func(*text.Texts) string) error {
		m.refused(r, code)
		return m.certificateForm(w, r, func(t *text.Texts) wish {
			return wish{status: status, password: newFilePassword(), request: pasted, requestError: say(t)}
		})
	}
	if len(request) == 0 {
		return again(http.StatusUnprocessableEntity, codeRequest, func(t *text.Texts) string { return t.Say("me.new.request.missing", "code", codeRequest) })
	}
	a, _, err := depot.ReadApplication(request)
	var made issuance.Delivery
	if err == nil {
		a.Door = "csr"
		made, err = m.Issuance.IssueOwn(r.Context(), caller(r), issuance.OwnOrder{CSR: &a, Peer: peer(r)})
	}
	var field *depot.FieldError
	switch {
	case errors.As(err, &field):
		return again(http.StatusUnprocessableEntity, codeRequest, func(t *text.Texts) string {
			return t.Say("me.new.request.refused", "code", codeRequest, "reason", t.Say(refusedField(field.Field)))
		})
	case errors.Is(err, issuance.ErrKeyReused):
		return again(http.StatusConflict, codeRequest, func(t *text.Texts) string {
			return t.Say("me.new.request.refused", "code", codeRequest, "reason", t.Say("me.new.refused.key_reused"))
		})
	case errors.Is(err, depot.ErrQuota):
		retryAfter(w, err)
		return again(http.StatusTooManyRequests, codeQuota, func(t *text.Texts) string { return t.Say("me.new.quota", "code", codeQuota) })
	case errors.Is(err, issuance.ErrForbidden):
		return refuse(fmt.Errorf("%w: %w", identity.ErrForbidden, err), "")
	case err != nil:
		return err
	}
	return seeOther(w, r, certificatePath(depot.SerialOf(made.Certificate)), "issued")
}

// readRequest returns the request that a form brings, as a file or pasted. It is never
// kept in a file.
func readRequest(r *http.Request) (request []byte, pasted string, err error) {
	if err := r.ParseForm(); err != nil {
		return nil, "", err
	}
	err = r.ParseMultipartForm(2 * MaxBody)
	if err != nil && !errors.Is(err, http.ErrNotMultipart) {
		return nil, "", err
	}
	pasted = r.PostFormValue("request")
	if r.MultipartForm == nil || len(r.MultipartForm.File["file"]) == 0 {
		return []byte(strings.TrimSpace(pasted)), pasted, nil
	}
	file, err := r.MultipartForm.File["file"][0].Open()
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if request, err = io.ReadAll(file); err != nil || len(request) > 0 {
		return request, pasted, err
	}
	return []byte(strings.TrimSpace(pasted)), pasted, nil // browsers send an empty file for none
}

// refusedField is the key of what to say about a part of a request that was refused.
func refusedField(field string) string {
	room, _, _ := strings.Cut(field, ".")
	switch {
	case slices.Contains([]string{"csr", "public_key", "signature", "subject", "san"}, room):
		return "me.new.refused." + room
	case slices.Contains([]string{"key_usage", "ext_key_usage", "basic_constraints"}, room):
		return "me.new.refused.usage"
	}
	return "me.new.refused.other"
}
