package mdm

import (
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Wakeup is how far the waking of a device is: there is one from the first command on
// until the device has finished all.
type Wakeup struct {
	DeviceID DeviceID    `json:"device_id"`
	Topic    string      `json:"topic"` // by which it is pushed, that of its profile
	State    WakeupState `json:"state"`
	// NextAt is when it is looked at next. While State is WakeSending that is when whoever
	// sends must be taken for dead.
	NextAt time.Time `json:"next_at"`
	Claim  string    `json:"claim,omitempty"` // of who sends

	AskedAt  time.Time `json:"asked_at,omitzero"`  // the newest reason to wake the device
	PushedAt time.Time `json:"pushed_at,omitzero"` // the last push that Apple took
	TriedAt  time.Time `json:"tried_at,omitzero"`  // the last push

	// Pushes counts those that Apple took since AskedAt, Tries those in a row that it did not.
	Pushes int `json:"pushes,omitempty"`
	Tries  int `json:"tries,omitempty"`
	// Repeats counts pushes since the device last put a command off, at PutOffAt.
	Repeats  int       `json:"repeats,omitempty"`
	PutOffAt time.Time `json:"put_off_at,omitzero"`
	// To is the token that was pushed to last, as a digest; empty: none, or it is another now.
	To string `json:"to,omitempty"`
	// Forced says that somebody asked for a push, commands or not.
	Forced bool `json:"forced,omitempty"`

	Status int    `json:"status,omitempty"` // of the last push, as of [apns.Result]
	Reason string `json:"reason,omitempty"`
}

// WakeupState says what waking a device has come to.
type WakeupState string

// The states of a [Wakeup].
const (
	WakeDue     WakeupState = "due"       // to be pushed, as soon as its topic allows
	WakeSending WakeupState = "sending"   // being pushed
	WakeSent    WakeupState = "sent"      // Apple has the push; it is repeated at NextAt if need be
	WakeRetry   WakeupState = "retry"     // it did not go, and is tried again at NextAt
	WakeRefused WakeupState = "refused"   // Apple does not take it; tried again, but seldom
	WakeDead    WakeupState = "dead"      // Apple knows no device with this token
	WakeGivenUp WakeupState = "exhausted" // the limit is reached: only a new command wakes the device again
)

const wakeupsDue = "due"

var wakeups = storage.NewCollection("mdm.wakeups", 1, func(w Wakeup) string { return string(w.DeviceID) },
	storage.Index[Wakeup]{Name: wakeupsDue, Values: func(w Wakeup) []string { return []string{dueValue(w.Topic, w.NextAt)} }},
)

func dueValue(topic string, at time.Time) string {
	return string(storage.Key(topic, seqAt(max(at.UnixNano(), 0))))
}

// GetWakeup returns how the waking of a device stands, or an error that wraps
// storage.ErrNotFound where nobody wakes it.
func GetWakeup(tx storage.Tx, id DeviceID) (Wakeup, error) { return wakeups.Get(tx, string(id)) }

// ReadWakeup is what [storage.Tx.Prefetch] takes for GetWakeup.
func ReadWakeup(id DeviceID) storage.Read { return wakeups.Read(string(id)) }

// PutWakeup writes w.
func PutWakeup(tx storage.Tx, w Wakeup) error {
	if err := wakeups.Put(tx, w); err != nil {
		return fmt.Errorf("wake-up of %s: %w", w.DeviceID, err)
	}
	return nil
}

// DeleteWakeup forgets that a device is to be woken.
func DeleteWakeup(tx storage.Tx, id DeviceID) error {
	if err := wakeups.Delete(tx, string(id)); err != nil {
		return fmt.Errorf("wake-up of %s: %w", id, err)
	}
	return nil
}

// Wakeups yields those of a topic that are to be looked at before a time, the first ones
// first; the zero time is the end of all time. 0 is no limit.
func Wakeups(tx storage.Tx, topic string, before time.Time, limit int) iter.Seq2[Wakeup, error] {
	to := ""
	if before.IsZero() {
		to = string(storage.Key(topic, "~")) // after all digits
	} else {
		to = dueValue(topic, before)
	}
	return wakeups.Ascend(tx, wakeupsDue, string(storage.Key(topic, "")), to, limit)
}

// Pushing is how pushing goes for all devices of a topic: one record, so that what is
// wrong with a certificate or with the way to Apple is tried, and told, once and not once
// for each device.
type Pushing struct {
	Topic string `json:"topic"`
	// Trouble is what keeps all of the topic from being pushed; empty: nothing.
	Trouble PushTrouble `json:"trouble,omitempty"`
	Reason  string      `json:"reason,omitempty"` // Apple's word, or that of [apns.Result]
	Status  int         `json:"status,omitempty"`
	Detail  string      `json:"detail,omitempty"`
	Since   time.Time   `json:"since,omitzero"`
	// PausedUntil is when one device is tried again; until then nobody is pushed.
	PausedUntil time.Time `json:"paused_until,omitzero"`
	Failures    int       `json:"failures,omitempty"` // in a row
	// Certificate is the SHA-256 of the one that was refused: another ends the trouble.
	Certificate string `json:"certificate,omitempty"`
	// Announced is the trouble that there was an event of, which one of its end follows.
	Announced PushTrouble `json:"announced,omitempty"`
	// RefusedAt is since when Apple has refused pushes to single devices, and Refused its word;
	// Told says that this was an event.
	RefusedAt time.Time `json:"refused_at,omitzero"`
	Refused   string    `json:"refused,omitempty"`
	Told      bool      `json:"told,omitempty"`
	// Hasten says that those who wait longer, because they were refused, are to be tried now.
	Hasten bool `json:"hasten,omitempty"`
}

// PushTrouble is a kind of trouble with a topic.
type PushTrouble string

// The kinds of trouble.
const (
	NoPushTrouble       PushTrouble = ""
	PushUnreachable     PushTrouble = "unreachable"    // no answer, or Apple's own trouble
	PushCertificateGone PushTrouble = "no_certificate" // there is none, or it has expired
	PushCertificateBad  PushTrouble = "certificate"    // Apple refuses it
	PushAllRefused      PushTrouble = "all_refused"    // Apple refuses pushes to whatever device
)

// PushSomeRefused is what events call it when Apple refuses pushes to single devices, which
// keeps nobody else.
const PushSomeRefused PushTrouble = "refused"

var pushing = storage.NewCollection("mdm.pushing", 1, func(p Pushing) string { return p.Topic })

// GetPushing returns how pushing goes for a topic; one that nothing is known of has no trouble.
func GetPushing(tx storage.Tx, topic string) (Pushing, error) {
	p, err := pushing.Get(tx, topic)
	if errors.Is(err, storage.ErrNotFound) {
		return Pushing{Topic: topic}, nil
	}
	if err != nil {
		return Pushing{}, fmt.Errorf("pushing by %s: %w", topic, err)
	}
	return p, nil
}

// ReadPushing is what [storage.Tx.Prefetch] takes for GetPushing.
func ReadPushing(topic string) storage.Read { return pushing.Read(topic) }

// PutPushing writes p.
func PutPushing(tx storage.Tx, p Pushing) error {
	if err := pushing.Put(tx, p); err != nil {
		return fmt.Errorf("pushing by %s: %w", p.Topic, err)
	}
	return nil
}

// HasPushing says whether there is a record of a topic.
func HasPushing(tx storage.Tx, topic string) (bool, error) { return pushing.Has(tx, topic) }

// AllPushing yields how pushing goes, for each topic that was ever to be pushed by.
func AllPushing(tx storage.Tx) iter.Seq2[Pushing, error] { return pushing.All(tx, storage.Range{}) }

// Outstanding is what a device has not finished.
type Outstanding struct {
	Any    bool
	Queued bool   // some of it was never sent
	NotNow *Entry // of what it has put off, what it has put off least often
}

// Outstanding looks at the first hundred of the commands that a device has not finished,
// whose time is not up, and for which it may be woken.
func (s *Service) Outstanding(tx storage.Tx, id DeviceID) (o Outstanding, err error) {
	n := 0
	for e, err := range pending(tx, id) {
		if err != nil {
			return Outstanding{}, fmt.Errorf("queue of %s: %w", id, err)
		}
		if e.expired(s.now()) || e.NoPush {
			continue
		}
		if n++; n > 100 {
			break
		}
		o.Any = true
		switch e.State {
		case Queued:
			o.Queued = true
		case NotNow:
			if o.NotNow == nil || e.NotNowCount < o.NotNow.NotNowCount {
				o.NotNow = &e
			}
		}
	}
	return o, nil
}

// TargetsOf returns the targets of a command, or an error that wraps storage.ErrNotFound.
func TargetsOf(tx storage.Tx, uuid string) ([]DeviceID, error) {
	c, err := commands.Get(tx, uuid)
	if err != nil {
		return nil, fmt.Errorf("command %s: %w", uuid, err)
	}
	return c.Targets, nil
}
