package profile_test

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

// minimal are answers to what each starter asks for at least.
func minimal(t testing.TB) map[string]map[string]any {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "root-ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	root := string(raw)
	return map[string]map[string]any{
		"wifi-certificate":           {"ssid": "Office", "certificate_template": "wifi", "trusted_certificates": root},
		"wifi-password":              {"ssid": "Guests", "password": "pa$WORD and $5"},
		"app-vpn":                    {"name": "Work", "server": "vpn.example.com", "app": "com.example.vpn"},
		"app-vpn-ikev2":              {"name": "Work", "server": "vpn.example.com", "certificate_template": "vpn"},
		"trust":                      {"certificates": root},
		"mail":                       {"name": "Example", "incoming_server": "imap.example.com", "outgoing_server": "smtp.example.com"},
		"exchange":                   {},
		"web-clip":                   {"label": "Help", "url": "https://help.example.com/?d=$SERIALNUMBER"},
		"passcode":                   {},
		"byod-data-protection":       {},
		"supervised-data-protection": {},
		"lock-screen-message":        {"message": "Property of Example, $ASSET_TAG"},
		"update-deferral":            {},
		"filevault":                  {"escrow_certificate": root},
		"gatekeeper":                 {},
	}
}

func TestStarters(t *testing.T) {
	known := func(name string) bool {
		return name == "EMAIL" || name == "FULLNAME" || name == "SERIALNUMBER" || name == "ASSET_TAG"
	}
	answers := minimal(t)
	for _, s := range profile.Starters() {
		t.Run(s.Name, func(t *testing.T) {
			if s.Title == "" || s.Summary == "" || len(s.Platforms) == 0 || answers[s.Name] == nil {
				t.Errorf("%+v lacks something", s)
			}
			for _, p := range s.Parameters {
				if p.Name == "" || p.Label == "" || p.Kind == "" || p.Required && p.Default != nil {
					t.Errorf("parameter %+v lacks something", p)
				}
			}
			d, err := profile.Fill(s.Name, "com.example.profiles."+s.Name, answers[s.Name])
			if err != nil {
				t.Fatal(err)
			}
			p, err := profile.Compose(d)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := p.Encode()
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("starters", s.Name), raw)

			kept, err := json.Marshal(d) // a draft that was kept composes the same
			if err != nil {
				t.Fatal(err)
			}
			again, err := profile.Compose(draft(t, string(kept)))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(again.Top, p.Top) {
				t.Error("a draft that was kept gives another profile")
			}
			if parsed, err := profile.Parse(raw); err != nil {
				t.Error(err)
			} else if changes := profile.Diff(p, parsed); changes != nil {
				t.Errorf("what is read is not what was composed: %v", changes)
			}

			for _, f := range p.Lint(time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)) {
				if f.Severity == profile.SeverityError {
					t.Errorf("Lint: %s: %s", f.Path(), f.Reason)
				}
			}
			if _, problems := p.Variables(known); problems != nil {
				t.Errorf("Variables: %v", problems)
			}
			for _, platform := range s.Platforms {
				target := command.Target{Platform: platform, OSVersion: newest[platform], Approved: &yes, Supervised: &s.Supervised, SharedIPad: &no, ADE: &no,
					UserChannel: platform == command.MacOS && d.Scope == profile.ScopeUser}
				if platform == command.WatchOS || platform == command.TVOS {
					target.Supervised = &yes
				}
				if findings, refused := p.Check(target); refused {
					t.Errorf("refused on %s: %v", platform, findings)
				}
				target.UserEnrollment, target.Supervised = true, &no
				if findings, refused := p.Check(target); s.UserEnrollment && platform != command.TVOS && platform != command.WatchOS && (refused || len(findings) > 0 && platform == command.IOS) {
					t.Errorf("in a User Enrollment on %s: %v", platform, findings)
				}
			}
		})
	}
	if len(answers) != len(profile.Starters()) {
		t.Errorf("%d starters, answers for %d", len(profile.Starters()), len(answers))
	}
}

var newest = map[command.Platform]string{command.IOS: "26.1", command.MacOS: "26.1", command.TVOS: "26.1", command.VisionOS: "26.1", command.WatchOS: "26.1"}

