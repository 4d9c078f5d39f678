package certificates

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/admin/targets"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// certTemplate is a certificate template as the API has it.
type certTemplate struct {
	Name               string             `json:"name"`
	Subject            string             `json:"subject"`
	SANs               sans               `json:"sans"`
	KeyType            string             `json:"key_type"`
	KeySize            int                `json:"key_size"`
	KeyUsage           []string           `json:"key_usage"`
	ExtKeyUsage        []string           `json:"ext_key_usage"`
	Validity           string             `json:"validity"`
	RenewBefore        string             `json:"renew_before"`
	ChallengeType      string             `json:"challenge_type"`
	Challenge          string             `json:"challenge,omitempty"`
	HasChallenge       bool               `json:"has_challenge"`
	Retries            int                `json:"retries"`
	RetryDelay         int                `json:"retry_delay"`
	KeyExtractable     bool               `json:"key_extractable"`
	AllowAllAppsAccess bool               `json:"allow_all_apps_access"`
	IncludeRoot        bool               `json:"include_root"`
	RootCertificates   []root             `json:"root_certificates"`
	Issuer             string             `json:"issuer"`
	Upstream           *upstream          `json:"upstream"`
	Notes              string             `json:"notes"`
	NotesHistory       []note             `json:"notes_history"`
	CreatedAt          time.Time          `json:"created_at"`
	UpdatedAt          time.Time          `json:"updated_at"`
	Warnings           []admin.FieldError `json:"warnings"`
}

type sans struct {
	RFC822Name                []string `json:"rfc822Name"`
	DNSName                   []string `json:"dNSName"`
	UniformResourceIdentifier []string `json:"uniformResourceIdentifier"`
	NTPrincipalName           string   `json:"ntPrincipalName"`
}

// all are the names in one text.
func (s sans) all() string {
	names := slices.Concat(s.RFC822Name, s.DNSName, s.UniformResourceIdentifier)
	if s.NTPrincipalName != "" {
		names = append(names, s.NTPrincipalName+" (user principal name)")
	}
	return strings.Join(names, ", ")
}

type root struct {
	PEM     string `json:"pem"`
	Subject string `json:"subject"`
	SHA256  string `json:"sha256"`
}

type upstream struct {
	URL           string `json:"url"`
	Name          string `json:"name"`
	Fingerprint   string `json:"fingerprint"`
	AllowPrivate  bool   `json:"allow_private"`
	ChallengeType string `json:"challenge_type"`
	HasChallenge  bool   `json:"has_challenge"`
	ChallengeURL  string `json:"challenge_url"`
	Username      string `json:"username"`
	HasPassword   bool   `json:"has_password"`
}

type note struct {
	Text   string    `json:"text"`
	Author string    `json:"author"`
	At     time.Time `json:"at"`
}

// URL is the template's page.
func (t certTemplate) URL() string {
	return "/admin/certificate-templates/" + url.PathEscape(t.Name)
}

func (t certTemplate) path() string { return templateAPI + "/" + url.PathEscape(t.Name) }

// Lasts says how long certificates last, in words.
func (t certTemplate) Lasts() string { return span(t.Validity) }

// IssuedBy says who issues.
func (t certTemplate) IssuedBy() string {
	switch t.Issuer {
	case "external":
		return "another SCEP server, which devices ask by themselves"
	case "proxy":
		return "another SCEP server, which this one asks for them"
	}
	return "this server"
}

// span writes a length of time in days where it is some: "8760h" and "365d" are 365 days.
func span(text string) string {
	if n, err := strconv.Atoi(strings.TrimSuffix(text, "d")); err == nil && strings.HasSuffix(text, "d") {
		return admin.Count(n, "day", "days")
	}
	d, err := time.ParseDuration(text)
	if err != nil || d%(24*time.Hour) != 0 || d == 0 {
		return text
	}
	return admin.Count(int(d/(24*time.Hour)), "day", "days")
}

type templatesPage struct {
	admin.Page
	Tabs  []admin.NavItem
	Items []certTemplate
	Pager admin.Pager
	Empty *admin.Empty
}

