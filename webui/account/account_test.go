package account_test

import (
	"html"
	"maps"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/oidc/oidctest"
	"github.com/gatehouse-mdm/gatehouse/webui/account"
)

// methods are run through one after the other: each has a house of its own.
var methods = []enroll.SignInMethod{enroll.MethodWeb, enroll.MethodOAuth2}

const scheme = "apple-remotemanagement-user-login:"

// mayHandBack says whether the forms of a page may lead to a device.
func (pg page) mayHandBack() bool {
	return strings.Contains(pg.header.Get("Content-Security-Policy"), "form-action 'self' "+scheme+";")
}

func TestPeopleSignInWithAPassword(t *testing.T) {
	t.Parallel()
	for _, method := range methods {
		t.Run(string(method), func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, method)
			for _, d := range []device{h.iPhone(t), h.mac(t)} {
				p := h.person(t)
				at := p.get(d.challenge("ana@example.com")).at(t, "/login")
				at.has(t, 200, `value="ana@example.com"`)
				lead := map[enroll.AccountMode]string{enroll.ModeBYOD: "this personal device", enroll.ModeADDE: "then manages"}
				at.has(t, 200, lead[d.mode])
				if !at.mayHandBack() {
					t.Errorf("the login's form leads nowhere but here: %s", at.header.Get("Content-Security-Policy"))
				}
				wrong := p.send(at, "/login", "email", "ana@example.com", "password", "wrong")
				wrong.has(t, 401, "GH-E201")
				if !wrong.mayHandBack() {
					t.Error("after a wrong password the form leads nowhere but here")
				}
				handed := p.send(wrong, "/login", "email", "ana@example.com", "password", password).handedBack(t)
				d.wantProfile(d.redeem(handed), "ana@work.example.com")
			}
		})
	}
}

// TestOtherFormsLeadNowhereElse holds that the scheme is allowed where it is needed.
func TestOtherFormsLeadNowhereElse(t *testing.T) {
	t.Parallel()
	h := newHouse(t, enroll.MethodWeb)
	for _, path := range []string{"/login", "/login?next=/me", "/enroll/byod", "/enroll/byod/sign-in/x"} {
		if h.person(t).get(path).mayHandBack() {
			t.Errorf("forms of %s may lead to a device", path)
		}
	}
}

func TestPeopleSignInWithASecondFactor(t *testing.T) {
	t.Parallel()
	for _, method := range methods {
		t.Run(string(method), func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, method)
			setup, err := h.people.BeginSecondFactor(t.Context(), h.ben.ID, "Gatehouse")
			must(t, err)
			_, _, err = h.people.ConfirmSecondFactor(t.Context(), h.ben.ID, totp(t, setup.Key.Reveal(), h.now()), "198.51.100.7")
			must(t, err)
			h.pass(time.Minute)
			d, p := h.iPhone(t), h.person(t)
			at := p.signIn(p.get(d.challenge("ben@example.com")), "ben").at(t, "/login/code")
			if !at.mayHandBack() {
				t.Error("the form for the code leads nowhere but here")
			}
			wrong := p.send(at, "/login/code", "code", "000000").has(t, 401, "GH-E208")
			if !wrong.mayHandBack() {
				t.Error("after a wrong code the form leads nowhere but here")
			}
			handed := p.send(wrong, "/login/code", "code", totp(t, setup.Key.Reveal(), h.now())).handedBack(t)
			d.wantProfile(d.redeem(handed), "ben@work.example.com")
		})
	}
}

