package command_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// factOf returns the fact at path.
func factOf(t testing.TB, facts []command.Fact, path string) command.Fact {
	t.Helper()
	for _, f := range facts {
		if f.Path == path {
			return f
		}
	}
	t.Fatalf("no fact %s among %+v", path, facts)
	return command.Fact{}
}

func TestFactsReadAsWords(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ requestType, result, path, label, value string }{
		"a capacity":                  {"DeviceInformation", `{"QueryResponses":{"DeviceCapacity":255.86}}`, "QueryResponses.DeviceCapacity", "Capacity", "255.9 GB"},
		"a whole capacity":            {"DeviceInformation", `{"QueryResponses":{"AvailableDeviceCapacity":64}}`, "QueryResponses.AvailableDeviceCapacity", "Free space", "64 GB"},
		"a battery":                   {"DeviceInformation", `{"QueryResponses":{"BatteryLevel":0.849}}`, "QueryResponses.BatteryLevel", "Battery level", "85%"},
		"no battery":                  {"DeviceInformation", `{"QueryResponses":{"BatteryLevel":-1}}`, "QueryResponses.BatteryLevel", "Battery level", "no battery"},
		"no battery, as a real":       {"DeviceInformation", `{"QueryResponses":{"BatteryLevel":-1.0}}`, "QueryResponses.BatteryLevel", "Battery level", "no battery"},
		"a truth":                     {"DeviceInformation", `{"QueryResponses":{"IsSupervised":true}}`, "QueryResponses.IsSupervised", "Supervised", "yes"},
		"a switch":                    {"DeviceInformation", `{"QueryResponses":{"IsDeviceLocatorServiceEnabled":false}}`, "QueryResponses.IsDeviceLocatorServiceEnabled", "Find My", "off"},
		"an enumeration of numbers":   {"DeviceInformation", `{"QueryResponses":{"CellularTechnology":3}}`, "QueryResponses.CellularTechnology", "Cellular technology", "GSM and CDMA"},
		"a number out of its set":     {"DeviceInformation", `{"QueryResponses":{"CellularTechnology":9}}`, "QueryResponses.CellularTechnology", "Cellular technology", "9"},
		"a date":                      {"DeviceInformation", `{"QueryResponses":{"LastCloudBackupDate":"2026-01-02T03:04:05Z"}}`, "QueryResponses.LastCloudBackupDate", "Last iCloud backup", "2026-01-02T03:04:05Z"},
		"a quota":                     {"DeviceInformation", `{"QueryResponses":{"QuotaSize":2048}}`, "QueryResponses.QuotaSize", "Space of each user", "2,048 MB"},
		"a timeout":                   {"DeviceInformation", `{"QueryResponses":{"UserSessionTimeout":5400}}`, "QueryResponses.UserSessionTimeout", "User session timeout", "1 hour 30 minutes"},
		"no timeout":                  {"DeviceInformation", `{"QueryResponses":{"UserSessionTimeout":0}}`, "QueryResponses.UserSessionTimeout", "User session timeout", "never"},
		"a list of texts":             {"DeviceInformation", `{"QueryResponses":{"ManagedAppleIDDefaultDomains":["a.example","b.example"]}}`, "QueryResponses.ManagedAppleIDDefaultDomains", "Suggested domains", "a.example, b.example"},
		"a list of nothing":           {"DeviceInformation", `{"QueryResponses":{"ActiveManagedUsers":[]}}`, "QueryResponses.ActiveManagedUsers", "Managed users logged in", "none"},
		"a dictionary within":         {"DeviceInformation", `{"QueryResponses":{"OrganizationInfo":{"OrganizationName":"Example"}}}`, "QueryResponses.OrganizationInfo.OrganizationName", "Organization: name", "Example"},
		"an empty text":               {"DeviceInformation", `{"QueryResponses":{"IMEI":""}}`, "QueryResponses.IMEI", "IMEI", "empty"},
		"nothing":                     {"DeviceInformation", `{"QueryResponses":{"DeviceCapacity":null}}`, "QueryResponses.DeviceCapacity", "Capacity", "not known"},
		"a key that nobody documents": {"DeviceInformation", `{"QueryResponses":{"CurrentConsoleManagedUser":"x"}}`, "QueryResponses.CurrentConsoleManagedUser", "Current console managed user", "x"},
		"FileVault":                   {"SecurityInfo", `{"SecurityInfo":{"FDE_Enabled":true}}`, "SecurityInfo.FDE_Enabled", "FileVault", "on"},
		"whose recovery key":          {"SecurityInfo", `{"SecurityInfo":{"FDE_HasPersonalRecoveryKey":false}}`, "SecurityInfo.FDE_HasPersonalRecoveryKey", "FileVault personal recovery key", "no"},
		"hardware encryption":         {"SecurityInfo", `{"SecurityInfo":{"HardwareEncryptionCaps":3}}`, "SecurityInfo.HardwareEncryptionCaps", "Hardware encryption", "block level and file level"},
		"a grace period":              {"SecurityInfo", `{"SecurityInfo":{"PasscodeLockGracePeriod":300}}`, "SecurityInfo.PasscodeLockGracePeriod", "Passcode asked after", "5 minutes"},
		"no grace period":             {"SecurityInfo", `{"SecurityInfo":{"PasscodeLockGracePeriodEnforced":0}}`, "SecurityInfo.PasscodeLockGracePeriodEnforced", "Passcode asked after, enforced", "at once"},
		"an endless grace period":     {"SecurityInfo", `{"SecurityInfo":{"PasscodeLockGracePeriodEnforced":2147483647}}`, "SecurityInfo.PasscodeLockGracePeriodEnforced", "Passcode asked after, enforced", "never"},
		"how it was enrolled":         {"SecurityInfo", `{"SecurityInfo":{"ManagementStatus":{"EnrolledViaDEP":true}}}`, "SecurityInfo.ManagementStatus.EnrolledViaDEP", "Management: Automated Device Enrollment", "yes"},
		"startup security":            {"SecurityInfo", `{"SecurityInfo":{"SecureBoot":{"SecureBootLevel":"full"}}}`, "SecurityInfo.SecureBoot.SecureBootLevel", "Startup security: level", "full security"},
		"where a Mac got its names":   {"DeviceInformation", `{"QueryResponses":{"iTunesStoreAccountIsActive":true}}`, "QueryResponses.iTunesStoreAccountIsActive", "App Store account", "yes"},
		"a code of a rejection":       {"InstallApplication", `{"RejectionReason":"AppAlreadyQueued"}`, "RejectionReason", "Rejection reason", "already on its way"},
		"a state of an app":           {"InstallApplication", `{"State":"PromptingForManagement"}`, "State", "State", "asks the user whether it may be managed"},
		"bytes":                       {"ContentCachingInformation", `{"StatusResponse":{"ActualCacheUsed":1234567890}}`, "StatusResponse.ActualCacheUsed", "Actual cache used", "1.2 GB"},
		"few bytes":                   {"ContentCachingInformation", `{"StatusResponse":{"CacheUsed":1}}`, "StatusResponse.CacheUsed", "Cache used", "1 byte"},
		"bytes next to a unit":        {"ContentCachingInformation", `{"StatusResponse":{"CacheUsed":999999}}`, "StatusResponse.CacheUsed", "Cache used", "1 MB"},
		"a limit of bytes":            {"ContentCachingInformation", `{"StatusResponse":{"CacheLimit":0}}`, "StatusResponse.CacheLimit", "Cache limit", "no limit"},
		"a fraction":                  {"ContentCachingInformation", `{"StatusResponse":{"DataMigrationProgress":0.5}}`, "StatusResponse.DataMigrationProgress", "Data migration progress", "50%"},
		"a place":                     {"DeviceLocation", `{"Latitude":52.520008}`, "Latitude", "Latitude", "52.520008°"},
		"an accuracy":                 {"DeviceLocation", `{"HorizontalAccuracy":-1}`, "HorizontalAccuracy", "Horizontal accuracy", "not known"},
		"a code of letters":           {"DeviceLock", `{"MessageResult":"NoPasscodeSet"}`, "MessageResult", "Message", "not shown: no passcode is set"},
		"an enumeration cut to words": {"ContentCachingInformation", `{"StatusResponse":{"CacheStatus":"LOWSPACE"}}`, "StatusResponse.CacheStatus", "Cache status", "short of space"},
		"an integer of 64 bits":       {"InstallMedia", `{"iTunesStoreID":9223372036854775807}`, "iTunesStoreID", "App Store ID", "9223372036854775807"},
		"a type that nobody knows":    {"MakeCoffee", `{"CupsLeft":3}`, "CupsLeft", "Cups left", "3"},
		"deeper than anybody reads":   {"MakeCoffee", `{"a":{"b":{"c":{"d":{"e":{"f":1}}}}}}`, "a.b.c.d.e", "A: B: C: D: E", "f: 1"},
	} {
		t.Run(name, func(t *testing.T) {
			facts, err := command.Facts(tt.requestType, json.RawMessage(tt.result))
			if err != nil {
				t.Fatal(err)
			}
			if f := factOf(t, facts, tt.path); f.Label != tt.label || f.Value != tt.value {
				t.Errorf("Facts(%s, %s): %s is %q: %q, want %q: %q", tt.requestType, tt.result, tt.path, f.Label, f.Value, tt.label, tt.value)
			}
		})
	}
}

