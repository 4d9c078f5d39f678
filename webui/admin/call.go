package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/gatehouse-mdm/gatehouse/webui"
)

// Problem is a refusal of the API.
type Problem struct {
	webui.Problem
	Errors   []FieldError `json:"errors"`   // what is wrong in the request, field by field
	Rejected []Rejection  `json:"rejected"` // which devices may not get a command
	Blockers []Blocker    `json:"blockers"` // what an authority can't be retired for
}

// Blocker is something that relies on an authority.
type Blocker struct {
	Kind     string   `json:"kind"` // device, enrollment, assignment, certificate, authority or holders
	DeviceID string   `json:"device_id"`
	Template string   `json:"template"`
	Serial   string   `json:"serial"`
	Reason   string   `json:"reason"`
	Count    int      `json:"count"` // of holders: of their certificates
	Serials  []string `json:"serials"`
}

// FieldError says what is wrong with one field of a request, as the API names it:
// "params.PIN".
type FieldError struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

// Rejection says why a device may not get a command.
type Rejection struct {
	DeviceID string `json:"device_id"`
	Code     string `json:"code"`
	Reason   string `json:"reason"`
}

// Unwrap lets errors.As find the problem as pages know it.
func (p *Problem) Unwrap() error { return &p.Problem }

// List is a page of a list of the API. NextCursor is empty at its end.
type List[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor"`
}

// answer is what the API answered: it waits in memory, as a page is made of it.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}

// Get decodes what the API answers at a path, such as /api/v1/devices, into out. A refusal
// is a *[Problem].
func (d *Desk) Get(ctx context.Context, path string, query url.Values, out any) error {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	_, err := d.Do(ctx, http.MethodGet, path, "", nil, out)
	return err
}

// Send sends in as JSON, nothing if it is nil, and decodes the answer into out unless that
// is nil. A refusal is a *[Problem].
func (d *Desk) Send(ctx context.Context, method, path string, in, out any) error {
	if in == nil {
		_, err := d.Do(ctx, method, path, "", nil, out)
		return err
	}
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	_, err = d.Do(ctx, method, path, "application/json", bytes.NewReader(body), out)
	return err
}

// Do sends a body of any type, and decodes the answer into out: as JSON, or as it is where
// out is a *[]byte. It returns the answer's header.
func (d *Desk) Do(ctx context.Context, method, path, contentType string, body io.Reader, out any) (http.Header, error) {
	r, err := http.NewRequestWithContext(ctx, method, path, body)
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if key, ok := ctx.Value(onceKey{}).(string); ok && method == http.MethodPost {
		r.Header.Set("Idempotency-Key", key)
	}
	got := &answer{header: http.Header{}}
	d.API.As(Principal(ctx)).ServeHTTP(got, r)
	if err := got.problem(); err != nil {
		return nil, err
	}
	switch out := out.(type) {
	case nil:
	case *[]byte:
		*out = got.body.Bytes()
	default:
		if got.body.Len() == 0 {
			break // 204
		}
		if err := json.Unmarshal(got.body.Bytes(), out); err != nil {
			return nil, fmt.Errorf("admin: answer of %s %s: %w", method, path, err)
		}
	}
	return got.header, nil
}

// problem returns what the API refused.
func (a *answer) problem() error {
	if a.status < http.StatusBadRequest {
		return nil
	}
	p := &Problem{}
	if err := json.Unmarshal(a.body.Bytes(), p); err != nil || p.Code == "" {
		return fmt.Errorf("admin: the API answers %d and no problem", a.status)
	}
	if p.Code == "idempotency_key_reused" { // of a form on the way back to it
		p.Title, p.Detail = "This form was sent before, with something else in it", "That was done, and nothing else was now. If you mean this as well, send it once more."
	}
	return p
}

// Forward answers r with what the API answers at a path: a file to download, a picture.
func (d *Desk) Forward(w http.ResponseWriter, r *http.Request, path string, query url.Values) error {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	ask, err := http.NewRequestWithContext(r.Context(), http.MethodGet, path, nil)
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	for _, name := range []string{"Last-Event-ID", "If-None-Match", "Accept-Encoding"} {
		if v := r.Header.Get(name); v != "" {
			ask.Header.Set(name, v)
		}
	}
	through := &through{ResponseWriter: w}
	d.API.As(Principal(r.Context())).ServeHTTP(through, ask)
	switch {
	case through.broken:
		panic(http.ErrAbortHandler) // nobody shall take half a file for all of it
	case through.refused != nil:
		return through.refused.problem()
	}
	return nil
}

// through passes an answer on unless it is a refusal, of which a page is made.
type through struct {
	http.ResponseWriter
	begun   bool
	broken  bool // it failed after it had begun
	refused *answer
}

func (t *through) Unwrap() http.ResponseWriter { return t.ResponseWriter }

func (t *through) WriteHeader(status int) {
	switch {
	case t.begun:
		t.broken = t.broken || status >= http.StatusBadRequest
	case status >= http.StatusBadRequest:
		t.refused = &answer{header: t.Header(), status: status}
		for _, name := range []string{"Content-Type", "Content-Length", "Content-Disposition"} {
			t.Header().Del(name)
		}
	default:
		t.ResponseWriter.WriteHeader(status)
	}
	t.begun = true
}

func (t *through) Write(b []byte) (int, error) {
	if !t.begun {
		t.WriteHeader(http.StatusOK)
	}
	switch {
	case t.broken:
		return len(b), nil
	case t.refused != nil:
		return t.refused.body.Write(b)
	}
	return t.ResponseWriter.Write(b)
}
