// Package frame puts around a page what all pages for the people of an organisation have
// in common: its name and logo, the language, whom to ask, who is signed in. And it says
// what went wrong, in their language.
//
// It knows nothing of what the pages are about.
package frame

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// Settings says what the operator decided. *enroll.Service does.
type Settings interface {
	Settings(ctx context.Context) (enroll.Settings, error)
}

// Config says what a Frame needs: all of it.
type Config struct {
	Settings Settings
	Texts    *text.Catalogue
	Pages    *webui.Pages
	Log      *slog.Logger
	Now      func() time.Time
}

// Frame is what pages have in common.
type Frame struct{ Config }

// New returns a Frame, or says what c lacks.
func New(c Config) (*Frame, error) {
	if c.Settings == nil || c.Texts == nil || c.Pages == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("frame: Settings, Texts, Pages, Log and Now are required")
	}
	return &Frame{c}, nil
}

// LogoPath is where logos are served, each under its SHA-256.
const LogoPath = "/logo/"

// Portal returns the frame of a page that answers r, and what the operator decided, which
// most pages need, too. The title is the text of a key. The menu of languages leads back
// to where r asks for a page; who answers a form sets Here and Keep.
func (f *Frame) Portal(r *http.Request, title string) (view.Portal, enroll.Settings, error) {
	settings, err := f.Settings.Settings(r.Context())
	if err != nil {
		return view.Portal{}, enroll.Settings{}, err
	}
	texts, err := f.Texts.For(r)
	if err != nil {
		return view.Portal{}, enroll.Settings{}, err
	}
	page := around(r, texts, settings)
	page.Title = page.T.Say(title)
	return page, settings, nil
}

// Preview is Portal for a page as it could be: in any language, also the pseudo-locale, and
// marked. Its errors are also [text.ErrLanguage].
func (f *Frame) Preview(r *http.Request, lang, title string) (view.Portal, enroll.Settings, error) {
	page, settings, err := f.Portal(r, title)
	if err != nil || lang == "" {
		page.Preview = true
		return page, settings, err
	}
	texts, err := f.Texts.In(r.Context(), lang)
	if err != nil {
		return view.Portal{}, enroll.Settings{}, err
	}
	page = around(r, texts, settings)
	page.Title, page.Preview = page.T.Say(title), true
	return page, settings, nil
}

// around is the frame in these texts.
func around(r *http.Request, texts *text.Texts, settings enroll.Settings) view.Portal {
	o := settings.Organisation
	called := o.Name
	if called == "" {
		called = texts.Say("portal.frame.organisation")
	}
	page := view.Portal{
		T:            texts.With("organisation", called),
		Organisation: o.Name,
		Support:      view.Support{Email: o.SupportEmail, Phone: o.SupportPhone, URL: o.SupportURL},
	}
	if o.Logo != "" {
		page.Logo = LogoPath + o.Logo
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		page.Here = r.URL.Path
		page.Keep = keep(r)
	}
	if p, ok := identity.PrincipalFrom(r.Context()); ok && p.Kind == identity.KindUser {
		page.User = p.Name
	}
	return page
}

// parameters are those by which pages say what they are about. Others, such as what a
// provider sends people back with, are not repeated in a page.
var parameters = []string{
	"browser", "device", "platform", // of the portal
	"again", "from", "login_hint", "next", "recovery", "switch", // of the sign-in
	"renew", // of people's own pages
}

// keep returns the parameters of r that the same page in another language has, too.
func keep(r *http.Request) (kept []view.Hidden) {
	query := r.URL.Query()
	for _, name := range parameters {
		if values := query[name]; len(values) == 1 && len(values[0]) <= 200 {
			kept = append(kept, view.Hidden{Name: name, Value: values[0]})
		}
	}
	return kept
}

// Refusal is something that did not work and that a person is told of in their language.
// It is an error; what it wraps says what a program is told.
type Refusal struct {
	Code   string // GH-E…: on the page, in the log and in docs/errors.md
	Status int    // of HTTP
	Name   string // the problem's code for programs, which never changes
	Title  string // the problem, for programs

	// Texts is what the keys of its texts begin with: "<Texts>.heading", "<Texts>.text",
	// and "<Texts>.action", if Action is not empty.
	Texts  string
	Action string        // path that the one action leads to
	Keep   []view.Hidden // parameters of the page, instead of those that all pages keep
	Values []any         // for the texts: name, value, …
	NoUser bool          // who is signed in can't sign out at its foot: that would lead them astray

	Detail string // for programs, and for who helps; nothing secret
	Err    error  // what happened, for the log; may be nil
}

