package settings

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

const (
	pushPath     = section + "/push"
	newPushPath  = pushPath + "/new"
	requestsPath = pushPath + "/requests"
	topicsPath   = pushPath + "/topics"
	havePath     = pushPath + "/upload"
	vendorPath   = pushPath + "/vendor"
)

// mountPush registers the pages of push certificates: the wizard, and each topic.
func (s *Settings) mountPush(r, uploads webui.Router) {
	r.Handle("GET "+pushPath, s.push)
	r.Handle("GET "+newPushPath, s.newRequest)
	r.Handle("POST "+newPushPath, s.makeRequest)
	r.Handle("GET "+requestsPath+"/{id}", s.request)
	r.Handle("GET "+requestsPath+"/{id}/csr", s.downloadRequest("csr"))
	r.Handle("GET "+requestsPath+"/{id}/file", s.downloadRequest("file"))
	uploads.Handle("POST "+requestsPath+"/{id}/mail", s.openMail)
	uploads.Handle("POST "+requestsPath+"/{id}/certificate", s.answerRequest)
	r.Handle("POST "+requestsPath+"/{id}/delete", s.deleteRequest)
	r.Handle("GET "+havePath, s.have)
	uploads.Handle("POST "+havePath, s.takeCertificate)
	r.Handle("GET "+topicsPath+"/{topic}", s.topic)
	r.Handle("POST "+topicsPath+"/{topic}", s.changeTopic)
	r.Handle("GET "+topicsPath+"/{topic}/activate", s.askActivate)
	r.Handle("POST "+topicsPath+"/{topic}/activate", s.activate)
	r.Handle("GET "+topicsPath+"/{topic}/delete", s.askDeleteTopic)
	r.Handle("POST "+topicsPath+"/{topic}/delete", s.deleteTopic)
	r.Handle("GET "+vendorPath, s.vendor)
	uploads.Handle("POST "+vendorPath, s.putVendor)
	r.Handle("POST "+vendorPath+"/delete", s.deleteVendor)
}

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

// pushRequest is a request for a certificate.
type pushRequest struct {
	ID           string     `json:"id"`
	Kind         string     `json:"kind"`
	State        string     `json:"state"`
	AppleAccount string     `json:"apple_account"`
	Renews       string     `json:"renews"`
	CommonName   string     `json:"common_name"`
	Email        string     `json:"email"`
	HasFile      bool       `json:"has_file"`
	Topic        string     `json:"topic"`
	CreatedAt    time.Time  `json:"created_at"`
	FulfilledAt  *time.Time `json:"fulfilled_at"`
}

// URL is the request's page.
func (q pushRequest) URL() string { return escaped(requestsPath+"/%s", q.ID) }

// Name says what it is for.
func (q pushRequest) Name() string {
	if q.Renews != "" {
		return "Renewal"
	}
	return "New certificate"
}

// Stands is its state for people.
func (q pushRequest) Stands() view.State {
	switch q.State {
	case "open":
		return view.State{Text: "To be signed by a vendor", Tone: view.Waiting}
	case "mailed":
		return view.State{Text: "Waits for a mail", Tone: view.Waiting}
	case "signed":
		return view.State{Text: "Ready for Apple", Tone: view.Waiting}
	}
	return view.State{Text: "Done", Tone: view.Good}
}

func (s *Settings) pushCard(r *http.Request) (card, error) {
	o, err := s.topics(r)
	c := card{Label: "Push certificates", URL: pushPath, Text: "Apple’s permission to wake your devices: renewed once a year", State: view.State{Text: "None: no device can be woken", Tone: view.Bad}}
	worst := -1
	for _, t := range o.Items {
		if stands := t.Stands(); !t.Fresh() && (worst < 0 || t.DaysLeft < worst) {
			worst, c.State = t.DaysLeft, stands
		}
	}
	if len(o.Lost) > 0 && worst >= 0 {
		c.State = view.State{Text: "Devices without a certificate", Tone: view.Bad}
	}
	return c, err
}

type pushPage struct {
	admin.Page
	pushOverview
	Requests []pushRequest // that are not done
	Empty    *admin.Empty
	MayEdit  bool
	Demo     bool
}

