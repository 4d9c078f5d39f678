package library

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// State is how a profile of the library stands on a device.
type State string

// The states.
const (
	Sent      State = "sent"      // on its way
	Installed State = "installed" // the device said so
	Failed    State = "failed"    // the device refused it, or it was never fetched
	Removing  State = "removing"  // its removal is on its way
	Removed   State = "removed"   // taken away, or gone with the enrollment
	Drifted   State = "drifted"   // the device has something else than what was last agreed on
)

// Valid says that there is such a state.
func (s State) Valid() bool {
	switch s {
	case Sent, Installed, Failed, Removing, Removed, Drifted:
		return true
	}
	return false
}

// there says that the profile is, or may be, on the device.
func (s State) there() bool { return s != Failed && s != Removed }

// Installation is one profile on one device.
type Installation struct {
	DeviceID  mdm.DeviceID `json:"device_id"`
	ProfileID string       `json:"profile_id"`
	State     State        `json:"state"`
	At        time.Time    `json:"at"`                // of State
	Version   int          `json:"version"`           // that was sent last
	Reduced   bool         `json:"reduced,omitempty"` // without what the device may not have
	Command   string       `json:"command"`           // UUID of what was sent last, to bring it or to take it away
	Reason    string       `json:"reason,omitempty"`  // a sentence for Failed and Drifted
	// Unwanted is whether what was agreed on last is that the device does not have it, rather
	// than that it has Version.
	Unwanted bool `json:"unwanted,omitempty"`

	// Installed is the number of the version that the device has, as far as we know; 0: none,
	// or one that is not of the library.
	Installed int `json:"installed,omitempty"`
	// SeenAt is when the device last told that it has, or has not, the profile.
	SeenAt time.Time `json:"seen_at,omitzero"`
}

const (
	installationsByProfile = "profile"
)

var installations = storage.NewCollection("profile_installations", 1,
	func(i Installation) string { return installationKey(i.DeviceID, i.ProfileID) },
	storage.Index[Installation]{Name: installationsByProfile, Values: func(i Installation) []string { return []string{i.ProfileID} }},
)

func installationKey(id mdm.DeviceID, profile string) string {
	return string(storage.Key(string(id), profile))
}

// Installations returns a page of how a profile stands on devices, by their IDs, and the
// cursor of the next page, empty at the end. The error wraps storage.ErrNotFound where there
// is no such profile.
func (s *Service) Installations(ctx context.Context, id string, states []State, cursor string, limit int) (page []Installation, next string, err error) {
	err = s.DB.View(ctx, func(tx storage.Tx) error {
		page, next = nil, ""
		if _, err := profiles.Get(tx, id); err != nil {
			return err
		}
		for i, err := range storage.LookupAfter(tx, installations, installationsByProfile, id, afterDevice(cursor, id)) {
			if err != nil {
				return err
			}
			if !among(i.State, states) {
				continue
			}
			if len(page) == limit {
				next = string(page[limit-1].DeviceID)
				return nil
			}
			page = append(page, i)
		}
		return nil
	})
	return page, next, err
}

// afterDevice is the key of the installation after which a page begins, empty for the first.
func afterDevice(cursor, profile string) string {
	if cursor == "" {
		return ""
	}
	return installationKey(mdm.DeviceID(cursor), profile)
}

func among(s State, states []State) bool {
	for _, one := range states {
		if one == s {
			return true
		}
	}
	return len(states) == 0
}

// Summary counts how a profile stands on devices.
type Summary map[State]int

// Summary counts how a profile stands on devices. The error wraps storage.ErrNotFound where
// there is no such profile.
func (s *Service) Summary(ctx context.Context, id string) (Summary, error) {
	sum, _, err := s.SummaryUpTo(ctx, id, math.MaxInt)
	return sum, err
}

// SummaryUpTo is Summary of the first devices, no more than most; more says that there are
// others.
func (s *Service) SummaryUpTo(ctx context.Context, id string, most int) (sum Summary, more bool, err error) {
	err = s.DB.View(ctx, func(tx storage.Tx) error {
		sum, more = make(Summary), false
		if _, err := profiles.Get(tx, id); err != nil {
			return err
		}
		n := 0
		for i, err := range installations.Lookup(tx, installationsByProfile, id) {
			if err != nil {
				return err
			}
			if n == most {
				more = true
				return nil
			}
			sum[i.State]++
			n++
		}
		return nil
	})
	return sum, more, err
}

