package main

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// simulatedDevices counts the demo's devices by state, without users' channels.
func (s *running) simulatedDevices(t *testing.T) map[string]int {
	t.Helper()
	var out struct {
		Items []struct {
			Demo  bool
			State string
			Type  string `json:"enrollment_type"`
		}
	}
	s.call(t, "GET", "/api/v1/devices?limit=200", nil, &out)
	states := map[string]int{}
	for _, d := range out.Items {
		if d.Demo && d.Type != "user_channel" {
			states[d.State]++
		}
	}
	return states
}

func TestDemoDevicesComeAndGo(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	const server = "/admin/settings/server"
	dir := t.TempDir()
	args := ownerArgs(t)
	d := &deskClient{running: start(t, dir, args...)}
	d.client = d.newClient(t)
	d.signIn(t, ownerEmail, ownerPassword)

	got := d.get(t, "/admin/devices")
	got.says(t, "No devices yet", "Only looking around?")
	if len(got.all("form", "action", server+"/demo")) != 1 {
		t.Fatal("a list without devices offers none to look around with")
	}
	d.post(t, server+"/demo", nil).says(t, "Simulated devices are on their way")
	come := func() bool { return d.simulatedDevices(t)["enrolled"] == 5 }
	eventually(t, "five devices enroll", come)
	got = d.get(t, "/admin/devices")
	if got.says(t, "Demo "); len(got.all("form", "action", server+"/demo")) != 0 {
		t.Error("more are offered, though there are some")
	}
	d.get(t, server).says(t, "5 simulated devices enroll with this server")
	if !d.out.await(`"request_type":"DeviceInformation","state":"acknowledged"`, 1) {
		t.Fatal("no simulated device answered")
	}
	d.get(t, "/admin/audit").says(t, "had simulated devices enroll")

	d.end(t)
	d = &deskClient{running: start(t, dir, args...)}
	d.client = d.newClient(t)
	d.signIn(t, ownerEmail, ownerPassword)
	eventually(t, "they come back after a restart", come)

	if helper := d.as(t, "helpdesk"); helper.ask(t, "POST", server+"/demo/remove", url.Values{}).status != http.StatusForbidden {
		t.Error("who helps people may remove them")
	}
	d.post(t, server+"/demo/remove", nil).says(t, "The simulated devices are leaving, and their records with them.")
	eventually(t, "they leave, and nothing of them", func() bool { return len(d.simulatedDevices(t)) == 0 })
	eventually(t, "their link ends", func() bool {
		var links struct {
			Items []struct{ Name, State string }
		}
		d.call(t, "GET", "/api/v1/enrollment-links", nil, &links)
		for _, l := range links.Items {
			if l.Name == "Demo" && l.State != "revoked" {
				return false
			}
		}
		return len(links.Items) > 0
	})
	d.get(t, server).says(t, "Only looking around?")
	d.end(t)

	var after struct{ Count int }
	start(t, dir, args...).call(t, "GET", "/api/v1/demo-devices", nil, &after)
	if after.Count != 0 {
		t.Errorf("after another restart %d are back", after.Count)
	}
}

func TestDemoDevicesLeftBehind(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	dir := t.TempDir()
	s := start(t, dir, "--demo", "2")
	eventually(t, "two devices enroll", func() bool { return s.simulatedDevices(t)["enrolled"] == 2 })
	s.end(t)
	s = start(t, dir)
	if got := s.simulatedDevices(t); got["enrolled"] != 2 {
		t.Fatalf("after a start without --demo the devices are %v", got)
	}
	s.call(t, "DELETE", "/api/v1/demo-devices", nil, &struct{}{})
	eventually(t, "they leave", func() bool { return len(s.simulatedDevices(t)) == 0 })
}

func TestDemoDevicesOfASharedDatabase(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if len(storeArgs(t, dir)) == 0 {
		t.Skip("servers don't share this engine")
	}
	const server = "/admin/settings/server"
	d := &deskClient{running: start(t, dir, ownerArgs(t)...)}
	d.client = d.newClient(t)
	d.signIn(t, ownerEmail, ownerPassword)
	if got := d.get(t, "/admin/devices"); len(got.all("form", "action", server+"/demo")) > 0 {
		t.Error("devices are offered that can’t be added")
	}
	d.get(t, server).says(t, "Several servers share this database.")
	got := d.ask(t, "POST", server+"/demo", nil)
	if got.says(t, "Start one of them with --demo 5."); got.status != http.StatusConflict {
		t.Errorf("adding them = %d, want 409", got.status)
	}
}
