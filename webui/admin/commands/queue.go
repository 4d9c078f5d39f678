package commands

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

var errMayNot = &webui.Problem{
	Status: http.StatusForbidden, Code: "forbidden", Title: "You may not queue commands",
	Detail: "That takes the role helpdesk or more. You may see what others have queued.",
}

func tooMany(n int) webui.Problem {
	return webui.Problem{Status: http.StatusBadRequest, Code: "too_many_devices", Title: "Too many devices are named",
		Detail: fmt.Sprintf("%s devices are named one by one, and %d fit. Make a group of them, or filter the list.", admin.Number(n), maxSelected)}
}

// aboutTargets says what is wrong with the devices that somebody chose; empty: the error is
// about something else.
func aboutTargets(err error) string {
	var p *admin.Problem
	if !errors.As(err, &p) {
		return ""
	}
	if p.Code == "too_many_devices" {
		return p.Detail
	}
	for _, e := range p.Errors {
		if name, _, _ := strings.Cut(e.Field, "["); slices.Contains([]string{"device_ids", "group_id", "filter"}, name) {
			return e.Sentence()
		}
	}
	return ""
}

// order is a command as the API takes it.
type order struct {
	RequestType string         `json:"request_type"`
	Params      map[string]any `json:"params,omitempty"`
	*targets
	Confirm   bool   `json:"confirm,omitempty"`
	ExpiresIn string `json:"expires_in,omitempty"`
	Priority  string `json:"priority,omitempty"`
	NoPush    bool   `json:"no_push,omitempty"`
}

// forecast says what would become of an order.
type forecast struct {
	Total    int           `json:"total"`
	Accepted int           `json:"accepted"`
	Devices  []namedDevice `json:"devices"`
	Rejected []rejected    `json:"rejected"`
}

type rejected struct {
	Code    string        `json:"code"`
	Reason  string        `json:"reason"`
	Count   int           `json:"count"`
	Devices []namedDevice `json:"devices"`
}

// More is how many are not named.
func (r rejected) More() int { return r.Count - len(r.Devices) }

type queuePage struct {
	admin.Page
	Type     commandType
	Targets  *targets
	Nodes    []node
	Form     *admin.Form
	Expiry   []admin.Option
	Priority bool // may be chosen
	Forecast *forecast
	Known    string // what of the forecast was shown
	Word     string // to be typed; empty: nothing
	What     string
	Loses    string
	Button   string
	Hidden   url.Values
	Catalog  string
	Curl     string
	CLI      string
	Secrets  bool // something secret has to be typed again
	Verdict  verdict
	Offered  bool // the form is: some device may get it, or what was sent stays to be changed
}

// expiries are how long a command may wait.
var expiries = admin.Options("", "After 90 days", "1h", "After an hour", "24h", "After a day", "72h", "After three days", "168h", "After a week", "720h", "After 30 days")

// typeOf returns a type as it is for the targets.
func (s *Commands) typeOf(ctx context.Context, t *targets, name string) (typ commandType, err error) {
	query := url.Values{}
	if one := t.One(); one != nil && t.Total == 1 {
		query.Set("device_id", one.DeviceID)
	}
	err = s.desk.Get(ctx, "/api/v1/command-types/"+url.PathEscape(name), query, &typ)
	if query.Has("device_id") {
		typ.Keys = forOne(typ.Keys)
	}
	for i, k := range typ.Keys {
		if typ.RequestType == "DeviceInformation" && k.Name == "Queries" {
			typ.Keys[i].Required = false // the server asks what it shows
		}
	}
	return typ, err
}

// forOne are keys as they are said for one device: what it can't have is refused, so that
// nobody has to read where else they work.
func forOne(keys []key) []key {
	keys = slices.Clone(keys)
	for i := range keys {
		k := &keys[i]
		deprecated := make(map[string]*platform)
		for name, p := range k.Platforms {
			if p != nil && p.Deprecated != "" && p.Removed == "" {
				deprecated[name] = &platform{Deprecated: p.Deprecated}
			}
		}
		k.Platforms, k.Keys, k.Items = deprecated, forOne(k.Keys), forOne(k.Items)
	}
	return keys
}

// ask shows the form of a command.
func (s *Commands) ask(w http.ResponseWriter, r *http.Request, t *targets, name string) error {
	typ, err := s.typeOf(r.Context(), t, name)
	if err != nil {
		return err
	}
	form := admin.NewForm()
	for name, values := range r.URL.Query() { // a link may have filled it in
		if strings.HasPrefix(name, "params.") {
			form.Values[name] = values
		}
	}
	for _, k := range typ.Keys { // a list begins with a row
		if path := "params." + k.Name; k.Type == "array" && k.ofDictionaries() && len(k.Items) == 1 {
			form.Values.Set("rows "+path, "1")
		}
	}
	return s.showForm(w, r, http.StatusOK, &queuePage{Type: typ, Targets: t, Form: form})
}

