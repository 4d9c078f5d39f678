package enroll

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Names of the authorities, as [depot.Authority.Name] has them.
const (
	identityAuthority = "identity"
	rootAuthority     = "root"
	payloadAuthority  = "payload"
)

const (
	// DefaultPerHour is how many devices a rollover sends something to in an hour, if
	// nobody says otherwise: 10,000 devices in ten hours.
	DefaultPerHour = 1000
	// MaxPerHour is the most that can be asked for: what renewals start in an hour.
	MaxPerHour = renewalBatch * int(time.Hour/renewalTick)

	rolloverTick  = time.Minute
	rolloverCheck = 5 * time.Minute // once everybody has a turn
	rolloverPage  = 500             // devices that are looked at in one transaction
	rolloverBatch = 100             // devices that are given a turn in one transaction
)

// Rollover is the way of all devices from one authority to the next, a few at a time.
//
// Which devices have arrived is not kept: it follows from the certificates that they
// have. The identity CA and the issuer of payload certificates change at once, and
// after that each device is sent a new certificate. With the root, it is the other way
// round: each device is sent a profile with the old and the new root, and when all have
// acknowledged it the new one comes into force.
type Rollover struct {
	Authority string    `json:"authority"` // name
	To        string    `json:"to"`        // ID of the authority
	PerHour   int       `json:"per_hour"`
	StartedAt time.Time `json:"started_at"`
	StartedBy string    `json:"started_by"`

	NextTurn    time.Time `json:"next_turn"`             // of the next device that is found to need one
	CheckedAt   time.Time `json:"checked_at,omitzero"`   // when all devices were last looked at, and needed no turn
	ActivatedAt time.Time `json:"activated_at,omitzero"` // when To came into force
	Forced      bool      `json:"forced,omitempty"`      // before all devices were ready
	FinishedAt  time.Time `json:"finished_at,omitzero"`  // when no device was left
}

// rollovers has the latest one of each authority.
var rollovers = storage.NewCollection("enroll.rollover", 1, func(r Rollover) string { return r.Authority })

// ErrRolloverUnderWay means that an earlier rollover of the same authority is not
// finished.
var ErrRolloverUnderWay = errors.New("a rollover of this authority is under way")

// StartRollover is how a rollover is to be done.
type StartRollover struct {
	PerHour int // devices that are sent something in an hour; 0: DefaultPerHour

	// Force begins another one though an earlier one is under way. Of the root, it brings
	// the one that is under way to its end: devices that do not trust the new root yet
	// can't speak to this server any more. If the root that was waited for is gone, another
	// one takes its place.
	Force bool
}

