package checkin_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/depottest"
	"github.com/gatehouse-mdm/gatehouse/depot/scep"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	gatehouse "github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/checkin"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/inventory"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// house is all that a device meets, over HTTP, on a real store, with a clock that
// the test moves and a log that it reads.
type house struct {
	url    string
	db     storage.DB
	depot  *depot.Depot
	enroll *enroll.Service
	mdm    *gatehouse.Service
	log    *lockedBuffer
	http   http.RoundTripper
	door   http.Handler

	mu   sync.Mutex
	time time.Time
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
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

// authorityKeys and deviceKeys save the tests most of the making of keys.
var (
	deviceKeys = sync.OnceValues(func() (*mdmtest.KeyPool, error) { return mdmtest.NewKeyPool(2048) })
)

func newHouse(t testing.TB) *house {
	t.Helper()
	return newHouseOn(t, storagetest.Open(t))
}

// newHouseOn is newHouse on a database of the caller's.
func newHouseOn(t testing.TB, db storage.DB, change ...func(*enroll.Config)) *house {
	t.Helper()
	box, err := seal.New(make([]byte, seal.KeySize))
	must(t, err)
	h := &house{db: db, time: time.Now().UTC().Truncate(time.Second), log: new(lockedBuffer)}
	log := slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h.depot, err = depot.Open(t.Context(), depot.Config{
		DB: h.db, Box: box, Log: log, Now: h.now, KeyBits: 2048, Name: "test",
		NewKey: depottest.NewKey,
	})
	must(t, err)
	h.mdm, err = gatehouse.New(gatehouse.Config{DB: h.db, Box: box, Log: log, Now: h.now})
	must(t, err)
	stock, err := inventory.New(inventory.Config{DB: h.db, MDM: h.mdm, Log: log, Now: h.now})
	must(t, err)
	topics, err := apns.NewCertificates(box, h.now)
	must(t, err)

	mux := http.NewServeMux()
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	h.url = srv.URL
	transport := srv.Client().Transport.(*http.Transport)
	transport.MaxIdleConnsPerHost = 64
	h.http = transport
	serverURL, err := url.Parse(srv.URL)
	must(t, err)
	root := h.depot.Root()
	config := enroll.Config{
		DB: h.db, Box: box, Depot: h.depot, MDM: h.mdm, Topics: topics, Inventory: stock, ServerURL: serverURL, Log: log, Now: h.now,
		Sign: func(p []byte) ([]byte, error) { return profile.Sign(p, root.Certificate(), root.Signer()) },
	}
	for _, fn := range change {
		fn(&config)
	}
	h.enroll, err = enroll.New(config)
	must(t, err)
	identities, err := scep.New(scep.Config{Authorities: []*depot.Authority{h.depot.Identity()}, Issuer: scep.IssuerFunc(func(ctx context.Context, _ *depot.Authority, r depot.Request) (*x509.Certificate, error) {
		return h.enroll.IssueIdentity(ctx, r)
	}), Log: log})
	must(t, err)
	h.door, err = checkin.New(checkin.Config{Enroll: h.enroll, Log: log})
	must(t, err)
	doors := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.door.ServeHTTP(w, r) }) // a test may change it
	mux.Handle(enroll.PathCheckIn, doors)
	mux.Handle(enroll.PathConnect, doors)
	mux.Handle(enroll.PathSCEP, identities)
	mux.HandleFunc("GET /profile/{code}", func(w http.ResponseWriter, r *http.Request) {
		signed, _, err := h.enroll.NewEnrollment(r.Context(), r.PathValue("code"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusGone)
			return
		}
		w.Header().Set("Content-Type", "application/x-apple-aspen-config")
		_, _ = w.Write(signed)
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server's log:\n%.20000s", h.log)
		}
	})
	return h
}

// device makes a device that talks to h.
func (h *house) device(t testing.TB, o mdmtest.Options) *mdmtest.Device {
	t.Helper()
	pool, err := deviceKeys()
	must(t, err)
	o.Keys, o.PlainHTTP, o.Transport, o.AnyEnrollment = pool, true, h.http, true
	if o.Now == nil {
		o.Now = h.now
	}
	d, err := mdmtest.NewDevice(o)
	must(t, err)
	return d
}

// link is the URL of the profile of a new link for a user, good for one device.
func (h *house) link(t testing.TB, user string) string {
	t.Helper()
	l, err := h.enroll.CreateLink(t.Context(), enroll.NewLink{Login: enroll.LoginNone, User: user, Uses: 1})
	must(t, err)
	return h.url + "/profile/" + l.Code
}

// enrolled makes a device and enrolls it by a link of its own.
func (h *house) enrolled(t testing.TB, o mdmtest.Options) *mdmtest.Device {
	t.Helper()
	d := h.device(t, o)
	must(t, d.Enroll(t.Context(), h.link(t, "ana@example.com")))
	return d
}

// identified makes a device that has its identity and has said nothing yet.
func (h *house) identified(t testing.TB, o mdmtest.Options) *mdmtest.Device {
	t.Helper()
	d := h.device(t, o)
	raw, err := d.Download(t.Context(), h.link(t, "eve@example.com"))
	must(t, err)
	must(t, d.Install(raw))
	must(t, d.RequestIdentity(t.Context()))
	return d
}

