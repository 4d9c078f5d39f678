package issuance_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// neighbour is another authority, which believes whatever it is asked. It numbers its
// certificates from 1, as some do.
type neighbour struct {
	t    testing.TB
	now  func() time.Time
	cert *x509.Certificate
	sign func(tmpl *x509.Certificate, pub any) *x509.Certificate

	mu        sync.Mutex
	serial    int64
	asked     []*x509.CertificateRequest
	servers   []template.Upstream
	fetched   int
	err       error  // of the next request or challenge
	meanwhile func() // before it answers
}

func newNeighbour(t testing.TB, h *house) *neighbour {
	t.Helper()
	key := newKey(t)
	n := &neighbour{t: t, now: h.now}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Neighbour CA"},
		NotBefore: h.now().Add(-time.Hour), NotAfter: h.now().AddDate(20, 0, 0),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	n.sign = func(tmpl *x509.Certificate, pub any) *x509.Certificate {
		parent := n.cert
		if parent == nil {
			parent = tmpl
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
		if err != nil {
			t.Error(err)
			return nil
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Error(err)
		}
		return cert
	}
	n.cert = n.sign(ca, key.Public())
	return n
}

func (n *neighbour) Request(ctx context.Context, u template.Upstream, csr *x509.CertificateRequest) (*x509.Certificate, error) {
	n.mu.Lock()
	n.asked, n.servers = append(n.asked, csr), append(n.servers, u)
	meanwhile, err := n.meanwhile, n.err
	n.meanwhile, n.err = nil, nil
	n.serial++
	serial := n.serial
	n.mu.Unlock()
	if _, ok := ctx.Deadline(); !ok {
		n.t.Error("the request may take for ever")
	}
	if meanwhile != nil {
		meanwhile()
	}
	if err != nil {
		return nil, err
	}
	return n.sign(&x509.Certificate{
		SerialNumber: big.NewInt(serial), RawSubject: csr.RawSubject,
		NotBefore: n.now().Add(-time.Hour), NotAfter: n.now().Add(90 * day),
	}, csr.PublicKey), nil
}

func (n *neighbour) Challenge(_ context.Context, u template.Upstream) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fetched++
	if n.err != nil {
		return "", n.err
	}
	return fmt.Sprintf("fetched-%d", n.fetched), nil
}

func (n *neighbour) requests() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.asked)
}

// beside gives h a neighbour.
func beside(t testing.TB, h *house) *neighbour {
	t.Helper()
	n := newNeighbour(t, h)
	log := slog.New(slog.DiscardHandler)
	audit, err := event.New(event.Config{DB: h.db, Log: log, Now: h.now})
	must(t, err)
	h.Service, err = issuance.New(issuance.Config{
		DB: h.db, Depot: h.depot, Templates: h.templates, MDM: h.mdm, Audit: audit,
		Sign:      func(p []byte) ([]byte, error) { return p, nil },
		ServerURL: &url.URL{Scheme: "https", Host: "mdm.example.com"}, Upstream: n, Log: log, Now: h.now,
	})
	must(t, err)
	return n
}

// passedOn makes a template one whose requests go to a neighbour, with a static challenge.
func passedOn(tmpl *template.Template) {
	tmpl.Issuer = template.Proxy
	tmpl.Upstream = template.Upstream{
		URL: "https://ca.example.org/scep", Name: "Neighbour", Fingerprint: make([]byte, 32),
		ChallengeType: template.UpstreamStatic, Challenge: "theirs",
	}
}

// token is that in the URL of a profile.
func (c *command) token(t testing.TB, name string) string {
	t.Helper()
	at, _ := c.scep("URL").(string)
	token, ok := strings.CutPrefix(at, "https://mdm.example.com/scep/"+name+"/k/")
	if !ok || token == "" || strings.Contains(token, "/") {
		t.Fatalf("the profile's URL is %q, want one with a token", at)
	}
	return token
}

