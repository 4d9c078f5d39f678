package template

import (
	"encoding/asn1"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// alphabet is which ASN.1 string holds the values of an attribute type.
type alphabet int

const (
	directory alphabet = iota // PrintableString, or UTF8String where that is too narrow (RFC 5280, 4.1.2.4)
	printable                 // PrintableString
	ia5                       // IA5String
)

// attributeType is a type of attribute in a subject.
type attributeType struct {
	name    string // as we write it; empty: it is known by its OID only
	aliases []string
	oid     string
	most    int // characters (X.520 and RFC 5280, appendix A.1: the upper bounds)
	alphabet
}

// attributeTypes are those with names.
func attributeTypes() []attributeType {
	return []attributeType{
		{name: "C", aliases: []string{"countryName"}, oid: "2.5.4.6", most: 2, alphabet: printable},
		{name: "ST", aliases: []string{"S", "stateOrProvinceName"}, oid: "2.5.4.8", most: 128},
		{name: "L", aliases: []string{"localityName"}, oid: "2.5.4.7", most: 128},
		{name: "O", aliases: []string{"organizationName"}, oid: "2.5.4.10", most: 64},
		{name: "OU", aliases: []string{"organizationalUnitName"}, oid: "2.5.4.11", most: 64},
		{name: "CN", aliases: []string{"commonName"}, oid: "2.5.4.3", most: 64},
		{name: "emailAddress", aliases: []string{"E", "EMAIL"}, oid: "1.2.840.113549.1.9.1", most: 255, alphabet: ia5},
		{name: "serialNumber", oid: "2.5.4.5", most: 64, alphabet: printable},
		{name: "SN", aliases: []string{"surname"}, oid: "2.5.4.4", most: 40},
		{name: "GN", aliases: []string{"G", "givenName"}, oid: "2.5.4.42", most: 64},
		{name: "initials", oid: "2.5.4.43", most: 64},
		{name: "name", oid: "2.5.4.41", most: 128},
		{name: "pseudonym", oid: "2.5.4.65", most: 128},
		{name: "title", aliases: []string{"T"}, oid: "2.5.4.12", most: 64},
		{name: "UID", aliases: []string{"userId"}, oid: "0.9.2342.19200300.100.1.1", most: 256},
		{name: "DC", aliases: []string{"domainComponent"}, oid: "0.9.2342.19200300.100.1.25", most: 63, alphabet: ia5},
		{name: "street", aliases: []string{"streetAddress"}, oid: "2.5.4.9", most: 128},
		{name: "postalCode", oid: "2.5.4.17", most: 40},
		{name: "businessCategory", oid: "2.5.4.15", most: 128},
		{name: "organizationIdentifier", oid: "2.5.4.97", most: 256},
		{name: "dnQualifier", oid: "2.5.4.46", most: 64, alphabet: printable},
	}
}

// maxOtherAttribute is how many characters the value of any other type may have.
const maxOtherAttribute = 256

// typeOf finds an attribute type by one of its names, in any case, or by its OID.
func typeOf(name string) (attributeType, error) {
	for _, t := range attributeTypes() {
		if strings.EqualFold(t.name, name) {
			return t, nil
		}
		for _, alias := range t.aliases {
			if strings.EqualFold(alias, name) {
				return t, nil
			}
		}
	}
	dotted := name
	if len(name) > 4 && strings.EqualFold(name[:4], "OID.") { // RFC 2253
		dotted = name[4:]
	}
	if _, err := parseOID(dotted); err != nil {
		return attributeType{}, fmt.Errorf("has the unknown type %.64q: write its dotted OID", name)
	}
	for _, t := range attributeTypes() {
		if t.oid == dotted {
			return t, nil
		}
	}
	return attributeType{oid: dotted, most: maxOtherAttribute}, nil
}

// id is how we write the type.
func (t attributeType) id() string {
	if t.name != "" {
		return t.name
	}
	return t.oid
}

// check returns what is wrong with value, which has no variables left.
func (t attributeType) check(value string) error {
	switch {
	case value == "":
		return errors.New("is empty")
	case !isText(value):
		return errors.New("must be UTF-8 without control characters")
	case strings.TrimSpace(value) != value:
		return errors.New("begins or ends with a space")
	case t.name == "C" && !isCountry(value):
		return fmt.Errorf("must be two letters (ISO 3166), not %.64q", value)
	// Bytes here, where others count characters: macOS cuts a longer one without a word.
	case t.name == "CN" && len(value) > t.most:
		return fmt.Errorf("has %d bytes, at most %d", len(value), t.most)
	case utf8.RuneCountInString(value) > t.most:
		return fmt.Errorf("has %d characters, at most %d", utf8.RuneCountInString(value), t.most)
	case t.alphabet == printable && !isPrintable(value):
		return errors.New("may hold only ASCII letters, digits, spaces and ' ( ) + , - . / : = ?")
	case t.alphabet == ia5 && !isASCII(value):
		return errors.New("may hold only ASCII characters")
	}
	return nil
}

// encode returns value as it stands in a certificate.
func (t attributeType) encode(value string) asn1.RawValue {
	tag := asn1.TagUTF8String
	switch {
	case t.alphabet == ia5:
		tag = asn1.TagIA5String
	case isPrintable(value):
		tag = asn1.TagPrintableString
	}
	return asn1.RawValue{Tag: tag, Bytes: []byte(value)}
}

func isCountry(s string) bool {
	return len(s) == 2 && isLetter(s[0]) && isLetter(s[1])
}

func isLetter(c byte) bool { return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isPrintable says whether a PrintableString can hold s (X.680, 41.4).
func isPrintable(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isLetter(c) && !isDigit(c) && strings.IndexByte(" '()+,-./:=?", c) < 0 {
			return false
		}
	}
	return true
}

// isASCII says whether s is of ASCII characters that can be seen, and spaces.
func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

var errOID = errors.New(`is no dotted OID such as "1.3.6.1.5.5.7.3.2"`)

// parseOID reads a dotted OID, of which there is one spelling.
func parseOID(s string) (asn1.ObjectIdentifier, error) {
	arcs := strings.Split(s, ".")
	if len(arcs) < 2 || len(arcs) > 32 {
		return nil, errOID
	}
	oid := make(asn1.ObjectIdentifier, len(arcs))
	for i, arc := range arcs {
		n, err := strconv.ParseUint(arc, 10, 31)
		if err != nil || len(arc) > 1 && arc[0] == '0' {
			return nil, errOID
		}
		oid[i] = int(n)
	}
	if oid[0] > 2 || oid[0] < 2 && oid[1] > 39 || oid[1] > 1<<30 { // the two share a number in DER
		return nil, errOID
	}
	return oid, nil
}
