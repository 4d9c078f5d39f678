package apiv1_test

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// parameters makes a query string of names and values, in turn.
func parameters(pairs ...string) string {
	var all []string
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, pairs[i]+"="+url.QueryEscape(pairs[i+1]))
	}
	return "?" + strings.Join(all, "&")
}

// fleet puts four devices, and returns the house.
func fleet(t *testing.T) *house {
	t.Helper()
	h := newHouse(t)
	yes := true
	u, err := h.identity.CreateUser(context.Background(), identity.Local(), identity.NewUser{Username: "ana", Email: "ana@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	h.device(t, "mac", func(d *mdm.Device) {
		d.User, d.DeviceName, d.ProductName, d.OSVersion, d.SerialNumber = "ana", "Büro-Mac", "Mac15,6", "15.2", "C02MAC"
		d.Supervised, d.EnrolledAt = &yes, h.now().Add(-48*time.Hour)
	})
	h.device(t, "pad", func(d *mdm.Device) {
		d.User, d.DeviceName, d.ProductName, d.OSVersion, d.SerialNumber = "ana@example.com", "=cmd|' /C calc'!A0", "iPad14,9", "17.4.1", "C02PAD"
	})
	h.device(t, "phone", func(d *mdm.Device) {
		d.Type, d.AppleID, d.Ownership = mdm.TypeUser, mdm.AppleID{EnrollmentID: "E1"}, mdm.Personal
		d.DeviceName, d.ProductName, d.OSVersion, d.User = "phone, \"mine\"", "iPhone17,2", "18.2", "bea"
	})
	h.device(t, "user", func(d *mdm.Device) {
		d.Type, d.ParentID, d.UserID, d.State = mdm.TypeUserChannel, "mac", "U1", mdm.Pending
		d.ProductName, d.OSVersion, d.User = "Mac15,6", "15.2", ""
	})
	learn := func(id mdm.DeviceID, answer string) {
		t.Helper()
		err := h.db.Update(context.Background(), func(tx storage.Tx) error {
			d, err := mdm.GetDevice(tx, id)
			if err != nil {
				return err
			}
			return mdm.LearnInformation(tx, &d, json.RawMessage(answer))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	learn("mac", `{"QueryResponses":{"BatteryLevel":0.15,"IsActivationLockEnabled":true,"TimeZone":"Europe/Berlin","OSUpdateSettings":{"AutoCheckEnabled":true}}}`)
	learn("pad", `{"QueryResponses":{"BatteryLevel":0.9,"IsActivationLockEnabled":false,"TimeZone":"-1+1"}}`)
	if err := h.enroll.ReportLost(context.Background(), u.Principal(), "pad", "in a taxi"); err != nil {
		t.Fatal(err)
	}
	h.mdm.Saw("pad")
	refresh := func(id mdm.DeviceID, answers map[string]string) {
		t.Helper()
		body, err := json.Marshal(map[string]any{"sources": slices.Sorted(maps.Keys(answers))})
		if err != nil {
			t.Fatal(err)
		}
		h.do(t, exchange{method: "POST", path: "/api/v1/devices/" + string(id) + "/refresh", body: string(body)}).want(t, 202, nil)
		h.says(t, id, answers)
	}
	refresh("mac", map[string]string{
		"InstalledApplicationList": `{"InstalledApplicationList":[{"Identifier":"com.example.slack","ShortVersion":"4.9"},{"Identifier":"com.example.notes"}]}`,
		"ProfileList":              `{"ProfileList":[{"PayloadIdentifier":"com.example.wifi","PayloadUUID":"1"}]}`,
	})
	refresh("pad", map[string]string{"InstalledApplicationList": `{"InstalledApplicationList":[{"Identifier":"com.example.slack","ShortVersion":"4.42"}]}`})
	return h
}

func TestDevicesAreListedByWhatIsKnownOfThem(t *testing.T) {
	h := fleet(t)
	for _, tt := range []struct {
		ask  []string
		want string
	}{
		{nil, "mac pad phone user"},
		{[]string{"q", "buro"}, "mac"},
		{[]string{"q", ""}, "mac pad phone user"},
		{[]string{"state", "enrolled", "sort", "-os_version"}, "phone pad mac"},
		{[]string{"os_version", "<18", "os_version", ">=15.2", "sort", "os_version"}, "mac user pad"},
		{[]string{"os_version", "18"}, "phone"},
		{[]string{"user", "ana@example.com"}, "mac pad"},
		{[]string{"user", "ANA"}, "mac pad"},
		{[]string{"user", "nobody"}, ""},
		{[]string{"model", "iPad*", "model", "iPhone17,2"}, "pad phone"},
		{[]string{"platform", "macos"}, "mac user"},
		{[]string{"supervised", "unknown"}, "pad phone user"},
		{[]string{"supervised", "true"}, "mac"},
		{[]string{"parent_id", "mac"}, "user"},
		{[]string{"ownership", "personal"}, "phone"},
		{[]string{"enrollment_type", "device,user", "sort", "serial_number"}, "mac pad phone"},
		{[]string{"last_seen_after", "1h"}, "pad"},
		{[]string{"last_seen", "never"}, "mac phone user"},
		{[]string{"enrolled_before", "24h"}, "mac"},
		{[]string{"pending_commands", "true"}, ""},
		{[]string{"lost", "true"}, "pad"},
		{[]string{"lost", "false", "platform", "ios"}, "phone"},
		{[]string{"demo", "true"}, ""},
		{[]string{"attribute", "BatteryLevel<0.2"}, "mac"},
		{[]string{"attribute", "IsActivationLockEnabled=true", "attribute", "TimeZone~berlin"}, "mac"},
		{[]string{"attribute", "OSUpdateSettings.AutoCheckEnabled=true"}, "mac"},
		{[]string{"attribute", "!BatteryLevel"}, "phone user"},
		{[]string{"app", "com.example.slack"}, "mac pad"},
		{[]string{"app", "com.example.slack<4.42", "sort", "name"}, "mac"},
		{[]string{"app", "com.example.slack", "app", "!com.example.notes"}, "pad"},
		{[]string{"app", "com.example.slack", "lost", "true"}, "pad"},
		{[]string{"profile", "com.example.wifi"}, "mac"},
		{[]string{"profile", "!com.example.wifi"}, ""},
	} {
		for _, limit := range []string{"1", "1000"} {
			ids, total, cursor := []string{}, 0, ""
			for {
				var page struct {
					Items []struct{ ID string }
					Next  string `json:"next_cursor"`
					Total int
				}
				h.do(t, exchange{method: "GET", path: "/api/v1/devices" + parameters(append([]string{"limit", limit, "cursor", cursor}, tt.ask...)...)}).want(t, 200, &page)
				for _, d := range page.Items {
					ids = append(ids, d.ID)
				}
				if total, cursor = page.Total, page.Next; cursor == "" {
					break
				}
			}
			if got := strings.Join(ids, " "); got != tt.want || total != len(ids) {
				t.Errorf("%v in pages of %s: %q, total %d, want %q", tt.ask, limit, got, total, tt.want)
			}
		}
	}
}

func TestAFilterWithASlipReturnsNoDevices(t *testing.T) {
	h := fleet(t)
	for _, tt := range []struct{ ask, value, field, in string }{
		{"staet", "enrolled", "staet", `the nearest is "state"`},
		{"State", "enrolled", "State", `the nearest is "state"`},
		{"columns", "id", "columns", "no parameter"},
		{"state", "enroled", "state", "one of pending, enrolled"},
		{"os_version", "<seventeen", "os_version", "18.2"},
		{"lost", "maybe", "lost", "true or false"},
		{"supervised", "", "supervised", "no value"},
		{"sort", "size", "sort", "last_seen_at"},
		{"attribute", "BateryLevel<0.2", "attribute", `the nearest is "BatteryLevel"`},
		{"attribute", "BatteryLevel<low", "attribute", "is a number"},
		{"last_seen_before", "often", "last_seen_before", "30d"},
		{"app", "com.example.slack==4", "app", "operator that there is not"},
		{"app", "<4", "app", "must begin with the identifier of an app"},
		{"app", "", "app", "no value"},
		{"profile", "com.example.wifi=1", "profile", "takes no operator"},
	} {
		x := h.do(t, exchange{method: "GET", path: "/api/v1/devices" + parameters(tt.ask, tt.value), wild: true})
		x.wantField(t, tt.field)
		if !strings.Contains(string(x.answer), strings.ReplaceAll(tt.in, `"`, `\"`)) {
			t.Errorf("%s=%s: %s, want one that says %q", tt.ask, tt.value, x.answer, tt.in)
		}
		if tt.ask != "columns" {
			h.do(t, exchange{method: "GET", path: "/api/v1/devices.csv" + parameters(tt.ask, tt.value), wild: true}).wantField(t, tt.field)
		}
	}
	var page struct {
		Next string `json:"next_cursor"`
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/devices" + parameters("limit", "1", "sort", "user")}).want(t, 200, &page)
	for _, other := range [][]string{{"sort", "-user"}, {"sort", "user", "state", "enrolled"}, {}, {"sort", "user", "lost", "false"}, {"sort", "user", "app", "x"}} {
		h.do(t, exchange{method: "GET", path: "/api/v1/devices" + parameters(append(other, "cursor", page.Next)...)}).wantProblem(t, 400, "invalid_cursor")
	}
}

// table reads a CSV answer, and returns its lines.
func (h *house) table(t testing.TB, query string) [][]string {
	t.Helper()
	x := h.do(t, exchange{method: "GET", path: "/api/v1/devices.csv" + query})
	if x.status != 200 || !strings.HasPrefix(x.response.Get("Content-Type"), "text/csv; charset=utf-8") {
		t.Fatalf("GET devices.csv%s = %d %s %s", query, x.status, x.response.Get("Content-Type"), x.answer)
	}
	if want := fmt.Sprintf(`attachment; filename="devices-%s.csv"`, h.now().Format(time.DateOnly)); x.response.Get("Content-Disposition") != want {
		t.Errorf("Content-Disposition is %q, want %q", x.response.Get("Content-Disposition"), want)
	}
	lines, err := csv.NewReader(strings.NewReader(string(x.answer))).ReadAll()
	if err != nil {
		t.Fatalf("%v in %q", err, x.answer)
	}
	return lines
}

func TestDevicesAreExported(t *testing.T) {
	h := fleet(t)
	all := h.table(t, "")
	if len(all) != 5 || all[0][0] != "id" || !slices.Contains(all[0], "lost_reported_at") {
		t.Errorf("the whole table is %q", all)
	}
	got := h.table(t, parameters("columns", "id, device_name,serial_number,supervised,enrolled_at,lost_note,attributes.BatteryLevel,attributes.TimeZone,attributes.OSUpdateSettings.AutoCheckEnabled,attributes.None",
		"sort", "-os_version", "state", "enrolled"))
	want := [][]string{
		{"id", "device_name", "serial_number", "supervised", "enrolled_at", "lost_note", "attributes.BatteryLevel", "attributes.TimeZone", "attributes.OSUpdateSettings.AutoCheckEnabled", "attributes.None"},
		{"phone", `phone, "mine"`, "", "", "", "", "", "", "", ""},
		{"pad", `'=cmd|' /C calc'!A0`, "C02PAD", "", "", "in a taxi", "0.9", "'-1+1", "", ""},
		{"mac", "Büro-Mac", "C02MAC", "true", h.now().Add(-48 * time.Hour).Format(time.RFC3339), "", "0.15", "Europe/Berlin", "true", ""},
	}
	for _, line := range got {
		for i, name := range got[0] {
			if name == "enrolled_at" && line[0] != "mac" && line[0] != "id" {
				line[i] = "" // the house's own
			}
		}
	}
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("the table is\n%q, want\n%q", got, want)
	}
	x := h.do(t, exchange{method: "GET", path: "/api/v1/devices.csv?bom=true&columns=id,device_name&platform=ios"})
	if want := "\ufeffid,device_name\r\npad,'=cmd|' /C calc'!A0\r\nphone,\"phone, \"\"mine\"\"\"\r\n"; string(x.answer) != want {
		t.Errorf("with a byte order mark it is %q, want %q", x.answer, want)
	}
	for name, tt := range map[string]struct{ columns, in string }{
		"a column that there is not": {"id,serial_nummer", `the nearest is \"serial_number\"`},
		"a column twice":             {"id,id", "twice"},
		"no column":                  {"", "no column"},
		"an attribute of no name":    {"attributes.", "no column"},
	} {
		x := h.do(t, exchange{method: "GET", path: "/api/v1/devices.csv" + parameters("columns", tt.columns)})
		x.wantField(t, "columns")
		if name != "no column" && !strings.Contains(string(x.answer), tt.in) {
			t.Errorf("%s: %s, want one that says %q", name, x.answer, tt.in)
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/devices.csv?limit=5", wild: true}).wantField(t, "limit")
	h.do(t, exchange{method: "GET", path: "/api/v1/devices.csv", token: h.token(t, identity.ScopeCertAny)}).wantProblem(t, 403, "forbidden")
}

func TestAnExportHasAllOfALongList(t *testing.T) {
	h := newHouse(t)
	const n = 1203 // not a multiple of a part
	err := h.db.Update(context.Background(), func(tx storage.Tx) error {
		for i := range n {
			d := mdm.Device{ID: mdm.DeviceID(fmt.Sprintf("d%04d", i)), Type: mdm.TypeDevice, State: mdm.Enrolled, AppleID: mdm.AppleID{UDID: fmt.Sprint(i)}}
			d.DeviceName = fmt.Sprintf("%04d", n-i)
			if err := mdm.PutDevice(tx, d); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := h.table(t, parameters("sort", "name", "columns", "device_name"))[1:]
	if len(lines) != n || !slices.IsSortedFunc(lines, func(a, b []string) int { return strings.Compare(a[0], b[0]) }) {
		t.Errorf("%d lines, want %d in their order", len(lines), n)
	}
}
