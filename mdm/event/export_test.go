package event

import (
	"context"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Anchor is one turn of telling what the chain has come to.
func (r *Recorder) Anchor(ctx context.Context) error { return r.anchor(ctx) }

// NewBucket holds the events that have no place yet.
const NewBucket = newBucket

// Canonical is what the digest of e is of.
func Canonical(e Event) (string, error) {
	raw, err := canonical(e.fields())
	return string(raw), err
}

// ForgetCounts leaves the days as a program does that counts none.
func ForgetCounts(tx storage.Tx) error {
	for d, err := range days.All(tx, storage.Range{}) {
		if err != nil {
			return err
		}
		if err := days.Delete(tx, d.Date); err != nil {
			return err
		}
	}
	return marks.Delete(tx, countedMark)
}
