package main

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/browsertest"
)

// furnish gives a server something to show on each page of its administrators.
func (d *deskClient) furnish(t *testing.T) {
	t.Helper()
	var device struct{ Items []struct{ ID string } }
	for deadline := time.Now().Add(time.Minute); len(device.Items) < 3; {
		if time.Now().After(deadline) {
			t.Fatal("the simulated devices did not come")
		}
		d.call(t, "GET", "/api/v1/devices?state=enrolled", nil, &device)
	}
	made := struct{}{}
	d.call(t, "POST", "/api/v1/enrollment-links", map[string]any{"name": "Berlin office", "uses": 20}, &made)
	d.call(t, "POST", "/api/v1/users", map[string]any{"email": "bea@example.com", "full_name": "Bea Cole", "role": "helpdesk", "password": "another long password"}, &made)
	d.call(t, "POST", "/api/v1/groups", map[string]any{"name": "Sales", "description": "iPhones of the sales team"}, &made)
	d.call(t, "POST", "/api/v1/certificate-templates", map[string]any{"name": "wifi", "subject": "/CN=$EMAIL"}, &made)
	d.call(t, "POST", "/api/v1/starter-templates/passcode", map[string]any{"identifier": "com.example.passcode"}, &made)
	d.call(t, "POST", "/api/v1/webhooks", map[string]any{"name": "Ticket system", "url": "https://17.253.144.10/hook"}, &made)
	d.call(t, "POST", "/api/v1/tokens", map[string]any{"name": "inventory script", "scopes": []string{"read_only"}}, &made)
	d.call(t, "POST", "/api/v1/commands", map[string]any{"request_type": "DeviceInformation", "params": map[string]any{"Queries": []string{"DeviceName", "OSVersion", "BatteryLevel"}},
		"device_ids": []string{device.Items[0].ID, device.Items[1].ID, device.Items[2].ID}}, &made)
}

// named is a part of an address that names one of many things of a kind.
var named = regexp.MustCompile(`^([0-9A-Fa-f-]{8,}|.*\d{3,}.*|[a-z0-9]{20,}|com\..*)$`)

// kindOf is an address without what says which thing of a kind it is about.
func kindOf(u *url.URL) string {
	parts := strings.Split(u.Path, "/")
	for i, p := range parts {
		if named.MatchString(p) {
			parts[i] = "*"
		}
	}
	return strings.Join(parts, "/")
}

// pages are the addresses of the desk that links lead to, from its first page on: one of
// each kind, so that no page has to be listed for its tests.
func (d *deskClient) pages(t *testing.T) (all []string) {
	t.Helper()
	known := map[string]bool{"/admin": true}
	queue := []string{"/admin"}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		got := d.ask(t, "GET", at, nil)
		kind, _, _ := strings.Cut(got.header.Get("Content-Type"), ";")
		if got.status == http.StatusSeeOther {
			if to, err := url.Parse(got.header.Get("Location")); err == nil && !known[kindOf(to)] && strings.HasPrefix(to.Path, "/admin") {
				known[kindOf(to)] = true
				queue = append(queue, to.RequestURI())
			}
			continue
		}
		if got.status != http.StatusOK {
			t.Errorf("a link leads to %s, which answers %d", at, got.status)
			continue
		}
		if kind != "text/html" {
			continue
		}
		all = append(all, at)
		if got.header.Get("Cache-Control") != "no-store" || !strings.Contains(got.header.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
			t.Errorf("%s may be kept, or shown in another site’s frame: %v", at, got.header)
		}
		if len(got.body) > 100<<10 {
			t.Errorf("%s has %d KB", at, len(got.body)>>10)
		}
		for _, a := range got.all("a") {
			to, err := url.Parse(attributeOf(a, "href"))
			if err != nil || to.Host != "" || !strings.HasPrefix(to.Path, "/admin") || known[kindOf(to)] {
				continue
			}
			known[kindOf(to)] = true
			queue = append(queue, to.RequestURI())
		}
	}
	slices.Sort(all)
	return all
}

// browserPages is how many pages one browser looks at: its patience is for all together.
const browserPages = 25

// TestEveryPageOfTheDeskIsSound looks at every page that a link leads to, on a phone in the
// dark and on a desktop in the light.
func TestEveryPageOfTheDeskIsSound(t *testing.T) {
	d := startDesk(t, "--demo", "3")
	d.furnish(t)
	pages := d.pages(t)
	for _, section := range []string{"/admin", "/admin/devices", "/admin/commands", "/admin/enrollment", "/admin/profiles", "/admin/certificates", "/admin/users", "/admin/settings", "/admin/audit"} {
		if !slices.ContainsFunc(pages, func(at string) bool {
			return at == section || strings.HasPrefix(at, section+"?") || strings.HasPrefix(at, section+"/")
		}) {
			t.Errorf("no link leads to %s", section)
		}
	}
	t.Logf("%d pages", len(pages))
	for name, size := range map[string]struct {
		width, height int64
		dark          bool
	}{"on a phone": {390, 844, true}, "on a desktop": {1280, 900, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var browser *browsertest.Browser
			for i, at := range pages {
				if i%browserPages == 0 {
					browser = browsertest.Open(t)
					browser.Screen(size.width, size.height, size.dark)
					d.signInBy(browser, ownerEmail, ownerPassword)
				}
				if size.width > 1000 && strings.Count(at, "/") > 3 {
					continue // what fits a phone fits a desktop, and time is short
				}
				browser.Go(d.url + at)
				browser.Check()
				browser.Quiet()
			}
		})
	}
}

// signInBy signs somebody in by the form, and waits for the first page.
func (d *deskClient) signInBy(browser *browsertest.Browser, login, password string) {
	browser.Go(d.url + "/admin/login")
	browser.Fill("input[name=email]", login)
	browser.Fill("input[name=password]", password)
	browser.Submit("form button[type=submit]")
	browser.Await(`location.pathname === "/admin"`)
}
