package enroll

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// HandOver is a check-in message that a device once sent to another server, and that this one
// is handed by whoever runs both: NanoMDM calls it a migration. Nothing vouches for it but the
// token of who hands it over.
type HandOver struct {
	Message string      // MessageType: Authenticate, TokenUpdate or SetBootstrapToken
	ID      mdm.AppleID // with a UserID in the TokenUpdate of a user

	Facts                       mdm.Facts // of an Authenticate
	Push                        mdm.Push  // of a TokenUpdate
	UnlockToken, BootstrapToken []byte
	UserShortName, UserLongName string
}

// ErrNotHandedOver means that a device can't be taken over; why is in the text.
var ErrNotHandedOver = errors.New("the device is not taken over")

// handOverSource names the other server of a device that was handed over.
const handOverSource = "migration endpoint"

// moving is how all devices enrolled that are handed over.
type moving struct {
	Profile      FormerProfile `json:"profile"`
	AccessRights int           `json:"access_rights,omitempty"`
}

var movings = storage.NewCollection("enroll.moving", 1, func(moving) string { return settingsKey })

// HandedOver makes a device known that is handed over, one message at a time: it is pending by
// Authenticate, and its first TokenUpdate completes it. Any certificate of an authority whose
// claims are open may then claim it (see [Service.Arrive]). A device that has come is left as
// it is. Errors wrap ErrBadMessage or ErrNotHandedOver.
func (s *Service) HandedOver(ctx context.Context, m HandOver) error {
	if err := m.ID.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrBadMessage, err)
	}
	user := m.ID.UserID != ""
	switch {
	case m.Message != "Authenticate" && m.Message != "TokenUpdate" && m.Message != "SetBootstrapToken":
		return fmt.Errorf("%w: MessageType must be Authenticate, TokenUpdate or SetBootstrapToken", ErrBadMessage)
	case user && m.Message != "TokenUpdate":
		return fmt.Errorf("%w: %s names a user", ErrBadMessage, m.Message)
	}
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		set, err := maybe(movings.Get(tx, settingsKey))
		if err != nil {
			return err
		}
		if set == nil {
			set = &moving{}
		}
		f := Former{ID: m.ID.Device(), LastSeen: s.now().UTC()}
		d, a, err := s.awaited(tx, f)
		if err != nil || a != nil && !a.ArrivedAt.IsZero() {
			return err
		}
		if m.Message == "Authenticate" {
			return s.handOverDevice(tx, *set, d, a, m)
		}
		if a == nil {
			return &skip{"no_authenticate", "no Authenticate was handed over before"}
		}
		switch {
		case user:
			u := FormerUser{UserID: m.ID.UserID, ShortName: m.UserShortName, LongName: m.UserLongName, Push: m.Push}
			if err := checkFormerPush(u.Push); err != nil {
				return err
			}
			return s.takeUser(tx, d, u)
		case m.Message == "SetBootstrapToken":
			if len(m.BootstrapToken) > 64<<10 {
				return &skip{"bad_token", "the BootstrapToken is too long"}
			}
			return s.mdm.SetSecret(tx, d.ID, mdm.BootstrapToken, m.BootstrapToken)
		}
		f.Facts, f.Push, f.UnlockToken, f.LastSeen = d.Facts, m.Push, m.UnlockToken, time.Time{}
		_, _, err = s.takeOver(tx, TakeOver{Source: a.Source, Profile: a.Profile, AccessRights: d.AccessRights}, f)
		return err
	})
	var no *skip
	if errors.As(err, &no) {
		return fmt.Errorf("%w: %s", ErrNotHandedOver, no.reason)
	}
	if err != nil {
		return fmt.Errorf("hand over: %w", err)
	}
	return nil
}

// handOverDevice takes what an Authenticate says. One that is awaited already keeps its push
// token and the certificate that is expected of it.
func (s *Service) handOverDevice(tx storage.Tx, set moving, d mdm.Device, a *arrival, m HandOver) error {
	now := s.now().UTC()
	if a == nil {
		if d.ID == "" {
			d = mdm.Device{ID: mdm.DeviceID(newID()), CreatedAt: now}
		} else if err := s.startAfresh(tx, d); err != nil {
			return err
		}
		d = mdm.Device{
			ID: d.ID, CreatedAt: d.CreatedAt, AppleID: m.ID, Type: mdm.TypeDevice, Ownership: mdm.Institutional, State: mdm.Pending,
			AccessRights: AllRights, AuthenticatedAt: now, EnrolledAt: now,
		}
		if set.AccessRights != 0 {
			d.AccessRights = set.AccessRights
		}
		if m.ID.EnrollmentID != "" {
			d.Type, d.Ownership, d.AccessRights = mdm.TypeUser, mdm.Personal, 0
		}
		if err := arrivals.Put(tx, arrival{DeviceID: d.ID, TakenAt: now, Source: handOverSource, Profile: set.Profile}); err != nil {
			return err
		}
	}
	clampFacts(&m.Facts)
	learnFacts(&d, m.Facts)
	return mdm.PutDevice(tx, d)
}

// SetFormerProfile says by what profile devices enrolled that are handed over from now on.
// Errors are a *FieldError.
func (s *Service) SetFormerProfile(ctx context.Context, p FormerProfile, accessRights int) error {
	switch {
	case p.Identifier == "" || len(p.Identifier) > 255:
		return &FieldError{"identifier", "must be the PayloadIdentifier of the enrollment profile, of at most 255 bytes"}
	case accessRights < 0 || accessRights > AllRights:
		return &FieldError{"access_rights", fmt.Sprintf("must be from 0 to %d", AllRights)}
	}
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		before, err := maybe(movings.Get(tx, settingsKey))
		if err != nil {
			return err
		}
		now := moving{Profile: p, AccessRights: accessRights}
		if err := movings.Put(tx, now); err != nil {
			return err
		}
		return event.Record(tx, event.Event{
			At: s.now().UTC(), Actor: actor(ctx), Action: "migration.profile_set", Details: map[string]string{"identifier": p.Identifier},
			Changes: event.Changes(before, now),
		})
	})
	if err != nil {
		return fmt.Errorf("set profile of another server: %w", err)
	}
	return nil
}
