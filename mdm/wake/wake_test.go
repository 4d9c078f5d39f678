package wake_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/wake"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

var ctx = context.Background()

const topic = "com.apple.mgmt.External.test"

// apple stands where the client is: it answers as the test says, and remembers.
type apple struct {
	mu     sync.Mutex
	pushed []string // tokens
	answer func(token string) apns.Result
	during func() // called while a batch is being pushed
}

func (a *apple) Push(_ context.Context, _ string, pushes []apns.Push, done func(int, apns.Result)) {
	for i, p := range pushes {
		a.mu.Lock()
		a.pushed = append(a.pushed, string(p.Token))
		answer, during := a.answer, a.during
		a.mu.Unlock()
		if during != nil {
			during()
		}
		done(i, answer(string(p.Token)))
	}
}

func (a *apple) answers(r apns.Result) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = func(string) apns.Result { return r }
}

// took returns the tokens that were pushed since it was asked last, in order.
func (a *apple) took() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.pushed
	a.pushed = nil
	slices.Sort(list)
	return strings.Join(list, " ")
}

// shelf is the certificates: the SHA-256 by topic.
type shelf map[string]string

func (c shelf) Get(_ storage.Tx, topic string) (apns.Certificate, error) {
	sum, ok := c[topic]
	if !ok {
		return apns.Certificate{}, storage.ErrNotFound
	}
	return apns.Certificate{Topic: topic, SHA256: sum}, nil
}

type bench struct {
	*wake.Service
	mdm   *mdm.Service
	db    storage.DB
	apple *apple
	certs shelf
	now   time.Time
	n     int
}

var sent = apns.Result{Outcome: apns.Sent, Status: 200}

