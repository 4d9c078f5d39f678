package account_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"html"
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
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/oidc"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/oidc/oidctest"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/account"
	"github.com/gatehouse-mdm/gatehouse/webui/frame"
	"github.com/gatehouse-mdm/gatehouse/webui/signin"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

const password = "correct horse battery staple"

// house is the pages and the login over HTTP, on a real store, with a clock that the test
// moves. Ana and Ben have Managed Apple Accounts, Carl has none.
type house struct {
	*enroll.Service
	url            string
	db             storage.DB
	people         *identity.Service
	texts          *text.Catalogue
	root           *depot.Authority
	ana, ben, carl identity.User
	log            *lockedBuffer

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

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newHouse(t testing.TB, method enroll.SignInMethod) *house {
	t.Helper()
	storagetest.AnyEngine(t) // what is below is tested on each
	h := &house{time: time.Now().UTC().Truncate(time.Second), log: new(lockedBuffer), db: storagetest.Open(t)}
	box, err := seal.New(make([]byte, seal.KeySize))
	must(t, err)
	log := slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	authorities, err := depot.Open(t.Context(), depot.Config{DB: h.db, Box: box, Log: log, Now: h.now, KeyBits: 2048, Name: "test", NewKey: depottest.NewKey})
	must(t, err)
	h.root = authorities.Root()
	devices, err := mdm.New(mdm.Config{DB: h.db, Box: box, Log: log, Now: h.now})
	must(t, err)
	topics, err := apns.NewCertificates(box, h.now)
	must(t, err)
	kind, err := oidc.New(h.now)
	must(t, err)
	h.people, err = identity.New(identity.Config{DB: h.db, Box: box, Kinds: []identity.SourceKind{kind}, Log: log, Now: h.now, HashMemory: 64})
	must(t, err)
	for u, n := range map[*identity.User]identity.NewUser{
		&h.ana:  {Username: "ana", Email: "ana@example.com", Password: password, ManagedAppleAccount: "ana@work.example.com", Role: identity.RoleOwner},
		&h.ben:  {Username: "ben", Email: "ben@example.com", Password: password, ManagedAppleAccount: "ben@work.example.com"},
		&h.carl: {Username: "carl", Email: "carl@example.com", Password: password},
	} {
		*u, err = h.people.CreateUser(t.Context(), identity.Local(), n)
		must(t, err)
	}

	pages, err := webui.NewPages(log)
	must(t, err)
	root := http.NewServeMux()
	srv := httptest.NewServer(root)
	t.Cleanup(srv.Close)
	h.url = srv.URL
	serverURL, err := url.Parse(srv.URL)
	must(t, err)
	h.Service, err = enroll.New(enroll.Config{
		DB: h.db, Box: box, Depot: authorities, MDM: devices, Topics: topics, ServerURL: serverURL, Log: log, Now: h.now,
		Sign: func(p []byte) ([]byte, error) { return profile.Sign(p, h.root.Certificate(), h.root.Signer()) },
	})
	must(t, err)
	h.policy(t, func(c *enroll.AccountDriven) {
		c.Method = method
		c.Domains = []enroll.AccountDomain{{Domain: "example.com", Policy: map[enroll.ModelFamily]enroll.AccountMode{"iPhone": enroll.ModeBYOD, "Mac": enroll.ModeADDE}}}
	})
	h.texts, err = text.New(text.Config{
		DB: h.db, Log: log, Now: h.now,
		Missing: func(lang, what string) { t.Errorf("missing in %s: %s", lang, what) },
	})
	must(t, err)
	around, err := frame.New(frame.Config{Settings: h.Service, Texts: h.texts, Pages: pages, Log: log, Now: h.now})
	must(t, err)
	sessions, err := webui.NewSessions(webui.SessionsConfig{DB: h.db, Identity: h.people, Log: log, Now: h.now, Fail: around.Fail})
	must(t, err)
	entrance, err := signin.New(signin.Config{People: h.people, Sessions: sessions, Pages: pages, Frame: around, ServerURL: serverURL, Log: log, Now: h.now})
	must(t, err)
	signIns, err := account.New(account.Config{Enroll: h.Service, People: h.people, Sessions: sessions, Frame: around, Pages: pages, Log: log})
	must(t, err)
	mux := webui.NewMux(pages.Fail)
	group := mux.Group(webui.Group{BodyLimit: 16 << 10, Timeout: 30 * time.Second, Fail: around.Fail,
		Use: []webui.Middleware{webui.PlainQuery(around.Fail), h.texts.KeepLanguage, sessions.Load}})
	entrance.Mount(group)
	signIns.Mount(group)
	group.Handle("GET /me", func(w http.ResponseWriter, r *http.Request) error {
		who, _ := identity.PrincipalFrom(r.Context())
		_, err := io.WriteString(w, "here is "+who.Name)
		return err
	})
	views, err := view.New()
	must(t, err)
	root.HandleFunc("GET "+view.AssetsPath, func(w http.ResponseWriter, r *http.Request) { views.Assets().Serve(w, r) })
	sameOrigin, err := webui.SameOrigin(serverURL, around.Fail)
	must(t, err)
	root.Handle("/", webui.Chain(mux, webui.RealPeer(nil), webui.AssignRequestID, webui.AccessLog(log, h.now), webui.SecurityHeaders(serverURL), sameOrigin))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server's log:\n%.8000s", h.log)
		}
	})
	return h
}

