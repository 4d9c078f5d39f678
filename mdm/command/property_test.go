package command_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// What the validator accepts, the encoder emits, and what guard reads of it is equal.
func TestWhatIsAcceptedIsReadBackEqual(t *testing.T) {
	t.Parallel()
	made, accepted := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		for range 20 { // of the 68 commands
			typ := rapid.SampledFrom(command.Types()).Draw(t, "command")
			made++
			if acceptedAndReadBack(t, typ) {
				accepted++
			}
		}
	})
	if accepted < made/2 {
		t.Errorf("of %d commands %d were accepted", made, accepted)
	}
}

// acceptedAndReadBack makes a command, and reports whether its keys go together.
func acceptedAndReadBack(t *rapid.T, typ command.Type) bool {
	in, want := genDictionary(t, typ.Keys)
	raw, err := command.Build(typ.RequestType, in, uuid)
	if wrong := new(command.ParamError); errors.As(err, &wrong) {
		if !strings.HasPrefix(wrong.Path, "params") || wrong.Reason == "" {
			t.Fatalf("Build(%s, %v) = %#v, want a path and a reason", typ.RequestType, in, wrong)
		}
		return false
	}
	if err != nil {
		t.Fatalf("Build(%s, %v) = %v", typ.RequestType, in, err)
	}
	var got map[string]any
	if err := guard.DecodePlist(raw, &got, guard.PlistLimits{Bytes: command.MaxRaw}); err != nil {
		t.Fatalf("DecodePlist(%s) = %v", raw, err)
	}
	want["RequestType"] = typ.RequestType
	if all := asText(map[string]any{"Command": want, "CommandUUID": uuid}); !reflect.DeepEqual(asText(got), all) {
		t.Fatalf("of\n%v\nthere is\n%v\nin\n%s", all, asText(got), raw)
	}
	if requestType, err := command.Validate(raw); requestType != typ.RequestType || err != nil {
		t.Fatalf("Validate(%s) = %q, %v", raw, requestType, err)
	}
	return true
}

// asText returns v with its integers as text, since a property list does not say their size.
func asText(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, value := range v {
			out[name] = asText(value)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, value := range v {
			out[i] = asText(value)
		}
		return out
	case int64, uint64, json.Number:
		return fmt.Sprint(v)
	}
	return v
}

// genDictionary makes a dictionary with some of keys, as JSON has it and as a property list does.
func genDictionary(t *rapid.T, keys []command.Key) (in, want map[string]any) {
	in, want = make(map[string]any), make(map[string]any)
	for _, k := range keys {
		if strings.HasPrefix(k.Name, "ANY") {
			for range rapid.IntRange(0, 3).Draw(t, "free") {
				name := rapid.StringMatching(`[A-Za-z][A-Za-z0-9 ._-]{0,12}`).Draw(t, "name")
				in[name], want[name] = genAny(t, 3)
			}
			continue
		}
		if k.Required || rapid.Bool().Draw(t, "with "+k.Name) {
			in[k.Name], want[k.Name] = genValue(t, k)
		}
	}
	return in, want
}

func genValue(t *rapid.T, k command.Key) (in, want any) {
	if values := k.Values(); len(values) > 0 {
		text := rapid.SampledFrom(values).Draw(t, k.Name)
		if k.Kind == command.Integer {
			return json.Number(text), json.Number(text)
		}
		return text, text
	}
	switch k.Kind {
	case command.String:
		text := genText(t, k.Name)
		return text, text
	case command.Boolean:
		b := rapid.Bool().Draw(t, k.Name)
		return b, b
	case command.Integer:
		least, most := int64(-1<<63), int64(1<<63-1)
		if k.Min != nil {
			least = int64(*k.Min)
		}
		if k.Max != nil {
			most = int64(*k.Max)
		}
		n := json.Number(fmt.Sprint(rapid.Int64Range(least, most).Draw(t, k.Name)))
		return n, n
	case command.Data:
		data := rapid.SliceOfN(rapid.Byte(), 1, 32).Draw(t, k.Name)
		return base64.StdEncoding.EncodeToString(data), data
	case command.Array:
		ins, wants := []any{}, []any{}
		least := 0
		if k.Required {
			least = 1
		}
		for range rapid.IntRange(least, 3).Draw(t, k.Name) {
			shape := command.Key{Kind: command.Any}
			if len(k.Items) > 0 {
				shape = rapid.SampledFrom(k.Items).Draw(t, "shape")
			}
			in, want := genValue(t, shape)
			ins, wants = append(ins, in), append(wants, want)
		}
		return ins, wants
	case command.Dictionary:
		return genDictionary(t, k.Keys)
	}
	return genAny(t, 3)
}

// genText makes text that property lists hold, and of keys whose texts have a form, that form.
func genText(t *rapid.T, name string) string {
	switch {
	case name == "PIN":
		return rapid.StringMatching(`[0-9]{6}`).Draw(t, name)
	case strings.HasSuffix(name, "URL"):
		return rapid.StringMatching(`https://[a-z]{1,9}\.example/[a-z?&=<]{0,9}`).Draw(t, name)
	case strings.Contains(name, "IPv6Address"):
		return rapid.StringMatching(`fd00::[0-9a-f]{1,4}`).Draw(t, name)
	case name == "CurrentPassword", name == "NewPassword":
		return rapid.StringMatching(`[ -~]{0,20}`).Draw(t, name)
	}
	return rapid.StringOfN(rapid.RuneFrom([]rune("aZ0 .<>&\"'\n\tßé中🔒-")), 1, 20, -1).Draw(t, name)
}

func genAny(t *rapid.T, depth int) (in, want any) {
	most := 5
	if depth == 0 {
		most = 3
	}
	switch rapid.IntRange(0, most).Draw(t, "kind") {
	case 0:
		text := genText(t, "text")
		return text, text
	case 1:
		b := rapid.Bool().Draw(t, "bool")
		return b, b
	case 2:
		n := json.Number(fmt.Sprint(rapid.Uint64().Draw(t, "integer")))
		return n, n
	case 3:
		f := float64(rapid.IntRange(-1000, 1000).Draw(t, "eighths"))/8 + 1.0/16 // no whole number
		return json.Number(fmt.Sprint(f)), f
	case 4:
		ins, wants := []any{}, []any{}
		for range rapid.IntRange(0, 3).Draw(t, "elements") {
			in, want := genAny(t, depth-1)
			ins, wants = append(ins, in), append(wants, want)
		}
		return ins, wants
	}
	ins, wants := make(map[string]any), make(map[string]any)
	for range rapid.IntRange(0, 3).Draw(t, "members") {
		name := genText(t, "name")
		ins[name], wants[name] = genAny(t, depth-1)
	}
	return ins, wants
}
