package people

import (
	"encoding/json"
	"net/http"
	"net/url"
	"sort"
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
func (p source) For() (all []string) {
	for _, o := range useOptions {
		for _, use := range p.Uses {
			if o.Value == use {
				all = append(all, o.Label)
			}
		}
	}
	return all
}

var useOptions = []admin.Option{
	{Value: "institutional", Label: "Portal: the organisation’s devices"},
	{Value: "personal", Label: "Portal: personal devices"},
	{Value: "user", Label: "Sign-in on devices: personal (User Enrollment)"},
	{Value: "account_device", Label: "Sign-in on devices: the organisation’s (Device Enrollment)"},
	{Value: "admin", Label: "Administrators", Hint: "Their roles are given here, not by the provider. Only owners switch this."},
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

func (s *People) showSource(w http.ResponseWriter, r *http.Request, page *sourcePage) error {
	page.Section, page.Owner = section, s.desk.May(r.Context(), "POST /api/v1/users/{id}/reset-second-factor")
	form := page.Form
	page.Settings, page.Mapping = settingFields(form, page.Source)
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
