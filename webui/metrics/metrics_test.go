package metrics_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/metrics"
	"github.com/gatehouse-mdm/gatehouse/webui/metrics/metricstest"
)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func newMetrics(t *testing.T, readings ...metrics.Reading) (*metrics.Metrics, *clock) {
	t.Helper()
	c := &clock{at: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
	m, err := metrics.New(metrics.Config{
		Version: "v1.2.3", Commit: "abc", Readings: readings, Log: slog.New(slog.DiscardHandler), Now: c.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return m, c
}

// scrape returns the samples as a strict reader of the format sees them.
func scrape(t *testing.T, m http.Handler) map[string]float64 {
	t.Helper()
	rec := httptest.NewRecorder()
	m.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	resp := rec.Result()
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || got != metrics.ContentType {
		t.Fatalf("GET /metrics = %d, %q", resp.StatusCode, got)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	samples, err := metricstest.Parse(string(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return samples
}

func TestWhatIsCountedIsTold(t *testing.T) {
	t.Parallel()
	m, _ := newMetrics(t)
	m.CheckIn("Authenticate", nil)
	m.CheckIn("", nil)
	m.CheckIn("", nil)
	m.CheckIn("", errors.New("refused"))
	m.CheckIn("Authenticate\"} 1\nforged", nil)
	m.Pushed("sent")
	m.Delivered("a \"target\"\\\n", "taken")
	m.CommandEnded("1", "DeviceInformation", "acknowledged", true, 3*time.Second)
	m.CommandEnded("2", "DeviceInformation", "acknowledged", true, 365*24*time.Hour)
	m.CommandEnded("3", "DeviceInformation", "error", false, time.Second)
	m.CommandEnded("4", "NoSuchCommand", "expired", false, time.Second)
	got := scrape(t, m)
	for sample, want := range map[string]float64{
		`gatehouse_build_info{version="v1.2.3",commit="abc"}`:                              1,
		`gatehouse_checkins_total{type="Authenticate",result="ok"}`:                        1,
		`gatehouse_checkins_total{type="Report",result="ok"}`:                              2,
		`gatehouse_checkins_total{type="Report",result="error"}`:                           1,
		`gatehouse_checkins_total{type="other",result="ok"}`:                               1,
		`gatehouse_push_total{result="sent"}`:                                              1,
		`gatehouse_webhook_deliveries_total{target="a \"target\"\\\n",result="taken"}`:     1,
		`gatehouse_commands_total{request_type="DeviceInformation",status="acknowledged"}`: 2,
		`gatehouse_commands_total{request_type="DeviceInformation",status="error"}`:        1,
		`gatehouse_commands_total{request_type="other",status="expired"}`:                  1,
		`gatehouse_command_ack_seconds_bucket{le="2"}`:                                     0,
		`gatehouse_command_ack_seconds_bucket{le="5"}`:                                     1,
		`gatehouse_command_ack_seconds_bucket{le="604800"}`:                                1,
		`gatehouse_command_ack_seconds_bucket{le="+Inf"}`:                                  2,
		`gatehouse_command_ack_seconds_count`:                                              2,
		`gatehouse_command_ack_seconds_sum`:                                                3 + 365*24*3600,
	} {
		if v, ok := got[sample]; !ok || v != want {
			t.Errorf("%s = %v (there: %v), want %v", sample, v, ok, want)
		}
	}
	if got["go_goroutines"] < 1 || got["process_start_time_seconds"] == 0 {
		t.Errorf("process: %v goroutines, started at %v", got["go_goroutines"], got["process_start_time_seconds"])
	}
}

func TestACommandThatEndsTwiceIsCountedOnce(t *testing.T) {
	t.Parallel()
	m, _ := newMetrics(t)
	for range 3 { // as a transaction that runs again does
		m.CommandEnded("1", "DeviceInformation", "acknowledged", true, time.Second)
	}
	const sample = `gatehouse_commands_total{request_type="DeviceInformation",status="acknowledged"}`
	if got := scrape(t, m); got[sample] != 1 || got["gatehouse_command_ack_seconds_count"] != 1 {
		t.Errorf("%s = %v, of which %v were timed; want 1 each", sample, got[sample], got["gatehouse_command_ack_seconds_count"])
	}
}

func TestLabelsThatOthersChooseFillNoMemory(t *testing.T) {
	t.Parallel()
	m, _ := newMetrics(t)
	for i := range 5000 {
		m.Delivered(strconv.Itoa(i), "taken")
	}
	got := scrape(t, m)
	n := 0
	for sample := range got {
		if strings.HasPrefix(sample, "gatehouse_webhook_deliveries_total") {
			n++
		}
	}
	rest := got[`gatehouse_webhook_deliveries_total{target="other",result="other"}`]
	if n > 2001 || rest != 3000 {
		t.Errorf("%d series, %v in the one for others; want 2001 and 3000", n, rest)
	}
}

func TestReadingsAreKeptForHalfAMinute(t *testing.T) {
	t.Parallel()
	asked, fails := 0, false
	m, c := newMetrics(t, metrics.Reading{
		Name: "gatehouse_things", Help: "Things.", Labels: []string{"kind"},
		Read: func(_ context.Context, tell func(float64, ...string)) error {
			asked++
			tell(float64(asked), "b")
			tell(0.5, "a")
			if fails {
				return errors.New("no database")
			}
			return nil
		},
	})
	const b, failures = `gatehouse_things{kind="b"}`, `gatehouse_metrics_read_failures_total{metric="gatehouse_things"}`
	for _, step := range []struct {
		name  string
		pass  time.Duration
		fails bool
		want  float64
		gone  bool
	}{
		{name: "the first is read", want: 1},
		{name: "another soon after is not", pass: 29 * time.Second, want: 1},
		{name: "later it is read again", pass: time.Second, want: 2},
		{name: "what can't be read is left out", pass: 30 * time.Second, fails: true, gone: true},
		{name: "and read as soon as that goes", want: 4},
	} {
		c.pass(step.pass)
		fails = step.fails
		got := scrape(t, m)
		if v, ok := got[b]; ok == step.gone || v != step.want {
			t.Errorf("%s: %s = %v (there: %v), want %v", step.name, b, v, ok, step.want)
		}
		if !step.gone && got[`gatehouse_things{kind="a"}`] != 0.5 {
			t.Errorf("%s: the other value is not there", step.name)
		}
	}
	if got := scrape(t, m)[failures]; got != 1 {
		t.Errorf("%s = %v, want 1", failures, got)
	}
}

func TestMetricsAreOnlyRead(t *testing.T) {
	t.Parallel()
	m, _ := newMetrics(t)
	rec := httptest.NewRecorder()
	m.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/metrics", nil))
	if rec.Code != http.StatusMethodNotAllowed || rec.Header().Get("Allow") == "" {
		t.Errorf("POST = %d, Allow %q", rec.Code, rec.Header().Get("Allow"))
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	if _, err := metrics.New(metrics.Config{}); err == nil {
		t.Error("New took an empty Config")
	}
	_, err := metrics.New(metrics.Config{Version: "v", Log: slog.New(slog.DiscardHandler), Now: time.Now, Readings: []metrics.Reading{{Name: "bad-name"}}})
	if err == nil {
		t.Error("New took a reading of a bad name")
	}
}

func BenchmarkCounting(b *testing.B) {
	m, err := metrics.New(metrics.Config{Version: "v", Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.CheckIn("", nil)
		}
	})
}
