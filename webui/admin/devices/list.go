package devices

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

const (
	perPage  = 50
	maxQuick = 20 // groups among the quick filters
)

// found is a page of the API's list.
type found struct {
	admin.List[device]
	Total int `json:"total"`
}

type listPage struct {
	admin.Page
	Items   []device
	Total   int
	Columns []column
	Chips   []chip
	Clear   string // the list without filters
	Quick   []tab
	Filter  *admin.Form
	Choices []choice
	Texts   []textField
	Sorts   []admin.Option
	Open    bool // the form of filters is
	Pager   admin.Pager
	Empty   *admin.Empty
	Portal  string // address of the enrollment portal, where the list is empty and it is open
	CSV     string
	Save    string   // makes a group of the filters; empty: there are none
	Query   string   // what the API was asked for, for commands to all that match
	Problem string   // what is wrong with a selection, or with the query
	Chosen  []string // ids that were selected, when the page is shown again
}

type textField struct{ Name, Label, Example string }

// Picked reports whether a device was selected before.
func (p *listPage) Picked(id string) bool { return slices.Contains(p.Chosen, id) }

// Any reports whether there may be devices: a new server has nothing to filter.
func (p *listPage) Any() bool {
	return len(p.Items) > 0 || len(p.Chips) > 0 || p.Problem != "" || p.Pager.First != ""
}

// Acts reports whether who looks can do anything with a selection.
func (p *listPage) Acts() bool {
	return p.May("POST /api/v1/commands") || p.May("POST /api/v1/devices/{id}/refresh")
}

func (s *Devices) list(w http.ResponseWriter, r *http.Request) error {
	query, changed := clean(r.URL.Query())
	if changed {
		return admin.Redirect(w, r, address(query), "")
	}
	return s.writeList(w, r, query, http.StatusOK, "", nil)
}

// writeList shows the list for a query, perhaps again with what is wrong.
func (s *Devices) writeList(w http.ResponseWriter, r *http.Request, query url.Values, status int, problem string, chosen []string) error {
	page := &listPage{
		Page:    admin.Page{Title: "Devices", Section: section, Watch: "device. command.", Search: query.Get("q")},
		Columns: columns(query), Clear: section, Choices: choices, Sorts: sorts,
		Filter: &admin.Form{Values: url.Values{"sort": {"name"}}, Errors: map[string]string{}}, Problem: problem, Chosen: chosen,
	}
	for name, values := range query {
		page.Filter.Values[name] = values
	}
	if query.Get("last_seen") == "never" {
		page.Filter.Values.Set("last_seen_before", "never")
	}
	for _, t := range texts {
		page.Texts = append(page.Texts, textField{t.name, t.label, t.example})
	}
	groups, err := s.groups(r)
	if err != nil {
		return err
	}
	names := make(map[string]string, len(groups))
	for _, g := range groups {
		names[g.ID] = g.Name
	}
	page.Chips, page.Quick = chips(query, names), quick(query, groups[:min(len(groups), maxQuick)])

	asked := ask(query)
	var all found
	cursor := url.Values{"limit": {strconv.Itoa(perPage)}}
	for name, values := range asked {
		cursor[name] = values
	}
	err = s.desk.Get(r.Context(), api, cursor, &all)
	if err != nil {
		if !page.Filter.Refused(err) {
			return err
		}
		// A slip in a filter is shown at it, with all that was asked for.
		status, page.Open = http.StatusBadRequest, true
		page.Problem = page.Filter.Error
		for name, why := range page.Filter.Errors {
			page.Problem = label(name) + " " + why + "."
		}
		return s.desk.WriteStatus(w, r, status, s.pages, "list.html", page)
	}
	page.Items, page.Total = all.Items, all.Total
	page.Pager = admin.NewPager(r, all.NextCursor)
	if r.Method != http.MethodGet {
		page.Pager = admin.Pager{}
	}
	asked.Del("cursor")
	page.Query = asked.Encode()
	page.CSV = "/admin/devices.csv?" + page.Query
	if filters := only(query); len(filters) > 0 && s.desk.May(r.Context(), "POST /api/v1/groups") && !filters.Has("group_id") {
		page.Save = "/admin/groups/new?" + url.Values{"rule": {filters.Encode()}}.Encode()
	}
	if len(all.Items) == 0 {
		if page.Empty, page.Portal, err = s.empty(r, page); err != nil {
			return err
		}
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "list.html", page)
}

