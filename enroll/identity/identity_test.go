package identity_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func open(t *testing.T) (*identity.Service, storage.DB, *clock) {
	t.Helper()
	db := storagetest.Open(t)
	at := &clock{now: time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)}
	s, err := identity.New(identity.Config{DB: db, Log: slog.New(slog.DiscardHandler), Now: at.Now, HashMemory: 64})
	if err != nil {
		t.Fatal(err)
	}
	return s, db, at
}

func TestTokenAuthenticatesUntilItIsRevoked(t *testing.T) {
	storagetest.AnyEngine(t)
	s, db, _ := open(t)
	ctx := context.Background()
	made, secret, err := s.CreateToken(ctx, identity.Local(), identity.NewToken{Name: "ci", Scopes: []identity.Scope{identity.ScopeReadOnly}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(secret.Reveal(), "gtk_") || len(secret.Reveal()) < len("gtk_")+32 {
		t.Errorf("secret %q does not look like ours", secret.Reveal())
	}
	if got := fmt.Sprintf("%v %+v %#v", secret, secret, secret); strings.Contains(got, secret.Reveal()) {
		t.Errorf("secret prints as %s", got)
	}
	p, err := s.Authenticate(ctx, secret.Reveal())
	if err != nil || p.ID != made.ID || p.Kind != identity.KindToken {
		t.Fatalf("Authenticate = %+v, %v; want the token %s", p, err, made.ID)
	}
	for _, wrong := range []string{"", "gtk_", secret.Reveal() + "x", strings.ToUpper(secret.Reveal()), made.Hash, strings.Repeat("x", 1<<20)} {
		if _, err := s.Authenticate(ctx, wrong); !errors.Is(err, identity.ErrUnauthenticated) {
			t.Errorf("Authenticate of a wrong secret = %v, want ErrUnauthenticated", err)
		}
	}
	if holds(t, db, secret.Reveal()) {
		t.Error("the secret stands in the database")
	}
	if err := s.RevokeToken(ctx, identity.Local(), made.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Authenticate(ctx, secret.Reveal()); !errors.Is(err, identity.ErrUnauthenticated) {
		t.Errorf("Authenticate with a revoked token = %v, want ErrUnauthenticated", err)
	}
	if err := s.RevokeToken(ctx, identity.Local(), made.ID); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("revoking again = %v, want ErrNotFound", err)
	}
}

func TestATokenOpensNothingOnceItHasExpired(t *testing.T) {
	s, _, at := open(t)
	ctx := context.Background()
	end := at.Now().Add(90 * 24 * time.Hour)
	made, secret, err := s.CreateToken(ctx, identity.Local(), identity.NewToken{Name: "ci", Scopes: []identity.Scope{identity.ScopeReadOnly}, ExpiresAt: end})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Token(ctx, made.ID); err != nil || !got.ExpiresAt.Equal(end) || got.Name != "ci" {
		t.Errorf("Token = %+v, %v; want one that expires at %s", got, err, end)
	}
	expiring := func(want int) {
		t.Helper()
		if n, err := s.TokensExpiring(ctx, at.Now().Add(14*24*time.Hour)); err != nil || n != want {
			t.Errorf("TokensExpiring = %d, %v; want %d", n, err, want)
		}
	}
	expiring(0)
	at.Advance(90*24*time.Hour - time.Second)
	expiring(1)
	if _, err := s.Authenticate(ctx, secret.Reveal()); err != nil {
		t.Errorf("a second before its end: %v", err)
	}
	at.Advance(time.Second)
	_, err = s.Authenticate(ctx, secret.Reveal())
	if !errors.Is(err, identity.ErrTokenExpired) || !errors.Is(err, identity.ErrUnauthenticated) {
		t.Errorf("at its end: %v, want ErrTokenExpired", err)
	}
	at.Advance(time.Second)
	expiring(0)
}

// holds reports whether text stands anywhere in our buckets.
func holds(t *testing.T, db storage.DB, text string) (found bool) {
	t.Helper()
	err := db.View(context.Background(), func(tx storage.Tx) error {
		for _, bucket := range []string{"identity.tokens", "identity.tokens.hash", "identity.setup", "identity.users", "identity.users.login", "identity.login_failures"} {
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

func TestTokenIsRefused(t *testing.T) {
	storagetest.AnyEngine(t)
	s, _, _ := open(t)
	readOnly := identity.Principal{Kind: identity.KindToken, Scopes: []identity.Scope{identity.ScopeReadOnly}}
	admin := identity.Principal{Kind: identity.KindToken, Scopes: []identity.Scope{identity.ScopeAdmin}}
	for name, tt := range map[string]struct {
		by   identity.Principal
		make identity.NewToken
		want error
	}{
		"without a name":                    {identity.Local(), identity.NewToken{Scopes: []identity.Scope{"admin"}}, identity.ErrInvalid},
		"without scopes":                    {identity.Local(), identity.NewToken{Name: "x"}, identity.ErrInvalid},
		"with a scope that is none":         {identity.Local(), identity.NewToken{Name: "x", Scopes: []identity.Scope{"root"}}, identity.ErrInvalid},
		"with a scope twice":                {identity.Local(), identity.NewToken{Name: "x", Scopes: []identity.Scope{"admin", "admin"}}, identity.ErrInvalid},
		"for cert:self without a user":      {identity.Local(), identity.NewToken{Name: "x", Scopes: []identity.Scope{"cert:self"}}, identity.ErrInvalid},
		"with a line break in its name":     {identity.Local(), identity.NewToken{Name: "x\ny", Scopes: []identity.Scope{"admin"}}, identity.ErrInvalid},
		"from one who may only read":        {readOnly, identity.NewToken{Name: "x", Scopes: []identity.Scope{"read_only"}}, identity.ErrForbidden},
		"with more rights than the maker's": {admin, identity.NewToken{Name: "x", Scopes: []identity.Scope{"owner"}}, identity.ErrForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := s.CreateToken(context.Background(), tt.by, tt.make); !errors.Is(err, tt.want) {
				t.Errorf("CreateToken(%+v) = %v, want %v", tt.make, err, tt.want)
			}
		})
	}
}

func TestScopesInclude(t *testing.T) {
	storagetest.AnyEngine(t)
	all := []identity.Scope{"owner", "admin", "helpdesk", "read_only", "cert:self", "cert:any", "cert:manage"}
	for have, want := range map[identity.Scope]string{
		"owner":       "owner admin helpdesk read_only cert:manage",
		"admin":       "admin helpdesk read_only cert:manage",
		"helpdesk":    "helpdesk read_only",
		"read_only":   "read_only",
		"cert:self":   "cert:self",
		"cert:any":    "cert:any",
		"cert:manage": "cert:manage",
		"":            "",
		"nonsense":    "",
	} {
		p := identity.Principal{Scopes: []identity.Scope{have}}
		var got []string
		for _, scope := range all {
			if p.Allows(scope) {
				got = append(got, string(scope))
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q allows %v, want %s", have, got, want)
		}
	}
}

func TestBootstrapTokenIsTakenOnce(t *testing.T) {
	s, _, _ := open(t)
	ctx := context.Background()
	const first, second = "a-token-of-somebody-else", "another-token-of-theirs"
	if created, err := s.Bootstrap(ctx, first); err != nil || !created {
		t.Fatalf("Bootstrap on an empty store = %v, %v; want true", created, err)
	}
	for _, again := range []string{first, second} {
		if created, err := s.Bootstrap(ctx, again); err != nil || created {
			t.Errorf("Bootstrap when there is a token = %v, %v; want false", created, err)
		}
	}
	if p, err := s.Authenticate(ctx, first); err != nil || !p.Allows(identity.ScopeOwner) {
		t.Errorf("Authenticate = %+v, %v; want an owner", p, err)
	}
	if _, err := s.Authenticate(ctx, second); !errors.Is(err, identity.ErrUnauthenticated) {
		t.Errorf("Authenticate with the second = %v, want ErrUnauthenticated", err)
	}
}

func TestLastUseIsWrittenBehind(t *testing.T) {
	storagetest.AnyEngine(t)
	s, _, at := open(t)
	ctx, stop := context.WithCancel(context.Background())
	_, secret, err := s.CreateToken(ctx, identity.Local(), identity.NewToken{Name: "ci", Scopes: []identity.Scope{"admin"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Authenticate(ctx, secret.Reveal()); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := s.Run(ctx); err != nil { // ends at once, and writes what is left
		t.Fatal(err)
	}
	list, _, err := s.Tokens(context.Background(), "", 10)
	if err != nil || len(list) != 1 || !list[0].LastUsed.Equal(at.Now()) {
		t.Errorf("Tokens = %+v, %v; want one, last used %v", list, err, at.Now())
	}
}

func TestSetupTokenIsRefused(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		change func(s *identity.Service, at *clock, token string) string
	}{
		"when it is wrong": {func(*identity.Service, *clock, string) string { return "AAAA-BBBB-CCCC-DDDD" }},
		"when it is empty": {func(*identity.Service, *clock, string) string { return "" }},
		"when it is very long": {func(*identity.Service, *clock, string) string {
			return strings.Repeat("A", 1<<20)
		}},
		"after half an hour": {func(_ *identity.Service, at *clock, token string) string {
			at.Advance(identity.SetupTokenLife)
			return token
		}},
		"when a newer one was made": {func(s *identity.Service, _ *clock, token string) string {
			_, _, _ = s.NewSetupToken(context.Background())
			return token
		}},
		"the second time": {func(s *identity.Service, _ *clock, token string) string {
			_, _ = s.RedeemSetupToken(context.Background(), token)
			return token
		}},
		"when the clock was put back for long": {func(_ *identity.Service, at *clock, token string) string {
			at.Advance(-time.Hour)
			return token
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s, db, at := open(t)
			token, _, err := s.NewSetupToken(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if holds(t, db, token.Reveal()) {
				t.Error("the token stands in the database")
			}
			changed := tt.change(s, at, token.Reveal())
			if _, err := s.RedeemSetupToken(context.Background(), changed); !errors.Is(err, identity.ErrSetupToken) {
				t.Errorf("RedeemSetupToken = %v, want ErrSetupToken", err)
			}
		})
	}
}

func TestSetupTokenForgivesTyping(t *testing.T) {
	storagetest.AnyEngine(t)
	s, _, _ := open(t)
	token, _, err := s.NewSetupToken(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	typed := " " + strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(token.Reveal(), "-", " "), "0", "O")) + "\n"
	p, err := s.RedeemSetupToken(context.Background(), typed)
	if err != nil || !p.Allows(identity.ScopeOwner) {
		t.Errorf("RedeemSetupToken(%q) for %q = %+v, %v; want an owner", typed, token.Reveal(), p, err)
	}
}

func TestOfRacingSetupsOneGetsIn(t *testing.T) {
	s, _, _ := open(t)
	token, _, err := s.NewSetupToken(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	const racers = 8
	got := make(chan error, racers)
	for range racers {
		go func() {
			_, err := s.RedeemSetupToken(context.Background(), token.Reveal())
			got <- err
		}()
	}
	in := 0
	for range racers {
		if err := <-got; err == nil {
			in++
		} else if !errors.Is(err, identity.ErrSetupToken) {
			t.Error(err)
		}
	}
	if in != 1 {
		t.Errorf("%d of %d got in, want 1", in, racers)
	}
}

const (
	ownerEmail    = "Ana@Example.com"
	ownerPassword = "correct horse battery staple"
)

func openWithOwner(t *testing.T) (*identity.Service, *clock) {
	t.Helper()
	s, db, at := open(t)
	created, err := s.CreateOwner(context.Background(), ownerEmail, ownerPassword)
	if err != nil || !created {
		t.Fatalf("CreateOwner = %v, %v; want true", created, err)
	}
	if holds(t, db, ownerPassword) {
		t.Error("the password stands in the database")
	}
	return s, at
}

func TestOwnerLogsIn(t *testing.T) {
	s, _ := openWithOwner(t)
	ctx := context.Background()
	if created, err := s.CreateOwner(ctx, "eve@example.com", ownerPassword); err != nil || created {
		t.Errorf("a second CreateOwner = %v, %v; want false", created, err)
	}
	// A service file may hold what no password may be any more: it is nobody's.
	if created, err := s.CreateOwner(ctx, ownerEmail, "password"); err != nil || created {
		t.Errorf("a second CreateOwner with another password = %v, %v; want false", created, err)
	}
	for _, login := range []string{ownerEmail, "ana@example.com", " ANA@EXAMPLE.COM "} {
		u, err := s.Login(ctx, login, ownerPassword, "192.0.2.1")
		if err != nil || !u.User.Principal().Allows(identity.ScopeOwner) || u.Provider != identity.LocalProvider || u.NeedsCode || u.MustSetUpCode {
			t.Errorf("Login(%q) = %+v, %v; want the owner", login, u, err)
		}
	}
	state, err := s.SetupState(ctx)
	if err != nil || !state.Done {
		t.Errorf("SetupState = %+v, %v; want done", state, err)
	}
}

func TestLoginTellsNothing(t *testing.T) {
	storagetest.AnyEngine(t)
	s, _ := openWithOwner(t)
	for name, try := range map[string][2]string{
		"wrong password":     {ownerEmail, "wrong"},
		"no password":        {ownerEmail, ""},
		"unknown user":       {"eve@example.com", ownerPassword},
		"no user":            {"", ownerPassword},
		"very long user":     {strings.Repeat("e", 1<<16), ownerPassword},
		"very long password": {ownerEmail, strings.Repeat("e", 1<<16)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Login(context.Background(), try[0], try[1], "192.0.2.1")
			if !errors.Is(err, identity.ErrBadLogin) || strings.Contains(err.Error(), "eve") {
				t.Errorf("Login = %v, want only ErrBadLogin", err)
			}
		})
	}
}

func TestLoginIsThrottled(t *testing.T) {
	storagetest.AnyEngine(t)
	s, at := openWithOwner(t)
	ctx := context.Background()
	const home, attacker = "192.0.2.1", "198.51.100.7"
	if _, err := s.Login(ctx, ownerEmail, ownerPassword, home); err != nil {
		t.Fatal(err)
	}

	throttledAt := 0
	for try := 1; try <= 20 && throttledAt == 0; try++ {
		_, err := s.Login(ctx, ownerEmail, "wrong", attacker)
		switch {
		case errors.Is(err, identity.ErrThrottled):
			throttledAt = try
		case !errors.Is(err, identity.ErrBadLogin):
			t.Fatal(err)
		}
	}
	if throttledAt == 0 || throttledAt > 10 {
		t.Errorf("throttled at try %d, want by the 10th", throttledAt)
	}
	if _, err := s.Login(ctx, ownerEmail, ownerPassword, attacker); !errors.Is(err, identity.ErrThrottled) {
		t.Errorf("the right password while throttled = %v, want ErrThrottled", err)
	}
	if _, err := s.Login(ctx, ownerEmail, ownerPassword, home); err != nil {
		t.Errorf("the owner, from where they logged in before = %v, want nil", err)
	}
	at.Advance(15 * time.Minute)
	if _, err := s.Login(ctx, ownerEmail, ownerPassword, attacker); err != nil {
		t.Errorf("the right password after the window = %v, want nil", err)
	}
}

func TestLoginIsThrottledAtOneIPv6Network(t *testing.T) {
	storagetest.AnyEngine(t)
	s, _ := openWithOwner(t)
	var err error
	for i := range 10 {
		_, err = s.Login(context.Background(), "eve@example.com", "wrong", fmt.Sprintf("2001:db8::%x", i+1))
	}
	if !errors.Is(err, identity.ErrThrottled) {
		t.Errorf("the tenth address of one /64 = %v, want ErrThrottled", err)
	}
}

func TestOwnerIsRefused(t *testing.T) {
	storagetest.AnyEngine(t)
	s, _, _ := open(t)
	for name, tt := range map[string]struct{ email, password string }{
		"with a short password": {"ana@example.com", "1234567"},
		"without a password":    {"ana@example.com", ""},
		"without an e-mail":     {"", ownerPassword},
	} {
		t.Run(name, func(t *testing.T) {
			if created, err := s.CreateOwner(context.Background(), tt.email, tt.password); !errors.Is(err, identity.ErrInvalid) || created {
				t.Errorf("CreateOwner = %v, %v; want ErrInvalid", created, err)
			}
		})
	}
}
