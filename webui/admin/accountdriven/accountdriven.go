// Package accountdriven is the part of the desk in which administrators decide how devices
// enroll whose users sign in with an account in Settings, and learn what the web server of
// their domain needs for it.
package accountdriven

import (
	"cmp"
	"context"
	"embed"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

//go:embed templates/*.html
var templates embed.FS

const (
	section = "/admin/enrollment"
	home    = section + "/account-driven"

	api         = "/api/v1/account-driven"
	routeChange = "PUT " + api
	routeCheck  = "POST " + api + "/check"
)

// AccountDriven is the part of the section.
type AccountDriven struct {
	desk  *admin.Desk
	pages *admin.Templates
}

// New returns it at a desk.
func New(desk *admin.Desk) (*AccountDriven, error) {
	pages, err := desk.Templates(templates)
	return &AccountDriven{desk, pages}, err
}

// Mount implements [admin.Section].
func (s *AccountDriven) Mount(r, _ webui.Router) {
	r.Handle("GET "+home, s.overview)
	r.Handle("GET "+home+"/domain", s.editDomain)
	r.Handle("POST "+home+"/domain", s.saveDomain)
	r.Handle("GET "+home+"/domain/remove", s.askRemove)
	r.Handle("POST "+home+"/domain/remove", s.remove)
	r.Handle("GET "+home+"/rules", s.editRules)
	r.Handle("POST "+home+"/rules", s.saveRules)
	r.Handle("GET "+home+"/snippets", s.snippets)
	r.Handle("GET "+home+"/check", s.askCheck)
	r.Handle("POST "+home+"/check", s.check)
}

// policy is all that is decided, as the API has it.
type policy struct {
	Domains       []domain          `json:"domains"`
	Method        string            `json:"method"`
	TokenIdle     string            `json:"token_idle"`
	TokenLife     string            `json:"token_life"`
	AccessLife    string            `json:"access_life"`
	TokenExpired  string            `json:"token_expired"`
	TokenRevoked  string            `json:"token_revoked"`
	UserDisabled  string            `json:"user_disabled"`
	RequiredAppID int64             `json:"required_app_id"`
	WatchPairing  bool              `json:"watch_pairing"`
	MinimumOS     map[string]string `json:"minimum_os"`

	BaseURLs     map[string]string `json:"base_urls"`
	DiscoveryURL string            `json:"discovery_url"`
}

type domain struct {
	Domain  string            `json:"domain"`
	Policy  map[string]string `json:"policy"`
	Message string            `json:"message"`
}

// family is a kind of device that can enroll by account.
type family struct{ name, words string }

var families = []family{{"iPhone", "iPhone"}, {"iPad", "iPad"}, {"Mac", "Mac"}, {"RealityDevice", "Apple Vision Pro"}}

// modes are how devices enroll.
var modes = []admin.Option{
	{Value: "byod", Label: "Personal: User Enrollment"},
	{Value: "adde", Label: "The organisation’s: Device Enrollment"},
	{Value: "off", Label: "Not at all"},
}

// Ways says how the devices of a domain enroll, as sentences.
func (d domain) Ways() []string {
	words := map[string]string{"byod": "as personal devices", "adde": "as the organisation’s devices"}
	var ways []string
	for _, f := range families {
		if how := words[d.Policy[f.name]]; how != "" {
			ways = append(ways, f.words+" "+how)
		}
	}
	return ways
}

// With is the address of a page about the domain.
func (d domain) With(page string) string {
	return home + "/" + page + "?domain=" + url.QueryEscape(d.Domain)
}

func (s *AccountDriven) policy(ctx context.Context) (p policy, err error) {
	err = s.desk.Get(ctx, api, nil, &p)
	return p, err
}

func page(title, at string, crumbs ...view.Link) admin.Page {
	p := admin.Page{Title: title, Section: section}
	if at != home {
		p.Crumbs = append([]view.Link{{Label: "Enrollment", URL: section}, {Label: "Sign-in on devices", URL: home}}, crumbs...)
	}
	return p
}

type overviewPage struct {
	admin.Page
	Tabs     []admin.NavItem
	Policy   policy
	Rules    []admin.Fact
	Empty    *admin.Empty
	BaseURLs []admin.Fact
}

func (s *AccountDriven) overview(w http.ResponseWriter, r *http.Request) error {
	p, err := s.policy(r.Context())
	if err != nil {
		return err
	}
	out := &overviewPage{Page: page("Sign-in on devices", home), Tabs: s.desk.EnrollmentTabs(r, home), Policy: p, Rules: p.rules()}
	out.Watch = "settings. account_driven."
	if len(p.Domains) == 0 {
		out.Empty = &admin.Empty{
			Heading: "No domain yet",
			Text: "People with Managed Apple Accounts can enroll in Settings, with Sign In to Work or School Account: no page, no link. Their device asks the web server of " +
				"the account’s domain where to go, and that sends it here. Begin with the domain.",
		}
		if s.desk.May(r.Context(), routeChange) {
			out.Empty.Actions = []view.Link{{Label: "Add a domain", URL: home + "/domain"}}
		}
	}
	return s.desk.Write(w, r, s.pages, "overview.html", out)
}

var (
	methods = []admin.Option{
		{Value: "apple-as-web", Label: "Simple", Hint: "A token that lives for months. What most organisations want."},
		{Value: "apple-oauth2", Label: "OAuth 2", Hint: "Short tokens that the device renews by itself; iOS and iPadOS 15, macOS 14 and later."},
	}
	endings = []admin.Option{
		{Value: "sign_in", Label: "Ask to sign in again"},
		{Value: "unenroll", Label: "End the enrollment"},
	}
)

func labelOf(options []admin.Option, value string) string {
	for _, o := range options {
		if o.Value == value {
			return o.Label
		}
	}
	return value
}

func span(s, never string) string {
	if s == "0s" {
		return never
	}
	if hours, ok := strings.CutSuffix(s, "h"); ok {
		if n, err := strconv.Atoi(hours); err == nil && n%24 == 0 {
			return admin.Count(n/24, "day", "days")
		} else if err == nil {
			return admin.Count(n, "hour", "hours")
		}
	}
	return s
}

// rules are the decisions that hold for all domains.
func (p policy) rules() []admin.Fact {
	var oldest []string
	for _, f := range slices.Sorted(maps.Keys(p.MinimumOS)) {
		if p.MinimumOS[f] != "" {
			oldest = append(oldest, f+" "+p.MinimumOS[f])
		}
	}
	app := "none"
	if p.RequiredAppID != 0 {
		app = strconv.FormatInt(p.RequiredAppID, 10)
	}
	facts := []admin.Fact{
		{Label: "How devices sign in", Value: labelOf(methods, p.Method)},
		{Label: "Sign in again after", Value: span(p.TokenLife, "never")},
		{Label: "May be silent for", Value: span(p.TokenIdle, "as long as it likes")},
		{Label: "When the sign-in has run out", Value: labelOf(endings, p.TokenExpired)},
		{Label: "When it was taken back", Value: labelOf(endings, p.TokenRevoked)},
		{Label: "When the user is disabled", Value: labelOf(endings, p.UserDisabled)},
		{Label: "Oldest systems", Value: cmp.Or(strings.Join(oldest, ", "), "any")},
		{Label: "App that comes along", Value: app, Hint: "Its number in the App Store"},
		{Label: "Apple Watch", Value: map[bool]string{true: "enrolled with its iPhone", false: "not managed"}[p.WatchPairing]},
	}
	if p.Method == "apple-oauth2" {
		facts = slices.Insert(facts, 1, admin.Fact{Label: "Access tokens live for", Value: span(p.AccessLife, "")})
	}
	return facts
}

type domainPage struct {
	admin.Page
	Form     *admin.Form
	Families []familyField
	Old      string
	May      bool
}

type familyField struct {
	Name, Label string
	Options     []admin.Option
}

func (s *AccountDriven) writeDomain(w http.ResponseWriter, r *http.Request, status int, old string, form *admin.Form) error {
	title := cmp.Or(old, "New domain")
	out := &domainPage{Page: page(title, home+"/domain"), Form: form, Old: old, May: s.desk.May(r.Context(), routeChange)}
	for _, f := range families {
		out.Families = append(out.Families, familyField{"policy." + f.name, f.words, modes})
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "domain.html", out)
}

func (s *AccountDriven) editDomain(w http.ResponseWriter, r *http.Request) error {
	name := r.URL.Query().Get("domain")
	if name == "" {
		return s.writeDomain(w, r, http.StatusOK, "", admin.NewForm("policy.iPhone", "byod", "policy.iPad", "byod", "policy.Mac", "adde", "policy.RealityDevice", "off"))
	}
	_, d, err := s.find(r.Context(), name)
	if err != nil {
		return err
	}
	form := admin.NewForm("domain", d.Domain, "message", d.Message)
	for _, f := range families {
		form.Values.Set("policy."+f.name, cmp.Or(d.Policy[f.name], "off"))
	}
	return s.writeDomain(w, r, http.StatusOK, name, form)
}

// find returns the policy, and the domain of a name in it.
func (s *AccountDriven) find(ctx context.Context, name string) (policy, domain, error) {
	p, err := s.policy(ctx)
	if err != nil {
		return p, domain{}, err
	}
	for _, d := range p.Domains {
		if d.Domain == name {
			return p, d, nil
		}
	}
	return p, domain{}, &webui.Problem{Status: http.StatusNotFound, Code: "not_found", Title: "There is no such domain"}
}

func (s *AccountDriven) saveDomain(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	old := form.Get("old")
	p, err := s.policy(r.Context())
	if err != nil {
		return err
	}
	d := domain{Domain: form.Get("domain"), Policy: map[string]string{}, Message: form.Get("message")}
	for _, f := range families {
		d.Policy[f.name] = form.Get("policy." + f.name)
	}
	at := slices.IndexFunc(p.Domains, func(d domain) bool { return old != "" && d.Domain == old })
	if at < 0 {
		at = len(p.Domains)
		p.Domains = append(p.Domains, d)
	} else {
		p.Domains[at] = d
	}
	if err := s.desk.Send(r.Context(), http.MethodPut, api, p, nil); err != nil {
		prefix := "domains[" + strconv.Itoa(at) + "]."
		names := []string{prefix + "domain", "domain", prefix + "message", "message", strings.TrimSuffix(prefix, "."), "domain"}
		for _, f := range families {
			names = append(names, prefix+"policy."+f.name, "policy."+f.name)
		}
		if form.Refused(err, names...) {
			return s.writeDomain(w, r, http.StatusUnprocessableEntity, old, form)
		}
		return err
	}
	if old == "" {
		// What comes next is the web server of the domain.
		return admin.Redirect(w, r, d.With("snippets"), "saved")
	}
	return admin.Redirect(w, r, home, "saved")
}

func (s *AccountDriven) askRemove(w http.ResponseWriter, r *http.Request) error {
	return s.confirmRemove(w, r, nil, r.URL.Query().Get("domain"))
}

func (s *AccountDriven) confirmRemove(w http.ResponseWriter, r *http.Request, form *admin.Form, name string) error {
	if _, _, err := s.find(r.Context(), name); err != nil {
		return err
	}
	return s.desk.Confirm(w, r, &admin.Confirm{
		Page: page("Remove "+name, home+"/domain/remove"), Form: form, Heading: "Remove " + name + "?",
		Text: []string{
			"Devices whose users sign in with an account of this domain can’t enroll any more.",
			"Devices that are enrolled stay so. When their sign-in runs out, they can’t sign in again.",
		},
		Button: "Remove the domain", Danger: true, Action: home + "/domain/remove", Hidden: url.Values{"domain": {name}}, Back: home,
	})
}

func (s *AccountDriven) remove(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	name := form.Get("domain")
	p, _, err := s.find(r.Context(), name)
	if err != nil {
		return err
	}
	p.Domains = slices.DeleteFunc(p.Domains, func(d domain) bool { return d.Domain == name })
	if err := s.desk.Send(r.Context(), http.MethodPut, api, p, nil); err != nil {
		if form.Refused(err) {
			return s.confirmRemove(w, r, form, name)
		}
		return err
	}
	return admin.Redirect(w, r, home, "removed")
}

type rulesPage struct {
	admin.Page
	Form     *admin.Form
	Methods  []admin.Option
	Endings  []admin.Option
	Families []familyField
}

func (s *AccountDriven) writeRules(w http.ResponseWriter, r *http.Request, status int, form *admin.Form) error {
	out := &rulesPage{Page: page("Rules", home+"/rules"), Form: form, Methods: methods, Endings: endings}
	for _, f := range families {
		out.Families = append(out.Families, familyField{Name: "minimum_os." + f.name, Label: "Oldest system of " + f.words})
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "rules.html", out)
}

func (s *AccountDriven) editRules(w http.ResponseWriter, r *http.Request) error {
	p, err := s.policy(r.Context())
	if err != nil {
		return err
	}
	form := admin.NewForm("method", p.Method, "token_idle", p.TokenIdle, "token_life", p.TokenLife, "access_life", p.AccessLife,
		"token_expired", p.TokenExpired, "token_revoked", p.TokenRevoked, "user_disabled", p.UserDisabled)
	if p.RequiredAppID != 0 {
		form.Values.Set("required_app_id", strconv.FormatInt(p.RequiredAppID, 10))
	}
	if p.WatchPairing {
		form.Values.Set("watch_pairing", "true")
	}
	for name, version := range p.MinimumOS {
		form.Values.Set("minimum_os."+name, version)
	}
	return s.writeRules(w, r, http.StatusOK, form)
}

func (s *AccountDriven) saveRules(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	p, err := s.policy(r.Context())
	if err != nil {
		return err
	}
	p.Method, p.TokenIdle, p.TokenLife, p.AccessLife = form.Get("method"), form.Get("token_idle"), form.Get("token_life"), form.Get("access_life")
	p.TokenExpired, p.TokenRevoked, p.UserDisabled = form.Get("token_expired"), form.Get("token_revoked"), form.Get("user_disabled")
	p.WatchPairing = form.Get("watch_pairing") == "true"
	p.RequiredAppID = 0
	if number := form.Get("required_app_id"); number != "" {
		if p.RequiredAppID, err = strconv.ParseInt(number, 10, 64); err != nil || p.RequiredAppID < 0 {
			form.Fail("required_app_id", "must be the number in the app’s address in the App Store, as 361309726")
		}
	}
	for _, f := range families {
		if version := form.Get("minimum_os." + f.name); version != "" {
			p.MinimumOS[f.name] = version
		} else {
			delete(p.MinimumOS, f.name)
		}
	}
	if form.OK() {
		if err = s.desk.Send(r.Context(), http.MethodPut, api, p, nil); err == nil {
			return admin.Redirect(w, r, home, "saved")
		}
		if !form.Refused(err) {
			return err
		}
	}
	return s.writeRules(w, r, http.StatusUnprocessableEntity, form)
}
