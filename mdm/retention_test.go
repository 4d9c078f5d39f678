package mdm_test

import (
	"errors"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

func TestCommandsAreKeptAsLongAsSomebodyDecided(t *testing.T) {
	ctx := t.Context()
	b := newBench(t)
	awake := b.device(t, "awake")
	b.enqueue(t, "0", awake)
	b.next(t, awake, true)
	b.report(t, awake, "0", mdm.Acknowledged)
	there := func(want bool) {
		t.Helper()
		if err := b.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.Command(ctx, "0"); errors.Is(err, storage.ErrNotFound) == want {
			t.Errorf("Command = %v, want it there: %v", err, want)
		}
	}
	put := func(days int) error {
		return b.db.Update(ctx, func(tx storage.Tx) error { return mdm.PutRetention(tx, mdm.Retention{Days: days}) })
	}
	b.now = b.now.Add(100 * 24 * time.Hour)
	for _, days := range []int{89, 3651} {
		if err := put(days); !errors.Is(err, mdm.ErrRetention) {
			t.Errorf("PutRetention(%d) = %v", days, err)
		}
	}
	there(true)
	if err := put(90); err != nil {
		t.Fatal(err)
	}
	there(false)
}
