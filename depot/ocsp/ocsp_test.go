package ocsp_test

import (
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
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	xocsp "golang.org/x/crypto/ocsp"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/depottest"
	"github.com/gatehouse-mdm/gatehouse/depot/ocsp"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// house is a depot and the door in front of it, at a time that the test moves.
type house struct {
	db    *faultyDB
	depot *depot.Depot
	door  http.Handler
	clock *clock
}

// clock stands still until the test moves it; one without a start is the real one.
type clock struct {
	start time.Time
	ahead atomic.Int64
}

func (c *clock) now() time.Time {
	if c.start.IsZero() {
		return time.Now()
	}
	return c.start.Add(time.Duration(c.ahead.Load()))
}

func (c *clock) pass(d time.Duration) { c.ahead.Add(int64(d)) }

// faultyDB can be out of reach, or keep news to itself.
type faultyDB struct {
	storage.DB
	down, deaf atomic.Bool
	asked      atomic.Int64 // how many transactions there were
}

func (f *faultyDB) View(ctx context.Context, fn func(storage.Tx) error) error {
	f.asked.Add(1)
	if f.down.Load() {
		return storage.ErrUnavailable
	}
	return f.DB.View(ctx, fn)
}

func (f *faultyDB) Watch(topic string) (<-chan struct{}, func()) {
	if f.deaf.Load() {
		return nil, func() {}
	}
	return f.DB.Watch(topic)
}

func newHouse(t testing.TB) *house {
	t.Helper()
	return replica(t, &faultyDB{DB: storagetest.Open(t)}, &clock{start: time.Now()})
}

func replica(t testing.TB, db *faultyDB, clock *clock) *house {
	t.Helper()
	h := &house{db: db, clock: clock}
	c := depottest.Config(t, db)
	c.Now = h.now
	h.depot = depottest.Open(t, c)
	door, err := ocsp.New(ocsp.Config{Depot: h.depot, Log: c.Log, Now: h.now})
	must(t, err)
	mux := http.NewServeMux()
	mux.Handle("POST /ocsp", door)
	mux.Handle("GET /ocsp/{request}", door)
	h.door = ocsp.OneSegment(mux)
	return h
}

func (h *house) now() time.Time       { return h.clock.now() }
func (h *house) pass(d time.Duration) { h.clock.pass(d) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// deviceKey is one for all certificates: making them takes a while.
var deviceKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

func (h *house) issue(t testing.TB, a *depot.Authority, life time.Duration) *x509.Certificate {
	t.Helper()
	key := deviceKey()
	if a.Name() == "identity" { // no two identities have the same
		var err error
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
	}
	cert, err := a.Sign(key.Public(), depot.Contents{
		Name: "wifi", Subject: pkix.Name{CommonName: "x"}, NotBefore: h.now().Add(-time.Hour), NotAfter: h.now().Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	must(t, err)
	must(t, h.db.Update(t.Context(), func(tx storage.Tx) error {
		return h.depot.Record(tx, cert, depot.Certificate{Authority: a.Name(), Template: "wifi"})
	}))
	return cert
}

func (h *house) revoke(t testing.TB, cert *x509.Certificate, reason string) {
	t.Helper()
	must(t, h.db.Update(t.Context(), func(tx storage.Tx) error {
		return h.depot.Revoke(tx, depot.FingerprintOf(cert), reason, h.now())
	}))
}

func (h *house) send(r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	h.door.ServeHTTP(w, r)
	return w.Result()
}

func (h *house) post(t testing.TB, der []byte) []byte {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/ocsp", bytes.NewReader(der))
	r.Header.Set("Content-Type", "application/ocsp-request")
	return body(t, h.send(r))
}

func body(t testing.TB, resp *http.Response) []byte {
	t.Helper()
	data, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/ocsp-response" {
		t.Errorf("%d, %q, %.60q", resp.StatusCode, resp.Header.Get("Content-Type"), data)
	}
	return data
}

// ask is a request as a client without a nonce makes it.
func ask(t testing.TB, cert *x509.Certificate, a *depot.Authority, hash crypto.Hash) []byte {
	t.Helper()
	der, err := xocsp.CreateRequest(cert, a.Certificate(), &xocsp.RequestOptions{Hash: hash})
	must(t, err)
	return der
}

// status asks about cert, and checks all of the answer but the status.
func (h *house) status(t testing.TB, cert *x509.Certificate, a *depot.Authority) *xocsp.Response {
	t.Helper()
	return h.parse(t, h.post(t, ask(t, cert, a, crypto.SHA1)), cert, a)
}

func (h *house) parse(t testing.TB, der []byte, cert *x509.Certificate, a *depot.Authority) *xocsp.Response {
	t.Helper()
	// It checks the signature by the responder, and the responder's by a.
	resp, err := xocsp.ParseResponseForCert(der, cert, a.Certificate())
	if err != nil {
		t.Fatalf("answer %x: %v", der, err)
	}
	now := h.now()
	if resp.ThisUpdate.After(now) || !resp.NextUpdate.After(now) || resp.NextUpdate.After(resp.ThisUpdate.Add(time.Hour)) ||
		resp.ProducedAt.After(now) || resp.NextUpdate.After(resp.Certificate.NotAfter) {
		t.Errorf("at %v: produced at %v, from %v to %v, by a certificate to %v", now, resp.ProducedAt, resp.ThisUpdate, resp.NextUpdate, resp.Certificate.NotAfter)
	}
	if resp.SerialNumber.Cmp(cert.SerialNumber) != 0 {
		t.Errorf("the answer is about %x, not %x", resp.SerialNumber, cert.SerialNumber)
	}
	return resp
}

// refused wants a response of nothing but this status.
func refused(t testing.TB, what string, der []byte, status byte) {
	t.Helper()
	if want := []byte{0x30, 3, 0x0a, 1, status}; !bytes.Equal(der, want) {
		t.Errorf("%s: answer %.40x, want %x", what, der, want)
	}
}

func TestStatuses(t *testing.T) {
	h := newHouse(t)
	payload, identity := h.depot.Payload(), h.depot.Identity()
	good := h.issue(t, payload, time.Hour)
	compromised := h.issue(t, payload, time.Hour)
	unspecified := h.issue(t, payload, time.Hour)
	device := h.issue(t, identity, time.Hour)
	foreign := h.issue(t, h.depot.Root(), time.Hour)
	h.revoke(t, compromised, "keyCompromise")
	h.revoke(t, unspecified, "unspecified")
	h.revoke(t, device, "cessationOfOperation")
	revokedAt := h.now().UTC()
	expired := h.issue(t, payload, 24*time.Hour)
	expiredAndRevoked := h.issue(t, payload, 24*time.Hour)
	h.revoke(t, expiredAndRevoked, "superseded")
	responder, err := h.depot.Responder(t.Context(), payload)
	must(t, err)
	h.pass(48 * time.Hour)

	for name, tt := range map[string]struct {
		cert   *x509.Certificate
		issuer *depot.Authority
		status int
		reason int
	}{
		"good":                          {good, payload, xocsp.Good, 0},
		"revoked, with a reason":        {compromised, payload, xocsp.Revoked, xocsp.KeyCompromise},
		"revoked, without one":          {unspecified, payload, xocsp.Revoked, xocsp.Unspecified},
		"an identity that was revoked":  {device, identity, xocsp.Revoked, xocsp.CessationOfOperation},
		"expired, but never revoked":    {expired, payload, xocsp.Good, 0},
		"expired after a revocation":    {expiredAndRevoked, payload, xocsp.Revoked, xocsp.Superseded},
		"the responder's own":           {responder.Certificate(), payload, xocsp.Good, 0},
		"the issuer's own":              {payload.Certificate(), h.depot.Root(), xocsp.Good, 0},
		"of a number never issued":      {&x509.Certificate{SerialNumber: big.NewInt(4711)}, payload, xocsp.Unknown, 0},
		"issued by another authority":   {&x509.Certificate{SerialNumber: foreign.SerialNumber}, payload, xocsp.Unknown, 0},
		"of a number of 21 octets":      {&x509.Certificate{SerialNumber: new(big.Int).Lsh(big.NewInt(1), 164)}, payload, xocsp.Unknown, 0},
		"of the number zero":            {&x509.Certificate{SerialNumber: big.NewInt(0)}, payload, xocsp.Unknown, 0},
		"of a negative number":          {&x509.Certificate{SerialNumber: big.NewInt(-4711)}, payload, xocsp.Unknown, 0},
		"of the negative of a good one": {&x509.Certificate{SerialNumber: new(big.Int).Neg(good.SerialNumber)}, payload, xocsp.Unknown, 0},
	} {
		t.Run(name, func(t *testing.T) {
			for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
				resp := h.parse(t, h.post(t, ask(t, tt.cert, tt.issuer, hash)), tt.cert, tt.issuer)
				if resp.Status != tt.status || resp.RevocationReason != tt.reason {
					t.Errorf("by %v: status %d, reason %d, want %d, %d", hash, resp.Status, resp.RevocationReason, tt.status, tt.reason)
				}
				if tt.status == xocsp.Revoked && revokedAt.Sub(resp.RevokedAt).Abs() > 5*time.Second {
					t.Errorf("revoked at %v, want %v", resp.RevokedAt, revokedAt)
				}
				if resp.IssuerHash != hash {
					t.Errorf("the answer names the issuer by %v, the question by %v", resp.IssuerHash, hash)
				}
			}
		})
	}
}

// Messages as encoding/asn1 writes and reads them: another implementation than the
// one that is tested, and one that can also say what no client says.
type (
	wireCertID struct {
		Algorithm pkix.AlgorithmIdentifier
		Name, Key []byte
		Serial    *big.Int
	}
	wireSingleRequest struct {
		ID         wireCertID
		Extensions []pkix.Extension `asn1:"explicit,tag:0,optional,omitempty"`
	}
	wireTBS struct {
		Version    int           `asn1:"explicit,tag:0,optional,default:0"`
		Requestor  asn1.RawValue `asn1:"explicit,tag:1,optional"`
		List       []wireSingleRequest
		Extensions []pkix.Extension `asn1:"explicit,tag:2,optional,omitempty"`
	}
	wireRequest struct {
		TBS       wireTBS
		Signature asn1.RawValue `asn1:"explicit,tag:0,optional"`
	}
	wireResponse struct {
		Status asn1.Enumerated
		Bytes  struct {
			Type  asn1.ObjectIdentifier
			Basic []byte
		} `asn1:"explicit,tag:0"`
	}
	wireBasic struct {
		Data      wireData
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
		Certs     []asn1.RawValue `asn1:"explicit,tag:0"`
	}
	wireData struct {
		Raw        asn1.RawContent
		Responder  asn1.RawValue
		ProducedAt time.Time `asn1:"generalized"`
		Singles    []wireSingle
		Extensions []pkix.Extension `asn1:"explicit,tag:1,optional"`
	}
	wireSingle struct {
		ID     wireCertID
		Status asn1.RawValue
		At     time.Time `asn1:"generalized"`
		Next   time.Time `asn1:"explicit,tag:0,generalized"`
	}
)

var oidNonce = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	must(t, err)
	return der
}

// wire is a question about certificates of one authority.
func wire(t testing.TB, a *depot.Authority, certs ...*x509.Certificate) wireRequest {
	t.Helper()
	var r wireRequest
	for _, cert := range certs {
		var one wireRequest
		rest, err := asn1.Unmarshal(ask(t, cert, a, crypto.SHA256), &one)
		if err != nil || len(rest) > 0 {
			t.Fatal(err)
		}
		r.TBS.List = append(r.TBS.List, one.TBS.List...)
	}
	return r
}

func (r wireRequest) nonce(t testing.TB, octets int) wireRequest {
	t.Helper()
	nonce := make([]byte, octets)
	_, _ = rand.Read(nonce)
	r.TBS.Extensions = []pkix.Extension{{Id: oidNonce, Value: marshal(t, nonce)}}
	return r
}

// read reads an answer and checks its signature.
func read(t testing.TB, der []byte, a *depot.Authority) wireData {
	t.Helper()
	var resp wireResponse
	var basic wireBasic
	if rest, err := asn1.Unmarshal(der, &resp); err != nil || len(rest) > 0 || resp.Status != 0 {
		t.Fatalf("answer %x: %v", der, err)
	}
	if rest, err := asn1.Unmarshal(resp.Bytes.Basic, &basic); err != nil || len(rest) > 0 || len(basic.Certs) != 1 {
		t.Fatalf("answer %x: %v", der, err)
	}
	by, err := x509.ParseCertificate(basic.Certs[0].FullBytes)
	must(t, err)
	must(t, by.CheckSignatureFrom(a.Certificate()))
	must(t, by.CheckSignature(x509.ECDSAWithSHA256, basic.Data.Raw, basic.Signature.Bytes))
	return basic.Data
}

func TestSeveralQuestionsInOneRequest(t *testing.T) {
	h := newHouse(t)
	a := h.depot.Payload()
	good, bad := h.issue(t, a, time.Hour), h.issue(t, a, time.Hour)
	never := &x509.Certificate{SerialNumber: big.NewInt(4711)}
	device := h.issue(t, h.depot.Identity(), time.Hour)
	h.revoke(t, bad, "keyCompromise")

	r := wire(t, a, good, bad, never, good)
	r.TBS.List = append(r.TBS.List, wire(t, h.depot.Identity(), device).TBS.List...)
	stranger := r.TBS.List[0]
	stranger.ID.Algorithm.Algorithm = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 5} // MD5
	r.TBS.List = append([]wireSingleRequest{stranger}, r.TBS.List...)
	r = r.nonce(t, 32)
	data := read(t, h.post(t, marshal(t, r)), a)
	const goodTag, revokedTag, unknownTag = 0, 1, 2
	want := []int{unknownTag, goodTag, revokedTag, unknownTag, goodTag, unknownTag} // the last is of another issuer
	if len(data.Singles) != len(want) {
		t.Fatalf("%d answers to %d questions", len(data.Singles), len(want))
	}
	for i, s := range data.Singles {
		if !bytes.Equal(marshal(t, s.ID), marshal(t, r.TBS.List[i].ID)) {
			t.Errorf("answer %d is about another certificate than the question", i)
		}
		if s.Status.Class != asn1.ClassContextSpecific || s.Status.Tag != want[i] {
			t.Errorf("answer %d: status [%d], want [%d]", i, s.Status.Tag, want[i])
		}
	}
	if len(data.Extensions) != 1 || !bytes.Equal(data.Extensions[0].Value, r.TBS.Extensions[0].Value) {
		t.Errorf("the answer's extensions are %v, want the nonce of %v", data.Extensions, r.TBS.Extensions)
	}
}

