package identity_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestVisitsOfANetworkAreCounted(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	h, _, at := open(t)
	for i := range identity.MaxVisits {
		if err := h.CountVisit(ctx, "2001:db8::1"); err != nil {
			t.Fatalf("visit %d: %v", i+1, err)
		}
	}
	err := h.CountVisit(ctx, "2001:db8::2")
	if !errors.Is(err, identity.ErrThrottled) || identity.RetryAfter(err) != 15*time.Minute {
		t.Errorf("one more from the network = %v, to be tried again in %s", err, identity.RetryAfter(err))
	}
	if err := h.CountVisit(ctx, "192.0.2.1"); err != nil {
		t.Errorf("from elsewhere: %v", err)
	}
	at.Advance(15 * time.Minute)
	if err := h.CountVisit(ctx, "2001:db8::1"); err != nil {
		t.Errorf("a quarter of an hour later: %v", err)
	}
}
