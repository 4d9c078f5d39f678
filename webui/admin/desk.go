// Package admin is the desk of the administrators: the frame of their pages, and what all
// of them have in common. Each section is a package of its own below.
//
// The pages are the first client of the REST API: what they show and do goes through
// /api/v1, with the same permission check and audit log as for scripts and for the command
// line, so this package knows nothing of devices or certificates. A page that needs
// something that the API lacks is a reason to add it there.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// API serves /api/v1 inside of the process. *apiv1.API does.
type API interface {
	// As serves requests in the name of p.
	As(p identity.Principal) http.Handler
	// May reports whether p may use the route with a pattern, as "POST /api/v1/commands".
	May(p identity.Principal, pattern string) bool
}

// Config says what a Desk needs: all of it but Demo.
type Config struct {
	API       API
	Assets    *view.Assets
	Pages     *webui.Pages // for who is no administrator
	ServerURL *url.URL
	Log       *slog.Logger
	Now       func() time.Time

	// LastEvent returns the place of the newest event, from which on a page is live.
	LastEvent func(context.Context) (uint64, error)

	Demo func() bool // the server makes simulated devices now; nil: it never does
}

// Desk is what the pages of administrators have in common.
type Desk struct {
	Config
	pages *Templates // its own
}

// New returns a Desk, or says what c lacks.
func New(c Config) (*Desk, error) {
	if c.API == nil || c.Assets == nil || c.Pages == nil || c.ServerURL == nil || c.Log == nil || c.Now == nil || c.LastEvent == nil {
		return nil, errors.New("admin: API, Assets, Pages, ServerURL, Log, Now and LastEvent are required")
	}
	if c.Demo == nil {
		c.Demo = func() bool { return false }
	}
	d := &Desk{Config: c}
	var err error
	d.pages, err = d.Templates(templateFiles)
	return d, err
}

// Section is a part of the desk that mounts its pages: those that take files at uploads,
// whose requests may be large.
type Section interface {
	Mount(pages, uploads webui.Router)
}

// Mount registers the pages that belong to no section; the router must let in only who
// passes [Desk.Guard].
func (d *Desk) Mount(r webui.Router) {
	r.Handle("POST /admin/theme", d.setTheme)
}

// MountLive registers the stream of events. It has no end to wait for.
func (d *Desk) MountLive(r webui.Router) { r.Handle("GET /admin/events", d.live) }

// Guard lets in who may read something, and sends others to the login.
func (d *Desk) Guard(next http.Handler) http.Handler {
	return webui.RequireScope(identity.ScopeReadOnly, func(w http.ResponseWriter, r *http.Request, signedIn bool) {
		switch {
		case signedIn:
			d.Pages.Fail(w, r, errNoRole)
		case !webui.WantsHTML(r):
			d.Pages.Fail(w, r, &webui.Problem{Status: http.StatusUnauthorized, Code: "unauthenticated", Title: "Sign in first"})
		default:
			http.Redirect(w, r, "/admin/login?next="+url.QueryEscape(backTo(r)), http.StatusSeeOther)
		}
	})(next)
}

// backTo is where somebody whose session ended goes on after signing in: to a form's page,
// not to where it was sent.
func backTo(r *http.Request) string {
	if r.Method == http.MethodGet {
		return r.URL.RequestURI()
	}
	if from, err := url.Parse(r.Referer()); err == nil && strings.HasPrefix(from.Path, "/admin") {
		return from.RequestURI()
	}
	return "/admin"
}

var errNoRole = &webui.Refusal{
	Problem: webui.Problem{
		Status: http.StatusForbidden, Code: "forbidden",
		Title: "You may not see this", Detail: "Your account has no administrator’s role.",
	},
	Page: view.Message{
		Heading: "You may not see this",
		Text:    "Your account has no administrator’s role; an owner of this server can give it one. If it had one until now, it may need a second factor before it counts again: then set one up.",
		Action:  view.Link{Label: "Set up a second factor", URL: "/me/security"},
		Other:   view.Link{Label: "Sign in as somebody else", URL: "/admin/login?switch=1"},
		Code:    "GH-E215",
	},
}

// Principal is who looks at a page.
func Principal(ctx context.Context) identity.Principal {
	p, _ := identity.PrincipalFrom(ctx)
	return p
}

// May reports whether who looks may use a route of the API, as "POST /api/v1/commands".
func (d *Desk) May(ctx context.Context, pattern string) bool {
	return d.API.May(Principal(ctx), pattern)
}

// Only shows a page to who may use a route of the API, for pages whose first steps ask
// nothing of it that others may not.
func (d *Desk) Only(pattern string, page webui.HandlerFunc) webui.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if !d.May(r.Context(), pattern) {
			return &Problem{Problem: webui.Problem{Status: http.StatusForbidden, Code: "forbidden"}}
		}
		return page(w, r)
	}
}

// failure is a page that says what went wrong.
type failure struct {
	Page
	Heading   string
	Text      string
	Fields    []FieldError
	Code      string
	RequestID string
	Log       string // what the server logged of it; empty where there is nothing to look up
	Back      string // empty: to the first page
}

// notYours says what the API refused who looks, with what they can do about it.
func notYours(r *http.Request, p *Problem) *webui.Problem {
	out := &webui.Problem{Status: p.Status, Code: p.Code, Title: "You may not do this", Detail: p.Problem.Detail}
	if r.Method == http.MethodGet {
		out.Title = "You may not see this"
	}
	switch p.Code {
	case "forbidden":
		out.Detail = "Your role does not include it. Ask an owner of this server to do it, or to give you a role that may."
	case "outside_scope":
		out.Detail = "It is about the whole server, and your role is limited to groups of devices. Ask somebody who is in charge of all."
	}
	return out
}

// Fail is the FailFunc of the desk's pages: a browser gets a page with the desk around it.
func (d *Desk) Fail(w http.ResponseWriter, r *http.Request, err error) {
	if _, known := identity.PrincipalFrom(r.Context()); !known {
		d.Pages.Fail(w, r, err)
		return
	}
	var refused *Problem
	if errors.As(err, &refused) && refused.Code == "not_found" {
		err = fmt.Errorf("%w", &webui.Problem{Status: http.StatusNotFound, Code: "not_found", Title: "There is nothing here",
			Detail: "It was removed, or it belongs to devices that you are not in charge of."})
	}
	if refused != nil && refused.Status == http.StatusForbidden {
		err = fmt.Errorf("%w", notYours(r, refused))
	}
	problem, answered := d.Pages.Report(w, r, err)
	if answered {
		return
	}
	page := &failure{
		Page: Page{Title: problem.Title}, Heading: problem.Title, Text: problem.Detail, Code: problem.Code,
		RequestID: webui.RequestID(r.Context()), Back: backTo(r),
	}
	if refused != nil {
		page.Fields = refused.Errors
	}
	if page.Back == r.URL.RequestURI() {
		page.Back = ""
	}
	if problem.Status >= http.StatusInternalServerError && d.May(r.Context(), "GET /api/v1/log") {
		page.Log = "/admin/audit/log?" + url.Values{"q": {page.RequestID}}.Encode()
	}
	if page.Text == "" {
		page.Text = "Try again in a minute. If it stays, give the request below to who runs this server."
		if problem.Status < http.StatusInternalServerError {
			page.Text = "The request was refused."
		}
	}
	if err := d.WriteStatus(w, r, problem.Status, d.pages, "failure.html", page); err != nil {
		d.Log.ErrorContext(r.Context(), "page not drawn", "request", webui.RequestID(r.Context()), "err", err)
		http.Error(w, problem.Title, problem.Status)
	}
}
