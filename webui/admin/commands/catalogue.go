package commands

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// commandType is what a form for a command has to know.
type commandType struct {
	RequestType string               `json:"request_type"`
	Title       string               `json:"title"`
	Summary     string               `json:"summary"`
	Category    string               `json:"category"`
	Destructive bool                 `json:"destructive"`
	Confirm     bool                 `json:"confirm"`
	Urgent      bool                 `json:"urgent"`
	Filled      []string             `json:"filled"`
	Scope       string               `json:"scope"`
	Platforms   map[string]*platform `json:"platforms"`
	Keys        []key                `json:"keys"`
	Allowed     *bool                `json:"allowed"`
	Reason      string               `json:"reason"`
}

// platform says on which devices of one platform a command or key works.
type platform struct {
	Introduced string `json:"introduced"`
	Deprecated string `json:"deprecated"`
	Removed    string `json:"removed"`
	Supervised bool   `json:"supervised"`
}

// verdict is how many of the targets may get a command of one type.
type verdict struct {
	RequestType string `json:"request_type"`
	Allowed     int    `json:"allowed"`
	Refused     int    `json:"refused"`
	Reason      string `json:"reason"`
}

type namedDevice struct {
	DeviceID   string `json:"device_id"`
	DeviceName string `json:"device_name"`
}

// Name is what to call it, URL its page.
func (d namedDevice) Name() string { return named(d.DeviceName, d.DeviceID) }
func (d namedDevice) URL() string  { return "/admin/devices/" + url.PathEscape(d.DeviceID) }

// targets are the devices that a command is for, and what they may get.
type targets struct {
	DeviceIDs []string `json:"device_ids,omitempty"`
	GroupID   string   `json:"group_id,omitempty"`
	Filter    string   `json:"filter,omitempty"`

	Total    int           `json:"-"`
	Devices  []namedDevice `json:"-"` // the first hundred
	Group    string        `json:"-"` // its name
	verdicts map[string]verdict
}

// maxSelected is how many devices may be named in an address.
const maxSelected = 200

// targetsOf reads which devices are meant from a query or a form.
func targetsOf(values url.Values) targets {
	t := targets{GroupID: values.Get("group_id"), Filter: values.Get("filter")}
	for _, id := range append(strings.Split(values.Get("device_ids"), ","), values["device_id"]...) {
		if id != "" && !slices.Contains(t.DeviceIDs, id) {
			t.DeviceIDs = append(t.DeviceIDs, id)
		}
	}
	switch { // in one way only: what was chosen last names devices
	case len(t.DeviceIDs) > 0:
		t.GroupID, t.Filter = "", ""
	case t.GroupID != "":
		t.Filter = ""
	}
	return t
}

// None says that nobody has chosen any.
func (t *targets) None() bool { return len(t.DeviceIDs) == 0 && t.GroupID == "" && t.Filter == "" }

// One is the only device; nil: there are several.
func (t *targets) One() *namedDevice {
	if len(t.DeviceIDs) == 1 && len(t.Devices) == 1 {
		return &t.Devices[0]
	}
	return nil
}

// Hidden is what says in a form which devices are meant.
func (t *targets) Hidden() url.Values {
	v := url.Values{}
	if len(t.DeviceIDs) > 0 {
		v["device_id"] = t.DeviceIDs
	}
	if t.GroupID != "" {
		v.Set("group_id", t.GroupID)
	}
	if t.Filter != "" {
		v.Set("filter", t.Filter)
	}
	return v
}

// With is the address of a page for the same devices: several are one parameter, as an
// address has a limited number of them.
func (t *targets) With(path, name, value string) string {
	v := t.Hidden()
	if len(t.DeviceIDs) > 1 {
		v.Del("device_id")
		v.Set("device_ids", strings.Join(t.DeviceIDs, ","))
	}
	if name != "" {
		v.Set(name, value)
	}
	return path + "?" + v.Encode()
}

// Words says whom a command is for.
func (t *targets) Words() string {
	switch one := t.One(); {
	case one != nil:
		return one.Name()
	case t.Group != "":
		return "the group " + t.Group + " (" + admin.Count(t.Total, "device", "devices") + ")"
	case t.Filter != "":
		return "all that match (" + admin.Count(t.Total, "device", "devices") + ")"
	}
	return admin.Count(t.Total, "device", "devices")
}

