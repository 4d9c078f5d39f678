package identity_test

import (
	"encoding/base32"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// RFC 6238, appendix B, with SHA-1: the last six of its eight digits.
func TestCodesAreThoseOfTheRFC(t *testing.T) {
	storagetest.AnyEngine(t)
	for at, want := range map[int64]string{
		59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130",
	} {
		step := identity.TOTPStep(time.Unix(at, 0))
		if got := identity.TOTP([]byte("12345678901234567890"), step); got != want {
			t.Errorf("the code at %d is %s, want %s", at, got, want)
		}
	}
}

// app is an authenticator app.
type app struct {
	key []byte
	w   *world
}

// code is what it shows, some steps from now.
func (a app) code(steps int64) string {
	return identity.TOTP(a.key, identity.TOTPStep(a.w.at.Now())+steps)
}

// code gives a code for u, who has just given the password.
func (w *world) code(t *testing.T, u identity.User, code, peer string) (identity.SignedIn, error) {
	t.Helper()
	return w.CheckCode(ctx, u.ID, w.user(t, u.ID).Stamp(), code, peer)
}

const peer = "192.0.2.1"

// setUp gives bea a second factor.
func (w *world) setUp(t *testing.T) (bea identity.User, a app, recovery []identity.Secret) {
	t.Helper()
	bea = w.create(t, identity.NewUser{Username: "bea", Password: "a good password", Role: identity.RoleAdmin})
	setup, err := w.BeginSecondFactor(ctx, bea.ID, "Example & Co")
	if err != nil {
		t.Fatal(err)
	}
	uri, err := url.Parse(setup.URI.Reveal())
	if err != nil || uri.Scheme != "otpauth" || uri.Host != "totp" || uri.Path != "/Example & Co:bea" ||
		uri.Query().Get("secret") != setup.Key.Reveal() || uri.Query().Get("issuer") != "Example & Co" || strings.Contains(uri.RawQuery, "+") {
		t.Errorf("an app is told %s, %v", setup.URI.Reveal(), err)
	}
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(setup.Key.Reveal())
	if err != nil || len(key) != 20 {
		t.Fatalf("the key is %q, %v", setup.Key.Reveal(), err)
	}
	a = app{key, w}
	if bea, recovery, err = w.ConfirmSecondFactor(ctx, bea.ID, a.code(0), peer); err != nil {
		t.Fatal(err)
	}
	w.at.Advance(time.Minute)
	return bea, a, recovery
}

func TestASecondFactorIsAskedFor(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	bea, a, recovery := w.setUp(t)
	if w.bucketsHold(t, string(a.key)) || len(recovery) != 10 {
		t.Errorf("%d recovery codes, want 10; and the key stands in the database: %v", len(recovery), w.bucketsHold(t, string(a.key)))
	}
	in, err := w.Login(ctx, "bea", "a good password", peer)
	if err != nil || !in.NeedsCode || in.MustSetUpCode || in.User.ID != bea.ID {
		t.Fatalf("Login = %+v, %v; want that a code is needed", in, err)
	}
	if got := w.facts(t, "user.login"); len(got) != 0 {
		t.Errorf("audit log before the code: %q", got)
	}
	for _, code := range []string{"", "000000", a.code(-2), a.code(3), a.code(0)[:5], a.code(0) + "0", strings.Repeat("1", 1<<16)} {
		if _, err := w.code(t, bea, code, peer); !errors.Is(err, identity.ErrBadCode) {
			t.Errorf("CheckCode(%.10q) = %v, want ErrBadCode", code, err)
		}
	}
	spaced := a.code(0)[:3] + " " + a.code(0)[3:]
	done, err := w.code(t, bea, spaced, peer)
	if err != nil || done.User.ID != bea.ID || done.NeedsCode || done.Provider != identity.LocalProvider {
		t.Fatalf("CheckCode = %+v, %v; want bea", done, err)
	}
	if got := w.facts(t, "user.login"); len(got) != 1 || !strings.Contains(got[0], "ok bea") {
		t.Errorf("audit log then: %q", got)
	}
	for _, code := range []string{a.code(0), a.code(-1)} {
		if _, err := w.code(t, bea, code, peer); !errors.Is(err, identity.ErrBadCode) {
			t.Errorf("CheckCode with a code that was used, or an older one = %v, want ErrBadCode", err)
		}
	}
	if _, err := w.code(t, bea, a.code(1), peer); err != nil {
		t.Errorf("CheckCode by a clock that is fast: %v", err)
	}
}

// A session that was begun by the password alone must not become an administrator's when
// the administrator sets the second factor up.
func TestSessionsOfBeforeEndWithTheSecondFactor(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	if _, err := w.UpdateProvider(ctx, identity.Local(), identity.LocalProvider, identity.ProviderChange{RequireSecondFactor: ptr(true)}); err != nil {
		t.Fatal(err)
	}
	bea := w.create(t, identity.NewUser{Username: "bea", Password: "a good password", Role: identity.RoleAdmin})
	thief, err := w.Login(ctx, "bea", "a good password", "203.0.113.66")
	if err != nil || !thief.MustSetUpCode {
		t.Fatalf("Login = %+v, %v; want that a second factor is to be set up", thief, err)
	}
	setup, err := w.BeginSecondFactor(ctx, bea.ID, "Example")
	if err != nil {
		t.Fatal(err)
	}
	key, _ := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(setup.Key.Reveal())
	confirmed, _, err := w.ConfirmSecondFactor(ctx, bea.ID, app{key, w}.code(0), peer)
	if err != nil {
		t.Fatal(err)
	}
	now, by, err := w.Acting(ctx, bea.ID)
	if err != nil || !by.Allows(identity.ScopeAdmin) {
		t.Errorf("Acting = %+v, %v; want an administrator", by, err)
	}
	if now.Stamp() == thief.User.Stamp() {
		t.Error("a session of before the second factor goes on")
	}
	if now.Stamp() != confirmed.Stamp() {
		t.Error("who has set it up can't go on")
	}
}

func TestACodeWorksOnce(t *testing.T) {
	w := newWorld(t)
	bea, a, recovery := w.setUp(t)
	for name, code := range map[string]string{"of the app": a.code(0), "for recovery": recovery[3].Reveal()} {
		var errs [2]error
		side := func(i int) func(storage.DB) {
			return func(db storage.DB) { _, errs[i] = w.replica(t, db).CheckCode(ctx, bea.ID, bea.Stamp(), code, peer) }
		}
		storagetest.Overlap(w.db, side(0), side(1))
		if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs[:]...), identity.ErrBadCode) {
			t.Errorf("two who use one code %s: %v; want one ErrBadCode", name, errs)
		}
	}
}

