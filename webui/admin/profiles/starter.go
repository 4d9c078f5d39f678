package profiles

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

const starterAPI = "/api/v1/starter-templates"

// starter is a kind of profile that is made by answering a few questions.
type starter struct {
	Name           string      `json:"name"`
	Title          string      `json:"title"`
	Summary        string      `json:"summary"`
	Platforms      []string    `json:"platforms"`
	UserEnrollment bool        `json:"user_enrollment"`
	Supervised     bool        `json:"supervised"`
	Params         []parameter `json:"params"`
}

// URL is the page with the starter's questions.
func (s starter) URL() string { return section + "/starter?name=" + url.QueryEscape(s.Name) }

// For says whose devices it is for.
func (s starter) For() string {
	text := systems(s.Platforms)
	if s.Supervised {
		text += "; supervised devices"
	} else if s.UserEnrollment {
		text += "; personal devices, too"
	}
	return text
}

// parameter is one question of a starter.
type parameter struct {
	Name     string          `json:"name"`
	Label    string          `json:"label"`
	Help     string          `json:"help"`
	Type     string          `json:"type"`
	Required bool            `json:"required"`
	Default  json.RawMessage `json:"default"`
	Values   []string        `json:"values"`
	Min      *float64        `json:"min"`
	Max      *float64        `json:"max"`
	Secret   bool            `json:"secret"`
	Form     string          `json:"form"`
}

// Field is the name of the parameter in forms and in what the API says of it.
func (p parameter) Field() string { return "params." + p.Name }

type startersPage struct {
	admin.Page
	Starters []starter
}

func (s *Profiles) starters(w http.ResponseWriter, r *http.Request) error {
	var all admin.List[starter]
	if err := s.desk.Get(r.Context(), starterAPI, nil, &all); err != nil {
		return err
	}
	return s.desk.Write(w, r, s.pages, "starters.html", &startersPage{
		Page:     admin.Page{Title: "New profile", Section: section, Crumbs: []view.Link{{Label: "Profiles", URL: section}}},
		Starters: all.Items,
	})
}

type starterPage struct {
	admin.Page
	Starter starter
	Form    *admin.Form
	Fields  []admin.Field
	Lacks   *admin.Empty // what has to be there first; may be nil
}

// starterOf returns the starter that r is about.
func (s *Profiles) starterOf(r *http.Request) (starter, error) {
	var all admin.List[starter]
	if err := s.desk.Get(r.Context(), starterAPI, nil, &all); err != nil {
		return starter{}, err
	}
	i := slices.IndexFunc(all.Items, func(one starter) bool { return one.Name == r.URL.Query().Get("name") })
	if i < 0 {
		return starter{}, &webui.Problem{Status: http.StatusNotFound, Code: "not_found", Title: "There is nothing here", Detail: "There is no starter of this name."}
	}
	return all.Items[i], nil
}

func (s *Profiles) starter(w http.ResponseWriter, r *http.Request) error {
	one, err := s.starterOf(r)
	if err != nil {
		return err
	}
	form := admin.NewForm("name", one.Title, "identifier", s.suggestion(one.Name))
	for _, p := range one.Params {
		form.Values.Set(p.Field(), p.defaultText())
	}
	return s.showStarter(w, r, http.StatusOK, one, form)
}

// suggestion is an identifier for a profile: the server's name in reverse, with a word.
func (s *Profiles) suggestion(word string) string {
	labels := strings.Split(s.desk.ServerURL.Hostname(), ".")
	if len(labels) < 2 || strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return "com.example." + word
	}
	slices.Reverse(labels)
	return strings.Join(append(labels, word), ".")
}

// defaultText is the parameter's default as a form has it.
func (p parameter) defaultText() string {
	if len(p.Default) == 0 || string(p.Default) == "null" {
		return ""
	}
	var text string
	var lines []string
	switch {
	case json.Unmarshal(p.Default, &text) == nil:
		return text
	case json.Unmarshal(p.Default, &lines) == nil:
		return strings.Join(lines, "\n")
	}
	return string(p.Default)
}

