package compat

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/wake"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// resultJSON is NanoMDM's APIResult (docs/openapi.yaml of v0.9.0).
type resultJSON struct {
	Status       map[string]enrollmentJSON `json:"status,omitempty"` // by the enrollment's name
	NoPush       bool                      `json:"no_push,omitempty"`
	PushError    string                    `json:"push_error,omitempty"`
	CommandError string                    `json:"command_error,omitempty"`
	CommandUUID  string                    `json:"command_uuid,omitempty"`
	RequestType  string                    `json:"request_type,omitempty"`
}

// enrollmentJSON is what became of a request for one enrollment.
type enrollmentJSON struct {
	PushError    string `json:"push_error,omitempty"`
	PushResult   string `json:"push_result,omitempty"` // apns-id
	CommandError string `json:"command_error,omitempty"`
}

// code is the status of a result about n enrollments: 200 where all went well, 207 where some
// did, 500 where none did.
func (r *resultJSON) code(n int) int {
	if r.PushError != "" || r.CommandError != "" {
		return http.StatusInternalServerError
	}
	failed := 0
	for _, e := range r.Status {
		if e.PushError != "" || e.CommandError != "" {
			failed++
		}
	}
	switch {
	case failed == 0:
		return http.StatusOK
	case failed < n:
		return http.StatusMultiStatus
	}
	return http.StatusInternalServerError
}

func (r *resultJSON) set(name string, change func(*enrollmentJSON)) {
	if r.Status == nil {
		r.Status = map[string]enrollmentJSON{}
	}
	e := r.Status[name]
	change(&e)
	r.Status[name] = e
}

// enrollmentNames are the names in the path, with commas in between.
func enrollmentNames(r *http.Request) ([]string, error) {
	path := r.PathValue("ids")
	if path == "" {
		return nil, &refusal{http.StatusInternalServerError, "getting enrollment ids: empty path"}
	}
	return strings.Split(path, ","), nil
}

// pushNano pushes, and says what became of each push.
func (c *Compat) pushNano(w http.ResponseWriter, r *http.Request) error {
	names, err := enrollmentNames(r)
	var out resultJSON
	if err != nil {
		var status int
		status, out.PushError = c.describe(w, r, err)
		return writeNano(w, status, out)
	}
	if err := c.pushByName(w, r, names, &out); err != nil {
		return err
	}
	return writeNano(w, out.code(len(names)), out)
}

// pushByName pushes to enrollments that nothing else is asked about.
func (c *Compat) pushByName(w http.ResponseWriter, r *http.Request, names []string, out *resultJSON) error {
	var who *directory
	err := c.DB.View(r.Context(), func(tx storage.Tx) (err error) {
		who, err = lookUp(tx, names)
		return err
	})
	if err != nil {
		return err
	}
	c.push(w, r, who, who.ids, out)
	return nil
}

// push pushes to those of ids, and writes into out what became of it and of the names that
// stand for nobody.
func (c *Compat) push(w http.ResponseWriter, r *http.Request, who *directory, ids []mdm.DeviceID, out *resultJSON) {
	for name := range who.why {
		out.set(name, func(e *enrollmentJSON) { e.PushError = noPushData })
	}
	if len(ids) == 0 {
		return
	}
	pushed, err := c.Push.PushNow(r.Context(), ids)
	if err != nil {
		_, out.PushError = c.describe(w, r, err)
	}
	for _, p := range pushed {
		for _, name := range who.names[p.DeviceID] {
			out.set(name, func(e *enrollmentJSON) { e.PushResult, e.PushError = p.Result.APNsID, pushError(p) })
		}
	}
}

// noPushData is what NanoMDM says of an enrollment that it can't push to.
const noPushData = "push data missing for id"

// pushError says why a push did not go in NanoMDM's words, empty if it went.
func pushError(p wake.Pushed) string {
	switch {
	case errors.Is(p.Err, storage.ErrNotFound), errors.Is(p.Err, wake.ErrNoToken):
		return noPushData
	case p.Err != nil:
		return noPushData + ": " + p.Sentence()
	case p.Result.Outcome == apns.Sent:
		return ""
	case p.Result.Status == 0:
		return p.Sentence()
	}
	text := fmt.Sprintf("push HTTP status: %d: APNs push error: %s", p.Result.Status, p.Result.Reason)
	if !p.Result.Timestamp.IsZero() {
		text += fmt.Sprintf(": timestamp %d", p.Result.Timestamp.UnixMilli())
	}
	return text
}

// enqueue queues a whole command and pushes. Without a command it only pushes.
func (c *Compat) enqueue(w http.ResponseWriter, r *http.Request) error {
	out := resultJSON{NoPush: r.URL.Query().Get("nopush") != ""}
	names, err := c.enqueueFor(w, r, &out)
	if err == nil {
		return writeNano(w, out.code(len(names)), out)
	}
	// What was wrong with the request is NanoMDM's 500, but for what it has no word for.
	status, text := c.describe(w, r, err)
	switch status {
	case http.StatusBadRequest, http.StatusConflict:
		status = http.StatusInternalServerError
	}
	out.CommandError = text
	return writeNano(w, status, out)
}

func (c *Compat) enqueueFor(w http.ResponseWriter, r *http.Request, out *resultJSON) (names []string, err error) {
	if names, err = enrollmentNames(r); err != nil {
		return nil, err
	}
	plist, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	if len(plist) == 0 {
		if out.NoPush {
			return nil, &refusal{http.StatusInternalServerError, "must enqueue or push"}
		}
		return names, c.pushByName(w, r, names, out)
	}
	o := order{names: names, by: principal(r), fresh: true, noPush: out.NoPush, pushAfter: pushAfter}
	if err := o.parse(plist); err != nil {
		if _, is := errors.AsType[*refusal](err); is {
			return nil, err
		}
		return nil, fmt.Errorf("decoding command: %w", err)
	}
	out.CommandUUID, out.RequestType = o.uuid, o.requestType
	done, err := c.queue(r.Context(), o)
	if errors.Is(err, mdm.ErrCommandExists) {
		return nil, &refusal{http.StatusConflict, "command already exists: " + o.uuid}
	}
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if why := done.refused(name); why != "" {
			out.set(name, func(e *enrollmentJSON) { e.CommandError = why })
		}
	}
	if !out.NoPush {
		c.push(w, r, done.directory, done.accepted(), out)
	}
	return names, nil
}
