package apns_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// keys are made once for all tests: none is secret.
var keys = sync.OnceValue(func() (all [4]*rsa.PrivateKey) {
	for i := range all {
		all[i], _ = rsa.GenerateKey(rand.Reader, 2048)
	}
	return all
})

// wall is when the tests of the keeper happen.
var wall = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

// desk is a Keeper on a store of its own, at a time that the test moves.
type desk struct {
	*apns.Keeper
	t       *testing.T
	db      storage.DB
	certs   *apns.Certificates
	now     time.Time
	devices map[string]int
}

func newDesk(t *testing.T, change func(*apns.KeeperConfig)) *desk {
	t.Helper()
	d := &desk{t: t, db: storagetest.Open(t), now: wall, devices: map[string]int{}}
	box, err := seal.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	if d.certs, err = apns.NewCertificates(box, func() time.Time { return d.now }); err != nil {
		t.Fatal(err)
	}
	made := 0
	c := apns.KeeperConfig{
		DB: d.db, Certificates: d.certs, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return d.now },
		Devices: func(context.Context) (map[string]int, error) { return maps.Clone(d.devices), nil },
		Known: func(c *x509.Certificate) string {
			if c.Subject.CommonName == "Gatehouse Identity CA" {
				return "this server’s identity CA"
			}
			return ""
		},
		Tell: func(_ context.Context, tx storage.Tx, c apns.Change) error {
			return tx.Put("told", []byte(fmt.Sprintf("%s %020d", c.At.Format(time.RFC3339Nano), len(c.Action))), fmt.Appendf(nil, "%s %s %s %s", c.Action, c.Topic, c.AppleAccount, c.Details["days"]))
		},
		NewKey: func() (*rsa.PrivateKey, error) { made++; return keys()[made%4], nil },
	}
	if change != nil {
		change(&c)
	}
	if d.Keeper, err = apns.NewKeeper(c); err != nil {
		t.Fatal(err)
	}
	return d
}

