package wake_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

var badToken = apns.Result{Outcome: apns.Refused, Status: 400, Reason: "BadDeviceToken"}

func (b *bench) some(bad func(string) apns.Result) {
	b.apple.mu.Lock()
	defer b.apple.mu.Unlock()
	b.apple.answer = bad
}

func badOnes(token string) apns.Result {
	if strings.HasPrefix(token, "bad") {
		return badToken
	}
	return sent
}

// pass passes time in steps and returns how often each token was pushed.
func (b *bench) pass(t testing.TB, d, step time.Duration) map[string]int {
	t.Helper()
	n := map[string]int{}
	for end := b.now.Add(d); b.now.Before(end); {
		b.now = b.now.Add(step)
		if _, err := b.Work(ctx); err != nil {
			t.Fatal(err)
		}
		for _, s := range strings.Fields(b.apple.took()) {
			n[s]++
		}
	}
	return n
}

func TestAnAlarmEndsWithItsCause(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, end := range map[string]func(b *bench){
		"the device told a new token and was pushed": func(b *bench) {
			b.some(func(string) apns.Result { return sent })
			b.tokenUpdate(t, "bad", "good now")
		},
		"the device came by itself and has all": func(b *bench) { b.polls(t, "bad", mdm.Acknowledged) },
		"the device was unenrolled": func(b *bench) {
			b.update(t, func(tx storage.Tx) error {
				d, err := mdm.GetDevice(tx, "bad")
				d.State = mdm.Unenrolled
				if err != nil {
					return err
				}
				return mdm.PutDevice(tx, d)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.device(t, "bad")
			for i := range 20 {
				b.device(t, fmt.Sprintf("g%02d", i))
			}
			b.some(badOnes)
			b.queue(t, "bad", "g00")
			b.work(t, "bad g00")
			if p := b.trouble(t); p.RefusedAt.IsZero() {
				t.Fatalf("%+v", p)
			}
			end(b)
			for i := range 5 { // five days of pushes that go
				b.pass(t, 24*time.Hour, time.Hour)
				b.queue(t, mdm.DeviceID(fmt.Sprintf("g%02d", i)))
				b.work(t, fmt.Sprintf("g%02d", i))
			}
			if p := b.trouble(t); p.Trouble != mdm.NoPushTrouble || !p.RefusedAt.IsZero() {
				t.Errorf("five days later the topic's trouble is yet %q, since %s: %s", p.Trouble, p.Since, p.Sentence())
			}
			// Now the certificate really is the wrong one.
			b.some(func(string) apns.Result { return badToken })
			var all []mdm.DeviceID
			for i := range 20 {
				all = append(all, mdm.DeviceID(fmt.Sprintf("g%02d", i)))
			}
			before := b.events(t)
			b.queue(t, all...)
			if _, err := b.Work(ctx); err != nil {
				t.Fatal(err)
			}
			if p := b.trouble(t); p.PausedUntil.IsZero() {
				t.Fatal("not paused")
			}
			if after := b.events(t); after == before {
				t.Errorf("the whole topic is refused now, and there is no event of it: %s", after)
			}
		})
	}
}

func TestBadDevicesKeepNobodyElse(t *testing.T) {
	storagetest.AnyEngine(t)
	b := newBench(t)
	var bad []mdm.DeviceID
	for i := range 12 {
		bad = append(bad, b.device(t, fmt.Sprintf("bad%02d", i)))
	}
	good := b.device(t, "good")
	b.some(badOnes)
	b.queue(t, append(bad, good)...)
	if _, err := b.Work(ctx); err != nil {
		t.Fatal(err)
	}
	b.apple.took()
	b.polls(t, good, mdm.Acknowledged)
	b.certs[topic] = "two" // the yearly renewal
	worst, total := time.Duration(0), map[string]int{}
	for range 24 * 5 { // five days, a command for the good one each hour
		for k, n := range b.pass(t, time.Hour, 5*time.Minute) {
			total[k] += n
		}
		b.queue(t, good)
		queued, took := b.now, false
		for range 400 {
			if _, err := b.Work(ctx); err != nil {
				t.Fatal(err)
			}
			for _, s := range strings.Fields(b.apple.took()) {
				total[s]++
				took = took || s == "good"
			}
			if took {
				break
			}
			b.now = b.now.Add(5 * time.Second)
		}
		worst = max(worst, b.now.Sub(queued))
		b.polls(t, good, mdm.Acknowledged)
	}
	alarms := strings.Count(b.events(t), "push.failing")
	t.Logf("alarms (first 100 events): %d, pushes of bad00: %d, worst wait of good: %s", alarms, total["bad00"], worst)
	if worst > time.Minute {
		t.Errorf("a command of a good device waited %s for its first push", worst)
	}
	if alarms > 3 {
		t.Errorf("%d alarms", alarms)
	}
	if total["bad00"] > 30 {
		t.Errorf("a device that Apple always refuses was pushed %d times in five days", total["bad00"])
	}
}

func TestOneBadDeviceRestsNoTopic(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, what := range map[string]func(b *bench){
		"renewal": func(b *bench) { b.certs[topic] = "two"; b.work(t, "bad") },
		"network": func(b *bench) {
			b.now = b.now.Add(34 * time.Minute)
			b.answersOnce(apns.Result{Outcome: apns.Retry, Reason: apns.ReasonTransport, Whole: true}, badOnes)
			b.work(t, "bad")
			b.now = b.now.Add(3 * time.Second)
			b.work(t, "bad")
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.device(t, "bad")
			good := b.device(t, "good")
			b.some(badOnes)
			b.queue(t, "bad", good)
			b.work(t, "bad good")
			b.polls(t, good, mdm.Acknowledged)
			b.now = b.now.Add(time.Minute)
			what(b)
			b.now = b.now.Add(time.Second)
			b.queue(t, good)
			queued := b.now
			for b.pass(t, time.Second, time.Second)["good"] == 0 {
			}
			if d := b.now.Sub(queued); d > 25*time.Second {
				t.Errorf("the good device was pushed after %s", d)
			}
		})
		t.Run(name+", a day later", func(t *testing.T) {
			b := newBench(t)
			b.device(t, "bad")
			good := b.device(t, "good")
			b.some(badOnes)
			b.queue(t, "bad", good)
			b.work(t, "bad good")
			b.polls(t, good, mdm.Acknowledged)
			b.now = b.now.Add(time.Minute)
			what(b)
			worst := time.Duration(0)
			for range 200 { // a quiet fleet: only the bad one has commands
				b.now = b.now.Add(10 * time.Minute)
				if _, err := b.Work(ctx); err != nil {
					t.Fatal(err)
				}
				b.apple.took()
				if p := b.trouble(t); p.PausedUntil.After(b.now) {
					worst = max(worst, p.PausedUntil.Sub(b.now))
				}
			}
			if worst > time.Minute {
				t.Errorf("all of the topic were paused, for up to %s, because of one device", worst)
			}
		})
	}
}

