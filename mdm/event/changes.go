package event

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Change is one field that somebody changed, as the API spells it: "organisation.name".
// Before is empty where there was nothing, and After where nothing is any more. What is
// secret is only told to have been set, changed or removed, in After.
type Change struct {
	Field  string `json:"field"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// maxChanges is the most changes that an event has; what is left out is counted in the last.
const maxChanges = 40

// alwaysSecret are fields that are secret wherever they are.
var alwaysSecret = []string{"password", "secret", "challenge", "token", "private_key", "headers"}

// Changes returns what differs between two things that JSON can be made of, field by field,
// in the order of the names. nil is a thing that is not there: what is created has changed
// from it. All their fields are told: callers leave out what nobody decides, such as an id or
// when it was changed. secret are fields, as dots lead to them, that are never told, nor what is in
// them: of those, and of all that are called password and the like, a thing may hold
// whatever changes when the secret does.
func Changes(before, after any, secret ...string) []Change {
	was, is := flat(before, secret), flat(after, secret)
	var changes []Change
	for _, field := range slices.Compact(slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(was)), slices.Collect(maps.Keys(is))...)))) {
		from, to := was[field], is[field]
		if from == to {
			continue
		}
		c := Change{field, from.text, to.text}
		if from.secret || to.secret {
			c.Before = ""
			switch {
			case from.text == "":
				c.After = "set"
			case to.text == "":
				c.After = "removed"
			default:
				c.After = "changed"
			}
		}
		changes = append(changes, c)
	}
	return changes
}

// leaf is a field's value in words.
type leaf struct {
	text   string
	secret bool
}

// flat returns the fields of v that are not empty. What JSON can't be made of has none:
// callers give their own structs.
func flat(v any, secret []string) map[string]leaf {
	fields := map[string]leaf{}
	raw, err := json.Marshal(v)
	if err != nil {
		return fields
	}
	var tree any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&tree); err != nil {
		return fields
	}
	var walk func(path string, v any, hidden bool)
	walk = func(path string, v any, hidden bool) {
		text := ""
		switch v := v.(type) {
		case map[string]any:
			if hidden {
				text = compact(v)
				break
			}
			for name, member := range v {
				at := name
				if path != "" {
					at = path + "." + name
				}
				walk(at, member, slices.Contains(secret, at) || slices.Contains(alwaysSecret, name))
			}
			return
		case []any:
			text = listed(v, hidden)
		case string:
			text = v
		case json.Number:
			text = v.String()
		case bool:
			text = strconv.FormatBool(v)
		}
		if text != "" && path != "" {
			fields[path] = leaf{text, hidden}
		}
	}
	walk("", tree, false)
	return fields
}

// listed writes texts and numbers with commas between, and what else there may be as JSON,
// without what is secret in it.
func listed(list []any, hidden bool) string {
	if len(list) == 0 {
		return ""
	}
	words := make([]string, len(list))
	for i, v := range list {
		switch v := v.(type) {
		case string:
			words[i] = v
		case json.Number:
			words[i] = v.String()
		default:
			if !hidden {
				redact(v)
			}
			words[i] = compact(v)
		}
	}
	return strings.Join(words, ", ")
}

func redact(v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			if slices.Contains(alwaysSecret, name) {
				delete(v, name)
				continue
			}
			redact(member)
		}
	case []any:
		for _, member := range v {
			redact(member)
		}
	}
}

func compact(v any) string {
	raw, err := canonical(map[string]any{"": v})
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(strings.TrimPrefix(string(raw), `{"":`), "}")
}

// keptChanges returns changes as an event keeps them.
func keptChanges(changes []Change) []Change {
	if len(changes) == 0 {
		return nil
	}
	kept := make([]Change, 0, min(len(changes), maxChanges))
	for i, c := range changes {
		if i == maxChanges-1 && len(changes) > maxChanges {
			return append(kept, Change{Field: "…", After: strconv.Itoa(len(changes)-i) + " more fields"})
		}
		kept = append(kept, Change{clean(c.Field, maxName), clean(lines(c.Before), maxText), clean(lines(c.After), maxText)})
	}
	return kept
}

// lines makes one line of a text of many.
func lines(text string) string {
	return strings.NewReplacer("\r\n", " ⏎ ", "\n", " ⏎ ", "\t", " ").Replace(text)
}
