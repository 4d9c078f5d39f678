package people

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// user is a user as the API has it.
type user struct {
	ID                  string    `json:"id"`
	Username            string    `json:"username"`
	Email               string    `json:"email"`
	FullName            string    `json:"full_name"`
	ManagedAppleAccount string    `json:"managed_apple_account"`
	CanEnroll           bool      `json:"can_enroll"`
	Role                string    `json:"role"`
	HasPassword         bool      `json:"has_password"`
	Provider            string    `json:"provider"`
	Groups              []string  `json:"groups"`
	HasSecondFactor     bool      `json:"has_second_factor"`
	Disabled            bool      `json:"disabled"`
	CreatedAt           time.Time `json:"created_at"`
	GroupIDs            []string  `json:"group_ids"`

	LastSignInAt *time.Time `json:"last_sign_in_at"` // nil: never
}

// Login is what the user signs in with.
func (u user) Login() string {
	if u.Email != "" {
		return u.Email
	}
	return u.Username
}

// Name is what to call the user.
func (u user) Name() string {
	if u.FullName != "" {
		return u.FullName
	}
	return u.Login()
}

// URL is the user's page.
func (u user) URL() string { return userURL(u.ID) }

func userURL(id string) string { return section + "/" + url.PathEscape(id) }

func apiUser(r *http.Request) string { return "/api/v1/users/" + url.PathEscape(r.PathValue("id")) }

// State is whether the user may sign in.
func (u user) State() view.State {
	if u.Disabled {
		return view.State{Text: "Disabled", Tone: "bad"}
	}
	return view.State{Text: "Active", Tone: "good"}
}

// Role names and what they are for, the least first.
var roles = []admin.Option{
	{Value: "user", Label: "User", Hint: "Enrolls devices, and sees their own. No administrator."},
	{Value: "read_only", Label: "Read only", Hint: "Sees everything, changes nothing."},
	{Value: "helpdesk", Label: "Helpdesk", Hint: "Sends commands that lose no data, makes enrollment links, invites people."},
	{Value: "admin", Label: "Administrator", Hint: "Everything but authorities, owners and administrators."},
	{Value: "owner", Label: "Owner", Hint: "Everything."},
}

func roleName(role string) string {
	for _, o := range roles {
		if o.Value == role {
			return o.Label
		}
	}
	return role
}

// RoleName is the role in words.
func (u user) RoleName() string { return roleName(u.Role) }

func links(label, url string) []view.Link { return []view.Link{{Label: label, URL: url}} }

type usersPage struct {
	admin.Page
	Tabs   []admin.NavItem
	Form   *admin.Form
	Roles  []admin.Option
	States []admin.Option
	Items  []user
	Source map[string]string // names, by ID
	Pager  admin.Pager
	Empty  *admin.Empty
}

func (s *People) users(w http.ResponseWriter, r *http.Request) error {
	query, asked := url.Values{"limit": {perPage}}, r.URL.Query()
	form, filtered := admin.NewForm(), false
	for _, name := range []string{"q", "role", "status", "cursor"} {
		v := strings.TrimSpace(asked.Get(name))
		if v == "" {
			continue
		}
		query.Set(name, v)
		form.Values.Set(name, v)
		filtered = true
	}
	var found admin.List[user]
	if err := s.desk.Get(r.Context(), "/api/v1/users", query, &found); err != nil {
		return err
	}
	page := &usersPage{
		Page: admin.Page{Title: "Users", Section: section, Watch: "user."}, Tabs: s.tabs(r, section), Form: form,
		Roles:  append(admin.Options("", "Any role"), plain(roles)...),
		States: admin.Options("", "Any", "active", "Active", "disabled", "Disabled"),
		Items:  found.Items, Pager: admin.NewPager(r, found.NextCursor), Source: map[string]string{},
	}
	var providers admin.List[source]
	if err := s.desk.Get(r.Context(), "/api/v1/identity-providers", nil, &providers); err != nil {
		return err
	}
	for _, p := range providers.Items {
		page.Source[p.ID] = p.Name
	}
	switch {
	case len(found.Items) > 0:
	case found.NextCursor != "":
		page.Empty = &admin.Empty{Heading: "None among those looked at", Text: "There are many users. Go on to the next page, or search for more of the name."}
	case filtered:
		page.Empty = &admin.Empty{Heading: "No user fits", Text: "Search for a part of the name or the address, or take a filter away.", Actions: links("Show all users", section)}
	default:
		page.Empty = &admin.Empty{
			Heading: "No users yet", Text: "Make a user here, or connect a directory whose people can sign in without.",
			Actions: []view.Link{{Label: "New user", URL: section + "/new"}, {Label: "Add an identity provider", URL: "/admin/identity-providers/new"}},
		}
	}
	return s.desk.Write(w, r, s.pages, "users.html", page)
}

