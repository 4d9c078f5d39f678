package enroll

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// RolloverStage is how far a device has come in a rollover.
type RolloverStage string

// The stages. Of the root: pending_trust → trusted → done. Of the others:
// pending → renewing → done.
const (
	PendingTrust   RolloverStage = "pending_trust" // it has not acknowledged the new root
	Trusted        RolloverStage = "trusted"       // it trusts the new root, which is not in force yet
	PendingRenewal RolloverStage = "pending"       // its turn is yet to come, or comes again
	RenewalRunning RolloverStage = "renewing"      // it was sent what gets it a new certificate
	RolledOver     RolloverStage = "done"
)

// Progress is how far one device has come in a rollover, or one certificate of it.
type Progress struct {
	DeviceID mdm.DeviceID
	Template string // of a payload certificate
	Stage    RolloverStage
	Since    time.Time
	Blocker  string // a sentence that says what it waits for; empty when it is done
}

// step is Progress, and what is to be done about it.
type step struct {
	Progress
	needsTurn bool
	attempt   string // AttemptID of the device, in a rollover of the root
}

// ready says that the root may come into force as far as this device goes.
func (p step) ready() bool { return p.Stage != PendingTrust }

// Assigned is a payload certificate that a device is to have, as a rollover sees it.
type Assigned struct {
	Template string
	DeviceID mdm.DeviceID
	// Certificates are those that the device may have: the one in force first, if there
	// is one.
	Certificates []depot.Fingerprint
	Renewing     bool      // the next one is on its way
	Since        time.Time // when that began, or the last one came
	DueAt        time.Time // when it is sent another one; zero: never
	RestsUntil   time.Time // before it no rollover has it sent another one: a try came to nothing
	Problem      string    // why the last try failed
}

// Progress returns how far up to limit devices have come in the latest rollover of an
// authority, and the cursor of the next page. Its error wraps storage.ErrNotFound if
// there was none.
func (s *Service) Progress(ctx context.Context, name, cursor string, limit int) (page []Progress, next string, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		r, err := rollovers.Get(tx, name)
		if err != nil {
			return err
		}
		var steps []step
		steps, next, err = s.steps(tx, r, cursor, limit)
		page = make([]Progress, len(steps))
		for i, p := range steps {
			page[i] = p.Progress
		}
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("progress of rollover: %w", err)
	}
	return page, next, nil
}

// maxUnfinished is how many devices RolloverStatus names.
const maxUnfinished = 100

// RolloverStatus is a rollover, and how far all devices have come.
type RolloverStatus struct {
	Rollover
	Counts     map[RolloverStage]int
	Unfinished []Progress // the first hundred
}

// LatestRollovers returns the latest rollover of each authority, and nothing of devices.
func (s *Service) LatestRollovers(ctx context.Context) (list []RolloverStatus, err error) {
	for _, name := range []string{identityAuthority, rootAuthority, payloadAuthority} {
		r, err := s.rollover(ctx, name)
		if err != nil {
			return nil, err
		}
		if r != nil {
			list = append(list, RolloverStatus{Rollover: *r, Counts: map[RolloverStage]int{}})
		}
	}
	return list, nil
}

