package command

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"encoding/json"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Validate reads a whole command as ParseRaw does, and holds its keys against the
// catalogue as Build does, with their types as the property list has them: data is no
// string. Keys that the catalogue does not know are left to the device; see Unknown.
//
// The error is ParseRaw's, wraps ErrUnknownType for a RequestType that is not in the
// catalogue, or is a *ParamError whose path begins with "Command".
func Validate(raw []byte) (requestType string, err error) {
	if _, requestType, err = ParseRaw(raw); err != nil {
		return "", err
	}
	t, known := Lookup(requestType)
	if !known {
		return requestType, unknownType(requestType)
	}
	params, err := Params(raw)
	if err != nil {
		return requestType, err
	}
	delete(params, "RequestType")
	var r reading
	checked, err := r.dictionary("params", params, withTether(t), 0)
	if err == nil {
		checked, err = builder{requestType: requestType}.dictionary("params", checked, withTether(t), 0)
	}
	if err == nil {
		err = obey(requestType, checked)
	}
	return requestType, inCommand(err)
}

// Unknown returns the paths of what stands in a whole command and is not in the catalogue:
// "Command.Pin", "UDID". A device passes over such keys, refuses the command, or knows
// more than we do. It is empty for a raw that ParseRaw refuses, and of a RequestType that is
// not in the catalogue only names what stands beside the Command.
func Unknown(raw []byte) []string {
	var cmd map[string]any
	if guard.DecodePlist(raw, &cmd, guard.PlistLimits{Bytes: MaxRaw}) != nil {
		return nil
	}
	var r reading
	for _, name := range slices.Sorted(maps.Keys(cmd)) {
		if name != "Command" && name != "CommandUUID" {
			r.unknown = append(r.unknown, strings.TrimPrefix(member("", name), "."))
		}
	}
	params, _ := cmd["Command"].(map[string]any)
	requestType, _ := params["RequestType"].(string)
	if t, known := Lookup(requestType); known {
		delete(params, "RequestType")
		_, _ = r.dictionary("Command", params, withTether(t), 0) // wrong values are Validate's
	}
	return r.unknown
}

// withTether returns the keys that a Command dictionary of type t may have.
func withTether(t Type) []Key {
	if !t.Tether {
		return t.Keys
	}
	return append(slices.Clip(t.Keys), Key{Name: tether, Kind: Boolean})
}

// inCommand turns the paths of Build's errors into paths of a property list.
func inCommand(err error) error {
	var wrong *ParamError
	if errors.As(err, &wrong) {
		return &ParamError{Path: "Command" + strings.TrimPrefix(wrong.Path, "params"), Reason: wrong.Reason}
	}
	return err
}

// reading turns the values of a property list into those that builder takes, and takes
// out the keys that the catalogue does not know.
type reading struct {
	unknown []string
}

func (r *reading) dictionary(path string, in map[string]any, keys []Key, depth int) (map[string]any, error) {
	free := slices.ContainsFunc(keys, func(k Key) bool { return strings.HasPrefix(k.Name, "ANY") })
	out := make(map[string]any, len(in))
	var first error
	for _, name := range slices.Sorted(maps.Keys(in)) {
		at := member(path, name)
		i := slices.IndexFunc(keys, func(k Key) bool { return k.Name == name })
		if i < 0 && !free {
			r.unknown = append(r.unknown, at)
			continue
		}
		k := Key{Kind: Any}
		if i >= 0 {
			k = keys[i]
		}
		v, err := r.value(at, in[name], k, depth+1)
		if err != nil && first == nil {
			first = err
		}
		out[name] = v
	}
	return out, first
}

func (r *reading) value(path string, v any, k Key, depth int) (any, error) {
	if depth > maxNesting {
		return nil, &ParamError{path, "is nested too deeply"}
	}
	switch v := v.(type) {
	case map[string]any:
		keys := k.Keys
		if len(keys) == 0 || k.Kind != Dictionary {
			keys = []Key{{Name: "ANY", Kind: Any}}
		}
		return r.dictionary(path, v, keys, depth)
	case []any:
		out := make([]any, len(v))
		for i, element := range v {
			shape := Key{Kind: Any} // builder says what is wrong with it
			if k.Kind == Array {
				if s, err := variant(path, element, k.Items); err == nil {
					shape = s
				}
			}
			var err error
			if out[i], err = r.value(fmt.Sprintf("%s[%d]", path, i), element, shape, depth+1); err != nil {
				return nil, err
			}
		}
		return out, nil
	case string:
		if k.Kind == Data || k.Kind == Date {
			return nil, &ParamError{path, fmt.Sprintf("must be <%s>, not <string>", k.Kind)}
		}
	case []byte:
		if k.Kind != Data && k.Kind != Any {
			return nil, &ParamError{path, "must be " + element(k.Kind) + ", not <data>"}
		}
	case time.Time:
		if k.Kind != Date && k.Kind != Any {
			return nil, &ParamError{path, "must be " + element(k.Kind) + ", not <date>"}
		}
	case int64:
		return json.Number(strconv.FormatInt(v, 10)), nil
	case uint64:
		return json.Number(strconv.FormatUint(v, 10)), nil
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return nil, &ParamError{path, "must be a finite number"}
		}
		n := strconv.FormatFloat(v, 'g', -1, 64)
		if !strings.ContainsAny(n, ".e") {
			n += ".0" // a <real>, even of a whole number
		}
		return json.Number(n), nil
	}
	return v, nil
}

// element returns what a property list has for a value of kind k.
func element(k Kind) string {
	switch k {
	case Boolean:
		return "<true/> or <false/>"
	case Dictionary:
		return "<dict>"
	}
	return "<" + string(k) + ">"
}
