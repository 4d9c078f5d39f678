package enroll_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/scep"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/machineinfo"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/checkin"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// gate is a house whose portal asks devices what they are, with the doors that they meet
// on their way. It is a network, too.
type gate struct {
	*house
	apple *mdmtest.DeviceCA // who the house believes to be Apple
	mux   *http.ServeMux

	mu     sync.Mutex
	denied error // why the last statement was refused
}

// The authority that houses take for Apple, and another one with its name.
var (
	apple    = sync.OnceValues(mdmtest.NewDeviceCA)
	impostor = sync.OnceValues(mdmtest.NewDeviceCA)
	pool     = sync.OnceValues(func() (*mdmtest.KeyPool, error) { return mdmtest.NewKeyPool(2048) })
)

func newGate(t testing.TB, check enroll.SignatureCheck) *gate {
	t.Helper()
	g := gateOn(t, storagetest.Open(t), &clock{time: time.Now().UTC().Truncate(time.Second)})
	g.set(t, func(s *enroll.Settings) { s.ProfileService, s.DeviceSignature = true, check })
	return g
}

// gateOn is one replica of those on a store.
func gateOn(t testing.TB, db storage.DB, c *clock) *gate {
	t.Helper()
	keyring.reset()
	ca := must2(apple())(t)
	pinned := machineinfo.Pin(ca.Certificate)
	g := &gate{apple: ca, mux: http.NewServeMux()}
	g.house = houseOn(t, db, c, func(c *enroll.Config) { c.DeviceCAs = &pinned })
	log := slog.New(slog.DiscardHandler)
	door := func(a *depot.Authority, issue func(context.Context, depot.Request) (*x509.Certificate, error)) http.Handler {
		return must2(scep.New(scep.Config{Authorities: []*depot.Authority{a}, Log: log, Issuer: scep.IssuerFunc(
			func(ctx context.Context, _ *depot.Authority, r depot.Request) (*x509.Certificate, error) {
				return issue(ctx, r)
			},
		)}))(t)
	}
	checkins := must2(checkin.New(checkin.Config{
		Enroll: g.Service, Log: log, Peer: func(context.Context) string { return "192.0.2.7" },
	}))(t)
	g.mux.Handle(enroll.PathCheckIn, checkins)
	g.mux.Handle(enroll.PathConnect, checkins)
	g.mux.Handle(enroll.PathSCEP, door(g.depot.Identity(), g.IssueIdentity))
	for _, method := range []string{"GET ", "POST "} {
		g.mux.Handle(method+enroll.PathOTASCEP, door(g.depot.Payload(), g.IssueDelivery))
	}
	g.mux.HandleFunc("POST "+enroll.PathOTA+"{token}", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		signed, err := g.Deliver(r.Context(), r.PathValue("token"), "192.0.2.7", body)
		g.mu.Lock()
		g.denied = err
		g.mu.Unlock()
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "application/x-apple-aspen-config")
		_, _ = w.Write(signed)
	})
	return g
}

func must2[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// RoundTrip implements [http.RoundTripper].
func (g *gate) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	r = r.Clone(r.Context())
	if r.Body == nil {
		r.Body = http.NoBody
	}
	g.mux.ServeHTTP(w, r)
	return w.Result(), nil
}

func (g *gate) set(t testing.TB, change func(*enroll.Settings)) {
	t.Helper()
	_, err := g.UpdateSettings(context.Background(), func(s *enroll.Settings) error {
		change(s)
		return nil
	})
	must(t, err)
}

// unasked does something for which nobody has to say first what a device is, such as
// enrolling by a link directly.
func (g *gate) unasked(t testing.TB, do func()) {
	t.Helper()
	g.set(t, func(s *enroll.Settings) { s.ProfileService = false })
	do()
	g.set(t, func(s *enroll.Settings) { s.ProfileService = true })
}

// enrolled is the house's.
func (g *gate) enrolled(t testing.TB, user string, id mdm.AppleID) (p phone) {
	t.Helper()
	g.unasked(t, func() { p = g.house.enrolled(t, user, id) })
	return p
}

// phone is a device that Apple made, unless o says otherwise.
func (g *gate) phone(t testing.TB, o mdmtest.Options) *mdmtest.Device {
	t.Helper()
	o.Transport, o.Now, o.AnyEnrollment = g, g.now, true
	o.Keys = must2(pool())(t)
	if o.BuiltIn == nil {
		o.BuiltIn = must2(g.apple.Issue(o.UDID))(t)
	}
	return must2(mdmtest.NewDevice(o))(t)
}

// asked is an attempt by a link, and the profile that its device gets first.
func (g *gate) asked(t testing.TB, n enroll.NewLink) (string, []byte) {
	t.Helper()
	a := g.visit(t, enroll.NewVisit{LinkCode: g.link(t, n).Code})
	return a.ID, g.profile(t, a.ID)
}

func (g *gate) profile(t testing.TB, id string) []byte {
	t.Helper()
	signed, a, err := g.VisitProfile(context.Background(), id)
	must(t, err)
	if a.Stage != enroll.ProfileDownloaded {
		t.Fatalf("the attempt is %s", a.Stage)
	}
	return signed
}

// wantRefused says that a statement was refused, why, and what the attempt tells of it.
func (g *gate) wantRefused(t testing.TB, err, want error, id, code string, stage enroll.Stage) {
	t.Helper()
	var answer *mdmtest.HTTPError
	g.mu.Lock()
	denied := g.denied
	g.mu.Unlock()
	if !errors.As(err, &answer) || !errors.Is(denied, want) {
		t.Fatalf("%v, because of %v; want %v", err, denied, want)
	}
	a := g.attempt(t, id)
	if a.Stage != stage || a.ErrorCode != code {
		t.Errorf("the attempt is %s with %q, want %s with %q", a.Stage, a.ErrorCode, stage, code)
	}
}

