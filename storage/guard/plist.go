package guard

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/groob/plist"
)

// PlistLimits bound a property list. A zero field means its default.
type PlistLimits struct {
	Bytes    int // of the whole document; 1 MiB
	Depth    int // of dicts and arrays in one another; 64
	Elements int // start tags, keys included; 200,000
}

const (
	defaultPlistBytes    = 1 << 20
	defaultPlistDepth    = 64
	defaultPlistElements = 200_000
)

// DecodePlist decodes one XML property list into v, which is a pointer as for
// [plist.Unmarshal], after CheckPlist has accepted it.
func DecodePlist(data []byte, v any, lim PlistLimits) (err error) {
	if err := CheckPlist(data, lim); err != nil {
		return err
	}
	defer refuse(ErrPlist, &err)
	if err := plist.Unmarshal(data, v); err != nil {
		// The library's error may quote the document.
		var mismatch plist.UnmarshalTypeError
		if errors.As(err, &mismatch) {
			return fmt.Errorf("%w: a value has another type than %s", ErrPlist, mismatch.Type)
		}
		return fmt.Errorf("%w: a value can't be read", ErrPlist)
	}
	return nil
}

// CheckPlist reads data as Apple's DTD PropertyList-1.0 in XML describes it, and
// says what is wrong with it. What it accepts is one document with one value,
// within lim, in UTF-8, that every XML decoder reads alike: no internal subset
// and no entity of its own, no key twice in one dict, and nothing after the end.
//
// It reads each byte about twice and keeps none but the keys of open dicts: a few
// microseconds for a check-in.
func CheckPlist(data []byte, lim PlistLimits) error {
	if err := within(len(data), lim.Bytes, defaultPlistBytes); err != nil {
		return err
	}
	if lim.Depth == 0 {
		lim.Depth = defaultPlistDepth
	}
	if lim.Elements == 0 {
		lim.Elements = defaultPlistElements
	}
	if bytes.HasPrefix(data, []byte("bplist")) {
		return ErrBinaryPlist
	}
	if err := checkCharacters(data); err != nil {
		return err
	}
	s := plistScanner{data: data, lim: lim, frames: make([]plistFrame, 0, 4), keys: make([][]byte, 0, 8)}
	return s.document()
}

// checkCharacters refuses what is not UTF-8, and characters outside of XML's
// Char production (XML 1.0, 2.2).
func checkCharacters(data []byte) error {
	if bytes.HasPrefix(data, []byte{0xFE, 0xFF}) || bytes.HasPrefix(data, []byte{0xFF, 0xFE}) {
		return fmt.Errorf("%w: it is UTF-16, and only UTF-8 is read", ErrPlist)
	}
	if !utf8.Valid(data) {
		return fmt.Errorf("%w: it is not valid UTF-8", ErrPlist)
	}
	for i, c := range data {
		if c < ' ' && c != '\t' && c != '\n' && c != '\r' {
			return fmt.Errorf("%w: a control character at byte %d", ErrPlist, i)
		}
		if c == 0xEF && data[i+1] == 0xBF && data[i+2] >= 0xBE { // valid UTF-8 has three bytes here
			return fmt.Errorf("%w: no character at byte %d", ErrPlist, i)
		}
	}
	return nil
}

// plistFrame is an open dict or array.
type plistFrame struct {
	dict    bool
	pending bool                // a key waits for its value
	first   int                 // index of the dict's first key in plistScanner.keys
	seen    map[string]struct{} // its keys, once they are too many to compare one by one
}

// manyKeys is where looking a key up in a map beats comparing it with each.
const manyKeys = 16

type plistScanner struct {
	data     []byte
	pos      int
	lim      PlistLimits
	elements int
	frames   []plistFrame
	keys     [][]byte // of all open dicts, the innermost last
	reading  bool     // the text of other elements than keys is wanted too
}

// document reads prolog, plist element and end.
func (s *plistScanner) document() error {
	if err := s.prolog(); err != nil {
		return err
	}
	if err := s.value(); err != nil {
		return err
	}
	if err := s.misc(); err != nil {
		return err
	}
	if !s.skip("</plist") || !s.closeTag() {
		return s.wrong("expected </plist>")
	}
	if err := s.misc(); err != nil {
		return err
	}
	if s.pos != len(s.data) {
		return s.wrong("something follows </plist>")
	}
	return nil
}

