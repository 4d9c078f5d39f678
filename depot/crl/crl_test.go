package crl_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/crl"
	"github.com/gatehouse-mdm/gatehouse/depot/depottest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// house is a depot and the door in front of it, at a time that the test moves.
type house struct {
	db    *faultyDB
	depot *depot.Depot
	door  http.Handler
	ahead atomic.Int64 // of the real time, in nanoseconds
}

// faultyDB can be out of reach, and tells when it has been looked at, and when it
// collects what goes on a list.
type faultyDB struct {
	storage.DB
	down            atomic.Bool
	looked, scanned func() // may be nil; scanned is called in the transaction
}

func (f *faultyDB) View(ctx context.Context, fn func(storage.Tx) error) error {
	if f.down.Load() {
		return storage.ErrUnavailable
	}
	if f.scanned == nil {
		return f.DB.View(ctx, fn)
	}
	defer f.looked()
	return f.DB.View(ctx, func(tx storage.Tx) error { return fn(scanning{tx, f.scanned}) })
}

type scanning struct {
	storage.Tx
	scanned func()
}

func (s scanning) Scan(bucket string, r storage.Range) iter.Seq2[storage.Item, error] {
	if bucket == "revocation" {
		s.scanned()
	}
	return s.Tx.Scan(bucket, r)
}

func newHouse(t testing.TB, db *faultyDB) *house {
	t.Helper()
	h := &house{db: db}
	c := depottest.Config(t, db)
	c.Now = h.now
	h.depot = depottest.Open(t, c)
	door, err := crl.New(crl.Config{Depot: h.depot, Log: c.Log, Now: h.now})
	must(t, err)
	mux := http.NewServeMux()
	mux.Handle("GET /crl/{file}", door)
	mux.Handle("GET /ca/{file}", door)
	h.door = mux
	return h
}

