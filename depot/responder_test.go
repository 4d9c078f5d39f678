package depot_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func responder(t testing.TB, d *depot.Depot, a *depot.Authority) *depot.Responder {
	t.Helper()
	r, err := d.Responder(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	public, ok := r.Certificate().PublicKey.(interface{ Equal(x crypto.PublicKey) bool })
	if !ok || !public.Equal(r.Signer().Public()) {
		t.Error("the responder's certificate is not of its key")
	}
	return r
}

func TestAResponderMaySignOCSPAnswersAndNothingElse(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	c := config(t, db)
	c.URL = &url.URL{Scheme: "https", Host: "mdm.example.com"}
	d := open(t, c)
	for _, a := range []*depot.Authority{d.Identity(), d.Root(), d.Payload()} {
		t.Run(a.Name(), func(t *testing.T) {
			cert := responder(t, d, a).Certificate()
			if err := cert.CheckSignatureFrom(a.Certificate()); err != nil {
				t.Error(err)
			}
			if cert.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}) ||
				len(cert.UnknownExtKeyUsage) != 0 || cert.IsCA {
				t.Errorf("usage %b, %v, %v, CA %v", cert.KeyUsage, cert.ExtKeyUsage, cert.UnknownExtKeyUsage, cert.IsCA)
			}
			noCheck := slices.ContainsFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.String() == "1.3.6.1.5.5.7.48.1.5" })
			if !noCheck || len(cert.OCSPServer) != 0 || len(cert.CRLDistributionPoints) != 0 {
				t.Errorf("ocsp-nocheck %v, and it names %v and %v to ask at", noCheck, cert.OCSPServer, cert.CRLDistributionPoints)
			}
			if life := cert.NotAfter.Sub(cert.NotBefore); life > 100*24*time.Hour {
				t.Errorf("it lasts for %v, and nobody can be told that it was revoked", life)
			}
			if len(cert.Subject.CommonName) > 64 || !strings.HasPrefix(cert.Subject.CommonName, "OCSP (") {
				t.Errorf("it is called %q", cert.Subject.CommonName)
			}
			var rec depot.Certificate
			err := db.View(t.Context(), func(tx storage.Tx) (err error) {
				rec, err = d.Status(tx, a, depot.SerialOf(cert))
				return err
			})
			if err != nil || rec.Template != "ocsp" || rec.DeviceID != "" || rec.AttemptID != "" {
				t.Errorf("its record is %+v, %v", rec, err)
			}
			text := openssl(t, map[string][]byte{"r": cert.Raw}, "openssl x509 -inform der -in r -noout -text")
			for _, want := range []string{"OCSP Signing", "OCSP No Check", "prime256v1"} {
				if !strings.Contains(text, want) {
					t.Errorf("openssl does not say %q:\n%s", want, text)
				}
			}
		})
	}
}

func TestReplicasShareTheResponder(t *testing.T) {
	db := storagetest.Open(t)
	a, b := open(t, config(t, db)), open(t, config(t, db))
	var got [2]*depot.Responder
	ask := func(i int, d *depot.Depot) func(storage.DB) {
		return func(storage.DB) { got[i] = responder(t, d, d.Payload()) }
	}
	var both sync.WaitGroup
	both.Go(func() { ask(0, a)(db) })
	both.Go(func() { ask(1, b)(db) })
	both.Wait()
	if !got[0].Certificate().Equal(got[1].Certificate()) {
		t.Error("two replicas that asked at once sign with two certificates")
	}
	again := responder(t, open(t, config(t, db)), a.Payload())
	if !again.Certificate().Equal(got[0].Certificate()) {
		t.Error("after a restart there is another responder")
	}
	if other := responder(t, a, a.Root()); bytes.Equal(other.Certificate().RawSubjectPublicKeyInfo, again.Certificate().RawSubjectPublicKeyInfo) {
		t.Error("two authorities have their answers signed by one key")
	}
}

