package wellknown_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/wellknown"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// authority issues the certificates of a test.
type authority struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	chain [][]byte // what its servers send beside their own certificate
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newAuthority makes one below parent, or a root.
func newAuthority(t testing.TB, name string, parent *authority, change func(*x509.Certificate)) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
	}
	if change != nil {
		change(template)
	}
	by, key := template, a.key
	if parent != nil {
		by, key = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, a.key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if parent != nil {
		a.chain = append([][]byte{der}, parent.chain...)
	}
	return a
}

// issue makes a server's certificate for example.com and 127.0.0.1, changed as the test
// likes.
func (a *authority) issue(t testing.TB, change func(*x509.Certificate)) tls.Certificate {
	return a.issueFor(t, nil, change)
}

func (a *authority) issueFor(t testing.TB, key crypto.Signer, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "example.com"},
		DNSNames: []string{"example.com"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(900 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(template)
	}
	own := newKey(t)
	var private, public any = own, own.Public()
	if key != nil {
		private, public = key, key.Public()
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: append([][]byte{der}, a.chain...), PrivateKey: private}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// world is a domain, example.com, and an MDM server elsewhere.
type world struct {
	ca  *authority
	mdm *url.URL
	web string // HOST:PORT of the domain's web server

	mu  sync.Mutex
	now time.Time
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func serve(t testing.TB, config *tls.Config, handler http.Handler) (hostPort string) {
	t.Helper()
	srv := httptest.NewUnstartedServer(handler)
	srv.TLS = config
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// newWorld starts the MDM server, which has policy for example.com, and the domain's web
// server.
func newWorld(t testing.TB, handler http.HandlerFunc, config func(*world, *tls.Config)) *world {
	t.Helper()
	w := &world{ca: newAuthority(t, "Test Root", nil, nil), now: time.Now()}
	w.mdm = &url.URL{Scheme: "https", Host: serve(t, &tls.Config{Certificates: []tls.Certificate{w.ca.issue(t, nil)}}, http.HandlerFunc(w.discover))}
	c := &tls.Config{}
	if config != nil {
		config(w, c)
	}
	if c.Certificates == nil {
		c.Certificates = []tls.Certificate{w.ca.issue(t, nil)}
	}
	w.web = serve(t, c, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		handler(rw, r.WithContext(context.WithValue(r.Context(), worldKey{}, w)))
	}))
	return w
}

type worldKey struct{}

func of(r *http.Request) *world { return r.Context().Value(worldKey{}).(*world) }

// discover is how our server answers: byod, but adde for Macs.
func (w *world) discover(rw http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if !strings.HasSuffix(query.Get("user-identifier"), "@example.com") || strings.TrimSuffix(r.URL.Path, ".") != wellknown.Path {
		refuse(rw, "Ask your administrator.")
		return
	}
	mode := wellknown.BYOD
	switch query.Get("model-family") {
	case "Mac":
		mode = wellknown.ADDE
	case "Watch":
		refuse(rw, "Watches don’t enroll here.")
		return
	}
	answer(rw, w.good(mode))
}

func (w *world) good(mode wellknown.Mode) string {
	text, err := wellknown.Answer(w.mdm, mode)
	if err != nil {
		panic(err)
	}
	return text
}

func answer(rw http.ResponseWriter, text string) {
	rw.Header().Set("Content-Type", "application/json")
	io.WriteString(rw, text)
}

func refuse(rw http.ResponseWriter, message string) {
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(http.StatusForbidden)
	_ = json.NewEncoder(rw).Encode(map[string]string{"code": "com.apple.well-known.failed", "description": "for the log", "message": message})
}

func (w *world) check(t testing.TB, change func(*wellknown.Options)) wellknown.Report {
	t.Helper()
	o := wellknown.Options{
		Expect: []*url.URL{w.mdm}, Roots: w.ca.pool(), AllowPrivate: true, ConnectTo: w.web, Now: w.clock,
	}
	if change != nil {
		change(&o)
	}
	r, err := wellknown.Check(t.Context(), "example.com", o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// codes lists what a report found, but for what is fine, without repetition.
func codes(r wellknown.Report) []string {
	out := []string{}
	for _, f := range r.Findings {
		if f.Severity != wellknown.Fine {
			out = append(out, string(f.Severity)+" "+f.Code)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// redirect is what a well-kept web server does.
func redirect(rw http.ResponseWriter, r *http.Request) {
	rw.Header().Set("Location", "https://"+of(r).mdm.Host+r.URL.RequestURI())
	rw.WriteHeader(http.StatusTemporaryRedirect)
}

// static answers with a text that may name the MDM server as MDM.
func static(contentType, text string) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		rw.Header()["Content-Type"] = []string{contentType}
		if contentType == "" {
			rw.Header()["Content-Type"] = nil
		}
		io.WriteString(rw, strings.ReplaceAll(text, "MDM", of(r).mdm.String()))
	}
}

func status(code int, text string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(code)
		io.WriteString(rw, text)
	}
}

const goodAnswer = `{"Servers":[{"Version":"mdm-byod","BaseURL":"MDM/enroll/byod"}]}`

func TestARedirectThatKeepsTheQueryIsFine(t *testing.T) {
	storagetest.AnyEngine(t)
	var mu sync.Mutex
	var asked []string
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.URL.RequestURI())
		mu.Unlock()
		redirect(rw, r)
	}, nil)
	r := w.check(t, nil)
	if !r.OK || len(codes(r)) > 0 {
		t.Errorf("findings: %+v", r.Findings)
	}
	want := []wellknown.Finding{
		{Severity: wellknown.Fine, Code: "answer", Families: []wellknown.Family{wellknown.IPhone, wellknown.IPad}},
		{Severity: wellknown.Fine, Code: "answer", Families: []wellknown.Family{wellknown.Mac}},
	}
	if len(r.Findings) != len(want) {
		t.Fatalf("findings: %+v", r.Findings)
	}
	for i, f := range r.Findings {
		if f.Code != want[i].Code || !slices.Equal(f.Families, want[i].Families) || !strings.Contains(f.Sentence, w.mdm.String()) {
			t.Errorf("finding %d: %+v", i, f)
		}
	}
	if want := wellknown.Path + "?user-identifier=gatehouse-check@example.com&model-family=iPhone"; asked[0] != want {
		t.Errorf("the domain was asked for %s, want %s", asked[0], want)
	}
	if n := len(r.Steps); n != 10 || r.Steps[0].Status != 307 || r.Steps[1].Status != 200 || r.Steps[1].TLS == nil || r.Steps[1].TLS.Version != "TLS 1.3" {
		t.Errorf("%d steps: %+v", n, r.Steps)
	}
}