func (h *house) now() time.Time { return time.Now().Add(time.Duration(h.ahead.Load())) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *house) issue(t testing.TB, a *depot.Authority) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	cert, err := a.Sign(key.Public(), depot.Contents{
		Name: "wifi", Subject: pkix.Name{CommonName: "x"}, NotBefore: h.now().Add(-time.Hour), NotAfter: h.now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	must(t, err)
	must(t, h.db.Update(t.Context(), func(tx storage.Tx) error {
		return h.depot.Record(tx, cert, depot.Certificate{Authority: a.Name(), Template: "wifi"})
	}))
	return cert
}

func (h *house) revoke(t testing.TB, cert *x509.Certificate) {
	t.Helper()
	must(t, h.db.Update(t.Context(), func(tx storage.Tx) error {
		return h.depot.Revoke(tx, depot.FingerprintOf(cert), "keyCompromise", h.now())
	}))
}

func (h *house) get(path string, header ...string) *http.Response {
	r := httptest.NewRequest("GET", path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return h.do(r)
}

func (h *house) do(r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	h.door.ServeHTTP(w, r)
	return w.Result()
}

func body(t testing.TB, resp *http.Response) []byte {
	t.Helper()
	data, err := io.ReadAll(resp.Body)
	must(t, err)
	return data
}

// list fetches the CRL of a, and checks all but what is on it.
func (h *house) list(t testing.TB, a *depot.Authority) *x509.RevocationList {
	t.Helper()
	resp := h.get("/crl/" + a.ID() + ".crl")
	data := body(t, resp)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/pkix-crl" {
		t.Fatalf("%d, %q, %.80q", resp.StatusCode, resp.Header.Get("Content-Type"), data)
	}
	l, err := x509.ParseRevocationList(data)
	must(t, err)
	must(t, l.CheckSignatureFrom(a.Certificate()))
	if l.ThisUpdate.After(h.now()) || !l.NextUpdate.After(h.now()) {
		t.Errorf("at %v the list is for %v to %v", h.now(), l.ThisUpdate, l.NextUpdate)
	}
	return l
}

func holds(l *x509.RevocationList, cert *x509.Certificate) bool {
	return slices.ContainsFunc(l.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool {
		return e.SerialNumber.Cmp(cert.SerialNumber) == 0
	})
}

func TestARevocationIsOnTheListAtOnce(t *testing.T) {
	db := &faultyDB{DB: storagetest.Open(t)}
	here, there := newHouse(t, db), newHouse(t, db)
	a := here.depot.Payload()
	first, second := here.issue(t, a), here.issue(t, a)
	before := here.list(t, a)
	there.list(t, a)
	for _, cert := range []*x509.Certificate{first, second} {
		here.revoke(t, cert)
		for name, h := range map[string]*house{"where it was revoked": here, "another replica": there} {
			if l := h.list(t, a); !holds(l, cert) || l.Number.Cmp(before.Number) <= 0 {
				t.Errorf("%s: list number %v, with the certificate: %v", name, l.Number, holds(l, cert))
			}
		}
	}
	if l := here.list(t, a); l.Number.Int64() != before.Number.Int64()+2 {
		t.Errorf("after two revocations number %v follows %v", l.Number, before.Number)
	}
	here.revoke(t, first) // again
	after := here.list(t, a)
	restarted := newHouse(t, db).list(t, a)
	if after.Number.Int64() != before.Number.Int64()+2 || !bytes.Equal(restarted.Raw, after.Raw) {
		t.Errorf("revoking again makes number %v, and a restart %v", after.Number, restarted.Number)
	}
	if holds(here.list(t, here.depot.Root()), first) {
		t.Error("it is on the list of another authority")
	}
}

func TestWhatCachesGoBy(t *testing.T) {
	h := newHouse(t, &faultyDB{DB: storagetest.Open(t)})
	a := h.depot.Payload()
	cert := h.issue(t, a)
	path := "/crl/" + a.ID() + ".crl"
	l := h.list(t, a)
	first := h.get(path)
	for name, want := range map[string]string{
		"Last-Modified":  l.ThisUpdate.Format(http.TimeFormat),
		"Cache-Control":  "max-age=60, public, no-transform, must-revalidate",
		"Content-Length": strconv.Itoa(len(l.Raw)),
	} {
		if got := first.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	tag := first.Header.Get("Etag")
	if resp := h.get(path, "If-None-Match", tag); resp.StatusCode != http.StatusNotModified || len(tag) < 10 {
		t.Errorf("the list with tag %q once more: %d, want 304", tag, resp.StatusCode)
	}
	head := h.do(httptest.NewRequest("HEAD", path, nil))
	if head.StatusCode != http.StatusOK || head.Header.Get("Content-Length") != strconv.Itoa(len(l.Raw)) || len(body(t, head)) != 0 {
		t.Errorf("HEAD: %d, %q", head.StatusCode, head.Header.Get("Content-Length"))
	}
	h.revoke(t, cert)
	resp := h.get(path, "If-None-Match", tag, "If-Modified-Since", first.Header.Get("Last-Modified"))
	if resp.StatusCode != http.StatusOK {
		t.Errorf("after a revocation: %d, want 200", resp.StatusCode)
	}
	if resp := h.get(path, "If-Modified-Since", h.now().UTC().Add(time.Minute).Format(http.TimeFormat)); resp.StatusCode != http.StatusOK {
		t.Errorf("by time alone, which can't tell two lists of one second apart: %d, want 200", resp.StatusCode)
	}
}

func TestFilesOfAuthorities(t *testing.T) {
	h := newHouse(t, &faultyDB{DB: storagetest.Open(t)})
	payload, root := h.depot.Payload(), h.depot.Root()
	chain := func(certs ...*x509.Certificate) (text []byte) {
		for _, c := range certs {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
		return text
	}
	for name, tt := range map[string]struct {
		path, contentType string
		want              []byte // nil: not found
	}{
		"an issuer":                      {"/ca/" + payload.ID() + ".cer", "application/pkix-cert", payload.Certificate().Raw},
		"an issuer with its root":        {"/ca/" + payload.ID() + ".pem", "application/pem-certificate-chain", chain(payload.Certificate(), root.Certificate())},
		"the identity CA":                {"/ca/" + h.depot.Identity().ID() + ".cer", "application/pkix-cert", h.depot.Identity().Certificate().Raw},
		"the identity CA in PEM":         {"/ca/" + h.depot.Identity().ID() + ".pem", "application/pem-certificate-chain", chain(h.depot.Identity().Certificate())},
		"a list in PEM":                  {"/crl/" + payload.ID() + ".pem", "application/x-pem-file", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: h.list(t, payload).Raw})},
		"a list of nobody":               {"/crl/0000000000000000.crl", "", nil},
		"a list without a name":          {"/crl/.crl", "", nil},
		"a list of another kind":         {"/crl/" + payload.ID() + ".txt", "", nil},
		"a list without a kind":          {"/crl/" + payload.ID(), "", nil},
		"a list with an ID in capitals":  {"/crl/" + strings.ToUpper(payload.ID()) + "X.crl", "", nil},
		"a certificate as a list":        {"/ca/" + payload.ID() + ".crl", "", nil},
		"a certificate by a longer name": {"/ca/" + payload.ID() + ".cer.cer", "", nil},
		"a certificate of nobody":        {"/ca/0000000000000000.cer", "", nil},
		"a path that climbs":             {"/ca/..%2f..%2fetc%2fpasswd", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			resp := h.get(tt.path)
			got := body(t, resp)
			if tt.want == nil {
				if resp.StatusCode != http.StatusNotFound {
					t.Errorf("%d %.60q, want 404", resp.StatusCode, got)
				}
				return
			}
			if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != tt.contentType || !bytes.Equal(got, tt.want) {
				t.Errorf("%d, %q, %.60q, want %q, %.60q", resp.StatusCode, resp.Header.Get("Content-Type"), got, tt.contentType, tt.want)
			}
		})
	}
}

