package command_test

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// inUserEnrollment is copied from the table of PROTOCOL 5.5, so that the facts
// are held against something that is not read from them: a command, the platforms where a
// User Enrollment may have it, and those that know it. i iOS, m macOS, t tvOS, v visionOS,
// w watchOS, - none.
const inUserEnrollment = `
AccountConfiguration - m
ActivationLockBypassCode - imv
ActiveNSExtensions - m
ApplyRedemptionCode - i
AvailableOSUpdates - imt
CancelEnhancedLogCollection - imt
CertificateList imv imtvw
ClearActivationLockBypassCode - imv
ClearPasscode - ivw
ClearRestrictionsPassword - i
ContentCachingInformation - m
DeclarativeManagement imv imtvw
DeleteUser - im
DeviceConfigured - imtv
DeviceInformation imv imtvw
DeviceLocation - i
DeviceLock iv imvw
DisableLostMode - i
DisableRemoteDesktop - m
EnableLostMode - i
EnableRemoteDesktop - m
EraseDevice - imtvw
InstallApplication imv imtvw
InstallEnterpriseApplication m m
InstallMedia i im
InstallProfile imv imtvw
InstallProvisioningProfile imv imtvw
InstalledApplicationList iv imtvw
InviteToProgram - im
LOMDeviceRequest - m
LOMSetupRequest - m
LogOutUser - i
ManagedApplicationAttributes iv itvw
ManagedApplicationConfiguration imv imtvw
ManagedApplicationFeedback iv imtv
ManagedApplicationList imv imtvw
ManagedMediaList i i
NSExtensionMappings - m
OSUpdateStatus - imt
PlayLostModeSound - i
ProfileList imv imtvw
ProvisioningProfileList imv imtvw
RefreshCellularPlans - i
RemoveApplication imv imtvw
RemoveMedia i i
RemoveProfile imv imtvw
RemoveProvisioningProfile imv imtvw
RequestMirroring im im
RequestUnlockToken - i
RestartDevice - imt
Restrictions - itvw
RotateFileVaultKey - m
ScheduleOSUpdate - imt
ScheduleOSUpdateScan - m
SecurityInfo imv imtvw
SetAutoAdminPassword - m
SetFirmwarePassword - m
SetRecoveryLock - m
Settings imv imtvw
ShutDownDevice - im
StopMirroring - im
TriggerEnhancedLogCollection - imt
UnlockUserAccount - m
UserConfigured - i
UserList - im
ValidateApplications iv itv
VerifyFirmwarePassword - m
VerifyRecoveryLock - m
`

