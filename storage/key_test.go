package storage_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// The bytes of keys are stored: a change of them loses every record.
func TestKeysHaveTheseBytes(t *testing.T) {
	for want, parts := range map[string][]string{
		"":                                 {},
		"\x00\x01":                         {""},
		"\x00\x01\x00\x01":                 {"", ""},
		"a\x00\x01":                        {"a"},
		"a\x00\x01b\x00\x01":               {"a", "b"},
		"\x00\xff\x00\x01":                 {"\x00"},
		"a\x00\xffb\xff\x00\xff\x00\x01":   {"a\x00b\xff\x00"},
		"\x00\xff\x01\x00\x01\xff\x00\x01": {"\x00\x01", "\xff"},
	} {
		if got := string(storage.Key(parts...)); got != want {
			t.Errorf("Key(%q) = %q, want %q", parts, got, want)
		}
	}
}

func TestKeysSortAndNestAsTheirPartsDo(t *testing.T) {
	part := rapid.Custom(func(t *rapid.T) string {
		return string(rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 'a', 0xfe, 0xff}), 0, 4).Draw(t, "part"))
	})
	tuple := rapid.SliceOfN(part, 0, 3)
	rapid.Check(t, func(t *rapid.T) {
		a, b := tuple.Draw(t, "a"), tuple.Draw(t, "b")
		if got, want := bytes.Compare(storage.Key(a...), storage.Key(b...)), slices.Compare(a, b); got != want {
			t.Fatalf("Key(%q) compares to Key(%q) as %d, want %d", a, b, got, want)
		}
		within := len(b) >= len(a) && slices.Equal(b[:len(a)], a)
		if got := bytes.HasPrefix(storage.Key(b...), storage.KeyPrefix(a...)); got != within {
			t.Fatalf("Key(%q) has the prefix of %q: %v, want %v", b, a, got, within)
		}
		if long := strings.Repeat("x", 10); !bytes.HasPrefix(storage.Key(long, "y"), storage.KeyPrefix(long)) {
			t.Fatal("a key is not in its own prefix")
		}
	})
}
