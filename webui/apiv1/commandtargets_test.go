package apiv1_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
)

type namedDevice struct {
	DeviceID   string `json:"device_id"`
	DeviceName string `json:"device_name"`
}

type forecast struct {
	Total, Accepted int
	Devices         []namedDevice
	Rejected        []struct {
		Code, Reason string
		Count        int
		Devices      []namedDevice
	}
}

func TestWhatWouldBecomeOfACommand(t *testing.T) {
	h := newHouse(t)
	h.device(t, "phone", func(d *mdm.Device) { d.ProductName, d.DeviceName = "iPhone15,2", "Ana’s iPhone" })
	h.device(t, "tv", func(d *mdm.Device) { d.ProductName = "AppleTV14,1" })
	h.device(t, "tv2", func(d *mdm.Device) { d.ProductName = "AppleTV14,1" })
	check := func(body map[string]any) (f forecast) {
		t.Helper()
		h.do(t, exchange{method: "POST", path: "/api/v1/commands/check", body: body}).want(t, 200, &f)
		return f
	}
	got := check(map[string]any{"request_type": "DeviceLock", "device_ids": []string{"phone", "tv", "tv2", "none"}})
	if got.Total != 4 || got.Accepted != 1 || !slices.Equal(got.Devices, []namedDevice{{"phone", "Ana’s iPhone"}}) || len(got.Rejected) != 2 {
		t.Fatalf("the forecast is %+v", got)
	}
	if r := got.Rejected[0]; r.Code != "unsupported_platform" || r.Count != 2 || r.Reason == "" || len(r.Devices) != 2 {
		t.Errorf("most are rejected with %+v", r)
	}
	if got := check(map[string]any{"request_type": "EraseDevice", "device_ids": []string{"phone"}}); got.Accepted != 1 {
		t.Errorf("an erasure that nobody has confirmed: %+v", got)
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/commands/check", body: map[string]any{"request_type": "RemoveProfile", "device_ids": []string{"phone"}}}).wantField(t, "params.Identifier")
	var none struct{ Items []any }
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/phone/commands"}).want(t, 200, &none)
	if len(none.Items) != 0 {
		t.Errorf("a question queued %v", none.Items)
	}

	var types struct {
		Total int
		Items []struct {
			RequestType      string `json:"request_type"`
			Allowed, Refused int
			Code, Reason     string
		}
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/command-types/check", body: map[string]any{"device_ids": []string{"phone", "tv", "tv2", "none"}}}).want(t, 200, &types)
	if types.Total != 3 || len(types.Items) != 68 {
		t.Fatalf("%d devices, %d types", types.Total, len(types.Items))
	}
	for _, typ := range types.Items {
		if typ.Allowed+typ.Refused != 3 || (typ.Refused > 0) != (typ.Reason != "") {
			t.Errorf("%s: %+v", typ.RequestType, typ)
		}
		if typ.RequestType == "DeviceLock" && (typ.Allowed != 1 || typ.Code != "unsupported_platform") {
			t.Errorf("the lock: %+v", typ)
		}
	}
}

func TestACommandForAllThatMatch(t *testing.T) {
	h := newHouse(t)
	h.device(t, "phone", func(d *mdm.Device) { d.ProductName = "iPhone15,2" })
	h.device(t, "mac", nil)
	q := h.send(t, map[string]any{"request_type": "ProfileList", "filter": "platform=ios&state=enrolled", "no_push": true})
	if len(q.Devices) != 1 || q.Devices[0].DeviceID != "phone" {
		t.Errorf("queued for %+v, want the iPhone only", q.Devices)
	}
	for filter, want := range map[string]string{
		"platform=ios&state=unenrolled": "matches no device",
		"platform=none":                 "platform ",
		"colour=red":                    "colour ",
		"%zz":                           "must be a query",
	} {
		x := h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: map[string]any{"request_type": "ProfileList", "filter": filter}})
		if x.wantField(t, "filter"); !strings.Contains(string(x.answer), want) {
			t.Errorf("%q: %s, want %q", filter, x.answer, want)
		}
	}
	both := map[string]any{"request_type": "ProfileList", "filter": "platform=ios", "device_ids": []string{"mac"}}
	h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: both}).wantField(t, "filter")
}

func TestACommandSaysWhatItAskedAndOfWhom(t *testing.T) {
	h := newHouse(t)
	h.device(t, "phone", func(d *mdm.Device) { d.ProductName, d.DeviceName = "iPhone15,2", "Ana’s iPhone" })
	h.device(t, "mac", nil)
	q := h.send(t, map[string]any{"request_type": "DeviceLock", "params": map[string]any{"Message": "Call us", "PIN": "918273"}, "device_ids": []string{"mac", "phone"}})
	x := h.do(t, exchange{method: "GET", path: "/api/v1/commands/" + q.CommandUUID})
	var got struct {
		Params  map[string]any
		Devices []namedDevice
	}
	x.want(t, 200, &got)
	if got.Params["Message"] != "Call us" || got.Params["PIN"] != "[redacted]" || strings.Contains(string(x.answer), "918273") {
		t.Errorf("params %v", got.Params)
	}
	if len(got.Devices) != 2 || got.Devices[1].DeviceName != "Ana’s iPhone" {
		t.Errorf("devices %v", got.Devices)
	}
}
