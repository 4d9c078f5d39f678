package apiv1_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

// sources stands for the directories and providers of others: package identity and the
// kinds themselves are tested with more of them.
type sources struct{ redirects bool }

type sourceSettings struct {
	URL    string `json:"url"`
	Secret string `json:"client_secret,omitempty"`
}

func (s sources) Name() string {
	if s.redirects {
		return "sso"
	}
	return "directory"
}

func (sources) Secrets() []string         { return []string{"client_secret"} }
func (sources) Mapping() identity.Mapping { return identity.Mapping{Username: "uid"} }

func (sources) Check(raw json.RawMessage) error {
	var in sourceSettings
	if json.Unmarshal(raw, &in) != nil || in.URL == "" {
		return &identity.FieldError{Field: "url", Reason: "is required"}
	}
	return nil
}

func (s sources) Open(raw json.RawMessage) (any, error) {
	var in sourceSettings
	if err := json.Unmarshal(raw, &in); err != nil {
		return nil, err
	}
	if s.redirects {
		return redirects(in), nil
	}
	return passwords(in), nil
}

type passwords sourceSettings

func (p passwords) SignIn(_ context.Context, login, password string) (identity.Person, bool, error) {
	switch {
	case p.URL == "down":
		return identity.Person{}, false, fmt.Errorf("%w: connection refused", identity.ErrSource)
	case password != "a good password":
		return identity.Person{}, true, identity.ErrBadLogin
	}
	return identity.Person{Subject: "id of " + login, Attributes: map[string][]string{"uid": {login}}, Groups: []string{"staff"}}, true, nil
}

type redirects sourceSettings

func (r redirects) Begin(_ context.Context, to identity.Redirect) (string, string, error) {
	if r.URL == "down" {
		return "", "", errors.New("connection refused")
	}
	return r.URL + "?redirect_uri=" + url.QueryEscape(to.ReturnURL), "keep", nil
}

func (redirects) Finish(context.Context, identity.Redirect, string, url.Values) (identity.Person, error) {
	return identity.Person{}, identity.ErrDenied
}

func (redirects) Logout(context.Context, string) (string, error) { return "", nil }

const providersPath = "/api/v1/identity-providers"

type provider struct {
	ID, Name, Kind string
	Enabled        bool
	Uses, Groups   []string
	Mapping        *struct {
		Username             string
		ManagedAppleAccounts map[string]string `json:"managed_apple_accounts"`
	}
	Settings    map[string]any
	Position    int
	SignIn      *string `json:"sign_in"`
	CallbackURL *string `json:"callback_url"`
	LastCheck   any     `json:"last_check"`
}

// provider makes a provider of a kind and returns its id.
func (h *house) provider(t testing.TB, body string) provider {
	t.Helper()
	var p provider
	made := h.do(t, exchange{method: "POST", path: providersPath, body: body})
	made.want(t, 201, &p)
	if at := made.response.Get("Location"); at != providersPath+"/"+p.ID {
		t.Errorf("Location is %q", at)
	}
	return p
}

func TestProvidersAreMadeReadAndChanged(t *testing.T) {
	h := newHouse(t)
	p := h.provider(t, `{"kind":"sso","name":"Example","uses":["personal"],"groups":["staff"],
		"mapping":{"managed_apple_accounts":{"Ana":"ana@appleid.example.com"}},"settings":{"url":"https://id","client_secret":"very secret"}}`)
	if p.Kind != "sso" || !p.Enabled || p.Mapping.Username != "uid" || p.Mapping.ManagedAppleAccounts["ana"] == "" || p.LastCheck != nil ||
		p.CallbackURL == nil || *p.CallbackURL != "https://mdm.example.com/login/with/"+p.ID+"/callback" || *p.SignIn != "redirect" {
		t.Errorf("made is %+v", p)
	}
	if p.Settings["url"] != "https://id" || p.Settings["has_client_secret"] != true || len(p.Settings) != 2 {
		t.Errorf("its settings are %v, want no secret", p.Settings)
	}
	at := providersPath + "/" + p.ID
	for _, step := range []struct{ body, settings string }{
		{`{}`, "map[has_client_secret:true url:https://id]"},
		{`{"settings":{"url":"https://other","has_client_secret":true}}`, "map[has_client_secret:true url:https://other]"}, // as it was read
		{`{"settings":{"client_secret":null}}`, "map[has_client_secret:false url:https://other]"},
	} {
		var got, stored provider
		h.do(t, exchange{method: "PATCH", path: at, body: step.body}).want(t, 200, &got)
		raw := h.do(t, exchange{method: "GET", path: at})
		raw.want(t, 200, &stored)
		if fmt.Sprint(got.Settings) != step.settings || fmt.Sprint(stored.Settings) != step.settings || strings.Contains(string(raw.answer), "very secret") {
			t.Errorf("PATCH %s answers %v, stored is %s; want %s", step.body, got.Settings, raw.answer, step.settings)
		}
	}
	var page struct{ Items []provider }
	h.do(t, exchange{method: "GET", path: providersPath}).want(t, 200, &page)
	if len(page.Items) != 2 || page.Items[0].ID != "local" || page.Items[0].Mapping != nil || page.Items[1].ID != p.ID {
		t.Errorf("the list is %+v, want the local one first", page.Items)
	}
	h.do(t, exchange{method: "PATCH", path: providersPath + "/local", body: `{"uses":["admin","personal"],"require_second_factor":true}`}).want(t, 200, nil)
	h.do(t, exchange{method: "DELETE", path: at}).want(t, 204, nil)
	h.do(t, exchange{method: "GET", path: at}).wantProblem(t, 404, "not_found")
	h.do(t, exchange{method: "DELETE", path: at}).wantProblem(t, 404, "not_found")
	h.do(t, exchange{method: "DELETE", path: providersPath + "/local"}).wantProblem(t, 403, "forbidden")
}

