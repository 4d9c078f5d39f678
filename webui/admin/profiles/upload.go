package profiles

import (
	"bytes"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// contentType of configuration profiles, as Apple names it.
const contentType = "application/x-apple-aspen-config"

type uploadPage struct {
	admin.Page
	Form    *admin.Form
	Profile *brief // of which it is to be another version; nil: of whichever its identifier says
}

// upload asks for a file.
func (s *Profiles) upload(w http.ResponseWriter, r *http.Request) error {
	form := admin.NewForm("profile", r.URL.Query().Get("profile"))
	return s.showUpload(w, r, http.StatusOK, form)
}

func (s *Profiles) showUpload(w http.ResponseWriter, r *http.Request, status int, form *admin.Form) error {
	page := &uploadPage{
		Page: admin.Page{Title: "Upload a profile", Section: section, Crumbs: []view.Link{{Label: "Profiles", URL: section}}},
		Form: form,
	}
	if id := form.Get("profile"); id != "" {
		page.Profile = &brief{}
		if err := s.desk.Get(r.Context(), brief{ID: id}.path(), uncounted, page.Profile); err != nil {
			return err
		}
		page.Title = "New version"
		page.Crumbs = append(page.Crumbs, view.Link{Label: page.Profile.Name, URL: page.Profile.URL()})
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "upload.html", page)
}

// take looks at a file that was given, or keeps what was looked at before.
func (s *Profiles) take(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	content, _, err := form.File("file")
	if err != nil {
		return err
	}
	if len(content) == 0 && form.Get("content") != "" {
		// Nothing is kept of a profile that nobody has decided on yet: the page that shows
		// what is wrong with it brings it along, to who has given it.
		if content, err = base64.StdEncoding.DecodeString(form.Get("content")); err != nil {
			form.Fail("file", "Choose the file again.")
		}
	}
	if len(content) == 0 {
		if form.OK() {
			form.Fail("file", "Choose a .mobileconfig file.")
		}
		return s.showUpload(w, r, http.StatusUnprocessableEntity, form)
	}
	if form.Get("step") == "keep" {
		return s.keep(w, r, form, content)
	}
	return s.review(w, r, http.StatusOK, form, content)
}

// linted is what the API says of a profile that is not kept yet.
type linted struct {
	Identifier           string    `json:"identifier"`
	Name                 string    `json:"name"`
	Description          string    `json:"description"`
	Organization         string    `json:"organization"`
	Scope                string    `json:"scope"`
	RemovalDisallowed    bool      `json:"removal_disallowed"`
	Encrypted            bool      `json:"encrypted"`
	Signer               *signer   `json:"signer"`
	Payloads             []payload `json:"payloads"`
	Variables            []string  `json:"variables"`
	CertificateTemplates []string  `json:"certificate_templates"`
	Existing             *brief    `json:"existing"`
	Reserved             bool      `json:"reserved"`
	Findings             []finding `json:"findings"`
}

type signer struct {
	Subject  string     `json:"subject"`
	Issuer   string     `json:"issuer"`
	NotAfter *time.Time `json:"not_after"`
	Broken   string     `json:"broken"`
}

type finding struct {
	Code        string   `json:"code"`
	Severity    string   `json:"severity"`
	PayloadType string   `json:"payload_type"`
	Path        string   `json:"path"`
	Platforms   []string `json:"platforms"`
	Reason      string   `json:"reason"`
}

// State is how bad it is.
func (f finding) State() view.State { return severity(f.Severity) }

// Where says which part of the profile is meant.
func (f finding) Where() string {
	if f.Path == "" {
		return "The profile as a whole"
	}
	return f.Path
}

// Systems are those that are concerned, empty for all.
func (f finding) Systems() string { return systems(f.Platforms) }

type reviewPage struct {
	admin.Page
	Form    *admin.Form
	Profile linted
	Facts   []admin.Fact
	Trouble view.State
	Content string // in base64
	Wrong   string // why it can't be kept; may be empty
	Next    int    // number of the version that it would be
	Back    string
}

// review shows what a file is and what is wrong with it, and asks whether to keep it.
func (s *Profiles) review(w http.ResponseWriter, r *http.Request, status int, form *admin.Form, content []byte) error {
	page := &reviewPage{
		Page: admin.Page{Title: "Check a profile", Section: section, Crumbs: []view.Link{{Label: "Profiles", URL: section}}},
		Form: form, Content: base64.StdEncoding.EncodeToString(content), Next: 1, Back: section + "/new",
	}
	query := url.Values{"literal": {strconv.FormatBool(form.Has("literal", "true"))}}
	if _, err := s.desk.Do(r.Context(), http.MethodPost, api+"/lint?"+query.Encode(), contentType, bytes.NewReader(content), &page.Profile); err != nil {
		if refused(form, err, "file") {
			return s.showUpload(w, r, http.StatusUnprocessableEntity, form)
		}
		return err
	}
	p := page.Profile
	page.Title = "Check " + p.Name
	if id := form.Get("profile"); id != "" {
		page.Back += "?profile=" + url.QueryEscape(id)
		if p.Existing == nil || p.Existing.ID != id {
			page.Wrong = "This file is another profile: devices tell profiles apart by their identifier, and this one’s is not the same. Keep it as a profile of its own, by uploading it from the list of profiles."
		}
	}
	if p.Reserved {
		page.Wrong = "This server uses that identifier for profiles of its own. Give the profile another identifier, and upload it again."
	}
	if p.Existing != nil {
		page.Next = p.Existing.Version + 1
	}
	page.Facts = append([]admin.Fact{{Label: "Name", Value: p.Name}, {Label: "Identifier", Value: p.Identifier, Mono: true}}, p.facts(s.desk)...)
	counted := map[string]int{}
	for _, f := range p.Findings {
		counted[f.Severity]++
	}
	page.Trouble = troubles(counted)
	return s.desk.WriteStatus(w, r, status, s.pages, "review.html", page)
}

// facts are what there is to say of a profile beside its name and its payloads.
func (p linted) facts(desk *admin.Desk) (facts []admin.Fact) {
	add := func(label, value, hint string) {
		if value != "" {
			facts = append(facts, admin.Fact{Label: label, Value: value, Hint: hint})
		}
	}
	add("Description", p.Description, "")
	add("Organisation", p.Organization, "")
	add("Scope", p.Scope, "")
	if p.RemovalDisallowed {
		add("Removal", "People can’t remove it", "This server still can.")
	}
	if p.Encrypted {
		add("Encrypted", "Yes", "Only the device that it was made for can read what is in it.")
	}
	if p.Signer != nil {
		add("Signed by", signedBy(p.Signer), "The signature is taken off; this server signs what it sends.")
		add("The signature", p.Signer.Broken, "")
		if p.Signer.NotAfter != nil {
			moment := desk.Moment(p.Signer.NotAfter)
			facts = append(facts, admin.Fact{Label: "Signer’s certificate ends", Moment: &moment})
		}
	}
	add("Variables", dollars(p.Variables), "Each device gets its own values.")
	add("Certificates by", strings.Join(p.CertificateTemplates, ", "), "Each device gets a certificate of its own by these templates.")
	return facts
}

func signedBy(s *signer) string {
	if s.Subject == "" {
		return "Somebody whose certificate is not in the file"
	}
	return s.Subject
}

// dollars writes variables as profiles have them.
func dollars(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "$" + strings.Join(names, ", $")
}

// keep keeps a profile: as the next version of the one that is meant, or of whichever its
// identifier says.
func (s *Profiles) keep(w http.ResponseWriter, r *http.Request, form *admin.Form, content []byte) error {
	query := url.Values{"literal": {strconv.FormatBool(form.Has("literal", "true"))}}
	if note := form.Get("note"); note != "" {
		query.Set("note", note)
	}
	method, path := http.MethodPost, api
	if id := form.Get("profile"); id != "" {
		method, path = http.MethodPut, brief{ID: id}.path()
	}
	var added struct {
		brief
		New bool `json:"new"`
	}
	_, err := s.desk.Do(r.Context(), method, path+"?"+query.Encode(), contentType, bytes.NewReader(content), &added)
	if err != nil {
		if form.Refused(err) {
			return s.review(w, r, http.StatusUnprocessableEntity, form, content)
		}
		return err
	}
	what := "saved"
	if !added.New {
		what = "unchanged"
	}
	return admin.Redirect(w, r, added.URL(), what)
}

// refused is [admin.Form.Refused] for a request of which one field is to blame for whatever
// names no other.
func refused(form *admin.Form, err error, field string) bool {
	if !form.Refused(err) {
		return false
	}
	var p *admin.Problem
	if errors.As(err, &p) && len(p.Errors) == 0 {
		text := p.Detail
		if text == "" {
			text = p.Title
		}
		form.Error = ""
		form.Fail(field, "%s", sentence(text))
	}
	return true
}

// sentence begins with a capital letter and ends with a full stop.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	text = strings.ToUpper(text[:1]) + text[1:]
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}