func TestAResponderIsReplacedInTime(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	c := config(t, db)
	now := time.Now().UTC().Truncate(time.Second)
	c.Now = func() time.Time { return now }
	d := open(t, c)
	first := responder(t, d, d.Payload())
	replaced := func(what string, by *depot.Responder, want bool) {
		t.Helper()
		if got := !by.Certificate().Equal(first.Certificate()); got != want {
			t.Errorf("%s: replaced %v, want %v", what, got, want)
		}
		first = by
	}
	now = first.RenewAt().Add(-time.Second)
	replaced("before two thirds of its life", responder(t, d, d.Payload()), false)
	now = first.RenewAt()
	if left := first.Certificate().NotAfter.Sub(now); left < 7*24*time.Hour {
		t.Errorf("it is renewed %v before its end", left)
	}
	replaced("after two thirds", responder(t, d, d.Payload()), true)
	update(t, db, func(tx storage.Tx) error {
		return d.Revoke(tx, depot.FingerprintOf(first.Certificate()), "keyCompromise", now)
	})
	replaced("revoked", responder(t, d, d.Payload()), true)
	now = now.Add(-48 * time.Hour)
	replaced("with the clock set back", responder(t, d, d.Payload()), true)

	end := d.Payload().Certificate().NotAfter
	now = end.Add(-24 * time.Hour)
	last := responder(t, d, d.Payload())
	if !last.Certificate().NotAfter.Equal(end) {
		t.Errorf("the last one ends at %v, its authority at %v", last.Certificate().NotAfter, end)
	}
	first = last
	now = end.Add(-time.Minute)
	replaced("the last one, shortly before its authority's end", responder(t, d, d.Payload()), false)
	now = end.Add(time.Minute)
	if _, err := d.Responder(t.Context(), d.Payload()); !errors.Is(err, depot.ErrAuthorityExpired) {
		t.Errorf("after its authority's end: %v, want %v", err, depot.ErrAuthorityExpired)
	}
}

func TestStanding(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	good := issued(t, d, db, d.Payload(), template(time.Now()), depot.Certificate{Template: "wifi"})
	bad := issued(t, d, db, d.Payload(), template(time.Now()), depot.Certificate{Template: "wifi"})
	foreign := issued(t, d, db, d.Root(), template(time.Now()), depot.Certificate{Template: "wifi"})
	standing := func(a *depot.Authority, serials ...depot.Serial) depot.Standing {
		t.Helper()
		st, err := d.Standing(t.Context(), a, serials...)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	before := standing(d.Payload())
	if before.Number != 0 || len(before.Certificates) != 0 {
		t.Errorf("before any revocation %+v", before)
	}
	update(t, db, func(tx storage.Tx) error { return d.Revoke(tx, depot.FingerprintOf(bad), "keyCompromise", time.Now()) })
	st := standing(d.Payload(), depot.SerialOf(bad), "", depot.SerialOf(foreign), depot.SerialOf(good), "1234")
	if st.Number <= before.Number {
		t.Errorf("a revocation left the number at %d", st.Number)
	}
	var got []string
	for _, c := range st.Certificates {
		got = append(got, string(c.Serial)+" "+c.RevocationReason)
	}
	if want := []string{bad.SerialNumber.Text(16) + " keyCompromise", " ", " ", good.SerialNumber.Text(16) + " ", " "}; !slices.Equal(got, want) {
		t.Errorf("standing %q, want %q", got, want)
	}
	if st := standing(d.Root()); st.Number != 0 {
		t.Errorf("the root's number is %d after a revocation of another authority", st.Number)
	}
	for name, tt := range map[string]struct {
		issuer, of *depot.Authority
		known      bool
	}{
		"the issuer below the root":         {d.Root(), d.Payload(), true},
		"the root itself":                   {d.Root(), d.Root(), true},
		"an authority of another":           {d.Root(), d.Identity(), false},
		"the root, asked of the one below":  {d.Payload(), d.Root(), false},
		"the one below, asked of itself":    {d.Payload(), d.Payload(), false},
		"the identity CA, asked of itself":  {d.Identity(), d.Identity(), true},
		"the identity CA, asked of another": {d.Payload(), d.Identity(), false},
	} {
		serial := depot.SerialOf(tt.of.Certificate())
		if c := standing(tt.issuer, serial).Certificates[0]; (c.Serial == serial) != tt.known {
			t.Errorf("%s: known %v, want %v", name, c.Serial != "", tt.known)
		}
	}
}