// certificatesOf are those of an attempt, by what they were issued as.
func (g *gate) certificatesOf(t testing.TB, id string) map[string]depot.Certificate {
	t.Helper()
	byTemplate := map[string]depot.Certificate{}
	g.view(t, func(tx storage.Tx) error {
		clear(byTemplate)
		for c, err := range g.depot.ByAttempt(tx, id) {
			if err != nil {
				return err
			}
			byTemplate[c.Template] = c
		}
		return nil
	})
	return byTemplate
}

func TestFromAProfileServiceToAnEnrolledDevice(t *testing.T) {
	for name, o := range map[string]mdmtest.Options{
		"an iPhone":                         {},
		"a Mac, which sends no chain":       {Model: mdmtest.Mac, Encoding: mdmtest.DER},
		"by SHA-1 and without attributes":   {Delivery: mdmtest.Delivery{Digest: crypto.SHA1, NoAttributes: true}},
		"by SHA-384":                        {Delivery: mdmtest.Delivery{Digest: crypto.SHA384}},
		"its challenge in the first only":   {Delivery: mdmtest.Delivery{NoChallenge: true}},
		"an old device, with a short key":   {BuiltIn: short(t)},
		"an identity that has SHA-256":      {BuiltIn: modern(t)},
		"a serial number that is not shown": {Serial: "-"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			g := newGate(t, enroll.SignatureRequire)
			ana := g.person(t, identity.NewUser{Email: "ana@example.com", Password: "correct horse"})
			a := g.visit(t, enroll.NewVisit{})
			_, err := g.SignedIn(ctx, a.ID, ana)
			must(t, err)
			_, err = g.Choose(ctx, a.ID, enroll.Choice{Ownership: mdm.Personal})
			must(t, err)
			d := g.phone(t, o)
			raw := g.profile(t, a.ID)
			if !mdmtest.IsProfileService(raw) {
				t.Fatal("the portal hands out another profile")
			}
			changed, stop := g.Watch(a.ID)
			defer stop()
			final, err := d.Deliver(ctx, raw)
			must(t, err)
			<-changed // the page that shows it looks again
			f := g.attempt(t, a.ID)
			want := enroll.Stated{UDID: d.ID(), SerialNumber: d.Options().Serial, Product: f.Stated.Product, Build: d.Options().Build, Genuine: true, At: f.Stated.At}
			if *f.Stated != want || f.Stated.Product == "" || f.Stage != enroll.ProfileDownloaded || f.ErrorCode != "" || f.Before != nil {
				t.Errorf("the attempt is %+v, stated %+v, want %+v", f, f.Stated, want)
			}
			must(t, d.EnrollProfile(ctx, final))
			got := g.device(t, mdm.AppleID{UDID: d.ID()})
			reduced := enroll.Rights{Preset: enroll.PresetReduced}.Bits()
			if got.State != mdm.Enrolled || got.User != "ana@example.com" || got.Ownership != mdm.Personal || got.AccessRights != reduced || got.AttemptID != a.ID {
				t.Errorf("the device is %+v", got)
			}
			if n, err := d.Poll(ctx); err != nil || n != 0 {
				t.Errorf("Poll = %d, %v", n, err)
			}
			certificates := g.certificatesOf(t, a.ID)
			if len(certificates) != 2 {
				t.Fatalf("certificates: %v", certificates)
			}
			c := certificates["profile service"]
			if c.Authority != g.depot.Payload().Name() || c.RevokedAt.IsZero() || c.DeviceID != "" || c.NotAfter.Sub(c.IssuedAt) > time.Hour {
				t.Errorf("the certificate of the delivery is %+v", c)
			}
			g.view(t, func(tx storage.Tx) error {
				der, err := g.depot.DER(tx, c.Fingerprint)
				if err != nil {
					return err
				}
				cert, err := x509.ParseCertificate(der)
				if err != nil {
					return err
				}
				if len(cert.ExtKeyUsage) != 0 || len(cert.UnknownExtKeyUsage) != 1 {
					t.Errorf("it is good for %v %v", cert.ExtKeyUsage, cert.UnknownExtKeyUsage)
				}
				return nil
			})
		})
	}
}

// short is the built-in identity of a device of old.
func short(t testing.TB) *mdmtest.BuiltIn {
	t.Helper()
	key := must2(rsa.GenerateKey(rand.Reader, 1024))(t)
	return must2(must2(apple())(t).IssueFor("old", key))(t)
}

// modern is one whose issuer has left SHA-1.
func modern(t testing.TB) *mdmtest.BuiltIn {
	t.Helper()
	ca := *must2(apple())(t)
	ca.Algorithm = x509.SHA256WithRSA
	return must2(ca.Issue("new"))(t)
}

func TestSignaturesOfStrangers(t *testing.T) {
	storagetest.AnyEngine(t)
	stranger := must2(must2(impostor())(t).Issue("stranger"))(t)
	for check, want := range map[enroll.SignatureCheck]error{
		enroll.SignatureOff: nil, enroll.SignatureLog: nil, enroll.SignatureRequire: machineinfo.ErrNotApple,
	} {
		t.Run(string(check), func(t *testing.T) {
			g := newGate(t, check)
			id, raw := g.asked(t, enroll.NewLink{})
			_, err := g.phone(t, mdmtest.Options{BuiltIn: stranger}).Deliver(context.Background(), raw)
			if want != nil {
				g.wantRefused(t, err, want, id, "device_not_genuine", enroll.ProfileDownloaded)
				// It can be tried again, by one of Apple's.
				_, err = g.phone(t, mdmtest.Options{}).Deliver(context.Background(), raw)
			}
			must(t, err)
			if a := g.attempt(t, id); a.Stated.Genuine != (want != nil) || a.ErrorCode != "" {
				t.Errorf("the attempt is %+v, stated %+v", a, a.Stated)
			}
		})
	}
}

