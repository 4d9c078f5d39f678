package me

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"sort"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/webui/privacy"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

func devicePath(id mdm.DeviceID) string { return "/me/devices/" + url.PathEscape(string(id)) }

func pathDevice(r *http.Request) mdm.DeviceID { return mdm.DeviceID(r.PathValue("id")) }

func (m *Me) devices(w http.ResponseWriter, r *http.Request) error {
	mine, err := m.Enroll.MyDevices(r.Context(), caller(r))
	if err != nil {
		return refuse(err, "")
	}
	around, err := m.page(r, "me.devices.title", sectionDevices, "")
	if err != nil {
		return err
	}
	page := view.MeDevices{Me: around}
	for _, o := range mine {
		if row := m.deviceRow(page.T, o); o.Managed() {
			page.Devices = append(page.Devices, row)
		} else {
			page.Past = append(page.Past, row)
		}
	}
	return m.Pages.Write(w, http.StatusOK, page)
}

func (m *Me) deviceRow(t *text.Texts, o enroll.Own) view.MeDeviceRow {
	row := view.MeDeviceRow{URL: devicePath(o.ID), Name: deviceName(t, o.Device), State: deviceState(t, o.State), UsersLabel: t.Say("me.devices.users")}
	for _, part := range []string{modelName(o.Device), systemName(o.Device), serialNumber(o.Device), ownership(t, o.Ownership)} {
		if part != "" && part != row.Name {
			row.Parts = append(row.Parts, part)
		}
	}
	if o.Lost != nil {
		row.Lost = &view.State{Text: t.Say("me.state.lost"), Tone: view.Bad}
	}
	since, at := "me.devices.since", o.EnrolledAt
	switch {
	case !o.Managed():
		since, at = "me.devices.until", o.UnenrolledAt
	case o.State == mdm.Pending:
		since, at = "me.devices.begun", o.AuthenticatedAt
	}
	when := view.MeTime{At: at.UTC().Format(time.RFC3339), Words: day(at), Exact: exact(at).Words}
	if at.IsZero() {
		when = view.MeTime{Words: t.Say("me.time.never")}
	}
	seen := m.ago(t, o.LastSeenAt)
	row.Since = view.MeFact{Label: t.Say(since), Time: &when}
	row.Seen = view.MeFact{Label: t.Say("me.devices.seen"), Time: &seen}
	for _, c := range o.Channels {
		row.Users = append(row.Users, userName(c))
	}
	return row
}

// userName is what a user of a Mac or a Shared iPad is called there.
func userName(c mdm.Device) string { return cmp.Or(c.UserLongName, c.UserShortName, c.UserID) }

func (m *Me) device(w http.ResponseWriter, r *http.Request) error {
	p := caller(r)
	o, err := m.Enroll.MyDevice(r.Context(), p, pathDevice(r))
	if err != nil {
		return refuse(err, "")
	}
	around, err := m.page(r, "me.device.title", sectionDevices, "")
	if err != nil {
		return err
	}
	done(&around, r, "removal", o.Removal != nil)
	done(&around, r, "ended", !o.Managed())
	done(&around, r, "sign_in", signInRequired(o))
	done(&around, r, "lost", o.Lost != nil)
	done(&around, r, "found", o.Lost == nil)
	t := around.T
	page := view.MeDevice{
		Me: around, Name: deviceName(t, o.Device), State: deviceState(t, o.State),
		Notice: m.deviceNotice(t, o), Facts: m.deviceFacts(t, o), Answers: answers(t, o.Attributes),
	}
	page.Title = page.Name
	page.Actions, page.WhyNot = deviceActions(t, o)
	switch may, err := m.signsIn(r.Context(), o); {
	case err != nil:
		return err
	case may:
		page.Actions = append(page.Actions, view.Link{Label: t.Say("me.device.sign_in"), URL: devicePath(o.ID) + "/sign-in"})
	}
	if o.Lost != nil {
		page.Lost = &view.MeLost{State: view.State{Text: t.Say("me.state.lost"), Tone: view.Bad}, Time: m.ago(t, o.Lost.At), Note: o.Lost.Note}
	}
	if o.Managed() {
		can, cannot := privacy.Of(o.AccessRights, o.Type == mdm.TypeUser, isMac(o.Device))
		page.Rights = &view.MeRights{Can: can, Cannot: cannot}
	}
	for _, c := range o.Channels {
		page.Users = append(page.Users, view.MeFact{Label: t.Say("me.fact.user_name"), Value: userName(c), Why: t.Say("me.device.users.why")})
	}
	for _, c := range o.Certificates {
		page.Certificates = append(page.Certificates, m.certificateRow(t, enroll.OwnCertificate{Certificate: c}))
	}
	page.Steps = steps(t, o.Attempt)
	for _, e := range o.Events {
		if !t.Has("me.event." + e.Action) {
			continue // a step on the way, or nothing that is a person's affair
		}
		page.Events = append(page.Events, view.MeEvent{What: t.Say("me.event." + e.Action), Who: who(t, p, o.ID, e), Time: exact(e.At)})
	}
	for _, e := range o.Commands {
		page.Commands = append(page.Commands, view.MeEvent{What: e.RequestType, Who: known(t, "me.command.", string(e.State)), Time: exact(e.CreatedAt)})
	}
	return m.Pages.Write(w, http.StatusOK, page)
}