// prolog reads what comes before the value.
func (s *plistScanner) prolog() error {
	s.skip("\xEF\xBB\xBF")
	if s.skip("<?xml ") {
		if err := s.declaration(); err != nil {
			return err
		}
	}
	if err := s.misc(); err != nil {
		return err
	}
	if s.skip("<!DOCTYPE") {
		if err := s.doctype(); err != nil {
			return err
		}
		if err := s.misc(); err != nil {
			return err
		}
	}
	return s.open()
}

// value reads the one value of the document, without recursion.
func (s *plistScanner) value() error {
	for {
		if err := s.misc(); err != nil {
			return err
		}
		if s.pos == len(s.data) {
			return s.wrong("it ends too early")
		}
		if s.data[s.pos] != '<' {
			return s.wrong("text between elements")
		}
		if s.skip("</") {
			if err := s.leave(); err != nil {
				return err
			}
		} else {
			s.pos++
			if err := s.element(); err != nil {
				return err
			}
		}
		if len(s.frames) == 0 {
			return nil
		}
	}
}

// element reads a start tag, and for elements that hold text or nothing also
// what follows up to the end tag.
func (s *plistScanner) element() error {
	if s.elements++; s.elements > s.lim.Elements {
		return fmt.Errorf("%w: %w: more than %d elements", ErrPlist, ErrTooLarge, s.lim.Elements)
	}
	name := s.name()
	var in *plistFrame
	if n := len(s.frames); n > 0 {
		in = &s.frames[n-1]
	}
	if string(name) == "key" {
		if in == nil || !in.dict || in.pending {
			return s.wrong("a key where none belongs")
		}
	} else if in != nil && in.dict {
		if !in.pending {
			return s.wrong("a value without a key")
		}
		in.pending = false
	}
	empty, ok := s.endOfStartTag()
	if !ok {
		return s.wrong("malformed tag")
	}
	switch string(name) {
	case "dict", "array":
		if len(s.frames) == s.lim.Depth {
			return fmt.Errorf("%w: more than %d dicts and arrays in one another", ErrPlist, s.lim.Depth)
		}
		if !empty {
			s.frames = append(s.frames, plistFrame{dict: name[0] == 'd', first: len(s.keys)})
		}
	case "true", "false":
		if empty {
			break
		}
		if err := s.misc(); err != nil {
			return err
		}
		if !s.skip("</") || !bytes.Equal(s.name(), name) || !s.closeTag() {
			return s.wrong("a truth value holds something")
		}
	case "key":
		var key []byte
		if !empty {
			var err error
			if key, err = s.text(name); err != nil {
				return err
			}
		}
		in.pending = true
		return s.remember(in, key)
	case "string", "integer", "real", "date", "data":
		if !empty {
			if _, err := s.text(name); err != nil {
				return err
			}
		}
	default:
		return s.wrong("an element that property lists don't have")
	}
	return nil
}

// leave reads the rest of an end tag, and closes the innermost dict or array.
func (s *plistScanner) leave() error {
	n := len(s.frames)
	if n == 0 {
		return s.wrong("the plist element holds no value")
	}
	f := &s.frames[n-1]
	want := "array"
	if f.dict {
		want = "dict"
	}
	if string(s.name()) != want || !s.closeTag() {
		return s.wrong("an end tag that does not belong here")
	}
	if f.pending {
		return s.wrong("a key without a value")
	}
	s.keys = s.keys[:f.first]
	s.frames = s.frames[:n-1]
	return nil
}

// remember notes key as one of f's, or refuses it as a repetition.
func (s *plistScanner) remember(f *plistFrame, key []byte) error {
	own := s.keys[f.first:]
	if f.seen == nil && len(own) >= manyKeys {
		f.seen = make(map[string]struct{}, 2*manyKeys)
		for _, k := range own {
			f.seen[string(k)] = struct{}{}
		}
	}
	if f.seen != nil {
		if _, twice := f.seen[string(key)]; twice {
			return s.wrong("a dict has a key twice")
		}
		f.seen[string(key)] = struct{}{}
		return nil
	}
	for _, k := range own {
		if bytes.Equal(k, key) {
			return s.wrong("a dict has a key twice")
		}
	}
	s.keys = append(s.keys, key)
	return nil
}

