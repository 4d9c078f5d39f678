package storage_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
)

// BenchmarkCollection is what a collection costs above its engine, within one transaction.
// A lookup, a page and a scan are of 100 records.
func BenchmarkCollection(b *testing.B) {
	db, err := bolt.Open(b.Context(), filepath.Join(b.TempDir(), "bench.db"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	all := make([]gadget, 100)
	for i := range all {
		all[i] = gadget{ID: fmt.Sprintf("%03d", i), Serial: fmt.Sprintf("C02%03d", i), Tags: []string{"x"}, Note: "what somebody wrote"}
	}
	store(b, db, all...)
	counted := func(next func(yield func(gadget, error) bool)) error {
		n := 0
		for _, err := range next {
			if err != nil {
				return err
			}
			n++
		}
		if n != len(all) {
			return fmt.Errorf("%d records", n)
		}
		return nil
	}
	for name, do := range map[string]func(storage.Tx) error{
		"Get":    func(tx storage.Tx) error { return second(gadgets.Get(tx, "050")) },
		"Put":    func(tx storage.Tx) error { return gadgets.Put(tx, all[50]) },
		"One":    func(tx storage.Tx) error { return second(gadgets.One(tx, "serial", "C02050")) },
		"Lookup": func(tx storage.Tx) error { return counted(gadgets.Lookup(tx, "tag", "x")) },
		"All":    func(tx storage.Tx) error { return counted(gadgets.All(tx, storage.Range{})) },
		"Page": func(tx storage.Tx) error {
			_, _, err := storage.Page(tx, gadgets, "", len(all))
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			update(b, db, func(tx storage.Tx) error {
				for b.Loop() {
					if err := do(tx); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
}
