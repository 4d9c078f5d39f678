package storage

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// ErrBadCursor means that a page was asked for with a cursor that no page of
// this list has handed out.
var ErrBadCursor = errors.New("storage: bad cursor")

// Index finds the records of a [Collection] by something other than their key.
type Index[T any] struct {
	Name   string           // out of a-z 0-9 _ -
	Unique bool             // no two records share a value
	Values func(T) []string // none: the record is not in this index
}

// Collection keeps records of one type in a bucket of that name, as JSON, and its
// indexes in buckets beside it, named with a dot between: "device.serial".
//
// Strings in records must be UTF-8, as JSON's are; keys and index values may be any
// bytes, composed by [Key] where they have several parts.
type Collection[T any] struct {
	records
	key func(T) string
}

// records is all of a collection that is the same whatever T is: a record is any here, and
// always a *T. The compiler writes what is generic anew for each of some seventy types of
// records, so the generic part only translates, and sequences are not inlined into it:
// together, that makes the program an eighth smaller.
type records struct {
	name    string
	version int
	blank   func() any // a new *T
	indexes []index
	writers sync.Pool // of *recordWriter
}

// index is an [Index] of records.
type index struct {
	name, bucket string
	unique       bool
	values       func(record any) []string
}

// typed returns the record that a *T points to, if there is one, and err.
func typed[T any](record any, err error) (v T, _ error) {
	if of, ok := record.(*T); ok {
		v = *of
	}
	return v, err
}

// typedSeq yields what [typed] returns.
//
//go:noinline
func typedSeq[T any](records iter.Seq2[any, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		records(func(record any, err error) bool { return yield(typed[T](record, err)) })
	}
}

// NewCollection declares a collection. The version is stored with every record: raise
// it when an older program would misread what this one writes, and add a [Migration].
// It panics when a name is no bucket name, since declarations are code.
func NewCollection[T any](name string, version int, key func(T) string, indexes ...Index[T]) *Collection[T] {
	c := &Collection[T]{key: key}
	c.declare(name, version, func() any { return new(T) })
	for _, ix := range indexes {
		c.declareIndex(ix.Name, ix.Unique, func(record any) []string { return ix.Values(*record.(*T)) })
	}
	return c
}

func (c *records) declare(name string, version int, blank func() any) {
	if err := CheckBucket(name); err != nil {
		panic(err)
	}
	if version < 1 {
		panic("storage: version of collection " + name + " must be at least 1")
	}
	c.name, c.version, c.blank = name, version, blank
	c.writers.New = func() any { return newRecordWriter(version) }
}

func (c *records) declareIndex(name string, unique bool, values func(any) []string) {
	bucket := c.name + "." + name
	if err := CheckBucket(bucket); err != nil {
		panic(err)
	}
	if name == "" || strings.Contains(name, ".") || c.index(name) != nil {
		panic("storage: bad or repeated name of index " + bucket)
	}
	c.indexes = append(c.indexes, index{name: name, bucket: bucket, unique: unique, values: values})
}

// CheckBucket returns an error that wraps [ErrLimit] unless name can name a bucket.
func CheckBucket(name string) error {
	bad := name == "" || len(name) > MaxBucket
	for i := range len(name) {
		switch b := name[i]; {
		case 'a' <= b && b <= 'z', '0' <= b && b <= '9', b == '_', b == '.', b == '-':
		default:
			bad = true
		}
	}
	if bad {
		return fmt.Errorf("bucket name %q: %w", name, ErrLimit)
	}
	return nil
}

// Get returns the record of key, or an error that wraps [ErrNotFound].
func (c *Collection[T]) Get(tx Tx, key string) (T, error) {
	return typed[T](c.get(tx, []byte(key)))
}

//go:noinline
func (c *records) get(tx Tx, key []byte) (any, error) {
	raw, err := tx.Get(c.name, key)
	if err != nil {
		return nil, c.fail(key, err)
	}
	return c.decode(key, raw)
}

// Has says whether there is a record of key, without reading what it says.
func (c *records) Has(tx Tx, key string) (bool, error) {
	_, err := tx.Get(c.name, []byte(key))
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, ErrNotFound):
		return false, nil
	}
	return false, c.fail([]byte(key), err)
}

// Create stores a record that is not there yet. It returns an error that wraps
// [ErrExists] when its key, or its value of a unique index, is taken.
func (c *Collection[T]) Create(tx Tx, v T) error {
	return c.write(tx, c.key(v), &v, true)
}

