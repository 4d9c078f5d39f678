package mdm_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// userEnrolled makes a device one of a User Enrollment.
func userEnrolled(id, product, version string) func(*mdm.Device) {
	return func(d *mdm.Device) {
		d.Type, d.AppleID, d.AccessRights = mdm.TypeUser, mdm.AppleID{EnrollmentID: id}, 0
		d.ProductName, d.OSVersion = product, version
	}
}

func TestWhatAUserEnrollmentMayNotBeAskedIsRefusedForItAlone(t *testing.T) {
	queries := func(names string) string {
		return "<key>Queries</key><array><string>" + strings.ReplaceAll(names, " ", "</string><string>") + "</string></array>"
	}
	carry := func(profile string) string {
		return "<key>Payload</key><data>" + base64.StdEncoding.EncodeToString([]byte(profile)) + "</data>"
	}
	configuration := func(keys string) string {
		return "<plist version=\"1.0\"><dict><key>PayloadType</key><string>Configuration</string>" + keys + "</dict></plist>"
	}
	install := func(payloads ...string) string {
		var content string
		for _, p := range payloads {
			content += "<dict><key>PayloadType</key><string>" + p + "</string></dict>"
		}
		return carry(configuration("<key>PayloadContent</key><array>" + content + "</array>"))
	}
	personal := func(of string) map[mdm.DeviceID]string {
		return map[mdm.DeviceID]string{"phone": of, "mac": of, "macuser": of, "unknown": of}
	}
	for name, tt := range map[string]struct {
		requestType, params string
		refused             map[mdm.DeviceID]string // what the reason names
	}{
		"a serial number":              {"DeviceInformation", queries("DeviceName SerialNumber"), personal("SerialNumber")},
		"a name":                       {"DeviceInformation", queries("DeviceName"), nil},
		"the person's own app":         {"InstallApplication", "<key>ChangeManagementState</key><string>Managed</string>", personal("ChangeManagementState")},
		"a VPN for the whole device":   {"InstallProfile", install("com.apple.vpn.managed"), personal("com.apple.vpn.managed")},
		"a VPN and a root":             {"InstallProfile", install("com.apple.vpn.managed", "com.apple.security.root"), map[mdm.DeviceID]string{"phone": "com.apple.vpn.managed"}},
		"a root":                       {"InstallProfile", install("com.apple.security.root"), nil},
		"a profile that can't be read": {"InstallProfile", carry("hello"), personal("can't be read, so nobody knows")},
		"a profile that is binary":     {"InstallProfile", carry("bplist00\xd1\x01\x02"), personal("plutil -convert xml1")},
		"a profile that is no data":    {"InstallProfile", "<key>Payload</key><string>aGVsbG8=</string>", personal("can't be read")},
		"a profile with one key twice, of which a device takes either": {"InstallProfile", carry(configuration("<key>PayloadDescription</key><string/><key>PayloadDescription</key><string/>" +
			"<key>PayloadContent</key><array><dict><key>PayloadType</key><string>com.apple.vpn.managed</string></dict></array>")), personal("can't be read")},
		"a profile that is encrypted":        {"InstallProfile", carry(configuration("<key>EncryptedPayloadContent</key><data>AAAA</data>")), nil},
		"an InstallProfile without one":      {"InstallProfile", "", nil},
		"a type that no table knows":         {"BrandNew", queries("SerialNumber"), nil},
		"a whole command that is not for it": {"EraseDevice", "", personal("EraseDevice")},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			ids := []mdm.DeviceID{
				b.device(t, "phone", userEnrolled("E1", "iPhone17,2", "18.2")),
				b.device(t, "mac", userEnrolled("E2", "Mac14,2", "15.2")),
				b.device(t, "macuser", userEnrolled("E3", "Mac14,2", "15.2"), func(d *mdm.Device) { d.Type, d.ParentID, d.UserID = mdm.TypeUserChannel, "mac", "U" }),
				b.device(t, "unknown", userEnrolled("E4", "", "")),
				b.device(t, "office"),
			}
			cmd, rejected, err := b.Enqueue(context.Background(), rawCommand("1", tt.requestType, tt.params, ids...))
			if err != nil {
				t.Fatal(err)
			}
			if len(cmd.Targets)+len(rejected) != len(ids) || len(rejected) != len(tt.refused) {
				t.Errorf("%d devices get it, rejected %+v; want %v", len(cmd.Targets), rejected, tt.refused)
			}
			for _, r := range rejected {
				if want := tt.refused[r.DeviceID]; want == "" || r.Code != "forbidden_in_user_enrollment" || !strings.Contains(r.Reason, want) {
					t.Errorf("%s: %s, %q; want one that names %q", r.DeviceID, r.Code, r.Reason, want)
				}
			}
		})
	}
}

