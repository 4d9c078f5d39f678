package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
)

// named is a part of an address that names one of many things of a kind: an id, a text of the
// portal, a language, an authority, or what a test has made.
var named = regexp.MustCompile(`^([0-9A-Fa-f-]{8,}|.*\d{3,}.*|[a-z0-9]{20,}|.*\..*|[a-z]{2}|identity|root|payload)$`)

// kindOf is an address without what says which thing of a kind it is about, and with what it
// asks for.
func kindOf(u *url.URL) string {
	parts := strings.Split(u.Path, "/")
	for i, p := range parts {
		if named.MatchString(p) {
			parts[i] = "*"
		}
	}
	asked := make([]string, 0, 4)
	for name := range u.Query() {
		if name != "done" {
			asked = append(asked, name)
		}
	}
	slices.Sort(asked)
	return strings.TrimSuffix(strings.Join(parts, "/")+"?"+strings.Join(asked, "&"), "?")
}

// linkedPage is a page of a walk, and that which leads to it.
type linkedPage struct {
	deskPage
	from string
}

// walk follows the links of the desk from its first page on, to one page of each kind, and
// returns all that answered with HTML, whatever the status.
func (d *deskClient) walk(t *testing.T) (all []linkedPage) {
	t.Helper()
	type link struct{ to, from string }
	known := map[string]bool{"/admin": true, "/admin/welcome": true}
	queue := []link{{"/admin", ""}, {"/admin/welcome", ""}} // the second is where setup leads to
	follow := func(address, from string) {
		to, err := url.Parse(address)
		if err != nil {
			t.Errorf("%s leads to %q", from, address)
			return
		}
		if to.Host != "" || !strings.HasPrefix(to.Path, "/admin") || known[kindOf(to)] {
			return
		}
		known[kindOf(to)] = true
		queue = append(queue, link{to.RequestURI(), from})
	}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		got := d.ask(t, "GET", at.to, nil)
		if got.status == http.StatusSeeOther {
			follow(got.header.Get("Location"), at.to)
			continue
		}
		if kind := got.header.Get("Content-Type"); !strings.HasPrefix(kind, "text/html") {
			if got.status != http.StatusOK {
				t.Errorf("%s leads to %s, a file that answers %d", at.from, at.to, got.status)
			}
			continue
		}
		all = append(all, linkedPage{got, at.from})
		for _, a := range got.all("a") {
			if href := attributeOf(a, "href"); href != "" {
				follow(href, at.to)
			}
		}
	}
	slices.SortFunc(all, func(a, b linkedPage) int { return cmp.Compare(a.path, b.path) })
	return all
}

// pages are the addresses of a walk without their filters: one of each kind, so that no page
// has to be listed for its tests.
func (d *deskClient) pages(t *testing.T) (all []string) {
	t.Helper()
	seen := map[string]bool{}
	for _, p := range d.walk(t) {
		at, err := url.Parse(p.path)
		must(t, err)
		kind, _, _ := strings.Cut(kindOf(at), "?")
		if p.status != http.StatusOK {
			t.Errorf("%s leads to %s, which answers %d", p.from, p.path, p.status)
			continue
		}
		if !seen[kind] {
			seen[kind] = true
			all = append(all, p.path)
		}
	}
	return all
}

// deceiving is a name that would run a script, and turn around what stands beside it.
const deceiving = hostile + "\u202eenohPi s’anA\u200d!"

// deceivers are the ends of names that fill gives: each must be shown somewhere.
var deceivers = []string{"phone", "Mac", "lobby", "link", "Bea", "invitation", "token", "webhook", "organisation", "directory", "OpenID", "profile", "batch", "app", "failure"}

// confidences are secrets of a server: what they are, by what they say.
type confidences map[string]string

