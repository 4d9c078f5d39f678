package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestOpenSSLAgreesAboutRevocations asks where the certificate says, by OCSP and by the
// CRL, before the revocation and at once after it.
func TestOpenSSLAgreesAboutRevocations(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	tool(t, "openssl")
	s := startProcess(t, "")
	var made struct{ Token string }
	s.api(t, "POST", "/tokens", map[string]any{"name": "scripts", "scopes": []string{"cert:any"}}, &made)
	s.staticTemplate(t, "web", "/O=Example/CN=$USERNAME", nil)
	root, issuing := s.authorityFiles(t, "web")
	issued := func() (file string) {
		t.Helper()
		csr, _ := opensslRequest(t, "-subj", "/O=Example/CN=www")
		status, cert := party{Client: s.http}.fetch(t, "POST", s.url+"/api/csr?template=web", []byte(contentOf(t, csr)), "Authorization", "Bearer "+made.Token)
		if status != 200 {
			t.Fatalf("/api/csr: %d %s", status, cert)
		}
		return fileOf(t, "cert.pem", cert)
	}
	// about is what openssl finds in the certificate, and what it prints before it.
	about := func(file string, form *regexp.Regexp, args ...string) string {
		t.Helper()
		out, err := openssl(t, append([]string{"x509", "-noout", "-in", file}, args...)...)
		found := form.FindStringSubmatch(out)
		if err != nil || found == nil {
			t.Fatalf("openssl x509 %q: %v\n%s", args, err, out)
		}
		return found[1]
	}
	cert, other := issued(), issued()
	responder := about(cert, regexp.MustCompile(`^(http://\S+)\n$`), "-ocsp_uri")
	list := about(cert, regexp.MustCompile(`URI:(\S+)`), "-ext", "crlDistributionPoints")
	issuer := certificateFile(t, fetch(t, s.http, "GET", about(cert, regexp.MustCompile(`CA Issuers - URI:(\S+)`), "-ext", "authorityInfoAccess"), nil))
	if !readCertificate(t, issuer).Equal(readCertificate(t, issuing)) {
		t.Error("the certificate names another issuer than that at /scep/web")
	}
	rootList := fileOf(t, "root.crl", fetch(t, s.http, "GET", fmt.Sprintf("%s/crl/%x.pem", s.url, readCertificate(t, root).SubjectKeyId[:8]), nil))
	// check has openssl judge a certificate, by a CRL in a file and by one that it fetches.
	check := func(when, file string, revoked bool) {
		t.Helper()
		crl := filepath.Join(t.TempDir(), "crl.pem")
		if out, err := openssl(t, "crl", "-inform", "DER", "-in", fileOf(t, "list.crl", fetch(t, s.http, "GET", list, nil)), "-CAfile", issuing, "-out", crl); err != nil || !strings.Contains(out, "verify OK") {
			t.Errorf("%s: openssl crl: %v\n%s", when, err, out)
		}
		for _, source := range [][]string{{"-CRLfile", crl}, {"-crl_download"}, {"-crl_check_all", "-CRLfile", crl, "-CRLfile", rootList}} {
			args := append([]string{"verify", "-x509_strict", "-crl_check", "-CAfile", root, "-untrusted", issuing}, source...)
			out, err := openssl(t, append(args, file)...)
			if (err != nil) != revoked || strings.Contains(out, "certificate revoked") != revoked {
				t.Errorf("%s: openssl %q: %v\n%s", when, args, err, out)
			}
		}
		want := ": good\n"
		if revoked {
			want = ": revoked\n"
		}
		for _, options := range [][]string{{}, {"-no_nonce"}, {"-sha256"}, {"-sha384", "-no_nonce"}} {
			args := append([]string{"ocsp", "-issuer", issuing, "-CAfile", root, "-url", responder, "-text"}, options...) // what -sha256 is about comes after it
			out, err := openssl(t, append(args, "-cert", file)...)
			if err != nil || !strings.Contains(out, "Response verify OK") || !strings.Contains(out, file+want) ||
				strings.Contains(out, "Reason: keyCompromise") != revoked || strings.Contains(out, "WARNING") {
				t.Errorf("%s: openssl %q: %v\n%s", when, args, err, out)
			}
		}
	}
	check("when it is issued", cert, false)
	s.api(t, "POST", "/certificates/"+about(cert, regexp.MustCompile(`serial=(\S+)`), "-serial")+"/revoke", map[string]any{"reason": "keyCompromise"}, nil)
	check("when it is revoked", cert, true)
	check("when another one is", other, false)

	out, err := openssl(t, "ocsp", "-issuer", issuing, "-CAfile", root, "-url", responder, "-serial", "0x1234")
	if err != nil || !strings.Contains(out, "0x1234: unknown") {
		t.Errorf("a certificate that there is not: %v\n%s", err, out)
	}
}