// plain is options without their hints, for a select.
func plain(options []admin.Option) []admin.Option {
	all := make([]admin.Option, len(options))
	for i, o := range options {
		all[i] = admin.Option{Value: o.Value, Label: o.Label}
	}
	return all
}

type userForm struct {
	admin.Page
	Of      *user // nil: a new one
	Form    *admin.Form
	Roles   []admin.Option
	Choices []admin.Option // groups
	Local   bool           // what they are called is said here, not by a provider
	Action  string
	Back    string
}

func (s *People) showUserForm(w http.ResponseWriter, r *http.Request, page *userForm) error {
	var err error
	if page.Choices, err = s.groupChoices(r, page.Form.Values["group_ids"]); err != nil {
		return err
	}
	page.Section, page.Roles = section, append([]admin.Option(nil), roles...)
	if !s.desk.May(r.Context(), "POST /api/v1/users/{id}/reset-second-factor") { // no owner
		for i, o := range page.Roles {
			if o.Value == "admin" || o.Value == "owner" {
				page.Roles[i].Disabled = true
				page.Roles[i].Hint += " Only owners give this role."
			}
		}
	}
	status := http.StatusOK
	if !page.Form.OK() {
		status = http.StatusUnprocessableEntity
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "userform.html", page)
}

func (s *People) newUser(w http.ResponseWriter, r *http.Request) error {
	return s.showUserForm(w, r, newUserForm(admin.NewForm("role", "user", "can_enroll", "true")))
}

func newUserForm(form *admin.Form) *userForm {
	return &userForm{Page: admin.Page{Title: "New user", Crumbs: links("Users", section)}, Form: form, Local: true, Action: section + "/new", Back: section}
}

// userFields are what a form says of a user, as the API wants it.
func userFields(form *admin.Form) map[string]any {
	return map[string]any{
		"email": form.Get("email"), "username": form.Get("username"), "full_name": form.Get("full_name"), "managed_apple_account": form.Get("managed_apple_account"),
		"can_enroll": form.Has("can_enroll", "true"), "role": form.Get("role"), "group_ids": append([]string{}, form.Values["group_ids"]...),
	}
}

func (s *People) createUser(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	in := userFields(form)
	if password := form.Values.Get("password"); password != "" {
		in["password"] = password
	}
	var made user
	err = s.desk.Send(r.Context(), http.MethodPost, "/api/v1/users", in, &made)
	if err != nil && form.Refused(err) {
		return s.showUserForm(w, r, newUserForm(form))
	}
	if err != nil {
		return err
	}
	return admin.Redirect(w, r, made.URL(), "created")
}

func (s *People) userOf(r *http.Request) (u user, err error) {
	return u, s.desk.Get(r.Context(), apiUser(r), nil, &u)
}

func editForm(u user, form *admin.Form) *userForm {
	return &userForm{
		Page: admin.Page{Title: "Edit " + u.Name(), Crumbs: []view.Link{{Label: "Users", URL: section}, {Label: u.Name(), URL: u.URL()}}},
		Of:   &u, Form: form, Local: u.Provider == "local", Action: u.URL() + "/edit", Back: u.URL(),
	}
}

func (s *People) editUser(w http.ResponseWriter, r *http.Request) error {
	u, err := s.userOf(r)
	if err != nil {
		return err
	}
	form := admin.NewForm("email", u.Email, "username", u.Username, "full_name", u.FullName, "managed_apple_account", u.ManagedAppleAccount, "role", u.Role)
	if u.CanEnroll {
		form.Values.Set("can_enroll", "true")
	}
	form.Values["group_ids"] = u.GroupIDs
	return s.showUserForm(w, r, editForm(u, form))
}

