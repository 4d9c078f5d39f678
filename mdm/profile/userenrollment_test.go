package profile_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

// configuration returns a profile of payloads, each "type" or "type keys", with keys of
// its own.
func configuration(top string, payloads ...string) []byte {
	var b strings.Builder
	b.WriteString(`<plist version="1.0"><dict><key>PayloadType</key><string>Configuration</string><key>PayloadIdentifier</key><string>com.example.profile</string>` + top)
	b.WriteString(`<key>PayloadContent</key><array>`)
	for _, p := range payloads {
		payloadType, keys, _ := strings.Cut(p, " ")
		b.WriteString(`<dict><key>PayloadType</key><string>` + payloadType + `</string>` + keys + `</dict>`)
	}
	b.WriteString(`</array></dict></plist>`)
	return []byte(b.String())
}

// checkPersonal holds a profile against a User Enrollment of which the platform is known.
func checkPersonal(raw []byte, platform command.Platform) ([]profile.Finding, bool, error) {
	p, err := profile.Parse(raw)
	if err != nil {
		return nil, false, err
	}
	findings, refused := p.Check(command.Target{Platform: platform, UserEnrollment: true})
	return findings, refused, nil
}

// allowedOnIOS is PROTOCOL 3.8, what an iPhone takes in a User Enrollment; the facts must
// agree with it.
const allowedOnIOS = `airplay airprint applicationaccess caldav.account carddav.account dnsProxy.managed eas.account education extensiblesso font
	globalethernet.managed google-oauth ldap.account mail.managed mdm mobiledevice.passwordpolicy relay.managed security.acme
	security.certificaterevocation security.certificatetransparency security.pem security.pkcs1 security.pkcs12 security.root security.scep
	sso subscribedcalendar.account vpn.managed.applayer webClip.managed webcontent-filter wifi.managed`

func TestPayloadsOfAUserEnrolledIPhone(t *testing.T) {
	allowed := strings.Fields(allowedOnIOS)
	for i := range allowed {
		allowed[i] = "com.apple." + allowed[i]
	}
	types := profile.PayloadTypes()
	if len(types) < 100 {
		t.Fatalf("%d types of payloads are known", len(types))
	}
	for _, payloadType := range types {
		findings, refused, err := checkPersonal(configuration("", payloadType), command.IOS)
		if err != nil {
			t.Fatal(err)
		}
		if want := !slices.Contains(allowed, payloadType); refused != want {
			t.Errorf("a profile with %s is refused: %v, want %v", payloadType, refused, want)
		}
		if refused && (len(findings) != 1 || findings[0].PayloadType != payloadType || findings[0].Code != "forbidden_in_user_enrollment" || !strings.Contains(findings[0].Reason, payloadType)) {
			t.Errorf("the findings on %s are %+v", payloadType, findings)
		}
	}
	for _, payloadType := range allowed {
		if !slices.Contains(types, payloadType) {
			t.Errorf("%s is in no table", payloadType)
		}
	}
}

