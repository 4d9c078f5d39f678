// Package account is the pages that a person sees whose device enrolls by an account: in the
// browser view that the device opens (ASWebAuthenticationSession), between the address that
// it was challenged with and the hand-back of what it waits for.
//
// It knows neither what is handed back nor who may have it: package enroll does. Who
// somebody is they say at /login, in package signin.
package account

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/frame"
	"github.com/gatehouse-mdm/gatehouse/webui/privacy"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// People knows users. *identity.Service does.
type People interface {
	User(ctx context.Context, id string) (identity.User, error)
}

// Config says what the pages need: all of it.
type Config struct {
	Enroll   *enroll.Service
	People   People
	Sessions *webui.Sessions
	Frame    *frame.Frame
	Pages    *webui.Pages
	Log      *slog.Logger
}

// SignIns serves the sign-ins that devices ask for.
type SignIns struct{ Config }

// New returns SignIns, or says what c lacks.
func New(c Config) (*SignIns, error) {
	if c.Enroll == nil || c.People == nil || c.Sessions == nil || c.Frame == nil || c.Pages == nil || c.Log == nil {
		return nil, errors.New("account: Enroll, People, Sessions, Frame, Pages and Log are required")
	}
	return &SignIns{c}, nil
}

// doors are where a device's browser view comes in, below the path of a mode.
var doors = map[enroll.SignInMethod]string{
	enroll.MethodWeb:    "/sign-in/",
	enroll.MethodOAuth2: "/authorize/",
}

// Mount registers the pages; the router must know sessions, and fail by the Frame.
func (s *SignIns) Mount(r webui.Router) {
	for _, mode := range []enroll.AccountMode{enroll.ModeBYOD, enroll.ModeADDE} {
		r.Handle("GET "+mode.Path(), s.start(mode))
		for method, door := range doors {
			r.Handle("GET "+mode.Path()+door+"{ticket}", s.at(mode, method, s.arrive))
			r.Handle("POST "+mode.Path()+door+"{ticket}", s.at(mode, method, s.agree))
		}
	}
}

// visit is somebody in the browser view of a device.
type visit struct {
	enroll.AccountSignIn
	ticket  string
	path    string // of this page, without the query
	query   url.Values
	request *enroll.AuthorizationRequest // of OAuth 2; nil with the other method
	typed   string                       // who they have told the device to be; may be empty

	user  identity.User // who is signed in, if known
	known bool
	fresh bool // and signed in for this device, now

	// vouched: or a provider, to which they went for this device, said so; perhaps without
	// asking them.
	vouched bool
}

// address is this page's own, with all that the device has said.
func (v *visit) address() string {
	if len(v.query) == 0 {
		return v.path
	}
	return v.path + "?" + v.query.Encode()
}

// login is where people say who they are, probably hint, and come back here. Somebody else
// than who is signed in says it anew.
func (v *visit) login(hint string, somebodyElse bool) string {
	query := url.Values{"next": {v.address()}}
	if hint != "" {
		query.Set("login_hint", hint)
	}
	if somebodyElse {
		query.Set("switch", "1")
	}
	return "/login?" + query.Encode()
}

// said are the parameters by which devices say something (PROTOCOL 2.3, 2.5). No others are
// kept on the way.
var said = []string{
	"user-identifier",
	"response_type", "client_id", "redirect_uri", "state", "scope", "login_hint", "code_challenge", "code_challenge_method",
}

