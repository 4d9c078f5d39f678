package ldap_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/ldap"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/ldap/ldaptest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// open opens a source by settings, which must be good.
func open(t testing.TB, settings map[string]any) *ldap.Source {
	t.Helper()
	return openWith(t, ldap.Config{Log: slog.New(slog.DiscardHandler), Now: time.Now}, settings)
}

func openWith(t testing.TB, c ldap.Config, settings map[string]any) *ldap.Source {
	t.Helper()
	kind, err := ldap.New(c)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	source, err := kind.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	return source.(*ldap.Source)
}

func TestSomebodySignsIn(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	dir := ldaptest.Open(t)
	p, known, err := open(t, dir.Settings(map[string]any{"attributes": []string{"departmentNumber", "jpegPhoto", "MAIL"}})).
		SignIn(t.Context(), "ana", ldaptest.Password("ana"))
	if err != nil || !known {
		t.Fatalf("SignIn(ana) = %v, %v", known, err)
	}
	if len(p.Subject) != 36 || p.Email != "ana@example.com" || p.Unverified {
		t.Errorf("subject %q, e-mail %q, unverified %v", p.Subject, p.Email, p.Unverified)
	}
	for name, want := range map[string]string{
		"uid": "ana", "mail": "ana@example.com", "departmentnumber": "Research",
		"user_name": "ana", "full_name": "Ana Silva", "cn": "Ana Silva",
		"employeenumber": "", // nobody asked for it
		"jpegphoto":      "", // no text
		"userpassword":   "",
		"memberof":       "",
	} {
		if got := p.First(name); got != want {
			t.Errorf("attribute %s = %q, want %q", name, got, want)
		}
	}
	want := []string{"staff", "leads", "unix", "ring one"}
	for _, name := range want {
		if dn := "cn=" + name + "," + ldaptest.GroupsDN; !slices.Contains(p.Groups, name) || !slices.Contains(p.Groups, dn) {
			t.Errorf("groups lack %s or its DN", name)
		}
	}
	if len(p.Groups) != 2*len(want) {
		t.Errorf("groups = %q, want those of %q", p.Groups, want)
	}
}

func TestPeopleSignInByWhatTheirDirectoryHas(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	dir := ldaptest.Open(t)
	for name, tt := range map[string]struct {
		settings          map[string]any
		login, uid        string // uid: of the password
		wantUser, wantFor string // user_name and full_name
		wantSubject       string
	}{
		"by e-mail address":            {nil, "b.brown@example.com", "ben", "ben", "Benedict Brown", ""},
		"in any case":                  {nil, "ANA", "ana", "ana", "Ana Silva", ""},
		"by sAMAccountName":            {nil, "dora", "dora", "dora", "Dora Dahl", ""},
		"by userPrincipalName":         {nil, "dora@corp.example.com", "dora", "dora", "Dora Dahl", ""},
		"with a name full of commas":   {nil, "max", "max", "max", `Müller, "Max" + Söhne <x>; #1`, ""},
		"over StartTLS":                {map[string]any{"urls": []string{dir.URL}, "start_tls": true}, "ana", "ana", "ana", "Ana Silva", ""},
		"in the clear, where allowed":  {map[string]any{"urls": []string{dir.URL}, "allow_plaintext": true}, "ana", "ana", "ana", "Ana Silva", ""},
		"by another name of the host":  {map[string]any{"server_name": "localhost"}, "ana", "ana", "ana", "Ana Silva", ""},
		"with part of the filter":      {map[string]any{"user_filter": "(mail={login}@example.com)"}, "ana", "ana", "ana", "Ana Silva", ""},
		"directly below the base only": {map[string]any{"scope": "one"}, "twin", "twin", "twin", "Twin", ""},
		"found without an account":     {map[string]any{"bind_dn": nil, "bind_password": nil, "base_dn": ldaptest.OpenDN, "group_base_dn": nil, "subject_attribute": "uid"}, "olga", "olga", "olga", "Olga", "olga"},
		"known by objectGUID":          {map[string]any{"bind_dn": ldaptest.BlindDN}, "dora", "dora", "dora", "Dora Dahl", "03020100-0504-0706-0809-0a0b0c0d0e0f"},
		"known by another attribute":   {map[string]any{"subject_attribute": "employeeNumber"}, "ana", "ana", "ana", "Ana Silva", "17"},
		"known by what is no text":     {map[string]any{"subject_attribute": "jpegPhoto"}, "ana", "ana", "ana", "Ana Silva", "ffd8ffe000104a464946000101"},
	} {
		t.Run(name, func(t *testing.T) {
			p, known, err := open(t, dir.Settings(tt.settings)).SignIn(t.Context(), tt.login, ldaptest.Password(tt.uid))
			if err != nil || !known {
				t.Fatalf("SignIn(%q) = %v, %v", tt.login, known, err)
			}
			if got := p.First("user_name"); got != tt.wantUser {
				t.Errorf("user_name = %q, want %q", got, tt.wantUser)
			}
			if got := p.First("full_name"); got != tt.wantFor {
				t.Errorf("full_name = %q, want %q", got, tt.wantFor)
			}
			if p.Subject == "" || tt.wantSubject != "" && p.Subject != tt.wantSubject {
				t.Errorf("subject = %q, want %q", p.Subject, tt.wantSubject)
			}
		})
	}
}

