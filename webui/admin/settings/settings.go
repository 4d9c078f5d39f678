// Package settings is the section of the desk in which administrators decide what holds for
// the whole server: the organisation, push certificates, mail, webhooks, and what is kept.
package settings

import (
	"context"
	"embed"
	"fmt"

	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

//go:embed templates/*.html
var templates embed.FS

const section = "/admin/settings"

// Settings is the section.
type Settings struct {
	desk   *admin.Desk
	pages  *admin.Templates
	signIn SignIn
}

// SignIn begins a session of who has a login and a password, in place of the one of ctx.
type SignIn func(ctx context.Context, login, password, peer string) error

// New returns the section at a desk.
func New(desk *admin.Desk, signIn SignIn) (*Settings, error) {
	pages, err := desk.Templates(templates)
	return &Settings{desk, pages, signIn}, err
}

// Mount implements [admin.Section].
func (s *Settings) Mount(r, uploads webui.Router) {
	r.Handle("GET "+section, s.overview)

	r.Handle("GET "+organisationPath, s.organisation)
	r.Handle("POST "+organisationPath, s.setOrganisation)
	uploads.Handle("POST "+organisationPath+"/logo", s.setLogo)
	r.Handle("POST "+organisationPath+"/logo/remove", s.removeLogo)

	r.Handle("GET "+rulesPath, s.group(&rules))
	r.Handle("POST "+rulesPath, s.change(&rules))
	r.Handle("GET "+wakingPath, s.group(&waking))
	r.Handle("POST "+wakingPath, s.change(&waking))

	r.Handle("GET "+keptPath, s.group(&kept))
	r.Handle("POST "+keptPath, s.change(&kept))

	r.Handle("GET "+mailPath, s.mail)
	r.Handle("POST "+mailPath, s.setMail)
	r.Handle("POST "+mailPath+"/test", s.testMail)
	r.Handle("GET "+mailPath+"/remove", s.askRemoveMail)
	r.Handle("POST "+mailPath+"/remove", s.removeMail)

	r.Handle("GET "+serverPath, s.server)
	r.Handle("POST "+serverPath+"/check", s.checkServer)

	s.mountPush(r, uploads)
	s.mountWebhooks(r)
	s.mountWelcome(r)
	s.mountDemo(r)
}

// crumbs lead to a page of the section.
func crumbs(more ...view.Link) []view.Link {
	return append([]view.Link{{Label: "Settings", URL: section}}, more...)
}

// decided is GET /api/v1/settings.
type decided struct {
	Organisation struct {
		Name         string `json:"name"`
		SupportEmail string `json:"support_email"`
		SupportPhone string `json:"support_phone"`
		SupportURL   string `json:"support_url"`
		LogoURL      string `json:"logo_url"`
	} `json:"organisation"`
	Portal          bool   `json:"portal"`
	Institutional   way    `json:"institutional"`
	Personal        way    `json:"personal"`
	PersonalMethod  string `json:"personal_method"`
	ProfileService  bool   `json:"profile_service"`
	DeviceSignature string `json:"device_signature"`
	SelfRemoval     string `json:"self_removal"`
	RequirePush     bool   `json:"require_push_certificate"`
	Inventory       struct {
		Enabled    bool   `json:"enabled"`
		Every      string `json:"every"`
		FirstAfter string `json:"first_after"`
	} `json:"inventory"`
	Push struct {
		Repeats       int    `json:"repeats"`
		RepeatAfter   string `json:"repeat_after"`
		NotNowRepeats int    `json:"not_now_repeats"`
		SilentAfter   string `json:"silent_after"`
	} `json:"push"`
	Retention struct {
		Audit    int `json:"audit_days"`
		Commands int `json:"commands_days"`
		Devices  int `json:"devices_days"`
	} `json:"retention"`
	Mail *mailServer `json:"mail"`

	AccountDomains []string `json:"account_domains"`
}

// way is what is decided for one ownership.
type way struct {
	Enabled bool `json:"enabled"`
	Rights  struct {
		Preset string `json:"preset"`
		Custom int    `json:"custom"`
		List   []struct {
			Right string `json:"right"`
		} `json:"list"`
	} `json:"rights"`
}

func (s *Settings) decided(r *http.Request) (d decided, err error) {
	err = s.desk.Get(r.Context(), "/api/v1/settings", nil, &d)
	return d, err
}

// card is one group of settings on the overview.
type card struct {
	Label, URL, Text string
	State            view.State
}

type overviewPage struct {
	admin.Page
	Cards []card
	More  []card // decided in other sections
}

// overview says how it stands with each group.
func (s *Settings) overview(w http.ResponseWriter, r *http.Request) error {
	d, err := s.decided(r)
	if err != nil {
		return err
	}
	organisation := card{Label: "Organisation", URL: organisationPath, Text: "Name, logo and support contact, as people see them", State: view.State{Text: d.Organisation.Name, Tone: view.Good}}
	if d.Organisation.Name == "" {
		organisation.State = view.State{Text: "No name yet", Tone: view.Waiting}
	}
	ways := card{Label: "Enrollment rules", URL: rulesPath, Text: "Who may enroll what, and what the server may do there", State: view.State{Text: "Portal open", Tone: view.Good}}
	if !d.Portal {
		ways.State = view.State{Text: "By link only"}
	}
	letters := card{Label: "Mail", URL: mailPath, Text: "The server that sends invitations", State: view.State{Text: "None is sent"}}
	if d.Mail != nil {
		letters.State = view.State{Text: d.Mail.Host, Tone: view.Good}
	}
	waking := card{Label: "Pushes and inventory", URL: wakingPath, Text: "How long devices are woken, and when they are asked about themselves", State: view.State{Text: "Inventory on request only"}}
	if d.Inventory.Enabled {
		waking.State = view.State{Text: "Inventory every " + inWords(d.Inventory.Every), Tone: view.Good}
	}
	page := &overviewPage{Page: admin.Page{Title: "Settings", Section: section, Watch: "settings. push_certificate. webhook."}}
	page.Cards = append(page.Cards, organisation)
	for _, more := range []struct {
		route string
		card  func(*http.Request) (card, error)
	}{{"GET /api/v1/push-certificates", s.pushCard}, {"GET /api/v1/server", s.serverCard}} {
		if !s.desk.May(r.Context(), more.route) {
			continue
		}
		c, err := more.card(r)
		if err != nil {
			return err
		}
		page.Cards = append(page.Cards, c)
	}
	retention := card{
		Label: "Retention", URL: keptPath, Text: "How long the audit log and commands are kept",
		State: view.State{Text: "Audit log " + admin.Count(d.Retention.Audit, "day", "days") + ", commands " + admin.Count(d.Retention.Commands, "day", "days")},
	}
	page.Cards = append(page.Cards, ways, letters, waking, retention)
	if s.desk.May(r.Context(), "GET /api/v1/webhooks") {
		c, err := s.webhooksCard(r)
		if err != nil {
			return err
		}
		page.Cards = append(page.Cards, c)
	}
	page.More = []card{
		{Label: "Sign-in on devices", URL: "/admin/enrollment/account-driven", Text: "Account-driven enrollment: domains, snippets for their web servers, and Apple Business Manager"},
		{Label: "Portal texts", URL: "/admin/enrollment/portal", Text: "What people read, in each language, with a preview"},
		{Label: "Certificate authorities", URL: "/admin/certificates/authorities", Text: "The authorities, and how they are replaced"},
	}
	if s.desk.May(r.Context(), "GET /api/v1/tokens") {
		page.More = append(page.More,
			card{Label: "API tokens", URL: "/admin/tokens", Text: "For scripts and other programs"},
			card{Label: "Identity providers", URL: "/admin/users/sources", Text: "Where people’s accounts come from"})
	}
	return s.desk.Write(w, r, s.pages, "overview.html", page)
}

// inWords is a duration of the API for people: 24h0m0s is "day".
func inWords(text string) string {
	d, err := time.ParseDuration(text)
	if err != nil {
		return text
	}
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		switch n := d / unit.length; {
		case d%unit.length != 0 || n == 0:
		case n == 1:
			return unit.name
		default:
			return fmt.Sprintf("%d %ss", n, unit.name)
		}
	}
	return d.String()
}

