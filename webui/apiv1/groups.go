package apiv1

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

type groupRequest struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Rule        string `json:"rule"` // as of ruleQuery; empty: devices are put into it
}

// groupChange is the body of a PATCH: what is nil stays.
type groupChange struct {
	Name        *string `json:"name"`
	Description *string `json:"description"`
	Rule        *string `json:"rule"`
}

type groupJSON struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Description string    `json:"description"`
	Kind        string    `json:"kind"`         // devices or rule
	Rule        string    `json:"rule"`         // empty unless Kind is rule
	DeviceCount *int      `json:"device_count"` // without user channels; null: not counted
	CreatedAt   time.Time `json:"created_at"`
	CreatedBy   string    `json:"created_by"`
}

func group(g mdm.Group, count map[mdm.GroupID]int) groupJSON {
	out := groupJSON{
		ID: string(g.ID), Name: g.Name, Description: g.Description, Kind: "devices", Rule: g.Rule,
		CreatedAt: g.CreatedAt.UTC(), CreatedBy: g.CreatedBy,
	}
	if g.Rule != "" {
		out.Kind = "rule"
	}
	if n, ok := count[g.ID]; ok {
		out.DeviceCount = &n
	} else if g.Rule == "" {
		out.DeviceCount = &g.Members
	}
	return out
}

// groupOf names what is wrong with a group that is asked for.
func groupOf(err error) error {
	if bad, ok := errors.AsType[*mdm.GroupError](err); ok {
		return invalid(bad.Field, bad.Reason)
	}
	if bad, ok := errors.AsType[*mdm.QueryError](err); ok {
		reason := bad.Field + " " + bad.Reason
		if bad.Unknown != "" {
			known := make(map[string]bool, len(bad.Known))
			for _, name := range bad.Known {
				known[name] = true
			}
			reason += meant(bad.Unknown, known)
		}
		return invalid("rule", "can’t be: "+reason)
	}
	return err
}

// ruleQuery reads the rule of a group: the filters of a list of devices, as they stand behind
// the question mark of its URL. It is a [mdm.RuleReader].
func (a *API) ruleQuery(tx storage.Tx, rule string) (mdm.Query, error) {
	values, err := url.ParseQuery(rule)
	if err != nil {
		return mdm.Query{}, &mdm.QueryError{Field: "rule", Reason: "can’t be read as a query string"}
	}
	switch {
	case len(values) == 0:
		return mdm.Query{}, &mdm.QueryError{Field: "rule", Reason: "has no filters"}
	case values.Has("sort"):
		return mdm.Query{}, &mdm.QueryError{Field: "sort", Reason: "is for lists"}
	}
	q, err := a.deviceQuery(values)
	if p := problemOf(err); p != nil && len(p.Errors) > 0 {
		return mdm.Query{}, &mdm.QueryError{Field: p.Errors[0].Field, Reason: p.Errors[0].Detail}
	}
	if err != nil {
		return mdm.Query{}, err
	}
	return q, withLogins(tx, &q)
}

// normalRule is a rule as it is kept: so that the same one is the same text, and fits behind
// a question mark.
func normalRule(rule string) (string, error) {
	values, err := url.ParseQuery(strings.TrimPrefix(strings.TrimSpace(rule), "?"))
	if err != nil {
		return "", invalid("rule", "must be filters as they stand behind the question mark of /api/v1/devices?…")
	}
	n := 0
	for _, all := range values {
		n += len(all)
	}
	if n > maxParameters {
		return "", invalid("rule", fmt.Sprintf("has more than %d filters", maxParameters))
	}
	return values.Encode(), nil
}

func (a *API) createGroup(w http.ResponseWriter, r *http.Request) error {
	var in groupRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	rule, err := normalRule(in.Rule)
	if err != nil {
		return err
	}
	if rule == "" && in.Rule != "" {
		return invalid("rule", "has no filters")
	}
	g, err := a.mdm.CreateGroup(r.Context(), principal(r).String(), mdm.NewGroup{Name: in.Name, Description: in.Description, Rule: rule})
	if err != nil {
		return groupOf(err)
	}
	w.Header().Set("Location", "/api/v1/groups/"+string(g.ID))
	return a.writeGroup(w, r, http.StatusCreated, g)
}

// writeGroup answers with a group and how many devices are in it.
func (a *API) writeGroup(w http.ResponseWriter, r *http.Request, status int, g mdm.Group) error {
	count, err := a.mdm.CountGroups(r.Context(), g)
	if err != nil {
		return ofQuery(err)
	}
	return webui.WriteJSON(w, status, group(g, count))
}

func (a *API) listGroups(w http.ResponseWriter, r *http.Request) error {
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	query := r.URL.Query()
	if err := onlyParameters(query, "limit", "cursor", "counts"); err != nil {
		return err
	}
	counts, err := flag(query, "counts")
	if err != nil {
		return err
	}
	groups, next, err := a.mdm.Groups(r.Context(), limitOf(principal(r)), cursor, limit)
	if err != nil {
		return err
	}
	var count map[mdm.GroupID]int
	if counts {
		if count, err = a.mdm.CountGroups(r.Context(), groups...); err != nil {
			return ofQuery(err)
		}
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(groups, next, func(g mdm.Group) groupJSON { return group(g, count) }))
}

// groupID reads the id of a group out of the path. Who is limited to others finds none.
func groupID(r *http.Request) (mdm.GroupID, error) {
	id, err := pathID(r, "id")
	if err != nil {
		return "", err
	}
	if only := limitOf(principal(r)); only != nil && !slices.Contains(only, mdm.GroupID(id)) {
		return "", storage.ErrNotFound
	}
	return mdm.GroupID(id), nil
}

