package enroll_test

import (
	"context"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// renewal is a device in the middle of one: what it holds, and the command that
// it is to answer.
type renewal struct {
	old, renewed phone
	uuid         string
	signed       []byte // the profile in the command
}

// renewing starts the renewal of a device, and takes it to the point where the
// device has its new certificate.
func (h *house) renewing(t *testing.T, p phone) renewal {
	t.Helper()
	ctx := context.Background()
	must(t, h.Renew(ctx, h.device(t, p.id).ID))
	r := h.fetchRenewal(t, p)
	cert, err := h.IssueIdentity(ctx, h.renewalRequest(t, r.signed))
	must(t, err)
	r.renewed = phone{h: h, id: p.id, cert: cert}
	return r
}

// renewalRequest is what a device asks for by the profile of a renewal.
func (h *house) renewalRequest(t *testing.T, signed []byte) depot.Request {
	t.Helper()
	return request(t, keyring.take(t), challengeIn(t, signed))
}

// fetchRenewal lets a device fetch the command of its renewal.
func (h *house) fetchRenewal(t *testing.T, p phone) renewal {
	t.Helper()
	plist, err := p.idle()
	must(t, err)
	r := renewal{old: p}
	var cmd struct {
		CommandUUID string
		Command     struct {
			RequestType string
			Payload     []byte
		}
	}
	must(t, guard.DecodePlist([]byte(plist), &cmd, guard.PlistLimits{}))
	if cmd.Command.RequestType != "InstallProfile" {
		t.Fatalf("the device is to run %q, want InstallProfile", cmd.Command.RequestType)
	}
	r.uuid, r.signed = cmd.CommandUUID, cmd.Command.Payload
	return r
}

// heard says whether a poll by a certificate is answered.
func heard(p phone) bool {
	_, err := p.idle()
	return err == nil
}

func TestRenewalCommitsWhenBothProofsAreThere(t *testing.T) {
	authenticate := func(r renewal) error { return r.renewed.authenticate() }
	tokenUpdate := func(r renewal) error { return r.renewed.tokenUpdate("magic-2") }
	ack := func(r renewal) error { return r.renewed.report(r.uuid, mdm.Acknowledged) }
	ackByOld := func(r renewal) error { return r.old.report(r.uuid, mdm.Acknowledged) }
	again := func(r renewal) error { return r.renewed.authenticate() }

	for name, steps := range map[string][]func(renewal) error{
		"TokenUpdate, then the answer":               {authenticate, tokenUpdate, ack},
		"the answer, then TokenUpdate":               {authenticate, ack, tokenUpdate},
		"the answer under the old certificate":       {authenticate, ackByOld, tokenUpdate},
		"TokenUpdate, then the answer under the old": {authenticate, tokenUpdate, ackByOld},
		"every message twice":                        {authenticate, again, tokenUpdate, tokenUpdate, ack, ack},
	} {
		t.Run(name, func(t *testing.T) {
			keyring.reset()
			ctx := context.Background()
			h := newHouse(t)
			p := h.enrolled(t, "ana", mac)
			userID := mdm.AppleID{UDID: mac.UDID, UserID: "501"}
			must(t, p.tokenUpdateAs(userID, "user-magic"))
			must(t, h.SetBootstrapToken(ctx, p.peer(), mac, []byte("bootstrap")))
			before := h.device(t, mac)
			r := h.renewing(t, p)
			h.enqueue(t, "C1", before.ID)
			for i, step := range steps {
				// Until the last step either certificate speaks for the device.
				if !heard(r.old) {
					t.Fatalf("before step %d the old certificate is refused", i+1)
				}
				if i > 0 && !heard(r.renewed) {
					t.Fatalf("before step %d the new certificate is refused", i+1)
				}
				if h.device(t, mac).Identity != before.Identity && i < 2 {
					t.Fatalf("before step %d the renewal is committed", i+1)
				}
				must(t, step(r))
				if h.device(t, mac).Renewal == nil {
					break
				}
			}
			d := h.device(t, mac)
			if d.Renewal != nil || d.Identity == before.Identity || d.Push.Magic != "magic-2" {
				t.Errorf("device = %+v, want the renewal committed", d)
			}
			if d.State != mdm.Enrolled || d.EnrolledAt != before.EnrolledAt || d.AttemptID != before.AttemptID {
				t.Errorf("device = %+v, want the same enrollment", d)
			}
			_, err := r.old.idle()
			wantErr(t, "the old certificate", err, enroll.ErrRetired)
			if rec := h.record(t, r.old.cert); rec.RevocationReason != "superseded" {
				t.Errorf("its record = %+v, want superseded", rec)
			}
			// What the enrollment had, it has still.
			if got := h.state(t, "C1"); got.Final() {
				t.Errorf("a queued command is %s", got)
			}
			if plist, err := r.renewed.idle(); err != nil || plist == "" {
				t.Errorf("poll = %q, %v; want the queued command", plist, err)
			}
			if token, err := h.GetBootstrapToken(ctx, r.renewed.peer(), mac); err != nil || string(token) != "bootstrap" {
				t.Errorf("bootstrap token = %q, %v", token, err)
			}
			if _, err := r.renewed.idleAs(userID); err != nil {
				t.Errorf("the user channel: %v", err)
			}
		})
	}
}

func TestARenewalThatFailsLeavesTheOldCertificateInForce(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		steps []func(renewal) error
		fail  func(*testing.T, *house, renewal)
	}{
		"an error before Authenticate": {nil, func(t *testing.T, _ *house, r renewal) {
			must(t, r.old.report(r.uuid, mdm.Failed))
		}},
		"an error after Authenticate": {[]func(renewal) error{func(r renewal) error { return r.renewed.authenticate() }}, func(t *testing.T, _ *house, r renewal) {
			must(t, r.old.report(r.uuid, mdm.Failed))
		}},
		"an error after TokenUpdate": {[]func(renewal) error{
			func(r renewal) error { return r.renewed.authenticate() },
			func(r renewal) error { return r.renewed.tokenUpdate("magic-2") },
		}, func(t *testing.T, _ *house, r renewal) {
			must(t, r.old.report(r.uuid, mdm.Failed))
		}},
		"answers that are all too large": {nil, func(t *testing.T, h *house, r renewal) {
			for range 3 {
				again, err := h.Oversized(context.Background(), r.old.peer())
				if err != nil || !again {
					t.Fatalf("Oversized = %t, %v", again, err)
				}
			}
		}},
		"no answer, and the device went back to the old one": {[]func(renewal) error{
			func(r renewal) error { return r.renewed.authenticate() },
			func(r renewal) error { return r.renewed.tokenUpdate("magic-2") },
			func(r renewal) error { _, err := r.renewed.idle(); return err },
			func(r renewal) error { _, err := r.old.idle(); return err },
		}, func(t *testing.T, h *house, _ renewal) {
			h.pass(25 * time.Hour)
			must(t, h.Round(context.Background()))
		}},
		"no answer and no TokenUpdate": {[]func(renewal) error{
			func(r renewal) error { return r.renewed.authenticate() },
			func(r renewal) error { _, err := r.renewed.idle(); return err },
		}, func(t *testing.T, h *house, _ renewal) {
			h.pass(25 * time.Hour)
			must(t, h.Round(context.Background()))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			keyring.reset()
			h := newHouse(t)
			r := h.renewing(t, h.enrolled(t, "ana", iphone))
			before := h.device(t, iphone)
			for _, step := range tt.steps {
				must(t, step(r))
			}
			tt.fail(t, h, r)
			d := h.device(t, iphone)
			if d.Renewal != nil || d.Identity != before.Identity || d.Push.Magic != "magic-1" || d.State != mdm.Enrolled {
				t.Errorf("device = %+v, want it as before the renewal", d)
			}
			if !heard(r.old) {
				t.Error("the old certificate is refused")
			}
			_, err := r.renewed.idle()
			wantErr(t, "the new certificate", err, enroll.ErrRetired)
			if got := h.state(t, r.uuid); !got.Final() {
				t.Errorf("the command is %s, want it ended", got)
			}
			// The next try is a new one from the start.
			next := h.renewing(t, r.old)
			must(t, next.renewed.authenticate())
			must(t, next.renewed.tokenUpdate("magic-3"))
			must(t, next.renewed.report(next.uuid, mdm.Acknowledged))
			if !heard(next.renewed) || heard(r.old) {
				t.Error("the next renewal did not commit")
			}
		})
	}
}