// Error implements error.
func (r *Refusal) Error() string {
	if r.Err != nil {
		return fmt.Sprintf("%s: %v", r.Code, r.Err)
	}
	return r.Code + ": " + r.Title
}

// Unwrap lets errors.As find the problem, and errors.Is what happened.
func (r *Refusal) Unwrap() []error {
	problem := &webui.Problem{Status: r.Status, Code: r.Name, Title: r.Title, Detail: r.Detail}
	if r.Err == nil {
		return []error{problem}
	}
	return []error{problem, r.Err}
}

// general are the refusals of what can go wrong with any page, by the problem's code.
var general = []Refusal{
	{Code: "GH-E001", Name: "not_found", Texts: "errors.not_found", Action: "/enroll"},
	{Code: "GH-E002", Name: "method_not_allowed", Texts: "errors.method", Action: "/enroll"},
	{Code: "GH-E003", Name: "bad_query", Texts: "errors.query", Action: "/enroll"},
	{Code: "GH-E004", Name: "body_too_large", Texts: "errors.too_large", Action: "/enroll"},
	{Code: "GH-E005", Name: "cross_origin", Texts: "errors.cross_origin", Action: "/enroll"},
	{Code: "GH-E006", Name: "timeout", Texts: "errors.timeout"},
	{Code: "GH-E008", Name: "database_unavailable", Texts: "errors.database"},
	{Code: "GH-E009", Name: "bad_form", Texts: "errors.form", Action: "/enroll"},
	{Code: "GH-E007", Name: "internal", Texts: "errors.internal"}, // and what is not here
}

// General returns the codes of failures that any page may have, for tests and documents.
func General() []Refusal { return slices.Clone(general) }

// Fail is the [webui.FailFunc] of these pages.
func (f *Frame) Fail(w http.ResponseWriter, r *http.Request, err error) {
	problem, answered := f.Pages.Report(w, r, err)
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		refusal = &general[len(general)-1]
		for i := range general {
			if general[i].Name == problem.Code {
				refusal = &general[i]
			}
		}
	}
	if r.Context().Err() == nil {
		f.Log.InfoContext(r.Context(), "page refused", "code", refusal.Code, "request", webui.RequestID(r.Context()), "err", err)
	}
	if answered {
		return
	}
	settings, err := f.Settings.Settings(r.Context())
	texts := f.Texts.Known(r)
	if err == nil {
		// Not from the database where that is what failed.
		if current, err := f.Texts.For(r); err == nil {
			texts = current
		}
	}
	page := f.refused(r, around(r, texts, settings), refusal)
	if err := f.Pages.Write(w, problem.Status, page); err != nil {
		f.Log.ErrorContext(r.Context(), "page not drawn", "request", webui.RequestID(r.Context()), "err", err)
		http.Error(w, problem.Title, problem.Status)
	}
}

func (f *Frame) refused(r *http.Request, around view.Portal, refusal *Refusal) view.PortalError {
	t := around.T
	page := view.PortalError{
		Portal:  around,
		Heading: t.Say(refusal.Texts+".heading", refusal.Values...),
		Text:    t.Say(refusal.Texts+".text", refusal.Values...),
		Code:    refusal.Code,
		Details: f.Now().UTC().Format(time.RFC3339),
	}
	page.Title = page.Heading
	if len(refusal.Keep) > 0 {
		page.Keep = refusal.Keep
	}
	if refusal.NoUser {
		page.User = ""
	}
	if refusal.Action != "" {
		page.Action = view.Link{Label: t.Say(refusal.Texts + ".action"), URL: refusal.Action}
	}
	if id := webui.RequestID(r.Context()); id != "" {
		page.Details += "\n" + id
	}
	if refusal.Detail != "" {
		page.Details += "\n" + refusal.Detail
	}
	return page
}