func (h *house) policy(t testing.TB, change func(*enroll.AccountDriven)) {
	t.Helper()
	_, err := h.UpdateAccountDriven(t.Context(), func(c *enroll.AccountDriven) error { change(c); return nil })
	must(t, err)
}

func (h *house) set(t testing.TB, change func(*enroll.Settings)) {
	t.Helper()
	_, err := h.UpdateSettings(t.Context(), func(s *enroll.Settings) error { change(s); return nil })
	must(t, err)
}

// standIn sets a provider up to which people are sent.
func (h *house) standIn(t testing.TB, uses []identity.Use, claims map[string]any) (*oidctest.StandIn, identity.Provider) {
	t.Helper()
	idp := oidctest.NewStandIn(t, h.now)
	idp.Change(func(b *oidctest.Behaviour) { b.Claims = claims })
	settings, err := json.Marshal(map[string]any{"issuer": idp.Issuer, "client_id": oidctest.ClientID, "client_secret": oidctest.ClientSecret, "allow_private": true})
	must(t, err)
	name := "Example ID"
	p, err := h.people.CreateProvider(t.Context(), identity.Local(), "oidc", identity.ProviderChange{Name: &name, Settings: settings, Uses: &uses})
	must(t, err)
	return idp, p
}

// device is what the tests need of one: it says what it is, and is told where its user
// signs in.
type device struct {
	t       testing.TB
	h       *house
	mode    enroll.AccountMode
	product string
	version string
}

func (h *house) iPhone(t testing.TB) device {
	return device{t, h, enroll.ModeBYOD, "iPhone17,2", "18.5"}
}
func (h *house) mac(t testing.TB) device { return device{t, h, enroll.ModeADDE, "Mac16,1", "15.5"} }

func (d device) post(bearer string) ([]byte, error) {
	d.t.Helper()
	statement := fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>
<plist version="1.0"><dict><key>LANGUAGE</key><string>en</string><key>PRODUCT</key><string>%s</string><key>VERSION</key><string>22F76</string><key>OS_VERSION</key><string>%s</string></dict></plist>`, d.product, d.version)
	body, err := profile.Sign([]byte(statement), d.h.root.Certificate(), d.h.root.Signer())
	must(d.t, err)
	return d.h.EnrollByAccount(d.t.Context(), enroll.AccountRequest{Mode: d.mode, Body: body, Bearer: bearer, Peer: "198.51.100.9"})
}

// challenge returns the path at which the device's user signs in, with what the device
// adds to it.
func (d device) challenge(typed string) string {
	d.t.Helper()
	_, err := d.post("")
	var required *enroll.SignInRequired
	if !errors.As(err, &required) {
		d.t.Fatalf("the device is answered %v, want a challenge", err)
	}
	found := regexp.MustCompile(`(?:authorization-)?url="([^"]+)"`).FindStringSubmatch(required.Challenge)
	if found == nil {
		d.t.Fatalf("no URL in %s", required.Challenge)
	}
	path := strings.TrimPrefix(found[1], d.h.url)
	if strings.Contains(required.Challenge, `"apple-oauth2"`) {
		return path + "?" + url.Values{
			"response_type": {"code"}, "client_id": {enroll.OAuthClientID}, "redirect_uri": {enroll.OAuthRedirectURI},
			"state": {state}, "login_hint": {typed},
		}.Encode()
	}
	if typed == "" {
		return path
	}
	return path + "?user-identifier=" + typed // the @ as it is, as devices send it
}

// state is one that a percent sign, a space and other letters are in: it must come back.
const state = "C6D1A3F0 &=%2F+ü"

// person is somebody in a browser view, with cookies of its own.
type person struct {
	t    testing.TB
	h    *house
	http *http.Client
}

func (h *house) person(t testing.TB) *person {
	t.Helper()
	jar, err := cookiejar.New(nil)
	must(t, err)
	return &person{t, h, &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Scheme != "http" || r.Response.StatusCode == http.StatusPermanentRedirect {
			return http.ErrUseLastResponse
		}
		return nil
	}}}
}

// page is what the view shows in the end.
type page struct {
	path   string
	status int
	body   string
	header http.Header
}