func (b *bench) answersOnce(r apns.Result, then func(string) apns.Result) {
	b.apple.mu.Lock()
	defer b.apple.mu.Unlock()
	b.apple.answer = func(token string) apns.Result {
		b.apple.mu.Lock()
		defer b.apple.mu.Unlock()
		b.apple.answer = then
		return r
	}
}

func TestACertificateIsChangedWhileItIsRefused(t *testing.T) {
	b := newBench(t)
	a := b.device(t, "a")
	b.apple.answers(apns.Result{Outcome: apns.Refused, Status: 403, Reason: "BadCertificate", Whole: true})
	b.apple.during = func() { b.certs[topic] = "two" }
	b.queue(t, a)
	b.work(t, "a a")
}

func TestAPushThatIsAskedForHasAnEnd(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, r := range map[string]apns.Result{
		"410":            {Outcome: apns.TokenInvalid, Status: 410, Reason: "Unregistered"},
		"BadDeviceToken": badToken,
		"our own fault":  {Outcome: apns.Refused, Status: 400, Reason: "PayloadEmpty", Ours: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.device(t, "a")
			b.apple.answers(r)
			if _, err := b.PushNow(ctx, []mdm.DeviceID{"a"}); err != nil {
				t.Fatal(err)
			}
			b.pass(t, 30*24*time.Hour, time.Hour)
			n := b.pass(t, 60*24*time.Hour, time.Hour)["a"]
			if n > 0 {
				t.Errorf("from day 30 to 90 it was pushed %d times; events: %s", n, b.events(t))
			}
		})
	}
}

