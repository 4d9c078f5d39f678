package profiles

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// full is a profile with what the API says of it.
type full struct {
	brief
	Latest   version        `json:"latest"`
	Payloads []payload      `json:"payloads"`
	Findings []finding      `json:"findings"`
	Devices  map[string]int `json:"devices"`
}

type version struct {
	Version              int       `json:"version"`
	UUID                 string    `json:"uuid"`
	SHA256               string    `json:"sha256"`
	Size                 int       `json:"size"`
	CreatedAt            time.Time `json:"created_at"`
	CreatedBy            string    `json:"created_by"`
	Note                 string    `json:"note"`
	Description          string    `json:"description"`
	Organization         string    `json:"organization"`
	Scope                string    `json:"scope"`
	PayloadTypes         []string  `json:"payload_types"`
	Signer               *signer   `json:"signer"`
	Variables            []string  `json:"variables"`
	CertificateTemplates []string  `json:"certificate_templates"`
	Literal              bool      `json:"literal"`
}

// base is what the pages of one profile have in common.
type base struct {
	admin.Page
	Profile full
	Tabs    []admin.NavItem
	Limited bool // to groups: devices are counted of those alone
}

// uncounted asks for a profile without how many devices have it: a page that does not say how many
// there are is not to wait for that.
var uncounted = url.Values{"uncounted": {"true"}}

// base reads the profile that r is about.
func (s *Profiles) base(r *http.Request, tab string) (base, error) {
	query := uncounted
	if tab == "Overview" || tab == "Devices" {
		query = nil
	}
	var p full
	if err := s.desk.Get(r.Context(), brief{ID: r.PathValue("id")}.path(), query, &p); err != nil {
		return base{}, err
	}
	b := base{
		Page: admin.Page{
			Title: p.Name, Section: section, Crumbs: []view.Link{{Label: "Profiles", URL: section}}, Watch: "profile. command.finished",
		},
		Profile: p, Limited: admin.Principal(r.Context()).Limited(),
	}
	for _, t := range []admin.NavItem{
		{Label: "Overview", URL: p.URL()}, {Label: "Contents", URL: p.URL() + "/contents"},
		{Label: "Versions", URL: p.URL() + "/versions"}, {Label: "Devices", URL: p.URL() + "/devices"},
	} {
		t.Current = t.Label == tab
		b.Tabs = append(b.Tabs, t)
	}
	return b, nil
}

type profilePage struct {
	base
	Facts   []admin.Fact
	Counts  []counted
	Trouble view.State
	On      int // devices that have it, or may have
}

func (s *Profiles) profile(w http.ResponseWriter, r *http.Request) error {
	b, err := s.base(r, "Overview")
	if err != nil {
		return err
	}
	page := &profilePage{base: b}
	p, v := b.Profile, b.Profile.Latest
	page.Counts, _ = counts(p.Devices, p.URL())
	for _, state := range []string{"sent", "installed", "removing", "drifted"} {
		page.On += p.Devices[state]
	}
	found := map[string]int{}
	for _, f := range p.Findings {
		found[f.Severity]++
	}
	page.Trouble = troubles(found)
	updated, created := s.desk.Moment(&v.CreatedAt), s.desk.Moment(&p.CreatedAt)
	page.Facts = []admin.Fact{
		{Label: "Version", Value: strconv.Itoa(p.Version), Hint: v.Note},
		{Label: "Saved", Moment: &updated, Hint: by(v.CreatedBy)},
		{Label: "First saved", Moment: &created, Hint: by(p.CreatedBy)},
	}
	page.Facts = append(page.Facts, linted{
		Description: v.Description, Organization: v.Organization, Scope: v.Scope, Signer: v.Signer, Variables: v.Variables, CertificateTemplates: v.CertificateTemplates,
	}.facts(s.desk)...)
	if v.Literal {
		page.Facts = append(page.Facts, admin.Fact{Label: "Dollar signs", Value: "are no variables"})
	}
	return s.desk.Write(w, r, s.pages, "profile.html", page)
}

// by names who did something.
func by(who string) string {
	if who == "" {
		return ""
	}
	return "by " + admin.Actor(who)
}

type contentsPage struct {
	base
	Version  int
	Payloads []payload
	Allowed  bool
}

// contents shows what a version sets, to who may see it: it may hold what is not for
// everybody, though passwords are left out.
func (s *Profiles) contents(w http.ResponseWriter, r *http.Request) error {
	b, err := s.base(r, "Contents")
	if err != nil {
		return err
	}
	page := &contentsPage{base: b, Version: b.Profile.Version, Payloads: b.Profile.Payloads}
	if n, err := strconv.Atoi(r.URL.Query().Get("version")); err == nil {
		page.Version = n
	}
	page.Allowed = s.desk.May(r.Context(), "GET /api/v1/profiles/{id}/versions/{version}/settings")
	path := fmt.Sprintf("%s/versions/%d", b.Profile.path(), page.Version)
	if page.Allowed {
		path += "/settings"
	}
	var of struct {
		Payloads []payload `json:"payloads"`
	}
	if err := s.desk.Get(r.Context(), path, nil, &of); err != nil {
		return err
	}
	page.Payloads = of.Payloads
	return s.desk.Write(w, r, s.pages, "contents.html", page)
}

