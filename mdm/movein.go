package mdm

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// SeenElsewhere notes when another server last heard of a device that comes from there.
func SeenElsewhere(tx storage.Tx, id DeviceID, at time.Time) error {
	if err := tx.Put(seenBucket, []byte(id), binary.BigEndian.AppendUint64(nil, uint64(at.UnixNano()))); err != nil {
		return fmt.Errorf("last seen of %s: %w", id, err)
	}
	return nil
}
