package portal_test

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/webui/browsertest"
)

const (
	safari14  = "Mozilla/5.0 (iPhone; CPU iPhone OS 14_8 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/14.1.2 Mobile/15E148 Safari/604.1"
	safari15  = "Mozilla/5.0 (iPhone; CPU iPhone OS 15_8 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/15.6 Mobile/15E148 Safari/604.1"
	macOS13   = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/16.6 Safari/605.1.15"
	macOS14   = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.6 Safari/605.1.15"
	visionPro = "Mozilla/5.0 (Apple Vision Pro; CPU OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1"
)

// account gives a user a Managed Apple Account.
func (h *house) account(t testing.TB, u identity.User, account string) {
	t.Helper()
	_, err := h.people.UpdateUser(t.Context(), identity.Local(), u.ID, identity.UserChange{ManagedAppleAccount: &account})
	must(t, err)
}

// signsIn makes a device in whose settings a user types an address, and signs in.
func (h *house) signsIn(t testing.TB, u identity.User, typed string) *mdmtest.Device {
	t.Helper()
	pool, err := deviceKeys()
	must(t, err)
	d, err := mdmtest.NewDevice(mdmtest.Options{
		Keys: pool, PlainHTTP: true, Transport: h.http, Now: h.now,
		Account: &mdmtest.Account{
			Identifier: typed,
			Reach:      func(string) string { return h.url },
			Person: mdmtest.PersonFunc(func(ctx context.Context, s mdmtest.WebSession) (mdmtest.Redirect, error) {
				address, _, _ := strings.Cut(s.URL, "?")
				u, err := h.people.User(ctx, u.ID)
				if err != nil {
					return mdmtest.Redirect{}, err
				}
				back, err := h.FinishAccountSignIn(ctx, path.Base(address), u, nil)
				return mdmtest.Redirect{Status: http.StatusPermanentRedirect, Location: back.Location}, err
			}),
		},
	})
	must(t, err)
	return d
}