func TestANonceComesBackInAnAnswerOfItsOwn(t *testing.T) {
	h := newHouse(t)
	a := h.depot.Payload()
	cert := h.issue(t, a, time.Hour)
	plain := h.post(t, marshal(t, wire(t, a, cert)))
	if len(read(t, plain, a).Extensions) != 0 {
		t.Error("an answer without a nonce has extensions")
	}
	for _, octets := range []int{1, 16, 32, 128} {
		for range 2 {
			r := wire(t, a, cert).nonce(t, octets)
			data := read(t, h.post(t, marshal(t, r)), a)
			if len(data.Extensions) != 1 || !data.Extensions[0].Id.Equal(oidNonce) || !bytes.Equal(data.Extensions[0].Value, r.TBS.Extensions[0].Value) {
				t.Errorf("nonce of %d octets: extensions %v, want %v", octets, data.Extensions, r.TBS.Extensions)
			}
		}
	}
	if again := h.post(t, marshal(t, wire(t, a, cert))); !bytes.Equal(again, plain) {
		t.Error("questions with a nonce changed the answer to one without")
	}
}

func TestWhatIsNoRequest(t *testing.T) {
	h := newHouse(t)
	a := h.depot.Payload()
	cert := h.issue(t, a, time.Hour)
	valid := marshal(t, wire(t, a, cert))
	changed := func(change func(*wireRequest)) []byte {
		r := wire(t, a, cert)
		change(&r)
		return marshal(t, r)
	}
	extension := func(critical bool, oid string, value []byte) pkix.Extension {
		id, err := x509.ParseOID(oid)
		must(t, err)
		var numbers asn1.ObjectIdentifier
		der, err := id.MarshalBinary()
		must(t, err)
		_, err = asn1.Unmarshal(append([]byte{6, byte(len(der))}, der...), &numbers)
		must(t, err)
		return pkix.Extension{Id: numbers, Critical: critical, Value: value}
	}
	const malformed, unauthorized = 1, 6
	for name, tt := range map[string]struct {
		der    []byte
		status byte // 0: a signed answer
	}{
		"nothing":                  {nil, malformed},
		"text":                     {[]byte("status, please"), malformed},
		"zeros":                    {make([]byte, 100), malformed},
		"an empty sequence":        {[]byte{0x30, 0}, malformed},
		"half a request":           {valid[:len(valid)/2], malformed},
		"a request and a byte":     {append(bytes.Clone(valid), 0), malformed},
		"indefinite length":        {append([]byte{0x30, 0x80}, valid[2:]...), malformed},
		"no question":              {changed(func(r *wireRequest) { r.TBS.List = nil }), malformed},
		"version 2":                {changed(func(r *wireRequest) { r.TBS.Version = 1 }), malformed},
		"17 questions":             {marshal(t, wire(t, a, repeat(cert, 17)...)), malformed},
		"16 questions":             {marshal(t, wire(t, a, repeat(cert, 16)...)), 0},
		"a nonce of nothing":       {marshal(t, wire(t, a, cert).nonce(t, 0)), malformed},
		"a nonce of 129 octets":    {marshal(t, wire(t, a, cert).nonce(t, 129)), malformed},
		"a nonce that is not ASN1": {changed(func(r *wireRequest) { r.TBS.Extensions = []pkix.Extension{{Id: oidNonce, Value: []byte("nonce")}} }), malformed},
		"two nonces": {changed(func(r *wireRequest) {
			n := pkix.Extension{Id: oidNonce, Value: []byte{4, 1, 7}}
			r.TBS.Extensions = []pkix.Extension{n, n}
		}), malformed},
		"a critical extension": {changed(func(r *wireRequest) {
			r.TBS.Extensions = []pkix.Extension{extension(true, "1.3.6.1.5.5.7.48.1.99", []byte{5, 0})}
		}), malformed},
		"another extension": {changed(func(r *wireRequest) {
			r.TBS.Extensions = []pkix.Extension{extension(false, "1.3.6.1.5.5.7.48.1.4", []byte{0x30, 0})}
		}), 0},
		"a critical extension of one question": {changed(func(r *wireRequest) {
			r.TBS.List[0].Extensions = []pkix.Extension{extension(true, "1.3.6.1.5.5.7.48.1.7", []byte{0x30, 0})}
		}), malformed},
		"another extension of one question": {changed(func(r *wireRequest) {
			r.TBS.List[0].Extensions = []pkix.Extension{extension(false, "1.3.6.1.5.5.7.48.1.7", []byte{0x30, 0})}
		}), 0},
		"an algorithm with parameters": {changed(func(r *wireRequest) {
			r.TBS.List[0].ID.Algorithm.Parameters = asn1.RawValue{FullBytes: []byte{2, 1, 1}}
		}), malformed},
		"a signed request": {changed(func(r *wireRequest) {
			r.TBS.Requestor = asn1.RawValue{FullBytes: []byte{0xa1, 3, 0x82, 1, 'x'}}
			r.Signature = asn1.RawValue{FullBytes: []byte{0xa0, 2, 0x30, 0}}
		}), 0},
		"another key":  {changed(func(r *wireRequest) { r.TBS.List[0].ID.Key[0] ^= 1 }), unauthorized},
		"another name": {changed(func(r *wireRequest) { r.TBS.List[0].ID.Name[0] ^= 1 }), unauthorized},
		"the name of one authority, the key of another": {changed(func(r *wireRequest) {
			r.TBS.List[0].ID.Key = wire(t, h.depot.Identity(), cert).TBS.List[0].ID.Key
		}), unauthorized},
		"an unknown hash": {changed(func(r *wireRequest) {
			r.TBS.List[0].ID.Algorithm.Algorithm = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 5}
		}), unauthorized},
		"the hashes of another algorithm": {changed(func(r *wireRequest) {
			r.TBS.List[0].ID.Algorithm.Algorithm = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}
		}), unauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			got := h.post(t, tt.der)
			if tt.status == 0 {
				read(t, got, a)
				return
			}
			refused(t, name, got, tt.status)
			path := "/ocsp/" + url.PathEscape(base64.StdEncoding.EncodeToString(tt.der))
			if len(tt.der) > 0 {
				refused(t, name+", by GET", body(t, h.send(httptest.NewRequestWithContext(t.Context(), "GET", path, nil))), tt.status)
			}
		})
	}
	for name, tt := range map[string]struct {
		method, path string
		body         io.Reader
		want         int
	}{
		"5 KB":              {"POST", "/ocsp", bytes.NewReader(make([]byte, 5<<10)), http.StatusRequestEntityTooLarge},
		"1 MB":              {"POST", "/ocsp", bytes.NewReader(make([]byte, 1<<20)), http.StatusRequestEntityTooLarge},
		"another method":    {"PUT", "/ocsp", nil, http.StatusMethodNotAllowed},
		"GET of nothing":    {"GET", "/ocsp", nil, http.StatusMethodNotAllowed},
		"GET of no base64":  {"GET", "/ocsp/!!!", nil, http.StatusOK},
		"GET of 1 MB":       {"GET", "/ocsp/" + strings.Repeat("A", 1<<20), nil, http.StatusOK},
		"GET of slashes":    {"GET", "/ocsp/" + strings.Repeat("/", 64), nil, http.StatusOK},
		"GET above itself":  {"GET", "/ocsp/../ocsp", nil, http.StatusOK},
		"GET, half escaped": {"GET", "/ocsp/MEUw%25", nil, http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			resp := h.send(httptest.NewRequestWithContext(t.Context(), tt.method, tt.path, tt.body))
			if resp.StatusCode != tt.want {
				t.Errorf("%d, want %d", resp.StatusCode, tt.want)
			}
			if tt.want == http.StatusOK {
				refused(t, name, body(t, resp), malformed)
			}
		})
	}
}

