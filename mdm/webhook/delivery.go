package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// State is where a delivery stands.
type State string

// The states.
const (
	Pending   State = "pending"   // it waits, for the first time or to be tried again
	Delivered State = "delivered" // the target took it
	Dead      State = "dead"      // the server gave it up
)

// Delivery is one thing that one target is to be told. What it says is kept apart, sealed,
// until the target has taken it.
type Delivery struct {
	ID       string `json:"id"` // webhook-id; IDs sort by time
	Target   string `json:"target"`
	State    State  `json:"state"`
	Topic    string `json:"topic"` // "device.enrolled", "mdm.Connect"
	EventID  string `json:"event_id"`
	Seq      uint64 `json:"seq,omitempty"` // of an event: its place in the feed
	DeviceID string `json:"device_id,omitempty"`
	Idle     bool   `json:"idle,omitempty"` // a poll that answers nothing
	Size     int    `json:"size"`           // bytes that are kept of it, about

	CreatedAt  time.Time `json:"created_at"`
	Since      time.Time `json:"since"` // from when on its time counts: CreatedAt, or when it was redelivered
	Due        time.Time `json:"due"`   // of the next try
	FinishedAt time.Time `json:"finished_at,omitzero"`

	Tries    int       `json:"tries,omitempty"` // since Since
	Made     int       `json:"made,omitempty"`  // in all
	Attempts []Attempt `json:"attempts,omitempty"`
	Answer   []byte    `json:"answer,omitempty"` // the beginning of the last refusal's body, sealed

	// Aside is one that failed again and again: others of its device do not wait for it any more.
	Aside bool `json:"aside,omitempty"`

	Claim        string    `json:"claim,omitempty"` // whoever is sending it
	ClaimedUntil time.Time `json:"claimed_until,omitzero"`
}

// Attempt is one request, and what came of it.
type Attempt struct {
	At       time.Time     `json:"at"`
	Duration time.Duration `json:"duration"`
	Status   int           `json:"status,omitempty"` // zero: there was no answer
	Step     Step          `json:"step,omitempty"`   // where it failed; empty: it did not
	Error    string        `json:"error,omitempty"`
}

// Limits of deliveries.
const (
	maxAttempts = 20             // that are kept: the last ones
	aside       = 3              // tries before others of the device go first
	giveUp      = 72 * time.Hour // from Since
	keepDone    = 7 * 24 * time.Hour
)

// ladder is how long after a try the next one follows.
var ladder = []time.Duration{
	5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour,
}

const (
	byWaiting  = "waiting"  // target: pending, in order
	byAside    = "aside"    // target and due: pending, out of order
	byDead     = "dead"     // target
	byDone     = "done"     // target: delivered
	byFinished = "finished" // time
	byLarge    = "large"    // target: not delivered, and large
)

// large is of how many bytes on a delivery counts for Config.MostSize. The others are held
// within bounds by their number.
const large = 16 << 10

var deliveries = storage.NewCollection("webhook.delivery", 1, deliveryKey,
	storage.Index[Delivery]{Name: byWaiting, Values: func(d Delivery) []string {
		return only(d.State == Pending && !d.Aside, d.Target)
	}},
	storage.Index[Delivery]{Name: byAside, Values: func(d Delivery) []string {
		return only(d.State == Pending && d.Aside, asideValue(d.Target, d.Due))
	}},
	storage.Index[Delivery]{Name: byDead, Values: func(d Delivery) []string { return only(d.State == Dead, d.Target) }},
	storage.Index[Delivery]{Name: byDone, Values: func(d Delivery) []string { return only(d.State == Delivered, d.Target) }},
	storage.Index[Delivery]{Name: byFinished, Values: func(d Delivery) []string {
		return only(d.State != Pending, sortable(d.FinishedAt))
	}},
	storage.Index[Delivery]{Name: byLarge, Values: func(d Delivery) []string {
		return only(d.State != Delivered && d.Size >= large, d.Target)
	}},
)

func only(there bool, value string) []string {
	if !there {
		return nil
	}
	return []string{value}
}

func deliveryKey(d Delivery) string    { return string(storage.Key(d.Target, d.ID)) }
func primary(target, id string) string { return string(storage.Key(target, id)) }
func sortable(at time.Time) string     { return at.UTC().Format("20060102150405.000000000") }
func asideValue(t string, due time.Time) string {
	return string(storage.Key(t, sortable(due)))
}

// bodyBucket holds what deliveries say: a sealed letter by the delivery's key.
const bodyBucket = "webhook.body"

