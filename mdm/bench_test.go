package mdm_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// BenchmarkEnqueueTo10000Devices is one command for that many, on the engine that
// the server uses. DESIGN section 5: 150 ms at most, durable.
func BenchmarkEnqueueTo10000Devices(b *testing.B) {
	const n = 10_000
	ctx := context.Background()
	db, err := bolt.Open(ctx, filepath.Join(b.TempDir(), "bench.db"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	box, err := seal.New(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	s, err := mdm.New(mdm.Config{DB: db, Box: box, Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	ids := make([]mdm.DeviceID, n)
	err = db.Update(ctx, func(tx storage.Tx) error {
		for i := range ids {
			ids[i] = mdm.DeviceID(fmt.Sprintf("device%08d", i*7919%n))
			err := mdm.PutDevice(tx, mdm.Device{
				ID: ids[i], Type: mdm.TypeDevice, State: mdm.Enrolled, AppleID: mdm.AppleID{UDID: fmt.Sprintf("UDID-%d", i)},
				Ownership: mdm.Institutional, AttemptID: "attempt", AccessRights: 8191, Identity: fmt.Sprintf("%064x", i),
				Facts:     mdm.Facts{SerialNumber: "C02", DeviceName: "iPhone", Model: "MTXX3", ModelName: "iPhone", ProductName: "iPhone17,2", OSVersion: "18.2", BuildVersion: "22C152"},
				Push:      &mdm.Push{Topic: "com.apple.mgmt.External.0", Token: make([]byte, 32), Magic: mdm.NewUUID()},
				CreatedAt: time.Now(), AuthenticatedAt: time.Now(), EnrolledAt: time.Now(),
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		uuid := mdm.NewUUID()
		_, rejected, err := s.Enqueue(ctx, mdm.NewCommand{UUID: uuid, RequestType: "ProfileList", Plist: []byte("plist of " + uuid), Targets: ids})
		if err != nil || len(rejected) > 0 {
			b.Fatal(err, len(rejected))
		}
		b.StopTimer() // the devices take their command before the next one comes
		err = db.Update(ctx, func(tx storage.Tx) error {
			for _, id := range ids {
				if err := s.CancelPending(tx, id); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
