package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// foreignFile makes a file as another program would, with names that are none of ours.
func foreignFile(t *testing.T, items int) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "other.db")
	db, err := bbolt.Open(path, 0o644, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("mdm.Devices"))
		if err != nil {
			return err
		}
		for i := range items {
			if err := b.Put(fmt.Appendf(nil, "key %06d", i), bytes.Repeat([]byte{byte(i)}, 100)); err != nil {
				return err
			}
		}
		_, err = tx.CreateBucketIfNotExists([]byte("empty"))
		return err
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAForeignFileIsReadAndNotChanged(t *testing.T) {
	storagetest.AnyEngine(t)
	path := foreignFile(t, 1000)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := bolt.OpenForeign(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	names, err := f.Buckets()
	if err != nil || len(names) != 1 || names[0] != "mdm.Devices" {
		t.Errorf("Buckets() = %v, %v, want the one that holds something", names, err)
	}
	n := 0
	for item, err := range f.All("mdm.Devices") {
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("key %06d", n); string(item.Key) != want || len(item.Value) != 100 {
			t.Fatalf("item %d = %q, %d bytes, want %q, 100", n, item.Key, len(item.Value), want)
		}
		n++
	}
	if n != 1000 {
		t.Errorf("All yielded %d items, want 1000", n)
	}
	if v, err := f.Get("mdm.Devices", []byte("key 000007")); err != nil || len(v) != 100 || v[0] != 7 {
		t.Errorf("Get = %v, %v", v, err)
	}
	for _, absent := range [][2]string{{"mdm.Devices", "none"}, {"mdm.Devices", ""}, {"none", "none"}} {
		if v, err := f.Get(absent[0], []byte(absent[1])); v != nil || err != nil {
			t.Errorf("Get(%q, %q) = %v, %v, want nothing", absent[0], absent[1], v, err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the file was changed, or can't be read: %v", err)
	}
}

func TestAForeignFileThatIsNoWholeDatabaseIsRefused(t *testing.T) {
	storagetest.AnyEngine(t)
	good, err := os.ReadFile(foreignFile(t, 5000))
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	header := bytes.Clone(good)
	for at := 4 * page; at < 8*page; at += page {
		for i := range 16 {
			header[at+i] = 0xff
		}
	}
	for name, data := range map[string][]byte{
		"an empty file":           {},
		"text":                    []byte("not a database at all\n"),
		"zeros":                   make([]byte, 64<<10),
		"half of one":             good[:len(good)/2],
		"its first page only":     good[:page],
		"headers are overwritten": header,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bad.db")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := bolt.OpenForeign(context.Background(), path)
			if err == nil {
				_ = f.Close()
			}
			if !errors.Is(err, storage.ErrCorrupt) {
				t.Errorf("OpenForeign = %v, want %v", err, storage.ErrCorrupt)
			}
		})
	}
	if _, err := bolt.OpenForeign(context.Background(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("OpenForeign of nothing = %v, want %v", err, os.ErrNotExist)
	}
	if _, err := bolt.OpenForeign(context.Background(), t.TempDir()); err == nil {
		t.Error("OpenForeign of a directory succeeded")
	}
}

func TestAForeignFileThatIsWrittenToIsInUse(t *testing.T) {
	storagetest.AnyEngine(t)
	path := foreignFile(t, 1)
	db, err := bbolt.Open(path, 0o644, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := bolt.OpenForeign(context.Background(), path); !errors.Is(err, storage.ErrInUse) {
		t.Errorf("OpenForeign = %v, want %v", err, storage.ErrInUse)
	}
}