// look finds out how many of the targets may get what. A mistake in how they are named is a
// *[admin.Problem].
func (s *Commands) look(ctx context.Context, t *targets) error {
	if len(t.DeviceIDs) > maxSelected {
		return &admin.Problem{Problem: tooMany(len(t.DeviceIDs))}
	}
	var found struct {
		Total   int           `json:"total"`
		Devices []namedDevice `json:"devices"`
		Items   []verdict     `json:"items"`
	}
	if err := s.desk.Send(ctx, http.MethodPost, "/api/v1/command-types/check", t, &found); err != nil {
		return err
	}
	t.Total, t.Devices, t.verdicts = found.Total, found.Devices, make(map[string]verdict, len(found.Items))
	for _, v := range found.Items {
		t.verdicts[v.RequestType] = v
	}
	if t.GroupID == "" {
		return nil
	}
	var group struct {
		Name string `json:"name"`
	}
	if err := s.desk.Get(ctx, "/api/v1/groups/"+url.PathEscape(t.GroupID), nil, &group); err != nil {
		return err
	}
	t.Group = group.Name
	return nil
}

// categories are the groups of commands in their order, with their headings.
var categories = []struct{ name, heading string }{
	{"inspection", "Information"}, {"security", "Security"}, {"lost_mode", "Lost Mode"}, {"power", "Restart and shutdown"}, {"apps", "Apps"},
	{"books", "Books"}, {"profiles", "Profiles"}, {"settings", "Settings"}, {"updates", "System updates"}, {"users", "Users and accounts"},
	{"setup", "Setup Assistant"}, {"screen", "Screen"}, {"support", "Support"},
}

// choice is a command in the catalogue, for the devices that were chosen.
type choice struct {
	commandType
	URL    string // its form; empty: it can't be queued for any of them
	Reason string // why not
	Note   string // how many of several get it
}

type catalogueGroup struct {
	ID, Heading string
	Choices     []choice
}

type cataloguePage struct {
	admin.Page
	Targets *targets
	Query   string
	Often   []choice
	Groups  []catalogueGroup
	Not     []choice // what none of the devices may get
	Raw     string   // the page for experts; empty: who looks may not
	Change  string
	Empty   *admin.Empty
}

// often are the commands that people look for first.
var often = []string{"DeviceLock", "DeviceInformation", "RestartDevice", "EnableLostMode", "ClearPasscode", "EraseDevice"}

// choose shows the devices to choose from, then the commands, then the form.
func (s *Commands) choose(w http.ResponseWriter, r *http.Request) error {
	if !s.desk.May(r.Context(), routeQueue) {
		return errMayNot
	}
	asked := r.URL.Query()
	t := targetsOf(asked)
	if t.None() {
		return s.chooseDevices(w, r, "")
	}
	if err := s.look(r.Context(), &t); err != nil {
		if reason := aboutTargets(err); reason != "" {
			return s.chooseDevices(w, r, reason)
		}
		return err
	}
	if name := asked.Get("type"); name != "" {
		return s.ask(w, r, &t, name)
	}
	var types admin.List[commandType]
	if err := s.desk.Get(r.Context(), "/api/v1/command-types", nil, &types); err != nil {
		return err
	}
	page := &cataloguePage{
		Page: admin.Page{Title: "Queue a command", Section: section, Crumbs: s.crumbs(&t)}, Targets: &t, Query: strings.TrimSpace(asked.Get("find")),
		Change: section + "/new",
	}
	if s.desk.May(r.Context(), routeRaw) && len(t.DeviceIDs) > 0 {
		page.Raw = t.With(section+"/raw", "", "")
	}
	found := 0
	groups := make(map[string][]choice)
	for _, typ := range types.Items {
		if !typ.matches(page.Query) {
			continue
		}
		found++
		c := s.choiceOf(r.Context(), &t, typ)
		if c.URL == "" {
			page.Not = append(page.Not, c)
			continue
		}
		groups[typ.Category] = append(groups[typ.Category], c)
		if slices.Contains(often, typ.RequestType) && page.Query == "" {
			page.Often = append(page.Often, c)
		}
	}
	slices.SortFunc(page.Often, func(a, b choice) int {
		return cmp.Compare(slices.Index(often, a.RequestType), slices.Index(often, b.RequestType))
	})
	for _, c := range categories {
		if len(groups[c.name]) > 0 {
			page.Groups = append(page.Groups, catalogueGroup{"group-" + c.name, c.heading, groups[c.name]})
		}
	}
	if found == 0 {
		page.Empty = &admin.Empty{Heading: "No command is called that", Text: "Search by Apple’s name or by what it does.",
			Actions: []view.Link{{Label: "Show all", URL: t.With(section+"/new", "", "")}}}
	}
	return s.desk.Write(w, r, s.pages, "catalogue.html", page)
}

