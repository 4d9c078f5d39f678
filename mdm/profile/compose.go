package profile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/internal/plistxml"
)

// Draft is a profile as a form fills it in. Its JSON may be kept, to fill it in again.
type Draft struct {
	Identifier        string         `json:"identifier"`             // PayloadIdentifier, reverse DNS; required
	DisplayName       string         `json:"display_name,omitempty"` // empty: Identifier
	Description       string         `json:"description,omitempty"`
	Organization      string         `json:"organization,omitempty"`
	Scope             Scope          `json:"scope,omitempty"` // for Macs; empty: none is written
	RemovalDisallowed bool           `json:"removal_disallowed,omitempty"`
	Payloads          []DraftPayload `json:"payloads"`
}

// DraftPayload is one payload of a Draft.
type DraftPayload struct {
	Type        string         `json:"type"`
	Identifier  string         `json:"identifier,omitempty"`   // empty: made of the profile's and the type
	UUID        string         `json:"uuid,omitempty"`         // empty: made of Identifier, so that it stays
	DisplayName string         `json:"display_name,omitempty"` // empty: Apple's title of the type
	Description string         `json:"description,omitempty"`
	Settings    map[string]any `json:"settings"` // keys as Apple spells them, values as of command.Build
}

// maxPayloads is how many payloads can make sense in one profile.
const maxPayloads = 500

// Compose returns the profile of a draft. The same draft gives the same profile.
//
// The error is a *command.ParamError, with a path such as
// "payloads[0].settings.EncryptionType", or wraps ErrNotProfile where the profile is too large.
// What is wrong beyond single values is for Lint.
func Compose(d Draft) (*Profile, error) {
	wrong := func(path, reason string) (*Profile, error) {
		return nil, &command.ParamError{Path: path, Reason: reason}
	}
	if reason := badIdentifier(d.Identifier); reason != "" {
		return wrong("identifier", reason)
	}
	for _, text := range []struct{ path, text string }{
		{"display_name", d.DisplayName}, {"description", d.Description}, {"organization", d.Organization},
	} {
		if !plistxml.Carries(text.text) {
			return wrong(text.path, "holds a character that a property list can't hold")
		}
	}
	switch {
	case d.Scope != "" && d.Scope != ScopeUser && d.Scope != ScopeSystem:
		return wrong("scope", "must be one of User, System")
	case len(d.Payloads) == 0:
		return wrong("payloads", "must not be empty")
	case len(d.Payloads) > maxPayloads:
		return wrong("payloads", fmt.Sprintf("has %d elements, at most %d", len(d.Payloads), maxPayloads))
	}
	h := heading{d.Identifier, d.Organization}
	top := h.payload(configurationType, d.Identifier, cmp.Or(d.DisplayName, d.Identifier))
	if d.Description != "" {
		top["PayloadDescription"] = d.Description
	}
	if d.Scope != "" {
		top["PayloadScope"] = string(d.Scope)
	}
	if d.RemovalDisallowed {
		top["PayloadRemovalDisallowed"] = true
	}
	content := make([]any, len(d.Payloads))
	identifiers, uuids := map[string]int{d.Identifier: -1}, map[string]int{top["PayloadUUID"].(string): -1}
	for i, p := range d.Payloads {
		path := fmt.Sprintf("payloads[%d]", i)
		payload, err := compose(path, h, d, i)
		if err != nil {
			return nil, err
		}
		for _, name := range []struct {
			path, value string
			taken       map[string]int
		}{
			{path + ".identifier", payload["PayloadIdentifier"].(string), identifiers},
			{path + ".uuid", payload["PayloadUUID"].(string), uuids},
		} {
			switch j, taken := name.taken[name.value]; {
			case taken && j < 0:
				return wrong(name.path, "is the profile's own")
			case taken:
				return wrong(name.path, fmt.Sprintf("is that of payloads[%d], too", j))
			}
			name.taken[name.value] = i
		}
		if p.Description != "" {
			if !plistxml.Carries(p.Description) {
				return wrong(path+".description", "holds a character that a property list can't hold")
			}
			payload["PayloadDescription"] = p.Description
		}
		content[i] = payload
	}
	top["PayloadContent"] = content
	raw, err := plistxml.Marshal(top)
	if err != nil {
		return nil, fmt.Errorf("compose %s: %w", d.Identifier, err)
	}
	return Parse(raw) // what devices will read, and no larger than we read ourselves
}

