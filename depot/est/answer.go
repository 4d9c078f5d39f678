package est

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/smallstep/pkcs7"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// writeCertificates answers with a certs-only CMC Simple PKI Response (RFC 5272, 4.1)
// in base64. Clients of the first standard look for the transfer encoding; RFC 8951,
// 3.1, lets others ignore it.
func writeCertificates(w http.ResponseWriter, contentType string, certs ...*x509.Certificate) error {
	var all []byte
	for _, c := range certs {
		all = append(all, c.Raw...)
	}
	cms, err := pkcs7.DegenerateCertificate(all)
	if err != nil {
		return fmt.Errorf("encode certificates: %w", err)
	}
	body := lines(cms)
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Transfer-Encoding", "base64")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the client may be gone; there is nobody to tell
	return nil
}

// lines returns data in base64, in lines of a length that all decoders take.
func lines(data []byte) []byte {
	const width = 64
	text := base64.StdEncoding.EncodeToString(data)
	var b bytes.Buffer
	for len(text) > width {
		b.WriteString(text[:width])
		b.WriteByte('\n')
		text = text[width:]
	}
	b.WriteString(text)
	b.WriteByte('\n')
	return b.Bytes()
}

// refusal is an answer in a sentence for people (RFC 7030, 4.2.3).
type refusal struct {
	status int
	text   string
	header http.Header // besides
}

func (r *refusal) Error() string { return r.text }

// challenges name both ways to sign in (RFC 9110, 11.6.1), in two headers because
// some clients read one challenge a header.
func challenges() http.Header {
	return http.Header{"Www-Authenticate": {`Basic realm="gatehouse", charset="UTF-8"`, `Bearer realm="gatehouse"`}}
}

var (
	errNoOperation = &refusal{status: http.StatusNotFound, text: "There is no such EST operation here: there are cacerts, csrattrs, simpleenroll and simplereenroll."}
	errNoTemplate  = &refusal{status: http.StatusNotFound, text: "There is no certificate template of that name."}

	errUnread = &refusal{status: http.StatusBadRequest, text: "The certificate request did not arrive whole."}

	errUnauthenticated = &refusal{
		status: http.StatusUnauthorized, header: challenges(),
		text: "Sign in with an API token, as bearer or as the password of basic authentication, or with your user name and password.",
	}
	errScope = &refusal{
		status: http.StatusForbidden,
		text:   fmt.Sprintf("This needs a token with the scope %s or %s.", identity.ScopeCertSelf, identity.ScopeCertAny),
	}

	// Not 401: that would have to name a way to sign in, and there is none but TLS.
	errNoCertificate = &refusal{
		status: http.StatusForbidden,
		text:   "A certificate is renewed by showing it: over TLS, where the server asks for one, or through a proxy that passes it on.",
	}
)

func methodError(allowed string) error {
	allow := allowed
	if allowed == http.MethodGet {
		allow += ", " + http.MethodHead
	}
	return &refusal{
		status: http.StatusMethodNotAllowed, header: http.Header{"Allow": {allow}},
		text: "This EST operation is asked for by " + allowed + ".",
	}
}

// seconds is a duration as Retry-After has it (RFC 9110, 10.2.3).
func seconds(d time.Duration) string { return strconv.Itoa(int(math.Ceil(d.Seconds()))) }

// refusalOf returns what to tell the client about err; ours says whether it is our
// own fault.
func refusalOf(err error) (answer *refusal, ours bool) {
	var ready *refusal
	var field *depot.FieldError
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &ready):
		return ready, false
	case errors.As(err, &field):
		return &refusal{status: http.StatusBadRequest, text: "The certificate request is not granted: " + field.Error() + "."}, false
	case errors.As(err, &tooLarge):
		return &refusal{status: http.StatusRequestEntityTooLarge, text: "The certificate request is too large."}, false
	case errors.Is(err, identity.ErrTokenExpired):
		return &refusal{status: http.StatusUnauthorized, header: challenges(), text: "The token has expired. Ask an administrator of this server for another."}, false
	case errors.Is(err, identity.ErrUnauthenticated):
		return &refusal{status: http.StatusUnauthorized, header: challenges(), text: "The token is not valid."}, false
	case errors.Is(err, identity.ErrBadLogin):
		return &refusal{status: http.StatusUnauthorized, header: challenges(), text: "User name or password are wrong."}, false
	case errors.Is(err, identity.ErrThrottled):
		return &refusal{
			status: http.StatusTooManyRequests, header: http.Header{"Retry-After": {seconds(identity.RetryAfter(err))}},
			text: "Too many failed logins. Wait some minutes.",
		}, false
	case errors.Is(err, identity.ErrSource):
		return &refusal{
			status: http.StatusServiceUnavailable, header: http.Header{"Retry-After": {"60"}},
			text: "The directory that knows the user is not available. Try again later.",
		}, false
	case errors.Is(err, identity.ErrUnusable):
		return &refusal{status: http.StatusForbidden, text: "The account can't be used here. Ask an administrator of this server."}, false
	case errors.Is(err, issuance.ErrForbidden):
		return &refusal{status: http.StatusForbidden, text: "Not allowed" + reason(err, issuance.ErrForbidden) + "."}, false
	case errors.Is(err, issuance.ErrRenewal):
		return &refusal{status: http.StatusForbidden, text: "The certificate can't be renewed" + reason(err, issuance.ErrRenewal) + "."}, false
	case errors.Is(err, issuance.ErrKeyReused):
		return &refusal{status: http.StatusBadRequest, text: "The certificate request is not granted: its key is in use by another certificate. Make a new key."}, false
	case errors.Is(err, issuance.ErrExternal):
		return &refusal{status: http.StatusBadRequest, text: "Another authority issues the certificates of this template."}, false
	case errors.Is(err, storage.ErrNotFound): // gone a moment ago
		return errNoTemplate, false
	case errors.Is(err, guard.ErrCertificate):
		return &refusal{status: http.StatusBadRequest, text: "The names in the old certificate can't be read: enroll for a new one."}, false
	case errors.Is(err, depot.ErrQuota):
		wait := seconds(depot.RetryAfter(err))
		return &refusal{
			status: http.StatusTooManyRequests, header: http.Header{"Retry-After": {wait}},
			text: "Too many certificate requests. Ask again in " + wait + " seconds.",
		}, false
	case errors.Is(err, storage.ErrUnavailable), errors.Is(err, storage.ErrCommit), errors.Is(err, storage.ErrClosed),
		errors.Is(err, context.DeadlineExceeded):
		return &refusal{
			status: http.StatusServiceUnavailable, header: http.Header{"Retry-After": {"10"}},
			text: "The server can't reach its database. Try again in a minute.",
		}, true
	}
	return &refusal{status: http.StatusInternalServerError, text: "Something went wrong on the server."}, true
}

// reason is what err adds to one of the Issuer's errors, after a colon; empty if it
// adds nothing.
func reason(err, known error) string {
	if _, why, ok := strings.Cut(err.Error(), known.Error()+": "); ok {
		return ": " + why
	}
	return ""
}

// fail answers r with a sentence about err. What the client is not told is logged.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	answer, ours := refusalOf(err)
	if ours && r.Context().Err() == nil {
		h.Log.ErrorContext(r.Context(), "est request failed", "err", err)
	}
	for name, values := range answer.header {
		w.Header()[name] = values
	}
	w.Header().Del("Content-Transfer-Encoding")
	http.Error(w, answer.text, answer.status) // text/plain
}
