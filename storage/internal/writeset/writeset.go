// Package writeset is the transaction that engines hand to closures: it holds the
// closure's writes back until the closure has succeeded, and shows them to the
// closure's own reads, merged with what the engine has.
//
// So a closure that fails or panics has cost the engine nothing, and an engine that pays
// for each round trip gets all writes at once, in order. The limits of package storage
// are kept here, for every engine alike.
package writeset

import (
	"bytes"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Base is what an engine has under the writes: a snapshot that does not change while
// the closure runs. It is asked for valid bucket names only.
type Base interface {
	// Get returns the value of key as a slice of the caller's own, and whether it is there.
	Get(bucket string, key []byte) (value []byte, ok bool, err error)

	// Scan yields the items of s as slices of the caller's own, but for those that s lends.
	// The caller stops it when it has enough, and may go on beyond the limit of s, which is
	// only what it expects to need. An error ends the sequence.
	Scan(s Span) iter.Seq2[storage.Item, error]

	// Prefetch says which keys and spans are about to be read; it may do nothing.
	Prefetch(keys []Key, spans []Ahead)

	// Buckets returns the names of the buckets that hold anything, in order.
	Buckets() ([]string, error)
}

// Key is the place of a value.
type Key struct {
	Bucket string
	Key    []byte
}

// Span is a part of a bucket: keys from Lo on and below Hi, which are open when nil.
type Span struct {
	Bucket  string
	Lo, Hi  []byte
	Reverse bool
	Limit   int  // how many items are expected to be enough; 0: all
	Lent    bool // items are good until the next one is asked for
}

// Tx is a [storage.Tx] over a Base.
type Tx struct {
	base     Base
	readOnly bool
	closed   bool
	checked  string // the last bucket name that was found valid
	buckets  map[string]*list
	bytes    int
	topics   map[string]struct{}
}

var _ storage.Tx = (*Tx)(nil)

// Ahead is a span that is about to be read, and what will be read for each of its items.
type Ahead struct {
	Span
	Then func(storage.Item) (keys []Key, spans []Ahead) // nil: nothing
}

// New returns a transaction that holds its writes back.
func New(base Base) *Tx {
	return &Tx{base: base}
}

// NewReadOnly returns a transaction that refuses to write.
func NewReadOnly(base Base) *Tx {
	return &Tx{base: base, readOnly: true}
}

// Close makes all further use of tx, but for Writes, fail with [storage.ErrClosed].
func (tx *Tx) Close() {
	tx.closed = true
}

// Get implements [storage.Tx].
func (tx *Tx) Get(bucket string, key []byte) ([]byte, error) {
	if err := tx.check(bucket); err != nil {
		return nil, err
	}
	if len(key) == 0 || len(key) > storage.MaxKey {
		return nil, storage.ErrNotFound
	}
	if l := tx.buckets[bucket]; l != nil {
		if n := l.find(key); n != nil {
			if n.deleted {
				return nil, storage.ErrNotFound
			}
			return append([]byte{}, n.value...), nil
		}
	}
	value, ok, err := tx.base.Get(bucket, key)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, storage.ErrNotFound
	}
	return value, nil
}

// Put implements [storage.Tx].
func (tx *Tx) Put(bucket string, key, value []byte) error {
	if err := tx.checkWrite(bucket); err != nil {
		return err
	}
	if len(key) == 0 || len(key) > storage.MaxKey {
		return fmt.Errorf("key of %d bytes: %w", len(key), storage.ErrLimit)
	}
	if len(value) > storage.MaxValue {
		return fmt.Errorf("value of %d bytes: %w", len(value), storage.ErrLimit)
	}
	tx.bytes += len(key) + len(value)
	tx.list(bucket).put(key, value, false)
	return nil
}

// Delete implements [storage.Tx].
func (tx *Tx) Delete(bucket string, key []byte) error {
	if err := tx.checkWrite(bucket); err != nil {
		return err
	}
	if len(key) == 0 || len(key) > storage.MaxKey {
		return nil // can't be there
	}
	tx.bytes += len(key)
	tx.list(bucket).put(key, nil, true)
	return nil
}

