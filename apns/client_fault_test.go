package apns_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/apns/apnstest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// The error codes of HTTP/2 (RFC 9113, 7).
const (
	internalError = 2
	refusedStream = 7
)

// until waits for the server's counts to be so.
func (w *world) until(t testing.TB, what string, so func(apnstest.Stats) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := w.server.Until(ctx, so); err != nil {
		t.Fatalf("%s: %v; %+v", what, err, w.server.Stats())
	}
}

// whenAnotherComes calls then once the server has got the next push.
func (w *world) whenAnotherComes(t *testing.T, then func()) {
	n := w.server.Count()
	go func() {
		if _, err := w.server.After(t.Context(), n); err == nil {
			then()
		}
	}()
}

func outcomes(results []apns.Result) map[apns.Outcome]int {
	count := make(map[apns.Outcome]int)
	for _, r := range results {
		count[r.Outcome]++
	}
	return count
}

func TestWhatBreaksAroundAPushIsNamed(t *testing.T) {
	storagetest.AnyEngine(t)
	once := func(a apnstest.Answer) func(*world) {
		return func(w *world) { w.server.Script([]byte("it"), a) }
	}
	for name, tt := range map[string]struct {
		break_ func(*world)
		first  apns.Result // on a new connection: Outcome, Reason, Whole
		warm   apns.Result // on one that has proved good
	}{
		"the stream is reset": {
			once(apnstest.Answer{Reset: internalError}),
			apns.Result{Outcome: apns.Retry, Reason: apns.ReasonStreamReset},
			apns.Result{Outcome: apns.Retry, Reason: apns.ReasonStreamReset},
		},
		"the stream is handed back": {
			once(apnstest.Answer{Reset: refusedStream}),
			apns.Result{Outcome: apns.Sent},
			apns.Result{Outcome: apns.Sent},
		},
		"the connection is reset": {
			once(apnstest.Answer{Close: true}),
			apns.Result{Outcome: apns.Retry, Reason: apns.ReasonTransport, Whole: true},
			apns.Result{Outcome: apns.Retry, Reason: apns.ReasonTransport},
		},
		"no answer comes": {
			once(apnstest.Answer{Hang: true}),
			apns.Result{Outcome: apns.Retry, Reason: apns.ReasonTimeout, Whole: true},
			apns.Result{Outcome: apns.Retry, Reason: apns.ReasonTimeout, Whole: true},
		},
		"the answer comes too late": {
			once(apnstest.Answer{Delay: time.Minute}),
			apns.Result{Outcome: apns.Retry, Reason: apns.ReasonTimeout, Whole: true},
			apns.Result{Outcome: apns.Retry, Reason: apns.ReasonTimeout, Whole: true},
		},
		"the server leaves, and hands the push back": {
			once(apnstest.Answer{GoAway: &apnstest.GoAway{Unhandled: true}}),
			apns.Result{Outcome: apns.Sent},
			apns.Result{Outcome: apns.Sent},
		},
		"the server leaves after the push": {
			once(apnstest.Answer{GoAway: &apnstest.GoAway{}}),
			apns.Result{Outcome: apns.Sent},
			apns.Result{Outcome: apns.Sent},
		},
		"the server leaves without an answer": {
			once(apnstest.Answer{GoAway: &apnstest.GoAway{Close: true}}),
			apns.Result{Outcome: apns.Retry, Reason: apns.ReasonTransport, Whole: true},
			apns.Result{Outcome: apns.Retry, Reason: apns.ReasonTransport},
		},
		"the server leaves and says why": {
			once(apnstest.Answer{GoAway: &apnstest.GoAway{Close: true, Debug: `{"reason":"Shutdown"}`}}),
			apns.Result{Outcome: apns.Retry, Reason: "Shutdown", Whole: true},
			apns.Result{Outcome: apns.Retry, Reason: "Shutdown"},
		},
		"the server leaves because of the certificate": {
			once(apnstest.Answer{GoAway: &apnstest.GoAway{Close: true, Debug: `{"reason":"BadCertificate"}`}}),
			apns.Result{Outcome: apns.Refused, Reason: "BadCertificate", Whole: true},
			apns.Result{Outcome: apns.Refused, Reason: "BadCertificate", Whole: true},
		},
		"the server leaves with a token's reason": {
			once(apnstest.Answer{GoAway: &apnstest.GoAway{Close: true, Debug: `{"reason":"Unregistered"}`}}),
			apns.Result{Outcome: apns.Retry, Reason: "Unregistered", Whole: true},
			apns.Result{Outcome: apns.Retry, Reason: "Unregistered"},
		},
	} {
		for _, warm := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/warm=%v", name, warm), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, apnstest.Options{})
				w.certificate(t, topic)
				timeUp := w.client.WaitUntilTold()
				want := tt.first
				if warm {
					want = tt.warm
					w.push(t, many(1)...)
				}
				tt.break_(w)
				if want.Reason == apns.ReasonTimeout {
					w.whenAnotherComes(t, timeUp)
				}
				r := w.push(t, apns.Push{Token: []byte("it"), Magic: "m"})[0]
				if r.Outcome != want.Outcome || r.Reason != want.Reason || r.Whole != want.Whole || r.Ours {
					t.Errorf("got %+v, want %+v", r, want)
				}
				if (r.Detail != "") != (r.Outcome != apns.Sent) {
					t.Errorf("Detail is %q", r.Detail)
				}
				if r := w.push(t, apns.Push{Token: []byte("it"), Magic: "m"})[0]; r.Outcome != apns.Sent {
					t.Errorf("the push after it: %+v", r)
				}
			})
		}
	}
}

