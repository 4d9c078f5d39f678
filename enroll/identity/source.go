package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"
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

	// ErrMayNotEnroll means that a person is known and may not enrol in this way: a
	// *DeniedError says why.
	ErrMayNotEnroll = errors.New("may not enroll")

	// ErrDisabled means that the login was right, and the account is switched off here. It
	// is an ErrBadLogin for whoever has nothing better to say.
	ErrDisabled = fmt.Errorf("%w: the user is disabled", ErrBadLogin)

	// ErrLocked means that the source knows the person and has locked the account, for a
	// while or for good. It is an ErrBadLogin.
	ErrLocked = fmt.Errorf("%w: the account is locked at its source", ErrBadLogin)

	// ErrPasswordExpired means that the password was right, and the source asks for
	// another one first. It is an ErrBadLogin.
	ErrPasswordExpired = fmt.Errorf("%w: the password has expired at its source", ErrBadLogin)

	// ErrUnusable means that the source knows the person, and that what it says of them
	// makes no user here: there is no name to log in with, or it is another user's. Then it
	// is an ErrTaken, too. The text says which, for the log.
	ErrUnusable = errors.New("the account can't be used here")
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
	// (email_verified false): then no attribute that has it is read, and no address is a
	// name to log in with.
	Email      string
	Unverified bool

	// AuthenticatedAt is when they last proved to the source who they are; zero: it does
	// not say. A provider may let people in whom it remembers.
	AuthenticatedAt time.Time
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
	// which known says whether there is such a person (or several, of whom it can't be
	// told who is meant), or ErrSource. ctx has a deadline.
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

	// SelectAccount has the provider ask who it is, even if it remembers somebody. It
	// counts for Begin only.
	SelectAccount bool
}

// Directory is a PasswordSource that can be asked about people without their password.
type Directory interface {
	// People yields all who may sign in, page by page; an error ends it. Attributes and
	// groups need not be filled. active is false for an account that is switched off there.
	People(ctx context.Context, yield func(p Person, active bool) error) error
}

// Diagnostician is a source that can say how far a sign-in with a password comes. Steps
// that were not reached are left out.
type Diagnostician interface {
	Diagnose(ctx context.Context, login, password string) []Step
}

// Destined is a SourceKind that names the settings which say where its secrets are sent:
// where one of them changes, the secrets must be given again, so that nobody can have
// them sent to a server of theirs.
type Destined interface {
	Destinations() []string
}

// Distinct is a SourceKind that names the settings which say whose subjects they are: with
// another issuer, or another attribute, the same subject may be somebody else. They stay as
// they are once people are known by them.
type Distinct interface {
	Namespace() []string
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
	// RedirectSource. It makes no connection. It is called again when the settings have
	// changed; the source before, if it is an io.Closer, is closed then, perhaps while it
	// is in use.
	Open(settings json.RawMessage) (any, error)

	// Mapping is what is read into a user unless the operator says otherwise.
	Mapping() Mapping
}

// Mapping says what of a Person makes a User. Each is the name of an attribute
// ("managed_apple_id"), or a template with attributes in braces, which is anything with a
// brace or an @ ("{given_name} {family_name}"). {username}, {email} and {full_name} stand
// for what was mapped before them; {email:local} is what an attribute has before its @. An
// attribute without a value makes all of a template empty. What is empty is not read.
type Mapping struct {
	Username string `json:"username"`
	Email    string `json:"email"`
	FullName string `json:"full_name"`

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