func repeat(cert *x509.Certificate, n int) (certs []*x509.Certificate) {
	for range n {
		certs = append(certs, cert)
	}
	return certs
}

func TestEveryFormOfGET(t *testing.T) {
	h := newHouse(t)
	a := h.depot.Payload()
	// One whose base64 has slashes in a row, a plus and padding.
	var cert *x509.Certificate
	var text string
	for size := 16; !strings.Contains(text, "//") || !strings.Contains(text, "+") || !strings.HasSuffix(text, "="); size++ {
		if size > 18 {
			t.Fatal("no request is like that")
		}
		serial := []byte{0x7f, 0xff, 0xff, 0xff, 0xff, 0xfb, 0xef, 0xbe, 0, 0xfb, 0xef, 0xbe, 0, 0xfb, 0xef, 0xbe, 0, 0}[:size]
		cert = &x509.Certificate{SerialNumber: new(big.Int).SetBytes(serial)}
		text = base64.StdEncoding.EncodeToString(marshal(t, wire(t, a, cert)))
	}
	posted := read(t, h.post(t, marshal(t, wire(t, a, cert))), a)
	bare := strings.TrimRight(text, "=")
	for name, path := range map[string]string{
		"as it is":              text,
		"escaped":               url.QueryEscape(text),
		"escaped where it must": url.PathEscape(text),
		"only slashes escaped":  strings.ReplaceAll(text, "/", "%2F"),
		"half of them":          strings.Replace(text, "/", "%2f", 1),
		"escaped twice":         url.QueryEscape(url.QueryEscape(text)),
		"for URLs":              strings.NewReplacer("+", "-", "/", "_").Replace(text),
		"without padding":       bare,
		"for URLs, without":     strings.NewReplacer("+", "-", "/", "_").Replace(bare),
		"plus as space":         strings.ReplaceAll(text, "+", "%20"),
		"with one slash more":   "/" + text,
	} {
		t.Run(name, func(t *testing.T) {
			resp := h.send(httptest.NewRequestWithContext(t.Context(), "GET", "/ocsp/"+path, nil))
			if name == "with one slash more" {
				refused(t, name, body(t, resp), 1) // a slash is a sign of base64
				return
			}
			got := read(t, body(t, resp), a)
			if !bytes.Equal(marshal(t, got.Singles[0].ID), marshal(t, posted.Singles[0].ID)) {
				t.Error("another answer than by POST")
			}
		})
	}
}

