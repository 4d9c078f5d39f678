// Package people is the section of the desk for who may do what: users, where they sign in,
// groups that their roles are limited to, API tokens, and one's own account.
package people

import (
	"embed"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
)

//go:embed templates/*.html
var templates embed.FS

const (
	section     = "/admin/users"
	sourcesPath = "/admin/users/sources"
	groupsPath  = "/admin/groups"
	tokensPath  = "/admin/tokens"
	accountPath = "/admin/account"
)

// perPage is the length of lists.
const perPage = "50"

// People is the section.
type People struct {
	desk  *admin.Desk
	pages *admin.Templates
}

// New returns the section at a desk.
func New(desk *admin.Desk) (*People, error) {
	pages, err := desk.Templates(templates)
	return &People{desk, pages}, err
}

// Mount implements [admin.Section].
func (s *People) Mount(r, _ webui.Router) {
	managing := func(h webui.HandlerFunc) webui.HandlerFunc { // pages of forms, too, before they are filled in
		return func(w http.ResponseWriter, r *http.Request) error {
			if !s.desk.May(r.Context(), routeUsers) {
				return errNotForAll
			}
			return h(w, r)
		}
	}
	r.Handle("GET "+section, managing(s.users))
	r.Handle("GET "+section+"/new", managing(s.newUser))
	r.Handle("POST "+section+"/new", s.createUser)
	r.Handle("GET "+section+"/{id}", managing(s.user))
	r.Handle("GET "+section+"/{id}/edit", managing(s.editUser))
	r.Handle("POST "+section+"/{id}/edit", s.changeUser)
	r.Handle("GET "+section+"/{id}/password", managing(s.askPassword))
	r.Handle("POST "+section+"/{id}/password", s.setPassword)
	for name, a := range userActions {
		r.Handle("GET "+section+"/{id}/"+name, managing(s.askUser(a)))
		r.Handle("POST "+section+"/{id}/"+name, s.actOnUser(a))
	}
	r.Handle("POST "+section+"/{id}/sessions/{session}/end", s.endSession)

	r.Handle("GET "+sourcesPath, managing(s.sources))
	r.Handle("GET /admin/identity-providers/new", managing(s.newSource))
	r.Handle("POST /admin/identity-providers/new", s.createSource)
	r.Handle("GET /admin/identity-providers/{id}", managing(s.source))
	r.Handle("POST /admin/identity-providers/{id}", s.changeSource)
	r.Handle("GET /admin/identity-providers/{id}/test", managing(s.askTest))
	r.Handle("POST /admin/identity-providers/{id}/test", s.test)
	r.Handle("POST /admin/identity-providers/{id}/switch", s.switchSource)
	r.Handle("GET /admin/identity-providers/{id}/delete", managing(s.askDeleteSource))
	r.Handle("POST /admin/identity-providers/{id}/delete", s.deleteSource)

	r.Handle("GET "+groupsPath, s.groups)

	r.Handle("GET "+tokensPath, managing(s.tokens))
	r.Handle("GET "+tokensPath+"/new", managing(s.newToken))
	r.Handle("POST "+tokensPath+"/new", s.createToken)
	r.Handle("GET "+tokensPath+"/{id}/revoke", managing(s.askRevoke))
	r.Handle("POST "+tokensPath+"/{id}/revoke", s.revoke)

	r.Handle("GET "+accountPath, s.account)
	r.Handle("POST "+accountPath+"/sessions/{session}/end", s.endOwn)
}

// tabs are the parts of the section that who looks may open. here is the one that is shown.
func (s *People) tabs(r *http.Request, here string) []admin.NavItem {
	return s.desk.Offered(r.Context(), here,
		admin.NavItem{Label: "Users", URL: section, Needs: routeUsers},
		admin.NavItem{Label: "Identity providers", URL: sourcesPath, Needs: routeSources},
		admin.NavItem{Label: "Groups", URL: groupsPath},
		admin.NavItem{Label: "API tokens", URL: tokensPath, Needs: routeTokens},
	)
}

