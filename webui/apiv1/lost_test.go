package apiv1_test

import (
	"context"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
)

func TestADeviceIsReportedLost(t *testing.T) {
	h := newHouse(t)
	u, err := h.identity.CreateUser(context.Background(), identity.Local(), identity.NewUser{Email: "ana@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	h.device(t, "phone", func(d *mdm.Device) { d.User = "ana@example.com" })
	h.device(t, "another", nil)
	if err := h.enroll.ReportLost(context.Background(), u.Principal(), "phone", "in a taxi"); err != nil {
		t.Fatal(err)
	}
	type device struct {
		ID   string
		Lost *string `json:"lost_reported_at"`
		Note string  `json:"lost_note"`
	}
	var list struct{ Items []device }
	h.do(t, exchange{method: "GET", path: "/api/v1/devices"}).want(t, 200, &list)
	var one device
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/phone"}).want(t, 200, &one)
	for _, d := range append(list.Items, one) {
		if lost := d.ID == "phone"; lost != (d.Lost != nil) || lost != (d.Note == "in a taxi") {
			t.Errorf("the device %+v, want the phone lost and no other", d)
		}
	}
	for range 2 { // the second changes nothing
		var found device
		h.do(t, exchange{method: "DELETE", path: "/api/v1/devices/phone/lost"}).want(t, 200, &found)
		if found.Lost != nil || found.Note != "" {
			t.Errorf("found again, the device is %+v", found)
		}
	}
	var events struct {
		Items []struct{ Actor, Action string }
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/audit?device_id=phone"}).want(t, 200, &events)
	if len(events.Items) != 2 || events.Items[0].Action != "device.lost_withdrawn" || events.Items[1].Actor != "user:ana@example.com" {
		t.Errorf("the audit log says %+v", events.Items)
	}
}