func TestPeopleSignInAtAProvider(t *testing.T) {
	t.Parallel()
	for _, method := range methods {
		t.Run(string(method), func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, method)
			idp, p := h.standIn(t, []identity.Use{identity.UseUser}, map[string]any{
				"sub": "1", "preferred_username": "zoe", "email": "zoe@example.com", "email_verified": true, "managed_apple_account": "zoe@work.example.com",
			})
			d, zoe := h.iPhone(t), h.person(t)
			at := zoe.get(d.challenge("zoe@example.com")).at(t, "/login")
			away := zoe.send(at, "/login/with/"+p.ID)
			_, to, _ := strings.Cut(away.header.Get("Refresh"), "url=")
			asked, err := url.Parse(to)
			must(t, err)
			if hint := asked.Query().Get("login_hint"); hint != "zoe@example.com" {
				t.Errorf("the provider is told of %q", hint)
			}
			back := zoe.get("/login/with/" + p.ID + "/callback?" + idp.Authorize(t, to).Encode())
			if u := h.user(t, "zoe"); u.ManagedAppleAccount == "" {
				back.has(t, 403, "GH-E502", "zoe@example.com")
				account := "zoe@work.example.com"
				_, err := h.people.UpdateUser(t.Context(), identity.Local(), u.ID, identity.UserChange{ManagedAppleAccount: &account})
				must(t, err)
				back = zoe.get(back.path) // nothing is lost: again, when it is known
			}
			d.wantProfile(d.redeem(back.handedBack(t)), "zoe@work.example.com")

			// Its accounts are not for the organisation's own devices.
			at = h.person(t).get(h.mac(t).challenge("zoe@example.com")).at(t, "/login")
			if strings.Contains(at.body, "/login/with/"+p.ID) {
				t.Error("a provider is offered that is for other devices")
			}
			refused := h.person(t).do("POST", "/login/with/"+p.ID, url.Values{"next": {h.mac(t).challenge("zoe@example.com")}})
			refused.has(t, 404, "GH-E212")
		})
	}
}

// zoe is known to a provider, which sends her back at once.
var zoe = map[string]any{"sub": "1", "preferred_username": "zoe", "email": "zoe@example.com", "email_verified": true}

// goes begins a sign-in at a provider, and returns where it leads the browser.
func (p *person) goes(at page, provider identity.Provider) (to string) {
	p.t.Helper()
	_, to, _ = strings.Cut(p.send(at.at(p.t, "/login"), "/login/with/"+provider.ID).header.Get("Refresh"), "url=")
	return to
}

// otherLink follows the link by which somebody else signs in.
func (p *person) otherLink(at page) page {
	p.t.Helper()
	link := regexp.MustCompile(`class="button(?: plain)?" href="(/login[^"]*)"`).FindStringSubmatch(at.body)
	if link == nil {
		p.t.Fatalf("nobody else can sign in:\n%s", at.body)
	}
	return p.get(html.UnescapeString(link[1])).at(p.t, "/login")
}

// TestAProviderThatAsksNobody has signed in whom it remembers: any app could open the address
// and catch what is handed back.
func TestAProviderThatAsksNobody(t *testing.T) {
	t.Parallel()
	h := newHouse(t, enroll.MethodWeb)
	idp, p := h.standIn(t, []identity.Use{identity.UseUser}, zoe)
	d := h.iPhone(t)
	account := "zoe@work.example.com"
	for name, tt := range map[string]struct {
		authenticated any
		asked         bool
	}{
		"who has proved it just now goes on":     {h.now().Unix(), false},
		"who has done so four minutes ago, too":  {h.now().Add(-4 * time.Minute).Unix(), false},
		"who has done so long ago is asked":      {h.now().Add(-6 * time.Minute).Unix(), true},
		"who will have done so is asked":         {h.now().Add(2 * time.Minute).Unix(), true},
		"who has done so nobody knows when, too": {nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			claims := maps.Clone(zoe)
			claims["auth_time"], claims["managed_apple_account"] = tt.authenticated, account
			idp.Change(func(b *oidctest.Behaviour) { b.Claims = claims })
			who := h.person(t)
			// By a name that is not known to be theirs: they come back to be asked, and not
			// to sign in for ever.
			to := who.goes(who.get(d.challenge("z.example@example.com")), p)
			back := who.get("/login/with/" + p.ID + "/callback?" + idp.Authorize(t, to).Encode())
			u := h.user(t, "zoe")
			if u.ManagedAppleAccount == "" {
				_, err := h.people.UpdateUser(t.Context(), identity.Local(), u.ID, identity.UserChange{ManagedAppleAccount: &account})
				must(t, err)
				back = who.get(back.path)
			}
			if tt.asked {
				back = who.send(back.has(t, 200, "Set up this device?", "zoe@example.com", "Continue only if"), "/enroll/byod/")
			}
			d.wantProfile(d.redeem(back.handedBack(t)), account)
		})
	}
}

