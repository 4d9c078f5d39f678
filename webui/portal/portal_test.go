package portal_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

func TestPersonEnrollsADevice(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{ownCA: true})
	ana := h.person(t, safari26)
	ana.get("/enroll").has(t, "Set up this iPhone", `action="/enroll/start"`)

	path, at := ana.begin()
	at = ana.signIn(at, "ana").at(t, "device").has(t, "It is mine", "It belongs to the organization", "Step 2 of 5")
	if strings.Contains(at.body, "checked") {
		t.Error("something is chosen already")
	}
	// Nothing chosen, and what can't be chosen.
	if bad := ana.post(path + "/device"); bad.status != http.StatusUnprocessableEntity {
		t.Errorf("nothing chosen = %d", bad.status)
	} else {
		bad.has(t, `role="alert"`, "Choose one of the two")
	}
	if bad := ana.post(path+"/device", "ownership", "mine"); bad.status != http.StatusUnprocessableEntity {
		t.Errorf("tampered form = %d", bad.status)
	} else {
		bad.has(t, "GH-E120")
	}
	ana.post(path+"/device", "ownership", "personal").at(t, "certificate").has(t, "Gatehouse CA", "SHA-256", "This website is trying to download a configuration profile")

	// Further than one may go leads back to where one is.
	ana.get(path+"/profile").at(t, "certificate")
	if file := ana.get(path + "/ca.mobileconfig"); file.status != 200 || file.body != "profile of the root" || file.header.Get("Content-Type") != "application/x-apple-aspen-config" {
		t.Errorf("profile of the root: %+v", file)
	}
	ana.get(path).at(t, "trust").has(t, "Certificate Trust Settings")
	ana.get(path+"/certificate").at(t, "certificate").has(t, `data-left="480"`, "Download again")
	ana.post(path+"/trust").at(t, "profile").has(t, "What this changes", "Erase the device", "Install Profile")

	// Another choice is possible until a certificate is issued.
	ana.post(path+"/device", "ownership", "institutional").at(t, "profile")
	ana.post(path+"/device", "ownership", "personal").at(t, "profile")

	if head := ana.do("HEAD", path+"/enroll.mobileconfig", nil, "*/*"); head.status != 200 {
		t.Errorf("HEAD = %d", head.status)
	}
	if a, err := h.Attempt(t.Context(), idOf(path)); err != nil || a.Stage != enroll.Authenticated {
		t.Errorf("after HEAD: %+v, %v", a, err)
	}
	file := ana.get(path + "/enroll.mobileconfig")
	if file.status != 200 || file.header.Get("Cache-Control") != "no-store, no-transform" {
		t.Fatalf("profile: %+v", file)
	}
	ana.get(path).at(t, "status").has(t, `data-stage="profile_downloaded"`, "Profile downloaded")
	ana.get(path+"/profile").at(t, "profile") // to read the steps again

	d := h.phone(t)
	must(t, d.EnrollProfile(t.Context(), []byte(file.body)))
	ana.get(path).at(t, "status").has(t, `data-stage="enrolled"`, "all set", "You can close this page", "ana@example.com", `<h2 id="device"><bdi>iPhone</bdi></h2>`)
	// Every step that is over shows where the person is.
	for _, step := range []string{"device", "certificate", "trust", "account", "account-driven", "profile"} {
		ana.get(path+"/"+step).at(t, "status")
	}
	for _, step := range []string{"device", "account", "again"} {
		ana.post(path+"/"+step, "ownership", "personal").at(t, "status")
	}
	if again := ana.get(path + "/enroll.mobileconfig"); !strings.HasSuffix(again.path, "/status") {
		t.Errorf("another profile after all: %s", again.path)
	}

	// The same device again: the person is told before and after.
	h.pass(time.Hour)
	path, at = ana.begin()
	if !strings.HasSuffix(at.path, "/device") {
		t.Fatalf("who is signed in is asked again: %s", at.path)
	}
	ana.post(path+"/device", "ownership", "personal")
	ana.post(path+"/trust").at(t, "profile").has(t, "You have set up a device before", "<strong>iPhone</strong>, since")
	must(t, h.phone(t).EnrollProfile(t.Context(), []byte(ana.get(path+"/enroll.mobileconfig").body)))
}

func idOf(path string) string { return strings.TrimPrefix(path, "/enroll/a/") }

