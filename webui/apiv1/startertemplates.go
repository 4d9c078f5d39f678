package apiv1

import (
	"errors"
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

type starterJSON struct {
	Name           string         `json:"name"`
	Title          string         `json:"title"`
	Summary        string         `json:"summary"`
	Platforms      []string       `json:"platforms"`
	UserEnrollment bool           `json:"user_enrollment"`
	Supervised     bool           `json:"supervised"`
	Params         []starterParam `json:"params"`
}

type starterParam struct {
	Name     string   `json:"name"`
	Label    string   `json:"label"`
	Help     string   `json:"help"`
	Type     string   `json:"type"`
	Required bool     `json:"required"`
	Default  any      `json:"default"`
	Values   []string `json:"values"` // empty: any of its type
	Min      *float64 `json:"min"`
	Max      *float64 `json:"max"`
	Secret   bool     `json:"secret"`
	Form     string   `json:"form"`
}

func starterOf(s profile.Starter) starterJSON {
	out := starterJSON{s.Name, s.Title, s.Summary, platformNames(s.Platforms), s.UserEnrollment, s.Supervised, make([]starterParam, len(s.Parameters))}
	for i, p := range s.Parameters {
		out.Params[i] = starterParam{p.Name, p.Label, p.Help, string(p.Kind), p.Required, p.Default, orEmpty(p.Allowed), p.Min, p.Max, p.Secret, string(p.Form)}
	}
	return out
}

func (a *API) listStarters(w http.ResponseWriter, _ *http.Request) error {
	return webui.WriteJSON(w, http.StatusOK, newPage(profile.Starters(), "", starterOf))
}

// useStarter keeps the profile that a starter makes, or only shows it.
func (a *API) useStarter(w http.ResponseWriter, r *http.Request) error {
	preview, err := flag(r.URL.Query(), "preview")
	if err != nil {
		return err
	}
	var in struct {
		Name       string         `json:"name"`
		Identifier string         `json:"identifier"`
		Params     map[string]any `json:"params"`
	}
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	starter := r.PathValue("name")
	draft, err := profile.Fill(starter, in.Identifier, in.Params)
	if err != nil {
		return err
	}
	if err := a.checkTemplates(r, starter, in.Params); err != nil {
		return err
	}
	if in.Name != "" {
		draft.DisplayName = in.Name
	}
	p, err := compose(draft)
	if err != nil {
		return err
	}
	if preview {
		return a.writeProfile(w, p, false)
	}
	data, err := p.Encode()
	if err != nil {
		return err
	}
	added, err := a.library.Add(r.Context(), library.Upload{Data: data, Note: r.URL.Query().Get("note"), By: principal(r).String()})
	if err != nil {
		return err
	}
	return writeAdded(w, added)
}

// checkTemplates refuses parameters that name a certificate template that is not there: the
// mistake would show only when the profile is sent.
func (a *API) checkTemplates(r *http.Request, starter string, params map[string]any) error {
	for _, s := range profile.Starters() {
		if s.Name != starter {
			continue
		}
		for _, p := range s.Parameters {
			name, _ := params[p.Name].(string)
			if p.Form != profile.FormTemplate || name == "" {
				continue
			}
			err := a.db.View(r.Context(), func(tx storage.Tx) error {
				_, err := a.templates.Get(tx, name)
				return err
			})
			if errors.Is(err, storage.ErrNotFound) {
				return invalid("params."+p.Name, "must be the name of a certificate template: see /api/v1/certificate-templates")
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
