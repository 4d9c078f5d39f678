package writeset

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// list is a skip list of writes by key. A closure with ten thousand writes may scan
// between any two of them, so the order must be kept at all times; and since nothing is
// ever taken out (a deletion is a write too), a walk over it survives any write.
type list struct {
	head node // its next are the first of each level
	last *node
	len  int
}

const maxLevel = 12 // enough for 4^12 writes

type node struct {
	key, value []byte
	deleted    bool
	prev       *node // nil at the first
	next       []*node
	one        [1]*node // what next is of a node with one level, as most are
}

func newList() *list {
	return &list{head: node{next: make([]*node, maxLevel)}}
}

func (n *node) item() storage.Item {
	return storage.Item{Key: bytes.Clone(n.key), Value: append([]byte{}, n.value...)}
}

func (n *node) step(back bool) *node {
	if back {
		return n.prev
	}
	return n.next[0]
}

// seek returns the last node before key of each level, beginning with the lowest.
func (l *list) seek(key []byte) (path [maxLevel]*node) {
	at := &l.head
	for level := maxLevel - 1; level >= 0; level-- {
		for next := at.next[level]; next != nil && bytes.Compare(next.key, key) < 0; next = at.next[level] {
			at = next
		}
		path[level] = at
	}
	return path
}

// from returns the first node at or after key.
func (l *list) from(key []byte) *node {
	return l.seek(key)[0].next[0]
}

// below returns the last node before key, or the last of all if key is nil.
func (l *list) below(key []byte) *node {
	if key == nil {
		return l.last
	}
	if n := l.seek(key)[0]; n != &l.head {
		return n
	}
	return nil
}

func (l *list) find(key []byte) *node {
	if n := l.from(key); n != nil && bytes.Equal(n.key, key) {
		return n
	}
	return nil
}

// put sets what is written at key, of which it keeps copies.
func (l *list) put(key, value []byte, deleted bool) {
	path := l.seek(key)
	if n := path[0].next[0]; n != nil && bytes.Equal(n.key, key) {
		n.value, n.deleted = bytes.Clone(value), deleted
		return
	}
	both := append(append(make([]byte, 0, len(key)+len(value)), key...), value...)
	n := &node{key: both[:len(key):len(key)], value: both[len(key):], deleted: deleted}
	levels := 1
	for levels < maxLevel && rand.Uint32()&3 == 0 {
		levels++
	}
	if n.next = n.one[:]; levels > 1 {
		n.next = make([]*node, levels)
	}
	for level := range levels {
		n.next[level], path[level].next[level] = path[level].next[level], n
	}
	if path[0] != &l.head {
		n.prev = path[0]
	}
	if after := n.next[0]; after != nil {
		after.prev = n
	} else {
		l.last = n
	}
	l.len++
}

func sortedKeys(buckets map[string]*list) []string {
	return slices.Sorted(maps.Keys(buckets))
}