func TestAnOutageIsNotCountedAgainstDevices(t *testing.T) {
	storagetest.AnyEngine(t)
	b := newBench(t)
	a, c := b.device(t, "a"), b.device(t, "c")
	b.apple.answers(apns.Result{Outcome: apns.Retry, Reason: apns.ReasonTransport, Whole: true})
	b.queue(t, a, c)
	b.pass(t, 20*time.Minute, time.Second)
	// Apple is back, and for one device there is one 503.
	failed, ok := map[string]bool{}, false
	b.some(func(token string) apns.Result {
		if token == "a" {
			ok = true
		}
		if token == "c" && !ok { // still out
			return apns.Result{Outcome: apns.Retry, Reason: apns.ReasonTransport, Whole: true}
		}
		if token == "c" && !failed[token] {
			failed[token] = true
			return apns.Result{Outcome: apns.Retry, Status: 503, Reason: "ServiceUnavailable", Whole: true}
		}
		return sent
	})
	for !failed["c"] {
		b.pass(t, time.Second, time.Second)
	}
	start := b.now
	for b.now.Sub(start) < time.Hour && b.pass(t, time.Second, time.Second)["c"] == 0 {
	}
	if b.now.Sub(start) > 25*time.Second {
		t.Errorf("the push that one 503 kept was retried after more than %s, CONTRACT says 25 s", b.now.Sub(start))
	}
}

func TestTheClockStepsBack(t *testing.T) {
	b := newBench(t)
	a := b.device(t, "a")
	b.queue(t, a)
	b.work(t, "a")
	b.polls(t, a, mdm.Acknowledged)
	b.now = b.now.Add(-5 * time.Second)
	b.queue(t, a)
	if d := b.until(t, "a", 2*time.Hour); d > 30*time.Second {
		t.Errorf("after a step back of 5 s the next command was pushed after %s", d)
	}
}

func TestAClaimByAClockThatWasAhead(t *testing.T) {
	b := newBench(t)
	a := b.device(t, "a")
	b.queue(t, a)
	b.now = b.now.Add(24 * time.Hour) // wrong
	if err := b.TakeAndDie(ctx); err != nil {
		t.Fatal(err)
	}
	b.now = b.now.Add(-24 * time.Hour) // put right
	b.queue(t, a)
	if d := b.until(t, "a", time.Hour); d > 30*time.Second {
		t.Errorf("pushed after %s", d)
	}
}

func TestACommandPushedByHandIsPushedTwiceAtMost(t *testing.T) {
	b := newBench(t)
	a := b.device(t, "a")
	b.queue(t, a)
	b.now = b.now.Add(10 * time.Millisecond)
	if _, err := b.PushNow(ctx, []mdm.DeviceID{a}); err != nil { // as webui/compat does after it queued
		t.Fatal(err)
	}
	n := len(strings.Fields(b.apple.took())) + b.pass(t, 10*24*time.Hour, 10*time.Minute)["a"]
	if n > 2 {
		t.Errorf("pushed %d times, want two at most", n)
	}
}

