package enroll

import (
	"cmp"
	"context"
	"errors"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// refuseBearer is afterBearer for a message that names an enrollment, whose refusal it writes
// into the audit log if it is for the access token: somebody may try another's. attemptID is
// of a device that has not come yet. The attempt goes on: its device comes again with its own.
func (s *Service) refuseBearer(ctx context.Context, p Peer, id mdm.AppleID, attemptID string, err error) error {
	code := ""
	switch {
	case errors.Is(err, ErrNoBearer):
		code = "token_missing"
	case errors.Is(err, ErrForeignBearer):
		code = "token_foreign"
	default:
		return s.afterBearer(ctx, err)
	}
	var d mdm.Device
	failed := s.db.View(ctx, func(tx storage.Tx) (err error) {
		if d, err = mdm.FindDevice(tx, id.Device()); errors.Is(err, storage.ErrNotFound) {
			a, err := attempts.Get(tx, attemptID)
			d = mdm.Device{User: a.User, AttemptID: attemptID}
			return ignoreNotFound(err)
		}
		return err
	})
	if failed != nil {
		s.log.WarnContext(ctx, "refusal recorded without its device", "err", failed)
	}
	e := event.Event{DeviceID: string(d.ID), User: d.User, Peer: p.Address, Reason: err.Error()}
	s.tellRefused(ctx, e, d.AttemptID, code, cmp.Or(id.UDID, id.EnrollmentID), "")
	return err
}
