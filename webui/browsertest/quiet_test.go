package browsertest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

func TestComplaintsOfPagesAreHeard(t *testing.T) {
	var page atomic.Value
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.Header().Set("Content-Security-Policy", "default-src 'self'; img-src 'self' data:; script-src 'self'")
			_, _ = io.WriteString(w, `<!doctype html><link rel="icon" href="data:,"><h1>x</h1>`+page.Load().(string))
		case "/throws.js":
			w.Header().Set("Content-Type", "text/javascript")
			_, _ = io.WriteString(w, `setTimeout(() => { document.title = "thrown"; throw new Error("on purpose"); })`)
		case "/says.js":
			w.Header().Set("Content-Type", "text/javascript")
			_, _ = io.WriteString(w, `console.log("harmless"); console.error("not harmless")`)
		default:
			http.NotFound(w, r)
		}
	}))
	defer srv.Close()
	browser := Open(t)
	for name, tt := range map[string]struct{ page, want string }{
		"nothing":                  {"", ""},
		"an inline style":          {`<p style="color:red">x</p>`, "Content Security Policy"},
		"an inline script":         {`<script>alert(1)</script>`, "Content Security Policy"},
		"a picture of elsewhere":   {`<img alt="" src="http://elsewhere.invalid/x.png">`, "Content Security Policy"},
		"an exception":             {`<script src="/throws.js"></script>`, "on purpose"},
		"an error in the console":  {`<script src="/says.js"></script>`, "not harmless"},
		"a file that is not there": {`<img alt="" src="/none.png">`, "404"},
	} {
		t.Run(name, func(t *testing.T) {
			page.Store(tt.page)
			browser := browser.In(t)
			browser.Go(srv.URL)
			if name == "an exception" {
				browser.Await(`document.title === "thrown"`)
			}
			found := strings.Join(browser.complaints(), "\n")
			if tt.want == "" && found != "" || !strings.Contains(found, tt.want) {
				t.Errorf("heard %q, want %q", found, tt.want)
			}
			browser.Quiet() // it is all told
		})
	}
}
