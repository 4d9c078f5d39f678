package mdmtest

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// targets are the devices of TestEveryCommandOnEveryDevice, in the order of its letters.
var targets = []struct {
	name    string
	options Options
	rights  int  // of the enrollment, 8191 when zero
	byod    bool // a User Enrollment
	user    bool // the user channel
}{
	{name: "an iPhone"},
	{name: "a supervised iPad", options: Options{Model: IPad, Supervised: true, ADE: true}},
	{name: "a personal iPhone", byod: true},
	{name: "an old iPhone", options: Options{OSVersion: "12.4", Supervised: true}},
	{name: "an iPhone with 27.0", options: Options{OSVersion: "27.0", Supervised: true}},
	{name: "an iPhone that gives few rights", options: Options{Supervised: true}, rights: 16 + 3},
	{name: "a Mac", options: Options{Model: Mac}},
	{name: "a Mac of the company", options: Options{Model: Mac, Supervised: true, ADE: true, Awaiting: true}},
	{name: "a personal Mac", options: Options{Model: Mac, OSVersion: "26.2"}, byod: true},
	{name: "a Mac's user", options: Options{Model: Mac}, user: true},
	{name: "a user of a Mac with 27.0", options: Options{Model: Mac, OSVersion: "27.0", Supervised: true}, user: true},
	{name: "an Apple TV", options: Options{Model: AppleTV, Supervised: true}},
	{name: "an Apple Vision Pro", options: Options{Model: Vision}},
	{name: "an Apple Watch", options: Options{Model: Watch, Supervised: true}},
	{name: "an older Mac", options: Options{Model: Mac, Intel: true}},
	{name: "a Shared iPad", options: Options{Model: IPad, Supervised: true, ADE: true, Shared: true}},
}