// TestSomebodyElseCanSignInAtAProvider: providers remember people, and would sign the same
// person in again.
func TestSomebodyElseCanSignInAtAProvider(t *testing.T) {
	t.Parallel()
	h := newHouse(t, enroll.MethodWeb)
	idp, p := h.standIn(t, []identity.Use{identity.UseUser}, zoe)
	d, who := h.iPhone(t), h.person(t)
	to := who.goes(who.get(d.challenge("zoe@example.com")), p)
	back := "/login/with/" + p.ID + "/callback?" + idp.Authorize(t, to).Encode()
	refused := who.get(back).has(t, 403, "GH-E502")
	// The provider's page and on again, by a state that was used: they are in, and go on to
	// the device.
	if again := who.get(back).has(t, 403, "GH-E502"); again.path != refused.path {
		t.Errorf("they come to %s", again.path)
	}
	asked := func(at page) url.Values {
		t.Helper()
		to, err := url.Parse(who.goes(at, p))
		must(t, err)
		return to.Query()
	}
	sent := asked(who.otherLink(refused))
	if sent.Get("prompt") != "select_account" || sent.Has("login_hint") {
		t.Errorf("the provider is asked with prompt %q, for %q", sent.Get("prompt"), sent.Get("login_hint"))
	}
	// They say no there, and it is somebody else still.
	denied := who.get("/login/with/"+p.ID+"/callback?"+url.Values{"state": {sent.Get("state")}, "error": {"access_denied"}, "iss": {idp.Issuer}}.Encode()).has(t, 403, "GH-E211")
	if sent := asked(who.otherLink(denied)); sent.Get("prompt") != "select_account" {
		t.Errorf("then the provider is asked with prompt %q", sent.Get("prompt"))
	}
	// Who the device says it is, and is not signed in, is whom the provider is told of.
	if sent := asked(who.get(d.challenge("ana"))); sent.Get("prompt") != "select_account" || sent.Get("login_hint") != "ana" {
		t.Errorf("for another person the provider is asked with prompt %q, for %q", sent.Get("prompt"), sent.Get("login_hint"))
	}
}

// TestSomebodyElseMayMistypeAPassword, and look at the page in another language.
func TestSomebodyElseMayMistypeAPassword(t *testing.T) {
	t.Parallel()
	h := newHouse(t, enroll.MethodWeb)
	p := h.person(t)
	p.signIn(p.get("/login?next=/me"), "ana").at(t, "/me")
	d := h.iPhone(t)
	at := p.otherLink(p.get(d.challenge("ana")))
	wrong := p.send(at, "/login", "email", "ben", "password", "wrong").has(t, 401, "GH-E201")
	link := regexp.MustCompile(`href="(/login[^"]*lang=de[^"]*)"`).FindStringSubmatch(wrong.body)
	if link == nil {
		t.Fatalf("no other language:\n%s", wrong.body)
	}
	d.wantProfile(d.redeem(p.signIn(p.get(html.UnescapeString(link[1])), "ben").handedBack(t)), "ben@work.example.com")
}

// TestNobodySignsOutInTheView, as the way to the device would be lost: somebody else signs in.
func TestNobodySignsOutInTheView(t *testing.T) {
	t.Parallel()
	h := newHouse(t, enroll.MethodWeb)
	p := h.person(t)
	refused := p.signIn(p.get(h.iPhone(t).challenge("carl")), "carl").has(t, 403, "GH-E502")
	if strings.Contains(refused.body, "/logout") {
		t.Errorf("they can sign out:\n%s", refused.body)
	}
	p.signIn(p.otherLink(refused), "ana").handedBack(t)
}

func (h *house) user(t testing.TB, login string) identity.User {
	t.Helper()
	list, _, err := h.people.Users(t.Context(), "", 100)
	must(t, err)
	for _, u := range list {
		if u.Username == login {
			return u
		}
	}
	t.Fatalf("there is no user %s", login)
	return identity.User{}
}

