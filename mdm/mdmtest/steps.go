package mdmtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Progress is what became of one step of a fleet.
type Progress struct {
	Sessions int // that went to their end, those that Conduct broke off or missed included
	Answered int // commands that were answered in them
	Waiting  int // channels that come back by themselves: see [Channel.WillPoll]
	Away     int // sessions in which the server did not answer, or failed

	// Wrong are sessions that ended otherwise, up to ten: the server broke the protocol.
	Wrong []error
}

// Enroll lets each device that is not enrolled yet try once, Concurrency at a time, and goes
// on with enrollments that the server left in the midst. It returns nil when every device is
// enrolled, or was until it went away; else how many are missing, and the errors of some:
// call it again. Devices whose enrollment the server ended do not come back.
func (f *Fleet) Enroll(ctx context.Context) error {
	var mu sync.Mutex
	var missing int
	var some []error
	f.each(ctx, func(m *member) {
		if m.counted.Load() != 0 && m.device.unmanaged() {
			return
		}
		err := m.enroll(ctx, f.opts.ProfileURL)
		if err == nil {
			f.count(m)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if missing++; len(some) < 3 {
			some = append(some, fmt.Errorf("%s: %w", m.device.opts.Name, err))
		}
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	if missing > 0 {
		return fmt.Errorf("mdmtest: %d of %d devices are not enrolled: %w", missing, len(f.members), errors.Join(some...))
	}
	return nil
}

// Step lets each channel of each enrolled device have one session, Concurrency of them at a
// time, pushed or not. A server that is away is no error: results are kept, and the next
// step goes on.
func (f *Fleet) Step(ctx context.Context) Progress {
	return f.step(ctx, func(*member, *Channel) bool { return true })
}

// StepWoken is Step for those that [Fleet.Wake] has woken since their last step, or that
// come back by themselves. The others sleep.
func (f *Fleet) StepWoken(ctx context.Context) Progress {
	woken := make(map[*member]bool)
	for _, m := range f.members {
		select {
		case <-m.wake:
			woken[m] = true
		default:
		}
	}
	return f.step(ctx, func(m *member, c *Channel) bool { return woken[m] || c.WillPoll() })
}

func (f *Fleet) step(ctx context.Context, awake func(*member, *Channel) bool) Progress {
	var mu sync.Mutex
	var all Progress
	f.each(ctx, func(m *member) {
		if m.device.State() != Enrolled {
			return
		}
		for _, c := range m.channels() {
			if ctx.Err() != nil || m.device.State() != Enrolled {
				break
			}
			if !awake(m, c) {
				continue
			}
			f.polls.Add(1)
			n, err := c.Poll(ctx)
			mu.Lock()
			all.Answered += n
			switch {
			case err == nil, errors.Is(err, ErrRemoved):
				all.Sessions++
			case noAnswer(err), ctx.Err() != nil:
				all.Away++
				f.problems.Add(1)
				m.wakeUp() // it tries again
			default:
				f.problems.Add(1)
				if len(all.Wrong) < 10 {
					all.Wrong = append(all.Wrong, fmt.Errorf("%s: %w", m.device.opts.Name, err))
				}
			}
			mu.Unlock()
		}
		if m.playing.gone.Load() {
			m.device.Vanish()
		}
		f.count(m)
		for _, c := range m.channels() {
			if m.device.State() == Enrolled && c.WillPoll() {
				mu.Lock()
				all.Waiting++
				mu.Unlock()
			}
		}
	})
	return all
}

// each calls do for the devices, Concurrency at a time, until ctx is done.
func (f *Fleet) each(ctx context.Context, do func(*member)) {
	work := make(chan *member)
	var wg sync.WaitGroup
	for range min(f.opts.Concurrency, len(f.members)) {
		wg.Go(func() {
			for m := range work {
				do(m)
			}
		})
	}
	for _, m := range f.members {
		if ctx.Err() != nil {
			break
		}
		work <- m
	}
	close(work)
	wg.Wait()
}

// Close ends the idle connections of the devices. Run does it by itself.
func (f *Fleet) Close() {
	for _, m := range f.members {
		m.device.Close()
	}
}