func TestSomebodyIsRefused(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	dir := ldaptest.Open(t)
	for name, tt := range map[string]struct {
		settings map[string]any
		login    string
		password string // empty: the right one
		known    bool
		want     string // in the error
		kind     error  // nil: no more than ErrBadLogin
	}{
		"with a wrong password":                {nil, "ana", "a guess", true, "wrong password", nil},
		"with another's password":              {nil, "ana", ldaptest.Password("ben"), true, "wrong password", nil},
		"as nobody":                            {nil, "nobody", "x", false, "nobody below base_dn", nil},
		"as anybody":                           {nil, "*", "x", false, "nobody below base_dn", nil},
		"by another filter":                    {nil, "a)(uid=*", "x", false, "nobody below base_dn", nil},
		"by an escape":                         {nil, `\2a`, "x", false, "nobody below base_dn", nil},
		"with a NUL in the login":              {nil, "ana\x00", "x", false, "nobody can have this login", nil},
		"with a login that is no text":         {nil, "\xff\xfe", "x", false, "nobody can have this login", nil},
		"with a login of 10 kB":                {nil, strings.Repeat("a", 10_000), "x", false, "nobody can have this login", nil},
		"without a login":                      {nil, "", "x", false, "nobody can have this login", nil},
		"with a NUL in the password":           {nil, "ana", "x\x00", false, "nobody can have this password", nil},
		"with a password of 10 kB":             {nil, "ana", strings.Repeat("a", 10_000), false, "nobody can have this password", nil},
		"by a login of two":                    {nil, "twin", "", true, "more than one entry", nil},
		"by a mail address of two":             {nil, "twin@example.com", "", true, "more than one entry", nil},
		"by a login of many":                   {map[string]any{"base_dn": ldaptest.ManyDN, "user_filter": "(|(uid={login})(sn=Person))"}, "p0001", "", true, "more than one entry", nil},
		"below the base, where that is no use": {map[string]any{"scope": "one"}, "cleo", "", false, "nobody below base_dn", nil},
		"locked":                               {nil, "locked", "", true, "the account is locked", identity.ErrLocked},
		"with an expired password":             {nil, "expired", "", true, "the password has expired", identity.ErrPasswordExpired},
		"with a password to change":            {nil, "reset", "", true, "the password must be changed first", identity.ErrPasswordExpired},
		"off by userAccountControl":            {nil, "off", "", true, "userAccountControl has ACCOUNTDISABLE", identity.ErrDisabled},
		"off by nsAccountLock":                 {nil, "inactive", "", true, "nsAccountLock is true", identity.ErrDisabled},
		"off by a filter":                      {map[string]any{"disabled_filter": "(employeeType=left)"}, "cleo", "", true, "disabled_filter finds it", identity.ErrDisabled},
		"off, but with a wrong password":       {nil, "off", "a guess", true, "wrong password", nil},
		"who has no password":                  {nil, "keyless", "x", true, "wrong password", nil},
	} {
		t.Run(name, func(t *testing.T) {
			password := tt.password
			if password == "" {
				password = ldaptest.Password(tt.login)
			}
			p, known, err := open(t, dir.Settings(tt.settings)).SignIn(t.Context(), tt.login, password)
			if !errors.Is(err, identity.ErrBadLogin) || errors.Is(err, identity.ErrSource) {
				t.Fatalf("SignIn(%.20q) = %v, want ErrBadLogin", tt.login, err)
			}
			if known != tt.known || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("SignIn(%.20q) = %v, %q, want %v, %q", tt.login, known, err, tt.known, tt.want)
			}
			for _, kind := range []error{identity.ErrDisabled, identity.ErrLocked, identity.ErrPasswordExpired} {
				if errors.Is(err, kind) != (kind == tt.kind) {
					t.Errorf("SignIn(%.20q) is %q: %v", tt.login, kind, errors.Is(err, kind))
				}
			}
			if strings.Contains(err.Error(), password) && password != "x" {
				t.Errorf("the error has the password: %q", err)
			}
			if p.Subject != "" || p.Attributes != nil || p.Groups != nil {
				t.Errorf("SignIn(%.20q) returned %+v", tt.login, p)
			}
		})
	}
}

