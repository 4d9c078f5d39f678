package enroll_test

import (
	"context"
	"errors"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestEveryIdentityIsInTheAuditLog(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	secret, a := h.challenge(t, h.link(t, enroll.NewLink{Name: "office", Ownership: mdm.Institutional, Uses: 1, User: "ana@example.com"}))
	r := request(t, keyring.take(t), secret)
	for range 2 { // the second is a repetition, and no second certificate
		if _, err := h.IssueIdentity(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.IssueIdentity(context.Background(), request(t, keyring.take(t), secret)); !errors.Is(err, enroll.ErrChallenge) {
		t.Fatalf("the challenge again: %v", err)
	}
	h.view(t, func(tx storage.Tx) error {
		issued, _, err := event.Page(tx, event.Filter{Action: "certificate.issued"}, "", 10)
		if err != nil {
			return err
		}
		if len(issued) != 1 || issued[0].User != "ana@example.com" || issued[0].Details["attempt"] != a.ID || issued[0].Certificate == "" {
			t.Errorf("issued: %+v", issued)
		}
		return nil
	})
	if len(h.refused) != 1 || h.refused[0].Reason == "" || h.refused[0].Template != "identity" {
		t.Errorf("refused: %+v", h.refused)
	}
}
