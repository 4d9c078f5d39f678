package identity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Failed logins are counted in the database, so that neither a restart nor
// another replica gives an attacker a fresh start, and before the password is
// checked, so that many at once don't slip through.
const (
	throttleWindow = 15 * time.Minute

	maxPairFailures    = 8   // of one account from one peer
	maxPeerFailures    = 60  // from one peer, whatever the account
	maxAccountFailures = 200 // of one account, from peers that never logged in to it

	// maxGuesses is of other secrets than passwords, such as short codes: from one peer.
	maxGuesses = 20

	// maxThrottle is the longest that one peer waits for one account: each time that the
	// limit is met the wait doubles, until nothing was tried for strikesLife.
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
	login, peer string
	step        string // empty: with the password; else what comes after it, and is counted by itself
}

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
func (a loginAttempt) pair() string    { return throttleKey(a.step+"pair", a.login, network(a.peer)) }
func (a loginAttempt) peerKey() string { return throttleKey(a.step+"peer", network(a.peer)) }
func (a loginAttempt) account() string { return throttleKey(a.step+"account", a.login) }
func (a loginAttempt) known() string   { return throttleKey(a.step+"known", a.login, network(a.peer)) }

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

// limits are what an attempt counts for. That of one account from one peer alone grows:
// strangers elsewhere have no part in it, and neighbours behind the same address none.
func (s *Service) limits(tx storage.Tx, a loginAttempt) ([]limit, error) {
	known, err := s.failuresOf(tx, a.known())
	if err != nil {
		return nil, err
	}
	limits := []limit{{a.pair(), maxPairFailures, true}, {a.peerKey(), maxPeerFailures, false}}
	if known.Count == 0 {
		limits = append(limits, limit{a.account(), maxAccountFailures, false})
	}
	return limits, nil
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
	if err := loginFailures.Delete(tx, a.pair()); err != nil {
		return err
	}
	return loginFailures.Put(tx, failures{Key: a.known(), Count: 1, Until: s.now().UTC().Add(knownPeerLife)})
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
