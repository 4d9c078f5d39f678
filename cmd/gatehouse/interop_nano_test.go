package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// released are programs of other projects, which work with NanoMDM: built of the releases that
// their modules in testdata/programs pin, once for all tests of a run.
var released = map[string]func() (string, error){
	"nanocmd": sync.OnceValues(func() (string, error) { return buildReleased("nanocmd", "github.com/micromdm/nanocmd/cmd/nanocmd") }),
	"kmfddm":  sync.OnceValues(func() (string, error) { return buildReleased("kmfddm", "github.com/jessepeterson/kmfddm/cmd/kmfddm") }),
}

func buildReleased(name, pkg string) (string, error) {
	dir, err := os.MkdirTemp("", "gatehouse-test-"+name)
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, name)
	build := exec.Command("go", "build", "-C", filepath.Join("testdata", "programs", name), "-mod=readonly", "-o", bin, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOPROXY=off")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
}

// program is a released program that runs as a process of its own.
type program struct {
	url       string
	user, key string
	out       *lockedBuffer
}

// startReleased starts a program at an address, which trusts the server s and calls it by the
// token of the tests.
func startReleased(t *testing.T, s *running, name, address string, args ...string) *program {
	t.Helper()
	bin, err := released[name]()
	if err != nil {
		missing(t, fmt.Sprintf("%s can't be built (go -C cmd/gatehouse/testdata/programs/%s mod download gets what it needs): %v", name, name, err))
	}
	p := &program{url: "http://" + address, user: name, key: "key-of-" + name, out: newLockedBuffer()}
	cmd := exec.CommandContext(t.Context(), bin, append([]string{"-listen", address, "-api", p.key, "-storage", "inmem", "-debug"}, args...)...)
	roots := fileOf(t, "roots.pem", fetch(t, s.client, "GET", s.url+"/ca.pem", nil))
	cmd.Env = []string{"SSL_CERT_FILE=" + roots, "SSL_CERT_DIR=" + t.TempDir(), "HOME=" + t.TempDir()}
	cmd.Dir = t.TempDir()
	cmd.Stdout, cmd.Stderr = printed{p.out}, printed{p.out}
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s printed:\n%.20000s", name, p.out)
		}
	})
	eventually(t, name+" listens", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return p
}

// printed writes to a lockedBuffer.
type printed struct{ *lockedBuffer }

func (p printed) Write(b []byte) (int, error) {
	p.write(strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

// eventually waits for what other processes do in their own time.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not in a minute", what)
		}
	}
}

// call asks the program's own API.
func (p *program) call(t *testing.T, method, path string, body []byte) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, p.url+path, bytes.NewReader(body))
	must(t, err)
	req.SetBasicAuth(p.user, p.key)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %s %s", method, path, resp.Status, answer)
	}
	return answer
}

