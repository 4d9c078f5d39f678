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

// Pauses of a topic after which one device is tried again.
const (
	firstPause = time.Second // where Apple can't be reached
	lastPause  = 16 * time.Second
	badPause   = time.Hour   // where Apple refuses the certificate
	gonePause  = time.Minute // where there is none: nothing is sent to find that out
	firstAll   = 5 * time.Minute
	lastAll    = time.Hour // where Apple refuses all devices

	manyRefused = 10 // pushes of one batch, and none taken: not the devices' fault
	tellAfter   = 3  // failures in a row to reach Apple, before that is an event
)

// tally is what became of the pushes of a batch.
type tally struct {
	sent, retry, refused int
	whole                *apns.Result // about all of the topic
	worst                *apns.Result // of those that were refused or are to be tried again
	cured                bool         // a device was pushed that had been refused
	paused               bool         // Apple could not be reached before
}

func tallyOf(jobs []job, results []apns.Result, stopped bool) (t tally) {
	for i, r := range results {
		switch {
		case r.Outcome == apns.Sent, r.Outcome == apns.TokenInvalid:
			t.sent++ // the way to Apple is good
			t.cured = t.cured || jobs[i].was == mdm.WakeRefused
			continue
		case r.Ours, stopped:
			continue
		case r.Outcome == apns.Refused && !r.Whole:
			t.refused++
		case r.Outcome == apns.Retry && r.Status != tooManyRequests:
			t.retry++
		}
		// That Apple has trouble with one request is no word about the others.
		if r.Whole && (r.Outcome == apns.Refused || r.Status == 0) && (t.whole == nil || r.Outcome == apns.Refused) {
			t.whole = &r
		}
		if t.worst == nil || r.Outcome == apns.Refused {
			t.worst = &r
		}
	}
	return t
}

// unreachable says that Apple took none of a batch, and that others would fare alike: one
// answer to one device does not say that.
func (t tally) unreachable() bool {
	return t.sent == 0 && t.refused == 0 && (t.retry > 1 || t.retry > 0 && (t.whole != nil || t.paused))
}

// trouble is what the batch tells of its topic.
func (t tally) trouble() (kind mdm.PushTrouble, by *apns.Result) {
	switch {
	case t.sent == 0 && t.whole != nil && t.whole.Outcome == apns.Refused:
		if t.whole.Status == 0 && (t.whole.Reason == "NoCertificate" || t.whole.Reason == "CertificateExpired") {
			return mdm.PushCertificateGone, t.whole
		}
		return mdm.PushCertificateBad, t.whole
	case t.unreachable():
		return mdm.PushUnreachable, t.worst
	case t.refused > 0:
		return mdm.PushTokensRefused, t.worst
	}
	return mdm.NoPushTrouble, nil
}

// judgeTopic writes down what a batch tells of its topic, and returns that if it is news.
func (s *Service) judgeTopic(tx storage.Tx, p mdm.Pushing, t tally) (news *mdm.Pushing, err error) {
	topic := p.Topic
	now := s.now().UTC()
	kind, by := t.trouble()
	if kind == mdm.NoPushTrouble {
		if p.Trouble == mdm.NoPushTrouble || t.sent == 0 {
			return nil, nil
		}
		if p.Trouble == mdm.PushTokensRefused && p.Failures == 0 {
			if !t.cured {
				return nil, nil // who was refused is refused yet, as far as this batch tells
			}
			if left, err := s.anyRefused(tx, topic); err != nil || left {
				return nil, err
			}
		}
		return s.recovered(tx, p)
	}
	was := p
	p.Status, p.Reason, p.Detail = by.Status, by.Reason, by.Detail
	if p.Certificate, err = s.certificate(tx, topic); err != nil {
		return nil, err
	}
	if p.Trouble != kind {
		p.Trouble, p.Since, p.Failures = kind, now, 0
	}
	p.Failures++
	switch kind {
	case mdm.PushCertificateGone:
		p.PausedUntil = now.Add(gonePause)
	case mdm.PushCertificateBad:
		p.PausedUntil = now.Add(jitter(badPause))
	case mdm.PushUnreachable:
		p.PausedUntil = now.Add(jitter(min(firstPause<<min(p.Failures-1, 10), lastPause)))
	case mdm.PushTokensRefused:
		if t.sent > 0 || t.refused < manyRefused && was.PausedUntil.IsZero() {
			p.Failures, p.PausedUntil = 0, time.Time{} // of single devices
			if was == p {
				return nil, nil
			}
		} else {
			p.PausedUntil = now.Add(jitter(min(firstAll<<min(p.Failures-1, 10), lastAll)))
		}
	}
	if err := mdm.PutPushing(tx, p); err != nil {
		return nil, err
	}
	first := was.Trouble != p.Trouble
	if kind == mdm.PushUnreachable {
		first = p.Failures == tellAfter
	}
	if !first || topic == demoTopic {
		return nil, nil
	}
	return &p, event.Record(tx, event.Event{
		At: now, Actor: ourselves, Action: "push.failing", Outcome: event.Failed, Reason: p.Sentence(),
		Details: map[string]string{"topic": topic, "trouble": string(p.Trouble), "reason": p.Reason},
	})
}

