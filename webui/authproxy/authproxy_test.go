package authproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/authproxy"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// vouching vouches for whoever asks, or fails. That a
// certificate is needed, and which one, is tested with the whole server.
type vouching struct{ fail error }

func (v vouching) Vouch(context.Context, enroll.Peer) (mdm.Device, error) {
	return mdm.Device{ID: "d1", AppleID: mdm.AppleID{UDID: "00008110-0001AA"}}, v.fail
}

// proxied is a proxy below a name of its own, before a handler.
func proxied(t testing.TB, below string, v vouching, behind http.Handler) *httptest.Server {
	t.Helper()
	storagetest.AnyEngine(t)
	back := httptest.NewServer(behind)
	t.Cleanup(back.Close)
	target, err := url.Parse(back.URL + below)
	must(t, err)
	public := &url.URL{Scheme: "https", Host: "mdm.example.com"}
	p, err := authproxy.New(authproxy.Config{
		Target: target, Devices: v, ServerURL: public, Log: slog.New(slog.DiscardHandler),
		Sender: func(_ *http.Request, body []byte) (enroll.Peer, error) {
			if bytes.Contains(body, []byte("forged")) {
				return enroll.Peer{}, errors.New("the signature is of something else")
			}
			return enroll.Peer{Body: body}, nil
		},
		Recognize: func(r *http.Request) error {
			if r.Header.Get("Mdm-Signature") == "a stranger's" {
				return enroll.ErrUnidentified
			}
			return nil
		},
	})
	must(t, err)
	mux := webui.NewMux(webui.FailWithProblem(slog.New(slog.DiscardHandler)))
	mux.Group(webui.Group{BodyLimit: authproxy.MaxBody, Fail: webui.FailWithProblem(slog.New(slog.DiscardHandler))}).Handle(authproxy.Path, webui.Plain(p))
	srv := httptest.NewServer(webui.Chain(mux, webui.RealPeer(nil), webui.AssignRequestID, webui.SecurityHeaders(public)))
	t.Cleanup(srv.Close)
	return srv
}

// ask sends a request as it is: no redirection is followed, no path cleaned.
func ask(t testing.TB, req *http.Request) (*http.Response, string) {
	t.Helper()
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp, string(body)
}

func request(t testing.TB, method, to, body string, headers ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, to, strings.NewReader(body))
	must(t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header[headers[i]] = append(req.Header[headers[i]], headers[i+1])
	}
	return req
}

func TestTheOtherServerLearnsWhichDeviceItIsAndNothingElse(t *testing.T) {
	var got *http.Request
	var body string
	srv := proxied(t, "/assets", vouching{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
	}))
	resp, text := ask(t, request(t, "PUT", srv.URL+"/authproxy/a%20b/c?d=e&f", "hello",
		"Mdm-Signature", "c2ln", "Authorization", "Bearer token", "Cookie", "__Host-gatehouse=1; theirs=2; gatehouse-lang=de",
		"X-Enrollment-ID", "another", "X-Enrollment-Id", "another", "X_Enrollment_ID", "another", "X-Enrollment-ParentID", "another", "X-Trace-Id", "another",
		"X-Forwarded-For", "192.0.2.7", "X-Forwarded-User", "root", "Forwarded", "for=192.0.2.7", "X-Real-Ip", "192.0.2.7",
		"Connection", "X-Hop", "X-Hop", "1", "If-None-Match", `"tag"`, "User-Agent", "Munki"))
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", resp.Status, text)
	}
	if got.Method != "PUT" || got.RequestURI != "/assets/a%20b/c?d=e&f" || body != "hello" {
		t.Errorf("passed on is %s %s %q", got.Method, got.RequestURI, body)
	}
	want := map[string]string{
		"X-Enrollment-Id": "00008110-0001AA", "X-Trace-Id": resp.Header.Get("X-Request-Id"), "X-Forwarded-For": "127.0.0.1",
		"X-Forwarded-Host": "mdm.example.com", "X-Forwarded-Proto": "https", "Cookie": "theirs=2", "If-None-Match": `"tag"`, "User-Agent": "Munki",
		"Content-Length": "5", "Accept-Encoding": "gzip",
	}
	for key, values := range got.Header {
		if len(values) != 1 || values[0] != want[key] {
			t.Errorf("%s is %q, want %q", key, values, want[key])
		}
		delete(want, key)
	}
	for key := range want {
		t.Errorf("%s is missing", key)
	}
	ask(t, request(t, "GET", srv.URL+"/authproxy/", "", "Authorization", "Basic dXNlcjpwYXNz"))
	if got.RequestURI != "/assets/" || got.Header.Get("Authorization") != "Basic dXNlcjpwYXNz" {
		t.Errorf("passed on is %s with the Authorization %q", got.RequestURI, got.Header.Get("Authorization"))
	}
}