// TestAnOldSessionGivesNothingUnasked is about other apps, whose browser views have the same
// cookies: they could catch what is handed back.
func TestAnOldSessionGivesNothingUnasked(t *testing.T) {
	t.Parallel()
	for _, method := range methods {
		t.Run(string(method), func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, method)
			p := h.person(t)
			p.signIn(p.get("/login?next=/me"), "ana").at(t, "/me")
			d := h.iPhone(t)
			for _, typed := range []string{"ana@example.com", "ANA", "Ana@Work.Example.com", ""} {
				path := d.challenge(typed)
				at := p.get(path).has(t, 200, "Set up this device?", "ana@example.com", "ana@work.example.com", "iPhone", "Your organization can’t", "Somebody else?")
				if !at.mayHandBack() {
					t.Error("the form leads nowhere but here")
				}
				handed := p.send(at, "/enroll/byod/").handedBack(t)
				d.wantProfile(d.redeem(handed), "ana@work.example.com")
				// What was confirmed once is asked again: the session is as old as before.
				p.get(path).has(t, 200, "Set up this device?")
			}
			// Nor does a session that was begun for another device count, or after the ticket was made.
			early := d.challenge("ana@example.com")
			h.pass(time.Minute)
			other := h.person(t)
			other.signIn(other.get(d.challenge("ana@example.com")), "ana").handedBack(t)
			other.get(early).has(t, 200, "Set up this device?")

			// Who was typed on the device is another person, who is asked for the password.
			ben := p.get(d.challenge("ben@example.com")).at(t, "/login")
			ben.has(t, 200, `value="ben@example.com"`)
			d.wantProfile(d.redeem(p.signIn(ben, "ben").handedBack(t)), "ben@work.example.com")
			// And who says so may be somebody else.
			at := p.get(d.challenge("ben")).has(t, 200, "ben@example.com")
			link := regexp.MustCompile(`href="(/login[^"]*)"`).FindStringSubmatch(at.body)
			if link == nil {
				t.Fatalf("nobody else can sign in:\n%s", at.body)
			}
			d.wantProfile(d.redeem(p.signIn(p.get(strings.ReplaceAll(link[1], "&amp;", "&")), "ana").handedBack(t)), "ana@work.example.com")
		})
	}
}

// TestWhatIsSaidOfAPersonalMacIsTrue: Apple allows no DeviceLock there (PROTOCOL 5.5).
func TestWhatIsSaidOfAPersonalMacIsTrue(t *testing.T) {
	t.Parallel()
	h := newHouse(t, enroll.MethodWeb)
	p := h.person(t)
	p.signIn(p.get("/login?next=/me"), "ana").at(t, "/me")
	lock := func(at page) bool {
		t.Helper()
		can, cannot, _ := strings.Cut(at.has(t, 200, "Your organization can’t").body, "Your organization can’t")
		if strings.Contains(can, "<li>Lock the screen</li>") == strings.Contains(cannot, "<li>Lock the screen</li>") {
			t.Errorf("it is not said whether the screen is locked:\n%s", at.body)
		}
		return strings.Contains(can, "<li>Lock the screen</li>")
	}
	if !lock(p.get(h.iPhone(t).challenge("ana"))) {
		t.Error("the organisation is said not to lock the screen of an iPhone")
	}
	h.policy(t, func(c *enroll.AccountDriven) { c.Domains[0].Policy["Mac"] = enroll.ModeBYOD })
	d := h.mac(t)
	d.mode = enroll.ModeBYOD
	if lock(p.get(d.challenge("ana")).has(t, 200, "Set up this device?", "Mac")) {
		t.Error("the organisation is said to lock the screen of a Mac")
	}
}

