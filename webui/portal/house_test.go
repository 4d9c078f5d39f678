package portal_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/depottest"
	"github.com/gatehouse-mdm/gatehouse/depot/scep"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/account"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/checkin"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/frame"
	"github.com/gatehouse-mdm/gatehouse/webui/portal"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// Browsers, by what they say of themselves.
const (
	safari13  = "Mozilla/5.0 (iPhone; CPU iPhone OS 13_2_3 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/13.0.3 Mobile/15E148 Safari/604.1"
	safari17  = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_6_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.6 Mobile/15E148 Safari/604.1"
	safari26  = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Mobile/15E148 Safari/604.1"
	macSafari = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Safari/605.1.15"
	chromeIOS = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/141.0.7390.41 Mobile/15E148 Safari/604.1"
	windows   = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36"
)

// house is the portal and all that a device meets, over HTTP, on a real store, with a
// clock that the test moves.
type house struct {
	*enroll.Service
	url      string
	people   *identity.Service
	texts    *text.Catalogue
	sessions *webui.Sessions
	mdm      *mdm.Service
	ana, ben identity.User
	http     http.RoundTripper
	health   *webui.Health
	log      *lockedBuffer

	mu    sync.Mutex
	time  time.Time
	ready bool
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

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// plan says what is special about a house.
type plan struct {
	ownCA   bool
	probe   string
	streams int
}

func newHouse(t testing.TB, pl plan) *house {
	t.Helper()
	storagetest.AnyEngine(t) // what is below is tested on each
	db := storagetest.Open(t)
	box, err := seal.New(make([]byte, seal.KeySize))
	must(t, err)
	h := &house{time: time.Now().UTC().Truncate(time.Second), log: new(lockedBuffer), ready: true}
	log := slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	authorities, err := depot.Open(t.Context(), depot.Config{DB: db, Box: box, Log: log, Now: h.now, KeyBits: 2048, Name: "test", NewKey: depottest.NewKey})
	must(t, err)
	h.mdm, err = mdm.New(mdm.Config{DB: db, Box: box, Log: log, Now: h.now})
	must(t, err)
	topics, err := apns.NewCertificates(box, h.now)
	must(t, err)
	h.people, err = identity.New(identity.Config{DB: db, Box: box, Log: log, Now: h.now, HashMemory: 64})
	must(t, err)
	h.ana, err = h.people.CreateUser(t.Context(), identity.Local(), identity.NewUser{Email: "ana@example.com", Role: identity.RoleOwner})
	must(t, err)
	h.ben, err = h.people.CreateUser(t.Context(), identity.Local(), identity.NewUser{Email: "ben@example.com"})
	must(t, err)

	pages, err := webui.NewPages(log)
	must(t, err)
	mux := webui.NewMux(pages.Fail)
	root := http.NewServeMux()
	srv := httptest.NewServer(root)
	t.Cleanup(srv.Close)
	h.url, h.http = srv.URL, srv.Client().Transport
	serverURL, err := url.Parse(srv.URL)
	must(t, err)
	organisation := authorities.Root()
	h.Service, err = enroll.New(enroll.Config{
		DB: db, Box: box, Depot: authorities, MDM: h.mdm, Topics: topics, ServerURL: serverURL, Log: log, Now: h.now,
		Sign: func(p []byte) ([]byte, error) {
			return profile.Sign(p, organisation.Certificate(), organisation.Signer())
		},
	})
	must(t, err)
	texts, err := text.New(text.Config{
		DB: db, Log: log, Now: h.now,
		Missing: func(lang, what string) { t.Errorf("missing in %s: %s", lang, what) },
	})
	must(t, err)
	h.texts = texts
	around, err := frame.New(frame.Config{Settings: h.Service, Texts: texts, Pages: pages, Log: log, Now: h.now})
	must(t, err)
	h.sessions, err = webui.NewSessions(webui.SessionsConfig{DB: db, Identity: h.people, Log: log, Now: h.now, Fail: around.Fail})
	must(t, err)
	door, err := portal.New(portal.Config{
		Enroll: h.Service, People: h.people, Sessions: h.sessions, Frame: around, Pages: pages,
		ServerURL: serverURL, Log: log, Now: h.now, OwnCA: pl.ownCA, Probe: pl.probe, Streams: pl.streams,
		Root:        func() *x509.Certificate { return organisation.Certificate() },
		RootProfile: func() ([]byte, error) { return []byte("profile of the root"), nil },
		Verified:    func() bool { return true },
		Ready:       func(context.Context) (bool, error) { h.mu.Lock(); defer h.mu.Unlock(); return h.ready, nil },
	})
	must(t, err)
	group := mux.Group(webui.Group{BodyLimit: 16 << 10, Fail: around.Fail, Use: []webui.Middleware{texts.KeepLanguage, h.sessions.Load}})
	door.Mount(group, mux.Group(webui.Group{BodyLimit: 1 << 10, Fail: around.Fail}))
	door.MountPreviews(mux.Group(webui.Group{BodyLimit: 1 << 10, Fail: around.Fail, Use: []webui.Middleware{h.sessions.Load}}))
	// Signing in is another package's: here, whoever says a name is that one.
	group.Handle("GET /login", func(w http.ResponseWriter, r *http.Request) error {
		u := map[string]identity.User{"ana": h.ana, "ben": h.ben}[r.URL.Query().Get("as")]
		if u.ID == "" {
			_, err := io.WriteString(w, "sign in, for "+r.URL.Query().Get("next"))
			return err
		}
		if err := h.sessions.StartUser(r.Context(), u); err != nil {
			return err
		}
		http.Redirect(w, r, r.URL.Query().Get("next"), http.StatusSeeOther)
		return nil
	})
	views, err := view.New()
	must(t, err)
	root.HandleFunc("GET "+view.AssetsPath, func(w http.ResponseWriter, r *http.Request) { views.Assets().Serve(w, r) })
	h.health = webui.NewHealth(db, h.now)
	sameOrigin, err := webui.SameOrigin(serverURL, around.Fail)
	must(t, err)
	root.Handle("/", webui.Chain(mux, webui.RealPeer(nil), webui.AssignRequestID, h.health.Watch, webui.SecurityHeaders(serverURL), sameOrigin))

	identities, err := scep.New(scep.Config{Authorities: []*depot.Authority{authorities.Identity()}, Issuer: scep.IssuerFunc(func(ctx context.Context, _ *depot.Authority, r depot.Request) (*x509.Certificate, error) {
		return h.IssueIdentity(ctx, r)
	}), Log: log})
	must(t, err)
	devices, err := checkin.New(checkin.Config{Enroll: h.Service, Log: log})
	must(t, err)
	for _, method := range []string{"PUT ", "POST "} {
		root.Handle(method+enroll.PathCheckIn, devices)
		root.Handle(method+enroll.PathConnect, devices)
	}
	root.Handle(enroll.PathSCEP, identities)
	drives, err := account.New(account.Config{Enroll: h.Service, Log: log})
	must(t, err)
	for pattern, handler := range drives.Routes() {
		root.Handle(pattern, handler)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server's log:\n%.20000s", h.log)
		}
	})
	return h
}

