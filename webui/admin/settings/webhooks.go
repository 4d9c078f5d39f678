package settings

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

const webhooksPath = section + "/webhooks"

func (s *Settings) mountWebhooks(r webui.Router) {
	r.Handle("GET "+webhooksPath, s.webhooks)
	r.Handle("GET "+webhooksPath+"/new", s.newWebhook)
	r.Handle("POST "+webhooksPath+"/new", s.createWebhook)
	r.Handle("GET "+webhooksPath+"/{id}", s.webhook)
	r.Handle("GET "+webhooksPath+"/{id}/edit", s.editWebhook)
	r.Handle("POST "+webhooksPath+"/{id}/edit", s.changeWebhook)
	r.Handle("POST "+webhooksPath+"/{id}/secret", s.rotateSecret)
	r.Handle("POST "+webhooksPath+"/{id}/test", s.testWebhook)
	r.Handle("POST "+webhooksPath+"/{id}/enable", s.enableWebhook)
	r.Handle("POST "+webhooksPath+"/{id}/disable", s.disableWebhook)
	r.Handle("POST "+webhooksPath+"/{id}/redeliver", s.redeliverAll)
	r.Handle("GET "+webhooksPath+"/{id}/delete", s.askDeleteWebhook)
	r.Handle("POST "+webhooksPath+"/{id}/delete", s.deleteWebhook)
	r.Handle("GET "+webhooksPath+"/{id}/deliveries/{delivery}", s.delivery)
	r.Handle("POST "+webhooksPath+"/{id}/deliveries/{delivery}/redeliver", s.redeliver)
}

// hook is a webhook as the API has it.
type hook struct {
	ID             string     `json:"id"`
	Name           string     `json:"name"`
	TargetURL      string     `json:"url"`
	Format         string     `json:"format"`
	SecretSet      bool       `json:"secret_set"`
	OldSecretUntil *time.Time `json:"old_secret_until"`
	Events         []string   `json:"events"`
	DeviceIDs      []string   `json:"device_ids"`
	RawPayloads    bool       `json:"raw_payloads"`
	AllowPrivate   bool       `json:"allow_private"`
	HeaderNames    []string   `json:"header_names"`
	Enabled        bool       `json:"enabled"`
	DisabledReason *string    `json:"disabled_reason"`
	State          string     `json:"state"` // ok, failing or disabled
	Queue          struct {
		Pending   int        `json:"pending"`
		OldestAt  *time.Time `json:"oldest_at"`
		Dead      int        `json:"dead"`
		Dropped   int        `json:"dropped"`
		DroppedAt *time.Time `json:"dropped_at"`
	} `json:"queue"`
	Health struct {
		Failures        int        `json:"failures"`
		FailingSince    *time.Time `json:"failing_since"`
		PausedUntil     *time.Time `json:"paused_until"`
		LastError       string     `json:"last_error"`
		LastErrorAt     *time.Time `json:"last_error_at"`
		LastDeliveredAt *time.Time `json:"last_delivered_at"`
	} `json:"health"`
}

// URL is the webhook's page.
func (h hook) URL() string { return escaped(webhooksPath+"/%s", h.ID) }

// Host is where it is: what is behind the host may be a secret.
func (h hook) Host() string {
	if u, err := url.Parse(h.TargetURL); err == nil {
		return u.Host
	}
	return h.TargetURL
}

// FormatName is what its format is called.
func (h hook) FormatName() string {
	if h.Format == "cloudevents" {
		return "CloudEvents"
	}
	return "NanoMDM"
}

// Stands is how it does, for people.
func (h hook) Stands() view.State {
	switch {
	case h.State == "disabled" && h.DisabledReason != nil:
		return view.State{Text: "Off: it says it is gone", Tone: view.Bad}
	case h.State == "disabled":
		return view.State{Text: "Off"}
	case h.State == "failing":
		return view.State{Text: "Failing", Tone: view.Bad}
	case h.Queue.Dead > 0:
		return view.State{Text: "Given up on " + admin.Number(h.Queue.Dead), Tone: view.Waiting}
	}
	return view.State{Text: "Works", Tone: view.Good}
}