func TestACommandThatCannotBeReadGoesToNoUserEnrollment(t *testing.T) {
	b := newBench(t)
	c := mdm.NewCommand{UUID: "1", RequestType: "DeviceInformation", Plist: []byte("x"), Targets: []mdm.DeviceID{b.device(t, "a", userEnrolled("E1", "iPhone17,2", ""))}}
	if _, _, err := b.Enqueue(context.Background(), c); !errors.Is(err, command.ErrRaw) {
		t.Errorf("Enqueue of no command: %v, want ErrRaw", err)
	}
}

func TestOneQuestionGoesToDevicesOfAllKinds(t *testing.T) {
	b := newBench(t)
	personal, office := b.device(t, "a", userEnrolled("E1", "iPhone17,2", "18.2")), b.device(t, "b")
	plist, err := command.Build("DeviceInformation", nil, "1")
	if err != nil {
		t.Fatal(err)
	}
	_, rejected, err := b.Enqueue(context.Background(), mdm.NewCommand{UUID: "1", RequestType: "DeviceInformation", Plist: plist, Targets: []mdm.DeviceID{personal, office}})
	if err != nil || len(rejected) > 0 {
		t.Fatalf("rejected %+v, %v", rejected, err)
	}
	for range 2 { // again at the next Idle
		for id, want := range map[mdm.DeviceID]bool{personal: false, office: true} {
			got := b.deliver(t, id, true)
			if asked := strings.Contains(string(got), "SerialNumber"); asked != want || !strings.Contains(string(got), "DeviceName") {
				t.Errorf("device %s is asked for its serial number: %v, want %v:\n%s", id, asked, want, got)
			}
		}
	}
}

func TestNothingPersonalOfAUserEnrollmentIsKept(t *testing.T) {
	const secret = "OF-THIS-VERY-DEVICE" // in each value that must not be kept
	everything := func(names ...string) string {
		values := make(map[string]string, len(names))
		for _, name := range names {
			values[name] = secret
		}
		b, err := json.Marshal(values)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	personal := everything("UDID", "ProvisioningUDID", "SerialNumber", "IMEI", "MEID", "PhoneNumber", "ICCID", "WiFiMAC", "BluetoothMAC", "EthernetMAC",
		"iTunesStoreAccountHash", "SoftwareUpdateDeviceID", "SIMMCC", "CurrentCarrierNetwork", "AccessibilitySettings")
	for name, tt := range map[string]struct{ requestType, answer, kept string }{
		"asked what it is":                    {"DeviceInformation", `{"QueryResponses":` + strings.Replace(personal, "{", `{"DeviceName":"iPhone","ServiceSubscriptions":[`+personal+`],`, 1) + `}`, `{"QueryResponses":{"DeviceName":"iPhone"}}`},
		"asked how safe it is":                {"SecurityInfo", `{"SecurityInfo":{"HardwareEncryptionCaps":3,"PasscodePresent":"` + secret + `"},"SerialNumber":"` + secret + `"}`, `{"SecurityInfo":{"HardwareEncryptionCaps":3}}`},
		"asked to lock":                       {"DeviceLock", personal, ""},
		"asked for its profiles":              {"ProfileList", `{"ProfileList":[{"PayloadIdentifier":"a"}],"UDID":"` + secret + `"}`, `{"ProfileList":[{"PayloadIdentifier":"a"}]}`},
		"asked what it should not understand": {"BrandNew", personal, ""},
		"with an answer that is no object":    {"DeviceLock", `["` + secret + `"]`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			id := b.device(t, "a", userEnrolled("E1", "iPhone17,2", "18.2"), func(d *mdm.Device) {
				d.UDID, d.SerialNumber, d.IMEI, d.MEID = secret, secret, secret, secret
			})
			if _, _, err := b.Enqueue(context.Background(), rawCommand("1", tt.requestType, "", id)); err != nil {
				t.Fatal(err)
			}
			b.next(t, id, true)
			b.update(t, func(tx storage.Tx) error {
				e, err := b.Record(tx, id, mdm.Report{CommandUUID: "1", State: mdm.Acknowledged, Result: json.RawMessage(tt.answer)})
				if err != nil {
					return err
				}
				if string(e.Result) != tt.kept {
					t.Errorf("kept %s, want %s", e.Result, tt.kept)
				}
				d, err := mdm.GetDevice(tx, id)
				if err != nil {
					return err
				}
				return mdm.LearnInformation(tx, &d, json.RawMessage(tt.answer)) // as the device said it
			})
			b.noneOf(t, secret)
			o, err := b.Device(context.Background(), id)
			if err != nil {
				t.Fatal(err)
			}
			if text := fmt.Sprintf("%+v", o); strings.Contains(text, secret) {
				t.Errorf("the device is known as %s", text)
			}
		})
	}
}

