package mdm

import (
	"context"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// FirstWaits returns why the next command of each of these devices is pending, without those
// that have none: for a list of devices that says what they wait for.
func (s *Service) FirstWaits(ctx context.Context, ids []DeviceID) (all map[DeviceID]Waiting, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		all = make(map[DeviceID]Waiting)
		for _, id := range ids {
			tx.Prefetch(append(s.readOverview(id), ReadDevice(id), ReadWakeup(id))...)
		}
		for _, id := range ids {
			w, err := s.waiter(tx, id)
			if err != nil {
				return err
			}
			if w.head != nil {
				all[id] = w.why(*w.head, s.now())
			}
		}
		return nil
	})
	return all, err
}
