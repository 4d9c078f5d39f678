package enroll

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// sendsBearer says whether a device shows its user's access token on a channel: a Mac does
// so for its users only, and all others always (PROTOCOL 2.6). Of what is not known nothing
// is demanded.
func sendsBearer(product string, userChannel bool) bool {
	switch command.PlatformOf(product) {
	case command.IOS, command.VisionOS:
		return true
	case command.MacOS:
		return userChannel
	}
	return false
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
	demanded := sendsBearer(cmp.Or(d.ProductName, d.Model), userChannel)
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
	lapsed := errors.Is(err, errTokenUnknown) || errors.Is(err, errTokenExpired) || errors.Is(err, errTokenRevoked)
	if err != nil && !lapsed {
		return nil, err
	}
	if a.ID != "" { // whose it is comes first
		if err := s.belongs(tx, a, d); err != nil {
			return nil, err
		}
	}
	switch {
	case err == nil:
		return &shownToken{a, pair}, nil
	case !demanded:
		return nil, nil
	}
	return nil, &lapsedBearer{d, ticket{
		Mode: AccountMode(strings.ToLower(d.EnrollmentMode)), Method: c.Method, Product: cmp.Or(d.ProductName, d.Model), OSVersion: d.OSVersion, DeviceID: d.ID,
	}, err}
}

// belongs says whether an authorization is a device's: an error that wraps ErrForeignBearer
// if not. One that no device has yet may be: its user has signed in as if to enroll anew.
func (s *Service) belongs(tx storage.Tx, a authorization, d mdm.Device) error {
	if a.DeviceID != "" || a.Mode.enrollment() != enrollmentMode(d) {
		if a.DeviceID != d.ID {
			return ErrForeignBearer
		}
		return nil
	}
	if a.AttemptID == d.AttemptID {
		return nil
	}
	at, err := attempts.Get(tx, a.AttemptID)
	if errors.Is(err, storage.ErrNotFound) || err == nil && at.Stage != Authenticated {
		return ErrForeignBearer
	}
	if err != nil {
		return err
	}
	same, err := samePerson(tx, d.User, at.User)
	if err == nil && !same {
		err = ErrForeignBearer
	}
	return err
}

// stale says that the record should learn of this use of the token.
func (t *shownToken) stale(s *Service) bool {
	return t != nil && (t.DeviceID == "" || t.pair > 0 || s.now().Sub(t.UsedAt) >= useTick)
}

// touch notes that device d has shown a token: what it has from before is good for nothing
// then.
func (s *Service) touch(tx storage.Tx, t *shownToken, d mdm.Device) error {
	if !t.stale(s) {
		return nil
	}
	a := t.authorization
	first := a.UsedAt.IsZero() || a.DeviceID == "" || t.pair > 0 // which may be of a refresh before it came
	if a.DeviceID == "" && a.AttemptID != d.AttemptID {
		if err := attempts.Delete(tx, a.AttemptID); err != nil { // it was this device that signed in
			return err
		}
	}
	a.DeviceID, a.AttemptID, a.UsedAt = d.ID, d.AttemptID, s.now().UTC()
	a.Tokens = a.Tokens[t.pair:]
	if err := authorizations.Put(tx, a); err != nil || !first {
		return err
	}
	return endAuthorizations(tx, a.holder(), a.ID)
}

// bindBearer gives the device of an attempt what its user's sign-in authorized, once it has
// come. Its errors are those of bears.
func (s *Service) bindBearer(tx storage.Tx, p Peer, a Attempt, id mdm.DeviceID, product string) error {
	if err := endAuthorizations(tx, authorization{DeviceID: id}.holder(), ""); err != nil {
		return err // of an earlier enrollment
	}
	var theirs authorization
	if p.Bearer == "" {
		if sendsBearer(product, false) {
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
			return nil
		}
	} else {
		c, err := getAccountDriven(tx)
		if err != nil {
			return err
		}
		var lapsed error
		theirs, _, lapsed = s.openBearer(tx, c, p.Bearer)
		switch {
		case theirs.ID != "" && (theirs.DeviceID != "" || theirs.AttemptID != a.ID):
			return ErrForeignBearer
		case errors.Is(lapsed, errTokenUnknown), errors.Is(lapsed, errTokenExpired), errors.Is(lapsed, errTokenRevoked):
			return &lapsedBearer{err: lapsed, ticket: ticket{AttemptID: newID(), Mode: a.Account.Mode, Method: c.Method, Product: product, OSVersion: a.Account.OSVersion}}
		case lapsed != nil:
			return lapsed
		}
	}
	if err := endAuthorizations(tx, theirs.holder(), theirs.ID); err != nil {
		return err
	}
	theirs.DeviceID, theirs.UsedAt = id, s.now().UTC()
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
	if after == AfterUnenroll && lapsed.device.ID != "" {
		over, err := s.over(ctx, lapsed.device.ID)
		if err != nil {
			return err
		}
		if over {
			if _, err := s.endByID(ctx, lapsed.device.ID, mdm.Unenrolled); err != nil {
				return err
			}
			return fmt.Errorf("%w: %w", ErrGone, lapsed.err)
		}
	}
	return s.signInRequired(lapsed.ticket, lapsed.err)
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
			over = over && a.lapsed(c, s.now()) != nil
		}
		return nil
	})
	return over, err
}
