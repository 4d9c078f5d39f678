package identity_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// replica is another server on the same database, and the same time.
func replica(t *testing.T, db storage.DB, at *clock, name string) *identity.Service {
	t.Helper()
	s, err := identity.New(identity.Config{DB: db, Log: slog.New(slog.DiscardHandler), Now: at.Now, HashMemory: 64, Replica: name})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestServersThatStartAtOnceMakeOneOfEach(t *testing.T) {
	ctx := context.Background()
	for name, first := range map[string]func(s *identity.Service, i int) (bool, error){
		"one bootstrap token of the same file": func(s *identity.Service, _ int) (bool, error) {
			return s.Bootstrap(ctx, "a-token-of-somebody-else")
		},
		"one bootstrap token of different files": func(s *identity.Service, i int) (bool, error) {
			return s.Bootstrap(ctx, fmt.Sprintf("a-token-of-replica-number-%d", i))
		},
		"one owner": func(s *identity.Service, i int) (bool, error) {
			return s.CreateOwner(ctx, fmt.Sprintf("owner-%d@example.com", i), ownerPassword)
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, db, at := open(t)
			var made [2]bool
			var errs [2]error
			start := func(i int) func(storage.DB) {
				return func(db storage.DB) { made[i], errs[i] = first(replica(t, db, at, ""), i) }
			}
			storagetest.Overlap(db, start(0), start(1))
			if made[0] == made[1] || errors.Join(errs[:]...) != nil {
				t.Errorf("made by each: %v, %v; want one", made, errs)
			}
		})
	}
}

func TestARevokedTokenLeavesNoUseBehind(t *testing.T) {
	ctx := context.Background()
	s, db, at := open(t)
	token, secret, err := s.CreateToken(ctx, identity.Local(), identity.NewToken{Name: "ci", Scopes: []identity.Scope{"admin"}})
	if err != nil {
		t.Fatal(err)
	}
	storagetest.Overlap(db,
		func(db storage.DB) {
			s := replica(t, db, at, "")
			if _, err := s.Authenticate(ctx, secret.Reveal()); err != nil && !errors.Is(err, identity.ErrUnauthenticated) {
				t.Error(err)
			}
			ended, stop := context.WithCancel(ctx)
			stop()
			if err := s.Run(ended); err != nil { // writes what is left
				t.Error(err)
			}
		},
		func(db storage.DB) {
			if err := replica(t, db, at, "").RevokeToken(ctx, identity.Local(), token.ID); err != nil {
				t.Error(err)
			}
		})
	err = db.View(ctx, func(tx storage.Tx) error {
		for _, bucket := range []string{"identity.tokens", "identity.token_uses"} {
			for item, err := range tx.Scan(bucket, storage.Range{}) {
				if err != nil {
					return err
				}
				t.Errorf("%s still holds %s", bucket, item.Value)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestLockoutsCountOverAllReplicas(t *testing.T) {
	ctx := context.Background()
	s, db, at := open(t)
	if _, err := s.CreateOwner(ctx, ownerEmail, ownerPassword); err != nil {
		t.Fatal(err)
	}
	replicas := []*identity.Service{s, replica(t, db, at, ""), replica(t, db, at, "")}
	var refused, throttled atomic.Int32
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			_, err := replicas[i%len(replicas)].Login(ctx, ownerEmail, "wrong", "192.0.2.7")
			switch {
			case errors.Is(err, identity.ErrBadLogin):
				refused.Add(1)
			case errors.Is(err, identity.ErrThrottled):
				throttled.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if refused.Load() != 8 || throttled.Load() != 16 {
		t.Errorf("of 24 wrong passwords at three replicas %d were looked at and %d turned away, want 8 and 16", refused.Load(), throttled.Load())
	}
	if _, err := replicas[2].Login(ctx, ownerEmail, ownerPassword, "192.0.2.7"); !errors.Is(err, identity.ErrThrottled) {
		t.Errorf("the right one then: %v, want ErrThrottled", err)
	}
}

func TestEachReplicaHasASetupTokenUntilOneIsUsed(t *testing.T) {
	ctx := context.Background()
	_, db, at := open(t)
	a, b := replica(t, db, at, "a"), replica(t, db, at, "b")
	setup := func(s *identity.Service) string {
		t.Helper()
		token, _, err := s.NewSetupToken(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return token.Reveal()
	}
	older, ofA, ofB := setup(a), setup(a), setup(b)
	if _, err := b.RedeemSetupToken(ctx, older); !errors.Is(err, identity.ErrSetupToken) {
		t.Errorf("one that its replica has replaced: %v, want ErrSetupToken", err)
	}
	if _, err := b.RedeemSetupToken(ctx, ofA); err != nil {
		t.Errorf("the first replica's at the second: %v", err)
	}
	if _, err := a.RedeemSetupToken(ctx, ofB); !errors.Is(err, identity.ErrSetupToken) {
		t.Errorf("the second replica's after that: %v, want ErrSetupToken", err)
	}
	if state, err := b.SetupState(ctx); err != nil || !state.Done || state.Open {
		t.Errorf("SetupState = %+v, %v; want done, none open", state, err)
	}
}

func TestAServerWithANewNameAtEachStartGetsASetupToken(t *testing.T) {
	ctx := context.Background()
	_, db, at := open(t)
	var tokens []string
	for i := range 20 {
		token, _, err := replica(t, db, at, fmt.Sprint("container ", i)).NewSetupToken(ctx)
		if err != nil {
			t.Fatalf("start %d: %v", i+1, err)
		}
		tokens = append(tokens, token.Reveal())
		at.Advance(time.Second)
	}
	s := replica(t, db, at, "another")
	if _, err := s.RedeemSetupToken(ctx, tokens[0]); !errors.Is(err, identity.ErrSetupToken) {
		t.Errorf("the first of 20 tokens: %v, want ErrSetupToken", err)
	}
	if _, err := s.RedeemSetupToken(ctx, tokens[19]); err != nil {
		t.Errorf("the last of 20 tokens: %v", err)
	}
}
