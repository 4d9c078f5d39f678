package enroll

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Errors of records that can't be deleted, or be made one.
var (
	// ErrSameDevice means that a device was to be merged into itself.
	ErrSameDevice = errors.New("both are the same device")
	// ErrUserChannel means that a record is that of a user of a device, where only a device can be.
	ErrUserChannel = errors.New("it is a user of a device")
	// ErrUserBlocked means that a user of the device may not come back, though the device may.
	ErrUserBlocked = errors.New("one of its users is blocked")
)

// Delete deletes the record of an enrollment that has ended, those of its users, and what was
// kept about them. The certificates that were issued stay in the record of the authority, all
// revoked, and the audit log keeps what happened. A device that comes again is a new one. The
// error is [mdm.ErrEnrolled] for one that has not ended, [mdm.ErrBlocked] or ErrUserBlocked for
// what may not come back, since without its record nobody would know, or wraps
// storage.ErrNotFound.
func (s *Service) Delete(ctx context.Context, id mdm.DeviceID) error {
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		d, err := mdm.GetDevice(tx, id)
		if err != nil {
			return err
		}
		return s.deleteRecord(tx, d, deletion{by: actor(ctx)})
	})
	if err != nil {
		return fmt.Errorf("delete device: %w", err)
	}
	s.log.InfoContext(ctx, "device deleted", "device", id, "by", actor(ctx))
	return nil
}

// Merge makes two records of one device one: what was kept of a former enrollment that is of
// use for the one into which it goes is kept with that, as [mdm.Service.Merge] says, and the
// record from is deleted. It is for personal devices, which tell nothing by which a server
// could know them again. Its errors are those of Delete about from, but a *FieldError where
// that is not there; ErrSameDevice, ErrUserChannel, [mdm.ErrNotesTooLong], or wrap
// storage.ErrNotFound if into is not.
func (s *Service) Merge(ctx context.Context, from, into mdm.DeviceID) error {
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		tx.Prefetch(mdm.ReadDevice(from), mdm.ReadDevice(into))
		other, err := mdm.GetDevice(tx, into)
		if err != nil {
			return err
		}
		d, err := mdm.GetDevice(tx, from)
		switch {
		case errors.Is(err, storage.ErrNotFound):
			return &FieldError{"device_id", "is no device"}
		case err != nil:
			return err
		case from == into:
			return ErrSameDevice
		case d.ParentID != "" || other.ParentID != "":
			return ErrUserChannel
		}
		note, err := mdm.GetNote(tx, into)
		if err != nil {
			return err
		}
		if err := s.mdm.Merge(tx, from, into, actor(ctx)); err != nil {
			return err
		}
		merged, err := mdm.GetNote(tx, into)
		if err != nil {
			return err
		}
		err = event.Record(tx, event.Event{
			At: s.now().UTC(), Actor: actor(ctx), Action: "device.merged", DeviceID: string(into), User: other.User,
			Details: map[string]string{"from": string(from)},
			Changes: event.Changes(map[string]any{"note": note.Text}, map[string]any{"note": merged.Text}),
		})
		if err != nil {
			return err
		}
		return s.deleteRecord(tx, d, deletion{by: actor(ctx), into: into})
	})
	if err != nil {
		return fmt.Errorf("merge devices: %w", err)
	}
	s.log.InfoContext(ctx, "device merged", "device", from, "into", into, "by", actor(ctx))
	return nil
}

// deletion is what the audit log says of one.
type deletion struct {
	by, why string
	into    mdm.DeviceID // the device that takes its place; empty: none
}

// deleteRecord deletes d and its user channels, and tells the audit log.
func (s *Service) deleteRecord(tx storage.Tx, d mdm.Device, how deletion) error {
	all, err := mdm.WithUserChannels(tx, d)
	if err != nil {
		return err
	}
	for _, one := range all {
		switch {
		case one.State == mdm.Unenrolled:
		case one.State != mdm.Blocked:
			return mdm.ErrEnrolled
		case one.ID == d.ID:
			return mdm.ErrBlocked
		default:
			return ErrUserBlocked
		}
	}
	for _, one := range slices.Backward(all) { // the device last
		if err := s.tellDeleted(tx, one, how); err != nil {
			return err
		}
		// What stood on the enrollment went with it, but for these.
		err := errors.Join(
			arrivals.Delete(tx, string(one.ID)),
			lost.Delete(tx, string(one.ID)),
			removals.Delete(tx, string(one.ID)),
			s.mdm.Delete(tx, one.ID),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// tellDeleted writes down in the audit log what is deleted.
func (s *Service) tellDeleted(tx storage.Tx, d mdm.Device, how deletion) error {
	e := event.Event{
		At: s.now().UTC(), Actor: how.by, Action: "device.deleted", Reason: how.why, DeviceID: string(d.ID), User: d.User,
		Details: map[string]string{"enrollment_type": string(d.Type)},
		Changes: event.Changes(map[string]any{
			"device_name": d.DeviceName, "serial_number": d.SerialNumber, "model": d.Model, "os_version": d.OSVersion, "user": d.User, "state": string(d.State),
		}, nil),
	}
	for name, value := range map[string]string{"device_name": d.DeviceName, "serial_number": d.SerialNumber, "merged_into": string(how.into)} {
		if value != "" {
			e.Details[name] = value
		}
	}
	return event.Record(tx, e)
}