func TestAFileForEverybodyIsFine(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t, static("application/json; charset=utf-8", goodAnswer), nil)
	r := w.check(t, nil)
	if !r.OK || len(codes(r)) > 0 || len(r.Findings) != 2 || r.Findings[1].Code != "static_answer" || r.Findings[0].Families != nil {
		t.Errorf("findings: %+v", r.Findings)
	}
}

// TestMistakesOfWebServers plays what is done wrong, and wants it called by its name.
func TestMistakesOfWebServers(t *testing.T) {
	storagetest.AnyEngine(t)
	hop := func(to func(r *http.Request) string) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Location", to(r))
			rw.WriteHeader(http.StatusMovedPermanently)
		}
	}
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		want    []string
		says    string // part of the first sentence
	}{
		"nothing there":     {http.NotFound, []string{"error not_found"}, "status 404"},
		"a login":           {status(401, ""), []string{"error login_required"}, "401"},
		"a firewall":        {status(403, "<html>Attention required"), []string{"error forbidden"}, ""},
		"a deliberate no":   {func(rw http.ResponseWriter, _ *http.Request) { refuse(rw, "Call \x1b[31mus.") }, []string{"error refused"}, "“Call  [31mus”"},
		"broken":            {status(502, "Bad gateway"), []string{"error server_error"}, "502"},
		"no content":        {status(204, ""), []string{"error status_unexpected"}, "204"},
		"limited":           {status(429, ""), []string{"error too_many_requests"}, ""},
		"GET not allowed":   {status(405, ""), []string{"error method_not_allowed"}, ""},
		"not modified":      {status(304, ""), []string{"error redirect_without_location"}, "304"},
		"an application":    {static("text/html", `<!DOCTYPE html><html><div id="root"></div>`), []string{"error html_page"}, ""},
		"a page as JSON":    {static("application/json", `<!doctype html><html>`), []string{"error html_page"}, ""},
		"a login page":      {static("text/html", `<html><form><input type="password">`), []string{"error login_page"}, ""},
		"empty":             {static("application/json", " \n"), []string{"error answer_empty"}, ""},
		"half an answer":    {func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "{"); panic(http.ErrAbortHandler) }, []string{"error connection_cut"}, ""},
		"much":              {static("application/json", strings.Repeat(" ", 65<<10)+goodAnswer), []string{"error answer_too_large"}, "64 KiB"},
		"no type":           {static("", goodAnswer), []string{"error content_type_missing"}, ""},
		"misspelt type":     {static("application-json", goodAnswer), []string{"error content_type_typo"}, "application-json"},
		"a type for files":  {static("application/octet-stream", goodAnswer), []string{"error content_type_wrong"}, "octet-stream"},
		"text":              {static("text/plain", goodAnswer), []string{"error content_type_wrong"}, ""},
		"a byte order mark": {static("application/json", "\ufeff"+goodAnswer), []string{"error byte_order_mark"}, ""},
		"two at once":       {static("text/plain", "\ufeff"+goodAnswer), []string{"error byte_order_mark", "error content_type_wrong"}, ""},
		"no JSON":           {static("application/json", "{\n\"Servers\":[{},]}"), []string{"error json_invalid"}, "in line 2"},
		"Latin-1":           {static("application/json", "{\"a\":\xe4}"), []string{"error json_invalid"}, "UTF-8"},
		"a list":            {static("application/json", "[]"), []string{"error json_invalid"}, "no object"},
		"null":              {static("application/json", "null"), []string{"error servers_missing"}, ""},
		"other case":        {static("application/json", `{"servers":[]}`), []string{"error servers_missing"}, `"servers"`},
		"one, no list":      {static("application/json", `{"Servers":{}}`), []string{"error servers_invalid"}, ""},
		"no servers":        {static("application/json", `{"Servers":[]}`), []string{"error servers_empty"}, ""},
		"two servers": {
			static("application/json", `{"Servers":[{"Version":"mdm-byod","BaseURL":"MDM/enroll/byod"},{"Version":"mdm-adde","BaseURL":"MDM/enroll/adde"}]}`),
			[]string{"error servers_several"}, "2 servers",
		},
		"an empty server": {static("application/json", `{"Servers":[null]}`), []string{"error base_url_missing", "error version_missing"}, ""},
		"no version":      {static("application/json", `{"Servers":[{"version":"mdm-byod","BaseURL":"MDM/enroll/byod"}]}`), []string{"error version_missing"}, `"version"`},
		"a number":        {static("application/json", `{"Servers":[{"Version":1,"BaseURL":"MDM/enroll/byod"}]}`), []string{"error version_missing"}, "not a text"},
		"unknown version": {static("application/json", `{"Servers":[{"Version":"mdm-BYOD","BaseURL":"MDM/enroll/byod"}]}`), []string{"error version_unknown"}, "mdm-BYOD"},
		"no URL":          {static("application/json", `{"Servers":[{"Version":"mdm-byod"}]}`), []string{"error base_url_missing"}, ""},
		"a path":          {static("application/json", `{"Servers":[{"Version":"mdm-byod","BaseURL":"/enroll/byod"}]}`), []string{"error base_url_invalid"}, ""},
		"http":            {static("application/json", `{"Servers":[{"Version":"mdm-byod","BaseURL":"http://mdm.example.com/enroll/byod"}]}`), []string{"error base_url_invalid"}, ""},
		"another server":  {static("application/json", `{"Servers":[{"Version":"mdm-byod","BaseURL":"https://old.example.com/enroll/byod"}]}`), []string{"error base_url_other_server"}, "old.example.com"},
		"the other mode":  {static("application/json", `{"Servers":[{"Version":"mdm-byod","BaseURL":"MDM/enroll/adde"}]}`), []string{"error base_url_path"}, "mdm-byod"},
		"a slash more":    {static("application/json", `{"Servers":[{"Version":"mdm-byod","BaseURL":"MDM/enroll/byod/"}]}`), []string{"error base_url_path"}, ""},
		"a circle":        {hop(func(r *http.Request) string { return r.URL.RequestURI() }), []string{"error redirect_loop"}, "circle"},
		"and on and on":   {hop(func(r *http.Request) string { return r.URL.RequestURI() + "&a=1" }), []string{"error too_many_redirects"}, ""},
		"to http":         {hop(func(r *http.Request) string { return "http://mdm.example.com" + r.URL.RequestURI() }), []string{"error redirect_to_http"}, "without TLS"},
		"to an app":       {hop(func(*http.Request) string { return "itms://x/" }), []string{"error redirect_invalid"}, "itms"},
		"nowhere":         {hop(func(*http.Request) string { return "" }), []string{"error redirect_without_location"}, ""},
		"to no URL":       {hop(func(*http.Request) string { return "https://[x" }), []string{"error redirect_invalid"}, ""},
		"query lost":      {hop(func(r *http.Request) string { return of(r).mdm.String() + r.URL.Path }), []string{"error query_lost", "error refused"}, "example.com redirects to"},
		"half of it lost": {hop(func(r *http.Request) string { return "/static?user-identifier=" + r.URL.Query().Get("user-identifier") }), nil, ""},
		"someone else’s": {hop(func(r *http.Request) string {
			return of(r).mdm.String() + r.URL.Path + "?user-identifier=bea@example.com&model-family=iPad"
		}), []string{"error query_changed"}, ""},
		"only with a dot":  {dotOnly, []string{"error not_found", "error only_with_dot"}, ""},
		"only without one": {withoutDot, []string{"warning trailing_dot"}, "status 404"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tt.handler, nil)
			r := w.check(t, func(o *wellknown.Options) { o.Families = []wellknown.Family{wellknown.IPhone} })
			if tt.want == nil { // half lost: then the hop finds nothing good
				if got := codes(r); !slices.Contains(got, "error query_lost") {
					t.Errorf("codes: %v", got)
				}
				return
			}
			if got := codes(r); !slices.Equal(got, tt.want) {
				t.Fatalf("codes: %v, want %v\n%+v", got, tt.want, r.Findings)
			}
			if hasError := strings.HasPrefix(tt.want[0], "error"); r.OK == hasError {
				t.Errorf("OK is %v", r.OK)
			}
			if !strings.Contains(r.Findings[0].Sentence, tt.says) {
				t.Errorf("sentence: %s", r.Findings[0].Sentence)
			}
			for _, f := range r.Findings {
				if f.Severity != wellknown.Fine && f.Fix == "" || f.Sentence == "" || !strings.HasSuffix(f.Sentence, ".") || strings.Contains(f.Sentence+f.Fix, "%!") {
					t.Errorf("finding: %+v", f)
				}
			}
		})
	}
}

