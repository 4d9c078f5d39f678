package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// CreateOwner makes the first owner, and says whether it did: not if there is any
// user already.
func (s *Service) CreateOwner(ctx context.Context, email, password string) (created bool, err error) {
	email = strings.TrimSpace(email)
	if err := checkText("e-mail", email, 3, maxLogin); err != nil {
		return false, fmt.Errorf("create owner: %w", err)
	}
	var there bool // then this is nobody's password, and need not be fit for one
	err = s.db.View(ctx, func(tx storage.Tx) error {
		there, err = anybody(tx)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("create owner: %w", err)
	}
	if there {
		return false, nil
	}
	if err := checkPassword(password, email); err != nil {
		return false, fmt.Errorf("create owner: %w", err)
	}
	hash, err := s.hashPassword(ctx, password)
	if err != nil {
		return false, fmt.Errorf("create owner: %w", err)
	}
	now := s.now().UTC()
	owner := User{
		ID: newID(), Username: email, Email: email, Role: RoleOwner,
		Password: hash, PasswordAt: now, CreatedAt: now,
	}
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		created = false
		if there, err := anybody(tx); err != nil || there {
			return err
		}
		state, err := getSetup(tx)
		if err != nil {
			return err
		}
		if state.DoneAt.IsZero() {
			state.DoneAt = now
		}
		if err := setups.Put(tx, state); err != nil {
			return err
		}
		if err := putUser(tx, User{}, owner); err != nil {
			return err
		}
		created = true
		return s.record(tx, Local().fact("user.created", owner.Login(), map[string]string{"role": string(RoleOwner)}))
	})
	if err != nil {
		return false, fmt.Errorf("create owner: %w", err)
	}
	return created, nil
}

// anybody says whether there is a user.
func anybody(tx storage.Tx) (bool, error) {
	for _, err := range users.All(tx, storage.Range{Limit: 1}) {
		return err == nil, err
	}
	return false, nil
}

// owners is the one record of which owners can log in. All who make or unmake one meet in
// it, so that two who disable each other at once don't leave the server without any.
type owners struct {
	IDs []string `json:"ids"`
}

const ownersKey = "owners"

var ownerSets = storage.NewCollection("identity.owners", 1, func(owners) string { return ownersKey })

// governs reports whether u is an owner who can log in.
func (u User) governs() bool {
	return u.Role == RoleOwner && !u.Disabled && u.Password != "" && len(u.GroupIDs) == 0
}

// countOwners keeps the record of owners when old becomes u, or returns ErrLastOwner.
func countOwners(tx storage.Tx, old, u User) error {
	if old.governs() == u.governs() {
		return nil
	}
	set, err := ownerSets.Get(tx, ownersKey)
	if errors.Is(err, storage.ErrNotFound) {
		set, err = findOwners(tx)
	}
	if err != nil {
		return err
	}
	set.IDs = slices.DeleteFunc(set.IDs, func(id string) bool { return id == u.ID })
	if u.governs() {
		set.IDs = append(set.IDs, u.ID)
	}
	if len(set.IDs) == 0 {
		return ErrLastOwner
	}
	return ownerSets.Put(tx, set)
}

// findOwners is the record of a database that has none yet: versions before this one
// kept none.
func findOwners(tx storage.Tx) (set owners, err error) {
	for u, err := range users.All(tx, storage.Range{}) {
		if err != nil {
			return owners{}, err
		}
		if u.governs() {
			set.IDs = append(set.IDs, u.ID)
		}
	}
	return set, nil
}

// Owners counts the owners who can log in.
func (s *Service) Owners(ctx context.Context) (n int, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		set, err := ownerSets.Get(tx, ownersKey)
		if errors.Is(err, storage.ErrNotFound) {
			set, err = findOwners(tx)
		}
		n = len(set.IDs)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count owners: %w", err)
	}
	return n, nil
}
