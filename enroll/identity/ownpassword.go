package identity

import (
	"context"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// ErrElsewhere means that a user's password is not kept here: they sign in at a provider.
var ErrElsewhere = errors.New("the user has no password here")

// ChangePassword gives a user another password who shows the one that they have, and logs
// them out everywhere: whoever shows it may begin a session anew. Errors are a *FieldError,
// or wrap ErrBadLogin, ErrThrottled or ErrElsewhere.
func (s *Service) ChangePassword(ctx context.Context, userID, old, password, peer string) (u User, err error) {
	if u, err = s.User(ctx, userID); err == nil && u.Password == "" {
		err = ErrElsewhere
	}
	if err == nil {
		err = checkPassword(password, u.names()...)
	}
	if err != nil {
		return User{}, fmt.Errorf("change password: %w", err)
	}
	attempt := loginAttempt{account: userID, peer: peer, tried: triedOld}
	if err := s.countAttempt(ctx, attempt); err != nil {
		return User{}, fmt.Errorf("change password: %w", err)
	}
	shown := u.Password
	if err := s.checkPassword(ctx, shown, old); err != nil {
		if errors.Is(err, ErrBadLogin) {
			s.refused(ctx, Fact{Actor: u.Principal().String(), Action: "user.password_changed", Reason: "wrong password", User: u.Login(), Peer: peer})
		}
		return User{}, fmt.Errorf("change password: %w", err)
	}
	hash, err := s.hashPassword(ctx, password)
	if err != nil {
		return User{}, fmt.Errorf("change password: %w", err)
	}
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if u, err = users.Get(tx, userID); err != nil {
			return err
		}
		if u.Password != shown || u.Disabled {
			return because(ErrBadLogin, "the user has changed meanwhile")
		}
		u.Password = hash
		u.endSessions(s.now())
		if err := users.Put(tx, u); err != nil {
			return err
		}
		if err := s.forgiveAttempts(tx, attempt); err != nil {
			return err
		}
		return s.record(tx, userFact(u, peer, "user.password_changed"))
	})
	if err != nil {
		return User{}, fmt.Errorf("change password: %w", err)
	}
	s.log.InfoContext(ctx, "password changed", "user", userID, "peer", peer)
	return u, nil
}
