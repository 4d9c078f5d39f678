package wake

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	batch      = 500              // devices in one transaction, and in one call of a Pusher
	sendLimit  = 10 * time.Second // for one call of a Pusher
	claimLife  = 20 * time.Second // after which who took something is dead: after sendLimit and the time to note what came of it
	mergeAfter = 2 * time.Second  // pushes to one device keep so far apart, while it has not come
	idleCheck  = 24 * time.Hour   // of what nothing is done about but to forget it one day
	refusedGap = 5 * time.Minute  // between two tries of a device that is refused, for new commands
)

// job is one push that this process has taken.
type job struct {
	device mdm.DeviceID
	claim  string
	push   apns.Push
	to     string // digest of the token
	was    mdm.WakeupState
	notNow int // how often the device has put its command off, if that is what it is woken for
}

// consider decides on w, which is due, and writes what it decides. It returns a job if the
// device is to be pushed.
func (s *Service) consider(tx storage.Tx, w mdm.Wakeup, d mdm.Device, set Settings) (*job, error) {
	now := s.now().UTC()
	o, err := s.mdm.Outstanding(tx, d.ID)
	if err != nil {
		return nil, err
	}
	if d.Push == nil || !d.Live() || !o.Any && !w.Forced {
		return nil, mdm.DeleteWakeup(tx, w.DeviceID)
	}
	later := func(state mdm.WakeupState, at time.Time) (*job, error) {
		w.State, w.NextAt, w.Claim = state, at, ""
		return nil, mdm.PutWakeup(tx, w)
	}
	if w.Topic != topicOf(d) { // it is somebody else's to take
		w.Topic = topicOf(d)
		if err := s.introduce(tx, w.Topic); err != nil {
			return nil, err
		}
		return later(mdm.WakeDue, now)
	}
	if !d.Push.DeadAt.IsZero() && !w.Forced {
		return later(mdm.WakeDead, now.Add(idleCheck))
	}
	if w.PushedAt.After(now) { // by a clock that was wrong: nothing is known
		w.PushedAt = time.Time{}
	}
	notNow := 0
	if o.NotNow != nil {
		notNow = o.NotNow.NotNowCount
	}
	switch {
	case w.Forced:
	case w.State == mdm.WakeGivenUp:
		return later(w.State, now.Add(idleCheck))
	case w.State == mdm.WakeSent && o.NotNow != nil:
		if max(notNow, w.Repeats+1) > set.NotNowRepeats {
			return later(mdm.WakeGivenUp, now.Add(idleCheck))
		}
		w.Repeats++
	case w.State == mdm.WakeSent:
		seen, err := s.mdm.LastSeen(tx, d.ID)
		if err != nil {
			return nil, err
		}
		last := w.PushedAt
		if seen.After(last) {
			last = seen
		}
		if next := last.Add(repeatDelay(set, w.Pushes)); next.After(now) {
			return later(mdm.WakeSent, next)
		}
		if w.Pushes > set.Repeats {
			return later(mdm.WakeGivenUp, now.Add(idleCheck))
		}
	case !o.Queued && o.NotNow == nil: // it came by itself, and has all
		return later(mdm.WakeSent, now.Add(repeatDelay(set, w.Pushes)))
	case w.State == mdm.WakeDue && !w.PushedAt.Before(w.AskedAt):
		return later(mdm.WakeSent, now.Add(repeatDelay(set, w.Pushes)))
	case w.State == mdm.WakeDue && now.Sub(w.PushedAt) < mergeAfter:
		seen, err := s.mdm.LastSeen(tx, d.ID)
		if err != nil {
			return nil, err
		}
		if !seen.After(w.PushedAt) {
			return later(mdm.WakeDue, w.PushedAt.Add(mergeAfter))
		}
	}
	j := &job{device: d.ID, claim: rand.Text(), to: digest(d.Push), push: apns.Push{Token: d.Push.Token, Magic: d.Push.Magic}, was: w.State, notNow: notNow}
	w.State, w.NextAt, w.Claim, w.TriedAt, w.To = mdm.WakeSending, now.Add(claimLife), j.claim, now, j.to
	return j, mdm.PutWakeup(tx, w)
}

// repeatDelay is how long a device has to come after so many pushes.
func repeatDelay(set Settings, pushes int) time.Duration {
	const most = 30 * 24 * time.Hour
	return min(set.RepeatAfter<<min(max(pushes-1, 0), 10), most)
}

// reads is what consider reads of a device.
func (s *Service) reads(id mdm.DeviceID) []storage.Read {
	return []storage.Read{mdm.ReadDevice(id), mdm.ReadQueue(id), mdm.ReadLastSeen(id)}
}

// due takes up to limit wake-ups of a topic that are due.
func (s *Service) due(tx storage.Tx, topic string, limit int, set Settings) (jobs []job, more bool, err error) {
	var list []mdm.Wakeup
	for w, err := range mdm.Wakeups(tx, topic, s.now().Add(1), limit) {
		if err != nil {
			return nil, false, err
		}
		list = append(list, w)
		tx.Prefetch(s.reads(w.DeviceID)...)
	}
	for _, w := range list {
		j, err := s.decide(tx, w, set)
		if err != nil {
			return nil, false, err
		}
		if j != nil {
			jobs = append(jobs, *j)
		}
	}
	return jobs, len(list) == limit, nil
}

// decide is consider for a device that may be gone.
func (s *Service) decide(tx storage.Tx, w mdm.Wakeup, set Settings) (*job, error) {
	d, err := mdm.GetDevice(tx, w.DeviceID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, mdm.DeleteWakeup(tx, w.DeviceID)
	}
	if err != nil {
		return nil, err
	}
	return s.consider(tx, w, d, set)
}