// TestOpenSSLReadsASCEPReply takes a reply apart that the simulated device has asked for.
func TestOpenSSLReadsASCEPReply(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	tool(t, "openssl")
	s := startProcess(t, "")
	s.staticTemplate(t, "web", "/O=Example/CN=$USERNAME", nil)
	root, issuing := s.authorityFiles(t, "web")
	pool, err := keyPool()
	must(t, err)
	for _, encoding := range []mdmtest.Encoding{mdmtest.BER, mdmtest.DER} {
		key, err := pool.Key()
		must(t, err)
		client := &mdmtest.SCEP{URL: s.url + "/scep/web", Name: "web", HTTP: s.http, Encoding: encoding, Now: time.Now, Rand: rand.Reader}
		must(t, client.Discover(t.Context()))
		r, err := client.Request(key, mdmtest.Subject{{{"O", "Example"}}, {{"CN", "www"}}}, staticChallenge, nil)
		must(t, err)
		_, reply, err := client.Operate(t.Context(), r.Raw, mdmtest.POST)
		must(t, err)
		file := fileOf(t, "reply.der", reply)

		shown, err := openssl(t, "cms", "-cmsout", "-print", "-noout", "-inform", "DER", "-in", file)
		must(t, err)
		for name, want := range map[string]string{
			"messageType":   `9\.2\)\s+set:\s+PRINTABLESTRING:3\n`,
			"pkiStatus":     `9\.3\)\s+set:\s+PRINTABLESTRING:0\n`,
			"transactionID": `9\.7\)\s+set:\s+PRINTABLESTRING:` + regexp.QuoteMeta(r.TransactionID) + `\n`,
		} {
			if !regexp.MustCompile(want).MatchString(shown) {
				t.Errorf("openssl shows no %s as it must be, %s:\n%s", name, want, shown)
			}
		}
		opened := converted(t, "cms", file, "-verify", "-binary", "-inform", "DER", "-purpose", "any", "-CAfile", root, "-certfile", issuing)
		plain := converted(t, "cms", opened, "-decrypt", "-binary", "-inform", "DER", "-inkey", rsaFile(t, key))
		verified(t, root, issuing, converted(t, "pkcs7", plain, "-inform", "DER", "-print_certs"))
	}
}

// rsaFile writes a key to a file.
func rsaFile(t *testing.T, key *rsa.PrivateKey) string {
	t.Helper()
	// The larger prime comes first, as openssl writes them. strongSwan hands the second
	// to libgcrypt as the smaller one without a look: were it the larger, some 5 % of its
	// signatures would be invalid, and as many answers unreadable for it.
	if p, q := key.Primes[0], key.Primes[1]; p.Cmp(q) < 0 {
		ordered := &rsa.PrivateKey{PublicKey: key.PublicKey, D: key.D, Primes: []*big.Int{q, p}}
		ordered.Precompute()
		must(t, ordered.Validate())
		key = ordered
	}
	return fileOf(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
}