// told returns what was written down, and moves the clock so that the next is told apart.
func (d *desk) told() (all []string) {
	d.t.Helper()
	err := d.db.View(d.t.Context(), func(tx storage.Tx) error {
		all = nil
		for item, err := range tx.Scan("told", storage.Range{}) {
			if err != nil {
				return err
			}
			all = append(all, strings.TrimSpace(string(item.Value)))
		}
		return nil
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return all
}

// made is what a certificate is made like.
type made struct {
	name      string // CN
	topic     string // UID
	key       int    // of keys
	public    any    // instead
	from, to  time.Time
	ca        bool
	issuer    *x509.Certificate
	issuerKey int
	org       string
	extension asn1.ObjectIdentifier
}

func (m made) make(t testing.TB) *x509.Certificate {
	t.Helper()
	if m.from.IsZero() {
		m.from = wall.AddDate(-2, 0, 0)
	}
	if m.to.IsZero() {
		m.to = wall.AddDate(1, 0, 0)
	}
	if m.name == "" {
		m.name = "APSP:test"
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: m.from, NotAfter: m.to, Subject: pkix.Name{CommonName: m.name},
		IsCA: m.ca, BasicConstraintsValid: m.ca,
	}
	if m.org != "" {
		tmpl.Subject.Organization = []string{m.org}
	}
	if m.topic != "" {
		tmpl.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, Value: m.topic}}
	}
	if m.extension != nil {
		tmpl.ExtraExtensions = []pkix.Extension{{Id: m.extension, Value: []byte{5, 0}}}
	}
	issuer := tmpl
	if m.issuer != nil {
		issuer = m.issuer
	}
	public := m.public
	if public == nil {
		public = keys()[m.key].Public()
	}
	signer := keys()[m.issuerKey]
	if m.issuer == nil && m.public == nil {
		signer = keys()[m.key]
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func asPEM(certs ...*x509.Certificate) (out []byte) {
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func join(parts ...[]byte) []byte { return slices.Concat(parts...) }

const otherTopic = "com.apple.mgmt.External.b"

func TestMistakesWithPushCertificatesAreToldApart(t *testing.T) {
	storagetest.AnyEngine(t)
	d := newDesk(t, nil)
	key, other := keyPEM(keys()[0]), keyPEM(keys()[1])
	good := made{topic: topic}.make(t)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(keys()[0])
	if err != nil {
		t.Fatal(err)
	}
	//lint:ignore SA1019 what people still have
	legacy, err := x509.EncryptPEMBlock(rand.Reader, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(keys()[0]), []byte("secret"), x509.PEMCipherAES256)
	if err != nil {
		t.Fatal(err)
	}
	p12, err := pkcs12.Modern.Encode(keys()[0], good, nil, "secret")
	if err != nil {
		t.Fatal(err)
	}
	store, err := pkcs12.Modern.EncodeTrustStore([]*x509.Certificate{good}, "secret")
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}, keys()[0])
	if err != nil {
		t.Fatal(err)
	}
	csrPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edPKCS8, err := x509.MarshalPKCS8PrivateKey(edKey)
	if err != nil {
		t.Fatal(err)
	}
	//nolint:gosec // short on purpose
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	requestFile := []byte(base64.StdEncoding.EncodeToString([]byte(`<?xml version="1.0"?><plist version="1.0"><dict><key>PushCertRequestCSR</key><string>x</string></dict></plist>`)))
	profile := []byte(`<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict><key>PayloadType</key><string>Configuration</string></dict></plist>`)
	ca := made{name: "Apple Root CA", ca: true, key: 2}.make(t)
	for name, tt := range map[string]struct {
		file apns.File
		want apns.Kind
		says string
	}{
		"nothing":                       {apns.File{Data: []byte(" \n")}, apns.Empty, "empty"},
		"too much":                      {apns.File{Data: make([]byte, 300<<10)}, apns.TooLarge, "larger"},
		"a word":                        {apns.File{Data: []byte("certificate")}, apns.NotReadable, "neither"},
		"a broken certificate":          {apns.File{Data: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}})}, apns.NotReadable, ""},
		"a key alone":                   {apns.File{Data: key}, apns.NoCertificate, "no certificate"},
		"a key alone in DER":            {apns.File{Data: pkcs8}, apns.NoCertificate, ""},
		"a certificate alone":           {apns.File{Data: asPEM(good)}, apns.NoKey, "was not made here"},
		"a certificate alone in DER":    {apns.File{Data: good.Raw}, apns.NoKey, ""},
		"a key that can't be read":      {apns.File{Data: join(asPEM(good), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}))}, apns.KeyUnreadable, ""},
		"an encrypted key":              {apns.File{Data: join(asPEM(good), pem.EncodeToMemory(legacy))}, apns.KeyEncrypted, "password is missing"},
		"an encrypted key, wrong word":  {apns.File{Data: join(asPEM(good), pem.EncodeToMemory(legacy)), Password: "wrong"}, apns.WrongPassword, ""},
		"PKCS #12, no word":             {apns.File{Data: p12}, apns.KeyEncrypted, ""},
		"PKCS #12, wrong word":          {apns.File{Data: p12, Password: "wrong"}, apns.WrongPassword, ""},
		"PKCS #12 without a key":        {apns.File{Data: store, Password: "secret"}, apns.NoKey, ""},
		"another certificate's key":     {apns.File{Data: join(asPEM(good), other)}, apns.KeyMismatch, "does not belong"},
		"two keys":                      {apns.File{Data: join(asPEM(good), key, other)}, apns.SeveralKeys, ""},
		"an Ed25519 key":                {apns.File{Data: join(asPEM(good), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: edPKCS8}))}, apns.KeyType, "not RSA"},
		"a short key":                   {apns.File{Data: join(asPEM(good), keyPEM(short))}, apns.KeyType, "2048"},
		"a certificate of a short key":  {apns.File{Data: join(asPEM(made{topic: topic, public: short.Public()}.make(t)), key)}, apns.KeyType, ""},
		"two certificates":              {apns.File{Data: join(asPEM(good, made{topic: otherTopic, key: 1, name: "APSP:other"}.make(t)), key)}, apns.SeveralCertified, "APSP:other"},
		"a request":                     {apns.File{Data: csrPEM}, apns.IsRequest, "signing request"},
		"a request and its key":         {apns.File{Data: join(csrPEM, key)}, apns.IsRequest, ""},
		"a request in DER":              {apns.File{Data: csr}, apns.IsRequest, ""},
		"the request for Apple":         {apns.File{Data: requestFile}, apns.IsRequestFile, "request for Apple"},
		"what mdmcert.download mails":   {apns.File{Data: []byte(hex.EncodeToString(enveloped(t, []byte("x"), made{key: 3}.make(t))))}, apns.IsMailedFile, "mdmcert"},
		"a profile":                     {apns.File{Data: profile}, apns.IsProfile, "configuration profile"},
		"Apple's page":                  {apns.File{Data: []byte("\n<!DOCTYPE html>\n<html><head><title>Apple Push Certificates Portal")}, apns.WebPage, "web page"},
		"our SCEP CA":                   {apns.File{Data: join(asPEM(made{name: "Gatehouse Identity CA", ca: true}.make(t)), key)}, apns.IsOwnAuthority, "This is this server’s identity CA"},
		"our SCEP CA without a key":     {apns.File{Data: asPEM(made{name: "Gatehouse Identity CA", ca: true}.make(t))}, apns.IsOwnAuthority, ""},
		"somebody's CA":                 {apns.File{Data: asPEM(ca)}, apns.IsAuthority, "Apple Root CA"},
		"an app's certificate":          {apns.File{Data: join(asPEM(made{name: "Apple Push Services: com.example.app", topic: "com.example.app"}.make(t)), key)}, apns.IsApp, "com.example.app"},
		"a certificate for the sandbox": {apns.File{Data: join(asPEM(made{name: "Apple Development IOS Push Services: com.example.app", topic: "com.example.app", extension: asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 3, 1}}.make(t)), key)}, apns.IsSandbox, "sandbox"},
		"a vendor's certificate":        {apns.File{Data: join(asPEM(made{name: "MDM Vendor: Example"}.make(t)), key)}, apns.IsVendor, "MDM Vendor: Example"},
		"a certificate of a web server": {apns.File{Data: join(asPEM(made{name: "mdm.example.com"}.make(t)), key)}, apns.NoTopic, "mdm.example.com"},
		"an expired certificate":        {apns.File{Data: join(asPEM(made{topic: topic, to: wall.AddDate(0, 0, -1)}.make(t)), key)}, apns.Expired, "2026-11-21"},
		"one of the future":             {apns.File{Data: join(asPEM(made{topic: topic, from: wall.AddDate(0, 0, 1)}.make(t)), key)}, apns.NotYetValid, "2026-11-23"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.Upload(t.Context(), apns.Upload{File: tt.file})
			var m *apns.Mistake
			if !errors.As(err, &m) || m.Kind != tt.want || !strings.Contains(m.Reason, tt.says) || m.Next == "" || strings.Contains(m.Reason, "%!") {
				t.Errorf("Upload = %v (%+v), want %s that says %q", err, m, tt.want, tt.says)
			}
		})
	}
	if o, err := d.Overview(t.Context()); err != nil || len(o.Topics) > 0 || len(d.told()) > 0 {
		t.Errorf("after nothing but mistakes there are %v (%v), told %q", o.Topics, err, d.told())
	}
}

