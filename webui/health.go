package webui

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Health answers whether the server lives and is ready for requests.
type Health struct {
	db       storage.DB
	now      func() time.Time
	drain    chan struct{} // closed when the server is about to end
	stopping sync.Once

	mu      sync.Mutex
	checked time.Time
	last    error
}

// NewHealth returns the Health of a server that keeps its state in db.
func NewHealth(db storage.DB, now func() time.Time) *Health {
	return &Health{db: db, now: now, drain: make(chan struct{})}
}

// Drain makes the server not ready from now on, and ends what [UntilDrain] watches.
func (h *Health) Drain() { h.stopping.Do(func() { close(h.drain) }) }

type drainKey struct{}

// Watch is the middleware that lets requests know when the server drains.
func (h *Health) Watch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), drainKey{}, h.drain)))
	})
}

// UntilDrain returns a copy of a request's context that ends also when the server
// is told to stop. It is for what waits and has nothing to lose by an early end: what
// works goes on with the request's own context.
func UntilDrain(ctx context.Context) (context.Context, context.CancelFunc) {
	drain, _ := ctx.Value(drainKey{}).(chan struct{}) // without Watch: nil, which never ends
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-drain:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// live answers GET /livez: the process answers, and that is all it says.
func (h *Health) live(w http.ResponseWriter, _ *http.Request) error {
	return writeLine(w, "ok")
}

// ready answers GET /readyz: the database can be read and written, and the server
// is not about to end.
func (h *Health) ready(w http.ResponseWriter, r *http.Request) error {
	select {
	case <-h.drain:
		return &Problem{Status: http.StatusServiceUnavailable, Code: "draining", Title: "The server is shutting down"}
	default:
	}
	err := h.check(r.Context())
	switch {
	case err == nil:
		return writeLine(w, "ok")
	case errors.Is(err, storage.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", &Problem{Status: http.StatusServiceUnavailable, Code: codeNoDatabase, Title: "The database can’t be reached"}, err)
	default:
		return fmt.Errorf("%w: %w", &Problem{Status: http.StatusServiceUnavailable, Code: codeNoDatabase, Title: "The database does not take writes"}, err)
	}
}

// readyEvery is how long the answer of a check is good for: anybody may ask, so
// asking must not cost a write each time.
const readyEvery = 2 * time.Second

func (h *Health) check(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	if age := now.Sub(h.checked); age >= 0 && age < readyEvery && !h.checked.IsZero() {
		return h.last
	}
	// Not the request's context: its end says nothing of the database, but would
	// be remembered as if it did.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	stamp := []byte(now.UTC().Format(time.RFC3339Nano))
	h.last = h.db.Update(ctx, func(tx storage.Tx) error {
		return tx.Put("webui.ready", []byte("at"), stamp)
	})
	// Not when it began: those who waited for it would each wait for one of their own.
	h.checked = h.now()
	return h.last
}

func writeLine(w http.ResponseWriter, line string) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(line + "\n"))
	return nil
}
