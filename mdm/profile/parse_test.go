package profile_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "profiles", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestProfilesOfTheFieldsToolsSurvive(t *testing.T) {
	type payloads = []string // types, in order
	for name, tt := range map[string]struct {
		identifier, display string
		payloads            payloads
	}{
		"configurator":   {"Anas-MacBook-Pro.2C0E7F64-1C32-4F38-9B6B-5B6E0A7D8C92", "School iPads", payloads{"com.apple.applicationaccess", "com.apple.wifi.managed"}},
		"imazing":        {"MAC-0042.5A6B7C8D-1111-4A5B-9C6D-7E8F90A1B2C3", "Wi-Fi with certificate", payloads{"com.apple.security.root", "com.apple.security.scep", "com.apple.wifi.managed"}},
		"profilecreator": {"com.github.erikberglund.ProfileCreator.1E2D3C4B-5555-4A5B-9C6D-7E8F90A1B2C3", "Untitled", payloads{"com.apple.loginwindow", "com.apple.NetworkBrowser", "com.google.Chrome"}},
		"jamf":           {"00000001-6666-4A5B-9C6D-7E8F90A1B2C3", "Defender", payloads{"com.apple.ManagedClient.preferences", "com.apple.TCC.configuration-profile-policy"}},
		"jumpcloud":      {"com.jumpcloud.example.notifications", "Notifications", payloads{"com.apple.notificationsettings"}},
		"fleet":          {"com.example.fleet", "Sign-on", payloads{"com.apple.servicemanagement", "com.apple.extensiblesso"}},
	} {
		t.Run(name, func(t *testing.T) {
			raw := fixture(t, name+".mobileconfig")
			p, err := profile.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			var types []string
			for i, payload := range p.Payloads {
				types = append(types, payload.Type)
				if payload.Index != i || payload.UUID == "" || payload.Identifier == "" || payload.Content["PayloadType"] != payload.Type {
					t.Errorf("payload %d is %+v", i, payload)
				}
			}
			if p.Identifier != tt.identifier || p.DisplayName != tt.display || p.Version != 1 || p.UUID == "" || p.Signer != nil || !reflect.DeepEqual(types, tt.payloads) {
				t.Errorf("Parse = %q %q, version %d, payloads %q, signer %v", p.Identifier, p.DisplayName, p.Version, types, p.Signer)
			}
			if !bytes.Equal(p.XML, raw) {
				t.Error("XML is not what was read")
			}
			for _, f := range p.Lint(now) {
				if f.Severity == profile.SeverityError {
					t.Errorf("a tool's own profile has the error %s: %s", f.Path(), f.Reason)
				}
			}
		})
	}
}

// fleet#25831: a signed profile of iMazing's came out as garbage.
func TestASignedProfileComesOutToTheByte(t *testing.T) {
	const subject = "CN=Example Profile Signer,O=Example Sons"
	for name, tt := range map[string]struct{ signed, inner, digest string }{
		"DER":                                {"imazing-signed.mobileconfig", "imazing.mobileconfig", "SHA-256"},
		"BER with indefinite lengths":        {"jamf-signed-ber.mobileconfig", "jamf.mobileconfig", "SHA-1"},
		"PEM, and without signed attributes": {"configurator-signed.pem", "configurator.mobileconfig", "SHA-256"},
	} {
		t.Run(name, func(t *testing.T) {
			signed := fixture(t, tt.signed)
			p, err := profile.Parse(signed)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(p.XML, fixture(t, tt.inner)) {
				t.Errorf("what came out has %d bytes, not those of %s", len(p.XML), tt.inner)
			}
			if s := p.Signer; s == nil || s.Subject != subject || s.Issuer != subject || s.Serial == "" || s.NotAfter.IsZero() || s.Digest != tt.digest || s.Broken != "" {
				t.Errorf("the signer is %+v", s)
			}
			if xml, signer, err := profile.Unwrap(signed); err != nil || !bytes.Equal(xml, p.XML) || signer.Subject.String() != subject {
				t.Errorf("Unwrap = %d bytes, %v, %v", len(xml), signer, err)
			}
			if id, err := profile.Identifier(signed); err != nil || id != p.Identifier {
				t.Errorf("Identifier = %q, %v; want %q", id, err, p.Identifier)
			}
		})
	}
}

