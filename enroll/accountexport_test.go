package enroll

import (
	"context"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Authorization is what tests see of one: not its secrets.
type Authorization struct {
	ID        string
	AttemptID string
	DeviceID  mdm.DeviceID
	Tokens    int
}

// Authorizations returns all there are.
func (s *Service) Authorizations(ctx context.Context) (all []Authorization, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		all = nil
		for a, err := range authorizations.All(tx, storage.Range{}) {
			if err != nil {
				return err
			}
			all = append(all, Authorization{a.ID, a.AttemptID, a.DeviceID, len(a.Tokens)})
		}
		return nil
	})
	return all, err
}
