package enroll

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Errors of what people do with what is theirs. What is another's is
// storage.ErrNotFound, as if there were no such thing.
var (
	// ErrNotYourself means that the organisation ends the management of a device, and
	// not whoever uses it.
	ErrNotYourself = errors.New("the settings let only the organisation end the management of the device")

	// ErrEnded means that a device is not managed any more.
	ErrEnded = errors.New("the device is not managed any more")

	// ErrCantAsk means that a device can't be asked to remove its profile.
	ErrCantAsk = errors.New("the device can't be asked to remove management")
)

// Own is a device of a person, with what there is about it beside its record.
type Own struct {
	mdm.Overview
	Channels []mdm.Device // user channels
	Lost     *Lost        // nil: not reported lost
	Removal  *Removal     // nil: the device was not asked to remove its profile

	// MayRemove says that the person may end its management.
	MayRemove bool

	// Only from MyDevice:
	Attempt      *Attempt // that it enrolled by; nil once that is forgotten
	Certificates []depot.Certificate
	Events       []event.Event // the latest of this enrollment, newest first
	Commands     []mdm.Entry   // the latest of this enrollment, newest first
	Secrets      []mdm.SecretKind
}

// Removal is that a device was asked to remove its enrollment profile.
type Removal struct {
	DeviceID    mdm.DeviceID `json:"device_id"`
	AttemptID   string       `json:"attempt_id,omitempty"` // of the enrollment: another one was not asked
	CommandUUID string       `json:"command_uuid"`
	By          string       `json:"by"` // as the audit log calls who asked
	At          time.Time    `json:"at"`
	Problem     string       `json:"problem,omitempty"` // why the device did not
}

var removals = storage.NewCollection("enroll.removals", 1, func(r Removal) string { return string(r.DeviceID) })