func TestWhoIsLedToTheDevicesSettings(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	for _, tt := range []struct {
		name      string
		agent     string
		platform  string // as the person says
		owner     mdm.Ownership
		method    enroll.PersonalMethod
		account   string // Managed Apple Account
		domain    string // that is served
		mode      enroll.AccountMode
		step      string
		typed     string // on the page
		undecline bool   // no other way is offered
	}{
		{name: "a personal iPhone", agent: safari26, owner: mdm.Personal, mode: enroll.ModeBYOD, step: "account-driven", typed: "ana@example.com"},
		{name: "an iPhone of the first system that can", agent: safari15, owner: mdm.Personal, mode: enroll.ModeBYOD, step: "account-driven", typed: "ana@example.com"},
		{name: "an iPhone of the system before", agent: safari14, owner: mdm.Personal, mode: enroll.ModeBYOD, step: "account"},
		{name: "an iPad that calls itself a Mac", agent: macSafari, platform: "ipad", owner: mdm.Personal, mode: enroll.ModeBYOD, step: "account-driven", typed: "ana@example.com"},
		{name: "a personal Mac", agent: macOS14, owner: mdm.Personal, mode: enroll.ModeBYOD, step: "account-driven", typed: "ana@example.com"},
		{name: "a personal Mac of the system before", agent: macOS13, owner: mdm.Personal, mode: enroll.ModeBYOD, step: "account"},
		{name: "a personal Vision Pro", agent: visionPro, owner: mdm.Personal, mode: enroll.ModeBYOD, step: "account-driven", typed: "ana@example.com"},
		{name: "an iPhone for work", agent: safari26, owner: mdm.Institutional, mode: enroll.ModeADDE, step: "account-driven", typed: "ana@example.com"},
		{name: "an iPhone for work whose system only knows User Enrollment", agent: safari15, owner: mdm.Institutional, mode: enroll.ModeADDE, step: "profile"},
		{name: "a Mac for work", agent: macOS14, owner: mdm.Institutional, mode: enroll.ModeADDE, step: "account-driven", typed: "ana@example.com"},
		{name: "a Mac for work of the system before", agent: macOS13, owner: mdm.Institutional, mode: enroll.ModeADDE, step: "profile"},
		{name: "a personal iPhone where only those for work are taken so", agent: safari26, owner: mdm.Personal, mode: enroll.ModeADDE, step: "profile"},
		{name: "an iPhone for work where only personal ones are taken so", agent: safari26, owner: mdm.Institutional, mode: enroll.ModeBYOD, step: "profile"},
		{name: "a domain of Managed Apple Accounts alone", agent: safari26, owner: mdm.Personal, domain: "appleid.example.com", mode: enroll.ModeBYOD, step: "account-driven", typed: "ana@appleid.example.com"},
		{name: "a foreign domain", agent: safari26, owner: mdm.Personal, domain: "example.org", mode: enroll.ModeBYOD, step: "profile"},
		{name: "a policy that is off", agent: safari26, owner: mdm.Personal, mode: enroll.ModeOff, step: "profile"},
		{name: "nobody has an account at Apple", agent: safari26, owner: mdm.Personal, account: "-", mode: enroll.ModeBYOD, step: "profile"},
		{name: "no other way is wanted", agent: safari26, owner: mdm.Personal, method: enroll.PersonalUser, mode: enroll.ModeBYOD, step: "account-driven", typed: "ana@example.com", undecline: true},
		{name: "no other way is wanted, and the account is missing", agent: safari26, owner: mdm.Personal, method: enroll.PersonalUser, account: "-", mode: enroll.ModeBYOD, step: "account-driven", typed: "ana@example.com", undecline: true},
		{name: "the account is missing, and can be typed", agent: safari15, owner: mdm.Personal, method: enroll.PersonalUser, account: "-", mode: enroll.ModeBYOD, step: "account"},
		{name: "Device Enrollment is wanted", agent: safari26, owner: mdm.Personal, method: enroll.PersonalDevice, mode: enroll.ModeBYOD, step: "profile"},
		{name: "Device Enrollment is wanted of personal devices, and this is for work", agent: safari26, owner: mdm.Institutional, method: enroll.PersonalDevice, mode: enroll.ModeADDE, step: "account-driven", typed: "ana@example.com"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.method == "" {
				tt.method = enroll.PersonalAuto
			}
			h.set(t, func(s *enroll.Settings) { s.PersonalMethod = tt.method })
			switch tt.account {
			case "":
				tt.account = "ana@appleid.example.com"
			case "-":
				tt.account = ""
			}
			h.account(t, h.ana, tt.account)
			if tt.domain == "" {
				tt.domain = "example.com"
			}
			h.serve(t, tt.domain, tt.mode)
			ana := h.person(t, tt.agent)
			where, at := ana.begin("platform", tt.platform)
			ana.signIn(at, "ana").at(t, "device")
			at = ana.post(where+"/device", "ownership", string(tt.owner)).at(t, tt.step)
			if tt.step != "account-driven" {
				return
			}
			at.has(t, `value="`+tt.typed+`"`)
			if declines := strings.Contains(at.body, "Install a profile instead"); declines == tt.undecline {
				t.Errorf("another way is offered: %v", declines)
			}
			if asked := strings.Contains(at.body, "password of your Managed Apple Account"); asked != (tt.account != "" && tt.typed != tt.account) {
				t.Errorf("Apple's own account is named: %v", asked)
			}
			erases := strings.Contains(at.body[:strings.Index(at.body, `class="cannot"`)], "Erase the device")
			if erases != (tt.owner == mdm.Institutional) {
				t.Errorf("the organization is said to erase the device: %v", erases)
			}
			if got := ana.post(where+"/account-driven", "how", "device"); tt.undecline != (got.status == http.StatusUnprocessableEntity) {
				t.Errorf("declined = %d at %s", got.status, got.path)
			}
		})
	}
}

