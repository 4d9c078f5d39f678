package acme

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func newBox(t testing.TB) *seal.Box {
	t.Helper()
	box, err := seal.New(bytes.Repeat([]byte{7}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return box
}

func openStore(t testing.TB, db storage.DB) *store {
	t.Helper()
	return newStore(db, newBox(t), slog.New(slog.DiscardHandler), func() time.Time { return noon })
}

func mustStore(t *testing.T, s *store, keys ...string) {
	t.Helper()
	for _, key := range keys {
		if err := s.Store(t.Context(), key, []byte("value of "+key)); err != nil {
			t.Fatalf("Store(%s) = %v", key, err)
		}
	}
}

func TestFilesComeBackOnAnotherReplica(t *testing.T) {
	db := storagetest.Open(t)
	a, b := openStore(t, db), openStore(t, db)
	for _, value := range []string{"first", "", "another one, longer than the first"} {
		if err := a.Store(t.Context(), "acme/ca/users/ana/ana.key", []byte(value)); err != nil {
			t.Fatal(err)
		}
		got, err := b.Load(t.Context(), "acme/ca/users/ana/ana.key")
		if err != nil || string(got) != value {
			t.Errorf("Load = %q, %v, want %q", got, err, value)
		}
		info, err := b.Stat(t.Context(), "acme/ca/users/ana/ana.key")
		want := certmagic.KeyInfo{Key: "acme/ca/users/ana/ana.key", Size: int64(len(value)), Modified: noon, IsTerminal: true}
		if err != nil || info != want {
			t.Errorf("Stat = %+v, %v, want %+v", info, err, want)
		}
	}
}

func TestDirectoriesAreWhatLeadsToFiles(t *testing.T) {
	s := openStore(t, storagetest.Open(t))
	// A name that sorts between a directory and what is in it, and one that begins like it.
	mustStore(t, s, "certs/ca/a.example/a.crt", "certs/ca/a.example/a.key", "certs/ca/a.example-2/b.crt", "certs/ca-other/c.crt", "certs.json", "x")

	for name, tt := range map[string]struct {
		dir       string
		recursive bool
		want      []string
		missing   bool
	}{
		"the root":                     {dir: "", want: []string{"certs", "certs.json", "x"}},
		"a directory of directories":   {dir: "certs", want: []string{"certs/ca", "certs/ca-other"}},
		"a directory of files":         {dir: "certs/ca/a.example", want: []string{"certs/ca/a.example/a.crt", "certs/ca/a.example/a.key"}},
		"all below a directory":        {dir: "certs/ca", recursive: true, want: []string{"certs/ca/a.example", "certs/ca/a.example-2", "certs/ca/a.example-2/b.crt", "certs/ca/a.example/a.crt", "certs/ca/a.example/a.key"}},
		"a file has nothing below it":  {dir: "certs.json"},
		"what is not there":            {dir: "nothing", missing: true},
		"half a name is no directory":  {dir: "cert", missing: true},
		"a name that goes on after it": {dir: "certs/ca/a", missing: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := s.List(t.Context(), tt.dir, tt.recursive)
			if !slices.Equal(got, tt.want) || errors.Is(err, fs.ErrNotExist) != tt.missing || err != nil && !tt.missing {
				t.Errorf("List(%q, %v) = %q, %v, want %q", tt.dir, tt.recursive, got, err, tt.want)
			}
		})
	}
	for key, want := range map[string]struct{ exists, file bool }{
		"certs.json":             {true, true},
		"certs":                  {true, false},
		"certs/ca":               {true, false},
		"certs/ca/a":             {false, false},
		"certs/ca/a.example/a.c": {false, false},
		"nothing":                {false, false},
	} {
		info, err := s.Stat(t.Context(), key)
		if exists := s.Exists(t.Context(), key); exists != want.exists || info.IsTerminal != want.file || errors.Is(err, fs.ErrNotExist) == want.exists {
			t.Errorf("%s: Exists = %v, Stat = %+v, %v, want %+v", key, exists, info, err, want)
		}
		if _, err := s.Load(t.Context(), key); (err == nil) != want.file || err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Load(%s) = %v, want a file: %v", key, err, want.file)
		}
	}
}

