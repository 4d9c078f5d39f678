// Package enrollment is the section of the desk in which administrators let people in:
// links and invitations, and how far those came who used them.
package enrollment

import (
	"embed"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

//go:embed templates/*.html
var templates embed.FS

const (
	section         = "/admin/enrollment"
	linksPath       = section + "/links"
	invitationsPath = section + "/invitations"

	routeLink   = "POST /api/v1/enrollment-links"
	routeInvite = "POST /api/v1/enrollment-invitations"
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
	r.Handle("GET "+linksPath, s.links)
	r.Handle("GET "+linksPath+"/new", s.newLink)
	r.Handle("POST "+linksPath+"/new", s.createLink)
	r.Handle("GET "+linksPath+"/{id}", s.link)
	r.Handle("GET "+linksPath+"/{id}/qr.svg", s.picture)
	r.Handle("GET "+linksPath+"/{id}/edit", s.editLink)
	r.Handle("POST "+linksPath+"/{id}/edit", s.changeLink)
	r.Handle("GET "+linksPath+"/{id}/revoke", s.askRevoke)
	r.Handle("POST "+linksPath+"/{id}/revoke", s.revoke)
	r.Handle("GET "+invitationsPath, s.invitations)
	r.Handle("GET "+invitationsPath+"/new", s.newInvitation)
	r.Handle("POST "+invitationsPath+"/new", s.invite)
	r.Handle("GET "+invitationsPath+"/{id}", s.invitation)
	r.Handle("POST "+invitationsPath+"/{id}/retry", s.retry)
	r.Handle("GET "+invitationsPath+"/{id}/revoke", s.askTakeBack)
	r.Handle("POST "+invitationsPath+"/{id}/revoke", s.takeBack)
}

func page(title string, crumbs ...view.Link) admin.Page {
	p := admin.Page{Title: title, Section: section}
	if len(crumbs) > 0 {
		p.Crumbs = append([]view.Link{{Label: "Enrollment", URL: section}}, crumbs...)
	}
	return p
}

// settings are those that say which ways in are open.
type settings struct {
	Portal *bool `json:"portal"`
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
	Links     []link
	Attempts  []attempt
}

// overview says which ways in there are, and who is on one.
func (s *Enrollment) overview(w http.ResponseWriter, r *http.Request) error {
	out := &overviewPage{
		Page: page("Enrollment"), Tabs: s.desk.EnrollmentTabs(r, section), PortalURL: s.desk.ServerURL.JoinPath("enroll").String(), Open: true,
	}
	out.Watch = "link. attempt. device. settings."
	ctx := r.Context()
	if s.desk.May(ctx, "GET /api/v1/settings") {
		var now settings
		if err := s.desk.Get(ctx, "/api/v1/settings", nil, &now); err != nil {
			return err
		}
		out.Open = now.Portal == nil || *now.Portal
	}
	if s.desk.May(ctx, "GET /api/v1/enrollment-links") {
		var list admin.List[link]
		if err := s.desk.Get(ctx, "/api/v1/enrollment-links", url.Values{"limit": {"50"}}, &list); err != nil {
			return err
		}
		for _, l := range list.Items {
			if l.State == "active" && len(out.Links) < 5 {
				out.Links = append(out.Links, l)
			}
		}
	}
	if s.desk.May(ctx, "GET /api/v1/enrollment-attempts") {
		var list admin.List[attempt]
		if err := s.desk.Get(ctx, "/api/v1/enrollment-attempts", url.Values{"limit": {"10"}}, &list); err != nil {
			return err
		}
		out.Attempts = list.Items
		for _, a := range list.Items {
			if a.Stage != "enrolled" && a.Stage != "failed" {
				out.Every = 3
			}
		}
	}
	return s.desk.Write(w, r, s.pages, "overview.html", out)
}