// anyRefused says whether there are devices of a topic yet that Apple refuses.
func (s *Service) anyRefused(tx storage.Tx, topic string) (bool, error) {
	for w, err := range mdm.Wakeups(tx, topic, time.Time{}, 0) {
		if err != nil {
			return false, err
		}
		if w.State == mdm.WakeRefused {
			return true, nil
		}
	}
	return false, nil
}

// recovered ends a topic's trouble.
func (s *Service) recovered(tx storage.Tx, p mdm.Pushing) (news *mdm.Pushing, err error) {
	told := p.Trouble != mdm.PushUnreachable || p.Failures >= tellAfter
	was := p
	p = mdm.Pushing{Topic: p.Topic, Hasten: p.Trouble != mdm.PushUnreachable}
	if err := mdm.PutPushing(tx, p); err != nil {
		return nil, err
	}
	if !told || p.Topic == demoTopic {
		return nil, nil
	}
	return &p, event.Record(tx, event.Event{
		At: s.now().UTC(), Actor: ourselves, Action: "push.recovered",
		Details: map[string]string{"topic": p.Topic, "trouble": string(was.Trouble), "reason": was.Reason},
	})
}

// endAlarm ends a topic's trouble if it was about devices that are gone, or have told another
// token.
func (s *Service) endAlarm(ctx context.Context, topic string) error {
	var news *mdm.Pushing
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		news = nil
		p, err := mdm.GetPushing(tx, topic)
		if err != nil || p.Trouble != mdm.PushTokensRefused || !p.PausedUntil.IsZero() {
			return err
		}
		if left, err := s.anyRefused(tx, topic); err != nil || left {
			return err
		}
		news, err = s.recovered(tx, p)
		return err
	})
	if err == nil && news != nil {
		s.tellTopic(ctx, *news)
	}
	return err
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
	probe  bool          // of which only one is to be tried
	resume bool          // the certificate is another one, or refused devices are to be hastened
	alarm  bool          // single devices are refused
	wait   time.Duration // until there may be something
}

// lookAt says what there is to do for a topic.
func (s *Service) lookAt(tx storage.Tx, p mdm.Pushing) (l look, err error) {
	now := s.now()
	l = look{topic: p.Topic, wait: idle}
	if p.Hasten {
		l.resume = true
	}
	if p.Trouble != mdm.NoPushTrouble {
		sum, err := s.certificate(tx, p.Topic)
		if err != nil {
			return l, err
		}
		if sum != p.Certificate {
			l.resume = true
			return l, nil
		}
		l.probe = !p.PausedUntil.IsZero()
		l.alarm = p.Trouble == mdm.PushTokensRefused && !l.probe
		if p.PausedUntil.After(now) {
			l.wait = min(p.PausedUntil.Sub(now), idle)
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
func (s *Service) resume(ctx context.Context, topic string) (again bool, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		again = false
		p, err := mdm.GetPushing(tx, topic)
		if err != nil {
			return err
		}
		sum, err := s.certificate(tx, topic)
		if err != nil {
			return err
		}
		if p.Trouble != mdm.NoPushTrouble && sum != p.Certificate {
			// It is as it may be until a push has shown how it is.
			p.Certificate, p.PausedUntil, p.Hasten = sum, s.now().UTC(), true
			if p.Failures == 0 {
				p.Failures = 1
			}
		}
		if p.Hasten {
			if again, err = s.hasten(tx, topic); err != nil {
				return err
			}
			p.Hasten = again
		}
		return mdm.PutPushing(tx, p)
	})
	return again, err
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