type versionsPage struct {
	base
	Versions []version
	Numbers  []admin.Option
	Form     *admin.Form
	From, To int // that are compared; 0: none are
	Changes  []ofPayload
	MayDiff  bool
}

// ofPayload are the changes in one payload.
type ofPayload struct {
	Heading string
	Changes []change
}

type change struct {
	Kind        string `json:"kind"`
	PayloadType string `json:"payload_type"`
	Payload     string `json:"payload"`
	Key         string `json:"key"`
	Old         string `json:"old"`
	New         string `json:"new"`
	Secret      bool   `json:"secret"`
}

// What says what became of what.
func (c change) What() string {
	if c.Key == "" {
		return map[string]string{"added": "This payload is new.", "removed": "This payload is not there any more."}[c.Kind]
	}
	if c.Secret {
		return "Its secret value was " + c.Kind + "."
	}
	if c.Kind == "reordered" {
		return "The same values in another order."
	}
	return ""
}

func (s *Profiles) versions(w http.ResponseWriter, r *http.Request) error {
	b, err := s.base(r, "Versions")
	if err != nil {
		return err
	}
	page := &versionsPage{base: b, Form: admin.NewForm(), MayDiff: s.desk.May(r.Context(), "GET /api/v1/profiles/{id}/diff")}
	var all admin.List[version]
	if err := s.desk.Get(r.Context(), b.Profile.path()+"/versions", nil, &all); err != nil {
		return err
	}
	page.Versions = all.Items
	for _, v := range all.Items {
		page.Numbers = append(page.Numbers, admin.Option{Value: strconv.Itoa(v.Version), Label: fmt.Sprintf("Version %d", v.Version)})
	}
	query := r.URL.Query()
	to, from := query.Get("to"), query.Get("from")
	if to == "" {
		to = strconv.Itoa(b.Profile.Version)
	}
	if from == "" {
		from = strconv.Itoa(max(b.Profile.Version-1, 1))
	}
	page.Form.Values.Set("from", from)
	page.Form.Values.Set("to", to)
	if !query.Has("from") && !query.Has("to") || !page.MayDiff {
		return s.desk.Write(w, r, s.pages, "versions.html", page)
	}
	var diff struct {
		From    int      `json:"from"`
		To      int      `json:"to"`
		Changes []change `json:"changes"`
	}
	err = s.desk.Get(r.Context(), b.Profile.path()+"/diff", url.Values{"from": {from}, "to": {to}}, &diff)
	if err != nil {
		return err
	}
	page.From, page.To = diff.From, diff.To
	for _, c := range diff.Changes {
		heading := c.Payload
		if c.PayloadType == "Configuration" {
			heading = "The profile itself"
		}
		if n := len(page.Changes); n == 0 || page.Changes[n-1].Heading != heading {
			page.Changes = append(page.Changes, ofPayload{Heading: heading})
		}
		last := &page.Changes[len(page.Changes)-1]
		last.Changes = append(last.Changes, c)
	}
	return s.desk.Write(w, r, s.pages, "versions.html", page)
}

// restore makes an older version the latest one.
func (s *Profiles) restore(w http.ResponseWriter, r *http.Request) error {
	p := brief{ID: r.PathValue("id")}
	if err := s.desk.Send(r.Context(), http.MethodPost, p.path()+"/versions/"+url.PathEscape(r.PathValue("version"))+"/restore", nil, nil); err != nil {
		return err
	}
	return admin.Redirect(w, r, p.URL()+"/versions", "restored")
}

func (s *Profiles) download(w http.ResponseWriter, r *http.Request) error {
	query := url.Values{}
	if r.URL.Query().Get("signed") == "true" {
		query.Set("signed", "true")
	}
	return s.desk.Forward(w, r, brief{ID: r.PathValue("id")}.path()+"/versions/"+url.PathEscape(r.PathValue("version"))+"/download", query)
}

type devicesPage struct {
	base
	Items  []installation
	Pager  admin.Pager
	States []admin.Option
	Form   *admin.Form
	Empty  *admin.Empty
}

// installation is how the profile stands on a device.
type installation struct {
	DeviceID         string     `json:"device_id"`
	DeviceName       string     `json:"device_name"`
	SerialNumber     string     `json:"serial_number"`
	User             string     `json:"user"`
	State            string     `json:"state"`
	StateAt          time.Time  `json:"state_at"`
	Version          int        `json:"version"`
	InstalledVersion *int       `json:"installed_version"`
	Reduced          bool       `json:"reduced"`
	CommandUUID      string     `json:"command_uuid"`
	Reason           string     `json:"reason"`
	SeenAt           *time.Time `json:"seen_at"`
}