func (s *Commands) choiceOf(ctx context.Context, t *targets, typ commandType) choice {
	c := choice{commandType: typ}
	v := t.verdicts[typ.RequestType]
	switch {
	case v.Allowed == 0:
		c.Reason = admin.Because(typ.RequestType, v.Reason)
	case typ.Scope == "admin" && !s.desk.May(ctx, routeRaw):
		c.Reason = "Only administrators may queue it."
	default:
		c.URL = t.With(section+"/new", "type", typ.RequestType)
		if v.Refused > 0 {
			c.Note = fmt.Sprintf("%s of %s", admin.Number(v.Allowed), admin.Number(t.Total))
		}
	}
	return c
}

// matches reports whether every word of a search is in what is said of the type.
func (t commandType) matches(query string) bool {
	text := strings.ToLower(t.RequestType + " " + t.Title + " " + t.Summary + " " + strings.ReplaceAll(t.Category, "_", " "))
	for _, word := range strings.Fields(strings.ToLower(query)) {
		if !strings.Contains(text, word) {
			return false
		}
	}
	return true
}

// crumbs is the way to a page about targets.
func (s *Commands) crumbs(t *targets) []view.Link {
	if one := t.One(); one != nil {
		return []view.Link{{Label: "Devices", URL: "/admin/devices"}, {Label: one.Name(), URL: one.URL()}}
	}
	return []view.Link{{Label: "Commands", URL: section}}
}

type devicesPage struct {
	admin.Page
	Query string
	Items []foundDevice
	More  bool
	Group []admin.Option
	Form  *admin.Form
	Error string
	Keep  url.Values // what the address asks for beside devices
	Empty *admin.Empty
}

type foundDevice struct {
	ID           string `json:"id"`
	SerialNumber string `json:"serial_number"`
	DeviceName   string `json:"device_name"`
	Model        string `json:"model"`
	ModelName    string `json:"model_name"`
	Platform     string `json:"platform"`
	OSVersion    string `json:"os_version"`
	User         string `json:"user"`
	UserLong     string `json:"user_long_name"`
	UserShort    string `json:"user_short_name"`
	ParentID     string `json:"parent_id"`
}

// Name is what to call the device, or the user whose channel it is.
func (d foundDevice) Name() string {
	if d.Channel() {
		return cmp.Or(d.UserLong, d.UserShort, d.User, d.ID)
	}
	return cmp.Or(d.DeviceName, d.SerialNumber, d.ID)
}

// ModelWords and OS are what it is.
func (d foundDevice) ModelWords() string { return admin.Model(d.ModelName, d.Model) }
func (d foundDevice) OS() string         { return admin.System(d.Platform, d.Model, d.OSVersion) }

// Channel says that it is not a device, but the user channel of one.
func (d foundDevice) Channel() bool { return d.ParentID != "" }

// chooseDevices asks which devices a command is for.
func (s *Commands) chooseDevices(w http.ResponseWriter, r *http.Request, wrong string) error {
	page := &devicesPage{
		Page:  admin.Page{Title: "Queue a command", Section: section, Crumbs: []view.Link{{Label: "Commands", URL: section}}},
		Query: strings.TrimSpace(r.URL.Query().Get("q")), Form: admin.NewForm(), Error: wrong, Keep: url.Values{},
	}
	if typ := r.URL.Query().Get("type"); typ != "" {
		page.Keep.Set("type", typ)
	}
	query := url.Values{"limit": {"25"}, "state": {"enrolled"}, "sort": {"name"}}
	if page.Query != "" {
		query.Set("q", page.Query)
	}
	var found admin.List[foundDevice]
	if err := s.desk.Get(r.Context(), "/api/v1/devices", query, &found); err != nil {
		return err
	}
	page.Items, page.More = found.Items, found.NextCursor != ""
	var groups admin.List[struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	}]
	if err := s.desk.Get(r.Context(), "/api/v1/groups", url.Values{"limit": {"100"}}, &groups); err != nil {
		return err
	}
	for _, g := range groups.Items {
		page.Group = append(page.Group, admin.Option{Value: g.ID, Label: g.Name})
	}
	if len(found.Items) == 0 {
		page.Empty = &admin.Empty{Heading: "No devices yet", Text: "A command needs a device that is enrolled."}
		if s.desk.May(r.Context(), "POST /api/v1/enrollment-links") {
			page.Empty.Actions = []view.Link{{Label: "New enrollment link", URL: "/admin/enrollment/links/new"}}
		}
		if page.Query != "" {
			page.Empty = &admin.Empty{Heading: "No enrolled device matches", Text: "Search by name, serial number, owner or model."}
		}
	}
	status := http.StatusOK
	if wrong != "" {
		status = http.StatusUnprocessableEntity
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "targets.html", page)
}
