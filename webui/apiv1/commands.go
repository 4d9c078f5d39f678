package apiv1

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// maxTargets bounds the devices of one command.
const maxTargets = 50_000

type commandRequest struct {
	RequestType string         `json:"request_type"`
	Params      map[string]any `json:"params"`
	commandTargets
	Confirm   bool   `json:"confirm"`
	ExpiresIn string `json:"expires_in"`
	Priority  string `json:"priority"`
	NoPush    bool   `json:"no_push"`
}

// queuedJSON answers for a command that was queued.
type queuedJSON struct {
	CommandUUID string        `json:"command_uuid"`
	RequestType string        `json:"request_type"`
	BatchID     string        `json:"batch_id"`
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
	Field    string `json:"field,omitempty"` // of a certificate template, or a batch, if one is to blame
	Reason   string `json:"reason"`
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
	uuid := mdm.NewUUID()
	order, outside, err := a.commandOrder(r, in, uuid)
	if err != nil {
		return err
	}
	if !in.Confirm && a.irrevocable(in.RequestType, in.Params) {
		return unconfirmed("confirm")
	}
	again, reserved, err := a.reserve(r, body, uuid)
	if err != nil {
		return err
	}
	if again {
		order.UUID = reserved
		if order.Plist, err = command.Build(in.RequestType, in.Params, reserved); err != nil {
			return err
		}
		if order.Targets, err = a.chosenBefore(r, in.commandTargets, reserved, order.Targets); err != nil {
			return err
		}
	}
	return a.enqueue(w, r, wait, again, order, outside...)
}

// commandOrder is what in asks for, if whoever sends r may ask for that.
func (a *API) commandOrder(r *http.Request, in commandRequest, uuid string) (order mdm.NewCommand, outside []mdm.Rejection, err error) {
	if err := knownType(in.RequestType); err != nil {
		return mdm.NewCommand{}, nil, err
	}
	order = mdm.NewCommand{UUID: uuid, RequestType: in.RequestType, NoPush: in.NoPush}
	if order.Targets, outside, err = a.targets(r, in.commandTargets); err != nil {
		return mdm.NewCommand{}, nil, err
	}
	if order.ExpiresIn, err = commandExpiry(in.ExpiresIn); err != nil {
		return mdm.NewCommand{}, nil, err
	}
	by := principal(r)
	if err := a.mayQueue(by, in.RequestType, in.Params); err != nil {
		return mdm.NewCommand{}, nil, err
	}
	if order.Priority, err = priorityOf(by, in.RequestType, in.Priority); err != nil {
		return mdm.NewCommand{}, nil, err
	}
	if order.Plist, err = command.Build(in.RequestType, in.Params, uuid); err != nil {
		return mdm.NewCommand{}, nil, err
	}
	order.Identifier = profileOf(in.RequestType, order.Plist)
	return order, outside, nil
}

// knownType refuses a request_type that the catalogue does not have.
func knownType(requestType string) error {
	switch _, known := command.Lookup(requestType); {
	case requestType == "":
		return invalid("request_type", "is required")
	case !known:
		return invalid("request_type", unknownType(requestType))
	}
	return nil
}

// unknownType says what is wrong with the name of a command.
func unknownType(requestType string) string {
	names := make([]string, 0, 70)
	for _, t := range command.Types() {
		names = append(names, t.RequestType)
	}
	meant := "others go to /api/v1/commands/raw"
	if near := command.Nearest(requestType, names); near != "" {
		meant = fmt.Sprintf("the nearest is %q", near)
	}
	return "must be one that /api/v1/command-types lists; " + meant
}

// priorityOf reads priority. What is urgent by its nature can't be less, and the rest is made
// urgent only by who may do everything else, too.
func priorityOf(by identity.Principal, requestType, text string) (mdm.Priority, error) {
	urgent := command.Urgent(requestType)
	switch {
	case text == "":
		return mdm.Normal, nil
	case text == "normal" && urgent:
		return "", invalid("priority", "can’t be normal: "+requestType+" always comes before what else a device waits for")
	case text == "normal":
		return mdm.Normal, nil
	case text != "urgent":
		return "", invalid("priority", "must be normal or urgent")
	case !urgent && !by.Allows(identity.ScopeAdmin):
		return "", errScope(identity.ScopeAdmin)
	}
	return mdm.Urgent, nil
}

// queueRawCommand takes a whole command, of any type and with any keys.
func (a *API) queueRawCommand(w http.ResponseWriter, r *http.Request) error {
	wait, err := waitOf(r)
	if err != nil {
		return err
	}
	to, err := rawTargets(r.URL.Query())
	if err != nil {
		return err
	}
	targets, outside, err := a.targets(r, to)
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
	again, _, err := a.reserve(r, plist, uuid)
	if err != nil {
		return err
	}
	if again {
		if targets, err = a.chosenBefore(r, to, uuid, targets); err != nil {
			return err
		}
	}
	return a.enqueue(w, r, wait, true, mdm.NewCommand{
		UUID: uuid, RequestType: requestType, Identifier: profileOf(requestType, plist), Plist: plist, Targets: targets,
	}, outside...)
}

