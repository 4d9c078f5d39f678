package compat

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// queuedJSON is MicroMDM's answer for a command that was queued.
type queuedJSON struct {
	Payload payloadJSON `json:"payload"`
}

type payloadJSON struct {
	UDID        string `json:"udid,omitempty"` // of a command that came as a property list
	CommandUUID string `json:"command_uuid"`
	Command     struct {
		RequestType string `json:"request_type"`
	} `json:"command"`
	Payload []byte `json:"payload,omitempty"` // the property list, as it came
}

// queueCommand takes a command in MicroMDM's JSON.
func (c *Compat) queueCommand(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	in, err := readCommand(body)
	if err != nil {
		return err
	}
	if in.uuid == "" {
		in.uuid = mdm.NewUUID()
	}
	plist, err := command.Build(in.requestType, in.params, in.uuid)
	if err != nil {
		return &refusal{http.StatusBadRequest, err.Error()}
	}
	return c.queueMicro(w, r, in.udid, plist, false)
}

// queueRawCommand takes a whole command as a property list.
func (c *Compat) queueRawCommand(w http.ResponseWriter, r *http.Request) error {
	plist, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	return c.queueMicro(w, r, r.PathValue("udid"), plist, true)
}

// queueMicro queues a command for one device. The push follows by itself.
func (c *Compat) queueMicro(w http.ResponseWriter, r *http.Request, udid string, plist []byte, raw bool) error {
	o := order{names: []string{udid}, by: principal(r)}
	if err := o.parse(plist); err != nil {
		return err
	}
	done, err := c.queue(r.Context(), o)
	if err != nil {
		return err
	}
	if why := done.why[udid]; why != "" {
		return aboutDevice(udid, storage.ErrNotFound)
	}
	if why := done.refused(udid); why != "" {
		return &refusal{http.StatusUnprocessableEntity, why}
	}
	out := queuedJSON{payloadJSON{CommandUUID: o.uuid}}
	out.Payload.Command.RequestType = o.requestType
	if raw {
		out.Payload.UDID, out.Payload.Payload = udid, plist
	}
	return writeMicro(w, http.StatusCreated, out)
}

// waitingJSON is a command in the queue of a device.
type waitingJSON struct {
	UUID    string `json:"uuid"`
	Payload []byte `json:"payload"`
}

// viewQueue shows what a device has not finished, in its order. What is the device's own in
// a command is left out, and so are passwords and PINs: who has to know one looks it up where
// it is written down that they did.
func (c *Compat) viewQueue(w http.ResponseWriter, r *http.Request) error {
	var out struct {
		Commands []waitingJSON `json:"commands,omitempty"`
	}
	d, err := c.device(r)
	if refused, ok := errors.AsType[*refusal](err); ok && refused.status == http.StatusNotFound {
		return writeMicro(w, http.StatusOK, out) // MicroMDM has no queue for it then
	}
	if err != nil {
		return err
	}
	err = c.DB.View(r.Context(), func(tx storage.Tx) error {
		out.Commands = nil
		for e, err := range mdm.Unfinished(tx, d.ID) {
			if err != nil {
				return err
			}
			params, err := c.MDM.Asked(tx, e)
			if err != nil {
				return err
			}
			payload, err := command.Encode(c.visible(e, params), e.UUID)
			if err != nil {
				return err
			}
			out.Commands = append(out.Commands, waitingJSON{e.UUID, payload})
		}
		return nil
	})
	if err != nil {
		return err
	}
	return writeMicro(w, http.StatusOK, out)
}

// visible is the Command dictionary of e without what nobody is to see: secrets, and the
// profiles that this server makes by itself, which buy a certificate.
func (c *Compat) visible(e mdm.Entry, params map[string]any) map[string]any {
	t, _ := command.Lookup(e.RequestType)
	shown := withoutSecrets(command.DescribeKeys(t.Keys), params)
	if e.RequestType == "InstallProfile" && (e.Origin == enroll.RenewalOrigin || c.Library.Reserved(e.Identifier)) {
		delete(shown, "Payload")
	}
	return shown
}

// withoutSecrets copies a dictionary that has keys, but for secrets.
func withoutSecrets(keys []command.KeyDescription, in map[string]any) map[string]any {
	out := maps.Clone(in)
	for _, k := range keys {
		switch v := out[k.Name].(type) {
		case map[string]any:
			out[k.Name] = withoutSecrets(k.Keys, v)
		case []any:
			list := make([]any, len(v))
			for i, element := range v {
				list[i] = element
				if d, ok := element.(map[string]any); ok {
					for _, shape := range k.Items {
						d = withoutSecrets(shape.Keys, d)
					}
					list[i] = d
				}
			}
			out[k.Name] = list
		}
		if k.Secret {
			delete(out, k.Name)
		}
	}
	return out
}

// clearQueue cancels what a device was not sent yet.
func (c *Compat) clearQueue(w http.ResponseWriter, r *http.Request) error {
	d, err := c.device(r)
	if refused, ok := errors.AsType[*refusal](err); ok && refused.status == http.StatusNotFound {
		return writeMicro(w, http.StatusOK, struct{}{})
	}
	if err != nil {
		return err
	}
	var waiting []string
	err = c.DB.View(r.Context(), func(tx storage.Tx) error {
		waiting = nil
		for e, err := range mdm.Unfinished(tx, d.ID) {
			if err != nil {
				return err
			}
			if e.State != mdm.Delivered {
				waiting = append(waiting, e.UUID)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, uuid := range waiting {
		err := c.Enroll.CancelCommand(r.Context(), d.ID, uuid)
		switch {
		case errors.Is(err, mdm.ErrCommandDelivered), errors.Is(err, mdm.ErrCommandFinished), errors.Is(err, storage.ErrNotFound):
			// it was quicker
		case err != nil:
			return err
		}
	}
	c.Log.InfoContext(r.Context(), "queue cleared", "device", d.ID, "commands", len(waiting), "by", principal(r).String())
	return writeMicro(w, http.StatusOK, struct{}{})
}