// latestEvents returns the newest events that f wants, but those of commands, which have a
// list of their own and would fill this one.
func latestEvents(tx storage.Tx, f event.Filter) (latest []event.Event, err error) {
	const pages = 10 // of a device that is asked very much
	cursor := ""
	for range pages {
		list, next, err := event.Page(tx, f, cursor, 100)
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			if !strings.HasPrefix(e.Action, "command.") {
				latest = append(latest, e)
			}
			if len(latest) == myLatest {
				return latest, nil
			}
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	return latest, nil
}

// myLatest is how many events and how many commands MyDevice returns.
const myLatest = 20

// self returns the user that p is, as the transaction sees them.
func self(tx storage.Tx, p identity.Principal) (identity.User, error) {
	if p.Kind != identity.KindUser {
		return identity.User{}, fmt.Errorf("%w: nobody has signed in as a user", identity.ErrForbidden)
	}
	u, err := identity.UserByLogin(tx, p.User)
	if errors.Is(err, storage.ErrNotFound) || err == nil && (u.ID != p.ID || u.Disabled) {
		// Renamed or disabled since the request began: another one tells.
		return identity.User{}, fmt.Errorf("%w: the user has changed meanwhile", identity.ErrForbidden)
	}
	return u, err
}

// own returns the device with an id if it is u's.
func own(tx storage.Tx, u identity.User, id mdm.DeviceID) (mdm.Device, error) {
	if len(id) > maxNameLen {
		return mdm.Device{}, storage.ErrNotFound
	}
	d, err := mdm.GetDevice(tx, id)
	if err == nil && (d.ParentID != "" || !names(u.Logins(), d.User)) {
		err = storage.ErrNotFound
	}
	return d, err
}

// MyDevices returns the devices of p, those that are managed first, then the latest.
func (s *Service) MyDevices(ctx context.Context, p identity.Principal) (list []Own, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		list = nil
		u, err := self(tx, p)
		if err != nil {
			return err
		}
		settings, err := GetSettings(tx)
		if err != nil {
			return err
		}
		theirs, err := devicesOf(tx, u)
		if err != nil {
			return err
		}
		for _, d := range theirs {
			o, err := s.own(tx, u, d, settings)
			if err != nil {
				return err
			}
			list = append(list, o)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("devices of a user: %w", err)
	}
	slices.SortStableFunc(list, func(a, b Own) int {
		if a.Managed() != b.Managed() {
			return map[bool]int{true: -1, false: 1}[a.Managed()]
		}
		return b.since().Compare(a.since())
	})
	return list, nil
}

// devicesOf returns the devices of u, by whichever login they are known, without user channels.
func devicesOf(tx storage.Tx, u identity.User) (theirs []mdm.Device, err error) {
	for _, login := range u.Logins() {
		for d, err := range mdm.DevicesOfUser(tx, login) {
			if err != nil {
				return nil, err
			}
			if d.ParentID == "" {
				theirs = append(theirs, d)
			}
		}
	}
	return theirs, nil
}

// Managed says that the device is managed, or about to be.
func (o Own) Managed() bool { return managed(o.Device) }

func managed(d mdm.Device) bool { return d.State == mdm.Enrolled || d.State == mdm.Pending }

// since is when the device last began or ended to be managed.
func (o Own) since() time.Time {
	return latest(latest(o.AuthenticatedAt, o.EnrolledAt), o.UnenrolledAt)
}

// own returns what there is about d, a device of u.
func (s *Service) own(tx storage.Tx, u identity.User, d mdm.Device, settings Settings) (o Own, err error) {
	tx.Prefetch(mdm.ReadLastSeen(d.ID), lost.Read(string(d.ID)), removals.Read(string(d.ID)))
	o.Device = d
	if o.LastSeenAt, err = s.mdm.LastSeen(tx, d.ID); err != nil {
		return Own{}, err
	}
	if o.PendingCommands, err = mdm.CountPending(tx, d.ID); err != nil {
		return Own{}, err
	}
	all, err := mdm.WithUserChannels(tx, d)
	if err != nil {
		return Own{}, err
	}
	o.Channels = all[1:]
	if o.Lost, err = maybe(lost.Get(tx, string(d.ID))); err != nil {
		return Own{}, err
	}
	if o.Removal, err = maybe(removals.Get(tx, string(d.ID))); err != nil {
		return Own{}, err
	}
	if o.Lost != nil && o.Lost.UserID != u.ID {
		o.Lost.Note = "" // what somebody else wrote who had the device
	}
	if r := o.Removal; r != nil {
		_, waits, err := mdm.PendingState(tx, d.ID, r.CommandUUID)
		if err != nil {
			return Own{}, err
		}
		// One that is neither pending nor failed was withdrawn, or has expired.
		if !managed(d) || r.AttemptID != d.AttemptID || !waits && r.Problem == "" {
			o.Removal = nil
		}
	}
	o.MayRemove = managed(d) && settings.SelfRemoval.Allows(d.Ownership)
	return o, nil
}

// maybe returns a record, or nil if there is none.
func maybe[T any](record T, err error) (*T, error) {
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &record, nil
}

// MyDevice returns a device of p with all that is kept about it.
func (s *Service) MyDevice(ctx context.Context, p identity.Principal, id mdm.DeviceID) (o Own, err error) {
	var u identity.User
	err = s.db.View(ctx, func(tx storage.Tx) error {
		o = Own{}
		if u, err = self(tx, p); err != nil {
			return err
		}
		d, err := own(tx, u, id)
		if err != nil {
			return err
		}
		settings, err := GetSettings(tx)
		if err != nil {
			return err
		}
		if o, err = s.own(tx, u, d, settings); err != nil {
			return err
		}
		if o.Attempt, err = maybe(attempts.Get(tx, d.AttemptID)); err != nil {
			return err
		}
		if o.Certificates, err = s.certificatesOf(tx, u, d); err != nil {
			return err
		}
		for _, kind := range []mdm.SecretKind{mdm.UnlockToken, mdm.BootstrapToken} {
			secret, err := s.mdm.Secret(tx, id, kind)
			if err != nil {
				return err
			}
			if secret != nil {
				o.Secrets = append(o.Secrets, kind)
			}
		}
		// What was before this enrollment may have been another person's affair.
		o.Events, err = latestEvents(tx, event.Filter{DeviceID: string(id), Since: d.AuthenticatedAt})
		return err
	})
	if err != nil {
		return Own{}, fmt.Errorf("device of a user: %w", err)
	}
	commands, _, err := s.mdm.DeviceCommands(ctx, id, "", myLatest)
	if err != nil {
		return Own{}, fmt.Errorf("device of a user: %w", err)
	}
	full, err := s.mdm.Device(ctx, id)
	if err == nil && (full.AttemptID != o.AttemptID || !names(u.Logins(), full.User)) {
		err = storage.ErrNotFound // it has changed hands this very moment
	}
	if err != nil {
		return Own{}, fmt.Errorf("device of a user: %w", err)
	}
	o.Attributes = full.Attributes
	for _, c := range commands {
		if !c.CreatedAt.Before(o.AuthenticatedAt) {
			o.Commands = append(o.Commands, c)
		}
	}
	return o, nil
}

// removable returns a device of p whose management p may end.
func (s *Service) removable(tx storage.Tx, p identity.Principal, id mdm.DeviceID) (mdm.Device, error) {
	u, err := self(tx, p)
	if err != nil {
		return mdm.Device{}, err
	}
	d, err := own(tx, u, id)
	if err != nil {
		return mdm.Device{}, err
	}
	settings, err := GetSettings(tx)
	switch {
	case err != nil:
		return mdm.Device{}, err
	case !managed(d):
		return mdm.Device{}, ErrEnded
	case !settings.SelfRemoval.Allows(d.Ownership):
		return mdm.Device{}, ErrNotYourself
	}
	return d, nil
}

// RemoveMine asks a device of p to remove its enrollment profile, and with that all that
// it was sent. The enrollment ends when the device says that it has, or checks out: until
// then it must be heard. Its errors wrap storage.ErrNotFound, ErrNotYourself, ErrEnded or
// ErrCantAsk. A device that was asked, and may still answer, is not asked once more.
func (s *Service) RemoveMine(ctx context.Context, p identity.Principal, id mdm.DeviceID) error {
	uuid := mdm.NewUUID()
	under := false
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		under = false
		d, err := s.removable(tx, p, id)
		if err != nil {
			return err
		}
		if under, err = removing(tx, d); err != nil || under {
			return err
		}
		profile, err := s.formerProfile(tx, id)
		if err != nil {
			return err
		}
		if profile.Identifier == "" {
			return fmt.Errorf("%w: %w", ErrCantAsk, ErrProfileUnknown)
		}
		plist, err := command.Build("RemoveProfile", map[string]any{"Identifier": profile.Identifier}, uuid)
		if err != nil {
			return err
		}
		// Identifier lets it take the place of one that the device does not have yet.
		_, rejected, err := s.mdm.Queue(tx, mdm.NewCommand{
			UUID: uuid, RequestType: "RemoveProfile", Identifier: profile.Identifier, Plist: plist,
			CreatedBy: p.String(), Targets: []mdm.DeviceID{id},
		})
		if err != nil {
			return err
		}
		if len(rejected) > 0 {
			return fmt.Errorf("%w: %s", ErrCantAsk, rejected[0].Reason)
		}
		now := s.now().UTC()
		if err := removals.Put(tx, Removal{DeviceID: id, AttemptID: d.AttemptID, CommandUUID: uuid, By: p.String(), At: now}); err != nil {
			return err
		}
		return event.Record(tx, event.Event{
			At: now, Actor: p.String(), Action: "device.removal_requested", DeviceID: string(id), User: d.User, Peer: p.Peer,
		})
	})
	if err != nil {
		return fmt.Errorf("remove management: %w", err)
	}
	if under {
		return nil
	}
	s.log.InfoContext(ctx, "device asked to remove management", "device", id, "command", uuid, "by", p.String())
	return nil
}

