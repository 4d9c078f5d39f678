package view

import (
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
)

// What a device or a person could be called.
const (
	hostile     = `"><script>alert(1)</script>`
	rightToLeft = "جهاز آيباد الخاص بمريم في المكتب الرئيسي"
)

var long = strings.Repeat("Ana-Maria", 22) // no place to break

// texts are in a language; a key that is not there fails the test.
func texts(t testing.TB, lang string) *text.Texts {
	t.Helper()
	catalogue, err := text.New(text.Config{
		DB: storagetest.Open(t), Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Missing: func(lang, what string) { t.Errorf("missing in %s: %s", lang, what) },
	})
	if err != nil {
		t.Fatal(err)
	}
	in, err := catalogue.In(t.Context(), lang)
	if err != nil {
		t.Fatal(err)
	}
	return in.With("organisation", hostile)
}

func samples(t testing.TB) []Page {
	portal := Portal{
		T: texts(t, "en-XA"), Title: "Portal", Organisation: hostile, Logo: "/logo/x", Here: "/enroll", User: hostile,
		Support:  Support{Email: hostile, Phone: hostile, URL: hostile},
		Progress: Progress{Steps: []string{hostile, long, rightToLeft, "x"}, Current: 2},
		Refresh:  5, Preview: true,
	}
	bare := Portal{T: texts(t, "en"), Title: "Portal"}
	pages := []Page{
		PortalError{Portal: portal, Heading: hostile, Text: long, Action: Link{hostile, "/"}, Code: "GH-E101", Details: hostile},
		PortalError{Portal: bare, Heading: "No", Text: "No.", Code: "GH-E101"},
		Welcome{Layout: Layout{Title: "Welcome"}, OwnCA: true, Fingerprint: "5F:2C", Version: hostile},
		Welcome{Layout: Layout{Title: "Welcome"}, SetUp: true},
		Setup{Layout: Layout{Title: "Finish setup"}},
		Setup{Layout: Layout{Title: "Finish setup"}, Error: hostile},
		Message{Layout: Layout{Title: "No"}, Heading: hostile, Text: hostile, Command: hostile, Action: Link{hostile, "/"}, Code: hostile, RequestID: hostile, Details: hostile},
	}
	pages = append(pages, signInSamples(portal, bare)...)
	pages = append(pages, portalSamples(portal, bare)...)
	pages = append(pages, accountSamples(portal, bare)...)
	return append(pages, meSamples(portal, bare)...)
}

func TestPages(t *testing.T) {
	views, err := New()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i, page := range samples(t) {
		seen[page.template()] = true
		t.Run(fmt.Sprintf("%d %s", i, reflect.TypeOf(page).Name()), func(t *testing.T) {
			w := httptest.NewRecorder()
			if err := views.Write(w, http.StatusTeapot, page); err != nil {
				t.Fatal(err)
			}
			html := w.Body.String()
			if w.Code != http.StatusTeapot {
				t.Errorf("status %d, want 418", w.Code)
			}
			for what, pattern := range map[string]string{"h1": "<h1[ >]", "main": "<main[ >]", "skip link": `class="skip" href="#main"`, "title": "<title>.+</title>"} {
				if n := len(regexp.MustCompile(pattern).FindAllString(html, -1)); n != 1 {
					t.Errorf("%d × %s, want 1", n, what)
				}
			}
			// Our policy allows no inline script or style, and no page may need one.
			for _, banned := range []string{"<script>", "<style", " style=", " onclick", "javascript:", "http://", "https://"} {
				if strings.Contains(html, banned) {
					t.Errorf("the page holds %q", banned)
				}
			}
			for _, input := range regexp.MustCompile(`<input id="([^"]+)"`).FindAllStringSubmatch(html, -1) {
				if !strings.Contains(html, `<label for="`+input[1]+`"`) {
					t.Errorf("input %s has no label", input[1])
				}
			}
			if t.Failed() {
				t.Log(html)
			}
		})
	}
	for name := range views.pages {
		if !seen[name] {
			t.Errorf("no sample shows %s", name)
		}
	}
}

func TestAssetsAreServedUnderTheirHash(t *testing.T) {
	views, err := New()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gatehouse.css", "gatehouse.js", "portal.css", "portal.js", "icon.svg"} {
		url, err := views.Assets().URL(name)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		if !views.Assets().Serve(w, httptest.NewRequest("GET", url, nil)) || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
			t.Errorf("%s is not served for ever at %s", name, url)
		}
	}
	if views.Assets().Serve(httptest.NewRecorder(), httptest.NewRequest("GET", "/assets/gatehouse.css", nil)) {
		t.Error("an asset is served without its hash")
	}
}

