package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/gatehouse-mdm/gatehouse/mdm/internal/plistxml"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

const forbidden = "forbidden"

// enrollsUsers are the platforms that have User Enrollment.
var enrollsUsers = []Platform{IOS, MacOS, VisionOS}

// ForbiddenInUserEnrollment reports whether Apple forbids k, where what k stands in is
// allowed, in a User Enrollment on platform p. On a platform that is not known, or does
// not have k, it does where every platform that has k does: the rest is for the device to say.
func (k Key) ForbiddenInUserEnrollment(p Platform) bool {
	if a, said := k.Platforms[p]; a != nil {
		return a.UserEnrollment == forbidden
	} else if !said && slices.Contains(enrollsUsers, p) {
		return false // as what it stands in
	}
	some := false
	for _, p := range enrollsUsers {
		a, said := k.Platforms[p]
		switch {
		case !said, a != nil && a.UserEnrollment != forbidden:
			return false
		case a != nil:
			some = true
		}
	}
	return some
}

// personalIn is ForbiddenInUserEnrollment for what a device said instead of what it is
// asked: where its platform tells nothing, one that forbids k is enough.
func (k Key) personalIn(p Platform) bool {
	if a, said := k.Platforms[p]; a != nil {
		return a.UserEnrollment == forbidden
	} else if !said && slices.Contains(enrollsUsers, p) {
		return false
	}
	return forbiddenInUserEnrollment(k)
}

// forbiddenInUserEnrollment holds for what one platform forbids there.
func forbiddenInUserEnrollment(k Key) bool {
	for _, a := range k.Platforms {
		if a != nil && a.UserEnrollment == forbidden {
			return true
		}
	}
	return false
}

// asksDefaults holds for a DeviceInformation that asks what Build chose.
func asksDefaults(requestType string, params map[string]any) bool {
	queries, _ := params["Queries"].([]any)
	return requestType == "DeviceInformation" && slices.EqualFunc(queries, deviceQueries, func(v any, q string) bool { return v == any(q) })
}

// Reduce returns a whole command as a User Enrollment gets it: the Queries that Build
// chose are those of DefaultQueries(true), so that one command may go to devices of all
// kinds. Everything else stays as it is. Errors are as of Params.
func Reduce(raw []byte) ([]byte, error) {
	var cmd map[string]any
	if err := guard.DecodePlist(raw, &cmd, guard.PlistLimits{Bytes: MaxRaw}); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRaw, err)
	}
	params, _ := cmd["Command"].(map[string]any)
	requestType, _ := params["RequestType"].(string)
	if !asksDefaults(requestType, params) {
		return raw, nil
	}
	var queries []any
	for _, q := range DefaultQueries(true) {
		queries = append(queries, q)
	}
	params["Queries"] = queries
	reduced, err := plistxml.Marshal(cmd)
	if err != nil {
		return nil, fmt.Errorf("command: encode %s: %w", requestType, err)
	}
	return reduced, nil
}

// informationFacts are what a DeviceInformation can be asked and answer, by name: all that
// Apple says of what is personal in an answer. What no query asks for, such as SIMMCC, has
// no facts of its own, and counts as forbidden.
var informationFacts = sync.OnceValue(func() map[string]Key {
	t, _ := Lookup("DeviceInformation")
	facts := make(map[string]Key)
	responses := slices.IndexFunc(t.Response, func(k Key) bool { return k.Name == "QueryResponses" })
	for _, k := range t.Response[responses].Keys {
		never := make(map[Platform]*Availability, len(enrollsUsers))
		for _, p := range enrollsUsers {
			never[p] = &Availability{UserEnrollment: forbidden}
		}
		facts[k.Name] = Key{Name: k.Name, Platforms: never}
	}
	queries := slices.IndexFunc(t.Keys, func(k Key) bool { return k.Name == "Queries" })
	for _, k := range t.Keys[queries].Items[0].Keys {
		facts[k.Name] = k
	}
	return facts
})

// WithoutPersonal returns result, an answer to a command as of DecodeResult, as it may be kept
// of a User Enrollment on platform p: what Apple documents for the answer and does not forbid
// the server to ask for. Whatever else the device has sent goes, and so does all of an
// answer to a command that no table knows: what it tells of a person nobody can say.
// Nothing left is nil.
func WithoutPersonal(requestType string, p Platform, result json.RawMessage) (json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(result))
	dec.UseNumber() // integers stay exact
	var answer map[string]any
	if err := dec.Decode(&answer); err != nil {
		return nil, fmt.Errorf("command: result: %w", err)
	}
	if answer == nil {
		return nil, errors.New("command: result is not an object")
	}
	t, _ := Lookup(requestType)
	r := redaction{platform: p, information: requestType == "DeviceInformation"}
	r.dictionary(answer, t.Response, false)
	if len(answer) == 0 {
		return nil, nil
	}
	if !r.changed {
		return result, nil
	}
	kept, err := json.Marshal(answer)
	if err != nil {
		return nil, fmt.Errorf("command: encode result: %w", err)
	}
	return kept, nil
}

// redaction takes personal values out of one answer.
type redaction struct {
	platform    Platform
	information bool // the answer is a DeviceInformation's
	changed     bool
}

// dictionary removes what is personal from d, whose documented keys are keys, and what is not
// documented: nobody can say what that tells of a person.
func (r *redaction) dictionary(d map[string]any, keys []Key, queries bool) {
	wildcard := slices.IndexFunc(keys, func(k Key) bool { return strings.HasPrefix(k.Name, "ANY") })
	for name, v := range d {
		i := slices.IndexFunc(keys, func(k Key) bool { return k.Name == name })
		if i < 0 {
			i = wildcard // names of somebody else's choice, an app's for one
		}
		if i < 0 || !r.keeps(keys[i]) || queries && !r.keeps(informationFacts()[name]) {
			delete(d, name)
			r.changed = true
			continue
		}
		r.value(v, keys[i])
	}
}

// keeps holds for what Apple documents for r's platform and does not forbid there.
func (r *redaction) keeps(k Key) bool {
	a, said := k.Platforms[r.platform]
	elsewhere := said && a == nil || !said && k.Source == "docs" && len(k.Platforms) > 0
	return !(elsewhere && slices.Contains(enrollsUsers, r.platform)) && !k.personalIn(r.platform)
}

func (r *redaction) value(v any, k Key) {
	switch v := v.(type) {
	case map[string]any:
		var keys []Key // none where Apple documents no dictionary
		if k.Kind == Dictionary {
			keys = k.Keys
		}
		if k.Kind == Any || strings.HasPrefix(k.Name, "ANY") && len(keys) == 0 {
			keys = []Key{{Name: "ANY", Kind: Any}}
		}
		r.dictionary(v, keys, r.information && k.Name == "QueryResponses")
	case []any:
		var item Key
		switch {
		case k.Kind == Any:
			item = k
		case len(k.Items) == 1:
			item = k.Items[0]
		}
		for _, element := range v {
			r.value(element, item)
		}
	}
}
