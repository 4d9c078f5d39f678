package mdm

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// AttributeCondition is a condition on something that a device answered to
// DeviceInformation. A device that has not told it meets no condition but Absent.
type AttributeCondition struct {
	Name  string      `json:"name"` // as Apple spells it; what is inside of a dictionary after a dot
	Op    AttributeOp `json:"op"`
	Value string      `json:"value,omitempty"`
}

// AttributeOp says how an attribute and a value compare. Numbers compare as numbers, times
// as times, other text without regard to case and accents, what looks like a version as
// that. Of an array it is enough if one element meets a condition, but for NotEqual.
type AttributeOp string

// The operators.
const (
	Equal          AttributeOp = "="
	NotEqual       AttributeOp = "!="
	Less           AttributeOp = "<"
	LessOrEqual    AttributeOp = "<="
	Greater        AttributeOp = ">"
	GreaterOrEqual AttributeOp = ">="
	Contains       AttributeOp = "~"
	Present        AttributeOp = "present" // whatever it is
	Absent         AttributeOp = "absent"
)

// attributeOps are those with a sign, in the order in which to look for them.
var attributeOps = []AttributeOp{NotEqual, LessOrEqual, GreaterOrEqual, Equal, Less, Greater, Contains}

const maxAttributeName = 128 // bytes

// ParseAttributeCondition reads a condition such as "BatteryLevel<0.2", "TimeZone~Berlin",
// "IsActivationLockEnabled=true", "BatteryLevel" (known) or "!BatteryLevel" (not known).
// The error is a *QueryError.
func ParseAttributeCondition(text string) (c AttributeCondition, err error) {
	c, err = ParseCondition("attribute", text, "the name of an attribute, such as BatteryLevel<0.2")
	if err != nil {
		return AttributeCondition{}, err
	}
	bad := func(format string, args ...any) (AttributeCondition, error) {
		return AttributeCondition{}, &QueryError{Field: "attribute", Reason: fmt.Sprintf(format, args...)}
	}
	kind, known := attributeKinds()[c.Name]
	if !known || c.Op == Present || c.Op == Absent {
		return c, nil
	}
	_, err = strconv.ParseFloat(c.Value, 64)
	switch {
	case kind == command.Boolean && c.Op != Equal && c.Op != NotEqual:
		return bad("%s is true or false, so the operator must be = or !=", c.Name)
	case kind == command.Boolean && c.Value != "true" && c.Value != "false":
		return bad("%s is true or false, and never %q", c.Name, c.Value)
	case (kind == command.Integer || kind == command.Real) && c.Op != Contains && err != nil:
		return bad("%s is a number, and %q is none", c.Name, c.Value)
	}
	return c, nil
}

// ParseCondition reads a condition on something that is not an attribute, but is written and
// compares like one. Errors are a *QueryError of field, which wants what text begins with.
func ParseCondition(field, text, want string) (c AttributeCondition, err error) {
	bad := func(format string, args ...any) (AttributeCondition, error) {
		return AttributeCondition{}, &QueryError{Field: field, Reason: fmt.Sprintf(format, args...)}
	}
	end := strings.IndexFunc(text, func(r rune) bool { return strings.ContainsRune("=!<>~ ", r) })
	switch {
	case end < 0:
		c = AttributeCondition{Name: text, Op: Present}
	case end == 0 && text[0] == '!':
		c = AttributeCondition{Name: text[1:], Op: Absent}
	default:
		rest := strings.TrimLeft(text[end:], " ")
		at := slices.IndexFunc(attributeOps, func(op AttributeOp) bool { return strings.HasPrefix(rest, string(op)) })
		if at < 0 {
			return bad("has no operator after %q: it must be one of =, !=, <, <=, >, >= and ~", text[:end])
		}
		op := attributeOps[at]
		c = AttributeCondition{Name: text[:end], Op: op, Value: strings.TrimSpace(rest[len(op):])}
		if c.Value == "" {
			return bad("has no value after %q", text[:len(text)-len(rest)+len(op)])
		}
		if strings.ContainsAny(c.Value[:1], "=<>") {
			return bad("has an operator that there is not, %q: it must be one of =, !=, <, <=, >, >= and ~", string(op)+c.Value[:1])
		}
	}
	if c.Name == "" || len(c.Name) > maxAttributeName || strings.ContainsFunc(c.Name, func(r rune) bool { return r <= ' ' || r >= '~' || strings.ContainsRune("=!<>", r) }) {
		return bad("must begin with %s", want)
	}
	return c, nil
}

