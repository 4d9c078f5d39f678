package apns_test

import (
	"runtime"
	"runtime/metrics"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/apns/apnstest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// BenchmarkTenThousandPushes sends them in one call, over a new connection. The limit is 5 s,
// one connection, and 60 MB: those of client and server together, who share the process.
func BenchmarkTenThousandPushes(b *testing.B) {
	storagetest.AnyEngine(b)
	const n = 10_000
	pushes := many(n)
	for b.Loop() {
		b.StopTimer()
		w := newWorld(b, apnstest.Options{Keep: -1})
		w.certificate(b, topic)
		runtime.GC()
		before := heap()
		peak, stop := watchHeap()
		b.StartTimer()
		start := time.Now()
		sent := 0
		w.client.Push(b.Context(), topic, pushes, func(_ int, r apns.Result) {
			if r.Outcome == apns.Sent {
				sent++
			}
		})
		took := time.Since(start)
		b.StopTimer()
		stop()
		s := w.server.Stats()
		if sent != n || s.Pushes != n {
			b.Fatalf("%d of %d pushes were sent, %d came", sent, n, s.Pushes)
		}
		b.ReportMetric(took.Seconds(), "s/10k")
		b.ReportMetric(float64(*peak-min(before, *peak))/1e6, "peak-MB")
		b.ReportMetric(float64(s.Connections), "connections")
		b.ReportMetric(float64(s.MostStreams), "streams")
		w.client.Close()
		w.server.Close()
		b.StartTimer()
	}
}

// heap is the memory that the program has from the system for its heap and stacks and uses.
func heap() uint64 {
	list := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
	metrics.Read(list)
	sum := uint64(0)
	for _, m := range list {
		sum += m.Value.Uint64()
	}
	return sum
}

// watchHeap looks for the highest value until stop is called.
func watchHeap() (peak *uint64, stop func()) {
	peak = new(uint64)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			*peak = max(*peak, heap())
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	return peak, func() {
		close(done)
		wg.Wait()
	}
}
