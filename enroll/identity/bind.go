package identity

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// membership is what a source said of a user's groups. It may be long, and is read only
// when somebody enrols.
type membership struct {
	UserID string    `json:"user_id"`
	Groups []string  `json:"groups,omitempty"`
	At     time.Time `json:"at"` // of the last sign-in at the source
}

var memberships = storage.NewCollection("identity.memberships", 1, func(m membership) string { return m.UserID })

// Limits of what a source says.
const (
	maxSubject     = 512  // bytes
	maxMemberships = 5000 // groups of a person
)

// groupsOf returns the groups that a user was in at the last sign-in.
func groupsOf(tx storage.Tx, userID string) ([]string, error) {
	m, err := memberships.Get(tx, userID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	return m.Groups, err
}

// bound is a user as a source has them.
type bound struct {
	user    User
	old     User // zero if the user is new
	changed []string
	mapped  Mapped
}

// find returns the user that person is, and what they become. A person is known by the
// provider and the subject there, never by a name: that changes hands. The one exception is
// a user whom an administrator made for this provider, and who has not signed in yet: see
// awaited. The errors wrap ErrUnusable.
func (p Provider) find(tx storage.Tx, person Person, now time.Time) (b bound, err error) {
	b.mapped = p.Mapping.read(person)
	if person.Subject == "" || len(person.Subject) > maxSubject || !utf8.ValidString(person.Subject) {
		return bound{}, fmt.Errorf("%w: the provider does not say who it is in a form that can be kept", ErrUnusable)
	}
	if b.mapped.Username == "" {
		return bound{}, fmt.Errorf("%w: there is no name to log in with (%s)", ErrUnusable, strings.Join(b.mapped.Warnings, "; "))
	}
	b.old, err = users.One(tx, usersBySubject, subjectKey(p.ID, person.Subject))
	if errors.Is(err, storage.ErrNotFound) {
		b.old, err = p.awaited(tx, person, b.mapped)
	}
	if err != nil {
		return bound{}, err
	}
	b.user = b.old
	if b.user.ID == "" {
		b.user = User{ID: newID(), Role: RoleUser, CreatedAt: now}
	}
	b.user.Provider, b.user.Subject = p.ID, person.Subject
	set := func(name string, field *string, value string) {
		if *field != value {
			*field = value
			b.changed = append(b.changed, name)
		}
	}
	set("username", &b.user.Username, b.mapped.Username)
	set("email", &b.user.Email, b.mapped.Email)
	set("full_name", &b.user.FullName, b.mapped.FullName)
	if !b.user.AppleAccountSet {
		set("managed_apple_account", &b.user.ManagedAppleAccount, b.mapped.ManagedAppleAccount)
	}
	if b.user.equal(b.old) {
		return b, nil
	}
	err = checkTaken(tx, b.user)
	if errors.Is(err, ErrTaken) {
		err = fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	return b, err
}

// awaited returns the user whom an administrator made for somebody of p, the zero User if
// there is none: by an address that p vouches for, or by a name that is none. A name is what
// many a provider lets people choose, so that no role comes with it.
func (p Provider) awaited(tx storage.Tx, person Person, m Mapped) (User, error) {
	waits := func(u User) bool { return u.Provider == p.ID && u.Subject == "" && u.Password == "" }
	u, err := UserByLogin(tx, person.verifiedEmail())
	if err == nil && waits(u) {
		return u, nil
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return User{}, err
	}
	if strings.Contains(m.Username, "@") {
		return User{}, nil
	}
	u, err = UserByLogin(tx, m.Username)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return User{}, nil
	case err != nil:
		return User{}, err
	case !waits(u):
		return User{}, nil // whose name it is: checkTaken says so
	case u.Role != RoleUser:
		return User{}, fmt.Errorf("%w: the user %s has a role, and so waits for somebody with an address that the provider has verified, not with a name", ErrUnusable, u.Login())
	}
	return u, nil
}

// bind makes or changes the user that person is, in the transaction of a sign-in. p is the
// provider as that transaction read it.
func (s *Service) bind(tx storage.Tx, p Provider, person Person) (User, Mapped, error) {
	now := s.now().UTC()
	b, err := p.find(tx, person, now)
	if err != nil {
		return User{}, b.mapped, err
	}
	by := p.principal()
	if !p.Bound {
		p.Bound = true
		if err := providers.Put(tx, p); err != nil {
			return User{}, b.mapped, err
		}
	}
	if !b.user.equal(b.old) {
		if err := putUser(tx, b.old, b.user); err != nil {
			return User{}, b.mapped, err
		}
	}
	switch {
	case b.old.ID == "":
		details := map[string]string{"role": string(b.user.Role), "provider": p.Name}
		if err := s.record(tx, by.fact("user.created", b.user.Login(), details)); err != nil {
			return User{}, b.mapped, err
		}
	case !b.user.equal(b.old):
		if err := s.renamed(tx, b.old, b.user); err != nil {
			return User{}, b.mapped, err
		}
		if err := s.recordChange(tx, by, b.old, b.user, b.changed); err != nil {
			return User{}, b.mapped, err
		}
	}
	groups := slices.DeleteFunc(slices.Clone(person.Groups), func(g string) bool { return !utf8.ValidString(g) })
	groups = groups[:min(len(groups), maxMemberships)]
	return b.user, b.mapped, memberships.Put(tx, membership{UserID: b.user.ID, Groups: groups, At: now})
}

// principal is who acts where a provider says what a user is.
func (p Provider) principal() Principal {
	return Principal{Kind: KindProvider, ID: p.ID, Name: p.Name}
}
