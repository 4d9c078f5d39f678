package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestPushCertificatesOnTheCommandLine goes from the first request to a renewal, by the
// commands of docs/push.md, with somebody who stands for Apple.
func TestPushCertificatesOnTheCommandLine(t *testing.T) {
	storagetest.AnyEngine(t)
	const topic = "com.apple.mgmt.External.1"
	s := start(t, t.TempDir())
	dir := t.TempDir()
	call := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		var out, errs strings.Builder
		args = slices.Concat([]string{"pushcert"}, args, []string{"--data-dir", s.dir})
		if code := run(t.Context(), args, nil, strings.NewReader("secret\n"), &out, &errs); code != want {
			t.Fatalf("%v = %d, want %d\n%s\n%s", args, code, want, &out, &errs)
		}
		return out.String(), errs.String()
	}
	says := func(text string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("it says %q, want %q in it", text, w)
			}
		}
	}
	file := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	apple, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	certify := func(cn, topic string, public any) []byte {
		t.Helper()
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), Subject: pkix.Name{CommonName: cn}}
		if topic != "" {
			tmpl.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, Value: topic}}
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, public, apple)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	requested := func(csr []byte) any {
		t.Helper()
		block, _ := pem.Decode(csr)
		if block == nil {
			t.Fatalf("%q is no CSR", csr)
		}
		r, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return r.PublicKey
	}

	out, _ := call(exitDone, "list")
	says(out, "There is no push certificate", "gatehouse pushcert csr")
	csr, next := call(exitDone, "csr", "--apple-account", "it@example.com", "--cn", "mdm.example.com", "--country", "DE")
	says(next, "Request ", "MDM vendor", "identity.apple.com/pushcert")
	push := file("push.pem", certify("APSP:1", topic, requested([]byte(csr))))
	out, _ = call(exitDone, "upload", push)
	says(out, topic+" is active until", "not Apple")
	out, _ = call(exitDone, "list")
	says(out, "TOPIC", topic, "active, default", "it@example.com")

	// A renewal, signed by a vendor's certificate that is kept here.
	_, refused := call(exitFailed, "vendor")
	says(refused, "no vendor certificate")
	vendor := file("vendor.pem", certify("MDM Vendor: Example", "", apple.Public()))
	key := file("vendor.key", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(apple)}))
	out, _ = call(exitDone, "vendor", "--certificate", vendor, "--key", key)
	says(out, "MDM Vendor: Example signs requests until", "gatehouse pushcert vendor -o")
	made := filepath.Join(dir, "push.plist.b64")
	_, next = call(exitDone, "vendor", "--renews", topic, "-o", made)
	says(next, "as it@example.com, press Renew")
	if data, err := os.ReadFile(made); err != nil || len(data) < 1000 {
		t.Errorf("%s has %d bytes, %v", made, len(data), err)
	}
	renewal, _ := call(exitDone, "csr", "--renews", topic, "--json")
	var again struct{ CSR string }
	if err := json.Unmarshal([]byte(renewal), &again); err != nil {
		t.Fatal(err)
	}
	out, _ = call(exitDone, "upload", file("next.pem", certify("APSP:1", topic, requested([]byte(again.CSR)))), "--later")
	says(out, topic+" is active until", "gatehouse pushcert activate "+topic)
	out, _ = call(exitDone, "activate", topic)
	says(out, topic+" is active until")
	_, refused = call(exitFailed, "activate", topic)
	says(refused, "No certificate of the topic waits")

	// Mistakes say what to do.
	_, refused = call(exitUsage, "upload", made)
	says(refused, "the request for Apple", "Upload it at identity.apple.com/pushcert")
	_, refused = call(exitUsage, "upload", vendor, "--key", key)
	says(refused, "MDM vendor")
	_, refused = call(exitUsage, "upload", push, "--key", "-", "--password-file", "-")
	says(refused, "standard input")
	_, refused = call(exitUsage, "mdmcert")
	says(refused, "--email and --api-key-file")
	_, refused = call(exitUsage, "mdmcert", "some-request")
	says(refused, "the mailed file is missing")
	_, refused = call(exitUsage, "delete", "1")
	says(refused, "gatehouse pushcert list")
	call(exitNotFound, "delete", "com.apple.mgmt.External.none")

	call(exitDone, "vendor", "--forget")
	call(exitDone, "delete", topic)
	out, _ = call(exitDone, "list")
	says(out, "There is no push certificate")
}