// TestStatementsThatAreRefused changes one thing of each.
func TestStatementsThatAreRefused(t *testing.T) {
	storagetest.AnyEngine(t)
	g := newGate(t, enroll.SignatureRequire)
	ctx := context.Background()
	type story struct {
		d  *mdmtest.Device
		p  *mdmtest.ProfileService
		id string
	}
	builtin := func(s story) *mdmtest.BuiltIn { return must2(s.d.BuiltIn())(t) }
	signed := func(s story, sign mdmtest.Signature, content []byte) error {
		sign.Certificate, sign.Key = builtin(s).Certificate, builtin(s).Key
		body := must2(sign.Sign(content))(t)
		_, err := s.d.Post(ctx, mdmtest.Prepared{Method: "POST", URL: s.p.URL, Body: body})
		return err
	}
	plain := func(s story) []byte { return must2(mdmtest.MarshalPlist(s.d.Statement(s.p)))(t) }
	for name, tt := range map[string]struct {
		tell func(story) error
		want error
		code string
	}{
		"no signer":              {func(s story) error { return signed(s, mdmtest.Signature{Signers: -1}, plain(s)) }, guard.ErrCMS, "statement_invalid"},
		"two signers":            {func(s story) error { return signed(s, mdmtest.Signature{Signers: 2}, plain(s)) }, guard.ErrCMS, "statement_invalid"},
		"a signature of its own": {func(s story) error { return signed(s, mdmtest.Signature{Detached: true}, plain(s)) }, guard.ErrCMS, "statement_invalid"},
		"a binary plist":         {func(s story) error { return signed(s, mdmtest.Signature{}, []byte("bplist00\xd1\x01\x02")) }, guard.ErrBinaryPlist, "statement_invalid"},
		"attributes that were tampered with": {func(s story) error {
			p := must2(s.d.PrepareStatement(s.p, s.d.Statement(s.p), builtin(s)))(t)
			p.Body = bytes.Replace(p.Body, []byte(s.d.Options().Serial), []byte("C02TAMPERED1")[:len(s.d.Options().Serial)], 1)
			_, err := s.d.Post(ctx, p)
			return err
		}, guard.ErrSignature, "statement_invalid"},
		"more than is read": {func(s story) error {
			return signed(s, mdmtest.Signature{}, bytes.Repeat([]byte(" "), machineinfo.MaxSize))
		}, guard.ErrTooLarge, "statement_invalid"},
		"no UDID": {func(s story) error {
			statement := s.d.Statement(s.p)
			delete(statement, "UDID")
			_, err := s.d.Tell(ctx, s.p, statement, builtin(s))
			return err
		}, enroll.ErrStatement, "statement_invalid"},
		"a UDID that is none": {func(s story) error {
			statement := s.d.Statement(s.p)
			statement["UDID"] = "../../etc"
			_, err := s.d.Tell(ctx, s.p, statement, builtin(s))
			return err
		}, enroll.ErrStatement, "statement_invalid"},
		"no challenge": {func(s story) error {
			statement := s.d.Statement(s.p)
			delete(statement, "CHALLENGE")
			_, err := s.d.Tell(ctx, s.p, statement, builtin(s))
			return err
		}, enroll.ErrDelivery, "delivery_over"},
		"the challenge of another": {func(s story) error {
			_, raw := g.asked(t, enroll.NewLink{})
			statement := s.d.Statement(s.p)
			statement["CHALLENGE"] = must2(s.d.ProfileService(raw))(t).Challenge
			_, err := s.d.Tell(ctx, s.p, statement, builtin(s))
			return err
		}, enroll.ErrDelivery, "delivery_over"},
		"a profile that has expired": {func(s story) error {
			g.clock.pass(2 * time.Hour)
			_, err := s.d.Tell(ctx, s.p, s.d.Statement(s.p), builtin(s))
			return err
		}, enroll.ErrDelivery, "delivery_over"},
	} {
		t.Run(name, func(t *testing.T) {
			d := g.phone(t, mdmtest.Options{Encoding: mdmtest.DER})
			id, raw := g.asked(t, enroll.NewLink{})
			s := story{d, must2(d.ProfileService(raw))(t), id}
			g.wantRefused(t, tt.tell(s), tt.want, id, tt.code, enroll.ProfileDownloaded)
			if a := g.attempt(t, id); a.Stated != nil || len(g.certificatesOf(t, id)) > 0 {
				t.Errorf("it left something: %+v", a)
			}
			// A person who is told tries again, and that clears the trouble.
			must(t, d.EnrollProfile(ctx, g.profile(t, id)))
			if a := g.attempt(t, id); a.Stage != enroll.Enrolled || a.ErrorCode != "" {
				t.Errorf("another try: %+v", a)
			}
		})
	}
	for name, token := range map[string]string{"a token that nobody gave": "AAAAAAAAAAAAAAAAAAAAAAAAAA", "no token": " "} {
		if _, err := g.Deliver(ctx, token, "", []byte("x")); !errors.Is(err, enroll.ErrDelivery) {
			t.Errorf("%s: %v, want ErrDelivery", name, err)
		}
	}
}