// removing says that a device was asked to remove its profile, and may still answer.
func removing(tx storage.Tx, d mdm.Device) (bool, error) {
	r, err := maybe(removals.Get(tx, string(d.ID)))
	if err != nil || r == nil || r.AttemptID != d.AttemptID || r.Problem != "" {
		return false, err
	}
	_, waits, err := mdm.PendingState(tx, d.ID, r.CommandUUID)
	return waits, err
}

// EndMine ends the enrollment of a device of p at once, also if the device can't be
// reached: it is not trusted any more, and told so when it calls. Its errors wrap
// storage.ErrNotFound, ErrNotYourself or ErrEnded.
func (s *Service) EndMine(ctx context.Context, p identity.Principal, id mdm.DeviceID) error {
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		d, err := s.removable(tx, p, id)
		if err != nil {
			return err
		}
		return s.end(tx, d, mdm.Unenrolled, p.String(), leftByUser)
	})
	if err != nil {
		return fmt.Errorf("end management: %w", err)
	}
	s.log.InfoContext(ctx, "enrollment ended", "device", id, "state", mdm.Unenrolled, "by", p.String())
	return nil
}

// removalAnswered ends the enrollment of a device that has removed its profile, as it was
// asked to, or notes why it did not. It may have been asked more than once: whichever it
// obeys, the profile is gone.
func (s *Service) removalAnswered(tx storage.Tx, d mdm.Device, e mdm.Entry) error {
	if e.RequestType != "RemoveProfile" {
		return nil
	}
	r, err := maybe(removals.Get(tx, string(d.ID)))
	if err != nil || r == nil {
		return err
	}
	profile, err := s.formerProfile(tx, d.ID)
	if err != nil {
		return err
	}
	switch last := r.CommandUUID == e.UUID; {
	case e.State == mdm.Acknowledged && (last || e.Identifier == profile.Identifier):
		if d, err = mdm.GetDevice(tx, d.ID); err != nil || !managed(d) {
			return err
		}
		return s.end(tx, d, mdm.Unenrolled, r.By, leftByUser)
	case e.State == mdm.Acknowledged || !last:
		return nil
	}
	r.Problem = string(e.State)
	if len(e.ErrorChain) > 0 {
		first := e.ErrorChain[0]
		r.Problem = cmp.Or(first.LocalizedDescription, first.USEnglishDescription, r.Problem)
	}
	return removals.Put(tx, *r)
}