func (s *Certificates) templates(w http.ResponseWriter, r *http.Request) error {
	query := url.Values{"limit": {perPage}}
	if v := r.URL.Query().Get("cursor"); v != "" {
		query.Set("cursor", v)
	}
	var found admin.List[certTemplate]
	if err := s.desk.Get(r.Context(), templateAPI, query, &found); err != nil {
		return err
	}
	page := &templatesPage{
		Page: admin.Page{Title: "Certificate templates", Section: section, Watch: "template."},
		Tabs: tabs("Templates"), Items: found.Items, Pager: admin.NewPager(r, found.NextCursor),
	}
	if len(found.Items) == 0 {
		page.Empty = &admin.Empty{
			Heading: "No templates yet",
			Text:    "A template says what certificates are like: for Wi-Fi, VPN or mail. Each device gets one of its own, and a new one in time; other servers can have their devices ask for them by SCEP.",
		}
		if s.desk.May(r.Context(), "POST /api/v1/certificate-templates") {
			page.Empty.Actions = []view.Link{{Label: "New template", URL: section + "/new-template"}}
		}
	}
	return s.desk.Write(w, r, s.pages, "templates.html", page)
}

type templatePage struct {
	admin.Page
	Template    certTemplate
	Facts       []admin.Fact
	SCEPURL     string
	Fingerprint string // of the authority that issues, in pairs; empty where it is another's
	Preview     *preview
	Form        *admin.Form
	Found       []targets.Device // that the preview can be for
	Challenge   string           // shown once
}

// preview is what a template comes to for a device.
type preview struct {
	DeviceID string             `json:"device_id"`
	Subject  string             `json:"subject"`
	SANs     sans               `json:"sans"`
	NotAfter time.Time          `json:"not_after"`
	RenewAt  time.Time          `json:"renew_at"`
	Warnings []admin.FieldError `json:"warnings"`
	Profile  string             `json:"profile"`

	Device targets.Device `json:"-"`
	Facts  []admin.Fact   `json:"-"`
	Wrong  string         `json:"-"` // why there is none
}

func (s *Certificates) readTemplate(r *http.Request) (t certTemplate, err error) {
	err = s.desk.Get(r.Context(), templateAPI+"/"+url.PathEscape(r.PathValue("name")), nil, &t)
	return t, err
}

func (s *Certificates) template(w http.ResponseWriter, r *http.Request) error {
	t, err := s.readTemplate(r)
	if err != nil {
		return err
	}
	return s.showTemplate(w, r, t, "")
}

func (s *Certificates) showTemplate(w http.ResponseWriter, r *http.Request, t certTemplate, challenge string) error {
	page := &templatePage{
		Page: admin.Page{
			Title: t.Name, Section: section, Crumbs: []view.Link{crumb, {Label: "Templates", URL: section + "/templates"}}, Watch: "template. certificate.",
		},
		Template: t, SCEPURL: s.desk.ServerURL.JoinPath("scep", t.Name).String(), Form: admin.NewForm(), Challenge: challenge,
	}
	add := func(label, value, hint string) {
		if value != "" {
			page.Facts = append(page.Facts, admin.Fact{Label: label, Value: value, Hint: hint})
		}
	}
	add("Subject", t.Subject, "")
	add("Alternative names", t.SANs.all(), "")
	add("Key", key{t.KeyType, t.KeySize}.String(), strings.Join(t.KeyUsage, ", "))
	add("Good for", usages(t.ExtKeyUsage), "")
	renew := "before its end"
	if t.RenewBefore != "" {
		renew = span(t.RenewBefore) + " before its end"
	}
	add("Lasts", t.Lasts(), "A new one is made "+renew+".")
	add("Issued by", t.IssuedBy(), "")
	if t.Upstream != nil {
		add("That server", t.Upstream.URL, t.Upstream.Name)
	}
	if t.ChallengeType == "static" {
		add("Challenge", "One for all", "Whoever knows it gets certificates: change it when it is known to too many.")
	} else {
		add("Challenge", "Made for each device", "It is good for one certificate.")
	}
	if t.KeyExtractable {
		add("The key", "May leave the device’s keychain", "")
	}
	if t.AllowAllAppsAccess {
		add("Apps", "All apps on a Mac may use the key", "")
	}
	if t.IncludeRoot {
		add("Trust", "The profile brings the issuer’s root along", "")
	}
	add("Note", t.Notes, "")
	updated := s.desk.Moment(&t.UpdatedAt)
	page.Facts = append(page.Facts, admin.Fact{Label: "Changed", Moment: &updated})

	if t.Issuer == "builtin" {
		ca, err := s.readCA(r)
		if err != nil {
			return err
		}
		for _, a := range ca.Authorities {
			if a.Role == "payload" && a.State == "active" {
				page.Fingerprint = pairs(a.SHA256)
			}
		}
	}
	if err := s.preview(r, page); err != nil {
		return err
	}
	return s.desk.Write(w, r, s.pages, "template.html", page)
}

