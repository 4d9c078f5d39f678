package enroll

import (
	"errors"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// ErrOwnershipOff means that the settings let nobody enrol devices of an ownership.
var ErrOwnershipOff = errors.New("devices of this ownership are not enrolled here")

// mayEnroll says whether the user with a login may enrol a device of an ownership, which is
// empty where nobody has said it yet. If not, its error wraps ErrOwnershipOff,
// ErrUserDisabled or [identity.ErrMayNotEnroll]. It is asked at every step: what is true of
// a person may end between the first page and the coming of the device. One that we don't
// know is known elsewhere, or is a name that an administrator gave a link.
func mayEnroll(tx storage.Tx, settings Settings, login string, o mdm.Ownership) error {
	var use []identity.Use
	if o != "" {
		if !settings.Way(o).Enabled {
			return ErrOwnershipOff
		}
		use = append(use, uses(o))
	}
	err := identity.MayEnroll(tx, login, use...)
	if denied, ok := errors.AsType[*identity.DeniedError](err); ok {
		switch denied.Denial {
		case identity.DeniedDisabled, identity.DeniedUser:
			return ErrUserDisabled
		}
	}
	return err
}

// mayEnroll is the function of this name for the person of an attempt.
func (a Attempt) mayEnroll(tx storage.Tx, settings Settings) error {
	if a.Account != nil {
		return mayEnrollBy(tx, a.User, a.Account.Mode)
	}
	return mayEnroll(tx, settings, a.User, a.Ownership)
}

// uses are what an account is used for by who enrols a device of some ownership.
func uses(o mdm.Ownership) identity.Use {
	if o == mdm.Personal {
		return identity.UsePersonal
	}
	return identity.UseInstitutional
}

// loginOf returns what the user with a login is called, who may have two of them; of one
// that we don't know, the login itself.
func loginOf(tx storage.Tx, login string) (string, error) {
	u, err := identity.UserByLogin(tx, login)
	if errors.Is(err, storage.ErrNotFound) {
		return login, nil
	}
	return u.Login(), err
}

// samePerson says whether two logins are somebody's, and the same person's.
func samePerson(tx storage.Tx, a, b string) (bool, error) {
	a, b = strings.TrimSpace(a), strings.TrimSpace(b)
	if a == "" || b == "" {
		return false, nil
	}
	if strings.EqualFold(a, b) {
		return true, nil
	}
	u, err := identity.UserByLogin(tx, a)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil // nor is the other one theirs
	}
	if err != nil {
		return false, err
	}
	return names(u.Logins(), b), nil
}
