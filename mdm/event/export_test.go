package event

import "context"

// Sweep is one turn of the sweeping, for tests that move the clock.
func (r *Recorder) Sweep(ctx context.Context) error { return r.sweep(ctx) }
