package identity

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"encoding/json"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// LocalProvider is the ID of the provider that is always there: users of this server,
// with their passwords.
const LocalProvider = "local"

// ErrProviderInUse means that users belong to a provider that is to be deleted.
var ErrProviderInUse = errors.New("users belong to the provider")

// Provider is a source of accounts as it is set up here.
type Provider struct {
	ID      string   `json:"id"`
	Name    string   `json:"name"` // no other provider's; people see it
	Kind    string   `json:"kind"` // "local", or the name of a SourceKind
	Enabled bool     `json:"enabled"`
	Uses    []Use    `json:"uses"`
	Groups  []string `json:"groups,omitempty"` // only who is in one of them may enrol; none: everybody
	Mapping Mapping  `json:"mapping"`

	// Settings are the kind's, a JSON object without secrets. Those are in Sealed, by
	// the name of the setting.
	Settings json.RawMessage   `json:"settings,omitempty"`
	Sealed   map[string][]byte `json:"sealed,omitempty"`

	Position int `json:"position"` // the order in which people see providers, and passwords are tried

	// DisableMissing switches off users who are gone from the directory. See Check.
	DisableMissing bool `json:"disable_missing,omitempty"`

	// RequireSecondFactor is for users with a role above RoleUser who sign in with a
	// password.
	RequireSecondFactor bool `json:"require_second_factor,omitempty"`

	// Bound is set with the first user who is known by a subject, in this record: who binds
	// them and who changes whose subjects they are meet in it.
	Bound bool `json:"bound,omitempty"`

	Version   int64     `json:"version"` // grows with each change
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

const providersByName = "name"

var providers = storage.NewCollection("identity.providers", 1, func(p Provider) string { return p.ID },
	storage.Index[Provider]{Name: providersByName, Unique: true, Values: func(p Provider) []string { return []string{strings.ToLower(p.Name)} }})

// maxProviders bounds what a login has to read.
const maxProviders = 50

// local is the provider of local users until somebody changes it.
func local() Provider {
	return Provider{
		ID: LocalProvider, Name: "Accounts of this server", Kind: LocalProvider, Enabled: true,
		Uses: []Use{UseInstitutional, UsePersonal, UseUser, UseAccountDevice, UseAdmin},
	}
}

func getProvider(tx storage.Tx, id string) (Provider, error) {
	p, err := providers.Get(tx, id)
	if id == LocalProvider && errors.Is(err, storage.ErrNotFound) {
		return local(), nil
	}
	return p, err
}

// providerOf returns the provider that u belongs to. One that is gone is switched off, and
// has no name.
func providerOf(tx storage.Tx, u User) (Provider, error) {
	p, err := getProvider(tx, cmp.Or(u.Provider, LocalProvider))
	if errors.Is(err, storage.ErrNotFound) {
		return Provider{ID: u.Provider, Name: "a provider that was deleted"}, nil
	}
	return p, err
}

// allProviders returns all providers in their order, the local one first.
func allProviders(tx storage.Tx) ([]Provider, error) {
	all := []Provider{local()}
	for p, err := range providers.All(tx, storage.Range{}) {
		if err != nil {
			return nil, err
		}
		if p.ID == LocalProvider {
			all[0] = p
		} else {
			all = append(all, p)
		}
	}
	slices.SortStableFunc(all[1:], func(a, b Provider) int {
		return cmp.Or(cmp.Compare(a.Position, b.Position), a.CreatedAt.Compare(b.CreatedAt))
	})
	return all, nil
}

// Provider returns a provider by ID.
func (s *Service) Provider(ctx context.Context, id string) (p Provider, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) (err error) {
		p, err = getProvider(tx, id)
		return err
	})
	if err != nil {
		return Provider{}, fmt.Errorf("get identity provider: %w", err)
	}
	return p, nil
}

// Providers returns all providers in their order, the local one first.
func (s *Service) Providers(ctx context.Context) (all []Provider, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) (err error) {
		all, err = allProviders(tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list identity providers: %w", err)
	}
	return all, nil
}

// Ways are how people can sign in for some use.
type Ways struct {
	Passwords bool       // with a login and a password
	Redirects []Provider // by a browser that is sent there, in this order
}

// Ways returns how people can sign in for one of these uses; none: for any.
func (s *Service) Ways(ctx context.Context, uses ...Use) (w Ways, err error) {
	all, err := s.Providers(ctx)
	if err != nil {
		return Ways{}, err
	}
	for _, p := range all {
		if !p.Enabled || len(uses) > 0 && !slices.ContainsFunc(uses, p.hasUse) {
			continue
		}
		switch s.How(p) {
		case HowPassword:
			w.Passwords = true
		case HowRedirect:
			w.Redirects = append(w.Redirects, p)
		}
	}
	return w, nil
}

