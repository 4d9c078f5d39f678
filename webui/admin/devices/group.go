package devices

import (
	"bytes"
	"net/http"
	"net/url"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// group is a group of devices as the API tells of it.
type group struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
	Kind        string `json:"kind"`
	Rule        string `json:"rule"`
	DeviceCount *int   `json:"device_count"`
	CreatedBy   string `json:"created_by"`
}

// ByRule reports whether filters say which devices are in the group.
func (g group) ByRule() bool { return g.Kind == "rule" }

// HasDevices reports whether something can be sent to the group: it is not known to be empty.
func (p *groupPage) HasDevices() bool { return p.Group.DeviceCount == nil || *p.Group.DeviceCount > 0 }

func groupAPI(id string) string { return "/api/v1/groups/" + url.PathEscape(id) }

func groupURL(id string) string { return "/admin/groups/" + url.PathEscape(id) }

// groups returns the groups that who looks may see, in the order of their names.
func (s *Devices) groups(r *http.Request) ([]group, error) {
	var all admin.List[group]
	err := s.desk.Get(r.Context(), "/api/v1/groups", url.Values{"limit": {"100"}}, &all)
	return all.Items, err
}

// idsOf are the ids in a table that has no other column.
func idsOf(table []byte) (ids []string) {
	for i, line := range bytes.Split(bytes.TrimPrefix(table, []byte("\ufeff")), []byte("\n")) {
		if id := string(bytes.TrimSpace(line)); id != "" && i > 0 {
			ids = append(ids, strings.TrimPrefix(id, "'"))
		}
	}
	return ids
}

type groupPage struct {
	admin.Page
	Group  group
	Form   *admin.Form
	Chips  []chip // what its rule asks for
	New    bool
	Rule   string
	List   string // its devices
	Action string
}

// newGroup asks for the name under which filters are saved, or of a group that devices are
// put into.
func (s *Devices) newGroup(w http.ResponseWriter, r *http.Request) error {
	return s.writeNewGroup(w, r, http.StatusOK, admin.NewForm("rule", r.URL.Query().Get("rule")))
}

func (s *Devices) writeNewGroup(w http.ResponseWriter, r *http.Request, status int, form *admin.Form) error {
	rule, err := url.ParseQuery(form.Get("rule"))
	if err != nil {
		form.Error, rule = "These filters can’t be read.", url.Values{}
	}
	title := "New group"
	if len(rule) > 0 {
		title = "Save these filters as a group"
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "group.html", &groupPage{
		Page: admin.Page{Title: title, Section: section, Crumbs: []view.Link{{Label: "Devices", URL: section}}},
		Form: form, New: true, Rule: form.Get("rule"), Chips: chips(rule, nil), Action: "/admin/groups",
	})
}

func (s *Devices) saveGroup(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	var made group
	err = s.desk.Send(r.Context(), http.MethodPost, "/api/v1/groups", map[string]any{
		"name": form.Get("name"), "description": form.Get("description"), "rule": form.Get("rule"),
	}, &made)
	if err != nil {
		if form.Refused(err) {
			return s.writeNewGroup(w, r, http.StatusUnprocessableEntity, form)
		}
		return err
	}
	return admin.Redirect(w, r, address(url.Values{"group_id": {made.ID}}), "created")
}

// group shows one, to change or to delete it.
func (s *Devices) group(w http.ResponseWriter, r *http.Request) error {
	return s.writeGroup(w, r, http.StatusOK, nil)
}

func (s *Devices) writeGroup(w http.ResponseWriter, r *http.Request, status int, form *admin.Form) error {
	var g group
	if err := s.desk.Get(r.Context(), groupAPI(r.PathValue("group")), nil, &g); err != nil {
		return err
	}
	if form == nil {
		form = admin.NewForm("name", g.Name, "description", g.Description, "rule", g.Rule)
	}
	rule, err := url.ParseQuery(g.Rule)
	if err != nil {
		rule = url.Values{}
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "group.html", &groupPage{
		Page:  admin.Page{Title: g.Name, Section: section, Crumbs: []view.Link{{Label: "Devices", URL: section}}, Watch: "group."},
		Group: g, Form: form, Rule: g.Rule, Chips: chips(rule, nil), List: address(url.Values{"group_id": {g.ID}}), Action: groupURL(g.ID),
	})
}

