package enroll

import (
	"context"
	"errors"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	// attemptLife is how long an attempt may take.
	attemptLife = 24 * time.Hour
	// failureLife is how long one that failed is kept, for those who ask why. Of a profile
	// that a program fetched and nobody used nobody asks for so long, and any number may
	// come from one link.
	failureLife     = 30 * day
	idleFailureLife = day

	sweepTick = 10 * time.Minute
)

// sweep deletes challenges, remembered answers and failures that can't matter any
// more, and fails attempts that nobody will finish.
func (s *Service) sweep(ctx context.Context) error {
	until := func(age time.Duration) string { return s.now().Add(-age).UTC().Format(time.RFC3339) }
	return errors.Join(
		// A spent challenge stays for as long as its answer may be asked for again.
		storage.Sweep(ctx, s.db, challenges, byExpiry, until(issuanceLife), func(tx storage.Tx, c challenge) error {
			return challenges.Delete(tx, c.Hash)
		}),
		storage.Sweep(ctx, s.db, issuances, byExpiry, until(0), func(tx storage.Tx, i issuance) error {
			return issuances.Delete(tx, i.Key)
		}),
		storage.Sweep(ctx, s.db, deliveries, byExpiry, until(0), func(tx storage.Tx, d delivery) error {
			return deliveries.Delete(tx, d.Token)
		}),
		storage.Sweep(ctx, s.db, pairings, byExpiry, until(0), func(tx storage.Tx, p pairing) error {
			return pairings.Delete(tx, p.ID)
		}),
		storage.Sweep(ctx, s.db, authorizations, byExpiry, until(attemptLife), func(tx storage.Tx, a authorization) error {
			return authorizations.Delete(tx, a.ID)
		}),
		storage.Sweep(ctx, s.db, attempts, attemptsFailed, until(failureLife), func(tx storage.Tx, a Attempt) error {
			return attempts.Delete(tx, a.ID)
		}),
		storage.Sweep(ctx, s.db, attempts, attemptsIdle, until(idleFailureLife), func(tx storage.Tx, a Attempt) error {
			return attempts.Delete(tx, a.ID)
		}),
		storage.Sweep(ctx, s.db, attempts, attemptsOpen, until(attemptLife), func(tx storage.Tx, a Attempt) error {
			if a.Stage == Opened { // somebody looked in, and left: anybody can do that any number of times
				return attempts.Delete(tx, a.ID)
			}
			return s.failAttempt(tx, a, codeOf(errAttemptExpired))
		}),
	)
}
