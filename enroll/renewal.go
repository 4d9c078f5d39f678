package enroll

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	// renewalLife is how long one try at a renewal may take, and how long after
	// its beginning the next one may begin.
	renewalLife = 24 * time.Hour
	// renewalTick is how often the scheduler looks.
	renewalTick  = time.Minute
	renewalBatch = 100
)

// ErrProfileUnknown means that a device came from another server, and that nobody knows how the
// profile is called by which it enrolled there: it would refuse one of another name.
var ErrProfileUnknown = errors.New("the name of the device's enrollment profile is not known")

// Renew starts the renewal of a device's identity: it queues the full enrollment
// profile with a fresh challenge that is bound to the device (PROTOCOL 7.6). A
// renewal that is under way is left alone.
func (s *Service) Renew(ctx context.Context, id mdm.DeviceID) error {
	by := "renewal"
	if p, ok := identity.PrincipalFrom(ctx); ok { // somebody asks for it ahead of its time
		by = p.String()
	}
	uuid := mdm.NewUUID()
	var d mdm.Device
	var organisation string
	var former FormerProfile
	err := s.db.View(ctx, func(tx storage.Tx) (err error) {
		if d, err = mdm.GetDevice(tx, id); err != nil {
			return err
		}
		if former, err = s.formerProfile(tx, id); err != nil {
			return err
		}
		organisation, err = s.organisationName(tx)
		return err
	})
	if err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	if !d.Live() || d.ParentID != "" {
		return fmt.Errorf("renew %s: %w", id, mdm.ErrNotEnrolled)
	}
	if d.Renewal != nil {
		return nil
	}
	if former.Identifier == "" {
		return fmt.Errorf("renew %s: %w", id, ErrProfileUnknown)
	}
	now := s.now().UTC()
	row, secret := newChallenge(challenge{DeviceID: id, ExpiresAt: now.Add(renewalLife)})
	signed, err := s.signedProfile(ctx, profileFor{
		organisation: organisation, subject: grant{device: &d}.subject(organisation), challenge: secret, topic: d.Topic,
		accessRights: d.AccessRights, userEnrollment: d.Type == mdm.TypeUser, managedAccount: d.ManagedAppleAccount,
		mode: enrollmentMode(d), requiredApp: d.RequiredAppID, former: former,
	})
	if err != nil {
		return fmt.Errorf("renew %s: %w", id, err)
	}
	plist, err := installProfile(uuid, signed)
	if err != nil {
		return fmt.Errorf("renew %s: %w", id, err)
	}
	started := false
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		started = false
		d, err := mdm.GetDevice(tx, id)
		if err != nil {
			return err
		}
		if !d.Live() || d.Renewal != nil {
			return nil
		}
		if err := challenges.Put(tx, row); err != nil {
			return err
		}
		_, rejected, err := s.mdm.Queue(tx, mdm.NewCommand{
			UUID: uuid, RequestType: "InstallProfile", Identifier: former.Identifier, Plist: plist, CreatedBy: by, Targets: []mdm.DeviceID{id},
			Origin: RenewalOrigin,
		})
		if err != nil {
			return err
		}
		if len(rejected) > 0 {
			return fmt.Errorf("the device may not get it: %s", rejected[0].Reason)
		}
		d.Renewal = &mdm.Renewal{CommandUUID: uuid, StartedAt: now, ExpiresAt: now.Add(renewalLife)}
		started = true
		return mdm.PutDevice(tx, d)
	})
	if err != nil {
		return fmt.Errorf("renew %s: %w", id, err)
	}
	if started {
		s.log.InfoContext(ctx, "identity renewal started", "device", id, "command", uuid)
	}
	return nil
}

// RenewalOrigin is the Origin of the commands that renew identities: they bring a challenge
// that buys a certificate, and more hangs on them than the command.
const RenewalOrigin = "enrollment/renewal"

