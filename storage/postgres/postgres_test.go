package postgres_test

import (
	"context"
	"sync"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/postgres"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

var ctx = context.Background()

func open(t testing.TB, url string) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(ctx, url, postgres.Options{})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return db
}

func TestEngineKeepsTheContract(t *testing.T) {
	var urls sync.Map
	storagetest.Run(t, func(t testing.TB) storage.DB {
		url := postgrestest.DSN(t)
		db := open(t, url)
		urls.Store(db, url)
		return db
	}, func(t testing.TB, db storage.DB) storage.DB {
		if err := db.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
		url, _ := urls.Load(db)
		again := open(t, url.(string))
		urls.Store(again, url)
		return again
	})
}
