package compat

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// errAmbiguous means that one device says of itself as its UDID what another one says as its
// EnrollmentID: a command must not go to the wrong one of them.
var errAmbiguous = errors.New("two enrollments go by this id")

// appleIDs are the two that a name of these APIs may mean: the UDID, or EnrollmentID, of a
// device and, of a user channel, a colon and the UserID, as NanoMDM joins them (of a Shared
// iPad, the Managed Apple Account).
func appleIDs(name string) (ids []mdm.AppleID) {
	device, user, channel := strings.Cut(name, ":")
	if channel && user == "" {
		return nil
	}
	for _, id := range []mdm.AppleID{{UDID: device, UserID: user}, {EnrollmentID: device, UserID: user}} {
		if id.Validate() == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// nameOf is the reverse of appleIDs.
func nameOf(d mdm.Device) string {
	name := d.UDID
	if name == "" {
		name = d.EnrollmentID
	}
	if d.UserID != "" {
		name += ":" + d.UserID
	}
	return name
}

// readNamed is what [storage.Tx.Prefetch] takes for named.
func readNamed(names []string) (reads []storage.Read) {
	for _, name := range names {
		for _, id := range appleIDs(name) {
			reads = append(reads, mdm.ReadFindDevice(id))
		}
	}
	return reads
}

// named returns the enrollment that goes by a name. The error wraps storage.ErrNotFound or
// errAmbiguous.
func named(tx storage.Tx, name string) (found mdm.Device, err error) {
	for _, id := range appleIDs(name) {
		d, err := mdm.FindDevice(tx, id)
		switch {
		case errors.Is(err, storage.ErrNotFound):
		case err != nil:
			return mdm.Device{}, err
		case found.ID == "", !found.Live() && d.Live():
			found = d
		case found.Live() && d.Live():
			return mdm.Device{}, fmt.Errorf("enrollment %s: %w", clip(name), errAmbiguous)
		}
	}
	if found.ID == "" {
		return mdm.Device{}, fmt.Errorf("enrollment %s: %w", clip(name), storage.ErrNotFound)
	}
	return found, nil
}

// directory is who goes by the names of a request.
type directory struct {
	ids    []mdm.DeviceID            // each once
	byName map[string]mdm.DeviceID   //
	names  map[mdm.DeviceID][]string // each device may be there under several
	why    map[string]string         // a name stands for nobody
}

// lookUp finds who goes by names.
func lookUp(tx storage.Tx, names []string) (*directory, error) {
	d := &directory{byName: map[string]mdm.DeviceID{}, names: map[mdm.DeviceID][]string{}, why: map[string]string{}}
	tx.Prefetch(readNamed(names)...)
	for _, name := range names {
		if _, known := d.byName[name]; known || d.why[name] != "" {
			continue
		}
		device, err := named(tx, name)
		switch {
		case errors.Is(err, storage.ErrNotFound):
			d.why[name] = "No enrollment has this id."
			continue
		case errors.Is(err, errAmbiguous):
			d.why[name] = "Two enrollments go by this id."
			continue
		case err != nil:
			return nil, err
		}
		d.byName[name] = device.ID
		if len(d.names[device.ID]) == 0 {
			d.ids = append(d.ids, device.ID)
		}
		d.names[device.ID] = append(d.names[device.ID], name)
	}
	return d, nil
}