// TestTheFieldsDeclarativeServer has KMFDDM declare what a device, its user and a person's
// device are to have. It is told where to queue commands as for NanoMDM, and this server where
// declarations are as NanoMDM is.
func TestTheFieldsDeclarativeServer(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	address := lastingAddress(t)
	token := fileOf(t, "token", []byte(apiToken))
	s := start(t, t.TempDir(), "--bootstrap-token-file", token, "--declarative-management-url", "http://"+address+"/")
	ddm := startReleased(t, s, "kmfddm", address, "-enqueue", s.url+"/v1/enqueue/", "-enqueue-key", apiToken)
	pool, err := keyPool()
	must(t, err)
	enroll := func(o mdmtest.Options) *mdmtest.Device {
		o.Keys, o.AnyEnrollment = pool, true
		d := s.phone(t, o)
		must(t, d.Enroll(t.Context(), s.newLink(t)+"/profile"))
		return d
	}
	mac, phone := enroll(mdmtest.Options{Model: mdmtest.Mac}), enroll(mdmtest.Options{UserEnrollment: true})
	channels := map[string]*mdmtest.Channel{mac.ID(): mac.Channel(), phone.ID(): phone.Channel()}

	declare := func(typ, identifier, payload string) {
		t.Helper()
		ddm.call(t, "PUT", "/v1/declarations", fmt.Appendf(nil, `{"Type":"com.apple.%s","Identifier":"com.example.%s","Payload":%s}`, typ, identifier, payload))
	}
	declare("configuration.management.test", "test", `{"Echo":"first"}`)
	declare("configuration.management.status-subscriptions", "status", `{"StatusItems":[{"Name":"device.operating-system.version"},{"Name":"device.identifier.serial-number"}]}`)
	declare("activation.simple", "all", `{"StandardConfigurations":["com.example.test","com.example.status"]}`)
	for _, identifier := range []string{"test", "status", "all"} {
		ddm.call(t, "PUT", "/v1/set-declarations/basic?declaration=com.example."+identifier, nil)
	}
	for id := range channels {
		ddm.call(t, "PUT", "/v1/enrollment-sets/"+url.PathEscape(id)+"?set=basic", nil)
	}
	// synchronized has every channel take the command that KMFDDM has queued for it.
	synchronized := func(echo string) {
		t.Helper()
		for id, c := range channels {
			if n, err := c.Poll(t.Context()); err != nil || n == 0 {
				t.Fatalf("%s polls, and answers %d commands: %v", id, n, err)
			}
			must(t, c.Declared())
			var has []string
			for _, d := range c.Declarations() {
				has = append(has, fmt.Sprintf("%s %t", d.Identifier, d.Active))
				if d.Identifier == "com.example.test" && !strings.Contains(string(d.Payload), echo) {
					t.Errorf("%s has the test %s, want %s", id, d.Payload, echo)
				}
			}
			if want := []string{"com.example.all true", "com.example.status true", "com.example.test true"}; !slices.Equal(has, want) {
				t.Errorf("%s has %q, want %q", id, has, want)
			}
		}
	}
	synchronized("first")
	// One command for all that have it.
	declare("configuration.management.test", "test", `{"Echo":"second"}`)
	synchronized("second")

	// This release of KMFDDM can't queue a command for a user: the colon in the id is no part of
	// a URL to it. It answers one that is told by others.
	user := mac.User()
	userID := mac.ID() + ":" + user.User().ID
	declare("configuration.management.test", "user", `{"Echo":"user"}`)
	ddm.call(t, "PUT", "/v1/set-declarations/user?declaration=com.example.user", nil)
	ddm.call(t, "PUT", "/v1/enrollment-sets/"+url.PathEscape(userID)+"?set=user", nil)
	fetch(t, s.client, "POST", s.url+"/api/v1/commands", fmt.Appendf(nil, `{"request_type":"DeclarativeManagement","device_ids":[%q]}`, s.channel(t, user)))
	if n, err := user.Poll(t.Context()); err != nil || n != 1 {
		t.Fatalf("the user polls, and answers %d commands: %v", n, err)
	}
	must(t, user.Declared())
	if got := user.Declarations(); len(got) != 1 || got[0].Identifier != "com.example.user" {
		t.Errorf("the user has %+v", got)
	}

	for id := range channels {
		var status map[string][]struct {
			Identifier string
			Active     bool
			Valid      string
			Current    bool
		}
		answer := ddm.call(t, "GET", "/v1/declaration-status/"+url.PathEscape(id), nil)
		must(t, json.Unmarshal(answer, &status))
		if got := status[id]; len(got) != 3 {
			t.Fatalf("KMFDDM knows of %s: %s", id, answer)
		}
		for _, d := range status[id] {
			if !d.Active || d.Valid != "valid" || !d.Current {
				t.Errorf("KMFDDM knows of %s: %s", id, answer)
			}
		}
		values := string(ddm.call(t, "GET", "/v1/status-values/"+url.PathEscape(id)+"?prefix=.StatusItems.device.", nil))
		personal := id == phone.ID()
		if !strings.Contains(values, "operating-system.version") || strings.Contains(values, "serial-number") == personal {
			t.Errorf("KMFDDM knows of %s: %s", id, values)
		}
	}
}

// channel is the ID of a user's channel.
func (s *running) channel(t *testing.T, c *mdmtest.Channel) string {
	t.Helper()
	var page struct {
		Items []struct {
			ID             string
			EnrollmentType string `json:"enrollment_type"`
		}
	}
	s.call(t, "GET", "/api/v1/devices?limit=100", nil, &page)
	for _, item := range page.Items {
		if item.EnrollmentType == "user_channel" {
			return item.ID
		}
	}
	t.Fatalf("%s has no channel", c.User().ShortName)
	return ""
}

