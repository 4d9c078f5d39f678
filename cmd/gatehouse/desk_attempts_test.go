package main

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestTheDeskOfAttempts(t *testing.T) {
	d := startDesk(t)
	const home = "/admin/enrollment/attempts"
	reader := d.as(t, "read_only")

	fresh := d.get(t, home)
	fresh.says(t, "Nobody has begun yet")
	if n := len(fresh.all("select")) + len(fresh.all("svg", "role", "img")); n != 0 {
		t.Errorf("a new server has %d filters and pictures of attempts", n)
	}

	var link struct {
		ID         string
		ProfileURL string `json:"profile_url"`
	}
	d.call(t, "POST", "/api/v1/enrollment-links", map[string]any{"name": "lab", "user": hostile, "login": "none"}, &link)
	profile, err := url.Parse(link.ProfileURL)
	if err != nil {
		t.Fatal(err)
	}
	if got := d.send(t, d.client, "GET", profile.Path, nil); got.StatusCode != http.StatusOK {
		t.Fatalf("the profile = %d", got.StatusCode)
	}

	t.Run("who is under way is listed, and counted", func(t *testing.T) {
		list := reader.get(t, home)
		list.escapes(t)
		list.says(t, "profile downloaded", "How far people came in the last 7 days", "Profile downloaded 1 100 %", "1 is there now")
		if len(list.body) > 100<<10 {
			t.Errorf("the page has %d bytes", len(list.body))
		}
		one := reader.get(t, list.link(t, "alert(1)"))
		one.escapes(t)
		one.says(t, "They are to install it", "profile downloaded", "not yet")
		if got := one.link(t, "The link they opened"); got != "/admin/enrollment/links/"+link.ID {
			t.Errorf("its link is %s", got)
		}
	})
	t.Run("filters", func(t *testing.T) {
		d.get(t, home+"?user="+url.QueryEscape(strings.ToUpper(hostile))+"&days=30").says(t, "in the last 30 days", "profile downloaded")
		d.get(t, home+"?link_id="+link.ID).says(t, "Only those of one link.")
		d.get(t, home+"?stage=enrolled").says(t, "Nothing matches")
		if got := d.ask(t, "GET", home+"?stage=gone", nil); got.status != http.StatusBadRequest {
			t.Errorf("a stage that is none = %d", got.status)
		}
	})
	t.Run("what stopped somebody is said, with what to do", func(t *testing.T) {
		d.post(t, "/admin/enrollment/links/"+link.ID+"/revoke", nil)
		list := d.get(t, home+"?stage=failed")
		list.says(t, "failed", "The link was revoked.", "GH-E104", "1 failed")
		d.get(t, list.link(t, "alert(1)")).says(t, "The link was revoked.", "Make another one", "GH-E104")
	})
	if got := d.ask(t, "GET", home+"/nosuchattempt", nil); got.status != http.StatusNotFound {
		t.Errorf("an attempt that is none = %d", got.status)
	}
}

func TestTheDeskConnectsToApple(t *testing.T) {
	d := startDesk(t)
	const home = "/admin/enrollment/account-driven/apple"
	admin, reader := d.as(t, "admin"), d.as(t, "read_only")

	page := d.get(t, d.get(t, "/admin/enrollment/account-driven").link(t, "See the connection"))
	page.says(t, "not connected", "Make the key")
	if got := reader.ask(t, "GET", home, nil); got.status != http.StatusForbidden {
		t.Errorf("for a reader = %d, want 403", got.status)
	}
	if got := admin.get(t, home); len(got.all("form", "action", home+"/key")) != 0 {
		t.Error("an admin is offered what an owner may do")
	}
	d.post(t, home+"/key", nil).says(t, "waits for Apple’s token", "Download the certificate")
	if got := d.ask(t, "GET", home+"/certificate", nil); got.status != http.StatusOK || !strings.Contains(got.body, "BEGIN CERTIFICATE") {
		t.Errorf("the certificate = %d", got.status)
	}
	if got := d.ask(t, "POST", home+"/token", url.Values{}); got.status != http.StatusUnprocessableEntity {
		t.Errorf("no token = %d", got.status)
	} else {
		got.says(t, "Choose the file")
	}
	d.get(t, home+"/remove").says(t, "Disconnect from Apple?")
	d.post(t, home+"/remove", nil).says(t, "not connected")
}
