package apiv1_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

type queued struct {
	CommandUUID string `json:"command_uuid"`
	RequestType string `json:"request_type"`
	BatchID     string `json:"batch_id"`
	Devices     []struct {
		DeviceID string `json:"device_id"`
		State    string
	}
	Rejected rejections
}

type rejections = []struct {
	DeviceID     string `json:"device_id"`
	Code, Reason string
}

type progress struct {
	DeviceID    string `json:"device_id"`
	CommandUUID string `json:"command_uuid"`
	RequestType string `json:"request_type"`
	State       string
	CreatedAt   *time.Time       `json:"created_at"`
	DeliveredAt *time.Time       `json:"delivered_at"`
	FinishedAt  *time.Time       `json:"finished_at"`
	NotNowCount int              `json:"not_now_count"`
	ErrorChain  []map[string]any `json:"error_chain"`
	Result      json.RawMessage

	WaitingFor   *struct{ Code, Reason string } `json:"waiting_for"`
	SupersededBy string                         `json:"superseded_by"`
	Error        string
	Summary      string
}

// send queues a command and returns the answer, which must be a 202.
func (h *house) send(t testing.TB, body map[string]any) queued {
	t.Helper()
	var q queued
	h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: body}).want(t, 202, &q)
	return q
}

// progress returns how far a command is with its only device.
func (h *house) progress(t testing.TB, uuid string) progress {
	t.Helper()
	var c struct{ Devices []progress }
	h.do(t, exchange{method: "GET", path: "/api/v1/commands/" + uuid}).want(t, 200, &c)
	if len(c.Devices) != 1 {
		t.Fatalf("command %s has devices %+v, want one", uuid, c.Devices)
	}
	return c.Devices[0]
}

func TestTheLifeOfACommand(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	q := h.send(t, map[string]any{"request_type": "DeviceInformation", "params": map[string]any{"Queries": []string{"DeviceName"}}, "device_ids": []string{"d1", "d1"}})
	if q.RequestType != "DeviceInformation" || len(q.Devices) != 1 || q.Devices[0].State != "queued" || len(q.Rejected) != 0 {
		t.Fatalf("queued %+v", q)
	}
	if p := h.progress(t, q.CommandUUID); p.State != "queued" || p.DeliveredAt != nil || string(p.Result) != "null" || p.ErrorChain == nil {
		t.Errorf("before delivery it is %+v", p)
	}
	if uuid := h.deliver(t, "d1"); uuid != q.CommandUUID {
		t.Fatalf("the device gets %s, want %s", uuid, q.CommandUUID)
	}
	h.answer(t, "d1", mdm.Report{CommandUUID: q.CommandUUID, State: mdm.NotNow})
	if p := h.progress(t, q.CommandUUID); p.State != "not_now" || p.NotNowCount != 1 || p.FinishedAt != nil {
		t.Errorf("after NotNow it is %+v", p)
	}
	h.deliver(t, "d1")
	h.answer(t, "d1", mdm.Report{CommandUUID: q.CommandUUID, State: mdm.Acknowledged, Result: json.RawMessage(`{"QueryResponses":{"DeviceName":"<A>"}}`)})
	if p := h.progress(t, q.CommandUUID); p.State != "acknowledged" || p.FinishedAt == nil || string(p.Result) == "null" {
		t.Errorf("in the end it is %+v", p)
	}

	other := h.send(t, map[string]any{"request_type": "SecurityInfo", "device_ids": []string{"d1"}})
	h.deliver(t, "d1")
	h.answer(t, "d1", mdm.Report{CommandUUID: other.CommandUUID, State: mdm.Failed, ErrorChain: []command.ChainedError{{ErrorCode: 12007, ErrorDomain: "MCMDMErrorDomain", USEnglishDescription: "No rights"}}})

	var list struct{ Items []progress }
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/d1/commands"}).want(t, 200, &list)
	if len(list.Items) != 2 || list.Items[0].CommandUUID != other.CommandUUID || list.Items[1].CommandUUID != q.CommandUUID {
		t.Fatalf("the device's commands are %+v, want the newest first", list.Items)
	}
	failed := list.Items[0]
	if failed.State != "error" || len(failed.ErrorChain) != 1 || failed.ErrorChain[0]["ErrorCode"] != 12007.0 || failed.ErrorChain[0]["USEnglishDescription"] != "No rights" {
		t.Errorf("the failed command is %+v", failed)
	}
}

