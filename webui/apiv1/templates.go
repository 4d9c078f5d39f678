package apiv1

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// templateRequest is a whole template: what it leaves out has its default. Fields that
// are only in answers may be there, so that what was read can be changed and sent back.
type templateRequest struct {
	Name               *string         `json:"name"`
	Subject            json.RawMessage `json:"subject"` // a string, or lists
	SANs               json.RawMessage `json:"sans"`    // a sansRequest
	KeyType            *string         `json:"key_type"`
	KeySize            *int            `json:"key_size"`
	KeyUsage           []string        `json:"key_usage"`
	ExtKeyUsage        []string        `json:"ext_key_usage"`
	Validity           *string         `json:"validity"`
	RenewBefore        *string         `json:"renew_before"`
	ChallengeType      *string         `json:"challenge_type"`
	Challenge          string          `json:"challenge"`
	Retries            *int            `json:"retries"`
	RetryDelay         json.RawMessage `json:"retry_delay"` // seconds, or a duration
	KeyExtractable     bool            `json:"key_extractable"`
	AllowAllAppsAccess bool            `json:"allow_all_apps_access"`
	IncludeRoot        bool            `json:"include_root"`
	RootCertificates   json.RawMessage `json:"root_certificates"` // strings, or rootCertificate
	Issuer             *string         `json:"issuer"`
	Upstream           json.RawMessage `json:"upstream"` // an upstreamRequest
	Notes              *string         `json:"notes"`

	HasChallenge json.RawMessage `json:"has_challenge"`
	NotesHistory json.RawMessage `json:"notes_history"`
	CreatedAt    json.RawMessage `json:"created_at"`
	UpdatedAt    json.RawMessage `json:"updated_at"`
	Warnings     json.RawMessage `json:"warnings"`
}

type sansRequest struct {
	RFC822Name                json.RawMessage `json:"rfc822Name"` // a string, or several
	DNSName                   json.RawMessage `json:"dNSName"`
	UniformResourceIdentifier json.RawMessage `json:"uniformResourceIdentifier"`
	NTPrincipalName           string          `json:"ntPrincipalName"`
}

type upstreamRequest struct {
	URL           string  `json:"url"`
	Name          string  `json:"name"`
	Fingerprint   string  `json:"fingerprint"`
	AllowPrivate  bool    `json:"allow_private"`
	ChallengeType *string `json:"challenge_type"`
	Challenge     string  `json:"challenge"`
	ChallengeURL  string  `json:"challenge_url"`
	Username      string  `json:"username"`
	Password      string  `json:"password"`

	HasChallenge json.RawMessage `json:"has_challenge"`
	HasPassword  json.RawMessage `json:"has_password"`
}

type templateJSON struct {
	Name               string            `json:"name"`
	Subject            string            `json:"subject"`
	SANs               sansJSON          `json:"sans"`
	KeyType            string            `json:"key_type"`
	KeySize            int               `json:"key_size"`
	KeyUsage           []string          `json:"key_usage"`
	ExtKeyUsage        []string          `json:"ext_key_usage"`
	Validity           string            `json:"validity"`
	RenewBefore        string            `json:"renew_before"`
	ChallengeType      string            `json:"challenge_type"`
	Challenge          string            `json:"challenge"` // only where it was just given or made
	HasChallenge       bool              `json:"has_challenge"`
	Retries            int               `json:"retries"`
	RetryDelay         int               `json:"retry_delay"` // seconds
	KeyExtractable     bool              `json:"key_extractable"`
	AllowAllAppsAccess bool              `json:"allow_all_apps_access"`
	IncludeRoot        bool              `json:"include_root"`
	RootCertificates   []rootCertificate `json:"root_certificates"`
	Issuer             string            `json:"issuer"`
	Upstream           *upstreamJSON     `json:"upstream"` // null with the built-in issuer
	Notes              string            `json:"notes"`    // the last one
	NotesHistory       []noteJSON        `json:"notes_history"`
	CreatedAt          time.Time         `json:"created_at"`
	UpdatedAt          time.Time         `json:"updated_at"`
	Warnings           []fieldError      `json:"warnings"`
}

type sansJSON struct {
	RFC822Name                []string `json:"rfc822Name"`
	DNSName                   []string `json:"dNSName"`
	UniformResourceIdentifier []string `json:"uniformResourceIdentifier"`
	NTPrincipalName           string   `json:"ntPrincipalName"`
}

type rootCertificate struct {
	PEM      string     `json:"pem"`
	Subject  string     `json:"subject"`
	NotAfter *time.Time `json:"not_after"`
	SHA256   string     `json:"sha256"`
}