// push shows the certificate of each topic, with its countdown.
func (s *Settings) push(w http.ResponseWriter, r *http.Request) error {
	o, err := s.topics(r)
	if err != nil {
		return err
	}
	page := &pushPage{
		Page:         admin.Page{Title: "Push certificates", Section: section, Crumbs: crumbs(), Watch: "push_"},
		pushOverview: o, MayEdit: s.desk.May(r.Context(), "POST /api/v1/push-certificate-requests"), Demo: s.desk.Demo,
	}
	if page.MayEdit {
		var requests admin.List[pushRequest]
		if err := s.desk.Get(r.Context(), "/api/v1/push-certificate-requests", nil, &requests); err != nil {
			return err
		}
		for _, q := range requests.Items {
			if q.State != "fulfilled" {
				page.Requests = append(page.Requests, q)
			}
		}
	}
	if len(o.Items) == 0 {
		page.Empty = &admin.Empty{
			Heading: "No push certificate yet",
			Text:    "Apple wakes devices only for who has one. Without it devices enroll, but commands wait until a device checks in by itself, and devices that enroll now have to enroll again later. It is free, lasts a year, and takes ten minutes.",
		}
		if page.MayEdit {
			page.Empty.Actions = []view.Link{{Label: "Get a push certificate", URL: newPushPath}, {Label: "Upload one that I have", URL: havePath}}
		}
	}
	return s.desk.Write(w, r, s.pages, "push.html", page)
}

type newRequestPage struct {
	admin.Page
	Form   *admin.Form
	Renews *pushTopic // nil: a new one
	Others []pushTopic
	Vendor bool // there is a vendor certificate
}

// Routes are the ways to have a request signed.
func (p *newRequestPage) Routes() []admin.Option {
	vendor := admin.Option{Value: "vendor", Label: "By my vendor certificate", Hint: "This server signs with the MDM vendor certificate of your developer account"}
	if !p.Vendor {
		vendor.Disabled, vendor.Hint = true, "Needs an MDM vendor certificate of an Apple developer account, which this server does not have yet"
	}
	return []admin.Option{
		{Value: "mdmcert", Label: "By mdmcert.download", Hint: "Free, for anybody with a work address. It mails you the file for Apple"},
		{Value: "csr", Label: "By another MDM vendor", Hint: "You download the request (CSR), and somebody with a vendor certificate signs it for you"},
		vendor,
	}
}

// newRequest is step 1: who signs the request.
func (s *Settings) newRequest(w http.ResponseWriter, r *http.Request) error {
	return s.writeNewRequest(w, r, http.StatusOK, r.URL.Query().Get("renews"), nil)
}

func (s *Settings) writeNewRequest(w http.ResponseWriter, r *http.Request, status int, renews string, f *admin.Form) error {
	o, err := s.topics(r)
	if err != nil {
		return err
	}
	page := &newRequestPage{Page: admin.Page{Title: "New push certificate", Section: section, Crumbs: crumbs(link("Push certificates", pushPath))}, Form: f}
	if renews != "" {
		if page.Renews = o.find(renews); page.Renews == nil {
			return &webui.Problem{Status: http.StatusNotFound, Code: "not_found", Title: "There is no such push certificate", Detail: "It was deleted meanwhile."}
		}
		page.Title = "Renew a push certificate"
	} else {
		page.Others = o.served("")
	}
	err = s.desk.Get(r.Context(), "/api/v1/push-vendor-certificate", nil, &struct{}{})
	var missing *admin.Problem
	if page.Vendor = err == nil; err != nil && (!errors.As(err, &missing) || missing.Status != http.StatusNotFound) {
		return err
	}
	if page.Form == nil {
		d, err := s.decided(r)
		if err != nil {
			return err
		}
		page.Form = admin.NewForm("kind", "mdmcert", "organization", d.Organisation.Name)
		if page.Vendor {
			page.Form.Values.Set("kind", "vendor")
		}
		if page.Renews != nil {
			page.Form.Values.Set("apple_account", page.Renews.AppleAccount)
		}
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "push-new.html", page)
}

