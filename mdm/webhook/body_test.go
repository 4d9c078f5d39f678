package webhook_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	nanomdm "github.com/micromdm/nanomdm/mdm"
	nanowebhook "github.com/micromdm/nanomdm/service/webhook"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/webhook"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// nanoSchema is the schema that NanoMDM publishes, out of its module.
var nanoSchema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/micromdm/nanomdm").Output()
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "service", "webhook", "event.json"))
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.AssertContent()
	if err := c.AddResource("event.json", doc); err != nil {
		return nil, err
	}
	return c.Compile("event.json")
})

// checkNano holds a body against the schema, and returns it as NanoMDM's own type.
func checkNano(t *testing.T, body []byte) nanowebhook.EventJson {
	t.Helper()
	schema, err := nanoSchema()
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(v); err != nil {
		t.Errorf("%s: %v", body, err)
	}
	var e nanowebhook.EventJson
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil {
		t.Errorf("%s: %v", body, err)
	}
	return e
}

const sharedUser = "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"

// senders are channels of every kind, and how each names itself.
func senders() map[string]struct {
	device, parent mdm.Device
	keys           string
} {
	mac, phone := someDevice("mac"), mdm.Device{ID: "phone", Type: mdm.TypeUser, AppleID: mdm.AppleID{EnrollmentID: "ENROLLED"}}
	phone.ProductName = "iPhone17,1"
	child := func(parent mdm.Device, user string) mdm.Device {
		d := mdm.Device{ID: parent.ID + "-user", ParentID: parent.ID, Type: mdm.TypeUserChannel, AppleID: parent.AppleID}
		d.UserID = user
		return d
	}
	type sender = struct {
		device, parent mdm.Device
		keys           string
	}
	const udid = "<key>UDID</key><string>UDID-mac</string>"
	const enrolled = "<key>EnrollmentID</key><string>ENROLLED</string>"
	return map[string]sender{
		"a device":                      {device: mac, keys: udid},
		"a user of a Mac":               {child(mac, "USER-1"), mac, udid + "<key>UserID</key><string>USER-1</string>"},
		"a user of a Shared iPad":       {child(mac, "ana@example.com"), mac, udid + "<key>UserID</key><string>" + sharedUser + "</string><key>UserShortName</key><string>ana@example.com</string>"},
		"a User Enrollment":             {device: phone, keys: enrolled},
		"the user of a User Enrollment": {child(phone, "USER-2"), phone, enrolled + "<key>EnrollmentUserID</key><string>USER-2</string>"},
	}
}

// topics are those of NanoMDM's schema, with what a message of each holds.
var topics = map[string]string{
	"mdm.Authenticate":          "<key>MessageType</key><string>Authenticate</string><key>Topic</key><string>com.apple.mgmt.External.1</string>",
	"mdm.TokenUpdate":           "<key>MessageType</key><string>TokenUpdate</string><key>Token</key><data>AQID</data><key>PushMagic</key><string>magic</string>",
	"mdm.CheckOut":              "<key>MessageType</key><string>CheckOut</string>",
	"mdm.UserAuthenticate":      "<key>MessageType</key><string>UserAuthenticate</string>",
	"mdm.SetBootstrapToken":     "<key>MessageType</key><string>SetBootstrapToken</string>",
	"mdm.GetBootstrapToken":     "<key>MessageType</key><string>GetBootstrapToken</string>",
	"mdm.DeclarativeManagement": "<key>MessageType</key><string>DeclarativeManagement</string><key>Endpoint</key><string>tokens</string>",
	"mdm.GetToken":              "<key>MessageType</key><string>GetToken</string><key>TokenServiceType</key><string>com.apple.maid</string>",
	"mdm.Connect":               "<key>Status</key><string>Error</string><key>CommandUUID</key><string>C-1</string><key>ErrorChain</key><array><dict><key>ErrorCode</key><integer>12021</integer><key>ErrorDomain</key><string>MCMDMErrorDomain</string><key>USEnglishDescription</key><string>no</string></dict></array>",
}

