package mdm_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
	"github.com/gatehouse-mdm/gatehouse/storage/postgres"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

// fleet is a Service with n devices of all kinds, each of which was seen and asked.
func fleet(b *testing.B, db storage.DB, n int) *mdm.Service {
	b.Helper()
	now := time.Now()
	clock := now
	box, err := seal.New(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	s, err := mdm.New(mdm.Config{DB: db, Box: box, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return clock }})
	if err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(7, 7))
	for from := 0; from < n; from += 5000 {
		devices := make([]mdm.Device, min(5000, n-from))
		for i := range devices {
			devices[i] = benchDevice(r, from+i, now)
		}
		err := db.Update(b.Context(), func(tx storage.Tx) error {
			for i, d := range devices {
				if err := mdm.PutDevice(tx, d); err != nil {
					return err
				}
				if i%50 == 0 {
					answer := fmt.Sprintf(`{"QueryResponses":{"BatteryLevel":%.2f,"IsActivationLockEnabled":%t,"TimeZone":"Europe/Berlin"}}`, r.Float64(), i%100 == 0)
					if err := mdm.LearnInformation(tx, &d, json.RawMessage(answer)); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		for _, d := range devices {
			clock = now.Add(-time.Duration(r.Int64N(int64(60 * 24 * time.Hour))))
			s.Saw(d.ID)
		}
		clock = now
		if err := s.FlushSeen(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := s.Search(b.Context(), mdm.Query{}, "", 1); err != nil { // makes what is missing
		b.Fatal(err)
	}
	return s
}

func benchDevice(r *rand.Rand, i int, now time.Time) mdm.Device {
	products := []string{"iPhone17,2", "iPhone15,4", "iPad14,9", "Mac15,6", "Mac14,2"}
	versions := []string{"18.2", "17.4.1", "26.0.1", "15.3", "14.7.2"}
	supervised := i%3 == 0
	id := make([]byte, 13)
	for j := range id {
		id[j] = byte(r.Uint32())
	}
	user := fmt.Sprintf("user%05d", r.IntN(60_000))
	return mdm.Device{
		ID: mdm.DeviceID(fmt.Sprintf("%x", id)), Type: mdm.TypeDevice, State: mdm.Enrolled, Ownership: mdm.Institutional,
		AppleID: mdm.AppleID{UDID: fmt.Sprintf("00008120-%016X", i)}, AttemptID: "attempt", AccessRights: 8191,
		User: user + "@example.com", Identity: fmt.Sprintf("%064x", i),
		Facts: mdm.Facts{
			SerialNumber: fmt.Sprintf("C%09d", i), DeviceName: user + "’s device", Model: "MTXX3", ModelName: "iPhone", ProductName: products[i%len(products)],
			OSVersion: versions[i%len(versions)], BuildVersion: "22C152", Supervised: &supervised,
		},
		Push:      &mdm.Push{Topic: "com.apple.mgmt.External.0", Token: make([]byte, 32), Magic: mdm.NewUUID()},
		CreatedAt: now, AuthenticatedAt: now, EnrolledAt: now.Add(-time.Duration(r.Int64N(int64(1000 * 24 * time.Hour)))),
	}
}

// BenchmarkDeviceList100k is a page of 100 devices out of 100,000, on the engine of a
// server of its own: at most 50 ms. GATEHOUSE_TEST_STORE=postgres asks the other one.
func BenchmarkDeviceList100k(b *testing.B) {
	const n = 100_000
	s := fleet(b, benchStore(b), n)
	for _, bm := range []struct {
		name       string
		conditions []string
		atLeast    int
	}{
		{"in no order", nil, n},
		{"by name", []string{"sort", "name"}, n},
		{"filter, by name", []string{"state", "enrolled", "platform", "ios", "os_version", "<18.2", "supervised", "true", "sort", "name"}, n / 20},
		{"filter, by last seen", []string{"ownership", "institutional", "os_version", ">=17", "last_seen_after", "30d", "sort", "-last_seen_at"}, n / 10},
		{"text, by name", []string{"q", "user0123", "sort", "name"}, 10},
		{"text that all have, by serial number", []string{"q", "device example", "sort", "-serial_number"}, n},
		{"pending", []string{"pending_commands", "true"}, 0},
		{"attribute of all", []string{"attribute", "BatteryLevel<0.2", "sort", "name"}, 10},
	} {
		b.Run(bm.name, func(b *testing.B) {
			var q mdm.Query
			for i := 0; i < len(bm.conditions); i += 2 {
				if err := q.Set(bm.conditions[i], bm.conditions[i+1]); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				found, err := s.Search(b.Context(), q, "", 100)
				if err != nil || found.Total < bm.atLeast {
					b.Fatalf("Search: %d found, %v", found.Total, err)
				}
			}
		})
	}
}

func benchStore(b *testing.B) (db storage.DB) {
	b.Helper()
	var err error
	if os.Getenv("GATEHOUSE_TEST_STORE") == "postgres" {
		db, err = postgres.Open(b.Context(), postgrestest.DSN(b), postgres.Options{})
	} else {
		db, err = bolt.Open(b.Context(), filepath.Join(b.TempDir(), "bench.db"), bolt.Options{})
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	return db
}

// BenchmarkTopics100k counts 100,000 devices by their push topics: at most 100 ms.
func BenchmarkTopics100k(b *testing.B) {
	const n = 100_000
	s := fleet(b, benchStore(b), n)
	b.ReportAllocs()
	for b.Loop() {
		topics, err := s.Topics(b.Context())
		if err != nil || topics["com.apple.mgmt.External.0"] != n {
			b.Fatalf("Topics: %v, %v", topics, err)
		}
	}
}

// BenchmarkFigures100k counts 100,000 devices for pictures: at most 100 ms.
func BenchmarkFigures100k(b *testing.B) {
	s := fleet(b, benchStore(b), 100_000)
	b.ReportAllocs()
	for b.Loop() {
		if f, err := s.Figures(b.Context(), nil); err != nil || len(f.Systems) == 0 {
			b.Fatal(f, err)
		}
	}
}
