package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// heard is what a program prints, for who waits for a text in it.
type heard struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{}
}

func (h *heard) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case h.more <- struct{}{}:
	default:
	}
	return h.text.Write(b)
}

// wait waits until the text is there.
func (h *heard) wait(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		h.mu.Lock()
		got := h.text.String()
		h.mu.Unlock()
		if strings.Contains(got, want) {
			return
		}
		select {
		case <-h.more:
		case <-deadline:
			t.Fatalf("heard %q, want one that says %q", got, want)
		}
	}
}

// TestEventsOnTheCommandLine shows, follows, exports and verifies what happens.
func TestEventsOnTheCommandLine(t *testing.T) {
	storagetest.AnyEngine(t)
	s := start(t, t.TempDir())
	program := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		var out, errs strings.Builder
		args = append(args, "--data-dir", s.dir)
		if code := run(t.Context(), args, nil, strings.NewReader(""), &out, &errs); code != want {
			t.Fatalf("%v = %d, want %d\n%s\n%s", args, code, want, &out, &errs)
		}
		return out.String(), errs.String()
	}
	contains := func(got string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(got, want) {
				t.Errorf("got %q, want one that says %q", got, want)
			}
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out := &heard{more: make(chan struct{}, 1)}
	ended := make(chan int, 1)
	go func() {
		args := []string{"events", "--follow", "--after", "0", "--type", "link.,device.", "--data-dir", s.dir}
		ended <- run(ctx, args, nil, strings.NewReader(""), out, out)
	}()
	s.newLink(t)
	out.wait(t, "link.created")
	s.newLink(t)
	stop()
	if code := <-ended; code != exitDone {
		t.Errorf("events --follow ends with %d", code)
	}

	got, _ := program(exitDone, "events", "--type", "link.", "--since", "1h")
	if strings.Count(got, "link.created") != 2 {
		t.Errorf("events tells %q, want that two links were made", got)
	}
	got, _ = program(exitDone, "events", "--json", "--limit", "1")
	if strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, `{"id":`) {
		t.Errorf("events --json --limit 1 prints %q, want one line", got)
	}
	_, errs := program(exitUsage, "events", "--since", "yesterday")
	contains(errs, "--since", "2026-11-22T09:00:00Z")
	_, errs = program(exitUsage, "events", "--after", "1")
	contains(errs, "--follow")

	file := filepath.Join(t.TempDir(), "audit.jsonl")
	got, _ = program(exitDone, "audit", "export", "-o", file)
	contains(got, "audit.jsonl: events 1 to ", "as they were recorded")
	match := regexp.MustCompile(`event (\d+) has the hash ([0-9a-f]{64})`).FindStringSubmatch(got)
	if match == nil {
		t.Fatalf("audit export prints %q, want the hash of the last event", got)
	}
	program(exitFailed, "audit", "export", "-o", file) // it is there
	got, _ = program(exitDone, "audit", "export")
	contains(got, `"prev_hash"`)
	program(exitDone, "audit", "verify", file, "--event", match[1], "--hash", match[2])
	got, _ = program(exitDone, "audit", "verify", "--event", match[1], "--hash", match[2])
	contains(got, "events 1 to ")
	_, errs = program(exitFailed, "audit", "verify", "--event", match[1], "--hash", strings.Repeat("0", 64))
	contains(errs, "does not have the hash that was noted")
	_, errs = program(exitUsage, "audit", "verify", "--event", "1")
	contains(errs, "--hash")

	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(raw), "link.created", "link.revoked", 1)
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	_, errs = program(exitFailed, "audit", "verify", file)
	contains(errs, "audit.jsonl: line ", "was changed")
}
