// Package certificates is the section of the desk for what the server issues: certificates,
// the templates that say what they are like, who is to have them, and the authorities
// behind them.
package certificates

import (
	"embed"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/admin/targets"
	"github.com/gatehouse-mdm/gatehouse/webui/chart"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

//go:embed templates/*.html
var templates embed.FS

const (
	section     = "/admin/certificates"
	api         = "/api/v1/certificates"
	templateAPI = "/api/v1/certificate-templates"
	caAPI       = "/api/v1/ca"
)

// Certificates is the section.
type Certificates struct {
	desk  *admin.Desk
	pages *admin.Templates
}

// New returns the section at a desk.
func New(desk *admin.Desk) (*Certificates, error) {
	pages, err := desk.Templates(targets.With(templates))
	return &Certificates{desk, pages}, err
}

// Mount implements [admin.Section].
func (s *Certificates) Mount(r, _ webui.Router) {
	r.Handle("GET /admin/certificates", s.list)
	r.Handle("GET /admin/certificates/issue", s.askIssue)
	r.Handle("POST /admin/certificates/issue", s.issue)
	r.Handle("GET /admin/certificates/{serial}", s.certificate)
	r.Handle("GET /admin/certificates/{serial}/download", s.download)
	r.Handle("GET /admin/certificates/{serial}/revoke", s.askRevoke)
	r.Handle("POST /admin/certificates/{serial}/revoke", s.revoke)

	r.Handle("GET /admin/certificates/templates", s.templates)
	r.Handle("GET /admin/certificates/new-template", s.newTemplate)
	r.Handle("POST /admin/certificates/new-template", s.createTemplate)
	r.Handle("GET /admin/certificate-templates/{name}", s.template)
	r.Handle("GET /admin/certificate-templates/{name}/edit", s.editTemplate)
	r.Handle("POST /admin/certificate-templates/{name}/edit", s.changeTemplate)
	r.Handle("GET /admin/certificate-templates/{name}/send", s.desk.Only("POST "+templateAPI+"/{name}/send", s.send))
	r.Handle("POST /admin/certificate-templates/{name}/send", s.desk.Only("POST "+templateAPI+"/{name}/send", s.sendTo))
	r.Handle("GET /admin/certificate-templates/{name}/delete", s.askDelete)
	r.Handle("POST /admin/certificate-templates/{name}/delete", s.delete)

	r.Handle("GET /admin/certificates/assigned", s.assignments)
	r.Handle("GET /admin/certificates/unassign", s.askUnassign)
	r.Handle("POST /admin/certificates/unassign", s.unassign)

	r.Handle("GET /admin/certificates/authorities", s.authorities)
	r.Handle("GET /admin/certificate-authorities/{role}/rollover", s.rollover)
	r.Handle("POST /admin/certificate-authorities/{role}/rollover", s.startRollover)
	r.Handle("GET /admin/certificate-authorities/{role}/retire", s.askRetire)
	r.Handle("POST /admin/certificate-authorities/{role}/retire", s.retire)
	r.Handle("GET /admin/certificate-authorities/{role}/import", s.askImport)
	r.Handle("POST /admin/certificate-authorities/{role}/import", s.importCA)
}

// tabs are the parts of the section.
func tabs(current string) []admin.NavItem {
	all := []admin.NavItem{
		{Label: "Issued", URL: section}, {Label: "Templates", URL: section + "/templates"},
		{Label: "Assigned", URL: section + "/assigned"}, {Label: "Authorities", URL: section + "/authorities"},
	}
	for i := range all {
		all[i].Current = all[i].Label == current
	}
	return all
}

// crumb leads back to the section.
var crumb = view.Link{Label: "Certificates", URL: section}

// certificate is one as the API has it.
type certificate struct {
	Serial           string     `json:"serial"`
	Fingerprint      string     `json:"fingerprint"`
	Subject          string     `json:"subject"`
	SANs             []string   `json:"sans"`
	Template         string     `json:"template"`
	DeviceID         string     `json:"device_id"`
	DeviceName       string     `json:"device_name"`
	User             string     `json:"user"`
	Authority        string     `json:"authority"`
	Issuer           string     `json:"issuer"`
	Door             string     `json:"door"`
	Requester        string     `json:"requester"`
	Replaces         string     `json:"replaces"`
	IssuedAt         time.Time  `json:"issued_at"`
	NotBefore        time.Time  `json:"not_before"`
	NotAfter         time.Time  `json:"not_after"`
	Status           string     `json:"status"`
	RevokedAt        *time.Time `json:"revoked_at"`
	RevocationReason string     `json:"revocation_reason"`
	RevocationNote   string     `json:"revocation_note"`

	// Of one certificate only.
	IssuerSubject string   `json:"issuer_subject"`
	Key           *key     `json:"key"`
	Signature     string   `json:"signature_algorithm"`
	KeyUsage      []string `json:"key_usage"`
	ExtKeyUsage   []string `json:"ext_key_usage"`
	CRLURLs       []string `json:"crl_urls"`
	OCSPURLs      []string `json:"ocsp_urls"`
}

type key struct {
	Type string `json:"type"`
	Bits int    `json:"bits"`
}

// Name is what to call the certificate.
func (c certificate) Name() string {
	if c.identity() && c.DeviceID != "" {
		return "Identity of " + c.Device()
	}
	for _, name := range append([]string{c.Subject}, c.SANs...) {
		if name != "" {
			return name
		}
	}
	return c.Serial
}

// URL is the certificate's page.
func (c certificate) URL() string { return section + "/" + url.PathEscape(c.Serial) }

// Device is what to call the device that has it, empty without one.
func (c certificate) Device() string {
	if c.DeviceName != "" {
		return c.DeviceName
	}
	return c.DeviceID
}

// DeviceURL is the device's page.
func (c certificate) DeviceURL() string { return "/admin/devices/" + url.PathEscape(c.DeviceID) }

// Kind says what the certificate is for.
func (c certificate) Kind() string {
	if c.Template == "tls" && c.Authority == "root" {
		return "This server’s TLS certificate" // which no template of anybody’s is behind
	}
	if c.Template != "" && !c.identity() {
		return c.Template
	}
	return kinds[c.Authority]
}

// identity reports whether it is what a device proves itself by.
func (c certificate) identity() bool { return c.Authority == "identity" || c.Authority == "adopted" }

// kinds are what certificates without a template are for, by their authority.
var kinds = map[string]string{
	"identity": "Device identity", "root": "Server", "payload": "Payload", "external": "Another authority’s", "adopted": "Identity from another server",
}

// soon is how long before its end a certificate is said to end.
const soon = 30 * 24 * time.Hour

// State is what the certificate is worth.
func (c certificate) State(now time.Time) view.State {
	switch {
	case c.Status == "revoked":
		return view.State{Text: "revoked", Tone: view.Bad}
	case c.Status == "expired":
		return view.State{Text: "expired", Tone: view.Neutral}
	case c.NotAfter.Before(now.Add(soon)):
		return view.State{Text: "ends soon", Tone: view.Waiting}
	}
	return view.State{Text: "active", Tone: view.Good}
}

type listPage struct {
	admin.Page
	Tabs      []admin.NavItem
	Form      *admin.Form
	Statuses  []admin.Option
	Kinds     []admin.Option
	Templates []admin.Option
	Items     []listed
	Filtered  bool
	Pager     admin.Pager
	Empty     *admin.Empty
	Renewals  *renewals    // on the first page of all; nil: not to be told
	Stuck     []assignment // renewals that somebody should look at
}

type listed struct {
	certificate
	State view.State
}

// renewals are when certificates of devices are to be renewed.
type renewals struct {
	Overdue int `json:"overdue"`
	Due     int `json:"due"`
	Weeks   []struct {
		From         time.Time `json:"from"`
		Certificates int       `json:"certificates"`
	} `json:"weeks"`
	Later int `json:"later"`
}

// Picture draws the weeks.
func (n renewals) Picture() template.HTML {
	c := chart.Columns{ID: "renewals", Title: "Certificates to renew, by week", Axis: "Week of", Series: []chart.Series{{Label: "Certificates", Ink: chart.Blue}}, None: "None is to be renewed in these weeks."}
	for _, w := range n.Weeks {
		c.Points = append(c.Points, chart.Point{Label: w.From.UTC().Format("2 Jan"), Counts: []int{w.Certificates}})
	}
	return c.HTML()
}

// perPage is the length of lists.
const perPage = "50"

func (s *Certificates) list(w http.ResponseWriter, r *http.Request) error {
	in := r.URL.Query()
	query := url.Values{"limit": {perPage}}
	form := admin.NewForm()
	page := &listPage{Page: admin.Page{Title: "Certificates", Section: section, Watch: "certificate. device.enrolled device.unenrolled"}, Tabs: tabs("Issued"), Form: form}
	for _, name := range []string{"text", "status", "authority", "template", "device_id", "user", "cursor"} {
		v := strings.TrimSpace(in.Get(name))
		if v == "" {
			continue
		}
		form.Values.Set(name, v)
		page.Filtered = page.Filtered || name != "cursor"
		if name != "status" || v != "soon" {
			query.Set(name, v)
			continue
		}
		query.Set("status", "active")
		query.Set("expires_before", s.desk.Now().UTC().Add(soon).Format(time.RFC3339))
	}
	var found admin.List[certificate]
	if err := s.desk.Get(r.Context(), api, query, &found); err != nil {
		return err
	}
	for _, c := range found.Items {
		page.Items = append(page.Items, listed{c, c.State(s.desk.Now())})
	}
	page.Pager = admin.NewPager(r, found.NextCursor)
	page.Statuses = admin.Options("", "Any", "active", "Active", "soon", "Ends within 30 days", "expired", "Expired", "revoked", "Revoked")
	page.Kinds = admin.Options("", "Any", "identity", "Device identities", "payload", "Issued by a template", "root", "Servers", "external", "Another authority’s", "adopted", "From another server")
	var err error
	if page.Templates, err = s.templateOptions(r, "Any"); err != nil {
		return err
	}
	switch {
	case len(found.Items) > 0:
	case found.NextCursor != "":
		page.Empty = &admin.Empty{Heading: "None on this part of the list", Text: "There are more certificates to look through.", Actions: []view.Link{{Label: "Look further", URL: page.Pager.Next}}}
	case page.Filtered:
		page.Empty = &admin.Empty{Heading: "No certificate is like this", Text: "Look for something else, or at all of them.", Actions: []view.Link{{Label: "Show all", URL: section}}}
	default:
		page.Empty = &admin.Empty{Heading: "No certificates yet", Text: "Each device gets one when it enrolls, and others by templates.", Actions: []view.Link{{Label: "Templates", URL: section + "/templates"}}}
		if s.desk.May(r.Context(), "POST /api/v1/enrollment-links") {
			page.Empty.Actions = slices.Insert(page.Empty.Actions, 0, view.Link{Label: "New enrollment link", URL: "/admin/enrollment/links/new"})
		}
	}
	var stuck admin.List[assignment]
	if err := s.desk.Get(r.Context(), "/api/v1/certificate-assignments", url.Values{"stuck": {"true"}, "limit": {"5"}}, &stuck); err != nil && !refusedTo(err) {
		return err
	}
	page.Stuck = stuck.Items
	if !page.Filtered && page.Pager.First == "" && len(found.Items) > 0 {
		var sum struct {
			Renewals *renewals `json:"renewals"`
		}
		if err := s.desk.Get(r.Context(), "/api/v1/summary", nil, &sum); err != nil && !refusedTo(err) {
			return err
		}
		page.Renewals = sum.Renewals
	}
	return s.desk.Write(w, r, s.pages, "list.html", page)
}

// templateOptions are the templates that a list can be of.
func (s *Certificates) templateOptions(r *http.Request, any string) ([]admin.Option, error) {
	options := admin.Options("", any)
	var all admin.List[certTemplate]
	if err := s.desk.Get(r.Context(), templateAPI, url.Values{"limit": {"200"}}, &all); err != nil {
		return nil, err
	}
	for _, t := range all.Items {
		options = append(options, admin.Option{Value: t.Name, Label: t.Name})
	}
	return options, nil
}

type certificatePage struct {
	admin.Page
	Certificate certificate
	State       view.State
	Facts       []admin.Fact
	Technical   []admin.Fact
	Fingerprint string // in pairs
	MayRevoke   bool
}

func (s *Certificates) read(r *http.Request) (c certificate, err error) {
	err = s.desk.Get(r.Context(), api+"/"+url.PathEscape(r.PathValue("serial")), nil, &c)
	return c, err
}

func (s *Certificates) certificate(w http.ResponseWriter, r *http.Request) error {
	c, err := s.read(r)
	if err != nil {
		return err
	}
	page := &certificatePage{
		Page:        admin.Page{Title: c.Name(), Section: section, Crumbs: []view.Link{crumb}, Watch: "certificate. device:" + c.DeviceID},
		Certificate: c, State: c.State(s.desk.Now()), Fingerprint: pairs(c.Fingerprint),
		MayRevoke: s.desk.May(r.Context(), "POST /api/v1/certificates/{serial}/revoke"),
	}
	moment := func(at time.Time) *view.Moment { m := s.desk.Moment(&at); return &m }
	add := func(to *[]admin.Fact, f admin.Fact) {
		if f.Value != "" || f.Moment != nil {
			*to = append(*to, f)
		}
	}
	add(&page.Facts, admin.Fact{Label: "For", Value: c.Kind(), Hint: doors[c.Door]})
	add(&page.Facts, admin.Fact{Label: "Subject", Value: c.Subject})
	add(&page.Facts, admin.Fact{Label: "Alternative names", Value: strings.Join(c.SANs, ", ")})
	if c.DeviceID != "" {
		add(&page.Facts, admin.Fact{Label: "On the device", Value: c.Device(), URL: c.DeviceURL()})
	}
	if c.User != "" {
		add(&page.Facts, admin.Fact{Label: "Of", Value: c.User, URL: "/admin/users?q=" + url.QueryEscape(c.User)})
	}
	add(&page.Facts, admin.Fact{Label: "Asked for by", Value: c.Requester})
	add(&page.Facts, admin.Fact{Label: "Valid from", Moment: moment(c.NotBefore)})
	add(&page.Facts, admin.Fact{Label: "Valid until", Moment: moment(c.NotAfter)})
	if c.RevokedAt != nil {
		add(&page.Facts, admin.Fact{Label: "Revoked", Moment: moment(*c.RevokedAt), Hint: reasonWords(c.RevocationReason) + " " + c.RevocationNote})
	}
	add(&page.Technical, admin.Fact{Label: "Serial number", Value: pairs(c.Serial), Mono: true})
	add(&page.Technical, admin.Fact{Label: "Issuer", Value: c.IssuerSubject})
	if c.Key != nil {
		add(&page.Technical, admin.Fact{Label: "Key", Value: c.Key.String(), Hint: "signed with " + c.Signature})
	}
	add(&page.Technical, admin.Fact{Label: "Key usage", Value: strings.Join(c.KeyUsage, ", ")})
	add(&page.Technical, admin.Fact{Label: "Good for", Value: usages(c.ExtKeyUsage)})
	if c.Replaces != "" {
		add(&page.Technical, admin.Fact{Label: "Replaces", Value: pairs(c.Replaces), Mono: true, URL: section + "/" + url.PathEscape(c.Replaces)})
	}
	add(&page.Technical, admin.Fact{Label: "Revocation list", Value: strings.Join(c.CRLURLs, ", ")})
	add(&page.Technical, admin.Fact{Label: "OCSP", Value: strings.Join(c.OCSPURLs, ", ")})
	return s.desk.Write(w, r, s.pages, "certificate.html", page)
}

func (s *Certificates) download(w http.ResponseWriter, r *http.Request) error {
	query := url.Values{}
	if r.URL.Query().Get("format") == "der" {
		query.Set("format", "der")
	}
	return s.desk.Forward(w, r, api+"/"+url.PathEscape(r.PathValue("serial"))+"/download", query)
}

type revokePage struct {
	admin.Page
	Certificate certificate
	Form        *admin.Form
	Reasons     []admin.Option
	Loses       []string // what the revocation ends
	Word        string
}

func (s *Certificates) askRevoke(w http.ResponseWriter, r *http.Request) error {
	return s.showRevoke(w, r, admin.NewForm("reason", "unspecified"))
}

func (s *Certificates) showRevoke(w http.ResponseWriter, r *http.Request, form *admin.Form) error {
	c, err := s.read(r)
	if err != nil {
		return err
	}
	page := &revokePage{
		Page:        admin.Page{Title: "Revoke a certificate", Section: section, Crumbs: []view.Link{crumb, {Label: c.Name(), URL: c.URL()}}},
		Certificate: c, Form: form, Word: c.word(),
	}
	for _, reason := range reasons {
		page.Reasons = append(page.Reasons, admin.Option{Value: reason.name, Label: reason.label, Hint: reason.hint})
	}
	page.Loses = append(page.Loses, "Revocation is for good. Whoever asks our revocation list or by OCSP learns of it within seconds; what doesn’t ask goes on trusting the certificate until its end.")
	switch {
	case c.identity() && c.DeviceID != "":
		page.Loses = append(page.Loses, "This is what the device proves itself by. If it is the one in use, the device’s enrollment ends: it is refused when it next calls, gets no more commands, and has to enroll again. If it is the one that is to replace it, the renewal ends, and the device goes on with the old one.")
	case c.Authority == "root":
		page.Loses = append(page.Loses, "If it is this server’s own TLS certificate, the server makes another one at once. Browsers and devices that are connected may have to connect again.")
	case c.Authority == "external":
		page.Loses = append(page.Loses, "Another authority issued it: revoke it there, too. Our lists do not tell of it.")
	default:
		page.Loses = append(page.Loses, "What the device or person used it for stops: Wi-Fi, VPN, mail. It is not renewed, and the template is no longer assigned to the device: send it again, if the device shall have another certificate.")
	}
	status := http.StatusOK
	if !form.OK() {
		status = http.StatusUnprocessableEntity
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "revoke.html", page)
}

// word has to be typed to revoke a device's identity; others are made anew easily.
func (c certificate) word() string {
	if c.identity() && c.DeviceID != "" && c.Status == "active" {
		return c.Device()
	}
	return ""
}

func (s *Certificates) revoke(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	c, err := s.read(r)
	if err != nil {
		return err
	}
	if word := c.word(); word != "" && !form.Typed(word) {
		return s.showRevoke(w, r, form)
	}
	if err := s.desk.Send(r.Context(), http.MethodPost, api+"/"+url.PathEscape(c.Serial)+"/revoke", map[string]any{"reason": form.Get("reason")}, nil); err != nil {
		if form.Refused(err) {
			return s.showRevoke(w, r, form)
		}
		return err
	}
	return admin.Redirect(w, r, c.URL(), "revoked")
}
