package apiv1

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
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

// flag reads a parameter that is true or false; without it, false.
func flag(query url.Values, name string) (bool, error) {
	if !query.Has(name) {
		return false, nil
	}
	v, err := strconv.ParseBool(query.Get(name))
	if err != nil {
		return false, invalid(name, "must be true or false")
	}
	return v, nil
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
	out := page[detailedProfile]{Items: make([]detailedProfile, len(found)), NextCursor: next}
	for i, one := range found {
		if out.Items[i], err = a.detailedProfile(r, profileOfLibrary(one)); err != nil {
			return err
		}
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
	sum, err := a.library.Summary(r.Context(), id)
	if err != nil {
		return err
	}
	out.Devices = make(map[string]int, len(sum))
	for state, n := range sum {
		out.Devices[string(state)] = n
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

func (a *API) listProfileVersions(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	all, err := a.library.Versions(r.Context(), id)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(all, "", profileVersion))
}

// versionOf reads the number of a version out of the path.
func versionOf(r *http.Request) (int, error) {
	n, err := strconv.Atoi(r.PathValue("version"))
	if err != nil || n < 1 {
		return 0, storage.ErrNotFound
	}
	return n, nil
}

func (a *API) getProfileVersion(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	number, err := versionOf(r)
	if err != nil {
		return err
	}
	v, p, err := a.library.Content(r.Context(), id, number)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, struct {
		profileVersionJSON
		Payloads []payloadBrief `json:"payloads"`
		Findings []findingJSON  `json:"findings"`
	}{profileVersion(v), payloadsOf(p), findingsOf(a.library.Lint(p, v.Literal))})
}

// restoreProfile makes an older version the latest one, as a version of its own.
func (a *API) restoreProfile(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	number, err := versionOf(r)
	if err != nil {
		return err
	}
	rec, latest, err := a.library.Profile(r.Context(), id)
	if err != nil {
		return err
	}
	v, p, err := a.library.Content(r.Context(), id, number)
	if err != nil {
		return err
	}
	if number == latest.Number {
		return writeAdded(w, library.Added{Profile: rec, Version: latest, Findings: a.library.Lint(p, v.Literal)})
	}
	data, err := p.Encode()
	if err != nil {
		return err
	}
	note := cmp.Or(r.URL.Query().Get("note"), fmt.Sprintf("Version %d again", number))
	added, err := a.library.AddVersion(r.Context(), id, library.Upload{Data: data, Note: note, Literal: v.Literal, By: principal(r).String()})
	if err != nil {
		return err
	}
	return writeAdded(w, added)
}

// downloadProfile gives a version away as devices get it, but for variables and certificates.
func (a *API) downloadProfile(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	number, err := versionOf(r)
	if err != nil {
		return err
	}
	signed, err := flag(r.URL.Query(), "signed")
	if err != nil {
		return err
	}
	_, p, err := a.library.Content(r.Context(), id, number)
	if err != nil {
		return err
	}
	return a.writeProfile(w, p, signed)
}

func (a *API) writeProfile(w http.ResponseWriter, p *profile.Profile, signed bool) error {
	data, err := p.Encode()
	if err == nil && signed {
		data, err = a.library.Sign(data)
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", profile.ContentType)
	w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": p.Identifier + ".mobileconfig"}))
	_, err = w.Write(data)
	return err
}

type changeJSON struct {
	Kind        string `json:"kind"`
	PayloadType string `json:"payload_type"`
	Payload     string `json:"payload"`
	Key         string `json:"key"`
	Old         string `json:"old"`
	New         string `json:"new"`
	Secret      bool   `json:"secret"` // old and new are not told
}

func (a *API) diffProfile(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	rec, _, err := a.library.Profile(r.Context(), id)
	if err != nil {
		return err
	}
	to, err := versionParameter(r, "to", rec.Latest)
	if err != nil {
		return err
	}
	from, err := versionParameter(r, "from", max(to-1, 1))
	if err != nil {
		return err
	}
	_, before, err := a.library.Content(r.Context(), id, from)
	if err != nil {
		return err
	}
	_, after, err := a.library.Content(r.Context(), id, to)
	if err != nil {
		return err
	}
	changes := []changeJSON{}
	for _, c := range profile.Diff(before, after) {
		changes = append(changes, changeJSON{string(c.Kind), c.PayloadType, c.Payload, c.Key, c.Old, c.New, c.Secret})
	}
	return webui.WriteJSON(w, http.StatusOK, struct {
		From    int          `json:"from"`
		To      int          `json:"to"`
		Changes []changeJSON `json:"changes"`
	}{from, to, changes})
}

// versionParameter reads the number of a version out of the query.
func versionParameter(r *http.Request, name string, otherwise int) (int, error) {
	query := r.URL.Query()
	if !query.Has(name) {
		return otherwise, nil
	}
	n, err := strconv.Atoi(query.Get(name))
	if err != nil || n < 1 {
		return 0, invalid(name, "must be the number of a version")
	}
	return n, nil
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

type verdictJSON struct {
	DeviceIDs []string      `json:"device_ids"`
	Code      string        `json:"code"`
	Reason    string        `json:"reason"`
	Findings  []findingJSON `json:"findings"`
	// LeftOut is what the part of the profile that these devices take would lack; empty where
	// they would take none.
	LeftOut []findingJSON `json:"left_out"`
}

// profileOrder names devices that a profile is to go to, or to be taken from.
type profileOrder struct {
	DeviceIDs []string `json:"device_ids"`
	GroupID   string   `json:"group_id"`
	Version   int      `json:"version"`
	Reduce    bool     `json:"reduce"`
	ExpiresIn string   `json:"expires_in"`
}

// profileTargets returns the devices that in is about, and why some that it names are left out.
func (a *API) profileTargets(r *http.Request, in profileOrder) (to library.Targets, outside []mdm.Rejection, err error) {
	to.Devices, outside, err = a.chosen(r, in.DeviceIDs, in.GroupID)
	return to, outside, err
}

func (a *API) checkProfile(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var in struct {
		DeviceIDs []string `json:"device_ids"`
		GroupID   string   `json:"group_id"`
		Version   int      `json:"version"`
	}
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	targets, outside, err := a.profileTargets(r, profileOrder{DeviceIDs: in.DeviceIDs, GroupID: in.GroupID})
	if err != nil {
		return err
	}
	f, err := a.library.Forecast(r.Context(), id, in.Version, targets)
	if err != nil {
		return err
	}
	if len(outside) > 0 {
		f.Total += len(outside)
		f.Verdicts = append(f.Verdicts, library.Verdict{Devices: rejectedDevices(outside), Code: outside[0].Code, Reason: outside[0].Reason})
	}
	verdicts := make([]verdictJSON, len(f.Verdicts))
	for i, v := range f.Verdicts {
		verdicts[i] = verdictJSON{deviceIDs(v.Devices), v.Code, v.Reason, findingsOf(v.Findings), findingsOf(v.Removed)}
	}
	return webui.WriteJSON(w, http.StatusOK, struct {
		Summary  string        `json:"summary"`
		Total    int           `json:"total"`
		Accept   int           `json:"accept"`
		Reduced  int           `json:"reduced"`
		Verdicts []verdictJSON `json:"verdicts"`
	}{f.Sentence(), f.Total, f.Accept, f.Reduced, verdicts})
}

func deviceIDs(ids []mdm.DeviceID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = string(id)
	}
	return out
}

// sentProfile is a device that a profile is on its way to.
type sentProfile struct {
	DeviceID    string `json:"device_id"`
	CommandUUID string `json:"command_uuid"`
	Reduced     bool   `json:"reduced"`
}

func (a *API) sendProfile(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var in profileOrder
	body, err := readJSON(r, &in)
	if err != nil {
		return err
	}
	targets, outside, err := a.profileTargets(r, in)
	if err != nil {
		return err
	}
	expires, err := commandExpiry(in.ExpiresIn)
	if err != nil {
		return err
	}
	again, batch, err := a.reserve(r, body, mdm.NewUUID())
	if err != nil {
		return err
	}
	if again {
		switch sent, err := a.sentBefore(r, batch); {
		case err == nil:
			return webui.WriteJSON(w, http.StatusAccepted, sent)
		case !errors.Is(err, storage.ErrNotFound):
			return err
		}
	}
	out, err := a.library.Send(r.Context(), library.Order{
		Profile: id, Version: in.Version, Targets: targets, Reduce: in.Reduce, ExpiresIn: expires, Batch: batch, By: principal(r).String(),
	})
	if err != nil {
		return err
	}
	rejected := rejections(append(outside, out.Rejected...))
	if len(out.Sent) == 0 {
		return &problem{
			Problem: webui.Problem{
				Status: http.StatusUnprocessableEntity, Code: "profile_rejected", Title: "No device may receive this profile",
				Detail: "Each device's reason is in rejected.",
			},
			Rejected: rejected,
		}
	}
	answer := sendingJSON{BatchID: out.Batch.ID, Version: out.Version.Number, CommandUUIDs: out.Batch.Commands, Devices: make([]sentProfile, len(out.Sent)), Rejected: rejected}
	for i, to := range out.Sent {
		answer.Devices[i] = sentProfile{string(to.DeviceID), to.Command, to.Reduced}
	}
	w.Header().Set("Location", "/api/v1/batches/"+out.Batch.ID)
	return webui.WriteJSON(w, http.StatusAccepted, answer)
}

type sendingJSON struct {
	BatchID      string        `json:"batch_id"`
	Version      int           `json:"version"`
	CommandUUIDs []string      `json:"command_uuids"`
	Devices      []sentProfile `json:"devices"`
	Rejected     []rejection   `json:"rejected"` // empty when the answer is repeated
}

// sentBefore answers for what an earlier request with the same Idempotency-Key sent.
func (a *API) sentBefore(r *http.Request, batch string) (sendingJSON, error) {
	b, err := a.mdm.In(limitOf(principal(r))).Batch(r.Context(), batch)
	if err != nil {
		return sendingJSON{}, err
	}
	out := sendingJSON{BatchID: b.ID, CommandUUIDs: b.Commands, Devices: []sentProfile{}, Rejected: []rejection{}}
	for _, c := range b.Each {
		_, out.Version, _ = library.OfProfile(c.Origin)
		for _, id := range c.Targets {
			out.Devices = append(out.Devices, sentProfile{string(id), c.UUID, library.Reduced(c.Origin)})
		}
	}
	return out, nil
}

func rejections(all []mdm.Rejection) []rejection {
	out := make([]rejection, len(all))
	for i, no := range all {
		out[i] = rejection{DeviceID: string(no.DeviceID), Code: no.Code, Reason: no.Reason}
	}
	return out
}

// commandExpiry reads expires_in; 0 if there is none.
func commandExpiry(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Minute || d > maxExpiry {
		return 0, invalid("expires_in", fmt.Sprintf("must be a duration such as 72h, from 1m to %dh", maxExpiry/time.Hour))
	}
	return d, nil
}

// maxExpiry is for how long a command may wait at most: as long as one without expires_in.
const maxExpiry = 90 * 24 * time.Hour

func (a *API) removeProfile(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var in struct {
		DeviceIDs []string `json:"device_ids"`
		GroupID   string   `json:"group_id"`
	}
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	targets, outside, err := a.profileTargets(r, profileOrder{DeviceIDs: in.DeviceIDs, GroupID: in.GroupID})
	if err != nil {
		return err
	}
	out, err := a.library.Remove(r.Context(), principal(r).String(), id, targets)
	if err != nil {
		return err
	}
	rejected := rejections(append(outside, out.Rejected...))
	if len(out.Command.Targets)+len(out.Unsent) == 0 {
		return &problem{
			Problem: webui.Problem{
				Status: http.StatusUnprocessableEntity, Code: "profile_rejected", Title: "No device has this profile",
				Detail: "Each device's reason is in rejected.",
			},
			Rejected: rejected,
		}
	}
	answer := struct {
		CommandUUID string      `json:"command_uuid"` // empty: no device needs it
		DeviceIDs   []string    `json:"device_ids"`
		Unsent      []string    `json:"unsent"` // had not fetched the profile, which is not sent any more
		Rejected    []rejection `json:"rejected"`
	}{"", deviceIDs(out.Command.Targets), deviceIDs(out.Unsent), rejected}
	if len(out.Command.Targets) > 0 {
		answer.CommandUUID = out.Command.UUID
		w.Header().Set("Location", "/api/v1/commands/"+out.Command.UUID)
	}
	return webui.WriteJSON(w, http.StatusAccepted, answer)
}

// installationJSON is how a profile stands on a device.
type installationJSON struct {
	DeviceID         string     `json:"device_id"`
	ProfileID        string     `json:"profile_id"`
	State            string     `json:"state"`
	StateAt          time.Time  `json:"state_at"`
	Version          int        `json:"version"`           // that was sent last
	InstalledVersion *int       `json:"installed_version"` // null: none, or one that is not of the library
	Reduced          bool       `json:"reduced"`
	CommandUUID      string     `json:"command_uuid"`
	Reason           string     `json:"reason"`
	SeenAt           *time.Time `json:"seen_at"`
}

func installation(i library.Installation) installationJSON {
	out := installationJSON{
		DeviceID: string(i.DeviceID), ProfileID: i.ProfileID, State: string(i.State), StateAt: i.At.UTC(), Version: i.Version,
		Reduced: i.Reduced, CommandUUID: i.Command, Reason: i.Reason, SeenAt: timestamp(i.SeenAt),
	}
	if i.Installed > 0 {
		out.InstalledVersion = &i.Installed
	}
	return out
}

func (a *API) listProfileDevices(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	var states []library.State
	for _, s := range r.URL.Query()["state"] {
		if !library.State(s).Valid() {
			return invalid("state", "must be one of sent, installed, failed, removing, removed, drifted")
		}
		states = append(states, library.State(s))
	}
	found, next, err := a.installations(r, id, states, cursor, limit)
	if err != nil {
		return err
	}
	ids := make([]mdm.DeviceID, len(found))
	for i, one := range found {
		ids[i] = one.DeviceID
	}
	devices, err := a.mdm.Overviews(r.Context(), ids, false)
	if err != nil {
		return err
	}
	named := make(map[mdm.DeviceID]deviceJSON, len(devices))
	for _, d := range devices {
		named[d.ID] = device(d)
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(found, next, func(i library.Installation) placeJSON {
		d := named[i.DeviceID] // none of one that was forgotten
		return placeJSON{installation(i), d.DeviceName, d.SerialNumber, d.User}
	}))
}

// installations returns a page of how a profile stands on devices that whoever asks may see. It
// may have fewer than limit, even none, and yet not be the last.
func (a *API) installations(r *http.Request, id string, states []library.State, cursor string, limit int) (list []library.Installation, next string, err error) {
	for looked := 0; ; {
		part, next, err := a.library.Installations(r.Context(), id, states, cursor, limit-len(list))
		if err != nil {
			return nil, "", err
		}
		ids := make([]mdm.DeviceID, len(part))
		for i, one := range part {
			ids[i] = one.DeviceID
		}
		in, _, err := a.inReach(r, ids)
		if err != nil {
			return nil, "", err
		}
		for _, one := range part {
			if slices.Contains(in, one.DeviceID) {
				list = append(list, one)
			}
		}
		looked += len(part) + 1
		if next == "" || looked >= maxLooked || 2*len(list) >= limit {
			return list, next, nil
		}
		cursor = next
	}
}

func (a *API) listDeviceProfiles(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	all, err := a.library.OnDevice(r.Context(), mdm.DeviceID(id))
	if err != nil {
		return err
	}
	type item struct {
		installationJSON
		Identifier string `json:"identifier"`
		Name       string `json:"name"`
		Latest     int    `json:"latest_version"`
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(all, "", func(o library.OnDevice) item {
		return item{installation(o.Installation), o.Identifier, o.Name, o.Latest}
	}))
}
