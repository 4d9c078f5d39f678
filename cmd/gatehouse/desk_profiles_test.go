package main

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// wifiProfile is a file as an administrator uploads it.
func wifiProfile(name, identifier, ssid string) string {
	escape := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace
	return fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict>
<key>PayloadType</key><string>Configuration</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>%s</string><key>PayloadUUID</key><string>7C1FC5E5-3B3B-4B46-9D0C-000000000001</string>
<key>PayloadDisplayName</key><string>%s</string>
<key>PayloadContent</key><array><dict>
<key>PayloadType</key><string>com.apple.wifi.managed</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>%s.wifi</string><key>PayloadUUID</key><string>7C1FC5E5-3B3B-4B46-9D0C-000000000002</string>
<key>PayloadDisplayName</key><string>%s</string>
<key>SSID_STR</key><string>%s</string><key>EncryptionType</key><string>WPA2</string><key>Password</key><string>the-very-secret</string>
</dict></array></dict></plist>`, identifier, escape(name), identifier, escape(name), escape(ssid))
}

// giveProfile posts a file to the page that takes profiles, as its form does.
func giveProfile(t *testing.T, d *deskClient, file, step string, more url.Values) deskPage {
	t.Helper()
	form := url.Values{"content": {base64.StdEncoding.EncodeToString([]byte(file))}, "step": {step}}
	for name, values := range more {
		form[name] = values
	}
	return d.ask(t, "POST", "/admin/profiles/new", form)
}

func TestThePagesOfProfiles(t *testing.T) {
	d := startDesk(t, "--demo", "2")
	reader := d.as(t, "read_only")

	t.Run("an empty library says what to do", func(t *testing.T) {
		d.get(t, "/admin/profiles").says(t, "No profiles yet", "Make one from a starter", "Upload a file")
		if page := reader.get(t, "/admin/profiles"); len(page.all("a", "href", "/admin/profiles/new")) != 0 {
			t.Error("who may not upload is offered to")
		}
	})

	var first string
	t.Run("a file is looked at before it is kept", func(t *testing.T) {
		page := giveProfile(t, d, wifiProfile("Office", "com.example.office", "$EMIAL"), "check", nil)
		page.says(t, "Check Office", "It becomes a new profile", "Error", "$EMIAL", "Wi-Fi", "SSID_STR", "secret, not shown")
		if strings.Contains(page.text(), "the-very-secret") {
			t.Error("the page shows the password")
		}
		d.get(t, "/admin/profiles").says(t, "No profiles yet")

		got := giveProfile(t, d, wifiProfile("Office", "com.example.office", "Office"), "keep", url.Values{"note": {"The first one"}})
		if got.status != http.StatusSeeOther {
			t.Fatalf("= %d\n%s", got.status, got.text())
		}
		page = d.get(t, got.header.Get("Location"))
		page.says(t, "Saved.", "Office", "No device has it yet", "The first one")
		first, _, _ = strings.Cut(got.header.Get("Location"), "?")
	})
	t.Run("what is no profile names the file", func(t *testing.T) {
		page := giveProfile(t, d, "hello", "check", nil)
		if page.status != http.StatusUnprocessableEntity || len(page.all("input", "id", "f-file", "aria-invalid", "true")) != 1 {
			t.Errorf("= %d\n%s", page.status, page.text())
		}
		page = d.ask(t, "POST", "/admin/profiles/new", url.Values{"step": {"check"}, "note": {"kept words"}})
		if page.status != http.StatusUnprocessableEntity {
			t.Errorf("without a file = %d", page.status)
		}
	})
	t.Run("another profile is no new version", func(t *testing.T) {
		id := first[strings.LastIndex(first, "/")+1:]
		giveProfile(t, d, wifiProfile("Office", "com.example.other", "Office"), "check", url.Values{"profile": {id}}).says(t, "This file is another profile")
		giveProfile(t, d, wifiProfile("Office", "com.example.office", "Office 5"), "check", url.Values{"profile": {id}}).says(t, "It becomes version 2 of Office")
		if got := giveProfile(t, d, wifiProfile("Office", "com.example.office", "Office 5"), "keep", url.Values{"profile": {id}}); got.status != http.StatusSeeOther {
			t.Errorf("= %d\n%s", got.status, got.text())
		}
	})
	t.Run("versions are compared and restored", func(t *testing.T) {
		d.get(t, first+"/versions?from=1&to=2").says(t, "SSID_STR", "Office", "Office 5")
		d.post(t, first+"/versions/1/restore", nil).says(t, "Restored.", "Version 3", "latest")
		if got := d.ask(t, "GET", first+"/versions/1/download", nil); got.status != http.StatusOK || !strings.Contains(got.header.Get("Content-Disposition"), "com.example.office.mobileconfig") {
			t.Errorf("download = %d, %v", got.status, got.header)
		}
	})
	t.Run("who may not see the contents is told so", func(t *testing.T) {
		page := reader.get(t, first+"/contents")
		page.says(t, "take the role of an admin")
		if strings.Contains(page.text(), "SSID_STR") {
			t.Error("a reader sees the settings")
		}
		reader.get(t, first+"/versions")
		if got := reader.ask(t, "GET", first+"/versions/1/download", nil); got.status != http.StatusForbidden {
			t.Errorf("a reader downloads: %d", got.status)
		}
		if got := reader.ask(t, "POST", first+"/delete", url.Values{"typed": {"Office"}}); got.status != http.StatusForbidden {
			t.Errorf("a reader deletes: %d", got.status)
		}
	})
	t.Run("a starter keeps what was answered", func(t *testing.T) {
		d.get(t, "/admin/profiles/starters").says(t, "Passcode", "Wi-Fi with password")
		page := d.ask(t, "POST", "/admin/profiles/starter?name=wifi-password", url.Values{"params.ssid": {"Cafe"}, "params.password": {"short"}, "identifier": {"com.example.cafe"}, "name": {"Cafe"}})
		if page.status != http.StatusUnprocessableEntity || len(page.all("input", "name", "params.ssid", "value", "Cafe")) != 1 || strings.Contains(page.body, "short\"") {
			t.Errorf("= %d\n%s", page.status, page.text())
		}
		page.says(t, "8 to 63 characters")
		page = d.ask(t, "POST", "/admin/profiles/starter?name=wifi-password", url.Values{"params.ssid": {"Cafe"}, "params.password": {"long enough"}, "identifier": {"com.example.cafe"}, "name": {"Cafe"}})
		page.says(t, "Check Cafe", "SSID_STR", "Cafe")
		for _, name := range []string{"passcode", "web-clip", "wifi-certificate", "byod-data-protection", "filevault"} {
			d.get(t, "/admin/profiles/starter?name="+name)
		}
		if got := d.ask(t, "GET", "/admin/profiles/starter?name=none", nil); got.status != http.StatusNotFound {
			t.Errorf("a starter that is not there = %d", got.status)
		}
	})
	t.Run("it is said who would take it before it is sent", func(t *testing.T) {
		waitForDevices(t, d, 3) // two, and the channel of the Mac’s user, which is sent to as well
		if got := d.ask(t, "POST", first+"/send", url.Values{"who": {"some"}}); got.status != http.StatusUnprocessableEntity {
			t.Errorf("for no device = %d", got.status)
		}
		d.ask(t, "POST", first+"/send", url.Values{"who": {"some"}, "find": {"Demo"}, "step": {"find"}}).says(t, "Demo")
		page := d.ask(t, "POST", first+"/send", url.Values{"who": {"all"}, "step": {"review"}})
		page.says(t, "would take it as it is", "Send to")
		if page := reader.ask(t, "POST", first+"/send", url.Values{"who": {"all"}, "step": {"review"}}); len(page.all("button", "value", "send")) != 0 {
			t.Error("a reader is offered to send")
		}
		once := page.all("input", "name", "once")
		if len(once) != 1 {
			t.Fatalf("the page has %d keys", len(once))
		}
		fields := url.Values{"who": {"all"}, "step": {"send"}, "once": {attributeOf(once[0], "value")}}
		got := d.ask(t, "POST", first+"/send", fields)
		if got.status != http.StatusSeeOther || !strings.HasPrefix(got.header.Get("Location"), "/admin/commands/batches/") {
			t.Fatalf("= %d %s\n%s", got.status, got.header.Get("Location"), got.text())
		}
		if again := d.ask(t, "POST", first+"/send", fields); again.header.Get("Location") != got.header.Get("Location") {
			t.Errorf("sent twice, it is %d %s", again.status, again.header.Get("Location"))
		}
		d.get(t, first+"/devices").says(t, "Demo")
		list := d.get(t, "/admin/commands/batches")
		list.says(t, "Progress", " of ")
		if bars := list.all("svg", "role", "img"); len(bars) == 0 {
			t.Error("the batches have no bars")
		}
	})
	t.Run("it is removed before it is deleted", func(t *testing.T) {
		if got := d.ask(t, "POST", first+"/delete", url.Values{"typed": {"Office"}}); got.status != http.StatusUnprocessableEntity {
			t.Errorf("deleted from under devices: %d", got.status)
		}
		if got := d.ask(t, "POST", first+"/delete", url.Values{"typed": {"Offic"}}); got.status != http.StatusUnprocessableEntity {
			t.Errorf("with a slip = %d", got.status)
		}
		d.ask(t, "POST", first+"/remove", url.Values{"who": {"all"}, "step": {"review"}}).says(t, "Remove Office from", "The devices lose")
		d.post(t, first+"/remove", url.Values{"who": {"all"}, "step": {"remove"}}).says(t, "The removal is on its way")
	})
	t.Run("names are text", func(t *testing.T) {
		file := wifiProfile(hostile, "com.example.hostile", hostile)
		giveProfile(t, d, file, "check", nil).escapes(t)
		got := giveProfile(t, d, file, "keep", url.Values{"note": {hostile}})
		path, _, _ := strings.Cut(got.header.Get("Location"), "?")
		for _, at := range []string{"/admin/profiles", path, path + "/contents", path + "/versions", path + "/devices", path + "/send", path + "/remove", path + "/delete", "/admin/profiles/new?profile=" + path[strings.LastIndex(path, "/")+1:]} {
			d.get(t, at).escapes(t)
		}
		if page := d.get(t, path+"/versions?from=1&to=1"); page.status != http.StatusOK {
			t.Errorf("= %d", page.status)
		}
		d.ask(t, "POST", path+"/send", url.Values{"who": {"some"}, "find": {hostile}, "step": {"find"}}).escapes(t)
	})
}

// waitForDevices waits for simulated devices, until so many have enrolled.
func waitForDevices(t *testing.T, d *deskClient, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d devices enroll", n), func() bool {
		var found struct {
			Total int `json:"total"`
		}
		d.call(t, "GET", "/api/v1/devices?state=enrolled", nil, &found)
		return found.Total >= n
	})
}
