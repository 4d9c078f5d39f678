package mdm_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// order acknowledges what waits for a device and returns the UUIDs in the order in which it
// got them.
func (b *bench) order(t testing.TB, id mdm.DeviceID) (got []string) {
	t.Helper()
	for uuid := b.next(t, id, true); uuid != ""; uuid = b.next(t, id, false) {
		got = append(got, uuid)
		b.report(t, id, uuid, mdm.Acknowledged)
	}
	return got
}

func (b *bench) queued(t testing.TB, c mdm.NewCommand) {
	t.Helper()
	if _, rejected, err := b.Enqueue(context.Background(), c); err != nil || len(rejected) > 0 {
		t.Fatalf("Enqueue(%s): rejected %v, %v", c.UUID, rejected, err)
	}
}

func TestUrgentCommandsOvertakeAndBackgroundOnesWait(t *testing.T) {
	b := newBench(t)
	id := b.device(t, "a")
	background := newCommand("background", "SecurityInfo", id)
	background.Priority = mdm.Background
	b.queued(t, background)
	b.enqueue(t, "first", id)
	b.enqueue(t, "second", id)
	b.queued(t, newCommand("lock", "DeviceLock", id))
	again := newCommand("later", "CertificateList", id)
	again.Priority = mdm.Background
	b.queued(t, again)
	b.queued(t, newCommand("lost", "DeviceLock", id))

	page, next, err := b.DeviceCommands(context.Background(), id, "", 4)
	var listed []string
	for err == nil {
		for _, e := range page {
			listed = append(listed, e.UUID)
		}
		if next == "" {
			break
		}
		page, next, err = b.DeviceCommands(context.Background(), id, next, 4)
	}
	if want := []string{"lost", "later", "lock", "second", "first", "background"}; err != nil || !slices.Equal(listed, want) {
		t.Errorf("listed %v, %v; want the newest first: %v", listed, err, want)
	}
	if got, want := b.order(t, id), []string{"lock", "lost", "first", "second", "background", "later"}; !slices.Equal(got, want) {
		t.Errorf("the device got %v, want %v", got, want)
	}
}

func TestLostModeIsNotEndedByWhatItOvertakes(t *testing.T) {
	b := newBench(t)
	yes := true
	id := b.device(t, "a", func(d *mdm.Device) { d.Supervised = &yes })
	b.queued(t, newCommand("end", "DisableLostMode", id))
	b.queued(t, newCommand("begin", "EnableLostMode", id))
	if got := b.order(t, id); !slices.Equal(got, []string{"begin"}) {
		t.Errorf("the device got %v: what was asked for last is to stay", got)
	}
	if got := b.state(t, id, "end"); got != mdm.Cancelled {
		t.Errorf("the end of lost mode is %s, want cancelled", got)
	}
}

func TestACommandOfAnOlderServerIsKnownAgain(t *testing.T) {
	b := newBench(t)
	id := b.device(t, "mac", func(d *mdm.Device) { d.ProductName = "Mac14,2" })
	lock := rawCommand("1", "DeviceLock", "", id)
	b.queued(t, lock)
	b.update(t, func(tx storage.Tx) error { return b.Unfilled(tx, "1", lock.Plist) })
	if _, _, err := b.Enqueue(context.Background(), lock); err != nil {
		t.Errorf("the same again: %v", err)
	}
}

func TestACommandWhoseTimeIsUpTakesNoMoreDevices(t *testing.T) {
	b := newBench(t)
	a, c := b.device(t, "a"), b.device(t, "c")
	short := newCommand("short", "ProfileList", a)
	short.ExpiresIn = time.Hour
	b.queued(t, short)
	b.now = b.now.Add(2 * time.Hour)
	short.Targets = []mdm.DeviceID{a, c}
	if _, rejected, err := b.Enqueue(context.Background(), short); err != nil || len(rejected) != 1 || rejected[0].Code != "command_expired" {
		t.Errorf("rejected %+v, %v; want that its time is up", rejected, err)
	}
}

func TestACommandWithAnEndIsNotSentAfterIt(t *testing.T) {
	ctx := context.Background()
	b := newBench(t)
	id := b.device(t, "a")
	short := newCommand("short", "ProfileList", id)
	short.ExpiresIn = time.Hour
	b.queued(t, short)
	b.enqueue(t, "long", id)

	b.now = b.now.Add(time.Hour)
	if got := b.next(t, id, true); got != "long" {
		t.Errorf("next = %q an hour later, want long: short has ended, though no sweep has come by", got)
	}
	if err := b.SweepExpiring(ctx); err != nil {
		t.Fatal(err)
	}
	if got := b.state(t, id, "short"); got != mdm.Expired {
		t.Errorf("short is %s, want expired", got)
	}
	if got := b.state(t, id, "long"); got != mdm.Delivered {
		t.Errorf("long is %s, want delivered", got)
	}
}

