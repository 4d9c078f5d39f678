package depot_test

import (
	"slices"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestRenewalsAreCountedByWeek(t *testing.T) {
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	const day = 24 * time.Hour
	now := time.Now()
	for _, in := range []time.Duration{-100 * day, -15 * day, -13 * day, -time.Hour, time.Hour, 6 * day, 8 * day, 15 * day, 400 * day} {
		issue(t, d, db, depot.Certificate{DeviceID: "A", RenewAt: now.Add(in)})
	}
	gone := issue(t, d, db, depot.Certificate{DeviceID: "B", RenewAt: now.Add(day)})
	update(t, db, func(tx storage.Tx) error { return d.Revoke(tx, gone.Fingerprint, "superseded", now) })
	issue(t, d, db, depot.Certificate{DeviceID: "B"}) // never renewed
	view(t, db, func(tx storage.Tx) error {
		r, err := d.Renewals(tx, 2)
		if err != nil || r.Overdue != 2 || r.Due != 2 || !slices.Equal(r.Weeks, []int{2, 1}) || r.Later != 2 {
			t.Errorf("Renewals = %+v, %v", r, err)
		}
		return nil
	})
}
