package mdm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// bench is a Service on a store of its own, with a clock that the test moves.
type bench struct {
	*mdm.Service
	db  storage.DB
	now time.Time
}

func newBench(t testing.TB) *bench {
	t.Helper()
	box, err := seal.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{db: storagetest.Open(t), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	b.Service, err = mdm.New(mdm.Config{DB: b.db, Box: box, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return b.now }})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// device puts an enrolled iPhone.
func (b *bench) device(t testing.TB, id string, change ...func(*mdm.Device)) mdm.DeviceID {
	t.Helper()
	d := mdm.Device{
		ID: mdm.DeviceID(id), Type: mdm.TypeDevice, State: mdm.Enrolled, AppleID: mdm.AppleID{UDID: "UDID-" + id},
		AccessRights: 8191, Facts: mdm.Facts{ProductName: "iPhone17,2", OSVersion: "18.2"},
	}
	for _, c := range change {
		c(&d)
	}
	b.update(t, func(tx storage.Tx) error { return mdm.PutDevice(tx, d) })
	return d.ID
}

func (b *bench) update(t testing.TB, fn func(storage.Tx) error) {
	t.Helper()
	if err := b.db.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func newCommand(uuid, requestType string, to ...mdm.DeviceID) mdm.NewCommand {
	return rawCommand(uuid, requestType, "", to...)
}

// rawCommand is a command with params, which are keys and values of a property list.
func rawCommand(uuid, requestType, params string, to ...mdm.DeviceID) mdm.NewCommand {
	plist := fmt.Sprintf(`<plist version="1.0"><dict><key>Command</key><dict><key>RequestType</key><string>%s</string>%s</dict><key>CommandUUID</key><string>%s</string></dict></plist>`,
		requestType, params, uuid)
	return mdm.NewCommand{UUID: uuid, RequestType: requestType, Plist: []byte(plist), Targets: to}
}

// enqueue queues a ProfileList with a UUID.
func (b *bench) enqueue(t testing.TB, uuid string, to ...mdm.DeviceID) {
	t.Helper()
	_, rejected, err := b.Enqueue(context.Background(), newCommand(uuid, "ProfileList", to...))
	if err != nil || len(rejected) > 0 {
		t.Fatalf("Enqueue(%s) rejected %v, %v", uuid, rejected, err)
	}
}

// deliver returns the plist that the device gets next, after Idle or another status; nil if
// there is none.
func (b *bench) deliver(t testing.TB, id mdm.DeviceID, idle bool) []byte {
	t.Helper()
	var d *mdm.Delivery
	b.update(t, func(tx storage.Tx) error {
		d = nil
		e, err := b.Head(tx, id, !idle)
		if err != nil || e == nil {
			return err
		}
		d, err = b.Deliver(tx, e)
		return err
	})
	if d == nil {
		return nil
	}
	plist, err := b.Plist(d)
	if err != nil {
		t.Fatal(err)
	}
	return plist
}

// next delivers what the device is to do next, after Idle or another status.
func (b *bench) next(t testing.TB, id mdm.DeviceID, idle bool) string {
	t.Helper()
	plist := b.deliver(t, id, idle)
	if plist == nil {
		return ""
	}
	uuid, _, err := command.ParseRaw(plist)
	if err != nil {
		t.Fatal(err)
	}
	return uuid
}

// report records an answer, and says whether it changed anything.
func (b *bench) report(t testing.TB, id mdm.DeviceID, uuid string, state mdm.CommandState) bool {
	t.Helper()
	var changed bool
	b.update(t, func(tx storage.Tx) error {
		e, err := b.Record(tx, id, mdm.Report{CommandUUID: uuid, State: state, Result: json.RawMessage(`{"Answer":1}`)})
		changed = e != nil
		return err
	})
	return changed
}

func (b *bench) state(t testing.TB, id mdm.DeviceID, uuid string) mdm.CommandState {
	t.Helper()
	_, entries, err := b.Command(context.Background(), uuid)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.DeviceID == id {
			return e.State
		}
	}
	return ""
}

func TestCommandsAreDeliveredInOrderAndAnsweredOnce(t *testing.T) {
	b := newBench(t)
	id := b.device(t, "a")
	for _, uuid := range []string{"1", "2", "3"} {
		b.enqueue(t, uuid, id)
	}
	if got := b.next(t, id, true); got != "1" {
		t.Fatalf("first command = %q, want 1", got)
	}
	if got := b.next(t, id, true); got != "1" {
		t.Errorf("an unanswered command came back as %q at the next Idle, want 1", got)
	}
	if !b.report(t, id, "1", mdm.Acknowledged) {
		t.Error("the answer to a delivered command changed nothing")
	}
	if b.report(t, id, "1", mdm.Failed) {
		t.Error("a second answer to the same command changed something")
	}
	if got := b.state(t, id, "1"); got != mdm.Acknowledged {
		t.Errorf("state = %s, want acknowledged", got)
	}
	if b.report(t, id, "unheard-of", mdm.Acknowledged) {
		t.Error("an answer to an unknown command changed something")
	}
	if b.report(t, id, "3", mdm.Acknowledged) {
		t.Error("an answer to a command that was never sent changed something")
	}
	if got := b.next(t, id, false); got != "2" {
		t.Errorf("next command = %q, want 2", got)
	}
}

func TestNotNowIsPassedOverUntilTheNextIdle(t *testing.T) {
	b := newBench(t)
	id := b.device(t, "a")
	b.enqueue(t, "1", id)
	b.enqueue(t, "2", id)
	b.next(t, id, true)
	b.report(t, id, "1", mdm.NotNow)
	if b.report(t, id, "1", mdm.NotNow) { // our reply was lost
		t.Error("the same NotNow once more changed something")
	}
	if got := b.next(t, id, false); got != "2" {
		t.Errorf("after NotNow for 1: %q, want 2", got)
	}
	b.report(t, id, "2", mdm.Acknowledged)
	if got := b.next(t, id, false); got != "" {
		t.Errorf("in the same session: %q, want nothing", got)
	}
	if got := b.next(t, id, true); got != "1" {
		t.Errorf("at the next Idle: %q, want 1", got)
	}
	b.report(t, id, "1", mdm.NotNow)
	_, entries, err := b.Command(context.Background(), "1")
	if err != nil || entries[0].NotNowCount != 2 {
		t.Errorf("NotNowCount = %d, %v; want 2", entries[0].NotNowCount, err)
	}
}

func TestWhoMayGetACommand(t *testing.T) {
	no := false
	for name, tt := range map[string]struct {
		change      func(*mdm.Device)
		requestType string
		want        string // code of the rejection
	}{
		"an enrolled device":                          {func(*mdm.Device) {}, "DeviceInformation", ""},
		"a type that no table knows":                  {func(*mdm.Device) {}, "BrandNew", ""},
		"a device that never finished":                {func(d *mdm.Device) { d.State = mdm.Pending }, "DeviceInformation", "pending"},
		"a device that left":                          {func(d *mdm.Device) { d.State = mdm.Unenrolled }, "DeviceInformation", "not_enrolled"},
		"a blocked device":                            {func(d *mdm.Device) { d.State = mdm.Blocked }, "DeviceInformation", "blocked"},
		"a personal device, to be erased":             {asUserEnrollment, "EraseDevice", "forbidden_in_user_enrollment"},
		"a personal device of no known kind, erased":  {asUnknownUserEnrollment, "EraseDevice", "forbidden_in_user_enrollment"},
		"a personal device, to be asked":              {asUserEnrollment, "DeviceInformation", ""},
		"an iPhone that is not supervised, restarted": {func(d *mdm.Device) { d.Supervised = &no }, "RestartDevice", "supervision_required"},
		"an iPhone that may be supervised, restarted": {func(*mdm.Device) {}, "RestartDevice", "supervision_unknown"},
		"rights that exclude it":                      {func(d *mdm.Device) { d.AccessRights = 3 }, "EraseDevice", "access_right_missing"},
		"a user channel, to be erased":                {asMacUser, "EraseDevice", "wrong_channel"},
		"a user channel, to be asked":                 {asMacUser, "DeviceInformation", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			id := b.device(t, "a", tt.change)
			_, rejected, err := b.Enqueue(context.Background(), newCommand("1", tt.requestType, id))
			if err != nil {
				t.Fatal(err)
			}
			var got string
			if len(rejected) > 0 {
				got = rejected[0].Code
			}
			if got != tt.want {
				t.Errorf("Enqueue(%s) rejected with %q, want %q", tt.requestType, got, tt.want)
			}
			if got := b.next(t, id, true); tt.want != "" && got != "" {
				t.Errorf("the queue of a device that may not have it holds %q", got)
			}
		})
	}
}

