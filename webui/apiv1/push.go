package apiv1

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/wake"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// pushJSON is how the waking of a device stands.
type pushJSON struct {
	State    string     `json:"state"`
	Topic    string     `json:"topic"`
	Reason   string     `json:"reason"` // a sentence
	PushedAt *time.Time `json:"pushed_at"`
	NextAt   *time.Time `json:"next_at"`
	Pushes   int        `json:"pushes"` // since the newest command
	DeadAt   *time.Time `json:"dead_at"`
	Silent   bool       `json:"silent"` // not heard of for longer than the settings say
}

// pushOf tells how the waking of a device stands, nil of one that is not enrolled.
func (a *API) pushOf(tx storage.Tx, o mdm.Overview) (*pushJSON, error) {
	if !o.Live() {
		return nil, nil
	}
	set, err := wake.GetSettings(tx)
	if err != nil {
		return nil, err
	}
	return a.pushWith(tx, set, o)
}

// pushesOf is pushOf for many.
func (a *API) pushesOf(ctx context.Context, devices []mdm.Overview) (all map[mdm.DeviceID]*pushJSON, err error) {
	err = a.db.View(ctx, func(tx storage.Tx) error {
		all = make(map[mdm.DeviceID]*pushJSON, len(devices))
		tx.Prefetch(wake.ReadSettings())
		for _, o := range devices {
			tx.Prefetch(mdm.ReadWakeup(o.ID))
		}
		set, err := wake.GetSettings(tx)
		if err != nil {
			return err
		}
		for _, o := range devices {
			if !o.Live() {
				continue
			}
			if all[o.ID], err = a.pushWith(tx, set, o); err != nil {
				return err
			}
		}
		return nil
	})
	return all, err
}

// pushWith is pushOf of a device that is enrolled, with settings that were read before.
func (a *API) pushWith(tx storage.Tx, set wake.Settings, o mdm.Overview) (*pushJSON, error) {
	st, err := mdm.PushStatusOf(tx, o.Device, a.now())
	if err != nil {
		return nil, err
	}
	last := o.LastSeenAt
	if last.IsZero() {
		last = o.EnrolledAt
	}
	return &pushJSON{
		State: string(st.State), Topic: st.Topic, Reason: st.Sentence, PushedAt: timestamp(st.PushedAt), NextAt: timestamp(st.NextAt),
		Pushes: st.Pushes, DeadAt: timestamp(st.DeadAt), Silent: a.now().Sub(last) > set.SilentAfter,
	}, nil
}

// pushDevice pushes to a device, whether it has commands or not.
func (a *API) pushDevice(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	pushed, err := a.wake.PushNow(r.Context(), []mdm.DeviceID{mdm.DeviceID(id)})
	if err != nil {
		return err
	}
	p := pushed[0]
	unavailable := func(code, title string) error {
		return &problem{Problem: webui.Problem{Status: http.StatusConflict, Code: code, Title: title, Detail: p.Sentence()}}
	}
	switch {
	case errors.Is(p.Err, wake.ErrNoToken):
		return unavailable("push_no_token", "The device has no push token")
	case p.Err != nil:
		return p.Err
	case p.Result.Outcome == apns.TokenInvalid:
		return unavailable("push_token_dead", "The device's push token is dead")
	case p.Result.Outcome == apns.Refused && p.Result.Whole:
		return unavailable("push_unavailable", "This server can't push to the device now")
	case p.Result.Outcome == apns.Refused:
		return unavailable("push_refused", "Apple refuses the push")
	}
	return webui.WriteJSON(w, http.StatusAccepted, struct {
		DeviceID string `json:"device_id"`
		State    string `json:"state"`
		Reason   string `json:"reason"`
	}{id, string(p.Result.Outcome), p.Sentence()})
}
