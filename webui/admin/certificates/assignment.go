package certificates

import (
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// assignment says that a device is to have a certificate of a template.
type assignment struct {
	Template    string     `json:"template"`
	DeviceID    string     `json:"device_id"`
	DeviceName  string     `json:"device_name"`
	State       string     `json:"state"`
	Serial      string     `json:"serial"`
	RenewAt     *time.Time `json:"renew_at"`
	DueAt       *time.Time `json:"due_at"`
	TriedAt     *time.Time `json:"tried_at"`
	CommandUUID string     `json:"command_uuid"`
	Failures    int        `json:"failures"`
	Reason      string     `json:"reason"`
	Stuck       bool       `json:"stuck"`
	CreatedAt   time.Time  `json:"created_at"`
	CreatedBy   string     `json:"created_by"`
}

// Device is what to call the device.
func (a assignment) Device() string {
	if a.DeviceName != "" {
		return a.DeviceName
	}
	return a.DeviceID
}

// DeviceURL is the device's page.
func (a assignment) DeviceURL() string { return "/admin/devices/" + url.PathEscape(a.DeviceID) }

// TemplateURL is the template's page.
func (a assignment) TemplateURL() string { return certTemplate{Name: a.Template}.URL() }

// Certificate is the page of the certificate that the device has; empty before the first.
func (a assignment) Certificate() string {
	if a.Serial == "" {
		return ""
	}
	return certificate{Serial: a.Serial}.URL()
}

// Standing is how it stands.
func (a assignment) Standing() view.State { return assigned(a.State, a.Stuck) }

// Unassign is where it can be ended.
func (a assignment) Unassign() string {
	return section + "/unassign?" + url.Values{"template": {a.Template}, "device_id": {a.DeviceID}}.Encode()
}

// Key tells it from others in a list.
func (a assignment) Key() string { return a.Template + "/" + a.DeviceID }

type assignmentsPage struct {
	admin.Page
	Tabs      []admin.NavItem
	Form      *admin.Form
	States    []admin.Option
	Templates []admin.Option
	Items     []assignment
	Pager     admin.Pager
	Empty     *admin.Empty
}

func (s *Certificates) assignments(w http.ResponseWriter, r *http.Request) error {
	in := r.URL.Query()
	query, form, filtered := url.Values{"limit": {perPage}}, admin.NewForm(), false
	for _, name := range []string{"template", "state", "device_id", "cursor"} {
		v := in.Get(name)
		if v == "" {
			continue
		}
		form.Values.Set(name, v)
		filtered = filtered || name != "cursor"
		if name == "state" && v == "stuck" {
			query.Set("stuck", "true")
			continue
		}
		query.Set(name, v)
	}
	var found admin.List[assignment]
	if err := s.desk.Get(r.Context(), "/api/v1/certificate-assignments", query, &found); err != nil {
		return err
	}
	page := &assignmentsPage{
		Page: admin.Page{Title: "Assigned certificates", Section: section, Watch: "certificate. command.finished"},
		Tabs: tabs("Assigned"), Form: form, Items: found.Items, Pager: admin.NewPager(r, found.NextCursor),
		States: admin.Options("", "Any", "pending", "On its way", "installed", "Installed", "renewing", "Being renewed", "failing", "Failing", "stuck", "Needs a look", "ended", "Ended"),
	}
	var err error
	if page.Templates, err = s.templateOptions(r, "Any"); err != nil {
		return err
	}
	switch {
	case len(found.Items) > 0:
	case filtered:
		page.Empty = &admin.Empty{Heading: "None is like this", Text: "Look at all of them instead.", Actions: []view.Link{{Label: "Show all", URL: section + "/assigned"}}}
	default:
		page.Empty = &admin.Empty{Heading: "No certificates are assigned", Text: "Send a template to devices: each gets a certificate of its own, and a new one before that ends.", Actions: []view.Link{{Label: "Templates", URL: section + "/templates"}}}
	}
	return s.desk.Write(w, r, s.pages, "assignments.html", page)
}

// one reads the assignment that values name.
func (s *Certificates) one(r *http.Request, values url.Values) (a assignment, err error) {
	var found admin.List[assignment]
	query := url.Values{"template": {values.Get("template")}, "device_id": {values.Get("device_id")}, "limit": {"1"}}
	if err := s.desk.Get(r.Context(), "/api/v1/certificate-assignments", query, &found); err != nil {
		return a, err
	}
	if len(found.Items) == 0 {
		return a, notHere("The device is not to have a certificate of that template.")
	}
	return found.Items[0], nil
}

func (s *Certificates) askUnassign(w http.ResponseWriter, r *http.Request) error {
	a, err := s.one(r, r.URL.Query())
	if err != nil {
		return err
	}
	return s.confirmUnassign(w, r, a, nil)
}

func (s *Certificates) confirmUnassign(w http.ResponseWriter, r *http.Request, a assignment, form *admin.Form) error {
	return s.desk.Confirm(w, r, &admin.Confirm{
		Page:    admin.Page{Section: section, Crumbs: []view.Link{crumb, {Label: "Assigned", URL: section + "/assigned"}}},
		Heading: "Take the certificate from " + a.Device(),
		Text: []string{
			"The profile that brings the certificate of " + a.Template + " is removed from the device, and the certificate with its key goes with it. What it was used for stops there: Wi-Fi, VPN, mail. None is sent any more.",
		},
		Facts:  []admin.Fact{{Label: "Template", Value: a.Template, URL: a.TemplateURL()}, {Label: "Device", Value: a.Device(), URL: a.DeviceURL()}},
		Button: "Take it away", Danger: true, Action: section + "/unassign", Back: section + "/assigned", Form: form,
		Hidden: url.Values{"template": {a.Template}, "device_id": {a.DeviceID}},
	})
}

func (s *Certificates) unassign(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	a, err := s.one(r, form.Values)
	if err != nil {
		return err
	}
	if err := s.desk.Send(r.Context(), http.MethodDelete, "/api/v1/certificate-assignments/"+url.PathEscape(a.Template)+"/"+url.PathEscape(a.DeviceID), nil, nil); err != nil {
		if form.Refused(err) {
			return s.confirmUnassign(w, r, a, form)
		}
		return err
	}
	return admin.Redirect(w, r, section+"/assigned", "unassigned")
}

// rejections are the devices that a refusal names, each with its reason.
func rejections(err error) ([]admin.Rejection, bool) {
	var p *admin.Problem
	if errors.As(err, &p) && len(p.Rejected) > 0 {
		return p.Rejected, true
	}
	return nil, false
}
