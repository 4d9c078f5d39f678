package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/webui/metrics/metricstest"
)

var metricsAddress = regexp.MustCompile(`metrics are told without a login.*listen=(\S+)`)

// monitored starts a server and returns how to read its metrics.
func monitored(t *testing.T, args ...string) (*running, func() map[string]float64) {
	t.Helper()
	s := start(t, t.TempDir(), append(args, "--metrics-listen", "127.0.0.1:0", "--log-format", "text")...)
	m := metricsAddress.FindStringSubmatch(s.out.String())
	if m == nil {
		t.Fatalf("no address of the metrics in\n%s", s.out)
	}
	return s, func() map[string]float64 {
		t.Helper()
		resp, err := http.Get("http://" + m[1] + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("GET /metrics = %d, %v: %s", resp.StatusCode, err, text)
		}
		samples, err := metricstest.Parse(string(text))
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		return samples
	}
}

// names returns the metrics that there are samples of.
func names(samples map[string]float64) (list []string) {
	for sample := range samples {
		name, _, _ := strings.Cut(sample, "{")
		list = append(list, name)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// TestWhatADeviceDoesIsMeasured follows a device through an enrollment and a command.
func TestWhatADeviceDoesIsMeasured(t *testing.T) {
	t.Parallel()
	c := newComposed(t, nil)
	scrape := func() map[string]float64 {
		t.Helper()
		c.ahead.Add(int64(time.Minute)) // what was read before is old
		rec := httptest.NewRecorder()
		c.metrics.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		samples, err := metricstest.Parse(rec.Body.String())
		if err != nil {
			t.Fatalf("%v in\n%s", err, rec.Body)
		}
		return samples
	}
	const (
		ended    = `gatehouse_commands_total{request_type="CertificateList",status="acknowledged"}`
		timed    = `gatehouse_command_ack_seconds_count`
		enrolled = `gatehouse_devices{state="enrolled",type="device"}`
		reports  = `gatehouse_checkins_total{type="Report",result="ok"}`
	)
	before := scrape()
	d := c.enrolled(t, mdmtest.Options{})
	c.ordered(t, c.deviceItem(t, d).ID, "CertificateList", nil)
	_, err := d.Poll(t.Context())
	must(t, err)
	after := scrape()
	for sample, least := range map[string]float64{
		`gatehouse_checkins_total{type="Authenticate",result="ok"}`: 1,
		`gatehouse_checkins_total{type="TokenUpdate",result="ok"}`:  1,
		reports: 2, enrolled: 1, ended: 1, timed: 1,
	} {
		if got := after[sample] - before[sample]; got < least {
			t.Errorf("%s grew by %v, want %v or more", sample, got, least)
		}
	}
	now := float64(time.Now().Unix())
	expiries := 0
	for sample, v := range after {
		if strings.HasPrefix(sample, "gatehouse_certificate_expiry_timestamp_seconds") {
			if expiries++; v < now {
				t.Errorf("%s = %v is in the past", sample, v)
			}
		}
		if strings.Contains(sample, d.ID()) || strings.Contains(sample, c.deviceItem(t, d).ID) {
			t.Errorf("%s names a device", sample)
		}
	}
	if expiries < 3 {
		t.Errorf("%d certificates have an end, want those of three authorities", expiries)
	}
}

// TestMetricsHaveAListenerOfTheirOwn also holds docs/alerts.yml against them, as far as that can
// be done without Prometheus.
func TestMetricsHaveAListenerOfTheirOwn(t *testing.T) {
	t.Parallel()
	s, scrape := monitored(t)
	have := names(scrape())
	if got := s.get(t, "/metrics"); got.StatusCode != http.StatusNotFound {
		t.Errorf("GET /metrics at the address of the portal = %d, want 404", got.StatusCode)
	}
	for _, name := range []string{"gatehouse_build_info", "gatehouse_push_queue", "gatehouse_command_ack_seconds_bucket", "go_goroutines", "process_start_time_seconds"} {
		if !slices.Contains(have, name) {
			t.Errorf("%s is missing", name)
		}
	}

	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	text, err := os.ReadFile("../../docs/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalWithOptions(text, &file, yaml.DisallowUnknownField()); err != nil {
		t.Fatal(err)
	}
	// Those of which there are no samples before something happens.
	have = append(have, "gatehouse_devices", "gatehouse_checkins_total", "gatehouse_commands_total", "gatehouse_push_total",
		"gatehouse_push_trouble", "gatehouse_events_total", "gatehouse_enrollment_attempts_total", "gatehouse_metrics_read_failures_total",
		"gatehouse_webhook_queue", "gatehouse_webhook_failing_seconds")
	metric := regexp.MustCompile(`\b(?:gatehouse|process|go)_[a-z_]+`)
	rules := 0
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			rules++
			if r.Alert == "" || r.Expr == "" || r.Annotations["summary"] == "" || r.Labels["severity"] == "" {
				t.Errorf("the rule %+v lacks something", r)
			}
			for _, name := range metric.FindAllString(r.Expr, -1) {
				if !slices.Contains(have, name) {
					t.Errorf("%s is about %s, which is no metric", r.Alert, name)
				}
			}
		}
	}
	if rules == 0 {
		t.Error("there are no rules")
	}
}