// TestWhoIsTurnedAwayBeforeTheProfile finds out at the first statement what Authenticate
// would find out.
func TestWhoIsTurnedAwayBeforeTheProfile(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	const udid, serial = "00008140-0001", "C02LISTED001"
	for name, tt := range map[string]struct {
		before func(t *testing.T, g *gate)
		link   enroll.NewLink
		want   error
		code   string
	}{
		"its serial number is listed": {link: enroll.NewLink{SerialNumbers: []string{"c02listed001", "C02OTHER0001"}}},
		"its serial number is not":    {link: enroll.NewLink{SerialNumbers: []string{"C02OTHER0001"}}, want: enroll.ErrSerialNumber, code: "serial_number_not_listed"},
		"it is blocked": {before: func(t *testing.T, g *gate) {
			_, err := g.Block(ctx, g.enrolled(t, "ana@example.com", mdm.AppleID{UDID: udid}).device(t).ID)
			must(t, err)
		}, link: enroll.NewLink{User: "ana@example.com"}, want: mdm.ErrBlocked, code: "device_blocked"},
		"it is somebody else's": {before: func(t *testing.T, g *gate) {
			g.enrolled(t, "eve@example.com", mdm.AppleID{UDID: udid})
		}, link: enroll.NewLink{User: "ana@example.com"}, want: enroll.ErrDeviceOwned, code: "device_owned"},
		"it is the same person's": {before: func(t *testing.T, g *gate) {
			g.enrolled(t, "ana@example.com", mdm.AppleID{UDID: udid})
		}, link: enroll.NewLink{User: "ana@example.com"}},
		"it has left": {before: func(t *testing.T, g *gate) {
			must(t, g.enrolled(t, "eve@example.com", mdm.AppleID{UDID: udid}).checkOut())
		}, link: enroll.NewLink{User: "ana@example.com"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, enroll.SignatureRequire)
			if tt.before != nil {
				tt.before(t, g)
			}
			id, raw := g.asked(t, tt.link)
			d := g.phone(t, mdmtest.Options{UDID: udid, Serial: serial})
			final, err := d.Deliver(ctx, raw)
			if tt.want == nil {
				must(t, err)
				if a := g.attempt(t, id); (a.Before != nil) != (tt.before != nil) {
					t.Errorf("before, the device was %+v", a.Before)
				}
				must(t, d.EnrollProfile(ctx, final))
				return
			}
			g.wantRefused(t, err, tt.want, id, tt.code, enroll.AttemptFailed)
			if len(g.certificatesOf(t, id)) > 0 {
				t.Error("a certificate was issued")
			}
			g.wantAudited(t, "192.0.2.7", map[string]string{"attempt": id, "code": tt.code, "udid": udid, "serial_number": serial})
			if _, _, err := g.VisitProfile(ctx, id); !errors.Is(err, enroll.ErrAttemptOver) {
				t.Errorf("another profile: %v, want ErrAttemptOver", err)
			}
		})
	}
}

// device is what the server knows of a phone.
func (p phone) device(t testing.TB) mdm.Device { return p.h.device(t, p.id) }

// wantAudited says that a refused device is in the audit log, once.
func (h *house) wantAudited(t testing.TB, peer string, details map[string]string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, e := range h.refused {
		if e.Action != "device.refused" {
			continue
		}
		n++
		if e.Outcome != event.Refused || e.Actor != "device" || e.Peer != peer || e.Reason == "" {
			t.Errorf("the audit log has %+v", e)
		}
		for key, want := range details {
			if e.Details[key] != want {
				t.Errorf("the audit log has %s %q, want %q", key, e.Details[key], want)
			}
		}
	}
	if n != 1 {
		t.Errorf("the audit log has %d refused devices, want 1", n)
	}
}

func TestADeviceThatLostAnAnswerGetsItAgain(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	g := newGate(t, enroll.SignatureRequire)
	id, raw := g.asked(t, enroll.NewLink{})
	d := g.phone(t, mdmtest.Options{})
	p := must2(d.ProfileService(raw))(t)
	builtin := must2(d.BuiltIn())(t)
	tell := func(as *mdmtest.BuiltIn) ([]byte, error) { return d.Tell(ctx, p, d.Statement(p), as) }

	first := must2(tell(builtin))(t)
	g.clock.pass(9 * time.Minute)
	second := must2(tell(builtin))(t)
	if challengeIn(t, first) != challengeIn(t, second) {
		t.Error("the second answer has another challenge than the first")
	}
	// Who has the profile, too, gets nothing for it: not by another device, nor as another.
	other := must2(g.apple.Issue("other"))(t)
	_, err := tell(other)
	g.wantRefused(t, err, enroll.ErrDelivery, id, "delivery_over", enroll.ProfileDownloaded)
	as := d.Statement(p)
	as["UDID"] = "00008140-0002"
	_, err = d.Tell(ctx, p, as, builtin)
	g.wantRefused(t, err, enroll.ErrDelivery, id, "delivery_over", enroll.ProfileDownloaded)

	step := must2(d.Configuration(second))(t)
	ours := must2(d.DeliveryIdentity(ctx, step))(t)
	if _, err := d.DeliveryIdentity(ctx, step); err == nil {
		t.Error("a challenge bought two certificates")
	}
	_, err = tell(builtin)
	g.wantRefused(t, err, enroll.ErrDelivery, id, "delivery_over", enroll.ProfileDownloaded)

	third := must2(tell(ours))(t)
	g.clock.pass(9 * time.Minute)
	fourth := must2(tell(ours))(t)
	if challengeIn(t, third) != challengeIn(t, fourth) {
		t.Error("the last answer has another challenge than the one before")
	}
	g.clock.pass(2 * time.Minute)
	_, err = tell(ours)
	g.wantRefused(t, err, enroll.ErrDelivery, id, "delivery_over", enroll.ProfileDownloaded)

	must(t, d.EnrollProfile(ctx, fourth))
	if a := g.attempt(t, id); a.Stage != enroll.Enrolled || a.ErrorCode != "delivery_over" && a.ErrorCode != "" {
		t.Errorf("the attempt is %+v", a)
	}
	// What came too late says nothing of an attempt that has gone on.
	_, err = tell(ours)
	g.wantRefused(t, err, enroll.ErrDelivery, id, "", enroll.Enrolled)
}

