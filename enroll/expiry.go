package enroll

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

const day = 24 * time.Hour

// expiryNotices are how long before an authority's end the audit log says that it
// comes. The log does so every day from the first of them on.
var expiryNotices = [...]time.Duration{365 * day, 90 * day, 30 * day, 0}

// expiryNotice is what the audit log has said of the end of an authority.
type expiryNotice struct {
	Authority string        `json:"authority"` // ID
	Before    time.Duration `json:"before"`
}

var expiryNoticesGiven = storage.NewCollection("enroll.ca_expiry", 1, func(n expiryNotice) string { return n.Authority })

// AuthorityStatus is an authority, and what there is to say of it.
type AuthorityStatus struct {
	*depot.Authority
	InForce  int      // certificates of its that are neither revoked nor expired
	Warnings []string // sentences
}

// Authorities returns all generations of all authorities. It counts their certificates,
// which takes a while when there are many.
func (s *Service) Authorities(ctx context.Context) (list []AuthorityStatus, err error) {
	if err := s.depot.Reload(ctx); err != nil {
		return nil, err
	}
	var counts map[string]int
	err = s.db.View(ctx, func(tx storage.Tx) (err error) {
		counts, err = s.depot.CountInForce(tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("count certificates: %w", err)
	}
	for _, name := range []string{identityAuthority, rootAuthority, payloadAuthority} {
		for _, a := range s.depot.Generations(name) {
			list = append(list, AuthorityStatus{a, counts[a.ID()], s.warnings(a)})
		}
	}
	return list, nil
}

// warnings returns what a person should know of an authority that is in use.
func (s *Service) warnings(a *depot.Authority) (list []string) {
	if a.State() == depot.StateRetired {
		return nil
	}
	cert := a.Certificate()
	if left := cert.NotAfter.Sub(s.now()); left <= 0 {
		list = append(list, "The authority expired at "+at(cert.NotAfter)+": it issues nothing any more. Roll it over.")
	} else if left <= expiryNotices[0] {
		list = append(list, fmt.Sprintf("The authority expires in %d days, at %s, and no certificate of its lasts longer. Roll it over.", int(left/day), at(cert.NotAfter)))
	}
	if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && a.Imported() && a.Name() != rootAuthority {
		if cert.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
			list = append(list, "The certificate does not allow digitalSignature, which some SCEP clients ask for.")
		}
		if cert.KeyUsage&x509.KeyUsageKeyEncipherment == 0 {
			list = append(list, "The certificate does not allow keyEncipherment, which some SCEP clients ask for.")
		}
		if bits := key.N.BitLen(); bits < 3072 && cert.NotAfter.After(time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)) {
			list = append(list, fmt.Sprintf("The RSA key has %d bits, which is little for a certificate that is valid until %d.", bits, cert.NotAfter.Year()))
		}
	}
	for _, above := range a.Chain()[1:] {
		for _, root := range s.depot.Generations(rootAuthority) {
			if root.Certificate().Equal(above) && root.State() != depot.StateActive && a.State() == depot.StateActive {
				list = append(list, "The authority is below a root that is "+string(root.State())+". Roll it over, so that the next one is below the root that is in force.")
			}
		}
	}
	return list
}

// warnOfExpiry says in the log which authorities are about to end, and in the audit log
// when another notice is due.
func (s *Service) warnOfExpiry(ctx context.Context) error {
	if err := s.depot.Reload(ctx); err != nil {
		return err
	}
	for _, a := range s.depot.Authorities() {
		left := a.Certificate().NotAfter.Sub(s.now())
		if a.State() == depot.StateRetired || left > expiryNotices[0] {
			continue
		}
		s.log.WarnContext(ctx, "authority expires", "authority", a.Name(), "id", a.ID(), "state", a.State(),
			"not_after", a.Certificate().NotAfter, "days_left", int(left/day))
		if err := s.tellExpiry(ctx, a, left); err != nil {
			return fmt.Errorf("tell of the end of an authority: %w", err)
		}
	}
	return nil
}

func (s *Service) tellExpiry(ctx context.Context, a *depot.Authority, left time.Duration) error {
	due := expiryNotices[0]
	for _, notice := range expiryNotices {
		if left <= notice {
			due = notice
		}
	}
	return s.db.Update(ctx, func(tx storage.Tx) error {
		given, err := expiryNoticesGiven.Get(tx, a.ID())
		if err == nil && given.Before <= due {
			return nil
		}
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		if err := expiryNoticesGiven.Put(tx, expiryNotice{a.ID(), due}); err != nil {
			return err
		}
		return event.Record(tx, event.Event{
			At: s.now().UTC(), Actor: ourselves, Action: "ca.expiring",
			Details: map[string]string{
				"authority": a.Name(), "id": a.ID(), "state": string(a.State()), "subject": a.Certificate().Subject.String(),
				"not_after": at(a.Certificate().NotAfter),
			},
		})
	})
}