func TestWhatCachesGoBy(t *testing.T) {
	h := newHouse(t)
	a := h.depot.Payload()
	cert := h.issue(t, a, time.Hour)
	get := func(der []byte, header ...string) *http.Response {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/ocsp/"+url.PathEscape(base64.StdEncoding.EncodeToString(der)), nil)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		return h.send(r)
	}
	first := get(ask(t, cert, a, crypto.SHA1))
	der := body(t, first)
	said := h.parse(t, der, cert, a)
	for name, want := range map[string]string{
		"Last-Modified":  said.ThisUpdate.Format(http.TimeFormat),
		"Expires":        said.NextUpdate.Format(http.TimeFormat),
		"Cache-Control":  "max-age=60, public, no-transform, must-revalidate",
		"Content-Length": itoa(len(der)),
	} {
		if got := first.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	tag := first.Header.Get("Etag")
	if len(tag) < 10 {
		t.Fatalf("entity tag %q", tag)
	}
	if resp := get(ask(t, cert, a, crypto.SHA1), "If-None-Match", tag); resp.StatusCode != http.StatusNotModified {
		t.Errorf("the same once more: %d, want 304", resp.StatusCode)
	}
	h.revoke(t, cert, "superseded")
	if resp := get(ask(t, cert, a, crypto.SHA1), "If-None-Match", tag, "If-Modified-Since", first.Header.Get("Last-Modified")); resp.StatusCode != http.StatusOK {
		t.Errorf("another answer within the same second: %d, want 200", resp.StatusCode)
	}
	for name, der := range map[string][]byte{
		"with a nonce": marshal(t, wire(t, a, cert).nonce(t, 16)), "a refusal": []byte("x"),
		"a number never issued": ask(t, &x509.Certificate{SerialNumber: big.NewInt(4711)}, a, crypto.SHA1),
	} {
		if resp := get(der); resp.Header.Get("Cache-Control") != "no-store, no-transform" || resp.Header.Get("Etag") != "" {
			t.Errorf("%s: %q, entity tag %q", name, resp.Header.Get("Cache-Control"), resp.Header.Get("Etag"))
		}
	}
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/ocsp", bytes.NewReader(ask(t, cert, a, crypto.SHA1)))
	if resp := h.send(r); resp.Header.Get("Cache-Control") != "no-store, no-transform" {
		t.Errorf("by POST: %q", resp.Header.Get("Cache-Control"))
	}
}

func itoa(n int) string { return big.NewInt(int64(n)).String() }

func TestARevocationShowsAtOnce(t *testing.T) {
	store := &faultyDB{DB: storagetest.Open(t)}
	c := &clock{start: time.Now()}
	here, there := replica(t, store, c), replica(t, store, c)
	store.deaf.Store(true)
	deaf := replica(t, store, c)
	a := here.depot.Payload()
	cert, other := here.issue(t, a, time.Hour), here.issue(t, a, time.Hour)
	all := map[string]*house{"where it was revoked": here, "another replica": there, "one that news does not reach": deaf}
	for name, h := range all {
		for range 2 {
			if got := h.status(t, cert, a).Status; got != xocsp.Good {
				t.Errorf("%s: status %d before", name, got)
			}
		}
	}
	here.revoke(t, cert, "keyCompromise")
	if got := here.status(t, cert, a); got.Status != xocsp.Revoked {
		t.Error("where it was revoked, it is good")
	}
	// The clock stands still, so that it is the database that brings the news.
	for began := time.Now(); there.status(t, cert, a).Status != xocsp.Revoked; {
		if time.Since(began) > 30*time.Second {
			t.Fatal("another replica does not hear of it")
		}
	}
	if got := deaf.status(t, cert, a); got.Status != xocsp.Good {
		t.Error("the replica that news does not reach was meant to know nothing of it yet")
	}
	c.pass(time.Second)
	for name, h := range all {
		if got := h.status(t, cert, a); got.Status != xocsp.Revoked || got.RevocationReason != xocsp.KeyCompromise {
			t.Errorf("%s, a second later: status %d, reason %d", name, got.Status, got.RevocationReason)
		}
		if got := h.status(t, other, a); got.Status != xocsp.Good {
			t.Errorf("%s: status %d of another certificate", name, got.Status)
		}
	}
}

func TestRevocationsUnderLoadAreNeverTakenBack(t *testing.T) {
	h := newHouse(t)
	a := h.depot.Payload()
	const n = 8
	certs := make([]*x509.Certificate, n)
	var revoked [n]atomic.Bool
	for i := range certs {
		certs[i] = h.issue(t, a, time.Hour)
	}
	requests := make([][]byte, n)
	for i, cert := range certs {
		requests[i] = ask(t, cert, a, crypto.SHA1)
	}
	done := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for i := 0; ; i = (i + 1) % n {
				select {
				case <-done:
					return
				default:
				}
				must := revoked[i].Load() // before the question
				r := httptest.NewRequest("POST", "/ocsp", bytes.NewReader(requests[i]))
				data, err := io.ReadAll(h.send(r).Body)
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := xocsp.ParseResponse(data, a.Certificate())
				if err != nil || must && resp.Status != xocsp.Revoked {
					t.Errorf("answer %.40x, %v, after the revocation: %v", data, err, must)
					return
				}
			}
		})
	}
	for i, cert := range certs {
		h.revoke(t, cert, "superseded")
		revoked[i].Store(true)
	}
	close(done)
	clients.Wait()
}