func (p *person) do(method, path string, form url.Values, header ...string) page {
	p.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	if !strings.HasPrefix(path, "http") {
		path = p.h.url + path
	}
	r, err := http.NewRequestWithContext(p.t.Context(), method, path, body)
	must(p.t, err)
	r.Header.Set("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := p.http.Do(r)
	must(p.t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	must(p.t, err)
	return page{answer.Request.URL.RequestURI(), answer.StatusCode, string(text), answer.Header}
}

func (p *person) get(path string, header ...string) page {
	p.t.Helper()
	return p.do("GET", path, nil, header...)
}

var (
	formTag  = regexp.MustCompile(`(?s)<form[^>]* action="([^"]*)".*?</form>`)
	inputTag = regexp.MustCompile(`<input[^>]*>`)
	nameOf   = regexp.MustCompile(` name="([^"]*)"`)
	valueOf  = regexp.MustCompile(` value="([^"]*)"`)
)

// send fills a form of the page in, as it was shown, and sends it. The first whose action
// begins so is taken.
func (p *person) send(at page, action string, pairs ...string) page {
	p.t.Helper()
	for _, form := range formTag.FindAllStringSubmatch(at.body, -1) {
		to := html.UnescapeString(form[1])
		if !strings.HasPrefix(to, action) {
			continue
		}
		values := url.Values{}
		for _, input := range inputTag.FindAllString(form[0], -1) {
			name, value := nameOf.FindStringSubmatch(input), valueOf.FindStringSubmatch(input)
			if name != nil && value != nil && !strings.Contains(input, `type="checkbox"`) {
				values.Set(name[1], html.UnescapeString(value[1]))
			}
		}
		for i := 0; i < len(pairs); i += 2 {
			values.Set(pairs[i], pairs[i+1])
		}
		return p.do("POST", to, values)
	}
	p.t.Fatalf("%s has no form for %s:\n%s", at.path, action, at.body)
	return page{}
}

// signIn takes who is at the login through it with a password.
func (p *person) signIn(at page, as string) page {
	p.t.Helper()
	at.at(p.t, "/login")
	return p.send(at, "/login", "email", as, "password", password)
}

// at checks which page it is.
func (pg page) at(t testing.TB, path string) page {
	t.Helper()
	if !strings.HasPrefix(pg.path, path) || pg.status != http.StatusOK {
		t.Fatalf("at %s with status %d, want %s:\n%s", pg.path, pg.status, path, pg.body)
	}
	return pg
}

// has checks that a page has a status and holds texts.
func (pg page) has(t testing.TB, status int, texts ...string) page {
	t.Helper()
	body := html.UnescapeString(pg.body)
	for _, text := range texts {
		if !strings.Contains(body, text) {
			t.Errorf("%s does not hold %q:\n%s", pg.path, text, pg.body)
		}
	}
	if pg.status != status {
		t.Errorf("%s has status %d, want %d:\n%s", pg.path, pg.status, status, pg.body)
	}
	return pg
}

// handedBack checks that the sign-in is over, and returns what the device is given.
func (pg page) handedBack(t testing.TB) url.Values {
	t.Helper()
	if pg.status != http.StatusPermanentRedirect {
		t.Fatalf("%s has status %d, want 308:\n%s", pg.path, pg.status, pg.body)
	}
	to, query, _ := strings.Cut(pg.header.Get("Location"), "?")
	if to != "apple-remotemanagement-user-login://authentication-results" && to != enroll.OAuthRedirectURI {
		t.Errorf("the device is sent to %s", to)
	}
	if pg.body != "" || pg.header.Get("Content-Length") != "0" || pg.header.Get("Cache-Control") != "no-store" || pg.header.Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("the hand-back has the body %q and the header %v", pg.body, pg.header)
	}
	values, err := url.ParseQuery(query)
	must(t, err)
	return values
}

// redeem gives a device what a sign-in handed back, and returns its access token.
func (d device) redeem(values url.Values) string {
	d.t.Helper()
	if token := values.Get("access-token"); token != "" {
		return token
	}
	if got := values.Get("state"); got != state {
		d.t.Errorf("state %q came back, want %q", got, state)
	}
	answer, err := d.h.IssueTokens(d.t.Context(), enroll.TokenRequest{
		GrantType: "authorization_code", Code: values.Get("code"), RedirectURI: enroll.OAuthRedirectURI, ClientID: enroll.OAuthClientID,
	})
	must(d.t, err)
	return answer.AccessToken
}

// wantProfile checks that a token gets the device a profile for a person.
func (d device) wantProfile(token, account string) {
	d.t.Helper()
	signed, err := d.post(token)
	must(d.t, err)
	if !bytes.Contains(signed, []byte(account)) {
		d.t.Errorf("the profile is not for %s", account)
	}
}

// totp is what an authenticator app shows (RFC 6238).
func totp(t testing.TB, key string, at time.Time) string {
	t.Helper()
	raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ReplaceAll(key, " ", ""))
	must(t, err)
	mac := hmac.New(sha1.New, raw)
	_ = binary.Write(mac, binary.BigEndian, uint64(at.Unix()/30))
	sum := mac.Sum(nil)
	offset := sum[len(sum)-1] & 15
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(sum[offset:])&0x7fffffff%1_000_000)
}
