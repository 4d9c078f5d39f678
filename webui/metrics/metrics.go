// Package metrics counts what the server does, and tells it to Prometheus in its text
// format. Nothing that it tells names a device or a person: labels come from short lists.
//
// Who counts knows nothing of this package: it is handed functions, and what stands in the
// database is read when it is asked for.
package metrics

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// ContentType is that of the answers: Prometheus' text exposition format.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Lifetimes of what is read from the database, since whoever asks may ask every second.
const (
	readingLife = 30 * time.Second // until it is read again
	readingTime = 10 * time.Second // that one may take
)

// Other is the value of a label in the place of one that is on no list.
const Other = "other"

// Config says what Metrics needs.
type Config struct {
	Version string // of the program, as are the following
	Commit  string // may be empty

	Readings []Reading
	Log      *slog.Logger
	Now      func() time.Time
}

// Reading is a metric that is read when somebody asks, and kept for half a minute.
type Reading struct {
	Name, Help string
	Labels     []string
	Counter    bool // it only grows; else it is a gauge

	// Read tells of each value and of its labels, in the order of Labels. What it has told
	// when it fails is dropped.
	Read func(ctx context.Context, tell func(value float64, labels ...string)) error
}

// Metrics counts, and is the handler of /metrics.
type Metrics struct {
	checkIns, commands, pushes, deliveries *counter
	acknowledged                           *histogram
	readings                               []*reading
	failures                               *counter
	version, commit                        string
	log                                    *slog.Logger
	now                                    func() time.Time
	started                                time.Time

	mu       sync.Mutex // of what follows
	finished recent
}

// reading is a Reading, and what it last told.
type reading struct {
	Reading
	mu    sync.Mutex
	at    time.Time // when it was read; zero: never
	lines []line
}

// New returns Metrics, or says what c lacks.
func New(c Config) (*Metrics, error) {
	if c.Version == "" || c.Log == nil || c.Now == nil {
		return nil, errors.New("metrics: Version, Log and Now are required")
	}
	m := &Metrics{
		checkIns: newCounter("gatehouse_checkins_total",
			"Messages of devices, by MessageType (Report is a result of a command, or a request for the next one) and by how they were answered: ok, or error.", "type", "result"),
		commands: newCounter("gatehouse_commands_total",
			"Commands that came to an end on a device, by their last state.", "request_type", "status"),
		pushes: newCounter("gatehouse_push_total",
			"Pushes by what Apple answered.", "result"),
		deliveries: newCounter("gatehouse_webhook_deliveries_total",
			"Requests to webhook targets, by the target's ID and how they went: delivered, or the step at which they failed.", "target", "result"),
		acknowledged: newHistogram("gatehouse_command_ack_seconds",
			"Seconds from the moment a command was queued for a device to the device's acknowledgement.",
			1, 2, 5, 15, 60, 5*60, 15*60, 3600, 6*3600, 24*3600, 7*24*3600),
		failures: newCounter("gatehouse_metrics_read_failures_total",
			"Metrics that could not be read from the database, and are left out of the answer.", "metric"),
		version: c.Version, commit: c.Commit, log: c.Log, now: c.Now, started: c.Now(),
	}
	for _, r := range c.Readings {
		if !validName(r.Name) || r.Help == "" || r.Read == nil {
			return nil, errors.New("metrics: a reading needs a valid Name, Help and Read: " + r.Name)
		}
		m.readings = append(m.readings, &reading{Reading: r})
	}
	return m, nil
}

// messages are the MessageTypes that devices send (PROTOCOL 2, 4).
var messages = map[string]bool{
	"Authenticate": true, "TokenUpdate": true, "CheckOut": true, "UserAuthenticate": true,
	"GetBootstrapToken": true, "SetBootstrapToken": true, "DeclarativeManagement": true, "GetToken": true,
}

// CheckIn counts a message of a device: its MessageType, empty for a report of a command's
// result, and the error that it was answered with.
func (m *Metrics) CheckIn(message string, err error) {
	switch {
	case message == "":
		message = "Report"
	case !messages[message]:
		message = Other
	}
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.checkIns.add(message, result)
}

// CommandEnded counts a command that came to its end on a device; id tells it from all
// others. It may be called in a transaction, which may run more than once: an end of which it
// has been told just before is not counted again. waited is the time since the command was
// queued.
func (m *Metrics) CommandEnded(id, requestType, status string, acknowledged bool, waited time.Duration) {
	m.mu.Lock()
	fresh := m.finished.add(id)
	m.mu.Unlock()
	if !fresh {
		return
	}
	if _, known := command.Lookup(requestType); !known {
		requestType = Other
	}
	m.commands.add(requestType, status)
	if acknowledged {
		m.acknowledged.observe(waited.Seconds())
	}
}

// Pushed counts a push by its outcome, out of a short list.
func (m *Metrics) Pushed(result string) { m.pushes.add(result) }

// Delivered counts a request to a webhook target, by the target's name and by an outcome out
// of a short list.
func (m *Metrics) Delivered(target, result string) { m.deliveries.add(target, result) }

// recent remembers what was added last, in two halves that take turns.
type recent struct{ now, before map[string]struct{} }

const recentHalf = 2048

// add says whether id is new.
func (r *recent) add(id string) bool {
	if _, there := r.now[id]; there {
		return false
	}
	if _, there := r.before[id]; there {
		return false
	}
	if r.now == nil || len(r.now) >= recentHalf {
		r.before, r.now = r.now, make(map[string]struct{})
	}
	r.now[id] = struct{}{}
	return true
}

// ServeHTTP answers with all there is to tell.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "Metrics are read by GET.", http.StatusMethodNotAllowed)
		return
	}
	out := &writer{}
	out.head("gatehouse_build_info", "gauge", "Always 1: which program this is.")
	out.value("gatehouse_build_info", []string{"version", "commit"}, []string{m.version, m.commit}, 1)
	for _, c := range []*counter{m.checkIns, m.commands, m.pushes, m.deliveries} {
		c.write(out)
	}
	m.acknowledged.write(out)
	for _, read := range m.readings {
		m.tell(r.Context(), out, read)
	}
	m.failures.write(out)
	writeProcess(out, m.started)
	w.Header().Set("Content-Type", ContentType)
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(out.Bytes()) // a client that is gone asks again
}

// tell writes a reading. One that fails is left out: an old value would look like a good one.
func (m *Metrics) tell(ctx context.Context, out *writer, r *reading) {
	r.mu.Lock() // whoever comes meanwhile gets what is being read
	defer r.mu.Unlock()
	if r.at.IsZero() || m.now().Sub(r.at) >= readingLife {
		ctx, cancel := context.WithTimeout(ctx, readingTime)
		defer cancel()
		var lines []line
		err := r.Read(ctx, func(value float64, labels ...string) { lines = append(lines, line{labels, value}) })
		if err != nil {
			m.failures.add(r.Name)
			m.log.WarnContext(ctx, "metric not read", "metric", r.Name, "err", err)
			r.at, r.lines = time.Time{}, nil
			return
		}
		r.at, r.lines = m.now(), lines
	}
	kind := "gauge"
	if r.Counter {
		kind = "counter"
	}
	out.head(r.Name, kind, r.Help)
	sortLines(r.lines)
	for _, l := range r.lines {
		out.value(r.Name, r.Labels, l.labels, l.value)
	}
}

// writer writes the text format.
type writer struct{ bytes.Buffer }
