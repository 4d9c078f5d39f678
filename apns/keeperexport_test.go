package apns

import "context"

// Look is one turn of the countdown, for tests that move the clock.
func (k *Keeper) Look(ctx context.Context) error { return k.look(ctx) }
