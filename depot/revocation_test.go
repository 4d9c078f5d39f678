package depot_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// issued signs and records a certificate of a.
func issued(t testing.TB, d *depot.Depot, db storage.DB, a *depot.Authority, c depot.Contents, rec depot.Certificate) *x509.Certificate {
	t.Helper()
	cert, err := a.Sign(deviceKey(t).Public(), c)
	if err != nil {
		t.Fatal(err)
	}
	rec.Authority = a.Name()
	update(t, db, func(tx storage.Tx) error { return d.Record(tx, cert, rec) })
	return cert
}

func list(t testing.TB, d *depot.Depot, a *depot.Authority) (*x509.RevocationList, []byte) {
	t.Helper()
	der, state, err := d.RevocationList(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := crl.CheckSignatureFrom(a.Certificate()); err != nil {
		t.Error(err)
	}
	if crl.Number.Cmp(big.NewInt(state.Number)) != 0 || !crl.ThisUpdate.Equal(state.ThisUpdate) || !crl.NextUpdate.Equal(state.NextUpdate) {
		t.Errorf("the list says number %v, %v to %v; its state %+v", crl.Number, crl.ThisUpdate, crl.NextUpdate, state)
	}
	return crl, der
}

func serials(crl *x509.RevocationList) (list []string) {
	for _, e := range crl.RevokedCertificateEntries {
		list = append(list, e.SerialNumber.Text(16))
	}
	slices.Sort(list)
	return list
}

func TestARevocationIsOnTheListOfItsIssuer(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	now := time.Now()
	wifi := issued(t, d, db, d.Payload(), template(now), depot.Certificate{Template: "wifi", DeviceID: "d1"})
	vpn := issued(t, d, db, d.Payload(), template(now), depot.Certificate{Template: "vpn", DeviceID: "d1"})
	identity := issued(t, d, db, d.Identity(), template(now), depot.Certificate{Template: "identity", DeviceID: "d1"})
	good := issued(t, d, db, d.Payload(), template(now), depot.Certificate{Template: "wifi", DeviceID: "d2"})

	first, _ := list(t, d, d.Payload())
	if len(serials(first)) != 0 || first.NextUpdate.Sub(first.ThisUpdate) < 24*time.Hour {
		t.Errorf("the first list holds %v, for %v", serials(first), first.NextUpdate.Sub(first.ThisUpdate))
	}
	revoke := func(cert *x509.Certificate, reason string) {
		t.Helper()
		update(t, db, func(tx storage.Tx) error { return d.Revoke(tx, depot.FingerprintOf(cert), reason, now) })
	}
	revoke(wifi, "keyCompromise")
	second, bytes := list(t, d, d.Payload())
	if want := []string{wifi.SerialNumber.Text(16)}; !slices.Equal(serials(second), want) {
		t.Fatalf("the list holds %v, want %v", serials(second), want)
	}
	entry := second.RevokedCertificateEntries[0]
	if entry.ReasonCode != 1 || !entry.RevocationTime.Equal(now.UTC().Truncate(time.Second)) {
		t.Errorf("entry with reason %d at %v, want 1 at %v", entry.ReasonCode, entry.RevocationTime, now)
	}
	if second.Number.Int64() != first.Number.Int64()+1 {
		t.Errorf("number %v after %v, want one more", second.Number, first.Number)
	}

	revoke(wifi, "superseded")
	if again, same := list(t, d, d.Payload()); again.Number.Cmp(second.Number) != 0 || string(same) != string(bytes) {
		t.Error("a second revocation of the same certificate made another list")
	}
	update(t, db, func(tx storage.Tx) error { return d.RevokeDevice(tx, "d1", "cessationOfOperation", now) })
	third, _ := list(t, d, d.Payload())
	if want := slices.Sorted(slices.Values([]string{wifi.SerialNumber.Text(16), vpn.SerialNumber.Text(16)})); !slices.Equal(serials(third), want) {
		t.Errorf("after its device's end the list holds %v, want %v and not %x", serials(third), want, good.SerialNumber)
	}
	if crl, _ := list(t, d, d.Identity()); !slices.Equal(serials(crl), []string{identity.SerialNumber.Text(16)}) {
		t.Errorf("the identity CA's list holds %v", serials(crl))
	}
	if crl, _ := list(t, d, d.Root()); len(serials(crl)) != 0 {
		t.Errorf("the root's list holds %v", serials(crl))
	}
}

func TestReplicasPublishTheSameBytes(t *testing.T) {
	db := storagetest.Open(t)
	a, b := open(t, config(t, db)), open(t, config(t, db))
	cert := issued(t, a, db, a.Payload(), template(time.Now()), depot.Certificate{Template: "wifi"})
	changed, stop := b.WatchRevocations()
	defer stop()
	update(t, db, func(tx storage.Tx) error { return a.Revoke(tx, depot.FingerprintOf(cert), "unspecified", time.Now()) })
	select {
	case <-changed:
	case <-time.After(time.Minute):
		t.Fatal("the other replica was not told of the revocation")
	}
	_, one := list(t, a, a.Payload())
	_, other := list(t, b, b.Payload())
	if string(one) != string(other) {
		t.Error("two replicas have different lists of one number")
	}
}

func TestNumbersNeverRepeatWhenRevocationsRace(t *testing.T) {
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	certs := [2]*x509.Certificate{}
	for i := range certs {
		certs[i] = issued(t, d, db, d.Payload(), template(time.Now()), depot.Certificate{Template: "wifi"})
	}
	before, _ := list(t, d, d.Payload())
	revoke := func(cert *x509.Certificate) func(storage.DB) {
		return func(db storage.DB) {
			err := db.Update(context.Background(), func(tx storage.Tx) error {
				return d.Revoke(tx, depot.FingerprintOf(cert), "superseded", time.Now())
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
	storagetest.Overlap(db, revoke(certs[0]), revoke(certs[1]))
	after, _ := list(t, d, d.Payload())
	if len(serials(after)) != 2 || after.Number.Int64() != before.Number.Int64()+2 {
		t.Errorf("%d entries and number %v after %v, want 2 and two more", len(serials(after)), after.Number, before.Number)
	}
}

func TestAListGrowsNeitherOldNorLong(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	c := config(t, db)
	now := time.Now().UTC().Truncate(time.Second)
	c.Now = func() time.Time { return now }
	d := open(t, c)
	short := template(now)
	short.NotAfter = now.Add(48 * time.Hour)
	cert := issued(t, d, db, d.Payload(), short, depot.Certificate{Template: "wifi"})
	update(t, db, func(tx storage.Tx) error { return d.Revoke(tx, depot.FingerprintOf(cert), "superseded", now) })
	first, _ := list(t, d, d.Payload())

	turn := func(pass time.Duration) *x509.RevocationList {
		t.Helper()
		now = now.Add(pass)
		if err := d.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		crl, _ := list(t, d, d.Payload())
		return crl
	}
	if crl := turn(time.Hour); crl.Number.Cmp(first.Number) != 0 {
		t.Errorf("an hour later the list has number %v, want still %v", crl.Number, first.Number)
	}
	day := turn(24 * time.Hour)
	if day.Number.Int64() != first.Number.Int64()+1 || !day.ThisUpdate.Equal(now) || !day.NextUpdate.After(now.AddDate(0, 0, 6)) {
		t.Errorf("a day later: number %v, %v to %v", day.Number, day.ThisUpdate, day.NextUpdate)
	}
	if expired := turn(3 * 24 * time.Hour); len(serials(expired)) != 1 {
		t.Error("a revocation left the list with the end of its certificate; RFC 5280, 3.3, wants it on one list more")
	}
	if old := turn(90 * 24 * time.Hour); len(serials(old)) != 0 {
		t.Error("the revocation of a certificate that ended long ago is still on the list")
	}
	now = now.Add(-time.Hour)
	back := issued(t, d, db, d.Payload(), template(now), depot.Certificate{Template: "wifi"})
	before, _ := list(t, d, d.Payload())
	update(t, db, func(tx storage.Tx) error { return d.Revoke(tx, depot.FingerprintOf(back), "superseded", now) })
	if crl, _ := list(t, d, d.Payload()); crl.ThisUpdate.Before(before.ThisUpdate) || crl.Number.Int64() != before.Number.Int64()+1 {
		t.Errorf("with the clock set back: number %v of %v after %v of %v", crl.Number, crl.ThisUpdate, before.Number, before.ThisUpdate)
	}
}

func TestStatus(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	cert := issued(t, d, db, d.Payload(), template(time.Now()), depot.Certificate{Template: "wifi"})
	for name, tt := range map[string]struct {
		a      *depot.Authority
		serial depot.Serial
		want   error
	}{
		"its issuer":        {d.Payload(), depot.SerialOf(cert), nil},
		"another authority": {d.Identity(), depot.SerialOf(cert), storage.ErrNotFound},
		"an unknown number": {d.Payload(), "1234", storage.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			err := db.View(t.Context(), func(tx storage.Tx) error {
				c, err := d.Status(tx, tt.a, tt.serial)
				if err == nil && c.Fingerprint != depot.FingerprintOf(cert) {
					t.Error("the status is of another certificate")
				}
				return err
			})
			if !errors.Is(err, tt.want) {
				t.Errorf("Status = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestCertificatesOfAUserEndWithTheUser(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	own := issued(t, d, db, d.Payload(), template(time.Now()), depot.Certificate{Template: "mail", User: "ana@example.com"})
	devices := issued(t, d, db, d.Payload(), template(time.Now()), depot.Certificate{Template: "wifi", User: "ana@example.com", DeviceID: "d1"})
	others := issued(t, d, db, d.Payload(), template(time.Now()), depot.Certificate{Template: "mail", User: "bo@example.com"})
	update(t, db, func(tx storage.Tx) error {
		return d.RevokeUser(tx, "ana@example.com", "privilegeWithdrawn", time.Now())
	})
	for name, tt := range map[string]struct {
		cert *x509.Certificate
		want string
	}{
		"her own": {own, "privilegeWithdrawn"}, "her device's, which ends with the device": {devices, ""}, "another user's": {others, ""},
	} {
		err := db.View(t.Context(), func(tx storage.Tx) error {
			c, err := d.Get(tx, depot.FingerprintOf(tt.cert))
			if err == nil && c.RevocationReason != tt.want {
				t.Errorf("%s: revoked for %q, want %q", name, c.RevocationReason, tt.want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestContentsOfEveryKind(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	c := config(t, db)
	c.URL = &url.URL{Scheme: "https", Host: "mdm.example.com:8443"}
	d := open(t, c)
	subject, err := asn1.Marshal(pkix.Name{CommonName: "anä", Organization: []string{"Example"}}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	contents := template(time.Now())
	contents.Subject, contents.RawSubject = pkix.Name{}, subject
	contents.EmailAddresses = []string{"ana@example.com", "a@example.org"}
	contents.DNSNames = []string{"mac.example.com"}
	contents.URIs = []string{"mdm-device://0A1B"}
	contents.UserPrincipalNames = []string{"anä@example.com"}
	cert := issued(t, d, db, d.Payload(), contents, depot.Certificate{Template: "wifi"})
	if string(cert.RawSubject) != string(subject) {
		t.Errorf("subject %x, want %x", cert.RawSubject, subject)
	}
	want := []string{"ana@example.com", "a@example.org", "mac.example.com", "mdm-device://0A1B", "upn:anä@example.com"}
	if got := depot.AlternativeNames(cert); !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
	id := d.Payload().ID()
	if !slices.Equal(cert.CRLDistributionPoints, []string{"https://mdm.example.com:8443/crl/" + id + ".crl"}) ||
		!slices.Equal(cert.OCSPServer, []string{"https://mdm.example.com:8443/ocsp"}) ||
		!slices.Equal(cert.IssuingCertificateURL, []string{"https://mdm.example.com:8443/ca/" + id + ".cer"}) {
		t.Errorf("pointers %v, %v, %v", cert.CRLDistributionPoints, cert.OCSPServer, cert.IssuingCertificateURL)
	}
	_, der := list(t, d, d.Payload())
	text := openssl(t, map[string][]byte{"leaf": cert.Raw, "issuer": d.Payload().Certificate().Raw, "root": d.Root().Certificate().Raw, "crl": der},
		"for f in leaf issuer root; do openssl x509 -inform der -in $f -out $f.pem; done; openssl crl -inform der -in crl -out crl.pem; "+
			"openssl verify -crl_check -CAfile root.pem -untrusted issuer.pem -CRLfile crl.pem leaf.pem && openssl x509 -in leaf.pem -noout -ext subjectAltName")
	for _, want := range []string{"leaf.pem: OK", "email:ana@example.com", "DNS:mac.example.com", "URI:mdm-device://0A1B"} {
		if !strings.Contains(text, want) {
			t.Errorf("openssl does not say %q:\n%s", want, text)
		}
	}

	for name, spoil := range map[string]func(*depot.Contents){
		"an address that is not ASCII": func(c *depot.Contents) { c.EmailAddresses = []string{"änä@example.com"} },
		"an empty DNS name":            func(c *depot.Contents) { c.DNSNames = []string{""} },
		"an empty principal name":      func(c *depot.Contents) { c.UserPrincipalNames = []string{""} },
		"any purpose":                  func(c *depot.Contents) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageAny) },
	} {
		t.Run(name, func(t *testing.T) {
			bad := template(time.Now())
			spoil(&bad)
			if _, err := d.Payload().Sign(deviceKey(t).Public(), bad); err == nil {
				t.Error("it was issued")
			}
		})
	}
}

// openssl runs a script among files.
func openssl(t testing.TB, files map[string][]byte, script string) string {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("openssl is not installed")
		}
		t.Skip("skipped: openssl is not installed")
	}
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
	return string(out)
}

func BenchmarkRevocationList(b *testing.B) {
	const n = 100_000
	db, err := bolt.Open(b.Context(), filepath.Join(b.TempDir(), "gatehouse.db"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	d := open(b, config(b, db))
	now := time.Now().UTC()
	for i := 0; i < n; i += 1000 {
		err := db.Update(b.Context(), func(tx storage.Tx) error {
			for j := range 1000 {
				if err := depot.PutRevocation(tx, d.Payload(), i+j, now); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(n, "entries")
	for b.Loop() {
		if _, _, err := d.RevocationList(b.Context(), d.Payload()); err != nil {
			b.Fatal(err)
		}
	}
}
