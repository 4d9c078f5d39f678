package checkin

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"github.com/micromdm/nanomdm/mdm"
	"github.com/micromdm/nanomdm/service"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	gatehouse "github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Limits of what a device may send, in bytes (PROTOCOL 0; Apple documents none).
const (
	maxCheckIn   = 1 << 20  // a check-in
	maxResult    = 8 << 20  // a command's result
	maxHashed    = 64 << 20 // a result that is read only to know whose it is
	maxSignature = 32 << 10 // the CMS message in Mdm-Signature

	smallBody = 128 << 10 // up to here a body needs no slot
	bigBodies = 8         // bodies above it that are in memory at once
)

// Config says what a Handler needs; ClientCertificate, Peer and Declarative may be nil.
type Config struct {
	Enroll *enroll.Service
	// ClientCertificate returns the certificate by which a transport that is
	// trusted for it has identified the sender of r, nil if it has not.
	ClientCertificate func(r *http.Request) *x509.Certificate
	// Peer returns the network address that a request came from, for the audit log.
	Peer func(context.Context) string
	// Declarative answers what devices ask of declarative management; nil: that is not offered.
	Declarative DeclarativeServer
	// Count is told of every message: its MessageType, empty for a report, and the error that
	// it was answered with; nil: nobody counts.
	Count func(messageType string, err error)
	Log   *slog.Logger
}

// Handler answers the CheckInURL and the ServerURL.
type Handler struct {
	service    service.CheckinAndCommandService
	enroll     *enroll.Service
	clientCert func(r *http.Request) *x509.Certificate
	address    func(context.Context) string // that a request came from
	count      func(string, error)
	log        *slog.Logger
	slots      chan struct{}
}

// New returns a Handler, or says what c lacks.
func New(c Config) (*Handler, error) {
	if c.Enroll == nil || c.Log == nil {
		return nil, errors.New("checkin: Enroll and Log are required")
	}
	if c.ClientCertificate == nil {
		c.ClientCertificate = func(*http.Request) *x509.Certificate { return nil }
	}
	if c.Peer == nil {
		c.Peer = func(context.Context) string { return "" }
	}
	if c.Count == nil {
		c.Count = func(string, error) {}
	}
	return &Handler{
		count: c.Count,
		service: &Service{
			enroll: c.Enroll, address: c.Peer, log: c.Log,
			declarative: c.Declarative, asking: make(chan struct{}, maxAsking),
		}, enroll: c.Enroll, clientCert: c.ClientCertificate, address: c.Peer,
		log: c.Log, slots: make(chan struct{}, bigBodies),
	}, nil
}

// ServeHTTP answers both URLs alike: which kind of message it is, the body says
// itself, since clients vary in the Content-Type that they send.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPut && r.Method != http.MethodPost {
		w.Header().Set("Allow", "PUT, POST")
		http.Error(w, "Devices talk here by PUT.", http.StatusMethodNotAllowed)
		return
	}
	reply, contentType, err := h.serve(w, r)
	if err != nil {
		// Of what was not read some is read now: a client that still writes when the
		// connection ends sees that, and not the answer.
		_, _ = io.CopyN(io.Discard, r.Body, maxResult)
		h.refuse(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	if len(reply) > 0 {
		w.Header().Set("Content-Type", contentType)
	}
	_, _ = w.Write(reply) // a device that went away asks again
}

var (
	// errTooLarge means that a body breaks its limit.
	errTooLarge = errors.New("the body is too large")
	// errStranger means the same of a body that names no certificate of ours.
	errStranger = errors.New("the body is too large, and no device's")
)

// Types of what devices are answered.
const (
	plistType = "application/xml; charset=UTF-8"
	jsonType  = "application/json"
)

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) (reply []byte, contentType string, err error) {
	body, release, err := h.read(w, r)
	defer release()
	if err == nil {
		// One strict look before anything is decoded, by us or by a library.
		err = guard.CheckPlist(body, guard.PlistLimits{Bytes: maxResult})
	}
	if (errors.Is(err, errTooLarge) || errors.Is(err, guard.ErrTooLarge)) && !isCheckIn(r) {
		reply, err = h.oversized(r, body)
		return reply, plistType, err
	}
	if err != nil {
		return nil, "", err
	}
	req, err := h.identify(r, body, release)
	if err != nil {
		return nil, "", err
	}
	kind, err := messageKind(body)
	if err != nil {
		return nil, "", err
	}
	defer func() { h.count(kind, err) }()
	reply, err = h.answer(req, kind, body)
	if errors.Is(err, enroll.ErrUnidentified) && h.arrives(req, body) {
		reply, err = h.answer(req, kind, body)
	}
	if kind == "DeclarativeManagement" {
		return reply, jsonType, err // PROTOCOL 4.4
	}
	return reply, plistType, err
}

