package enroll

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Kinds of what an authority can't be retired for.
const (
	BlockedByDevice      = "device"      // its identity, or the next one, is from the authority; or it does not trust the new root
	BlockedByEnrollment  = "enrollment"  // an identity from the authority is about to be used for the first time
	BlockedByAssignment  = "assignment"  // a payload certificate that a device is to have is from the authority
	BlockedByCertificate = "certificate" // a certificate of the server itself is from the authority
	BlockedByAuthority   = "authority"   // an issuer that is in use is below the authority
	BlockedByHolders     = "holders"     // certificates from the authority are in force that no assignment will replace
)

// Blocker is something that relies on an authority, so that it can't be retired.
type Blocker struct {
	Kind     string
	DeviceID mdm.DeviceID // of a device, or an assignment
	Template string       // of an assignment
	Serial   depot.Serial // of the certificate that is concerned; may be empty
	Reason   string       // a sentence

	// Of holders: how many certificates there are, and the serial numbers of the first
	// hundred.
	Count   int
	Serials []depot.Serial
}

// maxBlockers is how many Blockers are named, and certificates in one of them.
const maxBlockers = 100

// Retirement is how an authority is to be retired.
type Retirement struct {
	// Force leaves certificates in force that no assignment will replace: such as
	// those made by hand, by CSR or by a static challenge. Devices that rely on the
	// authority are not left behind by it.
	Force bool
}

// InUseError means that an authority can't be retired, because of these.
type InUseError struct {
	Blockers []Blocker // the first hundred
	Total    int
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("%d devices and certificates still rely on the authority", e.Total)
}

// hold adds c, which no assignment will replace.
func (b *Blocker) hold(c depot.Certificate) {
	if b.Count++; len(b.Serials) < maxBlockers {
		b.Serials = append(b.Serials, c.Serial)
	}
}

func (e *InUseError) add(b Blocker) {
	if e.Total++; len(e.Blockers) < maxBlockers {
		e.Blockers = append(e.Blockers, b)
	}
}

// RetireAuthority ends the authority of a name with an ID, if nothing relies on it any
// more, and returns it as it was last. Its errors are an *InUseError or those of [depot.Depot.Retire].
//
// What relies on it is looked for before the transaction, and not in it: an authority
// that may be retired has issued nothing for a while, so that nothing is added.
func (s *Service) RetireAuthority(ctx context.Context, name, id string, o Retirement) (*depot.Authority, error) {
	if err := s.depot.Reload(ctx); err != nil {
		return nil, err
	}
	a := s.depot.Authority(id)
	if a == nil || a.Name() != name {
		return nil, fmt.Errorf("retire authority %s: %w", id, storage.ErrNotFound)
	}
	details := map[string]string{"authority": name, "id": id, "subject": a.Certificate().Subject.String()}
	if a.State() == depot.StateRetiring {
		left, err := s.reliesOn(ctx, a, o)
		if err != nil {
			return nil, fmt.Errorf("retire authority %s: %w", id, err)
		}
		if left > 0 {
			details["forced"], details["certificates"] = "true", strconv.Itoa(left)
		}
	}
	by := actor(ctx)
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		if err := s.depot.Retire(tx, id); err != nil {
			return err
		}
		if a.State() == depot.StateRetired {
			return nil
		}
		r, err := rollovers.Get(tx, name)
		switch {
		case errors.Is(err, storage.ErrNotFound):
		case err != nil:
			return err
		case r.To == id && r.FinishedAt.IsZero(): // what it waited for will not come
			if err := rollovers.Delete(tx, name); err != nil {
				return err
			}
		}
		return event.Record(tx, event.Event{
			At: s.now().UTC(), Actor: by, Action: "ca.retired", Details: details,
		})
	})
	if err != nil {
		return nil, fmt.Errorf("retire authority %s: %w", id, err)
	}
	if err := s.depot.Reload(ctx); err != nil {
		return nil, err
	}
	s.log.InfoContext(ctx, "authority retired", "authority", name, "id", id, "by", by)
	if now := s.depot.Authority(id); now != nil {
		a = now
	}
	return a, nil
}

