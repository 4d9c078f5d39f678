package apiv1_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

func TestALinkWithAllThatItCanHave(t *testing.T) {
	h := newHouse(t)
	var l struct {
		ID, Ownership, State string
		ShortCode            string   `json:"short_code"`
		QRURL                string   `json:"qr_url"`
		SerialNumbers        []string `json:"serial_numbers"`
		Unlimited            bool
		Uses                 int
		UsesLeft             int       `json:"uses_left"`
		ExpiresAt            time.Time `json:"expires_at"`
		Name                 string
	}
	path := "/api/v1/enrollment-links"
	h.do(t, exchange{method: "POST", path: path, body: map[string]any{
		"ownership": "ask", "unlimited": true, "serial_numbers": []string{"c02xg0fdh7jy"}, "user": "ana@example.com", "name": "<Berlin>",
	}}).want(t, 201, &l)
	if l.Ownership != "ask" || !l.Unlimited || l.Uses != 0 || len(l.ShortCode) != 9 || l.ShortCode[4] != '-' || l.SerialNumbers[0] != "C02XG0FDH7JY" || l.State != "active" {
		t.Errorf("the link is %+v", l)
	}
	picture := h.do(t, exchange{method: "GET", path: path + "/" + l.ID + "/qr.svg"})
	if picture.status != 200 || !bytes.HasPrefix(picture.answer, []byte("<svg ")) || !bytes.Contains(picture.answer, []byte("&lt;Berlin&gt;")) ||
		picture.response.Get("Content-Type") != "image/svg+xml" || !strings.HasSuffix(l.QRURL, path+"/"+l.ID+"/qr.svg") {
		t.Errorf("the picture is %d %.60s", picture.status, picture.answer)
	}
	h.do(t, exchange{method: "GET", path: path + "/none/qr.svg"}).wantProblem(t, 404, "not_found")

	for field, body := range map[string]string{
		"ownership":         `{"ownership":"mine"}`,
		"uses":              `{"unlimited":true,"uses":3}`,
		"serial_numbers[1]": `{"serial_numbers":["C02XG0FDH7JY","?"]}`,
	} {
		h.do(t, exchange{method: "POST", path: path, body: body, wild: true}).wantField(t, field)
	}

	h.do(t, exchange{method: "PATCH", path: path + "/" + l.ID, body: map[string]any{"name": "Hamburg", "expires_in": "1h"}}).want(t, 200, &l)
	if l.Name != "Hamburg" || !l.ExpiresAt.Equal(h.now().Add(time.Hour)) {
		t.Errorf("the link is %+v", l)
	}
	for field, body := range map[string]string{
		"uses":       `{"uses":3}`,
		"expires_in": `{"expires_in":"-1h"}`,
		"expires_at": `{"expires_at":"tomorrow"}`,
		"ownership":  `{"ownership":"personal"}`,
	} {
		h.do(t, exchange{method: "PATCH", path: path + "/" + l.ID, body: body, wild: true}).wantField(t, field)
	}
	h.do(t, exchange{method: "PATCH", path: path + "/" + l.ID, body: `{}`, token: h.token(t, identity.ScopeReadOnly)}).wantProblem(t, 403, "forbidden")

	h.do(t, exchange{method: "POST", path: path, body: map[string]any{"user": "bea@example.com"}}).want(t, 201, nil)
	h.do(t, exchange{method: "DELETE", path: path + "/" + l.ID}).want(t, 204, nil)
	h.do(t, exchange{method: "PATCH", path: path + "/" + l.ID, body: `{"name":"x"}`}).wantProblem(t, 409, "link_revoked")
	for query, want := range map[string]int{
		"": 2, "?user=ANA@example.com": 1, "?state=revoked": 1, "?state=active": 1, "?state=active&user=ana@example.com": 0,
	} {
		var found struct{ Items []struct{ ID string } }
		h.do(t, exchange{method: "GET", path: path + query}).want(t, 200, &found)
		if len(found.Items) != want {
			t.Errorf("%s finds %d links, want %d", query, len(found.Items), want)
		}
	}
	h.do(t, exchange{method: "GET", path: path + "?state=open", wild: true}).wantField(t, "state")
}

