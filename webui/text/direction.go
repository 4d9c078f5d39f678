package text

import (
	"strings"

	"golang.org/x/text/unicode/bidi"
)

// apartness is how a value is kept apart from the text that it stands in, since it may be
// written in the other direction (UAX #9).
type apartness struct{ before, after string }

// How values are kept apart, in HTML and elsewhere.
var (
	byFirstHTML, byFirst       = apartness{"<bdi>", "</bdi>"}, apartness{"\u2068", "\u2069"}           // as its first letter says
	rightToLeftHTML, rightLeft = apartness{`<bdi dir="rtl">`, "</bdi>"}, apartness{"\u2067", "\u2069"} // whatever it begins with
)

// withoutDirection drops characters that change the direction of what follows them: in a
// value, a name say, they could turn around the rest of the sentence.
func withoutDirection(r rune) rune {
	if '\u202a' <= r && r <= '\u202e' || '\u2066' <= r && r <= '\u2069' {
		return -1
	}
	return r
}

// apart returns how a value is kept apart in HTML, and in plain text.
func (t *Texts) apart(value string) (html, plain apartness) {
	fromRight := strings.ContainsFunc(value, isFromRight)
	switch {
	case t.dir == "rtl" && fromRight:
		// What is written in the language of the page may begin with a foreign word.
		return rightToLeftHTML, rightLeft
	case fromRight, t.dir == "rtl" && strings.ContainsFunc(value, func(r rune) bool { return r < '0' || '9' < r }):
		return byFirstHTML, byFirst
	}
	return apartness{}, apartness{}
}

// isFromRight says whether r is a letter of a script that is written from right to left.
func isFromRight(r rune) bool {
	if r < 0x590 { // there is none before Hebrew
		return false
	}
	properties, _ := bidi.LookupRune(r)
	class := properties.Class()
	return class == bidi.R || class == bidi.AL
}
