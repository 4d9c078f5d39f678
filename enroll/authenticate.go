package enroll

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

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
	// Of a personal device nobody wants to know the UDID, should it tell when it comes. Later
	// it tells one to be taken for another device.
	tellsBoth := m.ID.EnrollmentID != "" && m.ID.UDID != ""
	if tellsBoth {
		m.ID.UDID = ""
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
			if d, err = s.begin(tx, c, p, m); err != nil {
				return err
			}
			return s.hear(tx, p, d.ID, mdm.Message{Topic: toldAuthenticate})
		}
		d = c.device
		switch {
		case tellsBoth:
			return fmt.Errorf("%w: both UDID and EnrollmentID are present", ErrBadMessage)
		case d.AppleID != m.ID:
			return ErrForeignDevice
		case d.State == mdm.Unenrolled || d.State == mdm.Blocked:
			return ErrGone
		}
		shown, err := s.bears(tx, p, d, false)
		if err != nil {
			return err
		}
		if err := s.touch(tx, shown, &d); err != nil {
			return err
		}
		switch {
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
		if err := mdm.PutDevice(tx, d); err != nil {
			return err
		}
		return s.hear(tx, p, d.ID, mdm.Message{Topic: toldAuthenticate})
	})
	for _, refusal := range []error{
		ErrDeviceOwned, mdm.ErrBlocked, ErrUserDisabled, ErrOwnershipOff, identity.ErrMayNotEnroll, ErrSerialNumber, ErrOtherDevice, ErrOtherKind,
	} {
		if errors.Is(err, refusal) {
			s.failRefused(ctx, attemptID, p, m, err)
		}
	}
	if err != nil {
		return fmt.Errorf("authenticate: %w", s.refuseBearer(ctx, p, m.ID, attemptID, err))
	}
	s.mdm.Saw(d.ID)
	s.log.InfoContext(ctx, "device authenticated", "device", d.ID, "step", step, "attempt", d.AttemptID)
	return nil
}

// begin makes or finds the device that an attempt's certificate speaks for, and
// binds the two for good.
func (s *Service) begin(tx storage.Tx, c caller, p Peer, m AuthenticateMessage) (mdm.Device, error) {
	now := s.now().UTC()
	a, err := attempts.Get(tx, c.cert.AttemptID)
	if errors.Is(err, storage.ErrNotFound) || err == nil && a.Stage != IdentityIssued {
		return mdm.Device{}, fmt.Errorf("%w: its attempt is over", ErrUnidentified)
	}
	if err != nil {
		return mdm.Device{}, err
	}
	settings, err := GetSettings(tx)
	if err != nil {
		return mdm.Device{}, err
	}
	if err := a.mayEnroll(tx, settings); err != nil {
		return mdm.Device{}, err
	}
	if err := sameDevice(a, m); err != nil {
		return mdm.Device{}, err
	}
	if err := sameKind(a, m); err != nil {
		return mdm.Device{}, err
	}
	if err := admits(tx, a, m); err != nil {
		return mdm.Device{}, err
	}
	if a.User != "" {
		if a.User, err = loginOf(tx, a.User); err != nil {
			return mdm.Device{}, err
		}
		if err := depot.MeetUser(tx, a.User); err != nil {
			return mdm.Device{}, err
		}
	}
	d, err := mdm.FindDevice(tx, m.ID)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		d = mdm.Device{ID: mdm.DeviceID(newID()), CreatedAt: now}
	case err != nil:
		return mdm.Device{}, err
	default:
		if err := mayBeginAgain(tx, d, a); err != nil {
			return mdm.Device{}, err
		}
		if err := s.startAfresh(tx, d); err != nil {
			return mdm.Device{}, err
		}
		a.Before = before(d)
	}
	d = mdm.Device{
		ID: d.ID, CreatedAt: d.CreatedAt,
		Type: mdm.TypeDevice, State: mdm.Pending, AppleID: m.ID,
		Ownership: a.Ownership, User: a.User, AttemptID: a.ID, Demo: a.Demo, Topic: a.Topic, AccessRights: a.AccessRights,
		Identity: c.fp, AuthenticatedAt: now,
	}
	if a.AccessRights == 0 && a.Visit == nil && a.Account == nil {
		d.AccessRights = AllRights // an attempt of before they were noted, when all profiles had them
	}
	if m.ID.EnrollmentID != "" {
		d.Type, d.AccessRights = mdm.TypeUser, 0 // its rights are fixed by Apple
		if a.Visit != nil && a.Visit.UserEnrollment {
			d.ManagedAppleAccount = a.Visit.ManagedAppleAccount
		}
	}
	if a.Account != nil {
		d.EnrollmentMode, d.RequiredAppID = string(a.Account.Mode.enrollment()), a.Account.RequiredAppID
		d.ManagedAppleAccount = a.Account.ManagedAppleAccount
		if a.Account.Mode == ModeADDE {
			d.Type = mdm.TypeAccountDevice
		}
		told := cmp.Or(m.Facts.ProductName, m.Facts.Model)
		if !samePlatform(a.Account.Product, told) {
			return mdm.Device{}, ErrOtherKind
		}
		product := cmp.Or(a.Account.Product, told)
		d.ProductName, d.ShowsToken = product, showsToken(product)
		if err := s.bindBearer(tx, p, a, d.ID, product); err != nil {
			return mdm.Device{}, err
		}
	}
	learnFacts(&d, m.Facts)
	if err := s.depot.Bind(tx, depot.Fingerprint(c.fp), string(d.ID)); err != nil {
		return mdm.Device{}, err
	}
	a.DeviceID = d.ID
	a.enter(CheckedIn, now)
	if err := putAttempt(tx, a); err != nil {
		return mdm.Device{}, err
	}
	if err := mdm.PutDevice(tx, d); err != nil {
		return mdm.Device{}, err
	}
	return d, s.tellDevice(tx, "device.checked_in", d, p.Address)
}

