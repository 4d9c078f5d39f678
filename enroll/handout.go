package enroll

import (
	"context"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Speaks says that whoever has l enrols in the name of a user without being asked who
// they are: what is issued to their device says that it is that user's.
func (l Link) Speaks() bool { return l.Login == LoginNone && l.User != "" }

// MayHandOut says whether by may make a link as l is, change it, or learn its code: an
// error that wraps [identity.ErrForbidden] if not. One that [Link.Speaks] for a user is
// for administrators, and for those alone who may do what that user may.
func MayHandOut(tx storage.Tx, by identity.Principal, l Link) error {
	if !l.Speaks() {
		return nil
	}
	if !by.Allows(identity.ScopeAdmin) {
		return fmt.Errorf("%w: only administrators hand out links that name a user and ask nobody to sign in", identity.ErrForbidden)
	}
	u, err := identity.UserByLogin(tx, l.User)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if u.Role != identity.RoleUser && !by.Allows(identity.Scope(u.Role)) {
		return fmt.Errorf("%w: the user of the link has the role %s, which is more than yours", identity.ErrForbidden, u.Role)
	}
	return nil
}

// MayHandOut is the function of this name, in a transaction of its own.
func (s *Service) MayHandOut(ctx context.Context, by identity.Principal, links ...Link) (err error) {
	return s.db.View(ctx, func(tx storage.Tx) error {
		for _, l := range links {
			if err := MayHandOut(tx, by, l); err != nil {
				return err
			}
		}
		return nil
	})
}
