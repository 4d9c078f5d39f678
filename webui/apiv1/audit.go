package apiv1

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

type eventJSON struct {
	ID          string            `json:"id"`
	At          time.Time         `json:"at"`
	Actor       string            `json:"actor"`
	Action      string            `json:"action"`
	Outcome     string            `json:"outcome"` // ok, refused or failed
	Reason      string            `json:"reason"`
	DeviceID    string            `json:"device_id"`
	User        string            `json:"user"`
	Certificate string            `json:"certificate"`
	Template    string            `json:"template"`
	Peer        string            `json:"peer"`
	Details     map[string]string `json:"details"`
}

func auditEvent(e event.Event) eventJSON {
	out := eventJSON{
		ID: e.ID, At: e.At.UTC(), Actor: e.Actor, Action: e.Action, Outcome: string(e.Outcome), Reason: e.Reason,
		DeviceID: e.DeviceID, User: e.User, Certificate: e.Certificate, Template: e.Template, Peer: e.Peer, Details: e.Details,
	}
	if out.Details == nil {
		out.Details = map[string]string{}
	}
	return out
}

// certificateEvents is what a token that manages certificates, and nothing else, may read.
const certificateEvents = "certificate."

func (a *API) listAudit(w http.ResponseWriter, r *http.Request) error {
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	filter, err := auditFilterOf(r.URL.Query())
	if err != nil {
		return err
	}
	none := false
	if !principal(r).Allows(identity.ScopeReadOnly) {
		switch {
		case strings.HasPrefix(certificateEvents, filter.Action):
			filter.Action = certificateEvents
		case !strings.HasPrefix(filter.Action, certificateEvents):
			none = true
		}
	}
	var list []event.Event
	var next string
	if !none {
		err = a.db.View(r.Context(), func(tx storage.Tx) (err error) {
			list, next, err = event.Page(tx, filter, cursor, limit)
			return err
		})
	}
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(list, next, auditEvent))
}

// auditFilterOf reads the parameters that say which events are wanted.
func auditFilterOf(query url.Values) (f event.Filter, err error) {
	serial, outcome, since, until := "", "", "", ""
	for _, p := range []struct {
		name string
		to   *string
	}{
		{"action", &f.Action}, {"outcome", &outcome}, {"device_id", &f.DeviceID}, {"user", &f.User},
		{"certificate", &serial}, {"since", &since}, {"until", &until},
	} {
		if *p.to, err = textOf(query, p.name); err != nil {
			return event.Filter{}, err
		}
	}
	f.Certificate = string(serialOf(serial))
	if f.Certificate == "" && serial != "" {
		return event.Filter{}, invalid("certificate", "must be a serial number")
	}
	switch f.Outcome = event.Outcome(outcome); f.Outcome {
	case "", event.OK, event.Refused, event.Failed:
	default:
		return event.Filter{}, invalid("outcome", "must be ok, refused or failed")
	}
	if f.Since, err = timeOf("since", since); err != nil {
		return event.Filter{}, err
	}
	if f.Until, err = timeOf("until", until); err != nil {
		return event.Filter{}, err
	}
	return f, nil
}

// timeOf reads a parameter that is a time, zero if it is not there.
func timeOf(name, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, invalid(name, "must be a time such as 2026-11-22T09:00:00Z")
	}
	return t, nil
}

// textOf reads a parameter that is there once or not at all.
func textOf(query url.Values, name string) (string, error) {
	switch values := query[name]; {
	case len(values) > 1:
		return "", invalid(name, "is there more than once")
	case len(values) == 1 && len(values[0]) > maxCursor:
		return "", invalid(name, "is too long")
	}
	return query.Get(name), nil
}
