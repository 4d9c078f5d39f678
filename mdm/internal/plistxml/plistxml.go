// Package plistxml writes XML property lists for devices. Reading them is the
// guard's work.
package plistxml

import (
	"fmt"
	"unicode/utf8"

	"github.com/groob/plist"
)

// Marshal returns v as an XML property list, keys sorted and indented by tabs. v
// is of maps with string keys, []any, string, []byte, bool, integers, floats and
// time.Time.
//
// It fails when a text is in v that Carries refuses, instead of writing another
// text in its place.
func Marshal(v map[string]any) ([]byte, error) {
	if err := check(v); err != nil {
		return nil, err
	}
	raw, err := plist.MarshalIndent(v, "\t")
	if err != nil {
		return nil, fmt.Errorf("encode property list: %w", err)
	}
	return raw, nil
}

func check(v any) error {
	switch v := v.(type) {
	case string:
		if !Carries(v) {
			return fmt.Errorf("a property list can't hold the text %.80q", v)
		}
	case map[string]any:
		for key, value := range v {
			if err := check(key); err != nil {
				return err
			}
			if err := check(value); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
	case []any:
		for i, value := range v {
			if err := check(value); err != nil {
				return fmt.Errorf("%d: %w", i, err)
			}
		}
	}
	return nil
}

// Carries reports whether a property list can hold s exactly: UTF-8 without
// control characters, but for tab and line ends (XML 1.0, 2.2). The encoder below
// would put U+FFFD in place of others.
func Carries(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
			return false
		}
	}
	return true
}
