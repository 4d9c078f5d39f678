// Package enrollment is the section of the desk in which administrators let people in:
// links and invitations, and how far those came who used them.
package enrollment

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/qr"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

//go:embed templates/*.html
var templates embed.FS

const (
	section         = "/admin/enrollment"
	linksPath       = section + "/links"
	invitationsPath = section + "/invitations"
	peoplePath      = section + "/people"

	apiLinks       = "/api/v1/enrollment-links"
	apiInvitations = "/api/v1/enrollment-invitations"
	apiAttempts    = "/api/v1/enrollment-attempts"

	routeLink   = "POST " + apiLinks
	routeInvite = "POST " + apiInvitations
)

// Enrollment is the section.
type Enrollment struct {
	desk  *admin.Desk
	pages *admin.Templates
}

// New returns the section at a desk.
func New(desk *admin.Desk) (*Enrollment, error) {
	pages, err := desk.Templates(templates)
	return &Enrollment{desk, pages}, err
}

// Mount implements [admin.Section].
func (s *Enrollment) Mount(r, _ webui.Router) {
	r.Handle("GET "+section, s.overview)
	r.Handle("GET "+section+"/qr.svg", s.portalPicture)
	mount := func(pattern, route string, page webui.HandlerFunc) { r.Handle(pattern, s.only(route, page)) }
	mount("GET "+linksPath, "GET "+apiLinks, s.links)
	r.Handle("GET "+linksPath+"/new", s.newLink)
	mount("POST "+linksPath+"/new", routeLink, s.createLink)
	mount("GET "+linksPath+"/{id}", "GET "+apiLinks, s.link)
	mount("GET "+linksPath+"/{id}/qr.svg", "GET "+apiLinks+"/{id}/qr.svg", s.picture)
	mount("GET "+linksPath+"/{id}/edit", "PATCH "+apiLinks+"/{id}", s.editLink)
	mount("POST "+linksPath+"/{id}/edit", "PATCH "+apiLinks+"/{id}", s.changeLink)
	mount("GET "+linksPath+"/{id}/revoke", "DELETE "+apiLinks+"/{id}", s.askRevoke)
	mount("POST "+linksPath+"/{id}/revoke", "DELETE "+apiLinks+"/{id}", s.end(apiLinks, linksPath))
	mount("GET "+invitationsPath, "GET "+apiInvitations, s.invitations)
	r.Handle("GET "+invitationsPath+"/new", s.newInvitation)
	mount("POST "+invitationsPath+"/new", routeInvite, s.invite)
	mount("GET "+invitationsPath+"/{id}", "GET "+apiInvitations, s.invitation)
	mount("POST "+invitationsPath+"/{id}/retry", "POST "+apiInvitations+"/{id}/retry", s.retry)
	mount("GET "+invitationsPath+"/{id}/revoke", "DELETE "+apiInvitations+"/{id}", s.askTakeBack)
	r.Handle("GET "+peoplePath+"/new", s.newPerson)
	mount("POST "+peoplePath+"/new", routeInvite, s.enrollPerson)
	mount("GET "+peoplePath+"/{id}", "GET "+apiInvitations, s.person)
	mount("POST "+invitationsPath+"/{id}/revoke", "DELETE "+apiInvitations+"/{id}", s.end(apiInvitations, invitationsPath))
}

// why says why who looks may not use a route of the API, and whom to ask; empty: they may.
func (s *Enrollment) why(ctx context.Context, route string) string {
	switch {
	case s.desk.May(ctx, route):
		return ""
	case admin.Principal(ctx).Limited():
		return "Links and invitations let people in to the whole server, and your role is limited to groups of devices. Ask an administrator whose role is not limited to make one for you."
	}
	return "That takes the role helpdesk. Ask somebody who has it, or an administrator to give it to you."
}

// only shows a page to who may use a route of the API. Others learn what that takes.
func (s *Enrollment) only(route string, page webui.HandlerFunc) webui.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if why := s.why(r.Context(), route); why != "" {
			return &webui.Problem{Status: http.StatusForbidden, Code: "forbidden", Title: "You may not do this", Detail: why}
		}
		return page(w, r)
	}
}

// list is a page of one of the API's lists.
type list[T any] struct {
	admin.Page
	Tabs  []admin.NavItem
	Items []T
	Pager admin.Pager
	Empty *admin.Empty
}

