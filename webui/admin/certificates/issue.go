package certificates

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/admin/targets"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// issuePage makes a certificate by hand.
type issuePage struct {
	admin.Page
	Form      *admin.Form
	Templates []admin.Option
	Who       []admin.Option
	Formats   []admin.Option
	Preview   []admin.Fact // what it would be like; empty: not asked for
}

// Whom a certificate is for, as the form says it.
const (
	forUser   = "user"
	forDevice = "device"
	forOther  = "other"
)

// In what form a certificate is given away, as the form says it.
const (
	asPKCS12 = "pkcs12"
	asPEM    = "pem"
	forCSR   = "csr" // there is no key to give away
)

func (s *Certificates) askIssue(w http.ResponseWriter, r *http.Request) error {
	in := r.URL.Query()
	form := admin.NewForm("template", in.Get("template"), "who", forUser, "format", forCSR, "device", in.Get("device_id"))
	if in.Get("device_id") != "" {
		form.Values.Set("who", forDevice)
	}
	return s.showIssue(w, r, form, nil)
}

func (s *Certificates) showIssue(w http.ResponseWriter, r *http.Request, form *admin.Form, preview []admin.Fact) error {
	page := &issuePage{
		Page: admin.Page{Title: "Issue a certificate", Section: section, Crumbs: []view.Link{crumb}}, Form: form, Preview: preview,
		Who: []admin.Option{
			{Value: forUser, Label: "A person", Hint: "The template names them."},
			{Value: forDevice, Label: "A device", Hint: "The template names it."},
			{Value: forOther, Label: "Something else", Hint: "A server, a printer: its names are below, or else in the request, as far as the template leaves them open."},
		},
		Formats: []admin.Option{
			{Value: forCSR, Label: "It stays where it is", Hint: "There is a certificate signing request (CSR), made with the key."},
			{Value: asPKCS12, Label: "Made here, as a PKCS #12 file", Hint: "For people: .p12, encrypted with a password. The key is in the file, and nowhere else."},
			{Value: asPEM, Label: "Made here, as a PEM file", Hint: "For servers. The key is in the file as it is, and nowhere else."},
		},
	}
	var all admin.List[certTemplate]
	if err := s.desk.Get(r.Context(), templateAPI, url.Values{"limit": {"200"}}, &all); err != nil {
		return err
	}
	page.Templates = admin.Options("", "Choose one")
	for _, t := range all.Items {
		if t.Issuer == "builtin" { // others issue for themselves
			page.Templates = append(page.Templates, admin.Option{Value: t.Name, Label: t.Name})
		}
	}
	status := http.StatusOK
	if !form.OK() {
		status = http.StatusUnprocessableEntity
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "issue.html", page)
}

// order is what a form asks for, as the API takes it. What is wrong is noted at the form.
func (s *Certificates) order(r *http.Request, form *admin.Form) (map[string]any, error) {
	in := map[string]any{"template": form.Get("template")}
	if form.Get("template") == "" {
		form.Fail("template", "is required")
	}
	switch form.Get("who") {
	case forUser:
		in["user"] = form.Get("user")
		if form.Get("user") == "" {
			form.Fail("user", "is required: a username or an e-mail address")
		}
	case forDevice:
		id, err := s.deviceNamed(r, form)
		if err != nil {
			return nil, err
		}
		in["device_id"] = id
	default:
		if text := form.Get("subject"); text != "" {
			in["subject"] = text
		}
		names := map[string]any{}
		for _, kind := range []string{"rfc822Name", "dNSName", "uniformResourceIdentifier"} {
			if lines := form.Lines("sans." + kind); len(lines) > 0 {
				names[kind] = lines
			}
		}
		if len(names) > 0 {
			in["sans"] = names
		}
	}
	switch form.Get("format") {
	case asPKCS12:
		in["format"], in["password"] = asPKCS12, form.Values.Get("password")
	case asPEM:
		in["format"] = asPEM
	default:
		csr, _, err := form.File("file")
		if err != nil {
			return nil, err
		}
		text := form.Get("csr")
		if len(csr) > 0 {
			if text = string(csr); !strings.Contains(text, "-----BEGIN") && strings.ContainsFunc(text, func(c rune) bool { return c > unicode.MaxASCII }) {
				text = base64.StdEncoding.EncodeToString(csr) // DER
			}
			form.Values.Set("csr", text) // a file can't be put back into a form
		}
		if in["csr"] = text; text == "" {
			form.Fail("csr", "is required: paste the request, or choose its file")
		}
	}
	return in, nil
}

