package checkin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	forwardTime = 30 * time.Second // until the whole answer is there
	maxAnswer   = 4 << 20          // bytes of it
)

// errNoAnswer means that the declarative server can't be reached, or says nothing that a device
// could make use of.
var errNoAnswer = errors.New("no answer from the declarative management server")

// Forwarder asks another server, as NanoMDM's -dm does: KMFDDM and others answer that.
//
// Each question is GET or, with a report, PUT below the server's URL, with the headers
// X-Enrollment-ID, X-Enrollment-Type and, of a user, X-Enrollment-ParentID.
type Forwarder struct {
	url    *url.URL // ends in a slash
	client *http.Client
	time   time.Duration
	log    *slog.Logger
}

var _ DeclarativeServer = (*Forwarder)(nil)

// NewForwarder returns a Forwarder to the server at to, which [CheckForwardURL] takes. A user
// and password in it are sent as basic authentication.
func NewForwarder(to *url.URL, log *slog.Logger) (*Forwarder, error) {
	if to == nil || log == nil {
		return nil, errors.New("checkin: a Forwarder needs a URL and a log")
	}
	if err := CheckForwardURL(to); err != nil {
		return nil, fmt.Errorf("checkin: %w", err)
	}
	u := *to
	if !strings.HasSuffix(u.Path, "/") {
		u = *u.JoinPath("/")
	}
	dialer := net.Dialer{Timeout: 10 * time.Second}
	return &Forwarder{url: &u, time: forwardTime, log: log, client: &http.Client{
		// Its own connections: what they wait for is nobody else's trouble.
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second,
			MaxIdleConnsPerHost: maxAsking, MaxConnsPerHost: maxAsking, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// CheckForwardURL says what is wrong with a URL to forward to.
func CheckForwardURL(u *url.URL) error {
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("the URL must begin with http:// or https://")
	case u.Hostname() == "":
		return errors.New("the URL names no host")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return errors.New("the URL must have no query and no fragment: what devices ask for is added to it")
	}
	return nil
}

// Answer implements DeclarativeServer. A status that says "not you" or "not here" is about this
// server and not about the device: to a device a 401 means that it is to leave.
func (f *Forwarder) Answer(ctx context.Context, q DeclarativeQuestion) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, f.time)
	defer cancel()
	status, body, err := f.exchange(ctx, q)
	switch {
	case err != nil:
		return 0, nil, fmt.Errorf("%w: %w", errNoAnswer, err)
	case status >= 200 && status < 300:
		return http.StatusOK, body, nil
	case status < 400, status == http.StatusUnauthorized, status == http.StatusProxyAuthRequired, status >= 500:
		return 0, nil, fmt.Errorf("%w: it says %d %s to %q", errNoAnswer, status, http.StatusText(status), q.Endpoint)
	}
	f.log.DebugContext(ctx, "declarative management server refuses", "status", status, "endpoint", q.Endpoint)
	return status, nil, nil
}

func (f *Forwarder) exchange(ctx context.Context, q DeclarativeQuestion) (status int, body []byte, err error) {
	to, err := f.url.Parse(q.Endpoint)
	if err != nil {
		return 0, nil, err
	}
	method := http.MethodGet
	if len(q.Data) > 0 {
		method = http.MethodPut
	}
	req, err := http.NewRequestWithContext(ctx, method, to.String(), bytes.NewReader(q.Data))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("User-Agent", "Gatehouse")
	req.Header.Set("X-Enrollment-ID", q.EnrollmentID)
	req.Header.Set("X-Enrollment-Type", q.EnrollmentType)
	if q.ParentID != "" {
		req.Header.Set("X-Enrollment-ParentID", q.ParentID)
	}
	if len(q.Data) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return 0, nil, err
	}
	if len(body) > maxAnswer {
		return 0, nil, fmt.Errorf("it says more than %d bytes", maxAnswer)
	}
	return resp.StatusCode, body, nil
}
