package webui

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// How long a session lasts: without a request, and in any case.
const (
	sessionIdle = 2 * time.Hour
	sessionLife = 12 * time.Hour
)

// SessionsConfig says what Sessions need: all of it but Secure.
type SessionsConfig struct {
	DB       storage.DB
	Identity *identity.Service
	Log      *slog.Logger
	Now      func() time.Time
	Secure   bool // clients use https, so that cookies need never travel without
	Fail     FailFunc
}

// Sessions remember who signed in, by a cookie. They are kept in the database,
// under a hash of the cookie's value.
type Sessions struct {
	manager  *scs.SessionManager
	store    *sessionStore
	identity *identity.Service
	log      *slog.Logger
	now      func() time.Time
	fail     FailFunc
}

// NewSessions returns Sessions, or says what c lacks.
func NewSessions(c SessionsConfig) (*Sessions, error) {
	if c.DB == nil || c.Identity == nil || c.Log == nil || c.Now == nil || c.Fail == nil {
		return nil, errors.New("webui: DB, Identity, Log, Now and Fail are required for sessions")
	}
	store := &sessionStore{db: c.DB, now: c.Now}
	s := &Sessions{
		// Not scs.New: that starts a goroutine for a store in memory.
		manager: &scs.SessionManager{
			Store:            store,
			HashTokenInStore: true,
			Codec:            sessionCodec{},
			IdleTimeout:      sessionIdle,
			Lifetime:         sessionLife,
			Cookie: scs.SessionCookie{
				Name:     "__Host-gatehouse", // browsers take it only with Secure, Path=/ and no Domain
				HttpOnly: true,
				Secure:   true,
				Path:     "/",
				SameSite: http.SameSiteLaxMode,
			},
			ErrorFunc: c.Fail,
		},
		store:    store,
		identity: c.Identity,
		log:      c.Log,
		now:      c.Now,
		fail:     c.Fail,
	}
	if !c.Secure {
		s.manager.Cookie.Name = "gatehouse"
		s.manager.Cookie.Secure = false
	}
	return s, nil
}

// The values of a session.
const (
	sessionKind       = "kind"        // an identity.Kind
	sessionUser       = "user"        // the user's ID
	sessionPasswordAt = "password_at" // which password the user had
)

// SessionValue is something that a browser's session remembers, whether or not anybody
// signed in.
type SessionValue string

// The values that a session may have.
const (
	SessionAttempt SessionValue = "attempt" // ID of the enrollment that this browser has under way
	SessionSignIn  SessionValue = "sign_in" // what was begun at a provider, or waits for a second factor

	// SessionSignedInFor is the path that somebody signed in to go on to, where that
	// matters: with an older session, a device is given nothing unasked.
	SessionSignedInFor SessionValue = "signed_in_for"

	// SessionVouchedFor is the same where a provider said who it is, and has perhaps asked
	// nobody: with it, a device is given nothing unasked either.
	SessionVouchedFor SessionValue = "vouched_for"
)

// Value returns what the session of ctx remembers, empty if nothing.
func (s *Sessions) Value(ctx context.Context, v SessionValue) string {
	return s.manager.GetString(ctx, string(v))
}

// SetValue has the session of ctx remember something; it begins one if there is none.
// An empty value is forgotten.
func (s *Sessions) SetValue(ctx context.Context, v SessionValue, value string) error {
	if s.manager.GetString(ctx, string(v)) == value {
		return nil
	}
	if value == "" {
		s.manager.Remove(ctx, string(v))
		return nil
	}
	fresh := s.manager.Token(ctx) == ""
	s.manager.Put(ctx, string(v), value)
	if !fresh {
		return nil // kept when the request ends
	}
	if _, _, err := s.manager.Commit(begins(ctx, login{})); err != nil {
		return fmt.Errorf("start session: %w", err)
	}
	return nil
}

// Load is the middleware that knows who signed in: identity.PrincipalFrom tells.
func (s *Sessions) Load(next http.Handler) http.Handler {
	known := s.manager.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, ok, err := s.principal(r.Context())
		p.Session = seenIn(r.Context()).about().ID
		if err != nil {
			s.fail(w, r, err)
			return
		}
		if ok {
			r = r.WithContext(identity.WithPrincipal(r.Context(), p))
		}
		next.ServeHTTP(w, r)
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from := &seen{browser: browserOf(r.UserAgent())}
		if peer := Peer(r.Context()); peer.IsValid() {
			from.address = peer.String()
		}
		known.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), seenKey{}, from)))
	})
}

// principal returns who signed in to the session of ctx. The user is read anew
// for every request: one who was disabled, or whose password changed, is out, and so is
// one whose provider was switched off.
func (s *Sessions) principal(ctx context.Context) (p identity.Principal, ok bool, err error) {
	switch identity.Kind(s.manager.GetString(ctx, sessionKind)) {
	case identity.KindSetup:
		return identity.SetupPrincipal(), true, nil
	case identity.KindUser:
		user, acting, err := s.identity.Acting(ctx, s.manager.GetString(ctx, sessionUser))
		if errors.Is(err, storage.ErrNotFound) || errors.Is(err, identity.ErrUnauthenticated) {
			return identity.Principal{}, false, nil
		}
		if err != nil {
			return identity.Principal{}, false, err
		}
		if user.Stamp() != s.manager.GetString(ctx, sessionPasswordAt) {
			return identity.Principal{}, false, nil
		}
		return acting, true, nil
	}
	return identity.Principal{}, false, nil
}

