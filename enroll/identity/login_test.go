package identity_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestALoginIsCheckedWhereItBelongs(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	w.provider(t, "directory", "off", func(c *identity.ProviderChange) { c.Enabled = ptr(false) })
	one := w.provider(t, "directory", "one")
	w.provider(t, "sso", "sso")
	two := w.provider(t, "directory", "two")
	for _, url := range []string{"off", "one", "two"} {
		w.add(url, person("cyd"), "cyd", "local", "nopassword")
	}
	w.add("one", account{password: "p", Person: person("dan").Person}, "dan", "dan@example.com")
	w.add("two", account{password: "other", Person: person("dan").Person}, "dan")
	w.add("two", person("eva"), "eva")
	w.add("two", account{password: "p", inactive: true, Person: person("fay").Person}, "fay")
	w.create(t, identity.NewUser{Username: "local", Password: "the local password"})
	w.create(t, identity.NewUser{Username: "nopassword"})
	bound, err := w.Login(ctx, "dan", "p", "192.0.2.1")
	if err != nil || bound.Provider != one.ID {
		t.Fatalf("Login = %+v, %v", bound, err)
	}
	w.took()
	for name, tt := range map[string]struct {
		login, password string
		asked           string
		provider        string // empty: not let in
		want            error
	}{
		"a user of this server":                     {"local", "the local password", "", identity.LocalProvider, nil},
		"a user of this server, the other password": {"local", "a good password", "", "", identity.ErrBadLogin},
		"a user of a provider":                      {"DAN", "p", "one dan", one.ID, nil},
		"with the password of the next":             {"dan", "other", "one dan", "", identity.ErrBadLogin},
		"by the address":                            {"dan@example.com", "p", "one dan@example.com", one.ID, nil},
		"one whom the first knows":                  {"cyd", "a good password", "one cyd", one.ID, nil},
		"one whom the first knows, wrong password":  {"gus", "x", "one gus, two gus", "", identity.ErrBadLogin},
		"one whom the second knows":                 {"eva", "a good password", "one eva, two eva", two.ID, nil},
		"one whom nobody knows":                     {"zoe", "a good password", "one zoe, two zoe", "", identity.ErrBadLogin},
		"one who is locked there":                   {"fay", "p", "one fay, two fay", "", identity.ErrLocked},
		"without a login":                           {" ", "a good password", "", "", identity.ErrBadLogin},
		"with a very long login":                    {strings.Repeat("e", 1<<16), "x", "", "", identity.ErrBadLogin},
		"with a very long password":                 {"eva", strings.Repeat("x", 1<<16), "", "", identity.ErrBadLogin},
		"without a password":                        {"eva", "", "", "", identity.ErrBadLogin},
		"a user of a provider, without a password":  {"dan", "", "", "", identity.ErrBadLogin},
	} {
		t.Run(name, func(t *testing.T) {
			in, err := w.Login(ctx, tt.login, tt.password, "192.0.2.2")
			if in.Provider != tt.provider || !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("Login = %+v, %v; want provider %q, %v", in, err, tt.provider, tt.want)
			}
			if asked := w.took(); asked != tt.asked {
				t.Errorf("asked were %q, want %q", asked, tt.asked)
			}
		})
	}
	if w.bucketsHold(t, "a good password") {
		t.Error("a password of a directory stands in the database")
	}
}