func asUserEnrollment(d *mdm.Device) {
	d.Type, d.AppleID, d.AccessRights = mdm.TypeUser, mdm.AppleID{EnrollmentID: "E-1"}, 0
}

func asUnknownUserEnrollment(d *mdm.Device) {
	asUserEnrollment(d)
	d.ProductName, d.OSVersion = "", ""
}

func asMacUser(d *mdm.Device) {
	d.Type, d.ParentID, d.AppleID = mdm.TypeUserChannel, "parent", mdm.AppleID{UDID: "U", UserID: "V"}
	d.ProductName, d.OSVersion = "Mac14,2", "15.2"
}

func TestOneCommandForManyDevicesNamesThoseThatCannotHaveIt(t *testing.T) {
	b := newBench(t)
	a, c := b.device(t, "a"), b.device(t, "c", func(d *mdm.Device) { d.State = mdm.Unenrolled })
	cmd, rejected, err := b.Enqueue(context.Background(), newCommand("1", "ProfileList", a, c, "nobody", a))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(cmd.Targets, []mdm.DeviceID{a}) {
		t.Errorf("targets = %v, want only a, once", cmd.Targets)
	}
	if len(rejected) != 2 || rejected[0].DeviceID != c || rejected[1].Code != "not_found" {
		t.Errorf("rejected = %+v, want c and nobody", rejected)
	}
}