// TestAFormIsSentByWhoWasAsked signs somebody else in while the page is on the screen.
func TestAFormIsSentByWhoWasAsked(t *testing.T) {
	t.Parallel()
	h := newHouse(t, enroll.MethodWeb)
	p := h.person(t)
	p.signIn(p.get("/login?next=/me"), "ana").at(t, "/me")
	at := p.get(h.iPhone(t).challenge("ana"))
	p.signIn(p.get("/login?next=/me&switch=1"), "ben").at(t, "/me")
	changed := p.send(at, "/enroll/byod/").has(t, 409, "Somebody else has signed in", "ben@example.com")
	p.send(changed, "/enroll/byod/").handedBack(t)

	// Without a session it is asked who is there, and nothing is lost.
	at = p.get(h.iPhone(t).challenge("ben"))
	p.do("POST", "/logout", url.Values{})
	p.signIn(p.send(at, "/enroll/byod/"), "ben").handedBack(t)

	// Another site's form does nothing.
	p.do("POST", h.iPhone(t).challenge("ben"), url.Values{"user": {h.ben.ID}}, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site").has(t, 403, "GH-E005")
}

func TestTermsAreAgreedTo(t *testing.T) {
	t.Parallel()
	h := newHouse(t, enroll.MethodOAuth2)
	must(t, h.texts.Change(t.Context(), "test", "en", map[string]string{"portal.terms": "Be **good**."}))
	d, p := h.iPhone(t), h.person(t)
	at := p.signIn(p.get(d.challenge("ana")), "ana").has(t, 200, "Terms of use", "<strong>good</strong>", "You are signed in.", `name="agreed"`)
	at = p.send(at, "/enroll/byod/").has(t, 422, "To go on, agree", `role="alert"`)
	d.wantProfile(d.redeem(p.send(at, "/enroll/byod/", "agreed", "yes").handedBack(t)), "ana@work.example.com")
	for id := range attempts(h.log.String()) {
		if a, err := h.Attempt(t.Context(), id); err != nil || a.Account.AgreedAt.IsZero() {
			t.Errorf("the attempt does not say that the terms were agreed to: %+v, %v", a.Account, err)
		}
	}
}

// TestAPlusSignIsKept: what people type comes as they typed it, and a query says + for a space.
func TestAPlusSignIsKept(t *testing.T) {
	t.Parallel()
	h := newHouse(t, enroll.MethodWeb)
	h.person(t).get(h.iPhone(t).challenge("ana+work@example.com")).has(t, 200, `value="ana+work@example.com"`)
}

// TestWhatStandsInTheWay runs through all that can be wrong. What is wrong with the device is
// said before anybody signs in.
func TestWhatStandsInTheWay(t *testing.T) {
	t.Parallel()
	h := newHouse(t, enroll.MethodWeb)
	_, err := h.people.CreateUser(t.Context(), identity.Local(), identity.NewUser{Username: "dora", Password: password, ManagedAppleAccount: "dora@work.example.com", NoEnroll: true})
	must(t, err)
	_, err = h.people.CreateUser(t.Context(), identity.Local(), identity.NewUser{Username: "eve", Password: password, ManagedAppleAccount: "eve@elsewhere.example"})
	must(t, err)
	h.set(t, func(s *enroll.Settings) { s.AccountDomains = []string{"work.example.com"} })
	good := h.iPhone(t).challenge("ana")
	ticket := strings.TrimPrefix(strings.TrimSuffix(good, "?user-identifier=ana"), "/enroll/byod/sign-in/")
	tampered := []byte(ticket)
	tampered[len(tampered)/2] ^= 1

	for name, tt := range map[string]struct {
		path   string
		as     string // signs in first; empty: it is said to anybody
		status int
		want   []string
	}{
		"a ticket of nobody's":             {path: "/enroll/byod/sign-in/x", status: 410, want: []string{"GH-E501", "begin again in Settings"}},
		"a ticket that was tampered with":  {path: "/enroll/byod/sign-in/" + string(tampered), status: 410, want: []string{"GH-E501"}},
		"a ticket at the other mode":       {path: "/enroll/adde/sign-in/" + ticket, status: 410, want: []string{"GH-E501"}},
		"a ticket at the other method":     {path: "/enroll/byod/authorize/" + ticket, status: 410, want: []string{"GH-E501"}},
		"nobody knows the Apple account":   {path: good, as: "carl", status: 403, want: []string{"GH-E502", "carl@example.com", "Sign in as somebody else"}},
		"the Apple account is elsewhere":   {path: good, as: "eve", status: 403, want: []string{"GH-E503", "eve"}},
		"the user may not enroll":          {path: good, as: "dora", status: 403, want: []string{"GH-E106", "dora"}},
		"the wrong part of a query string": {path: good + "&%zz", status: 400, want: []string{"GH-E003"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := h.person(t)
			at := p.get(tt.path)
			if tt.as != "" {
				at = p.signIn(at, tt.as)
			}
			at.has(t, tt.status, append(tt.want, `role="alert"`)...)
			if tt.as == "" {
				return
			}
			link := regexp.MustCompile(`class="button" href="(/login[^"]*)"`).FindStringSubmatch(at.body)
			if link == nil {
				t.Fatalf("there is no way on:\n%s", at.body)
			}
			p.signIn(p.get(strings.ReplaceAll(link[1], "&amp;", "&")), "ana").handedBack(t)
		})
	}

	t.Run("two people in one browser view", func(t *testing.T) {
		p, path := h.person(t), h.iPhone(t).challenge("")
		p.signIn(p.get(path), "ana").handedBack(t)
		p.signIn(p.get("/login?switch=1&next="+url.QueryEscape(path)), "ben").has(t, 403, "GH-E504", "ben@example.com")
	})
	t.Run("a system that is too old", func(t *testing.T) {
		d := h.mac(t)
		path := d.challenge("ana")
		h.policy(t, func(c *enroll.AccountDriven) { c.MinimumOS = map[enroll.ModelFamily]string{"Mac": "26.1"} })
		h.person(t).get(path).has(t, 403, "GH-E506", "26.1", "15.5", "System Settings", "Software Update")
		d.version = ""
		h.person(t).get(d.challenge("ana")).has(t, 403, "GH-E506", "26.1", "System Settings")
	})
	t.Run("a mode that was switched off", func(t *testing.T) {
		path := h.mac(t).challenge("ana")
		h.policy(t, func(c *enroll.AccountDriven) {
			c.MinimumOS = nil
			c.Domains[0].Policy["Mac"] = enroll.ModeOff
		})
		h.person(t).get(path).has(t, 403, "GH-E505")
		h.person(t).get("/enroll/adde").has(t, 403, "GH-E505")
	})
	t.Run("a ticket that is too old", func(t *testing.T) {
		p := h.person(t)
		at := p.get(good).at(t, "/login")
		h.pass(61 * time.Minute)
		p.signIn(at, "ana").has(t, 410, "GH-E501")
	})
}

func TestAuthorizationRequestsThatAreRefused(t *testing.T) {
	t.Parallel()
	h := newHouse(t, enroll.MethodOAuth2)
	good := h.iPhone(t).challenge("ana")
	for name, tt := range map[string]struct {
		change   func(url.Values)
		status   int
		code     string
		location string // what it must hold
	}{
		"another client":           {change: func(q url.Values) { q.Set("client_id", "evil") }, status: 400, code: "GH-E507"},
		"no client":                {change: func(q url.Values) { q.Del("client_id") }, status: 400, code: "GH-E507"},
		"another place to return":  {change: func(q url.Values) { q.Set("redirect_uri", "https://evil.example/") }, status: 400, code: "GH-E507"},
		"the place and some more":  {change: func(q url.Values) { q.Set("redirect_uri", enroll.OAuthRedirectURI+"/x") }, status: 400, code: "GH-E507"},
		"two places":               {change: func(q url.Values) { q.Add("redirect_uri", "https://evil.example/") }, status: 400, code: "GH-E507"},
		"a token instead of codes": {change: func(q url.Values) { q.Set("response_type", "token") }, status: 308, location: "error=unsupported_response_type"},
		"another scope":            {change: func(q url.Values) { q.Set("scope", "all") }, status: 308, location: "error=invalid_scope"},
		"a state of 600 letters":   {change: func(q url.Values) { q.Set("state", strings.Repeat("x", 600)) }, status: 308, location: "error=invalid_request"},
		"two states":               {change: func(q url.Values) { q.Add("state", "y") }, status: 308, location: "error=invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := url.Parse(good)
			must(t, err)
			query := u.Query()
			tt.change(query)
			at := h.person(t).get(u.Path + "?" + query.Encode())
			if tt.status != 308 {
				at.has(t, tt.status, tt.code)
				if to := at.header.Get("Location"); to != "" {
					t.Errorf("the browser is sent to %s", to)
				}
				return
			}
			if values := at.handedBack(t); !strings.Contains(at.header.Get("Location"), tt.location) || values.Get("code") != "" {
				t.Errorf("the device is told %s, want %s", at.header.Get("Location"), tt.location)
			}
		})
	}
}