// wantStatuses are the answers to a command that is well formed: A when it is acknowledged,
// E when it is an error, one letter a target. They come from the table of PROTOCOL 5.5, and
// three facts of the simulated hardware: no Mac has lights-out management, passwords depend
// on the processor, and only iPhones have an eSIM.
var wantStatuses = map[string]string{
	"AccountConfiguration":            "EEEEEEEAEEEEEEEE",
	"ActivationLockBypassCode":        "EAEAAAEAEEEEEEEE",
	"ActiveNSExtensions":              "EEEEEEEEEAAEEEEE",
	"ApplyRedemptionCode":             "EEEEEEEEEEEEEEEE", // never asked for
	"AvailableOSUpdates":              "EAEAEEAAEEEAEEAA",
	"CancelEnhancedLogCollection":     "EEEEAEEEEEAEEEEE",
	"CertificateList":                 "AAAAAAAAAAAAAAAA",
	"ClearActivationLockBypassCode":   "EAEAAAEAEEEEEEEE",
	"ClearPasscode":                   "AAEAAEEEEEEEAAEE",
	"ClearRestrictionsPassword":       "EAEAAAEEEEEEEEEE",
	"ContentCachingInformation":       "EEEEEEAAEEEEEEAE",
	"DeclarativeManagement":           "AAAEAAAAAAAAAAAA",
	"DeleteUser":                      "EEEEEEEAEEEEEEEA",
	"DeviceConfigured":                "EAEEEEEAEEEAEEEA",
	"DeviceInformation":               "AAAAAAAAAAAAAAAA",
	"DeviceLocation":                  "EAEAAAEEEEEEEEEA",
	"DeviceLock":                      "AAAAAEAAEEEEAAAA",
	"DisableLostMode":                 "EAEAAAEEEEEEEEEA",
	"DisableRemoteDesktop":            "EEEEEEEAEEEEEEEE",
	"EnableLostMode":                  "EAEAAAEEEEEEEEEA",
	"EnableRemoteDesktop":             "EEEEEEEAEEEEEEEE",
	"EraseDevice":                     "AAEAAEAAEEEAAAAA",
	"InstallApplication":              "AAAAAEAAAAAAAAAA",
	"InstallEnterpriseApplication":    "EEEEEEAAAEEEEEAE",
	"InstallMedia":                    "AAAAAEEEEAAEEEEA",
	"InstallProfile":                  "AAAAAAAAAAAAAAAA",
	"InstallProvisioningProfile":      "AAAAAEAAAEEAAAAA",
	"InstalledApplicationList":        "AAAAAEAAEAAAAAAA",
	"InviteToProgram":                 "AAEAAEEEEAAEEEEA",
	"LOMDeviceRequest":                "EEEEEEEEEEEEEEEE",
	"LOMSetupRequest":                 "EEEEEEEEEEEEEEEE",
	"LogOutUser":                      "EEEEEEEEEEEEEEEE", // nobody is logged in
	"ManagedApplicationAttributes":    "AAAAAEEEEEEAAAEA",
	"ManagedApplicationConfiguration": "AAAAAEAAAEEAAAAA",
	"ManagedApplicationFeedback":      "AAAAAEEEEAAAAEEA",
	"ManagedApplicationList":          "AAAAAEAAAAAAAAAA",
	"ManagedMediaList":                "AAAAAEEEEEEEEEEA",
	"NSExtensionMappings":             "EEEEEEEEEAAEEEEE",
	"OSUpdateStatus":                  "EAEAEEEAEEEAEEEA",
	"PlayLostModeSound":               "EAEAAAEEEEEEEEEA",
	"ProfileList":                     "AAAAAAAAAAAAAAAA",
	"ProvisioningProfileList":         "AAAAAEAAAEEAAAAA",
	"RefreshCellularPlans":            "AEEEAAEEEEEEEEEE",
	"RemoveApplication":               "AAAAAEAAAEEAAAAA",
	"RemoveMedia":                     "AAAAAEEEEEEEEEEA",
	"RemoveProfile":                   "AAAAAAAAAAAAAAAA",
	"RemoveProvisioningProfile":       "AAAAAEAAAEEAAAAA",
	"RequestMirroring":                "AAAAAAAAAEEEEEAA",
	"RequestUnlockToken":              "EAEAAAEEEEEEEEEE",
	"RestartDevice":                   "EAEAAEAAEEEAEEAA",
	"Restrictions":                    "AAEAAEEEEEEAAAEA",
	"RotateFileVaultKey":              "EEEEEEAAEEEEEEAE",
	"ScheduleOSUpdate":                "EAEAEEEAEEEAEEEA",
	"ScheduleOSUpdateScan":            "EEEEEEEAEEEEEEEE",
	"SecurityInfo":                    "AAAAAEAAAAAAAAAA",
	"SetAutoAdminPassword":            "EEEEEEEAEEEEEEEE",
	"SetFirmwarePassword":             "EEEEEEEEEEEEEEAE",
	"SetRecoveryLock":                 "EEEEEEAAEEEEEEEE",
	"Settings":                        "AAAAAEAAAAAAAAAA",
	"ShutDownDevice":                  "EAEAAEAAEEEEEEAA",
	"StopMirroring":                   "EAEAAAAAEEEEEEAA",
	"TriggerEnhancedLogCollection":    "EEEEAEEEEEAEEEEE",
	"UnlockUserAccount":               "EEEEEEAAEEEEEEAE",
	"UserConfigured":                  "EAEEEEEEEEEEEEEA",
	"UserList":                        "EEEEEEEAEEEEEEEA",
	"ValidateApplications":            "AAAAAEEEEEEAAEEA",
	"VerifyFirmwarePassword":          "EEEEEEEEEEEEEEAE",
	"VerifyRecoveryLock":              "EEEEEEAAEEEEEEEE",
}

