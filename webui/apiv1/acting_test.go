package apiv1_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

func TestPagesMayWhatTokensMay(t *testing.T) {
	h := newHouse(t)
	as := func(p identity.Principal, method, path, body string) (int, string) {
		t.Helper()
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.api.As(p).ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	user := func(scopes ...identity.Scope) identity.Principal {
		return identity.Principal{Kind: identity.KindUser, ID: "u1", Name: "ana@example.com", User: "ana@example.com", Scopes: scopes}
	}
	reader, owner := user(identity.ScopeReadOnly), user(identity.ScopeOwner)
	link := `{"name":"x","login":"none"}`

	if status, body := as(reader, "GET", "/api/v1/devices", ""); status != http.StatusOK {
		t.Errorf("a reader reads devices: %d %s", status, body)
	}
	if status, body := as(reader, "POST", "/api/v1/enrollment-links", link); status != http.StatusForbidden {
		t.Errorf("a reader makes a link: %d %s", status, body)
	}
	if status, body := as(user(), "GET", "/api/v1/devices", ""); status != http.StatusForbidden {
		t.Errorf("who has no role reads devices: %d %s", status, body)
	}
	if status, body := as(owner, "POST", "/api/v1/enrollment-links", link); status != http.StatusCreated {
		t.Errorf("an owner makes a link: %d %s", status, body)
	}
	if h.api.May(reader, "POST /api/v1/enrollment-links") || !h.api.May(reader, "GET /api/v1/devices") || !h.api.May(owner, "POST /api/v1/enrollment-links") {
		t.Error("May says other than As does")
	}

	// Who did it is in the audit log, as for a token.
	var log struct {
		Items []struct{ Action, Actor string }
	}
	_, body := as(owner, "GET", "/api/v1/audit", "")
	if err := json.Unmarshal([]byte(body), &log); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, e := range log.Items {
		found = found || strings.HasPrefix(e.Action, "link.") && strings.Contains(e.Actor, "ana@example.com")
	}
	if !found {
		t.Errorf("the audit log does not say who made the link: %s", body)
	}

	// Nothing that comes over the network is taken for it: a token is needed there.
	resp, err := http.Get(h.url + "/api/v1/devices")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a token: %d", resp.StatusCode)
	}
}
