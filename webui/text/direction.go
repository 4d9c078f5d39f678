package text

import (
	"strings"

	"golang.org/x/text/unicode/bidi"
)

// Characters that keep a text's direction apart from what stands around it (UAX #9).
const (
	firstStrongIsolate = "\u2068"
	popIsolate         = "\u2069"
)

// withoutDirection drops characters that change the direction of what follows them: in a
// value, a name say, they could turn around the rest of the sentence.
func withoutDirection(r rune) rune {
	if '\u202a' <= r && r <= '\u202e' || '\u2066' <= r && r <= '\u2069' {
		return -1
	}
	return r
}

// apart says whether a value must be kept apart from the text that it stands in, since
// it may be written in the other direction.
func (t *Texts) apart(value string) bool {
	if t.dir == "rtl" {
		return strings.ContainsFunc(value, func(r rune) bool { return r < '0' || '9' < r })
	}
	return strings.ContainsFunc(value, func(r rune) bool {
		if r < 0x590 { // no script before Hebrew is written from right to left
			return false
		}
		properties, _ := bidi.LookupRune(r)
		class := properties.Class()
		return class == bidi.R || class == bidi.AL
	})
}
