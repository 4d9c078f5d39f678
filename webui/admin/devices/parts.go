package devices

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// perPart is the length of the lists of a device.
const perPart = 100

// missing is what a list says that has nothing, of which source it is made.
func missing(in inventory, name, what string) *admin.Empty {
	from := in.source(name)
	switch {
	case from.Waiting != nil:
		return &admin.Empty{Heading: "The device was asked", Text: "Its " + what + " appear here when it has answered."}
	case from.AnsweredAt == nil && from.Failure != nil:
		return &admin.Empty{Heading: "The device could not tell", Text: from.Failure.Reason}
	case from.AnsweredAt == nil:
		return &admin.Empty{Heading: "Not asked yet", Text: "“Refresh facts” asks the device for its " + what + "."}
	case in.ManagedOnly:
		return &admin.Empty{Heading: "None", Text: "Of a personal device only the " + what + " are known that this server installed, and it has none of them."}
	}
	return &admin.Empty{Heading: "None", Text: "The device has no " + what + "."}
}

type app struct {
	Identifier         string `json:"identifier"`
	Name               string `json:"name"`
	Version            string `json:"version"`
	ShortVersion       string `json:"short_version"`
	BundleSize         int64  `json:"bundle_size"`
	DynamicSize        int64  `json:"dynamic_size"`
	Installing         bool   `json:"installing"`
	HasUpdateAvailable bool   `json:"has_update_available"`
	Managed            bool   `json:"managed"`
	ManagedStatus      string `json:"managed_status"`
}

