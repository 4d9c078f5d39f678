package commands

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// whole is a command with what its devices say of it.
type whole struct {
	summary
	Params     map[string]any `json:"params"`
	Devices    []entry        `json:"devices"`
	NextCursor string         `json:"next_cursor"`
}

// commandPage is a command: of one device with its answer, of several with a list.
type commandPage struct {
	admin.Page
	Command  whole
	Facts    []admin.Fact
	Params   string // JSON; empty: it has none
	Curl     string
	One      *deviceCommand // nil: there are several devices
	Filters  []admin.NavItem
	Pager    admin.Pager
	Cancel   bool // something of it can be cancelled, and who looks may
	Retry    bool // something of it can be tried again, and who looks may
	MayEach  bool // single devices can be cancelled and retried
	Progress tally
	Again    string // the form with the same type and devices
}

// deviceCommand is a command of one device, with all that there is to say.
type deviceCommand struct {
	summary `json:"-"`
	entry   `json:"-"`
	Facts   []answerFact `json:"facts"`

	Steps []step `json:"-"`
	Raw   string `json:"-"` // JSON of the answer

	device string // its id
}

// answerFact is one thing that a device said.
type answerFact struct {
	Path  string       `json:"path"`
	Label string       `json:"label"`
	Value string       `json:"value"`
	Table *answerTable `json:"table"`
}

type answerTable struct {
	Columns []struct {
		Key   string `json:"key"`
		Label string `json:"label"`
	} `json:"columns"`
	Rows []struct {
		Cells []string `json:"cells"`
	} `json:"rows"`
	More        int `json:"more"`
	MoreColumns int `json:"more_columns"`
}

// cell is what stands in a row, with the heading of its column: on a phone it stands beside it.
type cell struct{ Label, Text string }

// Cells are the rows as a page shows them.
func (t *answerTable) Cells() [][]cell {
	rows := make([][]cell, len(t.Rows))
	for i, r := range t.Rows {
		for j, text := range r.Cells {
			if j < len(t.Columns) {
				rows[i] = append(rows[i], cell{t.Columns[j].Label, text})
			}
		}
	}
	return rows
}

// Plain are the facts without a table, Tables those with one.
func (d *deviceCommand) Plain() (facts []admin.Fact) {
	for _, f := range d.Facts {
		if f.Table == nil {
			facts = append(facts, admin.Fact{Label: f.Label, Value: f.Value})
		}
	}
	return facts
}

// Tables are the facts that are lists.
func (d *deviceCommand) Tables() (tables []answerFact) {
	for _, f := range d.Facts {
		if f.Table != nil {
			tables = append(tables, f)
		}
	}
	return tables
}

// UnmarshalJSON implements [json.Unmarshaler]: what a command and what a device's part of it
// have in common is read into both.
func (d *deviceCommand) UnmarshalJSON(b []byte) error {
	var facts struct {
		Facts []answerFact `json:"facts"`
	}
	if err := json.Unmarshal(b, &facts); err != nil {
		return err
	}
	d.Facts = facts.Facts
	if err := json.Unmarshal(b, &d.summary); err != nil {
		return err
	}
	if err := json.Unmarshal(b, &d.entry); err != nil {
		return err
	}
	d.device = d.entry.DeviceID
	return nil
}

// of reads how far a command is with one device.
func (s *Commands) of(r *http.Request, device, uuid string) (*deviceCommand, error) {
	d := &deviceCommand{}
	if err := s.desk.Get(r.Context(), "/api/v1/devices/"+url.PathEscape(device)+"/commands/"+url.PathEscape(uuid), nil, d); err != nil {
		return nil, err
	}
	d.Steps = d.steps(d.CreatedAt, d.By())
	if d.Result != nil {
		d.Raw = pretty(d.Result)
	}
	return d, nil
}

// devicesPerPage is how many devices of a command are on a page.
const devicesPerPage = "50"

