package devices

import (
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// deletion is what the audit log says of a record that was deleted.
type deletion struct {
	At      time.Time `json:"at"`
	Actor   string    `json:"actor"`
	Details struct {
		Name string `json:"device_name"`
		Into string `json:"merged_into"` // the device that took its place; empty: none
	} `json:"details"`
}

// deleted returns how a device's record was deleted, as far as the audit log tells and whoever
// looks may read it; nil: nothing is known.
func (s *Devices) deleted(r *http.Request, id string) *deletion {
	if !s.desk.May(r.Context(), "GET /api/v1/audit") {
		return nil
	}
	var told admin.List[deletion]
	about := url.Values{"device_id": {id}, "action": {"device.deleted"}, "limit": {"1"}}
	if err := s.desk.Get(r.Context(), "/api/v1/audit", about, &told); err != nil || len(told.Items) == 0 {
		return nil
	}
	return &told.Items[0]
}

// mergedInto returns the device into which a record was merged, empty for none.
func (s *Devices) mergedInto(r *http.Request, id string) string {
	if d := s.deleted(r, id); d != nil {
		return d.Details.Into
	}
	return ""
}

// gonePage says what became of a device that is not here.
type gonePage struct {
	admin.Page
	deletion
	Into string // page of the device that took its place; empty: none
	Log  string // what the audit log says of it
}

// orGone makes a page of a device say what became of it, where its record was deleted.
func (s *Devices) orGone(page webui.HandlerFunc) webui.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		err := page(w, r)
		var p *admin.Problem
		if !errors.As(err, &p) || p.Code != "not_found" {
			return err
		}
		id := r.PathValue("id")
		d := s.deleted(r, id)
		if d == nil {
			return err
		}
		gone := &gonePage{
			Page:     admin.Page{Title: "Deleted device", Section: section, Crumbs: []view.Link{{Label: "Devices", URL: section}}},
			deletion: *d, Log: "/admin/audit?" + url.Values{"device_id": {id}}.Encode(),
		}
		if into := d.Details.Into; into != "" {
			gone.Into = device{ID: into}.URL()
		}
		return s.desk.WriteStatus(w, r, http.StatusGone, s.pages, "gone.html", gone)
	}
}
