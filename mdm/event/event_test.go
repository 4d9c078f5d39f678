package event_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

var ctx = context.Background()

// bench is a Recorder on a real store, at a time that the test moves.
type bench struct {
	*event.Recorder
	db storage.DB

	mu  sync.Mutex
	now time.Time
}

func (b *bench) Now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bench) pass(d time.Duration) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
	return b.now
}

func newBench(t *testing.T, change func(*event.Config)) *bench {
	t.Helper()
	b := &bench{db: storagetest.Open(t), now: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)}
	c := event.Config{DB: b.db, Log: slog.New(slog.DiscardHandler), Now: b.Now}
	if change != nil {
		change(&c)
	}
	var err error
	if b.Recorder, err = event.New(c); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) record(t *testing.T, events ...event.Event) {
	t.Helper()
	err := b.db.Update(ctx, func(tx storage.Tx) error {
		for _, e := range events {
			if err := event.Record(tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// all reads every page of limit events.
func (b *bench) all(t *testing.T, f event.Filter, limit int) (all []event.Event) {
	t.Helper()
	cursor := ""
	for range 1000 {
		list, next, err := b.Page(ctx, f, cursor, limit)
		if err != nil {
			t.Fatalf("Page(%+v, %q, %d): %v", f, cursor, limit, err)
		}
		if len(list) > limit {
			t.Fatalf("Page(%+v, %q, %d) returns %d events", f, cursor, limit, len(list))
		}
		all = append(all, list...)
		if next == "" {
			return all
		}
		cursor = next
	}
	t.Fatalf("Page(%+v) has no end", f)
	return nil
}

func reasons(list []event.Event) string {
	var all []string
	for _, e := range list {
		all = append(all, e.Reason)
	}
	return strings.Join(all, " ")
}

func TestEventsAreFound(t *testing.T) {
	b := newBench(t, nil)
	start := b.Now()
	minute := func(n int) time.Time { return start.Add(time.Duration(n) * time.Minute) }
	b.record(t,
		event.Event{Reason: "1", At: minute(1), Action: "certificate.issued", DeviceID: "d1", User: "Ana@example.com", Certificate: "0AFF"},
		event.Event{Reason: "3", At: minute(3), Action: "certificate.refused", Outcome: event.Refused, DeviceID: "d1"},
		event.Event{Reason: "2", At: minute(2), Action: "user.disabled", User: "bea"},
	)
	b.record(t,
		event.Event{Reason: "4", At: minute(4), Action: "certificate.revoked", DeviceID: "d1", Certificate: "0aff"},
		event.Event{Reason: "5a", At: minute(5), Action: "device.unenrolled", DeviceID: "d2", User: "bea"},
		event.Event{Reason: "5b", At: minute(5), Action: "device.unenrolled", Outcome: event.Failed, DeviceID: "d10", User: "ana@example.com"},
	)
	for name, tt := range map[string]struct {
		f    event.Filter
		want string
	}{
		"all, newest first, and of one moment the last recorded first": {event.Filter{}, "5b 5a 4 3 2 1"},
		"by the beginning of the action":                               {event.Filter{Action: "certificate."}, "4 3 1"},
		"by a part of a word":                                          {event.Filter{Action: "cert"}, "4 3 1"},
		"by the whole action":                                          {event.Filter{Action: "certificate.issued"}, "1"},
		"by an action that there is not":                               {event.Filter{Action: "certificate.eaten"}, ""},
		"by device, not by a part of its id":                           {event.Filter{DeviceID: "d1"}, "4 3 1"},
		"by user in any case":                                          {event.Filter{User: "ANA@Example.com"}, "5b 1"},
		"by certificate in any case":                                   {event.Filter{Certificate: "0aFf"}, "4 1"},
		"by device and action":                                         {event.Filter{DeviceID: "d1", Action: "certificate.re"}, "4 3"},
		"by outcome":                                                   {event.Filter{Outcome: event.Refused}, "3"},
		"by outcome and user":                                          {event.Filter{Outcome: event.Failed, User: "ana@example.com"}, "5b"},
		"that went well":                                               {event.Filter{Outcome: event.OK, DeviceID: "d1"}, "4 1"},
		"since a time, which counts":                                   {event.Filter{Since: minute(4)}, "5b 5a 4"},
		"until a time, which does not":                                 {event.Filter{Until: minute(4)}, "3 2 1"},
		"between times, of a device":                                   {event.Filter{DeviceID: "d1", Since: minute(1).Add(1), Until: minute(5)}, "4 3"},
		"between times that are before all":                            {event.Filter{Until: minute(1)}, ""},
		"between times the wrong way round":                            {event.Filter{Since: minute(5), Until: minute(1)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, limit := range []int{1, 2, 100} {
				if got := reasons(b.all(t, tt.f, limit)); got != tt.want {
					t.Errorf("%+v in pages of %d: %q, want %q", tt.f, limit, got, tt.want)
				}
			}
		})
	}
}

func TestAnEventIsKeptAsItWas(t *testing.T) {
	b := newBench(t, nil)
	want := event.Event{
		At: b.Now(), Actor: "user:ana@example.com", Action: "certificate.refused", Outcome: event.Refused, Reason: "no challenge – none",
		DeviceID: "d1", User: "Ana", Certificate: "0aff", Template: "wifi", Peer: "192.0.2.1", Details: map[string]string{"door": "scep"},
	}
	b.record(t, want)
	list := b.all(t, event.Filter{}, 10)
	if len(list) != 1 || list[0].ID == "" {
		t.Fatalf("recorded: %+v, want one event with an ID", list)
	}
	want.ID = list[0].ID
	if fmt.Sprint(list[0]) != fmt.Sprint(want) {
		t.Errorf("recorded: %+v, want %+v", list[0], want)
	}
}

func TestTextsOfStrangersAreClamped(t *testing.T) {
	b := newBench(t, nil)
	long := strings.Repeat("é", 10_000)
	many := make(map[string]string)
	for i := range 100 {
		many[fmt.Sprint(long, i)] = long
	}
	b.record(t, event.Event{
		At: b.Now(), Actor: long, Action: "certificate.refused", Reason: "two\nlines \u202e\x00\xff of it" + long,
		DeviceID: long, User: long, Certificate: long, Template: long, Peer: long, Details: many,
	})
	for name, f := range map[string]event.Filter{
		"without a filter": {}, "by action": {Action: "certificate."}, "by outcome": {Outcome: event.OK},
	} {
		list := b.all(t, f, 10)
		if len(list) != 1 {
			t.Fatalf("%s: %d events, want 1", name, len(list))
		}
		e := list[0]
		if want := "two\uFFFDlines \uFFFD\uFFFD\uFFFD of it"; !strings.HasPrefix(e.Reason, want) || !strings.HasSuffix(e.Reason, "é…") || len(e.Reason) > 500 {
			t.Errorf("Reason is %q, want it to begin with %q and to be cut", e.Reason, want)
		}
		for _, text := range []string{e.Actor, e.DeviceID, e.User, e.Certificate, e.Template, e.Peer} {
			if len(text) > 255 || len(text) < 200 || !utf8.ValidString(text) {
				t.Errorf("a text has %d bytes: %q", len(text), text)
			}
		}
		if size := len(fmt.Sprint(e.Details)); len(e.Details) > 16 || size > 16*800 {
			t.Errorf("%d details of %d bytes are left", len(e.Details), size)
		}
	}
}

func TestWhatIsNoEventIsNotRecorded(t *testing.T) {
	b := newBench(t, nil)
	good := event.Event{At: b.Now(), Action: "token.created"}
	for name, change := range map[string]func(*event.Event){
		"without a time":            func(e *event.Event) { e.At = time.Time{} },
		"without an action":         func(e *event.Event) { e.Action = "" },
		"an action of one word":     func(e *event.Event) { e.Action = "created" },
		"an action with no ending":  func(e *event.Event) { e.Action = "token." },
		"an action of a stranger's": func(e *event.Event) { e.Action = "token.Ünlaut" },
		"an outcome of its own":     func(e *event.Event) { e.Outcome = "fine" },
	} {
		t.Run(name, func(t *testing.T) {
			e := good
			change(&e)
			err := b.db.Update(ctx, func(tx storage.Tx) error { return event.Record(tx, e) })
			if err == nil {
				t.Errorf("Record(%+v) = nil, want an error", e)
			}
			if e.At.IsZero() {
				return // Refused sets it
			}
			b.Refused(ctx, e) // is logged, and no more
		})
	}
	if list := b.all(t, event.Filter{}, 10); len(list) != 0 {
		t.Errorf("recorded: %+v, want nothing", list)
	}
}

func TestAnEventGoesWithItsTransaction(t *testing.T) {
	b := newBench(t, nil)
	changed := errors.New("changed my mind")
	err := b.db.Update(ctx, func(tx storage.Tx) error {
		return errors.Join(event.Record(tx, event.Event{At: b.Now(), Action: "token.created"}), changed)
	})
	if !errors.Is(err, changed) {
		t.Fatal(err)
	}
	if list := b.all(t, event.Filter{}, 10); len(list) != 0 {
		t.Errorf("recorded: %+v, want nothing", list)
	}
}

// TestRecordingMeetsNobody holds two transactions open at once that write nothing but an
// event, and counts how often they run.
func TestRecordingMeetsNobody(t *testing.T) {
	b := newBench(t, nil)
	var mu sync.Mutex
	runs := map[string]int{}
	side := func(name string) func(storage.DB) {
		return func(db storage.DB) {
			err := db.Update(ctx, func(tx storage.Tx) error {
				mu.Lock()
				defer mu.Unlock()
				runs[name]++
				return event.Record(tx, event.Event{At: b.Now(), Action: "token.created", User: "ana", Reason: name})
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
	side("alone")(b.db)
	storagetest.Overlap(b.db, side("left"), side("right"))
	if runs["left"] > runs["alone"] || runs["right"] > runs["alone"] {
		t.Errorf("the closures ran %v times, want all as often", runs)
	}
	if got := len(b.all(t, event.Filter{User: "ana"}, 10)); got != 3 {
		t.Errorf("%d events, want 3", got)
	}
}

func TestCursorsOfOthersAreRefused(t *testing.T) {
	b := newBench(t, nil)
	for _, cursor := range []string{"x", "ZZ", strings.Repeat("z", 32), strings.Repeat("0", 40), "r\x00"} {
		if _, _, err := b.Page(ctx, event.Filter{}, cursor, 10); !errors.Is(err, storage.ErrBadCursor) {
			t.Errorf("Page with the cursor %q = %v, want ErrBadCursor", cursor, err)
		}
	}
}

func TestFewAmongManyAreFoundInShortPages(t *testing.T) {
	b := newBench(t, nil)
	const many = 10_500 // more than one page looks at
	b.record(t, event.Event{At: b.pass(time.Second), Action: "token.created", Reason: "needle"})
	err := b.db.Update(ctx, func(tx storage.Tx) error {
		for i := range many {
			if err := event.Record(tx, event.Event{At: b.Now().Add(time.Duration(i)), Action: "token.revoked"}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	list, next, err := b.Page(ctx, event.Filter{Action: "token.created"}, "", 10)
	if err != nil || len(list) != 0 || next == "" {
		t.Fatalf("the first page: %d events, cursor %q, %v; want none, and a cursor", len(list), next, err)
	}
	list, next, err = b.Page(ctx, event.Filter{Action: "token.created"}, next, 10)
	if err != nil || reasons(list) != "needle" || next != "" {
		t.Errorf("the second page: %+v, cursor %q, %v; want the one event", list, next, err)
	}
}

func TestRefusalsAreWrittenOneByOneAtFirst(t *testing.T) {
	b := newBench(t, nil)
	ended, stop := context.WithCancel(ctx)
	stop() // as when the client has gone
	b.Refused(ended, event.Event{Action: "certificate.refused", Reason: "bad challenge", Template: "wifi", Peer: "192.0.2.1"})
	b.Refused(ctx, event.Event{Action: "certificate.failed", Outcome: event.Failed, At: b.Now().Add(time.Second)})
	list := b.all(t, event.Filter{}, 10)
	if len(list) != 2 || list[1].Outcome != event.Refused || !list[1].At.Equal(b.Now()) || list[0].Outcome != event.Failed {
		t.Errorf("recorded: %+v, want a failure and a refusal", list)
	}
}

func TestAFloodOfRefusalsIsCounted(t *testing.T) {
	const sent = 1000
	refusal := func(i int) event.Event {
		return event.Event{
			Action: "certificate.refused", Reason: "bad challenge", Template: "wifi", Peer: "192.0.2.1",
			DeviceID: fmt.Sprint("d", i), Details: map[string]string{"door": "scep"},
		}
	}
	for name, tt := range map[string]struct {
		end     func(t *testing.T, b *bench)
		want    int // events
		counted int // of them with a count
	}{
		"when the next one comes after a minute": {func(_ *testing.T, b *bench) {
			b.pass(time.Minute)
			b.Refused(ctx, refusal(sent))
		}, 62, 1},
		"when the clock is put back": {func(_ *testing.T, b *bench) {
			b.pass(-time.Hour)
			b.Refused(ctx, refusal(sent))
		}, 62, 1},
		"when the server ends": {func(t *testing.T, b *bench) {
			ended, stop := context.WithCancel(ctx)
			stop()
			if err := b.Run(ended); err != nil {
				t.Error(err)
			}
		}, 61, 1},
		"not within the minute": {func(_ *testing.T, b *bench) {
			b.pass(time.Minute - 1)
			b.Refused(ctx, refusal(sent))
		}, 60, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			for i := range sent {
				b.Refused(ctx, refusal(i))
			}
			if got := len(b.all(t, event.Filter{}, 100)); got != 60 {
				t.Errorf("within a minute %d events were written, want 60", got)
			}
			tt.end(t, b)
			list := b.all(t, event.Filter{}, 100)
			counted := slices.DeleteFunc(slices.Clone(list), func(e event.Event) bool { return e.Details["count"] == "" })
			if len(list) != tt.want || len(counted) != tt.counted {
				t.Fatalf("then there are %d events, %d with a count, want %d and %d", len(list), len(counted), tt.want, tt.counted)
			}
			for _, e := range counted {
				want := map[string]string{"door": "scep", "count": strconv.Itoa(sent - 60)}
				if !maps.Equal(e.Details, want) || e.DeviceID != "" || e.Reason != "bad challenge" || e.Peer != "192.0.2.1" || e.Outcome != event.Refused {
					t.Errorf("the counted event is %+v, want details %v and what all had in common", e, want)
				}
			}
		})
	}
}

func TestAFloodFromOnePeerHidesNobodyElse(t *testing.T) {
	b := newBench(t, nil)
	flood := func(peer, template string, n int) {
		for range n {
			b.Refused(ctx, event.Event{Action: "certificate.refused", Peer: peer, Template: template})
		}
	}
	for i := range 100 { // one network, however many addresses it has
		flood(fmt.Sprintf("2001:db8::%x", i), "wifi", 1)
	}
	flood("2001:db8:0:1::1", "wifi", 1)
	flood("2001:db8::1", "mail", 1)
	if got := len(b.all(t, event.Filter{}, 100)); got != 62 {
		t.Errorf("%d events, want 60 of the flood, that of another network and that of another template", got)
	}
}

func TestAFloodFromEverywhereStaysSmall(t *testing.T) {
	b := newBench(t, nil)
	const sent = 5000
	for i := range sent {
		b.Refused(ctx, event.Event{Action: "certificate.refused", Peer: fmt.Sprintf("198.51.%d.%d", i/250, i%250)})
	}
	b.pass(time.Minute)
	b.Refused(ctx, event.Event{Action: "certificate.refused", Peer: "192.0.2.1"})
	list := b.all(t, event.Filter{}, 1000)
	sum := 0
	for _, e := range list {
		n := 1
		if count := e.Details["count"]; count != "" {
			n, _ = strconv.Atoi(count)
		}
		sum += n
	}
	if len(list) > 700 || sum != sent+1 {
		t.Errorf("%d refusals left %d events that stand for %d", sent+1, len(list), sum)
	}
}

func TestOldEventsAreForgotten(t *testing.T) {
	const day = 24 * time.Hour
	b := newBench(t, nil)
	many := make([]event.Event, 1200) // more than one batch
	for i := range many {
		many[i] = event.Event{At: b.Now().Add(time.Duration(i)), Action: "user.login", User: "ana", DeviceID: "d1", Certificate: "0a", Outcome: event.Refused}
	}
	b.record(t, many...)
	b.pass(399 * day)
	b.record(t, event.Event{At: b.Now(), Action: "user.login", User: "ana", Reason: "young"})
	sweep := func() {
		t.Helper()
		if err := b.Forget(ctx); err != nil {
			t.Fatal(err)
		}
	}
	sweep()
	if got := len(b.all(t, event.Filter{}, 1000)); got != 1201 {
		t.Errorf("after 399 days there are %d events, want 1201", got)
	}
	b.pass(2 * day)
	sweep()
	if got := reasons(b.all(t, event.Filter{}, 1000)); got != "young" {
		t.Errorf("after 401 days there are %q, want only the young one", got)
	}
	entries := 0
	err := b.db.View(ctx, func(tx storage.Tx) error {
		entries = 0
		for _, err := range tx.Scan("event.log.by", storage.Range{}) {
			if err != nil {
				return err
			}
			entries++
		}
		return nil
	})
	if err != nil || entries != 2 {
		t.Errorf("%d entries (%v) are left, want the two of the young one", entries, err)
	}
}

func TestTooManyEventsAreForgotten(t *testing.T) {
	b := newBench(t, func(c *event.Config) { c.Most, c.MostTrouble = 10, 4 })
	add := func(n int, prefix string, outcome event.Outcome) {
		for i := range n {
			b.record(t, event.Event{At: b.pass(time.Second), Action: "user.login", Reason: fmt.Sprint(prefix, i), Outcome: outcome})
		}
	}
	sweep := func(want string) {
		t.Helper()
		if err := b.Forget(ctx); err != nil {
			t.Fatal(err)
		}
		if got := reasons(b.all(t, event.Filter{}, 100)); got != want {
			t.Errorf("left are %q, want %q", got, want)
		}
	}
	add(3, "a", event.OK)
	sweep("a2 a1 a0")
	add(50, "r", event.Refused)
	sweep("r49 r48 r47 r46 a2 a1 a0")
	add(5, "b", event.OK)
	sweep("b4 b3 b2 b1 b0 r49 r48 r47 r46 a2")
}
