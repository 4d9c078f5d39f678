package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// signInLife is how long a sign-in at a provider may take.
const signInLife = 10 * time.Minute

// maxBegun is how many sign-ins at providers may be begun from one network within a
// quarter of an hour: each is a record. Whole schools share an address.
const maxBegun = 1000

// CallbackPath is where a browser comes back from a provider, below the server's URL. It
// is registered there.
func CallbackPath(providerID string) string { return "/login/with/" + providerID + "/callback" }

// signIn is a sign-in that was begun at a provider. It is good for one return of the
// browser that began it.
type signIn struct {
	State     string `json:"state"`             // hash; the state itself went with the browser
	Browser   string `json:"browser,omitempty"` // hash of what the browser's session holds; empty: a trial
	Provider  string `json:"provider"`
	ReturnURL string `json:"return_url"`
	LoginHint string `json:"login_hint,omitempty"`

	SelectAccount bool `json:"select_account,omitempty"`

	Next      string    `json:"next,omitempty"`
	Use       Use       `json:"use,omitempty"`
	Peer      string    `json:"peer,omitempty"`
	Keep      []byte    `json:"keep"` // sealed
	Trial     bool      `json:"trial,omitempty"`
	Spent     bool      `json:"spent,omitempty"`
	ExpiresAt time.Time `json:"expires_at"`
}

const signInsByEnd = "expires"

var signIns = storage.NewCollection("identity.sign_ins", 1, func(s signIn) string { return s.State },
	storage.Index[signIn]{Name: signInsByEnd, Values: func(s signIn) []string { return []string{sortable(s.ExpiresAt)} }})

func signInPurpose(stateHash string) string { return "sign-in " + stateHash }

// NewSignIn says how somebody signs in at a provider.
type NewSignIn struct {
	ReturnURL string // where the browser comes back: the server's URL and CallbackPath
	Next      string // where it goes then; FinishSignIn returns it
	LoginHint string // who is probably signing in; may be empty

	// SelectAccount is for who wants to be somebody else than the provider remembers: it
	// asks.
	SelectAccount bool

	Use  Use    // what for; empty: whatever the provider is for
	Peer string // network address that it is begun from

	// Browser is what the browser's session holds of a sign-in that was begun before: both
	// can be finished then, as in two tabs. Empty: there was none.
	Browser string
}

// BeginSignIn sends somebody to a provider: to is where their browser goes, and browser is
// for its session, to be given to FinishSignIn. Errors wrap ErrSource, ErrThrottled,
// ErrMayNotEnroll or ErrForbidden (the provider is not for this use), or
// storage.ErrNotFound: there is no such provider to be sent to.
func (s *Service) BeginSignIn(ctx context.Context, providerID string, n NewSignIn) (to string, browser Secret, err error) {
	p, err := s.Provider(ctx, providerID)
	switch {
	case err != nil:
		return "", "", fmt.Errorf("begin sign-in: %w", err)
	case !p.Enabled || p.ID == LocalProvider:
		return "", "", fmt.Errorf("begin sign-in: nobody is sent to provider %s: %w", p.Name, storage.ErrNotFound)
	case n.Use == UseAdmin && !p.hasUse(n.Use):
		return "", "", fmt.Errorf("begin sign-in: %w: accounts of %s are not for administrators", ErrForbidden, p.Name)
	case n.Use != "" && !p.hasUse(n.Use):
		return "", "", fmt.Errorf("begin sign-in: %w", &DeniedError{DeniedProvider, p.Name})
	}
	browser = Secret(n.Browser)
	if len(n.Browser) < len(rand.Text()) {
		browser = Secret(rand.Text())
	}
	to, err = s.begin(ctx, p, signIn{
		Browser: hashSecret(browser.Reveal()), ReturnURL: n.ReturnURL, LoginHint: n.LoginHint, SelectAccount: n.SelectAccount,
		Next: n.Next, Use: n.Use, Peer: n.Peer,
	})
	if err != nil {
		return "", "", fmt.Errorf("begin sign-in: %w", err)
	}
	return to, browser, nil
}

