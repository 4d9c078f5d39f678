// Package logtail keeps the newest lines of the server's log in memory, for people who look
// for what went wrong and can't read the log where it goes.
package logtail

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// How much is kept: what is a warning or worse by itself, so that chatter does not push it
// out. A line has at most maxLine bytes, so that all have at most some ten megabytes.
const (
	keepLoud  = 1000
	keepQuiet = 2000
	maxLine   = 4 << 10
	maxValue  = 1 << 10
)

// Line is one line of the log.
type Line struct {
	Seq        uint64 // from 1, in the order in which they were written
	At         time.Time
	Level      slog.Level
	Message    string
	Attributes []Attribute
}

// Attribute is a key and its value as the log writes them; members of groups have keys such
// as "peer.address".
type Attribute struct{ Key, Value string }

// has reports whether text, in lower case, occurs in the line.
func (l *Line) has(text string) bool {
	return strings.Contains(strings.ToLower(l.Message), text) || slices.ContainsFunc(l.Attributes, func(a Attribute) bool {
		return strings.Contains(strings.ToLower(a.Value), text)
	})
}

// ring holds the newest of what it is given.
type ring struct {
	lines []Line // once it is full, the oldest is at next
	next  int
}

func (r *ring) add(l Line, most int) {
	if len(r.lines) < most {
		r.lines = append(r.lines, l)
		return
	}
	r.lines[r.next] = l
	r.next = (r.next + 1) % most
}

// newest is the i-th of the ring counted from the newest, nil behind the oldest.
func (r *ring) newest(i int) *Line {
	if i >= len(r.lines) {
		return nil
	}
	return &r.lines[(r.next-1-i+2*len(r.lines))%len(r.lines)]
}

// Tail is the end of a log. Its zero value is ready.
type Tail struct {
	mu          sync.RWMutex
	last        uint64
	loud, quiet ring
}

// Query says which lines are wanted.
type Query struct {
	Least  slog.Level // of this level or above
	Text   string     // in the message or a value, in any case; empty: whatever
	Before uint64     // older than the line of this number; 0: from the newest
	Limit  int
}

// Lines returns those that q asks for, the newest first, and whether there are more.
func (t *Tail) Lines(q Query) (lines []Line, more bool) {
	text := strings.ToLower(q.Text)
	t.mu.RLock()
	defer t.mu.RUnlock()
	for i, k := 0, 0; ; {
		l, other := t.loud.newest(i), t.quiet.newest(k)
		if l == nil || other != nil && other.Seq > l.Seq {
			l = other
			k++
		} else {
			i++
		}
		switch {
		case l == nil:
			return lines, false
		case l.Level < q.Least || q.Before > 0 && l.Seq >= q.Before || !l.has(text):
		case len(lines) == q.Limit:
			return lines, true
		default:
			lines = append(lines, *l)
		}
	}
}

func (t *Tail) add(l Line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	l.Seq = t.last
	if l.Level >= slog.LevelWarn {
		t.loud.add(l, keepLoud)
	} else {
		t.quiet.add(l, keepQuiet)
	}
}

// Handler hands each record on to next, and keeps what next is enabled for.
func (t *Tail) Handler(next slog.Handler) slog.Handler { return &handler{tail: t, next: next} }

type handler struct {
	tail   *Tail
	next   slog.Handler
	prefix string // of groups: "peer."
	with   []Attribute
}

func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	left := maxLine
	l := Line{At: r.Time, Level: r.Level, Message: clip(r.Message, &left), Attributes: make([]Attribute, 0, len(h.with)+r.NumAttrs())}
	for _, a := range h.with {
		l.Attributes = append(l.Attributes, Attribute{a.Key, clip(a.Value, &left)})
	}
	r.Attrs(func(a slog.Attr) bool {
		l.Attributes = flatten(l.Attributes, h.prefix, a, &left)
		return left > 0
	})
	h.tail.add(l)
	return h.next.Handle(ctx, r)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	own := *h
	own.next = h.next.WithAttrs(attrs)
	left := maxLine
	own.with = slices.Clone(h.with)
	for _, a := range attrs {
		own.with = flatten(own.with, h.prefix, a, &left)
	}
	return &own
}

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	own := *h
	own.next = h.next.WithGroup(name)
	own.prefix += name + "."
	return &own
}

// flatten appends an attribute, or those of a group.
func flatten(to []Attribute, prefix string, a slog.Attr, left *int) []Attribute {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, member := range v.Group() {
			to = flatten(to, prefix, member, left)
		}
		return to
	}
	if a.Equal(slog.Attr{}) || *left <= 0 {
		return to
	}
	text := v.String()
	if v.Kind() == slog.KindTime {
		text = v.Time().Format(time.RFC3339Nano)
	}
	*left -= len(prefix) + len(a.Key)
	return append(to, Attribute{prefix + a.Key, clip(text, left)})
}

// clip shortens a text to what is left of its line, in valid UTF-8.
func clip(text string, left *int) string {
	most := max(0, min(maxValue, *left))
	if len(text) > most {
		for most > 0 && !utf8.RuneStart(text[most]) {
			most--
		}
		text = text[:most] + "…"
	}
	*left -= len(text)
	return strings.ToValidUTF8(text, "�")
}