func (s *Settings) hooks(r *http.Request) (list []hook, err error) {
	var all admin.List[hook]
	err = s.desk.Get(r.Context(), "/api/v1/webhooks", nil, &all)
	return all.Items, err
}

func (s *Settings) hook(r *http.Request) (h hook, err error) {
	err = s.desk.Get(r.Context(), escaped("/api/v1/webhooks/%s", r.PathValue("id")), nil, &h)
	return h, err
}

func (s *Settings) webhooksCard(r *http.Request) (card, error) {
	all, err := s.hooks(r)
	c := card{Label: "Webhooks", URL: webhooksPath, Text: "Other servers that are told what happens", State: view.State{Text: "None"}}
	if len(all) > 0 {
		c.State = view.State{Text: admin.Count(len(all), "webhook", "webhooks"), Tone: view.Good}
	}
	for _, h := range all {
		if stands := h.Stands(); stands.Tone == view.Bad {
			c.State = view.State{Text: h.Name + ": " + stands.Text, Tone: view.Bad}
		}
	}
	return c, err
}

type webhooksPage struct {
	admin.Page
	Items []hook
	Empty *admin.Empty
}

func (s *Settings) webhooks(w http.ResponseWriter, r *http.Request) error {
	all, err := s.hooks(r)
	if err != nil {
		return err
	}
	page := &webhooksPage{Page: admin.Page{Title: "Webhooks", Section: section, Crumbs: crumbs(), Watch: "webhook.", Every: 30}, Items: all}
	if len(all) == 0 {
		page.Empty = &admin.Empty{
			Heading: "No webhooks yet", Text: "A webhook tells another server, such as a chat, a ticket system or a program of yours, when something happens. What can’t be delivered is tried again for days.",
			Actions: []view.Link{{Label: "New webhook", URL: webhooksPath + "/new"}},
		}
	}
	return s.desk.Write(w, r, s.pages, "webhooks.html", page)
}

// delivered is one delivery of a webhook.
type delivered struct {
	ID            string     `json:"id"`
	Topic         string     `json:"topic"`
	EventID       string     `json:"event_id"`
	DeviceID      *string    `json:"device_id"`
	State         string     `json:"state"` // pending, delivered or dead
	CreatedAt     time.Time  `json:"created_at"`
	NextAttemptAt *time.Time `json:"next_attempt_at"`
	FinishedAt    *time.Time `json:"finished_at"`
	AttemptsMade  int        `json:"attempts_made"`
	Attempts      []attempt  `json:"attempts"`
	Answer        string     `json:"answer"`
}

// attempt is one request to a target.
type attempt struct {
	At         time.Time `json:"at"`
	DurationMS int64     `json:"duration_ms"`
	Status     *int      `json:"status"`
	Step       *string   `json:"step"`
	Error      string    `json:"error"`
}

// Result says what came of it.
func (a attempt) Result() string {
	switch {
	case a.Error != "" && a.Status != nil:
		return fmt.Sprintf("%d: %s", *a.Status, a.Error)
	case a.Error != "":
		return a.Error
	case a.Status != nil:
		return fmt.Sprintf("Taken (%d)", *a.Status)
	}
	return "Taken"
}

// Took is how long it took.
func (a attempt) Took() string { return fmt.Sprintf("%d ms", a.DurationMS) }

// Stands is its state for people.
func (d delivered) Stands() view.State {
	switch d.State {
	case "delivered":
		return view.State{Text: "Delivered", Tone: view.Good}
	case "dead":
		return view.State{Text: "Given up", Tone: view.Bad}
	}
	if d.AttemptsMade > 0 {
		return view.State{Text: "Tried " + admin.Count(d.AttemptsMade, "time", "times"), Tone: view.Waiting}
	}
	return view.State{Text: "Waits", Tone: view.Waiting}
}

