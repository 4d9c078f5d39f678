package webhook_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/webhook"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

func TestAMessageIsDeliveredOnceAndForgotten(t *testing.T) {
	h := newHouse(t)
	r := newReceiver(t)
	target := h.target(t, webhook.NanoMDM, r.URL)
	h.hear(t, acknowledged("mac", "C-1"))
	h.settle(t)
	h.settle(t)
	e := checkNano(t, r.got()[0].body)
	if *e.AcknowledgeEvent.CommandUuid != "C-1" || len(r.got()) != 1 {
		t.Errorf("%d requests, the first %s", len(r.got()), r.got()[0].body)
	}
	all := h.deliveries(t, target.ID, "")
	if len(all) != 1 || all[0].State != webhook.Delivered || len(all[0].Attempts) != 1 || all[0].Attempts[0].Status != 200 || all[0].ID != r.got()[0].header.Get("webhook-id") {
		t.Fatalf("the log says %+v", all)
	}
	if got := h.bodies(t); got != 0 {
		t.Errorf("%d bodies are still kept", got)
	}
	if _, err := h.Redeliver(t.Context(), "ana", target.ID, all[0].ID); !errors.Is(err, webhook.ErrGone) {
		t.Errorf("redeliver: %v, want ErrGone", err)
	}
}

