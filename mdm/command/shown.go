package command

import (
	"fmt"
	"slices"
	"time"
)

// Shown returns params, as [Params] reads them, for people who may see what was asked of a
// device, but none of its secrets: these are Redacted, and so is what Apple's tables do not
// have, and what is in dictionaries whose keys are the sender's choice, as the configuration
// of an app. Of data it says how long that is. It is ready for JSON.
func Shown(requestType string, params map[string]any) map[string]any {
	t, _ := Lookup(requestType)
	keys := append(slices.Clip(t.Keys), Key{Name: tether, Kind: Boolean})
	out := make(map[string]any, len(params))
	for name, v := range params {
		if name != "RequestType" {
			out[name] = shownMember(name, v, keys)
		}
	}
	return out
}

func shownMember(name string, v any, keys []Key) any {
	i := slices.IndexFunc(keys, func(k Key) bool { return k.Name == name })
	if i < 0 || isSecret(name) || secretInput(keys[i]) {
		return veiled(v)
	}
	return shownValue(v, keys[i])
}

func shownValue(v any, k Key) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, inner := range v {
			out[name] = shownMember(name, inner, k.Keys)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, element := range v {
			if shape, err := variant("", element, k.Items); err == nil {
				out[i] = shownValue(element, shape)
			} else {
				out[i] = veiled(element)
			}
		}
		return out
	case []byte:
		return fmt.Sprintf("[%d bytes]", len(v))
	case time.Time:
		return v.UTC().Format(time.RFC3339)
	}
	if k.Kind == Any || k.Kind == Dictionary || k.Kind == Array || k.Kind == Data {
		return veiled(v) // not what its key takes
	}
	return v
}

// veiled says no more of v than its shape.
func veiled(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, inner := range v {
			out[name] = veiled(inner)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = veiled(v[i])
		}
		return out
	case bool:
		return v
	}
	return Redacted
}