func (s *Commands) command(w http.ResponseWriter, r *http.Request) error {
	query := url.Values{"limit": {devicesPerPage}}
	for _, name := range []string{"cursor", "state"} {
		if v := r.URL.Query().Get(name); v != "" {
			query.Set(name, v)
		}
	}
	page := &commandPage{}
	if err := s.desk.Get(r.Context(), "/api/v1/commands/"+url.PathEscape(r.PathValue("uuid")), query, &page.Command); err != nil {
		return err
	}
	c := &page.Command
	page.Page = admin.Page{Title: c.Name(), Section: section, Crumbs: []view.Link{{Label: "Commands", URL: section}}, Watch: "command."}
	if c.Progress != nil {
		page.Progress = *c.Progress
	}
	if c.moves(s.desk.Now()) {
		page.Every = 3
	}
	if len(c.Params) > 0 {
		page.Params = pretty(c.Params)
	}
	page.Facts = s.facts(c)
	page.Pager = admin.NewPager(r, c.NextCursor)
	page.Filters = filters(c, query.Get("state"))
	page.Cancel = page.Progress.Queued+page.Progress.NotNow > 0 && s.desk.May(r.Context(), routeCancel)
	mayRetry := s.desk.May(r.Context(), routeRetry)
	page.Retry = page.Progress.Failed()+page.Progress.Cancelled > 0 && mayRetry
	page.MayEach = mayRetry
	page.Curl = s.again(c)
	if page.Progress.Total == 1 && len(c.Devices) == 1 {
		one, err := s.of(r, c.Devices[0].DeviceID, c.UUID)
		if err != nil {
			return err
		}
		one.entry.DeviceName = c.Devices[0].DeviceName
		page.One = one
		page.Retry = mayRetry && one.Retryable()
	}
	if s.desk.May(r.Context(), routeQueue) && len(c.Devices) > 0 && page.Progress.Total == len(c.Devices) {
		t := targets{}
		for _, d := range c.Devices {
			t.DeviceIDs = append(t.DeviceIDs, d.DeviceID)
		}
		page.Again = t.With(section+"/new", "type", c.RequestType)
	}
	return s.desk.Write(w, r, s.pages, "command.html", page)
}

// facts say what was asked, by whom and when.
func (s *Commands) facts(c *whole) []admin.Fact {
	queued := s.desk.Moment(&c.CreatedAt)
	facts := []admin.Fact{
		{Label: "Command", Value: c.RequestType, Mono: true},
		{Label: "Queued by", Value: c.By()},
		{Label: "Queued", Moment: &queued},
	}
	if c.ExpiresAt != nil {
		facts = append(facts, admin.Fact{Label: "Not sent after", Value: c.ExpiresAt.UTC().Format("2006-01-02 15:04 UTC")})
	}
	switch c.Priority {
	case "urgent":
		facts = append(facts, admin.Fact{Label: "Priority", Value: "Urgent", Hint: "It goes ahead of the device’s other commands."})
	case "background":
		facts = append(facts, admin.Fact{Label: "Priority", Value: "Background", Hint: "The server asks by itself."})
	}
	if c.BatchID != "" {
		facts = append(facts, admin.Fact{Label: "Batch", Value: c.BatchID, URL: section + "/batches/" + url.PathEscape(c.BatchID), Mono: true})
	}
	if c.RetryOf != "" {
		facts = append(facts, admin.Fact{Label: "Another try of", Value: c.RetryOf, URL: section + "/" + url.PathEscape(c.RetryOf), Mono: true})
	}
	return append(facts, admin.Fact{Label: "CommandUUID", Value: c.UUID, Mono: true})
}

// filters are the states that devices of the command are in, what failed first.
func filters(c *whole, current string) []admin.NavItem {
	if c.Progress == nil || c.Progress.Total < 2 {
		return nil
	}
	items := []admin.NavItem{{Label: "All " + admin.Number(c.Progress.Total), URL: c.URL(), Current: current == ""}}
	for _, name := range []string{"error", "expired", "not_now", "queued", "delivered", "cancelled", "acknowledged"} {
		for _, state := range c.Progress.states() {
			if state.name == name && (state.count > 0 || name == current) {
				items = append(items, admin.NavItem{
					Label: capital(stateWord(name)) + " " + admin.Number(state.count), URL: c.URL() + "?state=" + name, Current: name == current,
				})
			}
		}
	}
	return items
}

// again is the request that queues the same once more, for a script.
func (s *Commands) again(c *whole) string {
	if c.NextCursor != "" || len(c.Devices) == 0 || len(c.Devices) != c.Progress.Total {
		return ""
	}
	o := order{RequestType: c.RequestType, Params: c.Params, targets: &targets{}}
	for _, d := range c.Devices {
		o.DeviceIDs = append(o.DeviceIDs, d.DeviceID)
	}
	return curlOf(s.desk.ServerURL, http1{"POST", "/api/v1/commands", o})
}

