package portal_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/portal"
)

// door has one link for each way in which a link can be: its code is the error's
// index, or "open".
type door struct{ attempts *atomic.Int32 }

var refused = []error{enroll.ErrLinkUnknown, enroll.ErrLinkExpired, enroll.ErrLinkUsedUp, enroll.ErrLinkRevoked, enroll.ErrLoginRequired, enroll.ErrUserDisabled}

func (door) OpenLink(_ context.Context, code string) (enroll.Link, error) {
	for i, err := range refused {
		if code == fmt.Sprint(i) {
			return enroll.Link{}, fmt.Errorf("open enrollment link: %w", err)
		}
	}
	return enroll.Link{Code: code, Ownership: mdm.Personal, Login: enroll.LoginNone, ExpiresAt: time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC)}, nil
}

func (d door) NewEnrollment(ctx context.Context, code string) ([]byte, enroll.Attempt, error) {
	_, err := d.OpenLink(ctx, code)
	d.attempts.Add(1)
	return []byte("signed profile"), enroll.Attempt{}, err
}

func open(t *testing.T) http.Handler {
	t.Helper()
	return openDoor(t, door{new(atomic.Int32)})
}

func openDoor(t *testing.T, d door) http.Handler {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	pages, err := webui.NewPages(log)
	if err != nil {
		t.Fatal(err)
	}
	p, err := portal.New(portal.Config{Enroll: d, Pages: pages, Organisation: "Example", OwnCA: true, Fingerprint: func() string { return "5F:2C" }})
	if err != nil {
		t.Fatal(err)
	}
	mux := webui.NewMux(pages.Fail)
	p.Mount(mux.Group(webui.Group{BodyLimit: 1 << 10, Fail: pages.Fail}))
	return mux
}

func get(h http.Handler, path, accept string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", path, nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestLinksThatAreNoUse(t *testing.T) {
	h := open(t)
	for code, want := range []struct {
		status        int
		problem, page string
	}{
		{404, "link_unknown", "GH-E101"},
		{410, "link_expired", "GH-E102"},
		{410, "link_used_up", "GH-E103"},
		{410, "link_revoked", "GH-E104"},
		{403, "login_required", "GH-E105"},
		{403, "user_disabled", "GH-E106"},
	} {
		for _, path := range []string{fmt.Sprintf("/enroll/l/%d", code), fmt.Sprintf("/enroll/l/%d/profile", code)} {
			t.Run(want.problem+" at "+path, func(t *testing.T) {
				page := get(h, path, "text/html,application/xhtml+xml,*/*;q=0.8")
				if page.Code != want.status || !strings.Contains(page.Body.String(), want.page) {
					t.Errorf("a browser gets %d, want %d and %s:\n%s", page.Code, want.status, want.page, page.Body)
				}
				for _, accept := range []string{"", "*/*", "application/json", "application/json, text/html;q=0"} {
					answer := get(h, path, accept)
					var p webui.Problem
					if err := json.Unmarshal(answer.Body.Bytes(), &p); err != nil {
						t.Fatalf("Accept %q: %v: %s", accept, err, answer.Body)
					}
					if answer.Code != want.status || p.Status != want.status || p.Code != want.problem || answer.Header().Get("Content-Type") != "application/problem+json" {
						t.Errorf("Accept %q gets %d %+v, want %d %s", accept, answer.Code, p, want.status, want.problem)
					}
				}
			})
		}
	}
}

func TestLinkLeadsToTheProfile(t *testing.T) {
	h := open(t)
	page := get(h, "/enroll/l/open", "text/html")
	if page.Code != 200 || !strings.Contains(page.Body.String(), `href="/enroll/l/open/profile"`) || !strings.Contains(page.Body.String(), "your own device") {
		t.Errorf("page = %d:\n%s", page.Code, page.Body)
	}
	// Safari asks for the profile as for any page.
	profile := get(h, "/enroll/l/open/profile", "text/html,*/*;q=0.8")
	for name, want := range map[string]string{
		"Content-Type":        "application/x-apple-aspen-config",
		"Content-Disposition": `attachment; filename="enroll.mobileconfig"`,
		"Cache-Control":       "no-store, no-transform",
	} {
		if got := profile.Header().Get(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if profile.Code != 200 || profile.Body.String() != "signed profile" {
		t.Errorf("profile = %d %s", profile.Code, profile.Body)
	}
}

func TestOnlyGetMakesAnAttempt(t *testing.T) {
	d := door{new(atomic.Int32)}
	h := openDoor(t, d)
	for _, tt := range []struct {
		method, code     string
		status, attempts int
	}{
		{"HEAD", "open", 200, 0},
		{"HEAD", "1", 410, 0},
		{"GET", "open", 200, 1},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(tt.method, "/enroll/l/"+tt.code+"/profile", nil))
		if got := int(d.attempts.Load()); w.Code != tt.status || got != tt.attempts {
			t.Errorf("%s with code %s = %d and %d attempts, want %d and %d", tt.method, tt.code, w.Code, got, tt.status, tt.attempts)
		}
	}
}

func TestPersonIsLedToThePortal(t *testing.T) {
	h := open(t)
	for _, path := range []string{enroll.PathCheckIn, enroll.PathConnect} {
		if got := get(h, path, "text/html"); !strings.Contains(got.Body.String(), `href="/enroll"`) || got.Code == http.StatusUnauthorized {
			t.Errorf("%s = %d:\n%s", path, got.Code, got.Body)
		}
	}
	if got := get(h, "/enroll", "text/html"); got.Code != 200 || !strings.Contains(got.Body.String(), "You need an enrollment link") {
		t.Errorf("/enroll = %d", got.Code)
	}
}
