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

	renewal bool // the server's own wish: it makes no batch
}

// Sending is what became of an Order.
type Sending struct {
	Batch    mdm.Batch // none of a renewal
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
		var queued []mdm.QueuedCommand
		if o.renewal {
			queued, err = s.queue(tx, o.By, commands)
		} else {
			name := fmt.Sprintf("%s, version %d", cmp.Or(p.DisplayName, p.Identifier), v.Number)
			out.Batch, queued, err = s.MDM.QueueBatch(tx, batch, name, o.By, commands)
		}
		if err != nil {
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

// queue queues commands that are no batch.
func (s *Service) queue(tx storage.Tx, by string, all []mdm.NewCommand) (queued []mdm.QueuedCommand, err error) {
	for _, c := range all {
		c.CreatedBy = by
		cmd, rejected, err := s.MDM.Queue(tx, c)
		if err != nil {
			return nil, err
		}
		queued = append(queued, mdm.QueuedCommand{Command: cmd, Rejected: rejected})
	}
	return queued, nil
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

// sent keeps that profiles are on their way, and that removals which the devices have not in
// hand are not.
func (s *Service) sent(tx storage.Tx, out Sending, by string) error {
	if len(out.Sent) == 0 {
		return nil
	}
	p, err := profiles.Get(tx, out.Version.ProfileID)
	if err != nil {
		return err
	}
	for _, to := range out.Sent {
		tx.Prefetch(installations.Read(installationKey(to.DeviceID, p.ID)))
	}
	now := s.Now().UTC()
	for _, to := range out.Sent {
		err := s.cancel(tx, to.DeviceID, func(e mdm.Entry) bool { return e.RequestType == "RemoveProfile" && e.Identifier == p.Identifier })
		if err != nil {
			return err
		}
		i, err := installations.Get(tx, installationKey(to.DeviceID, p.ID))
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		i.DeviceID, i.ProfileID, i.Unwanted = to.DeviceID, p.ID, false
		i.Version, i.Reduced, i.Command = out.Version.Number, to.Reduced, to.Command
		i.to(Sent, "", now)
		if err := installations.Put(tx, i); err != nil {
			return err
		}
	}
	details := map[string]string{"version": fmt.Sprint(out.Version.Number), "devices": fmt.Sprint(len(out.Sent))}
	if out.Batch.ID != "" {
		details["batch"] = out.Batch.ID
	}
	// The profile is written as it is, so that of sending and deleting it at once one begins anew.
	return errors.Join(profiles.Put(tx, p), s.record(tx, by, "profile.sent", p, one(out.Sent), details))
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

// written returns p with its dollar signs as the command is to have them: doubled where the
// profile is filled in for each device and has no variables by its owner's will, and single
// where they were doubled and nothing is filled in.
func (m *maker) written(p *profile.Profile, variables, certificates []string) (*profile.Profile, error) {
	switch {
	case m.v.Literal && len(certificates) > 0:
		return p.Literal()
	case m.v.Literal || len(variables)+len(certificates) > 0:
		return p, nil
	}
	return p.Expand(func(name string) (string, error) { return "", errors.New("is unknown") }, nil)
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
	p, err := m.written(p, variables, certificates)
	if err != nil {
		return nil, err
	}
	data, err := p.Encode()
	if err != nil {
		return nil, err
	}
	if len(variables) > 0 || len(certificates) > 0 { // it is signed once it is some device's own
		t, err := p.Template()
		if err != nil {
			return nil, err
		}
		made.personalize = func(tx storage.Tx, d mdm.Device) (mdm.Values, error) {
			w := Wanted{
				Profile: Profile{ID: m.v.ProfileID, Identifier: p.Identifier, Name: p.DisplayName},
				Command: made.uuid, By: m.by, Variables: variables, Certificates: certificates,
			}
			if err := m.s.fits(tx, d, t, w); err != nil {
				return mdm.Values{}, err
			}
			return m.s.People.Values(tx, d, w)
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
// rejected as "not_installed", those that have a removal in hand as "being_removed". The
// error wraps storage.ErrNotFound where there is no such profile.
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
			i, err := s.withdraw(tx, d, p)
			switch {
			case errors.Is(err, storage.ErrNotFound):
				no, err := s.without(tx, d)
				if err != nil {
					return err
				}
				out.Rejected = append(out.Rejected, no)
			case err != nil:
				return err
			case i.State == Removing:
				out.Rejected = append(out.Rejected, mdm.Rejection{DeviceID: d, Code: "being_removed", Reason: "The device has the removal of the profile in hand already."})
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
			i.Command, i.Unwanted = uuid, true
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
// nothing else is left to do, Removing where the device has a removal in hand. The error
// wraps storage.ErrNotFound where the device does not have the profile.
func (s *Service) withdraw(tx storage.Tx, d mdm.DeviceID, p Profile) (Installation, error) {
	key := installationKey(d, p.ID)
	i, err := installations.Get(tx, key)
	if err != nil {
		return i, err
	}
	was := i.State
	if was == Sent || was == Removing { // a removal that waits gives way to the new one
		err := s.cancel(tx, d, func(e mdm.Entry) bool { return e.UUID == i.Command })
		if err != nil {
			return i, err
		}
		if i, err = installations.Get(tx, key); err != nil {
			return i, err
		}
	}
	switch {
	case i.State == Sent || i.State == Removing: // in hand
		return i, nil
	case was == Sent && i.Installed == 0:
		i.Unwanted = true
		i.to(Removed, "It was taken back before the device fetched it.", s.Now())
		return i, errors.Join(installations.Put(tx, i), s.People.Carries(tx, d, p.ID, nil))
	case was == Removing || i.State.there() || i.Installed != 0:
		return i, nil
	}
	// What it was to bring is free for another profile, and not tried again.
	if err := s.People.Carries(tx, d, p.ID, nil); err != nil {
		return i, err
	}
	return i, fmt.Errorf("profile %s on %s: %w", p.ID, d, storage.ErrNotFound)
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
// new certificates. What waits to be fetched is not overtaken by an older version: where it
// brings no certificates it is left alone, and the device is rejected as "newer_version".
// There is no batch. The error wraps storage.ErrNotFound where the device is to have none.
func (s *Service) Resend(ctx context.Context, by, id string, device mdm.DeviceID) (Sending, error) {
	var (
		i       Installation
		v       Version
		waiting bool
	)
	err := s.DB.View(ctx, func(tx storage.Tx) (err error) {
		if i, err = installations.Get(tx, installationKey(device, id)); err != nil {
			return err
		}
		if i.State == Removed || i.State == Removing || i.Unwanted {
			return fmt.Errorf("profile %s on %s: %w", id, device, storage.ErrNotFound)
		}
		number := cmp.Or(i.Installed, i.Version)
		if waiting = i.State == Sent; waiting {
			number = i.Version
		}
		v, err = versions.Get(tx, versionKey(id, number))
		return err
	})
	if err != nil {
		return Sending{}, err
	}
	if waiting && len(v.Certificates) == 0 {
		return Sending{Version: v, Rejected: []mdm.Rejection{{
			DeviceID: device, Code: "newer_version", Reason: fmt.Sprintf("Version %d of the profile, which brings no certificate, is on its way to the device.", v.Number),
		}}}, nil
	}
	return s.Send(ctx, Order{
		Profile: id, Version: v.Number, Targets: Targets{Devices: []mdm.DeviceID{device}}, Reduce: i.Reduced, By: by, renewal: true,
	})
}