// The password of a user of this server never goes to a directory that has the same name,
// and the other way round (ENR-07).
func TestASourceThatIsDownIsNotGoneAround(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	w.provider(t, "directory", "one")
	w.provider(t, "directory", "two")
	for _, url := range []string{"one", "two"} {
		w.add(url, person("dan"), "dan")
		w.add(url, person("eva"), "eva")
	}
	if _, err := w.Login(ctx, "dan", "a good password", "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	w.took()
	for name, broken := range map[string]error{
		"down":                  fmt.Errorf("%w: connection refused", identity.ErrSource),
		"slow":                  context.DeadlineExceeded,
		"wrong in its own way":  errors.New("unexpected EOF"),
		"down, says its answer": fmt.Errorf("%w: %w", identity.ErrSource, identity.ErrBadLogin),
	} {
		t.Run(name, func(t *testing.T) {
			w.broken["one"] = broken
			for _, login := range []string{"dan", "eva", "nobody"} {
				for range 10 { // is no guess
					if in, err := w.Login(ctx, login, "a good password", "192.0.2.1"); !errors.Is(err, identity.ErrSource) || in.User.ID != "" {
						t.Fatalf("Login(%s) = %+v, %v; want ErrSource", login, in, err)
					}
				}
				if asked := w.took(); strings.Contains(asked, "two") {
					t.Errorf("asked were %s, want only the first", asked)
				}
			}
		})
	}
	w.broken["one"] = nil
	if _, err := w.Login(ctx, "eva", "a good password", "192.0.2.1"); err != nil {
		t.Errorf("when it is back: %v", err)
	}
}

// Whoever measures how long a refusal takes must not learn who exists (ENR-03): each takes
// the hash of a password, whoever knows the login.
func TestWhatAHashCostsWhereNothingIsConfigured(t *testing.T) {
	storagetest.AnyEngine(t)
	s, err := identity.New(identity.Config{DB: storagetest.Open(t), Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateOwner(ctx, ownerEmail, ownerPassword); err != nil {
		t.Fatal(err)
	}
	in, err := s.Login(ctx, ownerEmail, ownerPassword, "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	const cost, length = "$argon2id$v=19$m=19456,t=2,p=1$", 97
	for name, hash := range map[string]string{"somebody": in.User.Password, "nobody": s.DecoyHash()} {
		if !strings.HasPrefix(hash, cost) || len(hash) != length {
			t.Errorf("the password of %s is checked against %d characters, %.31s; want %d, %s", name, len(hash), hash, length, cost)
		}
	}
}

func TestEachRefusalTakesAHash(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	hashes := w.CountHashes(t)
	w.provider(t, "directory", "one")
	off := w.provider(t, "directory", "off")
	w.provider(t, "directory", "two")
	for _, login := range []string{"dan", "eva"} {
		w.add("one", person(login), login)
	}
	w.add("off", person("fay"), "fay")
	w.add("two", person("gus"), "gus")
	w.add("one", account{password: "p", inactive: true, Person: person("ivo").Person}, "ivo")
	sso := w.provider(t, "sso", "sso")
	w.create(t, identity.NewUser{Username: "local", Password: "the local password"})
	w.create(t, identity.NewUser{Username: "nopassword"})
	w.create(t, identity.NewUser{Username: "redirected", Provider: sso.ID})
	for _, login := range []string{"dan", "fay"} {
		if _, err := w.Login(ctx, login, "a good password", peer); err != nil {
			t.Fatal(err)
		}
	}
	w.enable(t, off, false)
	hashes()
	for name, login := range map[string]string{
		"a user of this server":                     "local",
		"a user without a password":                 "nopassword",
		"a user of a directory":                     "dan",
		"a user of a directory that is off":         "fay",
		"a user of a provider that one is sent to":  "redirected",
		"somebody whom a directory knows":           "eva",
		"somebody whom the second directory knows":  "gus",
		"somebody whom a directory knows as locked": "ivo",
		"nobody": "zoe",
	} {
		if _, err := w.Login(ctx, login, "a wrong password", peer); !errors.Is(err, identity.ErrBadLogin) {
			t.Errorf("Login of %s = %v, want ErrBadLogin", name, err)
		}
		if n := hashes(); n != 1 {
			t.Errorf("Login of %s took %d hashes, want 1", name, n)
		}
	}
}

func TestWhoHangsUpHasGuessed(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	w.provider(t, "directory", "one")
	w.add("one", ana(), "ana")
	gone, hangUp := context.WithCancel(ctx)
	w.broken["one"] = hangsUp{hangUp}
	if _, err := w.Login(gone, "ana", "x", "192.0.2.1"); err == nil {
		t.Fatal("ana is in")
	}
	w.broken["one"] = nil
	tries := 0
	for ; tries < 20; tries++ {
		if _, err := w.Login(ctx, "ana", "x", "192.0.2.1"); errors.Is(err, identity.ErrThrottled) {
			break
		}
	}
	if tries != 7 {
		t.Errorf("throttled after %d more tries, want 7", tries)
	}
}

// hangsUp is an error of a source whose caller goes away while it is asked.
type hangsUp struct{ cancel context.CancelFunc }

func (h hangsUp) Error() string { h.cancel(); return "canceled" }

func TestASourceSaysWhatAUserIs(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	p := w.provider(t, "directory", "one")
	a := w.add("one", ana(), "ana", "new name")
	login := func(name string) identity.User {
		t.Helper()
		in, err := w.Login(ctx, name, "a good password", "192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		if stored := w.user(t, in.User.ID); !reflect.DeepEqual(stored, in.User) {
			t.Errorf("Login = %+v, stored is %+v", in.User, stored)
		}
		return in.User
	}
	first := login("ana")
	if first.Username != "ana" || first.Email != "ana@example.com" || first.FullName != "Ana A." || first.Provider != p.ID || first.Subject != "id of ana" {
		t.Errorf("made is %+v", first)
	}
	groups, err := w.Groups(ctx, first.ID, "none")
	if err != nil || strings.Join(groups[first.ID], " ") != "cn=staff,dc=example staff" {
		t.Errorf("Groups = %q, %v", groups, err)
	}

	var gone []string
	w.onRename = func(_ storage.Tx, logins []string, u identity.User) error { gone = logins; return nil }
	w.change(func() {
		a.Attributes = map[string][]string{"uid": {"new"}, "mail": {"new@example.com"}, "apple": {"new@appleid.example.com"}}
		a.Email, a.Groups = "new@example.com", []string{"boss"}
	})
	second := login("ana")
	if second.ID != first.ID || second.Username != "new" || second.Email != "new@example.com" || second.FullName != "" || second.ManagedAppleAccount != "new@appleid.example.com" {
		t.Errorf("after a change there it is %+v", second)
	}
	if strings.Join(gone, " ") != "ana ana@example.com" && strings.Join(gone, " ") != "ana@example.com ana" {
		t.Errorf("logins that are given up: %q", gone)
	}
	if groups, err := w.Groups(ctx, first.ID); err != nil || strings.Join(groups[first.ID], " ") != "boss" {
		t.Errorf("Groups = %q, %v; want those of now", groups, err)
	}
	gone = nil
	if third := login("new name"); !reflect.DeepEqual(third, second) || gone != nil {
		t.Errorf("without a change it is %+v, want %+v", third, second)
	}

	// Names are the provider's, rights are ours.
	for field, c := range map[string]identity.UserChange{
		"username": {Username: ptr("x")}, "email": {Email: ptr("x@example.com")}, "full_name": {FullName: ptr("X")}, "password": {Password: ptr("a good password")},
	} {
		if _, err := w.UpdateUser(ctx, identity.Local(), first.ID, c); !fieldIs(err, field) || !strings.Contains(err.Error(), "kept by the provider one") {
			t.Errorf("UpdateUser of %s = %v", field, err)
		}
	}
	c := identity.UserChange{Role: ptr(identity.RoleHelpdesk), NoEnroll: ptr(true), ManagedAppleAccount: ptr("ours@appleid.example.com"), FullName: ptr("")}
	if _, err := w.UpdateUser(ctx, identity.Local(), first.ID, c); err != nil {
		t.Fatal(err)
	}
	if u := login("ana"); u.Role != identity.RoleHelpdesk || !u.NoEnroll || u.ManagedAppleAccount != "ours@appleid.example.com" {
		t.Errorf("after a sign-in it is %+v, want what an administrator said", u)
	}
	if _, err := w.UpdateUser(ctx, identity.Local(), first.ID, identity.UserChange{ManagedAppleAccount: ptr("")}); err != nil {
		t.Fatal(err)
	}
	if u := login("ana"); u.ManagedAppleAccount != "new@appleid.example.com" {
		t.Errorf("the account is %q again, want the provider's", u.ManagedAppleAccount)
	}
}

func TestAPersonIsNeverKnownByAName(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		before func(w *world, t *testing.T, p identity.Provider) identity.User // who is here already
		change func(a *account)
		want   error // nil: the user of before is who signed in
	}{
		"a local user has the username": {
			func(w *world, t *testing.T, _ identity.Provider) identity.User {
				return w.create(t, identity.NewUser{Username: "ana"})
			},
			nil, identity.ErrTaken,
		},
		"a local user has the address": {
			func(w *world, t *testing.T, _ identity.Provider) identity.User {
				return w.create(t, identity.NewUser{Username: "x", Email: "Ana@example.com"})
			}, nil, identity.ErrTaken,
		},
		"a user of another provider has the address": {
			func(w *world, t *testing.T, _ identity.Provider) identity.User {
				return w.create(t, identity.NewUser{Email: "ana@example.com", Provider: w.provider(t, "sso", "other").ID})
			}, nil, identity.ErrTaken,
		},
		"a user of this provider has the address": {
			func(w *world, t *testing.T, _ identity.Provider) identity.User {
				w.add("one", account{password: "p", Person: ana().Person}, "the first ana")
				in, err := w.Login(ctx, "the first ana", "p", "192.0.2.1")
				if err != nil {
					t.Fatal(err)
				}
				return in.User
			}, nil, identity.ErrTaken,
		},
		"another user has the Managed Apple Account": {
			func(w *world, t *testing.T, _ identity.Provider) identity.User {
				return w.create(t, identity.NewUser{Username: "x", ManagedAppleAccount: "ana@appleid.example.com"})
			},
			func(a *account) { a.Attributes["apple"] = []string{"Ana@appleid.example.com"} }, identity.ErrTaken,
		},
		"the provider says no username, and does not vouch for the address": {
			nil, func(a *account) { a.Unverified = true; delete(a.Attributes, "uid") }, identity.ErrUnusable,
		},
		"the username is an address that it does not vouch for": {
			nil, func(a *account) { a.Unverified = true; a.Attributes["uid"] = []string{"ANA@example.com"} }, identity.ErrUnusable,
		},
		"the provider does not say who it is": {nil, func(a *account) { a.Subject = "" }, identity.ErrUnusable},
		"an administrator has made the user for the provider": {
			func(w *world, t *testing.T, p identity.Provider) identity.User {
				return w.create(t, identity.NewUser{Username: "ana", Provider: p.ID})
			}, nil, nil,
		},
		"an administrator has made the user for the provider, by address": {
			func(w *world, t *testing.T, p identity.Provider) identity.User {
				return w.create(t, identity.NewUser{Email: "ana@example.com", Provider: p.ID})
			}, nil, nil,
		},
		"the user made for the provider has an address that it does not vouch for": {
			func(w *world, t *testing.T, p identity.Provider) identity.User {
				return w.create(t, identity.NewUser{Email: "ana@example.com", Provider: p.ID})
			},
			func(a *account) { a.Unverified = true; delete(a.Attributes, "uid") }, identity.ErrUnusable,
		},
		"the user made for the provider has a role, and is known by a name": {
			func(w *world, t *testing.T, p identity.Provider) identity.User {
				return w.create(t, identity.NewUser{Username: "ana", Provider: p.ID, Role: identity.RoleReadOnly})
			}, nil, identity.ErrUnusable,
		},
		"the user made for the provider has a role, and an address": {
			func(w *world, t *testing.T, p identity.Provider) identity.User {
				return w.create(t, identity.NewUser{Username: "ana", Email: "ana@example.com", Provider: p.ID, Role: identity.RoleOwner})
			}, nil, nil,
		},
		"the user made for the provider has what this one calls themselves, an address": {
			func(w *world, t *testing.T, p identity.Provider) identity.User {
				return w.create(t, identity.NewUser{Email: "boss@example.com", Provider: p.ID, Role: identity.RoleOwner})
			},
			func(a *account) { a.Attributes["uid"] = []string{"boss@example.com"} }, identity.ErrTaken,
		},
		"the user made for the provider has what this one calls themselves, beside an address that it does not vouch for": {
			func(w *world, t *testing.T, p identity.Provider) identity.User {
				return w.create(t, identity.NewUser{Email: "boss@example.com", Provider: p.ID})
			},
			func(a *account) { a.Unverified = true; a.Attributes["uid"] = []string{"boss@example.com"} }, identity.ErrUnusable,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.provider(t, "directory", "one")
			var before identity.User
			if tt.before != nil {
				before = tt.before(w, t, p)
			}
			a := w.add("one", ana(), "login")
			if tt.change != nil {
				w.change(func() { tt.change(a) })
			}
			users := w.all(t)
			in, err := w.Login(ctx, "login", "a good password", "192.0.2.1")
			if tt.want == nil {
				if err != nil || in.User.ID != before.ID || in.User.Subject != "id of login" || w.all(t) != "ana@example.com" {
					t.Errorf("Login = %+v, %v; want %s", in, err, before.ID)
				}
				return
			}
			if !errors.Is(err, tt.want) || !errors.Is(err, identity.ErrUnusable) || in.User.ID != "" || w.all(t) != users {
				t.Errorf("Login = %+v, %v; want %v, and users %s as before: %s", in, err, tt.want, users, w.all(t))
			}
			if before.ID != "" && !reflect.DeepEqual(w.user(t, before.ID), before) {
				t.Errorf("then the other user is %+v, want %+v", w.user(t, before.ID), before)
			}
		})
	}
}

// What somebody types as their address at a provider must not make them the owner whom the
// provider is to know, whatever the mapping makes of it.
func TestAnAddressThatIsNotVerifiedIsNobodysRole(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, m := range map[string]identity.MappingChange{
		"its first part":               {Username: ptr("{mail:local}")},
		"its first part in a template": {Username: ptr("{mail:local}@example.com")},
		"itself":                       {Username: ptr("mail")},
		"a username":                   {Username: ptr("uid")},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.provider(t, "sso", "sso", func(c *identity.ProviderChange) { c.Mapping = m })
			boss := w.create(t, identity.NewUser{Username: "boss", Email: "boss@example.com", Role: identity.RoleOwner, Provider: p.ID})
			mallory := person("mallory")
			mallory.Email, mallory.Unverified = "boss@evil.example", true
			mallory.Attributes["mail"] = []string{mallory.Email}
			mallory.Attributes["uid"] = []string{"boss"}
			w.add("sso", mallory, "mallory")
			s := w.begin(t, p, identity.NewSignIn{})
			f, err := w.FinishSignIn(ctx, p.ID, s.browser, back(s, "mallory"), peer)
			if !errors.Is(err, identity.ErrUnusable) || f.User.ID != "" || !reflect.DeepEqual(w.user(t, boss.ID), boss) {
				t.Errorf("FinishSignIn = %+v, %v; and the owner is %+v; want ErrUnusable, and the owner as before", f.User, err, w.user(t, boss.ID))
			}
		})
	}
}