// answer is what a message of a kind is answered with; no kind is a report.
func (h *Handler) answer(r *mdm.Request, kind string, body []byte) ([]byte, error) {
	switch {
	case kind == "":
		return h.report(r, body)
	case len(body) > maxCheckIn:
		return nil, errTooLarge
	}
	return h.checkIn(r, kind, body)
}

func isCheckIn(r *http.Request) bool {
	return r.URL.Path == enroll.PathCheckIn || strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-apple-aspen-mdm-checkin")
}

// read reads the body of r. A large one is read only if it names a certificate of
// ours, and waits for a slot first, so that however many arrive, only so many are
// in memory. Of one that is too large it returns what it has read. release gives
// the slot back.
func (h *Handler) read(w http.ResponseWriter, r *http.Request) (body []byte, release func(), err error) {
	release = func() {}
	src := http.MaxBytesReader(w, r.Body, maxHashed)
	body, err = io.ReadAll(io.LimitReader(src, smallBody+1))
	if err != nil {
		return nil, release, fmt.Errorf("%w: %w", enroll.ErrBadMessage, err)
	}
	if len(body) <= smallBody {
		return body, release, nil
	}
	limit := int64(maxResult)
	if isCheckIn(r) {
		limit = maxCheckIn
	}
	if err := h.Recognize(r); err != nil {
		rest := limit + 1 - int64(len(body))
		if n, _ := io.CopyN(io.Discard, src, rest); n == rest && errors.Is(err, enroll.ErrUnidentified) {
			err = errStranger
		}
		return nil, release, err
	}
	select {
	case h.slots <- struct{}{}:
		release = sync.OnceFunc(func() { <-h.slots })
	case <-r.Context().Done():
		return nil, release, r.Context().Err()
	}
	buf := bytes.NewBuffer(body)
	n, err := io.Copy(buf, io.LimitReader(src, limit+1-int64(len(body))))
	if err != nil {
		return nil, release, fmt.Errorf("%w: %w", enroll.ErrBadMessage, err)
	}
	if int64(len(body))+n > limit {
		r.Body = io.NopCloser(src)
		return buf.Bytes(), release, errTooLarge
	}
	return buf.Bytes(), release, nil
}

// Recognize checks that r claims to come from a device of ours. That costs little
// and proves nothing: it keeps strangers from filling the slots.
func (h *Handler) Recognize(r *http.Request) error {
	cert := h.clientCert(r)
	if cms, err := signature(r); err != nil {
		return err
	} else if cms != nil {
		parsed, err := guard.ParseCMS(cms, maxSignature)
		if err != nil {
			return err
		}
		if cert = parsed.GetOnlySigner(); cert == nil {
			return fmt.Errorf("%w: Mdm-Signature has not exactly one signer", enroll.ErrBadMessage)
		}
	}
	return h.enroll.Recognize(r.Context(), enroll.Peer{Certificate: cert})
}

// oversized deals with a result whose start is head and whose rest is in r.Body.
// The device sends it until it is taken, so its command must not stay in hand
// for ever; but only the device itself may say so, hence the signature over the
// whole is checked, without keeping it.
func (h *Handler) oversized(r *http.Request, head []byte) ([]byte, error) {
	p := enroll.Peer{Certificate: h.clientCert(r)}
	if cms, err := signature(r); err != nil {
		return nil, err
	} else if cms != nil {
		sig, err := guard.VerifyDetachedReader(cms, io.MultiReader(bytes.NewReader(head), r.Body), maxSignature)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errTooLarge, err)
		}
		p = enroll.Peer{Certificate: sig.Certificate, SignedAt: sig.SigningTime}
	}
	again, err := h.enroll.Oversized(r.Context(), p)
	if err != nil {
		return nil, err
	}
	if again {
		return nil, errTooLarge
	}
	return nil, nil
}

// identify finds the certificate that vouches for a message.
func (h *Handler) identify(r *http.Request, body []byte, release func()) (*mdm.Request, error) {
	p, err := h.Sender(r, body)
	if err != nil {
		return nil, err
	}
	return sent{p, release}.request(r.Context()), nil
}

