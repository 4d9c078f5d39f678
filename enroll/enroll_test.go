package enroll_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/depottest"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/inventory"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// house is a Service on a real store and real authorities, with a clock that the
// test moves.
type house struct {
	*enroll.Service
	mdm       *mdm.Service
	inventory *inventory.Service
	db        storage.DB
	depot     *depot.Depot
	*clock

	mu      sync.Mutex
	refused []event.Event
}

// Refused implements [enroll.Refusals].
func (h *house) Refused(_ context.Context, e event.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refused = append(h.refused, e)
}

// clock is the time of all replicas.
type clock struct {
	mu   sync.Mutex
	time time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.time
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.time = c.time.Add(d)
}

func newHouse(t testing.TB) *house {
	t.Helper()
	return houseOn(t, storagetest.Open(t), &clock{time: time.Now().UTC().Truncate(time.Second)})
}

// houseOn is one replica of those on a store.
func houseOn(t testing.TB, db storage.DB, c *clock, change ...func(*enroll.Config)) *house {
	t.Helper()
	ctx := context.Background()
	log := slog.New(slog.DiscardHandler)
	box, err := seal.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{db: db, clock: c}
	h.depot, err = depot.Open(ctx, depot.Config{DB: h.db, Box: box, Log: log, Now: h.now, KeyBits: 2048, Name: "test", NewKey: depottest.NewKey})
	if err != nil {
		t.Fatal(err)
	}
	h.mdm, err = mdm.New(mdm.Config{DB: h.db, Box: box, Log: log, Now: h.now})
	if err != nil {
		t.Fatal(err)
	}
	if h.inventory, err = inventory.New(inventory.Config{DB: h.db, MDM: h.mdm, Log: log, Now: h.now}); err != nil {
		t.Fatal(err)
	}
	topics, err := apns.NewCertificates(box, h.now)
	if err != nil {
		t.Fatal(err)
	}
	root := h.depot.Root()
	config := enroll.Config{
		DB: h.db, Box: box, Depot: h.depot, MDM: h.mdm, Topics: topics, Inventory: h.inventory, Refusals: h,
		Sign: func(p []byte) ([]byte, error) {
			return profile.Sign(p, root.Certificate(), root.Signer())
		},
		ServerURL: &url.URL{Scheme: "https", Host: "mdm.example.com"}, Organisation: "Example & Söhne", IncludeRoot: true,
		Log: log, Now: h.now,
	}
	for _, fn := range change {
		fn(&config)
	}
	if h.Service, err = enroll.New(config); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) view(t testing.TB, fn func(storage.Tx) error) {
	t.Helper()
	if err := h.db.View(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func (h *house) link(t testing.TB, n enroll.NewLink) enroll.Link {
	t.Helper()
	if n.Login == "" {
		n.Login = enroll.LoginNone
	}
	l, err := h.CreateLink(context.Background(), n)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// challenge downloads a profile by a link and returns its challenge and attempt.
func (h *house) challenge(t testing.TB, l enroll.Link) (string, enroll.Attempt) {
	t.Helper()
	signed, a, err := h.NewEnrollment(context.Background(), l.Code)
	if err != nil {
		t.Fatal(err)
	}
	return challengeIn(t, signed), a
}

// payloads returns the payloads of a profile by their type.
func payloads(t testing.TB, signed []byte) map[string]map[string]any {
	t.Helper()
	byType := make(map[string]map[string]any)
	for _, payload := range allPayloads(t, signed) {
		byType[payload["PayloadType"].(string)] = payload
	}
	return byType
}

func allPayloads(t testing.TB, signed []byte) []map[string]any {
	t.Helper()
	plain, _, err := profile.Unwrap(signed)
	if err != nil {
		t.Fatal(err)
	}
	var p struct{ PayloadContent []map[string]any }
	if err := guard.DecodePlist(plain, &p, guard.PlistLimits{}); err != nil {
		t.Fatal(err)
	}
	return p.PayloadContent
}

func challengeIn(t testing.TB, signed []byte) string {
	t.Helper()
	return payloads(t, signed)["com.apple.security.scep"]["PayloadContent"].(map[string]any)["Challenge"].(string)
}

// keys hands out RSA keys, each once in a test; making one takes a while.
type keys struct {
	mu   sync.Mutex
	made []*rsa.PrivateKey
	next int
}

var keyring keys

func (k *keys) reset() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next = 0
}

func (k *keys) take(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.next == len(k.made) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		k.made = append(k.made, key)
	}
	k.next++
	return k.made[k.next-1]
}

// request makes a SCEP request as a device's first one: signed by its new key.
func request(t testing.TB, key *rsa.PrivateKey, challenge string) depot.Request {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "whatever I like"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	self := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err = x509.CreateCertificate(rand.Reader, self, self, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return depot.Request{TransactionID: "T1", Challenge: challenge, CSR: csr, Signer: signer}
}

// phone is a device, as the server sees one: what it calls itself, and the
// certificate that it speaks with.
type phone struct {
	h    *house
	id   mdm.AppleID
	cert *x509.Certificate
}

func (p phone) peer() enroll.Peer { return enroll.Peer{Certificate: p.cert} }

func (p phone) authenticate() error {
	return p.h.Authenticate(context.Background(), p.peer(), enroll.AuthenticateMessage{
		ID: p.id, Topic: "com.apple.mgmt.External.0000", Facts: mdm.Facts{SerialNumber: "C02", ProductName: "iPhone17,2", OSVersion: "18.2"},
	})
}

func (p phone) tokenUpdate(magic string) error { return p.tokenUpdateAs(p.id, magic) }

func (p phone) tokenUpdateAs(id mdm.AppleID, magic string) error {
	return p.h.TokenUpdate(context.Background(), p.peer(), enroll.TokenUpdateMessage{
		ID: id, Push: mdm.Push{Topic: "com.apple.mgmt.External.0000", Token: []byte{1, 2, 3}, Magic: magic}, UnlockToken: []byte("unlock"),
	})
}

func (p phone) checkOut() error { return p.h.CheckOut(context.Background(), p.peer(), p.id) }

func (p phone) idle() (string, error) { return p.idleAs(p.id) }

func (p phone) idleAs(id mdm.AppleID) (string, error) {
	plist, err := p.h.Connect(context.Background(), p.peer(), enroll.ConnectMessage{ID: id, Idle: true})
	return string(plist), err
}

func (p phone) report(uuid string, state mdm.CommandState) error {
	_, err := p.h.Connect(context.Background(), p.peer(), enroll.ConnectMessage{ID: p.id, Report: mdm.Report{CommandUUID: uuid, State: state}})
	return err
}

// withIdentity gets a certificate for a device by a link.
func (h *house) withIdentity(t testing.TB, l enroll.Link, id mdm.AppleID) phone {
	t.Helper()
	secret, _ := h.challenge(t, l)
	cert, err := h.IssueIdentity(context.Background(), request(t, keyring.take(t), secret))
	if err != nil {
		t.Fatal(err)
	}
	return phone{h: h, id: id, cert: cert}
}

// enrolled enrolls a device by a link of its own.
func (h *house) enrolled(t testing.TB, user string, id mdm.AppleID) phone {
	t.Helper()
	p := h.withIdentity(t, h.link(t, enroll.NewLink{User: user}), id)
	if err := p.authenticate(); err != nil {
		t.Fatal(err)
	}
	if err := p.tokenUpdate("magic-1"); err != nil {
		t.Fatal(err)
	}
	return p
}

func (h *house) device(t testing.TB, id mdm.AppleID) mdm.Device {
	t.Helper()
	var d mdm.Device
	h.view(t, func(tx storage.Tx) (err error) {
		d, err = mdm.FindDevice(tx, id)
		return err
	})
	return d
}

func (h *house) attempt(t testing.TB, id string) enroll.Attempt {
	t.Helper()
	a, err := h.Attempt(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (h *house) enqueue(t testing.TB, uuid string, to mdm.DeviceID) {
	t.Helper()
	plist, err := command.Build("ProfileList", nil, uuid)
	if err != nil {
		t.Fatal(err)
	}
	_, rejected, err := h.mdm.Enqueue(context.Background(), mdm.NewCommand{UUID: uuid, RequestType: "ProfileList", Plist: plist, Targets: []mdm.DeviceID{to}})
	if err != nil || len(rejected) > 0 {
		t.Fatalf("Enqueue: %v, %v", rejected, err)
	}
}

func (h *house) state(t testing.TB, uuid string) mdm.CommandState {
	t.Helper()
	_, entries, err := h.mdm.Command(context.Background(), uuid)
	if err != nil {
		t.Fatal(err)
	}
	return entries[0].State
}

func (h *house) record(t testing.TB, cert *x509.Certificate) depot.Certificate {
	t.Helper()
	var rec depot.Certificate
	h.view(t, func(tx storage.Tx) (err error) {
		rec, err = h.depot.Get(tx, depot.FingerprintOf(cert))
		return err
	})
	return rec
}

var (
	iphone = mdm.AppleID{UDID: "00008120-0001"}
	mac    = mdm.AppleID{UDID: "AAAA-0001"}
	byod   = mdm.AppleID{EnrollmentID: "FB833D84-0001"}
)

func wantErr(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestFromALinkToAnEnrolledDevice(t *testing.T) {
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	l := h.link(t, enroll.NewLink{User: "ana@example.com", Ownership: mdm.Personal, Uses: 2})
	secret, a := h.challenge(t, l)
	if a.Stage != enroll.ProfileDownloaded || a.LinkID != l.ID || a.User != "ana@example.com" {
		t.Errorf("attempt = %+v", a)
	}

	cert, err := h.IssueIdentity(ctx, request(t, keyring.take(t), secret))
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != a.ID || len(cert.DNSNames)+len(cert.EmailAddresses) > 0 || cert.IsCA {
		t.Errorf("the certificate says %v, want what the server set", cert.Subject)
	}
	if got := h.attempt(t, a.ID).Stage; got != enroll.IdentityIssued {
		t.Errorf("stage = %s", got)
	}
	if l, err := h.Link(ctx, l.ID); err != nil || l.UsesLeft != 1 {
		t.Errorf("uses left = %d, %v; want 1", l.UsesLeft, err)
	}

	p := phone{h: h, id: iphone, cert: cert}
	if _, err := p.idle(); !errors.Is(err, enroll.ErrNotAuthenticated) {
		t.Errorf("a poll before Authenticate: %v", err)
	}
	if err := p.authenticate(); err != nil {
		t.Fatal(err)
	}
	d := h.device(t, iphone)
	if d.State != mdm.Pending || d.User != "ana@example.com" || d.Ownership != mdm.Personal || d.Type != mdm.TypeDevice || d.SerialNumber != "C02" {
		t.Errorf("device = %+v", d)
	}
	if a := h.attempt(t, a.ID); a.Stage != enroll.CheckedIn || a.DeviceID != d.ID {
		t.Errorf("attempt = %+v", a)
	}
	if _, err := p.idle(); !errors.Is(err, enroll.ErrNotAuthenticated) {
		t.Errorf("a poll before TokenUpdate: %v", err)
	}
	if err := p.tokenUpdate("magic"); err != nil {
		t.Fatal(err)
	}
	if a := h.attempt(t, a.ID); a.Stage != enroll.Enrolled || len(a.StageAt) != 6 {
		t.Errorf("attempt = %+v, want all six stages", a)
	}
	if rec := h.record(t, cert); rec.DeviceID != string(d.ID) || rec.AttemptID != a.ID || rec.User != "ana@example.com" {
		t.Errorf("certificate record = %+v", rec)
	}

	h.enqueue(t, "C1", d.ID)
	if plist, err := p.idle(); err != nil || plist == "" {
		t.Errorf("idle = %q, %v; want the command", plist, err)
	}
	if err := p.report("C1", mdm.Acknowledged); err != nil || h.state(t, "C1") != mdm.Acknowledged {
		t.Errorf("report: %v, state %s", err, h.state(t, "C1"))
	}
}

func TestLinksThatAreNoUse(t *testing.T) {
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	expired := h.link(t, enroll.NewLink{ExpiresIn: time.Minute})
	h.pass(time.Minute)
	revoked := h.link(t, enroll.NewLink{})
	if err := h.RevokeLink(ctx, revoked.ID); err != nil {
		t.Fatal(err)
	}
	usedUp := h.link(t, enroll.NewLink{})
	h.withIdentity(t, usedUp, iphone)
	login := h.link(t, enroll.NewLink{Login: enroll.LoginRequired})

	for name, tt := range map[string]struct {
		code string
		want error
	}{
		"unknown":             {"nonsense", enroll.ErrLinkUnknown},
		"no code":             {"", enroll.ErrLinkUnknown},
		"expired":             {expired.Code, enroll.ErrLinkExpired},
		"revoked":             {revoked.Code, enroll.ErrLinkRevoked},
		"used up":             {usedUp.Code, enroll.ErrLinkUsedUp},
		"one for after login": {login.Code, enroll.ErrLoginRequired},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := h.NewEnrollment(ctx, tt.code)
			wantErr(t, "NewEnrollment", err, tt.want)
		})
	}
	page, _, err := h.Attempts(ctx, "", 100)
	if err != nil || len(page) != 1 {
		t.Errorf("%d attempts, %v; want only the one that got a profile", len(page), err)
	}
}

func TestTheLastUseOfALinkFailsItsOtherAttempts(t *testing.T) {
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	l := h.link(t, enroll.NewLink{Uses: 1})
	late, lateAttempt := h.challenge(t, l)
	h.withIdentity(t, l, iphone)
	if a := h.attempt(t, lateAttempt.ID); a.Stage != enroll.AttemptFailed || a.ErrorCode != "link_used_up" {
		t.Errorf("the other attempt = %+v, want failed with link_used_up", a)
	}
	_, err := h.IssueIdentity(ctx, request(t, keyring.take(t), late))
	wantErr(t, "its challenge", err, enroll.ErrChallenge)
}

func TestWhatALinkMayBeMadeWith(t *testing.T) {
	for name, tt := range map[string]struct {
		n     enroll.NewLink
		field string
	}{
		"an ownership that there is none of": {enroll.NewLink{Ownership: "rented"}, "ownership"},
		"a login that there is none of":      {enroll.NewLink{Login: "maybe"}, "login"},
		"fewer than no uses":                 {enroll.NewLink{Uses: -1}, "uses"},
		"more uses than a fleet has":         {enroll.NewLink{Uses: enroll.MaxLinkUses + 1}, "uses"},
		"an end before its beginning":        {enroll.NewLink{ExpiresIn: -time.Hour}, "expires_in"},
		"a name without end":                 {enroll.NewLink{Name: string(make([]byte, 300))}, "name"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			_, err := h.CreateLink(context.Background(), tt.n)
			var fe *enroll.FieldError
			if !errors.As(err, &fe) || fe.Field != tt.field {
				t.Errorf("CreateLink = %v, want an error about %s", err, tt.field)
			}
		})
	}
}
