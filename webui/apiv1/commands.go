package apiv1

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// maxTargets bounds the devices of one command.
const maxTargets = 50_000

type commandRequest struct {
	RequestType string         `json:"request_type"`
	Params      map[string]any `json:"params"`
	DeviceIDs   []string       `json:"device_ids"`
	GroupID     string         `json:"group_id"`
	Confirm     bool           `json:"confirm"`
}

// queuedJSON answers for a command that was queued.
type queuedJSON struct {
	CommandUUID string        `json:"command_uuid"`
	RequestType string        `json:"request_type"`
	Devices     []deviceState `json:"devices"`
	Rejected    []rejection   `json:"rejected"`
}

type deviceState struct {
	DeviceID string `json:"device_id"`
	State    string `json:"state"`
}

type rejection struct {
	DeviceID string `json:"device_id"`
	Code     string `json:"code"`
	Field    string `json:"field,omitempty"` // of a certificate template, if one is to blame
	Reason   string `json:"reason"`
}

type commandJSON struct {
	CommandUUID string          `json:"command_uuid"`
	RequestType string          `json:"request_type"`
	CreatedAt   time.Time       `json:"created_at"`
	CreatedBy   string          `json:"created_by"`
	Devices     []commandResult `json:"devices"`
}

// commandResult is how far a command is with one device.
type commandResult struct {
	DeviceID string `json:"device_id"`
	progress
}

// deviceCommand is one command in the list of a device.
type deviceCommand struct {
	CommandUUID string    `json:"command_uuid"`
	RequestType string    `json:"request_type"`
	CreatedAt   time.Time `json:"created_at"`
	progress
}

type progress struct {
	State       string           `json:"state"`
	DeliveredAt *time.Time       `json:"delivered_at"`
	FinishedAt  *time.Time       `json:"finished_at"`
	NotNowCount int              `json:"not_now_count"`
	ErrorChain  []chainedError   `json:"error_chain"`
	Result      *json.RawMessage `json:"result"` // null until the device has answered
}

// chainedError has its keys as Apple spells them.
type chainedError struct {
	ErrorCode            int64  `json:"ErrorCode"`
	ErrorDomain          string `json:"ErrorDomain"`
	LocalizedDescription string `json:"LocalizedDescription"`
	USEnglishDescription string `json:"USEnglishDescription"`
}

func progressOf(e mdm.Entry) progress {
	p := progress{
		State: string(e.State), DeliveredAt: timestamp(e.DeliveredAt), FinishedAt: timestamp(e.FinishedAt),
		NotNowCount: e.NotNowCount, ErrorChain: make([]chainedError, len(e.ErrorChain)),
	}
	for i, link := range e.ErrorChain {
		p.ErrorChain[i] = chainedError(link)
	}
	if len(e.Result) > 0 {
		p.Result = &e.Result
	}
	return p
}

func (a *API) queueCommand(w http.ResponseWriter, r *http.Request) error {
	var in commandRequest
	body, err := readJSON(r, &in)
	if err != nil {
		return err
	}
	wait, err := waitOf(r)
	if err != nil {
		return err
	}
	switch {
	case in.GroupID != "":
		return invalid("group_id", "is not supported yet; name the devices in device_ids")
	case in.RequestType == "":
		return invalid("request_type", "is required")
	}
	targets, err := targetsOf(in.DeviceIDs)
	if err != nil {
		return err
	}
	if err := a.mayQueue(principal(r), in); err != nil {
		return err
	}
	uuid := mdm.NewUUID()
	plist, err := command.Build(in.RequestType, in.Params, uuid)
	if err != nil {
		return err
	}
	again, reserved, err := a.reserve(r, body, uuid)
	if err != nil {
		return err
	}
	if again {
		if plist, err = command.Build(in.RequestType, in.Params, reserved); err != nil {
			return err
		}
	}
	return a.enqueue(w, r, wait, again, mdm.NewCommand{
		UUID: reserved, RequestType: in.RequestType, Identifier: profileOf(in.RequestType, plist), Plist: plist, Targets: targets,
	})
}

// queueRawCommand takes a whole command, of any type and with any keys.
func (a *API) queueRawCommand(w http.ResponseWriter, r *http.Request) error {
	wait, err := waitOf(r)
	if err != nil {
		return err
	}
	var ids []string
	for _, list := range r.URL.Query()["device_ids"] {
		ids = append(ids, strings.Split(list, ",")...)
	}
	targets, err := targetsOf(ids)
	if err != nil {
		return err
	}
	plist, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	uuid, requestType, err := command.ParseRaw(plist)
	if err != nil {
		return err
	}
	if _, _, err := a.reserve(r, plist, uuid); err != nil {
		return err
	}
	return a.enqueue(w, r, wait, true, mdm.NewCommand{
		UUID: uuid, RequestType: requestType, Identifier: profileOf(requestType, plist), Plist: plist, Targets: targets,
	})
}

// targetsOf checks ids of devices, and leaves out repeated ones.
func targetsOf(ids []string) ([]mdm.DeviceID, error) {
	switch {
	case len(ids) == 0:
		return nil, invalid("device_ids", "must name at least one device")
	case len(ids) > maxTargets:
		return nil, invalid("device_ids", fmt.Sprintf("must name at most %d devices", maxTargets))
	}
	seen := make(map[string]bool, len(ids))
	targets := make([]mdm.DeviceID, 0, len(ids))
	for i, id := range ids {
		if id == "" || len(id) > maxID {
			return nil, invalid(fmt.Sprintf("device_ids[%d]", i), "is not an id")
		}
		if !seen[id] {
			seen[id] = true
			targets = append(targets, mdm.DeviceID(id))
		}
	}
	return targets, nil
}

