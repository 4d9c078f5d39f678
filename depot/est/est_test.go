package est_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/depottest"
	"github.com/gatehouse-mdm/gatehouse/depot/est"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// policy grants every request for the template "wifi" or none, or refuses it with
// err, and remembers what it was asked.
type policy struct {
	depot *depot.Depot
	err   error

	mu   sync.Mutex
	by   []identity.Principal
	old  []*x509.Certificate
	what []depot.Application
}

func hasTemplate(_ context.Context, name string) (bool, error) {
	if name == "broken" {
		return false, fmt.Errorf("%w: away", storage.ErrUnavailable)
	}
	return name == "wifi", nil
}

func (p *policy) IssueCSR(_ context.Context, by identity.Principal, a depot.Application) (*x509.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.by, p.what = append(p.by, by), append(p.what, a)
	return p.issue(a)
}

func (p *policy) Reissue(_ context.Context, old *x509.Certificate, a depot.Application) (*x509.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.old, p.what = append(p.old, old), append(p.what, a)
	return p.issue(a)
}

// issue gives the names that were asked for.
func (p *policy) issue(a depot.Application) (*x509.Certificate, error) {
	if p.err != nil {
		return nil, p.err
	}
	return p.depot.Payload().Sign(a.CSR.PublicKey, depot.Contents{
		RawSubject: a.Asked.RawSubject, DNSNames: a.Asked.Names.DNSNames, UserPrincipalNames: a.Asked.Names.UserPrincipalNames,
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// notes are the refusals that were written down.
type notes struct {
	mu     sync.Mutex
	events []event.Event
}

func (n *notes) Refused(_ context.Context, e event.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
}

const (
	anaLogin    = "ana@example.com"
	anaPassword = "correct horse battery staple"
)

// site is a door on a TLS server that asks for client certificates.
type site struct {
	server   *httptest.Server
	policy   *policy
	notes    *notes
	selfie   string // token with cert:self
	any      string // token with cert:any
	readOnly string
	depot    *depot.Depot
	people   *identity.Service
}

func open(t *testing.T) *site {
	t.Helper()
	db := storagetest.Open(t)
	log := slog.New(slog.DiscardHandler)
	box, err := seal.New(bytes.Repeat([]byte{7}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	people, err := identity.New(identity.Config{DB: db, Box: box, Log: log, Now: time.Now, HashMemory: 64})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := people.CreateUser(t.Context(), identity.Local(), identity.NewUser{
		Email: anaLogin, FullName: "Ana", Password: anaPassword, Role: identity.RoleAdmin,
	}); err != nil {
		t.Fatal(err)
	}
	d := depottest.Open(t, depottest.Config(t, db))
	s := &site{policy: &policy{depot: d}, notes: &notes{}, depot: d, people: people}
	for secret, n := range map[*string]identity.NewToken{
		&s.selfie:   {Name: "self", Scopes: []identity.Scope{identity.ScopeCertSelf}, User: anaLogin},
		&s.any:      {Name: "any", Scopes: []identity.Scope{identity.ScopeCertAny}},
		&s.readOnly: {Name: "reader", Scopes: []identity.Scope{identity.ScopeReadOnly}},
	} {
		_, made, err := people.CreateToken(t.Context(), identity.Local(), n)
		if err != nil {
			t.Fatal(err)
		}
		*secret = made.Reveal()
	}
	h, err := est.New(est.Config{
		Issuer: s.policy, Identity: elsewhere{people}, Audit: s.notes, Depot: d, Log: log, HasTemplate: hasTemplate,
		ClientCertificate: webui.ClientCertificate,
		Peer:              func(context.Context) string { return "192.0.2.1" },
	})
	if err != nil {
		t.Fatal(err)
	}
	s.server = httptest.NewUnstartedServer(webui.Chain(h, webui.RealPeer(nil), webui.TLSClientCertificate(log)))
	s.server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.server.StartTLS()
	t.Cleanup(s.server.Close)
	return s
}

// ask sends a request, after prepare has had its way with it; client may be nil.
func (s *site) ask(t *testing.T, client *http.Client, method, operation string, body []byte, prepare func(*http.Request)) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest(method, s.server.URL+est.Path+operation, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if prepare != nil {
		prepare(req)
	}
	if client == nil {
		client = s.server.Client()
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, answer
}

// with is a client that shows cert in its handshakes.
func (s *site) with(cert *x509.Certificate, key crypto.Signer) *http.Client {
	transport := s.server.Client().Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.Certificates = []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}
	return &http.Client{Transport: transport}
}

func bearer(token string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

func basic(login, password string) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth(login, password) }
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func request(t *testing.T, template *x509.CertificateRequest, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func inBase64(der []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(der)) }

// certificates reads a certs-only answer.
func certificates(t *testing.T, body []byte) []*x509.Certificate {
	t.Helper()
	cms, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(body), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	p7, err := guard.ParseCMS(cms, 0)
	if err != nil {
		t.Fatal(err)
	}
	return p7.Certificates
}

func TestCACerts(t *testing.T) {
	s := open(t)
	for _, operation := range []string{"cacerts", "wifi/cacerts"} {
		resp, body := s.ask(t, nil, http.MethodGet, operation, nil, nil)
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/pkcs7-mime" || resp.Header.Get("Content-Transfer-Encoding") != "base64" {
			t.Fatalf("%s: %s %v\n%s", operation, resp.Status, resp.Header, body)
		}
		if got := certificates(t, body); !slices.EqualFunc(got, s.depot.Payload().Chain(), (*x509.Certificate).Equal) {
			t.Errorf("%s: %d certificates, want the issuer's and the root's", operation, len(got))
		}
	}
	if resp, body := s.ask(t, nil, http.MethodHead, "cacerts", nil, nil); resp.StatusCode != http.StatusOK || len(body) != 0 {
		t.Errorf("HEAD: %s %q", resp.Status, body)
	}
	if resp, body := s.ask(t, nil, http.MethodGet, "csrattrs", nil, nil); resp.StatusCode != http.StatusNoContent || len(body) != 0 {
		t.Errorf("csrattrs: %s %q", resp.Status, body)
	}
}

func TestEnrollment(t *testing.T) {
	s := open(t)
	der := request(t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "Ana"}}, newKey(t))
	inLines := func() []byte {
		var lines []string
		for part := range slices.Chunk(inBase64(der), 76) {
			lines = append(lines, string(part))
		}
		return []byte(strings.Join(lines, "\r\n") + "\r\n")
	}
	for name, tt := range map[string]struct {
		operation string
		body      []byte
		auth      func(*http.Request)
		principal string
		scope     identity.Scope
	}{
		"by a bearer token":                             {"simpleenroll", inBase64(der), bearer(s.selfie), "token:self", identity.ScopeCertSelf},
		"by a token as a password":                      {"simpleenroll", inLines(), basic("est", s.any), "token:any", identity.ScopeCertAny},
		"by a token as a password of nobody":            {"simpleenroll", inBase64(der), basic("", s.any), "token:any", identity.ScopeCertAny},
		"by name and password, and as no administrator": {"simpleenroll", inBase64(der), basic(anaLogin, anaPassword), "user:" + anaLogin, identity.ScopeCertSelf},
		"for a template, in PEM":                        {"wifi/simpleenroll", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), bearer(s.any), "token:any", identity.ScopeCertAny},
		"in DER":                                        {"simpleenroll", der, bearer(s.any), "token:any", identity.ScopeCertAny},
	} {
		t.Run(name, func(t *testing.T) {
			s.policy.by, s.policy.what = nil, nil
			resp, body := s.ask(t, nil, http.MethodPost, tt.operation, tt.body, tt.auth)
			if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/pkcs7-mime; smime-type=certs-only" ||
				resp.Header.Get("Content-Transfer-Encoding") != "base64" {
				t.Fatalf("answer %s %v\n%s", resp.Status, resp.Header, body)
			}
			if got := certificates(t, body); len(got) != 1 || got[0].Subject.CommonName != "Ana" {
				t.Errorf("%d certificates, want the one that was issued", len(got))
			}
			label, _, _ := strings.Cut(tt.operation, "/")
			if label == "simpleenroll" {
				label = ""
			}
			p, a := s.policy.by[0], s.policy.what[0]
			if p.String() != tt.principal || !slices.Equal(p.Scopes, []identity.Scope{tt.scope}) || p.Peer != "192.0.2.1" {
				t.Errorf("principal = %+v", p)
			}
			if a.Template != label || a.Door != "est" || a.Peer != "192.0.2.1" || !bytes.Equal(a.CSR.Raw, der) {
				t.Errorf("application = %+v", a)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	s := open(t)
	good := inBase64(request(t, &x509.CertificateRequest{}, newKey(t)))
	for name, tt := range map[string]struct {
		method, operation string
		auth              func(*http.Request)
		body              []byte
		policy            error

		status int
		says   string
		header [2]string
		noted  bool
	}{
		"nobody":                  {operation: "simpleenroll", body: good, status: 401, says: "Sign in"},
		"another scheme":          {operation: "simpleenroll", auth: func(r *http.Request) { r.Header.Set("Authorization", "Digest x") }, body: good, status: 401, says: "Sign in"},
		"a wrong bearer token":    {operation: "simpleenroll", auth: bearer("gtk_x"), body: good, status: 401, says: "token"},
		"a wrong password":        {operation: "simpleenroll", auth: basic(anaLogin, "wrong"), body: good, status: 401, says: "User name or password"},
		"a revoked token":         {operation: "simpleenroll", auth: basic(anaLogin, "gtk_x"), body: good, status: 401, says: "token"},
		"a reader's token":        {operation: "simpleenroll", auth: bearer(s.readOnly), body: good, status: 403, says: "cert:self", noted: true},
		"no request":              {operation: "simpleenroll", auth: bearer(s.any), body: []byte("{}"), status: 400, says: "csr is neither PEM", noted: true},
		"nothing":                 {operation: "simpleenroll", auth: bearer(s.any), status: 400, says: "csr is missing", noted: true},
		"too much":                {operation: "simpleenroll", auth: bearer(s.any), body: make([]byte, 129<<10), status: 413, says: "too large"},
		"a field of the policy":   {operation: "simpleenroll", auth: bearer(s.any), body: good, policy: &depot.FieldError{Field: "subject.cn", Reason: "must be yours"}, status: 400, says: "subject.cn must be yours"},
		"the policy's word":       {operation: "simpleenroll", auth: bearer(s.any), body: good, policy: fmt.Errorf("issue: %w: the user is gone", issuance.ErrForbidden), status: 403, says: "Not allowed: the user is gone."},
		"a forbidding policy":     {operation: "simpleenroll", auth: bearer(s.any), body: good, policy: issuance.ErrForbidden, status: 403, says: "Not allowed."},
		"a key in use":            {operation: "simpleenroll", auth: bearer(s.any), body: good, policy: issuance.ErrKeyReused, status: 400, says: "key is in use"},
		"an external authority":   {operation: "wifi/simpleenroll", auth: bearer(s.any), body: good, policy: issuance.ErrExternal, status: 400, says: "Another authority"},
		"a template deleted":      {operation: "wifi/simpleenroll", auth: bearer(s.any), body: good, policy: storage.ErrNotFound, status: 404, says: "no certificate template"},
		"a quota":                 {operation: "simpleenroll", auth: bearer(s.any), body: good, policy: &depot.QuotaError{RetryAfter: time.Minute}, status: 429, says: "Too many", header: [2]string{"Retry-After", "60"}},
		"a database that is away": {operation: "simpleenroll", auth: bearer(s.any), body: good, policy: storage.ErrUnavailable, status: 503, says: "database", header: [2]string{"Retry-After", "10"}},
		"a failure":               {operation: "simpleenroll", auth: bearer(s.any), body: good, policy: errors.New("secret detail"), status: 500, says: "Something went wrong"},
		"no certificate to renew": {operation: "simplereenroll", auth: bearer(s.any), body: good, status: 403, says: "by showing it"},
		"an unknown template":     {operation: "none/simpleenroll", auth: bearer(s.any), body: good, status: 404, says: "no certificate template"},
		"what nobody can look up": {operation: "broken/simpleenroll", auth: bearer(s.any), body: good, status: 503, says: "database"},
		"an unknown operation":    {operation: "fullcmc", auth: bearer(s.any), body: good, status: 404, says: "no such EST operation"},
		"an operation as a label": {operation: "simpleenroll/simpleenroll", auth: bearer(s.any), body: good, status: 404, says: "no such EST operation"},
		"an empty label":          {operation: "/simpleenroll", auth: bearer(s.any), body: good, status: 404, says: "no such EST operation"},
		"two labels":              {operation: "wifi/wifi/simpleenroll", auth: bearer(s.any), body: good, status: 404, says: "no such EST operation"},
		"enrolling by GET":        {method: http.MethodGet, operation: "simpleenroll", auth: bearer(s.any), status: 405, says: "POST", header: [2]string{"Allow", "POST"}},
		"cacerts by POST":         {operation: "cacerts", status: 405, says: "GET", header: [2]string{"Allow", "GET, HEAD"}},
	} {
		t.Run(name, func(t *testing.T) {
			s.policy.err = tt.policy
			s.policy.what, s.notes.events = nil, nil
			method := tt.method
			if method == "" {
				method = http.MethodPost
			}
			resp, body := s.ask(t, nil, method, tt.operation, tt.body, tt.auth)
			if resp.StatusCode != tt.status || !strings.Contains(string(body), tt.says) || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
				t.Errorf("answer %s %s %q, want %d and %q", resp.Status, resp.Header.Get("Content-Type"), body, tt.status, tt.says)
			}
			if tt.status == http.StatusUnauthorized {
				challenges := strings.Join(resp.Header.Values("WWW-Authenticate"), "; ")
				if !strings.Contains(challenges, "Basic ") || !strings.Contains(challenges, "Bearer ") {
					t.Errorf("WWW-Authenticate: %s, want both ways", challenges)
				}
			}
			if name := tt.header[0]; name != "" && resp.Header.Get(name) != tt.header[1] {
				t.Errorf("%s: %q, want %q", name, resp.Header.Get(name), tt.header[1])
			}
			if strings.Contains(string(body), "secret detail") {
				t.Error("the answer tells what is for the log")
			}
			if noted := len(s.notes.events) == 1; noted != tt.noted {
				t.Errorf("written down: %+v, want %v", s.notes.events, tt.noted)
			}
			if reached := len(s.policy.what) > 0; reached != (tt.policy != nil) {
				t.Errorf("the policy was asked: %v", reached)
			}
		})
	}
}

// TestGuessingIsSlowedDownAndOldTokensAreNoGuesses covers two people behind one
// address: one who guesses, and one whose printer still has a token of last year.
func TestGuessingIsSlowedDownAndOldTokensAreNoGuesses(t *testing.T) {
	s := open(t)
	good := inBase64(request(t, &x509.CertificateRequest{}, newKey(t)))
	for range 100 {
		if resp, body := s.ask(t, nil, http.MethodPost, "simpleenroll", good, basic("printer", "gtk_of_last_year")); resp.StatusCode != http.StatusUnauthorized {
			t.Fatalf("an old token: %s %s", resp.Status, body)
		}
	}
	if resp, body := s.ask(t, nil, http.MethodPost, "simpleenroll", good, basic(anaLogin, anaPassword)); resp.StatusCode != http.StatusOK {
		t.Fatalf("after many tries with an old token, a login: %s %s", resp.Status, body)
	}
	for range 30 {
		resp, _ := s.ask(t, nil, http.MethodPost, "simpleenroll", good, basic(anaLogin, "a guess"))
		if resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") != "" {
			return
		}
	}
	t.Error("thirty guesses, and none was refused as one too many")
}

// elsewhere has people of other sources log in beside those of the server.
type elsewhere struct{ *identity.Service }

func (e elsewhere) LoginWithoutCode(ctx context.Context, login, password, peer string) (identity.SignedIn, error) {
	switch login {
	case "at-a-directory-that-is-down":
		return identity.SignedIn{}, fmt.Errorf("login: %w", identity.ErrSource)
	case "whose-name-is-taken":
		return identity.SignedIn{}, fmt.Errorf("login: %w: %w", identity.ErrUnusable, identity.ErrTaken)
	}
	return e.Service.LoginWithoutCode(ctx, login, password, peer)
}

// A right password that is not enough must look like a wrong one.
func TestAPasswordWithoutItsSecondFactor(t *testing.T) {
	s := open(t)
	good := inBase64(request(t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "mac"}}, newKey(t)))
	setUpCodes(t, s.people)
	ask := func(password string) (int, string) {
		t.Helper()
		resp, body := s.ask(t, nil, http.MethodPost, "simpleenroll", good, basic(anaLogin, password))
		resp.Header.Del("Date")
		return resp.StatusCode, fmt.Sprint(resp.Header, string(body))
	}
	status, right := ask(anaPassword)
	if _, wrong := ask("a guess"); status != http.StatusUnauthorized || right != wrong {
		t.Errorf("the right password is answered by %d %s, a wrong one by %s", status, right, wrong)
	}
	for range 10 {
		status, _ = ask(anaPassword)
	}
	if status != http.StatusTooManyRequests {
		t.Errorf("the twelfth time: %d, want %d", status, http.StatusTooManyRequests)
	}
	if s.policy.what != nil {
		t.Error("a certificate was asked for")
	}
	if resp, body := s.ask(t, nil, http.MethodPost, "simpleenroll", good, basic("anybody", s.selfie)); resp.StatusCode != http.StatusOK {
		t.Errorf("with a token: %s %s", resp.Status, body)
	}
}

// setUpCodes gives Ana a second factor (RFC 6238).
func setUpCodes(t *testing.T, people *identity.Service) {
	t.Helper()
	list, _, err := people.Users(t.Context(), "", 1)
	if err != nil {
		t.Fatal(err)
	}
	setup, err := people.BeginSecondFactor(t.Context(), list[0].ID, "test")
	if err != nil {
		t.Fatal(err)
	}
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(setup.Key.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha1.New, key)
	_ = binary.Write(mac, binary.BigEndian, uint64(time.Now().Unix()/30))
	sum := mac.Sum(nil)
	code := binary.BigEndian.Uint32(sum[sum[len(sum)-1]&15:]) & 0x7fffffff % 1_000_000
	if _, _, err := people.ConfirmSecondFactor(t.Context(), list[0].ID, fmt.Sprintf("%06d", code), "192.0.2.9"); err != nil {
		t.Fatal(err)
	}
}

func TestPeopleOfOtherSources(t *testing.T) {
	s := open(t)
	good := inBase64(request(t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "mac"}}, newKey(t)))
	for login, tt := range map[string]struct {
		status int
		says   string
	}{
		"at-a-directory-that-is-down": {http.StatusServiceUnavailable, "not available"},
		"whose-name-is-taken":         {http.StatusForbidden, "can't be used"},
	} {
		s.policy.what = nil
		resp, body := s.ask(t, nil, http.MethodPost, "simpleenroll", good, basic(login, "a good password"))
		if resp.StatusCode != tt.status || !strings.Contains(string(body), tt.says) || s.policy.what != nil {
			t.Errorf("somebody %s: %s %q, want %d", login, resp.Status, body, tt.status)
		}
		if (resp.Header.Get("Retry-After") != "") != (tt.status == http.StatusServiceUnavailable) {
			t.Errorf("somebody %s: Retry-After is %q", login, resp.Header.Get("Retry-After"))
		}
	}
}

