package admin

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

//go:embed templates/*.html
var templateFiles embed.FS

// Page is what every page has around it. Page structs embed it; who shows one fills the
// first fields, and the desk the others.
type Page struct {
	Title   string      // of the window; pages write their h1 themselves
	Section string      // path of the section in the navigation, as "/admin/devices"
	Crumbs  []view.Link // the way to the page, from its section
	Done    string      // what was just done, a sentence; see [Desk.Redirect]
	Search  string      // what is in the search field: on lists of devices

	// Watch says which events make the page fetch its live parts again: what their actions
	// begin with, or "device:ID", with spaces between them. Empty: the page is not live.
	Watch string
	// Every is after how many seconds the live parts are fetched again in any case: while
	// something is under way of which no event tells. 0: never.
	Every int

	desk  *Desk
	ctx   context.Context
	Nav   []NavItem
	User  string
	Demo  bool
	Theme string // "light", "dark" or ""
	Since uint64 // the newest event when the page was made
	Here  string // the page's own address
}

// NavItem is a link of the navigation. Key is the key that leads to it after g.
type NavItem struct {
	Label, URL, Key string
	Current         bool

	Needs   string   // a route of the API that the page is made of; empty: everybody may
	Instead *NavItem // for who may not; nil: nothing
}

// Offered are those of some items that who looks may open. here is the one that they look at.
func (d *Desk) Offered(ctx context.Context, here string, items ...NavItem) []NavItem {
	offered := make([]NavItem, 0, len(items))
	for _, item := range items {
		current := item.URL == here
		if item.Needs != "" && !d.May(ctx, item.Needs) {
			if item.Instead == nil {
				continue
			}
			item = *item.Instead
		}
		item.Current = current
		offered = append(offered, item)
	}
	return offered
}

// sections are the navigation, in its order, with the keys that follow g.
var sections = []NavItem{
	{Label: "Home", URL: "/admin", Key: "h"},
	{Label: "Devices", URL: "/admin/devices", Key: "d"},
	{Label: "Commands", URL: "/admin/commands", Key: "c"},
	{Label: "Enrollment", URL: "/admin/enrollment", Key: "e"},
	{Label: "Profiles", URL: "/admin/profiles", Key: "p"},
	{Label: "Certificates", URL: "/admin/certificates", Key: "t"},
	{Label: "Users", URL: "/admin/users", Key: "u", Needs: "GET /api/v1/users", Instead: &NavItem{Label: "Groups", URL: "/admin/groups", Key: "u"}},
	{Label: "Settings", URL: "/admin/settings", Key: "s"},
	{Label: "Audit", URL: "/admin/audit", Key: "a"},
}

func (p *Page) base() *Page { return p }

// May reports whether who looks may use a route of the API: templates show no control
// that would be refused.
func (p *Page) May(pattern string) bool { return p.desk.May(p.ctx, pattern) }

// View is a page: a pointer to a struct that embeds Page.
type View interface{ base() *Page }

// Templates are the templates of a section.
type Templates struct{ pages map[string]*template.Template }

// parts are the desk's own templates that every page may use.
var parts = []string{"templates/layout.html", "templates/parts.html"}

// Templates parses templates/*.html of a section. Each file is a page, which defines
// "main"; files whose name begins with _ are parts that the section's pages share.
func (d *Desk) Templates(files fs.FS) (*Templates, error) {
	shared, err := template.New("desk").Funcs(template.FuncMap{
		"asset":   d.Assets.URL,
		"when":    view.When,
		"field":   newField,
		"once":    once,
		"link":    func(label, url string) view.Link { return view.Link{Label: label, URL: url} },
		"moment":  func(at any) view.Moment { return view.Moment{At: timeOf(at), Now: d.Now()} },
		"count":   Count,
		"bytes":   view.Fingerprint,
		"address": view.Address,
		"state":   func(text, tone string) view.State { return view.State{Text: text, Tone: view.Tone(tone)} },
		"words":   Words,
		"actor":   Actor,
		"because": Because,
		"list":    func(items ...any) []any { return items },
	}).ParseFS(templateFiles, parts...)
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	t := &Templates{map[string]*template.Template{}}
	for _, name := range names {
		if strings.HasPrefix(name, "templates/_") {
			if shared, err = shared.ParseFS(files, name); err != nil {
				return nil, fmt.Errorf("admin: %w", err)
			}
		}
	}
	for _, name := range names {
		file := strings.TrimPrefix(name, "templates/")
		if strings.HasPrefix(file, "_") || files == fs.FS(templateFiles) && (file == "layout.html" || file == "parts.html") {
			continue
		}
		page, err := shared.Clone()
		if err == nil {
			_, err = page.ParseFS(files, name)
		}
		if err != nil {
			return nil, fmt.Errorf("admin: %w", err)
		}
		t.pages[file] = page
	}
	return t, nil
}