// Scan implements [storage.Tx].
func (tx *Tx) Scan(bucket string, r storage.Range) iter.Seq2[storage.Item, error] {
	return func(yield func(storage.Item, error) bool) {
		if err := tx.check(bucket); err != nil {
			yield(storage.Item{}, err)
			return
		}
		lo, hi := bounds(r)
		if lo != nil && hi != nil && bytes.Compare(lo, hi) >= 0 {
			return
		}
		ours := overlay{tx: tx, bucket: bucket, lo: lo, hi: hi, reverse: r.Reverse}
		left := r.Limit
		give := func(item storage.Item) (more bool) {
			ours.pass(item.Key)
			if !yield(item, nil) {
				return false
			}
			if tx.closed { // the sequence outlived its closure
				yield(storage.Item{}, storage.ErrClosed)
				return false
			}
			left--
			return left != 0
		}

		// Only where nothing was written are items lent: what was is compared with keys of
		// items that have passed.
		lent := r.Lent && tx.readOnly

		// Everything of ours before the engine's next item goes first; ours also
		// replaces the engine's of the same key. What is next is asked anew for each
		// item, since the closure may write between two of them.
		for item, err := range tx.base.Scan(Span{Bucket: bucket, Lo: lo, Hi: hi, Reverse: r.Reverse, Limit: r.Limit, Lent: lent}) {
			if err != nil {
				yield(storage.Item{}, err)
				return
			}
			if tx.readOnly {
				if !give(item) {
					return
				}
				continue
			}
			for n := ours.next(item.Key); n != nil; n = ours.next(item.Key) {
				if !give(n.item()) {
					return
				}
			}
			if n := ours.find(item.Key); n != nil {
				if n.deleted {
					ours.pass(item.Key)
					continue
				}
				item.Value = append([]byte{}, n.value...)
			}
			if !give(item) {
				return
			}
		}
		for n := ours.next(nil); n != nil; n = ours.next(nil) {
			if !give(n.item()) {
				return
			}
		}
	}
}

// Prefetch implements [storage.Tx].
func (tx *Tx) Prefetch(reads ...storage.Read) {
	if tx.closed {
		return
	}
	if keys, spans := tx.ahead(reads); len(keys)+len(spans) > 0 {
		tx.base.Prefetch(keys, spans)
	}
}

// ahead leaves out what no read will ask the base for.
func (tx *Tx) ahead(reads []storage.Read) (keys []Key, spans []Ahead) {
	for _, r := range reads {
		if storage.CheckBucket(r.Bucket) != nil || len(r.Key) > storage.MaxKey {
			continue // whoever reads it gets the error
		}
		if len(r.Key) > 0 {
			if l := tx.buckets[r.Bucket]; l == nil || l.find(r.Key) == nil {
				keys = append(keys, Key{r.Bucket, r.Key})
			}
			continue
		}
		lo, hi := bounds(r.Range)
		a := Ahead{Span: Span{Bucket: r.Bucket, Lo: lo, Hi: hi, Reverse: r.Range.Reverse, Limit: r.Range.Limit}}
		if r.Then != nil {
			a.Then = func(item storage.Item) ([]Key, []Ahead) { return tx.ahead(r.Then(item)) }
		}
		spans = append(spans, a)
	}
	return keys, spans
}

// Notify implements [storage.Tx].
func (tx *Tx) Notify(topic string) error {
	switch {
	case tx.closed:
		return storage.ErrClosed
	case tx.readOnly:
		return storage.ErrReadOnly
	case topic == "" || len(topic) > storage.MaxTopic:
		return fmt.Errorf("topic of %d bytes: %w", len(topic), storage.ErrLimit)
	}
	if tx.topics == nil {
		tx.topics = make(map[string]struct{})
	}
	tx.topics[topic] = struct{}{}
	return nil
}

// Topics are those that the closure notified, each once.
func (tx *Tx) Topics() []string { return slices.Collect(maps.Keys(tx.topics)) }

