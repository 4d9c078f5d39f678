package webhook

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// cursor is how far the feed of events was followed: whoever writes down what targets are to
// be told moves it on in the same transaction.
type cursor struct {
	Name string    `json:"name"`
	Seq  uint64    `json:"seq"`
	At   time.Time `json:"at,omitzero"` // by which the last deliveries sort
}

var cursors = storage.NewCollection("webhook.cursor", 1, func(c cursor) string { return c.Name })

const feedCursor = "feed"

const (
	feedBatch = 200
	lookEvery = 10 * time.Second // for what nobody has told of
	retryTime = 2 * time.Second  // after the database failed
)

// follow writes down what targets are to be told of events, until ctx ends.
func (s *Service) follow(ctx context.Context) error {
	changed, stop := s.db.Watch(event.FeedTopic)
	defer stop()
	for {
		wait := lookEvery
		if err := s.fanOut(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			s.log.WarnContext(ctx, "webhooks can't follow the events", "err", err)
			wait = retryTime
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(wait):
		}
	}
}

// fanOut writes down what is new in the feed for all targets that want it.
func (s *Service) fanOut(ctx context.Context) error {
	for {
		more := false
		var lost error
		// Most of the time there is nothing, which a View finds out for less.
		err := s.db.View(ctx, func(tx storage.Tx) error {
			_, events, err := s.nextEvents(tx, 1)
			more = len(events) > 0
			if errors.Is(err, storage.ErrNotFound) {
				more, err = true, nil
			}
			return err
		})
		if err != nil || !more {
			return err
		}
		err = s.db.Update(ctx, func(tx storage.Tx) error {
			more = false
			lost = nil
			all, events, err := s.nextEvents(tx, feedBatch)
			if errors.Is(err, storage.ErrNotFound) {
				all, events, err = s.nextEvents(tx, 1) // those before it come one by one
				if errors.Is(err, storage.ErrNotFound) {
					lost = err
					more, err = true, s.skip(tx)
					return err
				}
			}
			if err != nil || len(events) == 0 {
				return err
			}
			at, err := cursorOf(tx)
			if err != nil {
				return err
			}
			for _, e := range events {
				at.At = after(s.now(), at.At)
				if err := s.tellEvent(tx, all, e, at.At); err != nil {
					return err
				}
			}
			more = true
			at.Seq = events[len(events)-1].Seq
			return cursors.Put(tx, at)
		})
		if lost != nil {
			s.log.ErrorContext(ctx, "no webhook is told of an event that the database has lost", "err", lost)
		}
		if err != nil || !more {
			return err
		}
	}
}

func cursorOf(tx storage.Tx) (cursor, error) {
	at, err := cursors.Get(tx, feedCursor)
	if errors.Is(err, storage.ErrNotFound) {
		return cursor{Name: feedCursor}, nil
	}
	return at, err
}

// skip moves the cursor on by a place, whose event or a later one is lost: where there are
// places of erased events before that, they are passed one by one.
func (s *Service) skip(tx storage.Tx) error {
	all, err := interested(tx, ofEvents)
	if err != nil {
		return err
	}
	at, err := cursorOf(tx)
	if err != nil {
		return err
	}
	at.Seq = max(at.Seq, firstWanted(all)) + 1
	return cursors.Put(tx, at)
}

// firstWanted is the place behind which the first event is that anybody wants: while there
// was no target, nobody followed.
func firstWanted(all []interest) uint64 {
	if len(all) == 0 {
		return 0
	}
	from := all[0].FromSeq
	for _, i := range all {
		from = min(from, i.FromSeq)
	}
	return from
}

// after returns at, or the first time that sorts behind the one before: clocks of replicas
// differ, and one may be set back.
func after(at, before time.Time) time.Time {
	if at = at.UTC(); at.After(before) {
		return at
	}
	return before.Add(1)
}

// nextEvents returns who wants to hear of events, and the next ones that anybody may want.
func (s *Service) nextEvents(tx storage.Tx, limit int) (all []interest, events []event.Sequenced, err error) {
	all, err = interested(tx, ofEvents)
	if err != nil || len(all) == 0 {
		return nil, nil, err
	}
	at, err := cursorOf(tx)
	if err != nil {
		return nil, nil, err
	}
	events, err = event.Feed(tx, max(at.Seq, firstWanted(all)), limit)
	if err != nil {
		return nil, nil, fmt.Errorf("feed: %w", err)
	}
	return all, events, nil
}

// tellEvent writes down an event for those who want it, in the order of sorts.
func (s *Service) tellEvent(tx storage.Tx, all []interest, e event.Sequenced, sorts time.Time) error {
	var l *letter
	for _, i := range all {
		if !i.learns(e) {
			continue
		}
		if l == nil {
			made, err := s.eventLetter(e)
			if err != nil {
				return err
			}
			l = &made
		}
		d := Delivery{ID: newID(sorts), Target: i.ID, Topic: e.Action, EventID: e.ID, Seq: e.Seq, DeviceID: e.DeviceID, CreatedAt: s.now().UTC()}
		if err := s.post(tx, d, *l); err != nil {
			return err
		}
	}
	return nil
}
