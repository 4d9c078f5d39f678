package command

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

// The types that are not offered yet have shapes that the offered ones lack. The
// builder goes by the catalogue alone, so they are tried here.
func TestTheBuilderKnowsEveryShapeOfTheCatalogue(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, tt := range map[string]struct {
		keys   []Key
		params string
		want   map[string]any // nil: refused
		path   string
		reason string
	}{
		"elements of several shapes": {
			keysOf(t, "Settings"), `{"Settings":[{"Item":"Bluetooth","Enabled":true},{"Item":"HostName","HostName":"mac"}]}`,
			map[string]any{"Settings": []any{map[string]any{"Item": "Bluetooth", "Enabled": true}, map[string]any{"Item": "HostName", "HostName": "mac"}}}, "", "",
		},
		"an element of no shape": {
			keysOf(t, "Settings"), `{"Settings":[{"Item":"Bluetooth","Enabled":true},{"Item":"Lights"}]}`, nil, "params.Settings[1].Item", "must be one of",
		},
		"an element that is no object": {
			keysOf(t, "Settings"), `{"Settings":["Bluetooth"]}`, nil, "params.Settings[0]", "must be an object",
		},
		"a key of another shape": {
			keysOf(t, "Settings"), `{"Settings":[{"Item":"HostName","HostName":"mac","Enabled":true}]}`, nil, "params.Settings[0].Enabled", "is not a key",
		},
		"an integer out of its set": {
			keysOf(t, "InstallApplication"), `{"ManagementFlags":2}`, nil, "params.ManagementFlags", "must be one of 1, 4, 5",
		},
		"an integer in its set": {
			keysOf(t, "InstallApplication"), `{"ManagementFlags":5}`, map[string]any{"ManagementFlags": int64(5)}, "", "",
		},
		"free values keep their types": {
			keysOf(t, "InstallApplication"), `{"Configuration":{"s":"x","b":false,"i":7,"r":0.5,"a":[1,"y"],"d":{"k":18446744073709551615}}}`,
			map[string]any{"Configuration": map[string]any{
				"s": "x", "b": false, "i": int64(7), "r": 0.5, "a": []any{int64(1), "y"}, "d": map[string]any{"k": uint64(1<<64 - 1)},
			}}, "", "",
		},
		"null among free values": {
			keysOf(t, "InstallApplication"), `{"Configuration":{"a":[1,null]}}`, nil, "params.Configuration.a[1]", "must not be null",
		},
		"free values nested too deeply": {
			keysOf(t, "InstallApplication"), `{"Configuration":{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}}`, nil,
			"params.Configuration.a" + strings.Repeat("[0]", maxNesting-1), "nested too deeply",
		},
		"a name that XML can't hold": {
			keysOf(t, "InstallApplication"), `{"Configuration":{"a\u0000":1}}`, nil, `params.Configuration["a\x00"]`, "can't hold",
		},
		"a date": {
			[]Key{{Name: "At", Kind: Date}}, `{"At":"2026-01-02T04:04:05+01:00"}`, map[string]any{"At": at}, "", "",
		},
		"a date without a zone":   {[]Key{{Name: "At", Kind: Date}}, `{"At":"2026-01-02T04:04:05"}`, nil, "params.At", "RFC 3339"},
		"a number for a date":     {[]Key{{Name: "At", Kind: Date}}, `{"At":5}`, nil, "params.At", "must be a string with an RFC 3339 date"},
		"a real":                  {[]Key{{Name: "R", Kind: Real}}, `{"R":2}`, map[string]any{"R": 2.0}, "", ""},
		"a real beyond doubles":   {[]Key{{Name: "R", Kind: Real}}, `{"R":1e400}`, nil, "params.R", "range of a double"},
		"a real within bounds":    {[]Key{bounded(0, 1)}, `{"R":0.5}`, map[string]any{"R": 0.5}, "", ""},
		"a real above its bounds": {[]Key{bounded(0, 1)}, `{"R":1.5}`, nil, "params.R", "out of range: from 0 to 1"},
		"a fraction for an integer": {
			[]Key{{Name: "I", Kind: Integer}}, `{"I":1.5}`, nil, "params.I", "whole number",
		},
		"an integer beyond 64 bits": {
			[]Key{{Name: "I", Kind: Integer}}, `{"I":18446744073709551616}`, nil, "params.I", "at most 64 bits",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dec := json.NewDecoder(strings.NewReader(tt.params))
			dec.UseNumber()
			var in map[string]any
			if err := dec.Decode(&in); err != nil {
				t.Fatal(err)
			}
			got, err := builder{requestType: "Test"}.dictionary("params", in, tt.keys, 0)
			if tt.want != nil {
				if err != nil || !reflect.DeepEqual(got, tt.want) {
					t.Errorf("%s gives %#v, %v; want %#v", tt.params, got, err, tt.want)
				}
				return
			}
			var wrong *ParamError
			if !errors.As(err, &wrong) || wrong.Path != tt.path || !strings.Contains(wrong.Reason, tt.reason) {
				t.Errorf("%s gives %v, want %s … %s", tt.params, err, tt.path, tt.reason)
			}
		})
	}
}

func keysOf(t *testing.T, requestType string) []Key {
	t.Helper()
	typ, ok := Lookup(requestType)
	if !ok {
		t.Fatalf("no command %s", requestType)
	}
	return typ.Keys
}

func bounded(least, most float64) Key {
	return Key{Name: "R", Kind: Real, Min: &least, Max: &most}
}