// Whoever gave a password that is another one by now must not get in with a code.
func TestASignInThatWaitsForACodeIsOver(t *testing.T) {
	storagetest.AnyEngine(t)
	disable := func(disabled bool) identity.UserChange { return identity.UserChange{Disabled: &disabled} }
	for name, tt := range map[string]struct {
		meanwhile func(w *world, bea identity.User) error
		want      error
	}{
		"when an administrator has set another password": {func(w *world, bea identity.User) error {
			_, err := w.UpdateUser(ctx, identity.Local(), bea.ID, identity.UserChange{Password: ptr("another password")})
			return err
		}, identity.ErrStale},
		"when the person has changed the password": {func(w *world, bea identity.User) error {
			_, err := w.ChangePassword(ctx, bea.ID, "a good password", "another password", peer)
			return err
		}, identity.ErrStale},
		"when all sessions were ended": {func(w *world, bea identity.User) error {
			return w.EndSessions(ctx, identity.Local(), bea.ID)
		}, identity.ErrStale},
		"when the user was disabled": {func(w *world, bea identity.User) error {
			_, err := w.UpdateUser(ctx, identity.Local(), bea.ID, disable(true))
			return err
		}, identity.ErrDisabled},
		"when the user was disabled, and is not any more": {func(w *world, bea identity.User) error {
			_, err := w.UpdateUser(ctx, identity.Local(), bea.ID, disable(true))
			if err == nil {
				_, err = w.UpdateUser(ctx, identity.Local(), bea.ID, disable(false))
			}
			return err
		}, identity.ErrStale},
		"when there is no second factor any more": {func(w *world, bea identity.User) error {
			_, err := w.ResetSecondFactor(ctx, identity.Local(), bea.ID)
			return err
		}, identity.ErrSecondFactor},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			bea, a, recovery := w.setUp(t)
			in, err := w.Login(ctx, "bea", "a good password", peer)
			if err != nil || !in.NeedsCode {
				t.Fatalf("Login = %+v, %v; want that a code is needed", in, err)
			}
			if err := tt.meanwhile(w, bea); err != nil { // the clock stands still
				t.Fatal(err)
			}
			for _, code := range []string{a.code(0), recovery[0].Reveal()} {
				if got, err := w.CheckCode(ctx, bea.ID, in.User.Stamp(), code, peer); !errors.Is(err, tt.want) || got.User.ID != "" {
					t.Errorf("CheckCode = %+v, %v; want %v", got, err, tt.want)
				}
			}
		})
	}
}

