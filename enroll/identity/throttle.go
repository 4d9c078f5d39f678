package identity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Failed logins are counted in the database, so that neither a restart nor
// another replica gives an attacker a fresh start, and before the password is
// checked, so that many at once don't slip through.
const (
	throttleWindow = 15 * time.Minute

	maxPairFailures    = 8   // of one account from one peer
	maxPeerFailures    = 300 // from one peer, whatever the account: a school may be one
	maxAccountFailures = 200 // of one account, from peers that never logged in to it

	// maxCodeFailures is of codes of one account, from peers that never gave a right one:
	// whoever is asked for one has the password already, and there are but a million codes.
	maxCodeFailures = 30

	// maxGuesses is of other secrets than passwords, such as short codes: from one peer.
	maxGuesses = 20

	// maxThrottle is the longest wait where waits grow: each time that the limit is met the
	// wait doubles, until nothing was tried for strikesLife.
	maxThrottle = 4 * time.Hour
	strikesLife = 24 * time.Hour

	// knownPeerLife is how long a peer that logged in to an account is not held up
	// by what others do to it: a stranger must not lock the owner out.
	knownPeerLife = 30 * 24 * time.Hour
)

// failures counts the attempts of a window that began with the first one.
type failures struct {
	Key   string    `json:"key"`
	Count int       `json:"count"`
	Until time.Time `json:"until"` // end of the window; then Count is void

	Strikes int `json:"strikes,omitempty"` // how often the limit was met of late
}

// end is when f is of no use any more.
func (f failures) end() time.Time {
	if f.Strikes > 0 {
		return f.Until.Add(strikesLife)
	}
	return f.Until
}

// ThrottledError says how long to wait after too many failed tries. It is an ErrThrottled.
type ThrottledError struct{ Wait time.Duration }

func (e *ThrottledError) Error() string { return ErrThrottled.Error() }

// Unwrap makes it an ErrThrottled.
func (e *ThrottledError) Unwrap() error { return ErrThrottled }

// RetryAfter is how long err asks to wait, 0 if it is not about that.
func RetryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*ThrottledError](err); ok {
		return e.Wait
	}
	return 0
}

const failuresByEnd = "until"

var loginFailures = storage.NewCollection("identity.login_failures", 1, func(f failures) string { return f.Key },
	storage.Index[failures]{Name: failuresByEnd, Values: func(f failures) []string { return []string{sortable(f.end())} }})

// sortable formats t so that texts sort as times do.
func sortable(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z") }

// loginAttempt is one try to log in.
type loginAttempt struct {
	account string // the user's ID, or what stands for one: see accountOf
	peer    string
	tried   tried
}

// tried is which of a user's secrets somebody has to know: each is counted by itself.
type tried string

const (
	triedPassword tried = ""
	triedCode     tried = "code "
	triedOld      tried = "change " // the password, to change it
)

// accountOf returns what tries with a login are counted for: the user whose it is, so that
// their names count together, or else the login, in the form that many spellings share. A
// directory takes more of them than we do (RFC 4518), and may know one of our users by
// each.
func accountOf(tx storage.Tx, login string) (string, error) {
	login = normalLogin(login)
	if len(login) > maxLogin {
		login = login[:maxLogin] // nobody's: it is refused unseen
	}
	common := commonSpelling(login)
	for _, spelling := range []string{login, folded(login), common} {
		u, err := UserByLogin(tx, spelling)
		if err == nil {
			return u.ID, nil
		}
		if !errors.Is(err, storage.ErrNotFound) {
			return "", err
		}
	}
	return "login " + common, nil
}

// commonSpelling is the same text for logins that look alike, or that a directory may take
// for one: in any width, case and composition, with or without accents, spaces and what
// can't be seen. It is good for nothing but counting.
func commonSpelling(login string) string {
	plain := strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Mn, unicode.Cf, unicode.Cc, unicode.White_Space) {
			return -1
		}
		return r
	}, norm.NFKD.String(login))
	return folded(plain)
}