// TestLongAnswersSurviveTheLogin takes the longest request that there can be through it.
func TestLongAnswersSurviveTheLogin(t *testing.T) {
	t.Parallel()
	h := newHouse(t, enroll.MethodOAuth2)
	u, err := url.Parse(h.iPhone(t).challenge("ana"))
	must(t, err)
	query := u.Query()
	long := strings.Repeat("%/ ü", 100) // 500 bytes, each of which takes three in an address
	query.Set("state", long)
	query.Set("login_hint", strings.Repeat("ü", 117)+"@example.com")
	query.Set("scope", "MDM")
	query.Set("code_challenge", strings.Repeat("x", 128))
	query.Set("code_challenge_method", "S256")
	p := h.person(t)
	handed := p.signIn(p.get(u.Path+"?"+query.Encode()), "ana").handedBack(t)
	if handed.Get("state") != long || handed.Get("code") == "" {
		t.Errorf("handed back is %v", handed)
	}
}

// TestWhoOnlyLooksGetsNothing is about programs that open addresses ahead.
func TestWhoOnlyLooksGetsNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t, enroll.MethodWeb)
	d, p := h.iPhone(t), h.person(t)
	path := d.challenge("ana")
	p.signIn(p.get(path), "ana").handedBack(t)
	for _, header := range [][]string{{"Sec-Purpose", "prefetch"}, {"Sec-Purpose", "prefetch;prerender"}, {"Purpose", "prefetch"}, {"X-Moz", "prefetch"}, {"X-Purpose", "preview"}} {
		p.get(path, header...).has(t, 200, "Set up this device?")
	}
	if at := p.do("HEAD", path, nil); at.status != 200 || at.header.Get("Location") != "" {
		t.Errorf("HEAD is answered %d, %v", at.status, at.header)
	}
	if n := strings.Count(h.log.String(), `msg="signed in on device"`); n != 1 {
		t.Errorf("%d sign-ins were finished, want 1", n)
	}
}