func TestRecoveryCodes(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	bea, a, recovery := w.setUp(t)
	for _, code := range recovery {
		if w.bucketsHold(t, code.Reveal()) {
			t.Error("a recovery code stands in the database")
		}
	}
	typed := strings.ToLower(strings.ReplaceAll(recovery[0].Reveal(), "-", " "))
	if _, err := w.code(t, bea, typed, peer); err != nil {
		t.Errorf("CheckCode(%q) = %v", typed, err)
	}
	if _, err := w.code(t, bea, recovery[0].Reveal(), peer); !errors.Is(err, identity.ErrBadCode) {
		t.Errorf("CheckCode again = %v, want ErrBadCode", err)
	}
	if n, err := w.RecoveryCodesLeft(ctx, bea.ID); n != 9 || err != nil {
		t.Errorf("RecoveryCodesLeft = %d, %v; want 9", n, err)
	}
	fresh, err := w.NewRecoveryCodes(ctx, bea.ID, a.code(0), peer)
	if err != nil || len(fresh) != 10 {
		t.Fatalf("NewRecoveryCodes = %d codes, %v", len(fresh), err)
	}
	if _, err := w.code(t, bea, recovery[1].Reveal(), peer); !errors.Is(err, identity.ErrBadCode) {
		t.Errorf("CheckCode with an old one = %v, want ErrBadCode", err)
	}
	if _, err := w.code(t, bea, fresh[9].Reveal(), peer); err != nil {
		t.Errorf("CheckCode with a new one = %v", err)
	}
}

func TestCodesAreThrottled(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	bea, a, _ := w.setUp(t)
	n := 0
	for ; n < 20; n++ {
		if _, err := w.code(t, bea, "000000", peer); errors.Is(err, identity.ErrThrottled) {
			break
		}
		if _, err := w.Login(ctx, "bea", "a good password", peer); err != nil { // gives no fresh start
			t.Fatal(err)
		}
	}
	if n > 10 {
		t.Errorf("throttled after %d codes, want by the 10th", n)
	}
	if _, err := w.code(t, bea, a.code(0), peer); identity.RetryAfter(err) != 15*time.Minute {
		t.Errorf("the right one then = %v, want to wait 15m", err)
	}
	if _, err := w.code(t, bea, a.code(0), "198.51.100.1"); err != nil {
		t.Errorf("from elsewhere: %v", err)
	}
}

func TestWhereNobodyCanBeAskedForACode(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	bea, _, _ := w.setUp(t)
	w.create(t, identity.NewUser{Username: "cyd", Password: "a good password"})
	const door = "198.51.100.1"
	if in, err := w.LoginWithoutCode(ctx, "cyd", "a good password", door); err != nil || in.User.Username != "cyd" {
		t.Errorf("without a second factor: %+v, %v", in, err)
	}
	for _, password := range []string{"a good password", "a bad password"} {
		in, err := w.LoginWithoutCode(ctx, "bea", password, door)
		if in.User.ID != "" || !errors.Is(err, identity.ErrBadLogin) || err.Error() != "login: "+identity.ErrBadLogin.Error() {
			t.Errorf("with %s: %+v, %v; want no more than ErrBadLogin", password, in, err)
		}
	}
	got := w.facts(t, "user.login")
	if len(got) != 3 || !strings.Contains(got[1], "refused bea") || !strings.Contains(got[1], "second factor") || !strings.Contains(got[2], "wrong password") {
		t.Errorf("audit log: %q; want why bea is not let in", got)
	}
	for range 6 {
		if _, err := w.LoginWithoutCode(ctx, "bea", "a good password", door); !errors.Is(err, identity.ErrBadLogin) {
			t.Errorf("again: %v", err)
		}
	}
	if _, err := w.LoginWithoutCode(ctx, "bea", "a good password", door); !errors.Is(err, identity.ErrThrottled) {
		t.Errorf("the ninth time: %v, want ErrThrottled", err)
	}
	if in, err := w.Login(ctx, "bea", "a good password", peer); err != nil || in.User.ID != bea.ID {
		t.Errorf("elsewhere: %+v, %v", in, err)
	}
}

