package apiv1_test

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
)

type groupAnswer struct {
	ID, Name, Description, Kind, Rule string
	DeviceCount                       *int   `json:"device_count"`
	CreatedBy                         string `json:"created_by"`
}

// group makes a group of devices, or by a rule.
func (h *house) group(t testing.TB, name, rule string, devices ...string) string {
	t.Helper()
	body := map[string]any{"name": name}
	if rule != "" {
		body["rule"] = rule
	}
	var g groupAnswer
	h.do(t, exchange{method: "POST", path: "/api/v1/groups", body: body}).want(t, http.StatusCreated, &g)
	if len(devices) > 0 {
		h.do(t, exchange{method: "PUT", path: "/api/v1/groups/" + g.ID + "/devices", body: map[string]any{"device_ids": devices}}).want(t, http.StatusOK, nil)
	}
	return g.ID
}

// limited makes a token whose scope is limited to groups.
func (h *house) limited(t testing.TB, scope identity.Scope, groups ...string) string {
	t.Helper()
	_, secret, err := h.identity.CreateToken(context.Background(), identity.Local(), identity.NewToken{Name: "limited " + string(scope), Scopes: []identity.Scope{scope}, GroupIDs: groups})
	if err != nil {
		t.Fatal(err)
	}
	return secret.Reveal()
}

// listed returns the ids of a list of devices, in their order.
func (h *house) listed(t testing.TB, path, token string) (ids []string) {
	t.Helper()
	var list struct {
		Items []struct{ ID string }
		Total int
	}
	h.do(t, exchange{method: "GET", path: path, token: token}).want(t, http.StatusOK, &list)
	for _, d := range list.Items {
		ids = append(ids, d.ID)
	}
	if list.Total != len(ids) {
		t.Errorf("GET %s: total %d of %q", path, list.Total, ids)
	}
	slices.Sort(ids)
	return ids
}

func TestAGroupByTheFiltersOfTheList(t *testing.T) {
	h := fleet(t)
	for rule, want := range map[string][]string{
		"platform=macos":               {"mac", "user"},
		"?platform=macos":              {"mac", "user"},
		"user=ana@example.com":         {"mac", "pad", "user"}, // who logs in as ana, too
		"lost=true":                    {"pad"},
		"push=no_token":                {"mac", "pad", "phone", "user"},
		"attribute=BatteryLevel<0.5":   {"mac", "user"},
		"supervised=true":              {"mac", "user"},
		"last_seen_after=1h":           {"pad"},
		"os_version=>=18&platform=ios": {"phone"},
		"q=nothing":                    nil,
	} {
		t.Run(rule, func(t *testing.T) {
			values, err := url.ParseQuery(strings.TrimPrefix(rule, "?"))
			if err != nil {
				t.Fatal(err)
			}
			g := h.group(t, rule, rule)
			for _, path := range []string{"/api/v1/devices?group_id=" + g, "/api/v1/groups/" + g + "/devices"} {
				if got := h.listed(t, path, ""); !slices.Equal(got, want) {
					t.Errorf("GET %s = %q, want %q", path, got, want)
				}
			}
			devices := len(want)
			if slices.Contains(want, "user") {
				devices--
			}
			var one groupAnswer
			h.do(t, exchange{method: "GET", path: "/api/v1/groups/" + g}).want(t, http.StatusOK, &one)
			if one.Kind != "rule" || one.Rule != values.Encode() || one.DeviceCount == nil || *one.DeviceCount != devices {
				t.Errorf("group = %+v, want the rule %s and %d devices", one, values.Encode(), devices)
			}
			for _, id := range []string{"mac", "user"} {
				var of struct{ Items []groupAnswer }
				h.do(t, exchange{method: "GET", path: "/api/v1/devices/" + id + "/groups"}).want(t, http.StatusOK, &of)
				in := slices.ContainsFunc(of.Items, func(o groupAnswer) bool { return o.ID == g })
				if in != slices.Contains(want, id) {
					t.Errorf("%s is in the group: %t", id, in)
				}
			}
		})
	}
}

