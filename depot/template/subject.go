package template

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Attribute is a type, such as "CN" or a dotted OID, and a value. In a template
// variables stand in the value; in what was expanded it is text as it is.
type Attribute struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// RDN is a relative distinguished name: nearly always one attribute.
type RDN []Attribute

// Subject is a distinguished name, in the order in which it stands in a certificate.
type Subject []RDN

const (
	maxSubject    = 4096 // bytes of its text
	maxRDNs       = 32
	maxAttributes = 8 // of one RDN
)

// ParseSubject reads a subject as text, in one of two forms: "/C=US/O=Example/CN=$EMAIL",
// with or without a slash at the end, or "CN=$EMAIL,O=Example". The RDNs have the order in
// which they are written in either, which is how Jamf takes the second form too, and not
// how LDAP does (RFC 4514, 2.1). A backslash takes its meaning from a character that has
// one, and a plus sign joins the attributes of one RDN.
//
// Its errors are for whoever wrote the text.
func ParseSubject(text string) (Subject, error) {
	switch {
	case len(text) > maxSubject:
		return nil, fmt.Errorf("has %d bytes, at most %d", len(text), maxSubject)
	case strings.TrimSpace(text) == "":
		return nil, errors.New("is empty")
	}
	p := subjectParser{rest: strings.TrimSpace(text), separator: ','}
	if rest, ok := strings.CutPrefix(p.rest, "/"); ok {
		p.rest, p.separator = rest, '/'
	}
	return p.parse()
}

// ParseRDNs makes a subject of lists, as in Apple's SCEP payload: of RDNs, each a list of
// pairs of type and value.
func ParseRDNs(lists [][][]string) (Subject, error) {
	s := make(Subject, len(lists))
	for i, pairs := range lists {
		for _, pair := range pairs {
			if len(pair) != 2 {
				return nil, errors.New(`must be made of pairs such as ["CN", "$EMAIL"]`)
			}
			t, err := typeOf(pair[0])
			if err != nil {
				return nil, err
			}
			s[i] = append(s[i], Attribute{t.id(), pair[1]})
		}
	}
	return s, nil
}

// String returns the subject in the form "/C=US/O=Example/CN=$EMAIL", which ParseSubject
// reads.
func (s Subject) String() string {
	var b strings.Builder
	escape := strings.NewReplacer(`\`, `\\`, `/`, `\/`, `+`, `\+`)
	for _, rdn := range s {
		for i, a := range rdn {
			if i == 0 {
				b.WriteByte('/')
			} else {
				b.WriteByte('+')
			}
			b.WriteString(a.Type)
			b.WriteByte('=')
			_, _ = escape.WriteString(&b, a.Value) // to memory
		}
	}
	return b.String()
}

// subjectParser reads one form or the other, which differ by what separates RDNs and
// by what RFC 4514 has besides.
type subjectParser struct {
	rest      string
	separator byte // '/' or ','
}

func (p *subjectParser) parse() (Subject, error) {
	var s Subject
	for {
		var rdn RDN
		for {
			a, end, err := p.attribute()
			if err != nil {
				return nil, err
			}
			rdn = append(rdn, a)
			if end != '+' {
				break
			}
		}
		s = append(s, rdn)
		if p.rest == "" {
			return s, nil
		}
	}
}

// attribute reads up to the end of one attribute, and says by which character it ended: 0
// at the end of the text.
func (p *subjectParser) attribute() (a Attribute, end byte, err error) {
	name, rest, found := strings.Cut(p.rest, "=")
	if !found || strings.ContainsAny(name, `/,+\`) {
		return a, 0, fmt.Errorf("has %.64q where a type and a value are expected, such as CN=…: if it belongs to a value, write a backslash before each %c and + in it", p.rest, p.separator)
	}
	t, err := typeOf(strings.TrimSpace(name))
	if err != nil {
		return a, 0, err
	}
	p.rest = rest
	value, end, err := p.value()
	if err != nil {
		return a, 0, fmt.Errorf("%s %w", t.id(), err)
	}
	if end == ',' && p.rest == "" {
		return a, 0, errors.New("ends with a comma")
	}
	return Attribute{t.id(), value}, end, nil
}

func (p *subjectParser) value() (value string, end byte, err error) {
	var b strings.Builder
	lists := p.separator == ',' // RFC 4514
	if lists {
		p.rest = strings.TrimLeft(p.rest, " ")
		if strings.HasPrefix(p.rest, "#") || strings.HasPrefix(p.rest, `"`) {
			return "", 0, fmt.Errorf(`begins with %c: write \%[1]c for the character itself`, p.rest[0])
		}
	}
	kept := 0 // bytes of b that end with something else than a space without a backslash
	for p.rest != "" {
		c := p.rest[0]
		switch {
		case c == p.separator, c == '+':
			p.rest = p.rest[1:]
			return p.trim(b.String(), kept), c, nil
		case c == ';' && lists:
			return "", 0, errors.New(`has a semicolon: write \; for the character itself, and a comma between RDNs`)
		case c == '/' && lists && beginsAttribute(p.rest[1:]):
			return "", 0, errors.New(`has a slash before what looks like another RDN: begin with a slash, too, or write \/`)
		case c == '\\':
			n, err := p.escaped(&b)
			if err != nil {
				return "", 0, err
			}
			p.rest = p.rest[n:]
			kept = b.Len()
		default:
			b.WriteByte(c)
			p.rest = p.rest[1:]
			if c != ' ' {
				kept = b.Len()
			}
		}
	}
	return p.trim(b.String(), kept), 0, nil
}