// Whoever is asked for a code has the password, and may have many addresses.
func TestCodesFromManyAddressesAreThrottled(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	bea, a, _ := w.setUp(t)
	n, address := 0, 0
	guess := func() (wait time.Duration) {
		for {
			address++
			for range 7 {
				_, err := w.code(t, bea, "000000", fmt.Sprintf("198.51.%d.%d", address/256, address%256))
				if errors.Is(err, identity.ErrThrottled) {
					return identity.RetryAfter(err)
				}
				n++
			}
		}
	}
	for i, want := range []time.Duration{15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour, 4 * time.Hour} {
		if wait := guess(); n != 30 || wait != want {
			t.Errorf("the wait is %v the %d. time, after %d codes; want %v after 30", wait, i+1, n, want)
		}
		n = 0
		if _, err := w.code(t, bea, a.code(0), peer); err != nil {
			t.Errorf("the owner, where they gave a code before: %v", err)
		}
		if _, err := w.code(t, bea, a.code(1), "203.0.113.5"); !errors.Is(err, identity.ErrThrottled) {
			t.Errorf("the owner elsewhere: %v, want ErrThrottled", err)
		}
		w.at.Advance(want)
	}
}

func TestASecondFactorThatIsNotSetUp(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	bea := w.create(t, identity.NewUser{Username: "bea", Password: "a good password"})
	confirm := func(code string) error {
		_, _, err := w.ConfirmSecondFactor(ctx, bea.ID, code, peer)
		return err
	}
	if err := confirm("123456"); !errors.Is(err, identity.ErrSecondFactor) {
		t.Errorf("before it was begun: %v", err)
	}
	setup, err := w.BeginSecondFactor(ctx, bea.ID, "Example")
	if err != nil {
		t.Fatal(err)
	}
	key, _ := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(setup.Key.Reveal())
	a := app{key, w}
	if err := confirm("12345"); !errors.Is(err, identity.ErrBadCode) {
		t.Errorf("with another code: %v", err)
	}
	if in, err := w.Login(ctx, "bea", "a good password", peer); err != nil || in.NeedsCode {
		t.Errorf("Login = %+v, %v; want no code before it is confirmed", in, err)
	}
	if _, err := w.code(t, bea, a.code(0), peer); !errors.Is(err, identity.ErrSecondFactor) {
		t.Errorf("CheckCode = %v, want ErrSecondFactor", err)
	}
	w.at.Advance(time.Hour + time.Second)
	if err := confirm(a.code(0)); !errors.Is(err, identity.ErrSecondFactor) {
		t.Errorf("after an hour: %v", err)
	}
	if _, err := w.BeginSecondFactor(ctx, "none", "Example"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("of nobody: %v", err)
	}
}

func TestASecondFactorGoesAway(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	bea, a, _ := w.setUp(t)
	if _, err := w.BeginSecondFactor(ctx, bea.ID, "Example"); !errors.Is(err, identity.ErrSecondFactor) {
		t.Errorf("a second one = %v, want ErrSecondFactor", err)
	}
	if err := w.DisableSecondFactor(ctx, bea.ID, "000000", peer); !errors.Is(err, identity.ErrBadCode) {
		t.Errorf("by another code: %v", err)
	}
	if err := w.DisableSecondFactor(ctx, bea.ID, a.code(0), peer); err != nil {
		t.Fatal(err)
	}
	if in, err := w.Login(ctx, "bea", "a good password", peer); err != nil || in.NeedsCode {
		t.Errorf("Login = %+v, %v; want no code", in, err)
	}
	if _, err := w.BeginSecondFactor(ctx, bea.ID, "Example"); err != nil {
		t.Errorf("another one: %v", err)
	}
}

