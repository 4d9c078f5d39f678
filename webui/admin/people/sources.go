package people

import (
	"encoding/json"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// source is an identity provider as the API has it.
type source struct {
	ID                  string                     `json:"id"`
	Name                string                     `json:"name"`
	Kind                string                     `json:"kind"`
	Enabled             bool                       `json:"enabled"`
	Uses                []string                   `json:"uses"`
	Groups              []string                   `json:"groups"`
	Mapping             map[string]json.RawMessage `json:"mapping"`
	Settings            map[string]json.RawMessage `json:"settings"`
	Position            int                        `json:"position"`
	DisableMissing      bool                       `json:"disable_missing"`
	RequireSecondFactor bool                       `json:"require_second_factor"`
	SignIn              *string                    `json:"sign_in"`
	CallbackURL         *string                    `json:"callback_url"`
	LastCheck           *struct {
		At       time.Time `json:"at"`
		People   int       `json:"people"`
		Missing  int       `json:"missing"`
		Disabled int       `json:"disabled"`
		Stopped  bool      `json:"stopped"`
		Error    string    `json:"error"`
	} `json:"last_check"`
}

func sourceURL(id string) string { return "/admin/identity-providers/" + url.PathEscape(id) }

// URL is the provider's page.
func (p source) URL() string { return sourceURL(p.ID) }

// Local says that it is the accounts of this server.
func (p source) Local() bool { return p.ID == "local" }

// KindName is the kind as people know it.
func (p source) KindName() string { return kindName(p.Kind) }

func kindName(kind string) string {
	switch kind {
	case "local":
		return "Accounts of this server"
	case "ldap":
		return "LDAP directory"
	case "oidc":
		return "OpenID Connect"
	}
	return kind
}

// Health is how the provider does, as far as the server knows.
func (p source) Health() view.State {
	switch {
	case !p.Enabled:
		return view.State{Text: "Off"}
	case p.SignIn == nil && !p.Local():
		return view.State{Text: "Can’t be used", Tone: "bad", Hint: "Its settings are incomplete."}
	case p.LastCheck != nil && p.LastCheck.Error != "":
		return view.State{Text: "Failing", Tone: "bad", Hint: p.LastCheck.Error}
	case p.LastCheck != nil && p.LastCheck.Stopped:
		return view.State{Text: "Look at it", Tone: "waiting", Hint: "Too many people were missing from the directory, so nobody was disabled."}
	}
	return view.State{Text: "On", Tone: "good"}
}

// For is what the provider is used for, in words.
func (p source) For() string {
	var all []string
	for _, o := range useOptions {
		for _, use := range p.Uses {
			if o.Value == use {
				all = append(all, strings.ToLower(o.Label[:1])+o.Label[1:])
			}
		}
	}
	return strings.Join(all, ", ")
}

var useOptions = []admin.Option{
	{Value: "institutional", Label: "Portal, the organisation’s devices"},
	{Value: "personal", Label: "Portal, personal devices"},
	{Value: "user", Label: "Account-driven user enrollment"},
	{Value: "account_device", Label: "Account-driven device enrollment"},
	{Value: "admin", Label: "Administrators", Hint: "Their roles are given here, not by the provider. Only owners switch this."},
}

// setting is one of a kind's settings, as its form shows it.
type setting struct {
	name, label, hint, kind string // kind: text, lines, bool, number, area, secret or select
	options                 []admin.Option
	required, more          bool // more: folded away
}

var settingsOf = map[string][]setting{
	"ldap": {
		{name: "urls", label: "Servers", kind: "lines", required: true, hint: "One in a line, tried in this order: ldaps://ldap.example.com"},
		{name: "start_tls", label: "Start TLS on ldap:// connections", kind: "bool"},
		{name: "bind_dn", label: "Sign in to search as", kind: "text", hint: "The DN of a service account: cn=gatehouse,ou=services,dc=example,dc=com"},
		{name: "bind_password", label: "Its password", kind: "secret"},
		{name: "base_dn", label: "Search below", kind: "text", required: true, hint: "ou=people,dc=example,dc=com"},
		{name: "user_filter", label: "Filter for who signs in", kind: "text", hint: "{login} is what they typed: (uid={login}). Empty: the usual one."},
		{name: "subject_attribute", label: "Attribute that never changes", kind: "text", more: true, hint: "What a person is recognised by when their name changes: entryUUID, or objectGUID."},
		{name: "scope", label: "Search depth", kind: "select", more: true, options: admin.Options("", "The usual one", "sub", "Everything below", "one", "One level")},
		{name: "people_filter", label: "Filter for everybody", kind: "text", more: true, hint: "For looking who has left."},
		{name: "disabled_filter", label: "Filter for who is disabled", kind: "text", more: true},
		{name: "group_base_dn", label: "Search groups below", kind: "text", more: true},
		{name: "group_filter", label: "Filter for groups of a person", kind: "text", more: true, hint: "{dn} and {uid} are the person’s: (member={dn})"},
		{name: "nested_groups", label: "Groups in groups", kind: "select", more: true, options: admin.Options("", "The usual way", "none", "Not followed", "walk", "Followed one by one", "active_directory", "Active Directory does it")},
		{name: "ca_certificates", label: "Trusted authorities", kind: "area", more: true, hint: "PEM, if the directory’s certificate is of an authority of your own. Empty: those that this machine trusts."},
		{name: "server_name", label: "Name in its certificate", kind: "text", more: true},
		{name: "timeout", label: "Wait at most", kind: "text", more: true, hint: "For each step: 5s"},
		{name: "allow_plaintext", label: "Allow connections that anybody on the way can read", kind: "bool", more: true, hint: "Passwords travel readable. For a directory on this machine only."},
	},
	"oidc": {
		{name: "issuer", label: "Issuer", kind: "text", required: true, hint: "https://login.example.com: below it is .well-known/openid-configuration"},
		{name: "client_id", label: "Client ID", kind: "text", required: true},
		{name: "client_secret", label: "Client secret", kind: "secret"},
		{name: "scopes", label: "Scopes", kind: "lines", more: true, hint: "One in a line; openid must be among them. Empty: openid, profile, email."},
		{name: "groups_claim", label: "Claim with the groups", kind: "text", more: true, hint: "groups, or with dots into an object: realm_access.roles"},
		{name: "client_authentication", label: "How the secret is shown", kind: "select", more: true, options: admin.Options("", "As the provider says", "basic", "Basic", "post", "In the form", "none", "Not at all")},
		{name: "prompt", label: "Ask in any case", kind: "select", more: true, options: admin.Options("", "As the provider likes", "login", "To sign in again", "select_account", "Which account", "consent", "To consent")},
		{name: "max_age", label: "Signed in at most so many seconds ago", kind: "number", more: true},
		{name: "acr", label: "Ways to sign in of which one is required", kind: "lines", more: true, hint: "acr_values, one in a line."},
	},
}

var mappingFields = []setting{
	{name: "username", label: "Username"}, {name: "email", label: "E-mail address"}, {name: "full_name", label: "Full name"},
	{name: "managed_apple_account", label: "Managed Apple Account"},
}

type sourcesPage struct {
	admin.Page
	Tabs  []admin.NavItem
	Items []source
	Alone bool // there is no provider but this server
}

func (s *People) sources(w http.ResponseWriter, r *http.Request) error {
	var found admin.List[source]
	if err := s.desk.Get(r.Context(), "/api/v1/identity-providers", nil, &found); err != nil {
		return err
	}
	sort.SliceStable(found.Items, func(i, j int) bool { return found.Items[i].Position < found.Items[j].Position })
	return s.desk.Write(w, r, s.pages, "sources.html", &sourcesPage{
		Page: admin.Page{Title: "Identity providers", Section: section, Watch: "identity_provider."}, Tabs: s.tabs(r, sourcesPath),
		Items: found.Items, Alone: len(found.Items) < 2,
	})
}

// sourceField is a field of a provider's form.
type sourceField struct {
	admin.Field
	More bool
}

type sourcePage struct {
	admin.Page
	Source   source
	New      bool
	Owner    bool
	Form     *admin.Form
	Settings []sourceField
	Mapping  []sourceField
	Uses     []admin.Option
	Action   string
	Callback struct{ ID, Text string } // for the part "copy"
	Check    []admin.Fact
}

func (s *People) sourceOf(r *http.Request) (p source, err error) {
	return p, s.desk.Get(r.Context(), "/api/v1/identity-providers/"+url.PathEscape(r.PathValue("id")), nil, &p)
}

// formOf fills a form with a provider as it is.
func (p source) form() *admin.Form {
	form := admin.NewForm("name", p.Name, "position", strconv.Itoa(p.Position), "groups", strings.Join(p.Groups, "\n"))
	form.Values["uses"] = p.Uses
	for name, on := range map[string]bool{"enabled": p.Enabled, "disable_missing": p.DisableMissing, "require_second_factor": p.RequireSecondFactor} {
		if on {
			form.Values.Set(name, "true")
		}
	}
	for _, f := range settingsOf[p.Kind] {
		form.Values.Set("settings."+f.name, words(p.Settings[f.name]))
	}
	for _, f := range mappingFields {
		form.Values.Set("mapping."+f.name, words(p.Mapping[f.name]))
	}
	return form
}

// words is a setting as a form shows it: the items of a list in a line each.
func words(raw json.RawMessage) string {
	var text string
	var list []string
	switch {
	case len(raw) == 0 || string(raw) == "null":
		return ""
	case json.Unmarshal(raw, &text) == nil:
		return text
	case json.Unmarshal(raw, &list) == nil:
		return strings.Join(list, "\n")
	}
	return string(raw)
}

func (s *People) showSource(w http.ResponseWriter, r *http.Request, page *sourcePage) error {
	page.Section, page.Owner = section, s.desk.May(r.Context(), "POST /api/v1/users/{id}/reset-second-factor")
	form := page.Form
	for _, f := range settingsOf[page.Source.Kind] {
		field := admin.Field{
			Name: "settings." + f.name, Label: f.label, Hint: f.hint, Type: "text", Required: f.required, ID: "f-settings-" + f.name,
			Value: form.Values.Get("settings." + f.name), Error: form.Errors["settings."+f.name], Autocomplete: "off",
		}
		switch f.kind {
		case "lines":
			field.Type, field.Rows, field.Mono = "textarea", 3, true
		case "area":
			field.Type, field.Rows, field.Mono = "textarea", 6, true
		case "bool":
			field.Type, field.Checked, field.Value = "checkbox", field.Value == "true", "true"
		case "number":
			field.InputMode = "numeric"
		case "secret":
			field.Type, field.Value, field.Autocomplete = "password", "", "new-password"
			if string(page.Source.Settings["has_"+f.name]) == "true" {
				field.Hint = strings.TrimSpace(field.Hint + " One is set. Leave this empty to keep it.")
			}
		case "select":
			field.Type = "select"
			for _, o := range f.options {
				o.Selected = o.Value == field.Value
				field.Options = append(field.Options, o)
			}
		}
		page.Settings = append(page.Settings, sourceField{field, f.more && field.Error == ""})
	}
	if !page.Source.Local() {
		for _, f := range mappingFields {
			page.Mapping = append(page.Mapping, sourceField{Field: admin.Field{
				Name: "mapping." + f.name, Label: f.label, Type: "text", Mono: true, ID: "f-mapping-" + f.name, Autocomplete: "off",
				Value: form.Values.Get("mapping." + f.name), Error: form.Errors["mapping."+f.name],
			}})
		}
	}
	for _, o := range useOptions {
		o.Selected = form.Has("uses", o.Value)
		o.Disabled = o.Value == "admin" && (!page.Owner || page.Source.Local())
		page.Uses = append(page.Uses, o)
	}
	status := http.StatusOK
	if !form.OK() {
		status = http.StatusUnprocessableEntity
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "source.html", page)
}

func newSourcePage(kind string, form *admin.Form) *sourcePage {
	page := &sourcePage{
		Page:   admin.Page{Title: "New identity provider", Crumbs: links("Identity providers", sourcesPath)},
		Source: source{Kind: kind}, New: true, Form: form, Action: "/admin/identity-providers/new?" + url.Values{"kind": {kind}}.Encode(),
	}
	return page
}

func (s *People) newSource(w http.ResponseWriter, r *http.Request) error {
	kind := r.URL.Query().Get("kind")
	if settingsOf[kind] == nil {
		return s.desk.Write(w, r, s.pages, "sourcekind.html", &sourcePage{
			Page: admin.Page{Title: "New identity provider", Section: section, Crumbs: links("Identity providers", sourcesPath)},
		})
	}
	form := admin.NewForm("enabled", "true")
	form.Values["uses"] = []string{"institutional", "personal", "user", "account_device"}
	return s.showSource(w, r, newSourcePage(kind, form))
}

// sourceChange is what a form says of a provider, as the API wants it. What is empty is
// left to the API's usual value where there is none yet.
func sourceChange(form *admin.Form, p source, isNew, owner bool) map[string]any {
	in := map[string]any{"name": form.Get("name")}
	if owner {
		in["require_second_factor"] = form.Has("require_second_factor", "true")
	}
	uses := append([]string{}, form.Values["uses"]...)
	for _, use := range p.Uses { // a box that can't be clicked sends nothing
		if use == "admin" && (!owner || p.Local()) && !form.Has("uses", "admin") {
			uses = append(uses, "admin")
		}
	}
	in["uses"] = uses
	if p.Local() {
		return in
	}
	if p.Kind == "oidc" {
		delete(in, "require_second_factor") // the provider asks for one itself
	}
	in["groups"], in["disable_missing"] = append([]string{}, form.Lines("groups")...), form.Has("disable_missing", "true")
	if isNew {
		in["enabled"] = form.Has("enabled", "true")
	}
	if n, err := strconv.Atoi(form.Get("position")); err == nil {
		in["position"] = n
	} else if form.Get("position") != "" {
		form.Fail("position", "must be a whole number")
	}
	settings, mapping := map[string]any{}, map[string]any{}
	for _, f := range settingsOf[p.Kind] {
		name := "settings." + f.name
		text := form.Get(name)
		if _, there := form.Values[name]; !there && f.kind != "bool" {
			continue // not in the form that was sent: it stays
		}
		switch f.kind {
		case "bool":
			settings[f.name] = form.Has(name, "true")
		case "secret":
			if raw := form.Values.Get(name); raw != "" {
				settings[f.name] = raw
			}
		case "lines":
			if lines := form.Lines(name); len(lines) > 0 || !isNew && words(p.Settings[f.name]) != "" {
				settings[f.name] = append([]string{}, lines...)
			}
		case "number":
			if n, err := strconv.Atoi(text); err == nil {
				settings[f.name] = n
			} else if text != "" {
				form.Fail(name, "must be a whole number")
			} else if !isNew {
				settings[f.name] = nil
			}
		default:
			if text != "" || !isNew && words(p.Settings[f.name]) != "" {
				settings[f.name] = text
			}
		}
	}
	for _, f := range mappingFields {
		if _, there := form.Values["mapping."+f.name]; !there {
			continue
		}
		if text := form.Get("mapping." + f.name); text != "" || !isNew && words(p.Mapping[f.name]) != "" {
			mapping[f.name] = text
		}
	}
	in["settings"] = settings
	if len(mapping) > 0 {
		in["mapping"] = mapping
	}
	return in
}

func (s *People) createSource(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	kind := r.URL.Query().Get("kind")
	page := newSourcePage(kind, form)
	owner := s.desk.May(r.Context(), "POST /api/v1/users/{id}/reset-second-factor")
	in := sourceChange(form, source{Kind: kind}, true, owner)
	in["kind"] = kind
	if !form.OK() {
		return s.showSource(w, r, page)
	}
	var made source
	err = s.desk.Send(r.Context(), http.MethodPost, "/api/v1/identity-providers", in, &made)
	if err != nil && form.Refused(err) {
		return s.showSource(w, r, page)
	}
	if err != nil {
		return err
	}
	return admin.Redirect(w, r, made.URL(), "created")
}

func (s *People) sourcePage(p source, form *admin.Form) *sourcePage {
	page := &sourcePage{
		Page:   admin.Page{Title: p.Name, Crumbs: links("Identity providers", sourcesPath), Watch: "identity_provider."},
		Source: p, Form: form, Action: p.URL(),
	}
	if p.CallbackURL != nil {
		page.Callback.ID, page.Callback.Text = "callback", *p.CallbackURL
	}
	if c := p.LastCheck; c != nil {
		at := s.desk.Moment(&c.At)
		page.Check = []admin.Fact{
			{Label: "Looked who has left", Moment: &at}, {Label: "People", Value: admin.Number(c.People)},
			{Label: "Missing there", Value: admin.Number(c.Missing)}, {Label: "Disabled here", Value: admin.Number(c.Disabled)},
		}
		if c.Error != "" {
			page.Check = append(page.Check, admin.Fact{Label: "It failed", Value: c.Error})
		}
	}
	return page
}

func (s *People) source(w http.ResponseWriter, r *http.Request) error {
	p, err := s.sourceOf(r)
	if err != nil {
		return err
	}
	return s.showSource(w, r, s.sourcePage(p, p.form()))
}

func (s *People) changeSource(w http.ResponseWriter, r *http.Request) error {
	p, err := s.sourceOf(r)
	if err != nil {
		return err
	}
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	in := sourceChange(form, p, false, s.desk.May(r.Context(), "POST /api/v1/users/{id}/reset-second-factor"))
	if !form.OK() {
		return s.showSource(w, r, s.sourcePage(p, form))
	}
	err = s.desk.Send(r.Context(), http.MethodPatch, "/api/v1/identity-providers/"+url.PathEscape(p.ID), in, nil)
	if err != nil && form.Refused(err) {
		return s.showSource(w, r, s.sourcePage(p, form))
	}
	if err != nil {
		return err
	}
	return admin.Redirect(w, r, p.URL(), "saved")
}

func (s *People) switchSource(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	on := form.Get("on") == "true"
	p, err := s.sourceOf(r)
	if err != nil {
		return err
	}
	err = s.desk.Send(r.Context(), http.MethodPatch, "/api/v1/identity-providers/"+url.PathEscape(p.ID), map[string]any{"enabled": on}, nil)
	if err != nil {
		again := p.form()
		if again.Refused(err) {
			return s.showSource(w, r, s.sourcePage(p, again))
		}
		return err
	}
	done := "disabled"
	if on {
		done = "enabled"
	}
	return admin.Redirect(w, r, p.URL(), done)
}

func (s *People) confirmDelete(p source, form *admin.Form) *admin.Confirm {
	return &admin.Confirm{
		Page:    admin.Page{Section: section, Crumbs: []view.Link{{Label: "Identity providers", URL: sourcesPath}, {Label: p.Name, URL: p.URL()}}},
		Heading: "Delete “" + p.Name + "”?", Button: "Delete", Danger: true, Action: p.URL() + "/delete", Back: p.URL(), Form: form,
		Text: []string{
			"Its users stay, and can’t sign in until an administrator gives them to another provider. Their devices go on.",
			"To try what it is like without, switch it off instead.",
		},
		Word: p.Name, What: "its name",
	}
}

func (s *People) askDeleteSource(w http.ResponseWriter, r *http.Request) error {
	p, err := s.sourceOf(r)
	if err != nil {
		return err
	}
	return s.desk.Confirm(w, r, s.confirmDelete(p, nil))
}

func (s *People) deleteSource(w http.ResponseWriter, r *http.Request) error {
	p, err := s.sourceOf(r)
	if err != nil {
		return err
	}
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	if !form.Typed(p.Name) {
		return s.desk.Confirm(w, r, s.confirmDelete(p, form))
	}
	err = s.desk.Send(r.Context(), http.MethodDelete, "/api/v1/identity-providers/"+url.PathEscape(p.ID)+"?force=true", nil, nil)
	if err != nil && form.Refused(err) {
		return s.desk.Confirm(w, r, s.confirmDelete(p, form))
	}
	if err != nil {
		return err
	}
	return admin.Redirect(w, r, sourcesPath, "deleted")
}

// trial is what came of a sign-in that was tried.
type trial struct {
	OK    bool    `json:"ok"`
	URL   *string `json:"url"`
	Steps []struct {
		Name   string `json:"name"`
		OK     bool   `json:"ok"`
		Detail string `json:"detail"`
	} `json:"steps"`
	Person *struct {
		Subject    string              `json:"subject"`
		Groups     []string            `json:"groups"`
		Attributes map[string][]string `json:"attributes"`
	} `json:"person"`
	Mapped *struct {
		Username            string   `json:"username"`
		Email               string   `json:"email"`
		FullName            string   `json:"full_name"`
		ManagedAppleAccount string   `json:"managed_apple_account"`
		Warnings            []string `json:"warnings"`
	} `json:"mapped"`
	UserID    string            `json:"user_id"`
	MayEnroll []string          `json:"may_enroll"`
	Denied    map[string]string `json:"denied"`
}

type testPage struct {
	admin.Page
	Source   source
	Redirect bool // the browser is sent there: nothing is typed here
	Form     *admin.Form
	Result   *trial
	Open     string // where the browser is to sign in
	Facts    []admin.Fact
	Raw      []admin.Fact // what the provider said
}

func (s *People) showTest(w http.ResponseWriter, r *http.Request, p source, form *admin.Form, result *trial) error {
	page := &testPage{
		Page:   admin.Page{Title: "Test sign-in", Section: section, Crumbs: []view.Link{{Label: "Identity providers", URL: sourcesPath}, {Label: p.Name, URL: p.URL()}}},
		Source: p, Form: form, Result: result, Redirect: p.SignIn != nil && *p.SignIn == "redirect",
	}
	if result != nil && result.URL != nil {
		page.Open = *result.URL
	}
	if result != nil && result.Mapped != nil {
		m := result.Mapped
		page.Facts = []admin.Fact{
			{Label: "Username", Value: m.Username}, {Label: "E-mail address", Value: m.Email}, {Label: "Full name", Value: m.FullName},
			{Label: "Managed Apple Account", Value: m.ManagedAppleAccount}, {Label: "Groups", Value: strings.Join(result.Person.Groups, ", ")},
		}
		known := admin.Fact{Label: "Here", Value: "Would be a new user"}
		if result.UserID != "" {
			known.Value, known.URL = "Is a user already", userURL(result.UserID)
		}
		page.Facts = append(page.Facts, known)
		names := make([]string, 0, len(result.Person.Attributes))
		for name := range result.Person.Attributes {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			page.Raw = append(page.Raw, admin.Fact{Label: name, Value: strings.Join(result.Person.Attributes[name], ", "), Mono: true})
		}
	}
	status := http.StatusOK
	if !form.OK() {
		status = http.StatusUnprocessableEntity
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "test.html", page)
}

func (s *People) askTest(w http.ResponseWriter, r *http.Request) error {
	p, err := s.sourceOf(r)
	if err != nil {
		return err
	}
	return s.showTest(w, r, p, admin.NewForm(), nil)
}

func (s *People) test(w http.ResponseWriter, r *http.Request) error {
	p, err := s.sourceOf(r)
	if err != nil {
		return err
	}
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	var result trial
	in := map[string]any{"login": form.Get("login"), "password": form.Values.Get("password")}
	err = s.desk.Send(r.Context(), http.MethodPost, "/api/v1/identity-providers/"+url.PathEscape(p.ID)+"/test", in, &result)
	if err != nil && form.Refused(err) {
		return s.showTest(w, r, p, form, nil)
	}
	if err != nil {
		return err
	}
	return s.showTest(w, r, p, form, &result)
}
