package apiv1_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/library"
)

// finish has a device fetch its next command and answer it.
func (h *house) finish(t testing.TB, id mdm.DeviceID, r mdm.Report) {
	t.Helper()
	r.CommandUUID = h.deliver(t, id)
	h.answer(t, id, r)
}

var refusal = mdm.Report{State: mdm.Failed, ErrorChain: []command.ChainedError{{ErrorCode: 12007, ErrorDomain: "MCMDMErrorDomain", USEnglishDescription: "No rights"}}}

type counts map[string]int

type listedCommand struct {
	CommandUUID string `json:"command_uuid"`
	RequestType string `json:"request_type"`
	CreatedBy   string `json:"created_by"`
	BatchID     string `json:"batch_id"`
	RetryOf     string `json:"retry_of"`
	Priority    string
	ExpiresAt   *time.Time `json:"expires_at"`
	DeviceID    string     `json:"device_id"`
	DeviceName  string     `json:"device_name"`
	Progress    counts
}

type wholeCommand struct {
	listedCommand
	Devices    []progress
	NextCursor string `json:"next_cursor"`
}

func (h *house) command(t testing.TB, uuid, query string) (c wholeCommand) {
	t.Helper()
	h.do(t, exchange{method: "GET", path: "/api/v1/commands/" + uuid + query}).want(t, 200, &c)
	return c
}