// at returns the handler of a page. What stands in the way of the device is said before
// anybody types a password.
func (s *SignIns) at(mode enroll.AccountMode, method enroll.SignInMethod, then func(http.ResponseWriter, *http.Request, *visit) error) webui.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		v := &visit{ticket: r.PathValue("ticket"), query: url.Values{}}
		v.path = mode.Path() + doors[method] + url.PathEscape(v.ticket)
		var err error
		if v.AccountSignIn, err = s.Enroll.AccountSignIn(r.Context(), v.ticket); err != nil {
			return explain(v, err)
		}
		if v.Mode != mode || v.Method != method {
			return explain(v, enroll.ErrTicket)
		}
		query := r.URL.Query()
		for _, name := range said {
			if values, ok := query[name]; ok {
				v.query[name] = values
			}
		}
		for _, name := range []string{"user-identifier", "login_hint"} {
			if v.query.Has(name) {
				v.query.Set(name, typed(v.query.Get(name)))
			}
		}
		v.typed = v.query.Get("user-identifier")
		if method == enroll.MethodOAuth2 {
			request, err := enroll.ParseAuthorizationRequest(query)
			var told *enroll.OAuthError
			switch {
			case errors.As(err, &told) && told.Location != "":
				s.Log.InfoContext(r.Context(), "authorization request refused", "request", webui.RequestID(r.Context()), "mode", mode, "err", told)
				handBack(w, told.Location)
				return nil
			case err != nil:
				return explain(v, err)
			}
			v.request, v.typed = &request, v.query.Get("login_hint")
		}
		if err := s.recognise(r.Context(), v); err != nil {
			return err
		}
		if !v.known {
			return see(w, r, v.login(v.typed, false))
		}
		return then(w, r, v)
	}
}

// typed is what somebody typed on a device, which sends it as it is: a plus sign in it
// comes as a space, and there is none in an address.
func typed(text string) string { return strings.ReplaceAll(strings.TrimSpace(text), " ", "+") }

// recognise finds out who is signed in in the browser view. Safari shares its cookies with
// it, and so may any app that opens one: a session that was not begun for this device says
// nothing about who holds it.
func (s *SignIns) recognise(ctx context.Context, v *visit) (err error) {
	who, ok := identity.PrincipalFrom(ctx)
	if !ok || who.Kind != identity.KindUser {
		return nil
	}
	v.user, err = s.People.User(ctx, who.ID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	v.known = err == nil
	v.fresh = v.known && s.Sessions.Value(ctx, webui.SessionSignedInFor) == v.path
	v.vouched = v.known && s.Sessions.Value(ctx, webui.SessionVouchedFor) == v.path
	return err
}

// arrive answers who comes from the device, or from the login. Who has just signed in for
// it goes back with what it waits for; whoever only looks gets nothing.
func (s *SignIns) arrive(w http.ResponseWriter, r *http.Request, v *visit) error {
	if !v.fresh && !v.vouched && !v.mayBe(v.user) {
		return see(w, r, v.login(v.typed, true))
	}
	page, err := s.confirmation(r, v)
	if err != nil {
		return err
	}
	if v.fresh && page.Terms == "" && !onlyLooks(r) {
		return s.finish(w, r, v, false)
	}
	return s.confirm(w, http.StatusOK, page)
}

// mayBe says whether u is who was typed on the device: by a login, or by the Managed Apple
// Account.
func (v *visit) mayBe(u identity.User) bool {
	typed := strings.ToLower(strings.TrimSpace(v.typed))
	return typed == "" || slices.Contains(append(u.Logins(), strings.ToLower(u.ManagedAppleAccount)), typed)
}

// onlyLooks says that nobody may be there to see the answer: it makes nothing.
func onlyLooks(r *http.Request) bool {
	if r.Method == http.MethodHead {
		return true
	}
	for _, name := range []string{"Sec-Purpose", "Purpose", "X-Purpose", "X-Moz"} {
		if purpose := strings.ToLower(r.Header.Get(name)); strings.Contains(purpose, "prefetch") || strings.Contains(purpose, "preview") {
			return true
		}
	}
	return false
}

// agree takes the form of the confirmation page.
func (s *SignIns) agree(w http.ResponseWriter, r *http.Request, v *visit) error {
	if err := r.ParseForm(); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return err
		}
		return &webui.Problem{Status: http.StatusBadRequest, Code: "bad_form", Title: "The form can’t be read"}
	}
	page, err := s.confirmation(r, v)
	if err != nil {
		return err
	}
	page.Agreed = r.PostForm.Get("agreed") != ""
	switch {
	case r.PostForm.Get("user") != v.user.ID: // in another window, meanwhile
		page.Changed = true
		return s.confirm(w, http.StatusConflict, page)
	case page.Terms != "" && !page.Agreed:
		page.Error = page.T.Say("portal.device.must_agree")
		return s.confirm(w, http.StatusUnprocessableEntity, page)
	}
	return s.finish(w, r, v, page.Terms != "")
}

