package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
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
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
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
	stop()
	must(t, <-ended)
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
