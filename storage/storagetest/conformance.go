package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Run checks that an engine keeps the contract of package storage. open returns an empty
// database that is closed when the test ends; reopen closes one and opens the same again,
// as a restarted process would.
func Run(t *testing.T, open func(t testing.TB) storage.DB, reopen func(t testing.TB, db storage.DB) storage.DB) {
	for name, check := range map[string]func(t *testing.T, db storage.DB){
		"keys of any bytes come back in byte order":             anyBytes,
		"ranges select what they say in both directions":        ranges,
		"limits are kept on writes, and reads past them miss":   limits,
		"empty values are values":                               emptyValues,
		"a closure sees its own writes":                         ownWrites,
		"a scan survives what its loop deletes and puts":        writesDuringScan,
		"a scan stops when its loop does":                       scanStops,
		"items that are lent are what others are":               itemsAreLent,
		"an error keeps nothing and comes back as it is":        errorKeepsNothing,
		"a panic keeps nothing and leaves the database usable":  panicKeepsNothing,
		"a goroutine that exits keeps nothing and holds nobody": exitKeepsNothing,
		"slices passed in and handed out are nobody else's":     slicesAreOwn,
		"a View can't write":                                    viewCannotWrite,
		"a Tx is of no use after its closure":                   txEnds,
		"a context that has ended runs no closure":              contextEnded,
		"a closed database says so":                             closedSaysSo,
		"a View is a snapshot":                                  viewIsSnapshot,
		"concurrent counters lose no update":                    noLostUpdate,
		"a token is consumed once":                              consumeOnce,
		"a record is created once":                              createOnce,
		"a failing closure fails alone":                         failsAlone,
		"a closure can run twice":                               runsTwice,
		"it does what a sorted map does":                        likeSortedMap,
		"what was deleted does not come back":                   deletedStaysDeleted,
		"buckets are those that hold something":                 bucketsHoldSomething,
		"a commit wakes who watches":                            commitWakes,
		"what did not happen wakes nobody":                      nothingWakesNobody,
		"many items are read in order":                          manyItems,
	} {
		t.Run(name, func(t *testing.T) { check(t, open(t)) })
	}
	t.Run("what was acknowledged is there after a restart", func(t *testing.T) {
		survivesRestart(t, open, reopen)
	})
}

const bucket = "things"

var ctx = context.Background()