// Sender finds who vouches for r, of which body is the whole: for others whom devices talk to
// in the way of management. Its errors wrap those of package guard, or [enroll.ErrBadMessage].
func (h *Handler) Sender(r *http.Request, body []byte) (enroll.Peer, error) {
	p := enroll.Peer{Bearer: enroll.BearerOf(r), Body: body}
	cms, err := signature(r)
	if err != nil {
		return enroll.Peer{}, err
	}
	if cms == nil {
		p.Certificate = h.clientCert(r)
		return p, nil
	}
	sig, err := guard.VerifyDetached(cms, body, maxSignature)
	if err != nil {
		return enroll.Peer{}, err
	}
	p.Certificate, p.SignedAt = sig.Certificate, sig.SigningTime
	return p, nil
}

// signature returns the CMS message in Mdm-Signature, nil if there is none.
func signature(r *http.Request) ([]byte, error) {
	headers := r.Header.Values("Mdm-Signature")
	if len(headers) > 1 {
		return nil, fmt.Errorf("%w: more than one Mdm-Signature", enroll.ErrBadMessage)
	}
	if len(headers) == 0 || headers[0] == "" {
		return nil, nil
	}
	header := headers[0]
	if len(header) > base64.StdEncoding.EncodedLen(maxSignature) {
		return nil, fmt.Errorf("%w: Mdm-Signature", errTooLarge)
	}
	cms, err := base64.StdEncoding.DecodeString(strings.TrimSpace(header))
	if err != nil {
		return nil, fmt.Errorf("%w: Mdm-Signature is not base64", enroll.ErrBadMessage)
	}
	return cms, nil
}

// messageKind returns the MessageType of a check-in, empty for a command's report.
func messageKind(body []byte) (string, error) {
	if !bytes.Contains(body, []byte("MessageType")) {
		return "", nil // the common case, without a decoding of its own
	}
	var m struct{ MessageType string }
	err := guard.DecodePlist(body, &m, guard.PlistLimits{Bytes: maxResult})
	return m.MessageType, err
}

// checkIn decodes a check-in message and dispatches it.
func (h *Handler) checkIn(r *mdm.Request, kind string, body []byte) ([]byte, error) {
	if kind == "GetToken" { // of this one alone CheckinRequest says that it is not valid in an error of no type
		if m, err := mdm.DecodeCheckin(body); err == nil && m.(*mdm.GetToken).Validate() != nil {
			return nil, fmt.Errorf("%w: GetToken lacks something", enroll.ErrBadMessage)
		}
	}
	reply, err := service.CheckinRequest(h.service, r, body)
	var parse *mdm.ParseError
	if errors.As(err, &parse) {
		err = decodeError(parse)
	}
	return reply, err
}

func (h *Handler) report(r *mdm.Request, body []byte) ([]byte, error) {
	results, err := decodeResults(body)
	if err != nil {
		return nil, err
	}
	cmd, err := h.service.CommandAndReportResults(r, results)
	if err != nil || cmd == nil {
		return nil, err
	}
	return cmd.Raw, nil
}

// asText turns every value of a property list into text. What it changes in a
// CDATA section or a comment has no meaning to us.
var asText = strings.NewReplacer(
	"<date>", "<string>", "</date>", "</string>", "<data>", "<string>", "</data>", "</string>",
	"<integer>", "<string>", "</integer>", "</string>", "<real>", "<string>", "</real>", "</string>",
)

// decodeResults decodes a report. A value in it that can't be read as what it
// says it is, or an odd ErrorChain, does not cost the rest: the device would send
// it until it is taken.
func decodeResults(body []byte) (*mdm.CommandResults, error) {
	results, err := mdm.DecodeCommandResults(body)
	if err == nil {
		return results, nil
	}
	var lean struct {
		mdm.Enrollment
		CommandUUID, Status string
	}
	lim := guard.PlistLimits{Bytes: maxResult}
	if guard.DecodePlist(body, &lean, lim) != nil {
		body = []byte(asText.Replace(string(body)))
		lim.Bytes = 2 * maxResult
		if guard.DecodePlist(body, &lean, lim) != nil {
			return nil, decodeError(err)
		}
	}
	if lean.Status == "" {
		return nil, decodeError(err)
	}
	return &mdm.CommandResults{Enrollment: lean.Enrollment, CommandUUID: lean.CommandUUID, Status: lean.Status, Raw: body}, nil
}

