package main

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestTheDeskOfSignInOnDevices(t *testing.T) {
	d := startDesk(t)
	const home = "/admin/enrollment/account-driven"
	reader := d.as(t, "read_only")

	d.get(t, home).says(t, "No domain yet")
	if got := reader.get(t, home); strings.Contains(got.body, "Add a domain") {
		t.Error("who may only read is offered to add a domain")
	}
	domain := url.Values{"domain": {"example.com"}, "policy.iPhone": {"byod"}, "policy.iPad": {"off"}, "policy.Mac": {"adde"}, "policy.RealityDevice": {"off"}, "message": {hostile}}

	t.Run("what is wrong stands at its field, and nothing typed is lost", func(t *testing.T) {
		wrong := url.Values{"domain": {"not a domain"}, "policy.iPhone": {"byod"}, "message": {"Ask the service desk"}}
		got := d.ask(t, "POST", home+"/domain", wrong)
		if got.status != http.StatusUnprocessableEntity || len(got.all("input", "aria-invalid", "true")) == 0 {
			t.Errorf("%d\n%s", got.status, got.text())
		}
		if kept := got.all("input", "name", "message"); len(kept) != 1 || attributeOf(kept[0], "value") != "Ask the service desk" {
			t.Error("what was typed is gone")
		}
	})
	t.Run("a domain leads to what its web server needs", func(t *testing.T) {
		got := d.post(t, home+"/domain", domain)
		got.says(t, "Web server of example.com", ".well-known/com.apple.remotemanagement")
	})
	t.Run("the list says how devices enroll", func(t *testing.T) {
		got := d.get(t, home)
		got.says(t, "example.com", "iPhone as personal devices", "Mac as the organisation’s devices")
		got.escapes(t)
	})
	t.Run("rules are kept beside domains", func(t *testing.T) {
		form := url.Values{"method": {"apple-oauth2"}, "token_idle": {"720h"}, "token_life": {"2160h"}, "access_life": {"1h"}, "token_expired": {"sign_in"},
			"token_revoked": {"unenroll"}, "user_disabled": {"unenroll"}, "minimum_os.iPhone": {"18.2"}}
		d.post(t, home+"/rules", form).says(t, "example.com", "OAuth 2", "90 days", "iPhone 18.2", "End the enrollment")
		form.Set("token_life", "long")
		form.Set("required_app_id", "many")
		got := d.ask(t, "POST", home+"/rules", form)
		if got.status != http.StatusUnprocessableEntity {
			t.Errorf("%d\n%s", got.status, got.text())
		}
	})
	t.Run("who may only read changes nothing", func(t *testing.T) {
		if got := reader.ask(t, "POST", home+"/domain", url.Values{"domain": {"other.example"}, "policy.iPhone": {"byod"}}); got.status != http.StatusForbidden {
			t.Errorf("= %d, want 403", got.status)
		}
	})
	t.Run("a domain is checked from here", func(t *testing.T) {
		got := d.ask(t, "POST", home+"/check", url.Values{"domain": {"nothing.invalid"}})
		if got.status != http.StatusOK {
			t.Fatalf("%d\n%s", got.status, got.text())
		}
		got.says(t, "don’t find this server yet")
	})
	t.Run("removing asks first", func(t *testing.T) {
		d.get(t, home+"/domain/remove?domain=example.com").says(t, "Remove example.com?", "stay so")
		d.post(t, home+"/domain/remove", url.Values{"domain": {"example.com"}}).says(t, "No domain yet")
	})
}

func TestTheDeskOfPortalTexts(t *testing.T) {
	d := startDesk(t)
	const home = "/admin/enrollment/portal"
	d.get(t, home).says(t, "See what people see", "English", "Deutsch")

	t.Run("a preview leads to the page as people see it", func(t *testing.T) {
		got := d.get(t, home+"/preview?screen=welcome&device=iphone-26&lang=de")
		if !strings.Contains(got.body, `lang="de"`) {
			t.Errorf("the page is not in German:\n%s", got.body)
		}
		if got := d.ask(t, "GET", home+"/preview?screen=../../me&device=iphone-26", nil); got.status != http.StatusNotFound {
			t.Errorf("a page that is none = %d", got.status)
		}
	})
	list := d.get(t, home+"/en?text=welcome")
	key := ""
	for _, a := range list.all("a") {
		if href := attributeOf(a, "href"); strings.HasPrefix(href, home+"/en/portal.welcome.") {
			key = href
			break
		}
	}
	if key == "" {
		t.Fatalf("no text of the first page is listed:\n%s", list.text())
	}
	t.Run("a text is looked at before it is kept, and taken back", func(t *testing.T) {
		shown := d.ask(t, "POST", key, url.Values{"text": {hostile}, "do": {"preview"}})
		shown.says(t, "As people see it")
		shown.escapes(t)
		kept := d.post(t, key, url.Values{"text": {hostile}, "do": {"save"}})
		kept.says(t, "Saved.")
		kept.escapes(t)
		d.get(t, home+"/en?own=true").escapes(t)
		back := d.post(t, key, url.Values{"text": {"whatever"}, "do": {"reset"}})
		if strings.Contains(back.everything(), "alert(1)") {
			t.Error("the operator's words are still there")
		}
	})
	t.Run("who may only read changes nothing", func(t *testing.T) {
		reader := d.as(t, "read_only")
		reader.get(t, key).says(t, "Administrators who are in charge of all devices change these texts.")
		if got := reader.ask(t, "POST", key, url.Values{"text": {"x"}, "do": {"save"}}); got.status != http.StatusForbidden {
			t.Errorf("= %d, want 403", got.status)
		}
	})
	if got := d.ask(t, "GET", home+"/xx", nil); got.status != http.StatusNotFound {
		t.Errorf("a language that is none = %d", got.status)
	}
}
