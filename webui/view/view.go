// Package view draws the pages: one typed struct and one template each, over a
// shared layout, with the style sheet and the script that they use.
//
// It knows no requests and no domain: whoever shows a page fills its struct with
// what shall be read there.
package view

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed templates/*.html
var templateFiles embed.FS

// sharedTemplates are the layouts, and what several pages have in common.
var sharedTemplates = []string{"templates/layout.html", "templates/portal_layout.html", "templates/portal_parts.html", "templates/me_parts.html"}

// Page is a struct of this package that a template shows, inside of a layout.
type Page interface {
	template() string
	layout() string
}

// Views draws pages.
type Views struct {
	pages  map[string]*template.Template
	assets *Assets
}

// New parses all templates.
func New() (*Views, error) {
	assets, err := newAssets()
	if err != nil {
		return nil, err
	}
	v := &Views{pages: map[string]*template.Template{}, assets: assets}
	names, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil {
		return nil, err
	}
	shared, err := template.New("shared").Funcs(template.FuncMap{
		"asset":       assets.URL,
		"fingerprint": Fingerprint,
		"when":        When,
	}).ParseFS(templateFiles, sharedTemplates...)
	if err != nil {
		return nil, fmt.Errorf("view: %w", err)
	}
	for _, name := range names {
		if slices.Contains(sharedTemplates, name) {
			continue
		}
		page, err := shared.Clone()
		if err == nil {
			_, err = page.ParseFS(templateFiles, name)
		}
		if err != nil {
			return nil, fmt.Errorf("view: %w", err)
		}
		v.pages[strings.TrimPrefix(name, "templates/")] = page
	}
	return v, nil
}

// Assets serves the files that pages refer to.
func (v *Views) Assets() *Assets { return v.assets }

// Write draws a page and sends it with status. Nothing was sent if it returns an
// error of drawing.
func (v *Views) Write(w http.ResponseWriter, status int, p Page) error {
	page, ok := v.pages[p.template()]
	if !ok {
		return fmt.Errorf("view: no template %s", p.template())
	}
	var body bytes.Buffer
	if err := page.ExecuteTemplate(&body, p.layout(), p); err != nil {
		return fmt.Errorf("view: %w", err)
	}
	content := RevealControls(body.Bytes())
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(content)))
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	w.WriteHeader(status)
	_, _ = w.Write(content) // the client may be gone; there is nobody to tell
	return nil
}

// Layout is what the pages for operators have around them.
type Layout struct {
	Title   string
	Nav     []NavItem // none: no navigation
	User    string    // who is signed in; empty: nobody
	Demo    bool      // some devices are simulated
	Refresh int       // seconds after which the page is fetched again; 0: never
}

func (Layout) layout() string { return "layout.html" }

// NavItem is a link of the navigation.
type NavItem struct {
	Label, URL string
	Current    bool
}

// Moment is a time as pages show it: how long ago, and exactly.
type Moment struct {
	At  time.Time // zero: never
	Now time.Time
}

// Exact is the time for machines and for hovering.
func (m Moment) Exact() string { return m.At.UTC().Format(time.RFC3339) }

// Ago is the time for people.
func (m Moment) Ago() string {
	if m.At.IsZero() {
		return "never"
	}
	switch d := m.Now.Sub(m.At); {
	case d < -48*time.Hour:
		return m.At.UTC().Format("2 Jan 2006 15:04 UTC")
	case d <= -2*time.Hour:
		return fmt.Sprintf("in %d h", int(-d.Hours()))
	case d < -time.Minute:
		return fmt.Sprintf("in %d min", int(-d.Minutes()))
	case d < 5*time.Second:
		return "just now"
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	case d < 60*24*time.Hour:
		return fmt.Sprintf("%d days ago", int(d.Hours()/24))
	}
	return m.At.UTC().Format("2 Jan 2006")
}

// When is the template function that shows a Moment.
func When(m Moment) template.HTML {
	if m.At.IsZero() {
		return `<span class="quiet">never</span>`
	}
	// Both texts are made of digits and letters of ours.
	return template.HTML(`<time datetime="` + m.Exact() + `" title="` + m.Exact() + `">` + m.Ago() + `</time>`)
}

// Address is the template function that shows an e-mail address, or what else a person goes
// by, which rather breaks behind its @ than in a word.
func Address(text string) template.HTML {
	return template.HTML(strings.ReplaceAll(template.HTMLEscapeString(text), "@", "@<wbr>"))
}

// Fingerprint is the template function that shows a fingerprint, which may break
// only between its pairs.
func Fingerprint(pairs string) template.HTML {
	return template.HTML(strings.ReplaceAll(template.HTMLEscapeString(pairs), ":", ":<wbr>"))
}
