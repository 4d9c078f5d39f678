package profile_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

// draft reads a draft as a client sends it.
func draft(t testing.TB, text string) profile.Draft {
	t.Helper()
	var d profile.Draft
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestCompose(t *testing.T) {
	d := draft(t, `{"identifier":"com.example.office","display_name":"Office","description":"Wi-Fi & more","organization":"Example","scope":"System","removal_disallowed":true,
		"payloads":[
			{"type":"com.apple.security.scep","uuid":"0a1b2c3d-0000-4000-8000-000000000000","settings":{"PayloadContent":{"CertificateTemplate":"wifi"}}},
			{"type":"com.apple.wifi.managed","display_name":"Office Wi-Fi","description":"For all","settings":{"SSID_STR":"Office","EncryptionType":"WPA3","AutoJoin":true,
				"PayloadCertificateUUID":"0A1B2C3D-0000-4000-8000-000000000000","EAPClientConfiguration":{"AcceptEAPTypes":[13],"UserName":"$EMAIL"}}},
			{"type":"com.apple.wifi.managed","settings":{"SSID_STR":"Guests"}},
			{"type":"com.apple.security.root","identifier":"com.example.root","settings":{"PayloadContent":"AQID","PayloadCertificateFileName":"root.cer"}},
			{"type":"com.apple.font","settings":{"Font":"AQID"}},
			{"type":"com.microsoft.Edge","settings":{"HomepageLocation":"https://example.com","Level":3,"Ratio":1.5,"On":true}},
			{"type":"com.apple.extensiblesso","settings":{"ExtensionIdentifier":"com.example.sso","Type":"Redirect","URLs":["https://example.com"]}},
			{"type":"com.apple.vpn.managed.applayer","settings":{"VPNUUID":"x","VPNType":"IKEv2","UserDefinedName":"Work","IKEv2":{"RemoteAddress":"vpn.example.com","LocalIdentifier":"a","RemoteIdentifier":"b","AuthenticationMethod":"None"}}}
		]}`)
	p, err := profile.Compose(d)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "composed", raw)
	again, err := profile.Compose(d)
	if err != nil {
		t.Fatal(err)
	}
	if twice, err := again.Encode(); err != nil || !bytes.Equal(raw, twice) {
		t.Errorf("the same draft gives another profile (%v)", err)
	}
	if p.Payloads[0].UUID != p.Payloads[1].Content["PayloadCertificateUUID"] {
		t.Errorf("Wi-Fi refers to %v, the certificate is %s", p.Payloads[1].Content["PayloadCertificateUUID"], p.Payloads[0].UUID)
	}
	parsed, err := profile.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range parsed.Lint(time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)) {
		if f.Severity == profile.SeverityError && f.PayloadType != "com.apple.security.root" && f.PayloadType != "com.apple.font" {
			t.Errorf("Lint: %s: %s", f.Path(), f.Reason)
		}
	}
}