// rawTargets reads which devices a raw command is for: its body has no room for that.
func rawTargets(query url.Values) (to commandTargets, err error) {
	for _, list := range query["device_ids"] {
		to.DeviceIDs = append(to.DeviceIDs, strings.Split(list, ",")...)
	}
	if to.GroupID, err = textOf(query, "group_id"); err != nil {
		return commandTargets{}, err
	}
	to.Filter, err = textOf(query, "filter")
	return to, err
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

// enqueue queues c and answers with the state of each of its devices. known says
// that there may be a command with this UUID already, in a state of its own. before are the
// devices that were left out before.
func (a *API) enqueue(w http.ResponseWriter, r *http.Request, wait time.Duration, known bool, c mdm.NewCommand, before ...mdm.Rejection) error {
	c.CreatedBy = principal(r).String()
	cmd, no, err := a.mdm.Enqueue(r.Context(), c)
	if err != nil {
		return err
	}
	if known { // it may have gone to others before
		if cmd.Targets, _, err = a.inReach(r, cmd.Targets); err != nil {
			return err
		}
	}
	rejected := rejections(append(before, no...))
	if len(cmd.Targets) == 0 {
		return commandRejected(rejected)
	}
	var states outcome
	if known || wait > 0 {
		if states, err = a.outcome(r.Context(), wait, cmd.UUID); err != nil {
			return err
		}
	}
	w.Header().Set("Location", "/api/v1/commands/"+cmd.UUID)
	return webui.WriteJSON(w, http.StatusAccepted, queuedJSON{
		CommandUUID: cmd.UUID, RequestType: cmd.RequestType, BatchID: cmd.Batch, Devices: states.of(cmd), Rejected: rejected,
	})
}

func commandRejected(rejected []rejection) *problem {
	return &problem{
		Problem: webui.Problem{
			Status: http.StatusUnprocessableEntity, Code: "command_rejected", Title: "No device may receive this command",
			Detail: "Each device's reason is in rejected.",
		},
		Rejected: rejected,
	}
}

// outcome is how far commands are, by UUID and device.
type outcome map[string]map[mdm.DeviceID]mdm.CommandState

// of returns the state of each of c's devices: queued, where o does not know better.
func (o outcome) of(c mdm.Command) []deviceState {
	states := make([]deviceState, len(c.Targets))
	for i, id := range c.Targets {
		states[i] = deviceState{string(id), string(cmp.Or(o[c.UUID][id], mdm.Queued))}
	}
	return states
}

// outcome returns how far commands are, once all devices have finished all of them or wait
// is over.
func (a *API) outcome(ctx context.Context, wait time.Duration, uuids ...string) (outcome, error) {
	ask, until := a.mdm.Command, ctx
	if wait > 0 {
		ask = a.mdm.Wait
		draining, cancel := webui.UntilDrain(ctx)
		defer cancel()
		until, cancel = context.WithTimeout(draining, wait)
		defer cancel()
	}
	o := make(outcome, len(uuids))
	for _, uuid := range uuids {
		_, entries, err := ask(until, uuid)
		if err == nil && errors.Is(ctx.Err(), context.Canceled) {
			err = ctx.Err() // the client has gone
		}
		if err != nil {
			return nil, err
		}
		o[uuid] = make(map[mdm.DeviceID]mdm.CommandState, len(entries))
		for _, e := range entries {
			o[uuid][e.DeviceID] = e.State
		}
	}
	return o, nil
}

// cancelCommand cancels a command for one device.
func (a *API) cancelCommand(w http.ResponseWriter, r *http.Request) error {
	id, uuid, err := deviceAndCommand(r)
	if err != nil {
		return err
	}
	if err := a.enroll.CancelCommand(r.Context(), id, uuid); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// cancelEverywhere cancels a command for all devices that do not have it.
func (a *API) cancelEverywhere(w http.ResponseWriter, r *http.Request) error {
	uuid, err := pathID(r, "uuid")
	if err != nil {
		return err
	}
	within := a.mdm.In(limitOf(principal(r)))
	cmd, err := within.CommandStatus(r.Context(), uuid)
	if err != nil {
		return err
	}
	var cancelled int
	if a.ownProfile(cmd.Command) {
		cancelled, err = a.cancelOwn(r.Context(), cmd.Command)
	} else {
		cancelled, err = within.CancelAll(r.Context(), uuid, principal(r).String())
	}
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, struct {
		Cancelled int `json:"cancelled"`
	}{cancelled})
}

// ownProfile says that c is about a profile that this server sends by itself, such as one
// that renews an identity: more hangs on it than the command.
func (a *API) ownProfile(c mdm.Command) bool {
	return c.Origin == enroll.RenewalOrigin || c.Identifier != "" && profile.Reserved(a.serverURL.Hostname(), c.Identifier)
}

// cancelOwn cancels, with what hangs on it, a command that this server sent by itself. It
// has few targets.
func (a *API) cancelOwn(ctx context.Context, c mdm.Command) (cancelled int, err error) {
	for _, id := range c.Targets {
		err := a.enroll.CancelCommand(ctx, id, c.UUID)
		switch {
		case err == nil:
			cancelled++
		case errors.Is(err, mdm.ErrCommandDelivered), errors.Is(err, mdm.ErrCommandFinished), errors.Is(err, storage.ErrNotFound):
		default:
			return 0, err
		}
	}
	return cancelled, nil
}

func deviceAndCommand(r *http.Request) (id mdm.DeviceID, uuid string, err error) {
	device, err := pathID(r, "id")
	if err != nil {
		return "", "", err
	}
	uuid, err = pathID(r, "uuid")
	return mdm.DeviceID(device), uuid, err
}

func rejections(all []mdm.Rejection) []rejection {
	out := make([]rejection, len(all))
	for i, no := range all {
		out[i] = rejection{DeviceID: string(no.DeviceID), Code: no.Code, Reason: no.Reason}
	}
	return out
}

// commandExpiry reads expires_in; 0 if there is none.
func commandExpiry(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Minute || d > maxExpiry {
		return 0, invalid("expires_in", fmt.Sprintf("must be a duration such as 72h, from 1m to %dh", maxExpiry/time.Hour))
	}
	return d, nil
}

// maxExpiry is for how long a command may wait at most: as long as one without expires_in.
const maxExpiry = 90 * 24 * time.Hour
