package audit

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

const logPath = section + "/log"

// refresh is how often the newest lines are looked at, in seconds.
const refresh = 5

// line is one of the server's log, as the API lists it.
type line struct {
	Seq        uint64 `json:"seq"`
	At         time.Time
	Level      string
	Message    string
	Attributes []attribute
}

// attribute is a key of a line and its value.
type attribute struct{ Key, Value string }

// State is the level in words.
func (l line) State() view.State {
	switch l.Level {
	case "error":
		return view.State{Text: "Error", Tone: view.Bad}
	case "warn":
		return view.State{Text: "Warning", Tone: view.Waiting}
	case "debug":
		return view.State{Text: "Debug"}
	}
	return view.State{Text: "Info"} // most are: what is worse shall stand out
}

// Clock is the time of day to the millisecond.
func (l line) Clock() string { return l.At.UTC().Format("15:04:05.000 UTC") }

// places are where more stands of what an attribute names.
var places = map[string]string{
	"device": "/admin/devices/", "parent": "/admin/devices/", "attempt": "/admin/enrollment/attempts/", "command": "/admin/commands/",
	"profile": "/admin/profiles/", "link": "/admin/enrollment/links/", "batch": "/admin/commands/batches/",
}

// URL leads to what the attribute names, or to all lines of a request; empty for all others.
func (a attribute) URL() string {
	if a.Value == "" {
		return ""
	}
	if a.Key == "request" {
		return logPath + "?" + url.Values{"q": {a.Value}}.Encode()
	}
	if place, ok := places[a.Key]; ok {
		return place + url.PathEscape(a.Value)
	}
	return ""
}

type logPage struct {
	admin.Page
	Tabs   []admin.NavItem
	Form   *admin.Form
	Levels []admin.Option
	Items  []line
	Pager  admin.Pager
	Empty  *admin.Empty
}

// tabs are the two logs. Where there is only one for who looks, there are none.
func (s *Audit) tabs(r *http.Request, here string) []admin.NavItem {
	return s.desk.Offered(r.Context(), here,
		admin.NavItem{Label: "Audit log", URL: section}, admin.NavItem{Label: "Server log", URL: logPath, Needs: "GET /api/v1/log"})
}

// log is the end of the server's log, which scrolls by itself.
func (s *Audit) log(w http.ResponseWriter, r *http.Request) error {
	page := &logPage{
		Page: admin.Page{Title: "Server log", Section: section}, Tabs: s.tabs(r, logPath), Form: admin.NewForm(),
		Levels: admin.Options("", "Everything", "info", "No debugging", "warn", "Warnings and errors", "error", "Errors"),
	}
	query, filtered := url.Values{"limit": {"100"}}, false
	for _, name := range []string{"q", "level", "cursor"} {
		if v := strings.TrimSpace(r.URL.Query().Get(name)); v != "" {
			query.Set(name, v)
			page.Form.Values.Set(name, v)
			filtered = filtered || name != "cursor"
		}
	}
	if !query.Has("cursor") { // older pages stand still
		page.Every = refresh
	}
	var found admin.List[line]
	if err := s.desk.Get(r.Context(), "/api/v1/log", query, &found); err != nil {
		return err
	}
	page.Items, page.Pager = found.Items, admin.NewPager(r, found.NextCursor)
	switch {
	case len(found.Items) > 0:
	case filtered:
		page.Empty = &admin.Empty{
			Heading: "No line fits", Text: "Only the newest lines since the server started are kept here. Older ones are where it writes its log.",
			Actions: []view.Link{{Label: "Show everything", URL: logPath}},
		}
	default:
		page.Empty = &admin.Empty{Heading: "Nothing was logged yet", Text: "What the server logs from now on is here within seconds."}
	}
	return s.desk.Write(w, r, s.pages, "log.html", page)
}
