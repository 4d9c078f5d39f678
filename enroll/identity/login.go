package identity

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// SignedIn is who has shown to be somebody, and what is missing before they are let in.
type SignedIn struct {
	User     User
	Provider string // ID of the provider that knows them

	NeedsCode     bool // they are in after CheckCode only
	MustSetUpCode bool // they have no second factor, and may not use their role without one
}

// sourceTimeout is how long a source may take: a page answers within ten seconds.
const sourceTimeout = 9 * time.Second

// Login returns who logs in with a username or an e-mail address from peer, which
// names the network address that the attempt comes from. A login that belongs to a user
// is checked where that user belongs, and nowhere else. Errors wrap ErrBadLogin (perhaps
// ErrDisabled, ErrLocked or ErrPasswordExpired), ErrThrottled (see RetryAfter), ErrSource
// or ErrUnusable.
func (s *Service) Login(ctx context.Context, login, password, peer string) (SignedIn, error) {
	return s.login(ctx, login, password, peer, true)
}

// LoginWithoutCode is Login where nobody can be asked for a code: who would have to give one
// is refused as with a wrong password, and learns nothing of the right one. Errors are those
// of Login.
func (s *Service) LoginWithoutCode(ctx context.Context, login, password, peer string) (SignedIn, error) {
	return s.login(ctx, login, password, peer, false)
}

func (s *Service) login(ctx context.Context, login, password, peer string, codes bool) (SignedIn, error) {
	attempt, err := s.countLogin(ctx, login, peer)
	if err != nil {
		if errors.Is(err, ErrThrottled) {
			s.refused(ctx, Fact{Action: "user.login", Reason: err.Error(), Peer: peer})
		}
		return SignedIn{}, fmt.Errorf("login: %w", err)
	}
	c, err := s.checkLogin(ctx, normalLogin(login), password)
	if err != nil {
		return SignedIn{}, s.loginFailed(ctx, attempt, c, err)
	}
	var in SignedIn
	err = s.db.Update(ctx, func(tx storage.Tx) (err error) {
		if in, err = s.letIn(tx, c, attempt); err == nil && in.NeedsCode && !codes {
			err = because(ErrBadLogin, "the user has a second factor, and can't be asked for it here")
		}
		return err
	})
	if errors.Is(err, ErrUnusable) || errors.Is(err, ErrBadLogin) || errors.Is(err, ErrSource) {
		return SignedIn{}, s.loginFailed(ctx, attempt, c, err)
	}
	if err != nil {
		return SignedIn{}, fmt.Errorf("login: %w", err)
	}
	if !in.NeedsCode {
		s.log.InfoContext(ctx, "login", "user", in.User.ID, "provider", in.Provider, "peer", peer)
	}
	return in, nil
}

// checked is whose password was right, or as far as that is known.
type checked struct {
	user     User // of this server, or who the login belongs to
	provider Provider
	person   Person // where the provider is not the local one
}

// checkLogin finds out where a login belongs and has the password checked there.
func (s *Service) checkLogin(ctx context.Context, login, password string) (c checked, err error) {
	var all []Provider
	unknown := false
	err = s.db.View(ctx, func(tx storage.Tx) error {
		c, all = checked{}, nil
		c.user, err = UserByLogin(tx, login)
		if unknown = errors.Is(err, storage.ErrNotFound); err != nil && !unknown {
			return err
		}
		if c.provider, err = providerOf(tx, c.user); err != nil {
			return err
		}
		all, err = allProviders(tx)
		return err
	})
	if err != nil {
		return checked{}, err
	}
	switch {
	case password == "":
		// RFC 4513, 5.1.2: a bind without a password always works, and proves nothing.
		return c, because(ErrBadLogin, "there is no password")
	case c.user.Password == "" && (login == "" || len(login) > maxLogin || len(password) > maxPassword):
		return c, cmp.Or(s.checkDecoy(ctx, password), because(ErrBadLogin, "the login is empty, or it or the password is too long"))
	case c.user.Password != "":
		return c, s.checkPassword(ctx, c.user.Password, password)
	case c.user.Provider != "":
		return s.checkAtProvider(ctx, c, login, password)
	}
	found, err := s.askSources(ctx, all, login, password)
	if !errors.Is(err, errUnknown) {
		found.user = c.user
		return found, err
	}
	reason := "there is no such user"
	if !unknown {
		reason = "the user has no password"
	}
	return c, cmp.Or(s.checkDecoy(ctx, password), because(ErrBadLogin, reason))
}

// refusal is an error that says for the log why it is one; whoever tries learns none of it.
type refusal struct {
	error
	reason string
}

func (r *refusal) Unwrap() error { return r.error }

