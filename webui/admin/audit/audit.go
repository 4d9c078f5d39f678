// Package audit is the section of the desk that tells who did what, and when.
package audit

import (
	"cmp"
	"context"
	"embed"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

//go:embed templates/*.html
var templates embed.FS

const section = "/admin/audit"

// perPage is the length of the list.
const perPage = "50"

// Audit is the section.
type Audit struct {
	desk  *admin.Desk
	pages *admin.Templates
}

// New returns the section at a desk.
func New(desk *admin.Desk) (*Audit, error) {
	pages, err := desk.Templates(templates)
	return &Audit{desk, pages}, err
}

// Mount implements [admin.Section]. The pages that read the whole log are among those that
// may take their time.
func (s *Audit) Mount(r, _ webui.Router) {
	r.Handle("GET "+section, s.list)
	r.Handle("GET "+section+"/export", s.export)
	r.Handle("GET "+section+"/verify", s.verify)
	r.Handle("GET "+logPath, s.log)
}

// change is a field that somebody changed.
type change struct {
	Field  string `json:"field"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// Secret says that it is only told what became of it.
func (c change) Secret() bool {
	return c.Before == "" && (c.After == "set" || c.After == "changed" || c.After == "removed") && secretField(c.Field)
}

func secretField(field string) bool {
	last := field[strings.LastIndex(field, ".")+1:]
	return slices.ContainsFunc([]string{"password", "secret", "challenge", "token", "private_key", "headers", "url", "client_key"}, func(name string) bool {
		return strings.HasSuffix(last, name)
	})
}

// Event is one of the audit log, as the API lists it.
type Event struct {
	ID          string            `json:"id"`
	Seq         *uint64           `json:"seq"`
	Hash        *string           `json:"hash"`
	At          time.Time         `json:"at"`
	Actor       string            `json:"actor"`
	Action      string            `json:"action"`
	Outcome     string            `json:"outcome"`
	Reason      string            `json:"reason"`
	DeviceID    string            `json:"device_id"`
	DeviceName  string            `json:"device_name"` // what it is called today
	User        string            `json:"user"`
	Certificate string            `json:"certificate"`
	Template    string            `json:"template"`
	Peer        string            `json:"peer"`
	Details     map[string]string `json:"details"`
	Changes     []change          `json:"changes"`

	users bool // who looks may see users
}

// itself is the actor of what the server does for reasons of its own.
const itself = "server"

// Who is the actor in words, and what kind of actor it is.
func (e Event) Who() (who struct{ Name, Kind string }) {
	kind, name, ok := strings.Cut(e.Actor, ":")
	switch {
	case e.Actor == "":
		who.Name = "Nobody known"
	case kind == "user" && ok:
		who.Name = name
	case kind == "token" && ok:
		who.Name, who.Kind = name, "API token"
	case kind == "device" && ok:
		who.Name = "A device"
		if name == e.DeviceID {
			who.Name = cmp.Or(e.DeviceName, who.Name)
		}
	case kind == "local":
		who.Name, who.Kind = "Command line", "on the server’s machine"
	case kind == "setup":
		who.Name = "Setup link"
	case kind == "provider" && ok:
		who.Name, who.Kind = name, "identity provider"
	case e.Actor == itself:
		who.Name, who.Kind = "The server", "by itself"
	case e.Actor == "scep" || e.Actor == "est":
		who.Name, who.Kind = "A device", "by "+strings.ToUpper(e.Actor)
	case e.Actor == "demo":
		who.Name = "The demo"
	default:
		who.Name = e.Actor
	}
	return who
}

// State is how it went.
func (e Event) State() view.State {
	switch e.Outcome {
	case "refused":
		return view.State{Text: "Refused", Tone: "bad"}
	case "failed":
		return view.State{Text: "Failed", Tone: "bad"}
	}
	return view.State{Text: "Done", Tone: "good"}
}

// About are the things that it is about, with links to them.
func (e Event) About() (all []view.Link) {
	if e.DeviceID != "" {
		label := cmp.Or(e.DeviceName, e.Details["serial_number"], "device "+short(e.DeviceID))
		all = append(all, view.Link{Label: label, URL: "/admin/devices/" + url.PathEscape(e.DeviceID)})
	}
	if e.User != "" {
		of := view.Link{Label: e.User}
		if e.users {
			of.URL = "/admin/users?" + url.Values{"q": {e.User}}.Encode()
		}
		all = append(all, of)
	}
	if e.Certificate != "" {
		all = append(all, view.Link{Label: "certificate " + short(e.Certificate), URL: "/admin/certificates/" + url.PathEscape(e.Certificate)})
	}
	if e.Template != "" && e.Template != "identity" { // which is no template that anybody made
		all = append(all, view.Link{Label: e.Template, URL: "/admin/certificate-templates/" + url.PathEscape(e.Template)})
	}
	if uuid := e.Details["command_uuid"]; uuid != "" {
		label := "command"
		if kind := e.Details["request_type"]; kind != "" {
			label = admin.Words(kind)
		}
		all = append(all, view.Link{Label: label, URL: "/admin/commands/" + url.PathEscape(uuid)})
	}
	if name := e.Details["name"]; name != "" && len(all) == 0 {
		all = append(all, view.Link{Label: name})
	}
	return all
}

func short(serial string) string {
	if len(serial) > 10 {
		return serial[:10] + "…"
	}
	return serial
}

// Facts are what else is known of it.
func (e Event) Facts() []admin.Fact {
	facts := []admin.Fact{{Label: "Time", Value: e.At.UTC().Format("2006-01-02 15:04:05 UTC")}, {Label: "Action", Value: e.Action, Mono: true}, {Label: "Actor", Value: e.Actor, Mono: true}}
	for _, f := range []admin.Fact{
		{Label: "Address", Value: e.Peer, Mono: true}, {Label: "Device", Value: e.DeviceID, Mono: true}, {Label: "Certificate", Value: e.Certificate, Mono: true},
	} {
		if f.Value != "" {
			facts = append(facts, f)
		}
	}
	keys := make([]string, 0, len(e.Details))
	for key := range e.Details {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		facts = append(facts, admin.Fact{Label: admin.Words(key), Value: e.Details[key]})
	}
	if e.Seq != nil && e.Hash != nil {
		facts = append(facts, admin.Fact{Label: "Place", Value: admin.Number(int(*e.Seq))}, admin.Fact{Label: "Hash of the chain", Value: *e.Hash, Mono: true})
	}
	return facts
}

// Texts returns what there is to say of each kind of event, by action.
func Texts(ctx context.Context, desk *admin.Desk) (map[string]string, error) {
	var types admin.List[struct{ Action, Text string }]
	if err := desk.Get(ctx, "/api/v1/event-types", nil, &types); err != nil {
		return nil, err
	}
	texts := make(map[string]string, len(types.Items))
	for _, t := range types.Items {
		texts[t.Action] = t.Text
	}
	return texts, nil
}

// listed is an event in the list.
type listed struct {
	Event
	Text template.HTML
}

type listPage struct {
	admin.Page
	Tabs     []admin.NavItem
	Form     *admin.Form
	Areas    []admin.Option
	Outcomes []admin.Option
	Periods  []admin.Option
	Items    []listed
	Pager    admin.Pager
	Empty    *admin.Empty
	Export   string
	Verify   bool
}

var periods = []struct {
	value, label string
	length       time.Duration
}{{"1h", "The last hour", time.Hour}, {"24h", "The last 24 hours", 24 * time.Hour}, {"7d", "The last 7 days", 7 * 24 * time.Hour}, {"30d", "The last 30 days", 30 * 24 * time.Hour}}

// queryOf returns what the API is asked, and the form as it was filled in.
func (s *Audit) queryOf(r *http.Request) (query url.Values, form *admin.Form, filtered bool) {
	query, form = url.Values{}, admin.NewForm()
	asked := r.URL.Query()
	for _, name := range []string{"q", "action", "outcome", "actor", "user", "device_id", "certificate", "cursor"} {
		v := strings.TrimSpace(asked.Get(name))
		if v == "" {
			continue
		}
		form.Values.Set(name, v)
		filtered = true
		if name == "actor" && !strings.Contains(v, ":") && v != itself && v != "scep" && v != "est" {
			v = "user:" + v // as people say it
		}
		query.Set(name, v)
	}
	for _, p := range periods {
		if asked.Get("since") == p.value {
			form.Values.Set("since", p.value)
			filtered = true
			query.Set("since", s.desk.Now().UTC().Add(-p.length).Truncate(time.Minute).Format(time.RFC3339))
		}
	}
	return query, form, filtered
}

func (s *Audit) list(w http.ResponseWriter, r *http.Request) error {
	query, form, filtered := s.queryOf(r)
	page := &listPage{
		Page: admin.Page{Title: "Audit", Section: section}, Tabs: s.tabs(r, section), Form: form,
		Outcomes: admin.Options("", "Any", "ok", "Done", "refused", "Refused", "failed", "Failed"),
		Periods:  admin.Options("", "Any time"),
		Export:   section + "/export", Verify: s.desk.May(r.Context(), "GET /api/v1/audit/verify"),
	}
	for _, p := range periods {
		page.Periods = append(page.Periods, admin.Option{Value: p.value, Label: p.label})
	}
	if since := form.Get("since"); since != "" {
		page.Export += "?" + url.Values{"since": {since}}.Encode()
	}
	texts, err := Texts(r.Context(), s.desk)
	if err != nil {
		return err
	}
	var areas []string
	for action := range texts {
		area, _, _ := strings.Cut(action, ".")
		areas = append(areas, area)
	}
	slices.SortFunc(areas, func(a, b string) int { return strings.Compare(admin.Area(a), admin.Area(b)) })
	areas = slices.Compact(areas)
	page.Areas = admin.Options("", "Everything")
	for _, area := range areas {
		page.Areas = append(page.Areas, admin.Option{Value: area + ".", Label: admin.Area(area)})
	}
	if a := form.Get("action"); a != "" && !slices.ContainsFunc(page.Areas, func(o admin.Option) bool { return o.Value == a }) {
		page.Areas = append(page.Areas, admin.Option{Value: a, Label: a})
	}
	if form.Get("cursor") == "" { // further pages stand still
		page.Watch = "*"
	}
	query.Set("limit", perPage)
	var found admin.List[Event]
	if err := s.desk.Get(r.Context(), "/api/v1/audit", query, &found); err != nil {
		return err
	}
	users := s.desk.May(r.Context(), "GET /api/v1/users")
	for _, e := range found.Items {
		e.users = users
		page.Items = append(page.Items, listed{e, e.Sentence(texts[e.Action])})
	}
	page.Pager = admin.NewPager(r, found.NextCursor)
	switch {
	case len(found.Items) > 0:
	case found.NextCursor != "":
		page.Empty = &admin.Empty{Heading: "Nothing among those looked at", Text: "The log is long. Go on to the next page, which holds older events, or choose a kind or a time."}
	case filtered:
		page.Empty = &admin.Empty{Heading: "Nothing fits", Text: "Take a filter away, or choose a longer time.", Actions: []view.Link{{Label: "Show everything", URL: section}}}
	default:
		page.Empty = &admin.Empty{Heading: "Nothing has happened yet", Text: "What people, scripts, devices and the server do is written down here, with who did it."}
	}
	return s.desk.Write(w, r, s.pages, "list.html", page)
}

func (s *Audit) export(w http.ResponseWriter, r *http.Request) error {
	query, _, _ := s.queryOf(r)
	only := url.Values{}
	if since := query.Get("since"); since != "" {
		only.Set("since", since)
	}
	return s.desk.Forward(w, r, "/api/v1/audit/export", only)
}

type verifyPage struct {
	admin.Page
	OK      bool   `json:"ok"`
	Problem string `json:"problem"`
	First   uint64 `json:"first"`
	Last    uint64 `json:"last"`
	Events  int    `json:"events"`
	Erased  int    `json:"erased"`
	Hash    string `json:"hash"`

	Form  *admin.Form  `json:"-"`
	Facts []admin.Fact `json:"-"`
	Keep  struct{ ID, Text string }
}

// verify computes the chain anew. It changes nothing, so that it may be a GET.
func (s *Audit) verify(w http.ResponseWriter, r *http.Request) error {
	page := &verifyPage{Form: admin.NewForm()}
	query := url.Values{}
	for _, name := range []string{"seq", "hash"} {
		if v := strings.TrimSpace(r.URL.Query().Get(name)); v != "" {
			page.Form.Values.Set(name, v)
			query.Set(name, v)
		}
	}
	page.Page = admin.Page{Title: "Verify the audit log", Section: section, Crumbs: []view.Link{{Label: "Audit", URL: section}}}
	around := page.Page
	err := s.desk.Get(r.Context(), "/api/v1/audit/verify", query, page)
	page.Page = around
	if err != nil {
		if !page.Form.Refused(err) {
			return err
		}
		return s.desk.WriteStatus(w, r, http.StatusUnprocessableEntity, s.pages, "verify.html", page)
	}
	page.Facts = []admin.Fact{
		{Label: "Events", Value: admin.Number(page.Events)}, {Label: "From place", Value: admin.Number(int(page.First))}, {Label: "To place", Value: admin.Number(int(page.Last))},
		{Label: "Forgotten early", Value: admin.Number(page.Erased), Hint: "Refusals and failures that were too many; their digests are kept."},
	}
	page.Keep.ID, page.Keep.Text = "anchor", page.Hash
	return s.desk.Write(w, r, s.pages, "verify.html", page)
}
