package identity

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Users lists all users in the order of [User.Login], in any case: see [Service.FindUsers].
func (s *Service) Users(ctx context.Context, cursor string, limit int) (list []User, next string, err error) {
	return s.FindUsers(ctx, UserFilter{}, cursor, limit)
}

// UserFilter says which users are wanted: those that meet all of it. The zero UserFilter is
// all users.
type UserFilter struct {
	Text     string // words, in any case, each of which is in a name or an address
	Role     Role
	Disabled *bool
}

func (f UserFilter) words() []string { return strings.Fields(strings.ToLower(f.Text)) }

func (f UserFilter) matches(u User, words []string) bool {
	if f.Role != "" && u.Role != f.Role || f.Disabled != nil && u.Disabled != *f.Disabled {
		return false
	}
	all := strings.ToLower(strings.Join([]string{u.Username, u.Email, u.FullName, u.ManagedAppleAccount}, "\n"))
	return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(all, word) })
}

// maxLooked is how many logins are looked at for one page of users.
const maxLooked = 5000

// FindUsers lists the users that are wanted, in the order of [User.Login], in any case, from
// where the page ended that handed out cursor; "" is the beginning. Where few are wanted of
// many, or thousands of usernames stand between two addresses, a page comes out short, or even
// empty, before the end. Who comes or goes between two pages shifts nothing. The error wraps
// storage.ErrBadCursor when cursor is not of this list.
func (s *Service) FindUsers(ctx context.Context, f UserFilter, cursor string, limit int) (list []User, next string, err error) {
	after, err := afterLogin(cursor)
	if err != nil {
		return nil, "", fmt.Errorf("list users: %w", err)
	}
	words, some := f.words(), limit+1
	if f != (UserFilter{}) {
		some = max(some, 500)
	}
	err = s.db.View(ctx, func(tx storage.Tx) error {
		list, next = nil, ""
		looked, last := 0, after
		return walkLogins(tx, after, some, func(login string, u User) (more bool) {
			called := login == normalLogin(u.Login()) // else it is their other name
			if called && len(list) == limit || looked == maxLooked {
				next = loginCursor(last)
				return false
			}
			looked, last = looked+1, login
			if called && f.matches(u, words) {
				list = append(list, u)
			}
			return true
		})
	})
	if err != nil {
		return nil, "", fmt.Errorf("list users: %w", err)
	}
	return list, next, nil
}

// walkLogins calls fn for each login behind after, in order, with whose it is, until it returns
// false. It expects to be stopped after some. A user with a username beside their address comes
// by either.
func walkLogins(tx storage.Tx, after string, some int, fn func(login string, u User) (more bool)) error {
	for {
		read, from := 0, after
		if from != "" {
			from += "\x00" // no login has one: this is the next that there could be
		}
		for u, err := range users.Ascend(tx, usersByLogin, from, "", some) {
			if err != nil {
				return err
			}
			read++
			login := "" // by which u stands here: the first of theirs that has not passed
			for _, l := range u.Logins() {
				if l > after && (login == "" || l < login) {
					login = l
				}
			}
			if login == "" {
				return fmt.Errorf("login of user %s: %w", u.ID, storage.ErrCorrupt)
			}
			after = login
			if !fn(login, u) {
				return nil
			}
		}
		if read < some {
			return nil
		}
	}
}

// loginCursorKind begins the cursors of lists of users.
const loginCursorKind = "l"

func loginCursor(last string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(loginCursorKind + last))
}

// afterLogin returns whom a cursor is behind; empty: nobody.
func afterLogin(cursor string) (login string, err error) {
	if cursor == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	login, ok := strings.CutPrefix(string(b), loginCursorKind)
	if err != nil || !ok || login == "" || len(login) > maxLogin {
		return "", storage.ErrBadCursor
	}
	return login, nil
}
