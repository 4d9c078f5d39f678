package main

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// hostile is what a device or a person could be called.
const hostile = `"><script>alert(1)</script>`

// deskClient is a server with an owner who is signed in to its administrators' pages.
type deskClient struct {
	*running
	client *http.Client
}

// startDesk starts a server of its own for a test of the administrators' pages. They are
// a client of the API, which is tested on each engine.
func startDesk(t *testing.T, args ...string) *deskClient {
	t.Helper()
	return startDeskBeside(t, elsewhere{}, args...)
}

// startDeskBeside is startDesk for a server that finds services of others elsewhere.
func startDeskBeside(t *testing.T, others elsewhere, args ...string) *deskClient {
	t.Helper()
	storagetest.AnyEngine(t)
	t.Parallel()
	s := startBeside(t, others, t.TempDir(), append(ownerArgs(t), args...)...)
	d := &deskClient{s, s.newClient(t)}
	d.signIn(t, ownerEmail, ownerPassword)
	return d
}

func (d *deskClient) signIn(t *testing.T, login, password string) {
	t.Helper()
	if got := d.send(t, d.client, "POST", "/admin/login", url.Values{"email": {login}, "password": {password}}); got.StatusCode != http.StatusSeeOther {
		t.Fatalf("%s can’t sign in: %d\n%s", login, got.StatusCode, got.body)
	}
}

// as returns the desk of somebody else, who has a role: read_only, helpdesk, admin.
func (d *deskClient) as(t *testing.T, role string) *deskClient {
	t.Helper()
	const password = "another long password"
	email := role + "@example.com"
	d.call(t, "POST", "/api/v1/users", map[string]any{"email": email, "password": password, "role": role}, &struct{}{})
	other := &deskClient{d.running, d.newClient(t)}
	other.signIn(t, email, password)
	return other
}

// get returns a page, which must answer 200, or lead to one that does.
func (d *deskClient) get(t *testing.T, path string) deskPage {
	t.Helper()
	page := d.ask(t, "GET", path, nil)
	for range 3 {
		if page.status == http.StatusSeeOther {
			page = d.ask(t, "GET", page.header.Get("Location"), nil)
		}
	}
	if page.status != http.StatusOK {
		t.Fatalf("GET %s = %d\n%s", path, page.status, page.text())
	}
	return page
}

// ask returns a page, whatever its status.
func (d *deskClient) ask(t *testing.T, method, path string, form url.Values) deskPage {
	t.Helper()
	return d.parse(t, d.send(t, d.client, method, path, form))
}

// post sends a form, follows the redirect that must answer it, and returns that page.
func (d *deskClient) post(t *testing.T, path string, form url.Values) deskPage {
	t.Helper()
	if form == nil {
		form = url.Values{}
	}
	got := d.send(t, d.client, "POST", path, form)
	if got.StatusCode != http.StatusSeeOther {
		t.Fatalf("POST %s = %d\n%s", path, got.StatusCode, d.parse(t, got).text())
	}
	return d.get(t, got.Header.Get("Location"))
}

func (d *deskClient) parse(t *testing.T, got reply) deskPage {
	t.Helper()
	root, err := html.Parse(strings.NewReader(got.body))
	if err != nil {
		t.Fatal(err)
	}
	return deskPage{got.Request.URL.RequestURI(), got.StatusCode, got.Header, got.body, root}
}

// deskPage is a page as a browser without scripts has it.
type deskPage struct {
	path   string
	status int
	header http.Header
	body   string
	root   *html.Node
}

// all returns the elements of a name whose attributes have values: all("input", "name",
// "typed"). An empty name is any.
func (p deskPage) all(name string, attributes ...string) (found []*html.Node) {
	for n := range p.root.Descendants() {
		if n.Type != html.ElementNode || name != "" && n.Data != name {
			continue
		}
		fits := true
		for i := 0; i < len(attributes); i += 2 {
			fits = fits && attributeOf(n, attributes[i]) == attributes[i+1]
		}
		if fits {
			found = append(found, n)
		}
	}
	return found
}

func attributeOf(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// textOf is what is read in n, with single spaces.
func textOf(n *html.Node) string {
	var out strings.Builder
	for c := range n.Descendants() {
		if c.Type == html.TextNode {
			out.WriteString(c.Data + " ")
		}
	}
	return strings.Join(strings.Fields(out.String()), " ")
}

// filled is what the form of the main part that has most fields would send as it is.
func (p deskPage) filled() url.Values {
	most := url.Values{}
	for _, form := range p.all("form") {
		values := url.Values{}
		for n := range form.Descendants() {
			name := attributeOf(n, "name")
			switch {
			case n.Type != html.ElementNode || name == "" || has(n, "disabled"):
			case n.Data == "textarea":
				values.Add(name, textIn(n))
			case n.Data == "select":
				chosen := ""
				for o := range n.Descendants() {
					if o.Data == "option" && has(o, "selected") {
						chosen = attributeOf(o, "value")
					}
				}
				values.Add(name, chosen)
			case n.Data == "input" && (attributeOf(n, "type") != "checkbox" && attributeOf(n, "type") != "radio" || has(n, "checked")):
				values.Add(name, attributeOf(n, "value"))
			}
		}
		if len(values) > len(most) {
			most = values
		}
	}
	return most
}

func has(n *html.Node, key string) bool {
	return slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == key })
}

// textIn is the text in n as it is.
func textIn(n *html.Node) string {
	var out strings.Builder
	for c := range n.Descendants() {
		if c.Type == html.TextNode {
			out.WriteString(c.Data)
		}
	}
	return out.String()
}