func dotOnly(rw http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, ".") {
		redirect(rw, r)
		return
	}
	http.NotFound(rw, r)
}

func withoutDot(rw http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, ".") {
		http.NotFound(rw, r)
		return
	}
	redirect(rw, r)
}

func TestAQueryThatIsEscapedTwice(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Location", of(r).mdm.String()+r.URL.Path+"?"+strings.ReplaceAll(r.URL.RawQuery, "%", "%25"))
		rw.WriteHeader(http.StatusFound)
	}, nil)
	r := w.check(t, func(o *wellknown.Options) { o.Identifier = "ana+test@example.com" })
	if got := codes(r); !slices.Equal(got, []string{"warning query_escaped_twice"}) {
		t.Errorf("codes: %v", got)
	}
}

func TestTheHopThatLosesTheQueryIsNamed(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		to := "/a?" + r.URL.RawQuery
		if r.URL.Path == "/a" {
			to = of(r).mdm.String() + wellknown.Path
		}
		http.Redirect(rw, r, to, http.StatusFound)
	}, nil)
	r := w.check(t, nil)
	i := slices.IndexFunc(r.Findings, func(f wellknown.Finding) bool { return f.Code == "query_lost" })
	if i < 0 || !strings.HasPrefix(r.Findings[i].URL, "https://example.com/a?") {
		t.Errorf("findings: %+v", r.Findings)
	}
}

