package wake_test

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/apns/apnstest"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/wake"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// newAppleBench is a bench with the real client, and an APNs on loopback.
func newAppleBench(t testing.TB, db storage.DB) (*bench, *apnstest.Server) {
	t.Helper()
	box, err := seal.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	server, err := apnstest.New(apnstest.Options{Keep: -1})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{db: db, now: time.Now().UTC()}
	log, now := slog.New(slog.DiscardHandler), func() time.Time { return b.now }
	if b.mdm, err = mdm.New(mdm.Config{DB: b.db, Box: box, Log: log, Now: now}); err != nil {
		t.Fatal(err)
	}
	certificates, err := apns.NewCertificates(box, now)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := server.Certificate(topic)
	if err != nil {
		t.Fatal(err)
	}
	b.update(t, func(tx storage.Tx) error {
		_, err := certificates.Put(tx, pem)
		return err
	})
	client, err := apns.NewClient(apns.ClientConfig{DB: b.db, Certificates: certificates, URL: server.URL(), Roots: server.Roots(), Log: log, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	b.Service, err = wake.New(wake.Config{DB: b.db, MDM: b.mdm, Pusher: client, Certificates: certificates, Log: log, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	b.mdm.WakeBy(b.Service)
	return b, server
}

// TestWhatAppleSaysIsActedOn has Apple give each of its answers to one device, says what the
// server makes of it, and that the device is pushed in the end, if it can be.
func TestWhatAppleSaysIsActedOn(t *testing.T) {
	const (
		soon    = 30 * time.Second
		hours   = 3 * time.Hour
		weekOff = 8 * 24 * time.Hour
	)
	for _, tt := range []struct {
		status int
		reason string
		state  mdm.PushState
		within time.Duration // the next push; 0: there is none
	}{
		{410, "Unregistered", mdm.PushTokenDead, 0},
		{410, "ExpiredToken", mdm.PushTokenDead, 0},
		{400, "BadDeviceToken", "refused", hours},
		{400, "DeviceTokenNotForTopic", "refused", hours},
		{400, "BadTopic", "refused", hours},
		{400, "TopicDisallowed", "refused", hours},
		{400, "MissingTopic", "refused", hours},
		{400, "IdleTimeout", "", soon},
		{403, "BadCertificate", mdm.PushBadCert, hours},
		{403, "BadCertificateEnvironment", mdm.PushBadCert, hours},
		{403, "Forbidden", mdm.PushBadCert, hours},
		{400, "BadMessageId", "exhausted", 0},
		{404, "BadPath", "exhausted", 0},
		{405, "MethodNotAllowed", "exhausted", 0},
		{413, "PayloadTooLarge", "exhausted", 0},
		{429, "TooManyRequests", "retry", hours},
		{500, "InternalServerError", "retry", soon},
		{503, "ServiceUnavailable", "retry", soon},
		{503, "Shutdown", "", soon},
		{418, "SomethingNew", "refused", hours},
	} {
		t.Run(fmt.Sprint(tt.status, " ", tt.reason), func(t *testing.T) {
			storagetest.AnyEngine(t)
			b, server := newAppleBench(t, storagetest.Open(t))
			id := b.device(t, "a")
			server.Handle(func(apnstest.Received) apnstest.Answer {
				return apnstest.Answer{Status: tt.status, Reason: tt.reason, Timestamp: b.now}
			})
			b.queue(t, id)
			if _, err := b.Work(ctx); err != nil {
				t.Fatal(err)
			}
			if st := b.status(t, id); tt.state != "" && st.State != tt.state || st.Sentence == "" {
				t.Errorf("the push is %+v, want %s", st, tt.state)
			}
			if d := b.get(t, id); !d.Live() {
				t.Errorf("the device is %s", d.State)
			}
			server.Handle(nil)
			before, start := server.Stats().Pushes, b.now
			for server.Stats().Pushes == before && b.now.Sub(start) < weekOff {
				wait, err := b.Work(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if tt.within == 0 {
					wait = time.Hour
				}
				b.now = b.now.Add(max(wait, time.Second))
			}
			took := b.now.Sub(start)
			switch {
			case tt.within == 0 && server.Stats().Pushes != before:
				t.Errorf("pushed again after %s", took)
			case tt.within > 0 && took > tt.within:
				t.Errorf("pushed again after %s, want within %s", took, tt.within)
			}
		})
	}
}

func BenchmarkTenThousandDevicesAreWoken(b *testing.B) {
	const n = 10_000
	db, err := bolt.Open(ctx, filepath.Join(b.TempDir(), "bench.db"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	w, server := newAppleBench(b, db)
	ids := make([]mdm.DeviceID, n)
	for i := range ids {
		ids[i] = w.device(b, fmt.Sprintf("d%05d", i))
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for b.Loop() {
		sent := server.Stats().Pushes
		b.StopTimer()
		w.now = w.now.Add(time.Minute)
		w.queue(b, ids...)
		b.StartTimer()
		if _, err := w.Work(ctx); err != nil {
			b.Fatal(err)
		}
		if got := server.Stats().Pushes - sent; got != n {
			b.Fatalf("%d devices were pushed", got)
		}
		b.StopTimer()
		runtime.ReadMemStats(&after)
		b.StartTimer()
	}
	b.ReportMetric(float64(after.HeapSys-before.HeapSys)/(1<<20), "MB-heap-grown")
	b.ReportMetric(float64(server.Stats().Connections), "connections")
}
