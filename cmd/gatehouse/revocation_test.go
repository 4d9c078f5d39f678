package main

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ocsp"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// party is somebody who meets a certificate, and asks about it where it says.
type party struct {
	*http.Client
	cert, issuer *x509.Certificate
}

func (p party) fetch(t testing.TB, method, url string, body []byte, header ...string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	must(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := p.Do(req)
	must(t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, data
}

// newParty finds the issuer of cert, and checks that all pointers lead to the server.
func newParty(t testing.TB, client *http.Client, server string, cert *x509.Certificate) party {
	t.Helper()
	p := party{Client: client, cert: cert}
	for _, pointers := range [][]string{cert.CRLDistributionPoints, cert.OCSPServer, cert.IssuingCertificateURL} {
		if len(pointers) != 1 || !strings.HasPrefix(pointers[0], server+"/") {
			t.Fatalf("%s: pointers %q, want one at %s", cert.Subject, pointers, server)
		}
	}
	status, der := p.fetch(t, "GET", cert.IssuingCertificateURL[0], nil)
	var err error
	if p.issuer, err = x509.ParseCertificate(der); err != nil {
		t.Fatalf("issuer: %d %.80q: %v", status, der, err)
	}
	must(t, cert.CheckSignatureFrom(p.issuer))
	return p
}

// wants checks that CRL and OCSP say the same, by both methods.
func (p party) wants(t testing.TB, what string, revoked bool) {
	t.Helper()
	status, der := p.fetch(t, "GET", p.cert.CRLDistributionPoints[0], nil)
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatalf("CRL: %d %.80q: %v", status, der, err)
	}
	must(t, list.CheckSignatureFrom(p.issuer))
	listed := slices.ContainsFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool {
		return e.SerialNumber.Cmp(p.cert.SerialNumber) == 0 && e.ReasonCode == ocsp.KeyCompromise
	})
	if listed != revoked {
		t.Errorf("%s: on the CRL: %v, want %v", what, listed, revoked)
	}
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256} {
		question, err := ocsp.CreateRequest(p.cert, p.issuer, &ocsp.RequestOptions{Hash: hash})
		must(t, err)
		text := base64.StdEncoding.EncodeToString(question)
		for name, ask := range map[string]func() (int, []byte){
			"POST": func() (int, []byte) {
				return p.fetch(t, "POST", p.cert.OCSPServer[0], question, "Content-Type", "application/ocsp-request")
			},
			"GET":          func() (int, []byte) { return p.fetch(t, "GET", p.cert.OCSPServer[0]+"/"+url.QueryEscape(text), nil) },
			"GET, slashes": func() (int, []byte) { return p.fetch(t, "GET", p.cert.OCSPServer[0]+"/"+text, nil) },
			"GET, as a browser": func() (int, []byte) {
				return p.fetch(t, "GET", p.cert.OCSPServer[0]+"/"+text, nil, "Accept", "text/html", "Sec-Fetch-Site", "cross-site")
			},
		} {
			status, der := ask()
			resp, err := ocsp.ParseResponseForCert(der, p.cert, p.issuer)
			if err != nil {
				t.Errorf("%s: OCSP by %s: %d %.80q: %v", what, name, status, der, err)
				continue
			}
			want := ocsp.Good
			if revoked {
				want = ocsp.Revoked
			}
			if resp.Status != want || revoked && resp.RevocationReason != ocsp.KeyCompromise {
				t.Errorf("%s: OCSP by %s: status %d, reason %d, want %d", what, name, resp.Status, resp.RevocationReason, want)
			}
		}
	}
}

// refusedByOpenSSL wants OpenSSL to find the CRL by itself, and the certificate on it.
func (p party) refusedByOpenSSL(t *testing.T, what string) {
	t.Helper()
	dir := t.TempDir()
	for name, cert := range map[string]*x509.Certificate{"leaf.pem": p.cert, "issuer.pem": p.issuer} {
		must(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o600))
	}
	cmd := exec.CommandContext(t.Context(), tool(t, "openssl"), "verify", "-partial_chain", "-trusted", "issuer.pem", "-crl_check", "-crl_download", "leaf.pem")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "certificate revoked") {
		t.Errorf("%s: openssl, which downloads the CRL: %v\n%s", what, err, out)
	}
}

