package webui

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// Problem is an error as a program reads it: RFC 9457, with a stable code.
//
// It is an error too, so that a handler may return one. An answer that needs more
// members embeds it.
type Problem struct {
	Type      string `json:"type"`                 // a URI; "about:blank" when empty
	Title     string `json:"title"`                // the kind of problem, the same for every occurrence
	Status    int    `json:"status"`               // the HTTP status
	Detail    string `json:"detail,omitempty"`     // what is wrong this time, for a person
	Code      string `json:"code"`                 // the kind of problem, for a program: never changes
	RequestID string `json:"request_id,omitempty"` // finds the request in the server's log
}

// Error says what went wrong in one line.
func (p *Problem) Error() string {
	if p.Detail == "" {
		return p.Title
	}
	return p.Title + ": " + p.Detail
}

// WriteJSON answers with v as JSON.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone; there is nobody to tell
	return nil
}

// WriteProblem answers r with a problem. detail may be empty, and must not repeat
// what the client sent unless it is known to be harmless.
func WriteProblem(w http.ResponseWriter, r *http.Request, status int, code, title, detail string) {
	WriteProblemJSON(w, status, &Problem{
		Type:      "about:blank",
		Title:     title,
		Status:    status,
		Detail:    detail,
		Code:      code,
		RequestID: RequestID(r.Context()),
	})
}

// WriteProblemJSON answers with v, a *Problem or a struct that embeds one.
func WriteProblemJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Del("Content-Length")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone; there is nobody to tell
}
