package identity

import (
	"slices"
	"strings"
	"unicode"
)

// ErrGuessable means a password that is among the first to be guessed: one that very many
// people use, a run of characters, or the person's own name (NIST SP 800-63B, 3.1.1.2).
var ErrGuessable = &FieldError{"password", "is among the first that somebody would guess: a few words that only you would put together are better"}

// common are words that passwords are made of, in lower case and without disguise. One of them
// with a few digits and signs around it is no password.
var common = strings.Fields(`
	abcdef access account admin admina adminadmin administrator angel apple asdfgh azerty
	baseball basketball batman bailey buster changeit changeme charlie cheese chocolate company computer
	daniel default demo dragon enterprise example flower football freedom friend gatehouse george guest hallo
	hannah harley hello hockey hunter iloveyou internet jennifer jessica jordan killer letmein login loveyou
	lovely maggie manager master matrix michael michelle monkey mustang myspace nicole ninja nothing office
	passw password passwort pass passphrase pepper pokemon princess private purple qazwsx qwert qwerty qwertz
	robert root samsung school secret security server shadow soccer sommer spring starwars student summer
	sunshine superman support system temp temppass test testing tester thomas thunder tigger trustno
	user username welcome welcometo whatever william winter willkommen autumn january february march april june
	july august september october november december monday tuesday wednesday thursday friday saturday sunday
	contrasena motdepasse senha parola bonjour soleil hola
`)

// rows are keys beside each other.
var rows = []string{
	"qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "yxcvbnm", "azertyuiop", "qsdfghjklm", "1234567890",
	"1qaz2wsx3edc4rfv5tgb6yhn7ujm", "qazwsxedcrfvtgbyhnujm", "1q2w3e4r5t6y7u8i9o0p",
}

// disguises are signs that stand for letters.
var disguises = strings.NewReplacer("0", "o", "1", "i", "3", "e", "4", "a", "5", "s", "7", "t", "@", "a", "$", "s", "!", "i", "€", "e")

// mostAround is how many digits and signs around a common word leave it common.
const mostAround = 6

// guessable says whether a password is among the first to be tried. own are names of the person:
// their addresses and usernames.
func guessable(password string, own ...string) bool {
	p := strings.ToLower(strings.TrimSpace(password))
	if run(p) {
		return true
	}
	words := common
	for _, name := range own {
		name = strings.ToLower(strings.TrimSpace(name))
		local, domain, _ := strings.Cut(name, "@")
		site, _, _ := strings.Cut(domain, ".")
		words = append(words[:len(words):len(words)], name, local, site)
	}
	for _, text := range []string{p, disguises.Replace(p)} {
		for _, plain := range []string{text, strings.TrimFunc(text, func(r rune) bool { return !unicode.IsLetter(r) })} {
			around := len([]rune(text)) - len([]rune(plain))
			if plain != "" && around <= mostAround && (slices.Contains(words, plain) || repeats(plain, words)) {
				return true
			}
		}
	}
	// A disguise turns the digits behind a word into letters: password1 is passwordi.
	plain := strings.TrimRightFunc(p, func(r rune) bool { return !unicode.IsLetter(r) })
	around := len([]rune(p)) - len([]rune(plain))
	return plain != "" && around <= mostAround && slices.Contains(words, disguises.Replace(plain))
}

// repeats says whether text is one of words more than once.
func repeats(text string, words []string) bool {
	for _, word := range words {
		if word != "" && len(text) > len(word) && len(text)%len(word) == 0 && strings.Repeat(word, len(text)/len(word)) == text {
			return true
		}
	}
	return false
}

// run says whether text is characters in a row: of the alphabet or the keyboard, there or back,
// or a few that repeat.
func run(text string) bool {
	letters := []rune(text)
	for period := 1; period <= 4 && period < len(letters); period++ {
		same := true
		for i := period; i < len(letters) && same; i++ {
			same = letters[i] == letters[i-period]
		}
		if same {
			return true
		}
	}
	for _, step := range []rune{1, -1} {
		same := len(letters) > 1
		for i := 1; i < len(letters) && same; i++ {
			same = letters[i]-letters[i-1] == step || letters[i-1] == '9' && letters[i] == '0'
		}
		if same {
			return true
		}
	}
	back := slices.Clone(letters)
	slices.Reverse(back)
	return slices.ContainsFunc(rows, func(row string) bool {
		return strings.Contains(row, text) || strings.Contains(row, string(back))
	})
}