// preview shows what the template comes to for the device that was asked for, or for the
// first that there is.
func (s *Certificates) preview(r *http.Request, page *templatePage) error {
	in := r.URL.Query()
	page.Form.Values.Set("device", in.Get("device"))
	id := in.Get("device_id")
	if id == "" {
		query := url.Values{"state": {"enrolled"}, "limit": {"20"}}
		if q := in.Get("device"); q != "" {
			query.Set("q", q)
		}
		var found admin.List[targets.Device]
		if err := s.desk.Get(r.Context(), "/api/v1/devices", query, &found); err != nil {
			return err
		}
		found.Items = withoutUsers(found.Items)
		if len(found.Items) == 0 {
			return nil
		}
		if in.Get("device") != "" {
			page.Found = found.Items[:min(len(found.Items), 8)]
		} else {
			// Most templates name a person: a device that has one shows more.
			if i := slices.IndexFunc(found.Items, func(d targets.Device) bool { return d.User != "" }); i > 0 {
				found.Items[0] = found.Items[i]
			}
		}
		id = found.Items[0].ID
	}
	p := &preview{}
	err := s.desk.Get(r.Context(), page.Template.path()+"/preview", url.Values{"device_id": {id}}, p)
	if err != nil {
		form := admin.NewForm()
		switch {
		case refusedTo(err):
			return nil
		case !form.Refused(err):
			return err
		}
		p.Wrong = form.Error
	}
	if err := s.desk.Get(r.Context(), "/api/v1/devices/"+url.PathEscape(id), nil, &p.Device); err != nil {
		return err
	}
	if p.Wrong == "" {
		// What is so for every device is said above.
		p.Warnings = slices.DeleteFunc(p.Warnings, func(w admin.FieldError) bool { return slices.Contains(page.Template.Warnings, w) })
		p.Facts = s.previewFacts(p)
	}
	page.Preview = p
	return nil
}

// previewFacts are what a certificate would say, but for its usages.
func (s *Certificates) previewFacts(p *preview) []admin.Fact {
	ends, renews := s.desk.Moment(&p.NotAfter), s.desk.Moment(&p.RenewAt)
	facts := []admin.Fact{
		{Label: "Subject", Value: p.Subject}, {Label: "Alternative names", Value: p.SANs.all()},
		{Label: "Valid until, if issued now", Moment: &ends}, {Label: "Renewed", Moment: &renews},
	}
	if p.SANs.all() == "" {
		facts = slices.Delete(facts, 1, 2)
	}
	return facts
}

// withoutUsers leaves out the users of Macs, who are listed as devices and get no
// certificates.
func withoutUsers(devices []targets.Device) []targets.Device {
	return slices.DeleteFunc(devices, func(d targets.Device) bool { return d.EnrollmentType == "user_channel" })
}

type templateForm struct {
	admin.Page
	Form       *admin.Form
	Template   *certTemplate // nil: a new one
	Preview    *preview      // what it would come to as it is in the form; nil: not asked for
	Secrets    bool          // some were typed, which the page does not say again
	Action     string
	Purposes   []admin.Option
	Usages     []admin.Option
	Sizes      []admin.Option
	Challenges []admin.Option
	Issuers    []admin.Option
	Asks       []admin.Option
	Variables  []variable
}

// variable is a word that a template's texts may hold.
type variable struct {
	Name    string `json:"name"`
	Meaning string `json:"meaning"`
}

// knownPurposes are those that have a checkbox.
var knownPurposes = []string{"clientAuth", "emailProtection", "serverAuth", "codeSigning", "ipsecIKE", "smartcardLogon", "pkinitKPClientAuth", "eapOverLAN"}