// takeCalls goes on with the outbox: it makes the wake-ups of up to a batch of devices, and
// takes those of topics for which free says that there is room.
func (s *Service) takeCalls(ctx context.Context, free func(topic string) bool) (jobs map[string][]job, more bool, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		jobs, more = make(map[string][]job), false
		tx.Prefetch(ReadSettings())
		set, err := GetSettings(tx)
		if err != nil {
			return err
		}
		ids, err := s.nextCalled(tx)
		if err != nil {
			return err
		}
		more = ids.more
		for _, id := range ids.order {
			tx.Prefetch(append(s.reads(id), mdm.ReadWakeup(id))...)
		}
		paused := make(map[string]bool)
		for _, id := range ids.order {
			if err := s.callDevice(tx, id, ids.by[id], set, free, paused, jobs); err != nil {
				return err
			}
		}
		return nil
	})
	return jobs, more, err
}

// called are devices that commands were queued for, and the newest of the calls.
type called struct {
	order []mdm.DeviceID
	by    map[mdm.DeviceID]call
	more  bool // there may be others
}

// nextCalled takes up to a batch of devices out of the outbox.
func (s *Service) nextCalled(tx storage.Tx) (called, error) {
	ids := called{by: make(map[mdm.DeviceID]call)}
	var list []call
	for _, urgent := range []bool{true, false} {
		for c, err := range calls.All(tx, dueCalls(urgent, s.now())) {
			if err != nil {
				return ids, err
			}
			list = append(list, c)
		}
	}
	ids.more = len(list) >= batch
	for _, c := range list {
		if len(ids.order) >= batch {
			ids.more = true
			break
		}
		if err := calls.Delete(tx, c.key()); err != nil {
			return ids, err
		}
		targets, err := s.targetsOf(tx, c)
		if errors.Is(err, storage.ErrNotFound) {
			continue // swept
		}
		if err != nil {
			return ids, err
		}
		end := min(c.End, len(targets))
		for c.First < end && len(ids.order) < batch {
			id := targets[c.First]
			c.First++
			newest, ok := ids.by[id]
			if !ok {
				ids.order = append(ids.order, id)
			}
			if c.At.After(newest.At) {
				c.Urgent = c.Urgent || newest.Urgent
				ids.by[id] = c
			}
		}
		if c.First < end {
			ids.more = true
			if err := calls.Put(tx, c); err != nil {
				return ids, err
			}
		}
	}
	return ids, nil
}

// targetsOf returns the targets of the command of c. Those of the last one are held, since
// a command to a large fleet is taken in many batches; targets are only ever added.
func (s *Service) targetsOf(tx storage.Tx, c call) ([]mdm.DeviceID, error) {
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	if s.held.command == c.Command && len(s.held.targets) >= c.End {
		return s.held.targets, nil
	}
	targets, err := mdm.TargetsOf(tx, c.Command)
	if err == nil && len(targets) > batch {
		s.held.command, s.held.targets = c.Command, targets
	}
	return targets, err
}

// callDevice notes that a device is to be woken for what was queued at a time, and takes it
// if it can be done at once.
func (s *Service) callDevice(tx storage.Tx, id mdm.DeviceID, by call, set Settings, free func(string) bool, paused map[string]bool, jobs map[string][]job) error {
	now := s.now().UTC()
	d, err := mdm.GetDevice(tx, id)
	if errors.Is(err, storage.ErrNotFound) || err == nil && (d.Push == nil || !d.Live()) {
		return nil // its first TokenUpdate calls it
	}
	if err != nil {
		return err
	}
	w, err := mdm.GetWakeup(tx, id)
	if errors.Is(err, storage.ErrNotFound) {
		w = mdm.Wakeup{DeviceID: id, Topic: topicOf(d), State: mdm.WakeDue, NextAt: now}
	} else if err != nil {
		return err
	}
	if w.PushedAt.Before(by.At) {
		w.Pushes = 0
	}
	// A push from after the command's time may yet be one from before its commit: only who
	// pushes by itself, and has the server wait for that, has pushed for it.
	asked := now
	if by.Due.After(by.At) {
		asked = by.At
	}
	if asked.After(w.AskedAt) || w.AskedAt.After(now) {
		w.AskedAt = asked
	}
	switch w.State {
	case mdm.WakeSending:
		if w.NextAt.Sub(now) <= 2*claimLife { // else by a clock that was wrong
			return mdm.PutWakeup(tx, w) // who sends comes to it
		}
		w.State = mdm.WakeDue
	case mdm.WakeRetry:
		return mdm.PutWakeup(tx, w) // it comes to it by itself
	case mdm.WakeRefused:
		if now.Sub(w.TriedAt) < refusedGap {
			return mdm.PutWakeup(tx, w)
		}
	default:
		w.State = mdm.WakeDue
	}
	w.NextAt = now
	if by.Urgent { // before whoever else waits for the topic
		w.NextAt = now.Add(-time.Hour)
	}
	on, known := paused[w.Topic]
	if !known {
		if err := s.introduce(tx, w.Topic); err != nil {
			return err
		}
		p, err := mdm.GetPushing(tx, w.Topic)
		if err != nil {
			return err
		}
		on = p.Trouble != mdm.NoPushTrouble || !free(w.Topic)
		paused[w.Topic] = on
	}
	if on {
		return mdm.PutWakeup(tx, w)
	}
	j, err := s.consider(tx, w, d, set)
	if err == nil && j != nil {
		jobs[w.Topic] = append(jobs[w.Topic], *j)
	}
	return err
}
