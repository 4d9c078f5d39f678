package metrics

import (
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// line is a value with its labels.
type line struct {
	labels []string
	value  float64
}

func sortLines(lines []line) {
	sort.Slice(lines, func(i, j int) bool { return slices.Compare(lines[i].labels, lines[j].labels) < 0 })
}

// maxSeries bounds the label values of one counter: what comes in above goes to one series,
// so that nobody can fill the memory by it.
const maxSeries = 2000

// counter is a number for each set of label values.
type counter struct {
	name, help string
	labels     []string

	mu     sync.Mutex
	series map[[2]string]*atomic.Uint64 // of two labels at most
}

func newCounter(name, help string, labels ...string) *counter {
	return &counter{name: name, help: help, labels: labels, series: make(map[[2]string]*atomic.Uint64)}
}

func (c *counter) add(labels ...string) {
	var key [2]string
	copy(key[:], labels)
	c.mu.Lock()
	n := c.series[key]
	if n == nil && len(c.series) >= maxSeries {
		for i := range labels {
			key[i] = Other
		}
		n = c.series[key]
	}
	if n == nil {
		n = new(atomic.Uint64)
		c.series[key] = n
	}
	c.mu.Unlock()
	n.Add(1)
}

func (c *counter) write(out *writer) {
	c.mu.Lock()
	lines := make([]line, 0, len(c.series))
	for key, n := range c.series {
		lines = append(lines, line{slices.Clone(key[:len(c.labels)]), float64(n.Load())})
	}
	c.mu.Unlock()
	sortLines(lines)
	out.head(c.name, "counter", c.help)
	for _, l := range lines {
		out.value(c.name, c.labels, l.labels, l.value)
	}
}

// histogram counts values by the bounds that they do not exceed.
type histogram struct {
	name, help string
	bounds     []float64

	mu     sync.Mutex
	counts []uint64 // one more than bounds
	sum    float64
}

func newHistogram(name, help string, bounds ...float64) *histogram {
	return &histogram{name: name, help: help, bounds: bounds, counts: make([]uint64, len(bounds)+1)}
}

func (h *histogram) observe(v float64) {
	i := sort.SearchFloat64s(h.bounds, v)
	h.mu.Lock()
	h.counts[i]++
	h.sum += v
	h.mu.Unlock()
}

func (h *histogram) write(out *writer) {
	h.mu.Lock()
	counts, sum := slices.Clone(h.counts), h.sum
	h.mu.Unlock()
	out.head(h.name, "histogram", h.help)
	var total uint64
	for i, n := range counts {
		bound := "+Inf"
		if i < len(h.bounds) {
			bound = number(h.bounds[i])
		}
		total += n
		out.value(h.name+"_bucket", []string{"le"}, []string{bound}, float64(total))
	}
	out.value(h.name+"_sum", nil, nil, sum)
	out.value(h.name+"_count", nil, nil, float64(total))
}

// validName says whether name can name a metric.
func validName(name string) bool {
	for i, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', c == '_', i > 0 && '0' <= c && c <= '9':
		default:
			return false
		}
	}
	return name != ""
}

var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// head begins a metric.
func (w *writer) head(name, kind, help string) {
	w.WriteString("# HELP " + name + " " + escapeHelp.Replace(help) + "\n")
	w.WriteString("# TYPE " + name + " " + kind + "\n")
}

// value writes one sample.
func (w *writer) value(name string, labels, values []string, v float64) {
	w.WriteString(name)
	for i, label := range labels {
		between, value := byte(','), ""
		if i == 0 {
			between = '{'
		}
		if i < len(values) {
			value = strings.ToValidUTF8(values[i], "�")
		}
		w.WriteByte(between)
		w.WriteString(label + `="` + escapeLabel.Replace(value) + `"`)
	}
	if len(labels) > 0 {
		w.WriteByte('}')
	}
	w.WriteString(" " + number(v) + "\n")
}

// number writes v as Prometheus reads it.
func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