func (s *Settings) makeRequest(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	in := map[string]any{"kind": f.Get("kind")}
	for _, name := range []string{"apple_account", "renews", "organization", "country"} {
		if v := f.Get(name); v != "" {
			in[name] = v
		}
	}
	if f.Get("kind") == "mdmcert" { // the fields of other kinds may be filled in all the same
		in["email"], in["api_key"] = f.Get("email"), f.Values.Get("api_key")
	}
	var made pushRequest
	err = s.desk.Send(r.Context(), http.MethodPost, "/api/v1/push-certificate-requests", in, &made)
	if err == nil {
		return admin.Redirect(w, r, made.URL(), "")
	}
	if !refusedUpstream(f, err) && !f.Refused(err) {
		return err
	}
	return s.writeNewRequest(w, r, http.StatusUnprocessableEntity, f.Get("renews"), f)
}

// refusedUpstream says at the form that somebody else’s server failed.
func refusedUpstream(f *admin.Form, err error) bool {
	var p *admin.Problem
	if !errors.As(err, &p) || p.Status != http.StatusBadGateway {
		return false
	}
	f.Error = p.Title + ". " + p.Detail
	return true
}

type requestPage struct {
	admin.Page
	Request pushRequest
	Renews  *pushTopic // what it renews, as it is now
	Form    *admin.Form
	Mail    *admin.Form
	Step    int
}

// Account is who is to sign in at Apple.
func (p *requestPage) Account() string {
	return cmp.Or(p.Request.AppleAccount, "the Apple Account that the certificate was made with")
}

func (s *Settings) request(w http.ResponseWriter, r *http.Request) error {
	return s.writeRequest(w, r, http.StatusOK, nil, nil)
}

// writeRequest shows what is to be done with a request: steps 2 and 3.
func (s *Settings) writeRequest(w http.ResponseWriter, r *http.Request, status int, form, mail *admin.Form) error {
	page := &requestPage{Form: form, Mail: mail, Step: 2}
	if err := s.desk.Get(r.Context(), escaped("/api/v1/push-certificate-requests/%s", r.PathValue("id")), nil, &page.Request); err != nil {
		return err
	}
	if page.Form == nil {
		page.Form = admin.NewForm("apple_account", page.Request.AppleAccount)
	}
	if page.Mail == nil {
		page.Mail = admin.NewForm()
	}
	if page.Request.Renews != "" {
		o, err := s.topics(r)
		if err != nil {
			return err
		}
		page.Renews = o.find(page.Request.Renews)
	}
	page.Page = admin.Page{Title: page.Request.Name(), Section: section, Crumbs: crumbs(link("Push certificates", pushPath))}
	return s.desk.WriteStatus(w, r, status, s.pages, "push-request.html", page)
}

func (s *Settings) downloadRequest(what string) webui.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		return s.desk.Forward(w, r, escaped("/api/v1/push-certificate-requests/%s/", r.PathValue("id"))+what, nil)
	}
}

func (s *Settings) deleteRequest(w http.ResponseWriter, r *http.Request) error {
	if err := s.desk.Send(r.Context(), http.MethodDelete, escaped("/api/v1/push-certificate-requests/%s", r.PathValue("id")), nil, nil); err != nil {
		return err
	}
	return admin.Redirect(w, r, pushPath, "deleted")
}

// openMail takes what mdmcert.download mailed.
func (s *Settings) openMail(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	content, _, err := f.File("mailed")
	if err != nil {
		return err
	}
	if len(content) == 0 {
		f.Fail("mailed", "Choose the attachment of the mail first.")
		return s.writeRequest(w, r, http.StatusUnprocessableEntity, nil, f)
	}
	path := escaped("/api/v1/push-certificate-requests/%s/mdmcert", r.PathValue("id"))
	_, err = s.desk.Do(r.Context(), http.MethodPost, path, "application/octet-stream", bytes.NewReader(content), nil)
	if err == nil {
		return admin.Redirect(w, r, escaped(requestsPath+"/%s", r.PathValue("id")), "")
	}
	if !atFile(f, err, "mailed") {
		return err
	}
	return s.writeRequest(w, r, http.StatusUnprocessableEntity, nil, f)
}

// atFile says at the field of a file what the API has against it.
func atFile(f *admin.Form, err error, field string) bool {
	if !f.Refused(err) {
		return false
	}
	if f.Error != "" && len(f.Errors) == 0 {
		f.Fail(field, "%s", f.Error)
		f.Error = ""
	}
	return true
}

