package enroll

import (
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// overdueAfter is how long after it was due a renewal must have come to nothing for a
// person to look.
const overdueAfter = 7 * 24 * time.Hour

// IdentityOf returns the record of the certificate that speaks for a device, and whether
// its renewal is long overdue. One that is not recorded is an error that wraps
// storage.ErrNotFound.
func (s *Service) IdentityOf(tx storage.Tx, d mdm.Device) (rec depot.Certificate, overdue bool, err error) {
	if rec, err = s.depot.Get(tx, depot.Fingerprint(d.Identity)); err != nil {
		return depot.Certificate{}, false, fmt.Errorf("identity of %s: %w", d.ID, err)
	}
	overdue = d.Live() && !rec.RenewAt.IsZero() && s.now().Sub(rec.RenewAt) > overdueAfter
	return rec, overdue, nil
}

// CountOverdue counts the devices whose identity's renewal is long overdue.
func (s *Service) CountOverdue(tx storage.Tx) (n int, err error) {
	for rec, err := range s.depot.DueForRenewal(tx, s.now().Add(-overdueAfter), 0) {
		if err != nil {
			return 0, fmt.Errorf("count overdue identities: %w", err)
		}
		d, err := mdm.GetDevice(tx, mdm.DeviceID(rec.DeviceID))
		switch {
		case errors.Is(err, storage.ErrNotFound):
		case err != nil:
			return 0, fmt.Errorf("count overdue identities: %w", err)
		case d.Live() && d.Identity == string(rec.Fingerprint):
			n++
		}
	}
	return n, nil
}
