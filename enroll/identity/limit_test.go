package identity_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

func TestARoleIsLimitedToGroups(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	ana := w.create(t, identity.NewUser{Email: "hana@example.com", Role: identity.RoleHelpdesk, GroupIDs: []string{"b", "a", "b"}})
	if got := ana.Principal().Groups; !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("Groups = %q, want a and b once each", got)
	}
	if p := w.owner.Principal(); p.Limited() || p.Groups != nil {
		t.Errorf("the owner is limited to %q", p.Groups)
	}
	stamp := ana.Stamp()
	ana, err := w.UpdateUser(ctx, admin(identity.ScopeAdmin), ana.ID, identity.UserChange{GroupIDs: &[]string{"c"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := ana.Principal().Groups; !slices.Equal(got, []string{"c"}) || ana.Stamp() != stamp {
		t.Errorf("Groups = %q, want c, and the sessions to go on: %t", got, ana.Stamp() == stamp)
	}
	var limited, tokens []string
	look := func(group string) {
		t.Helper()
		if err := w.db.View(ctx, func(tx storage.Tx) (err error) {
			limited, tokens, err = identity.LimitedTo(tx, group)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	_, secret, err := w.CreateToken(ctx, admin(identity.ScopeOwner), identity.NewToken{Name: "shop", Scopes: []identity.Scope{identity.ScopeReadOnly}, GroupIDs: []string{"c"}})
	if err != nil {
		t.Fatal(err)
	}
	if look("c"); !slices.Equal(limited, []string{"hana@example.com"}) || !slices.Equal(tokens, []string{"shop"}) {
		t.Errorf("limited to c are %q and %q", limited, tokens)
	}
	if look("a"); limited != nil || tokens != nil {
		t.Errorf("limited to a are %q and %q, want nobody", limited, tokens)
	}
	p, err := w.Authenticate(ctx, secret.Reveal())
	if err != nil || !slices.Equal(p.Groups, []string{"c"}) {
		t.Errorf("Authenticate = %+v, %v, want one who is limited to c", p, err)
	}
	w.at.Advance(time.Second) // the log is in the order of times
	ana, err = w.UpdateUser(ctx, admin(identity.ScopeAdmin), ana.ID, identity.UserChange{GroupIDs: &[]string{}})
	if err != nil || ana.Principal().Limited() {
		t.Errorf("UpdateUser = %+v, %v, want no limit", ana, err)
	}
	facts := w.facts(t, event.Filter{Action: "user.updated"})
	if len(facts) != 2 || facts[1].Details["groups_before"] != "c" || facts[1].Details["groups"] != "" || facts[1].Details["changed"] != "group_ids" {
		t.Errorf("the audit log has %+v", facts)
	}
}

func TestLimitsThatAreRefused(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	many := make([]string, 101)
	for i := range many {
		many[i] = strings.Repeat("x", i%60+1) + string(rune('a'+i%26))
	}
	for name, n := range map[string]identity.NewUser{
		"of an owner":    {Email: "a@example.com", Role: identity.RoleOwner, GroupIDs: []string{"g"}},
		"too many":       {Email: "a@example.com", Role: identity.RoleHelpdesk, GroupIDs: many},
		"to an empty id": {Email: "a@example.com", Role: identity.RoleHelpdesk, GroupIDs: []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.CreateUser(ctx, w.owner.Principal(), n)
			wrong, ok := errors.AsType[*identity.FieldError](err)
			if !ok || wrong.Field != "group_ids" {
				t.Errorf("CreateUser = %v, want one that names group_ids", err)
			}
		})
	}
	for name, n := range map[string]identity.NewToken{
		"of an owner":       {Name: "x", Scopes: []identity.Scope{identity.ScopeOwner}, GroupIDs: []string{"g"}},
		"of a cert scope":   {Name: "x", Scopes: []identity.Scope{identity.ScopeReadOnly, identity.ScopeCertAny}, GroupIDs: []string{"g"}},
		"to a line of text": {Name: "x", Scopes: []identity.Scope{identity.ScopeReadOnly}, GroupIDs: []string{"g\n"}},
	} {
		t.Run("a token "+name, func(t *testing.T) {
			_, _, err := w.CreateToken(ctx, w.owner.Principal(), n)
			wrong, ok := errors.AsType[*identity.FieldError](err)
			if !ok || wrong.Field != "group_ids" {
				t.Errorf("CreateToken = %v, want one that names group_ids", err)
			}
		})
	}
}

func TestWhoIsLimitedManagesNobody(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	ben := w.create(t, identity.NewUser{Email: "ben@example.com", Role: identity.RoleHelpdesk})
	limited := admin(identity.ScopeAdmin)
	limited.Groups = []string{"g"}
	for name, try := range map[string]func() error{
		"make a user": func() error {
			_, err := w.CreateUser(ctx, limited, identity.NewUser{Email: "x@example.com"})
			return err
		},
		"limit another": func() error {
			_, err := w.UpdateUser(ctx, limited, ben.ID, identity.UserChange{GroupIDs: &[]string{"g"}})
			return err
		},
		"end sessions": func() error { return w.EndSessions(ctx, limited, ben.ID) },
		"make a token": func() error {
			_, _, err := w.CreateToken(ctx, limited, identity.NewToken{Name: "x", Scopes: []identity.Scope{identity.ScopeReadOnly}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := try(); !errors.Is(err, identity.ErrForbidden) {
				t.Errorf("error = %v, want ErrForbidden", err)
			}
		})
	}
}

// An owner whom a directory makes one, though limited, may not be the only one.
func TestTheLastOwnerIsNotLimited(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	if _, err := w.UpdateUser(ctx, admin(identity.ScopeOwner), w.owner.ID, identity.UserChange{GroupIDs: &[]string{"g"}}); err == nil {
		t.Error("the owner is limited")
	}
}