// How says how people sign in at a provider.
type How string

// The ways to sign in. One whose source can't be opened has none.
const (
	HowPassword How = "password" // here, with a login and a password
	HowRedirect How = "redirect" // there: the browser is sent to the provider
)

// How returns how people sign in at p, empty if nobody can.
func (s *Service) How(p Provider) How {
	if p.ID == LocalProvider {
		return HowPassword
	}
	source, err := s.source(p)
	if err != nil {
		return ""
	}
	switch source.(type) {
	case PasswordSource:
		return HowPassword
	case RedirectSource:
		return HowRedirect
	}
	return ""
}

// ProviderChange says what to change of a provider. What is nil stays.
type ProviderChange struct {
	Name                *string
	Enabled             *bool
	Uses                *[]Use
	Groups              *[]string
	Mapping             MappingChange
	Position            *int
	DisableMissing      *bool
	RequireSecondFactor *bool

	// Settings is a JSON object of the settings to change: null takes one away. Secrets
	// that are not in it stay.
	Settings json.RawMessage
}

// MappingChange says what to change of a Mapping. What is nil stays.
type MappingChange struct {
	Username             *string
	Email                *string
	FullName             *string
	ManagedAppleAccount  *string
	ManagedAppleAccounts *map[string]string // the whole table
}

// CreateProvider sets a source of accounts up: what c does not say is as the kind has it.
// It is enabled, for enrolling in every way and not for administrators, unless c says
// otherwise. by must be an administrator, and an owner for UseAdmin and
// RequireSecondFactor. Errors about fields are *FieldError.
func (s *Service) CreateProvider(ctx context.Context, by Principal, kind string, c ProviderChange) (p Provider, err error) {
	fresh, err := s.newProvider(kind)
	if err != nil {
		return Provider{}, fmt.Errorf("create identity provider: %w", err)
	}
	fresh.ID = newID()
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		all, err := allProviders(tx)
		if err != nil {
			return err
		}
		if len(all) >= maxProviders {
			return &FieldError{"name", fmt.Sprintf("can't be that of one more provider: there are %d", len(all))}
		}
		old := fresh
		for _, other := range all[1:] {
			old.Position = max(old.Position, other.Position+1)
		}
		if p, _, err = s.change(old, c); err != nil {
			return err
		}
		if err := mayManageProvider(by, Provider{}, p); err != nil {
			return err
		}
		if err := s.putProvider(tx, p); err != nil {
			return err
		}
		after, secret := p.audited()
		return s.record(tx, by.fact("identity_provider.created", "", p.details()).changing(nil, after, secret...))
	})
	if err != nil {
		return Provider{}, fmt.Errorf("create identity provider: %w", err)
	}
	s.log.InfoContext(ctx, "identity provider created", "provider", p.Name, "kind", p.Kind, "by", by.String())
	return p, nil
}

// newProvider is what a new provider of a kind is before anything is said of it.
func (s *Service) newProvider(name string) (Provider, error) {
	kind, ok := s.kinds[name]
	if !ok {
		known := slices.Sorted(maps.Keys(s.kinds))
		if len(known) == 0 {
			return Provider{}, &FieldError{"kind", "can't be any: this server has no kinds of providers"}
		}
		return Provider{}, &FieldError{"kind", "must be " + strings.Join(known, " or ")}
	}
	return Provider{
		Kind: name, Enabled: true, Uses: []Use{UseInstitutional, UsePersonal, UseUser, UseAccountDevice},
		Mapping: kind.Mapping(), Settings: json.RawMessage("{}"), Position: 1, CreatedAt: s.now().UTC(),
	}, nil
}

// UpdateProvider changes a provider. The next sign-in goes by it, at every replica. by must
// be an administrator, and an owner where it is, or becomes, one for administrators.
// Errors about fields are *FieldError; an unknown provider is storage.ErrNotFound.
func (s *Service) UpdateProvider(ctx context.Context, by Principal, id string, c ProviderChange) (p Provider, err error) {
	var changed []string
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		old, err := getProvider(tx, id)
		if err != nil {
			return err
		}
		if p, changed, err = s.change(old, c); err != nil {
			return err
		}
		if err := mayManageProvider(by, old, p); err != nil {
			return err
		}
		if err := keptRole(tx, by, old, p); err != nil {
			return err
		}
		if err := s.keptNamespace(old, p); err != nil {
			return err
		}
		if len(changed) == 0 {
			p = old
			return nil
		}
		if err := s.putProvider(tx, p); err != nil {
			return err
		}
		details := p.details()
		details["changed"] = strings.Join(changed, ", ")
		before, secret := old.audited()
		after, more := p.audited()
		return s.record(tx, by.fact("identity_provider.updated", "", details).changing(before, after, append(secret, more...)...))
	})
	if err != nil {
		return Provider{}, fmt.Errorf("update identity provider: %w", err)
	}
	if len(changed) > 0 {
		s.log.InfoContext(ctx, "identity provider updated", "provider", p.Name, "changed", changed, "by", by.String())
	}
	return p, nil
}