// stageCandidate notes the certificate that a renewal brought. From here on the
// device may speak with either.
func (s *Service) stageCandidate(tx storage.Tx, d mdm.Device, fp string) error {
	now := s.now().UTC()
	if d.Renewal == nil {
		d.Renewal = &mdm.Renewal{StartedAt: now, ExpiresAt: now.Add(renewalLife)}
	}
	if old := d.Renewal.Candidate; old != "" {
		if err := s.depot.Revoke(tx, depot.Fingerprint(old), reasonSuperseded, now); err != nil {
			return err
		}
	}
	d.Renewal.Candidate = fp
	d.Renewal.Authenticated, d.Renewal.TokenUpdated, d.Renewal.InUse, d.Renewal.Push = false, false, false, nil
	return mdm.PutDevice(tx, d)
}

// settle writes d, and commits its renewal if that has proved itself.
func (s *Service) settle(tx storage.Tx, d mdm.Device) error {
	if d.Renewal.Done() {
		return s.commitRenewal(tx, d)
	}
	return mdm.PutDevice(tx, d)
}

// commitRenewal puts the candidate in force and revokes the certificate before it.
func (s *Service) commitRenewal(tx storage.Tx, d mdm.Device) error {
	if err := s.depot.Revoke(tx, depot.Fingerprint(d.Identity), reasonSuperseded, s.now().UTC()); err != nil {
		return err
	}
	d.Identity = d.Renewal.Candidate
	told := d.Renewal.Push != nil
	if told {
		d.Push = d.Renewal.Push
	}
	d.Renewal, d.RenewalFailedAt = nil, time.Time{}
	if err := mdm.PutDevice(tx, d); err != nil || !told {
		return err
	}
	return s.mdm.Reachable(tx, d)
}

// dropRenewal gives up a renewal: the device goes on with the certificate it had.
func (s *Service) dropRenewal(tx storage.Tx, d mdm.Device) error {
	if fp := d.Renewal.Candidate; fp != "" {
		if err := s.depot.Revoke(tx, depot.Fingerprint(fp), reasonSuperseded, s.now().UTC()); err != nil {
			return err
		}
	}
	d.RenewalFailedAt = d.Renewal.StartedAt
	d.Renewal = nil
	return mdm.PutDevice(tx, d)
}

// answered follows up the answer to a renewal's InstallProfile.
func (s *Service) answered(tx storage.Tx, d mdm.Device, e *mdm.Entry) error {
	if d.Renewal == nil || d.Renewal.CommandUUID == "" || e == nil || e.UUID != d.Renewal.CommandUUID {
		return nil
	}
	switch e.State {
	case mdm.Acknowledged:
		d.Renewal.Acknowledged = true
		return s.settle(tx, d)
	case mdm.Failed, mdm.Cancelled, mdm.Expired:
		return s.dropRenewal(tx, d)
	}
	return nil
}

// CancelCommand cancels a command for a device that does not have it yet (see
// [mdm.Service.Cancel]), and with it the renewal that it belonged to.
func (s *Service) CancelCommand(ctx context.Context, id mdm.DeviceID, uuid string) error {
	if err := s.mdm.Cancel(ctx, id, uuid, actor(ctx)); err != nil {
		return err
	}
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		d, err := mdm.GetDevice(tx, id)
		if err != nil {
			return err
		}
		e := mdm.Entry{DeviceID: id, UUID: uuid, RequestType: "InstallProfile", State: mdm.Cancelled}
		if err := errors.Join(s.payloads.Answered(tx, e), s.trustAnswered(tx, e)); err != nil {
			return err
		}
		return s.answered(tx, d, &e)
	})
	if err != nil {
		return fmt.Errorf("cancel command %s for %s: %w", uuid, id, err)
	}
	return nil
}

