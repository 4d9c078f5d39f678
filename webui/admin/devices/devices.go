// Package devices is the section of the desk in which administrators find a device, see
// what it is doing, and have it do something.
package devices

import (
	"embed"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
)

//go:embed templates/*.html
var templates embed.FS

const (
	section = "/admin/devices"
	api     = "/api/v1/devices"
)

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
	r.Handle("GET /admin/devices.csv", s.export)
	r.Handle("POST /admin/devices/selection", s.selected)
	r.Handle("GET /admin/groups/new", s.newGroup)
	r.Handle("POST /admin/groups", s.saveGroup)
	r.Handle("GET /admin/groups/{group}", s.group)
	r.Handle("POST /admin/groups/{group}", s.changeGroup)
	r.Handle("POST /admin/groups/{group}/delete", s.deleteGroup)
	r.Handle("POST /admin/groups/{group}/add", s.addToGroup)
	r.Handle("POST /admin/groups/{group}/remove", s.removeFromGroup)

	r.Handle("GET /admin/devices/{id}", s.orGone(s.overview))
	r.Handle("GET /admin/devices/{id}/commands", s.orGone(s.commands))
	r.Handle("GET /admin/devices/{id}/apps", s.orGone(s.apps))
	r.Handle("GET /admin/devices/{id}/profiles", s.orGone(s.profiles))
	r.Handle("GET /admin/devices/{id}/certificates", s.orGone(s.certificates))
	r.Handle("GET /admin/devices/{id}/history", s.orGone(s.history))
	r.Handle("GET /admin/devices/{id}/activity", s.orGone(s.activity))
	r.Handle("GET /admin/devices/{id}/secrets", s.orGone(s.secrets))
	r.Handle("GET /admin/devices/{id}/raw", s.orGone(s.raw))
	r.Handle("GET /admin/devices/{id}/device.json", s.download)

	r.Handle("POST /admin/devices/{id}/note", s.note)
	r.Handle("GET /admin/devices/{id}/merge", s.askMerge)
	r.Handle("POST /admin/devices/{id}/merge", s.merge)
	r.Handle("POST /admin/devices/{id}/commands/{uuid}/cancel", s.cancel)
	r.Handle("POST /admin/devices/{id}/commands/{uuid}/retry", s.retry)
	r.Handle("POST /admin/devices/{id}/secrets/{kind}", s.reveal)
	for name, a := range actions {
		r.Handle("POST /admin/devices/{id}/"+name, s.act(a))
		if a.asks != nil {
			r.Handle("GET /admin/devices/{id}/"+name, s.ask(a))
		}
	}
}