func (h *house) set(t testing.TB, change func(*enroll.Settings)) {
	t.Helper()
	_, err := h.UpdateSettings(t.Context(), func(s *enroll.Settings) error { change(s); return nil })
	must(t, err)
}

// serve has devices of all families enrolled by account whose users are of a domain.
func (h *house) serve(t testing.TB, domain string, mode enroll.AccountMode) {
	t.Helper()
	_, err := h.UpdateAccountDriven(t.Context(), func(c *enroll.AccountDriven) error {
		c.Domains = []enroll.AccountDomain{{Domain: domain, Policy: map[enroll.ModelFamily]enroll.AccountMode{
			"iPhone": mode, "iPad": mode, "Mac": mode, "RealityDevice": mode,
		}}}
		return nil
	})
	must(t, err)
}

func (h *house) link(t testing.TB, n enroll.NewLink) enroll.Link {
	t.Helper()
	l, err := h.CreateLink(t.Context(), n)
	must(t, err)
	return l
}

var deviceKeys = sync.OnceValues(func() (*mdmtest.KeyPool, error) { return mdmtest.NewKeyPool(2048) })

// phone makes a device that talks to h.
func (h *house) phone(t testing.TB) *mdmtest.Device {
	t.Helper()
	pool, err := deviceKeys()
	must(t, err)
	d, err := mdmtest.NewDevice(mdmtest.Options{Keys: pool, PlainHTTP: true, Transport: h.http, AnyEnrollment: true, Now: h.now})
	must(t, err)
	return d
}

// person is somebody with a browser.
type person struct {
	t     testing.TB
	h     *house
	agent string
	http  *http.Client
}

func (h *house) person(t testing.TB, agent string) *person {
	t.Helper()
	jar, err := cookiejar.New(nil)
	must(t, err)
	return &person{t, h, agent, &http.Client{Transport: h.http, Jar: jar}}
}

// page is what a browser shows in the end.
type page struct {
	path   string
	status int
	body   string
	header http.Header
}

func (p *person) do(method, path string, form url.Values, accept string) page {
	p.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(p.t.Context(), method, p.h.url+path, body)
	must(p.t, err)
	r.Header.Set("User-Agent", p.agent)
	r.Header.Set("Accept", accept)
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	answer, err := p.http.Do(r)
	must(p.t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	must(p.t, err)
	return page{answer.Request.URL.RequestURI(), answer.StatusCode, string(text), answer.Header}
}

const acceptHTML = "text/html,application/xhtml+xml,*/*;q=0.8"

func (p *person) get(path string) page {
	p.t.Helper()
	return p.do("GET", path, nil, acceptHTML)
}

func (p *person) post(path string, form ...string) page {
	p.t.Helper()
	values := url.Values{}
	for i := 0; i < len(form); i += 2 {
		values.Set(form[i], form[i+1])
	}
	return p.do("POST", path, values, acceptHTML)
}

// signIn follows where the portal has sent the person to sign in.
func (p *person) signIn(at page, as string) page {
	p.t.Helper()
	u, err := url.Parse(at.path)
	must(p.t, err)
	if u.Path != "/login" {
		p.t.Fatalf("at %s, want /login:\n%s", at.path, at.body)
	}
	return p.get(at.path + "&as=" + as)
}

// begin starts an enrollment, and returns its path.
func (p *person) begin(form ...string) (path string, at page) {
	p.t.Helper()
	at = p.post("/enroll/start", form...)
	return regexp.MustCompile(`/enroll/a/[a-z0-9]+`).FindString(strings.ReplaceAll(at.path, "%2F", "/")), at
}

// at checks which step a page is.
func (pg page) at(t testing.TB, step string) page {
	t.Helper()
	if path, _, _ := strings.Cut(pg.path, "?"); !strings.HasSuffix(path, "/"+step) || pg.status != http.StatusOK {
		t.Fatalf("at %s with status %d, want %s:\n%s", pg.path, pg.status, step, pg.body)
	}
	return pg
}

// has checks that a page holds texts.
func (pg page) has(t testing.TB, texts ...string) page {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(pg.body, text) {
			t.Errorf("%s does not hold %q:\n%s", pg.path, text, pg.body)
		}
	}
	return pg
}