func (s *People) changeUser(w http.ResponseWriter, r *http.Request) error {
	u, err := s.userOf(r)
	if err != nil {
		return err
	}
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	in := userFields(form)
	if in["username"] == "" {
		in["username"] = in["email"] // as for a new user
	}
	if u.Provider != "local" { // what the provider says is not for us to send
		delete(in, "email")
		delete(in, "username")
		delete(in, "full_name")
	}
	err = s.desk.Send(r.Context(), http.MethodPatch, apiUser(r), in, nil)
	if err != nil && form.Refused(err) {
		return s.showUserForm(w, r, editForm(u, form))
	}
	if err != nil {
		return err
	}
	return admin.Redirect(w, r, u.URL(), "saved")
}

// session is a session as the API lists it.
type session struct {
	ID           string     `json:"id"`
	BegunAt      *time.Time `json:"begun_at"`
	LastSeenAt   time.Time  `json:"last_seen_at"`
	Address      string     `json:"address"`
	Browser      string     `json:"browser"`
	SecondFactor bool       `json:"second_factor"`
	Current      bool       `json:"current"`
}

// Where is the browser in words.
func (s session) Where() string {
	if s.Browser == "" {
		return "Unknown browser"
	}
	return s.Browser
}

// device is a device as a user's page lists it.
type device struct {
	ID         string     `json:"id"`
	Name       string     `json:"device_name"`
	Serial     string     `json:"serial_number"`
	Model      string     `json:"model"`
	State      string     `json:"state"`
	LastSeenAt *time.Time `json:"last_seen_at"`
}

// Label is what to call the device.
func (d device) Label() string {
	for _, name := range []string{d.Name, d.Serial} {
		if name != "" {
			return name
		}
	}
	return d.ID
}

// URL is the device's page.
func (d device) URL() string { return "/admin/devices/" + url.PathEscape(d.ID) }

type userPage struct {
	admin.Page
	Of       user
	Facts    []admin.Fact
	Access   []admin.Fact
	Limits   []group
	Sessions []session
	End      string // where sessions are ended: a path
	Devices  []device
	All      string // all devices of the user; empty: these are all
	Actions  []view.Link
	Password bool
}

// mostDevices is how many devices of a user their page lists.
const mostDevices = "10"

func (s *People) user(w http.ResponseWriter, r *http.Request) error {
	u, err := s.userOf(r)
	if err != nil {
		return err
	}
	page := &userPage{
		Page: admin.Page{Title: u.Name(), Section: section, Crumbs: links("Users", section), Watch: "user. session. device."},
		Of:   u, End: u.URL(), Password: u.Provider == "local",
	}
	var sessions admin.List[session]
	if err := s.desk.Get(r.Context(), apiUser(r)+"/sessions", nil, &sessions); err != nil {
		return err
	}
	page.Sessions = sessions.Items
	var devices admin.List[device]
	if err := s.desk.Get(r.Context(), "/api/v1/devices", url.Values{"user": {u.Login()}, "limit": {mostDevices}}, &devices); err != nil {
		return err
	}
	if page.Devices = devices.Items; devices.NextCursor != "" {
		page.All = "/admin/devices?" + url.Values{"user": {u.Login()}}.Encode()
	}
	if page.Limits, err = s.groupNames(r, u.GroupIDs); err != nil {
		return err
	}
	provider := source{Name: u.Provider}
	if err := s.desk.Get(r.Context(), "/api/v1/identity-providers/"+url.PathEscape(u.Provider), nil, &provider); err != nil && !notFound(err) {
		return err
	}
	made, signedIn := s.desk.Moment(&u.CreatedAt), admin.Fact{Label: "Last sign-in", Value: "Never"}
	if u.LastSignInAt != nil {
		at := s.desk.Moment(u.LastSignInAt)
		signedIn = admin.Fact{Label: signedIn.Label, Moment: &at}
	}
	for _, f := range []admin.Fact{
		{Label: "Name", Value: u.FullName}, {Label: "E-mail address", Value: u.Email}, {Label: "Username", Value: u.Username},
		{Label: "Managed Apple Account", Value: u.ManagedAppleAccount},
		{Label: "Signs in at", Value: provider.Name, URL: sourceURL(u.Provider)},
		{Label: "Groups at the provider", Value: strings.Join(u.Groups, ", ")},
		{Label: "Made", Moment: &made},
		signedIn,
	} {
		if f.Value != "" || f.Moment != nil {
			page.Facts = append(page.Facts, f)
		}
	}
	enroll, factor := "No", "Not set up"
	if u.CanEnroll {
		enroll = "Yes"
	}
	if u.HasSecondFactor {
		factor = "Set up"
	}
	page.Access = []admin.Fact{{Label: "Role", Value: u.RoleName()}, {Label: "May enroll devices", Value: enroll}, {Label: "Second factor", Value: factor}}
	page.Actions = s.actionsFor(r, u, len(page.Sessions))
	return s.desk.Write(w, r, s.pages, "user.html", page)
}