// answerRequest is step 3: what Apple made of the request.
func (s *Settings) answerRequest(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	made, err := s.keep(r, f)
	switch {
	case err == nil && made != nil:
		return admin.Redirect(w, r, made.URL()+"/activate", "")
	case err != nil:
		return err
	}
	return s.writeRequest(w, r, http.StatusUnprocessableEntity, f, nil)
}

// keep has the certificate of a form wait to be activated; what serves, serves until then.
// Without an error and a topic, the form says what is wrong.
func (s *Settings) keep(r *http.Request, f *admin.Form) (*pushTopic, error) {
	content, _, err := f.File("file")
	if err != nil {
		return nil, err
	}
	key, _, err := f.File("key")
	if err != nil {
		return nil, err
	}
	if len(content) == 0 {
		f.Fail("file", "Choose the file that Apple gave you first.")
		return nil, nil
	}
	in := map[string]any{"file": content, "activate": false, "apple_account": f.Get("apple_account")}
	if len(key) > 0 {
		in["key"] = key
	}
	if password := f.Values.Get("password"); password != "" {
		in["password"] = password
	}
	made := &pushTopic{}
	err = s.desk.Send(r.Context(), http.MethodPost, "/api/v1/push-certificates/import", in, made)
	if err == nil {
		return made, nil
	}
	if !atFile(f, err, "file") {
		return nil, err
	}
	return nil, nil
}

type havePage struct {
	admin.Page
	Form *admin.Form
}

// have is for who has a certificate with its key already.
func (s *Settings) have(w http.ResponseWriter, r *http.Request) error {
	return s.writeHave(w, r, http.StatusOK, admin.NewForm())
}

func (s *Settings) writeHave(w http.ResponseWriter, r *http.Request, status int, f *admin.Form) error {
	return s.desk.WriteStatus(w, r, status, s.pages, "push-have.html", &havePage{
		Page: admin.Page{Title: "Upload a push certificate", Section: section, Crumbs: crumbs(link("Push certificates", pushPath))}, Form: f,
	})
}

func (s *Settings) takeCertificate(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	made, err := s.keep(r, f)
	switch {
	case err == nil && made != nil:
		return admin.Redirect(w, r, made.URL()+"/activate", "")
	case err != nil:
		return err
	}
	return s.writeHave(w, r, http.StatusUnprocessableEntity, f)
}