func TestManyWhoAskAtOnceWaitForOneSignature(t *testing.T) {
	const n = 50
	var collected atomic.Int64
	gate := make(chan struct{})
	waiting, looked := make(chan struct{}, 10*n), make(chan struct{}, 10*n)
	h := newHouse(t, &faultyDB{DB: storagetest.Open(t)})
	a := h.depot.Payload()
	h.list(t, a)
	cert := h.issue(t, a)
	h.revoke(t, cert)
	h.db.looked = func() { looked <- struct{}{} }
	h.db.scanned = func() {
		collected.Add(1)
		waiting <- struct{}{}
		<-gate
	}
	ctx, cancel := context.WithCancel(t.Context())
	firstGone := make(chan struct{})
	go func() { // who asks first does not wait for the end
		defer close(firstGone)
		h.do(httptest.NewRequestWithContext(ctx, "GET", "/crl/"+a.ID()+".crl", nil))
	}()
	<-waiting
	cancel()
	for len(looked) > 0 {
		<-looked
	}
	var clients sync.WaitGroup
	for range n {
		clients.Go(func() {
			data, _ := io.ReadAll(h.get("/crl/" + a.ID() + ".crl").Body)
			l, err := x509.ParseRevocationList(data)
			if err != nil || !holds(l, cert) {
				t.Errorf("a list without the certificate: %v", err)
			}
		})
	}
	for range n { // each knows that there is another list than the last
		<-looked
	}
	close(gate)
	clients.Wait()
	<-firstGone
	if got := collected.Load(); got > 2 { // storagetest runs each closure twice
		t.Errorf("%d lists were made for one change", got/2)
	}
}

func TestWithoutTheDatabaseTheLastListIsGood(t *testing.T) {
	h := newHouse(t, &faultyDB{DB: storagetest.Open(t)})
	a := h.depot.Payload()
	l := h.list(t, a)
	h.db.down.Store(true)
	h.ahead.Add(int64(6 * 24 * time.Hour))
	if again := h.list(t, a); !bytes.Equal(again.Raw, l.Raw) {
		t.Error("another list")
	}
	for name, path := range map[string]string{"one that nobody asked for before": "/crl/" + h.depot.Root().ID() + ".crl", "one in PEM": "/crl/" + h.depot.Root().ID() + ".pem"} {
		if resp := h.get(path); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %d, want 503", name, resp.StatusCode)
		}
	}
	h.ahead.Add(int64(2 * 24 * time.Hour))
	if resp := h.get("/crl/" + a.ID() + ".crl"); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("after its end: %d, want 503", resp.StatusCode)
	}
	h.db.down.Store(false)
	must(t, h.depot.Tidy(t.Context()))
	if next := h.list(t, a); next.Number.Cmp(l.Number) <= 0 {
		t.Errorf("number %v follows %v", next.Number, l.Number)
	}
}

func TestOpenSSLAgrees(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("openssl is not installed")
		}
		t.Skip("skipped: openssl is not installed")
	}
	h := newHouse(t, &faultyDB{DB: storagetest.Open(t)})
	a := h.depot.Payload()
	good, bad := h.issue(t, a), h.issue(t, a)
	h.revoke(t, bad)
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"good.der": good.Raw, "bad.der": bad.Raw,
		"chain.pem": body(t, h.get("/ca/"+a.ID()+".pem")), "issuer.cer": body(t, h.get("/ca/"+a.ID()+".cer")),
		"list.crl": body(t, h.get("/crl/"+a.ID()+".crl")), "list.pem": body(t, h.get("/crl/"+a.ID()+".pem")),
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `exec 2>&1
		openssl x509 -inform der -in good.der -out good.pem; openssl x509 -inform der -in bad.der -out bad.pem
		openssl x509 -inform der -in issuer.cer -out issuer.pem
		openssl crl -inform der -in list.crl -CAfile issuer.pem -noout -text
		for f in good bad; do openssl verify -crl_check -CAfile chain.pem -CRLfile list.pem $f.pem; done`)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	text := string(out)
	if err == nil {
		t.Error("openssl verifies a certificate that was revoked")
	}
	for _, want := range []string{"verify OK", "X509v3 CRL Number", "Authority Key Identifier", "Key Compromise", "good.pem: OK", "certificate revoked"} {
		if !strings.Contains(text, want) {
			t.Errorf("openssl does not say %q:\n%s", want, text)
		}
	}
}