// TestAnAnswerDespiteTheLostQuery is of a server that says the same to everybody.
func TestAnAnswerDespiteTheLostQuery(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/file" {
			answer(rw, of(r).good(wellknown.BYOD))
			return
		}
		http.Redirect(rw, r, "/file", http.StatusFound)
	}, nil)
	if r := w.check(t, nil); !r.OK || !slices.Equal(codes(r), []string{"warning query_lost"}) {
		t.Errorf("findings: %+v", r.Findings)
	}
}

func TestARefusalOfSomeFamiliesIsAWarning(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t, redirect, nil)
	r := w.check(t, func(o *wellknown.Options) { o.Families = []wellknown.Family{wellknown.Watch, wellknown.IPhone} })
	if !r.OK || !slices.Equal(codes(r), []string{"warning refused"}) || !slices.Equal(r.Findings[0].Families, []wellknown.Family{wellknown.Watch}) {
		t.Errorf("findings: %+v", r.Findings)
	}
}

func TestARefusalAsAPropertyList(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/xml")
		rw.WriteHeader(http.StatusForbidden)
		io.WriteString(rw, `<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict><key>code</key><string>com.apple.well-known.failed</string><key>message</key><string>Not here.</string></dict></plist>`)
	}, nil)
	if r := w.check(t, nil); !slices.Equal(codes(r), []string{"error refused"}) || !strings.Contains(r.Findings[0].Sentence, "“Not here”") {
		t.Errorf("findings: %+v", r.Findings)
	}
}

