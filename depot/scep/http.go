package scep

import (
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// maxQuery bounds the query of a request by GET: maxMessage in base64, every
// second character escaped.
const maxQuery = 192 << 10

// pointer is for a person who opens the address of a SCEP server.
const pointer = `<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Gatehouse</title>
<main><h1>This address is for devices</h1>
<p>Devices fetch their certificates here. To enrol yours, go to <a href="/enroll">the enrollment page</a>.</p></main></html>
`

// ServeHTTP answers GetCACaps, GetCACert and PKIOperation (RFC 8894, 4), by GET
// and by POST, whatever the content type: clients vary. It is for any path, and
// leaves limits on the rate of requests to what stands in front of it.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	if len(r.URL.RawQuery) > maxQuery {
		http.Error(w, "query too long", http.StatusRequestURITooLong)
		return
	}
	operation, message := query(r.URL.RawQuery)
	switch operation {
	case "GetCACaps":
		body, err := s.GetCACaps(r.Context())
		answer(w, "text/plain", body, err)
	case "GetCACert":
		body, _, err := s.GetCACert(r.Context(), message)
		answer(w, "application/x-x509-ca-cert", body, err) // exactly this: Apple compares
	case "PKIOperation":
		s.pkiOperation(w, r, message)
	case "":
		if r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/html") {
			answer(w, "text/html; charset=utf-8", []byte(pointer), nil)
			return
		}
		http.Error(w, "no SCEP operation", http.StatusBadRequest)
	default:
		http.Error(w, "unknown SCEP operation", http.StatusBadRequest)
	}
}

func (s *Service) pkiOperation(w http.ResponseWriter, r *http.Request, message string) {
	var raw []byte
	var err error
	if r.Method == http.MethodPost {
		raw, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
	} else {
		raw, err = decodeMessage(message)
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge) || len(raw) > maxMessage:
		http.Error(w, "SCEP message too large", http.StatusRequestEntityTooLarge)
		return
	case err != nil:
		http.Error(w, errMalformed.Error(), http.StatusBadRequest)
		return
	}
	reply, err := s.operate(r.Context(), raw, s.peer(r))
	if errors.Is(err, errMalformed) {
		http.Error(w, errMalformed.Error(), http.StatusBadRequest)
		return
	}
	if err != nil {
		s.log.ErrorContext(r.Context(), "scep reply failed", "err", err)
	}
	if unavailable(err) {
		w.Header().Set("Retry-After", "30")
		http.Error(w, "not available now; try again later", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	answer(w, "application/x-pki-message", reply, err)
}

func answer(w http.ResponseWriter, contentType string, body []byte, err error) {
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(body)
}

// query reads operation and message from a raw query, the first of each. It is not
// url.ParseQuery: macOS sends base64 with "+" as it is, which that would take for
// a space.
func query(raw string) (operation, message string) {
	var haveOperation, haveMessage bool
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		key, value, _ := strings.Cut(pair, "=")
		switch {
		case key == "operation" && !haveOperation:
			operation, haveOperation = unescape(value), true
		case key == "message" && !haveMessage:
			message, haveMessage = unescape(value), true
		}
	}
	return operation, message
}

// unescape undoes percent encoding; what is not properly encoded stays as it is,
// and will mean nothing to anybody.
func unescape(s string) string {
	if plain, err := url.PathUnescape(s); err == nil {
		return plain
	}
	return s
}

// decodeMessage decodes base64 of either alphabet, padded or not, escaped once
// too often or not.
func decodeMessage(s string) ([]byte, error) {
	if strings.Contains(s, "%") {
		s = unescape(s)
	}
	s = strings.NewReplacer("-", "+", "_", "/", " ", "+", "\r", "", "\n", "").Replace(s)
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
}