type upstreamJSON struct {
	URL           string `json:"url"`
	Name          string `json:"name"`
	Fingerprint   string `json:"fingerprint"` // hexadecimal
	AllowPrivate  bool   `json:"allow_private"`
	ChallengeType string `json:"challenge_type"`
	Challenge     string `json:"challenge"` // always empty: it is the other server's
	HasChallenge  bool   `json:"has_challenge"`
	ChallengeURL  string `json:"challenge_url"`
	Username      string `json:"username"`
	Password      string `json:"password"` // always empty
	HasPassword   bool   `json:"has_password"`
}

type noteJSON struct {
	Text   string    `json:"text"`
	Author string    `json:"author"`
	At     time.Time `json:"at"`
}

func (a *API) template(t template.Template) (templateJSON, error) {
	out := templateJSON{
		Name: t.Name, Subject: t.Subject.String(),
		SANs: sansJSON{
			RFC822Name: list(t.SANs.RFC822Names), DNSName: list(t.SANs.DNSNames),
			UniformResourceIdentifier: list(t.SANs.URIs), NTPrincipalName: t.SANs.NTPrincipalName,
		},
		KeyType: t.KeyType, KeySize: t.KeySize, KeyUsage: list(t.KeyUsage), ExtKeyUsage: list(t.ExtKeyUsage),
		Validity: string(t.Validity), RenewBefore: string(t.RenewBefore),
		ChallengeType: string(t.ChallengeType), HasChallenge: t.Challenge != "",
		Retries: t.Retries, RetryDelay: int(t.RetryDelay / time.Second),
		KeyExtractable: t.KeyExtractable, AllowAllAppsAccess: t.AllowAllAppsAccess,
		IncludeRoot: t.IncludeRoot, RootCertificates: []rootCertificate{},
		Issuer: string(t.Issuer), Notes: t.Note(), NotesHistory: []noteJSON{},
		CreatedAt: t.CreatedAt.UTC(), UpdatedAt: t.UpdatedAt.UTC(), Warnings: []fieldError{},
	}
	roots, err := t.RootCertificates()
	if err != nil {
		return templateJSON{}, err
	}
	for _, root := range roots {
		sum := sha256.Sum256(root.Raw)
		out.RootCertificates = append(out.RootCertificates, rootCertificate{
			PEM:     string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})),
			Subject: root.Subject.String(), NotAfter: timestamp(root.NotAfter), SHA256: hex.EncodeToString(sum[:]),
		})
	}
	if u := t.Upstream; t.Issuer != template.Builtin {
		out.Upstream = &upstreamJSON{
			URL: u.URL, Name: u.Name, Fingerprint: hex.EncodeToString(u.Fingerprint), AllowPrivate: u.AllowPrivate,
			ChallengeType: string(u.ChallengeType), HasChallenge: u.Challenge != "",
			ChallengeURL: u.ChallengeURL, Username: u.Username, HasPassword: u.Password != "",
		}
	}
	for _, n := range t.Notes {
		out.NotesHistory = append(out.NotesHistory, noteJSON{n.Text, n.Author, n.At.UTC()})
	}
	for _, w := range t.Warnings(a.now()) {
		out.Warnings = append(out.Warnings, fieldError{w.Field, w.Detail})
	}
	return out, nil
}

// list is s as an array in JSON, also if it is empty.
func list(s []string) []string { return append([]string{}, s...) }

