package apiv1

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// pushCertificateJSON is one topic and its certificate.
type pushCertificateJSON struct {
	Topic string `json:"topic"`
	heldCertificateJSON
	State        string               `json:"state"` // active, expired or ready
	Ready        *heldCertificateJSON `json:"ready"` // null: none waits to be activated
	AppleAccount string               `json:"apple_account"`
	IsDefault    bool                 `json:"is_default"`
	Devices      int                  `json:"devices"`
	Warnings     []string             `json:"warnings"`
}

// heldCertificateJSON is a certificate that is here.
type heldCertificateJSON struct {
	NotBefore  time.Time `json:"not_before"`
	NotAfter   time.Time `json:"not_after"`
	DaysLeft   int       `json:"days_left"`
	Serial     string    `json:"serial"`
	Issuer     string    `json:"issuer"`
	SHA256     string    `json:"sha256"`
	UploadedAt time.Time `json:"uploaded_at"`
}

func (a *API) heldCertificate(h apns.Held) heldCertificateJSON {
	return heldCertificateJSON{
		NotBefore: h.NotBefore.UTC(), NotAfter: h.NotAfter.UTC(), DaysLeft: h.DaysLeft(a.now()), Serial: string(depot.SerialOf(h.Certificate)),
		Issuer: h.Issuer.String(), SHA256: h.SHA256, UploadedAt: h.PutAt.UTC(),
	}
}

func (a *API) pushCertificate(s apns.Standing) pushCertificateJSON {
	out := pushCertificateJSON{
		Topic: s.Topic, State: "ready", AppleAccount: s.AppleAccount, IsDefault: s.Default, Devices: s.Devices, Warnings: list(s.Warnings),
	}
	if s.Ready != nil {
		ready := a.heldCertificate(*s.Ready)
		out.Ready, out.heldCertificateJSON = &ready, ready
	}
	if s.Active != nil {
		out.heldCertificateJSON, out.State = a.heldCertificate(*s.Active), "active"
		if !a.now().Before(s.Active.NotAfter) {
			out.State = "expired"
		}
	}
	return out
}

// lostTopicJSON is a topic that devices are woken by and that has no certificate.
type lostTopicJSON struct {
	Topic   string `json:"topic"`
	Devices int    `json:"devices"`
	Detail  string `json:"detail"`
}

// ofPush returns the problem that err stands for.
func ofPush(err error) error {
	var mistake *apns.Mistake
	var field *apns.FieldError
	var inUse *apns.InUseError
	var mdmcert *apns.MdmcertError
	conflict := func(code, title, detail string) error {
		return &problem{Problem: webui.Problem{Status: http.StatusConflict, Code: code, Title: title, Detail: detail}}
	}
	switch {
	case errors.As(err, &mistake):
		if mistake.Kind == apns.NoVendor || mistake.Kind == apns.VendorExpired {
			return conflict("push_"+string(mistake.Kind), "The request can’t be signed here", mistake.Reason+" "+mistake.Next)
		}
		return &problem{Problem: webui.Problem{
			Status: http.StatusBadRequest, Code: "push_certificate_" + string(mistake.Kind), Title: "The file is not what is needed here", Detail: mistake.Reason + " " + mistake.Next,
		}}
	case errors.As(err, &field):
		return invalid(field.Field, field.Reason)
	case errors.As(err, &inUse):
		return conflict("push_certificate_in_use", "Devices are woken by the certificate", inUse.Error()+". ?force=true deletes it all the same.")
	case errors.Is(err, apns.ErrNothingReady):
		return conflict("push_certificate_not_ready", "No certificate of the topic waits to be activated", "Upload it first, with ?activate=false; without that, an upload is active at once.")
	case errors.Is(err, apns.ErrTooManyRequests):
		return conflict("push_request_too_many", "There are too many requests", "Delete those that nobody needs.")
	case errors.As(err, &mdmcert) && mdmcert.Reason != "":
		return conflict("mdmcert_refused", "mdmcert.download refuses the request",
			fmt.Sprintf("mdmcert.download refuses the request: %s. Nothing was kept.", strings.TrimRight(mdmcert.Reason, ". ")))
	case errors.As(err, &mdmcert):
		return &problem{Problem: webui.Problem{
			Status: http.StatusBadGateway, Code: "mdmcert_unreachable", Title: "mdmcert.download can’t be reached, or did not answer as it should",
			Detail: "Nothing was kept. Try again later, or have somebody else sign a request of the kind csr.",
		}}
	}
	return err
}

func (a *API) listPushCertificates(w http.ResponseWriter, r *http.Request) error {
	o, err := a.push.Overview(r.Context())
	if err != nil {
		return err
	}
	lost := make([]lostTopicJSON, 0, len(o.Lost))
	for _, topic := range slices.Sorted(maps.Keys(o.Lost)) {
		lost = append(lost, lostTopicJSON{topic, o.Lost[topic], apns.LostSentence(topic, o.Lost[topic])})
	}
	return webui.WriteJSON(w, http.StatusOK, struct {
		page[pushCertificateJSON]
		Lost []lostTopicJSON `json:"lost"`
	}{newPage(o.Topics, "", a.pushCertificate), lost})
}