func TestCommandsThatAreRefused(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	to := func(body string) string { return `{"device_ids":["d1"],` + body + `}` }
	for name, tt := range map[string]struct{ body, field string }{
		"without a type":        {`{"device_ids":["d1"]}`, "request_type"},
		"of an unknown type":    {to(`"request_type":"MakeCoffee"`), "request_type"},
		"deep inside":           {to(`"request_type":"Settings","params":{"Settings":[{"Item":"Bluetooth","Enabled":true},{"Item":"Tea"}]}`), "params.Settings[1].Item"},
		"without what it needs": {to(`"request_type":"ScheduleOSUpdate"`), "params.Updates"},
		"for nobody":            {`{"request_type":"ProfileList"}`, "device_ids"},
		"for an empty list":     {`{"request_type":"ProfileList","device_ids":[]}`, "device_ids"},
		"for an empty id":       {`{"request_type":"ProfileList","device_ids":["d1",""]}`, "device_ids[1]"},
		"for a group":           {to(`"request_type":"ProfileList","group_id":"g"`), "group_id"},
		"with an unknown key":   {to(`"request_type":"DeviceLock","params":{"Pin":"1"}`), "params.Pin"},
		"with a wrong query":    {to(`"request_type":"DeviceInformation","params":{"Queries":["UDID","OSVersion","X"]}`), "params.Queries[2]"},
		"with a huge number":    {to(`"request_type":"ProfileList","params":{"ManagedOnly":1e400}`), "params.ManagedOnly"},
		"with a missing key":    {to(`"request_type":"RemoveProfile"`), "params.Identifier"},
		"with null for an enum": {to(`"request_type":"EraseDevice","confirm":true,"params":{"ObliterationBehavior":null}`), "params.ObliterationBehavior"},
	} {
		t.Run(name, func(t *testing.T) {
			h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: tt.body, wild: true}).wantField(t, tt.field)
		})
	}
	var list struct{ Items []any }
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/d1/commands"}).want(t, 200, &list)
	if len(list.Items) != 0 {
		t.Errorf("the device got %v", list.Items)
	}
}

func TestWhatCannotBeUndoneIsConfirmed(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	for name, tt := range map[string]struct {
		body   map[string]any
		needed bool
	}{
		"erasing":                        {map[string]any{"request_type": "EraseDevice", "params": map[string]any{"PIN": "123456"}}, true},
		"removing the enrollment itself": {map[string]any{"request_type": "RemoveProfile", "params": map[string]any{"Identifier": h.enroll.ProfileIdentifier()}}, true},
		"removing another profile":       {map[string]any{"request_type": "RemoveProfile", "params": map[string]any{"Identifier": "com.example"}}, false},
		"locking":                        {map[string]any{"request_type": "DeviceLock", "params": map[string]any{"PIN": "123456"}}, false},
		"restarting":                     {map[string]any{"request_type": "RestartDevice"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			tt.body["device_ids"] = []string{"d1"}
			plain := h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: tt.body})
			if !tt.needed {
				plain.want(t, 202, nil)
				return
			}
			plain.wantProblem(t, http.StatusBadRequest, "confirmation_required")
			tt.body["confirm"] = true
			h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: tt.body}).want(t, 202, nil)
		})
	}
}

