package issuance

import (
	"errors"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

var _ enroll.Payloads = (*Service)(nil)

// Assigned implements [enroll.Payloads]: it returns the assignments that have not ended.
func (s *Service) Assigned(tx storage.Tx, cursor string, limit int) (page []enroll.Assigned, next string, err error) {
	all, next, err := assignments.Page(tx, cursor, limit)
	if err != nil {
		return nil, "", err
	}
	for _, a := range all {
		if a.State == Ended {
			continue
		}
		assigned := enroll.Assigned{
			Template: a.Template, DeviceID: a.DeviceID, Renewing: a.Try != "", Since: a.CreatedAt, DueAt: a.DueAt,
		}
		for _, fp := range append([]depot.Fingerprint{a.Current}, a.Candidates...) {
			if fp != "" {
				assigned.Certificates = append(assigned.Certificates, fp)
				tx.Prefetch(s.depot.Read(fp))
			}
		}
		if a.Try != "" {
			assigned.Since = a.TriedAt
		}
		if a.State == Failing {
			assigned.Problem, assigned.Since = a.Reason, a.FailedAt
		}
		page = append(page, assigned)
	}
	return page, next, nil
}

// RenewBy implements [enroll.Payloads]. A try that is under way goes on.
func (s *Service) RenewBy(tx storage.Tx, template string, id mdm.DeviceID, at time.Time) (bool, error) {
	a, err := assignments.Get(tx, assignmentKey(template, id))
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil || a.State == Ended || a.Try != "" || !a.DueAt.IsZero() && !at.Before(a.DueAt) {
		return false, err
	}
	a.DueAt = at.UTC()
	return true, assignments.Put(tx, a)
}
