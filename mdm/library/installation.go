package library

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	Command   string       `json:"command"`           // UUID of what brought it here
	Reason    string       `json:"reason,omitempty"`  // a sentence for Failed and Drifted

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
		for i, err := range installations.LookupAfter(tx, installationsByProfile, id, afterDevice(cursor, id)) {
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
func (s *Service) Summary(ctx context.Context, id string) (sum Summary, err error) {
	err = s.DB.View(ctx, func(tx storage.Tx) error {
		sum = make(Summary)
		if _, err := profiles.Get(tx, id); err != nil {
			return err
		}
		for i, err := range installations.Lookup(tx, installationsByProfile, id) {
			if err != nil {
				return err
			}
			sum[i.State]++
		}
		return nil
	})
	return sum, err
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

// answered follows up the end of a command that brings or takes away a profile.
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
	case i.Command != e.UUID:
		if e.State != mdm.Acknowledged || i.State == Sent || i.State == Removing {
			return nil // overtaken by what was sent after it
		}
		i.Installed = 0
		i.to(Drifted, "Another command than the library’s has changed it.", e.FinishedAt)
		return installations.Put(tx, i)
	}
	switch {
	case e.RequestType == "InstallProfile" && e.State == mdm.Acknowledged:
		i.Installed, i.SeenAt = i.Version, e.FinishedAt
		i.to(Installed, "", e.FinishedAt)
		if err := s.carries(tx, i); err != nil {
			return err
		}
	case e.RequestType == "RemoveProfile" && e.State == mdm.Acknowledged:
		i.Installed, i.SeenAt = 0, e.FinishedAt
		i.to(Removed, "", e.FinishedAt)
		if err := s.People.Carries(tx, i.DeviceID, i.ProfileID, nil); err != nil {
			return err
		}
	case i.Installed == 0:
		i.to(Failed, outcome(e), e.FinishedAt)
	case e.RequestType == "RemoveProfile":
		i.to(Installed, "It could not be removed: "+outcome(e), e.FinishedAt)
	default: // an older version is still there
		i.to(Drifted, fmt.Sprintf("Version %d could not be installed, so version %d is still there: %s", i.Version, i.Installed, outcome(e)), e.FinishedAt)
	}
	return installations.Put(tx, i)
}

// carries says which certificates a version that was just installed brings.
func (s *Service) carries(tx storage.Tx, i Installation) error {
	v, err := versions.Get(tx, versionKey(i.ProfileID, i.Version))
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
	switch e.State {
	case mdm.Cancelled:
		return "The command was cancelled."
	case mdm.Expired:
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

// settle draws the conclusion from whether the profile is on the device, whose version is in
// i.Installed already. What is on its way is left to its answer.
func (i *Installation) settle(there bool, at time.Time) {
	switch i.State {
	case Sent, Removing:
	case Removed:
		if there {
			i.to(Drifted, "It was removed and is on the device again.", at)
		}
	case Failed:
		if there && i.Installed == i.Version {
			i.to(Installed, "", at)
		}
	case Installed, Drifted:
		switch {
		case !there:
			if i.State == Installed || i.Reason != reasonGone {
				i.to(Drifted, reasonGone, at)
			}
		case i.Installed == i.Version:
			if i.State == Drifted {
				i.to(Installed, "", at)
			}
		case i.Installed != 0 && i.State == Installed:
			i.to(Drifted, fmt.Sprintf("The device has version %d instead of %d.", i.Installed, i.Version), at)
		case i.State == Installed:
			i.to(Drifted, "The device has another profile of that identifier, which is not of the library.", at)
		}
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
		i.Installed = 0
		i.to(Removed, "It went with the enrollment.", s.Now())
		if err := installations.Put(tx, i); err != nil {
			return err
		}
	}
	return nil
}
