package profile

import (
	"errors"
	"testing"
)

func FuzzEscape(f *testing.F) {
	for _, s := range []string{"$EMAIL", "$$$EMAIL$", "pa$$word", "${A}$${B}$", "$a${"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := expandText(escape(s), func(string) (string, error) { return "", errors.New("it holds a variable") })
		if err != nil || got != s {
			t.Errorf("%q is escaped as %q, which becomes %q (%v)", s, escape(s), got, err)
		}
		if back := unescape(escape(s)); back != s {
			t.Errorf("unescape(escape(%q)) = %q", s, back)
		}
	})
}