func update(t testing.TB, db storage.DB, fn func(storage.Tx) error) {
	t.Helper()
	if err := db.Update(ctx, fn); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

func view(t testing.TB, db storage.DB, fn func(storage.Tx) error) {
	t.Helper()
	if err := db.View(ctx, fn); err != nil {
		t.Fatalf("View: %v", err)
	}
}

// fill puts keys, each with itself as its value.
func fill(t testing.TB, db storage.DB, keys ...string) {
	t.Helper()
	update(t, db, func(tx storage.Tx) error {
		for _, k := range keys {
			if err := tx.Put(bucket, []byte(k), []byte(k)); err != nil {
				return err
			}
		}
		return nil
	})
}

// scan returns the keys of r, after checking that each value is its key.
func scan(tx storage.Tx, r storage.Range) ([]string, error) {
	var keys []string
	for item, err := range tx.Scan(bucket, r) {
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(item.Key, item.Value) {
			return nil, fmt.Errorf("value of %q is %q", item.Key, item.Value)
		}
		keys = append(keys, string(item.Key))
	}
	return keys, nil
}

// wantKeys checks what a View scans.
func wantKeys(t testing.TB, db storage.DB, want ...string) {
	t.Helper()
	view(t, db, func(tx storage.Tx) error {
		t.Helper()
		got, err := scan(tx, storage.Range{})
		if !slices.Equal(got, want) {
			t.Errorf("keys are %q, want %q", got, want)
		}
		return err
	})
}

var oddKeys = []string{
	"\x00", "\x00\x00", "\x00\x01", "\x00\xff", "a", "a\x00", "a\x00\x00", "a\x00b", "ab", "a\xff", "b",
	"\xff", "\xff\x00", "\xff\xff", "\xc3\x28", "\x80", string(storage.Key("")), string(storage.Key("", "")),
	string(storage.Key("a", "")), string(storage.Key("", "a")), "🚪", "\n", "%", "'", "\\", strings.Repeat("\xff", storage.MaxKey),
}

func anyBytes(t *testing.T, db storage.DB) {
	fill(t, db, oddKeys...)
	sorted := slices.Sorted(slices.Values(oddKeys))
	wantKeys(t, db, slices.Compact(sorted)...)
	view(t, db, func(tx storage.Tx) error {
		for _, k := range oddKeys {
			if v, err := tx.Get(bucket, []byte(k)); err != nil || string(v) != k {
				t.Errorf("Get(%q) = %q, %v", k, v, err)
			}
		}
		return nil
	})
}

func ranges(t *testing.T, db storage.DB) {
	fill(t, db, oddKeys...)
	pending := []string{"a\x00\x01", "aa", "\xff\xfe", "\x00\x00\x01"}
	update(t, db, func(tx storage.Tx) error { // committed and held-back keys must merge
		for _, k := range pending {
			if err := tx.Put(bucket, []byte(k), []byte(k)); err != nil {
				return err
			}
		}
		if err := tx.Delete(bucket, []byte("ab")); err != nil {
			return err
		}
		all := slices.DeleteFunc(slices.Concat(oddKeys, pending), func(k string) bool { return k == "ab" })
		bounds := append(slices.Clone(oddKeys), "", "ab\x00", "zz")
		for _, start := range bounds {
			for _, end := range bounds {
				for _, prefix := range []string{"", "a", "a\x00", "\xff", "\x00", "none"} {
					r := storage.Range{Start: []byte(start), End: []byte(end), Prefix: []byte(prefix)}
					for _, r.Reverse = range []bool{false, true} {
						for _, r.Limit = range []int{0, 1, 3} {
							got, err := scan(tx, r)
							if err != nil {
								return err
							}
							if want := selectKeys(all, r); !slices.Equal(got, want) {
								t.Fatalf("Scan(%+v) = %q, want %q", r, got, want)
							}
						}
					}
				}
			}
		}
		return nil
	})
}

// selectKeys is what the contract says of ranges.
func selectKeys(keys []string, r storage.Range) []string {
	var in []string
	for _, k := range slices.Compact(slices.Sorted(slices.Values(keys))) {
		if strings.HasPrefix(k, string(r.Prefix)) && k >= string(r.Start) && (len(r.End) == 0 || k < string(r.End)) {
			in = append(in, k)
		}
	}
	if r.Reverse {
		slices.Reverse(in)
	}
	if r.Limit > 0 && len(in) > r.Limit {
		in = in[:r.Limit]
	}
	return in
}

func limits(t *testing.T, db storage.DB) {
	longest := bytes.Repeat([]byte("k"), storage.MaxKey)
	tooLong := append(slices.Clone(longest), 'k')
	widest := bytes.Repeat([]byte("v"), storage.MaxValue)
	longName := strings.Repeat("b", storage.MaxBucket)
	for name, tt := range map[string]struct {
		bucket     string
		key, value []byte
		want       error
	}{
		"everything at its longest": {longName, longest, widest, nil},
		"all of a bucket's bytes":   {"az09_.-", []byte("k"), nil, nil},
		"bucket name too long":      {longName + "b", []byte("k"), nil, storage.ErrLimit},
		"no bucket name":            {"", []byte("k"), nil, storage.ErrLimit},
		"bucket name in capitals":   {"Things", []byte("k"), nil, storage.ErrLimit},
		"bucket name with a slash":  {"a/b", []byte("k"), nil, storage.ErrLimit},
		"key too long":              {bucket, tooLong, nil, storage.ErrLimit},
		"no key":                    {bucket, nil, nil, storage.ErrLimit},
		"value too wide":            {bucket, []byte("k"), append(slices.Clone(widest), 'v'), storage.ErrLimit},
	} {
		t.Run(name, func(t *testing.T) {
			err := db.Update(ctx, func(tx storage.Tx) error { return tx.Put(tt.bucket, tt.key, tt.value) })
			if !errors.Is(err, tt.want) {
				t.Errorf("Put: %v, want %v", err, tt.want)
			}
			view(t, db, func(tx storage.Tx) error {
				got, err := tx.Get(tt.bucket, tt.key)
				switch {
				case tt.want == nil:
					if err != nil || !bytes.Equal(got, tt.value) {
						t.Errorf("Get: %d bytes, %v, want %d bytes", len(got), err, len(tt.value))
					}
				case !errors.Is(err, storage.ErrNotFound) && !errors.Is(err, storage.ErrLimit):
					t.Errorf("Get: %v, want it not found or out of limits", err)
				}
				return nil
			})
		})
	}
	view(t, db, func(tx storage.Tx) error {
		for name, key := range map[string][]byte{"empty": nil, "too long": tooLong} {
			if _, err := tx.Get(bucket, key); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("Get of a key that is %s: %v, want ErrNotFound", name, err)
			}
		}
		for _, err := range tx.Scan("No Bucket", storage.Range{}) {
			if !errors.Is(err, storage.ErrLimit) {
				t.Errorf("Scan of a bad bucket: %v, want ErrLimit", err)
			}
		}
		for item, err := range tx.Scan("never-written", storage.Range{}) {
			t.Errorf("Scan of a bucket that is not there: %q, %v", item.Key, err)
		}
		return nil
	})
	update(t, db, func(tx storage.Tx) error {
		return errors.Join(tx.Delete(bucket, tooLong), tx.Delete("never-written", []byte("k")))
	})
}