func TestAPersonDeclinesToSignInInTheSettings(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{ownCA: true})
	h.serve(t, "example.com", enroll.ModeADDE)
	h.account(t, h.ana, "ana@example.com")
	ana := h.person(t, safari26)
	where, at := ana.begin()
	ana.signIn(at, "ana")
	ana.post(where+"/device", "ownership", "institutional").at(t, "certificate") // the server has to be trusted first
	ana.post(where+"/trust").at(t, "account-driven").has(t, "Step 4 of 5", "Sign In to Work or School Account")
	for _, ahead := range []string{"/profile", "/enroll.mobileconfig"} {
		ana.get(where+ahead).at(t, "account-driven")
	}
	ana.post(where+"/account-driven", "how", "device").at(t, "profile").has(t, "Step 4 of 5")
	ana.get(where+"/account-driven").at(t, "account-driven") // to think again
	must(t, h.phone(t).EnrollProfile(t.Context(), []byte(ana.get(where+"/enroll.mobileconfig").body)))
	ana.get(where).at(t, "status").has(t, `data-stage="enrolled"`, "Profile downloaded", "Remove Management")
}

func TestAnEnrollmentGoesOnInTheDevicesSettings(t *testing.T) {
	t.Parallel()
	for mode, tt := range map[enroll.AccountMode]struct {
		owner mdm.Ownership
		kind  mdm.EnrollmentType
	}{
		enroll.ModeBYOD: {mdm.Personal, mdm.TypeUser},
		enroll.ModeADDE: {mdm.Institutional, mdm.TypeAccountDevice},
	} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, plan{})
			h.serve(t, "example.com", mode)
			h.account(t, h.ana, "ana@appleid.example.com")
			ana := h.person(t, safari26)
			where, at := ana.begin()
			ana.signIn(at, "ana")
			page := ana.post(where+"/device", "ownership", string(tt.owner)).at(t, "account-driven")
			page.has(t, `data-events="`+where+`/events"`, `value="ana@example.com"`, "This page goes on by itself")
			ana.get(where+"/status").at(t, "status").has(t, "Nobody has signed in in the settings of your iPhone yet", "Signed in on the device", "Show the steps again")

			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // news that does not come
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, "GET", h.url+where+"/events", nil)
			must(t, err)
			events, err := ana.http.Do(r)
			must(t, err)
			defer events.Body.Close()
			stream := bufio.NewReader(events.Body)
			if s := state(t, stream); s.SignedIn || s.Stage != "authenticated" {
				t.Errorf("before anybody signs in: %+v", s)
			}

			d := h.signsIn(t, h.ana, "ana@example.com")
			service, err := d.Discover(t.Context())
			must(t, err)
			var need *mdmtest.SignInRequired
			if _, err := d.PostEnrollment(t.Context(), service.BaseURL, ""); !errors.As(err, &need) {
				t.Fatalf("the first POST: %v", err)
			}
			token, err := d.SignIn(t.Context(), need.Challenge)
			must(t, err)
			d.SetToken(token)
			if s := state(t, stream); !s.SignedIn || s.Stage != "authenticated" {
				t.Errorf("after the sign-in: %+v", s)
			}
			// What the page asks for now leads to the status page, whichever tab it is in.
			for _, step := range []string{"", "/account-driven", "/profile", "/enroll.mobileconfig", "/device"} {
				ana.get(where+step).at(t, "status").has(t, "Your iPhone is about to fetch its profile")
			}
			ana.post(where+"/account-driven", "how", "device").at(t, "status")
			profile, err := d.PostEnrollment(t.Context(), service.BaseURL, token.Access)
			must(t, err)
			if s := state(t, stream); s.Stage != "profile_downloaded" {
				t.Errorf("after the profile: %+v", s)
			}
			status := ana.get(where).at(t, "status").has(t, "Profile fetched", "wants you to allow management")
			for _, foreign := range []string{"Profile downloaded", "/again", "Profile Downloaded", "Start over"} {
				if strings.Contains(status.body, foreign) {
					t.Errorf("the status page says %q:\n%s", foreign, status.body)
				}
			}
			h.pass(2 * time.Minute)
			ana.get(where).at(t, "status").has(t, "tap <strong>Sign In to Work or School Account</strong>, and sign in again", "Start over")

			must(t, d.InstallAccount(t.Context(), service, profile))
			must(t, d.RequestIdentity(t.Context()))
			must(t, d.Authenticate(t.Context()))
			must(t, d.TokenUpdate(t.Context()))
			ana.get(where).at(t, "status").has(t, `data-stage="enrolled"`, "all set", "choose your work account, and sign out")
			a, err := h.Attempt(t.Context(), idOf(where))
			must(t, err)
			device, err := h.mdm.Device(t.Context(), a.DeviceID)
			must(t, err)
			if device.Type != tt.kind || device.Ownership != tt.owner || device.ManagedAppleAccount != "ana@appleid.example.com" {
				t.Errorf("enrolled: %+v", device.Device)
			}
		})
	}
}