func TestWhatAnotherReplacesSaysByWhat(t *testing.T) {
	ctx := context.Background()
	b := newBench(t)
	id := b.device(t, "a")
	for _, uuid := range []string{"1", "2"} {
		c := newCommand(uuid, "ProfileList", id)
		c.Identifier = "inventory"
		b.queued(t, c)
	}
	_, entries, err := b.Command(ctx, "1")
	if err != nil || entries[0].State != mdm.Cancelled || entries[0].SupersededBy != "2" {
		t.Errorf("entries %+v, %v; want 1 cancelled for 2", entries, err)
	}
}

func TestObserversHearOfEveryEnd(t *testing.T) {
	ctx := context.Background()
	b := newBench(t)
	id := b.device(t, "a")
	heard := map[string]mdm.CommandState{}
	b.Observe(func(_ storage.Tx, e mdm.Entry) error {
		heard[e.UUID] = e.State
		return nil
	})
	for _, uuid := range []string{"acknowledged", "error", "cancelled", "pending"} {
		b.enqueue(t, uuid, id)
	}
	expiring := newCommand("expired", "ProfileList", id)
	expiring.ExpiresIn = time.Minute
	b.queued(t, expiring)

	b.next(t, id, true)
	b.report(t, id, "acknowledged", mdm.Acknowledged)
	b.next(t, id, false)
	b.report(t, id, "error", mdm.Failed)
	if err := b.Cancel(ctx, id, "cancelled", "token:test"); err != nil {
		t.Fatal(err)
	}
	b.next(t, id, false)
	b.report(t, id, "pending", mdm.NotNow)
	b.now = b.now.Add(time.Hour)
	if err := b.SweepExpiring(ctx); err != nil {
		t.Fatal(err)
	}
	for _, want := range []mdm.CommandState{mdm.Acknowledged, mdm.Failed, mdm.Cancelled, mdm.Expired} {
		if heard[string(want)] != want {
			t.Errorf("heard %v of what was to end as %s", heard[string(want)], want)
		}
	}
	if len(heard) != 4 {
		t.Errorf("heard %v: NotNow is no end", heard)
	}

	fails := errors.New("observer fails")
	b.Observe(func(storage.Tx, mdm.Entry) error { return fails })
	if err := b.Cancel(ctx, id, "pending", "token:test"); !errors.Is(err, fails) {
		t.Errorf("Cancel: %v, want the observer's error", err)
	}
	if got := b.state(t, id, "pending"); got != mdm.NotNow {
		t.Errorf("pending is %s, want it as it was: the observer is part of the transaction", got)
	}
}

func TestABatchIsQueuedAsAWholeAndCounted(t *testing.T) {
	ctx := context.Background()
	b := newBench(t)
	a, c, mac := b.device(t, "a"), b.device(t, "c"), b.device(t, "mac", func(d *mdm.Device) { d.ProductName = "Mac14,2" })
	batch, queued, err := b.EnqueueBatch(ctx, "Monday", "ana", []mdm.NewCommand{
		newCommand("1", "ProfileList", a, c, mac),
		newCommand("2", "Restrictions", a, mac),
		newCommand("3", "Restrictions", mac),
	})
	if err != nil || !slices.Equal(batch.Commands, []string{"1", "2"}) {
		t.Fatalf("batch %+v, %v; want 1 and 2: a Mac has no Restrictions", batch, err)
	}
	if len(queued) != 3 || len(queued[1].Rejected) != 1 || queued[1].Rejected[0].DeviceID != mac || len(queued[2].Command.Targets) != 0 {
		t.Errorf("queued %+v", queued)
	}
	b.next(t, a, true)
	b.report(t, a, "1", mdm.Acknowledged)
	b.next(t, a, false)
	b.report(t, a, "2", mdm.NotNow)
	b.next(t, c, true)

	got, err := b.Batch(ctx, batch.ID)
	want := mdm.Tally{Queued: 1, Delivered: 1, NotNow: 1, Acknowledged: 1}
	if err != nil || got.Tally != want || got.Tally.Total() != 4 || got.Tally.Pending() != 3 {
		t.Errorf("tally %+v, %v; want %+v", got.Tally, err, want)
	}
	if len(got.Each) != 2 || got.Each[0].UUID != "1" || got.Each[0].CreatedBy != "ana" {
		t.Errorf("each %+v", got.Each)
	}

	_, _, err = b.EnqueueBatch(ctx, "half", "ana", []mdm.NewCommand{newCommand("4", "ProfileList", a), {UUID: "1", RequestType: "ProfileList", Plist: []byte("another"), Targets: []mdm.DeviceID{a}}})
	if !errors.Is(err, mdm.ErrCommandExists) {
		t.Errorf("EnqueueBatch: %v, want ErrCommandExists", err)
	}
	if _, _, err := b.Command(ctx, "4"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("4 of a batch that failed: %v, want it not queued", err)
	}
	page, _, err := b.Batches(ctx, "", 10)
	if err != nil || len(page) != 1 || page[0].Name != "Monday" {
		t.Errorf("batches %+v, %v", page, err)
	}

	b.now = b.now.Add(400 * 24 * time.Hour)
	if err := b.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Batch(ctx, batch.ID); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("the batch after its commands were forgotten: %v", err)
	}
}