func TestWhatKeepsUsFromConnectingIsNamed(t *testing.T) {
	storagetest.AnyEngine(t)
	plain := httptest.NewUnstartedServer(http.NotFoundHandler()) // no HTTP/2
	plain.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
	plain.StartTLS()
	defer plain.Close()
	other, err := apnstest.New(apnstest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	put := func(t *testing.T, w *world, from *apnstest.Server, id apnstest.Identity) apns.Certificate {
		t.Helper()
		id.Topic = topic
		chain, key, err := from.Issue(id)
		if err != nil {
			t.Fatal(err)
		}
		return w.put(t, append(chain, key...))
	}
	now := time.Now()
	for name, tt := range map[string]struct {
		config  func(*apns.ClientConfig)
		prepare func(*testing.T, *world)
		want    apns.Result // Outcome, Reason; all are Whole
		detail  string      // part of it
		connect bool        // the server is talked to
	}{
		"no certificate": {want: apns.Result{Outcome: apns.Refused, Reason: apns.ReasonNoCertificate}, detail: "no push certificate"},
		"an expired certificate": {
			config: func(c *apns.ClientConfig) { c.Now = func() time.Time { return now.AddDate(2, 0, 0) } },
			prepare: func(t *testing.T, w *world) {
				put(t, w, w.server, apnstest.Identity{NotAfter: now.AddDate(1, 0, 0)})
			},
			want: apns.Result{Outcome: apns.Refused, Reason: apns.ReasonCertificateExpired}, detail: "expired",
		},
		"a certificate of somebody else's": {
			prepare: func(t *testing.T, w *world) { put(t, w, other, apnstest.Identity{}) },
			want:    apns.Result{Outcome: apns.Refused, Reason: "BadCertificate"}, detail: "tls: unknown certificate authority", connect: true,
		},
		"a revoked certificate": {
			prepare: func(t *testing.T, w *world) {
				w.server.RefuseCertificate(put(t, w, w.server, apnstest.Identity{}).SHA256)
			},
			want: apns.Result{Outcome: apns.Refused, Reason: "BadCertificate"}, detail: "tls: bad certificate", connect: true,
		},
		"a certificate that the server takes for expired": {
			prepare: func(t *testing.T, w *world) {
				// Now it is good: the server's clock is another.
				put(t, w, w.server, apnstest.Identity{NotBefore: now.Add(time.Hour), NotAfter: now.AddDate(1, 0, 0)})
			},
			want: apns.Result{Outcome: apns.Refused, Reason: "BadCertificate"}, detail: "tls: expired certificate", connect: true,
		},
		"a server that nobody vouches for": {
			config:  func(c *apns.ClientConfig) { c.Roots = other.Roots() },
			prepare: func(t *testing.T, w *world) { w.certificate(t, topic) },
			want:    apns.Result{Outcome: apns.Retry, Reason: apns.ReasonServerNotTrusted}, detail: "unknown authority", connect: true,
		},
		"a server without HTTP/2": {
			config: func(c *apns.ClientConfig) {
				c.URL, c.Roots = plain.URL, plain.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
			},
			prepare: func(t *testing.T, w *world) { w.certificate(t, topic) },
			want:    apns.Result{Outcome: apns.Retry, Reason: apns.ReasonTransport},
		},
		"nobody there": {
			config:  func(c *apns.ClientConfig) { c.URL = "https://127.0.0.1:1" },
			prepare: func(t *testing.T, w *world) { w.certificate(t, topic) },
			want:    apns.Result{Outcome: apns.Retry, Reason: apns.ReasonTransport}, detail: "connection refused",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var edits []func(*apns.ClientConfig)
			if tt.config != nil {
				edits = append(edits, tt.config)
			}
			w := newWorld(t, apnstest.Options{}, edits...)
			if tt.prepare != nil {
				tt.prepare(t, w)
			}
			results := w.push(t, many(300)...)
			for i, r := range results {
				if r.Outcome != tt.want.Outcome || r.Reason != tt.want.Reason || !r.Whole || r.Status != 0 || !strings.Contains(r.Detail, tt.detail) {
					t.Fatalf("push %d: %+v, want %+v for all", i, r, tt.want)
				}
			}
			if s := w.server.Stats(); s.Connections+s.Refused > 1 || !tt.connect && s.Refused > 0 {
				t.Errorf("the server was tried %d times", s.Connections+s.Refused)
			}
		})
	}
}

