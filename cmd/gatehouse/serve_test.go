package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot/depottest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// running is a server that runs in this process, as `gatehouse serve` does.
type running struct {
	url    string
	dir    string
	stop   context.CancelFunc
	exited chan int
	out    *lockedBuffer
	client *http.Client // trusts the server's own authority, keeps cookies, follows no redirect
}

// lockedBuffer is what a server has printed so far.
type lockedBuffer struct {
	mu   sync.Mutex
	more sync.Cond
	text bytes.Buffer
	done bool
}

func newLockedBuffer() *lockedBuffer {
	b := &lockedBuffer{}
	b.more.L = &b.mu
	return b
}

func (b *lockedBuffer) write(line string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text.WriteString(line + "\n")
	b.more.Broadcast()
}

func (b *lockedBuffer) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done = true
	b.more.Broadcast()
}

// await waits until text was printed n times, and returns whether it was before the
// server ended.
func (b *lockedBuffer) await(text string, n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for bytes.Count(b.text.Bytes(), []byte(text)) < n {
		if b.done {
			return false
		}
		b.more.Wait()
	}
	return true
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// start starts a server on dir, and returns when it is ready. Its authorities have the keys
// that those of other servers have; what startProcess starts makes its own.
func start(t *testing.T, dir string, args ...string) *running {
	t.Helper()
	return startBeside(t, elsewhere{}, dir, args...)
}

// startBeside is start for a server that finds services of others elsewhere.
func startBeside(t *testing.T, others elsewhere, dir string, args ...string) *running {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	reader, writer := io.Pipe()
	s := &running{dir: dir, stop: stop, exited: make(chan int, 1), out: newLockedBuffer()}
	args = append([]string{"serve", "--data-dir", dir, "--listen", "127.0.0.1:0", "--ca-key-bits", "2048", "--log-level", "debug"}, append(storeArgs(t, dir), args...)...)
	go func() {
		p := &process{
			env: newEnvironment(nil), stdin: strings.NewReader(""), stdout: io.Discard, stderr: writer,
			elsewhere: others, thrift: thrift{depottest.NewKey, 64},
		}
		code := p.run(ctx, args)
		writer.Close()
		s.exited <- code
	}()
	ready := make(chan string, 1)
	go func() {
		defer s.out.end()
		defer close(ready)
		lines := bufio.NewScanner(reader)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			s.out.write(lines.Text())
			if at, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
				ready <- at
			}
		}
	}()
	at, ok := <-ready
	if !ok {
		t.Fatalf("the server did not start:\n%s", s.out)
	}
	s.url = at
	t.Cleanup(func() { s.end(t) })
	s.client = s.newClient(t)
	return s
}

// end stops the server as SIGTERM does, and returns its exit code.
func (s *running) end(t *testing.T) int {
	t.Helper()
	s.stop()
	code := <-s.exited
	s.exited <- code // for whoever asks again
	return code
}

