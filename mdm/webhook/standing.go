package webhook

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// standing is how a target does, as of the last request. What is usual changes nothing in
// it, so that deliveries to one target rarely meet there.
type standing struct {
	Target   string `json:"target"`
	Failures int    `json:"failures,omitempty"` // in a row

	FailingSince time.Time `json:"failing_since,omitzero"`
	PausedUntil  time.Time `json:"paused_until,omitzero"` // nothing is sent before
	ProbeUntil   time.Time `json:"probe_until,omitzero"`  // one is on its way to a target that is only probed
	RetryFrom    time.Time `json:"retry_from,omitzero"`   // what was last tried before need not wait for its time
	LastError    string    `json:"last_error,omitempty"`
	LastErrorAt  time.Time `json:"last_error_at,omitzero"`
	LastTakenAt  time.Time `json:"last_taken_at,omitzero"` // to the minute
	Alarmed      bool      `json:"alarmed,omitempty"`      // webhook.failing was recorded
	GaveUpAt     time.Time `json:"gave_up_at,omitzero"`    // when that was last told of

	Dropped   int       `json:"dropped,omitempty"` // deliveries, as too many waited
	DroppedAt time.Time `json:"dropped_at,omitzero"`
}

var standings = storage.NewCollection("webhook.standing", 1, func(s standing) string { return s.Target })

func standingOf(tx storage.Tx, target string) (standing, error) {
	st, err := standings.Get(tx, target)
	if errors.Is(err, storage.ErrNotFound) {
		return standing{Target: target}, nil
	}
	return st, err
}

const (
	// pauseAfter failures in a row nothing more is sent to a target for a while, and then one
	// delivery at a time until it takes one.
	pauseAfter = 3
	maxPause   = 10 * time.Minute
	maxAsked   = time.Hour       // that Retry-After can put off
	alarmAfter = 5 * time.Minute // of failing
	takenEvery = time.Minute     // LastTakenAt is that exact

	// retryWithin is how long after RetryFrom something may wait that was tried before: longer
	// than the last step of the ladder.
	retryWithin = 8 * time.Hour
	tellGaveUp  = time.Hour
)

// paused says that the target has failed so often that it is only probed.
func (st standing) paused() bool { return st.Failures >= pauseAfter }

// heldUntil is when something may be sent next.
func (st standing) heldUntil() time.Time {
	if st.paused() && st.ProbeUntil.After(st.PausedUntil) {
		return st.ProbeUntil
	}
	return st.PausedUntil
}

// due is when a delivery can go: at once if the target has come back since it was tried.
func (st standing) due(d Delivery) time.Time {
	if n := len(d.Attempts); n > 0 && d.Attempts[n-1].At.Before(st.RetryFrom) {
		return time.Time{}
	}
	return d.Due
}

// failed takes note of a failure.
func (st *standing) failed(at time.Time, why string, retryAfter time.Duration) {
	if st.Failures == 0 {
		st.FailingSince = at
	}
	st.Failures++
	st.LastError, st.LastErrorAt = why, at
	var pause time.Duration
	if st.paused() {
		pause = jitter(min(ladder[min(st.Failures-pauseAfter, len(ladder)-1)], maxPause))
	}
	pause = max(pause, min(retryAfter, maxAsked))
	if until := at.Add(pause); pause > 0 && until.After(st.PausedUntil) {
		st.PausedUntil = until
	}
}

// took takes note of a success, and says whether there is anything to write.
func (st *standing) took(at time.Time) (news bool) {
	news = st.Failures > 0 || at.Sub(st.LastTakenAt) >= takenEvery
	st.Failures, st.FailingSince, st.PausedUntil, st.LastTakenAt = 0, time.Time{}, time.Time{}, at
	return news
}

// forgiveHealth lets a target be tried at once, with all that waits, whatever was.
func forgiveHealth(tx storage.Tx, target string, now time.Time) error {
	st, err := standings.Get(tx, target)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	st.Failures, st.PausedUntil, st.ProbeUntil, st.RetryFrom = 0, time.Time{}, time.Time{}, now
	return errors.Join(standings.Put(tx, st), tx.Notify(queueTopic(target)))
}

// jitter is d, give or take a fifth, so that what failed together is not repeated together.
func jitter(d time.Duration) time.Duration { return d - d/5 + rand.N(2*d/5+1) }

// Standing is how a target does, and what waits for it.
type Standing struct {
	Waiting  int       // deliveries; at most as many as were counted
	Oldest   time.Time // when the first of them came up; zero: none waits
	GivenUp  int       // dead deliveries, likewise
	Failures int       // requests in a row

	FailingSince time.Time
	PausedUntil  time.Time // nothing is sent before
	LastError    string
	LastErrorAt  time.Time
	LastTakenAt  time.Time // to the minute
	Dropped      int       // deliveries that were left out, as too many waited
	DroppedAt    time.Time
}

// Standing returns how a target does. Deliveries are counted up to most.
func (s *Service) Standing(ctx context.Context, target string, most int) (out Standing, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		st, err := standingOf(tx, target)
		if err != nil {
			return err
		}
		out = Standing{
			Failures: st.Failures, FailingSince: st.FailingSince, PausedUntil: st.PausedUntil, LastError: st.LastError, LastErrorAt: st.LastErrorAt,
			LastTakenAt: st.LastTakenAt, Dropped: st.Dropped, DroppedAt: st.DroppedAt,
		}
		if !out.PausedUntil.After(s.now()) {
			out.PausedUntil = time.Time{}
		}
		waiting, err := countEntries(tx, byWaiting, target, most)
		if err != nil {
			return err
		}
		late, err := countEntries(tx, byAside, target, most)
		if err != nil {
			return err
		}
		out.Waiting = min(waiting+late, most)
		if out.GivenUp, err = countEntries(tx, byDead, target, most); err != nil {
			return err
		}
		for d, err := range deliveries.Lookup(tx, byWaiting, target) {
			if err != nil {
				return err
			}
			out.Oldest = d.CreatedAt
			break
		}
		for d, err := range deliveries.Ascend(tx, byAside, string(storage.Key(target)), asideValue(target, endOfTime), 1000) {
			if err != nil {
				return err
			}
			if out.Oldest.IsZero() || d.CreatedAt.Before(out.Oldest) {
				out.Oldest = d.CreatedAt
			}
		}
		return nil
	})
	if err != nil {
		return Standing{}, fmt.Errorf("standing of webhook: %w", err)
	}
	return out, nil
}

// endOfTime is after all times that are kept.
var endOfTime = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// countEntries counts deliveries to a target in an index, up to most.
func countEntries(tx storage.Tx, index, target string, most int) (n int, err error) {
	prefix := storage.KeyPrefix(target)
	if index == byAside {
		// Its values are keys themselves, of which the target is the first part.
		whole := storage.KeyPrefix(string(storage.KeyPrefix(target)))
		prefix = whole[:len(whole)-2] // the outer part goes on
	}
	for _, err := range tx.Scan("webhook.delivery."+index, storage.Range{Prefix: prefix, Limit: most}) {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}