// TestAnotherDeviceDoesNotTakeTheEnrollmentOver has Ana led to the settings of one device, and
// sign in on an iPhone.
func TestAnotherDeviceDoesNotTakeTheEnrollmentOver(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	h.serve(t, "example.com", enroll.ModeBYOD)
	h.account(t, h.ana, "ana@appleid.example.com")
	for name, tt := range map[string]struct{ agent, step string }{
		"the page is open on a Mac":        {macOS14, "account-driven"},
		"the page is open on that iPhone":  {safari26, "status"},
		"the page is open on a Vision Pro": {visionPro, "account-driven"},
	} {
		t.Run(name, func(t *testing.T) {
			ana := h.person(t, tt.agent)
			where, at := ana.begin()
			ana.signIn(at, "ana")
			ana.post(where+"/device", "ownership", string(mdm.Personal)).at(t, "account-driven")
			must(t, h.signsIn(t, h.ana, "ana@example.com").EnrollAccount(t.Context()))
			ana.get(where).at(t, tt.step)
		})
	}
}

// TestNobodyIsLedToASignInThatCanOnlyFail is about what is known before: where no device of the
// kind signs in, and where the system is older than the oldest that may.
func TestNobodyIsLedToASignInThatCanOnlyFail(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{ownCA: true})
	for _, tt := range []struct {
		name    string
		agent   string
		owner   mdm.Ownership
		method  enroll.PersonalMethod
		mode    enroll.AccountMode
		minimum string
		step    string
		code    string // of a refusal
		says    string
	}{
		{name: "User Enrollment alone, which the policy does not serve", agent: safari26, method: enroll.PersonalUser, mode: enroll.ModeOff, code: "GH-E505", says: "with a work account only"},
		{name: "User Enrollment alone, and the policy is for work", agent: safari26, method: enroll.PersonalUser, mode: enroll.ModeADDE, code: "GH-E505"},
		{name: "User Enrollment alone, and a device for work", agent: safari26, owner: mdm.Institutional, method: enroll.PersonalUser, mode: enroll.ModeOff, step: "profile"},
		{name: "User Enrollment alone, by a profile", agent: safari15, method: enroll.PersonalUser, mode: enroll.ModeOff, step: "account"},
		{name: "User Enrollment alone, by a profile on a Mac", agent: macOS14, method: enroll.PersonalUser, mode: enroll.ModeOff, step: "account"},
		{name: "User Enrollment alone, on a Mac without it by a profile", agent: macSafari, method: enroll.PersonalUser, mode: enroll.ModeOff, code: "GH-E505"},
		{name: "another way is left", agent: safari26, method: enroll.PersonalAuto, mode: enroll.ModeOff, step: "profile"},
		{name: "iOS 15 signs in by the web alone, whatever the method", agent: safari15, method: enroll.PersonalAuto, mode: enroll.ModeBYOD, step: "account-driven"},
		{name: "too old, and there is User Enrollment by a profile", agent: safari15, method: enroll.PersonalUser, mode: enroll.ModeBYOD, minimum: "18.2", step: "account"},
		{name: "too old, and there is User Enrollment by a profile among others", agent: safari15, method: enroll.PersonalAuto, mode: enroll.ModeBYOD, minimum: "18.2", step: "account"},
		{name: "too old, and no other way is left", agent: safari26, method: enroll.PersonalUser, mode: enroll.ModeBYOD, minimum: "27", code: "GH-E506", says: "Version 27 or later is needed"},
		{name: "too old, and another way is left", agent: safari26, method: enroll.PersonalAuto, mode: enroll.ModeBYOD, minimum: "27", step: "profile"},
		{name: "too old, and for work", agent: safari26, owner: mdm.Institutional, method: enroll.PersonalAuto, mode: enroll.ModeADDE, minimum: "27", step: "profile"},
		{name: "maybe too old", agent: safari26, method: enroll.PersonalUser, mode: enroll.ModeBYOD, minimum: "26.4", step: "account-driven"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h.set(t, func(s *enroll.Settings) { s.PersonalMethod = tt.method })
			h.serve(t, "example.com", tt.mode)
			h.account(t, h.ana, "ana@appleid.example.com")
			_, err := h.UpdateAccountDriven(t.Context(), func(c *enroll.AccountDriven) error {
				c.Method, c.MinimumOS = enroll.MethodOAuth2, nil
				if tt.minimum != "" {
					c.MinimumOS = map[enroll.ModelFamily]string{"iPhone": tt.minimum}
				}
				return nil
			})
			must(t, err)
			if tt.owner == "" {
				tt.owner = mdm.Personal
			}
			ana := h.person(t, tt.agent)
			where, at := ana.begin()
			ana.signIn(at, "ana").at(t, "device")
			at = ana.post(where+"/device", "ownership", string(tt.owner))
			if tt.code == "" {
				at.at(t, "certificate")
				ana.post(where+"/trust").at(t, tt.step)
				return
			}
			refused := func(at page) {
				t.Helper()
				if at.has(t, tt.code, tt.says); at.status != http.StatusForbidden {
					t.Errorf("%s = %d", at.path, at.status)
				}
			}
			refused(at)
			ana.get(where).at(t, "device") // nothing was noted

			link := h.link(t, enroll.NewLink{Ownership: tt.owner})
			where, at = ana.begin("link", link.Code) // nothing is left to choose
			refused(at)
			for _, step := range []string{"certificate", "trust", "profile", "enroll.mobileconfig"} {
				if step == "enroll.mobileconfig" {
					ana.post(where + "/trust")
				}
				refused(ana.get(where + "/" + step))
			}
		})
	}
}