func because(err error, reason string) error { return &refusal{err, reason} }

// errUnknown means that no source knows a login.
var errUnknown = errors.New("no source knows the login")

func (s *Service) checkPassword(ctx context.Context, hash, password string) error {
	ok, err := s.checkHash(ctx, hash, password)
	if err == nil && !ok {
		err = because(ErrBadLogin, "wrong password")
	}
	return err
}

// checkDecoy takes as long as checkPassword of a user's.
func (s *Service) checkDecoy(ctx context.Context, password string) error {
	if err := s.checkPassword(ctx, s.decoyHash(), password); err != nil && !errors.Is(err, ErrBadLogin) {
		return err
	}
	return nil
}

// takingAsLong returns err, which a source has said of a password. A refusal takes the hash
// that one of a user of this server takes, and that of nobody: whoever measures how long it
// takes learns not who is in a directory.
func (s *Service) takingAsLong(ctx context.Context, password string, err error) error {
	if !errors.Is(err, ErrBadLogin) {
		return err
	}
	return cmp.Or(s.checkDecoy(ctx, password), err)
}

// checkAtProvider has the password of a user of some provider checked there.
func (s *Service) checkAtProvider(ctx context.Context, c checked, login, password string) (checked, error) {
	if !c.provider.Enabled {
		return c, cmp.Or(s.checkDecoy(ctx, password), because(ErrBadLogin, "the provider is switched off or deleted"))
	}
	source, err := s.source(c.provider)
	if err != nil {
		return c, err
	}
	passwords, ok := source.(PasswordSource)
	if !ok {
		return c, cmp.Or(s.checkDecoy(ctx, password), because(ErrBadLogin, "the user signs in at "+c.provider.Name+", not with a password here"))
	}
	c.person, _, err = askSource(ctx, passwords, login, password)
	return c, s.takingAsLong(ctx, password, err)
}

// askSources asks the sources that take passwords, one after the other, until one of them
// knows the login; none is errUnknown. One that can't be asked might know it: that is the
// end, too.
func (s *Service) askSources(ctx context.Context, all []Provider, login, password string) (c checked, err error) {
	for _, p := range all {
		if !p.Enabled || p.ID == LocalProvider {
			continue
		}
		source, err := s.source(p)
		if err != nil {
			return checked{provider: p}, err
		}
		passwords, ok := source.(PasswordSource)
		if !ok {
			continue
		}
		person, known, err := askSource(ctx, passwords, login, password)
		if err == nil || known || !errors.Is(err, ErrBadLogin) {
			return checked{provider: p, person: person}, s.takingAsLong(ctx, password, err)
		}
	}
	return checked{}, errUnknown
}

// askSource asks a source. Its errors wrap ErrBadLogin or ErrSource.
func askSource(ctx context.Context, source PasswordSource, login, password string) (p Person, known bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, sourceTimeout)
	defer cancel()
	p, known, err = source.SignIn(ctx, login, password)
	switch {
	case err == nil:
		return p, true, nil
	case errors.Is(err, ErrSource) && errors.Is(err, ErrBadLogin):
		return Person{}, false, fmt.Errorf("%w: %v", ErrSource, err) // one of the two, for who asks
	case errors.Is(err, ErrSource):
		return Person{}, false, err
	case errors.Is(err, ErrBadLogin):
		return Person{}, known, because(err, err.Error())
	}
	return Person{}, false, fmt.Errorf("%w: %w", ErrSource, err)
}

// loginFailed writes down why somebody is not let in, and returns what they learn.
func (s *Service) loginFailed(ctx context.Context, a loginAttempt, c checked, failed error) error {
	if ctx.Err() != nil { // whoever hangs up learns nothing, and was counted
		return fmt.Errorf("login: %w", failed)
	}
	reason := failed.Error()
	if r, ok := errors.AsType[*refusal](failed); ok {
		reason = r.reason
	}
	if !errors.Is(failed, ErrBadLogin) {
		// The person may try again as soon as the source is back.
		err := s.db.Update(ctx, func(tx storage.Tx) error { return s.takeBackAttempt(tx, a) })
		s.logFailure(ctx, "failed login not taken back", err)
	}
	fact := Fact{Action: "user.login", Reason: reason, User: c.user.Login(), Peer: a.peer}
	switch {
	case errors.Is(failed, ErrSource):
		s.log.WarnContext(ctx, "source of accounts is not available", "provider", c.provider.Name, "err", failed)
	case errors.Is(failed, ErrUnusable):
		s.log.WarnContext(ctx, "account of a provider can't be used", "provider", c.provider.Name, "peer", a.peer, "err", failed)
	case errors.Is(failed, ErrBadLogin):
		s.log.InfoContext(ctx, "login failed", "peer", a.peer)
	default:
		return fmt.Errorf("login: %w", failed)
	}
	s.refused(ctx, fact)
	return fmt.Errorf("login: %w", failed)
}

