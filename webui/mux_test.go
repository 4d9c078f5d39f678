package webui_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
)

// newMux returns a Mux with one route of each kind that tests need, behind the
// middleware that every request passes, and what it logs.
func newMux(t *testing.T) (*httptest.Server, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	pages, err := webui.NewPages(log)
	if err != nil {
		t.Fatal(err)
	}
	mux := webui.NewMux(pages.Fail)
	r := mux.Group(webui.Group{BodyLimit: 16, Timeout: 10 * time.Second, Fail: pages.Fail, Use: []webui.Middleware{webui.PlainQuery(pages.Fail)}})
	r.Handle("GET /hello", func(w http.ResponseWriter, r *http.Request) error {
		_, err := io.WriteString(w, "hello")
		return err
	})
	r.Handle("POST /read", func(w http.ResponseWriter, r *http.Request) error {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		_, err = w.Write(body)
		return err
	})
	r.Handle("GET /panic/{secret}", func(http.ResponseWriter, *http.Request) error { panic("a bug") })
	r.Handle("GET /half", func(w http.ResponseWriter, r *http.Request) error {
		_, _ = io.WriteString(w, strings.Repeat("half ", 10_000))
		panic("a bug")
	})
	r.Handle("GET /broken", func(http.ResponseWriter, *http.Request) error { return errors.New("disk on fire at /var/lib") })
	serverURL := &url.URL{Scheme: "https", Host: "mdm.example.com"}
	sameOrigin, err := webui.SameOrigin(serverURL, pages.Fail)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(webui.Chain(mux,
		webui.RealPeer(nil), webui.AssignRequestID, webui.AccessLog(log, time.Now),
		webui.Recover(log, pages.Fail), webui.SecurityHeaders(serverURL), sameOrigin))
	t.Cleanup(srv.Close)
	return srv, &out
}

type answer struct {
	*http.Response
	body string
}

func (a answer) code(t *testing.T) string {
	t.Helper()
	var p webui.Problem
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		t.Fatalf("the answer is no problem: %v: %s", err, a.body)
	}
	if p.Status != a.StatusCode || p.RequestID != a.Header.Get("X-Request-Id") {
		t.Errorf("problem %+v does not fit status %d and request ID %s", p, a.StatusCode, a.Header.Get("X-Request-Id"))
	}
	return p.Code
}

func send(t *testing.T, method, url string, body io.Reader, header ...string) answer {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp, string(text)}
}

func TestPanicIsA500AndTheNextRequestWorks(t *testing.T) {
	srv, out := newMux(t)
	got := send(t, "GET", srv.URL+"/panic/s3cret", nil)
	if got.StatusCode != http.StatusInternalServerError || got.code(t) != "internal" || !got.Close {
		t.Errorf("panic = %d, connection closed %v; want 500, true", got.StatusCode, got.Close)
	}
	if strings.Contains(got.body, "a bug") {
		t.Error("the answer tells what panicked")
	}
	if log := out.String(); !strings.Contains(log, "a bug") || !strings.Contains(log, got.Header.Get("X-Request-Id")) {
		t.Error("the log does not tell what panicked, under the request's ID")
	}
	if next := send(t, "GET", srv.URL+"/hello", nil); next.body != "hello" {
		t.Errorf("next request = %d %s, want hello", next.StatusCode, next.body)
	}
}

func TestPanicInTheMiddleOfAnAnswerCutsItOff(t *testing.T) {
	srv, _ := newMux(t)
	resp, err := http.Get(srv.URL + "/half")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("half an answer was read as if it were whole")
	}
}