type topicPage struct {
	admin.Page
	Topic       pushTopic
	Facts       []admin.Fact
	Ready       []admin.Fact
	Form        *admin.Form
	MayEdit     bool
	MayDelete   bool
	JustChanged bool // the wizard ended here
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
		f = admin.NewForm("apple_account", t.AppleAccount)
	}
	page := &topicPage{
		Page:  admin.Page{Title: "Push certificate", Section: section, Crumbs: crumbs(link("Push certificates", pushPath)), Watch: "push_"},
		Topic: *t, Form: f, MayEdit: s.desk.May(r.Context(), "PUT /api/v1/push-certificates/{topic}"),
		MayDelete: s.desk.May(r.Context(), "DELETE /api/v1/push-certificates/{topic}"), JustChanged: r.URL.Query().Get("done") == "activated",
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

// second is what is to be typed to have a second topic.
const second = "second certificate"

type activatePage struct {
	admin.Page
	Topic     pushTopic
	New       held
	Old       *held       // nil: the topic has none yet
	Others    []pushTopic // where it is another topic than those there are: the red stop
	Form      *admin.Form
	MayDelete bool
}

// Word is what is to be typed at the red stop.
func (p *activatePage) Word() string { return second }

// SameEnd says that the new one does not last longer.
func (p *activatePage) SameEnd() bool { return p.Old != nil && !p.New.NotAfter.After(p.Old.NotAfter) }

// askActivate compares the certificate that waits with the one that serves. Another topic
// than all there are is a stop: no device can be woken by it.
func (s *Settings) askActivate(w http.ResponseWriter, r *http.Request) error {
	return s.writeActivate(w, r, http.StatusOK, admin.NewForm())
}

func (s *Settings) writeActivate(w http.ResponseWriter, r *http.Request, status int, f *admin.Form) error {
	o, t, err := s.findTopic(r)
	if err != nil {
		return err
	}
	if t.Ready == nil { // it was activated meanwhile, or is the one that serves already
		return admin.Redirect(w, r, t.URL(), "")
	}
	page := &activatePage{
		Page:  admin.Page{Title: "Activate a push certificate", Section: section, Crumbs: crumbs(link("Push certificates", pushPath))},
		Topic: *t, New: *t.Ready, Form: f, MayDelete: s.desk.May(r.Context(), "DELETE /api/v1/push-certificates/{topic}"),
	}
	if t.Fresh() {
		page.Others = o.served(t.Topic)
	} else {
		page.Old = &t.held
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "push-activate.html", page)
}

func (s *Settings) activate(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	o, t, err := s.findTopic(r)
	if err != nil {
		return err
	}
	other := t.Fresh() && len(o.served(t.Topic)) > 0
	if other && !f.Typed(second) {
		return s.writeActivate(w, r, http.StatusUnprocessableEntity, f)
	}
	path := escaped("/api/v1/push-certificates/%s", t.Topic)
	err = s.desk.Send(r.Context(), http.MethodPost, path+"/activate", nil, nil)
	if err == nil && other { // for new enrollments: the others keep waking the devices that they wake
		err = s.desk.Send(r.Context(), http.MethodPut, path, map[string]any{"default": true}, nil)
	}
	if err == nil {
		return admin.Redirect(w, r, t.URL(), "activated")
	}
	if !f.Refused(err) {
		return err
	}
	return s.writeActivate(w, r, http.StatusUnprocessableEntity, f)
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

type vendorPage struct {
	admin.Page
	Facts     []admin.Fact // none: there is no vendor certificate
	Warnings  []string
	Form      *admin.Form
	MayChange bool
}

func (s *Settings) vendor(w http.ResponseWriter, r *http.Request) error {
	return s.writeVendor(w, r, http.StatusOK, admin.NewForm())
}

func (s *Settings) writeVendor(w http.ResponseWriter, r *http.Request, status int, f *admin.Form) error {
	var v struct {
		Subject  string    `json:"subject"`
		Serial   string    `json:"serial"`
		NotAfter time.Time `json:"not_after"`
		SHA256   string    `json:"sha256"`
		Warnings []string  `json:"warnings"`
	}
	page := &vendorPage{
		Page: admin.Page{Title: "MDM vendor certificate", Section: section, Crumbs: crumbs(link("Push certificates", pushPath))},
		Form: f, MayChange: s.desk.May(r.Context(), "PUT /api/v1/push-vendor-certificate"),
	}
	err := s.desk.Get(r.Context(), "/api/v1/push-vendor-certificate", nil, &v)
	var missing *admin.Problem
	switch {
	case err == nil:
		until := view.Moment{At: v.NotAfter, Now: s.desk.Now()}
		page.Facts = []admin.Fact{
			{Label: "Subject", Value: v.Subject}, {Label: "Ends", Moment: &until}, {Label: "Serial number", Value: v.Serial, Mono: true}, {Label: "SHA-256", Value: pairs(v.SHA256), Mono: true},
		}
		page.Warnings = v.Warnings
	case !errors.As(err, &missing) || missing.Status != http.StatusNotFound:
		return err
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "push-vendor.html", page)
}

func (s *Settings) putVendor(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	content, _, err := f.File("file")
	if err != nil {
		return err
	}
	key, _, err := f.File("key")
	if err != nil {
		return err
	}
	if len(content) == 0 {
		f.Fail("file", "Choose the vendor certificate first.")
		return s.writeVendor(w, r, http.StatusUnprocessableEntity, f)
	}
	in := map[string]any{"file": content, "password": f.Values.Get("password")}
	if len(key) > 0 {
		in["key"] = key
	}
	err = s.desk.Send(r.Context(), http.MethodPut, "/api/v1/push-vendor-certificate", in, nil)
	if err == nil {
		return admin.Redirect(w, r, vendorPath, "uploaded")
	}
	if !atFile(f, err, "file") {
		return err
	}
	return s.writeVendor(w, r, http.StatusUnprocessableEntity, f)
}

func (s *Settings) deleteVendor(w http.ResponseWriter, r *http.Request) error {
	if err := s.desk.Send(r.Context(), http.MethodDelete, "/api/v1/push-vendor-certificate", nil, nil); err != nil {
		return err
	}
	return admin.Redirect(w, r, vendorPath, "deleted")
}
