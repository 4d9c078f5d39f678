package enroll

import (
	"context"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Vouch returns the device that p's certificate speaks for, whose message says no name of its
// own. It is for more than management: an identity that has expired, or a device whose user
// must sign in again, may still fetch commands, but nothing here. Its errors wrap those of a
// check-in, or ErrWithheld.
func (s *Service) Vouch(ctx context.Context, p Peer) (d mdm.Device, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		c, err := s.known(tx, p)
		d = c.device
		switch {
		case err != nil:
			return err
		case d.ID == "" || d.State == mdm.Pending:
			return ErrNotAuthenticated
		case !d.Live():
			return ErrGone
		case !c.current() && !c.candidate():
			return ErrRetired
		case s.now().After(c.cert.NotAfter):
			return fmt.Errorf("%w: it has expired", ErrUnidentified)
		case !d.SignInRequiredAt.IsZero():
			return ErrWithheld
		}
		return nil
	})
	if err != nil {
		return mdm.Device{}, fmt.Errorf("vouch: %w", err)
	}
	return d, nil
}
