package settings

import (
	"bytes"
	"cmp"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// pushRequest is a request for a certificate.
type pushRequest struct {
	ID           string     `json:"id"`
	Kind         string     `json:"kind"`
	State        string     `json:"state"`
	AppleAccount string     `json:"apple_account"`
	Renews       string     `json:"renews"`
	CommonName   string     `json:"common_name"`
	Email        string     `json:"email"`
	HasFile      bool       `json:"has_file"`
	Topic        string     `json:"topic"`
	CreatedAt    time.Time  `json:"created_at"`
	FulfilledAt  *time.Time `json:"fulfilled_at"`
}

// URL is the request's page.
func (q pushRequest) URL() string { return escaped(requestsPath+"/%s", q.ID) }

// Name says what it is for.
func (q pushRequest) Name() string {
	if q.Renews != "" {
		return "Renewal"
	}
	return "New certificate"
}

// Stands is its state for people.
func (q pushRequest) Stands() view.State {
	switch q.State {
	case "open":
		return view.State{Text: "To be signed by a vendor", Tone: view.Waiting}
	case "mailed":
		return view.State{Text: "Waits for a mail", Tone: view.Waiting}
	case "signed":
		return view.State{Text: "Ready for Apple", Tone: view.Waiting}
	}
	return view.State{Text: "Done", Tone: view.Good}
}

type requestPage struct {
	admin.Page
	Request pushRequest
	Renews  *pushTopic // what it renews, as it is now
	Form    *admin.Form
	Mail    *admin.Form
	Step    int
}

// Account is who is to sign in at Apple.
func (p *requestPage) Account() string {
	return cmp.Or(p.Request.AppleAccount, "the Apple Account that the certificate was made with")
}

func (s *Settings) request(w http.ResponseWriter, r *http.Request) error {
	return s.writeRequest(w, r, http.StatusOK, nil, nil)
}

// writeRequest shows what is to be done with a request: steps 2 and 3.
func (s *Settings) writeRequest(w http.ResponseWriter, r *http.Request, status int, form, mail *admin.Form) error {
	page := &requestPage{Form: form, Mail: mail, Step: 2}
	if err := s.desk.Get(r.Context(), escaped("/api/v1/push-certificate-requests/%s", r.PathValue("id")), nil, &page.Request); err != nil {
		return err
	}
	if page.Form == nil {
		page.Form = admin.NewForm("apple_account", page.Request.AppleAccount)
	}
	if page.Mail == nil {
		page.Mail = admin.NewForm()
	}
	if page.Request.Renews != "" {
		o, err := s.topics(r)
		if err != nil {
			return err
		}
		page.Renews = o.find(page.Request.Renews)
	}
	page.Page = admin.Page{Title: page.Request.Name(), Section: section, Crumbs: crumbs(link("Push certificates", pushPath))}
	return s.desk.WriteStatus(w, r, status, s.pages, "push-request.html", page)
}

func (s *Settings) downloadRequest(what string) webui.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		return s.desk.Forward(w, r, escaped("/api/v1/push-certificate-requests/%s/", r.PathValue("id"))+what, nil)
	}
}

// askDeleteRequest asks before the key is gone for which Apple may have made a certificate.
func (s *Settings) askDeleteRequest(w http.ResponseWriter, r *http.Request) error {
	var q pushRequest
	if err := s.desk.Get(r.Context(), escaped("/api/v1/push-certificate-requests/%s", r.PathValue("id")), nil, &q); err != nil {
		return err
	}
	return s.desk.Confirm(w, r, &admin.Confirm{
		Page:    admin.Page{Section: section, Crumbs: crumbs(link("Push certificates", pushPath), link(q.Name(), q.URL()))},
		Heading: "Give up this request",
		Text:    []string{"Its key is deleted. If Apple has made a certificate of the request already, that can’t be used any more. Push certificates that are here stay as they are."},
		Button:  "Give up", Danger: true, Action: q.URL() + "/delete", Back: q.URL(),
	})
}

func (s *Settings) deleteRequest(w http.ResponseWriter, r *http.Request) error {
	if err := s.desk.Send(r.Context(), http.MethodDelete, escaped("/api/v1/push-certificate-requests/%s", r.PathValue("id")), nil, nil); err != nil {
		return err
	}
	return admin.Redirect(w, r, pushPath, "deleted")
}

// openMail takes what mdmcert.download mailed.
func (s *Settings) openMail(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	content, _, err := f.File("mailed")
	if err != nil {
		return err
	}
	if len(content) == 0 {
		f.Fail("mailed", "Choose the attachment of the mail first.")
		return s.writeRequest(w, r, http.StatusUnprocessableEntity, nil, f)
	}
	path := escaped("/api/v1/push-certificate-requests/%s/mdmcert", r.PathValue("id"))
	_, err = s.desk.Do(r.Context(), http.MethodPost, path, "application/octet-stream", bytes.NewReader(content), nil)
	if err == nil {
		return admin.Redirect(w, r, escaped(requestsPath+"/%s", r.PathValue("id")), "")
	}
	if !atFile(f, err, "mailed") {
		return err
	}
	return s.writeRequest(w, r, http.StatusUnprocessableEntity, nil, f)
}

// answerRequest is step 3: what Apple made of the request.
func (s *Settings) answerRequest(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	made, err := s.keep(r, f)
	switch {
	case err == nil && made != nil:
		return admin.Redirect(w, r, made.URL()+"/activate", "")
	case err != nil:
		return err
	}
	return s.writeRequest(w, r, http.StatusUnprocessableEntity, f, nil)
}
