package bolt

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/internal/writeset"
)

// Bounds of a batch, after which it commits although more closures wait: of the time
// that the first of it waits, and of what is lost when the commit fails.
const (
	maxBatch      = 256
	maxBatchBytes = 8 << 20
)

// batch is what one commit makes durable: the writes of closures that ran one after
// another, each in its own caller's goroutine, each seeing the writes of those before.
//
// There is one turn to write, handed from caller to caller. Whoever has it runs its
// closure, and hands it on while others wait; only when nobody does, the batch commits.
// So a lone caller commits at once, and callers that arrive during a commit share the next.
type batch struct {
	tx      *bbolt.Tx
	base    *snapshot
	done    chan struct{} // closed when err says how it ended
	err     error
	updates int
	bytes   int // written so far; 0: nothing to commit
}

// Update implements [storage.DB]. Closures of concurrent Updates share a commit. The error
// wraps [storage.ErrCommit] when what fn wrote could not be made durable; that goes also
// for a closure that failed over what others of its batch had written.
func (db *DB) Update(ctx context.Context, fn func(storage.Tx) error) error {
	if err := db.acquire(ctx); err != nil {
		return err
	}
	b, topics, err := db.run(ctx, fn)
	if b != nil {
		<-b.done
		if b.err != nil {
			return b.err
		}
	}
	if err == nil {
		db.watchers.Wake(topics...)
	}
	return err
}

// run runs fn in our turn, and returns the batch whose end the answer depends on, if any,
// and whom to wake then. The turn is passed on even if fn panics.
func (db *DB) run(ctx context.Context, fn func(storage.Tx) error) (_ *batch, topics []string, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer db.pass()
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if db.doubt != nil {
		return nil, nil, db.doubt
	}
	if db.batch == nil {
		if db.batch, err = db.begin(); err != nil {
			return nil, nil, err
		}
	}
	b := db.batch
	b.updates++
	dependent := b.bytes > 0 // on writes of others

	tx := writeset.New(b.base)
	defer tx.Close()
	if err := fn(tx); err != nil {
		if dependent {
			return b, nil, err
		}
		return nil, nil, err
	}
	if tx.Len() == 0 {
		if dependent {
			return b, tx.Topics(), nil
		}
		return nil, tx.Topics(), nil
	}
	b.bytes += tx.Bytes()
	if err := db.guard(func() error { return b.apply(tx) }); err != nil {
		db.abandon(fmt.Errorf("%w: %w", storage.ErrCommit, err))
	}
	return b, tx.Topics(), nil
}

func (b *batch) full() bool {
	return b.updates >= maxBatch || b.bytes >= maxBatchBytes
}

// apply gives the writes of a closure that has succeeded to bbolt.
func (b *batch) apply(tx *writeset.Tx) error {
	for w := range tx.Writes() {
		bucket, ok := b.base.bucket(w.Bucket)
		switch {
		case !ok && w.Delete:
			continue
		case !ok:
			if _, err := b.tx.CreateBucket([]byte(w.Bucket)); err != nil {
				return err
			}
			bucket, _ = b.base.bucket(w.Bucket)
		}
		var err error
		if w.Delete {
			err = bucket.Delete(w.Key)
		} else {
			err = bucket.Put(w.Key, w.Value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// acquire waits for the turn.
func (db *DB) acquire(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		return storage.ErrClosed
	}
	turn := db.queue()
	db.mu.Unlock()
	if turn == nil {
		return nil
	}
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	db.mu.Lock()
	i := slices.Index(db.waiting, turn)
	if i >= 0 {
		db.waiting = slices.Delete(db.waiting, i, i+1)
	}
	db.mu.Unlock()
	if i < 0 { // it became ours at the same moment
		db.pass()
	}
	return ctx.Err()
}

// queue takes the turn and returns nil, or returns what is closed when the turn is ours.
// db.mu is held.
func (db *DB) queue() chan struct{} {
	if !db.busy {
		db.busy = true
		return nil
	}
	turn := make(chan struct{})
	db.waiting = append(db.waiting, turn)
	return turn
}

// pass gives the turn to who waits for it. When nobody does, or when the batch is full,
// it commits first.
func (db *DB) pass() {
	if db.handOver(true) {
		return
	}
	// Callers that are about to wait get the processor once: after a commit all of
	// its batch run, and the first to be back should not go alone. With no company
	// this is no delay.
	if db.batch.bytes > 0 && !db.batch.full() {
		runtime.Gosched()
		if db.handOver(true) {
			return
		}
	}
	db.commit()
	db.handOver(false)
}

// handOver gives the turn away, unless the open batch must be committed first.
func (db *DB) handOver(open bool) (done bool) {
	db.mu.Lock()
	defer db.mu.Unlock()
	switch {
	case open && db.batch != nil && (len(db.waiting) == 0 || db.batch.full()):
		return false
	case len(db.waiting) == 0:
		db.busy = false
	default:
		next := db.waiting[0]
		db.waiting = db.waiting[1:]
		close(next)
	}
	return true
}

// begin opens a batch.
func (db *DB) begin() (*batch, error) {
	tx, err := db.beginTx(true)
	if err != nil {
		return nil, err
	}
	return &batch{tx: tx, base: &snapshot{db: db, tx: tx}, done: make(chan struct{})}, nil
}

// commit ends the open batch, if there is one, and tells all who wait for it.
func (db *DB) commit() {
	b := db.batch
	if b == nil {
		return
	}
	if b.bytes == 0 {
		db.abandon(nil)
		return
	}
	id := b.tx.ID()
	if err := db.guard(b.tx.Commit); err != nil {
		err = fmt.Errorf("%w: %s: %w", storage.ErrCommit, db.path, err)
		db.abandon(err)
		if errors.Is(err, storage.ErrCorrupt) || db.visible(id) {
			db.doubt = fmt.Errorf("%w; no more is written until a restart", err)
		}
		return
	}
	db.batch = nil
	close(b.done)
}

// abandon rolls the open batch back and tells all who wait for it why.
func (db *DB) abandon(why error) {
	b := db.batch
	db.batch = nil
	if b.tx.DB() != nil { // else a failed Commit has rolled back
		if err := db.guard(b.tx.Rollback); err != nil {
			db.dead.CompareAndSwap(nil, &err)
		}
	}
	b.err = why
	close(b.done)
}

// visible says whether readers see a transaction although its commit failed. Then the
// failure came after its meta page was written: a write on top of it would make last
// what callers were told is lost, while a restart reads what the disk really has.
func (db *DB) visible(id int) bool {
	tx, err := db.beginTx(false)
	if err != nil {
		return true
	}
	defer func() { _ = tx.Rollback() }()
	return tx.ID() >= id
}
