// Package targets is the part of forms that says which devices something is for: those that
// somebody chooses, a group, or all of a kind. It works without script.
package targets

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"slices"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
)

//go:embed templates/*.html
var templates embed.FS

// Most is for how many devices something can be done at once: what the API takes.
const Most = 10_000

// typedAbove is from how many devices on their number has to be typed.
const typedAbove = 50

// Who something is for: values of the field "who".
const (
	Some  = "some"
	Group = "group"
	All   = "all"
)

// Device is one that can be chosen.
type Device struct {
	ID           string `json:"id"`
	SerialNumber string `json:"serial_number"`
	DeviceName   string `json:"device_name"`
	Model        string `json:"model"`
	ModelName    string `json:"model_name"`
	Platform     string `json:"platform"`
	OSVersion    string `json:"os_version"`
	User         string `json:"user"`

	EnrollmentType string `json:"enrollment_type"`
	UserLongName   string `json:"user_long_name"` // of a user of a Mac, who is listed as a device
}

// Name is what to call the device.
func (d Device) Name() string {
	for _, name := range []string{d.DeviceName, d.SerialNumber, d.UserLongName} {
		if name != "" {
			return name
		}
	}
	return d.ID
}

// ModelWords and OS are what it is.
func (d Device) ModelWords() string { return admin.Model(d.ModelName, d.Model) }
func (d Device) OS() string         { return admin.System(d.Platform, d.Model, d.OSVersion) }

// URL is the device's page.
func (d Device) URL() string { return "/admin/devices/" + url.PathEscape(d.ID) }

// Part is what the part "targets" of a page draws.
type Part struct {
	Form      *admin.Form
	Groups    []admin.Option
	Platforms []admin.Option
	Rows      []Row  // devices that are chosen, then those that were found beside
	Nothing   bool   // a search found no other
	AllLabel  string // what All stands for: "All enrolled devices"
}

// Row is a device with whether it is ticked.
type Row struct {
	Device
	Ticked bool
}

// With adds the part "targets" to the templates of a section.
func With(files fs.FS) fs.FS { return &both{files, templates} }

// both are the files of two file systems of which the second adds to the first.
type both struct{ first, second fs.FS }

func (b *both) Open(name string) (fs.File, error) {
	f, err := b.first.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return b.second.Open(name)
	}
	return f, err
}

func (b *both) ReadDir(name string) ([]fs.DirEntry, error) {
	one, err := fs.ReadDir(b.first, name)
	if err != nil {
		return nil, err
	}
	two, err := fs.ReadDir(b.second, name)
	if errors.Is(err, fs.ErrNotExist) {
		return one, nil
	}
	return append(one, two...), err
}

// New returns the part as a form has it: with the groups that there are, the devices that
// are chosen, and what a search finds.
func New(ctx context.Context, desk *admin.Desk, f *admin.Form, all string) (*Part, error) {
	p := &Part{Form: f, AllLabel: all, Platforms: admin.Options(
		"", "Of every kind", "ios", "iPhone and iPad", "macos", "Mac", "tvos", "Apple TV", "visionos", "Apple Vision", "watchos", "Apple Watch",
	)}
	if f.Get("who") == "" {
		f.Values.Set("who", Some)
	}
	for i, o := range p.Platforms {
		p.Platforms[i].Selected = f.Has("platform", o.Value)
	}
	var groups admin.List[struct {
		ID          string `json:"id"`
		Name        string `json:"name"`
		DeviceCount *int   `json:"device_count"`
	}]
	if err := desk.Get(ctx, "/api/v1/groups", url.Values{"limit": {"1000"}}, &groups); err != nil && !isProblem(err) {
		return nil, err
	}
	for _, g := range groups.Items {
		label := g.Name
		if g.DeviceCount != nil {
			label += " (" + admin.Count(*g.DeviceCount, "device", "devices") + ")"
		}
		p.Groups = append(p.Groups, admin.Option{Value: g.ID, Label: label, Selected: f.Has("group_id", g.ID)})
	}
	devices, err := ticked(ctx, desk, f)
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		p.Rows = append(p.Rows, Row{d, true})
	}
	if q := f.Get("find"); q != "" {
		ticked := len(p.Rows)
		var found admin.List[Device]
		if err := desk.Get(ctx, "/api/v1/devices", url.Values{"q": {q}, "state": {"enrolled"}, "limit": {"20"}}, &found); err != nil {
			return nil, err
		}
		for _, d := range found.Items {
			if !slices.ContainsFunc(p.Rows, func(have Row) bool { return have.ID == d.ID }) {
				p.Rows = append(p.Rows, Row{d, false})
			}
		}
		p.Nothing = len(p.Rows) == ticked
	}
	return p, nil
}