// RollOver replaces an authority by the next one, which is made if none was imported or
// made before. Which devices are lost by that, if it was forced, is in lost. Errors are a
// *FieldError or wrap storage.ErrNotFound, [ErrRolloverUnderWay] or those of
// [depot.Depot.Activate].
func (s *Service) RollOver(ctx context.Context, name string, o StartRollover) (r Rollover, lost []Progress, err error) {
	if o.PerHour == 0 {
		o.PerHour = DefaultPerHour
	}
	if o.PerHour < 1 || o.PerHour > MaxPerHour {
		return Rollover{}, nil, &FieldError{"per_hour", fmt.Sprintf("must be from 1 to %d", MaxPerHour)}
	}
	if err := s.depot.Reload(ctx); err != nil {
		return Rollover{}, nil, err
	}
	if len(s.depot.Generations(name)) == 0 {
		return Rollover{}, nil, fmt.Errorf("authority %q: %w", name, storage.ErrNotFound)
	}
	prior, err := s.rollover(ctx, name)
	if err != nil {
		return Rollover{}, nil, err
	}
	switch {
	case prior == nil || !prior.FinishedAt.IsZero():
	case !o.Force:
		return Rollover{}, nil, ErrRolloverUnderWay
	case prior.ActivatedAt.IsZero() && s.depot.Authority(prior.To) != nil:
		return s.forceRollover(ctx, *prior)
	}
	// overtaken says whether another server has begun one since.
	overtaken := func(tx storage.Tx) error {
		now, err := rollovers.Get(tx, name)
		switch {
		case errors.Is(err, storage.ErrNotFound):
			return nil
		case err != nil:
			return err
		case now.FinishedAt.IsZero() && (prior == nil || !now.StartedAt.Equal(prior.StartedAt)):
			return ErrRolloverUnderWay
		}
		return nil
	}
	next := s.depot.Next(name)
	if next == nil {
		tell := s.tellAuthority(ctx, "ca.generated")
		next, err = s.depot.Generate(ctx, name, func(tx storage.Tx, a *depot.Authority) error {
			if err := overtaken(tx); err != nil {
				return err // what it put in force is no next one any more
			}
			return tell(tx, a)
		})
		if errors.Is(err, depot.ErrNextExists) {
			next, err = s.depot.Next(name), nil
		}
		if err != nil || next == nil {
			return Rollover{}, nil, fmt.Errorf("roll over: %w", err)
		}
	}
	wait := false
	if name == rootAuthority {
		if wait, err = s.mustTrust(ctx); err != nil {
			return Rollover{}, nil, err
		}
	}
	by, now := actor(ctx), s.now().UTC()
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		r = Rollover{Authority: name, To: next.ID(), PerHour: o.PerHour, StartedAt: now, StartedBy: by, NextTurn: now}
		if err := overtaken(tx); err != nil {
			return err
		}
		arrive := s.activate
		if wait {
			arrive = s.await
		}
		if err := arrive(tx, &r); err != nil {
			return err
		}
		if err := rollovers.Put(tx, r); err != nil {
			return err
		}
		return s.tellRollover(tx, r, "ca.rollover_started", by)
	})
	if err != nil {
		return Rollover{}, nil, fmt.Errorf("roll over %s authority: %w", name, err)
	}
	if err := s.depot.Reload(ctx); err != nil {
		return Rollover{}, nil, err
	}
	s.log.InfoContext(ctx, "rollover started", "authority", name, "to", r.To, "per_hour", r.PerHour, "by", by)
	return r, nil, nil
}

// rollover returns the latest rollover of an authority, nil if there was none.
func (s *Service) rollover(ctx context.Context, name string) (r *Rollover, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		found, err := rollovers.Get(tx, name)
		if r = &found; errors.Is(err, storage.ErrNotFound) {
			r = nil
			return nil
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find rollover: %w", err)
	}
	return r, nil
}

// activate puts the authority that r leads to in force.
func (s *Service) activate(tx storage.Tx, r *Rollover) error {
	r.ActivatedAt, r.CheckedAt = s.now().UTC(), time.Time{}
	return s.depot.Activate(tx, r.To)
}

// await makes r one that waits for devices: for as long as the authority is not given up.
func (s *Service) await(tx storage.Tx, r *Rollover) error { return s.depot.Await(tx, r.To) }

// forceRollover puts the authority of r in force, whether or not devices are ready.
func (s *Service) forceRollover(ctx context.Context, r Rollover) (_ Rollover, lost []Progress, err error) {
	err = s.eachStep(ctx, r, func(p step) error {
		if !p.ready() {
			lost = append(lost, p.Progress)
		}
		return nil
	})
	if err != nil {
		return Rollover{}, nil, fmt.Errorf("roll over: %w", err)
	}
	if r, err = s.comeIntoForce(ctx, r, true); err != nil {
		return Rollover{}, nil, fmt.Errorf("roll over: %w", err)
	}
	return r, lost, nil
}

