package main

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
)

func TestTheServersLogOnAPage(t *testing.T) {
	const at = "/admin/audit/log"
	d := startDesk(t)
	devices, ids := d.enrolled(t, mdmtest.Options{Name: hostile, OSVersion: "26.1"})
	d.poll(t, devices...)

	if got := d.get(t, at+"?q=invalid"); len(got.all("tr")) > 0 {
		t.Errorf("something is invalid: %s", got.text())
	}
	d.get(t, at).says(t, "enrolled", "authorities created", "Info", "Debug")
	got := d.get(t, at+"?"+url.Values{"q": {strings.ToUpper(ids[0])}, "level": {"info"}}.Encode())
	got.says(t, "enrolled", ids[0])
	if got.link(t, ids[0]) != "/admin/devices/"+ids[0] {
		t.Error("a device in a line is no way to it")
	}
	if strings.Contains(got.text(), "authorities created") || strings.Contains(got.text(), "Debug") {
		t.Error("a filter lets other lines through")
	}
	got = d.get(t, at+"?"+url.Values{"q": {hostile}}.Encode())
	got.says(t, "No line fits")
	got.escapes(t)
	d.get(t, at+"?level=error").says(t, "No line fits", "Only the newest lines")
	if got := d.ask(t, "GET", at+"?level=loud", nil); got.status != http.StatusBadRequest {
		t.Errorf("a level that there is not = %d", got.status)
	}
	for range 100 { // each is a line
		d.running.get(t, "/livez")
	}
	second := d.get(t, d.get(t, at).link(t, "Next page"))
	if second.says(t, "First page"); len(second.all("main", "data-every", "5")) > 0 {
		t.Error("an older page does not stand still")
	}

	var attempts struct{ Items []struct{ ID string } }
	d.call(t, "GET", "/api/v1/enrollment-attempts", nil, &attempts)
	attempt := d.get(t, "/admin/enrollment/attempts/"+attempts.Items[0].ID)
	d.get(t, attempt.link(t, "What the server logged of it")).says(t, "enrollment profile handed out", "identity issued")

	helper := d.as(t, "helpdesk")
	if got := helper.ask(t, "GET", at, nil); got.status != http.StatusForbidden {
		t.Errorf("helpdesk reads the log: %d", got.status)
	}
	if got := helper.get(t, "/admin/audit"); strings.Contains(got.text(), "Server log") {
		t.Error("who may not read the log is led to it")
	}
}
