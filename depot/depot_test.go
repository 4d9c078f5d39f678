package depot_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/depottest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// keys are two RSA keys for all tests: making them takes a while.
var keys = sync.OnceValue(func() []*rsa.PrivateKey {
	out := make([]*rsa.PrivateKey, 2)
	var wg sync.WaitGroup
	for i := range out {
		wg.Go(func() {
			var err error
			if out[i], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
				panic(err)
			}
		})
	}
	wg.Wait()
	return out
})

func config(t testing.TB, db storage.DB) depot.Config {
	t.Helper()
	return depottest.Config(t, db)
}

func open(t testing.TB, c depot.Config) *depot.Depot {
	t.Helper()
	return depottest.Open(t, c)
}

func TestAuthorities(t *testing.T) {
	c := config(t, storagetest.Open(t))
	c.URL = &url.URL{Scheme: "https", Host: "mdm.example.com"}
	d := open(t, c)
	if !d.Created() {
		t.Error("Created = false on an empty database")
	}
	now := time.Now()
	for name, tt := range map[string]struct {
		authority *depot.Authority
		cn        string
		pathLen   int
	}{
		"identity": {d.Identity(), "Gatehouse Identity CA (mdm.example.com)", 0},
		"root":     {d.Root(), "Gatehouse CA (mdm.example.com)", 1},
		"payload":  {d.Payload(), "Gatehouse Issuing CA (mdm.example.com)", 0},
	} {
		t.Run(name, func(t *testing.T) {
			a, cert := tt.authority, tt.authority.Certificate()
			above := cert
			if name == "payload" {
				above = d.Root().Certificate()
			}
			if chain := a.Chain(); !chain[0].Equal(cert) || !chain[len(chain)-1].Equal(above) {
				t.Errorf("its chain begins with %v and ends with %v", chain[0].Subject, chain[len(chain)-1].Subject)
			}
			if d.Authority(a.ID()) != a {
				t.Errorf("it is not found by its ID %q", a.ID())
			}
			if a.Name() != name {
				t.Errorf("Name = %q, want %q", a.Name(), name)
			}
			if cert.Subject.CommonName != tt.cn || cert.Issuer.CommonName != above.Subject.CommonName {
				t.Errorf("subject, issuer = %v, %v, want %q", cert.Subject, cert.Issuer, tt.cn)
			}
			if want := x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment; cert.KeyUsage != want {
				t.Errorf("key usage = %b, want %b", cert.KeyUsage, want)
			}
			if !cert.IsCA || !cert.BasicConstraintsValid || cert.MaxPathLen != tt.pathLen || cert.MaxPathLenZero != (tt.pathLen == 0) {
				t.Errorf("CA %v, path length %d, want %d", cert.IsCA, cert.MaxPathLen, tt.pathLen)
			}
			if len(cert.SubjectKeyId) != 20 || !bytes.Equal(above.SubjectKeyId, cert.AuthorityKeyId) {
				t.Errorf("key IDs %x and %x", cert.SubjectKeyId, cert.AuthorityKeyId)
			}
			if cert.NotBefore.After(now.Add(-23*time.Hour)) || cert.NotAfter.Before(now.AddDate(19, 11, 0)) {
				t.Errorf("valid from %v to %v", cert.NotBefore, cert.NotAfter)
			}
			if err := cert.CheckSignatureFrom(above); err != nil {
				t.Error(err)
			}
		})
	}
	if crl := d.Payload().Certificate().CRLDistributionPoints; !slices.Equal(crl, []string{"https://mdm.example.com/crl/" + d.Root().ID() + ".crl"}) {
		t.Errorf("the payload authority's certificate is on the list at %v, want the root's", crl)
	}
	if n := len(d.Authorities()); n != 3 {
		t.Errorf("%d authorities with IDs of their own, want 3", n)
	}
}

func TestAuthoritiesOutliveARestart(t *testing.T) {
	db := storagetest.Open(t)
	first := open(t, config(t, db))
	second := open(t, config(t, db))
	if second.Created() {
		t.Error("Created = true on a database that has authorities")
	}
	for name, pair := range map[string][2]*depot.Authority{
		"identity": {first.Identity(), second.Identity()},
		"root":     {first.Root(), second.Root()},
		"payload":  {first.Payload(), second.Payload()},
	} {
		if !pair[0].Certificate().Equal(pair[1].Certificate()) {
			t.Errorf("%s has another certificate", name)
		}
		if !pair[0].Signer().Public().(*rsa.PublicKey).Equal(pair[1].Signer().Public()) {
			t.Errorf("%s has another key", name)
		}
	}
}