// lies is a device whose apps and errors have names that deceive.
func lies(_ context.Context, _ *mdmtest.Channel, cmd *mdmtest.Command, own func() mdmtest.Result) mdmtest.Result {
	switch cmd.RequestType {
	case "InstalledApplicationList":
		return mdmtest.Result{Status: mdmtest.StatusAcknowledged, Keys: mdmtest.Dict{"InstalledApplicationList": []any{
			mdmtest.Dict{"Identifier": "com.example.app", "Name": deceiving + " app", "Version": deceiving},
		}}}
	case "RestartDevice":
		text := deceiving + " failure"
		return mdmtest.Result{Status: mdmtest.StatusError, Keys: mdmtest.Dict{"ErrorChain": []any{
			mdmtest.Dict{"ErrorCode": 1, "ErrorDomain": "X", "LocalizedDescription": text, "USEnglishDescription": text},
		}}}
	}
	return own()
}

// fill gives a server something of each kind that pages show, with names that deceive and
// with all the secrets that there are.
func (d *deskClient) fill(t *testing.T) (secrets confidences, group string) {
	t.Helper()
	secrets = confidences{}
	secret := func(what string) string {
		text := strings.ReplaceAll(what, " ", "-") + "-" + rand.Text()
		secrets[text] = what
		return text
	}
	var made struct {
		ID, Token, URL, Secret string
		UUID                   string `json:"command_uuid"`
	}
	create := func(path string, in map[string]any) string {
		t.Helper()
		made.ID, made.UUID = "", ""
		d.call(t, "POST", "/api/v1/"+path, in, &made)
		return cmp.Or(made.ID, made.UUID)
	}
	// Nothing shall be asked of devices by itself while the pages are walked over.
	d.call(t, "PATCH", "/api/v1/settings", map[string]any{"inventory": map[string]any{"first_after": "168h"}}, &made)
	devices, ids := d.enrolled(t,
		mdmtest.Options{Name: deceiving + "\nphone", Serial: "PHONE00001", OSVersion: "26.1", Supervised: true, Handler: lies},
		mdmtest.Options{Model: mdmtest.Mac, Name: deceiving + " Mac", Serial: "MAC000001", OSVersion: "26.1"},
	)
	secrets[base64.StdEncoding.EncodeToString(devices[0].UnlockToken())] = "unlock token"
	for _, id := range ids {
		d.call(t, "POST", "/api/v1/devices/"+id+"/refresh", map[string]any{}, &struct{}{})
	}
	d.poll(t, devices...)
	d.call(t, "PATCH", "/api/v1/devices/"+ids[0], map[string]any{"note": deceiving}, &made)
	group = create("groups", map[string]any{"name": hostile + " lobby", "description": hostile, "rule": "platform=ios"})
	create("enrollment-links", map[string]any{"name": hostile + " link", "uses": 20})
	link := strings.TrimPrefix(made.URL, d.url)
	create("users", map[string]any{"email": "bea@example.com", "full_name": hostile + " Bea", "role": "helpdesk", "password": secret("password of a user")})
	d.call(t, "PATCH", "/api/v1/settings", map[string]any{
		"organisation": map[string]any{"name": hostile + " organisation"},
		"mail":         map[string]any{"host": "127.0.0.1", "port": 1, "encryption": "tls", "username": "it", "password": secret("password for mail"), "from": "it@example.com"},
	}, &made)
	create("enrollment-invitations", map[string]any{"name": hostile + " invitation", "emails": []string{"ana@example.com"}, "message": hostile})
	create("tokens", map[string]any{"name": hostile + " token", "scopes": []string{"read_only"}})
	secrets[made.Token] = "API token"
	create("webhooks", map[string]any{"name": hostile + " webhook", "url": "https://127.0.0.1:1/hook", "allow_private": true, "enabled": false,
		"secret": secret("secret of a webhook"), "headers": map[string]string{"Authorization": secret("header of a webhook")}})
	create("identity-providers", map[string]any{"kind": "ldap", "name": hostile + " directory", "uses": []string{"institutional"}, "settings": map[string]any{
		"urls": []string{"ldaps://127.0.0.1:1"}, "base_dn": "dc=example,dc=com", "bind_dn": "cn=x", "bind_password": secret("password of a directory")}})
	create("identity-providers", map[string]any{"kind": "oidc", "name": hostile + " OpenID", "uses": []string{"personal"}, "settings": map[string]any{
		"issuer": "https://127.0.0.1:1", "client_id": "x", "client_secret": secret("client secret"), "allow_private": true}})
	create("certificate-templates", map[string]any{"name": "wifi", "subject": "/CN=" + strings.ReplaceAll(deceiving, "/", `\/`), "notes": hostile, "challenge_type": "static", "challenge": secret("SCEP challenge")})
	create("certificate-templates", map[string]any{"name": "elsewhere2000", "subject": "/CN=x", "issuer": "external", "upstream": map[string]any{
		"url": "https://127.0.0.1:1/scep", "allow_private": true, "challenge_type": "dynamic", "challenge_url": "https://127.0.0.1:1/", "username": "x", "password": secret("password at another authority")}})
	profile := giveProfile(t, d, strings.Replace(wifiProfile(hostile+" profile", "com.example.office", hostile), "the-very-secret", secret("Wi-Fi password"), 1), "keep", nil)
	if profile.status != http.StatusSeeOther {
		t.Fatalf("no profile: %d\n%s", profile.status, profile.text())
	}
	at, _, _ := strings.Cut(strings.TrimPrefix(profile.header.Get("Location"), "/admin/profiles/"), "?")
	create("profiles/"+at+"/send", map[string]any{"device_ids": ids[:1]})
	create("certificate-templates/wifi/send", map[string]any{"device_ids": ids[:1]})
	create("commands", map[string]any{"request_type": "DeviceLock", "device_ids": ids[1:], "params": map[string]any{"PIN": "482913", "Message": deceiving}, "confirm": true})
	secrets["482913"] = "PIN of a lock"
	create("commands", map[string]any{"request_type": "RestartDevice", "device_ids": ids[:1]})
	create("batches", map[string]any{"name": hostile + " batch", "device_ids": ids, "commands": []any{map[string]any{"request_type": "SecurityInfo"}}})
	d.poll(t, devices...)
	create("commands", map[string]any{"request_type": "DeviceInformation", "device_ids": ids, "params": map[string]any{"Queries": []string{"DeviceName"}}})

	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	secrets[string(keyPEM[len(keyPEM)/2:len(keyPEM)/2+40])] = "key of a vendor"
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(1, 0, 0), Subject: pkix.Name{CommonName: "MDM Vendor: " + hostile}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	d.call(t, "PUT", "/api/v1/push-vendor-certificate", map[string]any{
		"file": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), "key": keyPEM}, &made)
	create("push-certificate-requests", map[string]any{"kind": "csr", "apple_account": hostile})

	// Somebody who gets no further than the first page of a link, and somebody who guesses.
	d.send(t, d.newClient(t), "GET", link, nil)
	guess := secret("guessed password")
	d.send(t, d.newClient(t), "POST", "/admin/login", url.Values{"email": {deceiving}, "password": {guess}})
	return secrets, group
}

