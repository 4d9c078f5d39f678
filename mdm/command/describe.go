package command

import (
	"slices"
	"strings"
	"unicode"
)

// Description is what a form for a command has to know, ready for JSON. Lists are never null.
type Description struct {
	RequestType string   `json:"request_type"`
	Title       string   `json:"title"` // in words: "Device lock"
	Summary     string   `json:"summary"`
	Category    Category `json:"category"`
	Destructive bool     `json:"destructive"` // loses data, or locks somebody out, for good
	Confirm     bool     `json:"confirm"`     // whoever sends it has to say so twice
	Filled      []string `json:"filled"`      // keys that the server fills in where they are missing
	Right       *Right   `json:"right"`       // null: none is needed, or it depends on platform or key
	// Platforms has a fact for each; null: not there.
	Platforms map[Platform]*PlatformDescription `json:"platforms"`
	Keys      []KeyDescription                  `json:"keys"`
}

// Right is an access right, which an enrollment has or lacks.
type Right struct {
	Name string `json:"name"`
	Bit  int    `json:"bit"`
}

// PlatformDescription says on which devices of one platform a command or key works. Of a key
// it says only what differs from what the key stands in; there, null is "as that".
type PlatformDescription struct {
	Introduced          string `json:"introduced"`
	Deprecated          string `json:"deprecated"`
	Removed             string `json:"removed"` // first version without it
	Supervised          bool   `json:"supervised"`
	ADE                 bool   `json:"ade"`
	UserEnrollment      string `json:"user_enrollment"`       // allowed, forbidden, or empty: there is none, or as the parent
	UserEnrollmentSince string `json:"user_enrollment_since"` // version from which it is allowed
	DeviceChannel       *bool  `json:"device_channel"`
	UserChannel         *bool  `json:"user_channel"`
	Right               *Right `json:"right"`
	// SharedIPad is allowed, required, forbidden or ignored, and empty for other platforms.
	SharedIPad              string `json:"shared_ipad"`
	SharedIPadDeviceChannel *bool  `json:"shared_ipad_device_channel"`
	SharedIPadUserChannel   *bool  `json:"shared_ipad_user_channel"`
}

// KeyDescription is one key, or one shape of an array's elements.
type KeyDescription struct {
	Name     string   `json:"name"`
	Type     Kind     `json:"type"`
	Required bool     `json:"required"`
	Default  any      `json:"default"` // null: none
	Values   []string `json:"values"`  // what it may be; empty: anything of its type
	Min      *float64 `json:"min"`
	Max      *float64 `json:"max"`
	Secret   bool     `json:"secret"` // not to be shown while it is typed
	Free     bool     `json:"free"`   // a dictionary whose keys are the sender's choice
	// Platforms are those on which it differs from what it stands in; null: not there.
	Platforms map[Platform]*PlatformDescription `json:"platforms"`
	Keys      []KeyDescription                  `json:"keys"`  // of a dictionary
	Items     []KeyDescription                  `json:"items"` // shapes of an array's elements; of several, Item names one
	// Choices are Values that have facts of their own.
	Choices []KeyDescription `json:"choices"`
}

// Describe returns what a form for a command of type t has to know.
func Describe(t Type) Description {
	s := purposes[t.RequestType]
	return Description{
		RequestType: t.RequestType, Title: t.Words(), Summary: s.sentence, Category: s.category,
		Destructive: t.Destructive, Confirm: t.Destructive, Filled: append([]string{}, t.Filled...),
		Right: right(t.Right, t.RightBit), Platforms: describePlatforms(t.Platforms, true), Keys: DescribeKeys(t.Keys),
	}
}

// Words returns the name of a command in words, "Device lock".
func (t Type) Words() string {
	words := strings.Fields(strings.TrimSuffix(t.Title, " Command"))
	for i, word := range words[min(1, len(words)):] {
		if strings.IndexFunc(word[1:], unicode.IsUpper) < 0 {
			words[i+1] = strings.ToLower(word)
		}
	}
	return strings.Join(words, " ")
}

// DescribeKeys is Describe for keys of any kind, those of payloads as well.
func DescribeKeys(keys []Key) []KeyDescription {
	out := make([]KeyDescription, 0, len(keys))
	for _, k := range keys {
		if strings.HasPrefix(k.Name, "ANY") {
			continue
		}
		d := KeyDescription{
			Name: k.Name, Type: k.Kind, Required: k.Required, Default: k.Default, Values: append([]string{}, values(k)...),
			Min: k.Min, Max: k.Max, Secret: secretInput(k), Platforms: describePlatforms(k.Platforms, false),
			Keys: []KeyDescription{}, Items: DescribeKeys(k.Items), Choices: []KeyDescription{},
		}
		switch k.Kind {
		case Dictionary:
			d.Keys = DescribeKeys(k.Keys)
			d.Free = len(d.Keys) == 0
		case Array, Any:
		default:
			if slices.ContainsFunc(k.Keys, func(k Key) bool { return len(k.Platforms) > 0 }) {
				d.Choices = DescribeKeys(k.Keys)
			}
		}
		out = append(out, d)
	}
	return out
}

// secretInput holds for what is not to be read over a shoulder, nor in a log: what isSecret
// redacts in answers, and what only requests have.
func secretInput(k Key) bool {
	if k.Kind != String && k.Kind != Data {
		return false
	}
	switch k.Name {
	case "PIN", "PrivateKeyExport", "RedemptionCode", "MDMProfileData", "WiFiProfileData":
		return true
	case "PushToken": // the name of a query
		return false
	}
	return isSecret(k.Name)
}

func right(name string, bit int) *Right {
	if bit == 0 {
		return nil
	}
	return &Right{name, bit}
}

func describePlatforms(platforms map[Platform]*Availability, whole bool) map[Platform]*PlatformDescription {
	out := make(map[Platform]*PlatformDescription, len(platforms))
	for p, a := range platforms {
		if a == nil {
			out[p] = nil
			continue
		}
		d := &PlatformDescription{
			Introduced: a.Introduced, Deprecated: a.Deprecated, Removed: a.Removed, Supervised: a.Supervised, ADE: a.RequiresADE,
			UserEnrollment: a.UserEnrollment, UserEnrollmentSince: a.UserEnrollmentSince, Right: right(a.Right, a.RightBit),
			DeviceChannel: a.DeviceChannel, UserChannel: a.UserChannel,
			SharedIPad: a.SharedIPad.Mode, SharedIPadDeviceChannel: a.SharedIPad.DeviceChannel, SharedIPadUserChannel: a.SharedIPad.UserChannel,
		}
		if whole {
			device, user := is(a.DeviceChannel, true), is(a.UserChannel, false)
			d.DeviceChannel, d.UserChannel = &device, &user
		}
		out[p] = d
	}
	return out
}
