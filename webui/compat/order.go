package compat

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui/apiv1"
)

// pushAfter is when the server pushes by itself for a command whose sender was to be told
// what came of the push, should that not have come about.
const pushAfter = 10 * time.Second

// order is a command, as these APIs take it, for enrollments by their names.
type order struct {
	uuid, requestType string
	plist             []byte
	names             []string
	by                identity.Principal

	fresh     bool // that there is a command with this UUID is an error
	noPush    bool
	pushAfter time.Duration
}

// ordered is what became of an order.
type ordered struct {
	*directory
	command  mdm.Command
	rejected map[mdm.DeviceID]mdm.Rejection
}

// accepted are the enrollments of the order that get the command.
func (o *ordered) accepted() (ids []mdm.DeviceID) {
	for _, id := range o.ids {
		if _, no := o.rejected[id]; !no {
			ids = append(ids, id)
		}
	}
	return ids
}

// refused says why the enrollment of a name does not get the command; empty: it does.
func (o *ordered) refused(name string) string {
	if why := o.why[name]; why != "" {
		return why
	}
	return o.rejected[o.byName[name]].Reason
}

// parse reads a whole command, and finds out whether its sender may send it.
func (o *order) parse(plist []byte) (err error) {
	o.plist = plist
	if o.uuid, o.requestType, err = command.ParseRaw(plist); err != nil {
		return err
	}
	return o.allowed()
}

// allowed refuses what takes an administrator: certain commands, and those with keys that
// only the device may know.
func (o *order) allowed() error {
	if o.by.Allows(identity.ScopeAdmin) {
		return nil
	}
	params, err := command.Params(o.plist)
	if err != nil {
		return err
	}
	why, beyond := apiv1.NeedsAdmin(o.requestType, params)
	if unknown := command.Unknown(o.plist); !beyond && len(unknown) > 0 {
		why, beyond = "nobody here knows what "+unknown[0]+" does", true
	}
	if !beyond {
		return nil
	}
	return &refusal{http.StatusForbidden, fmt.Sprintf("%s needs a token with the scope %s: %s", clip(o.requestType), identity.ScopeAdmin, why)}
}

// queue queues o for those of its enrollments that may have it. The error wraps
// mdm.ErrCommandExists where that is one.
func (c *Compat) queue(ctx context.Context, o order) (*ordered, error) {
	var out *ordered
	err := c.DB.Update(ctx, func(tx storage.Tx) error {
		out = &ordered{rejected: map[mdm.DeviceID]mdm.Rejection{}}
		if o.fresh {
			switch _, _, err := mdm.GetCommand(tx, o.uuid); {
			case err == nil:
				return fmt.Errorf("queue command %s: %w", o.uuid, mdm.ErrCommandExists)
			case !errors.Is(err, storage.ErrNotFound):
				return err
			}
		}
		var err error
		if out.directory, err = lookUp(tx, o.names); err != nil {
			return err
		}
		cmd, rejected, err := c.MDM.Queue(tx, mdm.NewCommand{
			UUID: o.uuid, RequestType: o.requestType, Identifier: profileIn(o.requestType, o.plist), Plist: o.plist,
			CreatedBy: o.by.String(), Targets: out.ids, NoPush: o.noPush, PushAfter: o.pushAfter,
		})
		if err != nil {
			return err
		}
		out.command = cmd
		for _, no := range rejected {
			out.rejected[no.DeviceID] = no
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.Log.InfoContext(ctx, "command queued", "command", o.uuid, "request_type", o.requestType, "devices", len(out.accepted()),
		"rejected", len(out.rejected)+len(out.why), "by", o.by.String())
	return out, nil
}

// profileIn returns the PayloadIdentifier of the profile that a command installs, so that a
// newer version takes the place of an older one that was not delivered.
func profileIn(requestType string, plist []byte) string {
	if requestType != "InstallProfile" {
		return ""
	}
	identifier, err := profile.Identifier(command.ProfileIn(plist))
	if err != nil {
		return "" // only the device can read it
	}
	return identifier
}
