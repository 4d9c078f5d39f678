package mdm

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// The devices that were put into a group stand in blocks of those whose ids begin alike, in
// the order of their ids, each with a zero byte behind it. So a group of a hundred thousand is
// read in some milliseconds, in the order of the rows of devices, and one device costs a block
// of some hundred.
const (
	memberBucket = "device_group_members"

	// blockPrefix is how many bytes of an id say in which block it stands: of random ids in
	// base 32, there are a thousand blocks then.
	blockPrefix = 2
)

// blockKey is where an id stands that is in a group.
func blockKey(g GroupID, id DeviceID) []byte {
	return append(storage.Key(string(g)), id[:min(blockPrefix, len(id))]...)
}

// memberBlocks changes the blocks of a group in one transaction.
type memberBlocks struct {
	tx     storage.Tx
	group  GroupID
	blocks map[string][]DeviceID // by key, of those that were read
	dirty  map[string]bool
}

func newMemberBlocks(tx storage.Tx, g GroupID) *memberBlocks {
	return &memberBlocks{tx: tx, group: g, blocks: make(map[string][]DeviceID), dirty: make(map[string]bool)}
}

// find returns the block of id, and where in it id stands or would stand.
func (m *memberBlocks) find(id DeviceID) (key string, at int, in bool, err error) {
	key = string(blockKey(m.group, id))
	ids, read := m.blocks[key]
	if !read {
		b, err := m.tx.Get(memberBucket, []byte(key))
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return "", 0, false, fmt.Errorf("members of group %s: %w", m.group, err)
		}
		for text := range strings.SplitSeq(strings.TrimSuffix(string(b), "\x00"), "\x00") {
			if text != "" {
				ids = append(ids, DeviceID(text))
			}
		}
		m.blocks[key] = ids
	}
	at, in = slices.BinarySearch(ids, id)
	return key, at, in, nil
}

// set puts id into the group or takes it out. It must be where find has found it.
func (m *memberBlocks) set(key string, at int, id DeviceID, in bool) {
	if in {
		m.blocks[key] = slices.Insert(m.blocks[key], at, id)
	} else {
		m.blocks[key] = slices.Delete(m.blocks[key], at, at+1)
	}
	m.dirty[key] = true
}

// write writes what was changed.
func (m *memberBlocks) write() error {
	for key := range m.dirty {
		var b []byte
		for _, id := range m.blocks[key] {
			b = append(append(b, id...), 0)
		}
		err := m.tx.Delete(memberBucket, []byte(key))
		if len(b) > 0 {
			err = m.tx.Put(memberBucket, []byte(key), b)
		}
		if err != nil {
			return fmt.Errorf("members of group %s: %w", m.group, err)
		}
	}
	return nil
}

// isMember says whether id was put into a group.
func isMember(tx storage.Tx, g GroupID, id DeviceID) (bool, error) {
	b, err := tx.Get(memberBucket, blockKey(g, id))
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("members of group %s: %w", g, err)
	}
	sought := append([]byte(id), 0)
	for len(b) >= len(sought) {
		if bytes.HasPrefix(b, sought) {
			return true, nil
		}
		b = b[bytes.IndexByte(b, 0)+1:]
	}
	return false, nil
}

// members are those of a group in the order of their ids, to be read beside the rows of devices.
type members struct {
	tx     storage.Tx
	group  GroupID
	blocks [][]byte // what is left of them
	from   []byte   // where the next blocks begin
	end    bool     // there are none
	err    error
}

// blocksAtOnce is how many blocks are read together.
const blocksAtOnce = 64

// has says whether id is among them. Ids must come in their order. After an error, which is in
// m.err, none is.
func (m *members) has(id []byte) bool {
	for {
		for len(m.blocks) > 0 {
			block := m.blocks[0]
			end := bytes.IndexByte(block, 0)
			if end < 0 {
				m.blocks = m.blocks[1:]
				continue
			}
			if order := bytes.Compare(block[:end], id); order >= 0 {
				return order == 0
			}
			m.blocks[0] = block[end+1:]
		}
		if m.end || m.err != nil {
			return false
		}
		m.read()
	}
}

func (m *members) read() {
	m.blocks, m.end = m.blocks[:0], true
	for item, err := range m.tx.Scan(memberBucket, storage.Range{Prefix: storage.Key(string(m.group)), Start: m.from, Limit: blocksAtOnce}) {
		if err != nil {
			m.err = fmt.Errorf("members of group %s: %w", m.group, err)
			return
		}
		m.blocks = append(m.blocks, item.Value)
		if len(m.blocks) == blocksAtOnce {
			m.from, m.end = append(item.Key, 0), false
		}
	}
}
