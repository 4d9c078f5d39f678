package devices

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// head is what all pages of a device have: what it is, how it stands, and what can be done.
type head struct {
	admin.Page
	Device   device
	Parent   *device // of a user channel
	Tabs     []tab
	Does     []control // what takes a click
	More     []control // what takes another thought
	Problem  string    // what was refused
	Warnings []warning
}

// warning is something wrong with a device. Fix leads to where that can be mended; it is nil
// where nothing can be done here, or not by who looks.
type warning struct {
	Text string
	Fix  *view.Link
}

// control is something that can be done with a device. Why is set where it can't.
type control struct {
	Label, URL string
	Post       bool // a form's; else a link
	Danger     bool
	Hint       string
	Why        string
}

// ID tells the control from the others of a page.
func (c control) ID() string {
	return "do-" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, strings.ToLower(c.Label))
}

// tabs are the parts of a device's page, by the last part of their addresses.
var tabs = []struct {
	path, label string
	channel     bool // user channels have it, too
}{
	{"", "Overview", true}, {"commands", "Commands", true}, {"apps", "Apps", false}, {"profiles", "Profiles", true}, {"certificates", "Certificates", false},
	{"history", "History", true}, {"activity", "Activity", true}, {"secrets", "Secrets", false}, {"raw", "Raw", true},
}

// headOf reads a device and makes the head of one of its pages.
func (s *Devices) headOf(r *http.Request, part string) (head, error) {
	var h head
	id := r.PathValue("id")
	if err := s.desk.Get(r.Context(), deviceAPI(id), nil, &h.Device); err != nil {
		return h, err
	}
	d := h.Device
	h.Page = admin.Page{Title: d.Name(), Section: section, Crumbs: []view.Link{{Label: "Devices", URL: section}}, Watch: "device:" + d.ID}
	if d.PendingCommands > 0 {
		h.Every = 3
	}
	if d.ParentID != "" {
		var parent device
		if err := s.desk.Get(r.Context(), deviceAPI(d.ParentID), nil, &parent); err == nil { // else it was just deleted
			h.Parent = &parent
			h.Crumbs = append(h.Crumbs, view.Link{Label: parent.Name(), URL: parent.URL()})
		}
	}
	for _, t := range tabs {
		if d.IsChannel() && !t.channel {
			continue
		}
		u := d.URL()
		if t.path != "" {
			u += "/" + t.path
		}
		h.Tabs = append(h.Tabs, tab{Link: view.Link{Label: t.label, URL: u}, Current: t.path == part})
		if t.path == part && part != "" {
			h.Title = d.Name() + " · " + t.label
		}
	}
	h.Warnings = s.warnings(r, d)
	return h, s.controls(r, &h)
}

// quickCommands are those that have a control of their own.
var quickCommands = []struct {
	requestType, label string
	more, danger       bool
}{
	{"DeviceLock", "Lock…", false, false},
	{"RestartDevice", "Restart…", true, false},
	{"EnableLostMode", "Lost Mode…", true, false},
	{"DeviceLocation", "Find…", true, false},
	{"EraseDevice", "Erase…", true, true},
}

// newCommand is the form for a command to a device; an empty type: to be chosen.
func newCommand(id, requestType string) string {
	q := url.Values{"device_id": {id}}
	if requestType != "" {
		q.Set("type", requestType)
	}
	return "/admin/commands/new?" + q.Encode()
}

