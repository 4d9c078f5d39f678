// Package ldaptest gives tests a real directory: OpenLDAP's slapd, started from the
// programs that are installed on this machine.
package ldaptest

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/go-ldap/ldap/v3"
)

// Names in the directory.
const (
	BaseDN   = "dc=example,dc=com"
	PeopleDN = "ou=people," + BaseDN // all whom tests know by name
	GroupsDN = "ou=groups," + BaseDN
	ManyDN   = "ou=many," + BaseDN // ManyPeople of them, p0001 and so on
	OpenDN   = "ou=open," + BaseDN // with olga, for everybody to read

	// ReaderDN may read all but passwords, an answer of more than 500 entries only in pages.
	ReaderDN       = "cn=reader,ou=services," + BaseDN
	ReaderPassword = "reader's password"

	// BlindDN has ReaderPassword and may read what ReaderDN may, except for entryUUID.
	BlindDN = "cn=blind,ou=services," + BaseDN

	// ManyPeople is how many are in ManyDN.
	ManyPeople = 1200
)

// Password is the password of somebody in the directory.
func Password(uid string) string { return uid + "'s password" }

// Server is a directory that tests of one process share. In its PeopleDN are:
//
//	ana       in the groups staff (groupOfNames), leads (groupOfUniqueNames), unix
//	          (posixGroup) and ring one, with a picture
//	ben       with two addresses, in staff
//	dora      as Active Directory has people: sAMAccountName and objectGUID, no uid
//	max       whose DN has commas, quotes and letters beyond ASCII, in "R&D, München"
//	twin      twice: there is one below ou=contractors, too
//	cleo      below ou=contractors, with employeeType "left"
//	locked    by pwdAccountLockedTime, for ever
//	expired   whose password has expired
//	reset     who must change the password first
//	off       by userAccountControl, which slapd doesn't know about
//	inactive  by nsAccountLock, which it doesn't, either
//	keyless   without a password
//
// staff is in everyone, that in level2, and so on to level7; ring one is in ring two, and
// ring two in ring one.
type Server struct {
	URL    string // ldap://127.0.0.1:…, with StartTLS
	TLSURL string // ldaps://127.0.0.1:…
	CA     string // PEM of who signed its certificate, which is for 127.0.0.1 and localhost

	p *process
}