// dutiful is what a device asks for whose serial number is sn.
func dutiful(sn string) x509.CertificateRequest {
	return x509.CertificateRequest{Subject: pkix.Name{Organization: []string{"Example"}, CommonName: sn}}
}

func TestARequestIsPassedOn(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	n := beside(t, h)
	h.template(t, "wifi", func(tmpl *template.Template) {
		passedOn(tmpl)
		tmpl.SANs = template.SANs{RFC822Names: []string{"$EMAIL"}, NTPrincipalName: "$UPN"}
		tmpl.Validity = "365d" // which the neighbour does not care for
	})
	h.user(t, "ana@example.com", "Ana Bee")
	h.device(t, "d1", func(d *mdm.Device) { d.User = "ana@example.com" })
	cmd := h.send(t, "wifi", "d1")
	if got := cmd.scep("Challenge"); got != "theirs" {
		t.Errorf("the device's challenge is %q, want the neighbour's", got)
	}
	if got, _ := cmd.scep("CAFingerprint").([]byte); string(got) == string(make([]byte, 32)) {
		t.Error("the device is to believe the neighbour's authority, and asks us")
	}
	asked := dutiful("SNd1")
	asked.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: alternativeNames(t)}}
	r := request(t, "theirs", asked)
	cert, err := h.IssueProxied(t.Context(), "wifi", cmd.token(t, "wifi"), r)
	must(t, err)
	if !newNeighbourIssued(n, cert) || n.requests() != 1 || !slices.Equal(n.asked[0].Raw, r.CSR.Raw) || n.servers[0].URL != "https://ca.example.org/scep" {
		t.Error("the request did not reach the neighbour as it was, or the answer is not the neighbour's")
	}
	rec := h.record(t, cert)
	if rec.Authority != depot.ExternalAuthority || rec.Issuer != "" || rec.DeviceID != "d1" || rec.User != "ana@example.com" ||
		rec.Template != "wifi" || rec.Door != "proxy" || !strings.HasPrefix(string(rec.Serial), "1-") {
		t.Errorf("record %+v", rec)
	}
	again, err := h.IssueProxied(t.Context(), "wifi", cmd.token(t, "wifi"), r)
	if err != nil || !again.Equal(cert) || n.requests() != 1 {
		t.Errorf("the same request again: %v, passed on %d times", err, n.requests())
	}
	h.answer(t, "d1", cmd.uuid, mdm.Acknowledged)
	a := h.assignment(t, "wifi", "d1")
	if a.State != issuance.Installed || a.Current != rec.Fingerprint || !a.RenewAt.Equal(cert.NotAfter.Add(-30*day)) {
		t.Errorf("after the device has acknowledged: %+v", a)
	}
	if events := h.events(t, "certificate.issued"); len(events) != 1 || events[0].Certificate != string(rec.Serial) || events[0].Details["door"] != "proxy" {
		t.Errorf("audit log: %+v", events)
	}

	// It is renewed as it came.
	h.pass(61 * day)
	must(t, h.Renew(t.Context()))
	next := h.fetch(t, "d1")
	if next == nil || next.token(t, "wifi") == cmd.token(t, "wifi") {
		t.Fatalf("no other profile comes before the end: %+v", next)
	}
	second, err := h.IssueProxied(t.Context(), "wifi", next.token(t, "wifi"), request(t, "theirs", asked))
	must(t, err)
	if h.revoked(t, cert) != "" {
		t.Error("the first certificate is revoked before the device has the second")
	}
	h.answer(t, "d1", next.uuid, mdm.Acknowledged)
	if got := h.revoked(t, cert); got != "superseded" {
		t.Errorf("the first certificate is revoked for %q", got)
	}
	if h.revoked(t, second) != "" {
		t.Error("the second is revoked, too")
	}
	der, _, err := h.depot.RevocationList(t.Context(), h.depot.Payload())
	must(t, err)
	list, err := x509.ParseRevocationList(der)
	must(t, err)
	if len(list.RevokedCertificateEntries) != 0 {
		t.Error("our list has a certificate that is not ours")
	}
}