// deviceNotice is what is under way with a device, nil if nothing is.
func (m *Me) deviceNotice(t *text.Texts, o enroll.Own) *view.MeNotice {
	menu := t.Apple("vpn_device_management", 0)
	switch {
	case o.Removal != nil && o.Removal.Problem != "":
		return &view.MeNotice{
			Heading: t.Say("me.device.removing.failed.heading"),
			Text:    []string{t.Say("me.device.removing.failed.text", "problem", o.Removal.Problem)},
			Action:  view.Link{Label: t.Say("me.remove.end"), URL: devicePath(o.ID) + "/end"},
		}
	case o.Removal != nil:
		return &view.MeNotice{
			Heading: t.Say("me.device.removing.heading"),
			Text:    []string{t.Say("me.device.removing.text", "time", m.ago(t, o.Removal.At).Words)},
			Action:  view.Link{Label: t.Say("me.device.removing.end"), URL: devicePath(o.ID) + "/end"},
		}
	case o.State == mdm.Pending:
		return &view.MeNotice{Heading: t.Say("me.device.pending.heading"), Text: []string{t.Say("me.device.pending.text")}}
	case !o.Managed():
		return &view.MeNotice{Heading: t.Say("me.device.ended.heading"), Text: []string{t.Say("me.device.ended.text", "menu", menu)}}
	}
	return nil
}

// deviceActions are what its owner can do with a device, and why they can't do more.
func deviceActions(t *text.Texts, o enroll.Own) (actions []view.Link, whyNot string) {
	path := devicePath(o.ID)
	switch {
	case o.Lost != nil:
		actions = append(actions, view.Link{Label: t.Say("me.device.found"), URL: path + "/lost"})
	case o.Managed():
		actions = append(actions, view.Link{Label: t.Say("me.device.lost"), URL: path + "/lost"})
	}
	switch {
	case !o.Managed():
	case !o.MayRemove:
		whyNot = t.Say("me.device.not_yourself")
	case o.State == mdm.Pending:
		actions = append(actions, view.Link{Label: t.Say("me.device.remove"), URL: path + "/end"})
	case o.Removal == nil:
		actions = append(actions, view.Link{Label: t.Say("me.device.remove"), URL: path + "/remove"})
	}
	return actions, whyNot
}