func emptyValues(t *testing.T, db storage.DB) {
	check := func(tx storage.Tx) error {
		v, err := tx.Get(bucket, []byte("k"))
		if err != nil || len(v) != 0 {
			t.Errorf("Get of an empty value: %q, %v", v, err)
		}
		return nil
	}
	update(t, db, func(tx storage.Tx) error {
		if err := tx.Put(bucket, []byte("k"), nil); err != nil {
			return err
		}
		return check(tx)
	})
	view(t, db, check)
}

func ownWrites(t *testing.T, db storage.DB) {
	fill(t, db, "b", "d", "f")
	update(t, db, func(tx storage.Tx) error {
		err := errors.Join(
			tx.Put(bucket, []byte("a"), []byte("a")),
			tx.Put(bucket, []byte("d"), []byte("replaced")),
			tx.Delete(bucket, []byte("f")),
			tx.Put(bucket, []byte("g"), []byte("g")),
			tx.Put(bucket, []byte("e"), []byte("e")), tx.Delete(bucket, []byte("e")),
			tx.Delete(bucket, []byte("b")), tx.Put(bucket, []byte("b"), []byte("again")),
		)
		if err != nil {
			return err
		}
		want := []string{"a=a", "b=again", "d=replaced", "g=g"}
		for _, reverse := range []bool{false, true} {
			var got []string
			for item, err := range tx.Scan(bucket, storage.Range{Reverse: reverse}) {
				if err != nil {
					return err
				}
				got = append(got, fmt.Sprintf("%s=%s", item.Key, item.Value))
			}
			if !slices.Equal(got, want) {
				t.Errorf("Scan = %q, want %q", got, want)
			}
			slices.Reverse(want)
		}
		for key, want := range map[string]string{"a": "a", "b": "again", "d": "replaced", "e": "", "f": ""} {
			v, err := tx.Get(bucket, []byte(key))
			if want == "" && !errors.Is(err, storage.ErrNotFound) || string(v) != want {
				t.Errorf("Get(%s) = %q, %v, want %q", key, v, err, want)
			}
		}
		return nil
	})
	view(t, db, func(tx storage.Tx) error {
		if v, err := tx.Get(bucket, []byte("d")); string(v) != "replaced" {
			t.Errorf("after the commit Get(d) = %q, %v", v, err)
		}
		if v, err := tx.Get(bucket, []byte("f")); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("after the commit Get(f) = %q, %v, want ErrNotFound", v, err)
		}
		return nil
	})
}