func TestFailuresAreToldInTheClientsForm(t *testing.T) {
	srv, _ := newMux(t)
	for name, tt := range map[string]struct {
		method, path, body string
		status             int
		code               string
	}{
		"an unknown path":             {"GET", "/nothing", "", 404, "not_found"},
		"a wrong method":              {"DELETE", "/hello", "", 405, "method_not_allowed"},
		"an error of ours":            {"GET", "/broken", "", 500, "internal"},
		"a body that is too large":    {"POST", "/read", strings.Repeat("x", 17), 413, "body_too_large"},
		"a query that is malformed":   {"GET", "/hello?a=%zz", "", 400, "bad_query"},
		"a query with many keys":      {"GET", "/hello?" + manyKeys(1000), "", 400, "bad_query"},
		"a query with one key often":  {"GET", "/hello?" + strings.Repeat("k=v&", 10_000), "", 400, "bad_query"},
		"a query with a million keys": {"GET", "/hello?" + strings.Repeat("&", 30_000) + "a=%", "", 400, "bad_query"},
	} {
		t.Run(name, func(t *testing.T) {
			got := send(t, tt.method, srv.URL+tt.path, strings.NewReader(tt.body))
			if got.StatusCode != tt.status || got.code(t) != tt.code {
				t.Errorf("%s %.40s = %d %s, want %d %s", tt.method, tt.path, got.StatusCode, got.body, tt.status, tt.code)
			}
			if strings.Contains(got.body, "disk on fire") {
				t.Error("the answer tells what stays in the log")
			}
			page := send(t, tt.method, srv.URL+tt.path, strings.NewReader(tt.body), "Accept", "text/html,*/*;q=0.8")
			if page.StatusCode != tt.status || !strings.HasPrefix(page.Header.Get("Content-Type"), "text/html") || !strings.Contains(page.body, "GH-E") {
				t.Errorf("to a browser: %d %s, want %d and a page with a code", page.StatusCode, page.Header.Get("Content-Type"), tt.status)
			}
		})
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("k")
		b.WriteString(strings.Repeat("x", i%7))
		b.WriteByte(byte('a' + i%26))
		b.WriteByte(byte('a' + i/26%26))
		b.WriteString("=v&")
	}
	return strings.TrimSuffix(b.String(), "&")
}

// chunked hides its length, so that it is sent in chunks.
type chunked struct{ io.Reader }

func TestBodyWithoutALengthIsLimitedToo(t *testing.T) {
	srv, _ := newMux(t)
	if got := send(t, "POST", srv.URL+"/read", chunked{strings.NewReader("0123456789abcdef")}); got.StatusCode != 200 || got.body != "0123456789abcdef" {
		t.Errorf("16 bytes = %d %s, want 200", got.StatusCode, got.body)
	}
	if got := send(t, "POST", srv.URL+"/read", chunked{strings.NewReader("0123456789abcdefg")}); got.StatusCode != 413 || got.code(t) != "body_too_large" {
		t.Errorf("17 bytes = %d %s, want 413", got.StatusCode, got.body)
	}
	if got := send(t, "POST", srv.URL+"/read", strings.NewReader("0123456789abcdefg")); !strings.Contains(got.body, "16 bytes") {
		t.Errorf("17 bytes that are announced: %s, want the limit in the answer", got.body)
	}
}

func TestEveryAnswerCarriesSecurityHeaders(t *testing.T) {
	srv, _ := newMux(t)
	for _, path := range []string{"/hello", "/nothing", "/panic/x"} {
		h := send(t, "GET", srv.URL+path, nil).Header
		csp := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: policy %q lacks %s", path, csp, want)
			}
		}
		if strings.Contains(csp, "unsafe") {
			t.Errorf("%s: policy %q is unsafe", path, csp)
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Strict-Transport-Security") == "" || h.Get("Referrer-Policy") == "" {
			t.Errorf("%s: headers are missing: %v", path, h)
		}
	}
}

func TestCrossOriginRequestsAreRefused(t *testing.T) {
	srv, _ := newMux(t)
	for name, tt := range map[string]struct {
		header []string
		status int
	}{
		"a program":                          {nil, 200},
		"our own page":                       {[]string{"Sec-Fetch-Site", "same-origin"}, 200},
		"our own page behind a proxy":        {[]string{"Origin", "https://mdm.example.com"}, 200},
		"another site":                       {[]string{"Sec-Fetch-Site", "cross-site"}, 403},
		"another site in an old browser":     {[]string{"Origin", "https://evil.example"}, 403},
		"a sandboxed page in an old browser": {[]string{"Origin", "null"}, 403},
		"a sister site":                      {[]string{"Sec-Fetch-Site", "same-site"}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			if got := send(t, "POST", srv.URL+"/read", strings.NewReader("x"), tt.header...); got.StatusCode != tt.status {
				t.Errorf("POST from %s = %d, want %d", name, got.StatusCode, tt.status)
			}
		})
	}
}

func TestAccessLogTellsNoSecrets(t *testing.T) {
	srv, out := newMux(t)
	send(t, "GET", srv.URL+"/hello?token=s3cret", nil, "Authorization", "Bearer s3cret")
	send(t, "GET", srv.URL+"/panic/s3cret", nil)
	log := out.String()
	if strings.Contains(log, "s3cret") {
		t.Errorf("the log tells a secret:\n%s", log)
	}
	if !strings.Contains(log, `route="GET /hello" status=200`) {
		t.Errorf("the log does not tell the route and status:\n%s", log)
	}
}