// putPushCertificate takes certificate and key as they are.
func (a *API) putPushCertificate(w http.ResponseWriter, r *http.Request) error {
	if err := onlyParameters(r.URL.Query(), "activate", "apple_account"); err != nil {
		return err
	}
	in := apns.Upload{}
	switch text, err := textOf(r.URL.Query(), "activate"); {
	case err != nil:
		return err
	case text == "false":
		in.Wait = true
	case text != "" && text != "true":
		return invalid("activate", "must be true or false")
	}
	var err error
	if in.AppleAccount, err = textOf(r.URL.Query(), "apple_account"); err != nil {
		return err
	}
	if in.Data, err = io.ReadAll(r.Body); err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	return a.keepPushCertificate(w, r, in)
}

func (a *API) keepPushCertificate(w http.ResponseWriter, r *http.Request, in apns.Upload) error {
	s, err := a.push.Upload(r.Context(), in)
	if err != nil {
		return ofPush(err)
	}
	return webui.WriteJSON(w, http.StatusOK, a.pushCertificate(s))
}

// certificateFile is a file with a certificate, and what it takes to read it.
type certificateFile struct {
	File     []byte `json:"file"` // base64
	Key      []byte `json:"key"`  // base64; empty: it is in the file, or was made here
	Password string `json:"password"`
}

func (f certificateFile) file() apns.File {
	return apns.File{Data: f.File, Key: f.Key, Password: f.Password}
}

type pushImport struct {
	certificateFile
	AppleAccount string `json:"apple_account"`
	Activate     *bool  `json:"activate"` // null: true
}

// importPushCertificate takes a certificate whose key is elsewhere or encrypted.
func (a *API) importPushCertificate(w http.ResponseWriter, r *http.Request) error {
	var in pushImport
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	return a.keepPushCertificate(w, r, apns.Upload{File: in.file(), AppleAccount: in.AppleAccount, Wait: in.Activate != nil && !*in.Activate})
}

func (a *API) changePushCertificate(w http.ResponseWriter, r *http.Request) error {
	topic, err := pathID(r, "topic")
	if err != nil {
		return err
	}
	var in struct {
		Default      *bool   `json:"default"`
		AppleAccount *string `json:"apple_account"`
	}
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	s, err := a.push.Change(r.Context(), topic, apns.TopicChange{Default: in.Default, AppleAccount: in.AppleAccount})
	if err != nil {
		return ofPush(err)
	}
	return webui.WriteJSON(w, http.StatusOK, a.pushCertificate(s))
}

func (a *API) activatePushCertificate(w http.ResponseWriter, r *http.Request) error {
	topic, err := pathID(r, "topic")
	if err != nil {
		return err
	}
	s, err := a.push.Activate(r.Context(), topic)
	if err != nil {
		return ofPush(err)
	}
	return webui.WriteJSON(w, http.StatusOK, a.pushCertificate(s))
}

