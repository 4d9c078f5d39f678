// Package signin is where people say who they are: with a password, at a provider to
// which their browser is sent, with a second factor; and where they sign out.
//
// There is one page for all who sign in, whatever they go on to. It knows nothing of how
// people are known: package identity does.
package signin

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/frame"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// People knows who is who. *identity.Service does.
type People interface {
	Ways(ctx context.Context, uses ...identity.Use) (identity.Ways, error)
	Login(ctx context.Context, login, password, peer string) (identity.SignedIn, error)
	CheckCode(ctx context.Context, userID, stamp, code, peer string) (identity.SignedIn, error)
	BeginSignIn(ctx context.Context, providerID string, n identity.NewSignIn) (to string, browser identity.Secret, err error)
	FinishSignIn(ctx context.Context, providerID, browser string, returned url.Values, peer string) (identity.Finished, error)
	LogoutURL(ctx context.Context, providerID, back string) string
	Provider(ctx context.Context, id string) (identity.Provider, error)
	User(ctx context.Context, id string) (identity.User, error)
}

// Config says what the pages need: all of it but Progress.
type Config struct {
	People    People
	Sessions  *webui.Sessions
	Pages     *webui.Pages
	Frame     *frame.Frame
	ServerURL *url.URL
	Log       *slog.Logger
	Now       func() time.Time

	// Progress returns how far the person is in the enrollment that path leads to, one of
	// the portal's; without steps if it leads to none. It may be nil.
	Progress func(r *http.Request, path string) view.Progress
}

// SignIn serves /login and /logout.
type SignIn struct{ Config }

// New returns a SignIn, or says what c lacks.
func New(c Config) (*SignIn, error) {
	if c.People == nil || c.Sessions == nil || c.Pages == nil || c.Frame == nil || c.ServerURL == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("signin: People, Sessions, Pages, Frame, ServerURL, Log and Now are required")
	}
	return &SignIn{c}, nil
}

// Where things are.
const (
	pathLogin      = "/login"
	pathAdminLogin = "/admin/login" // the same, for administrators only
	pathCode       = "/login/code"
	pathLogout     = "/logout"
)

// Mount registers the routes; the router must know sessions, and fail by the Frame.
func (s *SignIn) Mount(r webui.Router) {
	for _, path := range []string{pathLogin, pathAdminLogin} {
		r.Handle("GET "+path, s.form)
		r.Handle("POST "+path, s.password)
	}
	r.Handle("GET "+pathCode, s.codeForm)
	r.Handle("POST "+pathCode, s.code)
	r.Handle("POST "+pathLogin+"/with/{provider}", s.begin)
	r.Handle("GET "+identity.CallbackPath("{provider}"), s.finish)
	r.Handle("GET "+pathLogout, s.signedOut)
	r.Handle("POST "+pathLogout, s.logout)
	r.Handle("POST /admin/logout", s.logout)
}

// letIn begins the session of who has proved to be somebody, and sends them on. now says that
// they did so themselves, just now.
func (s *SignIn) letIn(w http.ResponseWriter, r *http.Request, in identity.SignedIn, next string, now bool) error {
	if err := s.Sessions.StartUser(r.Context(), in.User); err != nil {
		return err
	}
	if err := s.keep(r, pending{Next: next}); err != nil {
		return err
	}
	if purposeOf(next).byAccount() {
		path, _, _ := strings.Cut(next, "?")
		mark := webui.SessionVouchedFor
		if now {
			mark = webui.SessionSignedInFor
		}
		if err := s.Sessions.SetValue(r.Context(), mark, path); err != nil {
			return err
		}
	}
	switch {
	case in.MustSetUpCode && !purposeOf(next).enrolls():
		next = pathSecurity // their role counts as soon as they have a second factor
	case next == "" && in.User.Role != identity.RoleUser:
		next = "/admin"
	case next == "":
		next = "/me"
	}
	return see(w, r, next)
}

// pathSecurity is where people set up a second factor.
const pathSecurity = "/me/security"

func see(w http.ResponseWriter, r *http.Request, path string) error {
	http.Redirect(w, r, path, http.StatusSeeOther)
	return nil
}

// peer names who is throttled; the Unix socket has no address.
func peer(r *http.Request) string {
	addr := webui.Peer(r.Context())
	if !addr.IsValid() {
		return "local"
	}
	return addr.String()
}

// readForm reads the form of r.
func readForm(r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return err
		}
		return &webui.Problem{Status: http.StatusBadRequest, Code: "bad_form", Title: "The form can’t be read"}
	}
	return nil
}
