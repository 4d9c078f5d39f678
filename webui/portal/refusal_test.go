package portal_test

import (
	"log/slog"
	"regexp"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/browsertest"
	"github.com/gatehouse-mdm/gatehouse/webui/frame"
	"github.com/gatehouse-mdm/gatehouse/webui/portal"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
)

func TestEveryRefusalHasItsCodeAndItsTexts(t *testing.T) {
	texts, err := text.New(text.Config{DB: storagetest.Open(t), Log: slog.New(slog.DiscardHandler), Now: time.Now})
	must(t, err)
	en, err := texts.In(t.Context(), "en")
	must(t, err)
	codes := map[string]string{}
	for _, r := range append(frame.General(), portal.Refusals()...) {
		if !regexp.MustCompile(`^GH-E[0135][0-9]{2}$`).MatchString(r.Code) || r.Name == "" {
			t.Errorf("refusal %q of %q", r.Code, r.Name)
		}
		if other, twice := codes[r.Code]; twice {
			t.Errorf("%s is both %s and %s", r.Code, other, r.Texts)
		}
		codes[r.Code] = r.Texts
		keys := []string{r.Texts + ".heading", r.Texts + ".text"}
		if r.Action != "" {
			keys = append(keys, r.Texts+".action")
		}
		for _, key := range keys {
			if !en.Has(key) {
				t.Errorf("%s: no text %s", r.Code, key)
			}
		}
	}
}

// TestEnrollmentInABrowser goes the whole way, as the person with the phone does: with
// scripts, where the status page moves by itself, and without any.
func TestEnrollmentInABrowser(t *testing.T) {
	h := newHouse(t, plan{ownCA: true})
	for name, scripts := range map[string]bool{"with scripts": true, "without scripts": false} {
		t.Run(name, func(t *testing.T) {
			browser := browsertest.Open(t)
			browser.Pose(safari17, "en")
			if !scripts {
				browser.WithoutScripts()
			}
			l := h.link(t, enroll.NewLink{Login: enroll.LoginNone, Ask: true})
			browser.Screen(390, 844, false)
			browser.Go(h.url + "/enroll/l/" + l.Code)
			step := func(selector string) {
				t.Helper()
				if status := browser.Submit(selector); status != 200 {
					t.Fatalf("%s leads to status %d", selector, status)
				}
			}
			step(`form[action="/enroll/start"] button`)
			browser.Click(`label[for="ownership-` + string(mdm.Personal) + `"]`)
			step(`form.sheet button[type="submit"]`)
			if got := browser.Download(`a[href$="ca.mobileconfig"]`); string(got) != "profile of the root" {
				t.Fatalf("the authority's profile: %.40q", got)
			}
			step(`form[action$="/certificate"] button`)
			step(`form[action$="/trust"] button`)
			file := browser.Download(`a[href$="enroll.mobileconfig"]`)
			d := h.phone(t)
			must(t, d.Install(file))
			must(t, d.RequestIdentity(t.Context()))
			if scripts {
				// The page of the profile has noticed, and has gone on by itself.
				browser.Await(`!!document.querySelector('[data-stage="identity_issued"]')`)
			} else {
				step(`a[href$="/status"]`)
			}
			must(t, d.Authenticate(t.Context()))
			must(t, d.TokenUpdate(t.Context()))
			if scripts {
				browser.Await(`!!document.querySelector('[data-stage="enrolled"]') && document.querySelector("h1").textContent.includes("all set")`)
			} else {
				browser.Go(h.url + enrollmentOf(t, h, d.IDs()["UDID"]) + "/status")
				browser.Click(".languages summary")
				if browser.Submit(`a[hreflang="de"]`) != 200 {
					t.Error("no other language")
				}
			}
			browser.Check()
		})
	}
}

// enrollmentOf is the path of the enrollment by which a device came in.
func enrollmentOf(t *testing.T, h *house, udid any) string {
	t.Helper()
	list, _, err := h.mdm.Devices(t.Context(), "", 100)
	must(t, err)
	for _, d := range list {
		if d.UDID == udid {
			return "/enroll/a/" + d.AttemptID
		}
	}
	t.Fatalf("no device %v", udid)
	return ""
}