func TestStarterKeepsTextsAsTheyAre(t *testing.T) {
	const password = `$EMAIL $$EMAIL pa$$word ${UPN}$`
	d, err := profile.Fill("wifi-password", "com.example.wifi", map[string]any{"ssid": "$SSID", "password": password})
	if err != nil {
		t.Fatal(err)
	}
	p, err := profile.Compose(d)
	if err != nil {
		t.Fatal(err)
	}
	sent, err := p.Expand(func(string) (string, error) { return "", errors.New("nothing is a variable") }, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := sent.Payloads[0].Content; got["Password"] != password || got["SSID_STR"] != "$SSID" || sent.DisplayName != "Wi-Fi $SSID" {
		t.Errorf("sent: %v %v %s", got["Password"], got["SSID_STR"], sent.DisplayName)
	}
}

func TestFillNamesWhatIsWrong(t *testing.T) {
	key := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte{1}}))
	for name, tt := range map[string]struct {
		starter string
		params  map[string]any
		want    string
	}{
		"a parameter that is missing":      {"web-clip", map[string]any{"label": "a"}, "params.url is required"},
		"one that is empty":                {"web-clip", map[string]any{"label": "", "url": "https://a"}, "params.label must not be empty"},
		"one that is not known":            {"web-clip", map[string]any{"label": "a", "url": "https://a", "lable": "b"}, "params.lable is not a key of the starter web-clip"},
		"another type":                     {"web-clip", map[string]any{"label": 1, "url": "https://a"}, "params.label must be a string"},
		"a script for an address":          {"web-clip", map[string]any{"label": "a", "url": "javascript:alert(1)"}, "params.url must be a URL"},
		"no picture":                       {"web-clip", map[string]any{"label": "a", "url": "https://a", "icon": "R0lG"}, "params.icon must be a picture in PNG or JPEG"},
		"a password that is too short":     {"wifi-password", map[string]any{"ssid": "a", "password": "$$A4567"}, "params.password must have 8 to 63 characters"},
		"a value that is not offered":      {"wifi-password", map[string]any{"ssid": "a", "password": "12345678", "security": "WEP"}, "params.security must be one of WPA2, WPA3"},
		"a number that is too large":       {"passcode", map[string]any{"min_length": json.Number("17")}, "params.min_length is out of range"},
		"an address in place of a host":    {"mail", map[string]any{"name": "a", "incoming_server": "imaps://a", "outgoing_server": "b"}, "params.incoming_server must be the name of a host"},
		"text in place of certificates":    {"trust", map[string]any{"certificates": "hello"}, "params.certificates must be certificates in PEM"},
		"a private key":                    {"trust", map[string]any{"certificates": key}, "params.certificates must not hold a private key"},
		"a certificate that can't be read": {"trust", map[string]any{"certificates": "AQID"}, "params.certificates has a certificate that can't be read, the one with the number 1"},
		"nothing turned on":                {"gatekeeper", map[string]any{"firewall": "yes"}, "params.firewall must be a boolean"},
		"no app":                           {"app-vpn", map[string]any{"name": "a", "server": "b", "app": "My VPN"}, "params.app must be letters"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := profile.Fill(tt.starter, "com.example", tt.params)
			var param *command.ParamError
			if !errors.As(err, &param) || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("Fill: %v, want %s", err, tt.want)
			}
		})
	}
	off := map[string]any{}
	for _, s := range profile.Starters() {
		if s.Name == "byod-data-protection" {
			for _, p := range s.Parameters {
				off[p.Name] = false
			}
		}
	}
	if _, err := profile.Fill("byod-data-protection", "com.example", off); err == nil || !strings.Contains(err.Error(), "turn on at least one") {
		t.Errorf("Fill of switches that are all off: %v", err)
	}
	if _, err := profile.Fill("nothing", "com.example", nil); !errors.Is(err, profile.ErrNoStarter) {
		t.Errorf("Fill of no starter: %v", err)
	}
	if _, err := profile.Fill("passcode", "", nil); err == nil || err.Error() != "identifier is required" {
		t.Errorf("Fill without an identifier: %v", err)
	}
}