func writesDuringScan(t *testing.T, db storage.DB) {
	for name, reverse := range map[string]bool{"forward": false, "in reverse": true} {
		t.Run(name, func(t *testing.T) {
			update(t, db, func(tx storage.Tx) error {
				for i := range 10 { // committed, beside what each loop below puts
					if err := tx.Put(bucket, fmt.Appendf(nil, "%02d", i*2), []byte("old")); err != nil {
						return err
					}
				}
				return nil
			})
			update(t, db, func(tx storage.Tx) error {
				var seen []string
				gone := map[string]bool{}
				for item, err := range tx.Scan(bucket, storage.Range{Reverse: reverse}) {
					if err != nil {
						return err
					}
					n, err := strconv.Atoi(string(item.Key))
					if err != nil {
						return err
					}
					if gone[string(item.Key)] {
						t.Errorf("%s was deleted ahead of the scan, and yielded", item.Key)
					}
					seen = append(seen, string(item.Key))
					clear(item.Key) // ours to spoil
					clear(item.Value)
					if len(seen) > 100 {
						t.Fatal("the scan does not end")
					}
					ahead := n + 4
					if reverse {
						ahead = n - 4
					}
					if n%4 == 0 && ahead >= 0 {
						key := fmt.Sprintf("%02d", ahead)
						gone[key] = true
						if err := tx.Delete(bucket, []byte(key)); err != nil {
							return err
						}
					}
					for _, put := range []int{n, n - 1, n + 1} { // here, behind and ahead
						key := fmt.Sprintf("%02d", max(put, 0))
						if put != n && put%2 == 0 || gone[key] {
							continue
						}
						if err := tx.Put(bucket, []byte(key), []byte("new")); err != nil {
							return err
						}
					}
					if err := tx.Delete(bucket, fmt.Appendf(nil, "%02d", n)); err != nil {
						return err
					}
				}
				inOrder := slices.Clone(seen)
				slices.Sort(inOrder)
				if reverse {
					slices.Reverse(inOrder)
				}
				if !slices.Equal(seen, slices.Compact(inOrder)) {
					t.Errorf("the scan is out of order or repeats: %q", seen)
				}
				for i := range 10 {
					if key := fmt.Sprintf("%02d", i*2); !gone[key] && !slices.Contains(seen, key) {
						t.Errorf("the scan missed %s: %q", key, seen)
					}
				}
				return nil
			})
		})
	}
}

// itemsAreLent scans with and without [storage.Range.Lent], in a View and in an Update
// that has written.
func itemsAreLent(t *testing.T, db storage.DB) {
	fill(t, db, "a", "ab", "b", "c", "d")
	scans := func(tx storage.Tx) error {
		for _, r := range []storage.Range{{}, {Reverse: true}, {Prefix: []byte("a")}, {Start: []byte("ab"), End: []byte("d"), Limit: 2}} {
			var want, got []string
			for item, err := range tx.Scan(bucket, r) {
				if err != nil {
					return err
				}
				want = append(want, string(item.Key)+"="+string(item.Value))
			}
			r.Lent = true
			for item, err := range tx.Scan(bucket, r) {
				if err != nil {
					return err
				}
				got = append(got, string(item.Key)+"="+string(item.Value))
			}
			if !slices.Equal(got, want) {
				t.Errorf("Scan(%+v) = %q, want %q", r, got, want)
			}
		}
		return nil
	}
	view(t, db, scans)
	update(t, db, func(tx storage.Tx) error {
		if err := errors.Join(tx.Put(bucket, []byte("aa"), []byte("new")), tx.Put(bucket, []byte("b"), nil), tx.Delete(bucket, []byte("c"))); err != nil {
			return err
		}
		return scans(tx)
	})
	view(t, db, scans)
}

func scanStops(t *testing.T, db storage.DB) {
	fill(t, db, "a", "b", "c")
	update(t, db, func(tx storage.Tx) error {
		if err := tx.Put(bucket, []byte("aa"), []byte("aa")); err != nil {
			return err
		}
		for n := range 4 {
			got := 0
			for _, err := range tx.Scan(bucket, storage.Range{}) {
				if err != nil {
					return err
				}
				if got++; got > n {
					break
				}
			}
			if got != n+1 {
				t.Errorf("%d items before the break, want %d", got, n+1)
			}
		}
		return nil
	})
}

func errorKeepsNothing(t *testing.T, db storage.DB) {
	fill(t, db, "kept")
	mine := errors.New("mine")
	err := db.Update(ctx, func(tx storage.Tx) error {
		if err := errors.Join(tx.Put(bucket, []byte("new"), []byte("new")), tx.Delete(bucket, []byte("kept")), tx.Put("other", []byte("k"), nil)); err != nil {
			return err
		}
		return mine
	})
	if err != mine {
		t.Errorf("Update: %v, want the closure's own error", err)
	}
	if err := db.View(ctx, func(storage.Tx) error { return mine }); err != mine {
		t.Errorf("View: %v, want the closure's own error", err)
	}
	wantKeys(t, db, "kept")
}