type answerPage struct {
	admin.Page
	One     *deviceCommand
	MayEach bool
}

// answer shows how far a command of many is with one device.
func (s *Commands) answer(w http.ResponseWriter, r *http.Request) error {
	one, err := s.of(r, r.PathValue("id"), r.PathValue("uuid"))
	if err != nil {
		return err
	}
	var device foundDevice
	if err := s.desk.Get(r.Context(), "/api/v1/devices/"+url.PathEscape(one.device), nil, &device); err != nil {
		return err
	}
	one.entry.DeviceName = device.Name()
	page := &answerPage{
		Page: admin.Page{
			Title: one.Name() + " on " + one.Device(), Section: section, Watch: "device:" + one.device,
			Crumbs: []view.Link{{Label: "Commands", URL: section}, {Label: one.Name(), URL: one.URL()}},
		},
		One: one, MayEach: s.desk.May(r.Context(), routeRetry),
	}
	if one.Pending() && s.desk.Now().Sub(one.CreatedAt) < 10*time.Minute {
		page.Every = 3
	}
	return s.desk.Write(w, r, s.pages, "answer.html", page)
}

// DeviceURL is the page of the device, AnswerURL that of its answer.
func (d *deviceCommand) DeviceURL() string {
	return "/admin/devices/" + url.PathEscape(d.device)
}

// Device is what to call the device.
func (d *deviceCommand) Device() string { return named(d.entry.DeviceName, d.device) }

// ID is the id of the device.
func (d *deviceCommand) ID() string { return d.device }

// Name is what to call the device.
func (e entry) Name() string { return named(e.DeviceName, e.DeviceID) }

// Name is the command in words.
func (d *deviceCommand) Name() string { return d.summary.Name() }

// cancel withdraws a command from all devices that do not have it, or from one.
func (s *Commands) cancel(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	uuid := url.PathEscape(r.PathValue("uuid"))
	if device := form.Get("device_id"); device != "" {
		err := s.desk.Send(r.Context(), http.MethodDelete, "/api/v1/devices/"+url.PathEscape(device)+"/commands/"+uuid, nil, nil)
		if err != nil {
			return err
		}
		return admin.Redirect(w, r, back(form, section+"/"+uuid), "cancelled")
	}
	if err := s.desk.Send(r.Context(), http.MethodPost, "/api/v1/commands/"+uuid+"/cancel", nil, nil); err != nil {
		return err
	}
	return admin.Redirect(w, r, back(form, section+"/"+uuid), "cancelled")
}

