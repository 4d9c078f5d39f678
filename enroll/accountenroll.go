package enroll

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/machineinfo"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// AccountRequest is what a device posts to the BaseURL of service discovery.
type AccountRequest struct {
	Mode   AccountMode
	Body   []byte // its MachineInfo, signed
	Bearer string // access token; empty before the sign-in
	Peer   string // network address, for the audit log
}

// UpdateRequired means that a device must update its system first, and says of itself that
// it will (PROTOCOL 2.7, com.apple.softwareupdate.required).
type UpdateRequired struct{ OSVersion string }

func (e *UpdateRequired) Error() string { return "the device must be updated to " + e.OSVersion }

// EnrollByAccount answers the enrollment POST of account-driven enrollment (PROTOCOL 2.1 to
// 2.4) with the signed enrollment profile, in which a challenge is new each time. A device
// without a good access token is told where its user signs in, by a *SignInRequired. The
// other errors wrap ErrStatement, [machineinfo.ErrNotApple], ErrModeOff, ErrUserDisabled,
// [identity.ErrMayNotEnroll], ErrDeviceOwned or [mdm.ErrBlocked], or are an *UpdateRequired or
// a *MinimumOSError.
func (s *Service) EnrollByAccount(ctx context.Context, r AccountRequest) (signed []byte, err error) {
	m, err := machineinfo.Parse(r.Body)
	if err != nil {
		if errors.Is(err, guard.ErrTooLarge) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	vouched := s.deviceCAs.Vouch(m.Signer)
	row, secret := newChallenge(challenge{ExpiresAt: s.now().UTC().Add(challengeLife)})
	fresh := ticket{AttemptID: newID(), Mode: r.Mode, Product: m.Product, OSVersion: m.OSVersion, Build: m.Build}

	var a Attempt
	var check SignatureCheck
	var organisation string
	run := s.db.Update
	if r.Bearer == "" {
		run = s.db.View // anybody can ask, any number of times
	}
	err = run(ctx, func(tx storage.Tx) error {
		a = Attempt{}
		settings, err := GetSettings(tx)
		if err != nil {
			return err
		}
		c, err := getAccountDriven(tx)
		if err != nil {
			return err
		}
		check, organisation = settings.DeviceSignature, cmp.Or(settings.Organisation.Name, s.organisation)
		if check == SignatureRequire && vouched != nil {
			return vouched
		}
		fresh.Method = c.methodFor(m.Product, m.OSVersion, m.Build)
		served := s.withDemo(c).serves(fresh)
		tooOld, old := errors.AsType[*MinimumOSError](served)
		switch {
		case old && m.CanRequestSoftwareUpdate:
			return &UpdateRequired{tooOld.Needed}
		case old && r.Bearer == "": // the page of the sign-in tells its user
		case served != nil:
			return served
		}
		if r.Bearer == "" {
			return s.signInRequired(fresh, nil)
		}
		if a, err = s.attemptFor(tx, c, r, fresh); err != nil {
			return err
		}
		return s.offerAccount(tx, &a, settings, m.Info, row)
	})
	if check != SignatureOff && vouched != nil {
		level := slog.LevelWarn
		if s.demo() {
			level = slog.LevelDebug // nobody vouches for its devices
		}
		s.log.Log(ctx, level, "nobody vouches for a device", "mode", r.Mode, "product", m.Product, "attempt", a.ID, "err", vouched)
	}
	if err != nil {
		s.tellAccountRefused(ctx, a, r, m.Info, err)
		return nil, fmt.Errorf("account-driven enrollment: %w", err)
	}
	signed, err = s.signedProfile(ctx, profileFor{
		organisation: organisation, subject: grant{attempt: a}.subject(organisation), challenge: secret, topic: a.Topic,
		accessRights: a.AccessRights, mode: a.Account.Mode.enrollment(), managedAccount: a.Account.ManagedAppleAccount, requiredApp: a.Account.RequiredAppID,
	})
	if err != nil {
		return nil, fmt.Errorf("account-driven enrollment: %w", err)
	}
	s.log.InfoContext(ctx, "enrollment profile handed out", "attempt", a.ID, "mode", r.Mode, "product", m.Product, "build", m.Build)
	s.warnUnwakeable(ctx, a)
	return signed, nil
}

// attemptFor returns the attempt that an access token was made for. Where the token is good
// for nothing the device is to have its user sign in, again.
func (s *Service) attemptFor(tx storage.Tx, c AccountDriven, r AccountRequest, fresh ticket) (Attempt, error) {
	b, _, err := s.openBearer(tx, c, r.Bearer)
	switch {
	case isLapsed(err):
		return Attempt{}, s.signInRequired(fresh, err)
	case err != nil:
		return Attempt{}, err
	case b.Mode != r.Mode:
		return Attempt{}, s.signInRequired(fresh, fmt.Errorf("%w: it is for %s", ErrForeignBearer, b.Mode))
	case b.DeviceID != "":
		return Attempt{}, s.signInRequired(fresh, errors.New("the access token is an enrolled device’s"))
	}
	a, err := attempts.Get(tx, b.AttemptID)
	if errors.Is(err, storage.ErrNotFound) || err == nil && (a.Account == nil || a.DeviceID != "" || !a.open() && a.Stage != IdentityIssued) {
		return Attempt{}, s.signInRequired(fresh, errors.New("the attempt of the access token is over"))
	}
	if err != nil {
		return Attempt{}, err
	}
	account := *a.Account
	a.Account = &account
	if err := mayEnrollBy(tx, a.User, a.Account.Mode); err != nil {
		return a, err
	}
	b.UsedAt = s.now().UTC() // of several sign-ins this is the one that the device knows of
	return a, authorizations.Put(tx, b)
}

// offerAccount notes what is in the enrollment profile of a, whose challenge is row.
func (s *Service) offerAccount(tx storage.Tx, a *Attempt, settings Settings, info machineinfo.Info, row challenge) (err error) {
	if a.Stage == IdentityIssued { // the installation failed behind it
		if err := s.takeBack(tx, a, ourselves); err != nil {
			return err
		}
	}
	a.Stated, a.Before = nil, nil
	id := mdm.AppleID{UDID: info.UDID}
	if a.Account.Mode == ModeADDE && id.Validate() == nil {
		a.Stated = &Stated{UDID: info.UDID, SerialNumber: info.SerialNumber, Product: info.Product, Build: info.Build, At: s.now().UTC()}
		if err := s.admit(tx, a, *a.Stated); err != nil {
			return err
		}
	}
	rights := 0
	if a.Account.Mode == ModeADDE {
		rights = settings.Institutional.Rights.Bits()
	}
	if a.AccessRights != 0 && a.AccessRights != rights {
		a.Round++ // a device is taken for one that has what is noted
	}
	a.AccessRights = rights
	if err := s.linkServes(tx, *a); err != nil {
		return err
	}
	row.AttemptID, row.Round = a.ID, a.Round
	if a.Topic, err = s.topic(tx, settings); err != nil {
		return err
	}
	a.ErrorCode = ""
	a.enter(ProfileDownloaded, s.now())
	if err := a.hand(tx, row.Hash); err != nil {
		return err
	}
	if err := challenges.Put(tx, row); err != nil {
		return err
	}
	return putAttempt(tx, *a)
}

// takeBack revokes what was issued for an attempt whose installation has failed, and returns
// it to the step before the profile.
func (s *Service) takeBack(tx storage.Tx, a *Attempt, by string) error {
	if err := s.revokeUnused(tx, a.ID, reasonSuperseded, by); err != nil {
		return err
	}
	a.back(s.now())
	return nil
}

// revokeUnused revokes the certificates of an attempt that no device has come with.
func (s *Service) revokeUnused(tx storage.Tx, attemptID, reason, by string) error {
	var issued []depot.Certificate
	for c, err := range s.depot.ByAttempt(tx, attemptID) {
		if err != nil {
			return err
		}
		if c.RevokedAt.IsZero() && c.DeviceID == "" {
			issued = append(issued, c)
		}
	}
	for _, c := range issued {
		if err := s.tellRevoked(tx, one(c), reason, by); err != nil {
			return err
		}
		if err := s.depot.Revoke(tx, c.Fingerprint, reason, s.now().UTC()); err != nil {
			return err
		}
	}
	return nil
}

// tellAccountRefused tells the attempt, if there is one, and the audit log why a device was
// turned away. One that must sign in was not.
func (s *Service) tellAccountRefused(ctx context.Context, a Attempt, r AccountRequest, info machineinfo.Info, why error) {
	code := codeOf(why)
	if _, asked := errors.AsType[*SignInRequired](why); asked || code == codeInternal {
		return
	}
	if a.ID != "" {
		err := s.db.Update(ctx, func(tx storage.Tx) error {
			now, err := attempts.Get(tx, a.ID)
			if err != nil || !now.open() {
				return err
			}
			return s.failAttempt(tx, now, code)
		})
		if err != nil {
			s.log.WarnContext(ctx, "attempt not marked as failed", "attempt", a.ID, "err", err)
		}
	}
	if r.Mode == ModeBYOD {
		info.UDID, info.SerialNumber = "", "" // it should not have told
	}
	s.tellRefused(ctx, event.Event{User: a.User, Peer: r.Peer, Reason: why.Error()}, a.ID, code, info.UDID, info.SerialNumber)
}

// enrollmentMode is what the enrollment profile of a device says.
func enrollmentMode(d mdm.Device) profile.Mode { return profile.Mode(d.EnrollmentMode) }