func notFound(err error) bool {
	p := problemOf(err)
	return p != nil && p.Status == http.StatusNotFound
}

// actionsFor are what can be done to a user, by who looks.
func (s *People) actionsFor(r *http.Request, u user, sessions int) (all []view.Link) {
	if !s.desk.May(r.Context(), "PATCH /api/v1/users/{id}") {
		return nil
	}
	owner := s.desk.May(r.Context(), "POST /api/v1/users/{id}/reset-second-factor")
	if (u.Role == "admin" || u.Role == "owner") && !owner {
		return nil // owners do
	}
	all = append(all, view.Link{Label: "Edit", URL: u.URL() + "/edit"})
	if u.CanEnroll && !u.Disabled && s.desk.May(r.Context(), "POST /api/v1/enrollment-invitations") {
		all = append(all, view.Link{Label: "Enroll a device", URL: "/admin/enrollment/people/new?" + url.Values{"email": {u.Login()}}.Encode()})
	}
	if u.Provider == "local" {
		all = append(all, view.Link{Label: "Set a password", URL: u.URL() + "/password"})
	}
	if u.HasSecondFactor && owner {
		all = append(all, view.Link{Label: "Reset the second factor", URL: u.URL() + "/reset-second-factor"})
	}
	if sessions > 0 {
		all = append(all, view.Link{Label: "Sign out everywhere", URL: u.URL() + "/sign-out"})
	}
	if u.Disabled {
		return append(all, view.Link{Label: "Enable", URL: u.URL() + "/enable"})
	}
	return append(all, view.Link{Label: "Disable", URL: u.URL() + "/disable"})
}

// userAction is something done to a user after a question.
type userAction struct {
	heading, button, done string
	text                  []string
	danger                bool
	do                    func(s *People, r *http.Request) error
}

func patchUser(in map[string]any) func(*People, *http.Request) error {
	return func(s *People, r *http.Request) error {
		return s.desk.Send(r.Context(), http.MethodPatch, apiUser(r), in, nil)
	}
}

func postUser(what string) func(*People, *http.Request) error {
	return func(s *People, r *http.Request) error {
		return s.desk.Send(r.Context(), http.MethodPost, apiUser(r)+"/"+what, nil, nil)
	}
}

var userActions = map[string]userAction{
	"disable": {
		heading: "Disable %s?", button: "Disable", done: "disabled", danger: true, do: patchUser(map[string]any{"disabled": true}),
		text: []string{
			"They can’t sign in any more, and are signed out everywhere. API tokens that act for them stop working.",
			"The certificates of their devices that are in their name are revoked. You can enable them again; certificates are then issued anew.",
		},
	},
	"enable": {
		heading: "Enable %s?", button: "Enable", done: "enabled", do: patchUser(map[string]any{"disabled": false}),
		text: []string{"They can sign in again. What ended when they were disabled stays ended."},
	},
	"sign-out": {
		heading: "Sign %s out everywhere?", button: "Sign out everywhere", done: "ended", do: postUser("end-sessions"),
		text: []string{"All their browsers have to sign in again. API tokens and devices go on."},
	},
	"reset-second-factor": {
		heading: "Reset the second factor of %s?", button: "Reset", done: "reset", danger: true, do: postUser("reset-second-factor"),
		text: []string{
			"Do this for somebody who has lost their phone and their recovery codes, and make sure that it is them who asks.",
			"They are signed out everywhere, and sign in with their password alone until they set up another one.",
		},
	},
}

func (s *People) askUser(a userAction) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		u, err := s.userOf(r)
		if err != nil {
			return err
		}
		return s.desk.Confirm(w, r, a.confirm(u, r.URL.Path, nil))
	}
}

