package text

import (
	"strings"

	"github.com/nicksnyder/go-i18n/v2/i18n"
)

// pseudo is English that looks foreign and is longer, as other languages are: it shows
// which texts are not in the catalogue, and what overflows. Nobody is offered it.
var pseudo = locale{"en-XA", "Pseudo", "ltr"}

var accents = strings.NewReplacer(
	"a", "á", "e", "é", "i", "í", "o", "ó", "u", "ú", "c", "ç", "n", "ñ", "s", "š", "y", "ý",
	"A", "Á", "E", "É", "I", "Í", "O", "Ó", "U", "Ú", "C", "Ç", "N", "Ñ", "S", "Š", "Y", "Ý",
)

// distort returns the pseudo-locale of an edition.
func distort(plurals *i18n.Bundle, from *edition) *edition {
	e := newEdition(plurals, pseudo)
	for key, p := range from.phrases {
		e.phrases[key] = &phrase{text: distorted(p.text), lang: pseudo.code}
	}
	return e
}

// distorted leaves alone what is no word: placeholders and the addresses of links.
func distorted(text string) string {
	if text == "" {
		return ""
	}
	var out strings.Builder
	letters := 0
	for rest := text; rest != ""; {
		begin, end := len(rest), len(rest)
		if b, e, ok := placeholder(rest); ok {
			begin, end = b, e
		}
		for _, address := range [][2]string{{"](", ")"}, {"<", ">"}} {
			if b := strings.Index(rest, address[0]); b >= 0 && b < begin {
				begin, end = b, len(rest)
				if e := strings.Index(rest[b:], address[1]); e >= 0 {
					end = b + e + 1
				}
			}
		}
		out.WriteString(accents.Replace(rest[:begin]))
		out.WriteString(rest[begin:end])
		letters += begin
		rest = rest[end:]
	}
	// Translations of short texts grow most.
	more := letters * 2 / 5
	if letters < 20 {
		more = letters * 4 / 5
	}
	if more > 0 {
		out.WriteString(" " + strings.Repeat("ẋ", min(more, 3)))
		for n := more - 3; n > 0; n -= 5 {
			out.WriteString(" " + strings.Repeat("ẋ", min(n, 4)))
		}
	}
	return out.String()
}
