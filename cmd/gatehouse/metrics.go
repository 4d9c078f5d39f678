package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/webhook"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui/metrics"
)

// checkMetrics checks where Prometheus finds /metrics.
func (c *serveCommand) checkMetrics(cfg *config) error {
	if cfg.metricsListen = c.MetricsListen; cfg.metricsListen == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(cfg.metricsListen)
	if err != nil {
		return invalid("metrics-listen", "%q is no address such as 127.0.0.1:9091", cfg.metricsListen)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return invalid("metrics-listen", "%q is no port", port)
	}
	if port != "0" && slices.Contains([]string{cfg.listen, cfg.mtlsListen, cfg.pkiListen, cfg.probeListen}, cfg.metricsListen) {
		return invalid("metrics-listen", "must be an address of its own: who may read metrics is another question than who may enroll")
	}
	return nil
}

// listenMetrics listens for Prometheus; nil: nowhere.
func listenMetrics(ctx context.Context, cfg config) (net.Listener, error) {
	if cfg.metricsListen == "" {
		return nil, nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", cfg.metricsListen)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use by another program; choose another with --metrics-listen", cfg.metricsListen)
	case err != nil:
		return nil, fmt.Errorf("--metrics-listen: %w", err)
	}
	return l, nil
}

// onlyMetrics is all that there is on the listener for metrics.
func onlyMetrics(m http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", m)
	return mux
}

// gauges is what metrics are read from.
type gauges struct {
	db      storage.DB
	depot   *depot.Depot
	devices *mdm.Service
	cert    *certificate // nil without TLS
	url     *url.URL
	push    *apns.Certificates
	targets *webhook.Service
	log     *slog.Logger
	now     func() time.Time
}

