package invite

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/mail"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	idle       = 30 * time.Second // between looks at an outbox that has nothing to do
	firstRetry = time.Minute
	lastRetry  = 2 * time.Hour    // longest wait after a message that was put off
	lastPause  = 15 * time.Minute // longest wait after a server that can't be used
	giveUp     = 24 * time.Hour   // after which a message has failed
	maxUnsure  = 1                // tries that may have been sent, and are yet repeated
)

// Rest is why, and until when, no mail is sent at all.
type Rest struct {
	Until time.Time
	Error string // what the mail server, or the way to it, failed with
}

// Rest returns nil, unless the mail server could not be used and is left alone for now.
func (s *Service) Rest(ctx context.Context) (r *Rest, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		r = nil
		o, err := getOutbox(tx)
		if err == nil && o.Failures > 0 {
			r = &Rest{Until: o.NextAt, Error: o.Error}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("outbox of invitations: %w", err)
	}
	return r, nil
}

// topic wakes the outbox of every replica.
const topic = "enroll.invitations"

// outbox is what is true of all mails: it is read and written by whoever takes one to
// send it, so that replicas share one rate and rest together.
type outbox struct {
	NextAt   time.Time `json:"next_at"`            // of the next mail
	Failures int       `json:"failures,omitempty"` // of the mail server, in a row
	Error    string    `json:"error,omitempty"`
}

const outboxKey = "outbox"

var outboxes = storage.NewCollection("enroll.invitation_outbox", 1, func(outbox) string { return outboxKey })

func getOutbox(tx storage.Tx) (outbox, error) {
	o, err := outboxes.Get(tx, outboxKey)
	if errors.Is(err, storage.ErrNotFound) {
		return outbox{}, nil
	}
	return o, err
}