// in reports the secrets in a text, and private keys of whatever kind.
func (c confidences) in(t *testing.T, where, text string) {
	t.Helper()
	for secret, what := range c {
		for _, form := range []string{secret, html.EscapeString(secret), url.QueryEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret)), fmt.Sprintf("%x", secret)} {
			if strings.Contains(text, form) {
				t.Errorf("%s shows the %s", where, what)
				break
			}
		}
	}
	if strings.Contains(text, "PRIVATE KEY") {
		t.Errorf("%s shows a private key", where)
	}
}

// restless are the buckets that a server writes by itself: when somebody was last seen, what
// waits to be done, and what is counted and chained after it has happened.
var restless = regexp.MustCompile(`^(webui\.sessions|seen|storage|event\.(chain|mark|new|days|log\.by)|commands\.|mdm\.|inventory|webhook\.(cursor|turn|remain)|enroll\.(mail_outbox|invitation)|identity\.login_failures|expiring_told|crl|ocsp)`)

// growing are those whose records are finished later: of them it counts which there are.
var growing = regexp.MustCompile(`^(event\.log|commands)/`)

// holds is what the server's database holds, by bucket and key.
func (d *deskClient) holds(t *testing.T) map[string]string {
	t.Helper()
	all, err := map[string]string{}, errors.New("not read yet")
	for range 20 { // a copy that was made while the server wrote may be none
		if err = d.readHeld(t, all); err == nil {
			return all
		}
		clear(all)
	}
	t.Fatal(err)
	return nil
}