func TestTheSecondStatementIsTheFirstDevices(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	g := newGate(t, enroll.SignatureLog)
	// Each is asked in turn, and has its certificate.
	type party struct {
		d    *mdmtest.Device
		p    *mdmtest.ProfileService
		ours *mdmtest.BuiltIn
		id   string
	}
	come := func(t *testing.T) party {
		id, raw := g.asked(t, enroll.NewLink{})
		d := g.phone(t, mdmtest.Options{})
		p := must2(d.ProfileService(raw))(t)
		answer := must2(d.Tell(ctx, p, d.Statement(p), must2(d.BuiltIn())(t)))(t)
		return party{d, p, must2(d.DeliveryIdentity(ctx, must2(d.Configuration(answer))(t)))(t), id}
	}
	ana, eve := come(t), come(t)
	enrolled := g.phone(t, mdmtest.Options{})
	_, another := g.asked(t, enroll.NewLink{})
	must(t, enrolled.EnrollProfile(ctx, another))
	idCert, idKey := enrolled.Identity()
	for name, tt := range map[string]struct {
		as     *mdmtest.BuiltIn
		change mdmtest.Dict
		want   error
		code   string
	}{
		"by another attempt's certificate": {eve.ours, nil, enroll.ErrStatement, "statement_invalid"},
		"by an MDM identity":               {&mdmtest.BuiltIn{Certificate: idCert, Key: idKey}, nil, enroll.ErrStatement, "statement_invalid"},
		"another UDID":                     {ana.ours, mdmtest.Dict{"UDID": eve.d.ID()}, enroll.ErrStatement, "statement_invalid"},
		"another serial number":            {ana.ours, mdmtest.Dict{"SERIAL": eve.d.Options().Serial}, enroll.ErrStatement, "statement_invalid"},
		"another challenge":                {ana.ours, mdmtest.Dict{"CHALLENGE": eve.p.Challenge}, enroll.ErrDelivery, "delivery_over"},
	} {
		t.Run(name, func(t *testing.T) {
			statement := ana.d.Statement(ana.p)
			for key, v := range tt.change {
				statement[key] = v
			}
			_, err := ana.d.Tell(ctx, ana.p, statement, tt.as)
			g.wantRefused(t, err, tt.want, ana.id, tt.code, enroll.ProfileDownloaded)
		})
	}
	t.Run("by a certificate that was revoked", func(t *testing.T) {
		_, err := g.RevokeCertificate(ctx, depot.SerialOf(eve.ours.Certificate), "keyCompromise", "user:ana")
		must(t, err)
		_, err = eve.d.Tell(ctx, eve.p, eve.d.Statement(eve.p), eve.ours)
		g.wantRefused(t, err, enroll.ErrDelivery, eve.id, "delivery_over", enroll.ProfileDownloaded)
	})
	t.Run("by a device that was blocked meanwhile", func(t *testing.T) {
		g.enrolled(t, "x", mdm.AppleID{UDID: ana.d.ID()})
		_, err := ana.d.Tell(ctx, ana.p, ana.d.Statement(ana.p), ana.ours)
		g.wantRefused(t, err, enroll.ErrDeviceOwned, ana.id, "device_owned", enroll.AttemptFailed)
		if c := g.record(t, ana.ours.Certificate); !c.RevokedAt.IsZero() {
			t.Error("what was refused has changed something")
		}
	})
}

// TestOneAttemptIsForOneDevice has two devices with profiles of the same attempt: the one
// that states last goes on.
func TestOneAttemptIsForOneDevice(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	g := newGate(t, enroll.SignatureRequire)
	id, raw := g.asked(t, enroll.NewLink{})
	first, second := g.phone(t, mdmtest.Options{}), g.phone(t, mdmtest.Options{})
	finalOfFirst := must2(first.Deliver(ctx, raw))(t)
	finalOfSecond := must2(second.Deliver(ctx, g.profile(t, id)))(t)
	if err := first.EnrollProfile(ctx, finalOfFirst); err == nil {
		t.Error("the profile of the device before is good for something")
	}
	must(t, second.EnrollProfile(ctx, finalOfSecond))
	if a := g.attempt(t, id); a.Stage != enroll.Enrolled || a.Stated.UDID != second.ID() {
		t.Errorf("the attempt is %+v, stated %+v", a, a.Stated)
	}
}

func TestTheProfileIsForTheDeviceThatStated(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	for name, o := range map[string]mdmtest.Options{
		"another device":              {},
		"a User Enrollment's secrecy": {UserEnrollment: true},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, enroll.SignatureRequire)
			id, raw := g.asked(t, enroll.NewLink{})
			honest := g.phone(t, mdmtest.Options{})
			final := must2(honest.Deliver(ctx, raw))(t)
			thief := g.phone(t, o)
			must(t, thief.Install(final))
			must(t, thief.RequestIdentity(ctx))
			var answer *mdmtest.HTTPError
			if err := thief.Authenticate(ctx); !errors.As(err, &answer) || answer.Status != http.StatusForbidden || strings.Contains(string(answer.Body), "unrecognized") {
				t.Errorf("Authenticate = %v, want a plain 403", err)
			}
			if a := g.attempt(t, id); a.Stage != enroll.AttemptFailed || a.ErrorCode != "other_device" {
				t.Errorf("the attempt is %+v", a)
			}
			details := map[string]string{"attempt": id, "code": "other_device"}
			if !o.UserEnrollment {
				details["udid"] = thief.ID()
			}
			g.wantAudited(t, "192.0.2.7", details)
		})
	}
}

