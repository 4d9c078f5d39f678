package apiv1_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
)

type commandKey struct {
	Name, Type           string
	Required             bool
	Values               []string
	Keys, Items, Choices []commandKey
	Refused              string
}

type commandType struct {
	RequestType string `json:"request_type"`
	Title       string
	Confirm     bool
	Urgent      bool
	Scope       string
	Filled      []string
	Keys        []commandKey
	Platforms   map[string]any
	Allowed     *bool
	Code        string
	Reason      string
}

func (c commandType) key(t testing.TB, name string) commandKey {
	t.Helper()
	i := slices.IndexFunc(c.Keys, func(k commandKey) bool { return k.Name == name })
	if i < 0 {
		t.Fatalf("%s has no key %s", c.RequestType, name)
	}
	return c.Keys[i]
}

// commandType gets one type as it is for a device; empty: for none.
func (h *house) commandType(t testing.TB, name string, id mdm.DeviceID) (got commandType) {
	t.Helper()
	path := "/api/v1/command-types/" + name
	if id != "" {
		path += "?device_id=" + string(id)
	}
	h.do(t, exchange{method: "GET", path: path}).want(t, 200, &got)
	return got
}

func TestCommandTypesSayWhatAFormNeeds(t *testing.T) {
	h := newHouse(t)
	var list struct{ Items []commandType }
	all := h.do(t, exchange{method: "GET", path: "/api/v1/command-types"})
	all.want(t, 200, &list)
	if len(list.Items) != 68 {
		t.Fatalf("%d types, want 68", len(list.Items))
	}
	if len(all.answer) > 1<<20 {
		t.Errorf("the list has %d bytes", len(all.answer))
	}
	confirmed := []string{"ClearActivationLockBypassCode", "DeleteUser", "EraseDevice"}
	urgent := []string{"DeviceLock", "EnableLostMode", "EraseDevice"}
	for _, typ := range list.Items {
		if typ.Confirm != slices.Contains(confirmed, typ.RequestType) || typ.Urgent != slices.Contains(urgent, typ.RequestType) || typ.Allowed != nil {
			t.Errorf("%s: confirm is %v, urgent %v, allowed %v", typ.RequestType, typ.Confirm, typ.Urgent, typ.Allowed)
		}
	}
	if q := h.commandType(t, "DeviceInformation", "").key(t, "Queries"); q.Type != "array" || len(q.Items) != 1 || len(q.Items[0].Values) < 50 {
		t.Errorf("DeviceInformation takes %+v", q)
	}
	lock := h.commandType(t, "DeviceLock", "")
	if lock.Title != "Device lock" || lock.Platforms["tvos"] != nil || lock.Platforms["macos"] == nil || !slices.Equal(lock.Filled, []string{"PIN"}) || lock.Scope != "helpdesk" {
		t.Errorf("DeviceLock is %+v", lock)
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/command-types/MakeCoffee"}).wantProblem(t, 404, "not_found")
}

func TestCommandTypesSayWhatADeviceMayGet(t *testing.T) {
	h := newHouse(t)
	h.device(t, "mac", nil)
	h.device(t, "tv", func(d *mdm.Device) { d.ProductName = "AppleTV14,1" })
	h.device(t, "gone", func(d *mdm.Device) { d.State = mdm.Unenrolled })
	h.device(t, "personal", func(d *mdm.Device) {
		d.Type, d.AppleID, d.ProductName, d.OSVersion = mdm.TypeUser, mdm.AppleID{EnrollmentID: "E1"}, "iPhone15,2", "18.2"
	})
	for name, tt := range map[string]struct {
		command string
		id      mdm.DeviceID
		code    string // empty: it may get it
	}{
		"a Mac can be locked":             {"DeviceLock", "mac", ""},
		"an Apple TV can't":               {"DeviceLock", "tv", "unsupported_platform"},
		"a personal iPhone can":           {"DeviceLock", "personal", ""},
		"but not be erased":               {"EraseDevice", "personal", "forbidden_in_user_enrollment"},
		"who left gets nothing":           {"ProfileList", "gone", "not_enrolled"},
		"what is not known is no consent": {"ClearRestrictionsPassword", "mac", "unsupported_platform"},
	} {
		t.Run(name, func(t *testing.T) {
			got := h.commandType(t, tt.command, tt.id)
			if got.Allowed == nil || *got.Allowed != (tt.code == "") || got.Code != tt.code || (got.Reason == "") != (tt.code == "") {
				t.Errorf("allowed %v, %q, %q", got.Allowed, got.Code, got.Reason)
			}
		})
	}
	refused := func(id mdm.DeviceID) (names []string) {
		for _, query := range h.commandType(t, "DeviceInformation", id).key(t, "Queries").Items[0].Choices {
			if query.Refused != "" {
				names = append(names, query.Name)
			}
		}
		return names
	}
	if names := refused("personal"); !slices.Contains(names, "SerialNumber") || slices.Contains(names, "DeviceName") {
		t.Errorf("a personal iPhone is not asked for %v", names)
	}
	if names := refused("mac"); len(names) > 0 {
		t.Errorf("a Mac is not asked for %v: it leaves out what it does not know", names)
	}
	items := h.commandType(t, "Settings", "personal").key(t, "Settings").Items
	i := slices.IndexFunc(items, func(k commandKey) bool { return k.Name == "Wallpaper" })
	if i < 0 || !strings.Contains(items[i].Refused, "User Enrollment") {
		t.Errorf("the wallpaper of a personal iPhone: %+v", items)
	}
	if pin := h.commandType(t, "DeviceLock", "personal").key(t, "PIN"); pin.Refused != "" {
		t.Errorf("a PIN is refused, where a device passes over it: %s", pin.Refused)
	}
	p := h.do(t, exchange{method: "GET", path: "/api/v1/command-types?device_id=none"}).wantProblem(t, 404, "not_found")
	if len(p.Errors) != 1 || p.Errors[0].Field != "device_id" {
		t.Errorf("an unknown device is %+v", p)
	}
}
