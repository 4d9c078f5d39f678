package enroll

import (
	"context"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Revocation reasons (RFC 5280, 5.3.1) as enrollment uses them.
const (
	reasonSuperseded = "superseded"
	reasonCessation  = "cessationOfOperation"
	reasonPrivilege  = "privilegeWithdrawn"
)

// Why an enrollment has ended, for the audit log.
const (
	leftByItself   = "the profile was removed on the device"
	leftByOperator = "it was ended on the server"
	leftWithUser   = "its user was disabled"
	leftByUser     = "its user had management removed"
	leftRevoked    = "its identity was revoked"
	leftSignIn     = "its sign-in was withdrawn"
)

// CheckOut ends an enrollment at the device's wish; of a user channel, only that
// user's. A second one changes nothing and is no error.
func (s *Service) CheckOut(ctx context.Context, p Peer, id mdm.AppleID) error {
	var gone mdm.DeviceID
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		gone = ""
		c, err := s.sender(tx, p, id) // who leaves needs no sign-in for it
		if errors.Is(err, ErrGone) && (c.device.ID == "" || c.device.AppleID == id.Device()) {
			return nil // it left before; without an ID its record was deleted since
		}
		if err != nil {
			return err
		}
		d, err := c.channel(tx, id)
		if errors.Is(err, storage.ErrNotFound) {
			return nil // a user that never came
		}
		if err != nil {
			return err
		}
		if d.State == mdm.Unenrolled || d.State == mdm.Blocked {
			return nil // a user channel that ended before its device: going once more lifts no block
		}
		gone = d.ID
		if err := s.end(tx, d, mdm.Unenrolled, "device:"+string(d.ID), leftByItself); err != nil {
			return err
		}
		return s.hear(tx, p, d.ID, mdm.Message{Topic: toldCheckOut})
	})
	if err != nil {
		return fmt.Errorf("check out: %w", err)
	}
	if gone != "" {
		s.log.InfoContext(ctx, "checked out", "device", gone)
	}
	return nil
}

// Unenroll ends an enrollment from this side: the certificates are revoked, so
// that the device is told to remove its profile when it next calls.
func (s *Service) Unenroll(ctx context.Context, id mdm.DeviceID) (mdm.Device, error) {
	return s.endByID(ctx, id, mdm.Unenrolled)
}

// Block is Unenroll for good: the device may not enroll again until Unblock.
func (s *Service) Block(ctx context.Context, id mdm.DeviceID) (mdm.Device, error) {
	return s.endByID(ctx, id, mdm.Blocked)
}

// Unblock lets a blocked device enroll again. One that is not blocked stays as it is.
func (s *Service) Unblock(ctx context.Context, id mdm.DeviceID) (d mdm.Device, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if d, err = mdm.GetDevice(tx, id); err != nil || d.State != mdm.Blocked {
			return err
		}
		d.State, d.UnenrolledAt = mdm.Unenrolled, s.now().UTC() // its record is kept from now on
		if err := mdm.PutDevice(tx, d); err != nil {
			return err
		}
		return event.Record(tx, event.Event{
			At: s.now().UTC(), Actor: actor(ctx), Action: "device.unblocked", DeviceID: string(id), User: d.User,
			Changes: stateChange(mdm.Blocked, d.State),
		})
	})
	if err != nil {
		return mdm.Device{}, fmt.Errorf("unblock: %w", err)
	}
	s.log.InfoContext(ctx, "device unblocked", "device", id, "state", d.State)
	return d, nil
}