func TestAnswersAreSignedOnceAndForAWhile(t *testing.T) {
	h := newHouse(t)
	a := h.depot.Payload()
	cert := h.issue(t, a, 90*24*time.Hour)
	question := ask(t, cert, a, crypto.SHA256)
	first := h.post(t, question)
	asked := h.db.asked.Load()
	for range 10 {
		if !bytes.Equal(h.post(t, question), first) {
			t.Fatal("it was signed again")
		}
	}
	if n := h.db.asked.Load() - asked; n > 0 {
		t.Errorf("ten answers from the shelf asked the database %d times", n)
	}
	h.pass(20 * time.Minute)
	if !bytes.Equal(h.post(t, question), first) {
		t.Error("after 20 minutes it was signed again")
	}
	h.pass(20 * time.Minute)
	second := h.post(t, question)
	if bytes.Equal(second, first) {
		t.Error("after 40 minutes of an hour the same answer is given out")
	}
	h.parse(t, second, cert, a)
	h.pass(-2 * time.Hour)
	h.parse(t, h.post(t, question), cert, a) // whose times are checked
	if !bytes.Equal(h.post(t, question), h.post(t, question)) {
		t.Error("with the clock set back, each answer is signed")
	}
	h.pass(2 * time.Hour)

	// The responder is replaced without anybody doing so, and no answer outlives it.
	before := h.parse(t, h.post(t, question), cert, a).Certificate
	for range 60 {
		h.pass(12*time.Hour - time.Minute)
		h.parse(t, h.post(t, question), cert, a)
	}
	if h.parse(t, h.post(t, question), cert, a).Certificate.Equal(before) {
		t.Error("after a month the same certificate signs")
	}
	compromised := h.parse(t, h.post(t, question), cert, a).Certificate
	h.revoke(t, compromised, "keyCompromise")
	if h.parse(t, h.post(t, question), cert, a).Certificate.Equal(compromised) {
		t.Error("a responder that was revoked goes on")
	}
}