// controls says what can be done with the device by who looks, and why not what can't.
func (s *Devices) controls(r *http.Request, h *head) error {
	d := h.Device
	live := d.State == "enrolled"
	add := func(more bool, route string, c control) {
		switch {
		case !s.desk.May(r.Context(), route):
			return // a role is no reason that anybody could do something about here
		case more:
			h.More = append(h.More, c)
		default:
			h.Does = append(h.Does, c)
		}
	}
	post := func(name, label string) control {
		return control{Label: label, URL: d.URL() + "/" + name, Post: true}
	}
	if d.LostReportedAt != nil {
		add(false, "DELETE /api/v1/devices/{id}/lost", post("found", "It was found"))
	}
	if live { // its state says why nothing reaches it otherwise
		add(false, "POST /api/v1/devices/{id}/refresh", post("refresh", "Refresh facts"))
		add(false, "POST /api/v1/devices/{id}/push", post("push", "Push now"))
	}
	if s.desk.May(r.Context(), "POST /api/v1/commands") && live && !d.IsChannel() {
		for _, q := range quickCommands {
			var t struct {
				Allowed *bool  `json:"allowed"`
				Reason  string `json:"reason"`
				Scope   string `json:"scope"`
			}
			if err := s.desk.Get(r.Context(), "/api/v1/command-types/"+q.requestType, url.Values{"device_id": {d.ID}}, &t); err != nil {
				return err
			}
			c := control{Label: q.label, URL: newCommand(d.ID, q.requestType), Danger: q.danger}
			if t.Allowed != nil && !*t.Allowed {
				c.Why = admin.Because(q.requestType, t.Reason)
			}
			if t.Scope == "admin" && !s.desk.May(r.Context(), "POST /api/v1/commands/raw") {
				c.Why = "It takes the role of an administrator."
			}
			add(q.more, "POST /api/v1/commands", c)
		}
	}
	ask := func(name, label string, danger bool) control {
		return control{Label: label, URL: d.URL() + "/" + name, Danger: danger}
	}
	if live && d.Identity != nil {
		c := post("renew-identity", "Renew its identity")
		c.Hint = "It gets a new certificate by which it speaks to this server."
		add(true, "POST /api/v1/devices/{id}/renew-identity", c)
	}
	if live && d.EnrollmentMode != "" {
		add(true, "POST /api/v1/devices/{id}/require-sign-in", ask("require-sign-in", "Require sign-in…", false))
	}
	if d.State != "unenrolled" && d.State != "blocked" {
		add(true, "POST /api/v1/devices/{id}/unenroll", ask("unenroll", "Unenroll…", true))
	}
	if d.State == "blocked" {
		add(false, "DELETE /api/v1/devices/{id}/block", post("unblock", "Unblock"))
	} else {
		add(true, "POST /api/v1/devices/{id}/block", ask("block", "Block…", true))
	}
	forget := ask("delete", "Delete its record…", true)
	switch d.State {
	case "unenrolled":
	case "blocked":
		forget.Why = "Its record is what keeps it from coming back: unblock it first."
	default:
		forget.Why = "It is managed: unenroll it first."
	}
	add(true, "DELETE /api/v1/devices/{id}", forget)
	return nil
}

// warnings says what is wrong with the device, and what to do about it.
func (s *Devices) warnings(r *http.Request, d device) (all []warning) {
	say := func(text string) { all = append(all, warning{Text: text}) }
	if d.State == "enrolled" && d.LastSeenAt == nil {
		say("It has never been heard of since it enrolled. Usually it is switched off, or its network keeps Apple’s pushes (port 5223 or 443 to 17.0.0.0/8) or this server away.")
	}
	if d.Push != nil {
		switch next := map[string]string{
			"token_dead":          " What to do: check whether the device still has the management profile, and enroll it again if it does not.",
			"no_certificate":      " What to do: add the push certificate under Settings, Push certificates.",
			"certificate_refused": " What to do: renew the push certificate under Settings, Push certificates, with the Apple Account that made it.",
			"refused":             " What to do: compare the push certificate’s topic with the one in the device’s profile, under Settings, Push certificates.",
			"unreachable":         " What to do: let this server reach api.push.apple.com on port 443 or 2197.",
		}; {
		case next[d.Push.State] != "":
			w := warning{Text: d.Push.Reason + next[d.Push.State]}
			switch d.Push.State {
			case "no_certificate", "certificate_refused", "refused":
				if s.desk.May(r.Context(), "GET /api/v1/push-certificates") {
					w.Fix = &view.Link{Label: "Push certificates", URL: "/admin/settings/push"}
				}
			}
			all = append(all, w)
		case d.Push.State == "no_token" && !d.IsChannel():
			say(d.Push.Reason)
		}
		if d.Push.Silent && d.LastSeenAt != nil {
			say(fmt.Sprintf("It was last heard of %s. Usual causes: it is switched off or off the network; it was erased; its management was removed while it could not say so.", s.desk.Moment(d.LastSeenAt).Ago()))
		}
	}
	if d.SignInRequiredAt != nil {
		say("Its user must sign in again: until then it gets no commands. The device asks for that in Settings.")
	}
	if d.Identity != nil && d.Identity.Stuck {
		say(fmt.Sprintf("The certificate by which it speaks ends on %s and could not be renewed so far. Once it has ended, the device can still renew it when it next connects.", d.Identity.NotAfter.Format("2 January 2006")))
	}
	return all
}
