package profile

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// Finding is one thing that is wrong with a profile.
type Finding struct {
	Code        string // stable, for programs: one of the Code constants
	PayloadType string // of the payload that is concerned; Configuration is the profile itself
	Key         string // of that payload; empty: the payload as a whole
	Reason      string // a sentence for a person
}

// Codes of a Finding.
const CodeUserEnrollment = command.CodeUserEnrollment

// CheckUserEnrollment returns what of a profile Apple forbids in a User Enrollment on a
// platform, and whether the profile is refused there for it. iOS, iPadOS and visionOS refuse
// a profile for one forbidden payload; macOS leaves it out, so there a profile is refused
// of which nothing would be left (PROTOCOL 3.8, Apple's page "LegacyProfile"). On a platform
// that is not known, a profile is refused that all refuse.
//
// A key that has its default is as good as none. What only the device can read passes: a
// payload of a type that is not known, and the content of an encrypted profile.
//
// The profile may be signed; the signature is not checked. Errors wrap ErrNotProfile, with
// guard's about the encoding.
func CheckUserEnrollment(data []byte, p command.Platform) (findings []Finding, refused bool, err error) {
	profile, err := Parse(data)
	if err != nil {
		return nil, false, err
	}
	top := profile.Top
	if p == command.IOS || p == command.MacOS || p == command.VisionOS {
		findings, refused = checkUserEnrollment(top, p)
		return findings, refused, nil
	}
	for _, guess := range []command.Platform{command.MacOS, command.VisionOS, command.IOS} {
		if findings, refused = checkUserEnrollment(top, guess); !refused {
			return nil, false, nil
		}
	}
	return findings, true, nil
}

// checkUserEnrollment is CheckUserEnrollment for a platform that has User Enrollment.
func checkUserEnrollment(top map[string]any, p command.Platform) (findings []Finding, refused bool) {
	for _, facts := range payloadFacts()[topLevel] {
		findings = append(findings, forbiddenKeys("Configuration", facts.Keys, top, p)...)
	}
	payloads, _ := top["PayloadContent"].([]any) // a dictionary, or none, where it is not a Configuration, or encrypted
	whole := 0
	for _, v := range payloads {
		payload, _ := v.(map[string]any)
		payloadType, _ := payload["PayloadType"].(string)
		found := checkPayload(payloadType, payload, p)
		if len(found) == 1 && found[0].Key == "" {
			whole++
		}
		findings = append(findings, found...)
	}
	if p == command.MacOS {
		return findings, whole > 0 && whole == len(payloads)
	}
	return findings, len(findings) > 0
}

// checkPayload returns what Apple forbids of a payload: the payload itself, or some of its
// keys. Of several uses of its type, one that is allowed is the one that is meant.
func checkPayload(payloadType string, payload map[string]any, p command.Platform) []Finding {
	known := Lookup(payloadType)
	if len(known) == 0 {
		return nil
	}
	var whole, keys []Finding
	for _, facts := range known {
		a := facts.Platforms[p]
		if a == nil {
			whole = []Finding{{CodeUserEnrollment, payloadType, "", fmt.Sprintf("The payload %s does not exist on %s.", payloadType, p)}}
			continue
		}
		if a.UserEnrollment != "allowed" { // also where Apple says nothing of it
			whole = []Finding{{CodeUserEnrollment, payloadType, "", fmt.Sprintf("The payload %s is not allowed on a personal device (User Enrollment).", payloadType)}}
			continue
		}
		found := forbiddenKeys(payloadType, facts.Keys, payload, p)
		if len(found) == 0 {
			return nil
		}
		if keys == nil {
			keys = found
		}
	}
	if keys != nil {
		return keys
	}
	return whole
}

// forbiddenKeys returns a finding for each key of a payload that Apple forbids.
func forbiddenKeys(payloadType string, keys []command.Key, payload map[string]any, p command.Platform) []Finding {
	var findings []Finding
	var walk func(path string, d map[string]any, keys []command.Key)
	value := func(path string, v any, k command.Key) {
		switch v := v.(type) {
		case map[string]any:
			walk(path+".", v, k.Keys)
		case []any:
			if len(k.Items) != 1 {
				return
			}
			for i, element := range v {
				if d, ok := element.(map[string]any); ok {
					walk(fmt.Sprintf("%s[%d].", path, i), d, k.Items[0].Keys)
				}
			}
		}
	}
	walk = func(path string, d map[string]any, keys []command.Key) {
		for _, name := range slices.Sorted(maps.Keys(d)) {
			i := slices.IndexFunc(keys, func(k command.Key) bool { return k.Name == name })
			switch {
			case i < 0 || isDefault(d[name], keys[i]):
			case keys[i].ForbiddenInUserEnrollment(p):
				findings = append(findings, Finding{CodeUserEnrollment, payloadType, path + name,
					fmt.Sprintf("%s in %s is not allowed on a personal device (User Enrollment).", path+name, payloadType)})
			default:
				value(path+name, d[name], keys[i])
			}
		}
	}
	walk("", payload, keys)
	return findings
}

// isDefault holds for a value that says what the device assumes without it.
func isDefault(v any, k command.Key) bool {
	switch d := k.Default.(type) {
	case bool, string:
		return v == d
	case json.Number:
		return strings.TrimSuffix(d.String(), ".0") == strings.TrimSuffix(fmt.Sprint(v), ".0")
	}
	return false
}
