package command_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// The table itself, read as it stands and not by way of package command.
func table(t *testing.T) []map[string]any {
	t.Helper()
	data, err := os.ReadFile("commands.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Commands []map[string]any }
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	return file.Commands
}

// someone is a device of the matrix below, in the words of an enrollment.
type someone struct {
	platform   string
	enrollment string // device, user, account_device or user_channel
	version    string
	supervised *bool
	ade        *bool
	shared     *bool
	rights     int
}

func (s someone) target() command.Target {
	return command.Target{
		Platform: command.Platform(s.platform), OSVersion: s.version, UserEnrollment: s.enrollment == "user", UserChannel: s.enrollment == "user_channel",
		Supervised: s.supervised, ADE: s.ade, SharedIPad: s.shared, AccessRights: s.rights,
	}
}

// mayGet is the rule: what the table says of a command and a device, as plainly as can be.
func (s someone) mayGet(cmd map[string]any) bool {
	facts, _ := cmd["platforms"].(map[string]any)[s.platform].(map[string]any)
	if facts == nil {
		return false
	}
	sharing, _ := facts["sharedIPad"].(map[string]any)
	isTrue := func(b *bool) bool { return b != nil && *b }
	// Only an iPad is a Shared iPad, and of iPads only a Shared iPad has user channels.
	shared := s.platform == "ios" && (isTrue(s.shared) || s.enrollment == "user_channel")

	if s.version != "" {
		introduced, _ := facts["introduced"].(string)
		removed, _ := cmd["removedFromSchema"].(string)
		if older(s.version, introduced) || removed != "" && !older(s.version, removed) {
			return false
		}
	}
	if s.enrollment == "user" && facts["userEnrollment"] != "allowed" {
		return false
	}
	if s.enrollment == "user_channel" {
		switch {
		case s.platform == "macos" && facts["userChannel"] == true:
		case shared && sharing["userChannel"] == true:
		default:
			return false
		}
	} else {
		if s.platform == "macos" && facts["deviceChannel"] == false {
			return false
		}
		if shared && sharing["deviceChannel"] == false {
			return false
		}
	}
	if sharing["mode"] == "required" && !shared || sharing["mode"] == "forbidden" && shared {
		return false
	}
	if facts["supervised"] == true && !isTrue(s.supervised) || facts["requiresADE"] == true && !isTrue(s.ade) {
		return false
	}
	if right, ok := facts["accessRightBit"].(float64); ok && s.rights != 0 && s.enrollment != "user" {
		return s.rights&int(right) != 0
	}
	return true
}

// older compares OS versions; one that the table does not give is as old as can be.
func older(a, b string) bool {
	if b == "" {
		return false
	}
	number := func(v string, i int) int {
		parts := strings.Split(v, ".")
		if i >= len(parts) {
			return 0
		}
		n, _ := strconv.Atoi(parts[i])
		return n
	}
	for i := range 3 {
		if x, y := number(a, i), number(b, i); x != y {
			return x < y
		}
	}
	return false
}

// everyone yields devices of a platform in all that decides on commands. What rights they have
// is varied by itself: it hangs together with nothing else.
func everyone(platform, introduced string) []someone {
	yes, no := true, false
	maybe := []*bool{nil, &yes, &no}
	var all []someone
	for _, enrollment := range []string{"device", "user", "account_device", "user_channel"} {
		for _, version := range []string{"", "1.0", introduced, "27.0"} {
			for _, supervised := range maybe {
				for _, ade := range maybe {
					for _, shared := range maybe {
						all = append(all, someone{platform, enrollment, version, supervised, ade, shared, 0})
					}
				}
			}
		}
		for _, shared := range maybe {
			all = append(all, someone{platform, enrollment, introduced, &yes, &yes, shared, 8191})
			for bit := 1; bit < 8192; bit *= 2 {
				all = append(all, someone{platform, enrollment, introduced, &yes, &yes, shared, 8191 &^ bit})
			}
		}
	}
	return all
}

func TestEveryCommandIsRefusedWhereTheTableSaysSo(t *testing.T) {
	commands := table(t)
	if len(commands) != 68 {
		t.Fatalf("the table has %d commands, want 68", len(commands))
	}
	allowed := 0
	for _, cmd := range commands {
		name := cmd["name"].(string)
		t.Run(name, func(t *testing.T) {
			typ, ok := command.Lookup(name)
			if !ok {
				t.Fatal("it is not known")
			}
			for _, platform := range []string{"ios", "macos", "tvos", "visionos", "watchos"} {
				introduced := "18.0"
				if facts, _ := cmd["platforms"].(map[string]any)[platform].(map[string]any); facts != nil {
					introduced, _ = facts["introduced"].(string)
				}
				for _, s := range everyone(platform, introduced) {
					// RemoveApplication on a personal Mac is allowed from a version on: see TestCheck.
					if name == "RemoveApplication" && platform == "macos" && s.enrollment == "user" {
						continue
					}
					want := s.mayGet(cmd)
					err := typ.Check(s.target())
					if want {
						allowed++
					}
					if got := err == nil; got != want {
						t.Fatalf("Check(%s, enrolled as %s) = %v; by the table it is allowed: %v", s.target(), s.enrollment, err, want)
					}
					if no := new(command.Refusal); err != nil && (!errors.As(err, &no) || no.Code == "" || !strings.HasPrefix(no.Reason, name+" ") || !strings.HasSuffix(no.Reason, ".")) {
						t.Fatalf("Check(%s) = %#v, want a code and a sentence about %s", s.target(), err, name)
					}
				}
			}
		})
	}
	if allowed == 0 {
		t.Error("nothing is allowed to anybody")
	}
}

// What is refused since something is not known is not refused to somebody of whom it is known,
// and is; and what is not refused then, is refused to nobody of whom it is known.
func TestUnknownIsNotYes(t *testing.T) {
	yes, no := true, false
	for _, typ := range command.Types() {
		for _, p := range command.Platforms() {
			for fact, set := range map[string]func(*command.Target, *bool){
				"supervision": func(t *command.Target, b *bool) { t.Supervised = b },
				"ADE":         func(t *command.Target, b *bool) { t.ADE = b },
			} {
				target := command.Target{Platform: p, Supervised: &yes, ADE: &yes, SharedIPad: &yes}
				set(&target, nil)
				unknown := code(typ.Check(target))
				set(&target, &no)
				without := code(typ.Check(target))
				set(&target, &yes)
				with := code(typ.Check(target))
				switch {
				case strings.HasSuffix(unknown, "_unknown") && (with != "" || !strings.HasSuffix(without, "_required")):
					t.Errorf("%s on %s, %s unknown: %s; known: %q, not so: %q", typ.RequestType, p, fact, unknown, with, without)
				case unknown == "" && (with != "" || without != ""):
					t.Errorf("%s on %s is allowed while %s is unknown, but else %q and %q", typ.RequestType, p, fact, with, without)
				}
			}
		}
	}
}

func TestCheckParamsForKeysOfEveryDevice(t *testing.T) {
	yes, no := true, false
	item := func(name, more string) string {
		return `<key>Settings</key><array><dict><key>Item</key><string>OrganizationInfo</string></dict><dict><key>Item</key><string>` + name + `</string>` + more + `</dict></array>`
	}
	for name, tt := range map[string]struct {
		requestType, params string
		target              command.Target
		code                string // empty: allowed
		reason              string
	}{
		"a key that the platform lacks": {
			"EraseDevice", `<key>PreserveDataPlan</key><true/>`, command.Target{Platform: command.MacOS},
			command.CodePlatform, "EraseDevice with PreserveDataPlan does not exist on macOS.",
		},
		"its default is as good as none": {
			"EraseDevice", `<key>PreserveDataPlan</key><false/>`, command.Target{Platform: command.MacOS}, "", "",
		},
		"a PIN is a Mac's, and others pass over it": {
			"EraseDevice", `<key>PIN</key><string>123456</string>`, command.Target{Platform: command.IOS}, "", "",
		},
		"a key that is newer": {
			"ProfileList", `<key>ManagedOnly</key><true/>`, command.Target{Platform: command.IOS, OSVersion: "12.5"},
			command.CodeOSVersion, "ProfileList with ManagedOnly needs iOS and iPadOS 13.0 or later; this device runs 12.5.",
		},
		"a key that has come": {
			"ProfileList", `<key>ManagedOnly</key><true/>`, command.Target{Platform: command.IOS, OSVersion: "13.0"}, "", "",
		},
		"a key within a key": {
			"EraseDevice", `<key>ReturnToService</key><dict><key>Enabled</key><true/><key>ShouldRetryEnrollment</key><true/></dict>`, command.Target{Platform: command.IOS, OSVersion: "18.2"},
			command.CodeOSVersion, "EraseDevice with ReturnToService.ShouldRetryEnrollment needs iOS and iPadOS 27 or later",
		},
		"a key that Apple's page gives to other platforms": {
			"EraseDevice", `<key>ReturnToService</key><dict><key>Enabled</key><true/><key>BootstrapToken</key><data>AA==</data></dict>`, command.Target{Platform: command.TVOS},
			command.CodePlatform, "ReturnToService.BootstrapToken does not exist on tvOS",
		},
		"an element that is gone": {
			"Settings", item("SoftwareUpdateSettings", ""), command.Target{Platform: command.IOS, OSVersion: "27.0", Supervised: &yes},
			command.CodeOSVersion, "Settings with SoftwareUpdateSettings was removed in iOS and iPadOS 27.0",
		},
		"an element that needs supervision": {
			"Settings", item("Wallpaper", ""), command.Target{Platform: command.IOS, Supervised: &no},
			command.CodeSupervision, "Settings with Wallpaper needs a supervised device.",
		},
		"supervision that is not known": {
			"Settings", item("Wallpaper", ""), command.Target{Platform: command.IOS},
			command.CodeSupervisionUnknown, "refresh its information first",
		},
		"supervision that is there": {
			"Settings", item("Wallpaper", ""), command.Target{Platform: command.IOS, Supervised: &yes}, "", "",
		},
		"two reasons, the certain one first": {
			"Settings", `<key>Settings</key><array><dict><key>Item</key><string>Wallpaper</string></dict><dict><key>Item</key><string>HostName</string></dict><dict><key>Item</key><string>TimeZone</string></dict></array>`,
			command.Target{Platform: command.IOS}, command.CodePlatform,
			"Settings with HostName does not exist on iOS and iPadOS. Settings with Wallpaper, TimeZone needs a supervised device, and",
		},
		"an element with a right of its own": {
			"Settings", item("ApplicationConfiguration", ""), command.Target{Platform: command.MacOS, AccessRights: 8191 &^ 4096},
			command.CodeAccessRight, "AllowAppInstallation (4096): this enrollment's rights do not cover it",
		},
		"an element for the device only": {
			"Settings", item("ApplicationConfiguration", ""), command.Target{Platform: command.MacOS, UserChannel: true},
			command.CodeChannel, "not to one of its users",
		},
		"an element for a Shared iPad's user only": {
			"Settings", item("AccessibilitySettings", ""), command.Target{Platform: command.IOS, OSVersion: "18", Supervised: &yes, SharedIPad: &yes},
			command.CodeChannel, "to a user of a device",
		},
		"an element for Shared iPads": {
			"Settings", item("DiagnosticSubmission", ""), command.Target{Platform: command.IOS, SharedIPad: &no},
			command.CodeSharedIPadRequired, "needs a Shared iPad",
		},
		"an iPad that may be one": {
			"Settings", item("DiagnosticSubmission", ""), command.Target{Platform: command.IOS},
			command.CodeSharedIPadUnknown, "not known whether it is a Shared iPad",
		},
		"a key that Shared iPads refuse": {
			"EraseDevice", `<key>DisallowProximitySetup</key><true/>`, command.Target{Platform: command.IOS, SharedIPad: &yes},
			command.CodeSharedIPad, "not allowed on a Shared iPad",
		},
		"a key that Shared iPads pass over": {
			"DeviceLock", `<key>Message</key><string>x</string>`, command.Target{Platform: command.IOS, SharedIPad: &yes}, "", "",
		},
		"a query that the platform lacks is left out": {
			"DeviceInformation", `<key>Queries</key><array><string>HostName</string><string>QuotaSize</string></array>`, command.Target{Platform: command.IOS, AccessRights: 1}, "", "",
		},
		"a platform that is not known, where one takes it": {
			"Settings", item("HostName", ""), command.Target{}, "", "",
		},
		"a platform that is not known, where none takes all": {
			"Settings", `<key>Settings</key><array><dict><key>Item</key><string>HostName</string></dict><dict><key>Item</key><string>Bluetooth</string></dict><dict><key>Item</key><string>Wallpaper</string></dict></array>`,
			command.Target{}, command.CodePlatform, "does not exist on",
		},
		"what no table has is the device's to refuse": {
			"DeviceLock", `<key>Tomorrow</key><true/>`, command.Target{Platform: command.IOS}, "", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			typ, _ := command.Lookup(tt.requestType)
			params, err := command.Params(rawCommand(tt.requestType, tt.params))
			if err != nil {
				t.Fatal(err)
			}
			err = typ.CheckParams(tt.target, params)
			if code(err) != tt.code || err != nil && !strings.Contains(err.Error(), tt.reason) {
				t.Errorf("CheckParams(%s) = %s, %v; want %q with %q", tt.target, code(err), err, tt.code, tt.reason)
			}
		})
	}
}

