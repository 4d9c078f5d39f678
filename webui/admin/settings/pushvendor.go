package settings

import (
	"errors"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

type vendorPage struct {
	admin.Page
	Facts     []admin.Fact // none: there is no vendor certificate
	Warnings  []string
	Form      *admin.Form
	MayChange bool
}

func (s *Settings) vendor(w http.ResponseWriter, r *http.Request) error {
	return s.writeVendor(w, r, http.StatusOK, admin.NewForm())
}

func (s *Settings) writeVendor(w http.ResponseWriter, r *http.Request, status int, f *admin.Form) error {
	var v struct {
		Subject  string    `json:"subject"`
		Serial   string    `json:"serial"`
		NotAfter time.Time `json:"not_after"`
		SHA256   string    `json:"sha256"`
		Warnings []string  `json:"warnings"`
	}
	page := &vendorPage{
		Page: admin.Page{Title: "MDM vendor certificate", Section: section, Crumbs: crumbs(link("Push certificates", pushPath))},
		Form: f, MayChange: s.desk.May(r.Context(), "PUT /api/v1/push-vendor-certificate"),
	}
	err := s.desk.Get(r.Context(), "/api/v1/push-vendor-certificate", nil, &v)
	var missing *admin.Problem
	switch {
	case err == nil:
		until := view.Moment{At: v.NotAfter, Now: s.desk.Now()}
		page.Facts = []admin.Fact{
			{Label: "Subject", Value: v.Subject}, {Label: "Ends", Moment: &until}, {Label: "Serial number", Value: v.Serial, Mono: true}, {Label: "SHA-256", Value: pairs(v.SHA256), Mono: true},
		}
		page.Warnings = v.Warnings
	case !errors.As(err, &missing) || missing.Status != http.StatusNotFound:
		return err
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "push-vendor.html", page)
}

func (s *Settings) putVendor(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	content, _, err := f.File("file")
	if err != nil {
		return err
	}
	key, _, err := f.File("key")
	if err != nil {
		return err
	}
	if len(content) == 0 {
		f.Fail("file", "Choose the vendor certificate first.")
		return s.writeVendor(w, r, http.StatusUnprocessableEntity, f)
	}
	in := map[string]any{"file": content, "password": f.Values.Get("password")}
	if len(key) > 0 {
		in["key"] = key
	}
	err = s.desk.Send(r.Context(), http.MethodPut, "/api/v1/push-vendor-certificate", in, nil)
	if err == nil {
		return admin.Redirect(w, r, vendorPath, "uploaded")
	}
	if !atFile(f, err, "file") {
		return err
	}
	return s.writeVendor(w, r, http.StatusUnprocessableEntity, f)
}

func (s *Settings) deleteVendor(w http.ResponseWriter, r *http.Request) error {
	if err := s.desk.Send(r.Context(), http.MethodDelete, "/api/v1/push-vendor-certificate", nil, nil); err != nil {
		return err
	}
	return admin.Redirect(w, r, vendorPath, "deleted")
}
