package webui

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// HandlerFunc answers a request, or returns why it could not: it never does both.
type HandlerFunc func(w http.ResponseWriter, r *http.Request) error

// Plain is h as a HandlerFunc: one that answers its errors itself.
func Plain(h http.Handler) HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		h.ServeHTTP(w, r)
		return nil
	}
}

// Middleware wraps a handler.
type Middleware func(http.Handler) http.Handler

// Chain wraps h in ms, the first outermost.
func Chain(h http.Handler, ms ...Middleware) http.Handler {
	for i := len(ms) - 1; i >= 0; i-- {
		h = ms[i](h)
	}
	return h
}

// Router takes routes. Patterns are those of [http.ServeMux].
type Router interface {
	Handle(pattern string, h HandlerFunc)
}

// FailFunc answers a request whose handler returned err.
type FailFunc func(w http.ResponseWriter, r *http.Request, err error)

// Mux routes requests. Every route belongs to a [Group], which limits it.
type Mux struct {
	mux  *http.ServeMux
	fail FailFunc
}

// NewMux returns a Mux without routes. fail answers for what has no route.
func NewMux(fail FailFunc) *Mux {
	return &Mux{mux: http.NewServeMux(), fail: fail}
}

// Group says what routes of one kind have in common.
type Group struct {
	BodyLimit int64         // bytes that a request's body may have
	Timeout   time.Duration // for reading a request, handling it and writing the answer; 0: the server's own
	Fail      FailFunc
	Use       []Middleware // run inside the limits, the first outermost
}

// Group returns a router whose routes are limited as g says.
func (m *Mux) Group(g Group) Router { return group{m, g} }

type group struct {
	mux *Mux
	Group
}

func (g group) Handle(pattern string, h HandlerFunc) {
	inner := Chain(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := &recorder{ResponseWriter: w}
		err := h(answer, r)
		if err == nil {
			return
		}
		if answer.status != 0 {
			panic(fmt.Errorf("answered, and then: %w", err)) // Recover cuts the answer off
		}
		g.Fail(w, r, err)
	}), g.Use...)

	g.mux.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		noteRoute(r.Context(), r.Pattern)
		if r.ContentLength > g.BodyLimit {
			w.Header().Set("Connection", "close") // the body stays unread
			g.Fail(w, r, &http.MaxBytesError{Limit: g.BodyLimit})
			return
		}
		if r.Body != nil && r.Body != http.NoBody {
			r.Body = http.MaxBytesReader(w, r.Body, g.BodyLimit)
		}
		if g.Timeout > 0 {
			// Moves the server's deadlines for this request. The answer gets a little
			// longer, so that one which says "timed out" still arrives.
			now := time.Now()
			control := http.NewResponseController(w)
			_ = control.SetReadDeadline(now.Add(g.Timeout)) // not supported in tests with a recorder
			_ = control.SetWriteDeadline(now.Add(g.Timeout + 5*time.Second))
			ctx, cancel := context.WithTimeout(r.Context(), g.Timeout)
			defer cancel()
			r = r.WithContext(ctx)
		}
		inner.ServeHTTP(w, r)
	})
}

// ServeHTTP implements [http.Handler].
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h, pattern := m.mux.Handler(r)
	if pattern != "" {
		m.mux.ServeHTTP(w, r)
		return
	}
	// Nothing matches: ServeMux knows whether the path or only the method is
	// wrong, but its answer is no page.
	answer := unmatched{header: http.Header{}}
	h.ServeHTTP(&answer, r)
	if answer.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", answer.header.Get("Allow"))
		m.fail(w, r, errMethod)
		return
	}
	m.fail(w, r, errNoPage)
}

var (
	errNoPage = &Problem{Status: http.StatusNotFound, Code: "not_found", Title: "Not found"}
	errMethod = &Problem{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Title: "Method not allowed"}
)

// unmatched takes ServeMux's answer to a request that no pattern matches.
type unmatched struct {
	header http.Header
	status int
}

func (u *unmatched) Header() http.Header         { return u.header }
func (u *unmatched) Write(b []byte) (int, error) { return len(b), nil }
func (u *unmatched) WriteHeader(status int)      { u.status = status }

// PlainQuery refuses query strings that can't be parsed or have very many
// parameters, one name repeated or not, before a handler reads one.
func PlainQuery(fail FailFunc) Middleware {
	const most = 64
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RawQuery != "" {
				tooMany := strings.Count(r.URL.RawQuery, "&") >= most
				if _, err := url.ParseQuery(r.URL.RawQuery); err != nil || tooMany {
					fail(w, r, &Problem{Status: http.StatusBadRequest, Code: "bad_query", Title: "The query string is malformed"})
					return
				}
			}
			next.ServeHTTP(w, r)
		})
	}
}

// problemOf finds the problem that err stands for. What it doesn't know is an
// internal error, whose text stays in the log.
func problemOf(err error) *Problem {
	var problem *Problem
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &problem):
		return problem
	case errors.As(err, &tooLarge):
		return &Problem{
			Status: http.StatusRequestEntityTooLarge, Code: "body_too_large", Title: "The request's body is too large",
			Detail: "At most " + bytesOf(tooLarge.Limit) + " are taken here.",
		}
	case errors.Is(err, context.DeadlineExceeded):
		return &Problem{Status: http.StatusServiceUnavailable, Code: "timeout", Title: "The server took too long"}
	case errors.Is(err, storage.ErrUnavailable), errors.Is(err, storage.ErrCommit), errors.Is(err, storage.ErrClosed):
		return &Problem{Status: http.StatusServiceUnavailable, Code: codeNoDatabase, Title: "The database is not available"}
	}
	return &Problem{Status: http.StatusInternalServerError, Code: "internal", Title: "Something went wrong on the server"}
}

// bytesOf writes a number of bytes for a person.
func bytesOf(n int64) string {
	if n >= 1<<20 && n%(1<<20) == 0 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d bytes", n)
}

// FailWithProblem returns a FailFunc for programs: problems as JSON, and
// everything unknown logged under the request's ID.
func FailWithProblem(log *slog.Logger) FailFunc {
	return func(w http.ResponseWriter, r *http.Request, err error) {
		problem := problemOf(err)
		logFailure(log, r, problem, err)
		askAgain(w, problem)
		WriteProblem(w, r, problem.Status, problem.Code, problem.Title, problem.Detail)
	}
}

// askAgain says when it is worth to ask again, where it is.
func askAgain(w http.ResponseWriter, problem *Problem) {
	if problem.Code == codeNoDatabase {
		w.Header().Set("Retry-After", "10")
	}
}

// codeNoDatabase is the code of a database that can't be reached, or can't be written.
const codeNoDatabase = "database_unavailable"

// logFailure logs what the client is not told.
func logFailure(log *slog.Logger, r *http.Request, problem *Problem, err error) {
	if problem.Status < http.StatusInternalServerError || r.Context().Err() == context.Canceled {
		return // the client's own doing, or the client is gone
	}
	log.ErrorContext(r.Context(), "request failed", "request", RequestID(r.Context()), "route", routeOf(r.Context()), "err", err)
}
