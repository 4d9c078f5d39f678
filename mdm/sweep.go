package mdm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	// commandLife is how long a command waits for a device that does not come.
	commandLife = 90 * 24 * time.Hour

	sweepEvery  = time.Hour
	expireEvery = 30 * time.Second // of commands that have a time of their own
	closeChunk  = 500
	sweepBatch  = 10_000 // devices' entries in one transaction, so that it holds nobody up
)

const (
	commandsByAge    = "seq"
	commandsOpen     = "open"
	commandsExpiring = "expires"
	commandsByBatch  = "batch"
)

// sweep expires what devices never fetched, deletes what is old, and cancels what waits
// for devices that have left.
func (s *Service) sweep(ctx context.Context) error {
	return errors.Join(
		s.deleteOld(ctx),
		s.sweepOlder(ctx, commandsOpen, commandLife, s.expireCommand),
		s.sweepLeft(ctx),
		s.sweepDeleted(ctx),
		s.closeFinished(ctx),
		s.sweepEscrow(ctx),
	)
}

// sweepExpiring expires the commands that have a time of their own.
func (s *Service) sweepExpiring(ctx context.Context) error {
	return storage.Sweep(ctx, s.db, commands, commandsExpiring, seqAt(s.now().UnixNano()+1), s.expireCommand)
}

// closeFinished closes the commands that all devices have finished, so that lists need not
// count their devices any more.
func (s *Service) closeFinished(ctx context.Context) error {
	from, last := "", ""
	for more := true; more; from = last {
		err := s.db.Update(ctx, func(tx storage.Tx) error {
			more, last = false, from
			var finished []Command
			entries := 0
			for c, err := range commands.Ascend(tx, commandsOpen, from, "", closeChunk) {
				if err != nil {
					return err
				}
				if c.Seq == from {
					continue // the one that the last round ended with
				}
				if entries += len(c.Targets); entries > sweepBatch && last != from {
					break
				}
				last, more = c.Seq, true
				t, err := tally(tx, c)
				if err != nil {
					return err
				}
				if t.Pending() == 0 {
					c.Closed, c.Tally = true, t
					finished = append(finished, c)
				}
			}
			for _, c := range finished {
				if err := commands.Put(tx, c); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("close commands: %w", err)
		}
	}
	return nil
}

// sweepOlder calls fn, which takes it out of the index, for every command in the
// index that was created longer ago than age.
func (s *Service) sweepOlder(ctx context.Context, index string, age time.Duration, fn func(storage.Tx, Command) error) error {
	before := seqAt(s.now().Add(-age).UnixNano())
	for more := true; more; {
		err := s.db.Update(ctx, func(tx storage.Tx) error {
			more = false
			var old []Command
			entries := 0
			for c, err := range commands.Ascend(tx, index, "", before, 0) {
				if err != nil {
					return err
				}
				if entries += 1 + len(c.Targets); entries > sweepBatch && len(old) > 0 {
					more = true
					break
				}
				old = append(old, c)
			}
			for _, c := range old {
				if err := fn(tx, c); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("sweep commands: %w", err)
		}
	}
	return nil
}

// sweepLeft cancels what is in the queues of enrollments that take no commands. Whoever
// ends one empties its queue, but a command may be added by a transaction that began
// before: it reads whether the device may have it, and writes nothing that the other
// reads, so that one command to many devices holds none of them up.
func (s *Service) sweepLeft(ctx context.Context) error {
	var start []byte
	for {
		waiting, next, err := s.leftWaiting(ctx, start)
		if err != nil {
			return fmt.Errorf("find commands of devices that left: %w", err)
		}
		for _, id := range waiting {
			err := s.db.Update(ctx, func(tx storage.Tx) error {
				e, err := getEligibility(tx, id)
				if errors.Is(err, storage.ErrNotFound) { // deleted meanwhile: see sweepDeleted
					return nil
				}
				if err != nil || e.state == Enrolled {
					return err
				}
				return s.CancelPending(tx, id)
			})
			if err != nil {
				return fmt.Errorf("cancel commands of %s, which left: %w", id, err)
			}
		}
		if next == nil {
			return nil
		}
		start = next
	}
}

// leftWaiting returns those with something in their queue among the next enrollments
// that take no commands, and where to go on, nil at the end.
func (s *Service) leftWaiting(ctx context.Context, start []byte) (waiting []DeviceID, next []byte, err error) {
	const batch = 500
	err = s.db.View(ctx, func(tx storage.Tx) error {
		waiting, next = nil, nil
		var queues []storage.Read
		for item, err := range tx.Scan(eligibilityBucket, storage.Range{Start: start}) {
			if err != nil {
				return err
			}
			e, err := decodeEligibility(item.Value)
			if err != nil {
				return fmt.Errorf("eligibility of %s: %w", item.Key, err)
			}
			if e.state == Enrolled {
				continue
			}
			if len(queues) == batch {
				next = item.Key
				break
			}
			queues = append(queues, storage.Read{
				Bucket: queueBucket, Range: storage.Range{Prefix: storage.KeyPrefix(string(item.Key)), Limit: 1},
			})
		}
		tx.Prefetch(queues...)
		for _, q := range queues {
			for e, err := range queue.All(tx, q.Range) {
				if err != nil {
					return err
				}
				waiting = append(waiting, e.DeviceID)
			}
		}
		return nil
	})
	return waiting, next, err
}

// expireCommand ends c for the devices that have not finished it.
func (s *Service) expireCommand(tx storage.Tx, c Command) error {
	for _, id := range c.Targets {
		e, err := queue.Get(tx, queueKey(id, c.Priority, c.Seq))
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if err := s.finish(tx, &e, Expired); err != nil {
			return err
		}
	}
	var err error
	if c.Tally, err = tally(tx, c); err != nil {
		return err
	}
	c.Closed = true
	return commands.Put(tx, c)
}

// deleteCommand deletes c and what became of it.
func (s *Service) deleteCommand(tx storage.Tx, c Command) error {
	for _, id := range c.Targets {
		if err := queue.Delete(tx, queueKey(id, c.Priority, c.Seq)); err != nil {
			return err
		}
		if err := history.Delete(tx, historyKey(id, c.Seq)); err != nil {
			return err
		}
		if c.Personal {
			if err := tx.Delete(valuesBucket, valuesKey(c.UUID, id)); err != nil {
				return err
			}
		}
	}
	if err := tx.Delete(payloadBucket, []byte(c.UUID)); err != nil {
		return err
	}
	if err := commands.Delete(tx, c.UUID); err != nil || c.Batch == "" {
		return err
	}
	for _, err := range storage.LookupAfter(tx, commands, commandsByBatch, c.Batch, "") {
		return err // there are others yet
	}
	return batches.Delete(tx, c.Batch)
}