// Open returns the directory of this process, or skips the test where there is no slapd,
// and fails it in CI. What a test changes in it must be its own: see [Server.Add].
func Open(t testing.TB) *Server {
	t.Helper()
	s, err := shared()
	if errors.Is(err, errNotInstalled) && os.Getenv("CI") == "" {
		t.Skip("skipped: no slapd is installed")
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// shared is the server of this process. There is no test that could own it.
var shared = sync.OnceValues(start)

// Settings are those of kind "ldap" that find everybody below PeopleDN, with changes. A
// change to nil leaves a setting out.
func (s *Server) Settings(changes map[string]any) map[string]any {
	settings := map[string]any{
		"urls":            []string{s.TLSURL},
		"ca_certificates": s.CA,
		"bind_dn":         ReaderDN,
		"bind_password":   ReaderPassword,
		"base_dn":         PeopleDN,
		"group_base_dn":   GroupsDN,
	}
	for name, value := range changes {
		if value == nil {
			delete(settings, name)
		} else {
			settings[name] = value
		}
	}
	return settings
}

// DN is the name of somebody directly below PeopleDN who has a uid.
func DN(uid string) string { return "uid=" + ldap.EscapeDN(uid) + "," + PeopleDN }

// Add makes a person of one test: uid, cn, sn, mail (uid@example.com) and Password(uid),
// with other values for some attributes. The person is gone when the test ends.
func (s *Server) Add(t testing.TB, uid string, attributes map[string][]string) {
	t.Helper()
	add := ldap.NewAddRequest(DN(uid), nil)
	with := map[string][]string{
		"objectClass": {"inetOrgPerson", "account2"}, "uid": {uid}, "cn": {uid}, "sn": {uid},
		"mail": {uid + "@example.com"}, "userPassword": {Password(uid)},
	}
	for name, values := range attributes {
		with[name] = values
	}
	for name, values := range with {
		add.Attribute(name, values)
	}
	s.change(t, func(c *ldap.Conn) error { return c.Add(add) })
	t.Cleanup(func() { s.Delete(t, uid) })
}

// Set gives a person of [Server.Add] other values of an attribute; none: takes it away.
func (s *Server) Set(t testing.TB, uid, attribute string, values ...string) {
	t.Helper()
	modify := ldap.NewModifyRequest(DN(uid), nil)
	modify.Replace(attribute, values)
	s.change(t, func(c *ldap.Conn) error { return c.Modify(modify) })
}

// Delete removes a person of [Server.Add]. It is no error if nobody is there.
func (s *Server) Delete(t testing.TB, uid string) {
	t.Helper()
	s.change(t, func(c *ldap.Conn) error {
		err := c.Del(ldap.NewDelRequest(DN(uid), nil))
		if ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
			return nil
		}
		return err
	})
}

// Join makes a person a member of a groupOfNames.
func (s *Server) Join(t testing.TB, uid, group string) {
	t.Helper()
	modify := ldap.NewModifyRequest("cn="+ldap.EscapeDN(group)+","+GroupsDN, nil)
	modify.Add("member", []string{DN(uid)})
	s.change(t, func(c *ldap.Conn) error { return c.Modify(modify) })
}

func (s *Server) change(t testing.TB, fn func(*ldap.Conn) error) {
	t.Helper()
	if err := s.asRoot(fn); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) asRoot(fn func(*ldap.Conn) error) error {
	c, err := ldap.DialURL(s.URL)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Bind(rootDN, s.p.rootPassword); err != nil {
		return err
	}
	return fn(c)
}

// addGroups makes the groups: by the server itself, which then knows whom they hold.
func (s *Server) addGroups() error {
	const max = `cn=Müller\, \22Max\22 \2B Söhne \3Cx\3E\3B #1,` + PeopleDN
	group := func(name, class, attribute string, members ...string) *ldap.AddRequest {
		add := ldap.NewAddRequest("cn="+ldap.EscapeDN(name)+","+GroupsDN, nil)
		add.Attribute("objectClass", []string{class})
		add.Attribute("cn", []string{name})
		add.Attribute(attribute, members)
		return add
	}
	in := func(name string) string { return "cn=" + name + "," + GroupsDN }
	unix := group("unix", "posixGroup", "memberUid", "ana")
	unix.Attribute("gidNumber", []string{"2000"})
	groups := []*ldap.AddRequest{
		group("staff", "groupOfNames", "member", DN("ana"), DN("ben")),
		group("leads", "groupOfUniqueNames", "uniqueMember", DN("ana")),
		unix,
		group("R&D, München", "groupOfNames", "member", max),
		group("everyone", "groupOfNames", "member", in("staff")),
		group("ring one", "groupOfNames", "member", DN("ana"), in("ring two")),
		group("ring two", "groupOfNames", "member", in("ring one")),
	}
	for level, below := 2, "everyone"; level <= 7; level++ {
		name := fmt.Sprintf("level%d", level)
		groups = append(groups, group(name, "groupOfNames", "member", in(below)))
		below = name
	}
	return s.asRoot(func(c *ldap.Conn) error {
		for _, add := range groups {
			if err := c.Add(add); err != nil {
				return fmt.Errorf("add %s: %w", add.DN, err)
			}
		}
		return nil
	})
}

// many are the uids below ManyDN.
func many() []string {
	uids := make([]string, ManyPeople)
	for i := range uids {
		uids[i] = fmt.Sprintf("p%04d", i+1)
	}
	return uids
}

// Logins returns the uids, in lower case, of all whom Settings find.
func Logins() []string {
	return strings.Fields("ana ben dora max twin twin cleo locked expired reset off inactive keyless")
}