// What the parts of the section are made of.
const (
	routeUsers   = "GET /api/v1/users"
	routeSources = "GET /api/v1/identity-providers"
	routeTokens  = "GET /api/v1/tokens"
)

// errNotForAll says what of the section there is for who may not manage users.
var errNotForAll = &webui.Problem{
	Status: http.StatusForbidden, Code: "forbidden", Title: "Users are for administrators",
	Detail: "Users, identity providers and API tokens are managed by administrators and owners whose role is not limited to groups. Under Groups you see which groups of devices there are; your own account is behind your name, at the top.",
}

// group is a group of devices as the API lists it.
type group struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Description string    `json:"description"`
	Kind        string    `json:"kind"`
	Rule        string    `json:"rule"`
	DeviceCount *int      `json:"device_count"`
	CreatedAt   time.Time `json:"created_at"`
	CreatedBy   string    `json:"created_by"`
}

// URL is the group's page.
func (g group) URL() string { return groupsPath + "/" + url.PathEscape(g.ID) }

// someGroups returns the groups that a form offers: the first few hundred.
func (s *People) someGroups(r *http.Request) ([]group, error) {
	var found admin.List[group]
	err := s.desk.Get(r.Context(), "/api/v1/groups", url.Values{"limit": {"200"}}, &found)
	return found.Items, err
}

// groupChoices are the groups that a role or a token may be limited to, with those that it
// is limited to already though they are gone.
func (s *People) groupChoices(r *http.Request, chosen []string) ([]admin.Option, error) {
	all, err := s.someGroups(r)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	var choices []admin.Option
	for _, g := range all {
		known[g.ID] = true
		o := admin.Option{Value: g.ID, Label: g.Name}
		if g.DeviceCount != nil {
			o.Hint = admin.Count(*g.DeviceCount, "device", "devices")
		}
		choices = append(choices, o)
	}
	for _, id := range chosen {
		if !known[id] {
			choices = append(choices, admin.Option{Value: id, Label: id, Hint: "This group is no more, or not among the first 200."})
		}
	}
	for i := range choices {
		for _, id := range chosen {
			choices[i].Selected = choices[i].Selected || choices[i].Value == id
		}
	}
	return choices, nil
}

// groupNames are the names of groups, by their IDs: of those that are gone, the ID.
func (s *People) groupNames(r *http.Request, ids []string) ([]group, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	all, err := s.someGroups(r)
	if err != nil {
		return nil, err
	}
	names := make([]group, len(ids))
	for i, id := range ids {
		names[i] = group{ID: id, Name: id}
		for _, g := range all {
			if g.ID == id {
				names[i] = g
			}
		}
	}
	return names, nil
}

type groupsPage struct {
	admin.Page
	Tabs  []admin.NavItem
	Items []group
	Pager admin.Pager
	Empty *admin.Empty
	New   bool
}

func (s *People) groups(w http.ResponseWriter, r *http.Request) error {
	query := url.Values{"limit": {perPage}}
	if v := r.URL.Query().Get("cursor"); v != "" {
		query.Set("cursor", v)
	}
	var found admin.List[group]
	if err := s.desk.Get(r.Context(), "/api/v1/groups", query, &found); err != nil {
		return err
	}
	page := &groupsPage{
		Page: admin.Page{Title: "Groups", Section: section, Watch: "group."}, Tabs: s.tabs(r, groupsPath),
		Items: found.Items, Pager: admin.NewPager(r, found.NextCursor), New: s.desk.May(r.Context(), "POST /api/v1/groups"),
	}
	if len(found.Items) == 0 {
		page.Empty = &admin.Empty{
			Heading: "No groups yet",
			Text:    "A group holds devices that you put into it, or all that a rule fits. Commands and profiles are sent to groups, and a role can be limited to them.",
		}
		if page.New {
			page.Empty.Actions = links("New group", groupsPath+"/new")
		}
	}
	return s.desk.Write(w, r, s.pages, "groups.html", page)
}