func TestLinksThatSpeakForAUser(t *testing.T) {
	h := newHouse(t)
	const path = "/api/v1/enrollment-links"
	tokens := map[identity.Scope]string{}
	for _, scope := range []identity.Scope{identity.ScopeReadOnly, identity.ScopeHelpdesk, identity.ScopeAdmin, identity.ScopeOwner} {
		tokens[scope] = h.token(t, scope)
	}
	type link struct {
		ID, Code, URL string
		ShortCode     string `json:"short_code"`
		ProfileURL    string `json:"profile_url"`
		QRURL         string `json:"qr_url"`
	}
	made := map[string]link{}
	for role, needs := range map[identity.Role]identity.Scope{
		identity.RoleUser: identity.ScopeAdmin, identity.RoleHelpdesk: identity.ScopeAdmin, identity.RoleAdmin: identity.ScopeAdmin, identity.RoleOwner: identity.ScopeOwner,
	} {
		user := "speaks-" + string(role) + "@example.com"
		if _, err := h.identity.CreateUser(t.Context(), identity.Local(), identity.NewUser{Email: user, Role: role}); err != nil {
			t.Fatal(err)
		}
		for scope, token := range tokens {
			may := scope == identity.ScopeOwner || scope == needs
			for _, x := range []exchange{
				{method: "POST", path: path, body: map[string]any{"login": "none", "user": " " + strings.ToUpper(user)}},
				{method: "POST", path: "/api/v1/enrollment-invitations", body: map[string]any{"login": "none", "users": []string{user}, "send": false}},
			} {
				x.token = token
				got := h.do(t, x)
				if !may {
					got.wantProblem(t, 403, "forbidden")
				} else if got.status != 201 && got.status != 202 {
					t.Errorf("%s %s for the role %s: %d %s", scope, x.path, role, got.status, got.answer)
				}
			}
			required := h.do(t, exchange{method: "POST", path: path, body: map[string]any{"user": user}, token: token})
			if required.status != 201 && scope != identity.ScopeReadOnly {
				t.Errorf("%s for the role %s, with a login: %d", scope, role, required.status)
			}
		}
		var l link
		h.do(t, exchange{method: "POST", path: path, body: map[string]any{"login": "none", "user": user}}).want(t, 201, &l)
		made[user] = l
		change := exchange{method: "PATCH", path: path + "/" + l.ID, body: map[string]any{"expires_in": "1h"}, token: tokens[identity.ScopeHelpdesk]}
		h.do(t, change).wantProblem(t, 403, "forbidden")
		change.token = tokens[needs]
		h.do(t, change).want(t, 200, nil)
	}

	// Who may not hand one out does not learn its code either.
	secret := made["speaks-user@example.com"]
	var plain link
	h.do(t, exchange{method: "POST", path: path, body: map[string]any{"login": "none"}}).want(t, 201, &plain)
	for scope, token := range tokens {
		for l, learns := range map[link]bool{
			secret: scope == identity.ScopeAdmin || scope == identity.ScopeOwner,
			plain:  scope != identity.ScopeReadOnly,
		} {
			var got link
			want := link{ID: l.ID}
			if learns {
				want = l
			}
			h.do(t, exchange{method: "GET", path: path + "/" + l.ID, token: token}).want(t, 200, &got)
			if got != want {
				t.Errorf("%s sees %+v, want %+v", scope, got, want)
			}
			list := h.do(t, exchange{method: "GET", path: path, token: token})
			list.want(t, 200, nil)
			if strings.Contains(string(list.answer), l.Code) != learns || strings.Contains(string(list.answer), l.ShortCode) != learns {
				t.Errorf("%s learns the code of %s from the list: %v, want %v", scope, l.ID, !learns, learns)
			}
			if got := h.do(t, exchange{method: "GET", path: path + "/" + l.ID + "/qr.svg", token: token}); (got.status == 200) != learns {
				t.Errorf("%s gets the picture of %s with %d", scope, l.ID, got.status)
			}
		}
	}
}

func TestInvitationsShowLinksToWhoHandsThemOut(t *testing.T) {
	h := newHouse(t)
	var in struct{ ID string }
	h.do(t, exchange{method: "POST", path: "/api/v1/enrollment-invitations", body: map[string]any{"emails": []string{"guest@example.com"}, "send": false}}).want(t, 202, &in)
	for scope, learns := range map[identity.Scope]bool{identity.ScopeReadOnly: false, identity.ScopeHelpdesk: true} {
		var got invitation
		h.do(t, exchange{method: "GET", path: "/api/v1/enrollment-invitations/" + in.ID, token: h.token(t, scope)}).want(t, 200, &got)
		if item := got.Items[0]; (item.URL != "") != learns || (item.ShortCode != "") != learns {
			t.Errorf("%s sees %+v", scope, item)
		}
	}
}
