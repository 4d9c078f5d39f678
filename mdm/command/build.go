package command

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/internal/plistxml"
)

// ErrUnknownType means that Apple's table has no command of the name that was asked for.
var ErrUnknownType = errors.New("not a command type")

// ParamError says which parameter of a command is wrong, and why.
type ParamError struct {
	Path   string // "params.Queries[2]"
	Reason string // "must be a string"
}

// Error returns path and reason in one line.
func (e *ParamError) Error() string { return e.Path + " " + e.Reason }

// tether is the one key that may stand beside the keys of (almost) any command:
// "RequestRequiresNetworkTether", Apple's page CommandRequest.
const tether = "RequestRequiresNetworkTether"

// maxNesting bounds values of kind any; Apple's own commands stay far below.
const maxNesting = 32

// Build returns the XML property list of a command, ready for a device:
// {Command: {RequestType, …params}, CommandUUID}.
//
// params has the keys as Apple spells them and values as encoding/json decodes
// them with UseNumber: data is a base64 string, a date is RFC 3339. []byte, int
// and time.Time stand for themselves. A DeviceInformation without Queries asks
// for DefaultQueries(false). The keys in [Type.Filled] may be missing: what is built is then
// a command that whoever queues it has to complete for each device.
//
// The error is a *ParamError, or wraps ErrUnknownType.
func Build(requestType string, params map[string]any, uuid string) ([]byte, error) {
	t, known := Lookup(requestType)
	if !known {
		return nil, unknownType(requestType)
	}
	if !validUUID(uuid) {
		return nil, fmt.Errorf("command: %q is no command UUID", clip(uuid))
	}
	keys := t.Keys
	if t.Tether {
		keys = append(slices.Clip(keys), Key{Name: tether, Kind: Boolean})
	}
	if _, asked := params["Queries"]; requestType == "DeviceInformation" && !asked {
		params = maps.Clone(params)
		if params == nil {
			params = make(map[string]any, 1)
		}
		queries := make([]any, 0, len(deviceQueries))
		for _, q := range DefaultQueries(false) {
			queries = append(queries, q)
		}
		params["Queries"] = queries
	}
	b := builder{requestType: requestType}
	body, err := b.dictionary("params", params, keys, 0)
	if err != nil {
		return nil, err
	}
	if err := obey(requestType, body); err != nil {
		return nil, err
	}
	body["RequestType"] = requestType
	raw, err := plistxml.Marshal(map[string]any{"Command": body, "CommandUUID": uuid})
	if err != nil {
		return nil, fmt.Errorf("command: encode %s: %w", requestType, err)
	}
	return raw, nil
}

// unknownType wraps ErrUnknownType for a name, with the one that may be meant.
func unknownType(requestType string) error {
	var suggestion string
	if nearest := Nearest(requestType, slices.Sorted(maps.Keys(catalogue()))); nearest != "" {
		suggestion = "; did you mean " + nearest + "?"
	}
	return fmt.Errorf("%q: %w%s", clip(requestType), ErrUnknownType, suggestion)
}

// deviceQueries is what we want to know of a device unless told otherwise: what
// its page shows, and what decides on commands (IsSupervised, IsMultiUser).
var deviceQueries = []string{
	"UDID", "SerialNumber", "DeviceName",
	"OSVersion", "SupplementalOSVersionExtra", "BuildVersion", "SupplementalBuildVersion",
	"ModelName", "Model", "ModelNumber", "ProductName", "IsAppleSilicon",
	"DeviceCapacity", "AvailableDeviceCapacity", "BatteryLevel",
	"IsSupervised", "IsMultiUser", "IsActivationLockEnabled", "IsMDMLostModeEnabled",
	"HostName", "LocalHostName", "WiFiMAC", "BluetoothMAC", "EthernetMAC", "TimeZone",
}

// DefaultQueries returns the Queries of a DeviceInformation that asks for what we
// show of every device. For a User Enrollment it leaves out what Apple forbids
// there (serial number, UDID, addresses). A device leaves out of its answer what
// its platform does not know.
func DefaultQueries(userEnrollment bool) []string {
	if !userEnrollment {
		return slices.Clone(deviceQueries)
	}
	var allowed []string
	for _, name := range deviceQueries {
		if !forbiddenInUserEnrollment(informationFacts()[name]) {
			allowed = append(allowed, name)
		}
	}
	return allowed
}

// builder turns the JSON values of one command into what the property list
// encoder takes, checking each against the catalogue.
type builder struct {
	requestType string
}