// text reads character data up to and including the end tag of name, and returns
// it as a decoder would see it. Only a key's text matters to who checks, so the
// text of other elements is not unescaped then.
func (s *plistScanner) text(name []byte) ([]byte, error) {
	key := s.reading || string(name) == "key"
	var out []byte
	for first := true; ; first = false {
		n := bytes.IndexByte(s.data[s.pos:], '<')
		if n < 0 {
			return nil, s.wrong("it ends too early")
		}
		run := s.data[s.pos : s.pos+n]
		if bytes.Contains(run, []byte("]]>")) {
			return nil, s.wrong("the end of a CDATA section that never began")
		}
		plain := bytes.IndexByte(run, '&') < 0
		if !plain {
			if err := s.checkReferences(run); err != nil {
				return nil, err
			}
		}
		s.pos += n
		if s.skip("</") {
			if !bytes.Equal(s.name(), name) || !s.closeTag() {
				return nil, s.wrong("an end tag that does not belong here")
			}
			if key && first && plain && bytes.IndexByte(run, '\r') < 0 {
				return run, nil
			}
			if key {
				out = appendUnescaped(out, run)
			}
			return out, nil
		}
		if key {
			out = appendUnescaped(out, run)
		}
		switch {
		case s.skip("<![CDATA["):
			n := bytes.Index(s.data[s.pos:], []byte("]]>"))
			if n < 0 {
				return nil, s.wrong("an endless CDATA section")
			}
			if key {
				out = appendNewlines(out, s.data[s.pos:s.pos+n])
			}
			s.pos += n + len("]]>")
		case s.skip("<!--"):
			if err := s.comment(); err != nil {
				return nil, err
			}
		default:
			return nil, s.wrong("an element inside text")
		}
	}
}

// checkReferences refuses every reference in run but the five predefined
// entities and characters by number (XML 1.0, 4.1 and 4.6).
func (s *plistScanner) checkReferences(run []byte) error {
	for {
		amp := bytes.IndexByte(run, '&')
		if amp < 0 {
			return nil
		}
		run = run[amp+1:]
		end := bytes.IndexByte(run[:min(len(run), 12)], ';')
		if end < 0 {
			return s.wrong("an ampersand that begins no entity")
		}
		if _, ok := reference(run[:end]); !ok {
			return s.wrong("an entity that XML does not predefine")
		}
		run = run[end+1:]
	}
}

// reference returns the character that an entity or character reference means,
// given without its ampersand and semicolon.
func reference(ref []byte) (rune, bool) {
	switch string(ref) {
	case "amp":
		return '&', true
	case "lt":
		return '<', true
	case "gt":
		return '>', true
	case "quot":
		return '"', true
	case "apos":
		return '\'', true
	}
	digits, isNumber := bytes.CutPrefix(ref, []byte("#"))
	base := 10
	if hex, ok := bytes.CutPrefix(digits, []byte("x")); ok {
		digits, base = hex, 16
	}
	if !isNumber || len(digits) == 0 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(digits), base, 32)
	if err != nil || n > utf8.MaxRune {
		return 0, false
	}
	r := rune(n)
	if !utf8.ValidRune(r) || r == 0xFFFE || r == 0xFFFF || r < ' ' && r != '\t' && r != '\n' && r != '\r' {
		return 0, false
	}
	return r, true
}

// appendUnescaped appends run, whose references were checked, to out.
func appendUnescaped(out, run []byte) []byte {
	for {
		amp := bytes.IndexByte(run, '&')
		if amp < 0 {
			return appendNewlines(out, run)
		}
		out = appendNewlines(out, run[:amp])
		end := amp + bytes.IndexByte(run[amp:], ';')
		r, _ := reference(run[amp+1 : end])
		out = utf8.AppendRune(out, r)
		run = run[end+1:]
	}
}

// appendNewlines appends run with its line ends as one line feed each (XML 1.0,
// 2.11).
func appendNewlines(out, run []byte) []byte {
	for i, c := range run {
		switch {
		case c == '\r' && i+1 < len(run) && run[i+1] == '\n':
		case c == '\r':
			out = append(out, '\n')
		default:
			out = append(out, c)
		}
	}
	return out
}

