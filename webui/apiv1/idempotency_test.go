package apiv1

import (
	"fmt"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestOldIdempotencyKeysAreForgotten(t *testing.T) {
	now := time.Now()
	a := &API{db: storagetest.Open(t), now: func() time.Time { return now }}
	const old = keySweep + 5 // more than one transaction takes
	err := a.db.Update(t.Context(), func(tx storage.Tx) error {
		for i := range old {
			if err := reservations.Put(tx, reservation{Key: fmt.Sprint("old", i), At: now.Add(-keyLife - time.Minute)}); err != nil {
				return err
			}
		}
		return reservations.Put(tx, reservation{Key: "young", At: now.Add(-keyLife + time.Minute)})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.forgetKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	var left []string
	err = a.db.View(t.Context(), func(tx storage.Tx) error {
		left = nil
		for r, err := range reservations.All(tx, storage.Range{}) {
			if err != nil {
				return err
			}
			left = append(left, r.Key)
		}
		return nil
	})
	if err != nil || len(left) != 1 || left[0] != "young" {
		t.Errorf("left are %q, %v; want the young one", left, err)
	}
}
