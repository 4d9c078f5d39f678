package enroll_test

import (
	"context"
	"crypto/x509"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// issued counts the identities on record.
func (h *house) issued(t testing.TB) int {
	t.Helper()
	n := 0
	h.view(t, func(tx storage.Tx) error {
		n = 0
		page, _, err := h.depot.Page(tx, "", 1000)
		for _, c := range page {
			if c.Authority == h.depot.Identity().Name() {
				n++
			}
		}
		return err
	})
	return n
}

func TestWhoIsGivenNoIdentity(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	l := h.link(t, enroll.NewLink{Uses: 10})
	used, _ := h.challenge(t, l)
	usedKey := keyring.take(t)
	if _, err := h.IssueIdentity(ctx, request(t, usedKey, used)); err != nil {
		t.Fatal(err)
	}
	expired, _ := h.challenge(t, l)
	h.pass(time.Hour)
	good, _ := h.challenge(t, l)
	revokedLink := h.link(t, enroll.NewLink{})
	revoked, _ := h.challenge(t, revokedLink)
	if err := h.RevokeLink(ctx, revokedLink.ID); err != nil {
		t.Fatal(err)
	}
	asRenewal := request(t, keyring.take(t), "")
	asRenewal.Renewal = true

	for name, tt := range map[string]struct {
		r    depot.Request
		want error
	}{
		"no challenge":                    {request(t, keyring.take(t), ""), enroll.ErrChallenge},
		"a wrong challenge":               {request(t, keyring.take(t), "wrong"), enroll.ErrChallenge},
		"an expired challenge":            {request(t, keyring.take(t), expired), enroll.ErrChallenge},
		"a used challenge":                {request(t, keyring.take(t), used), enroll.ErrChallenge},
		"the challenge of a revoked link": {request(t, keyring.take(t), revoked), enroll.ErrChallenge},
		"a key that was certified before": {request(t, usedKey, good), enroll.ErrKeyReused},
		"a renewal of nothing":            {asRenewal, enroll.ErrRenewal},
	} {
		t.Run(name, func(t *testing.T) {
			before := h.issued(t)
			_, err := h.IssueIdentity(ctx, tt.r)
			wantErr(t, "IssueIdentity", err, tt.want)
			if n := h.issued(t); n != before {
				t.Errorf("%d certificates were issued", n-before)
			}
		})
	}
	if _, err := h.IssueIdentity(ctx, request(t, keyring.take(t), good)); err != nil {
		t.Errorf("the good challenge, after all that: %v", err)
	}
}

func TestOneChallengeBuysOneCertificate(t *testing.T) {
	keyring.reset()
	h := newHouse(t)
	secret, _ := h.challenge(t, h.link(t, enroll.NewLink{Uses: 5}))
	requests := make([]depot.Request, 12)
	for i := range requests {
		requests[i] = request(t, keyring.take(t), secret)
	}
	var wg sync.WaitGroup
	won := make(chan *x509.Certificate, len(requests))
	for _, r := range requests {
		wg.Go(func() {
			if cert, err := h.IssueIdentity(context.Background(), r); err == nil {
				won <- cert
			}
		})
	}
	wg.Wait()
	if len(won) != 1 || h.issued(t) != 1 {
		t.Errorf("%d of %d racers got a certificate, %d on record; want 1", len(won), len(requests), h.issued(t))
	}
}

func TestTheSameRequestGetsTheSameCertificate(t *testing.T) {
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	l := h.link(t, enroll.NewLink{Uses: 5})
	secret, _ := h.challenge(t, l)
	r := request(t, keyring.take(t), secret)
	first, err := h.IssueIdentity(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	again, err := h.IssueIdentity(ctx, r)
	if err != nil || !again.Equal(first) || h.issued(t) != 1 {
		t.Errorf("again: %v; %d on record; want the same certificate", err, h.issued(t))
	}
	if l, err := h.Link(ctx, l.ID); err != nil || l.UsesLeft != 4 {
		t.Errorf("uses left = %d, %v; want 4", l.UsesLeft, err)
	}
	other := r
	other.TransactionID = "T2"
	_, err = h.IssueIdentity(ctx, other)
	wantErr(t, "another transaction", err, enroll.ErrKeyReused)

	var wg sync.WaitGroup // retries that overtake one another
	secret, _ = h.challenge(t, l)
	r = request(t, keyring.take(t), secret)
	serials := make(chan string, 8)
	for range cap(serials) {
		wg.Go(func() {
			cert, err := h.IssueIdentity(ctx, r)
			if err != nil {
				t.Error(err)
				return
			}
			serials <- cert.SerialNumber.String()
		})
	}
	wg.Wait()
	close(serials)
	want := ""
	for s := range serials {
		if want == "" {
			want = s
		}
		if s != want {
			t.Error("concurrent retries got different certificates")
		}
	}

	h.pass(25 * time.Hour)
	_, err = h.IssueIdentity(ctx, r)
	wantErr(t, "a day later", err, enroll.ErrKeyReused)
}

func TestRenewalSignedByTheOldCertificate(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	p := h.enrolled(t, "ana", iphone)
	other := h.enrolled(t, "bob", mdm.AppleID{UDID: "other"})
	d := h.device(t, iphone)
	unused := h.withIdentity(t, h.link(t, enroll.NewLink{}), mdm.AppleID{UDID: "nobody"})

	renew := func(signer *x509.Certificate, challenge string) (*x509.Certificate, error) {
		r := request(t, keyring.take(t), challenge)
		r.Signer, r.Renewal = signer, true
		return h.IssueIdentity(ctx, r)
	}
	_, err := renew(unused.cert, "")
	wantErr(t, "by a certificate of no device", err, enroll.ErrRenewal)
	_, err = renew(h.depot.Root().Certificate(), "")
	wantErr(t, "by a certificate that is no identity", err, enroll.ErrRenewal)
	_, err = renew(p.cert, "wrong")
	wantErr(t, "with a wrong challenge", err, enroll.ErrChallenge)

	cert, err := renew(p.cert, "")
	if err != nil {
		t.Fatal(err)
	}
	if rec := h.record(t, cert); rec.DeviceID != string(d.ID) || cert.Subject.CommonName != string(d.ID) {
		t.Errorf("record = %+v, subject %s; want the device's", rec, cert.Subject)
	}
	if _, err := p.idle(); err != nil {
		t.Errorf("the old certificate, before the new one was used: %v", err)
	}
	renewed := phone{h: h, id: iphone, cert: cert}
	if _, err := renewed.idle(); err != nil {
		t.Errorf("the new certificate: %v", err)
	}
	_, err = p.idle()
	wantErr(t, "the old certificate, after the new one was used", err, enroll.ErrRetired)
	if rec := h.record(t, p.cert); rec.RevocationReason != "superseded" {
		t.Errorf("the old certificate's record = %+v, want superseded", rec)
	}
	_, err = renew(p.cert, "")
	wantErr(t, "by the retired certificate", err, enroll.ErrRenewal)
	if _, err := other.idle(); err != nil {
		t.Errorf("another device: %v", err)
	}

	h.pass(366 * 24 * time.Hour)
	_, err = renew(renewed.cert, "")
	wantErr(t, "by an expired certificate", err, enroll.ErrRenewal)
}