// Each key of each command, on each platform, refuses what the key's own facts say.
func TestEachKeyOfTheTableIsHeldAgainstItsPlatforms(t *testing.T) {
	checked := 0
	for _, cmd := range table(t) {
		name := cmd["name"].(string)
		typ, _ := command.Lookup(name)
		for _, key := range cmd["keys"].([]any) {
			key := key.(map[string]any)
			if key["source"] == "docs" || key["name"] == "PIN" {
				continue
			}
			for _, platform := range []string{"ios", "macos", "tvos", "visionos", "watchos"} {
				if cmd["platforms"].(map[string]any)[platform] == nil {
					continue
				}
				platforms, _ := key["platforms"].(map[string]any)
				facts, said := platforms[platform]
				in, _ := facts.(map[string]any)
				introduced, _ := in["introduced"].(string)
				want := ""
				switch {
				case said && facts == nil:
					want = command.CodePlatform
				case introduced != "":
					want = command.CodeOSVersion
				}
				target := command.Target{Platform: command.Platform(platform), OSVersion: "1.0"}
				got := code(typ.CheckParams(target, map[string]any{key["name"].(string): "something"}))
				if checked++; got != want {
					t.Errorf("%s with %s on %s 1.0 is refused with %q, want %q", name, key["name"], platform, got, want)
				}
			}
		}
	}
	if checked < 200 {
		t.Errorf("%d keys were looked at", checked)
	}
}

func ExampleType_Check() {
	restart, _ := command.Lookup("RestartDevice")
	fmt.Println(restart.Check(command.Target{Platform: command.IOS}))
	// Output: RestartDevice needs a supervised device, and it is not known whether the device is supervised: refresh its information first.
}
