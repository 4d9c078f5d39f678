package apiv1

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

// draftRequest is a profile that is made from payload forms.
type draftRequest struct {
	Identifier        string            `json:"identifier"`
	Name              string            `json:"name"`
	Description       string            `json:"description"`
	Organization      string            `json:"organization"`
	Scope             string            `json:"scope"`
	RemovalDisallowed bool              `json:"removal_disallowed"`
	Payloads          []json.RawMessage `json:"payloads"` // each a draftPayload
}

type draftPayload struct {
	PayloadType string          `json:"payload_type"`
	Identifier  string          `json:"identifier"`
	UUID        string          `json:"uuid"`
	Name        string          `json:"name"`
	Description string          `json:"description"`
	Settings    json.RawMessage `json:"settings"`
}

// draft reads the payloads in the request, or returns a problem that names all that is wrong
// with their form.
func (in draftRequest) draft() (profile.Draft, error) {
	d := profile.Draft{
		Identifier: in.Identifier, DisplayName: in.Name, Description: in.Description, Organization: in.Organization,
		Scope: profile.Scope(in.Scope), RemovalDisallowed: in.RemovalDisallowed,
	}
	var bad fieldErrors
	for i, raw := range in.Payloads {
		field := fmt.Sprintf("payloads[%d]", i)
		var p draftPayload
		if !bad.object(field, raw, &p) {
			continue
		}
		made := profile.DraftPayload{Type: p.PayloadType, Identifier: p.Identifier, UUID: p.UUID, DisplayName: p.Name, Description: p.Description}
		if given(p.Settings) {
			dec := json.NewDecoder(bytes.NewReader(p.Settings))
			dec.UseNumber()
			if dec.Decode(&made.Settings) != nil {
				bad.add(field+".settings", "must be an object")
			}
		}
		d.Payloads = append(d.Payloads, made)
	}
	if len(bad) > 0 {
		return profile.Draft{}, invalids(bad)
	}
	return d, nil
}

// compose makes the profile of the request.
func (in draftRequest) compose() (*profile.Profile, error) {
	d, err := in.draft()
	if err != nil {
		return nil, err
	}
	return compose(d)
}

// compose makes the profile of a draft. Errors are in the words of requests.
func compose(d profile.Draft) (*profile.Profile, error) {
	p, err := profile.Compose(d)
	if wrong, ok := errors.AsType[*command.ParamError](err); ok {
		return nil, invalid(inRequest(wrong.Path), wrong.Reason)
	}
	return p, err
}

// inRequest returns the path that a place in a [profile.Draft] has in a draftRequest. What is
// below settings has it in both.
func inRequest(path string) string {
	if strings.Contains(path, ".settings") {
		return path
	}
	for theirs, ours := range map[string]string{"display_name": "name", "type": "payload_type"} {
		if rest, ok := strings.CutSuffix(path, theirs); ok && (rest == "" || strings.HasSuffix(rest, "].")) {
			return rest + ours
		}
	}
	return path
}

// profileBody reads a profile out of a request: as a file, or as JSON that it is made from.
func profileBody(r *http.Request) ([]byte, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err == nil && media == "application/json" {
		var in draftRequest
		if _, err := readJSON(r, &in); err != nil {
			return nil, err
		}
		p, err := in.compose()
		if err != nil {
			return nil, err
		}
		return p.Encode()
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	return data, nil
}

// uploadOf reads a profile and what is said of it in the query.
func uploadOf(r *http.Request) (library.Upload, error) {
	literal, err := flag(r.URL.Query(), "literal")
	if err != nil {
		return library.Upload{}, err
	}
	data, err := profileBody(r)
	if err != nil {
		return library.Upload{}, err
	}
	return library.Upload{Data: data, Note: r.URL.Query().Get("note"), Literal: literal, By: principal(r).String()}, nil
}