func TestASlowServer(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		of(r).pass(6 * time.Second)
		redirect(rw, r)
	}, nil)
	if r := w.check(t, nil); !slices.Equal(codes(r), []string{"warning slow"}) || r.Steps[0].Took != 6*time.Second {
		t.Errorf("findings: %+v", r.Findings)
	}
}

// TestMistakesOfTLS plays certificates and servers that devices refuse, or will.
func TestMistakesOfTLS(t *testing.T) {
	storagetest.AnyEngine(t)
	with := func(change func(*x509.Certificate)) func(testing.TB, *world, *tls.Config) {
		return func(t testing.TB, w *world, c *tls.Config) { c.Certificates = []tls.Certificate{w.ca.issue(t, change)} }
	}
	below := func(change func(*x509.Certificate), sends bool) func(testing.TB, *world, *tls.Config) {
		return func(t testing.TB, w *world, c *tls.Config) {
			sub := newAuthority(t, "Test Intermediate", w.ca, change)
			cert := sub.issue(t, nil)
			if !sends {
				cert.Certificate = cert.Certificate[:1]
			}
			c.Certificates = []tls.Certificate{cert}
		}
	}
	for name, tt := range map[string]struct {
		config func(testing.TB, *world, *tls.Config)
		want   []string
		says   string
	}{
		"expired":             {with(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), []string{"error tls_certificate_expired"}, "expired on"},
		"of tomorrow":         {with(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), []string{"error tls_certificate_not_yet_valid"}, ""},
		"for another name":    {with(func(c *x509.Certificate) { c.DNSNames = []string{"www.example.com"} }), []string{"error tls_wrong_host"}, "www.example.com"},
		"for no name":         {with(func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil }), []string{"error tls_no_san"}, ""},
		"for clients":         {with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), []string{"error tls_certificate_invalid"}, ""},
		"soon to expire":      {with(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(48 * time.Hour) }), []string{"warning tls_certificate_expires_soon"}, ""},
		"for years":           {with(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(4000 * 24 * time.Hour) }), []string{"warning tls_certificate_too_long"}, "4000 days"},
		"a chain":             {below(nil, true), []string{}, ""},
		"half a chain":        {below(nil, false), []string{"error tls_chain_incomplete"}, "Test Intermediate"},
		"an old chain":        {below(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, true), []string{"error tls_intermediate_expired"}, "Test Intermediate"},
		"a chain for a while": {below(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Hour) }, true), []string{"warning tls_intermediate_expires_soon"}, ""},
		"an unknown root": {func(t testing.TB, w *world, c *tls.Config) {
			other := newAuthority(t, "Other Root", nil, nil)
			cert := other.issue(t, nil)
			cert.Certificate = append(cert.Certificate, other.cert.Raw)
			c.Certificates = []tls.Certificate{cert}
		}, []string{"error tls_unknown_authority"}, "Other Root"},
		"self-signed": {func(t testing.TB, w *world, c *tls.Config) {
			own := newAuthority(t, "example.com", nil, func(c *x509.Certificate) { c.DNSNames = []string{"example.com"} })
			c.Certificates = []tls.Certificate{{Certificate: [][]byte{own.cert.Raw}, PrivateKey: own.key}}
		}, []string{"error tls_self_signed"}, ""},
		"a weak key": {func(t testing.TB, w *world, c *tls.Config) {
			c.Certificates = []tls.Certificate{w.ca.issueFor(t, shortKey(), nil)}
		}, []string{"error tls_weak_key"}, "1024"},
		"old TLS": {func(t testing.TB, _ *world, c *tls.Config) {
			c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		}, []string{"error tls_too_old"}, "TLS 1.1"},
		"weak ciphers": {func(t testing.TB, _ *world, c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
		}, []string{"warning tls_weak_cipher"}, "AES_128_CBC"},
		"TLS 1.2": {func(t testing.TB, _ *world, c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, []string{}, ""},
		"wanted certificates": {func(t testing.TB, _ *world, c *tls.Config) {
			c.ClientAuth, c.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12
		},
			[]string{"error tls_client_certificate"}, ""},
		"wants certificates": {func(t testing.TB, _ *world, c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert },
			[]string{"error tls_client_certificate"}, ""},
		"knows no such name": {func(t testing.TB, _ *world, c *tls.Config) {
			c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, errors.New("no") }
		}, []string{"error tls_handshake"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, redirect, func(w *world, c *tls.Config) { tt.config(t, w, c) })
			r := w.check(t, nil)
			if got := codes(r); !slices.Equal(got, tt.want) {
				t.Fatalf("codes: %v, want %v\n%+v", got, tt.want, r.Findings)
			}
			if !strings.Contains(r.Findings[0].Sentence, tt.says) {
				t.Errorf("sentence: %s", r.Findings[0].Sentence)
			}
			if len(tt.want) > 0 && strings.HasPrefix(tt.want[0], "error") && len(r.Steps) != 1 {
				t.Errorf("%d requests, want the first alone", len(r.Steps))
			}
		})
	}
}

var shortKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		panic(err)
	}
	return key
})

func TestServersThatDoNotAnswer(t *testing.T) {
	storagetest.AnyEngine(t)
	listen := func(t *testing.T, with func(net.Conn)) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				with(conn)
			}
		}()
		return l.Addr().String()
	}
	for name, tt := range map[string]struct {
		at   func(*testing.T) string
		want string
	}{
		"nobody there": {func(*testing.T) string { return "127.0.0.1:1" }, "connect_refused"},
		"plain HTTP": {func(t *testing.T) string {
			return listen(t, func(c net.Conn) { io.WriteString(c, "HTTP/1.0 400 Bad Request\r\n\r\n"); c.Close() })
		}, "not_tls"},
		"hangs up":     {func(t *testing.T) string { return listen(t, func(c net.Conn) { c.Close() }) }, "tls_handshake"},
		"no such name": {func(t *testing.T) string { return "nobody.invalid:443" }, "dns_not_found"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, redirect, nil)
			w.web = tt.at(t)
			r := w.check(t, nil)
			if got := codes(r); !slices.Equal(got, []string{"error " + tt.want}) || r.Steps[0].Error == "" {
				t.Errorf("codes: %v, want %s\n%+v", got, tt.want, r)
			}
		})
	}
}

func TestTheCheckEndsWhenItsCallerGoesAway(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx, cancel := context.WithCancel(t.Context())
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() }, nil)
	_, err := wellknown.Check(ctx, "example.com", wellknown.Options{Roots: w.ca.pool(), AllowPrivate: true, ConnectTo: w.web})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error: %v", err)
	}
}

