package issuance_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

const static = "a static challenge"

// staticTemplate is for devices of another MDM.
func (h *house) staticTemplate(t testing.TB, name string) template.Template {
	t.Helper()
	return h.template(t, name, func(tmpl *template.Template) {
		tmpl.Subject = subject(t, "/O=Example/CN=$USERNAME")
		tmpl.SANs = template.SANs{RFC822Names: []string{"$USERNAME@example.com"}}
		tmpl.ChallengeType, tmpl.Challenge = template.Static, static
	})
}

func ana() x509.CertificateRequest {
	return x509.CertificateRequest{
		Subject:        pkix.Name{Organization: []string{"Example"}, CommonName: "ana"},
		EmailAddresses: []string{"ana@example.com"},
	}
}

func TestAStaticChallengeLetsOthersUseOurCA(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.staticTemplate(t, "others")
	h.template(t, "wifi", nil)
	for name, tt := range map[string]struct {
		template, challenge string
		asked               x509.CertificateRequest
		ok                  bool
	}{
		"what the template leaves open":     {"others", static, ana(), true},
		"at an address of no template":      {"", static, ana(), true},
		"a wrong challenge":                 {"others", static + "!", ana(), false},
		"no challenge":                      {"others", "", ana(), false},
		"the challenge of another template": {"wifi", static, ana(), false},
		"another organisation":              {"others", static, x509.CertificateRequest{Subject: pkix.Name{Organization: []string{"Evil"}, CommonName: "ana"}}, false},
		"a name of a kind that it has not":  {"others", static, func() x509.CertificateRequest { r := ana(); r.DNSNames = []string{"www.example.com"}; return r }(), false},
		"an address at another domain":      {"others", static, func() x509.CertificateRequest { r := ana(); r.EmailAddresses = []string{"ana@example.org"}; return r }(), false},
	} {
		t.Run(name, func(t *testing.T) {
			cert, err := h.IssueSCEP(t.Context(), tt.template, request(t, tt.challenge, tt.asked))
			if (err == nil) != tt.ok {
				t.Fatalf("IssueSCEP = %v, want it granted: %v", err, tt.ok)
			}
			if !tt.ok {
				return
			}
			if depot.SubjectOf(cert) != "CN=ana,O=Example" || !slices.Equal(cert.EmailAddresses, []string{"ana@example.com"}) {
				t.Errorf("it is for %s, %v", depot.SubjectOf(cert), cert.EmailAddresses)
			}
			if rec := h.record(t, cert); rec.DeviceID != "" || rec.Template != "others" {
				t.Errorf("record %+v", rec)
			}
		})
	}
}

func TestGuessesAreLimited(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.staticTemplate(t, "others")
	h.device(t, "d1", nil)
	ask := func(peer, challenge string, asked x509.CertificateRequest) error {
		r := request(t, challenge, asked)
		r.Peer = peer
		_, err := h.IssueSCEP(t.Context(), "others", r)
		return err
	}
	for i := range 20 {
		if err := ask("192.0.2.1", fmt.Sprint("guess ", i), ana()); !errors.Is(err, issuance.ErrChallenge) {
			t.Fatalf("guess %d: %v", i, err)
		}
	}
	if err := ask("192.0.2.1", static, ana()); !errors.Is(err, depot.ErrQuota) {
		t.Errorf("after 20 guesses: %v, want ErrQuota", err)
	}
	if err := ask("192.0.2.2", static, ana()); err != nil {
		t.Errorf("from elsewhere: %v", err)
	}
	// What a device of ours has in its profile can't be guessed, and is not held up.
	h.device(t, "d2", func(d *mdm.Device) { d.User = "ana" })
	cmd := h.send(t, "others", "d2")
	if err := ask("192.0.2.1", cmd.challenge(t), asking("x")); err != nil {
		t.Errorf("a device of ours behind the same address: %v", err)
	}
	h.pass(16 * time.Minute)
	if err := ask("192.0.2.1", static, ana()); err != nil {
		t.Errorf("after a quarter of an hour: %v", err)
	}
}

// renewing is a request signed by a certificate that we issued.
func renewing(t testing.TB, old *x509.Certificate, asked x509.CertificateRequest) depot.Request {
	t.Helper()
	r := request(t, "", asked)
	r.Signer, r.Renewal = old, true
	return r
}

