package csr_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
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
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/csr"
	"github.com/gatehouse-mdm/gatehouse/depot/depottest"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// policy grants every request, or refuses it with err, and remembers what it was asked.
type policy struct {
	depot *depot.Depot
	err   error

	mu   sync.Mutex
	by   []identity.Principal
	what []depot.Application
}

func (p *policy) IssueCSR(_ context.Context, by identity.Principal, a depot.Application) (*x509.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.by, p.what = append(p.by, by), append(p.what, a)
	if p.err != nil {
		return nil, p.err
	}
	return p.depot.Payload().Sign(a.CSR.PublicKey, depot.Contents{
		Subject: pkix.Name{CommonName: "as the policy says"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
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

// site is a door, a policy behind it, and tokens of each kind.
type site struct {
	url    string
	policy *policy
	notes  *notes
	tokens map[string]string
	depot  *depot.Depot
}

func open(t *testing.T) *site {
	t.Helper()
	db := storagetest.Open(t)
	log := slog.New(slog.DiscardHandler)
	people, err := identity.New(identity.Config{DB: db, Log: log, Now: time.Now, HashMemory: 64})
	if err != nil {
		t.Fatal(err)
	}
	d := depottest.Open(t, depottest.Config(t, db))
	s := &site{policy: &policy{depot: d}, notes: &notes{}, tokens: map[string]string{"none": ""}, depot: d}
	for name, n := range map[string]identity.NewToken{
		"self":   {Name: "self", Scopes: []identity.Scope{identity.ScopeCertSelf}, User: "ana@example.com"},
		"any":    {Name: "any", Scopes: []identity.Scope{identity.ScopeCertAny}},
		"manage": {Name: "manage", Scopes: []identity.Scope{identity.ScopeCertManage}},
		"owner":  {Name: "owner", Scopes: []identity.Scope{identity.ScopeOwner}},
	} {
		_, secret, err := people.CreateToken(t.Context(), identity.Local(), n)
		if err != nil {
			t.Fatal(err)
		}
		s.tokens[name] = secret.Reveal()
	}
	past := func() time.Time { return time.Now().Add(-time.Hour) }
	before, err := identity.New(identity.Config{DB: db, Log: log, Now: past, HashMemory: 64})
	if err != nil {
		t.Fatal(err)
	}
	_, secret, err := before.CreateToken(t.Context(), identity.Local(), identity.NewToken{Name: "old", Scopes: []identity.Scope{identity.ScopeCertAny}, ExpiresAt: past().Add(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	s.tokens["expired"] = secret.Reveal()
	h, err := csr.New(csr.Config{
		Issuer: s.policy, Identity: people, Audit: s.notes, Depot: d, Log: log,
		Peer: func(context.Context) string { return "192.0.2.1" }, RequestID: webui.RequestID,
		Fail: webui.FailWithProblem(log),
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(webui.AssignRequestID(h))
	t.Cleanup(srv.Close)
	s.url = srv.URL + csr.Path
	return s
}

// post sends body with a token, "" for none.
func (s *site) post(t *testing.T, token, query string, body []byte, headers ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, s.url+query, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if secret := s.tokens[token]; secret != "" {
		req.Header.Set("Authorization", "Bearer "+secret)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
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

func request(t *testing.T, template *x509.CertificateRequest, curve elliptic.Curve) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func inPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func TestTheAnswerHasTheFormOfTheRequest(t *testing.T) {
	s := open(t)
	der := request(t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "whoever"}}, elliptic.P256())
	ofPEM := func(body []byte) ([]byte, error) {
		block, rest := pem.Decode(body)
		if block == nil || block.Type != "CERTIFICATE" || len(rest) > 0 {
			return nil, fmt.Errorf("%q is not one certificate in PEM", body)
		}
		return block.Bytes, nil
	}
	for name, tt := range map[string]struct {
		body        []byte
		sent        string // content type
		contentType string
		decode      func([]byte) ([]byte, error)
	}{
		"PEM":                              {inPEM(der), "application/x-pem-file", "application/x-pem-file", ofPEM},
		"PEM that is called a form":        {inPEM(der), "application/x-www-form-urlencoded", "application/x-pem-file", ofPEM},
		"DER":                              {der, "application/pkcs10", "application/pkix-cert", func(b []byte) ([]byte, error) { return b, nil }},
		"DER without a type":               {der, "", "application/pkix-cert", func(b []byte) ([]byte, error) { return b, nil }},
		"base64":                           {[]byte(base64.StdEncoding.EncodeToString(der)), "text/plain", "application/pkix-cert; encoding=base64", func(b []byte) ([]byte, error) { return base64.StdEncoding.DecodeString(strings.TrimSpace(string(b))) }},
		"PEM of the older kind, commented": {[]byte("Subject: x\n" + strings.ReplaceAll(string(inPEM(der)), "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")), "", "application/x-pem-file", ofPEM},
	} {
		t.Run(name, func(t *testing.T) {
			resp, body := s.post(t, "self", "", tt.body, "Content-Type", tt.sent)
			if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != tt.contentType || resp.Header.Get("Cache-Control") != "no-store" {
				t.Fatalf("answer %s %v\n%s", resp.Status, resp.Header, body)
			}
			got, err := tt.decode(body)
			if err != nil {
				t.Fatal(err)
			}
			cert, err := x509.ParseCertificate(got)
			if err != nil {
				t.Fatal(err)
			}
			if cert.Subject.CommonName != "as the policy says" {
				t.Errorf("the certificate is for %s", cert.Subject)
			}
		})
	}
}

func TestWhoAsksForWhatReachesThePolicy(t *testing.T) {
	s := open(t)
	der := request(t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "mac"}, DNSNames: []string{"mac.example.com"}}, elliptic.P256())
	if resp, body := s.post(t, "any", "?template=wifi", der); resp.StatusCode != http.StatusOK {
		t.Fatalf("answer %s\n%s", resp.Status, body)
	}
	p, a := s.policy.by[0], s.policy.what[0]
	if p.Name != "any" || p.Peer != "192.0.2.1" || !p.Allows(identity.ScopeCertAny) {
		t.Errorf("principal = %+v, want the token", p)
	}
	if a.Template != "wifi" || a.Door != "csr" || a.Peer != "192.0.2.1" || !bytes.Equal(a.CSR.Raw, der) ||
		len(a.Asked.Names.DNSNames) != 1 || len(a.Asked.Subject) != 1 {
		t.Errorf("application = %+v", a)
	}
	if len(s.notes.events) != 0 {
		t.Errorf("refusals were written down: %+v", s.notes.events)
	}
}

func TestAChainEndsBelowTheRoot(t *testing.T) {
	s := open(t)
	resp, body := s.post(t, "self", "?chain=true", inPEM(request(t, &x509.CertificateRequest{}, elliptic.P256())))
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("answer %s\n%s", resp.Status, body)
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(body); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, cert)
	}
	if len(certs) != 2 || !certs[1].Equal(s.depot.Payload().Certificate()) {
		t.Errorf("%d certificates, want the new one and that of its issuer", len(certs))
	}
}

func TestRefusals(t *testing.T) {
	s := open(t)
	good := request(t, &x509.CertificateRequest{}, elliptic.P256())
	forged := bytes.Clone(good)
	forged[len(forged)-1] ^= 1
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})
	for name, tt := range map[string]struct {
		token, query string
		headers      []string
		body         []byte
		policy       error

		status int
		code   string
		field  string
		header [2]string // one of the answer, and how it begins
		noted  bool      // in the audit log by the door; the policy writes its own
	}{
		"no token":              {token: "none", body: good, status: 401, code: "unauthenticated", header: [2]string{"WWW-Authenticate", "Bearer"}},
		"a token in the query":  {token: "none", query: "?access_token=" + s.tokens["any"] + "&token=" + s.tokens["any"], body: good, status: 401, code: "unauthenticated", header: [2]string{"WWW-Authenticate", "Bearer"}},
		"a token that is none":  {token: "none", headers: []string{"Authorization", "Bearer gtk_x"}, body: good, status: 401, code: "unauthenticated", header: [2]string{"WWW-Authenticate", `Bearer realm="gatehouse", error="invalid_token"`}},
		"a token of before":     {token: "expired", body: good, status: 401, code: "token_expired", header: [2]string{"WWW-Authenticate", `Bearer realm="gatehouse", error="invalid_token"`}},
		"basic authentication":  {token: "none", headers: []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("x:"+s.tokens["any"]))}, body: good, status: 401, code: "unauthenticated", header: [2]string{"WWW-Authenticate", "Bearer"}},
		"two tokens":            {token: "any", headers: []string{"Authorization", "Bearer " + s.tokens["self"]}, body: good, status: 401, code: "unauthenticated"},
		"an owner's token":      {token: "owner", body: good, status: 403, code: "forbidden", header: [2]string{"WWW-Authenticate", "Bearer"}, noted: true},
		"a token for lists":     {token: "manage", body: good, status: 403, code: "forbidden", noted: true},
		"nothing":               {token: "any", status: 400, code: "invalid_request", field: "csr", noted: true},
		"no request":            {token: "any", body: []byte("hello"), status: 400, code: "invalid_request", field: "csr", noted: true},
		"DER that is none":      {token: "any", body: append([]byte{0x30, 0x82, 1, 0}, make([]byte, 256)...), status: 400, code: "invalid_request", field: "csr", noted: true},
		"a private key as well": {token: "any", body: append(key, inPEM(good)...), status: 400, code: "invalid_request", field: "csr", noted: true},
		"a forged signature":    {token: "any", body: forged, status: 400, code: "invalid_request", field: "signature", noted: true},
		"a weak key":            {token: "any", body: request(t, &x509.CertificateRequest{}, elliptic.P224()), status: 400, code: "invalid_request", field: "public_key", noted: true},
		"a malformed usage": {token: "any", body: request(t, &x509.CertificateRequest{
			ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 15}, Value: []byte{5, 0}}},
		}, elliptic.P256()), status: 400, code: "invalid_request", field: "key_usage", noted: true},
		"more than a request":          {token: "any", body: make([]byte, 129<<10), status: 413, code: "body_too_large"},
		"a query that is none":         {token: "any", query: "?template=%zz", body: good, status: 400, code: "bad_query", noted: true},
		"two templates":                {token: "any", query: "?template=a&template=b", body: good, status: 400, code: "invalid_request", field: "template", noted: true},
		"no template":                  {token: "any", query: "?template=", body: good, status: 400, code: "invalid_request", field: "template", noted: true},
		"a long template":              {token: "any", query: "?template=" + strings.Repeat("x", 65), body: good, status: 400, code: "invalid_request", field: "template", noted: true},
		"perhaps a chain":              {token: "any", query: "?chain=maybe", body: good, status: 400, code: "invalid_request", field: "chain", noted: true},
		"a chain in DER":               {token: "any", query: "?chain=true", body: good, status: 400, code: "invalid_request", field: "chain", noted: true},
		"a field of the policy":        {token: "self", body: good, policy: fmt.Errorf("csr: %w", &depot.FieldError{Field: "san.upn", Reason: "must be yours"}), status: 400, code: "invalid_request", field: "san.upn"},
		"the policy's word":            {token: "self", body: good, policy: fmt.Errorf("%w: the user is disabled", issuance.ErrForbidden), status: 403, code: "forbidden"},
		"a key of another certificate": {token: "self", body: good, policy: issuance.ErrKeyReused, status: 409, code: "key_reused", field: "public_key"},
		"another authority's template": {token: "any", query: "?template=x", body: good, policy: issuance.ErrExternal, status: 400, code: "invalid_request", field: "template"},
		"a template that there is not": {token: "any", query: "?template=x", body: good, policy: fmt.Errorf("template: %w", storage.ErrNotFound), status: 404, code: "not_found", field: "template"},
		"a quota":                      {token: "self", body: good, policy: fmt.Errorf("csr: %w", &depot.QuotaError{RetryAfter: 89500 * time.Millisecond}), status: 429, code: "too_many_requests", header: [2]string{"Retry-After", "90"}},
		"a quota without a time":       {token: "self", body: good, policy: depot.ErrQuota, status: 429, code: "too_many_requests", header: [2]string{"Retry-After", "60"}},
		"a database that is away":      {token: "self", body: good, policy: storage.ErrUnavailable, status: 503, code: "database_unavailable", header: [2]string{"Retry-After", ""}},
		"a policy that has failed":     {token: "self", body: good, policy: errors.New("secret detail"), status: 500, code: "internal"},
	} {
		t.Run(name, func(t *testing.T) {
			s.policy.err = tt.policy
			s.policy.what, s.notes.events = nil, nil
			resp, body := s.post(t, tt.token, tt.query, tt.body, tt.headers...)
			var problem struct {
				Type, Title, Detail, Code string
				Status                    int
				RequestID                 string `json:"request_id"`
				Errors                    []struct{ Field, Detail string }
			}
			if err := json.Unmarshal(body, &problem); err != nil {
				t.Fatalf("answer %s %q", resp.Status, body)
			}
			if resp.StatusCode != tt.status || problem.Status != tt.status || problem.Code != tt.code || problem.Type != "about:blank" ||
				problem.RequestID == "" || resp.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("answer %s %s\n%s, want %d %s", resp.Status, resp.Header.Get("Content-Type"), body, tt.status, tt.code)
			}
			if tt.field != "" && (len(problem.Errors) != 1 || problem.Errors[0].Field != tt.field || problem.Errors[0].Detail == "") {
				t.Errorf("errors = %+v, want one of %q", problem.Errors, tt.field)
			}
			if name, want := tt.header[0], tt.header[1]; name != "" && (resp.Header.Get(name) == "" || !strings.HasPrefix(resp.Header.Get(name), want)) {
				t.Errorf("%s: %q, want %q", name, resp.Header.Get(name), want)
			}
			if strings.Contains(string(body), "secret detail") {
				t.Error("the answer tells what is for the log")
			}
			if reached := len(s.policy.what) > 0; reached != (tt.policy != nil) {
				t.Errorf("the policy was asked: %v", reached)
			}
			if noted := len(s.notes.events) == 1; noted != tt.noted {
				t.Errorf("written down: %+v, want %v", s.notes.events, tt.noted)
			} else if e := s.notes.events; noted && (e[0].Actor != "token:"+tt.token || e[0].Action != "certificate.refused" || e[0].Reason == "" || e[0].Peer != "192.0.2.1") {
				t.Errorf("written down: %+v", e)
			}
		})
	}
	resp, err := http.Get(s.url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "POST" {
		t.Errorf("GET: %s, Allow %q", resp.Status, resp.Header.Get("Allow"))
	}
}

// TestCurlAndOpenSSLGetACertificate uses the door as a person would.
func TestCurlAndOpenSSLGetACertificate(t *testing.T) {
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
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	write := func(name string, cert *x509.Certificate) {
		t.Helper()
		block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
		if err := os.WriteFile(filepath.Join(dir, name), block, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("root.pem", s.depot.Root().Certificate())
	write("issuer.pem", s.depot.Payload().Certificate())
	run("openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-subj", "/CN=Ana", "-out", "req.pem")
	run("curl", "-sSf", "--data-binary", "@req.pem", "-H", "Authorization: Bearer "+s.tokens["self"], "-o", "cert.pem", s.url)
	run("openssl", "verify", "-CAfile", "root.pem", "-untrusted", "issuer.pem", "cert.pem")
	if got, want := run("openssl", "x509", "-in", "cert.pem", "-noout", "-pubkey"), run("openssl", "pkey", "-in", "key.pem", "-pubout"); got != want {
		t.Error("the certificate is for another key")
	}
}