func TestWhatAPersonalDeviceRefuses(t *testing.T) {
	const (
		vpn  = "com.apple.vpn.managed"
		dock = "com.apple.dock"
		root = "com.apple.security.root"
		wifi = "com.apple.wifi.managed <key>SSID_STR</key><string>Guests</string>"
	)
	for name, tt := range map[string]struct {
		profile  []byte
		platform command.Platform
		refused  bool
		findings []string // payload type and key, in order
	}{
		"what an iPhone may have":             {configuration("", root, wifi), command.IOS, false, nil},
		"one forbidden payload of two":        {configuration("", root, vpn), command.IOS, true, []string{vpn}},
		"on a Vision Pro":                     {configuration("", root, vpn), command.VisionOS, true, []string{vpn}},
		"a Mac leaves it out":                 {configuration("", root, vpn), command.MacOS, false, []string{vpn}},
		"a Mac of which nothing would remain": {configuration("", dock, vpn), command.MacOS, true, []string{dock, vpn}},
		"of an unknown platform, all refuse":  {configuration("", vpn), "", true, []string{vpn}},
		"of an unknown platform, one may not": {configuration("", root, vpn), "", false, nil},
		"a payload of a Mac on an iPhone":     {configuration("", dock), command.IOS, true, []string{dock}},
		"a payload of tomorrow, or of an app": {configuration("", "com.example.app"), command.IOS, false, nil},
		"what can't be removed":               {configuration("<key>PayloadRemovalDisallowed</key><true/>", root), command.IOS, true, []string{"Configuration PayloadRemovalDisallowed"}},
		"what a Vision Pro does not know":     {configuration("<key>PayloadRemovalDisallowed</key><true/>", root), command.VisionOS, false, []string{"Configuration PayloadRemovalDisallowed"}},
		"what can be removed, in words":       {configuration("<key>PayloadRemovalDisallowed</key><false/>", root), command.IOS, false, nil},
		"a Wi-Fi network with a proxy": {
			configuration("", wifi+"<key>ProxyType</key><string>Manual</string><key>ProxyServer</key><string>proxy</string>"), command.IOS, true,
			[]string{"com.apple.wifi.managed ProxyServer", "com.apple.wifi.managed ProxyType"},
		},
		"a Wi-Fi network without one, in words": {configuration("", wifi+"<key>ProxyType</key><string>None</string>"), command.IOS, false, nil},
		"a key that a Mac leaves out": {
			configuration("", wifi+"<key>ProxyServer</key><string>proxy</string>"), command.MacOS, false, []string{"com.apple.wifi.managed ProxyServer"},
		},
		"a restriction for supervised devices": {
			configuration("", "com.apple.applicationaccess <key>allowCamera</key><false/><key>allowScreenShot</key><false/>"), command.IOS, true,
			[]string{"com.apple.applicationaccess allowCamera"},
		},
		"a restriction that restricts nothing":    {configuration("", "com.apple.applicationaccess <key>allowCamera</key><true/><key>ratingApps</key><integer>1000</integer><key>safariAcceptCookies</key><real>2</real>"), command.IOS, false, nil},
		"one type of several uses, all forbidden": {configuration("", "com.apple.MCX"), command.MacOS, true, []string{"com.apple.MCX"}},
		"one type of several uses, all allowed":   {configuration("", "com.apple.extensiblesso"), command.IOS, false, nil},
		"a profile that only the device can read": {
			[]byte(`<plist version="1.0"><dict><key>PayloadType</key><string>Configuration</string><key>EncryptedPayloadContent</key><data>AA==</data></dict></plist>`), command.IOS, false, nil,
		},
		"payloads that are none": {
			[]byte(`<plist version="1.0"><dict><key>PayloadType</key><string>Configuration</string><key>PayloadContent</key><array><string>x</string><dict/></array></dict></plist>`), command.MacOS, false, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			findings, refused, err := checkPersonal(tt.profile, tt.platform)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range findings {
				got = append(got, strings.TrimSpace(f.PayloadType+" "+f.Key))
				if !strings.HasSuffix(f.Reason, ".") || !strings.Contains(f.Reason, f.Key) {
					t.Errorf("reason %q is no sentence about %q", f.Reason, f.Key)
				}
			}
			if refused != tt.refused || !slices.Equal(got, tt.findings) {
				t.Errorf("checkPersonal on %q = %q, refused %v; want %q, %v", tt.platform, got, refused, tt.findings, tt.refused)
			}
		})
	}
}

func TestOurOwnProfilesSuitAUserEnrollment(t *testing.T) {
	for _, name := range []string{"byod", "credential", "credential-with-root", "trust"} {
		raw, err := os.ReadFile("testdata/" + name + ".mobileconfig")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []command.Platform{command.IOS, command.MacOS, command.VisionOS, ""} {
			if findings, refused, err := checkPersonal(raw, p); len(findings) > 0 || refused || err != nil {
				t.Errorf("checkPersonal(%s) on %q = %+v, %v, %v", name, p, findings, refused, err)
			}
		}
	}
}

func TestASignedProfileIsLookedInto(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := profile.Sign(configuration("", "com.apple.vpn.managed"), issue(t, "signer", key.Public(), nil, key), key)
	if err != nil {
		t.Fatal(err)
	}
	if findings, refused, err := checkPersonal(signed, command.IOS); !refused || len(findings) != 1 || err != nil {
		t.Errorf("checkPersonal of a signed profile = %+v, %v, %v", findings, refused, err)
	}
	for _, bad := range []string{"", "hello", "bplist00", "\x30\x80", `<plist version="1.0"><array/></plist>`} {
		if _, _, err := checkPersonal([]byte(bad), command.IOS); !errors.Is(err, profile.ErrNotProfile) {
			t.Errorf("checkPersonal(%q) = %v, want ErrNotProfile", bad, err)
		}
	}
}
