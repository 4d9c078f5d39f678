package identity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Check is what came of comparing the users of a provider with its directory.
type Check struct {
	Provider string    `json:"provider"`
	At       time.Time `json:"at"`
	People   int       `json:"people"`          // in the directory
	Missing  int       `json:"missing"`         // users who are gone or inactive there, and were not disabled here
	Disabled int       `json:"disabled"`        // of them, now
	Stopped  bool      `json:"stopped"`         // none was: they were too many at once, or all
	Error    string    `json:"error,omitempty"` // why the directory could not be asked
}

var checks = storage.NewCollection("identity.directory_checks", 1, func(c Check) string { return c.Provider })

// A check that finds more users missing at once than this, or none of them there, has found
// a mistake in the settings, or a directory that lost its data: it disables nobody.
const (
	maxMissing        = 3
	maxMissingPercent = 20
)

// LastChecks returns what came of the last check of each provider, by its ID.
func (s *Service) LastChecks(ctx context.Context) (last map[string]Check, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		last = map[string]Check{}
		for c, err := range checks.All(tx, storage.Range{}) {
			if err != nil {
				return err
			}
			last[c.Provider] = c
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read directory checks: %w", err)
	}
	return last, nil
}

// CheckDirectories disables users who are gone from their directory, or inactive in it,
// where the provider says so. One that can't be asked disables nobody.
func (s *Service) CheckDirectories(ctx context.Context) error {
	all, err := s.Providers(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, p := range all {
		if !p.Enabled || !p.DisableMissing {
			continue
		}
		c, err := s.checkDirectory(ctx, p)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			c.Error = clip(err.Error(), 500)
			failed = append(failed, fmt.Errorf("directory of %s: %w", p.Name, err))
		}
		if err := s.keepCheck(ctx, p, c); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

func (s *Service) keepCheck(ctx context.Context, p Provider, c Check) error {
	if c.Stopped {
		s.log.WarnContext(ctx, "too many users are missing in the directory, none was disabled",
			"provider", p.Name, "people", c.People, "missing", c.Missing)
	}
	return s.db.Update(ctx, func(tx storage.Tx) error {
		last, err := checks.Get(tx, p.ID)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		if _, err := providers.Get(tx, p.ID); errors.Is(err, storage.ErrNotFound) {
			return nil // deleted meanwhile
		} else if err != nil {
			return err
		}
		if c.Stopped && !last.Stopped { // once, not every hour
			details := p.named()
			details["people"], details["missing"] = fmt.Sprint(c.People), fmt.Sprint(c.Missing)
			if err := s.record(tx, p.principal().fact("identity_provider.check_stopped", "", details)); err != nil {
				return err
			}
		}
		return checks.Put(tx, c)
	})
}

// checkDirectory compares the users of p with its directory.
func (s *Service) checkDirectory(ctx context.Context, p Provider) (c Check, err error) {
	began := s.now().UTC()
	c = Check{Provider: p.ID, At: began}
	source, err := s.source(p)
	if err != nil {
		return c, err
	}
	directory, ok := source.(Directory)
	if !ok {
		return c, errors.New("the provider is none that can be asked who is in it")
	}
	active := map[string]bool{} // by subject
	err = directory.People(ctx, func(person Person, is bool) error {
		active[person.Subject] = is
		return ctx.Err()
	})
	if err != nil {
		return c, err
	}
	c.People = len(active)
	missing, total, listed, err := s.missing(ctx, p, active, began)
	if err != nil {
		return c, err
	}
	c.Missing = len(missing)
	c.Stopped = len(missing) > 0 && (listed == 0 || len(missing) > max(maxMissing, total*maxMissingPercent/100))
	if c.Stopped {
		return c, nil
	}
	for _, u := range missing {
		done, err := s.disableMissing(ctx, p, u.ID, began)
		if err != nil {
			return c, err
		}
		if done {
			c.Disabled++
			s.log.InfoContext(ctx, "user disabled: gone from the directory", "user", u.ID, "provider", p.Name)
		}
	}
	return c, nil
}

// missing returns the users of p who are not active, how many it has who can sign in, and
// how many of these the directory has at all.
func (s *Service) missing(ctx context.Context, p Provider, active map[string]bool, began time.Time) (list []User, total, listed int, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		list, total, listed = nil, 0, 0
		for u, err := range users.Lookup(tx, usersByProvider, p.ID) {
			if err != nil {
				return err
			}
			if u.Subject == "" || u.Disabled {
				continue
			}
			total++
			is, there := active[u.Subject]
			if there {
				listed++
			}
			if is {
				continue
			}
			if since, err := signedInSince(tx, u, began); err != nil {
				return err
			} else if !since {
				list = append(list, u)
			}
		}
		return nil
	})
	return list, total, listed, err
}

// signedInSince says whether the directory has let u in since the check began: then it
// knows them, whatever it listed.
func signedInSince(tx storage.Tx, u User, began time.Time) (bool, error) {
	m, err := memberships.Get(tx, u.ID)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return !m.At.Before(began), err
}

// disableMissing disables a user, unless that is out of date by now.
func (s *Service) disableMissing(ctx context.Context, p Provider, id string, began time.Time) (done bool, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		done = false
		old, err := users.Get(tx, id)
		if err != nil || old.Disabled || old.Provider != p.ID {
			return err
		}
		if since, err := signedInSince(tx, old, began); err != nil || since {
			return err
		}
		u := old
		u.Disabled = true
		u.endSessions(s.now())
		if err := putUser(tx, old, u); err != nil {
			return err
		}
		if s.onDisable != nil {
			if err := s.onDisable(tx, u); err != nil {
				return err
			}
		}
		done = true
		fact := p.principal().fact("user.disabled", u.Login(), p.named()).changing(disabled(false), disabled(true))
		fact.Reason = "the user is gone from the directory, or inactive there"
		return s.record(tx, fact)
	})
	return done, err
}
