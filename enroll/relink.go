package enroll

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// LinkChange says what to change of a link. What is nil stays.
type LinkChange struct {
	Name      *string
	Uses      *int           // in all, spent ones among them
	ExpiresIn *time.Duration // from now
	ExpiresAt *time.Time
}

// UpdateLink changes a link. One that has expired or is used up may come back to life so;
// attempts that failed for that stay failed. Its errors wrap *FieldError, ErrLinkRevoked
// or storage.ErrNotFound.
func (s *Service) UpdateLink(ctx context.Context, id string, c LinkChange) (l Link, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if l, err = links.Get(tx, id); err != nil {
			return err
		}
		if !l.RevokedAt.IsZero() {
			return ErrLinkRevoked
		}
		before := l
		before.SerialNumbers = slices.Clone(l.SerialNumbers)
		if err := c.apply(&l, s.now().UTC()); err != nil {
			return err
		}
		if err := links.Put(tx, l); err != nil {
			return err
		}
		return s.tellLink(tx, "link.changed", actor(ctx), &before, l)
	})
	if err != nil {
		return Link{}, fmt.Errorf("change enrollment link %s: %w", id, err)
	}
	s.log.InfoContext(ctx, "enrollment link changed", "link", l.ID, "uses", l.Uses, "expires_at", l.ExpiresAt, "by", actor(ctx))
	return l, nil
}

func (c LinkChange) apply(l *Link, now time.Time) error {
	if c.Name != nil {
		l.Name = strings.TrimSpace(*c.Name)
		if len(l.Name) > maxNameLen {
			return &FieldError{"name", fmt.Sprintf("must be at most %d bytes", maxNameLen)}
		}
	}
	if c.Uses != nil {
		spent := l.Uses - l.UsesLeft
		switch {
		case l.Unlimited:
			return &FieldError{"uses", "can't be given for a link that is unlimited"}
		case *c.Uses < 1 || *c.Uses > MaxLinkUses:
			return &FieldError{"uses", fmt.Sprintf("must be 1 to %d", MaxLinkUses)}
		case *c.Uses < spent:
			return &FieldError{"uses", fmt.Sprintf("must be at least %d: so many are spent", spent)}
		}
		l.Uses, l.UsesLeft = *c.Uses, *c.Uses-spent
	}
	switch {
	case c.ExpiresIn != nil && c.ExpiresAt != nil:
		return &FieldError{"expires_at", "can't be given together with expires_in"}
	case c.ExpiresIn != nil:
		if *c.ExpiresIn <= 0 || *c.ExpiresIn > MaxLinkLife {
			return &FieldError{"expires_in", fmt.Sprintf("must be positive and at most %s", MaxLinkLife)}
		}
		l.ExpiresAt = now.Add(*c.ExpiresIn)
	case c.ExpiresAt != nil:
		if !c.ExpiresAt.After(now) || c.ExpiresAt.After(now.Add(MaxLinkLife)) {
			return &FieldError{"expires_at", fmt.Sprintf("must be in the future, by at most %s", MaxLinkLife)}
		}
		l.ExpiresAt = c.ExpiresAt.UTC()
	}
	return nil
}

// LinkState is what a link is good for.
type LinkState string

// The states.
const (
	LinkActive  LinkState = "active"
	LinkExpired LinkState = "expired"
	LinkUsedUp  LinkState = "used_up"
	LinkRevoked LinkState = "revoked"
)

// State says what l is good for at now.
func (l Link) State(now time.Time) LinkState {
	switch l.Usable(now) {
	case nil:
		return LinkActive
	case ErrLinkRevoked:
		return LinkRevoked
	case ErrLinkExpired:
		return LinkExpired
	}
	return LinkUsedUp
}

// LinkFilter says which links to list. What is empty filters nothing.
type LinkFilter struct {
	User  string // in any case
	State LinkState
}

func (f LinkFilter) takes(l Link, now time.Time) bool {
	return (f.User == "" || strings.EqualFold(strings.TrimSpace(f.User), l.User)) && (f.State == "" || l.State(now) == f.State)
}

// FindLinks is [Service.Links] with a filter. It reads all links, some thousands for each
// page, so that a page may have fewer than limit, or none, and yet not be the last.
func (s *Service) FindLinks(ctx context.Context, f LinkFilter, cursor string, limit int) (found []Link, next string, err error) {
	const most = 5000 // links to be read for a page
	err = s.db.View(ctx, func(tx storage.Tx) error {
		found, next = nil, cursor
		for read := 0; read < most && len(found) < limit; {
			var page []Link
			if page, next, err = storage.Page(tx, links, next, limit-len(found)); err != nil {
				return err
			}
			for _, l := range page {
				if f.takes(l, s.now()) {
					found = append(found, l)
				}
			}
			read += len(page)
			if next == "" {
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("list enrollment links: %w", err)
	}
	return found, next, nil
}

// LinkUse is a link and what became of it.
type LinkUse struct {
	Link

	// Attempt is the one by it that came furthest, the latest of several; nil if nobody has
	// opened it.
	Attempt *Attempt
}

// furthest are the stages, those first that are the most that a link can come to.
var furthest = []Stage{Enrolled, CheckedIn, IdentityIssued, ProfileDownloaded, Authenticated, Opened, AttemptFailed}

// LinkUses returns links by their IDs, in that order, and what became of them. An ID that
// is not there is left out.
func LinkUses(tx storage.Tx, ids []string) ([]LinkUse, error) {
	for _, id := range ids {
		tx.Prefetch(links.Read(id))
		for _, st := range furthest {
			tx.Prefetch(attempts.ReadLookup(attemptsByUse, useKey(id, st)))
		}
	}
	uses := make([]LinkUse, 0, len(ids))
	for _, id := range ids {
		l, err := maybe(links.Get(tx, id))
		if err != nil {
			return nil, err
		}
		if l == nil {
			continue
		}
		use := LinkUse{Link: *l}
		for _, st := range furthest {
			if use.Attempt, err = latestAt(tx, id, st); err != nil {
				return nil, err
			}
			if use.Attempt != nil {
				break
			}
		}
		uses = append(uses, use)
	}
	return uses, nil
}

// latestAt returns the attempt by a link that came to a stage last, nil if there is none.
// Of very many, which anybody can begin, it may be another one.
func latestAt(tx storage.Tx, linkID string, st Stage) (found *Attempt, err error) {
	const most = 200
	seen := 0
	for a, err := range attempts.Lookup(tx, attemptsByUse, useKey(linkID, st)) {
		if err != nil {
			return nil, err
		}
		if found == nil || a.StageAt[st].After(found.StageAt[st]) {
			found = &a
		}
		if seen++; seen == most {
			break
		}
	}
	return found, nil
}
