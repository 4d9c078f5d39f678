package settings

import (
	"cmp"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// wokenDevice is a device that some topic wakes.
type wokenDevice struct {
	ID           string     `json:"id"`
	DeviceName   string     `json:"device_name"`
	SerialNumber string     `json:"serial_number"`
	LastSeenAt   *time.Time `json:"last_seen_at"`
	Demo         bool       `json:"demo"`
	Push         *struct {
		Topic string `json:"topic"`
	} `json:"push"`
}

// Name is what people call it.
func (d wokenDevice) Name() string {
	return cmp.Or(d.DeviceName, d.SerialNumber, d.ID)
}

// URL is the device's page.
func (d wokenDevice) URL() string { return escaped("/admin/devices/%s", d.ID) }

// lookedAt is among how many devices those of a topic are looked for: of a large fleet it
// is enough to name some.
const lookedAt = 200

// woken returns devices by the topics that wake them, those that were seen last first.
func (s *Settings) woken(r *http.Request) (map[string][]wokenDevice, error) {
	var list admin.List[wokenDevice]
	err := s.desk.Get(r.Context(), "/api/v1/devices", url.Values{
		"state": {"enrolled"}, "enrollment_type": {"device,user,account_device"}, "sort": {"-last_seen_at"}, "limit": {strconv.Itoa(lookedAt)},
	}, &list)
	if err != nil {
		return nil, err
	}
	byTopic := map[string][]wokenDevice{}
	for _, d := range list.Items {
		if d.Push != nil && d.Push.Topic != "" && !d.Demo { // the demo's have a certificate of their own
			byTopic[d.Push.Topic] = append(byTopic[d.Push.Topic], d)
		}
	}
	return byTopic, nil
}

// mostNamed is how many devices are named where that makes plain whom something is about.
const mostNamed = 5

// otherTopic is a topic that wakes devices, with some of their names.
type otherTopic struct {
	pushTopic
	Named []wokenDevice
}

// named adds names of devices to topics.
func (s *Settings) named(r *http.Request, topics []pushTopic) ([]otherTopic, error) {
	if len(topics) == 0 {
		return nil, nil
	}
	devices, err := s.woken(r)
	if err != nil {
		return nil, err
	}
	others := make([]otherTopic, len(topics))
	for i, t := range topics {
		of := devices[t.Topic]
		others[i] = otherTopic{t, of[:min(len(of), mostNamed)]}
	}
	return others, nil
}

// Unnamed is how many of its devices have no name here.
func (t otherTopic) Unnamed() int { return max(0, t.Devices-len(t.Named)) }

// trial is the device to push in order to see whether a certificate works.
type trial struct {
	wokenDevice
	Seen view.Moment
}

// trial chooses the device of a topic that was seen last: it is the likeliest to be
// switched on. nil: there is none, or who looks may not push.
func (s *Settings) trial(r *http.Request, t *pushTopic) (*trial, error) {
	if !t.Served() || t.Devices == 0 || !s.desk.May(r.Context(), "POST /api/v1/devices/{id}/push") {
		return nil, nil
	}
	devices, err := s.woken(r)
	if err != nil || len(devices[t.Topic]) == 0 {
		return nil, err
	}
	d := devices[t.Topic][0]
	return &trial{d, s.desk.Moment(d.LastSeenAt)}, nil
}

// try is step 4: a push, and whether the device comes can be seen at its page.
func (s *Settings) try(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	device := wokenDevice{ID: f.Get("device_id")}
	if device.ID == "" {
		return &webui.Problem{Status: http.StatusBadRequest, Code: "bad_form", Title: "No device was chosen", Detail: "Go back, reload the page, and try again."}
	}
	err = s.desk.Send(r.Context(), http.MethodPost, escaped("/api/v1/devices/%s/push", device.ID), nil, nil)
	if err == nil {
		return admin.Redirect(w, r, device.URL(), "pushed")
	}
	if !f.Refused(err) {
		return err
	}
	return s.writeTopic(w, r, http.StatusUnprocessableEntity, f)
}