// folded is a text in one width, case and composition (Unicode Standard Annex 15, and 3.13 of
// the standard).
func folded(text string) string { return norm.NFKC.String(cases.Fold().String(norm.NFKC.String(text))) }

// network is the part of a peer's address that one attacker has for sure: the
// address, or the /64 of an IPv6 one.
func network(peer string) string {
	addr, err := netip.ParseAddr(peer)
	if err != nil || addr.Is4() || addr.Is4In6() {
		return peer
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return peer
	}
	return prefix.String()
}

// The records of an attempt. Names are hashed: strangers choose them freely.
func (a loginAttempt) pairKey() string    { return a.key("pair", a.account, network(a.peer)) }
func (a loginAttempt) peerKey() string    { return a.key("peer", network(a.peer)) }
func (a loginAttempt) accountKey() string { return a.key("account", a.account) }
func (a loginAttempt) knownKey() string   { return a.key("known", a.account, network(a.peer)) }

func (a loginAttempt) key(of string, parts ...string) string {
	return throttleKey(append([]string{string(a.tried) + of}, parts...)...)
}

func throttleKey(parts ...string) string {
	sum := sha256.Sum256(storage.Key(parts...))
	return hex.EncodeToString(sum[:])
}

// limit is how many failures of something there may be in a window.
type limit struct {
	key    string
	most   int
	growth bool // the wait doubles each time
}

// limits are what an attempt counts for. That of one account from one peer grows: strangers
// elsewhere have no part in it. Where the peer is known the owner is there, perhaps behind
// the same address as somebody who guesses, so that the wait stays short. With codes it
// grows in any case, and so does that of the account: only who has the password is asked.
func (s *Service) limits(tx storage.Tx, a loginAttempt) ([]limit, error) {
	f, err := s.failuresOf(tx, a.knownKey())
	if err != nil {
		return nil, err
	}
	known, code := f.Count > 0, a.tried == triedCode
	limits := []limit{{a.pairKey(), maxPairFailures, !known || code}, {a.peerKey(), maxPeerFailures, false}}
	switch {
	case known:
	case code:
		limits = append(limits, limit{a.accountKey(), maxCodeFailures, true})
	default:
		limits = append(limits, limit{a.accountKey(), maxAccountFailures, false})
	}
	return limits, nil
}

// countLogin counts a try of a login and a password, as countAttempt does, and returns what
// was counted.
func (s *Service) countLogin(ctx context.Context, login, peer string) (a loginAttempt, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		a = loginAttempt{peer: peer}
		if a.account, err = accountOf(tx, login); err != nil {
			return err
		}
		limits, err := s.limits(tx, a)
		if err != nil {
			return err
		}
		return s.count(tx, limits...)
	})
	return a, err
}

// countAttempt counts an attempt as failed, or returns a *ThrottledError if there were
// too many.
func (s *Service) countAttempt(ctx context.Context, a loginAttempt) error {
	return s.db.Update(ctx, func(tx storage.Tx) error {
		limits, err := s.limits(tx, a)
		if err != nil {
			return err
		}
		return s.count(tx, limits...)
	})
}

// count counts a failure for each limit, or for none and returns a *ThrottledError.
func (s *Service) count(tx storage.Tx, limits ...limit) error {
	now := s.now().UTC()
	counted := make([]failures, len(limits))
	var wait time.Duration
	for i, l := range limits {
		f, err := s.failuresOf(tx, l.key)
		if err != nil {
			return err
		}
		if f.Count >= l.most {
			wait = max(wait, f.Until.Sub(now))
		}
		if f.Count++; f.Count == l.most && l.growth {
			f.Until = now.Add(min(throttleWindow<<min(f.Strikes, 16), maxThrottle))
			f.Strikes++
		}
		counted[i] = f
	}
	if wait > 0 {
		return &ThrottledError{wait}
	}
	for _, f := range counted {
		if err := loginFailures.Put(tx, f); err != nil {
			return err
		}
	}
	return nil
}

