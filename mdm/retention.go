package mdm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Retention is how long commands are kept from their creation, answers and all.
type Retention struct {
	Days int `json:"days"`
}

// DefaultRetention is that of a new server.
func DefaultRetention() Retention { return Retention{Days: 180} }

// Bounds of a Retention, in days: a command may wait for its device as long as the least.
const (
	LeastDays = int(commandLife / (24 * time.Hour))
	MostDays  = 3650
)

// ErrRetention means that commands can't be kept that long, or that short.
var ErrRetention = fmt.Errorf("must be from %d to %d days", LeastDays, MostDays)

const retentionKey = "retention"

var retentions = storage.NewCollection("mdm.retention", 1, func(Retention) string { return retentionKey })

// GetRetention returns what is in force.
func GetRetention(tx storage.Tx) (Retention, error) {
	v, err := retentions.Get(tx, retentionKey)
	if errors.Is(err, storage.ErrNotFound) {
		return DefaultRetention(), nil
	}
	if err != nil {
		return Retention{}, fmt.Errorf("retention of commands: %w", err)
	}
	return v, nil
}

// PutRetention decides it, or returns ErrRetention. What is older goes within hours.
func PutRetention(tx storage.Tx, v Retention) error {
	if v.Days < LeastDays || v.Days > MostDays {
		return ErrRetention
	}
	if err := retentions.Put(tx, v); err != nil {
		return fmt.Errorf("retention of commands: %w", err)
	}
	return nil
}

// deleteOld deletes commands that were kept long enough.
func (s *Service) deleteOld(ctx context.Context) error {
	var kept Retention
	err := s.db.View(ctx, func(tx storage.Tx) (err error) {
		kept, err = GetRetention(tx)
		return err
	})
	if err != nil {
		return err
	}
	return s.sweepOlder(ctx, commandsByAge, time.Duration(kept.Days)*24*time.Hour, s.deleteCommand)
}
