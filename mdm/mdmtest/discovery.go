package mdmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Versions that a service has, and the EnrollmentMode of each.
const (
	VersionBYOD = "mdm-byod" // User Enrollment
	VersionADDE = "mdm-adde" // account-driven Device Enrollment

	modeBYOD = "BYOD"
	modeADDE = "ADDE"
)

// Service is what service discovery finds (PROTOCOL 1).
type Service struct {
	Version string
	BaseURL string
}

func (s *Service) mode() string {
	if s.Version == VersionBYOD {
		return modeBYOD
	}
	return modeADDE
}

// Discover asks the domain of the identifier for its service, and then the fallback
// that the account names. A device that is not enrolled takes the kind of enrollment
// from the answer. A refusal in Apple's form is a [*Refusal], any other status an
// [*HTTPError].
func (d *Device) Discover(ctx context.Context) (*Service, error) {
	account := d.opts.Account
	if account == nil {
		return nil, ErrNoAccount
	}
	at := strings.LastIndexByte(account.Identifier, '@')
	if at < 1 || !isFQDN(account.Identifier[at+1:]) {
		return nil, fmt.Errorf("discovery: %q is no identifier with a domain", account.Identifier)
	}
	domain := account.Identifier[at+1:]
	base := "https://" + domain
	if account.Reach != nil {
		base = account.Reach(domain)
	}
	query := userIdentifier(account.Identifier) + "&model-family=" + string(d.opts.Model)
	s, err := d.discover(ctx, base+"/.well-known/com.apple.remotemanagement?"+query)
	if failedByStatus(err) && account.Fallback != "" && d.opts.since("18.2", "15.2") {
		var second error
		if s, second = d.discover(ctx, withQuery(account.Fallback, query)); second == nil {
			err = nil
		} else {
			err = fmt.Errorf("%w; the fallback: %w", err, second)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	if d.unmanaged() {
		d.byod.Store(s.mode() == modeBYOD)
		d.mu.Lock()
		d.posted = nil
		d.mu.Unlock()
	}
	return s, nil
}

func failedByStatus(err error) bool {
	var status *HTTPError
	return errors.As(err, &status)
}

// isFQDN reports whether a name has at least two labels.
func isFQDN(name string) bool {
	for _, r := range name {
		if r <= ' ' || strings.ContainsRune("/:?#@[]\\", r) {
			return false
		}
	}
	return strings.Contains(strings.TrimSuffix(name, "."), ".") && !strings.HasPrefix(name, ".") && !strings.Contains(name, "..")
}

// userIdentifier is the parameter as devices write it: the @ stays.
func userIdentifier(identifier string) string {
	return "user-identifier=" + queryValue(identifier)
}

func queryValue(s string) string {
	return strings.NewReplacer("%40", "@", "+", "%20").Replace(url.QueryEscape(s))
}

func withQuery(u, query string) string {
	if strings.Contains(u, "?") {
		return u + "&" + query
	}
	return u + "?" + query
}

func (d *Device) discover(ctx context.Context, address string) (*Service, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", managementAgent)
	reply, err := d.exchange(req, StepDiscover)
	if err != nil {
		return nil, err
	}
	if reply.Status != http.StatusOK {
		return nil, reply.refusal(codeWellKnown)
	}
	if kind := mediaType(reply.Header); kind != "application/json" {
		return nil, fmt.Errorf("Content-Type %q, want application/json", kind)
	}
	return parseService(reply.Body, d.opts.PlainHTTP)
}

func parseService(body []byte, plainHTTP bool) (*Service, error) {
	answer, err := decodeJSON(body)
	if err != nil {
		return nil, err
	}
	f := fields{dict: answer}
	servers := f.dicts("Servers")
	switch {
	case f.err != nil:
		return nil, f.err
	case len(servers) != 1:
		return nil, fmt.Errorf("%d Servers, want one", len(servers))
	}
	f = fields{dict: servers[0]}
	s := &Service{Version: f.required("Version"), BaseURL: f.required("BaseURL")}
	switch {
	case f.err != nil:
		return nil, f.err
	case s.Version != VersionBYOD && s.Version != VersionADDE:
		return nil, fmt.Errorf("unknown Version %q", s.Version)
	}
	if err := checkURL(s.BaseURL, plainHTTP); err != nil {
		return nil, fmt.Errorf("BaseURL: %w", err)
	}
	return s, nil
}

// decodeJSON reads one JSON object and nothing behind it. Its keys keep their case,
// which the tags of a struct would not ask for.
func decodeJSON(body []byte) (Dict, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	var d Dict
	if err := dec.Decode(&d); err != nil {
		return nil, fmt.Errorf("JSON: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("JSON: something follows the document")
	}
	return d, nil
}

// exchange sends a request of an enrollment: without client certificate, and again
// if a test wants that.
func (d *Device) exchange(req *http.Request, step Step) (*Reply, error) {
	client, err := d.clientFor(nil)
	if err != nil {
		return nil, err
	}
	if d.twice(step) {
		again, err := redirected(req, req.URL)
		if err != nil {
			return nil, err
		}
		if _, err := roundTrip(client, again); err != nil {
			return nil, err
		}
	}
	return roundTrip(client, req)
}
