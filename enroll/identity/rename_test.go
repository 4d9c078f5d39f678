package identity_test

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestWhatIsKeptUnderALoginMovesWhenItIsGivenUp(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		change identity.UserChange
		gone   []string // nil: nothing moves
		to     string
	}{
		"another username":                  {identity.UserChange{Username: ptr("beatrix")}, []string{"bea"}, "bea@example.com"},
		"another address":                   {identity.UserChange{Email: ptr("b@example.com")}, []string{"bea@example.com"}, "b@example.com"},
		"no address any more":               {identity.UserChange{Email: ptr("")}, []string{"bea@example.com"}, "bea"},
		"another username and address":      {identity.UserChange{Username: ptr("b"), Email: ptr("b@example.com")}, []string{"bea", "bea@example.com"}, "b@example.com"},
		"the address as username":           {identity.UserChange{Username: ptr("bea@example.com")}, []string{"bea"}, "bea@example.com"},
		"the same in other letters":         {change: identity.UserChange{Username: ptr("BEA"), Email: ptr("Bea@example.com")}},
		"the address moves to the username": {identity.UserChange{Username: ptr("bea@example.com"), Email: ptr("")}, []string{"bea"}, "bea@example.com"},
		"another name of the person":        {change: identity.UserChange{FullName: ptr("Bea B.")}},
		"another username, and the end":     {identity.UserChange{Username: ptr("b"), Disabled: ptr(true)}, []string{"bea"}, "bea@example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTown(t)
			bea := w.create(t, identity.NewUser{Username: "bea", Email: "bea@example.com"})
			var gone []string
			var to string
			w.onRename = func(tx storage.Tx, logins []string, u identity.User) error {
				for _, login := range logins {
					if _, err := identity.UserByLogin(tx, login); !errors.Is(err, storage.ErrNotFound) {
						t.Errorf("in the transaction %q is still somebody's: %v", login, err)
					}
				}
				gone, to = slices.Sorted(slices.Values(logins)), u.Login()
				return nil
			}
			w.onDisable = func(storage.Tx, identity.User) error {
				if gone == nil {
					t.Error("what a user has ended before it was moved")
				}
				return nil
			}
			if _, err := w.UpdateUser(ctx, identity.Local(), bea.ID, tt.change); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(gone, tt.gone) || to != tt.to {
				t.Errorf("moved from %q to %q, want from %q to %q", gone, to, tt.gone, tt.to)
			}
		})
	}
}

func TestALoginStaysWhereItsThingsCantBeMoved(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newTown(t)
	bea := w.create(t, identity.NewUser{Email: "bea@example.com"})
	failing := errors.New("no moves today")
	w.onRename = func(storage.Tx, []string, identity.User) error { return failing }
	_, err := w.UpdateUser(ctx, identity.Local(), bea.ID, identity.UserChange{Username: ptr("b"), Email: ptr("b@example.com")})
	if !errors.Is(err, failing) {
		t.Errorf("UpdateUser = %v, want %v", err, failing)
	}
	if u, err := w.byLogin(t, "bea@example.com"); err != nil || !reflect.DeepEqual(u, bea) {
		t.Errorf("the user is %+v (%v), want %+v still", u, err, bea)
	}
}

func TestATokenFollowsItsUserToAnotherLogin(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newTown(t)
	token := func(name string) (id string, acts func() string) {
		t.Helper()
		made, secret, err := w.CreateToken(ctx, identity.Local(), identity.NewToken{Name: name, Scopes: []identity.Scope{"cert:self"}, User: "Bea@example.com"})
		if err != nil {
			t.Fatal(err)
		}
		return made.ID, func() string {
			t.Helper()
			p, err := w.Authenticate(ctx, secret.Reveal())
			if err != nil {
				t.Fatal(err)
			}
			return p.User
		}
	}
	early, earlyActs := token("before there was such a user")
	bea := w.create(t, identity.NewUser{Email: "bea@example.com"})
	late, lateActs := token("when there was one")
	if _, err := w.UpdateUser(ctx, identity.Local(), bea.ID, identity.UserChange{Username: ptr("b"), Email: ptr("b@example.com")}); err != nil {
		t.Fatal(err)
	}
	w.create(t, identity.NewUser{Email: "bea@example.com"}) // another Bea
	others, othersActs := token("the other's")

	list, _, err := w.Tokens(ctx, "", 10)
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{}
	for _, token := range list {
		told[token.ID] = token.User
	}
	for _, tt := range []struct {
		id   string
		acts func() string
		want string
	}{{early, earlyActs, "b@example.com"}, {late, lateActs, "b@example.com"}, {others, othersActs, "bea@example.com"}} {
		if got := tt.acts(); got != tt.want {
			t.Errorf("a token acts for %s, want %s", got, tt.want)
		}
		if got := told[tt.id]; !strings.EqualFold(got, tt.want) {
			t.Errorf("a token is listed as %s's, want %s", got, tt.want)
		}
	}
}
