package identity

import "context"

// For tests of what the RFC has as examples.
var (
	TOTP     = totp
	TOTPStep = totpStep
)

// PruneSignIns is what Run does from time to time.
func (s *Service) PruneSignIns(ctx context.Context) error { return s.pruneSignIns(ctx) }
