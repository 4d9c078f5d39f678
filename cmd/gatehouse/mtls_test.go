package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// mutual is a server with an address that asks for client certificates.
type mutual struct {
	*running
	at    string // https:// and that address
	token string // of the scope cert:any
}

func startMutual(t *testing.T, args ...string) *mutual {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(apiToken), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, t.TempDir(), append([]string{"--bootstrap-token-file", file, "--mtls-listen", "127.0.0.1:0", "--log-format", "json"}, args...)...)
	found := regexp.MustCompile(`asked for a certificate","listen":"([^"]+)"`).FindStringSubmatch(s.out.String())
	if found == nil {
		t.Fatalf("the log does not say where clients are asked for a certificate:\n%s", s.out)
	}
	m := &mutual{running: s, at: "https://" + found[1]}
	var made struct{ Token string }
	decode(t, fetch(t, s.client, "POST", s.url+"/api/v1/tokens", []byte(`{"name":"printers","scopes":["cert:any"]}`)), &made)
	m.token = made.Token
	// By the time that it is issued it may be renewed: it begins some minutes earlier.
	fetch(t, s.client, "POST", s.url+"/api/v1/certificate-templates", []byte(
		`{"name":"printer","subject":"/O=Example/CN=printer","sans":{"dNSName":["printer.example.com"]},"validity":"1h","renew_before":"99%"}`))
	return m
}

// with is a client of its own connections that shows cert where it is asked for one;
// nil: none.
func (m *mutual) with(t *testing.T, cert *tls.Certificate) *http.Client {
	t.Helper()
	client := m.newClient(t)
	if cert != nil {
		config := client.Transport.(*http.Transport).TLSClientConfig
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return client
}

// printer is a request for a printer's certificate, and its key.
func printer(t *testing.T, cn string) (csr []byte, key *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{Organization: []string{"Example"}, CommonName: cn}, DNSNames: []string{"printer.example.com"},
	}, key)
	must(t, err)
	return csr, key
}

// est posts a request in base64, and returns the certificate in a 200.
func (m *mutual) est(t *testing.T, client *http.Client, at, operation string, csr []byte, headers ...string) (status int, cert *x509.Certificate, text string) {
	t.Helper()
	req, err := http.NewRequest("POST", at+"/.well-known/est/"+operation, strings.NewReader(base64.StdEncoding.EncodeToString(csr)))
	must(t, err)
	req.Header.Set("Content-Type", "application/pkcs10")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(req)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, nil, string(body)
	}
	cms, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(body), "\n", ""))
	must(t, err)
	p7, err := guard.ParseCMS(cms, 0)
	must(t, err)
	if len(p7.Certificates) != 1 {
		t.Fatalf("%s: %d certificates", operation, len(p7.Certificates))
	}
	return resp.StatusCode, p7.Certificates[0], ""
}

// TestARenewalByESTNeedsTheOldCertificate enrolls by token at the usual address, and
// renews by certificate where one is asked for.
func TestARenewalByESTNeedsTheOldCertificate(t *testing.T) {
	storagetest.AnyEngine(t)
	const header = "X-Client-Cert"
	m := startMutual(t, "--client-cert-header", header, "--trusted-proxy", "192.0.2.1")
	csr, key := printer(t, "printer")
	status, old, text := m.est(t, m.client, m.url, "printer/simpleenroll", csr, "Authorization", "Bearer "+m.token)
	if status != http.StatusOK {
		t.Fatalf("simpleenroll: %d %s", status, text)
	}
	holder := m.with(t, &tls.Certificate{Certificate: [][]byte{old.Raw}, PrivateKey: key})
	stranger, strangerKey := selfSigned(t, old)
	impostor := m.with(t, &tls.Certificate{Certificate: [][]byte{stranger.Raw}, PrivateKey: strangerKey})
	again, newKey := printer(t, "printer")
	other, _ := printer(t, "plotter")
	escaped := ":" + base64.StdEncoding.EncodeToString(old.Raw) + ":"
	for name, tt := range map[string]struct {
		client  *http.Client
		at      string
		csr     []byte
		headers []string
		status  int
	}{
		"where nobody is asked":                  {holder, m.url, again, nil, http.StatusForbidden},
		"without a certificate":                  {m.with(t, nil), m.at, again, nil, http.StatusForbidden},
		"with the token only":                    {m.with(t, nil), m.at, again, []string{"Authorization", "Bearer " + m.token}, http.StatusForbidden},
		"with a header that anybody can send":    {m.with(t, nil), m.at, again, []string{header, escaped}, http.StatusForbidden},
		"with a certificate of the same names":   {impostor, m.at, again, nil, http.StatusForbidden},
		"and the header besides, which is worse": {impostor, m.at, again, []string{header, escaped}, http.StatusForbidden},
		"for another name":                       {holder, m.at, other, nil, http.StatusBadRequest},
	} {
		if status, _, text := m.est(t, tt.client, tt.at, "simplereenroll", tt.csr, tt.headers...); status != tt.status {
			t.Errorf("%s: %d %s, want %d", name, status, text, tt.status)
		}
	}
	status, renewed, text := m.est(t, holder, m.at, "simplereenroll", again)
	if status != http.StatusOK {
		t.Fatalf("simplereenroll: %d %s", status, text)
	}
	if !renewed.PublicKey.(*ecdsa.PublicKey).Equal(newKey.Public()) || renewed.Subject.String() != old.Subject.String() || renewed.SerialNumber.Cmp(old.SerialNumber) == 0 {
		t.Errorf("renewed: %s of %s, serial number %x", renewed.Subject, renewed.Issuer, renewed.SerialNumber)
	}

	// A connection that was there before learns of the revocation, too.
	fetch(t, m.client, "POST", fmt.Sprintf("%s/api/v1/certificates/%x/revoke", m.url, old.SerialNumber), []byte(`{"reason":"keyCompromise"}`))
	third, _ := printer(t, "printer")
	if status, _, text := m.est(t, holder, m.at, "simplereenroll", third); status != http.StatusForbidden || !strings.Contains(text, "revoked") {
		t.Errorf("with a revoked certificate: %d %s, want 403", status, text)
	}
}

