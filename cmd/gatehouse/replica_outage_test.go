package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// TestReplicasOutliveTheirDatabase takes the database away under load, in several ways.
// Clients are told to come again, and nothing that they were told is lost.
func TestReplicasOutliveTheirDatabase(t *testing.T) {
	storagetest.AnyEngine(t)
	if testing.Short() {
		t.Skip("stops a database several times")
	}
	t.Parallel()
	server := postgrestest.Start(t)
	rs := startReplicas(t, server.DSN(), 2)
	w := newWitness(t, rs)
	l := startLoad(t, rs, 2, func(err error) {
		// What devices get is looked at below.
		if errors.Is(err, mdmtest.ErrRemoved) || !strings.Contains(err.Error(), "503") {
			t.Errorf("a client ends with: %v", err)
		}
	})
	halt := sync.OnceFunc(l.halt)
	defer halt()
	l.goesOn(t, 30)

	for _, mode := range []postgrestest.Mode{postgrestest.Fast, postgrestest.Immediate} {
		server.Stop(mode)
		rs.becomeReady(t, false, "can’t be reached")
		w.findsNothing(t)
		server.Start()
		rs.becomeReady(t, true, "ok")
		l.goesOn(t, 30)
	}

	// As a provider does when the disk is nearly full.
	server.Exec("ALTER ROLE gatehouse SET default_transaction_read_only = on")
	server.Exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'gatehouse'")
	rs.becomeReady(t, false, "does not take writes")
	w.findsNoWrites(t)
	server.Exec("ALTER ROLE gatehouse RESET default_transaction_read_only")
	rs.becomeReady(t, true, "ok")
	l.goesOn(t, 30)

	// Sessions that end while it runs are nobody's concern.
	for range 10 {
		server.Exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'gatehouse'")
		l.goesOn(t, 5)
	}
	halt()
	l.settle(t)
	w.goesOn(t)
	for path, statuses := range l.seen.count {
		for status := range statuses {
			if status != http.StatusOK && status != http.StatusServiceUnavailable {
				t.Errorf("%s answered %d", path, status)
			}
		}
	}
	t.Logf("answers to devices: %v", l.seen.count)
}

// becomeReady waits until every replica says that it is ready, or not, in the given words.
func (rs replicas) becomeReady(t *testing.T, ready bool, words string) {
	t.Helper()
	want := http.StatusServiceUnavailable
	if ready {
		want = http.StatusOK
	}
	browsers := rs.browsers(t)
	inParallel(t, len(rs), len(rs), func(i int) error {
		deadline := time.After(time.Minute)
		for tick := time.Tick(50 * time.Millisecond); ; {
			got := browsers[i].get(t, "/readyz", "Accept", "*/*")
			if got.StatusCode == want && strings.Contains(got.body, words) {
				return nil
			}
			select {
			case <-tick:
			case <-deadline:
				return fmt.Errorf("/readyz of replica %d remains %d, want %d and %q:\n%s", i, got.StatusCode, want, words, got.body)
			}
		}
	})
}

// witness is clients that were busy when the database went away.
type witness struct {
	rs       replicas
	link     string          // URL of a profile
	half     *mdmtest.Device // has its profile, and no certificate
	enrolled *mdmtest.Device // has a command in hand
	command  string
}

func newWitness(t *testing.T, rs replicas) *witness {
	t.Helper()
	ctx := t.Context()
	client := rs.client(rs.turns(1, nil))
	w := &witness{rs: rs, link: client.link(t, 10)}
	w.half = rs.device(t, rs.turns(1, nil), nil)
	profile, err := w.half.Download(ctx, w.link)
	if err == nil {
		err = w.half.Install(profile)
	}
	if err != nil {
		t.Fatal(err)
	}
	var id string
	w.enrolled, id = rs.enrolled(t)
	client.api(t, "POST", "/commands", map[string]any{"request_type": "ProfileList", "device_ids": []string{id}}, nil)
	cmd, err := w.enrolled.Idle(ctx)
	if err != nil || cmd == nil {
		t.Fatalf("the first command is %v, %v", cmd, err)
	}
	w.command = cmd.UUID
	return w
}

