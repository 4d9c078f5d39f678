package command_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

func answer(body string) []byte {
	return []byte(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict><key>CommandUUID</key><string>1</string><key>Status</key><string>Acknowledged</string><key>UDID</key><string>U</string>` + body + `</dict></plist>`)
}

func TestDecodeResult(t *testing.T) {
	for name, tt := range map[string]struct{ body, want string }{
		"nothing but protocol": {``, `{}`},
		"protocol keys of users": {
			`<key>UserID</key><string>x</string><key>EnrollmentUserID</key><string>x</string><key>UserShortName</key><string>x</string><key>UserLongName</key><string>x</string><key>NotOnConsole</key><false/><key>EnrollmentID</key><string>x</string><key>RequestType</key><string>x</string><key>ErrorChain</key><array/>`,
			`{}`,
		},
		"each type": {
			`<key>s</key><string>a&lt;b</string><key>i</key><integer>-5</integer><key>r</key><real>0.5</real><key>t</key><true/><key>f</key><false/><key>d</key><data>AAEC</data><key>w</key><date>2026-01-02T03:04:05Z</date><key>a</key><array><integer>1</integer><array/></array><key>o</key><dict/>`,
			`{"s":"a<b","i":-5,"r":0.5,"t":true,"f":false,"d":"AAEC","w":"2026-01-02T03:04:05Z","a":[1,[]],"o":{}}`,
		},
		"integers beyond a double's precision": {
			`<key>a</key><integer>18446744073709551615</integer><key>b</key><integer>-9223372036854775808</integer><key>c</key><integer>9007199254740993</integer>`,
			`{"a":18446744073709551615,"b":-9223372036854775808,"c":9007199254740993}`,
		},
		"reals that JSON does not have": {
			`<key>a</key><real>nan</real><key>b</key><real>inf</real><key>c</key><real>-inf</real>`,
			`{"a":null,"b":null,"c":null}`,
		},
		"protocol names deeper down are data": {
			`<key>QueryResponses</key><dict><key>UDID</key><string>U</string><key>Status</key><string>ok</string></dict>`,
			`{"QueryResponses":{"UDID":"U","Status":"ok"}}`,
		},
		"an empty key": {`<key></key><string>x</string>`, `{"":"x"}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := command.DecodeResult(answer(tt.body), guard.PlistLimits{})
			if err != nil {
				t.Fatalf("DecodeResult(%s): %v", tt.body, err)
			}
			if !sameJSON(t, got, []byte(tt.want)) {
				t.Errorf("DecodeResult(%s) = %s, want %s", tt.body, got, tt.want)
			}
		})
	}
}

// sameJSON compares numbers by their digits.
func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	decode := func(in []byte) (out any) {
		dec := json.NewDecoder(strings.NewReader(string(in)))
		dec.UseNumber()
		if err := dec.Decode(&out); err != nil {
			t.Fatalf("%s: %v", in, err)
		}
		return out
	}
	return reflect.DeepEqual(decode(a), decode(b))
}