func TestDeletingADirectoryDeletesWhatIsInIt(t *testing.T) {
	s := openStore(t, storagetest.Open(t))
	for name, tt := range map[string]struct {
		key  string
		left []string
	}{
		"a file":            {"a/b/1", []string{"a", "a/b", "a/b-2", "a/b/2", "c"}},
		"a directory":       {"a/b", []string{"a", "a/b-2", "c"}},
		"what is not there": {"a/x", []string{"a", "a/b", "a/b-2", "a/b/1", "a/b/2", "c"}},
	} {
		t.Run(name, func(t *testing.T) {
			mustStore(t, s, "a/b/1", "a/b/2", "a/b-2", "c")
			if err := s.Delete(t.Context(), tt.key); err != nil {
				t.Fatal(err)
			}
			if got, err := s.List(t.Context(), "", true); err != nil || !slices.Equal(got, tt.left) {
				t.Errorf("left: %q, %v, want %q", got, err, tt.left)
			}
		})
	}
}

func TestTheDatabaseAloneTellsNoSecret(t *testing.T) {
	db := storagetest.Open(t)
	s := openStore(t, db)
	secret := []byte("-----BEGIN PRIVATE KEY-----")
	for _, key := range []string{"certificates/ca/a.key", "certificates/ca/b.key"} {
		if err := s.Store(t.Context(), key, secret); err != nil {
			t.Fatal(err)
		}
	}
	var found []item
	err := db.View(t.Context(), func(tx storage.Tx) error {
		found = nil
		for it, err := range items.All(tx, storage.Range{}) {
			if err != nil {
				return err
			}
			found = append(found, it)
		}
		return nil
	})
	if err != nil || len(found) != 2 || bytes.Contains(found[0].Value, []byte("PRIVATE")) {
		t.Fatalf("the database has %+v, %v", found, err)
	}
	// Nor can a key be put in another's place.
	found[0].Key = found[1].Key
	if err := db.Update(t.Context(), func(tx storage.Tx) error { return items.Put(tx, found[0]) }); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Load(t.Context(), found[1].Key); !errors.Is(err, seal.ErrTampered) {
		t.Errorf("Load of a value from elsewhere = %q, %v, want ErrTampered", got, err)
	}
}

func TestAContextThatHasEndedDoesNothing(t *testing.T) {
	s := openStore(t, storagetest.Open(t))
	mustStore(t, s, "a/b")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, loadErr := s.Load(ctx, "a/b")
	_, statErr := s.Stat(ctx, "a/b")
	_, listErr := s.List(ctx, "a", false)
	for name, err := range map[string]error{
		"Store": s.Store(ctx, "a/c", nil), "Load": loadErr, "Delete": s.Delete(ctx, "a/b"),
		"Stat": statErr, "List": listErr, "Lock": s.Lock(ctx, "l"),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s = %v, want context.Canceled", name, err)
		}
	}
	if s.Exists(ctx, "a/b") {
		t.Error("Exists = true after the context's end")
	}
	if got, err := s.List(t.Context(), "a", false); err != nil || !slices.Equal(got, []string{"a/b"}) {
		t.Errorf("left: %q, %v", got, err)
	}
}

// clock is a clock that stands until it is moved.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// replica is a store whose heart beats when the test says so.
type replica struct {
	*store
	beats chan time.Time
}

func (r replica) beat() {
	r.beats <- noon
	r.beats <- noon // it is taken when the first one has been dealt with
}

func newReplica(t *testing.T, db storage.DB, c *clock) replica {
	r := replica{openStore(t, db), make(chan time.Time)}
	r.now = c.now
	r.ticker = func(time.Duration) (<-chan time.Time, func()) { return r.beats, func() {} }
	return r
}

func (r replica) try(t *testing.T, name string, want bool, why string) {
	t.Helper()
	if got, err := r.TryLock(t.Context(), name); got != want || err != nil {
		t.Errorf("TryLock = %v, %v, want %v: %s", got, err, want, why)
	}
}

func (r replica) unlock(t *testing.T, name string) {
	t.Helper()
	if err := r.Unlock(t.Context(), name); err != nil {
		t.Errorf("Unlock = %v", err)
	}
}

