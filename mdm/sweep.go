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
	// historyLife is how long a command is kept from its creation, answers and all.
	historyLife = 180 * 24 * time.Hour

	sweepEvery = time.Hour
	sweepBatch = 10_000 // devices' entries in one transaction, so that it holds nobody up
	sweepLease = "mdm/sweep"
)

const (
	commandsByAge = "seq"
	commandsOpen  = "open"
)

// sweep expires what devices never fetched and deletes what is old. One replica
// at a time does so; what one call leaves over, the next one takes.
func (s *Service) sweep(ctx context.Context) error {
	held, err := storage.Acquire(ctx, s.db, sweepLease, s.holder, 2*sweepEvery, s.now)
	if err != nil || !held {
		return err
	}
	return errors.Join(
		s.sweepOlder(ctx, commandsByAge, historyLife, s.deleteCommand),
		s.sweepOlder(ctx, commandsOpen, commandLife, s.expireCommand),
	)
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

// expireCommand ends c for the devices that have not finished it.
func (s *Service) expireCommand(tx storage.Tx, c Command) error {
	for _, id := range c.Targets {
		e, err := queue.Get(tx, queueKey(id, c.Seq))
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
	c.Closed = true
	return commands.Put(tx, c)
}

// deleteCommand deletes c and what became of it.
func (s *Service) deleteCommand(tx storage.Tx, c Command) error {
	for _, id := range c.Targets {
		if err := queue.Delete(tx, queueKey(id, c.Seq)); err != nil {
			return err
		}
		if err := history.Delete(tx, queueKey(id, c.Seq)); err != nil {
			return err
		}
	}
	if err := tx.Delete(payloadBucket, []byte(c.UUID)); err != nil {
		return err
	}
	return commands.Delete(tx, c.UUID)
}