// newClient returns a browser without cookies that trusts what /ca.pem says.
func (s *running) newClient(t *testing.T) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	if strings.HasPrefix(s.url, "https") {
		careless := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
		resp, err := careless.Get(s.url + "/ca.pem")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		pem, err := io.ReadAll(resp.Body)
		if err != nil || !roots.AppendCertsFromPEM(pem) {
			t.Fatalf("/ca.pem is no certificate: %v: %s", err, pem)
		}
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Jar: jar, Transport: transport, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

type reply struct {
	*http.Response
	body string
}

func (s *running) send(t *testing.T, client *http.Client, method, path string, form url.Values, header ...string) reply {
	t.Helper()
	req, err := http.NewRequest(method, s.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	req.Header.Set("Accept", "text/html,*/*;q=0.8")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp, string(body)}
}

func (s *running) get(t *testing.T, path string, header ...string) reply {
	t.Helper()
	return s.send(t, s.client, "GET", path, nil, header...)
}

// setupToken returns the token of the link that the server printed.
func (s *running) setupToken(t *testing.T) string {
	t.Helper()
	_, rest, ok := strings.Cut(s.out.String(), "/setup#t=")
	if !ok {
		t.Fatalf("no setup link was printed:\n%s", s.out)
	}
	return strings.Fields(rest)[0]
}

func TestFirstStart(t *testing.T) {
	s := start(t, filepath.Join(t.TempDir(), "data"))

	for _, want := range []string{"(new)", "created certificate authority  CN=", "SHA-256 ", "TLS from own CA for localhost", "no push certificate", "lost it? run  gatehouse setup-link"} {
		if !strings.Contains(s.out.String(), want) {
			t.Errorf("the banner does not say %q:\n%s", want, s.out)
		}
	}
	files := map[string]fs.FileMode{".": 0o700, "gatehouse.db": 0o600, "secrets.key": 0o600, "gatehouse.sock": 0o600}
	if storeArgs(t, s.dir) != nil {
		delete(files, "gatehouse.db")
	}
	for path, mode := range files {
		info, err := os.Stat(filepath.Join(s.dir, path))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want mode %o", path, info.Mode(), err, mode)
		}
	}
	if first := s.get(t, "/"); first.StatusCode != 200 || first.ProtoMajor != 2 || !strings.Contains(first.body, "gatehouse setup-link") {
		t.Errorf("first page = %d over HTTP/%d:\n%s", first.StatusCode, first.ProtoMajor, first.body)
	}
	for path, want := range map[string]string{
		"/livez": "text/plain", "/readyz": "text/plain", "/version": "application/json",
		"/ca.pem": "application/x-pem-file", "/ca.cer": "application/x-x509-ca-cert", "/ca/identity.pem": "application/x-pem-file",
		"/ca.mobileconfig": "application/x-apple-aspen-config", "/enroll": "text/html", "/api/openapi.json": "application/json",
	} {
		got := s.get(t, path)
		if got.StatusCode != 200 || !strings.HasPrefix(got.Header.Get("Content-Type"), want) {
			t.Errorf("%s = %d %s, want 200 %s", path, got.StatusCode, got.Header.Get("Content-Type"), want)
		}
	}
	var version buildInfo
	if err := json.Unmarshal([]byte(s.get(t, "/version").body), &version); err != nil || version.Version == "" {
		t.Errorf("/version = %+v, %v", version, err)
	}
}

