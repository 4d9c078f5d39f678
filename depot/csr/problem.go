package csr

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// problem is an answer that says what was wrong (RFC 9457), of the same shape as
// those of the API.
type problem struct {
	Type      string         `json:"type"`
	Title     string         `json:"title"`
	Status    int            `json:"status"`
	Detail    string         `json:"detail,omitempty"`
	Code      string         `json:"code"`
	RequestID string         `json:"request_id,omitempty"`
	Errors    []fieldProblem `json:"errors,omitempty"` // what is wrong in the request, field by field

	header http.Header // of the answer, besides
}

// fieldProblem is a [depot.FieldError] in JSON.
type fieldProblem struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

func (p *problem) Error() string {
	if p.Detail == "" {
		return p.Title
	}
	return p.Title + ": " + p.Detail
}

// realm stands in every WWW-Authenticate header (RFC 6750, 3).
const realm = `Bearer realm="gatehouse"`

var (
	errMethod = &problem{
		Title: "Method not allowed", Status: http.StatusMethodNotAllowed, Code: "method_not_allowed",
		header: http.Header{"Allow": {"POST"}},
	}
	errNoToken = &problem{
		Title: "Not authenticated", Status: http.StatusUnauthorized, Code: "unauthenticated",
		Detail: "There must be one Authorization header, with a bearer token.",
		header: http.Header{"Www-Authenticate": {realm}},
	}
	errBadToken = &problem{
		Title: "Not authenticated", Status: http.StatusUnauthorized, Code: "unauthenticated",
		Detail: "The token is not valid.",
		header: http.Header{"Www-Authenticate": {realm + `, error="invalid_token"`}},
	}
	errExpired = &problem{
		Title: "The token has expired", Status: http.StatusUnauthorized, Code: "token_expired",
		Detail: "Ask an administrator of this server for another.",
		header: errBadToken.header,
	}
	errScope = &problem{
		Title: "Not allowed", Status: http.StatusForbidden, Code: "forbidden",
		Detail: fmt.Sprintf("This needs a token with the scope %s or %s.", identity.ScopeCertSelf, identity.ScopeCertAny),
		header: http.Header{"Www-Authenticate": {fmt.Sprintf(`%s, error="insufficient_scope", scope="%s"`, realm, identity.ScopeCertSelf)}},
	}
	errQuery = &problem{Title: "The query string is malformed", Status: http.StatusBadRequest, Code: "bad_query"}
)

// problemOf returns the problem that err stands for, nil if it is our own fault.
func problemOf(err error) *problem {
	var ready *problem
	var field *depot.FieldError
	switch {
	case errors.As(err, &ready):
		own := *ready
		return &own
	case errors.As(err, &field):
		return invalid(http.StatusBadRequest, "invalid_request", field.Field, field.Reason)
	case errors.Is(err, issuance.ErrKeyReused):
		return invalid(http.StatusConflict, "key_reused", "public_key", "is in use by another certificate: make a new key")
	case errors.Is(err, issuance.ErrExternal):
		return invalid(http.StatusBadRequest, "invalid_request", "template", "names one whose certificates another authority issues")
	case errors.Is(err, storage.ErrNotFound):
		return invalid(http.StatusNotFound, "not_found", "template", "names no certificate template")
	case errors.Is(err, identity.ErrTokenExpired):
		own := *errExpired
		return &own
	case errors.Is(err, identity.ErrUnauthenticated):
		own := *errBadToken
		return &own
	case errors.Is(err, issuance.ErrForbidden):
		_, why, _ := strings.Cut(err.Error(), issuance.ErrForbidden.Error()+": ")
		return &problem{Title: "Not allowed", Status: http.StatusForbidden, Code: "forbidden", Detail: why}
	case errors.Is(err, depot.ErrQuota):
		seconds := int(math.Ceil(depot.RetryAfter(err).Seconds()))
		return &problem{
			Title: "Too many certificate requests", Status: http.StatusTooManyRequests, Code: "too_many_requests",
			Detail: fmt.Sprintf("Ask again in %d seconds.", seconds),
			header: http.Header{"Retry-After": {strconv.Itoa(seconds)}},
		}
	}
	return nil
}

// invalid is the problem of a request with a wrong field.
func invalid(status int, code, field, reason string) *problem {
	return &problem{
		Title: "The request is not valid", Status: status, Code: code,
		Detail: field + " " + reason + ".", Errors: []fieldProblem{{field, reason}},
	}
}

// fail answers r with the problem that err stands for.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err)
	if p == nil {
		h.Fail(w, r, err)
		return
	}
	p.Type = "about:blank"
	p.RequestID = h.RequestID(r.Context())
	body, err := json.Marshal(p)
	if err != nil {
		h.Fail(w, r, fmt.Errorf("encode problem: %w", err))
		return
	}
	for name, values := range p.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone; there is nobody to tell
}
