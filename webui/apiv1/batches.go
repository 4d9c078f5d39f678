package apiv1

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// Bounds of a batch, beside maxTargets, which holds for commands times devices.
const (
	maxBatch     = 50  // commands
	maxBatchName = 200 // bytes
)

type batchRequest struct {
	Name     string            `json:"name"`
	Commands []json.RawMessage `json:"commands"` // batchCommand
	commandTargets
	ExpiresIn string `json:"expires_in"`
}

type batchCommand struct {
	RequestType string         `json:"request_type"`
	Params      map[string]any `json:"params"`
	Confirm     bool           `json:"confirm"`
}

// queuedBatch answers for a batch that was queued.
type queuedBatch struct {
	BatchID  string         `json:"batch_id"`
	Name     string         `json:"name"`
	Commands []queuedInside `json:"commands"`
}

// queuedInside is one command of a batch. CommandUUID is empty where no device may receive it.
type queuedInside struct {
	CommandUUID string        `json:"command_uuid"`
	RequestType string        `json:"request_type"`
	Devices     []deviceState `json:"devices"`
	Rejected    []rejection   `json:"rejected"`
}

type batchJSON struct {
	BatchID      string     `json:"batch_id"`
	Name         string     `json:"name"`
	CreatedAt    time.Time  `json:"created_at"`
	CreatedBy    string     `json:"created_by"`
	CommandUUIDs []string   `json:"command_uuids"`
	Progress     *tallyJSON `json:"progress"` // of all commands and their devices; null: not counted
}

func batch(b mdm.BatchStatus) batchJSON {
	out := batchJSON{b.ID, b.Name, b.CreatedAt.UTC(), b.CreatedBy, append([]string{}, b.Commands...), nil}
	if b.Counted {
		out.Progress = tally(b.Tally)
	}
	return out
}

func (a *API) queueBatch(w http.ResponseWriter, r *http.Request) error {
	var in batchRequest
	body, err := readJSON(r, &in)
	if err != nil {
		return err
	}
	wait, err := waitOf(r)
	if err != nil {
		return err
	}
	switch {
	case len(in.Name) > maxBatchName:
		return invalid("name", fmt.Sprintf("must be at most %d bytes", maxBatchName))
	case len(in.Commands) == 0 || len(in.Commands) > maxBatch:
		return invalid("commands", fmt.Sprintf("must be 1 to %d commands", maxBatch))
	}
	targets, outside, err := a.targets(r, in.commandTargets)
	if err != nil {
		return err
	}
	if len(targets)*len(in.Commands) > maxTargets {
		return invalid("device_ids", fmt.Sprintf("times commands must be at most %d", maxTargets))
	}
	expires, err := commandExpiry(in.ExpiresIn)
	if err != nil {
		return err
	}
	orders, err := a.readBatch(principal(r), in.Commands)
	if err != nil {
		return err
	}
	known, id, err := a.reserve(r, body, mdm.NewUUID())
	if err != nil {
		return err
	}
	commands := make([]mdm.NewCommand, len(orders))
	for i, o := range orders {
		uuid := uuidInBatch(id, i)
		plist, err := command.Build(o.RequestType, o.Params, uuid)
		if err != nil {
			return err
		}
		to := targets
		if known {
			if to, err = a.chosenBefore(r, in.commandTargets, uuid, targets); err != nil {
				return err
			}
		}
		commands[i] = mdm.NewCommand{
			UUID: uuid, RequestType: o.RequestType, Identifier: profileOf(o.RequestType, plist), Plist: plist, Targets: to, ExpiresIn: expires,
		}
	}
	return a.enqueueBatch(w, r, newBatch{id, in.Name, commands, known, wait, outside})
}

// readBatch reads the commands of a batch. All are looked at, and the error names what is
// wrong in each.
func (a *API) readBatch(by identity.Principal, raw []json.RawMessage) ([]batchCommand, error) {
	orders := make([]batchCommand, len(raw))
	var bad, unsure []fieldError
	for i := range raw {
		prefix := fmt.Sprintf("commands[%d]", i)
		err := a.readBatchCommand(by, raw[i], &orders[i])
		if err == nil {
			continue
		}
		p := problemOf(err)
		switch {
		case p == nil:
			return nil, err
		case p.Code == "confirmation_required":
			unsure = append(unsure, fieldError{prefix + ".confirm", "must be true: " + orders[i].RequestType + " can’t be undone"})
		case len(p.Errors) == 0: // such as a missing scope
			return nil, p
		}
		if p.Code == "confirmation_required" {
			continue
		}
		for _, e := range p.Errors {
			if e.Field = prefix + "." + e.Field; e.Field == prefix+"." {
				e.Field = prefix
			}
			bad = append(bad, e)
		}
	}
	switch {
	case len(bad) > 0:
		return nil, invalids(append(bad, unsure...))
	case len(unsure) > 0:
		p := unconfirmed("")
		p.Errors = unsure
		return nil, p
	}
	return orders, nil
}

