package business

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// protocolVersion is the newest that this package knows: Apple answers as a server of
	// that age expects. Apple's pages name 8 as the first one with migration deadlines; of
	// the calls made here, the account's fields came with 3 at the latest.
	protocolVersion = "8"

	headerSession = "X-ADM-Auth-Session"
	headerVersion = "X-Server-Protocol-Version"

	mediaType = "application/json;charset=UTF8" // as in Apple's examples

	maxAnswer = 256 << 10 // bytes
)

// Kind is what an answer of Apple's means for whoever wanted something.
type Kind string

// The kinds of refusals.
const (
	TokenRefused             Kind = "token_refused"
	TermsNotAccepted         Kind = "terms_not_accepted"
	AccessDenied             Kind = "access_denied"
	OrganisationNotSupported Kind = "organisation_not_supported"
	URLRefused               Kind = "url_refused"
	URLMissing               Kind = "url_missing"
	NotRegistered            Kind = "not_registered"
	Busy                     Kind = "busy"
	Unreachable              Kind = "unreachable"
	Unexpected               Kind = "unexpected_answer"
)

// Sentence says what the matter is.
func (k Kind) Sentence() string { return kinds[k].sentence }

// Next says what to do about it.
func (k Kind) Next() string { return kinds[k].next }

var kinds = map[Kind]struct{ sentence, next string }{
	TokenRefused: {
		"Apple does not take the server token: it has expired, or a newer one was downloaded, or the device management service was removed there.",
		"Download a new token in Apple Business Manager or Apple School Manager and upload it here. Where that one is refused, too, look at this server’s clock: Apple takes no signature with a wrong time.",
	},
	TermsNotAccepted: {
		"New terms and conditions must be accepted at Apple.",
		"An administrator signs in to Apple Business Manager or Apple School Manager and accepts them; then ask again here.",
	},
	AccessDenied: {
		"Apple denies this server access to what it asked for.",
		"Look in Apple Business Manager or Apple School Manager whether the device management service is still there and active, and whether whoever made its token still has the role to.",
	},
	OrganisationNotSupported: {
		"Apple does not support account-driven enrollment for this organisation.",
		"The organisation needs Managed Apple Accounts in Apple Business Manager or Apple School Manager; where it has them, ask Apple’s support. Devices can still find this server by the organisation’s own domain.",
	},
	URLRefused: {
		"Apple does not accept the discovery URL of this server: it is not https, or malformed.",
		"Set --server-url to the https URL that devices reach this server by.",
	},
	URLMissing: {
		"Apple got no discovery URL.",
		"Something between this server and Apple changes requests: let it pass them as they are.",
	},
	NotRegistered: {
		"No discovery URL is registered with Apple.",
		"Register this server’s.",
	},
	Busy: {
		"Apple’s service takes no requests for now.",
		"Ask again later.",
	},
	Unreachable: {
		"Apple’s service can’t be reached.",
		"This server must be allowed to connect to mdmenrollment.apple.com, port 443, by TLS that nobody opens on the way, and without a proxy.",
	},
	Unexpected: {
		"Apple’s service gave an answer that is not documented.",
		"Ask again later; if it stays, the log says what came.",
	},
}

// kindOf are Apple's codes ("Authenticating for Automated Device Enrollment", "Assign
// Account-Driven Enrollment Service Discovery").
var kindOf = map[string]Kind{
	"T_C_NOT_SIGNED":                      TermsNotAccepted,
	"ACCESS_DENIED":                       AccessDenied,
	"ORG_NOT_SUPPORTED":                   OrganisationNotSupported,
	"MDM_SERVICE_DISCOVERY_URL_REQUIRED":  URLMissing,
	"MDM_SERVICE_DISCOVERY_URL_NOT_VALID": URLRefused,
	"NOT_FOUND":                           NotRegistered,
}

// AppleError is a call that Apple did not do.
type AppleError struct {
	Kind       Kind
	Call       string        // "GET /account"
	Status     int           // of HTTP; 0: there was no answer
	Code       string        // Apple's, "T_C_NOT_SIGNED"; empty: none
	RetryAfter time.Duration // as Apple says; 0: it does not
	Err        error         // why there was no answer, or none of use
}

func (e *AppleError) Error() string {
	text := e.Call + " at Apple: "
	if e.Status != 0 {
		text += strings.TrimSpace(fmt.Sprintf("%d %s", e.Status, e.Code)) + ": "
	}
	text += e.Kind.Sentence()
	if e.Err != nil {
		text += " " + e.Err.Error()
	}
	return text
}

func (e *AppleError) Unwrap() error { return e.Err }

// session is what Apple knows us by for some minutes.
type session struct {
	token string // ID of the server token that it was begun with
	value string
}

func (s *Service) sessionOf(c credentials) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session.token != c.id() {
		return ""
	}
	return s.session.value
}

func (s *Service) keepSession(c credentials, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session = session{c.id(), value}
}

// call asks Apple for something by the token c, in a new session where there is none or
// Apple does not know it any more. in and out are JSON; either may be nil. Errors are
// *AppleError, or that of ctx.
func (s *Service) call(ctx context.Context, c credentials, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	value := s.sessionOf(c)
	begun := value == ""
	for {
		if value == "" {
			var err error
			if value, err = s.begin(ctx, c); err != nil {
				return err
			}
		}
		a, err := s.ask(ctx, method, path, body, func(r *http.Request) { r.Header.Set(headerSession, value) })
		if err != nil {
			return err
		}
		if a.header != "" { // Apple may go on with another one at any time
			value = a.header
		}
		if a.sessionEnded() {
			s.keepSession(c, "")
			if begun {
				return a.refusal()
			}
			value, begun = "", true
			continue
		}
		s.keepSession(c, value)
		if a.status != http.StatusOK {
			return a.refusal()
		}
		if out != nil {
			if err := json.Unmarshal(a.body, out); err != nil {
				return &AppleError{Kind: Unexpected, Call: a.call, Status: a.status, Err: errors.New("the answer is not the JSON that is documented")}
			}
		}
		return nil
	}
}

