package apiv1_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/mdm"
)

func TestADeviceIsPushed(t *testing.T) {
	h := newHouse(t)
	h.device(t, "a", func(d *mdm.Device) {
		d.Push = &mdm.Push{Topic: "com.apple.mgmt.External.test", Token: []byte("token"), Magic: "magic", ToldAt: h.now()}
	})
	h.device(t, "mute", nil)
	const path = "/api/v1/devices/a"
	for _, tt := range []struct {
		answer apns.Result
		status int
		say    string // state or code
	}{
		{apns.Result{Outcome: apns.Sent, Status: 200}, http.StatusAccepted, "sent"},
		{apns.Result{Outcome: apns.Retry, Reason: "Transport"}, http.StatusAccepted, "retry"},
		{apns.Result{Outcome: apns.Refused, Status: 400, Reason: "BadDeviceToken"}, http.StatusConflict, "push_refused"},
		{apns.Result{Outcome: apns.Refused, Reason: "NoCertificate", Whole: true}, http.StatusConflict, "push_unavailable"},
		{apns.Result{Outcome: apns.TokenInvalid, Status: 410, Reason: "Unregistered", Timestamp: h.now().Add(time.Minute)}, http.StatusConflict, "push_token_dead"},
	} {
		h.pushes.answers(tt.answer)
		var out struct{ State, Code string }
		h.do(t, exchange{method: "POST", path: path + "/push"}).want(t, tt.status, &out)
		if out.State+out.Code != tt.say {
			t.Errorf("%+v: %+v, want %s", tt.answer, out, tt.say)
		}
	}
	var d struct {
		Push struct {
			State, Reason string
			Silent        bool
		}
	}
	h.do(t, exchange{method: "GET", path: path}).want(t, http.StatusOK, &d)
	if d.Push.State != "token_dead" || d.Push.Reason == "" || d.Push.Silent {
		t.Errorf("the device's push is %+v", d.Push)
	}
	for _, tt := range []struct{ push, want string }{{"token_dead", "a"}, {"no_token", "mute"}, {"refused", ""}} {
		var list struct{ Items []struct{ ID string } }
		h.do(t, exchange{method: "GET", path: "/api/v1/devices?push=" + tt.push}).want(t, http.StatusOK, &list)
		got := ""
		for _, d := range list.Items {
			got += d.ID
		}
		if got != tt.want {
			t.Errorf("devices whose push is %s: %q, want %q", tt.push, got, tt.want)
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/devices?push=dead", wild: true}).wantProblem(t, http.StatusBadRequest, "invalid_request")
	h.pass(8 * 24 * time.Hour)
	h.do(t, exchange{method: "GET", path: path}).want(t, http.StatusOK, &d)
	if !d.Push.Silent {
		t.Error("a device that was not heard of for eight days is not silent")
	}
	var problem struct{ Code string }
	h.do(t, exchange{method: "POST", path: "/api/v1/devices/mute/push"}).want(t, http.StatusConflict, &problem)
	if problem.Code != "push_no_token" {
		t.Errorf("code %q", problem.Code)
	}
}

func TestHowLongDevicesAreWoken(t *testing.T) {
	h := newHouse(t)
	var after struct {
		Push struct {
			Repeats       int
			RepeatAfter   string `json:"repeat_after"`
			NotNowRepeats int    `json:"not_now_repeats"`
			SilentAfter   string `json:"silent_after"`
		}
	}
	h.do(t, exchange{method: "PATCH", path: settingsPath, body: `{"push":{"repeats":0,"silent_after":"48h"}}`}).want(t, http.StatusOK, &after)
	if p := after.Push; p.Repeats != 0 || p.SilentAfter != "48h0m0s" || p.RepeatAfter != "1h0m0s" || p.NotNowRepeats != 20 {
		t.Errorf("settings are %+v", p)
	}
	for field, body := range map[string]string{
		"push.repeats":      `{"push":{"repeats":-1}}`,
		"push.repeat_after": `{"push":{"repeat_after":"soon"}}`,
		"push.silent_after": `{"push":{"silent_after":"1s"}}`,
	} {
		answer := h.do(t, exchange{method: "PATCH", path: settingsPath, body: body, wild: true})
		if answer.status != http.StatusUnprocessableEntity && answer.status != http.StatusBadRequest || !strings.Contains(string(answer.answer), field) {
			t.Errorf("%s: %d %s", body, answer.status, answer.answer)
		}
	}
}
