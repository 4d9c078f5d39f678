package certificates

import (
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// authority is one generation of an authority, as the API has it.
type authority struct {
	ID             string     `json:"id"`
	Role           string     `json:"role"`
	Generation     int        `json:"generation"`
	State          string     `json:"state"`
	StateSince     *time.Time `json:"state_since"`
	Imported       bool       `json:"imported"`
	Subject        string     `json:"subject"`
	Issuer         string     `json:"issuer"`
	Serial         string     `json:"serial"`
	NotBefore      time.Time  `json:"not_before"`
	NotAfter       time.Time  `json:"not_after"`
	SHA256         string     `json:"sha256"`
	Key            key        `json:"key"`
	InForce        *int       `json:"certificates_in_force"` // nil: not to be told
	CRLURL         string     `json:"crl_url"`
	OCSPURL        string     `json:"ocsp_url"`
	CertificateURL string     `json:"certificate_url"`
	Warnings       []string   `json:"warnings"`
}

// Pairs is the fingerprint as other tools write it.
func (a authority) Pairs() string { return pairs(a.SHA256) }

// InUse says how many certificates of it are in force, where that is told.
func (a authority) InUse() string {
	if a.InForce == nil {
		return ""
	}
	return admin.Count(*a.InForce, "certificate of it is", "certificates of it are") + " in force."
}

// Standing is its state in words.
func (a authority) Standing() view.State {
	switch a.State {
	case "active":
		return view.State{Text: "in force", Tone: view.Good}
	case "next":
		return view.State{Text: "next", Tone: view.Waiting, Hint: "It issues nothing before a rollover."}
	case "retiring":
		return view.State{Text: "retiring", Tone: view.Waiting, Hint: "It issues nothing any more; what it issued is still trusted."}
	case "retired":
		return view.State{Text: "retired", Tone: view.Neutral, Hint: "What it issued is trusted no more."}
	}
	return view.State{Text: a.State}
}

// rollover is the way of all devices from one authority to the next.
type rollover struct {
	Role        string         `json:"role"`
	To          string         `json:"to"`
	State       string         `json:"state"`
	PerHour     int            `json:"per_hour"`
	Forced      bool           `json:"forced"`
	StartedAt   time.Time      `json:"started_at"`
	StartedBy   string         `json:"started_by"`
	ActivatedAt *time.Time     `json:"activated_at"`
	FinishedAt  *time.Time     `json:"finished_at"`
	Counts      map[string]int `json:"counts"`
	Unfinished  []progress     `json:"unfinished"`
}

// progress is how far a device is in a rollover.
type progress struct {
	DeviceID string    `json:"device_id"`
	Template string    `json:"template"`
	Stage    string    `json:"stage"`
	Since    time.Time `json:"since"`
	Blocker  string    `json:"blocker"`
}

// DeviceURL is the device's page.
func (p progress) DeviceURL() string { return "/admin/devices/" + url.PathEscape(p.DeviceID) }

// Done and All count devices.
func (r rollover) Done() int { return r.Counts["done"] }

// All is how many devices the rollover is about.
func (r rollover) All() (n int) {
	for _, count := range r.Counts {
		n += count
	}
	return n
}

// Standing is its state in words.
func (r rollover) Standing() view.State {
	switch r.State {
	case "waiting_for_trust":
		return view.State{Text: "devices learn to trust the new one", Tone: view.Waiting}
	case "moving":
		return view.State{Text: "devices are moving", Tone: view.Waiting}
	}
	return view.State{Text: "finished", Tone: view.Good}
}

type ca struct {
	Authorities []authority `json:"authorities"`
	Rollovers   []rollover  `json:"rollovers"`
}

func (s *Certificates) readCA(r *http.Request) (c ca, err error) {
	err = s.desk.Get(r.Context(), caAPI, nil, &c)
	return c, err
}

// role is what an authority is for.
type role struct{ Name, Title, Purpose, Trust string }

// roles are the authorities that a server has.
var roles = []role{
	{"identity", "Device identities", "Issues the certificate by which each device proves itself to this server, and nothing else.", "/ca/identity.pem"},
	{"root", "Organisation root", "What devices trust: it stands above the issuer of payload certificates and, without a public one, this server’s own TLS certificate.", "/ca.pem"},
	{"payload", "Payload certificates", "Issues what templates ask for: Wi-Fi, VPN, mail.", ""},
}

// URL is where something is done with the authority.
func (r role) URL() string { return "/admin/certificate-authorities/" + r.Name }

// ofRole is a role with its authorities.
type ofRole struct {
	role
	Authorities []authority
	Rollover    *rollover // the latest; nil: there was none
	Moving      bool      // a rollover is under way
	HasNext     bool
}

// byRole puts the authorities of a CA under their roles, the latest first.
func (c ca) byRole() []ofRole {
	list := make([]ofRole, len(roles))
	for i, what := range roles {
		list[i].role = what
		for _, a := range c.Authorities {
			if a.Role == what.Name {
				list[i].Authorities = append(list[i].Authorities, a)
				list[i].HasNext = list[i].HasNext || a.State == "next"
			}
		}
		slices.SortStableFunc(list[i].Authorities, func(a, b authority) int { return b.Generation - a.Generation })
		for _, move := range c.Rollovers {
			if move.Role == what.Name {
				list[i].Rollover, list[i].Moving = &move, move.State != "finished"
			}
		}
	}
	return list
}

type authoritiesPage struct {
	admin.Page
	Tabs  []admin.NavItem
	Roles []ofRole
	Owner bool

	MayFollow bool // how far devices are in a rollover

	Trust   string // the profile that has devices trust the root
	RootPEM string
}

func (s *Certificates) authorities(w http.ResponseWriter, r *http.Request) error {
	c, err := s.readCA(r)
	if err != nil {
		return err
	}
	page := &authoritiesPage{
		Page: admin.Page{Title: "Certificate authorities", Section: section, Watch: "ca."}, Tabs: tabs("Authorities"), Roles: c.byRole(),
		Owner:     s.desk.May(r.Context(), "POST /api/v1/ca/{role}/rollover"),
		MayFollow: s.desk.May(r.Context(), "GET /api/v1/ca/{role}/rollover"),
		Trust:     s.desk.ServerURL.JoinPath("ca.mobileconfig").String(), RootPEM: s.desk.ServerURL.JoinPath("ca.pem").String(),
	}
	if slices.ContainsFunc(page.Roles, func(o ofRole) bool { return o.Moving }) {
		page.Every = 10
	}
	return s.desk.Write(w, r, s.pages, "authorities.html", page)
}

// roleOf returns the role that r is about, with its authorities.
func (s *Certificates) roleOf(r *http.Request) (ofRole, error) {
	c, err := s.readCA(r)
	if err != nil {
		return ofRole{}, err
	}
	for _, one := range c.byRole() {
		if one.Name == r.PathValue("role") {
			return one, nil
		}
	}
	return ofRole{}, notHere("There is no authority of that kind.")
}

func notHere(detail string) error {
	return &webui.Problem{Status: http.StatusNotFound, Code: "not_found", Title: "There is nothing here", Detail: detail}
}

// crumbs lead to the authorities.
var crumbs = []view.Link{crumb, {Label: "Authorities", URL: section + "/authorities"}}

type rolloverPage struct {
	admin.Page
	Role   ofRole
	Form   *admin.Form
	Owner  bool
	Items  []progress
	Pager  admin.Pager
	Counts []stageCount
	Lost   []progress
}

type stageCount struct {
	Stage string
	Count int
}

// rollover shows how far the devices are, or asks before a rollover is started.
func (s *Certificates) rollover(w http.ResponseWriter, r *http.Request) error {
	return s.showRollover(w, r, admin.NewForm(), nil)
}

func (s *Certificates) showRollover(w http.ResponseWriter, r *http.Request, form *admin.Form, lost []progress) error {
	one, err := s.roleOf(r)
	if err != nil {
		return err
	}
	page := &rolloverPage{
		Page: admin.Page{Title: "Rollover: " + one.Title, Section: section, Crumbs: crumbs},
		Role: one, Form: form, Owner: s.desk.May(r.Context(), "POST /api/v1/ca/{role}/rollover"), Lost: lost,
	}
	if one.Rollover != nil {
		for _, stage := range slices.Sorted(maps.Keys(one.Rollover.Counts)) {
			page.Counts = append(page.Counts, stageCount{admin.Words(stage), one.Rollover.Counts[stage]})
		}
		query := url.Values{"limit": {perPage}}
		if v := r.URL.Query().Get("cursor"); v != "" {
			query.Set("cursor", v)
		}
		var list admin.List[progress]
		if err := s.desk.Get(r.Context(), caAPI+"/"+url.PathEscape(one.Name)+"/rollover", query, &list); err != nil {
			return err
		}
		page.Items, page.Pager = list.Items, admin.NewPager(r, list.NextCursor)
		if one.Moving {
			page.Watch, page.Every = "ca. certificate. command.finished", 10
		}
	}
	status := http.StatusOK
	if !form.OK() {
		status = http.StatusUnprocessableEntity
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "rollover.html", page)
}

func (s *Certificates) startRollover(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	in := map[string]any{"force": form.Has("force", "true")}
	if text := form.Get("per_hour"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			form.Fail("per_hour", "Must be a whole number.")
		}
		in["per_hour"] = n
	}
	if !form.Typed("roll over") || !form.OK() {
		return s.showRollover(w, r, form, nil)
	}
	var started struct {
		Lost []progress `json:"lost"`
	}
	role := r.PathValue("role")
	if err := s.desk.Send(r.Context(), http.MethodPost, caAPI+"/"+url.PathEscape(role)+"/rollover", in, &started); err != nil {
		if form.Refused(err) {
			return s.showRollover(w, r, form, nil)
		}
		return err
	}
	if len(started.Lost) > 0 {
		return s.showRollover(w, r, admin.NewForm(), started.Lost)
	}
	return admin.Redirect(w, r, "/admin/certificate-authorities/"+url.PathEscape(role)+"/rollover", "rolling")
}

