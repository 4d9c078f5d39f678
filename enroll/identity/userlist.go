package identity

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
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
const maxLooked = 200_000

// maxFound bounds what [User.found] says of a user, so that it fits a key: of a longer one it
// says the beginning.
const maxFound = storage.MaxKey - 100

// found is what u is found by in lists, without reading u: where u stands in them, a zero byte,
// the role, whether u is disabled and whether there is more, a line each, and then the names, in
// lower case.
func (u User) found() string {
	names := []string{u.Username, u.Email, u.FullName, u.ManagedAppleAccount}
	for i, name := range names {
		if names[i] = strings.ToLower(name); slices.Contains(names[:i], names[i]) {
			names[i] = ""
		}
	}
	text, more := strings.Join(names, "\n"), ""
	head := u.listedAs() + "\x00" + string(u.Role) + "\n" + strconv.FormatBool(u.Disabled) + "\n"
	if most := maxFound - len(head); len(text) > most {
		text, more = strings.ToValidUTF8(text[:max(most, 0)], ""), "more"
	}
	return head + more + "\n" + strings.ReplaceAll(text, "\x00", "")
}

// mayMatch says whether the user whose found is given can be one that is wanted; sure is false
// if that takes a look at the user.
func (f UserFilter) mayMatch(found string, words []string) (yes, sure bool) {
	_, facts, _ := strings.Cut(found, "\x00")
	role, facts, _ := strings.Cut(facts, "\n")
	disabled, facts, _ := strings.Cut(facts, "\n")
	more, text, _ := strings.Cut(facts, "\n")
	if f.Role != "" && Role(role) != f.Role || f.Disabled != nil && disabled != strconv.FormatBool(*f.Disabled) {
		return false, true
	}
	if more != "" {
		return true, false
	}
	return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) }), true
}

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
	words := f.words()
	err = s.db.View(ctx, func(tx storage.Tx) error {
		list, next = nil, ""
		from, looked := "", 0
		if begin != "" {
			from = begin + "\x00\xff" // sorts after all that begins with this login
		}
		last := begin
		var ids []string // of those that are wanted, as far as can be told without them
		for e, err := range users.Values(tx, usersByFound, from) {
			if err != nil {
				return err
			}
			if len(ids) == limit || looked == maxLooked {
				next = loginCursor(last)
				break
			}
			looked++
			last, _, _ = strings.Cut(e.Value, "\x00")
			yes, sure := f.mayMatch(e.Value, words)
			if yes && !sure {
				u, err := users.Get(tx, e.Key)
				if err != nil {
					return err
				}
				yes = f.matches(u, words)
			}
			if yes {
				ids = append(ids, e.Key)
			}
		}
		for _, id := range ids {
			tx.Prefetch(users.Read(id))
		}
		for _, id := range ids {
			u, err := users.Get(tx, id)
			if err != nil {
				return err
			}
			list = append(list, u)
		}
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("list users: %w", err)
	}
	return list, next, nil
}

// formerIndex is where users stood by their names alone.
const formerIndex = "identity.users.name"

// IndexUsers writes the index by which users are listed and searched, for databases from before
// there was one.
func IndexUsers(tx storage.Tx) error {
	var old [][]byte
	for item, err := range tx.Scan(formerIndex, storage.Range{}) {
		if err != nil {
			return err
		}
		old = append(old, item.Key)
	}
	for _, key := range old {
		if err := tx.Delete(formerIndex, key); err != nil {
			return err
		}
	}
	return storage.Reindex(tx, users, usersByFound)
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
	if err != nil || !ok || login == "" || len(login) > storage.MaxKey { // in lower case some are longer
		return "", storage.ErrBadCursor
	}
	return login, nil
}