// Size is what the app takes, in words.
func (a app) Size() string {
	size := a.BundleSize + a.DynamicSize
	switch {
	case size <= 0:
		return ""
	case size < 1e6:
		return "under 1 MB"
	case size < 1e9:
		return fmt.Sprintf("%d MB", size/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(size)/1e9)
}

// Shown is the version that people call it by.
func (a app) Shown() string {
	if a.ShortVersion != "" {
		return a.ShortVersion
	}
	return a.Version
}

type appsPage struct {
	head
	Items   []app
	Pager   admin.Pager
	Empty   *admin.Empty
	Minimal bool
}

func (s *Devices) apps(w http.ResponseWriter, r *http.Request) error {
	h, in, err := s.withInventory(r, "apps")
	if err != nil {
		return err
	}
	page := &appsPage{head: h, Minimal: in.ManagedOnly}
	next, err := s.part(r, "/apps", perPart, &page.Items)
	if err != nil {
		return err
	}
	page.Pager = admin.NewPager(r, next)
	if len(page.Items) == 0 {
		page.Empty = missing(in, "InstalledApplicationList", "apps")
	}
	return s.desk.Write(w, r, s.pages, "apps.html", page)
}

func (s *Devices) withInventory(r *http.Request, part string) (h head, in inventory, err error) {
	if h, err = s.headOf(r, part); err != nil {
		return h, in, err
	}
	err = s.desk.Get(r.Context(), deviceAPI(h.Device.ID)+"/inventory", nil, &in)
	return h, in, err
}

// assigned is a profile of the library as it stands on the device.
type assigned struct {
	ProfileID        string    `json:"profile_id"`
	Name             string    `json:"name"`
	Identifier       string    `json:"identifier"`
	State            string    `json:"state"`
	StateAt          time.Time `json:"state_at"`
	Version          int       `json:"version"`
	InstalledVersion *int      `json:"installed_version"`
	LatestVersion    int       `json:"latest_version"`
	Reason           string    `json:"reason"`
}

// URL is the profile's page.
func (a assigned) URL() string { return "/admin/profiles/" + url.PathEscape(a.ProfileID) }

// StateWords is how the profile stands.
func (a assigned) StateWords() view.State {
	tone := view.Waiting
	switch a.State {
	case "installed":
		tone = view.Good
	case "failed", "drifted":
		tone = view.Bad
	case "removed":
		tone = view.Neutral
	}
	return view.State{Text: strings.ToLower(admin.Words(a.State)), Tone: tone, Hint: a.Reason}
}

type installedProfile struct {
	Identifier        string `json:"identifier"`
	DisplayName       string `json:"display_name"`
	Organization      string `json:"organization"`
	Version           int64  `json:"version"`
	RemovalDisallowed bool   `json:"removal_disallowed"`
	IsManaged         *bool  `json:"is_managed"`
	Payloads          []struct {
		Type string `json:"type"`
	} `json:"payloads"`
}

// What is what the profile has in it, in a line.
func (p installedProfile) What() string {
	types := make([]string, len(p.Payloads))
	for i, payload := range p.Payloads {
		types[i] = strings.TrimPrefix(payload.Type, "com.apple.")
	}
	return clip(strings.Join(types, ", "))
}

type profilesPage struct {
	head
	Assigned []assigned
	Items    []installedProfile
	Pager    admin.Pager
	Empty    *admin.Empty
}

func (s *Devices) profiles(w http.ResponseWriter, r *http.Request) error {
	h, in, err := s.withInventory(r, "profiles")
	if err != nil {
		return err
	}
	page := &profilesPage{head: h}
	var list admin.List[assigned]
	if err := s.desk.Get(r.Context(), deviceAPI(h.Device.ID)+"/profiles", nil, &list); err != nil {
		return err
	}
	page.Assigned = list.Items
	next, err := s.part(r, "/installed-profiles", perPart, &page.Items)
	if err != nil {
		return err
	}
	page.Pager = admin.NewPager(r, next)
	if len(page.Items) == 0 {
		page.Empty = missing(in, "ProfileList", "profiles")
	}
	return s.desk.Write(w, r, s.pages, "profiles.html", page)
}

// issued is a certificate of this server's authorities.
type issued struct {
	Serial   string    `json:"serial"`
	Subject  string    `json:"subject"`
	Template string    `json:"template"`
	NotAfter time.Time `json:"not_after"`
	Status   string    `json:"status"`
}

// URL is the certificate's page.
func (c issued) URL() string { return "/admin/certificates/" + url.PathEscape(c.Serial) }

// StateWords is whether the certificate holds.
func (c issued) StateWords() view.State {
	return view.State{Text: c.Status, Tone: map[string]view.Tone{"active": view.Good, "revoked": view.Bad}[c.Status]}
}

type installedCertificate struct {
	CommonName string     `json:"common_name"`
	IsIdentity bool       `json:"is_identity"`
	Subject    string     `json:"subject"`
	Issuer     string     `json:"issuer"`
	NotAfter   *time.Time `json:"not_after"`
}

type certificatesPage struct {
	head
	Issued []issued
	All    string // all that were issued for the device, where there are more
	Items  []installedCertificate
	Pager  admin.Pager
	Empty  *admin.Empty
}

func (s *Devices) certificates(w http.ResponseWriter, r *http.Request) error {
	h, in, err := s.withInventory(r, "certificates")
	if err != nil {
		return err
	}
	page := &certificatesPage{head: h}
	var list admin.List[issued]
	if err := s.desk.Get(r.Context(), "/api/v1/certificates", url.Values{"device_id": {h.Device.ID}, "limit": {"50"}}, &list); err != nil {
		return err
	}
	page.Issued = list.Items
	if list.NextCursor != "" {
		page.All = "/admin/certificates?" + url.Values{"device_id": {h.Device.ID}}.Encode()
	}
	next, err := s.part(r, "/installed-certificates", perPart, &page.Items)
	if err != nil {
		return err
	}
	page.Pager = admin.NewPager(r, next)
	if len(page.Items) == 0 {
		page.Empty = missing(in, "CertificateList", "certificates")
	}
	return s.desk.Write(w, r, s.pages, "certificates.html", page)
}

type change struct {
	At      time.Time `json:"at"`
	Source  string    `json:"source"`
	Kind    string    `json:"kind"`
	Summary string    `json:"summary"`
}

type historyPage struct {
	head
	Items []change
	Pager admin.Pager
	Empty *admin.Empty
}

func (s *Devices) history(w http.ResponseWriter, r *http.Request) error {
	h, err := s.headOf(r, "history")
	if err != nil {
		return err
	}
	page := &historyPage{head: h}
	next, err := s.part(r, "/history", 50, &page.Items)
	if err != nil {
		return err
	}
	page.Pager = admin.NewPager(r, next)
	if len(page.Items) == 0 {
		page.Empty = &admin.Empty{Heading: "Nothing has changed", Text: "What is different from one answer of the device to the next is kept here: its system, its name, apps that came and went."}
	}
	return s.desk.Write(w, r, s.pages, "history.html", page)
}

type event struct {
	ID      string            `json:"id"`
	At      time.Time         `json:"at"`
	Actor   string            `json:"actor"`
	Action  string            `json:"action"`
	Outcome string            `json:"outcome"`
	Reason  string            `json:"reason"`
	Details map[string]string `json:"details"`
}

// Words is what happened, in words: "Command finished".
func (e event) Words() string { return admin.Words(strings.ReplaceAll(e.Action, ".", "_")) }

// About is what else there is to say, in a line.
func (e event) About() string {
	var about []string
	for _, key := range []string{"request_type", "state", "name", "identifier", "topic", "note", "reason"} {
		switch v := e.Details[key]; {
		case v == "":
		case key == "request_type":
			about = append(about, admin.Words(v))
		case v == "error" && key == "state":
			about = append(about, "failed")
		default:
			about = append(about, v)
		}
	}
	if e.Reason != "" {
		about = append(about, e.Reason)
	}
	return clip(strings.Join(about, " · "))
}

type activityPage struct {
	head
	Items []event
	Pager admin.Pager
	Empty *admin.Empty
}

func (s *Devices) activity(w http.ResponseWriter, r *http.Request) error {
	h, err := s.headOf(r, "activity")
	if err != nil {
		return err
	}
	query := url.Values{"device_id": {h.Device.ID}, "limit": {"50"}}
	if cursor := r.URL.Query().Get("cursor"); cursor != "" {
		query.Set("cursor", cursor)
	}
	var list admin.List[event]
	if err := s.desk.Get(r.Context(), "/api/v1/audit", query, &list); err != nil {
		return err
	}
	page := &activityPage{head: h, Items: list.Items, Pager: admin.NewPager(r, list.NextCursor)}
	if len(page.Items) == 0 {
		page.Empty = &admin.Empty{Heading: "Nothing happened", Text: "What is done with the device, and what it does, is kept here for as long as the settings say."}
	}
	return s.desk.Write(w, r, s.pages, "activity.html", page)
}

type rawPage struct {
	head
	JSON    string
	Answers []answer
}

// answer is what the device said to a command, as JSON.
type answer struct {
	Command command
	JSON    string
	Cut     bool
}

// maxRaw bounds what the page shows of one answer, in bytes.
const maxRaw = 12 << 10

func (s *Devices) raw(w http.ResponseWriter, r *http.Request) error {
	h, err := s.headOf(r, "raw")
	if err != nil {
		return err
	}
	var told []byte
	if err := s.desk.Get(r.Context(), deviceAPI(h.Device.ID), nil, &told); err != nil {
		return err
	}
	page := &rawPage{head: h}
	page.JSON, _ = indented(told)
	var commands []command
	if _, err := s.part(r, "/commands", 5, &commands); err != nil {
		return err
	}
	for _, c := range commands {
		if len(c.Result) == 0 || string(c.Result) == "null" {
			continue
		}
		a := answer{Command: c}
		a.JSON, a.Cut = indented(c.Result)
		page.Answers = append(page.Answers, a)
	}
	return s.desk.Write(w, r, s.pages, "raw.html", page)
}

// indented is JSON for people, as much of it as a page shows.
func indented(raw []byte) (text string, cut bool) {
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return "", false
	}
	if out.Len() > maxRaw {
		return strings.ToValidUTF8(out.String()[:maxRaw], "") + "\n…", true
	}
	return out.String(), false
}

// download sends what the API tells of the device.
func (s *Devices) download(w http.ResponseWriter, r *http.Request) error {
	return s.desk.Forward(w, r, deviceAPI(r.PathValue("id")), nil)
}
