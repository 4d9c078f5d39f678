package wake

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	idle       = 10 * time.Second // between looks that nothing calls for: at other replicas' work, and news that got lost
	alarmCheck = 10 * time.Minute // between looks whether an alarm about single devices is true yet

	lanes = 2 // calls of a Pusher for one topic at a time: one sends while the other writes down
)

// dispatcher is what one process has in hand.
type dispatcher struct {
	*Service
	mu   sync.Mutex
	busy map[string]int // lanes in use, by topic
	done chan struct{}  // holds a value when a lane has become free
	wg   sync.WaitGroup

	checked map[string]time.Time // when an alarm was looked at, by topic
}

// Run wakes devices until ctx ends. All replicas do.
func (s *Service) Run(ctx context.Context) error {
	changed, stop := s.db.Watch(topic)
	defer stop()
	renewed, stopRenewed := s.db.Watch(apns.CertificatesTopic)
	defer stopRenewed()
	d := &dispatcher{Service: s, busy: make(map[string]int), done: make(chan struct{}, 1), checked: make(map[string]time.Time)}
	defer d.wg.Wait()
	failures := 0
	for {
		wait, err := d.round(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			failures++
			wait = min(time.Second<<min(failures-1, 10), idle)
			s.log.WarnContext(ctx, "wake-ups wait for the database", "err", err)
		default:
			failures = 0
		}
		timer := time.NewTimer(wait + rand.N(wait/8+1))
		select {
		case <-ctx.Done():
		case <-changed:
		case <-renewed:
		case <-d.done:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// round does what there is to do, and says when to look again.
func (d *dispatcher) round(ctx context.Context) (wait time.Duration, err error) {
	wait, err = d.untilCall(ctx)
	if err != nil {
		return 0, err
	}
	if wait == 0 {
		// A batch at a time: what is due meanwhile does not wait for all of a large fleet.
		jobs, more, err := d.takeCalls(ctx, d.free)
		if err != nil {
			return 0, err
		}
		for topic, list := range jobs {
			d.launch(ctx, topic, list)
		}
		if !more {
			wait = idle
		}
	}
	looks, err := d.looks(ctx)
	if err != nil {
		return 0, err
	}
	for _, l := range looks {
		next, err := d.tend(ctx, l)
		if err != nil {
			return 0, err
		}
		wait = min(wait, next)
	}
	return wait, nil
}

// untilCall says how long it is until the outbox has something due: 0 for now.
func (d *dispatcher) untilCall(ctx context.Context) (wait time.Duration, err error) {
	err = d.db.View(ctx, func(tx storage.Tx) error {
		wait = idle
		for _, urgent := range []bool{true, false} {
			r := storage.Range{Prefix: storage.KeyPrefix(place(urgent)), Limit: 1}
			for c, err := range calls.All(tx, r) {
				if err != nil {
					return err
				}
				wait = min(wait, max(c.Due.Sub(d.now()), 0))
			}
		}
		return nil
	})
	return wait, err
}

func (d *dispatcher) looks(ctx context.Context) (list []look, err error) {
	err = d.db.View(ctx, func(tx storage.Tx) error {
		list = nil
		for p, err := range mdm.AllPushing(tx) {
			if err != nil {
				return err
			}
			l, err := d.lookAt(tx, p)
			if err != nil {
				return err
			}
			list = append(list, l)
		}
		return nil
	})
	return list, err
}

// tend does what there is to do for a topic, and says when to look at it again.
func (d *dispatcher) tend(ctx context.Context, l look) (wait time.Duration, err error) {
	if l.resume {
		return 0, d.resume(ctx, l.topic)
	}
	if now := d.now(); l.alarm && now.Sub(d.checked[l.topic]).Abs() >= alarmCheck {
		d.checked[l.topic] = now
		if err := d.endAlarm(ctx, l.topic); err != nil {
			return 0, err
		}
	}
	if !l.due {
		return l.wait, nil
	}
	probe := l.limit < batch
	for more := true; more; {
		if !d.free(l.topic) || probe && !d.quiet(l.topic) {
			return idle, nil // done tells when
		}
		var jobs []job
		err := d.db.Update(ctx, func(tx storage.Tx) error {
			jobs, more = nil, false
			tx.Prefetch(ReadSettings())
			set, err := GetSettings(tx)
			if err == nil {
				jobs, more, err = d.due(tx, l.topic, l.limit, set)
			}
			return err
		})
		if err != nil {
			return 0, err
		}
		if len(jobs) > 0 {
			d.launch(ctx, l.topic, jobs)
			if probe {
				return idle, nil
			}
		}
	}
	return 0, nil // for when the next is due
}

// free says that a topic has a lane.
func (d *dispatcher) free(topic string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.busy[topic] < lanes
}

// quiet says that a topic uses none.
func (d *dispatcher) quiet(topic string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.busy[topic] == 0
}

// launch sends jobs beside what else there is to do.
func (d *dispatcher) launch(ctx context.Context, topic string, jobs []job) {
	d.mu.Lock()
	d.busy[topic]++
	d.mu.Unlock()
	d.wg.Go(func() {
		if _, err := d.send(ctx, topic, jobs); err != nil {
			d.log.WarnContext(ctx, "pushes are repeated", "err", err)
		}
		d.mu.Lock()
		d.busy[topic]--
		d.mu.Unlock()
		select {
		case d.done <- struct{}{}:
		default: // it is known already
		}
	})
}
