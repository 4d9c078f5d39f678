package issuance_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// suspend is what package enroll does with a user whose devices stay.
func (h *house) suspend(t testing.TB, u identity.User, ids ...mdm.DeviceID) {
	t.Helper()
	h.enable(t, u, false)
	h.update(t, func(tx storage.Tx) error {
		for _, id := range ids {
			if err := errors.Join(h.depot.RevokePayloads(tx, string(id), "privilegeWithdrawn", h.now()), h.Suspended(tx, id)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (h *house) enable(t testing.TB, u identity.User, yes bool) {
	t.Helper()
	no := !yes
	_, err := h.people.UpdateUser(context.Background(), identity.Local(), u.ID, identity.UserChange{Disabled: &no})
	must(t, err)
}

// TestADisabledUsersDeviceGetsNoCertificate tries every right to one, of which the device has
// some in hand.
func TestADisabledUsersDeviceGetsNoCertificate(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	for name, tt := range map[string]struct {
		get  func(h *house, inHand string, old depot.Request) error
		want error
	}{
		"by the challenge of a profile": {func(h *house, inHand string, _ depot.Request) error {
			_, err := h.IssueSCEP(ctx, "wifi", request(t, inHand, asking("x")))
			return err
		}, issuance.ErrChallenge},
		"by hand": {func(h *house, _ string, _ depot.Request) error {
			_, err := h.IssueByHand(ctx, identity.Local(), issuance.Order{Template: "vpn", DeviceID: "d1"})
			return err
		}, &template.FieldError{Field: "device_id", Reason: "names a device whose user is disabled"}},
		"by hand, for a user channel": {func(h *house, _ string, _ depot.Request) error {
			_, err := h.IssueByHand(ctx, identity.Local(), issuance.Order{Template: "vpn", DeviceID: "u1"})
			return err
		}, &template.FieldError{Field: "device_id", Reason: "names a device whose user is disabled"}},
		"by the certificate before, at any time": {func(h *house, _ string, old depot.Request) error {
			_, err := h.Reissue(ctx, old.Signer, depot.Application{CSR: old.CSR})
			return err
		}, issuance.ErrRenewal},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			ana := h.user(t, "ana@example.com", "Ana")
			h.device(t, "d1", func(d *mdm.Device) { d.User = "ana@example.com" })
			h.device(t, "u1", func(d *mdm.Device) { d.ParentID, d.AppleID.UserID, d.User = "d1", "501", "" })
			h.template(t, "vpn", nil)
			h.template(t, "wifi", nil)
			cert := h.install(t, "vpn", "d1")
			old := request(t, "", asking("SNd1"))
			old.Signer = cert
			inHand := h.send(t, "wifi", "d1").challenge(t)
			h.enable(t, ana, false) // nothing else: what the others see of it at the same moment
			err := tt.get(h, inHand, old)
			var field *template.FieldError
			if want, ok := tt.want.(*template.FieldError); ok {
				if !errors.As(err, &field) || *field != *want {
					t.Errorf("%v, want %v", err, want)
				}
			} else if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

// TestWhatADeviceWasAssignedComesBackWithItsUser goes all the way.
func TestWhatADeviceWasAssignedComesBackWithItsUser(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	h := newHouse(t)
	ana := h.user(t, "ana@example.com", "Ana")
	h.device(t, "d1", func(d *mdm.Device) { d.User = "ana@example.com" })
	for _, name := range []string{"vpn", "wifi", "mail"} {
		h.template(t, name, nil)
	}
	had := h.install(t, "vpn", "d1")
	inHand := h.send(t, "wifi", "d1")
	sent, _, err := h.Send(ctx, "user:admin", "mail", []mdm.DeviceID{"d1"})
	if err != nil || len(sent) != 1 {
		t.Fatal(sent, err)
	}
	h.suspend(t, ana, "d1")
	if h.revoked(t, had) == "" {
		t.Error("the certificate is in force")
	}
	for _, name := range []string{"vpn", "wifi", "mail"} {
		if a := h.assignment(t, name, "d1"); a.State != issuance.Failing || len(a.Tries) != 0 || a.Current != "" || len(a.Candidates) != 0 || a.Reason == "" {
			t.Errorf("%s is %+v", name, a)
		}
	}
	if _, err := h.IssueSCEP(ctx, "wifi", request(t, inHand.challenge(t), asking("x"))); !errors.Is(err, issuance.ErrChallenge) {
		t.Errorf("what is in hand: %v", err)
	}
	if _, rejected, err := h.Send(ctx, "user:admin", "vpn", []mdm.DeviceID{"d1"}); err != nil || len(rejected) != 1 || rejected[0].Code != "user_disabled" {
		t.Errorf("sent to a suspended device: %+v, %v", rejected, err)
	}
	for range 5 { // it is no failure, however long it takes
		h.pass(time.Hour)
		must(t, h.Renew(ctx))
	}
	if a := h.assignment(t, "vpn", "d1"); a.Failures != 0 || a.Stuck(h.now()) || len(a.Tries) != 0 {
		t.Errorf("while the user is disabled: %+v", a)
	}
	if cmd := h.fetch(t, "d1"); cmd != nil {
		t.Errorf("the device is to run %+v", cmd)
	}

	h.enable(t, ana, true)
	h.pass(time.Hour)
	must(t, h.Renew(ctx))
	for range 3 {
		cmd := h.fetch(t, "d1")
		if cmd == nil || cmd.requestType != "InstallProfile" {
			t.Fatalf("the device is to run %+v, want an InstallProfile", cmd)
		}
		_, err := h.IssueSCEP(ctx, "", request(t, cmd.challenge(t), asking("x")))
		must(t, err)
		h.answer(t, "d1", cmd.uuid, mdm.Acknowledged)
	}
	for _, name := range []string{"vpn", "wifi", "mail"} {
		if a := h.assignment(t, name, "d1"); a.State != issuance.Installed || a.Current == "" || a.CreatedBy != "user:admin" {
			t.Errorf("%s is %+v", name, a)
		}
	}
}

// TestAFirstProfileComesBackWithItsUser takes a profile of the library back before it was
// ever installed.
func TestAFirstProfileComesBackWithItsUser(t *testing.T) {
	storagetest.AnyEngine(t)
	s := newShelf(t)
	ana := s.user(t, "ana@example.com", "Ana")
	s.template(t, "wifi", nil)
	s.device(t, "d1", func(d *mdm.Device) { d.User = "ana@example.com" })
	s.put(t, s.keep(t, network(true)), "d1")
	s.suspend(t, ana, "d1")
	for range 3 {
		s.pass(time.Hour)
		must(t, s.Renew(t.Context()))
	}
	if a := s.assignment(t, "wifi", "d1"); a.State != issuance.Failing || a.Failures != 0 {
		t.Errorf("while the user is disabled: %+v", a)
	}
	s.enable(t, ana, true)
	s.pass(time.Hour)
	must(t, s.Renew(t.Context()))
	s.take(t, "d1")
	if a := s.assignment(t, "wifi", "d1"); a.State != issuance.Installed {
		t.Errorf("assignment %+v", a)
	}
}
