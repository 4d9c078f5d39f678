package identity

import (
	"errors"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Denial is why somebody may not enrol.
type Denial string

// The denials.
const (
	DeniedDisabled Denial = "disabled" // the account is switched off
	DeniedUser     Denial = "no_right" // this user may not
	DeniedGroup    Denial = "group"    // the user is in none of the groups that may
	DeniedProvider Denial = "provider" // accounts of this provider are not for it, or the provider is off
)

// DeniedError says why somebody may not enrol. It is an ErrMayNotEnroll.
type DeniedError struct {
	Denial   Denial
	Provider string // the name of the provider whose groups or uses are the reason; may be empty
}

func (e *DeniedError) Error() string {
	switch e.Denial {
	case DeniedDisabled:
		return ErrMayNotEnroll.Error() + ": the user is disabled"
	case DeniedUser:
		return ErrMayNotEnroll.Error() + ": the user has no right to"
	case DeniedGroup:
		return ErrMayNotEnroll.Error() + ": the user is in no group of " + e.Provider + " that may"
	}
	return ErrMayNotEnroll.Error() + ": accounts of " + e.Provider + " are not for this"
}

// Unwrap makes it an ErrMayNotEnroll.
func (e *DeniedError) Unwrap() error { return ErrMayNotEnroll }

// MayEnroll says whether the user with a login may enrol in one of these ways: a
// *DeniedError if not. One whom nobody knows may: it is a name that an administrator gave
// a link. Groups are those of the last sign-in.
func MayEnroll(tx storage.Tx, login string, uses ...Use) error {
	u, err := UserByLogin(tx, login)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	p, err := providerOf(tx, u)
	if err != nil {
		return err
	}
	groups, err := groupsOf(tx, u.ID)
	if err != nil {
		return err
	}
	return p.mayEnroll(u, groups, uses)
}

func (p Provider) mayEnroll(u User, groups []string, uses []Use) error {
	switch {
	case u.Disabled:
		return &DeniedError{Denial: DeniedDisabled}
	case u.NoEnroll:
		return &DeniedError{Denial: DeniedUser}
	case !p.Enabled || len(uses) > 0 && !slices.ContainsFunc(uses, p.hasUse):
		return &DeniedError{DeniedProvider, p.Name}
	case !p.admits(groups):
		return &DeniedError{DeniedGroup, p.Name}
	}
	return nil
}

func (p Provider) hasUse(use Use) bool { return slices.Contains(p.Uses, use) }

// admits says whether one of a person's groups may enrol.
func (p Provider) admits(groups []string) bool {
	return len(p.Groups) == 0 || slices.ContainsFunc(groups, func(of string) bool {
		return slices.ContainsFunc(p.Groups, func(may string) bool { return strings.EqualFold(of, may) })
	})
}