func TestPushCertificatesComeInManyForms(t *testing.T) {
	storagetest.AnyEngine(t)
	root := made{name: "Apple Application Integration 2 Certification Authority", org: "Apple Inc.", ca: true, key: 2}.make(t)
	leaf := made{topic: topic, issuer: root, issuerKey: 2}.make(t)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(keys()[0])
	if err != nil {
		t.Fatal(err)
	}
	p12, err := pkcs12.Modern.Encode(keys()[0], leaf, []*x509.Certificate{root}, "secret")
	if err != nil {
		t.Fatal(err)
	}
	old, err := pkcs12.LegacyDES.Encode(keys()[0], leaf, nil, "secret")
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, err := x509.MarshalECPrivateKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}
	key := keyPEM(keys()[0])
	for name, tt := range map[string]struct {
		file  apns.File
		chain int
		warns string
	}{
		"PEM":                            {apns.File{Data: join(asPEM(leaf), key)}, 1, ""},
		"the key first":                  {apns.File{Data: join(key, asPEM(leaf))}, 1, ""},
		"Windows lines":                  {apns.File{Data: bytes.ReplaceAll(join(asPEM(leaf), key), []byte("\n"), []byte("\r\n"))}, 1, ""},
		"with words in between":          {apns.File{Data: join([]byte("Bag Attributes\n"), asPEM(leaf), []byte("\nKey:\n"), key)}, 1, ""},
		"the chain, root first":          {apns.File{Data: join(asPEM(root, leaf), key)}, 2, ""},
		"twice the same":                 {apns.File{Data: join(asPEM(leaf, leaf), key, key)}, 1, ""},
		"an authority of somebody else":  {apns.File{Data: join(asPEM(leaf, made{name: "other", ca: true, key: 3}.make(t)), key)}, 1, ""},
		"DER and DER":                    {apns.File{Data: leaf.Raw, Key: pkcs8}, 1, ""},
		"DER and PEM":                    {apns.File{Data: leaf.Raw, Key: key}, 1, ""},
		"PKCS #12":                       {apns.File{Data: p12, Password: "secret"}, 2, ""},
		"PKCS #12 of long ago":           {apns.File{Data: old, Password: "secret"}, 1, ""},
		"not Apple's, on an EC key":      {apns.File{Data: join(asPEM(made{topic: topic, public: ecKey.Public(), issuerKey: 2}.make(t)), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: ecDER}))}, 1, "not Apple"},
		"a clock that is a little ahead": {apns.File{Data: join(asPEM(made{topic: topic, from: wall.Add(time.Minute)}.make(t)), key)}, 1, "not Apple"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, nil)
			s, err := d.Upload(t.Context(), apns.Upload{File: tt.file})
			if err != nil {
				t.Fatal(err)
			}
			if s.Topic != topic || s.Active == nil || !s.Default || strings.Contains(strings.Join(s.Warnings, " "), "not Apple") != (tt.warns != "") {
				t.Errorf("Upload = %+v", s)
			}
			err = d.db.View(t.Context(), func(tx storage.Tx) error {
				pair, rec, err := d.certs.TLS(tx, topic)
				if err == nil && (len(pair.Certificate) != tt.chain || rec.SHA256 != s.Active.SHA256) {
					t.Errorf("TLS has %d certificates, of %s", len(pair.Certificate), rec.SHA256)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func sumOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

func TestARenewalTakesOverWhenItIsActivated(t *testing.T) {
	d := newDesk(t, nil)
	upload := func(c *x509.Certificate, key int, change func(*apns.Upload)) apns.Standing {
		t.Helper()
		u := apns.Upload{File: apns.File{Data: join(asPEM(c), keyPEM(keys()[key]))}}
		if change != nil {
			change(&u)
		}
		s, err := d.Upload(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		d.now = d.now.Add(time.Minute)
		return s
	}
	serving := func() string {
		t.Helper()
		var sum string
		err := d.db.View(t.Context(), func(tx storage.Tx) error {
			pair, rec, err := d.certs.TLS(tx, topic)
			if err == nil {
				leaf, _ := x509.ParseCertificate(pair.Certificate[0])
				if sum = sumOf(leaf); sum != rec.SHA256 {
					t.Errorf("TLS serves %s, and its record says %s", sum, rec.SHA256)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	changed, stop := d.db.Watch(apns.CertificatesTopic)
	defer stop()

	first := made{topic: topic, to: wall.AddDate(0, 2, 0)}.make(t)
	upload(first, 0, func(u *apns.Upload) { u.AppleAccount = "it@example.com" })
	<-changed
	second := made{topic: topic, key: 1}.make(t)
	s := upload(second, 1, func(u *apns.Upload) { u.Wait = true })
	if s.Ready == nil || s.Ready.SHA256 != sumOf(second) || s.Active.SHA256 != sumOf(first) || serving() != sumOf(first) || s.AppleAccount != "it@example.com" {
		t.Errorf("with one ready: %+v, %s serves", s, serving())
	}
	s, err := d.Activate(t.Context(), topic)
	if err != nil || s.Ready != nil || s.Active.SHA256 != sumOf(second) || serving() != sumOf(second) {
		t.Errorf("Activate = %+v, %v", s, err)
	}
	<-changed
	d.now = d.now.Add(time.Minute)
	if _, err := d.Activate(t.Context(), topic); !errors.Is(err, apns.ErrNothingReady) {
		t.Errorf("a second Activate = %v", err)
	}
	upload(second, 1, nil) // once more the same: nothing
	third := made{topic: topic, key: 2, to: wall.AddDate(0, 6, 0)}.make(t)
	if s := upload(third, 2, nil); !strings.Contains(strings.Join(s.Warnings, " "), "before the one that was there") {
		t.Errorf("an earlier end: %q", s.Warnings)
	}
	if got, want := d.told(), []string{
		"push_certificate.added " + topic + " it@example.com", "push_certificate.uploaded " + topic + " it@example.com",
		"push_certificate.activated " + topic + " it@example.com", "push_certificate.renewed " + topic + " it@example.com",
	}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}

	// Another topic is only added.
	d.devices[topic] = 3
	s = upload(made{topic: otherTopic}.make(t), 0, nil)
	if s.Default || !strings.Contains(strings.Join(s.Warnings, " "), "3 devices are woken by another topic, "+topic) {
		t.Errorf("another topic: %+v", s)
	}
	yes := true
	if s, err = d.Change(t.Context(), otherTopic, apns.TopicChange{Default: &yes}); err != nil || !s.Default {
		t.Errorf("Change = %+v, %v", s, err)
	}
	if o, err := d.Overview(t.Context()); err != nil || len(o.Topics) != 2 || o.Topics[0].Default || o.Topics[0].Devices != 3 || len(o.Lost) > 0 {
		t.Errorf("Overview = %+v, %v", o, err)
	}

	// It is not deleted while devices are woken by it.
	var used *apns.InUseError
	if err := d.Delete(t.Context(), topic, false); !errors.As(err, &used) || used.Devices != 3 {
		t.Errorf("Delete = %v", err)
	}
	if err := d.Delete(t.Context(), topic, true); err != nil {
		t.Error(err)
	}
	if o, err := d.Overview(t.Context()); err != nil || len(o.Topics) != 1 || o.Lost[topic] != 3 || !strings.Contains(apns.LostSentence(topic, 3), "3 devices use topic "+topic+": restore that certificate.") {
		t.Errorf("Overview = %+v, %v", o, err)
	}
}

func TestUploadsAndActivationsOfOneTopicAreOneAfterTheOther(t *testing.T) {
	d := newDesk(t, func(c *apns.KeeperConfig) { c.Tell = nil })
	var certs []*x509.Certificate
	for i := range 6 {
		certs = append(certs, made{topic: topic, key: i % 4, to: wall.AddDate(1, 0, i)}.make(t))
	}
	var group sync.WaitGroup
	for i, c := range certs {
		group.Go(func() {
			_, err := d.Upload(t.Context(), apns.Upload{File: apns.File{Data: join(asPEM(c), keyPEM(keys()[i%4]))}, Wait: i%2 == 0})
			if err != nil {
				t.Errorf("Upload: %v", err)
			}
		})
		group.Go(func() {
			if _, err := d.Activate(t.Context(), topic); err != nil && !errors.Is(err, apns.ErrNothingReady) && !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("Activate: %v", err)
			}
		})
	}
	group.Wait()
	if _, err := d.Activate(t.Context(), topic); err != nil && !errors.Is(err, apns.ErrNothingReady) {
		t.Errorf("Activate: %v", err)
	}
	err := d.db.View(t.Context(), func(tx storage.Tx) error {
		pair, rec, err := d.certs.TLS(tx, topic)
		if err != nil {
			return err
		}
		leaf, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil || !pair.PrivateKey.(*rsa.PrivateKey).PublicKey.Equal(leaf.PublicKey) || sumOf(leaf) != rec.SHA256 {
			t.Errorf("certificate and key are not of each other: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestTheEndOfACertificateIsCountedDownOnce(t *testing.T) {
	d := newDesk(t, nil)
	end := wall.AddDate(0, 0, 90)
	if _, err := d.Upload(t.Context(), apns.Upload{File: apns.File{Data: join(asPEM(made{topic: topic, to: end}.make(t)), keyPEM(keys()[0]))}, AppleAccount: "it@example.com"}); err != nil {
		t.Fatal(err)
	}
	before := len(d.told())
	var got []string
	for day := 89; day >= -3; day-- {
		d.now = end.AddDate(0, 0, -day).Add(-time.Minute)
		for range 2 { // also by another replica
			if err := d.Look(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if all := d.told(); len(all) > before {
			got, before = append(got, all[before:]...), len(all)
		}
	}
	var want []string
	for _, days := range []string{"59", "29", "13", "6", "0", "0"} {
		want = append(want, "push_certificate.expiring "+topic+" it@example.com "+days)
	}
	if !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	if all, err := d.Expiries(t.Context()); err != nil || len(all) != 1 || !all[0].NotAfter.Equal(end) {
		t.Errorf("Expiries = %v, %v", all, err)
	}

	// A renewed one is counted down again.
	d.now = d.now.Add(time.Hour)
	if _, err := d.Upload(t.Context(), apns.Upload{File: apns.File{Data: join(asPEM(made{topic: topic, to: d.now.AddDate(0, 0, 20)}.make(t)), keyPEM(keys()[0]))}}); err != nil {
		t.Fatal(err)
	}
	d.now = d.now.Add(time.Hour)
	if err := d.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all := d.told(); all[len(all)-1] != "push_certificate.expiring "+topic+" it@example.com 19" {
		t.Errorf("told last %q", all[len(all)-1])
	}
}

// enveloped encrypts content to a certificate, as mdmcert.download does.
func enveloped(t testing.TB, content []byte, to *x509.Certificate) []byte {
	t.Helper()
	useAES()
	der, err := pkcs7.Encrypt(content, []*x509.Certificate{to})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

var useAES = sync.OnceFunc(func() { pkcs7.ContentEncryptionAlgorithm = pkcs7.EncryptionAlgorithmAES256CBC })