// reliesOn returns an *InUseError if anything relies on a, and how many certificates are
// left in force, if that is wanted.
func (s *Service) reliesOn(ctx context.Context, a *depot.Authority, o Retirement) (left int, err error) {
	var in InUseError
	switch a.Name() {
	case identityAuthority:
		err = errors.Join(s.devicesRelyOn(ctx, a, &in), s.enrollmentsRelyOn(ctx, a, &in))
	case payloadAuthority:
		left, err = s.certificatesRelyOn(ctx, a, o, &in)
	case rootAuthority:
		err = errors.Join(s.trustRelyOn(ctx, &in), s.ownRelyOn(ctx, a, &in))
	}
	if err != nil {
		return 0, err
	}
	if in.Total > 0 {
		return 0, &in
	}
	return left, nil
}

// devicesRelyOn finds the devices that speak for themselves by a certificate of a.
func (s *Service) devicesRelyOn(ctx context.Context, a *depot.Authority, in *InUseError) error {
	for cursor := ""; ; {
		var found []Blocker
		var next string
		err := s.db.View(ctx, func(tx storage.Tx) (err error) {
			found = nil
			var all []mdm.Device
			if all, next, err = mdm.PageDevices(tx, cursor, rolloverPage); err != nil {
				return err
			}
			for _, d := range all {
				tx.Prefetch(s.depot.Read(depot.Fingerprint(d.Identity)), mdm.ReadLastSeen(d.ID))
			}
			for _, d := range all {
				b, err := s.deviceReliesOn(tx, a, d)
				if err != nil {
					return err
				}
				if b != nil {
					found = append(found, *b)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, b := range found {
			in.add(b)
		}
		if cursor = next; next == "" {
			return nil
		}
	}
}

func (s *Service) deviceReliesOn(tx storage.Tx, a *depot.Authority, d mdm.Device) (*Blocker, error) {
	if d.ParentID != "" || d.State != mdm.Enrolled && d.State != mdm.Pending {
		return nil, nil
	}
	fps := []string{d.Identity}
	if d.Renewal != nil {
		fps = append(fps, d.Renewal.Candidate)
	}
	for i, fp := range fps {
		if fp == "" {
			continue
		}
		c, err := s.depot.Get(tx, depot.Fingerprint(fp))
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return nil, err
		}
		if err != nil || s.depot.IssuerOf(c) != a.ID() {
			continue
		}
		b := &Blocker{Kind: BlockedByDevice, DeviceID: d.ID, Serial: c.Serial}
		seen, err := s.mdm.LastSeen(tx, d.ID)
		if err != nil {
			return nil, err
		}
		b.Reason = "The device's identity is from this authority; " + lastHeardOf(seen) + "."
		if i > 0 {
			b.Reason = "The identity that the device is about to use is from this authority; " + lastHeardOf(seen) + "."
		}
		return b, nil
	}
	return nil, nil
}

// enrollmentsRelyOn finds the identities of a that no device has shown yet.
func (s *Service) enrollmentsRelyOn(ctx context.Context, a *depot.Authority, in *InUseError) error {
	var found InUseError
	err := s.db.View(ctx, func(tx storage.Tx) error {
		found = InUseError{}
		for t, err := range attempts.Ascend(tx, attemptsOpen, "", at(s.now().Add(attemptLife)), 0) {
			if err != nil {
				return err
			}
			if t.Stage != IdentityIssued {
				continue
			}
			for c, err := range s.depot.ByAttempt(tx, t.ID) {
				if err != nil {
					return err
				}
				if c.RevokedAt.IsZero() && s.depot.IssuerOf(c) == a.ID() {
					found.add(Blocker{Kind: BlockedByEnrollment, Serial: c.Serial, Reason: "An enrollment that began at " + at(t.StageAt[Opened]) + " has an identity from this authority."})
				}
			}
		}
		return nil
	})
	for _, b := range found.Blockers {
		in.add(b)
	}
	in.Total += found.Total - len(found.Blockers)
	return err
}

// certificatesRelyOn finds the payload certificates of a: those that devices are to have,
// and all others that are in force, which it counts.
func (s *Service) certificatesRelyOn(ctx context.Context, a *depot.Authority, o Retirement, in *InUseError) (held int, err error) {
	assigned, err := s.assignmentsRelyOn(ctx, a, in)
	if err != nil {
		return 0, err
	}
	var holders Blocker
	err = s.db.View(ctx, func(tx storage.Tx) error {
		holders = Blocker{Kind: BlockedByHolders}
		for c, err := range s.depot.InForce(tx, a.ID()) {
			if err != nil {
				return err
			}
			if !assigned[c.Fingerprint] {
				holders.hold(c)
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("count certificates: %w", err)
	}
	if holders.Count > 0 && !o.Force {
		holders.Reason = certificatesAre(holders.Count) + " in force that no assignment replaces, such as those made by hand, by CSR or by a static challenge. " +
			"Have their holders renew them, or revoke them; with force they stay in force, and are renewed by the authority that is active."
		in.add(holders)
		in.Total += holders.Count - 1
	}
	return holders.Count, nil
}

func certificatesAre(n int) string {
	if n == 1 {
		return "One certificate of this authority is"
	}
	return fmt.Sprintf("%d certificates of this authority are", n)
}

// assignmentsRelyOn finds the payload certificates of a that devices are to have, and
// returns them.
func (s *Service) assignmentsRelyOn(ctx context.Context, a *depot.Authority, in *InUseError) (assigned map[depot.Fingerprint]bool, err error) {
	assigned = map[depot.Fingerprint]bool{}
	for cursor := ""; ; {
		var found []Blocker
		var certificates []depot.Fingerprint
		var next string
		err := s.db.View(ctx, func(tx storage.Tx) (err error) {
			found, certificates = nil, nil
			var all []Assigned
			if all, next, err = s.payloads.Assigned(tx, cursor, rolloverPage); err != nil {
				return err
			}
			for _, as := range all {
				fp, err := s.relies(tx, as, func(issuer string) bool { return issuer == a.ID() })
				if err != nil {
					return err
				}
				if fp == "" {
					continue
				}
				c, err := s.depot.Get(tx, fp)
				if err != nil {
					return err
				}
				seen, err := s.mdm.LastSeen(tx, as.DeviceID)
				if err != nil {
					return err
				}
				certificates = append(certificates, as.Certificates...)
				found = append(found, Blocker{
					Kind: BlockedByAssignment, DeviceID: as.DeviceID, Template: as.Template, Serial: c.Serial,
					Reason: fmt.Sprintf("The device's certificate of the template %q is from this authority; %s.", as.Template, lastHeardOf(seen)),
				})
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		for _, b := range found {
			in.add(b)
		}
		for _, fp := range certificates {
			assigned[fp] = true
		}
		if cursor = next; next == "" {
			return assigned, nil
		}
	}
}

// trustRelyOn finds the devices that are not known to trust the root that is in force.
func (s *Service) trustRelyOn(ctx context.Context, in *InUseError) error {
	r, err := s.rollover(ctx, rootAuthority)
	if err != nil || r == nil {
		return err
	}
	return s.eachStep(ctx, *r, func(p step) error {
		if !p.ready() {
			in.add(Blocker{Kind: BlockedByDevice, DeviceID: p.DeviceID, Reason: p.Blocker})
		}
		return nil
	})
}

// ownRelyOn finds the issuers below a, and what a issued for the server itself.
func (s *Service) ownRelyOn(ctx context.Context, a *depot.Authority, in *InUseError) error {
	for _, below := range s.depot.InUse(payloadAuthority) {
		chain := below.Chain()
		if len(chain) > 1 && chain[1].Equal(a.Certificate()) {
			in.add(Blocker{Kind: BlockedByAuthority, Serial: depot.SerialOf(below.Certificate()), Reason: fmt.Sprintf(
				"The %s issuer of payload certificates, %q, is below this root: roll it over, and retire it.", below.State(), below.Certificate().Subject.CommonName)})
		}
	}
	var own []Blocker
	err := s.db.View(ctx, func(tx storage.Tx) error {
		own = nil
		inUse, err := s.depot.TLSLeaves(tx)
		if err != nil {
			return err
		}
		for _, c := range inUse {
			if s.depot.IssuerOf(c) == a.ID() {
				own = append(own, Blocker{Kind: BlockedByCertificate, Serial: c.Serial, Reason: "A server still has a TLS certificate from this root; it renews it within half a day, or when it starts."})
			}
		}
		return nil
	})
	for _, b := range own {
		in.add(b)
	}
	return err
}
