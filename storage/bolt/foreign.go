package bolt

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"runtime/debug"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/internal/writeset"
)

// Foreign is another program's database file, as it was when it was opened. Nothing in it
// is ever changed, and nothing is believed of its bucket names and lengths.
//
// It is for one goroutine at a time.
type Foreign struct {
	db *DB
	tx *bbolt.Tx
	at snapshot
}

// OpenForeign opens another program's file, which bbolt or the boltdb before it wrote, and
// reads all of it once: a copy that was made while somebody wrote may have half of a change.
//
// The error wraps [storage.ErrInUse] when a program has the file open to write, and
// [storage.ErrCorrupt] when it is not a whole database.
func OpenForeign(ctx context.Context, path string) (_ *Foreign, err error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("open database: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("open database: %s is not a regular file", path)
	}
	f := &Foreign{db: &DB{path: path}}
	if err := imageOf(ctx, path); err != nil { // bbolt would not say what is wrong with it
		return nil, fmt.Errorf("open database: %w", err)
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	err = f.db.guard(func() (err error) {
		f.db.bolt, err = bbolt.Open(path, 0o400, &bbolt.Options{ReadOnly: true, Timeout: lockTimeout})
		return err
	})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open database: %w: %s is in use by another process: stop that one, or make a copy while it does not run", storage.ErrInUse, path)
	}
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if f.tx, err = f.db.beginTx(false); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	f.at = snapshot{db: f.db, tx: f.tx}
	if _, err := f.db.checkOnce(ctx); err != nil { // again: now that nobody writes
		return nil, fmt.Errorf("open database: %w", err)
	}
	return f, nil
}

// imageOf says whether a file begins as a database does.
func imageOf(ctx context.Context, path string) error {
	r, err := os.Open(path)
	if err != nil {
		return err
	}
	defer r.Close()
	info, err := r.Stat()
	if err != nil {
		return err
	}
	if _, err := (image{r: r, size: info.Size()}).newest(); err != nil {
		return fmt.Errorf("%w: %s: %w", storage.ErrCorrupt, path, err)
	}
	return ctx.Err()
}

// Close lets the file go.
func (f *Foreign) Close() error {
	if f.tx != nil {
		_ = f.tx.Rollback()
	}
	if err := f.db.guard(f.db.bolt.Close); err != nil {
		return fmt.Errorf("close %s: %w", f.db.path, err)
	}
	return nil
}

// Buckets returns the names of the buckets that hold anything.
func (f *Foreign) Buckets() ([]string, error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	return f.at.Buckets()
}

// Get returns a copy of the value of a key, nil if it is not there.
func (f *Foreign) Get(bucket string, key []byte) ([]byte, error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	if len(key) == 0 {
		return nil, nil
	}
	v, _, err := f.at.Get(bucket, key)
	return v, err
}

// All yields copies of what is in a bucket, in the order of the keys. An error ends the
// sequence.
func (f *Foreign) All(bucket string) iter.Seq2[storage.Item, error] {
	return func(yield func(storage.Item, error) bool) {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		f.at.Scan(writeset.Span{Bucket: bucket})(yield)
	}
}