func panicKeepsNothing(t *testing.T, db storage.DB) {
	fill(t, db, "kept")
	panics := func(name string, run func()) {
		defer func() {
			if p := recover(); p != "mine" {
				t.Errorf("%s: recovered %v, want the closure's own panic", name, p)
			}
		}()
		run()
	}
	panics("Update", func() {
		_ = db.Update(ctx, func(tx storage.Tx) error {
			_ = tx.Put(bucket, []byte("new"), []byte("new"))
			panic("mine")
		})
	})
	panics("View", func() {
		_ = db.View(ctx, func(storage.Tx) error { panic("mine") })
	})
	panics("a loop over a scan", func() {
		_ = db.View(ctx, func(tx storage.Tx) error {
			for range tx.Scan(bucket, storage.Range{}) {
				panic("mine")
			}
			return nil
		})
	})
	wantKeys(t, db, "kept")
	fill(t, db, "later")
	wantKeys(t, db, "kept", "later")
}

func exitKeepsNothing(t *testing.T, db storage.DB) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			_ = db.Update(ctx, func(tx storage.Tx) error {
				_ = tx.Put(bucket, []byte("new"), []byte("new"))
				runtime.Goexit() // as t.FailNow does
				return nil
			})
		})
	}
	wg.Wait()
	wantKeys(t, db)
	fill(t, db, "later")
	wantKeys(t, db, "later")
}

func slicesAreOwn(t *testing.T, db storage.DB) {
	want := func(tx storage.Tx, when string) {
		t.Helper()
		got, err := scan(tx, storage.Range{})
		if err != nil || !slices.Equal(got, []string{"kkk"}) {
			t.Errorf("%s: Scan = %q, %v", when, got, err)
		}
		for item := range tx.Scan(bucket, storage.Range{}) {
			clear(item.Key)
			clear(item.Value)
			_ = append(item.Value, "spoilt"...)
		}
		if v, err := tx.Get(bucket, []byte("kkk")); string(v) != "kkk" {
			t.Errorf("%s: Get = %q, %v", when, v, err)
		} else {
			clear(v)
			_ = append(v, "spoilt"...)
		}
		if v, err := tx.Get(bucket, []byte("kkk")); string(v) != "kkk" {
			t.Errorf("%s: Get after spoiling what the last one returned = %q, %v", when, v, err)
		}
	}
	update(t, db, func(tx storage.Tx) error {
		key, value := []byte("kkk"), []byte("kkk")
		if err := tx.Put(bucket, key, value); err != nil {
			return err
		}
		clear(key)
		clear(value)
		want(tx, "in the transaction that put it")
		return nil
	})
	update(t, db, func(tx storage.Tx) error {
		want(tx, "in a later Update")
		return nil
	})
	var item storage.Item
	view(t, db, func(tx storage.Tx) error {
		want(tx, "in a View")
		for i, err := range tx.Scan(bucket, storage.Range{}) {
			item = i
			return err
		}
		return nil
	})
	for i := range 100 { // whatever the engine does with its memory
		fill(t, db, fmt.Sprint("x", i))
	}
	if string(item.Key) != "kkk" || string(item.Value) != "kkk" {
		t.Errorf("after its transaction an item is %q", item)
	}
}

func viewCannotWrite(t *testing.T, db storage.DB) {
	view(t, db, func(tx storage.Tx) error {
		if err := tx.Put(bucket, []byte("k"), nil); !errors.Is(err, storage.ErrReadOnly) {
			t.Errorf("Put in a View: %v, want ErrReadOnly", err)
		}
		if err := tx.Delete(bucket, []byte("k")); !errors.Is(err, storage.ErrReadOnly) {
			t.Errorf("Delete in a View: %v, want ErrReadOnly", err)
		}
		return nil
	})
	wantKeys(t, db)
}