// durations are options of a select: those that are usual, and what is in force.
func durations(now string, usual ...time.Duration) []admin.Option {
	current, _ := time.ParseDuration(now)
	var list []admin.Option
	add := func(d time.Duration) {
		label := inWords(d.String())
		switch label {
		case "day", "minute", "second":
			label = "1 " + label
		case "hour":
			label = "1 hour"
		}
		list = append(list, admin.Option{Value: d.String(), Label: label})
	}
	known := current == 0
	for _, d := range usual {
		if !known && current < d {
			add(current)
		}
		known = known || current <= d
		add(d)
	}
	if !known {
		add(current)
	}
	return list
}

const day = 24 * time.Hour

// kind is how a field of a form becomes one of the API.
type kind int

const (
	isText kind = iota
	isYes
	isNumber
)

// group is a page of settings that is one form.
type group struct {
	path, title, lead, file string
	fields                  map[string]kind // by their paths in the API
	form                    func(d decided) *admin.Form
}

type groupPage struct {
	admin.Page
	Form    *admin.Form
	Decided decided
	Lead    string
	Action  string
	MayEdit bool
}

// group returns the handler that shows a page of settings.
func (s *Settings) group(g *group) webui.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		d, err := s.decided(r)
		if err != nil {
			return err
		}
		return s.writeGroup(w, r, http.StatusOK, g, d, g.form(d))
	}
}