func (d *deskClient) readHeld(t *testing.T, all map[string]string) error {
	content, err := os.ReadFile(filepath.Join(d.dir, "gatehouse.db"))
	must(t, err)
	copied := filepath.Join(t.TempDir(), "copy.db")
	must(t, os.WriteFile(copied, content, 0o600))
	f, err := bolt.OpenForeign(t.Context(), copied)
	if err != nil {
		return err
	}
	defer func() { must(t, f.Close()) }()
	buckets, err := f.Buckets()
	if err != nil {
		return err
	}
	for _, bucket := range buckets {
		for item, err := range f.All(bucket) {
			if err != nil {
				return err
			}
			key, value := bucket+"/"+string(item.Key), string(item.Value)
			if strings.Contains(value, `"action":"audit.anchored"`) {
				continue // the log anchors itself
			}
			if growing.MatchString(key) {
				value = "is there"
			}
			if !restless.MatchString(key) {
				all[key] = value
			}
		}
	}
	return nil
}

// differs reports what is not as it was.
func differs(t *testing.T, before, after map[string]string) {
	t.Helper()
	for key, value := range after {
		if was, ok := before[key]; !ok || was != value {
			t.Errorf("%q was %.300q, and is %.300q", key, was, value)
		}
	}
	for key := range before {
		if _, ok := after[key]; !ok {
			t.Errorf("%q is gone", key)
		}
	}
}

