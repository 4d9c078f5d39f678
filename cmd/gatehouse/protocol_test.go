package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/depottest"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// composed is the whole server as compose builds it, in this process: on a
// database that can be made to fail, a clock that the test moves, and a log that
// it reads.
type composed struct {
	*server
	url   string
	http  http.RoundTripper
	db    *faultyDB
	state *state
	log   *logBuffer
	ahead atomic.Int64 // of the real time, in nanoseconds
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// faultyDB panics in the middle of the next transaction when it is told to.
type faultyDB struct {
	storage.DB
	armed atomic.Bool
}

func (f *faultyDB) View(ctx context.Context, fn func(storage.Tx) error) error {
	return f.DB.View(ctx, f.spoiled(fn))
}

func (f *faultyDB) Update(ctx context.Context, fn func(storage.Tx) error) error {
	return f.DB.Update(ctx, f.spoiled(fn))
}

func (f *faultyDB) spoiled(fn func(storage.Tx) error) func(storage.Tx) error {
	if !f.armed.CompareAndSwap(true, false) {
		return fn
	}
	return func(tx storage.Tx) error {
		_ = fn(tx)
		panic("injected")
	}
}

func (c *composed) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func newComposed(t testing.TB, change func(*config)) *composed {
	t.Helper()
	box, err := seal.New(make([]byte, seal.KeySize))
	must(t, err)
	c := &composed{db: &faultyDB{DB: storagetest.Open(t)}, log: new(logBuffer)}
	log := slog.New(slog.NewTextHandler(c.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.handler.ServeHTTP(w, r) }))
	t.Cleanup(srv.Close)
	c.url, c.http = srv.URL, srv.Client().Transport
	srv.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	serverURL, err := url.Parse(srv.URL)
	must(t, err)
	authorities, err := depot.Open(t.Context(), depot.Config{
		DB: c.db, Box: box, Log: log, Now: c.now, KeyBits: 2048, Name: "test", URL: serverURL,
		NewKey: depottest.NewKey,
	})
	must(t, err)
	c.state = &state{db: c.db, box: box, depot: authorities}
	cfg := config{tls: tlsProxy, thrift: thrift{hashMemory: 64}}
	if change != nil {
		change(&cfg)
	}
	c.server, err = compose(t.Context(), cfg, c.state, nil, serverURL, log, c.now)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server's log:\n%.20000s", c.log)
		}
	})
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (c *composed) device(t testing.TB, o mdmtest.Options) *mdmtest.Device {
	t.Helper()
	pool, err := keyPool()
	must(t, err)
	o.Keys, o.PlainHTTP, o.Now = pool, true, c.now
	if o.Transport == nil {
		o.Transport = c.http
	}
	d, err := mdmtest.NewDevice(o)
	must(t, err)
	return d
}

func (c *composed) link(t testing.TB) string {
	t.Helper()
	l, err := c.enroll.CreateLink(t.Context(), enroll.NewLink{Login: enroll.LoginNone, User: "ana@example.com", Uses: 1})
	must(t, err)
	return c.url + "/enroll/l/" + l.Code + "/profile"
}

func (c *composed) enrolled(t testing.TB, o mdmtest.Options) *mdmtest.Device {
	t.Helper()
	d := c.device(t, o)
	must(t, d.Enroll(t.Context(), c.link(t)))
	return d
}

// installed is a device that has its profile and no identity yet.
func (c *composed) installed(t testing.TB) (*mdmtest.Device, *mdmtest.SCEP) {
	t.Helper()
	d := c.device(t, mdmtest.Options{})
	raw, err := d.Download(t.Context(), c.link(t))
	must(t, err)
	must(t, d.Install(raw))
	s, err := d.SCEP(d.Profile())
	must(t, err)
	must(t, s.Discover(t.Context()))
	return d, s
}

// issued counts the identities on record.
func (c *composed) issued(t testing.TB) int {
	t.Helper()
	n := 0
	must(t, c.db.View(t.Context(), func(tx storage.Tx) error {
		all, _, err := c.state.depot.Page(tx, "", 1000)
		n = 0
		for _, cert := range all {
			if cert.Authority == c.state.depot.Identity().Name() {
				n++
			}
		}
		return err
	}))
	return n
}

