package storage_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestALeaseHasOneHolderUntilItEnds(t *testing.T) {
	db := storagetest.Open(t)
	now := noon
	clock := func() time.Time { return now }
	const ttl = time.Minute
	acquire := func(holder string) bool {
		t.Helper()
		ok, err := storage.Acquire(t.Context(), db, "renewals", holder, ttl, clock)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	renew := func(holder string) bool {
		t.Helper()
		ok, err := storage.Renew(t.Context(), db, "renewals", holder, ttl, clock)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	release := func(holder string) bool {
		t.Helper()
		if err := storage.Release(t.Context(), db, "renewals", holder); err != nil {
			t.Fatal(err)
		}
		return true
	}
	for i, step := range []struct {
		after time.Duration
		do    func(string) bool
		who   string
		want  bool
		why   string
	}{
		{0, renew, "a", false, "a lease that nobody has can't be renewed"},
		{0, acquire, "a", true, "it is free"},
		{0, acquire, "b", false, "a has it"},
		{0, renew, "b", false, "a has it"},
		{ttl - 1, acquire, "b", false, "a has it for a moment more"},
		{0, renew, "a", true, "a has it"},
		{ttl - 1, acquire, "b", false, "a has renewed it"},
		{1, acquire, "b", true, "it has ended"},
		{0, renew, "a", false, "b has it"},
		{0, release, "a", true, "what a does not have, it releases to no effect"},
		{0, acquire, "a", false, "b still has it"},
		{0, acquire, "b", true, "b may take it again"},
		{0, release, "b", true, "b is done"},
		{0, renew, "b", false, "b has released it"},
		{0, acquire, "a", true, "it is free"},
		{10 * ttl, renew, "a", true, "it has ended, and nobody took it"},
	} {
		now = now.Add(step.after)
		if got := step.do(step.who); got != step.want {
			t.Errorf("step %d by %s: %v, want %v: %s", i, step.who, got, step.want, step.why)
		}
	}
	for _, bad := range []struct {
		name, holder string
		ttl          time.Duration
	}{{"", "a", ttl}, {"x", "", ttl}, {"x", "a", 0}} {
		if _, err := storage.Acquire(t.Context(), db, bad.name, bad.holder, bad.ttl, clock); err == nil {
			t.Errorf("Acquire(%+v): no error", bad)
		}
	}
}

func TestOneOfManyGetsALease(t *testing.T) {
	db := storagetest.Open(t)
	var mu sync.Mutex
	var winners []string
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			holder := fmt.Sprint("replica ", i)
			ok, err := storage.Acquire(t.Context(), db, "x", holder, time.Minute, atNoon)
			if err != nil {
				t.Error(err)
			}
			if ok {
				mu.Lock()
				winners = append(winners, holder)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(winners) != 1 {
		t.Errorf("%q got it, want one", winners)
	}
}