// timeOf is a time of the API's JSON, which may be null.
func timeOf(at any) time.Time {
	switch at := at.(type) {
	case time.Time:
		return at
	case *time.Time:
		if at != nil {
			return *at
		}
	}
	return time.Time{}
}

// Count writes a number with its noun: 1 device, 2,000 devices.
func Count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return Number(n) + " " + many
}

// Number writes n with commas between thousands.
func Number(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// Words makes words of a name as the API and Apple spell them: device_lost, DeviceLock.
func Words(name string) string {
	var out strings.Builder
	runes := []rune(strings.ReplaceAll(name, "_", " "))
	for i, c := range runes {
		upper := c >= 'A' && c <= 'Z'
		starts := upper && i > 0 && runes[i-1] != ' ' && (runes[i-1] < 'A' || runes[i-1] > 'Z' || i+1 < len(runes) && runes[i+1] >= 'a' && runes[i+1] <= 'z')
		if starts {
			out.WriteByte(' ')
		}
		switch {
		case i == 0:
			out.WriteString(strings.ToUpper(string(c)))
		case upper && i+1 < len(runes) && runes[i+1] >= 'a' && runes[i+1] <= 'z':
			out.WriteString(strings.ToLower(string(c)))
		default:
			out.WriteRune(c)
		}
	}
	return wiFi.Replace(out.String())
}

// wiFi spells the name as Apple does in texts.
var wiFi = strings.NewReplacer("Wi fi", "Wi-Fi", "wi fi", "Wi-Fi")

// Model is a model as it is sold and as Apple numbers it: "MacBook Pro (Mac16,1)". Either may
// be empty.
func Model(name, number string) string {
	switch {
	case name == "" || name == number:
		return number
	case number == "":
		return name
	}
	return name + " (" + number + ")"
}

// System is the name and the version of a device's system: "iPadOS 26.1". It is empty where
// the version is not known.
func System(platform, model, version string) string {
	if version == "" {
		return ""
	}
	name := map[string]string{"ios": "iOS", "macos": "macOS", "tvos": "tvOS", "visionos": "visionOS", "watchos": "watchOS"}[platform]
	if platform == "ios" && strings.HasPrefix(model, "iPad") {
		name = "iPadOS"
	}
	return strings.TrimSpace(name + " " + version)
}

// Because is the API’s reason against something, at a place that names it already: without
// Apple’s name at its beginning.
func Because(name, reason string) string {
	rest, ok := strings.CutPrefix(reason, name+" ")
	if !ok || rest == "" {
		return reason
	}
	return strings.ToUpper(rest[:1]) + rest[1:]
}

// Actor names who did something, which the API spells as “user:ana@example.com”.
func Actor(by string) string {
	kind, name, _ := strings.Cut(by, ":")
	switch {
	case kind == "local":
		return "the command line"
	case kind == "setup":
		return "the setup link"
	case by == "", by == "server":
		return "the server"
	case by == "demo":
		return "the demo"
	case kind == "device":
		return "the device"
	case name == "":
		return by
	case kind == "token":
		return "token " + name
	}
	return name
}

// Write sends a page of a section. To the script that patches live parts it sends the main
// part alone.
func (d *Desk) Write(w http.ResponseWriter, r *http.Request, t *Templates, file string, page View) error {
	return d.WriteStatus(w, r, http.StatusOK, t, file, page)
}

// WriteStatus is Write with a status other than 200: 422 shows a form again.
func (d *Desk) WriteStatus(w http.ResponseWriter, r *http.Request, status int, t *Templates, file string, page View) error {
	tmpl, ok := t.pages[file]
	if !ok {
		return fmt.Errorf("admin: no template %s", file)
	}
	if err := d.frame(r, page.base()); err != nil {
		return err
	}
	name := "layout.html"
	if r.Header.Get("Gatehouse-Part") == "main" {
		name = "main-part"
	}
	var body bytes.Buffer
	if err := tmpl.ExecuteTemplate(&body, name, page); err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	content := view.RevealControls(body.Bytes())
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(content)))
	h.Set("Cache-Control", "no-store") // nor does the back button show it to who comes after a logout
	h.Set("Vary", "Gatehouse-Part")
	w.WriteHeader(status)
	_, _ = w.Write(content) // the client may be gone; there is nobody to tell
	return nil
}

