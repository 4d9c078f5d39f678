package enroll

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Errors of certificates that people can't revoke.
var (
	// ErrIdentity means that a certificate is the one by which a device is managed: it
	// ends with the management.
	ErrIdentity = errors.New("the certificate is the identity of a device")

	// ErrExternal means that another authority issued a certificate.
	ErrExternal = errors.New("another authority issued the certificate")
)

// OwnCertificate is a certificate of a person, or of a device of theirs.
type OwnCertificate struct {
	depot.Certificate
	Device mdm.Device // the zero Device where it belongs to the person alone

	// Only from MyCertificate:
	Names []string // alternative names
	DER   []byte
	Chain []*x509.Certificate // who issued it, up to the root; none where another authority did
}

// Identity says that a device is managed by it.
func (c OwnCertificate) Identity() bool { return c.Authority == identityAuthority }

// Revocable says that its holder may revoke it: it is ours, good for something, and not
// what a device is managed by.
func (c OwnCertificate) Revocable(now time.Time) bool {
	return c.Status(now) == depot.Active && c.Authority == payloadAuthority
}

// maxOwnCertificates is how many certificates MyCertificates returns.
const maxOwnCertificates = 200

// MyCertificates returns the payload certificates of p and of p's devices: those that are
// good first, then the latest. more says that there are others beside these 200.
func (s *Service) MyCertificates(ctx context.Context, p identity.Principal) (list []OwnCertificate, more bool, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		list = nil
		u, err := self(tx, p)
		if err != nil {
			return err
		}
		for _, login := range u.Logins() {
			for c, err := range s.depot.ByUser(tx, login) {
				if err != nil {
					return err
				}
				list = append(list, OwnCertificate{Certificate: c})
			}
		}
		theirs, err := devicesOf(tx, u)
		if err != nil {
			return err
		}
		for _, d := range theirs {
			found, err := s.certificatesOf(tx, u, d)
			if err != nil {
				return err
			}
			for _, c := range found {
				list = append(list, OwnCertificate{Certificate: c, Device: d})
			}
		}
		return nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("certificates of a user: %w", err)
	}
	list = slices.DeleteFunc(list, func(c OwnCertificate) bool {
		return c.Authority != payloadAuthority && c.Authority != depot.ExternalAuthority
	})
	now := s.now()
	sort.Slice(list, func(i, j int) bool {
		a, b := &list[i], &list[j]
		if good := a.Status(now) == depot.Active; good != (b.Status(now) == depot.Active) {
			return good
		}
		return cmp.Or(b.IssuedAt.Compare(a.IssuedAt), strings.Compare(string(a.Serial), string(b.Serial))) < 0
	})
	if len(list) > maxOwnCertificates {
		return list[:maxOwnCertificates], true, nil
	}
	return list, false, nil
}

// certificatesOf returns the certificates that a device of u, or a user channel of it, has
// had while it was u's, latest first.
func (s *Service) certificatesOf(tx storage.Tx, u identity.User, d mdm.Device) (list []depot.Certificate, err error) {
	channels, err := mdm.WithUserChannels(tx, d)
	if err != nil {
		return nil, err
	}
	for _, ch := range channels {
		for c, err := range s.depot.ByDevice(tx, string(ch.ID)) {
			if err != nil {
				return nil, err
			}
			if names(u.Logins(), c.User) {
				list = append(list, c)
			}
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].IssuedAt.After(list[j].IssuedAt) })
	return list, nil
}

// maxSerial bounds what is looked up as a serial number, in bytes.
const maxSerial = 128

// ownCertificate returns a certificate of u, or of a device of u's.
func (s *Service) ownCertificate(tx storage.Tx, u identity.User, serial depot.Serial) (c OwnCertificate, err error) {
	if serial == "" || len(serial) > maxSerial {
		return OwnCertificate{}, storage.ErrNotFound
	}
	if c.Certificate, err = s.depot.BySerial(tx, serial); err != nil {
		return OwnCertificate{}, err
	}
	if !names(u.Logins(), c.User) {
		return OwnCertificate{}, storage.ErrNotFound
	}
	if c.DeviceID == "" {
		return c, nil
	}
	if c.Device, err = mdm.GetDevice(tx, mdm.DeviceID(c.DeviceID)); err != nil {
		return OwnCertificate{}, err
	}
	if c.Device.ParentID != "" {
		if c.Device, err = mdm.GetDevice(tx, c.Device.ParentID); err != nil {
			return OwnCertificate{}, err
		}
	}
	if !names(u.Logins(), c.Device.User) {
		return OwnCertificate{}, storage.ErrNotFound // it is somebody else's now
	}
	return c, nil
}

// MyCertificate returns a certificate of p, or of a device of p's. Its error wraps
// storage.ErrNotFound.
func (s *Service) MyCertificate(ctx context.Context, p identity.Principal, serial depot.Serial) (c OwnCertificate, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		u, err := self(tx, p)
		if err != nil {
			return err
		}
		if c, err = s.ownCertificate(tx, u, serial); err != nil {
			return err
		}
		if c.Names, err = s.depot.Names(tx, c.Certificate); err != nil {
			return err
		}
		if a := s.depot.Authority(s.depot.IssuerOf(c.Certificate)); a != nil {
			c.Chain = a.Chain()
		}
		c.DER, err = s.depot.DER(tx, c.Fingerprint)
		return err
	})
	if err != nil {
		return OwnCertificate{}, fmt.Errorf("certificate of a user: %w", err)
	}
	return c, nil
}

// ownReasons are those for which people revoke what is theirs (RFC 5280, 5.3.1).
var ownReasons = []string{"keyCompromise", reasonSuperseded, reasonCessation}

// OwnReasons are the reasons that RevokeMine takes.
func OwnReasons() []string { return slices.Clone(ownReasons) }

// RevokeMine revokes a payload certificate of p, or of a device of p's. A second time it
// changes nothing. Its errors wrap storage.ErrNotFound, ErrIdentity, ErrExternal or are a *FieldError.
func (s *Service) RevokeMine(ctx context.Context, p identity.Principal, serial depot.Serial, reason string) error {
	if !slices.Contains(ownReasons, reason) {
		return fmt.Errorf("revoke a user's certificate: %w", &FieldError{"reason", "must be " + strings.Join(ownReasons, ", ")})
	}
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		u, err := self(tx, p)
		if err != nil {
			return err
		}
		c, err := s.ownCertificate(tx, u, serial)
		if err != nil {
			return err
		}
		switch c.Authority {
		case payloadAuthority:
		case depot.ExternalAuthority:
			return ErrExternal
		default:
			return ErrIdentity
		}
		_, err = s.revoke(tx, c.Certificate, reason, p.String())
		return err
	})
	if err != nil {
		return fmt.Errorf("revoke a user's certificate: %w", err)
	}
	s.log.InfoContext(ctx, "certificate revoked", "serial", serial, "reason", reason, "by", p.String())
	return nil
}