// An entry that was made anew in the directory has the names of the old one, and another
// subject.
func TestAUserIsBoundAnew(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	p := w.provider(t, "directory", "one")
	a := w.add("one", ana(), "ana")
	in, err := w.Login(ctx, "ana", "a good password", peer)
	if err != nil {
		t.Fatal(err)
	}
	w.change(func() { a.Subject = "id of the new entry" })
	if _, err := w.Login(ctx, "ana", "a good password", peer); !errors.Is(err, identity.ErrTaken) {
		t.Fatalf("Login with another subject = %v, want ErrTaken", err)
	}
	again := identity.UserChange{Provider: &p.ID}
	if _, err := w.UpdateUser(ctx, admin("admin"), in.User.ID, again); !errors.Is(err, identity.ErrForbidden) || !reflect.DeepEqual(w.user(t, in.User.ID), in.User) {
		t.Errorf("UpdateUser by an administrator = %v, want ErrForbidden", err)
	}
	if u, err := w.UpdateUser(ctx, admin("owner"), in.User.ID, again); err != nil || u.Subject != "" || u.Provider != p.ID || u.Stamp() == in.User.Stamp() {
		t.Errorf("UpdateUser by an owner = %+v, %v; want nobody's, and sessions over", u, err)
	}
	if groups, err := w.Groups(ctx, in.User.ID); err != nil || len(groups[in.User.ID]) != 0 {
		t.Errorf("Groups then = %q, %v; want none", groups, err)
	}
	if _, err := w.UpdateUser(ctx, admin("admin"), in.User.ID, again); err != nil {
		t.Errorf("when there is nothing to change: %v", err)
	}
	if got, err := w.Login(ctx, "ana", "a good password", peer); err != nil || got.User.ID != in.User.ID || got.User.Subject != "id of the new entry" {
		t.Errorf("Login = %+v, %v; want the user of before", got, err)
	}
	if got := w.facts(t, "user.updated"); len(got) != 1 {
		t.Errorf("audit log: %q", got)
	}
}