// Last says what came of the last request.
func (d delivered) Last() string {
	if len(d.Attempts) == 0 {
		return ""
	}
	return d.Attempts[len(d.Attempts)-1].Result()
}

// sending is when a delivery is sent next.
type sending struct {
	At  *view.Moment // nil: what Why says
	Why string
}

// next says when a delivery that waits is sent. None is sent on its own account while the
// webhook is off, or rests after requests that failed.
func (h hook) next(d delivered, now time.Time) sending {
	at := d.NextAttemptAt
	switch {
	case !d.Waits():
		return sending{}
	case !h.Enabled:
		return sending{Why: "Once the webhook is switched on"}
	case h.Health.PausedUntil != nil && (at == nil || at.Before(*h.Health.PausedUntil)):
		at = h.Health.PausedUntil
	}
	if at == nil || !at.After(now) {
		return sending{Why: "Now, or after those before it"}
	}
	return sending{At: &view.Moment{At: *at, Now: now}}
}

// Waits says that it is yet to be sent.
func (d delivered) Waits() bool { return d.State == "pending" }

// tested is what a test found.
type tested struct {
	OK bool `json:"ok"`
	attempt
	Answer string `json:"answer"`
}

type hookPage struct {
	admin.Page
	Hook       hook
	Facts      []admin.Fact
	Deliveries []delivered
	Pager      admin.Pager
	Tabs       []tab
	Test       *tested
	Secret     string // just made: shown this once
	now        time.Time
}

// Next is when a delivery is sent next.
func (p *hookPage) Next(d delivered) sending { return p.Hook.next(d, p.now) }

// tab is a link among others.
type tab struct {
	Label, URL string
	Current    bool
}

// Address is where a delivery's page is.
func (p *hookPage) Address(d delivered) string {
	return p.Hook.URL() + "/deliveries/" + url.PathEscape(d.ID)
}

func (s *Settings) webhook(w http.ResponseWriter, r *http.Request) error {
	return s.writeHook(w, r, nil, "")
}

func (s *Settings) writeHook(w http.ResponseWriter, r *http.Request, test *tested, secret string) error {
	h, err := s.hook(r)
	if err != nil {
		return err
	}
	page := &hookPage{
		Page: admin.Page{Title: h.Name, Section: section, Crumbs: crumbs(link("Webhooks", webhooksPath)), Watch: "webhook.", Every: 15},
		Hook: h, Test: test, Secret: secret, now: s.desk.Now(),
	}
	if secret != "" || test != nil {
		page.Watch, page.Every = "", 0 // it is the answer to a form: there is nothing to fetch again
	}
	state := r.URL.Query().Get("state")
	query := url.Values{"limit": {"25"}}
	for _, name := range []string{"state", "cursor"} {
		if v := r.URL.Query().Get(name); v != "" {
			query.Set(name, v)
		}
	}
	var list admin.List[delivered]
	if err := s.desk.Get(r.Context(), escaped("/api/v1/webhooks/%s/deliveries", h.ID), query, &list); err != nil {
		return err
	}
	page.Deliveries, page.Pager = list.Items, admin.NewPager(r, list.NextCursor)
	for _, t := range []struct{ label, state string }{{"All", ""}, {"Waiting", "pending"}, {"Given up", "dead"}, {"Delivered", "delivered"}} {
		at := h.URL()
		if t.state != "" {
			at += "?state=" + t.state
		}
		page.Tabs = append(page.Tabs, tab{t.label, at, t.state == state})
	}
	page.Facts = s.hookFacts(h)
	return s.desk.Write(w, r, s.pages, "webhook.html", page)
}

