package command_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

var update = flag.Bool("update", false, "rewrite golden files")

const uuid = "9F09D114-BCFD-42AD-A974-371AA7D6256E"

// params reads JSON the way the API does.
func params(t testing.TB, in string) map[string]any {
	t.Helper()
	if in == "" {
		return nil
	}
	dec := json.NewDecoder(strings.NewReader(in))
	dec.UseNumber()
	var out map[string]any
	if err := dec.Decode(&out); err != nil {
		t.Fatalf("test parameters %s: %v", in, err)
	}
	return out
}

func TestBuildWritesTheCommandAsApplePrintsIt(t *testing.T) {
	for name, tt := range map[string]struct{ requestType, params string }{
		"device-information":         {"DeviceInformation", ""},
		"device-information-queries": {"DeviceInformation", `{"Queries":["DeviceName","OSVersion"]}`},
		"security-info":              {"SecurityInfo", "{}"},
		"profile-list":               {"ProfileList", `{"ManagedOnly":true}`},
		"installed-application-list": {"InstalledApplicationList", `{"Identifiers":["com.example.a&b"],"ManagedAppsOnly":false}`},
		"certificate-list":           {"CertificateList", ""},
		"device-lock":                {"DeviceLock", `{"PIN":"012345","Message":"Bitte zurück an <Empfang> 📦","PhoneNumber":"+49 30 1"}`},
		"erase-device":               {"EraseDevice", `{"PIN":"000000","ObliterationBehavior":"DoNotObliterate","ReturnToService":{"Enabled":true,"MDMProfileData":"PHBsaXN0Lz4="}}`},
		"restart-device":             {"RestartDevice", `{"KextPaths":["/Library/Extensions/a.kext"],"NotifyUser":true,"RequestRequiresNetworkTether":true}`},
		"install-profile":            {"InstallProfile", `{"Payload":"PHBsaXN0Lz4="}`},
		"remove-profile":             {"RemoveProfile", `{"Identifier":"com.example.wifi"}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := command.Build(tt.requestType, params(t, tt.params), uuid)
			if err != nil {
				t.Fatalf("Build(%s, %s): %v", tt.requestType, tt.params, err)
			}
			golden := filepath.Join("testdata", "build", name+".plist")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("Build(%s, %s) =\n%s\nwant\n%s", tt.requestType, tt.params, got, want)
			}
			gotUUID, gotType, err := command.ParseRaw(got)
			if err != nil || gotUUID != uuid || gotType != tt.requestType {
				t.Errorf("ParseRaw of it = %q, %q, %v", gotUUID, gotType, err)
			}
		})
	}
}

func TestBuildCarriesEveryTextExactly(t *testing.T) {
	for name, text := range map[string]string{
		"markup":              `A</string><key>x</key>&"'`,
		"an emoji":            "🧑‍💻",
		"right-to-left":       "שלום\u200f",
		"line ends and tab":   "a\nb\r\nc\rd\te",
		"a CDATA end":         "]]>",
		"an entity":           "&amp;&#65;",
		"spaces at both ends": "  x  ",
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := command.Build("DeviceLock", map[string]any{"Message": text}, uuid)
			if err != nil {
				t.Fatal(err)
			}
			var got struct{ Command map[string]any }
			if err := guard.DecodePlist(raw, &got, guard.PlistLimits{}); err != nil {
				t.Fatal(err)
			}
			if want := map[string]any{"RequestType": "DeviceLock", "Message": text}; !reflect.DeepEqual(got.Command, want) {
				t.Errorf("Command = %q, want %q", got.Command, want)
			}
		})
	}
}

func TestBuildTakesBytesAsData(t *testing.T) {
	profile := []byte("<plist/>")
	given, err := command.Build("InstallProfile", map[string]any{"Payload": profile}, uuid)
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := command.Build("InstallProfile", map[string]any{"Payload": base64.StdEncoding.EncodeToString(profile)}, uuid)
	if err != nil {
		t.Fatal(err)
	}
	if string(given) != string(decoded) {
		t.Errorf("Build with bytes =\n%s\nwith base64\n%s", given, decoded)
	}
}