func TestAUUIDNamesOneCommand(t *testing.T) {
	b := newBench(t)
	a, c := b.device(t, "a"), b.device(t, "c")
	b.enqueue(t, "1", a)
	cmd, _, err := b.Enqueue(context.Background(), newCommand("1", "ProfileList", a, c))
	if err != nil || len(cmd.Targets) != 2 {
		t.Errorf("the same command for one more device: targets %v, %v", cmd.Targets, err)
	}
	o, err := b.Device(context.Background(), a)
	if err != nil || o.PendingCommands != 1 {
		t.Errorf("device a has %d commands, %v; want 1", o.PendingCommands, err)
	}
	other := newCommand("1", "ProfileList", a)
	other.Plist = []byte("another plist")
	if _, _, err := b.Enqueue(context.Background(), other); !errors.Is(err, mdm.ErrCommandExists) {
		t.Errorf("another command with its UUID: %v, want ErrCommandExists", err)
	}
}

func TestANewerProfileSupersedesOneThatWasNotDelivered(t *testing.T) {
	b := newBench(t)
	id := b.device(t, "a")
	install := func(uuid, identifier string) {
		t.Helper()
		c := newCommand(uuid, "InstallProfile", id)
		c.Identifier = identifier
		if _, _, err := b.Enqueue(context.Background(), c); err != nil {
			t.Fatal(err)
		}
	}
	install("delivered", "wifi")
	b.next(t, id, true)
	install("old", "wifi")
	install("other", "vpn")
	install("new", "wifi")
	for uuid, want := range map[string]mdm.CommandState{
		"delivered": mdm.Delivered, "old": mdm.Cancelled, "other": mdm.Queued, "new": mdm.Queued,
	} {
		if got := b.state(t, id, uuid); got != want {
			t.Errorf("state of %q = %s, want %s", uuid, got, want)
		}
	}
}