// TestTheFieldsWorkflowEngine has NanoCMD take inventory when a device enrolls, and install a
// profile. It queues commands and hears of answers as with NanoMDM.
func TestTheFieldsWorkflowEngine(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	token := fileOf(t, "token", []byte(apiToken))
	s := start(t, t.TempDir(), "--bootstrap-token-file", token)
	address := lastingAddress(t)
	engine := startReleased(t, s, "nanocmd", address,
		"-enqueue-url", s.url+"/v1/enqueue/", "-push-url", s.url+"/v1/push/", "-enqueue-api", apiToken)
	s.call(t, "POST", "/api/v1/webhooks", map[string]any{
		"name": "NanoCMD", "url": engine.url + "/webhook", "format": "nanomdm", "raw_payloads": true, "allow_private": true,
	}, &struct{}{})
	engine.call(t, "PUT", "/v1/event/inventory", []byte(`{"event":"Enrollment","workflow":"io.micromdm.wf.inventory.v1"}`))
	engine.call(t, "PUT", "/v1/profile/test", profileOf("com.example.engine", "engine"))

	pool, err := keyPool()
	must(t, err)
	d := s.phone(t, mdmtest.Options{Model: mdmtest.Mac, Keys: pool})
	must(t, d.Enroll(t.Context(), s.newLink(t)+"/profile"))
	id := url.QueryEscape(d.ID())
	poll := func() {
		_, err := d.Poll(t.Context())
		must(t, err)
	}
	var inventory map[string]map[string]any
	eventually(t, "the engine has taken inventory", func() bool {
		poll()
		inventory = nil
		must(t, json.Unmarshal(engine.call(t, "GET", "/inventory?id="+id, nil), &inventory))
		known := inventory[d.ID()]
		return known["serial_number"] != nil && known["sip_enabled"] != nil // from DeviceInformation and from SecurityInfo
	})
	if got := inventory[d.ID()]["os_version"]; got == nil || got == "" {
		t.Errorf("the engine knows of the device: %v", inventory)
	}

	// finished waits until the engine has heard of all that it asked for in n steps.
	finished := func(n int) {
		t.Helper()
		eventually(t, "the engine has finished", func() bool { return strings.Count(engine.out.String(), "step_completed=true") >= n })
	}
	installed := func() bool { return d.Installed("com.example.engine") != nil }
	engine.call(t, "POST", "/v1/workflow/io.micromdm.wf.profile.v1/start?id="+id+"&context=test", nil)
	eventually(t, "the engine has had a profile installed", func() bool { poll(); return installed() })
	finished(3) // inventory, the list of profiles, the profile
	engine.call(t, "POST", "/v1/workflow/io.micromdm.wf.profile.v1/start?id="+id+"&context=-test", nil)
	eventually(t, "the engine has had it removed", func() bool { poll(); return !installed() })
	finished(5)
	for _, line := range linesWith(engine.out.String(), "err=") {
		// The user of a Mac enrolls, too, by the same id: so it is with NanoMDM.
		if !strings.Contains(line, "workflow already started") {
			t.Errorf("the engine complains: %s", line)
		}
	}
}

func linesWith(text, part string) (found []string) {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// profileOf is a configuration profile of a network.
func profileOf(identifier, label string) []byte {
	const uuid = "3A7C1F0E-0000-4000-8000-00000000000"
	return fmt.Appendf(nil, `<?xml version="1.0" encoding="UTF-8"?>
<plist version="1.0"><dict><key>PayloadType</key><string>Configuration</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>%[1]s</string><key>PayloadUUID</key><string>%[3]s1</string><key>PayloadDisplayName</key><string>%[2]s</string>
<key>PayloadContent</key><array><dict><key>PayloadType</key><string>com.apple.wifi.managed</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>%[1]s.network</string><key>PayloadUUID</key><string>%[3]s2</string>
<key>SSID_STR</key><string>%[2]s</string><key>EncryptionType</key><string>None</string><key>AutoJoin</key><true/></dict></array></dict></plist>`, identifier, label, uuid)
}
