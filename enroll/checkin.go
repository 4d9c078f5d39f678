package enroll

import (
	"context"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Revocation reasons (RFC 5280, 5.3.1) as enrollment uses them.
const (
	reasonSuperseded = "superseded"
	reasonCessation  = "cessationOfOperation"
)

// maxPushText bounds what a TokenUpdate says of topic and magic, in bytes.
const maxPushText = 255

// AuthenticateMessage is what an Authenticate says.
type AuthenticateMessage struct {
	ID    mdm.AppleID
	Topic string
	Facts mdm.Facts
}

// Authenticate begins an enrollment, or a renewal, or is the repetition of
// either. What it is follows from the certificate alone (DESIGN 3):
//
//   - one that an attempt was given makes or finds the device and starts afresh;
//   - the one that a device has in force is a retry, and clears nothing;
//   - the one issued to replace that one is a step of the renewal, and clears nothing.
//
// It is all one transaction, after everything was checked.
func (s *Service) Authenticate(ctx context.Context, p Peer, m AuthenticateMessage) error {
	if m.ID.UserID != "" {
		return fmt.Errorf("%w: Authenticate names a user", ErrBadMessage)
	}
	if err := m.ID.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrBadMessage, err)
	}
	clampFacts(&m.Facts)

	var d mdm.Device
	var attemptID, step string
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		attemptID, step = "", ""
		c, err := s.known(tx, p)
		attemptID = c.cert.AttemptID
		if err != nil {
			return err
		}
		if c.device.ID == "" {
			step = "enrollment"
			d, err = s.begin(tx, c, m)
			return err
		}
		d = c.device
		switch {
		case d.AppleID != m.ID:
			return ErrForeignDevice
		case d.State == mdm.Unenrolled || d.State == mdm.Blocked:
			return ErrGone
		case c.current():
			step = "retry"
			learnFacts(&d, m.Facts)
		case c.candidate():
			step = "renewal"
			d.Renewal.Authenticated = true
			learnFacts(&d, m.Facts)
		default:
			return ErrRetired
		}
		return mdm.PutDevice(tx, d)
	})
	if errors.Is(err, ErrDeviceOwned) || errors.Is(err, mdm.ErrBlocked) {
		s.failRefused(ctx, attemptID, err)
	}
	if err != nil {
		return fmt.Errorf("authenticate: %w", err)
	}
	s.mdm.Saw(d.ID)
	s.log.InfoContext(ctx, "device authenticated", "device", d.ID, "step", step, "attempt", d.AttemptID)
	return nil
}

// begin makes or finds the device that an attempt's certificate speaks for, and
// binds the two for good.
func (s *Service) begin(tx storage.Tx, c caller, m AuthenticateMessage) (mdm.Device, error) {
	now := s.now().UTC()
	a, err := attempts.Get(tx, c.cert.AttemptID)
	if errors.Is(err, storage.ErrNotFound) || err == nil && a.Stage != IdentityIssued {
		return mdm.Device{}, fmt.Errorf("%w: its attempt is over", ErrUnidentified)
	}
	if err != nil {
		return mdm.Device{}, err
	}
	d, err := mdm.FindDevice(tx, m.ID)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		d = mdm.Device{ID: mdm.DeviceID(newID()), CreatedAt: now}
	case err != nil:
		return mdm.Device{}, err
	default:
		if err := mayBeginAgain(d, a); err != nil {
			return mdm.Device{}, err
		}
		if err := s.startAfresh(tx, d); err != nil {
			return mdm.Device{}, err
		}
	}
	d = mdm.Device{
		ID: d.ID, CreatedAt: d.CreatedAt,
		Type: mdm.TypeDevice, State: mdm.Pending, AppleID: m.ID,
		Ownership: a.Ownership, User: a.User, AttemptID: a.ID, Demo: a.Demo, Topic: a.Topic, AccessRights: AllRights,
		Identity: c.fp, AuthenticatedAt: now,
	}
	if m.ID.EnrollmentID != "" {
		d.Type, d.AccessRights = mdm.TypeUser, 0 // its rights are fixed by Apple
	}
	learnFacts(&d, m.Facts)
	if err := s.depot.Bind(tx, depot.Fingerprint(c.fp), string(d.ID)); err != nil {
		return mdm.Device{}, err
	}
	a.DeviceID = d.ID
	a.enter(CheckedIn, now)
	if err := attempts.Put(tx, a); err != nil {
		return mdm.Device{}, err
	}
	return d, mdm.PutDevice(tx, d)
}