func TestCancellingACommand(t *testing.T) {
	ctx := context.Background()
	b := newBench(t)
	id, other := b.device(t, "a"), b.device(t, "b")
	b.enqueue(t, "1", id)
	b.enqueue(t, "2", id)
	b.next(t, id, true)
	if err := b.Cancel(ctx, id, "1", "token:test"); !errors.Is(err, mdm.ErrCommandDelivered) {
		t.Errorf("Cancel of a delivered command: %v, want ErrCommandDelivered", err)
	}
	if err := b.Cancel(ctx, id, "2", "token:test"); err != nil {
		t.Errorf("Cancel of a queued command: %v", err)
	}
	if err := b.Cancel(ctx, id, "2", "token:test"); !errors.Is(err, mdm.ErrCommandFinished) {
		t.Errorf("Cancel again: %v, want ErrCommandFinished", err)
	}
	if err := b.Cancel(ctx, other, "1", "token:test"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Cancel for another device: %v, want ErrNotFound", err)
	}
	b.report(t, id, "1", mdm.NotNow)
	if err := b.Cancel(ctx, id, "1", "token:test"); err != nil {
		t.Errorf("Cancel of a command that the device forgot: %v", err)
	}
	if got := b.next(t, id, true); got != "" {
		t.Errorf("next = %q, want nothing", got)
	}
}

func TestAResultThatIsAlwaysTooLargeFailsItsCommand(t *testing.T) {
	b := newBench(t)
	id := b.device(t, "a")
	b.enqueue(t, "1", id)
	b.enqueue(t, "2", id)
	b.next(t, id, true)
	oversized := func() *mdm.Entry {
		t.Helper()
		var e *mdm.Entry
		b.update(t, func(tx storage.Tx) (err error) {
			e, err = b.RecordOversized(tx, id)
			return err
		})
		return e
	}
	for i, want := range []mdm.CommandState{mdm.Delivered, mdm.Delivered, mdm.Failed} {
		if e := oversized(); e == nil || e.State != want {
			t.Errorf("oversized result %d: %+v, want state %s", i+1, e, want)
		}
	}
	if e := oversized(); e != nil {
		t.Errorf("the next command, which the device does not have, is blamed: %+v", e)
	}
	if got := b.next(t, id, true); got != "2" {
		t.Errorf("next = %q, want 2", got)
	}
}

func TestHistoryIsPagedNewestFirst(t *testing.T) {
	ctx := context.Background()
	b := newBench(t)
	id := b.device(t, "a")
	var want []string
	for i := range 7 {
		uuid := fmt.Sprint(i)
		b.enqueue(t, uuid, id)
		if i < 4 {
			b.next(t, id, true)
			b.report(t, id, uuid, mdm.Acknowledged)
		}
		want = slices.Insert(want, 0, uuid)
		b.now = b.now.Add(-time.Minute) // a clock that steps back changes no order
	}
	var got []string
	for cursor := ""; ; {
		page, next, err := b.DeviceCommands(ctx, id, cursor, 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			got = append(got, e.UUID)
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("commands = %v, want %v", got, want)
	}
	if _, _, err := b.DeviceCommands(ctx, id, "garbage", 3); !errors.Is(err, storage.ErrBadCursor) {
		t.Errorf("a cursor that is none: %v, want ErrBadCursor", err)
	}
	if _, _, err := b.DeviceCommands(ctx, "nobody", "", 3); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("commands of nobody: %v, want ErrNotFound", err)
	}
}