func newNeighbourIssued(n *neighbour, cert *x509.Certificate) bool {
	return cert != nil && slices.Equal(cert.RawIssuer, n.cert.RawSubject)
}

// alternativeNames are those of ana: an address and a user principal name.
func alternativeNames(t testing.TB) []byte {
	t.Helper()
	upn, err := asn1.Marshal(asn1.RawValue{Class: 2, Tag: 0, IsCompound: true, Bytes: append([]byte{0x0c, 15}, "ana@example.com"...)})
	must(t, err)
	oid, err := asn1.Marshal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3})
	must(t, err)
	der, err := asn1.Marshal([]asn1.RawValue{
		{Class: 2, Tag: 1, Bytes: []byte("ana@example.com")},
		{Class: 2, Tag: 0, IsCompound: true, Bytes: append(oid, upn...)},
	})
	must(t, err)
	return der
}

func TestWhatIsNotPassedOn(t *testing.T) {
	storagetest.AnyEngine(t)
	asks := func(change func(*x509.CertificateRequest)) func(testing.TB, *house, *command) (string, depot.Request) {
		return func(t testing.TB, _ *house, c *command) (string, depot.Request) {
			asked := dutiful("SNd1")
			change(&asked)
			return c.token(t, "wifi"), request(t, "theirs", asked)
		}
	}
	extension := func(oid asn1.ObjectIdentifier, der []byte) func(*x509.CertificateRequest) {
		return func(asked *x509.CertificateRequest) { asked.ExtraExtensions = []pkix.Extension{{Id: oid, Value: der}} }
	}
	for name, tt := range map[string]struct {
		do   func(testing.TB, *house, *command) (token string, r depot.Request)
		want string
	}{
		"another CN":           {asks(func(r *x509.CertificateRequest) { r.Subject.CommonName = "root" }), "subject"},
		"one more part":        {asks(func(r *x509.CertificateRequest) { r.Subject.OrganizationalUnit = []string{"Admins"} }), "subject"},
		"one part less":        {asks(func(r *x509.CertificateRequest) { r.Subject.Organization = nil }), "subject"},
		"another name":         {asks(func(r *x509.CertificateRequest) { r.DNSNames = []string{"www.example.com"} }), "san"},
		"an address":           {asks(func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{{192, 0, 2, 1}} }), "san"},
		"to be an authority":   {asks(extension(asn1.ObjectIdentifier{2, 5, 29, 19}, []byte{0x30, 3, 1, 1, 0xff})), "basic_constraints"},
		"to sign certificates": {asks(extension(asn1.ObjectIdentifier{2, 5, 29, 15}, []byte{3, 2, 2, 4})), "key_usage"},
		"another purpose":      {asks(extension(asn1.ObjectIdentifier{2, 5, 29, 37}, []byte{0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1})), "ext_key_usage"},
		"a template of Microsoft's": {
			asks(extension(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2}, append([]byte{0x1e, 4}, 0, 'C', 0, 'A'))), "template",
		},
		"an extension that nobody knows": {asks(extension(asn1.ObjectIdentifier{1, 2, 3}, []byte{5, 0})), "extensions"},

		"another challenge": {func(t testing.TB, _ *house, c *command) (string, depot.Request) {
			return c.token(t, "wifi"), request(t, "mine", dutiful("SNd1"))
		}, "challenge"},
		"no challenge": {func(t testing.TB, _ *house, c *command) (string, depot.Request) {
			return c.token(t, "wifi"), request(t, "", dutiful("SNd1"))
		}, "challenge"},
		"another token": {func(t testing.TB, _ *house, _ *command) (string, depot.Request) {
			return rand.Text(), request(t, "theirs", dutiful("SNd1"))
		}, "unknown"},
		"the challenge for a token": {func(t testing.TB, _ *house, _ *command) (string, depot.Request) {
			return "theirs", request(t, "theirs", dutiful("SNd1"))
		}, "unknown"},
		"the token of another template": {func(t testing.TB, h *house, _ *command) (string, depot.Request) {
			h.template(t, "vpn", passedOn)
			return h.sendAfter(t, "vpn", "d1").token(t, "vpn"), request(t, "theirs", dutiful("SNd1"))
		}, "another template"},
		"the token of another device": {func(t testing.TB, h *house, _ *command) (string, depot.Request) {
			h.device(t, "d2", nil)
			return h.send(t, "wifi", "d2").token(t, "wifi"), request(t, "theirs", dutiful("SNd1"))
		}, "subject"},
		"a challenge of ours for a token": {func(t testing.TB, h *house, _ *command) (string, depot.Request) {
			h.template(t, "ours", nil)
			return h.sendAfter(t, "ours", "d1").challenge(t), request(t, "theirs", dutiful("SNd1"))
		}, "another template"},
		"an expired token": {func(t testing.TB, h *house, c *command) (string, depot.Request) {
			h.pass(8 * day)
			return c.token(t, "wifi"), request(t, "theirs", dutiful("SNd1"))
		}, "expired"},
		"a device that is gone": {func(t testing.TB, h *house, c *command) (string, depot.Request) {
			h.device(t, "d1", func(d *mdm.Device) { d.State = mdm.Unenrolled })
			return c.token(t, "wifi"), request(t, "theirs", dutiful("SNd1"))
		}, "unenrolled"},
		"a template that points elsewhere now": {func(t testing.TB, h *house, c *command) (string, depot.Request) {
			h.change(t, "wifi", func(tmpl *template.Template) {
				tmpl.Upstream.URL, tmpl.Upstream.Challenge = "https://evil.example/", "theirs"
			})
			return c.token(t, "wifi"), request(t, "theirs", dutiful("SNd1"))
		}, "another server"},
		"a template of ours now": {func(t testing.TB, h *house, c *command) (string, depot.Request) {
			h.change(t, "wifi", func(tmpl *template.Template) { tmpl.Issuer, tmpl.Upstream = template.Builtin, template.Upstream{} })
			return c.token(t, "wifi"), request(t, "theirs", dutiful("SNd1"))
		}, "another authority"},
		"a key that has a certificate": {func(t testing.TB, h *house, c *command) (string, depot.Request) {
			h.device(t, "d2", nil)
			r := request(t, "theirs", dutiful("SNd1"))
			h.update(t, func(tx storage.Tx) error {
				cert, err := h.depot.Payload().Sign(r.CSR.PublicKey, depot.Contents{Name: "x", NotAfter: h.now().Add(day), NotBefore: h.now()})
				must(t, err)
				return h.depot.Record(tx, cert, depot.Certificate{Authority: "payload", Template: "x"})
			})
			return c.token(t, "wifi"), r
		}, "in use"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			n := beside(t, h)
			h.template(t, "wifi", passedOn)
			h.device(t, "d1", nil)
			cmd := h.send(t, "wifi", "d1")
			token, r := tt.do(t, h, cmd)
			cert, err := h.IssueProxied(t.Context(), "wifi", token, r)
			if err == nil || cert != nil || !strings.Contains(err.Error(), tt.want) || n.requests() != 0 {
				t.Fatalf("IssueProxied = %v, %v, passed on %d times; want a refusal with %q, and that nobody is asked", cert, err, n.requests(), tt.want)
			}
			if events := h.events(t, "certificate.refused"); len(events) != 1 || events[0].Reason != err.Error() || events[0].Outcome != event.Refused {
				t.Errorf("audit log: %+v, want the refusal", events)
			}
		})
	}
}

