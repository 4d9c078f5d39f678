package mdm

import (
	"context"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Limited is a Service as it is to somebody whose rights are limited to groups: of a command
// that went to devices in them and to others, there is only what is about the former, and one
// that went only to others is not there.
type Limited struct {
	s      *Service
	groups []GroupID
}

// In returns s limited to groups; nil: it is not limited.
func (s *Service) In(groups []GroupID) Limited { return Limited{s, groups} }

// lookLimited is how many records are looked at for a page of those that a limit lets pass.
const lookLimited = 2000

// look is how many records are looked at for a page of limit.
func (l Limited) look(limit int) int {
	if l.groups == nil {
		return limit
	}
	return max(limit, lookLimited)
}

// updateScope is an Update that knows what is in groups.
func (s *Service) updateScope(ctx context.Context, groups []GroupID, fn func(tx storage.Tx, scope *Scope) error) error {
	if groups != nil { // that there are rows of all devices
		if err := s.viewRows(ctx, func(storage.Tx) error { return nil }); err != nil {
			return err
		}
	}
	return s.db.Update(ctx, func(tx storage.Tx) error {
		scope, err := s.Scope(tx, groups)
		if err != nil {
			return err
		}
		return fn(tx, scope)
	})
}

// narrow returns a command as it is to who may see only its devices in scope. Of others it
// counts nothing.
func (c *Scope) narrow(cmd Command) (Command, error) {
	if c.all {
		return cmd, nil
	}
	in, err := c.Narrow(cmd.Targets)
	if err != nil {
		return Command{}, err
	}
	if len(in) != len(cmd.Targets) {
		cmd.Targets, cmd.Tally = in, Tally{}
	}
	return cmd, nil
}

// command returns a command with its devices in scope. The error wraps storage.ErrNotFound
// where there are none.
func (c *Scope) command(tx storage.Tx, uuid string) (Command, error) {
	cmd, err := commands.Get(tx, uuid)
	if err == nil {
		cmd, err = c.narrow(cmd)
	}
	if err == nil && !c.all && len(cmd.Targets) == 0 {
		err = storage.ErrNotFound
	}
	if err != nil {
		return Command{}, fmt.Errorf("command %s: %w", uuid, err)
	}
	return cmd, nil
}

// entries returns those of all that are about devices in scope.
func (c *Scope) entries(all []Entry) (in []Entry, err error) {
	if c.all {
		return all, nil
	}
	for _, e := range all {
		is, err := c.Has(e.DeviceID)
		if err != nil {
			return nil, err
		}
		if is {
			in = append(in, e)
		}
	}
	return in, nil
}
