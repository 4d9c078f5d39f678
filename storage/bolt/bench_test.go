package bolt_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
)

// entry is about what a queued command for one device takes.
type entry struct {
	Device  string `json:"device"`
	Command string `json:"command"`
	State   string `json:"state"`
	Seq     uint64 `json:"seq"`
}

var entries = storage.NewCollection("entry", 1,
	func(e entry) string { return string(storage.Key(e.Device, fmt.Sprintf("%016x", e.Seq))) },
	storage.Index[entry]{Name: "command", Values: func(e entry) []string { return []string{e.Command} }})

func device(i int) string { return fmt.Sprintf("00008030-%016X", i*7919) }

func benchDB(b *testing.B) *bolt.DB {
	return open(b, filepath.Join(b.TempDir(), "gatehouse.db"))
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// fillEntries stores n entries, one a device.
func fillEntries(b *testing.B, db storage.DB, n int) {
	const step = 10_000
	for from := 0; from < n; from += step {
		must(b, db.Update(b.Context(), func(tx storage.Tx) error {
			for i := from; i < min(n, from+step); i++ {
				if err := entries.Put(tx, entry{Device: device(i), Command: "before", State: "queued", Seq: 1}); err != nil {
					return err
				}
			}
			return nil
		}))
	}
}

func BenchmarkUpdateAlone(b *testing.B) {
	db := benchDB(b)
	fillEntries(b, db, 1000)
	i := 0
	for b.Loop() {
		i++
		must(b, db.Update(b.Context(), func(tx storage.Tx) error {
			return entries.Put(tx, entry{Device: device(i % 1000), Command: "now", State: "delivered", Seq: 1})
		}))
	}
}

func BenchmarkUpdateWith64Writers(b *testing.B) {
	db := benchDB(b)
	fillEntries(b, db, 1000)
	commits := db.Commits()
	var i atomic.Int64
	b.SetParallelism(32) // of two processors
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := int(i.Add(1))
			err := db.Update(context.Background(), func(tx storage.Tx) error {
				return entries.Put(tx, entry{Device: device(n % 1000), Command: "now", State: "delivered", Seq: 1})
			})
			if err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/float64(db.Commits()-commits), "updates/commit")
}

func BenchmarkGet(b *testing.B) {
	db := benchDB(b)
	fillEntries(b, db, 100_000)
	i := 0
	b.Run("raw", func(b *testing.B) {
		for b.Loop() {
			i++
			key := storage.Key(device(i*31%100_000), "0000000000000001")
			must(b, db.View(b.Context(), func(tx storage.Tx) error {
				_, err := tx.Get("entry", key)
				return err
			}))
		}
	})
	b.Run("collection", func(b *testing.B) {
		for b.Loop() {
			i++
			key := string(storage.Key(device(i*31%100_000), "0000000000000001"))
			must(b, db.View(b.Context(), func(tx storage.Tx) error {
				_, err := entries.Get(tx, key)
				return err
			}))
		}
	})
	b.Run("ten of a view", func(b *testing.B) {
		for b.Loop() {
			i++
			must(b, db.View(b.Context(), func(tx storage.Tx) error {
				for j := range 10 {
					if _, err := entries.Get(tx, string(storage.Key(device((i*31+j)%100_000), "0000000000000001"))); err != nil {
						return err
					}
				}
				return nil
			}))
		}
	})
}

func BenchmarkScanOf100(b *testing.B) {
	db := benchDB(b)
	fillEntries(b, db, 10_000)
	for b.Loop() {
		must(b, db.View(b.Context(), func(tx storage.Tx) error {
			n := 0
			for _, err := range tx.Scan("entry", storage.Range{Start: storage.Key(device(500)), Limit: 100}) {
				if err != nil {
					return err
				}
				n++
			}
			if n != 100 {
				return fmt.Errorf("%d items", n)
			}
			return nil
		}))
	}
}

// One command to ten thousand devices, each of which has something in its queue.
func BenchmarkUpdateOf10000Records(b *testing.B) {
	db := benchDB(b)
	fillEntries(b, db, 10_000)
	seq := uint64(1)
	for b.Loop() {
		seq++
		must(b, db.Update(b.Context(), func(tx storage.Tx) error {
			for i := range 10_000 {
				e := entry{Device: device(i), Command: fmt.Sprint("command-", seq), State: "queued", Seq: seq}
				if err := entries.Create(tx, e); err != nil {
					return err
				}
			}
			return nil
		}))
		b.StopTimer()
		must(b, db.Update(b.Context(), func(tx storage.Tx) error {
			for i := range 10_000 {
				if err := entries.Delete(tx, string(storage.Key(device(i), fmt.Sprintf("%016x", seq)))); err != nil {
					return err
				}
			}
			return nil
		}))
		b.StartTimer()
	}
}

func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "gatehouse.db")
	db := open(b, path)
	fillEntries(b, db, 100_000)
	value := make([]byte, 2000) // a file of 400 MB
	for i := 0; i < 200_000; i += 10_000 {
		must(b, db.Update(b.Context(), func(tx storage.Tx) error {
			for j := i; j < i+10_000; j++ {
				if err := tx.Put("large", binary.BigEndian.AppendUint64(nil, uint64(j)), value); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	must(b, db.Close())
	for b.Loop() {
		db, err := bolt.Open(b.Context(), path, bolt.Options{})
		must(b, err)
		must(b, db.Close())
	}
}