func TestBackAndReload(t *testing.T) {
	t.Parallel()
	h := newHouse(t, enroll.MethodWeb)
	d, p := h.iPhone(t), h.person(t)
	path := d.challenge("ana@example.com")
	login := p.get(path)
	first := p.signIn(login, "ana").handedBack(t)
	again := p.get(path).handedBack(t)
	if first.Get("access-token") == again.Get("access-token") {
		t.Error("the same token was made twice")
	}
	p.signIn(login, "ana").handedBack(t) // the form, sent once more
	// Any of them will do, and there is one attempt.
	d.wantProfile(first.Get("access-token"), "ana@work.example.com")
	d.wantProfile(again.Get("access-token"), "ana@work.example.com")
	if ids := attempts(h.log.String()); len(ids) != 1 {
		t.Errorf("there are the attempts %v, want one", ids)
	}
}

// attempts are those that a log tells of as signed in.
func attempts(log string) map[string]bool {
	ids := map[string]bool{}
	for _, found := range regexp.MustCompile(`msg="signed in on device" attempt=(\S+)`).FindAllStringSubmatch(log, -1) {
		ids[found[1]] = true
	}
	return ids
}

// TestTwoSignInsInOneBrowser takes two devices through one browser at once, and one of them
// twice.
func TestTwoSignInsInOneBrowser(t *testing.T) {
	t.Parallel()
	h := newHouse(t, enroll.MethodWeb)
	phone, mac, p := h.iPhone(t), h.mac(t), h.person(t)
	one, two := phone.challenge("ana"), mac.challenge("ana")
	first, second := p.get(one).at(t, "/login"), p.get(two).at(t, "/login")
	mac.wantProfile(mac.redeem(p.signIn(second, "ana").handedBack(t)), "ana@work.example.com")
	phone.wantProfile(phone.redeem(p.signIn(first, "ana").handedBack(t)), "ana@work.example.com")
	p.get(two).has(t, 200, "Set up this device?", "Mac") // the sign-in after it was for the other

	var all sync.WaitGroup
	results := make([]page, 4)
	for i := range results {
		all.Go(func() { results[i] = p.get(one) })
	}
	all.Wait()
	for _, at := range results {
		at.handedBack(t)
	}
	if ids := attempts(h.log.String()); len(ids) != 2 {
		t.Errorf("there are the attempts %v, want two", ids)
	}
}

