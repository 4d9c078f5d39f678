package event

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	// newBucket holds a key for each event that has no place in the chain yet.
	newBucket = "event.new"

	// newTopic is told when there are such events.
	newTopic = "event.new"

	sequenceBatch = 1000 // events in one transaction
	sequenceEvery = 5 * time.Second

	// gatherTime is how long a process waits for company after the first new event, so
	// that many small transactions don't each cost another one.
	gatherTime = 50 * time.Millisecond

	// busyTime is gatherTime where new events come all the time.
	busyTime = 250 * time.Millisecond
)

// newKey sorts events that have no place yet by when they were recorded: those of one
// transaction keep their order whatever their times.
func newKey(id string) ([]byte, error) {
	raw, err := idEncoding.DecodeString(id)
	if err != nil || len(raw) != idBytes {
		return nil, fmt.Errorf("event %q: %w", id, storage.ErrCorrupt)
	}
	return append(append(append(make([]byte, 0, idBytes), raw[8:16]...), raw[:8]...), raw[16:]...), nil
}

// newEventID is the ID of the event that key stands for.
func newEventID(key []byte) string {
	if len(key) != idBytes {
		return ""
	}
	raw := append(append(append(make([]byte, 0, idBytes), key[8:16]...), key[:8]...), key[16:]...)
	return idEncoding.EncodeToString(raw)
}

// follow gives events their places until ctx ends. Every process does: whoever comes first.
func (r *Recorder) follow(ctx context.Context) error {
	news, stop := r.db.Watch(newTopic)
	defer stop()
	tick := time.NewTicker(sequenceEvery) // news may get lost
	defer tick.Stop()
	for {
		if err := r.Sequence(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "new events have no place in the audit log yet", "err", err)
		}
		last := time.Now()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-news:
			gather := gatherTime
			if time.Since(last) < busyTime {
				gather = busyTime
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(gather):
			}
		}
	}
}

// Sequence gives each event that is recorded by now its place in the chain. An event whose
// transaction commits later comes later, whatever its time: who reads by place misses none.
func (r *Recorder) Sequence(ctx context.Context) error { return Sequence(ctx, r.db) }