// brokenCertificates are those of a database that does not answer.
type brokenCertificates struct{ err error }

func (b brokenCertificates) Get(storage.Tx, string) (apns.Certificate, error) {
	return apns.Certificate{}, b.err
}

func (b brokenCertificates) TLS(storage.Tx, string) (tls.Certificate, apns.Certificate, error) {
	return tls.Certificate{}, apns.Certificate{}, b.err
}

func TestADatabaseThatFailsIsTriedAgain(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t, apnstest.Options{}, func(c *apns.ClientConfig) {
		c.Certificates = brokenCertificates{fmt.Errorf("reading: %w", storage.ErrUnavailable)}
	})
	r := w.push(t, many(1)...)[0]
	if r.Outcome != apns.Retry || !r.Whole || r.Reason != apns.ReasonCertificateUnreadable || !strings.Contains(r.Detail, "not available") {
		t.Errorf("%+v, want to be tried again", r)
	}
}

func TestAPushWithoutATokenIsNotSent(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t, apnstest.Options{})
	w.certificate(t, topic)
	for i, r := range w.push(t, apns.Push{Magic: "m"}, apns.Push{Token: []byte("t")}, apns.Push{Token: []byte("t"), Magic: "m"}) {
		if want := i < 2; (r.Outcome == apns.Refused && r.Ours && !r.Whole) != want {
			t.Errorf("push %d: %+v", i, r)
		}
	}
	if n := w.server.Count(); n != 1 {
		t.Errorf("%d pushes were sent, want 1", n)
	}
}