// readAtOnce is how many devices are asked for together.
const readAtOnce = 500

// On returns how profiles stand on devices, in the order of the devices. A profile that was never sent to
// one is left out there.
func (s *Service) On(ctx context.Context, devices []mdm.DeviceID, profiles ...string) (all []Installation, err error) {
	err = s.DB.View(ctx, func(tx storage.Tx) error {
		all = nil
		for part := range slices.Chunk(devices, readAtOnce) {
			var keys []string
			for _, device := range part {
				for _, profile := range profiles {
					keys = append(keys, installationKey(device, profile))
				}
			}
			for _, key := range keys {
				tx.Prefetch(installations.Read(key))
			}
			for _, key := range keys {
				i, err := installations.Get(tx, key)
				if errors.Is(err, storage.ErrNotFound) {
					continue
				}
				if err != nil {
					return err
				}
				all = append(all, i)
			}
		}
		return nil
	})
	return all, err
}

// OnDevice is a profile with how it stands on a device.
type OnDevice struct {
	Profile
	Installation Installation
}

// OnDevice returns the profiles of the library that a device has, had, or is to have.
func (s *Service) OnDevice(ctx context.Context, id mdm.DeviceID) (all []OnDevice, err error) {
	err = s.DB.View(ctx, func(tx storage.Tx) error {
		all = nil
		if _, err := mdm.GetDevice(tx, id); err != nil {
			return err
		}
		for i, err := range installations.All(tx, storage.Range{Prefix: storage.KeyPrefix(string(id))}) {
			if err != nil {
				return err
			}
			p, err := profiles.Get(tx, i.ProfileID)
			if errors.Is(err, storage.ErrNotFound) {
				continue // deleted while it was sent
			}
			if err != nil {
				return err
			}
			all = append(all, OnDevice{p, i})
		}
		return nil
	})
	return all, err
}

// observe learns from a device's answers.
func (s *Service) observe(tx storage.Tx, e mdm.Entry) error {
	switch e.RequestType {
	case "InstallProfile", "RemoveProfile":
		return s.answered(tx, e)
	case "ProfileList":
		if e.State == mdm.Acknowledged {
			return s.reconcile(tx, e)
		}
	}
	return nil
}

// answered follows up the end of a command that brings or takes away a profile. Commands may
// end in another order than they were sent in: each says what is on the device, but only
// once nothing is on its way any more is that held against what was agreed.
func (s *Service) answered(tx storage.Tx, e mdm.Entry) error {
	if e.Identifier == "" {
		return nil
	}
	p, err := profiles.One(tx, profilesByIdentifier, e.Identifier)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	i, err := installations.Get(tx, installationKey(e.DeviceID, p.ID))
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil // somebody's own command; ProfileList will tell
	case err != nil:
		return err
	case e.State != mdm.Acknowledged && i.Command != e.UUID:
		return nil // overtaken by what was sent after it
	case e.State != mdm.Acknowledged:
		return s.failed(tx, p, i, e)
	}
	there := e.RequestType == "InstallProfile"
	_, _, ours := OfProfile(e.Origin)
	i.Installed, i.SeenAt = bringsOf(e, p), e.FinishedAt
	switch {
	case i.Command == e.UUID:
		if err := s.outdated(tx, e); err != nil {
			return err
		}
		i.Installed, i.Unwanted = i.Version, false
		i.to(Installed, "", e.FinishedAt)
		if !there {
			i.Installed, i.Unwanted = 0, true
			i.to(Removed, "", e.FinishedAt)
		}
	case i.State == Sent || i.State == Removing:
		return installations.Put(tx, i)
	case !ours:
		i.to(Drifted, "Another command than the library’s has changed it.", e.FinishedAt)
		return installations.Put(tx, i)
	default:
		i.settle(there, e.FinishedAt)
	}
	return errors.Join(s.carries(tx, i), installations.Put(tx, i))
}

// bringsOf returns the number of the version of a profile that a command brings; 0 of one
// that takes it away, or that is not the library's.
func bringsOf(e mdm.Entry, p Profile) int {
	if id, number, ok := OfProfile(e.Origin); ok && id == p.ID {
		return number
	}
	return 0
}