func TestWhatAUserEnrollmentMayHave(t *testing.T) {
	platforms := map[string]command.Platform{"i": command.IOS, "m": command.MacOS, "t": command.TVOS, "v": command.VisionOS, "w": command.WatchOS}
	listed := make(map[string]bool)
	for line := range strings.Lines(strings.TrimSpace(inUserEnrollment)) {
		f := strings.Fields(line)
		name, allowed, known := f[0], f[1], f[2]
		listed[name] = true
		typ, ok := command.Lookup(name)
		if !ok {
			t.Errorf("%s is in no table", name)
			continue
		}
		for letter, p := range platforms {
			var want string
			switch {
			case strings.Contains(allowed, letter):
			case strings.Contains(known, letter):
				want = command.CodeUserEnrollment
			default:
				want = command.CodePlatform
			}
			if got := code(typ.Check(command.Target{Platform: p, UserEnrollment: true})); got != want {
				t.Errorf("%s in a User Enrollment on %s is refused with %q, want %q", name, p, got, want)
			}
		}
		got := typ.Check(command.Target{UserEnrollment: true})
		if (got == nil) != (allowed != "-") {
			t.Errorf("%s in a User Enrollment on an unknown platform: %v; it is allowed on %q", name, got, allowed)
		}
	}
	raw, err := os.ReadFile("commands.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Commands []struct{ Name string } }
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	for _, c := range file.Commands {
		if !listed[c.Name] {
			t.Errorf("%s is not in the list of this test", c.Name)
		}
	}
}

// code returns the code of a Refusal, empty for none.
func code(err error) string {
	var refusal *command.Refusal
	if errors.As(err, &refusal) {
		return refusal.Code
	}
	return ""
}

// rawCommand is a whole command; params are keys and values of a property list.
func rawCommand(requestType, params string) []byte {
	return []byte(`<plist version="1.0"><dict><key>Command</key><dict><key>RequestType</key><string>` + requestType + `</string>` + params +
		`</dict><key>CommandUUID</key><string>` + uuid + `</string></dict></plist>`)
}

func TestCheckParams(t *testing.T) {
	queries := func(names ...string) string {
		return `<key>Queries</key><array><string>` + strings.Join(names, `</string><string>`) + `</string></array>`
	}
	settings := func(items ...string) string {
		return `<key>Settings</key><array><dict><key>Item</key><string>` + strings.Join(items, `</string></dict><dict><key>Item</key><string>`) + `</string></dict></array>`
	}
	for name, tt := range map[string]struct {
		requestType, params string
		target              command.Target
		names               string // in the reason; empty: allowed
	}{
		"a name may be asked for": {
			"DeviceInformation", queries("DeviceName", "OSVersion"), command.Target{Platform: command.IOS, UserEnrollment: true}, "",
		},
		"a serial number may not": {
			"DeviceInformation", queries("DeviceName", "SerialNumber", "IMEI"), command.Target{Platform: command.IOS, UserEnrollment: true}, "with SerialNumber, IMEI is",
		},
		"nor of a Mac": {
			"DeviceInformation", queries("SerialNumber"), command.Target{Platform: command.MacOS, UserEnrollment: true}, "SerialNumber",
		},
		"nor by its user channel": {
			"DeviceInformation", queries("UDID"), command.Target{Platform: command.MacOS, UserEnrollment: true, UserChannel: true}, "UDID",
		},
		"nor of a device of no known kind": {
			"DeviceInformation", queries("UDID"), command.Target{UserEnrollment: true}, "UDID",
		},
		"what another platform alone knows and forbids is not asked of this one": {
			"DeviceInformation", queries("PhoneNumber"), command.Target{Platform: command.MacOS, UserEnrollment: true}, "PhoneNumber",
		},
		"what one platform forbids, another may allow": {
			"DeviceInformation", queries("PushToken"), command.Target{Platform: command.MacOS, UserEnrollment: true}, "",
		},
		"so what is not known is left to the device": {
			"DeviceInformation", queries("PushToken"), command.Target{UserEnrollment: true}, "",
		},
		"other devices tell all": {
			"DeviceInformation", queries("UDID", "SerialNumber"), command.Target{Platform: command.IOS}, "",
		},
		"a query of tomorrow is left to the device": {
			"DeviceInformation", queries("FavouriteColour"), command.Target{Platform: command.IOS, UserEnrollment: true}, "",
		},
		"an app is installed": {
			"InstallApplication", `<key>iTunesStoreID</key><integer>1</integer><key>ManagementFlags</key><integer>1</integer>`,
			command.Target{Platform: command.IOS, UserEnrollment: true}, "",
		},
		"an app of the person's own is not taken over": {
			"InstallApplication", `<key>iTunesStoreID</key><integer>1</integer><key>ChangeManagementState</key><string>Managed</string>`,
			command.Target{Platform: command.IOS, UserEnrollment: true}, "ChangeManagementState",
		},
		"nor a package managed": {
			"InstallEnterpriseApplication", `<key>InstallAsManaged</key><true/>`,
			command.Target{Platform: command.MacOS, UserEnrollment: true}, "InstallAsManaged",
		},
		"a wallpaper is the person's": {
			"Settings", settings("ApplicationConfiguration", "Wallpaper", "DeviceName"), command.Target{Platform: command.IOS, UserEnrollment: true}, "with Wallpaper, DeviceName is",
		},
		"an app's configuration is not": {
			"Settings", settings("ApplicationConfiguration"), command.Target{Platform: command.IOS, UserEnrollment: true}, "",
		},
		"parameters of the wrong kind are the device's to refuse": {
			"Settings", `<key>Settings</key><string>Wallpaper</string>`, command.Target{Platform: command.IOS, UserEnrollment: true}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			typ, _ := command.Lookup(tt.requestType)
			params, err := command.Params(rawCommand(tt.requestType, tt.params))
			if err != nil {
				t.Fatal(err)
			}
			err = typ.CheckParams(tt.target, params)
			if tt.names == "" {
				if err != nil {
					t.Errorf("CheckParams(%+v) = %v, want nil", tt.target, err)
				}
				return
			}
			if code(err) != command.CodeUserEnrollment || !strings.Contains(err.Error(), tt.names) {
				t.Errorf("CheckParams(%+v) = %v, want %s naming %q", tt.target, err, command.CodeUserEnrollment, tt.names)
			}
		})
	}
}