func (s *Settings) hookFacts(h hook) []admin.Fact {
	moment := func(label string, at *time.Time) admin.Fact {
		m := s.desk.Moment(at)
		return admin.Fact{Label: label, Moment: &m}
	}
	facts := []admin.Fact{
		{Label: "Host", Value: h.Host(), Hint: "The rest of the address may be a secret: it is only in the form"},
		{Label: "Format", Value: h.FormatName()},
	}
	events := admin.Fact{Label: "Told of", Value: "Everything"}
	if len(h.Events) > 0 {
		events.Value = strings.Join(h.Events, ", ")
	}
	if len(h.DeviceIDs) > 0 {
		events.Hint = "Of " + admin.Count(len(h.DeviceIDs), "device", "devices") + " only"
	}
	facts = append(facts, events)
	secret := admin.Fact{Label: "Signed", Value: "No: there is no secret"}
	if h.SecretSet {
		secret.Value = "By a secret"
	}
	if h.OldSecretUntil != nil {
		secret.Hint = "And by the one before until " + h.OldSecretUntil.UTC().Format("2 Jan 2006 15:04 UTC")
	}
	facts = append(facts, secret, moment("Last delivered", h.Health.LastDeliveredAt))
	waiting := admin.Fact{Label: "Waiting", Value: admin.Number(h.Queue.Pending)}
	facts = append(facts, waiting)
	if h.Queue.OldestAt != nil {
		facts = append(facts, moment("The oldest of them", h.Queue.OldestAt))
	}
	facts = append(facts, admin.Fact{Label: "Given up", Value: admin.Number(h.Queue.Dead)})
	if h.Queue.Dropped > 0 {
		facts = append(facts, admin.Fact{Label: "Left out", Value: admin.Number(h.Queue.Dropped), Hint: "Too many waited"})
	}
	if h.Health.FailingSince != nil {
		facts = append(facts, moment("Failing since", h.Health.FailingSince))
	}
	if h.Health.PausedUntil != nil {
		facts = append(facts, moment("Next try", h.Health.PausedUntil))
	}
	return facts
}

// eventType is one that webhooks can be told of.
type eventType struct {
	Action string `json:"action"`
	Text   string `json:"text"`
}

// area is what event types have in common.
type area struct {
	Prefix string // "device."
	Label  string
	Types  []eventType
}

// messages are what devices send, in the words of NanoMDM's schema.
var messages = []eventType{
	{"mdm.Authenticate", "A device begins to enroll"},
	{"mdm.TokenUpdate", "A device enrolled, or has another push token"},
	{"mdm.CheckOut", "A device was taken out of management"},
	{"mdm.Connect", "A device polls, or answers a command"},
	{"mdm.UserAuthenticate", "A user of a Mac signs in"},
	{"mdm.SetBootstrapToken", "A Mac hands in its bootstrap token"},
	{"mdm.GetBootstrapToken", "A Mac asks for its bootstrap token"},
	{"mdm.DeclarativeManagement", "Declarative management"},
	{"mdm.GetToken", "A device asks for a token"},
}

var errNoWebhooks = &webui.Problem{
	Status: http.StatusForbidden, Code: "forbidden", Title: "Webhooks are for administrators",
	Detail: "A webhook is told what happens with all devices. Administrators and owners whose role is not limited to groups see and make them.",
}

type hookForm struct {
	admin.Page
	Form   *admin.Form
	Hook   *hook // nil: a new one
	Areas  []area
	Action string
	Back   string
}

// Messages are what the format of NanoMDM tells.
func (p *hookForm) Messages() []eventType { return messages }

// Formats are those of webhooks.
func (p *hookForm) Formats() []admin.Option {
	return []admin.Option{
		{Value: "cloudevents", Label: "CloudEvents", Hint: "What happens here, as in the audit log: for new programs"},
		{Value: "nanomdm", Label: "NanoMDM", Hint: "What devices send, as NanoMDM and MicroMDM post it: for programs that know them"},
	}
}

// Secrets say where the secret of a new webhook comes from.
func (p *hookForm) Secrets() []admin.Option {
	return []admin.Option{
		{Value: "make", Label: "Make one", Hint: "It is shown once"},
		{Value: "own", Label: "Use this one"},
		{Value: "none", Label: "Don’t sign", Hint: "The target can’t tell who sends"},
	}
}

