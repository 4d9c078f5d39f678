package profile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// CodeServed is of a payload that is of no use without one that a device does not take.
const CodeServed = "served_removed_payload"

// Variant returns the largest profile that target takes: without the payloads and keys that
// Check refuses, without those that refer to one that is gone, and without certificates that
// only what is gone has used. What merely has no effect there stays. removed says what is
// missing, by places in p.
//
// A profile that target takes as it is comes back itself. Where nothing of use is left,
// allowed is nil. Nothing is put in the place of what is removed: what removed says of other
// payloads is advice.
func (p *Profile) Variant(target command.Target) (allowed *Profile, removed []Finding) {
	v := variant{allowed: p, places: make([]int, len(p.Payloads))}
	for i, payload := range p.Payloads {
		v.places[i] = payload.Index
	}
	for {
		findings, refused := v.allowed.Check(target)
		if !refused {
			break
		}
		if !v.remove(findings) {
			return nil, v.removed
		}
	}
	if v.allowed != p && !v.useful(p) {
		return nil, v.removed
	}
	return v.allowed, v.removed
}

// variant is a profile of which more and more is taken.
type variant struct {
	allowed *Profile
	places  []int // of its payloads, in the whole
	removed []Finding
}

// remove takes what findings refuse; false if it can't be taken alone, or nothing is left.
func (v *variant) remove(findings []Finding) bool {
	gone := make(map[int]bool) // by index in allowed.Payloads
	whole := v.allowed
	top := maps.Clone(whole.Top)
	payloads := make([]map[string]any, len(whole.Payloads))
	indexes := make(map[int]int, len(payloads)) // of payloads, by PayloadIndex
	for i, payload := range whole.Payloads {
		payloads[i] = payload.Content
		indexes[payload.Index] = i
	}
	progress := false
	for _, f := range findings {
		if f.Severity != SeverityError && (f.Severity != SeverityUnknown || f.Key != "") {
			continue // nothing is refused for it
		}
		i, isPayload := indexes[f.PayloadIndex]
		var left any
		switch {
		case isPayload && f.Key == "":
			gone[i] = true
			if f.PayloadType == vpnType && f.Code == CodeUserEnrollment {
				f.Reason += " A VPN for single apps (" + appVPNType + ") is allowed there."
			}
		case isPayload:
			if left = without(payloads[i], f.Key); left != nil {
				payloads[i] = left.(map[string]any)
			}
		case f.Key != "TargetDeviceType":
			if left = without(top, f.Key); left != nil {
				top = left.(map[string]any)
			}
		}
		if !gone[i] && left == nil { // it is not for this device at all
			v.removed = append(v.removed, f)
			return false
		}
		progress = true
		if isPayload {
			f.PayloadIndex = v.places[i]
		}
		v.removed = append(v.removed, f)
	}
	for i, payload := range payloads {
		if !gone[i] && !sets(payload) && sets(whole.Payloads[i].Content) {
			gone[i] = true // its last setting is gone
		}
	}
	v.follow(gone)
	var content []any
	var places []int
	for i, payload := range payloads {
		if !gone[i] {
			content = append(content, payload)
			places = append(places, v.places[i])
		}
	}
	top["PayloadContent"] = content
	v.allowed, v.places = read(top), places
	return progress && len(content) > 0
}

// sets reports whether a payload has a setting beside what all payloads have.
func sets(payload map[string]any) bool {
	common := commonShape()
	for key := range payload {
		if common.keys[key] == nil && !slices.Contains(toolKeys, key) {
			return true
		}
	}
	return false
}