func TestBodiesAreNanoMDMs(t *testing.T) {
	storagetest.AnyEngine(t)
	for _, raw := range []bool{false, true} {
		for who, sender := range senders() {
			for topic, inner := range topics {
				m := mdm.Message{Topic: topic, Device: sender.device, Parent: sender.parent, At: noon, Raw: list(sender.keys + inner)}
				if topic == "mdm.Connect" {
					m.Status, m.CommandUUID, m.RequestType = "Error", "C-1", "InstallProfile"
				}
				if topic == "mdm.TokenUpdate" {
					m.TokenUpdates = 3
				}
				body, contentType := webhook.Body(m, webhook.NanoMDM, raw)
				if contentType != nanowebhook.ContentType {
					t.Errorf("content type %q", contentType)
				}
				e := checkNano(t, body)
				var payload nanowebhook.RawPayload
				var ids *nanowebhook.IDs
				if topic == "mdm.Connect" {
					a := e.AcknowledgeEvent
					if a.Status != "Error" || a.CommandUuid == nil || *a.CommandUuid != "C-1" || e.CheckinEvent != nil {
						t.Errorf("%s of %s: %s", topic, who, body)
					}
					payload, ids = a.RawPayload, a.Ids
				} else {
					payload, ids = e.CheckinEvent.RawPayload, e.CheckinEvent.Ids
					if tally := e.CheckinEvent.TokenUpdateTally; (tally != nil) != (topic == "mdm.TokenUpdate") || tally != nil && *tally != 3 {
						t.Errorf("%s of %s: tally in %s", topic, who, body)
					}
				}
				plist, err := base64.StdEncoding.DecodeString(string(payload))
				if err != nil {
					t.Fatal(err)
				}
				// NanoMDM itself reads the payload, and says who it is from.
				enrollment := nanoSays(t, topic, plist)
				want := enrollment.Resolved()
				id, parent := want.DeviceChannelID, ""
				if want.IsUserChannel {
					id, parent = want.DeviceChannelID+":"+want.UserChannelID, want.DeviceChannelID
				}
				got := ""
				if ids.ParentId != nil {
					got = *ids.ParentId
				}
				if ids.Id != id || got != parent || string(ids.Type) != want.Type.String() {
					t.Errorf("%s of %s (raw %v): ids %q, %q, %q, want %q, %q, %q", topic, who, raw, ids.Id, got, ids.Type, id, parent, want.Type)
				}
			}
		}
	}
}

