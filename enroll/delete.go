package enroll

import (
	"context"
	"errors"
	"fmt"

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
)

// Delete deletes the record of an enrollment that has ended, those of its users, and what was
// kept about them. The certificates that were issued stay in the record of the authority, all
// revoked, and the audit log keeps what happened. A device that comes again is a new one. The
// error is [mdm.ErrEnrolled] for one that has not ended, [mdm.ErrBlocked] for one that may not
// come back, since without its record nobody would know, or wraps storage.ErrNotFound.
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
		if err := mayDelete(tx, d); err != nil {
			return err
		}
		if err := s.mdm.Merge(tx, from, into, actor(ctx)); err != nil {
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

// mayDelete says whether nothing is lost but history with the record of d.
func mayDelete(tx storage.Tx, d mdm.Device) error {
	switch d.State {
	case mdm.Unenrolled:
	case mdm.Blocked:
		return mdm.ErrBlocked
	default:
		return mdm.ErrEnrolled
	}
	for u, err := range mdm.UserChannels(tx, d.ID) {
		if err != nil {
			return err
		}
		if err := mayDelete(tx, u); err != nil {
			return fmt.Errorf("its user %s: %w", u.ID, err)
		}
	}
	return nil
}

// deletion is what the audit log says of one.
type deletion struct {
	by, why string
	into    mdm.DeviceID // the device that takes its place; empty: none
}

// deleteRecord deletes d and its user channels, and tells the audit log.
func (s *Service) deleteRecord(tx storage.Tx, d mdm.Device, how deletion) error {
	if err := mayDelete(tx, d); err != nil {
		return err
	}
	var users []mdm.Device
	for u, err := range mdm.UserChannels(tx, d.ID) {
		if err != nil {
			return err
		}
		users = append(users, u)
	}
	for _, u := range users {
		if err := s.deleteRecord(tx, u, how); err != nil {
			return err
		}
	}
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
	if err := event.Record(tx, e); err != nil {
		return err
	}
	return errors.Join(
		trusts.Delete(tx, string(d.ID)),
		arrivals.Delete(tx, string(d.ID)),
		lost.Delete(tx, string(d.ID)),
		removals.Delete(tx, string(d.ID)),
		endAuthorizations(tx, authorization{DeviceID: d.ID}.holder(), ""),
		s.mdm.Delete(tx, d.ID),
	)
}
