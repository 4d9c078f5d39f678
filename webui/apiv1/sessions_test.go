package apiv1_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

type session struct {
	ID, Address, Browser string
	BegunAt              *time.Time `json:"begun_at"`
	LastSeenAt           time.Time  `json:"last_seen_at"`
	SecondFactor         bool       `json:"second_factor"`
	Current              bool
}

const onPhone = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Mobile/15E148 Safari/604.1"

// browser signs in as a user, and returns its cookie.
func (h *house) browser(t testing.TB, u identity.User, agent string) *http.Cookie {
	t.Helper()
	w := h.through(t, agent, nil, func(r *http.Request) {
		if err := h.sessions.StartUser(r.Context(), u); err != nil {
			t.Fatal(err)
		}
	})
	if len(w.Result().Cookies()) != 1 {
		t.Fatalf("signing in answers %v", w.Header())
	}
	return w.Result().Cookies()[0]
}

// through has do done in a request of a browser.
func (h *house) through(t testing.TB, agent string, cookie *http.Cookie, do func(r *http.Request)) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("User-Agent", agent)
	if cookie != nil {
		r.AddCookie(cookie)
	}
	w := httptest.NewRecorder()
	webui.RealPeer(nil)(h.sessions.Load(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { do(r) }))).ServeHTTP(w, r)
	return w
}

// within is what the API answers to who is signed in in a browser.
func (h *house) within(t testing.TB, cookie *http.Cookie, method, path string) (answer *httptest.ResponseRecorder) {
	t.Helper()
	answer = httptest.NewRecorder()
	h.through(t, "", cookie, func(r *http.Request) {
		p, _ := identity.PrincipalFrom(r.Context())
		h.api.As(p).ServeHTTP(answer, httptest.NewRequest(method, path, nil))
	})
	return answer
}

