package profile

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Change is one thing that differs between two profiles.
type Change struct {
	Kind        ChangeKind
	PayloadType string // of the payload that is concerned; Configuration is the profile itself
	Payload     string // its name for a person: PayloadDisplayName, or what there is instead
	Key         string // in the payload, "EAPClientConfiguration.UserName"; empty: the payload as a whole
	Old, New    string // the values as text, empty where there is none; data is its length and SHA-256
	Secret      bool   // Old and New are not told
}

// ChangeKind says how something differs.
type ChangeKind string

// The kinds of changes.
const (
	Added     ChangeKind = "added"
	Removed   ChangeKind = "removed"
	Changed   ChangeKind = "changed"
	Reordered ChangeKind = "reordered" // a list has the same values in another order
)

// Diff returns what is different in b from a: first in the profile itself, then in its
// payloads. Payloads belong together that have one PayloadIdentifier, else one PayloadUUID, else
// are the first, second, … of their type; their order does not count, nor that of keys. The
// profile's own PayloadUUID does not count either, since each version has another.
//
// Passwords and other secrets are compared, but not told.
func Diff(a, b *Profile) []Change {
	d := differ{payloadType: "Configuration"}
	d.payload = cmp.Or(b.DisplayName, b.Identifier)
	d.dictionary("", head(a), head(b))
	d.payloads(a.Payloads, b.Payloads)
	return d.changes
}

// head is the profile without its payloads and its UUID.
func head(p *Profile) map[string]any {
	top := maps.Clone(p.Top)
	delete(top, "PayloadUUID")
	if _, isList := top["PayloadContent"].([]any); isList {
		delete(top, "PayloadContent")
	}
	return top
}

// differ collects the changes of one payload after the other.
type differ struct {
	payloadType, payload string // that are looked at
	changes              []Change
}

func (d *differ) payloads(a, b []Payload) {
	partner := make([]int, len(b)) // index in a
	taken := make([]bool, len(a))
	for i := range partner {
		partner[i] = -1
	}
	for _, name := range []func(Payload) string{
		func(p Payload) string { return p.Identifier },
		func(p Payload) string { return strings.ToUpper(p.UUID) },
		func(Payload) string { return "of the type" },
	} {
		waiting := make(map[[2]string][]int) // of a, by name and type
		for j, x := range a {
			if name := name(x); !taken[j] && name != "" {
				key := [2]string{name, x.Type}
				waiting[key] = append(waiting[key], j)
			}
		}
		for i, y := range b {
			key := [2]string{name(y), y.Type}
			if same := waiting[key]; partner[i] < 0 && len(same) > 0 {
				partner[i], taken[same[0]] = same[0], true
				waiting[key] = same[1:]
			}
		}
	}
	for i, y := range b {
		d.payloadType, d.payload = y.Type, payloadName(y)
		if partner[i] < 0 {
			d.add(Change{Kind: Added})
			continue
		}
		d.dictionary("", a[partner[i]].Content, y.Content)
	}
	for j, x := range a {
		if !taken[j] {
			d.payloadType, d.payload = x.Type, payloadName(x)
			d.add(Change{Kind: Removed})
		}
	}
}

func payloadName(p Payload) string { return cmp.Or(p.DisplayName, p.Identifier, p.UUID, p.Type) }

func (d *differ) add(c Change) {
	c.PayloadType, c.Payload = d.payloadType, d.payload
	d.changes = append(d.changes, c)
}