// TestNothingOfTheHandBackIsKept looks for what is handed back, and for the ticket, in all
// that is written down or shown.
func TestNothingOfTheHandBackIsKept(t *testing.T) {
	t.Parallel()
	for _, method := range methods {
		t.Run(string(method), func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, method)
			d, p := h.iPhone(t), h.person(t)
			path := d.challenge("ana@example.com")
			handed := p.signIn(p.get(path), "ana").handedBack(t)
			secrets := []string{handed.Get("access-token") + handed.Get("code"), strings.Split(strings.SplitN(path, "?", 2)[0], "/")[4]}
			if method == enroll.MethodOAuth2 {
				secrets = append(secrets, d.redeem(handed))
			} else {
				d.wantProfile(secrets[0], "ana@work.example.com")
			}
			// And in what comes behind it, with all that a browser may say of where it was.
			behind := p.get("/enroll/byod/sign-in/x", "Referer", h.url+path+"#"+handed.Encode())
			behind.has(t, 410, "GH-E501")
			pages := behind.body + p.get("/me").body
			for _, secret := range secrets {
				if len(secret) < 40 {
					t.Fatalf("%q is no secret", secret)
				}
				if strings.Contains(h.log.String(), secret) {
					t.Errorf("the log holds %q", secret)
				}
				if strings.Contains(pages, secret) {
					t.Errorf("a page holds %q", secret)
				}
			}
			if !strings.Contains(h.log.String(), "route=\"GET /enroll/byod/") {
				t.Error("the log holds no request: the test looks at nothing")
			}
		})
	}
}

// TestStartingInABrowser is about people who open the address that their devices use.
func TestStartingInABrowser(t *testing.T) {
	t.Parallel()
	h := newHouse(t, enroll.MethodWeb)
	p := h.person(t)
	p.get("/enroll/byod").has(t, 200, "Sign In to Work or School Account", "VPN & Device Management", "only what is for work", "iPhone")
	p.get("/enroll/adde").has(t, 200, "Sign In to Work or School Account", "System Settings", "Device Management", "On macOS 14", "Privacy & Security", "Profiles", "the whole device", "On a Mac")
	p.get("/enroll/byod?lang=de").has(t, 200, "Einstellungen", `lang="de"`)
}

// TestLanguagesKeepTheWay changes the language on the way: what the device said stays.
func TestLanguagesKeepTheWay(t *testing.T) {
	t.Parallel()
	h := newHouse(t, enroll.MethodOAuth2)
	p := h.person(t)
	german := regexp.MustCompile(`href="([^"]*lang=de)"`)
	follow := func(at page) page {
		t.Helper()
		link := german.FindStringSubmatch(at.body)
		if link == nil {
			t.Fatalf("%s is in one language:\n%s", at.path, at.body)
		}
		return p.get(strings.ReplaceAll(link[1], "&amp;", "&"))
	}
	at := follow(p.get(h.iPhone(t).challenge("carl"))).at(t, "/login").has(t, 200, `value="carl"`, "Anmelden")
	at = p.signIn(at, "carl").has(t, 403, "GH-E502", "Verwalteter Apple Account")
	follow(at).has(t, 403, "GH-E502")
	follow(p.get(h.iPhone(t).challenge("carl"))).has(t, 200, "Dieses Gerät einrichten?")
}

func TestRefusalsHaveCodesOfTheirOwn(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, r := range account.Refusals() {
		if seen[r.Code] {
			t.Errorf("%s is used twice", r.Code)
		}
		seen[r.Code] = true
		if r.Status < 400 || r.Status >= 500 {
			t.Errorf("%s has status %d, which keeps a browser view open no better than a fault of ours", r.Code, r.Status)
		}
	}
}