func TestManyCommandsForOneKeepNobodyElse(t *testing.T) {
	b := newBench(t)
	a, c := b.device(t, "a"), b.device(t, "c")
	b.queue(t, a)
	b.work(t, "a")
	b.now = b.now.Add(100 * time.Millisecond)
	for range 600 {
		b.queue(t, a)
	}
	b.queue(t, c)
	b.work(t, "c") // the bench's Work goes on as long as Run does not wait
}

func TestTopicsThatNobodyUsesAreForgotten(t *testing.T) {
	b := newBench(t)
	b.apple.answers(apns.Result{Outcome: apns.Refused, Reason: apns.ReasonNoCertificate, Whole: true})
	a := b.device(t, "a")
	b.queue(t, a)
	for i := range 30 {
		b.update(t, func(tx storage.Tx) error {
			d, err := mdm.GetDevice(tx, a)
			if err != nil {
				return err
			}
			d.Push = &mdm.Push{Topic: fmt.Sprintf("made.up.%d", i), Token: []byte("a"), Magic: "magic", ToldAt: b.now}
			if err := mdm.PutDevice(tx, d); err != nil {
				return err
			}
			return b.mdm.Reachable(tx, d)
		})
		if _, err := b.Work(ctx); err != nil {
			t.Fatal(err)
		}
	}
	b.polls(t, a, mdm.Acknowledged)
	b.pass(t, 10*24*time.Hour, time.Hour)
	n, troubled := 0, 0
	b.update(t, func(tx storage.Tx) error {
		n, troubled = 0, 0
		for p, err := range mdm.AllPushing(tx) {
			if err != nil {
				return err
			}
			n++
			if p.Trouble != "" {
				troubled++
			}
		}
		return nil
	})
	if troubled > 0 {
		t.Errorf("one device made %d topics, %d of them in trouble ten days after it has nothing to be woken for; alarms: %d", n, troubled, strings.Count(b.events(t), "push.failing"))
	}
}

func TestTroubleEndsWithTheLastDeviceOfItsTopic(t *testing.T) {
	b := newBench(t)
	delete(b.certs, topic)
	b.apple.answers(apns.Result{Outcome: apns.Refused, Reason: apns.ReasonNoCertificate, Whole: true})
	a := b.device(t, "a")
	b.queue(t, a)
	if _, err := b.Work(ctx); err != nil {
		t.Fatal(err)
	}
	b.certs["new"] = "one"
	b.apple.answers(sent)
	b.update(t, func(tx storage.Tx) error { // it enrols again under the new topic
		d, err := mdm.GetDevice(tx, a)
		if err != nil {
			return err
		}
		d.Push = &mdm.Push{Topic: "new", Token: []byte("a"), Magic: "magic", ToldAt: b.now}
		if err := mdm.PutDevice(tx, d); err != nil {
			return err
		}
		return b.mdm.Reachable(tx, d)
	})
	b.pass(t, 10*24*time.Hour, time.Hour)
	if p := b.trouble(t); p.Trouble != mdm.NoPushTrouble || !p.RefusedAt.IsZero() {
		t.Errorf("ten days after the last device left the topic: %q, %s", p.Trouble, p.Sentence())
	}
}

func TestExpiredCommandsHideNone(t *testing.T) {
	b := newBench(t)
	a := b.device(t, "a")
	for range 100 {
		b.queueAs(t, mdm.NewCommand{Targets: []mdm.DeviceID{a}, ExpiresIn: time.Minute, NoPush: true})
	}
	b.now = b.now.Add(time.Minute)
	b.queue(t, a)
	b.work(t, "a")
}

func TestANewTokenAfterThePushToTheOldOne(t *testing.T) {
	b := newBench(t)
	a := b.device(t, "a")
	b.queue(t, a)
	b.work(t, "a") // Apple takes pushes to old tokens for a while
	b.now = b.now.Add(time.Minute)
	b.tokenUpdate(t, a, "new")
	if d := b.until(t, "new", 3*time.Hour); d > time.Minute {
		t.Errorf("the new token was pushed %s after it was told", d)
	}
}

