package profile

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// VariableError says why the text of one device can't stand in a profile.
type VariableError struct {
	Name   string // of the variable, without the dollar sign
	Reason string // "holds control characters for this device"
}

// Error returns name and reason in one line.
func (e *VariableError) Error() string { return "$" + e.Name + " " + e.Reason }

// maxValue is how many bytes of a value can make sense in a profile.
const maxValue = 4 << 10

// CheckValue says why value can't stand in a profile for the variable of that name, without
// the dollar sign, as a *VariableError.
func CheckValue(name, value string) error {
	switch {
	case !utf8.ValidString(value):
		return &VariableError{name, "is not UTF-8 for this device"}
	case strings.IndexFunc(value, func(r rune) bool { return unicode.IsControl(r) || r == 0xFFFE || r == 0xFFFF }) >= 0:
		return &VariableError{name, "holds control characters for this device"}
	case len(value) > maxValue:
		return &VariableError{name, fmt.Sprintf("has %d bytes for this device, at most %d", len(value), maxValue)}
	}
	return nil
}

// piece is a part of a text: text as it is, or a variable.
type piece struct {
	text     string
	variable string // its name; empty: text
	at       int    // where the variable begins in the whole, with its dollar signs
}

// pieces takes a text apart at its variables, $EMAIL or ${EMAIL}: a name is of capitals,
// digits and underscores, begins with a capital, and no small letter follows a bare one.
// Before a name two dollar signs stand for one, so that $$EMAIL is the text $EMAIL. Any
// other dollar sign is one, as in pa$$word. A text without a name is a single piece.
func pieces(s string) []piece {
	var all []piece
	var text strings.Builder
	for rest := s; ; {
		i := strings.IndexByte(rest, '$')
		if i < 0 {
			text.WriteString(rest)
			break
		}
		text.WriteString(rest[:i])
		at := len(s) - len(rest) + i
		name := strings.TrimLeft(rest[i:], "$")
		dollars := len(rest) - i - len(name)
		rest = name
		name, written := variableName(rest)
		if name == "" {
			text.WriteString(s[at : at+dollars])
			continue
		}
		text.WriteString(s[at : at+dollars/2])
		if dollars%2 == 0 {
			text.WriteString(rest[:written])
		} else {
			if text.Len() > 0 {
				all = append(all, piece{text: text.String()})
				text.Reset()
			}
			all = append(all, piece{variable: name, at: at})
		}
		rest = rest[written:]
	}
	if text.Len() > 0 || len(all) == 0 {
		all = append(all, piece{text: text.String()})
	}
	return all
}

// variableName returns the name that s begins with, bare or in braces, and how many bytes
// it takes there; no name if there is none.
func variableName(s string) (name string, written int) {
	inner, braces := strings.CutPrefix(s, "{")
	n := 0
	for n < len(inner) && (isCapital(inner[n]) || n > 0 && (inner[n] == '_' || '0' <= inner[n] && inner[n] <= '9')) {
		n++
	}
	switch next := inner[n:]; {
	case n == 0:
		return "", 0
	case braces && strings.HasPrefix(next, "}"):
		return inner[:n], n + len("{}")
	case braces, next != "" && 'a' <= next[0] && next[0] <= 'z':
		return "", 0
	}
	return inner[:n], n
}

func isCapital(c byte) bool { return 'A' <= c && c <= 'Z' }

// isFixed holds for keys whose text is a name that devices and other payloads go by: there
// are no variables in it.
func isFixed(key string) bool {
	switch key {
	case "PayloadType", "PayloadIdentifier", "PayloadUUID", "PayloadVersion":
		return true
	}
	return false
}

// mapTexts returns v with each of its texts, but for the keys and what they fix, replaced
// by what f says. It shares with v what stays the same; changed says whether all does.
func mapTexts(v any, f func(string) (string, error)) (out any, changed bool, err error) {
	switch v := v.(type) {
	case string:
		text, err := f(v)
		return text, text != v, err
	case []any:
		all := v
		for i, element := range v {
			element, other, err := mapTexts(element, f)
			if err != nil {
				return nil, false, err
			}
			if other {
				if !changed {
					all, changed = slices.Clone(v), true
				}
				all[i] = element
			}
		}
		return all, changed, nil
	case map[string]any:
		all := v
		for _, key := range slices.Sorted(maps.Keys(v)) { // sorted: the same mistake gets the same error
			if isFixed(key) {
				continue
			}
			value, other, err := mapTexts(v[key], f)
			if err != nil {
				return nil, false, err
			}
			if other {
				if !changed {
					all, changed = maps.Clone(v), true
				}
				all[key] = value
			}
		}
		return all, changed, nil
	}
	return v, false, nil
}

// Expand returns the profile for one device: each variable replaced by what value says of
// it, each place for a certificate by a request for one. certificates are the PayloadContent
// of com.apple.security.scep by the names that Certificates returns, as [SCEP.Content]
// makes them.
//
// An error of value is wrapped with the name of the variable; *VariableError says what is
// wrong with a value, and ErrNoCertificate that a certificate is missing. What has neither
// variables nor places is shared with p.
func (p *Profile) Expand(value func(name string) (string, error), certificates map[string]map[string]any) (*Profile, error) {
	top, _, err := mapTexts(p.Top, func(s string) (string, error) { return expandText(s, value) })
	if err != nil {
		return nil, fmt.Errorf("profile %s: %w", clip(p.Identifier), err)
	}
	expanded, err := read(top.(map[string]any)).withRequests(func(template string) (any, error) { return request(template, certificates) })
	if err != nil {
		return nil, fmt.Errorf("profile %s: %w", clip(p.Identifier), err)
	}
	return expanded, nil
}

// Literal returns a profile in which nothing is a variable, and that is p when it is expanded.
func (p *Profile) Literal() (*Profile, error) {
	top, _, err := mapTexts(p.Top, func(s string) (string, error) { return escape(s), nil })
	if err != nil {
		return nil, err
	}
	return read(top.(map[string]any)), nil
}

func expandText(s string, value func(string) (string, error)) (string, error) {
	if !strings.Contains(s, "$") {
		return s, nil
	}
	var b strings.Builder
	for _, piece := range pieces(s) {
		if piece.variable == "" {
			b.WriteString(piece.text)
			continue
		}
		v, err := variableValue(piece.variable, value)
		if err != nil {
			return "", err
		}
		b.WriteString(v)
	}
	return b.String(), nil
}

func variableValue(name string, value func(string) (string, error)) (string, error) {
	v, err := value(name)
	var own *VariableError
	switch {
	case errors.As(err, &own):
		return "", err
	case err != nil:
		return "", fmt.Errorf("$%s: %w", clip(name), err)
	}
	return v, CheckValue(clip(name), v)
}
