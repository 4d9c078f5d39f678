package main

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
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
	d.call(t, "POST", "/api/v1/webhooks", map[string]any{"name": "Ticket system", "url": "https://127.0.0.1:1/hook", "allow_private": true}, &made)
	d.call(t, "POST", "/api/v1/tokens", map[string]any{"name": "inventory script", "scopes": []string{"read_only"}}, &made)
	d.call(t, "POST", "/api/v1/commands", map[string]any{"request_type": "DeviceInformation", "params": map[string]any{"Queries": []string{"DeviceName", "OSVersion", "BatteryLevel"}},
		"device_ids": []string{device.Items[0].ID, device.Items[1].ID, device.Items[2].ID}}, &made)
}

// browserPages is how many pages one browser looks at: its patience is for all together.
const browserPages = 25

// TestEveryPageOfTheDeskIsSound looks at every page that a link leads to: on phones in the dark,
// and on a desktop and tablets in the light.
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
	for name, screen := range map[string]struct {
		widths []int64 // CSS pixels; the page is loaded at the first
		dark   bool
	}{
		"on a phone":              {[]int64{390, 320}, true},
		"on a desktop and tablet": {[]int64{1280, 1024, 744}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var browser *browsertest.Browser
			for i, at := range pages {
				if i%browserPages == 0 {
					browser = browsertest.Open(t)
					browser.Screen(screen.widths[0], 900, screen.dark)
					d.signInBy(browser, ownerEmail, ownerPassword)
				}
				browser.Go(d.url + at)
				for _, width := range screen.widths {
					browser.Screen(width, 900, screen.dark)
					browser.Check()
				}
				browser.Screen(screen.widths[0], 900, screen.dark)
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

// TestThePagesOfANewServerFillThemselves has the parts that they lacked come when the first
// device does, where they belong, without a reload.
func TestThePagesOfANewServerFillThemselves(t *testing.T) {
	d := startDesk(t)
	home, list := browsertest.Open(t), browsertest.Open(t)
	for browser, at := range map[*browsertest.Browser]string{home: "/admin", list: "/admin/devices"} {
		browser.Screen(1280, 900, false)
		d.signInBy(browser, ownerEmail, ownerPassword)
		browser.Go(d.url + at)
		browser.Await(`document.querySelector("main").innerText.includes("No devices yet")`)
		browser.Await(`!document.querySelector("#by-seen, #quick, #filter") && (window.same = true)`)
	}
	d.enrolled(t, mdmtest.Options{Model: mdmtest.IPhone, Serial: "PHONE0001", Name: "Ana’s iPhone"})
	home.Await(`document.querySelector("#by-seen")?.nextElementSibling.id === "by-day"`)
	home.Await(`document.querySelector("#devices").innerText.includes("1 device") && window.same`)
	list.Await(`document.querySelector("#quick")?.nextElementSibling.id === "filter" && document.querySelector("#list tbody tr") !== null && window.same`)
	for _, browser := range []*browsertest.Browser{home, list} {
		browser.Check()
		browser.Quiet()
	}
}

// TestAnAdministratorLocksADevice is the commonest of days: by keys on a desktop, and on a
// phone without a script; and nothing is left behind for who comes after.
func TestAnAdministratorLocksADevice(t *testing.T) {
	d := startDesk(t, "--demo", "3")
	d.furnish(t)
	browser := browsertest.Open(t)
	browser.Screen(1280, 900, false)
	d.signInBy(browser, ownerEmail, ownerPassword)
	says := func(text string) {
		browser.Await(`document.querySelector("main").innerText.includes(` + jsonText(t, text) + `)`)
	}

	goes := func(key string) {
		browsertest.Eval[bool](browser, `!!(Date.now = () => 1)`) // the second key counts for a while, which a busy machine may take
		browser.Do(chromedp.KeyEvent("g"), chromedp.KeyEvent(key))
	}

	// The skip link comes first, and leads past the navigation.
	browser.Do(chromedp.KeyEvent(kb.Tab))
	browser.Await(`document.activeElement.matches(".skip") && document.activeElement.getBoundingClientRect().top >= 0`)
	browser.Do(chromedp.KeyEvent(kb.Enter))
	browser.Await(`document.activeElement.id === "main"`)

	browser.Do(chromedp.KeyEvent("?"))
	browser.Await(`document.querySelector("#keys").open`)
	browser.Check()
	browser.Do(chromedp.KeyEvent(kb.Escape))
	browser.Await(`!document.querySelector("#keys").open`)
	goes("c")
	browser.Await(`location.pathname === "/admin/commands"`)
	goes("d")
	browser.Await(`location.pathname === "/admin/devices" && document.querySelectorAll("[data-rows] > *").length >= 3`)

	// Find it, and have it lock itself.
	browser.Do(chromedp.KeyEvent("/"))
	browser.Await(`document.activeElement.matches("[data-find]")`)
	browser.Fill("[data-find]", "prompt") // in place of the slash, which only this driver types all the same
	browser.Do(chromedp.KeyEvent(kb.Enter))
	browser.Await(`location.search.includes("q=prompt") && document.querySelectorAll("[data-rows] > *").length === 1`)
	browser.Do(chromedp.KeyEvent("j"))
	browser.Await(`!!document.querySelector("[data-rows] > [data-marked]")`)
	browser.Do(chromedp.KeyEvent("x"))
	browser.Await(`document.querySelector("[data-rows] input[type=checkbox]").checked && document.querySelector("[data-selected]").textContent.startsWith("1 ")`)
	browser.Do(chromedp.KeyEvent("k"), chromedp.KeyEvent("o"))
	browser.Await(`location.pathname.startsWith("/admin/devices/") && document.querySelector("h1").innerText.includes("prompt")`)
	at := browsertest.Eval[string](browser, "location.pathname")
	browser.Do(chromedp.KeyEvent("e"))
	browser.Await(`location.pathname === "/admin/commands/new" && document.querySelector("h1") !== null`)
	lock := browsertest.Eval[string](browser, `[...document.querySelectorAll("main a")].find(a => a.innerText.trim().startsWith("Device lock")).href`)
	browser.Go(lock)
	browser.Fill(`[name="params.Message"]`, "Please bring me back")
	browser.Check()
	browser.Submit(`button[name=do][value=queue]`)
	says("Device lock")
	says("Acknowledged") // nobody reloads
	browser.Check()
	browser.Quiet()

	// The same on a phone without a script.
	phone := browsertest.Open(t)
	phone.Screen(390, 844, true)
	phone.WithoutScripts()
	phone.Go(d.url + "/admin/login")
	phone.Fill("input[name=email]", ownerEmail)
	phone.Fill("input[name=password]", ownerPassword)
	if status := phone.Submit("form button[type=submit]"); status != http.StatusOK {
		t.Fatalf("the first page answers %d", status)
	}
	phone.Go(d.url + at)
	phone.Check()
	phone.Submit(`main a[data-command]`)
	phone.Go(browsertest.Eval[string](phone, `[...document.querySelectorAll("main a")].find(a => a.innerText.trim().startsWith("Device lock")).href`))
	if status := phone.Submit(`button[name=do][value=queue]`); status != http.StatusOK {
		t.Errorf("the command’s page answers %d", status)
	}
	phone.Await(`document.querySelector("main").innerText.includes("Device lock")`)
	phone.Quiet()

	// Who signs out leaves nothing behind, neither for the back button nor for other sites.
	browser.Submit(`form[action="/admin/logout"] button`)
	browser.Do(chromedp.NavigateBack())
	browser.Await(`location.pathname === "/admin/login" || !document.body.innerText.includes("prompt")`)
	if got := d.ask(t, "GET", "/admin", nil); got.status != http.StatusOK {
		t.Errorf("another session of the same person is over, too: %d", got.status)
	}
	foreign, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.url+"/admin/theme", strings.NewReader("theme=dark"))
	must(t, err)
	foreign.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	foreign.Header.Set("Sec-Fetch-Site", "cross-site")
	foreign.Header.Set("Origin", "https://elsewhere.example")
	resp, err := d.client.Do(foreign)
	must(t, err)
	must(t, resp.Body.Close())
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("a form of another site is answered %d", resp.StatusCode)
	}
}
