package profile

import (
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// top lints the keys of the profile itself, its signature and its dates.
func (l *linter) top() {
	p := l.profile
	l.at, l.strict = Payload{Type: configurationType, Index: -1, Content: p.Top}, true
	l.uses = uses()[topLevel]
	l.dictionary(nil, p.Top, []*shape{l.uses[0].shape}, 0)
	l.tellFound()
	l.signature()
	l.dates()

	content, isArray := p.Top["PayloadContent"].([]any)
	switch {
	case p.Encrypted:
		l.add(SeverityWarning, CodeEncrypted, "EncryptedPayloadContent", "The payloads are encrypted for one device: nobody else can look into them, or install them.")
	case isArray && len(content) == 0:
		l.add(SeverityWarning, CodeNoPayloads, "PayloadContent", "The profile has no payloads, so it sets nothing.")
	}
	for i, v := range content {
		if _, ok := v.(map[string]any); !ok {
			at := &place{in: &place{key: "PayloadContent"}, index: i}
			l.add(SeverityError, CodeWrongType, at.String(), "%s is %s and must be a dictionary.", at, words[kindOf(v)])
		}
	}
	if consent, _ := p.Top["ConsentText"].(map[string]any); len(consent) > 0 {
		l.add(SeverityNote, CodeConsent, "ConsentText", "Who installs the profile by hand is asked to agree to its ConsentText; nobody is asked when the server installs it.")
	}
	if password := p.has("com.apple.profileRemovalPassword"); password && !p.RemovalDisallowed {
		l.add(SeverityWarning, CodeConflict, "PayloadRemovalDisallowed", "The profile has a password for its removal, which nobody is asked for unless PayloadRemovalDisallowed is true.")
	}
}

// has reports whether the profile has a payload of the type.
func (p *Profile) has(payloadType string) bool {
	return slices.ContainsFunc(p.Payloads, func(payload Payload) bool { return payload.Type == payloadType })
}

func (l *linter) signature() {
	s := l.profile.Signer
	if s == nil {
		return
	}
	name := s.Subject
	if name == "" {
		name = "somebody whose certificate is not in the signature"
	}
	if s.Broken != "" {
		l.add(SeverityWarning, CodeSignature, "", "The profile was signed by %s, but the signature %s.", clip(name), s.Broken)
	} else {
		l.add(SeverityNote, CodeSigned, "", "The profile was signed by %s (issuer %s).", clip(name), clip(s.Issuer))
	}
	if s.Digest == "SHA-1" || s.Digest == "MD5" {
		l.add(SeverityWarning, CodeWeakSignature, "", "The profile was signed with %s, which newer devices do not trust.", s.Digest)
	}
	if !s.NotAfter.IsZero() && s.NotAfter.Before(l.now) {
		l.add(SeverityNote, CodeSignerExpired, "", "The certificate of %s, who signed the profile, expired on %s.", clip(name), day(s.NotAfter))
	}
}

func day(t time.Time) string { return t.UTC().Format("2 January 2006") }

func (l *linter) dates() {
	top := l.profile.Top
	removal, timed := top["RemovalDate"].(time.Time)
	if timed && removal.Before(l.now) {
		l.add(SeverityError, CodeExpired, "RemovalDate", "Devices were to remove the profile on %s, and will not keep it.", day(removal))
	}
	if expiry, ok := top["PayloadExpirationDate"].(time.Time); ok && expiry.Before(l.now) {
		l.add(SeverityWarning, CodeExpired, "PayloadExpirationDate", "The profile expired on %s.", day(expiry))
	}
	if duration, ok := number(top["DurationUntilRemoval"]); ok {
		if duration <= 0 {
			l.add(SeverityError, CodeExpired, "DurationUntilRemoval", "Devices remove the profile as soon as they have it: DurationUntilRemoval is %v.", duration)
		}
		if timed {
			l.add(SeverityWarning, CodeConflict, "DurationUntilRemoval", "The profile has both a RemovalDate and a DurationUntilRemoval: the earlier one counts.")
		}
	}
}

// together lints what the payloads are to one another, and to the profile.
func (l *linter) together() {
	l.identifiers()
	l.repeated()
	l.platforms()
}

// identifiers lints the names by which devices tell payloads from one another.
func (l *linter) identifiers() {
	p := l.profile
	uuids, identifiers := make(map[string]int, len(p.Payloads)+1), make(map[string]int, len(p.Payloads))
	check := func(seen map[string]int, code, key, value string) {
		if value == "" {
			return
		}
		if first, twice := seen[value]; !twice {
			seen[value] = l.at.Index
		} else if first >= 0 {
			l.add(SeverityError, code, key, "Payload %d (%s) has the %s of payload %d: devices tell them apart by it.", l.at.Index+1, l.name(), key, first+1)
		} else {
			l.add(SeverityWarning, code, key, "Payload %d (%s) has the %s of the profile itself.", l.at.Index+1, l.name(), key)
		}
	}
	form := func(uuid, identifier string) {
		if uuid != "" && !isUUID(uuid) && !differs(uuid) {
			l.add(SeverityWarning, CodeBadUUID, "PayloadUUID", "PayloadUUID of %s is no UUID such as 0A1B2C3D-0000-4000-8000-000000000000.", l.name())
		}
		if strings.ContainsFunc(identifier, func(r rune) bool { return r <= ' ' }) && identifier != "" {
			l.add(SeverityWarning, CodeBadIdentifier, "PayloadIdentifier", "PayloadIdentifier of %s holds white space; use a name such as com.example.wifi.", l.name())
		}
	}
	l.at = Payload{Type: configurationType, Index: -1}
	form(p.UUID, p.Identifier)
	check(uuids, CodeDuplicateUUID, "PayloadUUID", strings.ToUpper(p.UUID))
	for _, payload := range p.Payloads {
		l.at = payload
		form(payload.UUID, payload.Identifier)
		check(uuids, CodeDuplicateUUID, "PayloadUUID", strings.ToUpper(payload.UUID))
		check(identifiers, CodeDuplicateIdentifier, "PayloadIdentifier", payload.Identifier)
	}
}

// repeated lints payloads of which a device has only one.
func (l *linter) repeated() {
	first := make(map[string]int)
	for _, payload := range l.profile.Payloads {
		known := uses()[payload.Type]
		before, twice := first[payload.Type]
		if !twice {
			first[payload.Type] = payload.Index
			continue
		}
		if len(known) != 1 {
			continue
		}
		l.at = payload
		once := on(known[0].Platforms, func(a *command.Availability) bool { return a.Multiple != nil && !*a.Multiple })
		switch {
		case len(once) == 0 && payload.Type == "com.apple.mobiledevice.passwordpolicy":
			l.add(SeverityWarning, CodeConflict, "", "Payloads %d and %d both set rules for the passcode: of each, devices take the stricter one.", before+1, payload.Index+1)
		case len(once) == 0:
		case slices.Equal(once, []command.Platform{command.MacOS}):
			l.addOn(once, SeverityWarning, CodeMultiple, "", "A Mac has %s once, and payloads %d and %d are both of this type.", payload.Type, before+1, payload.Index+1)
		default:
			l.addOn(once, SeverityError, CodeMultiple, "", "A device has %s once on %s, and payloads %d and %d are both of this type.", payload.Type, platformNames(once), before+1, payload.Index+1)
		}
	}
}

// targetDevices are the platforms of TargetDeviceType (Apple's page "TopLevel").
var targetDevices = []command.Platform{"", command.IOS, command.WatchOS, command.TVOS, command.TVOS, command.MacOS, command.VisionOS}

// targetDevice returns the platform that a profile says it is for; empty: any.
func (p *Profile) targetDevice() command.Platform {
	n, ok := number(p.Top["TargetDeviceType"])
	if !ok || n < 0 || int(n) >= len(targetDevices) {
		return ""
	}
	return targetDevices[int(n)]
}

// platforms lints whether there is a platform that has all of the payloads.
func (l *linter) platforms() {
	common := command.Platforms()
	var types []string // that are known, each once
	for _, payload := range l.profile.Payloads {
		known := uses()[payload.Type]
		if len(known) == 0 || payload.Type == topLevel || payload.Type == commonKeys || slices.Contains(types, payload.Type) {
			continue
		}
		types = append(types, payload.Type)
		has := onAny(known, func(*command.Availability) bool { return true })
		common = slices.DeleteFunc(common, func(p command.Platform) bool { return !slices.Contains(has, p) })
		l.at = payload
		if target := l.profile.targetDevice(); target != "" && !slices.Contains(has, target) {
			l.add(SeverityWarning, command.CodePlatform, "", "The profile is for %s by its TargetDeviceType, where %s does not exist.", target, payload.Type)
		}
		if scope := l.profile.Scope; (scope == "System" || scope == "User") && slices.Contains(has, command.MacOS) {
			l.scope(known, scope)
		}
	}
	if len(common) == 0 && len(types) > 1 {
		l.at = Payload{Type: configurationType, Index: -1}
		var where []string
		for _, t := range types {
			where = append(where, t+" ("+platformNames(onAny(uses()[t], func(*command.Availability) bool { return true }))+")")
		}
		l.add(SeverityWarning, CodeNoPlatform, "", "No platform has all of these payloads, so each device does without some: %s.", some(where))
	}
}

// scope lints whether a Mac takes the payload where PayloadScope says.
func (l *linter) scope(known []use, scope string) {
	mac := []command.Platform{command.MacOS}
	takes := slices.ContainsFunc(known, func(u use) bool {
		a := u.Platforms[command.MacOS]
		if a == nil {
			return false
		}
		if scope == "User" {
			return a.UserChannel != nil && *a.UserChannel
		}
		return a.DeviceChannel == nil || *a.DeviceChannel
	})
	switch {
	case takes:
	case scope == "User":
		l.addOn(mac, SeverityWarning, CodeScope, "PayloadScope", "PayloadScope of the profile is User, and %s is for a whole Mac, not for one of its users.", l.at.Type)
	default:
		l.addOn(mac, SeverityWarning, CodeScope, "PayloadScope", "PayloadScope of the profile is System, and %s is for a user of a Mac, not for all of it.", l.at.Type)
	}
}
