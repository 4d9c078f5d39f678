package profile_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
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