func (s *Certificates) newTemplate(w http.ResponseWriter, r *http.Request) error {
	form := admin.NewForm(
		"subject", "/CN=$EMAIL", "key_size", "2048", "key_usage", "digitalSignature", "key_usage", "keyEncipherment", "ext_key_usage", "clientAuth",
		"validity", "365d", "retries", "3", "retry_delay", "10", "challenge_type", "one_time", "issuer", "builtin", "include_root", "true",
		"upstream.challenge_type", "none",
	)
	return s.showTemplateForm(w, r, form, nil, nil)
}

func (s *Certificates) editTemplate(w http.ResponseWriter, r *http.Request) error {
	t, err := s.readTemplate(r)
	if err != nil {
		return err
	}
	form := admin.NewForm(
		"subject", t.Subject, "sans.rfc822Name", strings.Join(t.SANs.RFC822Name, "\n"), "sans.dNSName", strings.Join(t.SANs.DNSName, "\n"),
		"sans.uniformResourceIdentifier", strings.Join(t.SANs.UniformResourceIdentifier, "\n"), "sans.ntPrincipalName", t.SANs.NTPrincipalName,
		"key_size", strconv.Itoa(t.KeySize), "validity", t.Validity, "renew_before", t.RenewBefore, "challenge_type", t.ChallengeType,
		"retries", strconv.Itoa(t.Retries), "retry_delay", strconv.Itoa(t.RetryDelay), "key_extractable", strconv.FormatBool(t.KeyExtractable),
		"allow_all_apps_access", strconv.FormatBool(t.AllowAllAppsAccess), "include_root", strconv.FormatBool(t.IncludeRoot), "issuer", t.Issuer,
		"notes", t.Notes, "upstream.challenge_type", "none",
	)
	form.Values["key_usage"] = t.KeyUsage
	var others []string
	for _, usage := range t.ExtKeyUsage {
		if slices.Contains(knownPurposes, usage) {
			form.Values.Add("ext_key_usage", usage)
		} else {
			others = append(others, usage)
		}
	}
	form.Values.Set("ext_key_usage_other", strings.Join(others, "\n"))
	var pems []string
	for _, root := range t.RootCertificates {
		pems = append(pems, root.PEM)
	}
	form.Values.Set("root_certificates", strings.Join(pems, ""))
	if u := t.Upstream; u != nil {
		for name, value := range map[string]string{
			"url": u.URL, "name": u.Name, "fingerprint": u.Fingerprint, "allow_private": strconv.FormatBool(u.AllowPrivate),
			"challenge_type": u.ChallengeType, "challenge_url": u.ChallengeURL, "username": u.Username,
		} {
			form.Values.Set("upstream."+name, value)
		}
	}
	return s.showTemplateForm(w, r, form, &t, nil)
}

// showTemplateForm shows the form, with what it would come to if that was asked for.
func (s *Certificates) showTemplateForm(w http.ResponseWriter, r *http.Request, form *admin.Form, t *certTemplate, of *preview) error {
	page := &templateForm{
		Page: admin.Page{Title: "New template", Section: section, Crumbs: []view.Link{crumb, {Label: "Templates", URL: section + "/templates"}}},
		Form: form, Template: t, Action: section + "/new-template", Preview: of,
		Secrets: form.Get("challenge")+form.Get("upstream.challenge")+form.Get("upstream.password") != "",
		Sizes:   admin.Options("2048", "2048 bits", "4096", "4096 bits"),
		Challenges: []admin.Option{
			{Value: "one_time", Label: "One for each device", Hint: "Made when the profile is sent, and good for one certificate. The safe choice."},
			{Value: "static", Label: "One for all", Hint: "For devices of other servers, and for things that are no devices. Whoever knows it gets certificates."},
		},
		Issuers: []admin.Option{
			{Value: "builtin", Label: "This server", Hint: "Its authority for payload certificates."},
			{Value: "proxy", Label: "Another SCEP server, through this one", Hint: "Devices ask here; this server asks there. That server need not be reachable for devices."},
			{Value: "external", Label: "Another SCEP server, directly", Hint: "Devices ask there by themselves. This server does not see the certificates."},
		},
		Asks: admin.Options("none", "Nothing", "static", "A text that stays the same", "dynamic", "A text that a page names for each request (NDES)"),
	}
	if t != nil {
		page.Title, page.Action = "Edit "+t.Name, t.URL()+"/edit"
		page.Crumbs = append(page.Crumbs, view.Link{Label: t.Name, URL: t.URL()})
		if t.KeySize == 1024 {
			page.Sizes = append(admin.Options("1024", "1024 bits (too short)"), page.Sizes...)
		}
	}
	for _, name := range knownPurposes {
		page.Purposes = append(page.Purposes, admin.Option{Value: name, Label: purposes[name], Selected: form.Has("ext_key_usage", name)})
	}
	for _, o := range admin.Options("digitalSignature", "Signing (digitalSignature)", "keyEncipherment", "Encrypting keys (keyEncipherment)") {
		o.Selected = form.Has("key_usage", o.Value)
		page.Usages = append(page.Usages, o)
	}
	var all admin.List[variable]
	if err := s.desk.Get(r.Context(), "/api/v1/profile-variables", nil, &all); err != nil {
		return err
	}
	page.Variables = all.Items
	status := http.StatusOK
	if !form.OK() {
		status = http.StatusUnprocessableEntity
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "templateform.html", page)
}

