package enroll

import (
	"context"
	"errors"
)

// Round is one turn of all scheduled work, for tests that move the clock.
func (s *Service) Round(ctx context.Context) error {
	return errors.Join(s.renewals(ctx), s.sweep(ctx))
}
