package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestTheDemosPushesFindItsDevicesOnly(t *testing.T) {
	storagetest.AnyEngine(t)
	log := slog.New(slog.DiscardHandler)
	p, err := newDemoPusher(storagetest.Open(t), log, time.Now)
	must(t, err)
	push := func(token []byte, magic string) (result apns.Result) {
		p.Push(t.Context(), "demo", []apns.Push{{Token: token, Magic: magic}}, func(_ int, r apns.Result) { result = r })
		return result
	}
	if r := push([]byte("early"), "m"); r.Outcome != apns.Retry {
		t.Errorf("a push before there are devices: %+v, want it tried again", r)
	}
	fleet, err := mdmtest.NewFleet(mdmtest.FleetOptions{N: 1, ProfileURL: "https://localhost:1/profile", Log: log})
	must(t, err)
	p.fleet.Store(fleet)
	token, magic := fleet.Devices()[0].Channel().Push()
	if r := push(token, magic); r.Outcome != apns.Sent {
		t.Errorf("a push to a device: %+v, want sent", r)
	}
	if r := push([]byte("of an earlier start"), "m"); r.Outcome != apns.TokenInvalid || r.Timestamp.IsZero() {
		t.Errorf("a push to nobody: %+v, want the token dead", r)
	}
	p.close()
	if r := push(token, magic); r.Outcome != apns.Retry {
		t.Errorf("a push after the end: %+v", r)
	}
}

func TestASimulatedPushServiceIsKnownAgain(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "apns")
	simulate := func() string {
		t.Helper()
		var out, errs bytes.Buffer
		if code := run(t.Context(), []string{"simulate", "--apns-listen", "127.0.0.1:0", "--apns-dir", dir, "--for", "10ms"}, nil, nil, &out, &errs); code != exitDone {
			t.Fatalf("exit code %d:\n%s", code, &errs)
		}
		return out.String()
	}
	out := simulate()
	files := map[string]string{}
	for _, name := range []string{apnsCAFile, apnsPushFile, apnsAuthorityFile} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		files[name] = string(data)
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || strings.Contains(string(data), "PRIVATE KEY") && info.Mode().Perm() != 0o600 {
			t.Errorf("%s holds a key, and others may read it: %v %v", name, info.Mode(), err)
		}
		if name != apnsAuthorityFile && !strings.Contains(out, filepath.Join(dir, name)) {
			t.Errorf("%s is not spoken of: %s", name, out)
		}
	}
	simulate()
	for name, was := range files {
		if now, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(now) != was {
			t.Errorf("%s is another after a restart: %v", name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, apnsAuthorityFile), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	if code := run(t.Context(), []string{"simulate", "--apns-listen", "127.0.0.1:0", "--apns-dir", dir}, nil, nil, io.Discard, &errs); code != exitFailed || !strings.Contains(errs.String(), "--apns-listen") {
		t.Errorf("a torn file: exit code %d: %s", code, &errs)
	}
}
func TestSimulatedDevicesAreWoken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	addr := lastingAddress(t)
	service, err := newPushService(addr, filepath.Join(dir, "apns"))
	must(t, err)
	service.Close() // it has written its files

	s := start(t, t.TempDir(), "--apns-url", "https://"+addr, "--apns-ca", filepath.Join(dir, "apns", apnsCAFile))
	certificate, err := os.ReadFile(filepath.Join(dir, "apns", apnsPushFile))
	must(t, err)
	s.upload(t, "/api/v1/push-certificates", certificate)
	ca := filepath.Join(dir, "ca.pem")
	must(t, os.WriteFile(ca, []byte(s.get(t, "/ca.pem").body), 0o600))

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan int, 1)
	var errs bytes.Buffer // read when it has ended
	go func() {
		ended <- run(ctx, []string{
			"simulate", "--apns-listen", addr, "--apns-dir", filepath.Join(dir, "apns"), "--url", s.newLink(t), "--ca", ca,
			"-n", "1", "--interval", "1h", // by itself it comes once, and then no more
		}, nil, nil, io.Discard, &errs)
	}()
	defer time.AfterFunc(time.Minute, s.stop).Stop()
	if !s.out.await(`"msg":"enrolled"`, 1) {
		t.Fatalf("no device has enrolled:\n%s", s.out)
	}
	var devices struct{ Items []struct{ ID string } }
	s.call(t, "GET", "/api/v1/devices", nil, &devices)
	for i := range 2 { // the first may be found by the poll that follows on the enrollment
		var queued any
		s.call(t, "POST", "/api/v1/commands", map[string]any{"request_type": "ProfileList", "device_ids": []string{devices.Items[0].ID}}, &queued)
		if !s.out.await(`"request_type":"ProfileList","state":"acknowledged"`, i+1) {
			t.Fatalf("command %d was not answered:\n%s", i+1, s.out)
		}
	}
	stop()
	if code := <-ended; code != exitDone {
		t.Errorf("exit code %d: %s", code, errs.String())
	}
}

// upload puts a body that is no JSON.
func (s *running) upload(t *testing.T, path string, body []byte) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(s.dir, socketName))
	}}}
	req, err := http.NewRequest(http.MethodPut, "http://localhost"+path, bytes.NewReader(body))
	must(t, err)
	req.Header.Set("Content-Type", "application/x-pem-file")
	resp, err := client.Do(req)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		why, _ := io.ReadAll(resp.Body)
		t.Fatalf("PUT %s = %s: %s", path, resp.Status, why)
	}
}