// TestTheFirstPageTellsTheRightsOfTheWayThatWillBeTaken reads what is promised before the
// sign-in, where whose device it is is settled.
func TestTheFirstPageTellsTheRightsOfTheWayThatWillBeTaken(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	h.account(t, h.ana, "ana@appleid.example.com")
	h.serve(t, "example.com", enroll.ModeBYOD)
	for _, tt := range []struct {
		name   string
		method enroll.PersonalMethod
		link   enroll.NewLink
		signed bool // in, before
		erases bool // the organisation, the device
	}{
		{name: "a link for a person with an account", method: enroll.PersonalAuto, link: enroll.NewLink{User: "ana@example.com"}},
		{name: "a link for a person with an account, who need not sign in", method: enroll.PersonalAuto, link: enroll.NewLink{User: "ana@example.com", Login: enroll.LoginNone}},
		{name: "a link for a person without an account", method: enroll.PersonalAuto, link: enroll.NewLink{User: "ben@example.com"}, erases: true},
		{name: "a link for anybody", method: enroll.PersonalAuto, erases: true},
		{name: "a link for anybody, and who is signed in has an account", method: enroll.PersonalAuto, signed: true},
		{name: "User Enrollment alone", method: enroll.PersonalUser},
		{name: "Device Enrollment alone", method: enroll.PersonalDevice, link: enroll.NewLink{User: "ana@example.com"}, erases: true},
		{name: "a link for certain devices", method: enroll.PersonalUser, link: enroll.NewLink{User: "ana@example.com", SerialNumbers: []string{"C02ABC123DEF"}}, erases: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h.set(t, func(s *enroll.Settings) {
				s.PersonalMethod, s.Personal.Rights = tt.method, enroll.Rights{Preset: enroll.PresetFull}
			})
			tt.link.Ownership = mdm.Personal
			l := h.link(t, tt.link)
			ana := h.person(t, safari26)
			if tt.signed {
				ana.get("/login?as=ana&next=/enroll")
			}
			body := ana.get("/enroll/l/"+l.Code).at(t, l.Code).body
			can, _, ok := strings.Cut(body, `class="cannot"`)
			if erases := strings.Contains(can, "Erase the device"); !ok || erases != tt.erases {
				t.Errorf("the organization is said to erase the device: %v\n%s", erases, body)
			}
		})
	}
}