// maxChosen is how many devices can be chosen one by one.
const maxChosen = 200

// chosen are the devices that were ticked, each once.
func chosen(f *admin.Form) []string {
	var ids []string
	for _, id := range f.Values["device_id"] {
		if id != "" && !slices.Contains(ids, id) && len(ids) < maxChosen {
			ids = append(ids, id)
		}
	}
	return ids
}

// Resolve returns the devices that a form is for. What is wrong is noted at the form, and
// then there are none. all are the filters of GET /devices that All stands for.
func Resolve(ctx context.Context, desk *admin.Desk, f *admin.Form, all url.Values) ([]Device, error) {
	query := url.Values{"limit": {"1000"}}
	switch f.Get("who") {
	case Some:
		devices, err := ticked(ctx, desk, f)
		if err == nil && len(devices) == 0 {
			f.Fail("find", "Search for devices, and tick those that are meant.")
		}
		return devices, err
	case Group:
		if f.Get("group_id") == "" {
			f.Fail("group_id", "Choose a group.")
			return nil, nil
		}
		query.Set("group_id", f.Get("group_id"))
		query.Set("state", "enrolled")
	case All:
		for name, values := range all {
			query[name] = values
		}
		if platform := f.Get("platform"); platform != "" {
			query.Set("platform", platform)
		}
	default:
		f.Fail("who", "Choose which devices are meant.")
		return nil, nil
	}
	var devices []Device
	for {
		var found struct {
			admin.List[Device]
			Total int `json:"total"`
		}
		if err := desk.Get(ctx, "/api/v1/devices", query, &found); err != nil {
			if f.Refused(err) {
				return nil, nil
			}
			return nil, err
		}
		if found.Total > Most {
			f.Error = fmt.Sprintf("These are %s devices. Up to %s can be asked at once: choose a group, or one kind of device.", admin.Number(found.Total), admin.Number(Most))
			return nil, nil
		}
		devices = append(devices, found.Items...)
		if found.NextCursor == "" {
			break
		}
		query.Set("cursor", found.NextCursor)
	}
	if len(devices) == 0 {
		f.Error = "No device is meant by this: there is none that is enrolled."
	}
	return devices, nil
}

// ticked returns the devices that were ticked and are still there.
func ticked(ctx context.Context, desk *admin.Desk, f *admin.Form) (devices []Device, err error) {
	for _, id := range chosen(f) {
		var d Device
		if err := desk.Get(ctx, "/api/v1/devices/"+url.PathEscape(id), nil, &d); isProblem(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		devices = append(devices, d)
	}
	return devices, nil
}

// IDs returns the ids of devices.
func IDs(devices []Device) []string {
	ids := make([]string, len(devices))
	for i, d := range devices {
		ids[i] = d.ID
	}
	return ids
}

// Named is a list of devices by name, of which the rest is only counted.
type Named struct {
	Devices []Device
	More    int
}

// Name returns the first of the devices with these ids by name.
func Name(devices []Device, ids []string) (n Named) {
	const most = 8
	byID := make(map[string]Device, len(devices))
	for _, d := range devices {
		byID[d.ID] = d
	}
	for i, id := range ids {
		if i == most {
			n.More = len(ids) - most
			break
		}
		d, ok := byID[id]
		if !ok {
			d.ID = id
		}
		n.Devices = append(n.Devices, d)
	}
	return n
}

// Keep returns what a page that asks again has to send along, so that its form is for the
// same devices.
func Keep(f *admin.Form) url.Values {
	kept := url.Values{}
	for _, name := range []string{"who", "device_id", "group_id", "platform"} {
		if values, ok := f.Values[name]; ok {
			kept[name] = values
		}
	}
	return kept
}

// Word is what has to be typed before something is done to so many devices: nothing while
// they are few.
func Word(n int) string {
	if n <= typedAbove {
		return ""
	}
	return fmt.Sprint(n)
}

func isProblem(err error) bool {
	var p *admin.Problem
	return errors.As(err, &p)
}
