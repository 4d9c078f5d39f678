// Package portaltexts is the part of the desk in which administrators say things in their
// own words on the pages that people see, and look at those pages as people do.
package portaltexts

import (
	"context"
	"embed"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

//go:embed templates/*.html
var templates embed.FS

const (
	section = "/admin/enrollment"
	home    = section + "/portal"

	routeChange = "PATCH /api/v1/portal-texts/{lang}"
)

// Texts is the part of the section.
type Texts struct {
	desk  *admin.Desk
	pages *admin.Templates
}

// New returns it at a desk.
func New(desk *admin.Desk) (*Texts, error) {
	pages, err := desk.Templates(templates)
	return &Texts{desk, pages}, err
}

// Mount implements [admin.Section].
func (s *Texts) Mount(r, _ webui.Router) {
	r.Handle("GET "+home, s.languages)
	r.Handle("GET "+home+"/preview", s.preview)
	r.Handle("GET "+home+"/{lang}", s.texts)
	r.Handle("GET "+home+"/{lang}/{key}", s.edit)
	r.Handle("POST "+home+"/{lang}/{key}", s.save)
}

type language struct {
	Lang         string     `json:"lang"`
	Name         string     `json:"name"`
	Dir          string     `json:"dir"`
	Total        int        `json:"total"`
	Overridden   int        `json:"overridden"`
	Untranslated int        `json:"untranslated"`
	UpdatedAt    *time.Time `json:"updated_at"`
	UpdatedBy    string     `json:"updated_by"`
}

// URL is the language's page.
func (l language) URL() string { return home + "/" + url.PathEscape(l.Lang) }

type whole struct {
	language
	Texts     map[string]string `json:"texts"`
	Catalogue []entry           `json:"catalogue"`
}

// entry is one text: what is said by default, and in its place.
type entry struct {
	Key          string   `json:"key"`
	Default      string   `json:"default"`
	Text         string   `json:"text"`
	Placeholders []string `json:"placeholders"`
	Markdown     bool     `json:"markdown"`

	URL string `json:"-"`
	Own bool   `json:"-"`
}

// screens are the pages that can be looked at before anybody comes, in the order in which
// people meet them.
var screens = admin.Options(
	"welcome", "Welcome", "elsewhere", "On a computer", "safari", "In another browser than Safari", "device", "Whose device it is",
	"certificate", "The authority’s certificate", "trust", "Trusting the certificate", "account", "Managed Apple Account", "account-driven", "Sign-in in Settings",
	"profile", "The enrollment profile", "status", "Under way", "account-driven-status", "Under way, in Settings", "stuck", "Nothing happens any more",
	"failed", "Failed", "done", "Done", "error", "An error", "closed", "Portal switched off", "not-ready", "Server not ready",
)

var devices = admin.Options(
	"iphone-26", "iPhone, iOS 26", "iphone-18", "iPhone, iOS 18", "iphone-17", "iPhone, iOS 17", "iphone-15", "iPhone, iOS 15",
	"ipad-26", "iPad, iPadOS 26", "ipad-17", "iPad, iPadOS 17", "mac-26", "Mac, macOS 26", "mac-15", "Mac, macOS 15",
)

func page(title, at string) admin.Page {
	p := admin.Page{Title: title, Section: section}
	if at != home {
		p.Crumbs = []view.Link{{Label: "Enrollment", URL: section}, {Label: "Portal texts", URL: home}}
	}
	return p
}

type languagesPage struct {
	admin.Page
	Tabs      []admin.NavItem
	Languages []language
	Form      *admin.Form
	Screens   []admin.Option
	Devices   []admin.Option
	Choices   []admin.Option
}

func (s *Texts) languages(w http.ResponseWriter, r *http.Request) error {
	var list admin.List[language]
	if err := s.desk.Get(r.Context(), "/api/v1/portal-texts", nil, &list); err != nil {
		return err
	}
	out := &languagesPage{
		Page: page("Portal texts", home), Tabs: s.desk.EnrollmentTabs(r, home), Languages: list.Items,
		Form: admin.NewForm("lang", "en", "screen", "welcome", "device", "iphone-26"), Screens: screens, Devices: devices,
	}
	for _, l := range list.Items {
		out.Choices = append(out.Choices, admin.Option{Value: l.Lang, Label: l.Name})
	}
	return s.desk.Write(w, r, s.pages, "languages.html", out)
}

// preview leads to a page as people see it. What it takes is what the form offers.
func (s *Texts) preview(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	known := func(options []admin.Option, value string) bool {
		return slices.ContainsFunc(options, func(o admin.Option) bool { return o.Value == value })
	}
	if !known(screens, query.Get("screen")) || !known(devices, query.Get("device")) {
		return &webui.Problem{Status: http.StatusNotFound, Code: "not_found", Title: "There is no such page"}
	}
	at := url.Values{"lang": {query.Get("lang")}, "device": {query.Get("device")}}
	http.Redirect(w, r, "/enroll/preview/"+query.Get("screen")+"?"+at.Encode(), http.StatusSeeOther)
	return nil
}

func (s *Texts) whole(ctx context.Context, lang string) (all whole, err error) {
	err = s.desk.Get(ctx, "/api/v1/portal-texts/"+url.PathEscape(lang), nil, &all)
	for i := range all.Catalogue {
		e := &all.Catalogue[i]
		e.URL = home + "/" + url.PathEscape(lang) + "/" + url.PathEscape(e.Key)
		_, e.Own = all.Texts[e.Key]
	}
	return all, err
}

// perPage is how many texts a page shows.
const perPage = 40

type textsPage struct {
	admin.Page
	Language language
	Form     *admin.Form
	Groups   []admin.Option
	Items    []entry
	Matching int
	Pager    admin.Pager
	Empty    *admin.Empty
}

func (s *Texts) texts(w http.ResponseWriter, r *http.Request) error {
	all, err := s.whole(r.Context(), r.PathValue("lang"))
	if err != nil {
		return err
	}
	query := r.URL.Query()
	out := &textsPage{
		Page: page(all.Name, home+"/"), Language: all.language,
		Form:   admin.NewForm("text", query.Get("text"), "group", query.Get("group"), "own", query.Get("own")),
		Groups: []admin.Option{{Label: "All pages"}},
	}
	word := strings.ToLower(strings.TrimSpace(query.Get("text")))
	var found []entry
	for _, e := range all.Catalogue {
		group := groupOf(e.Key)
		if !slices.ContainsFunc(out.Groups, func(o admin.Option) bool { return o.Value == group }) {
			out.Groups = append(out.Groups, admin.Option{Value: group, Label: admin.Words(strings.ReplaceAll(group, ".", ": "))})
		}
		if g := query.Get("group"); g != "" && g != group || query.Get("own") == "true" && !e.Own {
			continue
		}
		if word == "" || strings.Contains(strings.ToLower(e.Key+" "+e.Default+" "+e.Text), word) {
			found = append(found, e)
		}
	}
	from, _ := strconv.Atoi(query.Get("cursor")) // what is no number is the beginning
	from = min(max(from, 0), len(found))
	next := ""
	if from+perPage < len(found) {
		next = strconv.Itoa(from + perPage)
	}
	out.Matching, out.Items, out.Pager = len(found), found[from:min(from+perPage, len(found))], admin.NewPager(r, next)
	out.Pager.Note = admin.Count(len(found), "text", "texts")
	if len(out.Items) == 0 {
		out.Empty = &admin.Empty{Heading: "No text is like that", Actions: []view.Link{{Label: "Show all", URL: all.URL()}}}
	}
	return s.desk.Write(w, r, s.pages, "texts.html", out)
}

// groupOf is the page that a text belongs to: portal.welcome of portal.welcome.title.
func groupOf(key string) string {
	parts := strings.SplitN(key, ".", 3)
	if len(parts) > 2 {
		return parts[0] + "." + parts[1]
	}
	return parts[0]
}

type editPage struct {
	admin.Page
	Language language
	Entry    entry
	Form     *admin.Form
	Action   string
	Shown    template.HTML // the text as people see it; empty: not asked for
	Findings []string
	Rows     string
	May      bool
	Dir      string
}

func (s *Texts) find(r *http.Request) (whole, entry, error) {
	all, err := s.whole(r.Context(), r.PathValue("lang"))
	if err != nil {
		return all, entry{}, err
	}
	for _, e := range all.Catalogue {
		if e.Key == r.PathValue("key") {
			return all, e, nil
		}
	}
	return all, entry{}, &webui.Problem{Status: http.StatusNotFound, Code: "not_found", Title: "There is no such text"}
}

func (s *Texts) write(w http.ResponseWriter, r *http.Request, all whole, e entry, form *admin.Form, shown string, findings []string) error {
	status := http.StatusOK
	if !form.OK() {
		status = http.StatusUnprocessableEntity
	}
	out := &editPage{
		Page: page(e.Key, home+"/"), Language: all.language, Entry: e, Form: form, Action: e.URL, Findings: findings,
		// The API draws it as the portal would: Markdown without HTML of its own.
		Shown: template.HTML(shown), May: s.desk.May(r.Context(), routeChange),
		Rows: "rows=" + strconv.Itoa(min(max(2+len(e.Default)/60, 3), 14)),
	}
	out.Crumbs = append(out.Crumbs, view.Link{Label: all.Name, URL: all.URL()})
	return s.desk.WriteStatus(w, r, status, s.pages, "edit.html", out)
}

func (s *Texts) edit(w http.ResponseWriter, r *http.Request) error {
	all, e, err := s.find(r)
	if err != nil {
		return err
	}
	return s.write(w, r, all, e, admin.NewForm("text", e.Text), "", nil)
}

// save keeps a text, shows what it would look like, or takes the operator's words back.
func (s *Texts) save(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	all, e, err := s.find(r)
	if err != nil {
		return err
	}
	typed := strings.ReplaceAll(form.Get("text"), "\r\n", "\n")
	api := "/api/v1/portal-texts/" + url.PathEscape(all.Lang)
	switch form.Get("do") {
	case "preview":
		var shown struct {
			HTML     string   `json:"html"`
			Findings []string `json:"findings"`
		}
		err := s.desk.Send(r.Context(), http.MethodPost, api+"/preview", map[string]string{"key": e.Key, "text": typed}, &shown)
		if err != nil && !form.Refused(err) {
			return err
		}
		return s.write(w, r, all, e, form, shown.HTML, shown.Findings)
	case "reset":
		typed = ""
	}
	err = s.desk.Send(r.Context(), http.MethodPatch, api, map[string]any{"texts": map[string]string{e.Key: typed}}, nil)
	switch {
	case err == nil:
		return admin.Redirect(w, r, e.URL, "saved")
	case form.Refused(err, "texts."+e.Key, "text"):
		return s.write(w, r, all, e, form, "", nil)
	}
	return err
}