func TestAWrongURLIsRefused(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t, apnstest.Options{})
	for _, u := range []string{"http://api.push.apple.com", "api.push.apple.com", "https://", "https://a/3/device", "https://u:p@a", "https://a?b", "%"} {
		_, err := apns.NewClient(apns.ClientConfig{DB: w.db, Certificates: w.certs, URL: u, Log: slog.New(slog.DiscardHandler), Now: time.Now})
		if err == nil {
			t.Errorf("NewClient took the URL %q", u)
		}
	}
	for _, u := range []string{"", "https://api.push.apple.com:2197", "https://[::1]:5000/"} {
		if _, err := apns.NewClient(apns.ClientConfig{DB: w.db, Certificates: w.certs, URL: u, Log: slog.New(slog.DiscardHandler), Now: time.Now}); err != nil {
			t.Errorf("NewClient with the URL %q: %v", u, err)
		}
	}
	if _, err := apns.NewClient(apns.ClientConfig{}); err == nil {
		t.Error("NewClient took nothing")
	}
}

func TestABatchGoesOverOneConnectionInBounds(t *testing.T) {
	storagetest.AnyEngine(t)
	for limit, n := range map[uint32]int{1: 100, 7: 500, 1000: 1500, 100_000: 1500} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, apnstest.Options{MaxStreams: limit})
			w.certificate(t, topic)
			if got := outcomes(w.push(t, many(n)...)); got[apns.Sent] != n {
				t.Errorf("outcomes %v, want all sent", got)
			}
			s := w.server.Stats()
			if s.Connections != 1 || s.Pushes != n || s.Problems != 0 || s.MostStreams > int(min(limit, apns.MaxStreams)) {
				t.Errorf("%+v, want one connection with at most %d streams", s, min(limit, apns.MaxStreams))
			}
		})
	}
}

func TestCallsShareTheConnection(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t, apnstest.Options{})
	w.certificate(t, topic)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var busy atomic.Bool
			left := 200
			w.client.Push(context.Background(), topic, many(200), func(_ int, r apns.Result) {
				if !busy.CompareAndSwap(false, true) {
					t.Error("done was called twice at a time")
				}
				left--
				if r.Outcome != apns.Sent {
					t.Errorf("%+v", r)
				}
				busy.Store(false)
			})
			if left != 0 {
				t.Errorf("%d pushes without a result", left)
			}
		})
	}
	wg.Wait()
	if s := w.server.Stats(); s.Connections != 1 || s.MostStreams > apns.MaxStreams {
		t.Errorf("%+v, want one connection with at most %d streams", s, apns.MaxStreams)
	}
}

func TestAServerThatLeavesMidBatchLosesNothing(t *testing.T) {
	storagetest.AnyEngine(t)
	const n = 1000
	for name, tt := range map[string]struct {
		goAway apnstest.GoAway
		again  bool // some have to be pushed again by the caller
	}{
		"in peace":                {goAway: apnstest.GoAway{}},
		"handing pushes back":     {goAway: apnstest.GoAway{Unhandled: true}},
		"cutting all of them off": {goAway: apnstest.GoAway{Close: true}, again: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, apnstest.Options{Keep: 2 * n, MaxStreams: 50})
			w.certificate(t, topic)
			var count atomic.Int32
			w.server.Handle(func(apnstest.Received) apnstest.Answer {
				if count.Add(1)%200 == 0 {
					return apnstest.Answer{GoAway: &tt.goAway}
				}
				return apnstest.Answer{}
			})
			results := w.push(t, many(n)...)
			got := outcomes(results)
			if got[apns.Sent]+got[apns.Retry] != n || !tt.again && got[apns.Retry] > 0 || got[apns.Retry] > 5*50 {
				t.Errorf("outcomes %v", got)
			}
			came := make(map[string]bool)
			for _, r := range w.server.Pushes() {
				came[string(r.Token)] = true
			}
			for i, p := range many(n) {
				if results[i].Outcome == apns.Sent && !came[string(p.Token)] {
					t.Errorf("push %d is called sent and did not come", i)
				}
				if r := results[i]; r.Outcome == apns.Retry && r.Whole {
					t.Errorf("push %d: %+v; the next connection was good", i, r)
				}
			}
			if s := w.server.Stats(); s.Connections < 5 || s.Connections > 7 {
				t.Errorf("%d connections, want one more for each time that the server left", s.Connections)
			}
		})
	}
}