func (a userAction) confirm(u user, action string, form *admin.Form) *admin.Confirm {
	return &admin.Confirm{
		Page:    admin.Page{Section: section, Crumbs: []view.Link{{Label: "Users", URL: section}, {Label: u.Name(), URL: u.URL()}}},
		Heading: strings.Replace(a.heading, "%s", u.Name(), 1), Text: a.text, Button: a.button, Danger: a.danger, Action: action, Back: u.URL(), Form: form,
	}
}

func (s *People) actOnUser(a userAction) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		form, err := admin.FormOf(r)
		if err != nil {
			return err
		}
		if err := a.do(s, r); err != nil {
			if !form.Refused(err) {
				return err
			}
			u, err := s.userOf(r)
			if err != nil {
				return err
			}
			return s.desk.Confirm(w, r, a.confirm(u, r.URL.Path, form))
		}
		return admin.Redirect(w, r, userURL(r.PathValue("id")), a.done)
	}
}

type passwordPage struct {
	admin.Page
	Of   user
	Form *admin.Form
}

func (s *People) showPassword(w http.ResponseWriter, r *http.Request, form *admin.Form) error {
	u, err := s.userOf(r)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if !form.OK() {
		status = http.StatusUnprocessableEntity
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "password.html", &passwordPage{
		Page: admin.Page{Title: "Set a password", Section: section, Crumbs: []view.Link{{Label: "Users", URL: section}, {Label: u.Name(), URL: u.URL()}}},
		Of:   u, Form: form,
	})
}

func (s *People) askPassword(w http.ResponseWriter, r *http.Request) error {
	return s.showPassword(w, r, admin.NewForm())
}

func (s *People) setPassword(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	err = s.desk.Send(r.Context(), http.MethodPatch, apiUser(r), map[string]any{"password": form.Values.Get("password")}, nil)
	if err != nil && form.Refused(err) {
		return s.showPassword(w, r, form)
	}
	if err != nil {
		return err
	}
	return admin.Redirect(w, r, userURL(r.PathValue("id")), "saved")
}

func (s *People) endSession(w http.ResponseWriter, r *http.Request) error {
	return s.end(w, r, apiUser(r)+"/sessions/", userURL(r.PathValue("id")))
}

// end ends a session. Who ends the one that they came by is asked to sign in.
func (s *People) end(w http.ResponseWriter, r *http.Request, path, back string) error {
	var ended struct{ Current bool }
	err := s.desk.Send(r.Context(), http.MethodDelete, path+url.PathEscape(r.PathValue("session")), nil, &ended)
	switch {
	case notFound(err): // it has ended meanwhile: just as well
		return admin.Redirect(w, r, back, "gone")
	case err != nil:
		return err
	}
	return admin.Redirect(w, r, back, "ended")
}

type accountPageData struct {
	admin.Page
	Facts    []admin.Fact
	Sessions []session
	End      string
	Person   bool // a user, not a setup link
}

func (s *People) account(w http.ResponseWriter, r *http.Request) error {
	who := admin.Principal(r.Context())
	var sessions admin.List[session]
	if err := s.desk.Get(r.Context(), "/api/v1/sessions", nil, &sessions); err != nil {
		return err
	}
	page := &accountPageData{
		Page:     admin.Page{Title: "Your account", Section: accountPath, Watch: "session. user."},
		Sessions: sessions.Items, End: accountPath, Person: who.Kind == "user",
	}
	role := ""
	for _, scope := range who.Scopes {
		role = roleName(string(scope))
	}
	page.Facts = []admin.Fact{{Label: "Signed in as", Value: who.Name}, {Label: "Role", Value: role}}
	if who.Limited() {
		names, err := s.groupNames(r, who.Groups)
		if err != nil {
			return err
		}
		var all []string
		for _, g := range names {
			all = append(all, g.Name)
		}
		page.Facts = append(page.Facts, admin.Fact{Label: "In charge of", Value: strings.Join(all, ", ")})
	}
	return s.desk.Write(w, r, s.pages, "account.html", page)
}

func (s *People) endOwn(w http.ResponseWriter, r *http.Request) error {
	return s.end(w, r, "/api/v1/sessions/", accountPath)
}
