package apiv1

import (
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

type findingJSON struct {
	Code        string   `json:"code"`
	Severity    string   `json:"severity"`
	PayloadType string   `json:"payload_type"`
	Path        string   `json:"path"` // "PayloadContent[2].SSID_STR"; empty: the profile as a whole
	Platforms   []string `json:"platforms"`
	Reason      string   `json:"reason"`
}

func findingsOf(findings []profile.Finding) []findingJSON {
	out := make([]findingJSON, len(findings))
	for i, f := range findings {
		out[i] = findingJSON{f.Code, string(f.Severity), f.PayloadType, f.Path(), platformNames(f.Platforms), f.Reason}
	}
	return out
}

func platformNames(platforms []command.Platform) []string {
	names := make([]string, len(platforms))
	for i, p := range platforms {
		names[i] = string(p)
	}
	return names
}

type profileJSON struct {
	ID         string    `json:"id"`
	Identifier string    `json:"identifier"`
	Name       string    `json:"name"`
	Version    int       `json:"version"` // the latest
	CreatedAt  time.Time `json:"created_at"`
	CreatedBy  string    `json:"created_by"`
	UpdatedAt  time.Time `json:"updated_at"`
}

func profileOfLibrary(p library.Profile) profileJSON {
	return profileJSON{p.ID, p.Identifier, p.Name, p.Latest, p.CreatedAt.UTC(), p.CreatedBy, p.UpdatedAt.UTC()}
}

type signerJSON struct {
	Subject  string     `json:"subject"`
	Issuer   string     `json:"issuer"`
	Serial   string     `json:"serial"`
	NotAfter *time.Time `json:"not_after"`
	Broken   string     `json:"broken"` // why the signature is not right; empty: it is
}

type profileVersionJSON struct {
	Version              int         `json:"version"`
	UUID                 string      `json:"uuid"`
	SHA256               string      `json:"sha256"`
	Size                 int         `json:"size"`
	CreatedAt            time.Time   `json:"created_at"`
	CreatedBy            string      `json:"created_by"`
	Note                 string      `json:"note"`
	Description          string      `json:"description"`
	Organization         string      `json:"organization"`
	Scope                string      `json:"scope"`
	PayloadTypes         []string    `json:"payload_types"`
	Signer               *signerJSON `json:"signer"` // who had signed the file; null: nobody
	Variables            []string    `json:"variables"`
	CertificateTemplates []string    `json:"certificate_templates"`
	Literal              bool        `json:"literal"`
}

func profileVersion(v library.Version) profileVersionJSON {
	out := profileVersionJSON{
		Version: v.Number, UUID: v.UUID, SHA256: v.SHA256, Size: v.Size, CreatedAt: v.CreatedAt.UTC(), CreatedBy: v.CreatedBy, Note: v.Note,
		Description: v.Description, Organization: v.Organization, Scope: v.Scope, PayloadTypes: orEmpty(v.PayloadTypes),
		Variables: orEmpty(v.Variables), CertificateTemplates: orEmpty(v.Certificates), Literal: v.Literal,
	}
	out.Signer = signerOf(v.Signer)
	return out
}

// addedProfile answers for a profile that was given.
type addedProfile struct {
	profileJSON
	New      bool               `json:"new"` // false: the latest version is the same
	Latest   profileVersionJSON `json:"latest"`
	Findings []findingJSON      `json:"findings"`
}

func (a *API) addProfile(w http.ResponseWriter, r *http.Request) error {
	u, err := uploadOf(r)
	if err != nil {
		return err
	}
	added, err := a.library.Add(r.Context(), u)
	if err != nil {
		return err
	}
	return writeAdded(w, added)
}

func (a *API) replaceProfile(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	u, err := uploadOf(r)
	if err != nil {
		return err
	}
	added, err := a.library.AddVersion(r.Context(), id, u)
	if err != nil {
		return err
	}
	return writeAdded(w, added)
}

func writeAdded(w http.ResponseWriter, added library.Added) error {
	status := http.StatusCreated
	if !added.New {
		status = http.StatusOK
	}
	w.Header().Set("Location", "/api/v1/profiles/"+added.Profile.ID)
	return webui.WriteJSON(w, status, addedProfile{profileOfLibrary(added.Profile), added.New, profileVersion(added.Version), findingsOf(added.Findings)})
}

func (a *API) listProfiles(w http.ResponseWriter, r *http.Request) error {
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	details, err := flag(r.URL.Query(), "details")
	if err != nil {
		return err
	}
	if details && limit > maxDetailed {
		limit = maxDetailed
	}
	found, next, err := a.library.Profiles(r.Context(), cursor, limit)
	if err != nil {
		return err
	}
	if !details {
		return webui.WriteJSON(w, http.StatusOK, newPage(found, next, profileOfLibrary))
	}
	ids := make([]string, len(found))
	for i, one := range found {
		ids[i] = one.ID
	}
	sums, more, err := a.countSome(r, ids)
	if err != nil {
		return err
	}
	out := page[detailedProfile]{Items: make([]detailedProfile, len(found)), NextCursor: next}
	for i, one := range found {
		if out.Items[i], err = a.detailedProfile(r, profileOfLibrary(one)); err != nil {
			return err
		}
		out.Items[i].Devices, out.Items[i].MoreDevices = byState(sums[one.ID]), more[one.ID]
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

// oneProfile is a profile with all that there is to say of it.
type oneProfile struct {
	profileJSON
	Latest   profileVersionJSON `json:"latest"`
	Payloads []payloadBrief     `json:"payloads"` // of the latest version, like Findings
	Findings []findingJSON      `json:"findings"`
	Devices  map[string]int     `json:"devices"` // how many have it in which state; nil: nobody asked
}

func (a *API) getProfile(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	uncounted, err := flag(r.URL.Query(), "uncounted")
	if err != nil {
		return err
	}
	rec, _, err := a.library.Profile(r.Context(), id)
	if err != nil {
		return err
	}
	v, p, err := a.library.Content(r.Context(), id, rec.Latest)
	if err != nil {
		return err
	}
	out := oneProfile{profileOfLibrary(rec), profileVersion(v), payloadsOf(p), findingsOf(a.library.Lint(p, v.Literal)), nil}
	if uncounted {
		return webui.WriteJSON(w, http.StatusOK, out)
	}
	sum, err := a.countDevices(r, id)
	if err != nil {
		return err
	}
	out.Devices = byState(sum)
	return webui.WriteJSON(w, http.StatusOK, out)
}

func (a *API) deleteProfile(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if err := a.library.Delete(r.Context(), principal(r).String(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// lintProfile looks at a profile and keeps nothing. With ?target= it says what that target
// makes of it, too.
func (a *API) lintProfile(w http.ResponseWriter, r *http.Request) error {
	literal, err := flag(r.URL.Query(), "literal")
	if err != nil {
		return err
	}
	var target *command.Target
	if words := r.URL.Query().Get("target"); words != "" {
		t, err := command.ParseTarget(words)
		if err != nil {
			return invalid("target", err.Error())
		}
		target = &t
	}
	data, err := profileBody(r)
	if err != nil {
		return err
	}
	p, err := profile.Parse(data)
	if err != nil {
		return err
	}
	out, err := a.linted(r, p, literal)
	if err != nil {
		return err
	}
	if target != nil {
		findings, refused := p.Check(*target)
		out.Findings, out.Refused = append(out.Findings, findingsOf(findings)...), &refused
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}
