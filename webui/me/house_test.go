package me_test

import (
	"bytes"
	"context"
	"encoding/json"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/depottest"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/frame"
	"github.com/gatehouse-mdm/gatehouse/webui/me"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

const password = "correct horse battery staple"

// house is the pages over real services on a real store: Ana, an owner, has a phone of her
// own, and Ben a Mac of the organisation's, on which he is a user.
type house struct {
	url      string
	db       storage.DB
	depot    *depot.Depot
	mdm      *mdm.Service
	enroll   *enroll.Service
	issuance *issuance.Service
	people   *identity.Service
	events   *event.Recorder

	ana, ben identity.User

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

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const (
	anas = "anas-phone"
	bens = "bens-mac"
)

// people writes down what identity tells.
type peopleAudit struct{ *event.Recorder }

func (a peopleAudit) Record(tx storage.Tx, f identity.Fact) error {
	return event.Record(tx, event.Event{At: f.At, Actor: f.Actor, Action: f.Action, User: f.User})
}

func (a peopleAudit) Refused(ctx context.Context, f identity.Fact) {
	a.Recorder.Refused(ctx, event.Event{At: f.At, Action: f.Action, User: f.User, Reason: f.Reason})
}

// directory is a kind of sources that take a password here, and knows dan alone.
type directory struct{}

func (directory) Name() string                      { return "directory" }
func (directory) Secrets() []string                 { return nil }
func (directory) Check(json.RawMessage) error       { return nil }
func (directory) Open(json.RawMessage) (any, error) { return directory{}, nil }
func (directory) Mapping() identity.Mapping         { return identity.Mapping{Username: "uid"} }
func (directory) SignIn(_ context.Context, login, typed string) (identity.Person, bool, error) {
	if login != "dan@example.com" || typed != password {
		return identity.Person{}, false, identity.ErrBadLogin
	}
	return identity.Person{Subject: "1", Attributes: map[string][]string{"uid": {login}}, Email: login}, true, nil
}

func newHouse(t *testing.T) *house {
	t.Helper()
	storagetest.AnyEngine(t) // what is below is tested on each
	ctx, log := t.Context(), slog.New(slog.DiscardHandler)
	h := &house{db: storagetest.Open(t), at: time.Now().UTC().Truncate(time.Second)}
	box, err := seal.New(bytes.Repeat([]byte{7}, seal.KeySize))
	must(t, err)
	h.depot, err = depot.Open(ctx, depot.Config{DB: h.db, Box: box, Log: log, Now: h.now, KeyBits: 2048, Name: "test", NewKey: depottest.NewKey})
	must(t, err)
	h.mdm, err = mdm.New(mdm.Config{DB: h.db, Box: box, Log: log, Now: h.now})
	must(t, err)
	h.events, err = event.New(event.Config{DB: h.db, Log: log, Now: h.now})
	must(t, err)
	templates, err := template.NewService(template.Config{DB: h.db, Box: box, Log: log, Now: h.now})
	must(t, err)
	topics, err := apns.NewCertificates(box, h.now)
	must(t, err)
	serverURL := &url.URL{Scheme: "https", Host: "mdm.example.com"}
	sign := func(p []byte) ([]byte, error) {
		return profile.Sign(p, h.depot.Root().Certificate(), h.depot.Root().Signer())
	}
	h.issuance, err = issuance.New(issuance.Config{
		DB: h.db, Depot: h.depot, Templates: templates, MDM: h.mdm, Audit: h.events, Sign: sign, ServerURL: serverURL, Log: log, Now: h.now,
	})
	must(t, err)
	h.enroll, err = enroll.New(enroll.Config{
		DB: h.db, Box: box, Depot: h.depot, MDM: h.mdm, Topics: topics, Payloads: h.issuance, Refusals: h.events, Sign: sign, ServerURL: serverURL, Log: log, Now: h.now,
	})
	must(t, err)
	h.people, err = identity.New(identity.Config{
		DB: h.db, Box: box, Log: log, Now: h.now, HashMemory: 64, Audit: peopleAudit{h.events}, Kinds: []identity.SourceKind{directory{}},
		OnDisable: func(tx storage.Tx, u identity.User) error { return h.enroll.EndUser(tx, u.Logins()...) },
	})
	must(t, err)
	h.ana = h.user(t, identity.NewUser{Username: "ana", Email: "ana@example.com", FullName: "Ana Bee", Role: identity.RoleOwner})
	h.ben = h.user(t, identity.NewUser{Email: "ben@example.com", FullName: "Ben Cee"})
	h.device(t, anas, func(d *mdm.Device) {
		d.User, d.Ownership, d.DeviceName, d.ProductName = "ana", mdm.Personal, "Ana’s phone", "iPhone17,3"
	})
	h.device(t, bens, func(d *mdm.Device) { d.DeviceName = "Ben’s Mac" })
	h.device(t, "bens-channel", func(d *mdm.Device) {
		d.ParentID, d.Type, d.UserID, d.UserLongName = bens, mdm.TypeUserChannel, "501", "Ben at home"
	})

	pages, err := webui.NewPages(log)
	must(t, err)
	sessions, err := webui.NewSessions(webui.SessionsConfig{DB: h.db, Identity: h.people, Log: log, Now: h.now, Fail: pages.Fail})
	must(t, err)
	texts, err := text.New(text.Config{
		DB: h.db, Log: log, Now: h.now, Missing: func(lang, what string) { t.Errorf("missing in %s: %s", lang, what) },
	})
	must(t, err)
	around, err := frame.New(frame.Config{Settings: h.enroll, Texts: texts, Pages: pages, Log: log, Now: h.now})
	must(t, err)
	mine, err := me.New(me.Config{
		Enroll: h.enroll, Issuance: h.issuance, Identity: h.people, Sessions: sessions, Frame: around, Pages: pages, Now: h.now,
	})
	must(t, err)

	views, err := view.New()
	must(t, err)
	mux := webui.NewMux(pages.Fail)
	files := mux.Group(webui.Group{BodyLimit: 16 << 10, Fail: pages.Fail, Use: []webui.Middleware{sessions.Load}})
	files.Handle("GET "+view.AssetsPath, func(w http.ResponseWriter, r *http.Request) error {
		views.Assets().Serve(w, r)
		return nil
	})
	files.Handle("GET /start/{id}", func(w http.ResponseWriter, r *http.Request) error { // stands for the login
		if r.PathValue("id") == "setup" {
			return sessions.StartSetup(r.Context())
		}
		u, err := h.people.User(r.Context(), r.PathValue("id"))
		if err != nil {
			return err
		}
		return sessions.StartUser(r.Context(), u)
	})
	mine.Mount(mux.Group(webui.Group{BodyLimit: me.MaxBody, Fail: around.Fail, Use: []webui.Middleware{sessions.Load, mine.Guard}}))
	srv := httptest.NewServer(webui.Chain(mux, webui.RealPeer([]netip.Prefix(nil)), webui.SecurityHeaders(serverURL)))
	t.Cleanup(srv.Close)
	h.url = srv.URL
	return h
}

func (h *house) user(t testing.TB, n identity.NewUser) identity.User {
	t.Helper()
	u, err := h.people.CreateUser(context.Background(), identity.Local(), n)
	must(t, err)
	return u
}

// withPassword lets Ben sign in here.
func (h *house) withPassword(t testing.TB) {
	t.Helper()
	_, err := h.people.UpdateUser(context.Background(), identity.Local(), h.ben.ID, identity.UserChange{Password: new(password)})
	must(t, err)
}

// device puts an enrolled Mac of Ben's into the store, changed as the test likes.
func (h *house) device(t testing.TB, id mdm.DeviceID, change func(*mdm.Device)) {
	t.Helper()
	d := mdm.Device{
		ID: id, Type: mdm.TypeDevice, State: mdm.Enrolled, AppleID: mdm.AppleID{UDID: "UDID-" + string(id)},
		Ownership: mdm.Institutional, User: "ben@example.com", AccessRights: enroll.AllRights,
		Facts:     mdm.Facts{SerialNumber: "C02" + strings.ToUpper(string(id)), ProductName: "Mac14,2", OSVersion: "15.1"},
		Push:      &mdm.Push{Topic: "topic", Token: []byte{1}, Magic: "very secret magic"},
		CreatedAt: h.now(), AuthenticatedAt: h.now(), EnrolledAt: h.now(),
	}
	change(&d)
	must(t, h.db.Update(context.Background(), func(tx storage.Tx) error { return mdm.PutDevice(tx, d) }))
}

// browser is one that keeps cookies and shows what it gets, but follows no redirect.
type browser struct {
	t    testing.TB
	h    *house
	jar  map[string]string
	last *http.Response
	page string
}

// as returns a browser in which a user signed in, by ID; "" for nobody.
func (h *house) as(t testing.TB, id string) *browser {
	t.Helper()
	b := &browser{t: t, h: h, jar: map[string]string{}}
	if id != "" {
		b.get("/start/" + id)
	}
	return b
}

func (b *browser) do(r *http.Request) int {
	b.t.Helper()
	r.Header.Set("Accept", "text/html")
	for name, value := range b.jar {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	must(b.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(b.t, err)
	for _, c := range resp.Cookies() {
		b.jar[c.Name] = c.Value
	}
	b.last, b.page = resp, string(body)
	return resp.StatusCode
}

func (b *browser) get(path string) int {
	b.t.Helper()
	r, err := http.NewRequest("GET", b.h.url+path, nil)
	must(b.t, err)
	return b.do(r)
}

func (b *browser) post(path string, fields ...string) int {
	b.t.Helper()
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	r, err := http.NewRequest("POST", b.h.url+path, strings.NewReader(form.Encode()))
	must(b.t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.do(r)
}

// follow goes where a form has led to.
func (b *browser) follow() {
	b.t.Helper()
	if b.last.StatusCode != http.StatusSeeOther {
		b.t.Fatalf("status %d, want a redirect: %s", b.last.StatusCode, b.text())
	}
	if status := b.get(b.last.Header.Get("Location")); status != http.StatusOK {
		b.t.Fatalf("status %d after the redirect: %s", status, b.text())
	}
}

var (
	tags   = regexp.MustCompile(`(?s)<head>.*?</head>|<svg.*?</svg>|<[^>]*>`)
	spaces = regexp.MustCompile(`\s+`)
)

// text is what a person reads on the page.
func (b *browser) text() string {
	return spaces.ReplaceAllString(html.UnescapeString(tags.ReplaceAllString(b.page, " ")), " ")
}

// says fails the test unless the page says all of these.
func (b *browser) says(texts ...string) {
	b.t.Helper()
	for _, want := range texts {
		if !strings.Contains(b.text(), want) {
			b.t.Errorf("the page %s does not say %q: %s", b.last.Request.URL, want, b.text())
		}
	}
}

// hides fails the test if the page holds one of these, anywhere.
func (b *browser) hides(texts ...string) {
	b.t.Helper()
	for _, no := range texts {
		if strings.Contains(html.UnescapeString(b.page), no) {
			b.t.Errorf("the page %s holds %q", b.last.Request.URL, no)
		}
	}
}

// actions returns what the audit log says of these, newest first.
func (h *house) actions(t testing.TB, f event.Filter) string {
	t.Helper()
	list, _, err := h.events.Page(context.Background(), f, "", 100)
	must(t, err)
	var actions []string
	for _, e := range list {
		actions = append(actions, e.Action+" by "+e.Actor)
	}
	return strings.Join(actions, ", ")
}

func (h *house) get(t testing.TB, id mdm.DeviceID) mdm.Device {
	t.Helper()
	o, err := h.mdm.Device(context.Background(), id)
	must(t, err)
	return o.Device
}