// Put stores a record in place of the one of the same key, if any. It returns an error
// that wraps [ErrExists] when another record has its value of a unique index. After an
// error nothing was written.
func (c *Collection[T]) Put(tx Tx, v T) error {
	return c.write(tx, c.key(v), &v, false)
}

func (c *records) write(tx Tx, primary string, v any, create bool) error {
	key := []byte(primary)
	w := c.writers.Get().(*recordWriter)
	defer c.writers.Put(w) // no Tx keeps what it is given
	value, err := w.encode(v)
	if err != nil {
		return c.fail(key, err)
	}
	if len(key) == 0 || len(key) > MaxKey || len(value) > MaxValue {
		return c.fail(key, ErrLimit)
	}

	var few [4]change // enough for most records, without an allocation
	changes := few[:0]
	if create || len(c.indexes) > 0 {
		c.prefetch(tx, key, v)
		raw, err := tx.Get(c.name, key)
		switch {
		case errors.Is(err, ErrNotFound):
			changes, err = c.reindex(tx, changes, key, nil, v)
		case err == nil && create:
			err = ErrExists
		case err == nil:
			var old any
			if old, err = c.decode(key, raw); err != nil {
				return err // says which record
			}
			changes, err = c.reindex(tx, changes, key, old, v)
		}
		if err != nil {
			return c.fail(key, err)
		}
	}
	if err := apply(tx, changes); err != nil {
		return c.fail(key, err)
	}
	if err := tx.Put(c.name, key, value); err != nil {
		return c.fail(key, err)
	}
	return nil
}

// prefetch announces what write reads: the record as it is, and the unique values that it
// is about to have, which may be another's.
func (c *records) prefetch(tx Tx, key []byte, v any) {
	var few [4]Read
	reads := append(few[:0], c.Read(string(key)))
	for i := range c.indexes {
		if ix := &c.indexes[i]; ix.unique {
			for _, value := range ix.values(v) {
				reads = append(reads, Read{Bucket: ix.bucket, Key: ix.entry(value, nil)})
			}
		}
	}
	tx.Prefetch(reads...)
}

// Read is what [Tx.Prefetch] takes for the record of key.
//
//go:noinline
func (c *records) Read(key string) Read {
	return Read{Bucket: c.name, Key: []byte(key)}
}

// ReadLookup is what [Tx.Prefetch] takes for [Collection.Lookup].
func (c *records) ReadLookup(index, value string) Read {
	return c.readVia(c.index(index), Range{Prefix: KeyPrefix(value)})
}

// readVia announces entries of an index, and the records that they name.
//
//go:noinline
func (c *records) readVia(ix *index, r Range) Read {
	if ix == nil {
		return Read{}
	}
	return Read{Bucket: ix.bucket, Range: r, Then: func(item Item) []Read {
		if key, ok := ix.primary(item); ok {
			return []Read{{Bucket: c.name, Key: key}}
		}
		return nil
	}}
}

// Delete removes the record of key; one that is not there is no error.
func (c *records) Delete(tx Tx, key string) error {
	k := []byte(key)
	if len(c.indexes) > 0 {
		raw, err := tx.Get(c.name, k)
		if errors.Is(err, ErrNotFound) {
			return nil
		} else if err != nil {
			return c.fail(k, err)
		}
		old, err := c.decode(k, raw)
		if err != nil {
			return err
		}
		changes, err := c.reindex(tx, nil, k, old, nil)
		if err == nil {
			err = apply(tx, changes)
		}
		if err != nil {
			return c.fail(k, err)
		}
	}
	if err := tx.Delete(c.name, k); err != nil {
		return c.fail(k, err)
	}
	return nil
}

// A change adds an entry to an index's bucket, or removes it.
type change struct {
	bucket     string
	key, value []byte
	remove     bool
}