func TestANewTokenWhileTheOldOneIsRefused(t *testing.T) {
	b := newBench(t)
	a := b.device(t, "bad")
	b.some(badOnes)
	b.apple.during = func() { b.tokenUpdate(t, a, "new") }
	b.queue(t, a)
	if _, err := b.Work(ctx); err != nil {
		t.Fatal(err)
	}
	b.apple.during = nil
	if b.apple.took() == "bad new" {
		return
	}
	if d := b.until(t, "new", 3*time.Hour); d > time.Minute {
		t.Errorf("the new token was pushed %s after it was told", d)
	}
}

func TestATokenWakesForNothingThatIsNotToWake(t *testing.T) {
	for name, c := range map[string]mdm.NewCommand{"NoPush": {NoPush: true}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			a := b.device(t, "a")
			c.Targets = []mdm.DeviceID{a}
			b.queueAs(t, c)
			b.work(t, "")
			b.tokenUpdate(t, a, "a")
			b.work(t, "")
		})
	}
}

func TestADeadTokenIsReplaced(t *testing.T) {
	b := newBench(t)
	a := b.device(t, "a")
	b.apple.answers(apns.Result{Outcome: apns.TokenInvalid, Status: 410, Reason: "Unregistered"})
	b.queue(t, a)
	b.work(t, "a")
	b.apple.answers(sent)
	b.update(t, func(tx storage.Tx) error {
		d, err := mdm.GetDevice(tx, a)
		if err != nil {
			return err
		}
		d.Push = &mdm.Push{Topic: topic, Token: []byte("new"), Magic: "magic"}
		return mdm.PutDevice(tx, d)
	})
	n := b.pass(t, 30*24*time.Hour, time.Hour)
	if n["new"] == 0 {
		w, _ := b.wakeup(t, a)
		t.Errorf("in thirty days it was not pushed: %s; the API says %q: %s", w.State, b.status(t, a).State, b.status(t, a).Sentence)
	}
}

func TestPushesByHandRestNoTopic(t *testing.T) {
	b := newBench(t)
	b.device(t, "bad")
	good := b.device(t, "good")
	b.some(badOnes)
	b.queue(t, "bad", good)
	b.work(t, "bad good")
	b.polls(t, good, mdm.Acknowledged)
	b.now = b.now.Add(time.Minute)
	b.certs[topic] = "two"
	b.work(t, "bad")
	b.queue(t, good)
	for i := range 24 * 6 { // a script asks for the bad one every ten minutes, for a day
		if _, err := b.PushNow(ctx, []mdm.DeviceID{"bad"}); err != nil {
			t.Fatal(err)
		}
		b.apple.took()
		if b.pass(t, 10*time.Minute, time.Minute)["good"] > 0 {
			if i > 0 {
				t.Errorf("the good device was pushed after %d minutes", i*10)
			}
			return
		}
	}
	t.Errorf("in a day the good device was not pushed; topic: %+v", b.trouble(t))
}

func TestHiccupsAreNoAlarms(t *testing.T) {
	storagetest.AnyEngine(t)
	b := newBench(t)
	b.device(t, "bad")
	good := b.device(t, "good")
	b.some(badOnes)
	b.queue(t, "bad", good)
	b.work(t, "bad good")
	for range 6 {
		b.polls(t, good, mdm.Acknowledged)
		b.now = b.now.Add(3 * time.Hour)
		b.queue(t, good)
		b.answersOnce(apns.Result{Outcome: apns.Retry, Reason: apns.ReasonTransport, Whole: true}, badOnes)
		b.pass(t, 10*time.Minute, time.Second)
		b.pass(t, 24*time.Hour, 10*time.Minute)
	}
	if e := b.events(t); strings.Count(e, "push.failing") > 2 {
		t.Errorf("one device is refused, all along; alarms: %s", e)
	}
}