// request is what a form asks for, as the API takes it. What can't be read is noted at the
// form.
func request(form *admin.Form) map[string]any {
	number := func(name string) any {
		n, err := strconv.Atoi(form.Get(name))
		if err != nil {
			form.Fail(name, "Must be a whole number.")
		}
		return n
	}
	in := map[string]any{
		"subject": form.Get("subject"),
		"sans": map[string]any{
			"rfc822Name": form.Lines("sans.rfc822Name"), "dNSName": form.Lines("sans.dNSName"),
			"uniformResourceIdentifier": form.Lines("sans.uniformResourceIdentifier"), "ntPrincipalName": form.Get("sans.ntPrincipalName"),
		},
		"key_size": number("key_size"), "key_usage": orNone(form.Values["key_usage"]),
		"ext_key_usage": slices.Concat(orNone(form.Values["ext_key_usage"]), form.Lines("ext_key_usage_other")),
		"validity":      form.Get("validity"), "renew_before": form.Get("renew_before"),
		"challenge_type": form.Get("challenge_type"), "challenge": form.Get("challenge"),
		"retries": number("retries"), "retry_delay": number("retry_delay"),
		"key_extractable": form.Has("key_extractable", "true"), "allow_all_apps_access": form.Has("allow_all_apps_access", "true"),
		"include_root": form.Has("include_root", "true"), "root_certificates": []string{}, "issuer": form.Get("issuer"), "notes": form.Get("notes"),
	}
	if roots := form.Get("root_certificates"); roots != "" {
		in["root_certificates"] = []string{roots}
	}
	if form.Get("issuer") != "builtin" {
		in["upstream"] = map[string]any{
			"url": form.Get("upstream.url"), "name": form.Get("upstream.name"), "fingerprint": form.Get("upstream.fingerprint"),
			"allow_private": form.Has("upstream.allow_private", "true"), "challenge_type": form.Get("upstream.challenge_type"),
			"challenge": form.Get("upstream.challenge"), "challenge_url": form.Get("upstream.challenge_url"),
			"username": form.Get("upstream.username"), "password": form.Get("upstream.password"),
		}
	}
	return in
}

func orNone(values []string) []string {
	if values == nil {
		return []string{}
	}
	return values
}

func (s *Certificates) createTemplate(w http.ResponseWriter, r *http.Request) error {
	return s.putTemplate(w, r, http.MethodPost, templateAPI, nil)
}

func (s *Certificates) changeTemplate(w http.ResponseWriter, r *http.Request) error {
	t, err := s.readTemplate(r)
	if err != nil {
		return err
	}
	return s.putTemplate(w, r, http.MethodPut, t.path(), &t)
}

