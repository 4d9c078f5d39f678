package main

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

// ordered asks a device for something over the API, and returns the command's UUID.
func (c *composed) ordered(t testing.TB, id, requestType string, more map[string]any) string {
	t.Helper()
	in := map[string]any{"request_type": requestType, "device_ids": []string{id}}
	for key, v := range more {
		in[key] = v
	}
	var out struct {
		CommandUUID string `json:"command_uuid"`
	}
	c.api(t, "POST", "/commands", in, &out)
	return out.CommandUUID
}

// entry is what the API says of a command to one device.
type entry struct {
	State        string
	Priority     string
	SupersededBy string                         `json:"superseded_by"`
	WaitingFor   *struct{ Code, Reason string } `json:"waiting_for"`
}

func (c *composed) entry(t testing.TB, uuid string) entry {
	t.Helper()
	var out struct{ Devices []entry }
	c.api(t, "GET", "/commands/"+uuid, nil, &out)
	if len(out.Devices) != 1 {
		t.Fatalf("command %s has %d devices", uuid, len(out.Devices))
	}
	return out.Devices[0]
}

// wifiPassword must be seen by nobody but devices.
const wifiPassword = "correct-horse-battery"

// sendWiFi makes a version of a profile and sends it to a device.
func (c *composed) sendWiFi(t testing.TB, id, network string) (profile, uuid, batch string) {
	t.Helper()
	var added struct{ ID string }
	c.api(t, "POST", "/profiles", map[string]any{
		"identifier": "com.example.office", "name": "Office", "description": "for $DEVICE_ID",
		"payloads": []any{map[string]any{"payload_type": "com.apple.wifi.managed", "settings": map[string]any{
			"SSID_STR": network, "EncryptionType": "WPA2", "Password": wifiPassword,
		}}},
	}, &added)
	var sent sentProfileItem
	c.api(t, "POST", "/profiles/"+added.ID+"/send", map[string]any{"device_ids": []string{id}}, &sent)
	if len(sent.Devices) != 1 {
		t.Fatalf("sent to %d devices", len(sent.Devices))
	}
	return added.ID, sent.Devices[0].CommandUUID, sent.BatchID
}

// profileIn is the profile that a command installs, without its signature: each
// delivery is signed anew, and a signature says when it was made.
func profileIn(t testing.TB, cmd *mdmtest.Command) []byte {
	t.Helper()
	signed, _ := cmd.Params["Payload"].([]byte)
	plain, signer, err := profile.Unwrap(signed)
	must(t, err)
	if signer == nil {
		t.Error("a profile is sent without a signature")
	}
	return plain
}

// TestTheQueueOfADevice follows a device through what it is asked: what is urgent comes first,
// what the server asks by itself last, what is over or overtaken not at all.
func TestTheQueueOfADevice(t *testing.T) {
	t.Parallel()
	c := newComposed(t, nil)
	d := c.enrolled(t, mdmtest.Options{Model: mdmtest.Mac})
	_, err := d.Poll(t.Context())
	must(t, err)
	id := c.deviceItem(t, d).ID

	background := mdm.NewUUID()
	plist, err := command.Build("CertificateList", nil, background)
	must(t, err)
	_, _, err = c.devices.Enqueue(t.Context(), mdm.NewCommand{
		UUID: background, RequestType: "CertificateList", Plist: plist, Targets: []mdm.DeviceID{mdm.DeviceID(id)}, Priority: mdm.Background,
	})
	must(t, err)
	short := c.ordered(t, id, "SecurityInfo", map[string]any{"expires_in": "1m"})
	list := c.ordered(t, id, "ProfileList", nil)
	_, old, _ := c.sendWiFi(t, id, "Old")
	office, newer, batch := c.sendWiFi(t, id, "New")
	lock := c.ordered(t, id, "DeviceLock", map[string]any{"confirm": true})
	c.ahead.Add(int64(2 * time.Minute))

	if got := c.entry(t, old); got.State != "cancelled" || got.SupersededBy != newer {
		t.Errorf("the older profile is %+v, want it superseded by %s", got, newer)
	}
	if got := c.entry(t, short); got.WaitingFor == nil || got.WaitingFor.Code != "expired" {
		t.Errorf("what was for a minute is %+v after two", got)
	}
	if got := c.entry(t, lock); got.Priority != "urgent" || got.WaitingFor == nil || got.WaitingFor.Code != "not_seen" || got.WaitingFor.Reason == "" {
		t.Errorf("the lock is %+v", got)
	}

	var order []string
	cmd, err := d.Idle(t.Context())
	for ; err == nil && cmd != nil; cmd, err = d.Channel().Answer(t.Context(), cmd) {
		order = append(order, cmd.UUID)
		if cmd.UUID != newer {
			continue
		}
		if got := c.entry(t, newer); got.State != "delivered" || got.WaitingFor == nil || got.WaitingFor.Code != "delivered" {
			t.Errorf("what the device has in hand is %+v", got)
		}
		again, err := d.Idle(t.Context()) // it has lost the command
		must(t, err)
		if again == nil || again.UUID != cmd.UUID || !bytes.Equal(profileIn(t, again), profileIn(t, cmd)) {
			t.Error("a command that is sent again is another one")
		}
	}
	must(t, err)
	if want := []string{lock, list, newer, background}; strings.Join(order, " ") != strings.Join(want, " ") {
		t.Errorf("the device was sent %v, want %v", order, want)
	}
	p := d.Installed("com.example.office")
	if p == nil || p.Payloads[0]["SSID_STR"] != "New" || p.Payloads[0]["Password"] != wifiPassword {
		t.Errorf("the device has %+v", p)
	}
	pin := d.LastLock().PIN
	if len(pin) != 6 {
		t.Errorf("the Mac was locked with the PIN %q", pin)
	}

	var told strings.Builder
	for _, path := range []string{
		"/commands", "/commands/" + lock, "/commands/" + newer, "/batches", "/batches/" + batch,
		"/devices/" + id, "/devices/" + id + "/commands", "/devices/" + id + "/commands/" + lock, "/devices/" + id + "/commands/" + newer,
		"/devices/" + id + "/profiles", "/devices/" + id + "/secrets", "/devices/" + id + "/inventory", "/devices/" + id + "/history",
		"/profiles", "/profiles/" + office, "/profiles/" + office + "/versions", "/profiles/" + office + "/versions/1",
		"/profiles/" + office + "/diff?from=1&to=2", "/profiles/" + office + "/devices", "/audit",
	} {
		var answer json.RawMessage
		c.api(t, "GET", path, nil, &answer)
		told.Write(answer)
	}
	told.WriteString(c.log.String())
	if strings.Contains(told.String(), wifiPassword) {
		t.Error("the password of the network can be read")
	}
	if regexp.MustCompile(`\b` + pin + `\b`).MatchString(told.String()) {
		t.Error("the PIN of the lock can be read")
	}
}
