package identity

import "testing"

func TestGuessable(t *testing.T) {
	own := []string{"ana.lima@example.org", "ana.lima"}
	for _, password := range []string{
		"password", "Password1", "P@ssw0rd!", "p@$$w0rd", "passwort123", "Welcome1!", "letmein1", "iloveyou", "Summer2024!", "admin123", "administrator",
		"ADMINADMIN", "12345678", "87654321", "1234567890", "aaaaaaaa", "abababab", "abcdefgh", "hgfedcba", "qwertyui", "poiuytre", "1qaz2wsx", "asdfghjk", "abcabcabc",
		"passwordpassword", "ana.lima", "ana.lima2024", "ana.lima@example.org", "example1", "Gatehouse1", "trustno1", "11111111", "!!!!!!!!", "  password  ",
	} {
		if !guessable(password, own...) {
			t.Errorf("%q is not among the first to be guessed", password)
		}
	}
	for _, password := range []string{
		"correct-horse-battery", "another long password", "Tr0ub4dor&3", "kX9!mQ2$", "summer in Lisbon", "my dog ate 2 shoes", "password-8471-zebra", "пароль из трёх слов",
		"g7Jq-20Lr", "ana likes tea", "lisbon1755", "zebra crossing", "絵文字と言葉を混ぜる",
	} {
		if guessable(password, own...) {
			t.Errorf("%q is among the first to be guessed", password)
		}
	}
}
