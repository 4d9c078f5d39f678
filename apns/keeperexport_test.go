package apns

import (
	"context"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Look is one turn of the countdown, for tests that move the clock.
func (k *Keeper) Look(ctx context.Context) error { return k.look(ctx) }

// SignByVendor makes the file for Apple of a request in DER.
func (k *Keeper) SignByVendor(tx storage.Tx, csr []byte) ([]byte, error) {
	return k.signByVendor(tx, csr)
}

// ReadFile reads and judges a file, and keeps nothing.
func ReadFile(f File, now time.Time) error {
	b, err := readFile(f)
	if err != nil {
		return err
	}
	return b.check(now, nil)
}