// Sequence is [Recorder.Sequence] of a database.
func Sequence(ctx context.Context, db storage.DB) error {
	for {
		waiting := false // most often another process was faster
		err := db.View(ctx, func(tx storage.Tx) error {
			head, err := getMark(tx, headMark)
			if err != nil {
				return err
			}
			waiting = !head.Caught
			for _, err := range tx.Scan(newBucket, storage.Range{Limit: 1}) {
				if err != nil {
					return err
				}
				waiting = true
			}
			return nil
		})
		if err != nil {
			return wrap("sequence events", err)
		}
		if !waiting {
			return catchUp(ctx, db)
		}
		if err := db.Update(ctx, sequence); err != nil {
			return wrap("sequence events", err)
		}
	}
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// sequence gives the next batch its places.
func sequence(tx storage.Tx) error {
	head, err := getMark(tx, headMark)
	if err != nil {
		return err
	}
	before := head.Seq
	batch, err := nextBatch(tx, &head)
	if err != nil {
		return err
	}
	for _, e := range batch {
		digest, err := digestOf(e.fields())
		if err != nil {
			return err
		}
		head.Seq++
		head.Hash = linkHash(head.Hash, digest, e.Outcome)
		e.Seq = head.Seq
		if err := log.Put(tx, e); err != nil {
			return err
		}
		if err := (link{seq: head.Seq, hash: head.Hash, id: e.ID}).put(tx); err != nil {
			return err
		}
	}
	if err := marks.Put(tx, head); err != nil {
		return err
	}
	if err := countNext(tx, before, head.Seq, batch); err != nil {
		return err
	}
	if len(batch) == 0 {
		return nil
	}
	return tx.Notify(FeedTopic)
}

// nextBatch returns the events that come next, and takes them off what is new.
func nextBatch(tx storage.Tx, head *mark) (batch []kept, err error) {
	if !head.Caught {
		return nextOld(tx, head)
	}
	tx.Prefetch(storage.Read{Bucket: newBucket, Range: storage.Range{Limit: sequenceBatch}, Then: func(item storage.Item) []storage.Read {
		return []storage.Read{log.Read(newEventID(item.Key))}
	}})
	for item, err := range tx.Scan(newBucket, storage.Range{Limit: sequenceBatch}) {
		if err != nil {
			return nil, err
		}
		if err := tx.Delete(newBucket, item.Key); err != nil {
			return nil, err
		}
		switch e, err := log.Get(tx, newEventID(item.Key)); {
		case errors.Is(err, storage.ErrNotFound): // nothing to give a place to
		case err != nil:
			return nil, err
		case e.Seq == 0:
			batch = append(batch, e)
		}
	}
	return batch, nil
}

// nextOld returns the next events of before there was a chain, in the order of their IDs.
func nextOld(tx storage.Tx, head *mark) (batch []kept, err error) {
	r := storage.Range{Limit: sequenceBatch}
	if head.Old != "" {
		r.Start = []byte(head.Old + "\x00")
	}
	tx.Prefetch(storage.Read{Bucket: logBucket, Range: r, Then: func(item storage.Item) []storage.Read {
		key, err := newKey(string(item.Key))
		if err != nil {
			return nil
		}
		return []storage.Read{{Bucket: newBucket, Key: key}}
	}})
	n := 0
	for e, err := range log.All(tx, r) {
		if err != nil {
			return nil, err
		}
		n++
		head.Old = e.ID
		key, err := newKey(e.ID)
		if err != nil {
			return nil, err
		}
		switch _, err := tx.Get(newBucket, key); {
		case errors.Is(err, storage.ErrNotFound) && e.Seq == 0:
			batch = append(batch, e)
		case err != nil && !errors.Is(err, storage.ErrNotFound):
			return nil, err
		}
	}
	if n < sequenceBatch {
		head.Old, head.Caught = "", true
	}
	return batch, nil
}

// FeedTopic is notified when the feed grew.
const FeedTopic = "event.feed"

// Sequenced is an event in its place.
type Sequenced struct {
	Seq uint64 // from 1, without gaps, in the order of commits; IDs don't tell that
	Event
	Hash string // what the chain has come to with this event: 64 hexadecimal digits
}

// placed is e in its place, if it has one.
func (e kept) placed(tx storage.Tx) (Sequenced, error) {
	s := Sequenced{Seq: e.Seq, Event: e.Event}
	if e.Seq == 0 {
		return s, nil
	}
	l, err := getLink(tx, e.Seq)
	if errors.Is(err, storage.ErrNotFound) || err == nil && l.id != e.ID {
		s.Seq = 0 // it has none, whatever it says: [VerifyStored] names it
		return s, nil
	}
	s.Hash = l.hash
	return s, err
}

// Feed returns the events that follow the one in place after, at most so many. Places of
// events that are forgotten are left out, and so are those of which the record is lost,
// which [VerifyStored] names: what can't be told must not stop what comes after it.
func Feed(tx storage.Tx, after uint64, limit int) ([]Sequenced, error) {
	if limit <= 0 {
		return nil, nil
	}
	var list []Sequenced
	r := storage.Range{Start: seqKey(after + 1)}
	ahead := r
	ahead.Limit = limit
	tx.Prefetch(storage.Read{Bucket: chainBucket, Range: ahead, Then: readAhead})
	for item, err := range tx.Scan(chainBucket, r) {
		if err != nil {
			return nil, fmt.Errorf("read the feed of events: %w", err)
		}
		l, err := readLink(item)
		if err != nil {
			return nil, err
		}
		if l.id == "" {
			continue
		}
		e, err := log.Get(tx, l.id)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("read event %d: %w", l.seq, err)
		}
		if list = append(list, Sequenced{Seq: l.seq, Event: e.Event, Hash: l.hash}); len(list) == limit {
			break
		}
	}
	return list, nil
}

// readAhead is what is read for an item of the chain.
func readAhead(item storage.Item) []storage.Read {
	l, err := readLink(item)
	if err != nil || l.id == "" {
		return nil
	}
	return []storage.Read{log.Read(l.id)}
}

// LastSeq is the place of the newest event of the feed: 0 if there is none.
func LastSeq(tx storage.Tx) (uint64, error) {
	head, err := getMark(tx, headMark)
	return head.Seq, wrap("read the feed of events", err)
}

// FirstSeq is the place of the oldest event that the feed may still have: what was before
// it is forgotten.
func FirstSeq(tx storage.Tx) (uint64, error) {
	tail, err := getMark(tx, tailMark)
	return tail.Seq + 1, wrap("read the feed of events", err)
}
