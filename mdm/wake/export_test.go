package wake

import (
	"context"
	"time"
)

// Work does what is due, and what comes up by that, and returns how long it is until there
// may be more to do.
func (s *Service) Work(ctx context.Context) (time.Duration, error) {
	d := &dispatcher{Service: s, busy: make(map[string]int), done: make(chan struct{}, 1), checked: make(map[string]time.Time)}
	for {
		wait, err := d.round(ctx)
		d.wg.Wait()
		if err != nil {
			return 0, err
		}
		select {
		case <-d.done:
			continue
		default:
		}
		if wait > 0 {
			return wait, nil
		}
	}
}

// TakeAndDie takes what is due and goes no further.
func (s *Service) TakeAndDie(ctx context.Context) error {
	_, _, err := s.takeCalls(ctx, func(string) bool { return true })
	return err
}
