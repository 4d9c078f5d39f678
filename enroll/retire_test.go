package enroll_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// byHand records n payload certificates that no assignment stands behind.
func (h *house) byHand(t *testing.T, n int) (list []*x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	for range n {
		cert, err := h.depot.Payload().Sign(key.Public(), depot.Contents{
			Name: "printer", Subject: pkix.Name{CommonName: "Printer"}, NotBefore: h.now(), NotAfter: h.now().AddDate(1, 0, 0),
		})
		must(t, err)
		list = append(list, cert)
	}
	must(t, h.db.Update(context.Background(), func(tx storage.Tx) error {
		for _, cert := range list {
			if err := h.depot.Record(tx, cert, depot.Certificate{Authority: "payload", Template: "printer", Door: "manual"}); err != nil {
				return err
			}
		}
		return nil
	}))
	return list
}

func TestAnIssuerIsNotRetiredUnderCertificatesThatNobodyReplaces(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	h := newHouse(t)
	certs := h.byHand(t, 102)
	old := h.depot.Payload()
	h.rollOver(t, "payload", enroll.StartRollover{})
	h.byHand(t, 1) // of the new one
	h.pass(10 * time.Minute)
	h.round(t)
	must(t, h.db.Update(ctx, func(tx storage.Tx) error {
		return h.depot.Revoke(tx, depot.FingerprintOf(certs[0]), "superseded", h.now())
	}))

	var inUse *enroll.InUseError
	_, err := h.RetireAuthority(ctx, "payload", old.ID(), enroll.Retirement{})
	if !errors.As(err, &inUse) || inUse.Total != 101 || len(inUse.Blockers) != 1 {
		t.Fatalf("RetireAuthority = %v, want 101 certificates to block it", err)
	}
	b := inUse.Blockers[0]
	if b.Kind != enroll.BlockedByHolders || b.Count != 101 || len(b.Serials) != 100 || !strings.HasPrefix(b.Reason, "101 certificates") {
		t.Errorf("the blocker is %s of %d with %d serial numbers: %s", b.Kind, b.Count, len(b.Serials), b.Reason)
	}
	gone, err := h.RetireAuthority(ctx, "payload", old.ID(), enroll.Retirement{Force: true})
	must(t, err)
	if gone.State() != depot.StateRetired || h.audited(t, "ca.retired") != 1 {
		t.Errorf("forced it is %s", gone.State())
	}
	if c := h.record(t, certs[1]); !c.RevokedAt.IsZero() {
		t.Errorf("a certificate is revoked for %s, want it to stay as it was", c.RevocationReason)
	}
}

func TestForceLeavesNoDeviceBehind(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	p := h.fleet(t, 1)[0]
	old := h.depot.Identity()
	h.rollOver(t, "identity", enroll.StartRollover{})
	h.pass(2 * time.Minute)
	var inUse *enroll.InUseError
	_, err := h.RetireAuthority(context.Background(), "identity", old.ID(), enroll.Retirement{Force: true})
	if !errors.As(err, &inUse) || inUse.Total != 1 || inUse.Blockers[0].DeviceID != h.device(t, p.id).ID {
		t.Errorf("RetireAuthority = %v, want the device to block it", err)
	}
}