func TestAGroupOfDevicesIsMadeAndChanged(t *testing.T) {
	h := fleet(t)
	g := h.group(t, "Sales", "", "mac", "pad")
	path := "/api/v1/groups/" + g
	if got := h.listed(t, path+"/devices?state=enrolled", ""); !slices.Equal(got, []string{"mac", "pad"}) {
		t.Errorf("enrolled devices are %q", got)
	}
	if got := h.listed(t, path+"/devices", ""); !slices.Equal(got, []string{"mac", "pad", "user"}) {
		t.Errorf("devices are %q", got)
	}
	if csv := string(h.do(t, exchange{method: "GET", path: "/api/v1/devices.csv?columns=id&group_id=" + g}).answer); csv != "id\r\nmac\r\npad\r\nuser\r\n" {
		t.Errorf("the table is %q", csv)
	}
	var m struct {
		Changed     int
		DeviceCount int `json:"device_count"`
		Rejected    []struct {
			DeviceID string `json:"device_id"`
			Code     string
		}
	}
	h.do(t, exchange{method: "PUT", path: path + "/devices", body: map[string]any{"device_ids": []string{"phone", "pad", "user", "none"}}}).want(t, http.StatusOK, &m)
	if m.Changed != 1 || m.DeviceCount != 3 || len(m.Rejected) != 2 || m.Rejected[0].Code != "not_found" || m.Rejected[1].Code != "user_channel" {
		t.Errorf("PUT = %+v", m)
	}
	h.do(t, exchange{method: "DELETE", path: path + "/devices", body: map[string]any{"device_ids": []string{"mac", "none"}}}).want(t, http.StatusOK, &m)
	if m.Changed != 1 || m.DeviceCount != 2 {
		t.Errorf("DELETE = %+v", m)
	}
	var one groupAnswer
	h.do(t, exchange{method: "PATCH", path: path, body: map[string]any{"name": " The  shop", "description": "in town"}}).want(t, http.StatusOK, &one)
	if one.Name != "The shop" || one.Description != "in town" || *one.DeviceCount != 2 || !strings.HasPrefix(one.CreatedBy, "token:") {
		t.Errorf("PATCH = %+v", one)
	}
	var list struct {
		Items      []groupAnswer
		NextCursor string `json:"next_cursor"`
	}
	h.group(t, "iPads", "platform=ios")
	h.do(t, exchange{method: "GET", path: "/api/v1/groups?limit=1"}).want(t, http.StatusOK, &list)
	if len(list.Items) != 1 || list.Items[0].Name != "iPads" || list.Items[0].DeviceCount != nil || list.NextCursor == "" {
		t.Errorf("the first page is %+v", list)
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/groups?counts=true&cursor=" + url.QueryEscape(list.NextCursor)}).want(t, http.StatusOK, &list)
	if len(list.Items) != 1 || list.Items[0].Name != "The shop" || *list.Items[0].DeviceCount != 2 {
		t.Errorf("the second page is %+v", list)
	}
	h.do(t, exchange{method: "DELETE", path: path}).want(t, http.StatusNoContent, nil)
	h.do(t, exchange{method: "GET", path: path}).wantProblem(t, http.StatusNotFound, "not_found")
	h.do(t, exchange{method: "GET", path: path + "/devices"}).wantProblem(t, http.StatusNotFound, "not_found")
	h.do(t, exchange{method: "GET", path: "/api/v1/devices?group_id=" + g}).wantField(t, "group_id")
}

func TestGroupsThatAreRefused(t *testing.T) {
	h := fleet(t)
	byRule, byHand := h.group(t, "Macs", "platform=macos"), h.group(t, "Hand", "", "mac")
	for name, tt := range map[string]struct {
		method, path string
		body         map[string]any
		field, code  string
		wild         bool
	}{
		"no name":              {"POST", "", map[string]any{"name": " "}, "name", "", false},
		"a taken name":         {"POST", "", map[string]any{"name": "MACS"}, "", "group_exists", false},
		"an empty rule":        {"POST", "", map[string]any{"name": "x", "rule": "?"}, "rule", "", false},
		"no query":             {"POST", "", map[string]any{"name": "x", "rule": "%zz"}, "rule", "", false},
		"a slip":               {"POST", "", map[string]any{"name": "x", "rule": "platfrom=ios"}, "rule", "", false},
		"a bad value":          {"POST", "", map[string]any{"name": "x", "rule": "platform=cpm"}, "rule", "", false},
		"an order":             {"POST", "", map[string]any{"name": "x", "rule": "platform=ios&sort=name"}, "rule", "", false},
		"a page":               {"POST", "", map[string]any{"name": "x", "rule": "platform=ios&limit=1"}, "rule", "", false},
		"a group in it":        {"POST", "", map[string]any{"name": "x", "rule": "group_id=" + byHand}, "rule", "", false},
		"a name of no app":     {"POST", "", map[string]any{"name": "x", "rule": "app=<1"}, "rule", "", false},
		"an unknown attribute": {"POST", "", map[string]any{"name": "x", "rule": "attribute=BateryLevel<1"}, "rule", "", false},
		"a field too many":     {"POST", "", map[string]any{"name": "x", "devices": []string{}}, "devices", "", true},
		"a rule taken away":    {"PATCH", "/" + byRule, map[string]any{"rule": ""}, "rule", "", true},
		"a rule for devices":   {"PATCH", "/" + byHand, map[string]any{"rule": "platform=ios"}, "", "group_has_no_rule", false},
		"devices for a rule":   {"PUT", "/" + byRule + "/devices", map[string]any{"device_ids": []string{"mac"}}, "", "group_has_rule", false},
		"no devices":           {"PUT", "/" + byHand + "/devices", map[string]any{"device_ids": []string{}}, "device_ids", "", true},
		"no filter of a list":  {"GET", "?platform=ios", nil, "platform", "", true},
		"a group of its group": {"GET", "/" + byHand + "/devices?group_id=" + byRule, nil, "group_id", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			x := exchange{method: tt.method, path: "/api/v1/groups" + tt.path, wild: tt.wild}
			if tt.body != nil {
				x.body = tt.body
			}
			if x = h.do(t, x); tt.field != "" {
				x.wantField(t, tt.field)
			} else {
				x.wantProblem(t, http.StatusConflict, tt.code)
			}
		})
	}
}