func TestNoPathLeadsOutOfWhatIsPassedOn(t *testing.T) {
	var asked []string
	srv := proxied(t, "/assets", vouching{}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked = append(asked, r.RequestURI) }))
	for path, want := range map[string]string{ // empty: nothing is passed on
		"/authproxy/a/b":            "/assets/a/b",
		"/authproxy/a%3Fb":          "/assets/a%3Fb",
		"/authproxy/a/":             "/assets/a/",
		"/authproxy/a:b@c":          "/assets/a:b@c",
		"/authproxy/../v1/x":        "",
		"/authproxy/%2e%2e/v1/x":    "",
		"/authproxy/a/%2E./x":       "",
		"/authproxy/..%2fv1":        "",
		"/authproxy/a%5c..%5cx":     "",
		"/authproxy/a%00":           "",
		"/authproxy//evil.example/": "",
		"/authproxy":                "",
	} {
		asked = nil
		req := request(t, "GET", srv.URL, "")
		req.URL.Opaque = path // as it is
		resp, _ := ask(t, req)
		switch {
		case want == "" && (len(asked) > 0 || resp.StatusCode == http.StatusOK):
			t.Errorf("%s: %d, passed on is %q", path, resp.StatusCode, asked)
		case want != "" && !slices.Equal(asked, []string{want}):
			t.Errorf("%s: %d, passed on is %q, want %s", path, resp.StatusCode, asked, want)
		}
	}
}

func TestWhatIsNotPassedOn(t *testing.T) {
	for name, tt := range map[string]struct {
		fail    error
		method  string
		body    string
		headers []string
		want    int
	}{
		"of nobody":              {enroll.ErrUnidentified, "GET", "", nil, http.StatusForbidden},
		"of who has left":        {enroll.ErrGone, "GET", "", nil, http.StatusForbidden},
		"of who must sign in":    {enroll.ErrWithheld, "GET", "", nil, http.StatusForbidden},
		"of a captured message":  {enroll.ErrStale, "GET", "", nil, http.StatusForbidden},
		"with a wrong signature": {nil, "PUT", "forged", []string{"Mdm-Signature", "c2ln"}, http.StatusForbidden},
		"signed, and too large":  {nil, "PUT", strings.Repeat("x", 1<<20+1), []string{"Mdm-Signature", "c2ln"}, http.StatusRequestEntityTooLarge},
		"while there is no database": {
			fmt.Errorf("view: %w", storage.ErrUnavailable), "GET", "", nil, http.StatusServiceUnavailable},
		"of an error of ours": {errors.New("oops"), "GET", "", nil, http.StatusInternalServerError},
		"a WebSocket":         {nil, "GET", "", []string{"Connection", "Upgrade", "Upgrade", "websocket"}, http.StatusNotImplemented},
		"TRACE":               {nil, "TRACE", "", nil, http.StatusNotImplemented},
	} {
		t.Run(name, func(t *testing.T) {
			srv := proxied(t, "", vouching{tt.fail}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it is passed on") }))
			resp, text := ask(t, request(t, tt.method, srv.URL+"/authproxy/x", tt.body, tt.headers...))
			if resp.StatusCode != tt.want || resp.Header.Get("WWW-Authenticate") != "" || strings.Contains(text, "oops") {
				t.Errorf("%s %s, want %d", resp.Status, text, tt.want)
			}
		})
	}
}

func TestAnAnswerComesAsIfFromHere(t *testing.T) {
	srv := proxied(t, "/assets/", vouching{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		for _, cookie := range []string{"__Host-gatehouse=stolen; Path=/", "GATEHOUSE=1", "theirs=2"} {
			h.Add("Set-Cookie", cookie)
		}
		h.Set("Content-Security-Policy", "default-src *")
		h.Set("X-Frame-Options", "ALLOWALL")
		h.Set("Clear-Site-Data", "*")
		h.Set("Etag", `"tag"`)
		h.Set("WWW-Authenticate", "Basic")
		switch strings.TrimPrefix(r.URL.Path, "/assets/") {
		case "moved":
			http.Redirect(w, r, "/assets/new%20place?a=b", http.StatusFound)
		case "elsewhere":
			http.Redirect(w, r, "/login", http.StatusFound)
		case "abroad":
			http.Redirect(w, r, "https://example.com/assets/x", http.StatusFound)
		case "denied":
			w.WriteHeader(http.StatusUnauthorized)
		case "missing":
			http.NotFound(w, r)
		default:
			_, _ = io.WriteString(w, "an asset")
		}
	}))
	resp, text := ask(t, request(t, "GET", srv.URL+"/authproxy/x", ""))
	if resp.StatusCode != http.StatusOK || text != "an asset" || resp.Header.Get("Etag") != `"tag"` {
		t.Errorf("%s %q %v", resp.Status, text, resp.Header)
	}
	if got := resp.Header.Values("Set-Cookie"); !slices.Equal(got, []string{"theirs=2"}) {
		t.Errorf("cookies are %q", got)
	}
	for _, name := range []string{"Content-Security-Policy", "X-Frame-Options"} {
		if got := resp.Header.Values(name); len(got) != 1 || strings.Contains(got[0], "*") || got[0] == "ALLOWALL" {
			t.Errorf("%s is %q", name, got)
		}
	}
	if got := resp.Header.Get("Clear-Site-Data"); got != "" {
		t.Errorf("Clear-Site-Data is %q", got)
	}
	for path, want := range map[string]string{
		"moved":     "302 https://mdm.example.com/authproxy/new%20place?a=b",
		"elsewhere": "302 " + "TARGET/login",
		"abroad":    "302 https://example.com/assets/x",
		"denied":    "403 ",
		"missing":   "404 ",
	} {
		resp, _ := ask(t, request(t, "GET", srv.URL+"/authproxy/"+path, ""))
		got := fmt.Sprintf("%d %s", resp.StatusCode, resp.Header.Get("Location"))
		if path == "elsewhere" {
			got = "302 TARGET" + got[strings.LastIndex(got, "/"):]
		}
		if got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	resp, _ = ask(t, request(t, "GET", srv.URL+"/authproxy/denied", ""))
	if got := resp.Header.Get("WWW-Authenticate"); got != "" {
		t.Errorf("WWW-Authenticate is %q", got)
	}
}

func TestAnAnswerIsPassedOnWhileItComes(t *testing.T) {
	goOn := make(chan bool)
	srv := proxied(t, "", vouching{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "first\n")
		_ = http.NewResponseController(w).Flush()
		<-goOn
		_, _ = io.WriteString(w, "second\n")
	}))
	resp, err := http.Get(srv.URL + "/authproxy/slow")
	must(t, err)
	defer resp.Body.Close()
	first := make([]byte, 6)
	_, err = io.ReadFull(resp.Body, first)
	must(t, err)
	close(goOn)
	rest, err := io.ReadAll(resp.Body)
	must(t, err)
	if string(first)+string(rest) != "first\nsecond\n" {
		t.Errorf("it comes as %q and %q", first, rest)
	}
}

