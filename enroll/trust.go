package enroll

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	// trustLife is how long a device may take to acknowledge the profile with the roots
	// before it is sent another one.
	trustLife = 7 * 24 * time.Hour
	// trustRetry is how long after a failure it is sent another one.
	trustRetry = 24 * time.Hour
	// trustSure is how long after a rollover's beginning all replicas put the new root
	// into the profiles that they hand out.
	trustSure = time.Minute
)

// trust is what a device was last sent to make it trust the roots.
type trust struct {
	DeviceID    mdm.DeviceID `json:"device_id"`
	AttemptID   string       `json:"attempt_id,omitempty"` // of the enrollment: what another one was sent is gone
	Root        string       `json:"root"`                 // ID of the latest one in the profile
	CommandUUID string       `json:"command_uuid,omitempty"`
	SentAt      time.Time    `json:"sent_at"`
	TrustedAt   time.Time    `json:"trusted_at,omitzero"` // acknowledged
	FailedAt    time.Time    `json:"failed_at,omitzero"`
	Reason      string       `json:"reason,omitempty"` // of the failure
}

var trusts = storage.NewCollection("enroll.trust", 1, func(t trust) string { return string(t.DeviceID) })

// trustIdentifier is the PayloadIdentifier of the profile with the roots.
func (s *Service) trustIdentifier() string { return profile.TrustIdentifier(s.serverURL.Hostname()) }

// mustTrust says whether devices would be lost if the root changed at once: those that
// rely on it for TLS.
func (s *Service) mustTrust(ctx context.Context) (must bool, err error) {
	if !s.includeRoot {
		return false, nil
	}
	err = s.eachStep(ctx, Rollover{Authority: rootAuthority}, func(step) error {
		must = true
		return nil
	})
	if err != nil || must {
		return must, err
	}
	return s.begunBefore(ctx, s.now().Add(time.Second))
}