func TestComposeNamesWhatIsWrong(t *testing.T) {
	payload := func(p string) string { return `{"identifier":"com.example","payloads":[` + p + `]}` }
	for text, want := range map[string]string{
		`{"payloads":[]}`:                                                    "identifier is required",
		`{"identifier":"a b","payloads":[]}`:                                 "identifier must be letters, digits, hyphens and underscores with dots between them, as com.example.wifi",
		`{"identifier":"com.example","payloads":[]}`:                         "payloads must not be empty",
		`{"identifier":"com.example","display_name":"\u0000","payloads":[]}`: "display_name holds a character that a property list can't hold",
		`{"identifier":"com.example","scope":"All","payloads":[{}]}`:         "scope must be one of User, System",
		payload(`{}`):                               "payloads[0].type is required",
		payload(`{"type":"wi fi"}`):                 "payloads[0].type must be letters, digits, hyphens and underscores with dots between them, as com.example.wifi",
		payload(`{"type":"com.apple.mdm"}`):         "payloads[0].type enrolls a device: the server makes such profiles itself",
		payload(`{"type":"com.apple.wifi.manged"}`): "payloads[0].type is no payload that Apple documents; did you mean com.apple.wifi.managed?",
		payload(`{"type":"com.apple.font","settings":{"Font":"AQID"},"uuid":"1"}`):                                        "payloads[0].uuid must be a UUID such as 0A1B2C3D-0000-4000-8000-000000000000",
		payload(`{"type":"com.apple.font","settings":{}}`):                                                                "payloads[0].settings.Font is required",
		payload(`{"type":"com.apple.font","settings":{"Font":"!"}}`):                                                      "payloads[0].settings.Font must be base64 (RFC 4648, section 4) with padding",
		payload(`{"type":"com.apple.wifi.managed","settings":{"EncryptionType":"X"}}`):                                    "payloads[0].settings.EncryptionType must be one of WEP, WPA, WPA2, WPA3, Any, None",
		payload(`{"type":"com.apple.wifi.managed","settings":{"PayloadType":"X"}}`):                                       "payloads[0].settings.PayloadType is not a key of com.apple.wifi.managed",
		payload(`{"type":"com.apple.wifi.managed","settings":{"EAPClientConfiguration":{"AcceptEAPTypes":["13"]}}}`):      "payloads[0].settings.EAPClientConfiguration.AcceptEAPTypes[0] must be an integer",
		payload(`{"type":"com.example.app","settings":{"PayloadUUID":"X"}}`):                                              "payloads[0].settings.PayloadUUID is no setting",
		payload(`{"type":"com.apple.security.scep","settings":{"PayloadContent":{"CertificateTemplate":""}}}`):            "payloads[0].settings.PayloadContent.CertificateTemplate must not be empty",
		payload(`{"type":"com.apple.security.scep","settings":{"PayloadContent":{"CertificateTemplate":"a","URL":"b"}}}`): "payloads[0].settings.PayloadContent.URL is not a key of com.apple.security.scep",
		payload(`{"type":"com.apple.MCX","settings":{"EnableGuestAccount":1}}`):                                           "payloads[0].settings.EnableGuestAccount must be a boolean",
		payload(`{"type":"a.b","settings":{}},{"type":"a.c","identifier":"com.example.a.b","settings":{}}`):               "payloads[1].identifier is that of payloads[0], too",
		payload(`{"type":"a.b","identifier":"com.example","settings":{}}`):                                                "payloads[0].identifier is the profile's own",
	} {
		_, err := profile.Compose(draft(t, text))
		var param *command.ParamError
		if !errors.As(err, &param) {
			t.Errorf("Compose(%s): %v, want a *ParamError", text, err)
		} else if got := err.Error(); got != want && !strings.HasPrefix(got, want+";") {
			t.Errorf("Compose(%s):\n%s, want\n%s", text, got, want)
		}
	}
}

// golden compares a profile with testdata/NAME.mobileconfig.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name+".mobileconfig")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("profile differs from %s; run with -update and review the difference. It is\n%s", file, got)
	}
}

// TestComposedIsReadAsItWas holds for each type of payload, with all of its keys set as its
// description asks: what Compose takes is written, and read back equal.
func TestComposedIsReadAsItWas(t *testing.T) {
	t.Parallel()
	for _, d := range profile.DescribePayloads() {
		settings, err := json.Marshal(answer(d.Keys))
		if err != nil {
			t.Fatal(err)
		}
		in := draft(t, fmt.Sprintf(`{"identifier":"com.example.test","payloads":[{"type":%q,"settings":%s}]}`, d.Type, settings))
		p, err := profile.Compose(in)
		if err != nil {
			t.Errorf("%s (%s): %v", d.Type, d.Title, err)
			continue
		}
		raw, err := p.Encode()
		if err != nil {
			t.Errorf("%s: %v", d.Type, err)
			continue
		}
		again, err := profile.Parse(raw)
		if err != nil {
			t.Errorf("%s: %v", d.Type, err)
			continue
		}
		if !reflect.DeepEqual(again.Top, p.Top) {
			t.Errorf("%s (%s): what is read is not what was composed: %v", d.Type, d.Title, profile.Diff(p, again))
		}
		for key := range in.Payloads[0].Settings {
			if _, there := again.Payloads[0].Content[key]; !there {
				t.Errorf("%s: %s is lost", d.Type, key)
			}
		}
	}
}

// answer fills in a form.
func answer(keys []profile.KeyDescription) map[string]any {
	out := map[string]any{}
	for _, k := range keys {
		out[k.Name] = answerTo(k)
	}
	return out
}

func answerTo(k profile.KeyDescription) any {
	n := 7.0
	switch {
	case len(k.Allowed) > 0:
		switch v := k.Allowed[len(k.Allowed)-1].(type) {
		case string:
			if k.Kind == command.Integer || k.Kind == command.Real { // as some of Apple's pages list numbers
				return json.Number(v)
			}
			return v
		default:
			return v
		}
	case k.Min != nil:
		n = *k.Min
	case k.Max != nil:
		n = *k.Max
	}
	switch k.Kind {
	case command.Integer:
		return int64(n)
	case command.Real:
		return n + 0.5
	case command.Boolean:
		return true
	case command.Data:
		return []byte{0, 1, 0xff}
	case command.Date:
		return "2026-08-01T10:20:30Z"
	case command.Array:
		if len(k.Items) > 0 {
			return []any{answerTo(k.Items[0])}
		}
		return []any{"free", 1}
	case command.Dictionary:
		if len(k.Keys) > 0 {
			return answer(k.Keys)
		}
		return map[string]any{"Free": true}
	}
	return "$EMAIL <&>\"' 😀"
}