func TestARenewalThatIsNeverAcknowledgedCommitsIfTheDeviceLivesByIt(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	r := h.renewing(t, h.enrolled(t, "ana", iphone))
	must(t, r.renewed.authenticate())
	must(t, r.renewed.tokenUpdate("magic-2"))
	if !heard(r.renewed) {
		t.Fatal("the new certificate is refused")
	}
	h.pass(25 * time.Hour)
	must(t, h.Round(ctx))
	if d := h.device(t, iphone); d.Renewal != nil || d.Push.Magic != "magic-2" {
		t.Errorf("device = %+v, want the renewal committed", d)
	}
	if !heard(r.renewed) || heard(r.old) {
		t.Error("the certificate that the device uses is not the one in force")
	}
}

func TestCancellingARenewalThatWasNotDelivered(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	p := h.enrolled(t, "ana", iphone)
	d := h.device(t, iphone)
	must(t, h.Renew(ctx, d.ID))
	uuid := h.device(t, iphone).Renewal.CommandUUID
	must(t, h.CancelCommand(ctx, d.ID, uuid))
	if d := h.device(t, iphone); d.Renewal != nil {
		t.Errorf("renewal = %+v, want it dropped", d.Renewal)
	}
	if plist, err := p.idle(); err != nil || plist != "" {
		t.Errorf("poll = %q, %v; want nothing", plist, err)
	}
}

