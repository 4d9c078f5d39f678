package webui

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// login is who is signed in to a session, and from where.
type login struct {
	ID           string    `json:"id"`   // what the session is called where it is listed: the cookie can't be told from it
	User         string    `json:"user"` // ID
	BegunAt      time.Time `json:"begun_at,omitzero"`
	SeenAt       time.Time `json:"seen_at,omitzero"` // to a minute or so
	Address      string    `json:"address,omitempty"`
	Browser      string    `json:"browser,omitempty"`
	SecondFactor bool      `json:"second_factor,omitempty"`
}

// unknown is the login of a session that an older program began, as far as it can be known
// from the request that has it: zero where nobody is signed in.
func (s session) unknown(from *seen, now time.Time) login {
	stored, err := s.values()
	if err != nil || stored[sessionKind] != string(identity.KindUser) {
		return login{}
	}
	user, _ := stored[sessionUser].(string)
	return login{ID: newSessionID(), User: user, SeenAt: now, Address: from.address, Browser: from.browser}
}

func (s session) values() (map[string]any, error) {
	var stored sessionData
	err := json.Unmarshal(s.Data, &stored)
	return stored.Values, err
}

// SessionInfo is a session as it is listed.
type SessionInfo struct {
	ID           string    // opaque, and nothing to sign in with
	BegunAt      time.Time // zero: an older program began it, and did not say
	SeenAt       time.Time // to a minute or so
	EndsAt       time.Time // if nobody uses it any more
	Address      string    // that it was begun from; may be empty
	Browser      string    // in words: "Safari on iPhone"; may be empty
	SecondFactor bool      // a code was asked for
}

// mostListed bounds the sessions of one user that are listed.
const mostListed = 200

// OfUser returns the sessions that a user has, by their ID, the one used last first. It
// lists 200 at most.
func (s *Sessions) OfUser(ctx context.Context, user string) (list []SessionInfo, err error) {
	err = s.store.db.View(ctx, func(tx storage.Tx) error {
		list = nil
		u, err := identity.GetUser(tx, user)
		if err != nil {
			return err
		}
		for record, err := range sessions.Lookup(tx, sessionsByUser, user) {
			if err != nil {
				return err
			}
			if !record.lasts(u, s.now()) {
				continue
			}
			of := record.Login
			list = append(list, SessionInfo{
				ID: of.ID, BegunAt: of.BegunAt, SeenAt: of.SeenAt, EndsAt: record.ExpiresAt, Address: of.Address, Browser: of.Browser, SecondFactor: of.SecondFactor,
			})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	slices.SortFunc(list, func(a, b SessionInfo) int { return b.SeenAt.Compare(a.SeenAt) })
	return list[:min(len(list), mostListed)], nil
}

// lasts reports whether who has the session is still u: its time is not over, and nothing
// has happened that ends all sessions of u.
func (s session) lasts(u identity.User, now time.Time) bool {
	stored, err := s.values()
	return err == nil && now.Before(s.ExpiresAt) && stored[sessionPasswordAt] == u.Stamp()
}

// EndOf ends a session of a user, both by their IDs. by must be that user, or may manage
// them: the error is identity's then. One that is not theirs, or not there any more, is
// [storage.ErrNotFound].
func (s *Sessions) EndOf(ctx context.Context, by identity.Principal, user, id string) error {
	err := s.store.db.Update(ctx, func(tx storage.Tx) error {
		u, err := identity.GetUser(tx, user)
		if err == nil && (by.Kind != identity.KindUser || by.ID != user) {
			err = identity.MayManage(by, u)
		}
		if err != nil {
			return err
		}
		record, err := sessions.One(tx, sessionsByID, id)
		if err != nil {
			return err
		}
		if record.Login.User != user || !record.lasts(u, s.now()) {
			return storage.ErrNotFound
		}
		if err := sessions.Delete(tx, record.Token); err != nil {
			return err
		}
		return event.Record(tx, event.Event{
			At: s.now().UTC(), Actor: by.String(), Action: "session.ended", User: u.Login(), Peer: by.Peer,
			Details: map[string]string{"session": id, "address": record.Login.Address, "browser": record.Login.Browser},
		})
	})
	if err != nil {
		return fmt.Errorf("end session: %w", err)
	}
	s.log.InfoContext(ctx, "session ended", "user", user, "by", by.String())
	return nil
}
