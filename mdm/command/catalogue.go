// Package command is the catalogue of Apple's MDM commands: it builds the property
// list of a command from checked parameters, says whether a device may get it and
// why not, and turns a device's answer into JSON.
//
// What it knows of each command is data (commands.json, see README.md). It knows
// nothing of devices in a database, of queues or of HTTP.
package command

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Platform is one of Apple's operating systems. IOS includes iPadOS, TVOS the
// system of HomePods. The empty Platform is one that we don't know yet.
type Platform string

// The platforms that commands.json tells apart.
const (
	IOS      Platform = "ios"
	MacOS    Platform = "macos"
	TVOS     Platform = "tvos"
	VisionOS Platform = "visionos"
	WatchOS  Platform = "watchos"
)

// Platforms returns all platforms, in the order in which to show them.
func Platforms() []Platform {
	return []Platform{IOS, MacOS, TVOS, VisionOS, WatchOS}
}

// String returns the platform's name as Apple writes it.
func (p Platform) String() string {
	switch p {
	case IOS:
		return "iOS and iPadOS"
	case MacOS:
		return "macOS"
	case TVOS:
		return "tvOS"
	case VisionOS:
		return "visionOS"
	case WatchOS:
		return "watchOS"
	case "":
		return "an unknown platform"
	}
	return string(p)
}

// PlatformOf tells the platform from the ProductName or Model that a device sends
// ("iPhone15,2", "Mac14,2", "VirtualMac2,1"); it is empty when neither says.
func PlatformOf(productName string) Platform {
	for _, family := range []struct {
		prefix   string
		platform Platform
	}{
		{"iPhone", IOS}, {"iPad", IOS}, {"iPod", IOS},
		{"AppleTV", TVOS}, {"AudioAccessory", TVOS},
		{"RealityDevice", VisionOS},
		{"Watch", WatchOS},
		{"iMac", MacOS}, {"Mac", MacOS}, {"VirtualMac", MacOS}, {"VMware", MacOS}, {"Parallels", MacOS},
	} {
		if strings.HasPrefix(productName, family.prefix) {
			return family.platform
		}
	}
	return ""
}

// Type is what Apple documents of one command. Its slices and maps are shared by
// all callers: read only.
//
// In Platforms, here and in Key, nil means that the platform does not have the
// command or key; a platform that is missing in a Key's inherits from its parent.
type Type struct {
	RequestType string                     `json:"name"`
	Title       string                     `json:"title"`    // as Apple heads its page, "Device Lock Command"
	Keys        []Key                      `json:"keys"`     // of the Command dictionary, beside RequestType
	Response    []Key                      `json:"response"` // of the device's answer, beside what each has
	Right       string                     `json:"accessRight"`
	RightBit    int                        `json:"accessRightBit"`               // 0: none needed, or it depends on the platform or key
	Tether      bool                       `json:"requestRequiresNetworkTether"` // may carry RequestRequiresNetworkTether
	Platforms   map[Platform]*Availability `json:"platforms"`
	Destructive bool                       `json:"-"` // what it removes can't be brought back: ask twice
	// Filled are keys of the Command dictionary that the server fills in for each device where
	// they are missing: none of them is Required.
	Filled []string `json:"-"`

	RemovedFromSchema   string              `json:"removedFromSchema"` // OS version, on all platforms
	RemovedFromSchema27 map[string][]string `json:"removedInSchema27"` // by array: elements that version 27.0 removes
}

// Key is one parameter of a command: a key of its dictionary, or the shape of an
// array's elements.
type Key struct {
	Name      string                     `json:"name"`
	Kind      Kind                       `json:"type"`
	Required  bool                       `json:"required"`
	Default   any                        `json:"default"`
	Enum      []any                      `json:"enum"` // strings and json.Numbers; empty: any value
	Min       *float64                   `json:"min"`
	Max       *float64                   `json:"max"`
	Keys      []Key                      `json:"subkeys"` // of a dictionary; of a scalar: its allowed values
	Items     []Key                      `json:"items"`   // shapes that an array's elements may have
	Platforms map[Platform]*Availability `json:"platforms"`
	Source    string                     `json:"source"` // "docs": Platforms names all that have it

	// What only payloads of profiles have:
	Format    string `json:"format"`          // regular expression that a string must match
	MoreEnum  []any  `json:"enumAddedInDocs"` // allowed beside Enum
	Recursive bool   `json:"recursive"`       // has the keys of the ancestor of this name
}

