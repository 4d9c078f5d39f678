package apiv1_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
)

func TestANoteAboutADevice(t *testing.T) {
	h := newHouse(t)
	h.device(t, "phone", func(d *mdm.Device) { d.ModelName, d.Demo = "iPhone 16", true })
	type device struct {
		ModelName string `json:"model_name"`
		Demo      bool
		Note      *struct{ Text, By string }
		Push      *struct{ State string }
		Waiting   *struct{ Code, Reason string } `json:"waiting_for"`
	}
	var got device
	h.do(t, exchange{method: "PATCH", path: "/api/v1/devices/phone", body: `{"note":"in the lobby"}`}).want(t, http.StatusOK, &got)
	if got.Note == nil || got.Note.Text != "in the lobby" || got.Note.By == "" || got.ModelName != "iPhone 16" || !got.Demo || got.Waiting != nil {
		t.Errorf("the device is %+v", got)
	}
	h.do(t, exchange{method: "PATCH", path: "/api/v1/devices/phone", body: `{}`}).want(t, http.StatusOK, &got)
	if got.Note == nil {
		t.Error("a request without a note removed it")
	}
	h.do(t, exchange{method: "PATCH", path: "/api/v1/devices/phone", body: `{"note":"` + strings.Repeat("x", mdm.MaxNote+1) + `"}`}).wantProblem(t, http.StatusBadRequest, "invalid_request")
	h.do(t, exchange{method: "PATCH", path: "/api/v1/devices/nobody", body: `{"note":"x"}`}).wantProblem(t, http.StatusNotFound, "not_found")

	h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: `{"request_type":"DeviceInformation","device_ids":["phone"]}`}).want(t, http.StatusAccepted, &struct{}{})
	var list struct{ Items []device }
	h.do(t, exchange{method: "GET", path: "/api/v1/devices"}).want(t, http.StatusOK, &list)
	if d := list.Items[0]; d.Waiting == nil || d.Waiting.Reason == "" || d.Push == nil || d.Note != nil {
		t.Errorf("in a list it is %+v", d)
	}
	var events struct{ Items []struct{ Action string } }
	h.do(t, exchange{method: "GET", path: "/api/v1/audit?device_id=phone&action=device.noted"}).want(t, http.StatusOK, &events)
	if len(events.Items) != 1 {
		t.Errorf("the audit log has %+v, want one note", events.Items)
	}
}
