// Package account is where devices enroll whose users sign in with an account: service
// discovery, the enrollment POST, and the token endpoint of OAuth 2 (Apple, "Onboarding
// users with account sign-in"). It speaks to devices and has no page; what is decided,
// package enroll decides.
package account

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/machineinfo"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Enroller decides. *enroll.Service is one.
type Enroller interface {
	Discover(ctx context.Context, identifier string, family enroll.ModelFamily) (enroll.Discovery, error)
	EnrollByAccount(ctx context.Context, r enroll.AccountRequest) (profile []byte, err error)
	EnrollWatch(ctx context.Context, body []byte) (profile []byte, err error)
	IssueTokens(ctx context.Context, r enroll.TokenRequest) (enroll.TokenResponse, error)
}

// Config says what a Handler needs: all of it but Peer.
type Config struct {
	Enroll Enroller
	// Peer returns the network address that a request came from, for the audit log.
	Peer func(context.Context) string
	Log  *slog.Logger
}

// Handler answers devices.
type Handler struct{ Config }

// New returns a Handler, or says what c lacks.
func New(c Config) (*Handler, error) {
	if c.Enroll == nil || c.Log == nil {
		return nil, errors.New("account: Enroll and Log are required")
	}
	if c.Peer == nil {
		c.Peer = func(context.Context) string { return "" }
	}
	return &Handler{c}, nil
}

// MaxBody is how many bytes of a request are taken: more than are read, so that a handler
// can say what is wrong.
const MaxBody = 1 << 20

// Routes are the patterns of [http.ServeMux] and their handlers. Devices are known to ask for
// a discovery file with a dot behind its name.
func (h *Handler) Routes() map[string]http.Handler {
	return map[string]http.Handler{
		"GET " + enroll.PathDiscovery:       http.HandlerFunc(h.discover),
		"GET " + enroll.PathDiscovery + ".": http.HandlerFunc(h.discover),
		"POST " + enroll.PathBYOD:           h.enroll(enroll.ModeBYOD),
		"POST " + enroll.PathADDE:           h.enroll(enroll.ModeADDE),
		"POST " + enroll.PathWatch:          http.HandlerFunc(h.watch),
		"POST " + enroll.PathToken:          http.HandlerFunc(h.token),
	}
}

// discover answers service discovery (PROTOCOL 1). What holds can change at any time, and
// then at once: a cache must ask.
func (h *Handler) discover(w http.ResponseWriter, r *http.Request) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		h.fail(w, r, problem{http.StatusBadRequest, "bad_query", "The query string is malformed."}, err)
		return
	}
	identifier, family := query.Get("user-identifier"), query.Get("model-family")
	found, err := h.Enroll.Discover(r.Context(), identifier, enroll.ModelFamily(family))
	if refused, ok := errors.AsType[*enroll.DiscoveryError](err); ok {
		h.Log.InfoContext(r.Context(), "service discovery refused", "domain", domainOf(identifier), "family", short(family), "reason", refused.Reason)
		send(w, http.StatusForbidden, deviceError{Code: "com.apple.well-known.failed", Description: refused.Reason, Message: refused.Message})
		return
	}
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	h.Log.InfoContext(r.Context(), "service discovered", "domain", domainOf(identifier), "family", short(family), "mode", found.Mode)
	type server struct{ Version, BaseURL string }
	w.Header().Set("Cache-Control", "no-cache")
	send(w, http.StatusOK, struct{ Servers []server }{[]server{{found.Mode.Version(), found.BaseURL}}})
}

// domainOf is what the log says of an identifier: whose it is stays with the person.
func domainOf(identifier string) string {
	at := strings.LastIndexByte(identifier, '@')
	if at < 0 {
		return "" // somebody's name
	}
	return short(identifier[at+1:])
}

// short bounds what a stranger writes into the log.
func short(text string) string {
	if len(text) > 100 {
		return text[:100]
	}
	return text
}

// deviceError is an error as devices read it (PROTOCOL 2.7).
type deviceError struct {
	Code        string `json:"code"`
	Description string `json:"description,omitempty"` // for the device's log
	Message     string `json:"message,omitempty"`     // for the person
	Details     any    `json:"details,omitempty"`
}

// enroll answers the enrollment POST of a mode. Whatever Content-Type the device sends, the
// body is what counts.
func (h *Handler) enroll(mode enroll.AccountMode) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := machineInfo(r)
		if err != nil {
			h.refuse(w, r, err)
			return
		}
		signed, err := h.Enroll.EnrollByAccount(r.Context(), enroll.AccountRequest{
			Mode: mode, Body: body, Bearer: enroll.BearerOf(r), Peer: h.Peer(r.Context()),
		})
		h.answer(w, r, signed, err)
	})
}

