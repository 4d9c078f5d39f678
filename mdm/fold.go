package mdm

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// fold returns s as it is searched and sorted by: without regard to case and accents, in
// compatible letters (a ligature is two), and without control characters. So "Zoë's iPad"
// is found by "zoe’s ipad", with either apostrophe.
func fold(s string) string {
	plain := true
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf || c < ' ' || c == 0x7f {
			plain = false
			break
		}
	}
	if plain {
		return strings.ToLower(strings.TrimSpace(s))
	}
	var b strings.Builder
	for _, r := range norm.NFKD.String(strings.ToValidUTF8(s, "")) {
		switch {
		case unicode.Is(unicode.Mn, r): // an accent
		case unicode.IsControl(r) || unicode.IsSpace(r):
			b.WriteByte(' ')
		default:
			r = unicode.ToLower(r)
			if as, ok := alike[r]; ok {
				b.WriteString(as)
			} else {
				b.WriteRune(r)
			}
		}
	}
	return strings.TrimSpace(b.String())
}

// alike are letters that people who don't have them on their keyboard write otherwise, and
// that are no letter with an accent to Unicode. What Apple's devices make of typed
// apostrophes and dashes is here, too: "Zoë’s iPad" is how an iPad names itself.
var alike = map[rune]string{
	'ß': "ss", 'æ': "ae", 'œ': "oe", 'ø': "o", 'đ': "d", 'ð': "d", 'ħ': "h", 'ı': "i", 'ł': "l", 'þ': "th", 'ς': "σ",
	'‘': "'", '’': "'", '“': `"`, '”': `"`, '‐': "-", '‑': "-", '–': "-", '—': "-",
}
