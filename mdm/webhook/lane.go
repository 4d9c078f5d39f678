package webhook

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// A lane sends what waits for one target: in order for each device, several devices at a
// time. There is one in each process. They share the work by claims, which end by
// themselves: a claim outlasts by far what a request may take, so that only the death of a
// process, or clocks that differ by most of it, have something sent twice.
const (
	laneWidth = 8                // requests to one target at a time, in one process
	window    = 500              // deliveries that are looked at for those that can go
	claimTime = 90 * time.Second // well over Config.Patience
)

// runLanes keeps a lane for every target that is on, until ctx ends.
func (s *Service) runLanes(ctx context.Context) error {
	changed, stop := s.db.Watch(targetsTopic)
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	running := make(map[string]context.CancelFunc)
	defer func() {
		for _, end := range running {
			end()
		}
	}()
	for {
		wait := lookEvery
		all, err := s.Targets(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			s.log.WarnContext(ctx, "webhooks can't be read", "err", err)
			wait = retryTime
		default:
			on := make(map[string]bool)
			for _, t := range all {
				on[t.ID] = t.Enabled
				if t.Enabled && running[t.ID] == nil {
					laneCtx, end := context.WithCancel(ctx)
					running[t.ID] = end
					wg.Go(func() { s.runLane(laneCtx, t.ID) })
				}
			}
			for id, end := range running {
				if !on[id] {
					end()
					delete(running, id)
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(wait):
		}
	}
}

// runLane sends what waits for one target until ctx ends; what is on its way then has a
// moment to get there.
func (s *Service) runLane(ctx context.Context, target string) {
	changed, stop := s.db.Watch(queueTopic(target))
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	done := make(chan struct{}, laneWidth)
	busy := 0
	var w walk
	for {
		wait := lookEvery
		if busy < laneWidth {
			claimed, next, err := s.claim(ctx, target, &w, laneWidth-busy)
			switch {
			case ctx.Err() != nil:
				s.release(claimed)
				return
			case err != nil:
				s.log.WarnContext(ctx, "webhook waits for the database", "webhook", target, "err", err)
				wait = retryTime
			case !next.IsZero():
				wait = max(0, min(wait, next.Sub(s.now())))
			}
			for _, d := range claimed {
				busy++
				wg.Go(func() {
					s.deliver(ctx, d)
					done <- struct{}{}
				})
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-changed:
		case <-done:
			busy--
		case <-timer.C:
		}
		timer.Stop()
		for drained := false; !drained; { // what else is done by now
			select {
			case <-done:
				busy--
			default:
				drained = true
			}
		}
	}
}

// claimed is a delivery that this process is to send.
type claimed struct {
	Delivery
	target Target
}

// walk is how far a lane has looked through the deliveries that wait for its target, window
// by window: those of one device may fill many, and hold up no others.
type walk struct {
	after   string          // the last one that was looked at; empty: a walk begins
	blocked map[string]bool // devices of which one was met: the others wait for it
	next    time.Time       // when the first of those can go that could not
}

func (w *walk) soonest(at time.Time) {
	if w.next.IsZero() || at.Before(w.next) {
		w.next = at
	}
}

// claim takes up to so many deliveries that can go now, and goes on with the walk until there
// are some. next is when to look again, if that is known.
func (s *Service) claim(ctx context.Context, target string, w *walk, most int) (all []claimed, next time.Time, err error) {
	var picked []Delivery
	for whole := false; ; {
		whole = whole || w.after == ""
		var after walk
		held := false
		err = s.db.View(ctx, func(tx storage.Tx) error {
			after = walk{after: w.after, blocked: maps.Clone(w.blocked), next: w.next}
			picked, held, err = s.pick(tx, target, &after, most)
			return err
		})
		if err != nil {
			return nil, next, err
		}
		*w = after
		if len(picked) > 0 || held || w.after == "" && whole {
			break
		}
	}
	next = w.next
	if len(picked) == 0 {
		return nil, next, nil
	}
	if w.after != "" {
		next = s.now() // there are more to look at
	}
	claim := rand.Text()
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		all = nil
		t, err := targets.Get(tx, target)
		if errors.Is(err, storage.ErrNotFound) || err == nil && !t.Enabled {
			return nil
		}
		if err != nil {
			return err
		}
		st, err := standingOf(tx, target)
		now := s.now()
		if err != nil || st.heldUntil().After(now) {
			return err
		}
		// What was picked may have been taken meanwhile; nothing older of its device can have
		// come up, so that there is no need to look for it again.
		for _, picked := range picked {
			d, err := deliveries.Get(tx, deliveryKey(picked))
			if errors.Is(err, storage.ErrNotFound) || err == nil && (d.State != Pending || d.ClaimedUntil.After(now) || st.due(d).After(now)) {
				continue
			}
			if err != nil {
				return err
			}
			d.Claim, d.ClaimedUntil = claim, now.UTC().Add(claimTime)
			if err := deliveries.Put(tx, d); err != nil {
				return err
			}
			all = append(all, claimed{Delivery: d, target: t})
			if st.paused() {
				st.ProbeUntil = d.ClaimedUntil // one is enough to find out
				return standings.Put(tx, st)
			}
		}
		return nil
	})
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("claim: %w", err)
	}
	return all, next, nil
}

