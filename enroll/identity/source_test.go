package identity_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// elsewhere stands for the directories and providers of others, by their URL. LDAP and
// OpenID Connect have tests of their own, against real ones.
type elsewhere struct {
	mu     sync.Mutex
	people map[string]map[string]*account // by URL and login
	broken map[string]error               // what a source answers instead
	asked  []string                       // "url login"
	opened []string                       // settings, each time that a source was opened
	closed int
}

type account struct {
	identity.Person
	password string
	inactive bool
}

func newElsewhere() *elsewhere {
	return &elsewhere{people: map[string]map[string]*account{}, broken: map[string]error{}}
}

// add makes an account that is found by each of some logins. The first one is its subject.
func (e *elsewhere) add(url string, a account, logins ...string) *account {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.people[url] == nil {
		e.people[url] = map[string]*account{}
	}
	if a.Subject == "" {
		a.Subject = "id of " + logins[0]
	}
	for _, login := range logins {
		e.people[url][login] = &a
	}
	return &a
}

func (e *elsewhere) change(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

// took returns what was asked since the last call.
func (e *elsewhere) took() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	asked := strings.Join(e.asked, ", ")
	e.asked = nil
	return asked
}

type kindSettings struct {
	URL          string `json:"url"`
	Base         string `json:"base"`
	BindPassword string `json:"bind_password"`
	Note         string `json:"note"`
}

func checkKindSettings(raw json.RawMessage) (s kindSettings, err error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return s, &identity.FieldError{Field: "note", Reason: "or another can't be read"}
	}
	if s.URL == "" {
		return s, &identity.FieldError{Field: "url", Reason: "is required"}
	}
	return s, nil
}

// kind is a kind of sources: directories, or providers that people are sent to.
type kind struct {
	*elsewhere
	name string
}

func (k kind) Name() string           { return k.name }
func (k kind) Secrets() []string      { return []string{"bind_password"} }
func (k kind) Destinations() []string { return []string{"url"} }
func (k kind) Namespace() []string    { return []string{"base"} }
func (k kind) Check(settings json.RawMessage) error {
	_, err := checkKindSettings(settings)
	return err
}
func (k kind) Mapping() identity.Mapping {
	return identity.Mapping{Username: "uid", Email: "mail", FullName: "{givenname} {sn}", ManagedAppleAccount: "apple"}
}

func (k kind) Open(raw json.RawMessage) (any, error) {
	s, err := checkKindSettings(raw)
	if err != nil {
		return nil, err
	}
	k.change(func() { k.opened = append(k.opened, string(raw)) })
	if k.name == "sso" {
		return sso{k.elsewhere, s.URL}, nil
	}
	return &directory{elsewhere: k.elsewhere, url: s.URL}, nil
}

type directory struct {
	*elsewhere
	url string
}

func (d *directory) Close() error { d.change(func() { d.closed++ }); return nil }

func (d *directory) SignIn(ctx context.Context, login, password string) (identity.Person, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, d.url+" "+login)
	if _, ok := ctx.Deadline(); !ok {
		return identity.Person{}, false, errors.New("asked for as long as it takes")
	}
	if err := d.broken[d.url]; err != nil {
		return identity.Person{}, false, err
	}
	a := d.people[d.url][login]
	switch {
	case a == nil:
		return identity.Person{}, false, fmt.Errorf("nobody: %w", identity.ErrBadLogin)
	case a.inactive:
		return identity.Person{}, true, fmt.Errorf("inactive: %w", identity.ErrLocked)
	case a.password != password:
		return identity.Person{}, true, fmt.Errorf("wrong password: %w", identity.ErrBadLogin)
	}
	return a.Person, true, nil
}

func (d *directory) People(_ context.Context, yield func(identity.Person, bool) error) error {
	d.mu.Lock()
	people, broken := d.people[d.url], d.broken[d.url]
	d.mu.Unlock()
	for _, a := range people {
		if err := yield(identity.Person{Subject: a.Subject}, !a.inactive); err != nil {
			return err
		}
	}
	return broken // after a part of it
}

func (d *directory) Diagnose(_ context.Context, login, password string) []identity.Step {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.broken[d.url]; err != nil {
		return []identity.Step{{Name: "connect", Detail: err.Error()}}
	}
	steps := []identity.Step{{Name: "connect", OK: true, Detail: d.url}}
	a := d.people[d.url][login]
	return append(steps, identity.Step{Name: "search", OK: a != nil, Detail: "looked for " + login})
}

// sso is a provider that people are sent to. The code that they come back with is their
// login there.
type sso struct {
	*elsewhere
	url string
}

func (s sso) Begin(_ context.Context, r identity.Redirect) (to, keep string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.broken[s.url]; err != nil {
		return "", "", err
	}
	query := url.Values{"state": {r.State}, "redirect_uri": {r.ReturnURL}, "login_hint": {r.LoginHint}}
	if r.SelectAccount {
		query.Set("prompt", "select_account")
	}
	return s.url + "?" + query.Encode(), "the nonce of " + r.State, nil
}

