package profiles

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/admin/targets"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

type sendPage struct {
	base
	Form     *admin.Form
	Targets  *targets.Part
	MaySend  bool
	Heading  string
	Lead     string
	Action   string
	Removing bool
}

// forecast is what would become of a profile that is sent.
type forecast struct {
	Summary  string    `json:"summary"`
	Total    int       `json:"total"`
	Accept   int       `json:"accept"`
	Reduced  int       `json:"reduced"`
	Verdicts []verdict `json:"verdicts"`
}

// verdict is the same answer for some devices.
type verdict struct {
	DeviceIDs []string  `json:"device_ids"`
	Code      string    `json:"code"`
	Reason    string    `json:"reason"`
	Findings  []finding `json:"findings"`
	LeftOut   []finding `json:"left_out"`

	Named targets.Named `json:"-"`
}

type sendReviewPage struct {
	base
	Form     *admin.Form
	Hidden   url.Values
	Forecast forecast
	Count    int    // devices that it goes to
	Word     string // to be typed; empty: nothing
	MaySend  bool
	Reduce   bool
	Action   string
}

// enrolled are the devices that "all" stands for when something is sent.
var enrolled = url.Values{"state": {"enrolled"}}

// send asks which devices a profile is for.
func (s *Profiles) send(w http.ResponseWriter, r *http.Request) error {
	form := admin.NewForm()
	for _, name := range []string{"device_id", "group_id"} {
		if values := r.URL.Query()[name]; len(values) > 0 {
			form.Values[name] = values
		}
	}
	if form.Get("group_id") != "" {
		form.Values.Set("who", targets.Group)
	}
	return s.showSend(w, r, form)
}

func (s *Profiles) showSend(w http.ResponseWriter, r *http.Request, form *admin.Form) error {
	b, err := s.base(r, "")
	if err != nil {
		return err
	}
	b.Watch = ""
	b.Crumbs = append(b.Crumbs, view.Link{Label: b.Profile.Name, URL: b.Profile.URL()})
	page := &sendPage{
		base: b, Form: form, MaySend: s.desk.May(r.Context(), "POST /api/v1/profiles/{id}/send"), Action: b.Profile.URL() + "/send",
		Heading: "Send " + b.Profile.Name, Lead: "First you see which devices would take it, and why others would not. Nothing is sent yet.",
	}
	if !page.MaySend {
		page.Heading, page.Lead = "Check devices for "+b.Profile.Name, "You see which of them would take it, and why others would not. Sending it takes the role of an admin."
	}
	page.Title = page.Heading
	return s.writeTargets(w, r, page, "All enrolled devices")
}

// writeTargets shows a page that asks which devices are meant.
func (s *Profiles) writeTargets(w http.ResponseWriter, r *http.Request, page *sendPage, all string) error {
	status := http.StatusOK
	if !page.Form.OK() {
		status = http.StatusUnprocessableEntity
	}
	var err error
	if page.Targets, err = targets.New(r.Context(), s.desk, page.Form, all); err != nil {
		return err
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "send.html", page)
}

// sendTo searches for devices, says what would become of a profile there, and sends it.
func (s *Profiles) sendTo(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	if form.Get("step") == "find" {
		return s.showSend(w, r, form)
	}
	devices, err := targets.Resolve(r.Context(), s.desk, form, enrolled)
	if err != nil {
		return err
	}
	if !form.OK() {
		return s.showSend(w, r, form)
	}
	b, err := s.base(r, "")
	if err != nil {
		return err
	}
	b.Watch = ""
	p := b.Profile
	b.Title = "Send " + p.Name
	b.Crumbs = append(b.Crumbs, view.Link{Label: p.Name, URL: p.URL()})
	page := &sendReviewPage{
		base: b, Form: form, Hidden: targets.Keep(form), Reduce: form.Has("reduce", "true"),
		MaySend: s.desk.May(r.Context(), "POST /api/v1/profiles/{id}/send"), Action: p.URL() + "/send",
	}
	ids := targets.IDs(devices)
	if err := s.desk.Send(r.Context(), http.MethodPost, p.path()+"/check", map[string]any{"device_ids": ids}, &page.Forecast); err != nil {
		if form.Refused(err) {
			return s.showSend(w, r, form)
		}
		return err
	}
	for i, v := range page.Forecast.Verdicts {
		page.Forecast.Verdicts[i].Named = targets.Name(devices, v.DeviceIDs)
	}
	page.Count = page.Forecast.Accept
	if page.Reduce {
		page.Count += page.Forecast.Reduced
	}
	page.Word = targets.Word(page.Count)
	if form.Get("step") != "send" || page.Word != "" && !form.Typed(page.Word) {
		return s.writeReview(w, r, page)
	}
	var sent struct {
		BatchID string `json:"batch_id"`
	}
	in := map[string]any{"device_ids": ids, "reduce": page.Reduce}
	if err := s.desk.Send(form.Once(r.Context()), http.MethodPost, p.path()+"/send", in, &sent); err != nil {
		if form.Refused(err) {
			return s.writeReview(w, r, page)
		}
		return err
	}
	return admin.Redirect(w, r, "/admin/commands/batches/"+url.PathEscape(sent.BatchID), "sent")
}