func TestRestartKeepsTheAuthorityAndPrintsANewLink(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	first := start(t, dir)
	ca, token := first.get(t, "/ca.pem").body, first.setupToken(t)
	if code := first.end(t); code != exitDone {
		t.Fatalf("exit code %d, want 0:\n%s", code, first.out)
	}
	if _, err := os.Stat(filepath.Join(dir, socketName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket stayed behind: %v", err)
	}
	second := start(t, dir)
	if second.get(t, "/ca.pem").body != ca {
		t.Error("the authority is another one")
	}
	if second.setupToken(t) == token || strings.Contains(second.out.String(), "(new)") {
		t.Errorf("the second banner is like the first:\n%s", second.out)
	}
}

func TestSetupLinkOpensTheAdministrationOnce(t *testing.T) {
	s := start(t, t.TempDir())
	token := s.setupToken(t)

	if got := s.get(t, "/admin"); got.StatusCode != 303 || !strings.HasPrefix(got.Header.Get("Location"), "/admin/login") {
		t.Errorf("/admin before = %d %s, want 303 to the login", got.StatusCode, got.Header.Get("Location"))
	}
	if got := s.get(t, "/setup"); got.StatusCode != 200 {
		t.Errorf("/setup = %d, want 200", got.StatusCode)
	}
	wrong := s.send(t, s.client, "POST", "/setup", url.Values{"token": {"AAAA-BBBB-CCCC-DDDD"}})
	if wrong.StatusCode != 404 || !strings.Contains(wrong.body, "gatehouse setup-link") {
		t.Errorf("a wrong token = %d, want 404 and what to do:\n%s", wrong.StatusCode, wrong.body)
	}
	if got := s.send(t, s.client, "POST", "/setup", url.Values{"token": {token}}, "Sec-Fetch-Site", "cross-site"); got.StatusCode != 403 {
		t.Errorf("from another site = %d, want 403", got.StatusCode)
	}

	in := s.send(t, s.client, "POST", "/setup", url.Values{"token": {token}}, "Cookie", "__Host-gatehouse=planted")
	if in.StatusCode != 303 || in.Header.Get("Location") != "/admin/welcome" {
		t.Fatalf("the right token = %d %s, want 303 to /admin/welcome", in.StatusCode, in.Header.Get("Location"))
	}
	cookies := in.Cookies()
	if len(cookies) != 1 {
		t.Fatalf("cookies %v, want one", cookies)
	}
	if c := cookies[0]; c.Name != "__Host-gatehouse" || c.Value == "planted" || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
		t.Errorf("cookie %v is not as it must be", c)
	}
	page := s.get(t, "/admin/devices")
	if page.StatusCode != 200 || !strings.Contains(page.body, "Sign out") || !strings.Contains(page.body, `aria-current="page"`) {
		t.Errorf("/admin/devices = %d:\n%s", page.StatusCode, page.body)
	}

	stranger := s.newClient(t)
	if got := s.send(t, stranger, "POST", "/setup", url.Values{"token": {token}}); got.StatusCode != 404 {
		t.Errorf("the token again = %d, want 404", got.StatusCode)
	}
	if got := s.send(t, stranger, "GET", "/setup", nil); got.StatusCode != 404 {
		t.Errorf("/setup after setup = %d, want 404", got.StatusCode)
	}
	if got := s.send(t, stranger, "GET", "/admin/devices", nil); got.StatusCode != 303 {
		t.Errorf("a stranger's /admin/devices = %d, want 303", got.StatusCode)
	}

	if got := s.send(t, s.client, "POST", "/admin/logout", url.Values{}); got.StatusCode != 303 {
		t.Errorf("sign out = %d, want 303", got.StatusCode)
	}
	replay := s.send(t, stranger, "GET", "/admin/devices", nil, "Cookie", cookies[0].Name+"="+cookies[0].Value)
	if replay.StatusCode != 303 {
		t.Errorf("the old cookie after signing out = %d, want 303", replay.StatusCode)
	}

	// The command makes another link, over the socket.
	var out, errs bytes.Buffer
	if code := run(context.Background(), []string{"setup-link", "--data-dir", s.dir}, nil, nil, &out, &errs); code != exitDone {
		t.Fatalf("setup-link = %d: %s", code, &errs)
	}
	fresh, ok := strings.CutPrefix(strings.TrimSpace(out.String()), s.url+"/setup#t=")
	if !ok {
		t.Fatalf("setup-link printed %q", &out)
	}
	if got := s.send(t, stranger, "POST", "/setup", url.Values{"token": {fresh}}); got.StatusCode != 303 {
		t.Errorf("the fresh link = %d, want 303", got.StatusCode)
	}
	if strings.Contains(s.out.String(), fresh) {
		t.Error("the log tells a token")
	}
}

func TestHeadlessOwnerAndBootstrapToken(t *testing.T) {
	files := t.TempDir()
	password, token := filepath.Join(files, "password"), filepath.Join(files, "token")
	for path, content := range map[string]string{password: "correct horse battery staple\n", token: "a-token-from-elsewhere-1234\n"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, t.TempDir(), "--admin-email", "ana@example.com", "--admin-password-file", password, "--bootstrap-token-file", token)
	if strings.Contains(s.out.String(), "/setup#t=") {
		t.Error("a setup link was printed for a server that is set up")
	}
	if got := s.get(t, "/api/v1/devices", "Authorization", "Bearer a-token-from-elsewhere-1234"); got.StatusCode != 200 {
		t.Errorf("the bootstrap token = %d, want 200: %s", got.StatusCode, got.body)
	}
	if got := s.get(t, "/api/v1/devices"); got.StatusCode != 401 {
		t.Errorf("no token = %d, want 401", got.StatusCode)
	}
	login := func(password, next string) reply {
		return s.send(t, s.client, "POST", "/admin/login", url.Values{"email": {"ANA@example.com"}, "password": {password}, "next": {next}})
	}
	if got := login("wrong", ""); got.StatusCode != 401 || !strings.Contains(got.body, `role="alert"`) {
		t.Errorf("a wrong password = %d, want 401 with an alert", got.StatusCode)
	}
	for _, next := range []string{"https://evil.example/", "//evil.example/admin", `/admin/\evil.example`, "/enroll", "javascript:alert(1)"} {
		if got := login("correct horse battery staple", next); got.StatusCode != 303 || got.Header.Get("Location") != "/admin" {
			t.Errorf("login with next %q = %d %s, want 303 /admin", next, got.StatusCode, got.Header.Get("Location"))
		}
	}
	if got := s.get(t, "/admin/devices"); got.StatusCode != 200 || !strings.Contains(got.body, "ana@example.com") {
		t.Errorf("/admin/devices = %d", got.StatusCode)
	}
	// A session is no API token: other sites can make use of it.
	if got := s.get(t, "/api/v1/devices"); got.StatusCode != 401 {
		t.Errorf("the API with a session only = %d, want 401", got.StatusCode)
	}
	throttled := 0
	for try := 1; try <= 20 && throttled == 0; try++ {
		if login("wrong", "").StatusCode == http.StatusTooManyRequests {
			throttled = try
		}
	}
	if throttled == 0 || throttled > 10 {
		t.Errorf("throttled at try %d, want by the 10th", throttled)
	}
}