// Chosen are the areas and topics of the form.
func (p *hookForm) Chosen(prefix string) bool { return p.Form.Has("event", prefix) }

func (s *Settings) newWebhook(w http.ResponseWriter, r *http.Request) error {
	if !s.desk.May(r.Context(), "POST /api/v1/webhooks") {
		return errNoWebhooks
	}
	return s.writeHookForm(w, r, http.StatusOK, nil, admin.NewForm("format", "cloudevents", "secret_from", "make", "enabled", "true"))
}

func (s *Settings) writeHookForm(w http.ResponseWriter, r *http.Request, status int, h *hook, f *admin.Form) error {
	var types admin.List[eventType]
	if err := s.desk.Get(r.Context(), "/api/v1/event-types", nil, &types); err != nil {
		return err
	}
	page := &hookForm{
		Page: admin.Page{Title: "New webhook", Section: section, Crumbs: crumbs(link("Webhooks", webhooksPath))},
		Form: f, Hook: h, Action: webhooksPath + "/new", Back: webhooksPath,
	}
	if h != nil {
		page.Title, page.Action, page.Back = "Change "+h.Name, h.URL()+"/edit", h.URL()
		page.Crumbs = crumbs(link("Webhooks", webhooksPath), link(h.Name, h.URL()))
	}
	for _, t := range types.Items {
		prefix, _, _ := strings.Cut(t.Action, ".")
		if prefix += "."; len(page.Areas) == 0 || page.Areas[len(page.Areas)-1].Prefix != prefix {
			page.Areas = append(page.Areas, area{Prefix: prefix, Label: admin.Area(strings.TrimSuffix(prefix, "."))})
		}
		last := &page.Areas[len(page.Areas)-1]
		last.Types = append(last.Types, t)
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "webhook-form.html", page)
}

// asked is what a form says of a webhook of a format. Boxes of the other format, which the
// page hides, may be ticked still.
func asked(f *admin.Form, format string) map[string]any {
	events := slices.DeleteFunc(slices.Clone(f.Values["event"]), func(e string) bool {
		message := strings.HasPrefix(e, "mdm.")
		return message != (format == "nanomdm") && !(message && f.Has("raw_payloads", "true"))
	})
	for _, line := range f.Lines("events") {
		events = append(events, strings.Fields(strings.ReplaceAll(line, ",", " "))...)
	}
	slices.Sort(events)
	in := map[string]any{
		"name": f.Get("name"), "url": f.Get("url"), "events": append([]string{}, slices.Compact(events)...), "device_ids": append([]string{}, f.Lines("device_ids")...),
		"raw_payloads": f.Has("raw_payloads", "true"), "allow_private": f.Has("allow_private", "true"), "enabled": f.Has("enabled", "true"),
	}
	headers := map[string]string{}
	for _, line := range f.Lines("headers") {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			f.Fail("headers", "Each line is a name, a colon and a value, such as Authorization: Bearer …")
		}
		headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	if len(headers) > 0 || f.Has("no_headers", "true") {
		in["headers"] = headers
	}
	return in
}

// refusedHook says at the form's fields what the API has against them.
func refusedHook(f *admin.Form, err error) bool {
	if !f.Refused(err) {
		return false
	}
	f.Error = "" // what follows is at the fields
	for name, detail := range f.Errors {
		for _, list := range []string{"events", "device_ids", "headers"} {
			if rest, ok := strings.CutPrefix(name, list); ok && rest != "" {
				delete(f.Errors, name)
				f.Fail(list, "%s %s", strings.Trim(rest, "[]."), detail)
			}
		}
	}
	if len(f.Errors) == 0 {
		return f.Refused(err)
	}
	return true
}

