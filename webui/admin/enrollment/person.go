package enrollment

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

const (
	apiUsers     = "/api/v1/users"
	apiProviders = "/api/v1/identity-providers"

	// byLink is the choice that the link signs the person in, byPerson that they do.
	byLink   = "none"
	byPerson = "required"
)

// personForm enrolls one person: an account, unless there is one, and an invitation for it.
type personForm struct {
	admin.Page
	Form       *admin.Form
	Ownerships []admin.Option
	Logins     []admin.Option
	Lives      []admin.Option
	NoMail     bool   // there is no mail server
	NoAccounts bool   // who looks may make none
	Why        string // it can't be sent; empty: it can
}

// personLogins are how the person may sign in, as far as who looks may give that out.
func (s *Enrollment) personLogins(ctx context.Context) []admin.Option {
	link := admin.Option{Value: byLink, Label: "The link signs them in", Hint: "They need no password, and are given an account if they have none. Whoever has the link enrolls as them: let it end soon."}
	if !s.desk.May(ctx, "POST "+apiUsers) {
		link.Disabled, link.Hint = true, "That takes the role of an administrator: whoever has such a link enrolls as the person."
	}
	return []admin.Option{link, {Value: byPerson, Label: "They sign in", Hint: "With the password of an account that they have here, or at your directory."}}
}

func (s *Enrollment) writePerson(w http.ResponseWriter, r *http.Request, status int, now settings, form *admin.Form) error {
	ctx := r.Context()
	return s.desk.WriteStatus(w, r, status, s.pages, "newperson.html", &personForm{
		Page: admin.Page{Title: "Enroll a person", Section: section, Crumbs: []view.Link{{Label: "Enrollment", URL: section}}},
		Form: form, Ownerships: now.ownerships(), Logins: s.personLogins(ctx), Lives: lives,
		NoMail: now.Mail == nil, NoAccounts: !s.desk.May(ctx, "POST "+apiUsers), Why: s.why(ctx, routeInvite),
	})
}

func (s *Enrollment) newPerson(w http.ResponseWriter, r *http.Request) error {
	now, err := s.settings(r.Context())
	if err != nil {
		return err
	}
	form := admin.NewForm("email", r.URL.Query().Get("email"), "ownership", now.ownership("ask"), "login", byLink, "expires_in", "24h")
	if !s.desk.May(r.Context(), "POST "+apiUsers) {
		form.Values.Set("login", byPerson)
	}
	if now.Mail != nil {
		form.Values.Set("send", "true")
	}
	return s.writePerson(w, r, http.StatusOK, now, form)
}

// enrollPerson makes what the form asks for. Sent twice it makes it once: the account is
// then there already, and the invitation is the first one.
func (s *Enrollment) enrollPerson(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	now, err := s.settings(r.Context())
	if err != nil {
		return err
	}
	made, known, err := s.enroll(r.Context(), now, form)
	switch {
	case err != nil && !refused(form, err, "users[0]", "email", "emails[0]", "email"):
		return err
	case form.OK():
		to := made.personURL()
		if known {
			to += "?" + url.Values{"account": {"known"}}.Encode()
		}
		return admin.Redirect(w, r, to, "created")
	}
	if why := form.Errors["email"]; why != "" && form.Get("login") == byPerson && form.Get("email") != "" {
		next := "An administrator can make the account."
		if s.desk.May(r.Context(), "POST "+apiUsers) {
			next = "Let the link sign them in: that makes the account."
		}
		form.Fail("email", "%s. %s", why, next)
	}
	return s.writePerson(w, r, http.StatusUnprocessableEntity, now, form)
}

// enroll makes the account, unless it is known, and the invitation. What is wrong in the form
// itself it notes there.
func (s *Enrollment) enroll(ctx context.Context, now settings, form *admin.Form) (made invitation, known bool, err error) {
	email, byItself := form.Get("email"), form.Get("login") == byLink
	send := form.Has("send", "true")
	switch {
	case email == "":
		form.Fail("email", "is needed: it says who enrolls")
	case !slices.ContainsFunc(now.ownerships(), func(o admin.Option) bool { return o.Value == form.Get("ownership") && !o.Disabled }):
		form.Fail("ownership", "must be one of these")
	case !byItself && form.Get("login") != byPerson:
		form.Fail("login", "must be one of these")
	case send && now.Mail == nil:
		form.Fail("send", "needs a mail server, and none is set up")
	}
	if !form.OK() {
		return made, false, nil
	}
	to := "users"
	if byItself && s.desk.May(ctx, "POST "+apiUsers) {
		if known, err = s.account(ctx, email, form.Get("full_name")); err != nil {
			return made, false, err
		}
	} else if !byItself {
		directory, err := s.directory(ctx)
		if err != nil {
			return made, false, err
		}
		if directory { // whose people have no account here before they sign in
			to = "emails"
		}
	}
	err = s.desk.Send(form.Once(ctx), http.MethodPost, apiInvitations, map[string]any{
		to: []string{email}, "name": cmp.Or(form.Get("full_name"), email), "ownership": form.Get("ownership"), "login": form.Get("login"),
		"expires_in": form.Get("expires_in"), "uses": 1, "send": send,
	}, &made)
	return made, known, err
}

// account makes an account without a password, unless one with that address is known.
func (s *Enrollment) account(ctx context.Context, email, name string) (known bool, err error) {
	err = s.desk.Send(ctx, http.MethodPost, apiUsers, map[string]any{"email": email, "full_name": name}, nil)
	var p *admin.Problem
	if errors.As(err, &p) && p.Code == "user_exists" {
		return true, nil
	}
	return false, err
}