// deviceNamed returns the ID of the enrolled device that the form names, by its ID or
// however the list of devices finds it.
func (s *Certificates) deviceNamed(r *http.Request, form *admin.Form) (string, error) {
	text := form.Get("device")
	if text == "" {
		form.Fail("device", "is required: a name, serial number or ID")
		return "", nil
	}
	var found admin.List[targets.Device]
	if err := s.desk.Get(r.Context(), "/api/v1/devices", url.Values{"state": {"enrolled"}, "limit": {"2"}, "q": {text}}, &found); err != nil {
		return "", err
	}
	switch len(found.Items) {
	case 0:
		form.Fail("device", "names no device that is enrolled")
		return "", nil
	case 1:
		return found.Items[0].ID, nil
	}
	form.Fail("device", "names more than one device: give its serial number")
	return "", nil
}

// previewIssue is what the API says of a certificate that it would make.
type previewIssue struct {
	Subject     string    `json:"subject"`
	SANs        sans      `json:"sans"`
	KeyUsage    []string  `json:"key_usage"`
	ExtKeyUsage []string  `json:"ext_key_usage"`
	NotAfter    time.Time `json:"not_after"`
}

func (s *Certificates) issue(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	in, err := s.order(r, form)
	if err != nil {
		return err
	}
	preview := form.Get("step") != "issue"
	if !preview && form.Get("format") == asPKCS12 && form.Values.Get("password") == "" {
		form.Fail("password", "is required: what the file is encrypted with")
	}
	if !form.OK() {
		return s.showIssue(w, r, form, nil)
	}
	if preview {
		if in["password"] == "" {
			delete(in, "password")
		}
		var got previewIssue
		if err := s.desk.Send(r.Context(), http.MethodPost, api+"?preview=true", in, &got); err != nil {
			return s.notIssued(w, r, form, err)
		}
		ends := s.desk.Moment(&got.NotAfter)
		facts := []admin.Fact{{Label: "Subject", Value: got.Subject}, {Label: "Good for", Value: usages(got.ExtKeyUsage), Hint: strings.Join(got.KeyUsage, ", ")}, {Label: "Valid until", Moment: &ends}}
		if names := got.SANs.all(); names != "" {
			facts = append(facts, admin.Fact{Label: "Alternative names", Value: names})
		}
		return s.showIssue(w, r, form, facts)
	}
	var made struct {
		Certificate certificate `json:"certificate"`
		PEM         string      `json:"pem"`
		Chain       string      `json:"chain"`
		PKCS12      []byte      `json:"pkcs12"`
		PrivateKey  string      `json:"private_key"`
	}
	if err := s.desk.Send(r.Context(), http.MethodPost, api, in, &made); err != nil {
		return s.notIssued(w, r, form, err)
	}
	name := made.Certificate.Serial
	switch form.Get("format") {
	case asPKCS12:
		webui.SendFile(w, "application/x-pkcs12", name+".p12", made.PKCS12)
		return nil
	case asPEM:
		webui.SendFile(w, "application/x-pem-file", name+".pem", []byte(made.PrivateKey+made.PEM+made.Chain))
		return nil
	}
	return admin.Redirect(w, r, made.Certificate.URL(), "issued")
}

// notIssued shows the form again with what the API refuses in it.
func (s *Certificates) notIssued(w http.ResponseWriter, r *http.Request, form *admin.Form, err error) error {
	if form.Refused(err, "device_id", "device") {
		return s.showIssue(w, r, form, nil)
	}
	return err
}
