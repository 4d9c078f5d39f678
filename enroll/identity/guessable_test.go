package identity

import (
	"strings"
	"testing"
)

func TestGuessable(t *testing.T) {
	own := []string{"ana.lima@example.org", "alima", "Ana Lima Söder"}
	for _, password := range append(strings.Fields(`
		password Password1 P@ssw0rd! p@$$w0rd passwort123 Welcome1! letmein1 iloveyou Summer2024! admin123 @dmin1234 administrator
		ADMINADMIN 12345678 87654321 1234567890 aaaaaaaa abababab abcdefgh hgfedcba qwertyui poiuytre 1qaz2wsx asdfghjk abcabcabc
		passwordpassword ana.lima ana.lima2024 ana.lima@example.org example1 Gatehouse1 trustno1 11111111 !!!!!!!!
		abcd1234 abc12345 abc123456 aa123456 a1b2c3d4 123456789a a123456789 12345678910 1234567899 123456789123 1234512345 11223344 112233445566
		147258369 789456123 aaaaaaa1 qwer1234 1234qwer asdf1234 qwertyuiop1 asdfghjkl1 zxcvbnm1 zxcvbnm123 1qazxsw2 zaq12wsx !QAZ2wsx 1qaz@WSX
		1qaz2wsx! q1w2e3r4 1q2w3e4r! password123456789 Password12345678 1P@ssw0rd Password1Password1 mypassword change-me Let-me-in1
		drowssap1 liverpool1 fuckyou1 Herbst2024! Contraseña123 AnaLima2024 analima1 lima2024 Lima2024!! ana12345 Example.org Soder2024 alima123
	`), "  password  ", "password password", "Ana Lima 1") {
		if !guessable(password, own...) {
			t.Errorf("%q is not among the first to be guessed", password)
		}
	}
	for _, password := range append(strings.Fields(`
		correct-horse-battery Tr0ub4dor&3 kX9!mQ2$ password-8471-zebra g7Jq-20Lr lisbon1755 83746152 x7#Lm2pQ tangerine-vase Zq3kd9Wm
		0157382946 rhubarb99custard 9f8a7c6e5b4d vfr-kettle-12 mountain.goat.7 hunter-gatherer-moss
	`), "another long password", "summer in Lisbon", "my dog ate 2 shoes", "пароль из трёх слов", "ana likes tea", "zebra crossing", "絵文字と言葉を混ぜる",
		"a good password", "test my new kettle") {
		if guessable(password, own...) {
			t.Errorf("%q is among the first to be guessed", password)
		}
	}
	if long := strings.Repeat("password", 127) + "x"; guessable(long) {
		t.Error("a very long one is among the first to be guessed")
	}
}

// What somebody sends to keep the server busy costs little beside the hash of a password.
func BenchmarkGuessable(b *testing.B) {
	for name, password := range map[string]string{
		"words": strings.Repeat("password", 4) + "zzz1", "digits": strings.Repeat("1", 19) + "z" + strings.Repeat("2", 20), "letters": strings.Repeat("aab", 13) + "c",
		"signs": strings.Repeat("!", 19) + "z" + strings.Repeat("!", 20), "long": strings.Repeat("a1", 512), "usual": "correct-horse-battery",
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				guessable(password, "ana.lima@example.org", "Ana Lima")
			}
		})
	}
}
