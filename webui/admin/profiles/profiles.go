// Package profiles is the section of the desk for configuration profiles: what the
// organisation keeps, what is in it, and which devices have it.
package profiles

import (
	"embed"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/admin/targets"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

//go:embed templates/*.html
var templates embed.FS

const (
	section = "/admin/profiles"
	api     = "/api/v1/profiles"
	removal = "POST /api/v1/profiles/{id}/remove"
)

// Profiles is the section.
type Profiles struct {
	desk  *admin.Desk
	pages *admin.Templates
}

// New returns the section at a desk.
func New(desk *admin.Desk) (*Profiles, error) {
	pages, err := desk.Templates(targets.With(templates))
	return &Profiles{desk, pages}, err
}

// Mount implements [admin.Section].
func (s *Profiles) Mount(r, uploads webui.Router) {
	r.Handle("GET /admin/profiles", s.list)
	r.Handle("GET /admin/profiles/new", s.upload)
	uploads.Handle("POST /admin/profiles/new", s.take)
	r.Handle("GET /admin/profiles/starters", s.starters)
	r.Handle("GET /admin/profiles/starter", s.starter)
	uploads.Handle("POST /admin/profiles/starter", s.fill)

	r.Handle("GET /admin/profiles/{id}", s.profile)
	r.Handle("GET /admin/profiles/{id}/contents", s.contents)
	r.Handle("GET /admin/profiles/{id}/versions", s.versions)
	r.Handle("POST /admin/profiles/{id}/versions/{version}/restore", s.restore)
	r.Handle("GET /admin/profiles/{id}/versions/{version}/download", s.download)
	r.Handle("GET /admin/profiles/{id}/devices", s.devices)
	r.Handle("GET /admin/profiles/{id}/send", s.send)
	r.Handle("POST /admin/profiles/{id}/send", s.sendTo)
	r.Handle("GET /admin/profiles/{id}/remove", s.desk.Only(removal, s.remove))
	r.Handle("POST /admin/profiles/{id}/remove", s.desk.Only(removal, s.removeFrom))
	r.Handle("GET /admin/profiles/{id}/delete", s.askDelete)
	r.Handle("POST /admin/profiles/{id}/delete", s.delete)
}

// brief is a profile as the API lists it.
type brief struct {
	ID         string    `json:"id"`
	Identifier string    `json:"identifier"`
	Name       string    `json:"name"`
	Version    int       `json:"version"`
	CreatedAt  time.Time `json:"created_at"`
	CreatedBy  string    `json:"created_by"`
	UpdatedAt  time.Time `json:"updated_at"`
}

// URL is the profile's page.
func (p brief) URL() string { return section + "/" + url.PathEscape(p.ID) }

// path is where the API has the profile.
func (p brief) path() string { return api + "/" + url.PathEscape(p.ID) }

// payload is one of the payloads of a profile.
type payload struct {
	PayloadType string    `json:"payload_type"`
	Title       string    `json:"title"`
	Summary     string    `json:"summary"`
	Name        string    `json:"name"`
	Identifier  string    `json:"identifier"`
	Settings    []setting `json:"settings"` // where they were asked for
}

// Heading is what to call the payload: its own name, if that says more than its type does.
func (p payload) Heading() string {
	if p.Name != "" {
		return p.Name
	}
	return p.Title
}

type setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Secret bool   `json:"secret"`
}

// perPage is the length of lists; each profile of one is read whole.
const perPage = "25"

type listPage struct {
	admin.Page
	Items []listed
	Pager admin.Pager
	Empty *admin.Empty
}

type listed struct {
	brief
	Payloads    []payload      `json:"payloads"`
	Findings    map[string]int `json:"findings"`
	Devices     map[string]int `json:"devices"`
	MoreDevices bool           `json:"more_devices"`
}

// Holds says what is in the profile: "Wi-Fi, Certificate and 2 more".
func (l listed) Holds() string {
	const most = 3
	text, seen := "", map[string]bool{}
	for _, p := range l.Payloads {
		if seen[p.Title] {
			continue
		}
		if seen[p.Title] = true; len(seen) > most {
			continue
		}
		if text != "" {
			text += ", "
		}
		text += p.Title
	}
	if more := len(seen) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// Findings as a state.
func (l listed) Trouble() view.State { return troubles(l.Findings) }

// On says how many devices have it, and whether something is wrong with some.
func (l listed) On() string {
	text := admin.Number(l.Devices["installed"])
	if l.MoreDevices {
		text = "more than " + text
	}
	return text
}

// Waiting is how many devices are still to get it.
func (l listed) Waiting() int { return l.Devices["sent"] }

// Failed is how many devices do not have what they should.
func (l listed) Failed() int { return l.Devices["failed"] + l.Devices["drifted"] }

func (s *Profiles) list(w http.ResponseWriter, r *http.Request) error {
	query := url.Values{"limit": {perPage}, "details": {"true"}}
	if v := r.URL.Query().Get("cursor"); v != "" {
		query.Set("cursor", v)
	}
	var found admin.List[listed]
	if err := s.desk.Get(r.Context(), api, query, &found); err != nil {
		return err
	}
	page := &listPage{
		Page:  admin.Page{Title: "Profiles", Section: section, Watch: "profile."},
		Items: found.Items, Pager: admin.NewPager(r, found.NextCursor),
	}
	if len(found.Items) == 0 {
		page.Empty = &admin.Empty{
			Heading: "No profiles yet",
			Text:    "A configuration profile brings devices settings: Wi-Fi, a passcode’s rules, certificates. Make one by answering a few questions, or upload a .mobileconfig from Apple Configurator, iMazing or ProfileCreator.",
		}
		if s.desk.May(r.Context(), "POST /api/v1/profiles") {
			page.Empty.Actions = []view.Link{{Label: "Make one from a starter", URL: section + "/starters"}, {Label: "Upload a file", URL: section + "/new"}}
		}
	}
	return s.desk.Write(w, r, s.pages, "list.html", page)
}