func TestServersThatStartAtOnceShareTheAuthorities(t *testing.T) {
	db := storagetest.Open(t)
	depots := make([]*depot.Depot, 4)
	var wg sync.WaitGroup
	for i := range depots {
		c := config(t, db)
		wg.Go(func() {
			var err error
			if depots[i], err = depot.Open(context.Background(), c); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	made := 0
	for _, d := range depots {
		if d.Created() {
			made++
		}
		if !d.Identity().Certificate().Equal(depots[0].Identity().Certificate()) || !d.Root().Certificate().Equal(depots[0].Root().Certificate()) {
			t.Error("two servers have different authorities")
		}
	}
	if made != 1 {
		t.Errorf("%d servers made the authorities, want one", made)
	}
}

func TestADatabaseWithoutPayloadAuthorityGetsOne(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	before := open(t, config(t, db))
	update(t, db, func(tx storage.Tx) error { return tx.Delete("authority", []byte("payload")) })
	d := open(t, config(t, db))
	if d.Created() || !d.Root().Certificate().Equal(before.Root().Certificate()) {
		t.Error("the other authorities were made anew")
	}
	if err := d.Payload().Certificate().CheckSignatureFrom(d.Root().Certificate()); err != nil {
		t.Error(err)
	}
	if again := open(t, config(t, db)); !again.Payload().Certificate().Equal(d.Payload().Certificate()) {
		t.Error("the next start made another one")
	}
}

func TestAuthoritiesThatDoNotOpen(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		spoil func(t *testing.T, c *depot.Config)
		want  error
	}{
		"the wrong secrets key": {func(t *testing.T, c *depot.Config) {
			box, err := seal.New(bytes.Repeat([]byte{1}, seal.KeySize))
			if err != nil {
				t.Fatal(err)
			}
			c.Box = box
		}, seal.ErrWrongKey},
		"one authority is missing": {func(t *testing.T, c *depot.Config) {
			update(t, c.DB, func(tx storage.Tx) error { return tx.Delete("authority", []byte("root")) })
		}, storage.ErrCorrupt},
		"the authorities' keys are exchanged": {func(t *testing.T, c *depot.Config) {
			update(t, c.DB, func(tx storage.Tx) error {
				identity, err := tx.Get("authority", []byte("identity"))
				if err != nil {
					return err
				}
				return tx.Put("authority", []byte("root"), bytes.Replace(identity, []byte(`"identity"`), []byte(`"root"`), 1))
			})
		}, seal.ErrTampered},
	} {
		t.Run(name, func(t *testing.T) {
			db := storagetest.Open(t)
			open(t, config(t, db))
			c := config(t, db)
			tt.spoil(t, &c)
			if _, err := depot.Open(t.Context(), c); !errors.Is(err, tt.want) {
				t.Errorf("Open = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestKeysAreNotStoredInTheClear(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	open(t, config(t, db))
	err := db.View(t.Context(), func(tx storage.Tx) error {
		for item, err := range tx.Scan("authority", storage.Range{}) {
			if err != nil {
				return err
			}
			for _, name := range []string{"identity", "root", "payload"} {
				key, err := depottest.NewKey(name, 2048)
				if err != nil {
					return err
				}
				for _, part := range [][]byte{key.D.Bytes()[:16], key.Primes[0].Bytes()[:16]} {
					if bytes.Contains(item.Value, part) {
						t.Errorf("record %q holds a part of a key", item.Key)
					}
				}
			}
			if bytes.Contains(item.Value, []byte("PRIVATE")) {
				t.Errorf("record %q holds a key", item.Key)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestConfigsThatLackSomething(t *testing.T) {
	storagetest.AnyEngine(t)
	full := config(t, storagetest.Open(t))
	for name, spoil := range map[string]func(*depot.Config){
		"no database":       func(c *depot.Config) { c.DB = nil },
		"no box":            func(c *depot.Config) { c.Box = nil },
		"no log":            func(c *depot.Config) { c.Log = nil },
		"no clock":          func(c *depot.Config) { c.Now = nil },
		"a key size of 1k":  func(c *depot.Config) { c.KeyBits = 1024 },
		"an odd key size":   func(c *depot.Config) { c.KeyBits = 2500 },
		"no key size":       func(c *depot.Config) { c.KeyBits = 0 },
		"a key size of 16k": func(c *depot.Config) { c.KeyBits = 16384 },
	} {
		t.Run(name, func(t *testing.T) {
			c := full
			spoil(&c)
			if _, err := depot.Open(t.Context(), c); err == nil {
				t.Error("Open = nil error")
			}
		})
	}
}

func TestLongNamesAreCutToWhatACertificateHolds(t *testing.T) {
	storagetest.AnyEngine(t)
	c := config(t, storagetest.Open(t))
	c.Name = strings.Repeat("ä", 60)
	d := open(t, c)
	for _, a := range d.Authorities() {
		cn := a.Certificate().Subject.CommonName
		if len(cn) > 64 || !strings.HasSuffix(cn, "ä)") {
			t.Errorf("common name = %q (%d bytes), want whole characters in at most 64", cn, len(cn))
		}
	}
}

func deviceKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func template(now time.Time) depot.Contents {
	return depot.Contents{
		Name:        "identity",
		Subject:     pkix.Name{CommonName: "device"},
		NotBefore:   now.Add(-10 * time.Minute),
		NotAfter:    now.AddDate(1, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

func TestIssuedCertificates(t *testing.T) {
	storagetest.AnyEngine(t)
	c := config(t, storagetest.Open(t))
	c.URL = &url.URL{Scheme: "https", Host: "mdm.example.com"}
	d := open(t, c)
	ca := d.Identity()
	now := time.Now().UTC().Truncate(time.Second)
	tmpl := template(now)
	tmpl.DNSNames = []string{"a.example"}
	cert, err := ca.Sign(deviceKey(t).Public(), tmpl)
	if err != nil {
		t.Fatal(err)
	}
	if err := cert.CheckSignatureFrom(ca.Certificate()); err != nil {
		t.Error(err)
	}
	if cert.IsCA || !cert.BasicConstraintsValid {
		t.Errorf("CA %v, basic constraints %v, want CA:FALSE said", cert.IsCA, cert.BasicConstraintsValid)
	}
	if len(cert.SubjectKeyId) != 20 || !bytes.Equal(cert.AuthorityKeyId, ca.Certificate().SubjectKeyId) {
		t.Errorf("key IDs %x and %x", cert.SubjectKeyId, cert.AuthorityKeyId)
	}
	if !cert.NotBefore.Equal(tmpl.NotBefore) || !cert.NotAfter.Equal(tmpl.NotAfter) {
		t.Errorf("valid from %v to %v, want %v to %v", cert.NotBefore, cert.NotAfter, tmpl.NotBefore, tmpl.NotAfter)
	}
	if cert.KeyUsage != tmpl.KeyUsage || !slices.Equal(cert.ExtKeyUsage, tmpl.ExtKeyUsage) || !slices.Equal(cert.DNSNames, tmpl.DNSNames) {
		t.Errorf("usage %b %v, names %v", cert.KeyUsage, cert.ExtKeyUsage, cert.DNSNames)
	}
	if len(cert.CRLDistributionPoints) != 1 || len(cert.OCSPServer) != 1 ||
		len(cert.IssuingCertificateURL) != 1 {
		t.Errorf("revocation addresses %v %v %v", cert.CRLDistributionPoints, cert.OCSPServer, cert.IssuingCertificateURL)
	}

	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate())
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	other := x509.NewCertPool()
	other.AddCert(d.Root().Certificate())
	if _, err := cert.Verify(x509.VerifyOptions{Roots: other, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("an identity chains to the organisation root")
	}
}

func TestExtensionsThatNobodyAskedForAreLeftOut(t *testing.T) {
	storagetest.AnyEngine(t)
	d := open(t, config(t, storagetest.Open(t)))
	cert, err := d.Identity().Sign(deviceKey(t).Public(), template(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range cert.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 31}) || e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 1}) {
			t.Errorf("extension %v", e.Id)
		}
	}
}

func TestWhatIsNotIssued(t *testing.T) {
	storagetest.AnyEngine(t)
	d := open(t, config(t, storagetest.Open(t)))
	now := time.Now()
	small, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		pub   any
		spoil func(*depot.Contents)
		want  error // nil: any
	}{
		"a small curve":           {small.Public(), func(*depot.Contents) {}, guard.ErrKey},
		"an exponent of three":    {&rsa.PublicKey{N: keys()[0].N, E: 3}, func(*depot.Contents) {}, guard.ErrKey},
		"RSA of 1024 bits":        {&rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1023, 1), E: 65537}, func(*depot.Contents) {}, guard.ErrKey},
		"an authority":            {nil, func(t *depot.Contents) { t.KeyUsage |= x509.KeyUsageCertSign }, nil},
		"a signer of CRLs":        {nil, func(t *depot.Contents) { t.KeyUsage |= x509.KeyUsageCRLSign }, nil},
		"a name that is too long": {nil, func(t *depot.Contents) { t.Subject.CommonName = strings.Repeat("x", 65) }, nil},
		"a life that never was":   {nil, func(t *depot.Contents) { t.NotAfter = t.NotBefore }, nil},
		"a life after ours": {nil, func(t *depot.Contents) {
			t.NotBefore, t.NotAfter = now.AddDate(21, 0, 0), now.AddDate(22, 0, 0)
		}, depot.ErrAuthorityExpired},
	} {
		t.Run(name, func(t *testing.T) {
			tmpl := template(now)
			tt.spoil(&tmpl)
			if tt.pub == nil {
				tt.pub = deviceKey(t).Public()
			}
			_, err := d.Identity().Sign(tt.pub, tmpl)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("Sign = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestNothingOutlivesItsAuthority(t *testing.T) {
	storagetest.AnyEngine(t)
	d := open(t, config(t, storagetest.Open(t)))
	tmpl := template(time.Now())
	tmpl.NotBefore, tmpl.NotAfter = tmpl.NotBefore.AddDate(-1, 0, 0), tmpl.NotAfter.AddDate(100, 0, 0)
	cert, err := d.Identity().Sign(deviceKey(t).Public(), tmpl)
	if err != nil {
		t.Fatal(err)
	}
	ca := d.Identity().Certificate()
	if !cert.NotBefore.Equal(ca.NotBefore) || !cert.NotAfter.Equal(ca.NotAfter) {
		t.Errorf("valid from %v to %v, want the authority's %v to %v", cert.NotBefore, cert.NotAfter, ca.NotBefore, ca.NotAfter)
	}
}

func TestSerialNumbersAreRandom(t *testing.T) {
	storagetest.AnyEngine(t)
	d := open(t, config(t, storagetest.Open(t)))
	pub := deviceKey(t).Public()
	seen := map[string]bool{}
	large := 0
	for range 200 {
		cert, err := d.Root().Sign(pub, template(time.Now()))
		if err != nil {
			t.Fatal(err)
		}
		n := cert.SerialNumber
		if n.Sign() <= 0 || n.BitLen() > 128 || seen[n.String()] {
			t.Fatalf("serial number %v", n)
		}
		seen[n.String()] = true
		if n.BitLen() > 120 {
			large++
		}
	}
	if large < 190 { // all but one in 256
		t.Errorf("only %d of 200 serial numbers have more than 120 bits", large)
	}
}

func update(t testing.TB, db storage.DB, fn func(storage.Tx) error) {
	t.Helper()
	if err := db.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func view(t testing.TB, db storage.DB, fn func(storage.Tx) error) {
	t.Helper()
	if err := db.View(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

// issue records a new certificate and returns its record.
func issue(t testing.TB, d *depot.Depot, db storage.DB, c depot.Certificate) depot.Certificate {
	t.Helper()
	cert, err := d.Identity().Sign(deviceKey(t).Public(), template(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	c.Authority = d.Identity().Name()
	update(t, db, func(tx storage.Tx) error { return d.Record(tx, cert, c) })
	view(t, db, func(tx storage.Tx) (err error) {
		c, err = d.Get(tx, depot.FingerprintOf(cert))
		return err
	})
	return c
}

func TestRecords(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	key := deviceKey(t)
	cert, err := d.Identity().Sign(key.Public(), template(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	update(t, db, func(tx storage.Tx) error {
		return d.Record(tx, cert, depot.Certificate{Authority: "identity", Template: "identity", AttemptID: "attempt", User: "ana"})
	})
	hash, err := depot.PublicKeyHash(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	fp := depot.FingerprintOf(cert)
	view(t, db, func(tx storage.Tx) error {
		got, err := d.BySerial(tx, depot.SerialOf(cert))
		if err != nil {
			return err
		}
		if got.Fingerprint != fp || got.Subject != "CN=device" || got.PublicKeyHash != hash || got.User != "ana" || got.AttemptID != "attempt" ||
			!got.NotAfter.Equal(cert.NotAfter) || !got.NotBefore.Equal(cert.NotBefore) || got.IssuedAt.IsZero() {
			t.Errorf("BySerial = %+v", got)
		}
		der, err := d.DER(tx, fp)
		if err != nil {
			return err
		}
		if !bytes.Equal(der, cert.Raw) {
			t.Error("DER is not the certificate")
		}
		if got := collect(t, d.ByPublicKey(tx, hash)); len(got) != 1 {
			t.Errorf("ByPublicKey = %v, want one", got)
		}
		if got := collect(t, d.ByAttempt(tx, "attempt")); len(got) != 1 {
			t.Errorf("ByAttempt = %v, want one", got)
		}
		if got := collect(t, d.ByDevice(tx, "")); len(got) != 0 {
			t.Errorf("ByDevice of nobody = %v, want none", got)
		}
		return nil
	})
	err = db.Update(t.Context(), func(tx storage.Tx) error {
		return d.Record(tx, cert, depot.Certificate{Authority: "identity"})
	})
	if !errors.Is(err, storage.ErrExists) {
		t.Errorf("Record again = %v, want ErrExists", err)
	}
	err = db.View(t.Context(), func(tx storage.Tx) error {
		_, err := d.Get(tx, "00")
		return err
	})
	if !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Get of nothing = %v, want ErrNotFound", err)
	}
}

func collect(t testing.TB, seq func(func(depot.Certificate, error) bool)) []depot.Fingerprint {
	t.Helper()
	var out []depot.Fingerprint
	for c, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c.Fingerprint)
	}
	return out
}

func TestACertificateIsBoundToOneDevice(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	c := issue(t, d, db, depot.Certificate{})
	bind := func(device string) error {
		return db.Update(t.Context(), func(tx storage.Tx) error { return d.Bind(tx, c.Fingerprint, device) })
	}
	for _, step := range []struct {
		what, device string
		want         error
	}{
		{"the first device", "A", nil},
		{"the same device again", "A", nil},
		{"another device", "B", depot.ErrBound},
	} {
		if err := bind(step.device); !errors.Is(err, step.want) {
			t.Errorf("Bind to %s = %v, want %v", step.what, err, step.want)
		}
	}
	if err := bind(""); err == nil {
		t.Error("Bind to no device = nil error")
	}
	view(t, db, func(tx storage.Tx) error {
		if got := collect(t, d.ByDevice(tx, "A")); !slices.Equal(got, []depot.Fingerprint{c.Fingerprint}) {
			t.Errorf("ByDevice = %v, want %v", got, c.Fingerprint)
		}
		return nil
	})
}

func TestRacingDevicesBindACertificateOnce(t *testing.T) {
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	c := issue(t, d, db, depot.Certificate{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for i := range 16 {
		wg.Go(func() {
			err := db.Update(context.Background(), func(tx storage.Tx) error {
				return d.Bind(tx, c.Fingerprint, string(rune('A'+i)))
			})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if !errors.Is(err, depot.ErrBound) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d devices have it, want one", won)
	}
}

func TestTheFirstRevocationCounts(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	c := issue(t, d, db, depot.Certificate{DeviceID: "A", RenewAt: time.Now()})
	at := time.Now().UTC().Truncate(time.Second)
	revoke := func(reason string, at time.Time) error {
		return db.Update(t.Context(), func(tx storage.Tx) error { return d.Revoke(tx, c.Fingerprint, reason, at) })
	}
	if err := revoke("certificateHold", at); !errors.Is(err, depot.ErrReason) {
		t.Errorf("Revoke for a while = %v, want ErrReason", err)
	}
	if err := revoke("because", at); !errors.Is(err, depot.ErrReason) {
		t.Errorf("Revoke for no reason = %v, want ErrReason", err)
	}
	for _, reason := range []string{"keyCompromise", "superseded"} {
		if err := revoke(reason, at); err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Hour)
	}
	view(t, db, func(tx storage.Tx) error {
		got, err := d.Get(tx, c.Fingerprint)
		if err != nil {
			return err
		}
		if got.RevocationReason != "keyCompromise" || !got.RevokedAt.Equal(at.Add(-2*time.Hour)) {
			t.Errorf("revoked %v for %q, want the first time", got.RevokedAt, got.RevocationReason)
		}
		if due := collect(t, d.DueForRenewal(tx, time.Now().AddDate(1, 0, 0), 0)); len(due) != 0 {
			t.Errorf("DueForRenewal = %v, want nothing that is revoked", due)
		}
		return nil
	})
	err := db.Update(t.Context(), func(tx storage.Tx) error { return d.Revoke(tx, "00", "superseded", at) })
	if !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Revoke of nothing = %v, want ErrNotFound", err)
	}
}

func TestADevicesCertificatesAreRevokedTogether(t *testing.T) {
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	mine := []depot.Certificate{issue(t, d, db, depot.Certificate{DeviceID: "A"}), issue(t, d, db, depot.Certificate{DeviceID: "A"})}
	other := issue(t, d, db, depot.Certificate{DeviceID: "AB"})
	update(t, db, func(tx storage.Tx) error { return d.Revoke(tx, mine[0].Fingerprint, "superseded", time.Now()) })
	update(t, db, func(tx storage.Tx) error { return d.RevokeDevice(tx, "A", "cessationOfOperation", time.Now()) })
	view(t, db, func(tx storage.Tx) error {
		for fp, want := range map[depot.Fingerprint]string{
			mine[0].Fingerprint: "superseded",
			mine[1].Fingerprint: "cessationOfOperation",
			other.Fingerprint:   "",
		} {
			got, err := d.Get(tx, fp)
			if err != nil {
				return err
			}
			if got.RevocationReason != want {
				t.Errorf("reason = %q, want %q", got.RevocationReason, want)
			}
		}
		return nil
	})
	err := db.Update(t.Context(), func(tx storage.Tx) error { return d.RevokeDevice(tx, "A", "because", time.Now()) })
	if !errors.Is(err, depot.ErrReason) {
		t.Errorf("RevokeDevice for no reason = %v, want ErrReason", err)
	}
}

func TestWhatIsDueForRenewal(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	now := time.Now()
	second := issue(t, d, db, depot.Certificate{DeviceID: "A", RenewAt: now.Add(-time.Hour)})
	first := issue(t, d, db, depot.Certificate{DeviceID: "B", RenewAt: now.Add(-2 * time.Hour).In(time.FixedZone("east", 5*3600))})
	issue(t, d, db, depot.Certificate{DeviceID: "C", RenewAt: now.Add(time.Hour)})  // later
	issue(t, d, db, depot.Certificate{RenewAt: now.Add(-time.Hour)})                // bound to nobody
	issue(t, d, db, depot.Certificate{DeviceID: "D"})                               // never
	unbound := issue(t, d, db, depot.Certificate{RenewAt: now.Add(-3 * time.Hour)}) // bound in a moment
	view(t, db, func(tx storage.Tx) error {
		want := []depot.Fingerprint{first.Fingerprint, second.Fingerprint}
		if got := collect(t, d.DueForRenewal(tx, now, 0)); !slices.Equal(got, want) {
			t.Errorf("DueForRenewal = %v, want %v", got, want)
		}
		if got := collect(t, d.DueForRenewal(tx, now, 1)); !slices.Equal(got, want[:1]) {
			t.Errorf("DueForRenewal of one = %v, want %v", got, want[:1])
		}
		return nil
	})
	update(t, db, func(tx storage.Tx) error { return d.Bind(tx, unbound.Fingerprint, "E") })
	view(t, db, func(tx storage.Tx) error {
		if got := collect(t, d.DueForRenewal(tx, now, 1)); !slices.Equal(got, []depot.Fingerprint{unbound.Fingerprint}) {
			t.Errorf("DueForRenewal = %v, want the one that was bound", got)
		}
		return nil
	})
}

func TestPagesHoldEveryRecordOnce(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	want := map[depot.Fingerprint]bool{}
	for range 5 {
		want[issue(t, d, db, depot.Certificate{}).Fingerprint] = true
	}
	view(t, db, func(tx storage.Tx) error {
		want := maps.Clone(want)
		for cursor := ""; ; {
			items, next, err := d.Page(tx, cursor, 2)
			if err != nil {
				return err
			}
			for _, c := range items {
				if !want[c.Fingerprint] {
					t.Errorf("%s comes twice, or was never issued", c.Fingerprint)
				}
				delete(want, c.Fingerprint)
			}
			if next == "" {
				break
			}
			cursor = next
		}
		if len(want) > 0 {
			t.Errorf("%d records are on no page", len(want))
		}
		return nil
	})
}

func TestTheTLSLeafServesAClientThatTrustsTheRoot(t *testing.T) {
	storagetest.AnyEngine(t)
	d := open(t, config(t, storagetest.Open(t)))
	cert, isNew, err := d.TLSCertificate(t.Context(), []string{"mdm.example.com", "localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)})
	if err != nil || !isNew {
		t.Fatalf("TLSCertificate = %v, %v, want a new one", isNew, err)
	}
	leaf := cert.Leaf
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life > 398*24*time.Hour {
		t.Errorf("life = %v, want at most 398 days", life)
	}
	if key, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		t.Errorf("key = %T, want P-256", leaf.PublicKey)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AddCert(d.Root().Certificate())
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(srv.URL) // by address
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if n := len(resp.TLS.PeerCertificates); n != 2 {
		t.Errorf("the chain has %d certificates, want leaf and root", n)
	}
}

func TestWhenTheTLSLeafIsMadeAnew(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	now := time.Now()
	c := config(t, db)
	c.Now = func() time.Time { return now }
	d := open(t, c)
	local := []net.IP{net.IPv4(127, 0, 0, 1)}
	var last *x509.Certificate
	for _, step := range []struct {
		what  string
		names []string
		ips   []net.IP
		after time.Duration
		isNew bool
	}{
		{"the first start", []string{"a.example", "b.example"}, local, 0, true},
		{"a restart", []string{"a.example", "b.example"}, local, time.Hour, false},
		{"the same names in another order", []string{"b.example", "a.example"}, local, time.Hour, false},
		{"another name", []string{"a.example", "c.example"}, local, time.Hour, true},
		{"one address more", []string{"a.example", "c.example"}, append(local, net.IPv6loopback), time.Hour, true},
		{"almost two thirds of its life", []string{"a.example", "c.example"}, append(local, net.IPv6loopback), 260 * 24 * time.Hour, false},
		{"two thirds of its life", []string{"a.example", "c.example"}, append(local, net.IPv6loopback), 5 * 24 * time.Hour, true},
		{"a clock that went back a year", []string{"a.example", "c.example"}, append(local, net.IPv6loopback), -200 * 24 * time.Hour, true},
	} {
		now = now.Add(step.after)
		cert, isNew, err := d.TLSCertificate(t.Context(), step.names, step.ips)
		if err != nil || isNew != step.isNew {
			t.Fatalf("%s: TLSCertificate = %v, %v, want %v", step.what, isNew, err, step.isNew)
		}
		if same := last != nil && cert.Leaf.Equal(last); same == step.isNew {
			t.Errorf("%s: same certificate = %v", step.what, same)
		}
		last = cert.Leaf
	}
	view(t, db, func(tx storage.Tx) error {
		rec, err := d.Get(tx, depot.FingerprintOf(last))
		if err != nil {
			return err
		}
		if rec.Authority != "root" || rec.Template != "tls" {
			t.Errorf("record = %+v, want one of the root", rec)
		}
		return nil
	})
	if _, _, err := d.TLSCertificate(t.Context(), nil, nil); err == nil {
		t.Error("TLSCertificate for nobody = nil error")
	}
}

func TestReplicasOfSeveralNamesKeepTheirTLSLeaves(t *testing.T) {
	db := storagetest.Open(t)
	now := time.Now()
	c := config(t, db)
	c.Now = func() time.Time { return now }
	a, b := open(t, c), open(t, c)
	leaf := func(d *depot.Depot, isNew bool, names ...string) *x509.Certificate {
		t.Helper()
		cert, made, err := d.TLSCertificate(t.Context(), names, nil)
		if err != nil || made != isNew {
			t.Fatalf("TLSCertificate(%q) = %v, %v, want %v", names, made, err, isNew)
		}
		return cert.Leaf
	}
	ofA, ofB := leaf(a, true, "a.example"), leaf(b, true, "b.example")
	if !leaf(a, false, "a.example").Equal(ofA) || !leaf(b, false, "b.example").Equal(ofB) {
		t.Error("one replica's leaf takes the place of the other's")
	}
	if !leaf(b, false, "a.example").Equal(ofA) {
		t.Error("a replica of the same name has a leaf of its own")
	}
	// What one renews, the others find.
	now = now.Add(300 * 24 * time.Hour)
	if renewed := leaf(a, true, "a.example"); !leaf(b, false, "a.example").Equal(renewed) {
		t.Error("the other replica does not find the renewed leaf")
	}
	// Names that nobody goes by any more leave nothing behind.
	now = now.Add(270 * 24 * time.Hour)
	leaf(a, true, "a.example")
	view(t, db, func(tx storage.Tx) error {
		n := 0
		for _, err := range tx.Scan("tls", storage.Range{}) {
			if err != nil {
				return err
			}
			n++
		}
		if n != 1 {
			t.Errorf("%d TLS leaves are kept, want the one in use", n)
		}
		return nil
	})
}

func TestReplicasThatStartAtOnceMakeOneTLSLeaf(t *testing.T) {
	db := storagetest.Open(t)
	open(t, config(t, db))
	var certs [2]tls.Certificate
	var made [2]bool
	get := func(i int) func(storage.DB) {
		return func(db storage.DB) {
			d, err := depot.Open(context.Background(), config(t, db))
			if err == nil {
				certs[i], made[i], err = d.TLSCertificate(context.Background(), []string{"a.example"}, nil)
			}
			if err != nil {
				t.Error(err)
			}
		}
	}
	storagetest.Overlap(db, get(0), get(1))
	if made[0] == made[1] || !certs[0].Leaf.Equal(certs[1].Leaf) {
		t.Errorf("made by each: %v; the same leaf: %v", made, certs[0].Leaf.Equal(certs[1].Leaf))
	}
}

func TestTwoIdentitiesNeverShareAKey(t *testing.T) {
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	key := deviceKey(t)
	record := func(name string, errs *error) func(storage.DB) {
		return func(db storage.DB) {
			cert, err := d.Identity().Sign(key.Public(), template(time.Now()))
			if err == nil {
				err = db.Update(context.Background(), func(tx storage.Tx) error {
					return d.Record(tx, cert, depot.Certificate{Authority: name})
				})
			}
			*errs = err
		}
	}
	var a, b error
	storagetest.Overlap(db, record("identity", &a), record("identity", &b))
	if (a == nil) == (b == nil) || !errors.Is(errors.Join(a, b), storage.ErrExists) {
		t.Errorf("two records of one key: %v and %v, want one nil and the other ErrExists", a, b)
	}
	if record("root", &a)(db); a != nil { // whoever renews a payload certificate may keep its key
		t.Errorf("of another authority: %v", a)
	}
}

func BenchmarkSign(b *testing.B) {
	d := open(b, config(b, storagetest.Open(b)))
	pub := &keys()[1].PublicKey
	tmpl := template(time.Now())
	b.Run("certificate", func(b *testing.B) {
		for b.Loop() {
			if _, err := d.Identity().Sign(pub, tmpl); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("the RSA operation alone", func(b *testing.B) {
		digest := make([]byte, 32)
		for b.Loop() {
			if _, err := rsa.SignPKCS1v15(nil, keys()[0], 5, digest); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestReplicasHearOfEachOthersTLSCertificates(t *testing.T) {
	db := storagetest.Open(t)
	a := open(t, config(t, db))
	b := open(t, config(t, db))
	changed, stop := a.WatchTLS()
	defer stop()
	heard := func(of string) {
		t.Helper()
		select {
		case <-changed:
		case <-time.After(time.Minute):
			t.Fatalf("not told of %s", of)
		}
	}
	cert, isNew, err := b.TLSCertificate(t.Context(), []string{"mdm.example.com"}, nil)
	if err != nil || !isNew {
		t.Fatalf("TLSCertificate: new %v, %v", isNew, err)
	}
	heard("a new certificate")
	err = db.Update(t.Context(), func(tx storage.Tx) error {
		return b.Revoke(tx, depot.FingerprintOf(cert.Leaf), "keyCompromise", time.Now())
	})
	if err != nil {
		t.Fatal(err)
	}
	heard("a revocation")
	again, isNew, err := a.TLSCertificate(t.Context(), []string{"mdm.example.com"}, nil)
	if err != nil || !isNew || again.Leaf.Equal(cert.Leaf) {
		t.Errorf("after the revocation: new %v, %v, want another certificate", isNew, err)
	}
}
