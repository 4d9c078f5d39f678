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
	Name string `json:"name"`
	Seq  uint64 `json:"seq"`
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
		// Most of the time there is nothing, which a View finds out for less.
		err := s.db.View(ctx, func(tx storage.Tx) error {
			_, events, err := s.nextEvents(tx, 1)
			more = len(events) > 0
			return err
		})
		if err != nil || !more {
			return err
		}
		err = s.db.Update(ctx, func(tx storage.Tx) error {
			more = false
			all, events, err := s.nextEvents(tx, feedBatch)
			if err != nil || len(events) == 0 {
				return err
			}
			for _, e := range events {
				if err := s.tellEvent(tx, all, e); err != nil {
					return err
				}
			}
			more = len(events) == feedBatch
			return cursors.Put(tx, cursor{Name: feedCursor, Seq: events[len(events)-1].Seq})
		})
		if err != nil || !more {
			return err
		}
	}
}

// nextEvents returns who wants to hear of events, and the next ones that anybody may want.
func (s *Service) nextEvents(tx storage.Tx, limit int) (all []interest, events []event.Sequenced, err error) {
	all, err = interested(tx, ofEvents)
	if err != nil || len(all) == 0 {
		return nil, nil, err
	}
	at, err := cursors.Get(tx, feedCursor)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, nil, err
	}
	from := all[0].FromSeq // while there was no target, nobody followed
	for _, i := range all {
		from = min(from, i.FromSeq)
	}
	events, err = event.Feed(tx, max(at.Seq, from), limit)
	if err != nil {
		return nil, nil, fmt.Errorf("feed: %w", err)
	}
	return all, events, nil
}

func (s *Service) tellEvent(tx storage.Tx, all []interest, e event.Sequenced) error {
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
		at := s.now().UTC()
		d := Delivery{ID: newID(at), Target: i.ID, Topic: e.Action, EventID: e.ID, Seq: e.Seq, DeviceID: e.DeviceID, CreatedAt: at}
		if err := s.post(tx, d, *l); err != nil {
			return err
		}
	}
	return nil
}
