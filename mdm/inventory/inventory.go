// Package inventory keeps what devices say of themselves: it asks them from time to time, or
// when somebody wants to know, and remembers which answer each fact is from and what has
// changed.
//
// It learns from every final answer to one of its sources, whoever asked. It knows nothing of
// HTTP, and of an enrollment only that it began and ended.
package inventory

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Config says what a Service needs: all of it.
type Config struct {
	DB  storage.DB
	MDM *mdm.Service
	Log *slog.Logger
	Now func() time.Time
}

// Service is the inventory of all devices.
type Service struct {
	db  storage.DB
	mdm *mdm.Service
	log *slog.Logger
	now func() time.Time
}

// New returns a Service that learns from what c.MDM records, or says what c lacks.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.MDM == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("inventory: DB, MDM, Log and Now are required")
	}
	s := &Service{db: c.DB, mdm: c.MDM, log: c.Log, now: c.Now}
	s.mdm.Screen(s.screen)
	s.mdm.Observe(s.learn)
	s.mdm.OnDelete(s.Forget)
	return s, nil
}

// Run asks devices when they are due, until ctx ends. One of all replicas does.
func (s *Service) Run(ctx context.Context) error {
	return storage.Schedule{
		DB: s.db, Log: s.log, Now: s.now,
		Jobs: []storage.Job{
			{Name: "inventory/refresh", Every: refreshTick, Do: s.refreshDue},
			{Name: "inventory/sweep", Every: sweepTick, Do: s.sweep},
		},
	}.Run(ctx)
}

// Enrolled begins to ask a device, or a user channel. It is for the transaction in which that
// has enrolled.
func (s *Service) Enrolled(tx storage.Tx, d mdm.Device) error {
	settings, err := GetSettings(tx)
	if err != nil {
		return err
	}
	return schedule.Put(tx, due{DeviceID: d.ID, At: s.now().Add(settings.FirstAfter).UTC(), First: true})
}

// Left ends the asking. What is known stays, as it was.
func (s *Service) Left(tx storage.Tx, id mdm.DeviceID) error {
	return schedule.Delete(tx, string(id))
}

// Forget deletes all that is known of a device: what follows is another enrollment, perhaps
// another person's.
func (s *Service) Forget(tx storage.Tx, id mdm.DeviceID) error {
	for _, source := range Sources() {
		if err := records.Delete(tx, recordKey(id, source)); err != nil {
			return err
		}
	}
	if err := forgetChanges(tx, id); err != nil {
		return err
	}
	return errors.Join(schedule.Delete(tx, string(id)), turns.Delete(tx, string(id)), mdm.ForgetAttributes(tx, id))
}
