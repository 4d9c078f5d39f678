package identity

import (
	"context"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// MaxVisits is how many enrollments are begun from one network within a quarter of an
// hour: a school behind one address enrols its classes, and nobody fills the database.
const MaxVisits = 600

// CountVisit counts an enrollment that is about to begin. It returns a *ThrottledError after
// [MaxVisits] within a quarter of an hour from one network.
func (s *Service) CountVisit(ctx context.Context, peer string) error {
	visits := limit{key: throttleKey("visits", network(peer)), most: MaxVisits}
	if err := s.db.Update(ctx, func(tx storage.Tx) error { return s.count(tx, visits) }); err != nil {
		return fmt.Errorf("count visit: %w", err)
	}
	return nil
}