func TestBuildNamesTheWrongKey(t *testing.T) {
	for name, tt := range map[string]struct{ requestType, params, path, reason string }{
		"an unknown key":                  {"DeviceLock", `{"Pin":"012345"}`, "params.Pin", "is not a key of DeviceLock; it takes Message, PhoneNumber, PIN"},
		"a key where there is none":       {"SecurityInfo", `{"X":1}`, "params.X", "is not a key of SecurityInfo"},
		"the request type is not a key":   {"DeviceLock", `{"RequestType":"EraseDevice"}`, "params.RequestType", "is not a key"},
		"an unknown nested key":           {"EraseDevice", `{"ReturnToService":{"Enabled":true,"On":1}}`, "params.ReturnToService.On", "is not a key"},
		"a missing nested key":            {"EraseDevice", `{"ReturnToService":{}}`, "params.ReturnToService.Enabled", "is required"},
		"a missing key":                   {"RemoveProfile", `{}`, "params.Identifier", "is required"},
		"an empty required string":        {"RemoveProfile", `{"Identifier":""}`, "params.Identifier", "must not be empty"},
		"an empty required list":          {"DeviceInformation", `{"Queries":[]}`, "params.Queries", "must not be empty"},
		"an empty required payload":       {"InstallProfile", `{"Payload":""}`, "params.Payload", "must not be empty"},
		"a list element out of its set":   {"DeviceInformation", `{"Queries":["UDID","OSVersion","Nonsense"]}`, "params.Queries[2]", "must be one of UDID,"},
		"a list element of another type":  {"DeviceInformation", `{"Queries":[7]}`, "params.Queries[0]", "must be a string"},
		"a string for a list":             {"DeviceInformation", `{"Queries":"UDID"}`, "params.Queries", "must be an array"},
		"null for a list":                 {"DeviceInformation", `{"Queries":null}`, "params.Queries", "must be an array"},
		"a string out of its set":         {"EraseDevice", `{"ObliterationBehavior":"Always!"}`, "params.ObliterationBehavior", "must be one of Default, DoNotObliterate"},
		"a string for a truth value":      {"ProfileList", `{"ManagedOnly":"true"}`, "params.ManagedOnly", "must be a boolean"},
		"a number for a truth value":      {"ProfileList", `{"ManagedOnly":1}`, "params.ManagedOnly", "must be a boolean"},
		"a number for a PIN":              {"DeviceLock", `{"PIN":123456}`, "params.PIN", "must be a string"},
		"a short PIN":                     {"DeviceLock", `{"PIN":"12345"}`, "params.PIN", "six digits"},
		"a PIN with letters":              {"EraseDevice", `{"PIN":"12345a"}`, "params.PIN", "six digits"},
		"a PIN of foreign digits":         {"EraseDevice", `{"PIN":"١٢٣"}`, "params.PIN", "six digits"},
		"a list for an object":            {"EraseDevice", `{"ReturnToService":[]}`, "params.ReturnToService", "must be an object"},
		"text that is no base64":          {"InstallProfile", `{"Payload":"<plist>"}`, "params.Payload", "base64"},
		"base64 for URLs":                 {"InstallProfile", `{"Payload":"_-8="}`, "params.Payload", "base64"},
		"a control character":             {"DeviceLock", `{"Message":"a\u0000b"}`, "params.Message", "can't hold"},
		"a character that is none":        {"DeviceLock", `{"Message":"a\uFFFEb"}`, "params.Message", "can't hold"},
		"a key of odd characters":         {"DeviceLock", `{"a\nb":1}`, `params["a\nb"]`, "is not a key"},
		"a long key is cut":               {"DeviceLock", `{"` + strings.Repeat("k", 1000) + `":1}`, `params["` + strings.Repeat("k", 64) + `…"]`, "is not a key"},
		"the tether is a truth value too": {"ProfileList", `{"RequestRequiresNetworkTether":1}`, "params.RequestRequiresNetworkTether", "must be a boolean"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := command.Build(tt.requestType, params(t, tt.params), uuid)
			var wrong *command.ParamError
			if !errors.As(err, &wrong) || wrong.Path != tt.path || !strings.Contains(wrong.Reason, tt.reason) {
				t.Errorf("Build(%s, %.80s) = %v, want %s … %s", tt.requestType, tt.params, err, tt.path, tt.reason)
			}
		})
	}
}

