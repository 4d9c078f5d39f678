package identity

import (
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// UserByAppleAccount returns the user whose Managed Apple Account this is, in any case,
// also one who is disabled, or an error that wraps storage.ErrNotFound.
func UserByAppleAccount(tx storage.Tx, account string) (User, error) {
	account = normalLogin(account)
	if account == "" || len(account) > maxLogin {
		return User{}, fmt.Errorf("user by Managed Apple Account: %w", storage.ErrNotFound)
	}
	return users.One(tx, usersByAppleAccount, account)
}