func (s sso) Finish(_ context.Context, r identity.Redirect, keep string, returned url.Values) (identity.Person, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, s.url+" "+returned.Get("code"))
	if err := s.broken[s.url]; err != nil {
		return identity.Person{}, err
	}
	if keep != "the nonce of "+r.State || r.ReturnURL != returnURL {
		return identity.Person{}, fmt.Errorf("%w: another nonce, or return URL", identity.ErrSignIn)
	}
	a := s.people[s.url][returned.Get("code")]
	if a == nil {
		return identity.Person{}, identity.ErrDenied
	}
	return a.Person, nil
}

func (s sso) Logout(_ context.Context, back string) (string, error) {
	return s.url + "/logout?back=" + url.QueryEscape(back), s.broken[s.url]
}

// world is a Service, what is elsewhere, and hooks that tests set.
type world struct {
	*identity.Service
	*elsewhere
	db        storage.DB
	at        *clock
	log       *logBook
	events    *event.Recorder
	onDisable func(tx storage.Tx, u identity.User) error
	onRename  func(tx storage.Tx, gone []string, u identity.User) error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	w := &world{
		elsewhere: newElsewhere(), db: storagetest.Open(t), log: &logBook{},
		at: &clock{now: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)},
	}
	var err error
	if w.events, err = event.New(event.Config{DB: w.db, Log: slog.New(slog.DiscardHandler), Now: w.at.Now}); err != nil {
		t.Fatal(err)
	}
	w.Service = w.replica(t, w.db)
	return w
}

// replica is another server on the same database, in the same world.
func (w *world) replica(t *testing.T, db storage.DB) *identity.Service {
	t.Helper()
	box, err := seal.New(bytes.Repeat([]byte{7}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	s, err := identity.New(identity.Config{
		DB: db, Box: box, Now: w.at.Now, HashMemory: 64, Audit: auditLog{w.events},
		Kinds: []identity.SourceKind{kind{w.elsewhere, "directory"}, kind{w.elsewhere, "sso"}},
		Log:   slog.New(slog.NewTextHandler(w.log, nil)),
		OnDisable: func(tx storage.Tx, u identity.User) error {
			if w.onDisable == nil {
				return nil
			}
			return w.onDisable(tx, u)
		},
		OnRename: func(tx storage.Tx, gone []string, u identity.User) error {
			if w.onRename == nil {
				return nil
			}
			return w.onRename(tx, gone, u)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// logBook is the log of all replicas.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// provider makes a provider at a URL that is also its name.
func (w *world) provider(t *testing.T, kind, url string, change ...func(*identity.ProviderChange)) identity.Provider {
	t.Helper()
	c := identity.ProviderChange{Name: &url, Settings: json.RawMessage(fmt.Sprintf(`{"url":%q,"bind_password":"very secret"}`, url))}
	for _, f := range change {
		f(&c)
	}
	p, err := w.CreateProvider(ctx, identity.Local(), kind, c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) create(t *testing.T, n identity.NewUser) identity.User {
	t.Helper()
	u, err := w.CreateUser(ctx, identity.Local(), n)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (w *world) user(t *testing.T, id string) identity.User {
	t.Helper()
	u, err := w.User(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// all returns the users, by their login.
func (w *world) all(t *testing.T) string {
	t.Helper()
	list, _, err := w.Users(ctx, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	var logins []string
	for _, u := range list {
		logins = append(logins, u.Login())
	}
	slices.Sort(logins)
	return strings.Join(logins, " ")
}

// facts returns the audit log's actions and reasons, oldest first.
func (w *world) facts(t *testing.T, action string) (facts []string) {
	t.Helper()
	list, _, err := w.events.Page(ctx, event.Filter{Action: action}, "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range slices.Backward(list) {
		facts = append(facts, strings.TrimSpace(fmt.Sprintf("%s %s %s by %s: %s", e.Action, e.Outcome, e.User, e.Actor, e.Reason)))
	}
	return facts
}

// bucketsHold says whether text stands anywhere in the database.
func (w *world) bucketsHold(t *testing.T, text string) (found bool) {
	t.Helper()
	err := w.db.View(ctx, func(tx storage.Tx) error {
		found = false
		for _, bucket := range []string{
			"identity.providers", "identity.users", "identity.sign_ins", "identity.second_factors", "identity.memberships", "identity.login_failures",
		} {
			for item, err := range tx.Scan(bucket, storage.Range{}) {
				if err != nil {
					return err
				}
				found = found || strings.Contains(string(item.Key)+string(item.Value), text)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func ana() account {
	return account{password: "a good password", Person: identity.Person{
		Email: "ana@example.com", Groups: []string{"cn=staff,dc=example", "staff"},
		Attributes: map[string][]string{"uid": {"ana"}, "mail": {"ana@example.com"}, "givenname": {"Ana"}, "sn": {"A."}},
	}}
}

// person is ana with another login.
func person(login string) account {
	a := ana()
	a.Email = login + "@example.com"
	a.Attributes = map[string][]string{"uid": {login}, "mail": {a.Email}, "givenname": {strings.ToUpper(login)}, "sn": {"B."}}
	return a
}
