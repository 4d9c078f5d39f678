package template_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
)

// made are a key and two certificates that expired in 2025.
var made = sync.OnceValue(func() (m struct {
	key        *ecdsa.PrivateKey
	root, leaf []byte
}) {
	var err error
	if m.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		panic(err)
	}
	for _, ca := range []bool{true, false} {
		cert := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Old Root"}, BasicConstraintsValid: true, IsCA: ca,
			NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC),
		}
		der, err := x509.CreateCertificate(rand.Reader, cert, cert, m.key.Public(), m.key)
		if err != nil {
			panic(err)
		}
		if ca {
			m.root = der
		} else {
			m.leaf = der
		}
	}
	return m
})

func rootDER() []byte { return made().root }
func leafDER() []byte { return made().leaf }

func inPEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func TestParseRoots(t *testing.T) {
	for name, tt := range map[string]struct {
		file []byte
		want int
	}{
		"DER":                  {rootDER(), 1},
		"PEM":                  {inPEM("CERTIFICATE", rootDER()), 1},
		"text around it":       {append([]byte("subject=Old Root\n"), inPEM("CERTIFICATE", rootDER())...), 1},
		"several, in one file": {bytes.Repeat(inPEM("CERTIFICATE", rootDER()), 3), 3},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := template.ParseRoots(tt.file)
			if err != nil || len(got) != tt.want || !bytes.Equal(got[0], rootDER()) {
				t.Errorf("ParseRoots = %d certificates, %v; want %d", len(got), err, tt.want)
			}
		})
	}
}

func TestParseRootsRefuses(t *testing.T) {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(made().key)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(made().key)
	if err != nil {
		t.Fatal(err)
	}
	root := inPEM("CERTIFICATE", rootDER())
	for name, tt := range map[string]struct {
		file []byte
		want string
	}{
		"nothing":                       {nil, "no certificate"},
		"any text":                      {[]byte("hello"), "no certificate"},
		"half a PEM":                    {root[:100], "no certificate"},
		"a private key":                 {inPEM("PRIVATE KEY", pkcs8), "private key"},
		"an EC key":                     {inPEM("EC PRIVATE KEY", sec1), "private key"},
		"an encrypted key":              {inPEM("ENCRYPTED PRIVATE KEY", []byte{1}), "private key"},
		"a key in DER":                  {pkcs8, "private key"},
		"an EC key in DER":              {sec1, "private key"},
		"a key after the certificate":   {append(bytes.Clone(root), inPEM("PRIVATE KEY", pkcs8)...), "private key"},
		"a key that is broken":          {append(bytes.Clone(root), "-----BEGIN PRIVATE KEY-----\nx"...), "private key"},
		"a request":                     {inPEM("CERTIFICATE REQUEST", []byte{1}), "CERTIFICATE REQUEST"},
		"a certificate of no authority": {inPEM("CERTIFICATE", leafDER()), "authority"},
		"more than 1 MB":                {append(bytes.Clone(root), make([]byte, 1<<20)...), "bytes"},
		"very many":                     {bytes.Repeat(root, 11), "more than 10"},
		"something after it":            {append(bytes.Clone(rootDER()), 0), "no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := template.ParseRoots(tt.file)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ParseRoots = %d certificates, %v; want an error with %q", len(got), err, tt.want)
			}
		})
	}
}

func TestParseFingerprint(t *testing.T) {
	s1, s256, s384 := sha1.Sum(rootDER()), sha256.Sum256(rootDER()), sha512.Sum384(rootDER())
	digits := hex.EncodeToString(s256[:])
	var colons []string
	for i := 0; i < len(digits); i += 2 {
		colons = append(colons, digits[i:i+2])
	}
	for name, tt := range map[string]struct {
		text string
		want []byte
	}{
		"digits":            {digits, s256[:]},
		"capitals, colons":  {strings.ToUpper(strings.Join(colons, ":")), s256[:]},
		"spaces":            {" " + strings.Join(colons, " ") + "\n", s256[:]},
		"dashes":            {strings.Join(colons, "-"), s256[:]},
		"as openssl prints": {"SHA256 Fingerprint=" + strings.ToUpper(strings.Join(colons, ":")), s256[:]},
		"with a label":      {"sha256:" + digits, s256[:]},
		"base64":            {base64.StdEncoding.EncodeToString(s256[:]), s256[:]},
		"base64 for URLs":   {base64.RawURLEncoding.EncodeToString(s256[:]), s256[:]},
		"SHA-1":             {hex.EncodeToString(s1[:]), s1[:]},
		"SHA-1 in base64":   {base64.StdEncoding.EncodeToString(s1[:]), s1[:]},
		"SHA-384":           {hex.EncodeToString(s384[:]), s384[:]},
		"the certificate":   {string(inPEM("CERTIFICATE", rootDER())), s256[:]},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := template.ParseFingerprint(tt.text)
			if err != nil || !bytes.Equal(got, tt.want) {
				t.Errorf("ParseFingerprint(%q) = %x, %v; want %x", tt.text, got, err, tt.want)
			}
		})
	}
	for name, tt := range map[string]struct{ text, want string }{
		"nothing":          {"", "no fingerprint"},
		"MD5":              {strings.Repeat("ab", 16), "MD5"},
		"MD5 in base64":    {base64.StdEncoding.EncodeToString(make([]byte, 16)), "MD5"},
		"another length":   {strings.Repeat("ab", 31), "no fingerprint"},
		"no encoding":      {"what?", "no fingerprint"},
		"a private key":    {"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "private key"},
		"two certificates": {strings.Repeat(string(inPEM("CERTIFICATE", rootDER())), 2), "several"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := template.ParseFingerprint(tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ParseFingerprint(%q) = %x, %v; want an error with %q", tt.text, got, err, tt.want)
			}
		})
	}
}