// sendAfter is send to a device that has other commands to run first.
func (h *house) sendAfter(t testing.TB, name string, id mdm.DeviceID) *command {
	t.Helper()
	_, rejected, err := h.Send(context.Background(), "user:admin", name, []mdm.DeviceID{id})
	must(t, err)
	if len(rejected) > 0 {
		t.Fatal(rejected)
	}
	uuid := h.assignment(t, name, id).Try
	for {
		cmd := h.fetch(t, id)
		if cmd == nil {
			t.Fatalf("no %s comes", name)
		}
		if cmd.uuid == uuid {
			return cmd
		}
		h.answer(t, id, cmd.uuid, mdm.Acknowledged)
	}
}

func (h *house) change(t testing.TB, name string, fn func(*template.Template)) {
	t.Helper()
	var tmpl template.Template
	h.view(t, func(tx storage.Tx) (err error) {
		tmpl, err = h.templates.Get(tx, name)
		return err
	})
	fn(&tmpl)
	_, _, err := h.templates.Replace(context.Background(), "test", tmpl, nil)
	must(t, err)
}

func TestATokenIsNoChallengeOfOurs(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	n := beside(t, h)
	h.template(t, "wifi", passedOn)
	h.device(t, "d1", nil)
	token := h.send(t, "wifi", "d1").token(t, "wifi")
	for _, challenge := range []string{token, "theirs"} {
		if _, err := h.IssueSCEP(t.Context(), "wifi", request(t, challenge, dutiful("SNd1"))); err == nil {
			t.Errorf("%q is good for a certificate without a token", challenge)
		}
	}
	if n.requests() != 0 || h.count(t, "wifi") != 0 {
		t.Error("a certificate was issued")
	}
}

