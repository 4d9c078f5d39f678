package ldap

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"
)

func TestAFilterIsRefusedUnlessItSearchesForTheLogin(t *testing.T) {
	for name, tt := range map[string]struct {
		filter filter
		want   string // in the error; empty: none
	}{
		"one attribute":               {"(uid={login})", ""},
		"several":                     {"(&(objectClass=person)(|(uid={login})(mail={login})))", ""},
		"part of a value":             {"(mail={login}@example.com)", ""},
		"no placeholder":              {"(uid=ana)", "must have {login}"},
		"empty":                       {"", "must have {login}"},
		"another placeholder":         {"(|(uid={login})(mail={username}))", "{username}"},
		"a bracket too few":           {"(&(uid={login})", "is no search filter"},
		"a bracket too many":          {"(uid={login}))", "is no search filter"},
		"no brackets":                 {"uid={login}", "is no search filter"},
		"text after it":               {"(uid={login})x", "is no search filter"},
		"the placeholder as a filter": {"(&{login}(uid=x))", "is no search filter"},
		"too long":                    {filter("(|" + strings.Repeat("(uid={login})", 400) + ")"), "at most 4096 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tt.filter.check("login")
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("check(%q) = %v, want %q", tt.filter, err, tt.want)
			}
		})
	}
}

func TestAFilterForEverybodyHasNoLogin(t *testing.T) {
	for name, tt := range map[string]struct {
		filter filter
		want   string // empty: an error
	}{
		"any value":         {"(&(objectClass=person)(uid={login}))", "(&(objectClass=person)(uid=*))"},
		"any that ends so":  {"(mail={login}@example.com)", "(mail=*@example.com)"},
		"by another rule":   {"(cn:caseExactMatch:={login})", ""},
		"at least":          {"(uid>={login})", ""},
		"like it":           {"(|(uid={login})(sn~={login}))", ""},
		"a rule for others": {"(&(uAC:1.2.840.113556.1.4.803:=2)(uid={login}))", "(&(uAC:1.2.840.113556.1.4.803:=2)(uid=*))"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tt.filter.any()
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("any(%q) = %q, %v, want %q", tt.filter, got, err, tt.want)
			}
		})
	}
}

// A login can't change what a filter asks: the filter has the same shape whatever it is,
// and the login's own bytes in it.
func FuzzALoginStaysAValue(f *testing.F) {
	for _, login := range []string{"ana", "*", "a)(uid=*", "*)(|(uid=*", `\2a`, "{login}", "a\x00b", "Ünïcode", "\xff\xfe", "(", ""} {
		f.Add(login)
	}
	const of = filter("(&(objectClass=person)(|(uid={login})(mail={login})))")
	f.Fuzz(func(t *testing.T, login string) {
		packet, err := ldap.CompileFilter(of.fill(map[string]string{"login": login}))
		if err != nil {
			if !utf8.ValidString(login) {
				return // never gets here: checkLogin
			}
			t.Fatalf("the filter with %q: %v", login, err)
		}
		either := packet.Children[1]
		if len(packet.Children) != 2 || len(either.Children) != 2 {
			t.Fatalf("the filter with %q has another shape", login)
		}
		for _, by := range either.Children {
			if by.Tag != ldap.FilterEqualityMatch {
				t.Fatalf("the filter with %q has a %s", login, ldap.FilterMap[uint64(by.Tag)])
			}
			if got := by.Children[1].Data.String(); got != login {
				t.Fatalf("the filter with %q asks for %q", login, got)
			}
		}
	})
}
