package apiv1

import (
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

type tokenRequest struct {
	Name   string   `json:"name"`
	Scopes []string `json:"scopes"`
	User   string   `json:"user"`

	GroupIDs []string `json:"group_ids"` // that the scopes are limited to; none: they are not

	ExpiresAt *string `json:"expires_at"` // nil: never
}

type tokenJSON struct {
	ID         string           `json:"id"`
	Name       string           `json:"name"`
	Scopes     []identity.Scope `json:"scopes"`
	User       string           `json:"user"`
	CreatedAt  time.Time        `json:"created_at"`
	CreatedBy  string           `json:"created_by"`
	LastUsedAt *time.Time       `json:"last_used_at"` // to about a minute

	GroupIDs []string `json:"group_ids"` // that the scopes are limited to; empty: they are not

	ExpiresAt *time.Time `json:"expires_at"` // null: never
}

func token(t identity.Token) tokenJSON {
	return tokenJSON{
		ID: t.ID, Name: t.Name, Scopes: t.Scopes, User: t.User,
		CreatedAt: t.CreatedAt.UTC(), CreatedBy: t.CreatedBy, LastUsedAt: timestamp(t.LastUsed),
		GroupIDs: orEmpty(t.GroupIDs), ExpiresAt: timestamp(t.ExpiresAt),
	}
}

func (a *API) createToken(w http.ResponseWriter, r *http.Request) error {
	var in tokenRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	if err := a.knownGroups(r, in.GroupIDs); err != nil {
		return err
	}
	n := identity.NewToken{Name: in.Name, User: in.User, GroupIDs: in.GroupIDs}
	for _, scope := range in.Scopes {
		n.Scopes = append(n.Scopes, identity.Scope(scope))
	}
	if in.ExpiresAt != nil {
		at, err := time.Parse(time.RFC3339, *in.ExpiresAt)
		if err != nil {
			return invalid("expires_at", "must be a time such as 2026-12-31T12:00:00Z")
		}
		if at.IsZero() { // as some clients write a time that they don't have: it is no word for never
			return invalid("expires_at", "must be in the future")
		}
		n.ExpiresAt = at
	}
	t, secret, err := a.identity.CreateToken(r.Context(), principal(r), n)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusCreated, struct {
		tokenJSON
		Token string `json:"token"` // here and never again
	}{token(t), secret.Reveal()})
}

func (a *API) listTokens(w http.ResponseWriter, r *http.Request) error {
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	tokens, next, err := a.identity.Tokens(r.Context(), cursor, limit)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(tokens, next, token))
}

func (a *API) getToken(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	t, err := a.identity.Token(r.Context(), id)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, token(t))
}

func (a *API) revokeToken(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if err := a.identity.RevokeToken(r.Context(), principal(r), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
