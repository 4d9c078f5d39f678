package identity

import (
	"context"
	"errors"
	"fmt"
	"net/mail"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

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

var roles = [...]Role{RoleUser, RoleReadOnly, RoleHelpdesk, RoleAdmin, RoleOwner}

func (r Role) scopes() []Scope {
	if r == RoleUser {
		return nil
	}
	return []Scope{Scope(r)}
}

// User is a person, who may log in and whose devices these are.
type User struct {
	ID                  string    `json:"id"`
	Username            string    `json:"username"`        // the e-mail address unless told otherwise
	Email               string    `json:"email,omitempty"` // empty only where there is a username
	FullName            string    `json:"full_name,omitempty"`
	ManagedAppleAccount string    `json:"managed_apple_account,omitempty"`
	NoEnroll            bool      `json:"no_enroll,omitempty"` // may not enrol devices
	Role                Role      `json:"role"`
	Password            string    `json:"password,omitempty"` // PHC string of argon2id; empty: can't log in with a password
	PasswordAt          time.Time `json:"password_at"`        // sessions that began with another one are over: see endSessions
	Disabled            bool      `json:"disabled,omitempty"`
	CreatedAt           time.Time `json:"created_at"`

	// Provider is the ID of the provider that the user signs in at, and that says what
	// they are called; empty: they are this server's. Subject is who they are there, empty
	// before they have signed in.
	Provider string `json:"provider,omitempty"`
	Subject  string `json:"subject,omitempty"`

	AppleAccountSet bool      `json:"apple_account_set,omitempty"` // by an administrator, whatever the provider says
	SecondFactorAt  time.Time `json:"second_factor_at,omitzero"`   // since when codes are asked for; zero: never

	// GroupIDs are the groups of devices that the role is limited to; none: it is not
	// limited. A group that is not there any more stays among them: see [Principal.Groups].
	GroupIDs []string `json:"group_ids,omitempty"`
}

// equal reports whether u is as o is.
func (u User) equal(o User) bool {
	groups := slices.Equal(u.GroupIDs, o.GroupIDs)
	u.GroupIDs, o.GroupIDs = nil, nil
	return groups && reflect.DeepEqual(u, o)
}

const (
	usersByLogin        = "login"
	usersByFound        = "found" // in lists
	usersByAppleAccount = "apple_account"
	usersBySubject      = "subject"
	usersByProvider     = "provider"
	usersByGroup        = "group"
)

// subjectKey is who somebody is, at a provider.
func subjectKey(provider, subject string) string { return string(storage.Key(provider, subject)) }

// users has usernames and e-mail addresses in one index, so that no username can
// be another user's address.
var users = storage.NewCollection("identity.users", 1, func(u User) string { return u.ID },
	storage.Index[User]{Name: usersByLogin, Unique: true, Values: User.Logins},
	storage.Index[User]{Name: usersByFound, Values: func(u User) []string { return []string{u.found()} }},
	storage.Index[User]{Name: usersByAppleAccount, Unique: true, Values: func(u User) []string {
		if u.ManagedAppleAccount == "" {
			return nil
		}
		return []string{normalLogin(u.ManagedAppleAccount)}
	}},
	storage.Index[User]{Name: usersBySubject, Unique: true, Values: func(u User) []string {
		if u.Subject == "" {
			return nil
		}
		return []string{subjectKey(u.Provider, u.Subject)}
	}},
	storage.Index[User]{Name: usersByProvider, Values: func(u User) []string {
		if u.Provider == "" {
			return nil
		}
		return []string{u.Provider}
	}},
	storage.Index[User]{Name: usersByGroup, Values: func(u User) []string { return u.GroupIDs }})

// normalLogin is what a username or an e-mail address is compared by.
func normalLogin(login string) string {
	return strings.ToLower(strings.TrimSpace(login))
}

// Logins returns what u can log in with, username and e-mail address, in lower case and
// in no meaningful order.
func (u User) Logins() []string {
	logins := []string{normalLogin(u.Username)}
	if email := normalLogin(u.Email); email != "" && email != logins[0] {
		logins = append(logins, email)
	}
	return logins
}

// names are what u is called.
func (u User) names() []string { return []string{u.Email, u.Username, u.FullName} }

// listedAs is where u stands in lists: one of their logins.
func (u User) listedAs() string { return normalLogin(u.Login()) }

// Login is what u is called where one name must do: the e-mail address, else the username.
func (u User) Login() string {
	if u.Email != "" {
		return u.Email
	}
	return u.Username
}

// UPN is u's user principal name: the username if it is like an address, else the e-mail
// address, which may be empty.
func (u User) UPN() string {
	if strings.Contains(u.Username, "@") {
		return u.Username
	}
	return u.Email
}

// endSessions ends what u, or somebody else in their name, has begun by now: sessions, and
// sign-ins that wait for a code. It is always another time than before, whatever the clock
// says.
func (u *User) endSessions(now time.Time) {
	if now = now.UTC(); !now.After(u.PasswordAt) {
		now = u.PasswordAt.Add(time.Nanosecond)
	}
	u.PasswordAt = now
}

// Stamp is what a session keeps of the user whose it is: one with another stamp is over.
func (u User) Stamp() string { return u.PasswordAt.UTC().Format(time.RFC3339Nano) }

// Principal returns u as one who acts.
func (u User) Principal() Principal {
	return Principal{Kind: KindUser, ID: u.ID, Name: u.Login(), User: u.Login(), Scopes: u.Role.scopes(), Groups: limitedTo(u.GroupIDs)}
}

// GetUser returns the user with an ID, also one who is disabled, or an error that wraps
// storage.ErrNotFound.
func GetUser(tx storage.Tx, id string) (User, error) { return users.Get(tx, id) }

// UserByLogin returns the user with this username or e-mail address, in any case, also
// one who is disabled, or an error that wraps storage.ErrNotFound.
func UserByLogin(tx storage.Tx, login string) (User, error) {
	login = normalLogin(login)
	if login == "" || len(login) > maxLogin {
		return User{}, fmt.Errorf("user by login: %w", storage.ErrNotFound)
	}
	return users.One(tx, usersByLogin, login)
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

// NewUser says what a user shall be. Username is Email, and Role is RoleUser, unless it
// says otherwise.
type NewUser struct {
	Username            string
	Email               string
	FullName            string
	Password            string // empty: who never logs in with one
	ManagedAppleAccount string
	NoEnroll            bool
	Role                Role
	Provider            string // ID of the provider that they will sign in at; empty or LocalProvider: here

	GroupIDs []string // of devices, that the role is limited to; none: it is not
}

// CreateUser makes a user. by must be an administrator, and an owner to make owners and
// administrators. A login that another user has is ErrTaken.
func (s *Service) CreateUser(ctx context.Context, by Principal, n NewUser) (User, error) {
	now := s.now().UTC()
	u := User{
		ID: newID(), Username: strings.TrimSpace(n.Username), Email: strings.TrimSpace(n.Email), FullName: n.FullName,
		ManagedAppleAccount: strings.TrimSpace(n.ManagedAppleAccount), NoEnroll: n.NoEnroll, Role: n.Role, CreatedAt: now,
		GroupIDs: normalGroups(n.GroupIDs),
	}
	if n.Provider != LocalProvider {
		u.Provider = n.Provider
		u.AppleAccountSet = u.Provider != "" && u.ManagedAppleAccount != ""
	}
	if u.Username == "" {
		u.Username = u.Email
	}
	if u.Role == "" {
		u.Role = RoleUser
	}
	err := u.check()
	if err == nil && n.Password != "" {
		err = checkPassword(n.Password, u.names()...)
	}
	if err == nil && n.Password != "" && u.Provider != "" {
		err = &FieldError{"password", "is for users of this server: the provider knows its own"}
	}
	if err == nil {
		err = mayManage(by, u.Role)
	}
	if err != nil {
		return User{}, fmt.Errorf("create user: %w", err)
	}
	if n.Password != "" {
		if u.Password, err = s.hashPassword(ctx, n.Password); err != nil {
			return User{}, fmt.Errorf("create user: %w", err)
		}
		u.PasswordAt = now
	}
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if err := checkProvider(tx, u); err != nil {
			return err
		}
		if err := putUser(tx, User{}, u); err != nil {
			return err
		}
		details := map[string]string{"role": string(u.Role)}
		if len(u.GroupIDs) > 0 {
			details["groups"] = strings.Join(u.GroupIDs, " ")
		}
		return s.record(tx, by.fact("user.created", u.Login(), details).changing(nil, u.audited()))
	})
	if err != nil {
		return User{}, fmt.Errorf("create user: %w", err)
	}
	s.log.InfoContext(ctx, "user created", "user", u.ID, "role", u.Role, "by", by.String())
	return u, nil
}

