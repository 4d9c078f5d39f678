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

// installations returns a page of how a profile stands on devices that whoever asks may see. It
// may have fewer than limit, even none, and yet not be the last.
func (a *API) installations(r *http.Request, id string, states []library.State, cursor string, limit int) (list []library.Installation, next string, err error) {
	for looked := 0; ; {
		part, next, err := a.library.Installations(r.Context(), id, states, cursor, limit-len(list))
		if err != nil {
			return nil, "", err
		}
		ids := make([]mdm.DeviceID, len(part))
		for i, one := range part {
			ids[i] = one.DeviceID
		}
		in, _, err := a.inReach(r, ids)
		if err != nil {
			return nil, "", err
		}
		for _, one := range part {
			if slices.Contains(in, one.DeviceID) {
				list = append(list, one)
			}
		}
		looked += len(part) + 1
		if next == "" || looked >= maxLooked || 2*len(list) >= limit {
			return list, next, nil
		}
		cursor = next
	}
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