func TestIdentitiesAreRenewedWhenTwoThirdsOfTheirLifeAreOver(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	p := h.enrolled(t, "ana", iphone)
	gone := h.enrolled(t, "bob", mdm.AppleID{UDID: "gone"})
	must(t, gone.checkOut())
	rec := h.record(t, p.cert)

	h.pass(rec.RenewAt.Sub(h.now()) - time.Minute)
	must(t, h.Round(ctx))
	if d := h.device(t, iphone); d.Renewal != nil {
		t.Fatal("renewed before its time")
	}
	h.pass(2 * time.Minute)
	must(t, h.Round(ctx))
	first := h.device(t, iphone).Renewal
	if first == nil {
		t.Fatal("not renewed in time")
	}
	must(t, h.Round(ctx))
	if again := h.device(t, iphone).Renewal; again.CommandUUID != first.CommandUUID {
		t.Error("renewed twice at once")
	}
	if d := h.device(t, mdm.AppleID{UDID: "gone"}); d.Renewal != nil {
		t.Error("a device that left is renewed")
	}
	h.pass(25 * time.Hour)
	must(t, h.Round(ctx))
	must(t, h.Round(ctx))
	if r := h.device(t, iphone).Renewal; r != nil {
		t.Errorf("renewal = %+v, though the device is off", r)
	}
	if _, err := p.idle(); err != nil { // it comes back: now there is a next try
		t.Fatal(err)
	}
	must(t, h.Round(ctx))
	if next := h.device(t, iphone).Renewal; next == nil || next.CommandUUID == first.CommandUUID {
		t.Errorf("renewal = %+v, want another try", next)
	}
	if got := h.state(t, first.CommandUUID); got != mdm.Expired {
		t.Errorf("the first command is %s, want expired", got)
	}
}

func TestARenewalThatTheDeviceRefusesIsTriedAgainADayLater(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	p := h.enrolled(t, "ana", iphone)
	h.pass(h.record(t, p.cert).RenewAt.Sub(h.now()) + time.Minute)
	must(t, h.Round(ctx))
	first := h.device(t, iphone).Renewal
	if _, err := p.idle(); err != nil {
		t.Fatal(err)
	}
	must(t, p.report(first.CommandUUID, mdm.Failed))
	h.pass(23 * time.Hour)
	_, err := p.idle()
	must(t, err)
	must(t, h.Round(ctx))
	if r := h.device(t, iphone).Renewal; r != nil {
		t.Errorf("renewal = %+v on the same day", r)
	}
	h.pass(2 * time.Hour)
	must(t, h.Round(ctx))
	if h.device(t, iphone).Renewal == nil {
		t.Error("no renewal on the next day")
	}
}

func TestARenewalProfileKeepsWhatADeviceRefusesToChange(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	l := h.link(t, enroll.NewLink{})
	signed, _, err := h.NewEnrollment(ctx, l.Code)
	must(t, err)
	cert, err := h.IssueIdentity(ctx, request(t, keyring.take(t), challengeIn(t, signed)))
	must(t, err)
	p := phone{h: h, id: iphone, cert: cert}
	must(t, p.authenticate())
	must(t, p.tokenUpdate("m"))
	r := h.renewing(t, p)

	first, second := payloads(t, signed), payloads(t, r.signed)
	for _, key := range []string{"ServerURL", "CheckInURL", "Topic", "AccessRights", "PayloadIdentifier", "PayloadUUID"} {
		if a, b := first["com.apple.mdm"][key], second["com.apple.mdm"][key]; a != b {
			t.Errorf("%s: %v, then %v", key, a, b)
		}
	}
	if a, b := first["com.apple.security.scep"]["PayloadUUID"], second["com.apple.security.scep"]["PayloadUUID"]; a == b {
		t.Error("the identity payload keeps its UUID, so the device would keep its certificate")
	}
	if got := second["com.apple.mdm"]["IdentityCertificateUUID"]; got != second["com.apple.security.scep"]["PayloadUUID"] {
		t.Error("the MDM payload does not name the new identity")
	}
	if first["com.apple.security.root"] == nil {
		t.Error("the root is not in the profile")
	}
}

