package devices

import (
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// action is something that the API does with a device. asks is what a page says before, nil
// where nothing is lost by it.
type action struct {
	method, path string
	body         any
	done         string
	asks         *question
	leaves       bool // afterwards there is no page of the device
}

type question struct {
	heading, button string
	text            []string
	danger          bool
	typed           bool // the device's name has to be
}

// actions are the actions by the last part of their addresses.
var actions = map[string]action{
	"refresh":        {method: http.MethodPost, path: "/refresh", body: map[string]any{}, done: "refreshing"},
	"push":           {method: http.MethodPost, path: "/push", done: "pushed"},
	"found":          {method: http.MethodDelete, path: "/lost", done: "found"},
	"renew-identity": {method: http.MethodPost, path: "/renew-identity", done: "renewing"},
	"unblock":        {method: http.MethodDelete, path: "/block", done: "unblocked"},
	"require-sign-in": {method: http.MethodPost, path: "/require-sign-in", done: "saved", asks: &question{
		heading: "Require sign-in on", button: "Require sign-in",
		text: []string{
			"The access tokens of this device are revoked. When it next connects, its user is asked to sign in again, or its enrollment ends, as the settings of account-driven enrollment say.",
			"Until the user has signed in the device gets no commands. What is installed stays.",
		},
	}},
	"unenroll": {method: http.MethodPost, path: "/unenroll", done: "unenrolled", asks: &question{
		heading: "Unenroll", button: "Unenroll the device", danger: true, typed: true,
		text: []string{
			"Its certificates are revoked and its commands cancelled at once. When the device next connects it learns of that and removes the management profile, and with it all that was installed through it: profiles, accounts, certificates, managed apps and their data.",
			"A device that never connects again keeps what it has, but nothing here trusts it any more.",
			"It may enroll again. To keep it from that, block it instead. To make what is on it unreadable, erase it first: once it is unenrolled, no command reaches it.",
		},
	}},
	"block": {method: http.MethodPost, path: "/block", done: "blocked", asks: &question{
		heading: "Block", button: "Block the device", danger: true, typed: true,
		text: []string{
			"Blocking unenrolls the device for good: its certificates are revoked, its commands cancelled, and when it next connects it removes the management profile and all that came with it.",
			"It may not enroll again before somebody unblocks it. To end only this enrollment, unenroll it instead.",
			"Once it is blocked no command reaches it: erase or lock it first if it was lost.",
		},
	}},
	"delete": {method: http.MethodDelete, done: "forgotten", leaves: true, asks: &question{
		heading: "Delete the record of", button: "Delete the record", danger: true, typed: true,
		text: []string{
			"This tidies up after a device that has left: what it said of itself, its commands and answers, the note on it and its place in groups are deleted for good, and so are recovery keys and other secrets that are kept for it.",
			"What was issued to it stays revoked and in the list of certificates, and the audit log keeps what happened, notes among it.",
			"Nothing changes on the device. It may enroll again, as a new one; to keep it from that, block it instead, which keeps its record.",
		},
	}},
}

// ask asks before an action.
func (s *Devices) ask(a action) webui.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error { return s.confirm(w, r, a, nil) }
}

func (s *Devices) confirm(w http.ResponseWriter, r *http.Request, a action, form *admin.Form) error {
	var d device
	if err := s.desk.Get(r.Context(), deviceAPI(r.PathValue("id")), nil, &d); err != nil {
		return err
	}
	c := &admin.Confirm{
		Page:    admin.Page{Section: section, Crumbs: []view.Link{{Label: "Devices", URL: section}, {Label: d.Name(), URL: d.URL()}}},
		Heading: a.asks.heading + " " + d.Name(), Text: a.asks.text, Button: a.asks.button, Danger: a.asks.danger,
		Action: r.URL.Path, Back: d.URL(), Form: form, Facts: s.who(d),
	}
	if a.asks.typed {
		c.Word, c.What = d.Name(), "the device’s name"
	}
	return s.desk.Confirm(w, r, c)
}

// who is which device something is about.
func (s *Devices) who(d device) []admin.Fact {
	seen := s.desk.Moment(d.LastSeenAt)
	return known([]admin.Fact{
		{Label: "Owner", Value: d.Owner()}, {Label: "Model", Value: d.ModelWords()}, {Label: "Serial number", Value: serial(d), Mono: true}, {Label: "Last seen", Moment: &seen},
	})
}

// act does an action, once what it asks for was typed.
func (s *Devices) act(a action) webui.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		form, err := admin.FormOf(r)
		if err != nil {
			return err
		}
		id := r.PathValue("id")
		if a.asks != nil && a.asks.typed {
			var d device
			if err := s.desk.Get(r.Context(), deviceAPI(id), nil, &d); err != nil {
				return err
			}
			if !form.Typed(d.Name()) {
				return s.confirm(w, r, a, form)
			}
		}
		err = s.desk.Send(r.Context(), a.method, deviceAPI(id)+a.path, a.body, nil)
		if err == nil && a.leaves {
			return admin.Redirect(w, r, section, a.done)
		}
		if err == nil {
			return admin.Redirect(w, r, device{ID: id}.URL(), a.done)
		}
		why, err := refusal(err)
		if err != nil {
			return err
		}
		if a.asks != nil {
			form.Error = why
			return s.confirm(w, r, a, form)
		}
		return s.writeOverview(w, r, http.StatusConflict, why, nil)
	}
}

// note writes down something about the device.
func (s *Devices) note(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	change := make(map[string]any)
	if form.Values.Has("note") { // a field left out is no reason to delete what somebody wrote
		change["note"] = form.Get("note")
	}
	if err := s.desk.Send(r.Context(), http.MethodPatch, deviceAPI(id), change, nil); err != nil {
		if form.Refused(err) {
			return s.writeOverview(w, r, http.StatusUnprocessableEntity, "", form)
		}
		return err
	}
	return admin.Redirect(w, r, device{ID: id}.URL(), "saved")
}
