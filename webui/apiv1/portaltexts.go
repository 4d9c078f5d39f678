package apiv1

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
)

// portalTextsRequest is what the operator says in a language. Fields that are only in
// answers may be there, so that what was read can be changed and sent back.
type portalTextsRequest struct {
	Texts json.RawMessage `json:"texts"` // an object of texts by key

	Lang         json.RawMessage `json:"lang"`
	Name         json.RawMessage `json:"name"`
	Dir          json.RawMessage `json:"dir"`
	Total        json.RawMessage `json:"total"`
	Overridden   json.RawMessage `json:"overridden"`
	Untranslated json.RawMessage `json:"untranslated"`
	UpdatedAt    json.RawMessage `json:"updated_at"`
	UpdatedBy    json.RawMessage `json:"updated_by"`
	Catalogue    json.RawMessage `json:"catalogue"`
	Imported     json.RawMessage `json:"imported"`
}

// portalLanguageJSON says what there is in a language.
type portalLanguageJSON struct {
	Lang         string     `json:"lang"`
	Name         string     `json:"name"`
	Dir          string     `json:"dir"`
	Total        int        `json:"total"`
	Overridden   int        `json:"overridden"`
	Untranslated int        `json:"untranslated"`
	UpdatedAt    *time.Time `json:"updated_at"`
	UpdatedBy    string     `json:"updated_by"`
}

// portalTextsJSON is a language with all its texts.
type portalTextsJSON struct {
	portalLanguageJSON
	Texts     map[string]string `json:"texts"` // the operator's, by key
	Catalogue []portalTextJSON  `json:"catalogue"`
	Imported  []importedJSON    `json:"imported"` // of a request that had texts of another product
}

type portalTextJSON struct {
	Key          string   `json:"key"`
	Default      string   `json:"default"`
	Text         string   `json:"text"`
	Placeholders []string `json:"placeholders"`
	Markdown     bool     `json:"markdown"`
}

type importedJSON struct {
	Name   string `json:"name"`
	Key    string `json:"key"`
	Reason string `json:"reason"`
}

type textPreviewRequest struct {
	Key  string `json:"key"`
	Text string `json:"text"`
}

type textPreviewJSON struct {
	HTML     string   `json:"html"`
	Findings []string `json:"findings"`
}

func portalLanguage(s text.Summary) portalLanguageJSON {
	return portalLanguageJSON{
		Lang: s.Code, Name: s.Name, Dir: s.Dir, Total: s.Texts, Overridden: s.Overridden, Untranslated: s.Untold,
		UpdatedAt: timestamp(s.UpdatedAt), UpdatedBy: s.By,
	}
}

func (a *API) listPortalTexts(w http.ResponseWriter, r *http.Request) error {
	languages, err := a.texts.Languages(r.Context())
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(languages, "", portalLanguage))
}

func (a *API) getPortalTexts(w http.ResponseWriter, r *http.Request) error {
	return a.writePortalTexts(w, r, nil)
}

