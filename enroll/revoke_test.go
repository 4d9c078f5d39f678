package enroll_test

import (
	"context"
	"reflect"
	"slices"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func (p phone) revoke(reason string) (depot.Certificate, error) {
	return p.h.RevokeCertificate(context.Background(), depot.SerialOf(p.cert), reason, "user:admin")
}

func TestRevokingAnIdentityEndsItsEnrollment(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	p := h.enrolled(t, "", mac)
	h.enqueue(t, "C1", h.device(t, mac).ID)

	first, err := p.revoke("keyCompromise")
	must(t, err)
	h.pass(1)
	if again, err := p.revoke("superseded"); err != nil || !reflect.DeepEqual(again, first) || again.RevocationReason != "keyCompromise" {
		t.Errorf("revoked again: %+v, %v, want %+v", again, err, first)
	}
	if d := h.device(t, mac); d.State != mdm.Unenrolled {
		t.Errorf("the device is %s, want unenrolled", d.State)
	}
	if got := h.state(t, "C1"); got != mdm.Cancelled {
		t.Errorf("its command is %s, want cancelled", got)
	}
	_, err = p.idle()
	wantErr(t, "its next poll", err, enroll.ErrGone)

	back := h.enrolled(t, "", mac) // nobody has to release it first
	if !heard(back) {
		t.Error("enrolled again, the device is not heard")
	}
}

func TestRevokingARenewedIdentityLeavesTheOldOne(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	r := h.renewing(t, h.enrolled(t, "ana", mac))
	_, err := r.renewed.revoke("unspecified")
	must(t, err)
	if d := h.device(t, mac); d.State != mdm.Enrolled || d.Renewal != nil {
		t.Errorf("the device is %s with renewal %+v, want it enrolled without one", d.State, d.Renewal)
	}
	if got := h.state(t, r.uuid); got != mdm.Cancelled {
		t.Errorf("the renewal's command is %s, want cancelled", got)
	}
	if heard(r.renewed) || !heard(r.old) {
		t.Error("want the old certificate heard, and the revoked one not")
	}
}

func TestRevokingAnIdentityBeforeItsDeviceCame(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	p := h.withIdentity(t, h.link(t, enroll.NewLink{}), mac)
	rec, err := p.revoke("keyCompromise")
	must(t, err)
	if a := h.attempt(t, rec.AttemptID); a.Stage != enroll.AttemptFailed || a.ErrorCode != "identity_revoked" {
		t.Errorf("the attempt is %s with code %q, want it failed", a.Stage, a.ErrorCode)
	}
	wantErr(t, "its Authenticate", p.authenticate(), enroll.ErrRetired)
}

func TestRevocationsThatAreNone(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	p := h.enrolled(t, "", mac)
	_, err := p.revoke("certificateHold")
	wantErr(t, "a reason that can be taken back", err, depot.ErrReason)
	_, err = h.RevokeCertificate(context.Background(), "abcdef", "keyCompromise", "user:admin")
	wantErr(t, "a serial number that nobody has", err, storage.ErrNotFound)
	if !heard(p) {
		t.Error("the device is not heard any more")
	}
}

func TestRevocationsAreInTheAuditLog(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	first := h.enrolled(t, "ana", mac)
	id := h.device(t, mac).ID
	told := func(filter event.Filter) (told []string) {
		t.Helper()
		must(t, h.db.View(context.Background(), func(tx storage.Tx) error {
			told = nil
			list, _, err := event.Page(tx, filter, "", 100)
			for _, e := range list {
				told = append(told, e.Actor+" "+e.Action+" "+e.Reason)
			}
			return err
		}))
		slices.Sort(told)
		return told
	}
	_, err := first.revoke("keyCompromise")
	must(t, err)
	_, err = first.revoke("superseded") // changes nothing, and is not told
	must(t, err)
	want := []string{
		"device:" + string(id) + " device.checked_in ", "device:" + string(id) + " device.enrolled ",
		"user:admin certificate.revoked keyCompromise", "user:admin device.unenrolled its identity was revoked",
	}
	if got := told(event.Filter{DeviceID: string(id)}); !slices.Equal(got, want) {
		t.Errorf("after a revocation by hand: %q, want %q", got, want)
	}

	second := h.enrolled(t, "ana", mac)
	by := identity.WithPrincipal(context.Background(), identity.Local())
	_, err = h.Block(by, id)
	must(t, err)
	want = []string{"local:local certificate.revoked cessationOfOperation"}
	if got := told(event.Filter{Certificate: string(depot.SerialOf(second.cert)), Action: "certificate.revoked"}); !slices.Equal(got, want) {
		t.Errorf("of the certificate of a device that was blocked: %q, want %q", got, want)
	}
	if got := told(event.Filter{DeviceID: string(id), Action: "device.blocked"}); !slices.Equal(got, []string{"local:local device.blocked it was ended on the server"}) {
		t.Errorf("of the device that was blocked: %q", got)
	}
}