// EndUser ends all enrollments of a user who may not have any more, and revokes what
// certificates the user has beside. It is for the transaction in which that is decided;
// logins are all names that the user goes by.
func (s *Service) EndUser(tx storage.Tx, logins ...string) error {
	now := s.now().UTC()
	var theirs []mdm.Device
	for _, login := range logins {
		for d, err := range mdm.DevicesOfUser(tx, login) {
			if err != nil {
				return err
			}
			if d.ParentID == "" && (d.State == mdm.Enrolled || d.State == mdm.Pending) {
				theirs = append(theirs, d)
			}
		}
		if err := s.tellRevoked(tx, s.depot.ByUser(tx, login), reasonPrivilege, ourselves); err != nil {
			return err
		}
		if err := s.depot.RevokeUser(tx, login, reasonPrivilege, now); err != nil {
			return err
		}
	}
	c, err := getAccountDriven(tx)
	if err != nil {
		return err
	}
	for _, d := range theirs {
		if d.EnrollmentMode != "" && c.UserDisabled == AfterSignIn {
			err = s.suspend(tx, d)
		} else {
			err = s.end(tx, d, mdm.Unenrolled, ourselves, leftWithUser)
		}
		if err == nil && d.State == mdm.Pending {
			err = s.failComing(tx, d, codeOf(ErrUserDisabled))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// failComing ends the attempt of a device that was about to be enrolled.
func (s *Service) failComing(tx storage.Tx, d mdm.Device, code string) error {
	a, err := attempts.Get(tx, d.AttemptID)
	if errors.Is(err, storage.ErrNotFound) || err == nil && a.Stage != CheckedIn {
		return nil
	}
	if err != nil {
		return err
	}
	return s.failAttempt(tx, a, code)
}

// suspend leaves a device enrolled whose user may not have it for now. It is told nothing but
// that its user must sign in, which nobody can. The certificates that it and its users have are
// revoked but for its identity, and it gets none: what was assigned to it is sent again when
// its user may have it.
func (s *Service) suspend(tx storage.Tx, d mdm.Device) error {
	now := s.now().UTC()
	channels, err := mdm.WithUserChannels(tx, d)
	if err != nil {
		return err
	}
	for _, ch := range channels {
		if err := s.tellRevoked(tx, s.depot.PayloadsByDevice(tx, string(ch.ID)), reasonPrivilege, ourselves); err != nil {
			return err
		}
		if err := s.depot.RevokePayloads(tx, string(ch.ID), reasonPrivilege, now); err != nil {
			return err
		}
		if err := s.payloads.Suspended(tx, ch.ID); err != nil {
			return err
		}
	}
	return s.revokeAuthorizations(tx, d, ourselves) // writes d: a channel that begins at the same moment meets it
}

// ourselves is who did what nobody asked for by name.
const ourselves = "server"

// actor names who acts in ctx, for the audit log.
func actor(ctx context.Context) string {
	if p, ok := identity.PrincipalFrom(ctx); ok {
		return p.String()
	}
	return ourselves
}

func (s *Service) endByID(ctx context.Context, id mdm.DeviceID, state mdm.State) (d mdm.Device, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if d, err = mdm.GetDevice(tx, id); err != nil {
			return err
		}
		if d.State == state || d.State == mdm.Blocked {
			return nil
		}
		if err := s.end(tx, d, state, actor(ctx), leftByOperator); err != nil {
			return err
		}
		if d.State == mdm.Pending && state == mdm.Blocked {
			if err := s.failComing(tx, d, codeOf(mdm.ErrBlocked)); err != nil {
				return err
			}
		}
		d, err = mdm.GetDevice(tx, id)
		return err
	})
	if err != nil {
		return mdm.Device{}, fmt.Errorf("end enrollment: %w", err)
	}
	s.log.InfoContext(ctx, "enrollment ended", "device", id, "state", d.State)
	return d, nil
}

// end makes trust follow state: with the enrollment go its certificates, its
// queue and its user channels, in one transaction. by is who is to blame in the audit log,
// and why the reason in it.
func (s *Service) end(tx storage.Tx, d mdm.Device, state mdm.State, by, why string) error {
	now := s.now().UTC()
	err := event.Record(tx, event.Event{
		At: now, Actor: by, Action: "device." + string(state), Reason: why, DeviceID: string(d.ID), User: d.User,
		Changes: stateChange(d.State, state),
	})
	if err != nil {
		return err
	}
	if err := s.tellRevoked(tx, s.depot.ByDevice(tx, string(d.ID)), reasonCessation, by); err != nil {
		return err
	}
	if err := s.depot.RevokeDevice(tx, string(d.ID), reasonCessation, now); err != nil {
		return err
	}
	if err := s.payloads.DeviceGone(tx, d.ID); err != nil {
		return err
	}
	if err := s.inventory.Left(tx, d.ID); err != nil {
		return err
	}
	if d.ParentID == "" {
		if err := trusts.Delete(tx, string(d.ID)); err != nil { // its profile is gone, and the roots in it
			return err
		}
		if err := endAuthorizations(tx, authorization{DeviceID: d.ID}.holder(), ""); err != nil {
			return err
		}
		all, err := mdm.WithUserChannels(tx, d)
		if err != nil {
			return err
		}
		for _, u := range all[1:] {
			if u.State == mdm.Blocked {
				continue
			}
			if err := s.end(tx, u, mdm.Unenrolled, by, why); err != nil {
				return err
			}
		}
	}
	if err := s.mdm.CancelPending(tx, d.ID); err != nil {
		return err
	}
	d.State, d.Push, d.Renewal = state, nil, nil
	d.UnenrolledAt = now
	return mdm.PutDevice(tx, d)
}
