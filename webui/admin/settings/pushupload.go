package settings

import (
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
)

// keep has the certificate of a form wait to be activated; what serves, serves until then.
// Without an error and a topic, the form says what is wrong.
func (s *Settings) keep(r *http.Request, f *admin.Form) (*pushTopic, error) {
	content, _, err := f.File("file")
	if err != nil {
		return nil, err
	}
	key, _, err := f.File("key")
	if err != nil {
		return nil, err
	}
	if len(content) == 0 {
		f.Fail("file", "Choose the file that Apple gave you first.")
		return nil, nil
	}
	in := map[string]any{"file": content, "activate": false, "apple_account": f.Get("apple_account")}
	if len(key) > 0 {
		in["key"] = key
	}
	if password := f.Values.Get("password"); password != "" {
		in["password"] = password
	}
	made := &pushTopic{}
	err = s.desk.Send(r.Context(), http.MethodPost, "/api/v1/push-certificates/import", in, made)
	if err == nil {
		return made, nil
	}
	if !atFile(f, err, "file") {
		return nil, err
	}
	return nil, nil
}

// atFile says at the field of a file what the API has against it.
func atFile(f *admin.Form, err error, field string) bool {
	if !f.Refused(err) {
		return false
	}
	if f.Error != "" && len(f.Errors) == 0 {
		f.Fail(field, "%s", f.Error)
		f.Error = ""
	}
	return true
}

type havePage struct {
	admin.Page
	Form *admin.Form
}

// have is for who has a certificate with its key already.
func (s *Settings) have(w http.ResponseWriter, r *http.Request) error {
	return s.writeHave(w, r, http.StatusOK, admin.NewForm())
}

func (s *Settings) writeHave(w http.ResponseWriter, r *http.Request, status int, f *admin.Form) error {
	return s.desk.WriteStatus(w, r, status, s.pages, "push-have.html", &havePage{
		Page: admin.Page{Title: "Upload a push certificate", Section: section, Crumbs: crumbs(link("Push certificates", pushPath))}, Form: f,
	})
}

func (s *Settings) takeCertificate(w http.ResponseWriter, r *http.Request) error {
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
	return s.writeHave(w, r, http.StatusUnprocessableEntity, f)
}