// profileOf returns the PayloadIdentifier of the profile that a command installs,
// so that a newer version takes the place of an older one that was not delivered.
// A profile that only the device can read, such as a binary one, has no such name.
func profileOf(requestType string, plist []byte) string {
	if requestType != "InstallProfile" {
		return ""
	}
	identifier, err := profile.Identifier(command.ProfileIn(plist))
	if err != nil {
		return ""
	}
	return identifier
}

// mayQueue asks for a higher scope and for a confirmation where a command can't be
// taken back.
func (a *API) mayQueue(p identity.Principal, in commandRequest) error {
	t, _ := command.Lookup(in.RequestType)
	unenrolls := in.RequestType == "RemoveProfile" && in.Params["Identifier"] == any(a.enroll.ProfileIdentifier())
	if needsAdmin(t) && !p.Allows(identity.ScopeAdmin) {
		return errScope(identity.ScopeAdmin)
	}
	if (t.Destructive || unenrolls) && !in.Confirm {
		return &problem{
			Problem: webui.Problem{
				Status: http.StatusBadRequest, Code: "confirmation_required", Title: "The command can't be undone",
				Detail: `Send it again with "confirm": true.`,
			},
			Errors: []fieldError{{"confirm", "must be true"}},
		}
	}
	return nil
}

// needsAdmin holds for commands that are beyond a helpdesk: they lose data, or
// change what a device is allowed and trusts.
func needsAdmin(t command.Type) bool {
	return t.Destructive || t.RequestType == "InstallProfile" || t.RequestType == "RemoveProfile"
}

// enqueue queues c and answers with the state of each of its devices. known says
// that there may be a command with this UUID already, in a state of its own.
func (a *API) enqueue(w http.ResponseWriter, r *http.Request, wait time.Duration, known bool, c mdm.NewCommand) error {
	c.CreatedBy = principal(r).String()
	cmd, rejections, err := a.mdm.Enqueue(r.Context(), c)
	if err != nil {
		return err
	}
	rejected := make([]rejection, len(rejections))
	for i, no := range rejections {
		rejected[i] = rejection{DeviceID: string(no.DeviceID), Code: no.Code, Reason: no.Reason}
	}
	if len(cmd.Targets) == 0 {
		return &problem{
			Problem: webui.Problem{
				Status: http.StatusUnprocessableEntity, Code: "command_rejected", Title: "No device may receive this command",
				Detail: "Each device's reason is in rejected.",
			},
			Rejected: rejected,
		}
	}
	states := make(map[mdm.DeviceID]mdm.CommandState, len(cmd.Targets))
	if known || wait > 0 {
		entries, err := a.outcome(r.Context(), cmd.UUID, wait)
		if err != nil {
			return err
		}
		for _, e := range entries {
			states[e.DeviceID] = e.State
		}
	}
	out := queuedJSON{CommandUUID: cmd.UUID, RequestType: cmd.RequestType, Devices: make([]deviceState, len(cmd.Targets)), Rejected: rejected}
	for i, id := range cmd.Targets {
		out.Devices[i] = deviceState{string(id), string(mdm.Queued)}
		if state, ok := states[id]; ok {
			out.Devices[i].State = string(state)
		}
	}
	w.Header().Set("Location", "/api/v1/commands/"+cmd.UUID)
	return webui.WriteJSON(w, http.StatusAccepted, out)
}

// outcome returns how far a command is, once all devices have finished it or wait
// is over.
func (a *API) outcome(ctx context.Context, uuid string, wait time.Duration) ([]mdm.Entry, error) {
	if wait == 0 {
		_, entries, err := a.mdm.Command(ctx, uuid)
		return entries, err
	}
	waiting, cancel := webui.UntilDrain(ctx)
	defer cancel()
	waiting, cancel = context.WithTimeout(waiting, wait)
	defer cancel()
	_, entries, err := a.mdm.Wait(waiting, uuid)
	if err == nil && errors.Is(ctx.Err(), context.Canceled) {
		err = ctx.Err() // the client has gone
	}
	return entries, err
}

func (a *API) getCommand(w http.ResponseWriter, r *http.Request) error {
	uuid, err := pathID(r, "uuid")
	if err != nil {
		return err
	}
	cmd, entries, err := a.mdm.Command(r.Context(), uuid)
	if err != nil {
		return err
	}
	out := commandJSON{
		CommandUUID: cmd.UUID, RequestType: cmd.RequestType, CreatedAt: cmd.CreatedAt.UTC(), CreatedBy: cmd.CreatedBy,
		Devices: make([]commandResult, len(entries)),
	}
	for i, e := range entries {
		out.Devices[i] = commandResult{string(e.DeviceID), progressOf(e)}
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

func (a *API) listDeviceCommands(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	entries, next, err := a.mdm.DeviceCommands(r.Context(), mdm.DeviceID(id), cursor, limit)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(entries, next, func(e mdm.Entry) deviceCommand {
		return deviceCommand{e.UUID, e.RequestType, e.CreatedAt.UTC(), progressOf(e)}
	}))
}

func (a *API) cancelCommand(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	uuid, err := pathID(r, "uuid")
	if err != nil {
		return err
	}
	if err := a.enroll.CancelCommand(r.Context(), mdm.DeviceID(id), uuid); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
