package enroll_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func staysSuspended(c *enroll.AccountDriven) { c.UserDisabled = enroll.AfterSignIn }

// disable is what an administrator does on the replica h.
func (r *reception) disable(t testing.TB, h *house, u identity.User) error {
	t.Helper()
	yes := true
	people := must2(identity.New(identity.Config{
		DB: h.db, Log: slog.New(slog.DiscardHandler), Now: h.now, HashMemory: 64,
		OnDisable: func(tx storage.Tx, u identity.User) error { return h.EndUser(tx, u.Logins()...) },
	}))(t)
	_, err := people.UpdateUser(context.Background(), identity.Local(), u.ID, identity.UserChange{Disabled: &yes})
	return err
}

// notices are what a server's payload certificates are told of devices; a transaction may run
// twice.
type notices struct {
	enroll.Payloads
	gone, suspended map[mdm.DeviceID]bool
}

func (n *notices) DeviceGone(_ storage.Tx, id mdm.DeviceID) error {
	n.gone[id] = true
	return nil
}

func (n *notices) Suspended(_ storage.Tx, id mdm.DeviceID) error {
	n.suspended[id] = true
	return nil
}

// TestASuspensionTakesAllButTheIdentity is of a Mac with two users, which has one more that is
// somebody else's.
func TestASuspensionTakesAllButTheIdentity(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	r := newReception(t, staysSuspended)
	g := r.enrolledBy(t, enroll.ModeADDE, r.ana, aMac, mac)
	bens := r.enrolledBy(t, enroll.ModeBYOD, r.ben, anIPhone, byod)
	one, two := mdm.AppleID{UDID: mac.UDID, UserID: "501"}, mdm.AppleID{UDID: mac.UDID, UserID: "502"}
	must(t, g.tokenUpdate(one, g.access))
	must(t, g.tokenUpdate(two, g.access))
	certs := map[mdm.DeviceID]depot.Fingerprint{}
	for _, id := range []mdm.AppleID{mac, one, two, byod} {
		d, cert := r.device(t, id), r.vpn(t)
		must(t, r.db.Update(ctx, func(tx storage.Tx) error {
			return r.depot.Record(tx, cert, depot.Certificate{Authority: "payload", Template: "vpn", DeviceID: string(d.ID), User: d.User})
		}))
		certs[d.ID] = depot.FingerprintOf(cert)
	}
	told := &notices{gone: map[mdm.DeviceID]bool{}, suspended: map[mdm.DeviceID]bool{}}
	h := houseOn(t, r.db, r.clock, func(c *enroll.Config) { c.Payloads = told })
	must(t, r.disable(t, h, r.ana))

	for _, id := range []mdm.AppleID{mac, one, two} {
		d := r.device(t, id)
		r.view(t, func(tx storage.Tx) error {
			c, err := r.depot.Get(tx, certs[d.ID])
			if err == nil && c.RevocationReason != "privilegeWithdrawn" {
				t.Errorf("the certificate of %v is in force: %q", id, c.RevocationReason)
			}
			return err
		})
		if d.State != mdm.Enrolled || !told.suspended[d.ID] {
			t.Errorf("%v is %s, and the suspended are %v", id, d.State, told.suspended)
		}
	}
	if len(r.inForce(t, bens.device(t).ID)) != 2 {
		t.Error("somebody else's certificates are revoked")
	}
	if left := r.inForce(t, g.device(t).ID); len(left) != 1 || left[0].Template != "identity" {
		t.Errorf("the Mac has %+v, want its identity", left)
	}
	if len(told.suspended) != 3 || len(told.gone) != 0 {
		t.Errorf("suspended %v, gone %v", told.suspended, told.gone)
	}
}

// TestASuspensionMeetsACertificate: one that is recorded at the same moment does not stay in
// force.
func TestASuspensionMeetsACertificate(t *testing.T) {
	ctx := context.Background()
	for name, userChannel := range map[string]bool{"of a device": false, "of a user channel": true} {
		t.Run(name, func(t *testing.T) {
			r := newReception(t, staysSuspended)
			g := r.enrolledBy(t, enroll.ModeADDE, r.ana, aMac, mac)
			id := mac
			if userChannel {
				id.UserID = "501"
				must(t, g.tokenUpdate(id, g.access))
			}
			d, cert := r.device(t, id), r.vpn(t)
			disabled := errors.New("disabled")
			a, b := r.atOnce(t,
				func(h *house) error {
					return h.db.Update(ctx, func(tx storage.Tx) error { // what package issuance does
						u, err := identity.UserByLogin(tx, d.User)
						if err == nil && u.Disabled {
							err = disabled
						}
						if err != nil {
							return err
						}
						return h.depot.Record(tx, cert, depot.Certificate{Authority: "payload", Template: "vpn", DeviceID: string(d.ID), User: d.User})
					})
				},
				func(h *house) error { return r.disable(t, h, r.ana) })
			must(t, b)
			if a != nil {
				wantErr(t, "the certificate", a, disabled)
			}
			for _, c := range r.inForce(t, d.ID) {
				if c.Template == "vpn" {
					t.Error("the certificate is in force")
				}
			}
		})
	}
}
