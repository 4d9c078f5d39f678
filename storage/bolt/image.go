package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// image reads a bbolt file (version 2) without a map and believes nothing in it, so that a
// damaged one gives an error where bbolt would panic or fault. Numbers in the
// file have the machine's byte order.
type image struct {
	r    io.ReaderAt
	size int64
}

const (
	magic   = 0xED0CDAED
	version = 2

	headerSize  = 16 // of a page: id 8, flags 2, count 2, overflow 4
	elementSize = 16
	metaSize    = 64 // after the header: magic, version, page size, flags, root 16, freelist, pages, txid, checksum
	noFreelist  = ^uint64(0)

	branchPage   = 0x01
	leafPage     = 0x02
	metaPage     = 0x04
	freelistPage = 0x10

	bucketElement = 0x01
)

// meta is what a meta page says.
type meta struct {
	pageSize int64
	root     uint64
	freelist uint64
	pages    uint64 // all pages in use are below
	txid     uint64
	alone    bool // the other meta page is invalid
}

// readMeta reads the meta page at offset off.
func (img image) readMeta(off int64) (meta, error) {
	var b [headerSize + metaSize]byte
	if _, err := img.r.ReadAt(b[:], off); err != nil {
		return meta{}, errors.New("it is too short")
	}
	m := b[headerSize:]
	u32, u64 := binary.NativeEndian.Uint32, binary.NativeEndian.Uint64
	sum := fnv.New64a()
	sum.Write(m[:metaSize-8])
	pageSize := int64(u32(m[8:]))
	switch {
	case u32(m) != magic:
		return meta{}, errors.New("it is not a database of this kind")
	case u32(m[4:]) != version:
		return meta{}, fmt.Errorf("its format is version %d, not %d", u32(m[4:]), version)
	case u64(m[56:]) != sum.Sum64():
		return meta{}, errors.New("the checksum of its meta page is wrong")
	case pageSize < 1024 || pageSize > 16<<20 || pageSize&(pageSize-1) != 0:
		return meta{}, fmt.Errorf("it has pages of %d bytes", pageSize)
	}
	return meta{pageSize: pageSize, root: u64(m[16:]), freelist: u64(m[32:]), pages: u64(m[40:]), txid: u64(m[48:])}, nil
}

// metas returns the valid ones of the two meta pages.
func (img image) metas() ([]meta, error) {
	if img.size == 0 {
		return nil, errors.New("it is empty")
	}
	var found []meta
	m0, err0 := img.readMeta(0)
	if err0 == nil {
		found = append(found, m0)
		if m1, err := img.readMeta(m0.pageSize); err == nil && m1.pageSize == m0.pageSize {
			found = append(found, m1)
		}
		return found, nil
	}
	for pageSize := int64(1024); pageSize <= 16<<20; pageSize *= 2 { // the first would have said
		if m1, err := img.readMeta(pageSize); err == nil && m1.pageSize == pageSize {
			return []meta{m1}, nil
		}
	}
	return nil, err0
}

// newest returns the meta page that counts, after checking that the file holds what
// it speaks of.
func (img image) newest() (meta, error) {
	found, err := img.metas()
	if err != nil {
		return meta{}, err
	}
	m := found[0]
	if len(found) == 2 && found[1].txid > m.txid {
		m = found[1]
	}
	m.alone = len(found) == 1
	return m, img.plausible(m)
}

func (img image) plausible(m meta) error {
	switch {
	case m.pages < 4 || m.pages > uint64(img.size/m.pageSize):
		return fmt.Errorf("it was cut off: %d bytes, where %d pages of %d should be", img.size, m.pages, m.pageSize)
	case m.root < 2 || m.root >= m.pages, m.freelist != noFreelist && (m.freelist < 2 || m.freelist >= m.pages):
		return errors.New("its meta page points outside of it")
	}
	return nil
}

// check walks over the pages that m's transaction can reach, breadth first: every page
// is of a right kind, holds what it claims, in order, and is referred to once; and
// none is lost. It stops without a complaint after budget pages, unless budget is 0.
func (img image) check(ctx context.Context, m meta, budget int) error {
	if m.freelist == noFreelist {
		budget = 0 // bbolt will walk over all of it, and not as carefully
	}
	w := walk{image: img, meta: m, seen: make([]byte, m.pages), budget: budget}
	w.seen[0], w.seen[1] = pageUsed, pageUsed
	if err := w.readFreelist(); err != nil {
		return err
	}
	w.push(ref{id: m.root})
	for n := 0; len(w.queue) > 0; n++ {
		if budget > 0 && n >= budget {
			return nil
		}
		if n%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		next := w.queue[0]
		w.queue = w.queue[1:]
		if err := w.page(next); err != nil {
			return fmt.Errorf("page %d: %w", next.id, err)
		}
	}
	for id, state := range w.seen {
		if state == pageUnknown && m.freelist != noFreelist {
			return fmt.Errorf("page %d: neither used nor free", id)
		}
	}
	return nil
}

// walk is one check under way.
type walk struct {
	image
	meta
	seen   []byte // by page
	queue  []ref
	budget int // 0: no end
	buf    []byte
}

// push queues a page, and returns where, or -1 if its turn would never come.
func (w *walk) push(r ref) int {
	if w.budget > 0 && len(w.queue) >= w.budget {
		return -1
	}
	w.queue = append(w.queue, r)
	return len(w.queue) - 1
}

const (
	pageUnknown = iota
	pageFree
	pageUsed
)

// ref is a page to be looked at, and the bounds of its keys: lo ≤ key < hi.
type ref struct {
	id     uint64
	lo, hi []byte // nil: open
}

