package acme

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/acme/acmetest"
)

const domain = "mdm.example.com"

// journal is what a replica has logged.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) count(text string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return bytes.Count(j.text.Bytes(), []byte(text))
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// server is a replica: a Manager, and the listener on which it answers challenges.
type server struct {
	*Manager
	log  *journal
	addr string
}

// newServer makes a replica that listens, but does not run yet.
func newServer(t *testing.T, db storage.DB, change func(*Config)) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{log: &journal{}, addr: listener.Addr().String()}
	c := Config{
		DB: db, Box: newBox(t), Domain: domain, Email: "ana@example.com", TLS: listener.Addr(),
		Log: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Now: time.Now,
	}
	if change != nil {
		change(&c)
	}
	s.Manager, err = New(c)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewUnstartedServer(http.NotFoundHandler())
	_ = web.Listener.Close()
	web.Listener = tls.NewListener(listener, &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: s.ConfigForClient,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			cert, err := s.Certificate(context.Background())
			return &cert, err
		},
	})
	web.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	web.Start()
	t.Cleanup(web.Close)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s:\n%s", s.addr, s.log)
		}
	})
	return s
}

// run runs the replica until the test ends, or stop is called.
func (s *server) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// next returns the certificate when another one has come.
func (s *server) next(t *testing.T) *x509.Certificate {
	t.Helper()
	select {
	case <-s.Changed():
	case <-time.After(time.Minute):
		t.Fatal("no certificate came")
	}
	return s.current(t)
}

func (s *server) current(t *testing.T) *x509.Certificate {
	t.Helper()
	cert, err := s.Certificate(t.Context())
	if err != nil {
		t.Fatalf("Certificate = %v", err)
	}
	return cert.Leaf
}

// use makes the authority that of a replica.
func use(a *acmetest.Authority) func(*Config) {
	return func(c *Config) { c.Directory, c.Roots = a.Directory, a.Roots }
}

func TestAReplicaAnswersAnothersChallengeAndServesItsCertificate(t *testing.T) {
	db, public := storagetest.Open(t), acmetest.NewEntrance(t)
	authority := acmetest.Start(t, acmetest.Options{TLSPort: public.Port()})
	a, b := newServer(t, db, use(authority)), newServer(t, db, use(authority))
	public.LeadTo(b.addr)

	if _, err := b.Certificate(t.Context()); !errors.Is(err, ErrNone) {
		t.Fatalf("Certificate before there is one = %v, want ErrNone", err)
	}
	stopA := a.run(t)
	leaf := a.next(t)
	if err := leaf.VerifyHostname(domain); err != nil {
		t.Error(err)
	}
	if _, ok := leaf.PublicKey.(*rsa.PublicKey); !ok {
		t.Errorf("the certificate is for a %T, want RSA: it signs profiles", leaf.PublicKey)
	}
	if a.log.count("ACME challenge answered") > 0 || b.log.count("ACME challenge answered") == 0 {
		t.Error("it was not b that answered")
	}
	stopB := b.run(t)
	if got := b.next(t); !got.Equal(leaf) {
		t.Error("b has another certificate than a")
	}
	// As clients see it.
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.Issuers(t))
	conn, err := tls.Dial("tcp", b.addr, &tls.Config{RootCAs: roots, ServerName: domain})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.ConnectionState().PeerCertificates[0]; !got.Equal(leaf) {
		t.Error("b serves another certificate than a got")
	}
	stopA()
	stopB() // all has been said
	if n := a.log.count("TLS certificate obtained") + b.log.count("TLS certificate obtained"); n != 1 {
		t.Errorf("%d orders, want 1", n)
	}
}

func TestHTTPChallengesAreAnsweredByAnyReplica(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	web := httptest.NewUnstartedServer(nil)
	authority := acmetest.Start(t, acmetest.Options{HTTPPort: acmetest.Port(t, web.Listener.Addr().String())})
	configure := func(c *Config) { use(authority)(c); c.HTTP = web.Listener.Addr() }
	a, b := newServer(t, db, configure), newServer(t, db, configure)
	web.Config.Handler = b.AnswerHTTP(nil)
	web.Start()
	defer web.Close()

	a.run(t)
	a.next(t)
	if b.log.count(`msg="ACME challenge answered" type=http-01`) == 0 {
		t.Error("b answered no challenge")
	}
}