// trim removes the spaces before a comma, which mean nothing (RFC 4514, 2.4).
func (p *subjectParser) trim(value string, kept int) string {
	if p.separator == ',' {
		return value[:kept]
	}
	return value
}

// escaped writes what the backslash at the beginning of the rest stands for, and returns
// how many bytes that took.
func (p *subjectParser) escaped(b *strings.Builder) (int, error) {
	if len(p.rest) < 2 {
		return 0, errors.New("ends with a backslash")
	}
	c := p.rest[1]
	if !isLetter(c) && !isDigit(c) && c < 0x80 {
		b.WriteByte(c)
		return 2, nil
	}
	if p.separator == ',' && len(p.rest) >= 3 {
		if n, err := strconv.ParseUint(p.rest[1:3], 16, 8); err == nil {
			b.WriteByte(byte(n))
			return 3, nil
		}
	}
	return 0, errors.New(`has a backslash before a character that needs none: write \\ for the backslash itself`)
}

// beginsAttribute says whether s begins with a known type and an equals sign.
func beginsAttribute(s string) bool {
	name, _, found := strings.Cut(s, "=")
	if !found {
		return false
	}
	_, err := typeOf(name)
	return err == nil
}

// count returns how many attributes of a type there are.
func (s Subject) count(name string) (n int) {
	for _, rdn := range s {
		for _, a := range rdn {
			if a.Type == name {
				n++
			}
		}
	}
	return n
}

// check looks for what no facts could make right.
func (s Subject) check(bad *FieldErrors) {
	const field = "subject"
	switch {
	case len(s) == 0:
		bad.add(field, "is required")
	case len(s) > maxRDNs:
		bad.add(field, "has %d parts, at most %d", len(s), maxRDNs)
	}
	for _, rdn := range s {
		if len(rdn) == 0 || len(rdn) > maxAttributes {
			bad.add(field, "has a part of %d attributes, not 1 to %d", len(rdn), maxAttributes)
		}
		for i, a := range rdn {
			t, err := typeOf(a.Type)
			if err != nil {
				bad.join(field, err)
				continue
			}
			if slices.ContainsFunc(rdn[:i], func(b Attribute) bool { return b.Type == a.Type }) {
				bad.add(field, "has %s twice in one part", t.id()) // X.501, 9.3
			}
			if err := t.checkPattern(a.Value); err != nil {
				bad.add(field, "%s %s", t.id(), err)
			}
		}
	}
}

// checkPattern is check for a value that may have variables.
func (t attributeType) checkPattern(value string) error {
	if len(value) > maxValue {
		return fmt.Errorf("has %d bytes, at most %d", len(value), maxValue)
	}
	all, err := pieces(value)
	if err != nil {
		return err
	}
	if text, ok := literal(value); ok {
		return t.check(text)
	}
	// Whatever the variables come to, this much is there.
	least := 0
	for _, p := range all {
		switch {
		case p.variable != "":
			least++
		case !isText(p.text):
			return errors.New("must be UTF-8 without control characters")
		default:
			least += len([]rune(p.text))
		}
	}
	if least > t.most {
		return fmt.Errorf("has %d characters beside its variables, at most %d", least, t.most)
	}
	return nil
}

// expand returns s with its variables replaced: as many RDNs of the same types.
func (s Subject) expand(f Facts) (Subject, error) {
	out := make(Subject, len(s))
	seen := map[string]int{}
	for i, rdn := range s {
		out[i] = make(RDN, len(rdn))
		for j, a := range rdn {
			t, err := typeOf(a.Type)
			if err == nil {
				a.Value, err = expand(a.Value, f, nil)
			}
			if err == nil {
				err = t.check(a.Value)
			}
			if err != nil {
				field := "subject." + a.Type
				if s.count(a.Type) > 1 {
					field += fmt.Sprintf("[%d]", seen[a.Type])
				}
				return nil, &FieldError{field, err.Error()}
			}
			out[i][j] = a
			seen[a.Type]++
		}
	}
	return out, nil
}

// der returns the Name (RFC 5280, 4.1.2.4) of s, which has no variables left.
func (s Subject) der() ([]byte, error) {
	name := make(pkix.RDNSequence, len(s))
	for i, rdn := range s {
		for _, a := range rdn {
			t, err := typeOf(a.Type)
			if err != nil {
				return nil, err
			}
			oid, err := parseOID(t.oid)
			if err != nil {
				return nil, err
			}
			name[i] = append(name[i], pkix.AttributeTypeAndValue{Type: oid, Value: t.encode(a.Value)})
		}
	}
	return asn1.Marshal(name)
}

// ForApple returns s with the types spelled as Apple's SCEP payload takes them: six by
// name, all others as dotted OIDs.
func (s Subject) ForApple() Subject {
	out := make(Subject, len(s))
	for i, rdn := range s {
		out[i] = slices.Clone(rdn)
		for j, a := range rdn {
			switch a.Type {
			case "C", "L", "ST", "O", "OU", "CN":
			default:
				if t, err := typeOf(a.Type); err == nil {
					out[i][j].Type = t.oid
				}
			}
		}
	}
	return out
}
