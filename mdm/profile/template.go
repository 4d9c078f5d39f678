package profile

import (
	"bytes"
	"crypto/rand"
	"encoding/xml"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm/internal/plistxml"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Template is a profile that is written out but for what differs from device to device. It
// makes many profiles of one in a fraction of the time that Expand and Encode take. It may be
// used by several goroutines at once.
type Template struct {
	identifier string
	parts      []part
	blanks     []distinct
	written    int // bytes in all parts, without what goes behind them
}

// distinct is one of the parts behind which the same goes, and how many there are.
type distinct struct {
	part
	times int
}

// part is a part of a Template: what is written as it is, and what goes behind it.
type part struct {
	written     []byte
	variable    string // its value; empty: none
	request     bool   // a request for a certificate
	certificate string // by the certificate template of this name
}

// Template prepares the profile for many devices. Fields of p may change afterwards.
func (p *Profile) Template() (*Template, error) {
	// Each hole is marked by a text that nobody can have put into the profile, and the
	// property list is cut there.
	mark := rand.Text()
	var holes []part
	hole := func(h part) string {
		holes = append(holes, h)
		return mark + strconv.Itoa(len(holes)-1) + ";"
	}
	top, _, err := mapTexts(p.Top, func(s string) (string, error) {
		if !strings.Contains(s, "$") {
			return s, nil
		}
		var b strings.Builder
		for _, piece := range pieces(s) {
			if piece.variable != "" {
				b.WriteString(hole(part{variable: piece.variable}))
			} else {
				b.WriteString(piece.text)
			}
		}
		return b.String(), nil
	})
	if err != nil {
		return nil, err
	}
	marked, err := read(top.(map[string]any)).withRequests(func(template string) (any, error) {
		return hole(part{certificate: template, request: true}), nil
	})
	if err != nil {
		return nil, err
	}
	raw, err := marked.Encode()
	if err != nil {
		return nil, err
	}
	t := &Template{identifier: p.Identifier}
	if err := t.cut(raw, []byte(mark), holes); err != nil {
		return nil, fmt.Errorf("profile %s: %w", clip(p.Identifier), err)
	}
	at := make(map[blank]int)
	for _, p := range t.parts {
		t.written += len(p.written)
		if p.blank() == (blank{}) {
			continue
		}
		i, known := at[p.blank()]
		if !known {
			i = len(t.blanks)
			at[p.blank()] = i
			t.blanks = append(t.blanks, distinct{part: p})
		}
		t.blanks[i].times++
	}
	return t, nil
}

// cut takes a property list apart at the marks of holes.
func (t *Template) cut(raw, mark []byte, holes []part) error {
	for {
		written, rest, found := bytes.Cut(raw, mark)
		if !found {
			t.parts = append(t.parts, part{written: raw})
			return nil
		}
		number, rest, _ := bytes.Cut(rest, []byte(";"))
		n, err := strconv.Atoi(string(number))
		if err != nil || n >= len(holes) {
			return errors.New("the mark of a variable is lost")
		}
		next := holes[n]
		if next.request { // a dictionary takes the place of the marked text
			var opened, closed bool
			written, opened = bytes.CutSuffix(written, []byte("<string>"))
			rest, closed = bytes.CutPrefix(rest, []byte("</string>"))
			if !opened || !closed {
				return errors.New("the mark of a certificate is lost")
			}
		}
		next.written = written
		t.parts = append(t.parts, next)
		raw = rest
	}
}

// Variables returns the names of the variables that Render asks for, sorted, each once.
func (t *Template) Variables() []string {
	var names []string
	for _, part := range t.blanks {
		if part.variable != "" {
			names = append(names, part.variable)
		}
	}
	slices.Sort(names)
	return names
}

// Size returns the size in bytes of what Render makes of values, which are by the names of
// variables, with room for what asks for certificates. It takes no longer for a variable that
// stands in many places.
func (t *Template) Size(values map[string]string) int {
	return t.size(func(name string) int { return escaped(values[name]) })
}

// Largest is Size for the largest values that CheckValue takes.
func (t *Template) Largest() int {
	return t.size(func(string) int { return maxValue * len("&#34;") })
}

// roomForRequest is for one request for a certificate, in bytes. They have about 2 KB.
const roomForRequest = 4 << 10

func (t *Template) size(of func(variable string) int) int {
	size := t.written
	for _, p := range t.blanks {
		if p.request {
			size += p.times * roomForRequest
		} else {
			size += p.times * of(p.variable)
		}
	}
	return size
}

// escaped returns how many bytes a text has in XML.
func escaped(s string) int {
	var out bytes.Buffer
	_ = xml.EscapeText(&out, []byte(s)) // a Buffer takes all
	return out.Len()
}

// Render returns the profile of one device as an XML property list, unsigned. It takes and
// refuses what [Profile.Expand] does, and says the same as Encode does of what that returns.
// The error wraps guard.ErrTooLarge for what would be larger than MaxSize.
func (t *Template) Render(value func(name string) (string, error), certificates map[string]map[string]any) ([]byte, error) {
	written, size, err := t.fill(value, certificates)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, size)
	for _, part := range t.parts {
		out = append(out, part.written...)
		out = append(out, written[part.blank()]...)
	}
	return out, nil
}

// blank is what is to be written behind a part: the same for all parts that name the same.
type blank struct {
	variable    string
	request     bool
	certificate string
}

func (p part) blank() blank { return blank{p.variable, p.request, p.certificate} }

// fill returns what is written into the blanks of the profile of one device, and how large
// the whole is.
func (t *Template) fill(value func(string) (string, error), certificates map[string]map[string]any) (written map[blank][]byte, size int, err error) {
	written = make(map[blank][]byte, len(t.blanks))
	size = t.written
	for _, p := range t.blanks {
		raw, err := p.fill(value, certificates)
		if err != nil {
			return nil, 0, fmt.Errorf("profile %s: %w", clip(t.identifier), err)
		}
		written[p.blank()] = raw
		size += p.times * len(raw)
	}
	if size > MaxSize {
		return nil, 0, fmt.Errorf("profile %s: %w with the values of this device: %d bytes, at most %d", clip(t.identifier), guard.ErrTooLarge, size, MaxSize)
	}
	return written, size, nil
}

// fill returns what belongs behind p.
func (p part) fill(value func(string) (string, error), certificates map[string]map[string]any) ([]byte, error) {
	if !p.request {
		v, err := variableValue(p.variable, value)
		if err != nil {
			return nil, err
		}
		var out bytes.Buffer
		err = xml.EscapeText(&out, []byte(v))
		return out.Bytes(), err
	}
	content, err := request(p.certificate, certificates)
	if err != nil {
		return nil, err
	}
	raw, err := plistxml.Marshal(content)
	if err != nil {
		return nil, err
	}
	_, raw, opened := bytes.Cut(raw, []byte(`<plist version="1.0">`))
	raw, closed := bytes.CutSuffix(bytes.TrimSpace(raw), []byte("</plist>"))
	if !opened || !closed {
		return nil, errors.New("a property list without its element")
	}
	return bytes.TrimSpace(raw), nil
}