// Kind is a property list type, as Apple's schema names it.
type Kind string

// The kinds of values, with the JSON that stands for each.
const (
	String     Kind = "string"
	Integer    Kind = "integer" // number without fraction, from -2^63 to 2^64-1
	Real       Kind = "real"
	Boolean    Kind = "boolean"
	Data       Kind = "data" // string, base64 with padding
	Date       Kind = "date" // string, RFC 3339
	Array      Kind = "array"
	Dictionary Kind = "dictionary"
	Any        Kind = "any"
)

// Availability says on which devices of one platform a command or key works.
type Availability struct {
	Introduced          string     `json:"introduced"` // first OS version; empty: as the parent
	Deprecated          string     `json:"deprecated"`
	Removed             string     `json:"removed"` // first OS version without it
	Supervised          bool       `json:"supervised"`
	RequiresADE         bool       `json:"requiresADE"`
	DeviceChannel       *bool      `json:"deviceChannel"` // nil: yes
	UserChannel         *bool      `json:"userChannel"`   // nil: no
	Right               string     `json:"accessRight"`
	RightBit            int        `json:"accessRightBit"`
	UserEnrollment      string     `json:"userEnrollment"`      // allowed, forbidden, or empty where there is none
	UserEnrollmentSince string     `json:"userEnrollmentSince"` // OS version from which it is allowed
	SharedIPad          SharedIPad `json:"sharedIPad"`

	// What only payloads of profiles have:
	UserApproved  bool  `json:"userApproved"`  // macOS: the user must have approved the enrollment
	ManualInstall *bool `json:"manualInstall"` // false: it must come by MDM; nil: as the parent
	Multiple      *bool `json:"multiple"`      // false: a device has at most one
}

// SharedIPad says how a command or key works on an iPad that has several users.
type SharedIPad struct {
	Mode          string `json:"mode"` // allowed, required, forbidden, ignored, or empty
	DeviceChannel *bool  `json:"deviceChannel"`
	UserChannel   *bool  `json:"userChannel"`
}

// destructive are the commands that lose somebody's data, or lock somebody out, for good.
//
// Not among them is what can be done again: a removed profile, app or book is one that the
// server installed, a lock has a passcode or PIN, and the passwords and keys that
// SetFirmwarePassword, SetRecoveryLock, SetAutoAdminPassword and RotateFileVaultKey replace are
// kept by the server. A restart, a shutdown or a logout costs no more than unsaved work.
var destructive = []string{
	// A device tells its bypass code within 15 days of supervision only. Without it, an
	// Activation Lock is opened by nobody but the person who set it.
	"ClearActivationLockBypassCode",
	"DeleteUser",
	"EraseDevice",
}

// filled are the keys that the server knows better than whoever sends a command: what a
// device has entrusted to it, and secrets that it makes up and keeps.
var filled = map[string][]string{
	"ClearPasscode":          {"UnlockToken"},
	"DeviceLock":             {"PIN"}, // of a Mac
	"EraseDevice":            {"PIN"}, // of a Mac
	"RotateFileVaultKey":     {"FileVaultUnlock", "ReplyEncryptionCertificate"},
	"SetAutoAdminPassword":   {"passwordHash"},
	"SetFirmwarePassword":    {"CurrentPassword", "NewPassword"},
	"SetRecoveryLock":        {"CurrentPassword", "NewPassword"},
	"VerifyFirmwarePassword": {"Password"},
	"VerifyRecoveryLock":     {"Password"},
}

// ours are keys of the Command dictionary that Apple's table does not have, and no device gets:
// whoever queues a command puts others in their place.
var ours = map[string][]Key{
	"SetAutoAdminPassword": {{Name: PasswordKey, Kind: String}},
}