func TestOneTokenIsOneRequest(t *testing.T) {
	h := newHouse(t)
	n := beside(t, h)
	h.template(t, "wifi", passedOn)
	h.device(t, "d1", nil)
	token := h.send(t, "wifi", "d1").token(t, "wifi")
	const racers = 8
	same := request(t, "theirs", dutiful("SNd1"))
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[string]int{}
	for i := range racers {
		r := same
		if i%2 == 1 {
			r = request(t, "theirs", dutiful("SNd1"))
		}
		wg.Go(func() {
			cert, err := h.IssueProxied(context.Background(), "wifi", token, r)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				got[string(depot.ExternalSerial(cert))]++
			case !errors.Is(err, issuance.ErrChallenge) && !errors.Is(err, depot.ErrUpstreamUnavailable):
				t.Errorf("a racer gets %v", err)
			}
		})
	}
	wg.Wait()
	if n.requests() != 1 || len(got) != 1 || h.count(t, "wifi") != 1 {
		t.Errorf("%d requests were passed on, %v came of them, %d are recorded; want one each", n.requests(), got, h.count(t, "wifi"))
	}
}

func TestANeighbourThatIsAway(t *testing.T) {
	h := newHouse(t)
	n := beside(t, h)
	h.template(t, "wifi", passedOn)
	h.device(t, "d1", nil)
	cmd := h.send(t, "wifi", "d1")
	token, r := cmd.token(t, "wifi"), request(t, "theirs", dutiful("SNd1"))

	var inside error
	n.err = fmt.Errorf("%w: it rains", depot.ErrUpstreamUnavailable)
	n.meanwhile = func() { _, inside = h.IssueProxied(context.Background(), "wifi", token, r) }
	if _, err := h.IssueProxied(t.Context(), "wifi", token, r); !errors.Is(err, depot.ErrUpstreamUnavailable) || !strings.Contains(err.Error(), "it rains") {
		t.Errorf("IssueProxied = %v, want what the neighbour says", err)
	}
	if !errors.Is(inside, depot.ErrUpstreamUnavailable) || n.requests() != 1 {
		t.Errorf("the same request meanwhile: %v, passed on %d times; want it to wait", inside, n.requests())
	}
	if events := h.events(t, "certificate.refused"); len(events) != 2 || events[0].Outcome != event.Failed {
		t.Errorf("audit log: %+v, want failures", events)
	}
	if _, err := h.IssueProxied(t.Context(), "wifi", token, request(t, "theirs", dutiful("SNd1"))); !errors.Is(err, issuance.ErrChallenge) {
		t.Errorf("another request for the token: %v, want ErrChallenge", err)
	}
	cert, err := h.IssueProxied(t.Context(), "wifi", token, r)
	if err != nil || !newNeighbourIssued(n, cert) {
		t.Errorf("the same request later: %v", err)
	}

	// One that refuses.
	h.answer(t, "d1", cmd.uuid, mdm.Acknowledged)
	token, r = h.send(t, "wifi", "d1").token(t, "wifi"), request(t, "theirs", dutiful("SNd1"))
	n.err = fmt.Errorf("%w: it says badRequest", depot.ErrUpstreamRefused)
	if _, err := h.IssueProxied(t.Context(), "wifi", token, r); !errors.Is(err, depot.ErrUpstreamRefused) || errors.Is(err, depot.ErrUpstreamUnavailable) {
		t.Errorf("IssueProxied = %v, want ErrUpstreamRefused", err)
	}

	// A server that stops while it waits holds the request up for half a minute only.
	n.meanwhile = runtime.Goexit
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		_, _ = h.IssueProxied(context.Background(), "wifi", token, r)
	}()
	<-stopped
	if _, err := h.IssueProxied(t.Context(), "wifi", token, r); !errors.Is(err, depot.ErrUpstreamUnavailable) {
		t.Errorf("at once: %v, want ErrUpstreamUnavailable", err)
	}
	h.pass(31 * time.Second)
	// And a device that does not wait for the answer gets it when it is back.
	ctx, cancel := context.WithCancel(t.Context())
	n.meanwhile, n.err = cancel, context.Canceled
	if _, err := h.IssueProxied(ctx, "wifi", token, r); !errors.Is(err, context.Canceled) {
		t.Errorf("a device that gives up: %v", err)
	}
	if _, err := h.IssueProxied(t.Context(), "wifi", token, r); err != nil {
		t.Errorf("when it is back: %v", err)
	}
}