// compose returns the payload of index i, which stands at path.
func compose(path string, h heading, d Draft, i int) (map[string]any, error) {
	p := d.Payloads[i]
	wrong := func(at, reason string) (map[string]any, error) {
		return nil, &command.ParamError{Path: path + "." + at, Reason: reason}
	}
	switch {
	case p.Type == "":
		return wrong("type", "is required")
	case p.Type == enrollmentType:
		return wrong("type", "enrolls a device: the server makes such profiles itself")
	case p.Type == configurationType, p.Type == topLevel, p.Type == commonKeys:
		return wrong("type", "is no type of payload")
	}
	if reason := badIdentifier(p.Type); reason != "" && p.Type != ".GlobalPreferences" {
		return wrong("type", reason)
	}
	known := forms()[p.Type]
	if len(known) == 0 && strings.HasPrefix(p.Type, "com.apple.") {
		meant := ""
		if nearest := nearestType(p.Type); nearest != "" {
			meant = "; did you mean " + nearest + "?"
		}
		return wrong("type", "is no payload that Apple documents"+meant)
	}
	identifier := p.Identifier
	if identifier == "" {
		identifier = d.Identifier + "." + shortType(p.Type)
		before := 0
		for _, other := range d.Payloads[:i] {
			if other.Type == p.Type {
				before++
			}
		}
		if before > 0 {
			identifier += fmt.Sprintf(".%d", before+1)
		}
	} else if reason := badIdentifier(identifier); reason != "" {
		return wrong("identifier", reason)
	}
	title := p.Type
	if len(known) > 0 {
		title = known[0].title
	}
	if !plistxml.Carries(p.DisplayName) {
		return wrong("display_name", "holds a character that a property list can't hold")
	}
	settings, err := settings(path+".settings", p, known)
	if err != nil {
		return nil, err
	}
	payload := h.payload(p.Type, identifier, cmp.Or(p.DisplayName, title))
	if p.UUID != "" {
		if !isUUID(p.UUID) {
			return wrong("uuid", "must be a UUID such as 0A1B2C3D-0000-4000-8000-000000000000")
		}
		payload["PayloadUUID"] = strings.ToUpper(p.UUID)
	}
	for key, v := range settings {
		payload[key] = v
	}
	return payload, nil
}

// payloadForm is one use of a type of payload, with the keys that Compose takes.
type payloadForm struct {
	title string
	facts PayloadFacts
	keys  []command.Key
}

// forms are the uses of all types of payloads that can be composed.
var forms = sync.OnceValue(func() map[string][]payloadForm {
	all := make(map[string][]payloadForm)
	for _, payloadType := range PayloadTypes() {
		for _, facts := range Lookup(payloadType) {
			all[payloadType] = append(all[payloadType], payloadForm{facts.Title, facts, writable(facts.Keys)})
		}
	}
	return all
})

// writable returns keys with all values that Apple allows for each.
func writable(keys []command.Key) []command.Key {
	out := slices.Clone(keys)
	for i := range out {
		k := &out[i]
		if len(k.Enum) > 0 {
			k.Enum = append(slices.Clip(k.Enum), k.MoreEnum...)
		}
		k.Keys, k.Items = writable(k.Keys), writable(k.Items)
	}
	return out
}

// certificatePlace are the keys of a payload that is the place for a certificate.
var certificatePlace = []command.Key{{Name: "PayloadContent", Kind: command.Dictionary, Required: true, Keys: []command.Key{
	{Name: CertificateTemplateKey, Kind: command.String, Required: true},
}}}

// settings converts the settings of a payload. Of several uses of its type, the one that takes
// them is the one that is meant; if none does, the one with most of the keys says why.
func settings(path string, p DraftPayload, known []payloadForm) (map[string]any, error) {
	if len(known) == 0 { // an app's preferences
		known = []payloadForm{{keys: []command.Key{{Name: "ANY", Kind: command.Any}}}}
	}
	if content, _ := p.Settings["PayloadContent"].(map[string]any); content[CertificateTemplateKey] != nil && p.Type == scepType {
		known = []payloadForm{{keys: certificatePlace}}
	}
	var failure error
	most := -1
	for _, f := range known {
		out, err := command.Convert(path, p.Type, p.Settings, f.keys)
		if err == nil {
			for _, key := range []string{"PayloadType", "PayloadIdentifier", "PayloadUUID", "PayloadVersion", "PayloadDisplayName"} {
				if _, taken := out[key]; taken { // only where any key is taken
					return nil, &command.ParamError{Path: path + "." + key, Reason: "is no setting"}
				}
			}
			return out, nil
		}
		matches := 0
		for _, k := range f.keys {
			if _, there := p.Settings[k.Name]; there {
				matches++
			}
		}
		if matches > most {
			most, failure = matches, err
		}
	}
	return nil, failure
}

// shortType returns what tells a type of payload from others: "wifi" of
// com.apple.wifi.managed.
func shortType(payloadType string) string {
	short := strings.TrimPrefix(payloadType, "com.apple.")
	short = strings.TrimSuffix(strings.TrimSuffix(short, ".managed"), ".account")
	return strings.ToLower(strings.Trim(short, "."))
}

// badIdentifier says what is wrong with a name in reverse DNS notation.
func badIdentifier(s string) string {
	switch {
	case s == "":
		return "is required"
	case len(s) > 255:
		return fmt.Sprintf("has %d bytes, at most 255", len(s))
	case strings.HasPrefix(s, "."), strings.HasSuffix(s, "."), strings.Contains(s, ".."),
		strings.IndexFunc(s, func(r rune) bool {
			return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && r != '.' && r != '-' && r != '_'
		}) >= 0:
		return "must be letters, digits, hyphens and underscores with dots between them, as com.example.wifi"
	}
	return ""
}

// isUUID reports whether s has the form of a UUID (RFC 9562, 4).
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'A' || c > 'F') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return true
}
