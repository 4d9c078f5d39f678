package depot_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// organisation is a root that is not ours, and issuers below it.
type organisation struct {
	root, issuer       *x509.Certificate
	rootKey, issuerKey *rsa.PrivateKey
}

func newOrganisation(t testing.TB) organisation {
	t.Helper()
	var o organisation
	o.rootKey, o.issuerKey = keys()[0], keys()[1]
	o.root = someCA(t, nil, o.rootKey.Public(), o.rootKey, func(c *x509.Certificate) { c.Subject.CommonName = "Example Root" })
	o.issuer = someCA(t, o.root, o.issuerKey.Public(), o.rootKey, func(c *x509.Certificate) { c.Subject.CommonName = "Example Issuer" })
	return o
}

// someCA makes an authority's certificate as a test likes it; without a parent it
// issues itself.
func someCA(t testing.TB, parent *x509.Certificate, pub crypto.PublicKey, by crypto.Signer, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "Example CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(5, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLen: -1,
	}
	if change != nil {
		change(c)
	}
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func certPEM(certs ...*x509.Certificate) (out []byte) {
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func keyPEM(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func TestImportedAuthorities(t *testing.T) {
	storagetest.AnyEngine(t)
	o := newOrganisation(t)
	pkcs1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(o.issuerKey)})
	//lint:ignore SA1019 it is what people have
	legacy, err := x509.EncryptPEMBlock(rand.Reader, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(o.issuerKey), []byte("secret"), x509.PEMCipherAES256)
	if err != nil {
		t.Fatal(err)
	}
	modern, err := pkcs12.Modern.Encode(o.issuerKey, o.issuer, []*x509.Certificate{o.root}, "sécret")
	if err != nil {
		t.Fatal(err)
	}
	old, err := pkcs12.LegacyRC2.Encode(o.issuerKey, o.issuer, []*x509.Certificate{o.root}, "secret")
	if err != nil {
		t.Fatal(err)
	}
	both := certPEM(o.issuer, o.root)
	for name, in := range map[string]depot.Import{
		"PKCS #8":                      {Data: slices.Concat(both, keyPEM(t, o.issuerKey))},
		"PKCS #1, key first":           {Data: slices.Concat(pkcs1, both)},
		"the root first":               {Data: slices.Concat(certPEM(o.root, o.issuer), pkcs1)},
		"with text around":             {Data: slices.Concat([]byte("subject=CN = Example\r\n"), both, []byte("\nBag Attributes\n"), pkcs1)},
		"legacy encrypted PEM":         {Data: slices.Concat(both, pem.EncodeToMemory(legacy)), Passphrase: "secret"},
		"PKCS #12 of today":            {Data: modern, Passphrase: "sécret"},
		"PKCS #12 as macOS exports it": {Data: old, Passphrase: "secret"},
		"a passphrase that none needs": {Data: slices.Concat(both, pkcs1), Passphrase: "secret"},
	} {
		t.Run(name, func(t *testing.T) {
			db := storagetest.Open(t)
			d := open(t, config(t, db))
			a, err := d.Import(t.Context(), "payload", in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !a.Imported() || a.State() != depot.StateNext || !a.Certificate().Equal(o.issuer) || a.Name() != "payload" {
				t.Errorf("it is %s, of %q", a.State(), a.Certificate().Subject)
			}
			activate(t, d, db, a.ID())
			cert := issued(t, d, db, d.Payload(), template(time.Now()), depot.Certificate{Template: "wifi"})
			if err := cert.CheckSignatureFrom(o.issuer); err != nil {
				t.Error(err)
			}
			// As after a restart.
			again := open(t, config(t, db))
			if chain := again.Payload().Chain(); len(chain) != 2 || !chain[1].Equal(o.root) {
				t.Errorf("its chain has %d certificates", len(chain))
			}
			anchors := again.Anchors()
			if len(anchors) != 2 || !anchors[0].Equal(again.Root().Certificate()) || !anchors[1].Equal(o.root) {
				t.Errorf("%d anchors", len(anchors))
			}
			if crl, _ := list(t, again, again.Payload()); len(serials(crl)) != 0 {
				t.Error("its CRL is not empty")
			}
		})
	}
}

func TestKeysAsOpenSSLEncryptsThem(t *testing.T) {
	storagetest.AnyEngine(t)
	o := newOrganisation(t)
	for name, args := range map[string]string{
		"AES-256, SHA-256": "-v2 aes-256-cbc",
		"AES-128, SHA-512": "-v2 aes-128-cbc -v2prf hmacWithSHA512",
		"AES-192, SHA-1":   "-v2 aes-192-cbc -v2prf hmacWithSHA1",
		"3DES, SHA-384":    "-v2 des3 -v2prf hmacWithSHA384",
		"many iterations":  "-v2 aes-256-cbc -iter 200000",
	} {
		t.Run(name, func(t *testing.T) {
			text := openssl(t, map[string][]byte{"key": keyPEM(t, o.rootKey)}, "openssl pkcs8 -topk8 "+args+" -in key -passout pass:secret")
			data := slices.Concat(certPEM(o.root), []byte(text))
			d := open(t, config(t, storagetest.Open(t)))
			for passphrase, field := range map[string]string{"": "passphrase", "wrong": "passphrase"} {
				wantField(t, importInto(t, d, "root", depot.Import{Data: data, Passphrase: passphrase}), field, "")
			}
			if err := importInto(t, d, "root", depot.Import{Data: data, Passphrase: "secret"}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func importInto(t testing.TB, d *depot.Depot, name string, in depot.Import) error {
	t.Helper()
	_, err := d.Import(t.Context(), name, in, nil)
	return err
}

// wantField says that err must be of a field, and say something.
func wantField(t testing.TB, err error, field, says string) {
	t.Helper()
	var wrong *depot.FieldError
	if !errors.As(err, &wrong) || wrong.Field != field || !strings.Contains(wrong.Reason, says) {
		t.Errorf("the error is %v, want one of field %q that says %q", err, field, says)
	}
}

func TestImportsThatAreRefused(t *testing.T) {
	storagetest.AnyEngine(t)
	o := newOrganisation(t)
	key := keyPEM(t, o.rootKey)
	with := func(change func(*x509.Certificate)) []byte {
		return slices.Concat(certPEM(someCA(t, nil, o.rootKey.Public(), o.rootKey, change)), key)
	}
	p12, err := pkcs12.Modern.WithIterations(100_000).Encode(o.rootKey, o.root, nil, "secret")
	if err != nil {
		t.Fatal(err)
	}
	hundredThousand := []byte{0x02, 0x03, 0x01, 0x86, 0xa0}
	bomb := func(nth int) []byte {
		out, from := slices.Clone(p12), 0
		for range nth {
			from += bytes.Index(out[from:], hundredThousand) + 1
		}
		out[from+1] = 0x7f // of three bytes: 8.4 million
		return out
	}
	if n := bytes.Count(p12, hundredThousand); n != 3 {
		t.Fatalf("the PKCS #12 file has %d numbers of iterations, want 3", n)
	}
	ec := deviceKey(t)
	ecRoot := someCA(t, nil, ec.Public(), ec, nil)
	small := func() (*x509.Certificate, []byte) {
		key, err := rsa.GenerateKey(rand.Reader, 1024)
		if err != nil {
			t.Skip(err)
		}
		return someCA(t, nil, key.Public(), key, nil), keyPEM(t, key)
	}
	smallCert, smallKey := small()
	certsOnly, err := pkcs12.Modern.EncodeTrustStore([]*x509.Certificate{o.root}, "secret")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		role        string // "identity" if empty
		data        []byte
		passphrase  string
		field, says string
	}{
		"nothing":                    {data: []byte(" \n"), field: "data", says: "empty"},
		"more than a MiB":            {data: make([]byte, 1<<20+1), field: "data", says: "1 MiB"},
		"text":                       {data: []byte("hello"), field: "data", says: "neither PEM nor PKCS #12"},
		"DER of something else":      {data: o.root.Raw, passphrase: "x", field: "data", says: "PKCS #12"},
		"a certificate alone":        {data: certPEM(o.root), field: "key", says: "missing"},
		"a key alone":                {data: key, field: "certificate", says: "missing"},
		"certificates in PKCS #12":   {data: certsOnly, passphrase: "secret", field: "key", says: "missing"},
		"two keys":                   {data: slices.Concat(certPEM(o.root), key, key), field: "key", says: "several"},
		"another's key":              {data: slices.Concat(certPEM(o.root), keyPEM(t, o.issuerKey)), field: "key", says: "not that of the certificate"},
		"a request":                  {data: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte{1}}), field: "certificate", says: "request"},
		"a public key":               {data: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte{1}}), field: "data", says: "PUBLIC KEY"},
		"a damaged certificate":      {data: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}), field: "certificate", says: "can't be read"},
		"a damaged key":              {data: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}), field: "key", says: "can't be read"},
		"a passphrase of 2 KB":       {data: p12, passphrase: strings.Repeat("x", 2048), field: "passphrase", says: "1024"},
		"no passphrase":              {data: p12, field: "passphrase", says: "missing"},
		"the wrong passphrase":       {data: p12, passphrase: "wrong", field: "passphrase", says: "wrong"},
		"a bomb in the first place":  {data: bomb(1), passphrase: "secret", field: "data", says: "hashed too often"},
		"a bomb in the second place": {data: bomb(2), passphrase: "secret", field: "data", says: "hashed too often"},
		"a bomb in the MAC":          {data: bomb(3), passphrase: "secret", field: "data", says: "hashed too often"},
		"an end entity":              {data: with(func(c *x509.Certificate) { c.IsCA, c.MaxPathLen = false, 0 }), field: "certificate", says: "end entity"},
		"no keyCertSign":             {data: with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), field: "certificate", says: "keyCertSign"},
		"no cRLSign":                 {data: with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign }), field: "certificate", says: "cRLSign"},
		"no key usage at all":        {data: with(func(c *x509.Certificate) { c.KeyUsage = 0 }), field: "certificate", says: "keyCertSign"},
		"expired":                    {data: with(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), field: "certificate", says: "expired"},
		"not valid yet":              {data: with(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), field: "certificate", says: "not valid before"},
		"no common name":             {data: with(func(c *x509.Certificate) { c.Subject = pkix.Name{Organization: []string{"Example"}} }), field: "certificate", says: "common name"},
		"for TLS servers only":       {data: with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), field: "certificate", says: "extended key usages"},
		"for some names only":        {data: with(func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.com"} }), field: "certificate", says: "names"},
		"a root with no room below":  {role: "root", data: with(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }), field: "certificate", says: "path length"},
		"an issuer as the root":      {role: "root", data: slices.Concat(certPEM(o.issuer, o.root), keyPEM(t, o.issuerKey)), field: "certificate", says: "root's"},
		"an issuer alone":            {role: "payload", data: slices.Concat(certPEM(o.issuer), keyPEM(t, o.issuerKey)), field: "certificate", says: `"CN=Example Root" is missing`},
		"ECDSA where SCEP is spoken": {role: "payload", data: slices.Concat(certPEM(ecRoot), keyPEM(t, ec)), field: "certificate", says: "RSA"},
		"RSA of 1024 bits":           {data: slices.Concat(certPEM(smallCert), smallKey), field: "certificate", says: "2048"},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.role == "" {
				tt.role = "identity"
			}
			d := open(t, config(t, storagetest.Open(t)))
			wantField(t, importInto(t, d, tt.role, depot.Import{Data: tt.data, Passphrase: tt.passphrase}), tt.field, tt.says)
			if d.Next(tt.role) != nil {
				t.Error("it is the next authority all the same")
			}
		})
	}
}