func (s *Settings) writeGroup(w http.ResponseWriter, r *http.Request, status int, g *group, d decided, f *admin.Form) error {
	return s.desk.WriteStatus(w, r, status, s.pages, g.file, &groupPage{
		Page: admin.Page{Title: g.title, Section: section, Crumbs: crumbs()},
		Form: f, Decided: d, Lead: g.lead, Action: g.path, MayEdit: s.desk.May(r.Context(), "PATCH /api/v1/settings"),
	})
}

// change returns the handler that takes the form of a page.
func (s *Settings) change(g *group) webui.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		f, err := admin.FormOf(r)
		if err != nil {
			return err
		}
		change := patch(f, g.fields)
		if f.OK() {
			err := s.desk.Send(r.Context(), http.MethodPatch, "/api/v1/settings", change, nil)
			if err == nil {
				return admin.Redirect(w, r, g.path, "saved")
			}
			if !f.Refused(err) {
				return err
			}
		}
		d, err := s.decided(r)
		if err != nil {
			return err
		}
		return s.writeGroup(w, r, http.StatusUnprocessableEntity, g, d, f)
	}
}

// patch makes of a form what PATCH /api/v1/settings takes.
func patch(f *admin.Form, fields map[string]kind) map[string]any {
	change := map[string]any{}
	for name, kind := range fields {
		var value any
		switch kind {
		case isYes:
			value = f.Has(name, "true")
		case isNumber:
			n, err := strconv.Atoi(f.Get(name))
			if err != nil {
				f.Fail(name, "Must be a whole number.")
				continue
			}
			value = n
		default:
			value = f.Get(name)
		}
		put(change, name, value)
	}
	return change
}

// put puts a value at a path such as "personal.rights.preset".
func put(in map[string]any, path string, value any) {
	for i := range len(path) {
		if path[i] == '.' {
			inner, ok := in[path[:i]].(map[string]any)
			if !ok {
				inner = map[string]any{}
				in[path[:i]] = inner
			}
			put(inner, path[i+1:], value)
			return
		}
	}
	in[path] = value
}

// yes is a checkbox's value.
func yes(b bool) string {
	if b {
		return "true"
	}
	return ""
}

// link is a link of the crumbs.
func link(label, to string) view.Link { return view.Link{Label: label, URL: to} }

// queryOf is a query with one value.
func queryOf(name, value string) string { return url.Values{name: {value}}.Encode() }

// escaped is a path of the API or of a page with one part that is data.
func escaped(format, part string) string { return fmt.Sprintf(format, url.PathEscape(part)) }
