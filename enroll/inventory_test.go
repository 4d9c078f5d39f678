package enroll_test

import (
	"context"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/inventory"
)

func TestInventoryFollowsTheEnrollment(t *testing.T) {
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	known := func(id mdm.AppleID) inventory.Inventory {
		t.Helper()
		in, err := h.inventory.Inventory(ctx, h.device(t, id).ID)
		must(t, err)
		return in
	}
	first := h.now().Add(time.Minute)
	p := h.enrolled(t, "ana", mac)
	user := mdm.AppleID{UDID: mac.UDID, UserID: "501"}
	must(t, p.tokenUpdateAs(user, "user-magic"))
	for _, id := range []mdm.AppleID{mac, user} {
		if in := known(id); !in.NextAt.Equal(first) {
			t.Errorf("after its enrollment %+v is asked at %v, want %v", id, in.NextAt, first)
		}
	}
	h.pass(time.Hour)
	must(t, p.tokenUpdate("again"))
	if in := known(mac); !in.NextAt.Equal(first) {
		t.Errorf("another TokenUpdate has it asked at %v, want %v", in.NextAt, first)
	}
	asked, err := h.inventory.Refresh(ctx, "ana", []mdm.DeviceID{h.device(t, mac).ID}, []inventory.Source{inventory.DeviceInformation})
	must(t, err)
	_, err = p.idle()
	must(t, err)
	_, err = h.Connect(ctx, p.peer(), enroll.ConnectMessage{ID: mac, Report: mdm.Report{
		CommandUUID: asked[0].Queued[0].CommandUUID, State: mdm.Acknowledged, Result: []byte(`{"QueryResponses":{"DeviceName":"Ana's Mac","HostName":"ana.local"}}`),
	}})
	must(t, err)

	must(t, unenroll(h, p))
	for _, id := range []mdm.AppleID{mac, user} {
		if in := known(id); !in.NextAt.IsZero() {
			t.Errorf("%+v has left and is asked at %v", id, in.NextAt)
		}
	}
	if in := known(mac); len(in.Reports[0].Facts) != 2 || in.Device.DeviceName != "Ana's Mac" {
		t.Errorf("it has left and is known as %+v, %q", in.Reports[0], in.Device.DeviceName)
	}
	h.enrolled(t, "ben", mac)
	if in := known(mac); len(in.Reports[0].Facts) > 0 || !in.NextAt.Equal(h.now().Add(time.Minute)) {
		t.Errorf("in its next enrollment it is known as %+v, and asked at %v", in.Reports[0], in.NextAt)
	}
}
