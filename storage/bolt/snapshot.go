package bolt

import (
	"bytes"
	"fmt"
	"iter"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/internal/writeset"
)

// snapshot reads a bbolt transaction. What bbolt hands out lies in the map and is only
// valid while the transaction is, so all of it is copied here, under guard.
type snapshot struct {
	db      *DB
	tx      *bbolt.Tx
	buckets []openBucket // those found so far, which are few; bbolt searches for each anew
}

type openBucket struct {
	name string
	*bbolt.Bucket
	get *bbolt.Cursor // bbolt's own Get makes a new one each time
}

var _ writeset.Base = (*snapshot)(nil)

func (s *snapshot) Get(bucket string, key []byte) (value []byte, ok bool, err error) {
	defer s.db.caught(&err)
	b, ok := s.bucket(bucket)
	if !ok {
		return nil, false, nil
	}
	k, v := b.get.Seek(key)
	if !bytes.Equal(k, key) {
		return nil, false, nil
	}
	value, err = s.copyValue(bucket, key, v)
	return value, err == nil, err
}

func (s *snapshot) Scan(span writeset.Span) iter.Seq2[storage.Item, error] {
	bucket, lo, hi, reverse := span.Bucket, span.Lo, span.Hi, span.Reverse
	return func(yield func(storage.Item, error) bool) {
		var c *bbolt.Cursor
		var memory slab
		var lent []byte // the key and the value of the item that is lent
		// One step under guard: the closure's own panics are none of our business.
		step := func() (item storage.Item, ok bool, err error) {
			defer s.db.caught(&err)
			var k, v []byte
			switch {
			case c == nil:
				b, ok := s.bucket(bucket)
				if !ok {
					return item, false, nil
				}
				c = b.Cursor()
				k, v = first(c, lo, hi, reverse)
			case reverse:
				k, v = c.Prev()
			default:
				k, v = c.Next()
			}
			if k == nil || reverse && bytes.Compare(k, lo) < 0 ||
				!reverse && hi != nil && bytes.Compare(k, hi) >= 0 {
				return item, false, nil
			}
			if len(k) > storage.MaxKey {
				return item, false, corrupt(s.db.path, fmt.Sprintf("a key of %d bytes in %s", len(k), bucket))
			}
			if len(v) > storage.MaxValue {
				return item, false, s.tooLarge(bucket, k, v)
			}
			if span.Lent {
				lent = append(append(lent[:0], k...), v...)
				item.Key, item.Value = lent[:len(k):len(k)], lent[len(k):len(lent):len(lent)]
				return item, true, nil
			}
			item.Key, item.Value = memory.copy(k), memory.copy(v)
			return item, true, nil
		}
		for {
			item, ok, err := step()
			if err != nil {
				yield(storage.Item{}, err)
				return
			}
			if !ok || !yield(item, nil) {
				return
			}
		}
	}
}

// Prefetch does nothing: everything is at hand.
func (s *snapshot) Prefetch([]writeset.Key, []writeset.Ahead) {}

// Buckets leaves those out that were emptied: bbolt keeps them.
func (s *snapshot) Buckets() (names []string, err error) {
	defer s.db.caught(&err)
	c := s.tx.Cursor()
	for name, _ := c.First(); name != nil; name, _ = c.Next() {
		if first, _ := s.tx.Bucket(name).Cursor().First(); first != nil {
			names = append(names, string(name))
		}
	}
	return names, nil
}

func first(c *bbolt.Cursor, lo, hi []byte, reverse bool) (k, v []byte) {
	switch {
	case reverse && hi == nil:
		return c.Last()
	case reverse:
		if k, _ := c.Seek(hi); k == nil {
			return c.Last()
		}
		return c.Prev()
	case lo == nil:
		return c.First()
	default:
		return c.Seek(lo)
	}
}

func (s *snapshot) bucket(name string) (b openBucket, ok bool) {
	for _, b := range s.buckets {
		if b.name == name {
			return b, true
		}
	}
	if b.Bucket = s.tx.Bucket([]byte(name)); b.Bucket == nil {
		return b, false
	}
	b.name, b.get = name, b.Cursor()
	s.buckets = append(s.buckets, b)
	return b, true
}

// copyValue copies v, unless its length shows that the page it lies in is damaged.
func (s *snapshot) copyValue(bucket string, key, v []byte) ([]byte, error) {
	if len(v) > storage.MaxValue {
		return nil, s.tooLarge(bucket, key, v)
	}
	return append(make([]byte, 0, len(v)), v...), nil
}

func (s *snapshot) tooLarge(bucket string, key, v []byte) error {
	return corrupt(s.db.path, fmt.Sprintf("a value of %d bytes at %s %q", len(v), bytes.Clone(key), bucket))
}

// slab is memory for the copies of one scan: to get it for each of a hundred thousand
// items takes longer than to read them. Whoever keeps a copy keeps the others of its
// piece, so the first pieces are small.
type slab struct {
	free []byte
	size int
}

const maxSlab = 16 << 10

func (m *slab) copy(b []byte) []byte {
	if len(b) > maxSlab/4 {
		return bytes.Clone(b)
	}
	if m.free == nil || len(b) > len(m.free) { // of no bytes it is a slice, too, and not nil
		m.size = min(max(2*m.size, 256), maxSlab)
		m.free = make([]byte, max(m.size, len(b)))
	}
	n := copy(m.free, b)
	own := m.free[:n:n]
	m.free = m.free[n:]
	return own
}