func TestABrokenSignatureIsNamed(t *testing.T) {
	signed := fixture(t, "imazing-signed.mobileconfig")
	changed := bytes.Replace(signed, []byte("Example Staff"), []byte("Example Stuff"), 1)
	p, err := profile.Parse(changed)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Payloads[2].Content["SSID_STR"]; got != "Example Stuff" {
		t.Errorf("SSID_STR = %v", got)
	}
	if s := p.Signer; s == nil || !strings.Contains(s.Broken, "changed after it was signed") || !strings.Contains(s.Subject, "Example Profile Signer") {
		t.Errorf("the signer is %+v", s)
	}
	if _, _, err := profile.Unwrap(changed); !errors.Is(err, guard.ErrSignature) {
		t.Errorf("Unwrap: %v", err)
	}
}

func TestWhatIsNoProfileIsNamed(t *testing.T) {
	t.Parallel()
	const xml = `<?xml version="1.0" encoding="UTF-8"?><plist version="1.0">`
	plist := func(top string) []byte { return []byte(xml + "<dict>" + top + "</dict></plist>") }
	good := configuration("")
	var sixteen bytes.Buffer
	sixteen.WriteString("\xFF\xFE")
	for _, unit := range utf16.Encode([]rune(string(good))) {
		sixteen.Write([]byte{byte(unit), byte(unit >> 8)})
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := issue(t, "Signer", key.Public(), nil, key)
	signedNothing, err := profile.Sign(good, ca, key)
	if err != nil {
		t.Fatal(err)
	}
	twice, err := profile.Sign(signedNothing, ca, key)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		data []byte
		says string
		is   error
	}{
		"nothing":                       {nil, "it is empty", guard.ErrPlist},
		"white space":                   {[]byte(" \n"), "it is empty", guard.ErrPlist},
		"50 MB":                         {bytes.Repeat([]byte("<"), 50<<20), "at most 8388608", guard.ErrTooLarge},
		"a picture":                     {[]byte("\x89PNG\r\n\x1a\n\x00\x00"), "a picture (PNG)", guard.ErrPlist},
		"a login page":                  {[]byte("\n<!DOCTYPE html>\n<html><head>"), "web page", guard.ErrPlist},
		"a login page without its type": {[]byte("<HTML><body>"), "web page", guard.ErrPlist},
		"a zip archive":                 {[]byte("PK\x03\x04\x14\x00"), "zip archive", guard.ErrPlist},
		"an installer package":          {[]byte("xar!\x00\x1c"), ".pkg", guard.ErrPlist},
		"JSON":                          {[]byte(`{"Type":"com.apple.configuration.passcode.settings"}`), "a declaration is no profile", guard.ErrPlist},
		"a binary property list":        {[]byte("bplist00\xd1\x01\x02"), "plutil -convert xml1", guard.ErrBinaryPlist},
		"UTF-16":                        {sixteen.Bytes(), "UTF-16; convert it to UTF-8 with `plutil", guard.ErrPlist},
		"UTF-16 without a mark":         {sixteen.Bytes()[2:], "UTF-16; convert it to UTF-8 with `plutil", guard.ErrPlist},
		"Latin-1 that says so":          {[]byte("<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><plist><dict><key>PayloadType</key><string>B\xfcro</string></dict></plist>"), "another than UTF-8; convert it", guard.ErrPlist},
		"Latin-1 that does not":         {[]byte(xml + "<dict><key>PayloadType</key><string>B\xfcro</string></dict></plist>"), "not valid UTF-8", guard.ErrPlist},
		"base64":                        {[]byte(base64.StdEncoding.EncodeToString(good)), "base64 -d", guard.ErrPlist},
		"S/MIME":                        {[]byte("MIME-Version: 1.0\nContent-Type: multipart/signed;"), "openssl cms -sign -nodetach -outform DER", guard.ErrPlist},
		"a certificate":                 {ca.Raw, "com.apple.security.pkcs1", guard.ErrCMS},
		"a certificate in PEM":          {[]byte("-----BEGIN CERTIFICATE-----\nMIIB"), "com.apple.security.pem", guard.ErrPlist},
		"a PKCS #12 file":               {[]byte{0x30, 0x0b, 2, 1, 3, 0x30, 0x06, 6, 1, 42, 0x30, 0x01, 0}, "com.apple.security.pkcs12", guard.ErrCMS},
		"half of a signed profile":      {signedNothing[:len(signedNothing)/2], "malformed CMS", guard.ErrCMS},
		"a profile signed twice":        {twice, "another signature inside", nil},
		"half of a profile":             {good[:len(good)/2], "ends too early", guard.ErrPlist},
		"an array":                      {[]byte(xml + "<array/></plist>"), "something else than a dictionary", nil},
		"a provisioning profile":        {plist(`<key>TeamIdentifier</key><array/><key>Entitlements</key><dict/>`), ".mobileprovision", nil},
		"a command":                     {plist(`<key>Command</key><dict/><key>CommandUUID</key><string>x</string>`), "a command for a device", nil},
		"an app's preferences":          {plist(`<key>NSUserName</key><string>x</string>`), "such as an app's preferences", nil},
		"an invitation to enrollment":   {plist(`<key>PayloadType</key><string>Profile Service</string><key>PayloadContent</key><dict/>`), "over-the-air enrollment", nil},
		"a bare payload":                {plist(`<key>PayloadType</key><string>com.apple.wifi.managed</string>`), `a single payload of the type "com.apple.wifi.managed"; put it into the PayloadContent`, nil},
		"a profile of another type":     {plist(`<key>PayloadType</key><string>Config</string><key>PayloadContent</key><array/>`), `"Config" and must be Configuration`, nil},
		"a type that is a number":       {plist(`<key>PayloadType</key><integer>1</integer>`), "is not Configuration", nil},
		"a profile without a type":      {plist(`<key>PayloadContent</key><array/>`), "has no PayloadType", nil},
		"a key twice":                   {plist(`<key>a</key><true/><key>a</key><true/>`), "a key twice", guard.ErrPlist},
		"a billion laughs":              {[]byte(`<!DOCTYPE plist [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><plist><string>&b;</string></plist>`), "declarations of its own", guard.ErrPlist},
		"a deep one":                    {plist(`<key>a</key>` + strings.Repeat("<array>", 1000)), "in one another", guard.ErrPlist},
		"one of many elements":          {plist(`<key>a</key><array>` + strings.Repeat("<true/>", 300_000) + `</array>`), "elements", guard.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := profile.Parse(tt.data)
			if !errors.Is(err, profile.ErrNotProfile) || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Parse: %v; want it to say %q and be %v", err, tt.says, tt.is)
			}
		})
	}
}

