// Package me serves /me, where people see what is stored about their devices and
// themselves, and do with it what is theirs to do: take a device out of management,
// report it lost, get and revoke certificates, change how they sign in.
//
// Whatever an address or a form names is looked for among what belongs to whoever signed
// in: what is another's looks like nothing.
package me

import (
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/frame"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// MaxBody is how much a request to these pages may hold, in bytes: a form with a
// certificate request, which has at most 64 KiB.
const MaxBody = 160 << 10

// Config says what the pages need: all of it.
type Config struct {
	Enroll   *enroll.Service
	Issuance *issuance.Service
	Identity *identity.Service
	Sessions *webui.Sessions
	Frame    *frame.Frame
	Pages    *webui.Pages
	Now      func() time.Time
}

// Me serves /me.
type Me struct{ Config }

// New returns a Me, or says what c lacks.
func New(c Config) (*Me, error) {
	if c.Enroll == nil || c.Issuance == nil || c.Identity == nil || c.Sessions == nil || c.Frame == nil || c.Pages == nil || c.Now == nil {
		return nil, errors.New("me: Enroll, Issuance, Identity, Sessions, Frame, Pages and Now are required")
	}
	return &Me{c}, nil
}

// Mount registers the pages; the router must let in only who passes [Me.Guard].
func (m *Me) Mount(r webui.Router) {
	r.Handle("GET /me", m.devices)
	r.Handle("GET /me/devices/{id}", m.device)
	r.Handle("GET /me/devices/{id}/remove", m.askRemove)
	r.Handle("POST /me/devices/{id}/remove", m.remove)
	r.Handle("GET /me/devices/{id}/end", m.askEnd)
	r.Handle("POST /me/devices/{id}/end", m.end)
	r.Handle("GET /me/devices/{id}/sign-in", m.askSignIn)
	r.Handle("POST /me/devices/{id}/sign-in", m.requireSignIn)
	r.Handle("GET /me/devices/{id}/lost", m.askLost)
	r.Handle("POST /me/devices/{id}/lost", m.reportLost)
	r.Handle("POST /me/devices/{id}/found", m.found)

	r.Handle("GET /me/certificates", m.certificates)
	r.Handle("GET /me/certificates/new", m.newCertificate)
	r.Handle("POST /me/certificates/file", m.makeFile)
	r.Handle("POST /me/certificates/request", m.takeRequest)
	r.Handle("GET /me/certificates/{serial}", m.certificate)
	r.Handle("GET /me/certificates/{serial}/{file}", m.download)
	r.Handle("GET /me/certificates/{serial}/revoke", m.askRevoke)
	r.Handle("POST /me/certificates/{serial}/revoke", m.revoke)

	r.Handle("GET /me/security", m.security)
	r.Handle("POST /me/security/password", m.changePassword)
	r.Handle("POST /me/security/factor", m.changeFactor)
	r.Handle("POST /me/security/factor/begin", m.beginFactor)
	r.Handle("POST /me/security/factor/confirm", m.confirmFactor)
}

// Guard lets in who has signed in as a user, and sends others to the login.
func (m *Me) Guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, ok := identity.PrincipalFrom(r.Context())
		switch {
		case ok && p.Kind == identity.KindUser:
			next.ServeHTTP(w, r)
		case ok:
			m.Frame.Fail(w, r, &frame.Refusal{
				Code: "GH-E401", Status: http.StatusForbidden, Name: "forbidden", Title: "Only users have pages of their own",
				Texts: "me.error.nobody", Action: "/login?next=/me",
			})
		case !webui.WantsHTML(r):
			m.Frame.Fail(w, r, &webui.Problem{Status: http.StatusUnauthorized, Code: "unauthenticated", Title: "Sign in first"})
		default:
			back := "/me"
			if r.Method == http.MethodGet || r.Method == http.MethodHead {
				back = r.URL.RequestURI()
			}
			http.Redirect(w, r, "/login?next="+url.QueryEscape(back), http.StatusSeeOther)
		}
	})
}

// caller is who signed in; [Me.Guard] let nobody else in.
func caller(r *http.Request) identity.Principal {
	p, _ := identity.PrincipalFrom(r.Context())
	p.Peer = peer(r)
	return p
}

// peer is the network address of whoever sends a request, as limits and the audit log know it.
func peer(r *http.Request) string {
	addr := webui.Peer(r.Context())
	if !addr.IsValid() {
		return "local"
	}
	return addr.String()
}

// Sections of the navigation.
const (
	sectionDevices      = "/me"
	sectionCertificates = "/me/certificates"
	sectionSecurity     = "/me/security"
)