// confirmation is the page that asks whether all is as it seems.
func (s *SignIns) confirmation(r *http.Request, v *visit) (view.AccountConfirm, error) {
	around, settings, err := s.Frame.Portal(r, "account.confirm.heading")
	if err != nil {
		return view.AccountConfirm{}, err
	}
	t := around.T
	around.Here, around.Keep, around.User = v.path, hidden(v.query), ""
	page := view.AccountConfirm{
		Portal: around, Action: v.address(), Other: v.login("", true), UserID: v.user.ID, Again: v.Again, Fresh: v.fresh,
		Rights: rightsOf(settings, v.Mode, v.mac()),
	}
	if v.Again {
		page.Title = t.Say("account.confirm.heading.again")
	}
	for _, fact := range []view.Fact{
		{Label: t.Say("account.confirm.who"), Value: v.user.Login()},
		{Label: t.Say("account.confirm.apple_account"), Value: v.user.ManagedAppleAccount},
		{Label: t.Say("account.confirm.device"), Value: deviceName(t, v.Product)},
	} {
		if fact.Value != "" {
			page.Facts = append(page.Facts, fact)
		}
	}
	if t.Has("portal.terms") && !v.Again {
		page.Terms = t.HTML("portal.terms")
	}
	return page, nil
}

func (s *SignIns) confirm(w http.ResponseWriter, status int, page view.AccountConfirm) error {
	webui.AllowHandBack(w)
	return s.Pages.Write(w, status, page)
}

// hidden are the parameters of a query.
func hidden(query url.Values) (list []view.Hidden) {
	for _, name := range said {
		for _, value := range query[name] {
			list = append(list, view.Hidden{Name: name, Value: value})
		}
	}
	return list
}

// mac says that the device is one.
func (v *visit) mac() bool { return enroll.FamilyOf(v.Product) == "Mac" }

// rightsOf says what a device lets the organisation do that enrolls in a mode.
func rightsOf(settings enroll.Settings, mode enroll.AccountMode, mac bool) view.Rights {
	can, cannot := privacy.Of(settings.Way(mdm.Institutional).Rights.Bits(), mode == enroll.ModeBYOD, mac)
	return view.Rights{Can: can, Cannot: cannot}
}

// deviceName is what a product is called ("iPhone17,2").
func deviceName(t *text.Texts, product string) string {
	switch family := enroll.FamilyOf(product); family {
	case "":
		return t.Say("portal.done.device")
	case "RealityDevice":
		return "Apple Vision Pro"
	default:
		return string(family)
	}
}

// finish hands back what the device waits for.
func (s *SignIns) finish(w http.ResponseWriter, r *http.Request, v *visit, agreed bool) error {
	h, err := s.Enroll.FinishAccountSignIn(r.Context(), v.ticket, v.user, v.request)
	if err == nil && agreed {
		err = s.Enroll.AgreedToTerms(r.Context(), h.Attempt.ID)
	}
	if err != nil {
		return explain(v, err)
	}
	handBack(w, h.Location)
	return nil
}

// handBack ends the sign-in: the browser view closes, and the device has the query of to
// (PROTOCOL 2.3). The address holds a secret, and stands nowhere else.
func handBack(w http.ResponseWriter, to string) {
	h := w.Header()
	h.Set("Location", to)
	h.Set("Content-Length", "0")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(http.StatusPermanentRedirect)
}

// see sends the browser on, by GET.
func see(w http.ResponseWriter, r *http.Request, path string) error {
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, path, http.StatusSeeOther)
	return nil
}
