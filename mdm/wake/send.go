package wake

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Waits after pushes that Apple did not take.
const (
	firstRetry   = time.Second      // of one device
	lastRetry    = 20 * time.Second // of one device, for as long as retryQuick
	retryQuick   = 10               // tries
	slowRetry    = 15 * time.Minute
	firstRefused = 30 * time.Minute
	lastRefused  = 24 * time.Hour
	maxRefused   = 14 // tries of a refused device, which take it about ten days
	firstTooMany = 5 * time.Minute
	lastTooMany  = 6 * time.Hour

	tooManyRequests = 429
)

// send pushes jobs, all of one topic, and writes down what came of it.
func (s *Service) send(ctx context.Context, topic string, jobs []job) ([]apns.Result, error) {
	pushes := make([]apns.Push, len(jobs))
	for i, j := range jobs {
		pushes[i] = j.push
	}
	var certificate string // as it is before: what Apple says is about this one
	err := s.db.View(ctx, func(tx storage.Tx) (err error) {
		certificate, err = s.certificate(tx, topic)
		return err
	})
	results := make([]apns.Result, len(jobs))
	if err != nil {
		return results, fmt.Errorf("push by %s: %w", topic, err)
	}
	for i := range results {
		results[i] = apns.Result{Outcome: apns.Retry, Reason: "Unsent", Detail: "the server was stopped"}
	}
	pushing, cancel := context.WithTimeout(ctx, sendLimit)
	s.pusherOf(topic).Push(pushing, topic, pushes, func(i int, r apns.Result) {
		results[i] = r
		s.count(string(r.Outcome))
	})
	cancel()
	stopped := ctx.Err() != nil
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return results, s.record(ctx, topic, certificate, jobs, results, stopped)
}

// record writes down what came of jobs.
func (s *Service) record(ctx context.Context, topic, certificate string, jobs []job, results []apns.Result, stopped bool) error {
	t := tallyOf(jobs, results, stopped)
	t.certificate = certificate
	var changed *mdm.Pushing
	dead := 0
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		changed, dead = nil, 0
		tx.Prefetch(mdm.ReadPushing(topic), ReadSettings())
		for i, j := range jobs {
			tx.Prefetch(mdm.ReadWakeup(j.device))
			if results[i].Outcome == apns.TokenInvalid {
				tx.Prefetch(mdm.ReadDevice(j.device))
			}
		}
		set, err := GetSettings(tx)
		if err != nil {
			return err
		}
		was, err := mdm.GetPushing(tx, topic)
		if err != nil {
			return err
		}
		t.paused = was.Trouble == mdm.PushUnreachable
		for i, j := range jobs {
			died, err := s.settle(tx, j, results[i], set, t, stopped)
			if err != nil {
				return err
			}
			if died {
				dead++
			}
		}
		changed, err = s.judgeTopic(tx, was, t)
		return err
	})
	if err != nil {
		return fmt.Errorf("note what became of %d pushes: %w", len(jobs), err)
	}
	for i, j := range jobs {
		if r := results[i]; r.Ours {
			s.log.ErrorContext(ctx, "push was wrong", "device", j.device, "topic", topic, "status", r.Status, "reason", r.Reason)
		}
	}
	s.log.DebugContext(ctx, "pushed", "topic", topic, "sent", t.sent, "retry", t.retry, "refused", t.refused, "dead_tokens", dead)
	if changed != nil {
		s.tellTopic(ctx, *changed)
	}
	return nil
}

