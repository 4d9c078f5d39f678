package enroll

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// showsToken says whether a product shows its user's access token on the device channel: a
// Mac does so for its users only, and all others always (PROTOCOL 2.6). Of what is not known
// nothing is demanded.
func showsToken(product string) bool {
	platform := command.PlatformOf(product)
	return platform == command.IOS || platform == command.VisionOS
}

// samePlatform says whether what a device tells of itself fits what it told before.
func samePlatform(before, now string) bool {
	a, b := command.PlatformOf(before), command.PlatformOf(now)
	return a == "" || b == "" || a == b
}

// shownToken is a good access token that a device has shown.
type shownToken struct {
	authorization
	pair int
}

// lapsedBearer means that a device has shown an access token of its own that is good for
// nothing any more. [Service.afterBearer] turns it into what the policy says.
type lapsedBearer struct {
	device mdm.Device
	ticket ticket
	err    error
}

func (e *lapsedBearer) Error() string { return e.err.Error() }

// bears checks the access token of a message from d, or a user of it. It is nil without an
// error for a device that need not show one. Its errors wrap ErrNoBearer or
// ErrForeignBearer, or are a *lapsedBearer.
//
// The certificate has proved which device it is: the token only says that its user may still
// have it, so a lapsed one makes nobody a stranger.
func (s *Service) bears(tx storage.Tx, p Peer, d mdm.Device, userChannel bool) (*shownToken, error) {
	if d.EnrollmentMode == "" {
		return nil, nil
	}
	demanded := d.ShowsToken || userChannel
	if p.Bearer == "" {
		if demanded {
			return nil, ErrNoBearer
		}
		return nil, nil
	}
	c, err := getAccountDriven(tx)
	if err != nil {
		return nil, err
	}
	a, pair, err := s.openBearer(tx, c, p.Bearer)
	if err != nil && !isLapsed(err) {
		return nil, err
	}
	if a.ID != "" { // whose it is comes first
		if other := s.belongs(tx, a, d); isLapsed(other) {
			err = other
		} else if other != nil {
			return nil, other
		}
	}
	switch {
	case err == nil:
		return &shownToken{a, pair}, nil
	case !demanded:
		return nil, nil
	}
	product := cmp.Or(d.ProductName, d.Model)
	return nil, &lapsedBearer{d, ticket{
		Mode: AccountMode(strings.ToLower(d.EnrollmentMode)), Method: c.methodFor(product, d.OSVersion, d.BuildVersion),
		Product: product, OSVersion: d.OSVersion, DeviceID: d.ID,
	}, err}
}

// belongs says whether an authorization is a device's: an error that wraps ErrForeignBearer
// if not. One that no device has yet may be: its user has signed in as if to enroll anew.
func (s *Service) belongs(tx storage.Tx, a authorization, d mdm.Device) error {
	switch {
	case a.DeviceID == d.ID:
		return nil
	case a.DeviceID != "", a.Mode.enrollment() != enrollmentMode(d):
		return ErrForeignBearer
	case a.AttemptID == d.AttemptID:
		return nil
	}
	err := s.spare(tx, a, d.User)
	if err == nil && a.SignedInAt.Before(d.SignInRequiredAt) {
		err = errTokenRevoked // with all that the user had signed in for
	}
	return err
}

// spare says whether an authorization that no device has is one that a device of a user may
// take: of a sign-in by the same person, which nothing has come of yet. If not, the error
// wraps ErrForeignBearer, or errTokenRevoked for a person who may not have one any more.
func (s *Service) spare(tx storage.Tx, a authorization, user string) error {
	at, err := attempts.Get(tx, a.AttemptID)
	if errors.Is(err, storage.ErrNotFound) || err == nil && at.Stage != Authenticated {
		return ErrForeignBearer
	}
	if err != nil {
		return err
	}
	same, err := samePerson(tx, user, at.User)
	if err == nil && !same {
		err = ErrForeignBearer
	}
	if err != nil {
		return err
	}
	if err := mayEnrollBy(tx, at.User, a.Mode); userGone(err) {
		return fmt.Errorf("%w: %w", errTokenRevoked, err)
	} else if err != nil {
		return err
	}
	return nil
}

