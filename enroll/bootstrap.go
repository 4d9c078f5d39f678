package enroll

import (
	"context"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// SetBootstrapToken keeps a device's bootstrap token; an empty one deletes it.
func (s *Service) SetBootstrapToken(ctx context.Context, p Peer, id mdm.AppleID, token []byte) error {
	if len(token) > 64<<10 {
		return fmt.Errorf("set bootstrap token: %w: it is too long", ErrBadMessage)
	}
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		c, err := s.identify(tx, p, id)
		if err != nil {
			return err
		}
		if err := s.mdm.SetSecret(tx, c.device.ID, mdm.BootstrapToken, token); err != nil {
			return err
		}
		if err := mdm.PutDevice(tx, c.device); err != nil { // meets whoever ends the enrollment at the same moment
			return err
		}
		return s.hearOf(tx, p, c, id, toldSetBootstrapToken)
	})
	if err != nil {
		return fmt.Errorf("set bootstrap token: %w", s.refuseBearer(ctx, p, id, "", err))
	}
	return nil
}

// GetBootstrapToken returns a device's bootstrap token, nil if it has none.
func (s *Service) GetBootstrapToken(ctx context.Context, p Peer, id mdm.AppleID) (token []byte, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		c, err := s.identify(tx, p, id)
		if err != nil {
			return err
		}
		token, err = s.mdm.Secret(tx, c.device.ID, mdm.BootstrapToken)
		return err
	})
	if err == nil {
		err = s.heard(ctx, p, id, toldGetBootstrapToken)
	}
	if err != nil {
		return nil, fmt.Errorf("get bootstrap token: %w", s.refuseBearer(ctx, p, id, "", err))
	}
	return token, nil
}