func TestEachDeviceIsJudgedByItself(t *testing.T) {
	h := newHouse(t)
	h.device(t, "mac", nil)
	h.device(t, "tv", func(d *mdm.Device) { d.ProductName = "AppleTV14,1" })
	h.device(t, "personal", func(d *mdm.Device) {
		d.Type, d.AppleID, d.ProductName = mdm.TypeUser, mdm.AppleID{EnrollmentID: "E1"}, "iPhone15,2"
	})
	erase := func(ids ...string) map[string]any {
		return map[string]any{"request_type": "EraseDevice", "device_ids": ids, "confirm": true}
	}
	q := h.send(t, erase("mac", "personal", "none"))
	if len(q.Devices) != 1 || q.Devices[0].DeviceID != "mac" || len(q.Rejected) != 2 {
		t.Fatalf("erasing three gives %+v, want the Mac only", q)
	}
	codes := make(map[string]string)
	for _, r := range q.Rejected {
		codes[r.DeviceID] = r.Code
		if r.Reason == "" {
			t.Errorf("%s is rejected without a reason", r.DeviceID)
		}
	}
	if codes["personal"] != "forbidden_in_user_enrollment" || codes["none"] != "not_found" {
		t.Errorf("the codes are %v", codes)
	}
	p := h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: erase("personal", "none")}).wantProblem(t, 422, "command_rejected")
	if len(p.Rejected) != 2 {
		t.Errorf("rejected = %+v", p.Rejected)
	}
	lock := map[string]any{"request_type": "DeviceLock", "device_ids": []string{"tv"}}
	if p := h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: lock}).wantProblem(t, 422, "command_rejected"); p.Rejected[0].Code != "unsupported_platform" {
		t.Errorf("locking an Apple TV: %+v", p.Rejected)
	}
}

func TestAUserEnrollmentIsSparedWhatAppleForbidsThere(t *testing.T) {
	h := newHouse(t)
	h.device(t, "office", nil)
	h.device(t, "personal", func(d *mdm.Device) {
		d.Type, d.AppleID, d.ProductName = mdm.TypeUser, mdm.AppleID{EnrollmentID: "E1"}, "iPhone15,2"
	})
	vpn := `<plist version="1.0"><dict><key>PayloadType</key><string>Configuration</string><key>PayloadContent</key><array>
		<dict><key>PayloadType</key><string>com.apple.vpn.managed</string></dict></array></dict></plist>`
	for name, tt := range map[string]struct {
		requestType string
		params      map[string]any
		names       string
	}{
		"a serial number": {"DeviceInformation", map[string]any{"Queries": []string{"DeviceName", "SerialNumber"}}, "SerialNumber"},
		"a VPN":           {"InstallProfile", map[string]any{"Payload": base64.StdEncoding.EncodeToString([]byte(vpn))}, "com.apple.vpn.managed"},
	} {
		t.Run(name, func(t *testing.T) {
			ask := func(ids ...string) map[string]any {
				return map[string]any{"request_type": tt.requestType, "params": tt.params, "device_ids": ids}
			}
			refused := func(of string, rejected rejections) {
				t.Helper()
				if len(rejected) != 1 || rejected[0].DeviceID != "personal" || rejected[0].Code != "forbidden_in_user_enrollment" || !strings.Contains(rejected[0].Reason, tt.names) {
					t.Errorf("rejected of %s = %+v, want one that names %s", of, rejected, tt.names)
				}
			}
			refused("the personal one", h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: ask("personal")}).wantProblem(t, 422, "command_rejected").Rejected)
			q := h.send(t, ask("personal", "office"))
			refused("both", q.Rejected)
			if len(q.Devices) != 1 || q.Devices[0].DeviceID != "office" {
				t.Errorf("the command goes to %+v, want the office's only", q.Devices)
			}
		})
	}
	raw := `<plist version="1.0"><dict><key>Command</key><dict><key>RequestType</key><string>Settings</string><key>Settings</key><array>
		<dict><key>Item</key><string>Wallpaper</string></dict></array></dict><key>CommandUUID</key><string>R1</string></dict></plist>`
	p := h.do(t, exchange{method: "POST", path: "/api/v1/commands/raw?device_ids=personal", body: []byte(raw), wild: true}).wantProblem(t, 422, "command_rejected")
	if len(p.Rejected) != 1 || !strings.Contains(p.Rejected[0].Reason, "Wallpaper") {
		t.Errorf("a raw command: rejected %+v", p.Rejected)
	}
	if q := h.send(t, map[string]any{"request_type": "DeviceInformation", "device_ids": []string{"personal", "office"}}); len(q.Devices) != 2 || len(q.Rejected) != 0 {
		t.Errorf("what we choose to ask goes to %+v, not to %+v", q.Devices, q.Rejected)
	}
}