// proxied is a connection through a proxy that has asked for the client's certificate.
type proxied struct {
	http.RoundTripper
	header func(http.Header)
}

func (p *proxied) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	p.header(r.Header)
	return p.RoundTripper.RoundTrip(r)
}

func TestTheClientCertificateHeader(t *testing.T) {
	storagetest.AnyEngine(t)
	const name = "X-Client-Cert"
	rfc9440 := func(c *x509.Certificate) string { return ":" + base64.StdEncoding.EncodeToString(c.Raw) + ":" }
	escaped := func(c *x509.Certificate) string {
		return url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})))
	}
	for proxy, trusted := range map[string]bool{"a trusted proxy": true, "anybody else": false} {
		t.Run("from "+proxy, func(t *testing.T) {
			c := newComposed(t, func(cfg *config) {
				cfg.clientCertHeader = name
				cfg.trustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
				if trusted {
					cfg.trustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")}
				}
			})
			wire := &proxied{c.http, func(http.Header) {}}
			d := c.device(t, mdmtest.Options{Transport: wire, Sign: mdmtest.SignTLS})
			other := c.enrolled(t, mdmtest.Options{})
			raw, err := d.Download(t.Context(), c.link(t))
			must(t, err)
			must(t, d.Install(raw))
			must(t, d.RequestIdentity(t.Context()))
			own, _ := d.Identity()
			foreign, _ := other.Identity()
			wire.header = func(h http.Header) { h.Set(name, rfc9440(own)) }
			if err := errors.Join(d.Authenticate(t.Context()), d.TokenUpdate(t.Context())); (err == nil) != trusted {
				t.Fatalf("enrolling by the header: %v, want accepted %t", err, trusted)
			}
			if !trusted {
				for what, value := range map[string]string{"RFC 9440": rfc9440(foreign), "PEM": escaped(foreign)} {
					p, err := other.Channel().Prepare(mdmtest.Result{Status: mdmtest.StatusIdle})
					must(t, err)
					p.Header.Del("Mdm-Signature")
					for _, spelling := range []string{name, "x-client-cert", "X_Client_Cert", "X-CLIENT-CERT"} {
						p.Header[spelling] = []string{value}
						if got := c.status(t, p); got != 403 {
							t.Errorf("%s as %s: %d, want 403", what, spelling, got)
						}
						delete(p.Header, spelling)
					}
				}
				return
			}
			for what, tt := range map[string]struct {
				header func(http.Header)
				want   int
			}{
				"its own, RFC 9440":        {func(h http.Header) { h.Set(name, rfc9440(own)) }, 200},
				"its own, PEM":             {func(h http.Header) { h.Set(name, escaped(own)) }, 200},
				"another's":                {func(h http.Header) { h.Set(name, rfc9440(foreign)) }, 403},
				"none":                     {func(http.Header) {}, 403},
				"an empty one":             {func(h http.Header) { h.Set(name, "") }, 403},
				"two":                      {func(h http.Header) { h[name] = []string{rfc9440(own), rfc9440(own)} }, 403},
				"garbage":                  {func(h http.Header) { h.Set(name, "garbage") }, 403},
				"cut short":                {func(h http.Header) { h.Set(name, rfc9440(own)[:200]) }, 403},
				"under the name's shadow":  {func(h http.Header) { h["X_Client_Cert"] = []string{rfc9440(own)} }, 403},
				"a stranger's, same names": {func(h http.Header) { h.Set(name, rfc9440(impostor(t, own))) }, 403},
			} {
				wire.header = tt.header
				p, err := d.Channel().Prepare(mdmtest.Result{Status: mdmtest.StatusIdle})
				must(t, err)
				req, err := p.Request(t.Context())
				must(t, err)
				resp, err := wire.RoundTrip(req)
				must(t, err)
				resp.Body.Close()
				if resp.StatusCode != tt.want {
					t.Errorf("%s: %d, want %d", what, resp.StatusCode, tt.want)
				}
			}
		})
	}
}

