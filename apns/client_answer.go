package apns

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	maxAnswer     = 64 << 10 // bytes of an answer that are read
	maxRetryAfter = 24 * time.Hour
)

var (
	errClosed  = errors.New("the client is closed")
	errExpired = errors.New("the push certificate has expired")
	errNoHTTP2 = errors.New("the server does not speak HTTP/2")
)

// certificateError is what is wrong with a certificate of ours before it was used.
type certificateError struct{ error }

func (e *certificateError) Unwrap() error { return e.error }

// brokenResult is that of pushes for which connections break too often.
var brokenResult = Result{
	Outcome: Retry, Reason: ReasonTransport, Detail: fmt.Sprintf("%d connections broke, one after the other", maxReconnects), Whole: true,
}

var closedResult = Result{Outcome: Retry, Reason: ReasonCanceled, Detail: errClosed.Error()}

// verdict is what an answer means for what is done next.
type verdict struct {
	outcome     Outcome
	whole, ours bool
	leave       bool // the connection
}

var (
	refused     = verdict{outcome: Refused}              // the device is not gone: try again, but seldom
	refusedAll  = verdict{outcome: Refused, whole: true} // until there is another certificate
	wrong       = verdict{outcome: Refused, ours: true}
	invalid     = verdict{outcome: TokenInvalid}
	later       = verdict{outcome: Retry}
	laterForAll = verdict{outcome: Retry, whole: true}
	elsewhere   = verdict{outcome: Retry, leave: true}
)

// verdicts are those on Apple's reasons, by status ("Handling notification responses from
// APNs"; PROTOCOL 6.3).
var verdicts = map[int]map[string]verdict{
	http.StatusBadRequest: {
		"BadDeviceToken":         refused,
		"DeviceTokenNotForTopic": refused,
		"BadTopic":               refused,
		"TopicDisallowed":        refused,
		"MissingTopic":           refused,
		"IdleTimeout":            elsewhere,
		"BadCollapseId":          wrong,
		"BadExpirationDate":      wrong,
		"BadMessageId":           wrong,
		"BadPriority":            wrong,
		"DuplicateHeaders":       wrong,
		"InvalidPushType":        wrong,
		"MissingDeviceToken":     wrong,
		"PayloadEmpty":           wrong,
	},
	http.StatusForbidden: {
		"BadCertificate":             refusedAll,
		"BadCertificateEnvironment":  refusedAll,
		"Forbidden":                  refusedAll,
		"BadEnvironmentKeyIdInToken": refusedAll,
		"ExpiredProviderToken":       refusedAll,
		"InvalidProviderToken":       refusedAll,
		"MissingProviderToken":       refusedAll,
		"UnrelatedKeyIdInToken":      refusedAll,
	},
	http.StatusNotFound:              {"BadPath": wrong},
	http.StatusMethodNotAllowed:      {"MethodNotAllowed": wrong},
	http.StatusGone:                  {"ExpiredToken": invalid, "Unregistered": invalid},
	http.StatusRequestEntityTooLarge: {"PayloadTooLarge": wrong},
	http.StatusTooManyRequests: {
		"TooManyRequests":             later,
		"TooManyProviderTokenUpdates": laterForAll,
	},
	http.StatusInternalServerError: {"InternalServerError": laterForAll},
	http.StatusServiceUnavailable: {
		"ServiceUnavailable": laterForAll,
		"Shutdown":           elsewhere,
	},
}

// judge is the verdict on an answer, of which Apple's table may know nothing.
func judge(status int, reason string) verdict {
	if v, ok := verdicts[status][reason]; ok {
		return v
	}
	switch {
	case status == http.StatusOK:
		return verdict{outcome: Sent}
	case status == http.StatusForbidden:
		return refusedAll
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
		return later
	case status >= 400 && status < 500:
		return refused
	}
	return laterForAll // not Apple's, such as a redirect, or its own trouble
}