func TestWhoMayGoOn(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	ana := h.person(t, safari26)
	path, at := ana.begin()
	// Whoever knows the address of an enrollment that is nobody's yet goes on with it.
	ana.signIn(at, "ana").at(t, "device")

	stranger := h.person(t, windows)
	for _, step := range []string{"", "/device", "/profile", "/enroll.mobileconfig"} {
		got := stranger.get(path + step)
		if !strings.HasPrefix(got.path, "/login?") || !strings.Contains(got.path, "again=1") || !strings.Contains(got.path, url.QueryEscape(path)) {
			t.Errorf("a stranger at %q is sent to %s", step, got.path)
		}
	}
	status := stranger.get(path+"/status").at(t, "status")
	if strings.Contains(status.body, "ana@") || strings.Contains(status.body, "/again") {
		t.Errorf("a stranger sees:\n%s", status.body)
	}
	ben := h.person(t, safari26)
	ben.get("/login?as=ben&next=/enroll")
	for _, step := range []string{"", "/device", "/enroll.mobileconfig"} {
		if got := ben.get(path + step); got.status != http.StatusForbidden {
			t.Errorf("another person at %q = %d", step, got.status)
		} else {
			got.has(t, "GH-E115")
		}
	}
	if got := ben.post(path+"/device", "ownership", "personal"); got.status != http.StatusForbidden {
		t.Errorf("another person chooses: %d", got.status)
	}
	// The cookie got lost: after signing in again, it goes on where it was.
	ana = h.person(t, safari26)
	ana.signIn(ana.get(path+"/device"), "ana").at(t, "device")

	// Nobody signs in, and the address is no secret: what counts is who opened the link.
	l := h.link(t, enroll.NewLink{Login: enroll.LoginNone, Ownership: mdm.Personal})
	cyd := h.person(t, safari26)
	path, at = cyd.begin("link", l.Code)
	at.at(t, "profile")
	for name, other := range map[string]*person{"another browser": h.person(t, safari26), "who is signed in": ben} {
		for _, step := range []string{"", "/profile", "/enroll.mobileconfig", "/ca.mobileconfig"} {
			got := other.get(path + step)
			if got.status != http.StatusForbidden || strings.Contains(got.body, l.Code) {
				t.Errorf("%s at %q = %d", name, step, got.status)
			}
			got.has(t, "GH-E124", path+"/status")
		}
		for _, step := range []string{"/device", "/trust", "/account", "/again"} {
			if got := other.post(path+step, "ownership", "personal"); got.status != http.StatusForbidden {
				t.Errorf("%s posts %q: %d", name, step, got.status)
			}
		}
		other.get(path+"/status").at(t, "status")
	}
	again := h.person(t, safari26)
	if other, at := again.begin("link", l.Code); other == path {
		t.Errorf("the link opened again in another browser goes on with the first's enrollment")
	} else {
		at.at(t, "profile")
	}
	cyd.get(path).at(t, "profile")
}

func TestLinkThatNamesSomebodyTellsNobodyAboutThem(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	account := "ana@appleid.example.com"
	_, err := h.people.UpdateUser(t.Context(), identity.Local(), h.ana.ID, identity.UserChange{ManagedAppleAccount: &account})
	must(t, err)
	named := func(o mdm.Ownership) string {
		return h.link(t, enroll.NewLink{Login: enroll.LoginNone, User: "ana@example.com", Ownership: o}).Code
	}
	must(t, h.phone(t).EnrollProfile(t.Context(), []byte(h.person(t, safari26).get("/enroll/l/"+named(mdm.Institutional)+"/profile").body)))
	hers := []string{account, "<strong>iPhone</strong>, since", "ana@example.com"}

	stranger, ana := h.person(t, safari26), h.person(t, safari26)
	ana.get("/login?as=ana&next=/enroll")
	for who, p := range map[string]*person{"a stranger": stranger, "ana": ana} {
		path, at := p.begin("link", named(mdm.Institutional))
		bodies := at.at(t, "profile").body
		must(t, h.phone(t).EnrollProfile(t.Context(), []byte(p.get(path+"/enroll.mobileconfig").body)))
		bodies += p.get(path).at(t, "status").body
		p.agent = safari17
		_, at = p.begin("link", named(mdm.Personal))
		bodies += at.at(t, "account").body // that there is an account is no more than how the device is taken in
		for _, text := range hers {
			if told := strings.Contains(bodies, text); told != (who == "ana") {
				t.Errorf("%s is told %q: %v", who, text, told)
			}
		}
	}
}