func TestATokenDiesOnce(t *testing.T) {
	b := newBench(t)
	a := b.device(t, "a")
	b.apple.answers(apns.Result{Outcome: apns.TokenInvalid, Status: 410, Reason: "Unregistered"})
	for range 10 {
		b.now = b.now.Add(time.Minute)
		b.queueAs(t, mdm.NewCommand{Targets: []mdm.DeviceID{a}, PushAfter: 10 * time.Second})
		if _, err := b.PushNow(ctx, []mdm.DeviceID{a}); err != nil { // as webui/compat does
			t.Fatal(err)
		}
	}
	if n := strings.Count(b.events(t), "device.push_token_dead"); n > 1 {
		t.Errorf("the token died once, and is told to have died %d times", n)
	}
}

func TestWhatIsSaidOfARefusal(t *testing.T) {
	b := newBench(t)
	a := b.device(t, "a")
	b.apple.answers(apns.Result{Outcome: apns.TokenInvalid, Status: 410, Reason: "Unregistered", Timestamp: b.now.Add(-2 * time.Hour)})
	b.queue(t, a)
	b.work(t, "a")
	if st := b.status(t, a); strings.Contains(st.Sentence, "don’t belong together") {
		t.Errorf("Apple said that the token was dead before the device told it; the API says %q", st.Sentence)
	}

	b.device(t, "bad")
	b.some(badOnes)
	b.queue(t, "bad")
	b.pass(t, 30*24*time.Hour, time.Hour)
	st := b.status(t, "bad")
	if !strings.Contains(st.Sentence, "BadDeviceToken") {
		t.Errorf("Apple refused every push; the API says %s: %q", st.State, st.Sentence)
	}
	list, _, err := b.mdm.DeviceCommands(ctx, "bad", "", 10)
	if err != nil {
		t.Fatal(err)
	}
	waits, err := b.mdm.Waits(ctx, list)
	if err != nil {
		t.Fatal(err)
	}
	if waits[0].Code != mdm.WaitsForPush {
		t.Errorf("and why its command waits is %s: %q", waits[0].Code, waits[0].Reason)
	}
}

func TestACommandCommittedAfterThePush(t *testing.T) {
	if os.Getenv("GATEHOUSE_TEST_STORE") != "postgres" {
		t.Skip("two transactions at a time need PostgreSQL")
	}
	b := newBench(t)
	a := b.device(t, "a")
	slow := mdm.NewCommand{UUID: "slow", RequestType: "ProfileList", Targets: []mdm.DeviceID{a}}
	slow.Plist = []byte(`<plist version="1.0"><dict><key>Command</key><dict><key>RequestType</key><string>ProfileList</string></dict><key>CommandUUID</key><string>slow</string></dict></plist>`)
	runs := 0
	b.update(t, func(tx storage.Tx) error {
		if _, _, err := b.mdm.Queue(tx, slow); err != nil {
			return err
		}
		if runs++; runs != 2 { // the first run is storagetest's, and thrown away
			return nil
		}
		done := make(chan struct{})
		go func() { // before it commits
			defer close(done)
			b.now = b.now.Add(50 * time.Millisecond)
			b.queue(t, a)
			b.now = b.now.Add(50 * time.Millisecond)
			b.work(t, "a")
			b.now = b.now.Add(50 * time.Millisecond)
			b.polls(t, a, mdm.Acknowledged)
		}()
		<-done
		return nil
	})
	b.now = b.now.Add(50 * time.Millisecond)
	if d := b.until(t, "a", 2*time.Hour); d > 30*time.Second {
		t.Errorf("the slow command was pushed after %s", d)
	}
}