// cells returns a table as text: columns, then rows with their paths.
func cells(t *command.Table) string {
	var b strings.Builder
	for i, c := range t.Columns {
		if i > 0 {
			b.WriteString(" | ")
		}
		b.WriteString(c.Label)
	}
	for _, row := range t.Rows {
		b.WriteString("\n" + row.Path + ":")
		for _, c := range row.Cells {
			b.WriteString(" | " + c.Value)
		}
	}
	return b.String()
}

func TestFactsDrawListsAsTables(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ requestType, result, path, value, table string }{
		"apps, in Apple's order of columns": {
			"InstalledApplicationList",
			`{"InstalledApplicationList":[{"Name":"Maps","ShortVersion":"1.0","BundleSize":2500000},{"Identifier":"com.example.a","Name":"A","Zeal":"much","HasUpdateAvailable":true}]}`,
			"InstalledApplicationList", "2 entries", `Identifier | Short version | Name | App size | Update available | Zeal
InstalledApplicationList[0]: |  | 1.0 | Maps | 2.5 MB |  | 
InstalledApplicationList[1]: | com.example.a |  | A |  | yes | much`,
		},
		"apps that are names of a dictionary": {
			"ManagedApplicationList",
			`{"ManagedApplicationList":{"com.example.b":{"Status":"UserRejected","ManagementFlags":5},"com.example.a":{"Status":"Managed","ManagementFlags":1}}}`,
			"ManagedApplicationList", "2 entries", `App | Status | Management
ManagedApplicationList.com.example.a: | com.example.a | installed and managed | removed when management ends
ManagedApplicationList.com.example.b: | com.example.b | the user declined it | removed when management ends, not in backups`,
		},
		"profiles with their payloads": {
			"ProfileList",
			`{"ProfileList":[{"PayloadIdentifier":"com.example.wifi","IsManaged":true,"PayloadContent":[{"PayloadType":"com.apple.wifi.managed","PayloadDisplayName":"Wi-Fi"},{"PayloadType":"com.apple.security.root"}]}]}`,
			"ProfileList", "1 entry", `Identifier | Installed by MDM | Payloads
ProfileList[0]: | com.example.wifi | yes | Wi-Fi (com.apple.wifi.managed), com.apple.security.root`,
		},
		"dictionaries within rows": {
			"ContentCachingInformation",
			`{"StatusResponse":{"Peers":[{"address":"10.0.0.1","details":{"cache-size":1000,"local-network":{"speed":1000}}}]}}`,
			"StatusResponse.Peers", "1 entry", `Address | Details: cache size | Details: local network: speed
StatusResponse.Peers[0]: | 10.0.0.1 | 1 kB | 1,000 Mbit/s`,
		},
		"categories that are names": {
			"ContentCachingInformation", `{"StatusResponse":{"CacheDetails":{"macOS Software":5000,"iCloud":10}}}`,
			"StatusResponse.CacheDetails", "2 entries", `Category | Value
StatusResponse.CacheDetails.iCloud: | iCloud | 10 bytes
StatusResponse.CacheDetails.macOS Software: | macOS Software | 5 kB`,
		},
		"restrictions": {
			"Restrictions",
			`{"GlobalRestrictions":{"restrictedBool":{"allowCamera":{"value":false}},"restrictedValue":{"maxInactivity":{"value":5}},"union":{"apps":{"values":["a","b"]}}}}`,
			"GlobalRestrictions", "3 entries", `Restriction | Value
GlobalRestrictions.restrictedBool.allowCamera: | allowCamera | no
GlobalRestrictions.restrictedValue.maxInactivity: | maxInactivity | 5
GlobalRestrictions.union.apps: | apps | a, b`,
		},
		"restrictions of each profile": {
			"Restrictions", `{"ProfileRestrictions":{"com.example.p":{"restrictedBool":{"allowCamera":{"value":false}}}}}`,
			"ProfileRestrictions", "1 entry", `Profile | Restriction | Value
ProfileRestrictions.com.example.p.restrictedBool.allowCamera: | com.example.p | allowCamera | no`,
		},
		// Apple documents a dictionary; devices send a list.
		"what became of settings": {
			"Settings",
			`{"Settings":[{"Item":"Bluetooth","Status":"Acknowledged"},{"Item":"DeviceName","Status":"Error","ErrorChain":[{"ErrorCode":29000,"ErrorDomain":"MCChaperoneErrorDomain"}]}]}`,
			"Settings", "2 entries", `Status | Error | Item
Settings[0]: | done |  | Bluetooth
Settings[1]: | failed | The device is not supervised (MCChaperoneErrorDomain 29000). Supervise the device: by Automated Device Enrollment, or with Apple Configurator. | DeviceName`,
		},
		"configurations of any shape": {
			"ManagedApplicationConfiguration",
			`{"ApplicationConfigurations":[{"Identifier":"com.example.a","Configuration":{"server":"https://example.com","apiToken":"s3cret","deep":{"on":true}}}]}`,
			"ApplicationConfigurations", "1 entry", `Identifier | Configuration
ApplicationConfigurations[0]: | com.example.a | apiToken: [redacted]; deep: {"on":true}; server: https://example.com`,
		},
		"a list of texts and dictionaries": {
			"MakeCoffee", `{"Cups":["small",{"Size":"big"}]}`,
			"Cups", "2 entries", `Value | Size
Cups[0]: | small | 
Cups[1]: |  | big`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			facts, err := command.Facts(tt.requestType, json.RawMessage(tt.result))
			if err != nil {
				t.Fatal(err)
			}
			f := factOf(t, facts, tt.path)
			if f.Table == nil || f.Value != tt.value || f.Raw != nil {
				t.Fatalf("Facts(%s): %s is %+v, want a table of %s", tt.requestType, tt.path, f, tt.value)
			}
			if got := cells(f.Table); got != tt.table {
				t.Errorf("Facts(%s): %s is\n%s\nwant\n%s", tt.requestType, tt.path, got, tt.table)
			}
		})
	}
}

