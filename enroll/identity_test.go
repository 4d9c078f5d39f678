package enroll_test

import (
	"context"
	"errors"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// The identity CA signs for its OCSP signer, whose key is not a device's.
func TestTheOCSPSignerIsNoDevice(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	h := newHouse(t)
	r, err := h.depot.Responder(ctx, h.depot.Identity())
	must(t, err)
	p := enroll.Peer{Certificate: r.Certificate()}
	if err := h.Recognize(ctx, p); !errors.Is(err, enroll.ErrUnidentified) {
		t.Errorf("Recognize = %v, want %v", err, enroll.ErrUnidentified)
	}
	err = h.Authenticate(ctx, p, enroll.AuthenticateMessage{ID: iphone, Topic: "com.apple.mgmt.External.0000", Facts: mdm.Facts{SerialNumber: "C02"}})
	if !errors.Is(err, enroll.ErrUnidentified) {
		t.Errorf("Authenticate = %v, want %v", err, enroll.ErrUnidentified)
	}
}