// read reads page id with its overflow pages and marks them used. The bytes are valid
// until the next read.
func (w *walk) read(id uint64) ([]byte, error) {
	if id < 2 || id >= w.pages {
		return nil, errors.New("not in the file")
	}
	w.buf = grow(w.buf, w.pageSize)
	if _, err := w.r.ReadAt(w.buf, int64(id)*w.pageSize); err != nil {
		return nil, err
	}
	if got := binary.NativeEndian.Uint64(w.buf); got != id {
		return nil, fmt.Errorf("says that it is page %d", got)
	}
	overflow := uint64(binary.NativeEndian.Uint32(w.buf[12:]))
	if overflow >= w.pages-id {
		return nil, errors.New("continues outside of the file")
	}
	for i := id; i <= id+overflow; i++ {
		switch w.seen[i] {
		case pageFree:
			return nil, errors.New("both used and free")
		case pageUsed:
			return nil, errors.New("used twice")
		}
		w.seen[i] = pageUsed
	}
	if overflow > 0 {
		w.buf = grow(w.buf, int64(overflow+1)*w.pageSize)
		if _, err := w.r.ReadAt(w.buf, int64(id)*w.pageSize); err != nil {
			return nil, err
		}
	}
	return w.buf, nil
}

func grow(b []byte, n int64) []byte {
	if int64(cap(b)) < n {
		return make([]byte, n)
	}
	return b[:n]
}

func (w *walk) readFreelist() error {
	if w.freelist == noFreelist {
		return nil
	}
	b, err := w.read(w.freelist)
	if err != nil {
		return fmt.Errorf("page %d: %w", w.freelist, err)
	}
	if flags := binary.NativeEndian.Uint16(b[8:]); flags != freelistPage {
		return fmt.Errorf("page %d: not the list of free pages", w.freelist)
	}
	count, ids := uint64(binary.NativeEndian.Uint16(b[10:])), b[headerSize:]
	if count == 0xffff { // the real one follows
		count, ids = binary.NativeEndian.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return fmt.Errorf("page %d: lists %d free pages", w.freelist, count)
	}
	for i := range count {
		id := binary.NativeEndian.Uint64(ids[i*8:])
		if id < 2 || id >= w.pages || w.seen[id] != pageUnknown {
			return fmt.Errorf("page %d: lists page %d as free", w.freelist, id)
		}
		w.seen[id] = pageFree
	}
	return nil
}

// page checks one page of a tree and queues those below.
func (w *walk) page(at ref) error {
	b, err := w.read(at.id)
	if err != nil {
		return err
	}
	switch binary.NativeEndian.Uint16(b[8:]) {
	case branchPage:
		b = bytes.Clone(b) // the bounds of what is below lie in it
		last := -1         // the one queued before, whose keys end where the next one's begin
		err := elements(b, at, false, func(key, rest []byte, _ uint32) error {
			if last >= 0 {
				w.queue[last].hi = key
			}
			last = w.push(ref{id: binary.NativeEndian.Uint64(rest), lo: key, hi: at.hi})
			return nil
		})
		if err == nil && binary.NativeEndian.Uint16(b[10:]) == 0 {
			err = errors.New("a branch without anything below")
		}
		return err
	case leafPage:
		return elements(b, at, true, w.leafElement)
	default:
		return errors.New("neither branch nor leaf")
	}
}

func (w *walk) leafElement(key, value []byte, flags uint32) error {
	if flags&bucketElement == 0 {
		return nil
	}
	if len(value) < 16 {
		return fmt.Errorf("bucket %q is cut off", key)
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		w.push(ref{id: root})
		return nil
	}
	// A small bucket is a leaf page inside of its parent's value.
	inline := value[16:]
	if len(inline) < headerSize || binary.NativeEndian.Uint16(inline[8:]) != leafPage {
		return fmt.Errorf("bucket %q is damaged", key)
	}
	return elements(inline, ref{}, true, func(_, _ []byte, flags uint32) error {
		if flags&bucketElement != 0 {
			return fmt.Errorf("bucket %q holds another", key)
		}
		return nil
	})
}

// elements calls fn for each element of a branch or leaf page, after checking that it
// lies in the page and in order. Of a branch, value is the page id below.
func elements(b []byte, at ref, leaf bool, fn func(key, value []byte, flags uint32) error) error {
	count := int(binary.NativeEndian.Uint16(b[10:]))
	if headerSize+count*elementSize > len(b) {
		return fmt.Errorf("has %d elements", count)
	}
	last := at.lo
	for i := range count {
		start := headerSize + i*elementSize
		e := b[start : start+elementSize]
		var pos, keySize, valueSize uint64
		var flags uint32
		if leaf { // flags 4, position 4, key size 4, value size 4
			flags = binary.NativeEndian.Uint32(e)
			pos, keySize, valueSize = uint64(binary.NativeEndian.Uint32(e[4:])), uint64(binary.NativeEndian.Uint32(e[8:])), uint64(binary.NativeEndian.Uint32(e[12:]))
		} else { // position 4, key size 4, page id 8
			pos, keySize = uint64(binary.NativeEndian.Uint32(e)), uint64(binary.NativeEndian.Uint32(e[4:]))
		}
		pos += uint64(start)
		if keySize == 0 || pos < headerSize || pos+keySize+valueSize > uint64(len(b)) {
			return fmt.Errorf("element %d lies outside of it", i)
		}
		key := b[pos : pos+keySize]
		value := b[pos+keySize : pos+keySize+valueSize]
		if !leaf {
			value = e[8:]
		}
		if order := bytes.Compare(last, key); i > 0 && order >= 0 || order > 0 || at.hi != nil && bytes.Compare(key, at.hi) >= 0 {
			return fmt.Errorf("element %d is out of order", i)
		}
		last = key
		if err := fn(key, value, flags); err != nil {
			return err
		}
	}
	return nil
}
