package event

import (
	"context"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// ErrBroken means that the chain of the audit log does not hold: an event was changed,
// left out or put in after it had its place.
var ErrBroken = errors.New("the audit log was tampered with, or is damaged")

// ErrNotThere means that an event of which a hash was noted is not in the chain, or not any
// more.
var ErrNotThere = errors.New("an event of which a hash was noted is not there")

// Verified tells what was looked at, and what the chain came to.
type Verified struct {
	First, Last uint64 // places; First is after Last where there is none
	Events      int    // with what they say
	Erased      int    // of which only the digest is left
	Hash        string // of the event at Last: to compare with what was noted elsewhere
}

// verifyBatch is how many events are read in one transaction.
const verifyBatch = 500

// VerifyStored computes the whole chain anew from what the database holds, in many small
// transactions, up to the event that was the newest when it began. The error wraps
// [ErrBroken] if the chain does not hold, and names the place. want are hashes that were
// noted elsewhere, by the place of their events.
func VerifyStored(ctx context.Context, db storage.DB, want map[uint64]string) (Verified, error) {
	for {
		v, err := verifyStored(ctx, db, want)
		if !errors.Is(err, errForgotten) {
			return v, err
		}
	}
}

// errForgotten means that events were forgotten from under the verification.
var errForgotten = errors.New("the old end of the audit log has moved")

func verifyStored(ctx context.Context, db storage.DB, want map[uint64]string) (Verified, error) {
	var tail, head mark
	err := db.View(ctx, func(tx storage.Tx) (err error) {
		if tail, err = getMark(tx, tailMark); err == nil {
			head, err = getMark(tx, headMark)
		}
		return err
	})
	if err != nil {
		return Verified{}, fmt.Errorf("verify the audit log: %w", err)
	}
	v := Verified{First: tail.Seq + 1, Last: tail.Seq, Hash: tail.Hash}
	for v.Last < head.Seq {
		var next Verified
		err := db.View(ctx, func(tx storage.Tx) (err error) {
			next, err = v.further(tx, want, tail.Seq, min(head.Seq, v.Last+verifyBatch))
			return err
		})
		if err != nil {
			return v, fmt.Errorf("verify the audit log: %w", err)
		}
		v = next
	}
	if v.Hash != head.Hash {
		return v, fmt.Errorf("verify the audit log: the hash of event %d is not the one that the log ends with: %w", v.Last, ErrBroken)
	}
	if err := verifyLog(ctx, db); err != nil {
		return v, fmt.Errorf("verify the audit log: %w", err)
	}
	return v, v.met(want)
}

// verifyLog looks at the events the other way round, as lists find them: that each is the one
// in the place that it says, and that no filter leaves it out.
func verifyLog(ctx context.Context, db storage.DB) error {
	next := ""
	for {
		n := 0
		last := next
		err := db.View(ctx, func(tx storage.Tx) error {
			n = 0
			head, err := getMark(tx, headMark)
			if err != nil {
				return err
			}
			var batch []kept
			var ahead []storage.Read
			for e, err := range log.All(tx, storage.Range{Start: []byte(next), Limit: verifyBatch}) {
				if err != nil {
					return err
				}
				batch = append(batch, e)
				if e.Seq != 0 {
					ahead = append(ahead, storage.Read{Bucket: chainBucket, Key: seqKey(e.Seq)})
				}
				for _, key := range e.entries() {
					ahead = append(ahead, storage.Read{Bucket: byBucket, Key: key})
				}
			}
			tx.Prefetch(ahead...)
			for _, e := range batch {
				if err := e.verify(tx, head); err != nil {
					return err
				}
				last = e.ID
			}
			n = len(batch)
			return nil
		})
		if err != nil || n < verifyBatch {
			return err
		}
		next = last + "\x00"
	}
}

// verify says whether e is where it says, and where filters look for it.
func (e kept) verify(tx storage.Tx, head mark) error {
	if err := e.verifyPlace(tx, head); err != nil {
		return err
	}
	for _, key := range e.entries() {
		switch _, err := tx.Get(byBucket, key); {
		case errors.Is(err, storage.ErrNotFound):
			return fmt.Errorf("event %s is hidden from lists: an entry of it is missing: %w", e.ID, ErrBroken)
		case err != nil:
			return err
		}
	}
	return nil
}

// verifyPlace says whether e has the place that it says, or waits for one.
func (e kept) verifyPlace(tx storage.Tx, head mark) error {
	if e.Seq != 0 {
		l, err := getLink(tx, e.Seq)
		if errors.Is(err, storage.ErrNotFound) || err == nil && l.id != e.ID {
			return fmt.Errorf("event %s was put in: it says that its place is %d, and it is not: %w", e.ID, e.Seq, ErrBroken)
		}
		return err
	}
	key, err := newKey(e.ID)
	if err != nil {
		return errors.Join(err, ErrBroken)
	}
	_, err = tx.Get(newBucket, key)
	if !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	if !head.Caught { // of before there was a chain: it gets its place yet
		return nil
	}
	return fmt.Errorf("event %s was put in: it has no place, and waits for none: %w", e.ID, ErrBroken)
}

// further verifies from behind v.Last until last, while the log begins behind tail.
func (v Verified) further(tx storage.Tx, want map[uint64]string, tail, last uint64) (Verified, error) {
	now, err := getMark(tx, tailMark)
	if err != nil {
		return v, err
	}
	if now.Seq != tail && now.Seq > v.Last {
		return v, errForgotten
	}
	r := storage.Range{Start: seqKey(v.Last + 1), End: seqKey(last + 1)}
	tx.Prefetch(storage.Read{Bucket: chainBucket, Range: r, Then: readAhead})
	for l, err := range links(tx, r) {
		if errors.Is(err, storage.ErrCorrupt) {
			return v, errors.Join(err, ErrBroken)
		} else if err != nil {
			return v, err
		}
		if l.seq != v.Last+1 {
			return v, fmt.Errorf("event %d is missing: %w", v.Last+1, ErrBroken)
		}
		digest, outcome := l.digest, Refused // only trouble is erased
		if l.id != "" {
			e, err := log.Get(tx, l.id)
			switch {
			case errors.Is(err, storage.ErrNotFound):
				return v, fmt.Errorf("event %d is missing: %w", l.seq, ErrBroken)
			case err != nil:
				return v, err
			case e.Seq != l.seq:
				return v, fmt.Errorf("event %d says that its place is %d: %w", l.seq, e.Seq, ErrBroken)
			}
			outcome = e.Outcome
			if digest, err = digestOf(e.fields()); err != nil {
				return v, err
			}
			v.Events++
		} else {
			v.Erased++
		}
		if v.Hash = linkHash(v.Hash, digest, outcome); v.Hash != l.hash {
			return v, fmt.Errorf("event %d was changed, or the one before it: %w", l.seq, ErrBroken)
		}
		v.Last = l.seq
		if hash, ok := want[v.Last]; ok && hash != v.Hash {
			return v, fmt.Errorf("event %d does not have the hash that was noted of it: %w", v.Last, ErrBroken)
		}
	}
	if v.Last != last {
		return v, fmt.Errorf("event %d is missing: %w", v.Last+1, ErrBroken)
	}
	return v, nil
}