func (s *Profiles) writeReview(w http.ResponseWriter, r *http.Request, page *sendReviewPage) error {
	page.Form.Values.Del("once") // it was of what was sent, which may be changed now
	status := http.StatusOK
	if !page.Form.OK() {
		status = http.StatusUnprocessableEntity
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "sendreview.html", page)
}

// remove asks from which devices a profile is to be taken.
func (s *Profiles) remove(w http.ResponseWriter, r *http.Request) error {
	form := admin.NewForm("who", targets.All)
	if values := r.URL.Query()["device_id"]; len(values) > 0 {
		form.Values["device_id"] = values
		form.Values.Set("who", targets.Some)
	}
	return s.showRemove(w, r, form)
}

func (s *Profiles) showRemove(w http.ResponseWriter, r *http.Request, form *admin.Form) error {
	b, err := s.base(r, "")
	if err != nil {
		return err
	}
	b.Watch = ""
	b.Title = "Remove " + b.Profile.Name
	b.Crumbs = append(b.Crumbs, view.Link{Label: b.Profile.Name, URL: b.Profile.URL()})
	return s.writeTargets(w, r, &sendPage{
		base: b, Form: form, MaySend: true, Removing: true, Action: b.Profile.URL() + "/remove", Heading: b.Title,
		Lead: "What the profile sets goes from the devices with it: networks are forgotten, accounts and their data deleted, certificates taken away and revoked. You are asked once more.",
	}, "All devices that have it")
}

// having returns the devices that have a profile, or may have, among which a form chooses.
func (s *Profiles) having(r *http.Request, form *admin.Form, p brief) ([]targets.Device, error) {
	var among map[string]bool
	if form.Get("who") != targets.All || form.Get("platform") != "" {
		chosen, err := targets.Resolve(r.Context(), s.desk, form, enrolled)
		if err != nil || !form.OK() {
			return nil, err
		}
		among = make(map[string]bool, len(chosen))
		for _, d := range chosen {
			among[d.ID] = true
		}
	}
	query := url.Values{"limit": {"1000"}, "state": {"sent", "installed", "drifted"}}
	var devices []targets.Device
	for {
		var found admin.List[installation]
		if err := s.desk.Get(r.Context(), p.path()+"/devices", query, &found); err != nil {
			return nil, err
		}
		for _, i := range found.Items {
			if among == nil || among[i.DeviceID] {
				devices = append(devices, targets.Device{ID: i.DeviceID, DeviceName: i.DeviceName, SerialNumber: i.SerialNumber})
			}
		}
		if len(devices) > targets.Most {
			form.Error = fmt.Sprintf("More than %s devices have it. Choose a group, or one kind of device.", admin.Number(targets.Most))
			return nil, nil
		}
		if found.NextCursor == "" {
			break
		}
		query.Set("cursor", found.NextCursor)
	}
	if len(devices) == 0 {
		form.Error = "None of these devices has the profile."
	}
	return devices, nil
}

// removeFrom searches for devices, asks once more, and takes the profile away.
func (s *Profiles) removeFrom(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	if form.Get("step") == "find" {
		return s.showRemove(w, r, form)
	}
	var p brief
	if err := s.desk.Get(r.Context(), brief{ID: r.PathValue("id")}.path(), uncounted, &p); err != nil {
		return err
	}
	devices, err := s.having(r, form, p)
	if err != nil {
		return err
	}
	if !form.OK() {
		return s.showRemove(w, r, form)
	}
	ids := targets.IDs(devices)
	word := targets.Word(len(ids))
	named := targets.Name(devices, ids)
	hidden := targets.Keep(form)
	hidden.Set("step", "remove")
	confirm := &admin.Confirm{
		Page:    admin.Page{Section: section, Crumbs: []view.Link{{Label: "Profiles", URL: section}, {Label: p.Name, URL: p.URL()}}},
		Heading: fmt.Sprintf("Remove %s from %s", p.Name, admin.Count(len(ids), "device", "devices")),
		Text: []string{
			"The devices lose what the profile sets: networks, accounts with their data, restrictions, certificates. Without the network that it brings, a device may be out of reach.",
			"Devices that have not fetched it yet won’t get it any more.",
		},
		Word: word, What: "the number of devices", Button: "Remove", Danger: true, Action: p.URL() + "/remove", Hidden: hidden, Back: p.URL(), Form: form,
	}
	for _, d := range named.Devices {
		confirm.Facts = append(confirm.Facts, admin.Fact{Label: "Device", Value: d.Name(), URL: d.URL()})
	}
	if named.More > 0 {
		confirm.Facts = append(confirm.Facts, admin.Fact{Label: "And", Value: admin.Count(named.More, "other device", "other devices")})
	}
	if form.Get("step") != "remove" || word != "" && !form.Typed(word) {
		return s.desk.Confirm(w, r, confirm)
	}
	var removed struct {
		CommandUUID string `json:"command_uuid"`
	}
	if err := s.desk.Send(r.Context(), http.MethodPost, p.path()+"/remove", map[string]any{"device_ids": ids}, &removed); err != nil {
		if form.Refused(err) {
			return s.desk.Confirm(w, r, confirm)
		}
		return err
	}
	return admin.Redirect(w, r, p.URL()+"/devices", "removing")
}
