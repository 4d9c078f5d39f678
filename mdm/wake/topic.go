package wake

import (
	"context"
	"errors"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Pauses of a topic after which it is tried again with one device, or with a few.
const (
	firstPause = time.Second // where Apple can't be reached
	lastPause  = 16 * time.Second
	badPause   = time.Hour        // where Apple refuses the certificate
	gonePause  = time.Minute      // where there is none: nothing is sent to find that out
	allPause   = 20 * time.Second // where Apple refuses all devices, each of which has a wait of its own

	manyRefused = 10 // devices of one batch that were not refused before, and none taken: not their fault
	tellAfter   = 3  // failures in a row to reach Apple, before that is an event
)

// tally is what became of the pushes of a batch.
type tally struct {
	sent, retry, refused int
	fresh                int          // of those refused, that were not before
	whole                *apns.Result // about all of the topic
	refusal              *apns.Result // of a single device
	trouble              *apns.Result // to be tried again
	paused               bool         // Apple could not be reached before
	certificate          string       // its SHA-256
}

func tallyOf(jobs []job, results []apns.Result, stopped bool) (t tally) {
	for i, r := range results {
		switch {
		case r.Outcome == apns.Sent, r.Outcome == apns.TokenInvalid:
			t.sent++ // the way to Apple is good
			continue
		case r.Ours, stopped:
			continue
		case r.Outcome == apns.Refused && !r.Whole:
			t.refused++
			t.refusal = &r
			if jobs[i].was != mdm.WakeRefused {
				t.fresh++
			}
		case r.Outcome == apns.Retry && r.Status != tooManyRequests:
			t.retry++
			t.trouble = &r
		}
		// That Apple has trouble with one request is no word about the others.
		if r.Whole && (r.Outcome == apns.Refused || r.Status == 0) && (t.whole == nil || r.Outcome == apns.Refused) {
			t.whole = &r
		}
	}
	return t
}

// unreachable says that Apple took none of a batch, and that others would fare alike: one
// answer to one device does not say that.
func (t tally) unreachable() bool {
	return t.sent == 0 && t.refused == 0 && (t.retry > 1 || t.retry > 0 && (t.whole != nil || t.paused))
}

// kind is what the batch tells of its topic, which has the trouble before.
func (t tally) kind(before mdm.PushTrouble) (kind mdm.PushTrouble, by *apns.Result) {
	switch {
	case t.sent > 0:
		return mdm.NoPushTrouble, nil
	case t.whole != nil && t.whole.Outcome == apns.Refused:
		if t.whole.Status == 0 && (t.whole.Reason == apns.ReasonNoCertificate || t.whole.Reason == apns.ReasonCertificateExpired) {
			return mdm.PushCertificateGone, t.whole
		}
		return mdm.PushCertificateBad, t.whole
	case t.unreachable():
		if t.whole != nil {
			return mdm.PushUnreachable, t.whole
		}
		return mdm.PushUnreachable, t.trouble
	case t.fresh >= manyRefused, t.refused > 0 && before == mdm.PushAllRefused:
		return mdm.PushAllRefused, t.refusal
	case t.refused > 0:
		return mdm.NoPushTrouble, nil // Apple answers: to this one, no
	}
	return before, nil // it tells nothing
}

// judgeTopic writes down what a batch tells of its topic, and returns that if it is news.
func (s *Service) judgeTopic(tx storage.Tx, p mdm.Pushing, t tally) (news *mdm.Pushing, err error) {
	now := s.now().UTC()
	was := p
	kind, by := t.kind(p.Trouble)
	switch {
	case by != nil:
		if p.Trouble != kind {
			p.Trouble, p.Since, p.Failures = kind, now, 0
		}
		p.Status, p.Reason, p.Detail, p.Certificate = by.Status, by.Reason, by.Detail, t.certificate
		// What somebody asks for while the topic rests does not prolong that.
		if p.Failures == 0 || !p.PausedUntil.After(now) {
			p.Failures++
			p.PausedUntil = now.Add(pause(p))
		}
	case kind == mdm.NoPushTrouble && p.Trouble != mdm.NoPushTrouble:
		p.Trouble, p.Since, p.Failures, p.PausedUntil = kind, time.Time{}, 0, time.Time{}
		p.Status, p.Reason, p.Detail = 0, "", ""
		p.Hasten = was.Trouble != mdm.PushUnreachable && t.sent > 0
	}
	if t.refused > 0 && p.RefusedAt.IsZero() {
		p.RefusedAt, p.Refused, p.Certificate = now, t.refusal.Reason, t.certificate
	}
	if p == was {
		return nil, nil
	}
	announced := p.Announced
	if now := told(p); now != mdm.NoPushTrouble {
		p.Announced = now
	} else if p.Trouble == mdm.NoPushTrouble {
		p.Announced = mdm.NoPushTrouble
	}
	singles := !p.RefusedAt.IsZero() && !p.Told && p.Trouble != mdm.PushAllRefused && was.Trouble != mdm.PushAllRefused
	p.Told = p.Told || singles
	if err := mdm.PutPushing(tx, p); err != nil {
		return nil, err
	}
	if p.Topic == demoTopic {
		return nil, nil
	}
	if singles {
		if err := s.failing(tx, p.Topic, mdm.PushSomeRefused, p.Refused,
			"Apple refuses pushes to a device of this topic ("+p.Refused+"). If it does so for many, the push certificate is not the one that they enrolled with. Pushes are kept and tried again."); err != nil {
			return nil, err
		}
	}
	switch {
	case p.Announced == announced:
		return nil, nil
	case p.Announced == mdm.NoPushTrouble:
		return &p, s.goesAgain(tx, was, announced)
	}
	return &p, s.failing(tx, p.Topic, p.Trouble, p.Reason, p.Sentence())
}

// pause is how long a topic with trouble rests.
func pause(p mdm.Pushing) time.Duration {
	switch p.Trouble {
	case mdm.PushCertificateGone:
		return gonePause
	case mdm.PushCertificateBad:
		return jitter(badPause)
	case mdm.PushAllRefused:
		return jitter(allPause)
	}
	return jitter(min(firstPause<<min(p.Failures-1, 10), lastPause))
}

// told is the trouble of a topic that is worth an event.
func told(p mdm.Pushing) mdm.PushTrouble {
	if p.Trouble == mdm.PushUnreachable && p.Failures < tellAfter {
		return mdm.NoPushTrouble
	}
	return p.Trouble
}

func (s *Service) failing(tx storage.Tx, topic string, kind mdm.PushTrouble, word, sentence string) error {
	return event.Record(tx, event.Event{
		At: s.now().UTC(), Actor: ourselves, Action: "push.failing", Outcome: event.Failed, Reason: sentence,
		Details: map[string]string{"topic": topic, "trouble": string(kind), "reason": word},
	})
}

func (s *Service) goesAgain(tx storage.Tx, was mdm.Pushing, kind mdm.PushTrouble) error {
	word := was.Reason
	if kind == mdm.PushSomeRefused {
		word = was.Refused
	}
	return event.Record(tx, event.Event{
		At: s.now().UTC(), Actor: ourselves, Action: "push.recovered",
		Details: map[string]string{"topic": was.Topic, "trouble": string(kind), "reason": word},
	})
}

// endAlarm ends what is not true any more of a topic: that devices are refused, when none is,
// and that it can't be pushed by, when nobody is to be.
func (s *Service) endAlarm(ctx context.Context, topic string) error {
	return s.db.Update(ctx, func(tx storage.Tx) error {
		p, err := mdm.GetPushing(tx, topic)
		if err != nil {
			return err
		}
		anybody, refused := false, false
		for w, err := range mdm.Wakeups(tx, topic, time.Time{}, 0) {
			if err != nil {
				return err
			}
			anybody = true
			if refused = w.State == mdm.WakeRefused || w.Tries > 0 && (w.State == mdm.WakeSending || w.State == mdm.WakeRetry); refused {
				break
			}
		}
		was := p
		if !refused && p.Trouble != mdm.PushAllRefused {
			p.RefusedAt, p.Refused, p.Told = time.Time{}, "", false
		}
		if !anybody { // the record stays: whoever files a wake-up now has seen that it is there
			p = mdm.Pushing{Topic: topic}
		}
		if p == was {
			return nil
		}
		if err := mdm.PutPushing(tx, p); err != nil || topic == demoTopic {
			return err
		}
		if was.Told && !p.Told {
			if err := s.goesAgain(tx, was, mdm.PushSomeRefused); err != nil {
				return err
			}
		}
		if was.Announced != mdm.NoPushTrouble && p.Announced == mdm.NoPushTrouble {
			return s.goesAgain(tx, was, was.Announced)
		}
		return nil
	})
}

// certificate returns the SHA-256 of the certificate of a topic, empty if there is none.
func (s *Service) certificate(tx storage.Tx, topic string) (string, error) {
	c, err := s.certificates.Get(tx, topic)
	if errors.Is(err, storage.ErrNotFound) {
		return "", nil
	}
	return c.SHA256, err
}

func (s *Service) tellTopic(ctx context.Context, p mdm.Pushing) {
	if p.Trouble == mdm.NoPushTrouble {
		s.log.InfoContext(ctx, "pushing goes again", "topic", p.Topic)
		return
	}
	s.log.WarnContext(ctx, "pushing fails", "topic", p.Topic, "trouble", p.Trouble, "status", p.Status, "reason", p.Reason, "detail", p.Detail, "next_try", p.PausedUntil)
}

// look is what a round finds to do for one topic.
type look struct {
	topic  string
	due    bool          // there is something to take
	limit  int           // how much of it at a time; less than a batch: that only, to try
	resume bool          // the certificate is another one, or refused devices are to be hastened
	alarm  bool          // there is something that may not be true any more
	wait   time.Duration // until there may be something
}

// lookAt says what there is to do for a topic.
func (s *Service) lookAt(tx storage.Tx, p mdm.Pushing) (l look, err error) {
	now := s.now()
	l = look{topic: p.Topic, wait: idle, limit: batch, resume: p.Hasten, alarm: p.Trouble != mdm.NoPushTrouble || !p.RefusedAt.IsZero()}
	if l.alarm {
		sum, err := s.certificate(tx, p.Topic)
		if err != nil {
			return l, err
		}
		if sum != p.Certificate {
			l.resume = true
			return l, nil
		}
	}
	if p.Trouble != mdm.NoPushTrouble {
		l.limit = 1
		if p.Trouble == mdm.PushAllRefused {
			l.limit = manyRefused // one of them may be refused for itself
		}
		// A pause that lies further ahead than any is was begun by a clock that was wrong.
		if wait := p.PausedUntil.Sub(now); wait > 0 && wait < 2*badPause {
			l.wait = min(wait, idle)
			return l, nil
		}
	}
	for w, err := range mdm.Wakeups(tx, p.Topic, time.Time{}, 1) {
		if err != nil {
			return l, err
		}
		if w.NextAt.After(now) {
			l.wait = min(w.NextAt.Sub(now), idle)
		} else {
			l.due, l.wait = true, 0
		}
	}
	return l, nil
}

// resume tries a topic anew whose certificate is another one, and hastens those that were
// refused.
func (s *Service) resume(ctx context.Context, topic string) error {
	return s.db.Update(ctx, func(tx storage.Tx) error {
		p, err := mdm.GetPushing(tx, topic)
		if err != nil {
			return err
		}
		sum, err := s.certificate(tx, topic)
		if err != nil {
			return err
		}
		if sum != p.Certificate {
			// Its trouble is as it may be until a push has shown how it is.
			p.Certificate, p.PausedUntil, p.Hasten = sum, time.Time{}, true
		}
		if p.Hasten {
			if p.Hasten, err = s.hasten(tx, topic); err != nil {
				return err
			}
		}
		return mdm.PutPushing(tx, p)
	})
}

// hasten makes a batch of the refused devices of a topic due.
func (s *Service) hasten(tx storage.Tx, topic string) (more bool, err error) {
	now := s.now().UTC()
	var list []mdm.Wakeup
	for w, err := range mdm.Wakeups(tx, topic, time.Time{}, 0) {
		if err != nil {
			return false, err
		}
		if w.State != mdm.WakeRefused && !(w.State == mdm.WakeGivenUp && w.Tries > 0) || !w.NextAt.After(now) {
			continue
		}
		if len(list) == batch {
			more = true
			break
		}
		list = append(list, w)
	}
	for _, w := range list {
		w.State, w.NextAt, w.Tries = mdm.WakeRefused, now, 0
		if err := mdm.PutWakeup(tx, w); err != nil {
			return false, err
		}
	}
	return more, nil
}
