package settings

import (
	"errors"
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
)

type newRequestPage struct {
	admin.Page
	Form   *admin.Form
	Renews *pushTopic // nil: a new one
	Others []pushTopic
	Vendor bool // there is a vendor certificate
}

// Routes are the ways to have a request signed.
func (p *newRequestPage) Routes() []admin.Option {
	vendor := admin.Option{Value: "vendor", Label: "By my vendor certificate", Hint: "This server signs with the MDM vendor certificate of your developer account"}
	if !p.Vendor {
		vendor.Disabled, vendor.Hint = true, "Needs an MDM vendor certificate of an Apple developer account, which this server does not have yet"
	}
	return []admin.Option{
		{Value: "mdmcert", Label: "By mdmcert.download", Hint: "Free, for anybody with a work address. It mails you the file for Apple"},
		{Value: "csr", Label: "By another MDM vendor", Hint: "You download the request (CSR), and somebody with a vendor certificate signs it for you"},
		vendor,
	}
}

// newRequest is step 1: who signs the request.
func (s *Settings) newRequest(w http.ResponseWriter, r *http.Request) error {
	return s.writeNewRequest(w, r, http.StatusOK, r.URL.Query().Get("renews"), nil)
}

func (s *Settings) writeNewRequest(w http.ResponseWriter, r *http.Request, status int, renews string, f *admin.Form) error {
	o, err := s.topics(r)
	if err != nil {
		return err
	}
	page := &newRequestPage{Page: admin.Page{Title: "New push certificate", Section: section, Crumbs: crumbs(link("Push certificates", pushPath))}, Form: f}
	if renews != "" {
		if page.Renews = o.find(renews); page.Renews == nil {
			return &webui.Problem{Status: http.StatusNotFound, Code: "not_found", Title: "There is no such push certificate", Detail: "It was deleted meanwhile."}
		}
		page.Title = "Renew a push certificate"
	} else {
		page.Others = o.served("")
	}
	err = s.desk.Get(r.Context(), "/api/v1/push-vendor-certificate", nil, &struct{}{})
	var missing *admin.Problem
	if page.Vendor = err == nil; err != nil && (!errors.As(err, &missing) || missing.Status != http.StatusNotFound) {
		return err
	}
	if page.Form == nil {
		d, err := s.decided(r)
		if err != nil {
			return err
		}
		page.Form = admin.NewForm("kind", "mdmcert", "organization", d.Organisation.Name)
		if page.Vendor {
			page.Form.Values.Set("kind", "vendor")
		}
		if page.Renews != nil {
			page.Form.Values.Set("apple_account", page.Renews.AppleAccount)
		}
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "push-new.html", page)
}

func (s *Settings) makeRequest(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	in := map[string]any{"kind": f.Get("kind")}
	for _, name := range []string{"apple_account", "renews", "organization", "country"} {
		if v := f.Get(name); v != "" {
			in[name] = v
		}
	}
	if f.Get("kind") == "mdmcert" { // the fields of other kinds may be filled in all the same
		in["email"], in["api_key"] = f.Get("email"), f.Values.Get("api_key")
	}
	var made pushRequest
	err = s.desk.Send(r.Context(), http.MethodPost, "/api/v1/push-certificate-requests", in, &made)
	if err == nil {
		return admin.Redirect(w, r, made.URL(), "")
	}
	if !refusedUpstream(f, err) && !f.Refused(err) {
		return err
	}
	return s.writeNewRequest(w, r, http.StatusUnprocessableEntity, f.Get("renews"), f)
}

// refusedUpstream says at the form that somebody else’s server failed.
func refusedUpstream(f *admin.Form, err error) bool {
	var p *admin.Problem
	if !errors.As(err, &p) || p.Status != http.StatusBadGateway {
		return false
	}
	f.Error = p.Title + ". " + p.Detail
	return true
}
