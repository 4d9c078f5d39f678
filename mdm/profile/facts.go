package profile

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sync"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// PayloadFacts are what Apple documents of one type of payload. Its slices and maps are
// shared by all callers: read only. Platforms and Keys are as in [command.Type].
//
// Several payloads of different uses may have the same type, such as com.apple.MCX.
type PayloadFacts struct {
	PayloadType string                                     `json:"payloadType"`
	Title       string                                     `json:"title"` // as Apple heads its page, "Web Clip"
	Keys        []command.Key                              `json:"keys"`  // beside those that all payloads have
	Platforms   map[command.Platform]*command.Availability `json:"platforms"`
}

// The names under which payloads.json has what is no payload.
const (
	topLevel   = "TopLevel"          // the profile itself
	commonKeys = "CommonPayloadKeys" // of every payload
)

const (
	vpnType    = "com.apple.vpn.managed"
	appVPNType = "com.apple.vpn.managed.applayer"
)

// payloads.json is embedded compressed: it is ten times smaller. A test holds one
// against the other.
//
//go:embed payloads.json.gz
var payloadsGzip []byte

// payloadFacts reads payloads.json at its first use. The file is part of the program: one
// that does not parse is a broken build, which the tests show.
var payloadFacts = sync.OnceValue(func() map[string][]PayloadFacts {
	facts, err := parseFacts(payloadsGzip)
	if err != nil {
		panic(err)
	}
	return facts
})

func parseFacts(compressed []byte) (map[string][]PayloadFacts, error) {
	unzip, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, fmt.Errorf("profile: payloads.json: %w", err)
	}
	var file struct {
		Payloads []PayloadFacts `json:"payloads"`
	}
	dec := json.NewDecoder(unzip)
	dec.UseNumber()
	if err := dec.Decode(&file); err != nil {
		return nil, fmt.Errorf("profile: payloads.json: %w", err)
	}
	facts := make(map[string][]PayloadFacts, len(file.Payloads))
	for _, f := range file.Payloads {
		command.Settle(f.Keys)
		widen(f.Keys)
		for _, p := range command.Platforms() {
			if _, said := f.Platforms[p]; !said {
				f.Platforms[p] = nil
			}
		}
		facts[f.PayloadType] = append(facts[f.PayloadType], f)
	}
	// Apple's page of the VPN of an app lists only what it has beside those of a VPN.
	for i := range facts[appVPNType] {
		app := &facts[appVPNType][i]
		for _, vpn := range facts[vpnType] {
			for _, k := range vpn.Keys {
				if !slices.ContainsFunc(app.Keys, func(own command.Key) bool { return own.Name == k.Name }) {
					app.Keys = append(app.Keys, k)
				}
			}
		}
	}
	return facts, nil
}

// widen makes one range of a number that may be 0, for never, or from 1 to the most: Apple's
// table has the 0 as an enum beside it.
func widen(keys []command.Key) {
	for i := range keys {
		k := &keys[i]
		if len(k.Enum) == 1 && k.Enum[0] == any(json.Number("0")) && k.Min != nil && *k.Min == 1 {
			k.Enum, k.Min = nil, new(float64)
		}
		widen(k.Keys)
		widen(k.Items)
	}
}

// Lookup returns what is known of a type of payload: nothing of one that is newer than our
// tables, or an app's own.
func Lookup(payloadType string) []PayloadFacts {
	if payloadType == topLevel || payloadType == commonKeys {
		return nil
	}
	return slices.Clip(payloadFacts()[payloadType])
}

// PayloadTypes returns the types of payloads that are known, sorted.
func PayloadTypes() []string {
	types := slices.Collect(maps.Keys(payloadFacts()))
	types = slices.DeleteFunc(types, func(t string) bool { return t == topLevel || t == commonKeys })
	slices.Sort(types)
	return types
}

// shape is what a dictionary may hold, indexed by key.
type shape struct {
	keys     map[string]*field
	names    []string // of keys, sorted
	required []*field
	free     *field // any other key is one like this; nil: there is no other
}

// field is a key with what follows from where it stands.
type field struct {
	command.Key
	allowed   []string // values; empty: any
	format    *regexp.Regexp
	dict      *shape   // of a dictionary; nil: anything
	items     []*field // of an array; none: anything
	platforms map[command.Platform]*command.Availability
	tells     []tell // what a person should know who sets it
}

// tell is that code holds for a key on a platform, and not for all of its payload.
type tell struct {
	code     string
	platform command.Platform
}