// readBatchCommand reads one command as strictly as readJSON does, and finds out whether by
// may send it and whether it can be built.
func (a *API) readBatchCommand(by identity.Principal, raw json.RawMessage, o *batchCommand) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		return invalid("", "must be an object")
	}
	known := fieldsOf(o)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !known[name] {
			return invalid(clip(name), stranger(name, known))
		}
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(o); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return invalid(wrong.Field, "must be "+inJSON(wrong.Type))
		}
		return invalid("", "is not JSON")
	}
	if err := knownType(o.RequestType); err != nil {
		return err
	}
	if err := a.mayQueue(by, o.RequestType, o.Params); err != nil {
		return err
	}
	if _, err := command.Build(o.RequestType, o.Params, mdm.NewUUID()); err != nil {
		return err
	}
	if !o.Confirm && a.irrevocable(o.RequestType, o.Params) {
		return unconfirmed("confirm")
	}
	return nil
}

// uuidInBatch is that of the i-th command of a batch, the same whenever the batch is asked
// for again (RFC 9562, 5.8).
func uuidInBatch(batch string, i int) string {
	b := sha256.Sum256(fmt.Appendf(nil, "%s/%d", batch, i))
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

type newBatch struct {
	id, name string
	commands []mdm.NewCommand
	known    bool // the same was asked for before
	wait     time.Duration
	outside  []mdm.Rejection // devices that were left out before
}

func (a *API) enqueueBatch(w http.ResponseWriter, r *http.Request, in newBatch) error {
	by := principal(r).String()
	var queued []mdm.QueuedCommand
	err := a.db.Update(r.Context(), func(tx storage.Tx) (err error) {
		_, queued, err = a.mdm.QueueBatch(tx, in.id, in.name, by, in.commands)
		return err
	})
	if err != nil {
		return err
	}
	var rejected []rejection
	var uuids []string
	for i := range queued {
		queued[i].Rejected = append(slices.Clone(in.outside), queued[i].Rejected...)
	}
	for i, q := range queued {
		for _, no := range rejections(q.Rejected) {
			no.Field = fmt.Sprintf("commands[%d]", i)
			rejected = append(rejected, no)
		}
		if len(q.Command.Targets) > 0 {
			uuids = append(uuids, q.Command.UUID)
		}
	}
	if len(uuids) == 0 {
		p := commandRejected(rejected)
		p.Title = "No device may receive any of the commands"
		return p
	}
	a.log.InfoContext(r.Context(), "batch queued", "batch", in.id, "commands", len(uuids), "rejected", len(rejected), "by", by)
	var states outcome
	if in.known || in.wait > 0 {
		if states, err = a.outcome(r.Context(), in.wait, uuids...); err != nil {
			return err
		}
	}
	out := queuedBatch{BatchID: in.id, Name: in.name, Commands: make([]queuedInside, len(queued))}
	for i, q := range queued {
		out.Commands[i] = queuedInside{RequestType: in.commands[i].RequestType, Devices: states.of(q.Command), Rejected: rejections(q.Rejected)}
		if len(q.Command.Targets) > 0 {
			out.Commands[i].CommandUUID = q.Command.UUID
		}
	}
	w.Header().Set("Location", "/api/v1/batches/"+in.id)
	return webui.WriteJSON(w, http.StatusAccepted, out)
}

func (a *API) listBatches(w http.ResponseWriter, r *http.Request) error {
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	page, next, err := a.mdm.In(limitOf(principal(r))).Batches(r.Context(), cursor, limit)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(page, next, batch))
}

func (a *API) getBatch(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	b, err := a.mdm.In(limitOf(principal(r))).Batch(r.Context(), id)
	if err != nil {
		return err
	}
	summaries, err := a.summariesOf(r, b.Each)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, struct {
		batchJSON
		Commands []commandSummary `json:"commands"`
	}{batch(b), summaries})
}