// empty is what a list without devices says.
func (s *Devices) empty(r *http.Request, page *listPage) (none *admin.Empty, portal string, err error) {
	ctx := r.Context()
	if len(page.Chips) > 0 {
		return &admin.Empty{
			Heading: "No device matches", Text: "Take away a filter, or look for something else.",
			Actions: []view.Link{{Label: "Clear all filters", URL: section}},
		}, "", nil
	}
	if admin.Principal(ctx).Limited() {
		return &admin.Empty{
			Heading: "No devices yet", Text: "Your role is limited to groups of devices, and none is in them yet. Ask an administrator whose role is not limited to enroll one, or to add some to your groups.",
		}, "", nil
	}
	var now struct{ Portal bool }
	if err := s.desk.Get(ctx, "/api/v1/settings", nil, &now); err != nil {
		return nil, "", err
	}
	if now.Portal {
		portal = s.desk.ServerURL.JoinPath("enroll").String()
	}
	if !s.desk.May(ctx, "POST /api/v1/enrollment-links") {
		return &admin.Empty{Heading: "No devices yet", Text: "Somebody with the role helpdesk can let one in by a link of its own."}, portal, nil
	}
	none = &admin.Empty{
		Heading: "No devices yet", Text: "Enroll a person, and show them the QR code: their device is here a few minutes later.",
		Actions: []view.Link{{Label: "Enroll a person", URL: "/admin/enrollment/people/new"}, {Label: "New enrollment link", URL: "/admin/enrollment/links/new"}},
	}
	if s.desk.Demo() {
		none.Text += " The simulated devices are on their way: they will be here in a few seconds."
	}
	none.Demo, err = s.desk.OffersDemo(ctx)
	return none, portal, err
}

// export sends the list as a table.
func (s *Devices) export(w http.ResponseWriter, r *http.Request) error {
	query := ask(r.URL.Query())
	query.Del("cursor")
	query.Set("bom", "true") // Excel takes the file for something else without
	return s.desk.Forward(w, r, "/api/v1/devices.csv", query)
}

// mostSelected is for how many devices an address names each; more are asked for by the
// filter or the group that they are in.
const mostSelected = 200

// selected does something with the devices that were selected in the list.
func (s *Devices) selected(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	filter, err := url.ParseQuery(form.Get("filter"))
	if err != nil {
		filter = url.Values{}
	}
	ids := form.Values["device_id"]
	all := form.Has("all", "true")
	back := filterBack(filter)
	if len(ids) == 0 && !all {
		return s.writeList(w, r, back, http.StatusUnprocessableEntity, "Select one or more devices first.", nil)
	}
	if len(ids) > mostSelected {
		return s.writeList(w, r, back, http.StatusUnprocessableEntity, "Select at most "+strconv.Itoa(mostSelected)+" devices, or all that match.", ids)
	}
	switch form.Get("do") {
	case "command":
		to := url.Values{"device_id": ids}
		if all {
			to = url.Values{"filter": {filter.Encode()}}
		}
		return admin.Redirect(w, r, "/admin/commands/new?"+to.Encode(), "")
	case "group":
		return s.chooseGroup(w, r, ids, all, filter)
	case "refresh", "push":
		if all {
			if ids, err = s.matching(r, filter); err != nil {
				return err
			}
		}
		why, err := s.each(r, form.Get("do"), ids)
		if err != nil {
			return err
		}
		if why != "" {
			return s.writeList(w, r, back, http.StatusUnprocessableEntity, why, form.Values["device_id"])
		}
		what := map[string]string{"refresh": "refreshing", "push": "pushed"}[form.Get("do")]
		return admin.Redirect(w, r, address(back), what)
	}
	return s.writeList(w, r, back, http.StatusUnprocessableEntity, "Choose what to do with the selected devices.", ids)
}

// filterBack is the list's own query for one that the API was asked.
func filterBack(filter url.Values) url.Values {
	q, _ := clean(filter)
	if q.Get("enrollment_type") == noChannels {
		q.Del("enrollment_type")
	}
	return q
}

// each refreshes or pushes to devices, and returns a sentence where that was refused for all
// of them.
func (s *Devices) each(r *http.Request, do string, ids []string) (why string, err error) {
	const bulk = "POST /api/v1/inventory/refresh"
	if do == "refresh" && s.desk.May(r.Context(), bulk) {
		err := s.desk.Send(r.Context(), http.MethodPost, "/api/v1/inventory/refresh", map[string]any{"device_ids": ids}, nil)
		return refusal(err)
	}
	if len(ids) > mostSelected {
		return "That can be done for at most " + strconv.Itoa(mostSelected) + " devices at once.", nil
	}
	done := 0
	for _, id := range ids {
		body := any(map[string]any{})
		if do == "push" {
			body = nil
		}
		err := s.desk.Send(r.Context(), http.MethodPost, deviceAPI(id)+"/"+do, body, nil)
		if err == nil {
			done++
			continue
		}
		if why, err = refusal(err); err != nil {
			return "", err
		}
	}
	if done > 0 {
		why = ""
	}
	return why, nil
}

// refusal is what the API says against something, in a sentence; other errors stay errors.
func refusal(err error) (why string, other error) {
	var p *admin.Problem
	if !errors.As(err, &p) || p.Status == http.StatusForbidden || p.Status >= http.StatusInternalServerError {
		return "", err
	}
	if p.Detail != "" {
		return p.Detail, nil
	}
	return p.Title + ".", nil
}

// matching returns the ids of all devices that a filter asks for.
func (s *Devices) matching(r *http.Request, filter url.Values) ([]string, error) {
	query := url.Values{"columns": {"id"}}
	for name, values := range filter {
		query[name] = values
	}
	var table []byte
	if err := s.desk.Get(r.Context(), "/api/v1/devices.csv", query, &table); err != nil {
		return nil, err
	}
	return idsOf(table), nil
}

// deviceAPI is where the API has a device.
func deviceAPI(id string) string { return api + "/" + url.PathEscape(id) }
