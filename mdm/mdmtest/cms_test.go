package mdmtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// testKeys saves the tests from drawing two primes for each key.
var testKeys = sync.OnceValues(func() (*KeyPool, error) { return NewKeyPool(2048) })

func rsaKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	pool, err := testKeys()
	if err != nil {
		t.Fatal(err)
	}
	key, err := pool.Key()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certificateFor makes a certificate for key, self-signed without a parent.
func certificateFor(t testing.TB, key crypto.Signer, name string, parent *x509.Certificate, parentKey crypto.Signer) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-10 * time.Minute),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		BasicConstraintsValid: true,
	}
	if parent == nil {
		template.IsCA = true
		template.KeyUsage |= x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		parent, parentKey = template, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestSignedDataIsReadBack(t *testing.T) {
	rsaSigner, ecSigner := rsaKey(t), ecKey(t)
	rsaCert := certificateFor(t, rsaSigner, "rsa", nil, nil)
	ecCert := certificateFor(t, ecSigner, "ec", nil, nil)
	content := bytes.Repeat([]byte("content "), 200)
	for name, s := range map[string]Signature{
		"BER and RSA":           {Certificate: rsaCert, Key: rsaSigner},
		"DER and RSA":           {Certificate: rsaCert, Key: rsaSigner, Encoding: DER},
		"BER, detached":         {Certificate: rsaCert, Key: rsaSigner, Detached: true},
		"SHA-1":                 {Certificate: rsaCert, Key: rsaSigner, Digest: crypto.SHA1},
		"SHA-512 and ECDSA":     {Certificate: ecCert, Key: ecSigner, Digest: crypto.SHA512},
		"with a time and chain": {Certificate: ecCert, Key: ecSigner, SigningTime: time.Now(), Also: []*x509.Certificate{rsaCert}},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := s.Sign(content)
			if err != nil {
				t.Fatal(err)
			}
			sd, err := parseSignedData(raw)
			if err != nil {
				t.Fatal(err)
			}
			if sd.detached != s.Detached || !s.Detached && !bytes.Equal(sd.content, content) {
				t.Errorf("content: detached %t, %d bytes", sd.detached, len(sd.content))
			}
			if _, cert, err := sd.verify(content); err != nil || !cert.Equal(s.Certificate) {
				t.Errorf("verify: %v", err)
			}
			if _, _, err := sd.verify(append(content, 'x')); err == nil {
				t.Error("verify accepts other content")
			}
			if definite := mustParse(t, raw).definite; definite != (s.Encoding == DER) {
				t.Errorf("definite lengths: %t", definite)
			}
			openssl(t, raw, func(file string) []string {
				args := []string{"cms", "-verify", "-inform", "DER", "-in", file, "-noverify", "-binary"}
				if s.Detached {
					args = append(args, "-content", writeFile(t, "content", content))
				}
				return args
			}, content)
		})
	}
}

func TestBERIsChunkedAndIndefinite(t *testing.T) {
	key := rsaKey(t)
	raw, err := Signature{Certificate: certificateFor(t, key, "x", nil, nil), Key: key}.Sign(make([]byte, 2*berChunk+1))
	if err != nil {
		t.Fatal(err)
	}
	if want := []byte{0x30, 0x80, 0x06, 0x09}; !bytes.HasPrefix(raw, want) {
		t.Errorf("starts with % x, want % x", raw[:4], want)
	}
	content := mustParse(t, raw).children[1].children[0].children[2].children[1].children[0]
	if content.tag != tagOctets|tagConstructed || len(content.children) != 3 {
		t.Errorf("content has tag %#x and %d chunks, want a constructed string of 3", content.tag, len(content.children))
	}
	out := opensslOutput(t, "asn1parse", "-inform", "DER", "-in", writeFile(t, "raw", raw))
	if got := strings.Count(out, "l=inf"); got < 6 {
		t.Errorf("openssl asn1parse sees %d indefinite lengths, want at least 6", got)
	}
}

func TestEnvelope(t *testing.T) {
	key, other := rsaKey(t), rsaKey(t)
	cert := certificateFor(t, key, "recipient", nil, nil)
	content := []byte("sixteen byte blocks and a rest")
	for name, tt := range map[string]struct {
		algorithm string
		encoding  Encoding
	}{
		"AES-128 in BER": {oidAES128, BER},
		"AES-256 in DER": {oidAES256, DER},
		"triple DES":     {oidDES3, BER},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := envelope(content, cert, tt.algorithm, tt.encoding, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			got, err := openEnvelope(raw, cert, key, true)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("openEnvelope = %q, %v", got, err)
			}
			if _, err := openEnvelope(raw, cert, key, false); (err != nil) != (tt.algorithm == oidDES3) {
				t.Errorf("openEnvelope without triple DES: %v", err)
			}
			if _, err := openEnvelope(raw, certificateFor(t, other, "other", nil, nil), other, true); err == nil {
				t.Error("openEnvelope accepts an envelope to another certificate")
			}
			private, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			openssl(t, raw, func(file string) []string {
				return []string{"cms", "-decrypt", "-inform", "DER", "-binary", "-in", file,
					"-inkey", writeFile(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
					"-recip", writeFile(t, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))}
			}, content)
		})
	}
}

