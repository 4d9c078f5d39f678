package mdmtest

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Dict is a property list dictionary.
type Dict = map[string]any

// Apple's layout of an XML property list, as plutil and every device write it.
const (
	plistHead = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
`
	plistTail      = "</plist>\n"
	plistDate      = "2006-01-02T15:04:05Z"
	plistDataWidth = 68 // base64 characters a line
	plistDepth     = 64
)

// MarshalPlist encodes v as an XML property list in Apple's layout, keys sorted.
// v is made of map[string]any, []any, []string, string, int, int64, uint64,
// float64, bool, []byte and time.Time.
func MarshalPlist(v any) ([]byte, error) {
	b, err := appendPlist([]byte(plistHead), v, 0)
	if err != nil {
		return nil, fmt.Errorf("plist: %w", err)
	}
	return append(b, plistTail...), nil
}

func appendPlist(b []byte, v any, depth int) ([]byte, error) {
	if depth > plistDepth {
		return nil, errors.New("nested too deeply")
	}
	tabs := strings.Repeat("\t", depth)
	b = append(b, tabs...)
	var err error
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 {
			return append(b, "<dict/>\n"...), nil
		}
		b = append(b, "<dict>\n"...)
		for _, key := range slices.Sorted(maps.Keys(v)) {
			b = append(b, tabs...)
			b = append(b, "\t<key>"...)
			if b, err = appendText(b, key); err != nil {
				return nil, err
			}
			b = append(b, "</key>\n"...)
			if b, err = appendPlist(b, v[key], depth+1); err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
		}
		b = append(b, tabs...)
		return append(b, "</dict>\n"...), nil
	case []any:
		return appendArray(b, v, tabs, depth)
	case []string:
		return appendArray(b, v, tabs, depth)
	case string:
		b = append(b, "<string>"...)
		if b, err = appendText(b, v); err != nil {
			return nil, err
		}
		return append(b, "</string>\n"...), nil
	case int:
		return fmt.Appendf(b, "<integer>%d</integer>\n", v), nil
	case int64:
		return fmt.Appendf(b, "<integer>%d</integer>\n", v), nil
	case uint64:
		return fmt.Appendf(b, "<integer>%d</integer>\n", v), nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, errors.New("a real must be a number")
		}
		return fmt.Appendf(b, "<real>%s</real>\n", strconv.FormatFloat(v, 'g', -1, 64)), nil
	case bool:
		return fmt.Appendf(b, "<%t/>\n", v), nil
	case time.Time:
		return fmt.Appendf(b, "<date>%s</date>\n", v.UTC().Format(plistDate)), nil
	case []byte:
		b = append(b, "<data>\n"...)
		for line := range slices.Chunk([]byte(base64.StdEncoding.EncodeToString(v)), plistDataWidth) {
			b = append(b, tabs...)
			b = append(b, line...)
			b = append(b, '\n')
		}
		b = append(b, tabs...)
		return append(b, "</data>\n"...), nil
	default:
		return nil, fmt.Errorf("%T has no property list form", v)
	}
}

func appendArray[T any](b []byte, v []T, tabs string, depth int) ([]byte, error) {
	if len(v) == 0 {
		return append(b, "<array/>\n"...), nil
	}
	b = append(b, "<array>\n"...)
	for i, item := range v {
		var err error
		if b, err = appendPlist(b, item, depth+1); err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
	}
	b = append(b, tabs...)
	return append(b, "</array>\n"...), nil
}

// appendText escapes what CoreFoundation's writer escapes, and nothing else.
func appendText(b []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		return nil, errors.New("a string must be UTF-8")
	}
	for _, r := range s {
		switch {
		case r == '&':
			b = append(b, "&amp;"...)
		case r == '<':
			b = append(b, "&lt;"...)
		case r == '>':
			b = append(b, "&gt;"...)
		case !xmlChar(r):
			return nil, fmt.Errorf("XML can't hold the character %U", r)
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return b, nil
}

// xmlChar reports whether XML 1.0 (2.2) allows r in a document.
func xmlChar(r rune) bool {
	return r == '\t' || r == '\n' || r == '\r' ||
		r >= 0x20 && r <= 0xD7FF || r >= 0xE000 && r <= 0xFFFD || r >= 0x10000
}

// UnmarshalPlist decodes an XML property list into map[string]any, []any,
// string, int64, uint64 (only above the range of int64), float64, bool, []byte
// and time.Time. It refuses what isn't well formed, unknown elements, keys that
// repeat in a dictionary, and text around the root element.
func UnmarshalPlist(data []byte) (any, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("plist: not UTF-8")
	}
	r := plistReader{rest: string(data)}
	v, err := r.document()
	if err != nil {
		return nil, fmt.Errorf("plist: byte %d: %w", len(data)-len(r.rest), err)
	}
	return v, nil
}

// plistReader reads the small part of XML that a property list uses.
type plistReader struct {
	rest string
}

// token is one tag, with the text that stands before it.
type token struct {
	text  string // before the tag, references resolved
	name  string
	close bool // </name>
	empty bool // <name/>
}

func (r *plistReader) document() (any, error) {
	t, err := r.expect("plist")
	if err != nil {
		return nil, err
	}
	if t.close || t.empty {
		return nil, errors.New("no root element")
	}
	if t, err = r.tag(); err != nil {
		return nil, err
	}
	v, err := r.value(t, 0)
	if err != nil {
		return nil, err
	}
	t, err = r.expect("plist")
	if err != nil {
		return nil, err
	}
	if !t.close {
		return nil, errors.New("more than one root element")
	}
	if strings.TrimSpace(r.rest) != "" {
		return nil, errors.New("text after </plist>")
	}
	return v, nil
}

// value reads the element that t opened.
func (r *plistReader) value(t token, depth int) (any, error) {
	if t.close {
		return nil, fmt.Errorf("</%s> where a value belongs", t.name)
	}
	if depth > plistDepth {
		return nil, errors.New("nested too deeply")
	}
	switch t.name {
	case "dict":
		return r.dict(t, depth)
	case "array":
		return r.array(t, depth)
	case "true", "false":
		if !t.empty {
			if text, err := r.text(t); err != nil || strings.TrimSpace(text) != "" {
				return nil, fmt.Errorf("<%s> with content", t.name)
			}
		}
		return t.name == "true", nil
	}
	text, err := r.text(t)
	if err != nil {
		return nil, err
	}
	switch t.name {
	case "string":
		return text, nil
	case "integer":
		text = strings.TrimSpace(text)
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return n, nil
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, errors.New("malformed integer")
		}
		return n, nil
	case "real":
		f, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil {
			return nil, errors.New("malformed real")
		}
		return f, nil
	case "date":
		at, err := time.Parse(plistDate, strings.TrimSpace(text))
		if err != nil {
			return nil, errors.New("malformed date")
		}
		return at, nil
	case "data":
		data, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
		if err != nil {
			return nil, errors.New("malformed data")
		}
		return data, nil
	}
	return nil, fmt.Errorf("unknown element <%s>", t.name)
}

func (r *plistReader) dict(t token, depth int) (any, error) {
	d := Dict{}
	if t.empty {
		return d, nil
	}
	for {
		t, err := r.tag()
		if err != nil {
			return nil, err
		}
		if t.close && t.name == "dict" {
			return d, nil
		}
		if t.name != "key" {
			return nil, fmt.Errorf("<%s> where a key belongs", t.name)
		}
		key, err := r.text(t)
		if err != nil {
			return nil, err
		}
		if _, dup := d[key]; dup {
			return nil, fmt.Errorf("key %q repeats", key)
		}
		if t, err = r.tag(); err != nil {
			return nil, err
		}
		if d[key], err = r.value(t, depth+1); err != nil {
			return nil, err
		}
	}
}

func (r *plistReader) array(t token, depth int) (any, error) {
	list := []any{}
	if t.empty {
		return list, nil
	}
	for {
		t, err := r.tag()
		if err != nil {
			return nil, err
		}
		if t.close && t.name == "array" {
			return list, nil
		}
		v, err := r.value(t, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
}

// text reads the text of the element that t opened, and its closing tag.
func (r *plistReader) text(t token) (string, error) {
	if t.close {
		return "", fmt.Errorf("</%s> was not opened", t.name)
	}
	if t.empty {
		return "", nil
	}
	end, err := r.next()
	if err != nil {
		return "", err
	}
	if !end.close || end.name != t.name {
		return "", fmt.Errorf("<%s> is not closed", t.name)
	}
	return end.text, nil
}

// tag reads the next tag, before which only white space may stand.
func (r *plistReader) tag() (token, error) {
	t, err := r.next()
	if err == nil && strings.TrimSpace(t.text) != "" {
		err = errors.New("text between elements")
	}
	return t, err
}

func (r *plistReader) expect(name string) (token, error) {
	t, err := r.tag()
	if err == nil && t.name != name {
		err = fmt.Errorf("<%s> instead of <%s>", t.name, name)
	}
	return t, err
}

func (r *plistReader) next() (token, error) {
	var text strings.Builder
	for {
		before, after, found := strings.Cut(r.rest, "<")
		if !found {
			return token{}, errors.New("unexpected end")
		}
		if err := resolve(&text, before); err != nil {
			return token{}, err
		}
		skip := ""
		switch {
		case strings.HasPrefix(after, "?"):
			skip = "?>"
		case strings.HasPrefix(after, "!--"):
			skip = "-->"
		case strings.HasPrefix(after, "!DOCTYPE"):
			skip = ">"
		}
		if skip != "" {
			markup, rest, found := strings.Cut(after, skip)
			if !found || strings.Contains(markup, "[") && skip == ">" {
				return token{}, errors.New("malformed markup, or a DTD subset")
			}
			r.rest = rest
			continue
		}
		if cdata, ok := strings.CutPrefix(after, "![CDATA["); ok {
			raw, rest, found := strings.Cut(cdata, "]]>")
			if !found {
				return token{}, errors.New("open CDATA section")
			}
			text.WriteString(raw)
			r.rest = rest
			continue
		}
		name, rest, found := strings.Cut(after, ">")
		if !found {
			return token{}, errors.New("open tag")
		}
		r.rest = rest
		t := token{text: text.String()}
		name, t.close = strings.CutPrefix(name, "/")
		name, t.empty = strings.CutSuffix(name, "/")
		if strings.HasPrefix(name, "plist ") && !t.close {
			name = "plist" // the only element with an attribute
		}
		t.name = strings.TrimRight(name, " \t\r\n")
		if t.name == "" || strings.ContainsAny(t.name, " \t\r\n\"'=<&") || t.close && t.empty {
			return token{}, errors.New("malformed tag")
		}
		return t, nil
	}
}

// resolve appends s to b with its references replaced: the five that XML
// predefines, and characters by number.
func resolve(b *strings.Builder, s string) error {
	for {
		before, after, found := strings.Cut(s, "&")
		b.WriteString(before)
		if !found {
			return nil
		}
		ref, rest, found := strings.Cut(after, ";")
		if !found {
			return errors.New("open reference")
		}
		s = rest
		switch ref {
		case "amp":
			b.WriteByte('&')
		case "lt":
			b.WriteByte('<')
		case "gt":
			b.WriteByte('>')
		case "quot":
			b.WriteByte('"')
		case "apos":
			b.WriteByte('\'')
		default:
			digits, ok := strings.CutPrefix(ref, "#")
			if !ok {
				return errors.New("undefined entity")
			}
			base := 10
			if hex, ok := strings.CutPrefix(digits, "x"); ok {
				digits, base = hex, 16
			}
			n, err := strconv.ParseUint(digits, base, 21)
			if err != nil || !xmlChar(rune(n)) {
				return errors.New("malformed character reference")
			}
			b.WriteRune(rune(n))
		}
	}
}