func bodyPurpose(target, id string) string { return "webhook/body/" + target + "/" + id }

// targetsTopic is notified when targets change, and queueTopic when there is something to
// send to one.
const targetsTopic = "webhook.targets"

func queueTopic(target string) string { return "webhook.queue/" + target }

// post writes down what a target is to be told.
func (s *Service) post(tx storage.Tx, d Delivery, l letter) error {
	body, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("webhook: encode %s: %w", d.Topic, err)
	}
	d.State, d.Size, d.Since, d.Due = Pending, len(body), d.CreatedAt, d.CreatedAt
	key := []byte(deliveryKey(d))
	return errors.Join(
		tx.Put(bodyBucket, key, s.box.Seal(bodyPurpose(d.Target, d.ID), body)),
		deliveries.Put(tx, d),
		tx.Notify(queueTopic(d.Target)),
	)
}

// errUnreadable means that what a delivery says is not kept any more, or can't be read.
var errUnreadable = errors.New("what it says can't be read any more")

// letterOf returns what a delivery says. What the target has taken is kept no longer; of an
// event it can be said again.
func (s *Service) letterOf(tx storage.Tx, d Delivery) (letter, error) {
	var l letter
	sealed, err := tx.Get(bodyBucket, []byte(deliveryKey(d)))
	switch {
	case errors.Is(err, storage.ErrNotFound) && d.Seq > 0:
		events, err := event.Feed(tx, d.Seq-1, 1)
		if err != nil {
			return l, err
		}
		if len(events) != 1 || events[0].Seq != d.Seq {
			return l, errUnreadable
		}
		return s.eventLetter(events[0])
	case errors.Is(err, storage.ErrNotFound):
		return l, errUnreadable
	case err != nil:
		return l, err
	}
	body, err := s.box.Open(bodyPurpose(d.Target, d.ID), sealed)
	if err == nil {
		err = json.Unmarshal(body, &l)
	}
	if err != nil {
		return l, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return l, nil
}

// erase removes a delivery.
func erase(tx storage.Tx, d Delivery) error {
	key := deliveryKey(d)
	return errors.Join(tx.Delete(bodyBucket, []byte(key)), deliveries.Delete(tx, key))
}

// maxLooked is how many deliveries are looked at for one page of a list with a filter.
const maxLooked = 2000

// Deliveries returns up to limit deliveries to a target, newest first, of one state unless
// that is empty, and the cursor of the next page, "" at the end. A page may hold fewer, even
// none, without being the last.
func (s *Service) Deliveries(ctx context.Context, target string, state State, cursor string, limit int) (list []Delivery, next string, err error) {
	if limit <= 0 {
		limit = 100
	}
	err = s.db.View(ctx, func(tx storage.Tx) error {
		list, next = nil, ""
		if _, err := targets.Get(tx, target); err != nil {
			return err
		}
		prefix := storage.KeyPrefix(target)
		if state == "" {
			list, next, err = storage.PagePrefix(tx, deliveries, prefix, cursor, limit, true)
			return err
		}
		if state == Dead || state == Delivered {
			list, next, err = pageOf(tx, state, target, cursor, limit)
			return err
		}
		for at, looked := cursor, 0; ; {
			page, after, err := storage.PagePrefix(tx, deliveries, prefix, at, limit-len(list), true) // whole pages are looked at: their cursors serve for this list
			if err != nil {
				return err
			}
			for _, d := range page {
				if d.State == state {
					list = append(list, d)
				}
			}
			looked += len(page)
			if next = after; next == "" || looked >= maxLooked || len(list) == limit {
				return nil
			}
			at = after
		}
	})
	if err != nil {
		return nil, "", fmt.Errorf("list deliveries: %w", err)
	}
	return list, next, nil
}

// pageOf is a page of [Service.Deliveries] of a state that finished ones are in. Its cursor is
// the delivery that it ends with.
func pageOf(tx storage.Tx, state State, target, cursor string, limit int) (list []Delivery, next string, err error) {
	index := byDead
	if state == Delivered {
		index = byDone
	}
	r := storage.Range{Prefix: storage.KeyPrefix(target), Reverse: true, Limit: limit + 1}
	if cursor != "" {
		if _, err := idEncoding.DecodeString(cursor); err != nil || len(cursor) > 64 {
			return nil, "", storage.ErrBadCursor
		}
		r.End = append(bytes.Clone(r.Prefix), primary(target, cursor)...)
	}
	keyOf := func(item storage.Item) string { return string(item.Key[len(r.Prefix):]) } // it follows the value
	bucket := "webhook.delivery." + index
	tx.Prefetch(storage.Read{Bucket: bucket, Range: r, Then: func(item storage.Item) []storage.Read { return []storage.Read{deliveries.Read(keyOf(item))} }})
	for item, err := range tx.Scan(bucket, r) {
		if err != nil {
			return nil, "", err
		}
		if len(list) == limit {
			return list, list[limit-1].ID, nil
		}
		d, err := deliveries.Get(tx, keyOf(item))
		if err != nil {
			return nil, "", err
		}
		list = append(list, d)
	}
	return list, "", nil
}

// Delivery returns one delivery, or an error that wraps [storage.ErrNotFound].
func (s *Service) Delivery(ctx context.Context, target, id string) (d Delivery, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		d, err = deliveries.Get(tx, primary(target, id))
		return err
	})
	return d, err
}

