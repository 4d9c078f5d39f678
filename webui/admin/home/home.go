// Package home is the first page of the administrators: what needs somebody, the server in
// pictures, and what happens now.
package home

import (
	"cmp"
	"context"
	"embed"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/admin/audit"
	"github.com/gatehouse-mdm/gatehouse/webui/chart"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

//go:embed templates/*.html
var templates embed.FS

// Home is the section.
type Home struct {
	desk  *admin.Desk
	pages *admin.Templates
}

// New returns the section at a desk.
func New(desk *admin.Desk) (*Home, error) {
	pages, err := desk.Templates(templates)
	return &Home{desk, pages}, err
}

// Mount implements [admin.Section].
func (s *Home) Mount(r, _ webui.Router) { r.Handle("GET /admin", s.home) }

// summary is the server in numbers, as the API tells them.
type summary struct {
	At      time.Time
	Limited bool
	Devices struct {
		Total    int
		ByState  map[string]int `json:"by_state"`
		BySystem []struct {
			Platform, Version string
			Devices           int
		} `json:"by_system"`
		OtherSystems int `json:"other_systems"`
		LastSeen     struct {
			Hour, Day, Week, Month, Longer, Never int
		} `json:"last_seen"`
		Simulated int
	}
	InFlight struct {
		Queued, Delivered, Background int
		NotNow                        int `json:"not_now"`
		More                          bool
	} `json:"in_flight"`
	Days []struct {
		Date                                                          string
		Enrolled, Unenrolled, Acknowledged, Error, Expired, Cancelled int
	}
	Expiries []struct {
		Kind, Name string
		NotAfter   time.Time `json:"not_after"`
		Path       string
	}
	Renewals *struct {
		Overdue, Due int
		Weeks        []struct {
			From         time.Time
			Certificates int
		}
	}
	Trouble []trouble
	Setup   *struct {
		PushCertificate bool `json:"push_certificate"`
		Device          bool
		SecondOwner     bool `json:"second_owner"`
		PublicTLS       bool `json:"public_tls"`
	}
}

// command is a command that is under way.
type command struct {
	CommandUUID string    `json:"command_uuid"`
	RequestType string    `json:"request_type"`
	CreatedAt   time.Time `json:"created_at"`
	CreatedBy   string    `json:"created_by"`
	DeviceID    string    `json:"device_id"`
	DeviceName  string    `json:"device_name"`
	Progress    *struct {
		Acknowledged, Error, Cancelled, Expired, Queued, Delivered, Total int
		NotNow                                                            int `json:"not_now"`
	}
}

// page is what home.html may use.
type page struct {
	admin.Page
	Limited bool
	Total   int
	Demo    bool // all devices are simulated
	Trouble []trouble
	Steps   []step // what a new server still lacks; empty once it lacks nothing
	Empty   *admin.Empty

	Devices, Systems, Seen, Enrollments, Commands, Ends template.HTML

	InFlight string // in words
	Flying   []flying
	Events   []happened
}

// trouble is what needs somebody, as the API tells it.
type trouble struct{ Code, Severity, Text, Path string }

// State is how soon it does.
func (t trouble) State() view.State {
	if t.Severity == "error" {
		return view.State{Text: "Now", Tone: view.Bad}
	}
	return view.State{Text: "Soon", Tone: view.Waiting}
}

// step is one thing to do on a new server.
type step struct {
	Text, Why string
	URL       string // empty where who looks may not
	Action    string
	Done      bool
	Now       bool // something does not work before
}

// flying is a command under way, with how far it is.
type flying struct {
	ID, Name, URL, By string
	At                view.Moment
	Bar               template.HTML
	Words             string
}

// happened is what the audit log tells, in words.
type happened struct {
	ID, DeviceURL, URL string
	Text               template.HTML
	At                 view.Moment
	State              *view.State // of what did not go well
}

// Bounds of the page's lists.
const (
	mostFlying = "5"
	mostEvents = "12" // that are asked for

	shownEvents = 10
	daysOfWork  = 30 // that commands are drawn of
)

func (s *Home) home(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	var sum summary
	if err := s.desk.Get(ctx, "/api/v1/summary", nil, &sum); err != nil {
		return err
	}
	p := &page{
		Page:    admin.Page{Title: "Home", Section: "/admin", Watch: "device. command. push webhook. certificate. ca. user. settings. link.", Every: 60},
		Limited: sum.Limited, Total: sum.Devices.Total, Demo: sum.Devices.Simulated > 0 && sum.Devices.Simulated == sum.Devices.ByState["enrolled"],
	}
	if sum.InFlight.Queued+sum.InFlight.Delivered+sum.InFlight.NotNow > 0 {
		p.Every = 5 // deliveries leave no events
	}
	p.draw(sum)
	for _, t := range sum.Trouble {
		if t.Code == noPush && sum.Setup != nil {
			continue // the steps say so
		}
		p.Trouble = append(p.Trouble, t)
	}
	s.steps(ctx, p, sum)
	if err := s.flying(ctx, p); err != nil {
		return err
	}
	if err := s.happened(ctx, p); err != nil {
		return err
	}
	return s.desk.Write(w, r, s.pages, "home.html", p)
}

// noPush is the API's code of the trouble that a step mends.
const noPush = "no_push_certificate"

// draw makes the pictures.
func (p *page) draw(sum summary) {
	d := sum.Devices
	list := func(query string) string { return "/admin/devices?" + query }
	p.Devices = chart.Bar{ID: "by-state", Title: "Devices by state", Parts: []chart.Part{
		{Label: "Enrolled", Count: d.ByState["enrolled"], Ink: chart.Green, URL: list("state=enrolled")},
		{Label: "Pending", Count: d.ByState["pending"], Ink: chart.Amber, URL: list("state=pending")},
		{Label: "Unenrolled", Count: d.ByState["unenrolled"], Ink: chart.Grey, URL: list("state=unenrolled")},
		{Label: "Blocked", Count: d.ByState["blocked"], Ink: chart.Red, URL: list("state=blocked")},
	}, None: "No devices yet."}.HTML()
	systems := chart.Rows{ID: "systems", Title: "Enrolled devices by version of their system", Unit: "Devices", None: "No device is enrolled."}
	for _, of := range d.BySystem {
		query := url.Values{"state": {"enrolled"}}
		label := "Unknown"
		if of.Version != "" {
			query.Set("os_version", of.Version)
			label = strings.TrimSpace(platforms[of.Platform] + " " + of.Version)
		}
		if of.Platform != "" {
			query.Set("platform", of.Platform)
		}
		systems.Parts = append(systems.Parts, chart.Part{Label: label, Count: of.Devices, URL: list(query.Encode())})
	}
	if d.OtherSystems > 0 {
		systems.Parts = append(systems.Parts, chart.Part{Label: "Other versions", Count: d.OtherSystems, Ink: chart.Grey})
	}
	p.Systems = systems.HTML()
	seen := d.LastSeen
	last := []chart.Part{
		{Label: "In the last hour", Count: seen.Hour, Ink: chart.Green},
		{Label: "In the last day", Count: seen.Day, Ink: chart.Green},
		{Label: "In the last week", Count: seen.Week, Ink: chart.Blue, URL: list("state=enrolled&last_seen_before=1d")},
		{Label: "In the last 30 days", Count: seen.Month, Ink: chart.Amber, URL: list("state=enrolled&last_seen_before=7d")},
		{Label: "Longer ago", Count: seen.Longer, Ink: chart.Red, URL: list("state=enrolled&last_seen_before=30d")},
		{Label: "Never", Count: seen.Never, Ink: chart.Grey, URL: list("state=enrolled&last_seen=never")},
	}
	if seen == (summary{}).Devices.LastSeen {
		last = nil
	}
	p.Seen = chart.Rows{ID: "seen", Title: "Enrolled devices by when they were last seen", Unit: "Devices", Parts: last, None: "No device is enrolled."}.HTML()
	if sum.Limited {
		return
	}
	enrollments := chart.Columns{ID: "enrollments", Title: "Enrollments of the last 90 days", Axis: "Day",
		Series: []chart.Series{{Label: "Enrolled", Ink: chart.Green}, {Label: "Unenrolled", Ink: chart.Red}}, None: "No device was enrolled in the last 90 days."}
	work := chart.Columns{ID: "work", Title: "Commands that ended in the last 30 days", Axis: "Day",
		Series: []chart.Series{{Label: "Acknowledged", Ink: chart.Green}, {Label: "Failed", Ink: chart.Red}, {Label: "Expired or cancelled", Ink: chart.Grey}}, None: "No command ended in the last 30 days."}
	for i, day := range sum.Days {
		label := day.Date
		if at, err := time.Parse(time.DateOnly, day.Date); err == nil {
			label = at.Format("2 Jan")
		}
		enrollments.Points = append(enrollments.Points, chart.Point{Label: label, Counts: []int{day.Enrolled, day.Unenrolled}})
		if i >= len(sum.Days)-daysOfWork {
			work.Points = append(work.Points, chart.Point{Label: label, Counts: []int{day.Acknowledged, day.Error, day.Expired + day.Cancelled}})
		}
	}
	p.Enrollments, p.Commands = enrollments.HTML(), work.HTML()
	ends := chart.Timeline{ID: "ends", Title: "What ends in the next 12 months", Now: sum.At, Many: "Renewals, by week", None: "Nothing ends."}
	for _, e := range sum.Expiries {
		ends.Marks = append(ends.Marks, chart.Mark{Label: strings.TrimSpace(endings[e.Kind] + " " + e.Name), At: e.NotAfter, URL: e.Path})
	}
	if sum.Renewals != nil {
		for i, week := range sum.Renewals.Weeks {
			n := week.Certificates
			if i == 0 {
				n += sum.Renewals.Due + sum.Renewals.Overdue
			}
			ends.Weeks = append(ends.Weeks, chart.Week{From: week.From, Count: n})
		}
	}
	p.Ends = ends.HTML()
}

// endings are what can end, before its name. Authorities are called by theirs alone.
var endings = map[string]string{"push": "Push", "tls": "TLS"}

// platforms are Apple's systems as the API names them.
var platforms = map[string]string{"ios": "iOS and iPadOS", "macos": "macOS", "tvos": "tvOS", "visionos": "visionOS", "watchos": "watchOS"}

// steps says what a new server lacks: first of all a device.
func (s *Home) steps(ctx context.Context, p *page, sum summary) {
	if sum.Setup == nil {
		if sum.Devices.Total == 0 {
			p.Empty = &admin.Empty{Heading: "No devices in your groups", Text: "Your role is limited to groups of devices, and none is in them yet. Whoever runs this server can add some."}
		}
		return
	}
	urgent := slices.ContainsFunc(sum.Trouble, func(t trouble) bool { return t.Code == noPush && t.Severity == "error" })
	all := []step{
		{"Get a push certificate", "There is no push certificate: commands wait until a device checks in by itself.", "/admin/settings/push", "Get it", sum.Setup.PushCertificate, urgent},
		{"Enroll the first device", "A person scans a QR code with it, and you see how far they are.", "/admin/enrollment/people/new", "Enroll it", sum.Setup.Device, false},
		{"Add a second owner", "So that somebody can let you in again.", "/admin/users/new", "Add one", sum.Setup.SecondOwner, false},
		{"Get a public TLS certificate", "Until then, each device must be told to trust this server.", "/admin/settings/server", "See how", sum.Setup.PublicTLS, false},
	}
	needs := []string{"PUT /api/v1/push-certificates", "POST /api/v1/enrollment-invitations", "POST /api/v1/users", "GET /api/v1/settings"}
	left := 0
	for i := range all {
		if !s.desk.May(ctx, needs[i]) {
			all[i].URL = ""
		}
		if !all[i].Done {
			left++
		}
	}
	if left > 0 {
		p.Steps = all
	}
}

// flying adds the newest commands that are under way.
func (s *Home) flying(ctx context.Context, p *page) error {
	var found admin.List[command]
	if err := s.desk.Get(ctx, "/api/v1/commands", url.Values{"open": {"true"}, "limit": {mostFlying}}, &found); err != nil {
		return err
	}
	for _, c := range found.Items {
		at := c.CreatedAt
		f := flying{ID: c.CommandUUID, Name: admin.Words(c.RequestType), URL: "/admin/commands/" + url.PathEscape(c.CommandUUID), By: admin.Actor(c.CreatedBy), At: s.desk.Moment(&at)}
		switch n := c.Progress; {
		case c.DeviceID != "":
			f.Words = "for " + cmp.Or(c.DeviceName, c.DeviceID)
		case n != nil:
			done := n.Acknowledged + n.Error + n.Cancelled + n.Expired
			f.Words = admin.Number(done) + " of " + admin.Number(n.Total)
			f.Bar = chart.Bar{ID: "c-" + c.CommandUUID, Title: f.Name + ": " + f.Words, Parts: []chart.Part{
				{Label: "acknowledged", Count: n.Acknowledged, Ink: chart.Green}, {Label: "failed", Count: n.Error, Ink: chart.Red},
				{Label: "cancelled or expired", Count: n.Cancelled + n.Expired, Ink: chart.Grey}, {Label: "not now", Count: n.NotNow, Ink: chart.Amber},
				{Label: "delivered", Count: n.Delivered, Ink: chart.Teal}, {Label: "queued", Count: n.Queued, Ink: chart.Blue},
			}}.Picture()
		}
		p.Flying = append(p.Flying, f)
	}
	return nil
}

// happened adds what happened last.
func (s *Home) happened(ctx context.Context, p *page) error {
	texts, err := audit.Texts(ctx, s.desk)
	if err != nil {
		return err
	}
	var found admin.List[audit.Event]
	if err := s.desk.Get(ctx, "/api/v1/audit", url.Values{"limit": {mostEvents}}, &found); err != nil {
		return err
	}
	for _, e := range found.Items {
		if e.Action == "audit.anchored" || len(p.Events) == shownEvents {
			continue // an anchor is for who verifies the log
		}
		at := e.At
		h := happened{ID: e.ID, Text: e.Sentence(texts[e.Action]), At: s.desk.Moment(&at), URL: "/admin/audit#e-" + url.PathEscape(e.ID)}
		if e.DeviceID != "" {
			h.DeviceURL = "/admin/devices/" + url.PathEscape(e.DeviceID)
		}
		switch e.Outcome {
		case "refused":
			h.State = &view.State{Text: "refused", Tone: view.Waiting}
		case "failed":
			h.State = &view.State{Text: "failed", Tone: view.Bad}
		}
		p.Events = append(p.Events, h)
	}
	return nil
}