func TestAnEmptyPasswordIsRefusedBeforeAnybodyIsAsked(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	door := listen(t, func(c *peer) { c.t.Error("the directory was asked") })
	_, known, err := open(t, door.settings(nil)).SignIn(t.Context(), "ana", "")
	if !errors.Is(err, identity.ErrBadLogin) || known {
		t.Errorf("SignIn without a password = %v, %v", known, err)
	}
}

func TestADirectoryThatIsNotAsTheSettingsSayIsNotAvailable(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	dir := ldaptest.Open(t)
	for name, tt := range map[string]struct {
		settings map[string]any
		want     []string // in the error
	}{
		"another authority's certificate": {map[string]any{"ca_certificates": nil}, []string{"tls", "certificate"}},
		"the same with StartTLS":          {map[string]any{"ca_certificates": nil, "urls": []string{dir.URL}, "start_tls": true}, []string{"tls", "certificate"}},
		"a certificate for another host":  {map[string]any{"server_name": "elsewhere.example.com"}, []string{"tls", "elsewhere.example.com"}},
		"the same host, StartTLS":         {map[string]any{"server_name": "elsewhere.example.com", "urls": []string{dir.URL}, "start_tls": true}, []string{"tls", "elsewhere.example.com"}},
		"a wrong account":                 {map[string]any{"bind_password": "wrong"}, []string{"bind", "bind_dn or bind_password is wrong", "(49)"}},
		"no such base":                    {map[string]any{"base_dn": "ou=nowhere,dc=example,dc=com"}, []string{"search", "no base_dn ou=nowhere", "(32)"}},
		"a base of another directory":     {map[string]any{"base_dn": "dc=elsewhere"}, []string{"search", "no base_dn dc=elsewhere"}},
		"no such place for groups":        {map[string]any{"group_base_dn": "ou=nowhere,dc=example,dc=com"}, []string{"groups", "no group_base_dn ou=nowhere"}},
		"nothing to know people by":       {map[string]any{"bind_dn": ldaptest.BlindDN}, []string{"search", "neither entryUUID nor objectGUID"}},
		"no such attribute":               {map[string]any{"subject_attribute": "employeeType"}, []string{"search", "not exactly one employeeType"}},
		"two of the attribute":            {map[string]any{"subject_attribute": "cn"}, []string{"search", "not exactly one cn"}},
		"no account, where one is needed": {map[string]any{"bind_dn": nil, "bind_password": nil}, []string{"search"}},
		"plain text at the TLS port":      {map[string]any{"urls": []string{strings.Replace(dir.TLSURL, "ldaps", "ldap", 1)}, "allow_plaintext": true}, []string{"bind"}},
		"TLS at the plain port":           {map[string]any{"urls": []string{strings.Replace(dir.URL, "ldap", "ldaps", 1)}}, []string{"tls"}},
		"nobody listening":                {map[string]any{"urls": []string{"ldaps://127.0.0.1:1"}}, []string{"ldaps://127.0.0.1:1: connect", "refused"}},
		"where no directory is":           {map[string]any{"urls": []string{"ldaps://169.254.169.254"}}, []string{"connect", "metadata"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settings := dir.Settings(map[string]any{"timeout": "2s"})
			for key, value := range tt.settings {
				settings[key] = value
			}
			for key, value := range tt.settings {
				if value == nil {
					delete(settings, key)
				}
			}
			_, known, err := open(t, settings).SignIn(t.Context(), "ana", ldaptest.Password("ana"))
			if !errors.Is(err, identity.ErrSource) || errors.Is(err, identity.ErrBadLogin) || known {
				t.Fatalf("SignIn = %v, %v, want ErrSource", known, err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("SignIn = %q, want %q in it", err, want)
				}
			}
			if strings.Contains(err.Error(), ldaptest.Password("ana")) || strings.Contains(err.Error(), ldaptest.ReaderPassword) || strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("the error has a password or a line break: %q", err)
			}
		})
	}
}

