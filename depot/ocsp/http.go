package ocsp

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
)

const (
	contentType = "application/ocsp-response"

	// mayKeep is for caches on the way. They should not keep a revocation from being
	// seen, as nextUpdate would let them.
	mayKeep = "max-age=60, public, no-transform, must-revalidate"
	noKeep  = "no-store, no-transform"
)

// ServeHTTP answers a request by POST, whatever its content type, or by GET (RFC
// 6960, appendix A).
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var der []byte
	var err error
	switch r.Method {
	case http.MethodPost:
		der, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	case http.MethodGet, http.MethodHead:
		der, err = decodePath(strings.TrimPrefix(r.URL.Path, depot.PathOCSP+"/"))
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		http.Error(w, "OCSP request too large", http.StatusRequestEntityTooLarge)
		return
	case err != nil:
		der = nil // which is malformed
	}
	send(w, r, h.answer(r.Context(), der))
}

// send sends an answer, with what caches go by (RFC 5019, 6.2).
func send(w http.ResponseWriter, r *http.Request, a answer) {
	head := w.Header()
	head.Set("Content-Type", contentType)
	if r.Method == http.MethodPost || a.tag == "" {
		head.Set("Cache-Control", noKeep)
		head.Set("Content-Length", strconv.Itoa(len(a.der)))
		_, _ = w.Write(a.der)
		return
	}
	head.Set("Cache-Control", mayKeep)
	head.Set("Etag", a.tag)
	head.Set("Last-Modified", a.at.Format(http.TimeFormat))
	head.Set("Expires", a.next.Format(http.TimeFormat))
	// Two answers can be of one second, so that only the tag tells them apart: no time
	// is given here, and If-Modified-Since not looked at.
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.der))
}

// decodePath decodes base64 of either alphabet, padded or not, escaped once too often
// or not: clients vary.
func decodePath(s string) ([]byte, error) {
	if strings.Contains(s, "%") {
		if plain, err := url.PathUnescape(s); err == nil {
			s = plain
		}
	}
	if base64.RawStdEncoding.DecodedLen(len(s)) > maxRequest+2 {
		return nil, errMalformed
	}
	s = strings.NewReplacer("-", "+", "_", "/", " ", "+").Replace(s)
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
}

// OneSegment makes a request by GET one segment of its path. It stands in front of a
// router: base64 has slashes, and a path with two in a row [http.ServeMux] would
// redirect to another one.
func OneSegment(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest, ok := strings.CutPrefix(r.URL.EscapedPath(), depot.PathOCSP+"/")
		if !ok || !strings.Contains(rest, "/") {
			next.ServeHTTP(w, r)
			return
		}
		u := *r.URL
		u.RawPath = depot.PathOCSP + "/" + strings.ReplaceAll(rest, "/", "%2F")
		r2 := *r
		r2.URL = &u
		next.ServeHTTP(w, &r2)
	})
}