func TestDefaultQueriesAreReduced(t *testing.T) {
	asked := func(raw []byte) []any {
		t.Helper()
		params, err := command.Params(raw)
		if err != nil {
			t.Fatal(err)
		}
		queries, _ := params["Queries"].([]any)
		return queries
	}
	typ, _ := command.Lookup("DeviceInformation")
	built, err := command.Build("DeviceInformation", map[string]any{"RequestRequiresNetworkTether": true}, uuid)
	if err != nil {
		t.Fatal(err)
	}
	params, err := command.Params(built)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []command.Platform{command.IOS, command.MacOS, command.VisionOS, ""} {
		target := command.Target{Platform: p, UserEnrollment: true}
		if err := typ.CheckParams(target, params); err != nil {
			t.Errorf("CheckParams of what Build chose on %q = %v, want nil", p, err)
		}
	}
	reduced, err := command.Reduce(built)
	if err != nil {
		t.Fatal(err)
	}
	var want []any
	for _, q := range command.DefaultQueries(true) {
		want = append(want, q)
	}
	if got := asked(reduced); !slices.Equal(got, want) || len(want) >= len(asked(built)) {
		t.Errorf("Reduce leaves %v, want %v", got, want)
	}
	if id, requestType, err := command.ParseRaw(reduced); id != uuid || requestType != "DeviceInformation" || err != nil {
		t.Errorf("ParseRaw(Reduce) = %q, %q, %v", id, requestType, err)
	}
	if params, _ := command.Params(reduced); params["RequestRequiresNetworkTether"] != true {
		t.Errorf("Reduce loses the network tether: %v", params)
	}
	chosen := rawCommand("DeviceInformation", `<key>Queries</key><array><string>DeviceName</string></array>`)
	if got, err := command.Reduce(chosen); err != nil || string(got) != string(chosen) {
		t.Errorf("Reduce of queries that somebody chose = %s, %v; want them as they are", got, err)
	}
	if _, err := command.Reduce([]byte("x")); !errors.Is(err, command.ErrRaw) {
		t.Errorf("Reduce of no property list = %v, want ErrRaw", err)
	}
}

