package invite

import (
	"context"
	"time"
)

// Idle is how long the outbox rests when it has nothing to do.
const Idle = idle

// SendDue sends what is due, as Run does.
func (s *Service) SendDue(ctx context.Context) (time.Duration, error) { return s.sendDue(ctx) }
