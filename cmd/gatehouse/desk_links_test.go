package main

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
)

// anID is a part of a path that names one of many: their pages are alike.
var anID = regexp.MustCompile(`/([a-z2-7]{26}|[0-9A-F-]{36}|[0-9a-f]{16,})(/|$)`)

// TestNoLinkLeadsNowhere follows the links of the administrators' pages as somebody would
// who tries them all: each page answers, has one heading, says where it belongs, and none
// of its forms is sent anywhere else.
func TestNoLinkLeadsNowhere(t *testing.T) {
	d := startDesk(t)
	var made struct {
		ProfileURL string `json:"profile_url"`
	}
	d.call(t, "POST", "/api/v1/enrollment-links", map[string]any{"name": "first", "login": "none"}, &made)
	if err := d.phone(t, mdmtest.Options{}).Enroll(t.Context(), made.ProfileURL); err != nil {
		t.Fatal(err)
	}
	const most = 400
	seen, queue := map[string]bool{"/admin": true}, []string{"/admin"}
	from := map[string]string{}
	for len(queue) > 0 && len(seen) < most {
		path := queue[0]
		queue = queue[1:]
		got := d.ask(t, "GET", path, nil)
		if got.status == http.StatusSeeOther {
			got = d.ask(t, "GET", got.header.Get("Location"), nil)
		}
		if got.status != http.StatusOK {
			t.Errorf("%s = %d, linked from %s:\n%.500s", path, got.status, from[path], got.text())
			continue
		}
		if !strings.HasPrefix(got.header.Get("Content-Type"), "text/html") {
			continue // a file
		}
		if n := len(got.all("h1")); n != 1 {
			t.Errorf("%s has %d h1", path, n)
		}
		if nav := got.all("nav", "aria-label", "Main"); strings.HasPrefix(path, "/admin") && len(nav) != 1 {
			t.Errorf("%s has no navigation", path)
		}
		for _, form := range got.all("form") {
			if action := attributeOf(form, "action"); action != "" && !strings.HasPrefix(action, "/") {
				t.Errorf("%s sends a form to %s", path, action)
			}
		}
		for _, a := range got.all("a") {
			at, err := url.Parse(attributeOf(a, "href"))
			if err != nil {
				t.Errorf("%s links to %q", path, attributeOf(a, "href"))
				continue
			}
			if at.Host != "" || !strings.HasPrefix(at.Path, "/admin") || strings.HasSuffix(at.Path, "/logout") {
				continue
			}
			at.Fragment = ""
			like := anID.ReplaceAllString(at.Path, "/ID$2")
			for key := range at.Query() {
				like += "&" + key
			}
			if !seen[like] {
				seen[like] = true
				from[at.String()] = path
				queue = append(queue, at.String())
			}
		}
	}
	if len(seen) < 60 {
		t.Errorf("only %d pages were found", len(seen))
	}
}
