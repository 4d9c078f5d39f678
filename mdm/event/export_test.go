package event

import "context"

// Anchor is one turn of telling what the chain has come to.
func (r *Recorder) Anchor(ctx context.Context) error { return r.anchor(ctx) }

// NewBucket holds the events that have no place yet.
const NewBucket = newBucket

// Canonical is what the digest of e is of.
func Canonical(e Event) (string, error) {
	raw, err := canonical(e.fields())
	return string(raw), err
}