// declaration reads the rest of an XML declaration.
func (s *plistScanner) declaration() error {
	n := bytes.Index(s.data[s.pos:min(len(s.data), s.pos+256)], []byte("?>"))
	if n < 0 {
		return s.wrong("an endless XML declaration")
	}
	decl := s.data[s.pos : s.pos+n]
	s.pos += n + len("?>")
	if at := bytes.Index(decl, []byte("encoding")); at >= 0 {
		enc := bytes.TrimLeft(decl[at+len("encoding"):], "= \t\r\n")
		enc = bytes.Trim(enc, "\"' \t\r\n")
		if i := bytes.IndexAny(enc, "\"'"); i >= 0 {
			enc = enc[:i]
		}
		if !bytes.EqualFold(enc, []byte("UTF-8")) {
			return fmt.Errorf("%w: its encoding is not UTF-8", ErrPlist)
		}
	}
	return nil
}

// doctype reads the rest of a document type declaration. An internal subset,
// which could declare entities, is refused; an external one is never fetched.
func (s *plistScanner) doctype() error {
	rest := s.data[s.pos:min(len(s.data), s.pos+512)]
	if !bytes.HasPrefix(bytes.TrimLeft(rest, " \t\r\n"), []byte("plist")) {
		return s.wrong("the document type is not plist")
	}
	var quote byte
	for i, c := range rest {
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '>':
			s.pos += i + 1
			return nil
		case c == '[' || c == '<':
			return s.wrong("a document type with declarations of its own")
		}
	}
	return s.wrong("an endless document type")
}

// open reads the start tag of the plist element.
func (s *plistScanner) open() error {
	if !s.skip("<plist") {
		return s.wrong("expected <plist>")
	}
	space := s.space()
	if space && s.skip("version") {
		s.space()
		if !s.skip("=") {
			return s.wrong("malformed tag")
		}
		s.space()
		if s.pos == len(s.data) {
			return s.wrong("it ends too early")
		}
		quote := s.data[s.pos]
		if quote != '"' && quote != '\'' {
			return s.wrong("malformed tag")
		}
		s.pos++
		for s.pos < len(s.data) && (s.data[s.pos] == '.' || '0' <= s.data[s.pos] && s.data[s.pos] <= '9') {
			s.pos++
		}
		if !s.skip(string(rune(quote))) {
			return s.wrong("malformed version")
		}
	}
	if !s.closeTag() {
		return s.wrong("malformed tag")
	}
	return nil
}

// misc skips white space and comments.
func (s *plistScanner) misc() error {
	for {
		s.space()
		if !s.skip("<!--") {
			return nil
		}
		if err := s.comment(); err != nil {
			return err
		}
	}
}

// comment reads the rest of a comment.
func (s *plistScanner) comment() error {
	n := bytes.Index(s.data[s.pos:], []byte("--"))
	if n < 0 {
		return s.wrong("an endless comment")
	}
	s.pos += n + len("--")
	if !s.skip(">") {
		return s.wrong("two hyphens inside a comment")
	}
	return nil
}

// name reads an element's name. All of Apple's are lower-case letters.
func (s *plistScanner) name() []byte {
	start := s.pos
	for s.pos < len(s.data) && 'a' <= s.data[s.pos] && s.data[s.pos] <= 'z' {
		s.pos++
	}
	return s.data[start:s.pos]
}

// endOfStartTag reads what may follow a name: no attributes.
func (s *plistScanner) endOfStartTag() (empty, ok bool) {
	s.space()
	if s.skip("/>") {
		return true, true
	}
	return false, s.skip(">")
}

func (s *plistScanner) closeTag() bool {
	s.space()
	return s.skip(">")
}

// space skips white space and says whether there was any.
func (s *plistScanner) space() bool {
	start := s.pos
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\n', '\t', '\r':
			s.pos++
		default:
			return s.pos > start
		}
	}
	return s.pos > start
}

// skip moves over prefix if that is what comes next.
func (s *plistScanner) skip(prefix string) bool {
	if len(s.data)-s.pos < len(prefix) || string(s.data[s.pos:s.pos+len(prefix)]) != prefix {
		return false
	}
	s.pos += len(prefix)
	return true
}

func (s *plistScanner) wrong(what string) error {
	return fmt.Errorf("%w: %s, near byte %d", ErrPlist, what, s.pos)
}
