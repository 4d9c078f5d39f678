package enroll

import (
	"context"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// ErrWithheld means that a device gets nothing before its user has signed in again.
var ErrWithheld = errors.New("the device's user must sign in again first")

// Declarative has answer find what a DeclarativeManagement asks for, once it is known who
// asks. It may take its time: no transaction is open meanwhile. Errors that are not those of a
// check-in are answer's own.
func (s *Service) Declarative(ctx context.Context, p Peer, id mdm.AppleID, answer func(context.Context) error) error {
	err := s.db.View(ctx, func(tx storage.Tx) error {
		c, _, err := s.connected(tx, p, id)
		if err == nil && c.withheld() {
			err = ErrWithheld
		}
		return err
	})
	if err == nil {
		err = answer(ctx)
	}
	if err == nil {
		err = s.heard(ctx, p, id, toldDeclarative)
	}
	if err != nil {
		return fmt.Errorf("declarative management: %w", s.refuseBearer(ctx, p, id, "", err))
	}
	return nil
}