func TestCommandsAreListedAndCountedAlsoWhenClosed(t *testing.T) {
	ctx := context.Background()
	b := newBench(t)
	a, c := b.device(t, "a"), b.device(t, "c")
	for i := range 5 {
		b.enqueue(t, fmt.Sprint(i), a, c)
	}
	b.queued(t, newCommand("lock", "DeviceLock", a))
	b.order(t, a)
	b.next(t, c, true)
	b.report(t, c, "0", mdm.Failed)

	list := func(f mdm.CommandFilter) (got []string) {
		t.Helper()
		cursor := ""
		for {
			page, next, err := b.Commands(ctx, f, cursor, 2)
			if err != nil {
				t.Fatal(err)
			}
			for _, cs := range page {
				got = append(got, fmt.Sprintf("%s %d+%d", cs.UUID, cs.Tally.Pending(), cs.Tally.Acknowledged))
			}
			if next == "" {
				return got
			}
			cursor = next
		}
	}
	want := []string{"lock 0+1", "4 1+1", "3 1+1", "2 1+1", "1 1+1", "0 0+1"}
	for range 2 { // as counted, then as closed
		if got := list(mdm.CommandFilter{}); !slices.Equal(got, want) {
			t.Errorf("commands %v, want %v", got, want)
		}
		if got := list(mdm.CommandFilter{Open: true}); !slices.Equal(got, want[1:5]) {
			t.Errorf("open commands %v, want %v", got, want[1:5])
		}
		if got := list(mdm.CommandFilter{RequestType: "DeviceLock"}); !slices.Equal(got, want[:1]) {
			t.Errorf("locks %v, want %v", got, want[:1])
		}
		if err := b.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
	}
	cs, err := b.CommandStatus(ctx, "0")
	if err != nil || !cs.Closed {
		t.Fatalf("0 is %+v, %v; want it closed", cs, err)
	}
	later := b.device(t, "later") // a closed command gets another device
	b.enqueue(t, "0", later)
	if cs, err = b.CommandStatus(ctx, "0"); err != nil || cs.Closed || cs.Tally.Queued != 1 || cs.Tally.Total() != 3 {
		t.Errorf("0 is %+v, %v; want it open for one of three", cs, err)
	}
	page, next, err := b.CommandEntries(ctx, "0", []mdm.CommandState{mdm.Failed, mdm.Queued}, "", 1)
	if err != nil || len(page) != 1 || page[0].DeviceID != c || next == "" {
		t.Fatalf("entries %+v, next %q, %v", page, next, err)
	}
	page, next, err = b.CommandEntries(ctx, "0", []mdm.CommandState{mdm.Failed, mdm.Queued}, next, 1)
	if err != nil || len(page) != 1 || page[0].DeviceID != later || next != "" {
		t.Errorf("entries %+v, next %q, %v", page, next, err)
	}
}

func TestCancelAllLeavesWhatDevicesHave(t *testing.T) {
	ctx := context.Background()
	b := newBench(t)
	has, waits, done := b.device(t, "has"), b.device(t, "waits"), b.device(t, "done")
	b.enqueue(t, "1", has, waits, done)
	b.next(t, has, true)
	b.order(t, done)
	n, err := b.CancelAll(ctx, "1", "token:test")
	if err != nil || n != 1 || b.state(t, waits, "1") != mdm.Cancelled || b.state(t, has, "1") != mdm.Delivered || b.state(t, done, "1") != mdm.Acknowledged {
		t.Errorf("cancelled %d, %v: has %s, waits %s, done %s", n, err, b.state(t, has, "1"), b.state(t, waits, "1"), b.state(t, done, "1"))
	}
}

