package apiv1

import (
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

type linkRequest struct {
	Name      string  `json:"name"`
	Ownership string  `json:"ownership"`
	Login     string  `json:"login"`
	User      string  `json:"user"`
	Uses      *int    `json:"uses"`
	ExpiresIn *string `json:"expires_in"`
}

type linkJSON struct {
	ID         string     `json:"id"`
	Code       string     `json:"code"`
	URL        string     `json:"url"`
	ProfileURL string     `json:"profile_url"`
	Name       string     `json:"name"`
	Ownership  string     `json:"ownership"`
	Login      string     `json:"login"`
	User       string     `json:"user"`
	Uses       int        `json:"uses"`
	UsesLeft   int        `json:"uses_left"`
	CreatedAt  time.Time  `json:"created_at"`
	CreatedBy  string     `json:"created_by"`
	ExpiresAt  time.Time  `json:"expires_at"`
	RevokedAt  *time.Time `json:"revoked_at"`
}

func (a *API) link(l enroll.Link) linkJSON {
	at := a.serverURL.JoinPath("enroll", "l", l.Code)
	return linkJSON{
		ID: l.ID, Code: l.Code, URL: at.String(), ProfileURL: at.JoinPath("profile").String(),
		Name: l.Name, Ownership: string(l.Ownership), Login: string(l.Login), User: l.User,
		Uses: l.Uses, UsesLeft: l.UsesLeft,
		CreatedAt: l.CreatedAt.UTC(), CreatedBy: l.CreatedBy, ExpiresAt: l.ExpiresAt.UTC(), RevokedAt: timestamp(l.RevokedAt),
	}
}

func (a *API) createLink(w http.ResponseWriter, r *http.Request) error {
	var in linkRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	n := enroll.NewLink{
		Name: in.Name, Ownership: mdm.Ownership(in.Ownership), Login: enroll.Login(in.Login), User: in.User,
		CreatedBy: principal(r).String(),
	}
	if in.Uses != nil {
		if *in.Uses == 0 { // which NewLink takes for its default
			return invalid("uses", "must be at least 1")
		}
		n.Uses = *in.Uses
	}
	if in.ExpiresIn != nil {
		d, err := time.ParseDuration(*in.ExpiresIn)
		if err != nil || d <= 0 {
			return invalid("expires_in", "must be a duration such as 24h")
		}
		n.ExpiresIn = d
	}
	l, err := a.enroll.CreateLink(r.Context(), n)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/enrollment-links/"+l.ID)
	return webui.WriteJSON(w, http.StatusCreated, a.link(l))
}

func (a *API) listLinks(w http.ResponseWriter, r *http.Request) error {
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	links, next, err := a.enroll.Links(r.Context(), cursor, limit)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(links, next, a.link))
}

func (a *API) getLink(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	l, err := a.enroll.Link(r.Context(), id)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, a.link(l))
}

func (a *API) revokeLink(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if err := a.enroll.RevokeLink(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