// DeleteProvider removes a provider. While users belong to it that is ErrProviderInUse,
// unless force is set: they stay, and can't sign in until an administrator gives them to
// another provider.
func (s *Service) DeleteProvider(ctx context.Context, by Principal, id string, force bool) error {
	var p Provider
	err := s.db.Update(ctx, func(tx storage.Tx) (err error) {
		if p, err = providers.Get(tx, id); err != nil && id != LocalProvider {
			return err
		}
		if id == LocalProvider {
			return fmt.Errorf("%w: the accounts of this server are always there", ErrForbidden)
		}
		if err := mayManageProvider(by, p, p); err != nil {
			return err
		}
		if !force {
			_, err := users.One(tx, usersByProvider, id)
			if err == nil {
				return ErrProviderInUse
			}
			if !errors.Is(err, storage.ErrNotFound) {
				return err
			}
		}
		if err := providers.Delete(tx, id); err != nil {
			return err
		}
		if err := checks.Delete(tx, id); err != nil {
			return err
		}
		before, secret := p.audited()
		return s.record(tx, by.fact("identity_provider.deleted", "", p.details()).changing(before, nil, secret...))
	})
	if err != nil {
		return fmt.Errorf("delete identity provider: %w", err)
	}
	s.mu.Lock()
	before := s.opened[id]
	delete(s.opened, id)
	s.mu.Unlock()
	before.close()
	s.log.InfoContext(ctx, "identity provider deleted", "provider", p.Name, "by", by.String())
	return nil
}

// details are what the audit log says of p.
func (p Provider) details() map[string]string {
	return map[string]string{"provider": p.ID, "name": p.Name, "kind": p.Kind}
}

// keptRole refuses to have by ask for a second factor that they don't have themselves: their
// role would be gone with the request, and with it perhaps the last one.
func keptRole(tx storage.Tx, by Principal, old, p Provider) error {
	if by.Kind != KindUser || old.RequireSecondFactor || !p.RequireSecondFactor {
		return nil
	}
	u, err := users.Get(tx, by.ID)
	if err != nil {
		return err
	}
	if (u.Provider == p.ID || u.Provider == "" && p.ID == LocalProvider) && p.mustSetUpCode(u) {
		return &FieldError{"require_second_factor", "can’t be switched on by somebody without one: set up your own first, on your page"}
	}
	return nil
}

// mayManageProvider says whether by may have old become p. Whoever says where an owner's
// password is checked can sign in as that owner: what is for administrators is for owners
// to change.
func mayManageProvider(by Principal, old, p Provider) error {
	if !by.governs(ScopeAdmin) {
		return fmt.Errorf("%w: only administrators change identity providers", ErrForbidden)
	}
	grants := p.ID != LocalProvider && (old.hasUse(UseAdmin) || p.hasUse(UseAdmin))
	if (grants || old.RequireSecondFactor != p.RequireSecondFactor) && !by.Allows(ScopeOwner) {
		return fmt.Errorf("%w: only owners change how administrators sign in", ErrForbidden)
	}
	return nil
}

// change returns p as it is after c, and the names of what differs.
func (s *Service) change(p Provider, c ProviderChange) (after Provider, changed []string, err error) {
	if p.ID == LocalProvider {
		switch {
		case c.Enabled != nil && !*c.Enabled:
			return Provider{}, nil, &FieldError{"enabled", "must be true for the accounts of this server: its owners need them"}
		case c.Groups != nil && len(*c.Groups) > 0:
			return Provider{}, nil, &FieldError{"groups", "are not for the accounts of this server: each user has can_enroll"}
		case c.Settings != nil || c.Mapping != (MappingChange{}) || c.Position != nil || c.DisableMissing != nil && *c.DisableMissing:
			return Provider{}, nil, &FieldError{"settings", "mapping, position and disable_missing are not for the accounts of this server"}
		}
	}
	note := func(name string, differs bool) {
		if differs {
			changed = append(changed, name)
		}
	}
	if c.Name != nil {
		name := strings.TrimSpace(*c.Name)
		note("name", name != p.Name)
		p.Name = name
	}
	if c.Enabled != nil {
		note("enabled", *c.Enabled != p.Enabled)
		p.Enabled = *c.Enabled
	}
	if c.Uses != nil {
		note("uses", !slices.Equal(*c.Uses, p.Uses))
		p.Uses = slices.Clone(*c.Uses)
	}
	if c.Groups != nil {
		groups := slices.Clone(*c.Groups)
		for i := range groups {
			groups[i] = strings.TrimSpace(groups[i])
		}
		note("groups", !slices.Equal(groups, p.Groups))
		p.Groups = groups
	}
	mapping := c.Mapping.apply(p.Mapping)
	note("mapping", !mapping.equal(p.Mapping))
	p.Mapping = mapping
	if c.Position != nil {
		note("position", *c.Position != p.Position)
		p.Position = *c.Position
	}
	if c.DisableMissing != nil {
		note("disable_missing", *c.DisableMissing != p.DisableMissing)
		p.DisableMissing = *c.DisableMissing
	}
	if c.RequireSecondFactor != nil {
		note("require_second_factor", *c.RequireSecondFactor != p.RequireSecondFactor)
		p.RequireSecondFactor = *c.RequireSecondFactor
	}
	if err := p.check(); err != nil {
		return Provider{}, nil, err
	}
	if p.ID != LocalProvider {
		differs, err := s.changeSettings(&p, c.Settings)
		if err != nil {
			return Provider{}, nil, err
		}
		note("settings", differs)
	}
	p.Version++
	p.UpdatedAt = s.now().UTC()
	if p.CreatedAt.IsZero() {
		p.CreatedAt = p.UpdatedAt
	}
	return p, changed, nil
}