func (s *Commands) showForm(w http.ResponseWriter, r *http.Request, status int, p *queuePage) error {
	p.Page = admin.Page{Title: p.Type.Title, Section: section, Crumbs: append(s.crumbs(p.Targets), view.Link{Label: "Queue a command", URL: p.Targets.With(section+"/new", "", "")})}
	p.Form.Values.Del("once") // it was of what was sent, which may be changed now
	p.Nodes = draw(p.Form, "params", p.Type.Keys)
	p.Hidden = p.Targets.Hidden()
	p.Catalog = p.Targets.With(section+"/new", "", "")
	p.Expiry = expiries
	p.Priority = !p.Type.Urgent && s.desk.May(r.Context(), routeRaw)
	p.Verdict = p.Targets.verdicts[p.Type.RequestType]
	p.Offered = p.Verdict.Allowed > 0 || p.Verdict.Refused == 0 || r.Method == http.MethodPost
	p.Secrets = status != http.StatusOK && hasSecrets(p.Type.Keys)
	n := p.Targets.Total
	if p.Forecast != nil {
		n = p.Forecast.Accepted
		p.Known = p.Forecast.known()
	} else if p.Verdict.Allowed > 0 {
		n = p.Verdict.Allowed
	}
	p.Button = "Queue command"
	if p.Type.Confirm || p.Form.Get("confirm") != "" {
		p.Word, p.What = confirmation(p.Targets, n)
		p.Loses = lost[p.Type.RequestType]
		p.Form.Values.Set("confirm", "true")
		p.Button = p.Type.Title
	}
	if n > 1 {
		p.Button += " for " + admin.Count(n, "device", "devices")
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "queue.html", p)
}

// confirmation is what has to be typed before something is lost.
func confirmation(t *targets, n int) (word, what string) {
	if one := t.One(); one != nil {
		return one.Name(), "the device’s name"
	}
	return strconv.Itoa(n), "the number of devices"
}

func hasSecrets(keys []key) bool {
	return slices.ContainsFunc(keys, func(k key) bool { return k.Secret || hasSecrets(k.Keys) || hasSecrets(k.Items) })
}

// known is what a form remembers of a forecast that was shown, so that what is queued is what
// was agreed to.
func (f *forecast) known() string {
	var parts []string
	for _, r := range f.Rejected {
		parts = append(parts, r.Code+":"+strconv.Itoa(r.Count))
	}
	return strings.Join(parts, ",")
}

// queue does what the form asks for: another row, a look at the request, or the command.
func (s *Commands) queue(w http.ResponseWriter, r *http.Request) error {
	if !s.desk.May(r.Context(), routeQueue) {
		return errMayNot
	}
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	t := targetsOf(form.Values)
	if t.None() {
		return s.chooseDevices(w, r, "Choose a device.")
	}
	if form.Get("type") == "" { // from a list: first the catalogue
		return admin.Redirect(w, r, t.With(section+"/new", "", ""), "")
	}
	if err := s.look(r.Context(), &t); err != nil {
		if reason := aboutTargets(err); reason != "" {
			return s.chooseDevices(w, r, reason)
		}
		return err
	}
	typ, err := s.typeOf(r.Context(), &t, form.Get("type"))
	if err != nil {
		return err
	}
	page := &queuePage{Type: typ, Targets: &t, Form: form}
	do := form.Get("do")
	if change(form, do) {
		return s.showForm(w, r, http.StatusOK, page)
	}
	params, reading := read(form, typ.Keys)
	o := order{RequestType: typ.RequestType, Params: params, targets: &t, ExpiresIn: form.Get("expires_in"), Priority: form.Get("priority"), NoPush: form.Has("no_push", "true")}
	if !form.OK() {
		return s.showForm(w, r, http.StatusUnprocessableEntity, page)
	}
	if do == "show" {
		page.Curl, page.CLI = o.curl(s.desk.ServerURL, reading, typ), o.cli(s.desk.ServerURL, reading, typ)
		return s.showForm(w, r, http.StatusOK, page)
	}
	refused := func(err error) error {
		var p *admin.Problem
		if !errors.As(err, &p) || p.Status != http.StatusBadRequest && p.Status != http.StatusUnprocessableEntity && p.Status != http.StatusConflict {
			return err
		}
		if p.Code == "confirmation_required" {
			form.Values.Set("confirm", "true")
			form.Error = "This can’t be undone. Read below what is lost, and confirm it."
		} else {
			reading.refused(p)
		}
		return s.showForm(w, r, http.StatusUnprocessableEntity, page)
	}
	var f forecast
	if err := s.desk.Send(r.Context(), http.MethodPost, "/api/v1/commands/check", o, &f); err != nil {
		return refused(err)
	}
	page.Forecast = &f
	switch {
	case f.Accepted == 0:
		form.Error = "None of the devices may get this command. The reasons are below."
		return s.showForm(w, r, http.StatusUnprocessableEntity, page)
	case f.known() != form.Get("known"):
		form.Error = fmt.Sprintf("%s will get the command, %s will not: the reasons are below. Queue it for the others, or change it.",
			admin.Count(f.Accepted, "device", "devices"), admin.Number(f.Total-f.Accepted))
		return s.showForm(w, r, http.StatusUnprocessableEntity, page)
	}
	if typ.Confirm || form.Get("confirm") != "" {
		if word, _ := confirmation(&t, f.Accepted); !form.Typed(word) {
			return s.showForm(w, r, http.StatusUnprocessableEntity, page)
		}
		o.Confirm = true
	}
	var queued struct {
		UUID string `json:"command_uuid"`
	}
	if err := s.desk.Send(form.Once(r.Context()), http.MethodPost, "/api/v1/commands", o, &queued); err != nil {
		return refused(err)
	}
	return admin.Redirect(w, r, section+"/"+url.PathEscape(queued.UUID), "queued")
}