// wellFormed are keys that every device finds in order.
func (s *server) wellFormed(d *Device) map[string]Dict {
	app := []string{"com.example.crm"}
	provisioning, err := MarshalPlist(Dict{"UUID": "P-1", "Name": "Example", "ExpirationDate": time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)})
	if err != nil {
		s.t.Fatal(err)
	}
	user := "guest1"
	if d.Options().Shared {
		user = "pupil@example.com"
	}
	return map[string]Dict{
		"AccountConfiguration":            {"SkipPrimarySetupAccountCreation": true},
		"ApplyRedemptionCode":             {"Identifier": "com.example.crm", "RedemptionCode": "X"},
		"ClearPasscode":                   {"UnlockToken": d.UnlockToken()},
		"DeleteUser":                      {"UserName": user},
		"DeviceInformation":               {"Queries": slices.Collect(maps.Keys(documented().queries))},
		"DeviceLock":                      {"PIN": "123456", "Message": "Call me"},
		"EnableLostMode":                  {"Message": "Call me"},
		"EraseDevice":                     {"PIN": "123456"},
		"InstallApplication":              {"Identifier": "com.example.crm", "InstallAsManaged": true, "Configuration": Dict{"a": 1}, "ManagementFlags": 1},
		"InstallEnterpriseApplication":    {"ManifestURL": "https://example.com/tool.plist"},
		"InstallMedia":                    {"MediaType": "Book", "iTunesStoreID": 7},
		"InstallProfile":                  {"Payload": s.signed(s.configuration(s.rootPayload()))},
		"InstallProvisioningProfile":      {"ProvisioningProfile": provisioning},
		"InviteToProgram":                 {"ProgramID": "com.apple.cloudvpp", "InvitationURL": "https://example.com/join"},
		"LOMDeviceRequest":                {"RequestList": []any{}},
		"ManagedApplicationAttributes":    {"Identifiers": app},
		"ManagedApplicationConfiguration": {"Identifiers": app},
		"ManagedApplicationFeedback":      {"Identifiers": app},
		"RefreshCellularPlans":            {"eSIMServerURL": "https://example.com/esim"},
		"RemoveApplication":               {"Identifier": "com.example.crm"},
		"RemoveMedia":                     {"MediaType": "Book", "iTunesStoreID": "7"},
		"RemoveProfile":                   {"Identifier": "com.example.wifi"},
		"RemoveProvisioningProfile":       {"UUID": "P-1"},
		"RequestMirroring":                {"DestinationName": "Room 1"},
		"Restrictions":                    {"ProfileRestrictions": true},
		"RotateFileVaultKey":              {"KeyType": "personal", "FileVaultUnlock": Dict{"Password": d.RecoveryKey()}, "ReplyEncryptionCertificate": s.ca.Raw},
		"ScheduleOSUpdate":                {"Updates": []any{Dict{"ProductKey": "iOSUpdate23C55", "InstallAction": "Default"}, Dict{"ProductKey": "none", "InstallAction": "InstallASAP"}}},
		"SetAutoAdminPassword":            {"GUID": d.Options().User.ID, "passwordHash": []byte("x")},
		"SetFirmwarePassword":             {"NewPassword": "secret"},
		"SetRecoveryLock":                 {"NewPassword": "secret"},
		"Settings":                        {"Settings": []any{Dict{"Item": "OrganizationInfo", "OrganizationInfo": Dict{"OrganizationName": "Example"}}, Dict{"Item": "Wallpaper"}}},
		"TriggerEnhancedLogCollection":    {"AppleCareToken": "X"},
		"UnlockUserAccount":               {"UserName": "guest1"},
		"VerifyFirmwarePassword":          {"Password": "secret"},
		"VerifyRecoveryLock":              {"Password": "secret"},
	}
}

// sessions is an order in which each command finds what it needs.
func sessions() [3][]string {
	first := []string{"AccountConfiguration", "SetAutoAdminPassword", "InstallProfile", "InstallApplication", "InstallEnterpriseApplication", "InstallMedia",
		"InstallProvisioningProfile", "EnableLostMode", "SetRecoveryLock", "SetFirmwarePassword", "ActivationLockBypassCode"}
	last := []string{"RemoveProfile", "RemoveApplication", "RemoveMedia", "RemoveProvisioningProfile", "DisableLostMode", "DeleteUser",
		"ClearActivationLockBypassCode", "EraseDevice"}
	var middle []string
	for _, name := range slices.Sorted(maps.Keys(wantStatuses)) {
		if !slices.Contains(first, name) && !slices.Contains(last, name) {
			middle = append(middle, name)
		}
	}
	return [3][]string{first, middle, last}
}

