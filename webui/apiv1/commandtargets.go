package apiv1

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// commandTargets says which devices a command is for: in exactly one of these ways.
type commandTargets struct {
	DeviceIDs []string `json:"device_ids"`
	GroupID   string   `json:"group_id"`
	Filter    string   `json:"filter"` // a query as GET /devices takes it
}

// targets returns the devices that t is about, and why some that it names are none of theirs
// who ask.
func (a *API) targets(r *http.Request, t commandTargets) (in []mdm.DeviceID, outside []mdm.Rejection, err error) {
	switch {
	case t.GroupID != "" && t.Filter != "":
		return nil, nil, invalid("filter", "can’t stand beside group_id")
	case t.Filter == "":
		return a.chosen(r, t.DeviceIDs, t.GroupID)
	case len(t.DeviceIDs) > 0:
		return nil, nil, invalid("filter", "can’t stand beside device_ids")
	}
	in, err = a.matching(r, t.Filter)
	return in, nil, err
}

// matching returns the devices that a filter finds.
func (a *API) matching(r *http.Request, filter string) ([]mdm.DeviceID, error) {
	query, err := url.ParseQuery(filter)
	if err != nil {
		return nil, invalid("filter", "must be a query as GET /api/v1/devices takes it, such as state=enrolled&platform=ios")
	}
	asked := r.Clone(r.Context())
	asked.URL = &url.URL{Path: "/api/v1/devices", RawQuery: query.Encode()}
	q, err := a.deviceQueryOf(asked)
	if err == nil {
		var ids []mdm.DeviceID
		if ids, err = a.mdm.Select(r.Context(), q); err == nil {
			switch {
			case len(ids) == 0:
				return nil, invalid("filter", "matches no device")
			case len(ids) > maxTargets:
				return nil, invalid("filter", fmt.Sprintf("matches %d devices, and at most %d get a command at once", len(ids), maxTargets))
			}
			return ids, nil
		}
		err = ofQuery(err)
	}
	if p := problemOf(err); p != nil && len(p.Errors) > 0 {
		return nil, invalid("filter", p.Errors[0].Field+" "+p.Errors[0].Detail)
	}
	return nil, err
}

// verdictOnType is how many of the devices that were asked about may get a command of one type.
type verdictOnType struct {
	RequestType string `json:"request_type"`
	Allowed     int    `json:"allowed"`
	Refused     int    `json:"refused"`
	Code        string `json:"code"` // of the refusal that most share
	Reason      string `json:"reason"`
}

// checkCommandTypes says which commands devices may get.
func (a *API) checkCommandTypes(w http.ResponseWriter, r *http.Request) error {
	var in commandTargets
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	ids, _, err := a.targets(r, in)
	if err != nil {
		return err
	}
	types := command.Types()
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.RequestType
	}
	verdicts, total, err := a.mdm.Judge(r.Context(), ids, names)
	if err != nil {
		return err
	}
	devices, err := a.named(r, ids)
	if err != nil {
		return err
	}
	out := struct {
		Total   int             `json:"total"`
		Devices []namedDevice   `json:"devices"` // the first hundred
		Items   []verdictOnType `json:"items"`
	}{total, devices, make([]verdictOnType, len(types))}
	for i, v := range verdicts {
		out.Items[i] = verdictOnType{names[i], v.Allowed, v.Refused, v.Code, v.Reason}
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

// namedDevices is how many devices a verdict names.
const namedDevices = 100

// commandForecast says what would become of a command.
type commandForecast struct {
	RequestType string         `json:"request_type"`
	Total       int            `json:"total"`
	Accepted    int            `json:"accepted"`
	Devices     []namedDevice  `json:"devices"` // that get it, the first hundred
	Rejected    []rejectedJSON `json:"rejected"`
}

// rejectedJSON is a reason, with those for which it holds.
type rejectedJSON struct {
	Code    string        `json:"code"`
	Reason  string        `json:"reason"`
	Count   int           `json:"count"`
	Devices []namedDevice `json:"devices"` // the first hundred
}

type namedDevice struct {
	DeviceID   string `json:"device_id"`
	DeviceName string `json:"device_name"`
}

// checkCommand says what would become of a command, and queues nothing.
func (a *API) checkCommand(w http.ResponseWriter, r *http.Request) error {
	var in commandRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	order, outside, err := a.commandOrder(r, in, mdm.NewUUID())
	if err != nil {
		return err
	}
	accepted, no, err := a.mdm.Forecast(r.Context(), order)
	if err != nil {
		return err
	}
	out := commandForecast{RequestType: in.RequestType, Total: len(order.Targets) + len(outside), Accepted: len(accepted), Rejected: []rejectedJSON{}}
	byReason := make(map[[2]string][]mdm.DeviceID)
	for _, n := range append(outside, no...) {
		key := [2]string{n.Code, n.Reason}
		byReason[key] = append(byReason[key], n.DeviceID)
	}
	if out.Devices, err = a.named(r, accepted); err != nil {
		return err
	}
	for _, key := range slices.SortedFunc(maps.Keys(byReason), func(x, y [2]string) int {
		return 2*(len(byReason[y])-len(byReason[x])) + slices.Compare(x[:], y[:])
	}) {
		devices, err := a.named(r, byReason[key])
		if err != nil {
			return err
		}
		out.Rejected = append(out.Rejected, rejectedJSON{key[0], key[1], len(byReason[key]), devices})
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

// named returns the first of ids with their names.
func (a *API) named(r *http.Request, ids []mdm.DeviceID) ([]namedDevice, error) {
	ids = ids[:min(len(ids), namedDevices)]
	names, err := a.deviceNames(r, ids)
	if err != nil {
		return nil, err
	}
	out := make([]namedDevice, len(ids))
	for i, id := range ids {
		out[i] = namedDevice{string(id), names[id]}
	}
	return out, nil
}

// deviceNames returns what to call devices. Those that are not there have no name.
func (a *API) deviceNames(r *http.Request, ids []mdm.DeviceID) (map[mdm.DeviceID]string, error) {
	found, err := a.mdm.Overviews(r.Context(), ids, false)
	if err != nil {
		return nil, err
	}
	names := make(map[mdm.DeviceID]string, len(found))
	for _, o := range found {
		d := device(o)
		for _, name := range []string{d.DeviceName, d.SerialNumber, o.UserLongName, o.UserShortName} {
			if name != "" && names[o.ID] == "" {
				names[o.ID] = name
			}
		}
	}
	return names, nil
}