func TestAnAddressThatIsNotVerifiedIsNotKept(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	w.provider(t, "directory", "one")
	a := ana()
	a.Unverified = true
	w.add("one", a, "ana")
	in, err := w.Login(ctx, "ana", "a good password", "192.0.2.1")
	if err != nil || in.User.Username != "ana" || in.User.Email != "" {
		t.Errorf("Login = %+v, %v; want a user without an address", in, err)
	}
}

func TestTwoFirstSignInsMakeOneUser(t *testing.T) {
	w := newWorld(t)
	w.provider(t, "directory", "one")
	w.add("one", ana(), "ana")
	var in [2]identity.SignedIn
	var errs [2]error
	side := func(i int) func(storage.DB) {
		return func(db storage.DB) {
			in[i], errs[i] = w.replica(t, db).Login(ctx, "ana", "a good password", fmt.Sprintf("192.0.2.%d", i))
		}
	}
	storagetest.Overlap(w.db, side(0), side(1))
	if errors.Join(errs[:]...) != nil || in[0].User.ID != in[1].User.ID || w.all(t) != "ana@example.com" {
		t.Errorf("two at once: %+v, %v; users are %s", in, errs, w.all(t))
	}
}

func TestADisabledUserIsTold(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	w.provider(t, "directory", "one")
	w.add("one", ana(), "ana")
	bea := w.create(t, identity.NewUser{Username: "bea", Password: "a good password"})
	in, err := w.Login(ctx, "ana", "a good password", "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	for login, id := range map[string]string{"ana": in.User.ID, "bea": bea.ID} {
		if _, err := w.UpdateUser(ctx, identity.Local(), id, identity.UserChange{Disabled: ptr(true)}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Login(ctx, login, "a good password", "192.0.2.1"); !errors.Is(err, identity.ErrDisabled) || !errors.Is(err, identity.ErrBadLogin) {
			t.Errorf("Login of %s = %v, want ErrDisabled", login, err)
		}
		if _, err := w.Login(ctx, login, "wrong", "192.0.2.1"); errors.Is(err, identity.ErrDisabled) || !errors.Is(err, identity.ErrBadLogin) {
			t.Errorf("Login of %s with another password = %v, want only ErrBadLogin", login, err)
		}
	}
}

func TestARoleCountsWhereTheProviderIsForAdministrators(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	p := w.provider(t, "directory", "one")
	w.add("one", ana(), "ana")
	in, err := w.Login(ctx, "ana", "a good password", "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.UpdateUser(ctx, identity.Local(), in.User.ID, identity.UserChange{Role: ptr(identity.RoleOwner)}); err != nil {
		t.Fatal(err)
	}
	acting := func(want bool) {
		t.Helper()
		u, by, err := w.Acting(ctx, in.User.ID)
		if err != nil || u.ID != in.User.ID || by.User != "ana@example.com" || by.Allows(identity.ScopeOwner) != want {
			t.Errorf("Acting = %+v, %v; want an owner: %v", by, err, want)
		}
	}
	acting(false)
	uses := identity.ProviderChange{Uses: &[]identity.Use{identity.UseAdmin}, RequireSecondFactor: ptr(false)}
	if _, err := w.UpdateProvider(ctx, identity.Local(), p.ID, uses); err != nil {
		t.Fatal(err)
	}
	acting(true)
	uses.RequireSecondFactor = ptr(true)
	if _, err := w.UpdateProvider(ctx, identity.Local(), p.ID, uses); err != nil {
		t.Fatal(err)
	}
	acting(false) // until there is one
	w.enable(t, p, false)
	if _, _, err := w.Acting(ctx, in.User.ID); !errors.Is(err, identity.ErrUnauthenticated) {
		t.Errorf("Acting while the provider is off = %v, want ErrUnauthenticated", err)
	}
	if _, _, err := w.Acting(ctx, "none"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Acting of nobody = %v, want ErrNotFound", err)
	}
}

func TestATokenOfWhoseProviderIsOffIsNotTaken(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	p := w.provider(t, "directory", "one")
	w.add("one", ana(), "ana")
	// One token was made for a name that nobody had yet.
	secrets := map[string]string{}
	token := func(name string) {
		t.Helper()
		n := identity.NewToken{Name: name, Scopes: []identity.Scope{identity.ScopeCertSelf}, User: "ana@example.com"}
		_, secret, err := w.CreateToken(ctx, identity.Local(), n)
		if err != nil {
			t.Fatal(err)
		}
		secrets[name] = secret.Reveal()
	}
	token("before")
	if _, err := w.Login(ctx, "ana", "a good password", peer); err != nil {
		t.Fatal(err)
	}
	token("after")
	taken := func(when string, want error) {
		t.Helper()
		for name, secret := range secrets {
			if by, err := w.Authenticate(ctx, secret); !errors.Is(err, want) || (err == nil) != (want == nil) {
				t.Errorf("the token of %s, %s: %+v, %v; want %v", name, when, by, err, want)
			}
		}
	}
	taken("while the provider is on", nil)
	w.enable(t, p, false)
	taken("while it is off", identity.ErrUnauthenticated)
	w.enable(t, p, true)
	taken("when it is on again", nil)
	if err := w.DeleteProvider(ctx, identity.Local(), p.ID, true); err != nil {
		t.Fatal(err)
	}
	taken("when it is gone", identity.ErrUnauthenticated)
}

func TestWhatSomebodyMayEnrolWith(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	personal := w.provider(t, "directory", "one", func(c *identity.ProviderChange) {
		c.Uses, c.Groups = &[]identity.Use{identity.UsePersonal}, &[]string{"STAFF", "cn=boss"}
	})
	w.add("one", person("staff"), "staff")
	guest := person("guest")
	guest.Groups = []string{"guests"}
	w.add("one", guest, "guest")
	for _, login := range []string{"staff", "guest"} {
		if _, err := w.Login(ctx, login, "a good password", "192.0.2.1"); err != nil {
			t.Fatal(err)
		}
	}
	w.create(t, identity.NewUser{Username: "awaited", Provider: personal.ID})
	w.create(t, identity.NewUser{Username: "local"})
	w.create(t, identity.NewUser{Username: "noright", NoEnroll: true})
	disabled := w.create(t, identity.NewUser{Username: "disabled"})
	if _, err := w.UpdateUser(ctx, identity.Local(), disabled.ID, identity.UserChange{Disabled: ptr(true)}); err != nil {
		t.Fatal(err)
	}
	uses := &[]identity.Use{identity.UseAdmin, identity.UseInstitutional}
	if _, err := w.UpdateProvider(ctx, identity.Local(), identity.LocalProvider, identity.ProviderChange{Uses: uses}); err != nil {
		t.Fatal(err)
	}
	const institutional, own = identity.UseInstitutional, identity.UsePersonal
	for name, tt := range map[string]struct {
		login string
		uses  []identity.Use
		want  identity.Denial
	}{
		"a name that nobody has":           {"anybody@example.com", []identity.Use{own}, ""},
		"a local user":                     {"local", []identity.Use{institutional}, ""},
		"a local user, another way":        {"local", []identity.Use{own}, identity.DeniedProvider},
		"a local user, one way of two":     {"local", []identity.Use{own, institutional}, ""},
		"a local user, however":            {"local", nil, ""},
		"a user without the right":         {"noright", []identity.Use{institutional}, identity.DeniedUser},
		"a user who is disabled":           {"disabled", []identity.Use{institutional}, identity.DeniedDisabled},
		"a user in a group":                {"staff", []identity.Use{own}, ""},
		"a user in a group, by address":    {"Staff@example.com", []identity.Use{own}, ""},
		"a user in a group, another way":   {"staff", []identity.Use{institutional}, identity.DeniedProvider},
		"a user in another group":          {"guest", []identity.Use{own}, identity.DeniedGroup},
		"a user who has not signed in yet": {"awaited", []identity.Use{own}, identity.DeniedGroup},
	} {
		t.Run(name, func(t *testing.T) {
			err := w.db.View(ctx, func(tx storage.Tx) error { return identity.MayEnroll(tx, tt.login, tt.uses...) })
			var denied *identity.DeniedError
			if tt.want == "" && err != nil || tt.want != "" && (!errors.As(err, &denied) || denied.Denial != tt.want || !errors.Is(err, identity.ErrMayNotEnroll)) {
				t.Errorf("MayEnroll = %v, want %q", err, tt.want)
			}
		})
	}
	w.enable(t, personal, false)
	err := w.db.View(ctx, func(tx storage.Tx) error { return identity.MayEnroll(tx, "staff", own) })
	if !errors.Is(err, identity.ErrMayNotEnroll) {
		t.Errorf("MayEnroll while the provider is off = %v", err)
	}
}

func TestHowPeopleCanSignIn(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	local := identity.ProviderChange{Uses: &[]identity.Use{identity.UseAdmin}}
	if _, err := w.UpdateProvider(ctx, identity.Local(), identity.LocalProvider, local); err != nil {
		t.Fatal(err)
	}
	w.provider(t, "sso", "personal", func(c *identity.ProviderChange) { c.Uses = &[]identity.Use{identity.UsePersonal} })
	w.provider(t, "sso", "off", func(c *identity.ProviderChange) { c.Enabled = ptr(false) })
	w.provider(t, "directory", "one", func(c *identity.ProviderChange) { c.Uses = &[]identity.Use{identity.UseUser} })
	for _, tt := range []struct {
		uses      []identity.Use
		passwords bool
		redirects string
	}{
		{nil, true, "personal"},
		{[]identity.Use{identity.UseAdmin}, true, ""},
		{[]identity.Use{identity.UsePersonal}, false, "personal"},
		{[]identity.Use{identity.UseInstitutional, identity.UsePersonal}, false, "personal"},
		{[]identity.Use{identity.UseUser}, true, ""},
		{[]identity.Use{identity.UseInstitutional}, false, ""},
	} {
		ways, err := w.Ways(ctx, tt.uses...)
		var redirects []string
		for _, p := range ways.Redirects {
			redirects = append(redirects, p.Name)
		}
		if err != nil || ways.Passwords != tt.passwords || strings.Join(redirects, " ") != tt.redirects {
			t.Errorf("Ways(%v) = %v, %q, %v; want %v, %q", tt.uses, ways.Passwords, redirects, err, tt.passwords, tt.redirects)
		}
	}
}

func TestTheWaitGrows(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	w.create(t, identity.NewUser{Username: "ana", Password: "a good password"})
	fail := func() time.Duration {
		t.Helper()
		for range 9 {
			_, err := w.Login(ctx, "ana", "", "192.0.2.1")
			if errors.Is(err, identity.ErrThrottled) {
				return identity.RetryAfter(err)
			}
		}
		t.Fatal("not throttled")
		return 0
	}
	for i, want := range []time.Duration{15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour, 4 * time.Hour} {
		got := fail()
		if got != want {
			t.Errorf("the wait is %v the %d. time, want %v", got, i+1, want)
		}
		w.at.Advance(got - time.Second)
		if _, err := w.Login(ctx, "ana", "a good password", "192.0.2.1"); identity.RetryAfter(err) != time.Second {
			t.Errorf("a second before the end: %v", err)
		}
		if _, err := w.Login(ctx, "ana", "a good password", "192.0.2.77"); i == 0 && err != nil {
			t.Errorf("from elsewhere: %v", err)
		}
		w.at.Advance(time.Second)
	}
	w.at.Advance(25 * time.Hour) // and nothing is tried for a day
	if got := fail(); got != 15*time.Minute {
		t.Errorf("after a day the wait is %v, want 15m", got)
	}
	w.at.Advance(15 * time.Minute)
	if _, err := w.Login(ctx, "ana", "a good password", "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	if got := fail(); got != 15*time.Minute {
		t.Errorf("after a login the wait is %v, want 15m", got)
	}
}

func TestGuessesAreCounted(t *testing.T) {
	w := newWorld(t)
	for i := range 20 {
		if err := w.CountGuess(ctx, "short code", fmt.Sprintf("2001:db8::%x", i)); err != nil {
			t.Fatalf("guess %d: %v", i+1, err)
		}
	}
	err := w.replica(t, w.db).CountGuess(ctx, "short code", "2001:db8::ffff")
	if !errors.Is(err, identity.ErrThrottled) || identity.RetryAfter(err) != 15*time.Minute {
		t.Errorf("guess 21 = %v, want ErrThrottled for 15m", err)
	}
	for name, err := range map[string]error{
		"of something else":    w.CountGuess(ctx, "other", "2001:db8::1"),
		"from another network": w.CountGuess(ctx, "short code", "2001:db8:1::1"),
	} {
		if err != nil {
			t.Errorf("a guess %s: %v", name, err)
		}
	}
	if err := w.ForgiveGuess(ctx, "short code", "2001:db8::1"); err != nil {
		t.Fatal(err)
	}
	if err := w.CountGuess(ctx, "short code", "2001:db8::1"); err != nil {
		t.Errorf("after one was right: %v", err)
	}
	w.at.Advance(15 * time.Minute)
	if err := w.CountGuess(ctx, "short code", "2001:db8::1"); err != nil {
		t.Errorf("after a quarter of an hour: %v", err)
	}
}

// tries is how many wrong passwords are looked at before somebody has to wait.
func (w *world) tries(t *testing.T, peer string, logins ...string) int {
	t.Helper()
	for n := range 100 {
		if _, err := w.Login(ctx, logins[n%len(logins)], "", peer); errors.Is(err, identity.ErrThrottled) {
			return n
		}
	}
	return 100
}

func TestAllNamesOfAnAccountAreCountedTogether(t *testing.T) {
	for name, logins := range map[string][]string{
		"username and address of a user of this server": {"bea", "bea@example.com"},
		"username and address of a directory's user":    {"ana", "ana@example.com"},
		"what a directory may take for one of them":     {"ana", "ａna", "aｎａ", "AN\u00adA", "a\u0301na", "a na", "\u200bana"},
		"a login with an accent, in parts":              {"josé", "jose\u0301", "JOSE\u0301"},
		"a name that nobody has yet":                    {"zoe", "ＺOE", "zoe\u00ad", "zoë"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.create(t, identity.NewUser{Username: "bea", Email: "bea@example.com", Password: "a good password"})
			w.create(t, identity.NewUser{Username: "josé", Password: "a good password"})
			w.provider(t, "directory", "one")
			w.add("one", ana(), "ana", "ａna")
			if _, err := w.Login(ctx, "ａna", "a good password", "198.51.100.9"); err != nil {
				t.Fatal(err)
			}
			if n := w.tries(t, peer, logins...); n != 8 {
				t.Errorf("%d tries of %q, want 8", n, logins)
			}
			for _, login := range logins {
				if _, err := w.Login(ctx, login, "a good password", peer); !errors.Is(err, identity.ErrThrottled) {
					t.Errorf("Login(%q) then = %v, want ErrThrottled", login, err)
				}
			}
			if n := w.tries(t, peer, "another"); n != 8 {
				t.Errorf("%d tries of another, want 8", n)
			}
		})
	}
}