// spend ends the attempt of an authorization that a device takes which has another one. A
// page of the portal that waits for it goes on waiting.
func (s *Service) spend(tx storage.Tx, a authorization, of string) error {
	if a.AttemptID == of {
		return nil
	}
	at, err := attempts.Get(tx, a.AttemptID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if at.Visit == nil {
		return attempts.Delete(tx, at.ID)
	}
	at.Account = nil
	return putAttempt(tx, at)
}

// stale says that the records should learn of this use of the token by d.
func (t *shownToken) stale(s *Service, d mdm.Device) bool {
	return t != nil && (t.first(d) || s.now().Sub(t.UsedAt) >= useTick)
}

// first says that d has this token anew, or again.
func (t *shownToken) first(d mdm.Device) bool {
	return t.DeviceID == "" || t.UsedAt.IsZero() || !d.SignInRequiredAt.IsZero() ||
		t.pair > 0 // which may be of a refresh before it came
}

// touch notes that device d has shown a token: what it has from before is good for nothing
// then, and it gets commands again. It writes *d where that changes it.
func (s *Service) touch(tx storage.Tx, t *shownToken, d *mdm.Device) error {
	if !t.stale(s, *d) {
		return nil
	}
	a, first := t.authorization, t.first(*d)
	if err := s.spend(tx, a, d.AttemptID); err != nil {
		return err
	}
	a.DeviceID, a.AttemptID, a.UsedAt = d.ID, d.AttemptID, s.now().UTC()
	a.Tokens = a.Tokens[t.pair:]
	if err := authorizations.Put(tx, a); err != nil || !first {
		return err
	}
	// Whoever ends the enrollment, or takes its user's rights, writes the same records.
	if err := depot.MeetUser(tx, d.User); err != nil {
		return err
	}
	d.SignInRequiredAt = time.Time{}
	if err := mdm.PutDevice(tx, *d); err != nil {
		return err
	}
	return endAuthorizations(tx, a.holder(), a.ID)
}

// bindBearer gives the device of an attempt what its user's sign-in authorized, once it has
// come. Its errors are those of bears.
func (s *Service) bindBearer(tx storage.Tx, p Peer, a Attempt, id mdm.DeviceID, product string) error {
	c, err := getAccountDriven(tx)
	if err != nil {
		return err
	}
	var theirs authorization
	if p.Bearer == "" {
		if showsToken(product) {
			return ErrNoBearer
		}
		for b, err := range authorizations.Lookup(tx, authorizationsByHolder, authorization{AttemptID: a.ID}.holder()) {
			if err != nil {
				return err
			}
			// By the one that was used last it has its profile, whoever signed in later.
			if theirs.ID == "" || cmp.Or(b.UsedAt.Compare(theirs.UsedAt), b.SignedInAt.Compare(theirs.SignedInAt)) > 0 {
				theirs = b
			}
		}
		if theirs.ID == "" {
			return fmt.Errorf("%w: its sign-in is gone", ErrForeignBearer)
		}
		if lapsed := s.lapsed(tx, theirs, c); lapsed != nil {
			return fmt.Errorf("%w: %w", ErrForeignBearer, lapsed)
		}
	} else {
		var lapsed error
		theirs, _, lapsed = s.openBearer(tx, c, p.Bearer)
		switch {
		case theirs.DeviceID != "":
			return ErrForeignBearer
		case isLapsed(lapsed):
			return &lapsedBearer{err: lapsed, ticket: ticket{
				AttemptID: newID(), Mode: a.Account.Mode, Method: c.methodFor(product, a.Account.OSVersion, ""), Product: product, OSVersion: a.Account.OSVersion,
			}}
		case lapsed != nil:
			return lapsed
		case theirs.AttemptID == a.ID:
		case theirs.Mode != a.Account.Mode:
			return ErrForeignBearer
		default: // it was asked to have its user sign in after it had fetched the profile
			if err := s.spare(tx, theirs, a.User); isLapsed(err) {
				return fmt.Errorf("%w: %w", ErrForeignBearer, err)
			} else if err != nil {
				return err
			}
			if err := s.spend(tx, theirs, a.ID); err != nil {
				return err
			}
		}
	}
	if err := endAuthorizations(tx, authorization{AttemptID: a.ID}.holder(), theirs.ID); err != nil {
		return err
	}
	theirs.DeviceID, theirs.AttemptID, theirs.UsedAt = id, a.ID, s.now().UTC()
	return authorizations.Put(tx, theirs)
}

// afterBearer turns an error about a lapsed access token into what the policy makes of it:
// a *SignInRequired, or the end of the enrollment and ErrGone. Other errors pass.
func (s *Service) afterBearer(ctx context.Context, err error) error {
	lapsed, ok := errors.AsType[*lapsedBearer](err)
	if !ok {
		return err
	}
	c, failed := s.AccountDriven(ctx)
	if failed != nil {
		return failed
	}
	after := AfterSignIn
	switch {
	case errors.Is(lapsed.err, errTokenExpired):
		after = c.TokenExpired
	case errors.Is(lapsed.err, errTokenRevoked):
		after = c.TokenRevoked
	}
	// An access token of OAuth 2 that has only run out is refreshed, and no reason to part.
	over := false
	if lapsed.device.ID != "" {
		if over, failed = s.over(ctx, lapsed.device.ID); failed != nil {
			return failed
		}
	}
	switch {
	case over && after == AfterUnenroll:
		if _, err := s.endByID(ctx, lapsed.device.ID, mdm.Unenrolled); err != nil {
			return err
		}
		return fmt.Errorf("%w: %w", ErrGone, lapsed.err)
	case over && lapsed.device.SignInRequiredAt.IsZero():
		// A Mac would go on getting commands on its device channel, where it shows no token.
		if err := s.withhold(ctx, lapsed.device.ID); err != nil {
			return err
		}
	}
	return s.signInRequired(lapsed.ticket, lapsed.err)
}

// withhold notes that a device gets no command before its user has signed in again.
func (s *Service) withhold(ctx context.Context, id mdm.DeviceID) error {
	return s.db.Update(ctx, func(tx storage.Tx) error {
		d, err := mdm.GetDevice(tx, id)
		if err != nil || !d.Live() || !d.SignInRequiredAt.IsZero() {
			return err
		}
		d.SignInRequiredAt = s.now().UTC()
		return mdm.PutDevice(tx, d)
	})
}

// over says whether nothing that a device's user has signed in for is good any more.
func (s *Service) over(ctx context.Context, id mdm.DeviceID) (over bool, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		over = true
		c, err := getAccountDriven(tx)
		if err != nil {
			return err
		}
		for a, err := range authorizations.Lookup(tx, authorizationsByHolder, authorization{DeviceID: id}.holder()) {
			if err != nil {
				return err
			}
			lapsed := s.lapsed(tx, a, c)
			if lapsed != nil && !isLapsed(lapsed) {
				return lapsed
			}
			over = over && lapsed != nil
		}
		return nil
	})
	return over, err
}

// userGone says whether err means that a person may not have a device enrolled.
func userGone(err error) bool {
	return errors.Is(err, ErrUserDisabled) || errors.Is(err, identity.ErrMayNotEnroll)
}
