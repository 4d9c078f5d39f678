package identity_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

const returnURL = "https://mdm.example.com/login/with/x/callback"

// sent is a browser that was sent to a provider.
type sent struct {
	provider string
	browser  string
	state    string
}

func (w *world) begin(t *testing.T, p identity.Provider, n identity.NewSignIn) sent {
	t.Helper()
	n.ReturnURL = returnURL
	to, browser, err := w.BeginSignIn(ctx, p.ID, n)
	if err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	if at.Query().Get("redirect_uri") != returnURL || at.Query().Get("login_hint") != n.LoginHint || at.Query().Has("prompt") != n.SelectAccount {
		t.Errorf("the browser is sent to %s", to)
	}
	return sent{p.ID, browser.Reveal(), at.Query().Get("state")}
}

func back(s sent, code string) url.Values { return url.Values{"state": {s.state}, "code": {code}} }

func TestSomebodySignsInAtAProvider(t *testing.T) {
	w := newWorld(t)
	p := w.provider(t, "sso", "https://id")
	w.add("https://id", ana(), "ana")
	s := w.begin(t, p, identity.NewSignIn{Next: "/enroll/3", LoginHint: "ana@example.com", Peer: "192.0.2.1"})
	if w.bucketsHold(t, s.state) || w.bucketsHold(t, s.browser) || w.bucketsHold(t, "the nonce") {
		t.Error("the database holds what only the browser should have")
	}
	f, err := w.replica(t, w.db).FinishSignIn(ctx, p.ID, s.browser, back(s, "ana"), "192.0.2.1")
	if err != nil || f.User.Email != "ana@example.com" || f.User.Role != identity.RoleUser || f.Provider != p.ID || f.Next != "/enroll/3" || f.Trial != nil {
		t.Fatalf("FinishSignIn = %+v, %v", f, err)
	}
	if strings.Contains(w.log.String(), s.state) || strings.Contains(w.log.String(), s.browser) {
		t.Error("the log holds the state or the session's part")
	}
	if got := w.facts(t, "user."); strings.Join(got, "\n") != "user.created ok ana@example.com by provider:https://id:\nuser.login ok ana@example.com by user:ana@example.com:" {
		t.Errorf("audit log: %q", got)
	}
	if to := w.LogoutURL(ctx, p.ID, "https://mdm.example.com/login"); to != "https://id/logout?back=https%3A%2F%2Fmdm.example.com%2Flogin" {
		t.Errorf("LogoutURL = %s", to)
	}
	again := w.begin(t, p, identity.NewSignIn{SelectAccount: true})
	if f, err := w.FinishSignIn(ctx, p.ID, again.browser, back(again, "ana"), ""); err != nil || w.all(t) != "ana@example.com" {
		t.Errorf("a second time: %+v, %v; users are %s", f, err, w.all(t))
	}
}

func TestASignInThatIsNotWhatWasBegun(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	p := w.provider(t, "sso", "https://id")
	other := w.provider(t, "sso", "https://other")
	w.add("https://id", ana(), "ana")
	for name, tt := range map[string]struct {
		change func(s *sent)
		want   error
		reason string
	}{
		"without a state":            {func(s *sent) { s.state = "" }, identity.ErrSignIn, "no state"},
		"with a state of nobody":     {func(s *sent) { s.state = strings.Repeat("A", 26) }, identity.ErrSignIn, "not of a sign-in"},
		"with a very long state":     {func(s *sent) { s.state = strings.Repeat("A", 1<<20) }, identity.ErrSignIn, "no state"},
		"of another browser":         {func(s *sent) { s.browser = w.begin(t, p, identity.NewSignIn{}).browser }, identity.ErrSignIn, "another browser"},
		"of a browser without it":    {func(s *sent) { s.browser = "" }, identity.ErrSignIn, "another browser"},
		"at another provider":        {func(s *sent) { s.provider = other.ID }, identity.ErrSignIn, "another provider"},
		"too late":                   {func(*sent) { w.at.Advance(10 * time.Minute) }, identity.ErrSignIn, "longer"},
		"after the provider was off": {func(*sent) { w.enable(t, p, false) }, identity.ErrSignIn, "switched off"},
		"a second time": {func(s *sent) {
			if _, err := w.FinishSignIn(ctx, p.ID, s.browser, back(*s, "ana"), ""); err != nil {
				t.Error(err)
			}
		}, identity.ErrSignIn, "finished already"},
		"after one that was refused": {func(s *sent) {
			if _, err := w.FinishSignIn(ctx, p.ID, s.browser, back(*s, "eve"), ""); !errors.Is(err, identity.ErrDenied) {
				t.Error(err)
			}
		}, identity.ErrSignIn, "finished already"},
	} {
		t.Run(name, func(t *testing.T) {
			s := w.begin(t, p, identity.NewSignIn{Next: "/enroll"})
			tt.change(&s)
			w.took()
			f, err := w.FinishSignIn(ctx, s.provider, s.browser, back(s, "ana"), "192.0.2.1")
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.reason) || f.User.ID != "" {
				t.Errorf("FinishSignIn = %+v, %v; want %v: %s", f, err, tt.want, tt.reason)
			}
			if asked := w.took(); asked != "" {
				t.Errorf("the provider was asked: %s", asked)
			}
			w.enable(t, p, true)
		})
	}
}

func (w *world) enable(t *testing.T, p identity.Provider, on bool) {
	t.Helper()
	if _, err := w.UpdateProvider(ctx, identity.Local(), p.ID, identity.ProviderChange{Enabled: &on}); err != nil {
		t.Fatal(err)
	}
}

