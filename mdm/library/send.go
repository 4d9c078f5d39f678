package library

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Targets says which devices are meant.
type Targets struct {
	Devices []mdm.DeviceID // enrollments, by our IDs
}

// resolve returns the devices, each once.
func (t Targets) resolve(storage.Tx) ([]mdm.DeviceID, error) {
	seen := make(map[mdm.DeviceID]bool, len(t.Devices))
	ids := make([]mdm.DeviceID, 0, len(t.Devices))
	for _, id := range t.Devices {
		if !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// VariablesError says that a profile has variables that nobody knows: it is sent to nobody.
type VariablesError struct{ Findings []profile.Finding }

// Error names the first one.
func (e *VariablesError) Error() string {
	if len(e.Findings) == 0 {
		return "the profile has unknown variables"
	}
	return "the profile has unknown variables: " + e.Findings[0].Reason
}

// Order is a profile that is to be sent.
type Order struct {
	Profile string // its ID
	Version int    // 0: the latest
	Targets Targets
	// Reduce sends devices that would reject the profile the largest part of it that they
	// take, where there is one.
	Reduce    bool
	ExpiresIn time.Duration // 0: as of [mdm.NewCommand]
	Batch     string        // ID of the batch that it makes; empty: a new one
	RetryOf   string        // UUID of a command that came to nothing, if this is another try
	By        string
}

// Sending is what became of an Order.
type Sending struct {
	Batch    mdm.Batch
	Version  Version
	Sent     []SentTo
	Rejected []mdm.Rejection
}

// SentTo is a device that a profile is on its way to.
type SentTo struct {
	DeviceID mdm.DeviceID
	Command  string
	Reduced  bool
}

// Send queues the installation of a profile for those devices that may have it and do not
// lack a value that it needs; each other one is named with the reason. The error is a
// *VariablesError, or wraps storage.ErrNotFound where there is no such version.
func (s *Service) Send(ctx context.Context, o Order) (out Sending, err error) {
	v, p, err := s.Content(ctx, o.Profile, o.Version)
	if err != nil {
		return Sending{}, err
	}
	if !v.Literal {
		if _, problems := p.Variables(s.People.Known); len(problems) > 0 {
			return Sending{}, &VariablesError{problems}
		}
	}
	m := &maker{s: s, v: v, whole: p, reduce: o.Reduce, by: o.By}
	batch := cmp.Or(o.Batch, mdm.NewUUID())
	err = s.DB.Update(ctx, func(tx storage.Tx) error {
		out = Sending{Version: v}
		ids, err := o.Targets.resolve(tx)
		if err != nil {
			return err
		}
		groups, err := m.group(tx, ids)
		if err != nil {
			return err
		}
		commands := make([]mdm.NewCommand, len(groups))
		for i, g := range groups {
			commands[i] = mdm.NewCommand{
				UUID: g.uuid, RequestType: "InstallProfile", Identifier: p.Identifier, Plist: g.plist, Targets: g.ids,
				ExpiresIn: o.ExpiresIn, Origin: origin(v, g.reduced), RetryOf: o.RetryOf, Personalize: g.personalize,
			}
		}
		name := fmt.Sprintf("%s, version %d", p.DisplayName, v.Number)
		var queued []mdm.QueuedCommand
		if out.Batch, queued, err = s.MDM.QueueBatch(tx, batch, name, o.By, commands); err != nil {
			return err
		}
		for i, q := range queued {
			out.Rejected = append(out.Rejected, q.Rejected...)
			for _, id := range q.Command.Targets {
				out.Sent = append(out.Sent, SentTo{id, q.Command.UUID, groups[i].reduced})
			}
		}
		return s.sent(tx, out, o.By)
	})
	if err != nil {
		return Sending{}, fmt.Errorf("send profile %s: %w", o.Profile, err)
	}
	s.Log.InfoContext(ctx, "profile sent", "profile", o.Profile, "version", v.Number, "devices", len(out.Sent), "rejected", len(out.Rejected), "by", o.By)
	return out, nil
}

const reducedSuffix = "/reduced"

func origin(v Version, reduced bool) string {
	o := fmt.Sprintf("profile/%s/%d", v.ProfileID, v.Number)
	if reduced {
		o += reducedSuffix
	}
	return o
}

// OfProfile returns the profile and the version that a command's Origin names, of a removal
// version 0; ok is false where it was not made by this package.
func OfProfile(origin string) (id string, version int, ok bool) {
	rest, ok := strings.CutPrefix(strings.TrimSuffix(origin, reducedSuffix), "profile/")
	if !ok {
		return "", 0, false
	}
	id, number, ok := strings.Cut(rest, "/")
	if !ok {
		return "", 0, false
	}
	version, err := strconv.Atoi(number)
	return id, version, err == nil
}

// Reduced says that the command with an Origin brings a part of a profile only.
func Reduced(origin string) bool { return strings.HasSuffix(origin, reducedSuffix) }

// sent keeps that profiles are on their way.
func (s *Service) sent(tx storage.Tx, out Sending, by string) error {
	for _, to := range out.Sent {
		tx.Prefetch(installations.Read(installationKey(to.DeviceID, out.Version.ProfileID)))
	}
	now := s.Now().UTC()
	for _, to := range out.Sent {
		i, err := installations.Get(tx, installationKey(to.DeviceID, out.Version.ProfileID))
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		i.DeviceID, i.ProfileID = to.DeviceID, out.Version.ProfileID
		i.Version, i.Reduced, i.Command = out.Version.Number, to.Reduced, to.Command
		i.to(Sent, "", now)
		if err := installations.Put(tx, i); err != nil {
			return err
		}
	}
	if len(out.Sent) == 0 {
		return nil
	}
	p, err := profiles.Get(tx, out.Version.ProfileID)
	if err != nil {
		return err
	}
	return s.record(tx, by, "profile.sent", p, one(out.Sent), map[string]string{
		"version": fmt.Sprint(out.Version.Number), "devices": fmt.Sprint(len(out.Sent)), "batch": out.Batch.ID,
	})
}

// one returns the device, if there is but one.
func one(sent []SentTo) mdm.DeviceID {
	if len(sent) == 1 {
		return sent[0].DeviceID
	}
	return ""
}

// maker makes the commands that bring one version to many devices.
type maker struct {
	s      *Service
	v      Version
	whole  *profile.Profile
	reduce bool
	by     string

	made map[string]*making // by what is left of the profile; it holds over repeated transactions
}

// making is a command that brings the whole profile, or what is left of it.
type making struct {
	uuid        string
	plist       []byte
	reduced     bool
	personalize func(storage.Tx, mdm.Device) (mdm.Values, error)
}

// group is a making and whom it is for.
type group struct {
	*making
	ids []mdm.DeviceID
}

// group divides devices by what they are sent. Those that nothing helps stay with the whole
// profile: the queue has the reason.
func (m *maker) group(tx storage.Tx, ids []mdm.DeviceID) ([]*group, error) {
	whole, err := m.make("", m.whole)
	if err != nil {
		return nil, err
	}
	groups := []*group{{making: whole}}
	if !m.reduce {
		groups[0].ids = ids
		return groups, nil
	}
	for _, id := range ids {
		tx.Prefetch(mdm.ReadTarget(id))
	}
	found := make(map[string]*group) // by what decides
	byPart := map[string]*group{"": groups[0]}
	for _, id := range ids {
		target, _, err := mdm.TargetOf(tx, id)
		if errors.Is(err, storage.ErrNotFound) {
			groups[0].ids = append(groups[0].ids, id)
			continue
		}
		if err != nil {
			return nil, err
		}
		key := mdm.TargetKey(target)
		g, ok := found[key]
		if !ok {
			if g, err = m.groupFor(target, byPart); err != nil {
				return nil, err
			}
			found[key] = g
			if !slices.Contains(groups, g) {
				groups = append(groups, g)
			}
		}
		g.ids = append(g.ids, id)
	}
	return slices.DeleteFunc(groups, func(g *group) bool { return len(g.ids) == 0 }), nil
}

// groupFor returns the group of what a target is sent.
func (m *maker) groupFor(target command.Target, byPart map[string]*group) (*group, error) {
	if _, refused := m.whole.Check(target); !refused {
		return byPart[""], nil
	}
	part, removed := m.whole.Variant(target)
	if part == nil {
		return byPart[""], nil
	}
	var key strings.Builder
	for _, f := range removed {
		fmt.Fprintln(&key, f.Path())
	}
	if g, ok := byPart[key.String()]; ok {
		return g, nil
	}
	made, err := m.make(key.String(), part)
	if err != nil {
		return nil, err
	}
	g := &group{making: made}
	byPart[key.String()] = g
	return g, nil
}

// make returns the command that brings p, which is what is left of the profile by key.
func (m *maker) make(key string, p *profile.Profile) (*making, error) {
	if made, ok := m.made[key]; ok {
		return made, nil
	}
	made := &making{uuid: mdm.NewUUID(), reduced: key != ""}
	var variables []string
	if !m.v.Literal {
		variables, _ = p.Variables(m.s.People.Known)
	}
	certificates := p.Certificates()
	data, err := p.Encode()
	if err != nil {
		return nil, err
	}
	if len(variables) > 0 || len(certificates) > 0 { // it is signed once it is some device's own
		made.personalize = func(tx storage.Tx, d mdm.Device) (mdm.Values, error) {
			return m.s.People.Values(tx, d, Wanted{
				Profile: Profile{ID: m.v.ProfileID, Identifier: p.Identifier, Name: p.DisplayName},
				Command: made.uuid, By: m.by, Variables: variables, Certificates: certificates,
			})
		}
	} else if data, err = m.s.Sign(data); err != nil {
		return nil, fmt.Errorf("sign profile: %w", err)
	}
	if made.plist, err = command.Build("InstallProfile", map[string]any{"Payload": base64.StdEncoding.EncodeToString(data)}, made.uuid); err != nil {
		return nil, err
	}
	if m.made == nil {
		m.made = make(map[string]*making)
	}
	m.made[key] = made
	return made, nil
}

// Removal is what became of the wish to take a profile away from devices.
type Removal struct {
	Command  mdm.Command    // the RemoveProfile; without targets where nobody needs it
	Unsent   []mdm.DeviceID // those that had not fetched the profile yet: it is not sent any more
	Rejected []mdm.Rejection
}

// Remove queues the removal of a profile from devices. Those that do not have it are
// rejected as "not_installed". The error wraps storage.ErrNotFound where there is no such
// profile.
func (s *Service) Remove(ctx context.Context, by, id string, targets Targets) (Removal, error) {
	return s.RemoveAgain(ctx, by, id, targets, mdm.NewUUID(), "")
}

// RemoveAgain is Remove by a command with the given UUID, as another try of the one that
// retryOf names.
func (s *Service) RemoveAgain(ctx context.Context, by, id string, targets Targets, uuid, retryOf string) (out Removal, err error) {
	err = s.DB.Update(ctx, func(tx storage.Tx) error {
		out = Removal{}
		p, err := profiles.Get(tx, id)
		if err != nil {
			return err
		}
		ids, err := targets.resolve(tx)
		if err != nil {
			return err
		}
		plist, err := command.Build("RemoveProfile", map[string]any{"Identifier": p.Identifier}, uuid)
		if err != nil {
			return err
		}
		for _, d := range ids {
			tx.Prefetch(installations.Read(installationKey(d, id)), mdm.ReadQueue(d))
		}
		had := make(map[mdm.DeviceID]Installation, len(ids))
		var from []mdm.DeviceID
		for _, d := range ids {
			i, err := s.withdraw(tx, d, id)
			switch {
			case errors.Is(err, storage.ErrNotFound):
				no, err := s.without(tx, d)
				if err != nil {
					return err
				}
				out.Rejected = append(out.Rejected, no)
			case err != nil:
				return err
			case i.State == Removed:
				out.Unsent = append(out.Unsent, d)
			default:
				had[d] = i
				from = append(from, d)
			}
		}
		var no []mdm.Rejection
		out.Command, no, err = s.MDM.Queue(tx, mdm.NewCommand{
			UUID: uuid, RequestType: "RemoveProfile", Identifier: p.Identifier, Plist: plist, CreatedBy: by, Targets: from,
			Origin: origin(Version{ProfileID: id}, false), RetryOf: retryOf,
		})
		if err != nil {
			return err
		}
		out.Rejected = append(out.Rejected, no...)
		for _, d := range out.Command.Targets {
			i := had[d]
			i.Command = uuid
			i.to(Removing, "", s.Now())
			if err := installations.Put(tx, i); err != nil {
				return err
			}
		}
		if len(out.Command.Targets)+len(out.Unsent) == 0 {
			return nil
		}
		return s.record(tx, by, "profile.removed", p, "", map[string]string{"devices": fmt.Sprint(len(out.Command.Targets) + len(out.Unsent))})
	})
	if err != nil {
		return Removal{}, fmt.Errorf("remove profile %s: %w", id, err)
	}
	s.Log.InfoContext(ctx, "profile to be removed", "profile", id, "devices", len(out.Command.Targets), "unsent", len(out.Unsent), "rejected", len(out.Rejected), "by", by)
	return out, nil
}

// withdraw returns how a profile stands on a device once an installation that waits to be
// fetched has been cancelled, as it would come before the removal. It is Removed where
// nothing else is left to do. The error wraps storage.ErrNotFound where the device does not
// have the profile.
func (s *Service) withdraw(tx storage.Tx, d mdm.DeviceID, id string) (Installation, error) {
	i, err := installations.Get(tx, installationKey(d, id))
	if err != nil {
		return i, err
	}
	if i.State == Sent {
		state, pending, err := mdm.PendingState(tx, d, i.Command)
		if err != nil {
			return i, err
		}
		if pending && state != mdm.Delivered {
			if err := s.MDM.CancelCommand(tx, d, i.Command, mdm.Cancelled); err != nil {
				return i, err
			}
			if i.Installed == 0 {
				i.to(Removed, "It was taken back before the device fetched it.", s.Now())
				return i, errors.Join(installations.Put(tx, i), s.People.Carries(tx, d, id, nil))
			}
		}
	}
	if !i.State.there() && i.Installed == 0 {
		return i, fmt.Errorf("profile %s on %s: %w", id, d, storage.ErrNotFound)
	}
	return i, nil
}

// without is why a profile is not removed from a device that does not have it.
func (s *Service) without(tx storage.Tx, id mdm.DeviceID) (mdm.Rejection, error) {
	_, _, err := mdm.TargetOf(tx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return mdm.Rejection{DeviceID: id, Code: "not_found", Reason: "No device has this id."}, nil
	}
	return mdm.Rejection{DeviceID: id, Code: "not_installed", Reason: "The device does not have the profile."}, err
}

// Resend sends a device the profile that it has, or is to have, as it was sent last: with
// new certificates. The error wraps storage.ErrNotFound where it is to have none.
func (s *Service) Resend(ctx context.Context, by, id string, device mdm.DeviceID) (Sending, error) {
	var i Installation
	err := s.DB.View(ctx, func(tx storage.Tx) (err error) {
		if i, err = installations.Get(tx, installationKey(device, id)); err != nil {
			return err
		}
		if !i.State.there() || i.State == Removing {
			return fmt.Errorf("profile %s on %s: %w", id, device, storage.ErrNotFound)
		}
		return nil
	})
	if err != nil {
		return Sending{}, err
	}
	return s.Send(ctx, Order{
		Profile: id, Version: cmp.Or(i.Installed, i.Version), Targets: Targets{Devices: []mdm.DeviceID{device}}, Reduce: i.Reduced, By: by,
	})
}
