package postgres_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

// TestRoundTrips holds what a transaction costs on the way to the database.
func TestRoundTrips(t *testing.T) {
	w := postgrestest.NewWire(t, postgrestest.DSN(t))
	db := open(t, w.DSN())
	type record struct{ ID, Serial, Parent string }
	records := storage.NewCollection("record", 1, func(r record) string { return r.ID },
		storage.Index[record]{Name: "serial", Unique: true, Values: func(r record) []string { return []string{r.Serial} }},
		storage.Index[record]{Name: "parent", Values: func(r record) []string { return []string{r.Parent} }})
	update(t, db, func(tx storage.Tx) error {
		for i := range 200 {
			if err := records.Put(tx, record{fmt.Sprint("id", i), fmt.Sprint("s", i), "p"}); err != nil {
				return err
			}
		}
		return nil
	})
	get := func(tx storage.Tx, ids ...string) error {
		for _, id := range ids {
			if _, err := records.Get(tx, id); err != nil {
				return err
			}
		}
		return nil
	}
	for name, tt := range map[string]struct {
		want int
		run  func() error
	}{
		"a View that reads nothing": {0, func() error { return db.View(ctx, func(storage.Tx) error { return nil }) }},
		"a View of one record":      {2, func() error { return db.View(ctx, func(tx storage.Tx) error { return get(tx, "id1") }) }},
		"a View of the same record thrice": {2, func() error {
			return db.View(ctx, func(tx storage.Tx) error { return get(tx, "id1", "id1", "id1") })
		}},
		"a View of three records, unannounced": {4, func() error {
			return db.View(ctx, func(tx storage.Tx) error { return get(tx, "id1", "id2", "id3") })
		}},
		"a View of three records, announced": {2, func() error {
			return db.View(ctx, func(tx storage.Tx) error {
				tx.Prefetch(records.Read("id1"), records.Read("id2"), records.Read("id3"))
				return get(tx, "id1", "id2", "id3")
			})
		}},
		"a View of fifty records by an index": {3, func() error {
			return db.View(ctx, func(tx storage.Tx) error {
				n := 0
				for _, err := range records.Lookup(tx, "parent", "p") {
					if err != nil {
						return err
					}
					if n++; n == 50 {
						break
					}
				}
				return nil
			})
		}},
		"a View of a page of a hundred": {2, func() error {
			return db.View(ctx, func(tx storage.Tx) error {
				_, _, err := storage.Page(tx, records, "", 100)
				return err
			})
		}},
		"an Update that only writes": {1, func() error {
			return db.Update(ctx, func(tx storage.Tx) error {
				return errors.Join(tx.Put("other", []byte("a"), nil), tx.Put("other", []byte("b"), nil), tx.Delete("other", []byte("c")))
			})
		}},
		"an Update of a record with indexes": {2, func() error {
			return db.Update(ctx, func(tx storage.Tx) error {
				r, err := records.Get(tx, "id1")
				if err != nil {
					return err
				}
				return records.Put(tx, r)
			})
		}},
		"an Update that creates and one that deletes": {4, func() error {
			r := record{"new", "s-new", "p"}
			return errors.Join(db.Update(ctx, func(tx storage.Tx) error { return records.Create(tx, r) }),
				db.Update(ctx, func(tx storage.Tx) error { return records.Delete(tx, "new") }))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := w.Count(t, tt.run); got != tt.want {
				t.Errorf("%d round trips, want %d", got, tt.want)
			}
		})
	}
}

func update(t testing.TB, db storage.DB, fn func(storage.Tx) error) {
	t.Helper()
	if err := db.Update(ctx, fn); err != nil {
		t.Fatalf("Update: %v", err)
	}
}