func TestALockHasOneHolder(t *testing.T) {
	db, c := storagetest.Open(t), &clock{at: noon}
	a, b := newReplica(t, db, c), newReplica(t, db, c)
	a.try(t, "order", true, "it is free")
	a.try(t, "order", false, "this process has it, and another of its goroutines asks")
	b.try(t, "order", false, "another replica has it")
	b.try(t, "other", true, "another lock is free")
	for range 4 {
		c.pass(lockLife / 2)
		a.beat()
		b.try(t, "order", false, "its holder is alive")
	}
	if err := a.RenewLockLease(t.Context(), "order", time.Hour); err != nil {
		t.Errorf("RenewLockLease = %v", err)
	}
	if err := b.RenewLockLease(t.Context(), "order", time.Hour); err == nil {
		t.Error("RenewLockLease of another's lock succeeded")
	}
	b.unlock(t, "order")
	b.try(t, "order", false, "it was not b's to unlock")
	a.unlock(t, "order")
	b.try(t, "order", true, "it was unlocked")
	a.unlock(t, "order")
	a.try(t, "order", false, "to unlock twice takes it from nobody")
	b.unlock(t, "order")
	b.unlock(t, "other")
}

func TestALockOutlivesItsHolderByALittle(t *testing.T) {
	db, c := storagetest.Open(t), &clock{at: noon}
	dead, b := newReplica(t, db, c), newReplica(t, db, c)
	dead.try(t, "order", true, "it is free")
	c.pass(lockLife - 1)
	b.try(t, "order", false, "nobody can know yet")
	c.pass(1)
	b.try(t, "order", true, "nobody keeps it alive")

	// It was held up, not dead.
	dead.beats <- noon // it finds out, and stops to beat
	if err := dead.RenewLockLease(t.Context(), "order", time.Hour); !errors.Is(err, errLockLost) {
		t.Errorf("RenewLockLease of a lost lock = %v, want errLockLost", err)
	}
	dead.try(t, "order", false, "it was never unlocked here, and b has it")
	dead.unlock(t, "order")
	dead.try(t, "order", false, "b still has it")
	b.unlock(t, "order")
	dead.try(t, "order", true, "b has unlocked it")
	dead.unlock(t, "order")
}

func TestLockWaitsForUnlock(t *testing.T) {
	db := storagetest.Open(t)
	a, b := openStore(t, db), openStore(t, db)
	if err := a.Lock(t.Context(), "order"); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() { got <- b.Lock(t.Context(), "order") }()
	waiting, cancel := context.WithCancel(t.Context())
	impatient := make(chan error, 1)
	go func() { impatient <- a.Lock(waiting, "order") }()
	cancel()
	if err := <-impatient; !errors.Is(err, context.Canceled) {
		t.Errorf("Lock after its context's end = %v", err)
	}
	select {
	case err := <-got:
		t.Fatalf("Lock = %v while another had it", err)
	default:
	}
	if err := a.Unlock(t.Context(), "order"); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("Lock = %v after it was unlocked", err)
	}
	if err := b.Unlock(t.Context(), "order"); err != nil {
		t.Fatal(err)
	}
}

func TestOneOfManyGetsALock(t *testing.T) {
	db := storagetest.Open(t)
	var inside, entered atomic.Int32
	var wg sync.WaitGroup
	for _, s := range []*store{openStore(t, db), openStore(t, db), openStore(t, db)} {
		for range 3 {
			wg.Go(func() {
				got, err := s.TryLock(t.Context(), "order")
				if err != nil {
					t.Error(err)
				}
				if !got {
					return
				}
				entered.Add(1)
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d are inside", n)
				}
				runtime.Gosched()
				inside.Add(-1)
				if err := s.Unlock(t.Context(), "order"); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if entered.Load() == 0 {
		t.Error("nobody got it")
	}
}

func TestWhatIsLockedAtTheEndIsGivenBack(t *testing.T) {
	db := storagetest.Open(t)
	a, b := openStore(t, db), openStore(t, db)
	for _, name := range []string{"order", "account"} {
		if err := a.Lock(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.unlockAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"order", "account"} {
		if got, err := b.TryLock(t.Context(), name); !got || err != nil {
			t.Errorf("TryLock(%s) = %v, %v", name, got, err)
		}
	}
	if err := b.unlockAll(t.Context()); err != nil {
		t.Fatal(err)
	}
}
