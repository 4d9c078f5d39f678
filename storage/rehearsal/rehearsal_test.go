package rehearsal_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/rehearsal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestARehearsalSeesItsWritesAndKeepsNone(t *testing.T) {
	db := storagetest.Open(t)
	put := func(tx storage.Tx, key, value string) error { return tx.Put("plays", []byte(key), []byte(value)) }
	all := func(tx storage.Tx, r storage.Range) (items []string) {
		for item, err := range tx.Scan("plays", r) {
			if err != nil {
				t.Fatal(err)
			}
			items = append(items, string(item.Key)+"="+string(item.Value))
		}
		return items
	}
	if err := db.Update(t.Context(), func(tx storage.Tx) error {
		return errors.Join(put(tx, "a", "1"), put(tx, "b", "2"), put(tx, "c", "3"))
	}); err != nil {
		t.Fatal(err)
	}
	err := db.View(t.Context(), func(tx storage.Tx) error {
		on := rehearsal.On(tx)
		on.Prefetch(storage.Read{Bucket: "plays", Key: []byte("a")}, storage.Read{
			Bucket: "plays", Range: storage.Range{Limit: 2},
			Then: func(item storage.Item) []storage.Read { return []storage.Read{{Bucket: "plays", Key: item.Key}} },
		})
		if err := errors.Join(put(on, "aa", "new"), put(on, "b", "changed"), on.Delete("plays", []byte("a")), on.Notify("plays")); err != nil {
			return err
		}
		if got, want := all(on, storage.Range{}), []string{"aa=new", "b=changed", "c=3"}; !slices.Equal(got, want) {
			t.Errorf("the rehearsal reads %q, want %q", got, want)
		}
		if got, want := all(on, storage.Range{Limit: 2}), []string{"aa=new", "b=changed"}; !slices.Equal(got, want) {
			t.Errorf("the rehearsal's first two = %q, want %q", got, want)
		}
		if _, err := on.Get("plays", []byte("a")); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Get of what was deleted: %v, want %v", err, storage.ErrNotFound)
		}
		if got, want := all(tx, storage.Range{}), []string{"a=1", "b=2", "c=3"}; !slices.Equal(got, want) {
			t.Errorf("after the rehearsal there is %q, want %q", got, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
