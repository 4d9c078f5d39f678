package bolt

import (
	"context"
	"fmt"
	"os"
)

// Check reads the whole database as it is now and returns an error that wraps
// [storage.ErrCorrupt] if its structure is damaged anywhere: what bbolt's own Tx.Check
// looks at, and the bounds that that one takes for granted, so that damage is reported
// rather than a fault in a goroutine that nobody can recover. Others may read and write
// meanwhile. Bytes inside of values are not judged.
func (db *DB) Check(ctx context.Context) error {
	for range 100 {
		if again, err := db.checkOnce(ctx); !again {
			return err
		}
	}
	return corrupt(db.path, "no meta page is of the last transaction")
}

func (db *DB) checkOnce(ctx context.Context) (again bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	tx, err := db.beginTx(false) // keeps the pages of this moment from being used again
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback() }()
	f, err := os.Open(db.path)
	if err != nil {
		return false, fmt.Errorf("check: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, fmt.Errorf("check: %w", err)
	}
	img := image{r: f, size: info.Size()}
	metas, err := img.metas()
	if err != nil {
		return false, corrupt(db.path, err.Error())
	}
	for _, m := range metas {
		if m.txid != uint64(tx.ID()) {
			continue
		}
		if err = img.plausible(m); err == nil {
			err = img.check(ctx, m, 0)
		}
		if err != nil && ctx.Err() == nil {
			err = corrupt(db.path, err.Error())
		}
		return false, err
	}
	return true, nil // two commits since we began
}
