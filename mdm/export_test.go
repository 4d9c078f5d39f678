package mdm

import (
	"context"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Sweep is one turn of the sweeping, for tests that move the clock.
func (s *Service) Sweep(ctx context.Context) error { return s.sweep(ctx) }

// SweepExpiring is one turn of the expiring, likewise.
func (s *Service) SweepExpiring(ctx context.Context) error { return s.sweepExpiring(ctx) }

// FlushSeen writes what Saw collected, as Run does.
func (s *Service) FlushSeen(ctx context.Context) error { return s.flushSeen(ctx) }

// FillRows is one turn of comparing rows with devices.
func (s *Service) FillRows(ctx context.Context) error { return s.fillRows(ctx) }

// ForgetRows makes the database one of a program that had no rows.
func ForgetRows(tx storage.Tx) error {
	for _, bucket := range []string{rowBucket, topicBucket, topicCounts, rowsFilled} {
		for item, err := range tx.Scan(bucket, storage.Range{}) {
			if err != nil {
				return err
			}
			if err := tx.Delete(bucket, item.Key); err != nil {
				return err
			}
		}
	}
	return nil
}

// Row is the stored row of a device, and is empty for none.
func Row(tx storage.Tx, id DeviceID) string {
	b, _ := tx.Get(rowBucket, []byte(id))
	return string(b)
}

// Fold is how texts are compared.
func Fold(s string) string { return fold(s) }

// Unfilled makes a command one of a server that filled in nothing.
func (s *Service) Unfilled(tx storage.Tx, uuid string, plist []byte) error {
	c, err := commands.Get(tx, uuid)
	if err != nil {
		return err
	}
	c.Personal, c.Digest = false, plainDigest(plist)
	return commands.Put(tx, c)
}