// UserChange says what to change of a user. What is nil stays.
type UserChange struct {
	Username            *string
	Email               *string
	FullName            *string
	Password            *string
	ManagedAppleAccount *string
	NoEnroll            *bool
	Role                *Role
	Disabled            *bool
	GroupIDs            *[]string // empty: the role is not limited

	// Provider gives the user to another provider, where they are bound to whoever signs
	// in next with the e-mail address, if the provider has verified it, or, for a user
	// without a role, with the username. LocalProvider: to this server. With the provider
	// that the user has an owner has them bound anew: in the directory they are another
	// entry by now.
	Provider *string
}

// UpdateUser changes a user. by must be an administrator, and an owner to change owners
// and administrators, or to make them. A user who is disabled can't log in, is logged out
// everywhere, and no token acts for them; [Config.OnDisable] ends the rest. What is a
// user's stays theirs under another login: tokens here, the rest by [Config.OnRename]. What
// a provider says of a user is changed there; a Managed Apple Account that is set here
// stays, until it is set to nothing. An unknown user is storage.ErrNotFound, the last owner who can log in is ErrLastOwner where
// they would not be one afterwards, and another's login is ErrTaken.
func (s *Service) UpdateUser(ctx context.Context, by Principal, id string, c UserChange) (u User, err error) {
	if err := mayManage(by); err != nil {
		return User{}, fmt.Errorf("update user: %w", err)
	}
	hash := ""
	if c.Password != nil {
		known, err := s.User(ctx, id)
		if err == nil {
			names := known.names()
			for _, now := range []*string{c.Email, c.Username, c.FullName} {
				if now != nil {
					names = append(names, *now)
				}
			}
			err = checkPassword(*c.Password, names...)
		}
		if err != nil {
			return User{}, fmt.Errorf("update user: %w", err)
		}
		if hash, err = s.hashPassword(ctx, *c.Password); err != nil {
			return User{}, fmt.Errorf("update user: %w", err)
		}
	}
	now := s.now().UTC()
	var old User
	var changed []string
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if old, err = users.Get(tx, id); err != nil {
			return err
		}
		if u, changed, err = c.apply(old); err != nil {
			return err
		}
		if err := mayManage(by, old.Role, u.Role); err != nil {
			return err
		}
		if err := c.checkKept(tx, old, u); err != nil {
			return err
		}
		if u.Provider == old.Provider && u.Subject != old.Subject && !by.Allows(ScopeOwner) {
			return fmt.Errorf("%w: only owners have a user bound anew to the provider that they have", ErrForbidden)
		}
		if u.Provider != old.Provider || u.Subject != old.Subject {
			if err := s.moved(tx, &u, now); err != nil {
				return err
			}
		}
		if hash != "" {
			u.Password = hash
			u.endSessions(now)
			changed = append(changed, "password")
		}
		disabled := u.Disabled && !old.Disabled
		if disabled {
			u.endSessions(now)
		}
		if u.equal(old) {
			return nil
		}
		if err := putUser(tx, old, u); err != nil {
			return err
		}
		if err := s.renamed(tx, old, u); err != nil {
			return err
		}
		if disabled && s.onDisable != nil {
			if err := s.onDisable(tx, u); err != nil {
				return err
			}
		}
		return s.recordChange(tx, by, old, u, changed)
	})
	if err != nil {
		return User{}, fmt.Errorf("update user: %w", err)
	}
	if !u.equal(old) {
		s.log.InfoContext(ctx, "user updated", "user", id, "changed", changed, "disabled", u.Disabled, "by", by.String())
	}
	return u, nil
}

