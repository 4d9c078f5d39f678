package signin

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/frame"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// begin sends a browser to a provider. It is a POST, so that nobody who only follows links
// begins anything.
func (s *SignIn) begin(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	id, p := r.PathValue("provider"), s.pending(r)
	p.Next, p.Switch = localPath(r.PostForm.Get("next")), r.PostForm.Get("switch") != ""
	n := identity.NewSignIn{
		ReturnURL: s.address(identity.CallbackPath(id)), Next: p.Next, Browser: p.Browser, Peer: peer(r),
	}
	n.LoginHint, n.SelectAccount, n.Use = shortHint(r.PostForm.Get("login_hint")), p.Switch, purposeOf(p.Next).one()
	to, browser, err := s.People.BeginSignIn(r.Context(), id, n)
	if id == identity.LocalProvider {
		err = storage.ErrNotFound // nobody is sent to where they are
	}
	if err != nil {
		wait(w, err)
		return s.refusal(r, id, p.Next, p.Switch, err)
	}
	p.Browser = browser.Reveal()
	if err := s.keep(r, p); err != nil {
		return err
	}
	around, _, err := s.Frame.Portal(r, "signin.away.heading")
	if err != nil {
		return err
	}
	// Not a redirect: form-action of our policy holds for where a form is redirected to as
	// well, in some browsers. This one replaces the page in the history, too.
	w.Header().Set("Refresh", "0; url="+to)
	return s.Pages.Write(w, http.StatusOK, view.SignInGo{Portal: around, Provider: s.nameOf(r, id), URL: to})
}

// address is a path below the URL that clients use.
func (s *SignIn) address(path string) string {
	return strings.TrimSuffix(s.ServerURL.String(), "/") + path
}

// nameOf names a provider, as well as it can be.
func (s *SignIn) nameOf(r *http.Request, id string) string {
	p, err := s.People.Provider(r.Context(), id)
	if err != nil {
		return id
	}
	return p.Name
}

// finish takes a browser that comes back from a provider.
func (s *SignIn) finish(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodHead {
		return nil // whoever only looks uses nothing up
	}
	id, p := r.PathValue("provider"), s.pending(r)
	f, err := s.People.FinishSignIn(r.Context(), id, p.Browser, r.URL.Query(), peer(r))
	next := localPath(f.Next)
	switch {
	case err == nil && f.Trial != nil:
		return s.trial(w, r, f.Trial)
	case err == nil:
		return s.letIn(w, r, f.SignedIn, next, s.justNow(f.AuthenticatedAt))
	}
	if errors.Is(err, identity.ErrSignIn) {
		next = p.Next
		if attempt := s.Sessions.Value(r.Context(), webui.SessionAttempt); next == "" && attempt != "" {
			next = localPath("/enroll/a/" + attempt)
		}
		// The page again, or Back: they are in already.
		if on := s.signedIn(r, next); on != "" && !p.Switch {
			return see(w, r, on)
		}
	}
	// What the address holds is of no use to anybody any more. In another language it is
	// the login's page that comes.
	again, parseErr := url.Parse(loginPath(next, p.Switch))
	if parseErr != nil {
		return parseErr
	}
	r.URL = again
	return s.refusal(r, id, next, p.Switch, err)
}

// lately is how long ago somebody may have proved to a provider who they are, who is taken
// to have done so for this sign-in.
const lately = 5 * time.Minute

// justNow says that a provider has asked people who they are for this sign-in, as far as can
// be told. One that remembers them from before lets them in without a word: by a link that
// another app has opened, as well.
func (s *SignIn) justNow(authenticated time.Time) bool {
	ago := s.Now().Sub(authenticated)
	return ago < lately && ago > -time.Minute // its clock may be off
}