func TestAgainIsForThoseWithWhichItCameToNothing(t *testing.T) {
	ctx := context.Background()
	b := newBench(t)
	failed, done, cancelled := b.device(t, "failed"), b.device(t, "done"), b.device(t, "cancelled")
	b.queued(t, rawCommand("1", "DeviceInformation", "<key>Queries</key><array><string>DeviceName</string></array>", failed, done, cancelled))
	b.next(t, failed, true)
	b.report(t, failed, "1", mdm.Failed)
	b.order(t, done)
	if err := b.Cancel(ctx, cancelled, "1", "token:test"); err != nil {
		t.Fatal(err)
	}
	some, err := b.Again(ctx, "1", []mdm.DeviceID{"stranger", failed, done})
	if err != nil || !slices.Equal(some.Targets, []mdm.DeviceID{failed}) || len(some.Rejected) != 2 || some.Rejected[0].Code != "not_found" || some.Rejected[1].Code != "not_failed" {
		t.Errorf("again for three by name: %+v, %v", some, err)
	}
	a, err := b.Again(ctx, "1", nil)
	if err != nil || !slices.Equal(a.Targets, []mdm.DeviceID{failed, cancelled}) || fmt.Sprint(a.Params["Queries"]) != "[DeviceName]" {
		t.Errorf("again %+v, %v", a, err)
	}
	for _, uuid := range []string{"old", "new"} {
		c := newCommand(uuid, "ProfileList", failed)
		c.Identifier = "same"
		b.queued(t, c)
	}
	if a, err := b.Again(ctx, "old", nil); !errors.Is(err, mdm.ErrNothingToRetry) {
		t.Errorf("again what a newer one has taken the place of: %+v, %v", a, err)
	}
	if _, err := b.Again(ctx, "1", []mdm.DeviceID{done}); !errors.Is(err, mdm.ErrNothingToRetry) {
		t.Errorf("again for who is done: %v", err)
	}
}