// TestEveryPageOfTheDesk looks at every page that a link leads to, as whoever it is shown to.
func TestEveryPageOfTheDesk(t *testing.T) {
	d := startDesk(t)
	secrets, group := d.fill(t)
	const password = "another long password"
	d.call(t, "POST", "/api/v1/users", map[string]any{"email": "limited@example.com", "password": password, "role": "admin", "group_ids": []string{group}}, &struct{}{})
	limited := &deskClient{d.running, d.newClient(t)}
	limited.signIn(t, "limited@example.com", password)
	who := []struct {
		name string
		desk *deskClient
	}{{"owner", d}, {"admin", d.as(t, "admin")}, {"helpdesk", d.as(t, "helpdesk")}, {"read_only", d.as(t, "read_only")}, {"limited", limited}}

	before := d.holds(t)
	seen := map[string][]linkedPage{}
	for _, is := range who {
		seen[is.name] = is.desk.walk(t)
		if len(seen[is.name]) < 40 {
			t.Errorf("%s is led to %d pages only", is.name, len(seen[is.name]))
		}
	}
	after := d.holds(t)

	t.Run("a look changes nothing", func(t *testing.T) { differs(t, before, after) })
	shown := map[string]bool{} // names that deceive
	actions := map[string]bool{}
	for _, is := range who {
		t.Run("as "+is.name, func(t *testing.T) {
			for _, p := range seen[is.name] {
				p.isSound(t)
				secrets.in(t, p.path, p.body)
				p.isPlain(t, shown)
				for _, form := range p.all("form") {
					action := attributeOf(form, "action")
					if attributeOf(form, "method") == "dialog" {
						continue // is sent nowhere
					}
					posts := attributeOf(form, "method") == "post"
					if (posts || action != "") && (!strings.HasPrefix(action, "/") || strings.HasPrefix(action, "//")) {
						t.Errorf("%s sends a form to %q", p.path, action)
					}
					if posts {
						actions[action] = true
					}
				}
			}
		})
	}
	for _, what := range append(slices.Clone(deceivers), "MDM Vendor") {
		if !shown[what] {
			t.Errorf("no page shows the name of the %s", what)
		}
	}
	t.Run("no form is taken from another site", func(t *testing.T) {
		before := d.holds(t)
		if len(actions) < 40 {
			t.Errorf("there are %d forms only", len(actions))
		}
		for action := range actions {
			for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://elsewhere.example"}} {
				if got := d.send(t, d.client, "POST", action, url.Values{"typed": {"x"}}, header...); got.StatusCode != http.StatusForbidden {
					t.Errorf("POST %s with %s = %d, want 403", action, header, got.StatusCode)
				}
			}
		}
		differs(t, before, d.holds(t))
	})
	for _, is := range who[1:] {
		t.Run("what is not shown to "+is.name+" is refused", func(t *testing.T) {
			before, refused := d.holds(t), 0
			shown := map[string]bool{}
			for _, p := range seen[is.name] {
				for _, form := range p.all("form", "method", "post") {
					if slices.ContainsFunc(within(form, "button"), isEnabled) {
						shown[kindOf(actionOf(t, form))] = true
					}
				}
			}
			for _, p := range seen["owner"] {
				for _, form := range p.all("form", "method", "post") {
					action := actionOf(t, form)
					if shown[kindOf(action)] || len(within(form, "button")) == 0 {
						continue
					}
					values := filledIn(form)
					for _, input := range within(form, "input") {
						if word := attributeOf(input, "data-typed"); word != "" {
							values.Set(attributeOf(input, "name"), word)
						}
					}
					refused++
					if got := is.desk.ask(t, "POST", action.RequestURI(), values); got.status < 400 || got.status >= 500 {
						t.Errorf("the form of %s to %s answers %s with %d:\n%.300s", p.path, action, is.name, got.status, got.text())
					}
				}
			}
			if refused == 0 {
				t.Errorf("%s is shown all forms", is.name)
			}
			differs(t, before, d.holds(t))
		})
	}
	// From here on things change: whoever is shown a button presses it, the mightiest last.
	for i := len(who) - 1; i >= 0; i-- {
		t.Run("no button is refused to "+who[i].name, func(t *testing.T) {
			pressed := map[string]bool{}
			for _, p := range seen[who[i].name] {
				for _, form := range p.all("form", "method", "post") {
					action, at := attributeOf(form, "action"), actionOf(t, form)
					if pressed[kindOf(at)] || !slices.ContainsFunc(within(form, "button"), isEnabled) || strings.HasSuffix(action, "/logout") || strings.HasSuffix(action, "/end") || strings.HasSuffix(action, "/disable") {
						continue
					}
					pressed[kindOf(at)] = true
					if got := who[i].desk.ask(t, "POST", action, filledIn(form)); got.status == http.StatusForbidden || got.status >= http.StatusInternalServerError {
						t.Errorf("%s has a form to %s, which answers %d:\n%s", p.path, action, got.status, got.text())
					}
				}
			}
		})
	}
	t.Run("after signing out there is nothing to see", func(t *testing.T) {
		left := d.ask(t, "POST", "/admin/logout", url.Values{})
		if left.status != http.StatusSeeOther && left.status != http.StatusOK {
			t.Fatalf("signing out = %d", left.status)
		}
		for _, p := range seen["owner"] {
			if got := d.ask(t, "GET", p.path, nil); got.status != http.StatusSeeOther || !strings.HasPrefix(got.header.Get("Location"), "/admin/login?next=") {
				t.Errorf("%s = %d to %q", p.path, got.status, got.header.Get("Location"))
			}
		}
	})
}

