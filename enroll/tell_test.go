package enroll_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

func TestHowFarDevicesComeIsTold(t *testing.T) {
	h := newHouse(t)
	by := identity.WithPrincipal(context.Background(), identity.Local())
	h.enrolled(t, "ana", mac)
	id := h.device(t, mac).ID
	_, err := h.Block(by, id)
	must(t, err)
	for range 2 { // the second changes nothing, and is not told
		_, err = h.Unblock(by, id)
		must(t, err)
	}
	h.pass(time.Hour)
	h.enrolled(t, "ana", mac)

	var told []string
	must(t, h.db.View(context.Background(), func(tx storage.Tx) error {
		told = nil
		list, _, err := event.Page(tx, event.Filter{DeviceID: string(id), Action: "device."}, "", 100)
		for _, e := range slices.Backward(list) {
			who, _, _ := strings.Cut(e.Actor, ":")
			told = append(told, fmt.Sprintf("%s by %s of %s, again=%s", e.Action, who, e.User, e.Details["again"]))
			if e.Action == "device.enrolled" && (e.Details["attempt"] == "" || e.Details["enrollment_type"] != "device" || e.Details["serial_number"] == "") {
				t.Errorf("%s lacks what the device is: %v", e.Action, e.Details)
			}
		}
		return err
	}))
	want := []string{
		"device.checked_in by device of ana, again=", "device.enrolled by device of ana, again=",
		"device.blocked by local of ana, again=", "device.unblocked by local of ana, again=",
		"device.checked_in by device of ana, again=true", "device.enrolled by device of ana, again=true",
	}
	if !slices.Equal(told, want) {
		t.Errorf("told is\n%s\nwant\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
	}
}

func TestCertificatesThatNobodyRenewsAreTold(t *testing.T) {
	h := newHouse(t)
	first := h.enrolled(t, "ana", mac)
	id := h.device(t, mac).ID
	tell := func(left time.Duration, want int) {
		t.Helper()
		h.pass(first.cert.NotAfter.Add(-left).Sub(h.now()))
		must(t, h.TellExpiring(context.Background()))
		must(t, h.db.View(context.Background(), func(tx storage.Tx) error {
			list, _, err := event.Page(tx, event.Filter{Action: "certificate.expiring"}, "", 100)
			if len(list) != want {
				t.Errorf("%v before its end, %d certificates are told of, want %d", left, len(list), want)
			}
			for _, e := range list {
				if e.DeviceID != string(id) || e.Certificate != string(depot.SerialOf(first.cert)) || e.Details["not_after"] == "" {
					t.Errorf("told is %+v, want the identity of %s", e, id)
				}
			}
			return err
		}))
	}
	const day = 24 * time.Hour
	tell(30*day, 0)
	tell(14*day, 0) // to the second: it is not within yet
	tell(13*day, 1)
	tell(12*day, 1)
	tell(time.Hour, 1)
}
