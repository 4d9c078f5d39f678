package settings

import (
	"cmp"
	"fmt"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// held is a push certificate that is here.
type held struct {
	NotBefore  time.Time `json:"not_before"`
	NotAfter   time.Time `json:"not_after"`
	DaysLeft   int       `json:"days_left"`
	Serial     string    `json:"serial"`
	Issuer     string    `json:"issuer"`
	SHA256     string    `json:"sha256"`
	UploadedAt time.Time `json:"uploaded_at"`
}

// pushTopic is one topic and its certificate.
type pushTopic struct {
	Topic string `json:"topic"`
	held
	State        string   `json:"state"` // active, expired or ready
	Ready        *held    `json:"ready"`
	AppleAccount string   `json:"apple_account"`
	IsDefault    bool     `json:"is_default"`
	Devices      int      `json:"devices"`
	Warnings     []string `json:"warnings"`
}

// URL is the topic's page.
func (t pushTopic) URL() string { return escaped(topicsPath+"/%s", t.Topic) }

// RenewURL begins the wizard for the topic.
func (t pushTopic) RenewURL() string {
	return newPushPath + "?" + queryOf("renews", t.Topic)
}

// Served says whether devices can be woken by it now.
func (t pushTopic) Served() bool { return t.State == "active" }

// Fresh says that the first certificate of the topic waits to be activated.
func (t pushTopic) Fresh() bool { return t.State == "ready" }

// Urgent is when the renewal is the next thing to do.
func (t pushTopic) Urgent() bool { return t.State == "expired" || t.Served() && t.DaysLeft <= 30 }

// Woken names the devices that are woken by it.
func (t pushTopic) Woken() string { return admin.Count(t.Devices, "device", "devices") }

// Stands is its state for people: the countdown is in it.
func (t pushTopic) Stands() view.State {
	left := admin.Count(t.DaysLeft, "day", "days") + " left"
	switch {
	case t.Fresh():
		return view.State{Text: "Waits to be activated", Tone: view.Waiting}
	case t.State == "expired":
		return view.State{Text: "Expired", Tone: view.Bad}
	case t.DaysLeft <= 7:
		return view.State{Text: left, Tone: view.Bad}
	case t.DaysLeft <= 30:
		return view.State{Text: left, Tone: view.Waiting}
	}
	return view.State{Text: left, Tone: view.Good}
}

// Account is by whom it was made at Apple.
func (t pushTopic) Account() string {
	return cmp.Or(t.AppleAccount, "the Apple Account that it was made with")
}

// pushOverview is GET /api/v1/push-certificates.
type pushOverview struct {
	Items []pushTopic `json:"items"`
	Lost  []struct {
		Topic   string `json:"topic"`
		Devices int    `json:"devices"`
		Detail  string `json:"detail"`
	} `json:"lost"`
}

// find returns a topic; nil: there is none.
func (o pushOverview) find(topic string) *pushTopic {
	for i := range o.Items {
		if o.Items[i].Topic == topic {
			return &o.Items[i]
		}
	}
	return nil
}

// served are the topics beside one that have a certificate in service, or devices.
func (o pushOverview) served(beside string) (others []pushTopic) {
	for _, t := range o.Items {
		if t.Topic != beside && !t.Fresh() {
			others = append(others, t)
		}
	}
	return others
}

func (s *Settings) topics(r *http.Request) (o pushOverview, err error) {
	err = s.desk.Get(r.Context(), "/api/v1/push-certificates", nil, &o)
	return o, err
}

type topicPage struct {
	admin.Page
	Topic       pushTopic
	Facts       []admin.Fact
	Ready       []admin.Fact
	Form        *admin.Form
	MayEdit     bool
	MayDelete   bool
	Trial       *trial // nil: there is no device to push
	JustChanged bool   // the wizard ended here
}

func (s *Settings) heldFacts(h held) []admin.Fact {
	until, since, put := view.Moment{At: h.NotAfter, Now: s.desk.Now()}, view.Moment{At: h.NotBefore, Now: s.desk.Now()}, view.Moment{At: h.UploadedAt, Now: s.desk.Now()}
	return []admin.Fact{
		{Label: "Ends", Moment: &until, Hint: admin.Count(h.DaysLeft, "day", "days") + " left"}, {Label: "Valid from", Moment: &since},
		{Label: "Issuer", Value: h.Issuer}, {Label: "Serial number", Value: h.Serial, Mono: true},
		{Label: "Uploaded", Moment: &put}, {Label: "SHA-256", Value: pairs(h.SHA256), Mono: true},
	}
}

func (s *Settings) findTopic(r *http.Request) (o pushOverview, t *pushTopic, err error) {
	if o, err = s.topics(r); err != nil {
		return o, nil, err
	}
	if t = o.find(r.PathValue("topic")); t == nil {
		return o, nil, &webui.Problem{Status: http.StatusNotFound, Code: "not_found", Title: "There is no such push certificate", Detail: "It was deleted meanwhile."}
	}
	return o, t, nil
}

func (s *Settings) topic(w http.ResponseWriter, r *http.Request) error {
	return s.writeTopic(w, r, http.StatusOK, nil)
}

func (s *Settings) writeTopic(w http.ResponseWriter, r *http.Request, status int, f *admin.Form) error {
	_, t, err := s.findTopic(r)
	if err != nil {
		return err
	}
	if f == nil {
		f = admin.NewForm()
	}
	if !f.Values.Has("apple_account") { // what was posted is the page's other form
		f.Values.Set("apple_account", t.AppleAccount)
	}
	try, err := s.trial(r, t)
	if err != nil {
		return err
	}
	page := &topicPage{
		Page:  admin.Page{Title: "Push certificate", Section: section, Crumbs: crumbs(link("Push certificates", pushPath)), Watch: "push_"},
		Topic: *t, Form: f, MayEdit: s.desk.May(r.Context(), "PUT /api/v1/push-certificates/{topic}"),
		MayDelete: s.desk.May(r.Context(), "DELETE /api/v1/push-certificates/{topic}"), Trial: try, JustChanged: r.URL.Query().Get("done") == "activated",
	}
	page.Facts = append([]admin.Fact{
		{Label: "Topic", Value: t.Topic, Mono: true}, {Label: "Devices woken by it", Value: t.Woken()},
		{Label: "Apple Account", Value: cmp.Or(t.AppleAccount, "Not noted: note it below, the renewal needs it")},
	}, s.heldFacts(t.held)...)
	if t.Ready != nil && !t.Fresh() {
		page.Ready = s.heldFacts(*t.Ready)
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "push-topic.html", page)
}

// changeTopic notes the Apple Account, or makes the topic the one of new enrollments.
func (s *Settings) changeTopic(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	change := map[string]any{}
	if f.Values.Has("apple_account") {
		change["apple_account"] = f.Get("apple_account")
	}
	if f.Has("default", "true") {
		change["default"] = true
	}
	path := escaped("/api/v1/push-certificates/%s", r.PathValue("topic"))
	err = s.desk.Send(r.Context(), http.MethodPut, path, change, nil)
	if err == nil {
		return admin.Redirect(w, r, escaped(topicsPath+"/%s", r.PathValue("topic")), "saved")
	}
	if !f.Refused(err) {
		return err
	}
	return s.writeTopic(w, r, http.StatusUnprocessableEntity, f)
}

// confirmDelete is the page that asks before a topic is deleted.
func (s *Settings) confirmDelete(w http.ResponseWriter, r *http.Request, t *pushTopic, f *admin.Form) error {
	c := &admin.Confirm{
		Page:    admin.Page{Section: section, Crumbs: crumbs(link("Push certificates", pushPath))},
		Heading: "Delete this push certificate?",
		Text:    []string{"The certificate and its key are forgotten. The key can’t be had again; at Apple the certificate stays, and can be renewed with a new request."},
		Facts:   []admin.Fact{{Label: "Topic", Value: t.Topic, Mono: true}, {Label: "Apple Account", Value: cmp.Or(t.AppleAccount, "not noted")}, {Label: "Devices woken by it", Value: t.Woken()}},
		Button:  "Delete", Danger: true, Action: t.URL() + "/delete", Back: t.URL(), Form: f,
	}
	if t.Devices > 0 {
		c.Text = append(c.Text, fmt.Sprintf("Nobody can wake %s then: commands wait until the devices check in by themselves, and no other certificate can take over.", t.Woken()))
		c.Word, c.What = t.Woken(), "how many devices that is"
	}
	return s.desk.Confirm(w, r, c)
}

func (s *Settings) askDeleteTopic(w http.ResponseWriter, r *http.Request) error {
	_, t, err := s.findTopic(r)
	if err != nil {
		return err
	}
	return s.confirmDelete(w, r, t, nil)
}

func (s *Settings) deleteTopic(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	_, t, err := s.findTopic(r)
	if err != nil {
		return err
	}
	path := escaped("/api/v1/push-certificates/%s", t.Topic)
	if t.Devices > 0 {
		if !f.Typed(t.Woken()) {
			return s.confirmDelete(w, r, t, f)
		}
		path += "?force=true"
	}
	err = s.desk.Send(r.Context(), http.MethodDelete, path, nil, nil)
	if err == nil {
		return admin.Redirect(w, r, pushPath, "deleted")
	}
	if !f.Refused(err) {
		return err
	}
	return s.confirmDelete(w, r, t, f)
}