func TestLinkForCertainDevicesOffersNoUserEnrollment(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	account := "ana@appleid.example.com"
	_, err := h.people.UpdateUser(t.Context(), identity.Local(), h.ana.ID, identity.UserChange{ManagedAppleAccount: &account})
	must(t, err)
	for name, tt := range map[string]struct {
		serials []string
		step    string
	}{
		"any device":      {nil, "account"},
		"certain devices": {[]string{"C02ABCDEFGH1"}, "profile"},
	} {
		t.Run(name, func(t *testing.T) {
			l := h.link(t, enroll.NewLink{Ownership: mdm.Personal, SerialNumbers: tt.serials})
			p := h.person(t, safari17)
			path, at := p.begin("link", l.Code)
			p.signIn(at, "ana").at(t, tt.step)
			p.get(path+"/account").at(t, tt.step)
			p.post(path+"/account", "how", "account", "account", account)
			if a, err := h.Attempt(t.Context(), idOf(path)); err != nil || a.Visit.UserEnrollment != (tt.serials == nil) {
				t.Errorf("asked for a User Enrollment all the same: %+v, %v", a.Visit, err)
			}
		})
	}
}

func TestEnrollmentsThatNobodyGoesOnWith(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	open := h.link(t, enroll.NewLink{Login: enroll.LoginNone, Ownership: mdm.Personal, Uses: 10})
	asking := h.link(t, enroll.NewLink{})
	p := h.person(t, safari26)
	for name, form := range map[string][]string{"without a link": nil, "by a link": {"link", asking.Code}, "by a link that asks nobody": {"link", open.Code}} {
		first, _ := p.begin(form...)
		h.pass(10 * time.Minute)
		if second, _ := p.begin(form...); second != first || first == "" {
			t.Errorf("%s, ten minutes later: %s and %s", name, first, second)
		}
	}
	if other, _ := h.person(t, safari26).begin("link", open.Code); other == "" {
		t.Error("another browser begins none")
	}

	// Very many of one network are refused, but for those that are there.
	mine, _ := p.begin()
	for range identity.MaxVisits {
		if err := h.people.CountVisit(t.Context(), "127.0.0.1"); err != nil {
			break
		}
	}
	stranger := h.person(t, safari26)
	for name, got := range map[string]page{
		"a form": stranger.post("/enroll/start"),
		"a link": stranger.post("/enroll/start", "link", open.Code),
	} {
		if got.status != http.StatusTooManyRequests || got.header.Get("Retry-After") == "" {
			t.Errorf("%s = %d, Retry-After %q", name, got.status, got.header.Get("Retry-After"))
		}
	}
	stranger.post("/enroll/start").has(t, "GH-E123")
	for _, method := range []string{"HEAD", "GET"} { // a fleet comes from one address
		if got := stranger.do(method, "/enroll/l/"+open.Code+"/profile", nil, "*/*"); got.status != http.StatusOK {
			t.Errorf("%s of the profile = %d", method, got.status)
		}
	}
	if again, _ := p.begin(); again != mine {
		t.Errorf("who has begun goes on at %s, want %s", again, mine)
	}
	if l, err := h.Link(t.Context(), open.ID); err != nil || l.UsesLeft != 10 {
		t.Errorf("the link has %d uses left, %v", l.UsesLeft, err)
	}
}

func TestStepsFollowFromTheEnrollment(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		plan    plan
		agent   string
		link    enroll.NewLink
		set     func(h *house, s *enroll.Settings)
		driven  bool
		want    string
		refused string // by its code, where there is no step to take
	}{
		"nothing to ask, no authority to trust": {agent: safari26, link: enroll.NewLink{Ownership: mdm.Institutional}, want: "profile"},
		"an authority to trust":                 {plan: plan{ownCA: true}, agent: safari26, link: enroll.NewLink{Ownership: mdm.Institutional}, want: "certificate"},
		"the person says whose it is":           {agent: safari26, link: enroll.NewLink{Ask: true}, want: "device"},
		"only one can be chosen":                {agent: safari26, link: enroll.NewLink{Ask: true}, set: func(_ *house, s *enroll.Settings) { s.Institutional.Enabled = false }, want: "profile"},
		"User Enrollment on iOS 13": {
			agent: safari13, link: enroll.NewLink{Ownership: mdm.Personal}, set: func(_ *house, s *enroll.Settings) { s.PersonalMethod = enroll.PersonalUser }, want: "account",
		},
		"User Enrollment on iOS 17": {
			agent: safari17, link: enroll.NewLink{Ownership: mdm.Personal}, set: func(_ *house, s *enroll.Settings) { s.PersonalMethod = enroll.PersonalUser }, want: "account",
		},
		"User Enrollment on iOS 26, account-driven": {
			agent: safari26, link: enroll.NewLink{Ownership: mdm.Personal}, driven: true, set: func(_ *house, s *enroll.Settings) { s.PersonalMethod = enroll.PersonalUser }, want: "account-driven",
		},
		"User Enrollment on iOS 26, which nobody serves": {
			agent: safari26, link: enroll.NewLink{Ownership: mdm.Personal}, set: func(_ *house, s *enroll.Settings) { s.PersonalMethod = enroll.PersonalUser }, refused: "GH-E505",
		},
		"nobody's account": {agent: safari17, link: enroll.NewLink{Ownership: mdm.Personal}, want: "profile"},
		"Device Enrollment, whatever the account": {
			agent: safari17, link: enroll.NewLink{Ownership: mdm.Personal}, set: func(_ *house, s *enroll.Settings) { s.PersonalMethod = enroll.PersonalDevice }, want: "profile",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, tt.plan)
			if tt.driven {
				h.serve(t, "example.com", enroll.ModeBYOD)
			}
			if tt.set != nil {
				h.set(t, func(s *enroll.Settings) { tt.set(h, s) })
			}
			tt.link.Login = enroll.LoginNone
			p := h.person(t, tt.agent)
			_, at := p.begin("link", h.link(t, tt.link).Code)
			if tt.refused != "" {
				at.has(t, tt.refused)
				return
			}
			at.at(t, tt.want)
			if strings.Contains(at.body, "This page goes on by itself as soon as you have signed in") {
				t.Error("the page is to follow somebody whom nobody knows")
			}
		})
	}
}

