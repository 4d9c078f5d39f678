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
)

// Template is a profile that is written out but for what differs from device to device. It
// makes many profiles of one in a fraction of the time that Expand and Encode take. It may be
// used by several goroutines at once.
type Template struct {
	identifier string
	parts      []part
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
	for _, part := range t.parts {
		if part.variable != "" {
			names = append(names, part.variable)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Render returns the profile of one device as an XML property list, unsigned. It takes and
// refuses what [Profile.Expand] does, and says the same as Encode does of what that returns.
func (t *Template) Render(value func(name string) (string, error), certificates map[string]map[string]any) ([]byte, error) {
	var out bytes.Buffer
	size := 256
	for _, part := range t.parts {
		size += len(part.written) + 64
	}
	out.Grow(size)
	for _, part := range t.parts {
		out.Write(part.written)
		err := part.fill(&out, value, certificates)
		if err != nil {
			return nil, fmt.Errorf("profile %s: %w", clip(t.identifier), err)
		}
	}
	return out.Bytes(), nil
}

// fill writes what belongs behind p.
func (p part) fill(out *bytes.Buffer, value func(string) (string, error), certificates map[string]map[string]any) error {
	switch {
	case p.variable != "":
		v, err := variableValue(p.variable, value)
		if err != nil {
			return err
		}
		return xml.EscapeText(out, []byte(v))
	case p.request:
		content, err := request(p.certificate, certificates)
		if err != nil {
			return err
		}
		raw, err := plistxml.Marshal(content)
		if err != nil {
			return err
		}
		_, raw, opened := bytes.Cut(raw, []byte(`<plist version="1.0">`))
		raw, closed := bytes.CutSuffix(bytes.TrimSpace(raw), []byte("</plist>"))
		if !opened || !closed {
			return errors.New("a property list without its element")
		}
		out.Write(bytes.TrimSpace(raw))
	}
	return nil
}
