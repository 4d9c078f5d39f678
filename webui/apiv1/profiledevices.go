package apiv1

import (
	"net/http"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// installationJSON is how a profile stands on a device.
type installationJSON struct {
	DeviceID         string     `json:"device_id"`
	ProfileID        string     `json:"profile_id"`
	State            string     `json:"state"`
	StateAt          time.Time  `json:"state_at"`
	Version          int        `json:"version"`           // that was sent last
	InstalledVersion *int       `json:"installed_version"` // null: none, or one that is not of the library
	Reduced          bool       `json:"reduced"`
	CommandUUID      string     `json:"command_uuid"`
	Reason           string     `json:"reason"`
	SeenAt           *time.Time `json:"seen_at"`
}

func installation(i library.Installation) installationJSON {
	out := installationJSON{
		DeviceID: string(i.DeviceID), ProfileID: i.ProfileID, State: string(i.State), StateAt: i.At.UTC(), Version: i.Version,
		Reduced: i.Reduced, CommandUUID: i.Command, Reason: i.Reason, SeenAt: timestamp(i.SeenAt),
	}
	if i.Installed > 0 {
		out.InstalledVersion = &i.Installed
	}
	return out
}

func (a *API) listProfileDevices(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	var states []library.State
	for _, s := range r.URL.Query()["state"] {
		if !library.State(s).Valid() {
			return invalid("state", "must be one of sent, installed, failed, removing, removed, drifted")
		}
		states = append(states, library.State(s))
	}
	found, next, err := a.installations(r, id, states, cursor, limit)
	if err != nil {
		return err
	}
	ids := make([]mdm.DeviceID, len(found))
	for i, one := range found {
		ids[i] = one.DeviceID
	}
	devices, err := a.mdm.Overviews(r.Context(), ids, false)
	if err != nil {
		return err
	}
	named := make(map[mdm.DeviceID]deviceJSON, len(devices))
	for _, d := range devices {
		named[d.ID] = device(d)
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(found, next, func(i library.Installation) placeJSON {
		d := named[i.DeviceID] // none of one that was forgotten
		return placeJSON{installation(i), d.DeviceName, d.SerialNumber, d.User}
	}))
}

// installations returns a page of how a profile stands on devices that whoever asks may see.
func (a *API) installations(r *http.Request, id string, states []library.State, cursor string, limit int) (list []library.Installation, next string, err error) {
	devices, limited, err := a.ownDevices(r)
	if err != nil {
		return nil, "", err
	}
	if !limited {
		return a.library.Installations(r.Context(), id, states, cursor, limit)
	}
	if _, _, err := a.library.Profile(r.Context(), id); err != nil {
		return nil, "", err
	}
	from, found := slices.BinarySearch(devices, mdm.DeviceID(cursor))
	if found {
		from++
	}
	for part := range slices.Chunk(devices[from:], 1000) {
		on, err := a.library.On(r.Context(), part, id)
		if err != nil {
			return nil, "", err
		}
		for _, one := range on {
			if len(states) > 0 && !slices.Contains(states, one.State) {
				continue
			}
			if len(list) == limit {
				return list, string(list[limit-1].DeviceID), nil
			}
			list = append(list, one)
		}
	}
	return list, "", nil
}

// ownDevices returns all that somebody is limited to, in the order of ids; of who is not
// limited, nothing.
func (a *API) ownDevices(r *http.Request) (ids []mdm.DeviceID, limited bool, err error) {
	scope := limitOf(principal(r))
	if scope == nil {
		return nil, false, nil
	}
	ids, err = a.mdm.Select(r.Context(), mdm.Query{Scope: scope})
	return ids, true, ofQuery(err)
}

// countDevices counts how a profile stands on the devices that whoever asks may see.
func (a *API) countDevices(r *http.Request, id string) (library.Summary, error) {
	devices, limited, err := a.ownDevices(r)
	if err != nil {
		return nil, err
	}
	if !limited {
		return a.library.Summary(r.Context(), id)
	}
	on, err := a.library.On(r.Context(), devices, id)
	sum := library.Summary{}
	for _, one := range on {
		sum[one.State]++
	}
	return sum, err
}

// countSome counts how each of profiles stands on the first devices that whoever asks may
// see; more are the profiles, or all, of which there are others.
func (a *API) countSome(r *http.Request, profiles []string) (sums map[string]library.Summary, more map[string]bool, err error) {
	sums, more = make(map[string]library.Summary), make(map[string]bool)
	devices, limited, err := a.ownDevices(r)
	if err != nil {
		return nil, nil, err
	}
	if !limited {
		for _, id := range profiles {
			if sums[id], more[id], err = a.library.SummaryUpTo(r.Context(), id, mostCounted); err != nil {
				return nil, nil, err
			}
		}
		return sums, more, nil
	}
	rest := len(devices) > mostCounted
	on, err := a.library.On(r.Context(), devices[:min(len(devices), mostCounted)], profiles...)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range profiles {
		sums[id], more[id] = library.Summary{}, rest
	}
	for _, one := range on {
		sums[one.ProfileID][one.State]++
	}
	return sums, more, nil
}

func (a *API) listDeviceProfiles(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	all, err := a.library.OnDevice(r.Context(), mdm.DeviceID(id))
	if err != nil {
		return err
	}
	type item struct {
		installationJSON
		Identifier string `json:"identifier"`
		Name       string `json:"name"`
		Latest     int    `json:"latest_version"`
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(all, "", func(o library.OnDevice) item {
		return item{installation(o.Installation), o.Identifier, o.Name, o.Latest}
	}))
}
