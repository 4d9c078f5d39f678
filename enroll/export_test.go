package enroll

import (
	"context"
	"errors"
)

// Round is one turn of all scheduled work, for tests that move the clock.
func (s *Service) Round(ctx context.Context) error {
	return errors.Join(s.ContinueRollovers(ctx), s.RenewDue(ctx), s.sweep(ctx))
}

// TellExpiring is what is done once a day, too.
func (s *Service) TellExpiring(ctx context.Context) error { return s.tellExpiring(ctx) }

// WarnOfExpiry is what is done once a day.
func (s *Service) WarnOfExpiry(ctx context.Context) error { return s.warnOfExpiry(ctx) }

// DeleteLeft is what is done once a day, too.
func (s *Service) DeleteLeft(ctx context.Context) error { return s.deleteLeft(ctx) }
