package enroll

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	// attemptLife is how long an attempt may take.
	attemptLife = 24 * time.Hour
	// failureLife is how long one that failed is kept, for those who ask why.
	failureLife = 30 * 24 * time.Hour

	sweepTick  = 10 * time.Minute
	sweepBatch = 500 // in one transaction
)

// sweep deletes challenges, remembered answers and failures that can't matter any
// more, and fails attempts that nobody will finish.
func (s *Service) sweep(ctx context.Context) error {
	until := func(age time.Duration) string { return s.now().Add(-age).UTC().Format(time.RFC3339) }
	return errors.Join(
		// A spent challenge stays for as long as its answer may be asked for again.
		sweepOlder(ctx, s.db, challenges, byExpiry, until(issuanceLife), func(tx storage.Tx, c challenge) error {
			return challenges.Delete(tx, c.Hash)
		}),
		sweepOlder(ctx, s.db, issuances, byExpiry, until(0), func(tx storage.Tx, i issuance) error {
			return issuances.Delete(tx, i.Key)
		}),
		sweepOlder(ctx, s.db, attempts, attemptsFailed, until(failureLife), func(tx storage.Tx, a Attempt) error {
			return attempts.Delete(tx, a.ID)
		}),
		sweepOlder(ctx, s.db, attempts, attemptsOpen, until(attemptLife), func(tx storage.Tx, a Attempt) error {
			return s.failAttempt(tx, a, codeOf(errAttemptExpired))
		}),
	)
}

// sweepOlder calls fn, which takes it out of the index, for every record of c that
// has a value before until in the index.
func sweepOlder[T any](ctx context.Context, db storage.DB, c *storage.Collection[T], index, until string, fn func(storage.Tx, T) error) error {
	for {
		var old []T
		err := db.Update(ctx, func(tx storage.Tx) error {
			old = nil
			for v, err := range c.Ascend(tx, index, "", until, sweepBatch) {
				if err != nil {
					return err
				}
				old = append(old, v)
			}
			for _, v := range old {
				if err := fn(tx, v); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("sweep: %w", err)
		}
		if len(old) < sweepBatch {
			return nil
		}
	}
}
