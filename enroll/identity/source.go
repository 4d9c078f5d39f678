package identity

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Errors of sources, beside ErrBadLogin.
var (
	// ErrSource means that a source can't be asked now: the directory is down or slow, the
	// provider answers with failures. Nobody else is asked in its place.
	ErrSource = errors.New("the source of accounts is not available")

	// ErrSignIn means that a sign-in that came back from a provider is not one that was
	// begun here, was used already, or does not hold: its text says which, for the log.
	ErrSignIn = errors.New("the sign-in is not valid")

	// ErrDenied means that the provider says that the person may not, or did not want to,
	// sign in.
	ErrDenied = errors.New("the provider denied the sign-in")

	// ErrMayNotEnroll means that a person is known and may not enrol in this way: the
	// account is disabled, has no right to, is in none of the groups that may, or comes
	// from a source that is not for it.
	ErrMayNotEnroll = errors.New("may not enrol")
)

// Person is what a source says of who signed in to it.
type Person struct {
	// Subject is who it is at the source, for ever: an OpenID Connect sub, an LDAP
	// entryUUID or objectGUID. Names and addresses change hands, this one doesn't.
	Subject string

	// Attributes are what mappings read, by the source's own names: claims, or LDAP
	// attributes in lower case. Values are texts; a claim that is a number or a boolean
	// is as JSON writes it.
	Attributes map[string][]string

	// Groups are the names that group limits are compared with, without regard to case:
	// values of the groups claim, or both DN and name of an LDAP group.
	Groups []string

	// Email may be empty. Unverified says that the source itself does not vouch for it
	// (email_verified false): it is then never used as a name to log in with.
	Email      string
	Unverified bool
}

// First returns the first value of an attribute, empty if there is none.
func (p Person) First(attribute string) string {
	if values := p.Attributes[attribute]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// PasswordSource knows people by login and password, as an LDAP directory does. An empty
// password never gets here.
type PasswordSource interface {
	// SignIn returns who has this login and password. Its errors wrap ErrBadLogin, for
	// which known says whether there is such a person, or ErrSource.
	SignIn(ctx context.Context, login, password string) (p Person, known bool, err error)
}

// RedirectSource knows people by their browser: it sends that to a provider, as OpenID
// Connect does.
type RedirectSource interface {
	// Begin returns where the browser goes. keep is what Finish needs again, and nobody
	// else may see: nonce and PKCE verifier. Its errors wrap ErrSource.
	Begin(ctx context.Context, r Redirect) (to string, keep string, err error)

	// Finish takes what the provider sent the browser back with. state was checked
	// already. Its errors wrap ErrSignIn, ErrDenied or ErrSource.
	Finish(ctx context.Context, r Redirect, keep string, returned url.Values) (Person, error)

	// Logout returns where the browser goes to end the session at the provider, too, and
	// then comes back to a URL of ours; empty if the provider offers nothing like it.
	Logout(ctx context.Context, back string) (to string, err error)
}

// Redirect says how a browser comes back.
type Redirect struct {
	ReturnURL string // registered with the provider; the same for Begin and Finish
	State     string // random; comes back with the browser
	LoginHint string // who is probably signing in; may be empty
}

// Directory is a PasswordSource that can be asked about people without their password.
type Directory interface {
	// People yields all who may sign in, page by page; an error ends it. Attributes and
	// groups need not be filled. active is false for an account that is switched off there.
	People(ctx context.Context, yield func(p Person, active bool) error) error
}

// SourceKind is one way in which people can be known elsewhere: LDAP, OpenID Connect. Packages
// of that name below this one have them; cmd puts them in place.
type SourceKind interface {
	// Name is the kind's name in the API and in URLs: "ldap", "oidc".
	Name() string

	// Secrets are the settings that must not be shown: they are kept sealed, and given
	// back only to Open.
	Secrets() []string

	// Check says what is wrong with settings, a JSON object: a *FieldError whose field
	// is the setting. Unknown settings are refused.
	Check(settings json.RawMessage) error

	// Open returns a source by settings that Check found good: a PasswordSource or a
	// RedirectSource. It makes no connection.
	Open(settings json.RawMessage) (any, error)

	// Mapping is what is read into a user unless the operator says otherwise.
	Mapping() Mapping
}

// Mapping says which attributes of a Person make a User. An empty one is not read.
type Mapping struct {
	Username string `json:"username"`
	Email    string `json:"email"`
	FullName string `json:"full_name"`

	// ManagedAppleAccount is an attribute ("managed_apple_id"), or a template with
	// attributes in braces ("{username}@appleid.example.com"): anything with a brace or
	// an @ is a template.
	ManagedAppleAccount string `json:"managed_apple_account"`

	// ManagedAppleAccounts is a table from username or e-mail address, in lower case, to
	// the account. It comes before ManagedAppleAccount.
	ManagedAppleAccounts map[string]string `json:"managed_apple_accounts,omitempty"`
}

// Use is a way to use an account that each source is switched on or off for.
type Use string

// The uses.
const (
	UseInstitutional Use = "institutional"  // enrol the organisation's devices at the portal
	UsePersonal      Use = "personal"       // enrol a device of one's own at the portal
	UseUser          Use = "user"           // account-driven User Enrollment
	UseAccountDevice Use = "account_device" // account-driven Device Enrollment
	UseAdmin         Use = "admin"          // administer this server
)

// MayEnroll says whether the user with a login may enrol in one of these ways: an error
// that wraps ErrMayNotEnroll if not. One whom nobody knows may: it is a name that an
// administrator gave a link.
func MayEnroll(tx storage.Tx, login string, uses ...Use) error {
	u, err := UserByLogin(tx, login)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err == nil && (u.Disabled || u.NoEnroll) {
		return ErrMayNotEnroll
	}
	return err
}
