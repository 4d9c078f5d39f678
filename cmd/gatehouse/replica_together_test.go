package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

const (
	ownerEmail    = "ana@example.com"
	ownerPassword = "correct horse battery staple"
)

// TestWhatOneReplicaWasToldTheOtherKnows does one step at the first replica and the next
// one at the second.
func TestWhatOneReplicaWasToldTheOtherKnows(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	rs := startReplicas(t, postgrestest.DSN(t), 2, ownerArgs(t)...)
	for name, story := range map[string]func(t *testing.T, rs replicas){
		"a setup link":                    setupLinkElsewhere,
		"a sign-in and its end":           signInElsewhere,
		"failed sign-ins":                 lockoutTogether,
		"a token and its end":             tokenElsewhere,
		"a request that is sent again":    idempotencyElsewhere,
		"a command that was acknowledged": waitElsewhere,
		"the end of a device's trust":     trustEndsElsewhere,
	} {
		t.Run(name, func(t *testing.T) { story(t, rs) })
	}
}

// ownerArgs are the flags that make the first owner.
func ownerArgs(t *testing.T) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(ownerPassword), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--admin-email", ownerEmail, "--admin-password-file", file}
}

// browsers returns one browser's way to each of the replicas: they share its cookies.
func (rs replicas) browsers(t *testing.T) []*running {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	list := make([]*running, len(rs))
	for i := range rs {
		list[i] = &running{url: replicaURL, client: &http.Client{
			Jar: jar, Transport: rs.only(i), Timeout: time.Minute,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}}
	}
	return list
}

func (s *running) post(t *testing.T, path string, form url.Values) reply {
	t.Helper()
	return s.send(t, s.client, "POST", path, form)
}

func setupLinkElsewhere(t *testing.T, rs replicas) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"setup-link", "--data-dir", rs[0].dir}, nil, nil, &out, &errs); code != exitDone {
		t.Fatalf("setup-link = %d: %s", code, &errs)
	}
	_, token, _ := strings.Cut(strings.TrimSpace(out.String()), "/setup#t=")
	b := rs.browsers(t)
	if got := b[1].post(t, "/setup", url.Values{"token": {token}}); got.StatusCode != 303 {
		t.Fatalf("the first replica's link at the second = %d, want 303", got.StatusCode)
	}
	if got := b[0].get(t, "/admin/devices"); got.StatusCode != 200 {
		t.Errorf("/admin/devices at the first = %d, want 200", got.StatusCode)
	}
	if got := rs.browsers(t)[0].post(t, "/setup", url.Values{"token": {token}}); got.StatusCode != 404 {
		t.Errorf("the link again, at the first = %d, want 404", got.StatusCode)
	}
}

func signInElsewhere(t *testing.T, rs replicas) {
	b := rs.browsers(t)
	if got := b[0].post(t, "/admin/login", url.Values{"email": {ownerEmail}, "password": {ownerPassword}}); got.StatusCode != 303 {
		t.Fatalf("sign in at the first = %d, want 303", got.StatusCode)
	}
	for i := range 4 {
		if got := b[1-i%2].get(t, "/admin/devices"); got.StatusCode != 200 || !strings.Contains(got.body, ownerEmail) {
			t.Errorf("/admin/devices at replica %d = %d, want 200 and the owner's name", 1-i%2, got.StatusCode)
		}
	}
	// What the cookie was is kept, as by somebody who has stolen it.
	site, err := url.Parse(replicaURL)
	if err != nil {
		t.Fatal(err)
	}
	cookies := b[0].client.Jar.Cookies(site)
	if got := b[0].post(t, "/admin/logout", url.Values{}); got.StatusCode != 303 {
		t.Errorf("sign out at the first = %d, want 303", got.StatusCode)
	}
	thief := rs.browsers(t)
	thief[1].client.Jar.SetCookies(site, cookies)
	if got := thief[1].get(t, "/admin/devices"); got.StatusCode != 303 {
		t.Errorf("/admin/devices at the second after that = %d, want 303 to the login", got.StatusCode)
	}
}