// Rollovers returns the latest rollover of each authority. It looks at all devices
// for those that are under way.
func (s *Service) Rollovers(ctx context.Context) (list []RolloverStatus, err error) {
	if list, err = s.LatestRollovers(ctx); err != nil {
		return nil, err
	}
	for i := range list {
		status := &list[i]
		if !status.FinishedAt.IsZero() {
			continue
		}
		err := s.eachStep(ctx, status.Rollover, func(p step) error {
			status.Counts[p.Stage]++
			if p.Stage != RolledOver && len(status.Unfinished) < maxUnfinished {
				status.Unfinished = append(status.Unfinished, p.Progress)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("progress of rollover: %w", err)
		}
	}
	return list, nil
}

// eachStep calls fn for every device, or every payload certificate, outside of any
// transaction.
func (s *Service) eachStep(ctx context.Context, r Rollover, fn func(step) error) error {
	for cursor := ""; ; {
		var page []step
		var next string
		err := s.db.View(ctx, func(tx storage.Tx) (err error) {
			page, next, err = s.steps(tx, r, cursor, rolloverPage)
			return err
		})
		if err != nil {
			return err
		}
		for _, p := range page {
			if err := fn(p); err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		cursor = next
	}
}

// steps returns a page of all that a rollover is about.
func (s *Service) steps(tx storage.Tx, r Rollover, cursor string, limit int) (list []step, next string, err error) {
	if r.Authority == payloadAuthority {
		return s.payloadSteps(tx, r, cursor, limit)
	}
	all, next, err := mdm.PageDevices(tx, cursor, limit)
	if err != nil {
		return nil, "", err
	}
	for _, d := range all {
		tx.Prefetch(s.depot.Read(depot.Fingerprint(d.Identity)), trusts.Read(string(d.ID)), mdm.ReadLastSeen(d.ID))
		if r.Authority == rootAuthority && d.AttemptID != "" {
			tx.Prefetch(attempts.Read(d.AttemptID))
		}
	}
	for _, d := range all {
		if d.ParentID != "" || !d.Live() {
			continue
		}
		one := s.identityStep
		if r.Authority == rootAuthority {
			one = s.trustStep
		}
		p, err := one(tx, r, d)
		if err != nil {
			return nil, "", err
		}
		list = append(list, p)
	}
	return list, next, nil
}

// identityStep is how far a device has come on its way to a new identity.
func (s *Service) identityStep(tx storage.Tx, r Rollover, d mdm.Device) (step, error) {
	p := step{Progress: Progress{DeviceID: d.ID, Stage: PendingRenewal, Since: r.StartedAt}}
	c, err := s.depot.Get(tx, depot.Fingerprint(d.Identity))
	if errors.Is(err, storage.ErrNotFound) {
		p.Blocker = "There is no record of the device's identity: it must enroll again."
		a, err := maybe(arrivals.Get(tx, string(d.ID)))
		if a != nil && a.ArrivedAt.IsZero() {
			p.Blocker = "The device was taken over from another server, and was not heard here yet."
		}
		return p, err
	}
	if err != nil {
		return step{}, err
	}
	if s.depot.IssuerOf(c) == r.To {
		p.Stage, p.Since = RolledOver, c.IssuedAt
		return p, nil
	}
	p.needsTurn = c.RenewAt.After(latest(s.now(), r.NextTurn))
	seen, err := s.mdm.LastSeen(tx, d.ID)
	if err != nil {
		return step{}, err
	}
	switch {
	case d.Renewal != nil:
		p.Stage, p.Since = RenewalRunning, d.Renewal.StartedAt
		p.Blocker = "The device was sent the profile and has not fetched its new identity yet; " + lastHeardOf(seen) + "."
		if d.Renewal.Candidate != "" {
			p.Blocker = "The device has fetched its new identity and has not confirmed yet that it uses it; " + lastHeardOf(seen) + "."
		}
	case p.needsTurn:
		p.Blocker = "The device gets its turn within minutes."
	case c.RenewAt.After(s.now()):
		p.Blocker = "The device has its turn at " + at(c.RenewAt) + "."
	case !d.RenewalFailedAt.IsZero():
		p.Since = d.RenewalFailedAt
		p.Blocker = "The try that began at " + at(d.RenewalFailedAt) + " came to nothing; another one follows a day later, once the device is heard of again; " + lastHeardOf(seen) + "."
	default:
		p.Blocker = "The device is sent the profile within minutes; " + lastHeardOf(seen) + "."
	}
	return p, nil
}

// payloadSteps is how far the payload certificates have come that devices are to have.
func (s *Service) payloadSteps(tx storage.Tx, r Rollover, cursor string, limit int) (list []step, next string, err error) {
	all, next, err := s.payloads.Assigned(tx, cursor, limit)
	if err != nil {
		return nil, "", err
	}
	for _, a := range all {
		tx.Prefetch(mdm.ReadLastSeen(a.DeviceID))
	}
	for _, a := range all {
		p := step{Progress: Progress{DeviceID: a.DeviceID, Template: a.Template, Stage: RolledOver, Since: a.Since}}
		old, err := s.relies(tx, a, func(issuer string) bool { return issuer != r.To && issuer != "" })
		if err != nil {
			return nil, "", err
		}
		if old == "" {
			list = append(list, p)
			continue
		}
		p.Stage, p.Since = PendingRenewal, latest(r.StartedAt, a.Since)
		p.needsTurn = !a.Renewing && !s.now().Before(a.RestsUntil) && (a.DueAt.IsZero() || a.DueAt.After(latest(s.now(), r.NextTurn)))
		seen, err := s.mdm.LastSeen(tx, a.DeviceID)
		if err != nil {
			return nil, "", err
		}
		switch {
		case a.Renewing:
			p.Stage = RenewalRunning
			p.Blocker = "The device was sent the profile and has not acknowledged it yet; " + lastHeardOf(seen) + "."
		case p.needsTurn:
			p.Blocker = "The certificate gets its turn within minutes."
		case a.Problem != "":
			p.Blocker = "The last try failed: " + a.Problem + "; the next one is at " + at(a.DueAt) + "; " + lastHeardOf(seen) + "."
		case s.now().Before(a.RestsUntil):
			p.Blocker = "The device acknowledged the profile and did not ask for a certificate; the next try is at " + at(a.RestsUntil) + "; " + lastHeardOf(seen) + "."
		default:
			p.Blocker = "The certificate has its turn at " + at(a.DueAt) + "."
		}
		list = append(list, p)
	}
	return list, next, nil
}

// relies returns the first certificate of a whose authority is one that is asked for,
// by its ID, and that is still in force.
func (s *Service) relies(tx storage.Tx, a Assigned, issuedBy func(string) bool) (depot.Fingerprint, error) {
	for _, fp := range a.Certificates {
		c, err := s.depot.Get(tx, fp)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return "", err
		}
		if c.RevokedAt.IsZero() && s.now().Before(c.NotAfter) && issuedBy(s.depot.IssuerOf(c)) {
			return fp, nil
		}
	}
	return "", nil
}

func lastHeardOf(t time.Time) string {
	if t.IsZero() {
		return "it was never heard of"
	}
	return "it was last heard of at " + at(t)
}

// at is a time for people.
func at(t time.Time) string { return t.UTC().Format(time.RFC3339) }