// begin starts a session.
func (s *Service) begin(ctx context.Context, c credentials) (string, error) {
	a, err := s.ask(ctx, http.MethodGet, "/session", nil, func(r *http.Request) { authorize(r, c, s.now()) })
	if err != nil {
		return "", err
	}
	if a.status != http.StatusOK {
		refusal := a.refusal()
		// It says who does not know us, and neither why nor by what.
		if refusal.Kind == Unexpected && (a.status == http.StatusUnauthorized || a.status == http.StatusForbidden) {
			refusal.Kind = TokenRefused
		}
		return "", refusal
	}
	var out struct {
		Token string `json:"auth_session_token"`
	}
	if err := json.Unmarshal(a.body, &out); err != nil || out.Token == "" || !isHeader(out.Token) {
		return "", &AppleError{Kind: Unexpected, Call: a.call, Status: a.status, Err: errors.New("the answer has no session")}
	}
	return out.Token, nil
}

// answer is what Apple said.
type answer struct {
	call   string
	status int
	code   string // of an error; empty: none
	header string // session to go on with; empty: the same
	retry  time.Duration
	body   []byte
}

// sessionEnded says whether a new session would help: 401 UNAUTHORIZED is one that ended,
// 403 FORBIDDEN one that Apple does not know.
func (a answer) sessionEnded() bool {
	return a.status == http.StatusUnauthorized || a.status == http.StatusForbidden && (a.code == "FORBIDDEN" || a.code == "EXPIRED_TOKEN")
}

func (a answer) refusal() *AppleError {
	e := &AppleError{Kind: Unexpected, Call: a.call, Status: a.status, Code: a.code, RetryAfter: a.retry}
	switch kind, known := kindOf[a.code]; {
	case known:
		e.Kind = kind
	case a.status == http.StatusTooManyRequests, a.status == http.StatusServiceUnavailable:
		e.Kind = Busy
	case a.sessionEnded():
		e.Kind = TokenRefused
	}
	return e
}

// ask sends one request, which prepare gives its authority.
func (s *Service) ask(ctx context.Context, method, path string, body []byte, prepare func(*http.Request)) (answer, error) {
	a := answer{call: method + " " + path}
	fail := func(kind Kind, err error) (answer, error) {
		if ctx.Err() != nil { // nobody waits any more, which says nothing of Apple
			return answer{}, fmt.Errorf("%s at Apple: %w", a.call, ctx.Err())
		}
		return answer{}, &AppleError{Kind: kind, Call: a.call, Status: a.status, Err: err}
	}
	req, err := http.NewRequestWithContext(ctx, method, s.endpoint.JoinPath(path).String(), bytes.NewReader(body))
	if err != nil {
		return fail(Unexpected, err)
	}
	req.Header.Set("User-Agent", s.userAgent)
	req.Header.Set(headerVersion, protocolVersion)
	req.Header.Set("Content-Type", mediaType)
	req.Header.Set("Accept", "application/json")
	prepare(req)
	resp, err := s.client.Do(req)
	if err != nil {
		return fail(Unreachable, err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	a.status = resp.StatusCode
	if a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1)); err != nil {
		return fail(Unreachable, err)
	}
	if len(a.body) > maxAnswer {
		return fail(Unexpected, fmt.Errorf("the answer has more than %d bytes", maxAnswer))
	}
	if v := resp.Header.Get(headerSession); isHeader(v) {
		a.header = v
	}
	if a.status != http.StatusOK {
		a.code, a.retry = errorCode(a.body), retryAfter(resp.Header.Get("Retry-After"), s.now())
		if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); a.code == "" && media == "text/html" {
			s.log.WarnContext(ctx, "a web page came in place of Apple's answer: something in between answers for it", "call", a.call, "status", a.status)
		}
	}
	return a, nil
}

// errorCode returns the code in the body of an error: bare, in quotes as Apple's simulator
// has it, or in an object. What is no code is for nobody.
func errorCode(body []byte) string {
	text := strings.TrimSpace(string(body))
	var object struct{ Code, Error string }
	if strings.HasPrefix(text, "{") && json.Unmarshal(body, &object) == nil {
		text = object.Code
		if text == "" {
			text = object.Error
		}
	}
	text = strings.Trim(text, `"`)
	if len(text) > 64 || strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
		return ""
	}
	return text
}

// retryAfter reads a header Retry-After (RFC 9110, 10.2.3); 0 if it says nothing.
func retryAfter(header string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(header); err == nil {
		return max(0, min(time.Duration(seconds)*time.Second, 24*time.Hour))
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(0, min(at.Sub(now), 24*time.Hour))
	}
	return 0
}

// isHeader says whether v can be sent back in a header.
func isHeader(v string) bool {
	return v != "" && len(v) <= 4096 && !strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' })
}

// userAgent names this program: Apple refuses requests without a name, or with a strange
// one (USER_AGENT_MISSING, USER_AGENT_INVALID).
func userAgent(release string) string {
	version := strings.Map(func(r rune) rune {
		if r < '~' && (r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune(".-+_", r)) {
			return r
		}
		return -1
	}, release)
	if version == "" {
		version = "0"
	}
	return "Gatehouse/" + clip(version, 64)
}
