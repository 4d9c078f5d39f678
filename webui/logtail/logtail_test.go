package logtail

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

func newLog(level slog.Level) (*Tail, *slog.Logger, *bytes.Buffer) {
	var tail Tail
	var out bytes.Buffer
	return &tail, slog.New(tail.Handler(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: level}))), &out
}

func messages(lines []Line) string {
	all := make([]string, len(lines))
	for i, l := range lines {
		all[i] = l.Message
	}
	return strings.Join(all, " ")
}

func TestALineIsAsTheLogHasIt(t *testing.T) {
	tail, log, out := newLog(slog.LevelInfo)
	at := time.Date(2026, 11, 23, 8, 0, 0, 5e6, time.UTC)
	log.With("server", 7).WithGroup("outer").With("a", "b").Warn("came",
		"err", errors.New("no way"), "at", at, slog.Group("peer", "address", "192.0.2.1", "port", 443), slog.Group("empty"), "took", 3*time.Second)
	log.Debug("not written")
	lines, more := tail.Lines(Query{Least: slog.LevelDebug, Limit: 10})
	if len(lines) != 1 || more {
		t.Fatalf("%d lines, more: %t", len(lines), more)
	}
	const want = "[{server 7} {outer.a b} {outer.err no way} {outer.at 2026-11-23T08:00:00.005Z} {outer.peer.address 192.0.2.1} {outer.peer.port 443} {outer.took 3s}]"
	if got := fmt.Sprint(lines[0].Attributes); got != want {
		t.Errorf("attributes:\n%s, want\n%s", got, want)
	}
	if l := lines[0]; l.Message != "came" || l.Level != slog.LevelWarn || l.At.IsZero() || l.Seq != 1 {
		t.Errorf("%+v", l)
	}
	if n := strings.Count(out.String(), "\n"); n != 1 || !strings.Contains(out.String(), `"outer":{"a":"b","err":"no way"`) {
		t.Errorf("the log itself has\n%s", out)
	}
}

func TestLinesAreFoundNewestFirst(t *testing.T) {
	tail, log, _ := newLog(slog.LevelDebug)
	for i := range 10 {
		level := slog.LevelInfo
		if i%3 == 0 {
			level = slog.LevelError
		}
		log.Log(t.Context(), level, fmt.Sprint(i), "device", fmt.Sprintf("Phone-%d", i%2))
	}
	for _, tt := range []struct {
		q    Query
		want string
		more bool
	}{
		{Query{Limit: 20}, "9 8 7 6 5 4 3 2 1 0", false},
		{Query{Limit: 3}, "9 8 7", true},
		{Query{Limit: 3, Before: 8}, "6 5 4", true},
		{Query{Limit: 3, Before: 4}, "2 1 0", false},
		{Query{Limit: 10, Least: slog.LevelWarn}, "9 6 3 0", false},
		{Query{Limit: 3, Least: slog.LevelWarn}, "9 6 3", true},
		{Query{Limit: 10, Text: "pHoNe-1"}, "9 7 5 3 1", false},
		{Query{Limit: 10, Text: "phone-1", Least: slog.LevelError}, "9 3", false},
		{Query{Limit: 10, Text: "nothing"}, "", false},
	} {
		lines, more := tail.Lines(tt.q)
		if got := messages(lines); got != tt.want || more != tt.more {
			t.Errorf("%+v = %q, more: %t; want %q, %t", tt.q, got, more, tt.want, tt.more)
		}
	}
}

func TestChatterPushesNoWarningOut(t *testing.T) {
	tail, log, _ := newLog(slog.LevelInfo)
	log.Error("long ago")
	for i := range keepQuiet + 5 {
		log.Info(fmt.Sprint(i))
	}
	lines, _ := tail.Lines(Query{Limit: 2 * keepQuiet})
	if n := len(lines); n != keepQuiet+1 || lines[0].Message != fmt.Sprint(keepQuiet+4) || lines[n-2].Message != "5" || lines[n-1].Message != "long ago" {
		t.Errorf("%d lines, from %q to %q and %q", n, lines[0].Message, lines[n-2].Message, lines[n-1].Message)
	}
	for i := range keepLoud + 5 {
		log.Warn(fmt.Sprint("w", i))
	}
	lines, _ = tail.Lines(Query{Least: slog.LevelWarn, Limit: 2 * keepLoud})
	if n := len(lines); n != keepLoud || lines[n-1].Message != "w5" {
		t.Errorf("%d warnings are kept, the oldest %q", n, lines[n-1].Message)
	}
}

func TestLongLinesAreCut(t *testing.T) {
	tail, log, _ := newLog(slog.LevelInfo)
	long := strings.Repeat("é", maxLine)
	log.With("a", long, "b", long, "c", long).Info(long, "d", long, "e", long, "f", "\xff", slog.Group("g", "h", long))
	lines, _ := tail.Lines(Query{Limit: 1})
	size := len(lines[0].Message)
	for _, a := range lines[0].Attributes {
		size += len(a.Key) + len(a.Value)
		if !utf8.ValidString(a.Value) {
			t.Errorf("%s is no text", a.Key)
		}
	}
	if size > maxLine+100 || !strings.HasSuffix(lines[0].Message, "é…") {
		t.Errorf("a line of %d bytes", size)
	}
}

func TestManyWriteAndRead(t *testing.T) {
	var tail Tail
	log := slog.New(tail.Handler(slog.NewTextHandler(io.Discard, nil)))
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 500 {
				log.Warn("w", "k", "v")
				tail.Lines(Query{Limit: 10, Text: "v"})
			}
		})
	}
	group.Wait()
	lines, _ := tail.Lines(Query{Limit: 5000})
	if len(lines) != keepLoud || lines[0].Seq != 2000 {
		t.Errorf("%d lines, the newest is number %d", len(lines), lines[0].Seq)
	}
	for i := 1; i < len(lines); i++ {
		if lines[i].Seq != lines[i-1].Seq-1 {
			t.Fatalf("%d follows on %d", lines[i].Seq, lines[i-1].Seq)
		}
	}
}

func BenchmarkALine(b *testing.B) {
	var tail Tail
	for name, log := range map[string]*slog.Logger{
		"without": slog.New(slog.NewJSONHandler(io.Discard, nil)),
		"with":    slog.New(tail.Handler(slog.NewJSONHandler(io.Discard, nil))),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				log.Info("command answered", "device", "r2lvnxbslcsw3hvymvytsbcl54", "command", "7DEC8AE8-EC00-4943-B7D6-ECD188742536", "request_type", "DeviceLock", "state", "acknowledged")
			}
		})
	}
}
