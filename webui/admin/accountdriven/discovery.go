package accountdriven

import (
	"cmp"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// snippet is what a web server needs so that devices find us.
type snippet struct {
	Server string   `json:"server"`
	Kind   string   `json:"kind"`
	Title  string   `json:"title"`
	Where  string   `json:"where"`
	Format string   `json:"format"`
	Text   string   `json:"text"`
	Notes  []string `json:"notes"`

	ID string `json:"-"`
}

type snippetsPage struct {
	admin.Page
	Domain   domain
	Form     *admin.Form
	Modes    []admin.Option
	Servers  []admin.NavItem
	Snippets []snippet
	Check    string
}

// snippets shows what to put where, for one kind of web server at a time.
func (s *AccountDriven) snippets(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	_, d, err := s.find(r.Context(), query.Get("domain"))
	if err != nil {
		return err
	}
	mode := query.Get("mode")
	if mode == "" {
		mode = "byod"
		for _, f := range families { // what most of the domain's devices are
			if m := d.Policy[f.name]; m == "byod" || m == "adde" {
				mode = m
				break
			}
		}
	}
	var list struct {
		Items []snippet `json:"items"`
	}
	if err := s.desk.Get(r.Context(), api+"/snippets", url.Values{"domain": {d.Domain}, "mode": {mode}}, &list); err != nil {
		return err
	}
	out := &snippetsPage{
		Page: page("Web server of "+d.Domain, home+"/snippets"), Domain: d, Modes: modes[:2],
		Form: admin.NewForm("mode", mode, "domain", d.Domain), Check: d.With("check"),
	}
	server := query.Get("server")
	for i, item := range list.Items {
		if server == "" {
			server = item.Server
		}
		if len(out.Servers) == 0 || out.Servers[len(out.Servers)-1].Label != item.Server {
			at := url.Values{"domain": {d.Domain}, "mode": {mode}, "server": {item.Server}}
			out.Servers = append(out.Servers, admin.NavItem{Label: item.Server, URL: home + "/snippets?" + at.Encode(), Current: item.Server == server})
		}
		if item.Server == server {
			item.ID = "snippet-" + strconv.Itoa(i)
			out.Snippets = append(out.Snippets, item)
		}
	}
	return s.desk.Write(w, r, s.pages, "snippets.html", out)
}

// report is what a check found.
type report struct {
	Domain    string    `json:"domain"`
	CheckedAt time.Time `json:"checked_at"`
	OK        bool      `json:"ok"`
	Errors    int       `json:"errors"`
	Warnings  int       `json:"warnings"`
	Findings  []finding `json:"findings"`
	Steps     []step    `json:"steps"`
}

type finding struct {
	Severity      string   `json:"severity"`
	Code          string   `json:"code"`
	ModelFamilies []string `json:"model_families"`
	URL           string   `json:"url"`
	Sentence      string   `json:"sentence"`
	Fix           string   `json:"fix"`
}

// State is the finding's severity in words.
func (f finding) State() view.State {
	switch f.Severity {
	case "error":
		return view.State{Text: "error", Tone: view.Bad}
	case "warning":
		return view.State{Text: "warning", Tone: view.Waiting}
	case "ok", "good":
		return view.State{Text: "fine", Tone: view.Good}
	}
	return view.State{Text: cmp.Or(f.Severity, "note"), Tone: view.Neutral}
}

type step struct {
	Probe        string `json:"probe"`
	URL          string `json:"url"`
	Status       int    `json:"status"`
	ContentType  string `json:"content_type"`
	Location     string `json:"location"`
	Milliseconds int64  `json:"milliseconds"`
	Error        string `json:"error"`
}

type checkPage struct {
	admin.Page
	Form     *admin.Form
	Families []admin.Option
	Report   *report
	May      bool
}

func (s *AccountDriven) writeCheck(w http.ResponseWriter, r *http.Request, status int, form *admin.Form, found *report) error {
	options := []admin.Option{{Label: "iPhone, iPad and Mac"}}
	for _, f := range families {
		options = append(options, admin.Option{Value: f.name, Label: f.words})
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "check.html", &checkPage{
		Page: page("Check a domain", home+"/check"), Form: form, Families: options, Report: found, May: s.desk.May(r.Context(), routeCheck),
	})
}

func (s *AccountDriven) askCheck(w http.ResponseWriter, r *http.Request) error {
	return s.writeCheck(w, r, http.StatusOK, admin.NewForm("domain", r.URL.Query().Get("domain")), nil)
}

func (s *AccountDriven) check(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	ask := map[string]string{"domain": form.Get("domain")}
	for _, name := range []string{"model_family", "identifier"} {
		if v := form.Get(name); v != "" {
			ask[name] = v
		}
	}
	var found report
	if err := s.desk.Send(r.Context(), http.MethodPost, api+"/check", ask, &found); err != nil {
		if form.Refused(err) {
			return s.writeCheck(w, r, http.StatusUnprocessableEntity, form, nil)
		}
		return err
	}
	return s.writeCheck(w, r, http.StatusOK, form, &found)
}