func TestADeviceEnrolsInTheWayThatItsProfileSays(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	for name, tt := range map[string]struct {
		choice  enroll.Choice
		as      mdmtest.Options
		refused bool
	}{
		"a User Enrollment as one":                 {enroll.Choice{UserEnrollment: true, ManagedAppleAccount: "ana@example.com"}, mdmtest.Options{UserEnrollment: true}, false},
		"a User Enrollment as a Device Enrollment": {enroll.Choice{UserEnrollment: true, ManagedAppleAccount: "ana@example.com"}, mdmtest.Options{}, true},
		"a Device Enrollment as one":               {enroll.Choice{}, mdmtest.Options{}, false},
		"a Device Enrollment as a User Enrollment": {enroll.Choice{}, mdmtest.Options{UserEnrollment: true}, true},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, enroll.SignatureLog)
			g.set(t, func(s *enroll.Settings) { s.ProfileService = false })
			a := g.visit(t, enroll.NewVisit{LinkCode: g.link(t, enroll.NewLink{Ownership: mdm.Personal}).Code})
			_, err := g.Choose(ctx, a.ID, tt.choice)
			must(t, err)
			tt.as.OSVersion = "17.6" // the last that has User Enrollment by profile
			d := g.phone(t, tt.as)
			must(t, d.Install(g.profile(t, a.ID)))
			must(t, d.RequestIdentity(ctx))
			err = d.Authenticate(ctx)
			a = g.attempt(t, a.ID)
			if !tt.refused {
				must(t, err)
				if a.Stage != enroll.CheckedIn {
					t.Errorf("the attempt is %+v", a)
				}
				return
			}
			var answer *mdmtest.HTTPError
			if !errors.As(err, &answer) || answer.Status != http.StatusForbidden {
				t.Errorf("Authenticate = %v, want a 403", err)
			}
			if a.Stage != enroll.AttemptFailed || a.ErrorCode != "other_kind" || a.DeviceID != "" {
				t.Errorf("the attempt is %+v", a)
			}
			g.wantAudited(t, "192.0.2.7", map[string]string{"attempt": a.ID, "code": "other_kind"})
		})
	}
}

func TestALinkIsNoWayRoundTheQuestion(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		asked bool
		check enroll.SignatureCheck
		want  error
	}{
		"where only Apple's devices are let in":             {true, enroll.SignatureRequire, enroll.ErrServiceRequired},
		"where others are logged":                           {true, enroll.SignatureLog, nil},
		"where nobody looks":                                {true, enroll.SignatureOff, nil},
		"where nobody is asked, whatever the settings hold": {false, enroll.SignatureRequire, nil},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, tt.check)
			g.set(t, func(s *enroll.Settings) { s.ProfileService = tt.asked })
			_, _, err := g.NewEnrollment(context.Background(), g.link(t, enroll.NewLink{}).Code)
			if !errors.Is(err, tt.want) {
				t.Errorf("NewEnrollment = %v, want %v", err, tt.want)
			}
			page, _, err := g.Attempts(context.Background(), "", 10)
			must(t, err)
			if (len(page) == 0) != (tt.want != nil) {
				t.Errorf("there are %d attempts", len(page))
			}
		})
	}
}

// TestAnOldProfileSaysNothingOfALaterOne has something wrong with the first of two profiles of
// one attempt.
func TestAnOldProfileSaysNothingOfALaterOne(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	link := enroll.NewLink{SerialNumbers: []string{"C02LISTED001"}}
	listed := mdmtest.Options{Serial: "C02LISTED001"}
	for name, tt := range map[string]struct {
		between func(g *gate) // the two downloads
		comes   bool          // the device has come with the later one
		with    mdmtest.Options
		want    error
		code    string // of the attempt
		stage   enroll.Stage
	}{
		"it has expired": {between: func(g *gate) { g.clock.pass(2 * time.Hour) }, with: listed, want: enroll.ErrDelivery, stage: enroll.ProfileDownloaded},
		"a device that is not listed, after the other": {comes: true, want: enroll.ErrSerialNumber, stage: enroll.ProfileDownloaded},
		"a device that is not listed, before":          {want: enroll.ErrSerialNumber, code: "serial_number_not_listed", stage: enroll.AttemptFailed},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, enroll.SignatureRequire)
			id, old := g.asked(t, link)
			if tt.between != nil {
				tt.between(g)
			}
			d, later := g.phone(t, listed), g.profile(t, id)
			if tt.comes {
				p := must2(d.ProfileService(later))(t)
				must2(d.Tell(ctx, p, d.Statement(p), must2(d.BuiltIn())(t)))(t)
			}
			_, err := g.phone(t, tt.with).Deliver(ctx, old)
			g.wantRefused(t, err, tt.want, id, tt.code, tt.stage)
			if tt.stage == enroll.ProfileDownloaded {
				must(t, d.EnrollProfile(ctx, later))
			}
		})
	}
}

func TestAnAnswerThatWasLostHasTheRightsOfBefore(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	g := newGate(t, enroll.SignatureRequire)
	id, raw := g.asked(t, enroll.NewLink{Ownership: mdm.Personal})
	d := g.phone(t, mdmtest.Options{})
	p := must2(d.ProfileService(raw))(t)
	step := must2(d.Tell(ctx, p, d.Statement(p), must2(d.BuiltIn())(t)))(t)
	ours := must2(d.DeliveryIdentity(ctx, must2(d.Configuration(step))(t)))(t)
	must2(d.Tell(ctx, p, d.Statement(p), ours))(t)
	rights := g.attempt(t, id).AccessRights
	g.set(t, func(s *enroll.Settings) { s.Personal.Rights.Preset = enroll.PresetFull })
	again := must2(d.Tell(ctx, p, d.Statement(p), ours))(t)
	if got := payloads(t, again)["com.apple.mdm"]["AccessRights"]; got != uint64(rights) {
		t.Errorf("the same question has AccessRights %v, and had %d", got, rights)
	}
	must(t, d.EnrollProfile(ctx, again))
	if got := g.device(t, mdm.AppleID{UDID: d.ID()}).AccessRights; got != rights {
		t.Errorf("the device is known with %d, want %d", got, rights)
	}
}

