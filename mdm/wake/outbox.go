package wake

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// call is the outbox's word that the devices of a command are to be woken: those of its
// targets from First to before End.
type call struct {
	Seq     string    `json:"seq"` // of the command
	Command string    `json:"command"`
	First   int       `json:"first"`
	End     int       `json:"end"`
	At      time.Time `json:"at"`  // when the command was queued for them
	Due     time.Time `json:"due"` // not before
	Urgent  bool      `json:"urgent,omitempty"`
}

func (c call) key() string {
	return string(storage.Key(place(c.Urgent), timeKey(c.Due), c.Seq, fmt.Sprint(c.First)))
}

// place has calls for what is urgent come before all others.
func place(urgent bool) string {
	if urgent {
		return "!"
	}
	return "-"
}

// dueCalls is the range of calls that are due at a time.
func dueCalls(urgent bool, at time.Time) storage.Range {
	return storage.Range{Start: storage.Key(place(urgent)), End: storage.Key(place(urgent), timeKey(at.Add(1))), Limit: batch}
}

// calls are in the order in which they are due, those for what is urgent before the others.
var calls = storage.NewCollection("mdm.wake_outbox", 1, call.key)

func timeKey(at time.Time) string { return fmt.Sprintf("%016x", max(at.UnixNano(), 0)) }

// topic wakes those who wake.
const topic = "mdm.wake"

// Queued implements [mdm.Waker].
func (s *Service) Queued(tx storage.Tx, c mdm.Command, first int, after time.Duration) error {
	now := s.now().UTC()
	return errors.Join(
		calls.Put(tx, call{
			Seq: c.Seq, Command: c.UUID, First: first, End: len(c.Targets), At: now, Due: now.Add(after), Urgent: c.Priority == mdm.Urgent,
		}),
		tx.Notify(topic),
	)
}

// Times that NotNow is about: the first repeated push comes within 45 s of it.
const (
	firstNotNow = 30 * time.Second
	lastNotNow  = time.Hour
)

// notNowDelay is when a device is woken that has put a command off n times.
func notNowDelay(n int) time.Duration {
	return min(firstNotNow<<min(max(n-1, 0), 20), lastNotNow)
}

// NotNow implements [mdm.Waker].
func (s *Service) NotNow(tx storage.Tx, e mdm.Entry) error {
	now := s.now().UTC()
	w, err := mdm.GetWakeup(tx, e.DeviceID)
	if errors.Is(err, storage.ErrNotFound) {
		d, err := mdm.GetDevice(tx, e.DeviceID)
		if err != nil {
			return err
		}
		if d.Push == nil {
			return nil
		}
		w = mdm.Wakeup{DeviceID: e.DeviceID, Topic: topicOf(d), State: mdm.WakeSent, NextAt: now.Add(lastNotNow)}
		if err := s.introduce(tx, w.Topic); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	w.PutOffAt = now
	next := now.Add(notNowDelay(e.NotNowCount))
	switch {
	case w.State == mdm.WakeSending: // who sends comes to it
		return mdm.PutWakeup(tx, w)
	case w.State == mdm.WakeDue, w.State == mdm.WakeRetry, w.State == mdm.WakeRefused, w.State == mdm.WakeDead:
		return nil // it is to be pushed anyway, or there is no use
	case w.State == mdm.WakeSent && w.NextAt.After(now) && w.NextAt.Before(next):
		next = w.NextAt
	}
	w.State, w.NextAt, w.Repeats = mdm.WakeSent, next, 0
	return errors.Join(mdm.PutWakeup(tx, w), tx.Notify(topic))
}

// Reachable implements [mdm.Waker]: a new token makes good what was wrong with the old one.
func (s *Service) Reachable(tx storage.Tx, d mdm.Device) error {
	if d.Push == nil || !d.Live() {
		return nil
	}
	now := s.now().UTC()
	old, err := mdm.GetWakeup(tx, d.ID)
	switch {
	case err != nil && !errors.Is(err, storage.ErrNotFound):
		return err
	case err == nil && old.Topic == topicOf(d) && old.State == mdm.WakeSending:
		if old.To == digest(d.Push) {
			return nil
		}
		old.To, old.AskedAt = "", now // who sends comes to it
		return mdm.PutWakeup(tx, old)
	case err == nil && old.Topic == topicOf(d) && old.State == mdm.WakeSent && old.To == digest(d.Push):
		return nil // nothing was wrong
	}
	// Also where there is nothing to wake the device for: a command that is being queued now
	// does not see the token, and is not seen here.
	w := mdm.Wakeup{DeviceID: d.ID, Topic: topicOf(d), State: mdm.WakeDue, NextAt: now, AskedAt: now}
	return errors.Join(s.introduce(tx, w.Topic), mdm.PutWakeup(tx, w), tx.Notify(topic))
}

// digest tells one token from another, and no more.
func digest(p *mdm.Push) string {
	sum := sha256.Sum256(append([]byte(p.Magic+"\x00"), p.Token...))
	return hex.EncodeToString(sum[:8])
}

// introduce makes the record by which a topic is found to have devices to wake.
func (s *Service) introduce(tx storage.Tx, topic string) error {
	if known, err := mdm.HasPushing(tx, topic); err != nil || known {
		return err
	}
	return mdm.PutPushing(tx, mdm.Pushing{Topic: topic})
}
