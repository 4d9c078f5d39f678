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

// maxLooked is how many users are looked at for one page of those that are wanted.
const maxLooked = 20_000

// readAtOnce is how many users are asked for together where not all are wanted.
const readAtOnce = 500

// FindUsers lists the users that are wanted, in the order of [User.Login], in any case, from
// where the page ended that handed out cursor; "" is the beginning. A page is full unless it
// is the last, or very many users were looked at of whom few are wanted. Who comes or goes
// between two pages shifts nothing. The error wraps storage.ErrBadCursor when cursor is not of
// this list.
func (s *Service) FindUsers(ctx context.Context, f UserFilter, cursor string, limit int) (list []User, next string, err error) {
	begin, err := afterLogin(cursor)
	if err != nil {
		return nil, "", fmt.Errorf("list users: %w", err)
	}
	words, some := f.words(), limit+1
	if f != (UserFilter{}) {
		some = max(some, readAtOnce)
	}
	err = s.db.View(ctx, func(tx storage.Tx) error {
		list, next = nil, ""
		after, looked := begin, 0
		for {
			read, from := 0, after
			if from != "" {
				from += "\x00" // no login has one: this is the next that there could be
			}
			for u, err := range users.Ascend(tx, usersByName, from, "", some) {
				if err != nil {
					return err
				}
				if len(list) == limit || looked == maxLooked {
					next = loginCursor(after)
					return nil
				}
				read, looked, after = read+1, looked+1, u.listedAs()
				if f.matches(u, words) {
					list = append(list, u)
				}
			}
			if read < some {
				return nil
			}
		}
	})
	if err != nil {
		return nil, "", fmt.Errorf("list users: %w", err)
	}
	return list, next, nil
}

// IndexNames writes the index of lists of users, for databases from before there was one.
func IndexNames(tx storage.Tx) error { return storage.Reindex(tx, users, usersByName) }

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
