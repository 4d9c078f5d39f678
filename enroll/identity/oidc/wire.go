package oidc

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

const (
	// longestAnswer bounds what a provider answers, and answerTime how long it may take.
	longestAnswer = 1 << 20
	answerTime    = 10 * time.Second
)

// newClient returns the client for everything that is asked of a provider.
func newClient(s settings) *http.Client {
	client := guard.NewClient(s.AllowPrivate)
	if transport, ok := client.Transport.(*http.Transport); ok {
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.roots}
	}
	client.Transport = wire{client.Transport}
	client.Timeout = 0 // wire's, as the error of this one hides what is wrapped in it
	return client
}

// wire takes answers as a whole, and no longer ones than longestAnswer. All that goes wrong
// on the way is an [identity.ErrSource].
type wire struct{ next http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	// Not the whole URL: it is the provider's, and may have been made to be long.
	where := r.URL.Scheme + "://" + cut(r.URL.Host, 100) + cut(r.URL.Path, 200)
	resp, err := w.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", identity.ErrSource, where, reason(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, longestAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %s: answer cut off: %w", identity.ErrSource, where, reason(err))
	case len(body) > longestAnswer:
		return nil, fmt.Errorf("%w: %s: answer of more than 1 MiB", identity.ErrSource, where)
	case resp.StatusCode >= 300 && (r.Method == http.MethodGet || resp.StatusCode >= 500 || resp.StatusCode < 400):
		// What is left are refusals by the token endpoint, which say why.
		return nil, fmt.Errorf("%w: %s: status %d", identity.ErrSource, where, resp.StatusCode)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// reason is what of an error of the network is worth to be read.
func reason(err error) error {
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		return errors.New("its certificate is of an authority that is not trusted here")
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	}
	return err
}
