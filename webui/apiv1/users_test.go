package apiv1_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

type user struct {
	ID, Username, Email, UPN, Role string

	FullName            string `json:"full_name"`
	ManagedAppleAccount string `json:"managed_apple_account"`
	CanEnroll           bool   `json:"can_enroll"`
	HasPassword         bool   `json:"has_password"`
	Disabled            bool
	CreatedAt           time.Time `json:"created_at"`
}

func TestUsersAreMadeAndRead(t *testing.T) {
	h := newHouse(t)
	for name, tt := range map[string]struct {
		body string
		want user
	}{
		"with all there is": {
			`{"username":"bea","email":"bea@example.com","full_name":"Bea B.","password":"a good password","managed_apple_account":"bea@appleid.example.com","can_enroll":false,"role":"helpdesk"}`,
			user{Username: "bea", Email: "bea@example.com", UPN: "bea@example.com", FullName: "Bea B.", ManagedAppleAccount: "bea@appleid.example.com", HasPassword: true, Role: "helpdesk"},
		},
		"with an address only": {
			`{"email":"cyd@example.com"}`,
			user{Username: "cyd@example.com", Email: "cyd@example.com", UPN: "cyd@example.com", CanEnroll: true, Role: "user"},
		},
		"with a username only": {
			`{"username":"dan","can_enroll":true,"role":"owner"}`,
			user{Username: "dan", CanEnroll: true, Role: "owner"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got, again user
			made := h.do(t, exchange{method: "POST", path: "/api/v1/users", body: tt.body})
			made.want(t, 201, &got)
			tt.want.ID, tt.want.CreatedAt = got.ID, h.now()
			if got != tt.want || got.ID == "" {
				t.Errorf("made is %+v, want %+v", got, tt.want)
			}
			if at := made.response.Get("Location"); at != "/api/v1/users/"+got.ID {
				t.Errorf("Location is %q", at)
			}
			if strings.Contains(string(made.answer), "argon2") {
				t.Errorf("the answer has the hash: %s", made.answer)
			}
			h.do(t, exchange{method: "GET", path: "/api/v1/users/" + got.ID}).want(t, 200, &again)
			if again != got {
				t.Errorf("read again it is %+v, want %+v", again, got)
			}
		})
	}
	var page struct{ Items []user }
	h.do(t, exchange{method: "GET", path: "/api/v1/users?limit=3"}).want(t, 200, &page)
	if len(page.Items) != 3 {
		t.Errorf("%d users in the list, want 3", len(page.Items))
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/users/none"}).wantProblem(t, 404, "not_found")
}

func TestUsersThatAreNotMade(t *testing.T) {
	h := newHouse(t)
	h.do(t, exchange{method: "POST", path: "/api/v1/users", body: `{"username":"cyd","email":"cyd@example.com"}`}).want(t, 201, nil)
	for name, tt := range map[string]struct{ body, field string }{
		"without a name":            {`{}`, "email"},
		"with a strange address":    {`{"email":"bea"}`, "email"},
		"with a strange username":   {`{"username":"be a"}`, "username"},
		"with a long name":          {`{"username":"bea","full_name":"` + strings.Repeat("x", 256) + `"}`, "full_name"},
		"with a short password":     {`{"username":"bea","password":"1234567"}`, "password"},
		"with a common password":    {`{"username":"bea","password":"P@ssw0rd1"}`, "password"},
		"with the name in it":       {`{"username":"beatrice","password":"Beatrice2024!"}`, "password"},
		"with the full name in it":  {`{"username":"bea","full_name":"Beatrice Weller","password":"Weller2024!"}`, "password"},
		"with a role that is none":  {`{"username":"bea","role":"root"}`, "role"},
		"with a number for a name":  {`{"username":7}`, "username"},
		"with a text for a boolean": {`{"username":"bea","can_enroll":"yes"}`, "can_enroll"},
		"with a field of no user":   {`{"username":"bea","disabled":true}`, "disabled"},
	} {
		t.Run(name, func(t *testing.T) {
			h.do(t, exchange{method: "POST", path: "/api/v1/users", body: tt.body, wild: true}).wantField(t, tt.field)
		})
	}
	p := h.do(t, exchange{method: "POST", path: "/api/v1/users", body: `{"email":"CYD@example.com"}`}).wantProblem(t, 409, "user_exists")
	if p.Detail != "another user logs in as CYD@example.com" {
		t.Errorf("detail is %q", p.Detail)
	}
}

func TestUsersAreChanged(t *testing.T) {
	h := newHouse(t)
	var bea user
	h.do(t, exchange{method: "POST", path: "/api/v1/users", body: `{"email":"bea@example.com","full_name":"Bea","password":"a good password"}`}).want(t, 201, &bea)
	at := "/api/v1/users/" + bea.ID
	want := bea
	for _, step := range []struct {
		body   string
		change func()
	}{
		{`{}`, func() {}},
		{`{"full_name":"Bea B.","can_enroll":false}`, func() { want.FullName, want.CanEnroll = "Bea B.", false }},
		{`{"full_name":""}`, func() { want.FullName = "" }},
		{`{"username":"bea","email":"b@example.com"}`, func() { want.Username, want.Email, want.UPN = "bea", "b@example.com", "b@example.com" }},
		{`{"role":"admin","managed_apple_account":"b@appleid.example.com"}`, func() { want.Role, want.ManagedAppleAccount = "admin", "b@appleid.example.com" }},
		{`{"disabled":true,"can_enroll":true}`, func() { want.Disabled, want.CanEnroll = true, true }},
		{`{"disabled":false}`, func() { want.Disabled = false }},
		{`{"password":"another password"}`, func() {}},
	} {
		step.change()
		var got, stored user
		h.do(t, exchange{method: "PATCH", path: at, body: step.body}).want(t, 200, &got)
		h.do(t, exchange{method: "GET", path: at}).want(t, 200, &stored)
		if got != want || stored != want {
			t.Errorf("PATCH %s answers %+v, stored is %+v, want %+v", step.body, got, stored, want)
		}
	}
	for password, wantErr := range map[string]error{"a good password": identity.ErrBadLogin, "another password": nil} {
		if _, err := h.identity.Login(context.Background(), "b@example.com", password, "192.0.2.1"); !errors.Is(err, wantErr) {
			t.Errorf("Login with %q = %v, want %v", password, err, wantErr)
		}
	}
	for body, field := range map[string]string{
		`{"username":""}`:         "username",
		`{"email":"b"}`:           "email",
		`{"role":"root"}`:         "role",
		`{"role":7}`:              "role",
		`{"password":""}`:         "password",
		`{"password":"12345678"}`: "password",
		`{"full_name":"Kunigunde Weller","password":"Kunigunde1!"}`: "password",
		`{"disabled":"yes"}`:    "disabled",
		`{"id":"x"}`:            "id",
		`{"Disabled":true}`:     "Disabled",
		`{"has_password":true}`: "has_password",
	} {
		h.do(t, exchange{method: "PATCH", path: at, body: body, wild: true}).wantField(t, field)
	}
	h.do(t, exchange{method: "PATCH", path: "/api/v1/users/none", body: `{}`}).wantProblem(t, 404, "not_found")
}

func TestADisabledUsersTokenOpensNothing(t *testing.T) {
	h := newHouse(t)
	var bea user
	h.do(t, exchange{method: "POST", path: "/api/v1/users", body: `{"email":"bea@example.com"}`}).want(t, 201, &bea)
	var token struct{ Token string }
	h.do(t, exchange{method: "POST", path: "/api/v1/tokens", body: map[string]any{"name": "hers", "scopes": []string{"read_only"}, "user": "bea@example.com"}}).want(t, 201, &token)
	devices := exchange{method: "GET", path: "/api/v1/devices", token: token.Token}
	h.do(t, devices).want(t, 200, nil)
	h.do(t, exchange{method: "PATCH", path: "/api/v1/users/" + bea.ID, body: `{"disabled":true}`}).want(t, 200, nil)
	h.do(t, devices).wantProblem(t, 401, "unauthenticated")
	h.do(t, exchange{method: "PATCH", path: "/api/v1/users/" + bea.ID, body: `{"disabled":false}`}).want(t, 200, nil)
	h.do(t, devices).want(t, 200, nil)
}

func TestTheLastOwnerStays(t *testing.T) {
	h := newHouse(t)
	var ana user
	h.do(t, exchange{method: "POST", path: "/api/v1/users", body: `{"email":"ana@example.com","password":"a good password","role":"owner"}`}).want(t, 201, &ana)
	for _, body := range []string{`{"disabled":true}`, `{"role":"admin"}`} {
		h.do(t, exchange{method: "PATCH", path: "/api/v1/users/" + ana.ID, body: body}).wantProblem(t, 409, "last_owner")
	}
	p := h.do(t, exchange{method: "PATCH", path: "/api/v1/users/" + ana.ID, body: `{"full_name":"Eve"}`, token: h.token(t, identity.ScopeAdmin)}).wantProblem(t, 403, "forbidden")
	if p.Detail != "only owners make and change users with the role owner" {
		t.Errorf("detail is %q", p.Detail)
	}
	var stored user
	got := h.do(t, exchange{method: "GET", path: "/api/v1/users/" + ana.ID})
	got.want(t, 200, &stored)
	if stored != ana {
		t.Errorf("then the owner is %s, want %+v", got.answer, ana)
	}
}

func TestUsersAreFound(t *testing.T) {
	h := newHouse(t)
	for _, body := range []string{
		`{"email":"bea@example.com","full_name":"Bea Blum","role":"helpdesk"}`, `{"email":"ben@example.com","full_name":"Ben Blum"}`, `{"username":"cyd","role":"read_only"}`,
	} {
		h.do(t, exchange{method: "POST", path: "/api/v1/users", body: body}).want(t, 201, nil)
	}
	for query, want := range map[string]int{
		"q=BLUM": 2, "q=blum+ben@": 1, "role=helpdesk": 1, "q=blum&role=read_only": 0, "status=disabled": 0, "status=active&q=cyd": 1,
	} {
		found, cursor := 0, ""
		for range 10 { // pages of one
			var list struct {
				Items      []user
				NextCursor string `json:"next_cursor"`
			}
			h.do(t, exchange{method: "GET", path: "/api/v1/users?limit=1&" + query + "&cursor=" + cursor}).want(t, 200, &list)
			found += len(list.Items)
			if cursor = list.NextCursor; cursor == "" {
				break
			}
		}
		if found != want || cursor != "" {
			t.Errorf("%s finds %d users, want %d", query, found, want)
		}
	}
	for _, query := range []string{"q=x&cursor=x", "q=x&q=y"} {
		if got := h.do(t, exchange{method: "GET", path: "/api/v1/users?" + query}); got.status != 400 {
			t.Errorf("%s = %d, want 400", query, got.status)
		}
	}
}
