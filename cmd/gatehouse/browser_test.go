package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/browsertest"
)

// ask asks the REST API over the server's Unix socket.
func (s *running) ask(method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(s.dir, socketName))
	}}}
	req, err := http.NewRequest(method, "http://localhost"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		problem, _ := io.ReadAll(resp.Body) // it is only for the message
		return fmt.Errorf("%s %s = %s %s", method, path, resp.Status, problem)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// call is ask for what must work.
func (s *running) call(t *testing.T, method, path string, in, out any) {
	t.Helper()
	if err := s.ask(method, path, in, out); err != nil {
		t.Fatal(err)
	}
}

// newLink makes an enrollment link for one device.
func (s *running) newLink(t *testing.T) string {
	t.Helper()
	var link struct{ URL string }
	s.call(t, "POST", "/api/v1/enrollment-links", map[string]any{"name": "first", "login": "none"}, &link)
	return link.URL
}

func TestBrowserFromTheSetupLinkToSigningOut(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	browser := browsertest.Open(t)
	s := start(t, t.TempDir())
	browser.Screen(1280, 900, false)

	browser.Go(s.url + "/")
	browser.Await(`document.body.innerText.includes("Not set up yet")`)
	browser.Check()

	// The token goes from the link into the form by itself, and out of the address.
	browser.Go(s.url + "/setup#t=" + s.setupToken(t))
	browser.Await(`location.pathname === "/admin/welcome"`)
	browser.Check()
	browser.Go(s.url + "/admin/devices")
	browser.Check()
	browser.Click("button[form=add-demo]")
	browser.Await(`document.querySelector("main").innerText.includes("Simulated devices are on their way")`)

	// All five come in while one watches, and nobody reloads.
	browser.Await(`(window.watched = true) && document.querySelector("h1").textContent === "Devices"`)
	const devices = `[...document.querySelectorAll("tbody th > a")].filter(a => a.textContent.startsWith("Demo "))`
	browser.Await(devices + `.length === 5 && document.querySelectorAll("tbody .badge.demo").length >= 5`)
	browser.Await(devices + `.every(a => a.closest("tr").querySelector(".state").textContent === "enrolled")`)
	if !browsertest.Eval[bool](browser, "window.watched === true") {
		t.Error("the list of devices reloaded itself")
	}
	browser.Check()
	browser.Screen(320, 720, true)
	browser.Check()
	browser.Screen(1280, 900, false)

	// A command is queued while one looks at the device, and its answer comes up.
	browser.Go(browsertest.Eval[string](browser, devices+`.find(a => a.textContent.includes("prompt")).href`))
	browser.Await(`document.querySelector(".crumb") && (window.watched = true)`)
	if !browsertest.Eval[bool](browser, `!!document.querySelector("nav a[aria-current=page][href='/admin/devices']")`) {
		t.Error("the navigation does not say that this belongs to the devices")
	}
	const acknowledged = `[...document.querySelectorAll(".state")].filter(e => e.textContent === "acknowledged").length`
	before := browsertest.Eval[int](browser, acknowledged)
	id := browsertest.Eval[string](browser, `location.pathname.split("/").pop()`)
	var queued struct {
		CommandUUID string `json:"command_uuid"`
	}
	s.call(t, "POST", "/api/v1/commands", map[string]any{"request_type": "DeviceInformation", "params": map[string]any{"Queries": []string{"DeviceName"}}, "device_ids": []string{id}}, &queued)
	browser.Await(`!!document.querySelector('a[href*="` + queued.CommandUUID + `"]')`)
	browser.Await(acknowledged + " > " + jsonText(t, before))
	if !browsertest.Eval[bool](browser, "window.watched === true") {
		t.Error("the device's page reloaded itself")
	}
	browser.Check()
	browser.Screen(320, 720, false)
	browser.Check()

	if status := browser.Submit(".whoami button"); status != 200 {
		t.Errorf("signing out = %d", status)
	}
	browser.Go(s.url + "/admin")
	if at := browsertest.Eval[string](browser, "location.pathname"); at != "/admin/login" {
		t.Errorf("/admin after signing out led to %s, want the login", at)
	}
	browser.Check()
}

func jsonText(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestBrowserWithoutScripts(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	browser := browsertest.Open(t)
	s := start(t, t.TempDir())
	browser.WithoutScripts()
	browser.Screen(390, 844, false)

	browser.Go(s.url + "/setup#t=" + s.setupToken(t))
	browser.Check()
	browser.Type("#token", "AAAA-BBBB-CCCC-DDDD")
	if status := browser.Submit("form button"); status != 404 {
		t.Errorf("a wrong code = %d, want 404", status)
	}
	if alert := browsertest.Eval[string](browser, `document.querySelector("[role=alert]").textContent`); alert == "" {
		t.Error("nothing says that the code is wrong")
	}
	browser.Type("#token", strings.ToLower(s.setupToken(t)))
	if status := browser.Submit("form button"); status != 200 {
		t.Fatalf("the right code = %d, want 200", status)
	}
	if at := browsertest.Eval[string](browser, "location.pathname"); at != "/admin/welcome" {
		t.Fatalf("setup led to %s", at)
	}
	browser.Check()
	browser.Go(s.url + "/admin/enrollment/attempts")
	if !browsertest.Eval[bool](browser, `document.querySelector("noscript meta[http-equiv=refresh]").content > 0`) {
		t.Error("the page does not refresh itself")
	}
	browser.Check()
	browser.Submit(".whoami button")
	if at := browsertest.Eval[string](browser, "location.pathname"); at != "/admin/login" {
		t.Errorf("signing out led to %s", at)
	}
}

func TestBrowserOpensAnEnrollmentLink(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	browser := browsertest.Open(t)
	s := start(t, t.TempDir())
	browser.Screen(390, 844, false)
	browser.Pose("Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Mobile/15E148 Safari/604.1", "en")
	browser.Go(s.newLink(t))
	browser.Check()
	fetched := func(link string) {
		t.Helper()
		const want = "200 application/x-apple-aspen-config"
		got := browsertest.Eval[string](browser, `fetch(document.querySelector('a.button[href$="/`+link+`"]').href).then(r => r.status + " " + r.headers.get("content-type"))`)
		if got != want {
			t.Errorf("%s = %s, want %s", link, got, want)
		}
	}
	browser.Submit(`form[action="/enroll/start"] button`)
	// This browser takes any certificate, so the trust probe loads at once, and the page
	// goes on by itself.
	browser.Await(`location.pathname.endsWith("/profile") && document.readyState === "complete"`)
	fetched("enroll.mobileconfig")
	browser.Go(strings.TrimSuffix(browsertest.Eval[string](browser, "location.href"), "profile") + "certificate")
	fetched("ca.mobileconfig")
	browser.Check()
	for _, path := range []string{"/", "/enroll", "/enroll/l/nosuchcode", "/nothing/here", "/?%zz", "/mdm/checkin", "/scep", "/admin/login", "/admin/devices/x"} {
		browser.Screen(320, 720, true)
		browser.Go(s.url + path)
		browser.Check()
		browser.Screen(1280, 900, false)
		browser.Check()
	}
}