func TestManagedAppleAccount(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	account := "ana@corp.example.com"
	_, err := h.people.UpdateUser(t.Context(), identity.Local(), h.ana.ID, identity.UserChange{ManagedAppleAccount: &account})
	must(t, err)
	h.set(t, func(s *enroll.Settings) {
		s.AccountDomains = []string{"corp.example.com"}
		s.Institutional.Enabled = false
	})
	ana := h.person(t, safari17)
	path, at := ana.begin()
	ana.signIn(at, "ana").at(t, "account").has(t, `value="`+account+`"`, "@corp.example.com", "Set up without this account")
	for typed, want := range map[string]string{"": "Type your Managed", "ana": "looks like an e-mail address", "ana@icloud.com": "not an account of your organization"} {
		got := ana.post(path+"/account", "how", "account", "account", typed)
		if got.status != http.StatusUnprocessableEntity {
			t.Errorf("%q = %d", typed, got.status)
		}
		got.has(t, `role="alert"`, want)
	}
	if got := ana.post(path+"/account", "how", "magic"); got.status != http.StatusUnprocessableEntity {
		t.Errorf("tampered form = %d", got.status)
	}
	hers := "ben@corp.example.com"
	_, err = h.people.UpdateUser(t.Context(), identity.Local(), h.ben.ID, identity.UserChange{ManagedAppleAccount: &hers})
	must(t, err)
	if got := ana.post(path+"/account", "how", "account", "account", hers).has(t, `role="alert"`, "your own Managed Apple Account"); got.status != http.StatusUnprocessableEntity {
		t.Errorf("another person's account = %d", got.status)
	}
	// There is another way, and back.
	ana.post(path+"/account", "how", "device").at(t, "profile").has(t, "Profile Downloaded")
	ana.get(path+"/account").at(t, "account")
	ana.post(path+"/account", "how", "account", "account", account).at(t, "profile").has(t, "Enroll My iPhone")
	ana.get(path+"/account").at(t, "account")
	if a, err := h.Attempt(t.Context(), idOf(path)); err != nil || !a.Visit.UserEnrollment || a.Visit.ManagedAppleAccount != account {
		t.Errorf("attempt: %+v, %v", a.Visit, err)
	}
	// Where the organization wants it, there is no other way.
	h.set(t, func(s *enroll.Settings) { s.PersonalMethod = enroll.PersonalUser })
	if got := ana.post(path+"/account", "how", "device"); got.status != http.StatusUnprocessableEntity {
		t.Errorf("declined all the same = %d", got.status)
	}
}

