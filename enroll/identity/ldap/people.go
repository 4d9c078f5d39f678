package ldap

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-ldap/ldap/v3"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

// People implements [identity.Directory]: all whom people_filter finds, or user_filter
// with any login. It is an error if they can't all be seen: who is missing from the list
// would lose what they have.
func (s *Source) People(ctx context.Context, yield func(p identity.Person, active bool) error) error {
	everybody := string(s.PeopleFilter)
	if everybody == "" {
		var err error
		if everybody, err = s.UserFilter.any(); err != nil {
			return fmt.Errorf("%w: user_filter %w: people_filter must say who may sign in", identity.ErrSource, err)
		}
	}
	var c *conn
	err := s.each(ctx, nil, func(ctx context.Context, at server) (err error) {
		c, err = s.open(ctx, at, nil)
		return err
	})
	if err != nil {
		return err
	}
	defer c.close()

	off := map[string]bool{} // subjects
	if s.DisabledFilter != "" {
		// A negation of the filter would not find entries that lack its attributes.
		err := s.list(ctx, c, "(&"+everybody+string(s.DisabledFilter)+")", func(e entry) error {
			off[e.person.Subject] = true
			return nil
		})
		if err != nil {
			return err
		}
	}
	return s.list(ctx, c, everybody, func(e entry) error {
		return yield(e.person, e.off == "" && !off[e.person.Subject])
	})
}

// list calls fn with all entries that a filter finds. Those whose subject can't be read
// could not sign in, either; but if that is all of them, something else is wrong.
func (s *Source) list(ctx context.Context, c *conn, filter string, fn func(entry) error) error {
	attributes := distinct([]string{"uid", "cn", "mail", "sAMAccountName", "userPrincipalName"}, s.idAttributes(), states)
	unreadable, read := "", 0
	err := c.pages(ctx, s.BaseDN, s.scope(), filter, s.PageSize, attributes, func(page []*ldap.Entry) error {
		for _, found := range page {
			e, err := s.read(found)
			if err != nil {
				unreadable = clean(found.DN) + ": " + err.Error()
				continue
			}
			read++
			if err := fn(e); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && read == 0 && unreadable != "" {
		err = &failure{c.server, stepSearch, errors.New(unreadable), false}
	}
	return err
}
