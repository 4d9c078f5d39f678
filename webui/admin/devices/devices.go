// Package devices is the section of the desk in which administrators find a device, see
// what it is doing, and have it do something.
package devices

import (
	"embed"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

//go:embed templates/*.html
var templates embed.FS

const section = "/admin/devices"

// Devices is the section.
type Devices struct {
	desk  *admin.Desk
	pages *admin.Templates
}

// New returns the section at a desk.
func New(desk *admin.Desk) (*Devices, error) {
	pages, err := desk.Templates(templates)
	return &Devices{desk, pages}, err
}

// Mount implements [admin.Section].
func (s *Devices) Mount(r, _ webui.Router) {
	r.Handle("GET /admin/devices", s.list)
	r.Handle("GET /admin/devices/{id}", s.device)
}

// device is a device as the API lists it.
type device struct {
	ID              string     `json:"id"`
	EnrollmentType  string     `json:"enrollment_type"`
	State           string     `json:"state"`
	SerialNumber    string     `json:"serial_number"`
	DeviceName      string     `json:"device_name"`
	Model           string     `json:"model"`
	OSVersion       string     `json:"os_version"`
	User            string     `json:"user"`
	LastSeenAt      *time.Time `json:"last_seen_at"`
	PendingCommands int        `json:"pending_commands"`
}

// Name is what to call the device.
func (d device) Name() string {
	for _, name := range []string{d.DeviceName, d.SerialNumber} {
		if name != "" {
			return name
		}
	}
	return d.ID
}

// URL is the device's page.
func (d device) URL() string { return section + "/" + url.PathEscape(d.ID) }

// perPage is the length of lists.
const perPage = "50"

type listPage struct {
	admin.Page
	Items []device
	Pager admin.Pager
	Empty *admin.Empty
}

func (s *Devices) list(w http.ResponseWriter, r *http.Request) error {
	query := url.Values{"limit": {perPage}}
	for _, name := range []string{"q", "cursor"} {
		if v := r.URL.Query().Get(name); v != "" {
			query.Set(name, v)
		}
	}
	var found admin.List[device]
	if err := s.desk.Get(r.Context(), "/api/v1/devices", query, &found); err != nil {
		return err
	}
	page := &listPage{
		Page:  admin.Page{Title: "Devices", Section: section, Watch: "device. command.", Search: query.Get("q")},
		Items: found.Items, Pager: admin.NewPager(r, found.NextCursor),
	}
	if len(found.Items) == 0 {
		page.Empty = &admin.Empty{
			Heading: "No devices yet", Text: "Make an enrollment link, and open it in Safari on the device.",
			Actions: []view.Link{{Label: "New enrollment link", URL: "/admin/enrollment/links/new"}},
		}
	}
	return s.desk.Write(w, r, s.pages, "list.html", page)
}

type devicePage struct {
	admin.Page
	Device device
	Facts  []admin.Fact
}

func (s *Devices) device(w http.ResponseWriter, r *http.Request) error {
	var d device
	if err := s.desk.Get(r.Context(), "/api/v1/devices/"+url.PathEscape(r.PathValue("id")), nil, &d); err != nil {
		return err
	}
	seen := s.desk.Moment(d.LastSeenAt)
	return s.desk.Write(w, r, s.pages, "device.html", &devicePage{
		Page: admin.Page{
			Title: d.Name(), Section: section, Crumbs: []view.Link{{Label: "Devices", URL: section}}, Watch: "device:" + d.ID,
		},
		Device: d,
		Facts:  []admin.Fact{{Label: "Serial number", Value: d.SerialNumber, Mono: true}, {Label: "Last seen", Moment: &seen}},
	})
}
