package view

import "github.com/gatehouse-mdm/gatehouse/webui/text"

// Portal is what the pages for the people of an organisation have around them: those of
// the portal, of signing in, and their own one. Package frame fills it.
type Portal struct {
	T     *text.Texts
	Title string

	Organisation string // its name; may be empty
	Logo         string // path of its picture; empty: none
	Support      Support

	Here     string   // this page, where a change of the language leads back to; empty: no menu
	Keep     []Hidden // parameters of this page
	Progress Progress
	User     string // who is signed in; empty: nobody
	Refresh  int    // seconds after which the page is fetched again where scripts are off; 0: never
	Preview  bool   // a page as it could be, for administrators
}

func (Portal) layout() string { return "portal_layout.html" }

// Support is whom people can ask. All may be empty.
type Support struct{ Email, Phone, URL string }

// Any says whether there is anybody to ask.
func (s Support) Any() bool { return s.Email != "" || s.Phone != "" || s.URL != "" }

// Hidden is a parameter that goes with a link or a form.
type Hidden struct{ Name, Value string }

// Progress is how far a person has come. Without Steps there is nothing to show.
type Progress struct {
	Steps   []string // what they are, in the page's language
	Current int      // 1 is the first one
}

// At is one step of Progress.
type At struct {
	Name    string
	Done    bool
	Current bool
}

// List is all steps.
func (p Progress) List() []At {
	list := make([]At, len(p.Steps))
	for i, name := range p.Steps {
		list[i] = At{Name: name, Done: i+1 < p.Current, Current: i+1 == p.Current}
	}
	return list
}

// Name is the current step.
func (p Progress) Name() string {
	if p.Current < 1 || p.Current > len(p.Steps) {
		return ""
	}
	return p.Steps[p.Current-1]
}

// PortalError says that something did not work: what, in a sentence, and the one thing
// to do about it.
type PortalError struct {
	Portal
	Heading string
	Text    string
	Action  Link   // may be empty
	Code    string // GH-…
	Details string // lines to copy for who helps
}

func (PortalError) template() string { return "portal_error.html" }