// newSecret is a secret as Standard Webhooks writes it, of 192 bits.
func newSecret() string {
	key := make([]byte, 24)
	_, _ = rand.Read(key)
	return "whsec_" + base64.StdEncoding.EncodeToString(key)
}

func (s *Settings) createWebhook(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	in := asked(f, f.Get("format"))
	in["format"] = f.Get("format")
	made := ""
	switch f.Get("secret_from") {
	case "own":
		if in["secret"] = f.Values.Get("secret"); in["secret"] == "" {
			f.Fail("secret", "Type the secret, or have one made.")
		}
	case "none":
	default:
		made = newSecret()
		in["secret"] = made
	}
	var h hook
	if f.OK() {
		err := s.desk.Send(r.Context(), http.MethodPost, "/api/v1/webhooks", in, &h)
		switch {
		case err == nil && made == "":
			return admin.Redirect(w, r, h.URL(), "created")
		case err == nil:
			r.SetPathValue("id", h.ID)
			return s.writeHook(w, r, nil, made)
		case !refusedHook(f, err):
			return err
		}
	}
	return s.writeHookForm(w, r, http.StatusUnprocessableEntity, nil, f)
}

func (s *Settings) editWebhook(w http.ResponseWriter, r *http.Request) error {
	h, err := s.hook(r)
	if err != nil {
		return err
	}
	f := admin.NewForm("name", h.Name, "url", h.TargetURL, "format", h.Format, "raw_payloads", yes(h.RawPayloads), "allow_private", yes(h.AllowPrivate),
		"enabled", yes(h.Enabled), "device_ids", strings.Join(h.DeviceIDs, "\n"))
	var exact []string
	for _, e := range h.Events {
		if strings.HasSuffix(e, ".") || strings.HasPrefix(e, "mdm.") {
			f.Values.Add("event", e)
		} else {
			exact = append(exact, e)
		}
	}
	f.Values.Set("events", strings.Join(exact, "\n"))
	return s.writeHookForm(w, r, http.StatusOK, &h, f)
}

func (s *Settings) changeWebhook(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	h, err := s.hook(r)
	if err != nil {
		return err
	}
	in := asked(f, h.Format)
	if f.OK() {
		err := s.desk.Send(r.Context(), http.MethodPatch, escaped("/api/v1/webhooks/%s", h.ID), in, nil)
		if err == nil {
			return admin.Redirect(w, r, h.URL(), "saved")
		}
		if !refusedHook(f, err) {
			return err
		}
	}
	return s.writeHookForm(w, r, http.StatusUnprocessableEntity, &h, f)
}

// rotateSecret makes another secret, and shows it once. For a day the one before signs, too.
func (s *Settings) rotateSecret(w http.ResponseWriter, r *http.Request) error {
	made := newSecret()
	err := s.desk.Send(r.Context(), http.MethodPatch, escaped("/api/v1/webhooks/%s", r.PathValue("id")), map[string]any{"secret": made}, nil)
	if err != nil {
		return err
	}
	return s.writeHook(w, r, nil, made)
}

func (s *Settings) testWebhook(w http.ResponseWriter, r *http.Request) error {
	test := &tested{}
	if err := s.desk.Send(r.Context(), http.MethodPost, escaped("/api/v1/webhooks/%s/test", r.PathValue("id")), nil, test); err != nil {
		return err
	}
	return s.writeHook(w, r, test, "")
}

// then sends something about a webhook, and goes back to its page.
func (s *Settings) then(w http.ResponseWriter, r *http.Request, method, path string, in any, done string) error {
	if err := s.desk.Send(r.Context(), method, escaped("/api/v1/webhooks/%s", r.PathValue("id"))+path, in, nil); err != nil {
		return err
	}
	return admin.Redirect(w, r, escaped(webhooksPath+"/%s", r.PathValue("id")), done)
}

func (s *Settings) enableWebhook(w http.ResponseWriter, r *http.Request) error {
	return s.then(w, r, http.MethodPost, "/enable", nil, "enabled")
}