func TestMomentsAreReadable(t *testing.T) {
	now := time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)
	for want, at := range map[string]time.Time{
		"never":       {},
		"just now":    now.Add(-2 * time.Second),
		"42 s ago":    now.Add(-42 * time.Second),
		"3 min ago":   now.Add(-200 * time.Second),
		"47 h ago":    now.Add(-47*time.Hour - time.Minute),
		"3 days ago":  now.Add(-80 * time.Hour),
		"21 Nov 2025": now.AddDate(-1, 0, 0),
		"in 5 min":    now.Add(5*time.Minute + 10*time.Second),
		"in 60 min":   now.Add(time.Hour),
		"in 47 h":     now.Add(47*time.Hour + time.Minute),
		// It is no use to count the hours to a day that is far.
		"23 Nov 2026 10:00 UTC": now.Add(49 * time.Hour),
	} {
		if got := (Moment{At: at, Now: now}).Ago(); got != want {
			t.Errorf("Ago of %v = %q, want %q", at, got, want)
		}
	}
}

// TestContrast computes the contrast of every pair of colours that the style sheet
// puts on each other, in both themes: WCAG 2.2, 1.4.3 and 1.4.11.
func TestContrast(t *testing.T) {
	const text, graphics = 4.5, 3.0
	pairs := []struct {
		front, back string
		least       float64
	}{
		{"text", "bg", text}, {"text", "surface", text}, {"text", "code", text},
		{"quiet", "bg", text}, {"quiet", "surface", text},
		{"accent", "bg", text}, {"accent", "surface", text}, {"accent", "code", text}, {"accent", "accent-soft", text},
		{"accent-hover", "bg", text}, {"accent-hover", "surface", text},
		{"on-accent", "accent", text}, {"on-accent", "accent-hover", text},
		{"good", "good-soft", text}, {"waiting", "waiting-soft", text}, {"bad", "bad-soft", text},
		{"on-bad", "bad", text}, {"bad", "surface", text}, {"good", "surface", text}, {"waiting", "surface", text},
		{"field", "surface", graphics}, {"field", "bg", graphics},
		{"series-1", "surface", graphics}, {"series-2", "surface", graphics}, {"series-3", "surface", graphics}, {"series-4", "surface", graphics},
		{"series-5", "surface", graphics}, {"series-6", "surface", graphics}, {"series-7", "surface", graphics},
	}
	for _, theme := range []string{"light", "dark"} {
		colours := map[string]string{}
		for _, t := range tokens {
			if colours[t.name] = t.light; theme == "dark" {
				colours[t.name] = t.dark
			}
		}
		for _, p := range pairs {
			front, back := colours[p.front], colours[p.back]
			if front == "" || back == "" {
				t.Errorf("%s: no colour %s or %s", theme, p.front, p.back)
				continue
			}
			if got := contrast(t, front, back); got < p.least {
				t.Errorf("%s: contrast of %s on %s = %.2f, want %.1f", theme, p.front, p.back, got, p.least)
			}
		}
	}
}

func contrast(t *testing.T, a, b string) float64 {
	la, lb := luminance(t, a), luminance(t, b)
	return (max(la, lb) + 0.05) / (min(la, lb) + 0.05)
}

// luminance is the relative luminance of WCAG 2.2.
func luminance(t *testing.T, colour string) float64 {
	t.Helper()
	n, err := strconv.ParseUint(colour[1:], 16, 32)
	if err != nil {
		t.Fatal(err)
	}
	linear := func(v uint64) float64 {
		c := float64(v&0xff) / 255
		if c <= 0.04045 {
			return c / 12.92
		}
		return math.Pow((c+0.055)/1.055, 2.4)
	}
	return 0.2126*linear(n>>16) + 0.7152*linear(n>>8) + 0.0722*linear(n)
}

func TestAnAddressBreaksBehindItsAt(t *testing.T) {
	for in, want := range map[string]string{
		"ana@example.com": "ana@<wbr>example.com", "ana": "ana", "": "", `<b>@"x"`: "&lt;b&gt;@<wbr>&#34;x&#34;",
	} {
		if got := Address(in); string(got) != want {
			t.Errorf("Address(%q) = %q, want %q", in, got, want)
		}
	}
}
