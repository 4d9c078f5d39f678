package main

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity/oidc/oidctest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/browsertest"
)

// redirectProvider is what the API says of a provider to which people are sent.
type redirectProvider struct {
	ID          string
	CallbackURL string `json:"callback_url"`
}

// openID sets up a real OpenID provider that knows Ana, and makes it known to s.
func (s *running) openID(t *testing.T, settings map[string]any) (*oidctest.Provider, redirectProvider) {
	t.Helper()
	idp := oidctest.Start(t)
	idp.SetAccount(t, "ana", oidctest.Account{Password: "right", Claims: map[string]any{
		"sub": "4f1c", "preferred_username": "ana", "name": "Ana Example", "email": "ana@example.com", "email_verified": true, "groups": []string{"staff"},
	}})
	all := map[string]any{
		"issuer": idp.Issuer, "client_id": oidctest.ClientID, "client_secret": oidctest.ClientSecret, "allow_private": true,
		"scopes": []string{"openid", "profile", "email", "groups"},
	}
	for name, value := range settings {
		all[name] = value
	}
	var p redirectProvider
	s.call(t, "POST", "/api/v1/identity-providers", map[string]any{"kind": "oidc", "name": "Example ID", "settings": all}, &p)
	idp.SetClient(t, oidctest.Client{RedirectURIs: []string{p.CallbackURL}, LogoutURIs: []string{s.url + "/logout"}})
	return idp, p
}

// TestPeopleOfAnOpenIDProviderSignIn is a person's whole way in a browser, through a provider
// that is not ours.
func TestPeopleOfAnOpenIDProviderSignIn(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	browser := browsertest.Open(t)
	s := start(t, t.TempDir())
	idp, p := s.openID(t, nil)
	browser.Screen(390, 844, false)
	path := func() string { return browsertest.Eval[string](browser, "location.pathname") }
	signIn := func(login, password, do string) int {
		browser.Fill("input[name=login]", login)
		browser.Type("input[name=password]", password)
		return browser.Submit("button[value=" + do + "]")
	}
	begin := func() {
		browser.Go(s.url + "/login?next=/enroll&login_hint=ana")
		browser.Check()
		if status := browser.Submit(`form[action="/login/with/` + p.ID + `"] button`); status != 200 {
			t.Errorf("to the provider = %d", status)
		}
	}

	begin()
	if status := signIn("ana", "wrong", "sign-in"); status != 401 {
		t.Errorf("a wrong password there = %d, want 401", status)
	}
	if status := signIn("", "", "deny"); status != 403 || !strings.HasPrefix(path(), "/login/with/") {
		t.Errorf("who says no there is at %s with %d, want 403", path(), status)
	}
	browser.Check()
	if text := browsertest.Eval[string](browser, "document.body.innerText"); !strings.Contains(text, "GH-E211") {
		t.Errorf("the page has no code:\n%s", text)
	}
	browser.Submit("a.button")
	if path() != "/login" {
		t.Errorf("the one action leads to %s", path())
	}

	browser.WithoutScripts()
	begin()
	if status := signIn("ana", "right", "sign-in"); status != 200 || path() != "/enroll" {
		t.Fatalf("signed in = %d at %s, want 200 at /enroll", status, path())
	}
	// Back leads to where they came from, and not to the provider again.
	browser.Go(s.url + "/login?next=/enroll")
	if path() != "/enroll" {
		t.Errorf("who is signed in sees the login: %s", path())
	}
	var people struct {
		Items []struct{ Username, Email, Provider string }
	}
	s.call(t, "GET", "/api/v1/users", nil, &people)
	if len(people.Items) != 1 || people.Items[0].Username != "ana" || people.Items[0].Provider != p.ID {
		t.Errorf("users = %+v, want Ana of the provider", people.Items)
	}

	// Signed out here and there: the next one has to say who they are.
	browser.Go(s.url + "/logout")
	browser.Submit("main form button")
	browser.Check()
	browser.Submit("main a.button")
	browser.Do(chromedp.WaitReady(chromedp.CSS("button[name=logout]")))
	if status := browser.Submit("button[name=logout]"); status != 200 || path() != "/logout" {
		t.Errorf("from the provider's logout = %d at %s, want /logout", status, path())
	}
	begin()
	browser.Do(chromedp.WaitReady(chromedp.CSS("input[name=login]")))

	for what, secret := range map[string]string{"client secret": oidctest.ClientSecret, "password": "right"} {
		if strings.Contains(s.out.String(), secret) {
			t.Errorf("the log has the %s", what)
		}
	}

	// Who enrols is told how far they are.
	begun := s.send(t, s.client, "POST", "/enroll/start", url.Values{})
	for range 3 {
		if begun.StatusCode == http.StatusSeeOther {
			begun = s.get(t, begun.Header.Get("Location"))
		}
	}
	if begun.StatusCode != http.StatusOK || !strings.Contains(begun.body, `aria-current="step"`) || !strings.Contains(begun.body, "Continue with Example ID") {
		t.Errorf("the login on the way = %d:\n%s", begun.StatusCode, begun.body)
	}

	// A test by an administrator signs nobody in.
	var trial struct{ URL string }
	s.call(t, "POST", "/api/v1/identity-providers/"+p.ID+"/test", map[string]any{}, &trial)
	returned := idp.SignIn(t, trial.URL, p.CallbackURL, "ana", "right")
	page := s.get(t, strings.TrimPrefix(p.CallbackURL, s.url)+"?"+returned.Encode())
	if page.StatusCode != http.StatusOK || !strings.Contains(page.body, "This sign-in works") || !strings.Contains(page.body, "Ana Example") {
		t.Errorf("the test's result = %d:\n%s", page.StatusCode, page.body)
	}
	if at := s.get(t, "/admin"); at.StatusCode != http.StatusSeeOther {
		t.Errorf("the test has signed somebody in: %d", at.StatusCode)
	}
}