func TestANewerProfileTakesThePlaceOfAnUndeliveredOne(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	install := func(identifier, version string) queued {
		profile := fmt.Sprintf(`<plist version="1.0"><dict><key>PayloadType</key><string>Configuration</string><key>PayloadIdentifier</key><string>%s</string><key>PayloadDisplayName</key><string>%s</string></dict></plist>`, identifier, version)
		return h.send(t, map[string]any{"request_type": "InstallProfile", "device_ids": []string{"d1"},
			"params": map[string]any{"Payload": base64.StdEncoding.EncodeToString([]byte(profile))}})
	}
	first, other, second := install("com.example.wifi", "1"), install("com.example.vpn", "1"), install("com.example.wifi", "2")
	for uuid, want := range map[string]string{first.CommandUUID: "cancelled", other.CommandUUID: "queued", second.CommandUUID: "queued"} {
		if got := h.progress(t, uuid); got.State != want {
			t.Errorf("command %s is %s, want %s", uuid, got.State, want)
		}
	}
	// A payload that is no profile has no identifier to go by, and is the device's to refuse.
	h.send(t, map[string]any{"request_type": "InstallProfile", "device_ids": []string{"d1"}, "params": map[string]any{"Payload": "aGVsbG8="}})
}

func TestABigProfileFits(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	body := func(size int) string {
		return `{"request_type":"InstallProfile","device_ids":["d1"],"params":{"Payload":"` + base64.StdEncoding.EncodeToString(make([]byte, size)) + `"}}`
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: body(2 << 20)}).want(t, 202, nil)
	h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: body(10 << 20), wild: true}).wantProblem(t, http.StatusRequestEntityTooLarge, "body_too_large")
}

func TestRawCommands(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	h.device(t, "d2", nil)
	send := func(ids string, body []byte) exchange {
		return h.do(t, exchange{method: "POST", path: "/api/v1/commands/raw?" + ids, body: body, wild: true})
	}
	var q queued
	send("device_ids=d1,d1&device_ids=none", raw("raw-1", "Tomorrow")).want(t, 202, &q)
	if q.CommandUUID != "raw-1" || q.RequestType != "Tomorrow" || len(q.Devices) != 1 || len(q.Rejected) != 1 {
		t.Errorf("queued %+v", q)
	}
	h.deliver(t, "d1")
	send("device_ids=d1,d2", raw("raw-1", "Tomorrow")).want(t, 202, &q)
	if len(q.Devices) != 2 || q.Devices[0].State != "delivered" || q.Devices[1].State != "queued" {
		t.Errorf("the same command again gives %+v, want the new device added", q)
	}
	send("device_ids=d1", raw("raw-1", "Yesterday")).wantProblem(t, http.StatusConflict, "command_exists")
	h.do(t, exchange{method: "POST", path: "/api/v1/commands/raw?device_ids=d1", body: raw("raw-3", "ProfileList"), wild: true,
		header: map[string]string{"Content-Type": "application/xml"}}).want(t, 202, nil)
	send("device_ids=d1", []byte("hello")).wantProblem(t, http.StatusBadRequest, "invalid_command")
	send("device_ids=d1", []byte("bplist00\xd0")).wantProblem(t, http.StatusBadRequest, "invalid_command")
	send("device_ids=d1", nil).wantProblem(t, http.StatusBadRequest, "invalid_command")
	send("device_ids=d1", []byte(`<plist><dict/></plist>`)).wantProblem(t, http.StatusBadRequest, "invalid_command")
	send("", raw("raw-2", "ProfileList")).wantField(t, "device_ids")
	send("device_ids=", raw("raw-2", "ProfileList")).wantField(t, "device_ids[0]")
	send("device_ids=none", raw("raw-2", "ProfileList")).wantProblem(t, 422, "command_rejected")

	// A group and a filter are as of other commands.
	var group struct{ ID string }
	h.do(t, exchange{method: "POST", path: "/api/v1/groups", body: map[string]any{"name": "one"}}).want(t, 201, &group)
	h.do(t, exchange{method: "PUT", path: "/api/v1/groups/" + group.ID + "/devices", body: map[string]any{"device_ids": []string{"d2"}}}).want(t, 200, nil)
	send("group_id="+group.ID, raw("raw-4", "ProfileList")).want(t, 202, &q)
	if len(q.Devices) != 1 || q.Devices[0].DeviceID != "d2" {
		t.Errorf("queued for the group: %+v", q)
	}
	all := "filter=" + url.QueryEscape("state=enrolled&enrollment_type=device")
	once := func(query string) exchange {
		return h.do(t, exchange{method: "POST", path: "/api/v1/commands/raw?" + query, body: raw("raw-5", "ProfileList"), wild: true, header: map[string]string{"Idempotency-Key": "once"}})
	}
	once(all).want(t, 202, &q)
	if len(q.Devices) != 2 {
		t.Errorf("queued for those that match: %+v", q)
	}
	h.device(t, "d3", nil)
	if once(all).want(t, 202, &q); len(q.Devices) != 2 {
		t.Errorf("the same request again is for others: %+v", q)
	}
	once("group_id="+group.ID).wantProblem(t, 422, "idempotency_key_reused")
	send("device_ids=d1&group_id="+group.ID, raw("raw-6", "ProfileList")).wantField(t, "group_id")
	send("filter=colour%3Dred", raw("raw-6", "ProfileList")).wantField(t, "filter")
}