type retirePage struct {
	admin.Page
	Role      ofRole
	Authority authority
	Form      *admin.Form
	Blockers  []admin.Blocker
}

// of returns the authority with an ID.
func (o ofRole) of(id string) (authority, error) {
	for _, a := range o.Authorities {
		if a.ID == id {
			return a, nil
		}
	}
	return authority{}, notHere("There is no such authority.")
}

func (s *Certificates) askRetire(w http.ResponseWriter, r *http.Request) error {
	return s.showRetire(w, r, admin.NewForm("id", r.URL.Query().Get("id")), nil)
}

func (s *Certificates) showRetire(w http.ResponseWriter, r *http.Request, form *admin.Form, blockers []admin.Blocker) error {
	one, err := s.roleOf(r)
	if err != nil {
		return err
	}
	a, err := one.of(form.Get("id"))
	if err != nil {
		return err
	}
	status := http.StatusOK
	if !form.OK() || len(blockers) > 0 {
		status = http.StatusUnprocessableEntity
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "retire.html", &retirePage{
		Page: admin.Page{Title: "Retire an authority", Section: section, Crumbs: crumbs}, Role: one, Authority: a, Form: form, Blockers: blockers,
	})
}

func (s *Certificates) retire(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	if !form.Typed("retire") {
		return s.showRetire(w, r, form, nil)
	}
	in := map[string]any{"id": form.Get("id"), "force": form.Has("force", "true")}
	err = s.desk.Send(r.Context(), http.MethodPost, caAPI+"/"+url.PathEscape(r.PathValue("role"))+"/retire", in, nil)
	var p *admin.Problem
	if errors.As(err, &p) && len(p.Blockers) > 0 {
		form.Error = p.Detail
		return s.showRetire(w, r, form, p.Blockers)
	}
	if err != nil {
		if form.Refused(err) {
			return s.showRetire(w, r, form, nil)
		}
		return err
	}
	return admin.Redirect(w, r, section+"/authorities", "retired")
}