func TestRenewalsReachEveryReplica(t *testing.T) {
	db, public := storagetest.Open(t), acmetest.NewEntrance(t)
	authority := acmetest.Start(t, acmetest.Options{TLSPort: public.Port(), Lifetime: 9 * time.Second})
	a, b := newServer(t, db, use(authority)), newServer(t, db, use(authority))
	public.LeadTo(b.addr)
	a.every, b.every = 200*time.Millisecond, time.Hour
	b.run(t)
	first := b.next(t)
	a.run(t)
	second := b.next(t)
	if second.Equal(first) || !second.NotAfter.After(first.NotAfter) {
		t.Errorf("b's next certificate ends %s, its first one %s", second.NotAfter, first.NotAfter)
	}
	if b.log.count("renewal=true") > 0 {
		t.Error("it was b that renewed it")
	}
}

func TestARefusalIsReportedAndTriedAgain(t *testing.T) {
	storagetest.AnyEngine(t)
	public := acmetest.NewEntrance(t)
	public.LeadTo() // nowhere
	authority := acmetest.Start(t, acmetest.Options{TLSPort: public.Port()})
	s := newServer(t, storagetest.Open(t), use(authority))
	var failures []int
	s.retry = func(failed int) time.Duration {
		failures = append(failures, failed)
		if len(failures) == 2 {
			public.LeadTo(s.addr)
		}
		return 0
	}
	stop := s.run(t)
	s.next(t)
	stop()
	if !slices.Equal(failures, []int{0, 1}) {
		t.Errorf("failures counted as %v", failures)
	}
	if n := s.log.count("level=ERROR"); n != 2 {
		t.Errorf("%d errors in the log, want 2", n)
	}
	if want := "check from the internet that " + domain + " resolves to this server"; s.log.count(want) != 2 {
		t.Errorf("the errors don't say %q", want)
	}
}

func TestTriesAfterTheFirstGoToTheStagingDirectory(t *testing.T) {
	storagetest.AnyEngine(t)
	public := acmetest.NewEntrance(t)
	public.LeadTo() // nowhere
	options := acmetest.Options{TLSPort: public.Port()}
	production, staging := acmetest.Start(t, options), acmetest.Start(t, options)
	roots := x509.NewCertPool()
	for _, a := range []*acmetest.Authority{production, staging} {
		text, err := os.ReadFile(a.RootsFile)
		if err != nil {
			t.Fatal(err)
		}
		roots.AppendCertsFromPEM(text)
	}
	db := storagetest.Open(t)
	configure := func(c *Config) { c.Directory, c.Roots = production.Directory, roots }
	s, other := newServer(t, db, configure), newServer(t, db, configure)
	s.directories = append(s.directories, staging.Directory)
	other.directories = s.directories
	var failures []string
	s.retry = func(failed int) time.Duration {
		failures = append(failures, fmt.Sprint(failed, s.log.count("ca="+staging.Directory) > 0))
		if failed == 1 {
			public.LeadTo(other.addr)
		}
		return 0
	}
	stop := s.run(t)
	leaf := s.next(t)
	stop()
	if want := []string{"0 false", "1 true"}; !slices.Equal(failures, want) {
		t.Errorf("failures, and whether staging was asked: %q, want %q", failures, want)
	}
	issued := x509.NewCertPool()
	issued.AppendCertsFromPEM(production.Issuers(t))
	cert, err := s.Certificate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	intermediates := x509.NewCertPool()
	for _, der := range cert.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: issued, Intermediates: intermediates}); err != nil {
		t.Errorf("the certificate is not the production directory's: %v", err)
	}
}