// pick finds deliveries that can go now in the next window of a walk, and when the next one
// can that can't. Of each device the oldest goes first, and the others wait for it, until it
// has failed so often that it stands aside. Nothing is sent to a target that is held.
func (s *Service) pick(tx storage.Tx, target string, w *walk, most int) (picked []Delivery, held bool, err error) {
	now := s.now()
	st, err := standingOf(tx, target)
	if err != nil {
		return nil, false, err
	}
	if until := st.heldUntil(); until.After(now) {
		w.next = until
		return nil, true, nil
	}
	probing, inHand := st.paused(), false
	if probing {
		most = window // to choose of
	}
	begins, from, last := w.after == "", w.after, ""
	if begins {
		w.blocked, w.next = make(map[string]bool), time.Time{}
	}
	w.after = ""
	looked := 0
	for d, err := range storage.LookupAfter(tx, deliveries, byWaiting, target, from) {
		if err != nil {
			return nil, false, err
		}
		if len(picked) == most {
			break
		}
		if looked++; looked > window {
			w.after = last
			break
		}
		last = deliveryKey(d)
		switch {
		case d.ClaimedUntil.After(now):
			inHand = true
			w.soonest(d.ClaimedUntil)
		case d.DeviceID != "" && w.blocked[d.DeviceID]:
		case st.due(d).After(now):
			w.soonest(d.Due)
		default:
			picked = append(picked, d)
		}
		if d.DeviceID != "" {
			w.blocked[d.DeviceID] = true
		}
	}
	if !begins { // what stands aside was looked at
		return s.chosen(picked, probing, inHand)
	}
	for d, err := range deliveries.Ascend(tx, byAside, string(storage.KeyPrefix(target)), asideValue(target, endOfTime), window) {
		if err != nil {
			return nil, false, err
		}
		if d.ClaimedUntil.After(now) {
			inHand = true
			w.soonest(d.ClaimedUntil)
		} else if st.due(d).After(now) {
			w.soonest(d.Due)
			if now.Sub(st.RetryFrom) > retryWithin {
				break // those behind are due later
			}
		} else if len(picked) < most {
			picked = append(picked, d)
		}
	}
	return s.chosen(picked, probing, inHand)
}

// chosen returns what is sent of what can go: one to a target that is only probed.
func (s *Service) chosen(picked []Delivery, probing, inHand bool) (all []Delivery, held bool, err error) {
	if !probing || len(picked) == 0 {
		return picked, false, nil
	}
	if inHand {
		return nil, true, nil // one is enough to find out
	}
	probe := picked[0]
	for _, d := range picked { // what was tried least, so that one that can't be taken stops no others
		if d.Tries < probe.Tries {
			probe = d
		}
	}
	return []Delivery{probe}, false, nil
}