// findsNoWrites has clients do what writes, all at once and at either replica.
func (w *witness) findsNoWrites(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	other := w.rs.device(t, w.rs.turns(1, nil), nil)
	var all sync.WaitGroup
	for name, send := range map[string]func() error{
		"Acknowledged": func() error {
			_, err := w.enrolled.Report(ctx, mdmtest.Result{CommandUUID: w.command, Status: mdmtest.StatusAcknowledged})
			return err
		},
		"TokenUpdate":  func() error { return w.enrolled.TokenUpdate(ctx) },
		"Authenticate": func() error { return w.enrolled.Authenticate(ctx) },
		"SCEP":         func() error { return w.half.RequestIdentity(ctx) },
		"a profile":    func() error { _, err := other.Download(ctx, w.link); return err },
	} {
		all.Go(func() {
			err := send()
			var answer *mdmtest.HTTPError
			if !errors.As(err, &answer) || answer.Status != http.StatusServiceUnavailable {
				t.Errorf("%s: %v, want 503", name, err)
			}
		})
	}
	for i, b := range w.rs.browsers(t) {
		all.Go(func() {
			if got := b.post(t, "/admin/login", url.Values{"email": {ownerEmail}, "password": {"wrong"}}); got.StatusCode != 503 {
				t.Errorf("sign in at replica %d = %d, want 503", i, got.StatusCode)
			}
		})
		all.Go(func() {
			err := w.rs.client(w.rs.only(i)).call("POST", "/enrollment-links", map[string]any{"name": "x", "login": "none"}, nil)
			if err == nil || !strings.Contains(err.Error(), "503") {
				t.Errorf("a link at replica %d: %v, want 503", i, err)
			}
		})
		for _, path := range []string{"/livez", "/ca.pem", "/version"} {
			if got := b.get(t, path); got.StatusCode != 200 {
				t.Errorf("%s = %d, want 200: it needs no database", path, got.StatusCode)
			}
		}
	}
	all.Wait()
	if got := w.enrolled.State(); got != mdmtest.Enrolled {
		t.Errorf("the device is %v", got)
	}
}

// findsNothing has clients read, too.
func (w *witness) findsNothing(t *testing.T) {
	t.Helper()
	var all sync.WaitGroup
	all.Go(func() { w.findsNoWrites(t) })
	for _, b := range w.rs.browsers(t) {
		all.Go(func() {
			got := b.get(t, "/api/v1/devices", "Authorization", "Bearer "+apiToken)
			var p webui.Problem
			if err := json.Unmarshal([]byte(got.body), &p); err != nil || got.StatusCode != 503 || p.Code != "database_unavailable" || got.Header.Get("Retry-After") == "" {
				t.Errorf("/api/v1/devices = %d, Retry-After %q: %s", got.StatusCode, got.Header.Get("Retry-After"), got.body)
			}
		})
		all.Go(func() {
			if got := b.get(t, "/admin/devices", "Cookie", "gatehouse=some-session-0123456789"); got.StatusCode != 503 {
				t.Errorf("a page for a session that can't be looked up = %d, want 503", got.StatusCode)
			}
		})
	}
	all.Wait()
}

// goesOn has the clients take up what they were at.
func (w *witness) goesOn(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	if err := w.half.RequestIdentity(ctx); err != nil {
		t.Errorf("the certificate, after all: %v", err)
	} else if err := errors.Join(w.half.Authenticate(ctx), w.half.TokenUpdate(ctx)); err != nil {
		t.Errorf("the rest of the enrollment: %v", err)
	}
	if _, err := w.enrolled.Poll(ctx); err != nil {
		t.Error(err)
	}
	var c struct {
		Devices []struct{ State string }
	}
	w.rs.client(w.rs.only(0)).api(t, "GET", "/commands/"+w.command, nil, &c)
	if len(c.Devices) != 1 || c.Devices[0].State != "acknowledged" {
		t.Errorf("the command that could not be answered: %+v", c)
	}
}
