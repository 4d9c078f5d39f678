package mdm

import "context"

// Sweep is one turn of the sweeping, for tests that move the clock.
func (s *Service) Sweep(ctx context.Context) error { return s.sweep(ctx) }

// SweepExpiring is one turn of the expiring, likewise.
func (s *Service) SweepExpiring(ctx context.Context) error { return s.sweepExpiring(ctx) }