func (b builder) dictionary(path string, in map[string]any, keys []Key, depth int) (map[string]any, error) {
	var wildcard *Key // Apple's "ANY": keys with names of the sender's choice
	for i := range keys {
		if strings.HasPrefix(keys[i].Name, "ANY") {
			wildcard = &keys[i]
		}
	}
	out := make(map[string]any, len(in)+1)
	for _, name := range slices.Sorted(maps.Keys(in)) { // sorted: the same mistake gets the same error
		at := member(path, name)
		var key *Key
		if i := slices.IndexFunc(keys, func(k Key) bool { return k.Name == name }); i >= 0 {
			key = &keys[i]
		} else if key = wildcard; key == nil {
			return nil, &ParamError{at, "is not a key of " + b.requestType + takes(keys) + meant(name, names(keys))}
		}
		if !plistxml.Carries(name) {
			return nil, &ParamError{at, "has a name that a property list can't hold"}
		}
		value, err := b.value(at, in[name], *key, depth+1)
		if err != nil {
			return nil, err
		}
		out[name] = value
	}
	for _, k := range keys {
		if _, there := in[k.Name]; k.Required && !there && !strings.HasPrefix(k.Name, "ANY") {
			return nil, &ParamError{member(path, k.Name), "is required"}
		}
	}
	return out, nil
}

func (b builder) value(path string, v any, k Key, depth int) (any, error) {
	if depth > maxNesting {
		return nil, &ParamError{path, "is nested too deeply"}
	}
	out, err := b.byKind(path, v, k, depth)
	if err != nil {
		return nil, err
	}
	if allowed := values(k); len(allowed) > 0 && !slices.Contains(allowed, fmt.Sprint(out)) {
		return nil, &ParamError{path, "must be one of " + list(allowed) + meant(fmt.Sprint(out), allowed)}
	}
	if n, ok := number(out); ok && (k.Min != nil && n < *k.Min || k.Max != nil && n > *k.Max) {
		return nil, &ParamError{path, "is out of range" + bounds(k)}
	}
	if k.Required && empty(out) && k.Name != mayBeEmpty {
		return nil, &ParamError{path, "must not be empty"}
	}
	return out, nil
}

func (b builder) byKind(path string, v any, k Key, depth int) (any, error) {
	switch k.Kind {
	case String:
		if s, ok := v.(string); ok {
			if !plistxml.Carries(s) {
				return nil, &ParamError{path, "holds a character that a property list can't hold"}
			}
			return s, nil
		}
	case Boolean:
		if t, ok := v.(bool); ok {
			return t, nil
		}
	case Integer:
		switch n := v.(type) {
		case int:
			return int64(n), nil
		case json.Number:
			if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
				return i, nil
			}
			if u, err := strconv.ParseUint(n.String(), 10, 64); err == nil {
				return u, nil
			}
			return nil, &ParamError{path, "must be a whole number of at most 64 bits"}
		}
	case Real:
		switch n := v.(type) {
		case int:
			return float64(n), nil
		case json.Number:
			if f, err := n.Float64(); err == nil && !math.IsInf(f, 0) {
				return f, nil
			}
			return nil, &ParamError{path, "must be a number within the range of a double"}
		}
	case Data:
		switch d := v.(type) {
		case []byte:
			return d, nil
		case string:
			data, err := base64.StdEncoding.DecodeString(d)
			if err != nil {
				return nil, &ParamError{path, "must be base64 (RFC 4648, section 4) with padding"}
			}
			return data, nil
		}
	case Date:
		switch d := v.(type) {
		case time.Time:
			return d.UTC(), nil
		case string:
			t, err := time.Parse(time.RFC3339, d)
			if err != nil || t.UTC().Year() < 1 || t.UTC().Year() > 9999 {
				return nil, &ParamError{path, "must be a date like 2006-01-02T15:04:05Z (RFC 3339)"}
			}
			return t.UTC(), nil
		}
	case Array:
		if a, ok := v.([]any); ok {
			return b.array(path, a, k, depth)
		}
	case Dictionary:
		if d, ok := v.(map[string]any); ok {
			keys := k.Keys
			if len(keys) == 0 {
				keys = []Key{{Name: "ANY", Kind: Any}}
			}
			return b.dictionary(path, d, keys, depth)
		}
	case Any:
		return b.anything(path, v, depth)
	}
	return nil, &ParamError{path, "must be " + k.Kind.article()}
}