// actionOf is where a form is sent to.
func actionOf(t *testing.T, form *html.Node) *url.URL {
	t.Helper()
	at, err := url.Parse(attributeOf(form, "action"))
	must(t, err)
	return at
}

// within are the elements of a name below one.
func within(root *html.Node, name string) (found []*html.Node) {
	for n := range root.Descendants() {
		if n.Type == html.ElementNode && n.Data == name {
			found = append(found, n)
		}
	}
	return found
}

func isEnabled(n *html.Node) bool {
	return !slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == "disabled" })
}

// filledIn is a form as it stands, sent by its first button.
func filledIn(form *html.Node) url.Values {
	values := url.Values{}
	for _, input := range within(form, "input") {
		has := func(key string) bool {
			return slices.ContainsFunc(input.Attr, func(a html.Attribute) bool { return a.Key == key })
		}
		if kind := attributeOf(input, "type"); (kind == "checkbox" || kind == "radio") && !has("checked") || has("disabled") || attributeOf(input, "name") == "" {
			continue
		}
		values.Add(attributeOf(input, "name"), attributeOf(input, "value"))
	}
	for _, area := range within(form, "textarea") {
		values.Add(attributeOf(area, "name"), textOf(area))
	}
	for _, choice := range within(form, "select") {
		for _, o := range within(choice, "option") {
			if slices.ContainsFunc(o.Attr, func(a html.Attribute) bool { return a.Key == "selected" }) {
				values.Set(attributeOf(choice, "name"), attributeOf(o, "value"))
			}
		}
	}
	if button := within(form, "button")[0]; attributeOf(button, "name") != "" {
		values.Set(attributeOf(button, "name"), attributeOf(button, "value"))
	}
	return values
}

// isSound fails the test where a page lacks what all of them have.
func (p linkedPage) isSound(t *testing.T) {
	t.Helper()
	if p.status != http.StatusOK {
		t.Errorf("%s leads to %s, which answers %d:\n%.300s", p.from, p.path, p.status, p.text())
		return
	}
	if n := len(p.all("h1")); n != 1 {
		t.Errorf("%s has %d h1", p.path, n)
	}
	if len(p.all("nav", "aria-label", "Main")) != 1 {
		t.Errorf("%s has no navigation", p.path)
	}
	for name, want := range map[string]string{
		"Cache-Control": "no-store", "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Content-Security-Policy": "frame-ancestors 'none'", "Referrer-Policy": "",
	} {
		if got := p.header.Get(name); got == "" || !strings.Contains(got, want) {
			t.Errorf("%s has %s %q, want %q in it", p.path, name, got, want)
		}
	}
	if len(p.body) > 100<<10 {
		t.Errorf("%s has %d KB", p.path, len(p.body)>>10)
	}
}

// isPlain fails the test where a name does more than to be read: where it is markup, or
// turns around what stands beside it. It notes which names are there.
func (p linkedPage) isPlain(t *testing.T, shown map[string]bool) {
	t.Helper()
	if !strings.Contains(p.everything(), "alert(1)") {
		return
	}
	p.escapes(t)
	for n := range p.root.Descendants() {
		if n.Type != html.TextNode || n.Parent.Data == "textarea" {
			continue
		}
		if strings.ContainsAny(n.Data, "\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069") {
			t.Errorf("%s turns around its text in %s: %q", p.path, n.Parent.Data, n.Data)
		}
		if _, name, ok := strings.Cut(n.Data, hostile); ok {
			for _, what := range deceivers {
				shown[what] = shown[what] || strings.Contains(name, what)
			}
			shown["MDM Vendor"] = shown["MDM Vendor"] || strings.Contains(n.Data, "MDM Vendor")
		}
	}
}