// impostor is a certificate that reads like cert and is signed by nobody of ours.
func impostor(t testing.TB, cert *x509.Certificate) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: cert.SerialNumber, Subject: cert.Subject, NotBefore: cert.NotBefore, NotAfter: cert.NotAfter,
	}, &x509.Certificate{Subject: cert.Issuer}, key.Public(), key)
	must(t, err)
	out, err := x509.ParseCertificate(der)
	must(t, err)
	return out
}

func (c *composed) status(t testing.TB, p mdmtest.Prepared) int {
	t.Helper()
	req, err := p.Request(t.Context())
	must(t, err)
	resp, err := c.http.RoundTrip(req)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	if bytes.Contains(body, []byte("com.apple.unrecognized.device")) {
		t.Errorf("the device is told to remove its enrollment")
	}
	return resp.StatusCode
}

func TestAPanicInTheMiddleOfAMessage(t *testing.T) {
	c := newComposed(t, nil)
	d := c.enrolled(t, mdmtest.Options{})
	var id mdm.DeviceID
	must(t, c.db.View(t.Context(), func(tx storage.Tx) error {
		found, err := mdm.FindDevice(tx, mdm.AppleID{UDID: d.ID()})
		id = found.ID
		return err
	}))
	_, err := d.Idle(t.Context())
	must(t, err)
	token := mdmtest.Dict{"UDID": d.ID(), "MessageType": "TokenUpdate", "Topic": d.Profile().MDM.Topic, "Token": []byte("t"), "PushMagic": "never"}
	update, err := d.PrepareCheckIn(token)
	must(t, err)
	poll, err := d.Channel().Prepare(mdmtest.Result{Status: mdmtest.StatusIdle})
	must(t, err)
	for name, p := range map[string]mdmtest.Prepared{"TokenUpdate": update, "Idle": poll} {
		c.db.armed.Store(true)
		req, err := p.Request(t.Context())
		must(t, err)
		resp, err := c.http.RoundTrip(req)
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != 500 || !resp.Close {
			t.Errorf("%s: %d, connection closed %t; want 500 and closed", name, resp.StatusCode, resp.Close)
		}
		if c.db.armed.Load() {
			t.Errorf("%s: the fault was never met", name)
		}
	}
	o, err := c.devices.Device(t.Context(), id)
	must(t, err)
	if o.Push.Magic == "never" {
		t.Error("what the broken transaction wrote is there")
	}
	if got := c.status(t, update); got != 200 {
		t.Errorf("the same message afterwards: %d, want 200", got)
	}
	if log := c.log.String(); strings.Count(log, "panic in a handler") != 2 || strings.Contains(log, update.Header.Get("Mdm-Signature")[:80]) {
		t.Error("the log should tell of two panics, and of no signature")
	}
}

func TestTheWholeServersLogHoldsNoSecretsOfDevices(t *testing.T) {
	storagetest.AnyEngine(t)
	c := newComposed(t, nil)
	link := c.link(t)
	d := c.device(t, mdmtest.Options{Model: mdmtest.Mac})
	must(t, d.Enroll(t.Context(), link))
	must(t, d.SetBootstrapToken(t.Context(), []byte("the-bootstrap-token")))
	_, err := d.Poll(t.Context())
	must(t, err)
	p, err := d.PrepareRaw(false, []byte("<plist><dict><key>a-value-of-a-body</key></dict></plist>"))
	must(t, err)
	p.URL += "?secret-of-a-query"
	c.status(t, p)
	wrong, err := d.SCEP(d.Profile())
	must(t, err)
	must(t, wrong.Discover(t.Context()))
	r, err := d.Request(wrong, d.Profile(), mdmtest.WithChallenge("a-wrong-challenge"))
	must(t, err)
	if _, err := wrong.Send(t.Context(), r); err == nil {
		t.Error("a wrong challenge was taken")
	}
	token, magic := d.Channel().Push()
	code := strings.Split(strings.TrimPrefix(link, c.url+"/enroll/l/"), "/")[0]
	for name, secret := range map[string]string{
		"the challenge": d.Profile().SCEP.Challenge, "a wrong challenge": "a-wrong-challenge", "the push magic": magic,
		"the push token": base64.StdEncoding.EncodeToString(token)[:30], "the bootstrap token": "the-bootstrap-token",
		"a body": "a-value-of-a-body", "a query": "secret-of-a-query", "a signature": p.Header.Get("Mdm-Signature")[:80], "the link's code": code,
	} {
		if len(secret) < 8 || strings.Contains(c.log.String(), secret) {
			t.Errorf("the log holds %s", name)
		}
	}
}

