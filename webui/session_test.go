package webui_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
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

		disable []bool // what becomes of the user
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
		"end when their user is disabled":        {later: time.Second, disable: []bool{true}, want: "nobody"},
		"stay so when the user is enabled again": {later: time.Second, disable: []bool{true, false}, want: "nobody"},
	} {
		t.Run(name, func(t *testing.T) {
			db, log := storagetest.Open(t), slog.New(slog.DiscardHandler)
			now := time.Now()
			clock := func() time.Time { return now }
			people, err := identity.New(identity.Config{DB: db, Log: log, Now: clock, HashMemory: 64})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := people.CreateOwner(ctx, "owner@example.com", "correct horse"); err != nil {
				t.Fatal(err)
			}
			ana, err := people.CreateUser(ctx, identity.Local(), identity.NewUser{Email: "ana@example.com", Password: "correct horse"})
			if err != nil {
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
					in, err := people.Login(r.Context(), "ana@example.com", "correct horse", "192.0.2.1")
					if err == nil {
						err = sessions.StartUser(r.Context(), in.User)
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
			for _, disabled := range tt.disable {
				if _, err := people.UpdateUser(ctx, identity.Local(), ana.ID, identity.UserChange{Disabled: &disabled}); err != nil {
					t.Fatal(err)
				}
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

// counting counts the Updates of a database.
type counting struct {
	storage.DB
	updates atomic.Int64
}

func (c *counting) Update(ctx context.Context, fn func(storage.Tx) error) error {
	c.updates.Add(1)
	return c.DB.Update(ctx, fn)
}

// loginBook is a handler behind sessions of its own: /in and /out sign in and out, and
// every answer names who came.
type loginBook struct {
	http.Handler
	during map[string]func() // what else happens while a path is answered
}

func newLoginBook(t *testing.T, db storage.DB) *loginBook {
	t.Helper()
	ctx, log := context.Background(), slog.New(slog.DiscardHandler)
	people, err := identity.New(identity.Config{DB: db, Log: log, Now: time.Now, HashMemory: 64})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := people.CreateOwner(ctx, "ana@example.com", "correct horse"); err != nil {
		t.Fatal(err)
	}
	sessions, err := webui.NewSessions(webui.SessionsConfig{
		DB: db, Identity: people, Log: log, Now: time.Now, Secure: true, Fail: webui.FailWithProblem(log),
	})
	if err != nil {
		t.Fatal(err)
	}
	b := &loginBook{during: map[string]func(){}}
	b.Handler = sessions.Load(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var err error
		switch r.URL.Path {
		case "/in":
			var in identity.SignedIn
			if in, err = people.Login(r.Context(), "ana@example.com", "correct horse", "192.0.2.1"); err == nil {
				err = sessions.StartUser(r.Context(), in.User)
			}
		case "/out":
			err = sessions.End(r.Context())
		}
		if err != nil {
			t.Error(err)
		}
		if f := b.during[r.URL.Path]; f != nil {
			f()
		}
		p, _ := identity.PrincipalFrom(r.Context())
		_, _ = io.WriteString(w, p.User)
	}))
	return b
}

// ask sends a request with the cookies of an earlier answer.
func (b *loginBook) ask(path string, before *http.Response) *http.Response {
	r := httptest.NewRequest("GET", path, nil)
	if before != nil {
		for _, c := range before.Cookies() {
			r.AddCookie(c)
		}
	}
	w := httptest.NewRecorder()
	b.ServeHTTP(w, r)
	return w.Result()
}

func who(t *testing.T, answer *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestASessionThatEndedDuringARequestStaysEnded(t *testing.T) {
	db := storagetest.Open(t)
	here, there := newLoginBook(t, db), newLoginBook(t, db) // two replicas
	in := here.ask("/in", nil)
	here.during["/slow"] = func() { there.ask("/out", in) }
	if got := who(t, here.ask("/slow", in)); got != "ana@example.com" {
		t.Fatalf("the request that began before is %q's", got)
	}
	for name, replica := range map[string]*loginBook{"the same": here, "the other": there} {
		if got := who(t, replica.ask("/", in)); got != "" {
			t.Errorf("after signing out %s replica still takes the cookie for %s's", name, got)
		}
	}
}

func TestASessionInUseIsNotWrittenForEachRequest(t *testing.T) {
	db := &counting{DB: storagetest.Open(t)}
	b := newLoginBook(t, db)
	in := b.ask("/in", nil)
	before := db.updates.Load()
	for range 20 {
		if got := who(t, b.ask("/", in)); got != "ana@example.com" {
			t.Fatalf("the request is %q's", got)
		}
	}
	if n := db.updates.Load() - before; n != 0 {
		t.Errorf("20 requests in a moment wrote %d times, want none", n)
	}
}

// A page that takes its time must not take back what another request has remembered.
func TestARequestThatChangesNothingForgetsNothing(t *testing.T) {
	db, log := storagetest.Open(t), slog.New(slog.DiscardHandler)
	people, err := identity.New(identity.Config{DB: db, Log: log, Now: time.Now, HashMemory: 64})
	if err != nil {
		t.Fatal(err)
	}
	sessions, err := webui.NewSessions(webui.SessionsConfig{
		DB: db, Identity: people, Log: log, Now: time.Now, Secure: true, Fail: webui.FailWithProblem(log),
	})
	if err != nil {
		t.Fatal(err)
	}
	loaded, goOn := make(chan struct{}), make(chan struct{})
	h := sessions.Load(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var err error
		switch r.URL.Path {
		case "/begin":
			err = sessions.SetValue(r.Context(), webui.SessionSignIn, "x")
		case "/slow":
			close(loaded)
			<-goOn
		case "/attempt":
			err = sessions.SetValue(r.Context(), webui.SessionAttempt, "7")
		case "/forget":
			err = sessions.SetValue(r.Context(), webui.SessionAttempt, "")
		}
		if err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, sessions.Value(r.Context(), webui.SessionAttempt))
	}))
	b := &loginBook{Handler: h}
	begun := b.ask("/begin", nil)
	done := make(chan struct{})
	go func() { b.ask("/slow", begun); close(done) }()
	<-loaded
	b.ask("/attempt", begun)
	close(goOn)
	<-done
	if got := who(t, b.ask("/read", begun)); got != "7" {
		t.Errorf("after a request that changed nothing the session remembers %q, want 7", got)
	}
	b.ask("/forget", begun)
	if got := who(t, b.ask("/read", begun)); got != "" {
		t.Errorf("after it was forgotten the session remembers %q", got)
	}
}

func TestASessionIsEndedByWhatItIsCalled(t *testing.T) {
	ctx, db, log := context.Background(), storagetest.Open(t), slog.New(slog.DiscardHandler)
	b := newLoginBook(t, db)
	here, there := b.ask("/in", nil), b.ask("/in", nil)
	people, err := identity.New(identity.Config{DB: db, Log: log, Now: time.Now, HashMemory: 64})
	if err != nil {
		t.Fatal(err)
	}
	replica, err := webui.NewSessions(webui.SessionsConfig{
		DB: db, Identity: people, Log: log, Now: time.Now, Secure: true, Fail: webui.FailWithProblem(log),
	})
	if err != nil {
		t.Fatal(err)
	}
	users, _, err := people.Users(ctx, "", 10)
	if err != nil || len(users) != 1 {
		t.Fatalf("users are %v, %v", users, err)
	}
	list, err := replica.OfUser(ctx, users[0].ID)
	if err != nil || len(list) != 2 || list[0].ID == list[1].ID {
		t.Fatalf("sessions are %+v, %v", list, err)
	}
	if err := replica.EndOf(ctx, identity.Local(), users[0].ID, list[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := replica.EndOf(ctx, identity.Local(), users[0].ID, list[0].ID); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("ending it twice: %v", err)
	}
	in := 0
	for _, answer := range []*http.Response{here, there} {
		if who(t, b.ask("/", answer)) != "" {
			in++
		}
	}
	if list, err = replica.OfUser(ctx, users[0].ID); err != nil || len(list) != 1 || in != 1 {
		t.Errorf("after one of two has ended %d are in, and listed are %+v, %v", in, list, err)
	}
}
