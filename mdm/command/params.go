package command

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Params returns the Command dictionary of a whole command, as [guard.DecodePlist] reads
// it. Errors wrap ErrRaw, with guard's about the property list.
func Params(raw []byte) (map[string]any, error) {
	var cmd struct{ Command map[string]any }
	if err := guard.DecodePlist(raw, &cmd, guard.PlistLimits{Bytes: MaxRaw}); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRaw, err)
	}
	return cmd.Command, nil
}

// CheckParams returns nil when target may get a command of type t with params, which are
// as of Params, else a *Refusal that names all keys, elements and values which it may not. It
// is for types that Check lets pass. What is not in the tables is left to the device, and so is
// what a device leaves out or passes over by itself:
//
//   - the Queries of a DeviceInformation, unless Apple forbids them in a User Enrollment. Those
//     that Build chooses pass there too: see Reduce.
//   - a key that says what the device assumes without it
//   - the PIN of a DeviceLock or EraseDevice on what is no Mac
func (t Type) CheckParams(target Target, params map[string]any) error {
	if len(params) == 0 || asksDefaults(t.RequestType, params) {
		return nil
	}
	found := t.misfits(target, params)
	if len(found) == 0 {
		return nil
	}
	return &Refusal{Code: found[0].no.code, Reason: sentences(t.RequestType, found)}
}

// misfit is a part of a command that a target may not get.
type misfit struct {
	name string
	no   *denial
}

// misfits returns what of params target may not get, what is certain before what is not known.
// For a platform that is not known, see onPlatforms.
func (t Type) misfits(target Target, params map[string]any) []misfit {
	if _, known := t.Platforms[target.Platform]; known {
		l := look{t: t, target: target}
		l.dictionary("", params, t.Keys)
		slices.SortStableFunc(l.found, func(a, b misfit) int { return cmp.Compare(rank(a.no), rank(b.no)) })
		return l.found
	}
	var found []misfit
	for _, p := range Platforms() {
		guess := target
		guess.Platform, guess.OSVersion = p, ""
		if t.check(guess) != nil {
			continue
		}
		here := t.misfits(guess, params)
		if len(here) == 0 {
			return nil
		}
		if found == nil || rank(found[0].no) < rank(here[0].no) {
			found = here
		}
	}
	return found
}

// rank orders denials: certain ones first.
func rank(d *denial) int {
	if d.unknown {
		return 1
	}
	return 0
}

// sentences says what is found against a command, one sentence for each reason.
func sentences(requestType string, found []misfit) string {
	var reasons []string
	names := make(map[string][]string, 1)
	for _, f := range found {
		if names[f.no.reason] == nil {
			reasons = append(reasons, f.no.reason)
		}
		if !slices.Contains(names[f.no.reason], f.name) {
			names[f.no.reason] = append(names[f.no.reason], f.name)
		}
	}
	for i, reason := range reasons {
		reasons[i] = fmt.Sprintf("%s with %s %s.", requestType, list(names[reason]), reason)
	}
	return strings.Join(reasons, " ")
}

// look goes through the parameters of one command for one target.
type look struct {
	t      Type
	target Target
	found  []misfit
}

// dictionary looks at the keys of d. within says what d is in, and is empty for the Command
// dictionary and for elements of arrays.
func (l *look) dictionary(within string, d map[string]any, keys []Key) {
	for _, name := range slices.Sorted(maps.Keys(d)) {
		i := slices.IndexFunc(keys, func(k Key) bool { return k.Name == name })
		if i < 0 || keys[i].IsDefault(d[name]) {
			continue
		}
		path := name
		if within != "" {
			path = within + "." + name
		}
		l.value(path, d[name], keys[i])
	}
}

func (l *look) value(path string, v any, k Key) {
	if l.part(path, k) {
		return
	}
	switch v := v.(type) {
	case map[string]any:
		l.dictionary(path, v, k.Keys)
	case []any:
		for _, element := range v {
			shape, err := variant("", element, k.Items)
			switch {
			case err != nil: // of no shape that is known: the device's to refuse
			case len(k.Items) > 1: // by the name of its shape
				l.value(shape.Name, element, shape)
			default:
				l.value(path, element, shape)
			}
		}
	default:
		for _, value := range k.Keys { // of a scalar: the values that it may have
			if value.Name == fmt.Sprint(v) {
				l.part(value.Name, value)
			}
		}
	}
}

// part notes whether the target may not get k, and reports that.
func (l *look) part(path string, k Key) bool {
	no := k.deny(l.target)
	switch {
	case no == nil:
		return false
	case no.code == CodePlatform && slices.Contains(l.t.Filled, path):
		return false // a PIN of those that have one; others pass over it
	case no.code != CodeUserEnrollment && l.t.asks(k):
		return false
	}
	l.found = append(l.found, misfit{path, no})
	return true
}

// asks holds for the queries of a DeviceInformation: a device answers those that it knows and
// that are granted.
func (t Type) asks(k Key) bool {
	if t.RequestType != "DeviceInformation" {
		return false
	}
	_, query := informationFacts()[k.Name]
	return query
}

// IsDefault reports whether v, as of [guard.DecodePlist] or encoding/json, says what the device
// assumes without k.
func (k Key) IsDefault(v any) bool {
	switch d := k.Default.(type) {
	case bool, string:
		return v == d
	case json.Number:
		return strings.TrimSuffix(d.String(), ".0") == strings.TrimSuffix(fmt.Sprint(v), ".0")
	}
	return false
}