// StartSetup begins a session of whoever redeemed a setup link.
func (s *Sessions) StartSetup(ctx context.Context) error {
	return s.start(ctx, map[string]string{sessionKind: string(identity.KindSetup)}, login{})
}

// StartUser begins a session of a user who logged in: with a code, if they have a second
// factor.
func (s *Sessions) StartUser(ctx context.Context, u identity.User) error {
	from := seenIn(ctx)
	return s.start(ctx, map[string]string{
		sessionKind:       string(identity.KindUser),
		sessionUser:       u.ID,
		sessionPasswordAt: u.Stamp(),
	}, login{
		ID: newSessionID(), User: u.ID, BegunAt: s.now().UTC(),
		Address: from.address, Browser: from.browser, SecondFactor: !u.SecondFactorAt.IsZero(),
	})
}

// start ends what session there was and begins one with an ID of its own, which
// nobody can have planted in the browser before. The enrollment that the browser has
// under way goes on.
func (s *Sessions) start(ctx context.Context, values map[string]string, of login) error {
	attempt := s.Value(ctx, SessionAttempt)
	err := s.manager.Clear(ctx)
	if err == nil {
		err = s.manager.RenewToken(ctx)
	}
	if err == nil {
		if attempt != "" {
			s.manager.Put(ctx, string(SessionAttempt), attempt)
		}
		for key, value := range values {
			s.manager.Put(ctx, key, value)
		}
		// Before the answer says that it worked.
		_, _, err = s.manager.Commit(begins(ctx, of))
	}
	if err != nil {
		return fmt.Errorf("start session: %w", err)
	}
	return nil
}

// Rotate gives the session of ctx another ID, and leaves what it remembers. Without a
// session it does nothing.
func (s *Sessions) Rotate(ctx context.Context) error {
	if s.manager.Token(ctx) == "" {
		return nil
	}
	of := seenIn(ctx).about()
	err := s.manager.RenewToken(ctx)
	if err == nil {
		_, _, err = s.manager.Commit(begins(ctx, of))
	}
	if err != nil {
		return fmt.Errorf("rotate session: %w", err)
	}
	return nil
}

// End ends the session of ctx.
func (s *Sessions) End(ctx context.Context) error {
	if err := s.manager.Destroy(ctx); err != nil {
		return fmt.Errorf("end session: %w", err)
	}
	return nil
}

// Run removes sessions that have ended, until ctx does.
func (s *Sessions) Run(ctx context.Context) error {
	return storage.Schedule{
		DB: s.store.db, Log: s.log, Now: s.now,
		Jobs: []storage.Job{{Name: "webui/sessions", Every: 10 * time.Minute, Do: s.store.prune}},
	}.Run(ctx)
}

// session is the record of one session.
type session struct {
	Token     string    `json:"token"` // hashed
	Data      []byte    `json:"data"`
	ExpiresAt time.Time `json:"expires_at"`

	Login login `json:"login,omitzero"` // zero: nobody is signed in, or an older program began it
}

const (
	sessionsByEnd  = "expires"
	sessionsByID   = "id"
	sessionsByUser = "user"
)

var sessions = storage.NewCollection("webui.sessions", 1, func(s session) string { return s.Token },
	storage.Index[session]{Name: sessionsByEnd, Values: func(s session) []string { return []string{sessionEnd(s.ExpiresAt)} }},
	storage.Index[session]{Name: sessionsByID, Unique: true, Values: func(s session) []string { return unlessEmpty(s.Login.ID) }},
	storage.Index[session]{Name: sessionsByUser, Values: func(s session) []string { return unlessEmpty(s.Login.User) }})

// newSessionID is what a session is called.
func newSessionID() string { return strings.ToLower(rand.Text()) }

func unlessEmpty(value string) []string {
	if value == "" {
		return nil
	}
	return []string{value}
}