// back is where a form says that it came from, if that is a page of the desk.
func back(form *admin.Form, otherwise string) string {
	u, err := url.Parse(form.Get("back"))
	if err != nil || u.Scheme != "" || u.Host != "" || u.Opaque != "" || !strings.HasPrefix(u.Path, "/admin/") || strings.Contains(form.Get("back"), `\`) {
		return otherwise
	}
	return (&url.URL{Path: u.Path, RawQuery: u.RawQuery}).String()
}

// retry queues a command again for the devices with which it came to nothing, or for one.
func (s *Commands) retry(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	uuid := r.PathValue("uuid")
	ask := struct {
		DeviceIDs []string `json:"device_ids,omitempty"`
		Confirm   bool     `json:"confirm,omitempty"`
	}{DeviceIDs: form.Values["device_id"]}
	if form.Values.Has("typed") {
		page, err := s.confirmRetry(r, uuid, form)
		if err != nil {
			return err
		}
		if ask.Confirm = form.Typed(page.Word); !ask.Confirm {
			return s.desk.Confirm(w, r, page)
		}
	}
	var queued struct {
		UUID string `json:"command_uuid"`
	}
	err = s.desk.Send(r.Context(), http.MethodPost, "/api/v1/commands/"+url.PathEscape(uuid)+"/retry", ask, &queued)
	var p *admin.Problem
	if errors.As(err, &p) && p.Code == "confirmation_required" {
		page, err := s.confirmRetry(r, uuid, form)
		if err != nil {
			return err
		}
		return s.desk.Confirm(w, r, page)
	}
	if err != nil {
		return err
	}
	return admin.Redirect(w, r, back(form, section+"/"+url.PathEscape(queued.UUID)), "retried")
}

// confirmRetry is the page that asks before something is lost after all.
func (s *Commands) confirmRetry(r *http.Request, uuid string, form *admin.Form) (*admin.Confirm, error) {
	var c whole
	if err := s.desk.Get(r.Context(), "/api/v1/commands/"+url.PathEscape(uuid), url.Values{"limit": {"1"}, "state": {"error,expired,cancelled"}}, &c); err != nil {
		return nil, err
	}
	n := len(form.Values["device_id"])
	if n == 0 && c.Progress != nil {
		n = c.Progress.Failed() + c.Progress.Cancelled
	}
	word, what := strconv.Itoa(n), "the number of devices"
	if n == 1 && len(c.Devices) == 1 && (len(form.Values["device_id"]) == 0 || c.Devices[0].DeviceID == form.Get("device_id")) {
		word, what = c.Devices[0].Name(), "the device’s name"
	}
	hidden := url.Values{}
	if ids := form.Values["device_id"]; len(ids) > 0 {
		hidden["device_id"] = ids
	}
	if form.Get("back") != "" {
		hidden.Set("back", form.Get("back"))
	}
	return &admin.Confirm{
		Page:    admin.Page{Section: section, Crumbs: []view.Link{{Label: "Commands", URL: section}, {Label: c.Name(), URL: c.URL()}}},
		Heading: c.Name() + ": queue it again?", Text: []string{lost[c.RequestType]}, Word: word, What: what, Danger: true,
		Button: c.Name() + " for " + admin.Count(n, "device", "devices"), Action: c.URL() + "/retry", Hidden: hidden, Back: c.URL(), Form: form,
	}, nil
}

// batch is several commands that were asked for together.
type batch struct {
	ID        string    `json:"batch_id"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"`
	UUIDs     []string  `json:"command_uuids"`
	Progress  *tally    `json:"progress"`
	Commands  []summary `json:"commands"`
}

// Label is what to call the batch, URL its page, By who queued it.
func (b batch) Label() string {
	if b.Name != "" {
		return b.Name
	}
	return admin.Count(len(b.UUIDs), "command", "commands")
}
func (b batch) URL() string { return section + "/batches/" + url.PathEscape(b.ID) }
func (b batch) By() string  { return admin.Actor(b.CreatedBy) }

type batchesPage struct {
	admin.Page
	Tabs  []admin.NavItem
	Items []batch
	Pager admin.Pager
	Empty *admin.Empty
}

func (s *Commands) batches(w http.ResponseWriter, r *http.Request) error {
	query := url.Values{"limit": {perPage}}
	if v := r.URL.Query().Get("cursor"); v != "" {
		query.Set("cursor", v)
	}
	var found admin.List[batch]
	if err := s.desk.Get(r.Context(), "/api/v1/batches", query, &found); err != nil {
		return err
	}
	page := &batchesPage{
		Page: admin.Page{Title: "Batches", Section: section, Watch: "command."},
		Tabs: tabs(section + "/batches"), Items: found.Items, Pager: admin.NewPager(r, found.NextCursor),
	}
	if len(found.Items) == 0 {
		page.Empty = &admin.Empty{
			Heading: "No batches yet",
			Text:    "A batch is several commands that were queued together: when a profile is sent to devices, or by a script.",
			Command: "curl -X POST $SERVER/api/v1/batches",
			Actions: []view.Link{{Label: "Send a profile", URL: "/admin/profiles"}},
		}
	}
	return s.desk.Write(w, r, s.pages, "batches.html", page)
}

type batchPage struct {
	admin.Page
	Batch batch
	Facts []admin.Fact
}

func (s *Commands) batch(w http.ResponseWriter, r *http.Request) error {
	page := &batchPage{}
	if err := s.desk.Get(r.Context(), "/api/v1/batches/"+url.PathEscape(r.PathValue("id")), nil, &page.Batch); err != nil {
		return err
	}
	b := page.Batch
	page.Page = admin.Page{
		Title: b.Label(), Section: section, Watch: "command.",
		Crumbs: []view.Link{{Label: "Commands", URL: section}, {Label: "Batches", URL: section + "/batches"}},
	}
	if slices.ContainsFunc(b.Commands, func(c summary) bool { return c.moves(s.desk.Now()) }) {
		page.Every = 3
	}
	queued := s.desk.Moment(&b.CreatedAt)
	page.Facts = []admin.Fact{{Label: "Queued by", Value: b.By()}, {Label: "Queued", Moment: &queued}, {Label: "Batch", Value: b.ID, Mono: true}}
	return s.desk.Write(w, r, s.pages, "batch.html", page)
}