func TestWithoutPersonal(t *testing.T) {
	for name, tt := range map[string]struct {
		requestType string
		platform    command.Platform
		result      string
		want        string // empty: nothing is left
	}{
		"an iPhone that says too much": {
			"DeviceInformation", command.IOS,
			`{"QueryResponses":{"DeviceName":"iPhone","IMEI":"35","SerialNumber":"C02","UDID":"00","WiFiMAC":"aa"}}`,
			`{"QueryResponses":{"DeviceName":"iPhone"}}`,
		},
		"a Mac too, with what only an iPhone has": {
			"DeviceInformation", command.MacOS,
			`{"QueryResponses":{"EthernetMAC":"aa","HostName":"mac","ICCID":"89","ProvisioningUDID":"00","SIMMCC":"219"}}`,
			`{"QueryResponses":{"HostName":"mac"}}`,
		},
		"a device of no known kind": {
			"DeviceInformation", "", `{"QueryResponses":{"OSVersion":"18.2","PINRequiredForDeviceLock":true,"PhoneNumber":"1"}}`, `{"QueryResponses":{"OSVersion":"18.2"}}`,
		},
		"beside the answers": {
			"DeviceInformation", command.IOS, `{"QueryResponses":{},"SerialNumber":"C02"}`, `{"QueryResponses":{}}`,
		},
		"an answer of tomorrow goes: nobody can say what it tells of a person": {
			"DeviceInformation", command.IOS,
			`{"QueryResponses":{"Batteries":[{"Health":1,"SerialNumber":"B1"}],"OSVersion":"18.2"},"More":"C02"}`, `{"QueryResponses":{"OSVersion":"18.2"}}`,
		},
		"a dictionary where none is documented": {
			"DeviceInformation", command.IOS, `{"QueryResponses":{"OSVersion":{"OSVersion":"18.2"}}}`, `{"QueryResponses":{"OSVersion":{}}}`,
		},
		"what only a Mac is asked, from an iPhone": {
			"DeviceInformation", command.IOS, `{"QueryResponses":{"HostName":"ana","OSVersion":"18.2"}}`, `{"QueryResponses":{"OSVersion":"18.2"}}`,
		},
		"security that is not documented": {
			"SecurityInfo", command.IOS, `{"SecurityInfo":{"HardwareEncryptionCaps":3,"Unknown":"C02"},"More":1}`, `{"SecurityInfo":{"HardwareEncryptionCaps":3}}`,
		},
		"a large number stays exact": {
			"InstalledApplicationList", command.IOS,
			`{"InstalledApplicationList":[{"BundleSize":9007199254740993}],"More":1}`, `{"InstalledApplicationList":[{"BundleSize":9007199254740993}]}`,
		},
		"security of an iPhone": {
			"SecurityInfo", command.IOS,
			`{"SecurityInfo":{"HardwareEncryptionCaps":3,"PasscodePresent":true}}`, `{"SecurityInfo":{"HardwareEncryptionCaps":3}}`,
		},
		"security of a Mac": {
			"SecurityInfo", command.MacOS,
			`{"SecurityInfo":{"FDE_Enabled":true,"FDE_HasPersonalRecoveryKey":true,"FirewallSettings":{"Applications":[{"Name":"Game"}],"FirewallEnabled":true}}}`,
			`{"SecurityInfo":{"FDE_Enabled":true,"FirewallSettings":{"FirewallEnabled":true}}}`,
		},
		"any other answer": {
			"DeviceLock", command.IOS, `{"PhoneNumber":"1","SerialNumber":"C02"}`, "",
		},
		"an answer to a command that no table knows": {
			"BrandNew", command.IOS, `{"Answer":1,"SerialNumber":"C02"}`, "",
		},
		"the apps that the server manages are all kept": {
			"InstalledApplicationList", command.IOS,
			`{"InstalledApplicationList":[{"Identifier":"com.example.app","Name":"App","Version":"1"}]}`,
			`{"InstalledApplicationList":[{"Identifier":"com.example.app","Name":"App","Version":"1"}]}`,
		},
		"an app calls its own things as it likes": {
			"ManagedApplicationFeedback", command.IOS,
			`{"ManagedApplicationFeedback":[{"Feedback":{"Printer":{"SerialNumber":"P1"},"SerialNumber":"S"},"Identifier":"com.example.app"}]}`,
			`{"ManagedApplicationFeedback":[{"Feedback":{"Printer":{"SerialNumber":"P1"},"SerialNumber":"S"},"Identifier":"com.example.app"}]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := command.WithoutPersonal(tt.requestType, tt.platform, json.RawMessage(tt.result))
			if err != nil || string(got) != tt.want {
				t.Errorf("WithoutPersonal(%s, %q, %s) = %s, %v; want %s", tt.requestType, tt.platform, tt.result, got, err, tt.want)
			}
		})
	}
	for _, bad := range []string{"", "null", "[1]", "{"} {
		if got, err := command.WithoutPersonal("DeviceInformation", command.IOS, json.RawMessage(bad)); err == nil {
			t.Errorf("WithoutPersonal(%q) = %s, want an error", bad, got)
		}
	}
}

func FuzzWithoutPersonal(f *testing.F) {
	f.Add("DeviceInformation", "ios", `{"QueryResponses":{"SerialNumber":"C02","DeviceName":"a"}}`)
	f.Add("SecurityInfo", "macos", `{"SecurityInfo":{"FirewallSettings":{"Applications":[{}]}}}`)
	f.Add("ManagedApplicationList", "", `{"ManagedApplicationList":{"com.example.app":{"UDID":[1e400]}}}`)
	f.Fuzz(func(t *testing.T, requestType, platform, result string) {
		kept, err := command.WithoutPersonal(requestType, command.Platform(platform), json.RawMessage(result))
		if err != nil || kept == nil {
			return
		}
		again, err := command.WithoutPersonal(requestType, command.Platform(platform), kept)
		if err != nil || string(again) != string(kept) {
			t.Errorf("what was kept of %q, %s, becomes %s, %v", result, kept, again, err)
		}
	})
}