// begin writes a sign-in down and returns where the browser goes.
func (s *Service) begin(ctx context.Context, p Provider, in signIn) (to string, err error) {
	source, err := s.source(p)
	if err != nil {
		return "", err
	}
	redirects, ok := source.(RedirectSource)
	if !ok {
		return "", fmt.Errorf("nobody is sent to provider %s: %w", p.Name, storage.ErrNotFound)
	}
	asking, cancel := context.WithTimeout(ctx, sourceTimeout)
	defer cancel()
	state := rand.Text()
	to, keep, err := redirects.Begin(asking, Redirect{ReturnURL: in.ReturnURL, State: state, LoginHint: in.LoginHint, SelectAccount: in.SelectAccount})
	if err != nil {
		if !errors.Is(err, ErrSource) {
			err = fmt.Errorf("%w: %w", ErrSource, err)
		}
		s.log.WarnContext(ctx, "source of accounts is not available", "provider", p.Name, "err", err)
		return "", err
	}
	in.State, in.Provider, in.ExpiresAt = hashSecret(state), p.ID, s.now().UTC().Add(signInLife)
	if in.Keep, err = s.seal(signInPurpose(in.State), []byte(keep)); err != nil {
		return "", err
	}
	return to, s.db.Update(ctx, func(tx storage.Tx) error {
		if err := s.count(tx, limit{throttleKey("begun", network(in.Peer)), maxBegun, false}); err != nil {
			return err
		}
		return signIns.Create(tx, in)
	})
}

// Finished is what came of a sign-in at a provider.
type Finished struct {
	SignedIn
	Next string // as NewSignIn had it

	// AuthenticatedAt is when they last proved to the provider who they are, by its own
	// account; zero: it does not say.
	AuthenticatedAt time.Time

	// Trial is set where an administrator has only tried the provider: nobody is signed in.
	Trial *Trial
}

// FinishSignIn takes what a provider has sent a browser back with. providerID is that of the
// address it came to, and browser what its session holds. Errors wrap ErrSignIn, ErrDenied,
// ErrSource, ErrUnusable or ErrDisabled; with all but the first, Next is set.
func (s *Service) FinishSignIn(ctx context.Context, providerID, browser string, returned url.Values, peer string) (f Finished, err error) {
	in, err := s.spend(ctx, providerID, browser, returned.Get("state"))
	if err != nil {
		return Finished{}, s.signInFailed(ctx, Provider{}, peer, err)
	}
	f.Next = in.Next
	p, person, err := s.finish(ctx, in, returned)
	if in.Trial {
		return s.finishTrial(ctx, p, person, err)
	}
	if err != nil {
		return f, s.signInFailed(ctx, p, peer, err)
	}
	err = s.db.Update(ctx, func(tx storage.Tx) (err error) {
		f.SignedIn, f.AuthenticatedAt = SignedIn{Provider: p.ID}, person.AuthenticatedAt
		fresh, err := getProvider(tx, p.ID)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		if !fresh.Enabled {
			return fmt.Errorf("%w: the provider was switched off meanwhile", ErrSignIn)
		}
		if fresh.Version != p.Version {
			return fmt.Errorf("%w: the provider was changed meanwhile", ErrSignIn)
		}
		if f.User, _, err = s.bind(tx, fresh, person); err != nil {
			return err
		}
		if f.User.Disabled {
			return ErrDisabled
		}
		return s.recordLogin(tx, f.SignedIn, peer, nil)
	})
	if err != nil {
		f.SignedIn, f.AuthenticatedAt = SignedIn{}, time.Time{}
		return f, s.signInFailed(ctx, p, peer, err)
	}
	s.log.InfoContext(ctx, "login", "user", f.User.ID, "provider", p.Name, "peer", peer)
	return f, nil
}