func TestACertificateRenewsItself(t *testing.T) {
	storagetest.AnyEngine(t)
	same := x509.CertificateRequest{Subject: pkix.Name{Organization: []string{"Example"}, CommonName: "SNd1"}}
	for name, tt := range map[string]struct {
		after  time.Duration
		before func(t *testing.T, h *house, cert *x509.Certificate, r *depot.Request)
		where  string
		want   error
	}{
		"when it is due":                {after: 340 * day, where: "wifi"},
		"as PKCSReq":                    {after: 340 * day, where: "wifi", before: func(_ *testing.T, _ *house, _ *x509.Certificate, r *depot.Request) { r.Renewal = false }},
		"at an address of no template":  {after: 340 * day},
		"too early":                     {after: 300 * day, where: "wifi", want: issuance.ErrRenewal},
		"when it has expired":           {after: 366 * day, where: "wifi", want: issuance.ErrRenewal},
		"at another template's address": {after: 340 * day, where: "vpn", want: issuance.ErrRenewal},
		"with a challenge that is none": {after: 340 * day, where: "wifi", want: issuance.ErrChallenge, before: func(_ *testing.T, _ *house, _ *x509.Certificate, r *depot.Request) { r.Challenge = "guess" }},
		"revoked": {after: 340 * day, where: "wifi", want: issuance.ErrRenewal, before: func(t *testing.T, h *house, cert *x509.Certificate, _ *depot.Request) {
			h.update(t, func(tx storage.Tx) error {
				return h.depot.Revoke(tx, depot.FingerprintOf(cert), "keyCompromise", h.now())
			})
		}},
		"of a device that has left": {after: 340 * day, where: "wifi", want: issuance.ErrRenewal, before: func(t *testing.T, h *house, _ *x509.Certificate, _ *depot.Request) {
			h.device(t, "d1", func(d *mdm.Device) { d.State = mdm.Unenrolled })
		}},
		"without its template": {after: 340 * day, where: "", want: issuance.ErrRenewal, before: func(t *testing.T, h *house, _ *x509.Certificate, _ *depot.Request) {
			must(t, h.templates.Delete(t.Context(), "test", "wifi"))
		}},
		"an unknown one": {after: 340 * day, where: "wifi", want: issuance.ErrRenewal, before: func(t *testing.T, _ *house, _ *x509.Certificate, r *depot.Request) {
			r.Signer = request(t, "", asking("x")).Signer
		}},
		"for another name": {after: 340 * day, where: "wifi", want: new(depot.FieldError), before: func(t *testing.T, _ *house, cert *x509.Certificate, r *depot.Request) {
			*r = renewing(t, cert, asking("root"))
		}},
		"for another name beside it": {after: 340 * day, where: "wifi", want: new(depot.FieldError), before: func(t *testing.T, _ *house, cert *x509.Certificate, r *depot.Request) {
			more := same
			more.DNSNames = []string{"www.example.com"}
			*r = renewing(t, cert, more)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.template(t, "wifi", nil)
			h.template(t, "vpn", nil)
			h.device(t, "d1", nil)
			old := h.install(t, "wifi", "d1")
			h.pass(tt.after)
			r := renewing(t, old, same)
			if tt.before != nil {
				tt.before(t, h, old, &r)
			}
			cert, err := h.IssueSCEP(t.Context(), tt.where, r)
			if tt.want != nil {
				var field *depot.FieldError
				if _, byField := tt.want.(*depot.FieldError); byField && !errors.As(err, &field) || !byField && !errors.Is(err, tt.want) {
					t.Fatalf("IssueSCEP = %v, want %v", err, tt.want)
				}
				return
			}
			must(t, err)
			if string(cert.RawSubject) != string(old.RawSubject) {
				t.Errorf("subject %s, want that of the old one", cert.Subject)
			}
			if h.revoked(t, old) != "" {
				t.Errorf("the old one is revoked for %q before the new one was seen", h.revoked(t, old))
			}
			if a := h.assignment(t, "wifi", "d1"); a.Current != depot.FingerprintOf(cert) || !a.DueAt.Equal(a.RenewAt) || a.State != issuance.Installed {
				t.Errorf("assignment %+v", a)
			}
			second, err := h.IssueSCEP(t.Context(), tt.where, renewing(t, old, same))
			must(t, err)
			if h.revoked(t, cert) != "superseded" || h.revoked(t, second) != "" {
				t.Errorf("renewed once more, the one before is revoked for %q", h.revoked(t, cert))
			}
			if rec := h.record(t, second); rec.Replaces != depot.SerialOf(old) || rec.DeviceID != "d1" {
				t.Errorf("record %+v", rec)
			}
		})
	}
}