func TestAStrangerCantUseASignInUp(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	p := w.provider(t, "sso", "https://id")
	w.add("https://id", ana(), "ana")
	s := w.begin(t, p, identity.NewSignIn{})
	if _, err := w.FinishSignIn(ctx, p.ID, "somebody else's", back(s, "ana"), ""); !errors.Is(err, identity.ErrSignIn) {
		t.Fatal(err)
	}
	if _, err := w.FinishSignIn(ctx, p.ID, s.browser, back(s, "ana"), ""); err != nil {
		t.Errorf("the browser that began it: %v", err)
	}
}

func TestTwoTabsSignIn(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	p := w.provider(t, "sso", "https://id")
	w.add("https://id", ana(), "ana")
	first := w.begin(t, p, identity.NewSignIn{Next: "/me"})
	second := w.begin(t, p, identity.NewSignIn{Next: "/enroll", Browser: first.browser})
	if first.browser != second.browser || first.state == second.state {
		t.Errorf("one session begins %+v and %+v", first, second)
	}
	for _, s := range []sent{first, second} {
		if _, err := w.FinishSignIn(ctx, p.ID, second.browser, back(s, "ana"), ""); err != nil {
			t.Error(err)
		}
	}
	weak := w.begin(t, p, identity.NewSignIn{Browser: "1"})
	if weak.browser == "1" {
		t.Error("a session's part that can be guessed was kept")
	}
}

func TestASignInIsFinishedOnce(t *testing.T) {
	w := newWorld(t)
	p := w.provider(t, "sso", "https://id")
	w.add("https://id", ana(), "ana")
	s := w.begin(t, p, identity.NewSignIn{})
	var errs [2]error
	side := func(i int) func(storage.DB) {
		return func(db storage.DB) {
			_, errs[i] = w.replica(t, db).FinishSignIn(ctx, p.ID, s.browser, back(s, "ana"), "")
		}
	}
	storagetest.Overlap(w.db, side(0), side(1))
	if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs[:]...), identity.ErrSignIn) {
		t.Errorf("one sign-in finished twice: %v; want one ErrSignIn", errs)
	}
}

func TestASignInThatDoesNotBegin(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	p := w.provider(t, "sso", "https://id", func(c *identity.ProviderChange) { c.Uses = &[]identity.Use{identity.UsePersonal} })
	directory := w.provider(t, "directory", "ldaps://one")
	off := w.provider(t, "sso", "off", func(c *identity.ProviderChange) { c.Enabled = ptr(false) })
	down := w.provider(t, "sso", "down")
	w.broken["down"] = errors.New("refused")
	for name, tt := range map[string]struct {
		provider string
		use      identity.Use
		want     error
	}{
		"at none":                           {"none", "", storage.ErrNotFound},
		"at the local one":                  {identity.LocalProvider, "", storage.ErrNotFound},
		"at one that takes passwords":       {directory.ID, "", storage.ErrNotFound},
		"at one that is off":                {off.ID, "", storage.ErrNotFound},
		"at one that is down":               {down.ID, "", identity.ErrSource},
		"to administer, which it's not for": {p.ID, identity.UseAdmin, identity.ErrForbidden},
		"to enroll, which it's not for":     {p.ID, identity.UseInstitutional, identity.ErrMayNotEnroll},
	} {
		t.Run(name, func(t *testing.T) {
			to, _, err := w.BeginSignIn(ctx, tt.provider, identity.NewSignIn{ReturnURL: returnURL, Use: tt.use})
			if !errors.Is(err, tt.want) || to != "" {
				t.Errorf("BeginSignIn = %q, %v; want %v", to, err, tt.want)
			}
		})
	}
}

func TestAProviderThatFailsAtTheEnd(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	p := w.provider(t, "sso", "https://id")
	w.create(t, identity.NewUser{Username: "bea"})
	w.add("https://id", ana(), "ana")
	w.add("https://id", person("bea"), "bea")
	disabled := w.begin(t, p, identity.NewSignIn{})
	f, err := w.FinishSignIn(ctx, p.ID, disabled.browser, back(disabled, "ana"), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.UpdateUser(ctx, identity.Local(), f.User.ID, identity.UserChange{Disabled: ptr(true)}); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		code   string
		broken error
		want   error
	}{
		"it is down":                 {"ana", errors.New("reset"), identity.ErrSource},
		"it says no":                 {"eve", nil, identity.ErrDenied},
		"the user is disabled":       {"ana", nil, identity.ErrDisabled},
		"the login is somebody else": {"bea", nil, identity.ErrUnusable},
	} {
		t.Run(name, func(t *testing.T) {
			s := w.begin(t, p, identity.NewSignIn{Next: "/enroll"})
			w.broken["https://id"] = tt.broken
			f, err := w.FinishSignIn(ctx, p.ID, s.browser, back(s, tt.code), "")
			if !errors.Is(err, tt.want) || f.User.ID != "" || f.Next != "/enroll" {
				t.Errorf("FinishSignIn = %+v, %v; want %v, and where to go", f, err, tt.want)
			}
			w.broken["https://id"] = nil
		})
	}
}

func TestSignInsThatAreOverAreForgotten(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	p := w.provider(t, "sso", "https://id")
	w.begin(t, p, identity.NewSignIn{})
	w.at.Advance(9 * time.Minute)
	w.begin(t, p, identity.NewSignIn{})
	w.at.Advance(time.Minute + time.Second)
	if err := w.PruneSignIns(ctx); err != nil {
		t.Fatal(err)
	}
	left := 0
	err := w.db.View(ctx, func(tx storage.Tx) error {
		left = 0
		for _, err := range tx.Scan("identity.sign_ins", storage.Range{}) {
			if err != nil {
				return err
			}
			left++
		}
		return nil
	})
	if err != nil || left != 1 {
		t.Errorf("%d sign-ins are left, %v; want 1", left, err)
	}
}
