package settings

import (
	"net/http"
	"net/url"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

const welcomePath = "/admin/welcome"

func (s *Settings) mountWelcome(r webui.Router) {
	r.Handle("GET "+welcomePath, s.welcome)
	r.Handle("POST "+welcomePath+"/account", s.makeAccount)
	r.Handle("POST "+welcomePath+"/organisation", s.nameOrganisation)
	r.Handle("POST "+welcomePath+"/check", s.checkFromWelcome)
}

// welcomePage leads whoever came by a setup link to the first device. Nothing of it has to
// be done now.
type welcomePage struct {
	admin.Page
	Account      *admin.Form // nil: who looks has an account
	Organisation *admin.Form
	Name         string
	Server       serverFacts
	ServerState  view.State
	Mode         string
	Check        *Check
	Push         view.State
	HasPush      bool
	HasDevice    bool
	OffersDemo   bool
	MinPassword  int
}

// Steps is how many are done, and of how many.
func (p *welcomePage) Steps() (done []bool) {
	return []bool{p.Account == nil, p.Name != "", p.Check != nil && p.Check.OK && len(p.Check.Findings) == 0 || p.Server.TLS.Public, p.HasPush, p.HasDevice}
}

// DoneSteps counts the steps that are done.
func (p *welcomePage) DoneSteps() (n int) {
	for _, done := range p.Steps() {
		if done {
			n++
		}
	}
	return n
}

// Step is the state of one step, from 1.
func (p *welcomePage) Step(n int) view.State {
	if p.Steps()[n-1] {
		return view.State{Text: "Done", Tone: view.Good}
	}
	return view.State{Text: "To do", Tone: view.Waiting}
}

// welcome is for who sets the server up; others have the first page.
func (s *Settings) welcome(w http.ResponseWriter, r *http.Request) error {
	if !s.desk.May(r.Context(), "PATCH /api/v1/settings") || !s.desk.May(r.Context(), "POST /api/v1/enrollment-links") {
		return admin.Redirect(w, r, "/admin", "")
	}
	return s.writeWelcome(w, r, http.StatusOK, nil, nil, nil)
}

func (s *Settings) writeWelcome(w http.ResponseWriter, r *http.Request, status int, account, organisation *admin.Form, check *Check) error {
	d, err := s.decided(r)
	if err != nil {
		return err
	}
	f, err := s.facts(r)
	if err != nil {
		return err
	}
	if check != nil {
		check.OwnCA = f.TLS.Mode == "own-ca"
	}
	push, err := s.pushCard(r)
	if err != nil {
		return err
	}
	var devices admin.List[struct{}]
	if err := s.desk.Get(r.Context(), "/api/v1/devices", url.Values{"limit": {"1"}}, &devices); err != nil {
		return err
	}
	offers, err := s.desk.OffersDemo(r.Context())
	if err != nil {
		return err
	}
	page := &welcomePage{
		OffersDemo: offers,
		Page:       admin.Page{Title: "Welcome", Section: "/admin"}, Organisation: organisation, Name: d.Organisation.Name,
		Server: f, ServerState: f.stands(), Mode: modes[f.TLS.Mode].name, Check: check,
		Push: push.State, HasPush: push.State.Tone == view.Good, HasDevice: len(devices.Items) > 0, MinPassword: identity.MinPassword,
	}
	if admin.Principal(r.Context()).Kind == identity.KindSetup {
		if page.Account = account; account == nil {
			page.Account = admin.NewForm()
		}
	}
	if organisation == nil {
		page.Organisation = admin.NewForm("organisation.name", d.Organisation.Name)
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "welcome.html", page)
}

// makeAccount makes the first owner, who is signed in then: the setup link's session ends.
func (s *Settings) makeAccount(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	email, password := f.Get("email"), f.Values.Get("password")
	if email == "" {
		f.Fail("email", "Type the address that you want to sign in with.")
	}
	if password != f.Values.Get("again") {
		f.Fail("again", "The two passwords differ.")
	}
	if f.OK() {
		in := map[string]any{"email": email, "full_name": f.Get("full_name"), "password": password, "role": identity.RoleOwner}
		err := s.desk.Send(r.Context(), http.MethodPost, "/api/v1/users", in, nil)
		if err == nil {
			if err := s.signIn(r.Context(), email, password, webui.Peer(r.Context()).String()); err != nil {
				return err
			}
			return admin.Redirect(w, r, welcomePath, "account")
		}
		if !f.Refused(err) {
			return err
		}
	}
	return s.writeWelcome(w, r, http.StatusUnprocessableEntity, f, nil, nil)
}

func (s *Settings) nameOrganisation(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	change := patch(f, map[string]kind{"organisation.name": isText})
	err = s.desk.Send(r.Context(), http.MethodPatch, "/api/v1/settings", change, nil)
	if err == nil {
		return admin.Redirect(w, r, welcomePath, "saved")
	}
	if !f.Refused(err) {
		return err
	}
	return s.writeWelcome(w, r, http.StatusUnprocessableEntity, nil, f, nil)
}

func (s *Settings) checkFromWelcome(w http.ResponseWriter, r *http.Request) error {
	check := &Check{}
	if err := s.desk.Send(r.Context(), http.MethodPost, "/api/v1/server/check", nil, check); err != nil {
		return err
	}
	return s.writeWelcome(w, r, http.StatusOK, nil, nil, check)
}