// frame fills what the desk knows of a page.
func (d *Desk) frame(r *http.Request, p *Page) error {
	p.desk, p.ctx = d, r.Context()
	p.Demo, p.Theme = d.Demo(), theme(r)
	p.Here = r.URL.RequestURI()
	if r.Method != http.MethodGet {
		p.Here = r.URL.Path
	}
	p.Nav = d.Offered(p.ctx, p.Section, sections...)
	who := Principal(p.ctx)
	p.User = who.Name
	if who.Kind == identity.KindSetup {
		p.User = "signed in by setup link"
	}
	if p.Done == "" {
		p.Done = done[r.URL.Query().Get("done")]
	}
	if p.Watch == "" {
		return nil
	}
	var err error
	p.Since, err = d.LastEvent(p.ctx)
	return err
}

// done are the sentences that pages show after what was done. Their keys are in addresses,
// which can so say nothing else.
var done = map[string]string{
	"saved":        "Saved.",
	"created":      "Created.",
	"account":      "Your account is made, and you are signed in with it.",
	"deleted":      "Deleted.",
	"forgotten":    "The record was deleted.",
	"merged":       "Merged. There is one record of the device now.",
	"removed":      "Removed.",
	"queued":       "Queued. The device gets it when it checks in, usually within seconds.",
	"cancelled":    "Cancelled.",
	"retried":      "Queued again.",
	"pushed":       "Pushed. The device checks in when it is reachable.",
	"refreshing":   "The device was asked for its facts.",
	"blocked":      "Blocked. The device’s certificates are revoked, and it may not come back.",
	"unblocked":    "Unblocked. The device may enroll again.",
	"unenrolled":   "Unenrolled. The device’s certificates are revoked.",
	"revoked":      "Revoked.",
	"renewing":     "The renewal is under way.",
	"sent":         "Sent.",
	"tested":       "Tested.",
	"activated":    "Activated.",
	"enabled":      "Switched on.",
	"disabled":     "Switched off.",
	"found":        "The device is no longer reported lost.",
	"ended":        "Ended.",
	"gone":         "There was nothing left to do: it had gone already.",
	"reset":        "Reset.",
	"uploaded":     "Uploaded.",
	"restored":     "Restored.",
	"unchanged":    "It is the same as the latest version, so there is no other.",
	"removing":     "The removal is on its way to the devices.",
	"assigned":     "The certificates are on their way to the devices.",
	"unassigned":   "Taken from the device.",
	"rolling":      "The rollover has begun.",
	"retired":      "Retired. Nothing that it issued is trusted any more.",
	"issued":       "Issued. It can be downloaded here.",
	"imported":     "Imported. It is next: roll over to it when you are ready.",
	"demo":         "Simulated devices are on their way: they enroll as real ones do, which takes some seconds.",
	"demo_removed": "The simulated devices are leaving, and their records with them.",
	"redelivering": "Delivered again as soon as the target answers.",
}

// Redirect sends the browser on to a page of the desk, which says what was done: a key of
// the sentences in done, or nothing.
func Redirect(w http.ResponseWriter, r *http.Request, path, what string) error {
	if what != "" {
		if _, ok := done[what]; !ok {
			return fmt.Errorf("admin: no sentence for %q", what)
		}
		u, err := url.Parse(path)
		if err != nil {
			return fmt.Errorf("admin: %w", err)
		}
		q := u.Query()
		q.Set("done", what)
		u.RawQuery = q.Encode()
		path = u.String()
	}
	http.Redirect(w, r, path, http.StatusSeeOther)
	return nil
}

// Moment is a time of the API, null or not, as pages show it.
func (d *Desk) Moment(at *time.Time) view.Moment { return view.Moment{At: timeOf(at), Now: d.Now()} }

// Pager links to the pages of a list. A part shows it.
type Pager struct {
	First string // back to the first page; empty on it
	Next  string // empty on the last
	Note  string // how many there are, where that is known
}

// NewPager returns the links of a list that r asked for with ?cursor=.
func NewPager(r *http.Request, next string) Pager {
	q := r.URL.Query()
	q.Del("done")
	var p Pager
	if q.Get("cursor") != "" {
		q.Del("cursor")
		p.First = address(r.URL.Path, q)
	}
	if next != "" {
		q.Set("cursor", next)
		p.Next = address(r.URL.Path, q)
	}
	return p
}

func address(path string, q url.Values) string {
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

// Empty is what a list without items says: why, and what to do next.
type Empty struct {
	Heading, Text string
	Command       string      // to be typed; may be empty
	Actions       []view.Link // the first is the page's primary one
	Demo          bool        // offer simulated devices, to look around
}
