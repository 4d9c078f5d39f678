package compat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// refusal is an answer that says what was wrong.
type refusal struct {
	status int
	text   string
}

func (e *refusal) Error() string { return e.text }

// describe finds the status and the text for err. What it doesn't know is an internal error,
// whose text stays in the log, under the request's ID.
func (c *Compat) describe(w http.ResponseWriter, r *http.Request, err error) (status int, text string) {
	var ready *refusal
	var parameter *command.ParamError
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &ready):
		return ready.status, ready.text
	case errors.As(err, &parameter), errors.Is(err, command.ErrRaw), errors.Is(err, command.ErrUnknownType):
		return http.StatusBadRequest, err.Error()
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge, fmt.Sprintf("the request's body is larger than %d bytes", tooLarge.Limit)
	case errors.Is(err, identity.ErrThrottled):
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(identity.RetryAfter(err).Seconds()))))
		return http.StatusTooManyRequests, "too many failed tries"
	case errors.Is(err, mdm.ErrCommandExists):
		return http.StatusConflict, "another command has this CommandUUID"
	case errors.Is(err, storage.ErrUnavailable), errors.Is(err, storage.ErrCommit), errors.Is(err, storage.ErrClosed):
		w.Header().Set("Retry-After", "10")
		c.logFailure(r, err)
		return http.StatusServiceUnavailable, "the database is not available"
	case errors.Is(err, context.DeadlineExceeded):
		c.logFailure(r, err)
		return http.StatusServiceUnavailable, "the server took too long"
	}
	c.logFailure(r, err)
	return http.StatusInternalServerError, "something went wrong on the server: its log has it under request " + webui.RequestID(r.Context())
}

func (c *Compat) logFailure(r *http.Request, err error) {
	if r.Context().Err() == context.Canceled {
		return // the client is gone
	}
	c.Log.ErrorContext(r.Context(), "request failed", "request", webui.RequestID(r.Context()), "err", err)
}

// unauthorized is what both projects say to whoever is not let in. Whose token has expired is
// told so: nobody else has it.
func unauthorized(err error) string {
	text := http.StatusText(http.StatusUnauthorized)
	if errors.Is(err, identity.ErrTokenExpired) {
		text += ": the token has expired"
	}
	return text
}

// failNano answers as NanoMDM does where it has no result to show.
func (c *Compat) failNano(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, identity.ErrUnauthenticated) {
		w.Header().Set("WWW-Authenticate", `Basic realm="`+userNano+`"`)
		http.Error(w, unauthorized(err), http.StatusUnauthorized)
		return
	}
	status, text := c.describe(w, r, err)
	_ = writeNano(w, status, errorJSON{text}) // it is made of texts alone
}

// failMicro answers as MicroMDM does.
func (c *Compat) failMicro(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, identity.ErrUnauthenticated) {
		w.Header().Set("WWW-Authenticate", `Basic realm="`+userMicro+`"`)
		_ = writeMicro(w, http.StatusUnauthorized, errorJSON{unauthorized(err)})
		return
	}
	status, text := c.describe(w, r, err)
	_ = writeMicro(w, status, errorJSON{text})
}

// errorJSON is an error in either API.
type errorJSON struct {
	Error string `json:"error"`
}

// writeNano writes v as NanoMDM would.
func writeNano(w http.ResponseWriter, status int, v any) error {
	return write(w, status, "application/json", "\t", v)
}

// writeMicro writes v as MicroMDM would.
func writeMicro(w http.ResponseWriter, status int, v any) error {
	return write(w, status, "application/json; charset=utf-8", "  ", v)
}

func write(w http.ResponseWriter, status int, contentType, indent string, v any) error {
	body, err := json.MarshalIndent(v, "", indent)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone; there is nobody to tell
	return nil
}

// clip bounds what a client chose, for an answer that names it.
func clip(s string) string {
	const most = 128
	if len(s) > most {
		s = s[:most-len("…")] + "…"
	}
	return strings.ToValidUTF8(s, "")
}
