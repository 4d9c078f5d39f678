package event

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	sweepEvery = 6 * time.Hour
	sweepBatch = 500 // in one transaction
)

// sweep deletes what is too old, and the oldest of what is too much: first of what
// strangers can cause, so that they can't make the log forget the rest.
func (r *Recorder) sweep(ctx context.Context) error {
	old := firstID(r.now().Add(-r.keep))
	err := r.eraseWhile(ctx, -1, func(tx storage.Tx) iter.Seq2[Event, error] {
		return log.All(tx, storage.Range{End: []byte(old), Limit: sweepBatch})
	})
	if err != nil {
		return err
	}
	trouble, err := r.count(ctx, byTrouble)
	if err != nil {
		return err
	}
	err = r.eraseWhile(ctx, max(0, trouble-r.mostTrouble), func(tx storage.Tx) iter.Seq2[Event, error] {
		return scanEntries(tx, byTrouble, "", "", "", storage.Range{Limit: sweepBatch}, sweepBatch)
	})
	if err != nil {
		return err
	}
	all, err := r.count(ctx, byArea)
	if err != nil {
		return err
	}
	return r.eraseWhile(ctx, max(0, all-r.most), func(tx storage.Tx) iter.Seq2[Event, error] {
		return log.All(tx, storage.Range{Limit: sweepBatch})
	})
}

// eraseWhile erases events that next yields, at most so many, or as long as there are any
// if most is negative.
func (r *Recorder) eraseWhile(ctx context.Context, most int, next func(storage.Tx) iter.Seq2[Event, error]) error {
	for most != 0 {
		erased := 0
		err := r.db.Update(ctx, func(tx storage.Tx) error {
			var batch []Event
			for e, err := range next(tx) {
				if err != nil {
					return err
				}
				if len(batch) == most {
					break
				}
				batch = append(batch, e)
			}
			for _, e := range batch {
				if err := erase(tx, e); err != nil {
					return err
				}
			}
			erased = len(batch)
			return nil
		})
		if err != nil {
			return fmt.Errorf("sweep events: %w", err)
		}
		if most > 0 {
			most -= erased
		}
		if erased < sweepBatch {
			return nil
		}
	}
	return nil
}

// count counts the entries of a kind: they are small.
func (r *Recorder) count(ctx context.Context, kind string) (n int, err error) {
	err = r.db.View(ctx, func(tx storage.Tx) error {
		n = 0
		for _, err := range tx.Scan(byBucket, storage.Range{Prefix: storage.KeyPrefix(kind)}) {
			if err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("count events: %w", err)
	}
	return n, nil
}
