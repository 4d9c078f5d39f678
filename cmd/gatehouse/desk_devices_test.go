package main

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
)

// poll has devices do what waits for them.
func (d *deskClient) poll(t *testing.T, devices ...*mdmtest.Device) {
	t.Helper()
	for _, device := range devices {
		if _, err := device.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheDeskOfDevices(t *testing.T) {
	d := startDesk(t)

	t.Run("without devices it says how to get one", func(t *testing.T) {
		got := d.get(t, "/admin/devices")
		got.says(t, "No devices yet", "Enroll a person")
		if href := got.link(t, "New enrollment link"); !strings.HasPrefix(href, "/admin/enrollment") {
			t.Errorf("the way on leads to %s", href)
		}
	})

	devices, ids := d.enrolled(t,
		mdmtest.Options{Name: hostile, Serial: "PHONE00001", OSVersion: "26.1"},
		mdmtest.Options{Model: mdmtest.Mac, Name: "Ben’s Mac", Serial: "MAC000001", OSVersion: "26.1"},
	)
	phone, mac := "/admin/devices/"+ids[0], "/admin/devices/"+ids[1]
	for _, id := range ids {
		d.call(t, "POST", "/api/v1/devices/"+id+"/refresh", map[string]any{}, &struct{}{})
	}
	d.poll(t, devices...)

	t.Run("the list finds, filters and sorts", func(t *testing.T) {
		got := d.get(t, "/admin/devices")
		got.says(t, "2 devices", "Ben’s Mac", "macOS 26.1", "enrolled")
		got.escapes(t)
		if href := got.link(t, "Ben’s Mac"); href != mac {
			t.Errorf("the Mac leads to %s", href)
		}
		d.get(t, "/admin/devices?q=MAC000001").says(t, "1 device", "Search: MAC000001")
		only := d.get(t, "/admin/devices?platform=macos&state=enrolled")
		only.says(t, "Platform: macOS", "State: Enrolled", "1 device")
		if href := only.all("a", "aria-label", "Remove the filter Platform: macOS"); len(href) != 1 || attributeOf(href[0], "href") != "/admin/devices?state=enrolled" {
			t.Errorf("no way to remove one filter: %v", href)
		}
		d.get(t, "/admin/devices?platform=tvos").says(t, "No device matches", "Clear all filters")
		d.get(t, "/admin/devices?sort=-last_seen_at").says(t, "Last seen ↓")
	})
	t.Run("a form of filters leads to an address without what nobody filled in", func(t *testing.T) {
		got := d.ask(t, "GET", "/admin/devices?state=&platform=macos&q=&last_seen_before=never&sort=name", nil)
		if at := got.header.Get("Location"); got.status != http.StatusSeeOther || at != "/admin/devices?last_seen=never&platform=macos" {
			t.Errorf("%d %s", got.status, at)
		}
	})
	t.Run("a slip in a filter is shown at it, and nothing is lost", func(t *testing.T) {
		got := d.ask(t, "GET", "/admin/devices?os_version=x&model=Mac*", nil)
		if got.status != http.StatusBadRequest || len(got.all("input", "name", "model", "value", "Mac*")) != 1 || len(got.all("", "id", "f-os_version-error")) != 1 {
			t.Errorf("%d:\n%s", got.status, got.text())
		}
	})
	t.Run("the table is what the filters ask for", func(t *testing.T) {
		got := d.send(t, d.client, "GET", "/admin/devices.csv?platform=macos", nil)
		if got.StatusCode != http.StatusOK || !strings.Contains(got.body, "MAC000001") || strings.Contains(got.body, "PHONE00001") {
			t.Errorf("%d\n%s", got.StatusCode, got.body)
		}
	})
	t.Run("something is done with a selection", func(t *testing.T) {
		const to = "/admin/devices/selection"
		if got := d.ask(t, "POST", to, url.Values{"do": {"command"}}); got.status != http.StatusUnprocessableEntity {
			t.Errorf("nothing selected: %d", got.status)
		} else {
			got.says(t, "Select one or more devices first")
		}
		got := d.ask(t, "POST", to, url.Values{"do": {"command"}, "device_id": ids})
		if at, _ := url.Parse(got.header.Get("Location")); at.Path != "/admin/commands/new" || len(at.Query()["device_id"]) != 2 {
			t.Errorf("a command leads to %s", at)
		}
		got = d.ask(t, "POST", to, url.Values{"do": {"command"}, "all": {"true"}, "filter": {"platform=macos"}})
		if at, _ := url.Parse(got.header.Get("Location")); at.Query().Get("filter") != "platform=macos" {
			t.Errorf("a command to all leads to %s", at)
		}
		d.post(t, to, url.Values{"do": {"refresh"}, "all": {"true"}, "filter": {"platform=macos"}}).says(t, "asked for its facts")
		d.poll(t, devices...)
	})
	t.Run("filters become a group, and devices are put into one", func(t *testing.T) {
		d.get(t, d.get(t, "/admin/devices?platform=macos").link(t, "Save as group")).says(t, "Platform: macOS")
		got := d.post(t, "/admin/groups", url.Values{"name": {"All " + hostile}, "rule": {"platform=macos"}})
		got.says(t, "1 device", "Ben’s Mac")
		got.escapes(t)
		if again := d.ask(t, "POST", "/admin/groups", url.Values{"name": {"all " + hostile}, "rule": {"platform=macos"}}); again.status != http.StatusUnprocessableEntity && again.status != http.StatusConflict {
			t.Errorf("the same name again: %d", again.status)
		}
		chosen := d.ask(t, "POST", "/admin/devices/selection", url.Values{"do": {"group"}, "device_id": ids})
		chosen.says(t, "2 devices selected", "A new group")
		if got := d.ask(t, "POST", "/admin/groups/chosen/add", url.Values{"group": {"new"}, "name": {""}, "device_id": ids}); got.status != http.StatusUnprocessableEntity {
			t.Errorf("a group without a name: %d", got.status)
		}
		list := d.post(t, "/admin/groups/chosen/add", url.Values{"group": {"new"}, "name": {"Lobby"}, "device_id": ids})
		list.says(t, "Group: Lobby", "2 devices")
		about := d.get(t, list.link(t, "About this group"))
		about.says(t, "Show 2 devices", "Delete this group")
		d.get(t, phone).says(t, "Lobby")
		d.post(t, about.path+"/delete", nil).says(t, "Deleted.")
	})

	t.Run("each page of a device shows names as text, and what can be done", func(t *testing.T) {
		for _, part := range []string{"", "/commands", "/apps", "/profiles", "/certificates", "/history", "/activity", "/secrets", "/raw"} {
			got := d.get(t, phone+part)
			got.escapes(t)
			got.says(t, "enrolled", "Queue a command", "Lock…", "More actions", "Unenroll…")
			if n := len(got.all("h1")); n != 1 {
				t.Errorf("%s has %d h1", got.path, n)
			}
			if size := len(got.body); size > 100<<10 {
				t.Errorf("%s has %d bytes", got.path, size)
			}
		}
	})
	t.Run("the overview has facts in words", func(t *testing.T) {
		d.get(t, phone).says(t, "Security", "Storage and battery", "Free space", "Serial number PHONE00001", "Security info acknowledged")
		d.get(t, mac).says(t, "Users of this device")
	})
	t.Run("a note is written, and its limit said at the field", func(t *testing.T) {
		got := d.post(t, phone+"/note", url.Values{"note": {"in the lobby " + hostile}})
		got.says(t, "Saved.", "in the lobby", "Written by")
		got.escapes(t)
		long := strings.Repeat("x", 3000)
		if got := d.ask(t, "POST", phone+"/note", url.Values{"note": {long}}); got.status != http.StatusUnprocessableEntity || !strings.Contains(got.body, long) {
			t.Errorf("a note too long: %d", got.status)
		}
		d.ask(t, "POST", phone+"/note", url.Values{})
		d.get(t, phone).says(t, "in the lobby")
	})
	t.Run("a command is followed, cancelled and sent again", func(t *testing.T) {
		d.call(t, "POST", "/api/v1/commands", map[string]any{"request_type": "RestartDevice", "device_ids": ids[1:]}, &struct{}{})
		got := d.get(t, mac+"/commands")
		got.says(t, "Restart device queued")
		cancels := got.all("button", "aria-label", "Cancel Restart device")
		if len(cancels) != 1 {
			t.Fatalf("%d ways to cancel:\n%s", len(cancels), got.text())
		}
		d.get(t, "/admin/devices").says(t, "1 ")
		got = d.post(t, attributeOf(cancels[0].Parent, "action"), nil)
		got.says(t, "Cancelled.", "cancelled")
		again := got.all("button", "aria-label", "Send Restart device again")
		d.post(t, attributeOf(again[0].Parent, "action"), nil).says(t, "Queued again.")
		d.poll(t, devices[1])
		d.get(t, mac+"/commands").says(t, "Restart device acknowledged")
		if got := d.ask(t, "POST", attributeOf(cancels[0].Parent, "action"), nil); got.status != http.StatusConflict || len(got.all("p", "role", "alert")) == 0 {
			t.Errorf("cancelled twice: %d\n%s", got.status, got.text())
		}
	})
	t.Run("a secret takes a reason, and stays on that one page", func(t *testing.T) {
		d.call(t, "POST", "/api/v1/commands", map[string]any{"request_type": "DeviceLock", "device_ids": ids[1:], "params": map[string]any{"PIN": "482913"}, "confirm": true}, &struct{}{})
		d.poll(t, devices[1])
		d.get(t, mac+"/secrets").says(t, "Lock PIN", "Reveal a secret")
		if got := d.ask(t, "POST", mac+"/secrets/chosen", url.Values{"kind": {"device_lock_pin"}, "reason": {""}}); got.status != http.StatusUnprocessableEntity || strings.Contains(got.body, "482913") {
			t.Errorf("without a reason: %d", got.status)
		}
		got := d.ask(t, "POST", mac+"/secrets/chosen", url.Values{"kind": {"device_lock_pin"}, "reason": {"Ben is locked out"}})
		got.says(t, "482913")
		if got.header.Get("Cache-Control") != "no-store" {
			t.Error("the page may be kept")
		}
		if again := d.get(t, mac+"/secrets"); strings.Contains(again.body, "482913") {
			t.Error("the PIN is shown without a reason")
		}
		d.get(t, mac+"/activity").says(t, "Secret revealed", "Ben is locked out")
	})
	t.Run("who may only read sees all of it and can do nothing", func(t *testing.T) {
		reader := d.as(t, "read_only")
		list := reader.get(t, "/admin/devices")
		if n := len(list.all("input", "name", "device_id")); n != 0 {
			t.Errorf("%d devices can be selected", n)
		}
		got := reader.get(t, mac)
		got.says(t, "Ben’s Mac")
		for _, form := range got.all("form", "method", "post") {
			if action := attributeOf(form, "action"); strings.HasPrefix(action, mac) {
				t.Errorf("there is a form to %s", action)
			}
		}
		if strings.Contains(got.text(), "Queue a command") || strings.Contains(got.text(), "Block") {
			t.Errorf("it offers what is refused:\n%s", got.text())
		}
		for _, path := range []string{"/block", "/push", "/note", "/secrets/chosen"} {
			if got := reader.ask(t, "POST", mac+path, url.Values{"typed": {"Ben’s Mac"}, "kind": {"device_lock_pin"}, "reason": {"x"}}); got.status != http.StatusForbidden {
				t.Errorf("POST %s = %d", path, got.status)
			}
		}
	})
	t.Run("unenrolling and blocking take the device's name", func(t *testing.T) {
		for _, name := range []string{"unenroll", "block"} {
			got := d.get(t, mac+"/"+name)
			got.says(t, "Ben’s Mac", "certificates are revoked", "To go on, type")
			if again := d.ask(t, "POST", mac+"/"+name, url.Values{"typed": {"Ben"}}); again.status != http.StatusUnprocessableEntity {
				t.Errorf("%s with another name: %d", name, again.status)
			}
		}
		d.post(t, mac+"/block", url.Values{"typed": {"ben's mac"}}).says(t, "Blocked.", "blocked", "Unblock")
		if got := d.ask(t, "POST", mac+"/push", nil); got.status != http.StatusConflict {
			t.Errorf("a blocked device is pushed: %d", got.status)
		}
		d.ask(t, "POST", mac+"/delete", url.Values{"typed": {"ben's mac"}}).says(t, "The device is blocked")
		d.post(t, mac+"/unblock", nil).says(t, "Unblocked.")
	})
	t.Run("the record of a device that left is deleted", func(t *testing.T) {
		d.get(t, phone).says(t, "Delete its record… It is managed: unenroll it first.")
		d.post(t, phone+"/unenroll", url.Values{"typed": {hostile}}).says(t, "Unenrolled.", "Identity revoked")
		got := d.get(t, phone+"/delete")
		got.says(t, "Nothing changes on the device", "To go on, type")
		got.escapes(t)
		if again := d.ask(t, "POST", phone+"/delete", url.Values{"typed": {"phone"}}); again.status != http.StatusUnprocessableEntity {
			t.Errorf("by another name: %d", again.status)
		}
		d.post(t, phone+"/delete", url.Values{"typed": {hostile}}).says(t, "The record was deleted.", "1 device")
		gone := d.ask(t, "GET", phone, nil)
		if gone.says(t, "This record was deleted", "The device was called"); gone.status != http.StatusGone {
			t.Errorf("its page: %d", gone.status)
		}
		gone.escapes(t)
		d.get(t, gone.link(t, "What the audit log says of it")).says(t, "deleted the record of PHONE00001")
	})
}