// Limits of providers.
const (
	maxGroups   = 100
	maxGroup    = 512 // characters
	maxPosition = 10_000
)

var everyUse = []Use{UseInstitutional, UsePersonal, UseUser, UseAccountDevice, UseAdmin}

func (p Provider) check() error {
	if err := checkText("name", p.Name, 1, 64); err != nil {
		return err
	}
	if len(p.Uses) == 0 {
		return &FieldError{"uses", "must be one at least: enabled switches a provider off"}
	}
	for i, use := range p.Uses {
		field := fmt.Sprintf("uses[%d]", i)
		switch {
		case !slices.Contains(everyUse, use):
			return &FieldError{field, "must be institutional, personal, user, account_device or admin"}
		case slices.Contains(p.Uses[:i], use):
			return &FieldError{field, "is there twice"}
		}
	}
	if p.ID == LocalProvider && !p.hasUse(UseAdmin) {
		return &FieldError{"uses", "must include admin for the accounts of this server: its owners need them"}
	}
	if len(p.Groups) > maxGroups {
		return &FieldError{"groups", fmt.Sprintf("must be at most %d", maxGroups)}
	}
	for i, group := range p.Groups {
		if err := checkText(fmt.Sprintf("groups[%d]", i), group, 1, maxGroup); err != nil {
			return err
		}
	}
	if p.Position < 0 || p.Position > maxPosition {
		return &FieldError{"position", fmt.Sprintf("must be from 0 to %d", maxPosition)}
	}
	if p.ID == LocalProvider {
		return nil
	}
	return p.Mapping.check()
}

// putProvider stores p, whose name must be its own.
func (s *Service) putProvider(tx storage.Tx, p Provider) error {
	taken := &FieldError{"name", "is that of another provider"}
	stored, err := getProvider(tx, LocalProvider) // has a name before it has a record
	if err != nil {
		return err
	}
	if p.ID != LocalProvider && strings.EqualFold(p.Name, stored.Name) {
		return taken
	}
	err = providers.Put(tx, p)
	if errors.Is(err, storage.ErrExists) {
		return taken
	}
	return err
}

// opened is a source that was opened by some version of its provider's settings.
type opened struct {
	version int64
	source  any
}

func (o opened) close() {
	if c, ok := o.source.(io.Closer); ok {
		_ = c.Close() // nothing is lost with it
	}
}

// source returns the source of p, opened anew if its settings have changed since. Its
// errors wrap ErrSource.
func (s *Service) source(p Provider) (any, error) {
	s.mu.Lock()
	have, ok := s.opened[p.ID]
	s.mu.Unlock()
	if ok && have.version == p.Version {
		return have.source, nil
	}
	fresh, err := s.openSource(p)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSource, err)
	}
	s.mu.Lock()
	have, ok = s.opened[p.ID]
	if ok && have.version >= p.Version { // another request was faster
		s.mu.Unlock()
		if have.version == p.Version {
			opened{source: fresh}.close()
			return have.source, nil
		}
		return fresh, nil
	}
	s.opened[p.ID] = opened{p.Version, fresh}
	s.mu.Unlock()
	have.close()
	return fresh, nil
}

func (s *Service) openSource(p Provider) (any, error) {
	kind, ok := s.kinds[p.Kind]
	if !ok {
		return nil, fmt.Errorf("this server knows no providers of the kind %s", p.Kind)
	}
	settings, err := s.unsealSettings(p)
	if err != nil {
		return nil, err
	}
	return kind.Open(settings)
}