// putTemplate makes or changes a template as the form says.
func (s *Certificates) putTemplate(w http.ResponseWriter, r *http.Request, method, path string, t *certTemplate) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	in := request(form)
	if t == nil {
		in["name"] = form.Get("name")
	}
	if !form.OK() {
		return s.showTemplateForm(w, r, form, t, nil)
	}
	if form.Get("step") == "preview" {
		return s.previewDraft(w, r, method, path, in, form, t)
	}
	var saved certTemplate
	if err := s.desk.Send(r.Context(), method, path, in, &saved); err != nil {
		if form.Refused(err) {
			return s.showTemplateForm(w, r, form, t, nil)
		}
		return err
	}
	if saved.Challenge != "" && form.Get("challenge") == "" {
		// It was made for the first time, and is told to nobody after this.
		return s.showTemplate(w, r, saved, saved.Challenge)
	}
	what := "saved"
	if t == nil {
		what = "created"
	}
	return admin.Redirect(w, r, saved.URL(), what)
}

// previewDraft shows the form again, with what it would come to for the device that was
// named, or for the first that is enrolled.
func (s *Certificates) previewDraft(w http.ResponseWriter, r *http.Request, method, path string, in map[string]any, form *admin.Form, t *certTemplate) error {
	query := url.Values{"state": {"enrolled"}, "limit": {"20"}}
	if q := form.Get("preview_for"); q != "" {
		query.Set("q", q)
	}
	var found admin.List[targets.Device]
	if err := s.desk.Get(r.Context(), "/api/v1/devices", query, &found); err != nil {
		return err
	}
	found.Items = withoutUsers(found.Items)
	if len(found.Items) == 0 {
		form.Fail("preview_for", "No enrolled device has that in its name, its serial number or its owner.")
		if form.Get("preview_for") == "" {
			form.Fail("preview_for", "There is no enrolled device yet, for which it could be shown.")
		}
		return s.showTemplateForm(w, r, form, t, nil)
	}
	of := &preview{Device: found.Items[0]}
	at := path + "?" + url.Values{"preview": {"true"}, "device_id": {of.Device.ID}}.Encode()
	if err := s.desk.Send(r.Context(), method, at, in, of); err != nil {
		var refused *admin.Problem
		if errors.As(err, &refused) {
			for i, e := range refused.Errors { // of one attribute of the subject, which is one field here
				if attribute, ok := strings.CutPrefix(e.Field, "subject."); ok {
					refused.Errors[i] = admin.FieldError{Field: "subject", Detail: "can’t be made for " + of.Device.Name() + ": in " + attribute + ", " + e.Detail}
				}
			}
		}
		if form.Refused(err) {
			return s.showTemplateForm(w, r, form, t, nil)
		}
		return err
	}
	of.Facts = s.previewFacts(of)
	return s.showTemplateForm(w, r, form, t, of)
}

type sendPage struct {
	admin.Page
	Template certTemplate
	Form     *admin.Form
	Targets  *targets.Part
}

var enrolled = url.Values{"state": {"enrolled"}}

func (s *Certificates) send(w http.ResponseWriter, r *http.Request) error {
	form := admin.NewForm()
	if ids := r.URL.Query()["device_id"]; len(ids) > 0 {
		form.Values["device_id"] = ids
	}
	return s.showSend(w, r, form)
}

func (s *Certificates) showSend(w http.ResponseWriter, r *http.Request, form *admin.Form) error {
	t, err := s.readTemplate(r)
	if err != nil {
		return err
	}
	page := &sendPage{
		Page: admin.Page{Title: "Send " + t.Name, Section: section, Crumbs: []view.Link{
			crumb, {Label: "Templates", URL: section + "/templates"}, {Label: t.Name, URL: t.URL()},
		}},
		Template: t, Form: form,
	}
	if page.Targets, err = targets.New(r.Context(), s.desk, form, "All enrolled devices"); err != nil {
		return err
	}
	status := http.StatusOK
	if !form.OK() {
		status = http.StatusUnprocessableEntity
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "send.html", page)
}

type sentPage struct {
	admin.Page
	Template certTemplate
	Sent     int
	Refused  []rejected
}

// rejected is a device that may not have a certificate, and why.
type rejected struct {
	Device targets.Device
	Reason string
}

