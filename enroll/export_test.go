package enroll

import "context"

// Round is one turn of the scheduled work, for tests that move the clock.
func (s *Service) Round(ctx context.Context) error { return s.round(ctx) }
