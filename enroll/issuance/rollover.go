package issuance

import (
	"errors"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

var _ enroll.Payloads = (*Service)(nil)

// Assigned implements [enroll.Payloads]: it returns the assignments that have not ended.
func (s *Service) Assigned(tx storage.Tx, cursor string, limit int) (page []enroll.Assigned, next string, err error) {
	all, next, err := storage.Page(tx, assignments, cursor, limit)
	if err != nil {
		return nil, "", err
	}
	all = slices.DeleteFunc(all, func(a Assignment) bool { return a.State == Ended })
	for _, a := range all {
		for _, fp := range append([]depot.Fingerprint{a.Current}, a.Candidates...) {
			if fp != "" {
				tx.Prefetch(s.depot.Read(fp))
			}
		}
	}
	for _, a := range all {
		assigned := enroll.Assigned{
			Template: a.Template, DeviceID: a.DeviceID, Renewing: a.Try != "", Since: a.CreatedAt, DueAt: a.DueAt,
		}
		for _, fp := range append([]depot.Fingerprint{a.Current}, a.Candidates...) {
			if fp != "" {
				assigned.Certificates = append(assigned.Certificates, fp)
			}
		}
		if a.Try != "" {
			assigned.Since = a.TriedAt
		}
		if a.State == Failing {
			assigned.Problem, assigned.Since = a.Reason, a.FailedAt
		}
		if assigned.RestsUntil, err = s.restsUntil(tx, a); err != nil {
			return nil, "", err
		}
		page = append(page, assigned)
	}
	return page, next, nil
}

// restsUntil is until when a device is left alone whose last try came to nothing: it
// failed, or the device acknowledged the profile and did not ask for a certificate.
func (s *Service) restsUntil(tx storage.Tx, a Assignment) (until time.Time, err error) {
	if !a.FailedAt.IsZero() {
		until = a.FailedAt.Add(retryAfter)
	}
	if a.State == Failing {
		until = laterOf(until, a.DueAt)
	}
	if a.Current == "" || a.Try != "" || a.TriedAt.IsZero() {
		return until, nil
	}
	c, err := s.depot.Get(tx, a.Current)
	if errors.Is(err, storage.ErrNotFound) {
		return until, nil
	}
	if err == nil && a.TriedAt.After(c.IssuedAt) {
		until = laterOf(until, a.TriedAt.Add(retryAfter))
	}
	return until, err
}

// RenewBy implements [enroll.Payloads]. A try that is under way goes on, and one that came
// to nothing is followed by the next a day later, no sooner.
func (s *Service) RenewBy(tx storage.Tx, template string, id mdm.DeviceID, at time.Time) (bool, error) {
	a, err := assignments.Get(tx, assignmentKey(template, id))
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil || a.State == Ended || a.Try != "" || !a.DueAt.IsZero() && !at.Before(a.DueAt) {
		return false, err
	}
	if until, err := s.restsUntil(tx, a); err != nil || at.Before(until) {
		return false, err
	}
	a.DueAt = at.UTC()
	return true, assignments.Put(tx, a)
}