// listOf reads the list that the page at a path shows, where events whose action begins with
// watch change it. A list without any says none, with its actions for who may do them.
func listOf[T any](s *Enrollment, r *http.Request, api, path, title, watch string, none admin.Empty) (*list[T], error) {
	query := url.Values{"limit": {"50"}}
	if cursor := r.URL.Query().Get("cursor"); cursor != "" {
		query.Set("cursor", cursor)
	}
	var found admin.List[T]
	if err := s.desk.Get(r.Context(), api, query, &found); err != nil {
		return nil, err
	}
	out := &list[T]{Page: page(title), Tabs: s.desk.EnrollmentTabs(r, path), Items: found.Items, Pager: admin.NewPager(r, found.NextCursor)}
	out.Watch = watch
	if len(found.Items) == 0 && out.Pager.First == "" {
		if !s.desk.May(r.Context(), "POST "+api) {
			none.Actions = nil
		}
		out.Empty = &none
	}
	return out, nil
}

// end revokes what an id names in a list of the API, and leads back to its page below path.
func (s *Enrollment) end(api, path string) webui.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		id := url.PathEscape(r.PathValue("id"))
		if err := s.desk.Send(r.Context(), http.MethodDelete, api+"/"+id, nil, nil); err != nil {
			return err
		}
		return admin.Redirect(w, r, path+"/"+id, "revoked")
	}
}

// count asks the API for the number in a field; for nothing if the field is empty.
func count(form *admin.Form, name string, ask map[string]any) {
	text := form.Get(name)
	if text == "" {
		return
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		form.Fail(name, "must be a number")
	}
	ask[name] = n
}

// refused is [admin.Form.Refused] for what hands out a link: who may not hand one out that
// signs somebody in learns so at the choice that makes it one.
func refused(form *admin.Form, err error, renamed ...string) bool {
	var p *admin.Problem
	if errors.As(err, &p) && p.Status == http.StatusForbidden {
		form.Fail("login", "%s", p.Detail)
		return true
	}
	return form.Refused(err, renamed...)
}

func page(title string, crumbs ...view.Link) admin.Page {
	p := admin.Page{Title: title, Section: section}
	if len(crumbs) > 0 {
		p.Crumbs = append([]view.Link{{Label: "Enrollment", URL: section}}, crumbs...)
	}
	return p
}

// below is a page below a list of the API that another page shows, and the way back: to the
// section for who may not see the list.
func (s *Enrollment) below(ctx context.Context, title, api string, list view.Link) (p admin.Page, back string) {
	if !s.desk.May(ctx, "GET "+api) {
		return admin.Page{Title: title, Section: section, Crumbs: []view.Link{{Label: "Enrollment", URL: section}}}, section
	}
	return page(title, list), list.URL
}

var (
	linksLink       = view.Link{Label: "Links", URL: linksPath}
	invitationsLink = view.Link{Label: "Invitations", URL: invitationsPath}
)

// settings are those that say which ways in are open.
type settings struct {
	Portal        bool      `json:"portal"`
	Institutional switched  `json:"institutional"`
	Personal      switched  `json:"personal"`
	Mail          *struct{} `json:"mail"` // nil: none can be sent
}

type switched struct {
	Enabled bool `json:"enabled"`
}

func (s *Enrollment) settings(ctx context.Context) (now settings, err error) {
	err = s.desk.Get(ctx, "/api/v1/settings", nil, &now)
	return now, err
}

// ownerships are the choices of whose devices are enrolled: those that are switched off can't
// be chosen.
func (now settings) ownerships() []admin.Option {
	off := map[string]string{}
	if !now.Institutional.Enabled {
		off["institutional"] = "Switched off in Settings."
	}
	if !now.Personal.Enabled {
		off["personal"] = "Switched off in Settings."
	}
	if len(off) > 0 {
		off["ask"] = "There is nothing to choose: Settings allow one of them."
	}
	list := make([]admin.Option, len(ownerships))
	for i, o := range ownerships {
		if why := off[o.Value]; why != "" {
			o.Disabled, o.Hint = true, why
		}
		list[i] = o
	}
	return list
}