// nanoSays decodes a message as NanoMDM does.
func nanoSays(t *testing.T, topic string, raw []byte) *nanomdm.Enrollment {
	t.Helper()
	if topic == "mdm.Connect" {
		r, err := nanomdm.DecodeCommandResults(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		if r.Status == "Error" && len(r.ErrorChain) != 1 {
			t.Errorf("no ErrorChain in %s", raw)
		}
		return &r.Enrollment
	}
	m, err := nanomdm.DecodeCheckin(raw)
	if err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	switch m := m.(type) {
	case *nanomdm.Authenticate:
		return &m.Enrollment
	case *nanomdm.TokenUpdate:
		return &m.Enrollment
	case *nanomdm.CheckOut:
		return &m.Enrollment
	case *nanomdm.UserAuthenticate:
		return &m.Enrollment
	case *nanomdm.SetBootstrapToken:
		return &m.Enrollment
	case *nanomdm.GetBootstrapToken:
		return &m.Enrollment
	case *nanomdm.DeclarativeManagement:
		return &m.Enrollment
	case *nanomdm.GetToken:
		return &m.Enrollment
	}
	t.Fatalf("%s: %T", topic, m)
	return nil
}

// Secrets, and what is listed nowhere, stand in every place where a device may put them.
const (
	sentinelText = "SENTINEL-secret-text"
	harmlessText = "SENTINEL-harmless-text"
)

var sentinelData = []byte("SENTINEL-secret-data")

func TestSecretsNeverLeave(t *testing.T) {
	storagetest.AnyEngine(t)
	data := "<data>" + base64.StdEncoding.EncodeToString(sentinelData) + "</data>"
	text := "<string>" + sentinelText + "</string>"
	harmless := "<key>DeviceName</key><string>" + harmlessText + "</string>"
	who := "<key>UDID</key><string>UDID-mac</string>"
	messages := map[string]mdm.Message{
		"an unlock token":            {Topic: "mdm.TokenUpdate", Raw: list(who + harmless + "<key>MessageType</key><string>TokenUpdate</string><key>UnlockToken</key>" + data)},
		"a bootstrap token":          {Topic: "mdm.SetBootstrapToken", Raw: list(who + harmless + "<key>MessageType</key><string>SetBootstrapToken</string><key>BootstrapToken</key>" + data)},
		"a user's password":          {Topic: "mdm.UserAuthenticate", Raw: list(who + harmless + "<key>MessageType</key><string>UserAuthenticate</string><key>DigestResponse</key>" + text + "<key>AuthToken</key>" + text)},
		"a security token":           {Topic: "mdm.GetToken", Raw: list(who + harmless + "<key>MessageType</key><string>GetToken</string><key>TokenParameters</key><dict><key>SecurityToken</key>" + text + "</dict>")},
		"an unlock token asked for":  connect("RequestUnlockToken", who+harmless+"<key>UnlockToken</key>"+data),
		"a bypass code":              connect("ActivationLockBypassCode", who+harmless+"<key>ActivationLockBypassCode</key>"+text),
		"a PIN":                      connect("DeviceLock", who+harmless+"<key>PIN</key>"+text),
		"a FileVault key":            connect("SecurityInfo", who+harmless+"<key>SecurityInfo</key><dict><key>FDE_PersonalRecoveryKeyCMS</key>"+data+"</dict>"),
		"a new FileVault key":        connect("RotateFileVaultKey", who+harmless+"<key>RotateResult</key><dict><key>EncryptedNewRecoveryKey</key>"+data+"</dict>"),
		"a challenge":                connect("ProfileList", who+harmless+"<key>ProfileList</key><array><dict><key>Challenge</key>"+text+"</dict></array>"),
		"what an error quotes":       connect("InstallProfile", who+harmless+"<key>ErrorChain</key><array><dict><key>ErrorCode</key><integer>1</integer><key>LocalizedDescription</key>"+text+"<key>USEnglishDescription</key>"+text+"</dict></array>"),
		"what a part's error quotes": connect("Settings", who+harmless+"<key>Settings</key><array><dict><key>ErrorChain</key><array><dict><key>LocalizedDescription</key>"+text+"</dict></array></dict></array>"),
		"an app's settings":          connect("ManagedApplicationConfiguration", who+harmless+"<key>Configuration</key><dict><key>api_secret</key><dict><key>inside</key>"+text+"</dict></dict>"),
	}
	for name, m := range messages {
		m.Device, m.At = someDevice("mac"), noon
		for _, format := range []webhook.Format{webhook.NanoMDM, webhook.CloudEvents} {
			for _, raw := range []bool{false, true} {
				body, _ := webhook.Body(m, format, raw)
				open := opened(body)
				if secret := findSentinel(open); secret != "" {
					t.Errorf("%s, %s, raw %v: %s leaves in %s", name, format, raw, secret, open)
				}
				if bytes.Contains(open, []byte(harmlessText)) != raw {
					t.Errorf("%s, %s, raw %v: what the device sent: %s", name, format, raw, open)
				}
			}
		}
	}

	// What can't be read is not passed on, even where everything was to be.
	for name, raw := range map[string]string{"binary": "bplist00" + sentinelText, "cut off": "<plist><dict><key>x</key><string>" + sentinelText, "nothing": ""} {
		m := connect("DeviceLock", "")
		m.Device, m.At, m.Raw = someDevice("mac"), noon, []byte(raw)
		body, _ := webhook.Body(m, webhook.NanoMDM, true)
		if findSentinel(opened(body)) != "" {
			t.Errorf("%s leaves: %s", name, opened(body))
		}
		checkNano(t, body)
	}
}

func connect(requestType, inner string) mdm.Message {
	return mdm.Message{
		Topic: "mdm.Connect", Status: "Acknowledged", CommandUUID: "C-1", RequestType: requestType,
		Raw: list(inner + "<key>Status</key><string>Acknowledged</string><key>CommandUUID</key><string>C-1</string>"),
	}
}

// idle is a poll that answers nothing.
func idle(inner string) mdm.Message {
	return mdm.Message{Topic: "mdm.Connect", Status: "Idle", Raw: list(inner + "<key>Status</key><string>Idle</string>")}
}

// opened is a body with its payload decoded.
func opened(body []byte) []byte {
	var v struct {
		Acknowledge, CheckIn struct {
			Raw []byte `json:"raw_payload"`
		}
		Data struct {
			Raw []byte `json:"raw_payload"`
		} `json:"data"`
	}
	var nano struct {
		A struct {
			Raw []byte `json:"raw_payload"`
		} `json:"acknowledge_event"`
		C struct {
			Raw []byte `json:"raw_payload"`
		} `json:"checkin_event"`
	}
	_ = json.Unmarshal(body, &v)
	_ = json.Unmarshal(body, &nano)
	return bytes.Join([][]byte{body, v.Data.Raw, nano.A.Raw, nano.C.Raw}, []byte("\n"))
}

func findSentinel(body []byte) string {
	for _, secret := range []string{
		sentinelText, string(sentinelData), base64.StdEncoding.EncodeToString(sentinelData), base64.StdEncoding.EncodeToString([]byte(sentinelText)),
	} {
		if bytes.Contains(body, []byte(secret)) {
			return secret
		}
	}
	return ""
}

func TestAPersonsOwnStaysTheirs(t *testing.T) {
	storagetest.AnyEngine(t)
	phone := mdm.Device{ID: "phone", Type: mdm.TypeUser, AppleID: mdm.AppleID{EnrollmentID: "ENROLLED"}}
	phone.ProductName = "iPhone17,1"
	who := "<key>EnrollmentID</key><string>ENROLLED</string>"
	secret := "<string>" + sentinelText + "</string>"
	for name, m := range map[string]mdm.Message{
		"the serial number in an answer": connect("DeviceInformation", who+"<key>QueryResponses</key><dict><key>OSVersion</key><string>"+harmlessText+"</string><key>SerialNumber</key>"+secret+"<key>PhoneNumber</key>"+secret+"</dict>"),
		"what nobody documents":          connect("DeviceInformation", who+"<key>QueryResponses</key><dict><key>OSVersion</key><string>"+harmlessText+"</string></dict><key>Whatever</key>"+secret),
		"their apps":                     connect("InstalledApplicationList", who+"<key>InstalledApplicationList</key><array><dict><key>Identifier</key>"+secret+"</dict></array>"),
		"answers to what nobody knows":   connect("", who+"<key>Something</key>"+secret),
		"what an error quotes":           connect("DeviceInformation", who+"<key>ErrorChain</key><array><dict><key>ErrorCode</key><integer>1</integer><key>ErrorDomain</key><string>"+harmlessText+"</string><key>LocalizedDescription</key>"+secret+"</dict></array>"),
		"identifiers at a poll":          idle(who + "<key>UDID</key>" + secret + "<key>SerialNumber</key>" + secret + "<key>UserShortName</key><string>" + harmlessText + "</string>"),
		"what hides under a known key":   idle(who + "<key>NotOnConsole</key><dict><key>UserID</key>" + secret + "</dict>"),
		"what no check-in documents":     {Topic: "mdm.TokenUpdate", Raw: list(who + "<key>MessageType</key><string>TokenUpdate</string><key>PushMagic</key><string>" + harmlessText + "</string><key>WiFiMAC</key>" + secret + "<key>ICCID</key>" + secret + "<key>PhoneNumber</key>" + secret + "<key>QueryResponses</key><dict><key>SerialNumber</key>" + secret + "</dict>")},
		"the watch that a token is for":  {Topic: "mdm.GetToken", Raw: list(who + "<key>MessageType</key><string>GetToken</string><key>TokenServiceType</key><string>" + harmlessText + "</string><key>TokenParameters</key><dict><key>PhoneUDID</key>" + secret + "</dict>")},
		"what it reports of itself":      {Topic: "mdm.DeclarativeManagement", Raw: list(who + "<key>MessageType</key><string>DeclarativeManagement</string><key>Endpoint</key><string>" + harmlessText + "</string><key>Data</key><data>" + base64.StdEncoding.EncodeToString(sentinelData) + "</data>")},
		"identifiers at a check-in":      {Topic: "mdm.Authenticate", Raw: list(who + "<key>MessageType</key><string>Authenticate</string><key>Model</key><string>" + harmlessText + "</string><key>SerialNumber</key>" + secret + "<key>IMEI</key>" + secret)},
	} {
		m.Device, m.At = phone, noon
		body, _ := webhook.Body(m, webhook.NanoMDM, true)
		open := opened(body)
		if findSentinel(open) != "" {
			t.Errorf("%s leaves: %s", name, open)
		}
		if bytes.Contains(m.Raw, []byte(harmlessText)) && !bytes.Contains(open, []byte(harmlessText)) {
			t.Errorf("%s: nothing is left in %s", name, open)
		}
		checkNano(t, body)
	}
}

func TestWhatWaitsIsReducedOnceRawPayloadsAreOff(t *testing.T) {
	h := newHouse(t)
	r := newReceiver(t)
	made := h.target(t, webhook.NanoMDM, r.URL, withEvents("mdm.Connect", "mdm.TokenUpdate"), withRaw)
	r.status(503)
	answer := acknowledged("1", "A")
	answer.Raw = list("<key>UDID</key><string>UDID-1</string><key>Status</key><string>Acknowledged</string><key>CommandUUID</key><string>A</string><key>QueryResponses</key><dict><key>PhoneNumber</key><string>" + sentinelText + "</string></dict>")
	update := mdm.Message{Topic: "mdm.TokenUpdate", Device: someDevice("2"), Raw: list("<key>UDID</key><string>UDID-2</string><key>MessageType</key><string>TokenUpdate</string><key>Topic</key><string>com.apple.mgmt.External.1</string><key>PushMagic</key><string>" + sentinelText + "</string>")}
	h.hear(t, answer)
	h.hear(t, update)
	h.settle(t)
	before := len(r.got())
	if before == 0 || findSentinel(opened(r.got()[0].body)) == "" {
		t.Fatal("nothing was sent raw while that was on")
	}
	if _, err := h.Update(t.Context(), "user:ana", made.ID, webhook.Change{RawPayloads: ptr(false)}); err != nil {
		t.Fatal(err)
	}
	r.status(200)
	h.pass(12 * time.Hour)
	h.settle(t)
	after := r.got()[before:]
	if len(after) != 2 {
		t.Fatalf("%d requests, want what waited", len(after))
	}
	for _, p := range after {
		checkNano(t, p.body)
		open := opened(p.body)
		if findSentinel(open) != "" {
			t.Errorf("what waited is still sent raw: %s", open)
		}
		if bytes.Contains(open, []byte("TokenUpdate</string>")) && !bytes.Contains(open, []byte("com.apple.mgmt.External.1")) {
			t.Errorf("a reduced TokenUpdate without its topic: %s", open)
		}
	}
}

func TestEventsAreCloudEvents(t *testing.T) {
	h := newHouse(t)
	r := newReceiver(t)
	h.target(t, webhook.CloudEvents, r.URL, withEvents("device."), func(c *webhook.Change) { c.Secret = ptr(seal.Secret("s3cret")) })
	h.happen(t, event.Event{
		Action: "device.enrolled", DeviceID: "mac", User: "ana@example.com", Peer: sentinelText,
		Details: map[string]string{"serial_number": "C02", "something_unlisted": sentinelText},
	})
	h.happen(t, event.Event{Action: "user.login", User: "ana@example.com"})
	h.settle(t)

	got := r.decoded(t)
	for name, want := range map[string]any{
		"specversion": "1.0", "type": "gatehouse.device.enrolled", "source": "https://mdm.example.com", "subject": "mac",
		"datacontenttype": "application/json", "time": noon.Format(time.RFC3339),
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	if s, _ := got["sequence"].(string); len(s) != 20 {
		t.Errorf("sequence %q does not sort as text", s)
	}
	data, _ := got["data"].(map[string]any)
	if data["device_id"] != "mac" || data["user"] != "ana@example.com" || data["id"] != got["id"] {
		t.Errorf("data %v", data)
	}
	p := r.got()[0]
	if findSentinel(p.body) != "" {
		t.Errorf("an unlisted field leaves: %s", p.body)
	}
	if p.header.Get("Content-Type") != "application/cloudevents+json; charset=utf-8" || p.header.Get("webhook-id") == "" || p.header.Get("X-Hmac-Signature") == "" {
		t.Errorf("headers %v", p.header)
	}
	for name, values := range p.header {
		if strings.Contains(strings.Join(values, " "), "s3cret") {
			t.Errorf("the secret is in header %s", name)
		}
	}
}