func TestRacingRenewalsLeaveOne(t *testing.T) {
	db := storagetest.Open(t)
	h := houseOn(t, db)
	h.template(t, "wifi", nil)
	h.device(t, "d1", nil)
	old := h.install(t, "wifi", "d1")
	asked := x509.CertificateRequest{Subject: pkix.Name{Organization: []string{"Example"}, CommonName: "SNd1"}}
	a, b := renewing(t, old, asked), renewing(t, old, asked)
	var certs [2]*x509.Certificate
	renew := func(i int, r depot.Request) func(storage.DB) {
		return func(db storage.DB) {
			one := houseOn(t, db)
			one.pass(340 * day)
			var err error
			if certs[i], err = one.IssueSCEP(context.Background(), "wifi", r); err != nil {
				t.Error(err)
			}
		}
	}
	storagetest.Overlap(db, renew(0, a), renew(1, b))
	if (h.revoked(t, certs[0]) == "") == (h.revoked(t, certs[1]) == "") {
		t.Errorf("revoked: %q and %q, want one of them", h.revoked(t, certs[0]), h.revoked(t, certs[1]))
	}
}

func TestKeysAreFresh(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.staticTemplate(t, "others")
	h.template(t, "wifi", nil)
	h.device(t, "d1", nil)
	first := request(t, static, ana())
	_, err := h.IssueSCEP(t.Context(), "others", first)
	must(t, err)
	// A client that keeps its key when it renews still holds it: its request is signed.
	again := first
	again.TransactionID = "another"
	if _, err := h.IssueSCEP(t.Context(), "others", again); err != nil {
		t.Errorf("the same holder's key: %v", err)
	}
	stolen := first
	stolen.Challenge = h.send(t, "wifi", "d1").challenge(t)
	if _, err := h.IssueSCEP(t.Context(), "wifi", stolen); !errors.Is(err, issuance.ErrKeyReused) {
		t.Errorf("another holder's key: %v, want ErrKeyReused", err)
	}
	own := first
	own.CSR = &x509.CertificateRequest{PublicKey: h.depot.Root().Certificate().PublicKey, RawSubject: first.CSR.RawSubject}
	own.Challenge = stolen.Challenge
	if _, err := h.IssueSCEP(t.Context(), "wifi", own); !errors.Is(err, issuance.ErrKeyReused) {
		t.Errorf("our own key: %v, want ErrKeyReused", err)
	}
}

func TestManyGuessesAtOnceAreCountedToo(t *testing.T) {
	h := newHouse(t)
	h.staticTemplate(t, "others")
	var looked atomic.Int32
	var wg sync.WaitGroup
	for i := range 100 {
		r := request(t, fmt.Sprint("guess ", i), ana())
		wg.Go(func() {
			_, err := h.IssueSCEP(context.Background(), "others", r)
			if errors.Is(err, issuance.ErrChallenge) {
				looked.Add(1)
			} else if !errors.Is(err, depot.ErrQuota) {
				t.Errorf("guess: %v", err)
			}
		})
	}
	wg.Wait()
	if n := looked.Load(); n > 20 {
		t.Errorf("%d guesses at once were looked at, want 20", n)
	}
}

func TestAStaticChallengeIsGoodForSoMany(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.staticTemplate(t, "others")
	issue := func() error {
		_, err := h.IssueSCEP(t.Context(), "others", request(t, static, ana()))
		return err
	}
	must(t, issue())
	must(t, h.db.Update(t.Context(), func(tx storage.Tx) error {
		return issuance.SpendStatic(tx, h.Service, "others", request(t, static, ana()).Peer, issuance.MaxStatic-2)
	}))
	if err := issue(); err != nil {
		t.Errorf("the last of a minute: %v", err)
	}
	if err := issue(); !errors.Is(err, depot.ErrQuota) {
		t.Fatalf("after %d in a minute: %v, want ErrQuota", issuance.MaxStatic, err)
	}
	elsewhere := request(t, static, ana())
	elsewhere.Peer = "198.51.100.1"
	if _, err := h.IssueSCEP(t.Context(), "others", elsewhere); err != nil {
		t.Errorf("from elsewhere: %v", err)
	}
	h.pass(time.Minute)
	if err := issue(); err != nil {
		t.Errorf("a minute later: %v", err)
	}
}