// spend uses a sign-in up, before its code is: whatever happens then, it is begun anew.
func (s *Service) spend(ctx context.Context, providerID, browser, state string) (in signIn, err error) {
	if state == "" || len(state) > 200 {
		return signIn{}, fmt.Errorf("%w: there is no state", ErrSignIn)
	}
	hash := hashSecret(state)
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		in, err = signIns.Get(tx, hash)
		if errors.Is(err, storage.ErrNotFound) {
			return fmt.Errorf("%w: the state is not of a sign-in that was begun here of late", ErrSignIn)
		}
		if err != nil {
			return err
		}
		ours := in.Trial || subtle.ConstantTimeCompare([]byte(in.Browser), []byte(hashSecret(browser))) == 1
		switch {
		case in.Provider != providerID:
			return fmt.Errorf("%w: it was begun at another provider", ErrSignIn)
		case !ours:
			return fmt.Errorf("%w: it was begun by another browser, or the session is lost", ErrSignIn)
		case in.Spent:
			return fmt.Errorf("%w: it was finished already", ErrSignIn)
		case !s.now().Before(in.ExpiresAt):
			return fmt.Errorf("%w: it took longer than %v", ErrSignIn, signInLife)
		}
		spent := in
		spent.Spent, spent.Keep = true, nil
		return signIns.Put(tx, spent)
	})
	return in, err
}

// finish has the provider's answer checked by its source.
func (s *Service) finish(ctx context.Context, in signIn, returned url.Values) (p Provider, person Person, err error) {
	if p, err = s.Provider(ctx, in.Provider); errors.Is(err, storage.ErrNotFound) {
		return p, Person{}, fmt.Errorf("%w: the provider was deleted meanwhile", ErrSignIn)
	} else if err != nil {
		return p, Person{}, err
	}
	source, err := s.source(p)
	if err != nil {
		return p, Person{}, err
	}
	redirects, ok := source.(RedirectSource)
	if !ok || !p.Enabled && !in.Trial {
		return p, Person{}, fmt.Errorf("%w: the provider was switched off meanwhile", ErrSignIn)
	}
	keep, err := s.unseal(signInPurpose(in.State), in.Keep)
	if err != nil {
		return p, Person{}, err
	}
	asking, cancel := context.WithTimeout(ctx, sourceTimeout)
	defer cancel()
	r := Redirect{ReturnURL: in.ReturnURL, State: returned.Get("state"), LoginHint: in.LoginHint}
	person, err = redirects.Finish(asking, r, string(keep), returned)
	if err != nil && !errors.Is(err, ErrSource) && !errors.Is(err, ErrSignIn) && !errors.Is(err, ErrDenied) {
		err = fmt.Errorf("%w: %w", ErrSource, err)
	}
	return p, person, err
}

// signInFailed writes down why somebody is not let in, and returns err.
func (s *Service) signInFailed(ctx context.Context, p Provider, peer string, err error) error {
	if ctx.Err() == nil {
		s.log.WarnContext(ctx, "sign-in at provider failed", "provider", p.Name, "peer", peer, "err", err)
		s.refused(ctx, Fact{Action: "user.login", Reason: err.Error(), Peer: peer, Details: p.named()})
	}
	return fmt.Errorf("finish sign-in: %w", err)
}

func (p Provider) named() map[string]string {
	if p.ID == "" {
		return nil
	}
	return map[string]string{"provider": p.ID, "name": p.Name}
}

// LogoutURL returns where a browser goes to end the session at a provider, too, and then
// comes back to back; empty if there is nothing like it. It tries, and never fails.
func (s *Service) LogoutURL(ctx context.Context, providerID, back string) string {
	p, err := s.Provider(ctx, providerID)
	if err != nil || !p.Enabled {
		return ""
	}
	source, err := s.source(p)
	if err != nil {
		return ""
	}
	redirects, ok := source.(RedirectSource)
	if !ok {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, sourceTimeout)
	defer cancel()
	to, err := redirects.Logout(ctx, back)
	s.logFailure(ctx, "provider has no logout now", err)
	return to
}

// pruneSignIns forgets sign-ins that are over.
func (s *Service) pruneSignIns(ctx context.Context) error {
	return storage.Sweep(ctx, s.db, signIns, signInsByEnd, sortable(s.now()), func(tx storage.Tx, in signIn) error {
		return signIns.Delete(tx, in.State)
	})
}
