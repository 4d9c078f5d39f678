package plistxml_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/internal/plistxml"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

func TestWhatIsWrittenReadsBackExactly(t *testing.T) {
	in := map[string]any{
		"markup":     `A</string><key>x</key>&"'`,
		"emoji":      "🧑‍💻",
		"line ends":  " a\n\tb\r\nc\rd ",
		"CDATA":      "]]>",
		"a <key> & ": "x",
		"data":       []byte{0, 1, 2, 255},
		"truth":      []any{true, false},
		"integers":   []any{int64(-1), uint64(1<<64 - 1)},
		"real":       0.1,
		"date":       time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		"empty":      map[string]any{"string": "", "array": []any{}, "dict": map[string]any{}},
	}
	raw, err := plistxml.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := guard.DecodePlist(raw, &out, guard.PlistLimits{}); err != nil {
		t.Fatalf("%v in\n%s", err, raw)
	}
	if !reflect.DeepEqual(in, out) {
		t.Errorf("wrote\n%#v\nread\n%#v\nfrom\n%s", in, out, raw)
	}
}

func TestTextsThatXMLCannotHoldAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"a NUL":                   "a\x00b",
		"an escape":               "\x1b[31m",
		"bytes that are no UTF-8": "\xff",
		"half a surrogate pair":   "\xed\xa0\x80",
		"a non-character":         "\uffff",
	} {
		t.Run(name, func(t *testing.T) {
			if plistxml.Carries(text) {
				t.Errorf("Carries(%q) = true", text)
			}
			for where, v := range map[string]map[string]any{
				"value": {"k": []any{map[string]any{"x": text}}},
				"key":   {"k": map[string]any{text: "x"}},
			} {
				if raw, err := plistxml.Marshal(v); err == nil {
					t.Errorf("Marshal with %q as a %s = %s", text, where, raw)
				}
			}
		})
	}
	if !plistxml.Carries("\uFFFD \u007f") {
		t.Error("Carries refuses the replacement character itself")
	}
}
