package enroll

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// maxPushText bounds what a TokenUpdate says of topic and magic, in bytes.
const maxPushText = 255

// TokenUpdateMessage is what a TokenUpdate says.
type TokenUpdateMessage struct {
	ID            mdm.AppleID
	Push          mdm.Push
	UnlockToken   []byte
	UserShortName string
	UserLongName  string
}

// TokenUpdate takes note of where Apple's push service finds an enrollment. The
// first one after Authenticate completes the enrollment; the first of a user
// makes the user's channel.
func (s *Service) TokenUpdate(ctx context.Context, p Peer, m TokenUpdateMessage) error {
	switch {
	case m.Push.Topic == "" || m.Push.Magic == "" || len(m.Push.Token) == 0:
		return fmt.Errorf("%w: TokenUpdate lacks Topic, PushMagic or Token", ErrBadMessage)
	case len(m.Push.Topic) > maxPushText || len(m.Push.Magic) > maxPushText || len(m.Push.Token) > 1024:
		return fmt.Errorf("%w: TokenUpdate's Topic, PushMagic or Token is too long", ErrBadMessage)
	case len(m.UnlockToken) > 64<<10:
		return fmt.Errorf("%w: TokenUpdate's UnlockToken is too long", ErrBadMessage)
	}
	m.Push.SignedAt, m.Push.ToldAt = p.SignedAt.UTC(), s.now().UTC()

	var id mdm.DeviceID
	var enrolled bool
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		enrolled = false
		c, err := s.identify(tx, p, m.ID)
		if err != nil {
			return err
		}
		var d mdm.Device
		if m.ID.UserID != "" {
			d, enrolled, err = s.userToken(tx, c, m)
		} else {
			d, enrolled, err = s.deviceToken(tx, c, m)
		}
		if err != nil {
			return err
		}
		id = d.ID
		return s.hear(tx, p, id, mdm.Message{Topic: toldTokenUpdate, TokenUpdates: d.TokenUpdates})
	})
	if err != nil {
		return fmt.Errorf("token update: %w", s.refuseBearer(ctx, p, m.ID, "", err))
	}
	s.mdm.Saw(id)
	if enrolled {
		s.log.InfoContext(ctx, "enrolled", "device", id)
	}
	return nil
}

func (s *Service) deviceToken(tx storage.Tx, c caller, m TokenUpdateMessage) (d mdm.Device, enrolled bool, err error) {
	d = c.device
	m.Push.Topic = cmp.Or(d.Topic, m.Push.Topic) // its profile's: no device changes it
	// The token may change on either certificate of a renewal. It takes effect at
	// once under the old one; under the new one with the renewal, because a device
	// whose renewal failed goes back to its old magic.
	if c.candidate() {
		if older(m.Push, d.Renewal.Push) {
			return d, false, ErrStale
		}
		d.Renewal.Push = &m.Push
		d.Renewal.TokenUpdated = true
	} else {
		if older(m.Push, d.Push) {
			return d, false, ErrStale
		}
		d.Push = &m.Push
	}
	if len(m.UnlockToken) > 0 && d.Type != mdm.TypeUser { // a missing one does not delete the stored one
		if err := s.mdm.SetSecret(tx, d.ID, mdm.UnlockToken, m.UnlockToken); err != nil {
			return d, false, err
		}
	}
	d.TokenUpdates++
	if d.State == mdm.Pending {
		if err := s.complete(tx, &d); err != nil {
			return d, false, err
		}
		enrolled = true
	}
	if err := s.settle(tx, d); err != nil || c.candidate() {
		return d, enrolled, err // a candidate's token is in force when its renewal is
	}
	return d, enrolled, s.mdm.Reachable(tx, d)
}

// complete turns a pending device into an enrolled one.
func (s *Service) complete(tx storage.Tx, d *mdm.Device) error {
	d.State = mdm.Enrolled
	d.EnrolledAt = s.now().UTC()
	if err := s.inventory.Enrolled(tx, *d); err != nil {
		return err
	}
	if err := s.tellDevice(tx, "device.enrolled", *d, ""); err != nil {
		return err
	}
	a, err := attempts.Get(tx, d.AttemptID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil // swept
	}
	if err != nil {
		return err
	}
	a.ErrorCode = "" // one that was given up as too late has come after all
	a.enter(Enrolled, s.now())
	return putAttempt(tx, a)
}

func (s *Service) userToken(tx storage.Tx, c caller, m TokenUpdateMessage) (u mdm.Device, enrolled bool, err error) {
	now := s.now().UTC()
	u, err = mdm.FindDevice(tx, m.ID)
	if errors.Is(err, storage.ErrNotFound) {
		u, err = mdm.Device{ID: mdm.DeviceID(newID()), CreatedAt: now}, nil
	}
	if err != nil {
		return u, false, err
	}
	m.Push.Topic = cmp.Or(c.device.Topic, m.Push.Topic)
	if older(m.Push, u.Push) {
		return u, false, ErrStale
	}
	parent := c.device
	if parent.Type == mdm.TypeUser {
		if err := onlyUser(tx, parent.ID, m.ID); err != nil {
			return u, false, err
		}
	}
	if u.State == mdm.Blocked {
		return u, false, mdm.ErrBlocked
	}
	enrolled = u.State != mdm.Enrolled
	if enrolled {
		u = mdm.Device{
			ID: u.ID, CreatedAt: u.CreatedAt, ParentID: parent.ID, Type: mdm.TypeUserChannel, State: mdm.Enrolled, AppleID: m.ID,
			Ownership: parent.Ownership, User: parent.User, AttemptID: parent.AttemptID, Demo: parent.Demo,
			AccessRights: parent.AccessRights, AuthenticatedAt: now, EnrolledAt: now,
		}
	}
	// What the user's channel may be asked depends on the device that it is on.
	u.ProductName, u.Model, u.OSVersion, u.BuildVersion = parent.ProductName, parent.Model, parent.OSVersion, parent.BuildVersion
	u.Push = &m.Push
	u.TokenUpdates++
	u.UserShortName, u.UserLongName = mdm.Clamp(m.UserShortName), mdm.Clamp(m.UserLongName)
	if enrolled {
		// Whoever ends the device's enrollment writes its record, and must not miss a
		// channel that begins at the same moment; nor must two users of one User
		// Enrollment miss each other.
		if err := mdm.PutDevice(tx, parent); err != nil {
			return u, false, err
		}
		if err := s.inventory.Enrolled(tx, u); err != nil {
			return u, false, err
		}
		if err := s.tellDevice(tx, "device.enrolled", u, ""); err != nil {
			return u, false, err
		}
	}
	if err := mdm.PutDevice(tx, u); err != nil {
		return u, false, err
	}
	return u, enrolled, s.mdm.Reachable(tx, u)
}

// onlyUser refuses a second user of a User Enrollment: it belongs to one person,
// so another EnrollmentUserID is somebody else.
func onlyUser(tx storage.Tx, parent mdm.DeviceID, id mdm.AppleID) error {
	for u, err := range mdm.UserChannels(tx, parent) {
		if err != nil {
			return err
		}
		if u.AppleID != id && u.State != mdm.Unenrolled {
			return fmt.Errorf("%w: the enrollment is another user's", ErrForeignDevice)
		}
	}
	return nil
}

// older says that a push token was signed before the one in force: then it is a
// captured message that someone sent again.
func older(p mdm.Push, inForce *mdm.Push) bool {
	return inForce != nil && !p.SignedAt.IsZero() && p.SignedAt.Before(inForce.SignedAt)
}