func txEnds(t *testing.T, db storage.DB) {
	fill(t, db, "a", "b", "c")
	for name, run := range map[string]func(context.Context, func(storage.Tx) error) error{"View": db.View, "Update": db.Update} {
		t.Run(name, func(t *testing.T) {
			var late storage.Tx
			var begun func() (storage.Item, error, bool)
			var sequence iter.Seq2[storage.Item, error]
			err := run(ctx, func(tx storage.Tx) error {
				late = tx
				sequence = tx.Scan(bucket, storage.Range{})
				begun, _ = iter.Pull2(tx.Scan(bucket, storage.Range{}))
				_, err, _ := begun()
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := late.Get(bucket, []byte("a")); !errors.Is(err, storage.ErrClosed) {
				t.Errorf("Get: %v, want ErrClosed", err)
			}
			if err := late.Put(bucket, []byte("late"), nil); !errors.Is(err, storage.ErrClosed) {
				t.Errorf("Put: %v, want ErrClosed", err)
			}
			if err := late.Delete(bucket, []byte("a")); !errors.Is(err, storage.ErrClosed) {
				t.Errorf("Delete: %v, want ErrClosed", err)
			}
			for item, err := range sequence {
				if !errors.Is(err, storage.ErrClosed) {
					t.Errorf("Scan: %q, %v, want ErrClosed", item.Key, err)
				}
			}
			if item, err, _ := begun(); !errors.Is(err, storage.ErrClosed) {
				t.Errorf("Scan begun inside: %q, %v, want ErrClosed", item.Key, err)
			}
		})
	}
	wantKeys(t, db, "a", "b", "c")
}

func contextEnded(t *testing.T, db storage.DB) {
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for name, run := range map[string]func(context.Context, func(storage.Tx) error) error{"View": db.View, "Update": db.Update} {
		err := run(ended, func(storage.Tx) error {
			t.Errorf("%s ran its closure", name)
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", name, err)
		}
	}
	fill(t, db, "later")
}

func closedSaysSo(t *testing.T, db storage.DB) {
	if err := db.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	fn := func(storage.Tx) error {
		t.Error("a closure ran in a closed database")
		return nil
	}
	if err := db.Update(ctx, fn); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("Update: %v, want ErrClosed", err)
	}
	if err := db.View(ctx, fn); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("View: %v, want ErrClosed", err)
	}
	if err := db.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}

func viewIsSnapshot(t *testing.T, db storage.DB) {
	fill(t, db, "a", "b")
	view(t, db, func(tx storage.Tx) error {
		if _, err := tx.Get(bucket, []byte("a")); err != nil { // some engines begin with the first read
			return err
		}
		done := make(chan error)
		go func() {
			done <- db.Update(ctx, func(tx storage.Tx) error {
				return errors.Join(tx.Put(bucket, []byte("c"), []byte("c")), tx.Delete(bucket, []byte("a")))
			})
		}()
		if err := <-done; err != nil {
			return err
		}
		got, err := scan(tx, storage.Range{})
		if !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("a View sees %q, want what was there when it began", got)
		}
		return err
	})
	wantKeys(t, db, "b", "c")
}

// together runs fn in n goroutines that start at once.
func together(n int, fn func(i int)) {
	var ready, wg sync.WaitGroup
	ready.Add(n)
	for i := range n {
		wg.Go(func() {
			ready.Done()
			ready.Wait()
			fn(i)
		})
	}
	wg.Wait()
}