func (a *API) listTemplates(w http.ResponseWriter, r *http.Request) error {
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	var templates []template.Template
	var next string
	err = a.db.View(r.Context(), func(tx storage.Tx) (err error) {
		templates, next, err = a.templates.Page(tx, cursor, limit)
		return err
	})
	if err != nil {
		return err
	}
	out := page[templateJSON]{Items: make([]templateJSON, len(templates)), NextCursor: next}
	for i, t := range templates {
		if out.Items[i], err = a.template(t); err != nil {
			return err
		}
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

func (a *API) getTemplate(w http.ResponseWriter, r *http.Request) error {
	name, err := pathID(r, "name")
	if err != nil {
		return err
	}
	var t template.Template
	err = a.db.View(r.Context(), func(tx storage.Tx) (err error) {
		t, err = a.templates.Get(tx, name)
		return err
	})
	if err != nil {
		return err
	}
	return a.writeTemplate(w, http.StatusOK, t, false)
}

func (a *API) createTemplate(w http.ResponseWriter, r *http.Request) error {
	var in templateRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	if in.Name == nil {
		return invalid("name", "is required")
	}
	device, err := draftOf(r)
	if err != nil {
		return err
	}
	t, err := in.template(*in.Name)
	if err != nil {
		return err
	}
	if device != "" {
		return a.previewDraft(w, r, t, false, device)
	}
	t, err = a.templates.Create(r.Context(), principal(r).String(), t, in.Notes)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/certificate-templates/"+t.Name)
	return a.writeTemplate(w, http.StatusCreated, t, true)
}

func (a *API) replaceTemplate(w http.ResponseWriter, r *http.Request) error {
	name, err := pathID(r, "name")
	if err != nil {
		return err
	}
	var in templateRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	if in.Name != nil && *in.Name != name {
		return invalid("name", "must be that in the path: a template keeps its name, which stands in profiles and certificates")
	}
	device, err := draftOf(r)
	if err != nil {
		return err
	}
	t, err := in.template(name)
	if err != nil {
		return err
	}
	if device != "" {
		return a.previewDraft(w, r, t, true, device)
	}
	t, fresh, err := a.templates.Replace(r.Context(), principal(r).String(), t, in.Notes)
	if err != nil {
		return err
	}
	return a.writeTemplate(w, http.StatusOK, t, fresh || in.Challenge != "")
}

func (a *API) deleteTemplate(w http.ResponseWriter, r *http.Request) error {
	name, err := pathID(r, "name")
	if err != nil {
		return err
	}
	force, err := textOf(r.URL.Query(), "force")
	if err != nil {
		return err
	}
	if force != "" && force != "true" && force != "false" {
		return invalid("force", "must be true or false")
	}
	if err := a.issuance.DeleteTemplate(r.Context(), principal(r).String(), name, force == "true"); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// writeTemplate answers with t, and with its challenge if whoever asks has just given it
// or is the first to see it.
func (a *API) writeTemplate(w http.ResponseWriter, status int, t template.Template, challenge bool) error {
	out, err := a.template(t)
	if err != nil {
		return err
	}
	if challenge {
		out.Challenge = t.Challenge.Reveal()
	}
	return webui.WriteJSON(w, status, out)
}

// template returns the template of that name that in describes, or a problem that names
// all fields of in that can't be read. What they say is for the template to check.
func (in templateRequest) template(name string) (template.Template, error) {
	t := template.New(name)
	var bad fieldErrors
	t.Subject = bad.subject(in.Subject)
	t.SANs = bad.sans(in.SANs)
	set(&t.KeyType, in.KeyType)
	set(&t.KeySize, in.KeySize)
	if in.KeyUsage != nil {
		t.KeyUsage = in.KeyUsage
	}
	if in.ExtKeyUsage != nil {
		t.ExtKeyUsage = in.ExtKeyUsage
	}
	set(&t.Validity, (*template.Span)(in.Validity))
	set(&t.RenewBefore, (*template.RenewBefore)(in.RenewBefore))
	set(&t.ChallengeType, (*template.ChallengeType)(in.ChallengeType))
	t.Challenge = template.Secret(in.Challenge)
	set(&t.Retries, in.Retries)
	if given(in.RetryDelay) {
		t.RetryDelay = bad.seconds("retry_delay", in.RetryDelay)
	}
	t.KeyExtractable, t.AllowAllAppsAccess, t.IncludeRoot = in.KeyExtractable, in.AllowAllAppsAccess, in.IncludeRoot
	t.Roots = bad.roots(in.RootCertificates)
	set(&t.Issuer, (*template.Issuer)(in.Issuer))
	if t.Issuer != template.Builtin {
		t.Upstream.ChallengeType = template.UpstreamNone
	}
	if given(in.Upstream) {
		t.Upstream = bad.upstream(in.Upstream)
	}
	if len(bad) > 0 {
		return template.Template{}, invalids(bad)
	}
	return t, nil
}

// set changes what v is the new value of, if there is one.
func set[T any](to *T, v *T) {
	if v != nil {
		*to = *v
	}
}

// given says whether a field is there, and not null.
func given(raw json.RawMessage) bool {
	return len(raw) > 0 && !bytes.Equal(raw, []byte("null"))
}

// fieldErrors collects what is wrong with the fields of a request.
type fieldErrors []fieldError

func (e *fieldErrors) add(field, detail string) { *e = append(*e, fieldError{field, detail}) }

// subject reads a subject: a string, an array of pairs, or one of arrays of pairs, as in
// Apple's payload.
func (e *fieldErrors) subject(raw json.RawMessage) template.Subject {
	const field = "subject"
	if !given(raw) {
		e.add(field, "is required")
		return nil
	}
	var s template.Subject
	var err error
	var text string
	var pairs [][]string
	var rdns [][][]string
	switch {
	case json.Unmarshal(raw, &text) == nil:
		s, err = template.ParseSubject(text)
	case json.Unmarshal(raw, &pairs) == nil:
		for _, pair := range pairs {
			rdns = append(rdns, [][]string{pair})
		}
		s, err = template.ParseRDNs(rdns)
	case json.Unmarshal(raw, &rdns) == nil:
		s, err = template.ParseRDNs(rdns)
	default:
		err = errors.New(`must be a string such as "/O=Example/CN=$EMAIL", or an array of pairs such as ["CN", "$EMAIL"]`)
	}
	if err != nil {
		e.add(field, err.Error())
	}
	return s
}

// object reads an object into v, a pointer to a struct, as strictly as readJSON does.
func (e *fieldErrors) object(field string, raw json.RawMessage, v any) bool {
	var names map[string]json.RawMessage
	if json.Unmarshal(raw, &names) != nil {
		e.add(field, "must be an object")
		return false
	}
	known := fieldsOf(v)
	for name := range names {
		if !known[name] {
			e.add(clip(field+"."+name), stranger(name, known))
			return false
		}
	}
	if err := json.Unmarshal(raw, v); err != nil {
		var wrongType *json.UnmarshalTypeError
		if !errors.As(err, &wrongType) {
			e.add(field, "must be an object")
			return false
		}
		e.add(field+"."+wrongType.Field, "must be "+inJSON(wrongType.Type))
		return false
	}
	return true
}

func (e *fieldErrors) sans(raw json.RawMessage) template.SANs {
	var in sansRequest
	if !given(raw) || !e.object("sans", raw, &in) {
		return template.SANs{}
	}
	return template.SANs{
		RFC822Names:     e.texts("sans.rfc822Name", in.RFC822Name),
		DNSNames:        e.texts("sans.dNSName", in.DNSName),
		URIs:            e.texts("sans.uniformResourceIdentifier", in.UniformResourceIdentifier),
		NTPrincipalName: in.NTPrincipalName,
	}
}

// texts reads a string or an array of strings.
func (e *fieldErrors) texts(field string, raw json.RawMessage) []string {
	var one string
	var several []string
	switch {
	case !given(raw):
	case json.Unmarshal(raw, &one) == nil:
		return []string{one}
	case json.Unmarshal(raw, &several) != nil:
		e.add(field, "must be a string or an array of strings")
	}
	return several
}

// seconds reads a number of seconds, or a duration such as "10s".
func (e *fieldErrors) seconds(field string, raw json.RawMessage) time.Duration {
	var n int64
	var text string
	switch {
	case json.Unmarshal(raw, &n) == nil && n >= 0 && n <= int64(time.Hour*24*365/time.Second):
		return time.Duration(n) * time.Second
	case json.Unmarshal(raw, &text) == nil:
		if d, err := time.ParseDuration(text); err == nil {
			return d
		}
	}
	e.add(field, `must be a whole number of seconds, or a duration such as "10s"`)
	return 0
}

// roots reads certificates, each in PEM or as DER in base64, alone or in an object as
// answers have it.
func (e *fieldErrors) roots(raw json.RawMessage) [][]byte {
	const field = "root_certificates"
	if !given(raw) {
		return nil
	}
	var items []json.RawMessage
	if json.Unmarshal(raw, &items) != nil {
		e.add(field, "must be an array of certificates")
		return nil
	}
	var roots [][]byte
	for i, item := range items {
		at := fmt.Sprintf("%s[%d]", field, i)
		var text string
		if json.Unmarshal(item, &text) != nil {
			var in rootCertificate
			if !e.object(at, item, &in) {
				continue
			}
			text = in.PEM
		}
		file := []byte(text)
		if der, err := base64.StdEncoding.DecodeString(text); err == nil {
			file = der
		}
		ders, err := template.ParseRoots(file)
		if err != nil {
			e.add(at, err.Error())
		}
		roots = slices.Concat(roots, ders)
	}
	return roots
}

func (e *fieldErrors) upstream(raw json.RawMessage) template.Upstream {
	var in upstreamRequest
	if !e.object("upstream", raw, &in) {
		return template.Upstream{}
	}
	u := template.Upstream{
		URL: in.URL, Name: in.Name, AllowPrivate: in.AllowPrivate, ChallengeType: template.UpstreamNone, Challenge: template.Secret(in.Challenge),
		ChallengeURL: in.ChallengeURL, Username: in.Username, Password: template.Secret(in.Password),
	}
	set(&u.ChallengeType, (*template.UpstreamChallenge)(in.ChallengeType))
	if in.Fingerprint != "" {
		var err error
		if u.Fingerprint, err = template.ParseFingerprint(in.Fingerprint); err != nil {
			e.add("upstream.fingerprint", err.Error())
		}
	}
	return u
}

// invalids is the problem of a request with wrong fields; there is at least one.
func invalids(bad []fieldError) *problem {
	p := invalid(bad[0].Field, bad[0].Detail)
	p.Errors = bad
	details := make([]string, len(bad))
	for i, e := range bad {
		details[i] = e.Field + " " + e.Detail + "."
	}
	p.Detail = strings.Join(details, " ")
	return p
}
