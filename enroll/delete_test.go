package enroll_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// TestRecordsAreKeptAsLongAsSomebodyDecided has devices leave one after the other, in every
// state that there is.
func TestRecordsAreKeptAsLongAsSomebodyDecided(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	begin := h.now()
	put := func(id string, change func(*mdm.Device)) {
		d := mdm.Device{
			ID: mdm.DeviceID(id), AppleID: mdm.AppleID{UDID: "UDID-" + id}, Type: mdm.TypeDevice, State: mdm.Unenrolled, CreatedAt: begin, UnenrolledAt: begin,
		}
		change(&d)
		must(t, h.db.Update(ctx, func(tx storage.Tx) error { return mdm.PutDevice(tx, d) }))
	}
	for days := range 4 {
		put(fmt.Sprintf("left-%d", days), func(d *mdm.Device) { d.UnenrolledAt = begin.Add(time.Duration(days) * 20 * 24 * time.Hour) })
	}
	put("unblocked", func(d *mdm.Device) { d.UnenrolledAt = time.Time{} }) // of before that was noted
	put("enrolled", func(d *mdm.Device) { d.State = mdm.Enrolled })
	put("pending", func(d *mdm.Device) { d.State = mdm.Pending })
	put("blocked", func(d *mdm.Device) { d.State = mdm.Blocked })
	channel := func(id, of string, state mdm.State) {
		put(id, func(d *mdm.Device) {
			d.Type, d.ParentID, d.State, d.AppleID = mdm.TypeUserChannel, mdm.DeviceID(of), state, mdm.AppleID{UDID: "UDID-" + of, UserID: id}
		})
	}
	put("shared", func(*mdm.Device) {})
	channel("barred", "shared", mdm.Blocked)
	put("mac", func(*mdm.Device) {})
	channel("user", "mac", mdm.Unenrolled)

	here := func(want ...string) {
		t.Helper()
		must(t, h.DeleteLeft(ctx))
		var got []string
		h.view(t, func(tx storage.Tx) error {
			got = nil
			page, _, err := mdm.PageDevices(tx, "", 100)
			for _, d := range page {
				got = append(got, string(d.ID))
			}
			return err
		})
		slices.Sort(got)
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("after %s there are %v, want %v", h.now().Sub(begin), got, want)
		}
	}
	decide := func(days int) error {
		return h.db.Update(ctx, func(tx storage.Tx) error { return enroll.PutRetention(tx, enroll.Retention{Days: days}) })
	}
	h.pass(50 * 24 * time.Hour)
	all := []string{"left-0", "left-1", "left-2", "left-3", "unblocked", "enrolled", "pending", "blocked", "shared", "barred", "mac", "user"}
	here(all...)
	for _, days := range []int{-1, 1, 29, 3651} {
		wantErr(t, fmt.Sprintf("%d days", days), decide(days), enroll.ErrRetention)
	}
	must(t, decide(30))
	stay := []string{"left-2", "left-3", "enrolled", "pending", "blocked", "shared", "barred"}
	here(append([]string{"left-1"}, stay...)...)
	h.pass(time.Second)
	here(stay...)
	h.view(t, func(tx storage.Tx) error {
		list, _, err := event.Page(tx, event.Filter{Action: "device.deleted"}, "", 100)
		if err == nil && (len(list) != 5 || list[0].Actor != "server" || list[0].Reason == "") {
			t.Errorf("the audit log says %+v", list)
		}
		return err
	})
	_, err := h.Unblock(ctx, "blocked") // its record is kept from now on, however long ago it left
	must(t, err)
	here(stay...)
	_, err = h.Block(ctx, "blocked")
	must(t, err)
	must(t, decide(0))
	h.pass(1000 * 24 * time.Hour)
	here(stay...)
}