func TestTwoTabsAndTwoClicks(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	l := h.link(t, enroll.NewLink{Login: enroll.LoginNone, Ask: true})
	p := h.person(t, safari26)
	path, _ := p.begin("link", l.Code)
	again, _ := p.begin("link", l.Code)
	if path != again {
		t.Errorf("a form that was sent twice began %s and %s", path, again)
	}
	for range 2 {
		p.post(path+"/device", "ownership", "personal").at(t, "profile")
	}
	first, second := p.get(path+"/enroll.mobileconfig"), p.get(path+"/enroll.mobileconfig")
	must(t, h.phone(t).EnrollProfile(t.Context(), []byte(second.body)))
	if err := h.phone(t).EnrollProfile(t.Context(), []byte(first.body)); err == nil {
		t.Error("one enrollment took two devices")
	}
	p.post(path+"/device", "ownership", "institutional").at(t, "status") // the other tab
	p.get("/enroll").has(t, "Get started")                               // nothing to go on with

	other := h.link(t, enroll.NewLink{Ask: true})
	path, at := p.begin("link", other.Code)
	p.signIn(at, "ana")
	p.get("/enroll").has(t, "Go on where you left off", `href="`+path+`"`)
	h.pass(time.Minute)
	if anew, _ := p.begin("link", other.Code); anew == path {
		t.Error("starting over goes on with the old one")
	}
}

func TestLinksThatAreNoUse(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	ctx := t.Context()
	revoked := h.link(t, enroll.NewLink{Login: enroll.LoginNone})
	must(t, h.RevokeLink(ctx, revoked.ID))
	used := h.link(t, enroll.NewLink{Login: enroll.LoginNone})
	must(t, h.phone(t).Enroll(ctx, h.url+"/enroll/l/"+used.Code+"/profile"))
	login := h.link(t, enroll.NewLink{ExpiresIn: 48 * time.Hour})
	expired := h.link(t, enroll.NewLink{Login: enroll.LoginNone, ExpiresIn: time.Hour})
	disabled := h.link(t, enroll.NewLink{Login: enroll.LoginNone, User: "ben@example.com", ExpiresIn: 48 * time.Hour})
	off := true
	_, err := h.people.UpdateUser(ctx, identity.Local(), h.ben.ID, identity.UserChange{Disabled: &off})
	must(t, err)
	h.pass(2 * time.Hour)
	for _, tt := range []struct {
		code          string
		status        int
		problem, page string
		only          string // the one address that refuses
	}{
		{"nosuchcode", 404, "link_unknown", "GH-E101", ""},
		{expired.Code, 410, "link_expired", "GH-E102", ""},
		{used.Code, 410, "link_used_up", "GH-E103", ""},
		{revoked.Code, 410, "link_revoked", "GH-E104", ""},
		{login.Code, 403, "login_required", "GH-E105", "/profile"},
		{disabled.Code, 403, "user_disabled", "GH-E106", "/profile"},
	} {
		for _, path := range []string{"", "/profile"} {
			if tt.only != "" && tt.only != path {
				continue
			}
			path = "/enroll/l/" + tt.code + path
			t.Run(tt.problem+" at "+path, func(t *testing.T) {
				p := h.person(t, safari26)
				if got := p.get(path); got.status != tt.status {
					t.Errorf("a browser gets %d, want %d", got.status, tt.status)
				} else {
					got.has(t, tt.page, `role="alert"`)
				}
				for _, accept := range []string{"", "*/*", "application/json", "application/json, text/html;q=0"} {
					got := p.do("GET", path, nil, accept)
					var problem webui.Problem
					if err := json.Unmarshal([]byte(got.body), &problem); err != nil {
						t.Fatalf("Accept %q: %v: %s", accept, err, got.body)
					}
					if got.status != tt.status || problem.Status != tt.status || problem.Code != tt.problem || got.header.Get("Content-Type") != "application/problem+json" {
						t.Errorf("Accept %q gets %d %+v, want %d %s", accept, got.status, problem, tt.status, tt.problem)
					}
				}
				if !strings.Contains(h.log.String(), "code="+tt.page) {
					t.Errorf("the log does not hold %s", tt.page)
				}
			})
		}
	}
}

func TestOnlyGetMakesAnAttempt(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	open := h.link(t, enroll.NewLink{Login: enroll.LoginNone, Uses: 5})
	p := h.person(t, safari26)
	attempts := func() int {
		list, _, err := h.Attempts(t.Context(), "", 100)
		must(t, err)
		return len(list)
	}
	for _, tt := range []struct {
		method, code     string
		status, attempts int
	}{{"HEAD", open.Code, 200, 0}, {"HEAD", "nosuchcode", 404, 0}, {"GET", open.Code, 200, 1}} {
		got := p.do(tt.method, "/enroll/l/"+tt.code+"/profile", nil, acceptHTML)
		if n := attempts(); got.status != tt.status || n != tt.attempts {
			t.Errorf("%s with code %s = %d and %d attempts, want %d and %d", tt.method, tt.code, got.status, n, tt.status, tt.attempts)
		}
		if tt.method == "GET" {
			for name, want := range map[string]string{
				"Content-Type":        "application/x-apple-aspen-config",
				"Content-Disposition": `attachment; filename="enroll.mobileconfig"`,
				"Cache-Control":       "no-store, no-transform",
			} {
				if got := got.header.Get(name); got != want {
					t.Errorf("%s: %s, want %s", name, got, want)
				}
			}
		}
	}
}

