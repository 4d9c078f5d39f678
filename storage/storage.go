// Package storage is the contract between Gatehouse and the database that keeps
// its state: an ordered key-value store with transaction closures, and typed
// collections above it.
//
// It knows nothing of devices, certificates or users, and nothing of the engine
// behind it. Engines live in storage/bolt and storage/postgres; the cases that each of
// them must hold are in storage/storagetest.
package storage

import (
	"context"
	"errors"
	"iter"
)

var (
	// ErrNotFound means that no record has the key that was asked for.
	ErrNotFound = errors.New("storage: not found")

	// ErrExists means that a record to be created, or a value of a unique
	// index, is there already.
	ErrExists = errors.New("storage: already exists")

	// ErrReadOnly means that a View closure tried to write.
	ErrReadOnly = errors.New("storage: transaction is read-only")

	// ErrLimit means that a bucket name, key or value breaks the limits below.
	ErrLimit = errors.New("storage: limit exceeded")

	// ErrClosed means that the DB was closed, or that a Tx was used after its
	// closure had returned.
	ErrClosed = errors.New("storage: closed")

	// ErrInUse means that another process has the database open.
	ErrInUse = errors.New("storage: in use by another process")

	// ErrCorrupt means that the database's own structure, or a record in it,
	// can't be read back as it was written.
	ErrCorrupt = errors.New("storage: corrupt")

	// ErrCommit means that a transaction could not be made durable: the disk is
	// full, an I/O error, a lost connection. The closure was right; asking again
	// later may succeed, so that a server answers 503. Only where the connection to
	// a database breaks at the very moment of the commit may it have been kept after all.
	ErrCommit = errors.New("storage: could not commit")

	// ErrUnavailable means that the database can't be reached, or takes no work, now.
	// Asking again later may succeed, so that a server answers 503.
	ErrUnavailable = errors.New("storage: database not available")

	// ErrNewer means that a newer version of the program wrote the database.
	ErrNewer = errors.New("storage: written by a newer version")
)

// Limits that every engine holds, so that data can move between engines.
const (
	MaxBucket = 64       // bytes of a bucket name, out of a-z 0-9 _ . -
	MaxKey    = 1024     // bytes of a key; at least one
	MaxValue  = 16 << 20 // bytes of a value; may be empty
	MaxTopic  = 128      // bytes of a topic; at least one
)

// DB is a database. Its methods may be called from many goroutines at once.
type DB interface {
	// View runs fn on a consistent snapshot. It returns fn's error as it is. Like that
	// of Update, fn may run more than once.
	View(ctx context.Context, fn func(Tx) error) error

	// Update runs fn and commits what it wrote: when Update returns nil, that is
	// durable; when it returns an error, or fn panics, nothing of it was kept.
	// Updates are serializable as far as records go that fn both reads and
	// writes: keep an invariant over several records in one of them.
	//
	// fn may run more than once, so it sets its results from scratch, sends
	// nothing, logs nothing, and wraps errors with %w. It must not call View or
	// Update of the same DB: that would wait for itself.
	Update(ctx context.Context, fn func(Tx) error) error

	// Watch returns a channel that holds a value when a transaction that called
	// [Tx.Notify] with this topic has committed since the last one was taken, in this
	// process or in another one on the same database, and also when such news may have
	// been missed. It says only that it is time to look. stop ends it.
	Watch(topic string) (changed <-chan struct{}, stop func())

	// Close waits for running transactions and releases the database.
	Close() error
}

// Tx is a transaction: valid until the closure that got it returns, and only in
// that closure's goroutine. It sees its own writes.
//
// Slices passed in are not kept, and slices handed out are the caller's own, but for those of
// items that are lent (see [Range]).
type Tx interface {
	// Get returns the value of key, or an error that wraps ErrNotFound, also
	// for a key that is too long to be there.
	Get(bucket string, key []byte) ([]byte, error)

	// Put sets the value of key. Buckets need no creation.
	Put(bucket string, key, value []byte) error

	// Delete removes key; a key that is not there is no error.
	Delete(bucket string, key []byte) error

	// Scan yields the items of r in the order of their keys' bytes. The
	// closure may Put and Delete in the bucket while it scans: whether items
	// written after the scan began are seen is not defined, except that what is
	// deleted ahead of the scan is not yielded. An error ends the sequence.
	Scan(bucket string, r Range) iter.Seq2[Item, error]

	// Prefetch says what the closure is about to read. It changes nothing but the
	// time that takes: an engine that is a network away asks for all of it at once,
	// the next time that it has to ask.
	Prefetch(reads ...Read)

	// Notify wakes who watches topic, in all processes, once the transaction has
	// committed. The news carries nothing: what there is to know is in the database.
	// After a crash right behind the commit it may get lost, so who can't afford to
	// miss it looks by itself now and then, too.
	Notify(topic string) error

	// Buckets returns the names of the buckets that hold anything, in order.
	Buckets() ([]string, error)
}

// Read is something to read: the value of Key or, where Key is empty, the items of
// Range, of which Limit says how many will do at first.
type Read struct {
	Bucket string
	Key    []byte
	Range  Range

	// Then says what will be read for an item of Range: the record, say, that an
	// entry of an index names. It may be nil.
	Then func(Item) []Read
}

// Item is one key and its value.
type Item struct {
	Key, Value []byte
}

// Range is a part of a bucket: keys k with Start ≤ k < End that begin with Prefix.
// The zero Range is the whole bucket.
type Range struct {
	Prefix []byte // empty: no restriction
	Start  []byte // empty: from the first key; inclusive
	End    []byte // empty: to the last key; exclusive

	Reverse bool // from the last key to the first
	Limit   int  // at most so many items; 0 means all

	// Lent allows the engine to take back the slices of an item once the loop goes on:
	// whoever looks through a hundred thousand items and keeps few need not pay for a copy
	// of each.
	Lent bool
}
