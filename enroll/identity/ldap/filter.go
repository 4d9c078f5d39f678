package ldap

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

// maxFilter is in bytes.
const maxFilter = 4096

// filter is a search filter (RFC 4515) with placeholders in braces, such as
// "(uid={login})".
type filter string

var (
	placeholder = regexp.MustCompile(`\{[^{}()]*\}`)

	// unlisted finds a placeholder whose value can't become "any" by an asterisk: one that
	// is not compared for equality.
	unlisted = regexp.MustCompile(`(:|<|>|~)=[^()]*\{`)
)

// fill returns the filter with a value for each placeholder. A value stays one, whatever
// it holds (RFC 4515, 3).
func (f filter) fill(values map[string]string) string {
	return f.replace(func(name string) string { return ldap.EscapeFilter(values[name]) })
}

// any returns a filter for all that some values would find.
func (f filter) any() (string, error) {
	if unlisted.MatchString(string(f)) {
		return "", errors.New("has a placeholder that is not compared by =, so that it can't list everybody")
	}
	return f.replace(func(string) string { return "*" }), nil
}

func (f filter) replace(value func(name string) string) string {
	return placeholder.ReplaceAllStringFunc(string(f), func(p string) string { return value(strings.Trim(p, "{}")) })
}

// check says what is wrong with a filter: it needs one of the known placeholders, if there
// are any, and takes no other. Texts follow the name of the setting.
func (f filter) check(known ...string) error {
	if len(f) > maxFilter {
		return fmt.Errorf("must have at most %d bytes", maxFilter)
	}
	names := placeholder.FindAllString(string(f), -1)
	for i, name := range known {
		known[i] = "{" + name + "}"
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return fmt.Errorf("has %s, which is not filled in here", name)
		}
	}
	if len(known) > 0 && len(names) == 0 {
		return fmt.Errorf("must have %s in it", strings.Join(known, " or "))
	}
	if _, err := ldap.CompileFilter(f.replace(func(string) string { return "x" })); err != nil {
		var compile *ldap.Error
		if errors.As(err, &compile) {
			err = compile.Err
		}
		return fmt.Errorf("is no search filter: %s", strings.TrimPrefix(err.Error(), "ldap: "))
	}
	return nil
}
