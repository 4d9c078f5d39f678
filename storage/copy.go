package storage

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

var (
	// ErrNotEmpty means that a database that should be filled holds something already.
	ErrNotEmpty = errors.New("storage: database is not empty")

	// ErrUnfinished means that a database holds a part of another one, from a [Copy] that
	// did not end.
	ErrUnfinished = errors.New("storage: database holds an unfinished copy")
)

// CopyOptions says what Copy needs to know beside the two databases.
type CopyOptions struct {
	// Source names the database that is copied, for people, and so that the copy of the
	// same one can go on where another was interrupted. It holds no secrets.
	Source string

	// StartOver takes a target with an unfinished copy of another source, too. What that
	// one has left is replaced.
	StartOver bool

	Progress func(CopyProgress) // told after each transaction; nil: nobody is
	Now      func() time.Time
}

// CopyProgress says how far a copy is.
type CopyProgress struct {
	Phase  CopyPhase
	Bucket string
	Items  int64 // of the source that were passed in this phase, in all buckets
	Bytes  int64 // of their keys and values
}

// CopyPhase is a part of the work of Copy. Each goes through everything once.
type CopyPhase string

// The phases of a copy, in order.
const (
	CopyWrites CopyPhase = "copying"
	CopyReads  CopyPhase = "reading the source again"
	CopyProves CopyPhase = "reading the copy"
)

// CopyResult says what Copy has done, also where it failed.
type CopyResult struct {
	// Begun says that the target was marked: until a copy has ended there, it is
	// unfinished.
	Begun   bool
	Resumed bool // an unfinished copy was there

	Buckets []BucketSum // all that were copied, in order, when it succeeded
}

// BucketSum is what two buckets of the same content share.
type BucketSum struct {
	Name  string
	Items int64
	Bytes int64 // of keys and values

	// SHA256 is over the items in the order of their keys: of each the length of the key
	// in 4 bytes, big-endian, the key, and the same of its value.
	SHA256 [sha256.Size]byte
}

// unfinishedCopy marks the target from before the first item until after the last check.
type unfinishedCopy struct {
	Source string    `json:"source"`
	Begun  time.Time `json:"begun"`

	// Run is the process that is at work, and Items what it has written. Every
	// transaction writes this record, so that one of a process that is gone, which the
	// database commits late, conflicts with whatever came after.
	Run   string `json:"run"`
	Items int64  `json:"items"`
}

const copyKey = "copy"

var copies = NewCollection("storage.copy", 1, func(unfinishedCopy) string { return copyKey })

func (u unfinishedCopy) err() error {
	return fmt.Errorf("%w of %s, begun %s", ErrUnfinished, u.Source, u.Begun.Format(time.RFC3339))
}

// Unfinished returns an error that wraps [ErrUnfinished] if db is the target of a copy
// that has not ended. Nothing but another copy should use it.
func Unfinished(ctx context.Context, db DB) error {
	return db.View(ctx, func(tx Tx) error {
		u, err := copies.Get(tx, copyKey)
		switch {
		case errors.Is(err, ErrNotFound):
			return nil
		case err != nil:
			return err
		}
		return u.err()
	})
}

// Copy makes to hold exactly what from holds at one moment, whatever is stored there, and
// compares the two when it's done. Memory is bounded, and so is each transaction.
//
// It returns an error that wraps [ErrNotEmpty] when to holds anything, and changes nothing
// then, unless that is what an interrupted copy of the same source has left: then Copy goes
// on, comparing what is there, so that the result is exact even if the source was used in
// between. Nobody else may write to to meanwhile; who opens it should ask [Unfinished].
func Copy(ctx context.Context, from, to DB, o CopyOptions) (CopyResult, error) {
	if from == nil || to == nil || o.Source == "" || o.Now == nil {
		return CopyResult{}, errors.New("copy: two databases, Source and Now are required")
	}
	c := &copier{to: to, progress: o.Progress, mark: unfinishedCopy{
		Source: o.Source, Begun: o.Now().UTC(), Run: rand.Text(),
	}}
	if err := checkSource(ctx, from); err != nil {
		return CopyResult{}, fmt.Errorf("the source: %w", err)
	}
	if err := c.begin(ctx, o.StartOver); err != nil {
		return CopyResult{}, fmt.Errorf("the target: %w", err)
	}
	result := CopyResult{Begun: true, Resumed: c.resumed}

	// This closure writes elsewhere, which closures should not: if it runs again, it goes
	// through the target again, and finds most of it done.
	var want, have []BucketSum
	err := from.View(ctx, func(src Tx) (err error) {
		if err := c.copyAll(ctx, src); err != nil {
			return err
		}
		want, err = c.sums(src, CopyReads)
		return err
	})
	if err != nil {
		return result, err
	}
	err = to.View(ctx, func(tx Tx) (err error) {
		have, err = c.sums(tx, CopyProves)
		return err
	})
	if err == nil {
		err = compareSums(want, have)
	}
	if err == nil {
		err = c.end(ctx)
	}
	if err != nil {
		return result, err
	}
	result.Buckets = want
	return result, nil
}