// mayBeginAgain says whether attempt a may take over device d. One that is
// enrolled is given up only to the person it belongs to: a device that was
// erased can't say goodbye, but neither may a stranger who knows its UDID claim
// it. One that never finished its enrollment has nothing to protect.
func mayBeginAgain(d mdm.Device, a Attempt) error {
	switch {
	case d.State == mdm.Blocked:
		return mdm.ErrBlocked
	case d.State == mdm.Enrolled && (a.User == "" || a.User != d.User):
		return ErrDeviceOwned
	}
	return nil
}

// startAfresh ends what an earlier enrollment of d left: its certificates, queue,
// secrets and answers. Its user channels wait for a TokenUpdate of their own.
func (s *Service) startAfresh(tx storage.Tx, d mdm.Device) error {
	if err := s.depot.RevokeDevice(tx, string(d.ID), reasonSuperseded, s.now().UTC()); err != nil {
		return err
	}
	if err := s.forget(tx, d.ID); err != nil {
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
		if u.State != mdm.Blocked {
			u.State = mdm.Pending
		}
		u.Push, u.TokenUpdates = nil, 0
		if err := mdm.PutDevice(tx, u); err != nil {
			return err
		}
		if err := s.forget(tx, u.ID); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) forget(tx storage.Tx, id mdm.DeviceID) error {
	if err := s.mdm.CancelPending(tx, id); err != nil {
		return err
	}
	if err := s.mdm.ForgetSecrets(tx, id); err != nil {
		return err
	}
	return mdm.ForgetAttributes(tx, id)
}

// failRefused tells the attempt why its device was turned away. The refusal
// itself changed nothing, so this is a transaction of its own.
func (s *Service) failRefused(ctx context.Context, attemptID string, refusal error) {
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		a, err := attempts.Get(tx, attemptID)
		if err != nil {
			return err
		}
		if a.Stage != IdentityIssued {
			return nil
		}
		return s.failAttempt(tx, a, codeOf(refusal))
	})
	if err != nil {
		s.log.WarnContext(ctx, "attempt not marked as failed", "attempt", attemptID, "err", err)
	}
}

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
	m.Push.SignedAt = p.SignedAt.UTC()

	var id mdm.DeviceID
	var enrolled bool
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		enrolled = false
		c, err := s.identify(tx, p, m.ID)
		if err != nil {
			return err
		}
		if m.ID.UserID != "" {
			id, enrolled, err = s.userToken(tx, c, m)
			return err
		}
		id = c.device.ID
		enrolled, err = s.deviceToken(tx, c, m)
		return err
	})
	if err != nil {
		return fmt.Errorf("token update: %w", err)
	}
	s.mdm.Saw(id)
	if enrolled {
		s.log.InfoContext(ctx, "enrolled", "device", id)
	}
	return nil
}

func (s *Service) deviceToken(tx storage.Tx, c caller, m TokenUpdateMessage) (enrolled bool, err error) {
	d := c.device
	// The token may change on either certificate of a renewal. It takes effect at
	// once under the old one; under the new one with the renewal, because a device
	// whose renewal failed goes back to its old magic.
	if c.candidate() {
		if older(m.Push, d.Renewal.Push) {
			return false, ErrStale
		}
		d.Renewal.Push = &m.Push
		d.Renewal.TokenUpdated = true
	} else {
		if older(m.Push, d.Push) {
			return false, ErrStale
		}
		d.Push = &m.Push
	}
	if len(m.UnlockToken) > 0 && d.Type != mdm.TypeUser { // a missing one does not delete the stored one
		if err := s.mdm.SetSecret(tx, d.ID, mdm.UnlockToken, m.UnlockToken); err != nil {
			return false, err
		}
	}
	d.TokenUpdates++
	if d.State == mdm.Pending {
		if err := s.complete(tx, &d); err != nil {
			return false, err
		}
		enrolled = true
	}
	return enrolled, s.settle(tx, d)
}

// complete turns a pending device into an enrolled one.
func (s *Service) complete(tx storage.Tx, d *mdm.Device) error {
	d.State = mdm.Enrolled
	d.EnrolledAt = s.now().UTC()
	a, err := attempts.Get(tx, d.AttemptID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil // swept
	}
	if err != nil {
		return err
	}
	a.enter(Enrolled, s.now())
	return attempts.Put(tx, a)
}

