package signin_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"html"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/oidc"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/oidc/oidctest"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/frame"
	"github.com/gatehouse-mdm/gatehouse/webui/signin"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

const (
	server   = "https://mdm.example.com"
	password = "correct horse battery staple"
)

// house is the pages over a real store, with the owner Ana and the user Ben.
type house struct {
	people   *identity.Service
	ana, ben identity.User
	handler  http.Handler
	log      *lockedBuffer

	mu sync.Mutex
	at time.Time
}

func (h *house) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at
}

func (h *house) wait(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at = h.at.Add(d)
}

// lockedBuffer is a log that can be read while it is written.
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

// defaults are settings that nobody has changed.
type defaults struct{}

func (defaults) Settings(context.Context) (enroll.Settings, error) {
	s := enroll.DefaultSettings()
	s.Organisation.Name = "Example"
	return s, nil
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{at: time.Now().Truncate(time.Second), log: &lockedBuffer{}}
	db, log := storagetest.Open(t), slog.New(slog.NewTextHandler(h.log, nil))
	box, err := seal.New(bytes.Repeat([]byte{7}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	kind, err := oidc.New(h.now)
	if err != nil {
		t.Fatal(err)
	}
	h.people, err = identity.New(identity.Config{
		DB: db, Box: box, Kinds: []identity.SourceKind{kind, scripted{}}, Log: log, Now: h.now, HashMemory: 64,
	})
	if err != nil {
		t.Fatal(err)
	}
	for u, n := range map[*identity.User]identity.NewUser{
		&h.ana: {Username: "ana@example.com", Email: "ana@example.com", Password: password, Role: identity.RoleOwner},
		&h.ben: {Username: "ben", Email: "ben@example.com", Password: password, Role: identity.RoleUser},
	} {
		if *u, err = h.people.CreateUser(t.Context(), identity.Local(), n); err != nil {
			t.Fatal(err)
		}
	}

	pages, err := webui.NewPages(log)
	if err != nil {
		t.Fatal(err)
	}
	sessions, err := webui.NewSessions(webui.SessionsConfig{DB: db, Identity: h.people, Log: log, Now: h.now, Secure: true, Fail: pages.Fail})
	if err != nil {
		t.Fatal(err)
	}
	texts, err := text.New(text.Config{
		DB: db, Log: log, Now: h.now, Secure: true,
		Missing: func(lang, what string) { t.Errorf("missing in %s: %s", lang, what) },
	})
	if err != nil {
		t.Fatal(err)
	}
	around, err := frame.New(frame.Config{Settings: defaults{}, Texts: texts, Pages: pages, Log: log, Now: h.now})
	if err != nil {
		t.Fatal(err)
	}
	serverURL, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	desk, err := signin.New(signin.Config{
		People: h.people, Sessions: sessions, Pages: pages, Frame: around, ServerURL: serverURL, Log: log, Now: h.now,
		Progress: func(_ *http.Request, path string) view.Progress {
			if !strings.HasPrefix(path, "/enroll/a/") {
				return view.Progress{}
			}
			return view.Progress{Steps: []string{"Sign in", "Install", "Done"}, Current: 1}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := webui.NewMux(around.Fail)
	group := mux.Group(webui.Group{BodyLimit: 16 << 10, Timeout: 30 * time.Second, Fail: around.Fail, Use: []webui.Middleware{sessions.Load}})
	desk.Mount(group)
	group.Handle("GET /who", func(w http.ResponseWriter, r *http.Request) error {
		who := "nobody"
		if p, ok := identity.PrincipalFrom(r.Context()); ok {
			who = p.String()
		}
		_, err := w.Write([]byte(who))
		return err
	})
	group.Handle("POST /remember", func(_ http.ResponseWriter, r *http.Request) error {
		return sessions.SetValue(r.Context(), webui.SessionAttempt, "a-1")
	})
	sameOrigin, err := webui.SameOrigin(serverURL, around.Fail)
	if err != nil {
		t.Fatal(err)
	}
	h.handler = webui.Chain(mux, webui.RealPeer([]netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}), webui.AssignRequestID, webui.SecurityHeaders(serverURL), sameOrigin)
	return h
}

// addProvider sets a provider up.
func (h *house) addProvider(t *testing.T, kind, name string, settings map[string]any, change func(*identity.ProviderChange)) identity.Provider {
	t.Helper()
	raw, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	c := identity.ProviderChange{Name: &name, Settings: raw}
	if change != nil {
		change(&c)
	}
	p, err := h.people.CreateProvider(t.Context(), identity.Local(), kind, c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// standIn sets a provider up to which people are sent.
func (h *house) standIn(t *testing.T, change func(*identity.ProviderChange)) (*oidctest.StandIn, identity.Provider) {
	t.Helper()
	idp := oidctest.NewStandIn(t, h.now)
	idp.Change(func(b *oidctest.Behaviour) {
		b.Claims = map[string]any{
			"sub": "248289761001", "preferred_username": "zoe", "name": "Zoe Example",
			"email": "zoe@example.com", "email_verified": true, "groups": []string{"staff"},
		}
	})
	return idp, h.addProvider(t, "oidc", "Example ID", map[string]any{
		"issuer": idp.Issuer, "client_id": oidctest.ClientID, "client_secret": oidctest.ClientSecret, "allow_private": true,
	}, change)
}

// scripted is a kind of sources in which the login says what becomes of a sign-in.
type scripted struct{}

func (scripted) Name() string                { return "scripted" }
func (scripted) Secrets() []string           { return nil }
func (scripted) Check(json.RawMessage) error { return nil }
func (scripted) Mapping() identity.Mapping {
	return identity.Mapping{Username: "uid", Email: "mail"}
}
func (scripted) Open(json.RawMessage) (any, error) { return scripted{}, nil }

func (scripted) SignIn(_ context.Context, login, _ string) (identity.Person, bool, error) {
	switch login {
	case "locked":
		return identity.Person{}, true, identity.ErrLocked
	case "expired":
		return identity.Person{}, true, identity.ErrPasswordExpired
	case "down":
		return identity.Person{}, false, fmt.Errorf("%w: connect: refused", identity.ErrSource)
	case "unusable":
		return identity.Person{Subject: "s-unusable", Attributes: map[string][]string{"uid": {"ana@example.com"}}}, true, nil
	case "carla":
		return identity.Person{Subject: "s-carla", Attributes: map[string][]string{"uid": {"carla"}}}, true, nil
	}
	return identity.Person{}, false, identity.ErrBadLogin
}

// browser keeps cookies, and follows nothing by itself.
type browser struct {
	t       *testing.T
	h       *house
	peer    string
	cookies map[string]*http.Cookie
}

func (h *house) browser(t *testing.T) *browser {
	return &browser{t: t, h: h, peer: "198.51.100.7", cookies: map[string]*http.Cookie{}}
}

func (b *browser) do(method, path string, form url.Values, header ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	r := httptest.NewRequest(method, server+path, strings.NewReader(form.Encode()))
	r.Header.Set("Accept", "text/html")
	r.Header.Set("X-Forwarded-For", b.peer)
	r.Header.Set("X-Forwarded-Proto", "https")
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", server)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	for _, c := range b.cookies {
		r.AddCookie(c)
	}
	w := httptest.NewRecorder()
	b.h.handler.ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		b.cookies[c.Name] = c
		if c.MaxAge < 0 || c.Value == "" {
			delete(b.cookies, c.Name)
		}
	}
	return w
}

func (b *browser) get(path string) *httptest.ResponseRecorder {
	b.t.Helper()
	return b.do("GET", path, nil)
}

func (b *browser) post(path string, pairs ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	form := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	return b.do("POST", path, form)
}

func (b *browser) who() string { b.t.Helper(); return b.get("/who").Body.String() }

const cookieName = "__Host-gatehouse"

func (b *browser) cookie() string {
	if c := b.cookies[cookieName]; c != nil {
		return c.Value
	}
	return ""
}

// want fails unless w has this status, and each of the parts in its page or Location.
func want(t *testing.T, w *httptest.ResponseRecorder, status int, parts ...string) {
	t.Helper()
	text := w.Header().Get("Location") + "\n" + html.UnescapeString(w.Body.String())
	missing := []string{}
	for _, part := range parts {
		if !strings.Contains(text, part) {
			missing = append(missing, part)
		}
	}
	if w.Code != status || len(missing) > 0 {
		_, shown, _ := strings.Cut(w.Body.String(), "<main")
		t.Errorf("status %d, want %d; missing %q\n%s\n%s", w.Code, status, missing, w.Header().Get("Location"), shown)
	}
}

// totp is what an authenticator app shows (RFC 6238).
func totp(t *testing.T, key string, at time.Time) string {
	t.Helper()
	raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ReplaceAll(key, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha1.New, raw)
	_ = binary.Write(mac, binary.BigEndian, uint64(at.Unix()/30))
	sum := mac.Sum(nil)
	offset := sum[len(sum)-1] & 15
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(sum[offset:])&0x7fffffff%1_000_000)
}

func TestSomebodySignsInAndOut(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	h := newHouse(t)
	b := h.browser(t)
	want(t, b.get("/login?next=/me"), 200, `action="/login"`, `name="next" value="/me"`, `autocomplete="current-password"`, "to see your devices")
	want(t, b.get("/login?next=/enroll/a/7"), 200, "to enroll this device", `aria-current="step"`)
	want(t, b.get("/login?next=/enroll/a/7&again=1"), 200, `role="status"`, "nothing is lost")
	want(t, b.get("/admin/login"), 200, `action="/admin/login"`, "gatehouse setup-link")
	want(t, b.post("/login", "email", "BEN", "password", password, "next", "/enroll/a/7?lang=de"), 303, "/enroll/a/7?lang=de")
	if who := b.who(); who != "user:ben@example.com" {
		t.Fatalf("signed in as %s", who)
	}
	want(t, b.get("/login?next=/me"), 303, "/me")
	want(t, b.get("/login"), 303, "/me")
	want(t, b.get("/login?next=/me&switch=1"), 200, `action="/login"`)
	want(t, b.get("/logout"), 200, "You are signed in as ben@example.com", `action="/logout"`)
	if who := b.who(); who != "user:ben@example.com" {
		t.Error("to look at the page that signs out has signed out")
	}
	old := b.cookies[cookieName]
	want(t, b.post("/logout"), 303, "/login?out=1")
	want(t, b.get("/login?out=1"), 200, "You are signed out", `role="status"`)
	b.cookies[cookieName] = old
	if who := b.who(); who != "nobody" {
		t.Errorf("the old cookie after signing out is %s's", who)
	}

	b = h.browser(t)
	want(t, b.post("/login", "email", "ana@example.com", "password", password), 303, "/admin")
	want(t, b.get("/login"), 303, "/admin")
	want(t, b.post("/admin/logout"), 303, "/admin/login?out=1")
}

func TestTheLoginSendsNobodyElsewhere(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	h := newHouse(t)
	for next, to := range map[string]string{
		"":                                 "/me",
		"/me":                              "/me",
		"/me/devices/7?a=b&c=%2F%2Fx":      "/me/devices/7?a=b&c=%2F%2Fx",
		"/enroll":                          "/enroll",
		"/enroll/a/7":                      "/enroll/a/7",
		"/enroll/a/7/":                     "/enroll/a/7/",
		"/admin/devices/A:B?cursor=x":      "/admin/devices/A:B?cursor=x",
		"https://evil.example/":            "/me",
		"//evil.example/enroll":            "/me",
		"///evil.example/enroll":           "/me",
		"/enroll//evil.example":            "/me",
		`/enroll/\evil.example`:            "/me",
		`/\evil.example/enroll`:            "/me",
		`\\evil.example/enroll`:            "/me",
		"/enroll/../\x09/evil.example":     "/me",
		"/\t/evil.example/enroll":          "/me",
		"/%2f/evil.example/enroll":         "/me",
		"/enroll/%2e%2e/%2fevil.example":   "/me",
		"/enroll/../api":                   "/me",
		"/enroll/./x":                      "/me",
		"/%65nroll":                        "/me",
		"javascript:alert(1)":              "/me",
		"/enroll:javascript":               "/me",
		"https:/enroll":                    "/me",
		"https:///enroll":                  "/me",
		"/enroll\r\nSet-Cookie: a=b":       "/me",
		"/enrollx":                         "/me",
		"/adminx":                          "/me",
		"/api/v1/devices":                  "/me",
		"/logout":                          "/me",
		"/admin/logout":                    "/me",
		"/admin/login":                     "/me",
		"/login":                           "/me",
		"/login/with/x":                    "/me",
		"/enroll#@evil.example":            "/me",
		"/enroll?x=\\evil":                 "/me",
		"/enroll/@evil.example":            "/enroll/@evil.example", // a path of ours
		"enroll":                           "/me",
		" /enroll":                         "/me",
		"/me/" + strings.Repeat("a", 4000): "/me",
		"/enroll/ünïcode":                  "/me",
	} {
		b := h.browser(t)
		// Already signed in, so that no password is computed for each of these.
		h.signIn(t, b, h.ben)
		w := b.get("/login?next=" + url.QueryEscape(next))
		if got := w.Header().Get("Location"); w.Code != 303 || got != to {
			t.Errorf("next=%q: %d to %q, want %q", next, w.Code, got, to)
		}
	}
	b := h.browser(t)
	want(t, b.post("/login", "email", "ben", "password", password, "next", "//evil.example"), 303, "/me")
	b = h.browser(t)
	want(t, b.post("/admin/login", "email", "ana@example.com", "password", password, "next", "/enroll"), 303, "/admin")
	if page := b.get("/login?switch=1&next=" + url.QueryEscape("//evil.example")).Body.String(); strings.Contains(page, "evil.example") {
		t.Error("the page keeps an address elsewhere")
	}
}

var loginCache sync.Map

// signIn gives b the cookie of a session of u.
func (h *house) signIn(t *testing.T, b *browser, u identity.User) {
	t.Helper()
	key := fmt.Sprintf("%p %s", h, u.ID)
	if have, ok := loginCache.Load(key); ok {
		b.cookies[cookieName] = have.(*http.Cookie)
		return
	}
	want(t, b.post("/login", "email", u.Login(), "password", password), 303)
	loginCache.Store(key, b.cookies[cookieName])
}

func TestWhatWasWrongIsSaid(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	h := newHouse(t)
	h.addProvider(t, "scripted", "Directory", map[string]any{}, nil)
	disabled := true
	off, err := h.people.CreateUser(t.Context(), identity.Local(), identity.NewUser{Username: "off", Password: password, Role: identity.RoleUser})
	if err == nil {
		_, err = h.people.UpdateUser(t.Context(), identity.Local(), off.ID, identity.UserChange{Disabled: &disabled})
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		login, password string
		status          int
		code, says      string
	}{
		"a wrong password":                {"ben", "wrong", 401, "GH-E201", "not right"},
		"an unknown user":                 {"nobody", "wrong", 401, "GH-E201", "not right"},
		"no password":                     {"ben", "", 401, "GH-E201", "not right"},
		"a name that is HTML":             {`"><script>alert(1)</script>`, "x", 401, "GH-E201", "not right"},
		"a name that is no text":          {"\xff\xfe", "x", 401, "GH-E201", "not right"},
		"an account that is switched off": {"off", password, 403, "GH-E203", "switched off"},
		"that, and a wrong password":      {"off", "wrong", 401, "GH-E201", "not right"},
		"a locked account":                {"locked", "x", 403, "GH-E204", "locked"},
		"an expired password":             {"expired", "x", 403, "GH-E205", "expired"},
		"a directory that is down":        {"down", "x", 503, "GH-E206", "right now"},
		"a name that another one has":     {"unusable", "x", 403, "GH-E207", "can’t be used here"},
	} {
		t.Run(name, func(t *testing.T) {
			b := h.browser(t)
			w := b.post("/login", "email", tt.login, "password", tt.password, "next", "/enroll/a/7")
			want(t, w, tt.status, `role="alert"`, tt.code, tt.says, `name="next" value="/enroll/a/7"`)
			page := w.Body.String()
			if strings.ToValidUTF8(tt.login, "") == tt.login && !strings.Contains(page, `value="`+html.EscapeString(tt.login)+`"`) {
				t.Error("the login is not in its field any more")
			}
			if strings.Contains(page, "<script>alert") || tt.password == password && strings.Contains(page, password) {
				t.Errorf("the page repeats what it must not:\n%s", page)
			}
			if b.who() != "nobody" {
				t.Error("somebody is signed in")
			}
			if !strings.Contains(h.log.String(), "code="+tt.code) {
				t.Errorf("the log has no %s", tt.code)
			}
		})
	}
	if strings.Contains(h.log.String(), password) {
		t.Error("the log has a password")
	}
}

func TestNobodyLearnsWhoThereIs(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	h := newHouse(t)
	tell := func(login string) string {
		w := h.browser(t).post("/login", "email", login, "password", "wrong")
		// The request's ID is not on this page: what differs is what was typed.
		return fmt.Sprint(w.Code, w.Header()["Content-Type"], w.Header()["Set-Cookie"], strings.ReplaceAll(w.Body.String(), login, "LOGIN"))
	}
	if known, unknown := tell("ben@example.com"), tell("zed@example.com"); known != unknown {
		t.Errorf("a user and nobody are answered differently:\n%s\n%s", known, unknown)
	}
}

func TestTooManyTriesHaveToWait(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	b := h.browser(t)
	var w *httptest.ResponseRecorder
	tries := 0
	for ; tries < 10; tries++ {
		if w = b.post("/login", "email", "ben", "password", "wrong"); w.Code != 401 {
			break
		}
	}
	want(t, w, 429, `role="alert"`, "GH-E202", "Wait 15 minutes", `value="ben"`)
	if w.Header().Get("Retry-After") != "900" {
		t.Errorf("Retry-After = %q after %d tries, want 900", w.Header().Get("Retry-After"), tries)
	}
	want(t, b.post("/login", "email", "ben", "password", password), 429)
	h.wait(14*time.Minute + 30*time.Second)
	want(t, b.post("/login", "email", "ben", "password", password), 429, "Wait a minute")
	h.wait(time.Minute)
	want(t, b.post("/login", "email", "ben", "password", password), 303)
}

func TestSessionsAreAnewAfterSigningIn(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	b := h.browser(t)
	want(t, b.post("/remember"), 200)
	before := b.cookies[cookieName]
	w := b.post("/login", "email", "ben", "password", password)
	want(t, w, 303)
	cookies := w.Result().Cookies()
	if len(cookies) != 1 {
		t.Fatalf("cookies %v, want one", cookies)
	}
	c := cookies[0]
	if c.Value == before.Value {
		t.Error("the session has the same ID before and after")
	}
	if c.Name != cookieName || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
		t.Errorf("cookie %v is not as it must be", c)
	}
	victim := h.browser(t)
	victim.cookies[cookieName] = before
	if who := victim.who(); who != "nobody" {
		t.Errorf("the session of before is %s's", who)
	}
	victim.cookies[cookieName] = &http.Cookie{Name: cookieName, Value: "planted"}
	want(t, victim.post("/login", "email", "ben", "password", password), 303)
	if victim.cookie() == "planted" {
		t.Error("a planted cookie became a session")
	}
	// From another site nobody is signed in, nor out.
	want(t, b.do("POST", "/login", url.Values{"email": {"ana@example.com"}, "password": {password}}, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"), 403)
	want(t, b.do("POST", "/logout", nil, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"), 403)
	if who := b.who(); who != "user:ben@example.com" {
		t.Errorf("after forms of another site: %s", who)
	}
}

func TestSecondFactor(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	setup, err := h.people.BeginSecondFactor(t.Context(), h.ana.ID, "Gatehouse")
	if err != nil {
		t.Fatal(err)
	}
	key := setup.Key.Reveal()
	_, recovery, err := h.people.ConfirmSecondFactor(t.Context(), h.ana.ID, totp(t, key, h.now()), "198.51.100.7")
	if err != nil {
		t.Fatal(err)
	}
	h.wait(time.Minute)
	giveThePassword := func(b *browser) {
		t.Helper()
		want(t, b.post("/login", "email", "ana@example.com", "password", password, "next", "/admin/devices"), 303, "/login/code")
	}

	b := h.browser(t)
	want(t, b.post("/remember"), 200)
	before := b.cookies[cookieName]
	giveThePassword(b)
	if b.cookie() == before.Value {
		t.Error("the session that waits for a code has the ID of before")
	}
	planted := h.browser(t)
	planted.cookies[cookieName] = before
	want(t, planted.get("/login/code"), 303, "/login")
	if who := b.who(); who != "nobody" {
		t.Errorf("without the code it is %s", who)
	}
	want(t, b.get("/login/code"), 200, `autocomplete="one-time-code"`, `inputmode="numeric"`, "ana@example.com")
	want(t, b.get("/login/code?recovery=1"), 200, "Recovery code", `name="recovery"`)
	want(t, b.post("/login/code", "code", "000000"), 401, `role="alert"`, "GH-E208", `inputmode="numeric"`)
	want(t, b.post("/login/code", "code", "AAAA-BBBB-CCCC-DDDD", "recovery", "1"), 401, "GH-E208", "recovery code is not right", `name="recovery"`)
	code := totp(t, key, h.now())
	waiting := b.cookies[cookieName]
	want(t, b.post("/login/code", "code", code[:3]+" "+code[3:]), 303, "/admin/devices")
	if who := b.who(); who != "user:ana@example.com" || b.cookie() == waiting.Value {
		t.Errorf("with the code it is %s, in a session of its own: %v", who, b.cookie() != waiting.Value)
	}

	again := h.browser(t)
	giveThePassword(again)
	want(t, again.post("/login/code", "code", code), 401, "GH-E208")
	want(t, again.post("/login/code", "code", strings.ToLower(recovery[0].Reveal()), "recovery", "1"), 303, "/admin/devices")
	again = h.browser(t)
	giveThePassword(again)
	want(t, again.post("/login/code", "code", recovery[0].Reveal(), "recovery", "1"), 401, "GH-E208")

	// The password is good for ten minutes, in one browser.
	h.wait(11 * time.Minute)
	want(t, again.get("/login/code"), 303, "/login?next=%2Fadmin%2Fdevices")
	want(t, again.post("/login/code", "code", totp(t, key, h.now())), 403, "GH-E209", `action="/login"`, `value="/admin/devices"`)
	want(t, h.browser(t).post("/login/code", "code", totp(t, key, h.now())), 403, "GH-E209")

	// Nor is it good for anything when sessions were ended.
	giveThePassword(again)
	if err := h.people.EndSessions(t.Context(), identity.Local(), h.ana.ID); err != nil {
		t.Fatal(err)
	}
	want(t, again.post("/login/code", "code", totp(t, key, h.now())), 403, "GH-E209", `value="/admin/devices"`)

	// Codes are counted, too.
	guess := h.browser(t)
	giveThePassword(guess)
	var w *httptest.ResponseRecorder
	for range 12 {
		if w = guess.post("/login/code", "code", "000000"); w.Code != 401 {
			break
		}
	}
	want(t, w, 429, "GH-E202")
	if w.Header().Get("Retry-After") == "" {
		t.Error("nothing says how long to wait")
	}

	// Who is switched off between the two is not let in.
	disabled := true
	if _, err := h.people.CreateUser(t.Context(), identity.Local(), identity.NewUser{Username: "second", Password: password, Role: identity.RoleOwner}); err != nil {
		t.Fatal(err)
	}
	h.wait(time.Hour)
	giveThePassword(again)
	if _, err := h.people.UpdateUser(t.Context(), identity.Local(), h.ana.ID, identity.UserChange{Disabled: &disabled}); err != nil {
		t.Fatal(err)
	}
	want(t, again.post("/login/code", "code", totp(t, key, h.now())), 403, "GH-E203")
}

func TestWhoMustHaveASecondFactorIsSentToSetItUp(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	h := newHouse(t)
	required := true
	if _, err := h.people.UpdateProvider(t.Context(), identity.Local(), identity.LocalProvider, identity.ProviderChange{RequireSecondFactor: &required}); err != nil {
		t.Fatal(err)
	}
	want(t, h.browser(t).post("/login", "email", "ana@example.com", "password", password, "next", "/admin"), 303, "/me/security")
	want(t, h.browser(t).post("/login", "email", "ana@example.com", "password", password, "next", "/enroll/a/7"), 303, "/enroll/a/7")
	want(t, h.browser(t).post("/login", "email", "ben", "password", password), 303, "/me")
}

func TestThePageSaysHowToSignIn(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	h := newHouse(t)
	_, p := h.standIn(t, nil)
	for path, tt := range map[string]struct{ passwords, provider bool }{
		"/login":              {true, true},
		"/login?next=/enroll": {true, true},
		"/login?next=/me":     {true, true},
		"/login?next=/admin":  {true, false}, // its accounts are not for administrators
		"/admin/login":        {true, false},
	} {
		page := h.browser(t).get(path).Body.String()
		if got := strings.Contains(page, `type="password"`); got != tt.passwords {
			t.Errorf("%s: a password %v, want %v", path, got, tt.passwords)
		}
		if got := strings.Contains(page, "Continue with Example ID"); got != tt.provider {
			t.Errorf("%s: a provider %v, want %v", path, got, tt.provider)
		}
	}
	// Where passwords are of no use, there is one button: nobody is sent in circles.
	uses := []identity.Use{identity.UseAdmin}
	if _, err := h.people.UpdateProvider(t.Context(), identity.Local(), identity.LocalProvider, identity.ProviderChange{Uses: &uses}); err != nil {
		t.Fatal(err)
	}
	w := h.browser(t).get("/login?next=/enroll&login_hint=ana%40example.com")
	want(t, w, 200, `action="/login/with/`+p.ID+`"`, `name="login_hint" value="ana@example.com"`)
	if page := w.Body.String(); strings.Contains(page, `type="password"`) || strings.Count(page, `<button type="submit">`) != 1 {
		t.Errorf("the page is not one primary button:\n%s", page)
	}
	enabled := false
	if _, err := h.people.UpdateProvider(t.Context(), identity.Local(), p.ID, identity.ProviderChange{Enabled: &enabled}); err != nil {
		t.Fatal(err)
	}
	want(t, h.browser(t).get("/login?next=/enroll"), 200, `role="alert"`, "GH-E214")
}

// goneTo is where a browser is sent by the answer to a POST.
func goneTo(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	to, ok := strings.CutPrefix(w.Header().Get("Refresh"), "0; url=")
	if !ok || w.Code != 200 {
		t.Fatalf("status %d, Refresh %q: the browser is not sent to a provider\n%s", w.Code, w.Header().Get("Refresh"), w.Body)
	}
	if !strings.Contains(html.UnescapeString(w.Body.String()), `href="`+to+`"`) {
		t.Errorf("the page has no link to %s", to)
	}
	return to
}

func callback(p identity.Provider, returned url.Values) string {
	return identity.CallbackPath(p.ID) + "?" + returned.Encode()
}

func TestSignInAtAProvider(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	idp, p := h.standIn(t, nil)
	b := h.browser(t)
	w := b.post("/login/with/"+p.ID, "next", "/enroll/a/7", "login_hint", "ana@example.com")
	to := goneTo(t, w)
	for _, part := range []string{"code_challenge_method=S256", "login_hint=ana%40example.com", url.QueryEscape(server + identity.CallbackPath(p.ID))} {
		if !strings.Contains(to, part) {
			t.Errorf("the browser goes to %s, without %s", to, part)
		}
	}
	before := b.cookies[cookieName]
	if before == nil || !before.HttpOnly || before.SameSite != http.SameSiteLaxMode {
		t.Fatalf("cookie %v", before)
	}
	back := callback(p, idp.Authorize(t, to))
	if w := b.do("HEAD", back, nil); w.Code != 200 || b.who() != "nobody" {
		t.Errorf("HEAD of the callback = %d", w.Code)
	}
	want(t, b.get(back), 303, "/enroll/a/7")
	if who := b.who(); who != "user:zoe@example.com" || b.cookie() == before.Value {
		t.Errorf("signed in as %s, session rotated: %v", who, b.cookie() != before.Value)
	}
	// The same page again, as Back or a reload asks for: they are in, and go on
	// as before.
	want(t, b.get(back), 303, "/enroll/a/7")

	// Who came from a provider is told that they may be signed in there.
	out := b.post("/logout")
	want(t, out, 303, "/logout?from="+p.ID)
	want(t, b.get(out.Header().Get("Location")), 200, "Sign out of Example ID", idp.Issuer+"/logout?client_id=gatehouse", "post_logout_redirect_uri="+url.QueryEscape(server+"/logout"))
	want(t, b.get("/logout"), 200, "You can close this page")
	want(t, b.get("/logout?from=nobody"), 200, "You can close this page")
	for _, secret := range []string{oidctest.ClientSecret, to, "access-token"} {
		if strings.Contains(h.log.String(), secret) {
			t.Errorf("the log has %s", secret)
		}
	}
}

// TestBegunHereFinishedHere is ENR-09.
func TestBegunHereFinishedHere(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	idp, p := h.standIn(t, nil)
	_, other := oidctest.NewStandIn(t, h.now), h.addProvider(t, "oidc", "Another ID", map[string]any{
		"issuer": idp.Issuer, "client_id": oidctest.ClientID, "client_secret": oidctest.ClientSecret, "allow_private": true,
	}, nil)
	begin := func(b *browser) url.Values {
		return idp.Authorize(t, goneTo(t, b.post("/login/with/"+p.ID, "next", "/me")))
	}
	for name, act := range map[string]func(b *browser, returned url.Values) *httptest.ResponseRecorder{
		"without a state": func(b *browser, v url.Values) *httptest.ResponseRecorder {
			v.Del("state")
			return b.get(callback(p, v))
		},
		"with a state of nobody's": func(b *browser, v url.Values) *httptest.ResponseRecorder {
			v.Set("state", strings.Repeat("A", 26))
			return b.get(callback(p, v))
		},
		"in another browser": func(_ *browser, v url.Values) *httptest.ResponseRecorder {
			return h.browser(t).get(callback(p, v))
		},
		"in another browser that began one, too": func(_ *browser, v url.Values) *httptest.ResponseRecorder {
			b := h.browser(t)
			begin(b)
			return b.get(callback(p, v))
		},
		"when the cookie is lost": func(b *browser, v url.Values) *httptest.ResponseRecorder {
			clear(b.cookies)
			return b.get(callback(p, v))
		},
		"at another provider's address": func(b *browser, v url.Values) *httptest.ResponseRecorder {
			return b.get(callback(other, v))
		},
		"after ten minutes": func(b *browser, v url.Values) *httptest.ResponseRecorder {
			h.wait(10*time.Minute + time.Second)
			return b.get(callback(p, v))
		},
		"with the code of another sign-in": func(b *browser, v url.Values) *httptest.ResponseRecorder {
			v.Set("code", begin(h.browser(t)).Get("code"))
			return b.get(callback(p, v))
		},
		"with a code that was used": func(b *browser, v url.Values) *httptest.ResponseRecorder {
			first := h.browser(t)
			used := begin(first)
			want(t, first.get(callback(p, used)), 303)
			v.Set("code", used.Get("code"))
			return b.get(callback(p, v))
		},
		"twice, by who is not in": func(b *browser, v url.Values) *httptest.ResponseRecorder {
			failing := maps.Clone(v)
			failing.Set("code", "wrong")
			want(t, b.get(callback(p, failing)), 403)
			return b.get(callback(p, v))
		},
		"with two states": func(b *browser, v url.Values) *httptest.ResponseRecorder {
			v["state"] = []string{"x", v.Get("state")}
			return b.get(callback(p, v))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := h.browser(t)
			b.t = t
			w := act(b, begin(b))
			want(t, w, 403, "GH-E210", "Nothing is lost", `href="/login`)
			if who := b.who(); who != "nobody" {
				t.Errorf("it is %s", who)
			}
			if strings.Contains(w.Body.String(), "state=") {
				t.Error("the page repeats the state")
			}
		})
	}
	t.Run("in two tabs", func(t *testing.T) {
		b := h.browser(t)
		first, second := begin(b), begin(b)
		want(t, b.get(callback(p, second)), 303, "/me")
		want(t, b.get(callback(p, first)), 303, "/me") // they are in already
	})
}

func TestWhatAProviderCanSayInstead(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	h := newHouse(t)
	idp, p := h.standIn(t, nil)
	down := false
	run := func(response func(url.Values)) *httptest.ResponseRecorder {
		t.Helper()
		b := h.browser(t)
		to := goneTo(t, b.post("/login/with/"+p.ID, "next", "/enroll"))
		returned := idp.Authorize(t, to)
		if response != nil {
			response(returned)
		}
		if down {
			idp.Change(func(b *oidctest.Behaviour) {
				b.Instead = map[string]http.HandlerFunc{"/token": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }}
			})
		}
		return b.get(callback(p, returned))
	}
	want(t, run(func(v url.Values) {
		v.Del("code")
		v.Set("error", "access_denied")
		v.Set("error_description", "<b>no</b>")
	}), 403, "GH-E211", "Example ID did not confirm who you are", `href="/login?next=%2Fenroll"`)

	// The address is another user's: nobody becomes that user by it.
	idp.Change(func(b *oidctest.Behaviour) {
		b.Claims = map[string]any{"sub": "2", "preferred_username": "ben", "email": "ben@example.com", "email_verified": true}
	})
	want(t, run(nil), 403, "GH-E207", "Example ID knows you")

	idp.Change(func(b *oidctest.Behaviour) { b.Claims = map[string]any{"sub": "3", "preferred_username": "zoe"} })
	want(t, run(nil), 303, "/enroll")
	down = true
	want(t, run(nil), 503, "GH-E206", "can’t be reached")

	want(t, h.browser(t).post("/login/with/nosuch"), 404, "GH-E212")
	want(t, h.browser(t).post("/login/with/"+p.ID, "next", "/admin"), 403, "GH-E213", "can’t administer")
	want(t, h.browser(t).post("/login/with/"+identity.LocalProvider), 404, "GH-E212")
	enabled := false
	if _, err := h.people.UpdateProvider(t.Context(), identity.Local(), p.ID, identity.ProviderChange{Enabled: &enabled}); err != nil {
		t.Fatal(err)
	}
	want(t, h.browser(t).post("/login/with/"+p.ID), 404, "GH-E212")
}

func TestATrialSignsNobodyIn(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	h := newHouse(t)
	idp, p := h.standIn(t, nil)
	by := h.ana.Principal()
	to, err := h.people.BeginTrial(t.Context(), by, p.ID, server+identity.CallbackPath(p.ID))
	if err != nil {
		t.Fatal(err)
	}
	b := h.browser(t)
	back := callback(p, idp.Authorize(t, to))
	want(t, b.get(back), 200, "This sign-in", "preferred_username", "Zoe Example", "staff", "248289761001")
	if who := b.who(); who != "nobody" {
		t.Errorf("it is %s", who)
	}
	want(t, b.get(back), 403, "GH-E210")

	to, err = h.people.BeginTrial(t.Context(), by, p.ID, server+identity.CallbackPath(p.ID))
	if err != nil {
		t.Fatal(err)
	}
	returned := idp.Authorize(t, to)
	returned.Del("code")
	returned.Set("error", "access_denied")
	want(t, b.get(callback(p, returned)), 200, "does not work yet", "access_denied")
}

func TestEveryRefusalHasACodeOfItsOwn(t *testing.T) {
	storagetest.AnyEngine(t)
	codes := map[string]bool{}
	for _, r := range signin.Refusals() {
		if codes[r.Code] || !regexp.MustCompile(`^GH-E2[0-9]{2}$`).MatchString(r.Code) || r.Status < 400 || r.Name == "" || r.Title == "" {
			t.Errorf("refusal %+v", r)
		}
		codes[r.Code] = true
	}
}