func TestDemoDevicesEnrolAndAnswer(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	dir := t.TempDir()
	for _, at := range []string{"first start", "second start"} {
		s := start(t, dir, "--demo", "7")
		timeout := time.AfterFunc(time.Minute, s.stop)
		// The locked ones answer after 20 s; the others need not be waited for. Two are Macs,
		// each of which has a user who enrols, too.
		if !s.out.await(`"request_type":"DeviceInformation","state":"acknowledged"`, 5) || !s.out.await(`"msg":"enrolled"`, 9) {
			t.Fatalf("%s: no seven demo devices enrolled and answered within a minute:\n%s", at, s.out)
		}
		timeout.Stop()
		if got := s.get(t, "/"); !strings.Contains(got.body, "Gatehouse") {
			t.Errorf("%s: first page = %d", at, got.StatusCode)
		}
		var devices struct {
			Items []struct {
				Type    string `json:"enrollment_type"`
				State   string `json:"state"`
				UDID    string `json:"udid"`
				Serial  string `json:"serial_number"`
				Account string `json:"managed_apple_account"`
			}
		}
		s.call(t, "GET", "/api/v1/devices?limit=100", nil, &devices)
		types := map[string]int{}
		for _, d := range devices.Items {
			if d.State != "enrolled" {
				continue // by the start before
			}
			types[d.Type]++
			if hardware := d.UDID != "" && d.Serial != ""; d.Type != "user_channel" && hardware == (d.Type == "user") || d.Account != "" != (d.Type == "user" || d.Type == "account_device") {
				t.Errorf("%s: %+v", at, d)
			}
		}
		if want := map[string]int{"device": 5, "user": 1, "account_device": 1, "user_channel": 2}; !maps.Equal(types, want) {
			t.Errorf("%s: %v are enrolled, want %v", at, types, want)
		}

		// What the operator decided is the operator's.
		type policy struct {
			Domains []struct {
				Domain string            `json:"domain"`
				Policy map[string]string `json:"policy"`
			} `json:"domains"`
			Method string `json:"method"`
		}
		var decided policy
		s.call(t, "GET", "/api/v1/account-driven", nil, &decided)
		switch {
		case at == "first start":
			if len(decided.Domains) != 0 {
				t.Errorf("domains nobody asked for: %+v", decided.Domains)
			}
			s.call(t, "PUT", "/api/v1/account-driven", map[string]any{
				"domains": []any{map[string]any{"domain": "example.com", "policy": map[string]string{"iPhone": "byod"}}}, "method": "apple-oauth2",
			}, &decided)
		case len(decided.Domains) != 1 || decided.Domains[0].Domain != "example.com" || decided.Method != "apple-oauth2":
			t.Errorf("the operator's policy is %+v", decided)
		}
		if got := s.get(t, "/.well-known/com.apple.remotemanagement?user-identifier=x@work.demo.example&model-family=Mac"); !strings.Contains(got.body, "mdm-adde") {
			t.Errorf("%s: the demo is led nowhere: %s", at, got.body)
		}
		if got := s.get(t, "/enroll"); strings.Contains(got.body, `action="/enroll/start"`) {
			t.Errorf("%s: people are let in, though only the demo’s are there", at)
		}
		if code := s.end(t); code != exitDone {
			t.Fatalf("%s: exit code %d", at, code)
		}
	}
}

