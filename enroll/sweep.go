package enroll

import (
	"context"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	// attemptLife is how long an attempt may take.
	attemptLife = 24 * time.Hour
	// failureLife is how long one that failed is kept, for those who ask why.
	failureLife = 30 * 24 * time.Hour
	sweepBatch  = 500
)

// sweep deletes challenges, remembered answers and failures that can't matter any
// more, and fails attempts that nobody will finish. Each call does a bounded part.
func (s *Service) sweep(ctx context.Context) error {
	// A spent challenge stays for as long as its answer may be asked for again.
	old := s.now().Add(-issuanceLife).UTC().Format(time.RFC3339)
	now := s.now().UTC().Format(time.RFC3339)
	forgotten := s.now().Add(-failureLife).UTC().Format(time.RFC3339)
	stale := s.now().Add(-attemptLife).UTC().Format(time.RFC3339)
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		for c, err := range challenges.Ascend(tx, byExpiry, "", old, sweepBatch) {
			if err != nil {
				return err
			}
			if err := challenges.Delete(tx, c.Hash); err != nil {
				return err
			}
		}
		for i, err := range issuances.Ascend(tx, byExpiry, "", now, sweepBatch) {
			if err != nil {
				return err
			}
			if err := issuances.Delete(tx, i.Key); err != nil {
				return err
			}
		}
		for a, err := range attempts.Ascend(tx, attemptsFailed, "", forgotten, sweepBatch) {
			if err != nil {
				return err
			}
			if err := attempts.Delete(tx, a.ID); err != nil {
				return err
			}
		}
		var late []Attempt
		for a, err := range attempts.Ascend(tx, attemptsOpen, "", stale, sweepBatch) {
			if err != nil {
				return err
			}
			late = append(late, a)
		}
		for _, a := range late {
			if err := s.failAttempt(tx, a, codeOf(errAttemptExpired)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	return nil
}