func (a *API) deletePushCertificate(w http.ResponseWriter, r *http.Request) error {
	topic, err := pathID(r, "topic")
	if err != nil {
		return err
	}
	force, err := yesOf(r, "force")
	if err != nil {
		return err
	}
	if err := a.push.Delete(r.Context(), topic, force); err != nil {
		return ofPush(err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

type pushRequestJSON struct {
	ID           string     `json:"id"`
	Kind         apns.Way   `json:"kind"`
	State        string     `json:"state"`
	AppleAccount string     `json:"apple_account"`
	Renews       string     `json:"renews"` // topic; empty: a new one
	CommonName   string     `json:"common_name"`
	Organization string     `json:"organization"`
	Country      string     `json:"country"`
	Email        string     `json:"email"`
	CSR          string     `json:"csr"` // PEM
	HasFile      bool       `json:"has_file"`
	Topic        string     `json:"topic"` // of the certificate that was made of it
	CreatedAt    time.Time  `json:"created_at"`
	FulfilledAt  *time.Time `json:"fulfilled_at"`
	Next         string     `json:"next"` // what to do with it now
}

func pushCertificateRequest(r apns.Request) pushRequestJSON {
	return pushRequestJSON{
		ID: r.ID, Kind: r.Way, State: string(r.State), AppleAccount: r.AppleAccount, Renews: r.Renews, CommonName: r.CommonName, Organization: r.Organization,
		Country: r.Country, Email: r.Email, CSR: string(r.PEM()), HasFile: len(r.File) > 0, Topic: r.Topic, CreatedAt: r.CreatedAt.UTC(),
		FulfilledAt: timestamp(r.FulfilledAt), Next: nextOf(r),
	}
}

// nextOf says what is to be done with a request.
func nextOf(r apns.Request) string {
	atApple := "Upload the file at identity.apple.com/pushcert as a new certificate (Create), note the Apple Account, and upload here what Apple gives you."
	if r.Renews != "" {
		atApple = fmt.Sprintf("Sign in at identity.apple.com/pushcert as %s, press Renew at the certificate, upload the file, and upload here what Apple gives you.",
			cmp.Or(r.AppleAccount, "the Apple Account that the certificate was made with"))
	}
	switch r.State {
	case apns.Open:
		return "Have the CSR signed by an MDM vendor: it makes the file that Apple takes. " + atApple
	case apns.Mailed:
		return "Wait for the mail to " + r.Email + ", and hand its attachment to this request as it is."
	case apns.Signed:
		return atApple
	}
	return "Nothing: the certificate is here."
}

func (a *API) createPushRequest(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Kind         apns.Way `json:"kind"`
		AppleAccount string   `json:"apple_account"`
		Renews       string   `json:"renews"`
		CommonName   string   `json:"common_name"`
		Organization string   `json:"organization"`
		Country      string   `json:"country"`
		Email        string   `json:"email"`
		APIKey       string   `json:"api_key"`
	}
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	made, err := a.push.Request(r.Context(), apns.NewRequest{
		Way: in.Kind, AppleAccount: in.AppleAccount, Renews: in.Renews, CommonName: in.CommonName, Organization: in.Organization,
		Country: in.Country, Email: in.Email, APIKey: in.APIKey,
	})
	if err != nil {
		return ofPush(err)
	}
	w.Header().Set("Location", "/api/v1/push-certificate-requests/"+made.ID)
	return webui.WriteJSON(w, http.StatusCreated, pushCertificateRequest(made))
}

func (a *API) listPushRequests(w http.ResponseWriter, r *http.Request) error {
	all, err := a.push.Requests(r.Context())
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(all, "", pushCertificateRequest))
}

// pushRequestOf returns the request that the path names.
func (a *API) pushRequestOf(r *http.Request) (apns.Request, error) {
	id, err := pathID(r, "id")
	if err != nil {
		return apns.Request{}, err
	}
	return a.push.RequestByID(r.Context(), id)
}

func (a *API) getPushRequest(w http.ResponseWriter, r *http.Request) error {
	got, err := a.pushRequestOf(r)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, pushCertificateRequest(got))
}

func (a *API) downloadPushRequest(w http.ResponseWriter, r *http.Request) error {
	got, err := a.pushRequestOf(r)
	if err != nil {
		return err
	}
	webui.SendFile(w, "application/x-pem-file", "gatehouse-push.csr", got.PEM())
	return nil
}

// downloadPushRequestFile sends what Apple's portal takes.
func (a *API) downloadPushRequestFile(w http.ResponseWriter, r *http.Request) error {
	got, err := a.pushRequestOf(r)
	if err != nil {
		return err
	}
	if len(got.File) == 0 {
		return &problem{Problem: webui.Problem{Status: http.StatusConflict, Code: "push_request_not_signed", Title: "The request is not signed by a vendor yet", Detail: nextOf(got)}}
	}
	webui.SendFile(w, "application/octet-stream", "gatehouse-push.plist.b64", got.File)
	return nil
}

// openPushMail takes what mdmcert.download mailed.
func (a *API) openPushMail(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	mailed, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	got, err := a.push.OpenMail(r.Context(), id, mailed)
	if err != nil {
		return ofPush(err)
	}
	return webui.WriteJSON(w, http.StatusOK, pushCertificateRequest(got))
}

func (a *API) deletePushRequest(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if err := a.push.DeleteRequest(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

type pushVendorJSON struct {
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	SHA256    string    `json:"sha256"`
	Chain     []string  `json:"chain"` // subjects: the vendor's, and those above it
	StoredAt  time.Time `json:"stored_at"`
	Warnings  []string  `json:"warnings"`
}

func pushVendor(v apns.Vendor) pushVendorJSON {
	c := v.Chain[0]
	out := pushVendorJSON{
		Subject: c.Subject.String(), Issuer: c.Issuer.String(), Serial: string(depot.SerialOf(c)), NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(),
		SHA256: v.SHA256(), Chain: make([]string, len(v.Chain)), StoredAt: v.PutAt.UTC(), Warnings: list(v.Warnings),
	}
	for i, c := range v.Chain {
		out.Chain[i] = c.Subject.String()
	}
	return out
}

func (a *API) getPushVendor(w http.ResponseWriter, r *http.Request) error {
	v, err := a.push.Vendor(r.Context())
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, pushVendor(v))
}

func (a *API) putPushVendor(w http.ResponseWriter, r *http.Request) error {
	var in certificateFile
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	v, err := a.push.PutVendor(r.Context(), in.file())
	if err != nil {
		return ofPush(err)
	}
	return webui.WriteJSON(w, http.StatusOK, pushVendor(v))
}

func (a *API) deletePushVendor(w http.ResponseWriter, r *http.Request) error {
	if err := a.push.DeleteVendor(r.Context()); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
