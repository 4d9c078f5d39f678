package main

import (
	"crypto/x509"
	"encoding/pem"
	"path/filepath"
	"testing"
)

// staticChallenge is that of the templates that staticTemplate makes.
const staticChallenge = "a static challenge"

// staticTemplate makes a certificate template for clients that the server does not
// manage. By the time that a certificate of it is issued it may be renewed, since it
// begins some minutes earlier.
func (s *serverProcess) staticTemplate(t *testing.T, name, subject string, sans map[string]any) {
	t.Helper()
	s.api(t, "POST", "/certificate-templates", map[string]any{
		"name": name, "subject": subject, "sans": sans, "challenge_type": "static", "challenge": staticChallenge,
		"validity": "1h", "renew_before": "99%",
	}, nil)
}

// authorityFiles has the root, and the authority below it that issues for a template,
// each in a file.
func (s *serverProcess) authorityFiles(t *testing.T, template string) (root, issuing string) {
	t.Helper()
	root = fileOf(t, "root.pem", fetch(t, s.http, "GET", s.url+"/ca.pem", nil))
	return root, certificateFile(t, fetch(t, s.http, "GET", s.url+"/scep/"+template+"?operation=GetCACert", nil))
}

// certificateFile writes a certificate to a file in PEM.
func certificateFile(t *testing.T, der []byte) string {
	t.Helper()
	return fileOf(t, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// keyFile writes a new RSA key to a file.
func keyFile(t *testing.T) string {
	t.Helper()
	pool, err := keyPool()
	must(t, err)
	key, err := pool.Key()
	must(t, err)
	return rsaFile(t, key)
}

// verified has openssl judge the certificate in a file by all its rules.
func verified(t *testing.T, root, issuing, file string, args ...string) {
	t.Helper()
	args = append([]string{"verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", root, "-untrusted", issuing}, args...)
	if out, err := openssl(t, append(args, file)...); err != nil {
		t.Errorf("openssl %q on %s: %v\n%s", args, filepath.Base(file), err, out)
	}
}

// renews checks that one certificate is the successor of another.
func renews(t *testing.T, renewed, old *x509.Certificate) {
	t.Helper()
	if renewed.SerialNumber.Cmp(old.SerialNumber) == 0 {
		t.Errorf("the certificate %x was not replaced", old.SerialNumber)
	}
	if renewed.Subject.String() != old.Subject.String() || len(renewed.DNSNames) != len(old.DNSNames) {
		t.Errorf("the new certificate is for %s %v, the old one for %s %v", renewed.Subject, renewed.DNSNames, old.Subject, old.DNSNames)
	}
}
