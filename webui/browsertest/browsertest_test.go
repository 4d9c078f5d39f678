package browsertest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

func TestDefectsAreFound(t *testing.T) {
	var page atomic.Value // a browser also asks by itself, as for an icon
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, `<!doctype html><meta name="viewport" content="width=device-width, initial-scale=1">`+page.Load().(string))
	}))
	defer srv.Close()
	browser := Open(t)
	browser.Screen(320, 720, false)

	const head, foot = `<html lang="en"><title>x</title><a href="#main">skip</a><header>x</header><main id="main"><h1>x</h1>`, `</main>`
	for name, tt := range map[string]struct{ page, want string }{
		"nothing":                      {head + foot, ""},
		"no heading":                   {strings.Replace(head, "<h1>x</h1>", "", 1) + foot, "0 × h1"},
		"a level left out":             {head + `<h3>x</h3>` + foot, "follows a heading of level 1"},
		"no language":                  {strings.Replace(head, ` lang="en"`, "", 1) + foot, "no language"},
		"no skip link":                 {strings.Replace(head, "#main", "/", 1) + foot, "no skip link"},
		"an input without a label":     {head + `<input name="q" style="height:44px">` + foot, "(q) has no label"},
		"a button without a name":      {head + `<button style="height:44px"></button>` + foot, "has no name"},
		"a small button":               {head + `<button>x</button>` + foot, "px high"},
		"a nav that says nothing":      {head + `<nav></nav>` + foot, "a nav without a name"},
		"an id twice":                  {head + `<p id="a">x<p id="a">x` + foot, "two elements have the id a"},
		"a name that is not there":     {head + `<section aria-labelledby="nobody"></section>` + foot, "nobody, which is not there"},
		"something wide":               {head + `<p style="width:400px">x` + foot, "the page is"},
		"something cut off":            {head + `<div style="overflow:hidden"><p style="width:400px">x</div>` + foot, "cuts off what it holds"},
		"faint text":                   {head + `<p style="color:#999">faint` + foot, "has a contrast of"},
		"faint text on a tinted layer": {head + `<div style="background:#777"><p style="background:rgba(255,255,255,.1);color:#bbb">faint</div>` + foot, "has a contrast of"},
	} {
		t.Run(name, func(t *testing.T) {
			page.Store(tt.page)
			browser := browser.In(t)
			browser.Go(srv.URL)
			found := strings.Join(Eval[[]string](browser, defects), "\n")
			if tt.want == "" && found != "" || !strings.Contains(found, tt.want) {
				t.Errorf("found %q, want %q", found, tt.want)
			}
		})
	}
}

func TestDownloadIsWhatTheServerSent(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/profile" {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = io.WriteString(w, `<a id="get" href="/profile">get</a>`)
			return
		}
		w.Header().Set("Content-Type", "application/x-apple-aspen-config")
		w.Header().Set("Content-Disposition", "attachment")
		_, _ = io.WriteString(w, r.UserAgent()+" "+r.Header.Get("Accept-Language"))
	}))
	defer srv.Close()
	browser := Open(t)
	browser.Pose("a phone", "de")
	browser.Go(srv.URL)
	for range 2 {
		if got := string(browser.Download("#get")); got != "a phone de" {
			t.Errorf("downloaded %q", got)
		}
	}
	if at := Eval[string](browser, "location.pathname"); at != "/" {
		t.Errorf("the page went to %s", at)
	}
}

// A script that changes an input's attributes while it is typed into is no race of the
// test's own: chromedp's SendKeys reads them without its lock.
func TestTypingIntoWhatAScriptChanges(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, `<input id="in" value="old"><script>
			setInterval(() => { for (let i = 0; i < 50; i++) document.getElementById("in").toggleAttribute("data-" + i) }, 0)</script>`)
	}))
	defer srv.Close()
	browser := Open(t)
	browser.Go(srv.URL)
	browser.Type("#in", "er")
	browser.Fill("#in", "")
	for range 20 {
		browser.Fill("#in", "new")
		browser.Type("#in", "er")
	}
	if got := Eval[string](browser, `document.getElementById("in").value`); got != "newer" {
		t.Errorf("typed %q", got)
	}
}
