package apiv1

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// reach says how a route is about devices, which decides what is left of it for who is limited
// to groups of devices. Each route has one; one without is for nobody who is limited.
type reach int

const (
	undecided     reach = iota
	ofDevice            // it is about the device {id}, and is not there for who is limited to others
	ofDeviceID          // likewise of the device {device_id}
	ofCertificate       // likewise of the device that has the certificate {serial}
	ofAttempt           // likewise of the device that the attempt {id} has brought
	filtered            // its handler leaves out what is about other devices, or about none
	shared              // it is the same for everybody, and says nothing of any device or person
	whole               // it is about the whole server
)

// open reports whether anything is left of a route for p.
func (how reach) open(p identity.Principal) bool {
	return !p.Limited() || how != undecided && how != whole
}

// reaches refuses a route that p's limit keeps p from.
func (a *API) reaches(r *http.Request, p identity.Principal, how reach) error {
	if !p.Limited() {
		return nil
	}
	switch how {
	case filtered, shared:
		return nil
	case ofDevice:
		return a.mustReach(r, p, mdm.DeviceID(r.PathValue("id")))
	case ofDeviceID:
		return a.mustReach(r, p, mdm.DeviceID(r.PathValue("device_id")))
	case ofCertificate:
		device, err := a.deviceOfCertificate(r)
		if err != nil {
			return err
		}
		return a.mustReach(r, p, device)
	case ofAttempt:
		attempt, err := a.enroll.Attempt(r.Context(), r.PathValue("id"))
		if err != nil {
			return err
		}
		return a.mustReach(r, p, attempt.DeviceID)
	}
	return &problem{
		Problem: webui.Problem{
			Status: http.StatusForbidden, Code: "outside_scope", Title: "Not allowed",
			Detail: "This is about the whole server. Your role is limited to groups of devices.",
		},
		challenge: realm + `, error="insufficient_scope"`,
	}
}

// mustReach is storage.ErrNotFound for a device that p is kept from: as for one that is not there.
func (a *API) mustReach(r *http.Request, p identity.Principal, id mdm.DeviceID) error {
	if !p.Limited() {
		return nil
	}
	return a.mdm.ViewScope(r.Context(), limitOf(p), func(_ storage.Tx, scope *mdm.Scope) error {
		in, err := scope.Has(id)
		if err == nil && !in {
			err = storage.ErrNotFound
		}
		return err
	})
}

// deviceOfCertificate returns whose certificate the path names; empty: no device's.
func (a *API) deviceOfCertificate(r *http.Request) (device mdm.DeviceID, err error) {
	serial, err := pathID(r, "serial")
	if err != nil {
		return "", err
	}
	err = a.db.View(r.Context(), func(tx storage.Tx) error {
		c, err := a.depot.BySerial(tx, serialOf(serial))
		device = mdm.DeviceID(c.DeviceID)
		return err
	})
	return device, err
}

// viewScope is a View with the devices that whoever asks is limited to.
func (a *API) viewScope(r *http.Request, fn func(tx storage.Tx, scope *mdm.Scope) error) error {
	return a.mdm.ViewScope(r.Context(), limitOf(principal(r)), fn)
}

// limitOf returns the groups that p's rights hold in; nil: everywhere.
func limitOf(p identity.Principal) []mdm.GroupID {
	if !p.Limited() {
		return nil
	}
	groups := make([]mdm.GroupID, len(p.Groups))
	for i, id := range p.Groups {
		groups[i] = mdm.GroupID(id)
	}
	return groups
}

// inReach returns those of ids that whoever asks may do something with, and why not the others:
// the answer for one that is not there is the same.
func (a *API) inReach(r *http.Request, ids []mdm.DeviceID) (in []mdm.DeviceID, outside []mdm.Rejection, err error) {
	p := principal(r)
	if !p.Limited() {
		return ids, nil, nil
	}
	err = a.mdm.ViewScope(r.Context(), limitOf(p), func(_ storage.Tx, scope *mdm.Scope) error {
		in, err = scope.Narrow(ids)
		return err
	})
	if err != nil {
		return nil, nil, ofQuery(err)
	}
	may := make(map[mdm.DeviceID]bool, len(in))
	for _, id := range in {
		may[id] = true
	}
	for _, id := range ids {
		if !may[id] {
			outside = append(outside, mdm.Rejection{DeviceID: id, Code: "outside_scope", Reason: "None of the devices in your groups has this id."})
		}
	}
	return in, outside, nil
}

