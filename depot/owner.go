package depot

import (
	"iter"
	"slices"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// RenameUser has certificates that are in the name of a user say the login that the user
// goes by now. Of which, it changes those that name one of the logins gone, in any case;
// the others are somebody else's.
func (d *Depot) RenameUser(tx storage.Tx, which iter.Seq2[Certificate, error], gone []string, login string) error {
	keys := make([]string, len(gone))
	for i, g := range gone {
		keys[i] = userKey(g)
	}
	var theirs []Certificate // first found, then changed
	for c, err := range which {
		if err != nil {
			return err
		}
		if slices.Contains(keys, userKey(c.User)) {
			theirs = append(theirs, c)
		}
	}
	for _, c := range theirs {
		c.User = login
		if err := certificates.Put(tx, c); err != nil {
			return err
		}
	}
	return nil
}