// bodies counts what is kept of deliveries.
func (h *house) bodies(t testing.TB) (n int) {
	t.Helper()
	err := h.db.View(context.Background(), func(tx storage.Tx) error {
		n = 0
		for _, err := range tx.Scan("webhook.body", storage.Range{}) {
			if err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWhatWaitsIsSealed(t *testing.T) {
	h := newHouse(t)
	h.target(t, webhook.NanoMDM, "http://127.0.0.1:1", withRaw, func(c *webhook.Change) {
		c.Headers = &map[string]string{"Authorization": sentinelText}
	})
	m := connect("DeviceLock", "<key>PIN</key><string>"+sentinelText+"</string>")
	m.Device = someDevice("mac")
	h.hear(t, m)
	h.settle(t)
	err := h.db.View(t.Context(), func(tx storage.Tx) error {
		buckets, err := tx.Buckets()
		if err != nil {
			return err
		}
		for _, bucket := range buckets {
			for item, err := range tx.Scan(bucket, storage.Range{}) {
				if err != nil {
					return err
				}
				if findSentinel(item.Value) != "" {
					t.Errorf("%s holds the secret: %s", bucket, item.Value)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestATakenEventCanBeSaidAgain(t *testing.T) {
	h := newHouse(t)
	r := newReceiver(t)
	target := h.target(t, webhook.CloudEvents, r.URL, withEvents("device."))
	h.happen(t, event.Event{Action: "device.enrolled", DeviceID: "mac"})
	h.settle(t)
	d := h.deliveries(t, target.ID, "")[0]
	if _, err := h.Redeliver(t.Context(), "ana", target.ID, d.ID); err != nil {
		t.Fatal(err)
	}
	h.settle(t)
	got := r.got()
	if len(got) != 2 || string(got[0].body) != string(got[1].body) || got[0].header.Get("webhook-id") != got[1].header.Get("webhook-id") {
		t.Errorf("%d requests", len(got))
	}
}

// TestALoneFailureIsTriedAsTheLadderSays has everything else taken, so that the target as
// such is well.
func TestALoneFailureIsTriedAsTheLadderSays(t *testing.T) {
	h := newHouse(t)
	r := newReceiver(t)
	target := h.target(t, webhook.NanoMDM, r.URL)
	var tried []time.Duration
	r.answers(func(w http.ResponseWriter, p post) {
		if strings.Contains(string(p.body), "C-poison") {
			tried = append(tried, h.now().Sub(noon))
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, "I can't read this")
		}
	})
	h.hear(t, acknowledged("bad", "C-poison"))
	for range 100 {
		h.hear(t, acknowledged("good", "C-1"))
		h.settle(t)
		waiting := h.deliveries(t, target.ID, webhook.Pending)
		if len(waiting) == 0 {
			break
		}
		h.pass(waiting[0].Due.Sub(h.now()))
	}
	for i, want := range []time.Duration{0, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour, 6 * time.Hour} {
		got := tried[0]
		if i > 0 {
			got = tried[i] - tried[i-1]
		}
		if got < want*4/5 || got > want*6/5+time.Second {
			t.Errorf("try %d came %v after the one before, want about %v", i+1, got, want)
		}
	}
	if last := tried[len(tried)-1]; last > webhook.GiveUp || last < webhook.GiveUp-8*time.Hour {
		t.Errorf("the last try came after %v", last)
	}
	d := h.deliveries(t, target.ID, webhook.Dead)[0]
	if h.AnswerOf(d) != "I can't read this" || d.Made != len(tried) || d.Attempts[0].Step != webhook.StepStatus {
		t.Errorf("the log says %+v, answer %q", d, h.AnswerOf(d))
	}
	if got := h.recorded(t, "webhook."); !slices.Equal(got, []string{"webhook.created", "webhook.gave_up"}) {
		t.Errorf("the audit log says %v", got)
	}

	// It is not lost.
	r.status(http.StatusOK)
	n, err := h.RedeliverDead(t.Context(), "ana", target.ID)
	if err != nil || n != 1 {
		t.Fatalf("redeliver: %d, %v", n, err)
	}
	h.settle(t)
	if left := h.deliveries(t, target.ID, webhook.Dead); len(left) != 0 || h.bodies(t) != 0 {
		t.Errorf("%d are still dead, %d bodies kept", len(left), h.bodies(t))
	}
}

func TestATargetThatFailsIsProbedAndTellsOnce(t *testing.T) {
	h := newHouse(t)
	r := newReceiver(t)
	target := h.target(t, webhook.NanoMDM, r.URL)
	r.status(http.StatusInternalServerError)
	const waiting = 20
	for i := range waiting {
		h.hear(t, acknowledged(fmt.Sprintf("mac%d", i), "C-1"))
	}
	h.settle(t)
	if n := len(r.got()); n > 16 {
		t.Errorf("a target that fails got %d requests at once", n)
	}
	began := len(r.got())
	for range 60 {
		h.pass(2 * time.Minute)
		h.settle(t)
	}
	if n := len(r.got()) - began; n < 10 || n > 30 {
		t.Errorf("%d requests in two hours, want one about every ten minutes", n)
	}
	st, err := h.Standing(t.Context(), target.ID, 1000)
	if err != nil || st.Waiting != waiting || !st.Oldest.Equal(noon) || !st.FailingSince.Equal(noon) || st.LastError != "the target answered 500 Internal Server Error" {
		t.Errorf("standing %+v, %v", st, err)
	}
	if got := h.recorded(t, "webhook."); !slices.Equal(got, []string{"webhook.created", "webhook.failing"}) {
		t.Errorf("the audit log says %v", got)
	}

	r.status(http.StatusNoContent)
	tested, err := h.Test(t.Context(), target.ID)
	if err != nil || !tested.OK || tested.Status != http.StatusNoContent {
		t.Fatalf("test: %+v, %v", tested, err)
	}
	h.pass(6 * time.Hour) // what stood aside has its own time
	h.settle(t)
	if left := h.deliveries(t, target.ID, webhook.Pending); len(left) != 0 {
		t.Errorf("%d are left", len(left))
	}
	if got := h.recorded(t, "webhook.recovered"); len(got) != 1 {
		t.Errorf("the audit log says %v", got)
	}
}

func TestAPoisonedDeliveryBlocksNobodyForEver(t *testing.T) {
	h := newHouse(t)
	r := newReceiver(t)
	h.target(t, webhook.NanoMDM, r.URL)
	var taken []string
	r.answers(func(w http.ResponseWriter, p post) {
		e := checkNano(t, p.body)
		if uuid := *e.AcknowledgeEvent.CommandUuid; uuid == "A-1" {
			w.WriteHeader(http.StatusInternalServerError)
		} else {
			taken = append(taken, uuid)
		}
	})
	h.hear(t, acknowledged("a", "A-1"))
	h.settle(t)
	h.pass(time.Millisecond)
	h.hear(t, acknowledged("a", "A-2"))
	h.hear(t, acknowledged("b", "B-1"))
	h.settle(t)
	if !slices.Equal(taken, []string{"B-1"}) {
		t.Errorf("taken %v: another device must not wait, and its own must", taken)
	}
	for range 3 {
		h.pass(time.Minute)
		h.settle(t)
	}
	if !slices.Equal(taken, []string{"B-1", "A-2"}) {
		t.Errorf("taken %v: after some tries it steps aside", taken)
	}
}

func TestGoneSwitchesOff(t *testing.T) {
	h := newHouse(t)
	r := newReceiver(t)
	target := h.target(t, webhook.NanoMDM, r.URL)
	r.status(http.StatusGone)
	h.hear(t, acknowledged("mac", "C-1"))
	h.settle(t)
	h.hear(t, acknowledged("mac", "C-2")) // not written down any more
	h.pass(time.Hour)
	h.settle(t)
	got, err := h.Target(t.Context(), target.ID)
	if err != nil || got.Enabled || got.DisabledWhy != "gone" || len(r.got()) != 1 || len(h.deliveries(t, target.ID, "")) != 1 {
		t.Errorf("%+v after %d requests, %v", got, len(r.got()), err)
	}
	if got := h.recorded(t, "webhook."); !slices.Equal(got, []string{"webhook.created", "webhook.disabled"}) {
		t.Errorf("the audit log says %v", got)
	}
	r.status(http.StatusOK)
	if got, err = h.Update(t.Context(), "ana", target.ID, webhook.Change{Enabled: ptr(true)}); err != nil || got.DisabledWhy != "" {
		t.Fatalf("%+v, %v", got, err)
	}
	h.settle(t)
	if len(r.got()) != 2 {
		t.Errorf("what waited was not sent")
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"120":                           2 * time.Minute,
		"Sun, 22 Nov 2026 12:20:00 GMT": 20 * time.Minute,
		"86400":                         time.Hour, // as long as anybody may ask
		"soon":                          0,
		"-5":                            0,
	} {
		t.Run(value, func(t *testing.T) {
			h := newHouse(t)
			r := newReceiver(t)
			h.target(t, webhook.NanoMDM, r.URL)
			r.answers(func(w http.ResponseWriter, _ post) {
				w.Header().Set("Retry-After", value)
				w.WriteHeader(http.StatusTooManyRequests)
			})
			h.hear(t, acknowledged("mac", "C-1"))
			h.settle(t)
			r.status(http.StatusOK)
			if want > 0 {
				h.hear(t, acknowledged("other", "C-1")) // the target asked for rest from all
				h.pass(want - time.Second)
				h.settle(t)
				if n := len(r.got()); n != 1 {
					t.Errorf("%d requests before the time", n)
				}
			}
			h.pass(10 * time.Second)
			h.settle(t)
			if n := len(r.got()); n < 2 {
				t.Errorf("%d requests after the time", n)
			}
		})
	}
}

// TestReceiversThatMisbehave has each cost its own lane only, and say where it failed.
func TestReceiversThatMisbehave(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	receivers := map[string]struct {
		url  func(t *testing.T) string
		step webhook.Step
	}{
		"it hangs": {serve(func(w http.ResponseWriter, r *http.Request) {
			<-hang
		}), webhook.StepTimeout},
		"its answer does not end": {serve(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			w.(http.Flusher).Flush()
			<-hang
		}), webhook.StepTimeout},
		"its answer has 100 MB": {serve(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			for range 100 << 4 {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
			t.Error("100 MB were read")
		}), webhook.StepStatus},
		"it sends elsewhere": {serve(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				t.Error("a redirect was followed")
			}
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}), webhook.StepRedirect},
		"it resets the connection": {serve(func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = conn.(*net.TCPConn).SetLinger(0)
				conn.Close()
			}
		}), webhook.StepExchange},
		"nobody listens": {func(*testing.T) string { return "http://127.0.0.1:1" }, webhook.StepConnect},
		"its certificate is nobody's": {func(t *testing.T) string {
			srv := httptest.NewUnstartedServer(http.NotFoundHandler())
			srv.Config.ErrorLog = log.New(io.Discard, "", 0) // says what the test is about
			srv.StartTLS()
			t.Cleanup(srv.Close)
			return srv.URL
		}, webhook.StepTLS},
		"it has no TLS": {func(t *testing.T) string {
			return strings.Replace(serve(func(http.ResponseWriter, *http.Request) {})(t), "http:", "https:", 1)
		}, webhook.StepTLS},
	}
	for name, tt := range receivers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, func(c *webhook.Config) {
				if tt.step == webhook.StepTimeout {
					c.Patience = 300 * time.Millisecond
				}
			})
			target := h.target(t, webhook.NanoMDM, tt.url(t))
			tested, err := h.Test(t.Context(), target.ID)
			if err != nil || tested.OK || tested.Step != tt.step || tested.Error == "" {
				t.Errorf("test: %+v, %v, want step %s", tested, err, tt.step)
			}
			if len(tested.Answer) > 1<<10 {
				t.Errorf("%d bytes of the answer are kept", len(tested.Answer))
			}
			h.hear(t, acknowledged("mac", "C-1"))
			h.settle(t)
			d := h.deliveries(t, target.ID, webhook.Pending)
			if len(d) != 1 || d[0].Attempts[0].Step != tt.step {
				t.Errorf("the log says %+v", d)
			}
		})
	}
}