// directory reports whether people sign in elsewhere, as far as who looks may know.
func (s *Enrollment) directory(ctx context.Context) (bool, error) {
	if !s.desk.May(ctx, "GET "+apiProviders) {
		return false, nil
	}
	var providers admin.List[struct {
		Kind    string `json:"kind"`
		Enabled bool   `json:"enabled"`
	}]
	if err := s.desk.Get(ctx, apiProviders, nil, &providers); err != nil {
		return false, err
	}
	for _, p := range providers.Items {
		if p.Kind != "local" && p.Enabled {
			return true, nil
		}
	}
	return false, nil
}

// personURL is the page of an invitation of one person.
func (i invitation) personURL() string { return peoplePath + "/" + url.PathEscape(i.ID) }

// step is one on the way of a person.
type step struct {
	Name string
	At   time.Time // zero: not known, or not yet
	Tone view.Tone
	Now  bool // it is what is waited for
}

// steps are those of somebody who has come to a stage, with when that was. The next is waited
// for, if it may still come.
func steps(stage string, at map[string]time.Time, open bool) []step {
	came := -1
	for i, s := range stages {
		if _, passed := at[s.name]; passed || s.name == stage {
			came = i
		}
	}
	list := make([]step, len(stages))
	for i, s := range stages {
		list[i] = step{Name: s.words, At: at[s.name], Tone: view.Neutral}
		switch {
		case i <= came:
			list[i].Tone = view.Good
		case i == came+1 && stage == "failed":
			list[i].Tone = view.Bad
		case i == came+1 && open:
			list[i].Tone, list[i].Now = view.Waiting, true
		}
	}
	return list
}

// account is whom an invitation is for, as far as who looks may know them.
type account struct {
	ID       string `json:"id"`
	Username string `json:"username"`
	Email    string `json:"email"`
	FullName string `json:"full_name"`
}

// URL is their page, Label what to call them.
func (a account) URL() string   { return "/admin/users/" + url.PathEscape(a.ID) }
func (a account) Label() string { return cmp.Or(a.FullName, a.Email, a.Username) }

// found returns the account that signs in as login, nil if there is none that who looks may see.
func (s *Enrollment) found(ctx context.Context, login string) (*account, error) {
	if login == "" || !s.desk.May(ctx, "GET "+apiUsers) {
		return nil, nil
	}
	var list admin.List[account]
	if err := s.desk.Get(ctx, apiUsers, url.Values{"q": {login}, "limit": {"50"}}, &list); err != nil {
		return nil, err
	}
	for _, a := range list.Items {
		if strings.EqualFold(a.Email, login) || strings.EqualFold(a.Username, login) {
			return &a, nil
		}
	}
	return nil, nil
}

type personPage struct {
	admin.Page
	Invitation invitation
	Of         invited
	Label      string   // what to call the person
	Account    *account // nil: there is none, or it is not to be seen
	Known      bool     // there was one before the invitation
	Steps      []step
	AttemptURL string // of what failed; empty: nothing did
	Scan       bool   // there is something to be scanned
	Over       string // why there is nothing any more; empty: there is, or they have come
	PortalHost string
	ByLink     bool
	Revocable  bool
}

// person shows somebody’s QR code, and how far they are with it.
func (s *Enrollment) person(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	var in invitation
	if err := s.desk.Get(ctx, apiInvitations+"/"+url.PathEscape(r.PathValue("id")), nil, &in); err != nil {
		return err
	}
	if len(in.InvitedItems) != 1 {
		return admin.Redirect(w, r, in.URL(), "")
	}
	of := in.InvitedItems[0]
	out := &personPage{Invitation: in, Of: of, Label: cmp.Or(of.User, of.Email), PortalHost: s.desk.ServerURL.Host, ByLink: in.Login == byLink,
		Known: r.URL.Query().Get("account") == "known"}
	var err error
	if out.Account, err = s.found(ctx, of.User); err != nil {
		return err
	}
	if out.Account != nil {
		out.Label = out.Account.Label()
	}
	out.Page = page("Enroll "+out.Label, invitationsLink)
	furthest, err := s.furthest(ctx, of)
	if err != nil {
		return err
	}
	if of.Stage == "failed" && furthest.ID != "" {
		out.AttemptURL = furthest.URL()
	}
	open := in.RevokedAt == nil && of.LinkState == "active"
	out.Scan, out.Revocable = open && of.Address != "" && of.Stage != "enrolled", open && s.desk.May(ctx, "DELETE "+apiInvitations+"/{id}")
	if of.Stage != "enrolled" && !open {
		out.Over = map[string]string{
			"expired": "The link has expired.", "used_up": "The link was used as often as it may be.", "revoked": "The link was revoked.",
		}[of.LinkState]
	}
	out.Watch = "invitation. link. device."
	waits := of.Stage != "enrolled" && (open || of.Stage != "" && of.Stage != "failed")
	if waits {
		out.Every = 3 // attempts are no events
	}
	out.Steps = steps(of.Stage, furthest.StageAt, waits)
	return s.desk.Write(w, r, s.pages, "person.html", out)
}

// furthest returns the attempt that somebody's stage is of; an empty one before there is any.
func (s *Enrollment) furthest(ctx context.Context, of invited) (a attempt, err error) {
	if of.Stage == "" {
		return a, nil
	}
	var list admin.List[attempt]
	if err := s.desk.Get(ctx, apiAttempts, url.Values{"limit": {"20"}, "link_id": {of.LinkID}}, &list); err != nil {
		return a, err
	}
	for _, a := range list.Items {
		if a.Stage == of.Stage && a.DeviceID == of.DeviceID {
			return a, nil
		}
	}
	return a, nil
}