// Buckets implements [storage.Tx].
func (tx *Tx) Buckets() ([]string, error) {
	if tx.closed {
		return nil, storage.ErrClosed
	}
	names, err := tx.base.Buckets()
	if err != nil || len(tx.buckets) == 0 {
		return names, err
	}
	for name := range tx.buckets { // ours may have filled or emptied any
		names = slices.DeleteFunc(names, func(n string) bool { return n == name })
		for _, err := range tx.Scan(name, storage.Range{Limit: 1}) {
			if err != nil {
				return nil, err
			}
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// overlay walks over the writes of one bucket within bounds, beside a walk over the
// engine's items.
type overlay struct {
	tx      *Tx
	bucket  string
	lo, hi  []byte
	reverse bool
	at      []byte // the key last given, by either walk
	node    *node  // where this walk was last
}

// pass moves the walk beyond key, which the caller may change later.
func (o *overlay) pass(key []byte) {
	o.at = append(o.at[:0], key...)
}

// next returns the first Put after at, and before until unless that is nil.
func (o *overlay) next(until []byte) *node {
	l := o.tx.buckets[o.bucket]
	if l == nil {
		return nil
	}
	n := o.node
	if n == nil && o.reverse {
		n = l.below(o.hi)
	} else if n == nil {
		n = l.from(o.lo)
	}
	for ; n != nil; n = n.step(o.reverse) {
		if o.reverse && bytes.Compare(n.key, o.lo) < 0 ||
			!o.reverse && o.hi != nil && bytes.Compare(n.key, o.hi) >= 0 {
			return nil
		}
		if until != nil && !before(n.key, until, o.reverse) {
			return nil
		}
		if o.at == nil || before(o.at, n.key, o.reverse) {
			if !n.deleted {
				return n
			}
		} else {
			o.node = n // passed: the next walk begins here
		}
	}
	return nil
}

func (o *overlay) find(key []byte) *node {
	if l := o.tx.buckets[o.bucket]; l != nil {
		return l.find(key)
	}
	return nil
}

func before(a, b []byte, reverse bool) bool {
	if reverse {
		return bytes.Compare(a, b) > 0
	}
	return bytes.Compare(a, b) < 0
}

// Write is one change that a closure made: the last one of its key.
type Write struct {
	Bucket     string
	Key, Value []byte // not to be changed
	Delete     bool
}

// Len is the number of writes that Writes yields.
func (tx *Tx) Len() int {
	n := 0
	for _, l := range tx.buckets {
		n += l.len
	}
	return n
}

// Bytes is about what the closure has written, in bytes.
func (tx *Tx) Bytes() int { return tx.bytes }

// Writes yields what the closure wrote, by bucket and key.
func (tx *Tx) Writes() iter.Seq[Write] {
	return func(yield func(Write) bool) {
		for _, bucket := range sortedKeys(tx.buckets) {
			for n := tx.buckets[bucket].from(nil); n != nil; n = n.next[0] {
				if !yield(Write{Bucket: bucket, Key: n.key, Value: n.value, Delete: n.deleted}) {
					return
				}
			}
		}
	}
}

func (tx *Tx) check(bucket string) error {
	if tx.closed {
		return storage.ErrClosed
	}
	if bucket == tx.checked && bucket != "" {
		return nil
	}
	if err := storage.CheckBucket(bucket); err != nil {
		return err
	}
	tx.checked = bucket
	return nil
}

func (tx *Tx) checkWrite(bucket string) error {
	if err := tx.check(bucket); err != nil {
		return err
	}
	if tx.readOnly {
		return storage.ErrReadOnly
	}
	return nil
}

func (tx *Tx) list(bucket string) *list {
	l := tx.buckets[bucket]
	if l == nil {
		if tx.buckets == nil {
			tx.buckets = make(map[string]*list)
		}
		l = newList()
		tx.buckets[bucket] = l
	}
	return l
}

// bounds turns r into lo ≤ key < hi; nil is open.
func bounds(r storage.Range) (lo, hi []byte) {
	if len(r.Start) > 0 {
		lo = r.Start
	}
	if len(r.End) > 0 {
		hi = r.End
	}
	if len(r.Prefix) == 0 {
		return bytes.Clone(lo), bytes.Clone(hi)
	}
	if bytes.Compare(lo, r.Prefix) < 0 {
		lo = r.Prefix
	}
	if after := successor(r.Prefix); after != nil && (hi == nil || bytes.Compare(after, hi) < 0) {
		hi = after
	}
	return bytes.Clone(lo), bytes.Clone(hi)
}

// successor returns the first key after all that begin with prefix, or nil if no key
// can come after them.
func successor(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			after := bytes.Clone(prefix[:i+1])
			after[i]++
			return after
		}
	}
	return nil
}
