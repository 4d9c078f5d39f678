package apiv1

import (
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// reach says how a route is about devices, which decides what is left of it for who is limited
// to groups of devices. Each route has one; one without is for nobody who is limited.
type reach int

const (
	undecided reach = iota
	ofDevice        // it is about the device {id}, and is not there for who is limited to others
	filtered        // its handler leaves out what is about other devices, or about none
	shared          // it is the same for everybody, and says nothing of any device or person
	whole           // it is about the whole server
)

// open reports whether anything is left of a route for p.
func (how reach) open(p identity.Principal) bool {
	return !p.Limited() || how == ofDevice || how == filtered || how == shared
}

// reaches refuses a route that p's limit keeps p from.
func (a *API) reaches(r *http.Request, p identity.Principal, how reach) error {
	switch {
	case !p.Limited():
		return nil
	case how == ofDevice:
		return a.mustReach(r, p, mdm.DeviceID(r.PathValue("id")))
	case how.open(p):
		return nil
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
