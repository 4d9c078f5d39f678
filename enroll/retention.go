package enroll

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Retention is how long the records of devices are kept that have left, in days from when they
// did; 0 is for good.
type Retention struct {
	Days int `json:"days"`
}

// Bounds of a Retention other than 0.
const (
	LeastRetention = 30
	MostRetention  = 3650
)

// ErrRetention means that records can't be kept that long, or that short.
var ErrRetention = fmt.Errorf("must be from %d to %d days, or 0 to keep them", LeastRetention, MostRetention)

var retentions = storage.NewCollection("enroll.retention", 1, func(Retention) string { return settingsKey })

// GetRetention returns what is in force; that of a new server is to keep all.
func GetRetention(tx storage.Tx) (Retention, error) {
	v, err := maybe(retentions.Get(tx, settingsKey))
	if err != nil {
		return Retention{}, fmt.Errorf("retention of devices: %w", err)
	}
	if v == nil {
		return Retention{}, nil
	}
	return *v, nil
}

// PutRetention decides it, or returns ErrRetention. What is older goes within a day.
func PutRetention(tx storage.Tx, v Retention) error {
	if v.Days != 0 && (v.Days < LeastRetention || v.Days > MostRetention) {
		return ErrRetention
	}
	if err := retentions.Put(tx, v); err != nil {
		return fmt.Errorf("retention of devices: %w", err)
	}
	return nil
}

// keptLongEnough is why a server deletes a record by itself, for the audit log.
const keptLongEnough = "it left long enough ago"

// deleteLeft deletes the records of devices that left long enough ago. What is blocked stays.
func (s *Service) deleteLeft(ctx context.Context) error {
	var kept Retention
	err := s.db.View(ctx, func(tx storage.Tx) (err error) {
		kept, err = GetRetention(tx)
		return err
	})
	if err != nil || kept.Days == 0 {
		return err
	}
	before := s.now().Add(-time.Duration(kept.Days) * 24 * time.Hour)
	ids, err := s.mdm.Select(ctx, mdm.Query{States: []mdm.State{mdm.Unenrolled}})
	if err != nil {
		return fmt.Errorf("devices that left: %w", err)
	}
	deleted, failed := 0, []error(nil)
	for _, id := range ids {
		switch gone, err := s.deleteIfLeft(ctx, id, before); {
		case errors.Is(err, mdm.ErrBlocked), errors.Is(err, mdm.ErrEnrolled), errors.Is(err, ErrUserBlocked):
		case err != nil:
			failed = append(failed, fmt.Errorf("delete device %s, which left: %w", id, err))
		case gone:
			deleted++
		}
	}
	if deleted > 0 {
		s.log.InfoContext(ctx, "records of devices that left were deleted", "devices", deleted, "days", kept.Days)
	}
	return errors.Join(failed...)
}

// deleteIfLeft deletes the record of a device that left before a time, and says whether it did.
func (s *Service) deleteIfLeft(ctx context.Context, id mdm.DeviceID, before time.Time) (gone bool, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		gone = false
		d, err := mdm.GetDevice(tx, id)
		if errors.Is(err, storage.ErrNotFound) { // with the device that it was a user of
			return nil
		}
		if err != nil || d.State != mdm.Unenrolled || !latest(d.UnenrolledAt, d.CreatedAt).Before(before) {
			return err
		}
		gone = true
		return s.deleteRecord(tx, d, deletion{by: ourselves, why: keptLongEnough})
	})
	return gone, err
}
