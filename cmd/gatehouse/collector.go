package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The garbage collector runs when the heap has grown by a percentage of what lives
// in it. The state is in the database, so that a few MB live while requests allocate
// hundreds of MB a second: at Go's default of 100 % the collector would run up to a
// hundred times a second to keep the process at 10 MB. It gets room of a fixed size
// instead. A larger percentage alone won't do: thousands of idle connections live too,
// and would be multiplied.
const (
	garbageRoom   = 24 << 20 // bytes that may be garbage before they are collected
	minGCPercent  = 100      // Go's default, once more than garbageRoom lives
	maxGCPercent  = 400
	collectorTick = time.Second
)

// gcPercent is the percentage that gives garbageRoom to a heap in which live bytes
// live.
func gcPercent(live uint64) int {
	if live <= garbageRoom*100/maxGCPercent {
		return maxGCPercent
	}
	return max(minGCPercent, int(garbageRoom*100/live))
}

// tuneCollector keeps the collector's percentage to what lives, until ctx ends.
func tuneCollector(ctx context.Context) error {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(collectorTick)
	defer tick.Stop()
	set := minGCPercent
	for {
		metrics.Read(live)
		// Setting it stops the world for a moment, so small differences don't count.
		if want := gcPercent(live[0].Value.Uint64()); want < set*9/10 || want > set*11/10 {
			debug.SetGCPercent(want)
			set = want
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
