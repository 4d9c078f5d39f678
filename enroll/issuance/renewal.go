package issuance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Run sends certificates again before they end, and forgets what has expired, until ctx
// ends. One replica at a time does so.
func (s *Service) Run(ctx context.Context) error {
	return storage.Schedule{
		DB: s.db, Log: s.log, Now: s.now,
		Jobs: []storage.Job{
			{Name: "issuance/renewals", Every: renewalTick, Do: s.Renew},
			{Name: "issuance/sweep", Every: sweepTick, Do: s.sweep},
		},
	}.Run(ctx)
}

// Renew makes the tries that are due.
func (s *Service) Renew(ctx context.Context) error {
	down := map[string]*rejection{} // by template
	for begun := time.Now(); ; {    // not s.now(): it limits how long this runs
		var due []Assignment
		err := s.db.View(ctx, func(tx storage.Tx) error {
			due = nil
			for a, err := range assignments.Ascend(tx, assignmentsDue, "", sortable(s.now()), renewalBatch) {
				if err != nil {
					return err
				}
				due = append(due, a)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("find certificates to renew: %w", err)
		}
		for _, a := range due {
			if err := s.renewOne(ctx, a, down); err != nil {
				s.log.WarnContext(ctx, "certificate not sent, will try again", "template", a.Template, "device", a.DeviceID, "err", err)
				return nil // rather than meet it again at once
			}
		}
		if len(due) < renewalBatch || time.Since(begun) > renewalTick {
			return nil
		}
	}
}

// renewOne makes one try that is due, or notes why it can't be made. down is which
// templates have an authority elsewhere that does not answer.
func (s *Service) renewOne(ctx context.Context, a Assignment, down map[string]*rejection) error {
	var err error
	no := down[a.Template]
	if no != nil {
		err = no
	} else if a.Profile != "" {
		err = s.resend(ctx, a)
	} else {
		_, err = s.deliver(ctx, a.Template, a.DeviceID, "")
	}
	switch {
	case errors.As(err, &no):
		switch no.Code {
		case "not_found", "not_enrolled":
			return s.endNow(ctx, a, "the enrollment has ended")
		case codeUpstream:
			down[a.Template] = no
		}
		return s.postpone(ctx, a, no.Rejection)
	case errors.Is(err, storage.ErrNotFound):
		if a.Profile != "" {
			return s.endNow(ctx, a, "the profile that brings it is not on the device any more")
		}
		return s.endNow(ctx, a, "the template was deleted")
	}
	return err
}

func (s *Service) endNow(ctx context.Context, a Assignment, reason string) error {
	return s.db.Update(ctx, func(tx storage.Tx) error {
		now, err := assignments.Get(tx, assignmentKey(a.Template, a.DeviceID))
		if err != nil || now.CreatedAt != a.CreatedAt {
			return err // another one since
		}
		return s.end(tx, one(now), reason)
	})
}

// postpone notes that a try could not be made, and why. That its user may not have the device
// is no failure, and ends when somebody says so.
func (s *Service) postpone(ctx context.Context, a Assignment, no Rejection) error {
	return s.db.Update(ctx, func(tx storage.Tx) error {
		now, err := assignments.Get(tx, assignmentKey(a.Template, a.DeviceID))
		if err != nil || now.Try != a.Try || now.DueAt.IsZero() {
			return err
		}
		at := s.now().UTC()
		now.State, now.FailedAt, now.Reason = Failing, at, no.Reason
		if no.Code == codeUserDisabled {
			now.DueAt = at.Add(suspendedTick)
		} else {
			now.Failures, now.DueAt = now.Failures+1, at.Add(retryAfter)
		}
		return assignments.Put(tx, now)
	})
}

// sweep deletes challenges and remembered answers that can't matter any more.
func (s *Service) sweep(ctx context.Context) error {
	until := sortable(s.now().Add(-answerLife))
	return errors.Join(
		storage.Sweep(ctx, s.db, challenges, byExpiry, until, func(tx storage.Tx, c challenge) error { return challenges.Delete(tx, c.Hash) }),
		storage.Sweep(ctx, s.db, answers, byExpiry, until, func(tx storage.Tx, a answer) error { return answers.Delete(tx, a.Key) }),
		storage.Sweep(ctx, s.db, passages, byExpiry, until, func(tx storage.Tx, p passage) error { return passages.Delete(tx, p.Key) }),
		storage.Sweep(ctx, s.db, counters, byExpiry, until, func(tx storage.Tx, c counter) error { return counters.Delete(tx, c.Key) }),
	)
}
