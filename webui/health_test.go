package webui_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// ailing is a database that fails as it is told to.
type ailing struct {
	storage.DB
	err     error
	updates int
}

func (a *ailing) Update(ctx context.Context, fn func(storage.Tx) error) error {
	a.updates++
	if a.err != nil {
		return a.err
	}
	return a.DB.Update(ctx, fn)
}

func TestReadiness(t *testing.T) {
	for name, tt := range map[string]struct {
		err   error
		drain bool
		want  string // part of the answer
	}{
		"a server whose database takes writes": {want: "ok"},
		"one whose database is away":           {err: fmt.Errorf("%w: db.example.com", storage.ErrUnavailable), want: "can’t be reached"},
		"one whose database is full":           {err: fmt.Errorf("%w: no space left", storage.ErrCommit), want: "does not take writes"},
		"one that is about to end":             {drain: true, want: "shutting down"},
	} {
		t.Run(name, func(t *testing.T) {
			db := &ailing{DB: storagetest.Open(t), err: tt.err}
			now := time.Now()
			h := webui.NewHealth(db, func() time.Time { return now })
			if tt.drain {
				h.Drain()
			}
			ask := func() string {
				t.Helper()
				w := httptest.NewRecorder()
				if err := h.Ready()(w, httptest.NewRequest("GET", "/readyz", nil)); err != nil {
					return err.Error()
				}
				return w.Body.String()
			}
			if got := ask(); !strings.Contains(got, tt.want) {
				t.Errorf("/readyz = %q, want %q", got, tt.want)
			}
			ask()
			if db.updates > 1 {
				t.Errorf("two questions in a moment cost %d writes", db.updates)
			}
			db.err = nil
			now = now.Add(time.Minute)
			if got := ask(); strings.Contains(got, "ok") == tt.drain {
				t.Errorf("a minute later, with a sound database, /readyz = %q", got)
			}
		})
	}
}