// watch answers the enrollment POST of a Watch.
func (h *Handler) watch(w http.ResponseWriter, r *http.Request) {
	body, err := machineInfo(r)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	signed, err := h.Enroll.EnrollWatch(r.Context(), body)
	h.answer(w, r, signed, err)
}

// machineInfo reads the body of an enrollment POST.
func machineInfo(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, machineinfo.MaxSize+1))
	if err == nil && len(body) > machineinfo.MaxSize {
		_, _ = io.Copy(io.Discard, r.Body) // a client that still writes would not see the answer
		err = guard.ErrTooLarge
	}
	return body, err
}

// answer sends an enrollment profile, or why there is none.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, signed []byte, err error) {
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	w.Header().Set("Content-Type", profile.ContentType)
	w.Header().Set("Content-Disposition", `attachment; filename="enroll.mobileconfig"`)
	w.Header().Set("Cache-Control", "no-store, no-transform")
	_, _ = w.Write(signed) // a device that went away asks again
}

// problem is what is wrong with a request, for who reads the device's log or the server's.
type problem struct {
	status int
	code   string
	text   string
}

// refusals are the problems of the domain's errors. None is a 401, which has a meaning of its
// own (PROTOCOL 2.3); a 400 or 403 ends the enrollment on the device.
var refusals = []struct {
	err error
	problem
}{
	{guard.ErrTooLarge, problem{http.StatusRequestEntityTooLarge, "GH-E301", "What the device sent is too large."}},
	{enroll.ErrStatement, problem{http.StatusBadRequest, "GH-E301", "What the device states of itself can't be read, or its signature is wrong."}},
	{machineinfo.ErrNotApple, problem{http.StatusForbidden, "GH-E302", "The device does not prove that Apple made it."}},
	{enroll.ErrDeviceOwned, problem{http.StatusForbidden, "GH-E305", "The device is enrolled for somebody else."}},
	{mdm.ErrBlocked, problem{http.StatusForbidden, "GH-E306", "The device is blocked."}},
	{enroll.ErrSerialNumber, problem{http.StatusForbidden, "GH-E304", "The enrollment link is for other devices."}},
	{enroll.ErrUserDisabled, problem{http.StatusForbidden, "GH-E106", "The account may not enroll devices."}},
	{identity.ErrMayNotEnroll, problem{http.StatusForbidden, "GH-E106", "The account may not enroll devices."}},
	{enroll.ErrLinkExpired, problem{http.StatusForbidden, "GH-E102", "The enrollment link has expired."}},
	{enroll.ErrLinkUsedUp, problem{http.StatusForbidden, "GH-E103", "The enrollment link was used already."}},
	{enroll.ErrLinkRevoked, problem{http.StatusForbidden, "GH-E104", "The enrollment link was withdrawn."}},
	{enroll.ErrOwnershipOff, problem{http.StatusForbidden, "GH-E122", "Devices of this ownership are not enrolled here."}},
	{enroll.ErrNoPushCertificate, problem{http.StatusForbidden, "GH-E125", "No device can be enrolled until the organisation has a valid push certificate."}},
	{enroll.ErrNotOffered, problem{http.StatusForbidden, "GH-E505", "Such devices are not enrolled by account here."}},
	{enroll.ErrModeOff, problem{http.StatusForbidden, "GH-E505", "Such devices are not enrolled by account here."}},
	{storage.ErrUnavailable, problem{http.StatusServiceUnavailable, "GH-E008", "The server is not available right now."}},
	{storage.ErrCommit, problem{http.StatusServiceUnavailable, "GH-E008", "The server is not available right now."}},
	{storage.ErrClosed, problem{http.StatusServiceUnavailable, "GH-E008", "The server is not available right now."}},
	{context.Canceled, problem{http.StatusServiceUnavailable, "GH-E006", "The server did not answer in time."}},
	{context.DeadlineExceeded, problem{http.StatusServiceUnavailable, "GH-E006", "The server did not answer in time."}},
}