// sameKind refuses a device whose enrollment is of another kind than its profile is for. The
// profile of a User Enrollment was handed out without asking the device what it is, and a
// Device Enrollment by it would have rights that nobody granted. One that was fetched from a
// link directly is for either: a User Enrollment by it has no rights but those Apple fixes.
func sameKind(a Attempt, m AuthenticateMessage) error {
	user := m.ID.EnrollmentID != ""
	switch {
	case a.Account != nil && (a.Account.Mode == ModeBYOD) != user:
		return ErrOtherKind
	case a.Account == nil && a.Visit != nil && a.Visit.UserEnrollment != user:
		return ErrOtherKind
	}
	return nil
}

// admits refuses a device that the attempt's link is not for.
func admits(tx storage.Tx, a Attempt, m AuthenticateMessage) error {
	if a.LinkID == "" {
		return nil
	}
	l, err := links.Get(tx, a.LinkID)
	if err != nil {
		return err
	}
	if !l.Admits(m.Facts.SerialNumber) {
		return ErrSerialNumber
	}
	return nil
}

// mayBeginAgain says whether attempt a may take over device d. One that is
// enrolled is given up only to the person it belongs to: a device that was
// erased can't say goodbye, but neither may a stranger who knows its UDID claim
// it. One that never finished its enrollment has nothing to protect.
func mayBeginAgain(tx storage.Tx, d mdm.Device, a Attempt) error {
	switch d.State {
	case mdm.Blocked:
		return mdm.ErrBlocked
	case mdm.Enrolled:
		same, err := samePerson(tx, d.User, a.User)
		if err == nil && !same {
			err = ErrDeviceOwned
		}
		return err
	}
	return nil
}

// startAfresh ends what an earlier enrollment of d left: its certificates, queue,
// secrets, answers and trust in roots. Its user channels wait for a TokenUpdate of their own.
func (s *Service) startAfresh(tx storage.Tx, d mdm.Device) error {
	if err := s.depot.RevokeDevice(tx, string(d.ID), reasonSuperseded, s.now().UTC()); err != nil {
		return err
	}
	if err := s.payloads.DeviceGone(tx, d.ID); err != nil {
		return err
	}
	if err := s.forget(tx, d.ID); err != nil {
		return err
	}
	if err := trusts.Delete(tx, string(d.ID)); err != nil {
		return err
	}
	if err := arrivals.Delete(tx, string(d.ID)); err != nil {
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
		if u.State != mdm.Blocked {
			u.State = mdm.Pending
		}
		u.Push, u.TokenUpdates = nil, 0
		if err := mdm.PutDevice(tx, u); err != nil {
			return err
		}
		if err := s.depot.RevokeDevice(tx, string(u.ID), reasonSuperseded, s.now().UTC()); err != nil {
			return err
		}
		if err := s.payloads.DeviceGone(tx, u.ID); err != nil {
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
	return s.inventory.Forget(tx, id)
}

// failRefused tells the attempt and the audit log why its device was turned away. The
// refusal itself changed nothing, so this is a transaction of its own.
func (s *Service) failRefused(ctx context.Context, attemptID string, p Peer, m AuthenticateMessage, refusal error) {
	if m.ID.EnrollmentID != "" {
		m.Facts.SerialNumber = "" // it should not have told
	}
	var user string
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		user = ""
		a, err := attempts.Get(tx, attemptID)
		if err != nil {
			return err
		}
		user = a.User
		if a.Stage != IdentityIssued {
			return nil
		}
		return s.failAttempt(tx, a, codeOf(refusal))
	})
	if err != nil {
		s.log.WarnContext(ctx, "attempt not marked as failed", "attempt", attemptID, "err", err)
	}
	s.tellRefused(ctx, event.Event{User: user, Peer: p.Address, Reason: refusal.Error()}, attemptID, codeOf(refusal), cmp.Or(m.ID.UDID, m.ID.EnrollmentID), m.Facts.SerialNumber)
}

// Identify checks who sent a message that changes nothing by itself.
func (s *Service) Identify(ctx context.Context, p Peer, id mdm.AppleID) error {
	err := s.db.View(ctx, func(tx storage.Tx) error {
		_, err := s.identify(tx, p, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("identify: %w", s.refuseBearer(ctx, p, id, "", err))
	}
	return nil
}

// learnFacts takes over what the device told of itself. A User Enrollment has no
// serial number to tell, and one that it tells is not kept.
func learnFacts(d *mdm.Device, f mdm.Facts) {
	if d.Type == mdm.TypeUser {
		f.SerialNumber, f.IMEI, f.MEID = "", "", ""
	}
	f.Supervised, f.SharedIPad, f.UserApproved, f.EnrolledViaDEP = d.Supervised, d.SharedIPad, d.UserApproved, d.EnrolledViaDEP
	f.UserShortName, f.UserLongName = "", ""
	f.ProductName = cmp.Or(f.ProductName, d.ProductName) // a device may tell it once, before it enrolls
	d.Facts = f
}

func clampFacts(f *mdm.Facts) {
	for _, v := range []*string{
		&f.SerialNumber, &f.DeviceName, &f.Model, &f.ModelName, &f.ProductName, &f.OSVersion, &f.BuildVersion, &f.IMEI, &f.MEID,
	} {
		*v = mdm.Clamp(*v)
	}
}