func (d *differ) dictionary(path string, a, b map[string]any) {
	keys := slices.Sorted(maps.Keys(a))
	for key := range b {
		if _, both := a[key]; !both {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		at := key
		if path != "" {
			at = path + "." + key
		}
		old, inA := a[key]
		now, inB := b[key]
		d.value(at, key, old, now, inA, inB)
	}
}

// value compares what stands at a path, under a key, in a and in b.
func (d *differ) value(path, key string, a, b any, inA, inB bool) {
	dictA, isDictA := a.(map[string]any)
	dictB, isDictB := b.(map[string]any)
	listA, isListA := a.([]any)
	listB, isListB := b.([]any)
	switch {
	case (isDictA || !inA) && (isDictB || !inB) && len(dictA)+len(dictB) > 0:
		d.dictionary(path, dictA, dictB)
		return
	case (isListA || !inA) && (isListB || !inB) && nested(listA, listB):
		for i := range max(len(listA), len(listB)) {
			var old, now any
			if i < len(listA) {
				old = listA[i]
			}
			if i < len(listB) {
				now = listB[i]
			}
			d.value(fmt.Sprintf("%s[%d]", path, i), key, old, now, i < len(listA), i < len(listB))
		}
		return
	}
	c := Change{Kind: Changed, Key: path, Secret: isSecret(d.payloadType, key, a) || isSecret(d.payloadType, key, b)}
	switch {
	case !inA:
		c.Kind, c.New = Added, valueText(b)
	case !inB:
		c.Kind, c.Old = Removed, valueText(a)
	case sameValue(a, b):
		return
	default:
		c.Old, c.New = valueText(a), valueText(b)
		if isListA && isListB && slices.Equal(sortedTexts(listA), sortedTexts(listB)) {
			c.Kind = Reordered
		}
	}
	if c.Secret {
		c.Old, c.New = "", ""
	}
	d.add(c)
}

// nested holds if one of the lists has dictionaries or lists in it.
func nested(lists ...[]any) bool {
	for _, list := range lists {
		for _, v := range list {
			switch v.(type) {
			case map[string]any, []any:
				return true
			}
		}
	}
	return false
}

// sameValue compares values that are no dictionaries. An integer is the same whatever its
// Go type; a number and a real are not the same to a device.
func sameValue(a, b any) bool {
	switch a := a.(type) {
	case []byte:
		b, ok := b.([]byte)
		return ok && bytes.Equal(a, b)
	case time.Time:
		b, ok := b.(time.Time)
		return ok && a.Equal(b)
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, sameValue)
	case map[string]any:
		b, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, b, sameValue)
	}
	return kindOfValue(a) == kindOfValue(b) && fmt.Sprint(a) == fmt.Sprint(b)
}

func kindOfValue(v any) string {
	switch v.(type) {
	case int, int64, uint64:
		return "integer"
	case float64:
		return "real"
	}
	return fmt.Sprintf("%T", v)
}

func sortedTexts(list []any) []string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = kindOfValue(v) + valueText(v)
	}
	slices.Sort(texts)
	return texts
}

// valueText returns a value for a person to read.
func valueText(v any) string {
	const most = 400 // bytes of a list
	switch v := v.(type) {
	case string:
		return clipTo(v, most)
	case []byte:
		sum := sha256.Sum256(v)
		return fmt.Sprintf("%d bytes, SHA-256 %x…", len(v), sum[:8])
	case time.Time:
		return v.UTC().Format(time.RFC3339)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case []any:
		texts := make([]string, len(v))
		for i, element := range v {
			texts[i] = valueText(element)
		}
		return clipTo("["+strings.Join(texts, ", ")+"]", most)
	case map[string]any:
		texts := make([]string, 0, len(v))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			text := "(secret)"
			if !isSecret("", key, v[key]) {
				text = valueText(v[key])
			}
			texts = append(texts, key+": "+text)
		}
		return clipTo("{"+strings.Join(texts, ", ")+"}", most)
	}
	return fmt.Sprint(v)
}

func clipTo(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// isSecret holds for a value that is not shown to those who may see the profile.
func isSecret(payloadType, key string, v any) bool {
	switch v.(type) {
	case string, []byte, []any:
	default:
		return false
	}
	if payloadType == "com.apple.security.pkcs12" && key == "PayloadContent" {
		return true
	}
	return hasSecretName(key)
}