// text is what is read in the main part of the page.
func (p deskPage) text() string {
	for _, main := range p.all("main") {
		return textOf(main)
	}
	return p.body
}

// says fails the test where the main part does not say all of that.
func (p deskPage) says(t *testing.T, want ...string) {
	t.Helper()
	text := p.text()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%s does not say %q:\n%s", p.path, w, text)
		}
	}
}

// link returns where the link of that text leads.
func (p deskPage) link(t *testing.T, text string) string {
	t.Helper()
	for _, a := range p.all("a") {
		if strings.Contains(textOf(a), text) {
			return attributeOf(a, "href")
		}
	}
	t.Fatalf("%s has no link %q:\n%s", p.path, text, p.text())
	return ""
}

// escapes fails the test where a page shows the hostile name other than as text, or
// doesn't show it at all.
func (p deskPage) escapes(t *testing.T) {
	t.Helper()
	if !strings.Contains(p.root.Data+p.everything(), "alert(1)") {
		t.Errorf("%s does not show the hostile name, so this proves nothing", p.path)
	}
	for _, script := range p.all("script") {
		if attributeOf(script, "src") == "" {
			t.Errorf("%s runs %s", p.path, textOf(script))
		}
	}
	for n := range p.root.Descendants() {
		for _, a := range n.Attr {
			if strings.HasPrefix(a.Key, "on") || a.Key == "style" || (a.Key == "href" || a.Key == "src" || a.Key == "action") && strings.HasPrefix(strings.TrimSpace(strings.ToLower(a.Val)), "javascript:") {
				t.Errorf("%s has %s=%q", p.path, a.Key, a.Val)
			}
		}
	}
}

// everything is all text and all values of attributes.
func (p deskPage) everything() string {
	var out strings.Builder
	for n := range p.root.Descendants() {
		if n.Type == html.TextNode {
			out.WriteString(n.Data)
		}
		for _, a := range n.Attr {
			out.WriteString(a.Val)
		}
	}
	return out.String()
}

func TestTheDesk(t *testing.T) {
	d := startDesk(t)

	t.Run("nobody sees pages of others", func(t *testing.T) {
		stranger := &deskClient{d.running, d.newClient(t)}
		got := stranger.ask(t, "GET", "/admin/devices?q=x", nil)
		if got.status != http.StatusSeeOther || got.header.Get("Location") != "/admin/login?next=%2Fadmin%2Fdevices%3Fq%3Dx" {
			t.Errorf("without a session: %d %s", got.status, got.header.Get("Location"))
		}
		d.call(t, "POST", "/api/v1/users", map[string]any{"email": "person@example.com", "password": "another long password"}, &struct{}{})
		person := &deskClient{d.running, d.newClient(t)}
		person.signIn(t, "person@example.com", "another long password")
		got = person.ask(t, "GET", "/admin/devices", nil)
		if got.status != http.StatusForbidden {
			t.Errorf("without a role: %d", got.status)
		}
		if at := got.link(t, "second factor"); person.get(t, at).status != http.StatusOK {
			t.Errorf("a second factor is set up at %s", at)
		}
	})
	t.Run("what is not there says so inside of the frame", func(t *testing.T) {
		got := d.ask(t, "GET", "/admin/devices/nosuchdevice", nil)
		if got.status != http.StatusNotFound || len(got.all("nav", "aria-label", "Main")) != 1 {
			t.Errorf("%d\n%s", got.status, got.body)
		}
		got.says(t, "There is nothing here")
	})
	t.Run("a problem of the query keeps the way back", func(t *testing.T) {
		if got := d.ask(t, "GET", "/admin/devices?cursor=x", nil); got.status != http.StatusBadRequest {
			t.Errorf("a wrong cursor: %d", got.status)
		}
	})
	t.Run("nothing is kept by browsers, nor framed", func(t *testing.T) {
		got := d.get(t, "/admin/devices")
		if got.header.Get("Cache-Control") != "no-store" || got.header.Get("X-Frame-Options") != "DENY" || !strings.Contains(got.header.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
			t.Errorf("headers %v", got.header)
		}
	})
	t.Run("a theme stays in the browser", func(t *testing.T) {
		d.post(t, "/admin/theme", url.Values{"theme": {"dark"}})
		if got := d.get(t, "/admin/devices"); attributeOf(got.all("html")[0], "data-theme") != "dark" {
			t.Error("the page is not dark")
		}
		d.post(t, "/admin/theme", url.Values{"theme": {"none"}})
		if got := d.get(t, "/admin/devices"); attributeOf(got.all("html")[0], "data-theme") != "" {
			t.Error("the page does not follow the device")
		}
	})
	t.Run("the script gets the main part alone", func(t *testing.T) {
		got := d.send(t, d.client, "GET", "/admin/devices", nil, "Gatehouse-Part", "main")
		if got.StatusCode != http.StatusOK || strings.Contains(got.body, "<nav class=\"sections") || !strings.Contains(got.body, "data-live") {
			t.Errorf("%d\n%s", got.StatusCode, got.body)
		}
	})
	t.Run("the API takes no session from the network", func(t *testing.T) {
		if got := d.send(t, d.client, "GET", "/api/v1/devices", nil); got.StatusCode != http.StatusUnauthorized {
			t.Errorf("/api/v1/devices with a cookie = %d, want 401", got.StatusCode)
		}
	})
	t.Run("a form of another site is refused", func(t *testing.T) {
		if got := d.send(t, d.client, "POST", "/admin/theme", url.Values{"theme": {"dark"}}, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"); got.StatusCode != http.StatusForbidden {
			t.Errorf("= %d, want 403", got.StatusCode)
		}
	})
}