func TestWithoutTheDatabaseNothingIsSaid(t *testing.T) {
	h := newHouse(t)
	a := h.depot.Payload()
	cert := h.issue(t, a, time.Hour)
	question := ask(t, cert, a, crypto.SHA1)
	const tryLater = 3
	h.db.down.Store(true)
	refused(t, "the first question", h.post(t, question), tryLater)
	h.db.down.Store(false)
	h.status(t, cert, a)
	h.db.down.Store(true)
	h.pass(2 * time.Second)
	refused(t, "one that there was an answer to", h.post(t, question), tryLater)
	h.db.down.Store(false)
	if got := h.status(t, cert, a).Status; got != xocsp.Good {
		t.Errorf("back again: status %d", got)
	}
}

func TestOpenSSLAgrees(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("openssl is not installed")
		}
		t.Skip("skipped: openssl is not installed")
	}
	h := newHouse(t)
	a := h.depot.Payload()
	good, bad := h.issue(t, a, time.Hour), h.issue(t, a, time.Hour)
	h.revoke(t, bad, "keyCompromise")
	srv := httptest.NewServer(h.door)
	defer srv.Close()
	dir := t.TempDir()
	for name, der := range map[string][]byte{
		"good": good.Raw, "bad": bad.Raw, "issuer": a.Certificate().Raw, "root": h.depot.Root().Certificate().Raw, "identity": h.depot.Identity().Certificate().Raw,
	} {
		must(t, os.WriteFile(filepath.Join(dir, name+".der"), der, 0o600))
	}
	run := func(script string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "URL="+srv.URL+"/ocsp")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v", script, err)
		}
		return string(out)
	}
	run("for f in good bad issuer root identity; do openssl x509 -inform der -in $f.der -out $f.pem; done; cat root.pem issuer.pem > ca.pem")
	for name, tt := range map[string]struct {
		script string
		want   []string
	}{
		"both in one question, with a nonce": {"openssl ocsp -url $URL -CAfile ca.pem -issuer issuer.pem -cert good.pem -cert bad.pem -serial 0x1267",
			[]string{"Response verify OK", "good.pem: good", "bad.pem: revoked", "Reason: keyCompromise", "0x1267: unknown"}},
		"one, by SHA-256, without a nonce": {"openssl ocsp -no_nonce -url $URL -CAfile ca.pem -issuer issuer.pem -sha256 -cert bad.pem",
			[]string{"Response verify OK", "bad.pem: revoked"}},
		"the issuer's own": {"openssl ocsp -url $URL -CAfile root.pem -issuer root.pem -cert issuer.pem",
			[]string{"Response verify OK", "issuer.pem: good"}},
		"with the root alone, and the issuer as the one that vouches": {"openssl ocsp -url $URL -CAfile root.pem -verify_other issuer.pem -issuer issuer.pem -cert good.pem",
			[]string{"Response verify OK", "good.pem: good"}},
		"an issuer that it is not of": {"! openssl ocsp -no_nonce -url $URL -CAfile ca.pem -issuer identity.pem -cert good.pem",
			[]string{"unauthorized (6)"}},
		"what it looks like": {"openssl ocsp -no_nonce -url $URL -CAfile ca.pem -issuer issuer.pem -cert bad.pem -resp_text",
			[]string{"Revocation Reason: keyCompromise", "OCSP Signing", "OCSP No Check", "ecdsa-with-SHA256"}},
	} {
		t.Run(name, func(t *testing.T) {
			out := run(tt.script + " 2>&1")
			for _, want := range tt.want {
				if !strings.Contains(out, want) {
					t.Errorf("openssl does not say %q:\n%s", want, out)
				}
			}
			if strings.Contains(out, "no nonce in response") {
				t.Errorf("openssl misses its nonce:\n%s", out)
			}
		})
	}
}