func TestSessionsAreListedAndEnded(t *testing.T) {
	h, ctx := newHouse(t), context.Background()
	made := func(email string, role identity.Role) identity.User {
		u, err := h.identity.CreateUser(ctx, identity.Local(), identity.NewUser{Email: email, Password: "a good password", Role: role})
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	ana, boss := made("ana@example.com", identity.RoleHelpdesk), made("boss@example.com", identity.RoleOwner)
	phone := h.browser(t, ana, onPhone)
	h.pass(10 * time.Minute)
	mac := h.browser(t, ana, "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Safari/605.1.15")
	bosses := h.browser(t, boss, "curl/8")

	list := func() (all []session) {
		var got struct{ Items []session }
		h.do(t, exchange{method: "GET", path: "/api/v1/users/" + ana.ID + "/sessions"}).want(t, 200, &got)
		return got.Items
	}
	all := list()
	if len(all) != 2 || all[0].Browser != "Safari on Mac" || all[1].Browser != "Safari on iPhone" || all[1].Address != "192.0.2.1" || all[1].BegunAt == nil || all[1].SecondFactor || all[1].Current {
		t.Fatalf("the sessions are %+v", all)
	}
	for _, of := range []*http.Cookie{phone, mac} {
		for _, s := range all {
			if s.ID == of.Value || strings.Contains(of.Value, s.ID) {
				t.Error("a list has what somebody could sign in with")
			}
		}
	}

	h.pass(5 * time.Minute)
	own := h.within(t, phone, "GET", "/api/v1/sessions")
	if own.Code != 200 || strings.Count(own.Body.String(), `"current":true`) != 1 || strings.Count(own.Body.String(), `"id"`) != 2 {
		t.Fatalf("one's own sessions: %d %s", own.Code, own.Body)
	}
	if all = list(); all[0].Browser != "Safari on iPhone" || all[0].LastSeenAt != h.now() {
		t.Errorf("the one that was used is %+v", all[0])
	}

	bossSession := struct{ Items []session }{}
	h.do(t, exchange{method: "GET", path: "/api/v1/users/" + boss.ID + "/sessions"}).want(t, 200, &bossSession)
	admin := h.token(t, identity.ScopeAdmin)
	h.do(t, exchange{method: "DELETE", path: "/api/v1/users/" + boss.ID + "/sessions/" + bossSession.Items[0].ID, token: admin}).wantProblem(t, 403, "forbidden")
	h.do(t, exchange{method: "DELETE", path: "/api/v1/users/" + boss.ID + "/sessions/" + all[0].ID}).wantProblem(t, 404, "not_found")
	h.do(t, exchange{method: "DELETE", path: "/api/v1/sessions/" + all[0].ID}).wantProblem(t, 404, "not_found") // a token's
	if got := h.within(t, phone, "DELETE", "/api/v1/sessions/"+bossSession.Items[0].ID); got.Code != 404 {
		t.Errorf("somebody else's session: %d %s", got.Code, got.Body)
	}

	// Another's browser, by an administrator, and at last one's own.
	h.do(t, exchange{method: "DELETE", path: "/api/v1/users/" + ana.ID + "/sessions/" + all[1].ID, token: admin}).want(t, 200, nil)
	if got := h.within(t, mac, "GET", "/api/v1/sessions"); got.Code != http.StatusForbidden {
		t.Errorf("the session that has ended answers %d", got.Code)
	}
	if got := h.within(t, phone, "DELETE", "/api/v1/sessions/"+all[0].ID); got.Code != 200 || !strings.Contains(got.Body.String(), `"current":true`) {
		t.Errorf("one's own session: %d %s", got.Code, got.Body)
	}
	if all = list(); len(all) != 0 {
		t.Errorf("sessions are left: %+v", all)
	}
	if got := h.audit(t, "", "action=session."); len(got) != 2 || got[0].Actor != "user:ana@example.com" || got[0].User != "ana@example.com" || !strings.HasPrefix(got[1].Actor, "token:") {
		t.Errorf("the audit log says %+v", got)
	}

	// A role counts at once, and what ends all sessions ends their list.
	role := identity.RoleReadOnly
	if got := h.within(t, bosses, "GET", "/api/v1/users"); got.Code != 200 {
		t.Fatalf("an owner may not list users: %d", got.Code)
	}
	made("second@example.com", identity.RoleOwner)
	if _, err := h.identity.UpdateUser(ctx, identity.Local(), boss.ID, identity.UserChange{Role: &role}); err != nil {
		t.Fatal(err)
	}
	if got := h.within(t, bosses, "GET", "/api/v1/users"); got.Code != http.StatusForbidden {
		t.Errorf("who is no owner any more lists users: %d", got.Code)
	}
	if got := h.within(t, bosses, "GET", "/api/v1/sessions"); got.Code != 200 {
		t.Errorf("with another role the session answers %d", got.Code)
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/users/" + boss.ID + "/end-sessions"}).want(t, 204, nil)
	h.do(t, exchange{method: "GET", path: "/api/v1/users/" + boss.ID + "/sessions"}).want(t, 200, &bossSession)
	if len(bossSession.Items) != 0 {
		t.Errorf("ended sessions are listed: %+v", bossSession.Items)
	}
}

// An older program kept nothing of who signed in but the user.
func TestSessionsOfBeforeAreListedWithTheirNextRequest(t *testing.T) {
	h, ctx := newHouse(t), context.Background()
	ana, err := h.identity.CreateUser(ctx, identity.Local(), identity.NewUser{Email: "ana@example.com", Password: "a good password", Role: identity.RoleReadOnly})
	if err != nil {
		t.Fatal(err)
	}
	phone := h.browser(t, ana, onPhone)
	login := regexp.MustCompile(`,"login":\{[^}]*\}`)
	err = h.db.Update(ctx, func(tx storage.Tx) error {
		var all []storage.Item
		for item, err := range tx.Scan("webui.sessions", storage.Range{}) {
			if err != nil {
				return err
			}
			all = append(all, storage.Item{Key: bytes.Clone(item.Key), Value: login.ReplaceAll(item.Value, nil)})
			if bytes.Equal(item.Value, all[len(all)-1].Value) {
				t.Errorf("a record holds no login: %s", item.Value)
			}
		}
		for _, item := range all {
			if err := tx.Put("webui.sessions", item.Key, item.Value); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Items []session }
	for range 2 { // the first request makes it known
		answer := h.within(t, phone, "GET", "/api/v1/sessions")
		if answer.Code != 200 {
			t.Fatalf("an older session answers %d", answer.Code)
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/users/" + ana.ID + "/sessions"}).want(t, 200, &got)
	if len(got.Items) != 1 || got.Items[0].ID == "" || got.Items[0].BegunAt != nil {
		t.Fatalf("it is listed as %+v", got.Items)
	}
	h.do(t, exchange{method: "DELETE", path: "/api/v1/users/" + ana.ID + "/sessions/" + got.Items[0].ID}).want(t, 200, nil)
	if answer := h.within(t, phone, "GET", "/api/v1/sessions"); answer.Code != http.StatusForbidden {
		t.Errorf("when it has ended it answers %d", answer.Code)
	}
}