// begunBefore says whether an enrollment is under way whose profile was made before a
// time, and so lacks roots that came later.
func (s *Service) begunBefore(ctx context.Context, t time.Time) (begun bool, err error) {
	if !s.includeRoot {
		return false, nil
	}
	err = s.db.View(ctx, func(tx storage.Tx) error {
		begun = false
		for a, err := range attempts.Ascend(tx, attemptsOpen, "", at(t), 0) {
			if err != nil {
				return err
			}
			if made := a.StageAt[ProfileDownloaded]; !made.IsZero() && made.Before(t) {
				begun = true
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("look for enrollments that are under way: %w", err)
	}
	return begun, nil
}

// trustStep is how far a device has come on its way to trust the new root.
func (s *Service) trustStep(tx storage.Tx, r Rollover, d mdm.Device) (step, error) {
	p := step{Progress: Progress{DeviceID: d.ID, Stage: PendingTrust, Since: r.StartedAt}, attempt: d.AttemptID}
	if !s.includeRoot {
		p.Stage = RolledOver
		return p, nil
	}
	t, err := trusts.Get(tx, string(d.ID))
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return step{}, err
	}
	if err != nil || t.Root != r.To || t.AttemptID != d.AttemptID {
		t = trust{}
	}
	if t.SentAt.IsZero() { // it may have got the new root with its enrollment
		a, err := attempts.Get(tx, d.AttemptID)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return step{}, err
		}
		if made := a.StageAt[ProfileDownloaded]; made.After(r.StartedAt.Add(trustSure)) {
			t.TrustedAt = made
		}
	}
	if !t.TrustedAt.IsZero() {
		if p.Stage, p.Since = Trusted, t.TrustedAt; r.ActivatedAt.IsZero() {
			p.Blocker = "The device waits for the others: the root changes when all trust the new one."
		} else {
			p.Stage = RolledOver
		}
		return p, nil
	}
	seen, err := s.mdm.LastSeen(tx, d.ID)
	if err != nil {
		return step{}, err
	}
	now := s.now()
	switch {
	case t.SentAt.IsZero():
		p.needsTurn = true
		p.Blocker = "The device has not had its turn yet to be sent the profile with the new root; " + lastHeardOf(seen) + "."
	case !t.FailedAt.IsZero():
		p.needsTurn, p.Since = now.Sub(t.FailedAt) >= trustRetry && seen.After(t.FailedAt), t.FailedAt
		p.Blocker = "The device did not take the profile with the new root: " + t.Reason + "; " + lastHeardOf(seen) + "."
	default:
		p.needsTurn, p.Since = now.Sub(t.SentAt) >= trustLife && seen.After(t.SentAt), t.SentAt
		p.Blocker = "The device was sent the profile with the new root and has not acknowledged it yet; " + lastHeardOf(seen) + "."
	}
	return p, nil
}

// sendTrust queues the profile with all roots for the devices whose turn it is.
func (s *Service) sendTrust(ctx context.Context, r Rollover, to []step) (sent int, err error) {
	settings, err := s.Settings(ctx)
	if err != nil {
		return 0, err
	}
	plain, err := profile.Trust{
		Identifier: s.trustIdentifier(), DisplayName: "Trust in " + s.serverURL.Hostname(),
		Organization: cmp.Or(settings.Organisation.Name, s.organisation), Roots: s.depot.Roots(),
	}.Encode()
	if err != nil {
		return 0, err
	}
	signed, err := s.sign(plain)
	if err != nil {
		return 0, fmt.Errorf("sign profile: %w", err)
	}
	uuid := mdm.NewUUID()
	plist, err := installProfile(uuid, signed)
	if err != nil {
		return 0, err
	}
	apart := time.Hour / time.Duration(r.PerHour)
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		sent = 0
		now := s.now().UTC()
		current, err := rollovers.Get(tx, r.Authority)
		if err != nil || !current.StartedAt.Equal(r.StartedAt) {
			return err
		}
		// The turns of one interval of the scheduler are taken together.
		turn := latest(current.NextTurn, now.Add(-rolloverTick))
		var ids []mdm.DeviceID
		for _, p := range to {
			if turn.After(now) {
				break
			}
			ids = append(ids, p.DeviceID)
			turn = turn.Add(apart)
		}
		if len(ids) == 0 {
			return nil
		}
		_, rejected, err := s.mdm.Queue(tx, mdm.NewCommand{
			UUID: uuid, RequestType: "InstallProfile", Identifier: s.trustIdentifier(), Plist: plist, CreatedBy: "rollover", Targets: ids,
		})
		if err != nil {
			return err
		}
		for _, p := range to[:len(ids)] {
			id := p.DeviceID
			t := trust{DeviceID: id, AttemptID: p.attempt, Root: r.To, CommandUUID: uuid, SentAt: now}
			if i := slices.IndexFunc(rejected, func(no mdm.Rejection) bool { return no.DeviceID == id }); i >= 0 {
				t.FailedAt, t.Reason = now, rejected[i].Reason
			}
			if err := trusts.Put(tx, t); err != nil {
				return err
			}
		}
		sent, current.NextTurn = len(ids), turn
		return rollovers.Put(tx, current)
	})
	return sent, err
}

// trustAnswered follows up the answer to a profile with roots.
func (s *Service) trustAnswered(tx storage.Tx, e mdm.Entry) error {
	if e.RequestType != "InstallProfile" || e.Identifier != s.trustIdentifier() {
		return nil
	}
	t, err := trusts.Get(tx, string(e.DeviceID))
	if errors.Is(err, storage.ErrNotFound) || err == nil && t.CommandUUID != e.UUID {
		return nil
	}
	if err != nil {
		return err
	}
	now := s.now().UTC()
	if e.State == mdm.Acknowledged {
		t.TrustedAt, t.FailedAt, t.Reason = now, time.Time{}, ""
		return trusts.Put(tx, t)
	}
	t.FailedAt, t.Reason = now, "the command ended as "+string(e.State)
	for _, link := range e.ErrorChain {
		if link.USEnglishDescription != "" {
			t.Reason = link.USEnglishDescription
			break
		}
	}
	return trusts.Put(tx, t)
}