// outdated cancels what e, which came after it, has made pointless: a removal that the device
// put off would undo the installation that was asked for later, and the other way round.
func (s *Service) outdated(tx storage.Tx, e mdm.Entry) error {
	return s.cancel(tx, e.DeviceID, func(other mdm.Entry) bool {
		return other.Seq < e.Seq && other.Identifier == e.Identifier && (other.RequestType == "InstallProfile" || other.RequestType == "RemoveProfile")
	})
}

// cancel ends those commands of a device that it does not have in hand and which says yes to.
func (s *Service) cancel(tx storage.Tx, id mdm.DeviceID, which func(mdm.Entry) bool) error {
	var uuids []string
	for e, err := range mdm.Unfinished(tx, id) {
		if err != nil {
			return err
		}
		if e.State != mdm.Delivered && which(e) {
			uuids = append(uuids, e.UUID)
		}
	}
	for _, uuid := range uuids {
		if err := s.MDM.CancelCommand(tx, id, uuid, mdm.Cancelled); err != nil {
			return err
		}
	}
	return nil
}

// failed follows up that what was sent last has come to nothing.
func (s *Service) failed(tx storage.Tx, p Profile, i Installation, e mdm.Entry) error {
	before, err := inHand(tx, p, e)
	if err != nil {
		return err
	}
	why := outcome(e)
	removal := e.RequestType == "RemoveProfile"
	if removal {
		i.Unwanted = false
		why = "It could not be removed: " + why
	}
	switch {
	case before != nil: // its answer decides
		i.Command = before.UUID
		if before.RequestType == "InstallProfile" {
			i.Version, i.Reduced = bringsOf(*before, p), Reduced(before.Origin)
			i.to(Sent, "", e.FinishedAt)
		} else {
			i.Unwanted = true
			i.to(Removing, "", e.FinishedAt)
		}
	case i.Installed == 0:
		i.to(Failed, why, e.FinishedAt)
	case i.Installed == i.Version && removal:
		i.to(Installed, why, e.FinishedAt)
	case i.Installed == i.Version:
		i.to(Installed, "It could not be installed again: "+why, e.FinishedAt)
	case removal:
		i.to(Drifted, why, e.FinishedAt)
	default: // an older version is still there
		i.to(Drifted, fmt.Sprintf("Version %d could not be installed, so version %d is still there: %s", i.Version, i.Installed, why), e.FinishedAt)
	}
	return installations.Put(tx, i)
}

// inHand returns the newest of the library's other commands about a profile that e's device
// has in hand; nil if there is none.
func inHand(tx storage.Tx, p Profile, e mdm.Entry) (found *mdm.Entry, err error) {
	for other, err := range mdm.Unfinished(tx, e.DeviceID) {
		if err != nil {
			return nil, err
		}
		if id, _, ok := OfProfile(other.Origin); ok && id == p.ID && other.UUID != e.UUID && other.State == mdm.Delivered {
			found = &other
		}
	}
	return found, nil
}

// carries says which certificates the version that a device has brings.
func (s *Service) carries(tx storage.Tx, i Installation) error {
	if i.Installed == 0 {
		return s.People.Carries(tx, i.DeviceID, i.ProfileID, nil)
	}
	v, err := versions.Get(tx, versionKey(i.ProfileID, i.Installed))
	if err != nil {
		return err
	}
	return s.People.Carries(tx, i.DeviceID, i.ProfileID, v.Certificates)
}

// to moves i to a state.
func (i *Installation) to(state State, reason string, at time.Time) {
	i.State, i.Reason, i.At = state, reason, at.UTC()
}

// outcome says in a sentence why a command came to nothing.
func outcome(e mdm.Entry) string {
	switch {
	case e.State == mdm.Cancelled:
		return "The command was cancelled."
	case e.State == mdm.Expired && e.NotNowCount > 0:
		return "The device put it off until its time was up."
	case e.State == mdm.Expired && !e.DeliveredAt.IsZero():
		return "The device fetched it, and did not say in time what became of it."
	case e.State == mdm.Expired:
		return "The device did not fetch it in time."
	}
	return command.Sentence(e.RequestType, e.ErrorChain)
}

// listed is what a ProfileList says of one profile.
type listed struct {
	PayloadIdentifier string
	PayloadUUID       string
}

