package apiv1_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
)

type queuedBatch struct {
	BatchID  string `json:"batch_id"`
	Name     string
	Commands []queued
}

func (h *house) batch(t testing.TB, key, query string, body map[string]any) exchange {
	t.Helper()
	x := exchange{method: "POST", path: "/api/v1/batches" + query, body: body}
	if key != "" {
		x.header = map[string]string{"Idempotency-Key": key}
	}
	return h.do(t, x)
}

func order(requestType string, more ...any) map[string]any {
	o := map[string]any{"request_type": requestType}
	for i := 0; i < len(more); i += 2 {
		o[more[i].(string)] = more[i+1]
	}
	return o
}

func TestABatchGoesToItsDevicesInOrder(t *testing.T) {
	h := newHouse(t)
	h.device(t, "mac", nil)
	h.device(t, "tv", func(d *mdm.Device) { d.ProductName = "AppleTV14,1" })
	body := map[string]any{
		"name": "Monday", "device_ids": []string{"mac", "tv", "none", "mac"}, "expires_in": "24h",
		"commands": []any{order("ProfileList"), order("ContentCachingInformation"), order("DeviceInformation", "params", map[string]any{"Queries": []string{"OSVersion"}})},
	}
	var b, same queuedBatch
	x := h.batch(t, "k", "", body)
	x.want(t, 202, &b)
	if b.Name != "Monday" || len(b.Commands) != 3 || x.response.Get("Location") != "/api/v1/batches/"+b.BatchID {
		t.Fatalf("queued %+v", b)
	}
	for i, want := range []struct{ sent, rejected string }{{"mac tv", "none"}, {"mac", "tv none"}, {"mac tv", "none"}} {
		var sent, rejected []string
		for _, d := range b.Commands[i].Devices {
			sent = append(sent, d.DeviceID)
		}
		for _, d := range b.Commands[i].Rejected {
			rejected = append(rejected, d.DeviceID)
		}
		if strings.Join(sent, " ") != want.sent || strings.Join(rejected, " ") != want.rejected {
			t.Errorf("%s goes to %v and not to %v, want %+v", b.Commands[i].RequestType, sent, rejected, want)
		}
	}
	for i := range 2 {
		if uuid := h.deliver(t, "mac"); uuid != b.Commands[i].CommandUUID {
			t.Errorf("the Mac gets %s as its command %d, want %s", uuid, i, b.Commands[i].CommandUUID)
		}
		h.answer(t, "mac", mdm.Report{CommandUUID: b.Commands[i].CommandUUID, State: mdm.Acknowledged})
	}

	h.batch(t, "k", "", body).want(t, 202, &same)
	if same.BatchID != b.BatchID || same.Commands[0].CommandUUID != b.Commands[0].CommandUUID || same.Commands[0].Devices[0].State != "acknowledged" || len(same.Commands[1].Rejected) != 2 {
		t.Errorf("the same request gives %+v", same)
	}
	body["name"] = "Tuesday"
	h.batch(t, "k", "", body).wantProblem(t, 422, "idempotency_key_reused")

	var whole struct {
		Name         string
		CommandUUIDs []string `json:"command_uuids"`
		Progress     counts
		Commands     []listedCommand
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/batches/" + b.BatchID}).want(t, 200, &whole)
	if whole.Name != "Monday" || len(whole.CommandUUIDs) != 3 || whole.Progress["total"] != 5 || whole.Progress["acknowledged"] != 2 || whole.Progress["queued"] != 3 {
		t.Errorf("the batch is %+v", whole)
	}
	if len(whole.Commands) != 3 || whole.Commands[1].RequestType != "ContentCachingInformation" || whole.Commands[1].Progress["acknowledged"] != 1 || whole.Commands[1].BatchID != b.BatchID || whole.Commands[1].ExpiresAt == nil {
		t.Errorf("its commands are %+v", whole.Commands)
	}
	h.pass(time.Second)
	h.batch(t, "", "", map[string]any{"device_ids": []string{"mac"}, "commands": []any{order("ProfileList")}}).want(t, 202, nil)
	var list struct {
		Items []struct {
			BatchID  string `json:"batch_id"`
			Progress counts
		}
		NextCursor string `json:"next_cursor"`
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/batches?limit=1"}).want(t, 200, &list)
	if len(list.Items) != 1 || list.Items[0].BatchID == b.BatchID || list.NextCursor == "" {
		t.Fatalf("the newest batches are %+v", list)
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/batches?cursor=" + list.NextCursor}).want(t, 200, &list)
	if len(list.Items) != 1 || list.Items[0].BatchID != b.BatchID || list.Items[0].Progress["acknowledged"] != 2 || list.Items[0].Progress["total"] != 5 {
		t.Errorf("the older ones are %+v", list)
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/batches/none"}).wantProblem(t, 404, "not_found")
}

func TestWhatIsWrongInABatchRefusesAllOfIt(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	batch := func(commands ...any) map[string]any {
		return map[string]any{"device_ids": []string{"d1"}, "commands": commands}
	}
	good := order("ProfileList")
	for name, tt := range map[string]struct {
		body   map[string]any
		fields []string
	}{
		"no commands":       {batch(), []string{"commands"}},
		"no devices":        {map[string]any{"commands": []any{good}}, []string{"device_ids"}},
		"an empty device":   {map[string]any{"commands": []any{good}, "device_ids": []string{"d1", ""}}, []string{"device_ids[1]"}},
		"a long name":       {map[string]any{"commands": []any{good}, "device_ids": []string{"d1"}, "name": strings.Repeat("a", 201)}, []string{"name"}},
		"a group":           {map[string]any{"commands": []any{good}, "device_ids": []string{"d1"}, "group_id": "g"}, []string{"group_id"}},
		"a bad expiry":      {map[string]any{"commands": []any{good}, "device_ids": []string{"d1"}, "expires_in": "soon"}, []string{"expires_in"}},
		"too many commands": {batch(slices.Repeat([]any{good}, 51)...), []string{"commands"}},
		"a text":            {batch(good, "ProfileList"), []string{"commands[1]"}},
		"a wrong field":     {batch(order("ProfileList", "parms", map[string]any{})), []string{"commands[0].parms"}},
		"a wrong case":      {batch(order("ProfileList", "Params", map[string]any{})), []string{"commands[0].Params"}},
		"a wrong kind":      {batch(good, order("ProfileList", "confirm", "yes")), []string{"commands[1].confirm"}},
		"two mistakes": {
			batch(order("DeviceLock", "params", map[string]any{"PIN": "1"}), good, order("MakeCoffee")),
			[]string{"commands[0].params.PIN", "commands[2].request_type"},
		},
		"deep inside": {
			batch(good, order("DeviceInformation", "params", map[string]any{"Queries": []string{"UDID", "X"}})), []string{"commands[1].params.Queries[1]"},
		},
		"a mistake and nothing said": {
			batch(order("EraseDevice"), order("RemoveProfile")), []string{"commands[1].params.Identifier", "commands[0].confirm"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := h.do(t, exchange{method: "POST", path: "/api/v1/batches", body: tt.body, wild: true}).wantProblem(t, 400, "invalid_request")
			var fields []string
			for _, e := range p.Errors {
				fields = append(fields, e.Field)
				if !strings.Contains(p.Detail, e.Detail) {
					t.Errorf("the detail %q lacks %q", p.Detail, e.Detail)
				}
			}
			if !slices.Equal(fields, tt.fields) {
				t.Errorf("wrong are %v (%s), want %v", fields, p.Detail, tt.fields)
			}
		})
	}
	p := h.batch(t, "", "", batch(good, order("EraseDevice"))).wantProblem(t, 400, "confirmation_required")
	if len(p.Errors) != 1 || p.Errors[0].Field != "commands[1].confirm" {
		t.Errorf("unconfirmed: %+v", p)
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/batches", body: batch(good, order("EraseDevice", "confirm", true)), token: h.token(t, "helpdesk")}).
		wantProblem(t, http.StatusForbidden, "forbidden")
	nobody := map[string]any{"device_ids": []string{"none"}, "commands": []any{good, order("UserList")}}
	p = h.batch(t, "", "", nobody).wantProblem(t, 422, "command_rejected")
	if len(p.Rejected) != 2 || p.Rejected[0].DeviceID != "none" {
		t.Errorf("rejected %+v", p.Rejected)
	}
	many := map[string]any{"device_ids": make([]string, 10_000), "commands": slices.Repeat([]any{good}, 6)}
	for i := range 10_000 {
		many["device_ids"].([]string)[i] = "d" + strings.Repeat("0", i%7) + string(rune('a'+i%26)) + strings.Repeat("1", i/26/7%11) + strings.Repeat("x", i/26/7/11)
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/batches", body: many}).wantField(t, "device_ids")

	for _, path := range []string{"/api/v1/commands", "/api/v1/batches", "/api/v1/devices/d1/commands"} {
		var list struct{ Items []any }
		h.do(t, exchange{method: "GET", path: path}).want(t, 200, &list)
		if len(list.Items) != 0 {
			t.Errorf("%s has %v", path, list.Items)
		}
	}
}

func TestWaitingForABatch(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	body := map[string]any{"device_ids": []string{"d1"}, "commands": []any{order("ProfileList"), order("SecurityInfo")}}
	answered := make(chan exchange)
	go func() { answered <- h.batch(t, "k", "?wait=60s", body) }()
	for {
		var list struct{ Items []progress }
		h.do(t, exchange{method: "GET", path: "/api/v1/devices/d1/commands"}).want(t, 200, &list)
		if len(list.Items) == 2 {
			break
		}
	}
	h.finish(t, "d1", mdm.Report{State: mdm.Acknowledged})
	h.finish(t, "d1", refusal)
	var b, same queuedBatch
	(<-answered).want(t, 202, &b)
	if b.Commands[0].Devices[0].State != "acknowledged" || b.Commands[1].Devices[0].State != "error" {
		t.Errorf("waiting gives %+v, want the final states", b)
	}
	h.batch(t, "k", "?wait=60s", body).want(t, 202, &same)
	if same.BatchID != b.BatchID || same.Commands[1].Devices[0].State != "error" {
		t.Errorf("the same request gives %+v", same)
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/batches?wait=1h", body: body, wild: true}).wantField(t, "wait")
}