// letIn makes or finds the user whose password was right, in one transaction with what
// follows from that.
func (s *Service) letIn(tx storage.Tx, c checked, a loginAttempt) (in SignedIn, err error) {
	p, err := getProvider(tx, c.provider.ID)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return SignedIn{}, err
	}
	in.Provider = p.ID
	switch {
	case !p.Enabled:
		return SignedIn{}, because(ErrBadLogin, "the provider was switched off meanwhile")
	case p.ID != LocalProvider && p.Version != c.provider.Version:
		return SignedIn{}, fmt.Errorf("%w: it was changed while it was asked", ErrSource)
	case p.ID != LocalProvider:
		in.User, _, err = s.bind(tx, p, c.person)
	default:
		in.User, err = users.Get(tx, c.user.ID)
	}
	switch {
	case err != nil:
		return SignedIn{}, err
	case in.User.Disabled:
		return SignedIn{}, because(ErrDisabled, "the user is disabled")
	case p.ID == LocalProvider && in.User.Password != c.user.Password:
		return SignedIn{}, because(ErrBadLogin, "the password was changed meanwhile")
	}
	in.MustSetUpCode = p.mustSetUpCode(in.User)
	if in.NeedsCode = !in.User.SecondFactorAt.IsZero(); in.NeedsCode {
		return in, s.takeBackAttempt(tx, a) // codes are counted by themselves
	}
	if err := s.forgiveAttempts(tx, a); err != nil {
		return SignedIn{}, err
	}
	if a.account != in.User.ID { // it was not known whose login it is
		if err := s.remember(tx, loginAttempt{account: in.User.ID, peer: a.peer}); err != nil {
			return SignedIn{}, err
		}
	}
	return in, s.recordLogin(tx, in, a.peer, nil)
}

// recordLogin writes down that somebody is in.
func (s *Service) recordLogin(tx storage.Tx, in SignedIn, peer string, details map[string]string) error {
	if err := lastSignIns.Put(tx, lastSignIn{UserID: in.User.ID, At: s.now().UTC()}); err != nil {
		return err
	}
	by := in.User.Principal()
	by.Peer = peer
	if in.Provider != LocalProvider {
		if details == nil {
			details = map[string]string{}
		}
		details["provider"] = in.Provider
	}
	return s.record(tx, by.fact("user.login", in.User.Login(), details))
}

// mustSetUpCode says whether u may not use their role before they have a second factor.
func (p Provider) mustSetUpCode(u User) bool {
	return p.RequireSecondFactor && u.Role != RoleUser && u.SecondFactorAt.IsZero()
}

// Acting returns a user who is signed in, by ID, and what they may do now: a role counts
// where the provider is for administrators, and where the second factor that it asks for is
// there. ErrUnauthenticated means that they are not signed in any more: they, or their
// provider, were switched off. An unknown user is storage.ErrNotFound.
func (s *Service) Acting(ctx context.Context, id string) (u User, by Principal, err error) {
	var p Provider
	err = s.db.View(ctx, func(tx storage.Tx) error {
		if u, err = users.Get(tx, id); err != nil {
			return err
		}
		p, err = providerOf(tx, u)
		return err
	})
	if err == nil && (u.Disabled || !p.Enabled) {
		err = ErrUnauthenticated
	}
	if err != nil {
		return User{}, Principal{}, fmt.Errorf("acting user: %w", err)
	}
	by = u.Principal()
	if !p.hasUse(UseAdmin) || p.mustSetUpCode(u) {
		by.Scopes = nil
	}
	return u, by, nil
}

// lastSignIn is when a user last signed in, here or at their provider. It is kept beside the user, whose
// record is not to change with it.
type lastSignIn struct {
	UserID string    `json:"user_id"`
	At     time.Time `json:"at"`
}

var lastSignIns = storage.NewCollection("identity.last_sign_in", 1, func(s lastSignIn) string { return s.UserID })

// LastSignIns returns when users last signed in. Who never did is not among them.
func (s *Service) LastSignIns(ctx context.Context, ids ...string) (last map[string]time.Time, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		last = make(map[string]time.Time, len(ids))
		for _, id := range ids {
			tx.Prefetch(lastSignIns.Read(id))
		}
		for _, id := range ids {
			in, err := lastSignIns.Get(tx, id)
			if errors.Is(err, storage.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			last[id] = in.At
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read sign-ins: %w", err)
	}
	return last, nil
}
