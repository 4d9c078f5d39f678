package storage_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
	"github.com/gatehouse-mdm/gatehouse/storage/postgres"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

// engines opens an empty database of each kind, closed when the test ends.
var engines = map[string]func(t testing.TB) storage.DB{
	"bolt": func(t testing.TB) storage.DB {
		dir, err := os.MkdirTemp("/dev/shm", "gatehouse-test-") // costs no disk
		if err != nil {
			dir = t.TempDir()
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		db, err := bolt.Open(t.Context(), filepath.Join(dir, "gatehouse.db"), bolt.Options{})
		return opened(t, db, err)
	},
	"postgres": func(t testing.TB) storage.DB {
		db, err := postgres.Open(t.Context(), postgrestest.DSN(t), postgres.Options{Exclusive: true})
		return opened(t, db, err)
	},
}

func opened(t testing.TB, db storage.DB, err error) storage.DB {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// content is everything that a database holds, by bucket and key.
type content map[[2]string]string

func contentOf(t testing.TB, db storage.DB) content {
	t.Helper()
	all := content{}
	err := db.View(t.Context(), func(tx storage.Tx) error {
		clear(all)
		names, err := tx.Buckets()
		if err != nil {
			return err
		}
		for _, name := range names {
			for item, err := range tx.Scan(name, storage.Range{}) {
				if err != nil {
					return err
				}
				all[[2]string{name, string(item.Key)}] = string(item.Value)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// fill puts c into db, a part in each transaction.
func fill(t testing.TB, db storage.DB, c content) {
	t.Helper()
	for keys := range slices.Chunk(slices.Collect(maps.Keys(c)), 2000) {
		update(t, db, func(tx storage.Tx) error {
			for _, k := range keys {
				if err := tx.Put(k[0], []byte(k[1]), []byte(c[k])); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

func sameContent(t testing.TB, what string, got, want content) {
	t.Helper()
	if maps.Equal(got, want) {
		return
	}
	for k, v := range want {
		if g, ok := got[k]; !ok || g != v {
			t.Errorf("%s: %s %.40q: there %v, %d bytes, want %d bytes", what, k[0], k[1], ok, len(g), len(v))
			break
		}
	}
	t.Errorf("%s: %d items, want the %d of the source", what, len(got), len(want))
}

// oddContent has what engines could treat differently.
func oddContent() content {
	c := content{
		{"empty", "value"}:  "",
		{"odd", "\x00"}:     "zero",
		{"odd", "\x00\x00"}: "",
		{"odd", "\xff"}:     "\x00\xff\xfe not UTF-8",
		{"odd", strings.Repeat("\xff", storage.MaxKey)}: "the last key of all",
		{"odd", strings.Repeat("\x00", storage.MaxKey)}: "long",
		{"odd", "Ä"}:  "ä",
		{"odd", "a"}:  "before A in some languages",
		{"odd", "A"}:  `quotes ' " \ $1`,
		{"z", "only"}: "x",
		{strings.Repeat("b", storage.MaxBucket), "k"}: "v",
		{"a_b.c-d", "k"}: "sorts elsewhere by locale",
		{"a.b", "k"}:     "v",
	}
	c[[2]string{"large", "a"}] = string(incompressible())
	c[[2]string{"large", "b"}] = "small"
	for i := range 5000 {
		c[[2]string{"small", fmt.Sprintf("item/%05d", i)}] = fmt.Sprintf(`{"v":1,"d":{"n":%d}}`, i)
	}
	return c
}

// incompressible is the largest value, as it would be if it were sealed.
func incompressible() []byte {
	value := make([]byte, storage.MaxValue)
	rand.NewChaCha8([32]byte{}).Read(value) // never fails
	return value
}

func options(source string) storage.CopyOptions {
	return storage.CopyOptions{Source: source, Now: func() time.Time { return noon }}
}

func mustCopy(t testing.TB, from, to storage.DB) storage.CopyResult {
	t.Helper()
	result, err := storage.Copy(t.Context(), from, to, options("here"))
	if err != nil {
		t.Fatalf("copy: %v", err)
	}
	if err := storage.Unfinished(t.Context(), to); err != nil {
		t.Errorf("after a copy: %v", err)
	}
	return result
}

func TestACopyIsExactInEveryDirection(t *testing.T) {
	storagetest.AnyEngine(t)
	want := oddContent()
	for name, path := range map[string][]string{
		"one file to another":                 {"bolt", "bolt"},
		"a file to PostgreSQL and back":       {"bolt", "postgres", "bolt"},
		"one schema of PostgreSQL to another": {"postgres", "postgres"},
	} {
		t.Run(name, func(t *testing.T) {
			from := engines[path[0]](t)
			fill(t, from, want)
			for _, engine := range path[1:] {
				to := engines[engine](t)
				result := mustCopy(t, from, to)
				if result.Resumed {
					t.Error("a copy to an empty database says that it went on")
				}
				sameContent(t, engine, contentOf(t, to), want)
				items := int64(0)
				for _, b := range result.Buckets {
					items += b.Items
				}
				if items != int64(len(want)) {
					t.Errorf("the result counts %d items, want %d", items, len(want))
				}
				from = to
			}
			sameContent(t, "the source", contentOf(t, from), want)
		})
	}
}

func TestASumIsWhatItsDescriptionSays(t *testing.T) {
	storagetest.AnyEngine(t)
	from, to := engines["bolt"](t), engines["bolt"](t)
	fill(t, from, content{{"b", "k1"}: "value", {"b", "k2"}: ""})
	result := mustCopy(t, from, to)
	want := storage.BucketSum{Name: "b", Items: 2, Bytes: 9, SHA256: sha256.Sum256([]byte(
		"\x00\x00\x00\x02k1\x00\x00\x00\x05value\x00\x00\x00\x02k2\x00\x00\x00\x00"))}
	if len(result.Buckets) != 1 || result.Buckets[0] != want {
		t.Errorf("buckets %+v, want %+v", result.Buckets, want)
	}
}

func TestWhatCanNotBeCopiedIsRefusedAndLeftAlone(t *testing.T) {
	storagetest.AnyEngine(t)
	full := content{{"device", "1"}: "one"}
	unfinished := func(t testing.TB, db storage.DB) {
		interrupted(t, full, db, "elsewhere")
	}
	for name, tt := range map[string]struct {
		from, to func(t testing.TB, db storage.DB)
		want     error
		says     string
	}{
		"an empty source": {
			says: "the source: holds nothing",
		},
		"a source that is a copy itself, and not finished": {
			from: unfinished, want: storage.ErrUnfinished, says: "the source: storage: database holds an unfinished copy of elsewhere",
		},
		"a target with anything in it": {
			from: func(t testing.TB, db storage.DB) { fill(t, db, full) },
			to:   func(t testing.TB, db storage.DB) { fill(t, db, full) },
			want: storage.ErrNotEmpty, says: "it holds device",
		},
		"a target with a part of another source": {
			from: func(t testing.TB, db storage.DB) { fill(t, db, full) },
			to:   unfinished, want: storage.ErrUnfinished, says: "of elsewhere, begun 20",
		},
	} {
		for engine, open := range engines {
			t.Run(name+", "+engine, func(t *testing.T) {
				from, to := engines["bolt"](t), open(t)
				if tt.from != nil {
					tt.from(t, from)
				}
				if tt.to != nil {
					tt.to(t, to)
				}
				before := contentOf(t, to)
				result, err := storage.Copy(t.Context(), from, to, options("here"))
				if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("copy: %v, want %v with %q", err, tt.want, tt.says)
				}
				if result.Begun {
					t.Error("the result says that the target was begun")
				}
				sameContent(t, "the target", contentOf(t, to), before)
			})
		}
	}
}

var errInjected = errors.New("injected")

// mortal is a database on which only so many transactions succeed.
type mortal struct {
	storage.DB
	left      int
	committed bool // the first that fails is kept all the same, as when a connection breaks
	died      bool
}

func (m *mortal) Update(ctx context.Context, fn func(storage.Tx) error) error {
	m.left--
	switch {
	case m.left >= 0:
		return m.DB.Update(ctx, fn)
	case m.committed && !m.died:
		m.died = true
		return errors.Join(m.DB.Update(ctx, fn), errInjected)
	}
	m.died = true
	return errInjected
}

// interrupted leaves an unfinished copy of c in db.
func interrupted(t testing.TB, c content, db storage.DB, source string) {
	t.Helper()
	from := engines["bolt"](t)
	fill(t, from, c)
	if _, err := storage.Copy(t.Context(), from, &mortal{DB: db, left: 1}, options(source)); !errors.Is(err, errInjected) {
		t.Fatalf("interrupted copy: %v", err)
	}
}

// someDevices is more than one transaction copies.
const someDevices = 2100

// someContent takes a handful of transactions to copy.
func someContent() content {
	c := content{}
	for i := range someDevices {
		c[[2]string{"mdm.device", fmt.Sprintf("%05d", i)}] = fmt.Sprint("value ", i)
	}
	c[[2]string{"mdm.result", "00000"}] = strings.Repeat("large", 850_000) // all of a transaction
	c[[2]string{"mdm.result", "00001"}] = "small"
	c[[2]string{"user", "ana"}] = "owner"
	return c
}

// TestACopyThatWasCutOffGoesOn ends it at every transaction, before and after the commit,
// and lets the source change in between as a server would.
func TestACopyThatWasCutOffGoesOn(t *testing.T) {
	storagetest.AnyEngine(t)
	changes := map[string]func(c content) content{
		"as it was": maps.Clone[content],
		"changed": func(c content) content {
			c = maps.Clone(c)
			for i := 0; i < someDevices; i += 7 {
				delete(c, [2]string{"mdm.device", fmt.Sprintf("%05d", i)})
			}
			for i := 1; i < someDevices; i += 7 {
				c[[2]string{"mdm.device", fmt.Sprintf("%05d", i)}] = "changed"
				c[[2]string{"mdm.device", fmt.Sprintf("%05d+", i)}] = "new"
			}
			c[[2]string{"a.new.bucket", "k"}] = ""
			delete(c, [2]string{"user", "ana"}) // and with it the bucket
			return c
		},
		"with next to nothing left": func(content) content {
			return content{{"mdm.device", "02099"}: "value 2099"}
		},
	}
	before := someContent()
	for engine, open := range engines {
		for name, change := range changes {
			t.Run(engine+", source "+name, func(t *testing.T) {
				source := engines["bolt"](t)
				fill(t, source, before)
				want := change(before)
				later := engines["bolt"](t)
				fill(t, later, want)
				deaths := 0
				for left, died := 0, true; died; left++ {
					for _, committed := range []bool{false, true} {
						to := open(t)
						m := &mortal{DB: to, left: left, committed: committed}
						_, err := storage.Copy(t.Context(), source, m, options("here"))
						if died = m.died; died != (err != nil) || died && !errors.Is(err, errInjected) {
							t.Fatalf("copy that ends after %d transactions: %v", left, err)
						}
						if !died {
							break
						}
						deaths++
						nothing := left == 0 && !committed
						mark := storage.Unfinished(t.Context(), to)
						switch {
						case mark == nil && committed: // all that was missing is the news of its end
							sameContent(t, "a copy that broke behind its end", contentOf(t, to), before)
							continue
						case !nothing && !errors.Is(mark, storage.ErrUnfinished):
							t.Fatalf("after %d transactions: %v, want ErrUnfinished", left, mark)
						}
						result := mustCopy(t, later, to)
						if result.Resumed == nothing {
							t.Errorf("after %d transactions: the result says %v to having gone on", left, result.Resumed)
						}
						sameContent(t, fmt.Sprintf("after %d transactions", left), contentOf(t, to), want)
					}
				}
				if deaths < 10 {
					t.Errorf("the copy died %d times, too few to say anything", deaths)
				}
			})
		}
	}
}

func TestStartingOverReplacesTheCopyOfAnotherSource(t *testing.T) {
	storagetest.AnyEngine(t)
	for engine, open := range engines {
		t.Run(engine, func(t *testing.T) {
			to := open(t)
			interrupted(t, someContent(), to, "elsewhere")
			from, want := engines["bolt"](t), content{{"user", "bob"}: "owner"}
			fill(t, from, want)
			o := options("here")
			o.StartOver = true
			if _, err := storage.Copy(t.Context(), from, to, o); err != nil {
				t.Fatal(err)
			}
			sameContent(t, engine, contentOf(t, to), want)

			if _, err := storage.Copy(t.Context(), from, to, o); !errors.Is(err, storage.ErrNotEmpty) {
				t.Errorf("starting over on a finished copy: %v, want ErrNotEmpty", err)
			}
		})
	}
}

// falsifier stores something else than it was given.
type falsifier struct {
	storage.DB
	put func(tx storage.Tx, bucket string, key, value []byte) error
}

type falseTx struct {
	storage.Tx
	f *falsifier
}

func (f *falsifier) Update(ctx context.Context, fn func(storage.Tx) error) error {
	return f.DB.Update(ctx, func(tx storage.Tx) error { return fn(falseTx{tx, f}) })
}

func (tx falseTx) Put(bucket string, key, value []byte) error {
	if bucket == "user" {
		return tx.f.put(tx.Tx, bucket, key, value)
	}
	return tx.Tx.Put(bucket, key, value)
}

func TestACopyThatIsNotTheSameIsFoundOut(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		put  func(tx storage.Tx, bucket string, key, value []byte) error
		want string
	}{
		"a bit is wrong": {
			func(tx storage.Tx, bucket string, key, value []byte) error {
				value = bytes.Clone(value)
				value[0] ^= 1
				return tx.Put(bucket, key, value)
			}, "bucket user is not the same: 2 items, SHA-256 ",
		},
		"a byte moved from value to key": {
			func(tx storage.Tx, bucket string, key, value []byte) error {
				return tx.Put(bucket, append(bytes.Clone(key), value[0]), value[1:])
			}, "bucket user is not the same: 2 items",
		},
		"an item is missing": {
			func(tx storage.Tx, bucket string, key, value []byte) error {
				if string(key) == "ana" {
					return nil
				}
				return tx.Put(bucket, key, value)
			}, "in the source, 1 items",
		},
		"a bucket is missing": {
			func(storage.Tx, string, []byte, []byte) error { return nil }, "the copy lacks bucket user",
		},
		"a bucket is too much": {
			func(tx storage.Tx, bucket string, key, value []byte) error {
				return errors.Join(tx.Put("a.bucket", key, value), tx.Put(bucket, key, value))
			}, "the copy has a bucket a.bucket that the source lacks",
		},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := engines["bolt"](t), engines["bolt"](t)
			want := content{{"device", "1"}: "one", {"user", "ana"}: "owner", {"user", "bob"}: "admin"}
			fill(t, from, want)
			result, err := storage.Copy(t.Context(), from, &falsifier{to, tt.put}, options("here"))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("copy: %v, want %q", err, tt.want)
			}
			if !result.Begun || result.Buckets != nil {
				t.Errorf("result %+v, want one that was begun and has no sums", result)
			}
			if err := storage.Unfinished(t.Context(), to); !errors.Is(err, storage.ErrUnfinished) {
				t.Errorf("after a copy that is not the same: %v, want ErrUnfinished", err)
			}
			mustCopy(t, from, to) // sets it right
			sameContent(t, "again", contentOf(t, to), want)
		})
	}
}

// rerun runs the closures of View twice, as an engine may that lost its connection.
type rerun struct{ storage.DB }

func (r rerun) View(ctx context.Context, fn func(storage.Tx) error) error {
	if err := r.DB.View(ctx, fn); err != nil {
		return err
	}
	return r.DB.View(ctx, fn)
}

func TestASourceThatIsReadTwiceIsCopiedOnce(t *testing.T) {
	storagetest.AnyEngine(t)
	from, to := engines["bolt"](t), engines["bolt"](t)
	want := someContent()
	fill(t, from, want)
	mustCopy(t, rerun{from}, rerun{to})
	sameContent(t, "the copy", contentOf(t, to), want)
}

// TestATransactionThatComesLateIsRefused holds up a transaction of a copy until another
// copy has begun and ended on the same target, as a database may that hears late that its
// client is gone.
func TestATransactionThatComesLateIsRefused(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		engine string
		inside bool // it has read all it needs, and only its commit is late
	}{
		"in a file":                      {"bolt", false},
		"in PostgreSQL":                  {"postgres", false},
		"in PostgreSQL, with its commit": {"postgres", true},
	} {
		t.Run(name, func(t *testing.T) {
			from, other, to := engines["bolt"](t), engines["bolt"](t), engines[tt.engine](t)
			fill(t, from, someContent())
			want := content{{"user", "bob"}: "owner"}
			fill(t, other, want)
			late := &overtaken{DB: to, inside: tt.inside, by: func() { mustCopy(t, other, to) }}
			if _, err := storage.Copy(t.Context(), from, late, options("here")); err == nil {
				t.Error("a copy that was overtaken succeeded")
			}
			sameContent(t, "the target", contentOf(t, to), want)
		})
	}
}

// overtaken has something happen in the middle of its second Update.
type overtaken struct {
	storage.DB
	updates int
	inside  bool
	by      func()
}

func (o *overtaken) Update(ctx context.Context, fn func(storage.Tx) error) error {
	o.updates++
	if o.updates == 2 && !o.inside {
		o.by()
	}
	return o.DB.Update(ctx, func(tx storage.Tx) error {
		err := fn(tx)
		if o.updates == 2 && o.inside {
			o.inside = false
			o.by()
		}
		return err
	})
}

func TestACopyThatIsInterruptedSaysSo(t *testing.T) {
	storagetest.AnyEngine(t)
	from, to := engines["bolt"](t), engines["bolt"](t)
	want := someContent()
	fill(t, from, want)
	ctx, cancel := context.WithCancel(t.Context())
	o := options("here")
	calls := 0
	o.Progress = func(p storage.CopyProgress) {
		if calls++; calls == 2 {
			cancel()
		}
		if p.Phase != storage.CopyWrites || p.Items == 0 || p.Bytes == 0 || p.Bucket != "mdm.device" {
			t.Errorf("progress %+v", p)
		}
	}
	result, err := storage.Copy(ctx, from, to, o)
	if !errors.Is(err, context.Canceled) || !result.Begun {
		t.Fatalf("copy: %+v, %v, want it canceled after its begin", result, err)
	}
	mustCopy(t, from, to)
	sameContent(t, "the copy", contentOf(t, to), want)
}

// TestACopyNeedsLittleMemory has more in a bucket than it may hold at a time.
func TestACopyNeedsLittleMemory(t *testing.T) {
	storagetest.AnyEngine(t)
	const values = 6 // of 16 MiB
	for _, path := range [][2]string{{"bolt", "postgres"}, {"postgres", "bolt"}} {
		t.Run(path[0]+" to "+path[1], func(t *testing.T) {
			from, to := engines[path[0]](t), engines[path[1]](t)
			value := incompressible()
			for i := range values {
				update(t, from, func(tx storage.Tx) error { return tx.Put("large", []byte{byte(i)}, value) })
			}
			runtime.GC()
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			before, most := now.HeapAlloc, uint64(0)
			o := options("here")
			o.Progress = func(storage.CopyProgress) {
				runtime.GC()
				runtime.ReadMemStats(&now)
				most = max(most, now.HeapAlloc)
			}
			result, err := storage.Copy(t.Context(), from, to, o)
			if err != nil {
				t.Fatal(err)
			}
			if got := result.Buckets[0].Bytes; got != values*(storage.MaxValue+1) {
				t.Errorf("%d bytes were copied", got)
			}
			if grown := int64(most) - int64(before); grown > 5*storage.MaxValue {
				t.Errorf("the heap grew by %d MiB", grown>>20)
			}
		})
	}
}

// BenchmarkCopy moves 100,000 records of 500 bytes.
func BenchmarkCopy(b *testing.B) {
	c := content{}
	random := rand.NewChaCha8([32]byte{})
	value := make([]byte, 500)
	for i := range 100_000 {
		random.Read(value) // never fails
		c[[2]string{"mdm.device", fmt.Sprintf("%08d", i)}] = string(value)
	}
	for _, path := range [][2]string{{"bolt", "postgres"}, {"postgres", "bolt"}, {"bolt", "bolt"}} {
		b.Run(path[0]+" to "+path[1], func(b *testing.B) {
			from := engines[path[0]](b)
			fill(b, from, c)
			for b.Loop() {
				b.StopTimer()
				to := engines[path[1]](b)
				b.StartTimer()
				mustCopy(b, from, to)
			}
		})
	}
}