func TestAServerThatBreaksEveryConnectionIsGivenUp(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, break_ := range map[string]func(i int32) apnstest.Answer{
		"after each push":   func(i int32) apnstest.Answer { return apnstest.Answer{Close: i%2 == 0} },
		"at once":           func(int32) apnstest.Answer { return apnstest.Answer{Close: true} },
		"handing it back":   func(int32) apnstest.Answer { return apnstest.Answer{GoAway: &apnstest.GoAway{Unhandled: true}} },
		"refusing streams":  func(int32) apnstest.Answer { return apnstest.Answer{Reset: refusedStream} },
		"saying it is idle": func(int32) apnstest.Answer { return apnstest.Answer{Status: 400, Reason: "IdleTimeout"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var count atomic.Int32
			w := newWorld(t, apnstest.Options{MaxStreams: 1, OnPush: func(apnstest.Received) apnstest.Answer { return break_(count.Add(1)) }})
			w.certificate(t, topic)
			got := outcomes(w.push(t, many(200)...))
			if got[apns.Retry] < 180 || got[apns.Retry]+got[apns.Sent] != 200 {
				t.Errorf("outcomes %v, want them tried again later", got)
			}
			if s := w.server.Stats(); s.Connections > 12 {
				t.Errorf("%d connections for one batch: Apple takes that for an attack", s.Connections)
			}
		})
	}
}

func TestSlowAnswersHoldUpNobodyElse(t *testing.T) {
	storagetest.AnyEngine(t)
	const slow, prompt = 39, 360
	var hang atomic.Int32
	allHang := make(chan struct{})
	w := newWorld(t, apnstest.Options{OnPush: func(r apnstest.Received) apnstest.Answer {
		if r.Token[len(r.Token)-1] == '0' {
			if hang.Add(1) == slow {
				close(allHang)
			}
			return apnstest.Answer{Hang: true}
		}
		if string(r.Token) != "token-000001" { // the first, which the others wait for
			<-allHang
		}
		return apnstest.Answer{}
	}})
	w.certificate(t, topic)
	timeUp := w.client.WaitUntilTold()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	results, answered := make([]apns.Result, slow+prompt), 0
	w.client.Push(ctx, topic, many(400)[1:], func(i int, r apns.Result) {
		results[i] = r
		if r.Outcome == apns.Sent {
			if answered++; answered == prompt {
				timeUp()
			}
		}
	})
	for i, r := range results {
		hangs := (i+1)%10 == 0
		if !hangs && r.Outcome != apns.Sent || hangs && (r.Outcome != apns.Retry || r.Reason != apns.ReasonTimeout || r.Whole) {
			t.Errorf("push %d: %+v", i+1, r)
		}
	}
	if s := w.server.Stats(); s.Connections != 1 {
		t.Errorf("%d connections, want 1: it was alive", s.Connections)
	}
}

func TestAServerThatHangsCostsOneWait(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t, apnstest.Options{OnPush: func(apnstest.Received) apnstest.Answer { return apnstest.Answer{Hang: true} }})
	w.certificate(t, topic)
	timeUp := w.client.WaitUntilTold()
	w.whenAnotherComes(t, timeUp)
	for i, r := range w.push(t, many(500)...) {
		if r.Outcome != apns.Retry || r.Reason != apns.ReasonTimeout || !r.Whole {
			t.Fatalf("push %d: %+v", i, r)
		}
	}
	if n := w.server.Count(); n != 1 {
		t.Errorf("%d pushes were tried, want 1", n)
	}
}

func TestPushingEndsWithItsContext(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t, apnstest.Options{OnPush: func(r apnstest.Received) apnstest.Answer {
		return apnstest.Answer{Hang: string(r.Token) != "token-000000"}
	}})
	w.certificate(t, topic)
	ctx, cancel := context.WithCancel(context.Background())
	var results []apns.Result
	go func() {
		w.server.After(context.Background(), 200)
		cancel()
	}()
	w.client.Push(ctx, topic, many(2000), func(_ int, r apns.Result) { results = append(results, r) })
	if len(results) != 2000 {
		t.Fatalf("%d results, want 2000", len(results))
	}
	for _, r := range results {
		if r.Outcome == apns.Retry && (r.Whole || r.Reason != apns.ReasonCanceled) {
			t.Errorf("%+v, want canceled", r)
		}
	}
	if got := outcomes(results); got[apns.Sent] != 1 || got[apns.Retry] != 1999 {
		t.Errorf("outcomes %v", got)
	}
}

