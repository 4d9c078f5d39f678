package main

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
)

func TestTheDeskOfEnrollment(t *testing.T) {
	d := startDesk(t)
	const home = "/admin/enrollment"
	reader, helper := d.as(t, "read_only"), d.as(t, "helpdesk")

	d.get(t, home).says(t, "/enroll", "Nobody yet.", "Invite people")
	d.get(t, home+"/links").says(t, "No links yet")
	d.get(t, home+"/invitations").says(t, "Nobody was invited yet")
	d.get(t, home+"/invitations/new")

	t.Run("a slip keeps what was typed", func(t *testing.T) {
		got := d.ask(t, "POST", home+"/links/new", url.Values{"name": {"lab"}, "ownership": {"institutional"}, "login": {"none"}, "uses": {"many"}, "expires_in": {"1h"}})
		if got.status != http.StatusUnprocessableEntity || len(got.all("input", "aria-invalid", "true")) != 1 {
			t.Errorf("%d\n%s", got.status, got.text())
		}
		if name := got.all("input", "name", "name"); len(name) != 1 || attributeOf(name[0], "value") != "lab" {
			t.Error("the name is gone")
		}
	})

	made := helper.post(t, home+"/links/new", url.Values{"name": {hostile}, "ownership": {"institutional"}, "login": {"none"}, "uses": {"2"}, "expires_in": {"1h"}})
	made.says(t, "Created.", "Scan it with the device’s camera", "2 of 2", "Nobody yet.")
	made.escapes(t)
	at := strings.TrimSuffix(strings.SplitN(made.path, "?", 2)[0], "/")

	t.Run("its picture is there for who may hand it out, and for nobody else", func(t *testing.T) {
		got := helper.ask(t, "GET", at+"/qr.svg", nil)
		if got.status != http.StatusOK || !strings.HasPrefix(got.header.Get("Content-Type"), "image/svg+xml") {
			t.Errorf("= %d %s", got.status, got.header.Get("Content-Type"))
		}
		if got := reader.ask(t, "GET", at+"/qr.svg", nil); got.status != http.StatusForbidden {
			t.Errorf("for a reader = %d, want 403", got.status)
		}
		page := reader.get(t, at)
		if strings.Contains(page.body, "/enroll/l/") || len(page.all("img")) > 0 {
			t.Error("a reader is shown the link")
		}
		page.escapes(t)
	})
	t.Run("who scans it is followed to the end", func(t *testing.T) {
		profile := strings.TrimSpace(textOf(made.all("code")[len(made.all("code"))-1]))
		if !strings.HasSuffix(profile, "/profile") {
			t.Fatalf("no profile address on the page: %q", profile)
		}
		device := d.phone(t, mdmtest.Options{Name: hostile})
		if err := device.Enroll(t.Context(), profile); err != nil {
			t.Fatal(err)
		}
		got := helper.get(t, at)
		got.says(t, "enrolled", "1 of 2")
		d.get(t, got.link(t, "Somebody")).says(t, "enrolled")
		d.get(t, got.link(t, "Device"))
		d.get(t, home).says(t, "enrolled")
	})
	t.Run("it is changed, and revoked", func(t *testing.T) {
		helper.post(t, at+"/edit", url.Values{"name": {"lab"}, "uses": {"9"}}).says(t, "lab", "8 of 9")
		helper.get(t, at+"/revoke").says(t, "Revoke lab?", "stay so")
		got := helper.post(t, at+"/revoke", nil)
		got.says(t, "revoked")
		if len(got.all("img")) > 0 {
			t.Error("a revoked link is still to be scanned")
		}
	})
	t.Run("a person at the desk gets a QR code of their own", func(t *testing.T) {
		d.call(t, "POST", "/api/v1/users", map[string]any{"email": "kim@example.com", "full_name": hostile}, &struct{}{})
		form := url.Values{"users": {"kim@example.com"}, "ownership": {"ask"}, "login": {"required"}, "expires_in": {"24h"}, "uses": {"1"}}
		d.post(t, home+"/invitations/new", form).says(t, "Scan it with the device’s camera", "kim@example.com")
		list := d.get(t, home+"/invitations")
		list.says(t, "1 not sent")
		form.Set("users", "kim@example.com\nnobody at all")
		wrong := d.ask(t, "POST", home+"/invitations/new", form)
		if wrong.status != http.StatusUnprocessableEntity || !strings.Contains(wrong.text(), "nobody at all") {
			t.Errorf("%d\n%s", wrong.status, wrong.text())
		}
	})
	t.Run("who may only read makes nothing", func(t *testing.T) {
		for _, path := range []string{home + "/links/new", home + "/invitations/new", at + "/edit", at + "/revoke"} {
			if got := reader.ask(t, "POST", path, url.Values{"name": {"x"}, "ownership": {"institutional"}, "login": {"none"}, "expires_in": {"1h"}}); got.status != http.StatusForbidden {
				t.Errorf("POST %s = %d, want 403", path, got.status)
			}
		}
	})
}