// ownership is the choice to begin with: the first of those that are wanted and can be made.
func (now settings) ownership(wanted ...string) string {
	for _, value := range append(wanted, "institutional", "personal") {
		for _, o := range now.ownerships() {
			if o.Value == value && !o.Disabled {
				return value
			}
		}
	}
	return ""
}

// attempt is the way of one person, as far as it came.
type attempt struct {
	ID        string               `json:"id"`
	LinkID    string               `json:"link_id"`
	User      string               `json:"user"`
	Ownership string               `json:"ownership"`
	Stage     string               `json:"stage"`
	StageAt   map[string]time.Time `json:"stage_at"`
	DeviceID  string               `json:"device_id"`
	ErrorCode string               `json:"error_code"`
}

// stages are the steps of an enrollment in words, in their order.
var stages = []struct{ name, words string }{
	{"opened", "opened the page"}, {"authenticated", "signed in"}, {"profile_downloaded", "downloaded the profile"},
	{"identity_issued", "installs it"}, {"checked_in", "has checked in"}, {"enrolled", "enrolled"},
}

// stageState is how far somebody is, in words.
func stageState(stage, code string) view.State {
	switch stage {
	case "":
		return view.State{Text: "not opened yet", Tone: view.Neutral}
	case "failed":
		return view.State{Text: "failed", Tone: view.Bad, Hint: admin.Words(code)}
	case "enrolled":
		return view.State{Text: "enrolled", Tone: view.Good}
	}
	for _, s := range stages {
		if s.name == stage {
			return view.State{Text: s.words, Tone: view.Waiting}
		}
	}
	return view.State{Text: admin.Words(stage), Tone: view.Neutral}
}

// State is how far the attempt is.
func (a attempt) State() view.State { return stageState(a.Stage, a.ErrorCode) }

// URL is the attempt's page.
func (a attempt) URL() string { return section + "/attempts/" + url.PathEscape(a.ID) }

// Began is when the page was opened, Moved when something happened last.
func (a attempt) Began() time.Time { return a.StageAt["opened"] }

func (a attempt) Moved() (last time.Time) {
	for _, at := range a.StageAt {
		if at.After(last) {
			last = at
		}
	}
	return last
}

// DeviceURL is the page of the device that it brought; empty before.
func (a attempt) DeviceURL() string {
	if a.DeviceID == "" {
		return ""
	}
	return "/admin/devices/" + url.PathEscape(a.DeviceID)
}

type overviewPage struct {
	admin.Page
	Tabs      []admin.NavItem
	Open      bool // the portal is
	PortalURL string
	Why       string // people can't be invited; empty: they can
	MayLinks  bool   // see them
	Links     []link
	Attempts  []attempt
}

// overview says which ways in there are, and who is on one.
func (s *Enrollment) overview(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	now, err := s.settings(ctx)
	if err != nil {
		return err
	}
	out := &overviewPage{
		Page: page("Enrollment"), Tabs: s.desk.EnrollmentTabs(r, section), PortalURL: s.portalURL(), Open: now.Portal,
		Why: s.why(ctx, routeInvite), MayLinks: s.desk.May(ctx, "GET "+apiLinks),
	}
	out.Watch = "link. attempt. device. settings."
	if out.MayLinks {
		var list admin.List[link]
		if err := s.desk.Get(ctx, apiLinks, url.Values{"limit": {"5"}, "state": {"active"}}, &list); err != nil {
			return err
		}
		out.Links = list.Items
	}
	var list admin.List[attempt]
	if err := s.desk.Get(ctx, apiAttempts, url.Values{"limit": {"10"}}, &list); err != nil {
		return err
	}
	out.Attempts = list.Items
	for _, a := range list.Items {
		if a.Stage != "enrolled" && a.Stage != "failed" {
			out.Every = 3
		}
	}
	return s.desk.Write(w, r, s.pages, "overview.html", out)
}

func (s *Enrollment) portalURL() string { return s.desk.ServerURL.JoinPath("enroll").String() }

// portalPicture is the QR code of the portal's address, which is no secret.
func (s *Enrollment) portalPicture(w http.ResponseWriter, r *http.Request) error {
	picture, err := qr.SVG(s.portalURL(), "Enrollment portal")
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "image/svg+xml")
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox") // a picture, opened by itself
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(picture))
	return nil
}
