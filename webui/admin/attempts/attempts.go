// Package attempts is the part of the section Enrollment that shows how far people come
// in enrolling devices, and what stopped them.
package attempts

import (
	"context"
	"embed"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/chart"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

//go:embed templates/*.html
var templates embed.FS

const (
	enrollment = "/admin/enrollment"
	home       = enrollment + "/attempts"

	apiAttempts = "/api/v1/enrollment-attempts"
	apiFunnel   = "/api/v1/enrollment-funnel"

	// perPage is the length of the list.
	perPage = "50"
)

// Attempts is the section.
type Attempts struct {
	desk  *admin.Desk
	pages *admin.Templates
}

// New returns the section at a desk.
func New(desk *admin.Desk) (*Attempts, error) {
	pages, err := desk.Templates(templates)
	return &Attempts{desk, pages}, err
}

// Mount implements [admin.Section].
func (s *Attempts) Mount(r, _ webui.Router) {
	r.Handle("GET "+home, s.list)
	r.Handle("GET "+home+"/{id}", s.attempt)
}

// attempt is a try to enroll a device as the API has it.
type attempt struct {
	ID        string               `json:"id"`
	LinkID    string               `json:"link_id"`
	User      string               `json:"user"`
	Ownership string               `json:"ownership"`
	Mode      *string              `json:"enrollment_mode"`
	Account   string               `json:"managed_apple_account"`
	Stage     string               `json:"stage"`
	StageAt   map[string]time.Time `json:"stage_at"`
	DeviceID  string               `json:"device_id"`
	ErrorCode string               `json:"error_code"`
}

var ownerships = map[string]string{"institutional": "The organisation’s", "personal": "Personal"}

// URL is its page.
func (a attempt) URL() string { return home + "/" + url.PathEscape(a.ID) }

// DeviceURL is the page of what was enrolled; empty: nothing yet.
func (a attempt) DeviceURL() string {
	if a.DeviceID == "" {
		return ""
	}
	return "/admin/devices/" + url.PathEscape(a.DeviceID)
}

// Who is who enrolls.
func (a attempt) Who() string {
	if a.User == "" {
		return "Not signed in"
	}
	return a.User
}

// Begun is when it was opened, Last when something became of it last.
func (a attempt) Begun() time.Time { return a.StageAt["opened"] }

func (a attempt) Last() (at time.Time) {
	for _, t := range a.StageAt {
		if t.After(at) {
			at = t
		}
	}
	return at
}

// Open says whether it may still become an enrollment.
func (a attempt) Open() bool { return a.Stage != "enrolled" && a.Stage != "failed" }

// Trouble is what went wrong, nil if nothing did.
func (a attempt) Trouble() *trouble {
	if a.ErrorCode == "" || a.Stage == "enrolled" {
		return nil
	}
	t := troubleOf(a.ErrorCode)
	return &t
}

// Standing is its state in words.
func (a attempt) Standing() view.State {
	switch a.Stage {
	case "enrolled":
		return view.State{Text: "enrolled", Tone: view.Good}
	case "failed":
		return view.State{Text: "failed", Tone: view.Bad}
	}
	return view.State{Text: stageWords[a.Stage].name, Tone: view.Waiting}
}

// stage is a step on the way of an attempt, or on that of all of them.
type stage struct {
	Name, Text string
	At         *time.Time // nil: not yet
	Tone       view.Tone
	Now        bool
}

// stages are in their order.
var stages = []string{"opened", "authenticated", "profile_downloaded", "identity_issued", "checked_in", "enrolled"}

// stageWords say what a stage is called, and what is awaited once it is reached.
var stageWords = map[string]struct{ name, next string }{
	"opened":             {"page opened", "They are at the portal’s first page, or at the login."},
	"authenticated":      {"person known", "They are to download the profile: the button is on the page."},
	"profile_downloaded": {"profile downloaded", "They are to install it: on iPhone and iPad in Settings › Profile Downloaded, on a Mac in System Settings › General › Device Management. A profile that is not installed within 8 minutes is dropped by the device; they download it again."},
	"identity_issued":    {"certificate issued", "The device has its certificate and is about to check in."},
	"checked_in":         {"checked in", "The device has said who it is. Its push token is to come next."},
	"enrolled":           {"enrolled", "All is done."},
}

// Steps are all stages with when they were reached.
func (a attempt) Steps() []stage {
	var list []stage
	came := -1
	for i, name := range stages {
		if _, ok := a.StageAt[name]; ok {
			came = i
		}
	}
	for i, name := range stages {
		s := stage{Name: stageWords[name].name, Tone: view.Neutral}
		if at, ok := a.StageAt[name]; ok {
			s.At, s.Tone = &at, view.Good
		} else if i < came {
			s.Tone = view.Good
		}
		if i == came && a.Open() {
			s.Tone, s.Now, s.Text = view.Waiting, true, stageWords[name].next
			if name == "enrolled" {
				s.Tone = view.Good
			}
		}
		list = append(list, s)
		if i == came && a.Stage == "failed" {
			at := a.StageAt["failed"]
			failed := stage{Name: "failed", At: &at, Tone: view.Bad}
			if t := a.Trouble(); t != nil {
				failed.Text = t.What
			}
			return append(list, failed)
		}
	}
	return list
}

// funnel is how far people came, with what stopped them.
type funnel struct {
	Since  time.Time `json:"since"`
	More   bool      `json:"more"`
	Stages []struct {
		Stage     string `json:"stage"`
		Reached   int    `json:"reached"`
		Waiting   int    `json:"waiting"`
		Failed    int    `json:"failed"`
		LastError *struct {
			AttemptID string `json:"attempt_id"`
			ErrorCode string `json:"error_code"`
		} `json:"last_error"`
	} `json:"stages"`

	Days    string
	Picture template.HTML
	Stops   []stop
}

// stop says where people stopped.
type stop struct {
	Name            string
	Waiting, Failed int
	Last            *trouble
	URL             string // of the latest
}

func (s *Attempts) funnel(ctx context.Context, days string) (f funnel, err error) {
	if err := s.desk.Get(ctx, apiFunnel, url.Values{"days": {days}}, &f); err != nil {
		return f, err
	}
	f.Days = days
	rows := chart.Rows{ID: "funnel", Title: "Attempts by how far they came", Unit: "Attempts", None: "Nobody has begun to enroll a device."}
	for _, st := range f.Stages {
		ink := chart.Blue
		if st.Stage == "enrolled" {
			ink = chart.Green
		}
		rows.Parts = append(rows.Parts, chart.Part{Label: capital(stageWords[st.Stage].name), Count: st.Reached, Ink: ink})
		if st.Waiting == 0 && st.Failed == 0 && st.LastError == nil {
			continue
		}
		at := stop{Name: stageWords[st.Stage].name, Waiting: st.Waiting, Failed: st.Failed}
		if e := st.LastError; e != nil {
			t := troubleOf(e.ErrorCode)
			at.Last, at.URL = &t, home+"/"+url.PathEscape(e.AttemptID)
		}
		f.Stops = append(f.Stops, at)
	}
	if len(f.Stages) > 0 {
		rows.Of = f.Stages[0].Reached // everybody begins there
		if rows.Of == 0 {
			rows.Parts = nil
		}
	}
	f.Picture = rows.HTML()
	return f, nil
}

// capital begins a sentence with s.
func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

type listPage struct {
	admin.Page
	Tabs   []admin.NavItem
	Form   *admin.Form
	Stages []admin.Option
	Days   []admin.Option
	Funnel funnel
	Items  []attempt
	Pager  admin.Pager
	Empty  *admin.Empty
	New    bool // nobody has begun yet: there is nothing to filter, or to draw
}

func (s *Attempts) list(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	query, form := url.Values{"limit": {perPage}}, admin.NewForm()
	for _, name := range []string{"stage", "user", "link_id"} {
		if v := strings.TrimSpace(r.URL.Query().Get(name)); v != "" {
			query.Set(name, v)
			form.Values.Set(name, v)
		}
	}
	filtered := len(form.Values) > 0
	if v := r.URL.Query().Get("cursor"); v != "" {
		query.Set("cursor", v)
	}
	if form.Get("stage") == "open" {
		query.Del("stage")
		query.Set("open", "true")
	}
	days := "7"
	if r.URL.Query().Get("days") == "30" {
		days = "30"
	}
	form.Values.Set("days", days)
	var found admin.List[attempt]
	if err := s.desk.Get(ctx, apiAttempts, query, &found); err != nil {
		return err
	}
	p := &listPage{
		Page: admin.Page{Title: "Attempts", Section: enrollment, Watch: "device. link.", Every: 15},
		Tabs: s.desk.EnrollmentTabs(r, home), Form: form,
		Stages: append([]admin.Option{{Label: "All"}}, admin.Options("open", "Under way", "failed", "Failed", "enrolled", "Enrolled")...),
		Days:   admin.Options("7", "The last 7 days", "30", "The last 30 days"),
		Items:  found.Items, Pager: admin.NewPager(r, found.NextCursor),
	}
	for _, name := range stages[:5] {
		p.Stages = append(p.Stages, admin.Option{Value: name, Label: "Stopped at: " + stageWords[name].name})
	}
	var err error
	if p.Funnel, err = s.funnel(ctx, days); err != nil {
		return err
	}
	if len(found.Items) == 0 {
		switch {
		case found.NextCursor != "":
			p.Empty = &admin.Empty{Heading: "None among the newest", Text: "The next page has older ones."}
		case filtered:
			p.Empty = &admin.Empty{Heading: "Nothing matches", Actions: []view.Link{{Label: "Show all", URL: home}}}
		default:
			p.New = len(p.Funnel.Stages) == 0 || p.Funnel.Stages[0].Reached == 0
			p.Empty = &admin.Empty{Heading: "Nobody has begun yet", Text: "An attempt begins when somebody opens a link or the portal. Here you see how far they come."}
			if s.desk.May(ctx, "POST /api/v1/enrollment-links") {
				p.Empty.Actions = []view.Link{{Label: "New link", URL: enrollment + "/links/new"}}
			}
		}
	}
	return s.desk.Write(w, r, s.pages, "list.html", p)
}

type attemptPage struct {
	admin.Page
	Attempt attempt
	Steps   []stage
	Facts   []admin.Fact
	Trouble *trouble
	Stuck   string
}

// patience is how long a step may take before somebody should ask.
const patience = 10 * time.Minute

func (s *Attempts) attempt(w http.ResponseWriter, r *http.Request) error {
	var a attempt
	if err := s.desk.Get(r.Context(), apiAttempts+"/"+url.PathEscape(r.PathValue("id")), nil, &a); err != nil {
		return err
	}
	p := &attemptPage{
		Page: admin.Page{
			Title: "Attempt of " + a.Who(), Section: enrollment, Watch: "device. link.",
			Crumbs: []view.Link{{Label: "Enrollment", URL: enrollment}, {Label: "Attempts", URL: home}},
		},
		Attempt: a, Steps: a.Steps(), Trouble: a.Trouble(),
	}
	if a.Open() {
		p.Every = 3
		if s.desk.Now().Sub(a.Last()) > patience {
			p.Stuck = "Nothing has happened for a while. Ask the person what their screen shows. " + stageWords[a.Stage].next
		}
	}
	at := a.Begun()
	begun := s.desk.Moment(&at)
	p.Facts = []admin.Fact{{Label: "Began", Moment: &begun}, {Label: "Device", Value: ownerships[a.Ownership]}}
	if a.Mode != nil {
		p.Facts = append(p.Facts, admin.Fact{Label: "By account", Value: a.Account, Hint: *a.Mode})
	}
	if a.User != "" {
		p.Facts = append([]admin.Fact{{Label: "User", Value: a.User, URL: home + "?user=" + url.QueryEscape(a.User), Hint: "All of their attempts"}}, p.Facts...)
	}
	if a.LinkID != "" && s.desk.May(r.Context(), "GET /api/v1/enrollment-links/{id}") {
		p.Facts = append(p.Facts, admin.Fact{Label: "Link", Value: "The link they opened", URL: enrollment + "/links/" + url.PathEscape(a.LinkID)})
	}
	if at := a.DeviceURL(); at != "" {
		p.Facts = append(p.Facts, admin.Fact{Label: "Enrolled as", Value: "The device’s page", URL: at})
	}
	p.Facts = append(p.Facts, admin.Fact{Label: "Number of the enrollment", Value: a.ID, Mono: true})
	return s.desk.Write(w, r, s.pages, "attempt.html", p)
}
