package identity

import (
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// ErrGuessable means a password that is among the first to be guessed: words that very many
// people use, characters in a row, the person's own names, or two of these, with digits that
// are no better (NIST SP 800-63B, 3.1.1.2).
var ErrGuessable = &FieldError{"password", "is among the first that somebody would guess: a few words that only you would put together are better"}

// common are words that passwords are made of, in lower case and without disguise.
var common = strings.Fields(`
	access account admin admina administrator angel apple april august autumn
	baby bailey baseball basketball batman bonjour boy buster change changeit changeme charlie cheese chocolate company computer contrasena
	daddy daniel default demo december dragon enterprise example february flower football freedom friday friend fruhling fuck fuckyou
	gatehouse george girl guest hallo hannah harley hello herbst hockey hola hunter iloveyou internet january jennifer jessica jordan july june
	killer let letmein liverpool login love lovely loveyou maggie manager march master matrix me mein michael michelle monday monkey motdepasse
	mustang my myspace new nicole ninja nothing november october office parola pass passphrase passw passwd password passwort pepper pokemon princess
	private purple robert root samsung saturday school secret security senha september server shadow soccer sommer soleil spring starwars student
	summer sunday sunshine superman support system temp temppass test tester testing the thomas thunder thursday tigger trustno tuesday user username
	wednesday welcome welcometo whatever william willkommen winter you your
`)

// rows are keys beside each other: of keyboards by rows and columns, and of keypads.
var rows = []string{
	"qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "yxcvbnm", "azertyuiop", "qsdfghjklm", "wxcvbn",
	"qaz", "wsx", "edc", "rfv", "tgb", "yhn", "ujm", "1234567890", "147", "258", "369", "159", "357", "789", "456", "123",
}

// disguises are signs that stand for letters, and shifted are those on the keys of digits.
var (
	disguises = strings.NewReplacer("0", "o", "1", "i", "3", "e", "4", "a", "5", "s", "7", "t", "@", "a", "$", "s", "!", "i", "€", "e")
	shifted   = strings.NewReplacer("!", "1", "@", "2", "#", "3", "$", "4", "%", "5", "^", "6", "&", "7", "*", "8", "(", "9", ")", "0")
)

const (
	mostDigits = 6 // that add nothing to a word, whichever they are
	mostPieces = 2 // words or rows, however often each, that are no password
	leastRow   = 3 // keys or letters that are a row

	// mostGuessed is how long passwords are that are looked at in pieces: nobody tries longer
	// ones first, and the work grows fast.
	mostGuessed = 40
)

// guessable says whether a password is among the first to be tried. own are names of the person:
// their addresses, usernames and what they are called.
func guessable(password string, own ...string) bool {
	p := plainLetters(password)
	letters := []rune(p)
	if len(letters) > mostGuessed {
		return run(letters)
	}
	words := withNames(own)
	if loose(only(p, unicode.IsLetter), words) && (idle(only(p, unicode.IsDigit)) || idle(only(shifted.Replace(p), unicode.IsDigit))) {
		return true
	}
	// Signs and digits in a word may stand for letters, unless they are before or behind it.
	for before := 0; before < len(letters) && (before == 0 || !unicode.IsLetter(letters[before-1])); before++ {
		for end := len(letters); end > before && (end == len(letters) || !unicode.IsLetter(letters[end])); end-- {
			core := only(disguises.Replace(string(letters[before:end])), func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) })
			around := string(letters[:before]) + string(letters[end:])
			if core != "" && idle(only(around, unicode.IsDigit)) && loose(core, words) {
				return true
			}
		}
	}
	return false
}

// plainLetters is text in lower case, without accents.
func plainLetters(text string) string {
	return only(norm.NFD.String(strings.ToLower(strings.TrimSpace(text))), func(r rune) bool { return !unicode.Is(unicode.Mn, r) })
}

// only returns the characters of text that keep wants.
func only(text string, keep func(rune) bool) string {
	return strings.Map(func(r rune) rune {
		if keep(r) {
			return r
		}
		return -1
	}, text)
}

// withNames returns the common words, and what somebody is called: addresses and names as a
// whole, and in parts.
func withNames(own []string) map[string]bool {
	words := make(map[string]bool, len(common)+4*len(own))
	for _, word := range common {
		words[word] = true
	}
	for _, name := range own {
		name = plainLetters(name)
		local, domain, _ := strings.Cut(name, "@")
		for _, part := range append(strings.FieldsFunc(name, func(r rune) bool { return !unicode.IsLetter(r) }), name, local, domain) {
			if part = only(part, unicode.IsLetter); len(part) >= leastRow {
				words[part] = true
			}
		}
	}
	return words
}

// loose says whether text is made of no more than mostPieces of words, there or back, and rows.
func loose(text string, words map[string]bool) bool {
	letters := []rune(text)
	if len(letters) < leastRow {
		return run(letters)
	}
	return inPieces(letters, nil, func(piece []rune) bool {
		return len(piece) >= leastRow && run(piece) || words[string(piece)] || words[reversed(piece)]
	})
}

// inPieces says whether letters are pieces that fit, of which no more than mostPieces differ.
func inPieces(letters []rune, used []string, fits func([]rune) bool) bool {
	if len(letters) == 0 {
		return true
	}
	for n := len(letters); n > 0; n-- {
		piece := string(letters[:n])
		with := used
		if !slices.Contains(used, piece) {
			if len(used) == mostPieces || !fits(letters[:n]) {
				continue
			}
			with = append(slices.Clone(used), piece)
		}
		if inPieces(letters[n:], with, fits) {
			return true
		}
	}
	return false
}

// idle says whether digits add nothing: they are few, or rows, with no more than two beside.
func idle(digits string) bool {
	rest := []rune(digits)
	if len(rest) <= mostDigits || run(rest) {
		return true
	}
	beside := 0
	for len(rest) > 0 {
		n := len(rest)
		for n >= leastRow && !run(rest[:n]) {
			n--
		}
		if n < leastRow {
			n, beside = 1, beside+1
		}
		rest = rest[n:]
	}
	return beside <= 2
}

// run says whether text is characters in a row: of the alphabet or the keyboard, there or back,
// each once or twice, or a few that repeat.
func run(text []rune) bool {
	for period := 1; period <= 4 && period < len(text); period++ {
		if steps(text, func(i int) bool { return i < period || text[i] == text[i-period] }) {
			return true
		}
	}
	if len(text)%2 == 0 && steps(text, func(i int) bool { return i%2 == 0 || text[i] == text[i-1] }) {
		var half []rune
		for i := 0; i < len(text); i += 2 {
			half = append(half, text[i])
		}
		text = half
	}
	for _, step := range []rune{1, -1} {
		if steps(text, func(i int) bool { return i == 0 || text[i]-text[i-1] == step || text[i-1] == '9' && text[i] == '0' }) {
			return true
		}
	}
	return slices.ContainsFunc(rows, func(row string) bool {
		return strings.Contains(row, string(text)) || strings.Contains(row, reversed(text))
	})
}

// steps says whether ok holds at each character.
func steps(text []rune, ok func(i int) bool) bool {
	for i := range text {
		if !ok(i) {
			return false
		}
	}
	return true
}

func reversed(text []rune) string {
	back := slices.Clone(text)
	slices.Reverse(back)
	return string(back)
}