func TestClosingLetsPushesEndAndLeavesNothingBehind(t *testing.T) {
	storagetest.AnyEngine(t)
	release := make(chan struct{})
	w := newWorld(t, apnstest.Options{OnPush: func(r apnstest.Received) apnstest.Answer {
		if string(r.Token) != "token-000000" {
			<-release
		}
		return apnstest.Answer{}
	}})
	w.certificate(t, topic)
	var results []apns.Result
	pushed := make(chan struct{})
	go func() {
		w.client.Push(context.Background(), topic, many(apns.MaxStreams+200), func(_ int, r apns.Result) { results = append(results, r) })
		close(pushed)
	}()
	w.until(t, "pushes under way", func(s apnstest.Stats) bool { return s.Streams == apns.MaxStreams })
	closed := make(chan struct{})
	go func() {
		w.client.Close()
		close(closed)
	}()
	// Those that wait for room are told at once; the others are answered yet.
	w.until(t, "the connection is open", func(s apnstest.Stats) bool { return s.Open == 1 })
	select {
	case <-closed:
		t.Error("Close did not wait for pushes under way")
	default:
	}
	close(release)
	<-pushed
	<-closed
	if got := outcomes(results); got[apns.Sent] < apns.MaxStreams || got[apns.Sent]+got[apns.Retry] != len(results) || len(results) != apns.MaxStreams+200 {
		t.Errorf("outcomes %v of %d", got, len(results))
	}
	w.until(t, "the connection is closed", func(s apnstest.Stats) bool { return s.Open == 0 })
	if r := w.push(t, many(1)...)[0]; r.Outcome != apns.Retry || r.Reason != apns.ReasonCanceled {
		t.Errorf("a push after Close: %+v", r)
	}
	w.server.Close()
	for range 1000 { // net/http's goroutines end a little later than their connection
		runtime.Gosched()
		if !strings.Contains(stacks(), "apns.(*line)") {
			break
		}
	}
	if s := stacks(); strings.Contains(s, "apns.(*line)") || strings.Contains(s, "apns.(*batch)") {
		t.Errorf("goroutines are left:\n%s", s)
	}
}

func stacks() string {
	b := make([]byte, 4<<20)
	return string(b[:runtime.Stack(b, true)])
}

func TestAnotherCertificateIsTakenUp(t *testing.T) {
	w := newWorld(t, apnstest.Options{})
	first := w.certificate(t, topic)
	w.push(t, many(3)...)
	w.until(t, "connected", func(s apnstest.Stats) bool { return s.Open == 1 })

	// Nobody pushes: the old connection is closed all the same.
	second := w.certificate(t, topic)
	w.until(t, "the old connection is closed", func(s apnstest.Stats) bool { return s.Open == 0 })
	w.push(t, many(3)...)
	pushes := w.server.Pushes()
	for i, want := range []string{first.SHA256, first.SHA256, first.SHA256, second.SHA256, second.SHA256, second.SHA256} {
		if pushes[i].Certificate != want {
			t.Errorf("push %d came by another certificate", i)
		}
	}
	if s := w.server.Stats(); s.Connections != 2 {
		t.Errorf("%d connections, want 2", s.Connections)
	}
}

// quiet is a database whose news get lost.
type quiet struct{ storage.DB }

func (quiet) Watch(string) (<-chan struct{}, func()) { return nil, func() {} }

func TestAnotherCertificateIsFoundWithoutNews(t *testing.T) {
	w := newWorld(t, apnstest.Options{}, func(c *apns.ClientConfig) { c.DB = quiet{c.DB} })
	w.client.LookEvery(50 * time.Millisecond)
	w.certificate(t, topic)
	w.push(t, many(1)...)
	w.certificate(t, topic)
	w.until(t, "the old connection is closed", func(s apnstest.Stats) bool { return s.Open == 0 })
}

