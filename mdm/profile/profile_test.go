package profile_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

// opaque hides the key, as a key store does.
type opaque struct{ inner crypto.Signer }

func (o opaque) Public() crypto.PublicKey { return o.inner.Public() }
func (o opaque) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return o.inner.Sign(r, digest, opts)
}

func issue(t testing.TB, name string, public crypto.PublicKey, parent *x509.Certificate, by crypto.Signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		BasicConstraintsValid: true,
		IsCA:                  parent == nil,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func keys(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"RSA": rsaKey, "ECDSA P-256": p256, "ECDSA P-384": p384, "a key store's RSA": opaque{rsaKey}, "a key store's ECDSA": opaque{p256}}
}

func TestSignedProfilesComeOutOfTheirEnvelope(t *testing.T) {
	plain, err := enrollment(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range keys(t) {
		t.Run(name, func(t *testing.T) {
			root := issue(t, "root", key.Public(), nil, key)
			leaf := issue(t, "leaf", key.Public(), root, key)
			signed, err := profile.Sign(plain, leaf, key, root)
			if err != nil {
				t.Fatal(err)
			}
			got, signer, err := profile.Unwrap(signed)
			if err != nil {
				t.Fatalf("Unwrap: %v", err)
			}
			if !bytes.Equal(got, plain) || !signer.Equal(leaf) {
				t.Errorf("Unwrap gives %d bytes by %v, want %d by %v", len(got), signer.Subject, len(plain), leaf.Subject)
			}
			identifier, err := profile.Identifier(signed)
			if want := enrollment(t).Identifier; identifier != want || err != nil {
				t.Errorf("Identifier = %q, %v; want %q", identifier, err, want)
			}
			t.Run("openssl agrees", func(t *testing.T) { verifyWithOpenSSL(t, signed, plain, root) })
		})
	}
}

func verifyWithOpenSSL(t *testing.T, signed, plain []byte, root *x509.Certificate) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no openssl is installed, and CI skips nothing")
		}
		t.Skip("no openssl on this machine")
	}
	dir := t.TempDir()
	in, anchor, out := filepath.Join(dir, "signed"), filepath.Join(dir, "root.pem"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, signed, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(anchor, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(openssl, "cms", "-verify", "-binary", "-inform", "DER", "-in", in, "-CAfile", anchor, "-purpose", "any", "-out", out)
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("openssl cms -verify: %v\n%s", err, output)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, plain) {
		t.Errorf("openssl reads %q, want %q", got, plain)
	}
}

func TestSignRefusesAKeyThatIsNotTheCertificates(t *testing.T) {
	all := keys(t)
	cert := issue(t, "leaf", all["RSA"].Public(), nil, all["RSA"])
	if _, err := profile.Sign([]byte("x"), cert, all["ECDSA P-256"]); err == nil {
		t.Error("Sign with another key did not fail")
	}
}

func TestUnwrapRefuses(t *testing.T) {
	plain, err := enrollment(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	key := keys(t)["ECDSA P-256"]
	cert := issue(t, "leaf", key.Public(), nil, key)
	sign := func(content []byte) []byte {
		signed, err := profile.Sign(content, cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	for name, data := range map[string][]byte{
		"nothing":              nil,
		"no property list":     []byte("hello"),
		"a binary one":         []byte("bplist00\xd0"),
		"a changed one":        bytes.Replace(sign(plain), []byte("Example enrollment"), []byte("Exemple enrollment"), 1),
		"a signed non-profile": sign([]byte("hello")),
		"half an envelope":     sign(plain)[:200],
	} {
		t.Run(name, func(t *testing.T) {
			if got, _, err := profile.Unwrap(data); !errors.Is(err, profile.ErrNotProfile) {
				t.Errorf("Unwrap = %q, %v; want ErrNotProfile", got, err)
			}
		})
	}
	if got, signer, err := profile.Unwrap(plain); err != nil || signer != nil || !bytes.Equal(got, plain) {
		t.Errorf("Unwrap of an unsigned profile = %d bytes, %v, %v", len(got), signer, err)
	}
}

func TestIdentifier(t *testing.T) {
	for name, tt := range map[string]struct{ raw, want string }{
		"a profile":       {`<plist><dict><key>PayloadType</key><string>Configuration</string><key>PayloadIdentifier</key><string>com.example</string></dict></plist>`, "com.example"},
		"a bare payload":  {`<plist><dict><key>PayloadType</key><string>Profile Service</string><key>PayloadIdentifier</key><string>com.example</string></dict></plist>`, ""},
		"without a name":  {`<plist><dict><key>PayloadType</key><string>Configuration</string></dict></plist>`, ""},
		"a list":          {`<plist><array/></plist>`, ""},
		"an empty string": {``, ""},
		"a lone sequence": {"\x30\x00", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := profile.Identifier([]byte(tt.raw))
			if got != tt.want || errors.Is(err, profile.ErrNotProfile) != (tt.want == "") {
				t.Errorf("Identifier(%q) = %q, %v; want %q", tt.raw, got, err, tt.want)
			}
		})
	}
}

func FuzzIdentifier(f *testing.F) {
	plain, err := enrollment(f).Encode()
	if err != nil {
		f.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	signed, err := profile.Sign(plain, issue(f, "leaf", key.Public(), nil, key), key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add(signed)
	f.Add([]byte{0x30, 0x80, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if name, err := profile.Identifier(data); (name == "") == (err == nil) {
			t.Errorf("Identifier = %q, %v", name, err)
		}
		if plist, _, err := profile.Unwrap(data); (plist == nil) == (err == nil) {
			t.Errorf("Unwrap = %q, %v", plist, err)
		}
	})
}