func (a *API) writePortalTexts(w http.ResponseWriter, r *http.Request, imported []importedJSON) error {
	own, summary, entries, err := a.texts.Overrides(r.Context(), r.PathValue("lang"))
	if err != nil {
		return portalTextsProblem(err)
	}
	out := portalTextsJSON{
		portalLanguageJSON: portalLanguage(summary), Texts: own, Catalogue: make([]portalTextJSON, len(entries)),
		Imported: append([]importedJSON{}, imported...),
	}
	for i, e := range entries {
		out.Catalogue[i] = portalTextJSON{Key: e.Key, Default: e.Default, Text: e.Text, Placeholders: list(e.Placeholders), Markdown: e.Markdown}
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

func (a *API) replacePortalTexts(w http.ResponseWriter, r *http.Request) error {
	return a.setPortalTexts(w, r, a.texts.Replace)
}

func (a *API) changePortalTexts(w http.ResponseWriter, r *http.Request) error {
	return a.setPortalTexts(w, r, a.texts.Change)
}

func (a *API) setPortalTexts(w http.ResponseWriter, r *http.Request, set func(ctx context.Context, by, lang string, texts map[string]string) error) error {
	var texts map[string]string
	var imported []importedJSON
	var err error
	switch format := r.URL.Query().Get("format"); format {
	case "":
		texts, err = readPortalTexts(r)
	case "jamf":
		texts, imported, err = a.readJamf(r)
	default:
		return invalid("format", "must be jamf, or left out")
	}
	if err != nil {
		return err
	}
	if err := set(r.Context(), principal(r).String(), r.PathValue("lang"), texts); err != nil {
		if imported != nil {
			err = nameImported(err, imported)
		}
		return portalTextsProblem(err)
	}
	return a.writePortalTexts(w, r, imported)
}

// readPortalTexts reads texts by key.
func readPortalTexts(r *http.Request) (map[string]string, error) {
	var in portalTextsRequest
	if _, err := readJSON(r, &in); err != nil {
		return nil, err
	}
	if in.Texts == nil {
		return nil, invalid("texts", "is required")
	}
	return readTexts("texts", in.Texts)
}

// readTexts reads an object whose values are strings.
func readTexts(field string, raw json.RawMessage) (map[string]string, error) {
	var values map[string]json.RawMessage
	if err := json.Unmarshal(raw, &values); err != nil || values == nil {
		return nil, invalid(field, "must be an object")
	}
	texts := make(map[string]string, len(values))
	for key, value := range values {
		var text *string
		if err := json.Unmarshal(value, &text); err != nil || text == nil {
			return nil, invalid(clip(field+"."+key), "must be a string")
		}
		texts[key] = *text
	}
	return texts, nil
}

// readJamf reads an enrollment language of Jamf Pro. Its fields are its own: those that
// are no texts of ours are no mistake.
func (a *API) readJamf(r *http.Request) (texts map[string]string, imported []importedJSON, err error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("read body: %w", err)
	}
	if err := checkJSON(body, nil); err != nil {
		return nil, nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, nil, malformed("It is not JSON.")
	}
	language := map[string]string{}
	for name, value := range fields {
		if text, ok := value.(string); ok {
			language[name] = text
		}
	}
	texts, became := a.texts.FromJamf(language)
	imported = make([]importedJSON, len(became))
	for i, b := range became {
		imported[i] = importedJSON{clip(b.Name), b.Key, b.Reason}
	}
	return texts, imported, nil
}

// nameImported says what is wrong with texts of another product by its own names.
func nameImported(err error, imported []importedJSON) error {
	var wrong text.FieldErrors
	if !errors.As(err, &wrong) {
		return err
	}
	var named text.FieldErrors
	for _, e := range wrong {
		for _, i := range imported {
			if i.Reason == "" && "texts."+i.Key == e.Field {
				named = append(named, text.FieldError{Field: i.Name, Reason: e.Reason})
			}
		}
	}
	return named
}

func (a *API) previewPortalText(w http.ResponseWriter, r *http.Request) error {
	var in textPreviewRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	html, findings, err := a.texts.Preview(r.Context(), r.PathValue("lang"), in.Key, in.Text)
	if err != nil {
		return portalTextsProblem(err)
	}
	return webui.WriteJSON(w, http.StatusOK, textPreviewJSON{HTML: string(html), Findings: list(findings)})
}

// portalTextsProblem is err as an answer.
func portalTextsProblem(err error) error {
	var wrong text.FieldErrors
	switch {
	case errors.As(err, &wrong):
		bad := make([]fieldError, len(wrong))
		for i, e := range wrong {
			bad[i] = fieldError{clip(e.Field), e.Reason}
		}
		return invalids(bad)
	case errors.Is(err, text.ErrLanguage):
		return storage.ErrNotFound
	}
	return err
}
