package checkin_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	gatehouse "github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// identities are the certificates of a device by the state that they are in.
func (h *house) identities(t testing.TB, d *mdmtest.Device) (active, revoked []depot.Fingerprint) {
	t.Helper()
	id := h.record(t, d.IDs()).ID
	must(t, h.db.View(t.Context(), func(tx storage.Tx) error {
		active, revoked = nil, nil
		for c, err := range h.depot.ByDevice(tx, string(id)) {
			if err != nil {
				return err
			}
			if c.RevokedAt.IsZero() {
				active = append(active, c.Fingerprint)
			} else {
				revoked = append(revoked, c.Fingerprint)
			}
		}
		return nil
	}))
	return active, revoked
}

func fingerprint(d *mdmtest.Device) depot.Fingerprint {
	cert, _ := d.Identity()
	return depot.FingerprintOf(cert)
}

// wantRenewed checks that a device lives by a new certificate, and by it alone,
// and has lost nothing.
func (h *house) wantRenewed(t *testing.T, d *mdmtest.Device, old depot.Fingerprint) {
	t.Helper()
	rec := h.record(t, d.IDs())
	if rec.Renewal != nil || rec.Identity == string(old) || rec.Identity != string(fingerprint(d)) {
		t.Errorf("the identity in force is %s, renewal %+v; want the device's new one", rec.Identity, rec.Renewal)
	}
	active, revoked := h.identities(t, d)
	if len(active) != 1 || active[0] != fingerprint(d) || !slices.Contains(revoked, old) {
		t.Errorf("active %v, revoked %v; want the new one alone", active, revoked)
	}
	h.wantLife(t, d)
}

// wantLife checks that a device takes commands, with what it escrowed.
func (h *house) wantLife(t *testing.T, d *mdmtest.Device) {
	t.Helper()
	uuid := gatehouse.NewUUID()
	h.queue(t, d.IDs(), "ProfileList", uuid)
	if _, err := d.Poll(t.Context()); err != nil {
		t.Errorf("Poll: %v", err)
	}
	h.wantState(t, uuid, gatehouse.Acknowledged)
	if _, magic := d.Channel().Push(); h.record(t, d.IDs()).Push.Magic != magic {
		t.Error("the server would push with another magic")
	}
	if d.Options().Model == mdmtest.Mac {
		if token, err := d.GetBootstrapToken(t.Context()); err != nil || string(token) != "boot" {
			t.Errorf("the bootstrap token is %q, %v", token, err)
		}
	}
}

func TestRenewalsOfEveryKindOfDevice(t *testing.T) {
	devices := map[string]mdmtest.Options{
		"an iPhone": {}, "a Mac with a user": {Model: mdmtest.Mac},
	}
	for name, o := range devices {
		for order, r := range map[string]mdmtest.Renewal{
			"TokenUpdate first":                        {},
			"the answer first":                         {ResultFirst: true},
			"the answer by the old certificate":        {OldIdentityReports: true},
			"the answer first, by the old certificate": {ResultFirst: true, OldIdentityReports: true},
		} {
			t.Run(name+", "+order, func(t *testing.T) {
				h := newHouse(t)
				o.Renewal = r
				d := h.enrolled(t, o)
				if o.Model == mdmtest.Mac {
					must(t, d.SetBootstrapToken(t.Context(), []byte("boot")))
				}
				h.pass(250 * 24 * time.Hour) // two thirds of its life
				id := h.record(t, d.IDs()).ID
				must(t, h.enroll.Renew(t.Context(), id))
				must(t, h.enroll.Renew(t.Context(), id)) // one that is under way is left alone
				h.queue(t, d.IDs(), "ProfileList", "BEHIND")
				old, before := fingerprint(d), h.record(t, d.IDs())
				if n, err := d.Poll(t.Context()); err != nil || n != 2 {
					t.Fatalf("Poll = %d, %v; want the profile and the command behind it", n, err)
				}
				h.wantState(t, "BEHIND", gatehouse.Acknowledged)
				h.wantRenewed(t, d, old)
				if after := h.record(t, d.IDs()); after.ID != before.ID || after.State != gatehouse.Enrolled || !after.EnrolledAt.Equal(before.EnrolledAt) {
					t.Errorf("the device is %+v, was %+v", after, before)
				}
				if user := d.User(); user != nil {
					h.queue(t, user.IDs(), "ProfileList", "USER")
					must2(user.Poll(t.Context()))(t)
					h.wantState(t, "USER", gatehouse.Acknowledged)
				}
			})
		}
	}
}

var errBattery = errors.New("the battery is flat")