func TestBuildKnowsTheCommandsOfTheTableOnly(t *testing.T) {
	for requestType, meant := range map[string]string{
		"": "", "MakeCoffee": "", "devicelock": "did you mean DeviceLock?", "Setings": "did you mean Settings?",
	} {
		_, err := command.Build(requestType, nil, uuid)
		if !errors.Is(err, command.ErrUnknownType) || !strings.HasSuffix(err.Error(), meant) {
			t.Errorf("Build(%q) = %v, want ErrUnknownType … %s", requestType, err, meant)
		}
	}
}

func TestBuildRefusesAUUIDThatURLsCannotCarry(t *testing.T) {
	for _, bad := range []string{"", "a/b", "a b", "..", strings.Repeat("a", 129)} {
		if _, err := command.Build("SecurityInfo", nil, bad); err == nil {
			t.Errorf("Build with UUID %q did not fail", bad)
		}
	}
}

func TestDefaultQueries(t *testing.T) {
	device, personal := command.DefaultQueries(false), command.DefaultQueries(true)
	for _, always := range []string{"DeviceName", "OSVersion", "ProductName", "IsSupervised"} {
		if !slices.Contains(device, always) || !slices.Contains(personal, always) {
			t.Errorf("%s is not always asked for: %v, %v", always, device, personal)
		}
	}
	// PROTOCOL 5.5: not in iOS User Enrollment.
	for _, never := range []string{"UDID", "SerialNumber", "IMEI", "WiFiMAC", "BluetoothMAC", "EthernetMAC", "IsActivationLockEnabled"} {
		if slices.Contains(personal, never) {
			t.Errorf("%s is asked of a personal device", never)
		}
	}
	if !slices.Contains(device, "SerialNumber") {
		t.Errorf("a device is not asked for its serial number: %v", device)
	}
	asked := make([]any, len(personal))
	for i, q := range personal {
		asked[i] = q
	}
	if _, err := command.Build("DeviceInformation", map[string]any{"Queries": asked}, uuid); err != nil {
		t.Errorf("Build with DefaultQueries(true): %v", err)
	}
}

func TestBuildLeavesItsParametersAlone(t *testing.T) {
	in := map[string]any{}
	if _, err := command.Build("DeviceInformation", in, uuid); err != nil {
		t.Fatal(err)
	}
	if len(in) != 0 {
		t.Errorf("Build added %v to the caller's parameters", in)
	}
}

func FuzzBuild(f *testing.F) {
	f.Add("DeviceInformation", `{"Queries":["UDID"]}`)
	f.Add("EraseDevice", `{"ReturnToService":{"Enabled":true,"WiFiProfileData":"AA=="}}`)
	f.Add("RestartDevice", `{"KextPaths":["a","\u0001"]}`)
	f.Add("DeviceLock", `{"Message":"\ud800"}`)
	f.Fuzz(func(t *testing.T, requestType, in string) {
		dec := json.NewDecoder(strings.NewReader(in))
		dec.UseNumber()
		var p map[string]any
		if dec.Decode(&p) != nil {
			t.Skip()
		}
		raw, err := command.Build(requestType, p, uuid)
		if err != nil {
			return
		}
		// What we build, the strictest reader takes.
		gotUUID, gotType, err := command.ParseRaw(raw)
		if err != nil || gotUUID != uuid || gotType != requestType {
			t.Errorf("ParseRaw(Build(%q, %q)) = %q, %q, %v", requestType, in, gotUUID, gotType, err)
		}
	})
}