func serve(fn http.HandlerFunc) func(t *testing.T) string {
	return func(t *testing.T) string {
		srv := httptest.NewServer(fn)
		t.Cleanup(srv.CloseClientConnections)
		return srv.URL
	}
}

// TestNothingIsLostBetweenCommitAndDelivery has the server die there.
func TestNothingIsLostBetweenCommitAndDelivery(t *testing.T) {
	h := newHouse(t)
	r := newReceiver(t)
	target := h.target(t, webhook.NanoMDM, r.URL)
	h.hear(t, acknowledged("mac", "C-1")) // and dies before anything is sent

	again := h.replica(t)
	if n, err := again.ClaimAll(t.Context(), target.ID); n != 1 || err != nil { // and dies with it in hand
		t.Fatalf("claimed %d, %v", n, err)
	}
	h.settle(t)
	if n := len(r.got()); n != 0 {
		t.Fatalf("%d requests for what another has in hand", n)
	}
	h.pass(webhook.ClaimTime + time.Second)
	if err := again.SendAll(t.Context(), target.ID); err != nil { // and dies before it is written down
		t.Fatal(err)
	}
	h.pass(webhook.ClaimTime + time.Second)
	h.settle(t)
	got := r.got()
	if len(got) != 2 || got[0].header.Get("webhook-id") != got[1].header.Get("webhook-id") || string(got[0].body) != string(got[1].body) {
		t.Fatalf("%d requests, want the same twice", len(got))
	}
	if left := h.deliveries(t, target.ID, webhook.Pending); len(left) != 0 {
		t.Errorf("%d are left", len(left))
	}
}

