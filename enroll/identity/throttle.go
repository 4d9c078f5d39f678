package identity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
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

	// knownPeerLife is how long a peer that logged in to an account is not held up
	// by what others do to it: a stranger must not lock the owner out.
	knownPeerLife = 30 * 24 * time.Hour
)

// failures counts the attempts of a window that began with the first one.
type failures struct {
	Key   string    `json:"key"`
	Count int       `json:"count"`
	Until time.Time `json:"until"` // end of the window; then the record is void
}

const failuresByEnd = "until"

var loginFailures = storage.NewCollection("identity.login_failures", 1, func(f failures) string { return f.Key },
	storage.Index[failures]{Name: failuresByEnd, Values: func(f failures) []string { return []string{sortable(f.Until)} }})

// sortable formats t so that texts sort as times do.
func sortable(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z") }

// loginAttempt is one try to log in.
type loginAttempt struct{ login, peer string }

// network is the part of the peer's address that one attacker has for sure: the
// address, or the /64 of an IPv6 one.
func (a loginAttempt) network() string {
	addr, err := netip.ParseAddr(a.peer)
	if err != nil || addr.Is4() || addr.Is4In6() {
		return a.peer
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return a.peer
	}
	return prefix.String()
}

// The records of an attempt. Names are hashed: strangers choose them freely.
func (a loginAttempt) pair() string    { return throttleKey("pair", a.login, a.network()) }
func (a loginAttempt) peerKey() string { return throttleKey("peer", a.network()) }
func (a loginAttempt) account() string { return throttleKey("account", a.login) }
func (a loginAttempt) known() string   { return throttleKey("known", a.login, a.network()) }

func throttleKey(parts ...string) string {
	sum := sha256.Sum256(storage.Key(parts...))
	return hex.EncodeToString(sum[:])
}

// countAttempt counts an attempt as failed, or returns ErrThrottled if there were
// too many.
func (s *Service) countAttempt(ctx context.Context, a loginAttempt) error {
	return s.db.Update(ctx, func(tx storage.Tx) error {
		known, err := s.failuresOf(tx, a.known())
		if err != nil {
			return err
		}
		limits := map[string]int{a.pair(): maxPairFailures, a.peerKey(): maxPeerFailures}
		if known.Count == 0 {
			limits[a.account()] = maxAccountFailures
		}
		for key, most := range limits {
			f, err := s.failuresOf(tx, key)
			if err != nil {
				return err
			}
			if f.Count >= most {
				return ErrThrottled
			}
			f.Count++
			if err := loginFailures.Put(tx, f); err != nil {
				return err
			}
		}
		return nil
	})
}

// forgiveAttempts takes back what countAttempt counted before a login that
// succeeded, and remembers the peer.
func (s *Service) forgiveAttempts(tx storage.Tx, a loginAttempt) error {
	if err := loginFailures.Delete(tx, a.pair()); err != nil {
		return err
	}
	known, err := s.failuresOf(tx, a.known())
	if err != nil {
		return err
	}
	counted := []string{a.peerKey()}
	if known.Count == 0 {
		counted = append(counted, a.account())
	}
	for _, key := range counted {
		f, err := s.failuresOf(tx, key)
		if err != nil {
			return err
		}
		if f.Count--; f.Count <= 0 {
			if err := loginFailures.Delete(tx, key); err != nil {
				return err
			}
		} else if err := loginFailures.Put(tx, f); err != nil {
			return err
		}
	}
	return loginFailures.Put(tx, failures{Key: a.known(), Count: 1, Until: s.now().UTC().Add(knownPeerLife)})
}

// failuresOf returns the counter of key, or a new one if its window is over.
func (s *Service) failuresOf(tx storage.Tx, key string) (failures, error) {
	now := s.now().UTC()
	f, err := loginFailures.Get(tx, key)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return failures{}, err
	}
	if err != nil || !now.Before(f.Until) {
		return failures{Key: key, Until: now.Add(throttleWindow)}, nil
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