// deviceFacts lists what is stored about a device, and why.
func (m *Me) deviceFacts(t *text.Texts, o enroll.Own) (facts []view.MeFact) {
	add := func(name string, f view.MeFact) {
		if f.Value == "" && f.Time == nil {
			return
		}
		f.Label, f.Why = t.Say("me.fact."+name), t.Say("me.fact."+name+".why")
		facts = append(facts, f)
	}
	fact := func(name, value string) { add(name, view.MeFact{Value: value}) }
	mono := func(name, value string) { add(name, view.MeFact{Value: value, Mono: true}) }
	when := func(name string, at time.Time) {
		if !at.IsZero() {
			words := exact(at)
			add(name, view.MeFact{Time: &words})
		}
	}
	model := modelName(o.Device)
	if number := cmp.Or(o.ProductName, o.Model); model != number && number != "" {
		model += " (" + number + ")"
	}
	system := systemName(o.Device)
	if system != "" && o.BuildVersion != "" {
		system += " (" + o.BuildVersion + ")"
	}
	fact("name", o.DeviceName)
	fact("model", model)
	fact("os", system)
	mono("serial", serialNumber(o.Device))
	mono("enrollment_id", o.EnrollmentID)
	if o.Type != mdm.TypeUser { // such a device tells nothing that is its own for good
		mono("udid", o.UDID)
		mono("imei", o.IMEI)
		mono("meid", o.MEID)
	}
	if o.Supervised != nil {
		fact("supervised", yesNo(t, *o.Supervised))
	}
	fact("user", o.User)
	fact("apple_account", o.ManagedAppleAccount)
	fact("ownership", ownership(t, o.Ownership))
	fact("type", known(t, "me.type.", string(o.Type)))
	when("enrolled", o.EnrolledAt)
	if !o.Managed() {
		when("ended", o.UnenrolledAt)
	}
	when("first", o.CreatedAt)
	when("seen", o.LastSeenAt)
	if o.Push != nil {
		since := o.Push.SignedAt
		if since.IsZero() {
			since = o.EnrolledAt
		}
		fact("push", t.Say("me.yes_since", "time", day(since)))
	}
	for _, kind := range o.Secrets {
		fact(string(kind), t.Say("me.yes"))
	}
	if o.PendingCommands > 0 {
		fact("pending", fmt.Sprint(o.PendingCommands))
	}
	return facts
}

func yesNo(t *text.Texts, yes bool) string {
	if yes {
		return t.Say("me.yes")
	}
	return t.Say("me.no")
}

// maxAnswer bounds what is shown of one answer, in bytes.
const maxAnswer = 500

// answers shows what a device answered when it was asked about itself, by Apple's names.
func answers(t *text.Texts, attributes map[string]any) (facts []view.MeFact) {
	for name, value := range attributes {
		f := view.MeFact{Label: name}
		switch v := value.(type) {
		case string:
			f.Value = v
		case bool:
			f.Value = yesNo(t, v)
		default:
			data, err := json.Marshal(v)
			if err != nil {
				continue // it came as JSON
			}
			f.Value = string(data)
		}
		if len(f.Value) > maxAnswer {
			f.Value = strings.ToValidUTF8(f.Value[:maxAnswer], "") + "…"
		}
		facts = append(facts, f)
	}
	sort.Slice(facts, func(i, j int) bool { return facts[i].Label < facts[j].Label })
	return facts
}

// stages are those of an attempt, in their order.
var stages = []enroll.Stage{
	enroll.Opened, enroll.Authenticated, enroll.ProfileDownloaded, enroll.IdentityIssued, enroll.CheckedIn, enroll.Enrolled, enroll.AttemptFailed,
}

func steps(t *text.Texts, a *enroll.Attempt) (facts []view.MeFact) {
	if a == nil {
		return nil
	}
	for _, st := range stages {
		if at := a.StageAt[st]; !at.IsZero() {
			words := exact(at)
			facts = append(facts, view.MeFact{Label: t.Say("me.stage." + string(st)), Time: &words})
		}
	}
	return facts
}

// who says who did something, without naming administrators.
func who(t *text.Texts, p identity.Principal, id mdm.DeviceID, e event.Event) string {
	switch {
	case e.Actor == p.String(), e.User != "" && e.Actor == string(identity.KindUser)+":"+e.User:
		return t.Say("me.event.by.you")
	case e.Actor == "device:"+string(id), e.Actor == "scep":
		return t.Say("me.event.by.device")
	case e.Actor == "server", e.Actor == "":
		return t.Say("me.event.by.server")
	}
	return t.Say("me.event.by.organisation")
}