// inGroup are the states in which a device of a group is meant by what goes to the group: others
// have left.
var inGroup = []mdm.State{mdm.Pending, mdm.Enrolled}

// chosen returns the devices that a request names by their ids, or by a group: of that, the
// devices that are enrolled or about to be, without their user channels. outside are those
// that whoever asks is kept from.
func (a *API) chosen(r *http.Request, ids []string, group string) (in []mdm.DeviceID, outside []mdm.Rejection, err error) {
	if group == "" {
		all, err := targetsOf(ids)
		if err != nil {
			return nil, nil, err
		}
		return a.inReach(r, all)
	}
	if len(ids) > 0 {
		return nil, nil, invalid("group_id", "can’t stand beside device_ids")
	}
	scope := limitOf(principal(r))
	if scope != nil && !slices.Contains(scope, mdm.GroupID(group)) {
		return nil, nil, invalid("group_id", "names no group")
	}
	in, err = a.mdm.Select(r.Context(), mdm.Query{
		GroupIDs: []mdm.GroupID{mdm.GroupID(group)}, Scope: scope, States: inGroup,
		Types: []mdm.EnrollmentType{mdm.TypeDevice, mdm.TypeUser, mdm.TypeAccountDevice},
	})
	switch {
	case err != nil:
		return nil, nil, ofQuery(err)
	case len(in) == 0:
		return nil, nil, invalid("group_id", "names a group without enrolled devices")
	case len(in) > maxTargets:
		return nil, nil, invalid("group_id", fmt.Sprintf("names a group of %d devices, and at most %d get something at once", len(in), maxTargets))
	}
	return in, nil, nil
}

// chosenBefore is for a request that is made again by its Idempotency-Key: it is about the
// devices that it was about, whatever a group or a filter would find by now.
func (a *API) chosenBefore(r *http.Request, t commandTargets, uuid string, now []mdm.DeviceID) ([]mdm.DeviceID, error) {
	if len(t.DeviceIDs) > 0 {
		return now, nil
	}
	c, err := a.mdm.CommandStatus(r.Context(), uuid)
	if errors.Is(err, storage.ErrNotFound) {
		return now, nil
	}
	return c.Targets, err
}

// rejectedDevices returns whom rejections are about.
func rejectedDevices(all []mdm.Rejection) []mdm.DeviceID {
	ids := make([]mdm.DeviceID, len(all))
	for i, no := range all {
		ids[i] = no.DeviceID
	}
	return ids
}

// maxLooked is how many items are looked at for one page of a list of which somebody may see a
// part.
const maxLooked = 2000

// reachable reads a page of a list in which somebody may see what is about the devices in
// scope. It may have fewer items than limit, even none, and yet not be the last.
func reachable[T any](scope *mdm.Scope, cursor string, limit int, read func(cursor string, limit int) ([]T, string, error), device func(T) string) (list []T, next string, err error) {
	if scope.All() {
		return read(cursor, limit)
	}
	for looked := 0; ; {
		part, next, err := read(cursor, limit-len(list))
		if err != nil {
			return nil, "", err
		}
		for _, item := range part {
			in, err := inScope(scope, device(item))
			if err != nil {
				return nil, "", err
			}
			if in {
				list = append(list, item)
			}
		}
		looked += len(part) + 1
		if next == "" || looked >= maxLooked || 2*len(list) >= limit {
			return list, next, nil
		}
		cursor = next
	}
}

// inScope says whether something is about a device in scope; device is empty for what is about none.
func inScope(scope *mdm.Scope, device string) (bool, error) {
	if scope.All() || device == "" {
		return scope.All(), nil
	}
	return scope.Has(mdm.DeviceID(device))
}
