package webhook_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/webhook"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// house is a server as far as this package goes.
type house struct {
	db     storage.DB
	box    *seal.Box
	events *event.Recorder
	*webhook.Service

	mu   sync.Mutex
	time time.Time
}

func (h *house) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.time
}

func (h *house) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.time = h.time.Add(d)
}

func newHouse(t testing.TB, change ...func(*webhook.Config)) *house {
	t.Helper()
	box, err := seal.New(bytes.Repeat([]byte{7}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{db: storagetest.Open(t), box: box, time: noon}
	if h.events, err = event.New(event.Config{DB: h.db, Log: slog.New(slog.DiscardHandler), Now: h.now}); err != nil {
		t.Fatal(err)
	}
	h.Service = h.replica(t, change...)
	return h
}

// replica is another process on the database.
func (h *house) replica(t testing.TB, change ...func(*webhook.Config)) *webhook.Service {
	t.Helper()
	c := webhook.Config{
		DB: h.db, Box: h.box, ServerURL: &url.URL{Scheme: "https", Host: "mdm.example.com"}, Log: slog.New(slog.DiscardHandler), Now: h.now,
		Resolver: names{},
	}
	for _, fn := range change {
		fn(&c)
	}
	s, err := webhook.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// names stands for DNS.
type names map[string]string

func (n names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if host == "localhost" {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	if a, ok := n[host]; ok {
		return []netip.Addr{netip.MustParseAddr(a)}, nil
	}
	return nil, fmt.Errorf("no such host")
}

func ptr[T any](v T) *T { return &v }

// target makes one that is told by the URL.
func (h *house) target(t testing.TB, format webhook.Format, url string, change ...func(*webhook.Change)) webhook.Target {
	t.Helper()
	c := webhook.Change{Name: ptr("test"), URL: &url, Format: &format, AllowPrivate: ptr(true)}
	for _, fn := range change {
		fn(&c)
	}
	made, err := h.Create(t.Context(), "user:ana@example.com", c)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func withEvents(filters ...string) func(*webhook.Change) {
	return func(c *webhook.Change) { c.Events = &filters }
}

func withRaw(c *webhook.Change) { c.RawPayloads = ptr(true) }

// hear takes a message, as a check-in would.
func (h *house) hear(t testing.TB, m mdm.Message) {
	t.Helper()
	if m.At.IsZero() {
		m.At = h.now()
	}
	err := h.db.Update(context.Background(), func(tx storage.Tx) error {
		ok, err := h.Wants(tx, m)
		if err != nil || !ok {
			return err
		}
		return h.Heard(tx, m)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// happen records an event, and puts it into the feed.
func (h *house) happen(t testing.TB, e event.Event) {
	t.Helper()
	e.At = h.now()
	if err := h.db.Update(context.Background(), func(tx storage.Tx) error { return event.Record(tx, e) }); err != nil {
		t.Fatal(err)
	}
	h.sequence(t)
}

func (h *house) sequence(t testing.TB) {
	t.Helper()
	if err := h.events.Sequence(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func (h *house) settle(t testing.TB) {
	t.Helper()
	h.sequence(t)
	if err := h.Settle(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// recorded returns the actions of the audit log that begin so, oldest first.
func (h *house) recorded(t testing.TB, prefix string) (actions []string) {
	t.Helper()
	all, _, err := h.events.Page(context.Background(), event.Filter{Action: prefix}, "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range slices.Backward(all) {
		actions = append(actions, e.Action)
	}
	return actions
}

func (h *house) deliveries(t testing.TB, target string, state webhook.State) []webhook.Delivery {
	t.Helper()
	all, next, err := h.Deliveries(context.Background(), target, state, "", 1000)
	if err != nil || next != "" {
		t.Fatalf("deliveries: %v, next page %q", err, next)
	}
	return all
}

// post is a request that a receiver got.
type post struct {
	header http.Header
	body   []byte
}

// receiver is a target's server.
type receiver struct {
	*httptest.Server

	mu     sync.Mutex
	posts  []post
	answer func(w http.ResponseWriter, p post) // nil: 200
}

func newReceiver(t testing.TB) *receiver {
	t.Helper()
	r := new(receiver)
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil || req.Method != http.MethodPost {
			t.Errorf("%s: %v", req.Method, err)
		}
		p := post{req.Header, body}
		r.mu.Lock()
		r.posts = append(r.posts, p)
		answer := r.answer
		r.mu.Unlock()
		if answer != nil {
			answer(w, p)
		}
	}))
	t.Cleanup(r.Server.Close)
	return r
}

func (r *receiver) answers(fn func(w http.ResponseWriter, p post)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = fn
}

func (r *receiver) status(code int) {
	r.answers(func(w http.ResponseWriter, _ post) { w.WriteHeader(code) })
}

func (r *receiver) got() []post {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.posts)
}

// decoded is the body of the only request.
func (r *receiver) decoded(t testing.TB) map[string]any {
	t.Helper()
	all := r.got()
	if len(all) != 1 {
		t.Fatalf("%d requests, want 1", len(all))
	}
	var v map[string]any
	if err := json.Unmarshal(all[0].body, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// someDevice is one that is enrolled.
func someDevice(id string) mdm.Device {
	return mdm.Device{ID: mdm.DeviceID(id), Type: mdm.TypeDevice, State: mdm.Enrolled, AppleID: mdm.AppleID{UDID: "UDID-" + id}, Topic: "com.apple.mgmt.External.1"}
}

// acknowledged is an answer to a command.
func acknowledged(device, uuid string) mdm.Message {
	return mdm.Message{
		Topic: "mdm.Connect", Device: someDevice(device), Status: "Acknowledged", CommandUUID: uuid, RequestType: "DeviceInformation",
		Raw: list("<key>UDID</key><string>UDID-" + device + "</string><key>Status</key><string>Acknowledged</string><key>CommandUUID</key><string>" + uuid + "</string>"),
	}
}

// list is a property list of a dictionary.
func list(inner string) []byte {
	return []byte(`<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict>` + inner + `</dict></plist>`)
}

// rebinding is DNS that says something else to whoever looks first.
type rebinding struct{}

func (rebinding) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("17.253.144.10")}, nil
}
