package scep

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/smallstep/scep"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// ClientConfig says what a Client needs: Log and Now.
type ClientConfig struct {
	Log *slog.Logger
	Now func() time.Time

	// A request that the other server wants to think about is asked after so many times,
	// and so often; zero means 4 times, every 3 seconds.
	Polls     int
	PollEvery time.Duration

	// NewKey makes the key of one transaction; nil means rsa.GenerateKey. Tests that can't
	// wait hand out a key again.
	NewKey func(bits int) (*rsa.PrivateKey, error)
}

// Client passes certificate requests on to other SCEP servers (RFC 8894), as a
// registration authority does, and fetches the challenges that they want to see. It
// keeps no state.
//
// Its errors wrap [depot.ErrUpstreamUnavailable] or [depot.ErrUpstreamRefused], and hold
// no secrets.
type Client struct {
	log       *slog.Logger
	now       func() time.Time
	polls     int
	pollEvery time.Duration
	newKey    func(bits int) (*rsa.PrivateKey, error)

	public, anywhere *http.Client
}

// NewClient returns a Client, or says what c lacks.
func NewClient(c ClientConfig) (*Client, error) {
	if c.Log == nil || c.Now == nil {
		return nil, errors.New("scep client: Log and Now are required")
	}
	if c.Polls == 0 {
		c.Polls = 4
	}
	if c.PollEvery == 0 {
		c.PollEvery = 3 * time.Second
	}
	if c.NewKey == nil {
		c.NewKey = func(bits int) (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, bits) }
	}
	return &Client{
		log: c.Log, now: c.Now, polls: c.Polls, pollEvery: c.PollEvery, newKey: c.NewKey,
		public: guard.NewClient(false), anywhere: guard.NewClient(true),
	}, nil
}

// Request gets a certificate for csr from another server, as it is: its challenge and
// its names are what that server will see. What comes back is for the key of csr and
// issued by the authority of u, or below it; what else it says is that authority's to
// decide.
//
// The same csr is the same transaction, so that a server can tell a repetition.
func (c *Client) Request(ctx context.Context, u template.Upstream, csr *x509.CertificateRequest) (*x509.Certificate, error) {
	ca, err := c.authority(ctx, u)
	if err != nil {
		return nil, err
	}
	caps, err := c.capabilities(ctx, u)
	if err != nil {
		return nil, err
	}
	t, err := c.begin(ca, caps, csr)
	if err != nil {
		return nil, err
	}
	messageType, content := scep.PKCSReq, csr.Raw
	for polls := 0; ; polls++ {
		rep, err := c.operate(ctx, u, t, caps, messageType, content)
		if err != nil {
			return nil, err
		}
		switch rep.status {
		case scep.SUCCESS:
			cert, err := t.certificate(rep, c.now())
			if err != nil {
				return nil, err
			}
			c.log.InfoContext(ctx, "certificate from another authority", "url", u.URL, "transaction", t.id, "serial", depot.SerialOf(cert))
			return cert, nil
		case scep.FAILURE:
			return nil, refusal("it says %s", rep.failure)
		}
		if polls == c.polls {
			return nil, notNow("it has not decided after %d questions", polls+1)
		}
		if err := wait(ctx, c.pollEvery); err != nil {
			return nil, notNow("it has not decided yet: %w", err)
		}
		messageType, content = scep.CertPoll, t.issuerAndSubject()
	}
}

func notNow(format string, args ...any) error {
	return fmt.Errorf("%w: %w", depot.ErrUpstreamUnavailable, fmt.Errorf(format, args...))
}

func refusal(format string, args ...any) error {
	return fmt.Errorf("%w: %w", depot.ErrUpstreamRefused, fmt.Errorf(format, args...))
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// operate sends one pkiMessage and reads its answer.
func (c *Client) operate(ctx context.Context, u template.Upstream, t *transaction, caps capabilitySet, messageType scep.MessageType, content []byte) (response, error) {
	raw, nonce, err := t.message(messageType, content)
	if err != nil {
		return response{}, fmt.Errorf("build SCEP request: %w", err)
	}
	var answer []byte
	if caps.has("POSTPKIOperation") || caps.has("SCEPStandard") {
		answer, err = c.ask(ctx, u, "PKIOperation", "", raw)
	} else {
		answer, err = c.ask(ctx, u, "PKIOperation", base64.StdEncoding.EncodeToString(raw), nil)
	}
	if err != nil {
		return response{}, err
	}
	return t.read(answer, nonce)
}

// statusError is an answer of another status than 200.
type statusError struct {
	operation string
	status    int
}

func (e *statusError) Error() string {
	return fmt.Sprintf("it answers %s with status %d", e.operation, e.status)
}

// ask sends one operation, by POST if there is a body.
func (c *Client) ask(ctx context.Context, u template.Upstream, operation, message string, body []byte) ([]byte, error) {
	at := u.URL + "?operation=" + operation
	if message != "" {
		at += "&message=" + url.QueryEscape(message)
	}
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, at, strings.NewReader(string(body)))
	if err != nil {
		return nil, notNow("its URL is none")
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-pki-message")
	}
	resp, answer, err := c.do(u, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, notNow("%w", &statusError{operation, resp.StatusCode})
	}
	return answer, nil
}

// do sends a request and reads the whole answer, within limits.
func (c *Client) do(u template.Upstream, req *http.Request) (*http.Response, []byte, error) {
	client := c.public
	if u.AllowPrivate {
		client = c.anywhere
	}
	resp, err := client.Do(req)
	var urlError *url.Error
	if errors.As(err, &urlError) {
		err = urlError.Err // else it repeats the URL, with what is in its query
	}
	if err != nil {
		return nil, nil, notNow("it can't be reached: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage+1))
	switch {
	case err != nil:
		return nil, nil, notNow("its answer breaks off: %w", err)
	case len(body) > maxMessage:
		return nil, nil, notNow("its answer has more than %d bytes", maxMessage)
	}
	return resp, body, nil
}
