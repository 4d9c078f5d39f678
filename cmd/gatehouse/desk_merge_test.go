package main

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestTwoRecordsOfOneDevice has somebody's own device enrol twice: nothing tells that it is
// the same but who has it and what it is.
func TestTwoRecordsOfOneDevice(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	dir := t.TempDir()
	args := append(ownerArgs(t), "--demo", "4")
	d := &deskClient{running: start(t, dir, args...)}
	come := func() bool { return d.simulatedDevices(t)["enrolled"] == 4 }
	eventually(t, "four devices enroll", come)
	d.end(t)
	d = &deskClient{running: start(t, dir, args...)}
	d.client = d.newClient(t)
	d.signIn(t, ownerEmail, ownerPassword)
	eventually(t, "they come back", come)

	find := func(state string) (id, name string) {
		var list struct {
			Items []struct {
				ID   string
				Name string `json:"device_name"`
			}
		}
		d.call(t, "GET", "/api/v1/devices?enrollment_type=user&state="+state, nil, &list)
		if len(list.Items) != 1 {
			t.Fatalf("%d personal devices are %s", len(list.Items), state)
		}
		return list.Items[0].ID, list.Items[0].Name
	}
	former, _ := find("unenrolled")
	present, _ := find("enrolled")
	page := "/admin/devices/" + present
	d.call(t, "PATCH", "/api/v1/devices/"+former, map[string]any{"note": "has a crack"}, &struct{}{})

	got := d.get(t, page)
	got.says(t, "Has this device been here before?")
	ask := got.link(t, "Merge…")
	d.get(t, ask).says(t, "Merge into", "Former record")
	if reader := d.as(t, "helpdesk"); reader.ask(t, "POST", page+"/merge", url.Values{"from": {former}}).status != http.StatusForbidden {
		t.Error("who helps people may merge records")
	}
	d.ask(t, "POST", page+"/merge", url.Values{"from": {present}}).says(t, "A device can't be merged into itself")
	got = d.post(t, page+"/merge", url.Values{"from": {former}})
	got.says(t, "Merged.", "has a crack")
	if len(got.all("section", "id", "formers")) != 0 {
		t.Error("it is offered again")
	}
	d.post(t, page+"/merge", url.Values{"from": {former}}).says(t, "There was nothing left to do")
	gone := d.ask(t, "GET", "/admin/devices/"+former+"/commands", nil)
	gone.says(t, "This record was merged")
	if href := gone.link(t, "Go to the present record"); href != page {
		t.Errorf("it leads to %s", href)
	}
}
