package enroll

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// RevokeCertificate revokes a certificate for a reason named as in RFC 5280,
// 5.3.1, and returns its record. by is who does so, for the audit log. A second
// revocation changes nothing. Its errors wrap storage.ErrNotFound or depot.ErrReason.
//
// State follows trust, too. With the identity that a device has in force its
// enrollment ends, because nothing could reach the device any more, not even a
// renewal; with the one that a renewal brought ends the renewal, and the device
// goes on with the old one.
func (s *Service) RevokeCertificate(ctx context.Context, serial depot.Serial, reason, by string) (rec depot.Certificate, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if rec, err = s.depot.BySerial(tx, serial); err != nil {
			return err
		}
		rec, err = s.revoke(tx, rec, reason, by)
		return err
	})
	if err != nil {
		return depot.Certificate{}, fmt.Errorf("revoke certificate %s: %w", serial, err)
	}
	s.log.InfoContext(ctx, "certificate revoked", "serial", rec.Serial, "reason", rec.RevocationReason, "by", by, "device", rec.DeviceID, "attempt", rec.AttemptID)
	return rec, nil
}

// revoke revokes a certificate, ends what stood on it, and returns its record.
func (s *Service) revoke(tx storage.Tx, rec depot.Certificate, reason, by string) (depot.Certificate, error) {
	already := !rec.RevokedAt.IsZero()
	if !already {
		if err := s.tellRevoked(tx, one(rec), reason, by); err != nil {
			return depot.Certificate{}, err
		}
	}
	if err := s.depot.Revoke(tx, rec.Fingerprint, reason, s.now().UTC()); err != nil {
		return depot.Certificate{}, err
	}
	rec, err := s.depot.Get(tx, rec.Fingerprint)
	if err != nil || already {
		return rec, err
	}
	return rec, s.endTrust(tx, rec, by)
}

// tellRevoked writes into the audit log which of these certificates are about to be
// revoked. What the log calls the reason is that of RFC 5280.
func (s *Service) tellRevoked(tx storage.Tx, which iter.Seq2[depot.Certificate, error], reason, by string) error {
	now := s.now().UTC()
	for c, err := range which {
		if err != nil {
			return err
		}
		if !c.RevokedAt.IsZero() {
			continue
		}
		e := event.Event{
			At: now, Actor: by, Action: "certificate.revoked", Reason: reason,
			DeviceID: c.DeviceID, User: c.User, Certificate: string(c.Serial), Template: c.Template,
		}
		if note := c.RevocationNote(); note != "" {
			e.Details = map[string]string{"note": note}
		}
		if err := event.Record(tx, e); err != nil {
			return err
		}
	}
	return nil
}

func one(c depot.Certificate) iter.Seq2[depot.Certificate, error] {
	return func(yield func(depot.Certificate, error) bool) { yield(c, nil) }
}

// endTrust ends what stood on a certificate that was just revoked.
func (s *Service) endTrust(tx storage.Tx, rec depot.Certificate, by string) error {
	if !rec.Identity() {
		return s.payloads.Revoked(tx, rec)
	}
	if rec.DeviceID == "" { // its device has not come yet
		a, err := attempts.Get(tx, rec.AttemptID)
		if errors.Is(err, storage.ErrNotFound) || err == nil && a.Stage != IdentityIssued {
			return nil
		}
		if err != nil {
			return err
		}
		return s.failAttempt(tx, a, codeOf(errIdentityRevoked))
	}
	d, err := mdm.GetDevice(tx, mdm.DeviceID(rec.DeviceID))
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	fp := string(rec.Fingerprint)
	switch {
	case d.State == mdm.Unenrolled || d.State == mdm.Blocked:
		return nil
	case d.Identity == fp:
		return s.end(tx, d, mdm.Unenrolled, by, leftRevoked)
	case d.Renewal != nil && d.Renewal.Candidate == fp:
		if err := s.mdm.CancelCommand(tx, d.ID, d.Renewal.CommandUUID, mdm.Cancelled); err != nil {
			return err
		}
		return s.dropRenewal(tx, d)
	}
	return nil
}