func TestATokenAndACommandAtOnce(t *testing.T) {
	if os.Getenv("GATEHOUSE_TEST_STORE") != "postgres" {
		t.Skip("two transactions at a time need PostgreSQL")
	}
	for name, before := range map[string]func(d *mdm.Device){
		"no token yet": func(d *mdm.Device) { d.Push = nil },
		"a dead token": func(d *mdm.Device) { d.Push.DeadAt = d.Push.ToldAt.Add(time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			a := b.device(t, "a", before)
			runs := 0
			b.update(t, func(tx storage.Tx) error { // as enroll's TokenUpdate
				d, err := mdm.GetDevice(tx, a)
				if err != nil {
					return err
				}
				d.Push = &mdm.Push{Topic: topic, Token: []byte("new"), Magic: "magic", ToldAt: b.now}
				if runs++; runs == 2 {
					done := make(chan struct{})
					go func() {
						defer close(done)
						b.queue(t, a)
						b.work(t, "")
					}()
					<-done
				}
				if err := mdm.PutDevice(tx, d); err != nil {
					return err
				}
				return b.mdm.Reachable(tx, d)
			})
			n := b.passTo(t, 10*24*time.Hour)
			w, ok := b.wakeup(t, a)
			if n == 0 {
				t.Errorf("in ten days the device, enrolled, with a token that lives and a command that waits, was pushed never; wake-up %v %s", ok, w.State)
			}
		})
	}
}

func (b *bench) passTo(t testing.TB, d time.Duration) (n int) {
	t.Helper()
	for end := b.now.Add(d); b.now.Before(end); {
		b.now = b.now.Add(time.Hour)
		if _, err := b.Work(ctx); err != nil {
			t.Fatal(err)
		}
		if b.apple.took() != "" {
			n++
		}
	}
	return n
}

func TestADeviceThatMovedIsPushedByItsNewTopic(t *testing.T) {
	b := newBench(t)
	delete(b.certs, topic)
	b.certs["new"] = "one"
	var all []mdm.DeviceID
	for i := range 60 {
		all = append(all, b.device(t, fmt.Sprintf("old%02d", i)))
	}
	x := b.device(t, "x")
	b.some(func(token string) apns.Result {
		if token == "moved" {
			return sent
		}
		return apns.Result{Outcome: apns.Refused, Reason: apns.ReasonNoCertificate, Whole: true}
	})
	b.queue(t, append(all, x)...)
	if _, err := b.Work(ctx); err != nil {
		t.Fatal(err)
	}
	b.polls(t, x, mdm.Acknowledged) // it came by itself and has all
	b.update(t, func(tx storage.Tx) error {
		d, err := mdm.GetDevice(tx, x)
		if err != nil {
			return err
		}
		d.Push = &mdm.Push{Topic: "new", Token: []byte("moved"), Magic: "magic", ToldAt: b.now}
		if err := mdm.PutDevice(tx, d); err != nil {
			return err
		}
		return b.mdm.Reachable(tx, d)
	})
	b.now = b.now.Add(time.Second)
	b.apple.took()
	b.queue(t, x)
	queued := b.now
	for b.now.Sub(queued) < 5*time.Hour {
		if b.pass(t, 5*time.Second, 5*time.Second)["moved"] > 0 {
			break
		}
	}
	if d := b.now.Sub(queued); d > time.Minute {
		t.Errorf("by a topic whose certificate is good the device was pushed after %s", d)
	}
}

func TestWhatIsGivenUpStaysSo(t *testing.T) {
	storagetest.AnyEngine(t)
	b := newBench(t)
	b.device(t, "bad")
	b.some(badOnes)
	b.queue(t, "bad")
	b.pass(t, 30*24*time.Hour, time.Hour)
	n := b.pass(t, 150*24*time.Hour, time.Hour)["bad"]
	if e := b.events(t); n > 0 || strings.Count(e, "push.failing") > 1 {
		t.Errorf("one device that Apple always refuses: pushed %d times from day 30 to 180 (it is to be given up after 14); alarms: %s", n, e)
	}
}

