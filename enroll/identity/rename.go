package identity

import (
	"slices"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// renamed moves what is kept under logins that old had and u has no more, in the
// transaction in which old becomes u: whoever gets one of them next gets nothing with it.
func (s *Service) renamed(tx storage.Tx, old, u User) error {
	gone := old.Logins()
	for _, kept := range u.Logins() {
		gone = slices.DeleteFunc(gone, func(login string) bool { return login == kept })
	}
	if len(gone) == 0 {
		return nil
	}
	if err := renameTokens(tx, gone, u); err != nil {
		return err
	}
	if s.onRename == nil {
		return nil
	}
	return s.onRename(tx, gone, u)
}

// renameTokens has the tokens that act for u say who that is now. One that was made
// before there was such a user, and so is nobody's by ID, becomes u's.
func renameTokens(tx storage.Tx, gone []string, u User) error {
	var theirs []Token // first found, then changed
	for t, err := range tokens.All(tx, storage.Range{}) {
		if err != nil {
			return err
		}
		if (t.UserID == "" || t.UserID == u.ID) && slices.Contains(gone, normalLogin(t.User)) {
			theirs = append(theirs, t)
		}
	}
	for _, t := range theirs {
		t.User, t.UserID = u.Login(), u.ID
		if err := tokens.Put(tx, t); err != nil {
			return err
		}
	}
	return nil
}