func TestPersonIsLedToThePortal(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	p := h.person(t, windows)
	for _, path := range []string{enroll.PathCheckIn, enroll.PathConnect} {
		if got := p.get(path); got.status == http.StatusUnauthorized {
			t.Errorf("%s = %d", path, got.status)
		} else {
			got.has(t, `href="/enroll"`)
		}
	}
}

func TestFirstPage(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	l := h.link(t, enroll.NewLink{Login: enroll.LoginNone, Ownership: mdm.Personal})
	for name, tt := range map[string]struct {
		agent, path string
		has         []string
	}{
		"an iPhone":                    {safari26, "/enroll", []string{"Set up this iPhone", "4 steps"}},
		"an iPhone with a link":        {safari26, "/enroll/l/" + l.Code, []string{"Set up this iPhone", "2 steps", `value="` + l.Code + `"`, "Install apps"}},
		"a Mac, or an iPad":            {macSafari, "/enroll", []string{"Set up this Mac", "data-fingers", "/enroll?platform=ipad"}},
		"an iPad that says so":         {macSafari, "/enroll?platform=ipad", []string{"Set up this iPad", `name="platform" value="ipad"`}},
		"Windows":                      {windows, "/enroll", []string{"Continue on your iPhone", "<svg"}},
		"Windows with a link":          {windows, "/enroll/l/" + l.Code, []string{enroll.SpellCode(l.ShortCode)}},
		"a Mac that wants to send on":  {macSafari, "/enroll?platform=other", []string{"Continue on your iPhone"}},
		"Chrome":                       {chromeIOS, "/enroll", []string{"Open this page in Safari", "Chrome can’t install", h.url + "/enroll"}},
		"Chrome with a link":           {chromeIOS, "/enroll/l/" + l.Code, []string{h.url + "/enroll/l/" + l.Code}},
		"Chrome that is not, it says":  {chromeIOS, "/enroll?browser=safari", []string{"Set up this iPhone"}},
		"iOS 12":                       {strings.ReplaceAll(safari13, "13_2_3", "12_1"), "/enroll", []string{"Continue on your"}},
		"a program that shows nothing": {"curl/8", "/enroll", []string{"Continue on your"}},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "iOS 12" {
				tt.agent, tt.has = strings.ReplaceAll(tt.agent, "Version/13.0.3", "Version/12.1"), []string{"too old"}
			}
			h.person(t, tt.agent).get(tt.path).has(t, tt.has...)
		})
	}
	p := h.person(t, safari26)
	h.mu.Lock()
	h.ready = false
	h.mu.Unlock()
	p.get("/enroll").has(t, "Not ready yet")
	p.get("/enroll/l/"+l.Code).has(t, "Set up this iPhone")
	h.set(t, func(s *enroll.Settings) { s.Portal = false })
	p.get("/enroll").has(t, "You need an invitation", `action="/enroll/code"`)
	if _, got := p.begin(); got.status != http.StatusForbidden {
		t.Errorf("begun without a link: %d", got.status)
	} else {
		got.has(t, "GH-E109")
	}
}

func TestShortCodes(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	l := h.link(t, enroll.NewLink{Login: enroll.LoginNone, Ownership: mdm.Personal})
	p := h.person(t, safari26)
	path, _ := p.begin("link", l.Code)
	a, err := h.Attempt(t.Context(), idOf(path))
	must(t, err)
	if got := p.post("/enroll/code", "code", " "+strings.ToLower(enroll.SpellCode(l.ShortCode))); got.path != "/enroll/l/"+l.Code {
		t.Errorf("a link's code leads to %s", got.path)
	}
	h.person(t, windows).post("/enroll/code", "code", a.Visit.Code).at(t, "status")

	guesser := h.person(t, windows)
	for i := range 25 {
		got := guesser.post("/enroll/code", "code", fmt.Sprintf("ZZZZ-ZZ%02d", i))
		if i == 0 {
			got.has(t, "GH-E107", `role="alert"`, `value="ZZZZ-ZZ00"`)
		}
		if got.status == http.StatusTooManyRequests {
			got.has(t, "GH-E108")
			if got.header.Get("Retry-After") == "" {
				t.Error("not said when to try again")
			}
			return
		}
	}
	t.Error("25 guesses, and no end")
}

