package storage

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Lease says who may do what only one replica should do at a time, and until when. It
// ends by itself, so a holder that died blocks nobody for longer than its time.
//
// A lease saves work; it proves nothing. A holder that was held up past the end of its
// lease does not know it: what must not happen twice is decided in the transaction
// that does it.
type Lease struct {
	Name    string    `json:"name"`
	Holder  string    `json:"holder"` // unique to the process, not to the machine
	Expires time.Time `json:"expires"`
}

var leases = NewCollection("storage.lease", 1, func(l Lease) string { return l.Name })

// Acquire takes the lease of this name for ttl, or prolongs it if holder has it. It
// returns false while another holds it. Clocks of replicas should agree to much
// less than ttl.
func Acquire(ctx context.Context, db DB, name, holder string, ttl time.Duration, now func() time.Time) (bool, error) {
	return hold(ctx, db, name, holder, ttl, now, func(l Lease, at time.Time) bool {
		return l.Holder == holder || !at.Before(l.Expires)
	})
}

// Renew prolongs a lease to ttl from now. It returns false when holder no longer has it:
// it was released, or ran out and was taken.
func Renew(ctx context.Context, db DB, name, holder string, ttl time.Duration, now func() time.Time) (bool, error) {
	return hold(ctx, db, name, holder, ttl, now, func(l Lease, _ time.Time) bool {
		return l.Holder == holder
	})
}

// hold writes the lease if mine says that the one that is there allows it. No lease is
// one without a holder, which ended long ago.
func hold(ctx context.Context, db DB, name, holder string, ttl time.Duration, now func() time.Time, mine func(Lease, time.Time) bool) (held bool, err error) {
	if name == "" || holder == "" || ttl <= 0 {
		return false, fmt.Errorf("lease %q needs a name, a holder and a time", name)
	}
	err = db.Update(ctx, func(tx Tx) error {
		held = false
		l, err := leases.Get(tx, name)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		at := now()
		if !mine(l, at) {
			return nil
		}
		held = true
		return leases.Put(tx, Lease{Name: name, Holder: holder, Expires: at.Add(ttl).UTC()})
	})
	if err != nil {
		return false, fmt.Errorf("lease %s: %w", name, err)
	}
	return held, nil
}

// Release ends a lease early if holder has it; if not, that is no error.
func Release(ctx context.Context, db DB, name, holder string) error {
	err := db.Update(ctx, func(tx Tx) error {
		l, err := leases.Get(tx, name)
		if errors.Is(err, ErrNotFound) || err == nil && l.Holder != holder {
			return nil
		}
		if err != nil {
			return err
		}
		return leases.Delete(tx, name)
	})
	if err != nil {
		return fmt.Errorf("release lease %s: %w", name, err)
	}
	return nil
}
