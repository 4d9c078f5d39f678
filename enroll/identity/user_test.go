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
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

var ctx = context.Background()

// auditLog writes into the real one, as cmd has it.
type auditLog struct{ *event.Recorder }

func eventOf(f identity.Fact) event.Event {
	return event.Event{At: f.At, Actor: f.Actor, Action: f.Action, Reason: f.Reason, User: f.User, Peer: f.Peer, Details: f.Details}
}

func (auditLog) Record(tx storage.Tx, f identity.Fact) error    { return event.Record(tx, eventOf(f)) }
func (a auditLog) Refused(ctx context.Context, f identity.Fact) { a.Recorder.Refused(ctx, eventOf(f)) }

// town is a Service with an owner, an audit log, and hooks that tests set.
type town struct {
	*identity.Service
	db        storage.DB
	at        *clock
	events    *event.Recorder
	owner     identity.User
	onDisable func(tx storage.Tx, u identity.User) error
	onRename  func(tx storage.Tx, gone []string, u identity.User) error
}

func newTown(t testing.TB) *town {
	t.Helper()
	w := &town{db: storagetest.Open(t), at: &clock{now: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)}}
	log := slog.New(slog.DiscardHandler)
	var err error
	if w.events, err = event.New(event.Config{DB: w.db, Log: log, Now: w.at.Now}); err != nil {
		t.Fatal(err)
	}
	w.Service, err = identity.New(identity.Config{
		DB: w.db, Log: log, Now: w.at.Now, HashMemory: 64, Audit: auditLog{w.events},
		OnDisable: func(tx storage.Tx, u identity.User) error {
			if w.onDisable == nil {
				return nil
			}
			return w.onDisable(tx, u)
		},
		OnRename: func(tx storage.Tx, gone []string, u identity.User) error {
			if w.onRename == nil {
				return nil
			}
			return w.onRename(tx, gone, u)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.CreateOwner(ctx, ownerEmail, ownerPassword); err != nil {
		t.Fatal(err)
	}
	in, err := w.Login(ctx, ownerEmail, ownerPassword, "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	w.owner = in.User
	return w
}

func (w *town) create(t *testing.T, n identity.NewUser) identity.User {
	t.Helper()
	u, err := w.CreateUser(ctx, identity.Local(), n)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (w *town) byLogin(t *testing.T, login string) (u identity.User, err error) {
	t.Helper()
	err = w.db.View(ctx, func(tx storage.Tx) (err error) {
		u, err = identity.UserByLogin(tx, login)
		return err
	})
	return u, err
}

// facts returns the actions of the audit log, oldest first, and forgets nothing.
func (w *town) facts(t *testing.T, f event.Filter) (facts []event.Event) {
	t.Helper()
	list, _, err := w.events.Page(ctx, f, "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(list) - 1; i >= 0; i-- {
		facts = append(facts, list[i])
	}
	return facts
}

func admin(scope identity.Scope) identity.Principal {
	return identity.Principal{Kind: identity.KindToken, Name: string(scope), Scopes: []identity.Scope{scope}}
}

func ptr[T any](v T) *T { return &v }

func TestUserIsMade(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		make   identity.NewUser
		logins []string
		upn    string
		role   identity.Role
	}{
		"with an e-mail address only":   {identity.NewUser{Email: " Bea@example.com "}, []string{"bea@EXAMPLE.com"}, "Bea@example.com", "user"},
		"with a username beside it":     {identity.NewUser{Username: "bea", Email: "bea@example.com", Role: "helpdesk"}, []string{"bea", "bea@example.com"}, "bea@example.com", "helpdesk"},
		"with a username like one":      {identity.NewUser{Username: "bea@corp.example", Email: "bea@example.com"}, []string{"bea@corp.example"}, "bea@corp.example", "user"},
		"with a username only":          {identity.NewUser{Username: "Bea", Role: "owner"}, []string{"bea"}, "", "owner"},
		"with the longest name":         {identity.NewUser{Username: "bea", FullName: strings.Repeat("é", 255)}, []string{"bea"}, "", "user"},
		"with a Managed Apple Account":  {identity.NewUser{Username: "bea", ManagedAppleAccount: "bea@appleid.example.com"}, []string{"bea"}, "", "user"},
		"with an address of two labels": {identity.NewUser{Email: "o'neil+mdm@localhost"}, []string{"o'neil+mdm@localhost"}, "o'neil+mdm@localhost", "user"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTown(t)
			made, err := w.CreateUser(ctx, w.owner.Principal(), tt.make)
			if err != nil {
				t.Fatal(err)
			}
			if made.UPN() != tt.upn || made.Role != tt.role || made.Disabled || made.ID == "" {
				t.Errorf("CreateUser(%+v) = %+v with UPN %q, want role %s and UPN %q", tt.make, made, made.UPN(), tt.role, tt.upn)
			}
			for _, login := range tt.logins {
				if u, err := w.byLogin(t, login); err != nil || !reflect.DeepEqual(u, made) {
					t.Errorf("UserByLogin(%q) = %+v, %v; want %+v", login, u, err, made)
				}
			}
			if u, err := w.User(ctx, made.ID); err != nil || !reflect.DeepEqual(u, made) {
				t.Errorf("User = %+v, %v; want %+v", u, err, made)
			}
			facts := w.facts(t, event.Filter{Action: "user.created", User: made.Login()})
			if len(facts) != 1 || facts[0].Actor != "user:"+ownerEmail || facts[0].Details["role"] != string(tt.role) {
				t.Errorf("audit log: %+v, want that the owner made a user with the role %s", facts, tt.role)
			}
		})
	}
}

func TestUserIsNotMade(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newTown(t)
	w.create(t, identity.NewUser{Username: "cyd", Email: "cyd@example.com", ManagedAppleAccount: "cyd@appleid.example.com"})
	before, _, err := w.Users(ctx, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 256)
	for name, tt := range map[string]struct {
		make  identity.NewUser
		field string // "" where it is ErrTaken
	}{
		"without any name":                    {identity.NewUser{FullName: "Bea"}, "email"},
		"with a space in the username":        {identity.NewUser{Username: "be a"}, "username"},
		"with a colon in the username":        {identity.NewUser{Username: "be:a"}, "username"},
		"with a line in the username":         {identity.NewUser{Username: "be\na"}, "username"},
		"with what can't be seen":             {identity.NewUser{Username: "be\u202ea"}, "username"},
		"with a username like no address":     {identity.NewUser{Username: "bea@"}, "username"},
		"with a long username":                {identity.NewUser{Username: long}, "username"},
		"with a long username of few letters": {identity.NewUser{Username: strings.Repeat("字", 200)}, "username"},
		"with bytes that are no text":         {identity.NewUser{Username: "\xff"}, "username"},
		"with an e-mail without an @":         {identity.NewUser{Email: "bea"}, "email"},
		"with two addresses":                  {identity.NewUser{Email: "bea@example.com,eve@example.com"}, "email"},
		"with a name at the address":          {identity.NewUser{Email: "Bea <bea@example.com>"}, "email"},
		"with a quoted address":               {identity.NewUser{Email: `"be a"@example.com`}, "email"},
		"with a comment in the address":       {identity.NewUser{Email: "bea(x)@example.com"}, "email"},
		"with two @":                          {identity.NewUser{Email: "bea@x@example.com"}, "email"},
		"with a long local part":              {identity.NewUser{Email: long[:65] + "@example.com"}, "email"},
		"with a long address":                 {identity.NewUser{Email: "bea@" + long + ".example.com"}, "email"},
		"with a line in the address":          {identity.NewUser{Email: "bea@example.com\nx"}, "email"},
		"with a long name":                    {identity.NewUser{Username: "bea", FullName: long}, "full_name"},
		"with a line in the name":             {identity.NewUser{Username: "bea", FullName: "Be\na"}, "full_name"},
		"with a strange Apple Account":        {identity.NewUser{Username: "bea", ManagedAppleAccount: "bea"}, "managed_apple_account"},
		"with a role that is none":            {identity.NewUser{Username: "bea", Role: "root"}, "role"},
		"with a short password":               {identity.NewUser{Username: "bea", Password: "1234567"}, "password"},
		"with a very long password":           {identity.NewUser{Username: "bea", Password: strings.Repeat(long, 5)}, "password"},
		"with another's username":             {identity.NewUser{Username: "CYD"}, ""},
		"with another's address":              {identity.NewUser{Email: "Cyd@Example.com"}, ""},
		"with another's address as username":  {identity.NewUser{Username: "cyd@example.com", Email: "bea@example.com"}, ""},
		"with another's Apple Account":        {identity.NewUser{Username: "bea", ManagedAppleAccount: "CYD@appleid.example.com"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.CreateUser(ctx, identity.Local(), tt.make)
			var field *identity.FieldError
			switch {
			case tt.field == "" && !errors.Is(err, identity.ErrTaken):
				t.Errorf("CreateUser = %v, want ErrTaken", err)
			case tt.field != "" && (!errors.As(err, &field) || field.Field != tt.field || !errors.Is(err, identity.ErrInvalid)):
				t.Errorf("CreateUser = %v, want an error about %s", err, tt.field)
			}
		})
	}
	after, _, err := w.Users(ctx, "", 100)
	if err != nil || len(after) != len(before) {
		t.Errorf("%d users (%v), want %d still", len(after), err, len(before))
	}
}

func TestOnlyOwnersMakeAndChangeAdministrators(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newTown(t)
	targets := map[identity.Role]identity.User{}
	roles := []identity.Role{"user", "read_only", "helpdesk", "admin", "owner"}
	for _, role := range roles {
		targets[role] = w.create(t, identity.NewUser{Username: "a-" + string(role), Role: role})
	}
	for _, by := range []identity.Scope{"owner", "admin", "helpdesk", "read_only", "cert:manage", "cert:any", ""} {
		may := func(role identity.Role) bool {
			return by == "owner" || by == "admin" && role != "admin" && role != "owner"
		}
		check := func(what string, allowed bool, err error) {
			t.Helper()
			if allowed && err != nil || !allowed && !errors.Is(err, identity.ErrForbidden) {
				t.Errorf("%q: %s = %v, allowed is %v", by, what, err, allowed)
			}
		}
		for i, role := range roles {
			_, err := w.CreateUser(ctx, admin(by), identity.NewUser{Username: fmt.Sprintf("%s-%d", strings.ReplaceAll(string(by), ":", "-"), i), Role: role})
			check("make a "+string(role), may(role), err)

			_, err = w.UpdateUser(ctx, admin(by), targets[role].ID, identity.UserChange{FullName: ptr("named by " + string(by))})
			check("name a "+string(role), may(role), err)

			_, err = w.UpdateUser(ctx, admin(by), targets[role].ID, identity.UserChange{Password: ptr("a password of " + string(by))})
			check("give a password to a "+string(role), may(role), err)

			_, err = w.UpdateUser(ctx, admin(by), targets["user"].ID, identity.UserChange{Role: &role})
			check("turn a user into a "+string(role), may(role), err)
			if _, err := w.UpdateUser(ctx, identity.Local(), targets["user"].ID, identity.UserChange{Role: ptr(identity.RoleUser)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Whether there is such a user is not for everybody to know.
	if _, err := w.UpdateUser(ctx, admin("helpdesk"), "nobody", identity.UserChange{}); !errors.Is(err, identity.ErrForbidden) {
		t.Errorf("UpdateUser of nobody by helpdesk = %v, want ErrForbidden", err)
	}
	if _, err := w.UpdateUser(ctx, admin("admin"), "nobody", identity.UserChange{}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("UpdateUser of nobody by an administrator = %v, want ErrNotFound", err)
	}
}

func TestUserIsChanged(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		change identity.UserChange
		want   func(u *identity.User)
		fields string // in the audit log; empty: nothing is
	}{
		"nothing": {identity.UserChange{}, func(*identity.User) {}, ""},
		"to what it is": {
			identity.UserChange{Username: ptr(" bea"), FullName: ptr("Bea"), Role: ptr(identity.RoleUser), NoEnroll: ptr(false), Disabled: ptr(false)},
			func(*identity.User) {}, "",
		},
		"the username":  {identity.UserChange{Username: ptr("beatrix")}, func(u *identity.User) { u.Username = "beatrix" }, "username"},
		"the address":   {identity.UserChange{Email: ptr("b@example.com")}, func(u *identity.User) { u.Email = "b@example.com" }, "email"},
		"to no address": {identity.UserChange{Email: ptr("")}, func(u *identity.User) { u.Email = "" }, "email"},
		"username and address, which change places": {
			identity.UserChange{Username: ptr("bea@example.com"), Email: ptr("")},
			func(u *identity.User) { u.Username, u.Email = "bea@example.com", "" }, "username, email",
		},
		"several things": {
			identity.UserChange{FullName: ptr("Bea B."), ManagedAppleAccount: ptr("b@appleid.example.com"), NoEnroll: ptr(true), Role: ptr(identity.RoleHelpdesk)},
			func(u *identity.User) {
				u.FullName, u.ManagedAppleAccount, u.NoEnroll, u.Role = "Bea B.", "b@appleid.example.com", true, "helpdesk"
			}, "full_name, managed_apple_account, can_enroll, role",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTown(t)
			want := w.create(t, identity.NewUser{Username: "bea", Email: "bea@example.com", FullName: "Bea"})
			got, err := w.UpdateUser(ctx, w.owner.Principal(), want.ID, tt.change)
			if err != nil {
				t.Fatal(err)
			}
			tt.want(&want)
			if stored, err := w.User(ctx, want.ID); err != nil || !reflect.DeepEqual(stored, want) || !reflect.DeepEqual(got, want) {
				t.Errorf("UpdateUser = %+v, stored is %+v (%v); want %+v", got, stored, err, want)
			}
			for _, login := range want.Logins() {
				if u, err := w.byLogin(t, login); err != nil || u.ID != want.ID {
					t.Errorf("UserByLogin(%q) = %+v, %v; want %s", login, u, err, want.ID)
				}
			}
			facts := w.facts(t, event.Filter{Action: "user.updated"})
			if tt.fields == "" && len(facts) != 0 || tt.fields != "" && (len(facts) != 1 || facts[0].Details["changed"] != tt.fields) {
				t.Errorf("audit log: %+v, want that these changed: %q", facts, tt.fields)
			}
		})
	}
}

func TestUserIsNotChanged(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newTown(t)
	w.create(t, identity.NewUser{Username: "cyd", ManagedAppleAccount: "cyd@appleid.example.com"})
	want := w.create(t, identity.NewUser{Username: "bea", Email: "bea@example.com"})
	for name, tt := range map[string]struct {
		change identity.UserChange
		field  string
	}{
		"to no username":           {identity.UserChange{Username: ptr(" ")}, "username"},
		"to a strange username":    {identity.UserChange{Username: ptr("b a")}, "username"},
		"to a strange address":     {identity.UserChange{Email: ptr("bea")}, "email"},
		"to a long name":           {identity.UserChange{FullName: ptr(strings.Repeat("x", 256))}, "full_name"},
		"to a strange account":     {identity.UserChange{ManagedAppleAccount: ptr("x")}, "managed_apple_account"},
		"to a role that is none":   {identity.UserChange{Role: ptr(identity.Role(""))}, "role"},
		"to no password":           {identity.UserChange{Password: ptr("")}, "password"},
		"to another's username":    {identity.UserChange{Username: ptr("cyd")}, ""},
		"to another's account":     {identity.UserChange{ManagedAppleAccount: ptr("cyd@appleid.example.com")}, ""},
		"half of it is well":       {identity.UserChange{FullName: ptr("Bea"), Email: ptr("bea")}, "email"},
		"to the owner's address":   {identity.UserChange{Email: ptr(strings.ToLower(ownerEmail))}, ""},
		"to the owner by username": {identity.UserChange{Username: ptr(ownerEmail)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.UpdateUser(ctx, identity.Local(), want.ID, tt.change)
			var field *identity.FieldError
			if tt.field == "" && !errors.Is(err, identity.ErrTaken) || tt.field != "" && (!errors.As(err, &field) || field.Field != tt.field) {
				t.Errorf("UpdateUser = %v, want an error about %q", err, tt.field)
			}
			if u, err := w.User(ctx, want.ID); err != nil || !reflect.DeepEqual(u, want) {
				t.Errorf("then the user is %+v (%v), want %+v", u, err, want)
			}
		})
	}
}

func TestOfRacingUsersOneGetsTheName(t *testing.T) {
	w := newTown(t)
	var errs [2]error
	side := func(i int) func(storage.DB) {
		return func(db storage.DB) {
			_, errs[i] = replica(t, db, w.at, "").CreateUser(ctx, identity.Local(), identity.NewUser{Username: fmt.Sprint("bea-", i), Email: "bea@example.com"})
		}
	}
	storagetest.Overlap(w.db, side(0), side(1))
	if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs[:]...), identity.ErrTaken) {
		t.Errorf("two who want one address: %v; want one ErrTaken", errs)
	}
}

func TestWhoIsDisabledIsOut(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newTown(t)
	bea := w.create(t, identity.NewUser{Username: "bea", Email: "bea@example.com", Password: "a good password"})
	login := func() error {
		_, err := w.Login(ctx, "bea", "a good password", "192.0.2.2")
		return err
	}
	token := func(user string) func() error {
		_, secret, err := w.CreateToken(ctx, identity.Local(), identity.NewToken{Name: "hers", Scopes: []identity.Scope{"cert:self"}, User: user})
		if err != nil {
			t.Fatal(err)
		}
		return func() error {
			p, err := w.Authenticate(ctx, secret.Reveal())
			if err == nil && p.User != user && p.User != "bea@example.com" {
				t.Errorf("the token acts for %q", p.User)
			}
			return err
		}
	}
	hers, byUsername, others := token("Bea@example.com"), token("bea"), token("cyd@example.com")
	if err := errors.Join(login(), hers(), byUsername(), others()); err != nil {
		t.Fatal(err)
	}

	failing := errors.New("no revocations today")
	w.onDisable = func(storage.Tx, identity.User) error { return failing }
	disable := func() (identity.User, error) {
		return w.UpdateUser(ctx, w.owner.Principal(), bea.ID, identity.UserChange{Disabled: ptr(true)})
	}
	if _, err := disable(); !errors.Is(err, failing) {
		t.Errorf("UpdateUser when the rest can't be ended = %v, want %v", err, failing)
	}
	if err := errors.Join(login(), hers()); err != nil {
		t.Errorf("then nothing has happened, but: %v", err)
	}

	ended := 0
	w.onDisable = func(tx storage.Tx, u identity.User) error {
		ended++
		if stored, err := identity.UserByLogin(tx, "bea"); err != nil || !reflect.DeepEqual(stored, u) || !u.Disabled {
			t.Errorf("in the transaction the user is %+v (%v), the hook is given %+v", stored, err, u)
		}
		return tx.Put("test.ended", []byte(u.ID), nil)
	}
	w.at.Advance(time.Second)
	disabled, err := disable()
	if err != nil || !disabled.Disabled || ended == 0 {
		t.Fatalf("UpdateUser = %+v, %v; want a user who is disabled, and the hook called", disabled, err)
	}
	if disabled.PasswordAt.Equal(bea.PasswordAt) {
		t.Error("sessions that began before stay valid")
	}
	if err := login(); !errors.Is(err, identity.ErrBadLogin) {
		t.Errorf("Login = %v, want ErrBadLogin", err)
	}
	for name, use := range map[string]func() error{"by e-mail": hers, "by username": byUsername} {
		if err := use(); !errors.Is(err, identity.ErrUnauthenticated) {
			t.Errorf("a token for the user %s: %v, want ErrUnauthenticated", name, err)
		}
	}
	if err := others(); err != nil {
		t.Errorf("a token for somebody else: %v", err)
	}
	ended = 0
	if _, err := disable(); err != nil || ended != 0 {
		t.Errorf("a second time: %v, and the hook called %d times; want neither", err, ended)
	}

	back, err := w.UpdateUser(ctx, w.owner.Principal(), bea.ID, identity.UserChange{Disabled: ptr(false)})
	if err != nil || back.Disabled || back.PasswordAt.Equal(bea.PasswordAt) {
		t.Errorf("UpdateUser = %+v, %v; want the user back, with sessions from before over", back, err)
	}
	if err := errors.Join(login(), hers()); err != nil {
		t.Errorf("and then: %v", err)
	}

	var got []string
	for _, e := range w.facts(t, event.Filter{User: "bea@example.com"}) {
		got = append(got, fmt.Sprintf("%s %s %s", e.Action, e.Outcome, e.Reason))
	}
	want := []string{"user.created ok ", "token.created ok ", "user.login ok ", "user.login ok ", "user.disabled ok ", "user.login refused the user is disabled", "user.enabled ok ", "user.login ok "}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("audit log of the user:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestATokenStaysItsUsers(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newTown(t)
	bea := w.create(t, identity.NewUser{Username: "bea"})
	made, secret, err := w.CreateToken(ctx, identity.Local(), identity.NewToken{Name: "hers", Scopes: []identity.Scope{"cert:self"}, User: "bea"})
	if err != nil || made.UserID != bea.ID {
		t.Fatalf("CreateToken = %+v, %v; want it to be of %s", made, err, bea.ID)
	}
	if _, err := w.UpdateUser(ctx, identity.Local(), bea.ID, identity.UserChange{Username: ptr("beatrix")}); err != nil {
		t.Fatal(err)
	}
	eve := w.create(t, identity.NewUser{Username: "bea"})
	if p, err := w.Authenticate(ctx, secret.Reveal()); err != nil || p.User != "beatrix" {
		t.Errorf("Authenticate = %+v, %v; want it to act for beatrix, not for %s, who has the name now", p, err, eve.ID)
	}
}

func TestAUserWithoutAPasswordCantLogIn(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newTown(t)
	bea := w.create(t, identity.NewUser{Username: "bea"})
	for _, password := range []string{"", "a good password"} {
		if _, err := w.Login(ctx, "bea", password, "192.0.2.2"); !errors.Is(err, identity.ErrBadLogin) {
			t.Errorf("Login with %q = %v, want ErrBadLogin", password, err)
		}
	}
	if _, err := w.UpdateUser(ctx, identity.Local(), bea.ID, identity.UserChange{Password: ptr("a good password")}); err != nil {
		t.Fatal(err)
	}
	if u, err := w.Login(ctx, "bea", "a good password", "192.0.2.2"); err != nil || u.User.ID != bea.ID {
		t.Errorf("Login = %+v, %v; want %s", u, err, bea.ID)
	}
	if holds(t, w.db, "a good password") {
		t.Error("the password stands in the database")
	}
}

func TestTheLastOwnerStays(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newTown(t)
	disable := identity.UserChange{Disabled: ptr(true)}
	demote := identity.UserChange{Role: ptr(identity.RoleAdmin)}
	change := func(id string, c identity.UserChange, want error) {
		t.Helper()
		if _, err := w.UpdateUser(ctx, identity.Local(), id, c); !errors.Is(err, want) {
			t.Errorf("UpdateUser(%s, %+v) = %v, want %v", id, c, err, want)
		}
	}
	change(w.owner.ID, disable, identity.ErrLastOwner)
	change(w.owner.ID, demote, identity.ErrLastOwner)
	locked := w.create(t, identity.NewUser{Username: "has-no-password", Role: identity.RoleOwner})
	change(w.owner.ID, disable, identity.ErrLastOwner)
	bea := w.create(t, identity.NewUser{Username: "bea", Role: identity.RoleAdmin, Password: "a good password"})
	change(w.owner.ID, disable, identity.ErrLastOwner)
	change(bea.ID, identity.UserChange{Role: ptr(identity.RoleOwner)}, nil)
	change(w.owner.ID, demote, nil)
	change(bea.ID, disable, identity.ErrLastOwner)
	change(locked.ID, disable, nil)
	change(w.owner.ID, identity.UserChange{Role: ptr(identity.RoleOwner)}, nil)
	change(bea.ID, disable, nil)
	if u, err := w.User(ctx, bea.ID); err != nil || !u.Disabled {
		t.Errorf("User = %+v, %v; want a user who is disabled", u, err)
	}
}

func TestOwnersWhoDisableEachOtherLeaveOne(t *testing.T) {
	for name, older := range map[string]bool{"now": false, "on a database of an older version": true} {
		t.Run(name, func(t *testing.T) {
			w := newTown(t)
			bea := w.create(t, identity.NewUser{Username: "bea", Role: identity.RoleOwner, Password: "a good password"})
			if older {
				err := w.db.Update(ctx, func(tx storage.Tx) error { return tx.Delete("identity.owners", []byte("owners")) })
				if err != nil {
					t.Fatal(err)
				}
			}
			var errs [2]error
			side := func(i int, by, of identity.User) func(storage.DB) {
				return func(db storage.DB) {
					_, errs[i] = replica(t, db, w.at, "").UpdateUser(ctx, by.Principal(), of.ID, identity.UserChange{Disabled: ptr(true)})
				}
			}
			storagetest.Overlap(w.db, side(0, w.owner, bea), side(1, bea, w.owner))
			if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs[:]...), identity.ErrLastOwner) {
				t.Errorf("two owners who disable each other: %v; want one ErrLastOwner", errs)
			}
		})
	}
}

func TestLoginsAreWrittenDown(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newTown(t)
	w.create(t, identity.NewUser{Username: "nologin"})
	for i, try := range [][2]string{{ownerEmail, "wrong"}, {"eve", "wrong"}, {"nologin", "wrong"}, {ownerEmail, ownerPassword}} {
		if _, err := w.Login(ctx, try[0], try[1], "192.0.2.1"); (err == nil) != (i == 3) {
			t.Fatalf("Login(%q) = %v", try, err)
		}
		w.at.Advance(time.Second)
	}
	var got []string
	for _, e := range w.facts(t, event.Filter{Action: "user.login"}) {
		got = append(got, fmt.Sprintf("%s|%s|%s|%s|%s", e.Outcome, e.Actor, e.User, e.Reason, e.Peer))
	}
	want := []string{
		"ok|user:Ana@Example.com|Ana@Example.com||192.0.2.1", // newTown's
		"refused||Ana@Example.com|wrong password|192.0.2.1",
		"refused|||there is no such user|192.0.2.1",
		"refused||nologin|the user has no password|192.0.2.1",
		"ok|user:Ana@Example.com|Ana@Example.com||192.0.2.1",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("audit log:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestLoginsThatAreTurnedAwayAreWrittenDown(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newTown(t)
	for range 12 {
		if _, err := w.Login(ctx, "eve", "wrong", "192.0.2.9"); err == nil {
			t.Fatal("eve is in")
		}
	}
	throttled := 0
	for _, e := range w.facts(t, event.Filter{Action: "user.login", Outcome: event.Refused}) {
		if e.Reason == identity.ErrThrottled.Error() {
			throttled++
		}
	}
	if throttled != 4 {
		t.Errorf("%d of 12 were turned away, as far as the audit log knows, want 4", throttled)
	}
}

func TestTokensAndTheSetupLinkAreWrittenDown(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newTown(t)
	by := w.owner.Principal()
	by.Peer = "192.0.2.1"
	made, secret, err := w.CreateToken(ctx, by, identity.NewToken{Name: "ci", Scopes: []identity.Scope{"admin", "cert:any"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.RevokeToken(ctx, by, made.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.RevokeToken(ctx, by, made.ID); !errors.Is(err, storage.ErrNotFound) {
		t.Fatal(err)
	}
	if _, err := w.Bootstrap(ctx, "a-token-of-somebody-else"); err != nil {
		t.Fatal(err)
	}
	facts := w.facts(t, event.Filter{Action: "token."})
	var got []string
	for _, e := range facts {
		got = append(got, fmt.Sprintf("%s|%s|%s|%s|%s", e.Action, e.Actor, e.Peer, e.Details["name"], e.Details["scopes"]))
		if text := fmt.Sprintf("%+v", e); strings.Contains(text, secret.Reveal()) || strings.Contains(text, made.Hash) {
			t.Errorf("the audit log tells the token's secret: %s", text)
		}
	}
	want := []string{
		"token.created|user:Ana@Example.com|192.0.2.1|ci|admin cert:any",
		"token.revoked|user:Ana@Example.com|192.0.2.1|ci|admin cert:any",
		"token.created|local:local||bootstrap|owner",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("audit log:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	link, _, err := w.NewSetupToken(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.RedeemSetupToken(ctx, link.Reveal()); err != nil {
		t.Fatal(err)
	}
	if facts := w.facts(t, event.Filter{Action: "setup_link.used"}); len(facts) != 1 {
		t.Errorf("audit log: %+v, want that a setup link was used", facts)
	}
}
