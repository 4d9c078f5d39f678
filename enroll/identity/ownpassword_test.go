package identity_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestAPersonChangesTheirPassword(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	const old, fresh = "a good password", "a better password"
	bea := w.create(t, identity.NewUser{Username: "bea", Password: old})
	w.at.Advance(time.Minute)
	changed, err := w.ChangePassword(ctx, bea.ID, old, fresh, peer)
	if err != nil || !changed.PasswordAt.After(bea.PasswordAt) {
		t.Fatalf("ChangePassword = %v, %v; want that sessions from before end", changed.PasswordAt, err)
	}
	if _, err := w.Login(ctx, "bea", old, peer); !errors.Is(err, identity.ErrBadLogin) {
		t.Errorf("Login with the old one = %v, want ErrBadLogin", err)
	}
	if _, err := w.Login(ctx, "bea", fresh, peer); err != nil {
		t.Errorf("Login with the new one = %v", err)
	}
	if got := w.facts(t, "user.password_changed"); len(got) != 1 || !strings.Contains(got[0], "ok bea") {
		t.Errorf("audit log: %q", got)
	}
}

func TestWhosePasswordIsNotChanged(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	const old = "a good password"
	bea := w.create(t, identity.NewUser{Username: "bea", Password: old})
	none := w.create(t, identity.NewUser{Username: "none"})
	for name, tt := range map[string]struct {
		id, old, fresh string
		is             error
	}{
		"without the old one":           {bea.ID, "", "a better password", identity.ErrBadLogin},
		"with another old one":          {bea.ID, "a bad password", "a better password", identity.ErrBadLogin},
		"with a new one too short":      {bea.ID, old, "short", identity.ErrInvalid},
		"with a new one too long":       {bea.ID, old, strings.Repeat("x", 1025), identity.ErrInvalid},
		"of who has none here":          {none.ID, "", "a better password", identity.ErrElsewhere},
		"of who is nobody of this name": {"nobody", old, "a better password", storage.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := w.ChangePassword(ctx, tt.id, tt.old, tt.fresh, peer); !errors.Is(err, tt.is) {
				t.Errorf("ChangePassword = %v, want %v", err, tt.is)
			}
		})
	}
	if _, err := w.Login(ctx, "bea", old, peer); err != nil {
		t.Errorf("Login with the password that nobody changed = %v", err)
	}
	var throttled error
	for range 20 {
		if _, throttled = w.ChangePassword(ctx, bea.ID, "guess", "a better password", peer); errors.Is(throttled, identity.ErrThrottled) {
			break
		}
	}
	if !errors.Is(throttled, identity.ErrThrottled) {
		t.Errorf("the 20th guess of the old password = %v, want ErrThrottled", throttled)
	}
}

func TestOfTwoChangesOfAPasswordOneCounts(t *testing.T) {
	w := newWorld(t)
	const old = "a good password"
	bea := w.create(t, identity.NewUser{Username: "bea", Password: old})
	var errs [2]error
	side := func(i int, fresh string) func(storage.DB) {
		return func(db storage.DB) { _, errs[i] = w.replica(t, db).ChangePassword(ctx, bea.ID, old, fresh, peer) }
	}
	storagetest.Overlap(w.db, side(0, "mine, and only mine"), side(1, "another's, who knew it"))
	if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs[:]...), identity.ErrBadLogin) {
		t.Errorf("two changes at once: %v; want one ErrBadLogin", errs)
	}
}