func TestFailuresAreTriedEverMoreRarely(t *testing.T) {
	last := time.Duration(0)
	for failed := range 100 {
		wait := backoff(failed)
		if wait < time.Minute || wait > time.Hour || wait < last {
			t.Errorf("backoff(%d) = %v after %v", failed, wait, last)
		}
		last = wait
	}
}

func TestAnExternalAccountIsUsed(t *testing.T) {
	storagetest.AnyEngine(t)
	const key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	public := acmetest.NewEntrance(t)
	authority := acmetest.Start(t, acmetest.Options{TLSPort: public.Port(), Accounts: map[string]string{"kid-1": key}})
	t.Run("with its key", func(t *testing.T) {
		s := newServer(t, storagetest.Open(t), func(c *Config) {
			use(authority)(c)
			c.KeyID, c.HMACKey = "kid-1", seal.Secret(key)
		})
		public.LeadTo(s.addr)
		s.run(t)
		s.next(t)
		if s.log.count(key) > 0 {
			t.Error("the log has the key")
		}
	})
	t.Run("without", func(t *testing.T) {
		s := newServer(t, storagetest.Open(t), use(authority))
		failed := make(chan struct{}, 1)
		s.retry = func(int) time.Duration { failed <- struct{}{}; return time.Hour }
		stop := s.run(t)
		<-failed
		stop()
		if s.log.count("give --acme-eab-key-id and --acme-eab-hmac-key") != 1 {
			t.Errorf("the log has no advice:\n%s", s.log)
		}
	})
}

func TestATornCertificateIsOrderedAnew(t *testing.T) {
	storagetest.AnyEngine(t)
	db, public := storagetest.Open(t), acmetest.NewEntrance(t)
	authority := acmetest.Start(t, acmetest.Options{TLSPort: public.Port()})
	s := newServer(t, db, use(authority))
	public.LeadTo(s.addr)
	stop := s.run(t)
	first := s.next(t)
	stop()

	// The server died when the key of the next certificate was written and that was not.
	_, keyFile := s.files()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.store.Store(t.Context(), keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		t.Fatal(err)
	}
	again := newServer(t, db, use(authority))
	public.LeadTo(again.addr)
	if _, err := again.Certificate(t.Context()); !errors.Is(err, errUnpaired) {
		t.Fatalf("Certificate = %v, want errUnpaired", err)
	}
	again.run(t)
	if got := again.next(t); got.Equal(first) {
		t.Error("the old certificate is back")
	}
}

func TestAnAuthorityThatHangsHoldsUpNothing(t *testing.T) {
	db := storagetest.Open(t)
	asked := make(chan struct{}, 100)
	hanging := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	defer hanging.Close()
	roots := x509.NewCertPool()
	roots.AddCert(hanging.Certificate())
	s := newServer(t, db, func(c *Config) { c.Directory, c.Roots = hanging.URL, roots })
	stop := s.run(t)
	<-asked
	stop()
	// What it had locked is free for others at once.
	other := openStore(t, db)
	other.now = time.Now
	if got, err := other.TryLock(t.Context(), "issue_cert_"+domain); !got || err != nil {
		t.Errorf("TryLock after the end = %v, %v", got, err)
	}
	if err := other.unlockAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(s.log.String(), "level=ERROR") {
		t.Errorf("an end is no error:\n%s", s.log)
	}
}

func TestAnAuthorityThatIsNotThereIsReported(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		directory string
		want      string
	}{
		"nobody listens": {"https://127.0.0.1:1/dir", "may reach the authority by HTTPS"},
		"not trusted":    {untrusted(t), "name its root with --acme-ca"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, storagetest.Open(t), func(c *Config) { c.Directory = tt.directory })
			failed := make(chan struct{}, 1)
			s.retry = func(int) time.Duration { failed <- struct{}{}; return time.Hour }
			stop := s.run(t)
			<-failed
			stop()
			if s.log.count("level=ERROR") != 1 || s.log.count(tt.want) != 1 {
				t.Errorf("the log has not one error that says %q:\n%s", tt.want, s.log)
			}
		})
	}
}

func untrusted(t *testing.T) string {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}
