package storagetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// deletedStaysDeleted is about a session that is prolonged while its user signs out: what
// was read and is written again must not be there after it was deleted in between.
func deletedStaysDeleted(t *testing.T, db storage.DB) {
	for round := range 30 {
		token := []byte(fmt.Sprint("session", round))
		fill(t, db, string(token))
		together(4, func(i int) {
			err := db.Update(ctx, func(tx storage.Tx) error {
				if i == 0 {
					return tx.Delete(bucket, token)
				}
				_, err := tx.Get(bucket, token)
				if i%2 == 0 { // found in another way
					var keys []string
					keys, err = scan(tx, storage.Range{Prefix: token, Limit: 1})
					if len(keys) == 0 && err == nil {
						err = storage.ErrNotFound
					}
				}
				if errors.Is(err, storage.ErrNotFound) {
					return nil
				} else if err != nil {
					return err
				}
				return tx.Put(bucket, token, token)
			})
			if err != nil {
				t.Errorf("Update: %v", err)
			}
		})
		view(t, db, func(tx storage.Tx) error {
			if _, err := tx.Get(bucket, token); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("Get: %v, want ErrNotFound: it was deleted, and only who found it wrote it", err)
			}
			return nil
		})
	}
}

func bucketsHoldSomething(t *testing.T, db storage.DB) {
	want := func(tx storage.Tx, want ...string) error {
		t.Helper()
		got, err := tx.Buckets()
		if !slices.Equal(got, want) {
			t.Errorf("Buckets() = %q, want %q", got, want)
		}
		return err
	}
	view(t, db, func(tx storage.Tx) error { return want(tx) })
	k := []byte("k")
	update(t, db, func(tx storage.Tx) error {
		if err := errors.Join(tx.Put("b", k, nil), tx.Put("a.index", k, k), tx.Put("c", k, k), tx.Delete("d", k)); err != nil {
			return err
		}
		return want(tx, "a.index", "b", "c")
	})
	update(t, db, func(tx storage.Tx) error {
		if err := errors.Join(tx.Delete("b", k), tx.Put("e", k, k)); err != nil {
			return err
		}
		return want(tx, "a.index", "c", "e")
	})
	view(t, db, func(tx storage.Tx) error { return want(tx, "a.index", "c", "e") })
}

// soon is how long news may take, which is long after anybody would have given up.
const soon = 30 * time.Second

func commitWakes(t *testing.T, db storage.DB) {
	changed, stop := db.Watch("one")
	defer stop()
	again, stopAgain := db.Watch("one")
	defer stopAgain()
	for range 3 {
		update(t, db, func(tx storage.Tx) error {
			return errors.Join(tx.Notify("other"), tx.Notify("one"), tx.Notify("one"), tx.Put(bucket, []byte("k"), nil))
		})
		for i, ch := range []<-chan struct{}{changed, again} {
			select {
			case <-ch:
			case <-time.After(soon):
				t.Fatalf("watcher %d was not woken", i)
			}
		}
	}
	// A transaction that writes nothing may have news too.
	update(t, db, func(tx storage.Tx) error { return tx.Notify("one") })
	select {
	case <-changed:
	case <-time.After(soon):
		t.Fatal("nobody was woken by a transaction without writes")
	}
	stop()
	stop()
}

func nothingWakesNobody(t *testing.T, db storage.DB) {
	changed, stop := db.Watch("one")
	defer stop()
	last, stopLast := db.Watch("last")
	defer stopLast()
	errFail := errors.New("fail")
	if err := db.Update(ctx, func(tx storage.Tx) error { return errors.Join(tx.Notify("one"), errFail) }); !errors.Is(err, errFail) {
		t.Fatalf("Update: %v", err)
	}
	view(t, db, func(tx storage.Tx) error {
		if err := tx.Notify("one"); !errors.Is(err, storage.ErrReadOnly) {
			t.Errorf("Notify in a View: %v, want ErrReadOnly", err)
		}
		return nil
	})
	update(t, db, func(tx storage.Tx) error {
		for _, bad := range []string{"", string(make([]byte, storage.MaxTopic+1))} {
			if err := tx.Notify(bad); !errors.Is(err, storage.ErrLimit) {
				t.Errorf("Notify of a topic of %d bytes: %v, want ErrLimit", len(bad), err)
			}
		}
		return tx.Notify("last")
	})
	select {
	case <-last:
	case <-time.After(soon):
		t.Fatal("nobody was woken")
	}
	select {
	case <-changed:
		t.Error("woken by a transaction that failed")
	default:
	}
}

// manyItems is more than an engine reads at a time, with values of all sizes, while
// others of the same bucket are read in between.
func manyItems(t *testing.T, db storage.DB) {
	const n = 1500
	value := func(i int) []byte { return make([]byte, i%7*i%3000) }
	update(t, db, func(tx storage.Tx) error {
		for i := range n {
			if err := tx.Put(bucket, fmt.Appendf(nil, "%05d", i), value(i)); err != nil {
				return err
			}
		}
		return nil
	})
	view(t, db, func(tx storage.Tx) error {
		for _, reverse := range []bool{false, true} {
			i := 0
			for item, err := range tx.Scan(bucket, storage.Range{Reverse: reverse}) {
				if err != nil {
					return err
				}
				at := i
				if reverse {
					at = n - 1 - i
				}
				if string(item.Key) != fmt.Sprintf("%05d", at) || len(item.Value) != len(value(at)) {
					t.Fatalf("item %d is %q with %d bytes, want %05d with %d", i, item.Key, len(item.Value), at, len(value(at)))
				}
				if i%100 == 0 {
					other := fmt.Appendf(nil, "%05d", (i*37)%n)
					if v, err := tx.Get(bucket, other); err != nil || len(v) != len(value((i*37)%n)) {
						t.Errorf("Get(%q) in a scan: %d bytes, %v", other, len(v), err)
					}
				}
				i++
			}
			if i != n {
				t.Errorf("%d items, want %d", i, n)
			}
		}
		return nil
	})
}
