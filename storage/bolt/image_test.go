package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"os"
	"path/filepath"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// FuzzImage changes a file anywhere, with checksums that are right, and has it checked.
func FuzzImage(f *testing.F) {
	path := filepath.Join(f.TempDir(), "gatehouse.db")
	db, err := Open(f.Context(), path, Options{})
	if err != nil {
		f.Fatal(err)
	}
	for i := range 100 {
		err := db.Update(f.Context(), func(tx storage.Tx) error {
			return tx.Put("things", binary.BigEndian.AppendUint16(nil, uint16(i)), make([]byte, i*10))
		})
		if err != nil {
			f.Fatal(err)
		}
	}
	pages, pageSize := db.Pages(), db.PageSize()
	if err := db.Close(); err != nil {
		f.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	file = file[:pages*pageSize]
	f.Add(uint32(0), []byte{})
	f.Add(uint32(headerSize+16), []byte{0xff, 0xff})
	f.Add(uint32(2*pageSize+10), []byte{0xff, 0xff, 0xff})
	f.Add(uint32(3*pageSize+12), []byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, at uint32, change []byte) {
		data := bytes.Clone(file)
		at %= uint32(len(data))
		copy(data[at:], change)
		for _, off := range []int{0, pageSize} {
			m := data[off+headerSize : off+headerSize+metaSize]
			sum := fnv.New64a()
			sum.Write(m[:metaSize-8])
			binary.NativeEndian.PutUint64(m[metaSize-8:], sum.Sum64())
		}
		img := image{r: bytes.NewReader(data), size: int64(len(data))}
		m, err := img.newest()
		if err == nil {
			err = img.check(t.Context(), m, 0)
		}
		if err != nil && len(change) == 0 {
			t.Errorf("an unchanged file: %v", err)
		}
	})
}

func TestATreeThatHoldsItselfIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gatehouse.db")
	db, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(t.Context(), func(tx storage.Tx) error {
		for i := range 500 { // enough for a branch
			if err := tx.Put("things", binary.BigEndian.AppendUint16(nil, uint16(i)), make([]byte, 100)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	pages, pageSize := db.Pages(), db.PageSize()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	branches := 0
	for id := 2; id < pages; id++ {
		page := data[id*pageSize : (id+1)*pageSize]
		if binary.NativeEndian.Uint16(page[8:]) == branchPage {
			branches++
			binary.NativeEndian.PutUint16(page[10:], 1) // one element, in any order: itself
			binary.NativeEndian.PutUint64(page[headerSize+8:], uint64(id))
		}
	}
	if branches == 0 {
		t.Fatal("there is no branch to damage")
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), path, Options{}); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("Open: %v, want ErrCorrupt", err)
	}
}
