package commands

import (
	"crypto/rand"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

type rawPage struct {
	admin.Page
	Targets *targets
	Form    *admin.Form
	Hidden  url.Values
	Word    string // to be typed; empty: nothing
	What    string
	Loses   string
	Back    string
}

// rawForm is a command to begin with. Its UUID is the server’s to make unique.
const rawForm = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>Command</key>
	<dict>
		<key>RequestType</key>
		<string>ProfileList</string>
	</dict>
	<key>CommandUUID</key>
	<string>%s</string>
</dict>
</plist>
`

var errRawForAdministrators = &webui.Problem{
	Status: http.StatusForbidden, Code: "forbidden", Title: "Raw commands are for administrators",
	Detail: "Nobody here can check what is in one. Choose a command from the list instead.",
}

// rawTargets reads the devices of a raw command.
func (s *Commands) rawTargets(r *http.Request, values url.Values) (*targets, error) {
	if !s.desk.May(r.Context(), routeRaw) {
		return nil, errRawForAdministrators
	}
	t := targetsOf(values)
	if t.None() {
		return &t, nil
	}
	return &t, s.look(r.Context(), &t)
}

func (s *Commands) askRaw(w http.ResponseWriter, r *http.Request) error {
	t, err := s.rawTargets(r, r.URL.Query())
	if err != nil {
		return err
	}
	if t.None() {
		return admin.Redirect(w, r, section+"/new", "")
	}
	form := admin.NewForm("plist", fmt.Sprintf(rawForm, rand.Text()))
	return s.showRaw(w, r, http.StatusOK, t, form)
}

func (s *Commands) showRaw(w http.ResponseWriter, r *http.Request, status int, t *targets, form *admin.Form) error {
	page := &rawPage{
		Page:    admin.Page{Title: "Raw command", Section: section, Crumbs: append(s.crumbs(t), view.Link{Label: "Queue a command", URL: t.With(section+"/new", "", "")})},
		Targets: t, Form: form, Hidden: t.Hidden(), Back: t.With(section+"/new", "", ""),
	}
	if form.Get("confirm") != "" {
		page.Word, page.What = confirmation(t, t.Total)
		page.Loses = lost[requestTypeIn(form.Get("plist"))]
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "raw.html", page)
}

var requestType = regexp.MustCompile(`<key>\s*RequestType\s*</key>\s*<string>\s*([A-Za-z0-9]+)\s*</string>`)

// requestTypeIn is what a property list seems to ask for: to ask before something is lost,
// nothing more.
func requestTypeIn(plist string) string {
	if m := requestType.FindStringSubmatch(plist); m != nil {
		return m[1]
	}
	return ""
}

func (s *Commands) queueRaw(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	t, err := s.rawTargets(r, form.Values)
	if err != nil {
		return err
	}
	if t.None() {
		return admin.Redirect(w, r, section+"/new", "")
	}
	content, _, err := form.File("file")
	if err != nil {
		return err
	}
	if len(content) > 0 {
		form.Values.Set("plist", string(content))
	}
	plist := form.Get("plist")
	again := func() error { return s.showRaw(w, r, http.StatusUnprocessableEntity, t, form) }
	if plist == "" {
		form.Fail("plist", "Paste a command, or choose a file.")
		return again()
	}
	if wrong := wellFormed(plist); wrong != "" {
		form.Fail("plist", "%s", wrong)
		return again()
	}
	if _, loses := lost[requestTypeIn(plist)]; loses && requestTypeIn(plist) != "RemoveProfile" {
		form.Values.Set("confirm", "true")
		if word, _ := confirmation(t, t.Total); !form.Typed(word) {
			if !form.Values.Has("typed") {
				delete(form.Errors, "typed")
				form.Error = "This can’t be undone. Read below what is lost, and confirm it."
			}
			return again()
		}
	}
	query := url.Values{}
	switch {
	case t.GroupID != "":
		query.Set("group_id", t.GroupID)
	case t.Filter != "":
		query.Set("filter", t.Filter)
	default:
		query.Set("device_ids", strings.Join(t.DeviceIDs, ","))
	}
	var queued struct {
		UUID string `json:"command_uuid"`
	}
	_, err = s.desk.Do(r.Context(), http.MethodPost, "/api/v1/commands/raw?"+query.Encode(), "application/xml", strings.NewReader(plist), &queued)
	var p *admin.Problem
	if errors.As(err, &p) && p.Status >= 400 && p.Status < 500 && p.Status != http.StatusForbidden {
		form.Fail("plist", "%s", join(p.Title+".", p.Detail, reasons(p)))
		return again()
	}
	if err != nil {
		return err
	}
	return admin.Redirect(w, r, section+"/"+url.PathEscape(queued.UUID), "queued")
}

// reasons are those for which devices may not get a command.
func reasons(p *admin.Problem) string {
	var all []string
	for _, r := range p.Rejected {
		if len(all) == 5 {
			all = append(all, fmt.Sprintf("And %d more.", len(p.Rejected)-5))
			break
		}
		all = append(all, r.DeviceID+": "+r.Reason)
	}
	for _, e := range p.Errors {
		all = append(all, e.Sentence())
	}
	return strings.Join(all, " ")
}

// wellFormed says at which line a text stops being XML, empty if it is that. What a property
// list has to be beside that, the API says.
func wellFormed(text string) string {
	dec := xml.NewDecoder(strings.NewReader(text))
	for elements := 0; ; {
		token, err := dec.Token()
		var syntax *xml.SyntaxError
		switch {
		case errors.Is(err, io.EOF) && elements == 0:
			return "Is not XML: begin with the property list that a device would get."
		case errors.Is(err, io.EOF):
			return ""
		case errors.As(err, &syntax):
			return fmt.Sprintf("Is not XML in line %d: %s.", syntax.Line, syntax.Msg)
		case err != nil:
			return "Is not XML: " + err.Error() + "."
		}
		if _, ok := token.(xml.StartElement); ok {
			elements++
		}
	}
}