func TestFactsShowACertificateInsteadOfItsBytes(t *testing.T) {
	t.Parallel()
	cert := testCertificate(t, "Example Device", time.Date(2030, 5, 6, 7, 8, 9, 0, time.UTC))
	result, err := json.Marshal(map[string]any{"CertificateList": []any{
		map[string]any{"CommonName": "Example Device", "IsIdentity": true, "Data": cert},
		map[string]any{"CommonName": "Broken", "IsIdentity": false, "Data": []byte("no certificate")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	facts, err := command.Facts("CertificateList", result)
	if err != nil {
		t.Fatal(err)
	}
	rows := factOf(t, facts, "CertificateList").Table.Rows
	if got := rows[0].Cells[2].Value; !strings.HasPrefix(got, "Example Device, issued by Example Device, valid until 2030-05-06, SHA-256 ") {
		t.Errorf("a certificate reads %q", got)
	}
	if got := rows[1].Cells[2].Value; got != "14 bytes" {
		t.Errorf("what is no certificate reads %q", got)
	}
}

func TestFactsKeepTheValueAsItCame(t *testing.T) {
	t.Parallel()
	facts, err := command.Facts("DeviceInformation", json.RawMessage(`{"QueryResponses":{"BatteryLevel":0.5,"IMEI":"35 000","IsRoaming":false,"ManagedAppleIDDefaultDomains":["a"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"BatteryLevel": "0.5", "IMEI": `"35 000"`, "IsRoaming": "false", "ManagedAppleIDDefaultDomains": `["a"]`} {
		if f := factOf(t, facts, "QueryResponses."+path); string(f.Raw) != want {
			t.Errorf("Raw of %s = %s, want %s", path, f.Raw, want)
		}
	}
}

func TestFactsHoldNoSecret(t *testing.T) {
	t.Parallel()
	const secret = "hunter2-hunter2"
	for name, tt := range map[string]struct{ requestType, result string }{
		"where DecodeResult has been":  {"ActivationLockBypassCode", `{"ActivationLockBypassCode":"[redacted]"}`},
		"where it has not":             {"ActivationLockBypassCode", `{"ActivationLockBypassCode":"` + secret + `"}`},
		"an unlock token":              {"RequestUnlockToken", `{"UnlockToken":"` + secret + `"}`},
		"a list of them":               {"MakeCoffee", `{"Passwords":[],"Password":["` + secret + `",{"x":"` + secret + `"}]}`},
		"in a dictionary":              {"MakeCoffee", `{"Password":{"of":"` + secret + `"}}`},
		"in a row":                     {"InstalledApplicationList", `{"InstalledApplicationList":[{"Name":"a","Password":"` + secret + `","PIN":{"x":"` + secret + `"}}]}`},
		"in a configuration":           {"ManagedApplicationConfiguration", `{"ApplicationConfigurations":[{"Identifier":"a","Configuration":{"clientSecret":"` + secret + `","list":[{"password":"` + secret + `"}]}}]}`},
		"deeper than anybody reads":    {"MakeCoffee", `{"a":{"b":{"c":{"d":{"e":{"f":{"Password":"` + secret + `"}}}}}}}`},
		"in a dictionary for any name": {"ManagedApplicationFeedback", `{"ManagedApplicationFeedback":[{"Identifier":"a","Feedback":{"unlockToken":{"x":["` + secret + `"]}}}]}`},
		"a number":                     {"MakeCoffee", `{"PIN":7355608}`},
	} {
		t.Run(name, func(t *testing.T) {
			facts, err := command.Facts(tt.requestType, json.RawMessage(tt.result))
			if err != nil {
				t.Fatal(err)
			}
			shown := fmt.Sprintf("%+v", facts)
			for _, f := range facts {
				shown += string(f.Raw)
				if f.Table != nil {
					shown += fmt.Sprintf("%+v", *f.Table)
					for _, row := range f.Table.Rows {
						for _, c := range row.Cells {
							shown += string(c.Raw)
						}
					}
				}
			}
			shown += command.Summary(tt.requestType, json.RawMessage(tt.result))
			if strings.Contains(shown, secret) || strings.Contains(shown, "7355608") {
				t.Errorf("Facts(%s) = %s", tt.result, shown)
			}
			if !strings.Contains(shown, command.Redacted) {
				t.Errorf("Facts(%s) = %s, want it to say %s", tt.result, shown, command.Redacted)
			}
		})
	}
}

func TestFactsOfALongAnswerAreCut(t *testing.T) {
	t.Parallel()
	app := `{"Name":"App"}`
	long := `{"Name":"` + strings.Repeat("n", 5_000) + `"}`
	apps := `{"InstalledApplicationList":[` + long + strings.Repeat(","+app, 9_999) + `]}`
	facts, err := command.Facts("InstalledApplicationList", json.RawMessage(apps))
	if err != nil {
		t.Fatal(err)
	}
	f := factOf(t, facts, "InstalledApplicationList")
	if len(f.Table.Rows) != 2_000 || f.Table.More != 8_000 || f.Value != "10,000 entries" {
		t.Errorf("10,000 apps are %s: %d rows and %d more", f.Value, len(f.Table.Rows), f.Table.More)
	}
	if c := f.Table.Rows[0].Cells[0]; len(c.Value) > 1100 || c.Raw != nil {
		t.Errorf("a name of 5,000 characters takes %d, and %d as it came", len(c.Value), len(c.Raw))
	}
	if got := command.Summary("InstalledApplicationList", json.RawMessage(apps)); got != "10,000 apps" {
		t.Errorf("Summary = %q", got)
	}

	var wide, many strings.Builder
	for i := range 5_000 {
		fmt.Fprintf(&wide, `,"k%d":%d`, i, i)
		fmt.Fprintf(&many, `,"k%d":[{"a":1},{"b":2}]`, i)
	}
	facts, err = command.Facts("MakeCoffee", json.RawMessage(`{"Rows":[{"k":1`+wide.String()+`}]`+many.String()+`}`))
	if err != nil {
		t.Fatal(err)
	}
	if rows := factOf(t, facts, "Rows").Table; len(rows.Columns) != 48 || rows.MoreColumns == 0 {
		t.Errorf("a row of 5,000 keys has %d columns and %d more", len(rows.Columns), rows.MoreColumns)
	}
	if last := facts[len(facts)-1]; len(facts) != 2_001 || last.Value != "3,001 values not shown" {
		t.Errorf("5,001 values are %d facts, the last of them %+v", len(facts), last)
	}

	var tables strings.Builder
	rows := strings.TrimSuffix(strings.Repeat(`{"a":1,"b":2},`, 2_100), ",")
	restrictions := wide.String()[1:strings.Index(wide.String(), `,"k2100"`)]
	for i := range 10 {
		fmt.Fprintf(&tables, `,"k%d":[%s],"r%d":{"GlobalRestrictions":{"restrictedBool":{%s}}}`, i, rows, i, restrictions)
	}
	facts, err = command.Facts("MakeCoffee", json.RawMessage(`{"k":1`+tables.String()+`}`))
	if err != nil {
		t.Fatal(err)
	}
	drawn := 0
	for _, f := range facts {
		if f.Table != nil {
			drawn += len(f.Table.Rows) * len(f.Table.Columns)
			if n := len(f.Table.Rows) + f.Table.More; n != 2_100 {
				t.Errorf("%s accounts for %d rows", f.Path, n)
			}
		}
	}
	if drawn > 60_000 {
		t.Errorf("20 long tables have %d cells", drawn)
	}

	deep := `{"a":` + strings.Repeat(`{"a":`, 1_000) + `1` + strings.Repeat(`}`, 1_000) + `}`
	if _, err := command.Facts("MakeCoffee", json.RawMessage(deep)); err != nil {
		t.Errorf("Facts of a deep answer: %v", err)
	}
}

func TestFactsRefuseWhatIsNoAnswer(t *testing.T) {
	t.Parallel()
	for name, result := range map[string]string{"a list": `[]`, "nothing": `null`, "half an object": `{"a":`, "a text": `"x"`} {
		if facts, err := command.Facts("SecurityInfo", json.RawMessage(result)); err == nil {
			t.Errorf("Facts of %s = %+v, want an error", name, facts)
		}
		if got := command.Summary("SecurityInfo", json.RawMessage(result)); got != "Done" {
			t.Errorf("Summary of %s = %q, want Done", name, got)
		}
	}
	if facts, err := command.Facts("DeviceLock", nil); facts != nil || err != nil {
		t.Errorf("Facts without an answer = %+v, %v", facts, err)
	}
}

// Every answer of Apple's pages is told in facts with words for labels.
func TestFactsOfEveryCommand(t *testing.T) {
	t.Parallel()
	for _, name := range everyType(t) {
		typ, _ := command.Lookup(name)
		if len(typ.Response) == 0 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			answer := make(map[string]any)
			for _, k := range typ.Response {
				answer[wildName(k)] = exampleOf(k)
			}
			result, err := json.Marshal(answer)
			if err != nil {
				t.Fatal(err)
			}
			facts, err := command.Facts(name, result)
			if err != nil || len(facts) == 0 {
				t.Fatalf("Facts(%s, %s) = %+v, %v", name, result, facts, err)
			}
			for _, f := range facts {
				for _, text := range []string{f.Label, f.Value} {
					if text == "" || strings.ContainsAny(text, "_{") {
						t.Errorf("%s is %q: %q", f.Path, f.Label, f.Value)
					}
				}
				if f.Table == nil {
					continue
				}
				if len(f.Table.Rows) == 0 || len(f.Table.Columns) == 0 {
					t.Errorf("%s is an empty table", f.Path)
				}
				for _, row := range f.Table.Rows {
					if len(row.Cells) != len(f.Table.Columns) {
						t.Errorf("%s has %d cells, want %d", row.Path, len(row.Cells), len(f.Table.Columns))
					}
				}
			}
			if got := command.Summary(name, result); got == "" || got == "Done" || strings.Contains(got, "value") {
				t.Errorf("Summary(%s, %s) = %q", name, result, got)
			}
		})
	}
}

// everyType returns the RequestTypes of the catalogue's file.
func everyType(t testing.TB) []string {
	t.Helper()
	data, err := os.ReadFile("commands.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Commands []struct{ Name string }
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range file.Commands {
		names = append(names, c.Name)
	}
	if len(names) != 68 {
		t.Fatalf("commands.json has %d commands, want 68", len(names))
	}
	return names
}

func wildName(k command.Key) string {
	if strings.HasPrefix(k.Name, "ANY") {
		return "com.example.any"
	}
	return k.Name
}

// exampleOf returns a value of k as a device could answer it.
func exampleOf(k command.Key) any {
	if len(k.Enum) > 0 {
		return k.Enum[0]
	}
	switch k.Kind {
	case command.Integer:
		return 1
	case command.Real:
		return 0.5
	case command.Boolean:
		return true
	case command.Data:
		return []byte("data")
	case command.Date:
		return "2026-01-02T03:04:05Z"
	case command.Array:
		item := command.Key{Kind: command.String}
		if len(k.Items) > 0 {
			item = k.Items[0]
		}
		return []any{exampleOf(item), exampleOf(item)}
	case command.Dictionary:
		d := make(map[string]any)
		for _, sub := range k.Keys {
			d[wildName(sub)] = exampleOf(sub)
		}
		return d
	}
	return "text"
}

func TestSummary(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ requestType, result, want string }{
		"no answer":             {"InstallProfile", ``, "Done"},
		"an empty answer":       {"InstallProfile", `{}`, "Done"},
		"apps":                  {"InstalledApplicationList", `{"InstalledApplicationList":[{"Name":"a"},{"Name":"b","HasUpdateAvailable":true}]}`, "2 apps, 1 with an update"},
		"an app":                {"InstalledApplicationList", `{"InstalledApplicationList":[{"Name":"a"}]}`, "1 app"},
		"no apps":               {"InstalledApplicationList", `{"InstalledApplicationList":[]}`, "0 apps"},
		"profiles":              {"ProfileList", `{"ProfileList":[{"IsManaged":true},{"IsManaged":false},{"IsManaged":false}]}`, "3 profiles, 2 of them not installed by MDM"},
		"profiles of unknown":   {"ProfileList", `{"ProfileList":[{"IsManaged":false},{}]}`, "2 profiles"},
		"managed apps":          {"ManagedApplicationList", `{"ManagedApplicationList":{"a":{"Status":"Managed"},"b":{"Status":"Managed"},"c":{"Status":"Failed"}}}`, "3 managed apps: 2 installed and managed, 1 failed"},
		"an iPhone's security":  {"SecurityInfo", `{"SecurityInfo":{"HardwareEncryptionCaps":3,"PasscodePresent":true,"PasscodeCompliant":true}}`, "Encrypted; passcode compliant"},
		"an iPhone without any": {"SecurityInfo", `{"SecurityInfo":{"HardwareEncryptionCaps":3,"PasscodePresent":false,"PasscodeCompliant":true}}`, "Not protected by encryption; no passcode"},
		"a Mac's security":      {"SecurityInfo", `{"SecurityInfo":{"FDE_Enabled":false,"FirewallSettings":{"FirewallEnabled":true},"SystemIntegrityProtectionEnabled":false}}`, "Not encrypted; firewall on; System Integrity Protection off"},
		"a device":              {"DeviceInformation", `{"QueryResponses":{"DeviceName":"Ada's iPhone","ProductName":"iPhone15,2","ModelName":"iPhone","OSVersion":"18.2","BuildVersion":"22C152","IsSupervised":true,"DeviceCapacity":128,"AvailableDeviceCapacity":60.3,"BatteryLevel":0.85,"IsDeviceLocatorServiceEnabled":false}}`, "Ada's iPhone; iPhone; iOS and iPadOS 18.2 (22C152); supervised; 60.3 of 128 GB free; battery 85%; Find My off"},
		"a few values":          {"DeviceInformation", `{"QueryResponses":{"UDID":"x"}}`, "1 value"},
		"settings":              {"Settings", `{"Settings":[{"Status":"Acknowledged"}]}`, "1 setting done"},
		"failed settings":       {"Settings", `{"Settings":[{"Status":"Acknowledged"},{"Status":"Error","ErrorChain":[{"ErrorCode":28002,"ErrorDomain":"MCSettingsErrorDomain"}]}]}`, "1 of 2 settings failed: The wallpaper can't be set (MCSettingsErrorDomain 28002)."},
		"an app on its way":     {"InstallApplication", `{"Identifier":"com.example.a","State":"Installing"}`, "com.example.a; installing"},
		"a place":               {"DeviceLocation", `{"Latitude":52.52,"Longitude":13.405,"HorizontalAccuracy":65.4,"Timestamp":"2026-01-02T03:04:05Z"}`, "52.52, 13.405, within 65 m, at 2026-01-02T03:04:05Z"},
		"a password":            {"VerifyRecoveryLock", `{"PasswordVerified":false}`, "The Recovery Lock password is wrong"},
		"updates":               {"AvailableOSUpdates", `{"AvailableOSUpdates":[{"HumanReadableName":"macOS Sequoia 15.2"},{"ProductName":"iOS","Version":"18.2"}]}`, "2 updates: macOS Sequoia 15.2, iOS 18.2"},
		"an unknown answer":     {"MakeCoffee", `{"Cups":3,"Beans":"few"}`, "2 values"},
		"other types":           {"InstalledApplicationList", `{"InstalledApplicationList":"none"}`, "0 apps"},
		"control characters":    {"DeviceInformation", `{"QueryResponses":{"DeviceName":"a\nb\u0000c"}}`, "a b c"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := command.Summary(tt.requestType, json.RawMessage(tt.result)); got != tt.want {
				t.Errorf("Summary(%s, %s) = %q, want %q", tt.requestType, tt.result, got, tt.want)
			}
		})
	}
}

// The answers of PROTOCOL and of Apple's pages, from the property list to the words.
func TestFactsOfAnswersAsDevicesSendThem(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/answers/*.plist")
	if err != nil || len(files) == 0 {
		t.Fatalf("no answers in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			answer, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			requestType, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(file), ".plist"), "-")
			result, err := command.DecodeResult(answer, guard.PlistLimits{})
			if err != nil {
				t.Fatal(err)
			}
			facts, err := command.Facts(requestType, result)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			fmt.Fprintf(&b, "%s\n\n", command.Summary(requestType, result))
			for _, f := range facts {
				fmt.Fprintf(&b, "%s: %s\n", f.Label, f.Value)
				if f.Table != nil {
					fmt.Fprintf(&b, "%s\n", cells(f.Table))
				}
			}
			golden := strings.TrimSuffix(file, ".plist") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if b.String() != string(want) {
				t.Errorf("%s reads\n%s\nwant\n%s", file, b.String(), want)
			}
		})
	}
}

func FuzzFacts(f *testing.F) {
	f.Add("SecurityInfo", `{"SecurityInfo":{"FDE_Enabled":true,"ManagementStatus":{"EnrolledViaDEP":false}}}`)
	f.Add("ManagedApplicationList", `{"ManagedApplicationList":{"a":{"Status":"Managed"},"b":7}}`)
	f.Add("Restrictions", `{"GlobalRestrictions":{"restrictedBool":{"a":{"value":true},"b":1},"x":[]},"ProfileRestrictions":{"p":{},"q":0}}`)
	f.Add("Settings", `{"Settings":[{"ErrorChain":[1,{"ErrorCode":1e99}]},2,null,[[]]]}`)
	f.Add("ProfileList", `{"ProfileList":[{"PayloadContent":[{"PayloadType":1},"x"],"SignerCertificates":["AA==","é"]}]}`)
	f.Add("DeviceInformation", `{"QueryResponses":{"BatteryLevel":-1e400,"UserSessionTimeout":1e300,"QuotaSize":-0.4,"DeviceCapacity":"x"}}`)
	f.Add("OSUpdateStatus", `{"OSUpdateStatus":[{"DownloadPercentComplete":0.2},{}]}`)
	f.Fuzz(func(t *testing.T, requestType, in string) {
		facts, err := command.Facts(requestType, json.RawMessage(in))
		if err != nil {
			return
		}
		if len(facts) > 2_001 {
			t.Errorf("%d facts", len(facts))
		}
		for _, fact := range facts {
			if fact.Label == "" || fact.Value == "" || len(fact.Value) > 1100 || fact.Raw != nil && !json.Valid(fact.Raw) {
				t.Errorf("Facts(%q, %q): %+v", requestType, in, fact)
			}
			if fact.Table == nil {
				continue
			}
			for _, row := range fact.Table.Rows {
				if len(row.Cells) != len(fact.Table.Columns) {
					t.Errorf("Facts(%q, %q): row %s has %d cells of %d", requestType, in, row.Path, len(row.Cells), len(fact.Table.Columns))
				}
			}
		}
		if s := command.Summary(requestType, json.RawMessage(in)); s == "" || len(s) > 1100 || strings.ContainsAny(s, "\n\x00") {
			t.Errorf("Summary(%q, %q) = %q", requestType, in, s)
		}
	})
}

func BenchmarkFactsOf1000Apps(b *testing.B) {
	app := `{"Identifier":"com.example.app","Name":"App","Version":"1.2.3","ShortVersion":"1.2","BundleSize":1234567,"DynamicSize":1234,"IsValidated":true}`
	apps := json.RawMessage(`{"InstalledApplicationList":[` + strings.TrimSuffix(strings.Repeat(app+",", 1000), ",") + `]}`)
	for b.Loop() {
		if _, err := command.Facts("InstalledApplicationList", apps); err != nil {
			b.Fatal(err)
		}
	}
}
