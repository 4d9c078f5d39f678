package acme

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"

	"go.uber.org/zap"
)

func TestWhatCertmagicLogs(t *testing.T) {
	for name, tt := range map[string]struct {
		log  func(*zap.Logger)
		want string
	}{
		"its course is for debugging": {
			func(l *zap.Logger) { l.Info("lock acquired", zap.String("identifier", "a.example")) },
			`level=DEBUG msg="certmagic: lock acquired" identifier=a.example`,
		},
		"its errors are warnings": {
			func(l *zap.Logger) { l.Error("no", zap.Error(errors.New("broken")), zap.Int("attempt", 2)) },
			`level=WARN msg="certmagic: no" err=broken attempt=2`,
		},
		"fields of a logger come first": {
			func(l *zap.Logger) { l.Named("obtain").With(zap.Int("a", 1)).Warn("x", zap.Int("b", 2)) },
			`level=WARN msg="certmagic: x" a=1 b=2`,
		},
		"a field that is given twice is written once": {
			func(l *zap.Logger) { l.With(zap.Int("a", 1)).Warn("x", zap.Int("a", 2)) },
			`level=WARN msg="certmagic: x" a=2`,
		},
		"what a field holds is not lost": {
			func(l *zap.Logger) { l.Warn("x", zap.Namespace("n"), zap.Int("a", 1), zap.Dict("d", zap.Int("b", 2))) },
			`level=WARN msg="certmagic: x" n="map[a:1 d:map[b:2]]"`,
		},
		"the store gives nothing away": {
			func(l *zap.Logger) { l.Warn("x", zap.Any("storage", &store{})) },
			`level=WARN msg="certmagic: x" storage=database`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			tt.log(newZap(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
				Level: slog.LevelDebug,
				ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
					if a.Key == slog.TimeKey {
						return slog.Attr{}
					}
					return a
				},
			}))))
			if got := out.String(); got != tt.want+"\n" {
				t.Errorf("logged %swant   %s", got, tt.want)
			}
		})
	}
	quiet := newZap(slog.New(slog.DiscardHandler))
	if quiet.Core().Enabled(zap.ErrorLevel) {
		t.Error("a logger that discards takes records")
	}
}
