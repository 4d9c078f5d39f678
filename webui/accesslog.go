package webui

import (
	"context"
	"log/slog"
	"net/http"
	"time"
)

type routeKey struct{}

// noteRoute tells the access log which pattern matched.
func noteRoute(ctx context.Context, pattern string) {
	if route, ok := ctx.Value(routeKey{}).(*string); ok {
		*route = pattern
	}
}

// Within returns ctx for a request that is answered inside of another: the access log names
// the route of that.
func Within(ctx context.Context) context.Context {
	return context.WithValue(ctx, routeKey{}, nil)
}

func routeOf(ctx context.Context) string {
	if route, ok := ctx.Value(routeKey{}).(*string); ok {
		return *route
	}
	return ""
}

// AccessLog logs every request once it is answered: at debug level, failures of
// the server at info. It logs the route's pattern and not the path, which may
// hold the code of an enrollment link; for the same reason no query.
func AccessLog(log *slog.Logger, now func() time.Time) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			start := now()
			route := ""
			ctx := context.WithValue(r.Context(), routeKey{}, &route)
			answer := &recorder{ResponseWriter: w}
			defer func() {
				level := slog.LevelDebug
				if answer.status >= http.StatusInternalServerError {
					level = slog.LevelInfo
				}
				if !log.Enabled(ctx, level) {
					return
				}
				peer := "local" // the Unix socket has no addresses
				if addr := Peer(ctx); addr.IsValid() {
					peer = addr.String()
				}
				log.Log(ctx, level, "request",
					"request", RequestID(ctx), "method", r.Method, "route", route,
					"status", answer.status, "bytes", answer.bytes,
					"peer", peer, "duration", now().Sub(start))
			}()
			next.ServeHTTP(answer, r.WithContext(ctx))
		})
	}
}

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status int // 0: nothing yet
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 { // 1xx are not the answer
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// Unwrap lets [http.ResponseController] reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