// sendTo assigns a template to devices and sends it there.
func (s *Certificates) sendTo(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	if form.Get("step") == "find" {
		return s.showSend(w, r, form)
	}
	devices, err := targets.Resolve(r.Context(), s.desk, form, enrolled)
	if err != nil {
		return err
	}
	if !form.OK() {
		return s.showSend(w, r, form)
	}
	t, err := s.readTemplate(r)
	if err != nil {
		return err
	}
	crumbs := []view.Link{crumb, {Label: "Templates", URL: section + "/templates"}, {Label: t.Name, URL: t.URL()}}
	word := targets.Word(len(devices))
	if form.Get("step") != "send" || word != "" && !form.Typed(word) {
		hidden := targets.Keep(form)
		hidden.Set("step", "send")
		return s.desk.Confirm(w, r, &admin.Confirm{
			Page:    admin.Page{Section: section, Crumbs: crumbs},
			Heading: "Send " + t.Name + " to " + admin.Count(len(devices), "device", "devices"),
			Text: []string{
				"Each gets a profile that has it ask for a certificate of its own, and another one before that ends. A device that has one by this template already gets a new one in its place.",
				"Devices that may not have it, or lack what its names are made of, are left out; the next page names them.",
			},
			Word: word, What: "the number of devices", Button: "Send", Action: t.URL() + "/send", Hidden: hidden, Back: t.URL(), Form: form,
		})
	}
	var sent struct {
		Items    []assignment      `json:"items"`
		Rejected []admin.Rejection `json:"rejected"`
	}
	if err := s.desk.Send(r.Context(), http.MethodPost, t.path()+"/send", map[string]any{"device_ids": targets.IDs(devices)}, &sent); err != nil {
		refusals, ok := rejections(err)
		if !ok {
			if form.Refused(err) {
				return s.showSend(w, r, form)
			}
			return err
		}
		sent.Rejected = refusals
	}
	if len(sent.Rejected) == 0 {
		return admin.Redirect(w, r, section+"/assigned?template="+url.QueryEscape(t.Name), "assigned")
	}
	page := &sentPage{Page: admin.Page{Title: "Sent", Section: section, Crumbs: crumbs}, Template: t, Sent: len(sent.Items)}
	for _, no := range sent.Rejected {
		d := targets.Device{ID: no.DeviceID}
		for _, known := range devices {
			if known.ID == no.DeviceID {
				d = known
			}
		}
		page.Refused = append(page.Refused, rejected{d, no.Reason})
	}
	return s.desk.Write(w, r, s.pages, "sent.html", page)
}

func (s *Certificates) askDelete(w http.ResponseWriter, r *http.Request) error {
	t, err := s.readTemplate(r)
	if err != nil {
		return err
	}
	return s.confirmDelete(w, r, t, nil)
}

func (s *Certificates) confirmDelete(w http.ResponseWriter, r *http.Request, t certTemplate, form *admin.Form) error {
	var some admin.List[assignment]
	if err := s.desk.Get(r.Context(), "/api/v1/certificate-assignments", url.Values{"template": {t.Name}, "limit": {"1"}}, &some); err != nil {
		return err
	}
	c := &admin.Confirm{
		Page:    admin.Page{Section: section, Crumbs: []view.Link{crumb, {Label: "Templates", URL: section + "/templates"}, {Label: t.Name, URL: t.URL()}}},
		Heading: "Delete the template " + t.Name,
		Text: []string{
			"Nothing is issued by it any more: its SCEP address is gone, also for other servers’ devices. Certificates that were issued stay valid until they end or are revoked, and are not renewed.",
		},
		Word: t.Name, What: "its name", Button: "Delete", Danger: true, Action: t.URL() + "/delete", Back: t.URL(), Form: form,
	}
	if len(some.Items) > 0 {
		c.Text = append(c.Text, "It is assigned to devices. They keep the certificates that they have, which work until they end. To take them away, end the assignments first.")
	}
	return s.desk.Confirm(w, r, c)
}

func (s *Certificates) delete(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	t, err := s.readTemplate(r)
	if err != nil {
		return err
	}
	if !form.Typed(t.Name) {
		return s.confirmDelete(w, r, t, form)
	}
	if err := s.desk.Send(r.Context(), http.MethodDelete, t.path()+"?force=true", nil, nil); err != nil {
		if form.Refused(err) {
			return s.confirmDelete(w, r, t, form)
		}
		return err
	}
	return admin.Redirect(w, r, section+"/templates", "deleted")
}