func TestAServerThatIsAway(t *testing.T) {
	srv := proxied(t, "", vouching{}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	resp, text := ask(t, request(t, "GET", srv.URL+"/authproxy/x", ""))
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(text, `"code":"bad_gateway"`) {
		t.Errorf("%s %s, want 502", resp.Status, text)
	}
}

// httputil.ReverseProxy empties the headers of the answer after each hint.
func TestHintsOfTheOtherServerChangeNoHeadersOfOurs(t *testing.T) {
	srv := proxied(t, "", vouching{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "__Host-gatehouse=stolen")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Set-Cookie")
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<p>hello")
	}))
	resp, _ := ask(t, request(t, "GET", srv.URL+"/authproxy/hints", ""))
	for _, name := range []string{"Content-Security-Policy", "X-Content-Type-Options", "X-Request-Id"} {
		if resp.Header.Get(name) == "" {
			t.Errorf("the answer lacks our %s", name)
		}
	}
}

func TestStrangersDoNotTakeThePlacesOfDevices(t *testing.T) {
	srv := proxied(t, "", vouching{enroll.ErrUnidentified}, http.NotFoundHandler())
	for range 65 {
		c, err := net.Dial("tcp", strings.TrimPrefix(srv.URL, "http://"))
		must(t, err)
		t.Cleanup(func() { c.Close() })
		// It never sends the body.
		fmt.Fprintf(c, "PUT /authproxy/x HTTP/1.1\r\nHost: h\r\nMdm-Signature: a stranger's\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n")
		line, err := bufio.NewReader(c).ReadString('\n')
		must(t, err)
		if !strings.Contains(line, "403") {
			t.Fatalf("a stranger is answered %q", line)
		}
	}
	resp, body := ask(t, request(t, "GET", srv.URL+"/authproxy/x", ""))
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}
