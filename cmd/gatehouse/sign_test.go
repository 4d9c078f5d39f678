package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"path/filepath"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// issue makes a certificate; a nil parent makes it its own.
func issue(t *testing.T, name string, ca bool, parent *x509.Certificate, parentKey crypto.Signer) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"mdm.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: ca,
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert, key
}

func TestWhoSignsTheProfile(t *testing.T) {
	storagetest.AnyEngine(t)
	dir := t.TempDir()
	s, err := openState(t.Context(), config{dataDir: dir, secretsKeyFile: filepath.Join(dir, "secrets.key"), caKeyBits: 2048}, nil, slog.New(slog.DiscardHandler), time.Now)
	must(t, err)
	t.Cleanup(func() { must(t, s.close()) })
	ours := s.depot.Root().Certificate()

	root, rootKey := issue(t, "public root", true, nil, nil)
	middle, middleKey := issue(t, "intermediate", true, root, rootKey)
	leaf, leafKey := issue(t, "mdm.example.com", false, middle, middleKey)
	public, private := x509.NewCertPool(), x509.NewCertPool()
	public.AddCert(root)
	inUse := func(chain ...*x509.Certificate) *certificate {
		c := &certificate{}
		pair := &tls.Certificate{PrivateKey: leafKey, Leaf: chain[0]}
		for _, cert := range chain {
			pair.Certificate = append(pair.Certificate, cert.Raw)
		}
		c.current.Store(pair)
		return c
	}
	for name, tt := range map[string]struct {
		cert  *certificate
		roots *x509.CertPool
		now   time.Time
		want  *x509.Certificate
	}{
		"a TLS certificate of a public authority":  {inUse(leaf, middle), public, time.Now(), leaf},
		"one whose intermediate is missing":        {inUse(leaf), public, time.Now(), ours},
		"one of an authority that is not public":   {inUse(leaf, middle), private, time.Now(), ours},
		"one that has expired":                     {inUse(leaf, middle), public, time.Now().Add(2 * time.Hour), ours},
		"no TLS certificate, because a proxy does": {nil, public, time.Now(), ours},
	} {
		t.Run(name, func(t *testing.T) {
			plain := []byte(`<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict/></plist>`)
			signed, err := profileSigner(s.depot.Root, tt.cert, tt.roots, func() time.Time { return tt.now })(plain)
			must(t, err)
			got, signer, err := profile.Unwrap(signed)
			must(t, err)
			if !signer.Equal(tt.want) || string(got) != string(plain) {
				t.Errorf("signed by %v, want %v", signer.Subject, tt.want.Subject)
			}
		})
	}
}