const (
	finishTime = 10 * time.Second // for writing down what came of a request, also at shutdown
	leaveTime  = 2 * time.Second  // for a request that is on its way at shutdown
)

// CountBy has count told of every request: the ID of its target, and "delivered" or the Step
// at which it failed. It is for the time before Run.
func (s *Service) CountBy(count func(target, result string)) { s.counted = count }

// deliver sends one delivery, and writes down what came of it.
func (s *Service) deliver(ctx context.Context, c claimed) {
	sending, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(leaveTime, abort) })
	defer stop()
	out, err := s.sendClaimed(sending, c)
	switch {
	case sending.Err() != nil && out.Step != "":
		s.release([]claimed{c}) // nobody knows what became of it
		return
	case err != nil: // the database's: the claim ends, and then it is sent
		s.log.WarnContext(ctx, "webhook waits for the database", "webhook", c.Target, "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTime)
	defer cancel()
	if err := s.finish(ctx, c, out); err != nil {
		// The claim ends, and then it is sent again, under the same ID.
		s.log.WarnContext(ctx, "what became of a delivery was not written down", "webhook", c.Target, "delivery", c.ID, "err", err)
		return
	}
	if s.counted != nil {
		s.counted(c.Target, cmp.Or(string(out.Step), "delivered"))
	}
	if out.Step != "" {
		s.log.DebugContext(ctx, "webhook not delivered", "webhook", c.Target, "delivery", c.ID, "step", out.Step, "err", out.Error)
	}
}

// sendClaimed sends what a delivery says, which takes no longer than Config.Patience.
func (s *Service) sendClaimed(ctx context.Context, c claimed) (outcome, error) {
	var l letter
	err := s.db.View(ctx, func(tx storage.Tx) (err error) {
		l, err = s.letterOf(tx, c.Delivery)
		return err
	})
	if errors.Is(err, errUnreadable) {
		out := failed(StepPrepare, err)
		out.At, out.lost = s.now().UTC(), true
		return out, nil
	}
	if err != nil {
		return outcome{}, err
	}
	return s.send(ctx, c.target, c.ID, l, false), nil
}

// release gives back what was claimed and not sent.
func (s *Service) release(all []claimed) {
	if len(all) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), finishTime)
	defer cancel()
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		for _, c := range all {
			d, err := deliveries.Get(tx, deliveryKey(c.Delivery))
			if errors.Is(err, storage.ErrNotFound) || err == nil && d.Claim != c.Claim {
				continue
			}
			if err != nil {
				return err
			}
			d.Claim, d.ClaimedUntil = "", time.Time{}
			if err := deliveries.Put(tx, d); err != nil {
				return err
			}
		}
		st, err := standings.Get(tx, all[0].Target)
		if err == nil && !st.ProbeUntil.IsZero() {
			st.ProbeUntil = time.Time{}
			err = standings.Put(tx, st)
		}
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		return tx.Notify(queueTopic(all[0].Target))
	})
	if err != nil {
		s.log.WarnContext(ctx, "claims of a webhook are left to end", "webhook", all[0].Target, "err", err)
	}
}

// finish writes down what came of a delivery that was claimed.
func (s *Service) finish(ctx context.Context, c claimed, out outcome) error {
	return s.db.Update(ctx, func(tx storage.Tx) error {
		d, err := deliveries.Get(tx, deliveryKey(c.Delivery))
		if errors.Is(err, storage.ErrNotFound) || err == nil && d.Claim != c.Claim {
			return nil // it was deleted, or the claim ended and another goes on
		}
		if err != nil {
			return err
		}
		t, err := targets.Get(tx, c.Target)
		if errors.Is(err, storage.ErrNotFound) {
			return erase(tx, d)
		}
		if err != nil {
			return err
		}
		st, err := standingOf(tx, c.Target)
		if err != nil {
			return err
		}
		now := s.now().UTC()
		st.ProbeUntil = time.Time{}
		d.Claim, d.ClaimedUntil = "", time.Time{}
		d.Made++
		d.Attempts = append(d.Attempts[max(0, len(d.Attempts)+1-maxAttempts):], out.Attempt)
		if out.Step == "" {
			return s.taken(tx, t, d, st, now)
		}
		d.Answer = nil
		if out.answer != "" {
			d.Answer = s.box.Seal(bodyPurpose(d.Target, d.ID), []byte(out.answer))
		}
		if out.lost {
			return s.dead(tx, t, d, &st, now)
		}
		if out.Status == 410 && t.Enabled && t.Revision == c.target.Revision {
			return s.gone(tx, t, d, now)
		}
		return s.later(tx, t, d, st, out, now)
	})
}