// Run sends mails as they are queued, until ctx ends. Each is taken by one replica, in the
// transaction that marks it: one whose mark is older than a delivery can take was cut
// off, and is sent once more, but not twice.
func (s *Service) Run(ctx context.Context) error {
	changed, stop := s.db.Watch(topic)
	defer stop()
	failures := 0
	for {
		wait, err := s.sendDue(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			failures++
			wait = backoff(failures, time.Second, idle)
			s.log.WarnContext(ctx, "invitations not sent, will be tried again", "err", err)
		default:
			failures = 0
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-changed:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// backoff is how long to wait after so many failures in a row.
func backoff(failures int, first, most time.Duration) time.Duration {
	return min(first<<min(max(failures-1, 0), 20), most)
}

// sendDue sends what is due, one by one, and says when to look again.
func (s *Service) sendDue(ctx context.Context) (wait time.Duration, err error) {
	for ctx.Err() == nil {
		var job *job
		if job, wait, err = s.take(ctx); err != nil || wait > 0 {
			return wait, err
		}
		if job == nil {
			continue // that one was not to be sent
		}
		if err := s.finish(ctx, *job, s.send(ctx, *job)); err != nil {
			return 0, err
		}
	}
	return idle, nil
}

// job is a mail to be sent, and what it takes to write it.
type job struct {
	item     Item
	letter   Letter
	settings mail.Settings
}

func (s *Service) send(ctx context.Context, j job) error {
	m, err := s.writer.Write(ctx, j.letter)
	if err != nil {
		return fmt.Errorf("write mail: %w", err)
	}
	m.ID = fmt.Sprintf("%s.%d.%s", j.item.Invitation, j.item.N, j.item.LinkID)
	return s.mailer.Send(ctx, j.settings, m)
}

// take takes the mail that is due first. If none is, it says when to look again; if the
// first one is not to be sent after all, it returns neither.
func (s *Service) take(ctx context.Context) (j *job, wait time.Duration, err error) {
	// Mostly there is nothing to do, which is seen without writing.
	err = s.db.View(ctx, func(tx storage.Tx) (err error) {
		_, _, _, wait, err = s.due(tx)
		return err
	})
	if err != nil || wait > 0 {
		return nil, wait, err
	}
	err = s.db.Update(ctx, func(tx storage.Tx) (err error) {
		j = nil
		var o outbox
		var item Item
		var settings mail.Settings
		if o, settings, item, wait, err = s.due(tx); err != nil || wait > 0 {
			return err
		}
		in, err := invitations.Get(tx, item.Invitation)
		if err != nil {
			return err
		}
		if !in.RevokedAt.IsZero() {
			return move(tx, &in, &item, Cancelled)
		}
		if item.State == Sending {
			if item.Unsure++; item.Unsure > maxUnsure {
				return s.fail(tx, &in, &item, "it was interrupted more than once while it was sent, and may have arrived")
			}
		}
		uses, err := enroll.LinkUses(tx, []string{item.LinkID})
		if err != nil {
			return err
		}
		if len(uses) == 0 {
			return s.fail(tx, &in, &item, "its enrollment link is gone")
		}
		now := s.now().UTC()
		l := uses[0].Link
		if err := l.Usable(now); err != nil {
			return s.fail(tx, &in, &item, err.Error())
		}
		organisation, err := enroll.GetSettings(tx)
		if err != nil {
			return err
		}
		u, err := identity.UserByLogin(tx, l.User)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		item.Tries++
		// No delivery takes longer: each of its steps has this time.
		item.NextAt = now.Add(10*settings.Timeout + time.Minute)
		if err := move(tx, &in, &item, Sending); err != nil {
			return err
		}
		o.NextAt = now.Add(time.Minute / time.Duration(settings.PerMinute))
		if err := outboxes.Put(tx, o); err != nil {
			return err
		}
		j = &job{item: item, settings: settings, letter: Letter{
			To: item.Email, Name: u.FullName, Organisation: organisation.Organisation, Link: l,
			Language: in.Language, Subject: in.Subject, Message: in.Message,
		}}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return j, wait, nil
}

// due returns the mail that is due first, or how long to wait until there may be one.
func (s *Service) due(tx storage.Tx) (o outbox, settings mail.Settings, item Item, wait time.Duration, err error) {
	now := s.now()
	tx.Prefetch(outboxes.Read(outboxKey))
	found := false
	for first, err := range items.Ascend(tx, itemsDue, "", "", 1) {
		if err != nil {
			return o, settings, item, 0, err
		}
		item, found = first, true
	}
	if !found {
		return o, settings, item, idle, nil
	}
	settings, err = s.mailer.GetSettings(tx)
	if errors.Is(err, mail.ErrNotConfigured) {
		return o, settings, item, idle, nil
	}
	if err != nil {
		return o, settings, item, 0, err
	}
	if o, err = getOutbox(tx); err != nil {
		return o, settings, item, 0, err
	}
	for _, at := range []time.Time{o.NextAt, item.NextAt} {
		if at.After(now) {
			return o, settings, item, max(wait, min(at.Sub(now), idle)), nil
		}
	}
	return o, settings, item, 0, nil
}

// finish notes what became of a mail, also at shutdown. If that can't be noted, the mark
// stays, and what it says is true: nobody knows.
func (s *Service) finish(ctx context.Context, j job, failed error) error {
	stopped := ctx.Err() != nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	var item Item
	err := s.db.Update(ctx, func(tx storage.Tx) (err error) {
		if item, err = items.Get(tx, j.item.key()); err != nil {
			return err
		}
		if item.State != Sending || item.Tries != j.item.Tries {
			return nil // it was taken for lost, and somebody else has it
		}
		in, err := invitations.Get(tx, item.Invitation)
		if err != nil {
			return err
		}
		o, err := getOutbox(tx)
		if err != nil {
			return err
		}
		if failed == nil {
			return s.sent(tx, &in, &item, o)
		}
		return s.putOff(tx, &in, &item, o, failed, stopped)
	})
	if err != nil {
		return fmt.Errorf("note what became of a mail: %w", err)
	}
	attrs := []any{"invitation", item.Invitation, "item", item.N, "link", item.LinkID, "state", item.State, "tries", item.Tries}
	if failed != nil {
		s.log.WarnContext(ctx, "invitation not sent", append(attrs, "err", failed)...)
	} else {
		s.log.InfoContext(ctx, "invitation sent", attrs...)
	}
	return nil
}

func (s *Service) sent(tx storage.Tx, in *Invitation, item *Item, o outbox) error {
	now := s.now().UTC()
	item.SentAt, item.NextAt, item.Error = now, time.Time{}, ""
	if err := move(tx, in, item, Sent); err != nil {
		return err
	}
	if o.Failures > 0 {
		o.Failures, o.Error = 0, ""
		if err := outboxes.Put(tx, o); err != nil {
			return err
		}
	}
	return event.Record(tx, event.Event{
		At: now, Actor: ourselves, Action: "invitation.sent", User: item.Email,
		Details: map[string]string{"invitation": item.Invitation, "link": item.LinkID},
	})
}

// putOff queues a mail that was not sent again, unless there is no use.
func (s *Service) putOff(tx storage.Tx, in *Invitation, item *Item, o outbox, why error, stopped bool) error {
	now := s.now().UTC()
	var failure *mail.Failure
	if !errors.As(why, &failure) {
		failure = &mail.Failure{} // it never came to a delivery
	}
	if failure.Unsure {
		item.Unsure++
	}
	item.Error = short(why.Error())
	switch {
	case !in.RevokedAt.IsZero():
		return move(tx, in, item, Cancelled)
	case stopped && !failure.Unsure:
		item.Tries-- // the next start begins it anew
		item.NextAt, item.Error = now, ""
		return move(tx, in, item, Queued)
	case failure.Permanent(), item.Unsure > maxUnsure, now.Sub(item.QueuedAt) > giveUp:
		return s.fail(tx, in, item, item.Error)
	case failure.General():
		// It is no use to try with the others before.
		o.Failures++
		o.NextAt, o.Error = now.Add(backoff(o.Failures, firstRetry, lastPause)), item.Error
		if err := outboxes.Put(tx, o); err != nil {
			return err
		}
		item.NextAt = now
	default:
		item.NextAt = now.Add(backoff(item.Tries, firstRetry, lastRetry))
	}
	return move(tx, in, item, Queued)
}

// fail ends the way of a mail that was not sent.
func (s *Service) fail(tx storage.Tx, in *Invitation, item *Item, why string) error {
	item.Error, item.NextAt = short(why), time.Time{}
	if err := move(tx, in, item, Failed); err != nil {
		return err
	}
	return event.Record(tx, event.Event{
		At: s.now().UTC(), Actor: ourselves, Action: "invitation.failed", Outcome: event.Failed, User: item.Email, Reason: item.Error,
		Details: map[string]string{"invitation": item.Invitation, "link": item.LinkID},
	})
}

// short is a text that is kept.
func short(s string) string {
	const most = 500
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "")
	}
	return s
}