// use is one use of a type of payload: most have one.
type use struct {
	PayloadFacts
	*shape
}

// uses has the uses of all types of payloads. What is common to all payloads is in the shape
// of each; the profile itself is under topLevel.
var uses = sync.OnceValue(func() map[string][]use {
	facts := payloadFacts()
	common := facts[commonKeys][0]
	all := make(map[string][]use, len(facts))
	for payloadType, known := range facts {
		for _, f := range known {
			s := newShape(f.Keys, f.Platforms, nil)
			if payloadType != topLevel {
				s.add(common.Keys, f.Platforms, nil)
			}
			all[payloadType] = append(all[payloadType], use{f, s})
		}
	}
	return all
})

// commonShape is what every payload has, and otherwise anything: of payloads that are not known.
var commonShape = sync.OnceValue(func() *shape {
	common := payloadFacts()[commonKeys][0]
	s := newShape(common.Keys, common.Platforms, nil)
	s.free = &field{Key: command.Key{Name: "ANY", Kind: command.Any}}
	return s
})

func newShape(keys []command.Key, on map[command.Platform]*command.Availability, above []*field) *shape {
	s := &shape{keys: make(map[string]*field, len(keys))}
	s.add(keys, on, above)
	return s
}

// placeholders are names of keys that stand for any of the sender's choice, as "ANY" does.
var placeholders = []string{"ANY", "ConsentTextItem"}

func (s *shape) add(keys []command.Key, on map[command.Platform]*command.Availability, above []*field) {
	for _, k := range keys {
		f := newField(k, on, above)
		if k.Name == "ConsentTextItem" { // {default: text, en: text}: the schema has a dictionary too many
			f.Kind, f.dict = command.String, nil
		}
		if slices.Contains(placeholders, k.Name) {
			s.free = f
			continue
		}
		s.keys[k.Name] = f
		if k.Required {
			s.required = append(s.required, f)
		}
	}
	s.names = slices.Sorted(maps.Keys(s.keys))
}

// newField returns a key whose parents are above, the innermost last, and exist on platforms.
func newField(k command.Key, on map[command.Platform]*command.Availability, above []*field) *field {
	f := &field{Key: k, allowed: k.Values(), platforms: make(map[command.Platform]*command.Availability, len(on))}
	if len(f.allowed) > 0 {
		for _, v := range k.MoreEnum {
			f.allowed = append(f.allowed, fmt.Sprint(v))
		}
	}
	if k.Format != "" {
		f.format = regexp.MustCompile(k.Format)
	}
	for p, a := range on {
		own, said := k.Platforms[p]
		if a == nil || said && own == nil {
			a = nil
		} else if said {
			f.tells = append(f.tells, tells(p, own, a)...)
			a = own
		}
		f.platforms[p] = a
	}
	above = append(slices.Clip(above), f)
	if k.Recursive {
		for _, up := range slices.Backward(above[:len(above)-1]) {
			if up.Name == k.Name {
				f.dict, f.items = up.dict, up.items
				return f
			}
		}
	}
	switch {
	case k.Kind == command.Dictionary && len(k.Keys) > 0:
		f.dict = &shape{keys: make(map[string]*field, len(k.Keys))} // first, for what refers to it from inside
		f.dict.add(k.Keys, f.platforms, above)
	case k.Kind == command.Array:
		f.items = make([]*field, len(k.Items))
		for i, item := range k.Items {
			f.items[i] = newField(item, f.platforms, above)
		}
	}
	return f
}

// tells returns what is special about a key whose parent has the availability whole.
func tells(p command.Platform, a, whole *command.Availability) []tell {
	var all []tell
	for _, c := range []struct {
		code string
		is   bool
	}{
		{CodeSupervision, a.Supervised && !whole.Supervised},
		{CodeDeprecated, a.Deprecated != "" && a.Removed == ""},
		{CodeRemoved, a.Removed != ""},
		{CodeUserEnrollment, a.UserEnrollment == "forbidden" && whole.UserEnrollment != "forbidden"},
	} {
		if c.is {
			all = append(all, tell{c.code, p})
		}
	}
	return all
}

// on returns the platforms that have what has the availability.
func on(availability map[command.Platform]*command.Availability, that func(*command.Availability) bool) []command.Platform {
	var platforms []command.Platform
	for _, p := range command.Platforms() {
		if a := availability[p]; a != nil && that(a) {
			platforms = append(platforms, p)
		}
	}
	return platforms
}
