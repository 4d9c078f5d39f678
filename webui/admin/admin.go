// Package admin is the administrators' pages: for now the devices and what was
// asked of them, to read.
//
// It knows nothing of how devices are kept: it reads them through the interface
// that it declares.
package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// Devices reads devices and their commands. *mdm.Service is one.
type Devices interface {
	Devices(ctx context.Context, cursor string, limit int) (page []mdm.Overview, next string, err error)
	Device(ctx context.Context, id mdm.DeviceID) (mdm.Overview, error)
	DeviceCommands(ctx context.Context, id mdm.DeviceID, cursor string, limit int) (page []mdm.Entry, next string, err error)
}

// Lost knows which devices their users have reported lost. *enroll.Service is one.
type Lost interface {
	LostDevices(ctx context.Context, ids ...mdm.DeviceID) (map[mdm.DeviceID]enroll.Lost, error)
}

// Config says what the pages need: all of it but Notice and Demo.
type Config struct {
	Devices Devices
	Lost    Lost
	Pages   *webui.Pages
	Now     func() time.Time

	// Notice returns what an administrator should know of all devices, a sentence
	// or nothing.
	Notice func(ctx context.Context) (string, error)
	Demo   bool // the server makes simulated devices
}

// Admin serves /admin.
type Admin struct{ Config }

// New returns an Admin, or says what c lacks.
func New(c Config) (*Admin, error) {
	if c.Devices == nil || c.Lost == nil || c.Pages == nil || c.Now == nil {
		return nil, errors.New("admin: Devices, Lost, Pages and Now are required")
	}
	return &Admin{c}, nil
}

// Mount registers the pages; the router must let in only who passes [Admin.Guard].
func (a *Admin) Mount(r webui.Router) {
	r.Handle("GET /admin", a.home)
	r.Handle("GET /admin/devices", a.list)
	r.Handle("GET /admin/devices/{id}", a.device)
}

