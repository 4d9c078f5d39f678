// Package storagetest holds what every engine of package storage must keep, and gives the
// tests of all other packages a real database.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
	"github.com/gatehouse-mdm/gatehouse/storage/postgres"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

// Open returns an empty database for one test, closed when the test ends. The environment
// variable GATEHOUSE_TEST_STORE says of which engine: bolt, which is the default.
//
// It is stricter than any engine: each closure runs twice, the first time for nothing, so
// that one fails that can't run again after a conflict; and a closure that calls
// View or Update of its database, which may wait for itself, panics.
func Open(t testing.TB) storage.DB {
	t.Helper()
	var db storage.DB
	switch engine := os.Getenv("GATEHOUSE_TEST_STORE"); engine {
	case "", "bolt":
		db = openBolt(t)
	case "postgres":
		db = openPostgres(t)
	default:
		t.Fatalf("GATEHOUSE_TEST_STORE is %q: no such engine", engine)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close database: %v", err)
		}
	})
	return &strict{DB: db}
}

// AnyEngine skips a test in the run of the suite on PostgreSQL, which follows one on bolt:
// it would say the same again, as it asks nothing of an engine, or opens those it is about
// by itself.
func AnyEngine(t testing.TB) {
	t.Helper()
	if os.Getenv("GATEHOUSE_TEST_STORE") == "postgres" {
		t.Skip("skipped: once is enough, in the run on bolt")
	}
}

// openBolt opens a file in memory where the system has such a directory: a commit is
// as durable there as anything is, and costs no disk.
func openBolt(t testing.TB) storage.DB {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "gatehouse-test-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	db, err := bolt.Open(context.Background(), filepath.Join(dir, "gatehouse.db"), bolt.Options{})
	if err != nil {
		t.Fatalf("open database: %v", err)
	}
	return db
}

// openPostgres opens a schema of a private server, or skips the test where there is none.
func openPostgres(t testing.TB) storage.DB {
	t.Helper()
	db, err := postgres.Open(context.Background(), postgrestest.DSN(t), postgres.Options{})
	if err != nil {
		t.Fatalf("open database: %v", err)
	}
	return db
}

// strict runs closures as the worst engine might.
type strict struct {
	storage.DB
	inside sync.Map // of the goroutines that run a closure, by ID
}

var errAgain = errors.New("this run is thrown away")

func (s *strict) View(ctx context.Context, fn func(storage.Tx) error) error {
	return s.alone(func() error { return s.twice(ctx, s.DB.View, fn) })
}

func (s *strict) Update(ctx context.Context, fn func(storage.Tx) error) error {
	return s.alone(func() error { return s.twice(ctx, s.DB.Update, fn) })
}

func (s *strict) twice(ctx context.Context, run func(context.Context, func(storage.Tx) error) error, fn func(storage.Tx) error) error {
	err := run(ctx, func(tx storage.Tx) error {
		_ = fn(tx)
		return errAgain
	})
	if !errors.Is(err, errAgain) {
		return err // such as a context that has ended
	}
	return run(ctx, fn)
}

// alone runs fn, unless this goroutine is in the middle of a closure: then it panics,
// where bbolt would wait for ever, if only sometimes.
func (s *strict) alone(fn func() error) error {
	id := goroutine()
	if _, nested := s.inside.LoadOrStore(id, true); nested {
		panic("storagetest: a closure called View or Update of its own database")
	}
	defer s.inside.Delete(id)
	return fn()
}

// goroutine returns what tells this goroutine from others in a stack trace. Nothing but
// a test should ask.
func goroutine() string {
	var b [64]byte
	header := b[:runtime.Stack(b[:], false)] // goroutine 18 [running]: ...
	id, _, _ := bytes.Cut(bytes.TrimPrefix(header, []byte("goroutine ")), []byte(" "))
	return string(id)
}