func TestOneBadDeviceMasksNoFleet(t *testing.T) {
	b := newBench(t)
	b.device(t, "bad")
	var all []mdm.DeviceID
	for i := range 20 {
		all = append(all, b.device(t, fmt.Sprintf("g%02d", i)))
	}
	b.some(badOnes)
	b.queue(t, "bad", "g00")
	b.work(t, "bad g00")
	b.pass(t, 24*time.Hour, time.Hour)
	before := b.events(t)
	b.answersAll(badToken.Reason)
	b.queue(t, all...)
	if _, err := b.Work(ctx); err != nil {
		t.Fatal(err)
	}
	if p := b.trouble(t); p.PausedUntil.IsZero() {
		t.Fatal("the topic is not paused")
	}
	if after := b.events(t); after == before {
		t.Errorf("all of the topic is refused and paused now, and nothing was told: %s", after)
	}
}

func (b *bench) answersAll(string) { b.apple.answers(badToken) }

func TestATopicIsNotForgottenWhileADeviceIsFiled(t *testing.T) {
	if os.Getenv("GATEHOUSE_TEST_STORE") != "postgres" {
		t.Skip("two transactions at a time need PostgreSQL")
	}
	b := newBench(t)
	first := b.device(t, "first")
	a := b.device(t, "a", func(d *mdm.Device) { d.Push = nil })
	b.queue(t, a)
	b.work(t, "") // its TokenUpdate is to call it
	b.apple.answers(apns.Result{Outcome: apns.Retry, Reason: apns.ReasonTransport, Whole: true})
	b.queue(t, first)
	b.work(t, "first")
	b.polls(t, first, mdm.Acknowledged)
	b.apple.answers(sent)
	runs := 0
	b.now = b.now.Add(time.Hour)
	b.update(t, func(tx storage.Tx) error { // a's TokenUpdate
		d, err := mdm.GetDevice(tx, a)
		if err != nil {
			return err
		}
		d.Push = &mdm.Push{Topic: topic, Token: []byte("a"), Magic: "magic", ToldAt: b.now}
		if err := mdm.PutDevice(tx, d); err != nil {
			return err
		}
		if err := b.mdm.Reachable(tx, d); err != nil {
			return err
		}
		if runs++; runs == 2 {
			done := make(chan struct{})
			go func() {
				defer close(done)
				b.work(t, "")
				b.now = b.now.Add(time.Hour)
				b.work(t, "")
			}()
			<-done
		}
		return nil
	})
	n := 0
	for range 10 * 24 {
		b.now = b.now.Add(time.Hour)
		if _, err := b.Work(ctx); err != nil {
			t.Fatal(err)
		}
		if b.apple.took() != "" {
			n++
		}
	}
	if n == 0 {
		w, ok := b.wakeup(t, a)
		t.Errorf("in ten days the device was pushed never; wake-up %v %s of topic %s", ok, w.State, w.Topic)
	}
}

func TestADozenBadDevicesKeepNobodyElse(t *testing.T) {
	storagetest.AnyEngine(t)
	b := newBench(t)
	var bad []mdm.DeviceID
	for i := range 12 {
		bad = append(bad, b.device(t, fmt.Sprintf("bad%02d", i)))
	}
	good := b.device(t, "good")
	b.some(badOnes)
	b.queue(t, bad...)
	worst := time.Duration(0)
	for range 24 * 60 {
		b.now = b.now.Add(time.Minute)
		if _, err := b.Work(ctx); err != nil {
			t.Fatal(err)
		}
		if p := b.trouble(t); p.PausedUntil.Sub(b.now) > worst {
			worst = p.PausedUntil.Sub(b.now)
			if worst > 10*time.Minute {
				break
			}
		}
	}
	b.apple.took()
	b.queue(t, good)
	queued := b.now
	for b.now.Sub(queued) < 2*time.Hour {
		if b.pass(t, 5*time.Second, 5*time.Second)["good"] > 0 {
			break
		}
	}
	if d := b.now.Sub(queued); d > time.Minute {
		t.Errorf("a good device's command was pushed after %s", d)
	}
}