// comeIntoForce activates the authority of a rollover that waited for devices.
func (s *Service) comeIntoForce(ctx context.Context, r Rollover, forced bool) (Rollover, error) {
	by := actor(ctx)
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		now, err := rollovers.Get(tx, r.Authority)
		if err != nil {
			return err
		}
		if now.To != r.To || !now.ActivatedAt.IsZero() {
			r = now
			return nil
		}
		r = now
		r.Forced = forced
		if err := s.activate(tx, &r); err != nil {
			return err
		}
		if err := rollovers.Put(tx, r); err != nil {
			return err
		}
		return s.tellRollover(tx, r, "ca.activated", by)
	})
	if err != nil {
		return Rollover{}, err
	}
	if err := s.depot.Reload(ctx); err != nil {
		return Rollover{}, err
	}
	s.log.InfoContext(ctx, "authority came into force", "authority", r.Authority, "id", r.To, "forced", forced)
	return r, nil
}

func (s *Service) tellRollover(tx storage.Tx, r Rollover, action, by string) error {
	details := map[string]string{"authority": r.Authority, "to": r.To, "per_hour": fmt.Sprint(r.PerHour)}
	if r.Forced {
		details["forced"] = "true"
	}
	return event.Record(tx, event.Event{At: s.now().UTC(), Actor: by, Action: action, Details: details})
}

// tellAuthority writes into the audit log what becomes of an authority.
func (s *Service) tellAuthority(ctx context.Context, action string) depot.Also {
	by := actor(ctx)
	return func(tx storage.Tx, a *depot.Authority) error {
		return event.Record(tx, event.Event{At: s.now().UTC(), Actor: by, Action: action, Details: map[string]string{
			"authority": a.Name(), "id": a.ID(), "subject": a.Certificate().Subject.String(),
		}})
	}
}

// ImportAuthority takes somebody else's authority over as the next one, as
// [depot.Depot.Import] does. On a server that nobody relies on yet, it comes into force
// at once, and with a root a new issuer below it.
func (s *Service) ImportAuthority(ctx context.Context, name string, in depot.Import) (*depot.Authority, error) {
	a, err := s.depot.Import(ctx, name, in, s.tellAuthority(ctx, "ca.imported"))
	if err != nil {
		return nil, err
	}
	s.log.InfoContext(ctx, "authority imported", "authority", name, "id", a.ID(), "subject", a.Certificate().Subject.String(), "by", actor(ctx))
	used, err := s.used(ctx)
	if err != nil || used {
		return a, err
	}
	if _, _, err := s.RollOver(ctx, name, StartRollover{Force: true}); err != nil {
		return nil, err
	}
	if s.depot.Root().ID() == a.ID() && !s.depot.Payload().Imported() {
		if _, _, err := s.RollOver(ctx, payloadAuthority, StartRollover{Force: true}); err != nil {
			return nil, err
		}
	}
	return s.depot.Authority(a.ID()), nil
}