// run has replicas work until the test has seen what it waits for.
func run(t *testing.T, replicas ...*webhook.Service) {
	t.Helper()
	ctx, end := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, s := range replicas {
		wg.Go(func() {
			if err := s.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		end()
		wg.Wait()
	})
}

func TestReplicasSendOnceAndInOrder(t *testing.T) {
	h := newHouse(t)
	const devices, each = 6, 6
	var (
		mu   sync.Mutex
		seen = make(map[string][]string) // by device
		busy = make(map[string]int)      // requests on their way
		ids  = make(map[string]int)
		left = devices * each
		done = make(chan struct{})
	)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		e := checkNano(t, body)
		device, uuid := e.AcknowledgeEvent.Ids.Id, *e.AcknowledgeEvent.CommandUuid
		mu.Lock()
		if busy[device]++; busy[device] > 1 {
			t.Errorf("two of %s are sent at once", device)
		}
		ids[r.Header.Get("webhook-id")]++
		seen[device] = append(seen[device], uuid)
		mu.Unlock()
		time.Sleep(time.Millisecond) // for others to come in between, if they can
		mu.Lock()
		busy[device]--
		if left--; left == 0 {
			close(done)
		}
		mu.Unlock()
	}))
	defer srv.Close()
	h.target(t, webhook.NanoMDM, srv.URL)
	run(t, h.Service, h.replica(t))
	for i := range each {
		for d := range devices {
			h.hear(t, acknowledged(fmt.Sprint("mac", d), fmt.Sprint("C-", i)))
		}
		h.pass(time.Millisecond)
	}
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("%d are left", left)
	}
	mu.Lock()
	defer mu.Unlock()
	for id, n := range ids {
		if n != 1 {
			t.Errorf("%s was sent %d times", id, n)
		}
	}
	for device, uuids := range seen {
		for i, uuid := range uuids {
			if uuid != fmt.Sprint("C-", i) {
				t.Errorf("%s: %v is not the order", device, uuids)
				break
			}
		}
	}
}

