package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Role is what a user may do here. Its name is the scope that it gives, except
// for RoleUser, who enrols devices and administers nothing.
type Role string

// The roles.
const (
	RoleUser     Role = "user"
	RoleReadOnly Role = "read_only"
	RoleHelpdesk Role = "helpdesk"
	RoleAdmin    Role = "admin"
	RoleOwner    Role = "owner"
)

func (r Role) scopes() []Scope {
	if r == RoleUser {
		return nil
	}
	return []Scope{Scope(r)}
}

// User is a person who can log in.
type User struct {
	ID         string    `json:"id"`
	Username   string    `json:"username"` // the e-mail address unless told otherwise
	Email      string    `json:"email"`
	FullName   string    `json:"full_name,omitempty"`
	Role       Role      `json:"role"`
	Password   string    `json:"password"` // PHC string of argon2id
	PasswordAt time.Time `json:"password_at"`
	Disabled   bool      `json:"disabled,omitempty"`
	CreatedAt  time.Time `json:"created_at"`
}

const usersByLogin = "login"

// users has usernames and e-mail addresses in one index, so that no username can
// be another user's address.
var users = storage.NewCollection("identity.users", 1, func(u User) string { return u.ID },
	storage.Index[User]{Name: usersByLogin, Unique: true, Values: func(u User) []string {
		logins := []string{normalLogin(u.Username), normalLogin(u.Email)}
		slices.Sort(logins)
		return slices.Compact(logins)
	}})

// normalLogin is what a username or an e-mail address is compared by.
func normalLogin(login string) string {
	return strings.ToLower(strings.TrimSpace(login))
}

// MinPassword is the least number of characters of a password. There are no
// rules beside it.
const MinPassword = 8

// CreateOwner makes the first owner, and says whether it did: not if there is any
// user already.
func (s *Service) CreateOwner(ctx context.Context, email, password string) (created bool, err error) {
	email = strings.TrimSpace(email)
	if err := checkText("e-mail", email, 3, 255); err != nil {
		return false, fmt.Errorf("create owner: %w", err)
	}
	if err := checkPassword(password); err != nil {
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
		for _, err := range users.All(tx, storage.Range{Limit: 1}) {
			return err // there is one, or it can't be read
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
		created = true
		return users.Create(tx, owner)
	})
	if err != nil {
		return false, fmt.Errorf("create owner: %w", err)
	}
	return created, nil
}

// Login returns who logs in with a username or an e-mail address from peer, which
// names the network address that the attempt comes from.
func (s *Service) Login(ctx context.Context, login, password, peer string) (User, error) {
	attempt := loginAttempt{login: normalLogin(login), peer: peer}
	if err := s.countAttempt(ctx, attempt); err != nil {
		return User{}, fmt.Errorf("login: %w", err)
	}
	user, err := s.userByLogin(ctx, attempt.login)
	unknown := errors.Is(err, storage.ErrNotFound)
	if err != nil && !unknown {
		return User{}, fmt.Errorf("login: %w", err)
	}
	hash := user.Password
	if unknown {
		hash = decoyHash // takes as long as a real one
	}
	ok, err := s.checkHash(ctx, hash, password)
	if err != nil {
		return User{}, fmt.Errorf("login: %w", err)
	}
	if !ok || unknown || user.Disabled {
		s.log.InfoContext(ctx, "login failed", "peer", peer)
		return User{}, fmt.Errorf("login: %w", ErrBadLogin)
	}
	if err := s.forgiveAttempts(ctx, attempt); err != nil {
		return User{}, fmt.Errorf("login: %w", err)
	}
	s.log.InfoContext(ctx, "login", "user", user.ID, "peer", peer)
	return user, nil
}

func (s *Service) userByLogin(ctx context.Context, login string) (user User, err error) {
	if login == "" || len(login) > 255 {
		return User{}, storage.ErrNotFound
	}
	err = s.db.View(ctx, func(tx storage.Tx) (err error) {
		user, err = users.One(tx, usersByLogin, login)
		return err
	})
	return user, err
}

// User returns a user by ID.
func (s *Service) User(ctx context.Context, id string) (user User, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) (err error) {
		user, err = users.Get(tx, id)
		return err
	})
	if err != nil {
		return User{}, fmt.Errorf("get user: %w", err)
	}
	return user, nil
}

// Principal returns u as one who acts.
func (u User) Principal() Principal {
	return Principal{Kind: KindUser, ID: u.ID, Name: u.Email, User: u.Email, Scopes: u.Role.scopes()}
}
