package identity

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of mappings.
const (
	maxTemplate = 500 // characters
	maxTable    = 5000
)

// localPart ends a name in braces of which only what is before its @ is meant.
const localPart = ":local"

func (c MappingChange) apply(m Mapping) Mapping {
	for _, field := range []struct{ to, field *string }{
		{c.Username, &m.Username}, {c.Email, &m.Email}, {c.FullName, &m.FullName}, {c.ManagedAppleAccount, &m.ManagedAppleAccount},
	} {
		if field.to != nil {
			*field.field = strings.TrimSpace(*field.to)
		}
	}
	if c.ManagedAppleAccounts != nil {
		m.ManagedAppleAccounts = make(map[string]string, len(*c.ManagedAppleAccounts))
		for login, account := range *c.ManagedAppleAccounts {
			m.ManagedAppleAccounts[normalLogin(login)] = strings.TrimSpace(account)
		}
	}
	return m
}

func (m Mapping) equal(other Mapping) bool {
	return m.Username == other.Username && m.Email == other.Email && m.FullName == other.FullName &&
		m.ManagedAppleAccount == other.ManagedAppleAccount && maps.Equal(m.ManagedAppleAccounts, other.ManagedAppleAccounts)
}

func (m Mapping) check() error {
	for _, t := range []struct{ field, template string }{
		{"mapping.username", m.Username}, {"mapping.email", m.Email}, {"mapping.full_name", m.FullName},
		{"mapping.managed_apple_account", m.ManagedAppleAccount},
	} {
		if err := checkText(t.field, t.template, 0, maxTemplate); err != nil {
			return err
		}
		if !isTemplate(t.template) {
			continue
		}
		if _, ok := expand(t.template, func(name string) string { return "x" }); !ok {
			return &FieldError{t.field, "must have the name of an attribute in each pair of braces, as in {username}@example.com"}
		}
	}
	if m.Username == "" && m.Email == "" {
		return &FieldError{"mapping.username", "is required, or else mapping.email: a user needs a name to log in with"}
	}
	if len(m.ManagedAppleAccounts) > maxTable {
		return &FieldError{"mapping.managed_apple_accounts", fmt.Sprintf("must have at most %d lines", maxTable)}
	}
	owners := make(map[string]string, len(m.ManagedAppleAccounts))
	for login, account := range m.ManagedAppleAccounts {
		field := "mapping.managed_apple_accounts." + login
		if login == "" || utf8.RuneCountInString(login) > maxLogin {
			return &FieldError{"mapping.managed_apple_accounts", "must name a user on each line"}
		}
		if !IsAddress(account) {
			return &FieldError{field, "must be an address such as ana@example.com"}
		}
		if other, taken := owners[normalLogin(account)]; taken {
			return &FieldError{field, "is the same account as that of " + other}
		}
		owners[normalLogin(account)] = login
	}
	return nil
}

// isTemplate says whether a mapping is more than the name of an attribute.
func isTemplate(text string) bool { return strings.ContainsAny(text, "{}@") }

// expand puts values in the place of names in braces. ok is false where braces don't match.
func expand(template string, value func(name string) string) (text string, ok bool) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(template, "{")
		if strings.Contains(before, "}") {
			return "", false
		}
		out.WriteString(before)
		if !found {
			return out.String(), true
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed || name == "" || strings.Contains(name, "{") {
			return "", false
		}
		out.WriteString(value(name))
		template = after
	}
}

// Mapped is what a mapping makes of a Person.
type Mapped struct {
	Username            string
	Email               string
	FullName            string
	ManagedAppleAccount string
	Warnings            []string // of what was left out, and why; sentences without a full stop
}

// read returns what m makes of a person: what is not as it must be is left out, with a
// warning.
func (m Mapping) read(said Person) Mapped {
	var out Mapped
	p := said.vouchedFor()
	mapped := map[string]string{}
	drop := func(field string, value *string, err error) {
		if err != nil {
			out.warn("%s is left out: %v", field, err)
			*value, mapped[field] = "", ""
		}
	}
	one := func(field, template string) string {
		if !isTemplate(template) {
			mapped[field] = strings.TrimSpace(p.First(template))
			if mapped[field] == "" && said.First(template) != "" {
				out.warn("%s is left out: %v", field, errUnverified)
			}
			return mapped[field]
		}
		missing := ""
		text, _ := expand(template, func(name string) string {
			name, local := strings.CutSuffix(name, localPart)
			value, ok := mapped[name]
			if !ok {
				value = strings.TrimSpace(p.First(name))
			}
			if local {
				value = said.localPart(value)
			}
			if value == "" {
				missing = name
			}
			return value
		})
		switch {
		case missing == "":
		case said.First(missing) == "":
			out.warn("%s is left out: %s has no value", field, missing)
		case said.Unverified:
			out.warn("%s is left out: %s: %v", field, missing, errUnverified)
		}
		if missing != "" {
			text = ""
		}
		mapped[field] = strings.TrimSpace(text)
		return mapped[field]
	}

	called := one("username", m.Username)
	if out.Username = called; called != "" {
		err := checkUsername(called)
		if said.Unverified && strings.Contains(called, "@") {
			err = errUnverified // whatever address it is: the person may have typed that, too
		}
		drop("username", &out.Username, err)
	}
	out.Email = one("email", m.Email)
	drop("email", &out.Email, checkAddress("email", out.Email))
	if out.Username == "" {
		out.Username = out.Email
		mapped["username"] = out.Email
	}
	out.FullName = one("full_name", m.FullName)
	drop("full_name", &out.FullName, checkText("full_name", out.FullName, 0, 255))

	account := one("managed_apple_account", m.ManagedAppleAccount)
	if said.Unverified && account != "" && normalLogin(account) == normalLogin(called) {
		drop("managed_apple_account", &account, errUnverified)
	}
	out.ManagedAppleAccount = account
	for _, login := range []string{out.Username, out.Email} {
		if account := m.ManagedAppleAccounts[normalLogin(login)]; login != "" && account != "" {
			out.ManagedAppleAccount = account
			break
		}
	}
	drop("managed_apple_account", &out.ManagedAppleAccount, checkAddress("managed_apple_account", out.ManagedAppleAccount))
	return out
}

// errUnverified is why something is left out that anybody can call themselves.
var errUnverified = errors.New("it is an address that the provider has not verified")

// vouchedFor is p without the address that its source does not vouch for, under whatever
// name it stands.
func (p Person) vouchedFor() Person {
	if !p.Unverified {
		return p
	}
	attributes := make(map[string][]string, len(p.Attributes))
	for name, values := range p.Attributes {
		attributes[name] = slices.DeleteFunc(slices.Clone(values), func(value string) bool {
			return normalLogin(value) == normalLogin(p.Email)
		})
	}
	p.Attributes = attributes
	return p
}

// localPart is what an address of p's has before its @: nothing if p may have typed it.
func (p Person) localPart(address string) string {
	before, _, found := strings.Cut(address, "@")
	if found && p.Unverified {
		return ""
	}
	return before
}

// verifiedEmail is p's e-mail address, if the source vouches for it.
func (p Person) verifiedEmail() string {
	if p.Unverified {
		return ""
	}
	return p.Email
}

func (m *Mapped) warn(format string, args ...any) {
	m.Warnings = append(m.Warnings, fmt.Sprintf(format, args...))
}