// answer is what came back over HTTP.
type answer struct {
	status     int
	apnsID     string
	retryAfter string
	body       []byte
}

type answerKey struct{}

// RoundTrip implements [http.RoundTripper]: it does what apns2 does not. The answer is kept
// whole in the request's *answer, so that one with a strange body still has a status.
func (c *connection) RoundTrip(req *http.Request) (*http.Response, error) {
	a := req.Context().Value(answerKey{}).(*answer)
	defer c.tcp.open()
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{WroteHeaders: c.tcp.open}))
	res, err := c.http.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	c.answers.Add(1)
	a.status, a.apnsID, a.retryAfter = res.StatusCode, res.Header.Get("apns-id"), res.Header.Get("Retry-After")
	a.body, _ = io.ReadAll(io.LimitReader(res.Body, maxAnswer)) // what there is of it
	res.Body = http.NoBody
	return res, nil
}

// send sends one push over a connection that acquire returned.
func (l *line) send(ctx context.Context, conn *connection, p Push) sent {
	if len(p.Token) == 0 || p.Magic == "" {
		return sent{result: Result{Outcome: Refused, Reason: ReasonNoToken, Detail: "the push has no token or no magic", Ours: true}}
	}
	limited, cancel := l.client.limit(ctx)
	defer cancel()
	var a answer
	before := conn.answers.Load()
	_, err := conn.apns.PushWithContext(context.WithValue(limited, answerKey{}, &a), l.client.notification(l.topic, p))
	if a.status != 0 {
		r := a.result(l.client.now())
		return sent{result: r, over: r.Outcome == Refused && r.Whole, leave: judge(r.Status, r.Reason).leave}
	}
	return l.unanswered(ctx, limited, conn, err, conn.answers.Load() == before)
}

// unanswered is what became of a push that has no answer, silent if there was none to others
// either.
func (l *line) unanswered(ctx, limited context.Context, conn *connection, err error, silent bool) sent {
	switch {
	case ctx.Err() != nil:
		return sent{result: *ended(ctx)}
	case limited.Err() != nil:
		r := Result{Outcome: Retry, Reason: ReasonTimeout, Detail: fmt.Sprintf("no answer within %s", requestTime), Whole: silent}
		return sent{result: r, over: silent, leave: silent}
	}
	r := failure(err)
	again := unseen(err)
	if r.Outcome != Refused && l.wasProven(conn) {
		r.Whole = false // the next connection may be as good as this one was
	}
	return sent{result: r, again: again, over: r.Whole && !again, leave: r.Reason != ReasonStreamReset}
}

// result judges the answer.
func (a *answer) result(now time.Time) Result {
	var said struct {
		Reason    string          `json:"reason"`
		Timestamp json.RawMessage `json:"timestamp"`
	}
	if json.Unmarshal(a.body, &said) != nil {
		said.Reason = ""
	}
	r := Result{Status: a.status, Reason: word(said.Reason), APNsID: printable(a.apnsID, 64)}
	v := judge(a.status, r.Reason)
	r.Outcome, r.Whole, r.Ours = v.outcome, v.whole, v.ours
	if r.Outcome == Sent {
		r.Reason = ""
		return r
	}
	if r.Reason == "" {
		r.Reason, r.Detail = ReasonUnexpected, fmt.Sprintf("status %d, and no reason that can be read", a.status)
	}
	if ms, err := strconv.ParseInt(string(said.Timestamp), 10, 64); err == nil && ms > 0 && r.Outcome == TokenInvalid {
		r.Timestamp = time.UnixMilli(ms).UTC()
	}
	if r.Outcome == Retry {
		r.RetryAfter = retryAfter(a.retryAfter, now)
	}
	return r
}

// word returns s if it is one, as Apple's reasons are: it comes from outside and goes into
// logs and pages.
func word(s string) string {
	if len(s) > 64 {
		return ""
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return ""
		}
	}
	return s
}

func printable(s string, most int) string {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return ""
		}
	}
	return s[:min(len(s), most)]
}

