package profile

import (
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// PayloadDescription is what a form needs to know of one use of a type of payload: most types
// have one, com.apple.MCX has several.
type PayloadDescription struct {
	Type      string           `json:"type"`
	Title     string           `json:"title"`             // Apple's, "Web Clip"
	Summary   string           `json:"summary,omitempty"` // a sentence; empty where nobody has written one
	Multiple  bool             `json:"multiple"`          // a device may have more than one
	Platforms []PlatformFacts  `json:"platforms"`         // that have it
	Keys      []KeyDescription `json:"keys"`
}

// PlatformFacts says on which devices of a platform something works.
type PlatformFacts struct {
	Platform       command.Platform `json:"platform"`
	Introduced     string           `json:"introduced,omitempty"` // OS versions; empty: not said
	Deprecated     string           `json:"deprecated,omitempty"`
	Removed        string           `json:"removed,omitempty"`
	Supervised     bool             `json:"supervised"`                // for supervised devices only
	UserApproved   bool             `json:"user_approved"`             // for Macs whose enrollment the user approved
	RequiresADE    bool             `json:"requires_ade"`              // for Automated Device Enrollment only
	ByMDMOnly      bool             `json:"by_mdm_only"`               // can't be installed by hand
	UserEnrollment string           `json:"user_enrollment,omitempty"` // allowed, forbidden or ignored; empty: the platform has none
	DeviceChannel  bool             `json:"device_channel"`
	UserChannel    bool             `json:"user_channel"`
	SharedIPad     string           `json:"shared_ipad,omitempty"` // allowed or forbidden
}

// KeyDescription is one setting of a payload, or the form of an array's elements.
type KeyDescription struct {
	Name      string           `json:"name"`  // as Apple spells it
	Title     string           `json:"title"` // the same in words
	Kind      command.Kind     `json:"type"`
	AnyName   bool             `json:"any_name,omitempty"` // stands for keys of any name
	Required  bool             `json:"required"`
	Default   any              `json:"default,omitempty"` // what a device assumes
	Allowed   []any            `json:"allowed,omitempty"` // values; none: any
	Min       *float64         `json:"min,omitempty"`
	Max       *float64         `json:"max,omitempty"`
	Format    string           `json:"format,omitempty"` // regular expression that a text must match
	Secret    bool             `json:"secret,omitempty"` // not to be shown, nor kept in the clear
	Keys      []KeyDescription `json:"keys,omitempty"`   // of a dictionary; none: any
	Items     []KeyDescription `json:"items,omitempty"`  // of an array; none: any
	Recursive bool             `json:"recursive,omitempty"`
	Platforms []PlatformFacts  `json:"platforms,omitempty"` // where they differ from what the key stands in
}

// DescribePayloads returns all payloads that Compose can make, in the order of their types.
// They are shared by all callers: read only.
func DescribePayloads() []PayloadDescription { return slices.Clip(descriptions()) }

// DescribePayload returns the uses of a type of payload: none of one that is not known, or
// that Compose does not make. They are shared, too.
func DescribePayload(payloadType string) []PayloadDescription {
	var all []PayloadDescription
	for _, d := range descriptions() {
		if d.Type == payloadType {
			all = append(all, d)
		}
	}
	return all
}

// descriptions describes all payloads at its first use.
var descriptions = sync.OnceValue(func() []PayloadDescription {
	var all []PayloadDescription
	for _, payloadType := range PayloadTypes() {
		all = append(all, describePayload(payloadType)...)
	}
	return all
})

func describePayload(payloadType string) []PayloadDescription {
	if payloadType == enrollmentType {
		return nil
	}
	var all []PayloadDescription
	for _, f := range forms()[payloadType] {
		d := PayloadDescription{
			Type: payloadType, Title: f.title, Summary: summaries[payloadType],
			Platforms: platformFacts(f.facts.Platforms, nil),
			Keys:      describeKeys(payloadType, f.keys, f.facts.Platforms),
		}
		if len(forms()[payloadType]) > 1 {
			d.Summary = ""
		}
		for _, a := range f.facts.Platforms {
			d.Multiple = d.Multiple || a != nil && a.Multiple != nil && *a.Multiple
		}
		all = append(all, d)
	}
	return all
}

const enrollmentType = "com.apple.mdm"

func describeKeys(payloadType string, keys []command.Key, above map[command.Platform]*command.Availability) []KeyDescription {
	var all []KeyDescription
	for _, k := range keys {
		on := inherit(k.Platforms, above)
		d := KeyDescription{
			Name: k.Name, Title: titleOf(k.Name), Kind: k.Kind, AnyName: strings.HasPrefix(k.Name, "ANY"),
			Required: k.Required, Default: k.Default, Min: k.Min, Max: k.Max, Format: k.Format, Recursive: k.Recursive,
			Secret: (k.Kind == command.String || k.Kind == command.Data) && isSecret(payloadType, k.Name, ""),
			Keys:   describeKeys(payloadType, k.Keys, on),
			Items:  describeKeys(payloadType, k.Items, on),
		}
		if k.Kind != command.Array {
			d.Allowed = k.Enum
		}
		if len(k.Platforms) > 0 {
			d.Platforms = platformFacts(on, above)
		}
		all = append(all, d)
	}
	return all
}

// inherit returns the availability of a key that stands in what has the availability above.
func inherit(own, above map[command.Platform]*command.Availability) map[command.Platform]*command.Availability {
	if len(own) == 0 {
		return above
	}
	on := make(map[command.Platform]*command.Availability, len(above))
	for p, whole := range above {
		a, said := own[p]
		switch {
		case whole == nil || said && a == nil:
			on[p] = nil
		case !said:
			on[p] = whole
		default:
			merged := *whole
			if a.Introduced != "" {
				merged.Introduced = a.Introduced
			}
			if a.UserEnrollment != "" {
				merged.UserEnrollment = a.UserEnrollment
			}
			if a.DeviceChannel != nil {
				merged.DeviceChannel = a.DeviceChannel
			}
			if a.UserChannel != nil {
				merged.UserChannel = a.UserChannel
			}
			if a.SharedIPad.Mode != "" {
				merged.SharedIPad = a.SharedIPad
			}
			if a.ManualInstall != nil {
				merged.ManualInstall = a.ManualInstall
			}
			merged.Deprecated, merged.Removed = a.Deprecated, a.Removed
			merged.Supervised = merged.Supervised || a.Supervised
			merged.UserApproved = merged.UserApproved || a.UserApproved
			merged.RequiresADE = merged.RequiresADE || a.RequiresADE
			on[p] = &merged
		}
	}
	return on
}

// platformFacts lists the platforms that have something; none if they are those of above, and
// all alike.
func platformFacts(on, above map[command.Platform]*command.Availability) []PlatformFacts {
	all, outer := []PlatformFacts{}, []PlatformFacts{}
	for _, p := range command.Platforms() {
		if on[p] != nil {
			all = append(all, platformFact(p, on[p]))
		}
		if above[p] != nil {
			outer = append(outer, platformFact(p, above[p]))
		}
	}
	if above != nil && slices.Equal(all, outer) {
		return nil
	}
	return all
}

func platformFact(p command.Platform, a *command.Availability) PlatformFacts {
	is := func(b *bool, otherwise bool) bool {
		if b == nil {
			return otherwise
		}
		return *b
	}
	return PlatformFacts{
		Platform: p, Introduced: a.Introduced, Deprecated: a.Deprecated, Removed: a.Removed,
		Supervised: a.Supervised, UserApproved: a.UserApproved, RequiresADE: a.RequiresADE,
		ByMDMOnly: !is(a.ManualInstall, true), UserEnrollment: a.UserEnrollment,
		DeviceChannel: is(a.DeviceChannel, true), UserChannel: is(a.UserChannel, p == command.IOS && is(a.SharedIPad.UserChannel, false)),
		SharedIPad: a.SharedIPad.Mode,
	}
}

// titles are words for keys that titleOf would not find.
var titles = map[string]string{
	"SSID_STR": "Network name (SSID)", "HIDDEN_NETWORK": "Hidden network", "PayloadContent": "Content",
	"PayloadCertificateUUID": "Certificate (UUID of its payload)", "PayloadCertificateFileName": "File name of the certificate",
	"PayloadCertificateAnchorUUID": "Trusted certificates (UUIDs of their payloads)", "CAFingerprint": "Fingerprint of the authority",
	"EAPClientConfiguration": "802.1X (EAP)", "VPNUUID": "VPN UUID", "allowSimple": "Allow simple passcodes", "forcePIN": "Require a passcode",
	"maxPINAgeInDays": "Maximum passcode age in days", "pinHistory": "Passcode history",
}

// brands are words that Apple writes in one.
var brands = strings.NewReplacer(
	"air drop", "AirDrop", "air play", "AirPlay", "air print", "AirPrint", "face time", "FaceTime",
	"file vault", "FileVault", "touch id", "Touch ID", "face id", "Face ID",
	"wi fi", "Wi-Fi", "WI FI", "Wi-Fi", "xprotect", "XProtect", "apple", "Apple", "safari", "Safari", "siri", "Siri", "exchange", "Exchange", "UU ID", "UUID",
	"bluetooth", "Bluetooth", "genmoji", "Genmoji", "rosetta", "Rosetta", "time machine", "Time Machine", "game center", "Game Center",
)

// whole are words with a hump that no name is split at.
var whole = strings.NewReplacer("iCloud", " iCloud ", "iPhone", " iPhone ", "iTunes", " iTunes ", "iBeacon", " iBeacon ", "iMessage", " iMessage ", "IPv", " IPv", "eSIM", " eSIM ", "macOS", " macOS ")

// titleOf returns the name of a key in words: "Encryption type" of EncryptionType.
func titleOf(key string) string {
	if title := titles[key]; title != "" {
		return title
	}
	var parts []string
	for _, part := range strings.FieldsFunc(whole.Replace(strings.TrimPrefix(key, "com.apple.")), func(r rune) bool { return r == '_' || r == '-' || r == '.' || unicode.IsSpace(r) }) {
		parts = append(parts, split(part)...)
	}
	text := brands.Replace(strings.Join(parts, " "))
	if text == "" {
		return key
	}
	if strings.HasPrefix(text, "i") && len(text) > 1 && unicode.IsUpper(rune(text[1])) {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// split takes a name apart at its humps; abbreviations stay in capitals.
func split(name string) []string {
	if whole.Replace(name) != name {
		return []string{name}
	}
	var parts []string
	runes := []rune(name)
	start := 0
	for i := 1; i <= len(runes); i++ {
		end := i == len(runes) ||
			unicode.IsUpper(runes[i]) && !unicode.IsUpper(runes[i-1]) ||
			unicode.IsUpper(runes[i]) && i+1 < len(runes) && unicode.IsLower(runes[i+1]) && unicode.IsUpper(runes[i-1]) && !plural(runes[i:])
		if !end {
			continue
		}
		part := string(runes[start:i])
		capitals := part
		if len(part) > 2 {
			capitals = strings.TrimSuffix(part, "s")
		}
		if len(part) < 2 || capitals != strings.ToUpper(capitals) {
			part = strings.ToLower(part)
		}
		parts = append(parts, part)
		start = i
	}
	return parts
}

// plural holds for the end of abbreviations such as IDs and URLs.
func plural(rest []rune) bool {
	return len(rest) >= 2 && rest[1] == 's' && (len(rest) == 2 || unicode.IsUpper(rest[2]))
}