func TestGroupsOfGroups(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	dir := ldaptest.Open(t)
	for name, tt := range map[string]struct {
		settings map[string]any
		login    string
		want     string // names, sorted
	}{
		"are left out":                      {nil, "ben", "staff"},
		"are found five times up":           {map[string]any{"nested_groups": "walk"}, "ben", "everyone,level2,level3,level4,level5,staff"},
		"end where they go round":           {map[string]any{"nested_groups": "walk"}, "ana", "everyone,leads,level2,level3,level4,level5,ring one,ring two,staff,unix"},
		"nobody searches for":               {map[string]any{"group_base_dn": nil}, "ana", "ring one,staff"},
		"have names that must be escaped":   {map[string]any{"nested_groups": "walk"}, "max", "R&D, München"},
		"have them without memberOf":        {map[string]any{"group_filter": "(member={dn})"}, "max", "R&D, München"},
		"are the posix ones of a person":    {map[string]any{"group_filter": "(memberUid={uid})"}, "ana", "ring one,staff,unix"},
		"are nobody's for who has no uid":   {map[string]any{"group_filter": "(|(memberUid={uid})(memberUid=*dora))"}, "dora", ""},
		"are asked of Active Directory, or": {map[string]any{"nested_groups": "active_directory"}, "ben", "staff"}, // slapd doesn't know the rule
	} {
		t.Run(name, func(t *testing.T) {
			p, _, err := open(t, dir.Settings(tt.settings)).SignIn(t.Context(), tt.login, ldaptest.Password(tt.login))
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, group := range p.Groups {
				if !strings.HasPrefix(group, "cn=") {
					names = append(names, group)
				}
			}
			slices.Sort(names)
			if got := strings.Join(names, ","); got != tt.want {
				t.Errorf("groups = %s, want %s", got, tt.want)
			}
		})
	}
}

// listed is what People says, by uid or name.
func listed(ctx context.Context, s *ldap.Source) (active, off []string, err error) {
	err = s.People(ctx, func(p identity.Person, ok bool) error {
		if p.Subject == "" {
			return fmt.Errorf("%v has no subject", p.Attributes)
		}
		if ok {
			active = append(active, p.First("user_name"))
		} else {
			off = append(off, p.First("user_name"))
		}
		return nil
	})
	slices.Sort(active)
	slices.Sort(off)
	return active, off, err
}

func TestEverybodyIsListed(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	dir := ldaptest.Open(t)
	want := func(uids string) string { return strings.Join(slices.Sorted(slices.Values(strings.Fields(uids))), ",") }
	for name, tt := range map[string]struct {
		settings    map[string]any
		active, off string
	}{
		"with those that are off":   {nil, "ana ben cleo dora expired keyless max reset twin twin", "inactive locked off"},
		"with those of a filter":    {map[string]any{"disabled_filter": "(employeeType=left)"}, "ana ben dora expired keyless max reset twin twin", "cleo inactive locked off"},
		"by a filter of their own":  {map[string]any{"people_filter": "(&(objectClass=person)(mail=*))"}, "ana ben cleo max twin twin", ""},
		"a page of one":             {map[string]any{"page_size": 1, "scope": "one", "people_filter": "(givenName=*)"}, "ana ben", ""},
		"but who can't be known":    {map[string]any{"bind_dn": ldaptest.BlindDN}, "dora", ""},
		"where the filter is other": {map[string]any{"user_filter": "(uid={login})"}, "ana ben cleo expired keyless max reset twin twin", "inactive locked off"},
	} {
		t.Run(name, func(t *testing.T) {
			active, off, err := listed(t.Context(), open(t, dir.Settings(tt.settings)))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(active, ","); got != want(tt.active) {
				t.Errorf("active are %s, want %s", got, want(tt.active))
			}
			if got := strings.Join(off, ","); got != want(tt.off) {
				t.Errorf("off are %s, want %s", got, want(tt.off))
			}
		})
	}
}

func TestMoreAreListedThanOneAnswerHolds(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	dir := ldaptest.Open(t)
	active, off, err := listed(t.Context(), open(t, dir.Settings(map[string]any{"base_dn": ldaptest.ManyDN})))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(slices.Compact(active)); n != ldaptest.ManyPeople || len(off) > 0 {
		t.Errorf("%d people and %d that are off, want %d and 0", n, len(off), ldaptest.ManyPeople)
	}
}