// takeBack takes back what count counted once: it was no failure.
func (s *Service) takeBack(tx storage.Tx, limits ...limit) error {
	for _, l := range limits {
		f, err := s.failuresOf(tx, l.key)
		if err != nil {
			return err
		}
		if f.Count == l.most && l.growth {
			f.Strikes = max(0, f.Strikes-1)
		}
		if f.Count--; f.Count <= 0 && f.Strikes == 0 {
			err = loginFailures.Delete(tx, l.key)
		} else {
			f.Count = max(0, f.Count)
			err = loginFailures.Put(tx, f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// takeBackAttempt takes back what countAttempt counted, where it was not the password
// that was wrong.
func (s *Service) takeBackAttempt(tx storage.Tx, a loginAttempt) error {
	limits, err := s.limits(tx, a)
	if err != nil {
		return err
	}
	return s.takeBack(tx, limits...)
}

// forgiveAttempts takes back what countAttempt counted before a login that
// succeeded, and remembers the peer.
func (s *Service) forgiveAttempts(tx storage.Tx, a loginAttempt) error {
	if err := s.takeBackAttempt(tx, a); err != nil {
		return err
	}
	return s.remember(tx, a)
}

// remember notes that somebody logged in to an account from a peer: failures of before
// are forgotten.
func (s *Service) remember(tx storage.Tx, a loginAttempt) error {
	if err := loginFailures.Delete(tx, a.pairKey()); err != nil {
		return err
	}
	return loginFailures.Put(tx, failures{Key: a.knownKey(), Count: 1, Until: s.now().UTC().Add(knownPeerLife)})
}

// guesses is the limit of guesses of something other than a password.
func guesses(purpose, peer string) limit {
	return limit{throttleKey("guess", purpose, network(peer)), maxGuesses, false}
}

// CountGuess counts a guess of a secret that is short enough to be guessed, before it is
// looked at: purpose says of what. It returns a *ThrottledError after 20 within a quarter
// of an hour from one network.
func (s *Service) CountGuess(ctx context.Context, purpose, peer string) error {
	err := s.db.Update(ctx, func(tx storage.Tx) error { return s.count(tx, guesses(purpose, peer)) })
	if err != nil {
		return fmt.Errorf("count guess: %w", err)
	}
	return nil
}

// ForgiveGuess takes back what CountGuess counted: the guess was right.
func (s *Service) ForgiveGuess(ctx context.Context, purpose, peer string) error {
	err := s.db.Update(ctx, func(tx storage.Tx) error { return s.takeBack(tx, guesses(purpose, peer)) })
	if err != nil {
		return fmt.Errorf("forgive guess: %w", err)
	}
	return nil
}

// failuresOf returns the counter of key, or a new one if its window is over.
func (s *Service) failuresOf(tx storage.Tx, key string) (failures, error) {
	now := s.now().UTC()
	f, err := loginFailures.Get(tx, key)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return failures{}, err
	}
	if err != nil || !now.Before(f.end()) {
		return failures{Key: key, Until: now.Add(throttleWindow)}, nil
	}
	if !now.Before(f.Until) {
		return failures{Key: key, Until: now.Add(throttleWindow), Strikes: f.Strikes}, nil
	}
	return f, nil
}

// pruneFailures removes counters whose window is over.
func (s *Service) pruneFailures(ctx context.Context) error {
	const most = 1000 // in one transaction
	for {
		removed := 0
		err := s.db.Update(ctx, func(tx storage.Tx) error {
			removed = 0
			var over []string
			for f, err := range loginFailures.Ascend(tx, failuresByEnd, "", sortable(s.now()), most) {
				if err != nil {
					return err
				}
				over = append(over, f.Key)
			}
			for _, key := range over {
				if err := loginFailures.Delete(tx, key); err != nil {
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