// Name is what to call the device.
func (i installation) Name() string {
	for _, name := range []string{i.DeviceName, i.SerialNumber} {
		if name != "" {
			return name
		}
	}
	return i.DeviceID
}

// URL is the device's page.
func (i installation) URL() string { return "/admin/devices/" + url.PathEscape(i.DeviceID) }

// Command is the page of the command that led to the state.
func (i installation) Command() string {
	if i.CommandUUID == "" {
		return ""
	}
	return "/admin/commands/" + url.PathEscape(i.CommandUUID)
}

// Standing is its state in words; what it says of it stands beside.
func (i installation) Standing() view.State {
	st := standing(i.State)
	st.Hint = ""
	return st
}

// Has says which version the device has.
func (i installation) Has() string {
	if i.InstalledVersion == nil {
		return "none"
	}
	return strconv.Itoa(*i.InstalledVersion)
}

func (s *Profiles) devices(w http.ResponseWriter, r *http.Request) error {
	b, err := s.base(r, "Devices")
	if err != nil {
		return err
	}
	query := url.Values{"limit": {"50"}}
	state := r.URL.Query().Get("state")
	if state != "" {
		query.Set("state", state)
	}
	if v := r.URL.Query().Get("cursor"); v != "" {
		query.Set("cursor", v)
	}
	var found admin.List[installation]
	if err := s.desk.Get(r.Context(), b.Profile.path()+"/devices", query, &found); err != nil {
		return err
	}
	page := &devicesPage{base: b, Items: found.Items, Pager: admin.NewPager(r, found.NextCursor), Form: admin.NewForm("state", state)}
	list, all := counts(b.Profile.Devices, b.Profile.URL())
	page.States = append(page.States, admin.Option{Value: "", Label: fmt.Sprintf("All (%s)", admin.Number(all))})
	for _, one := range list {
		value := one.URL[strings.LastIndex(one.URL, "=")+1:]
		page.States = append(page.States, admin.Option{Value: value, Label: fmt.Sprintf("%s (%s)", one.State.Text, admin.Number(one.Count))})
	}
	if state != "" && !slices.ContainsFunc(page.States, func(o admin.Option) bool { return o.Value == state }) {
		page.States = append(page.States, admin.Option{Value: state, Label: standing(state).Text + " (0)"})
	}
	if len(found.Items) == 0 && page.Pager.First == "" {
		page.Empty = &admin.Empty{Heading: "No device has it", Text: "It is in the library only, until it is sent to devices."}
		if b.Limited {
			page.Empty = &admin.Empty{Heading: "None of your devices has it", Text: "It was not sent to devices in your groups."}
		}
		if state != "" {
			page.Empty = &admin.Empty{Heading: "No device stands so", Text: "Look at all devices instead.", Actions: []view.Link{{Label: "Show all", URL: b.Profile.URL() + "/devices"}}}
		}
	}
	return s.desk.Write(w, r, s.pages, "devices.html", page)
}

// askDelete asks before a profile is deleted.
func (s *Profiles) askDelete(w http.ResponseWriter, r *http.Request) error {
	return s.confirmDelete(w, r, nil)
}

func (s *Profiles) confirmDelete(w http.ResponseWriter, r *http.Request, form *admin.Form) error {
	b, err := s.base(r, "")
	if err != nil {
		return err
	}
	p := b.Profile
	return s.desk.Confirm(w, r, &admin.Confirm{
		Page:    admin.Page{Section: section, Crumbs: []view.Link{{Label: "Profiles", URL: section}, {Label: p.Name, URL: p.URL()}}},
		Heading: "Delete " + p.Name,
		Text: []string{
			"The profile goes with all its versions, and can’t be brought back.",
			"Devices keep what they have: while some have it, or it is on its way to some, it can’t be deleted. Remove it from them first.",
		},
		Word: p.Name, What: "its name", Button: "Delete", Danger: true, Action: p.URL() + "/delete", Back: p.URL(), Form: form,
	})
}

func (s *Profiles) delete(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	var p brief
	if err := s.desk.Get(r.Context(), brief{ID: r.PathValue("id")}.path(), uncounted, &p); err != nil {
		return err
	}
	if !form.Typed(p.Name) {
		return s.confirmDelete(w, r, form)
	}
	if err := s.desk.Send(r.Context(), http.MethodDelete, p.path(), nil, nil); err != nil {
		if form.Refused(err) {
			return s.confirmDelete(w, r, form)
		}
		return err
	}
	return admin.Redirect(w, r, section, "deleted")
}
