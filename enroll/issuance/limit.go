package issuance

import (
	"context"
	"encoding/hex"
	"errors"
	"net/netip"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Limits count in the database, so that neither a restart nor another replica gives
// anybody a fresh start.
const (
	guessWindow = 15 * time.Minute
	maxGuesses  = 20 // wrong challenges from one network in a window, for one template

	quotaWindow = time.Minute
	maxSelf     = 30  // certificates that one user may ask for in a minute, for themself
	maxAny      = 600 // certificates that a token for anybody's may ask for in a minute
	maxReissue  = 10  // that one certificate may be replaced by in an hour
	maxStatic   = 600 // certificates for one static challenge in a minute, from one network
)

// counter counts in a window that began with the first one.
type counter struct {
	Key       string    `json:"key"` // a hash: strangers choose what is counted
	Count     int       `json:"count"`
	ExpiresAt time.Time `json:"expires_at"` // end of the window; then the record is void
}

var counters = storage.NewCollection("issuance.counters", 1,
	func(c counter) string { return c.Key },
	storage.Index[counter]{Name: byExpiry, Values: func(c counter) []string { return []string{sortable(c.ExpiresAt)} }},
)

func counterKey(parts ...string) string { return hex.EncodeToString(digest(storage.Key(parts...))) }

func (s *Service) counted(tx storage.Tx, key string, window time.Duration) (counter, error) {
	now := s.now().UTC()
	c, err := counters.Get(tx, key)
	if errors.Is(err, storage.ErrNotFound) || err == nil && !now.Before(c.ExpiresAt) {
		return counter{Key: key, ExpiresAt: now.Add(window)}, nil
	}
	return c, err
}

// quota is how many certificates there may be of a kind in a window.
type quota struct {
	key    string
	most   int
	window time.Duration
}

// within returns a *depot.QuotaError if q is used up.
func (s *Service) within(tx storage.Tx, q *quota) error {
	if q == nil {
		return nil
	}
	c, err := s.counted(tx, q.key, q.window)
	if err == nil && c.Count >= q.most {
		return &depot.QuotaError{RetryAfter: c.ExpiresAt.Sub(s.now())}
	}
	return err
}

// spend counts one in q.
func (s *Service) spend(tx storage.Tx, q *quota) error {
	if q == nil {
		return nil
	}
	c, err := s.counted(tx, q.key, q.window)
	if err != nil {
		return err
	}
	c.Count++
	return counters.Put(tx, c)
}

// count counts one, or returns a *depot.QuotaError if there were most already.
func (s *Service) count(ctx context.Context, key string, most int, window time.Duration) error {
	return s.db.Update(ctx, func(tx storage.Tx) error {
		c, err := s.counted(tx, key, window)
		if err != nil {
			return err
		}
		if c.Count >= most {
			return &depot.QuotaError{RetryAfter: c.ExpiresAt.Sub(s.now())}
		}
		c.Count++
		return counters.Put(tx, c)
	})
}

// network is the part of a peer's address that one attacker has for sure: the address,
// or the /64 of an IPv6 one.
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

func guessKey(name, peer string) string { return counterKey("guess", name, network(peer)) }

// mayGuess returns an ErrQuota if a network has shown too many wrong challenges to be
// believed that the next one is not a guess.
func (s *Service) mayGuess(tx storage.Tx, name, peer string) error {
	c, err := s.counted(tx, guessKey(name, peer), guessWindow)
	if err == nil && c.Count >= maxGuesses {
		return &depot.QuotaError{RetryAfter: c.ExpiresAt.Sub(s.now())}
	}
	return err
}

func (s *Service) countGuess(ctx context.Context, name, peer string) error {
	err := s.count(ctx, guessKey(name, peer), maxGuesses, guessWindow)
	if errors.Is(err, depot.ErrQuota) {
		return nil
	}
	return err
}