// appleID is what the keys of a message name.
func appleID(ids mdmtest.Dict) gatehouse.AppleID {
	text := func(key string) string { v, _ := ids[key].(string); return v }
	return gatehouse.AppleID{UDID: text("UDID"), EnrollmentID: text("EnrollmentID"), UserID: text("UserID") + text("EnrollmentUserID")}
}

// record is what the server knows of the enrollment that ids name.
func (h *house) record(t testing.TB, ids mdmtest.Dict) gatehouse.Device {
	t.Helper()
	var d gatehouse.Device
	must(t, h.db.View(t.Context(), func(tx storage.Tx) (err error) {
		d, err = gatehouse.FindDevice(tx, appleID(ids))
		return err
	}))
	return d
}

// queue queues a command without parameters for the channel that ids name.
func (h *house) queue(t testing.TB, ids mdmtest.Dict, requestType string, uuids ...string) {
	t.Helper()
	id := h.record(t, ids).ID
	for _, uuid := range uuids {
		must(t, h.enqueue(t.Context(), uuid, requestType, id))
	}
}

func (h *house) enqueue(ctx context.Context, uuid, requestType string, to ...gatehouse.DeviceID) error {
	plist, err := command.Build(requestType, nil, uuid)
	if err != nil {
		return err
	}
	_, rejected, err := h.mdm.Enqueue(ctx, gatehouse.NewCommand{UUID: uuid, RequestType: requestType, Plist: plist, Targets: to})
	if err == nil && len(rejected) > 0 {
		err = fmt.Errorf("rejected: %v", rejected)
	}
	return err
}

// entry is how far a command for one device has come.
func (h *house) entry(t testing.TB, uuid string) gatehouse.Entry {
	t.Helper()
	_, entries, err := h.mdm.Command(t.Context(), uuid)
	must(t, err)
	if len(entries) != 1 {
		t.Fatalf("command %s has %d entries, want 1", uuid, len(entries))
	}
	return entries[0]
}

func (h *house) wantState(t testing.TB, uuid string, want gatehouse.CommandState) {
	t.Helper()
	if got := h.entry(t, uuid).State; got != want {
		t.Errorf("command %s is %s, want %s", uuid, got, want)
	}
}

// send sends a request as it is, and returns the status and the body of the answer.
func (h *house) send(t testing.TB, p mdmtest.Prepared) (int, string) {
	t.Helper()
	req, err := p.Request(t.Context())
	must(t, err)
	return h.do(t, req)
}

func (h *house) do(t testing.TB, req *http.Request) (int, string) {
	t.Helper()
	resp, err := h.http.RoundTrip(req)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(body)
}

func (h *house) wantStatus(t testing.TB, what string, p mdmtest.Prepared, want int) {
	t.Helper()
	if got, body := h.send(t, p); got != want {
		t.Errorf("%s: %d %.200q, want %d", what, got, body, want)
	}
}

// saying is a signed check-in: what a message of this kind must have, and changes.
func saying(t testing.TB, d *mdmtest.Device, kind string, change mdmtest.Dict) mdmtest.Prepared {
	t.Helper()
	msg := d.IDs()
	msg["MessageType"] = kind
	switch kind {
	case "Authenticate", "CheckOut":
		msg["Topic"] = d.Profile().MDM.Topic
	case "TokenUpdate":
		token, magic := d.Channel().Push()
		msg["Topic"], msg["Token"], msg["PushMagic"] = d.Profile().MDM.Topic, token, magic
	}
	p, err := d.PrepareCheckIn(changed(msg, change))
	must(t, err)
	return p
}

// changed returns d with changes; nil takes a key away.
func changed(d, changes mdmtest.Dict) mdmtest.Dict {
	out := maps.Clone(d)
	for key, v := range changes {
		if v == nil {
			delete(out, key)
		} else {
			out[key] = v
		}
	}
	return out
}

// reporting is a signed message to the ServerURL.
func reporting(t testing.TB, d *mdmtest.Device, r mdmtest.Result) mdmtest.Prepared {
	t.Helper()
	p, err := d.Channel().Prepare(r)
	must(t, err)
	return p
}

// raw is a signed message of any bytes to the ServerURL.
func raw(t testing.TB, d *mdmtest.Device, body string) mdmtest.Prepared {
	t.Helper()
	p, err := d.PrepareRaw(false, []byte(body))
	must(t, err)
	return p
}

// next is the UUID of the command in hand, empty if there is none.
func next(c *mdmtest.Command) string {
	if c == nil {
		return ""
	}
	return c.UUID
}

func idle(t testing.TB, c *mdmtest.Channel) string {
	t.Helper()
	cmd, err := c.Idle(t.Context())
	must(t, err)
	return next(cmd)
}

func answer(t testing.TB, c *mdmtest.Channel, uuid, status string) string {
	t.Helper()
	cmd, err := c.Report(t.Context(), mdmtest.Result{CommandUUID: uuid, Status: status})
	must(t, err)
	return next(cmd)
}

// selfSigned is the certificate of somebody that nobody knows.
func selfSigned(t testing.TB) (*x509.Certificate, *rsa.PrivateKey) {
	t.Helper()
	pool, err := deviceKeys()
	must(t, err)
	key, err := pool.Key()
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "device"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert, key
}