func TestCMSOfOpenSSLIsAccepted(t *testing.T) {
	key := ecKey(t)
	cert := certificateFor(t, key, "openssl", nil, nil)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	content := []byte("<plist/>")
	for name, extra := range map[string][]string{
		"definite":                nil,
		"indefinite":              {"-stream"},
		"no attributes, no chain": {"-noattr"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"cms", "-sign", "-nodetach", "-binary", "-outform", "DER", "-md", "sha384",
				"-in", writeFile(t, "content", content),
				"-inkey", writeFile(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
				"-signer", writeFile(t, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))}, extra...)
			sd, err := parseSignedData([]byte(opensslOutput(t, args...)))
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := sd.verify(sd.content); err != nil || !bytes.Equal(sd.content, content) {
				t.Errorf("verify: %v, content %q", err, sd.content)
			}
		})
	}
}

// X.690 8.1.5, 8.3.3, 8.14 and 8.19.5, and RFC 6025's kind of UTCTime.
func TestEncodingVectors(t *testing.T) {
	for name, tt := range map[string]struct {
		got  []byte
		want string
	}{
		"null":                              {der(tagNull), "0500"},
		"an object identifier":              {oid("2.999.3"), "0603883703"},
		"rsaEncryption":                     {oid(oidRSA), "06092a864886f70d010101"},
		"an integer that needs a zero":      {integer(big.NewInt(128)), "02020080"},
		"zero":                              {integer(new(big.Int)), "020100"},
		"a long form of length":             {der(tagOctets, make([]byte, 200))[:3], "0481c8"},
		"a set in order":                    {sortedSet(tagSet, []byte{2, 1, 2}, []byte{2, 1, 1}), "3106020101020102"},
		"a time of this century":            {utcTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)), "170d3236303130323033303430355a"},
		"a time after 2049":                 {utcTime(time.Date(2050, 1, 2, 3, 4, 5, 0, time.UTC)), "180f32303530303130323033303430355a"},
		"an indefinite, chunked string":     {BER.octets(tagOctets, []byte("Jones")), "24800405" + hex.EncodeToString([]byte("Jones")) + "0000"},
		"a name that fits PrintableString":  {text("Example (1)"), "130b" + hex.EncodeToString([]byte("Example (1)"))},
		"a name that needs UTF8String":      {text("Ö&"), "0c03c39626"},
		"an identifier that isn't one":      {oid("1.x"), ""},
		"an identifier that starts wrongly": {oid("9.9"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := hex.EncodeToString(tt.got); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestBERReaderRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"nothing":                       "",
		"a length beyond the end":       "0405aa",
		"an open indefinite length":     "3080020101",
		"an indefinite primitive":       "0480aa0000",
		"trailing bytes":                "050000",
		"a high tag number":             "1f8101",
		"a length of a length too long": "0489010101010101010101",
		"nesting beyond reason":         strings.Repeat("3080", 10000),
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := hex.DecodeString(in)
			if err != nil {
				t.Fatal(err)
			}
			if el, err := parseBER(raw); err == nil {
				t.Errorf("parseBER = %v, want an error", el)
			}
		})
	}
}

func FuzzParseCMS(f *testing.F) {
	f.Add([]byte{0x30, 0x80, 0x06, 0x01, 0x2a, 0xa0, 0x80, 0x30, 0x80, 0, 0, 0, 0, 0, 0})
	key := rsaKey(f)
	cert := certificateFor(f, key, "x", nil, nil)
	signed, err := Signature{Certificate: cert, Key: key}.Sign([]byte("x"))
	if err != nil {
		f.Fatal(err)
	}
	sealed, err := envelope([]byte("x"), cert, oidAES128, BER, rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, data []byte) {
		if sd, err := parseSignedData(data); err == nil {
			_, _, _ = sd.verify(sd.content) // must not panic
		}
		_, _ = openEnvelope(data, cert, key, true)
	})
}

func mustParse(t *testing.T, raw []byte) element {
	t.Helper()
	el, err := parseBER(raw)
	if err != nil {
		t.Fatal(err)
	}
	return el
}

func writeFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// openssl runs the command that args makes of a file holding raw, and compares
// what it prints.
func openssl(t *testing.T, raw []byte, args func(file string) []string, want []byte) {
	t.Helper()
	if got := opensslOutput(t, args(writeFile(t, "raw", raw))...); got != string(want) {
		t.Errorf("openssl printed %d bytes, want %d", len(got), len(want))
	}
}

func opensslOutput(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no openssl is installed, and CI skips nothing")
		}
		t.Skip("openssl is not installed")
	}
	cmd := exec.Command(path, args...)
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		t.Fatalf("openssl %s: %v\n%s", args[0], err, problem.String())
	}
	return out.String()
}
