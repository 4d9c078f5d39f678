package signin

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// form shows how people can sign in. Who is signed in already is sent on, unless they
// want to be somebody else (?switch=1). ?again=1 and ?out=1 say why somebody is here.
func (s *SignIn) form(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	next := nextOf(r.URL.Path, query.Get("next"))
	somebodyElse := query.Get("switch") != ""
	if on := s.signedIn(r, next); on != "" && !somebodyElse {
		return see(w, r, on)
	}
	page, err := s.page(r, next, somebodyElse)
	if err != nil {
		return err
	}
	if hint := shortHint(query.Get("login_hint")); hint != "" {
		page.Hint = hint
		page.Keep = append(page.Keep, view.Hidden{Name: "login_hint", Value: hint})
	}
	page.Login = page.Hint
	switch {
	case query.Get("out") != "":
		page.Notice = page.T.Say("signin.signed_out")
	case query.Get("again") != "": // the session ended on the way
		page.Notice = page.T.Say("signin.again")
	}
	return s.write(w, http.StatusOK, page, next)
}

// write sends a page whose form leads to next.
func (s *SignIn) write(w http.ResponseWriter, status int, page view.Page, next string) error {
	if purposeOf(next).byAccount() {
		webui.AllowHandBack(w)
	}
	return s.Pages.Write(w, status, page)
}

// signedIn returns where r can go on to without signing in, empty if nowhere.
func (s *SignIn) signedIn(r *http.Request, next string) string {
	p, ok := identity.PrincipalFrom(r.Context())
	switch {
	case !ok:
		return ""
	case p.Kind == identity.KindUser && next != "":
		return next
	case p.Allows(identity.ScopeReadOnly) && (next == "" || purposeOf(next) == toAdminister):
		return "/admin"
	case p.Kind == identity.KindUser:
		return "/me"
	}
	return "" // a setup link makes nobody somebody
}

// page is the form that leads to next. Who has told the device to be somebody, and wants to
// be somebody else, is not taken for the one.
func (s *SignIn) page(r *http.Request, next string, somebodyElse bool) (view.SignIn, error) {
	around, _, err := s.Frame.Portal(r, "signin.heading")
	if err != nil {
		return view.SignIn{}, err
	}
	why := purposeOf(next)
	around.Here, around.Keep = pathLogin, hidden(next, somebodyElse)
	around.User = "" // who wants to be somebody else has just said so
	if why == toEnroll && s.Progress != nil {
		around.Progress = s.Progress(r, next)
	}
	page := view.SignIn{
		Portal: around, Next: next, Switch: somebodyElse, Action: pathLogin,
		Lead: around.T.Say(why.lead()), NewServer: why == toAdminister,
	}
	if !somebodyElse {
		page.Hint = hintOf(next)
	}
	if r.URL.Path == pathAdminLogin {
		page.Action, page.Here = pathAdminLogin, pathAdminLogin
	}
	if why.enrolls() && around.T.Has("portal.login.description") {
		page.Description = around.T.HTML("portal.login.description")
	}
	ways, err := s.People.Ways(r.Context(), why.uses()...)
	if err != nil {
		return view.SignIn{}, err
	}
	page.Passwords = ways.Passwords
	for i, p := range ways.Redirects {
		page.Providers = append(page.Providers, view.SignInProvider{
			Name: p.Name, Action: pathLogin + "/with/" + p.ID, Primary: !ways.Passwords && i == 0,
		})
	}
	return page, nil
}

// password takes a login and a password.
func (s *SignIn) password(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	next, somebodyElse := nextOf(r.URL.Path, r.PostForm.Get("next")), r.PostForm.Get("switch") != ""
	login := r.PostForm.Get("email")
	in, err := s.People.Login(r.Context(), login, r.PostForm.Get("password"), peer(r))
	if err != nil {
		return s.again(w, r, next, somebodyElse, login, err)
	}
	if in.NeedsCode {
		return s.askForCode(w, r, in, next, somebodyElse)
	}
	return s.letIn(w, r, in, next, true)
}

// again shows the form again with what was wrong.
func (s *SignIn) again(w http.ResponseWriter, r *http.Request, next string, somebodyElse bool, login string, failed error) error {
	why := mistakeOf(failed)
	if why == nil {
		return failed
	}
	page, err := s.page(r, next, somebodyElse)
	if err != nil {
		return err
	}
	page.Login = strings.ToValidUTF8(login, "")
	page.Error, page.Code = why.say(page.T, failed), why.code
	s.note(r, why.code, failed)
	wait(w, failed)
	return s.write(w, why.status, page, next)
}

// mistake is something at which the form is shown again.
type mistake struct {
	err    error
	status int
	code   string
	text   string
}

// mistakes say what follows from the errors of signing in: the first that fits.
var mistakes = []mistake{
	{identity.ErrThrottled, http.StatusTooManyRequests, "GH-E202", "signin.error.throttled"},
	{identity.ErrDisabled, http.StatusForbidden, "GH-E203", "signin.error.disabled"},
	{identity.ErrLocked, http.StatusForbidden, "GH-E204", "signin.error.locked"},
	{identity.ErrPasswordExpired, http.StatusForbidden, "GH-E205", "signin.error.expired"},
	{identity.ErrSource, http.StatusServiceUnavailable, "GH-E206", "signin.error.source"},
	{identity.ErrUnusable, http.StatusForbidden, "GH-E207", "signin.error.unusable"},
	{identity.ErrBadCode, http.StatusUnauthorized, "GH-E208", "signin.error.code"},
	{errWaited, http.StatusForbidden, "GH-E209", "signin.error.waited"},
	{identity.ErrBadLogin, http.StatusUnauthorized, "GH-E201", "signin.error.login"},
}

// mistakeOf returns what follows from err, nil if that is not the person's to know.
func mistakeOf(err error) *mistake {
	for i := range mistakes {
		if errors.Is(err, mistakes[i].err) {
			return &mistakes[i]
		}
	}
	return nil
}

func (m *mistake) say(t *text.Texts, err error) string {
	if wait := identity.RetryAfter(err); wait > 0 {
		return t.Many(m.text, int(math.Ceil(wait.Minutes())))
	}
	if m.err == identity.ErrThrottled {
		return t.Many(m.text, 15)
	}
	return t.Say(m.text)
}

// wait tells programs how long to wait, where err asks for it.
func wait(w http.ResponseWriter, err error) {
	if wait := identity.RetryAfter(err); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	}
}

// note logs that somebody was not let in, under the code that they were shown.
func (s *SignIn) note(r *http.Request, code string, err error) {
	if r.Context().Err() == nil {
		s.Log.InfoContext(r.Context(), "sign-in refused", "code", code, "request", webui.RequestID(r.Context()), "peer", peer(r), "err", err)
	}
}