func TestEveryCommandOnEveryDevice(t *testing.T) {
	responses := readResponses(t)
	if len(wantStatuses) != 68 || len(documented().commands) != 68 {
		t.Fatalf("the test knows %d commands, the device %d, want 68", len(wantStatuses), len(documented().commands))
	}
	for i, target := range targets {
		t.Run(target.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			if target.byod {
				s.profile = byod(s.profile)
				target.options.UserEnrollment = true
			} else if target.rights != 0 {
				payload(s.profile, "com.apple.mdm")["AccessRights"] = target.rights
			}
			target.options.Sign = SignTLS // costs less
			d := s.enrolled(target.options)
			params := s.wellFormed(d)
			channel := d.Channel()
			if target.user {
				channel = d.User()
			}
			for _, session := range sessions() {
				if target.user { // apps go on when the device does
					if _, err := d.Poll(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				for _, name := range session {
					s.queue(name, name, params[name])
					if target.user {
						s.commands[len(s.commands)-1]["user"] = true
					}
				}
				if n, err := channel.Poll(t.Context()); n != len(session) || err != nil {
					t.Fatalf("Poll = %d, %v, want %d", n, err, len(session))
				}
			}
			for name, want := range wantStatuses {
				result := s.result(name)
				status := map[byte]string{'A': StatusAcknowledged, 'E': StatusError}[want[i]]
				if result["Status"] != status {
					t.Errorf("%s: %v %v, want %s", name, result["Status"], result["ErrorChain"], status)
					continue
				}
				if status == StatusError {
					chain, _ := result["ErrorChain"].([]any)
					if len(chain) == 0 {
						t.Errorf("%s: an error without ErrorChain", name)
					}
					continue
				}
				platform := map[byte]string{'i': "ios", 'm': "macos", 't': "tvos", 'v': "visionos", 'w': "watchos"}[target.options.Model.letter()]
				for _, wrong := range responses.check(name, platform, result) {
					t.Errorf("%s: %s", name, wrong)
				}
			}
			if want := wantStatuses["EraseDevice"][i] == 'A'; (d.State() == Erased) != want {
				t.Errorf("the device is %v, want it erased: %t", d.State(), want)
			}
		})
	}
}

// responseTable is what Apple documents of answers, by command.
type responseTable map[string][]appleKey

func readResponses(t *testing.T) responseTable {
	t.Helper()
	var file struct {
		Commands []struct {
			Name     string     `json:"name"`
			Response []appleKey `json:"response"`
		} `json:"commands"`
	}
	raw, err := os.ReadFile("../command/commands.json")
	if err == nil {
		err = json.Unmarshal(raw, &file)
	}
	if err != nil {
		t.Fatal(err)
	}
	table := responseTable{}
	for _, c := range file.Commands {
		table[c.Name] = c.Response
	}
	// Apple's table has the dictionary that the answer holds a list of, without its Item.
	settings := table["Settings"][0]
	settings.Items, settings.Subkeys, settings.Type = []appleKey{{Subkeys: append(settings.Subkeys, appleKey{Name: "Item", Type: "string"})}}, nil, "array"
	table["Settings"] = []appleKey{settings}
	return table
}

// check says what of an answer is not as documented: keys that nobody knows or that are of
// another system, wrong types, and what is missing at the top.
func (r responseTable) check(command, platform string, result Dict) []string {
	answer := maps.Clone(result)
	for _, key := range []string{"Status", "CommandUUID", "signer", "tls", "UDID", "EnrollmentID", "UserID", "EnrollmentUserID", "UserShortName", "UserLongName", "bearer"} {
		delete(answer, key)
	}
	return checkDict("", answer, r[command], platform)
}

func checkDict(path string, dict Dict, keys []appleKey, platform string) (wrong []string) {
	known := map[string]appleKey{}
	var other *appleKey
	for _, k := range keys {
		if strings.Contains(k.Name, " ") || k.Name == "ANY" {
			other = &k
			continue
		}
		if p, ok := k.Platforms[platform]; ok && p == nil {
			continue
		}
		known[k.Name] = k
		if dict[k.Name] == nil && k.Required && path == "" {
			wrong = append(wrong, k.Name+" is missing")
		}
	}
	for name, v := range dict {
		k, ok := known[name]
		switch {
		case !ok && other != nil:
			k = *other
		case !ok && name == "ErrorChain":
			continue
		case !ok:
			wrong = append(wrong, fmt.Sprintf("%s%s is no key of %s", path, name, platform))
			continue
		}
		at := path + name + "."
		kind := map[string]string{"real": "", "date": "", "any": ""}
		if _, loose := kind[k.Type]; !loose && !isKind(v, k.Type) {
			wrong = append(wrong, fmt.Sprintf("%s%s is a %T, want %s", path, name, v, k.Type))
		}
		if len(k.Enum) > 0 && !slices.ContainsFunc(k.Enum, func(e any) bool { return fmt.Sprint(e) == fmt.Sprint(v) }) {
			wrong = append(wrong, fmt.Sprintf("%s%s is %v, want one of %v", path, name, v, k.Enum))
		}
		switch v := v.(type) {
		case Dict:
			if len(k.Subkeys) > 0 {
				wrong = append(wrong, checkDict(at, v, k.Subkeys, platform)...)
			}
		case []any:
			for _, item := range v {
				if d, ok := item.(Dict); ok && len(k.Items) > 0 && len(k.Items[0].Subkeys) > 0 {
					wrong = append(wrong, checkDict(at, d, k.Items[0].Subkeys, platform)...)
				}
			}
		}
	}
	return wrong
}