// TestAHangingTargetStopsNobodyElse has one target hang until all others are done.
func TestAHangingTargetStopsNobodyElse(t *testing.T) {
	h := newHouse(t, func(c *webhook.Config) { c.Patience = time.Minute })
	hang, hung := make(chan struct{}), make(chan struct{}, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hung <- struct{}{}
		<-hang
	}))
	defer srv.Close()
	defer close(hang)
	got := make(chan struct{}, 100)
	well := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got <- struct{}{} }))
	defer well.Close()
	h.target(t, webhook.NanoMDM, srv.URL)
	h.target(t, webhook.NanoMDM, well.URL)
	run(t, h.Service)
	const n = 40
	for i := range n {
		h.hear(t, acknowledged(fmt.Sprint("mac", i), "C-1"))
	}
	<-hung
	for range n {
		select {
		case <-got:
		case <-time.After(time.Minute):
			t.Fatal("the other target waits")
		}
	}
	if len(hung) > 8 {
		t.Errorf("%d requests hang at one target", len(hung))
	}
	srv.CloseClientConnections()
}

// TestAShutdownDoesNotWaitForATargetThatHangs, and what hangs there is the next process's at once.
func TestAShutdownDoesNotWaitForATargetThatHangs(t *testing.T) {
	h := newHouse(t, func(c *webhook.Config) { c.Patience = time.Minute })
	hung := make(chan struct{}, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that the server sees the client leave
		hung <- struct{}{}
		<-r.Context().Done()
	}))
	defer srv.Close()
	target := h.target(t, webhook.NanoMDM, srv.URL)
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	h.hear(t, acknowledged("mac", "C-1"))
	<-hung
	end()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the server waits for a target that hangs")
	}
	d := h.deliveries(t, target.ID, webhook.Pending)
	if len(d) != 1 || d[0].Claim != "" || d[0].Made != 0 {
		t.Errorf("what was on its way is %+v", d)
	}
}

func TestQueuesAreBounded(t *testing.T) {
	h := newHouse(t, func(c *webhook.Config) { c.MostWait = 10 })
	r := newReceiver(t)
	target := h.target(t, webhook.NanoMDM, r.URL)
	for i := range 12 {
		h.pass(time.Second)
		h.hear(t, acknowledged(fmt.Sprint("mac", i), "C-1"))
		h.hear(t, mdm.Message{Topic: "mdm.Connect", Status: "Idle", Device: someDevice("idle")})
	}
	if err := h.Bound(t.Context()); err != nil {
		t.Fatal(err)
	}
	st, err := h.Standing(t.Context(), target.ID, 1000)
	if err != nil || st.Waiting != 10 || st.Dropped != 14 || !st.DroppedAt.Equal(h.now()) {
		t.Errorf("standing %+v, %v", st, err)
	}
	for _, d := range h.deliveries(t, target.ID, "") {
		if d.Idle || d.DeviceID == "mac0" || d.DeviceID == "mac1" {
			t.Errorf("%s of %s is still there", d.Topic, d.DeviceID)
		}
	}
	if got := h.recorded(t, "webhook.dropped"); len(got) != 1 {
		t.Errorf("the audit log says %v", got)
	}
	if n := h.bodies(t); n != 10 {
		t.Errorf("%d bodies are kept", n)
	}
}

func TestWhatIsOldIsForgotten(t *testing.T) {
	h := newHouse(t, func(c *webhook.Config) { c.MostKept = 3 })
	r := newReceiver(t)
	target := h.target(t, webhook.NanoMDM, r.URL)
	for i := range 5 {
		h.hear(t, acknowledged(fmt.Sprint("mac", i), "C-1"))
		h.settle(t)
		h.pass(time.Second)
	}
	h.hear(t, mdm.Message{Topic: "mdm.Connect", Status: "Idle", Device: someDevice("idle")})
	h.settle(t)
	if err := h.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, d := range h.deliveries(t, target.ID, "") {
		left = append(left, d.DeviceID)
	}
	if !slices.Equal(left, []string{"mac4", "mac3", "mac2"}) {
		t.Errorf("the log has %v", left)
	}

	// What waits while its target is off is given up after three days, and erased a week later.
	if _, err := h.Update(t.Context(), "ana", target.ID, webhook.Change{Enabled: ptr(false)}); err != nil {
		t.Fatal(err)
	}
	off := h.target(t, webhook.NanoMDM, r.URL)
	r.status(http.StatusInternalServerError)
	h.hear(t, acknowledged("late", "C-1"))
	h.pass(webhook.GiveUp)
	if err := h.Bound(t.Context()); err != nil {
		t.Fatal(err)
	}
	if dead := h.deliveries(t, off.ID, webhook.Dead); len(dead) != 1 {
		t.Errorf("%d are given up", len(dead))
	}
	h.pass(webhook.KeepDone + time.Hour)
	if err := h.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(h.deliveries(t, off.ID, "")) + len(h.deliveries(t, target.ID, "")) + h.bodies(t); n != 0 {
		t.Errorf("%d are left", n)
	}
}