func TestDecodeResultKeepsSecretsToItself(t *testing.T) {
	const secret = "c2VjcmV0LXZhbHVl"
	for name, tt := range map[string]struct{ body, want string }{
		"an unlock token":    {`<key>UnlockToken</key><data>` + secret + `</data>`, `{"UnlockToken":"[redacted]"}`},
		"a bypass code":      {`<key>ActivationLockBypassCode</key><string>` + secret + `</string>`, `{"ActivationLockBypassCode":"[redacted]"}`},
		"a recovery key":     {`<key>RotateResult</key><dict><key>EncryptedNewRecoveryKey</key><data>` + secret + `</data></dict>`, `{"RotateResult":{"EncryptedNewRecoveryKey":"[redacted]"}}`},
		"an escrowed key":    {`<key>SecurityInfo</key><dict><key>FDE_PersonalRecoveryKeyCMS</key><data>` + secret + `</data><key>FDE_HasPersonalRecoveryKey</key><true/></dict>`, `{"SecurityInfo":{"FDE_PersonalRecoveryKeyCMS":"[redacted]","FDE_HasPersonalRecoveryKey":true}}`},
		"a push token":       {`<key>QueryResponses</key><dict><key>PushToken</key><data>` + secret + `</data></dict>`, `{"QueryResponses":{"PushToken":"[redacted]"}}`},
		"a bootstrap token":  {`<key>BootstrapToken</key><data>` + secret + `</data>`, `{"BootstrapToken":"[redacted]"}`},
		"a password":         {`<key>NewPassword</key><string>` + secret + `</string>`, `{"NewPassword":"[redacted]"}`},
		"a numeric PIN":      {`<key>PIN</key><integer>123456</integer>`, `{"PIN":"[redacted]"}`},
		"any case":           {`<key>password</key><string>` + secret + `</string>`, `{"password":"[redacted]"}`},
		"below a secret key": {`<key>Password</key><array><dict><key>v</key><string>` + secret + `</string></dict></array>`, `{"Password":[{"v":"[redacted]"}]}`},
		"in a list of dicts": {`<key>Users</key><array><dict><key>Password</key><string>` + secret + `</string></dict></array>`, `{"Users":[{"Password":"[redacted]"}]}`},
		"a fact about one":   {`<key>SetFirmwarePassword</key><dict><key>PasswordChanged</key><true/></dict>`, `{"SetFirmwarePassword":{"PasswordChanged":true}}`},
		"a policy about one": {`<key>BootstrapTokenAllowedForAuthentication</key><string>allowed</string>`, `{"BootstrapTokenAllowedForAuthentication":"allowed"}`},
		"whether one is set": {`<key>PasscodePresent</key><true/><key>PasscodeLockGracePeriod</key><integer>5</integer>`, `{"PasscodePresent":true,"PasscodeLockGracePeriod":5}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := command.DecodeResult(answer(tt.body), guard.PlistLimits{})
			if err != nil {
				t.Fatal(err)
			}
			if !sameJSON(t, got, []byte(tt.want)) {
				t.Errorf("DecodeResult(%s) = %s, want %s", tt.body, got, tt.want)
			}
		})
	}
}

func TestDecodeResultRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		raw  string
		want error // nil: any
	}{
		"a binary list":  {"bplist00\xd0", guard.ErrPlist},
		"half a list":    {"<plist><dict>", guard.ErrPlist},
		"no dictionary":  {"<plist><array/></plist>", nil},
		"a lonely value": {"<plist><string>x</string></plist>", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := command.DecodeResult([]byte(tt.raw), guard.PlistLimits{})
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("DecodeResult(%q) = %s, %v; want %v", tt.raw, got, err, tt.want)
			}
		})
	}
	if _, err := command.DecodeResult(answer(""), guard.PlistLimits{Bytes: 10}); !errors.Is(err, guard.ErrTooLarge) {
		t.Errorf("DecodeResult beyond its limit = %v, want ErrTooLarge", err)
	}
}

func TestDecodeErrorChain(t *testing.T) {
	link := func(code, domain, us, localized string) string {
		return `<dict><key>ErrorCode</key><integer>` + code + `</integer><key>ErrorDomain</key><string>` + domain +
			`</string><key>USEnglishDescription</key><string>` + us + `</string><key>LocalizedDescription</key><string>` + localized + `</string></dict>`
	}
	for name, tt := range map[string]struct {
		body string
		want []command.ChainedError
	}{
		"none":        {``, nil},
		"not a chain": {`<key>ErrorChain</key><string>x</string>`, nil},
		"two links": {
			`<key>ErrorChain</key><array>` + link("12021", "MCMDMErrorDomain", "Unknown command", "Unbekannt") + link("-4", "X", "", "nur hier") + `</array>`,
			[]command.ChainedError{
				{ErrorCode: 12021, ErrorDomain: "MCMDMErrorDomain", USEnglishDescription: "Unknown command", LocalizedDescription: "Unbekannt"},
				{ErrorCode: -4, ErrorDomain: "X", LocalizedDescription: "nur hier"},
			},
		},
		"links of other types": {
			`<key>ErrorChain</key><array><string>x</string><dict><key>ErrorCode</key><string>7</string></dict></array>`,
			[]command.ChainedError{{}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := command.DecodeErrorChain(answer(tt.body), guard.PlistLimits{})
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("DecodeErrorChain(%s) = %+v, %v; want %+v", tt.body, got, err, tt.want)
			}
		})
	}

	long, err := command.DecodeErrorChain(answer(`<key>ErrorChain</key><array>`+strings.Repeat("<dict/>", 10_000)+`</array>`), guard.PlistLimits{})
	if err != nil || len(long) != 32 {
		t.Errorf("a chain of 10,000 is kept as %d, %v; want its first 32", len(long), err)
	}
}

func FuzzDecodeResult(f *testing.F) {
	f.Add(answer(`<key>s</key><string>a&lt;b</string><key>i</key><integer>-5</integer><key>r</key><real>nan</real><key>d</key><data>AAEC</data><key>w</key><date>2026-01-02T03:04:05Z</date>`))
	f.Add(answer(`<key>ErrorChain</key><array><dict><key>ErrorCode</key><integer>1</integer></dict></array><key>Password</key><array><real>1e309</real></array>`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := command.DecodeResult(raw, guard.PlistLimits{})
		if err == nil && (!json.Valid(got) || got[0] != '{') {
			t.Errorf("DecodeResult(%q) = %q", raw, got)
		}
		if _, chainErr := command.DecodeErrorChain(raw, guard.PlistLimits{}); (err == nil) != (chainErr == nil) {
			t.Errorf("DecodeResult(%q) = %v, DecodeErrorChain = %v", raw, err, chainErr)
		}
	})
}