func TestADeviceGetsValuesOfItsOwn(t *testing.T) {
	const secret = "s3cret-PIN-of-"
	ctx := context.Background()
	b := newBench(t)
	a, c, lacks := b.device(t, "a"), b.device(t, "c"), b.device(t, "lacks")
	cmd := rawCommand("1", "DeviceLock", "<key>Message</key><string>Lost</string>", a, c, lacks)
	cmd.Personalize = func(_ storage.Tx, d mdm.Device) (mdm.Values, error) {
		if d.ID == lacks {
			return mdm.Values{}, &command.Refusal{Code: "value_missing", Reason: "It lacks something."}
		}
		return mdm.Values{Keys: map[string]mdm.Param{"PIN": {Text: secret + string(d.ID)}, "Token": {Data: []byte{0, 1}}}}, nil
	}
	got, rejected, err := b.Enqueue(ctx, cmd)
	if err != nil || len(got.Targets) != 2 || len(rejected) != 1 || rejected[0] != (mdm.Rejection{DeviceID: lacks, Code: "value_missing", Reason: "It lacks something."}) {
		t.Fatalf("targets %v, rejected %v, %v", got.Targets, rejected, err)
	}
	for range 2 { // the same when it is sent again
		for _, id := range []mdm.DeviceID{a, c} {
			var sent struct {
				Command     struct{ RequestType, Message, PIN string }
				CommandUUID string
			}
			if err := guard.DecodePlist(b.deliver(t, id, true), &sent, guard.PlistLimits{Bytes: command.MaxRaw}); err != nil {
				t.Fatal(err)
			}
			if sent.CommandUUID != "1" || sent.Command.RequestType != "DeviceLock" || sent.Command.Message != "Lost" || sent.Command.PIN != secret+string(id) {
				t.Errorf("%s got %+v", id, sent)
			}
		}
	}
	if found := stored(t, b, secret); found != "" {
		t.Errorf("the store holds %q in clear in %s", secret, found)
	}
	b.now = b.now.Add(365 * 24 * time.Hour)
	if err := b.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	err = b.db.View(ctx, func(tx storage.Tx) error {
		for item, err := range tx.Scan("command_values", storage.Range{}) {
			if err != nil {
				return err
			}
			t.Errorf("values are left after the command was forgotten: %q", item.Key)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// stored returns the bucket that holds text in clear.
func stored(t *testing.T, b *bench, text string) (bucket string) {
	t.Helper()
	err := b.db.View(context.Background(), func(tx storage.Tx) error {
		for _, name := range []string{"commands", "command_payloads", "command_values", "queue", "command_history", "device_secrets"} {
			for item, err := range tx.Scan(name, storage.Range{}) {
				if err != nil {
					return err
				}
				if strings.Contains(string(item.Value), text) {
					bucket = name
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return bucket
}

func TestWhyACommandWaits(t *testing.T) {
	ctx := context.Background()
	for name, tt := range map[string]struct {
		device func(*mdm.Device)
		do     func(t *testing.T, b *bench, id mdm.DeviceID)
		want   mdm.Waiting
	}{
		"the device has not been heard of": {
			want: mdm.Waiting{Code: mdm.WaitsForDevice, Reason: "The device has not connected since the command was queued. It has not been heard of yet."},
		},
		"it can't be woken": {
			device: func(d *mdm.Device) { d.Push = nil },
			want:   mdm.Waiting{Code: mdm.WaitsForToken, Reason: "The device has no push token, so it can’t be woken: it gets the command when it polls by itself. It has not been heard of yet."},
		},
		"its user must sign in": {
			device: func(d *mdm.Device) { d.SignInRequiredAt = time.Now() },
			want:   mdm.Waiting{Code: mdm.WaitsForSignIn, Reason: "The device gets no commands before its user has signed in again."},
		},
		"it was sent": {
			do: func(t *testing.T, b *bench, id mdm.DeviceID) {
				b.next(t, id, true)
				b.now = b.now.Add(3 * time.Minute)
			},
			want: mdm.Waiting{Code: mdm.WaitsForAnswer, Reason: "The device was sent it 3 minutes ago and has not answered. It has not been heard of yet. It is sent again at the device’s next poll."},
		},
		"the device was locked": {
			do: func(t *testing.T, b *bench, id mdm.DeviceID) {
				for range 2 {
					b.next(t, id, true)
					b.report(t, id, "1", mdm.NotNow)
				}
			},
			want: mdm.Waiting{Code: mdm.WaitsForUnlock, Reason: "The device was locked or busy (2 times). It is sent again at the device’s next poll."},
		},
		"behind one that is not answered": {
			do: func(t *testing.T, b *bench, id mdm.DeviceID) {
				b.queued(t, newCommand("lock", "DeviceLock", id))
				b.next(t, id, true)
				b.now = b.now.Add(26 * time.Hour)
			},
			want: mdm.Waiting{Code: mdm.WaitsForOther, Reason: "It waits behind DeviceLock, which the device was sent 1 day ago and has not answered."},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			change := func(d *mdm.Device) { d.Push = &mdm.Push{Topic: "t", Token: []byte{1}, Magic: "m"} }
			id := b.device(t, "a", func(d *mdm.Device) {
				change(d)
				if tt.device != nil {
					tt.device(d)
				}
			})
			b.enqueue(t, "1", id)
			if tt.do != nil {
				tt.do(t, b, id)
			}
			_, entries, err := b.Command(ctx, "1")
			if err != nil {
				t.Fatal(err)
			}
			got, err := b.Waits(ctx, entries)
			if err != nil || len(got) != 1 || got[0] != tt.want {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

// A forecast fills in what the server knows, supersedes and tells, as queueing does: while
// somebody writes, and without a trace.
func TestAForecastWaitsForNobodyAndKeepsNothing(t *testing.T) {
	b := newBench(t)
	mac := b.device(t, "mac", func(d *mdm.Device) { d.ProductName = "Mac14,2" })
	waits := newCommand("waits", "DeviceLock", mac)
	b.queued(t, waits)
	writing, done := make(chan struct{}), make(chan error, 1)
	written := make(chan struct{})
	go func() {
		done <- b.db.Update(context.Background(), func(tx storage.Tx) error {
			select {
			case writing <- struct{}{}:
			case <-written: // once more
			}
			<-written
			return nil
		})
	}()
	<-writing
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	accepted, rejected, err := b.Forecast(ctx, newCommand("asked", "DeviceLock", mac, "none"))
	close(written)
	if err != nil || !slices.Equal(accepted, []mdm.DeviceID{mac}) || len(rejected) != 1 {
		t.Errorf("Forecast = %v, rejected %v, %v; want that %s gets it", accepted, rejected, err, mac)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := b.CommandStatus(context.Background(), "asked"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("the command of a forecast: %v, want %v", err, storage.ErrNotFound)
	}
	if got := b.order(t, mac); !slices.Equal(got, []string{"waits"}) {
		t.Errorf("the device got %v", got)
	}
}
