// Package bolt keeps Gatehouse's state in one file, with go.etcd.io/bbolt: the engine
// of an installation that has one server.
//
// It knows nothing of what it stores. Its types stop here: the rest of the program sees
// package storage.
package bolt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/internal/watch"
	"github.com/gatehouse-mdm/gatehouse/storage/internal/writeset"
)

// DB is a database in one file. It is a [storage.DB].
type DB struct {
	bolt *bbolt.DB
	path string

	mu      sync.Mutex
	busy    bool            // somebody has the turn to write
	waiting []chan struct{} // who wants it next; closed when it is theirs
	closed  bool

	// Of whoever has the turn.
	batch *batch
	doubt error // why nothing more is written

	dead atomic.Pointer[error] // why nothing works any more: bbolt panicked with its locks held

	watchers watch.Hub
}

var _ storage.DB = (*DB)(nil)

// Options says how to open a database.
type Options struct {
	Log *slog.Logger // told what Open set right; nil: nobody is
}

// View implements [storage.DB]. Writers never wait for it, nor it for them.
func (db *DB) View(ctx context.Context, fn func(storage.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	btx, err := db.beginTx(false)
	if err != nil {
		return err
	}
	defer func() { _ = btx.Rollback() }() // only ends it: a snapshot has nothing to lose

	tx := writeset.NewReadOnly(&snapshot{db: db, tx: btx})
	defer tx.Close()
	return fn(tx)
}

// Watch implements [storage.DB]. There is no other process.
func (db *DB) Watch(topic string) (changed <-chan struct{}, stop func()) {
	return db.watchers.Watch(topic)
}

// Close implements [storage.DB].
func (db *DB) Close() error {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		return nil
	}
	db.closed = true // nobody comes after us
	turn := db.queue()
	db.mu.Unlock()
	if turn != nil {
		<-turn
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	db.commit()
	db.pass()
	if err := db.dead.Load(); err != nil {
		return fmt.Errorf("close: %w", *err) // bbolt's Close would wait for ever
	}
	if err := db.guard(db.bolt.Close); err != nil {
		return fmt.Errorf("close %s: %w", db.path, err)
	}
	return nil
}

// guard runs fn, which reads the file, and turns its panic into an error: bbolt panics
// over pages that make no sense, and touching a part of the map that the file or
// the disk doesn't have is a fault, which [debug.SetPanicOnFault] makes a panic.
func (db *DB) guard(fn func() error) (err error) {
	defer db.caught(&err)
	return fn()
}

// caught is what a function that reads the map defers.
func (db *DB) caught(err *error) {
	if p := recover(); p != nil {
		*err = corrupt(db.path, fmt.Sprint(p))
	}
}

// corrupt describes damage, and the way out.
func corrupt(path, detail string) error {
	return fmt.Errorf("%w: %s: %s; restore a backup", storage.ErrCorrupt, path, detail)
}

// beginTx starts a bbolt transaction.
func (db *DB) beginTx(writable bool) (tx *bbolt.Tx, err error) {
	if err := db.dead.Load(); err != nil {
		return nil, *err
	}
	err = db.guard(func() (err error) {
		tx, err = db.bolt.Begin(writable)
		return err
	})
	switch {
	case errors.Is(err, bbolterrors.ErrDatabaseNotOpen):
		return nil, storage.ErrClosed
	case errors.Is(err, storage.ErrCorrupt):
		db.dead.CompareAndSwap(nil, &err)
	}
	return tx, err
}

// initialMap is how much address space is reserved, so that up to this size the file
// grows without a new map, for which a writer would wait until nobody reads.
func initialMap() int {
	if strconv.IntSize < 64 {
		return 64 << 20
	}
	return 1 << 30
}