func BenchmarkOCSP(b *testing.B) {
	h := replica(b, &faultyDB{DB: storagetest.Open(b)}, new(clock))
	a := h.depot.Payload()
	const n = 100
	var questions [n][]byte
	for i := range questions {
		questions[i] = ask(b, h.issue(b, a, time.Hour), a, crypto.SHA1)
		h.post(b, questions[i])
	}
	b.Run("handler", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				r := httptest.NewRequest("POST", "/ocsp", bytes.NewReader(questions[i%n]))
				w := httptest.NewRecorder()
				if h.door.ServeHTTP(w, r); w.Body.Len() < 500 {
					b.Error("no answer")
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
	})
	b.Run("nonce", func(b *testing.B) { // each one is looked up and signed
		question := marshal(b, wire(b, a, h.issue(b, a, time.Hour)).nonce(b, 16))
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				r := httptest.NewRequest("POST", "/ocsp", bytes.NewReader(question))
				w := httptest.NewRecorder()
				if h.door.ServeHTTP(w, r); w.Body.Len() < 500 {
					b.Error("no answer")
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
	})
	b.Run("loopback", func(b *testing.B) {
		srv := httptest.NewServer(h.door)
		defer srv.Close()
		client := srv.Client()
		client.Transport.(*http.Transport).MaxIdleConnsPerHost = 64
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				resp, err := client.Post(srv.URL+"/ocsp", "application/ocsp-request", bytes.NewReader(questions[i%n]))
				if err != nil {
					b.Error(err)
					return
				}
				if n, err := io.Copy(io.Discard, resp.Body); err != nil || n < 500 {
					b.Errorf("%d bytes, %v", n, err)
				}
				resp.Body.Close()
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
	})
}