// Behind one address with somebody who guesses, the owner waits, but not for hours.
func TestWhereTheOwnerLoggedInTheWaitStaysShort(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	w.create(t, identity.NewUser{Username: "bea", Password: "a good password", Role: identity.RoleOwner})
	for range 4 {
		if _, err := w.Login(ctx, "bea", "a good password", peer); err != nil {
			t.Fatal(err)
		}
		if n := w.tries(t, peer, "bea"); n != 8 {
			t.Errorf("%d tries, want 8", n)
		}
		_, err := w.Login(ctx, "bea", "a good password", peer)
		if wait := identity.RetryAfter(err); wait <= 0 || wait > 15*time.Minute {
			t.Errorf("then the owner waits for %v (%v), want a quarter of an hour at most", wait, err)
		}
		w.at.Advance(identity.RetryAfter(err))
		if _, err := w.Login(ctx, "bea", "", peer); !errors.Is(err, identity.ErrBadLogin) { // the next quarter
			t.Fatal(err)
		}
	}
}

func TestASchoolSharesAnAddress(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	for i := range 300 {
		if _, err := w.Login(ctx, fmt.Sprint("pupil", i), "", peer); !errors.Is(err, identity.ErrBadLogin) {
			t.Fatalf("a wrong password of pupil %d: %v", i, err)
		}
	}
	if _, err := w.Login(ctx, "another", "", peer); !errors.Is(err, identity.ErrThrottled) {
		t.Errorf("one more: %v, want ErrThrottled", err)
	}
}
