package admin

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// api is an API in which p may do whatever it answers.
type api struct{ http.HandlerFunc }

func (a api) As(identity.Principal) http.Handler  { return a.HandlerFunc }
func (a api) May(identity.Principal, string) bool { return true }

// forwarding is a server whose only page is a file of an API.
func forwarding(t *testing.T, answer http.HandlerFunc) *httptest.Server {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	pages, err := webui.NewPages(log)
	if err != nil {
		t.Fatal(err)
	}
	desk, err := New(Config{
		API: api{answer}, Assets: pages.Assets(), Pages: pages, ServerURL: &url.URL{}, Log: log, Now: time.Now,
		LastEvent: func(context.Context) (uint64, error) { return 0, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := webui.NewMux(desk.Fail)
	mux.Group(webui.Group{BodyLimit: 1, Fail: desk.Fail}).Handle("GET /file", func(w http.ResponseWriter, r *http.Request) error {
		return desk.Forward(w, r.WithContext(identity.WithPrincipal(r.Context(), identity.SetupPrincipal())), "/api/v1/file", nil)
	})
	known := func(w http.ResponseWriter, r *http.Request) {
		mux.ServeHTTP(w, r.WithContext(identity.WithPrincipal(r.Context(), identity.SetupPrincipal())))
	}
	srv := httptest.NewServer(webui.Recover(log, desk.Fail)(http.HandlerFunc(known)))
	t.Cleanup(srv.Close)
	return srv
}

// file asks as a browser does.
func file(t *testing.T, srv *httptest.Server) (*http.Response, string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/file", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/html,*/*;q=0.8")
	got, err := srv.Client().Do(r)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = got.Body.Close() }()
	body, err := io.ReadAll(got.Body)
	return got, string(body), err
}

func TestAFileThatFailsIsAPage(t *testing.T) {
	got, body, err := file(t, forwarding(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Disposition", "attachment; filename=devices.csv")
		webui.WriteProblem(w, r, http.StatusServiceUnavailable, "busy", "Too much at once", "Wait a minute.")
	}))
	if err != nil {
		t.Fatal(err)
	}
	if got.StatusCode != http.StatusServiceUnavailable || !strings.HasPrefix(got.Header.Get("Content-Type"), "text/html") || got.Header.Get("Content-Disposition") != "" || !strings.Contains(body, "Wait a minute.") {
		t.Errorf("%d %v\n%s", got.StatusCode, got.Header, body)
	}
}

func TestHalfAFileIsNotTakenForAll(t *testing.T) {
	for name, end := range map[string]func(w http.ResponseWriter, r *http.Request){
		"it stops":          func(http.ResponseWriter, *http.Request) { panic("the database is gone") },
		"it says a problem": func(w http.ResponseWriter, r *http.Request) { webui.WriteProblem(w, r, 500, "internal", "Broken", "") },
	} {
		t.Run(name, func(t *testing.T) {
			_, body, err := file(t, forwarding(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/csv")
				_, _ = io.WriteString(w, strings.Repeat("a,b\n", 4000))
				end(w, r)
			}))
			if err == nil {
				t.Errorf("it ends as if it were whole: …%q", body[max(0, len(body)-60):])
			}
		})
	}
}