// reconcile holds what we know of a device's profiles against what it says of them.
func (s *Service) reconcile(tx storage.Tx, e mdm.Entry) error {
	var answer struct{ ProfileList *[]listed }
	if err := json.Unmarshal(e.Result, &answer); err != nil || answer.ProfileList == nil {
		return nil // an answer that can't be understood teaches nothing
	}
	uuids := make(map[string]string, len(*answer.ProfileList))
	for _, l := range *answer.ProfileList {
		uuids[l.PayloadIdentifier] = l.PayloadUUID
	}
	var known []Installation
	for i, err := range installations.All(tx, storage.Range{Prefix: storage.KeyPrefix(string(e.DeviceID))}) {
		if err != nil {
			return err
		}
		known = append(known, i)
	}
	for _, i := range known {
		p, err := profiles.Get(tx, i.ProfileID)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		before := i
		uuid, there := uuids[p.Identifier]
		if i.Installed, err = s.versionOf(tx, p, i.Version, uuid); err != nil {
			return err
		}
		i.SeenAt = e.FinishedAt.UTC()
		i.settle(there, e.FinishedAt)
		before.SeenAt = i.SeenAt
		if i.State == Installed && before.State == Drifted || i.State == Drifted && before.State != Drifted {
			err = s.record(tx, "device", "profile."+string(i.State), p, i.DeviceID, map[string]string{"reason": i.Reason})
		}
		if err := errors.Join(err, installations.Put(tx, i)); err != nil {
			return err
		}
	}
	return nil
}

// settle holds whether the profile is on the device, whose version is in i.Installed already,
// against what was agreed. What is on its way is left to its answer.
func (i *Installation) settle(there bool, at time.Time) {
	if i.State == Removed {
		i.Unwanted = true // records from before this was kept
	}
	state, reason := i.State, ""
	switch {
	case state == Sent || state == Removing:
		return
	case i.Unwanted && there:
		state, reason = Drifted, "It was removed and is on the device again."
	case i.Unwanted:
		state = Removed
	case there && i.Installed == i.Version:
		state = Installed
	case state == Failed && i.Installed == 0:
		return
	case !there:
		state, reason = Drifted, reasonGone
	case i.Installed != 0:
		state, reason = Drifted, fmt.Sprintf("The device has version %d instead of %d.", i.Installed, i.Version)
	default:
		state, reason = Drifted, "The device has another profile of that identifier, which is not of the library."
	}
	// A state that stays keeps its reason, which may say more: what was tried. Only coming and
	// going is news.
	news := reason != i.Reason && (reason == reasonGone || i.Reason == reasonGone)
	if state != i.State || state == Drifted && news {
		i.to(state, reason, at)
	}
}

const reasonGone = "It is not on the device any more: somebody removed it there, or another server did."

// versionOf returns the number of the version whose UUID a device tells, 0 if there is none.
// likely is tried first.
func (s *Service) versionOf(tx storage.Tx, p Profile, likely int, uuid string) (int, error) {
	if uuid == "" {
		return 0, nil
	}
	v, err := versions.Get(tx, versionKey(p.ID, cmp.Or(likely, p.Latest)))
	if err == nil && v.UUID == uuid {
		return v.Number, nil
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return 0, err
	}
	for v, err := range versions.All(tx, storage.Range{Prefix: storage.KeyPrefix(p.ID), Reverse: true}) {
		if err != nil {
			return 0, err
		}
		if v.UUID == uuid {
			return v.Number, nil
		}
	}
	return 0, nil
}

// Gone follows up the end of an enrollment, or its beginning anew, by which a device loses
// every profile that this server has brought it.
func (s *Service) Gone(tx storage.Tx, id mdm.DeviceID) error {
	var all []Installation
	for i, err := range installations.All(tx, storage.Range{Prefix: storage.KeyPrefix(string(id))}) {
		if err != nil {
			return err
		}
		all = append(all, i)
	}
	for _, i := range all {
		if i.State == Removed {
			continue
		}
		i.Installed, i.Unwanted = 0, true
		i.to(Removed, "It went with the enrollment.", s.Now())
		if err := installations.Put(tx, i); err != nil {
			return err
		}
	}
	return nil
}

// forget deletes what became of profiles on a device. It is an [mdm.Deletion].
func (s *Service) forget(tx storage.Tx, id mdm.DeviceID) error {
	var on []string
	for i, err := range installations.All(tx, storage.Range{Prefix: storage.KeyPrefix(string(id))}) {
		if err != nil {
			return err
		}
		on = append(on, i.ProfileID)
	}
	for _, p := range on {
		if err := installations.Delete(tx, installationKey(id, p)); err != nil {
			return err
		}
	}
	return nil
}
