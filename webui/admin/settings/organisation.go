package settings

import (
	"bytes"
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
)

const organisationPath = section + "/organisation"

type organisationPage struct {
	admin.Page
	Form    *admin.Form
	Logo    *admin.Form // what is wrong with a picture
	LogoURL string
	Name    string
	MayEdit bool
}

var organisationFields = map[string]kind{
	"organisation.name": isText, "organisation.support_email": isText, "organisation.support_phone": isText, "organisation.support_url": isText,
}

func (s *Settings) organisation(w http.ResponseWriter, r *http.Request) error {
	return s.writeOrganisation(w, r, http.StatusOK, nil, nil)
}

// writeOrganisation shows the page with what was typed, or with what is in force.
func (s *Settings) writeOrganisation(w http.ResponseWriter, r *http.Request, status int, form, logo *admin.Form) error {
	d, err := s.decided(r)
	if err != nil {
		return err
	}
	o := d.Organisation
	if form == nil {
		form = admin.NewForm("organisation.name", o.Name, "organisation.support_email", o.SupportEmail,
			"organisation.support_phone", o.SupportPhone, "organisation.support_url", o.SupportURL)
	}
	if logo == nil {
		logo = admin.NewForm()
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "organisation.html", &organisationPage{
		Page: admin.Page{Title: "Organisation", Section: section, Crumbs: crumbs()},
		Form: form, Logo: logo, LogoURL: o.LogoURL, Name: o.Name, MayEdit: s.desk.May(r.Context(), "PATCH /api/v1/settings"),
	})
}

func (s *Settings) setOrganisation(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	err = s.desk.Send(r.Context(), http.MethodPatch, "/api/v1/settings", patch(f, organisationFields), nil)
	if err == nil {
		return admin.Redirect(w, r, organisationPath, "saved")
	}
	if !f.Refused(err) {
		return err
	}
	return s.writeOrganisation(w, r, http.StatusUnprocessableEntity, f, nil)
}

func (s *Settings) setLogo(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	content, _, err := f.File("logo")
	if err != nil {
		return err
	}
	if len(content) == 0 {
		f.Fail("logo", "Choose a file first.")
		return s.writeOrganisation(w, r, http.StatusUnprocessableEntity, nil, f)
	}
	_, err = s.desk.Do(r.Context(), http.MethodPut, "/api/v1/settings/logo", "application/octet-stream", bytes.NewReader(content), nil)
	if err == nil {
		return admin.Redirect(w, r, organisationPath, "uploaded")
	}
	if !f.Refused(err) {
		return err
	}
	if f.Error != "" {
		f.Fail("logo", "%s", f.Error)
		f.Error = ""
	}
	return s.writeOrganisation(w, r, http.StatusUnprocessableEntity, nil, f)
}

func (s *Settings) removeLogo(w http.ResponseWriter, r *http.Request) error {
	if err := s.desk.Send(r.Context(), http.MethodDelete, "/api/v1/settings/logo", nil, nil); err != nil {
		return err
	}
	return admin.Redirect(w, r, organisationPath, "removed")
}
