package metrics

import (
	"bytes"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"time"
)

// writeProcess tells what Prometheus' clients tell of every program, by the same names.
func writeProcess(out *writer, started time.Time) {
	out.head("go_info", "gauge", "Always 1: the version of Go.")
	out.value("go_info", []string{"version"}, []string{runtime.Version()}, 1)
	samples := []metrics.Sample{
		{Name: "/sched/goroutines:goroutines"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}, {Name: "/memory/classes/total:bytes"},
	}
	metrics.Read(samples)
	for i, m := range []struct{ name, kind, help string }{
		{"go_goroutines", "gauge", "Goroutines that there are."},
		{"go_memstats_heap_alloc_bytes", "gauge", "Bytes of the heap in use, garbage included."},
		{"go_memstats_alloc_bytes_total", "counter", "Bytes allocated since the start."},
		{"gatehouse_gc_cycles_total", "counter", "Runs of the garbage collector since the start."},
		{"go_memstats_sys_bytes", "gauge", "Bytes that the Go runtime has mapped."},
	} {
		if samples[i].Value.Kind() == metrics.KindUint64 {
			out.head(m.name, m.kind, m.help)
			out.value(m.name, nil, nil, float64(samples[i].Value.Uint64()))
		}
	}
	out.head("process_start_time_seconds", "gauge", "When the process started, in seconds since 1970.")
	out.value("process_start_time_seconds", nil, nil, float64(started.UnixMilli())/1000)
	writeProcfs(out)
}

// writeProcfs tells what only Linux tells of a process: proc_pid_stat(5).
func writeProcfs(out *writer) {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return // another system
	}
	// The name of the program, in parentheses, may hold anything.
	_, rest, _ := bytes.Cut(stat[max(bytes.LastIndexByte(stat, ')'), 0):], []byte(" "))
	fields := bytes.Fields(rest)
	field := func(n int) (float64, bool) { // numbered as in the manual
		if n -= 3; n >= len(fields) {
			return 0, false
		}
		v, err := strconv.ParseFloat(string(fields[n]), 64)
		return v, err == nil
	}
	const ticks = 100 // a second: USER_HZ of every Linux that Go runs on
	user, ok := field(14)
	if system, also := field(15); ok && also {
		out.head("process_cpu_seconds_total", "counter", "Seconds of processor time.")
		out.value("process_cpu_seconds_total", nil, nil, (user+system)/ticks)
	}
	if pages, ok := field(24); ok {
		out.head("process_resident_memory_bytes", "gauge", "Memory of the process, in bytes.")
		out.value("process_resident_memory_bytes", nil, nil, pages*float64(os.Getpagesize()))
	}
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		out.head("process_open_fds", "gauge", "Files and connections that are open.")
		out.value("process_open_fds", nil, nil, float64(len(open)))
	}
}
