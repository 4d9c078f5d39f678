package event_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// feed reads the whole feed in pieces of limit events.
func feed(t *testing.T, db storage.DB, after uint64, limit int) (all []event.Sequenced) {
	t.Helper()
	for {
		var list []event.Sequenced
		err := db.View(ctx, func(tx storage.Tx) (err error) {
			list, err = event.Feed(tx, after, limit)
			return err
		})
		if err != nil {
			t.Fatalf("Feed(%d, %d): %v", after, limit, err)
		}
		if len(list) == 0 {
			return all
		}
		all, after = append(all, list...), list[len(list)-1].Seq
	}
}

func (b *bench) sequence(t *testing.T) {
	t.Helper()
	if err := b.Sequence(ctx); err != nil {
		t.Fatal(err)
	}
}

func feedReasons(list []event.Sequenced) string {
	var all []string
	for _, s := range list {
		all = append(all, fmt.Sprint(s.Seq, s.Reason))
	}
	return strings.Join(all, " ")
}

func TestTheFeedIsInTheOrderOfCommits(t *testing.T) {
	b := newBench(t, nil)
	at := func(n int) time.Time { return b.Now().Add(time.Duration(n) * time.Hour) }
	b.record(t,
		event.Event{At: at(9), Action: "user.login", Reason: "a"},
		event.Event{At: at(1), Action: "user.login", Reason: "b"},
		event.Event{At: at(5), Action: "user.login", Reason: "c"},
	)
	if got := feed(t, b.db, 0, 10); len(got) != 0 {
		t.Errorf("before anything has a place the feed holds %v", got)
	}
	b.sequence(t)
	b.record(t, event.Event{At: at(0), Action: "user.login", Reason: "late"})
	b.sequence(t)
	b.sequence(t)
	for _, tt := range []struct {
		after uint64
		want  string
	}{{0, "1a 2b 3c 4late"}, {2, "3c 4late"}, {4, ""}, {1 << 60, ""}} {
		for _, limit := range []int{1, 3, 100} {
			if got := feedReasons(feed(t, b.db, tt.after, limit)); got != tt.want {
				t.Errorf("the feed after %d in pieces of %d: %q, want %q", tt.after, limit, got, tt.want)
			}
		}
	}
	var first, last uint64
	err := b.db.View(ctx, func(tx storage.Tx) (err error) {
		if first, err = event.FirstSeq(tx); err == nil {
			last, err = event.LastSeq(tx)
		}
		return err
	})
	if err != nil || first != 1 || last != 4 {
		t.Errorf("the feed is from %d to %d (%v), want 1 to 4", first, last, err)
	}
}