func TestWhoStartsOverSignsInAnew(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	h.serve(t, "example.com", enroll.ModeBYOD)
	h.account(t, h.ana, "ana@example.com")
	l := h.link(t, enroll.NewLink{Login: enroll.LoginNone, User: "ana@example.com", Ownership: mdm.Personal})
	ana := h.person(t, safari26)
	first, at := ana.begin("link", l.Code)
	if strings.Contains(at.at(t, "account-driven").body, "ana@") {
		t.Error("who has not signed in is told whose the link is")
	}
	at.has(t, "your e-mail address at your organization")
	d := h.signsIn(t, h.ana, "ana@example.com")
	service, err := d.Discover(t.Context())
	must(t, err)
	_, err = d.FetchEnrollment(t.Context(), service)
	must(t, err)
	ana.get(first).at(t, "status")
	h.pass(2 * time.Minute)
	ana.get(first).at(t, "status").has(t, `href="/enroll/l/`+l.Code+`"`)

	second, at := ana.begin("link", l.Code)
	if at.at(t, "account-driven"); second == first {
		t.Fatal("starting over goes on with the sign-in of before")
	}
	must(t, h.signsIn(t, h.ana, "ana@example.com").EnrollAccount(t.Context()))
	ana.get(second).at(t, "status").has(t, `data-stage="enrolled"`)
}

func TestADisabledUserIsToldOnThePage(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	h.serve(t, "example.com", enroll.ModeBYOD)
	h.account(t, h.ben, "ben@example.com")
	ben := h.person(t, safari26)
	where, at := ben.begin()
	ben.signIn(at, "ben")
	ben.post(where+"/device", "ownership", "personal").at(t, "account-driven")
	d := h.signsIn(t, h.ben, "ben@example.com")
	service, err := d.Discover(t.Context())
	must(t, err)
	_, err = d.FetchEnrollment(t.Context(), service)
	must(t, err)
	disabled := true
	_, err = h.people.UpdateUser(t.Context(), identity.Local(), h.ben.ID, identity.UserChange{Disabled: &disabled})
	must(t, err)
	if _, err := d.PostEnrollment(t.Context(), service.BaseURL, d.Token().Access); err == nil {
		t.Fatal("a disabled user gets a profile")
	}
	ben.get(where+"/status").at(t, "status").has(t, `data-stage="failed"`, "GH-E106", "Signed in on the device")
}

// TestThePageFollowsTheSignInOnTheDevice watches the page of whoever comes back from the
// settings.
func TestThePageFollowsTheSignInOnTheDevice(t *testing.T) {
	t.Parallel()
	h := newHouse(t, plan{})
	h.serve(t, "example.com", enroll.ModeBYOD)
	h.account(t, h.ana, "ana@appleid.example.com")
	browser := browsertest.Open(t)
	browser.Pose(safari26, "en")
	browser.Screen(390, 844, false)
	l := h.link(t, enroll.NewLink{User: "ana@example.com", Ownership: mdm.Personal})
	browser.Go(h.url + "/login?as=ana&next=/enroll/l/" + l.Code)
	browser.Submit(`form[action="/enroll/start"] button`)
	browser.Await(`location.pathname.endsWith("/account-driven") && document.querySelector("#account").value === "ana@example.com"`)
	browser.Await(`!document.querySelector("[data-copy-from]").hidden`)
	browser.Check()
	must(t, h.signsIn(t, h.ana, "ana@example.com").EnrollAccount(t.Context()))
	browser.Await(`location.pathname.endsWith("/status") && document.querySelector("[data-stage=enrolled]") !== null`)
	browser.Check()
}