func TestEveryConcurrentCommandIsDeliveredOnceAndInOrder(t *testing.T) {
	b := newBench(t)
	id := b.device(t, "a")
	const writers, each = 8, 25
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if _, _, err := b.Enqueue(context.Background(), newCommand(fmt.Sprintf("%d-%d", w, i), "ProfileList", id)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	next := make([]int, writers) // what comes next of each writer
	take := func() bool {
		uuid := b.next(t, id, true)
		if uuid == "" {
			return false
		}
		var w, i int
		if _, err := fmt.Sscanf(uuid, "%d-%d", &w, &i); err != nil {
			t.Fatal(err)
		}
		if i != next[w] {
			t.Errorf("of writer %d came %d, want %d", w, i, next[w])
		}
		next[w] = i + 1
		b.report(t, id, uuid, mdm.Acknowledged)
		return true
	}
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		for take() {
		}
	}
	for w, n := range next {
		if n != each {
			t.Errorf("of writer %d came %d commands, want %d", w, n, each)
		}
	}
}

func TestWaitReturnsWhenEveryDeviceHasAnswered(t *testing.T) {
	b := newBench(t)
	id := b.device(t, "a")
	b.enqueue(t, "1", id)
	b.next(t, id, true)
	got := make(chan mdm.CommandState)
	go func() {
		_, entries, err := b.Wait(context.Background(), "1")
		if err != nil {
			t.Error(err)
		}
		got <- entries[0].State
	}()
	b.report(t, id, "1", mdm.Acknowledged)
	if state := <-got; state != mdm.Acknowledged {
		t.Errorf("Wait returned with %s", state)
	}
	b.enqueue(t, "2", id)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, entries, err := b.Wait(ctx, "2"); err != nil || entries[0].State != mdm.Queued {
		t.Errorf("Wait with no time left = %v, %v; want the state as it is", entries, err)
	}
}

func TestCommandsAreSealedAtRest(t *testing.T) {
	b := newBench(t)
	id := b.device(t, "a")
	b.enqueue(t, "1", id)
	n := 0
	err := b.db.View(context.Background(), func(tx storage.Tx) error {
		n = 0
		for item, err := range tx.Scan("command_payloads", storage.Range{}) {
			if err != nil {
				return err
			}
			n++
			if strings.Contains(string(item.Value), "<string>1</string>") {
				t.Error("the payload stands in the store as it is")
			}
		}
		return nil
	})
	if err != nil || n != 1 {
		t.Errorf("%d payloads, %v; want 1", n, err)
	}
}

func TestAFinishedCommandKeepsThePushThatItsDeviceCameFor(t *testing.T) {
	for name, tt := range map[string]struct {
		before, after time.Duration // since the command was queued, the push that is known at its delivery and at its answer; negative: none
		want          time.Duration // negative: none
	}{
		"known when it is delivered": {before: time.Second, after: time.Hour, want: time.Second},
		"known only at the answer":   {before: -1, after: time.Second, want: time.Second},
		"of an older command":        {before: -time.Minute, after: -time.Minute, want: -1},
		"for a later one":            {before: -1, after: time.Hour, want: -1},
		"none":                       {before: -1, after: -1, want: -1},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			id := b.device(t, "a")
			queued := b.now
			b.enqueue(t, "1", id)
			push := func(after time.Duration) {
				if after == -1 {
					return
				}
				b.update(t, func(tx storage.Tx) error {
					return mdm.PutWakeup(tx, mdm.Wakeup{DeviceID: id, State: mdm.WakeSent, PushedAt: queued.Add(after)})
				})
			}
			push(tt.before)
			b.now = queued.Add(time.Minute)
			b.next(t, id, true)
			b.now = queued.Add(2 * time.Hour)
			push(tt.after)
			b.report(t, id, "1", mdm.Acknowledged)
			_, e, err := b.DeviceCommand(t.Context(), id, "1")
			if err != nil {
				t.Fatal(err)
			}
			want := time.Time{}
			if tt.want >= 0 {
				want = queued.Add(tt.want)
			}
			if !e.PushedAt.Equal(want) {
				t.Errorf("pushed at %v, want %v", e.PushedAt, want)
			}
		})
	}
}
