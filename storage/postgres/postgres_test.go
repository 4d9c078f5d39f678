package postgres_test

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/postgres"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

var ctx = context.Background()

func open(t testing.TB, url string) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(ctx, url, postgres.Options{})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return db
}

func TestEngineKeepsTheContract(t *testing.T) {
	var urls sync.Map
	storagetest.Run(t, func(t testing.TB) storage.DB {
		url := postgrestest.DSN(t)
		db := open(t, url)
		urls.Store(db, url)
		return db
	}, func(t testing.TB, db storage.DB) storage.DB {
		if err := db.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
		url, _ := urls.Load(db)
		again := open(t, url.(string))
		urls.Store(again, url)
		return again
	})
}

func TestNewsReachOtherProcesses(t *testing.T) {
	s := postgrestest.Start(t)
	a, b := open(t, s.DSN()), open(t, s.DSN())
	changed, stop := a.Watch("topic")
	defer stop()
	other, stopOther := a.Watch("other")
	defer stopOther()
	notify := func() {
		t.Helper()
		update(t, b, func(tx storage.Tx) error { return tx.Notify("topic") })
	}
	woken := func(when string) {
		t.Helper()
		select {
		case <-changed:
		case <-time.After(time.Minute):
			t.Fatalf("not woken %s", when)
		}
	}
	notify()
	woken("by another process")
	select {
	case <-other:
		t.Error("woken by news of another topic")
	default:
	}

	// News that came while the connection was gone are made up for.
	s.Exec(`select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and (query like 'listen%' or query like '%pg_notify%')`)
	woken("after the connection was lost")
	notify()
	woken("over the new connection")

	// As many as one likes, without one being cut off.
	const many = 3000
	last, stopLast := a.Watch(strings.Repeat("t", 100) + strconv.Itoa(many-1))
	defer stopLast()
	update(t, b, func(tx storage.Tx) error {
		for i := range many {
			if err := tx.Notify(strings.Repeat("t", 100) + strconv.Itoa(i)); err != nil {
				return err
			}
		}
		return nil
	})
	select {
	case <-last:
	case <-time.After(time.Minute):
		t.Fatal("one of many topics got lost")
	}
}

func TestNewsOfAnotherInstallationAreNotHeard(t *testing.T) {
	s := postgrestest.Start(t)
	s.Exec(`create schema one authorization gatehouse`)
	s.Exec(`create schema two authorization gatehouse`)
	in := func(schema string) string {
		return with(t, s.DSN(), func(u *url.URL) { u.RawQuery = "sslmode=disable&search_path=" + schema })
	}
	one, two, also := open(t, in("one")), open(t, in("two")), open(t, in("two"))
	changed, stop := one.Watch("topic")
	defer stop()
	heard, stopHeard := also.Watch("topic")
	defer stopHeard()
	update(t, two, func(tx storage.Tx) error { return errors.Join(tx.Put("b", []byte("k"), nil), tx.Notify("topic")) })
	select {
	case <-heard:
	case <-time.After(time.Minute):
		t.Fatal("not woken")
	}
	select {
	case <-changed:
		t.Error("woken by another installation's news")
	default:
	}
	has(t, one, "k", false)
}