// AnswerOf returns the beginning of what the target answered when it last refused d.
func (s *Service) AnswerOf(d Delivery) string {
	if len(d.Answer) == 0 {
		return ""
	}
	text, err := s.box.Open(bodyPurpose(d.Target, d.ID), d.Answer)
	if err != nil {
		return ""
	}
	return string(text)
}

// Errors that callers act on.
var (
	ErrGone    = errors.New("what was delivered is not kept any more")
	ErrWaiting = errors.New("the delivery waits to be sent")
)

// Redeliver sends a finished delivery again, under the same ID. The error may wrap
// [ErrGone], [ErrWaiting] or [storage.ErrNotFound].
func (s *Service) Redeliver(ctx context.Context, by, target, id string) (d Delivery, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		t, err := targets.Get(tx, target)
		if err != nil {
			return err
		}
		if d, err = deliveries.Get(tx, primary(target, id)); err != nil {
			return err
		}
		if d.State == Pending {
			if !d.ClaimedUntil.IsZero() || !d.Due.After(s.now()) {
				return ErrWaiting
			}
			d.Due = s.now().UTC() // it need not wait for its turn any longer
			return errors.Join(deliveries.Put(tx, d), tx.Notify(queueTopic(target)))
		}
		if err := s.again(tx, &d); err != nil {
			return err
		}
		e := t.event("webhook.redelivered", s.now())
		e.Actor = by
		e.Details["count"] = "1"
		return event.Record(tx, e)
	})
	if err != nil {
		return Delivery{}, fmt.Errorf("redeliver: %w", err)
	}
	return d, nil
}

// again puts a finished delivery back into its queue.
func (s *Service) again(tx storage.Tx, d *Delivery) error {
	if _, err := s.letterOf(tx, *d); errors.Is(err, errUnreadable) {
		return ErrGone
	} else if err != nil {
		return err
	}
	now := s.now().UTC()
	d.State, d.Since, d.Due, d.FinishedAt, d.Tries, d.Aside = Pending, now, now, time.Time{}, 0, false
	d.Answer = nil
	return errors.Join(deliveries.Put(tx, *d), tx.Notify(queueTopic(d.Target)))
}

// RedeliverDead sends again what was given up, all that is still kept, and returns how many
// there were.
func (s *Service) RedeliverDead(ctx context.Context, by, target string) (n int, err error) {
	before := s.now().UTC()
	for {
		batch := 0
		err := s.db.Update(ctx, func(tx storage.Tx) error {
			batch = 0
			if _, err := targets.Get(tx, target); err != nil {
				return err
			}
			var dead []Delivery
			for d, err := range deliveries.Lookup(tx, byDead, target) {
				if err != nil {
					return err
				}
				if !d.FinishedAt.After(before) { // one that died again meanwhile has had its turn
					dead = append(dead, d)
				}
				if len(dead) == 200 {
					break
				}
			}
			for _, d := range dead {
				switch err := s.again(tx, &d); {
				case errors.Is(err, ErrGone):
					if err := erase(tx, d); err != nil {
						return err
					}
				case err != nil:
					return err
				}
				batch++
			}
			return nil
		})
		if err != nil {
			return n, fmt.Errorf("redeliver: %w", err)
		}
		n += batch
		if batch < 200 {
			break
		}
	}
	if n == 0 {
		return 0, nil
	}
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		t, err := targets.Get(tx, target)
		if err != nil {
			return err
		}
		e := t.event("webhook.redelivered", s.now())
		e.Actor = by
		e.Details["count"] = fmt.Sprint(n)
		return event.Record(tx, e)
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return n, fmt.Errorf("redeliver: %w", err)
	}
	return n, nil
}
