package event_test

import (
	"errors"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

func TestEventsAreKeptAsLongAsSomebodyDecided(t *testing.T) {
	b := newBench(t, func(c *event.Config) { c.Keep = 0 })
	b.record(t, event.Event{At: b.pass(time.Second), Action: "user.login", Reason: "old"})
	b.record(t, event.Event{At: b.pass(40 * 24 * time.Hour), Action: "user.login", Reason: "new"})
	sweep := func(want string) {
		t.Helper()
		if err := b.Forget(ctx); err != nil {
			t.Fatal(err)
		}
		if got := reasons(b.all(t, event.Filter{}, 100)); got != want {
			t.Errorf("left are %q, want %q", got, want)
		}
	}
	sweep("new old")
	put := func(days int) error {
		return b.db.Update(ctx, func(tx storage.Tx) error { return event.PutRetention(tx, event.Retention{Days: days}) })
	}
	for _, days := range []int{29, 3651} {
		if err := put(days); !errors.Is(err, event.ErrRetention) {
			t.Errorf("PutRetention(%d) = %v", days, err)
		}
	}
	sweep("new old")
	if err := put(30); err != nil {
		t.Fatal(err)
	}
	sweep("new")
}