func TestARevocationShowsWhereTheCertificateSays(t *testing.T) {
	storagetest.AnyEngine(t)
	token := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(token, []byte(apiToken), 0o600))
	for name, serve := range map[string]func(t *testing.T) (url string, c *http.Client){
		"over TLS of its own authority": func(t *testing.T) (string, *http.Client) {
			s := start(t, t.TempDir(), "--bootstrap-token-file", token)
			return s.url, s.client
		},
		"over HTTP behind a proxy": func(t *testing.T) (string, *http.Client) {
			s := startProcess(t, "")
			return s.url, s.http
		},
	} {
		t.Run(name, func(t *testing.T) {
			at, client := serve(t)
			pool, err := keyPool()
			must(t, err)
			var link struct {
				ProfileURL string `json:"profile_url"`
			}
			decode(t, fetch(t, client, "POST", at+"/api/v1/enrollment-links", []byte(`{"login":"none"}`)), &link)
			d, err := mdmtest.NewDevice(mdmtest.Options{Keys: pool, PlainHTTP: true, Transport: client.Transport})
			must(t, err)
			must(t, d.Enroll(t.Context(), link.ProfileURL))
			identity, _ := d.Identity()

			fetch(t, client, "POST", at+"/api/v1/certificate-templates", []byte(
				`{"name":"printer","subject":"/O=Example/CN=printer","sans":{"dNSName":["printer.example.com"]},"validity":"1h","renew_before":"99%"}`))
			var made struct{ Token string }
			decode(t, fetch(t, client, "POST", at+"/api/v1/tokens", []byte(`{"name":"printers","scopes":["cert:any"]}`)), &made)
			csr, _ := printer(t, "printer")
			status, printed := party{Client: client}.fetch(t, "POST", at+"/api/csr?template=printer",
				pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), "Authorization", "Bearer "+made.Token)
			block, _ := pem.Decode(printed)
			if block == nil {
				t.Fatalf("/api/csr: %d %s", status, printed)
			}
			payload, err := x509.ParseCertificate(block.Bytes)
			must(t, err)

			parties := map[string]party{}
			for what, cert := range map[string]*x509.Certificate{"an identity": identity, "of a template": payload} {
				p := newParty(t, client, at, cert)
				p.wants(t, what, false)
				fetch(t, client, "POST", fmt.Sprintf("%s/api/v1/certificates/%x/revoke", at, cert.SerialNumber), []byte(`{"reason":"keyCompromise"}`))
				p.wants(t, what+", revoked", true)
				parties[what] = p
			}
			limits := party{Client: client}
			for what, tt := range map[string]struct {
				method, path string
				body         []byte
				want         int
			}{
				"5 KB to OCSP":             {"POST", "/ocsp", make([]byte, 5<<10), http.StatusRequestEntityTooLarge},
				"1 MB to OCSP":             {"POST", "/ocsp", make([]byte, 1<<20), http.StatusRequestEntityTooLarge},
				"garbage to OCSP":          {"POST", "/ocsp", []byte("garbage"), http.StatusOK},
				"OCSP without a question":  {"GET", "/ocsp", nil, http.StatusMethodNotAllowed},
				"PUT of a CRL":             {"PUT", "/crl/x.crl", nil, http.StatusMethodNotAllowed},
				"a CRL of nobody":          {"GET", "/crl/0123456789abcdef.crl", nil, http.StatusNotFound},
				"a certificate of nobody":  {"GET", "/ca/0123456789abcdef.cer", nil, http.StatusNotFound},
				"the identity CA, by name": {"GET", "/ca/identity.pem", nil, http.StatusOK},
			} {
				if got, body := limits.fetch(t, tt.method, at+tt.path, tt.body); got != tt.want {
					t.Errorf("%s: %d %.80q, want %d", what, got, body, tt.want)
				}
			}
			if strings.HasPrefix(at, "http:") { // OpenSSL fetches CRLs by nothing else
				for what, p := range parties {
					p.refusedByOpenSSL(t, what)
				}
			}
		})
	}
}

// The certificate that signs OCSP answers about identities is the identity CA's, too.
func TestTheSignerOfOCSPAnswersIsNoDevice(t *testing.T) {
	storagetest.AnyEngine(t)
	c := newComposed(t, nil)
	victim := c.enrolled(t, mdmtest.Options{})
	thief, s := c.installed(t)
	must(t, thief.RequestIdentity(t.Context()))
	r, err := c.state.depot.Responder(t.Context(), c.state.depot.Identity())
	must(t, err)
	own, key := thief.Identity()
	thief.SetIdentity(r.Certificate(), r.Signer())
	say := func(kind string, ids mdmtest.Dict) int {
		message := mdmtest.Dict{
			"MessageType": kind, "Topic": victim.Profile().MDM.Topic, "Token": []byte("t"), "PushMagic": "m",
			"Model": "x", "ModelName": "x", "DeviceName": "x", "SerialNumber": "x",
		}
		for k, v := range ids {
			message[k] = v
		}
		p, err := thief.PrepareCheckIn(message)
		must(t, err)
		return c.status(t, p)
	}
	for _, ids := range []mdmtest.Dict{thief.IDs(), victim.IDs()} {
		for _, kind := range []string{"Authenticate", "TokenUpdate", "CheckOut", "GetBootstrapToken"} {
			if got := say(kind, ids); got < 400 || got >= 500 || got == 401 || got == 410 {
				t.Errorf("%s of %v: %d, want a refusal", kind, ids, got)
			}
		}
	}
	// It renews nothing, either.
	renewal, err := thief.Request(s, thief.Profile(), mdmtest.WithSigner(r.Certificate(), r.Signer()), mdmtest.WithMessageType("17"), mdmtest.WithChallenge())
	must(t, err)
	if _, err := s.Send(t.Context(), renewal); err == nil {
		t.Error("it was renewed as an identity")
	}
	thief.SetIdentity(own, key)
	if got := say("Authenticate", thief.IDs()); got != 200 {
		t.Errorf("Authenticate by an identity: %d, want 200", got)
	}
	if _, err := victim.Idle(t.Context()); err != nil {
		t.Errorf("the device that was spoken for: %v", err)
	}
}
