package apns_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/apns/apnstest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

const topic = "com.apple.mgmt.External.5f7f0ea1-4a0f-4d39-a0ee-1e5b0c6b6d3a"

// world is a client and the push service that it pushes to.
type world struct {
	db     storage.DB
	certs  *apns.Certificates
	server *apnstest.Server
	client *apns.Client
}

func newWorld(t testing.TB, o apnstest.Options, edit ...func(*apns.ClientConfig)) *world {
	t.Helper()
	server, err := apnstest.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	box, err := seal.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	certs, err := apns.NewCertificates(box, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{db: storagetest.Open(t), certs: certs, server: server}
	config := apns.ClientConfig{
		DB: w.db, Certificates: certs, URL: server.URL(), Roots: server.Roots(),
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	}
	for _, e := range edit {
		e(&config)
	}
	if w.client, err = apns.NewClient(config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.client.Close() })
	return w
}

// certificate puts a new certificate of topic, and returns its record.
func (w *world) certificate(t testing.TB, topic string) apns.Certificate {
	t.Helper()
	pem, err := w.server.Certificate(topic)
	if err != nil {
		t.Fatal(err)
	}
	return w.put(t, pem)
}

func (w *world) put(t testing.TB, pem []byte) (rec apns.Certificate) {
	t.Helper()
	err := w.db.Update(context.Background(), func(tx storage.Tx) (err error) {
		rec, err = w.certs.Put(tx, pem)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// push pushes and returns the results in the order of pushes.
func (w *world) push(t testing.TB, pushes ...apns.Push) []apns.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	results, calls := make([]apns.Result, len(pushes)), make([]int, len(pushes))
	w.client.Push(ctx, topic, pushes, func(i int, r apns.Result) {
		results[i] = r
		calls[i]++
	})
	for i, n := range calls {
		if n != 1 {
			t.Fatalf("done was called %d times for push %d", n, i)
		}
	}
	return results
}

func TestAPushArrivesAsAppleWantsIt(t *testing.T) {
	w := newWorld(t, apnstest.Options{})
	w.certificate(t, topic)
	for _, magic := range []string{"7B8A04B0-0D4E-4B7C-9C3E-7B5B1C2B7E11", `a "quote" \ and`, "<&>\u2028 é\x01"} {
		r := w.push(t, apns.Push{Token: []byte{0, 1, 0xfe}, Magic: magic})[0]
		if r.Outcome != apns.Sent || r.Status != 200 || r.Reason != "" || r.APNsID == "" {
			t.Errorf("pushing magic %q: %+v, want sent", magic, r)
		}
		got := w.server.Pushes()[w.server.Count()-1]
		if got.Magic != magic || string(got.Token) != "\x00\x01\xfe" || got.Topic != topic || got.Problem != "" {
			t.Errorf("the server got %+v, want magic %q", got, magic)
		}
		if life := time.Until(got.Expiration); life < apns.Lifetime-time.Minute || life > apns.Lifetime {
			t.Errorf("the push lives for %v, want %v", life, apns.Lifetime)
		}
	}
	if s := w.server.Stats(); s.Connections != 1 {
		t.Errorf("%d connections for three pushes, want 1", s.Connections)
	}
}
