package portal_test

import (
	"flag"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/browsertest"
	"github.com/gatehouse-mdm/gatehouse/webui/portal"
)

// pictures is where pictures of all screens go, to be looked at.
var pictures = flag.String("pictures", "", "write a picture of each screen to this directory")

// TestScreensInABrowser shows every screen as people see it, and looks for what they would
// trip over. A width of 160 is a small phone whose owner reads at 200 %.
func TestScreensInABrowser(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t, plan{ownCA: true})
	h.set(t, func(s *enroll.Settings) {
		s.Organisation = enroll.Organisation{Name: "Example & Söhne", SupportEmail: "it@example.com", SupportPhone: "+49 30 123456"}
	})
	browser := browsertest.Open(t)
	browser.Go(h.url + "/login?as=ana&next=/enroll/preview/welcome")
	for _, screen := range portal.Screens {
		t.Run(screen, func(t *testing.T) {
			browser := browser.In(t)
			for _, view := range []struct {
				name, lang, device string
				width, height      int64
				dark, picture      bool
			}{
				{"phone", "en", "iphone-26", 390, 844, false, true},
				{"phone, dark", "de", "iphone-17", 390, 844, true, true},
				{"small", "en-XA", "iphone-13", 320, 568, false, false},
				{"zoomed", "en-XA", "ipad-18", 160, 284, true, false},
				{"from the right", "ar", "iphone-18", 320, 568, false, true},
				{"desk", "en", "mac-26", 1280, 900, true, true},
			} {
				browser.Screen(view.width, view.height, view.dark)
				browser.Go(h.url + "/enroll/preview/" + screen + "?" + url.Values{"lang": {view.lang}, "device": {view.device}}.Encode())
				browsertest.Eval[int](browser, `document.querySelectorAll("details.more").forEach((d) => { d.open = true; }), 0`)
				browser.Check()
				if *pictures != "" && view.picture {
					name := screen + " " + view.name + ".png"
					must(t, os.WriteFile(filepath.Join(*pictures, name), browser.Picture(), 0o600))
				}
			}
		})
	}
}
