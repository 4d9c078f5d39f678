package apiv1

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// commandTypeJSON is what a form for a command has to know, and with a device, whether that
// may get it.
type commandTypeJSON struct {
	command.Description
	Urgent  bool             `json:"urgent"` // comes before what else a device waits for
	Scope   identity.Scope   `json:"scope"`  // that sending it takes
	Keys    []commandKeyJSON `json:"keys"`
	Allowed *bool            `json:"allowed"` // null: no device was named
	Code    string           `json:"code"`    // why not
	Reason  string           `json:"reason"`
}

// commandKeyJSON is a key of a command. Refused is why the device that was named may not
// get it.
type commandKeyJSON struct {
	command.KeyDescription
	Keys    []commandKeyJSON `json:"keys"`
	Items   []commandKeyJSON `json:"items"`
	Choices []commandKeyJSON `json:"choices"`
	Refused string           `json:"refused"`
}

// asked is the device that somebody asks about; nil: none.
type asked struct {
	state  mdm.State
	target command.Target
}

func (a *API) listCommandTypes(w http.ResponseWriter, r *http.Request) error {
	device, err := a.askedFor(r)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(command.Types(), "", device.commandType))
}

func (a *API) getCommandType(w http.ResponseWriter, r *http.Request) error {
	device, err := a.askedFor(r)
	if err != nil {
		return err
	}
	t, known := command.Lookup(r.PathValue("name"))
	if !known {
		return storage.ErrNotFound
	}
	return webui.WriteJSON(w, http.StatusOK, device.commandType(t))
}

// askedFor reads ?device_id=.
func (a *API) askedFor(r *http.Request) (*asked, error) {
	query := r.URL.Query()
	if !query.Has("device_id") {
		return nil, nil
	}
	id := query.Get("device_id")
	if len(id) > maxID {
		return nil, noDevice()
	}
	if err := a.mustReach(r, principal(r), mdm.DeviceID(id)); errors.Is(err, storage.ErrNotFound) {
		return nil, noDevice()
	} else if err != nil {
		return nil, err
	}
	device, err := a.ask(r.Context(), mdm.DeviceID(id))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, noDevice()
	}
	return device, err
}

func (a *API) ask(ctx context.Context, id mdm.DeviceID) (device *asked, err error) {
	err = a.db.View(ctx, func(tx storage.Tx) error {
		target, state, err := mdm.TargetOf(tx, id)
		device = &asked{state, target}
		return err
	})
	return device, err
}

func noDevice() *problem {
	return &problem{
		Problem: webui.Problem{Status: http.StatusNotFound, Code: "not_found", Title: "Not found", Detail: "device_id names no device."},
		Errors:  []fieldError{{"device_id", "names no device"}},
	}
}

func (d *asked) commandType(t command.Type) commandTypeJSON {
	out := commandTypeJSON{Description: command.Describe(t), Urgent: command.Urgent(t.RequestType), Scope: identity.ScopeHelpdesk}
	if _, beyond := NeedsAdmin(t.RequestType, nil); beyond {
		out.Scope = identity.ScopeAdmin
	}
	if d == nil {
		out.Keys = commandKeys(t.Keys, nil)
		return out
	}
	refusal := d.state.Refusal()
	if refusal == nil {
		refusal, _ = errors.AsType[*command.Refusal](t.Check(d.target))
	}
	allowed := refusal == nil
	if out.Allowed = &allowed; !allowed {
		out.Code, out.Reason = refusal.Code, refusal.Reason
	}
	out.Keys = commandKeys(t.Keys, &d.target)
	for i := range out.Keys {
		switch key := &out.Keys[i]; {
		case slices.Contains(t.Filled, key.Name): // passed over where it is of no effect
			key.Refused = ""
		case t.RequestType == "DeviceInformation" && key.Name == "Queries" && !d.target.UserEnrollment:
			key.Items = commandKeys(t.Keys[i].Items, nil) // a device leaves out what it does not know
		}
	}
	return out
}

// commandKeys are keys in the order of [command.DescribeKeys], with what target may not get;
// nil: there is none.
func commandKeys(keys []command.Key, target *command.Target) []commandKeyJSON {
	keys = slices.DeleteFunc(slices.Clone(keys), func(k command.Key) bool { return strings.HasPrefix(k.Name, "ANY") })
	out := make([]commandKeyJSON, len(keys))
	for i, d := range command.DescribeKeys(keys) {
		k := commandKeyJSON{KeyDescription: d, Keys: []commandKeyJSON{}, Items: commandKeys(keys[i].Items, target), Choices: []commandKeyJSON{}}
		if len(d.Keys) > 0 {
			k.Keys = commandKeys(keys[i].Keys, target)
		}
		if len(d.Choices) > 0 {
			k.Choices = commandKeys(keys[i].Keys, target)
		}
		if target != nil {
			if no, ok := errors.AsType[*command.Refusal](keys[i].Check(*target)); ok {
				k.Refused = no.Reason
			}
		}
		out[i] = k
	}
	return out
}
