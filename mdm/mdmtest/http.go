package mdmtest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

const (
	maxReply     = 16 << 20 // bytes that a device reads of any answer
	maxRedirects = 8
	httpTimeout  = time.Minute
)

// Reply is an answer of the server, read to its end.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// HTTPError is an answer with a status that the device takes for a failure.
type HTTPError struct {
	Reply
}

func (e *HTTPError) Error() string {
	body := bytes.TrimSpace(e.Body)
	if len(body) > 200 {
		body = append(body[:200:200], "…"...)
	}
	return fmt.Sprintf("server answers %d %s: %q", e.Status, http.StatusText(e.Status), body)
}

func (r *Reply) err() error {
	if r.Status >= 200 && r.Status < 300 {
		return nil
	}
	return &HTTPError{*r}
}

// roundTrip sends req and follows redirects with the same method and body, also
// where a browser would turn to GET: the device repeats its PUT (PROTOCOL 0).
func roundTrip(client *http.Client, req *http.Request) (*Reply, error) {
	for range maxRedirects {
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
		if closeErr := resp.Body.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return nil, &url.Error{Op: "read answer of", URL: req.URL.Redacted(), Err: err}
		}
		if len(body) > maxReply {
			return nil, errors.New("answer is too large")
		}
		reply := &Reply{Status: resp.StatusCode, Header: resp.Header, Body: body}
		location := resp.Header.Get("Location")
		if reply.Status < 300 || reply.Status >= 400 || location == "" {
			return reply, nil
		}
		next, err := req.URL.Parse(location)
		if err != nil {
			return nil, fmt.Errorf("redirect: %w", err)
		}
		if req.URL.Scheme == "https" && next.Scheme != "https" {
			return nil, fmt.Errorf("redirect from https to %s", next.Scheme)
		}
		if req, err = redirected(req, next); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("too many redirects")
}

func redirected(req *http.Request, to *url.URL) (*http.Request, error) {
	again := req.Clone(req.Context())
	again.URL, again.Host = to, ""
	if to.Host != req.URL.Host {
		again.Header.Del("Authorization")
	}
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		again.Body = body
	}
	return again, nil
}

// newClient is an HTTP client with the TLS rules of the 27.0 systems (PROTOCOL 0):
// TLS 1.3, or 1.2 with ECDHE and AES-GCM. It presents cert when asked, if there is one.
func newClient(roots *x509.CertPool, cert *tls.Certificate) *http.Client {
	config := &tls.Config{
		RootCAs:    roots,
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		},
	}
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return clientOver(&http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: 15 * time.Second,
		MaxIdleConnsPerHost: 1,
		IdleConnTimeout:     30 * time.Second,
		ForceAttemptHTTP2:   true,
	})
}

func clientOver(t http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     t,
		Timeout:       httpTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Prepared is a request, signed and ready to be sent any number of times: what
// benchmarks send, and what an attacker replays.
type Prepared struct {
	Method string
	URL    string
	Header http.Header
	Body   []byte
}

// Request is a fresh HTTP request of p.
func (p Prepared) Request(ctx context.Context) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, p.Method, p.URL, bytes.NewReader(p.Body))
	if err != nil {
		return nil, err
	}
	req.Header = p.Header.Clone()
	return req, nil
}