func TestTermsMustBeAgreedTo(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	must(t, h.texts.Change(t.Context(), "ana", "en", map[string]string{"portal.terms": "Be *nice*."}))
	l := h.link(t, enroll.NewLink{Login: enroll.LoginNone, Ownership: mdm.Personal})
	p := h.person(t, safari26)
	path, at := p.begin("link", l.Code)
	at.at(t, "device").has(t, "Be <em>nice</em>.")
	if got := p.get(path + "/enroll.mobileconfig"); !strings.HasSuffix(got.path, "/device") {
		t.Errorf("a profile without consent: %s", got.path)
	}
	if got := p.post(path + "/device"); got.status != http.StatusUnprocessableEntity {
		t.Errorf("no consent = %d", got.status)
	}
	p.post(path+"/device", "agreed", "yes").at(t, "profile")
}

// state reads the next event of a stream.
func state(t *testing.T, r *bufio.Reader) (s struct {
	Stage    string
	Over     bool
	SignedIn bool `json:"signed_in"`
}) {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		must(t, err)
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			must(t, json.Unmarshal([]byte(data), &s))
			return s
		}
	}
}

func TestStatusIsLive(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	l := h.link(t, enroll.NewLink{Login: enroll.LoginNone, Ownership: mdm.Personal})
	p := h.person(t, safari26)
	path, _ := p.begin("link", l.Code)
	connect := func() (*bufio.Reader, func()) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "GET", h.url+path+"/events", nil)
		must(t, err)
		answer, err := p.http.Do(r)
		must(t, err)
		if got := answer.Header.Get("Content-Type"); got != "text/event-stream" {
			t.Fatalf("Content-Type: %s", got)
		}
		return bufio.NewReader(answer.Body), func() { _ = answer.Body.Close() }
	}
	stream, cut := connect()
	if s := state(t, stream); s.Stage != "authenticated" {
		t.Errorf("first event: %+v", s)
	}
	file := p.get(path + "/enroll.mobileconfig")
	if s := state(t, stream); s.Stage != "profile_downloaded" {
		t.Errorf("after the download: %+v", s)
	}
	cut() // Settings comes in between
	d := h.phone(t)
	must(t, d.Install([]byte(file.body)))
	must(t, d.RequestIdentity(t.Context()))
	stream, cut = connect()
	defer cut()
	if s := state(t, stream); s.Stage != "identity_issued" {
		t.Errorf("after the cut: %+v", s)
	}
	must(t, d.Authenticate(t.Context()))
	must(t, d.TokenUpdate(t.Context()))
	for state(t, stream).Stage != "enrolled" { // nothing but news of it ends this: the stream looks by itself only later
	}
	var s struct{ Stage string }
	must(t, json.Unmarshal([]byte(p.get(path+"/state").body), &s))
	if s.Stage != "enrolled" {
		t.Errorf("state: %+v", s)
	}
	h.health.Drain()
	if _, err := stream.ReadString(0); err == nil {
		t.Error("the stream goes on while the server stops")
	}
	for _, of := range []string{"state", "events", "status", "device"} {
		if got := p.get("/enroll/a/nosuchattempt/" + of); got.status != http.StatusNotFound {
			t.Errorf("%s of nothing = %d", of, got.status)
		} else {
			got.has(t, "GH-E116")
		}
	}
}

func TestStreamsAreLimited(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{streams: 1})
	p := h.person(t, safari26)
	path, _ := p.begin("link", h.link(t, enroll.NewLink{Login: enroll.LoginNone, Ownership: mdm.Personal}).Code)
	follow := func() (status int, end func()) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "GET", h.url+path+"/events", nil)
		must(t, err)
		answer, err := p.http.Do(r)
		must(t, err)
		return answer.StatusCode, func() { _ = answer.Body.Close() }
	}
	first, end := follow()
	second, endSecond := follow()
	endSecond()
	if first != http.StatusOK || second != http.StatusServiceUnavailable {
		t.Errorf("two streams where one is let in = %d and %d", first, second)
	}
	end()
	for again := http.StatusServiceUnavailable; again != http.StatusOK; { // as soon as the server knows that the first is gone
		again, end = follow()
		end()
	}
}