func TestAnOwnerResetsASecondFactor(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	bea, a, recovery := w.setUp(t)
	if _, err := w.ResetSecondFactor(ctx, admin("admin"), bea.ID); !errors.Is(err, identity.ErrForbidden) {
		t.Errorf("by an administrator: %v, want ErrForbidden", err)
	}
	u, err := w.ResetSecondFactor(ctx, admin("owner"), bea.ID)
	if err != nil || !u.SecondFactorAt.IsZero() || u.PasswordAt.Equal(bea.PasswordAt) {
		t.Errorf("ResetSecondFactor = %+v, %v; want none, and sessions over", u, err)
	}
	for _, code := range []string{a.code(0), recovery[0].Reveal()} {
		if _, err := w.code(t, bea, code, peer); !errors.Is(err, identity.ErrSecondFactor) {
			t.Errorf("CheckCode then = %v, want ErrSecondFactor", err)
		}
	}
	if in, err := w.Login(ctx, "bea", "a good password", peer); err != nil || in.NeedsCode {
		t.Errorf("Login = %+v, %v; want no code", in, err)
	}
	if got := w.facts(t, "user.second_factor"); len(got) != 2 {
		t.Errorf("audit log: %q, want that it was set up and reset", got)
	}
}

func TestWhoMustHaveASecondFactor(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	if _, err := w.UpdateProvider(ctx, identity.Local(), identity.LocalProvider, identity.ProviderChange{RequireSecondFactor: ptr(true)}); err != nil {
		t.Fatal(err)
	}
	bea, _, _ := w.setUp(t)
	cyd := w.create(t, identity.NewUser{Username: "cyd", Password: "a good password", Role: identity.RoleReadOnly})
	dan := w.create(t, identity.NewUser{Username: "dan", Password: "a good password"})
	for _, tt := range []struct {
		user               identity.User
		needs, must, reads bool
	}{{bea, true, false, true}, {cyd, false, true, false}, {dan, false, false, false}} {
		in, err := w.Login(ctx, tt.user.Username, "a good password", peer)
		if err != nil || in.NeedsCode != tt.needs || in.MustSetUpCode != tt.must {
			t.Errorf("Login of %s = %+v, %v; want a code: %v, to set it up: %v", tt.user.Username, in, err, tt.needs, tt.must)
		}
		if _, by, err := w.Acting(ctx, tt.user.ID); err != nil || by.Allows(identity.ScopeReadOnly) != tt.reads {
			t.Errorf("%s may act as %+v, %v; want to read: %v", tt.user.Username, by, err, tt.reads)
		}
	}
}

func TestNobodyLocksThemselvesOutBySecondFactors(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	with, _, _ := w.setUp(t)
	without := w.create(t, identity.NewUser{Username: "eve", Password: "a good password", Role: identity.RoleOwner})
	owner := func(u identity.User) identity.Principal {
		p := u.Principal()
		p.Scopes = []identity.Scope{identity.ScopeOwner}
		return p
	}
	on := identity.ProviderChange{RequireSecondFactor: ptr(true)}
	var bad *identity.FieldError
	if _, err := w.UpdateProvider(ctx, owner(without), identity.LocalProvider, on); !errors.As(err, &bad) || bad.Field != "require_second_factor" {
		t.Errorf("who has no second factor requires one: %v", err)
	}
	if _, err := w.UpdateProvider(ctx, owner(with), identity.LocalProvider, on); err != nil {
		t.Errorf("who has one may not require it: %v", err)
	}
	// Where it is required already, anything else can be changed.
	if _, err := w.UpdateProvider(ctx, owner(without), identity.LocalProvider, identity.ProviderChange{Name: ptr("Ours")}); err != nil {
		t.Errorf("changing the name: %v", err)
	}
}

func TestADisabledUserIsToldByTheCode(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	bea, a, _ := w.setUp(t)
	if _, err := w.UpdateUser(ctx, identity.Local(), bea.ID, identity.UserChange{Disabled: ptr(true)}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.code(t, bea, a.code(0), peer); !errors.Is(err, identity.ErrDisabled) {
		t.Errorf("CheckCode = %v, want ErrDisabled", err)
	}
}