// sessionEnd formats t so that texts sort as times do.
func sessionEnd(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// sessionStore is scs's store on our database.
type sessionStore struct {
	db  storage.DB
	now func() time.Time
}

var _ scs.CtxStore = (*sessionStore)(nil)

// FindCtx implements [scs.CtxStore].
func (s *sessionStore) FindCtx(ctx context.Context, token string) (data []byte, found bool, err error) {
	var record session
	err = s.db.View(ctx, func(tx storage.Tx) (err error) {
		record, err = sessions.Get(tx, token)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("find session: %w", err)
	}
	seenIn(ctx).is(record)
	return record.Data, s.now().Before(record.ExpiresAt), nil
}

// seen is a session as a request knows it is stored: what it was found like, or was begun
// like. What differs from it at the end is the request's own doing.
type seen struct {
	address, browser string // of who sends the request

	mu    sync.Mutex
	token string // hashed
	data  []byte
	login login
}

// seenKey is in the context of a request that has a session: a *seen.
type seenKey struct{}

func seenIn(ctx context.Context) *seen {
	of, ok := ctx.Value(seenKey{}).(*seen)
	if !ok {
		return &seen{}
	}
	return of
}

func (s *seen) is(record session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token, s.data, s.login = record.Token, bytes.Clone(record.Data), record.Login
}

// about returns who is signed in to the session, as it is stored.
func (s *seen) about() login {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.login
}

func (s *seen) same(record session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token == record.Token && bytes.Equal(s.data, record.Data)
}

// beginsKey is in the context of the Commit that begins a session: the login that it has.
type beginsKey struct{}

func begins(ctx context.Context, of login) context.Context {
	return context.WithValue(ctx, beginsKey{}, of)
}

// CommitCtx implements [scs.CtxStore]. It is called for every request, as the end
// of the session moves: a minute of that is not worth a write. A session that has
// ended meanwhile, by another request at whatever replica, stays so, and what another has
// remembered stays where this one has changed nothing.
func (s *sessionStore) CommitCtx(ctx context.Context, token string, data []byte, expiry time.Time) error {
	record := session{Token: token, Data: data, ExpiresAt: expiry.UTC(), Login: seenIn(ctx).about()}
	var err error
	if of, ok := ctx.Value(beginsKey{}).(login); ok {
		record.Login = of
		record.Login.SeenAt = s.now().UTC()
		err = s.db.Update(ctx, func(tx storage.Tx) error { return sessions.Create(tx, record) })
	} else {
		err = s.prolong(ctx, record)
	}
	if err != nil {
		return fmt.Errorf("keep session: %w", err)
	}
	seenIn(ctx).is(record)
	return nil
}

func (s *sessionStore) prolong(ctx context.Context, found session) error {
	onlyLooked, now := seenIn(ctx).same(found), s.now().UTC()
	var record session
	changed := false
	look := func(tx storage.Tx) error {
		record, changed = found, false
		old, err := sessions.Get(tx, record.Token)
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if onlyLooked {
			record.Data = old.Data
		}
		record.Login = old.Login
		record.Login.SeenAt = now
		if old.Login.ID == "" {
			record.Login = found.unknown(seenIn(ctx), now)
		}
		changed = !bytes.Equal(old.Data, record.Data) || record.ExpiresAt.Sub(old.ExpiresAt).Abs() >= time.Minute ||
			record.Login.ID != "" && now.Sub(old.Login.SeenAt) >= time.Minute
		return err
	}
	if err := s.db.View(ctx, look); err != nil || !changed {
		return err
	}
	return s.db.Update(ctx, func(tx storage.Tx) error {
		if err := look(tx); err != nil || !changed {
			return err
		}
		return sessions.Put(tx, record)
	})
}

// sessionCodec writes sessions as JSON, in which the same session always reads the
// same: their values are texts.
type sessionCodec struct{}

type sessionData struct {
	Deadline time.Time      `json:"deadline"`
	Values   map[string]any `json:"values"`
}

// Encode implements [scs.Codec].
func (sessionCodec) Encode(deadline time.Time, values map[string]any) ([]byte, error) {
	return json.Marshal(sessionData{deadline, values})
}

// Decode implements [scs.Codec].
func (sessionCodec) Decode(b []byte) (time.Time, map[string]any, error) {
	var d sessionData
	if err := json.Unmarshal(b, &d); err != nil {
		return time.Time{}, nil, err
	}
	if d.Values == nil {
		d.Values = map[string]any{}
	}
	return d.Deadline, d.Values, nil
}

// DeleteCtx implements [scs.CtxStore].
func (s *sessionStore) DeleteCtx(ctx context.Context, token string) error {
	if err := s.db.Update(ctx, func(tx storage.Tx) error { return sessions.Delete(tx, token) }); err != nil {
		return fmt.Errorf("delete session: %w", err)
	}
	return nil
}

// Find, Commit and Delete are what scs calls when a store knows no contexts.
func (s *sessionStore) Find(token string) ([]byte, bool, error) {
	return s.FindCtx(context.Background(), token)
}

// Commit implements [scs.Store].
func (s *sessionStore) Commit(token string, data []byte, expiry time.Time) error {
	return s.CommitCtx(context.Background(), token, data, expiry)
}

// Delete implements [scs.Store].
func (s *sessionStore) Delete(token string) error {
	return s.DeleteCtx(context.Background(), token)
}

// prune removes sessions that have ended.
func (s *sessionStore) prune(ctx context.Context) error {
	const most = 1000 // in one transaction
	for {
		removed := 0
		err := s.db.Update(ctx, func(tx storage.Tx) error {
			var over []string
			for record, err := range sessions.Ascend(tx, sessionsByEnd, "", sessionEnd(s.now()), most) {
				if err != nil {
					return err
				}
				over = append(over, record.Token)
			}
			for _, token := range over {
				if err := sessions.Delete(tx, token); err != nil {
					return err
				}
			}
			removed = len(over)
			return nil
		})
		if err != nil || removed < most {
			return err
		}
	}
}
