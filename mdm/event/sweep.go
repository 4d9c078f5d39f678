package event

import (
	"context"
	"errors"
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
	keep := r.keep
	if keep == 0 {
		v, err := r.retention(ctx)
		if err != nil {
			return err
		}
		keep = time.Duration(v.Days) * 24 * time.Hour
	}
	return r.shorten(ctx, firstID(r.now().Add(-keep)), max(0, all-r.most))
}

// shorten takes off the old end of the chain what is erased, what is of before old, an ID,
// and as many others as there are too many. It goes by places, so that nothing that is ok
// goes from the middle: an event that is young in the oldest place keeps those behind it.
func (r *Recorder) shorten(ctx context.Context, old string, tooMany int) error {
	for {
		taken, events := 0, 0
		err := r.db.Update(ctx, func(tx storage.Tx) error {
			taken, events = 0, 0
			tail, err := getMark(tx, tailMark)
			if err != nil {
				return err
			}
			tx.Prefetch(storage.Read{Bucket: chainBucket, Range: storage.Range{Limit: sweepBatch}, Then: readAhead})
			for l, err := range links(tx, storage.Range{Limit: sweepBatch}) {
				if err != nil {
					return err
				}
				if taken == sweepBatch || l.id >= old && events >= tooMany {
					break
				}
				if l.id != "" {
					if err := remove(tx, l.id); err != nil {
						return err
					}
					events++
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
		tooMany -= min(events, tooMany)
		if taken < sweepBatch {
			return nil
		}
	}
}

// remove deletes an event, but not its place.
func remove(tx storage.Tx, id string) error {
	e, err := log.Get(tx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	for _, key := range e.entries() {
		if err := tx.Delete(byBucket, key); err != nil {
			return err
		}
	}
	return log.Delete(tx, id)
}

// eraseWhile erases trouble that next yields, at most so many.
func (r *Recorder) eraseWhile(ctx context.Context, most int, next func(storage.Tx) iter.Seq2[kept, error]) error {
	for most > 0 {
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
				if e.Seq != 0 && e.Outcome != OK {
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
		most -= erased
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
