package apiv1

import (
	"errors"
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

type verdictJSON struct {
	DeviceIDs []string      `json:"device_ids"`
	Code      string        `json:"code"`
	Reason    string        `json:"reason"`
	Findings  []findingJSON `json:"findings"`
	// LeftOut is what the part of the profile that these devices take would lack; empty where
	// they would take none.
	LeftOut []findingJSON `json:"left_out"`
}

// profileOrder names devices that a profile is to go to, or to be taken from.
type profileOrder struct {
	DeviceIDs []string `json:"device_ids"`
	GroupID   string   `json:"group_id"`
	Version   int      `json:"version"`
	Reduce    bool     `json:"reduce"`
	ExpiresIn string   `json:"expires_in"`
}

// profileTargets returns the devices that in is about, and why some that it names are left out.
func (a *API) profileTargets(r *http.Request, in profileOrder) (to library.Targets, outside []mdm.Rejection, err error) {
	to.Devices, outside, err = a.chosen(r, in.DeviceIDs, in.GroupID)
	return to, outside, err
}

func (a *API) checkProfile(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var in struct {
		DeviceIDs []string `json:"device_ids"`
		GroupID   string   `json:"group_id"`
		Version   int      `json:"version"`
	}
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	targets, outside, err := a.profileTargets(r, profileOrder{DeviceIDs: in.DeviceIDs, GroupID: in.GroupID})
	if err != nil {
		return err
	}
	f, err := a.library.Forecast(r.Context(), id, in.Version, targets)
	if err != nil {
		return err
	}
	if len(outside) > 0 {
		f.Total += len(outside)
		f.Verdicts = append(f.Verdicts, library.Verdict{Devices: rejectedDevices(outside), Code: outside[0].Code, Reason: outside[0].Reason})
	}
	verdicts := make([]verdictJSON, len(f.Verdicts))
	for i, v := range f.Verdicts {
		verdicts[i] = verdictJSON{deviceIDs(v.Devices), v.Code, v.Reason, findingsOf(v.Findings), findingsOf(v.Removed)}
	}
	return webui.WriteJSON(w, http.StatusOK, struct {
		Summary  string        `json:"summary"`
		Total    int           `json:"total"`
		Accept   int           `json:"accept"`
		Reduced  int           `json:"reduced"`
		Verdicts []verdictJSON `json:"verdicts"`
	}{f.Sentence(), f.Total, f.Accept, f.Reduced, verdicts})
}

func deviceIDs(ids []mdm.DeviceID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = string(id)
	}
	return out
}

// sentProfile is a device that a profile is on its way to.
type sentProfile struct {
	DeviceID    string `json:"device_id"`
	CommandUUID string `json:"command_uuid"`
	Reduced     bool   `json:"reduced"`
}

func (a *API) sendProfile(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var in profileOrder
	body, err := readJSON(r, &in)
	if err != nil {
		return err
	}
	targets, outside, err := a.profileTargets(r, in)
	if err != nil {
		return err
	}
	expires, err := commandExpiry(in.ExpiresIn)
	if err != nil {
		return err
	}
	again, batch, err := a.reserve(r, body, mdm.NewUUID())
	if err != nil {
		return err
	}
	if again {
		switch sent, err := a.sentBefore(r, batch); {
		case err == nil:
			return webui.WriteJSON(w, http.StatusAccepted, sent)
		case !errors.Is(err, storage.ErrNotFound):
			return err
		}
	}
	out, err := a.library.Send(r.Context(), library.Order{
		Profile: id, Version: in.Version, Targets: targets, Reduce: in.Reduce, ExpiresIn: expires, Batch: batch, By: principal(r).String(),
	})
	if err != nil {
		return err
	}
	rejected := rejections(append(outside, out.Rejected...))
	if len(out.Sent) == 0 {
		return &problem{
			Problem: webui.Problem{
				Status: http.StatusUnprocessableEntity, Code: "profile_rejected", Title: "No device may receive this profile",
				Detail: "Each device's reason is in rejected.",
			},
			Rejected: rejected,
		}
	}
	answer := sendingJSON{BatchID: out.Batch.ID, Version: out.Version.Number, CommandUUIDs: out.Batch.Commands, Devices: make([]sentProfile, len(out.Sent)), Rejected: rejected}
	for i, to := range out.Sent {
		answer.Devices[i] = sentProfile{string(to.DeviceID), to.Command, to.Reduced}
	}
	w.Header().Set("Location", "/api/v1/batches/"+out.Batch.ID)
	return webui.WriteJSON(w, http.StatusAccepted, answer)
}

type sendingJSON struct {
	BatchID      string        `json:"batch_id"`
	Version      int           `json:"version"`
	CommandUUIDs []string      `json:"command_uuids"`
	Devices      []sentProfile `json:"devices"`
	Rejected     []rejection   `json:"rejected"` // empty when the answer is repeated
}

// sentBefore answers for what an earlier request with the same Idempotency-Key sent.
func (a *API) sentBefore(r *http.Request, batch string) (sendingJSON, error) {
	b, err := a.mdm.In(limitOf(principal(r))).Batch(r.Context(), batch)
	if err != nil {
		return sendingJSON{}, err
	}
	out := sendingJSON{BatchID: b.ID, CommandUUIDs: b.Commands, Devices: []sentProfile{}, Rejected: []rejection{}}
	for _, c := range b.Each {
		_, out.Version, _ = library.OfProfile(c.Origin)
		for _, id := range c.Targets {
			out.Devices = append(out.Devices, sentProfile{string(id), c.UUID, library.Reduced(c.Origin)})
		}
	}
	return out, nil
}

func (a *API) removeProfile(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var in struct {
		DeviceIDs []string `json:"device_ids"`
		GroupID   string   `json:"group_id"`
	}
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	targets, outside, err := a.profileTargets(r, profileOrder{DeviceIDs: in.DeviceIDs, GroupID: in.GroupID})
	if err != nil {
		return err
	}
	out, err := a.library.Remove(r.Context(), principal(r).String(), id, targets)
	if err != nil {
		return err
	}
	rejected := rejections(append(outside, out.Rejected...))
	if len(out.Command.Targets)+len(out.Unsent) == 0 {
		return &problem{
			Problem: webui.Problem{
				Status: http.StatusUnprocessableEntity, Code: "profile_rejected", Title: "No device has this profile",
				Detail: "Each device's reason is in rejected.",
			},
			Rejected: rejected,
		}
	}
	answer := struct {
		CommandUUID string      `json:"command_uuid"` // empty: no device needs it
		DeviceIDs   []string    `json:"device_ids"`
		Unsent      []string    `json:"unsent"` // had not fetched the profile, which is not sent any more
		Rejected    []rejection `json:"rejected"`
	}{"", deviceIDs(out.Command.Targets), deviceIDs(out.Unsent), rejected}
	if len(out.Command.Targets) > 0 {
		answer.CommandUUID = out.Command.UUID
		w.Header().Set("Location", "/api/v1/commands/"+out.Command.UUID)
	}
	return webui.WriteJSON(w, http.StatusAccepted, answer)
}