func (a *API) getGroup(w http.ResponseWriter, r *http.Request) error {
	id, err := groupID(r)
	if err != nil {
		return err
	}
	g, err := a.mdm.Group(r.Context(), id)
	if err != nil {
		return err
	}
	return a.writeGroup(w, r, http.StatusOK, g)
}

func (a *API) updateGroup(w http.ResponseWriter, r *http.Request) error {
	id, err := groupID(r)
	if err != nil {
		return err
	}
	var in groupChange
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	if in.Rule != nil {
		rule, err := normalRule(*in.Rule)
		if err != nil {
			return err
		}
		in.Rule = &rule
	}
	g, err := a.mdm.UpdateGroup(r.Context(), principal(r).String(), id, mdm.GroupChange(in))
	if err != nil {
		return groupOf(err)
	}
	return a.writeGroup(w, r, http.StatusOK, g)
}

// deleteGroup removes a group. Whoever was limited to it may do nothing there any more, so
// that it takes ?force=true.
func (a *API) deleteGroup(w http.ResponseWriter, r *http.Request) error {
	id, err := groupID(r)
	if err != nil {
		return err
	}
	force, err := flag(r.URL.Query(), "force")
	if err != nil {
		return err
	}
	var users, tokens []string
	var inUse bool
	err = a.db.Update(r.Context(), func(tx storage.Tx) (err error) {
		if users, tokens, err = identity.LimitedTo(tx, string(id)); err != nil {
			return err
		}
		if inUse = len(users)+len(tokens) > 0 && !force; inUse {
			_, err := mdm.GetGroup(tx, id)
			return err
		}
		return a.mdm.DeleteGroup(tx, principal(r).String(), id)
	})
	if err != nil {
		return err
	}
	if inUse {
		return groupInUse(users, tokens)
	}
	a.log.InfoContext(r.Context(), "group deleted", "group", string(id), "by", principal(r).String())
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func groupInUse(users, tokens []string) error {
	const most = 10
	names := slices.Clone(users)
	for _, token := range tokens {
		names = append(names, "the token "+token)
	}
	more := ""
	if n := len(names) - most; n > 0 {
		names, more = names[:most], fmt.Sprintf(" and %d more", n)
	}
	return &problem{Problem: webui.Problem{
		Status: http.StatusConflict, Code: "group_in_use", Title: "Roles are limited to the group: ?force=true deletes it all the same, and they lose its devices then",
		Detail: "Limited to it: " + strings.Join(names, ", ") + more + ".",
	}}
}

// listGroupDevices is the list of devices, with all its filters, of a group.
func (a *API) listGroupDevices(w http.ResponseWriter, r *http.Request) error {
	id, err := groupID(r)
	if err != nil {
		return err
	}
	if _, err := a.mdm.Group(r.Context(), id); err != nil {
		return err
	}
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	q, err := a.deviceQueryOf(r, "limit", "cursor")
	if err != nil {
		return err
	}
	if len(q.GroupIDs) > 0 {
		return invalid("group_id", "is in the path")
	}
	q.GroupIDs = []mdm.GroupID{id}
	return a.writeDevices(w, r, q, cursor, limit)
}

type membersRequest struct {
	DeviceIDs []string `json:"device_ids"`
}

func (a *API) addToGroup(w http.ResponseWriter, r *http.Request) error {
	var in membersRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	return a.changeMembers(w, r, in, true)
}

func (a *API) removeFromGroup(w http.ResponseWriter, r *http.Request) error {
	var in membersRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	return a.changeMembers(w, r, in, false)
}

func (a *API) changeMembers(w http.ResponseWriter, r *http.Request, in membersRequest, add bool) error {
	id, err := groupID(r)
	if err != nil {
		return err
	}
	devices, err := targetsOf(in.DeviceIDs)
	if err != nil {
		return err
	}
	change := a.mdm.RemoveFromGroup
	if add {
		change = a.mdm.AddToGroup
	}
	m, err := change(r.Context(), principal(r).String(), id, devices)
	if err != nil {
		return err
	}
	g, err := a.mdm.Group(r.Context(), id)
	if err != nil {
		return err
	}
	out := struct {
		Changed     int         `json:"changed"`
		DeviceCount int         `json:"device_count"`
		Rejected    []rejection `json:"rejected"`
	}{m.Changed, g.Members, []rejection{}}
	for _, d := range m.Unknown {
		out.Rejected = append(out.Rejected, rejection{DeviceID: string(d), Code: "not_found", Reason: "No device has this id."})
	}
	for _, d := range m.Channels {
		out.Rejected = append(out.Rejected, rejection{DeviceID: string(d), Code: "user_channel", Reason: "A user channel is in the groups of its device: put that into the group."})
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

// listDeviceGroups answers with the groups that a device is in.
func (a *API) listDeviceGroups(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if _, err := a.mdm.Device(r.Context(), mdm.DeviceID(id)); err != nil {
		return err
	}
	groups, err := a.mdm.GroupsOf(r.Context(), mdm.DeviceID(id), limitOf(principal(r)))
	if err != nil {
		return ofQuery(err)
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(groups, "", func(g mdm.Group) groupJSON { return group(g, nil) }))
}

// knownGroups refuses group_ids that no group has, before anybody is limited to them.
func (a *API) knownGroups(r *http.Request, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	var bad []fieldError
	err := a.db.View(r.Context(), func(tx storage.Tx) error {
		bad = nil
		for i, id := range ids {
			_, err := mdm.GetGroup(tx, mdm.GroupID(id))
			if errors.Is(err, storage.ErrNotFound) {
				bad = append(bad, fieldError{fmt.Sprintf("group_ids[%d]", i), fmt.Sprintf("%q is no group’s", clip(id))})
				continue
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && len(bad) > 0 {
		err = invalids(bad)
	}
	return err
}
