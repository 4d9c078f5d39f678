package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/browsertest"
)

// What browsers call themselves.
const (
	iPhoneSafari13 = "Mozilla/5.0 (iPhone; CPU iPhone OS 13_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/13.1.2 Mobile/15E148 Safari/604.1"
	iPhoneSafari15 = "Mozilla/5.0 (iPhone; CPU iPhone OS 15_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/15.6 Mobile/15E148 Safari/604.1"
	iPhoneSafari17 = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
	iPhoneSafari18 = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.2 Mobile/15E148 Safari/604.1"
	iPhoneSafari26 = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Mobile/15E148 Safari/604.1"
	iPadSafari26   = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Safari/605.1.15" // as a Mac
	iPhoneChrome   = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/140.0.7339.101 Mobile/15E148 Safari/604.1"
)

const (
	anaEmail    = "ana@example.com"
	anaPassword = "correct horse battery"
)

// person makes a user who may enrol.
func (s *running) person(t *testing.T, with map[string]any) (id string) {
	t.Helper()
	user := map[string]any{"email": anaEmail, "full_name": "Ana Lima", "password": anaPassword}
	for key, value := range with {
		user[key] = value
	}
	var made struct{ ID string }
	s.call(t, "POST", "/api/v1/users", user, &made)
	return made.ID
}

