package webui_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

func TestSessions(t *testing.T) {
	ctx := context.Background()
	for name, tt := range map[string]struct {
		later time.Duration
		harm  func(t *testing.T, db storage.DB)
		want  string
	}{
		"last from one request to the next": {want: "user:ana@example.com"},
		"last while they are used":          {later: time.Hour, want: "user:ana@example.com"},
		"end when nobody uses them":         {later: 3 * time.Hour, want: "nobody"},
		"end with their user": {harm: func(t *testing.T, db storage.DB) {
			err := db.Update(ctx, func(tx storage.Tx) error {
				for item, err := range tx.Scan("identity.users", storage.Range{}) {
					if err != nil {
						return err
					}
					if err := tx.Delete("identity.users", item.Key); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}, want: "nobody"},
	} {
		t.Run(name, func(t *testing.T) {
			db, log := storagetest.Open(t), slog.New(slog.DiscardHandler)
			now := time.Now()
			clock := func() time.Time { return now }
			people, err := identity.New(identity.Config{DB: db, Log: log, Now: clock})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := people.CreateOwner(ctx, "ana@example.com", "correct horse"); err != nil {
				t.Fatal(err)
			}
			sessions, err := webui.NewSessions(webui.SessionsConfig{
				DB: db, Identity: people, Log: log, Now: clock, Secure: true, Fail: webui.FailWithProblem(log),
			})
			if err != nil {
				t.Fatal(err)
			}
			h := sessions.Load(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/in" {
					user, err := people.Login(r.Context(), "ana@example.com", "correct horse", "192.0.2.1")
					if err == nil {
						err = sessions.StartUser(r.Context(), user)
					}
					if err != nil {
						t.Error(err)
					}
				}
				p, ok := identity.PrincipalFrom(r.Context())
				if !ok {
					_, _ = io.WriteString(w, "nobody")
					return
				}
				_, _ = io.WriteString(w, p.String())
			}))
			in := httptest.NewRecorder()
			h.ServeHTTP(in, httptest.NewRequest("POST", "/in", nil))
			if in.Body.String() != "nobody" || len(in.Result().Cookies()) != 1 {
				t.Fatalf("signing in answers %q with cookies %v", in.Body, in.Result().Cookies())
			}

			now = now.Add(tt.later)
			if tt.harm != nil {
				tt.harm(t, db)
			}
			r := httptest.NewRequest("GET", "/", nil)
			r.AddCookie(in.Result().Cookies()[0])
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Body.String() != tt.want {
				t.Errorf("the next request comes from %s, want %s", w.Body, tt.want)
			}
		})
	}
}