func lockoutTogether(t *testing.T, rs replicas) {
	const tries, most = 20, 8
	b := rs.browsers(t)
	statuses := map[int]int{}
	var mu sync.Mutex
	inParallel(t, 4, tries, func(i int) error {
		got := b[i%2].post(t, "/admin/login", url.Values{"email": {"nobody@example.com"}, "password": {"wrong"}})
		mu.Lock()
		defer mu.Unlock()
		statuses[got.StatusCode]++
		return nil
	})
	if statuses[401] != most || statuses[429] != tries-most {
		t.Errorf("%d wrong passwords, at both replicas at once: %v, want %d times 401 and then 429", tries, statuses, most)
	}
	for i := range b {
		if got := b[i].post(t, "/admin/login", url.Values{"email": {"nobody@example.com"}, "password": {"wrong"}}); got.StatusCode != 429 {
			t.Errorf("one more at replica %d = %d, want 429", i, got.StatusCode)
		}
	}
}

func tokenElsewhere(t *testing.T, rs replicas) {
	first, second := rs.client(rs.only(0)), rs.browsers(t)[1]
	var token struct{ ID, Token string }
	first.api(t, "POST", "/tokens", map[string]any{"name": "test", "scopes": []string{"read_only"}}, &token)
	for range 2 { // the second time it may be remembered
		if got := second.get(t, "/api/v1/devices", "Authorization", "Bearer "+token.Token); got.StatusCode != 200 {
			t.Errorf("a token of the first replica at the second = %d, want 200", got.StatusCode)
		}
	}
	if err := first.call("DELETE", "/tokens/"+token.ID, nil, nil); err != nil {
		t.Fatal(err)
	}
	if got := second.get(t, "/api/v1/devices", "Authorization", "Bearer "+token.Token); got.StatusCode != 401 {
		t.Errorf("after the first has revoked it = %d, want 401", got.StatusCode)
	}
}

// enrolled enrolls a device whose requests alternate, and returns it with its id.
func (rs replicas) enrolled(t *testing.T) (d *mdmtest.Device, id string) {
	t.Helper()
	return rs.enrolledBy(t, rs.turns(1, nil))
}

// enrolledBy enrolls a device that goes by the given way.
func (rs replicas) enrolledBy(t *testing.T, way *turns) (d *mdmtest.Device, id string) {
	t.Helper()
	client := rs.client(rs.turns(1, nil))
	d = rs.device(t, way, nil)
	if err := d.Enroll(t.Context(), client.link(t, 1)); err != nil {
		t.Fatal(err)
	}
	ids, err := client.idsByUDID()
	if err != nil {
		t.Fatal(err)
	}
	return d, ids[d.Options().UDID]
}

func idempotencyElsewhere(t *testing.T, rs replicas) {
	_, id := rs.enrolled(t)
	body := fmt.Sprintf(`{"request_type":"ProfileList","device_ids":[%q]}`, id)
	post := func(replica int, key string) (status int, uuid string, err error) {
		req, err := http.NewRequest("POST", replicaURL+"/api/v1/commands", strings.NewReader(body))
		if err != nil {
			return 0, "", err
		}
		req.Header.Set("Authorization", "Bearer "+apiToken)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", key)
		resp, err := rs.only(replica).RoundTrip(req)
		if err != nil {
			return 0, "", err
		}
		_, uuid, _ = strings.Cut(resp.Header.Get("Location"), "/commands/")
		return resp.StatusCode, uuid, nil
	}
	uuids := map[string]bool{}
	for round := range 10 {
		key := fmt.Sprint("key-", round)
		var mu sync.Mutex
		sent := map[string]bool{}
		for _, clients := range []int{4, 1} { // at the same time, and later
			inParallel(t, clients, clients, func(i int) error {
				status, uuid, err := post(i%2, key)
				if err == nil && status != 202 {
					err = fmt.Errorf("POST /commands = %d", status)
				}
				mu.Lock()
				defer mu.Unlock()
				sent[uuid], uuids[uuid] = true, true
				return err
			})
		}
		if len(sent) != 1 {
			t.Errorf("one request, sent to both replicas several times, queued %d commands: %v", len(sent), sent)
		}
	}
	if list := listOf[listedCommand](t, rs.client(rs.only(1)), "/devices/"+id+"/commands"); len(list) != len(uuids) {
		t.Errorf("the device has %d commands, want %d", len(list), len(uuids))
	}
}

