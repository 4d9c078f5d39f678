package identity_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

func TestUsersAreListedInPagesByWhatTheyAreCalled(t *testing.T) {
	w := newTown(t)
	for _, n := range []identity.NewUser{
		{Username: "zoe"}, {Username: "aaa", Email: "Mia@example.com"}, {Email: "bea@example.com"}, {Username: "zz", Email: "anton@example.com"},
		{Username: "mia"}, {Email: "Cyd@example.com", Role: identity.RoleHelpdesk}, {Username: "ana@corp.example", Email: "y@example.com"},
	} {
		w.create(t, n)
	}
	everybody := []string{"anton@example.com", "bea@example.com", "Cyd@example.com", "mia", "Mia@example.com", w.owner.Login(), "y@example.com", "zoe"}
	slices.SortFunc(everybody, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	for _, tt := range []struct {
		filter identity.UserFilter
		want   []string
	}{
		{identity.UserFilter{}, everybody},
		{identity.UserFilter{Role: identity.RoleHelpdesk}, []string{"Cyd@example.com"}},
		{identity.UserFilter{Text: "mia"}, []string{"mia", "Mia@example.com"}},
		{identity.UserFilter{Text: "zz"}, []string{"anton@example.com"}},
	} {
		for _, limit := range []int{1, 2, 3, 100} {
			var got []string
			for cursor, pages := "", 0; pages < 20; pages++ {
				list, next, err := w.FindUsers(ctx, tt.filter, cursor, limit)
				if err != nil || len(list) > limit {
					t.Fatalf("FindUsers(%+v, %q, %d) = %d users, %v", tt.filter, cursor, limit, len(list), err)
				}
				for _, u := range list {
					got = append(got, u.Login())
				}
				if cursor = next; next == "" {
					break
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("FindUsers(%+v) by %d lists %q, want %q", tt.filter, limit, got, tt.want)
			}
		}
	}

	// Who comes and goes shifts nothing, not even whoever the cursor is behind.
	list, next, err := w.Users(ctx, "", 2)
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	email := "zzz@example.com"
	if _, err := w.UpdateUser(ctx, w.owner.Principal(), list[1].ID, identity.UserChange{Email: &email}); err != nil {
		t.Fatal(err)
	}
	w.create(t, identity.NewUser{Email: "aaa@example.com"})
	if list, _, err = w.Users(ctx, next, 1); err != nil || len(list) != 1 || list[0].Login() != everybody[2] {
		t.Errorf("behind %s is %v, %v; want %s", everybody[1], list, err, everybody[2])
	}
	for _, bad := range []string{"x", "Zm9v", "bA"} {
		if _, _, err := w.Users(ctx, bad, 2); !errors.Is(err, storage.ErrBadCursor) {
			t.Errorf("Users with the cursor %q = %v, want ErrBadCursor", bad, err)
		}
	}
}

// TestAPageOfManyUsersIsFull is about a town whose usernames all stand between two addresses.
func TestAPageOfManyUsersIsFull(t *testing.T) {
	w := newTown(t)
	many := make([]identity.User, 12_000)
	for i := range many {
		many[i] = identity.User{ID: fmt.Sprintf("u%05d", i), Username: fmt.Sprintf("emp%05d", i), Email: fmt.Sprintf("z%05d@example.com", i), FullName: "Kim", Role: identity.RoleUser}
	}
	many[len(many)-1].FullName = "Robin"
	for part := range slices.Chunk(many, 2000) {
		if err := w.db.Update(ctx, func(tx storage.Tx) error { return identity.PutUsers(tx, part...) }); err != nil {
			t.Fatal(err)
		}
	}
	list, next, err := w.Users(ctx, "", 100)
	if err != nil || len(list) != 100 || next == "" || list[1].Email != "z00000@example.com" {
		t.Fatalf("the first page has %d users, then %q, %v", len(list), next, err)
	}
	if list, next, err = w.Users(ctx, next, 100); err != nil || len(list) != 100 || next == "" || list[0].Email != "z00099@example.com" {
		t.Errorf("the next one has %d users, then %q, %v", len(list), next, err)
	}
	if list, next, err = w.FindUsers(ctx, identity.UserFilter{Text: "robin"}, "", 50); err != nil || len(list) != 1 || next != "" {
		t.Errorf("of that name there are %d, then %q, %v", len(list), next, err)
	}
}

// What a search finds by the index is what it would find in the users themselves, however long
// their names are, page by page.
func TestASearchFindsWhomItShould(t *testing.T) {
	w := newTown(t)
	random := rand.New(rand.NewPCG(7, 11))
	syllables := []string{"an", "Be", "ÇI", "do", "北", "ö", "ki", "lu", "Ma", "İst"}
	word := func(n int) (text string) {
		for range n {
			text += syllables[random.IntN(len(syllables))]
		}
		return text
	}
	many := make([]identity.User, 300)
	for i := range many {
		u := identity.User{
			ID: fmt.Sprintf("u%03d", i), Username: fmt.Sprintf("%s%d", strings.ToLower(word(1+random.IntN(3))), i), FullName: word(2) + " " + word(1+random.IntN(4)),
			Role: []identity.Role{identity.RoleUser, identity.RoleAdmin, identity.RoleHelpdesk}[random.IntN(3)], Disabled: random.IntN(3) == 0,
		}
		if random.IntN(2) == 0 {
			u.Email = fmt.Sprintf("%s%d@example.com", strings.ToLower(word(2)), i)
		}
		if i%20 == 0 { // more than an index can say
			u.FullName, u.ManagedAppleAccount = strings.Repeat("北", 255)+word(3), fmt.Sprintf("%s%03d@example.com", strings.Repeat("x", 240), i)
		}
		many[i] = u
	}
	many[1].Username, many[1].Email = strings.Repeat("Ⱥ", 127), "" // which takes more bytes in lower case
	if err := w.db.Update(ctx, func(tx storage.Tx) error { return identity.PutUsers(tx, many...) }); err != nil {
		t.Fatal(err)
	}
	everybody, _, err := w.Users(ctx, "", 1000)
	if err != nil || len(everybody) != len(many)+1 {
		t.Fatalf("%d users are listed, %v", len(everybody), err)
	}
	for range 300 {
		var f identity.UserFilter
		for range random.IntN(3) {
			f.Text += word(1) + " "
		}
		if random.IntN(3) == 0 {
			f.Role = identity.RoleAdmin
		}
		if random.IntN(3) == 0 {
			off := random.IntN(2) == 0
			f.Disabled = &off
		}
		var want, got []string
		for _, u := range everybody {
			all := strings.ToLower(u.Username + "\n" + u.Email + "\n" + u.FullName + "\n" + u.ManagedAppleAccount)
			lacks := func(word string) bool { return !strings.Contains(all, word) }
			if (f.Role == "" || f.Role == u.Role) && (f.Disabled == nil || *f.Disabled == u.Disabled) && !slices.ContainsFunc(strings.Fields(strings.ToLower(f.Text)), lacks) {
				want = append(want, u.ID)
			}
		}
		for cursor, limit := "", 1+random.IntN(40); ; {
			page, next, err := w.FindUsers(ctx, f, cursor, limit)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range page {
				got = append(got, u.ID)
			}
			if next == "" {
				break
			}
			if len(page) != limit {
				t.Fatalf("a page of %d has %d users", limit, len(page))
			}
			cursor = next
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%+v finds %v, want %v", f, got, want)
		}
	}
}

func BenchmarkFindUsers(b *testing.B) {
	w := newTown(b)
	many := make([]identity.User, 20_000)
	for i := range many {
		many[i] = identity.User{ID: fmt.Sprintf("u%05d", i), Username: fmt.Sprintf("emp%05d", i), Email: fmt.Sprintf("z%05d@example.com", i), FullName: "Kim Example", Role: identity.RoleUser}
	}
	for part := range slices.Chunk(many, 2000) {
		if err := w.db.Update(ctx, func(tx storage.Tx) error { return identity.PutUsers(tx, part...) }); err != nil {
			b.Fatal(err)
		}
	}
	for name, f := range map[string]identity.UserFilter{"nobody": {Text: "robin"}, "everybody": {}, "a role": {Role: identity.RoleAdmin}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := w.FindUsers(ctx, f, "", 50); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A database from before users were indexed by what they are called gets the index.
func TestUsersOfBeforeAreListed(t *testing.T) {
	w := newTown(t)
	w.create(t, identity.NewUser{Username: "bea", Email: "bea@example.com"})
	err := w.db.Update(ctx, func(tx storage.Tx) error {
		for item, err := range tx.Scan("identity.users.found", storage.Range{}) {
			if err != nil {
				return err
			}
			if err := tx.Delete("identity.users.found", item.Key); err != nil {
				return err
			}
		}
		return tx.Put("identity.users.name", []byte("bea@example.com"), []byte("bea"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if list, _, err := w.Users(ctx, "", 10); err != nil || len(list) != 0 {
		t.Fatalf("without the index: %v, %v", list, err)
	}
	steps := []storage.Migration{{Version: 2, Name: "names", Apply: identity.IndexUsers}}
	for range 2 {
		if err := storage.Migrate(ctx, w.db, w.at.Now, steps); err != nil {
			t.Fatal(err)
		}
	}
	if list, _, err := w.Users(ctx, "", 10); err != nil || len(list) != 2 {
		t.Errorf("with it: %v, %v", list, err)
	}
	email := "cyd@example.com"
	list, _, err := w.FindUsers(ctx, identity.UserFilter{Text: "bea"}, "", 10)
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	if _, err := w.UpdateUser(ctx, w.owner.Principal(), list[0].ID, identity.UserChange{Email: &email}); err != nil {
		t.Fatal(err)
	}
	if list, _, err := w.Users(ctx, "", 10); err != nil || len(list) != 2 || list[1].Email != email && list[0].Email != email {
		t.Errorf("after a change: %v, %v", list, err)
	}
}

func TestWhenUsersLastSignedIn(t *testing.T) {
	w := newTown(t)
	bea := w.create(t, identity.NewUser{Email: "bea@example.com", Password: "a long password"})
	cyd := w.create(t, identity.NewUser{Email: "cyd@example.com", Password: "a long password"})
	if _, err := w.Login(ctx, "bea@example.com", "a long password", "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Login(ctx, "cyd@example.com", "a wrong password", "192.0.2.1"); err == nil {
		t.Fatal("a wrong password is taken")
	}
	last, err := w.LastSignIns(ctx, bea.ID, cyd.ID)
	if err != nil || len(last) != 1 || !last[bea.ID].Equal(w.at.Now()) {
		t.Errorf("last sign-ins are %v, %v; want that of bea at %s", last, err, w.at.Now())
	}
}