// noneOf looks for a text in all that package mdm stores.
func (b *bench) noneOf(t testing.TB, text string) {
	t.Helper()
	err := b.db.View(context.Background(), func(tx storage.Tx) error {
		for _, bucket := range []string{"devices", "device_attributes", "device_eligibility", "device_secrets", "queue", "command_history", "commands"} {
			for item, err := range tx.Scan(bucket, storage.Range{}) {
				if err != nil {
					return err
				}
				if strings.Contains(string(item.Value), text) || strings.Contains(string(item.Key), text) {
					t.Errorf("%s holds %s", bucket, item.Value)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOtherDevicesMayTellAll(t *testing.T) {
	b := newBench(t)
	id := b.device(t, "a")
	b.enqueue(t, "1", id)
	b.next(t, id, true)
	const answer = `{"SerialNumber":"C02","UDID":"00"}`
	b.update(t, func(tx storage.Tx) error {
		e, err := b.Record(tx, id, mdm.Report{CommandUUID: "1", State: mdm.Acknowledged, Result: json.RawMessage(answer)})
		if err == nil && string(e.Result) != answer {
			t.Errorf("kept %s, want %s", e.Result, answer)
		}
		return err
	})
}

func TestWhatIsInACommandIsHeldAgainstEachDevice(t *testing.T) {
	yes, no := true, false
	carry := func(payloadType string) string {
		profile := "<plist version=\"1.0\"><dict><key>PayloadType</key><string>Configuration</string><key>PayloadContent</key><array><dict><key>PayloadType</key><string>" +
			payloadType + "</string></dict></array></dict></plist>"
		return "<key>Payload</key><data>" + base64.StdEncoding.EncodeToString([]byte(profile)) + "</data>"
	}
	settings := func(items ...string) string {
		return "<key>Settings</key><array><dict><key>Item</key><string>" + strings.Join(items, "</string></dict><dict><key>Item</key><string>") + "</string></dict></array>"
	}
	for name, tt := range map[string]struct {
		requestType, params string
		refused             map[mdm.DeviceID]string // its code
	}{
		"a wallpaper": {"Settings", settings("OrganizationInfo", "Wallpaper"), map[mdm.DeviceID]string{
			"free": "supervision_required", "unasked": "supervision_unknown", "mac": "unsupported_platform",
		}},
		"a name of the organization":                             {"Settings", settings("OrganizationInfo"), nil},
		"a query of other devices":                               {"DeviceInformation", "<key>Queries</key><array><string>HostName</string></array>", nil},
		"a PIN, which is a Mac's":                                {"DeviceLock", "<key>PIN</key><string>123456</string>", nil},
		"a proxy for all":                                        {"InstallProfile", carry("com.apple.proxy.http.global"), map[mdm.DeviceID]string{"free": "supervision_required", "unasked": "supervision_unknown"}},
		"a profile that can't be read is the device's to refuse": {"InstallProfile", "<key>Payload</key><data>aGVsbG8=</data>", nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			ids := []mdm.DeviceID{
				b.device(t, "office", func(d *mdm.Device) { d.Supervised = &yes }),
				b.device(t, "free", func(d *mdm.Device) { d.Supervised = &no }),
				b.device(t, "unasked"),
				b.device(t, "mac", func(d *mdm.Device) {
					d.ProductName, d.OSVersion, d.Supervised, d.UserApproved = "Mac14,2", "15.2", &yes, &yes
				}),
			}
			_, rejected, err := b.Enqueue(context.Background(), rawCommand("1", tt.requestType, tt.params, ids...))
			if err != nil {
				t.Fatal(err)
			}
			got := make(map[mdm.DeviceID]string)
			for _, r := range rejected {
				got[r.DeviceID] = r.Code
			}
			if !maps.Equal(got, tt.refused) {
				t.Errorf("refused %+v; want %v", rejected, tt.refused)
			}
		})
	}
}

// Whoever sends such a profile by a command of his own means the library: the device would
// take a SCEP payload without a URL.
func TestAPlaceForACertificateGoesToNobodyAsItIs(t *testing.T) {
	const place = "<key>PayloadType</key><string>com.apple.security.scep</string><key>PayloadContent</key><dict><key>CertificateTemplate</key><string>wifi</string></dict>"
	carry := "<key>Payload</key><data>" + base64.StdEncoding.EncodeToString([]byte(
		"<plist version=\"1.0\"><dict><key>PayloadType</key><string>Configuration</string><key>PayloadContent</key><array><dict>"+place+"</dict></array></dict></plist>")) + "</data>"
	b := newBench(t)
	id := b.device(t, "phone")
	cmd, rejected, err := b.Enqueue(context.Background(), rawCommand("1", "InstallProfile", carry, id))
	if err != nil {
		t.Fatal(err)
	}
	if len(cmd.Targets) != 0 || len(rejected) != 1 || rejected[0].Code != "certificate_template" || !strings.Contains(rejected[0].Reason, "template wifi,") {
		t.Errorf("it goes to %v, refused %+v; want it refused for the template", cmd.Targets, rejected)
	}
	filled := rawCommand("2", "InstallProfile", carry, id)
	filled.Personalize = func(storage.Tx, mdm.Device) (mdm.Values, error) { return mdm.Values{}, nil }
	if cmd, rejected, err := b.Enqueue(context.Background(), filled); err != nil || len(cmd.Targets) != 1 {
		t.Errorf("with what fills it in: to %v, refused %+v, %v", cmd.Targets, rejected, err)
	}
}

func TestAnIPhoneIsNoSharedIPad(t *testing.T) {
	b := newBench(t)
	for product, want := range map[string]string{"iPhone17,2": "shared_ipad_required", "iPad14,3": "shared_ipad_unknown"} {
		id := b.device(t, product, func(d *mdm.Device) { d.ProductName = product })
		_, rejected, err := b.Enqueue(context.Background(), rawCommand(product, "LogOutUser", "", id))
		if err != nil || len(rejected) != 1 || rejected[0].Code != want {
			t.Errorf("LogOutUser to %s: %+v, %v; want %s", product, rejected, err, want)
		}
	}
}

func TestWhoCameByAutomatedDeviceEnrollment(t *testing.T) {
	yes := true
	mac := func(change func(*mdm.Device)) func(*mdm.Device) {
		return func(d *mdm.Device) {
			d.ProductName, d.OSVersion = "Mac14,2", "15.2"
			change(d)
		}
	}
	for name, tt := range map[string]struct {
		change func(*mdm.Device)
		want   string
	}{
		"a Mac that enrolled by a page":     {mac(func(d *mdm.Device) { d.AttemptID = "attempt" }), "automated_device_enrollment_required"},
		"a Mac that enrolled by an account": {mac(func(d *mdm.Device) { d.Type = mdm.TypeAccountDevice }), "automated_device_enrollment_required"},
		"a Mac from elsewhere":              {mac(func(*mdm.Device) {}), "automated_device_enrollment_unknown"},
		"a Mac that says so":                {mac(func(d *mdm.Device) { d.EnrolledViaDEP = &yes }), ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			_, rejected, err := b.Enqueue(context.Background(), rawCommand("1", "SetAutoAdminPassword", "", b.device(t, "a", tt.change)))
			if err != nil {
				t.Fatal(err)
			}
			var got string
			if len(rejected) > 0 {
				got = rejected[0].Code
			}
			if got != tt.want {
				t.Errorf("SetAutoAdminPassword is refused with %q, want %q", got, tt.want)
			}
		})
	}
}

func TestEligibilityOfAnOlderVersionIsRead(t *testing.T) {
	b := newBench(t)
	id := b.device(t, "a")
	queue := func(uuid, requestType string) (rejected []mdm.Rejection, err error) {
		_, rejected, err = b.Enqueue(context.Background(), rawCommand(uuid, requestType, "", id))
		return rejected, err
	}
	put := func(record string) {
		b.update(t, func(tx storage.Tx) error { return tx.Put("device_eligibility", []byte(id), []byte(record)) })
	}
	put("enrolled\x00ios\x0018.2\x00true\x00false\x00false\x000")
	if rejected, err := queue("1", "EraseDevice"); err != nil || len(rejected) != 1 || rejected[0].Code != "forbidden_in_user_enrollment" {
		t.Errorf("EraseDevice by a record of seven fields: %+v, %v", rejected, err)
	}
	if rejected, err := queue("2", "ProfileList"); err != nil || len(rejected) > 0 {
		t.Errorf("ProfileList by a record of seven fields: %+v, %v", rejected, err)
	}
	put("enrolled\x00ios\x0018.2\x00false\x00false\x00true\x000\x00")
	if rejected, err := queue("4", "RestartDevice"); err != nil || len(rejected) > 0 {
		t.Errorf("RestartDevice by a record of eight fields: %+v, %v", rejected, err)
	}
	if rejected, err := queue("5", "LogOutUser"); err != nil || len(rejected) != 1 || rejected[0].Code != "shared_ipad_unknown" {
		t.Errorf("LogOutUser by a record of eight fields: %+v, %v", rejected, err)
	}
	put("enrolled\x00ios")
	if _, err := queue("3", "ProfileList"); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("ProfileList by half a record: %v, want ErrCorrupt", err)
	}
}
