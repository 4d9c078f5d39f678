package event

import (
	"context"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Retention is how long events are kept, where somebody has decided it.
type Retention struct {
	Days int `json:"days"`
}

// DefaultRetention is that of a new server: a year, and some time to look back at it.
func DefaultRetention() Retention { return Retention{Days: 400} }

// Bounds of a Retention, in days.
const (
	LeastDays = 30
	MostDays  = 3650
)

// ErrRetention means that events can't be kept that long, or that short.
var ErrRetention = fmt.Errorf("must be from %d to %d days", LeastDays, MostDays)

const retentionKey = "retention"

var retentions = storage.NewCollection("event.retention", 1, func(Retention) string { return retentionKey })

// GetRetention returns what is in force.
func GetRetention(tx storage.Tx) (Retention, error) {
	v, err := retentions.Get(tx, retentionKey)
	if errors.Is(err, storage.ErrNotFound) {
		return DefaultRetention(), nil
	}
	if err != nil {
		return Retention{}, fmt.Errorf("retention of events: %w", err)
	}
	return v, nil
}

// PutRetention decides it, or returns ErrRetention. What is older goes within hours.
func PutRetention(tx storage.Tx, v Retention) error {
	if v.Days < LeastDays || v.Days > MostDays {
		return ErrRetention
	}
	if err := retentions.Put(tx, v); err != nil {
		return fmt.Errorf("retention of events: %w", err)
	}
	return nil
}

// retention returns what is in force, where nobody has told New otherwise.
func (r *Recorder) retention(ctx context.Context) (v Retention, err error) {
	err = r.db.View(ctx, func(tx storage.Tx) error {
		v, err = GetRetention(tx)
		return err
	})
	return v, err
}
