package enroll_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// called is a Waker that keeps under which magic a device said last that it can be reached,
// where a transaction that fails takes it back.
type called struct{}

const calledBucket = "test_called"

func (called) Queued(storage.Tx, mdm.Command, int, time.Duration) error { return nil }
func (called) NotNow(storage.Tx, mdm.Entry) error                       { return nil }
func (called) Reachable(tx storage.Tx, d mdm.Device) error {
	kept, err := mdm.GetDevice(tx, d.ID)
	if err != nil {
		return err
	}
	if kept.Push == nil || d.Push == nil || kept.Push.Magic != d.Push.Magic {
		return fmt.Errorf("the record says %+v of what is reachable by %+v", kept.Push, d.Push)
	}
	return tx.Put(calledBucket, []byte(d.ID), []byte(d.Push.Magic))
}

// reachable is the magic by which a device was last said to be reachable.
func (h *house) reachable(t testing.TB, id mdm.AppleID) (magic string) {
	t.Helper()
	d := h.device(t, id)
	h.view(t, func(tx storage.Tx) error {
		value, err := tx.Get(calledBucket, []byte(d.ID))
		magic = string(value)
		return err
	})
	return magic
}

func TestADeviceIsReachableByTheTokenInForce(t *testing.T) {
	h := newHouse(t)
	h.mdm.WakeBy(called{})
	p := h.enrolled(t, "ana", iphone)
	if got := h.reachable(t, iphone); got != "magic-1" {
		t.Errorf("after enrolling it is reachable by %q", got)
	}
	user := iphone
	user.UserID = "501"
	must(t, p.tokenUpdateAs(user, "magic-user"))
	if got := h.reachable(t, user); got != "magic-user" {
		t.Errorf("the user is reachable by %q", got)
	}
	r := h.renewing(t, p)
	must(t, r.renewed.authenticate())
	must(t, r.renewed.tokenUpdate("magic-2"))
	if got := h.reachable(t, iphone); got != "magic-1" {
		t.Errorf("before its renewal is complete it is reachable by %q", got)
	}
	must(t, r.renewed.report(r.uuid, mdm.Acknowledged))
	if got := h.reachable(t, iphone); got != "magic-2" {
		t.Errorf("after its renewal it is reachable by %q", got)
	}
}
