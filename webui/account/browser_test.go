package account_test

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	cdpnetwork "github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/browsertest"
)

// pictures is where pictures of all screens go, to be looked at.
var pictures = flag.String("pictures", "", "write a picture of each screen to this directory")

// TestScreensInABrowser shows every page as people see it in the sheet that their device
// opens, and looks for what they would trip over.
func TestScreensInABrowser(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t, enroll.MethodWeb)
	h.set(t, func(s *enroll.Settings) {
		s.Organisation = enroll.Organisation{Name: "Example & Söhne", SupportEmail: "it@example.com", SupportPhone: "+49 30 123456"}
	})
	old := h.mac(t).challenge("ana@example.com")
	again := h.iPhone(t).challenge("ana@example.com")
	browser := browsertest.Open(t)
	show := func(name, path string) {
		t.Helper()
		for _, view := range []struct {
			name, lang    string
			width, height int64
			dark, picture bool
		}{
			{"phone", "en", 390, 700, false, true},
			{"phone, dark", "de", 390, 700, true, true},
			{"zoomed", "es", 160, 284, true, false},
			{"from the right", "ar", 320, 568, false, true},
		} {
			browser.Screen(view.width, view.height, view.dark)
			joint := "?"
			for _, c := range path {
				if c == '?' {
					joint = "&"
				}
			}
			browser.Go(h.url + path + joint + "lang=" + view.lang)
			browsertest.Eval[int](browser, `document.querySelectorAll("details.more").forEach((d) => { d.open = true; }), 0`)
			browser.Check()
			if *pictures != "" && view.picture {
				must(t, os.WriteFile(filepath.Join(*pictures, name+" "+view.name+".png"), browser.Picture(), 0o600))
			}
		}
		browser.Go(h.url + "/enroll/byod?lang=en")
	}
	show("start byod", "/enroll/byod")
	show("start adde", "/enroll/adde")
	show("login", again)
	h.policy(t, func(c *enroll.AccountDriven) { c.MinimumOS = map[enroll.ModelFamily]string{"Mac": "26.1"} })
	show("old", old)
	h.policy(t, func(c *enroll.AccountDriven) { c.MinimumOS = nil })
	show("ticket", "/enroll/byod/sign-in/x")

	browser.Go(h.url + "/login?next=/me")
	browser.Fill("#email", "ana")
	browser.Fill("#password", password)
	browser.Submit(".form button[type=submit]")
	show("confirm", again)
	show("confirm adde", old)
	must(t, h.texts.Change(t.Context(), "test", "en", map[string]string{"portal.terms": "Be **good**.\n\nDo not lose it."}))
	show("terms", again)
	must(t, h.texts.Change(t.Context(), "test", "en", map[string]string{"portal.terms": ""}))

	// Carl's way ends at a page that says why.
	h.pass(time.Second)
	carl := h.iPhone(t).challenge("carl@example.com")
	browser.Go(h.url + carl)
	browser.Fill("#password", password)
	if status := browser.Submit(".form button[type=submit]"); status != 403 {
		t.Errorf("Carl is answered %d", status)
	}
	show("missing", carl)
}

// TestABrowserFollowsToTheDevice takes the form of a page to the scheme, which the policy of
// the page must allow.
func TestABrowserFollowsToTheDevice(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t, enroll.MethodWeb)
	browser := browsertest.Open(t)
	browser.Screen(390, 700, false)
	browser.Go(h.url + h.iPhone(t).challenge("ana"))
	browsertest.Eval[int](browser, `window.refused = [], document.addEventListener("securitypolicyviolation", (e) => { window.refused.push(e.violatedDirective + " " + e.blockedURI); }), 0`)
	browser.Fill("#password", password)
	var end cdpnetwork.EventLoadingFailed
	browser.Do(func(ctx context.Context, target *chromedp.Target) (_ chromedp.Void, err error) {
		end, err = chromedp.WaitEvent(cdpnetwork.LoadingFailed, func(e cdpnetwork.EventLoadingFailed) bool { return e.Type == cdpnetwork.ResourceTypeDocument },
			chromedp.Evaluate[any](`void document.querySelector(".form button[type=submit]").click()`))(ctx, target)
		return chromedp.Void{}, err
	})
	if n := len(attempts(h.log.String())); n != 1 {
		t.Errorf("%d sign-ins were finished; the browser ends with %q", n, end.ErrorText)
	}
	// Nobody takes the scheme here: the page stays, and learns what its policy has refused
	// before anything that it asks for from now on.
	browsertest.Eval[bool](browser, `fetch("/enroll/byod").then(() => true)`)
	if refused := browsertest.Eval[[]string](browser, `window.refused || ["the page went away"]`); len(refused) > 0 {
		t.Errorf("the policy refused %v", refused)
	}
}