// Guard lets in who may read everything, and sends others to the login.
func (a *Admin) Guard(next http.Handler) http.Handler {
	return webui.RequireScope(identity.ScopeReadOnly, func(w http.ResponseWriter, r *http.Request, signedIn bool) {
		switch {
		case signedIn:
			a.Pages.Fail(w, r, errNoRole)
		case !webui.WantsHTML(r):
			a.Pages.Fail(w, r, &webui.Problem{Status: http.StatusUnauthorized, Code: "unauthenticated", Title: "Sign in first"})
		default:
			http.Redirect(w, r, "/admin/login?next="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
		}
	})(next)
}

var errNoRole = &webui.Refusal{
	Problem: webui.Problem{
		Status: http.StatusForbidden, Code: "forbidden",
		Title: "You may not see this", Detail: "Your account has no administrator’s role.",
	},
	Page: view.Message{
		Heading: "You may not see this",
		Text:    "Your account has no administrator’s role, or must have a second factor before it counts.",
		Action:  view.Link{Label: "Sign in as somebody else", URL: "/admin/login?switch=1"},
		Code:    "GH-E215",
	},
}

// layout is the frame of a page, in the section of the navigation that begins with
// path.
func (a *Admin) layout(r *http.Request, title, path string) view.Layout {
	l := view.Layout{Title: title, Demo: a.Demo, Nav: []view.NavItem{{Label: "Devices", URL: "/admin/devices"}}}
	for i := range l.Nav {
		l.Nav[i].Current = l.Nav[i].URL == path
	}
	if p, ok := identity.PrincipalFrom(r.Context()); ok {
		l.User = p.Name
		if p.Kind == identity.KindSetup {
			l.User = "signed in by setup link"
		}
	}
	return l
}

func (a *Admin) home(w http.ResponseWriter, r *http.Request) error {
	http.Redirect(w, r, "/admin/devices", http.StatusSeeOther)
	return nil
}

// Lengths of lists.
const (
	devicesPerPage  = 50
	commandsPerPage = 25
)

func (a *Admin) list(w http.ResponseWriter, r *http.Request) error {
	cursor := r.URL.Query().Get("cursor")
	found, next, err := a.Devices.Devices(r.Context(), cursor, devicesPerPage)
	if err != nil {
		return pageProblem(err)
	}
	page := view.Devices{
		Layout:  a.layout(r, "Devices", "/admin/devices"),
		NextURL: pageURL("/admin/devices", next),
		First:   cursor == "",
	}
	page.Refresh = 5
	if a.Notice != nil {
		if page.Notice, err = a.Notice(r.Context()); err != nil {
			return err
		}
	}
	ids := make([]mdm.DeviceID, len(found))
	for i, d := range found {
		ids[i] = d.ID
	}
	lost, err := a.Lost.LostDevices(r.Context(), ids...)
	if err != nil {
		return err
	}
	for _, d := range found {
		row := a.row(d)
		_, row.Lost = lost[d.ID]
		if d.ParentID != "" {
			if row.Parent, err = a.parent(r.Context(), d.ParentID); err != nil {
				return err
			}
		}
		page.Items = append(page.Items, row)
	}
	return a.Pages.Write(w, http.StatusOK, page)
}

// pageURL is where the next page of a list is; cursors are URL-safe.
func pageURL(path, cursor string) string {
	if cursor == "" {
		return ""
	}
	return path + "?cursor=" + url.QueryEscape(cursor)
}

func pageProblem(err error) error {
	switch {
	case errors.Is(err, storage.ErrBadCursor):
		return &webui.Problem{Status: http.StatusBadRequest, Code: "bad_cursor", Title: "This page of the list does not exist"}
	case errors.Is(err, storage.ErrNotFound):
		return &webui.Problem{Status: http.StatusNotFound, Code: "not_found", Title: "Not found"}
	}
	return err
}

// deviceURL is a device's page.
func deviceURL(id mdm.DeviceID) string { return "/admin/devices/" + url.PathEscape(string(id)) }

// parent returns the link to the device that a user channel belongs to.
func (a *Admin) parent(ctx context.Context, id mdm.DeviceID) (view.Link, error) {
	d, err := a.Devices.Device(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return view.Link{}, nil // just deleted
	}
	if err != nil {
		return view.Link{}, err
	}
	return view.Link{Label: deviceName(d), URL: deviceURL(id)}, nil
}

func (a *Admin) row(d mdm.Overview) view.DeviceRow {
	return view.DeviceRow{
		URL:      deviceURL(d.ID),
		Name:     deviceName(d),
		Model:    modelName(d),
		OS:       osName(d),
		Owner:    d.User,
		Type:     enrollmentType(d.Type),
		State:    deviceState(d.State),
		Demo:     d.Demo,
		LastSeen: a.moment(d.LastSeenAt),
		Pending:  d.PendingCommands,
	}
}

func (a *Admin) moment(t time.Time) view.Moment { return view.Moment{At: t, Now: a.Now()} }

func (a *Admin) device(w http.ResponseWriter, r *http.Request) error {
	id := mdm.DeviceID(r.PathValue("id"))
	d, err := a.Devices.Device(r.Context(), id)
	if err != nil {
		return pageProblem(err)
	}
	cursor := r.URL.Query().Get("cursor")
	entries, next, err := a.Devices.DeviceCommands(r.Context(), id, cursor, commandsPerPage)
	if err != nil {
		return pageProblem(err)
	}
	reports, err := a.Lost.LostDevices(r.Context(), id)
	if err != nil {
		return err
	}
	lost, isLost := reports[id]
	self := deviceURL(id)
	facts := a.facts(d)
	if isLost {
		at := a.moment(lost.At)
		facts = append([]view.Fact{{Label: "Reported lost", Moment: &at}}, facts...)
		if lost.Note != "" {
			facts = slices.Insert(facts, 1, view.Fact{Label: "What the user said", Value: lost.Note})
		}
	}
	if d.ParentID != "" {
		parent, err := a.parent(r.Context(), d.ParentID)
		if err != nil {
			return err
		}
		if parent.URL != "" {
			facts = slices.Insert(facts, 1, view.Fact{Label: "Device", Value: parent.Label, URL: parent.URL})
		}
	}
	page := view.Device{
		Layout:     a.layout(r, deviceName(d), "/admin/devices"),
		Name:       deviceName(d),
		State:      deviceState(d.State),
		Demo:       d.Demo,
		Lost:       isLost,
		Facts:      facts,
		Attributes: attributes(d.Attributes),
		OlderURL:   pageURL(self, next),
	}
	page.Refresh = 5
	if cursor != "" {
		page.NewestURL = self
	}
	for _, e := range entries {
		page.Commands = append(page.Commands, a.command(e))
	}
	return a.Pages.Write(w, http.StatusOK, page)
}

// facts lists what is known of a device, without what is not.
func (a *Admin) facts(d mdm.Overview) []view.Fact {
	seen, created := a.moment(d.LastSeenAt), a.moment(d.CreatedAt)
	serial, udid := hardware(d)
	facts := []view.Fact{
		{Label: "Enrollment", Value: enrollmentType(d.Type)},
		{Label: "Ownership", Value: string(d.Ownership)},
		{Label: "Owner", Value: d.User},
		{Label: "Managed Apple Account", Value: d.ManagedAppleAccount},
		{Label: "Model", Value: modelName(d)},
		{Label: "OS version", Value: osName(d)},
		{Label: "Serial number", Value: serial, Mono: true},
		{Label: "UDID", Value: udid, Mono: true},
		{Label: "Enrollment ID", Value: d.EnrollmentID, Mono: true},
		{Label: "User", Value: d.UserID, Mono: true},
		{Label: "Last seen", Moment: &seen},
		{Label: "First seen", Moment: &created},
		{Label: "Pending commands", Value: fmt.Sprint(d.PendingCommands)},
		{Label: "ID", Value: string(d.ID), Mono: true},
	}
	known := facts[:0]
	for _, f := range facts {
		if f.Value != "" || f.Moment != nil {
			known = append(known, f)
		}
	}
	return known
}

func (a *Admin) command(e mdm.Entry) view.CommandRow {
	row := view.CommandRow{
		Name:     e.RequestType,
		UUID:     e.UUID,
		State:    commandState(e),
		Created:  a.moment(e.CreatedAt),
		Finished: a.moment(e.FinishedAt),
		NotNow:   e.NotNowCount,
	}
	for _, ce := range e.ErrorChain {
		row.Errors = append(row.Errors, errorText(ce))
	}
	return row
}