func (s *Service) userToken(tx storage.Tx, c caller, m TokenUpdateMessage) (mdm.DeviceID, bool, error) {
	now := s.now().UTC()
	u, err := mdm.FindDevice(tx, m.ID)
	if errors.Is(err, storage.ErrNotFound) {
		u, err = mdm.Device{ID: mdm.DeviceID(newID()), CreatedAt: now}, nil
	}
	if err != nil {
		return "", false, err
	}
	if older(m.Push, u.Push) {
		return "", false, ErrStale
	}
	parent := c.device
	if parent.Type == mdm.TypeUser {
		if err := onlyUser(tx, parent.ID, m.ID); err != nil {
			return "", false, err
		}
	}
	if u.State == mdm.Blocked {
		return "", false, mdm.ErrBlocked
	}
	enrolled := u.State != mdm.Enrolled
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
	return u.ID, enrolled, mdm.PutDevice(tx, u)
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

// CheckOut ends an enrollment at the device's wish; of a user channel, only that
// user's. A second one changes nothing and is no error.
func (s *Service) CheckOut(ctx context.Context, p Peer, id mdm.AppleID) error {
	var gone mdm.DeviceID
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		c, err := s.identify(tx, p, id)
		if errors.Is(err, ErrGone) && c.device.AppleID == id.Device() {
			return nil
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
		gone = d.ID
		return s.end(tx, d, mdm.Unenrolled)
	})
	if err != nil {
		return fmt.Errorf("check out: %w", err)
	}
	if gone != "" {
		s.mdm.Changed()
		s.log.InfoContext(ctx, "checked out", "device", gone)
	}
	return nil
}

// Unenroll ends an enrollment from this side: the certificates are revoked, so
// that the device is told to remove its profile when it next calls.
func (s *Service) Unenroll(ctx context.Context, id mdm.DeviceID) (mdm.Device, error) {
	return s.endByID(ctx, id, mdm.Unenrolled)
}

// Block is Unenroll for good: the device may not enroll again.
func (s *Service) Block(ctx context.Context, id mdm.DeviceID) (mdm.Device, error) {
	return s.endByID(ctx, id, mdm.Blocked)
}

func (s *Service) endByID(ctx context.Context, id mdm.DeviceID, state mdm.State) (d mdm.Device, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if d, err = mdm.GetDevice(tx, id); err != nil {
			return err
		}
		if d.State == state || d.State == mdm.Blocked {
			return nil
		}
		if err := s.end(tx, d, state); err != nil {
			return err
		}
		d, err = mdm.GetDevice(tx, id)
		return err
	})
	if err != nil {
		return mdm.Device{}, fmt.Errorf("end enrollment: %w", err)
	}
	s.mdm.Changed()
	s.log.InfoContext(ctx, "enrollment ended", "device", id, "state", d.State)
	return d, nil
}

// end makes trust follow state: with the enrollment go its certificates, its
// queue and its user channels, in one transaction.
func (s *Service) end(tx storage.Tx, d mdm.Device, state mdm.State) error {
	now := s.now().UTC()
	if d.ParentID == "" {
		if err := s.depot.RevokeDevice(tx, string(d.ID), reasonCessation, now); err != nil {
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
			if u.State == mdm.Blocked {
				continue
			}
			if err := s.end(tx, u, mdm.Unenrolled); err != nil {
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

// SetBootstrapToken keeps a device's bootstrap token; an empty one deletes it.
func (s *Service) SetBootstrapToken(ctx context.Context, p Peer, id mdm.AppleID, token []byte) error {
	if len(token) > 64<<10 {
		return fmt.Errorf("set bootstrap token: %w: it is too long", ErrBadMessage)
	}
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		c, err := s.identify(tx, p, id)
		if err != nil {
			return err
		}
		return s.mdm.SetSecret(tx, c.device.ID, mdm.BootstrapToken, token)
	})
	if err != nil {
		return fmt.Errorf("set bootstrap token: %w", err)
	}
	return nil
}

// GetBootstrapToken returns a device's bootstrap token, nil if it has none.
func (s *Service) GetBootstrapToken(ctx context.Context, p Peer, id mdm.AppleID) (token []byte, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		c, err := s.identify(tx, p, id)
		if err != nil {
			return err
		}
		token, err = s.mdm.Secret(tx, c.device.ID, mdm.BootstrapToken)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("get bootstrap token: %w", err)
	}
	return token, nil
}

// Identify checks who sent a message that changes nothing by itself.
func (s *Service) Identify(ctx context.Context, p Peer, id mdm.AppleID) error {
	err := s.db.View(ctx, func(tx storage.Tx) error {
		_, err := s.identify(tx, p, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("identify: %w", err)
	}
	return nil
}

// learnFacts takes over what the device told of itself. A User Enrollment has no
// serial number to tell, and one that it tells is not kept.
func learnFacts(d *mdm.Device, f mdm.Facts) {
	if d.Type == mdm.TypeUser {
		f.SerialNumber, f.IMEI, f.MEID = "", "", ""
	}
	f.Supervised = d.Supervised
	f.UserShortName, f.UserLongName = "", ""
	d.Facts = f
}

func clampFacts(f *mdm.Facts) {
	for _, v := range []*string{
		&f.SerialNumber, &f.DeviceName, &f.Model, &f.ModelName, &f.ProductName, &f.OSVersion, &f.BuildVersion, &f.IMEI, &f.MEID,
	} {
		*v = mdm.Clamp(*v)
	}
}
