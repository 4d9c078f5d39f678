package ldap

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

// Attributes that no directory has: theirs have no underscores (RFC 4512, 1.4).
const (
	userName = "user_name"
	fullName = "full_name"
)

// entry is somebody in a directory.
type entry struct {
	dn       string
	person   identity.Person // without groups
	memberOf []string        // DNs
	off      string          // why the account is switched off; empty: it isn't
}

// subjects are what tells entries apart unless settings say otherwise: RFC 4530, and what
// Active Directory has.
var subjects = []string{"entryUUID", "objectGUID"}

// states are attributes by which accounts are switched off.
var states = []string{"userAccountControl", "nsAccountLock", "pwdAccountLockedTime"}

// attributesOf are what is read of an entry, beside those of the settings.
var attributesOf = []string{
	"uid", "cn", "displayName", "givenName", "sn", "mail", "sAMAccountName", "userPrincipalName", "memberOf",
}

// idAttributes are those that say who an entry is.
func (s *Source) idAttributes() []string {
	if s.SubjectAttribute != "" {
		return []string{s.SubjectAttribute}
	}
	return subjects
}

// scope is the settings' for the library.
func (s *Source) scope() int {
	if s.Scope == "one" {
		return ldap.ScopeSingleLevel
	}
	return ldap.ScopeWholeSubtree
}

// search returns the one entry with a login.
func (s *Source) search(ctx context.Context, c *conn, login string, t *trace) (entry, error) {
	by := s.UserFilter.fill(map[string]string{"login": login})
	found, err := c.find(ctx, s.BaseDN, s.scope(), by, 2, distinct(attributesOf, s.idAttributes(), states, s.Attributes)...)
	switch {
	case ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject):
		return entry{}, &failure{c.server, stepSearch, fmt.Errorf("there is no base_dn %s, or bind_dn may not see it: %w", clean(s.BaseDN), explain(err)), false}
	case err != nil:
		return entry{}, failed(c, stepSearch, err)
	case len(found) == 0:
		return entry{}, &refusal{step: stepSearch, reason: "nobody below base_dn has this login"}
	case len(found) > 1:
		return entry{}, &refusal{step: stepSearch, known: true, reason: fmt.Sprintf(
			"the login belongs to more than one entry, such as %s and %s", clean(found[0].DN), clean(found[1].DN))}
	}
	e, err := s.read(found[0])
	if err != nil {
		return entry{}, &failure{c.server, stepSearch, err, false}
	}
	if e.off == "" && s.DisabledFilter != "" {
		off, err := c.find(ctx, e.dn, ldap.ScopeBaseObject, string(s.DisabledFilter), 1)
		if err != nil {
			return entry{}, failed(c, stepSearch, err)
		}
		if len(off) > 0 {
			e.off = "disabled_filter finds it"
		}
	}
	t.ok(stepSearch, "%s, with %s", clean(e.dn), clean(strings.Join(slices.Sorted(maps.Keys(e.person.Attributes)), ", ")))
	return e, nil
}

// distinct returns attributes of lists, each once: servers may refuse one that is asked for
// twice.
func distinct(lists ...[]string) []string {
	var out []string
	for _, name := range slices.Concat(lists...) {
		if !slices.ContainsFunc(out, func(other string) bool { return strings.EqualFold(other, name) }) {
			out = append(out, name)
		}
	}
	return out
}

// errNoSubject means that an entry can't be told from others for ever.
var errNoSubject = errors.New("the entry has neither entryUUID nor objectGUID that bind_dn may read: name another attribute that never changes in subject_attribute")

// read takes from an entry what is known of a person.
func (s *Source) read(found *ldap.Entry) (entry, error) {
	e := entry{dn: found.DN, person: identity.Person{Attributes: map[string][]string{}}}
	if e.dn == "" {
		return entry{}, errors.New("the entry has no name") // as who nobody can bind
	}
	for _, a := range found.Attributes {
		name := strings.ToLower(a.Name)
		switch name {
		case "memberof":
			e.memberOf = a.Values
			continue
		case "objectguid":
			if len(a.ByteValues) == 1 {
				if id, ok := canonicalGUID(a.ByteValues[0]); ok {
					e.person.Attributes[name] = []string{id}
				}
			}
			continue
		}
		if isPassword(name) {
			continue // whatever the server sends without being asked
		}
		var texts []string
		for _, value := range a.Values {
			if utf8.ValidString(value) && !strings.ContainsFunc(value, unicode.IsControl) {
				texts = append(texts, value)
			}
		}
		if len(texts) > 0 {
			e.person.Attributes[name] = texts
		}
	}
	if e.person.Subject = s.subject(found, e.person); e.person.Subject == "" {
		if s.SubjectAttribute == "" {
			return entry{}, errNoSubject
		}
		return entry{}, fmt.Errorf("the entry has not exactly one %s that bind_dn may read", s.SubjectAttribute)
	}
	e.person.Email = e.person.First("mail")
	e.off = switchedOff(e.person)
	for _, name := range states {
		if !slices.ContainsFunc(s.Attributes, func(asked string) bool { return strings.EqualFold(asked, name) }) {
			delete(e.person.Attributes, strings.ToLower(name))
		}
	}
	for _, name := range []string{"uid", "samaccountname", "userprincipalname", "mail"} {
		if value := e.person.First(name); value != "" {
			e.person.Attributes[userName] = []string{value}
			break
		}
	}
	both := strings.TrimSpace(e.person.First("givenname") + " " + e.person.First("sn"))
	if e.person.First("givenname") == "" {
		both = ""
	}
	for _, value := range []string{e.person.First("displayname"), both, e.person.First("cn")} {
		if value != "" {
			e.person.Attributes[fullName] = []string{value}
			break
		}
	}
	return e, nil
}

// subject returns who an entry is for ever, empty if it doesn't say.
func (s *Source) subject(found *ldap.Entry, p identity.Person) string {
	for _, name := range s.idAttributes() {
		if texts := p.Attributes[strings.ToLower(name)]; len(texts) == 1 {
			return texts[0]
		}
		if raw := found.GetEqualFoldRawAttributeValues(name); len(raw) == 1 && len(raw[0]) > 0 && s.SubjectAttribute != "" {
			return hex.EncodeToString(raw[0]) // such as eDirectory's GUID
		}
	}
	return ""
}

// canonicalGUID is how Windows writes a GUID, whose first three parts are little-endian
// ([MS-DTYP], 2.3.4).
func canonicalGUID(b []byte) (string, bool) {
	if len(b) != 16 {
		return "", false
	}
	return fmt.Sprintf("%02x%02x%02x%02x-%02x%02x-%02x%02x-%x-%x",
		b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8:10], b[10:]), true
}

// switchedOff says why an account is off, empty if it isn't. One that is locked for a while
// is not off.
func switchedOff(p identity.Person) string {
	const accountDisable = 0x2 // [MS-ADTS], 2.2.16
	if bits, err := strconv.ParseInt(p.First("useraccountcontrol"), 10, 64); err == nil && bits&accountDisable != 0 {
		return "userAccountControl has ACCOUNTDISABLE"
	}
	if strings.EqualFold(p.First("nsaccountlock"), "true") {
		return "nsAccountLock is true"
	}
	// draft-behera-ldap-password-policy-10, 5.3.3: until an administrator unlocks it.
	if p.First("pwdaccountlockedtime") == "000001010000Z" {
		return "pwdAccountLockedTime is for ever"
	}
	return ""
}