// failure sends a request that must be refused and returns the CertRep.
func failure(t *testing.T, s *mdmtest.SCEP, r *mdmtest.SCEPRequest) []byte {
	t.Helper()
	_, err := s.Send(t.Context(), r)
	var refused *mdmtest.SCEPFailure
	if !errors.As(err, &refused) || refused.FailInfo != "2" {
		t.Errorf("Send = %v, want badRequest", err)
	}
	_, body, err := s.Operate(t.Context(), r.Raw, mdmtest.POST)
	must(t, err)
	return body
}

// fixedNonce makes the nonces of requests all alike.
type fixedNonce struct{}

func (fixedNonce) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 7
	}
	return len(p), nil
}

func TestNoAnswerTellsWhatIsWrongWithAChallenge(t *testing.T) {
	storagetest.AnyEngine(t)
	c := newComposed(t, nil)
	used, s := c.installed(t)
	must(t, used.RequestIdentity(t.Context()))
	expired, _ := c.installed(t)
	revoked, _ := c.installed(t)
	links, _, err := c.enroll.Links(t.Context(), "", 100)
	must(t, err)
	c.ahead.Add(int64(2 * time.Hour))
	fresh, _ := c.installed(t)
	for _, l := range links {
		_ = c.enroll.RevokeLink(t.Context(), l.ID)
	}
	before := c.issued(t)

	s.Rand = fixedNonce{}
	const signature = 256 // bytes at the end, of RSA 2048
	at := c.now().Truncate(time.Second)
	var first []byte
	for name, challenge := range map[string][]string{
		"none":             nil,
		"a wrong one":      {"open sesame"},
		"an empty one":     {""},
		"a used one":       {used.Profile().SCEP.Challenge},
		"expired":          {expired.Profile().SCEP.Challenge},
		"of a revoked":     {revoked.Profile().SCEP.Challenge},
		"a good, lowered":  {strings.ToLower(fresh.Profile().SCEP.Challenge)},
		"a good, and more": {fresh.Profile().SCEP.Challenge + "A"},
	} {
		r, err := fresh.Request(s, fresh.Profile(), mdmtest.WithChallenge(challenge...), mdmtest.WithTransactionID("ABCDEF"))
		must(t, err)
		reply := failure(t, s, r)
		if first == nil {
			first = reply
			continue
		}
		if len(reply) != len(first) {
			t.Errorf("%s: %d bytes, others %d", name, len(reply), len(first))
			continue
		}
		lo, hi := -1, -1
		for i := range len(reply) - signature {
			if reply[i] != first[i] {
				if lo < 0 {
					lo = i
				}
				hi = i
			}
		}
		if hi-lo >= 16 && c.now().Truncate(time.Second).Equal(at) {
			t.Errorf("%s: bytes %d to %d differ, want the nonce's 16 alone", name, lo, hi)
		}
	}
	if got := c.issued(t); got != before {
		t.Errorf("%d identities were issued", got-before)
	}
	must(t, fresh.RequestIdentity(t.Context()))
}