// checkSource refuses what nobody can want to have copied.
func checkSource(ctx context.Context, from DB) error {
	if err := Unfinished(ctx, from); err != nil {
		return err
	}
	return from.View(ctx, func(tx Tx) error {
		names, err := tx.Buckets()
		if err == nil && len(names) == 0 {
			err = errors.New("holds nothing")
		}
		return err
	})
}

// copier is one run of Copy.
type copier struct {
	to       DB
	mark     unfinishedCopy
	resumed  bool
	progress func(CopyProgress)
	done     CopyProgress
}

// begin marks the target as ours, if it is empty or holds an unfinished copy.
func (c *copier) begin(ctx context.Context, startOver bool) error {
	return c.to.Update(ctx, func(tx Tx) error {
		c.resumed = false
		names, err := tx.Buckets()
		if err != nil {
			return err
		}
		if len(names) > 0 {
			left, err := copies.Get(tx, copyKey)
			switch {
			case errors.Is(err, ErrNotFound):
				return fmt.Errorf("%w: it holds %s", ErrNotEmpty, someOf(names))
			case err != nil:
				return err
			case left.Source != c.mark.Source && !startOver:
				return left.err()
			}
			c.resumed = true
		}
		return copies.Put(tx, c.mark)
	})
}

// someOf names a few buckets.
func someOf(names []string) string {
	const few = 3
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}

// end removes the mark.
func (c *copier) end(ctx context.Context) error {
	return c.to.Update(ctx, func(tx Tx) error {
		if err := c.check(tx); err != nil {
			return err
		}
		return copies.Delete(tx, copyKey)
	})
}

// check fails when the target is no longer ours to write to.
func (c *copier) check(tx Tx) error {
	mark, err := copies.Get(tx, copyKey)
	switch {
	case errors.Is(err, ErrNotFound), err == nil && mark.Run != c.mark.Run:
		return errors.New("another process began to write to the target")
	}
	return err
}

// copyAll makes the target's buckets equal to those of src.
func (c *copier) copyAll(ctx context.Context, src Tx) error {
	c.done = CopyProgress{Phase: CopyWrites}
	names, err := src.Buckets()
	if err != nil {
		return err
	}
	err = c.to.View(ctx, func(tx Tx) error {
		there, err := tx.Buckets()
		names = append(slices.Clone(names), there...) // may hold what an earlier copy has left
		return err
	})
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if name == copies.name {
			continue
		}
		if err := c.copyBucket(ctx, src, name); err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
	}
	return nil
}

// copyBucket goes through both sides of a bucket, a chunk of items after the other. In a
// target that is empty, that is to write all of it.
func (c *copier) copyBucket(ctx context.Context, src Tx, name string) error {
	source := newCursor(name, nil)
	var want []Item  // of the source, and not in the target yet
	var start []byte // below this key, both sides are equal
	for {
		if len(want) == 0 && !source.whole {
			var err error
			if want, err = source.next(src); err != nil {
				return err
			}
		}
		var s step
		err := c.to.Update(ctx, func(tx Tx) (err error) {
			target := newCursor(name, start)
			tx.Prefetch(Read{Bucket: copies.name, Key: []byte(copyKey)}, Read{Bucket: name, Range: target.page()})
			if err := c.check(tx); err != nil {
				return err
			}
			if s, err = equalize(tx, target, want, source.whole); err != nil || s.writes == 0 {
				return err
			}
			mark := c.mark
			mark.Items += s.writes
			return copies.Put(tx, mark)
		})
		if err != nil {
			return err
		}
		c.mark.Items += s.writes
		c.report(name, want[:s.taken])
		want = want[s.taken:]
		if s.end == nil {
			return nil
		}
		start = after(s.end)
	}
}

// step is what one transaction did.
type step struct {
	taken  int    // items of the source that the target now has
	writes int64  // how many of all had to be changed
	end    []byte // both sides are equal up to this key; nil: to the end
}

