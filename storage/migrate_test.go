package storage_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func atNoon() time.Time { return noon }

// appends makes a migration that leaves its version behind in a record.
func appends(version int) storage.Migration {
	return storage.Migration{Version: version, Name: fmt.Sprint("step ", version), Apply: func(tx storage.Tx) error {
		v, err := tx.Get("log", []byte("log"))
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		return tx.Put("log", []byte("log"), fmt.Appendf(v, "%d ", version))
	}}
}

func migrated(t *testing.T, db storage.DB) string {
	t.Helper()
	var log []byte
	err := db.View(t.Context(), func(tx storage.Tx) (err error) {
		log, err = tx.Get("log", []byte("log"))
		return err
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(log))
}

func TestEachMigrationIsAppliedOnceAndInOrder(t *testing.T) {
	db := storagetest.Open(t)
	steps := []storage.Migration{appends(1), appends(2), appends(5), appends(7)}
	for _, n := range []int{0, 2, 2, 4, 4} {
		if err := storage.Migrate(t.Context(), db, atNoon, steps[:n]); err != nil {
			t.Fatalf("Migrate to %d steps: %v", n, err)
		}
	}
	if got := migrated(t, db); got != "1 2 5 7" {
		t.Errorf("applied %q, want each once and in order", got)
	}
	err := storage.Migrate(t.Context(), db, atNoon, steps[:3])
	if !errors.Is(err, storage.ErrNewer) {
		t.Errorf("Migrate by an older program: %v, want ErrNewer", err)
	}
}

func TestAMigrationThatFailsLeavesTheOneBefore(t *testing.T) {
	db := storagetest.Open(t)
	errBroken := errors.New("broken")
	broken := appends(2)
	broken.Apply = func(tx storage.Tx) error { return errors.Join(appends(2).Apply(tx), errBroken) }
	err := storage.Migrate(t.Context(), db, atNoon, []storage.Migration{appends(1), broken, appends(3)})
	if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "step 2") {
		t.Errorf("Migrate: %v, want the error and which step", err)
	}
	if got := migrated(t, db); got != "1" {
		t.Errorf("applied %q, want 1", got)
	}
	if err := storage.Migrate(t.Context(), db, atNoon, []storage.Migration{appends(1), appends(2), appends(3)}); err != nil {
		t.Fatal(err)
	}
	if got := migrated(t, db); got != "1 2 3" {
		t.Errorf("applied %q, want 1 2 3", got)
	}
}

func TestReplicasThatStartTogetherMigrateOnce(t *testing.T) {
	db := storagetest.Open(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := storage.Migrate(t.Context(), db, atNoon, []storage.Migration{appends(1), appends(2)}); err != nil {
				t.Errorf("Migrate: %v", err)
			}
		})
	}
	wg.Wait()
	if got := migrated(t, db); got != "1 2" {
		t.Errorf("applied %q, want 1 2", got)
	}
}

func TestMigrationsOutOfOrderAreRefused(t *testing.T) {
	db := storagetest.Open(t)
	for name, steps := range map[string][]storage.Migration{
		"backwards": {appends(2), appends(1)},
		"twice":     {appends(1), appends(1)},
		"zero":      {appends(0)},
		"nothing":   {{Version: 1}},
	} {
		if err := storage.Migrate(t.Context(), db, atNoon, steps); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got := migrated(t, db); got != "" {
		t.Errorf("applied %q, want nothing", got)
	}
}