func TestACheckThatTakesTooLong(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	r, err := wellknown.Check(ctx, "example.com", wellknown.Options{Roots: w.ca.pool(), AllowPrivate: true, ConnectTo: w.web})
	if err != nil || !slices.Equal(codes(r), []string{"error check_took_too_long"}) || len(r.Steps) != 1 {
		t.Errorf("%v, findings: %+v", err, r.Findings)
	}
}

// TestPrivateAddressesAreNotConnectedTo is of checks that a server does for others: nothing
// inside can be asked by naming it, nor by a redirect from outside.
func TestPrivateAddressesAreNotConnectedTo(t *testing.T) {
	storagetest.AnyEngine(t)
	asked := false
	w := newWorld(t, func(http.ResponseWriter, *http.Request) { asked = true }, nil)
	r := w.check(t, func(o *wellknown.Options) { o.AllowPrivate = false })
	if got := codes(r); asked || !slices.Equal(got, []string{"error address_not_allowed"}) {
		t.Errorf("codes: %v, asked %v", got, asked)
	}
	// The MDM server's own is what the operator configured.
	r = w.check(t, func(o *wellknown.Options) { o.AllowPrivate, o.ConnectTo = false, w.mdm.Host })
	if !r.OK {
		t.Errorf("findings: %+v", r.Findings)
	}
	for _, to := range []string{"https://169.254.169.254/latest/meta-data", "https://[fe80::1]/"} {
		w = newWorld(t, func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, to, http.StatusFound) }, nil)
		if got := codes(w.check(t, nil)); !slices.Contains(got, "error address_not_allowed") {
			t.Errorf("%s: codes %v", to, got)
		}
	}
}

func TestWhatCanBeAskedFor(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		domain string
		o      wellknown.Options
		field  string
	}{
		"no domain":            {"", wellknown.Options{}, "domain"},
		"another one’s person": {"example.com", wellknown.Options{Identifier: "ana@example.org"}, "identifier"},
		"no person":            {"example.com", wellknown.Options{Identifier: "@example.com"}, "identifier"},
		"a line break":         {"example.com", wellknown.Options{Identifier: "a\nb@example.com"}, "identifier"},
		"an unknown family":    {"example.com", wellknown.Options{Families: []wellknown.Family{"iPod"}}, "model_family"},
		"a server without TLS": {"example.com", wellknown.Options{Expect: []*url.URL{{Scheme: "http", Host: "mdm.example.com"}}}, "server_url"},
		"no address":           {"example.com", wellknown.Options{ConnectTo: "localhost"}, "connect_to"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := wellknown.Check(t.Context(), tt.domain, tt.o)
			var field *wellknown.FieldError
			if !errors.As(err, &field) || field.Field != tt.field {
				t.Errorf("error: %v", err)
			}
		})
	}
}