// Holds says whether texts meet c, as the elements of an array would. None meet no condition.
func (c AttributeCondition) Holds(texts ...string) bool {
	if len(texts) == 0 {
		return false
	}
	t := newAttributeTest(c)
	for _, text := range texts {
		if t.holdsText(text) != (c.Op == NotEqual) {
			return c.Op != NotEqual
		}
	}
	return c.Op == NotEqual
}

// attributeKinds are the attributes that Apple documents, by name.
var attributeKinds = sync.OnceValue(func() map[string]command.Kind {
	kinds := make(map[string]command.Kind)
	var add func(prefix string, keys []command.Key)
	add = func(prefix string, keys []command.Key) {
		for _, k := range keys {
			kinds[prefix+k.Name] = k.Kind
			if k.Kind == command.Dictionary {
				add(prefix+k.Name+".", k.Keys)
			}
		}
	}
	t, _ := command.Lookup("DeviceInformation")
	for _, k := range t.Keys {
		if k.Name == "Queries" && len(k.Items) > 0 {
			for _, query := range k.Items[0].Keys {
				kinds[query.Name] = command.Any // the answer says what it is
			}
		}
	}
	for _, k := range t.Response {
		if k.Name == "QueryResponses" {
			add("", k.Keys)
		}
	}
	return kinds
})

// attributeTest is a condition that is ready to be applied.
type attributeTest struct {
	AttributeCondition
	path   []string
	folded string
	number float64 // not a number: it is none
	time   time.Time
	met    bool // some device has told it
}

func newAttributeTest(c AttributeCondition) *attributeTest {
	t := &attributeTest{AttributeCondition: c, path: strings.Split(c.Name, "."), folded: fold(c.Value), number: math.NaN()}
	if n, err := strconv.ParseFloat(c.Value, 64); err == nil {
		t.number = n
	}
	t.time, _ = parseMoment(c.Value)
	return t
}

// attributesMeet says whether a device's attributes meet all tests. They are not decoded:
// that would take ten times as long.
func attributesMeet(tx storage.Tx, id DeviceID, tests []*attributeTest) (bool, error) {
	b, err := tx.Get(attributeBucket, []byte(id))
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return false, fmt.Errorf("attributes of %s: %w", id, err)
	}
	all := true
	for _, t := range tests {
		v, told := b, err == nil
		for _, name := range t.path {
			if told {
				v, told = member(v, name)
			}
		}
		t.met = t.met || told
		if !t.holds(v, told) {
			all = false // but the others may meet a name for the first time
		}
	}
	return all, nil
}

func (t *attributeTest) holds(v []byte, told bool) bool {
	switch {
	case t.Op == Absent:
		return !told
	case !told:
		return false
	case t.Op == Present:
		return true
	case len(v) > 0 && v[0] == '[':
		for element := range elements(v) {
			if t.holdsOne(element) != (t.Op == NotEqual) {
				return t.Op != NotEqual
			}
		}
		return t.Op == NotEqual
	}
	return t.holdsOne(v)
}

func (t *attributeTest) holdsOne(v []byte) bool {
	if len(v) == 0 {
		return false
	}
	switch c := v[0]; {
	case c == 't' || c == 'f':
		switch t.Op {
		case Equal:
			return string(v) == t.folded
		case NotEqual:
			return string(v) != t.folded
		}
		return t.Op == Contains && strings.Contains(string(v), t.folded)
	case c == '-' || '0' <= c && c <= '9':
		if t.Op == Contains {
			return strings.Contains(string(v), t.folded)
		}
		n, err := strconv.ParseFloat(string(v), 64)
		switch {
		case err != nil:
			return false
		case math.IsNaN(t.number):
			return t.Op == NotEqual
		case n < t.number:
			return t.ordered(-1)
		case n > t.number:
			return t.ordered(1)
		}
		return t.ordered(0)
	case c == '"':
		var text string
		if json.Unmarshal(v, &text) != nil {
			return false
		}
		return t.holdsText(text)
	}
	return false // null, or a dictionary
}