// page is what a page has around it. here is the page that a change of the language leads
// to where r sends a form.
func (m *Me) page(r *http.Request, title, section, here string) (view.Me, error) {
	around, _, err := m.Frame.Portal(r, title)
	if err != nil {
		return view.Me{}, err
	}
	if r.Method == http.MethodPost {
		around.Here = here
	}
	page := view.Me{Portal: around}
	for _, s := range []struct{ key, path string }{
		{"me.nav.devices", sectionDevices}, {"me.nav.certificates", sectionCertificates}, {"me.nav.security", sectionSecurity},
	} {
		page.Nav = append(page.Nav, view.NavItem{Label: around.T.Say(s.key), URL: s.path, Current: s.path == section})
	}
	return page, nil
}

// done says what the step before this page has done, if that is so: an address can't make
// the page say what is not true.
func done(page *view.Me, r *http.Request, what string, so bool) {
	if so && r.URL.Query().Get("done") == what {
		page.Done = page.T.Say("me.done." + what)
	}
}

// seeOther sends the browser to a page of ours, after a form.
func seeOther(w http.ResponseWriter, r *http.Request, path, what string) error {
	if what != "" {
		path += "?done=" + what
	}
	http.Redirect(w, r, path, http.StatusSeeOther)
	return nil
}

// Refusals are what these pages refuse, for tests and documents: GH-E401 is [Me.Guard]'s,
// and those from GH-E410 on stand beside the form that they are about.
func Refusals() []frame.Refusal {
	list := make([]frame.Refusal, len(refusals))
	for i, r := range refusals {
		list[i] = r.Refusal
	}
	return list
}

var refusals = []struct {
	is error
	frame.Refusal
}{
	{storage.ErrNotFound, frame.Refusal{
		Code: "GH-E402", Status: http.StatusNotFound, Name: "not_found", Title: "Not found", Texts: "me.error.not_found", Action: sectionDevices,
	}},
	{enroll.ErrNotYourself, frame.Refusal{
		Code: "GH-E403", Status: http.StatusForbidden, Name: "removal_not_allowed", Title: "Only the organisation ends the management of this device",
		Texts: "me.error.not_yourself", Action: sectionDevices,
	}},
	{enroll.ErrEnded, frame.Refusal{
		Code: "GH-E404", Status: http.StatusConflict, Name: "not_managed", Title: "The device is not managed any more", Texts: "me.error.ended", Action: sectionDevices,
	}},
	{enroll.ErrCantAsk, frame.Refusal{
		Code: "GH-E405", Status: http.StatusConflict, Name: "cannot_ask", Title: "The device can't be asked to remove management", Texts: "me.error.cant_ask", Action: sectionDevices,
	}},
	{enroll.ErrIdentity, frame.Refusal{
		Code: "GH-E406", Status: http.StatusConflict, Name: "is_identity", Title: "The certificate ends with the management of the device",
		Texts: "me.error.identity", Action: sectionDevices,
	}},
	{enroll.ErrExternal, frame.Refusal{
		Code: "GH-E407", Status: http.StatusConflict, Name: "not_ours", Title: "Another authority issued the certificate", Texts: "me.error.external", Action: sectionCertificates,
	}},
	{identity.ErrForbidden, frame.Refusal{
		Code: "GH-E408", Status: http.StatusForbidden, Name: "forbidden", Title: "The account has changed", Texts: "me.error.changed", Action: sectionDevices,
	}},
	{errElsewhere, frame.Refusal{
		Code: "GH-E409", Status: http.StatusConflict, Name: "kept_elsewhere", Title: "The password is not kept here", Texts: "me.error.elsewhere", Action: sectionSecurity,
	}},
}

// refuse makes err what a person can be told, with the page where they can go on, if that
// is not the usual one.
func refuse(err error, action string) error {
	for _, known := range refusals {
		if errors.Is(err, known.is) {
			refusal := known.Refusal
			refusal.Err = err
			if action != "" {
				refusal.Action = action
			}
			return &refusal
		}
	}
	return err
}

// Codes of what is said beside a form.
const (
	codeNote        = "GH-E410" // the note of a report is too long
	codeReason      = "GH-E411" // no reason for a revocation
	codeRequest     = "GH-E412" // a certificate request that is refused
	codeQuota       = "GH-E413" // too many certificates in a minute
	codeFile        = "GH-E414" // what a file with a key can't be made of
	codeChanged     = "GH-E415" // the user or the device has changed meanwhile
	codeOldPassword = "GH-E420"
	codeNewPassword = "GH-E421"
	codeThrottled   = "GH-E422" // too many passwords or codes tried
	codeWrongCode   = "GH-E423"
	codeNoFactor    = "GH-E424" // a second factor that is not in a state for this
)

// refused logs the code of what is said beside a form.
func (m *Me) refused(r *http.Request, code string) {
	m.Frame.Log.InfoContext(r.Context(), "form refused", "code", code, "user", caller(r).ID, "request", webui.RequestID(r.Context()))
}

// unreadable says why a form can't be read.
func unreadable(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return err
	}
	return &webui.Problem{Status: http.StatusBadRequest, Code: "bad_form", Title: "The form can’t be read"}
}

// certificatePath is the page of a certificate.
func certificatePath(serial depot.Serial) string {
	return sectionCertificates + "/" + url.PathEscape(string(serial))
}