func newBench(t testing.TB) *bench {
	t.Helper()
	box, err := seal.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{db: storagetest.Open(t), apple: &apple{}, certs: shelf{topic: "one"}, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	b.apple.answers(sent)
	log, now := slog.New(slog.DiscardHandler), func() time.Time { return b.now }
	if b.mdm, err = mdm.New(mdm.Config{DB: b.db, Box: box, Log: log, Now: now}); err != nil {
		t.Fatal(err)
	}
	b.Service, err = wake.New(wake.Config{DB: b.db, MDM: b.mdm, Pusher: b.apple, Certificates: b.certs, Log: log, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	b.mdm.WakeBy(b.Service)
	return b
}

func (b *bench) update(t testing.TB, fn func(storage.Tx) error) {
	t.Helper()
	if err := b.db.Update(ctx, fn); err != nil {
		t.Fatal(err)
	}
}

// device puts an enrolled iPhone whose push token is its id.
func (b *bench) device(t testing.TB, id string, change ...func(*mdm.Device)) mdm.DeviceID {
	t.Helper()
	d := mdm.Device{
		ID: mdm.DeviceID(id), Type: mdm.TypeDevice, State: mdm.Enrolled, AppleID: mdm.AppleID{UDID: "UDID-" + id},
		AccessRights: 8191, Facts: mdm.Facts{ProductName: "iPhone17,2", OSVersion: "18.2"},
		Push: &mdm.Push{Topic: topic, Token: []byte(id), Magic: "magic", ToldAt: b.now.Add(-time.Hour)},
	}
	for _, c := range change {
		c(&d)
	}
	b.update(t, func(tx storage.Tx) error { return mdm.PutDevice(tx, d) })
	return d.ID
}

// queue queues a command and returns its UUID.
func (b *bench) queue(t testing.TB, to ...mdm.DeviceID) string {
	t.Helper()
	return b.queueAs(t, mdm.NewCommand{Targets: to})
}

func (b *bench) queueAs(t testing.TB, c mdm.NewCommand) string {
	t.Helper()
	b.n++
	c.UUID, c.RequestType = fmt.Sprintf("C%d", b.n), "ProfileList"
	c.Plist = fmt.Appendf(nil, `<plist version="1.0"><dict><key>Command</key><dict><key>RequestType</key><string>ProfileList</string></dict><key>CommandUUID</key><string>%s</string></dict></plist>`, c.UUID)
	if _, rejected, err := b.mdm.Enqueue(ctx, c); err != nil || len(rejected) > 0 {
		t.Fatalf("Enqueue rejected %v, %v", rejected, err)
	}
	return c.UUID
}

// polls has a device poll and answer what it gets.
func (b *bench) polls(t testing.TB, id mdm.DeviceID, answer mdm.CommandState) {
	t.Helper()
	b.mdm.Saw(id)
	for idle := true; ; idle = false {
		var e *mdm.Entry
		b.update(t, func(tx storage.Tx) (err error) {
			if e, err = b.mdm.Head(tx, id, !idle); err != nil || e == nil {
				return err
			}
			_, err = b.mdm.Deliver(tx, e)
			return err
		})
		if e == nil || answer == "" {
			return
		}
		b.update(t, func(tx storage.Tx) error {
			_, err := b.mdm.Record(tx, id, mdm.Report{CommandUUID: e.UUID, State: answer})
			return err
		})
	}
}

// work does what is due and checks who was pushed.
func (b *bench) work(t testing.TB, want string) {
	t.Helper()
	if _, err := b.Work(ctx); err != nil {
		t.Fatal(err)
	}
	if got := b.apple.took(); got != want {
		t.Fatalf("at %s pushed %q, want %q", b.now.Format(time.TimeOnly), got, want)
	}
}

// until passes time in small steps until somebody is pushed, and returns how much.
func (b *bench) until(t testing.TB, want string, most time.Duration) time.Duration {
	t.Helper()
	start := b.now
	for b.now.Sub(start) <= most {
		b.now = b.now.Add(time.Second)
		if _, err := b.Work(ctx); err != nil {
			t.Fatal(err)
		}
		if got := b.apple.took(); got != "" {
			if got != want {
				t.Fatalf("pushed %q, want %q", got, want)
			}
			return b.now.Sub(start)
		}
	}
	t.Fatalf("%q was not pushed within %s", want, most)
	return 0
}

func (b *bench) wakeup(t testing.TB, id mdm.DeviceID) (w mdm.Wakeup, ok bool) {
	t.Helper()
	err := b.db.View(ctx, func(tx storage.Tx) (err error) {
		w, err = mdm.GetWakeup(tx, id)
		return err
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		t.Fatal(err)
	}
	return w, err == nil
}

func (b *bench) trouble(t testing.TB) (p mdm.Pushing) {
	t.Helper()
	err := b.db.View(ctx, func(tx storage.Tx) (err error) {
		p, err = mdm.GetPushing(tx, topic)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// events returns the actions that were recorded, oldest first.
func (b *bench) events(t testing.TB) string {
	t.Helper()
	r, err := event.New(event.Config{DB: b.db, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return b.now }})
	if err != nil {
		t.Fatal(err)
	}
	list, _, err := r.Page(ctx, event.Filter{}, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	var actions []string
	for _, e := range slices.Backward(list) {
		if !strings.HasPrefix(e.Action, "command.") {
			actions = append(actions, e.Action)
		}
	}
	return strings.Join(actions, " ")
}

func TestACommandWakesItsDevices(t *testing.T) {
	b := newBench(t)
	b.device(t, "a")
	b.device(t, "b")
	b.device(t, "silent", func(d *mdm.Device) { d.Push = nil })
	b.queue(t, "a", "b", "silent")
	b.work(t, "a b")
	b.work(t, "")
}

func TestWakeUpsOfOneDeviceAreMerged(t *testing.T) {
	b := newBench(t)
	a := b.device(t, "a")
	for range 20 {
		b.queue(t, a)
	}
	b.work(t, "a")

	// A push that has just been taken is enough for what is queued before the device comes.
	b.now = b.now.Add(100 * time.Millisecond)
	b.queue(t, a)
	b.work(t, "")
	b.now = b.now.Add(200 * time.Millisecond)
	b.polls(t, a, mdm.Acknowledged)
	b.now = b.now.Add(5 * time.Second)
	b.work(t, "")

	// But if it does not come, or came before, it is pushed.
	b.queue(t, a)
	b.work(t, "a")
	b.now = b.now.Add(100 * time.Millisecond)
	b.polls(t, a, mdm.Acknowledged)
	b.now = b.now.Add(100 * time.Millisecond)
	b.queue(t, a)
	b.work(t, "a")
	b.now = b.now.Add(100 * time.Millisecond)
	b.queue(t, a)
	b.work(t, "")
	b.now = b.now.Add(3 * time.Second)
	b.work(t, "a")
}

func TestADeviceThatHasAllIsNotPushedAgain(t *testing.T) {
	b := newBench(t)
	a := b.device(t, "a")
	b.apple.during = func() { b.polls(t, a, mdm.Acknowledged) } // it answers before the push returns
	b.queue(t, a)
	b.work(t, "a")
	b.apple.during = nil
	for range 100 {
		b.now = b.now.Add(20 * time.Minute)
		b.work(t, "")
	}
	if w, ok := b.wakeup(t, a); ok {
		t.Errorf("there is a wake-up yet: %+v", w)
	}
}

func TestASilentDeviceIsPushedTwice(t *testing.T) {
	storagetest.AnyEngine(t)
	b := newBench(t)
	a := b.device(t, "a")
	b.queue(t, a)
	b.work(t, "a")
	pushes := 1
	for range 1000 {
		b.now = b.now.Add(20 * time.Minute)
		if _, err := b.Work(ctx); err != nil {
			t.Fatal(err)
		}
		if b.apple.took() != "" {
			pushes++
		}
	}
	if pushes != 2 {
		t.Errorf("pushed %d times, want 2", pushes)
	}
	if w, _ := b.wakeup(t, a); w.State != mdm.WakeGivenUp {
		t.Errorf("state %s, want %s", w.State, mdm.WakeGivenUp)
	}
	b.queue(t, a)
	b.work(t, "a")
}

func TestADeviceThatPutsOffIsPushedAgainAndAgain(t *testing.T) {
	storagetest.AnyEngine(t)
	b := newBench(t)
	a := b.device(t, "a")
	// Its answer comes before Apple's, or after.
	for name, early := range map[string]bool{"early": true, "late": false} {
		if early {
			b.apple.during = func() { b.polls(t, a, mdm.NotNow) }
		}
		uuid := b.queue(t, a)
		b.work(t, "a")
		b.apple.during = nil
		b.now = b.now.Add(time.Second)
		if !early {
			b.polls(t, a, mdm.NotNow)
		}
		last := time.Duration(0)
		for i := range 4 {
			took := b.until(t, "a", time.Hour)
			if i == 0 && took > 45*time.Second {
				t.Errorf("%s: the first repeated push came after %s, want 45 s at most", name, took)
			}
			if took < last {
				t.Errorf("%s: repeat %d came after %s, sooner than the one before (%s)", name, i, took, last)
			}
			last = took
			b.polls(t, a, mdm.NotNow)
		}
		if last < 2*time.Minute {
			t.Errorf("%s: the fourth repeat came after %s already", name, last)
		}
		b.polls(t, a, mdm.Acknowledged)
		if state, ok := entryState(t, b, a, uuid); ok {
			t.Errorf("%s: the command is %s", name, state)
		}
		b.now = b.now.Add(30 * time.Hour)
		b.work(t, "")
	}
}

func entryState(t *testing.T, b *bench, id mdm.DeviceID, uuid string) (state mdm.CommandState, ok bool) {
	t.Helper()
	b.update(t, func(tx storage.Tx) (err error) {
		state, ok, err = mdm.PendingState(tx, id, uuid)
		return err
	})
	return state, ok
}

func TestPuttingOffHasALimit(t *testing.T) {
	storagetest.AnyEngine(t)
	b := newBench(t)
	a := b.device(t, "a")
	set := wake.Defaults()
	set.NotNowRepeats = 3
	b.update(t, func(tx storage.Tx) error { return wake.PutSettings(tx, set) })
	b.queue(t, a)
	b.work(t, "a")
	pushes := 0
	for range 500 {
		b.now = b.now.Add(10 * time.Minute)
		if _, err := b.Work(ctx); err != nil {
			t.Fatal(err)
		}
		if b.apple.took() != "" || pushes == 0 {
			b.polls(t, a, mdm.NotNow)
			pushes++
		}
	}
	if pushes != 4 { // what it put off at first, and three more times
		t.Errorf("put off %d times, want 4", pushes)
	}
}

func TestAppleOutOfReachStormsNobody(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, r := range map[string]apns.Result{
		"no answer":     {Outcome: apns.Retry, Reason: "Transport", Whole: true},
		"trouble there": {Outcome: apns.Retry, Reason: "InternalServerError", Status: 500},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.apple.answers(r)
			var ids []mdm.DeviceID
			for i := range 40 {
				ids = append(ids, b.device(t, fmt.Sprintf("d%02d", i)))
			}
			b.queue(t, ids...)
			if _, err := b.Work(ctx); err != nil {
				t.Fatal(err)
			}
			first := len(strings.Fields(b.apple.took()))
			if first == 0 || first > 40 {
				t.Fatalf("%d pushes at first", first)
			}
			tries, lastTry, gap := 0, b.now, time.Duration(0)
			for range 900 {
				b.now = b.now.Add(time.Second)
				if _, err := b.Work(ctx); err != nil {
					t.Fatal(err)
				}
				n := len(strings.Fields(b.apple.took()))
				if n > 1 {
					t.Fatalf("%d pushes at a time while Apple is out of reach", n)
				}
				if tries += n; n > 0 {
					gap, lastTry = max(gap, b.now.Sub(lastTry)), b.now
				}
			}
			if gap > 25*time.Second || tries > 150 {
				t.Errorf("tried %d times within a quarter of an hour, at most %s apart: want 25 s apart and no storm", tries, gap)
			}
			if p := b.trouble(t); p.Trouble != mdm.PushUnreachable {
				t.Errorf("the topic's trouble is %q", p.Trouble)
			}
			b.apple.answers(sent)
			b.now = b.now.Add(25 * time.Second)
			want := ""
			for _, id := range ids {
				want += " " + string(id)
			}
			b.work(t, strings.TrimSpace(want))
			b.now = b.now.Add(time.Minute)
			b.work(t, "")
			if got := b.events(t); got != "push.failing push.recovered" {
				t.Errorf("events: %s", got)
			}
		})
	}
}

func TestOneDevicesTroubleIsItsOwn(t *testing.T) {
	b := newBench(t)
	a, bad := b.device(t, "a"), b.device(t, "bad")
	b.apple.answer = func(token string) apns.Result {
		if token == "bad" {
			return apns.Result{Outcome: apns.Retry, Status: 500, Reason: "InternalServerError"}
		}
		return sent
	}
	b.queue(t, a, bad)
	b.work(t, "a bad")
	for range 5 {
		if took := b.until(t, "bad", time.Minute); took > 25*time.Second {
			t.Errorf("tried again after %s", took)
		}
	}
	b.now = b.now.Add(time.Second)
	b.queue(t, a)
	b.work(t, "a")
}

func TestOnlyANewer410IsADeadToken(t *testing.T) {
	b := newBench(t)
	a := b.device(t, "a")
	gone := func(at time.Time) {
		b.apple.answers(apns.Result{Outcome: apns.TokenInvalid, Status: 410, Reason: "Unregistered", Timestamp: at})
	}
	gone(b.now.Add(-2 * time.Hour)) // the token was told an hour ago
	b.queue(t, a)
	b.work(t, "a")
	if d := b.get(t, a); !d.Push.DeadAt.IsZero() {
		t.Fatal("a word of before the token was told killed it")
	}
	gone(b.now.Add(-time.Minute))
	b.now = b.now.Add(time.Hour)
	b.work(t, "a")
	if d := b.get(t, a); d.Push.DeadAt.IsZero() || !d.Live() {
		t.Fatalf("the token is dead at %v, the device is %s", d.Push.DeadAt, d.State)
	}
	b.now = b.now.Add(time.Hour)
	b.queue(t, a)
	b.work(t, "")
	b.now = b.now.Add(48 * time.Hour)
	b.work(t, "")
	if st := b.status(t, a); st.State != mdm.PushTokenDead {
		t.Errorf("the device's push state is %s", st.State)
	}

	b.apple.answers(sent)
	b.tokenUpdate(t, a, "new")
	b.work(t, "new")
	if got := b.events(t); got != "push.failing device.push_token_dead" && got != "device.push_token_dead" {
		t.Errorf("events: %s", got)
	}
}

func (b *bench) get(t testing.TB, id mdm.DeviceID) (d mdm.Device) {
	t.Helper()
	b.update(t, func(tx storage.Tx) (err error) {
		d, err = mdm.GetDevice(tx, id)
		return err
	})
	return d
}

func (b *bench) status(t testing.TB, id mdm.DeviceID) (st mdm.PushStatus) {
	t.Helper()
	b.update(t, func(tx storage.Tx) (err error) {
		d, err := mdm.GetDevice(tx, id)
		if err == nil {
			st, err = mdm.PushStatusOf(tx, d, b.now)
		}
		return err
	})
	return st
}

func (b *bench) tokenUpdate(t testing.TB, id mdm.DeviceID, token string) {
	t.Helper()
	b.update(t, func(tx storage.Tx) error {
		d, err := mdm.GetDevice(tx, id)
		if err != nil {
			return err
		}
		d.Push = &mdm.Push{Topic: topic, Token: []byte(token), Magic: "magic", ToldAt: b.now}
		if err := mdm.PutDevice(tx, d); err != nil {
			return err
		}
		return b.mdm.Reachable(tx, d)
	})
}

func TestAWrongCertificateIsOneAlarmAndHealsByItself(t *testing.T) {
	storagetest.AnyEngine(t)
	b := newBench(t)
	b.apple.answers(apns.Result{Outcome: apns.Refused, Status: 400, Reason: "BadDeviceToken"})
	var ids []mdm.DeviceID
	for i := range 1200 {
		ids = append(ids, b.device(t, fmt.Sprintf("d%04d", i)))
	}
	b.queue(t, ids...)
	if _, err := b.Work(ctx); err != nil {
		t.Fatal(err)
	}
	if n := len(strings.Fields(b.apple.took())); n == 0 || n > 1000 {
		t.Errorf("%d devices were tried", n)
	}
	tries := 0
	for range 6 * 24 {
		b.now = b.now.Add(10 * time.Minute)
		if _, err := b.Work(ctx); err != nil {
			t.Fatal(err)
		}
		tries += len(strings.Fields(b.apple.took()))
	}
	if tries == 0 || tries > 10*len(ids) {
		t.Errorf("%d tries within a day, want a few", tries)
	}
	if got := b.events(t); got != "push.failing" {
		t.Errorf("events: %s", got)
	}
	if st := b.status(t, ids[0]); st.State != "refused" {
		t.Errorf("the device's push state is %s", st.State)
	}

	b.apple.answers(sent)
	b.certs[topic] = "two" // the operator puts the right one
	if _, err := b.Work(ctx); err != nil {
		t.Fatal(err)
	}
	if n := len(strings.Fields(b.apple.took())); n != len(ids) {
		t.Errorf("%d of %d devices were pushed with the right certificate", n, len(ids))
	}
	if got := b.events(t); got != "push.failing push.recovered" {
		t.Errorf("events: %s", got)
	}
}

func TestAnAlarmAboutADeviceEndsWithIt(t *testing.T) {
	b := newBench(t)
	bad := b.device(t, "bad")
	b.apple.answers(apns.Result{Outcome: apns.Refused, Status: 400, Reason: "BadDeviceToken"})
	b.queue(t, bad)
	b.work(t, "bad")
	if p := b.trouble(t); p.RefusedAt.IsZero() {
		t.Fatalf("the topic is %+v", p)
	}
	b.apple.answers(sent)
	b.tokenUpdate(t, bad, "good")
	b.work(t, "good")
	b.now = b.now.Add(20 * time.Minute)
	b.work(t, "")
	if got := b.events(t); got != "push.failing push.recovered" {
		t.Errorf("events: %s", got)
	}
}

func TestARefusedCertificateStopsItsTopicOnly(t *testing.T) {
	for name, r := range map[string]apns.Result{
		"refused": {Outcome: apns.Refused, Status: 403, Reason: "BadCertificate", Whole: true},
		"missing": {Outcome: apns.Refused, Reason: "NoCertificate", Whole: true},
		"expired": {Outcome: apns.Refused, Reason: "CertificateExpired", Whole: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.apple.answer = func(token string) apns.Result {
				if token == "other" {
					return sent
				}
				return r
			}
			a := b.device(t, "a")
			other := b.device(t, "other", func(d *mdm.Device) { d.Push.Topic = "com.apple.mgmt.External.other" })
			b.queue(t, a, other)
			b.work(t, "a other")
			b.now = b.now.Add(30 * time.Second)
			b.queue(t, a, other)
			b.work(t, "other")
			b.apple.answers(sent)
			b.certs[topic] = "two"
			b.work(t, "a")
			if p := b.trouble(t); p.Trouble != mdm.NoPushTrouble {
				t.Errorf("trouble %q is left", p.Trouble)
			}
			if got := b.events(t); got != "push.failing push.recovered" {
				t.Errorf("events: %s", got)
			}
		})
	}
}

func TestADeadSendersWorkIsDoneByAnother(t *testing.T) {
	b := newBench(t)
	a := b.device(t, "a")
	b.queue(t, a)
	// One takes it, and is never heard of again.
	if err := b.TakeAndDie(ctx); err != nil {
		t.Fatal(err)
	}
	b.work(t, "")
	if took := b.until(t, "a", time.Minute); took > 25*time.Second {
		t.Errorf("pushed %s after the sender died, want 25 s at most", took)
	}
	b.now = b.now.Add(30 * time.Second)
	b.work(t, "")
}

func TestTooManyRequestsAreWaitedOut(t *testing.T) {
	b := newBench(t)
	a, c := b.device(t, "a"), b.device(t, "c")
	b.apple.answers(apns.Result{Outcome: apns.Retry, Status: 429, Reason: "TooManyRequests", RetryAfter: 90 * time.Second})
	b.queue(t, a)
	b.work(t, "a")
	b.apple.answers(sent)
	b.queue(t, c) // nobody else waits for it
	b.work(t, "c")
	if took := b.until(t, "a", time.Hour); took < 90*time.Second || took > 2*time.Minute {
		t.Errorf("tried again after %s, Apple asked for 90 s", took)
	}
}

func TestAPushThatSomebodyAsksFor(t *testing.T) {
	b := newBench(t)
	a := b.device(t, "a")
	gone := b.device(t, "gone", func(d *mdm.Device) { d.State = mdm.Unenrolled })
	mute := b.device(t, "mute", func(d *mdm.Device) { d.Push = nil })
	got, err := b.PushNow(ctx, []mdm.DeviceID{a, gone, mute, "nobody", a})
	if err != nil {
		t.Fatal(err)
	}
	if b.apple.took() != "a" {
		t.Error("the device was not pushed once")
	}
	if got[0].Result.Outcome != apns.Sent || got[4].Result.Outcome != apns.Sent ||
		!errors.Is(got[1].Err, mdm.ErrNotEnrolled) || !errors.Is(got[2].Err, wake.ErrNoToken) || !errors.Is(got[3].Err, storage.ErrNotFound) {
		t.Errorf("PushNow: %+v", got)
	}
	b.now = b.now.Add(48 * time.Hour)
	b.work(t, "")

	// Whoever queues and pushes itself leaves nothing for the outbox, unless it does not come
	// to it.
	b.queueAs(t, mdm.NewCommand{Targets: []mdm.DeviceID{a}, PushAfter: 20 * time.Second})
	b.work(t, "")
	if _, err := b.PushNow(ctx, []mdm.DeviceID{a}); err != nil {
		t.Fatal(err)
	}
	b.apple.took()
	b.now = b.now.Add(30 * time.Second)
	b.work(t, "")
	b.queueAs(t, mdm.NewCommand{Targets: []mdm.DeviceID{a}, PushAfter: 20 * time.Second})
	if took := b.until(t, "a", time.Minute); took < 20*time.Second || took > 25*time.Second {
		t.Errorf("pushed after %s", took)
	}
	b.queueAs(t, mdm.NewCommand{Targets: []mdm.DeviceID{a}, NoPush: true})
	b.now = b.now.Add(10 * time.Second)
	b.work(t, "")
}

func TestSettingsThatCannotBe(t *testing.T) {
	storagetest.AnyEngine(t)
	b := newBench(t)
	for field, edit := range map[string]func(*wake.Settings){
		"repeats":         func(s *wake.Settings) { s.Repeats = -1 },
		"repeat_after":    func(s *wake.Settings) { s.RepeatAfter = time.Second },
		"not_now_repeats": func(s *wake.Settings) { s.NotNowRepeats = 1001 },
		"silent_after":    func(s *wake.Settings) { s.SilentAfter = 0 },
	} {
		set := wake.Defaults()
		edit(&set)
		err := b.db.Update(ctx, func(tx storage.Tx) error { return wake.PutSettings(tx, set) })
		var bad *wake.SettingsError
		if !errors.As(err, &bad) || bad.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if s, err := b.Settings(ctx); err != nil || s != wake.Defaults() {
		t.Errorf("settings are %+v, %v", s, err)
	}
}
