package command_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// plain turns the values of a property list into those of JSON.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, value := range v {
			out[key] = plain(value)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, value := range v {
			out[i] = plain(value)
		}
		return out
	case int64, uint64:
		return json.Number(fmt.Sprint(v))
	case float64:
		return json.Number(fmt.Sprintf("%f", v))
	}
	return v
}

// whole returns a command with this in its Command dictionary, and beside it.
func whole(requestType, in, beside string) []byte {
	return []byte(`<plist version="1.0"><dict><key>Command</key><dict><key>RequestType</key><string>` + requestType + `</string>` + in +
		`</dict><key>CommandUUID</key><string>` + uuid + `</string>` + beside + `</dict></plist>`)
}

func TestValidateNamesTheWrongKey(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ requestType, in, path, reason string }{
		"all is well":              {"DeviceLock", `<key>PIN</key><string>012345</string>`, "", ""},
		"no keys":                  {"SecurityInfo", ``, "", ""},
		"a tether":                 {"SecurityInfo", `<key>RequestRequiresNetworkTether</key><true/>`, "", ""},
		"an unknown key":           {"DeviceLock", `<key>Pin</key><integer>1</integer>`, "", ""},
		"an unknown nested key":    {"EraseDevice", `<key>ReturnToService</key><dict><key>Enabled</key><true/><key>X</key><data/></dict>`, "", ""},
		"free values":              {"InstallApplication", `<key>Identifier</key><string>a</string><key>Configuration</key><dict><key>d</key><data>AAEC</data><key>t</key><date>2026-01-02T03:04:05Z</date><key>r</key><real>5</real><key>i</key><integer>-1</integer></dict>`, "", ""},
		"a number for a text":      {"DeviceLock", `<key>PIN</key><integer>123456</integer>`, "Command.PIN", "must be a string"},
		"a text for a number":      {"InstallApplication", `<key>iTunesStoreID</key><string>361309726</string>`, "Command.iTunesStoreID", "must be an integer"},
		"a real for an integer":    {"InstallApplication", `<key>iTunesStoreID</key><real>5</real>`, "Command.iTunesStoreID", "whole number"},
		"a text for data":          {"InstallProfile", `<key>Payload</key><string>PHBsaXN0Lz4=</string>`, "Command.Payload", "must be <data>, not <string>"},
		"data for a text":          {"RemoveProfile", `<key>Identifier</key><data>AAEC</data>`, "Command.Identifier", "must be <string>, not <data>"},
		"a date for a truth":       {"ProfileList", `<key>ManagedOnly</key><date>2026-01-02T03:04:05Z</date>`, "Command.ManagedOnly", "must be <true/> or <false/>, not <date>"},
		"a text for a truth":       {"ProfileList", `<key>ManagedOnly</key><string>true</string>`, "Command.ManagedOnly", "must be a boolean"},
		"a missing key":            {"RemoveProfile", ``, "Command.Identifier", "is required"},
		"a value out of its set":   {"EraseDevice", `<key>ObliterationBehavior</key><string>Now</string>`, "Command.ObliterationBehavior", "must be one of"},
		"an element of no shape":   {"Settings", `<key>Settings</key><array><dict><key>Item</key><string>Lights</string></dict></array>`, "Command.Settings[0].Item", "must be one of"},
		"a wrong element":          {"DeviceInformation", `<key>Queries</key><array><string>UDID</string><true/></array>`, "Command.Queries[1]", "must be a string"},
		"data in a list of texts":  {"DeviceInformation", `<key>Queries</key><array><data>AAEC</data></array>`, "Command.Queries[0]", "must be <string>, not <data>"},
		"an undefined number":      {"InstallApplication", `<key>Configuration</key><dict><key>r</key><real>nan</real></dict>`, "Command.Configuration.r", "finite"},
		"a rule beside the schema": {"DeviceLock", `<key>PIN</key><string>12</string>`, "Command.PIN", "six digits"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := command.Validate(whole(tt.requestType, tt.in, ""))
			if got != tt.requestType {
				t.Errorf("Validate(%s) names the type %q", tt.requestType, got)
			}
			var wrong *command.ParamError
			switch {
			case tt.path == "" && err != nil:
				t.Errorf("Validate(%s, %s) = %v, want nil", tt.requestType, tt.in, err)
			case tt.path != "" && (!errors.As(err, &wrong) || wrong.Path != tt.path || !strings.Contains(wrong.Reason, tt.reason)):
				t.Errorf("Validate(%s, %s) = %v, want %s … %s", tt.requestType, tt.in, err, tt.path, tt.reason)
			}
		})
	}
}