func TestOnlyTheWholeFileIsTakenOutOfPEM(t *testing.T) {
	inside := configuration("", "com.example.app <key>Note</key><string>\n"+string(fixture(t, "configurator-signed.pem"))+"</string>")
	p, err := profile.Parse(inside)
	if err != nil || p.Identifier != "com.example.profile" {
		t.Errorf("Parse = %+v, %v", p, err)
	}
}

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func FuzzParse(f *testing.F) {
	for _, name := range []string{"imazing.mobileconfig", "imazing-signed.mobileconfig", "jamf-signed-ber.mobileconfig", "configurator-signed.pem", "jamf.mobileconfig", "fleet.mobileconfig"} {
		f.Add(fixture(f, name))
	}
	f.Add([]byte("-----BEGIN CMS-----\n-----END CMS-----"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := profile.Parse(data)
		if err != nil {
			if !errors.Is(err, profile.ErrNotProfile) {
				t.Fatalf("Parse: %v", err)
			}
			return
		}
		for _, finding := range p.Lint(now) {
			if !strings.HasSuffix(finding.Reason, ".") || finding.Code == "" || finding.PayloadType == "" && finding.PayloadIndex < 0 {
				t.Fatalf("finding %+v", finding)
			}
		}
		for _, target := range targets {
			if findings, refused := p.Check(target); refused && len(findings) == 0 {
				t.Fatalf("refused on %+v for nothing", target)
			}
		}
	})
}