func TestProvidersThatAreNotMade(t *testing.T) {
	h := newHouse(t)
	p := h.provider(t, `{"kind":"directory","name":"Taken","settings":{"url":"x"}}`)
	for name, tt := range map[string]struct{ body, field string }{
		"without a kind":            {`{"name":"x"}`, "kind"},
		"with a kind that is none":  {`{"kind":"saml","name":"x"}`, "kind"},
		"without a name":            {`{"kind":"directory","settings":{"url":"x"}}`, "name"},
		"with another's name":       {`{"kind":"directory","name":"taken","settings":{"url":"x"}}`, "name"},
		"without settings":          {`{"kind":"directory","name":"x"}`, "settings.url"},
		"with settings as a text":   {`{"kind":"directory","name":"x","settings":"url"}`, "settings"},
		"with a use that is none":   {`{"kind":"directory","name":"x","uses":["all"],"settings":{"url":"x"}}`, "uses[0]"},
		"with a field that is none": {`{"kind":"directory","name":"x","enabled":true,"url":"x"}`, "url"},
		"with a strange mapping":    {`{"kind":"directory","name":"x","mapping":{"user":"uid"},"settings":{"url":"x"}}`, "mapping.user"},
		"with a number for a name":  {`{"kind":"directory","name":"x","mapping":{"email":7},"settings":{"url":"x"}}`, "mapping.email"},
	} {
		t.Run(name, func(t *testing.T) {
			h.do(t, exchange{method: "POST", path: providersPath, body: tt.body, wild: true}).wantField(t, tt.field)
		})
	}
	at := providersPath + "/" + p.ID
	h.do(t, exchange{method: "PATCH", path: at, body: `{"kind":"sso"}`, wild: true}).wantField(t, "kind")
	h.do(t, exchange{method: "DELETE", path: at + "?force=maybe", wild: true}).wantField(t, "force")
	admin := h.token(t, identity.ScopeAdmin)
	h.do(t, exchange{method: "PATCH", path: at, body: `{"uses":["admin"]}`, token: admin}).wantProblem(t, 403, "forbidden")
}

type signInTest struct {
	OK        bool
	URL       *string
	Steps     []struct{ Name, Detail string }
	Person    *struct{ Subject string }
	Mapped    *struct{ Username string }
	UserID    string   `json:"user_id"`
	MayEnroll []string `json:"may_enroll"`
	Denied    map[string]string
}