func TestAnAuthorityIsImportedOnce(t *testing.T) {
	storagetest.AnyEngine(t)
	o := newOrganisation(t)
	d := open(t, config(t, storagetest.Open(t)))
	in := depot.Import{Data: slices.Concat(certPEM(o.root), keyPEM(t, o.rootKey))}
	if err := importInto(t, d, "identity", in); err != nil {
		t.Fatal(err)
	}
	if err := importInto(t, d, "root", in); !errors.Is(err, depot.ErrAuthorityHere) {
		t.Errorf("for another purpose = %v, want %v", err, depot.ErrAuthorityHere)
	}
	if err := importInto(t, d, "identity", in); !errors.Is(err, depot.ErrNextExists) {
		t.Errorf("again = %v, want %v", err, depot.ErrNextExists)
	}
	if err := importInto(t, d, "office", in); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("for no purpose = %v, want %v", err, storage.ErrNotFound)
	}
}

func TestARootMayHaveAnECDSAKey(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	key := deviceKey(t)
	cert := someCA(t, nil, key.Public(), key, nil)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sec1 := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	if err := importInto(t, d, "root", depot.Import{Data: slices.Concat(certPEM(cert), sec1)}); err != nil {
		t.Fatal(err)
	}
	activate(t, d, db, d.Next("root").ID())
	if _, ok := d.Root().Signer().(*ecdsa.PrivateKey); !ok {
		t.Errorf("its key is a %T", d.Root().Signer())
	}
	leaf, _, err := d.TLSCertificate(t.Context(), []string{"mdm.example.com"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := leaf.Leaf.CheckSignatureFrom(cert); err != nil {
		t.Error(err)
	}
}

func FuzzImport(f *testing.F) {
	key := deviceKey(f)
	root := someCA(f, nil, key.Public(), key, nil)
	f.Add(slices.Concat(certPEM(root), keyPEM(f, key)), "")
	p12, err := pkcs12.Modern.WithIterations(1).Encode(key, root, nil, "secret")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p12, "secret")
	f.Fuzz(func(t *testing.T, data []byte, passphrase string) {
		// What is no authority is an error that names a field, and never a panic.
		var wrong *depot.FieldError
		if err := depot.ReadImport(depot.Import{Data: data, Passphrase: passphrase}); err != nil && !errors.As(err, &wrong) {
			t.Fatal(err)
		}
	})
}
