package main

import (
	"strings"
	"testing"
)

func TestTheFirstPageSaysWhatToDoNext(t *testing.T) {
	d := startDesk(t)
	p := d.get(t, "/admin")
	p.says(t, "There is no push certificate", "Set up this server", "Enroll the first device", "Add a second owner", "No devices yet.", "What ends when", ownerEmail+" signed in from 127.0.0.1, with a password.")
	if got := p.link(t, "Get it"); got != "/admin/settings/push" {
		t.Errorf("the push certificate is to be had at %s", got)
	}
	if strings.Contains(p.text(), "What needs somebody") || strings.Contains(p.text(), "Nothing needs you") || strings.Count(p.text(), "There is no push certificate") != 1 {
		t.Errorf("what is to be done is not said once:\n%s", p.text())
	}
	if strings.Contains(p.text(), "Last seen") {
		t.Error("of no devices it is drawn when they were last seen")
	}
	if got := p.link(t, "Enroll a device"); got != "/admin/enrollment" {
		t.Errorf("a device is enrolled at %s", got)
	}
	if n := len(p.all("svg", "role", "img")); n != 1 {
		t.Errorf("of a new server there are %d pictures, want that of what ends", n)
	}
	if len(p.body) > 100<<10 {
		t.Errorf("the page has %d bytes", len(p.body))
	}

	d.call(t, "POST", "/api/v1/enrollment-links", map[string]any{"name": hostile}, &struct{}{})
	d.call(t, "POST", "/api/v1/users", map[string]any{"username": "o", "email": "second@example.com", "password": "another long password", "role": "owner"}, &struct{}{})
	p = d.get(t, "/admin")
	p.escapes(t)
	p.says(t, "Done Add a second owner", "made the enrollment link", "The command line made the user second@example.com .")

	reader := d.as(t, "read_only").get(t, "/admin")
	reader.says(t, "Set up this server", "There is no push certificate")
	for _, a := range reader.all("a") {
		if href := attributeOf(a, "href"); strings.HasSuffix(href, "/new") {
			t.Errorf("who only reads is led to %s", href)
		}
	}

	var group struct{ ID string }
	d.call(t, "POST", "/api/v1/groups", map[string]any{"name": "Sales"}, &group)
	d.call(t, "POST", "/api/v1/users", map[string]any{"email": "sales@example.com", "password": "another long password", "role": "helpdesk", "group_ids": []string{group.ID}}, &struct{}{})
	limited := &deskClient{d.running, d.newClient(t)}
	limited.signIn(t, "sales@example.com", "another long password")
	limited.get(t, "/admin").says(t, "Day by day", "there are no pictures of them for your groups", "Failed commands")
}
