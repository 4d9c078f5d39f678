package apiv1_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

type refreshed struct {
	DeviceID                 string `json:"device_id"`
	Queued, Waiting, LeftOut []struct {
		Source      string
		CommandUUID string `json:"command_uuid"`
		Code        string
	}
	Code string
}

// says has a device answer all that waits for it.
func (h *house) says(t testing.TB, id mdm.DeviceID, answers map[string]string) {
	t.Helper()
	for {
		var waits bool
		err := h.db.View(t.Context(), func(tx storage.Tx) error {
			waits = false
			for range mdm.PendingCommands(tx, id) {
				waits = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !waits {
			return
		}
		uuid := h.deliver(t, id)
		_, entries, err := h.mdm.Command(t.Context(), uuid)
		if err != nil {
			t.Fatal(err)
		}
		r := mdm.Report{CommandUUID: uuid, State: mdm.Acknowledged, Result: json.RawMessage(answers[entries[0].RequestType])}
		if r.Result == nil || string(r.Result) == "" {
			r.State, r.Result, r.ErrorChain = mdm.Failed, nil, []command.ChainedError{{ErrorCode: 12007, ErrorDomain: "MCMDMErrorDomain"}}
		}
		h.answer(t, id, r)
	}
}

func TestInventoryOfADevice(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.device(t, "a", nil)
	var r refreshed
	h.do(t, exchange{method: "POST", path: "/api/v1/devices/a/refresh", body: `{}`}).want(t, 202, &r)
	if len(r.Queued) != 6 || r.DeviceID != "a" {
		t.Fatalf("refresh = %+v", r)
	}
	var again refreshed
	h.do(t, exchange{method: "POST", path: "/api/v1/devices/a/refresh", body: `{"sources":["SecurityInfo","SecurityInfo"]}`}).want(t, 202, &again)
	if len(again.Queued) != 0 || len(again.Waiting) != 1 || again.Waiting[0].CommandUUID != r.Queued[1].CommandUUID {
		t.Errorf("again = %+v", again)
	}
	first := map[string]string{
		"DeviceInformation":        `{"QueryResponses":{"DeviceName":"Mac 7","IsSupervised":true}}`,
		"SecurityInfo":             `{"SecurityInfo":{"FDE_Enabled":true,"FirewallSettings":{"FirewallEnabled":true}}}`,
		"InstalledApplicationList": `{"InstalledApplicationList":[{"Identifier":"com.tinyspeck.slack","Name":"Slack","ShortVersion":"4.41"},{"Identifier":"b","Name":"Z"}]}`,
		"ManagedApplicationList":   `{"ManagedApplicationList":{"com.tinyspeck.slack":{"Status":"Managed"}}}`,
		"ProfileList":              `{"ProfileList":[{"PayloadIdentifier":"p","PayloadUUID":"1","PayloadContent":[{"PayloadType":"com.apple.wifi.managed"}]}]}`,
		"CertificateList":          `{"CertificateList":[{"CommonName":"Root","IsIdentity":false,"Data":"AAEC"}]}`,
	}
	h.says(t, "a", first)
	h.pass(time.Hour)
	first["InstalledApplicationList"] = strings.Replace(first["InstalledApplicationList"], "4.41", "4.42", 1)
	first["SecurityInfo"] = ""
	h.do(t, exchange{method: "POST", path: "/api/v1/inventory/refresh", body: `{"device_ids":["a","nobody"],"sources":["InstalledApplicationList","SecurityInfo"]}`}).want(t, 202, nil)
	h.says(t, "a", first)
	h.do(t, exchange{method: "POST", path: "/api/v1/devices/a/refresh", body: `{"sources":["ProfileList"]}`}).want(t, 202, nil)

	var in struct {
		Sources []struct {
			Source     string
			AnsweredAt time.Time `json:"answered_at"`
			Failure    *struct {
				Code, Reason string
				ErrorChain   []any `json:"error_chain"`
			}
			Waiting *struct{ State string }
			Count   *int
			Facts   []struct {
				Path, Label, Text string
				Value             any
				AnsweredAt        time.Time `json:"answered_at"`
			}
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/a/inventory"}).want(t, 200, &in)
	information, security, apps, profiles := in.Sources[0], in.Sources[1], in.Sources[3], in.Sources[4]
	if f := information.Facts; len(f) != 2 || f[0].Path != "DeviceName" || f[0].Label != "Device name" || f[0].Text != "Mac 7" || f[0].Value != "Mac 7" || !f[0].AnsweredAt.Equal(h.now().Add(-time.Hour)) {
		t.Errorf("facts = %+v", f)
	}
	if security.Failure == nil || security.Failure.Code != "error" || !strings.Contains(security.Failure.Reason, "12007") || len(security.Failure.ErrorChain) != 1 || len(security.Facts) != 2 || security.Facts[1].Path != "FirewallSettings.FirewallEnabled" {
		t.Errorf("security = %+v", security)
	}
	if apps.Count == nil || *apps.Count != 2 || !apps.AnsweredAt.Equal(h.now()) || profiles.Waiting == nil || profiles.Waiting.State != "queued" {
		t.Errorf("apps = %+v, profiles = %+v", apps, profiles)
	}

	type list struct {
		Items      []map[string]any
		NextCursor string `json:"next_cursor"`
	}
	get := func(path string) (l list) {
		t.Helper()
		h.do(t, exchange{method: "GET", path: path}).want(t, 200, &l)
		return l
	}
	page := get("/api/v1/devices/a/apps?limit=1")
	if page.Items[0]["short_version"] != "4.42" || page.Items[0]["managed_status"] != "Managed" || page.NextCursor == "" {
		t.Errorf("apps = %v", page)
	}
	if rest := get("/api/v1/devices/a/apps?limit=1&cursor=" + page.NextCursor); rest.Items[0]["identifier"] != "b" || rest.NextCursor != "" {
		t.Errorf("apps = %v", rest)
	}
	if l := get("/api/v1/devices/a/installed-profiles"); len(l.Items) != 1 || l.Items[0]["is_managed"] != nil {
		t.Errorf("profiles = %v", l)
	}
	if l := get("/api/v1/devices/a/installed-certificates"); len(l.Items) != 1 || l.Items[0]["common_name"] != "Root" {
		t.Errorf("certificates = %v", l)
	}
	if l := get("/api/v1/devices/a/history"); len(l.Items) != 1 || l.Items[0]["summary"] != "Slack 4.41 → 4.42" || l.Items[0]["old"] != "4.41" {
		t.Errorf("history = %v", l)
	}
	var d struct{ Attributes map[string]any }
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/a"}).want(t, 200, &d)
	if d.Attributes["DeviceName"] != "Mac 7" {
		t.Errorf("attributes = %v", d.Attributes)
	}
}

func TestInventoryIsRefused(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.device(t, "a", nil)
	h.device(t, "gone", func(d *mdm.Device) { d.State = mdm.Unenrolled })
	reader := h.token(t, identity.ScopeReadOnly)
	for name, tt := range map[string]struct {
		x      exchange
		status int
		code   string
	}{
		"no such device":        {exchange{method: "GET", path: "/api/v1/devices/x/inventory"}, 404, "not_found"},
		"no such device's apps": {exchange{method: "GET", path: "/api/v1/devices/x/apps"}, 404, "not_found"},
		"no such history":       {exchange{method: "GET", path: "/api/v1/devices/x/history"}, 404, "not_found"},
		"another's cursor":      {exchange{method: "GET", path: "/api/v1/devices/a/history?cursor=x"}, 400, "invalid_cursor"},
		"a cursor of apps":      {exchange{method: "GET", path: "/api/v1/devices/a/apps?cursor=x"}, 400, "invalid_cursor"},
		"nobody to ask":         {exchange{method: "POST", path: "/api/v1/devices/x/refresh", body: `{}`}, 404, "not_found"},
		"one that has left":     {exchange{method: "POST", path: "/api/v1/devices/gone/refresh", body: `{}`}, 409, "not_enrolled"},
		"no source":             {exchange{method: "POST", path: "/api/v1/devices/a/refresh", body: `{"sources":["EraseDevice"]}`, wild: true}, 400, "invalid_request"},
		"no devices":            {exchange{method: "POST", path: "/api/v1/inventory/refresh", body: `{"device_ids":[]}`, wild: true}, 400, "invalid_request"},
		"a reader":              {exchange{method: "POST", path: "/api/v1/devices/a/refresh", body: `{}`, token: reader}, 403, "forbidden"},
	} {
		t.Run(name, func(t *testing.T) {
			var p struct{ Code string }
			h.do(t, tt.x).want(t, tt.status, &p)
			if p.Code != tt.code {
				t.Errorf("code %q, want %q", p.Code, tt.code)
			}
		})
	}
}

func TestSettingsOfTheInventory(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	var now struct {
		Inventory struct {
			Enabled    bool
			Every      string
			FirstAfter string `json:"first_after"`
		}
	}
	h.do(t, exchange{method: "PATCH", path: settingsPath, body: `{"inventory":{"every":"12h"}}`}).want(t, 200, &now)
	if now.Inventory.Every != "12h0m0s" || !now.Inventory.Enabled || now.Inventory.FirstAfter != "1m0s" {
		t.Errorf("inventory = %+v", now.Inventory)
	}
	h.do(t, exchange{method: "PATCH", path: settingsPath, body: `{"inventory":{"enabled":false}}`}).want(t, 200, nil)
	for body, field := range map[string]string{
		`{"inventory":{"every":"1s"}}`:          "inventory.every",
		`{"inventory":{"first_after":"soon"}}`:  "inventory.first_after",
		`{"inventory":{"first_after":"-1s"}}`:   "inventory.first_after",
		`{"portal":false,"inventory":{"x":1}}`:  "inventory.x",
		`{"inventory":{"enabled":"sometimes"}}`: "inventory.enabled",
	} {
		var p struct{ Errors []struct{ Field string } }
		h.do(t, exchange{method: "PATCH", path: settingsPath, body: body, wild: true}).want(t, 400, &p)
		if len(p.Errors) != 1 || p.Errors[0].Field != field {
			t.Errorf("%s: %+v, want %s", body, p.Errors, field)
		}
	}
	h.do(t, exchange{method: "GET", path: settingsPath}).want(t, 200, &now)
	if now.Inventory.Enabled || now.Inventory.Every != "12h0m0s" {
		t.Errorf("inventory = %+v", now.Inventory)
	}
}