func TestARepeatedRequestQueuesNothingTwice(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	h.device(t, "d2", nil)
	send := func(key, token string, ids ...string) exchange {
		return h.do(t, exchange{method: "POST", path: "/api/v1/commands", token: token, header: map[string]string{"Idempotency-Key": key},
			body: map[string]any{"request_type": "ProfileList", "device_ids": ids}})
	}
	var first, again queued
	send("k1", "", "d1").want(t, 202, &first)
	h.deliver(t, "d1")
	send("k1", "", "d1").want(t, 202, &again)
	if again.CommandUUID != first.CommandUUID || again.Devices[0].State != "delivered" {
		t.Errorf("the same request again gives %+v, want %s as it is now", again, first.CommandUUID)
	}
	send("k1", "", "d1", "d2").wantProblem(t, 422, "idempotency_key_reused")

	var other queued
	send("k2", "", "d1").want(t, 202, &other)
	if other.CommandUUID == first.CommandUUID {
		t.Error("another key gives the same command")
	}
	send("k1", h.token(t, "owner"), "d1").want(t, 202, &other)
	if other.CommandUUID == first.CommandUUID {
		t.Error("another token's key gives the same command")
	}

	// A request that was refused used no key.
	h.do(t, exchange{method: "POST", path: "/api/v1/commands", header: map[string]string{"Idempotency-Key": "k3"},
		body: map[string]any{"request_type": "DeviceLock", "params": map[string]any{"PIN": "1"}, "device_ids": []string{"d1"}}}).wantField(t, "params.PIN")
	send("k3", "", "d1").want(t, 202, nil)

	h.pass(25 * time.Hour)
	send("k1", "", "d1", "d2").want(t, 202, &other)
	if other.CommandUUID == first.CommandUUID {
		t.Error("the key is remembered for ever")
	}
	for _, bad := range []string{strings.Repeat("k", 256), "a b", "ключ"} {
		h.do(t, exchange{method: "POST", path: "/api/v1/commands", header: map[string]string{"Idempotency-Key": bad}, wild: true,
			body: map[string]any{"request_type": "ProfileList", "device_ids": []string{"d1"}}}).wantField(t, "Idempotency-Key")
	}
}

func TestAFilterOfCommandsWithASlipIsRefused(t *testing.T) {
	h := newHouse(t)
	h.do(t, exchange{method: "GET", path: "/api/v1/commands?request_typ=EraseDevice", wild: true}).wantField(t, "request_typ")
}