func TestReenrollment(t *testing.T) {
	s := open(t)
	oldKey := newKey(t)
	contents := depot.Contents{
		Subject:  pkix.Name{CommonName: "mac", Organization: []string{"Example"}},
		DNSNames: []string{"a.example.com", "b.example.com"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	old, err := s.depot.Payload().Sign(oldKey.Public(), contents)
	if err != nil {
		t.Fatal(err)
	}
	client := s.with(old, oldKey)
	same := x509.CertificateRequest{Subject: contents.Subject, DNSNames: []string{"b.example.com", "a.example.com"}}
	with := func(change func(*x509.CertificateRequest)) []byte {
		template := same
		change(&template)
		return inBase64(request(t, &template, newKey(t)))
	}
	for name, tt := range map[string]struct {
		body   []byte
		says   string // "": renewed
		policy error
		status int
	}{
		"with a new key":   {body: with(func(*x509.CertificateRequest) {})},
		"with the old key": {body: inBase64(request(t, &same, oldKey))},
		"for a name in an attribute": {body: with(func(r *x509.CertificateRequest) {
			//lint:ignore SA1019 there is nothing else to put an attribute into a request with
			r.Attributes = changedSubject()
		}), says: "attributes ask for another subject"},
		"that the policy forbids": {body: inBase64(request(t, &same, oldKey)), policy: fmt.Errorf("%w: it is revoked", issuance.ErrRenewal), says: "can't be renewed: it is revoked", status: 403},
		"for other names":         {body: inBase64(request(t, &same, oldKey)), policy: &depot.FieldError{Field: "subject", Reason: "must be that of the old one"}, says: "subject must be that of the old one"},
	} {
		t.Run(name, func(t *testing.T) {
			s.policy.err = tt.policy
			s.policy.old, s.policy.what, s.notes.events = nil, nil, nil
			resp, body := s.ask(t, client, http.MethodPost, "wifi/simplereenroll", tt.body, nil)
			if tt.says != "" {
				status := cmp.Or(tt.status, http.StatusBadRequest)
				if resp.StatusCode != status || !strings.Contains(string(body), tt.says) {
					t.Errorf("answer %s %q, want %d and %q", resp.Status, body, status, tt.says)
				}
				if tt.policy == nil && (len(s.policy.what) != 0 || len(s.notes.events) != 1 || s.notes.events[0].Certificate != string(depot.SerialOf(old))) {
					t.Errorf("the policy was asked %d times, written down: %+v", len(s.policy.what), s.notes.events)
				}
				return
			}
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("answer %s %s", resp.Status, body)
			}
			if got := certificates(t, body); len(got) != 1 {
				t.Errorf("%d certificates, want one", len(got))
			}
			if !s.policy.old[0].Equal(old) || s.policy.what[0].Template != "wifi" {
				t.Errorf("the policy was asked to renew %v for %q", s.policy.old[0].Subject, s.policy.what[0].Template)
			}
		})
	}
}

// changedSubject is a ChangeSubjectName attribute (RFC 6402, 2.8).
func changedSubject() []pkix.AttributeTypeAndValueSET {
	return []pkix.AttributeTypeAndValueSET{{
		Type:  []int{1, 3, 6, 1, 5, 5, 7, 7, 36},
		Value: [][]pkix.AttributeTypeAndValue{{{Type: []int{2, 5, 4, 3}, Value: "other"}}},
	}}
}

// TestCurlDoesEST enrolls and renews by curl and OpenSSL, as the standard's examples
// do.
func TestCurlDoesEST(t *testing.T) {
	for _, tool := range []string{"openssl", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatal(err)
			}
			t.Skip(tool + " is not installed")
		}
	}
	s := open(t)
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, stderr.Bytes())
		}
		return string(out)
	}
	tlsRoot := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.server.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, "tls.pem"), tlsRoot, 0o600); err != nil {
		t.Fatal(err)
	}
	at := s.server.URL + est.Path
	fetch := func(out, operation string, args ...string) {
		t.Helper()
		run("curl", append([]string{"-sSf", "--cacert", "tls.pem", "-o", out + ".p7.b64", at + operation}, args...)...)
		run("openssl", "base64", "-d", "-in", out+".p7.b64", "-out", out+".p7")
		certs := run("openssl", "pkcs7", "-inform", "DER", "-in", out+".p7", "-print_certs")
		if err := os.WriteFile(filepath.Join(dir, out+".pem"), []byte(certs), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	post := []string{"-H", "Content-Type: application/pkcs10", "-H", "Content-Transfer-Encoding: base64"}
	ask := func(key string) {
		t.Helper()
		run("openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-subj", "/O=Example/CN=printer",
			"-addext", "subjectAltName=DNS:printer.example.com", "-outform", "DER", "-out", "req.der")
		run("openssl", "base64", "-in", "req.der", "-out", "req.b64")
	}

	fetch("ca", "cacerts")
	ask("key.pem")
	fetch("cert", "wifi/simpleenroll", append(post, "--data-binary", "@req.b64", "-u", "est:"+s.any)...)
	run("openssl", "verify", "-CAfile", "ca.pem", "cert.pem")
	ask("newkey.pem")
	fetch("renewed", "wifi/simplereenroll", append(post, "--data-binary", "@req.b64", "--cert", "cert.pem", "--key", "key.pem")...)
	run("openssl", "verify", "-CAfile", "ca.pem", "renewed.pem")
	if got, want := run("openssl", "x509", "-in", "renewed.pem", "-noout", "-pubkey"), run("openssl", "pkey", "-in", "newkey.pem", "-pubout"); got != want {
		t.Error("the renewed certificate is for another key")
	}
}
