package webhook

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// remain is what is left of a target that was deleted, until its deliveries are.
type remain struct {
	Target string    `json:"target"`
	Since  time.Time `json:"since"`
}

var remains = storage.NewCollection("webhook.remain", 1, func(r remain) string { return r.Target })

// keepRemain is how long whoever had read of the target before may still write to it.
const keepRemain = time.Hour

const sweepBatch = 200 // deliveries in one transaction

// sweep forgets finished deliveries that are old, the oldest where there are too many, and
// all of targets that are gone.
func (s *Service) sweep(ctx context.Context) error {
	until := sortable(s.now().Add(-keepDone))
	if err := storage.Sweep(ctx, s.db, deliveries, byFinished, until, erase); err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	all, err := s.Targets(ctx)
	if err != nil {
		return err
	}
	for _, t := range all {
		kept, err := s.count(ctx, byDone, t.ID)
		if err != nil {
			return err
		}
		for excess := kept - s.mostKept; excess > 0; excess -= sweepBatch {
			if err := s.eraseDone(ctx, t.ID, min(excess, sweepBatch)); err != nil {
				return err
			}
		}
	}
	if err := s.sweepTurns(ctx); err != nil {
		return err
	}
	return s.sweepRemains(ctx)
}

// sweepTurns forgets the turns of devices that have said nothing for a while.
func (s *Service) sweepTurns(ctx context.Context) error {
	until := s.now().Add(-keepTurn)
	for cursor := ""; ; {
		next := ""
		err := s.db.Update(ctx, func(tx storage.Tx) error {
			page, after, err := storage.Page(tx, turns, cursor, sweepBatch)
			if err != nil {
				return err
			}
			next = after
			for _, t := range page {
				if t.At.After(until) {
					continue
				}
				if err := turns.Delete(tx, t.Device); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || next == "" {
			return err
		}
		cursor = next
	}
}

func (s *Service) sweepRemains(ctx context.Context) error {
	var gone []remain
	err := s.db.View(ctx, func(tx storage.Tx) error {
		gone = nil
		for r, err := range remains.All(tx, storage.Range{}) {
			if err != nil {
				return err
			}
			gone = append(gone, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range gone {
		if err := s.purge(ctx, r.Target); err != nil {
			return err
		}
		if s.now().Sub(r.Since) < keepRemain {
			continue
		}
		if err := s.db.Update(ctx, func(tx storage.Tx) error { return remains.Delete(tx, r.Target) }); err != nil {
			return err
		}
	}
	return nil
}

// purge erases all deliveries of a target.
func (s *Service) purge(ctx context.Context, target string) error {
	for {
		n := 0
		err := s.db.Update(ctx, func(tx storage.Tx) error {
			n = 0
			var batch []Delivery
			for d, err := range deliveries.All(tx, storage.Range{Prefix: storage.KeyPrefix(target), Limit: sweepBatch}) {
				if err != nil {
					return err
				}
				batch = append(batch, d)
			}
			for _, d := range batch {
				if err := erase(tx, d); err != nil {
					return err
				}
			}
			n = len(batch)
			return nil
		})
		if err != nil || n < sweepBatch {
			return err
		}
	}
}

// bound keeps queues within their limits: what is too old is given up, and where too many
// wait, the oldest polls go first, and then the oldest of all; where it is too many bytes, the
// oldest large ones.
func (s *Service) bound(ctx context.Context) error {
	if err := s.sweepRemains(ctx); err != nil {
		return err
	}
	all, err := s.Targets(ctx)
	if err != nil {
		return err
	}
	for _, t := range all {
		if err := s.giveUpOld(ctx, t); err != nil {
			return fmt.Errorf("webhook %s: %w", t.ID, err)
		}
		if err := s.dropExcess(ctx, t); err != nil {
			return fmt.Errorf("webhook %s: %w", t.ID, err)
		}
	}
	return nil
}

// giveUpOld gives up what has waited for too long without having been tried at the end of
// its time: the target is off, or paused.
func (s *Service) giveUpOld(ctx context.Context, t Target) error {
	after := ""
	for {
		looked := 0
		last := after
		err := s.db.Update(ctx, func(tx storage.Tx) error {
			looked, last = 0, after
			now := s.now().UTC()
			st, err := standingOf(tx, t.ID)
			if err != nil {
				return err
			}
			if _, err := targets.Get(tx, t.ID); err != nil {
				return err
			}
			var old []Delivery
			for d, err := range storage.LookupAfter(tx, deliveries, byWaiting, t.ID, after) {
				if err != nil {
					return err
				}
				if now.Sub(d.CreatedAt) < giveUp || looked == sweepBatch {
					break // those behind are younger
				}
				looked++
				last = deliveryKey(d)
				if now.Sub(d.Since) >= giveUp && !d.ClaimedUntil.After(now) {
					old = append(old, d)
				}
			}
			for d, err := range deliveries.Ascend(tx, byAside, string(storage.KeyPrefix(t.ID)), asideValue(t.ID, now), sweepBatch) {
				if err != nil {
					return err
				}
				if now.Sub(d.Since) >= giveUp && !d.ClaimedUntil.After(now) {
					old = append(old, d)
				}
			}
			for _, d := range old {
				if err := s.dead(tx, t, d, &st, now); err != nil {
					return err
				}
			}
			return nil
		})
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err != nil || looked < sweepBatch {
			return err
		}
		after = last
	}
}

// dropExcess drops what is too much in a queue.
func (s *Service) dropExcess(ctx context.Context, t Target) error {
	waiting, err := s.count(ctx, byWaiting, t.ID)
	if err != nil {
		return err
	}
	late, err := s.count(ctx, byAside, t.ID)
	if err != nil {
		return err
	}
	excess := waiting + late - s.mostWait
	dropped, err := s.dropLarge(ctx, t)
	if err != nil {
		return err
	}
	for _, polls := range []bool{true, false} {
		after := ""
		for dropped < excess {
			n, last, err := s.drop(ctx, t, after, min(excess-dropped, sweepBatch), polls)
			if err != nil {
				return err
			}
			dropped += n
			if last == "" {
				break
			}
			after = last
		}
	}
	if dropped == 0 {
		return nil
	}
	return s.db.Update(ctx, func(tx storage.Tx) error {
		now := s.now().UTC()
		if _, err := targets.Get(tx, t.ID); errors.Is(err, storage.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		st, err := standingOf(tx, t.ID)
		if err != nil {
			return err
		}
		tell := now.Sub(st.DroppedAt) >= tellGaveUp
		st.Dropped += dropped
		if tell {
			st.DroppedAt = now
			e := t.event("webhook.dropped", now)
			e.Outcome, e.Reason = event.Failed, "too many deliveries wait: the oldest are left out"
			e.Details["count"] = strconv.Itoa(st.Dropped)
			if err := event.Record(tx, e); err != nil {
				return err
			}
		}
		return standings.Put(tx, st)
	})
}

// drop erases up to most deliveries that wait behind the one whose key is after: polls only,
// or all. last is how far it came, "" at the end.
func (s *Service) drop(ctx context.Context, t Target, after string, most int, polls bool) (n int, last string, err error) {
	const look = 2000
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		n, last = 0, ""
		now, looked := s.now(), 0
		var some []Delivery
		for d, err := range storage.LookupAfter(tx, deliveries, byWaiting, t.ID, after) {
			if err != nil {
				return err
			}
			if looked == look || len(some) == most {
				break
			}
			looked++
			last = deliveryKey(d)
			if (d.Idle || !polls) && !d.ClaimedUntil.After(now) {
				some = append(some, d)
			}
		}
		for _, d := range some {
			if err := erase(tx, d); err != nil {
				return err
			}
		}
		n = len(some)
		return nil
	})
	return n, last, err
}

// dropLarge erases the oldest large deliveries that were not taken, where they are too many
// bytes, and returns how many it erased.
func (s *Service) dropLarge(ctx context.Context, t Target) (dropped int, err error) {
	size := 0
	err = s.db.View(ctx, func(tx storage.Tx) error { // most of the time it is not too much
		size = 0
		for d, err := range deliveries.Lookup(tx, byLarge, t.ID) {
			if err != nil {
				return err
			}
			size += d.Size
		}
		return nil
	})
	if err != nil || size <= s.mostSize {
		return 0, err
	}
	for {
		n, more := 0, false
		err := s.db.Update(ctx, func(tx storage.Tx) error {
			n, more = 0, false
			now, size := s.now(), 0
			var all []Delivery
			for d, err := range deliveries.Lookup(tx, byLarge, t.ID) {
				if err != nil {
					return err
				}
				size += d.Size
				if len(all) < sweepBatch && !d.ClaimedUntil.After(now) {
					all = append(all, d)
				}
			}
			for _, d := range all {
				if size <= s.mostSize {
					break
				}
				if err := erase(tx, d); err != nil {
					return err
				}
				n++
				size -= d.Size
			}
			more = n > 0 && size > s.mostSize
			return nil
		})
		if err != nil {
			return dropped, err
		}
		if dropped += n; !more {
			return dropped, nil
		}
	}
}

func (s *Service) count(ctx context.Context, index, target string) (n int, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		n, err = countEntries(tx, index, target, 0)
		return err
	})
	return n, err
}

// eraseDone erases the oldest deliveries that a target took.
func (s *Service) eraseDone(ctx context.Context, target string, most int) error {
	return s.db.Update(ctx, func(tx storage.Tx) error {
		var old []Delivery
		for d, err := range deliveries.Lookup(tx, byDone, target) {
			if err != nil {
				return err
			}
			if old = append(old, d); len(old) == most {
				break
			}
		}
		for _, d := range old {
			if err := erase(tx, d); err != nil {
				return err
			}
		}
		return nil
	})
}