// commands.json is embedded compressed: it is ten times smaller. A test holds one against the
// other.
//
//go:embed commands.json.gz
var commandsGzip []byte

// catalogue reads commands.json at its first use. The file is part of the program:
// one that does not parse is a broken build, which the tests show.
var catalogue = sync.OnceValue(func() map[string]Type {
	types, err := parseCatalogue(commandsGzip)
	if err != nil {
		panic(err)
	}
	return types
})

func parseCatalogue(compressed []byte) (map[string]Type, error) {
	unzip, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, fmt.Errorf("command: commands.json: %w", err)
	}
	var file struct {
		Meta struct {
			AccessRightBits map[string]int `json:"accessRightBits"`
		} `json:"_meta"`
		Commands []Type `json:"commands"`
	}
	dec := json.NewDecoder(unzip)
	dec.UseNumber()
	if err := dec.Decode(&file); err != nil {
		return nil, fmt.Errorf("command: commands.json: %w", err)
	}
	types := make(map[string]Type, len(file.Commands))
	for _, t := range file.Commands {
		t.Destructive = slices.Contains(destructive, t.RequestType)
		t.Filled = filled[t.RequestType]
		t.Keys = append(t.Keys, ours[t.RequestType]...)
		for i := range t.Keys {
			t.Keys[i].Required = t.Keys[i].Required && !slices.Contains(t.Filled, t.Keys[i].Name)
		}
		if t.RemovedFromSchema != "" {
			remove(t.Platforms, t.RemovedFromSchema)
		}
		for _, keys := range [][]Key{t.Keys, t.Response} {
			Settle(keys)
			grant(keys, file.Meta.AccessRightBits)
			for array, names := range t.RemovedFromSchema27 {
				remove27(keys, array, names)
			}
		}
		limit(t.RequestType, t.Keys)
		types[t.RequestType] = t
	}
	return types, nil
}

// Settle writes out what Apple's tables leave to be understood: a key that was taken from
// Apple's pages is on no platform but those that its page names.
func Settle(keys []Key) {
	for i := range keys {
		if k := &keys[i]; k.Source == "docs" && len(k.Platforms) > 0 {
			for _, p := range Platforms() {
				if _, named := k.Platforms[p]; !named {
					k.Platforms[p] = nil
				}
			}
		}
		Settle(keys[i].Keys)
		Settle(keys[i].Items)
	}
}

// grant sets the bits of the access rights that keys need, of which the file has the names.
func grant(keys []Key, bits map[string]int) {
	for i := range keys {
		for _, a := range keys[i].Platforms {
			if a != nil {
				a.RightBit = bits[a.Right]
			}
		}
		grant(keys[i].Keys, bits)
		grant(keys[i].Items, bits)
	}
}

// remove27 notes that elements of an array, or their values, or keys of a dictionary, are gone
// in version 27.0.
func remove27(keys []Key, container string, names []string) {
	i := slices.IndexFunc(keys, func(k Key) bool { return k.Name == container })
	if i < 0 {
		return
	}
	mark := func(keys []Key) {
		for _, k := range keys {
			if slices.Contains(names, k.Name) {
				remove(k.Platforms, "27.0")
			}
		}
	}
	mark(keys[i].Keys)
	mark(keys[i].Items)
	for _, item := range keys[i].Items {
		mark(item.Keys)
	}
}

func remove(from map[Platform]*Availability, version string) {
	for _, a := range from {
		if a != nil && a.Removed == "" {
			a.Removed = version
		}
	}
}

// Types returns all commands in the order of their RequestTypes.
func Types() []Type {
	types := make([]Type, 0, len(catalogue()))
	for _, name := range slices.Sorted(maps.Keys(catalogue())) {
		types = append(types, catalogue()[name])
	}
	return types
}

// Lookup returns what is known of a command. A raw command may be of a type that it does not
// know.
func Lookup(requestType string) (Type, bool) {
	t, ok := catalogue()[requestType]
	return t, ok
}
