package event_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

func (b *bench) days(t *testing.T, from, to time.Time) string {
	t.Helper()
	var list []event.Day
	err := b.db.View(ctx, func(tx storage.Tx) (err error) {
		list, err = event.Days(tx, from, to)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, d := range list {
		all = append(all, fmt.Sprint(d.Date[8:], " ", d.Counts))
	}
	return strings.Join(all, "; ")
}

func TestEventsAreCountedByDay(t *testing.T) {
	b := newBench(t, nil)
	noon := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	day := func(n int) time.Time { return noon.AddDate(0, 0, n) }
	finished := func(at time.Time, state string) event.Event {
		return event.Event{At: at, Action: "command.finished", Outcome: map[bool]event.Outcome{true: event.OK, false: event.Failed}[state == "acknowledged"], Details: map[string]string{"state": state}}
	}
	b.record(t,
		event.Event{At: day(0), Action: "device.enrolled"},
		event.Event{At: day(0), Action: "device.enrolled", Details: map[string]string{"parent": "a"}}, // a user channel
		event.Event{At: day(0), Action: "device.enrolled", Outcome: event.Refused},
		event.Event{At: day(0), Action: "user.login"},
		event.Event{At: day(2).Add(11 * time.Hour).In(time.FixedZone("", 3*3600)), Action: "device.unenrolled"}, // the day after, there
		finished(day(2), "acknowledged"), finished(day(2), "acknowledged"), finished(day(2), "error"), finished(day(2), "expired"), finished(day(2), "made up"),
	)
	if got, want := b.days(t, day(0), day(0)), "10 map[]"; got != want {
		t.Errorf("before anything has a place the days are %s, want %s", got, want)
	}
	b.sequence(t)
	b.sequence(t)
	want := "09 map[]; 10 map[device.enrolled:1]; 11 map[]; 12 map[command.acknowledged:2 command.error:1 command.expired:1 device.unenrolled:1]; 13 map[]"
	if got := b.days(t, day(-1), day(3)); got != want {
		t.Errorf("the days are\n%s, want\n%s", got, want)
	}
	if got := b.days(t, day(3), day(0)); got != "" {
		t.Errorf("days of a time that ends before it begins are %s", got)
	}
	b.record(t, finished(day(2), "acknowledged"), event.Event{At: day(1), Action: "device.enrolled"})
	b.sequence(t)
	if got, want := b.days(t, day(1), day(2)), "11 map[device.enrolled:1]; 12 map[command.acknowledged:3 command.error:1 command.expired:1 device.unenrolled:1]"; got != want {
		t.Errorf("the days are then %s, want %s", got, want)
	}
}

// What older programs gave a place to is counted by the first one that counts, and once.
func TestWhatAnOlderProgramPlacedIsCountedOnce(t *testing.T) {
	const old = 2300 // more than two batches
	b := newBench(t, nil)
	at := b.Now()
	enrolled := make([]event.Event, old)
	for i := range enrolled {
		enrolled[i] = event.Event{At: at, Action: "device.enrolled"}
	}
	b.record(t, enrolled...)
	b.sequence(t)
	err := b.db.Update(ctx, event.ForgetCounts)
	if err != nil {
		t.Fatal(err)
	}
	b.record(t, event.Event{At: at, Action: "device.enrolled"})
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if err := b.Sequence(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got, want := b.days(t, at, at), fmt.Sprintf("%s map[device.enrolled:%d]", at.UTC().Format("02"), old+1); got != want {
		t.Errorf("the day is %s, want %s", got, want)
	}
}

func TestOldDaysAreForgotten(t *testing.T) {
	b := newBench(t, nil)
	for _, at := range []time.Time{b.Now(), b.Now().AddDate(0, 0, 700), b.Now().AddDate(0, 0, 800)} {
		b.record(t, event.Event{At: at, Action: "device.enrolled"})
		b.sequence(t)
	}
	if got := b.days(t, b.Now(), b.Now().AddDate(0, 0, 800)); strings.Count(got, "enrolled") != 2 {
		t.Errorf("the days have %d with something, want 2: the first one is two years old", strings.Count(got, "enrolled"))
	}
}
