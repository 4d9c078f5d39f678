package ocsp

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"sync"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
)

const (
	// sureFor is how long what was known of revocations counts as known, without news.
	sureFor = time.Second

	// maxAnswers is how many answers are kept for each authority, of about 1 KB.
	maxAnswers = 4096
)

// shelves hold the answers that are ready, by authority.
type shelves struct {
	mu       sync.Mutex
	byIssuer map[issuerID]*shelf
	byID     map[string]*shelf
	changed  <-chan struct{} // news of a revocation, of whatever authority
	news     int             // how often there was some
}

// shelf holds the answers of one authority. They are good as long as the number of
// its CRL is the one that they go with.
type shelf struct {
	authority *depot.Authority
	names     []issuerID

	// Guarded by shelves.mu.
	number    int64
	sureAt    time.Time // when number was last known to be current; zero: it is not
	answers   map[string]answer
	responder *depot.Responder
}

func (s *shelf) named(id issuerID) bool {
	for _, name := range s.names {
		if name == id {
			return true
		}
	}
	return false
}

// shelf returns the shelf of the authority that a request names, nil if there is
// none. Authorities that were not there the last time are found, too.
func (h *shelves) shelf(d *depot.Depot, id issuerID) *shelf {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.byIssuer[id]; s != nil || id.hash == 0 {
		return s
	}
	if h.byID == nil {
		h.byIssuer, h.byID = map[issuerID]*shelf{}, map[string]*shelf{}
	}
	for _, a := range d.Authorities() {
		if h.byID[a.ID()] != nil {
			continue
		}
		names, err := namesOf(a)
		if err != nil {
			continue // none of ours is like that
		}
		s := &shelf{authority: a, names: names, answers: map[string]answer{}}
		h.byID[a.ID()] = s
		for _, name := range names {
			h.byIssuer[name] = s
		}
	}
	return h.byIssuer[id]
}

// take returns a ready answer if it is certain that it is still true. It also returns
// how much news there was so far, for learn.
func (h *shelves) take(s *shelf, key string, now time.Time) (a answer, ok bool, news int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.changed:
		h.news++
		for _, each := range h.byID {
			each.sureAt = time.Time{}
		}
	default:
	}
	a, ok = s.answers[key]
	age := now.Sub(s.sureAt)
	if !ok || s.sureAt.IsZero() || age < 0 || age >= sureFor || a.number != s.number {
		return answer{}, false, h.news
	}
	// A clock that was set back must not hand out what was said in the future.
	if now.Before(a.at) || now.Sub(a.at) >= handOut || !now.Before(a.next) {
		delete(s.answers, key)
		return answer{}, false, h.news
	}
	return a, true, h.news
}

// learn notes which CRL was current at a time. It is not certain any more if there
// was news since: the database may have been asked before that.
func (h *shelves) learn(s *shelf, number int64, at time.Time, news int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if number < s.number {
		return // another request has learned of a later one
	}
	if number > s.number {
		s.number = number
		s.responder = nil // it may be its certificate that was revoked
		clear(s.answers)
	}
	if news == h.news {
		s.sureAt = at
	}
}

// put keeps an answer, if it is still of the time, and returns it with an entity tag.
func (h *shelves) put(s *shelf, key string, a answer) answer {
	sum := sha256.Sum256(a.der)
	a.tag = `"` + hex.EncodeToString(sum[:16]) + `"`
	h.mu.Lock()
	defer h.mu.Unlock()
	if a.number != s.number {
		return a
	}
	for other := range s.answers {
		if len(s.answers) < maxAnswers {
			break
		}
		delete(s.answers, other) // any
	}
	s.answers[key] = a
	return a
}

// responder returns who signs for an authority.
func (h *Handler) responder(ctx context.Context, s *shelf, now time.Time) (*depot.Responder, error) {
	h.mu.Lock()
	r, number := s.responder, s.number
	h.mu.Unlock()
	if r != nil && now.Before(r.RenewAt()) && !now.Before(r.Certificate().NotBefore) {
		return r, nil
	}
	r, err := h.depot.Responder(ctx, s.authority)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.number == number {
		s.responder = r
	}
	return r, nil
}
