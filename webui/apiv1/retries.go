package apiv1

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

type retryRequest struct {
	DeviceIDs []string `json:"device_ids"` // none: all with which it came to nothing
	Confirm   bool     `json:"confirm"`
	ExpiresIn string   `json:"expires_in"`
}

// retryCommand sends a command again to devices with which it came to nothing. What the
// server fills in for a device is found out anew.
func (a *API) retryCommand(w http.ResponseWriter, r *http.Request) error {
	uuid, err := pathID(r, "uuid")
	if err != nil {
		return err
	}
	var in retryRequest
	body, err := readJSON(r, &in)
	if err != nil {
		return err
	}
	wait, err := waitOf(r)
	if err != nil {
		return err
	}
	var ids []mdm.DeviceID
	if in.DeviceIDs != nil {
		if ids, err = targetsOf(in.DeviceIDs); err != nil {
			return err
		}
	}
	expires, err := commandExpiry(in.ExpiresIn)
	if err != nil {
		return err
	}
	again, err := a.mdm.In(limitOf(principal(r))).Again(r.Context(), uuid, ids)
	if errors.Is(err, mdm.ErrNothingToRetry) {
		return nothingToRetry(ids)
	}
	if err != nil {
		return err
	}
	if err := a.mayRetry(r, in, again); err != nil {
		return err
	}
	known, reserved, err := a.reserve(r, body, mdm.NewUUID())
	if err != nil {
		return err
	}
	if id, version, ok := library.OfProfile(again.Command.Origin); ok {
		return a.retryProfile(w, r, profileRetry{again, id, version, reserved, expires, wait})
	}
	plist, err := command.Encode(again.Params, reserved)
	if err != nil {
		return err
	}
	return a.enqueue(w, r, wait, known, mdm.NewCommand{
		UUID: reserved, RequestType: again.Command.RequestType, Identifier: again.Command.Identifier, Plist: plist, Targets: again.Targets,
		Priority: again.Command.Priority, ExpiresIn: expires, Origin: again.Command.Origin, RetryOf: uuid,
	}, again.Rejected...)
}

func nothingToRetry(ids []mdm.DeviceID) *problem {
	p := &problem{Problem: webui.Problem{
		Status: http.StatusConflict, Code: "nothing_to_retry", Title: "No device needs the command again",
		Detail: "With none of its devices it has failed, expired or was cancelled; with those that have yet to finish it, it can be cancelled first.",
	}}
	if ids != nil {
		p.Detail = "With none of the devices in device_ids it has failed, expired or was cancelled."
	}
	return p
}

// mayRetry refuses what the caller could not send anew either, and what only this server can.
func (a *API) mayRetry(r *http.Request, in retryRequest, again mdm.Again) error {
	requestType := again.Command.RequestType
	if err := a.mayQueue(principal(r), requestType, again.Params); err != nil {
		return err
	}
	if a.ownProfile(again.Command) {
		return &problem{Problem: webui.Problem{
			Status: http.StatusConflict, Code: "not_retryable", Title: "The command can’t be sent again",
			Detail: "This server sent it by itself, with secrets that are good once, and does so again when it is due; to renew a device’s identity now, POST to its renew-identity, and to send a certificate again, send its template.",
		}}
	}
	if !in.Confirm && a.irrevocable(requestType, again.Params) {
		return unconfirmed("confirm")
	}
	return nil
}

// profileRetry is another try to bring or take away a profile of the library.
type profileRetry struct {
	mdm.Again
	profile  string
	version  int    // 0: it is taken away
	reserved string // UUID of the batch or the command, that an earlier request may have made
	expires  time.Duration
	wait     time.Duration
}

// retryProfile has the library send a profile again, or take it away again, so that it knows
// what becomes of that.
func (a *API) retryProfile(w http.ResponseWriter, r *http.Request, again profileRetry) error {
	by := principal(r).String()
	var (
		sent     []mdm.Command
		rejected []mdm.Rejection
		err      error
	)
	if again.version == 0 {
		sent, rejected, err = a.removeAgain(r.Context(), by, again)
	} else {
		sent, rejected, err = a.sendAgain(r.Context(), by, again)
	}
	if err != nil {
		return err
	}
	rejected = append(slices.Clone(again.Rejected), rejected...)
	if len(sent) == 0 {
		return commandRejected(rejections(rejected))
	}
	out := queuedJSON{
		CommandUUID: sent[0].UUID, RequestType: sent[0].RequestType, BatchID: sent[0].Batch, Devices: []deviceState{}, Rejected: rejections(rejected),
	}
	uuids := make([]string, len(sent))
	for i, c := range sent {
		uuids[i] = c.UUID
	}
	states, err := a.outcome(r.Context(), again.wait, uuids...)
	if err != nil {
		return err
	}
	for _, c := range sent {
		out.Devices = append(out.Devices, states.of(c)...)
	}
	w.Header().Set("Location", "/api/v1/commands/"+out.CommandUUID)
	return webui.WriteJSON(w, http.StatusAccepted, out)
}

func (a *API) sendAgain(ctx context.Context, by string, again profileRetry) (sent []mdm.Command, rejected []mdm.Rejection, err error) {
	before, err := a.mdm.Batch(ctx, again.reserved)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		out, err := a.library.Send(ctx, library.Order{
			Profile: again.profile, Version: again.version, Targets: library.Targets{Devices: again.Targets},
			Reduce: library.Reduced(again.Command.Origin), ExpiresIn: again.expires, Batch: again.reserved, RetryOf: again.Command.UUID, By: by,
		})
		if err != nil {
			return nil, nil, goneFromLibrary(err)
		}
		if rejected = out.Rejected; len(out.Sent) == 0 {
			return nil, rejected, nil
		}
		if before, err = a.mdm.Batch(ctx, out.Batch.ID); err != nil {
			return nil, nil, err
		}
	case err != nil:
		return nil, nil, err
	}
	for _, c := range before.Each {
		sent = append(sent, c.Command)
	}
	return sent, rejected, nil
}

func (a *API) removeAgain(ctx context.Context, by string, again profileRetry) (sent []mdm.Command, rejected []mdm.Rejection, err error) {
	before, err := a.mdm.CommandStatus(ctx, again.reserved)
	if err == nil {
		return []mdm.Command{before.Command}, nil, nil
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return nil, nil, err
	}
	out, err := a.library.RemoveAgain(ctx, by, again.profile, library.Targets{Devices: again.Targets}, again.reserved, again.Command.UUID)
	if err != nil {
		return nil, nil, goneFromLibrary(err)
	}
	if len(out.Command.Targets) > 0 {
		sent = append(sent, out.Command)
	}
	return sent, out.Rejected, nil
}

// goneFromLibrary is the problem of a profile that was deleted since it was sent.
func goneFromLibrary(err error) error {
	if !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	return &problem{Problem: webui.Problem{
		Status: http.StatusConflict, Code: "not_retryable", Title: "The command can’t be sent again", Detail: "The profile is not in the library any more.",
	}}
}