// The poll that first uses a renewed certificate may bring an answer that is
// written to the device's record too.
func TestAnAnswerUnderTheNewCertificateDoesNotUndoTheRenewal(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	p := h.enrolled(t, "ana", iphone)
	d := h.device(t, iphone)
	_, rejected, err := h.mdm.Enqueue(ctx, mdm.NewCommand{UUID: "C1", RequestType: "DeviceInformation", Plist: []byte("x"), Targets: []mdm.DeviceID{d.ID}})
	if err != nil || len(rejected) > 0 {
		t.Fatal(rejected, err)
	}
	_, err = p.idle()
	must(t, err)
	r := request(t, keyring.take(t), "")
	r.Signer, r.Renewal = p.cert, true
	cert, err := h.IssueIdentity(ctx, r)
	must(t, err)
	renewed := phone{h: h, id: iphone, cert: cert}
	_, err = h.Connect(ctx, renewed.peer(), enroll.ConnectMessage{ID: iphone, Report: mdm.Report{
		CommandUUID: "C1", State: mdm.Acknowledged, Result: []byte(`{"QueryResponses":{"DeviceName":"Ana's iPhone"}}`),
	}})
	must(t, err)
	after := h.device(t, iphone)
	if after.Renewal != nil || after.Identity == d.Identity || after.DeviceName != "Ana's iPhone" {
		t.Errorf("device = %+v, want both the renewal and the name", after)
	}
	if !heard(renewed) || heard(p) {
		t.Error("the old certificate is in force again")
	}
}

func TestAChallengeOfARenewalIsTheDevicesOwn(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	p, other := h.enrolled(t, "ana", iphone), h.enrolled(t, "bob", mdm.AppleID{UDID: "other"})
	must(t, h.Renew(ctx, h.device(t, iphone).ID))
	plist, err := p.idle()
	must(t, err)
	var cmd struct{ Command struct{ Payload []byte } }
	must(t, guard.DecodePlist([]byte(plist), &cmd, guard.PlistLimits{}))
	secret := challengeIn(t, cmd.Command.Payload)

	r := request(t, keyring.take(t), secret)
	r.Signer = other.cert
	_, err = h.IssueIdentity(ctx, r)
	wantErr(t, "signed by another device", err, enroll.ErrRenewal)

	cert, err := h.IssueIdentity(ctx, request(t, keyring.take(t), secret))
	must(t, err)
	stolen := phone{h: h, id: other.id, cert: cert}
	wantErr(t, "Authenticate as another device", stolen.authenticate(), enroll.ErrForeignDevice)
	if _, err := x509.ParseCertificate(cert.Raw); err != nil || cert.Subject.CommonName != string(h.device(t, iphone).ID) {
		t.Errorf("subject = %s, want the device's id", cert.Subject)
	}
}

func TestADeviceThatComesLateIsEnrolledAllTheSame(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	p := h.withIdentity(t, h.link(t, enroll.NewLink{}), iphone)
	must(t, p.authenticate())
	h.pass(25 * time.Hour)
	must(t, h.Round(context.Background()))
	id := h.record(t, p.cert).AttemptID
	if a := h.attempt(t, id); a.ErrorCode != "attempt_expired" {
		t.Fatalf("attempt = %+v", a)
	}
	must(t, p.tokenUpdate("m"))
	if a := h.attempt(t, id); a.Stage != enroll.Enrolled || a.ErrorCode != "" {
		t.Errorf("attempt = %+v, want it enrolled without an error", a)
	}
}

func TestAttemptsThatNobodyFinishesAreEnded(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	l := h.link(t, enroll.NewLink{Uses: 5})
	_, open := h.challenge(t, l)
	must(t, h.Round(ctx))
	if a := h.attempt(t, open.ID); a.Stage != enroll.ProfileDownloaded {
		t.Fatalf("attempt = %+v", a)
	}
	h.pass(49 * time.Hour)
	must(t, h.Round(ctx))
	if a := h.attempt(t, open.ID); a.Stage != enroll.AttemptFailed || a.ErrorCode != "attempt_expired" {
		t.Errorf("attempt = %+v, want failed with attempt_expired", a)
	}
	h.pass(31 * 24 * time.Hour)
	must(t, h.Round(ctx))
	if _, err := h.Attempt(ctx, open.ID); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a month later the attempt is still there: %v", err)
	}
	h.view(t, func(tx storage.Tx) error {
		for item, err := range tx.Scan("challenges", storage.Range{}) {
			if err != nil {
				return err
			}
			t.Errorf("a challenge is kept: %q", item.Key)
		}
		return nil
	})
}