// A stolen database must not tell a PIN, which is soon guessed from a plain hash.
func TestARepeatedRequestIsKnownByACodeNotByAHash(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	body := []byte(`{"request_type":"DeviceLock","params":{"PIN":"493817"},"device_ids":["d1"]}`)
	h.do(t, exchange{method: "POST", path: "/api/v1/commands", header: map[string]string{"Idempotency-Key": "k", "Content-Type": "application/json"}, body: body}).want(t, 202, nil)
	guess := sha256.Sum256(storage.Key("/api/v1/commands", "", string(body)))
	err := h.db.View(context.Background(), func(tx storage.Tx) error {
		n := 0
		for item, err := range tx.Scan("api_idempotency", storage.Range{}) {
			if err != nil {
				return err
			}
			n++
			if bytes.Contains(item.Value, []byte(hex.EncodeToString(guess[:]))) {
				t.Error("whoever guesses the PIN finds the guess confirmed")
			}
		}
		if n != 1 {
			t.Errorf("%d requests are remembered, want 1", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOneOfManyRequestsWithOneKeyQueues(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			h.do(t, exchange{method: "POST", path: "/api/v1/commands", header: map[string]string{"Idempotency-Key": "k"},
				body: map[string]any{"request_type": "ProfileList", "device_ids": []string{"d1"}}})
		})
	}
	wg.Wait()
	var list struct{ Items []progress }
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/d1/commands"}).want(t, 200, &list)
	if len(list.Items) != 1 {
		t.Errorf("the device got %d commands, want 1", len(list.Items))
	}
}

func TestWaitingForTheDevices(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	body := map[string]any{"request_type": "ProfileList", "device_ids": []string{"d1"}}

	answered := make(chan exchange)
	go func() {
		answered <- h.do(t, exchange{method: "POST", path: "/api/v1/commands?wait=60s", body: body})
	}()
	uuid := ""
	for uuid == "" { // until the request has queued its command
		var list struct{ Items []progress }
		h.do(t, exchange{method: "GET", path: "/api/v1/devices/d1/commands"}).want(t, 200, &list)
		if len(list.Items) == 1 {
			uuid = list.Items[0].CommandUUID
		}
	}
	select {
	case got := <-answered:
		t.Fatalf("answered %d %s before the device did", got.status, got.answer)
	default:
	}
	h.deliver(t, "d1")
	h.answer(t, "d1", mdm.Report{CommandUUID: uuid, State: mdm.Acknowledged})
	var q queued
	(<-answered).want(t, 202, &q)
	if len(q.Devices) != 1 || q.Devices[0].State != "acknowledged" {
		t.Errorf("waiting gives %+v, want the final state", q)
	}

	h.do(t, exchange{method: "POST", path: "/api/v1/commands?wait=1ms", body: body}).want(t, 202, &q)
	if q.Devices[0].State != "queued" {
		t.Errorf("waiting in vain gives %+v", q)
	}
	for _, bad := range []string{"wait=", "wait=-1s", "wait=1h", "wait=30", "wait=1s&wait=1s"} {
		h.do(t, exchange{method: "POST", path: "/api/v1/commands?" + bad, body: body, wild: true}).wantField(t, "wait")
	}
}

func TestCancelling(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	q := h.send(t, map[string]any{"request_type": "ProfileList", "device_ids": []string{"d1"}})
	at := "/api/v1/devices/d1/commands/" + q.CommandUUID
	h.do(t, exchange{method: "DELETE", path: at}).want(t, 204, nil)
	if p := h.progress(t, q.CommandUUID); p.State != "cancelled" {
		t.Errorf("it is %s", p.State)
	}
	h.do(t, exchange{method: "DELETE", path: at}).wantProblem(t, http.StatusConflict, "command_finished")

	q = h.send(t, map[string]any{"request_type": "ProfileList", "device_ids": []string{"d1"}})
	h.deliver(t, "d1")
	h.do(t, exchange{method: "DELETE", path: "/api/v1/devices/d1/commands/" + q.CommandUUID}).wantProblem(t, http.StatusConflict, "command_delivered")
	h.do(t, exchange{method: "DELETE", path: "/api/v1/devices/none/commands/" + q.CommandUUID}).wantProblem(t, http.StatusNotFound, "not_found")
	h.do(t, exchange{method: "DELETE", path: "/api/v1/devices/d1/commands/none"}).wantProblem(t, http.StatusNotFound, "not_found")
}