func TestARenewalThatIsCutGoesOn(t *testing.T) {
	storagetest.AnyEngine(t)
	for _, model := range []mdmtest.Model{mdmtest.IPhone, mdmtest.Mac} {
		for _, resultFirst := range []bool{false, true} {
			for _, step := range []mdmtest.Step{mdmtest.StepSCEP, mdmtest.StepAuth, mdmtest.StepTokenUpdate, mdmtest.StepUserToken, mdmtest.StepResult} {
				name := string(model) + ", before " + string(step)
				if resultFirst {
					name += ", the answer first"
				}
				t.Run(name, func(t *testing.T) {
					h := newHouse(t)
					cut := true
					d := h.enrolled(t, mdmtest.Options{Model: model, Renewal: mdmtest.Renewal{ResultFirst: resultFirst, OnStep: func(s mdmtest.Step) error {
						if s == step && cut {
							cut = false
							return errBattery
						}
						return nil
					}}})
					if model == mdmtest.Mac {
						must(t, d.SetBootstrapToken(t.Context(), []byte("boot")))
					}
					must(t, h.enroll.Renew(t.Context(), h.record(t, d.IDs()).ID))
					old := fingerprint(d)
					if _, err := d.Poll(t.Context()); !errors.Is(err, errBattery) {
						t.Fatalf("Poll: %v, want the cut", err)
					}
					// Whatever it has by now, it is heard with it.
					if _, err := d.Idle(t.Context()); err != nil {
						t.Errorf("Idle after the cut: %v", err)
					}
					must2(d.ResumeRenewal(t.Context()))(t)
					h.wantRenewed(t, d, old)
				})
			}
		}
	}
}

// A device that comes to itself without knowing of the renewal goes on with the
// certificate that it had, and is offered the profile again.
func TestARenewalThatWasForgottenBeginsAgain(t *testing.T) {
	storagetest.AnyEngine(t)
	for _, step := range []mdmtest.Step{mdmtest.StepSCEP, mdmtest.StepAuth, mdmtest.StepTokenUpdate} {
		t.Run("before "+string(step), func(t *testing.T) {
			h := newHouse(t)
			cut := true
			d := h.enrolled(t, mdmtest.Options{Renewal: mdmtest.Renewal{OnStep: func(s mdmtest.Step) error {
				if s == step && cut {
					cut = false
					return errBattery
				}
				return nil
			}}})
			id, old := h.record(t, d.IDs()).ID, fingerprint(d)
			must(t, h.enroll.Renew(t.Context(), id))
			if _, err := d.Poll(t.Context()); !errors.Is(err, errBattery) {
				t.Fatalf("Poll: %v, want the cut", err)
			}
			_, err := d.Poll(t.Context()) // the command comes again, and with it the same challenge
			must(t, err)
			rec := h.record(t, d.IDs())
			if step == mdmtest.StepSCEP {
				h.wantRenewed(t, d, old)
				return
			}
			if rec.Identity != string(old) || rec.Renewal != nil {
				t.Errorf("identity %s, renewal %+v; want the old one in force and the renewal dropped", rec.Identity, rec.Renewal)
			}
			h.wantLife(t, d)
			must(t, h.enroll.Renew(t.Context(), id))
			must2(d.Poll(t.Context()))(t)
			h.wantRenewed(t, d, old)
		})
	}
}

func TestARenewalThatTheServerRefusesLeavesTheOldIdentity(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{})
	id, old := h.record(t, d.IDs()).ID, fingerprint(d)
	must(t, h.enroll.Renew(t.Context(), id))
	uuid := h.record(t, d.IDs()).Renewal.CommandUUID
	h.pass(23 * time.Hour)
	cmd := must2(d.Idle(t.Context()))(t)
	h.pass(2 * time.Hour) // the challenge has expired
	must2(d.Channel().Answer(t.Context(), cmd))(t)
	e := h.entry(t, uuid)
	if e.State != gatehouse.Failed || len(e.ErrorChain) == 0 || !strings.Contains(e.ErrorChain[0].USEnglishDescription, "SCEP") {
		t.Errorf("the command is %+v, want the device's error", e)
	}
	if rec := h.record(t, d.IDs()); rec.Identity != string(old) || rec.Renewal != nil {
		t.Errorf("identity %s, renewal %+v; want the old one in force", rec.Identity, rec.Renewal)
	}
	if active, revoked := h.identities(t, d); len(active) != 1 || len(revoked) != 0 {
		t.Errorf("active %v, revoked %v; want the old one alone", active, revoked)
	}
	h.wantLife(t, d)
}

func TestTheOldCertificateIsOfNoUseAfterARenewal(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{})
	thief := h.device(t, mdmtest.Options{UDID: d.ID()})
	must(t, thief.Install(must2(thief.Download(t.Context(), h.link(t, "x")))(t)))
	cert, key := d.Identity()
	thief.SetIdentity(cert, key)
	must(t, h.enroll.Renew(t.Context(), h.record(t, d.IDs()).ID))
	must2(d.Poll(t.Context()))(t)
	for _, kind := range []string{"Authenticate", "TokenUpdate", "CheckOut"} {
		h.refused(t, kind, saying(t, thief, kind, nil))
	}
	h.refused(t, "Idle", reporting(t, thief, mdmtest.Result{Status: mdmtest.StatusIdle}))
	h.wantLife(t, d)
}