// expireRenewals ends the renewals whose time is over. One whose device was told
// to use the new certificate, sent its TokenUpdate under it and has polled with
// it since has succeeded, though its acknowledgement never came: Apple's devices
// may leave it out for an enrollment profile (PROTOCOL 5.3), and dropping the
// certificate that they use would lose them. Any other is dropped.
func (s *Service) expireRenewals(ctx context.Context) error {
	var due []mdm.DeviceID
	err := s.db.View(ctx, func(tx storage.Tx) error {
		due = nil
		for d, err := range mdm.RenewalsExpired(tx, s.now(), renewalBatch) {
			if err != nil {
				return err
			}
			due = append(due, d.ID)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("find expired renewals: %w", err)
	}
	for _, id := range due {
		committed := false
		err := s.db.Update(ctx, func(tx storage.Tx) error {
			committed = false
			d, err := mdm.GetDevice(tx, id)
			if err != nil {
				return err
			}
			r := d.Renewal
			if r == nil || s.now().Before(r.ExpiresAt) {
				return nil
			}
			if err := s.mdm.CancelCommand(tx, id, r.CommandUUID, mdm.Expired); err != nil {
				return err
			}
			if committed = r.Candidate != "" && r.TokenUpdated && r.InUse; committed {
				return s.commitRenewal(tx, d)
			}
			return s.dropRenewal(tx, d)
		})
		if err != nil {
			s.log.WarnContext(ctx, "identity renewal not expired, will try again", "device", id, "err", err)
			continue
		}
		s.log.InfoContext(ctx, "identity renewal expired", "device", id, "committed", committed)
	}
	return nil
}

// renewDue starts the renewals whose time has come.
func (s *Service) renewDue(ctx context.Context) error {
	var due []mdm.DeviceID
	err := s.db.View(ctx, func(tx storage.Tx) error {
		due = nil
		for rec, err := range s.depot.DueForRenewal(tx, s.now(), 0) {
			if err != nil {
				return err
			}
			d, err := mdm.GetDevice(tx, mdm.DeviceID(rec.DeviceID))
			if errors.Is(err, storage.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if !d.Live() || d.Renewal != nil || d.Identity != string(rec.Fingerprint) {
				continue
			}
			if again, err := s.mayRetry(tx, d); err != nil || !again {
				if err != nil {
					return err
				}
				continue
			}
			if due = append(due, d.ID); len(due) == renewalBatch {
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("find identities to renew: %w", err)
	}
	for _, id := range due {
		if err := s.Renew(ctx, id); err != nil {
			s.log.WarnContext(ctx, "identity renewal not started, will try again", "device", id, "err", err)
		}
	}
	return nil
}

// mayRetry says whether a renewal of d may be tried: a day after one that failed,
// and only if the device was heard of since, because one that is switched off
// would collect a command a day.
func (s *Service) mayRetry(tx storage.Tx, d mdm.Device) (bool, error) {
	if d.RenewalFailedAt.IsZero() {
		return true, nil
	}
	if s.now().Before(d.RenewalFailedAt.Add(renewalLife)) {
		return false, nil
	}
	seen, err := s.mdm.LastSeen(tx, d.ID)
	return seen.After(d.RenewalFailedAt), err
}

// Run renews identities as they fall due, sweeps what has expired, and takes devices
// from one authority to the next, until ctx ends. One replica at a time does so.
func (s *Service) Run(ctx context.Context) error {
	return storage.Schedule{
		DB: s.db, Log: s.log, Now: s.now,
		Jobs: []storage.Job{
			{Name: "enroll/renewals", Every: renewalTick, Do: s.RenewDue},
			{Name: "enroll/sweep", Every: sweepTick, Do: s.sweep},
			{Name: "enroll/devices", Every: day, Do: s.deleteLeft},
			{Name: "enroll/rollovers", Every: rolloverTick, Do: s.ContinueRollovers},
			{Name: "enroll/ca-expiry", Every: day, Do: s.warnOfExpiry},
			{Name: "enroll/certificate-expiry", Every: day, Do: s.tellExpiring},
		},
	}.Run(ctx)
}

// RenewDue starts the renewals of identities whose time has come, and ends those that
// took too long. It is what [Service.Run] does in its time.
func (s *Service) RenewDue(ctx context.Context) error {
	return errors.Join(s.expireRenewals(ctx), s.renewDue(ctx))
}
