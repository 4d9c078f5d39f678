package apiv1_test

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
)

// TestWhoIsLimited is about somebody whose role holds for the devices of one group, of which
// there are others: a Mac with a user channel inside, an iPad outside.
func TestWhoIsLimited(t *testing.T) {
	h := fleet(t)
	g := h.group(t, "Macs", "platform=macos")
	h.group(t, "Other", "", "pad")
	admin, helpdesk, reader := h.limited(t, "admin", g), h.limited(t, "helpdesk", g), h.limited(t, "read_only", g)
	queue := func(token string, body map[string]any) exchange {
		t.Helper()
		return h.do(t, exchange{method: "POST", path: "/api/v1/commands", token: token, body: body})
	}
	get := func(path string, v any) {
		t.Helper()
		h.do(t, exchange{method: "GET", path: path, token: reader}).want(t, http.StatusOK, v)
	}
	missing := func(method, path string, body any) {
		t.Helper()
		h.do(t, exchange{method: method, path: path, body: body, token: admin}).wantProblem(t, http.StatusNotFound, "not_found")
	}

	// Devices.
	for _, path := range []string{"/api/v1/devices", "/api/v1/devices?sort=name", "/api/v1/groups/" + g + "/devices"} {
		if got := h.listed(t, path, reader); !slices.Equal(got, []string{"mac", "user"}) {
			t.Errorf("GET %s = %q, want the Mac and its user", path, got)
		}
	}
	if table := string(h.do(t, exchange{method: "GET", path: "/api/v1/devices.csv?columns=id", token: reader}).answer); table != "id\r\nmac\r\nuser\r\n" {
		t.Errorf("the table is %q", table)
	}
	for _, id := range []string{"mac", "user"} {
		h.do(t, exchange{method: "GET", path: "/api/v1/devices/" + id, token: reader}).want(t, http.StatusOK, nil)
	}
	for _, id := range []string{"pad", "phone", "none"} {
		missing("GET", "/api/v1/devices/"+id, nil)
		missing("GET", "/api/v1/devices/"+id+"/inventory", nil)
		missing("GET", "/api/v1/devices/"+id+"/secrets", nil)
		missing("GET", "/api/v1/devices/"+id+"/groups", nil)
		missing("GET", "/api/v1/command-types?device_id="+id, nil)
		missing("GET", "/api/v1/command-types/DeviceLock?device_id="+id, nil)
		missing("POST", "/api/v1/devices/"+id+"/block", nil)
		missing("DELETE", "/api/v1/devices/"+id+"/lost", nil)
	}

	// Groups.
	var groups struct{ Items []groupAnswer }
	if get("/api/v1/groups", &groups); len(groups.Items) != 1 || groups.Items[0].ID != g {
		t.Errorf("groups are %+v", groups)
	}
	if get("/api/v1/devices/mac/groups", &groups); len(groups.Items) != 1 {
		t.Errorf("groups of the Mac are %+v", groups)
	}
	other := h.group(t, "Third", "", "mac", "pad")
	missing("GET", "/api/v1/groups/"+other, nil)
	missing("GET", "/api/v1/groups/"+other+"/devices", nil)
	h.do(t, exchange{method: "GET", path: "/api/v1/devices?group_id=" + other, token: reader}).wantField(t, "group_id")
	queue(helpdesk, map[string]any{"request_type": "DeviceLock", "group_id": other}).wantField(t, "group_id")
	h.do(t, exchange{method: "PUT", path: "/api/v1/groups/" + g + "/devices", token: admin, body: map[string]any{"device_ids": []string{"pad"}}}).wantProblem(t, http.StatusForbidden, "outside_scope")

	// Commands.
	var sent struct {
		CommandUUID string `json:"command_uuid"`
		Devices     []struct {
			DeviceID string `json:"device_id"`
		}
		Rejected []struct {
			DeviceID string `json:"device_id"`
			Code     string
		}
	}
	queue(helpdesk, map[string]any{"request_type": "DeviceLock", "device_ids": []string{"mac", "pad", "none"}}).want(t, http.StatusAccepted, &sent)
	if len(sent.Devices) != 1 || sent.Devices[0].DeviceID != "mac" || len(sent.Rejected) != 2 || sent.Rejected[0].Code != "outside_scope" || sent.Rejected[1].Code != "outside_scope" {
		t.Errorf("POST /commands = %+v", sent)
	}
	p := queue(helpdesk, map[string]any{"request_type": "DeviceLock", "device_ids": []string{"pad"}}).wantProblem(t, http.StatusUnprocessableEntity, "command_rejected")
	if len(p.Rejected) != 1 || p.Rejected[0].Code != "outside_scope" {
		t.Errorf("POST /commands = %+v", p)
	}
	var theirs, both struct {
		CommandUUID string `json:"command_uuid"`
	}
	queue("", map[string]any{"request_type": "SecurityInfo", "device_ids": []string{"pad"}}).want(t, http.StatusAccepted, &theirs)
	queue("", map[string]any{"request_type": "ProfileList", "device_ids": []string{"mac", "pad"}}).want(t, http.StatusAccepted, &both)
	type commandProgress struct {
		CommandUUID string `json:"command_uuid"`
		Progress    struct{ Total int }
	}
	var commands struct{ Items []commandProgress }
	get("/api/v1/commands", &commands)
	for _, c := range commands.Items {
		if c.CommandUUID == theirs.CommandUUID || c.Progress.Total != 1 {
			t.Errorf("listed is %+v", c)
		}
	}
	if !slices.ContainsFunc(commands.Items, func(c commandProgress) bool { return c.CommandUUID == both.CommandUUID }) {
		t.Errorf("commands are %+v, without that to the Mac and the iPad", commands)
	}
	missing("GET", "/api/v1/commands/"+theirs.CommandUUID, nil)
	missing("POST", "/api/v1/commands/"+theirs.CommandUUID+"/cancel", nil)
	missing("POST", "/api/v1/commands/"+theirs.CommandUUID+"/retry", map[string]any{})
	var one struct {
		Devices []struct {
			DeviceID string `json:"device_id"`
		}
	}
	if get("/api/v1/commands/"+both.CommandUUID, &one); len(one.Devices) != 1 || one.Devices[0].DeviceID != "mac" {
		t.Errorf("GET /commands/UUID = %+v", one)
	}
	var cancelled struct{ Cancelled int }
	h.do(t, exchange{method: "POST", path: "/api/v1/commands/" + both.CommandUUID + "/cancel", token: helpdesk}).want(t, http.StatusOK, &cancelled)
	if cancelled.Cancelled != 1 {
		t.Errorf("cancelled for %d devices, want 1", cancelled.Cancelled)
	}

	// A whole command that went to others before.
	h.do(t, exchange{method: "POST", path: "/api/v1/commands/raw?device_ids=pad", body: raw("R-1", "CertificateList")}).want(t, http.StatusAccepted, nil)
	h.do(t, exchange{method: "POST", path: "/api/v1/commands/raw?device_ids=mac,pad", body: raw("R-1", "CertificateList"), token: admin}).want(t, http.StatusAccepted, &sent)
	if len(sent.Devices) != 1 || sent.Devices[0].DeviceID != "mac" {
		t.Errorf("POST /commands/raw = %+v", sent)
	}

	// Batches, and devices asked about themselves.
	var batch struct {
		BatchID string `json:"batch_id"`
	}
	order := map[string]any{"commands": []any{map[string]any{"request_type": "ProfileList"}}, "device_ids": []string{"pad"}}
	h.do(t, exchange{method: "POST", path: "/api/v1/batches", body: order}).want(t, http.StatusAccepted, &batch)
	missing("GET", "/api/v1/batches/"+batch.BatchID, nil)
	h.do(t, exchange{method: "POST", path: "/api/v1/batches", body: order, token: helpdesk}).wantProblem(t, http.StatusUnprocessableEntity, "command_rejected")
	order["device_ids"] = []string{"pad", "mac"}
	h.do(t, exchange{method: "POST", path: "/api/v1/batches", body: order, token: helpdesk}).want(t, http.StatusAccepted, &batch)
	var batches struct {
		Items []struct {
			BatchID string `json:"batch_id"`
		}
	}
	if get("/api/v1/batches", &batches); len(batches.Items) != 1 || batches.Items[0].BatchID != batch.BatchID {
		t.Errorf("batches are %+v, want %s", batches, batch.BatchID)
	}
	var asked struct {
		Items []struct {
			DeviceID string `json:"device_id"`
			Code     string
		}
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/inventory/refresh", body: map[string]any{"device_ids": []string{"pad", "mac"}}, token: helpdesk}).want(t, http.StatusAccepted, &asked)
	if len(asked.Items) != 2 || asked.Items[0].DeviceID != "mac" || asked.Items[1].Code != "outside_scope" {
		t.Errorf("POST /inventory/refresh = %+v", asked)
	}

	// What has happened.
	var log struct {
		Items []struct {
			DeviceID string `json:"device_id"`
		}
	}
	get("/api/v1/audit?limit=3", &log)
	for _, e := range log.Items {
		if e.DeviceID != "mac" && e.DeviceID != "user" {
			t.Errorf("the audit log has something about %q", e.DeviceID)
		}
	}
	if len(log.Items) == 0 {
		t.Error("the audit log is empty")
	}

	// The server as a whole.
	for _, path := range []string{"/api/v1/users", "/api/v1/tokens", "/api/v1/enrollment-links", "/api/v1/webhooks", "/api/v1/audit/export", "/api/v1/audit/verify"} {
		h.do(t, exchange{method: "GET", path: path, token: admin}).wantProblem(t, http.StatusForbidden, "outside_scope")
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/tokens", body: map[string]any{"name": "x", "scopes": []string{"read_only"}}, token: admin}).wantProblem(t, http.StatusForbidden, "outside_scope")
	for _, path := range []string{"/api/v1/command-types", "/api/v1/profiles", "/api/v1/settings", "/api/v1/certificate-templates"} {
		h.do(t, exchange{method: "GET", path: path, token: reader}).want(t, http.StatusOK, nil)
	}

	// A device that leaves the group is gone at the next request.
	h.device(t, "mac", func(d *mdm.Device) { d.ProductName = "iPad14,9" })
	missing("GET", "/api/v1/devices/mac", nil)
	if got := h.listed(t, "/api/v1/devices", reader); len(got) > 0 {
		t.Errorf("seen are %q", got)
	}
}

func TestOrdersToAGroup(t *testing.T) {
	h := fleet(t)
	h.device(t, "gone", func(d *mdm.Device) { d.State = mdm.Unenrolled })
	g := h.group(t, "Mixed", "", "mac", "pad", "gone")
	empty := h.group(t, "Empty", "q=nothing")
	body := map[string]any{"request_type": "ProfileList", "group_id": g}
	var sent struct {
		CommandUUID string `json:"command_uuid"`
		Devices     []struct {
			DeviceID string `json:"device_id"`
		}
		Rejected []struct{ Code string }
	}
	once := map[string]string{"Idempotency-Key": "once"}
	h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: body, header: once}).want(t, http.StatusAccepted, &sent)
	if len(sent.Devices) != 2 || sent.Devices[0].DeviceID != "mac" || sent.Devices[1].DeviceID != "pad" || len(sent.Rejected) > 0 {
		t.Errorf("POST /commands = %+v, want the two devices that are enrolled, and no user channel", sent)
	}
	// The same request again is about the same devices, whoever has joined since.
	h.do(t, exchange{method: "PUT", path: "/api/v1/groups/" + g + "/devices", body: map[string]any{"device_ids": []string{"phone"}}}).want(t, http.StatusOK, nil)
	first := sent.CommandUUID
	h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: body, header: once}).want(t, http.StatusAccepted, &sent)
	if sent.CommandUUID != first || len(sent.Devices) != 2 {
		t.Errorf("again: %+v", sent)
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/inventory/refresh", body: map[string]any{"group_id": g}}).want(t, http.StatusAccepted, nil)
	h.do(t, exchange{method: "POST", path: "/api/v1/batches", body: map[string]any{"commands": []any{map[string]any{"request_type": "SecurityInfo"}}, "group_id": g}}).want(t, http.StatusAccepted, nil)
	for name, bad := range map[string]map[string]any{
		"nobody's":          {"request_type": "ProfileList", "group_id": "none"},
		"an empty one":      {"request_type": "ProfileList", "group_id": empty},
		"beside device_ids": {"request_type": "ProfileList", "group_id": g, "device_ids": []string{"mac"}},
	} {
		t.Run(name, func(t *testing.T) {
			h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: bad}).wantField(t, "group_id")
		})
	}
}