func TestHostHeadersDoNotPoisonLinks(t *testing.T) {
	storagetest.AnyEngine(t)
	s := start(t, t.TempDir())
	req, err := http.NewRequest("GET", s.url+"/ca.mobileconfig", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.example"
	req.Header.Set("X-Forwarded-Host", "evil.example")
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || bytes.Contains(body, []byte("evil.example")) {
		t.Errorf("the profile names the host that the client named: %v\n%s", err, body)
	}
}

func TestUnknownLinks(t *testing.T) {
	storagetest.AnyEngine(t)
	s := start(t, t.TempDir())
	for _, path := range []string{"/enroll/l/nosuchcode", "/enroll/l/nosuchcode/profile"} {
		if got := s.get(t, path); got.StatusCode != 404 || !strings.Contains(got.body, "GH-E101") || !strings.HasPrefix(got.Header.Get("Content-Type"), "text/html") {
			t.Errorf("%s in a browser = %d %s", path, got.StatusCode, got.Header.Get("Content-Type"))
		}
		got := s.get(t, path, "Accept", "*/*")
		var p webui.Problem
		if err := json.Unmarshal([]byte(got.body), &p); err != nil || p.Code != "link_unknown" || got.StatusCode != 404 {
			t.Errorf("%s for a program = %d %s", path, got.StatusCode, got.body)
		}
	}
	if got := s.get(t, "/mdm/checkin"); !strings.Contains(got.body, "/enroll") || !strings.HasPrefix(got.Header.Get("Content-Type"), "text/html") {
		t.Errorf("/mdm/checkin in a browser = %d, want a page that points to /enroll", got.StatusCode)
	}
}

func TestOnlyModernTLSIsSpoken(t *testing.T) {
	storagetest.AnyEngine(t)
	s := start(t, t.TempDir())
	addr := strings.TrimPrefix(s.url, "https://")
	for name, tt := range map[string]struct {
		config *tls.Config
		works  bool
	}{
		"TLS 1.3":                         {&tls.Config{MinVersion: tls.VersionTLS13}, true},
		"TLS 1.2":                         {&tls.Config{MaxVersion: tls.VersionTLS12}, true},
		"TLS 1.1":                         {&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		"TLS 1.2 with CBC":                {&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}, false},
		"TLS 1.2 without forward secrecy": {&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			asked := false
			tt.config.InsecureSkipVerify = true
			tt.config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				asked = true
				return &tls.Certificate{}, nil
			}
			conn, err := tls.Dial("tcp", addr, tt.config)
			if (err == nil) != tt.works {
				t.Errorf("handshake = %v, should work: %v", err, tt.works)
			}
			if err == nil {
				conn.Close()
			}
			if asked {
				t.Error("the server asked for a client certificate")
			}
		})
	}
}

func TestDrainFinishesWhatRuns(t *testing.T) {
	s := start(t, t.TempDir(), "--tls-mode", "proxy")
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := url.Values{"token": {"x"}}.Encode()
	fmt.Fprintf(conn, "POST /setup HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\nExpect: 100-continue\r\n"+
		"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n", len(body))
	answer := bufio.NewReader(conn)
	if line, err := answer.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("the handler does not run: %q, %v", line, err)
	}
	if _, err := answer.ReadString('\n'); err != nil { // the empty line after it
		t.Fatal(err)
	}
	s.stop()
	for { // until it drains: then nobody new gets in
		c, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			break
		}
		c.Close()
	}
	fmt.Fprint(conn, body)
	resp, err := http.ReadResponse(answer, nil)
	if err != nil || resp.StatusCode != 404 {
		t.Errorf("a request under way at shutdown = %v, %v; want its answer", resp, err)
	} else {
		resp.Body.Close()
	}
	if code := s.end(t); code != exitDone {
		t.Errorf("exit code %d, want 0:\n%s", code, s.out)
	}
}