// EndSessions logs a user out everywhere. by must be an administrator, and an owner for
// owners and administrators.
func (s *Service) EndSessions(ctx context.Context, by Principal, id string) error {
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		u, err := users.Get(tx, id)
		if err == nil {
			err = mayManage(by, u.Role)
		}
		if err != nil {
			return err
		}
		u.endSessions(s.now())
		if err := users.Put(tx, u); err != nil {
			return err
		}
		return s.record(tx, by.fact("user.sessions_ended", u.Login(), nil))
	})
	if err != nil {
		return fmt.Errorf("end sessions: %w", err)
	}
	s.log.InfoContext(ctx, "sessions ended", "user", id, "by", by.String())
	return nil
}

// Groups returns the groups that users were in when they last signed in at their
// provider, by the users' IDs.
func (s *Service) Groups(ctx context.Context, ids ...string) (groups map[string][]string, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		groups = make(map[string][]string, len(ids))
		reads := make([]storage.Read, len(ids))
		for i, id := range ids {
			reads[i] = memberships.Read(id)
		}
		tx.Prefetch(reads...)
		for _, id := range ids {
			if groups[id], err = groupsOf(tx, id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read groups: %w", err)
	}
	return groups, nil
}

// apply returns u as it is after the change, but for the password, and the names of what
// differs beside Disabled. What stays is not checked: it may be older than the check.
func (c UserChange) apply(u User) (after User, changed []string, err error) {
	text := func(name string, to *string, field *string, check func(string) error) {
		if to == nil || err != nil {
			return
		}
		if value := strings.TrimSpace(*to); value != *field {
			*field, err = value, check(value)
			changed = append(changed, name)
		}
	}
	text("username", c.Username, &u.Username, checkUsername)
	text("email", c.Email, &u.Email, func(email string) error { return checkAddress("email", email) })
	text("full_name", c.FullName, &u.FullName, func(name string) error { return checkText("full_name", name, 0, 255) })
	text("managed_apple_account", c.ManagedAppleAccount, &u.ManagedAppleAccount,
		func(account string) error { return checkAddress("managed_apple_account", account) })
	if err != nil {
		return User{}, nil, err
	}
	if c.NoEnroll != nil && u.NoEnroll != *c.NoEnroll {
		u.NoEnroll = *c.NoEnroll
		changed = append(changed, "can_enroll")
	}
	if c.Role != nil && u.Role != *c.Role {
		u.Role = *c.Role
		changed = append(changed, "role")
		if err := u.Role.check(); err != nil {
			return User{}, nil, err
		}
	}
	if c.GroupIDs != nil {
		if ids := normalGroups(*c.GroupIDs); !slices.Equal(ids, u.GroupIDs) {
			u.GroupIDs = ids
			changed = append(changed, "group_ids")
		}
	}
	if len(changed) > 0 {
		if err := checkGroups(u.GroupIDs, u.Role == RoleOwner); err != nil {
			return User{}, nil, err
		}
	}
	if c.Disabled != nil {
		u.Disabled = *c.Disabled
	}
	if c.Provider != nil {
		provider := *c.Provider
		if provider == LocalProvider {
			provider = ""
		}
		if provider != u.Provider {
			u.Provider = provider
			changed = append(changed, "provider")
		} else if u.Subject != "" {
			u.Subject = ""
			changed = append(changed, "provider")
		}
	}
	if c.ManagedAppleAccount != nil || c.Provider != nil {
		u.AppleAccountSet = u.Provider != "" && u.ManagedAppleAccount != "" && (c.ManagedAppleAccount != nil || u.AppleAccountSet)
	}
	return u, changed, nil
}

// checkKept refuses to change what the provider of u says of them.
func (c UserChange) checkKept(tx storage.Tx, old, u User) error {
	if u.Provider == "" {
		return nil
	}
	p, err := providerOf(tx, u)
	if err != nil {
		return err
	}
	known := old.Subject != "" && u.Provider == old.Provider
	for _, kept := range []struct {
		field   string
		changes bool
	}{
		{"username", known && u.Username != old.Username},
		{"email", known && u.Email != old.Email},
		{"full_name", known && u.FullName != old.FullName},
		{"password", c.Password != nil},
	} {
		if kept.changes {
			return &FieldError{kept.field, "is kept by the provider " + p.Name}
		}
	}
	if u.Provider == old.Provider {
		return nil
	}
	return checkProvider(tx, u)
}

// checkProvider says whether there is the provider that u belongs to.
func checkProvider(tx storage.Tx, u User) error {
	if u.Provider == "" {
		return nil
	}
	_, err := providers.Get(tx, u.Provider)
	if errors.Is(err, storage.ErrNotFound) {
		return &FieldError{"provider", "must be the id of an identity provider"}
	}
	return err
}

// moved ends what u had at the provider before, or as another entry of the same.
func (s *Service) moved(tx storage.Tx, u *User, now time.Time) error {
	u.Subject = ""
	u.endSessions(now)
	if u.Provider != "" {
		u.Password = ""
	}
	return memberships.Delete(tx, u.ID)
}

// recordChange writes down that old became u. changed is what differs beside Disabled.
func (s *Service) recordChange(tx storage.Tx, by Principal, old, u User, changed []string) error {
	if len(changed) > 0 {
		details := map[string]string{"changed": strings.Join(changed, ", ")}
		if u.Role != old.Role {
			details["role"] = string(u.Role)
		}
		if u.Login() != old.Login() {
			details["was"] = old.Login()
		}
		if !slices.Equal(u.GroupIDs, old.GroupIDs) {
			details["groups"], details["groups_before"] = strings.Join(u.GroupIDs, " "), strings.Join(old.GroupIDs, " ")
		}
		if err := s.record(tx, by.fact("user.updated", u.Login(), details).changing(old.audited(), u.audited())); err != nil {
			return err
		}
	}
	switch {
	case u.Disabled && !old.Disabled:
		return s.record(tx, by.fact("user.disabled", u.Login(), nil).changing(disabled(false), disabled(true)))
	case !u.Disabled && old.Disabled:
		return s.record(tx, by.fact("user.enabled", u.Login(), nil).changing(disabled(true), disabled(false)))
	}
	return nil
}

// putUser stores u in place of old, which is the zero User if u is new.
func putUser(tx storage.Tx, old, u User) error {
	if err := checkTaken(tx, u); err != nil {
		return err
	}
	if err := countOwners(tx, old, u); err != nil {
		return err
	}
	return users.Put(tx, u)
}

// checkTaken says in so many words what the unique indexes would refuse.
func checkTaken(tx storage.Tx, u User) error {
	for _, name := range []struct{ index, value, text string }{
		{usersByLogin, u.Username, "another user logs in as"},
		{usersByLogin, u.Email, "another user logs in as"},
		{usersByAppleAccount, u.ManagedAppleAccount, "another user has the Managed Apple Account"},
	} {
		if name.value == "" {
			continue
		}
		other, err := users.One(tx, name.index, normalLogin(name.value))
		switch {
		case err == nil && other.ID != u.ID:
			return fmt.Errorf("%w: %s %s", ErrTaken, name.text, name.value)
		case err != nil && !errors.Is(err, storage.ErrNotFound):
			return err
		}
	}
	return nil
}

// MayManage says whether by may change u, and end what u has begun: an error that wraps
// [ErrForbidden] says who may.
func MayManage(by Principal, u User) error { return mayManage(by, u.Role) }

// mayManage says whether by may make and change users of these roles.
func mayManage(by Principal, roles ...Role) error {
	if !by.governs(ScopeAdmin) {
		return fmt.Errorf("%w: only administrators of all devices make and change users", ErrForbidden)
	}
	for _, role := range roles {
		if (role == RoleAdmin || role == RoleOwner) && !by.Allows(ScopeOwner) {
			return fmt.Errorf("%w: only owners make and change users with the role %s", ErrForbidden, role)
		}
	}
	return nil
}

// Most bytes of a name to log in with, and of its parts (RFC 5321, 4.5.3.1).
const (
	maxLogin     = 255
	maxLocalPart = 64
)

func (u User) check() error {
	if u.Username == "" {
		return &FieldError{"email", "is required, or else a username"}
	}
	// The username first: it is the e-mail address where only that was given.
	if u.Username != u.Email {
		if err := checkUsername(u.Username); err != nil {
			return err
		}
	}
	for _, err := range []error{
		checkAddress("email", u.Email),
		checkText("full_name", u.FullName, 0, 255),
		checkAddress("managed_apple_account", u.ManagedAppleAccount),
		u.Role.check(),
		checkGroups(u.GroupIDs, u.Role == RoleOwner),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

func (r Role) check() error {
	if slices.Contains(roles[:], r) {
		return nil
	}
	return &FieldError{"role", "must be user, read_only, helpdesk, admin or owner"}
}

// checkUsername refuses what can't be typed into a login, or sent by basic authentication,
// in which a colon ends the name.
func checkUsername(name string) error {
	if err := checkText("username", name, 1, maxLogin); err != nil {
		return err
	}
	switch {
	case len(name) > maxLogin:
		return &FieldError{"username", fmt.Sprintf("must have at most %d bytes", maxLogin)}
	case strings.ContainsFunc(name, func(r rune) bool { return r == ':' || unicode.IsSpace(r) || !unicode.IsPrint(r) }):
		return &FieldError{"username", "must have no spaces, colons or characters that can't be seen"}
	case strings.Contains(name, "@"):
		return checkAddress("username", name)
	}
	return nil
}

// IsAddress says whether address is like an e-mail address or a Managed Apple Account.
func IsAddress(address string) bool { return address != "" && checkAddress("", address) == nil }

// checkAddress checks an e-mail address, which may be empty. Quoted local parts, which
// nobody has, and comments are refused.
func checkAddress(field, address string) error {
	if address == "" {
		return nil
	}
	if err := checkText(field, address, 1, maxLogin-1); err != nil {
		return err
	}
	parsed, err := mail.ParseAddress(address)
	at := strings.IndexByte(address, '@')
	if err != nil || parsed.Name != "" || parsed.Address != address || strings.ContainsAny(address, "\"<>()[] ") ||
		len(address) >= maxLogin || at > maxLocalPart || at != strings.LastIndexByte(address, '@') {
		return &FieldError{field, "must be an address such as ana@example.com"}
	}
	return nil
}