// TestADeliveryIsAsGoodAsItsAttempt has the attempt go another way meanwhile.
func TestADeliveryIsAsGoodAsItsAttempt(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	for name, tt := range map[string]struct {
		meanwhile func(t *testing.T, g *gate, id string)
		want      error
	}{
		"the person tries again": {func(t *testing.T, g *gate, id string) {
			_, err := g.TryAgain(ctx, id)
			must(t, err)
		}, enroll.ErrDelivery},
		"the person tries again, and has another profile": {func(t *testing.T, g *gate, id string) {
			_, err := g.TryAgain(ctx, id)
			must(t, err)
			g.profile(t, id)
		}, enroll.ErrDelivery},
		"the person chooses otherwise": {func(t *testing.T, g *gate, id string) {
			_, err := g.Choose(ctx, id, enroll.Choice{Ownership: mdm.Personal, UserEnrollment: true, ManagedAppleAccount: "ana@example.com"})
			must(t, err)
		}, enroll.ErrDelivery},
		"the link is withdrawn": {func(t *testing.T, g *gate, id string) {
			must(t, g.RevokeLink(ctx, g.attempt(t, id).LinkID))
		}, enroll.ErrDelivery},
		"another device takes its last use": {func(t *testing.T, g *gate, id string) {
			l, err := g.Link(ctx, g.attempt(t, id).LinkID)
			must(t, err)
			g.unasked(t, func() { g.withIdentity(t, l, iphone) })
		}, enroll.ErrDelivery},
		"the person is given up": {func(t *testing.T, g *gate, id string) {
			u := g.person(t, identity.NewUser{Email: "ana@example.com", Password: "correct horse"})
			never := true
			_, err := must2(identity.New(identity.Config{DB: g.db, Log: slog.New(slog.DiscardHandler), Now: g.now, HashMemory: 64}))(t).UpdateUser(ctx, identity.Local(), u.ID, identity.UserChange{NoEnroll: &never})
			must(t, err)
		}, enroll.ErrUserDisabled},
		"the link expires": {func(t *testing.T, g *gate, id string) { g.clock.pass(45 * time.Minute) }, nil},
		"the settings ask no more": {func(t *testing.T, g *gate, id string) {
			g.set(t, func(s *enroll.Settings) { s.ProfileService = false })
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, enroll.SignatureRequire)
			id, raw := g.asked(t, enroll.NewLink{Ownership: mdm.Personal, User: "ana@example.com", ExpiresIn: 30 * time.Minute})
			d := g.phone(t, mdmtest.Options{})
			p := must2(d.ProfileService(raw))(t)
			answer := must2(d.Tell(ctx, p, d.Statement(p), must2(d.BuiltIn())(t)))(t)
			step := must2(d.Configuration(answer))(t)
			ours := must2(d.DeliveryIdentity(ctx, step))(t)
			tt.meanwhile(t, g, id)
			_, err := d.Tell(ctx, p, d.Statement(p), ours)
			if tt.want == nil {
				must(t, err)
				return
			}
			if a := g.attempt(t, id); a.Stage == enroll.IdentityIssued || len(g.certificatesOf(t, id)) != 1 {
				t.Errorf("the attempt is %+v", a)
			}
			a := g.attempt(t, id)
			g.wantRefused(t, err, tt.want, id, a.ErrorCode, a.Stage)
		})
	}
}

func TestAUserEnrollmentIsAskedNothing(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	g := newGate(t, enroll.SignatureRequire)
	a := g.visit(t, enroll.NewVisit{LinkCode: g.link(t, enroll.NewLink{Ownership: mdm.Personal}).Code})
	_, err := g.Choose(ctx, a.ID, enroll.Choice{Ownership: mdm.Personal, UserEnrollment: true, ManagedAppleAccount: "ana@example.com"})
	must(t, err)
	if mdmtest.IsProfileService(g.profile(t, a.ID)) {
		t.Error("it is asked for its UDID")
	}
}

// TestCertificatesOfDeliveriesAreNoIdentities speaks to every door of this package.
func TestCertificatesOfDeliveriesAreNoIdentities(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	g := newGate(t, enroll.SignatureRequire)
	_, raw := g.asked(t, enroll.NewLink{})
	d := g.phone(t, mdmtest.Options{})
	p := must2(d.ProfileService(raw))(t)
	answer := must2(d.Tell(ctx, p, d.Statement(p), must2(d.BuiltIn())(t)))(t)
	secret := challengeIn(t, answer)
	if _, err := g.IssueIdentity(ctx, request(t, keyring.take(t), secret)); !errors.Is(err, enroll.ErrChallenge) {
		t.Errorf("an identity for the challenge of a delivery: %v, want ErrChallenge", err)
	}
	cert, err := g.IssueDelivery(ctx, request(t, keyring.take(t), secret))
	must(t, err)
	peer := enroll.Peer{Certificate: cert}
	wantErr(t, "Authenticate", g.Authenticate(ctx, peer, enroll.AuthenticateMessage{ID: iphone}), enroll.ErrUnidentified)
	_, err = g.Connect(ctx, peer, enroll.ConnectMessage{ID: iphone, Idle: true})
	wantErr(t, "a poll", err, enroll.ErrUnidentified)
	renewal := request(t, keyring.take(t), "")
	renewal.Signer, renewal.Renewal = cert, true
	_, err = g.IssueIdentity(ctx, renewal)
	wantErr(t, "a renewal as an identity", err, enroll.ErrRenewal)
	_, err = g.IssueDelivery(ctx, renewal)
	wantErr(t, "a renewal as it is", err, enroll.ErrChallenge)
	g.unasked(t, func() {
		other, _ := g.challenge(t, g.link(t, enroll.NewLink{}))
		_, err = g.IssueDelivery(ctx, request(t, keyring.take(t), other))
	})
	wantErr(t, "the challenge of an enrollment", err, enroll.ErrChallenge)
}