func TestSecondServerOnTheSameDirectoryIsRefused(t *testing.T) {
	s := start(t, t.TempDir())
	var errs bytes.Buffer
	began := time.Now()
	code := run(context.Background(), append([]string{"serve", "--data-dir", s.dir, "--listen", "127.0.0.1:0"}, storeArgs(t, s.dir)...), nil, nil, io.Discard, &errs)
	if code != exitFailed || !strings.Contains(errs.String(), "another process") || time.Since(began) > time.Minute {
		t.Errorf("exit code %d after %v: %s", code, time.Since(began), &errs)
	}
	if got := s.get(t, "/readyz"); got.StatusCode != 200 {
		t.Errorf("the first server's /readyz = %d", got.StatusCode)
	}
	if _, err := os.Stat(filepath.Join(s.dir, socketName)); err != nil {
		t.Errorf("the first server's socket: %v", err)
	}
}

func TestStartIsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		harm func(t *testing.T, dir string)
		args []string
		want string
	}{
		"without the key of its secrets": {func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "secrets.key")); err != nil {
				t.Fatal(err)
			}
		}, nil, "put it back"},
		"with another key": {func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "secrets.key"), []byte(strings.Repeat("ab", 32)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil, "is not the key"},
		"with a key that others may read": {func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "secrets.key"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, nil, "secrets key file"},
		"with something else in place of the socket": {func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, socketName), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil, "is in the way"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			start(t, dir).end(t)
			tt.harm(t, dir)
			var errs bytes.Buffer
			args := append([]string{"serve", "--data-dir", dir, "--listen", "127.0.0.1:0"}, append(storeArgs(t, dir), tt.args...)...)
			if code := run(context.Background(), args, nil, nil, io.Discard, &errs); code != exitFailed || !strings.Contains(errs.String(), tt.want) {
				t.Errorf("exit code %d, want 1 and %q:\n%s", code, tt.want, &errs)
			}
		})
	}
}

func TestDataDirectoryMayHaveALongPath(t *testing.T) {
	storagetest.AnyEngine(t)
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30), "data")
	s := start(t, dir)
	var out, errs bytes.Buffer
	if code := run(context.Background(), []string{"setup-link", "--data-dir", dir}, nil, nil, &out, &errs); code != exitDone {
		t.Errorf("setup-link = %d: %s", code, &errs)
	}
	if code := s.end(t); code != exitDone {
		t.Errorf("exit code %d", code)
	}
}

func TestSocketOfAKilledServerIsReplaced(t *testing.T) {
	storagetest.AnyEngine(t)
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, socketName))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	s := start(t, dir)
	if code := run(context.Background(), []string{"setup-link", "--data-dir", s.dir}, nil, nil, io.Discard, io.Discard); code != exitDone {
		t.Errorf("setup-link = %d, want 0", code)
	}
}

func TestOwnCertificateFilesAreServedAndLoadedAgain(t *testing.T) {
	storagetest.AnyEngine(t)
	dir, files := t.TempDir(), t.TempDir()
	certFile, keyFile := filepath.Join(files, "cert.pem"), filepath.Join(files, "key.pem")
	first := writeKeyPair(t, certFile, keyFile)
	cert := fileCertificate(certFile, keyFile, nil)
	if err := cert.reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	second := writeKeyPair(t, certFile, keyFile)
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(certFile, later, later); err != nil {
		t.Fatal(err)
	}
	if got, _ := cert.get(nil); !bytes.Equal(got.Certificate[0], first) || !cert.changed() {
		t.Error("the change of the file went unseen")
	}
	if err := cert.reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got, _ := cert.get(nil); !bytes.Equal(got.Certificate[0], second) || cert.changed() {
		t.Error("the new certificate is not in use")
	}
	if err := os.WriteFile(certFile, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cert.reload(context.Background()); err == nil {
		t.Error("a broken file was loaded")
	}
	if got, _ := cert.get(nil); !bytes.Equal(got.Certificate[0], second) {
		t.Error("a broken file replaced the certificate in use")
	}

	third := writeKeyPair(t, certFile, keyFile)
	addr := lastingAddress(t)
	start(t, dir, "--listen", addr, "--server-url", "https://"+addr, "--tls-mode", "files", "--tls-cert", certFile, "--tls-key", keyFile)
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if !bytes.Equal(conn.ConnectionState().PeerCertificates[0].Raw, third) {
		t.Error("another certificate is served")
	}
}

// writeKeyPair writes a new certificate and its key as PEM, and returns the
// certificate's DER.
func writeKeyPair(t *testing.T, certFile, keyFile string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert
}
