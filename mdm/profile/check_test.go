package profile_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

func is(b bool) *bool { return &b }

// targets are of many kinds.
var targets = []command.Target{
	{}, {Platform: command.IOS}, {Platform: command.MacOS, OSVersion: "26.1"}, {Platform: command.TVOS}, {Platform: command.VisionOS}, {Platform: command.WatchOS},
	{Platform: command.IOS, OSVersion: "18.2", UserEnrollment: true}, {Platform: command.MacOS, UserEnrollment: true}, {UserEnrollment: true},
	{Platform: command.IOS, UserChannel: true, SharedIPad: is(true)}, {Platform: command.MacOS, UserChannel: true, Approved: is(true)},
	{Platform: command.IOS, OSVersion: "26", Supervised: is(true), ADE: is(true), SharedIPad: is(false)},
}

func TestWhoWouldRefuseAProfile(t *testing.T) {
	const (
		lock      = "com.apple.app.lock <key>App</key><dict><key>Identifier</key><string>com.example</string></dict>"
		policy    = "com.apple.system-extension-policy"
		dock      = "com.apple.dock"
		noAirDrop = "com.apple.applicationaccess <key>allowAirDrop</key><false/>"
		passcode  = "com.apple.mobiledevice.passwordpolicy <key>minLength</key><integer>6</integer>"
		noRemove  = "<key>PayloadRemovalDisallowed</key><true/>"
	)
	phone := func(change func(*command.Target)) command.Target {
		t := command.Target{Platform: command.IOS, OSVersion: "18.2", Supervised: is(false), ADE: is(false), SharedIPad: is(false)}
		if change != nil {
			change(&t)
		}
		return t
	}
	mac := func(change func(*command.Target)) command.Target {
		t := command.Target{Platform: command.MacOS, OSVersion: "15.2", Supervised: is(true), ADE: is(false), Approved: is(true)}
		if change != nil {
			change(&t)
		}
		return t
	}
	const e, u, w, n = profile.SeverityError, profile.SeverityUnknown, profile.SeverityWarning, profile.SeverityNote
	for name, tt := range map[string]struct {
		profile  []byte
		target   command.Target
		refused  bool
		code     string // of the finding; empty: there is none
		path     string
		severity profile.Severity
	}{
		"a network on a phone":                      {complete("", network), phone(nil), false, "", "", ""},
		"one app on a phone that is not supervised": {complete("", lock), phone(nil), true, command.CodeSupervision, "PayloadContent[0]", e},
		"one app on a supervised phone":             {complete("", lock), phone(func(t *command.Target) { t.Supervised = is(true) }), false, "", "", ""},
		"one app where nobody knows":                {complete("", lock), phone(func(t *command.Target) { t.Supervised = nil }), true, command.CodeSupervisionUnknown, "PayloadContent[0]", u},
		"a restriction without effect":              {complete("", noAirDrop), phone(nil), false, command.CodeSupervision, "PayloadContent[0].allowAirDrop", w},
		"a restriction that may be without":         {complete("", noAirDrop), phone(func(t *command.Target) { t.Supervised = nil }), false, command.CodeSupervisionUnknown, "PayloadContent[0].allowAirDrop", u},
		"an extension that the user approved":       {complete("", policy), mac(nil), false, "", "", ""},
		"an extension that nobody approved":         {complete("", policy), mac(func(t *command.Target) { t.Approved = is(false) }), true, command.CodeApproval, "PayloadContent[0]", e},
		"an extension where nobody knows":           {complete("", policy), mac(func(t *command.Target) { t.Approved = nil }), true, command.CodeApprovalUnknown, "PayloadContent[0]", u},
		"what only some of it is for":               {complete("", network, dock), phone(nil), false, command.CodePlatform, "PayloadContent[1]", w},
		"what none of it is for":                    {complete("", dock), phone(nil), true, command.CodePlatform, "PayloadContent[0]", e},
		"an app's settings are for any":             {complete("", "com.google.Chrome", dock), phone(nil), false, command.CodePlatform, "PayloadContent[1]", w},
		"for a system that is too old":              {complete("", network, "com.apple.declarations"), phone(func(t *command.Target) { t.OSVersion = "16.7" }), false, command.CodeOSVersion, "PayloadContent[1]", w},
		"a key for a newer system":                  {complete("", network+"<key>AllowJoinBeforeFirstUnlock</key><true/>"), command.Target{Platform: command.VisionOS, OSVersion: "2.0"}, false, command.CodeOSVersion, "PayloadContent[0].AllowJoinBeforeFirstUnlock", w},
		"of a version that nobody knows":            {complete("", "com.apple.declarations"), phone(func(t *command.Target) { t.OSVersion = "" }), false, "", "", ""},
		"for the whole Mac, sent to a user":         {complete("", "com.apple.security.firewall"), mac(func(t *command.Target) { t.UserChannel = true }), true, command.CodeChannel, "PayloadContent[0]", e},
		"for a user, sent to the whole Mac":         {complete("", "com.apple.mail.managed"), mac(nil), true, command.CodeChannel, "PayloadContent[0]", e},
		"for users, sent to the whole Mac":          {complete("<key>PayloadScope</key><string>User</string>", network), mac(nil), false, profile.CodeScope, "PayloadScope", n},
		"for the whole Mac, sent to one user":       {complete("<key>PayloadScope</key><string>System</string>", network), mac(func(t *command.Target) { t.UserChannel = true }), false, profile.CodeScope, "PayloadScope", n},
		"a passcode on a Shared iPad":               {complete("", passcode), phone(func(t *command.Target) { t.SharedIPad = is(true) }), true, command.CodeSharedIPad, "PayloadContent[0]", e},
		"for Macs by its own word":                  {complete("<key>TargetDeviceType</key><integer>5</integer>", network), phone(nil), true, command.CodePlatform, "TargetDeviceType", e},
		"for phones by its own word":                {complete("<key>TargetDeviceType</key><integer>1</integer>", network), phone(nil), false, "", "", ""},
		"what can't be removed, unsupervised":       {complete(noRemove, network), phone(nil), false, command.CodeSupervision, "PayloadRemovalDisallowed", w},
		"what can't be removed, on a personal one":  {complete(noRemove, network), phone(func(t *command.Target) { t.UserEnrollment = true }), true, profile.CodeUserEnrollment, "PayloadRemovalDisallowed", e},
		"a VPN on a personal phone":                 {complete("", network, "com.apple.vpn.managed"), phone(func(t *command.Target) { t.UserEnrollment = true }), true, profile.CodeUserEnrollment, "PayloadContent[1]", e},
		"a VPN on a personal Mac":                   {complete("", network, "com.apple.vpn.managed"), mac(func(t *command.Target) { t.UserEnrollment = true }), false, profile.CodeUserEnrollment, "PayloadContent[1]", w},
		"rules that a personal phone ignores":       {complete("", passcode), phone(func(t *command.Target) { t.UserEnrollment = true }), false, profile.CodeIgnored, "PayloadContent[0].minLength", n},
		"one app on a device of an unknown kind":    {complete("", lock), command.Target{Supervised: is(true)}, false, "", "", ""},
		"one app, unsupervised, of an unknown kind": {complete("", lock), command.Target{Supervised: is(false)}, true, command.CodeSupervision, "PayloadContent[0]", e},
		"one app where nothing is known":            {complete("", lock), command.Target{}, true, command.CodeSupervisionUnknown, "PayloadContent[0]", u},
		"an encrypted profile":                      {[]byte(`<plist><dict><key>PayloadType</key><string>Configuration</string><key>EncryptedPayloadContent</key><data>AA==</data></dict></plist>`), phone(nil), false, "", "", ""},
		"a profile without payloads":                {complete(""), phone(nil), false, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := profile.Parse(tt.profile)
			if err != nil {
				t.Fatal(err)
			}
			findings, refused := p.Check(tt.target)
			if refused != tt.refused {
				t.Errorf("refused is %v, want %v; findings %+v", refused, tt.refused, findings)
			}
			if tt.code == "" {
				if len(findings) > 0 {
					t.Errorf("findings %+v, want none", findings)
				}
				return
			}
			i := slices.IndexFunc(findings, func(f profile.Finding) bool { return f.Code == tt.code && f.Path() == tt.path })
			if i < 0 || findings[i].Severity != tt.severity || !strings.HasSuffix(findings[i].Reason, ".") || len(findings[i].Platforms) != 1 && tt.target.Platform != "" {
				t.Errorf("no %s %s at %q in %+v", tt.severity, tt.code, tt.path, findings)
			}
		})
	}
}

// What a profile is refused for comes first: it is what a person reads.
func TestWhatRefusesComesFirst(t *testing.T) {
	p, err := profile.Parse(complete("<key>PayloadRemovalDisallowed</key><true/>", "com.apple.applicationaccess <key>allowAirDrop</key><false/>", "com.apple.app.lock"))
	if err != nil {
		t.Fatal(err)
	}
	for _, supervised := range []*bool{is(false), nil} {
		findings, refused := p.Check(command.Target{Platform: command.IOS, Supervised: supervised})
		if !refused || len(findings) != 3 || findings[0].PayloadType != "com.apple.app.lock" {
			t.Errorf("Check = %+v, %v", findings, refused)
		}
	}
}