// refusals say what follows from the errors of signing in at a provider: the first that
// fits.
var refusals = []struct {
	err     error
	refusal frame.Refusal
}{
	{identity.ErrThrottled, frame.Refusal{Code: "GH-E202", Status: http.StatusTooManyRequests, Name: "throttled", Title: "Too many sign-ins were begun", Texts: "signin.refused.throttled"}},
	{identity.ErrDisabled, frame.Refusal{Code: "GH-E203", Status: http.StatusForbidden, Name: "user_disabled", Title: "The user is disabled", Texts: "signin.refused.disabled"}},
	{identity.ErrSource, frame.Refusal{Code: "GH-E206", Status: http.StatusServiceUnavailable, Name: "source_unavailable", Title: "The provider is not available", Texts: "signin.refused.source"}},
	{identity.ErrUnusable, frame.Refusal{Code: "GH-E207", Status: http.StatusForbidden, Name: "account_unusable", Title: "The account can't be used here", Texts: "signin.refused.unusable"}},
	{identity.ErrSignIn, frame.Refusal{Code: "GH-E210", Status: http.StatusForbidden, Name: "sign_in_invalid", Title: "The sign-in is not valid", Texts: "signin.refused.invalid"}},
	{identity.ErrDenied, frame.Refusal{Code: "GH-E211", Status: http.StatusForbidden, Name: "sign_in_denied", Title: "The provider denied the sign-in", Texts: "signin.refused.denied"}},
	{identity.ErrMayNotEnroll, frame.Refusal{Code: "GH-E212", Status: http.StatusNotFound, Name: "provider_closed", Title: "There is no such way to sign in", Texts: "signin.refused.provider"}},
	{storage.ErrNotFound, frame.Refusal{Code: "GH-E212", Status: http.StatusNotFound, Name: "provider_closed", Title: "There is no such way to sign in", Texts: "signin.refused.provider"}},
	{identity.ErrForbidden, frame.Refusal{Code: "GH-E213", Status: http.StatusForbidden, Name: "not_for_administrators", Title: "Accounts of this provider can't administer the server", Texts: "signin.refused.admin"}},
}

// Refusals returns all refusals of this package, for tests and documents.
func Refusals() (all []frame.Refusal) {
	for _, known := range refusals {
		if !slices.ContainsFunc(all, func(r frame.Refusal) bool { return r.Texts == known.refusal.Texts }) {
			all = append(all, known.refusal)
		}
	}
	return all
}

// refusal says what follows from err.
func (s *SignIn) refusal(r *http.Request, providerID, next string, somebodyElse bool, err error) error {
	for _, known := range refusals {
		if !errors.Is(err, known.err) {
			continue
		}
		refused := known.refusal
		refused.Action, refused.Err = loginPath(next, somebodyElse), err
		refused.Keep, refused.NoUser = hidden(next, somebodyElse), true
		refused.Values = []any{"provider", s.nameOf(r, providerID)}
		return &refused
	}
	return err
}

// trial shows what came of a sign-in that an administrator has tried.
func (s *SignIn) trial(w http.ResponseWriter, r *http.Request, t *identity.Trial) error {
	heading := "signin.trial.heading.failed"
	if t.OK {
		heading = "signin.trial.heading.ok"
	}
	around, _, err := s.Frame.Portal(r, heading)
	if err != nil {
		return err
	}
	around.Here = "" // the address is good for one use
	page := view.SignInTrial{
		Portal: around, Provider: t.Provider.Name, OK: t.OK, Groups: t.Person.Groups, Warnings: t.Mapped.Warnings,
	}
	for _, step := range t.Steps {
		page.Steps = append(page.Steps, view.SignInStep(step))
	}
	add := func(label, value string) {
		if value != "" {
			page.Becomes = append(page.Becomes, view.Fact{Label: around.T.Say(label), Value: value})
		}
	}
	add("signin.trial.subject", t.Person.Subject)
	add("signin.trial.user_name", t.Mapped.Username)
	add("signin.trial.email", t.Mapped.Email)
	add("signin.trial.full_name", t.Mapped.FullName)
	add("signin.trial.apple_account", t.Mapped.ManagedAppleAccount)
	var ways []string
	for _, use := range t.MayEnroll {
		ways = append(ways, string(use))
	}
	add("signin.trial.may_enroll", strings.Join(ways, ", "))
	for name, values := range t.Person.Attributes {
		page.Claims = append(page.Claims, view.Fact{Label: name, Value: strings.Join(values, ", "), Mono: true})
	}
	sort.Slice(page.Claims, func(i, j int) bool { return page.Claims[i].Label < page.Claims[j].Label })
	return s.Pages.Write(w, http.StatusOK, page)
}