// TestTwoReplicasDeliver has a device's two statements answered by one each.
func TestTwoReplicasDeliver(t *testing.T) {
	ctx := context.Background()
	g := newGate(t, enroll.SignatureRequire)
	h := gateOn(t, g.db, g.clock)
	id, raw := g.asked(t, enroll.NewLink{})
	d := g.phone(t, mdmtest.Options{})
	p := must2(d.ProfileService(raw))(t)
	builtin := must2(d.BuiltIn())(t)
	prepared := must2(d.PrepareStatement(p, d.Statement(p), builtin))(t)

	// Both at once are one statement and its repetition.
	var wait sync.WaitGroup
	answers := make([][]byte, 2)
	errs := make([]error, 2)
	token := p.URL[strings.LastIndex(p.URL, "/")+1:]
	for i, s := range []*gate{g, h} {
		wait.Go(func() { answers[i], errs[i] = s.Deliver(ctx, token, "", prepared.Body) })
	}
	wait.Wait()
	must(t, errors.Join(errs...))
	if challengeIn(t, answers[0]) != challengeIn(t, answers[1]) {
		t.Error("two replicas gave two challenges")
	}
	ours := must2(d.DeliveryIdentity(ctx, must2(d.Configuration(answers[1]))(t)))(t)
	last := must2(d.PrepareStatement(p, d.Statement(p), ours))(t)
	final, err := h.Deliver(ctx, token, "", last.Body)
	must(t, err)
	must(t, d.EnrollProfile(ctx, final))
	if a := h.attempt(t, id); a.Stage != enroll.Enrolled {
		t.Errorf("the attempt is %+v", a)
	}
}

// TestOnlyTheLatestProfilesAreGoodForSomething downloads for an attempt over and over.
func TestOnlyTheLatestProfilesAreGoodForSomething(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	count := func(g *gate, bucket string) (n int) {
		g.view(t, func(tx storage.Tx) error {
			n = 0
			for _, err := range tx.Scan(bucket, storage.Range{}) {
				if err != nil {
					return err
				}
				n++
			}
			return nil
		})
		return n
	}
	const many, kept = 20, 8
	t.Run("enrollment profiles", func(t *testing.T) {
		g := newGate(t, enroll.SignatureOff)
		g.set(t, func(s *enroll.Settings) { s.ProfileService = false })
		a := g.visit(t, enroll.NewVisit{LinkCode: g.link(t, enroll.NewLink{}).Code})
		var secrets []string
		for i := range many {
			if i == many/2 { // another round is no way round it
				_, err := g.TryAgain(ctx, a.ID)
				must(t, err)
			}
			secrets = append(secrets, challengeIn(t, g.profile(t, a.ID)))
		}
		if n := count(g, "challenges"); n != kept {
			t.Errorf("%d challenges are kept, want %d", n, kept)
		}
		_, err := g.IssueIdentity(ctx, request(t, keyring.take(t), secrets[many-kept-1]))
		wantErr(t, "the ninth last", err, enroll.ErrChallenge)
		_, err = g.IssueIdentity(ctx, request(t, keyring.take(t), secrets[many-kept]))
		must(t, err)
	})
	t.Run("profiles that ask the device", func(t *testing.T) {
		g := newGate(t, enroll.SignatureOff)
		id, raw := g.asked(t, enroll.NewLink{})
		profiles := [][]byte{raw}
		for range many - 1 {
			profiles = append(profiles, g.profile(t, id))
		}
		if n := count(g, "enroll.deliveries"); n != kept {
			t.Errorf("%d deliveries are kept, want %d", n, kept)
		}
		_, err := g.phone(t, mdmtest.Options{}).Deliver(ctx, profiles[many-kept-1])
		g.wantRefused(t, err, enroll.ErrDelivery, id, "", enroll.ProfileDownloaded)
		must(t, g.phone(t, mdmtest.Options{}).EnrollProfile(ctx, profiles[many-kept]))
	})
}

func TestDeliveriesAreForgotten(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	g := newGate(t, enroll.SignatureRequire)
	id, raw := g.asked(t, enroll.NewLink{})
	g.clock.pass(2 * time.Hour)
	must(t, g.Round(ctx))
	_, err := g.phone(t, mdmtest.Options{}).Deliver(ctx, raw)
	g.wantRefused(t, err, enroll.ErrDelivery, id, "", enroll.ProfileDownloaded)
}

// TestSerialNumbersOfALink is the same list at Authenticate, where nobody was asked before.
func TestSerialNumbersOfALink(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		id     mdm.AppleID
		serial string
		want   error
	}{
		"one that is listed":       {iphone, "C02LISTED001", nil},
		"listed, in small letters": {iphone, " c02listed001", nil},
		"one that is not":          {iphone, "C02OTHER0001", enroll.ErrSerialNumber},
		"none stated":              {iphone, "", enroll.ErrSerialNumber},
		"a User Enrollment":        {byod, "", enroll.ErrSerialNumber},
	} {
		t.Run(name, func(t *testing.T) {
			keyring.reset()
			h := newHouse(t)
			l := h.link(t, enroll.NewLink{SerialNumbers: []string{"C02LISTED001", "C02LISTED002"}, Uses: 3})
			p := h.withIdentity(t, l, tt.id)
			err := h.Authenticate(context.Background(), enroll.Peer{Certificate: p.cert, Address: "192.0.2.9"}, enroll.AuthenticateMessage{
				ID: p.id, Topic: "com.apple.mgmt.External.0000", Facts: mdm.Facts{SerialNumber: tt.serial},
			})
			a := h.attempt(t, h.record(t, p.cert).AttemptID)
			if tt.want == nil {
				must(t, err)
				if a.Stage != enroll.CheckedIn {
					t.Errorf("the attempt is %+v", a)
				}
				return
			}
			wantErr(t, "Authenticate", err, tt.want)
			if a.Stage != enroll.AttemptFailed || a.ErrorCode != "serial_number_not_listed" {
				t.Errorf("the attempt is %+v", a)
			}
			h.wantAudited(t, "192.0.2.9", map[string]string{"attempt": a.ID, "code": "serial_number_not_listed"})
		})
	}
}
