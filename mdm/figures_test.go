package mdm_test

import (
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

func TestDevicesInNumbers(t *testing.T) {
	b := newBench(t)
	device := func(id, product, version string, demo bool, change func(*mdm.Device)) {
		b.device(t, id, func(d *mdm.Device) {
			d.State, d.Type, d.ProductName, d.OSVersion, d.Demo = mdm.Enrolled, mdm.TypeDevice, product, version, demo
			if change != nil {
				change(d)
			}
		})
	}
	device("a", "iPhone17,2", "18.2", false, nil)
	device("b", "iPhone15,4", "18.2.0", true, nil)
	device("c", "Mac15,6", "15.3.1", false, nil)
	device("d", "Mac15,6", "", false, nil)
	device("e", "iPhone17,2", "18.2", false, func(d *mdm.Device) { d.State = mdm.Unenrolled })
	device("f", "Mac15,6", "15.3.1", false, func(d *mdm.Device) { d.Type, d.ParentID = mdm.TypeUserChannel, "c" })
	now := b.now
	for id, ago := range map[mdm.DeviceID]time.Duration{"a": time.Minute, "b": 2 * 24 * time.Hour, "c": 100 * 24 * time.Hour, "e": time.Minute} {
		b.now = now.Add(-ago)
		b.Saw(id)
	}
	b.now = now
	f, err := b.Figures(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := map[mdm.Kind]int{{mdm.Enrolled, mdm.TypeDevice}: 4, {mdm.Unenrolled, mdm.TypeDevice}: 1, {mdm.Enrolled, mdm.TypeUserChannel}: 1}; !maps.Equal(f.Kinds, want) {
		t.Errorf("kinds are %v, want %v", f.Kinds, want)
	}
	if got, want := fmt.Sprint(f.Systems), "[{iOS and iPadOS 18.2 2} {macOS 15.3.1 1} {macOS  1}]"; got != want {
		t.Errorf("systems are %s, want %s", got, want)
	}
	if want := (mdm.Seen{Hour: 1, Week: 1, Longer: 1, Never: 1}); f.Seen != want {
		t.Errorf("seen %+v, want %+v", f.Seen, want)
	}
	if f.Demo != 1 {
		t.Errorf("%d are simulated, want 1", f.Demo)
	}
	g, err := b.CreateGroup(t.Context(), "", mdm.NewGroup{Name: "some"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.AddToGroup(t.Context(), "", g.ID, []mdm.DeviceID{"a", "c"}); err != nil {
		t.Fatal(err)
	}
	f, err = b.Figures(t.Context(), []mdm.GroupID{g.ID})
	if err != nil {
		t.Fatal(err)
	}
	if want := map[mdm.Kind]int{{mdm.Enrolled, mdm.TypeDevice}: 2, {mdm.Enrolled, mdm.TypeUserChannel}: 1}; !maps.Equal(f.Kinds, want) || f.Demo != 0 {
		t.Errorf("kinds of a group are %v, want %v", f.Kinds, want)
	}
	if f, err = b.Figures(t.Context(), []mdm.GroupID{}); err != nil || len(f.Kinds) != 0 {
		t.Errorf("kinds within nothing are %v, %v", f.Kinds, err)
	}
}

func TestCommandsInFlightAreCounted(t *testing.T) {
	b := newBench(t)
	for _, id := range []string{"a", "b", "c"} {
		b.device(t, id)
	}
	ask := func(uuid string, p mdm.Priority, to ...mdm.DeviceID) {
		c := newCommand(uuid, "ProfileList", to...)
		c.Priority = p
		b.queued(t, c)
	}
	ask("1", mdm.Normal, "a", "b", "c")
	ask("2", mdm.Normal, "a")
	ask("3", mdm.Background, "a", "b")
	b.report(t, "b", b.next(t, "b", true), mdm.NotNow)
	b.next(t, "c", true)
	if n, err := b.InFlight(t.Context(), nil); err != nil || n != (mdm.InFlight{Queued: 2, Delivered: 1, NotNow: 1, Background: 2}) {
		t.Errorf("in flight are %+v, %v", n, err)
	}
	b.report(t, "c", "1", mdm.Acknowledged)
	g := b.group(t, "some", "", "b", "c")
	if n, err := b.InFlight(t.Context(), []mdm.GroupID{g}); err != nil || n != (mdm.InFlight{NotNow: 1, Background: 1}) {
		t.Errorf("in flight in a group are %+v, %v", n, err)
	}
	err := b.db.Update(t.Context(), func(tx storage.Tx) error {
		return errors.Join(mdm.PutWakeup(tx, mdm.Wakeup{DeviceID: "a", State: mdm.WakeDead}), mdm.PutWakeup(tx, mdm.Wakeup{DeviceID: "b", State: mdm.WakeSent}))
	})
	if err != nil {
		t.Fatal(err)
	}
	for want, groups := range map[int][]mdm.GroupID{1: nil, 0: {g}} {
		if n, err := b.DeadTokens(t.Context(), groups, 100); err != nil || n != want {
			t.Errorf("dead tokens of %v are %d, %v, want %d", groups, n, err, want)
		}
	}
}