func TestStuckEnrollmentsGetAHint(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	l := h.link(t, enroll.NewLink{Login: enroll.LoginNone, Ownership: mdm.Personal})
	p := h.person(t, safari26)
	path, _ := p.begin("link", l.Code)
	lost := p.get(path + "/enroll.mobileconfig")
	if got := p.get(path + "/status"); strings.Contains(got.body, "Try again") {
		t.Error("a hint before anything can be wrong")
	}
	h.pass(91 * time.Second)
	p.get(path+"/status").at(t, "status").has(t, "Does <strong>Settings</strong> still show <strong>Profile Downloaded</strong>", "Try again with a fresh profile", "1 min ago")
	p.post(path+"/again").at(t, "profile")
	if err := h.phone(t).EnrollProfile(t.Context(), []byte(lost.body)); err == nil {
		t.Error("the profile that was given up is good")
	}
	must(t, h.phone(t).EnrollProfile(t.Context(), []byte(p.get(path+"/enroll.mobileconfig").body)))
	p.get(path).at(t, "status").has(t, `data-stage="enrolled"`)
}

func TestEndOfAnEnrollmentIsExplained(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	l := h.link(t, enroll.NewLink{Login: enroll.LoginNone, Ownership: mdm.Personal})
	p := h.person(t, safari26)
	path, _ := p.begin("link", l.Code)
	must(t, h.RevokeLink(t.Context(), l.ID))
	p.get(path).at(t, "status").has(t, `data-stage="failed"`, "This invitation was withdrawn", "GH-E104")
}

func TestTrustProbeIsAllowedWhereItIsAsked(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{ownCA: true, probe: "https://mdm.example.com:8444/probe.gif"})
	l := h.link(t, enroll.NewLink{Login: enroll.LoginNone, Ownership: mdm.Personal})
	p := h.person(t, safari26)
	_, at := p.begin("link", l.Code)
	at.at(t, "certificate").has(t, `data-probe="https://mdm.example.com:8444/probe.gif"`)
	const allowed = "img-src 'self' https://mdm.example.com:8444 data:;"
	if got := at.header.Get("Content-Security-Policy"); !strings.Contains(got, allowed) {
		t.Errorf("policy: %s", got)
	}
	if got := p.get("/enroll").header.Get("Content-Security-Policy"); strings.Contains(got, "8444") {
		t.Errorf("policy elsewhere: %s", got)
	}
}

func TestPreviewIsForWhoMayRead(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	if got := h.person(t, windows).get("/enroll/preview/welcome"); !strings.HasPrefix(got.path, "/login?") {
		t.Errorf("a stranger is at %s", got.path)
	}
	ben := h.person(t, windows)
	if got := ben.get("/login?as=ben&next=/enroll/preview/welcome"); got.status != http.StatusForbidden {
		t.Errorf("a user sees a preview: %d", got.status)
	}
	ana := h.person(t, windows)
	ana.get("/login?as=ana&next=/enroll/preview/trust?device=ipad-15").has(t, "Switch on trust", "Preview.")
	for _, path := range []string{"nothing", "trust?lang=xx"} {
		if got := ana.get("/enroll/preview/" + path); got.status == 200 {
			t.Errorf("%s is there", path)
		}
	}
	ana.get("/enroll/preview/trust?lang=de").has(t, `<html lang="de"`)
	ana.get("/enroll").has(t, `<html lang="en"`) // as before
	if n := len(regexp.MustCompile(`<form|<a class="button`).FindAllString(ana.get("/enroll/preview/profile").body, -1)); n == 0 {
		t.Error("the profile's screen has no button")
	}
}

func TestEndOfAStream(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	l := h.link(t, enroll.NewLink{Login: enroll.LoginNone, Ownership: mdm.Personal})
	p := h.person(t, safari26)
	path, _ := p.begin("link", l.Code)
	must(t, h.phone(t).EnrollProfile(t.Context(), []byte(p.get(path+"/enroll.mobileconfig").body)))
	over := func() bool {
		var s struct{ Over bool }
		must(t, json.Unmarshal([]byte(p.get(path+"/state").body), &s))
		return s.Over
	}
	if h.pass(4 * time.Minute); over() {
		t.Error("it is over while commands may yet come")
	}
	if h.pass(time.Minute); !over() {
		t.Error("without commands it is never over")
	}
	if got := p.get(path + "/events"); !strings.Contains(got.body, `"over":true`) { // returns at its end
		t.Errorf("the stream of a device that is set up: %s", got.body)
	}
}

func TestLanguagesKeepWhatThePageIsAbout(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	p := h.person(t, safari26)
	const query = "?platform=ipad&code=s3cret&state=s3cret&lang=de"
	p.get("/enroll"+query).has(t, `name="platform" value="ipad"`)
	for _, path := range []string{"/enroll", "/enroll/l/none", "/enroll/a/none/status"} {
		if got := p.get(path + query); strings.Contains(got.body, "s3cret") {
			t.Errorf("%s repeats what is not its own:\n%s", path, got.body)
		}
	}
}