func TestEachEntrySaysHowItIsAndWhy(t *testing.T) {
	h := newHouse(t)
	for _, id := range []mdm.DeviceID{"answers", "refuses", "has it", "waits"} {
		h.device(t, id, nil)
	}
	ask := map[string]any{"request_type": "DeviceInformation", "device_ids": []string{"answers", "refuses", "has it", "waits"}, "expires_in": "72h"}
	q := h.send(t, ask)
	h.finish(t, "answers", mdm.Report{State: mdm.Acknowledged, Result: json.RawMessage(`{"QueryResponses":{"DeviceName":"Ana’s Mac","OSVersion":"15.1"}}`)})
	h.finish(t, "refuses", refusal)
	h.deliver(t, "has it")

	c := h.command(t, q.CommandUUID, "")
	want := counts{"queued": 1, "delivered": 1, "not_now": 0, "acknowledged": 1, "error": 1, "cancelled": 0, "expired": 0, "total": 4}
	if fmt.Sprint(c.Progress) != fmt.Sprint(want) || len(c.Devices) != 4 || c.NextCursor != "" || c.Priority != "normal" || !c.ExpiresAt.Equal(h.now().Add(72*time.Hour)) {
		t.Fatalf("the command is %+v, want progress %v", c, want)
	}
	answered, refused, delivered, waits := c.Devices[0], c.Devices[1], c.Devices[2], c.Devices[3]
	if !strings.Contains(answered.Summary, "Ana’s Mac") || answered.WaitingFor != nil || answered.Error != "" {
		t.Errorf("what was answered is %+v", answered)
	}
	if !strings.Contains(refused.Error, "rights") || !strings.Contains(refused.Error, "12007") || refused.WaitingFor != nil || refused.Summary != "" {
		t.Errorf("what was refused is %+v", refused)
	}
	if delivered.WaitingFor == nil || delivered.WaitingFor.Code != "delivered" || waits.WaitingFor == nil || !strings.HasSuffix(waits.WaitingFor.Reason, ".") {
		t.Errorf("pending are %+v and %+v, want why", delivered.WaitingFor, waits.WaitingFor)
	}

	// The same by parts.
	var names []string
	for cursor := ""; ; {
		page := h.command(t, q.CommandUUID, "?limit=3&cursor="+strings.ReplaceAll(cursor, " ", "%20"))
		for _, d := range page.Devices {
			names = append(names, d.DeviceID)
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	if !slices.Equal(names, []string{"answers", "refuses", "has it", "waits"}) {
		t.Errorf("page by page they are %q", names)
	}
	if some := h.command(t, q.CommandUUID, "?state=error,queued").Devices; len(some) != 2 || some[0].DeviceID != "refuses" || some[1].DeviceID != "waits" {
		t.Errorf("?state=error,queued gives %+v", some)
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/commands/" + q.CommandUUID + "?state=lost", wild: true}).wantField(t, "state")
	h.do(t, exchange{method: "GET", path: "/api/v1/commands/" + q.CommandUUID + "?cursor=nobody"}).wantProblem(t, 400, "invalid_cursor")
	h.do(t, exchange{method: "GET", path: "/api/v1/commands/none"}).wantProblem(t, 404, "not_found")

	// One entry by itself has the facts.
	var one struct {
		progress
		CreatedBy string `json:"created_by"`
		Facts     []struct{ Path, Label, Value string }
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/answers/commands/" + q.CommandUUID}).want(t, 200, &one)
	if one.State != "acknowledged" || len(one.Facts) != 2 || one.Facts[0].Value != "Ana’s Mac" || one.CreatedBy == "" {
		t.Errorf("by itself it is %+v", one)
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/waits/commands/" + q.CommandUUID}).want(t, 200, &one)
	if one.State != "queued" || len(one.Facts) != 0 || one.WaitingFor == nil {
		t.Errorf("one that waits is %+v", one)
	}
	for _, path := range []string{"/api/v1/devices/none/commands/" + q.CommandUUID, "/api/v1/devices/waits/commands/none"} {
		h.do(t, exchange{method: "GET", path: path}).wantProblem(t, 404, "not_found")
	}

	// A command that takes another's place is named.
	install := map[string]any{"request_type": "InstallProfile", "device_ids": []string{"waits"}, "params": map[string]any{"Payload": plainProfile("com.example.a")}}
	first, second := h.send(t, install), h.send(t, install)
	if p := h.progress(t, first.CommandUUID); p.State != "cancelled" || p.SupersededBy != second.CommandUUID {
		t.Errorf("the older installation is %+v, want cancelled for %s", p, second.CommandUUID)
	}
}

func plainProfile(identifier string) string {
	return base64.StdEncoding.EncodeToString([]byte(`<plist version="1.0"><dict><key>PayloadType</key><string>Configuration</string><key>PayloadVersion</key><integer>1</integer>
		<key>PayloadIdentifier</key><string>` + identifier + `</string><key>PayloadUUID</key><string>5F1C0A3E-2B64-4C8B-9B0E-1D2F3A4B5C6D</string><key>PayloadDisplayName</key><string>A</string>
		<key>PayloadContent</key><array/></dict></plist>`))
}

func TestCommandsAreListed(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	h.device(t, "d2", nil)
	h.send(t, map[string]any{"request_type": "ProfileList", "device_ids": []string{"d1"}})
	h.pass(time.Minute)
	later := h.now().UTC().Format(time.RFC3339)
	h.send(t, map[string]any{"request_type": "DeviceLock", "device_ids": []string{"d1", "d2"}})
	h.send(t, map[string]any{"request_type": "CertificateList", "device_ids": []string{"d2"}})
	h.finish(t, "d2", mdm.Report{State: mdm.Acknowledged}) // the lock comes first
	h.finish(t, "d2", refusal)

	list := func(query string) (types []string, all []listedCommand) {
		t.Helper()
		for cursor := ""; ; {
			var page struct {
				Items      []listedCommand
				NextCursor string `json:"next_cursor"`
			}
			h.do(t, exchange{method: "GET", path: "/api/v1/commands?limit=2&cursor=" + cursor + query}).want(t, 200, &page)
			for _, c := range page.Items {
				types, all = append(types, c.RequestType), append(all, c)
			}
			if cursor = page.NextCursor; cursor == "" {
				return types, all
			}
		}
	}
	types, all := list("")
	if !slices.Equal(types, []string{"CertificateList", "DeviceLock", "ProfileList"}) {
		t.Fatalf("listed %v, want the newest first", types)
	}
	if one := all[0]; one.DeviceID != "d2" || all[1].DeviceID != "" {
		t.Errorf("the devices are %q and %q, want that of the one that is for one", one.DeviceID, all[1].DeviceID)
	}
	if lock := all[1]; lock.Priority != "urgent" || lock.Progress["acknowledged"] != 1 || lock.Progress["queued"] != 1 || lock.Progress["total"] != 2 || lock.ExpiresAt != nil {
		t.Errorf("the lock is %+v", lock)
	}
	for query, want := range map[string][]string{
		"&open=true":                      {"DeviceLock", "ProfileList"},
		"&open=false":                     {"CertificateList", "DeviceLock", "ProfileList"},
		"&request_type=ProfileList":       {"ProfileList"},
		"&created_by=nobody":              nil,
		"&created_by=" + all[0].CreatedBy: {"CertificateList", "DeviceLock", "ProfileList"},
		"&batch_id=none":                  nil,
		"&failed=true":                    {"CertificateList"},
		"&since=" + later:                 {"CertificateList", "DeviceLock"},
	} {
		if types, _ := list(query); !slices.Equal(types, want) {
			t.Errorf("%s gives %v, want %v", query, types, want)
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/commands?open=perhaps", wild: true}).wantField(t, "open")
	h.do(t, exchange{method: "GET", path: "/api/v1/commands?since=yesterday", wild: true}).wantField(t, "since")
	h.do(t, exchange{method: "GET", path: "/api/v1/commands?cursor=x"}).wantProblem(t, 400, "invalid_cursor")
}

func TestPriorityAndExpiry(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	helpdesk := h.token(t, "helpdesk")
	order := func(requestType, key, value string) map[string]any {
		return map[string]any{"request_type": requestType, "device_ids": []string{"d1"}, key: value}
	}
	post := func(token string, body map[string]any) exchange {
		return h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: body, token: token, wild: true})
	}
	post("", order("ProfileList", "priority", "high")).wantField(t, "priority")
	post("", order("DeviceLock", "priority", "normal")).wantField(t, "priority")
	post(helpdesk, order("ProfileList", "priority", "urgent")).wantProblem(t, http.StatusForbidden, "forbidden")
	for _, bad := range []string{"1", "30s", "-1h", "100000h", "tomorrow"} {
		post("", order("ProfileList", "expires_in", bad)).wantField(t, "expires_in")
	}
	var q queued
	post("", order("ProfileList", "priority", "normal")).want(t, 202, &q)
	post("", order("SecurityInfo", "priority", "urgent")).want(t, 202, &q)
	if uuid := h.deliver(t, "d1"); uuid != q.CommandUUID {
		t.Errorf("the device gets %s first, want what is urgent: %s", uuid, q.CommandUUID)
	}
	post(helpdesk, order("DeviceLock", "priority", "urgent")).want(t, 202, nil)
}

func TestACommandIsCancelledEverywhere(t *testing.T) {
	h := newHouse(t)
	for _, id := range []mdm.DeviceID{"d1", "d2", "d3"} {
		h.device(t, id, nil)
	}
	q := h.send(t, map[string]any{"request_type": "ProfileList", "device_ids": []string{"d1", "d2", "d3"}})
	h.deliver(t, "d1")
	cancel := func(uuid string) (n int) {
		t.Helper()
		var got struct{ Cancelled int }
		h.do(t, exchange{method: "POST", path: "/api/v1/commands/" + uuid + "/cancel"}).want(t, 200, &got)
		return got.Cancelled
	}
	if n := cancel(q.CommandUUID); n != 2 {
		t.Errorf("cancelled for %d devices, want the 2 that do not have it", n)
	}
	if n := cancel(q.CommandUUID); n != 0 {
		t.Errorf("cancelled again for %d devices", n)
	}
	if c := h.command(t, q.CommandUUID, ""); c.Progress["cancelled"] != 2 || c.Progress["delivered"] != 1 {
		t.Errorf("it is %+v", c.Progress)
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/commands/none/cancel"}).wantProblem(t, 404, "not_found")

	// The renewal of an identity ends with its command.
	const renewal = "RENEWAL"
	h.device(t, "due", func(d *mdm.Device) {
		d.Renewal = &mdm.Renewal{CommandUUID: renewal, StartedAt: h.now(), ExpiresAt: h.now().Add(time.Hour)}
	})
	plist, err := command.Build("InstallProfile", map[string]any{"Payload": plainProfile(h.enroll.ProfileIdentifier())}, renewal)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = h.mdm.Enqueue(t.Context(), mdm.NewCommand{
		UUID: renewal, RequestType: "InstallProfile", Identifier: h.enroll.ProfileIdentifier(), Plist: plist, CreatedBy: "renewal", Targets: []mdm.DeviceID{"due"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := cancel(renewal); n != 1 {
		t.Errorf("cancelled the renewal for %d devices", n)
	}
	if d, err := h.mdm.Device(t.Context(), "due"); err != nil || d.Renewal != nil {
		t.Errorf("the renewal is %+v, %v; want none", d.Renewal, err)
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/commands/" + renewal + "/retry", body: map[string]any{}}).
		wantProblem(t, http.StatusConflict, "not_retryable")
}

func TestACommandIsSentAgain(t *testing.T) {
	h := newHouse(t)
	ids := []string{"refuses", "answers", "cancelled", "waits"}
	for _, id := range ids {
		h.device(t, mdm.DeviceID(id), nil)
	}
	q := h.send(t, map[string]any{"request_type": "DeviceInformation", "device_ids": ids, "params": map[string]any{"Queries": []string{"OSVersion"}}})
	h.finish(t, "refuses", refusal)
	h.finish(t, "answers", mdm.Report{State: mdm.Acknowledged})
	h.do(t, exchange{method: "DELETE", path: "/api/v1/devices/cancelled/commands/" + q.CommandUUID}).want(t, 204, nil)

	retry := func(uuid, key string, body map[string]any) exchange {
		x := exchange{method: "POST", path: "/api/v1/commands/" + uuid + "/retry", body: body}
		if key != "" {
			x.header = map[string]string{"Idempotency-Key": key}
		}
		return h.do(t, x)
	}
	var again, same queued
	retry(q.CommandUUID, "k", map[string]any{"expires_in": "1h"}).want(t, 202, &again)
	if again.CommandUUID == q.CommandUUID || len(again.Devices) != 2 || again.Devices[0].DeviceID != "refuses" || again.Devices[1].DeviceID != "cancelled" {
		t.Fatalf("sent again %+v, want to those with which it came to nothing", again)
	}
	if c := h.command(t, again.CommandUUID, ""); c.RetryOf != q.CommandUUID || !c.ExpiresAt.Equal(h.now().Add(time.Hour)) {
		t.Errorf("the new command is %+v", c)
	}
	retry(q.CommandUUID, "k", map[string]any{"expires_in": "1h"}).want(t, 202, &same)
	if same.CommandUUID != again.CommandUUID {
		t.Errorf("the same request made another command, %+v", same)
	}
	var one queued
	retry(q.CommandUUID, "", map[string]any{"device_ids": []string{"cancelled", "waits", "none"}}).want(t, 202, &one)
	if len(one.Devices) != 1 || one.Devices[0].DeviceID != "cancelled" {
		t.Errorf("of three devices it is sent again to %+v", one.Devices)
	}
	retry(q.CommandUUID, "", map[string]any{"device_ids": []string{"answers"}}).wantProblem(t, http.StatusConflict, "nothing_to_retry")
	retry(again.CommandUUID, "", map[string]any{}).wantProblem(t, http.StatusConflict, "nothing_to_retry")
	retry("none", "", map[string]any{}).wantProblem(t, 404, "not_found")

	// What can't be undone is confirmed again, and asks for the scope again.
	erase := h.send(t, map[string]any{"request_type": "EraseDevice", "device_ids": []string{"answers"}, "confirm": true})
	h.finish(t, "answers", refusal)
	retry(erase.CommandUUID, "", map[string]any{}).wantProblem(t, 400, "confirmation_required")
	h.do(t, exchange{method: "POST", path: "/api/v1/commands/" + erase.CommandUUID + "/retry", body: map[string]any{"confirm": true}, token: h.token(t, "helpdesk")}).
		wantProblem(t, http.StatusForbidden, "forbidden")
	retry(erase.CommandUUID, "", map[string]any{"confirm": true}).want(t, 202, &again)
	if c := h.command(t, again.CommandUUID, ""); c.Priority != "urgent" {
		t.Errorf("the second erasure is %s", c.Priority)
	}
}

func TestAProfileOfTheLibraryIsSentAgainByIt(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	body, err := base64.StdEncoding.DecodeString(plainProfile("com.example.wifi"))
	if err != nil {
		t.Fatal(err)
	}
	var p struct{ ID string }
	h.do(t, exchange{method: "POST", path: "/api/v1/profiles", body: body, header: map[string]string{"Content-Type": "application/x-apple-aspen-config"}}).want(t, 201, &p)
	state := func() library.State {
		t.Helper()
		all, err := h.library.OnDevice(t.Context(), "d1")
		if err != nil || len(all) != 1 {
			t.Fatalf("profiles on the device: %+v, %v", all, err)
		}
		return all[0].Installation.State
	}
	retry := func(uuid string) (q queued) {
		t.Helper()
		x := exchange{method: "POST", path: "/api/v1/commands/" + uuid + "/retry", body: map[string]any{}, header: map[string]string{"Idempotency-Key": "k" + uuid}}
		var same queued
		h.do(t, x).want(t, 202, &q)
		h.do(t, x).want(t, 202, &same)
		if same.CommandUUID != q.CommandUUID || len(q.Devices) != 1 {
			t.Errorf("sent again %+v, and by the same request %+v", q, same)
		}
		if c := h.command(t, q.CommandUUID, ""); c.RetryOf != uuid {
			t.Errorf("the command is %+v, want another try of %s", c.listedCommand, uuid)
		}
		return q
	}
	var sent struct {
		CommandUUIDs []string `json:"command_uuids"`
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/profiles/" + p.ID + "/send", body: map[string]any{"device_ids": []string{"d1"}}}).want(t, 202, &sent)
	h.finish(t, "d1", refusal)
	if got := state(); got != library.Failed {
		t.Fatalf("the profile is %s, want failed", got)
	}
	if q := retry(sent.CommandUUIDs[0]); q.BatchID == "" {
		t.Errorf("sent again %+v, want a batch", q)
	}
	h.finish(t, "d1", mdm.Report{State: mdm.Acknowledged})
	if got := state(); got != library.Installed {
		t.Fatalf("the profile is %s, want installed", got)
	}
	var removed queued
	h.do(t, exchange{method: "POST", path: "/api/v1/profiles/" + p.ID + "/remove", body: map[string]any{"device_ids": []string{"d1"}}}).want(t, 202, &removed)
	h.finish(t, "d1", refusal)
	retry(removed.CommandUUID)
	h.finish(t, "d1", mdm.Report{State: mdm.Acknowledged})
	if got := state(); got != library.Removed {
		t.Errorf("the profile is %s, want removed", got)
	}
	h.do(t, exchange{method: "DELETE", path: "/api/v1/profiles/" + p.ID}).want(t, 204, nil)
	h.do(t, exchange{method: "POST", path: "/api/v1/commands/" + sent.CommandUUIDs[0] + "/retry", body: map[string]any{}}).
		wantProblem(t, http.StatusConflict, "not_retryable")
}

func TestWhatIsFilledInIsFoundOutAnewForAnotherTry(t *testing.T) {
	h := newHouse(t)
	h.device(t, "mac", nil)
	q := h.send(t, map[string]any{"request_type": "DeviceLock", "device_ids": []string{"mac"}})
	h.finish(t, "mac", refusal)
	h.do(t, exchange{method: "POST", path: "/api/v1/commands/" + q.CommandUUID + "/retry", body: map[string]any{}}).want(t, 202, &q)
	held, err := h.mdm.Secrets(t.Context(), "mac")
	if err != nil || len(held) == 0 || held[0].CommandUUID != q.CommandUUID {
		t.Errorf("the Mac’s secrets are %+v, %v; want a PIN of the second lock %s", held, err, q.CommandUUID)
	}
}

// TestWhichCommandsAHelpdeskMaySend holds each of the 68 types against what a helpdesk is for.
func TestWhichCommandsAHelpdeskMaySend(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	helpdesk := h.token(t, "helpdesk")
	may := strings.Fields(`ActiveNSExtensions AvailableOSUpdates CancelEnhancedLogCollection CertificateList ClearPasscode ClearRestrictionsPassword
		ContentCachingInformation DeviceConfigured DeviceInformation DeviceLocation DeviceLock DisableLostMode EnableLostMode InstalledApplicationList
		LOMSetupRequest LogOutUser ManagedApplicationAttributes ManagedApplicationConfiguration ManagedApplicationFeedback ManagedApplicationList
		ManagedMediaList NSExtensionMappings OSUpdateStatus PlayLostModeSound ProfileList ProvisioningProfileList RequestMirroring RequestUnlockToken
		RestartDevice Restrictions ScheduleOSUpdateScan SecurityInfo ShutDownDevice StopMirroring UnlockUserAccount UserConfigured UserList
		ValidateApplications`)
	post := func(requestType string, params map[string]any) exchange {
		return h.do(t, exchange{method: "POST", path: "/api/v1/commands", token: helpdesk, body: map[string]any{
			"request_type": requestType, "params": params, "device_ids": []string{"d1"}, "confirm": true,
		}})
	}
	var list struct{ Items []commandType }
	h.do(t, exchange{method: "GET", path: "/api/v1/command-types"}).want(t, 200, &list)
	for _, typ := range list.Items {
		got, scope := post(typ.RequestType, nil), typ.Scope
		if slices.Contains(may, typ.RequestType) {
			if got.status == http.StatusForbidden || scope != "helpdesk" {
				t.Errorf("%s takes %s: %d %s", typ.RequestType, scope, got.status, got.answer)
			}
			continue
		}
		p := got.wantProblem(t, http.StatusForbidden, "forbidden")
		if scope != "admin" || !strings.HasPrefix(p.Detail, typ.RequestType+" needs a token with the scope admin: ") {
			t.Errorf("%s takes %s: %s", typ.RequestType, scope, p.Detail)
		}
	}
	// Some parameters are beyond a helpdesk.
	post("RestartDevice", map[string]any{"NotifyUser": true}).want(t, 202, nil)
	post("RestartDevice", map[string]any{"RebuildKernelCache": true}).wantProblem(t, http.StatusForbidden, "forbidden")
	post("RestartDevice", map[string]any{"KextPaths": []string{"/Library/Extensions/a.kext"}}).wantProblem(t, http.StatusForbidden, "forbidden")
	post("ManagedApplicationFeedback", map[string]any{"Identifiers": []string{"com.example"}, "DeleteFeedback": true}).wantProblem(t, http.StatusForbidden, "forbidden")
}