func TestADeletedTargetLeavesNothing(t *testing.T) {
	h := newHouse(t)
	r := newReceiver(t)
	target := h.target(t, webhook.NanoMDM, r.URL)
	for i := range 5 {
		h.hear(t, acknowledged(fmt.Sprint("mac", i), "C-1"))
	}
	if err := h.Delete(t.Context(), "ana", target.ID); err != nil {
		t.Fatal(err)
	}
	h.hear(t, acknowledged("mac", "C-2"))
	h.settle(t)
	if err := h.Bound(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(r.got()) != 0 || h.bodies(t) != 0 {
		t.Errorf("%d requests, %d bodies are kept", len(r.got()), h.bodies(t))
	}
	if _, err := h.Target(t.Context(), target.ID); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("target: %v", err)
	}
}

// A device of which more is refused than is looked at in one go holds up no other.
func TestOneDevicesRefusalsHoldUpNoOthers(t *testing.T) {
	h := newHouse(t)
	r := newReceiver(t)
	h.target(t, webhook.NanoMDM, r.URL, withEvents("mdm.Connect"))
	var refused, others []string
	r.answers(func(w http.ResponseWriter, p post) {
		if bytes.Contains(p.body, []byte("UDID-refused")) {
			refused = append(refused, string(p.body))
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		others = append(others, string(p.body))
	})
	for i := range 510 {
		h.hear(t, acknowledged("refused", fmt.Sprint("R", i)))
	}
	h.hear(t, acknowledged("other", "FIRST"))
	h.hear(t, acknowledged("other", "SECOND"))
	for range 3 { // longer than the target's pauses
		h.settle(t)
		h.pass(5 * time.Minute)
	}
	if len(others) != 2 || !strings.Contains(others[0], "FIRST") {
		t.Errorf("of the other device came %q, want both in order", others)
	}

	// Now it is down for all but that other device, and only probed.
	r.status(http.StatusBadGateway)
	for range 5 {
		h.settle(t)
		h.pass(10 * time.Minute)
	}
	r.answers(func(w http.ResponseWriter, p post) {
		if bytes.Contains(p.body, []byte("UDID-refused")) {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	h.hear(t, acknowledged("other", "THIRD"))
	before := len(r.got())
	for range 4 {
		h.settle(t)
		h.pass(12 * time.Minute)
	}
	if !slices.ContainsFunc(r.got()[before:], func(p post) bool { return bytes.Contains(p.body, []byte("UDID-other")) }) {
		t.Error("a target that is probed is only probed with what it refuses")
	}
}

func TestWhatWaitsFollowsAtOnceWhenTheTargetIsBack(t *testing.T) {
	for name, back := range map[string]func(*testing.T, *house, webhook.Target){
		"a test that it takes": func(t *testing.T, h *house, made webhook.Target) {
			if tested, err := h.Test(t.Context(), made.ID); err != nil || !tested.OK {
				t.Fatal(tested, err)
			}
		},
		"enabling it, though it was on": func(t *testing.T, h *house, made webhook.Target) {
			if _, err := h.Update(t.Context(), "user:ana", made.ID, webhook.Change{Enabled: ptr(true)}); err != nil {
				t.Fatal(err)
			}
		},
		"something newer that it takes": func(t *testing.T, h *house, _ webhook.Target) {
			h.pass(12 * time.Minute) // its pause
			h.hear(t, acknowledged("2", "B"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			r := newReceiver(t)
			made := h.target(t, webhook.NanoMDM, r.URL, withEvents("mdm.Connect"))
			r.status(http.StatusInternalServerError)
			h.hear(t, acknowledged("1", "A"))
			for range 8 * 6 {
				h.settle(t)
				h.pass(10 * time.Minute)
			}
			waits := h.deliveries(t, made.ID, webhook.Pending)
			if len(waits) != 1 || waits[0].Due.Sub(h.now()) < time.Hour {
				t.Fatalf("%+v: want one that waits for long", waits)
			}
			r.status(http.StatusOK)
			back(t, h, made)
			h.settle(t)
			if left := h.deliveries(t, made.ID, webhook.Pending); len(left) > 0 {
				t.Errorf("it still waits for %v", left[0].Due.Sub(h.now()))
			}
		})
	}
}

// Replicas hear a device in turn, and follow the feed in turn, each with its own clock.
func TestTheOrderOfADeviceIsNotThatOfClocks(t *testing.T) {
	t.Run("messages", func(t *testing.T) {
		h := newHouse(t)
		r := newReceiver(t)
		h.target(t, webhook.NanoMDM, r.URL, withEvents("mdm.Connect"))
		for i, uuid := range []string{"FIRST", "SECOND", "THIRD"} {
			m := acknowledged("1", uuid)
			m.At = h.now().Add(-time.Duration(i) * 500 * time.Millisecond)
			h.hear(t, m)
		}
		h.settle(t)
		got := r.got()
		if len(got) != 3 {
			t.Fatalf("%d requests, want 3", len(got))
		}
		for i, uuid := range []string{"FIRST", "SECOND", "THIRD"} {
			if !bytes.Contains(got[i].body, []byte(uuid)) {
				t.Errorf("request %d is not of %s: %s", i, uuid, got[i].body)
			}
		}
		h.pass(2 * time.Hour)
		if err := h.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		err := h.db.View(t.Context(), func(tx storage.Tx) error {
			for item, err := range tx.Scan("webhook.turn", storage.Range{}) {
				if err == nil {
					t.Errorf("%s is kept for ever", item.Key)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Run("events", func(t *testing.T) {
		h := newHouse(t)
		r := newReceiver(t)
		h.target(t, webhook.CloudEvents, r.URL, withEvents("device."))
		behind := h.replica(t, func(c *webhook.Config) { c.Now = func() time.Time { return h.now().Add(-time.Second) } })
		r.status(http.StatusServiceUnavailable) // so that both wait
		h.happen(t, event.Event{Action: "device.checked_in", DeviceID: "1"})
		h.settle(t)
		h.pass(100 * time.Millisecond)
		h.happen(t, event.Event{Action: "device.enrolled", DeviceID: "1"})
		if err := behind.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.status(http.StatusOK)
		before := len(r.got())
		h.pass(time.Minute)
		h.settle(t)
		got := r.got()[before:]
		if len(got) != 2 || !bytes.Contains(got[0].body, []byte("device.checked_in")) {
			t.Errorf("%d requests, of which the first is not of what happened first", len(got))
		}
	})
}

// A record that a database has lost is bad; that nobody hears of anything any more is worse.
func TestOneLostEventStopsNothing(t *testing.T) {
	h := newHouse(t)
	r := newReceiver(t)
	h.target(t, webhook.CloudEvents, r.URL, withEvents("device."))
	h.happen(t, event.Event{Action: "device.enrolled", DeviceID: "1"})
	h.happen(t, event.Event{Action: "device.blocked", DeviceID: "1"})
	err := h.db.Update(t.Context(), func(tx storage.Tx) error {
		var last []byte
		for item, err := range tx.Scan("event.log", storage.Range{}) {
			if err != nil {
				return err
			}
			last = bytes.Clone(item.Key)
		}
		return tx.Delete("event.log", last)
	})
	if err != nil {
		t.Fatal(err)
	}
	h.happen(t, event.Event{Action: "device.unblocked", DeviceID: "1"})
	h.settle(t)
	if got := r.got(); len(got) != 2 || !bytes.Contains(got[0].body, []byte("device.enrolled")) || !bytes.Contains(got[1].body, []byte("device.unblocked")) {
		t.Errorf("%d events are told of, want those that are there", len(got))
	}
}

// A webhook of some devices leaves the polls of all others as cheap as they were.
func TestPollsOfDevicesThatNobodyListensToAreNotWanted(t *testing.T) {
	h := newHouse(t)
	h.target(t, webhook.NanoMDM, "http://127.0.0.1:9", func(c *webhook.Change) { c.DeviceIDs = &[]string{"mine"} })
	user := func(parent string) mdm.Message {
		d := someDevice(parent + "-user")
		d.ParentID = mdm.DeviceID(parent)
		return mdm.Message{Device: d, Parent: someDevice(parent)}
	}
	for name, c := range map[string]struct {
		m    mdm.Message
		want bool
	}{
		"the device itself":     {mdm.Message{Device: someDevice("mine")}, true},
		"a user of it":          {user("mine"), true},
		"another device":        {mdm.Message{Device: someDevice("other"), Parent: someDevice("other")}, false},
		"a user of another":     {user("other"), false},
		"nobody knows yet whom": {mdm.Message{}, true},
	} {
		c.m.Topic, c.m.Status = "mdm.Connect", "Idle"
		err := h.db.View(t.Context(), func(tx storage.Tx) error {
			got, err := h.Wants(tx, c.m)
			if got != c.want {
				t.Errorf("%s: wanted %v, want %v", name, got, c.want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What devices say may be megabytes each, so that a number bounds nothing.
func TestWhatWaitsIsBoundedInBytes(t *testing.T) {
	h := newHouse(t, func(c *webhook.Config) { c.MostSize = 1 << 20 })
	r := newReceiver(t)
	made := h.target(t, webhook.NanoMDM, r.URL, withEvents("mdm.Connect"), withRaw)
	r.status(http.StatusInternalServerError)
	h.hear(t, acknowledged("1", "SMALL"))
	filling := strings.Repeat("a", 200<<10)
	for i := range 8 {
		m := acknowledged("1", fmt.Sprint(i))
		m.Raw = list("<key>Status</key><string>Acknowledged</string><key>X</key><string>" + filling + "</string>")
		h.hear(t, m)
	}
	h.settle(t)
	before := h.deliveries(t, made.ID, webhook.Pending)
	if err := h.Bound(t.Context()); err != nil {
		t.Fatal(err)
	}
	size := 0
	left := h.deliveries(t, made.ID, webhook.Pending)
	for _, d := range left {
		size += d.Size
	}
	if size > 1<<20+16<<10 || len(left) < 3 || left[0].ID != before[0].ID || left[len(left)-1].ID != before[len(before)-1].ID {
		t.Errorf("%d deliveries of %d bytes are left, want the newest, and the small one", len(left), size)
	}
	st, err := h.Standing(t.Context(), made.ID, 100)
	if err != nil || st.Dropped != len(before)-len(left) {
		t.Errorf("%d were dropped, it says (%v), and %d are gone", st.Dropped, err, len(before)-len(left))
	}
}

// scans counts what is read one after the other.
type scans struct {
	storage.DB
	n int
}

func (s *scans) View(ctx context.Context, fn func(storage.Tx) error) error {
	return s.DB.View(ctx, func(tx storage.Tx) error { return fn(scansTx{tx, s}) })
}

type scansTx struct {
	storage.Tx
	s *scans
}

func (t scansTx) Scan(bucket string, r storage.Range) iter.Seq2[storage.Item, error] {
	t.s.n++
	return t.Tx.Scan(bucket, r)
}

func TestAListOfDeadDeliveriesIsFewReads(t *testing.T) {
	h := newHouse(t)
	r := newReceiver(t)
	made := h.target(t, webhook.NanoMDM, r.URL, withEvents("mdm.Connect"))
	r.status(http.StatusInternalServerError)
	for i := range 5 {
		h.hear(t, acknowledged(fmt.Sprint(i), "c"))
	}
	h.pass(webhook.GiveUp + time.Hour)
	if err := h.Bound(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		h.hear(t, acknowledged(fmt.Sprint(i), "c"))
	}
	count := &scans{DB: h.db}
	s := h.replica(t, func(c *webhook.Config) { c.DB = count })
	var ids []string
	pages := 0
	for cursor := ""; ; pages++ {
		list, next, err := s.Deliveries(t.Context(), made.ID, webhook.Dead, cursor, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range list {
			if d.State != webhook.Dead {
				t.Errorf("%s is %s", d.ID, d.State)
			}
			ids = append(ids, d.ID)
		}
		if cursor = next; next == "" {
			break
		}
	}
	if len(slices.Compact(slices.Clone(ids))) != 5 || !slices.IsSortedFunc(ids, func(a, b string) int { return strings.Compare(b, a) }) || pages != 2 || count.n > 10 {
		t.Errorf("%q in %d pages after the first and %d scans, want 5 newest first, 2 and few", ids, pages, count.n)
	}
	if _, _, err := s.Deliveries(t.Context(), made.ID, webhook.Dead, "!", 2); !errors.Is(err, storage.ErrBadCursor) {
		t.Errorf("a wrong cursor: %v", err)
	}
}