// equalize makes the items of a bucket equal to want, from where target begins to where
// both sides are known.
func equalize(tx Tx, target *cursor, want []Item, wantWhole bool) (s step, err error) {
	have, err := target.next(tx)
	if err != nil {
		return s, err
	}
	if !wantWhole {
		s.end = want[len(want)-1].Key
	}
	if !target.whole {
		if last := have[len(have)-1].Key; s.end == nil || bytes.Compare(last, s.end) < 0 {
			s.end = last
		}
	}
	within := func(key []byte) bool { return s.end == nil || bytes.Compare(key, s.end) <= 0 }
	for _, item := range want {
		if !within(item.Key) {
			break
		}
		for len(have) > 0 && bytes.Compare(have[0].Key, item.Key) < 0 {
			if err := tx.Delete(target.bucket, have[0].Key); err != nil {
				return s, err
			}
			have = have[1:]
			s.writes++
		}
		s.taken++
		if len(have) > 0 && bytes.Equal(have[0].Key, item.Key) {
			same := bytes.Equal(have[0].Value, item.Value)
			have = have[1:]
			if same {
				continue
			}
		}
		if err := tx.Put(target.bucket, item.Key, item.Value); err != nil {
			return s, err
		}
		s.writes++
	}
	for _, item := range have {
		if !within(item.Key) {
			break
		}
		if err := tx.Delete(target.bucket, item.Key); err != nil {
			return s, err
		}
		s.writes++
	}
	return s, nil
}

// report counts items that were passed.
func (c *copier) report(bucket string, items []Item) {
	c.done.Bucket = bucket
	c.done.Items += int64(len(items))
	for _, item := range items {
		c.done.Bytes += int64(len(item.Key) + len(item.Value))
	}
	if c.progress != nil {
		c.progress(c.done)
	}
}

// sums reads all buckets but that of the mark.
func (c *copier) sums(tx Tx, phase CopyPhase) ([]BucketSum, error) {
	c.done = CopyProgress{Phase: phase}
	names, err := tx.Buckets()
	if err != nil {
		return nil, err
	}
	sums := make([]BucketSum, 0, len(names))
	for _, name := range names {
		if name == copies.name {
			continue
		}
		sum := BucketSum{Name: name}
		hash := sha256.New()
		var length [4]byte
		for cur := newCursor(name, nil); !cur.whole; {
			items, err := cur.next(tx)
			if err != nil {
				return nil, fmt.Errorf("bucket %s: %w", name, err)
			}
			for _, item := range items {
				for _, part := range [][]byte{item.Key, item.Value} {
					binary.BigEndian.PutUint32(length[:], uint32(len(part)))
					hash.Write(length[:])
					hash.Write(part)
					sum.Bytes += int64(len(part))
				}
			}
			sum.Items += int64(len(items))
			c.report(name, items)
		}
		hash.Sum(sum.SHA256[:0])
		sums = append(sums, sum)
	}
	return sums, nil
}

// compareSums names the first bucket in which two databases differ.
func compareSums(want, have []BucketSum) error {
	for len(want) > 0 || len(have) > 0 {
		switch {
		case len(have) == 0 || len(want) > 0 && want[0].Name < have[0].Name:
			return fmt.Errorf("the copy lacks bucket %s", want[0].Name)
		case len(want) == 0 || have[0].Name < want[0].Name:
			return fmt.Errorf("the copy has a bucket %s that the source lacks", have[0].Name)
		case want[0] != have[0]:
			return fmt.Errorf("bucket %s is not the same: %d items, SHA-256 %x in the source, %d items, SHA-256 %x in the copy",
				want[0].Name, want[0].Items, want[0].SHA256, have[0].Items, have[0].SHA256)
		}
		want, have = want[1:], have[1:]
	}
	return nil
}

// Bounds of a chunk, which is also what one transaction writes. It ends with the page that
// exceeds that of items, or the item that exceeds that of bytes.
const (
	copyItems = 2000
	copyBytes = 4 << 20

	// An engine that is a network away reads a page at once. How large its items are is
	// known when they have come, so a page begins small and stays small.
	firstPage = 1
	maxPage   = 64
)

// cursor reads a bucket in the order of its keys, in chunks that fit into memory.
type cursor struct {
	bucket string
	start  []byte // of the next page
	limit  int    // of the next page
	whole  bool   // there is nothing from start on
}

func newCursor(bucket string, start []byte) *cursor {
	return &cursor{bucket: bucket, start: start, limit: firstPage}
}

func (c *cursor) page() Range { return Range{Start: c.start, Limit: c.limit} }

// next returns the next chunk: one item at least, unless whole is true then.
func (c *cursor) next(tx Tx) (items []Item, err error) {
	size := 0
	for !c.whole && len(items) < copyItems && size < copyBytes {
		n, largest := 0, 1
		for item, err := range tx.Scan(c.bucket, c.page()) {
			if err != nil {
				return nil, err
			}
			items = append(items, item)
			n++
			largest = max(largest, len(item.Value))
			if size += len(item.Key) + len(item.Value); size >= copyBytes {
				break
			}
		}
		if n > 0 {
			c.start = after(items[len(items)-1].Key)
		}
		c.whole = n < c.limit && size < copyBytes
		c.limit = max(1, min(4*c.limit, copyBytes/largest, maxPage))
	}
	return items, nil
}

// after is the first key behind key.
func after(key []byte) []byte { return append(bytes.Clone(key), 0) }