func (t *attributeTest) holdsText(text string) bool {
	if t.Op == Contains {
		return strings.Contains(fold(text), t.folded)
	}
	if !t.time.IsZero() {
		if at, err := time.Parse(time.RFC3339, text); err == nil {
			return t.ordered(at.Compare(t.time))
		}
	}
	folded := fold(text)
	if t.Op != Equal && t.Op != NotEqual && isVersion(folded) && isVersion(t.folded) {
		return t.ordered(compareVersions(folded, t.folded))
	}
	return t.ordered(strings.Compare(folded, t.folded))
}

// ordered says whether t's operator holds for what strings.Compare or the like returned.
func (t *attributeTest) ordered(compared int) bool {
	switch t.Op {
	case Equal:
		return compared == 0
	case NotEqual:
		return compared != 0
	case Less:
		return compared < 0
	case LessOrEqual:
		return compared <= 0
	case Greater:
		return compared > 0
	case GreaterOrEqual:
		return compared >= 0
	}
	return false
}

// isVersion holds for what begins with a number: "4.42", "9.1b2", "24.1 (77)".
func isVersion(s string) bool { return s != "" && '0' <= s[0] && s[0] <= '9' }

// compareVersions compares what isVersion holds for, part by part: each by the number that it
// begins with, and then by the rest as text. A part that is missing is zero.
func compareVersions(a, b string) int {
	for a != "" || b != "" {
		var x, y string
		x, a, _ = strings.Cut(a, ".")
		y, b, _ = strings.Cut(b, ".")
		m, afterX := leadingNumber(x)
		n, afterY := leadingNumber(y)
		if c := cmp.Or(cmp.Compare(len(m), len(n)), strings.Compare(m, n), strings.Compare(afterX, afterY)); c != 0 {
			return c
		}
	}
	return 0
}

// leadingNumber cuts the digits that text begins with, but for zeros before them.
func leadingNumber(text string) (digits, rest string) {
	rest = strings.TrimLeft(text, "0123456789")
	return strings.TrimLeft(text[:len(text)-len(rest)], "0"), rest
}

// member returns the value of a name in a JSON object, which needs no decoding of the rest.
// It takes what encoding/json writes; of anything else it finds nothing, or something.
func member(object []byte, name string) (value []byte, ok bool) {
	at := skipSpace(object, 0)
	if at >= len(object) || object[at] != '{' {
		return nil, false
	}
	for at++; ; at++ {
		at = skipSpace(object, at)
		if at >= len(object) || object[at] != '"' {
			return nil, false
		}
		end := skipString(object, at)
		if end < 0 {
			return nil, false
		}
		key := object[at+1 : end-1]
		at = skipSpace(object, end)
		if at >= len(object) || object[at] != ':' {
			return nil, false
		}
		at = skipSpace(object, at+1)
		if end = skipValue(object, at); end < 0 {
			return nil, false
		}
		if string(key) == name {
			return bytes.TrimSpace(object[at:end]), true
		}
		at = skipSpace(object, end)
		if at >= len(object) || object[at] != ',' {
			return nil, false
		}
	}
}

// elements yields the elements of a JSON array.
func elements(array []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for at := 1; ; at++ {
			at = skipSpace(array, at)
			end := skipValue(array, at)
			if end <= at || !yield(bytes.TrimSpace(array[at:end])) {
				return
			}
			at = skipSpace(array, end)
			if at >= len(array) || array[at] != ',' {
				return
			}
		}
	}
}

func skipSpace(b []byte, at int) int {
	for at < len(b) && (b[at] == ' ' || b[at] == '\n' || b[at] == '\t' || b[at] == '\r') {
		at++
	}
	return at
}

// skipString returns where the string ends that begins at at, -1 for nowhere.
func skipString(b []byte, at int) int {
	for at++; at < len(b); at++ {
		quote := bytes.IndexByte(b[at:], '"')
		if quote < 0 {
			return -1
		}
		at += quote
		slashes := 0
		for b[at-1-slashes] == '\\' { // the quote that opens it is before them
			slashes++
		}
		if slashes%2 == 0 {
			return at + 1
		}
	}
	return -1
}

// skipValue returns where the value ends that begins at at, -1 for nowhere.
func skipValue(b []byte, at int) int {
	depth := 0
	for at < len(b) {
		switch b[at] {
		case '"':
			if at = skipString(b, at); at < 0 {
				return -1
			}
			if depth == 0 {
				return at
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return at
			}
			if depth--; depth == 0 {
				return at + 1
			}
		case ',':
			if depth == 0 {
				return at
			}
		}
		at++
	}
	if depth > 0 {
		return -1
	}
	return at
}
