package main

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
)

func TestTheDeskOfEnrollment(t *testing.T) {
	d := startDesk(t)
	const home = "/admin/enrollment"
	reader, helper := d.as(t, "read_only"), d.as(t, "helpdesk")

	first := d.get(t, home)
	first.says(t, "/enroll", "Nobody yet.", "Enroll a person", "Invite people")
	for name, page := range map[string]deskPage{"the overview": first, "the empty list of devices": d.get(t, "/admin/devices"), "that of a reader": reader.get(t, "/admin/devices")} {
		page.says(t, d.url+"/enroll")
		if len(page.all("img", "src", home+"/qr.svg")) != 1 {
			t.Errorf("%s has no QR code of the portal", name)
		}
	}
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
		d.get(t, got.link(t, "Not signed in")).says(t, "enrolled")
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
	t.Run("a new person gets an account and a QR code by one form", func(t *testing.T) {
		d.get(t, home+"/people/new").says(t, "No mail server is set up")
		form := url.Values{"once": {"person-1"}, "email": {"new@example.com"}, "full_name": {hostile}, "ownership": {"ask"}, "login": {"none"}, "expires_in": {"24h"}}
		page := d.post(t, home+"/people/new", form)
		page.escapes(t)
		page.says(t, "Created.", "not opened yet", "new@example.com", "/enroll/l/", "It signs in as", "For 1 device", "opened the page waiting")
		if strings.Contains(page.text(), "already") {
			t.Error("the new account is taken for an old one")
		}
		again := d.post(t, home+"/people/new", form)
		if at, _, _ := strings.Cut(again.path, "?"); !strings.HasPrefix(page.path, at) {
			t.Errorf("sent twice it leads to %s, then to %s", page.path, at)
		}
		again.says(t, "There was an account with this address already")
		var users struct{ Items []struct{ ID string } }
		d.call(t, "GET", "/api/v1/users?q=new@example.com", nil, &users)
		if len(users.Items) != 1 {
			t.Errorf("there are %d accounts", len(users.Items))
		}
		d.get(t, page.link(t, "Account of")).says(t, "new@example.com", "Enroll a device")

		at, _, _ := strings.Cut(page.path, "?")
		if got := helper.get(t, at); strings.Contains(got.body, "/enroll/l/") || len(got.all("img")) != 0 {
			t.Error("the helpdesk is shown a link that signs somebody in")
		}
		d.post(t, home+"/invitations/"+strings.TrimPrefix(at, home+"/people/")+"/revoke", nil)
		over := d.get(t, at)
		over.says(t, "The link was revoked.", "Make another")
		if len(over.all("img")) > 0 {
			t.Error("a revoked link is still to be scanned")
		}
	})
	t.Run("a slip in enrolling a person is said at its field, and loses nothing", func(t *testing.T) {
		for name, tt := range map[string]struct {
			by    *deskClient
			email string
			with  url.Values
			at    string // the field
			says  string
		}{
			"no address":                     {d, "", nil, "email", "is needed"},
			"a wrong one":                    {d, "no address", nil, "email", "must be"},
			"no ownership":                   {d, "slip@example.com", url.Values{"ownership": {""}}, "ownership", "must be one of these"},
			"no way to sign in":              {d, "slip@example.com", url.Values{"login": {""}}, "login", "must be one of these"},
			"no account to sign in with":     {d, "slip@example.com", url.Values{"login": {"required"}}, "email", "Let the link sign them in"},
			"nor one that helpdesk makes":    {helper, "slip@example.com", url.Values{"login": {"required"}}, "email", "An administrator can make the account."},
			"a link that helpdesk may not":   {helper, "kim@example.com", nil, "login", "only administrators"},
			"mail without a server":          {d, "slip@example.com", url.Values{"send": {"true"}}, "send", "needs a mail server"},
			"an account that may not enroll": {d, "gone@example.com", nil, "email", "may not enroll"},
		} {
			t.Run(name, func(t *testing.T) {
				if tt.email == "gone@example.com" {
					d.call(t, "POST", "/api/v1/users", map[string]any{"email": tt.email, "can_enroll": false}, &struct{}{})
				}
				key := url.PathEscape(name)
				form := url.Values{"once": {key}, "email": {tt.email}, "full_name": {"Kept"}, "ownership": {"personal"}, "login": {"none"}, "expires_in": {"1h"}}
				for name, values := range tt.with {
					form[name] = values
				}
				got := tt.by.ask(t, "POST", home+"/people/new", form)
				if got.status != http.StatusUnprocessableEntity {
					t.Fatalf("= %d\n%s", got.status, got.text())
				}
				got.says(t, tt.says)
				if len(got.all("", "aria-invalid", "true", "aria-describedby", "f-"+tt.at+"-error")) == 0 && len(got.all("", "aria-invalid", "true", "aria-describedby", "f-"+tt.at+"-hint f-"+tt.at+"-error")) == 0 {
					t.Errorf("the field %s is not marked", tt.at)
				}
				if kept := got.all("input", "name", "email"); attributeOf(kept[0], "value") != tt.email {
					t.Error("the address is gone")
				}
				if once := got.all("input", "name", "once"); attributeOf(once[0], "value") == key {
					t.Error("what is mended would be taken for the same request")
				}
			})
		}
		var users struct{ Items []struct{ ID string } }
		d.call(t, "GET", "/api/v1/users?q=slip@example.com", nil, &users)
		if len(users.Items) != 0 {
			t.Error("a slip has made an account")
		}
	})
	t.Run("who has an account signs in", func(t *testing.T) {
		page := helper.get(t, home+"/people/new")
		if off := page.all("input", "name", "login", "value", "none"); len(off) != 1 || !slices.ContainsFunc(off[0].Attr, func(a html.Attribute) bool { return a.Key == "disabled" }) {
			t.Error("the helpdesk is offered a link that signs somebody in")
		}
		form := url.Values{"email": {"kim@example.com"}, "ownership": {"institutional"}, "login": {"required"}, "expires_in": {"1h"}}
		helper.post(t, home+"/people/new", form).says(t, "kim@example.com", "The portal asks", "/enroll/l/")
	})
	t.Run("who has none here signs in at a directory", func(t *testing.T) {
		d.call(t, "POST", "/api/v1/identity-providers", map[string]any{
			"name": "Directory", "kind": "ldap", "settings": map[string]any{"urls": []string{"ldaps://127.0.0.1:9"}, "base_dn": "dc=example,dc=org"},
		}, &struct{}{})
		d.call(t, "PATCH", "/api/v1/settings", map[string]any{"mail": map[string]any{"host": "127.0.0.1", "port": 1, "encryption": "none", "from": "it@example.com"}}, &struct{}{})
		form := url.Values{"email": {"lee@example.com"}, "ownership": {"institutional"}, "login": {"required"}, "expires_in": {"1h"}, "send": {"true"}}
		d.post(t, home+"/people/new", form).says(t, "Mail to lee@example.com", "on its way", "The portal asks lee@example.com to sign in")
		var users struct{ Items []struct{ ID string } }
		d.call(t, "GET", "/api/v1/users?q=lee@example.com", nil, &users)
		if len(users.Items) != 0 {
			t.Error("there is an account that the directory knows nothing of")
		}
	})
	t.Run("who is limited to groups learns why, and whom to ask", func(t *testing.T) {
		var group struct{ ID string }
		d.call(t, "POST", "/api/v1/groups", map[string]any{"name": "Sales"}, &group)
		d.call(t, "POST", "/api/v1/users", map[string]any{"email": "sales@example.com", "password": "another long password", "role": "admin", "group_ids": []string{group.ID}}, &struct{}{})
		limited := &deskClient{d.running, d.newClient(t)}
		limited.signIn(t, "sales@example.com", "another long password")
		const whom = "Ask an administrator whose role is not limited"
		over := limited.get(t, home)
		over.says(t, whom)
		for _, a := range over.all("a") {
			if to := attributeOf(a, "href"); strings.HasPrefix(to, "/admin/") && to != "/admin/enrollment/qr.svg" {
				if got := limited.ask(t, "GET", to, nil); got.status != http.StatusOK && strings.HasPrefix(to, home) {
					t.Errorf("a link leads to %s, which answers %d", to, got.status)
				}
			}
		}
		for _, form := range []string{"/links/new", "/invitations/new", "/people/new"} {
			page := limited.get(t, home+form)
			page.says(t, whom)
			if buttons := page.all("main"); strings.Contains(textOf(buttons[0]), "takes the role helpdesk") {
				t.Errorf("%s asks for a role that they have", form)
			}
		}
		for _, path := range []string{"/links", "/invitations", at[len(home):], at[len(home):] + "/edit", at[len(home):] + "/qr.svg"} {
			got := limited.ask(t, "GET", home+path, nil)
			if got.status != http.StatusForbidden {
				t.Errorf("%s = %d", path, got.status)
			}
			got.says(t, whom)
		}
		limited.get(t, "/admin/devices").says(t, "none is in them yet")
	})
	t.Run("who may only read makes nothing", func(t *testing.T) {
		for _, path := range []string{home + "/links/new", home + "/invitations/new", home + "/people/new", at + "/edit", at + "/revoke"} {
			if got := reader.ask(t, "POST", path, url.Values{"name": {"x"}, "ownership": {"institutional"}, "login": {"none"}, "expires_in": {"1h"}}); got.status != http.StatusForbidden {
				t.Errorf("POST %s = %d, want 403", path, got.status)
			}
		}
	})
}