// used says whether anybody relies on the authorities: a device, or who has a
// certificate beside this server itself.
func (s *Service) used(ctx context.Context) (used bool, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		used = false
		all, _, err := mdm.PageDevices(tx, "", 1)
		if err != nil || len(all) > 0 {
			used = true
			return err
		}
		for c, err := range s.depot.InForce(tx, "") {
			if err != nil {
				return err
			}
			if c.AttemptID != "" || c.User != "" || c.Door != "" || c.DeviceID != "" {
				used = true
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("look for certificates: %w", err)
	}
	return used, nil
}

// ContinueRollovers gives devices their turns, puts roots in force that all devices
// trust, and ends rollovers that no device is left of. It is what [Service.Run] does in
// its time.
func (s *Service) ContinueRollovers(ctx context.Context) error {
	var open []Rollover
	err := s.db.View(ctx, func(tx storage.Tx) error {
		open = nil
		for r, err := range rollovers.All(tx, storage.Range{}) {
			if err != nil {
				return err
			}
			if r.FinishedAt.IsZero() && s.now().Sub(r.CheckedAt) >= rolloverCheck {
				open = append(open, r)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("find rollovers: %w", err)
	}
	var failed error
	for _, r := range open {
		if err := s.continueRollover(ctx, r); err != nil {
			failed = errors.Join(failed, fmt.Errorf("rollover of %s authority: %w", r.Authority, err))
		}
	}
	return failed
}

func (s *Service) continueRollover(ctx context.Context, r Rollover) error {
	left, given, ready := 0, 0, true
	var batch []step
	give := func() error {
		n, err := s.giveTurns(ctx, r, batch)
		given += n
		batch = batch[:0]
		return err
	}
	err := s.eachStep(ctx, r, func(p step) error {
		if p.Stage != RolledOver {
			left++
			ready = ready && p.ready()
		}
		if !p.needsTurn {
			return nil
		}
		if batch = append(batch, p); len(batch) == rolloverBatch {
			return give()
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := give(); err != nil {
		return err
	}
	if r.ActivatedAt.IsZero() && ready {
		begun, err := s.begunBefore(ctx, r.StartedAt.Add(trustSure))
		if err != nil || begun {
			return err
		}
		_, err = s.comeIntoForce(ctx, r, false)
		return err
	}
	if given > 0 {
		return nil
	}
	return s.checked(ctx, r, left == 0 && !r.ActivatedAt.IsZero())
}

// checked notes that no device needs a turn now, or that none is left.
func (s *Service) checked(ctx context.Context, r Rollover, finished bool) error {
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		now, err := rollovers.Get(tx, r.Authority)
		if err != nil || !now.StartedAt.Equal(r.StartedAt) || !now.ActivatedAt.Equal(r.ActivatedAt) || !now.FinishedAt.IsZero() {
			return err
		}
		now.CheckedAt = s.now().UTC()
		if finished {
			now.FinishedAt = now.CheckedAt
			if err := s.tellRollover(tx, now, "ca.rollover_finished", ourselves); err != nil {
				return err
			}
		}
		return rollovers.Put(tx, now)
	})
	if err == nil && finished {
		s.log.InfoContext(ctx, "rollover finished", "authority", r.Authority, "to", r.To)
	}
	return err
}

// giveTurns gives each of these a turn: at a time of its own, so that so many have one
// in an hour. It returns how many it gave.
func (s *Service) giveTurns(ctx context.Context, r Rollover, to []step) (given int, err error) {
	if len(to) == 0 {
		return 0, nil
	}
	if r.Authority == rootAuthority {
		return s.sendTrust(ctx, r, to)
	}
	apart := time.Hour / time.Duration(r.PerHour)
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		given = 0
		now, err := rollovers.Get(tx, r.Authority)
		if err != nil || !now.StartedAt.Equal(r.StartedAt) {
			return err
		}
		turn := latest(now.NextTurn, s.now().UTC())
		for _, p := range to {
			did, err := s.giveTurn(tx, p, turn)
			if err != nil {
				return err
			}
			if did {
				turn = turn.Add(apart)
				given++
			}
		}
		now.NextTurn = turn
		return rollovers.Put(tx, now)
	})
	return given, err
}

// giveTurn makes the certificate of p due at a time, unless it is due before.
func (s *Service) giveTurn(tx storage.Tx, p step, at time.Time) (bool, error) {
	if p.Template != "" {
		return s.payloads.RenewBy(tx, p.Template, p.DeviceID, at)
	}
	d, err := mdm.GetDevice(tx, p.DeviceID)
	if errors.Is(err, storage.ErrNotFound) || err == nil && !d.Live() {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	c, err := s.depot.Get(tx, depot.Fingerprint(d.Identity))
	if errors.Is(err, storage.ErrNotFound) { // it is awaited from another server
		return false, nil
	}
	if err != nil || c.RenewAt.IsZero() || !at.Before(c.RenewAt) {
		return false, err
	}
	return true, s.depot.RenewBy(tx, c, at)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