func TestEventsOfBeforeTheChainAreChainedOnce(t *testing.T) {
	b := newBench(t, nil)
	const old = 2300 // more than two batches
	err := b.db.Update(ctx, func(tx storage.Tx) error {
		for i := range old {
			if err := event.Record(tx, event.Event{At: b.Now().Add(time.Duration(i)), Action: "user.login"}); err != nil {
				return err
			}
		}
		for item, err := range tx.Scan(event.NewBucket, storage.Range{}) {
			if err != nil {
				return err
			}
			if err := tx.Delete(event.NewBucket, item.Key); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	b.record(t, event.Event{At: b.Now().Add(-time.Hour), Action: "user.login", Reason: "meanwhile"})
	b.sequence(t)
	b.record(t, event.Event{At: b.Now().Add(-time.Hour), Action: "user.login", Reason: "then"})
	b.sequence(t)
	list := feed(t, b.db, 0, 500)
	if len(list) != old+2 || list[old].Reason != "meanwhile" || list[old+1].Reason != "then" {
		t.Fatalf("the feed has %d events, want %d, the old ones in the order of their times", len(list), old+2)
	}
	if !slices.IsSortedFunc(list[:old], func(a, b event.Sequenced) int { return a.At.Compare(b.At) }) {
		t.Error("the old events are not in the order of their times")
	}
}

// TestReplicasSequenceTogether records from several sides while several processes give
// places, and looks for gaps and doubles.
func TestReplicasSequenceTogether(t *testing.T) {
	const replicas, writers, each, most = 3, 3, 20, 3
	b := newBench(t, nil)
	running, stop := context.WithCancel(ctx)
	var processes, people sync.WaitGroup
	for range replicas {
		r, err := event.New(event.Config{DB: b.db, Log: slog.New(slog.DiscardHandler), Now: b.Now})
		if err != nil {
			t.Fatal(err)
		}
		processes.Go(func() {
			for running.Err() == nil {
				if err := r.Sequence(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for w := range writers {
		people.Go(func() {
			for i := range each {
				err := b.db.Update(ctx, func(tx storage.Tx) error {
					for part := range most {
						e := event.Event{At: b.Now(), Action: "user.login", User: fmt.Sprint(w), Reason: fmt.Sprintf("%d.%d.%d", w, i, part)}
						if err := event.Record(tx, e); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	people.Wait()
	stop()
	processes.Wait()
	b.sequence(t)
	list := feed(t, b.db, 0, 100)
	if len(list) != writers*each*most {
		t.Errorf("the feed has %d events, want %d", len(list), writers*each*most)
	}
	seen := map[string]bool{}
	next := map[string]int{} // of each writer
	for i, s := range list {
		if s.Seq != uint64(i+1) {
			t.Fatalf("the event after place %d has place %d", i, s.Seq)
		}
		if seen[s.Reason] {
			t.Errorf("the event %s has two places", s.Reason)
		}
		seen[s.Reason] = true
		want := fmt.Sprintf("%s.%d.%d", s.User, next[s.User]/most, next[s.User]%most)
		if s.Reason != want {
			t.Errorf("place %d of writer %s is %s, want %s", s.Seq, s.User, s.Reason, want)
		}
		next[s.User]++
	}
	if _, err := event.VerifyStored(ctx, b.db, nil); err != nil {
		t.Error(err)
	}
}

func TestTheFeedFollowsByItself(t *testing.T) {
	b := newBench(t, nil)
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	grew, unwatch := b.db.Watch(event.FeedTopic)
	defer unwatch()
	go func() { ended <- b.Run(running) }()
	b.record(t, event.Event{At: b.Now(), Action: "user.login", Reason: "a"})
	deadline := time.After(time.Minute)
	for len(feed(t, b.db, 0, 10)) == 0 {
		select {
		case <-grew:
		case <-deadline:
			t.Fatal("nothing gave the event a place")
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestWhatIsForgottenLeavesTheChainWhole(t *testing.T) {
	b := newBench(t, func(c *event.Config) { c.Most, c.MostTrouble = 6, 2 })
	add := func(n int, prefix string, outcome event.Outcome) {
		for i := range n {
			b.record(t, event.Event{At: b.pass(time.Second), Action: "user.login", Reason: fmt.Sprint(prefix, i), Outcome: outcome})
		}
	}
	check := func(want string, first uint64) {
		t.Helper()
		if got := feedReasons(feed(t, b.db, 0, 2)); got != want {
			t.Errorf("the feed is %q, want %q", got, want)
		}
		v, err := event.VerifyStored(ctx, b.db, nil)
		if err != nil || v.First != first {
			t.Errorf("VerifyStored() = %+v, %v, want it to begin at %d", v, err, first)
		}
	}
	add(2, "a", event.OK)
	add(4, "r", event.Refused)
	add(2, "b", event.OK)
	if err := b.Forget(ctx); err != nil {
		t.Fatal(err)
	}
	check("1a0 2a1 5r2 6r3 7b0 8b1", 1)
	add(3, "c", event.OK)
	if err := b.Forget(ctx); err != nil {
		t.Fatal(err)
	}
	check("6r3 7b0 8b1 9c0 10c1 11c2", 6)
	b.pass(401 * 24 * time.Hour)
	if err := b.Forget(ctx); err != nil {
		t.Fatal(err)
	}
	check("", 12)
	add(1, "d", event.OK)
	b.sequence(t)
	check("12d0", 12)
}

// Of what is ok nothing goes from the middle of the chain, whatever clock it had: a line of an
// export that says so is known to be made up.
func TestWhatIsOKIsForgottenInTheOrderOfPlaces(t *testing.T) {
	const day = 24 * time.Hour
	b := newBench(t, nil)
	b.record(t, event.Event{At: b.Now(), Action: "user.login", Reason: "a"})
	b.record(t, event.Event{At: b.Now().Add(-500 * day), Action: "user.login", Reason: "b"})
	b.record(t, event.Event{At: b.Now().Add(10 * day), Action: "user.login", Reason: "c"})
	for _, want := range []string{"1a 2b 3c", "3c"} {
		if err := b.Forget(ctx); err != nil {
			t.Fatal(err)
		}
		if got := feedReasons(feed(t, b.db, 0, 10)); got != want {
			t.Errorf("the feed is %q, want %q", got, want)
		}
		if v, err := event.VerifyStored(ctx, b.db, nil); err != nil || v.Erased != 0 {
			t.Errorf("VerifyStored() = %+v, %v, want none erased", v, err)
		}
		b.pass(401 * day)
	}
}

// TestTheDigestIsOfTheseBytes holds what others compute from the document.
func TestTheDigestIsOfTheseBytes(t *testing.T) {
	storagetest.AnyEngine(t)
	e := event.Event{
		ID: "00", At: time.Date(2026, 11, 22, 9, 0, 0, 120, time.FixedZone("", 3600)), Action: "user.login", Outcome: event.OK,
		Reason: "a <b> & \"c\" – \\", User: "ana", DeviceID: "d1", Actor: "user:ana", Certificate: "0a", Template: "wifi", Peer: "::1",
		Details: map[string]string{"b": "2", "a": "1"},
	}
	const want = `{"action":"user.login","actor":"user:ana","at":"2026-11-22T08:00:00.00000012Z","certificate":"0a","details":{"a":"1","b":"2"},` +
		`"device_id":"d1","id":"00","outcome":"ok","peer":"::1","reason":"a <b> & \"c\" – \\","template":"wifi","user":"ana"}`
	if got, err := event.Canonical(e); err != nil || got != want {
		t.Errorf("Canonical(%+v) = %v, %v, want %v", e, got, err, want)
	}
}

func TestWhatTheChainHasComeToIsTold(t *testing.T) {
	b := newBench(t, nil)
	anchor := func(want int) []event.Sequenced {
		t.Helper()
		if err := b.Anchor(ctx); err != nil {
			t.Fatal(err)
		}
		b.sequence(t)
		list := feed(t, b.db, 0, 100)
		if len(list) != want {
			t.Fatalf("there are %d events, want %d: %+v", len(list), want, list)
		}
		return list
	}
	anchor(0)
	b.record(t, event.Event{At: b.Now(), Action: "user.login"}, event.Event{At: b.Now(), Action: "user.login"})
	list := anchor(3)
	if told := list[2]; told.Action != "audit.anchored" || told.Details["seq"] != "2" || told.Details["hash"] != list[1].Hash {
		t.Errorf("told is %+v, want the place and hash of event 2, %s", told, list[1].Hash)
	}
	anchor(3) // nothing has happened
	b.record(t, event.Event{At: b.Now(), Action: "user.login"})
	anchor(5)
}

// What can't be told must not stop the streams and webhooks that follow: verifying names it.
func TestALostEventStopsNoFeed(t *testing.T) {
	b := newBench(t, nil)
	b.record(t, event.Event{At: b.Now(), Action: "user.login", Reason: "lost"})
	b.record(t, event.Event{At: b.pass(time.Hour), Action: "user.login", Reason: "after it"})
	b.sequence(t)
	err := b.db.Update(ctx, func(tx storage.Tx) error {
		for item, err := range tx.Scan("event.log", storage.Range{Limit: 1}) {
			if err != nil {
				return err
			}
			return tx.Delete("event.log", item.Key)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := feedReasons(feed(t, b.db, 0, 10)); got != "2after it" {
		t.Errorf("the feed has %q, want what is after the lost event", got)
	}
	if _, err := event.VerifyStored(ctx, b.db, nil); !errors.Is(err, event.ErrBroken) {
		t.Errorf("VerifyStored() = %v, want that an event is missing", err)
	}
}

// Strangers can cause refusals by the thousand. Those that are forgotten are not in the way
// of who follows the feed.
func TestTheFeedDoesNotReadThroughWhatIsForgotten(t *testing.T) {
	b := newBench(t, func(c *event.Config) { c.MostTrouble = 10 })
	b.record(t, event.Event{At: b.Now(), Action: "settings.changed"})
	b.pass(time.Hour)
	var refused []event.Event
	for range 700 {
		refused = append(refused, event.Event{At: b.Now(), Action: "certificate.refused", Outcome: event.Refused})
	}
	b.record(t, refused...)
	if err := b.Forget(ctx); err != nil {
		t.Fatal(err)
	}
	read := &counting{}
	err := b.db.View(ctx, func(tx storage.Tx) error {
		*read = counting{Tx: tx}
		_, err := event.Feed(read, 1, 5)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if read.items > 10 {
		t.Errorf("%d items were read for 5 events", read.items)
	}
	if v, err := event.VerifyStored(ctx, b.db, nil); err != nil || v.Erased != 690 || v.Last != 701 {
		t.Errorf("VerifyStored() = %+v, %v, want 690 of 701 erased", v, err)
	}
}

// counting counts the items that scans yield.
type counting struct {
	storage.Tx
	items int
}

func (c *counting) Scan(bucket string, r storage.Range) iter.Seq2[storage.Item, error] {
	return func(yield func(storage.Item, error) bool) {
		for item, err := range c.Tx.Scan(bucket, r) {
			c.items++
			if !yield(item, err) {
				return
			}
		}
	}
}