// refuse answers a device with what follows from err.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if again, ok := errors.AsType[*enroll.SignInRequired](err); ok {
		h.Log.InfoContext(r.Context(), "device is to have its user sign in", "path", r.URL.Path, "err", err)
		w.Header().Set("WWW-Authenticate", again.Challenge)
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if update, ok := errors.AsType[*enroll.UpdateRequired](err); ok {
		h.Log.InfoContext(r.Context(), "device is to update first", "path", r.URL.Path, "needed", update.OSVersion)
		send(w, http.StatusForbidden, deviceError{
			Code: "com.apple.softwareupdate.required", Description: err.Error(),
			Message: "This device needs version " + update.OSVersion + " or later.", Details: map[string]string{"OSVersion": update.OSVersion},
		})
		return
	}
	if pairing, ok := errors.AsType[*enroll.PairingTokenMissing](err); ok {
		h.Log.InfoContext(r.Context(), "Watch is to ask its iPhone", "err", err)
		send(w, http.StatusForbidden, deviceError{
			Code: "com.apple.watch.pairing.token.missing", Description: err.Error(),
			Details: map[string]string{"security-token": pairing.SecurityToken},
		})
		return
	}
	if old, ok := errors.AsType[*enroll.MinimumOSError](err); ok {
		h.fail(w, r, problem{http.StatusForbidden, "GH-E506", "This device needs version " + old.Needed + " or later."}, err)
		return
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		err = errors.Join(err, guard.ErrTooLarge)
	}
	for _, known := range refusals {
		if errors.Is(err, known.err) {
			h.fail(w, r, known.problem, err)
			return
		}
	}
	h.fail(w, r, problem{http.StatusInternalServerError, "GH-E007", "The server failed."}, err)
}

// fail answers with a status and one line of text, which is all that a device makes
// something of.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, p problem, err error) {
	level := slog.LevelWarn
	if p.status >= 500 && r.Context().Err() == nil {
		level = slog.LevelError // ours to repair, not the device's doing
	}
	h.Log.Log(r.Context(), level, "account-driven enrollment refused", "path", r.URL.Path, "status", p.status, "code", p.code, "err", err)
	w.Header().Set("Cache-Control", "no-store")
	if p.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "30")
	}
	http.Error(w, p.code+": "+p.text, p.status)
}

// Fail answers for what the routes' limits refuse.
func (h *Handler) Fail(w http.ResponseWriter, r *http.Request, err error) { h.refuse(w, r, err) }

// token answers the token endpoint of OAuth 2 (RFC 6749, 3.2 and 5). Devices are public
// clients: they have no secret to show.
func (h *Handler) token(w http.ResponseWriter, r *http.Request) {
	h.noStore(w)
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if media, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(media), "application/x-www-form-urlencoded") {
		h.refuseToken(w, r, &enroll.OAuthError{Code: "invalid_request", Description: "the body must be application/x-www-form-urlencoded"})
		return
	}
	if err := r.ParseForm(); err != nil {
		h.refuseToken(w, r, &enroll.OAuthError{Code: "invalid_request", Description: "the form can not be read", Err: fmt.Errorf("%T", err)}) // what the error quotes may be a secret
		return
	}
	for name, values := range r.PostForm {
		if len(values) > 1 {
			h.refuseToken(w, r, &enroll.OAuthError{Code: "invalid_request", Description: "a parameter is there more than once", Err: errors.New(short(name))})
			return
		}
	}
	answer, err := h.Enroll.IssueTokens(r.Context(), enroll.TokenRequest{
		GrantType: r.PostForm.Get("grant_type"), Code: r.PostForm.Get("code"), RedirectURI: r.PostForm.Get("redirect_uri"),
		CodeVerifier: r.PostForm.Get("code_verifier"), RefreshToken: r.PostForm.Get("refresh_token"),
		ClientID: r.PostForm.Get("client_id"), Scope: r.PostForm.Get("scope"),
	})
	if refused, ok := errors.AsType[*enroll.OAuthError](err); ok {
		h.refuseToken(w, r, refused)
		return
	}
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	send(w, http.StatusOK, answer)
}

// maxForm is how many bytes the form of a token request may have.
const maxForm = 16 << 10

func (h *Handler) noStore(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Pragma", "no-cache") // RFC 6749, 5.1
}

func (h *Handler) refuseToken(w http.ResponseWriter, r *http.Request, refused *enroll.OAuthError) {
	h.Log.WarnContext(r.Context(), "access token refused", "error", refused.Code, "err", refused)
	send(w, http.StatusBadRequest, struct {
		Error       string `json:"error"`
		Description string `json:"error_description,omitempty"`
	}{refused.Code, refused.Description})
}

// send answers with v as JSON, whose media type is exactly what Apple asks for.
func send(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	if header.Get("Cache-Control") == "" {
		header.Set("Cache-Control", "no-store")
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone; there is nobody to tell
}