func TestADeviceThatLeavesWhileTheNeighbourThinks(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	n := beside(t, h)
	h.template(t, "wifi", passedOn)
	h.device(t, "d1", nil)
	cmd := h.send(t, "wifi", "d1")
	n.meanwhile = func() { h.device(t, "d1", func(d *mdm.Device) { d.State = mdm.Unenrolled }) }
	cert, err := h.IssueProxied(t.Context(), "wifi", cmd.token(t, "wifi"), request(t, "theirs", dutiful("SNd1")))
	if cert != nil || !errors.Is(err, issuance.ErrChallenge) || !strings.Contains(err.Error(), "has issued 1-") || h.count(t, "wifi") != 0 {
		t.Errorf("IssueProxied = %v, %v; want no certificate, and its number in the log", cert, err)
	}
	if events := h.events(t, "certificate.refused"); len(events) != 1 || !strings.Contains(events[0].Reason, "has issued 1-") {
		t.Errorf("audit log: %+v", events)
	}
}

func TestNumbersOfNeighboursAreTheirs(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	for i, name := range []string{"here", "there"} {
		n := beside(t, h)
		n.cert.RawSubject = append(slices.Clone(n.cert.RawSubject[:len(n.cert.RawSubject)-1]), byte('0'+i))
		h.template(t, name, passedOn)
		id := mdm.DeviceID(name)
		h.device(t, id, nil)
		cert, err := h.IssueProxied(t.Context(), name, h.send(t, name, id).token(t, name), request(t, "theirs", dutiful("SN"+name)))
		must(t, err)
		if cert.SerialNumber.Int64() != 1 || h.count(t, name) != 1 {
			t.Errorf("%s: number %v, %d records", name, cert.SerialNumber, h.count(t, name))
		}
	}
}

