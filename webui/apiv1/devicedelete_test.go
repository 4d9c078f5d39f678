package apiv1_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
)

func TestDeletingDevices(t *testing.T) {
	h := newHouse(t)
	for id, state := range map[string]mdm.State{"here": mdm.Enrolled, "coming": mdm.Pending, "gone": mdm.Unenrolled, "barred": mdm.Blocked} {
		h.device(t, mdm.DeviceID(id), func(d *mdm.Device) { d.State = state })
	}
	channel := func(id, of string, state mdm.State) {
		h.device(t, mdm.DeviceID(id), func(d *mdm.Device) {
			d.Type, d.ParentID, d.State = mdm.TypeUserChannel, mdm.DeviceID(of), state
			d.AppleID = mdm.AppleID{UDID: "UDID-" + of, UserID: id}
		})
	}
	channel("user", "gone", mdm.Unenrolled)
	h.device(t, "shared", func(d *mdm.Device) { d.State = mdm.Unenrolled })
	channel("barred-user", "shared", mdm.Blocked)
	for id, tt := range map[string]struct {
		status int
		code   string
	}{
		"here": {409, "still_enrolled"}, "coming": {409, "still_enrolled"}, "barred": {409, "blocked"}, "shared": {409, "user_blocked"}, "none": {404, "not_found"},
	} {
		h.do(t, exchange{method: "DELETE", path: "/api/v1/devices/" + id}).wantProblem(t, tt.status, tt.code)
	}
	h.do(t, exchange{method: "DELETE", path: "/api/v1/devices/gone"}).want(t, http.StatusNoContent, nil)
	for _, id := range []string{"gone", "user"} {
		h.do(t, exchange{method: "GET", path: "/api/v1/devices/" + id}).wantProblem(t, 404, "not_found")
	}
	h.do(t, exchange{method: "DELETE", path: "/api/v1/devices/gone"}).wantProblem(t, 404, "not_found")
	var list struct{ Items []struct{ ID string } }
	h.do(t, exchange{method: "GET", path: "/api/v1/devices"}).want(t, http.StatusOK, &list)
	var ids []string
	for _, d := range list.Items {
		ids = append(ids, d.ID)
	}
	if slices.Sort(ids); !slices.Equal(ids, []string{"barred", "barred-user", "coming", "here", "shared"}) {
		t.Errorf("the list has %v", ids)
	}
	var told struct {
		Items []struct {
			DeviceID string `json:"device_id"`
			Details  map[string]string
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/audit?action=device.deleted"}).want(t, http.StatusOK, &told)
	if len(told.Items) != 2 || told.Items[0].DeviceID != "gone" || told.Items[0].Details["serial_number"] != "C02gone" || told.Items[1].DeviceID != "user" {
		t.Errorf("the audit log says %+v", told.Items)
	}
}

func TestMergingDevices(t *testing.T) {
	h := newHouse(t)
	for id, state := range map[string]mdm.State{"old": mdm.Unenrolled, "older": mdm.Unenrolled, "new": mdm.Enrolled, "barred": mdm.Blocked} {
		h.device(t, mdm.DeviceID(id), func(d *mdm.Device) { d.State = state })
	}
	h.device(t, "user", func(d *mdm.Device) { d.ParentID, d.Type, d.State = "new", mdm.TypeUserChannel, mdm.Unenrolled })
	note := func(id, text string) {
		h.do(t, exchange{method: "PATCH", path: "/api/v1/devices/" + id, body: map[string]any{"note": text}}).want(t, http.StatusOK, nil)
	}
	group := func(name string, ids ...string) string {
		var g struct{ ID string }
		h.do(t, exchange{method: "POST", path: "/api/v1/groups", body: map[string]any{"name": name}}).want(t, http.StatusCreated, &g)
		h.do(t, exchange{method: "PUT", path: "/api/v1/groups/" + g.ID + "/devices", body: map[string]any{"device_ids": ids}}).want(t, http.StatusOK, nil)
		return g.ID
	}
	note("old", "has a crack")
	note("new", "lent to Ben")
	one, both := group("One", "old"), group("Both", "old", "new")
	merge := func(from, into string) exchange {
		return h.do(t, exchange{method: "POST", path: "/api/v1/devices/" + into + "/merge", body: map[string]any{"device_id": from}})
	}
	for name, tt := range map[string]struct {
		from, into string
		status     int
		code       string
	}{
		"one that is enrolled":  {"new", "old", 409, "still_enrolled"},
		"one that is blocked":   {"barred", "new", 409, "blocked"},
		"a device with itself":  {"old", "old", 409, "same_device"},
		"a user of a device":    {"user", "new", 409, "user_channel"},
		"into one of its users": {"old", "user", 409, "user_channel"},
		"into no device":        {"old", "none", 404, "not_found"},
	} {
		t.Run(name, func(t *testing.T) { merge(tt.from, tt.into).wantProblem(t, tt.status, tt.code) })
	}
	merge("none", "new").wantField(t, "device_id")
	merge("", "new").wantField(t, "device_id")

	var d struct{ Note struct{ Text string } }
	merge("old", "new").want(t, http.StatusOK, &d)
	if d.Note.Text != "lent to Ben\nhas a crack" {
		t.Errorf("the note is %q", d.Note.Text)
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/old"}).wantProblem(t, 404, "not_found")
	var told struct {
		Items []struct {
			Details map[string]string
			Changes []struct{ Before, After string }
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/audit?device_id=new&action=device.merged"}).want(t, http.StatusOK, &told)
	if len(told.Items) != 1 || told.Items[0].Details["from"] != "old" || len(told.Items[0].Changes) != 1 || told.Items[0].Changes[0].Before != "lent to Ben" {
		t.Errorf("the audit log of the present record says %+v", told.Items)
	}
	for _, g := range []string{one, both} {
		var in struct {
			Items []struct{ ID string }
			Total int
		}
		h.do(t, exchange{method: "GET", path: "/api/v1/groups/" + g + "/devices?enrollment_type=device"}).want(t, http.StatusOK, &in)
		var counted struct {
			Devices *int `json:"device_count"`
		}
		h.do(t, exchange{method: "GET", path: "/api/v1/groups/" + g}).want(t, http.StatusOK, &counted)
		if len(in.Items) != 1 || in.Items[0].ID != "new" || counted.Devices == nil || *counted.Devices != 1 {
			t.Errorf("a group has %+v, and counts %v", in, counted.Devices)
		}
	}
	note("older", strings.Repeat("x", mdm.MaxNote-5))
	merge("older", "new").wantProblem(t, 409, "notes_too_long")
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/older"}).want(t, http.StatusOK, &d)
	if len(d.Note.Text) != mdm.MaxNote-5 {
		t.Error("what was refused has changed something")
	}
}
