package bolt_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// open opens the database at path until the test ends.
func open(t testing.TB, path string) *bolt.DB {
	t.Helper()
	db, err := bolt.Open(context.Background(), path, bolt.Options{})
	if err != nil {
		t.Fatalf("Open(%s): %v", path, err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return db
}

func TestBoltKeepsTheContractOfStorage(t *testing.T) {
	paths := map[storage.DB]string{}
	openAt := func(t testing.TB, path string) storage.DB {
		db := open(t, path)
		paths[db] = path
		return db
	}
	storagetest.Run(t, func(t testing.TB) storage.DB {
		return openAt(t, filepath.Join(t.TempDir(), "gatehouse.db"))
	}, func(t testing.TB, db storage.DB) storage.DB {
		if err := db.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		return openAt(t, paths[db])
	})
}