func TestOthersPassThroughByAStaticChallenge(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	n := beside(t, h)
	h.template(t, "wifi", func(tmpl *template.Template) {
		passedOn(tmpl)
		tmpl.Upstream.ChallengeType, tmpl.Upstream.Challenge = template.UpstreamNone, ""
		tmpl.ChallengeType, tmpl.Challenge = template.Static, "for everybody there"
	})
	cert, err := h.IssueSCEP(t.Context(), "wifi", request(t, "for everybody there", dutiful("any number")))
	must(t, err)
	if rec := h.record(t, cert); !newNeighbourIssued(n, cert) || rec.Authority != depot.ExternalAuthority || rec.Door != "proxy" {
		t.Errorf("record %+v, want one of the neighbour's", rec)
	}
	asked := dutiful("any number")
	asked.Subject.Organization = []string{"Another"}
	for name, r := range map[string]depot.Request{
		"another challenge": request(t, "for everybody", dutiful("any number")),
		"another name":      request(t, "for everybody there", asked),
	} {
		if _, err := h.IssueSCEP(t.Context(), "wifi", r); err == nil || n.requests() != 1 {
			t.Errorf("%s: %v, passed on %d times", name, err, n.requests())
		}
	}
}

func TestTheDeviceAsksAnotherServerItself(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		change func(*template.Upstream)
		want   []any // challenges, one after the other
	}{
		"without a challenge": {func(*template.Upstream) {}, []any{nil, nil}},
		"with a static one":   {func(u *template.Upstream) { u.ChallengeType, u.Challenge = template.UpstreamStatic, "theirs" }, []any{"theirs", "theirs"}},
		"with one for each time": {func(u *template.Upstream) {
			u.ChallengeType, u.ChallengeURL = template.UpstreamDynamic, "https://ca.example.org/admin"
		}, []any{"fetched-1", "fetched-2"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			n := beside(t, h)
			h.template(t, "wifi", func(tmpl *template.Template) {
				passedOn(tmpl)
				tmpl.Issuer, tmpl.Validity = template.External, "90d"
				tmpl.Upstream.ChallengeType, tmpl.Upstream.Challenge = template.UpstreamNone, ""
				tt.change(&tmpl.Upstream)
			})
			h.device(t, "d1", nil)
			preview, err := h.Preview(t.Context(), "wifi", "d1")
			if err != nil || strings.Contains(string(preview.Profile), "theirs") || n.fetched != 0 {
				t.Errorf("a preview: %v, it shows the challenge, or fetches one", err)
			}
			for i, want := range tt.want {
				if i > 0 {
					h.pass(61 * day)
					must(t, h.Renew(t.Context()))
				} else {
					_, rejected, err := h.Send(t.Context(), "user:admin", "wifi", []mdm.DeviceID{"d1"})
					if err != nil || len(rejected) > 0 {
						t.Fatal(rejected, err)
					}
				}
				cmd := h.fetch(t, "d1")
				if cmd == nil {
					t.Fatalf("nothing is sent the %d. time", i+1)
				}
				if cmd.scep("URL") != "https://ca.example.org/scep" || cmd.scep("Name") != "Neighbour" || cmd.scep("Challenge") != want {
					t.Errorf("the device is to ask %v, %v, with %v", cmd.scep("URL"), cmd.scep("Name"), cmd.scep("Challenge"))
				}
				if got, _ := cmd.scep("CAFingerprint").([]byte); !slices.Equal(got, make([]byte, 32)) {
					t.Errorf("CAFingerprint %x, want the neighbour's", got)
				}
				if a := h.assignment(t, "wifi", "d1"); i > 0 && a.State != issuance.Renewing {
					t.Errorf("on the way to the next: %+v", a)
				}
				h.answer(t, "d1", cmd.uuid, mdm.Acknowledged)
				if a := h.assignment(t, "wifi", "d1"); a.State != issuance.Installed || a.Current != "" || !a.RenewAt.Equal(h.now().Add(60*day)) || !a.DueAt.Equal(a.RenewAt) {
					t.Errorf("once it has it: %+v, want it due 30 days before the end", a)
				}
			}
			if n.requests() != 0 || h.count(t, "wifi") != 0 {
				t.Error("something was passed on, or recorded")
			}
		})
	}
}