func TestAGroupThatRolesAreLimitedToStays(t *testing.T) {
	h := fleet(t)
	g, other := h.group(t, "Sales", "", "mac"), h.group(t, "Other", "", "pad")
	var u struct {
		ID       string
		GroupIDs []string `json:"group_ids"`
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/users", body: map[string]any{"email": "hana@example.com", "role": "helpdesk", "group_ids": []string{g}}}).want(t, http.StatusCreated, &u)
	if !slices.Equal(u.GroupIDs, []string{g}) {
		t.Errorf("the user is limited to %q", u.GroupIDs)
	}
	for _, body := range []map[string]any{{"group_ids": []string{other, "none"}}} {
		h.do(t, exchange{method: "PATCH", path: "/api/v1/users/" + u.ID, body: body}).wantField(t, "group_ids[1]")
	}
	h.do(t, exchange{method: "PATCH", path: "/api/v1/users/" + u.ID, body: map[string]any{"role": "owner"}}).wantField(t, "group_ids")
	h.do(t, exchange{method: "POST", path: "/api/v1/users", body: map[string]any{"email": "x@example.com", "group_ids": []string{"none"}}}).wantField(t, "group_ids[0]")
	h.do(t, exchange{method: "POST", path: "/api/v1/tokens", body: map[string]any{"name": "x", "scopes": []string{"admin"}, "group_ids": []string{"none"}}}).wantField(t, "group_ids[0]")
	h.do(t, exchange{method: "POST", path: "/api/v1/tokens", body: map[string]any{"name": "x", "scopes": []string{"cert:any"}, "group_ids": []string{g}}}).wantField(t, "group_ids")
	var made struct {
		GroupIDs []string `json:"group_ids"`
		Token    string
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/tokens", body: map[string]any{"name": "kiosk", "scopes": []string{"helpdesk"}, "group_ids": []string{g}}}).want(t, http.StatusCreated, &made)
	p := h.do(t, exchange{method: "DELETE", path: "/api/v1/groups/" + g}).wantProblem(t, http.StatusConflict, "group_in_use")
	if !strings.Contains(p.Detail, "hana@example.com") || !strings.Contains(p.Detail, "kiosk") {
		t.Errorf("the problem says %q", p.Detail)
	}
	if got := h.listed(t, "/api/v1/devices", made.Token); !slices.Equal(got, []string{"mac", "user"}) {
		t.Errorf("the token sees %q", got)
	}
	h.do(t, exchange{method: "DELETE", path: "/api/v1/groups/" + g + "?force=true"}).want(t, http.StatusNoContent, nil)
	if got := h.listed(t, "/api/v1/devices", made.Token); len(got) > 0 {
		t.Errorf("without its group the token sees %q", got)
	}
	h.do(t, exchange{method: "DELETE", path: "/api/v1/groups/" + g + "?force=true"}).wantProblem(t, http.StatusNotFound, "not_found")
	u.GroupIDs = nil
	h.do(t, exchange{method: "PATCH", path: "/api/v1/users/" + u.ID, body: map[string]any{"group_ids": []string{}}}).want(t, http.StatusOK, &u)
	if len(u.GroupIDs) > 0 {
		t.Errorf("the user is limited to %q", u.GroupIDs)
	}
	if _, err := h.mdm.Group(context.Background(), mdm.GroupID(other)); err != nil {
		t.Error(err)
	}
}
