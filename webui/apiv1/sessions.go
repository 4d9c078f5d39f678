package apiv1

import (
	"context"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// Sessions are those of browsers. *webui.Sessions are.
type Sessions interface {
	// OfUser returns the sessions of a user, by the user's ID, the one used last first.
	OfUser(ctx context.Context, user string) ([]webui.SessionInfo, error)
	// EndOf ends a session of a user, both by their IDs, if by may.
	EndOf(ctx context.Context, by identity.Principal, user, id string) error
}

type sessionJSON struct {
	ID           string     `json:"id"`
	BegunAt      *time.Time `json:"begun_at"`     // null: not known
	LastSeenAt   time.Time  `json:"last_seen_at"` // to a minute or so
	EndsAt       time.Time  `json:"ends_at"`      // if nobody uses it
	Address      string     `json:"address"`
	Browser      string     `json:"browser"` // in words
	SecondFactor bool       `json:"second_factor"`
	Current      bool       `json:"current"` // the caller's own
}

func (a *API) writeSessions(w http.ResponseWriter, r *http.Request, user string) error {
	list, err := a.sessions.OfUser(r.Context(), user)
	if err != nil {
		return err
	}
	current := principal(r).Session
	return webui.WriteJSON(w, http.StatusOK, newPage(list, "", func(s webui.SessionInfo) sessionJSON {
		return sessionJSON{
			ID: s.ID, BegunAt: timestamp(s.BegunAt), LastSeenAt: s.SeenAt.UTC(), EndsAt: s.EndsAt.UTC(),
			Address: s.Address, Browser: s.Browser, SecondFactor: s.SecondFactor, Current: current != "" && s.ID == current,
		}
	}))
}

// listOwnSessions answers with the sessions of the user who asks: a token has none.
func (a *API) listOwnSessions(w http.ResponseWriter, r *http.Request) error {
	by := principal(r)
	if by.Kind != identity.KindUser {
		return webui.WriteJSON(w, http.StatusOK, page[sessionJSON]{Items: []sessionJSON{}})
	}
	return a.writeSessions(w, r, by.ID)
}

func (a *API) endOwnSession(w http.ResponseWriter, r *http.Request) error {
	by := principal(r)
	if by.Kind != identity.KindUser {
		return storage.ErrNotFound
	}
	return a.endSession(w, r, by.ID)
}

func (a *API) listSessions(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	return a.writeSessions(w, r, id)
}

func (a *API) endSessionOf(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	return a.endSession(w, r, id)
}

// endSession says whether it was the one that the caller has come by.
func (a *API) endSession(w http.ResponseWriter, r *http.Request, user string) error {
	id, err := pathID(r, "session")
	if err != nil {
		return err
	}
	by := principal(r)
	if err := a.sessions.EndOf(r.Context(), by, user, id); err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, map[string]bool{"current": by.Session == id})
}