func (s *Devices) changeGroup(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	change := map[string]any{"name": form.Get("name"), "description": form.Get("description")}
	if _, ok := form.Values["rule"]; ok {
		change["rule"] = form.Get("rule")
	}
	id := r.PathValue("group")
	if err := s.desk.Send(r.Context(), http.MethodPatch, groupAPI(id), change, nil); err != nil {
		if form.Refused(err) {
			return s.writeGroup(w, r, http.StatusUnprocessableEntity, form)
		}
		return err
	}
	return admin.Redirect(w, r, groupURL(id), "saved")
}

func (s *Devices) deleteGroup(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	if err := s.desk.Send(r.Context(), http.MethodDelete, groupAPI(r.PathValue("group")), nil, nil); err != nil {
		if form.Refused(err) {
			form.Values = nil
			return s.writeGroupAgain(w, r, form.Error)
		}
		return err
	}
	return admin.Redirect(w, r, section, "deleted")
}

// writeGroupAgain shows a group with what was refused.
func (s *Devices) writeGroupAgain(w http.ResponseWriter, r *http.Request, why string) error {
	var g group
	if err := s.desk.Get(r.Context(), groupAPI(r.PathValue("group")), nil, &g); err != nil {
		return err
	}
	form := admin.NewForm("name", g.Name, "description", g.Description, "rule", g.Rule)
	form.Error = why
	return s.writeGroup(w, r, http.StatusUnprocessableEntity, form)
}

type choosePage struct {
	admin.Page
	Groups  []group
	Devices []string
	All     bool
	Filter  string
	Form    *admin.Form
	Count   int
}

// chooseGroup asks which group devices shall be put into.
func (s *Devices) chooseGroup(w http.ResponseWriter, r *http.Request, ids []string, all bool, filter url.Values) error {
	groups, err := s.groups(r)
	if err != nil {
		return err
	}
	page := &choosePage{
		Page:    admin.Page{Title: "Add to a group", Section: section, Crumbs: []view.Link{{Label: "Devices", URL: section}}},
		Devices: ids, All: all, Filter: filter.Encode(), Count: len(ids), Form: admin.NewForm(),
	}
	if all {
		matching, err := s.matching(r, filter)
		if err != nil {
			return err
		}
		page.Devices, page.Count = nil, len(matching)
	}
	for _, g := range groups {
		if !g.ByRule() {
			page.Groups = append(page.Groups, g)
		}
	}
	return s.desk.Write(w, r, s.pages, "choose.html", page)
}

// addToGroup puts devices into a group: those that a form names, or all that match its
// filter. The group "new" is made first.
func (s *Devices) addToGroup(w http.ResponseWriter, r *http.Request) error {
	return s.members(w, r, http.MethodPut)
}

func (s *Devices) removeFromGroup(w http.ResponseWriter, r *http.Request) error {
	return s.members(w, r, http.MethodDelete)
}

func (s *Devices) members(w http.ResponseWriter, r *http.Request, method string) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	ids, id := form.Values["device_id"], r.PathValue("group")
	if id == "chosen" {
		id = form.Get("group")
	}
	if form.Has("all", "true") {
		filter, err := url.ParseQuery(form.Get("filter"))
		if err != nil {
			filter = url.Values{}
		}
		if ids, err = s.matching(r, filter); err != nil {
			return err
		}
	}
	if id == "" || id == "new" {
		var made group
		if err := s.desk.Send(r.Context(), http.MethodPost, "/api/v1/groups", map[string]any{"name": form.Get("name"), "description": ""}, &made); err != nil {
			if form.Refused(err) {
				return s.chooseAgain(w, r, form)
			}
			return err
		}
		id = made.ID
	}
	if err := s.desk.Send(r.Context(), method, groupAPI(id)+"/devices", map[string]any{"device_ids": ids}, nil); err != nil {
		return err
	}
	if back := form.Get("back"); strings.HasPrefix(back, section+"/") && !strings.Contains(back, "//") {
		return admin.Redirect(w, r, back, "saved")
	}
	return admin.Redirect(w, r, address(url.Values{"group_id": {id}}), "saved")
}

func (s *Devices) chooseAgain(w http.ResponseWriter, r *http.Request, form *admin.Form) error {
	groups, err := s.groups(r)
	if err != nil {
		return err
	}
	page := &choosePage{
		Page:    admin.Page{Title: "Add to a group", Section: section, Crumbs: []view.Link{{Label: "Devices", URL: section}}},
		Devices: form.Values["device_id"], All: form.Has("all", "true"), Filter: form.Get("filter"), Form: form, Count: len(form.Values["device_id"]),
	}
	for _, g := range groups {
		if !g.ByRule() {
			page.Groups = append(page.Groups, g)
		}
	}
	return s.desk.WriteStatus(w, r, http.StatusUnprocessableEntity, s.pages, "choose.html", page)
}
