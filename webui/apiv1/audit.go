package apiv1

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

type eventJSON struct {
	ID          string            `json:"id"`
	Seq         *uint64           `json:"seq"`  // null for a moment, until it has its place
	Hash        *string           `json:"hash"` // null as long
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
	Changes     []auditChange     `json:"changes"`
}

// listedEvent is an event in the list for people: what its device is called today is no part
// of what happened, nor of the chain.
type listedEvent struct {
	eventJSON
	DeviceName string `json:"device_name,omitempty"`
}

// auditChange is a field that somebody changed.
type auditChange struct {
	Field  string `json:"field"`
	Before string `json:"before"`
	After  string `json:"after"`
}

func auditEvent(s event.Sequenced) eventJSON {
	e := s.Event
	out := eventJSON{
		ID: e.ID, At: e.At.UTC(), Actor: e.Actor, Action: e.Action, Outcome: string(e.Outcome), Reason: e.Reason,
		DeviceID: e.DeviceID, User: e.User, Certificate: e.Certificate, Template: e.Template, Peer: e.Peer, Details: e.Details,
	}
	if s.Seq != 0 {
		out.Seq, out.Hash = &s.Seq, &s.Hash
	}
	out.Changes = make([]auditChange, len(e.Changes))
	for i, c := range e.Changes {
		out.Changes[i] = auditChange(c)
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
	var list []event.Sequenced
	var next string
	if !none {
		err = a.viewScope(r, func(tx storage.Tx, scope *mdm.Scope) (err error) {
			list, next, err = reachable(scope, cursor, limit, func(cursor string, limit int) ([]event.Sequenced, string, error) {
				return event.PlacedPage(tx, filter, cursor, limit)
			}, func(e event.Sequenced) string { return e.Event.DeviceID })
			return err
		})
	}
	if err != nil {
		return err
	}
	var names map[mdm.DeviceID]string
	if principal(r).Allows(identity.ScopeReadOnly) {
		var of []mdm.DeviceID
		for _, e := range list {
			if e.Event.DeviceID != "" {
				of = append(of, mdm.DeviceID(e.Event.DeviceID))
			}
		}
		slices.Sort(of)
		if names, err = a.deviceNames(r, slices.Compact(of)); err != nil {
			return err
		}
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(list, next, func(e event.Sequenced) listedEvent {
		return listedEvent{auditEvent(e), names[mdm.DeviceID(e.Event.DeviceID)]}
	}))
}

// exportAudit writes the audit log as JSON Lines, as much as there is. What takes longer than
// any request may is bounded write by write.
func (a *API) exportAudit(w http.ResponseWriter, r *http.Request) error {
	since, until, err := timesOf(r.URL.Query())
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/jsonl")
	h.Set("Content-Disposition", fmt.Sprintf(`attachment; filename="audit-%s.jsonl"`, a.now().UTC().Format(time.DateOnly)))
	out := &patient{w: w, control: http.NewResponseController(w)}
	if err := event.Export(r.Context(), a.db, out, since, until); err != nil {
		if out.err != nil {
			return nil // the client is gone
		}
		return err // what was begun is cut off, so that nobody takes it for all
	}
	if !out.begun {
		w.WriteHeader(http.StatusOK)
	}
	return nil
}

// patient writes for as long as the other side reads.
type patient struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
	err     error
}

func (p *patient) Write(b []byte) (n int, err error) {
	p.begun = true
	_ = p.control.SetWriteDeadline(time.Now().Add(streamWrite)) // not supported by all writers
	n, p.err = p.w.Write(b)
	return n, p.err
}

type verifiedJSON struct {
	OK      bool   `json:"ok"`
	Problem string `json:"problem"` // where it does not hold
	First   uint64 `json:"first"`
	Last    uint64 `json:"last"`
	Events  int    `json:"events"`
	Erased  int    `json:"erased"`
	Hash    string `json:"hash"`
}

// verifyAudit computes the chain of the audit log anew.
func (a *API) verifyAudit(w http.ResponseWriter, r *http.Request) error {
	want, err := anchorOf(r.URL.Query())
	if err != nil {
		return err
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // as long as the log is
	if err := event.Sequence(r.Context(), a.db); err != nil {
		return err
	}
	v, err := event.VerifyStored(r.Context(), a.db, want)
	out := verifiedJSON{First: v.First, Last: v.Last, Events: v.Events, Erased: v.Erased, Hash: v.Hash}
	switch {
	case errors.Is(err, event.ErrBroken) || errors.Is(err, event.ErrNotThere):
		out.Problem = err.Error()
	case err != nil:
		return err
	default:
		out.OK = true
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(streamWrite))
	return webui.WriteJSON(w, http.StatusOK, out)
}

// anchorOf reads the hash that was noted of an event.
func anchorOf(query url.Values) (map[uint64]string, error) {
	number, err := textOf(query, "seq")
	if err != nil {
		return nil, err
	}
	hash, err := textOf(query, "hash")
	if err != nil || number == "" && hash == "" {
		return nil, err
	}
	seq, err := strconv.ParseUint(number, 10, 64)
	if err != nil || seq == 0 {
		return nil, invalid("seq", "must be the place of the event that hash is of, from 1")
	}
	if len(hash) != 64 || strings.Trim(hash, "0123456789abcdef") != "" {
		return nil, invalid("hash", "must be 64 lower-case hexadecimal digits, which the event in place seq had")
	}
	return map[uint64]string{seq: hash}, nil
}

type eventTypeJSON struct {
	Action  string   `json:"action"`
	Text    string   `json:"text"`
	Fields  []string `json:"fields"`
	Details []string `json:"details"`
}

// listEventTypes answers with every action there is, and what of it webhooks carry.
func (a *API) listEventTypes(w http.ResponseWriter, _ *http.Request) error {
	return webui.WriteJSON(w, http.StatusOK, newPage(event.Types(), "", func(t event.Type) eventTypeJSON {
		return eventTypeJSON{t.Action, t.Text, t.Fields, append([]string{}, t.Details...)}
	}))
}

// auditFilterOf reads the parameters that say which events are wanted.
func auditFilterOf(query url.Values) (f event.Filter, err error) {
	serial, outcome := "", ""
	for _, p := range []struct {
		name string
		to   *string
	}{
		{"action", &f.Action}, {"outcome", &outcome}, {"device_id", &f.DeviceID}, {"user", &f.User},
		{"certificate", &serial}, {"actor", &f.Actor}, {"q", &f.Text},
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
	f.Since, f.Until, err = timesOf(query)
	return f, err
}

// timesOf reads since and until.
func timesOf(query url.Values) (since, until time.Time, err error) {
	for name, to := range map[string]*time.Time{"since": &since, "until": &until} {
		text, err := textOf(query, name)
		if err == nil {
			*to, err = timeOf(name, text)
		}
		if err != nil {
			return time.Time{}, time.Time{}, err
		}
	}
	return since, until, nil
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