// newMetrics returns what counts, and what is read when somebody asks.
func newMetrics(ctx context.Context, s gauges) (*metrics.Metrics, error) {
	events := &eventCounts{db: s.db, actions: make(map[[2]string]int), stages: make(map[[2]string]int)}
	err := s.db.View(ctx, func(tx storage.Tx) (err error) {
		events.after, err = event.LastSeq(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	build := readBuildInfo()
	return metrics.New(metrics.Config{
		Version: build.Version, Commit: build.Commit, Log: s.log, Now: s.now,
		Readings: []metrics.Reading{
			{
				Name: "gatehouse_devices", Help: "Enrollments by state and type.", Labels: []string{"state", "type"},
				Read: s.readDevices,
			}, {
				Name: "gatehouse_certificate_expiry_timestamp_seconds", Labels: []string{"kind", "name"},
				Help: "When a certificate ends, in seconds since 1970: push certificates by topic, the TLS certificate, and the authorities that issue or are relied on.",
				Read: s.readExpiry,
			}, {
				Name: "gatehouse_push_queue", Help: "Devices that should have been pushed by now; of a topic at most 10,000 are counted.",
				Read: s.readPushQueue,
			}, {
				Name: "gatehouse_push_trouble", Labels: []string{"topic", "trouble"},
				Help: "1 for a topic whose devices can't be pushed, or not all of them, by what is the matter.",
				Read: s.readPushTrouble,
			}, {
				Name: "gatehouse_webhook_queue", Labels: []string{"target"},
				Help: "Deliveries that wait for a webhook target; at most 10,000 are counted.",
				Read: s.readWebhookQueue,
			}, {
				Name: "gatehouse_webhook_failing_seconds", Labels: []string{"target"},
				Help: "For how long a webhook target has taken nothing that it was sent.",
				Read: s.readWebhookFailures,
			}, {
				Name: "gatehouse_events_total", Labels: []string{"action", "outcome"}, Counter: true,
				Help: "Entries of the audit log since the start of this server, of all servers on the database.",
				Read: events.readActions,
			}, {
				Name: "gatehouse_enrollment_attempts_total", Labels: []string{"stage", "result"}, Counter: true,
				Help: "Enrollments that came to a stage, or were refused there, since the start of this server, on all servers on the database.",
				Read: events.readStages,
			},
		},
	})
}

type tell = func(value float64, labels ...string)

func (s gauges) readDevices(ctx context.Context, tell tell) error {
	count, err := s.devices.Census(ctx)
	for kind, n := range count {
		tell(float64(n), string(kind.State), string(kind.Type))
	}
	return err
}

func (s gauges) readExpiry(ctx context.Context, tell tell) error {
	unix := func(t time.Time) float64 { return float64(t.Unix()) }
	for _, a := range s.depot.Authorities() {
		if a.State() != depot.StateRetired {
			tell(unix(a.Certificate().NotAfter), "authority", a.ID())
		}
	}
	if s.cert != nil {
		if current := s.cert.current.Load(); current != nil && current.Leaf != nil {
			tell(unix(current.Leaf.NotAfter), "tls", s.url.Hostname())
		}
	}
	var push []apns.Certificate
	err := s.db.View(ctx, func(tx storage.Tx) error {
		push = nil
		for c, err := range s.push.All(tx) {
			if err != nil {
				return err
			}
			push = append(push, c)
		}
		return nil
	})
	for _, c := range push {
		if len(c.Chain) > 0 { // else it waits to be activated
			tell(unix(c.NotAfter), "push", c.Topic)
		}
	}
	return err
}

// mostWaiting bounds what is counted of a topic's devices: an alarm needs no larger number.
const mostWaiting = 10_000

func (s gauges) readPushQueue(ctx context.Context, tell tell) error {
	n := 0
	err := s.db.View(ctx, func(tx storage.Tx) error {
		n = 0
		for p, err := range mdm.AllPushing(tx) {
			if err != nil {
				return err
			}
			for _, err := range mdm.Wakeups(tx, p.Topic, s.now(), mostWaiting) {
				if err != nil {
					return err
				}
				n++
			}
		}
		return nil
	})
	tell(float64(n))
	return err
}

func (s gauges) readPushTrouble(ctx context.Context, tell tell) error {
	var topics []mdm.Pushing
	err := s.db.View(ctx, func(tx storage.Tx) error {
		topics = nil
		for p, err := range mdm.AllPushing(tx) {
			if err != nil {
				return err
			}
			topics = append(topics, p)
		}
		return nil
	})
	for _, p := range topics {
		if p.Trouble != mdm.NoPushTrouble {
			tell(1, p.Topic, string(p.Trouble))
		}
		if !p.RefusedAt.IsZero() {
			tell(1, p.Topic, string(mdm.PushSomeRefused))
		}
	}
	return err
}

// readTargets tells of each webhook target, by a name that no other one has.
func (s gauges) readTargets(ctx context.Context, of func(name string, st webhook.Standing)) error {
	targets, err := s.targets.Targets(ctx)
	if err != nil {
		return err
	}
	taken := make(map[string]bool)
	for _, t := range targets {
		name := t.Name
		if taken[name] {
			name += " " + t.ID
		}
		taken[name] = true
		standing, err := s.targets.Standing(ctx, t.ID, mostWaiting)
		if errors.Is(err, storage.ErrNotFound) {
			continue // it was deleted meanwhile
		} else if err != nil {
			return err
		}
		of(name, standing)
	}
	return nil
}

func (s gauges) readWebhookQueue(ctx context.Context, tell tell) error {
	return s.readTargets(ctx, func(name string, st webhook.Standing) { tell(float64(st.Waiting), name) })
}

func (s gauges) readWebhookFailures(ctx context.Context, tell tell) error {
	return s.readTargets(ctx, func(name string, st webhook.Standing) {
		if !st.FailingSince.IsZero() {
			tell(s.now().Sub(st.FailingSince).Seconds(), name)
		}
	})
}

// eventCounts counts what is new in the audit log when somebody asks.
type eventCounts struct {
	db storage.DB

	mu              sync.Mutex
	after           uint64            // the place of the last event that was counted
	actions, stages map[[2]string]int // by action and outcome, by stage and result
}

// Events that are read in a transaction, and at most when somebody asks: who asks seldom
// catches up.
const (
	eventsAtOnce  = 1000
	eventsAReader = 50
)

// catchUp counts what is new. The caller holds mu.
func (e *eventCounts) catchUp(ctx context.Context) error {
	for range eventsAReader {
		var list []event.Sequenced
		err := e.db.View(ctx, func(tx storage.Tx) (err error) {
			list, err = event.Feed(tx, e.after, eventsAtOnce)
			return err
		})
		if err != nil || len(list) == 0 {
			return err
		}
		for _, one := range list {
			e.after = one.Seq
			e.actions[[2]string{one.Action, string(one.Outcome)}]++
			if stage := stageOf(one.Event); stage != "" {
				e.stages[[2]string{stage, string(one.Outcome)}]++
			}
		}
	}
	return nil
}

// stageOf is the stage of an enrollment that e tells of; empty: none.
func stageOf(e event.Event) string {
	switch e.Action {
	case "certificate.issued":
		if e.Details["attempt"] != "" {
			return "identity_issued"
		}
	case "device.checked_in":
		return "checked_in"
	case "device.enrolled":
		return "enrolled"
	case "device.refused":
		if e.Details["attempt"] != "" {
			return "checked_in"
		}
	}
	return ""
}

func (e *eventCounts) readActions(ctx context.Context, tell tell) error {
	return e.read(ctx, e.actions, tell)
}

func (e *eventCounts) readStages(ctx context.Context, tell tell) error {
	return e.read(ctx, e.stages, tell)
}

func (e *eventCounts) read(ctx context.Context, of map[[2]string]int, tell tell) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.catchUp(ctx); err != nil {
		return err
	}
	for labels, n := range of {
		tell(float64(n), labels[0], labels[1])
	}
	return nil
}

// countCommand tells m of a command's end; it is an [mdm.Observer].
func countCommand(m *metrics.Metrics) mdm.Observer {
	return func(_ storage.Tx, e mdm.Entry) error {
		m.CommandEnded(e.Seq+string(e.DeviceID), e.RequestType, string(e.State), e.State == mdm.Acknowledged, e.FinishedAt.Sub(e.CreatedAt))
		return nil
	}
}