func TestExclusiveUse(t *testing.T) {
	dsn := postgrestest.DSN(t)
	server := open(t, dsn)
	if _, err := postgres.Open(ctx, dsn, postgres.Options{Exclusive: true}); !errors.Is(err, storage.ErrInUse) || !strings.Contains(err.Error(), "stop") {
		t.Errorf("exclusive beside a server: %v, want ErrInUse", err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	alone, err := postgres.Open(ctx, dsn, postgres.Options{Exclusive: true})
	if err != nil {
		t.Fatalf("exclusive after the server stopped: %v", err)
	}
	if _, err := postgres.Open(ctx, dsn, postgres.Options{}); !errors.Is(err, storage.ErrInUse) {
		t.Errorf("a server beside exclusive use: %v, want ErrInUse", err)
	}
	if err := alone.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dsn)
}

func TestTablesOfOthersAreLeftAlone(t *testing.T) {
	for name, tt := range map[string]struct {
		sql string
		is  error
		say string
	}{
		"of a newer version": {`update kv_schema set version = 99`, storage.ErrNewer, "version 99"},
		"without a version":  {`delete from kv_schema`, storage.ErrCorrupt, "kv_schema is empty"},
		"of somebody else":   {`drop table kv_schema`, nil, "name another schema"},
	} {
		t.Run(name, func(t *testing.T) {
			s := postgrestest.Start(t)
			if err := open(t, s.DSN()).Close(); err != nil {
				t.Fatal(err)
			}
			s.Exec(tt.sql)
			_, err := postgres.Open(ctx, s.DSN(), postgres.Options{})
			if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("Open: %v, want %v and %q", err, tt.is, tt.say)
			}
		})
	}
}

func TestServersThatStartAtOnceMakeOneTable(t *testing.T) {
	for range 5 {
		dsn := postgrestest.DSN(t)
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				db, err := postgres.Open(ctx, dsn, postgres.Options{})
				if err != nil {
					t.Errorf("open: %v", err)
					return
				}
				defer db.Close()
				if err := put(db, strconv.Itoa(i)); err != nil {
					t.Errorf("Update: %v", err)
				}
			})
		}
		wg.Wait()
		db := open(t, dsn)
		for i := range 6 {
			has(t, db, strconv.Itoa(i), true)
		}
	}
}

// TestWhatIsFoundAndWrittenConflicts interleaves two transactions in each way that one of
// them must notice.
func TestWhatIsFoundAndWrittenConflicts(t *testing.T) {
	get := func(tx storage.Tx) error { _, err := tx.Get("b", []byte("k")); return err }
	scan := func(tx storage.Tx) error {
		for _, err := range tx.Scan("b", storage.Range{}) {
			return err
		}
		return storage.ErrNotFound
	}
	ahead := func(tx storage.Tx) error {
		tx.Prefetch(storage.Read{Bucket: "b", Range: storage.Range{Limit: 3}}, storage.Read{Bucket: "b", Key: []byte("k")})
		return get(tx)
	}
	set := func(tx storage.Tx) error { return tx.Put("b", []byte("k"), []byte("mine")) }
	del := func(tx storage.Tx) error { return tx.Delete("b", []byte("k")) }
	for name, tt := range map[string]struct {
		there                bool // at the beginning
		read, mine, meantime func(storage.Tx) error
	}{
		"found, changed, and deleted meanwhile":         {true, get, set, del},
		"found by a scan, and deleted meanwhile":        {true, scan, set, del},
		"found ahead, changed, and deleted meanwhile":   {true, ahead, set, del},
		"found, changed, and changed meanwhile":         {true, get, set, set},
		"found, deleted, and deleted meanwhile":         {true, get, del, del},
		"found, deleted, and changed meanwhile":         {true, get, del, set},
		"not found, made, and made meanwhile":           {false, get, set, set},
		"not found by a scan, made, and made meanwhile": {false, scan, set, set},
	} {
		t.Run(name, func(t *testing.T) {
			dsn := postgrestest.DSN(t)
			db, other := open(t, dsn), open(t, dsn)
			if tt.there {
				update(t, db, set)
			}
			runs := 0
			update(t, db, func(tx storage.Tx) error {
				runs++
				err := tt.read(tx)
				if runs == 1 {
					if tt.there != (err == nil) {
						t.Fatalf("read: %v", err)
					}
					update(t, other, tt.meantime)
				}
				if err != nil && !errors.Is(err, storage.ErrNotFound) {
					return err
				}
				return tt.mine(tx)
			})
			if runs != 2 {
				t.Errorf("ran %d times, want again after the conflict", runs)
			}
		})
	}
}
