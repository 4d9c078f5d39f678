package identity

import (
	"context"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Login returns who logs in with a username or an e-mail address from peer, which
// names the network address that the attempt comes from.
func (s *Service) Login(ctx context.Context, login, password, peer string) (User, error) {
	attempt := loginAttempt{login: normalLogin(login), peer: peer}
	if err := s.countAttempt(ctx, attempt); err != nil {
		if errors.Is(err, ErrThrottled) {
			s.refused(ctx, Fact{Action: "user.login", Reason: err.Error(), Peer: peer})
		}
		return User{}, fmt.Errorf("login: %w", err)
	}
	var user User
	err := s.db.View(ctx, func(tx storage.Tx) (err error) {
		user, err = UserByLogin(tx, attempt.login)
		return err
	})
	unknown := errors.Is(err, storage.ErrNotFound)
	if err != nil && !unknown {
		return User{}, fmt.Errorf("login: %w", err)
	}
	hash := user.Password
	if hash == "" {
		hash = decoyHash // takes as long as a real one
	}
	ok, err := s.checkHash(ctx, hash, password)
	if err != nil {
		return User{}, fmt.Errorf("login: %w", err)
	}
	reason := ""
	switch { // for the audit log: whoever tries learns none of it
	case unknown:
		reason = "there is no such user" // unnamed: people type passwords into the wrong field
	case user.Password == "":
		reason = "the user has no password"
	case !ok:
		reason = "wrong password"
	case user.Disabled:
		reason = "the user is disabled"
	}
	if reason != "" {
		s.log.InfoContext(ctx, "login failed", "peer", peer)
		s.refused(ctx, Fact{Action: "user.login", Reason: reason, User: user.Login(), Peer: peer})
		return User{}, fmt.Errorf("login: %w", ErrBadLogin)
	}
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if err := s.forgiveAttempts(tx, attempt); err != nil {
			return err
		}
		by := user.Principal()
		by.Peer = peer
		return s.record(tx, by.fact("user.login", user.Login(), nil))
	})
	if err != nil {
		return User{}, fmt.Errorf("login: %w", err)
	}
	s.log.InfoContext(ctx, "login", "user", user.ID, "peer", peer)
	return user, nil
}