// taken is for a delivery that the target took. What it said is forgotten; of a poll
// nothing is kept.
func (s *Service) taken(tx storage.Tx, t Target, d Delivery, st standing, now time.Time) error {
	if err := s.recovered(tx, t, &st, now); err != nil {
		return err
	}
	if d.Idle && d.Made == 1 {
		return erase(tx, d)
	}
	d.State, d.FinishedAt, d.Answer = Delivered, now, nil
	return errors.Join(tx.Delete(bodyBucket, []byte(deliveryKey(d))), deliveries.Put(tx, d))
}

// recovered takes note that a target takes what it is sent.
func (s *Service) recovered(tx storage.Tx, t Target, st *standing, now time.Time) error {
	alarmed := st.Alarmed
	st.Alarmed = false
	if alarmed {
		st.RetryFrom = now
	}
	if news := st.took(now); !news && !alarmed {
		return nil
	}
	if err := standings.Put(tx, *st); err != nil {
		return err
	}
	if !alarmed {
		return nil
	}
	return event.Record(tx, t.event("webhook.recovered", now))
}

// gone is for a target that wants nothing any more, and says so: 410.
func (s *Service) gone(tx storage.Tx, t Target, d Delivery, now time.Time) error {
	d.Due = now
	t.Enabled, t.DisabledWhy, t.UpdatedAt = false, disabledGone, now
	if err := deliveries.Put(tx, d); err != nil {
		return err
	}
	t.Revision++
	if err := targets.Put(tx, t); err != nil {
		return err
	}
	all, err := allTargets(tx)
	if err != nil {
		return err
	}
	if err := putInterests(tx, all); err != nil {
		return err
	}
	e := t.event("webhook.disabled", now)
	e.Outcome, e.Reason = event.Failed, "it answered 410 Gone"
	return errors.Join(event.Record(tx, e), tx.Notify(targetsTopic))
}

// later is for a delivery that the target did not take: it is tried again later, or given up.
func (s *Service) later(tx storage.Tx, t Target, d Delivery, st standing, out outcome, now time.Time) error {
	st.failed(now, out.Error, out.retryAfter)
	if !st.Alarmed && now.Sub(st.FailingSince) >= alarmAfter {
		st.Alarmed = true
		e := t.event("webhook.failing", now)
		e.Outcome, e.Reason = event.Failed, out.Error
		if err := event.Record(tx, e); err != nil {
			return err
		}
	}
	d.Tries++
	d.Due = now.Add(max(jitter(ladder[min(d.Tries, len(ladder))-1]), out.retryAfter))
	d.Aside = d.Tries >= aside
	if d.Due.After(d.Since.Add(giveUp)) {
		return s.dead(tx, t, d, &st, now)
	}
	return errors.Join(deliveries.Put(tx, d), standings.Put(tx, st))
}

// dead is for a delivery that is given up: it can be sent again as long as it is kept.
func (s *Service) dead(tx storage.Tx, t Target, d Delivery, st *standing, now time.Time) error {
	d.State, d.FinishedAt = Dead, now
	if now.Sub(st.GaveUpAt) >= tellGaveUp {
		st.GaveUpAt = now
		e := t.event("webhook.gave_up", now)
		e.Outcome = event.Failed
		if n := len(d.Attempts); n > 0 {
			e.Reason = d.Attempts[n-1].Error
		}
		if err := event.Record(tx, e); err != nil {
			return err
		}
	}
	return errors.Join(deliveries.Put(tx, d), standings.Put(tx, *st))
}