func TestProvidersAreTried(t *testing.T) {
	h := newHouse(t)
	directory := h.provider(t, `{"kind":"directory","name":"directory","uses":["personal"],"settings":{"url":"x"}}`)
	down := h.provider(t, `{"kind":"directory","name":"down","settings":{"url":"down"}}`)
	sso := h.provider(t, `{"kind":"sso","name":"sso","settings":{"url":"https://id"}}`)
	ssoDown := h.provider(t, `{"kind":"sso","name":"sso down","settings":{"url":"down"}}`)
	try := func(p provider, body string) (got signInTest) {
		t.Helper()
		h.do(t, exchange{method: "POST", path: providersPath + "/" + p.ID + "/test", body: body}).want(t, 200, &got)
		return got
	}
	if got := try(directory, `{"login":"ana","password":"a good password"}`); !got.OK || got.Person.Subject != "id of ana" || got.Mapped.Username != "ana" ||
		got.UserID != "" || strings.Join(got.MayEnroll, " ") != "personal" || got.Denied["institutional"] != "provider" || got.URL != nil {
		t.Errorf("somebody: %+v", got)
	}
	if got := try(directory, `{"login":"ana","password":"x"}`); got.OK || got.Person != nil || len(got.Steps) != 1 || got.Steps[0].Name != "sign in" {
		t.Errorf("a wrong password: %+v", got)
	}
	if got := try(down, `{"login":"ana","password":"x"}`); got.OK || len(got.Steps) != 1 || !strings.Contains(got.Steps[0].Detail, "refused") {
		t.Errorf("a directory that is down: %+v", got)
	}
	back := url.QueryEscape("https://mdm.example.com/login/with/" + sso.ID + "/callback")
	if got := try(sso, `{}`); got.OK || got.URL == nil || *got.URL != "https://id?redirect_uri="+back || len(got.Steps) != 0 {
		t.Errorf("a provider that people are sent to: %+v", got)
	}
	if got := try(ssoDown, `{}`); got.OK || got.URL != nil || len(got.Steps) != 1 || got.Steps[0].Name != "connect" {
		t.Errorf("one that is down: %+v", got)
	}
	path := providersPath + "/" + directory.ID + "/test"
	h.do(t, exchange{method: "POST", path: path, body: `{"login":"ana"}`}).wantField(t, "password")
	h.do(t, exchange{method: "POST", path: path, body: `{"password":"x"}`}).wantField(t, "login")
	h.do(t, exchange{method: "POST", path: providersPath + "/" + sso.ID + "/test", body: `{"login":"ana"}`}).wantField(t, "login")
	h.do(t, exchange{method: "POST", path: providersPath + "/local/test", body: `{"login":"ana","password":"x"}`}).wantProblem(t, 403, "forbidden")
	for range 10 {
		got := h.do(t, exchange{method: "POST", path: path, body: `{"login":"ana","password":"x"}`})
		if got.status == 429 {
			got.wantProblem(t, 429, "too_many_requests")
			if after := got.response.Get("Retry-After"); after != "900" {
				t.Errorf("Retry-After is %q", after)
			}
			return
		}
	}
	t.Error("any number of passwords may be tried")
}

func TestAUserBelongsToAProvider(t *testing.T) {
	h := newHouse(t)
	p := h.provider(t, `{"kind":"directory","name":"directory","settings":{"url":"x"}}`)
	type belonging struct {
		ID, Provider    string
		Groups          []string
		HasSecondFactor bool `json:"has_second_factor"`
	}
	var ana belonging
	h.do(t, exchange{method: "POST", path: "/api/v1/users", body: map[string]any{"username": "ana", "provider": p.ID}}).want(t, 201, &ana)
	if ana.Provider != p.ID || ana.Groups == nil {
		t.Errorf("made is %+v", ana)
	}
	if _, err := h.identity.Login(context.Background(), "ana", "a good password", "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	at := "/api/v1/users/" + ana.ID
	h.do(t, exchange{method: "GET", path: at}).want(t, 200, &ana)
	if len(ana.Groups) != 1 || ana.Groups[0] != "staff" {
		t.Errorf("after a sign-in it is %+v", ana)
	}
	h.do(t, exchange{method: "PATCH", path: at, body: `{"username":"bea"}`}).wantField(t, "username")
	h.do(t, exchange{method: "PATCH", path: at, body: `{"password":"a good password"}`}).wantField(t, "password")
	h.do(t, exchange{method: "PATCH", path: at, body: `{"provider":"none"}`}).wantField(t, "provider")
	h.do(t, exchange{method: "POST", path: "/api/v1/users", body: map[string]any{"username": "x", "provider": "none"}}).wantField(t, "provider")
	h.do(t, exchange{method: "POST", path: "/api/v1/users", body: map[string]any{"username": "x", "provider": p.ID, "password": "a good password"}}).wantField(t, "password")
	h.do(t, exchange{method: "DELETE", path: providersPath + "/" + p.ID}).wantProblem(t, 409, "provider_in_use")
	h.do(t, exchange{method: "PATCH", path: at, body: `{"provider":"local","password":"a good password"}`}).want(t, 200, &ana)
	if ana.Provider != "local" || len(ana.Groups) != 0 {
		t.Errorf("then it is %+v", ana)
	}
	h.do(t, exchange{method: "DELETE", path: providersPath + "/" + p.ID}).want(t, 204, nil)
	in, err := h.identity.Login(context.Background(), "ana", "a good password", "192.0.2.1")
	if err != nil || in.User.ID != ana.ID {
		t.Fatalf("Login = %+v, %v", in, err)
	}

	h.do(t, exchange{method: "POST", path: at + "/end-sessions"}).want(t, 204, nil)
	after, err := h.identity.User(context.Background(), ana.ID)
	if err != nil || after.PasswordAt.Before(in.User.PasswordAt) {
		t.Errorf("then the user is %+v, %v", after, err)
	}
	h.do(t, exchange{method: "POST", path: at + "/reset-second-factor"}).want(t, 200, &ana)
	h.do(t, exchange{method: "POST", path: at + "/reset-second-factor", token: h.token(t, identity.ScopeAdmin)}).wantProblem(t, 403, "forbidden")
	h.do(t, exchange{method: "POST", path: "/api/v1/users/none/end-sessions"}).wantProblem(t, 404, "not_found")
}
