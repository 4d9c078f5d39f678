package view

import (
	"bytes"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// RevealControls returns a page in which text has no characters that reorder what stands
// around them, or that nobody sees: they are written as what they are, ⟨U+202E⟩. Names come
// from devices and people, and one with a right-to-left override makes “gpj.exe” of
// “exe.jpg”, and of its row whatever it likes.
//
// Values of attributes and what somebody may edit in a textarea stay, so that a form that is
// sent as it is changes nothing.
func RevealControls(page []byte) []byte {
	if !bytes.ContainsFunc(page, deceives) {
		return page
	}
	out := make([]byte, 0, len(page)+64)
	for len(page) > 0 {
		if page[0] == '<' {
			end := tagEnd(page)
			if bytes.HasPrefix(page, []byte("<textarea")) {
				if i := bytes.Index(page, []byte("</textarea")); i > 0 {
					end = i
				}
			}
			out, page = append(out, page[:end]...), page[end:]
			continue
		}
		c, size := utf8.DecodeRune(page)
		if deceives(c) {
			out = fmt.Appendf(out, "⟨U+%04X⟩", c)
		} else {
			out = append(out, page[:size]...)
		}
		page = page[size:]
	}
	return out
}

// tagEnd returns where the tag ends that page begins with. In the value of an attribute
// there may be a >.
func tagEnd(page []byte) int {
	var quote byte
	for i, c := range page {
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '>':
			return i + 1
		}
	}
	return len(page)
}

// deceives reports whether a character changes how others are read, or hides: controls,
// and the embeddings, overrides and isolates of UAX #9. Marks of direction, and joiners,
// without which some names can't be written, do so only within their own name, which pages
// isolate.
func deceives(c rune) bool {
	switch {
	case c == '\n' || c == '\r' || c == '\t':
		return false
	case unicode.IsControl(c):
		return true
	}
	return c >= '\u202a' && c <= '\u202e' || c >= '\u2066' && c <= '\u2069' ||
		c == '\u200b' || c == '\u2028' || c == '\u2029' || c == '\u2060' || c == '\ufeff' || c == '\u00ad'
}
