package acme

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newZap returns a logger for certmagic that writes to log. What certmagic reports of its
// course is for debugging, and its errors are warnings: the Manager itself says what
// succeeded and what failed, once and with a next step.
func newZap(log *slog.Logger) *zap.Logger {
	return zap.New(bridge{log: log.Handler()})
}

// bridge is a zapcore.Core over a slog.Handler.
type bridge struct {
	log    slog.Handler
	fields []zapcore.Field
}

func level(l zapcore.Level) slog.Level {
	if l < zapcore.WarnLevel {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// Enabled implements zapcore.LevelEnabler.
func (b bridge) Enabled(l zapcore.Level) bool {
	return b.log.Enabled(context.Background(), level(l))
}

// With implements zapcore.Core.
func (b bridge) With(fields []zapcore.Field) zapcore.Core {
	return bridge{log: b.log, fields: slices.Concat(b.fields, fields)}
}

// Check implements zapcore.Core.
func (b bridge) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(entry.Level) {
		return checked.AddCore(entry, b)
	}
	return checked
}

// Write implements zapcore.Core.
func (b bridge) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	encoder := zapcore.NewMapObjectEncoder()
	all := slices.Concat(b.fields, fields)
	record := slog.NewRecord(entry.Time, level(entry.Level), "certmagic: "+entry.Message, 0)
	for _, f := range all {
		f.AddTo(encoder)
	}
	add := func(key string) {
		v, ok := encoder.Fields[key]
		if !ok {
			return
		}
		delete(encoder.Fields, key) // a field that is given twice is written once
		if key == "error" {
			key = "err"
		}
		record.AddAttrs(slog.Any(key, v))
	}
	for _, f := range all {
		add(f.Key)
	}
	for _, key := range slices.Sorted(maps.Keys(encoder.Fields)) { // what a field held, not by its own name
		add(key)
	}
	return b.log.Handle(context.Background(), record)
}

// Sync implements zapcore.Core.
func (bridge) Sync() error { return nil }
