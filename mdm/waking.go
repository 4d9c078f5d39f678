package mdm

import (
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Sentence says what is wrong with a topic and what to do, empty for nothing.
func (p Pushing) Sentence() string {
	switch p.Trouble {
	case NoPushTrouble:
		return ""
	case PushUnreachable:
		return "Apple’s push service can’t be reached, or has trouble itself" + p.words() + ". Pushes are kept and tried again every few seconds."
	case PushCertificateGone:
		if p.Reason == "CertificateExpired" {
			return "The push certificate of this topic has expired: renew it with the same Apple Account and upload it. Until then no device of the topic can be woken."
		}
		return "There is no push certificate for the topic that these devices enrolled with: upload it. Until then none of them can be woken."
	case PushCertificateBad:
		return "Apple refuses the push certificate of this topic" + p.words() + ": renew it with the same Apple Account and upload it. Until then no device of the topic can be woken."
	case PushAllRefused:
		return "Apple refuses pushes to every device of this topic" + p.words() + ": the push certificate is not the one that they enrolled with, or not for production. Pushes are kept and tried again."
	}
	return "Pushing fails" + p.words() + "."
}

// words are Apple's, in brackets.
func (p Pushing) words() string {
	switch {
	case p.Reason == "" && p.Status == 0:
		return ""
	case p.Reason == "":
		return fmt.Sprintf(" (status %d)", p.Status)
	}
	return " (" + p.Reason + ")"
}

// PushState is how the waking of a device stands, in a word.
type PushState string

// The words: those of a [WakeupState] where there is a wake-up and nothing is wrong, and
// these.
const (
	PushIdle        PushState = "idle"           // there is nothing to wake it for
	PushNoToken     PushState = "no_token"       // it has told none
	PushTokenDead   PushState = "token_dead"     // Apple knows no device with its token
	PushNoCert      PushState = "no_certificate" // there is none for its topic, or it has expired
	PushBadCert     PushState = "certificate_refused"
	PushUnreachably PushState = "unreachable" // Apple is
)

// PushStates are all of them.
var PushStates = []PushState{
	PushIdle, PushState(WakeDue), PushState(WakeSending), PushState(WakeSent), PushState(WakeRetry), PushState(WakeRefused), PushState(WakeGivenUp),
	PushNoToken, PushTokenDead, PushNoCert, PushBadCert, PushUnreachably,
}

// PushStatus is how the waking of a device stands.
type PushStatus struct {
	State    PushState
	Topic    string
	Sentence string    // what that means
	PushedAt time.Time // the last push that Apple took, while that is known
	NextAt   time.Time // of the next, if there is to be one
	Pushes   int       // taken since the newest command
	Reason   string    // Apple's word
	DeadAt   time.Time // of PushTokenDead
}

// stuck says that the device can't be woken now, though it has told a token.
func (st PushStatus) stuck() bool {
	switch st.State {
	case PushTokenDead, PushNoCert, PushBadCert, PushUnreachably, PushState(WakeRefused):
		return true
	}
	return st.State == PushState(WakeGivenUp) && st.Reason != ""
}

// PushStatusOf says how the waking of d stands.
func PushStatusOf(tx storage.Tx, d Device, now time.Time) (st PushStatus, err error) {
	if d.Push == nil {
		return PushStatus{State: PushNoToken, Sentence: "The device has not told a push token, so it can’t be woken: it gets its commands when it polls by itself."}, nil
	}
	st = PushStatus{State: PushIdle, Topic: d.Push.Topic}
	if !d.Push.DeadAt.IsZero() {
		st.State, st.DeadAt = PushTokenDead, d.Push.DeadAt
		st.Sentence = fmt.Sprintf("Apple has known no device with its push token since %s: the profile was removed, or the device was erased or is long unused. It is woken again once it tells a new token.", d.Push.DeadAt.Format(time.DateOnly))
		return st, nil
	}
	w, err := GetWakeup(tx, d.ID)
	if errors.Is(err, storage.ErrNotFound) {
		st.Sentence = "There is nothing to wake the device for."
		return st, nil
	}
	if err != nil {
		return PushStatus{}, err
	}
	st.State, st.PushedAt, st.Pushes, st.Reason = PushState(w.State), w.PushedAt, w.Pushes, w.Reason
	p, err := GetPushing(tx, w.Topic)
	if err != nil {
		return PushStatus{}, err
	}
	waits := w.State == WakeDue || w.State == WakeRetry || w.State == WakeSending || w.State == WakeRefused
	if waits && p.Trouble != NoPushTrouble {
		st.Sentence, st.NextAt, st.Reason = p.Sentence(), p.PausedUntil, p.Reason
		switch p.Trouble {
		case PushCertificateGone:
			st.State = PushNoCert
		case PushCertificateBad:
			st.State = PushBadCert
		case PushAllRefused:
			st.State = PushState(WakeRefused)
		default:
			st.State = PushUnreachably
		}
		return st, nil
	}
	pushed := ""
	if !w.PushedAt.IsZero() {
		pushed = fmt.Sprintf("Apple took a wake-up for it %s ago.", Ago(now.Sub(w.PushedAt)))
	}
	switch w.State {
	case WakeDead: // of a token that is no more: it is seen to within the day
		st.State, st.Sentence = PushIdle, "There is nothing to wake the device for."
	case WakeDue, WakeSending:
		st.Sentence = "It is about to be woken."
	case WakeSent:
		st.Sentence, st.NextAt = pushed, w.NextAt
	case WakeRetry:
		st.Sentence, st.NextAt = fmt.Sprintf("The wake-up did not go (%s) and is tried again.", word(w)), w.NextAt
	case WakeRefused:
		if w.Status == statusGone {
			st.Sentence, st.NextAt = "Apple calls its push token dead, but of a time before the device told it. It is tried again.", w.NextAt
			break
		}
		st.Sentence, st.NextAt = fmt.Sprintf("Apple refuses wake-ups for it (%s): its push token and the push certificate don’t belong together. They are tried again, but seldom.", word(w)), w.NextAt
	case WakeGivenUp:
		st.Sentence = "It is not woken again before there is a new command. " + pushed
		if w.Reason != "" {
			st.Sentence = fmt.Sprintf("Apple has refused all wake-ups for it (%s). It is not woken again before there is a new command, another push token or certificate. ", word(w)) + pushed
		}
	}
	return st, nil
}

// statusGone is HTTP's for what is gone, as Apple says of dead tokens.
const statusGone = 410

func word(w Wakeup) string {
	if w.Reason == "" {
		return fmt.Sprintf("status %d", w.Status)
	}
	return w.Reason
}
