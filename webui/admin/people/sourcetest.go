package people

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// trial is what came of a sign-in that was tried.
type trial struct {
	OK     bool    `json:"ok"`
	URL    *string `json:"url"`
	Steps  []step  `json:"steps"`
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

// step is one thing that had to work.
type step struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// State is what the step is called, and whether it worked.
func (s step) State() view.State {
	state := view.State{Text: admin.Words(s.Name), Tone: view.Bad}
	if s.Name == "tls" {
		state.Text = "TLS"
	}
	if s.OK {
		state.Tone = view.Good
	}
	return state
}

type testPage struct {
	admin.Page
	Source   source
	Redirect bool // the browser is sent there: nothing is typed here
	Form     *admin.Form
	Result   *trial
	Open     string // where the browser is to sign in
	Mend     string // what to do where a step failed
	Facts    []admin.Fact
	Denied   []admin.Fact // what the person may not do, and why
	Raw      []admin.Fact // what the provider said
}

// mends say what to look at where a step of a trial failed.
var mends = map[string]string{
	"connect": "Look at the address of the provider, and whether this server’s network reaches it. If it is at a private address, or its certificate is of an authority of your own, the settings must say so.",
	"tls":     "Look at the certificate: name its authority under “Trusted authorities”, and the host that it is for under “Name in its certificate”.",
	"bind":    "Look at the account by which this server searches: its DN, and its password.",
	"search":  "Look at “Search below” and the filter for who signs in, and at the name that you typed.",
	"sign in": "Look at the password, and whether the account is locked, disabled or expired there.",
	"groups":  "Look at where groups are searched, and at their filter.",
	"user":    "Look at what people are called, below “More settings”: a user needs a username or an e-mail address that nobody else has.",
	"enroll":  "Look at what the provider is used for, and at the groups that may enroll.",
}

// mend says what to do about the first step that failed; empty if none did.
func (t *trial) mend() string {
	for _, step := range t.Steps {
		if !step.OK {
			return mends[step.Name]
		}
	}
	return ""
}

// useName is what a use is called in the form.
func useName(use string) string {
	for _, o := range useOptions {
		if o.Value == use {
			return o.Label
		}
	}
	return admin.Words(use)
}

func (s *People) showTest(w http.ResponseWriter, r *http.Request, p source, form *admin.Form, result *trial) error {
	page := &testPage{
		Page:   admin.Page{Title: "Test sign-in", Section: section, Crumbs: []view.Link{{Label: "Identity providers", URL: sourcesPath}, {Label: p.Name, URL: p.URL()}}},
		Source: p, Form: form, Result: result, Redirect: p.SignIn != nil && *p.SignIn == "redirect",
	}
	if result != nil && result.URL != nil {
		page.Open = *result.URL
	}
	if result != nil {
		page.Mend = result.mend()
	}
	if result != nil && result.Mapped != nil {
		m := result.Mapped
		page.Facts = []admin.Fact{
			{Label: "Username", Value: m.Username}, {Label: "E-mail address", Value: m.Email}, {Label: "Full name", Value: m.FullName},
			{Label: "Managed Apple Account", Value: m.ManagedAppleAccount}, {Label: "Groups", Value: strings.Join(result.Person.Groups, ", ")},
		}
		switch {
		case result.UserID != "":
			page.Facts = append(page.Facts, admin.Fact{Label: "Here", Value: "Is a user already", URL: userURL(result.UserID)})
		case result.OK:
			page.Facts = append(page.Facts, admin.Fact{Label: "Here", Value: "Would be a new user"})
		}
		if len(result.MayEnroll) > 0 {
			may := make([]string, len(result.MayEnroll))
			for i, use := range result.MayEnroll {
				may[i] = useName(use)
			}
			page.Facts = append(page.Facts, admin.Fact{Label: "May use", Value: strings.Join(may, "; ")})
		}
		for _, use := range slices.Sorted(maps.Keys(result.Denied)) {
			page.Denied = append(page.Denied, admin.Fact{Label: useName(use), Value: admin.Words(result.Denied[use])})
		}
		for _, name := range slices.Sorted(maps.Keys(result.Person.Attributes)) {
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
