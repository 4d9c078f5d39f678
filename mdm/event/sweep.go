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

// Forget deletes what Run would delete now.
func (r *Recorder) Forget(ctx context.Context) error { return r.sweep(ctx) }

// sweep deletes what is too old, and the oldest of what is too much: first of what
// strangers can cause, so that they can't make the log forget the rest.
func (r *Recorder) sweep(ctx context.Context) error {
	if err := r.Sequence(ctx); err != nil { // what has no place stays
		return err
	}
	old := firstID(r.now().Add(-r.keep))
	err := r.eraseWhile(ctx, -1, func(tx storage.Tx) iter.Seq2[kept, error] {
		return log.All(tx, storage.Range{End: []byte(old), Limit: sweepBatch})
	})
	if err != nil {
		return err
	}
	trouble, err := r.count(ctx, byTrouble)
	if err != nil {
		return err
	}
	err = r.eraseWhile(ctx, max(0, trouble-r.mostTrouble), func(tx storage.Tx) iter.Seq2[kept, error] {
		return scanEntries(tx, byTrouble, "", "", "", storage.Range{Limit: sweepBatch}, sweepBatch)
	})
	if err != nil {
		return err
	}
	all, err := r.count(ctx, byArea)
	if err != nil {
		return err
	}
	err = r.eraseWhile(ctx, max(0, all-r.most), func(tx storage.Tx) iter.Seq2[kept, error] {
		return log.All(tx, storage.Range{Limit: sweepBatch})
	})
	if err != nil {
		return err
	}
	return r.shorten(ctx)
}

// shorten takes what is erased off the old end of the chain.
func (r *Recorder) shorten(ctx context.Context) error {
	for {
		taken := 0
		err := r.db.Update(ctx, func(tx storage.Tx) error {
			taken = 0
			tail, err := getMark(tx, tailMark)
			if err != nil {
				return err
			}
			for l, err := range links(tx, storage.Range{Limit: sweepBatch}) {
				if err != nil {
					return err
				}
				if l.id != "" || taken == sweepBatch {
					break
				}
				for _, bucket := range []string{chainBucket, erasedBucket} {
					if err := tx.Delete(bucket, seqKey(l.seq)); err != nil {
						return err
					}
				}
				tail.Seq, tail.Hash = l.seq, l.hash
				taken++
			}
			if taken == 0 {
				return nil
			}
			return marks.Put(tx, tail)
		})
		if err != nil {
			return fmt.Errorf("shorten the chain of events: %w", err)
		}
		if taken < sweepBatch {
			return nil
		}
	}
}

// eraseWhile erases events that next yields, at most so many, or as long as there are any
// if most is negative.
func (r *Recorder) eraseWhile(ctx context.Context, most int, next func(storage.Tx) iter.Seq2[kept, error]) error {
	for most != 0 {
		erased := 0
		err := r.db.Update(ctx, func(tx storage.Tx) error {
			var batch []kept
			for e, err := range next(tx) {
				if err != nil {
					return err
				}
				if len(batch) == most {
					break
				}
				if e.Seq != 0 {
					batch = append(batch, e)
				}
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