func apply(tx Tx, changes []change) error {
	for _, ch := range changes {
		var err error
		if ch.remove {
			err = tx.Delete(ch.bucket, ch.key)
		} else {
			err = tx.Put(ch.bucket, ch.key, ch.value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// reindex adds to changes what must change in the indexes when old becomes v, of which
// either may be nil. It writes nothing, so that a record that may not be stored leaves no trace.
func (c *records) reindex(tx Tx, changes []change, key []byte, old, v any) ([]change, error) {
	for _, ix := range c.indexes {
		var before, after []string
		if old != nil {
			before = ix.values(old)
		}
		if v != nil {
			after = ix.values(v)
		}
		for i, value := range before {
			if slices.Contains(after, value) || slices.Contains(before[:i], value) {
				continue
			}
			changes = append(changes, change{bucket: ix.bucket, key: ix.entry(value, key), remove: true})
		}
		for i, value := range after {
			if slices.Contains(before, value) || slices.Contains(after[:i], value) {
				continue
			}
			ch := change{bucket: ix.bucket, key: ix.entry(value, key)}
			if len(ch.key) > MaxKey {
				return nil, fmt.Errorf("index %s: %w", ix.name, ErrLimit)
			}
			if ix.unique {
				ch.value = key
				_, err := tx.Get(ch.bucket, ch.key)
				if err == nil {
					err = ErrExists
				}
				if !errors.Is(err, ErrNotFound) {
					return nil, fmt.Errorf("index %s: %w", ix.name, err)
				}
			}
			changes = append(changes, ch)
		}
	}
	return changes, nil
}

// entry is the key of an index entry. In a unique index there is one entry a value,
// Key(value) → key, which makes two transactions that claim a value conflict on every
// engine. Others have Key(value)+key → nothing, in the order of values, then of keys.
func (ix *index) entry(value string, key []byte) []byte {
	if ix.unique {
		return Key(value)
	}
	return append(appendPart(make([]byte, 0, len(value)+2+len(key)), value), key...)
}

// primary returns the key of the record that an entry names.
func (ix *index) primary(entry Item) (key []byte, ok bool) {
	if ix.unique {
		return entry.Value, true
	}
	return afterPart(entry.Key)
}

// All yields the records of r by primary key. An error ends the sequence.
func (c *Collection[T]) All(tx Tx, r Range) iter.Seq2[T, error] {
	return typedSeq[T](c.all(tx, r))
}

//go:noinline
func (c *records) all(tx Tx, r Range) iter.Seq2[any, error] {
	return func(yield func(any, error) bool) {
		for item, err := range tx.Scan(c.name, r) {
			if err != nil {
				yield(nil, fmt.Errorf("%s: %w", c.name, err))
				return
			}
			v, err := c.decode(item.Key, item.Value)
			if !yield(v, err) || err != nil {
				return
			}
		}
	}
}

// Lookup yields the records with this value in the index, by primary key. An error ends
// the sequence.
func (c *Collection[T]) Lookup(tx Tx, index, value string) iter.Seq2[T, error] {
	return typedSeq[T](c.lookup(tx, index, value, ""))
}

// LookupAfter is [Collection.Lookup] from the record after the one whose primary key is
// after, whether or not that is there; "" is before the first. It is not for unique indexes.
// Like [Sweep] it is no method.
func LookupAfter[T any](tx Tx, c *Collection[T], index, value, after string) iter.Seq2[T, error] {
	return typedSeq[T](c.lookup(tx, index, value, after))
}

// lookup is LookupAfter. What is not generic is not inlined where it is called, or the
// program would have it for each type of records.
//
//go:noinline
func (c *records) lookup(tx Tx, index, value, after string) iter.Seq2[any, error] {
	r := Range{Prefix: KeyPrefix(value)}
	if ix := c.index(index); ix != nil && after != "" {
		r.Start = append(ix.entry(value, []byte(after)), 0) // the least key after it
	}
	return c.viaIndex(tx, index, r)
}

// One returns the record with this value in the index, the first by primary key if
// there are several, or an error that wraps [ErrNotFound].
func (c *Collection[T]) One(tx Tx, index, value string) (T, error) {
	return typed[T](c.one(tx, index, value))
}

//go:noinline
func (c *records) one(tx Tx, index, value string) (any, error) {
	for v, err := range c.viaIndex(tx, index, Range{Prefix: KeyPrefix(value), Limit: 1}) {
		return v, err
	}
	return nil, fmt.Errorf("%s by %s %q: %w", c.name, index, value, ErrNotFound)
}

// sweepBatch is how many records a transaction of Sweep works on.
const sweepBatch = 500

// Sweep calls fn, which takes it out of the index, for every record with a value before
// until in the index. It does so in transactions of its own, a part at a time.
//
// It is no method, since few collections need it, and programs have the exported methods of
// all, called or not: templates call methods by name.
func Sweep[T any](ctx context.Context, db DB, c *Collection[T], index, until string, fn func(Tx, T) error) error {
	return c.sweep(ctx, db, index, until, func(tx Tx, record any) error { return fn(tx, *record.(*T)) })
}

func (c *records) sweep(ctx context.Context, db DB, index, until string, fn func(Tx, any) error) error {
	for {
		var old []any
		err := db.Update(ctx, func(tx Tx) error {
			old = nil
			for v, err := range c.ascend(tx, index, "", until, sweepBatch) {
				if err != nil {
					return err
				}
				old = append(old, v)
			}
			for _, v := range old {
				if err := fn(tx, v); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("sweep: %w", err)
		}
		if len(old) < sweepBatch {
			return nil
		}
	}
}

// Ascend yields records in the order of their values in the index, then of their keys:
// those with from ≤ value < to, where "" leaves that end open, and at most limit of them
// unless it is 0. A record with several values is yielded for each. An error ends the
// sequence. A loop that moves records forward in the same index should collect
// them first, or it may meet them again.
func (c *Collection[T]) Ascend(tx Tx, index string, from, to string, limit int) iter.Seq2[T, error] {
	return typedSeq[T](c.ascend(tx, index, from, to, limit))
}

//go:noinline
func (c *records) ascend(tx Tx, index string, from, to string, limit int) iter.Seq2[any, error] {
	r := Range{Limit: limit}
	if from != "" {
		r.Start = Key(from)
	}
	if to != "" {
		r.End = Key(to)
	}
	return c.viaIndex(tx, index, r)
}

// Descend yields records from the highest value in the index to the lowest: those with a
// value < before, all if that is "", and at most limit of them unless it is 0. Otherwise it
// is as [Collection.Ascend]. Like [Sweep] it is no method.
func Descend[T any](tx Tx, c *Collection[T], index string, before string, limit int) iter.Seq2[T, error] {
	return typedSeq[T](c.descend(tx, index, before, limit))
}

//go:noinline
func (c *records) descend(tx Tx, index string, before string, limit int) iter.Seq2[any, error] {
	r := Range{Reverse: true, Limit: limit}
	if before != "" {
		r.End = Key(before)
	}
	return c.viaIndex(tx, index, r)
}

//go:noinline
func (c *records) viaIndex(tx Tx, index string, r Range) iter.Seq2[any, error] {
	return func(yield func(any, error) bool) { c.yieldViaIndex(tx, index, r, yield) }
}

func (c *records) yieldViaIndex(tx Tx, index string, r Range, yield func(any, error) bool) {
	ix := c.index(index)
	if ix == nil {
		yield(nil, fmt.Errorf("%s has no index %q", c.name, index))
		return
	}
	tx.Prefetch(c.readVia(ix, r))
	for item, err := range tx.Scan(ix.bucket, r) {
		if err != nil {
			yield(nil, fmt.Errorf("%s: %w", ix.bucket, err))
			return
		}
		key, ok := ix.primary(item)
		if !ok {
			yield(nil, fmt.Errorf("%s: entry %q: %w", ix.bucket, item.Key, ErrCorrupt))
			return
		}
		v, err := c.get(tx, key)
		if errors.Is(err, ErrNotFound) {
			err = fmt.Errorf("%s: entry %q names a record that is not there: %w", ix.bucket, item.Key, ErrCorrupt)
		}
		if !yield(v, err) || err != nil {
			return
		}
	}
}

func (c *records) index(name string) *index {
	for i := range c.indexes {
		if c.indexes[i].name == name {
			return &c.indexes[i]
		}
	}
	return nil
}

// defaultPage is the limit of a page whose caller names none.
const defaultPage = 100

// Page returns up to limit records by primary key (100 if limit is not positive),
// beginning after the page that handed out cursor ("" is the first page), and the cursor
// of the next page, which is "" at the end. Cursors are opaque and safe in URLs; what
// was added or removed between two calls shifts nothing. The error wraps [ErrBadCursor]
// when cursor is not of this list. Like [Sweep] it is no method.
func Page[T any](tx Tx, c *Collection[T], cursor string, limit int) (items []T, next string, err error) {
	return PagePrefix(tx, c, nil, cursor, limit, false)
}

// PagePrefix is [Page] for the records whose keys begin with prefix, which
// [KeyPrefix] makes, and backwards if reverse is set.
func PagePrefix[T any](tx Tx, c *Collection[T], prefix []byte, cursor string, limit int, reverse bool) (items []T, next string, err error) {
	page, next, err := c.page(tx, prefix, cursor, limit, reverse)
	if err != nil || len(page) == 0 {
		return nil, "", err
	}
	items = make([]T, len(page))
	for i, record := range page {
		items[i] = *record.(*T)
	}
	return items, next, nil
}

//go:noinline
func (c *records) page(tx Tx, prefix []byte, cursor string, limit int, reverse bool) (items []any, next string, err error) {
	if limit <= 0 {
		limit = defaultPage
	}
	r := Range{Prefix: prefix, Reverse: reverse, Limit: limit + 1} // one more says whether a page follows
	if cursor != "" {
		last, err := parseCursor(cursor, prefix, reverse)
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", c.name, err)
		}
		if reverse {
			r.End = last
		} else {
			r.Start = append(last, 0)
		}
	}
	var last []byte
	for item, err := range tx.Scan(c.name, r) {
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", c.name, err)
		}
		if len(items) == limit {
			return items, formatCursor(last, reverse), nil
		}
		v, err := c.decode(item.Key, item.Value)
		if err != nil {
			return nil, "", err
		}
		items, last = append(items, v), item.Key
	}
	return items, "", nil
}

// A cursor is the direction and the last key of the page before.
const (
	cursorForward = 'f'
	cursorReverse = 'r'
)

func cursorDirection(reverse bool) byte {
	if reverse {
		return cursorReverse
	}
	return cursorForward
}

func formatCursor(last []byte, reverse bool) string {
	return base64.RawURLEncoding.EncodeToString(append([]byte{cursorDirection(reverse)}, last...))
}

func parseCursor(cursor string, prefix []byte, reverse bool) (last []byte, err error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(raw) < 2 || len(raw) > 1+MaxKey ||
		raw[0] != cursorDirection(reverse) || !bytes.HasPrefix(raw[1:], prefix) {
		return nil, ErrBadCursor
	}
	return raw[1:], nil
}

// A stored value is the record in an envelope that says by which version of its
// collection it was written, in exactly these bytes: {"v":1,"d":{...}}
const (
	envelopeVersion = `{"v":`
	envelopeData    = `,"d":`
	envelopeEnd     = '}'
)

// recordWriter writes values, one after the other into the same memory.
type recordWriter struct {
	buf  bytes.Buffer
	json *json.Encoder
	head int // what all values begin with
}

func newRecordWriter(version int) *recordWriter {
	w := &recordWriter{}
	w.buf.WriteString(envelopeVersion)
	w.buf.WriteString(strconv.Itoa(version))
	w.buf.WriteString(envelopeData)
	w.head = w.buf.Len()
	w.json = json.NewEncoder(&w.buf)
	w.json.SetEscapeHTML(false)
	return w
}

// encode returns the stored value of v, which is valid until the next call.
func (w *recordWriter) encode(v any) ([]byte, error) {
	w.buf.Truncate(w.head)
	if err := w.json.Encode(v); err != nil {
		return nil, err
	}
	w.buf.Truncate(w.buf.Len() - 1) // the encoder's newline
	w.buf.WriteByte(envelopeEnd)
	return w.buf.Bytes(), nil
}

// decode takes the envelope off by hand: parsing it as JSON would read the record twice.
func (c *records) decode(key, raw []byte) (any, error) {
	rest, ok := bytes.CutPrefix(raw, []byte(envelopeVersion))
	digits := 0
	for digits < len(rest) && '0' <= rest[digits] && rest[digits] <= '9' {
		digits++
	}
	if !ok || digits == 0 {
		return nil, c.fail(key, fmt.Errorf("%w: no record", ErrCorrupt))
	}
	version, err := strconv.Atoi(string(rest[:digits]))
	if err != nil || version < 1 {
		return nil, c.fail(key, fmt.Errorf("%w: no version", ErrCorrupt))
	}
	if version > c.version {
		return nil, c.fail(key, fmt.Errorf("%w: record version %d, known up to %d", ErrNewer, version, c.version))
	}
	data, ok := bytes.CutPrefix(rest[digits:], []byte(envelopeData))
	if !ok || len(data) == 0 || data[len(data)-1] != envelopeEnd {
		return nil, c.fail(key, fmt.Errorf("%w: no record", ErrCorrupt))
	}
	v := c.blank()
	if err := json.Unmarshal(data[:len(data)-1], v); err != nil {
		return nil, c.fail(key, fmt.Errorf("%w: %w", ErrCorrupt, err))
	}
	return v, nil
}

// fail adds to err which record it is about.
func (c *records) fail(key []byte, err error) error {
	return fmt.Errorf("%s %q: %w", c.name, key, err)
}