// decodeError drops what NanoMDM's errors quote of the body: it may hold tokens.
func decodeError(err error) error {
	var parse *mdm.ParseError
	switch {
	case errors.Is(err, mdm.ErrUnrecognizedMessageType):
		return fmt.Errorf("%w: unknown MessageType", enroll.ErrBadMessage)
	case errors.As(err, &parse):
		return fmt.Errorf("%w: it is not what its MessageType or Status says", enroll.ErrBadMessage)
	}
	return fmt.Errorf("%w: %w", enroll.ErrBadMessage, err)
}

// refusals are the statuses of what can be wrong with a message. None is a 401,
// which makes a device remove its enrollment: but for the one that asks a device which was
// enrolled by account to have its user sign in, and says so in its challenge.
var refusals = []struct {
	err    error
	status int
}{
	{enroll.ErrUnidentified, http.StatusForbidden},
	{enroll.ErrRetired, http.StatusForbidden},
	{enroll.ErrGone, http.StatusForbidden},
	{enroll.ErrForeignDevice, http.StatusForbidden},
	{enroll.ErrDeviceOwned, http.StatusForbidden},
	{enroll.ErrUserDisabled, http.StatusForbidden},
	{enroll.ErrOwnershipOff, http.StatusForbidden},
	{identity.ErrMayNotEnroll, http.StatusForbidden},
	{enroll.ErrSerialNumber, http.StatusForbidden},
	{enroll.ErrOtherDevice, http.StatusForbidden},
	{enroll.ErrOtherKind, http.StatusForbidden},
	{enroll.ErrNotAuthenticated, http.StatusForbidden},
	{enroll.ErrWithheld, http.StatusForbidden},
	{enroll.ErrNoBearer, http.StatusForbidden},
	{enroll.ErrForeignBearer, http.StatusForbidden},
	{gatehouse.ErrBlocked, http.StatusForbidden},
	{errTooLarge, http.StatusRequestEntityTooLarge},
	{errStranger, http.StatusRequestEntityTooLarge},
	{guard.ErrTooLarge, http.StatusRequestEntityTooLarge},
	{enroll.ErrStale, http.StatusBadRequest},
	{enroll.ErrBadMessage, http.StatusBadRequest},
	{guard.ErrPlist, http.StatusBadRequest},
	{guard.ErrCMS, http.StatusBadRequest},
	{guard.ErrCertificate, http.StatusBadRequest},
	{guard.ErrKey, http.StatusBadRequest},
	{guard.ErrSignature, http.StatusBadRequest},
	{errNotOffered, http.StatusNotImplemented},
	{enroll.ErrNotOffered, http.StatusNotImplemented},
	{errNoAnswer, http.StatusServiceUnavailable},
	{errBusy, http.StatusServiceUnavailable},
	{storage.ErrUnavailable, http.StatusServiceUnavailable},
	{storage.ErrCommit, http.StatusServiceUnavailable},
	{storage.ErrClosed, http.StatusServiceUnavailable},
	{context.Canceled, http.StatusServiceUnavailable},
	{context.DeadlineExceeded, http.StatusServiceUnavailable},
}

func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	ctx := r.Context()
	w.Header().Set("Cache-Control", "no-store")
	var chosen *service.HTTPStatusError
	if errors.As(err, &chosen) {
		http.Error(w, http.StatusText(chosen.Status), chosen.Status)
		return
	}
	if again, ok := errors.AsType[*enroll.SignInRequired](err); ok {
		h.log.InfoContext(ctx, "device must have its user sign in", "path", r.URL.Path, "err", err)
		w.Header().Set("WWW-Authenticate", again.Challenge)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	for _, c := range refusals {
		if !errors.Is(err, c.err) {
			continue
		}
		level := slog.LevelWarn
		if c.status == http.StatusServiceUnavailable && ctx.Err() == nil {
			level = slog.LevelError // ours to repair, not the device's doing
		}
		h.log.Log(ctx, level, "device message refused", "status", c.status, "path", r.URL.Path, "err", err)
		if errors.Is(err, enroll.ErrGone) {
			unenroll(w)
			return
		}
		if c.status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "30")
		}
		http.Error(w, http.StatusText(c.status), c.status)
		return
	}
	h.log.ErrorContext(ctx, "device message failed", "path", r.URL.Path, "err", err)
	http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
}

// unenroll tells a device to remove its enrollment (Apple: Unrecognized Device
// error; PROTOCOL 2.7).
func unenroll(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusForbidden)
	_, _ = io.WriteString(w, `{"code":"com.apple.unrecognized.device",`+
		`"description":"the enrollment was ended by the server",`+
		`"message":"This device is no longer managed by your organization."}`)
}
