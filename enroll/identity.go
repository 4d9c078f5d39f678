package enroll

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Refusals of a device's message. None of them is ever answered by a bare 401,
// which would make a device remove its enrollment.
var (
	// ErrUnidentified means that no certificate of ours vouches for the message.
	ErrUnidentified = errors.New("the certificate is not one that this server issued to a device")
	// ErrRetired means that the certificate was revoked while its device stayed
	// enrolled: another one has replaced it, or its renewal was dropped.
	ErrRetired = errors.New("the certificate was replaced")
	// ErrGone means that the certificate's enrollment was ended on purpose: the
	// device should remove its profile.
	ErrGone = errors.New("the enrollment has ended")
	// ErrForeignDevice means that the certificate is bound to another device.
	ErrForeignDevice = errors.New("the certificate is bound to another device")
	// ErrDeviceOwned means that the device is enrolled already, by someone who is
	// not known to be the same.
	ErrDeviceOwned = errors.New("the device is enrolled; it must be unenrolled first")
	// ErrOtherKind means that the device's enrollment is of another kind than the profile
	// that it was given: a User Enrollment or not.
	ErrOtherKind = errors.New("the device enrolled in another way than its profile says")
	// ErrNotAuthenticated means that a message came before the Authenticate of its enrollment.
	ErrNotAuthenticated = errors.New("no Authenticate came before")
	// ErrBadMessage means that a message breaks the protocol's rules.
	ErrBadMessage = errors.New("the message is not valid")
	// ErrStale means that a message was signed too long ago, or before a newer one.
	ErrStale = errors.New("the message was signed too long ago")
)

// maxSignatureAge is how far a message's signing time may lie from now: what was
// captured cannot be sent again after it. An hour leaves room for clocks.
const maxSignatureAge = time.Hour

// Peer is who sent a message, as far as cryptography tells.
type Peer struct {
	Certificate *x509.Certificate // proved by a signature, a TLS handshake or a trusted proxy; nil if there was none
	SignedAt    time.Time         // signing time of the signature, zero if it says none
	Address     string            // on the network, for the audit log; may be empty
	Bearer      string            // access token of the device's user, as it was sent; empty: none
	Body        []byte            // the message as it was sent, for Config.Tap; it may hold secrets, so it goes into no log
}

// caller is a peer that was found in our records.
type caller struct {
	cert   depot.Certificate
	device mdm.Device // the device channel; zero while the certificate is bound to none
	fp     string
	shown  *shownToken // nil: it need not show one
}

// known finds the record of a peer's certificate and judges it by itself. The
// record says that we issued these very bytes, or adopted them, which is more than a
// chain to our CA would say; so no chain is verified here.
func (s *Service) known(tx storage.Tx, p Peer) (caller, error) {
	if p.Certificate == nil {
		return caller{}, fmt.Errorf("%w: there is none", ErrUnidentified)
	}
	now := s.now()
	if !p.SignedAt.IsZero() && now.Sub(p.SignedAt).Abs() > maxSignatureAge {
		return caller{}, ErrStale
	}
	fp := depot.FingerprintOf(p.Certificate)
	rec, err := s.depot.Get(tx, fp)
	if errors.Is(err, storage.ErrNotFound) {
		return caller{}, ErrUnidentified
	}
	if err != nil {
		return caller{}, err
	}
	// The identity CA signs for its OCSP signer, too.
	if !rec.Identity() || rec.Template != identityTemplate {
		return caller{}, fmt.Errorf("%w: it is no identity certificate", ErrUnidentified)
	}
	if now.Before(rec.NotBefore) {
		return caller{}, fmt.Errorf("%w: it is not valid yet", ErrUnidentified)
	}
	c := caller{cert: rec, fp: string(fp)}
	if rec.DeviceID != "" {
		c.device, err = mdm.GetDevice(tx, mdm.DeviceID(rec.DeviceID))
		if errors.Is(err, storage.ErrNotFound) { // deleted, which takes that it had ended
			return c, ErrGone
		}
		if err != nil {
			return caller{}, err
		}
	}
	if !rec.RevokedAt.IsZero() {
		if c.device.State == mdm.Unenrolled || c.device.State == mdm.Blocked {
			return c, ErrGone
		}
		return c, ErrRetired
	}
	// An expired certificate still speaks for a device that it is bound to, so
	// that its renewal can reach it; it never begins an enrollment.
	if now.After(rec.NotAfter) && rec.DeviceID == "" {
		return caller{}, fmt.Errorf("%w: it has expired", ErrUnidentified)
	}
	return c, nil
}

// Recognize says whether p's certificate is that of a device of ours, whoever
// sent it. It is for a look before the signature is checked.
func (s *Service) Recognize(ctx context.Context, p Peer) error {
	err := s.db.View(ctx, func(tx storage.Tx) error {
		_, err := s.known(tx, p)
		return err
	})
	if err != nil {
		return fmt.Errorf("recognize: %w", err)
	}
	return nil
}

// IdentifyDevice checks which device sent a message that changes nothing by itself, and that
// it may send without its user: no access token is asked for. [Service.Identify] is for the
// others.
func (s *Service) IdentifyDevice(ctx context.Context, p Peer, id mdm.AppleID) error {
	err := s.db.View(ctx, func(tx storage.Tx) error {
		_, err := s.sender(tx, p, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("identify device: %w", err)
	}
	return nil
}

// UserAuthenticate takes note that a device has a directory user log in, and that it may say
// so. No user is managed in that way: the device is to be told.
func (s *Service) UserAuthenticate(ctx context.Context, p Peer, id mdm.AppleID) error {
	err := s.IdentifyDevice(ctx, p, id)
	if err == nil {
		err = s.heard(ctx, p, id, toldUserAuthenticate)
	}
	if err != nil {
		return fmt.Errorf("user authenticate: %w", err)
	}
	return nil
}

// identify finds who sent a message of an enrollment that exists, and checks
// that the message speaks of that very device, and that its user may still have it enrolled.
func (s *Service) identify(tx storage.Tx, p Peer, id mdm.AppleID) (caller, error) {
	c, err := s.sender(tx, p, id)
	if err != nil {
		return c, err
	}
	c.shown, err = s.bears(tx, p, c.device, id.UserID != "")
	return c, err
}

// sender is identify for what a device may say without its user.
func (s *Service) sender(tx storage.Tx, p Peer, id mdm.AppleID) (caller, error) {
	if err := id.Validate(); err != nil {
		return caller{}, fmt.Errorf("%w: %w", ErrBadMessage, err)
	}
	c, err := s.known(tx, p)
	if err != nil {
		return c, err
	}
	if c.device.ID == "" {
		return c, ErrNotAuthenticated
	}
	if c.device.AppleID != id.Device() {
		return c, ErrForeignDevice
	}
	if c.device.State == mdm.Unenrolled || c.device.State == mdm.Blocked {
		return c, ErrGone
	}
	if !c.current() && !c.candidate() {
		return c, ErrRetired
	}
	return c, nil
}

// current says that the certificate is the device's identity in force.
func (c caller) current() bool { return c.device.Identity == c.fp }

// candidate says that the certificate is the one that may replace it.
func (c caller) candidate() bool {
	return c.device.Renewal != nil && c.device.Renewal.Candidate == c.fp
}

// channel returns the enrollment that a message is about: the device itself,
// or the user channel that it names, or an error that wraps storage.ErrNotFound.
func (c caller) channel(tx storage.Tx, id mdm.AppleID) (mdm.Device, error) {
	if id.UserID == "" {
		return c.device, nil
	}
	return mdm.FindDevice(tx, id)
}