func TestOneChallengeBuysOneCertificateOverTheWire(t *testing.T) {
	const racers = 50
	c := newComposed(t, nil)
	d, s := c.installed(t)
	requests := make([]*mdmtest.SCEPRequest, racers)
	for i := range requests {
		var err error
		requests[i], err = d.Request(s, d.Profile())
		must(t, err)
	}
	var won atomic.Int64
	var winner atomic.Pointer[mdmtest.SCEPRequest]
	var all sync.WaitGroup
	for _, r := range requests {
		all.Go(func() {
			_, err := s.Send(t.Context(), r)
			var refused *mdmtest.SCEPFailure
			switch {
			case err == nil:
				won.Add(1)
				winner.Store(r)
			case !errors.As(err, &refused):
				t.Error(err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 || c.issued(t) != 1 {
		t.Fatalf("%d got a certificate, %d are on record; want 1 and 1", won.Load(), c.issued(t))
	}
	// Who lost the answer asks again, and gets the same one.
	first, err := s.Send(t.Context(), winner.Load())
	must(t, err)
	again, err := s.Send(t.Context(), winner.Load())
	must(t, err)
	if !first.Equal(again) || c.issued(t) != 1 {
		t.Errorf("asked again, %d certificates are on record; want the same one", c.issued(t))
	}
	c.ahead.Add(int64(25 * time.Hour))
	if _, err := s.Send(t.Context(), winner.Load()); err == nil {
		t.Error("a day later the request still gets an answer")
	}
}

func TestACertificateSaysWhatTheServerSays(t *testing.T) {
	storagetest.AnyEngine(t)
	c := newComposed(t, nil)
	d, s := c.installed(t)
	extension := func(value any, id ...int) pkix.Extension {
		der, err := asn1.Marshal(value)
		must(t, err)
		return pkix.Extension{Id: id, Critical: true, Value: der}
	}
	r, err := d.Request(s, d.Profile(),
		mdmtest.WithSubject(mdmtest.Subject{{{"CN", "victim"}}, {{"O", "Another"}}}),
		mdmtest.WithExtensions(
			extension(struct{ CA bool }{true}, 2, 5, 29, 19),
			extension([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 1}, {2, 5, 29, 37, 0}}, 2, 5, 29, 37),
			extension([]asn1.RawValue{{Class: 2, Tag: 2, Bytes: []byte("mdm.example.com")}, {Class: 2, Tag: 1, Bytes: []byte("victim@example.com")}}, 2, 5, 29, 17),
		))
	must(t, err)
	cert, err := s.Send(t.Context(), r)
	must(t, err)
	if cert.Subject.CommonName == "victim" || len(cert.Subject.Organization) > 0 || len(cert.DNSNames)+len(cert.EmailAddresses)+len(cert.URIs)+len(cert.IPAddresses) > 0 {
		t.Errorf("the certificate is for %v, %v, %v", cert.Subject, cert.DNSNames, cert.EmailAddresses)
	}
	if cert.IsCA || len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || len(cert.UnknownExtKeyUsage) > 0 {
		t.Errorf("the certificate is good for %v, CA %t", cert.ExtKeyUsage, cert.IsCA)
	}
	if cert.SerialNumber.BitLen() < 64 || cert.SerialNumber.Sign() <= 0 {
		t.Errorf("serial %v", cert.SerialNumber)
	}
}

func TestARefusedRequestCostsNoChallenge(t *testing.T) {
	storagetest.AnyEngine(t)
	c := newComposed(t, nil)
	enrolled := c.enrolled(t, mdmtest.Options{})
	taken, takenKey := enrolled.Identity()
	d, s := c.installed(t)
	before := c.issued(t)
	pool, err := keyPool()
	must(t, err)
	another, err := pool.Key()
	must(t, err)
	foreign, err := pool.Key()
	must(t, err)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	small, err := mdmtest.NewKeyPool(1024)
	must(t, err)
	smallKey, err := small.Key()
	must(t, err)
	with := func(key crypto.Signer, opts ...mdmtest.SCEPOption) *mdmtest.SCEPRequest {
		r, err := s.Request(key, d.Profile().SCEP.Subject, d.Profile().SCEP.Challenge, nil, opts...)
		must(t, err)
		return r
	}
	for name, r := range map[string]*mdmtest.SCEPRequest{
		"another certificate in the message": with(another, mdmtest.WithCertificates(taken)),
		"a broken signature":                 with(another, mdmtest.WithBrokenSignature()),
		"another's public key":               with(another, mdmtest.WithPublicKey(takenKey.Public())),
		"a key that another device has":      with(takenKey),
		"an EC key":                          with(another, mdmtest.WithPublicKey(ec.Public())),
		"an EC signer":                       with(another, mdmtest.WithSignerKey(ec)),
		"an UpdateReq":                       with(another, mdmtest.WithMessageType("18")),
		"a renewal of nothing":               with(another, mdmtest.WithMessageType("17")),
		"two challenges":                     with(another, mdmtest.WithChallenge(d.Profile().SCEP.Challenge, d.Profile().SCEP.Challenge)),
		"a challenge with another's device":  with(another, mdmtest.WithSigner(taken, another)),
		"another key's signature":            with(another, mdmtest.WithSignerKey(foreign)),
		"a throw-away key, no challenge":     with(another, mdmtest.WithSigner(throwaway(t, foreign), foreign), mdmtest.WithChallenge()),
		"a throw-away key, to renew":         with(another, mdmtest.WithSigner(throwaway(t, foreign), foreign), mdmtest.WithMessageType("17")),
	} {
		t.Run(name, func(t *testing.T) {
			if cert, err := s.Send(t.Context(), r); err == nil {
				t.Errorf("got the certificate %v", cert.Subject)
			}
		})
	}
	for name, r := range map[string]*mdmtest.SCEPRequest{
		"a key of 1024 bits":    with(smallKey),
		"an attribute of 1 MiB": with(another, mdmtest.WithAttribute(attribute(t, 1<<20))),
	} {
		if _, err := s.Send(t.Context(), r); err == nil {
			t.Errorf("%s got a certificate", name)
		}
	}
	if got := c.issued(t); got != before {
		t.Errorf("%d certificates were issued", got-before)
	}
	must(t, d.RequestIdentity(t.Context()))
}

// mdmb signs its first request with a key made for that one message.
func TestASimulatorsThrowawayKeyIsNoObstacle(t *testing.T) {
	storagetest.AnyEngine(t)
	c := newComposed(t, nil)
	d, s := c.installed(t)
	pool, err := keyPool()
	must(t, err)
	key, err := pool.Key()
	must(t, err)
	foreign, err := pool.Key()
	must(t, err)
	r, err := s.Request(key, d.Profile().SCEP.Subject, d.Profile().SCEP.Challenge, nil, mdmtest.WithSigner(throwaway(t, foreign), foreign))
	must(t, err)
	cert, err := s.Send(t.Context(), r)
	must(t, err)
	if !key.PublicKey.Equal(cert.PublicKey) {
		t.Error("the certificate is for another key")
	}
}

// throwaway is a certificate as mdmb makes one for each request.
func throwaway(t testing.TB, key crypto.Signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "SCEP SIGNER"},
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert
}

// attribute is a PKCS #10 attribute with a value of n bytes.
func attribute(t testing.TB, n int) []byte {
	t.Helper()
	der, err := asn1.Marshal(struct {
		ID     asn1.ObjectIdentifier
		Values [][]byte `asn1:"set"`
	}{asn1.ObjectIdentifier{1, 2, 3, 4}, [][]byte{make([]byte, n)}})
	must(t, err)
	return der
}

// peakMemory is the most memory that a process ever held, in MiB.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skip("needs /proc")
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			must(t, err)
			return kb >> 10
		}
	}
	t.Skip("needs VmHWM")
	return 0
}

func TestManyLargeAnswersAtOnceStayWithinBounds(t *testing.T) {
	storagetest.AnyEngine(t)
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const parallel, bound = 24, 1024 // MiB: what eight answers in hand cost to decode
	s := startProcess(t, "")
	d := s.enrolled(t, 1)[0]
	var answers [3]mdmtest.Prepared
	for i, status := range []string{mdmtest.StatusAcknowledged, mdmtest.StatusNotNow, mdmtest.StatusIdle} { // the first costs most
		var err error
		answers[i], err = d.Channel().Prepare(mdmtest.Result{CommandUUID: "x", Status: status, Keys: mdmtest.Dict{"Text": strings.Repeat("x", 8<<20-4096)}})
		must(t, err)
	}
	inParallel(t, parallel, parallel, func(i int) error {
		_, err := send(s.http, answers[i%len(answers)])
		return err
	})
	peak := peakMemory(t, s.cmd.Process.Pid)
	t.Logf("peak %d MiB", peak)
	if peak > bound {
		t.Errorf("the server held %d MiB, want at most %d", peak, bound)
	}
}