// TestAStreamOfWhoIsLimited follows events, of which only those about devices in the group come.
func TestAStreamOfWhoIsLimited(t *testing.T) {
	h := fleet(t)
	g := h.group(t, "One", "", "mac")
	told := h.stream(t, h.limited(t, "read_only", g), "", "")
	for _, id := range []string{"pad", "", "mac"} {
		h.happened(t, event.Event{At: h.now(), Actor: "user:ana", Action: "device.blocked", DeviceID: id})
	}
	if e := next(t, told); !strings.Contains(e.data, `"device_id":"mac"`) {
		t.Errorf("the stream tells %s, want the event of the Mac", e.data)
	}
}

// A user whose groups change is limited anew at once, and their session goes on.
func TestALimitHoldsAtOnce(t *testing.T) {
	h := fleet(t)
	g := h.group(t, "One", "", "mac")
	u, err := h.identity.CreateUser(context.Background(), identity.Local(), identity.NewUser{Email: "hana@example.com", Role: identity.RoleHelpdesk})
	if err != nil {
		t.Fatal(err)
	}
	see := func() (ids []string) {
		t.Helper()
		now, err := h.identity.User(context.Background(), u.ID)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		h.api.As(now.Principal()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/devices", nil))
		var list struct{ Items []struct{ ID string } }
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
			t.Fatalf("%v in %s", err, w.Body)
		}
		for _, d := range list.Items {
			ids = append(ids, d.ID)
		}
		return ids
	}
	if got := see(); len(got) != 4 {
		t.Errorf("without a limit: %q", got)
	}
	h.do(t, exchange{method: "PATCH", path: "/api/v1/users/" + u.ID, body: map[string]any{"group_ids": []string{g}}}).want(t, http.StatusOK, nil)
	if got := see(); !slices.Equal(got, []string{"mac", "user"}) {
		t.Errorf("limited: %q", got)
	}
	now, err := h.identity.User(context.Background(), u.ID)
	if err != nil {
		t.Fatal(err)
	}
	if p := now.Principal(); h.api.May(p, "POST /api/v1/enrollment-links") || !h.api.May(p, "POST /api/v1/commands") || !h.api.May(p, "GET /api/v1/settings") {
		t.Error("May says other than the routes do")
	}
}

