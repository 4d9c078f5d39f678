package mdm

import (
	"context"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Kind is what enrollments are counted by.
type Kind struct {
	State State
	Type  EnrollmentType
}

// Census counts all enrollments; a kind that has none may be missing. It reads the row of each:
// a twentieth of a second for 100,000, so whoever asks often should keep the answer.
func (s *Service) Census(ctx context.Context) (count map[Kind]int, err error) {
	err = s.viewRows(ctx, func(tx storage.Tx) error {
		count = make(map[Kind]int)
		for item, err := range tx.Scan(rowBucket, storage.Range{Lent: true}) {
			if err != nil {
				return fmt.Errorf("rows of devices: %w", err)
			}
			r := row(item.Value)
			if !r.valid() {
				return fmt.Errorf("row of device %s: %w", item.Key, storage.ErrCorrupt)
			}
			count[Kind{named(r[rowState], rowStates), named(r[rowType], rowTypes)}]++
		}
		return nil
	})
	return count, err
}

// named is the reverse of code; the zero value for what that has no byte for.
func named[T comparable](b byte, of []T) (v T) {
	if b > 0 && int(b) <= len(of) {
		v = of[b-1]
	}
	return v
}
