package mdmtest

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Encoding is how CMS messages are put on the wire.
type Encoding int

const (
	// BER has indefinite lengths and octet strings in chunks. It is what Apple's
	// CMS encoder emits (PROTOCOL 7.4), and what a server must cope with.
	BER Encoding = iota
	// DER has definite lengths throughout.
	DER
)

// Identifier octets (X.690, 8.1.2).
const (
	tagInteger     = 0x02
	tagBitString   = 0x03
	tagOctets      = 0x04
	tagNull        = 0x05
	tagOID         = 0x06
	tagUTF8        = 0x0C
	tagPrintable   = 0x13
	tagIA5         = 0x16
	tagUTCTime     = 0x17
	tagGeneralTime = 0x18
	tagSequence    = 0x30
	tagSet         = 0x31
	tagConstructed = 0x20
	tagContext0    = 0xA0
)

const berDepth = 32

// der is one definite-length element around its parts.
func der(tag byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b := append(make([]byte, 0, n+6), tag)
	switch {
	case n < 0x80:
		b = append(b, byte(n))
	case n < 0x100:
		b = append(b, 0x81, byte(n))
	case n < 0x10000:
		b = append(b, 0x82, byte(n>>8), byte(n))
	case n < 0x1000000:
		b = append(b, 0x83, byte(n>>16), byte(n>>8), byte(n))
	default:
		b = append(b, 0x84, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// wrap is a constructed element around its parts.
func (e Encoding) wrap(tag byte, parts ...[]byte) []byte {
	if e == DER {
		return der(tag, parts...)
	}
	return slices.Concat([]byte{tag | tagConstructed, 0x80}, bytes.Join(parts, nil), []byte{0, 0})
}

// octets is an octet string with the given identifier; as BER it is constructed
// of chunks.
func (e Encoding) octets(tag byte, data []byte) []byte {
	if e == DER {
		return der(tag, data)
	}
	var chunks [][]byte
	for c := range slices.Chunk(data, berChunk) {
		chunks = append(chunks, der(tagOctets, c))
	}
	return e.wrap(tag, chunks...)
}

// berChunk is small enough that every SCEP request has several chunks.
const berChunk = 512

// oid encodes a dotted object identifier. It is called with constants, and with
// what profiles name; only the latter can fail, and then oid returns nil.
func oid(dotted string) []byte {
	var id asn1.ObjectIdentifier
	for part := range strings.SplitSeq(dotted, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil
		}
		id = append(id, n)
	}
	b, err := asn1.Marshal(id)
	if err != nil {
		return nil
	}
	return b
}

func integer(n *big.Int) []byte {
	b := n.Bytes()
	if len(b) == 0 || b[0]&0x80 != 0 {
		b = append([]byte{0}, b...)
	}
	return der(tagInteger, b)
}

// utcTime is a Time of RFC 5652, 11.3: UTCTime through 2049.
func utcTime(at time.Time) []byte {
	at = at.UTC()
	if at.Year() >= 2050 {
		return der(tagGeneralTime, []byte(at.Format("20060102150405Z")))
	}
	return der(tagUTCTime, []byte(at.Format("060102150405Z")))
}

// text is a DirectoryString as Apple chooses it: PrintableString where that is
// enough, else UTF8String.
func text(s string) []byte {
	for _, r := range s {
		printable := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(" '()+,-./:=?", r)
		if !printable {
			return der(tagUTF8, []byte(s))
		}
	}
	return der(tagPrintable, []byte(s))
}

// sortedSet is a DER SET OF: elements in the order of their encodings.
func sortedSet(tag byte, items ...[]byte) []byte {
	items = slices.Clone(items)
	slices.SortFunc(items, bytes.Compare)
	return der(tag, items...)
}

// element is one parsed BER element.
type element struct {
	tag      byte
	raw      []byte    // as it came, header included
	content  []byte    // of a primitive element
	children []element // of a constructed one
	definite bool
}

// parseBER reads exactly one element.
func parseBER(data []byte) (element, error) {
	el, rest, err := readBER(data, 0)
	if err == nil && len(rest) > 0 {
		err = errors.New("trailing bytes")
	}
	if err != nil {
		return element{}, fmt.Errorf("BER: %w", err)
	}
	return el, nil
}

func readBER(data []byte, depth int) (el element, rest []byte, err error) {
	switch {
	case depth > berDepth:
		return el, nil, errors.New("nested too deeply")
	case len(data) < 2:
		return el, nil, errors.New("unexpected end")
	case data[0]&0x1F == 0x1F:
		return el, nil, errors.New("high tag number")
	}
	el.tag = data[0]
	constructed := el.tag&tagConstructed != 0
	length, body := int(data[1]), data[2:]
	if length == 0x80 {
		if !constructed {
			return el, nil, errors.New("indefinite length on a primitive element")
		}
		for {
			if len(body) >= 2 && body[0] == 0 && body[1] == 0 {
				body = body[2:]
				el.raw = data[:len(data)-len(body)]
				return el, body, nil
			}
			var child element
			if child, body, err = readBER(body, depth+1); err != nil {
				return el, nil, err
			}
			el.children = append(el.children, child)
		}
	}
	el.definite = true
	if length > 0x80 {
		n := length & 0x7F
		if n > 4 || n > len(body) {
			return el, nil, errors.New("malformed length")
		}
		length = 0
		for _, b := range body[:n] {
			length = length<<8 | int(b)
		}
		body = body[n:]
	}
	if length < 0 || length > len(body) {
		return el, nil, errors.New("length beyond the end")
	}
	body, rest = body[:length], body[length:]
	el.raw = data[:len(data)-len(rest)]
	if !constructed {
		el.content = body
		return el, rest, nil
	}
	for len(body) > 0 {
		var child element
		if child, body, err = readBER(body, depth+1); err != nil {
			return el, nil, err
		}
		el.definite = el.definite && child.definite
		el.children = append(el.children, child)
	}
	return el, rest, nil
}

// is reports whether el has the tag, and at least n children if it is constructed.
func (el element) is(tag byte, n int) bool {
	return el.tag == tag && len(el.children) >= n
}

// octets is the value of an octet string, chunked or not; tag is the primitive
// form of its identifier.
func (el element) octets(tag byte) ([]byte, error) {
	switch el.tag {
	case tag:
		return el.content, nil
	case tag | tagConstructed:
		var b []byte
		for _, c := range el.children {
			part, err := c.octets(tagOctets)
			if err != nil {
				return nil, err
			}
			b = append(b, part...)
		}
		return b, nil
	}
	return nil, fmt.Errorf("tag %#x where an octet string belongs", el.tag)
}

// oid is the dotted form of an object identifier.
func (el element) oid() (string, error) {
	var id asn1.ObjectIdentifier
	if el.tag != tagOID {
		return "", fmt.Errorf("tag %#x where an object identifier belongs", el.tag)
	}
	if _, err := asn1.Unmarshal(el.raw, &id); err != nil {
		return "", errors.New("malformed object identifier")
	}
	return id.String(), nil
}

func (el element) integer() (*big.Int, error) {
	if el.tag != tagInteger || len(el.content) == 0 {
		return nil, fmt.Errorf("tag %#x where an integer belongs", el.tag)
	}
	if el.content[0]&0x80 != 0 {
		return nil, errors.New("negative integer")
	}
	return new(big.Int).SetBytes(el.content), nil
}