// follow adds to gone what is of no use without it: payloads that refer to one that is gone,
// and certificates that only those have referred to.
func (v *variant) follow(gone map[int]bool) {
	if len(gone) == 0 {
		return
	}
	payloads := v.allowed.Payloads
	refers := make([][]int, len(payloads)) // to which others
	users := make([][]int, len(payloads))  // which others refer to it
	names := make(map[string]int)
	for i, payload := range payloads {
		names[strings.ToUpper(payload.UUID)] = i
		if uuid, _ := payload.Content["VPNUUID"].(string); uuid != "" && payload.Type == appVPNType {
			names[strings.ToUpper(uuid)] = i
		}
	}
	delete(names, "")
	for i, payload := range payloads {
		visitTexts(payload.Content, func(s string) {
			j, is := names[strings.ToUpper(s)]
			if !is || j == i || len(users[j]) > 0 && users[j][len(users[j])-1] == i {
				return
			}
			refers[i], users[j] = append(refers[i], j), append(users[j], i)
		})
	}
	queue := slices.Sorted(maps.Keys(gone)) // whose neighbours are still to be looked at
	note := func(i int, format string, j int) {
		gone[i] = true
		queue = append(queue, i)
		v.removed = append(v.removed, Finding{
			Code: CodeServed, Severity: SeverityError, PayloadType: payloads[i].Type, PayloadIndex: v.places[i],
			Reason: fmt.Sprintf(format, payloads[i].Type, payloads[j].Type),
		})
	}
	left := make([]int, len(payloads)) // of users, that is
	for j := range users {
		left[j] = len(users[j])
	}
	for next := 0; next < len(queue); next++ {
		j := queue[next]
		for _, i := range users[j] {
			if !gone[i] {
				note(i, "%s refers to the payload %s, which is left out.", j)
			}
		}
		for _, i := range refers[j] {
			if left[i]--; left[i] == 0 && !gone[i] && isCertificate(payloads[i].Type) {
				note(i, "%s was for the payload %s, which is left out.", j)
			}
		}
	}
}

// useful reports whether what is left of p is more than certificates that p has for the rest.
func (v *variant) useful(p *Profile) bool {
	certificate := func(payload Payload) bool { return isCertificate(payload.Type) }
	whole := slices.ContainsFunc(p.Payloads, func(payload Payload) bool { return !certificate(payload) })
	left := slices.ContainsFunc(v.allowed.Payloads, func(payload Payload) bool { return !certificate(payload) })
	if !whole || left {
		return true
	}
	v.removed = append(v.removed, Finding{
		Code: CodeServed, Severity: SeverityError, PayloadType: configurationType, PayloadIndex: -1,
		Reason: "Only certificates would be left, which nothing in the profile uses.",
	})
	return false
}

func isCertificate(payloadType string) bool {
	switch payloadType {
	case "com.apple.security.root", "com.apple.security.pem", "com.apple.security.pkcs1", "com.apple.security.pkcs12", scepType, "com.apple.security.acme":
		return true
	}
	return false
}

// visitTexts calls f with all texts of v that are no keys, nor the name of a payload.
func visitTexts(v any, f func(string)) {
	switch v := v.(type) {
	case string:
		f(v)
	case []any:
		for _, element := range v {
			visitTexts(element, f)
		}
	case map[string]any:
		for key, value := range v {
			if !isFixed(key) {
				visitTexts(value, f)
			}
		}
	}
}

// without returns v without what is at a path of place.String, and shares the rest with it.
func without(v any, path string) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			rest, is := strings.CutPrefix(path, clip(key)) // a key may have dots in it
			switch {
			case !is:
				continue
			case rest == "":
				out := maps.Clone(v)
				delete(out, key)
				return out
			case rest[0] == '.' || rest[0] == '[':
				if left := without(value, strings.TrimPrefix(rest, ".")); left != nil {
					out := maps.Clone(v)
					out[key] = left
					return out
				}
			}
		}
	case []any:
		var i int
		if n, err := fmt.Sscanf(path, "[%d]", &i); n == 1 && err == nil && i >= 0 && i < len(v) {
			_, rest, _ := strings.Cut(path, "]")
			if rest == "" {
				return slices.Delete(slices.Clone(v), i, i+1)
			}
			if left := without(v[i], strings.TrimPrefix(rest, ".")); left != nil {
				out := slices.Clone(v)
				out[i] = left
				return out
			}
		}
	}
	return nil
}
