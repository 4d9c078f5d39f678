package mdm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Waiting says why a device has not finished a command.
type Waiting struct {
	Code   string // one of the Waits constants
	Reason string // a sentence
	// PushedAt is when Apple last took a wake-up for the device since the command was queued;
	// zero: it has not.
	PushedAt time.Time
}

// Codes of Waiting.
const (
	WaitsForAnswer   = "delivered"        // the device has it and has not answered
	WaitsForUnlock   = "not_now"          // the device was locked or busy
	WaitsForSignIn   = "sign_in_required" // its user must sign in first
	WaitsForOther    = "behind_another"   // other commands come first
	WaitsForToken    = "no_push_token"    // it can't be woken
	WaitsForDevice   = "not_seen"         // the device has not been heard of since
	WaitsForNextPoll = "queued"           // it comes at the device's next poll
	WaitsForSweep    = "expired"          // its time is up
	WaitsForPush     = "push_failing"     // it can't be woken now, see the device's push state
)

// Waits returns why each of entries, which may be of several devices, is pending: one
// Waiting for each, empty for one that is final.
func (s *Service) Waits(ctx context.Context, entries []Entry) (all []Waiting, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		all = make([]Waiting, len(entries))
		known := make(map[DeviceID]*waiter)
		for i, e := range entries {
			if i%readChunk == 0 {
				for _, e := range entries[i:min(i+readChunk, len(entries))] {
					if !e.State.Final() {
						tx.Prefetch(append(s.readOverview(e.DeviceID), ReadDevice(e.DeviceID), ReadWakeup(e.DeviceID))...)
					}
				}
			}
			if e.State.Final() {
				continue
			}
			w, ok := known[e.DeviceID]
			if !ok {
				if w, err = s.waiter(tx, e.DeviceID); err != nil {
					return err
				}
				known[e.DeviceID] = w
			}
			all[i] = w.why(e, s.now())
			if !w.push.PushedAt.Before(e.CreatedAt) {
				all[i].PushedAt = w.push.PushedAt
			}
		}
		return nil
	})
	return all, err
}

// waiter is what decides on when a device gets its commands.
type waiter struct {
	device   Device
	lastSeen time.Time
	head     *Entry // the next one
	ahead    map[string]int
	push     PushStatus
}

func (s *Service) waiter(tx storage.Tx, id DeviceID) (*waiter, error) {
	w := &waiter{ahead: make(map[string]int)}
	var err error
	w.device, err = GetDevice(tx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return w, nil
	}
	if err != nil {
		return nil, err
	}
	if w.lastSeen, err = s.LastSeen(tx, id); err != nil {
		return nil, err
	}
	if w.push, err = PushStatusOf(tx, w.device, s.now()); err != nil {
		return nil, err
	}
	n := 0
	for e, err := range pending(tx, id) {
		if err != nil {
			return nil, fmt.Errorf("queue of %s: %w", id, err)
		}
		if w.head == nil {
			w.head = &e
		}
		w.ahead[e.UUID] = n
		if n++; n == readChunk {
			break
		}
	}
	return w, nil
}

// why says why e waits.
func (w *waiter) why(e Entry, now time.Time) Waiting {
	seen := "It has not been heard of yet."
	if !w.lastSeen.IsZero() {
		seen = fmt.Sprintf("It was last heard of %s ago.", Ago(now.Sub(w.lastSeen)))
	}
	switch {
	case e.expired(now):
		return Waiting{Code: WaitsForSweep, Reason: "Its time is up: it is not sent any more."}
	case !w.device.SignInRequiredAt.IsZero() && e.State != Delivered:
		return Waiting{Code: WaitsForSignIn, Reason: "The device gets no commands before its user has signed in again."}
	case e.State == Delivered:
		return Waiting{Code: WaitsForAnswer, Reason: fmt.Sprintf("The device was sent it %s ago and has not answered. %s It is sent again at the device’s next poll.", Ago(now.Sub(e.DeliveredAt)), seen)}
	case e.State == NotNow:
		return Waiting{Code: WaitsForUnlock, Reason: fmt.Sprintf("The device was locked or busy (%s). It is sent again at the device’s next poll.", times(e.NotNowCount))}
	case w.ahead[e.UUID] > 0 && w.head != nil && w.head.State == Delivered:
		return Waiting{Code: WaitsForOther, Reason: fmt.Sprintf("It waits behind %s, which the device was sent %s ago and has not answered.", w.head.RequestType, Ago(now.Sub(w.head.DeliveredAt)))}
	case w.push.stuck():
		return Waiting{Code: WaitsForPush, Reason: w.push.Sentence + " It gets the command when it polls by itself. " + seen}
	case w.device.Push == nil:
		return Waiting{Code: WaitsForToken, Reason: "The device has no push token, so it can’t be woken: it gets the command when it polls by itself. " + seen}
	case w.lastSeen.Before(e.CreatedAt):
		if w.push.PushedAt.Before(e.CreatedAt) {
			return Waiting{Code: WaitsForDevice, Reason: "The device has not connected since the command was queued. " + seen}
		}
		return Waiting{Code: WaitsForDevice, Reason: fmt.Sprintf("The device has not connected since the command was queued. Apple took a wake-up for it %s ago. %s", Ago(now.Sub(w.push.PushedAt)), seen)}
	case w.ahead[e.UUID] == 1:
		return Waiting{Code: WaitsForOther, Reason: "It waits behind another command. " + seen}
	case w.ahead[e.UUID] > 1:
		return Waiting{Code: WaitsForOther, Reason: fmt.Sprintf("It waits behind %d other commands. %s", w.ahead[e.UUID], seen)}
	}
	return Waiting{Code: WaitsForNextPoll, Reason: "It is sent at the device’s next poll. " + seen}
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// Ago is a duration as a person says it: "3 minutes".
func Ago(d time.Duration) string {
	for _, unit := range []struct {
		of   time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		switch n := int(d / unit.of); {
		case n == 1:
			return "1 " + unit.name
		case n > 1:
			return fmt.Sprintf("%d %ss", n, unit.name)
		}
	}
	return "less than a minute"
}