// settle writes down what became of one push, and says whether its token is dead.
func (s *Service) settle(tx storage.Tx, j job, r apns.Result, set Settings, t tally, stopped bool) (dead bool, err error) {
	w, err := mdm.GetWakeup(tx, j.device)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if w.State != mdm.WakeSending || w.Claim != j.claim {
		return false, nil // it was taken for lost, or somebody has asked for a push meanwhile
	}
	now := s.now().UTC()
	w.Claim, w.Status, w.Reason = "", r.Status, r.Reason
	if w.To != j.to && r.Outcome != apns.Sent { // the device has told another token meanwhile
		w.State, w.NextAt, w.Tries = mdm.WakeDue, now, 0
		return false, mdm.PutWakeup(tx, w)
	}
	switch r.Outcome {
	case apns.Sent:
		// Taken before it was sent: what was queued since may not have been there when the
		// device came.
		w.PushedAt, w.Reason, w.Tries, w.Forced = w.TriedAt, "", 0, false
		w.Pushes++
		switch {
		case w.AskedAt.After(w.TriedAt):
			w.State, w.NextAt = mdm.WakeDue, now
		case !w.PutOffAt.Before(w.TriedAt):
			w.State, w.NextAt = mdm.WakeSent, now.Add(firstNotNow)
		case j.notNow > 0:
			w.State, w.NextAt = mdm.WakeSent, now.Add(notNowDelay(max(j.notNow, w.Repeats)+1))
		default:
			w.State, w.NextAt = mdm.WakeSent, now.Add(repeatDelay(set, w.Pushes))
		}
	case apns.TokenInvalid:
		w.Tries++
		w.Forced = false
		return s.tokenInvalid(tx, w, j, r)
	case apns.Refused:
		if r.Whole {
			w.State, w.NextAt = mdm.WakeRetry, now
			break
		}
		w.Tries++
		w.Forced = false
		switch {
		case r.Ours, w.Tries > maxRefused:
			w.State, w.NextAt = mdm.WakeGivenUp, now.Add(idleCheck)
		default:
			w.State, w.NextAt = mdm.WakeRefused, now.Add(jitter(min(firstRefused<<min(w.Tries-1, 8), lastRefused)))
		}
	default:
		switch {
		case stopped: // nothing is known, and nobody waits
			w.State, w.NextAt = mdm.WakeDue, now
			if w.PushedAt.After(w.AskedAt) {
				w.State = mdm.WakeRetry
			}
			return false, mdm.PutWakeup(tx, w)
		case t.unreachable(): // that is not counted against the device
			w.State, w.NextAt = mdm.WakeRetry, now // the topic's pause is the wait
		default:
			w.Tries++
			w.State, w.NextAt = mdm.WakeRetry, now.Add(retryDelay(r, w.Tries))
		}
	}
	return false, mdm.PutWakeup(tx, w)
}

// tokenInvalid writes down that Apple knows no device with the token: which is true unless
// the device has told a token since the time that Apple speaks of.
func (s *Service) tokenInvalid(tx storage.Tx, w mdm.Wakeup, j job, r apns.Result) (dead bool, err error) {
	now := s.now().UTC()
	d, err := mdm.GetDevice(tx, w.DeviceID)
	if errors.Is(err, storage.ErrNotFound) {
		return false, mdm.DeleteWakeup(tx, w.DeviceID)
	}
	if err != nil {
		return false, err
	}
	since := r.Timestamp
	if since.IsZero() {
		since = w.TriedAt
	}
	switch {
	case d.Push == nil || string(d.Push.Token) != string(j.push.Token):
		w.State, w.NextAt = mdm.WakeDue, now // there is another token
		w.PushedAt = time.Time{}
		return false, mdm.PutWakeup(tx, w)
	case !since.After(d.Push.ToldAt):
		w.State, w.NextAt = mdm.WakeRefused, now.Add(jitter(min(firstRefused<<min(w.Tries-1, 8), lastRefused)))
		if w.Tries > maxRefused {
			w.State, w.NextAt = mdm.WakeGivenUp, now.Add(idleCheck)
		}
		return false, mdm.PutWakeup(tx, w)
	}
	if !d.Push.DeadAt.IsZero() { // it was known
		w.State, w.NextAt = mdm.WakeDead, now.Add(idleCheck)
		return false, mdm.PutWakeup(tx, w)
	}
	push := *d.Push
	push.DeadAt = now
	d.Push = &push
	w.State, w.NextAt = mdm.WakeDead, now.Add(idleCheck)
	return true, errors.Join(
		mdm.PutDevice(tx, d),
		mdm.PutWakeup(tx, w),
		event.Record(tx, event.Event{
			At: now, Actor: ourselves, Action: "device.push_token_dead", Outcome: event.Failed, DeviceID: string(d.ID), User: d.User,
			Reason:  "Apple knows no device with this push token any more: the profile was removed, or the device was erased or is long unused.",
			Details: map[string]string{"topic": d.Push.Topic, "reason": r.Reason},
		}),
	)
}

const ourselves = "server"

// retryDelay is how long a device waits after so many tries that did not go.
func retryDelay(r apns.Result, tries int) time.Duration {
	d := min(firstRetry<<min(tries-1, 20), lastRetry)
	switch {
	case r.Status == tooManyRequests:
		d = min(firstTooMany<<min(tries-1, 10), lastTooMany)
	case tries > retryQuick:
		d = slowRetry
	}
	if r.RetryAfter > 0 && r.RetryAfter < lastTooMany {
		d = max(d, r.RetryAfter)
		if r.Status == tooManyRequests {
			d = r.RetryAfter
		}
	}
	return jitter(d)
}

// jitter is d or up to an eighth more, so that what failed together does not come together.
func jitter(d time.Duration) time.Duration { return d + rand.N(d/8+1) }