// retryAfter reads the header of that name (RFC 9110, 10.2.3).
func retryAfter(v string, now time.Time) time.Duration {
	var d time.Duration
	if seconds, err := strconv.ParseUint(v, 10, 31); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(v); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// ended is the result of what was not sent, or not answered, when ctx ended.
func ended(ctx context.Context) *Result {
	r := Result{Outcome: Retry, Reason: ReasonCanceled, Detail: "given up by the caller"}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		r.Reason, r.Detail = ReasonTimeout, "no answer in the time that the caller gave"
	}
	return &r
}

// failure judges an error of connecting or sending.
func failure(err error) Result {
	var of *url.Error
	if errors.As(err, &of) {
		err = of.Err // the URL has the token
	}
	r := Result{Outcome: Retry, Whole: true, Reason: ReasonTransport, Detail: err.Error()}
	var certificate *certificateError
	var untrusted *tls.CertificateVerificationError
	var stream streamError
	switch {
	case errors.Is(err, errClosed):
		return closedResult
	case errors.Is(err, errExpired):
		r.Outcome, r.Reason = Refused, ReasonCertificateExpired
	case errors.Is(err, storage.ErrNotFound):
		r.Outcome, r.Reason, r.Detail = Refused, ReasonNoCertificate, "the topic has no push certificate"
	case errors.As(err, &certificate):
		r.Reason = ReasonCertificateUnreadable
	case errors.As(err, &untrusted):
		r.Reason = ReasonServerNotTrusted
	case refusesCertificate(err):
		r.Outcome, r.Reason = Refused, "BadCertificate"
	case errors.As(err, &stream):
		r.Reason, r.Whole = ReasonStreamReset, false
	case errors.Is(err, context.DeadlineExceeded):
		r.Reason = ReasonTimeout
	default:
		if reason := word(goAwayReason(err)); reason != "" {
			r.Reason = reason
			if _, ok := verdicts[http.StatusForbidden][reason]; ok {
				r.Outcome = Refused
			}
		}
	}
	return r
}

// refusesCertificate says whether err is the server's alert that it does not take our
// certificate (RFC 8446, 6.2). TLS 1.3 has it come after the handshake, with the first read.
func refusesCertificate(err error) bool {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return false
	}
	switch strings.TrimPrefix(op.Err.Error(), "tls: ") { // crypto/tls has no type for them
	case "bad certificate", "unsupported certificate", "revoked certificate", "expired certificate",
		"unknown certificate", "unknown certificate authority", "access denied", "certificate required":
		return true
	}
	return false
}

// streamError is what net/http's error for a reset stream can be had as, by its own word.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return fmt.Sprintf("stream reset with code %d", e.Code) }

const refusedStream = 7 // RFC 9113, 7: REFUSED_STREAM

// unseen says whether the server has not looked at the request, so that it may be sent
// again on another connection (RFC 9113, 8.7).
func unseen(err error) bool {
	var stream streamError
	if errors.As(err, &stream) {
		return stream.Code == refusedStream
	}
	var of *url.Error
	if errors.As(err, &of) {
		err = of.Err
	}
	switch err.Error() { // net/http has no names for them
	case "http2: Transport received Server's graceful shutdown GOAWAY", // and did not come to this stream
		"http2: client conn not usable", "http2: client conn could not be established", "http2: client conn is closed":
		return true
	}
	return false
}

// goAwayReason returns Apple's reason out of the debug data of a GOAWAY, by which the
// connection ended, or nothing.
func goAwayReason(err error) string {
	_, quoted, ok := strings.Cut(err.Error(), "GOAWAY and closed the connection;")
	if !ok {
		return ""
	}
	_, quoted, _ = strings.Cut(quoted, "debug=")
	debug, err := strconv.Unquote(quoted)
	if err != nil {
		return ""
	}
	var said struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal([]byte(debug), &said) != nil {
		return ""
	}
	return said.Reason
}
