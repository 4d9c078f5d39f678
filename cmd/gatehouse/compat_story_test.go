package main

import (
	"io"
	"net/http"
	"strings"
	"testing"

	nanoapi "github.com/micromdm/nanomdm/api"

	"encoding/json"

	"github.com/gatehouse-mdm/gatehouse/apns/apnstest"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
)

// TestAScriptForNanoMDMManagesADevice follows a command that a script of NanoMDM's sends, from
// its upload of the push certificate to the device that is woken and answers.
func TestAScriptForNanoMDMManagesADevice(t *testing.T) {
	t.Parallel()
	apple, err := apnstest.New(apnstest.Options{})
	must(t, err)
	t.Cleanup(func() { apple.Close() })
	c := newComposed(t, func(cfg *config) { cfg.apnsURL, cfg.apnsRoots = apple.URL(), apple.Roots() })
	_, secret, err := c.identity.CreateToken(t.Context(), identity.Local(), identity.NewToken{Name: "cron", Scopes: []identity.Scope{identity.ScopeAdmin}})
	must(t, err)
	ask := func(user, method, path, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, c.url+path, strings.NewReader(body))
		must(t, err)
		req.SetBasicAuth(user, secret.Reveal())
		resp, err := c.http.RoundTrip(req)
		must(t, err)
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		must(t, err)
		return resp.StatusCode, string(answer)
	}

	certificate, err := apple.Certificate("com.apple.mgmt.External.0e0e0e0e-0000-4000-8000-000000000001")
	must(t, err)
	if status, answer := ask("nanomdm", "PUT", "/v1/pushcert", string(certificate)); status != 200 {
		t.Fatalf("upload the push certificate: %d %s", status, answer)
	}
	d := c.enrolled(t, mdmtest.Options{Model: mdmtest.Mac})
	_, err = d.Poll(t.Context())
	must(t, err)
	udid := d.ID()
	token, magic := d.Channel().Push()

	const raw = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict><key>Command</key><dict><key>RequestType</key><string>ProfileList</string>
<key>NobodyKnows</key><string>this key</string></dict><key>CommandUUID</key><string>script-1</string></dict></plist>
`
	status, answer := ask("nanomdm", "PUT", "/v1/enqueue/"+udid, raw)
	var result nanoapi.APIResult
	must(t, json.Unmarshal([]byte(answer), &result))
	if status != 200 || result.Error() != nil || result.Status[udid].PushID == "" || result.CommandUUID != "script-1" {
		t.Fatalf("enqueue: %d %s", status, answer)
	}
	pushed := func() (n int) {
		for _, p := range apple.Pushes() {
			if string(p.Token) == string(token) && p.Magic == magic && p.Problem == "" {
				n++
			}
		}
		return n
	}
	if pushed() == 0 {
		t.Error("the answer tells of a push that Apple never saw")
	}
	cmd, err := d.Idle(t.Context())
	must(t, err)
	if cmd == nil || string(cmd.Raw) != raw {
		t.Fatalf("the device gets %+v, want what the script sent", cmd)
	}
	for ; err == nil && cmd != nil; cmd, err = d.Channel().Answer(t.Context(), cmd) {
	}
	must(t, err)
	if got := c.entry(t, "script-1"); got.State != "acknowledged" {
		t.Errorf("the command is %+v", got)
	}
	before := pushed()
	if status, answer := ask("nanohub", "GET", "/api/v1/nanomdm/push/"+udid, ""); status != 200 || !strings.Contains(answer, "push_result") {
		t.Errorf("push: %d %s", status, answer)
	}
	if got := pushed() - before; got != 1 {
		t.Errorf("a push became %d", got)
	}
	if status, answer := ask("micromdm", "POST", "/v1/devices", "{}"); status != 200 || !strings.Contains(answer, udid) {
		t.Errorf("the devices: %d %s", status, answer)
	}

	version, err := http.Get(c.url + "/version")
	must(t, err)
	defer version.Body.Close()
	var v struct{ Version string }
	if err := json.NewDecoder(version.Body).Decode(&v); err != nil || v.Version == "" {
		t.Errorf("the version is %+v, %v", v, err)
	}
}