func (s *Settings) disableWebhook(w http.ResponseWriter, r *http.Request) error {
	return s.then(w, r, http.MethodPatch, "", map[string]any{"enabled": false}, "disabled")
}

func (s *Settings) redeliverAll(w http.ResponseWriter, r *http.Request) error {
	return s.then(w, r, http.MethodPost, "/redeliver?state=dead", nil, "redelivering")
}

func (s *Settings) askDeleteWebhook(w http.ResponseWriter, r *http.Request) error {
	h, err := s.hook(r)
	if err != nil {
		return err
	}
	text := "It is told of nothing any more."
	if h.Queue.Pending > 0 {
		text += " What waits for it, " + admin.Count(h.Queue.Pending, "delivery", "deliveries") + ", is not sent."
	}
	return s.desk.Confirm(w, r, &admin.Confirm{
		Page:    admin.Page{Section: section, Crumbs: crumbs(link("Webhooks", webhooksPath), link(h.Name, h.URL()))},
		Heading: "Delete " + h.Name + "?", Text: []string{text}, Button: "Delete", Danger: true, Action: h.URL() + "/delete", Back: h.URL(),
	})
}

func (s *Settings) deleteWebhook(w http.ResponseWriter, r *http.Request) error {
	if err := s.desk.Send(r.Context(), http.MethodDelete, escaped("/api/v1/webhooks/%s", r.PathValue("id")), nil, nil); err != nil {
		return err
	}
	return admin.Redirect(w, r, webhooksPath, "deleted")
}

type deliveryPage struct {
	admin.Page
	Hook     hook
	Delivery delivered
	Facts    []admin.Fact
	Action   string
}

func (s *Settings) delivery(w http.ResponseWriter, r *http.Request) error {
	h, err := s.hook(r)
	if err != nil {
		return err
	}
	var d delivered
	path := escaped("/api/v1/webhooks/%s/deliveries/", h.ID) + url.PathEscape(r.PathValue("delivery"))
	if err := s.desk.Get(r.Context(), path, nil, &d); err != nil {
		return err
	}
	created, finished := view.Moment{At: d.CreatedAt, Now: s.desk.Now()}, s.desk.Moment(d.FinishedAt)
	page := &deliveryPage{
		Page: admin.Page{Title: "Delivery", Section: section, Crumbs: crumbs(link("Webhooks", webhooksPath), link(h.Name, h.URL())), Every: 10},
		Hook: h, Delivery: d, Action: h.URL() + "/deliveries/" + url.PathEscape(d.ID) + "/redeliver",
		Facts: []admin.Fact{{Label: "Topic", Value: d.Topic, Mono: true}, {Label: "Event", Value: d.EventID, Mono: true}, {Label: "Happened", Moment: &created}},
	}
	if d.DeviceID != nil {
		page.Facts = append(page.Facts, admin.Fact{Label: "Device", Value: *d.DeviceID, URL: "/admin/devices/" + url.PathEscape(*d.DeviceID)})
	}
	if d.Waits() {
		next := h.next(d, s.desk.Now())
		page.Facts = append(page.Facts, admin.Fact{Label: "Next try", Value: next.Why, Moment: next.At})
	}
	if d.FinishedAt != nil {
		page.Facts = append(page.Facts, admin.Fact{Label: "Finished", Moment: &finished})
	}
	return s.desk.Write(w, r, s.pages, "delivery.html", page)
}

func (s *Settings) redeliver(w http.ResponseWriter, r *http.Request) error {
	path := escaped("/api/v1/webhooks/%s/deliveries/", r.PathValue("id")) + url.PathEscape(r.PathValue("delivery"))
	if err := s.desk.Send(r.Context(), http.MethodPost, path+"/redeliver", nil, nil); err != nil {
		return err
	}
	return admin.Redirect(w, r, escaped(webhooksPath+"/%s/deliveries/", r.PathValue("id"))+url.PathEscape(r.PathValue("delivery")), "redelivering")
}
