// Package commands is the section of the desk in which administrators have devices do
// something, and watch it happen.
package commands

import (
	"cmp"
	"embed"
	"encoding/json"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/chart"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

//go:embed templates/*.html
var templates embed.FS

const section = "/admin/commands"

// The routes of the API that these pages ask for, to know who may use them.
const (
	routeQueue  = "POST /api/v1/commands"
	routeRaw    = "POST /api/v1/commands/raw"
	routeCancel = "POST /api/v1/commands/{uuid}/cancel"
	routeRetry  = "POST /api/v1/commands/{uuid}/retry"
)

// Commands is the section.
type Commands struct {
	desk  *admin.Desk
	pages *admin.Templates
}

// New returns the section at a desk.
func New(desk *admin.Desk) (*Commands, error) {
	pages, err := desk.Templates(templates)
	return &Commands{desk, pages}, err
}

// Mount implements [admin.Section].
func (s *Commands) Mount(r, uploads webui.Router) {
	r.Handle("GET "+section, s.list)
	r.Handle("GET "+section+"/batches", s.batches)
	r.Handle("GET "+section+"/batches/{id}", s.batch)
	r.Handle("GET "+section+"/new", s.choose)
	uploads.Handle("POST "+section+"/new", s.queue)
	r.Handle("GET "+section+"/raw", s.askRaw)
	uploads.Handle("POST "+section+"/raw", s.queueRaw)
	r.Handle("GET "+section+"/{uuid}", s.command)
	r.Handle("POST "+section+"/{uuid}/cancel", s.cancel)
	r.Handle("POST "+section+"/{uuid}/retry", s.retry)
	r.Handle("GET "+section+"/{uuid}/devices/{id}", s.answer)
}

// tally counts devices by how far they are.
type tally struct {
	Queued       int `json:"queued"`
	Delivered    int `json:"delivered"`
	NotNow       int `json:"not_now"`
	Acknowledged int `json:"acknowledged"`
	Error        int `json:"error"`
	Cancelled    int `json:"cancelled"`
	Expired      int `json:"expired"`
	Total        int `json:"total"`
}

// Pending is how many devices have not finished, Failed with how many it came to nothing.
func (t tally) Pending() int { return t.Queued + t.Delivered + t.NotNow }
func (t tally) Failed() int  { return t.Error + t.Expired }

// states are the states of commands in the order in which they are shown, with what is
// counted of each.
func (t tally) states() []struct {
	name  string
	count int
	ink   chart.Ink
} {
	return []struct {
		name  string
		count int
		ink   chart.Ink
	}{
		{"acknowledged", t.Acknowledged, chart.Green}, {"error", t.Error, chart.Red}, {"expired", t.Expired, chart.Violet},
		{"cancelled", t.Cancelled, chart.Grey}, {"not_now", t.NotNow, chart.Amber}, {"delivered", t.Delivered, chart.Teal},
		{"queued", t.Queued, chart.Blue},
	}
}

// Picture is the progress as a bar, Words as a sentence.
func (t tally) Picture(id string) template.HTML {
	bar := chart.Bar{ID: "progress-" + id, Title: "Progress"}
	for _, s := range t.states() {
		bar.Parts = append(bar.Parts, chart.Part{Label: stateWord(s.name), Count: s.count, Ink: s.ink})
	}
	return bar.Picture()
}

// Done is "41 of 50".
func (t tally) Done() string {
	return admin.Number(t.Acknowledged) + " of " + admin.Number(t.Total)
}

// Rest names what is not done, "7 queued, 2 failed"; empty for nothing.
func (t tally) Rest() string {
	var parts []string
	for _, s := range t.states()[1:] {
		if s.count > 0 {
			parts = append(parts, admin.Number(s.count)+" "+stateWord(s.name))
		}
	}
	return strings.Join(parts, ", ")
}

// only is the state of the one device.
func (t tally) only() string {
	for _, s := range t.states() {
		if s.count > 0 {
			return stateWord(s.name)
		}
	}
	return ""
}

// State is what to call all of it.
func (t tally) State() view.State {
	switch {
	case t.Total == 1 && t.Pending() == 1:
		return view.State{Text: t.only(), Tone: view.Waiting}
	case t.Pending() > 0 && t.Failed() > 0:
		return view.State{Text: "under way, some failed", Tone: view.Bad}
	case t.Pending() > 0:
		return view.State{Text: "under way", Tone: view.Waiting}
	case t.Total == 0:
		return view.State{Text: "forgotten", Tone: view.Neutral}
	case t.Acknowledged == t.Total:
		return view.State{Text: "acknowledged", Tone: view.Good}
	case t.Failed() == t.Total && t.Error == 0:
		return view.State{Text: "expired", Tone: view.Bad}
	case t.Failed() > 0 && t.Acknowledged > 0:
		return view.State{Text: "failed in part", Tone: view.Bad}
	case t.Failed() > 0:
		return view.State{Text: "failed", Tone: view.Bad}
	case t.Acknowledged > 0:
		return view.State{Text: "acknowledged in part", Tone: view.Neutral}
	}
	return view.State{Text: "cancelled", Tone: view.Neutral}
}

// summary is a command without what each device says of it.
type summary struct {
	UUID        string     `json:"command_uuid"`
	RequestType string     `json:"request_type"`
	CreatedAt   time.Time  `json:"created_at"`
	CreatedBy   string     `json:"created_by"`
	BatchID     string     `json:"batch_id"`
	RetryOf     string     `json:"retry_of"`
	Priority    string     `json:"priority"`
	ExpiresAt   *time.Time `json:"expires_at"`
	DeviceID    string     `json:"device_id"`
	DeviceName  string     `json:"device_name"`
	Progress    *tally     `json:"progress"`
}

// Name is the command in words, URL its page.
func (c summary) Name() string { return admin.Words(c.RequestType) }
func (c summary) URL() string  { return section + "/" + url.PathEscape(c.UUID) }

// For is what to call the only device; empty: there are several.
func (c summary) For() string { return named(c.DeviceName, c.DeviceID) }

// Single says that it is for one device, of which the state says how far it is.
func (c summary) Single() bool { return c.Progress != nil && c.Progress.Total == 1 }

// By is who queued it.
func (c summary) By() string { return admin.Actor(c.CreatedBy) }

// moves reports whether something is about to happen of which no event tells. What waits for
// longer waits for a device that is away, and its answer is an event.
func (c summary) moves(now time.Time) bool {
	return (c.Progress == nil || c.Progress.Pending() > 0) && now.Sub(c.CreatedAt) < 10*time.Minute
}

// perPage is the length of lists.
const perPage = "50"

type listPage struct {
	admin.Page
	Tabs    []admin.NavItem
	Form    *admin.Form
	Types   []admin.Option
	Periods []admin.Option
	States  []admin.Option
	Items   []summary
	Pager   admin.Pager
	Empty   *admin.Empty
	New     string // where one is queued; empty: who looks may not
}

func tabs(current string) []admin.NavItem {
	all := []admin.NavItem{{Label: "Commands", URL: section}, {Label: "Batches", URL: section + "/batches"}}
	for i := range all {
		all[i].Current = all[i].URL == current
	}
	return all
}

// periods are the ages that the list may be bounded to.
var periods = []struct {
	value, label string
	of           time.Duration
}{{"1h", "Last hour", time.Hour}, {"24h", "Last 24 hours", 24 * time.Hour}, {"7d", "Last 7 days", 7 * 24 * time.Hour}, {"30d", "Last 30 days", 30 * 24 * time.Hour}}

func (s *Commands) list(w http.ResponseWriter, r *http.Request) error {
	asked := r.URL.Query()
	query := url.Values{"limit": {perPage}}
	form := admin.NewForm()
	for _, name := range []string{"state", "type", "who", "since", "background"} {
		if v := strings.TrimSpace(asked.Get(name)); v != "" {
			form.Values.Set(name, v)
		}
	}
	filtered := len(form.Values) > 0
	switch form.Get("state") {
	case "open":
		query.Set("open", "true")
	case "failed":
		query.Set("failed", "true")
	}
	if v := form.Get("type"); v != "" {
		query.Set("request_type", v)
	}
	switch v := form.Get("who"); v {
	case "":
	case "me":
		query.Set("created_by", admin.Principal(r.Context()).String())
	default:
		query.Set("created_by", v)
	}
	for _, p := range periods {
		if form.Get("since") == p.value {
			query.Set("since", s.desk.Now().Add(-p.of).UTC().Format(time.RFC3339))
		}
	}
	if form.Get("background") != "" {
		query.Set("background", "true")
	}
	if v := asked.Get("cursor"); v != "" {
		query.Set("cursor", v)
	}
	var found admin.List[summary]
	if err := s.desk.Get(r.Context(), "/api/v1/commands", query, &found); err != nil {
		return err
	}
	page := &listPage{
		Page:    admin.Page{Title: "Commands", Section: section, Watch: "command."},
		Tabs:    tabs(section),
		Form:    form,
		States:  append([]admin.Option{{Label: "All"}}, admin.Options("open", "Under way", "failed", "Failed")...),
		Periods: []admin.Option{{Label: "Any time"}},
		Items:   found.Items, Pager: admin.NewPager(r, found.NextCursor),
	}
	for _, p := range periods {
		page.Periods = append(page.Periods, admin.Option{Value: p.value, Label: p.label})
	}
	if s.desk.May(r.Context(), routeQueue) {
		page.New = section + "/new"
	}
	if slices.ContainsFunc(found.Items, func(c summary) bool { return c.moves(s.desk.Now()) }) {
		page.Every = 3
	}
	if len(found.Items) == 0 {
		page.Empty = s.nothing(filtered, found.NextCursor != "", page.New)
		if !filtered && found.NextCursor == "" && s.desk.May(r.Context(), "GET /api/v1/push-certificates") {
			page.Empty.Actions = append(page.Empty.Actions, view.Link{Label: "Push certificates", URL: "/admin/settings/push"})
		}
	}
	return s.desk.Write(w, r, s.pages, "list.html", page)
}

func (s *Commands) nothing(filtered, more bool, queue string) *admin.Empty {
	switch {
	case more:
		return &admin.Empty{Heading: "None among the newest", Text: "The next page has older ones."}
	case filtered:
		return &admin.Empty{Heading: "Nothing matches", Actions: []view.Link{{Label: "Show all", URL: section}}}
	}
	e := &admin.Empty{
		Heading: "No commands yet",
		Text: "A command waits here until its device asks for it. With a push certificate the server has Apple wake the device, which then asks within seconds; " +
			"without one the device asks only when it polls by itself, which may take hours.",
	}
	if queue != "" {
		e.Actions = append(e.Actions, view.Link{Label: "Queue a command", URL: queue})
	}
	return e
}

// stateWord is a state in words.
func stateWord(state string) string {
	if state == "error" {
		return "failed"
	}
	return strings.ReplaceAll(state, "_", " ")
}

// pretty is JSON as people read it.
func pretty(v any) string {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return ""
	}
	return string(b)
}

// named is what to call a device.
func named(name, id string) string { return cmp.Or(name, id) }
