// Package business is the part of the section Enrollment that connects the server to Apple
// Business Manager or Apple School Manager.
package business

import (
	"bytes"
	"embed"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

//go:embed templates/*.html
var templates embed.FS

const (
	enrollment = "/admin/enrollment"
	driven     = enrollment + "/account-driven"
	home       = driven + "/apple"

	apiBusiness = "/api/v1/apple-business"
)

// Business is the section.
type Business struct {
	desk  *admin.Desk
	pages *admin.Templates
}

// New returns the section at a desk.
func New(desk *admin.Desk) (*Business, error) {
	pages, err := desk.Templates(templates)
	return &Business{desk, pages}, err
}

// Mount implements [admin.Section].
func (s *Business) Mount(r, uploads webui.Router) {
	r.Handle("GET "+home, s.show)
	r.Handle("GET "+home+"/certificate", s.certificate)
	r.Handle("POST "+home+"/key", s.makeKey)
	uploads.Handle("POST "+home+"/token", s.storeToken)
	r.Handle("POST "+home+"/check", s.check)
	r.Handle("POST "+home+"/discovery", s.setDiscovery)
	r.Handle("GET "+home+"/remove", s.askRemove)
	r.Handle("POST "+home+"/remove", s.remove)
}

// crumbs are the way to the section.
var crumbs = []view.Link{{Label: "Enrollment", URL: enrollment}, {Label: "Sign-in on devices", URL: driven}}

// connection is the link to Apple Business Manager, as the API has it.
type connection struct {
	State       string `json:"state"`
	Certificate *struct {
		SHA256   string    `json:"sha256"`
		NotAfter time.Time `json:"not_after"`
	} `json:"certificate"`
	Next *struct {
		SHA256 string `json:"sha256"`
	} `json:"next_certificate"`
	Token *struct {
		StoredAt  time.Time `json:"stored_at"`
		ExpiresAt time.Time `json:"expires_at"`
		DaysLeft  int       `json:"days_left"`
	} `json:"token"`
	Account *struct {
		ServerName string `json:"server_name"`
		OrgName    string `json:"org_name"`
		OrgEmail   string `json:"org_email"`
		OrgID      string `json:"org_id"`
		OrgType    string `json:"org_type"`
		AdminID    string `json:"admin_id"`
	} `json:"account"`
	MAIDTokens   bool `json:"maid_tokens"`
	DiscoveryURL *struct {
		Registered string    `json:"registered"`
		Ours       bool      `json:"ours"`
		Expected   string    `json:"expected"`
		CheckedAt  time.Time `json:"checked_at"`
	} `json:"discovery_url"`
	Trouble *struct {
		Code      string    `json:"code"`
		AppleCode string    `json:"apple_code"`
		Detail    string    `json:"detail"`
		Next      string    `json:"next"`
		Since     time.Time `json:"since"`
	} `json:"trouble"`
}

// Standing is its state in words.
func (b connection) Standing() view.State {
	switch b.State {
	case "connected":
		return view.State{Text: "connected", Tone: view.Good}
	case "expiring":
		return view.State{Text: "token expires soon", Tone: view.Waiting}
	case "expired":
		return view.State{Text: "token expired", Tone: view.Bad}
	case "trouble":
		return view.State{Text: "Apple refuses something", Tone: view.Bad}
	case "no_token":
		return view.State{Text: "waits for Apple’s token", Tone: view.Waiting}
	}
	return view.State{Text: "not connected", Tone: view.Neutral}
}

type page struct {
	admin.Page
	Business connection
	Form     *admin.Form
	Facts    []admin.Fact
	MayOwn   bool
}

func (s *Business) page(r *http.Request, form *admin.Form) (*page, error) {
	p := &page{
		Page: admin.Page{Title: "Apple Business Manager", Section: enrollment, Crumbs: crumbs}, Form: form,
		MayOwn: s.desk.May(r.Context(), "PUT /api/v1/apple-business/token"),
	}
	if err := s.desk.Get(r.Context(), apiBusiness, nil, &p.Business); err != nil {
		return nil, err
	}
	b := p.Business
	if a := b.Account; a != nil {
		p.Facts = append(p.Facts, admin.Fact{Label: "Organisation", Value: a.OrgName, Hint: a.OrgEmail}, admin.Fact{Label: "Server at Apple", Value: a.ServerName}, admin.Fact{Label: "Made by", Value: a.AdminID})
	}
	if t := b.Token; t != nil {
		ends := s.desk.Moment(&t.ExpiresAt)
		p.Facts = append(p.Facts, admin.Fact{Label: "Token expires", Moment: &ends, Hint: admin.Count(t.DaysLeft, "day left", "days left")})
	}
	if c := b.Certificate; c != nil {
		ends := s.desk.Moment(&c.NotAfter)
		p.Facts = append(p.Facts, admin.Fact{Label: "Key for the token", Value: c.SHA256, Mono: true}, admin.Fact{Label: "Its certificate expires", Moment: &ends})
	}
	return p, nil
}

func (s *Business) show(w http.ResponseWriter, r *http.Request) error {
	p, err := s.page(r, admin.NewForm())
	if err != nil {
		return err
	}
	return s.desk.Write(w, r, s.pages, "apple.html", p)
}

func (s *Business) certificate(w http.ResponseWriter, r *http.Request) error {
	return s.desk.Forward(w, r, apiBusiness+"/certificate", nil)
}

// refused notes at a form what Apple, or the API, has against it, and what to do: titles
// say the one, and details the other. That Apple can't be asked is no fault of the form, and
// said at it all the same: the page is where to try again.
func refused(form *admin.Form, err error) bool {
	var p *admin.Problem
	if !errors.As(err, &p) {
		return false
	}
	away := p.Status == http.StatusBadGateway || p.Status == http.StatusServiceUnavailable
	if !away && !form.Refused(err) {
		return false
	}
	if len(form.Errors) == 0 {
		form.Error = p.Title + "."
		if p.Detail != "" {
			form.Error += " " + p.Detail
		}
	}
	return true
}

// again shows the page with what was refused.
func (s *Business) again(w http.ResponseWriter, r *http.Request, form *admin.Form, err error) error {
	if !refused(form, err) {
		return err
	}
	return s.askAgain(w, r, form)
}

func (s *Business) askAgain(w http.ResponseWriter, r *http.Request, form *admin.Form) error {
	p, err := s.page(r, form)
	if err != nil {
		return err
	}
	return s.desk.WriteStatus(w, r, http.StatusUnprocessableEntity, s.pages, "apple.html", p)
}

func (s *Business) makeKey(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	path := apiBusiness + "/key"
	if form.Has("replace", "true") {
		path += "?replace=true"
	}
	if err := s.desk.Send(r.Context(), http.MethodPost, path, nil, nil); err != nil {
		return s.again(w, r, form, err)
	}
	return admin.Redirect(w, r, home, "created")
}

func (s *Business) storeToken(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	file, _, err := form.File("token")
	if err != nil {
		return err
	}
	if len(file) == 0 {
		form.Fail("token", "Choose the file that Apple gave you: its name ends in .p7m.")
		return s.askAgain(w, r, form)
	}
	if _, err := s.desk.Do(r.Context(), http.MethodPut, apiBusiness+"/token", "application/pkcs7-mime", bytes.NewReader(file), nil); err != nil {
		if !refused(form, err) {
			return err
		}
		if form.Error != "" {
			form.Fail("token", "%s", form.Error)
			form.Error = ""
		}
		return s.askAgain(w, r, form)
	}
	return admin.Redirect(w, r, home, "uploaded")
}

// check asks Apple whether the token is good, and where it leads devices.
func (s *Business) check(w http.ResponseWriter, r *http.Request) error {
	var b connection
	err := s.desk.Send(r.Context(), http.MethodPost, apiBusiness+"/check", nil, &b)
	if err == nil && b.Trouble == nil {
		err = s.desk.Get(r.Context(), apiBusiness+"/discovery-url", nil, &struct{}{})
	}
	if err != nil {
		return s.again(w, r, admin.NewForm(), err)
	}
	return admin.Redirect(w, r, home, "tested")
}

// setDiscovery registers the discovery address with Apple, or takes it back.
func (s *Business) setDiscovery(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	method, did := http.MethodPut, "saved"
	if form.Has("step", "remove") {
		method, did = http.MethodDelete, "removed"
	}
	if err := s.desk.Send(r.Context(), method, apiBusiness+"/discovery-url", nil, nil); err != nil {
		return s.again(w, r, form, err)
	}
	return admin.Redirect(w, r, home, did)
}

func (s *Business) askRemove(w http.ResponseWriter, r *http.Request) error {
	return s.confirmRemoval(w, r, nil)
}

func (s *Business) confirmRemoval(w http.ResponseWriter, r *http.Request, form *admin.Form) error {
	hidden := url.Values{}
	text := []string{"The key and the token are deleted, and Apple is asked to forget the discovery address. Devices stay enrolled, but new ones are no longer led here without a file on the domain’s web server."}
	if form != nil {
		hidden.Set("force", "true")
		text = append(text, "Go on to remove it here all the same.")
	}
	return s.desk.Confirm(w, r, &admin.Confirm{
		Page:    admin.Page{Section: enrollment, Crumbs: append(crumbs[:len(crumbs):len(crumbs)], view.Link{Label: "Apple Business Manager", URL: home})},
		Heading: "Disconnect from Apple?", Text: text, Button: "Disconnect", Danger: true, Action: home + "/remove", Back: home, Hidden: hidden, Form: form,
	})
}

func (s *Business) remove(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	path := apiBusiness
	if form.Has("force", "true") {
		path += "?force=true"
	}
	if err := s.desk.Send(r.Context(), http.MethodDelete, path, nil, nil); err != nil {
		if !refused(form, err) {
			return err
		}
		return s.confirmRemoval(w, r, form)
	}
	return admin.Redirect(w, r, home, "removed")
}
