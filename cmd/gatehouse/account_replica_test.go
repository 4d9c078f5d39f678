package main

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

// TestReplicasEnrolByAccountTogether has each request of an enrollment come to another
// replica than the one before: what one has begun the other goes on with.
func TestReplicasEnrolByAccountTogether(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	rs := startReplicas(t, postgrestest.DSN(t), 2)
	first, second := rs.client(rs.only(0)), rs.client(rs.only(1))
	first.api(t, "POST", "/users", map[string]any{
		"email": anaEmail, "full_name": "Ana Lima", "password": anaPassword, "managed_apple_account": "ana@apple.example.com",
	}, nil)
	for _, method := range methods {
		first.api(t, "PUT", "/account-driven", map[string]any{
			"method":  method,
			"domains": []any{map[string]any{"domain": "example.com", "policy": map[string]any{"iPhone": "byod", "Mac": "adde"}}},
		}, nil)
		for _, model := range []mdmtest.Model{mdmtest.IPhone, mdmtest.Mac} {
			t.Run(method+" on "+string(model), func(t *testing.T) {
				way := &alternating{to: rs}
				pool, err := keyPool()
				must(t, err)
				d, err := mdmtest.NewDevice(mdmtest.Options{Model: model, Keys: pool, PlainHTTP: true, Transport: way, Account: &mdmtest.Account{
					Identifier: anaEmail, Person: &mdmtest.Browser{Password: anaPassword}, Reach: func(string) string { return replicaURL }, Manual: true,
				}})
				must(t, err)
				must(t, d.EnrollAccount(t.Context()))
				for range 4 {
					if _, err := d.Poll(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if way.served[0] < 6 || way.served[1] < 6 {
					t.Errorf("the replicas have answered %v requests", way.served)
				}
				id := second.accountDeviceID(t, d)
				if method == mdmtest.MethodOAuth2 {
					for range 2 { // at one replica, then at the other
						_, err := d.Refresh(t.Context())
						must(t, err)
						if _, err := d.Poll(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
				}
				// What one is told holds at the other.
				first.api(t, "POST", "/devices/"+id+"/unenroll", map[string]any{}, nil)
				for range 2 {
					p, err := d.Channel().Prepare(mdmtest.Result{Status: mdmtest.StatusIdle})
					must(t, err)
					p.Header.Set("Authorization", "Bearer "+d.Token().Access)
					req, err := p.Request(t.Context())
					must(t, err)
					resp, err := way.RoundTrip(req)
					must(t, err)
					if resp.StatusCode != http.StatusForbidden || resp.Header.Get("WWW-Authenticate") != "" {
						t.Errorf("after it was removed: %d", resp.StatusCode)
					}
				}
			})
		}
	}
	for i, s := range rs {
		if text := s.out.String(); strings.Contains(text, "level=ERROR") || strings.Contains(text, `"level":"ERROR"`) {
			t.Errorf("replica %d has failed:\n%s", i, text)
		}
	}
}

// accountDeviceID is the ID of a device that was enrolled by account.
func (s *serverProcess) accountDeviceID(t *testing.T, d *mdmtest.Device) string {
	t.Helper()
	var page struct{ Items []apiDevice }
	s.api(t, "GET", "/devices?limit=1000", nil, &page)
	for _, item := range page.Items {
		if item.ParentID == "" && item.State == "enrolled" && (item.EnrollmentID == d.ID() || said(item.UDID) == d.ID()) {
			return item.ID
		}
	}
	t.Fatalf("no device has the id %s", d.ID())
	return ""
}

// alternating is the way of a device whose requests go to the replicas by turns.
type alternating struct {
	to     replicas
	mu     sync.Mutex
	served [2]int
}

func (a *alternating) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	i := 0
	if a.served[0] > a.served[1] {
		i = 1
	}
	a.served[i]++
	a.mu.Unlock()
	return a.to.only(i).RoundTrip(r)
}