func noLostUpdate(t *testing.T, db storage.DB) {
	const writers, rounds = 16, 25
	counters := []string{"shared", "odd", "even"}
	var views, torn atomic.Int64
	together(writers+2, func(i int) {
		if i >= writers { // readers see whole transactions
			for range rounds {
				err := db.View(ctx, func(tx storage.Tx) error {
					var n [3]int
					for i, name := range counters {
						var err error
						if n[i], err = counter(tx, name); err != nil {
							return err
						}
					}
					if n[0] != n[1]+n[2] {
						torn.Add(1)
					}
					return nil
				})
				if err != nil {
					t.Errorf("View: %v", err)
				}
				views.Add(1)
			}
			return
		}
		for range rounds {
			err := db.Update(ctx, func(tx storage.Tx) error {
				for _, name := range []string{"shared", counters[1+i%2]} {
					n, err := counter(tx, name)
					if err != nil {
						return err
					}
					if err := tx.Put(bucket, []byte(name), []byte(strconv.Itoa(n+1))); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Errorf("Update: %v", err)
			}
		}
	})
	view(t, db, func(tx storage.Tx) error {
		for name, want := range map[string]int{"shared": writers * rounds, "odd": writers * rounds / 2, "even": writers * rounds / 2} {
			if n, err := counter(tx, name); n != want {
				t.Errorf("counter %s is %d, %v, want %d", name, n, err, want)
			}
		}
		return nil
	})
	if torn.Load() > 0 {
		t.Errorf("%d of %d views saw half of a transaction", torn.Load(), views.Load())
	}
}

func counter(tx storage.Tx, name string) (int, error) {
	v, err := tx.Get(bucket, []byte(name))
	if errors.Is(err, storage.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(v))
}

func consumeOnce(t *testing.T, db storage.DB) {
	errUsed := errors.New("used")
	for round := range 20 {
		token := fmt.Sprint("token", round)
		fill(t, db, token)
		var won, lost atomic.Int64
		together(4, func(int) {
			err := db.Update(ctx, func(tx storage.Tx) error {
				if _, err := tx.Get(bucket, []byte(token)); errors.Is(err, storage.ErrNotFound) {
					return errUsed
				} else if err != nil {
					return err
				}
				return tx.Delete(bucket, []byte(token))
			})
			switch {
			case err == nil:
				won.Add(1)
			case errors.Is(err, errUsed):
				lost.Add(1)
			default:
				t.Errorf("Update: %v", err)
			}
		})
		if won.Load() != 1 || lost.Load() != 3 {
			t.Errorf("%d consumed it and %d came too late, want 1 and 3", won.Load(), lost.Load())
		}
	}
}

func createOnce(t *testing.T, db storage.DB) {
	type thing struct{ ID, Serial string }
	things := storage.NewCollection("made", 1, func(v thing) string { return v.ID },
		storage.Index[thing]{Name: "serial", Unique: true, Values: func(v thing) []string { return []string{v.Serial} }})
	for round := range 20 {
		for name, make := range map[string]func(i int) thing{
			"key":          func(i int) thing { return thing{fmt.Sprint("k", round), fmt.Sprint("k", round, "-", i)} },
			"unique value": func(i int) thing { return thing{fmt.Sprint("v", round, "-", i), fmt.Sprint("v", round)} },
		} {
			var won atomic.Int64
			together(4, func(i int) {
				err := db.Update(ctx, func(tx storage.Tx) error { return things.Create(tx, make(i)) })
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, storage.ErrExists) {
					t.Errorf("Create: %v, want ErrExists", err)
				}
			})
			if won.Load() != 1 {
				t.Errorf("%d created a thing of the same %s, want 1", won.Load(), name)
			}
		}
	}
}

func failsAlone(t *testing.T, db storage.DB) {
	const writers = 48
	errMine := errors.New("mine")
	var want []string
	for i := range writers {
		if i%3 == 0 {
			want = append(want, fmt.Sprintf("%03d", i))
		}
	}
	together(writers, func(i int) {
		key := fmt.Appendf(nil, "%03d", i)
		defer func() {
			if p := recover(); (p != nil) != (i%3 == 2) {
				t.Errorf("writer %d: panic %v", i, p)
			}
		}()
		err := db.Update(ctx, func(tx storage.Tx) error {
			if err := tx.Put(bucket, key, key); err != nil {
				return err
			}
			switch i % 3 {
			case 1:
				return errMine
			case 2:
				panic(errMine)
			}
			return nil
		})
		if i%3 == 0 && err != nil || i%3 == 1 && err != errMine {
			t.Errorf("writer %d: %v", i, err)
		}
	})
	wantKeys(t, db, want...)
}

func runsTwice(t *testing.T, db storage.DB) {
	runs := 0
	s := &strict{DB: db}
	update(t, s, func(tx storage.Tx) error {
		runs++
		if _, err := tx.Get(bucket, []byte("k")); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("run %d: Get: %v, want nothing of the run before", runs, err)
		}
		return tx.Put(bucket, []byte("k"), []byte("k"))
	})
	if runs != 2 {
		t.Errorf("ran %d times, want 2", runs)
	}
	wantKeys(t, db, "k")
}

func survivesRestart(t *testing.T, open func(testing.TB) storage.DB, reopen func(testing.TB, storage.DB) storage.DB) {
	db := open(t)
	var want []string
	for i := range 3 {
		for j := range 20 {
			key := fmt.Sprintf("%d-%02d", i, j)
			fill(t, db, key)
			if j%5 == 0 {
				update(t, db, func(tx storage.Tx) error { return tx.Delete(bucket, []byte(key)) })
				continue
			}
			want = append(want, key)
		}
		db = reopen(t, db)
		wantKeys(t, db, want...)
	}
}