func TestACertificateOfOursEndsWhenTheIssuerChanges(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	beside(t, h)
	h.template(t, "wifi", nil)
	h.device(t, "d1", nil)
	ours := h.install(t, "wifi", "d1")
	h.change(t, "wifi", func(tmpl *template.Template) {
		passedOn(tmpl)
		tmpl.Issuer = template.External
	})
	h.pass(340 * day)
	renewal := request(t, "", asking("SNd1"))
	renewal.Signer, renewal.Renewal = ours, true
	if _, err := h.IssueSCEP(t.Context(), "wifi", renewal); !errors.Is(err, issuance.ErrExternal) {
		t.Errorf("a renewal by ours: %v, want ErrExternal", err)
	}
	must(t, h.Renew(t.Context()))
	cmd := h.fetch(t, "d1")
	if cmd == nil {
		t.Fatal("nothing is sent")
	}
	h.answer(t, "d1", cmd.uuid, mdm.Acknowledged)
	if got := h.revoked(t, ours); got != "superseded" {
		t.Errorf("the certificate of ours is revoked for %q", got)
	}
}

func TestAChallengeThatCannotBeFetched(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	n := beside(t, h)
	h.template(t, "wifi", func(tmpl *template.Template) {
		passedOn(tmpl)
		tmpl.Upstream.ChallengeType, tmpl.Upstream.Challenge = template.UpstreamDynamic, ""
		tmpl.Upstream.ChallengeURL = "https://ca.example.org/admin"
	})
	h.device(t, "d1", nil)
	h.device(t, "d2", nil)
	n.err = fmt.Errorf("%w: the password cache is full", depot.ErrUpstreamRefused)
	sent, rejected, err := h.Send(t.Context(), "user:admin", "wifi", []mdm.DeviceID{"d1", "d2"})
	must(t, err)
	if len(sent) != 0 || len(rejected) != 2 || n.fetched != 1 {
		t.Fatalf("sent %v, rejected %v, asked %d times; want both rejected, and one question", sent, rejected, n.fetched)
	}
	for i, id := range []mdm.DeviceID{"d1", "d2"} {
		if r := rejected[i]; r.DeviceID != id || r.Code != "upstream" || r.Field != "upstream.challenge_url" || !strings.Contains(r.Reason, "cache is full") {
			t.Errorf("rejected %+v", r)
		}
	}
	n.err = nil
	cmd := h.send(t, "wifi", "d1")
	if cmd.scep("Challenge") != "fetched-2" {
		t.Errorf("the challenge is %v", cmd.scep("Challenge"))
	}
	if _, err := h.IssueProxied(t.Context(), "wifi", cmd.token(t, "wifi"), request(t, "fetched-1", dutiful("SNd1"))); !errors.Is(err, issuance.ErrChallenge) {
		t.Errorf("with a challenge of before: %v, want ErrChallenge", err)
	}
	_, err = h.IssueProxied(t.Context(), "wifi", cmd.token(t, "wifi"), request(t, "fetched-2", dutiful("SNd1")))
	must(t, err)
	h.answer(t, "d1", cmd.uuid, mdm.Acknowledged)

	// A renewal that can't be made is made a day later.
	h.pass(61 * day)
	n.err = fmt.Errorf("%w: it rains", depot.ErrUpstreamUnavailable)
	must(t, h.Renew(t.Context()))
	if a := h.assignment(t, "wifi", "d1"); a.State != issuance.Failing || !strings.Contains(a.Reason, "it rains") || !a.DueAt.Equal(h.now().Add(day)) {
		t.Errorf("after a renewal that could not be made: %+v", a)
	}
	n.err = nil
	h.pass(day + time.Second)
	must(t, h.Renew(t.Context()))
	if a := h.assignment(t, "wifi", "d1"); a.State != issuance.Renewing {
		t.Errorf("a day later: %+v", a)
	}
}

func TestWithoutAWayToOthersNothingIsSent(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.template(t, "wifi", passedOn)
	h.device(t, "d1", nil)
	if _, _, err := h.Send(t.Context(), "user:admin", "wifi", []mdm.DeviceID{"d1"}); !errors.Is(err, issuance.ErrExternal) {
		t.Errorf("Send = %v, want ErrExternal", err)
	}
}