func TestACallThatBeginsAfterTheSwapUsesTheNewCertificate(t *testing.T) {
	w := newWorld(t, apnstest.Options{}, func(c *apns.ClientConfig) { c.DB = quiet{c.DB} })
	w.certificate(t, topic)
	w.push(t, many(1)...)
	second := w.certificate(t, topic)
	w.push(t, many(1)...)
	if got := w.server.Pushes()[1].Certificate; got != second.SHA256 {
		t.Error("the push went by the old certificate")
	}
}

func TestACertificateSwappedDuringABatchLosesNothing(t *testing.T) {
	const n, swapAt = 2000, 700
	w := newWorld(t, apnstest.Options{Keep: 2 * n, MaxStreams: 100})
	first := w.certificate(t, topic)
	pem, err := w.server.Certificate(topic)
	if err != nil {
		t.Fatal(err)
	}
	var count atomic.Int32
	var swap sync.Once
	var revoked atomic.Bool
	var second apns.Certificate
	w.server.Handle(func(r apnstest.Received) apnstest.Answer {
		if count.Add(1) >= swapAt {
			// It is Apple's page and ours within one moment: the old one is refused from here on.
			swap.Do(func() {
				second = w.put(t, pem)
				w.server.RefuseCertificate(first.SHA256)
				revoked.Store(true)
			})
		}
		if revoked.Load() && r.Certificate == first.SHA256 {
			return apnstest.Answer{Status: 403, Reason: "BadCertificate"}
		}
		return apnstest.Answer{}
	})

	// The caller's rule: what was not sent is pushed again.
	left := many(n)
	for calls := 1; len(left) > 0; calls++ {
		if calls > 3 {
			t.Fatalf("%d pushes are left after three calls", len(left))
		}
		var again []apns.Push
		for i, r := range w.push(t, left...) {
			if r.Outcome != apns.Sent {
				if r.Reason != "BadCertificate" || !r.Whole {
					t.Errorf("%+v", r)
				}
				again = append(again, left[i])
			}
		}
		left = again
	}
	taken := make(map[string]int)
	late := 0
	for _, r := range w.server.Pushes() {
		taken[string(r.Token)]++
		if r.Certificate == first.SHA256 {
			late = 0
		} else if r.Certificate == second.SHA256 {
			late++
		}
	}
	if len(taken) != n {
		t.Errorf("%d devices were pushed, want %d", len(taken), n)
	}
	if late < n-swapAt-2*100 {
		t.Errorf("the old certificate was used until %d pushes before the end", late)
	}
	if s := w.server.Stats(); s.Refused != 0 || s.Pushes > n+2*100 {
		t.Errorf("%+v: pushes under way may be repeated, not all", s)
	}
}

func TestTokensAndMagicsStayOutOfLogsAndResults(t *testing.T) {
	storagetest.AnyEngine(t)
	var log syncBuffer
	w := newWorld(t, apnstest.Options{}, func(c *apns.ClientConfig) {
		c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	w.certificate(t, topic)
	timeUp := w.client.WaitUntilTold()
	token, magic := []byte("secret-token"), "secret-magic"
	for _, a := range []apnstest.Answer{
		{}, {Reset: internalError}, {Close: true}, {Hang: true}, {Status: 307, Header: map[string]string{"Location": "https://127.0.0.1:1/"}},
		{GoAway: &apnstest.GoAway{Close: true, Debug: "x"}}, {Status: 500}, {Status: 400, Reason: "BadTopic"},
	} {
		w.server.Script(token, a)
		if a.Hang {
			w.whenAnotherComes(t, timeUp)
		}
		r := w.push(t, apns.Push{Token: token, Magic: magic})[0]
		fmt.Fprintf(&log, "%+v\n", r)
	}
	for _, secret := range []string{"secret-token", hex.EncodeToString(token), magic} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%q stands in:\n%s", secret, log.String())
		}
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