func (s *Profiles) showStarter(w http.ResponseWriter, r *http.Request, status int, one starter, form *admin.Form) error {
	page := &starterPage{
		Page: admin.Page{Title: one.Title, Section: section, Crumbs: []view.Link{
			{Label: "Profiles", URL: section}, {Label: "New profile", URL: section + "/starters"},
		}},
		Starter: one, Form: form,
	}
	for _, p := range one.Params {
		field := p.field(form)
		if p.Form == "certificate_template" {
			var templates admin.List[struct {
				Name    string `json:"name"`
				Subject string `json:"subject"`
			}]
			if err := s.desk.Get(r.Context(), "/api/v1/certificate-templates", url.Values{"limit": {"1000"}}, &templates); err != nil {
				return err
			}
			if len(templates.Items) == 0 && p.Required {
				page.Lacks = &admin.Empty{
					Heading: "It needs a certificate template", Text: "The template says what each device’s certificate is like. Make one first; then it can be chosen here.",
					Actions: []view.Link{{Label: "New certificate template", URL: "/admin/certificates/new-template"}},
				}
			}
			field.Type = "select"
			field.Options = []admin.Option{{Value: "", Label: "None"}}
			if p.Required {
				field.Options[0].Label = "Choose a template"
			}
			for _, t := range templates.Items {
				field.Options = append(field.Options, admin.Option{Value: t.Name, Label: t.Name + " (" + t.Subject + ")", Selected: field.Value == t.Name})
			}
		}
		page.Fields = append(page.Fields, field)
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "starter.html", page)
}

// field is the control for the parameter.
func (p parameter) field(form *admin.Form) admin.Field {
	name := p.Field()
	field := admin.Field{
		Name: name, Label: p.Label, Hint: p.Help, Required: p.Required, Type: "text", ID: "f-" + p.Name,
		Value: form.Values.Get(name), Error: form.Errors[name],
	}
	hint := func(text string) { field.Hint = strings.TrimSpace(field.Hint + " " + text) }
	switch {
	case p.Type == "boolean":
		field.Type, field.Checked, field.Value = "checkbox", field.Value == "true", "true"
	case p.Type == "data":
		field.Type, field.Value = "file", ""
	case p.Type == "array":
		field.Type, field.Rows = "textarea", 3
		hint("One on each line.")
	case p.Form == "certificates":
		field.Type, field.Rows, field.Mono, field.Placeholder = "textarea", 5, true, "-----BEGIN CERTIFICATE-----"
	case len(p.Values) > 0:
		field.Type = "select"
		if !p.Required && p.defaultText() == "" {
			field.Options = append(field.Options, admin.Option{Value: "", Label: "Not set"})
		}
		for _, v := range p.Values {
			field.Options = append(field.Options, admin.Option{Value: v, Label: v, Selected: v == field.Value})
		}
	case p.Secret:
		field.Type, field.Value, field.Autocomplete = "password", "", "new-password"
	case p.Type == "integer" || p.Type == "real":
		field.InputMode = "numeric"
		if p.Min != nil && p.Max != nil {
			hint(fmt.Sprintf("From %g to %g.", *p.Min, *p.Max))
		}
	case p.Form == "url":
		field.InputMode, field.Placeholder = "url", "https://"
	}
	if p.Form == "variables" || p.Form == "url" {
		hint("May hold variables such as $EMAIL.")
	}
	return field
}

// value is what a form says for the parameter, as the API takes it; ok is false where it
// says nothing.
func (p parameter) value(form *admin.Form) (v any, ok bool, err error) {
	text := form.Get(p.Field())
	switch p.Type {
	case "boolean":
		return form.Has(p.Field(), "true"), true, nil
	case "data":
		content, _, err := form.File(p.Field())
		return base64.StdEncoding.EncodeToString(content), len(content) > 0, err
	case "array":
		lines := form.Lines(p.Field())
		return lines, len(lines) > 0, nil
	case "integer", "real":
		if n, err := strconv.ParseFloat(text, 64); err == nil {
			return json.Number(strconv.FormatFloat(n, 'f', -1, 64)), true, nil
		}
	}
	if p.Secret {
		text = form.Values.Get(p.Field()) // spaces may belong to it
	}
	return text, text != "", nil
}

// fill makes a profile of the answers, and shows what is in it before it is kept.
func (s *Profiles) fill(w http.ResponseWriter, r *http.Request) error {
	one, err := s.starterOf(r)
	if err != nil {
		return err
	}
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	params := map[string]any{}
	for _, p := range one.Params {
		v, ok, err := p.value(form)
		if err != nil {
			return err
		}
		if ok {
			params[p.Name] = v
		}
	}
	in, err := json.Marshal(map[string]any{"name": form.Get("name"), "identifier": form.Get("identifier"), "params": params})
	if err != nil {
		return err
	}
	var content []byte
	_, err = s.desk.Do(r.Context(), http.MethodPost, starterAPI+"/"+url.PathEscape(one.Name)+"?preview=true", "application/json", bytes.NewReader(in), &content)
	if err != nil {
		if form.Refused(err) {
			return s.showStarter(w, r, http.StatusUnprocessableEntity, one, form)
		}
		return err
	}
	return s.review(w, r, http.StatusOK, admin.NewForm(), content)
}
