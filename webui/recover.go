package webui

import (
	"log/slog"
	"net/http"
	"runtime/debug"
)

// Recover turns a panic into a 500 that carries the request's ID, and closes the
// connection: the state of what the handler was reading is unknown.
func Recover(log *slog.Logger, fail FailFunc) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer := &recorder{ResponseWriter: w}
			defer func() {
				caught := recover()
				if caught == nil {
					return
				}
				if caught == http.ErrAbortHandler {
					panic(caught) // the handler asked for exactly that
				}
				log.ErrorContext(r.Context(), "panic in a handler",
					"request", RequestID(r.Context()), "route", routeOf(r.Context()),
					"panic", caught, "stack", string(debug.Stack()))
				if answer.status != 0 {
					panic(http.ErrAbortHandler) // half an answer is out: cut it off
				}
				w.Header().Set("Connection", "close")
				fail(w, r, &Problem{Status: http.StatusInternalServerError, Code: "internal", Title: "Something went wrong on the server"})
			}()
			next.ServeHTTP(answer, r)
		})
	}
}
