package main

import (
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestCertificatesMayBeAskedAboutWithoutTLS(t *testing.T) {
	storagetest.AnyEngine(t)
	file := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(file, []byte(apiToken), 0o600))
	s := start(t, t.TempDir(), "--bootstrap-token-file", file, "--log-format", "json",
		"--pki-url", "http://pki.example.com/gatehouse", "--pki-listen", "127.0.0.1:0")
	found := regexp.MustCompile(`asked about without TLS","listen":"([^"]+)"`).FindStringSubmatch(s.out.String())
	if found == nil {
		t.Fatalf("the log does not say where:\n%s", s.out)
	}
	at := "http://" + found[1]

	var made struct{ Token string }
	decode(t, fetch(t, s.client, "POST", s.url+"/api/v1/tokens", []byte(`{"name":"printers","scopes":["cert:any"]}`)), &made)
	der, _ := printer(t, "printer")
	status, issued := party{Client: s.client}.fetch(t, "POST", s.url+"/api/csr", der, "Authorization", "Bearer "+made.Token)
	if status != http.StatusOK {
		t.Fatalf("/api/csr: %d %s", status, issued)
	}
	cert, err := x509.ParseCertificate(issued)
	must(t, err)
	path, ok := strings.CutPrefix(cert.CRLDistributionPoints[0], "http://pki.example.com/gatehouse")
	if !ok || !slices.Equal(cert.OCSPServer, []string{"http://pki.example.com/gatehouse/ocsp"}) {
		t.Errorf("the certificate says %v and %v", cert.CRLDistributionPoints, cert.OCSPServer)
	}
	for what, tt := range map[string]struct {
		path   string
		status int
	}{
		"the CRL": {path, 200}, "its issuer": {strings.NewReplacer("/crl/", "/ca/", ".crl", ".cer").Replace(path), 200}, "garbage for OCSP": {"/ocsp/AAAA", 200},
		"the API": {"/api/v1/devices", 404}, "the portal": {"/enroll", 404}, "SCEP": {"/scep?operation=GetCACaps", 404}, "the first page": {"/", 404}, "what is not quite OCSP": {"/ocspx", 404},
	} {
		resp, err := http.Get(at + tt.path)
		must(t, err)
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != tt.status {
			t.Errorf("%s: %s: %s", what, resp.Status, body)
		}
		if what == "the CRL" {
			if _, err := x509.ParseRevocationList(body); err != nil {
				t.Error(err)
			}
		}
	}
}
