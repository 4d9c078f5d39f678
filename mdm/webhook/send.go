package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Step is where a request failed.
type Step string

// The steps, in their order.
const (
	StepPrepare  Step = "prepare" // the server itself could not make the request
	StepDNS      Step = "dns"
	StepAddress  Step = "address" // it is one that no webhook may be sent to
	StepConnect  Step = "connect"
	StepTLS      Step = "tls"
	StepTimeout  Step = "timeout"
	StepExchange Step = "exchange" // the connection broke
	StepRedirect Step = "redirect" // none is followed
	StepStatus   Step = "status"   // the target refused
)

const (
	maxAnswer  = 64 << 10 // bytes of an answer's body that are read
	keepAnswer = 1 << 10  // and that are shown
)

// outcome is what came of one request.
type outcome struct {
	Attempt
	answer     string        // the beginning of the body
	retryAfter time.Duration // as the target asked, if it did
	lost       bool          // what was to be sent can't be read any more
}

// send sends a letter to a target, under the ID of its delivery.
func (s *Service) send(ctx context.Context, t Target, id string, l letter, test bool) outcome {
	began := s.now().UTC()
	clock := time.Now()
	out := s.exchange(ctx, t, id, l, test, began)
	out.At, out.Duration = began, time.Since(clock).Round(time.Millisecond)
	return out
}

func (s *Service) exchange(ctx context.Context, t Target, id string, l letter, test bool, at time.Time) (out outcome) {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	req, err := s.request(ctx, t, id, l, at)
	if err != nil {
		return failed(StepPrepare, err)
	}
	if test {
		req.Header.Set("X-Gatehouse-Test", "true")
	}
	if req.URL.Scheme == "http" {
		if err := s.checkPlain(ctx, req.URL); err != nil {
			return failed(stepOf(ctx, err), err)
		}
	}
	client := s.public
	if t.AllowPrivate {
		client = s.private
	}
	resp, err := client.Do(req)
	if err != nil {
		return failed(stepOf(ctx, err), err)
	}
	defer resp.Body.Close()
	// An answer is read so that the connection can be used again, and no further: of what
	// comes after that, nobody learns.
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	out.Status, out.answer = resp.StatusCode, printable(body)
	switch {
	case resp.StatusCode/100 == 2:
		return out // it said that it took it, whatever became of its body
	case resp.StatusCode/100 == 3:
		out.Step, out.Error = StepRedirect, "the target sends to another place, and webhooks follow nobody: give them the right URL"
	case err != nil && ctx.Err() != nil:
		out.Step, out.Error = StepTimeout, fmt.Sprintf("the answer (%d) did not end in time", resp.StatusCode)
	default:
		out.Step, out.Error = StepStatus, strings.TrimSpace(fmt.Sprintf("the target answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode)))
	}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		out.retryAfter = retryAfter(resp.Header.Get("Retry-After"), at)
	}
	return out
}

// request makes the request of a delivery.
func (s *Service) request(ctx context.Context, t Target, id string, l letter, at time.Time) (*http.Request, error) {
	body, contentType, err := s.body(l, t.Format, t.RawPayloads)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.URL, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the URL is none")
	}
	if req.Header, err = s.headers(t); err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", contentType)
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", s.agent)
	}
	secrets, err := s.secrets(t, at)
	if err != nil {
		return nil, err
	}
	sign(req.Header, id, at, body, secrets)
	return req, nil
}

func failed(step Step, err error) outcome {
	return outcome{Attempt: Attempt{Step: step, Error: explain(step, err)}}
}

// stepOf says where a request failed.
func stepOf(ctx context.Context, err error) Step {
	var (
		dns       *net.DNSError
		wrongCert *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		alert     tls.AlertError
		unknown   x509.UnknownAuthorityError
		host      x509.HostnameError
		op        *net.OpError
		timeout   net.Error
	)
	switch {
	case errors.Is(err, guard.ErrAddress), errors.Is(err, errPublicHTTP):
		return StepAddress
	case errors.As(err, &dns):
		return StepDNS
	case errors.As(err, &wrongCert), errors.As(err, &record), errors.As(err, &alert), errors.As(err, &unknown), errors.As(err, &host):
		return StepTLS
	case errors.Is(err, context.DeadlineExceeded), ctx.Err() != nil, errors.As(err, &timeout) && timeout.Timeout():
		return StepTimeout
	case errors.As(err, &op) && op.Op == "dial":
		return StepConnect
	case strings.Contains(err.Error(), "tls: "), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return StepTLS
	}
	return StepExchange
}

// explain says in a line what was wrong, without the URL, whose path may be a secret.
func explain(step Step, err error) string {
	var asked *url.Error
	if errors.As(err, &asked) {
		err = asked.Err
	}
	switch step {
	case StepTimeout:
		return "the target did not answer in time"
	case StepDNS:
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsNotFound {
			return "no host of this name is known"
		}
	}
	return clean(err.Error(), 300)
}

// retryAfter reads the header of that name (RFC 9110, 10.2.3).
func retryAfter(value string, at time.Time) time.Duration {
	if seconds, err := strconv.Atoi(strings.TrimSpace(value)); err == nil {
		return min(max(0, time.Duration(min(seconds, 1<<30))*time.Second), maxAsked)
	}
	if when, err := http.ParseTime(value); err == nil {
		return min(max(0, when.Sub(at)), maxAsked)
	}
	return 0
}

// printable returns the beginning of a body as text.
func printable(body []byte) string {
	return clean(string(body[:min(len(body), keepAnswer)]), keepAnswer)
}

// clean makes text of others fit to be shown.
func clean(text string, most int) string {
	if len(text) > most {
		text = text[:most]
	}
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, ""))
}

// Tested is what came of a trial.
type Tested struct {
	OK bool
	Attempt
	Answer string // the beginning of the answer's body
}

// Test sends something to a target now, whether it is on or off. A target that was failing
// and takes it gets at once what waits for it.
func (s *Service) Test(ctx context.Context, id string) (Tested, error) {
	t, err := s.Target(ctx, id)
	if err != nil {
		return Tested{}, err
	}
	at := s.now().UTC()
	l, err := s.testLetter(t.Format, at)
	if err != nil {
		return Tested{}, err
	}
	out := s.send(ctx, t, newID(at), l, true)
	if ctx.Err() != nil {
		return Tested{}, ctx.Err()
	}
	tested := Tested{OK: out.Step == "", Attempt: out.Attempt, Answer: out.answer}
	if !tested.OK || !t.Enabled {
		return tested, nil
	}
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if _, err := targets.Get(tx, id); err != nil {
			return err
		}
		st, err := standingOf(tx, id)
		if err != nil {
			return err
		}
		failing := st.Failures > 0 || st.Alarmed
		if err := s.recovered(tx, t, &st, at); err != nil {
			return err
		}
		if !failing {
			return nil
		}
		return forgiveHealth(tx, id, at)
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return Tested{}, fmt.Errorf("test webhook: %w", err)
	}
	return tested, nil
}