// likeSortedMap compares random transactions with what a map does.
func likeSortedMap(t *testing.T, db storage.DB) {
	var examples atomic.Int64
	key := rapid.Custom(func(t *rapid.T) []byte {
		return rapid.SliceOfN(rapid.SampledFrom([]byte{0x00, 0x01, 'a', 'b', 0xfe, 0xff}), 1, 4).Draw(t, "key")
	})
	bound := rapid.OneOf(key, rapid.Just[[]byte](nil))
	rapid.Check(t, func(t *rapid.T) {
		example := fmt.Sprint(examples.Add(1))
		buckets := []string{"x" + example, "y" + example}
		model := map[string]map[string]string{buckets[0]: {}, buckets[1]: {}}
		errFail := errors.New("fail")
		for range rapid.IntRange(1, 6).Draw(t, "transactions") {
			draft := map[string]map[string]string{}
			fails := rapid.IntRange(0, 4).Draw(t, "fails") == 0
			err := db.Update(ctx, func(tx storage.Tx) error {
				for name, m := range model {
					draft[name] = maps.Clone(m)
				}
				for range rapid.IntRange(0, 30).Draw(t, "operations") {
					name := rapid.SampledFrom(buckets).Draw(t, "bucket")
					m := draft[name]
					switch k := key.Draw(t, "k"); rapid.IntRange(0, 6).Draw(t, "operation") {
					case 0, 1:
						v := rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "value")
						m[string(k)] = string(v)
						if err := tx.Put(name, k, v); err != nil {
							return err
						}
					case 2:
						delete(m, string(k))
						if err := tx.Delete(name, k); err != nil {
							return err
						}
					case 3:
						v, err := tx.Get(name, k)
						want, there := m[string(k)]
						if string(v) != want || there == errors.Is(err, storage.ErrNotFound) {
							t.Fatalf("Get(%q) = %q, %v, want %q, %v", k, v, err, want, there)
						}
					case 4: // changes nothing
						tx.Prefetch(storage.Read{Bucket: name, Key: k}, storage.Read{Bucket: name, Range: storage.Range{
							Prefix:  bound.Draw(t, "prefix"),
							Start:   bound.Draw(t, "start"),
							Reverse: rapid.Bool().Draw(t, "reverse"),
							Limit:   rapid.IntRange(0, 3).Draw(t, "limit"),
						}})
					default:
						compare(t, tx, name, m, storage.Range{
							Prefix:  rapid.OneOf(rapid.Just[[]byte](nil), rapid.Just([]byte{0xff}), key).Draw(t, "prefix"),
							Start:   bound.Draw(t, "start"),
							End:     bound.Draw(t, "end"),
							Reverse: rapid.Bool().Draw(t, "reverse"),
							Limit:   rapid.IntRange(0, 3).Draw(t, "limit"),
						})
					}
				}
				if fails {
					return errFail
				}
				return nil
			})
			switch {
			case fails && err == errFail:
			case fails || err != nil:
				t.Fatalf("Update: %v", err)
			default:
				model = draft
			}
			err = db.View(ctx, func(tx storage.Tx) error {
				for name, m := range model {
					tx.Prefetch(storage.Read{Bucket: name, Range: storage.Range{Limit: 2}})
					compare(t, tx, name, m, storage.Range{})
					compare(t, tx, name, m, storage.Range{Reverse: true})
				}
				return nil
			})
			if err != nil {
				t.Fatalf("View: %v", err)
			}
		}
	})
}

func compare(t *rapid.T, tx storage.Tx, name string, m map[string]string, r storage.Range) {
	var got []string
	for item, err := range tx.Scan(name, r) {
		if err != nil {
			t.Fatalf("Scan: %v", err)
		}
		got = append(got, string(item.Key))
		if string(item.Value) != m[string(item.Key)] {
			t.Fatalf("Scan: %q has %q, want %q", item.Key, item.Value, m[string(item.Key)])
		}
	}
	if want := selectKeys(slices.Collect(maps.Keys(m)), r); !slices.Equal(got, want) {
		t.Fatalf("Scan(%+v) = %q, want %q", r, got, want)
	}
}
