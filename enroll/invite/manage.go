package invite

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Progress is an item and what became of its link.
type Progress struct {
	Item
	*enroll.LinkUse // nil: the link is not there any more
}

// Get returns an invitation and its items, or an error that wraps storage.ErrNotFound.
func (s *Service) Get(ctx context.Context, id string) (in Invitation, list []Progress, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		in, list, err = get(tx, id)
		return err
	})
	if err != nil {
		return Invitation{}, nil, fmt.Errorf("invitation %s: %w", id, err)
	}
	return in, list, nil
}

func get(tx storage.Tx, id string) (Invitation, []Progress, error) {
	in, err := invitations.Get(tx, id)
	if err != nil {
		return Invitation{}, nil, err
	}
	all, err := itemsOf(tx, id)
	if err != nil {
		return Invitation{}, nil, err
	}
	ids := make([]string, len(all))
	for i, item := range all {
		ids[i] = item.LinkID
	}
	uses, err := enroll.LinkUses(tx, ids)
	if err != nil {
		return Invitation{}, nil, err
	}
	byID := make(map[string]*enroll.LinkUse, len(uses))
	for i := range uses {
		byID[uses[i].ID] = &uses[i]
	}
	list := make([]Progress, len(all))
	for i, item := range all {
		list[i] = Progress{Item: item, LinkUse: byID[item.LinkID]}
	}
	return in, list, nil
}

// List returns a page of invitations, the newest first; next is empty at the end.
func (s *Service) List(ctx context.Context, cursor string, limit int) (page []Invitation, next string, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		page, next, err = storage.PagePrefix(tx, invitations, nil, cursor, limit, true)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("list invitations: %w", err)
	}
	return page, next, nil
}

// Retry queues what failed once more. Its errors wrap ErrRevoked, mail.ErrNotConfigured or
// storage.ErrNotFound.
func (s *Service) Retry(ctx context.Context, id string) (in Invitation, err error) {
	n := 0
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		n = 0
		if in, err = invitations.Get(tx, id); err != nil {
			return err
		}
		if !in.RevokedAt.IsZero() {
			return ErrRevoked
		}
		if _, err := s.mailer.GetSettings(tx); err != nil {
			return err
		}
		all, err := itemsOf(tx, id)
		if err != nil {
			return err
		}
		now := s.now().UTC()
		for _, item := range all {
			if item.State != Failed {
				continue
			}
			item.Tries, item.Unsure, item.QueuedAt, item.NextAt = 0, 0, now, now
			if err := move(tx, &in, &item, Queued); err != nil {
				return err
			}
			n++
		}
		if n == 0 {
			return nil
		}
		err = event.Record(tx, event.Event{
			At: now, Actor: actor(ctx), Action: "invitation.retried",
			Details: map[string]string{"invitation": id, "addresses": strconv.Itoa(n)},
		})
		if err != nil {
			return err
		}
		return tx.Notify(topic)
	})
	if err != nil {
		return Invitation{}, fmt.Errorf("retry invitation %s: %w", id, err)
	}
	s.log.InfoContext(ctx, "invitation retried", "invitation", id, "addresses", n, "by", actor(ctx))
	return in, nil
}

// Revoke withdraws an invitation: what is queued is not sent, and no more devices enrol by
// its links. Those that did stay. It may be called again, to go on where it was cut off.
func (s *Service) Revoke(ctx context.Context, id string) error {
	var linkIDs []string
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		linkIDs = nil
		in, err := invitations.Get(tx, id)
		if err != nil {
			return err
		}
		all, err := itemsOf(tx, id)
		if err != nil {
			return err
		}
		for _, item := range all {
			linkIDs = append(linkIDs, item.LinkID)
		}
		if !in.RevokedAt.IsZero() {
			return nil
		}
		in.RevokedAt = s.now().UTC()
		if err := invitations.Put(tx, in); err != nil {
			return err
		}
		for _, item := range all {
			if item.State != Queued {
				continue
			}
			if err := move(tx, &in, &item, Cancelled); err != nil {
				return err
			}
		}
		return event.Record(tx, event.Event{
			At: in.RevokedAt, Actor: actor(ctx), Action: "invitation.revoked", Details: map[string]string{"invitation": id, "name": in.Name},
		})
	})
	for _, linkID := range linkIDs {
		if err == nil {
			err = s.endLink(ctx, linkID)
		}
	}
	if err != nil {
		return fmt.Errorf("revoke invitation %s: %w", id, err)
	}
	s.log.InfoContext(ctx, "invitation revoked", "invitation", id, "by", actor(ctx))
	return nil
}

// endLink revokes a link, also one that has expired or is used up: what was begun by it
// may still be under way, and it could come back to life.
func (s *Service) endLink(ctx context.Context, id string) error {
	l, err := s.enroll.Link(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil || !l.RevokedAt.IsZero() {
		return err
	}
	return s.enroll.RevokeLink(ctx, id)
}

// Resume lets the outbox try again at once, after the mail settings have changed.
func Resume(tx storage.Tx) error {
	if err := outboxes.Delete(tx, outboxKey); err != nil {
		return err
	}
	return tx.Notify(topic)
}

// actor is who acts, as the audit log says it.
func actor(ctx context.Context) string {
	if p, ok := identity.PrincipalFrom(ctx); ok {
		return p.String()
	}
	return ourselves
}

const ourselves = "server"