func TestValidateRefusesWhatIsNoCommand(t *testing.T) {
	t.Parallel()
	if _, err := command.Validate([]byte(`<plist version="1.0"><dict/></plist>`)); !errors.Is(err, command.ErrRaw) {
		t.Errorf("Validate of an empty list = %v, want ErrRaw", err)
	}
	if got, err := command.Validate(whole("MakeCoffee", "", "")); got != "MakeCoffee" || !errors.Is(err, command.ErrUnknownType) {
		t.Errorf("Validate of an unknown type = %q, %v, want ErrUnknownType", got, err)
	}
}

func TestUnknownNamesWhatIsNotInTheCatalogue(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		raw  []byte
		want []string
	}{
		"nothing":               {whole("DeviceLock", `<key>PIN</key><string>012345</string>`, ""), nil},
		"beside the command":    {whole("DeviceLock", ``, `<key>UDID</key><string>x</string><key>a b</key><true/>`), []string{"UDID", `["a b"]`}},
		"in the command":        {whole("DeviceLock", `<key>Pin</key><true/>`, ""), []string{"Command.Pin"}},
		"in a dictionary":       {whole("EraseDevice", `<key>ReturnToService</key><dict><key>X</key><true/></dict>`, ""), []string{"Command.ReturnToService.X"}},
		"in an element":         {whole("Settings", `<key>Settings</key><array><dict><key>Item</key><string>Bluetooth</string><key>On</key><true/></dict></array>`, ""), []string{"Command.Settings[0].On"}},
		"not in free values":    {whole("InstallApplication", `<key>Configuration</key><dict><key>X</key><dict><key>Y</key><true/></dict></dict>`, ""), nil},
		"not in a wrong value":  {whole("DeviceLock", `<key>PIN</key><dict><key>X</key><true/></dict>`, ""), nil},
		"of an unknown type":    {whole("MakeCoffee", `<key>X</key><true/>`, `<key>Y</key><true/>`), []string{"Y"}},
		"of no command":         {[]byte("bplist00"), nil},
		"after a wrong value":   {whole("DeviceInformation", `<key>DeviceAttestationNonce</key><string>x</string><key>X</key><true/>`, ""), []string{"Command.X"}},
		"the tether of no type": {whole("RequestUnlockToken", `<key>RequestRequiresNetworkTether</key><true/>`, ""), []string{"Command.RequestRequiresNetworkTether"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := command.Unknown(tt.raw); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Unknown(%s) = %q, want %q", tt.raw, got, tt.want)
			}
		})
	}
}

func FuzzValidate(f *testing.F) {
	f.Add(whole("EraseDevice", `<key>ReturnToService</key><dict><key>Enabled</key><true/><key>X</key><data>AAEC</data></dict>`, `<key>UDID</key><string>x</string>`))
	f.Add(whole("Settings", `<key>Settings</key><array><dict><key>Item</key><string>TimeZone</string><key>TimeZone</key><string>UTC</string></dict></array>`, ""))
	f.Add(whole("InstallApplication", `<key>Identifier</key><string>a</string><key>Configuration</key><dict><key>r</key><real>1e300</real><key>i</key><integer>18446744073709551615</integer></dict>`, ""))
	f.Add(whole("RotateFileVaultKey", `<key>KeyType</key><string>personal</string><key>FileVaultUnlock</key><array/>`, ""))
	f.Fuzz(func(t *testing.T, raw []byte) {
		requestType, err := command.Validate(raw)
		unknown := command.Unknown(raw)
		if err != nil || len(unknown) != 0 {
			return
		}
		// What is valid and known, Build makes too.
		in, err := command.Params(raw)
		if err != nil {
			t.Fatalf("Params of what is valid: %v", err)
		}
		delete(in, "RequestType")
		if _, err := command.Build(requestType, plain(in).(map[string]any), uuid); err != nil {
			t.Errorf("Validate(%q) = nil, Build: %v", raw, err)
		}
	})
}