// selfSigned is a certificate that reads like cert and is nobody's, and its key.
func selfSigned(t *testing.T, cert *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: cert.SerialNumber, RawSubject: cert.RawSubject, NotBefore: cert.NotBefore, NotAfter: cert.NotAfter,
		DNSNames: cert.DNSNames, ExtKeyUsage: cert.ExtKeyUsage,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{RawSubject: cert.RawIssuer}, key.Public(), key)
	must(t, err)
	made, err := x509.ParseCertificate(der)
	must(t, err)
	return made, key
}

func TestTheAddressThatAsksForCertificatesServesNothingElse(t *testing.T) {
	storagetest.AnyEngine(t)
	m := startMutual(t)
	client := m.with(t, nil)
	for path, want := range map[string]int{
		"/livez": 200, "/.well-known/est/cacerts": 200, "/.well-known/est/printer/cacerts": 200, "/.well-known/est/csrattrs": 204,
		"/mdm/connect": 405,
		"/":            404, "/admin": 404, "/enroll": 404, "/ca.pem": 404, "/scep": 404, "/api/v1/devices": 404, "/api/csr": 404, "/readyz": 404,
		"/mdm/other": 404, "/.well-known/est": 404,
	} {
		resp, err := client.Get(m.at + path)
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s = %d, want %d", path, resp.StatusCode, want)
		}
	}
	for name, tt := range map[string]struct {
		config *tls.Config
		works  bool
	}{
		"TLS 1.3": {&tls.Config{MinVersion: tls.VersionTLS13}, true},
		"TLS 1.2": {&tls.Config{MaxVersion: tls.VersionTLS12}, true},
		"TLS 1.1": {&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
	} {
		t.Run(name, func(t *testing.T) {
			asked := false
			tt.config.InsecureSkipVerify = true
			tt.config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			tt.config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				asked = true
				return &tls.Certificate{}, nil
			}
			for range 2 {
				asked = false
				conn, err := tls.Dial("tcp", strings.TrimPrefix(m.at, "https://"), tt.config)
				if (err == nil) != tt.works || asked != tt.works {
					t.Fatalf("handshake = %v, asked for a certificate: %v; should work: %v", err, asked, tt.works)
				}
				if err != nil {
					return
				}
				// A ticket would come with the first bytes.
				fmt.Fprint(conn, "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
				if answer, err := io.ReadAll(conn); err != nil || !bytes.Contains(answer, []byte("200 OK")) {
					t.Errorf("/livez = %s, %v", answer, err)
				}
				if conn.ConnectionState().DidResume {
					t.Error("a session was resumed")
				}
				conn.Close()
			}
		})
	}
}

// TestAnUploadedRequestIsGranted asks by /api/csr for what the template leaves no
// choice about, and for what nobody gets.
func TestAnUploadedRequestIsGranted(t *testing.T) {
	storagetest.AnyEngine(t)
	m := startMutual(t)
	post := func(query string, body []byte) (int, []byte) {
		t.Helper()
		req, err := http.NewRequest("POST", m.url+"/api/csr"+query, bytes.NewReader(body))
		must(t, err)
		req.Header.Set("Authorization", "Bearer "+m.token)
		resp, err := m.client.Do(req)
		must(t, err)
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		must(t, err)
		return resp.StatusCode, answer
	}
	csr, key := printer(t, "printer")
	status, body := post("?template=printer", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	block, _ := pem.Decode(body)
	if status != http.StatusOK || block == nil {
		t.Fatalf("%d %s", status, body)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	if !cert.PublicKey.(*ecdsa.PublicKey).Equal(key.Public()) || cert.Subject.CommonName != "printer" {
		t.Errorf("the certificate is for %s", cert.Subject)
	}
	authority, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:         pkix.Name{CommonName: "authority"},
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Value: []byte{0x30, 3, 1, 1, 0xFF}}},
	}, key)
	must(t, err)
	if status, body := post("", authority); status != http.StatusBadRequest || !bytes.Contains(body, []byte(`"field":"basic_constraints"`)) {
		t.Errorf("a request to be an authority: %d %s", status, body)
	}
	if status, body := post("?template=none", csr); status != http.StatusNotFound || !bytes.Contains(body, []byte(`"field":"template"`)) {
		t.Errorf("a template that there is not: %d %s", status, body)
	}
	audit := fetch(t, m.client, "GET", m.url+"/api/v1/audit?limit=100", nil)
	for _, action := range []string{"certificate.issued", "certificate.refused"} {
		if !bytes.Contains(audit, []byte(action)) {
			t.Errorf("the audit log has no %s: %s", action, audit)
		}
	}
}