func (b builder) array(path string, in []any, k Key, depth int) ([]any, error) {
	out := make([]any, len(in))
	for i, v := range in {
		at := fmt.Sprintf("%s[%d]", path, i)
		item, err := variant(at, v, k.Items)
		if err != nil {
			return nil, err
		}
		if out[i], err = b.value(at, v, item, depth+1); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// variant picks the shape of an array element. Where there are several, as in
// Settings, the element's Item names it.
func variant(path string, v any, shapes []Key) (Key, error) {
	switch len(shapes) {
	case 0:
		return Key{Kind: Any}, nil
	case 1:
		return shapes[0], nil
	}
	d, isObject := v.(map[string]any)
	if !isObject {
		return Key{}, &ParamError{path, "must be " + Dictionary.article()}
	}
	item, _ := d["Item"].(string)
	if i := slices.IndexFunc(shapes, func(k Key) bool { return k.Name == item }); i >= 0 {
		return shapes[i], nil
	}
	return Key{}, &ParamError{path + ".Item", "must be one of " + list(names(shapes)) + meant(item, names(shapes))}
}

// anything maps free values by their JSON type. Data and dates can't be told from
// strings there, and stay strings.
func (b builder) anything(path string, v any, depth int) (any, error) {
	kind := Any
	switch n := v.(type) {
	case string:
		kind = String
	case bool:
		kind = Boolean
	case int:
		kind = Integer
	case json.Number:
		kind = Integer
		if strings.ContainsAny(n.String(), ".eE") {
			kind = Real
		}
	case []byte:
		kind = Data
	case time.Time:
		kind = Date
	case []any:
		kind = Array
	case map[string]any:
		kind = Dictionary
	default:
		return nil, &ParamError{path, "must not be null"}
	}
	return b.byKind(path, v, Key{Kind: kind}, depth)
}

// article returns the kind as it reads after "must be".
func (k Kind) article() string {
	switch k {
	case Integer:
		return "an integer"
	case Array:
		return "an array"
	case Dictionary:
		return "an object"
	case Real:
		return "a number"
	case Data:
		return "a base64 string"
	case Date:
		return "a string with an RFC 3339 date"
	}
	return "a " + string(k)
}

// values returns what a scalar may be: Apple lists it as an enum, or as subkeys
// when each value has platforms of its own.
func values(k Key) []string {
	if k.Kind == Dictionary || k.Kind == Array || k.Kind == Any {
		return nil
	}
	allowed := make([]string, 0, len(k.Enum)+len(k.Keys))
	for _, v := range k.Enum {
		allowed = append(allowed, fmt.Sprint(v))
	}
	for _, v := range k.Keys {
		allowed = append(allowed, v.Name)
	}
	return allowed
}

// Values returns what a value of k is restricted to, as text; none means anything
// of its kind.
func (k Key) Values() []string { return values(k) }

func number(v any) (float64, bool) {
	switch n := v.(type) {
	case int64:
		return float64(n), true
	case uint64:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}

func bounds(k Key) string {
	switch {
	case k.Min != nil && k.Max != nil:
		return fmt.Sprintf(": from %v to %v", *k.Min, *k.Max)
	case k.Min != nil:
		return fmt.Sprintf(": at least %v", *k.Min)
	case k.Max != nil:
		return fmt.Sprintf(": at most %v", *k.Max)
	}
	return ""
}

func empty(v any) bool {
	switch v := v.(type) {
	case string:
		return v == ""
	case []byte:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return false
}

// member appends a key to a path. Names come from the client: what is not plain
// is quoted, what is long is cut.
func member(path, name string) string {
	plain := name != "" && len(name) <= 64 && strings.IndexFunc(name, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && r != '_' && r != '-'
	}) < 0
	if plain {
		return path + "." + name
	}
	return path + "[" + strconv.Quote(clip(name)) + "]"
}

func clip(s string) string {
	if len(s) <= 64 {
		return s
	}
	return strings.ToValidUTF8(s[:64], "") + "…"
}

func takes(keys []Key) string {
	if len(keys) == 0 {
		return ", which takes none"
	}
	return "; it takes " + list(names(keys))
}

// meant appends the name that may be meant instead of one that is not known.
func meant(name string, known []string) string {
	if nearest := Nearest(name, known); nearest != "" {
		return "; did you mean " + nearest + "?"
	}
	return ""
}

func names(keys []Key) []string {
	all := make([]string, len(keys))
	for i, k := range keys {
		all[i] = k.Name
	}
	return all
}

// list joins names for a sentence, and stops where nobody reads on.
func list(names []string) string {
	const shown = 12
	if len(names) > shown {
		return strings.Join(names[:shown], ", ") + fmt.Sprintf(" or one of %d more", len(names)-shown)
	}
	return strings.Join(names, ", ")
}