// TestCertificatesAndProfilesOfWhoIsLimited is about what devices in a group and out of it are
// given.
func TestCertificatesAndProfilesOfWhoIsLimited(t *testing.T) {
	h := newHouse(t)
	h.ana(t)
	for _, id := range []mdm.DeviceID{"in", "out"} {
		h.identified(t, id)
	}
	g := h.group(t, "In", "", "in")
	admin := h.limited(t, "admin", g)
	serial := map[string]string{}
	for _, c := range h.certificates(t, "") {
		serial[c.DeviceID] = c.Serial
	}
	for _, path := range []string{"/api/v1/certificates?limit=1", "/api/manage/search?limit=1"} {
		if list := h.certificatesAt(t, path, admin); len(list) != 1 || list[0].DeviceID != "in" {
			t.Errorf("GET %s = %+v, want that of the device in the group", path, list)
		}
	}
	for _, path := range []string{"", "/download"} {
		h.do(t, exchange{method: "GET", path: "/api/v1/certificates/" + serial["in"] + path, token: admin}).want(t, http.StatusOK, nil)
		h.do(t, exchange{method: "GET", path: "/api/v1/certificates/" + serial["out"] + path, token: admin}).wantProblem(t, http.StatusNotFound, "not_found")
	}
	revoke := map[string]any{"reason": "keyCompromise"}
	h.do(t, exchange{method: "POST", path: "/api/v1/certificates/" + serial["out"] + "/revoke", body: revoke, token: admin}).wantProblem(t, http.StatusNotFound, "not_found")
	h.do(t, exchange{method: "PATCH", path: "/api/manage/revoke/" + serial["out"], body: revoke, token: admin}).wantProblem(t, http.StatusNotFound, "not_found")

	// Templates and their assignments.
	h.template(t, nil)
	send := templatesPath + "/wifi/send"
	const name = "wifi"
	var sent struct {
		Items []struct {
			DeviceID string `json:"device_id"`
		}
		Rejected []struct{ Code string }
	}
	h.do(t, exchange{method: "POST", path: send, body: map[string]any{"device_ids": []string{"in", "out"}}, token: admin}).want(t, http.StatusAccepted, &sent)
	if len(sent.Items) != 1 || sent.Items[0].DeviceID != "in" || len(sent.Rejected) != 1 || sent.Rejected[0].Code != "outside_scope" {
		t.Errorf("POST %s = %+v", send, sent)
	}
	p := h.do(t, exchange{method: "POST", path: send, body: map[string]any{"device_ids": []string{"out"}}, token: admin}).wantProblem(t, http.StatusUnprocessableEntity, "certificate_rejected")
	if len(p.Rejected) != 1 || p.Rejected[0].Code != "outside_scope" {
		t.Errorf("POST %s = %+v", send, p)
	}
	h.do(t, exchange{method: "POST", path: send, body: map[string]any{"device_ids": []string{"out"}}}).want(t, http.StatusAccepted, nil)
	h.do(t, exchange{method: "GET", path: "/api/v1/certificate-assignments", token: admin}).want(t, http.StatusOK, &sent)
	if len(sent.Items) != 1 || sent.Items[0].DeviceID != "in" {
		t.Errorf("assignments are %+v", sent)
	}
	h.do(t, exchange{method: "GET", path: templatesPath + "/" + name + "/preview?device_id=out", token: admin}).wantProblem(t, http.StatusNotFound, "not_found")
	h.do(t, exchange{method: "DELETE", path: "/api/v1/certificate-assignments/" + name + "/out", token: admin}).wantProblem(t, http.StatusNotFound, "not_found")

	// Profiles.
	path := profilesPath + "/" + h.upload(t, mobileconfig("com.example.staff", wifiPayload)).ID
	both := map[string]any{"device_ids": []string{"in", "out"}}
	var forecast struct {
		Total, Accept int
		Verdicts      []struct {
			Code string
		}
	}
	h.do(t, exchange{method: "POST", path: path + "/check", body: both, token: admin}).want(t, http.StatusOK, &forecast)
	if forecast.Total != 2 || len(forecast.Verdicts) == 0 || forecast.Verdicts[len(forecast.Verdicts)-1].Code != "outside_scope" {
		t.Errorf("check = %+v", forecast)
	}
	h.do(t, exchange{method: "POST", path: path + "/send", body: map[string]any{"device_ids": []string{"out"}}}).want(t, http.StatusAccepted, nil)
	var delivered struct {
		Devices []struct {
			DeviceID string `json:"device_id"`
		}
		Rejected []struct{ Code string }
	}
	h.do(t, exchange{method: "POST", path: path + "/send", body: both, token: admin}).want(t, http.StatusAccepted, &delivered)
	if len(delivered.Devices) != 1 || delivered.Devices[0].DeviceID != "in" || len(delivered.Rejected) != 1 || delivered.Rejected[0].Code != "outside_scope" {
		t.Errorf("send = %+v", delivered)
	}
	var list struct {
		Items      []installation
		NextCursor string `json:"next_cursor"`
	}
	h.do(t, exchange{method: "GET", path: path + "/devices?limit=1", token: admin}).want(t, http.StatusOK, &list)
	if len(list.Items) != 1 || list.Items[0].DeviceID != "in" || list.NextCursor != "" {
		t.Errorf("the profile is on %+v, and a next page at %q", list.Items, list.NextCursor)
	}
	var counted struct{ Devices map[string]int }
	for token, want := range map[string]map[string]int{admin: {"sent": 1}, "": {"sent": 2}, h.limited(t, "read_only", h.group(t, "Nobody", "q=nothing")): {}} {
		h.do(t, exchange{method: "GET", path: path, token: token}).want(t, http.StatusOK, &counted)
		if !maps.Equal(counted.Devices, want) {
			t.Errorf("the profile is on %v, want %v", counted.Devices, want)
		}
		var all struct {
			Items []struct {
				Devices     map[string]int
				MoreDevices bool `json:"more_devices"`
			}
		}
		h.do(t, exchange{method: "GET", path: profilesPath + "?details=true", token: token}).want(t, http.StatusOK, &all)
		if len(all.Items) != 1 || all.Items[0].MoreDevices || !maps.Equal(all.Items[0].Devices, want) {
			t.Errorf("the list has %+v, want %v", all.Items, want)
		}
		counted.Devices = nil
	}
	h.do(t, exchange{method: "POST", path: path + "/remove", body: map[string]any{"device_ids": []string{"out"}}, token: admin}).wantProblem(t, http.StatusUnprocessableEntity, "profile_rejected")
	h.do(t, exchange{method: "DELETE", path: path, token: admin}).wantProblem(t, http.StatusForbidden, "outside_scope")

	// Authorities, without how many certificates and devices there are.
	h.do(t, exchange{method: "POST", path: "/api/v1/ca/identity/rollover", body: map[string]any{}}).want(t, http.StatusAccepted, nil)
	for token, told := range map[string]bool{"": true, admin: false} {
		var ca struct {
			Authorities []struct {
				InForce *int `json:"certificates_in_force"`
			}
			Rollovers []rollover
		}
		h.do(t, exchange{method: "GET", path: "/api/v1/ca", token: token}).want(t, http.StatusOK, &ca)
		if len(ca.Authorities) == 0 || (ca.Authorities[0].InForce != nil) != told {
			t.Errorf("authorities are %+v", ca.Authorities)
		}
		if len(ca.Rollovers) != 1 || (len(ca.Rollovers[0].Counts) > 0) != told || (len(ca.Rollovers[0].Unfinished) > 0) != told {
			t.Errorf("rollovers are %+v", ca.Rollovers)
		}
	}

	// Attempts: of one that has brought no device, there is nothing.
	var link struct{ ID, Code string }
	h.do(t, exchange{method: "POST", path: "/api/v1/enrollment-links", body: map[string]any{"login": "none"}}).want(t, http.StatusCreated, &link)
	if _, _, err := h.enroll.NewEnrollment(context.Background(), link.Code); err != nil {
		t.Fatal(err)
	}
	var attempts struct{ Items []struct{ ID string } }
	h.do(t, exchange{method: "GET", path: "/api/v1/enrollment-attempts"}).want(t, http.StatusOK, &attempts)
	if len(attempts.Items) != 1 {
		t.Fatalf("attempts are %+v", attempts)
	}
	id := attempts.Items[0].ID
	h.do(t, exchange{method: "GET", path: "/api/v1/enrollment-attempts/" + id, token: admin}).wantProblem(t, http.StatusNotFound, "not_found")
	h.do(t, exchange{method: "GET", path: "/api/v1/enrollment-attempts", token: admin}).want(t, http.StatusOK, &attempts)
	if len(attempts.Items) != 0 {
		t.Errorf("attempts are %+v", attempts)
	}
}