type importPage struct {
	admin.Page
	Role ofRole
	Form *admin.Form
}

func (s *Certificates) askImport(w http.ResponseWriter, r *http.Request) error {
	return s.showImport(w, r, admin.NewForm())
}

func (s *Certificates) showImport(w http.ResponseWriter, r *http.Request, form *admin.Form) error {
	one, err := s.roleOf(r)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if !form.OK() {
		status = http.StatusUnprocessableEntity
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "import.html", &importPage{
		Page: admin.Page{Title: "Import an authority", Section: section, Crumbs: crumbs}, Role: one, Form: form,
	})
}

func (s *Certificates) importCA(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	content, _, err := form.File("file")
	if err != nil {
		return err
	}
	in := map[string]any{"passphrase": form.Values.Get("passphrase")}
	switch text := form.Get("pem"); {
	case len(content) == 0 && text == "":
		form.Fail("file", "Choose a file, or paste what is in it.")
	case len(content) == 0:
		in["pem"] = text
	case strings.Contains(string(content), "-----BEGIN"):
		in["pem"] = string(content)
	default:
		in["pkcs12"] = base64.StdEncoding.EncodeToString(content)
	}
	if !form.OK() {
		return s.showImport(w, r, form)
	}
	form.Values.Del("pem") // it holds a key, which no page shows again
	if err := s.desk.Send(r.Context(), http.MethodPost, caAPI+"/"+url.PathEscape(r.PathValue("role"))+"/import", in, nil); err != nil {
		if form.Refused(err, "pkcs12", "file", "pem", "file") {
			return s.showImport(w, r, form)
		}
		return err
	}
	return admin.Redirect(w, r, section+"/authorities", "imported")
}