func TestAListThatIsNotWholeIsNone(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	dir := ldaptest.Open(t)
	stop := errors.New("enough")
	seen := 0
	err := open(t, dir.Settings(map[string]any{"base_dn": ldaptest.ManyDN, "page_size": 10})).People(t.Context(), func(identity.Person, bool) error {
		seen++
		return stop
	})
	if !errors.Is(err, stop) || seen != 1 {
		t.Errorf("People went on %d times after %v", seen, err)
	}
	for name, changes := range map[string]map[string]any{
		"nobody can be known":         {"bind_dn": ldaptest.BlindDN, "base_dn": ldaptest.ManyDN},
		"the base is gone":            {"base_dn": "ou=nowhere,dc=example,dc=com"},
		"the directory is down":       {"urls": []string{"ldaps://127.0.0.1:1"}},
		"the filter lists nobody":     {"user_filter": "(uid:caseExactMatch:={login})"},
		"the account is wrong":        {"bind_password": "wrong"},
		"the filter of those off too": {"disabled_filter": "(employeeType=left)", "base_dn": "dc=elsewhere"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := listed(t.Context(), open(t, dir.Settings(changes)))
			if !errors.Is(err, identity.ErrSource) {
				t.Errorf("People = %v, want ErrSource", err)
			}
		})
	}
}

func TestATestOfSignInNamesTheSteps(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	dir := ldaptest.Open(t)
	for name, tt := range map[string]struct {
		settings        map[string]any
		login, password string
		want            string // the steps; a failed one with a bang
		detail          string // in the last step
	}{
		"that all goes well":         {nil, "ana", ldaptest.Password("ana"), "connect tls bind search sign in groups", "cn=staff," + ldaptest.GroupsDN},
		"who is in no group":         {nil, "dora", ldaptest.Password("dora"), "connect tls bind search sign in groups", "none"},
		"a wrong password":           {nil, "ana", "wrong", "connect tls bind search sign in! groups", "staff"},
		"no password":                {nil, "ana", "", "connect tls bind search sign in groups", "staff"},
		"nobody":                     {nil, "nobody", "x", "connect tls bind search!", "nobody below base_dn has this login"},
		"nobody, and no password":    {nil, "nobody", "", "connect tls bind search!", "nobody below base_dn has this login"},
		"who is off, no password":    {nil, "off", "", "connect tls bind search sign in! groups", "none"},
		"a wrong account":            {map[string]any{"bind_password": "wrong"}, "ana", "x", "connect tls bind!", "bind_dn or bind_password is wrong"},
		"an unknown authority":       {map[string]any{"ca_certificates": nil}, "ana", "x", "connect tls!", "certificate"},
		"a directory that is down":   {map[string]any{"urls": []string{"ldaps://127.0.0.1:1"}}, "ana", "x", "connect!", "refused"},
		"a second server":            {map[string]any{"urls": []string{"ldaps://127.0.0.1:1", dir.TLSURL}}, "ana", ldaptest.Password("ana"), "connect connect tls bind search sign in groups", "staff"},
		"two servers, both down":     {map[string]any{"urls": []string{"ldaps://127.0.0.1:1", "ldaps://127.0.0.1:2"}}, "ana", "x", "connect connect!", "127.0.0.1:2"},
		"no groups where they'd be":  {map[string]any{"group_base_dn": "dc=nowhere"}, "ana", ldaptest.Password("ana"), "connect tls bind search sign in groups!", "no group_base_dn"},
		"no account, but plain text": {map[string]any{"bind_dn": nil, "bind_password": nil, "base_dn": ldaptest.OpenDN, "group_base_dn": nil, "subject_attribute": "uid", "urls": []string{dir.URL}, "allow_plaintext": true, "ca_certificates": nil}, "olga", ldaptest.Password("olga"), "connect tls bind search sign in groups", "none"},
		"StartTLS":                   {map[string]any{"urls": []string{dir.URL}, "start_tls": true}, "ana", ldaptest.Password("ana"), "connect tls bind search sign in groups", "staff"},
		"a login that can't be":      {nil, "a\x00", "x", "sign in!", "nobody can have this login"},
	} {
		t.Run(name, func(t *testing.T) {
			steps := open(t, dir.Settings(tt.settings)).Diagnose(t.Context(), tt.login, tt.password)
			var got []string
			for _, step := range steps {
				if step.Detail == "" || strings.Contains(step.Detail, "%!") {
					t.Errorf("step %s has no detail: %q", step.Name, step.Detail)
				}
				if tt.password != "x" && tt.password != "" && strings.Contains(step.Detail, tt.password) && tt.password != "wrong" {
					t.Errorf("step %s has the password: %q", step.Name, step.Detail)
				}
				if !step.OK {
					step.Name += "!"
				}
				got = append(got, step.Name)
			}
			if strings.Join(got, " ") != tt.want {
				t.Fatalf("steps = %q, want %q\n%+v", strings.Join(got, " "), tt.want, steps)
			}
			if last := steps[len(steps)-1].Detail; !strings.Contains(last, tt.detail) {
				t.Errorf("last step = %q, want %q in it", last, tt.detail)
			}
		})
	}
}