// waitElsewhere waits for answers at one replica that come to the other. Whoever is not
// told of them looks by himself after 5 s: so not everybody may have waited for that. A busy
// machine may take as long for some of them.
func waitElsewhere(t *testing.T, rs replicas) {
	const times, looks = 6, 5 * time.Second
	d, id := rs.enrolledBy(t, rs.only(1))
	least := time.Hour
	for range times {
		began := time.Now()
		type outcome struct {
			Devices []struct {
				State string `json:"state"`
			} `json:"devices"`
			err error
		}
		answers := make(chan outcome, 1)
		go func() {
			var got outcome
			got.err = rs.client(rs.only(0)).call("POST", "/commands?wait=30s", map[string]any{"request_type": "ProfileList", "device_ids": []string{id}}, &got)
			answers <- got
		}()
		for n := 0; n == 0; {
			var err error
			if n, err = d.Poll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		got := <-answers
		if got.err != nil || len(got.Devices) != 1 || got.Devices[0].State != "acknowledged" {
			t.Fatalf("POST /commands?wait=30s = %+v, want it acknowledged", got)
		}
		least = min(least, time.Since(began))
	}
	if least > looks*4/5 {
		t.Errorf("%d commands that were answered at once took at least %v each: the waiting replica was not told", times, least)
	}
}

func trustEndsElsewhere(t *testing.T, rs replicas) {
	ctx := context.Background()
	first := rs.client(rs.only(0))
	refusedAt := func(t *testing.T, d *mdmtest.Device, replica int) {
		t.Helper()
		p, err := d.Channel().Prepare(mdmtest.Result{Status: mdmtest.StatusIdle})
		if err != nil {
			t.Fatal(err)
		}
		req, err := p.Request(ctx)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := rs.only(replica).RoundTrip(req)
		if err != nil || resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("at replica %d the device then gets %v, %v; want it refused", replica, resp, err)
		}
	}
	for name, end := range map[string]func(d *mdmtest.Device, id string) error{
		"by a block": func(_ *mdmtest.Device, id string) error {
			return first.call("POST", "/devices/"+id+"/block", map[string]any{}, nil)
		},
		"by an administrator": func(_ *mdmtest.Device, id string) error {
			return first.call("POST", "/devices/"+id+"/unenroll", map[string]any{}, nil)
		},
		"by the revocation of its certificate": func(d *mdmtest.Device, _ string) error {
			for _, c := range listOf[struct {
				Serial   string `json:"serial"`
				DeviceID string `json:"device_id"`
			}](t, first, "/certificates") {
				if cert, _ := d.Identity(); strings.EqualFold(strings.TrimLeft(c.Serial, "0"), cert.SerialNumber.Text(16)) {
					return first.call("POST", "/certificates/"+c.Serial+"/revoke", map[string]any{"reason": "keyCompromise"}, nil)
				}
			}
			return errors.New("the certificate is not in the list")
		},
		"by its own CheckOut": func(d *mdmtest.Device, _ string) error {
			p, err := d.PrepareCheckIn(mdmtest.Dict{"MessageType": "CheckOut", "UDID": d.Options().UDID, "Topic": d.Profile().MDM.Topic})
			if err != nil {
				return err
			}
			req, err := p.Request(ctx)
			if err != nil {
				return err
			}
			resp, err := rs.only(0).RoundTrip(req)
			if err == nil && resp.StatusCode != http.StatusOK {
				err = errors.New(resp.Status)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, id := rs.enrolled(t)
			for range 4 { // each replica has seen it, and may remember it
				if _, err := d.Poll(ctx); err != nil {
					t.Fatal(err)
				}
			}
			if err := end(d, id); err != nil {
				t.Fatal(err)
			}
			refusedAt(t, d, 1)
			refusedAt(t, d, 0)
		})
	}
}
