package apiv1

import (
	"cmp"
	"fmt"
	"mime"
	"net/http"
	"strconv"

	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

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
