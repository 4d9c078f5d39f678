package bolt_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
)

func put(key string) func(storage.Tx) error {
	return func(tx storage.Tx) error { return tx.Put("things", []byte(key), []byte(key)) }
}

func has(t testing.TB, db storage.DB, key string) bool {
	t.Helper()
	err := db.View(t.Context(), func(tx storage.Tx) error {
		_, err := tx.Get("things", []byte(key))
		return err
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Get(%s): %v", key, err)
	}
	return err == nil
}

// crowd is a number of Updates that wait behind one that is held up.
type crowd struct {
	db    *bolt.DB
	first chan error    // the result of the one in front
	go_   chan struct{} // closed: it may go on
	wg    sync.WaitGroup
	mu    sync.Mutex
	errs  []error // of those behind
}

// holdUp starts an Update, runs fn in it, and keeps it there.
func holdUp(t *testing.T, db *bolt.DB, fn func(storage.Tx) error) *crowd {
	t.Helper()
	c := &crowd{db: db, first: make(chan error, 1), go_: make(chan struct{})}
	inside := make(chan struct{})
	go func() {
		c.first <- db.Update(context.Background(), func(tx storage.Tx) error {
			close(inside)
			<-c.go_
			return fn(tx)
		})
	}()
	<-inside
	return c
}

// add starts an Update behind those that are there, and returns when it waits.
func (c *crowd) add(ctx context.Context, fn func(storage.Tx) error) {
	n := c.db.Waiting()
	c.wg.Go(func() {
		err := c.db.Update(ctx, fn)
		c.mu.Lock()
		c.errs = append(c.errs, err)
		c.mu.Unlock()
	})
	for c.db.Waiting() == n {
		runtime.Gosched()
	}
}

// release lets all go on and returns their results, the first one's apart.
func (c *crowd) release() (behind []error, first error) {
	close(c.go_)
	c.wg.Wait()
	return c.errs, <-c.first
}

func TestUpdatesThatWaitTogetherShareOneCommit(t *testing.T) {
	for name, tt := range map[string]struct{ behind, commits int }{
		"a lone one has its own":   {behind: 0, commits: 1},
		"two share one":            {behind: 1, commits: 1},
		"a full batch shares one":  {behind: bolt.MaxBatch - 1, commits: 1},
		"one more is a batch more": {behind: bolt.MaxBatch, commits: 2},
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t, filepath.Join(t.TempDir(), "gatehouse.db"))
			before := db.Commits()
			c := holdUp(t, db, put("first"))
			for i := range tt.behind {
				c.add(t.Context(), put(fmt.Sprint("k", i)))
			}
			behind, first := c.release()
			if err := errors.Join(append(behind, first)...); err != nil {
				t.Errorf("Update: %v", err)
			}
			if got := db.Commits() - before; got != tt.commits {
				t.Errorf("%d updates took %d commits, want %d", 1+tt.behind, got, tt.commits)
			}
			for i := range tt.behind {
				if !has(t, db, fmt.Sprint("k", i)) {
					t.Errorf("k%d was acknowledged and is not there", i)
				}
			}
		})
	}
}

func TestAnUpdateThatWritesNothingCommitsNothing(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "gatehouse.db"))
	before := db.Commits()
	errMine := errors.New("mine")
	for name, fn := range map[string]func(storage.Tx) error{
		"reads": func(tx storage.Tx) error { _, _ = tx.Get("things", []byte("k")); return nil },
		"fails": func(tx storage.Tx) error { _ = put("k")(tx); return errMine },
	} {
		if err := db.Update(t.Context(), fn); err != nil && err != errMine {
			t.Errorf("an update that %s: %v", name, err)
		}
	}
	if got := db.Commits(); got != before {
		t.Errorf("%d commits, want none", got-before)
	}
}

func TestAContextThatEndsInTheQueueRunsNoClosure(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "gatehouse.db"))
	c := holdUp(t, db, put("first"))
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		gone <- db.Update(ctx, func(storage.Tx) error {
			t.Error("the closure ran")
			return nil
		})
	}()
	for db.Waiting() == 0 {
		runtime.Gosched()
	}
	c.add(t.Context(), put("behind"))
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("Update: %v, want context.Canceled", err)
	}
	behind, first := c.release()
	if err := errors.Join(append(behind, first)...); err != nil {
		t.Errorf("the others: %v", err)
	}
	if !has(t, db, "first") || !has(t, db, "behind") {
		t.Error("the others' writes are missing")
	}
}

// Contexts that end just when the turn comes must neither lose the turn nor the batch.
func TestContextsThatEndAtAnyMomentHoldNobodyUp(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "gatehouse.db"))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 100 {
				key := fmt.Sprintf("%d-%d", i, j)
				ctx, cancel := context.WithCancel(t.Context())
				if i%2 == 0 {
					go cancel()
				}
				err := db.Update(ctx, put(key))
				cancel()
				if err != nil && (i%2 != 0 || !errors.Is(err, context.Canceled)) {
					t.Errorf("Update: %v", err)
				}
				if there := has(t, db, key); there != (err == nil) {
					t.Errorf("Update returned %v, and its write is there: %v", err, there)
				}
			}
		})
	}
	wg.Wait()
}

func TestAFailedCommitReachesAllThatDependOnIt(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "gatehouse.db"))
	if err := db.Update(t.Context(), put("before")); err != nil {
		t.Fatal(err)
	}
	db.SetMaxSize(db.Pages() * db.PageSize())
	errUsed := errors.New("used")
	c := holdUp(t, db, put("first"))
	c.add(t.Context(), func(tx storage.Tx) error {
		return tx.Put("things", []byte("large"), make([]byte, 8<<20-100))
	})
	c.add(t.Context(), put("small"))
	c.add(t.Context(), func(tx storage.Tx) error { // says no because of what will not last
		if _, err := tx.Get("things", []byte("first")); err != nil {
			return err
		}
		return errUsed
	})
	c.add(t.Context(), func(tx storage.Tx) error { return nil })
	behind, first := c.release()
	for _, err := range append(behind, first) {
		if !errors.Is(err, storage.ErrCommit) {
			t.Errorf("Update: %v, want ErrCommit", err)
		} else if strings.Contains(err.Error(), "restart") {
			t.Errorf("Update: %v, where a longer file would do", err)
		}
	}
	for _, key := range []string{"first", "large", "small"} {
		if has(t, db, key) {
			t.Errorf("%s was not acknowledged and is there", key)
		}
	}
	db.SetMaxSize(0)
	if err := db.Update(t.Context(), put("after")); err != nil {
		t.Errorf("Update once there is room: %v", err)
	}
	if !has(t, db, "before") || !has(t, db, "after") {
		t.Error("what was acknowledged is missing")
	}
	if err := db.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
}

func TestCloseWaitsForThoseWhoCameBefore(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "gatehouse.db"))
	c := holdUp(t, db, put("first"))
	for i := range 5 {
		c.add(t.Context(), put(fmt.Sprint(i)))
	}
	closed := make(chan error)
	n := db.Waiting()
	go func() { closed <- db.Close() }()
	for db.Waiting() == n {
		runtime.Gosched()
	}
	if err := db.Update(t.Context(), put("late")); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("Update behind Close: %v, want ErrClosed", err)
	}
	behind, first := c.release()
	if err := errors.Join(append(behind, first, <-closed)...); err != nil {
		t.Errorf("before Close: %v", err)
	}
}
