package command_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

func TestParseTarget(t *testing.T) {
	yes, no := true, false
	for text, want := range map[string]command.Target{
		"ios:18.2,user":                       {Platform: command.IOS, OSVersion: "18.2", UserEnrollment: true, ADE: &no},
		" iPadOS:17 , Shared-iPad":            {Platform: command.IOS, OSVersion: "17", SharedIPad: &yes},
		"ios,unshared,unsupervised":           {Platform: command.IOS, SharedIPad: &no, Supervised: &no},
		"macos:15.2.1,ade,supervised":         {Platform: command.MacOS, OSVersion: "15.2.1", ADE: &yes, Supervised: &yes},
		"macos,user-channel,approved":         {Platform: command.MacOS, UserChannel: true, Approved: &yes},
		"macos,account-device,unapproved":     {Platform: command.MacOS, ADE: &no, Approved: &no},
		"tvos,device,rights=8191":             {Platform: command.TVOS, AccessRights: 8191},
		"visionos":                            {Platform: command.VisionOS},
		"watchos:11":                          {Platform: command.WatchOS, OSVersion: "11"},
		"user":                                {UserEnrollment: true, ADE: &no},
		"user,user-channel,rights=1":          {UserEnrollment: true, ADE: &no, UserChannel: true, AccessRights: 1},
		"ios:26.0.1.2,supervised,shared-ipad": {Platform: command.IOS, OSVersion: "26.0.1.2", Supervised: &yes, SharedIPad: &yes},
	} {
		got, err := command.ParseTarget(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("ParseTarget(%q) = %+v, %v; want %+v", text, got, err, want)
		}
	}
	for text, reason := range map[string]string{
		"":                       `"" is not known; a target is PLATFORM`,
		"iso":                    `"iso" is not known; did you mean ios?`,
		"iso:18":                 `"iso" is not a platform; did you mean ios?`,
		"ios,usr":                `"usr" is not known; did you mean user?`,
		"ios:18.2,supervise":     "did you mean supervised?",
		"supervised,ios":         `"ios" must come first`,
		"ios,macos":              `"macos" must come first`,
		"ios:":                   `"" is not a version`,
		"ios:18.x":               `"18.x" is not a version such as 18.2`,
		"ios:1.2.3.4.5":          "is not a version",
		"ios:18,":                `"" is not known`,
		"ios,rights=0":           "1 to 8191",
		"ios,rights=8192":        "1 to 8191",
		"ios,rights=all":         "1 to 8191",
		"ios,user,device":        `"user" and "device" can't both be`,
		"ios,user,user":          `"user" and "user" can't both be`,
		"ios,rights=1,rights=2":  "can't both be",
		"user,supervised":        "no personal device is supervised",
		"user,shared-ipad":       "no personal device is shared",
		"macos,shared-ipad":      `"shared-ipad" is for ios`,
		"ios,approved":           `"approved" is for macos`,
		strings.Repeat("x", 999): `"` + strings.Repeat("x", 64) + `…" is not known`,
	} {
		if got, err := command.ParseTarget(text); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("ParseTarget(%q) = %+v, %v; want an error with %s", text, got, err, reason)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	f.Add("ios:18.2,user")
	f.Add("macos,supervised,rights=8191")
	f.Add("ipados,shared-ipad,\x00")
	f.Fuzz(func(t *testing.T, text string) {
		target, err := command.ParseTarget(text)
		if err != nil {
			if !strings.Contains(err.Error(), `"`) {
				t.Errorf("ParseTarget(%q) = %v, which names no word", text, err)
			}
			return
		}
		for _, typ := range command.Types() {
			e, err := command.Explain(typ.RequestType, &target)
			if err != nil || e.Target == "" || (e.Refusal == nil) != (typ.Check(target) == nil) {
				t.Errorf("Explain(%s, %q) = %+v, %v", typ.RequestType, text, e.Refusal, err)
			}
		}
	})
}

func TestEveryCommandIsDescribed(t *testing.T) {
	all := make(map[string]bool)
	for _, typ := range command.Types() {
		d := command.Describe(typ)
		if d.RequestType != typ.RequestType || !slices.Contains(command.Categories(), d.Category) {
			t.Errorf("%s is described as %s, of category %q", typ.RequestType, d.RequestType, d.Category)
		}
		if len(d.Summary) < 12 || !strings.HasSuffix(d.Summary, ".") || all[d.Summary] {
			t.Errorf("%s is %q, want a sentence of its own", typ.RequestType, d.Summary)
		}
		all[d.Summary] = true
		if d.Confirm != typ.Destructive || len(d.Platforms) != len(command.Platforms()) || len(d.Keys) != len(typ.Keys) {
			t.Errorf("%s is described as %+v", typ.RequestType, d)
		}
		for _, name := range typ.Filled {
			i := slices.IndexFunc(d.Keys, func(k command.KeyDescription) bool { return k.Name == name })
			if i < 0 || d.Keys[i].Required {
				t.Errorf("%s fills in %s, which is no key, or required", typ.RequestType, name)
			}
		}
		text, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		for _, list := range []string{"filled", "keys", "items", "values", "choices"} {
			if strings.Contains(string(text), `"`+list+`":null`) {
				t.Errorf("%s as JSON has no list of %s: %s", typ.RequestType, list, text)
			}
		}
	}
}

func TestDescribe(t *testing.T) {
	describe := func(name string) command.Description {
		typ, _ := command.Lookup(name)
		return command.Describe(typ)
	}
	key := func(keys []command.KeyDescription, name string) command.KeyDescription {
		t.Helper()
		i := slices.IndexFunc(keys, func(k command.KeyDescription) bool { return k.Name == name })
		if i < 0 {
			t.Fatalf("no key %s", name)
		}
		return keys[i]
	}
	lock := describe("DeviceLock")
	if lock.Title != "Device lock" || lock.Right == nil || lock.Right.Bit != 4 || lock.Destructive || !slices.Equal(lock.Filled, []string{"PIN"}) {
		t.Errorf("DeviceLock is %+v", lock)
	}
	if pin := key(lock.Keys, "PIN"); !pin.Secret || pin.Type != command.String || pin.Platforms[command.IOS] != nil || pin.Platforms[command.MacOS].Introduced != "10.8" {
		t.Errorf("its PIN is %+v", pin)
	}
	if mac := lock.Platforms[command.MacOS]; !*mac.DeviceChannel || *mac.UserChannel || mac.UserEnrollment != "forbidden" || lock.Platforms[command.TVOS] != nil {
		t.Errorf("it is on Macs %+v, on Apple TVs %+v", mac, lock.Platforms[command.TVOS])
	}
	for name, want := range map[string]string{
		"ActiveNSExtensions": "Active NSExtensions", "AvailableOSUpdates": "Available OS updates", "RotateFileVaultKey": "Rotate FileVault key",
		"LOMSetupRequest": "LOM setup request", "DeviceInformation": "Device information", "Settings": "Settings",
	} {
		if got := describe(name).Title; got != want {
			t.Errorf("%s is titled %q, want %q", name, got, want)
		}
	}
	if !describe("EraseDevice").Confirm {
		t.Error("EraseDevice needs no confirmation")
	}
	if old := describe("ScheduleOSUpdate").Platforms[command.IOS]; old.Removed != "27.0" || !old.Supervised {
		t.Errorf("ScheduleOSUpdate on iOS is %+v", old)
	}
	items := key(describe("Settings").Keys, "Settings").Items
	if hotspot := key(items, "PersonalHotspot").Platforms[command.IOS]; hotspot.Right == nil || hotspot.Right.Bit != 32 {
		t.Errorf("PersonalHotspot needs %+v, want the right 32", hotspot.Right)
	}
	if configuration := key(key(items, "ApplicationConfiguration").Keys, "Configuration"); !configuration.Free || len(configuration.Keys) > 0 {
		t.Errorf("the configuration of an app is %+v, want one of free keys", configuration)
	}
	queries := key(describe("DeviceInformation").Keys, "Queries").Items[0]
	if serial := key(queries.Choices, "SerialNumber"); serial.Platforms[command.IOS].UserEnrollment != "forbidden" || !slices.Contains(queries.Values, "SerialNumber") {
		t.Errorf("the query SerialNumber is %+v", serial)
	}
	if password := key(describe("SetRecoveryLock").Keys, "NewPassword"); !password.Secret {
		t.Errorf("the recovery lock's password is %+v", password)
	}
	if scan := key(describe("RequestMirroring").Keys, "ScanTime"); *scan.Min != 10 || *scan.Max != 300 {
		t.Errorf("ScanTime is %+v", scan)
	}
}

func TestExplain(t *testing.T) {
	explain := func(name, text string) (command.Explanation, string) {
		t.Helper()
		var target *command.Target
		if text != "" {
			parsed, err := command.ParseTarget(text)
			if err != nil {
				t.Fatal(err)
			}
			target = &parsed
		}
		e, err := command.Explain(name, target)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := e.WriteText(&b); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(b.String()) {
			if len([]rune(line)) > 101 || strings.HasSuffix(line, " \n") {
				t.Errorf("the line %q is too long, or ends in spaces", line)
			}
		}
		return e, b.String()
	}
	for name, tt := range map[string]struct {
		command, target string
		has, not        []string
	}{
		"without a target": {"EraseDevice", "", []string{"EraseDevice: Erase device\n", `takes "confirm": true.`, "access right AllowDeviceErase (8)\n", "Keys:\n", "    Enabled  boolean; required\n"}, []string{"refused", "allowed\n"}},
		"allowed":          {"DeviceLock", "ios:18.2,user", []string{"To iOS and iPadOS 18.2, User Enrollment:\n  allowed\n", "filled in by the\n"}, []string{"refused"}},
		"refused":          {"EraseDevice", "ios,user", []string{"  refused (forbidden_in_user_enrollment): EraseDevice is not allowed"}, nil},
		"in part":          {"Settings", "ios,supervised", []string{"  allowed\n", "! refused: does not exist on iOS and iPadOS"}, []string{"needs a supervised device"}},
		"queries":          {"DeviceInformation", "tvos", []string{"HostName; macOS 10.11 or later", "left out of the\n"}, []string{"! refused"}},
		"personal queries": {"DeviceInformation", "macos,user", []string{"! refused: is not allowed on a personal device (User Enrollment)"}, []string{"left out of"}},
		"without keys":     {"DeviceLocation", "", []string{"It has no keys.\n"}, []string{"Keys:"}},
		"a right for some": {"ProvisioningProfileList", "", []string{"iOS and iPadOS 4.0 or later, with the access right AllowProvisioningInspection (64)"}, []string{"  access right"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, text := explain(tt.command, tt.target)
			for _, has := range tt.has {
				if !strings.Contains(text, has) {
					t.Errorf("it lacks %q:\n%s", has, text)
				}
			}
			for _, not := range tt.not {
				if strings.Contains(text, not) {
					t.Errorf("it has %q:\n%s", not, text)
				}
			}
		})
	}
	if _, err := command.Explain("settngs", nil); !errors.Is(err, command.ErrUnknownType) || !strings.Contains(err.Error(), "did you mean Settings?") {
		t.Errorf("Explain of an unknown name: %v", err)
	}
}
