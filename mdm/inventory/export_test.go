package inventory

import (
	"context"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
)

// RefreshDue is one tick of the schedule, for tests that move the clock.
func (s *Service) RefreshDue(ctx context.Context) error { return s.refreshDue(ctx) }

// Sweep is one turn of the sweeping, likewise.
func (s *Service) Sweep(ctx context.Context) error { return s.sweep(ctx) }

// Next is when a device is asked.
func Next(id mdm.DeviceID, after time.Time, every time.Duration) time.Time {
	return next(id, after, every)
}

// Bounds that tests come up against.
const (
	MaxChanges     = maxChanges
	RefreshBatch   = refreshBatch
	CommandDevices = commandDevices
)