// phone is a simulated device that trusts the server's authority, as after the steps that
// the portal asks for.
func (s *running) phone(t *testing.T, o mdmtest.Options) *mdmtest.Device {
	t.Helper()
	resp, err := s.client.Get(s.url + "/ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	o.RootCAs = x509.NewCertPool()
	o.RootCAs.AddCert(root)
	d, err := mdmtest.NewDevice(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// visitor is a person at the portal, with a browser and a device.
type visitor struct {
	*browsertest.Browser
	t *testing.T
	s *running
}

func (v *visitor) path() string {
	v.t.Helper()
	return browsertest.Eval[string](v.Browser, "location.pathname")
}

// at holds that the browser is at a step, and that there is nothing to trip over.
func (v *visitor) at(step string) {
	v.t.Helper()
	if at := v.path(); !strings.HasSuffix(at, "/"+step) {
		v.t.Fatalf("at %s, want the step %s:\n%s", at, step, browsertest.Eval[string](v.Browser, "document.body.innerText"))
	}
	v.Check()
}

// next submits the form of the page, and expects to get on.
func (v *visitor) next() {
	v.t.Helper()
	if status := v.Submit("main form button[type=submit]"); status != http.StatusOK {
		v.t.Fatalf("going on = %d", status)
	}
}

// signIn fills in the sign-in page.
func (v *visitor) signIn(login, password string) int {
	v.t.Helper()
	v.Fill("#email", login)
	v.Fill("#password", password)
	return v.Submit("main form button[type=submit]")
}

func (v *visitor) stage(want string) {
	v.t.Helper()
	if got := browsertest.Eval[string](v.Browser, `document.querySelector("[data-stage]").dataset.stage`); got != want {
		v.t.Fatalf("stage = %s, want %s", got, want)
	}
}

const profileLink = `a.button[href$="/enroll.mobileconfig"]`

// TestPortalStories goes the whole way with each kind of browser.
func TestPortalStories(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	s := start(t, t.TempDir())
	s.person(t, map[string]any{"managed_apple_account": "ana@example.org"})
	s.person(t, map[string]any{"email": "ben@example.com"}) // has no Managed Apple Account

	for name, tt := range map[string]struct {
		userAgent string
		width     int64
		dark      bool
		as        string
		ownership string
		account   bool // a User Enrollment is offered
		decline   bool // and not wanted
		device    mdmtest.Options
		scripts   bool
		posing    bool // its browser says that it is a Mac
	}{
		"an iPhone of the organisation, Safari 26":                {iPhoneSafari26, 390, false, anaEmail, "institutional", false, false, mdmtest.Options{OSVersion: "26.0"}, true, false},
		"one's own iPhone, Safari 18":                             {iPhoneSafari18, 390, true, anaEmail, "personal", false, false, mdmtest.Options{OSVersion: "18.2"}, true, false},
		"one's own iPhone, Safari 17, by Managed Apple Account":   {iPhoneSafari17, 390, false, anaEmail, "personal", true, false, mdmtest.Options{OSVersion: "17.5", UserEnrollment: true}, true, false},
		"one's own iPhone, Safari 15, without the account":        {iPhoneSafari15, 320, false, anaEmail, "personal", true, true, mdmtest.Options{OSVersion: "15.6"}, true, false},
		"one's own iPhone of who has no account, Safari 13":       {iPhoneSafari13, 320, true, "ben@example.com", "personal", false, false, mdmtest.Options{OSVersion: "13.7"}, true, false},
		"one's own iPhone, Safari 15, by account, no scripts":     {iPhoneSafari15, 390, false, anaEmail, "personal", true, false, mdmtest.Options{OSVersion: "15.6", UserEnrollment: true}, false, false},
		"an iPad of the organisation that says it is a Mac":       {iPadSafari26, 820, false, anaEmail, "institutional", false, false, mdmtest.Options{Model: mdmtest.IPad, OSVersion: "26.0"}, false, true},
		"an iPhone of the organisation, Safari 26, and no script": {iPhoneSafari26, 390, true, anaEmail, "institutional", false, false, mdmtest.Options{OSVersion: "26.0"}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := &visitor{browsertest.Open(t), t, s}
			v.Screen(tt.width, 844, tt.dark)
			v.Pose(tt.userAgent, "en")
			if !tt.scripts {
				v.WithoutScripts()
			}
			v.Go(s.url + "/enroll")
			v.Check()
			if tt.posing {
				v.Click(`main details:last-of-type summary`)
				if status := v.Submit(`main a[href*="platform=ipad"]`); status != http.StatusOK {
					t.Fatalf("the switch = %d", status)
				}
				v.Check()
			}
			v.next()
			v.at("login")
			if status := v.signIn(tt.as, anaPassword); status != http.StatusOK {
				t.Fatalf("sign-in = %d", status)
			}
			v.at("device")
			v.Click("label[for=ownership-" + tt.ownership + "]")
			v.next()

			v.trust(tt.scripts)

			if tt.account {
				v.at("account")
				if got := browsertest.Eval[string](v.Browser, `document.querySelector("#account").value`); got != "ana@example.org" {
					t.Errorf("the account is %q, before anybody typed", got)
				}
				form := "main form.form button"
				if tt.decline {
					form = "main form.go button"
				}
				if status := v.Submit(form); status != http.StatusOK {
					t.Fatalf("account = %d", status)
				}
			}
			v.at("profile")
			signed := v.Download(profileLink)
			v.Go(s.url + strings.TrimSuffix(v.path(), "profile") + "status")
			v.at("status")
			v.stage("profile_downloaded")

			phone := s.phone(t, tt.device)
			if err := phone.EnrollProfile(context.Background(), signed); err != nil {
				t.Fatal(err)
			}
			if tt.scripts {
				v.Await(`document.querySelector("[data-stage]").dataset.stage === "enrolled"`)
			} else {
				if !strings.Contains(browsertest.Eval[string](v.Browser, "document.head.innerHTML"), `http-equiv="refresh"`) {
					t.Error("the page does not fetch itself again")
				}
				v.Go(s.url + v.path())
			}
			v.stage("enrolled")
			v.at("status")
			rights := phone.Profile().MDM.AccessRights
			switch {
			case tt.device.UserEnrollment && rights != 0, tt.ownership == "institutional" && rights != 8191,
				!tt.device.UserEnrollment && tt.ownership == "personal" && rights&(4|8) != 0:
				t.Errorf("AccessRights = %d", rights)
			}

			// It is on the person's own page.
			v.Go(s.url + "/me")
			v.Check()
			if text := browsertest.Eval[string](v.Browser, "document.body.innerText"); !strings.Contains(text, phone.Options().OSVersion) {
				t.Errorf("it is not on /me:\n%s", text)
			}
		})
	}
}

// trust goes past the steps about the server's authority. A browser in a test trusts
// everything, so that its pages find out by themselves, where they have scripts.
func (v *visitor) trust(scripts bool) {
	v.t.Helper()
	if scripts {
		v.Await(`!location.pathname.endsWith("/certificate") && !location.pathname.endsWith("/trust")`)
		return
	}
	v.at("certificate")
	if ca := v.Download(`a.button[href$="/ca.mobileconfig"]`); !strings.Contains(string(ca), "com.apple.security.root") {
		v.t.Error("the certificate's profile holds no certificate")
	}
	v.next()
	v.at("trust")
	v.next()
}
