package oidc_test

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/oidc/oidctest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestARealProvider goes through one provider that is not ours, step by step.
func TestARealProvider(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	p := oidctest.Start(t)
	c := newClock()
	p.SetAccount(t, "ana", oidctest.Account{Password: "right", Claims: map[string]any{
		"sub": "4f1c", "preferred_username": "ana", "name": "Ana Example", "email": "ana@example.com", "email_verified": true, "groups": []string{"staff"},
	}})
	p.SetAccount(t, "ben", oidctest.Account{Password: "right", Claims: map[string]any{
		"sub": "4f1d", "preferred_username": "ben", "email": "ana@example.com", "email_verified": false,
	}})
	source := func(t *testing.T, changes map[string]any) identity.RedirectSource {
		t.Helper()
		settings := map[string]any{
			"issuer": p.Issuer, "client_id": oidctest.ClientID, "client_secret": oidctest.ClientSecret, "allow_private": true,
			"scopes": []string{"openid", "profile", "email", "groups"},
		}
		maps.Copy(settings, changes)
		raw, err := json.Marshal(settings)
		if err != nil {
			t.Fatal(err)
		}
		opened, err := newKind(t, c.now).Open(raw)
		if err != nil {
			t.Fatal(err)
		}
		return opened.(identity.RedirectSource)
	}
	begin := func(t *testing.T, s identity.RedirectSource) (to, keep string) {
		t.Helper()
		to, keep, err := s.Begin(t.Context(), redirect)
		if err != nil {
			t.Fatal(err)
		}
		return to, keep
	}
	signIn := func(t *testing.T, s identity.RedirectSource, login string) (identity.Person, error) {
		t.Helper()
		to, keep := begin(t, s)
		return s.Finish(t.Context(), redirect, keep, p.SignIn(t, to, redirect.ReturnURL, login, "right"))
	}
	client := oidctest.Client{RedirectURIs: []string{redirect.ReturnURL}, LogoutURIs: []string{"https://mdm.example.com/login"}}

	for _, way := range []struct {
		name     string
		client   func(*oidctest.Client)
		settings map[string]any
	}{
		{"by a secret in the header", func(*oidctest.Client) {}, nil},
		{"by a secret in the form", func(c *oidctest.Client) { c.SecretInForm = true }, map[string]any{"client_authentication": "post"}},
		{"without a secret", func(c *oidctest.Client) { c.Public = true }, map[string]any{"client_secret": ""}},
		{"by userinfo, too", func(*oidctest.Client) {}, map[string]any{"userinfo": true, "max_age": 600}},
	} {
		t.Run(way.name, func(t *testing.T) {
			changed := client
			way.client(&changed)
			p.SetClient(t, changed)
			person, err := signIn(t, source(t, way.settings), "ana")
			if err != nil {
				t.Fatal(err)
			}
			if person.Subject != "4f1c" || person.Email != "ana@example.com" || person.Unverified ||
				person.First("preferred_username") != "ana" || person.First("name") != "Ana Example" || !slices.Equal(person.Groups, []string{"staff"}) {
				t.Errorf("person = %+v", person)
			}
		})
	}
	p.SetClient(t, client)
	s := source(t, nil)

	t.Run("an address that is not verified", func(t *testing.T) {
		person, err := signIn(t, s, "ben")
		if err != nil || person.Subject != "4f1d" || !person.Unverified {
			t.Errorf("person = %+v, %v; want one whose address is not verified", person, err)
		}
	})
	t.Run("the same person with another address", func(t *testing.T) {
		p.SetAccount(t, "ben", oidctest.Account{Password: "right", Claims: map[string]any{
			"sub": "4f1d", "email": "ben@example.com", "email_verified": true,
		}})
		person, err := signIn(t, s, "ben")
		if err != nil || person.Subject != "4f1d" || person.Email != "ben@example.com" {
			t.Errorf("person = %+v, %v; want the same subject", person, err)
		}
	})
	t.Run("a person who says no", func(t *testing.T) {
		if _, err := signIn(t, s, ""); !errors.Is(err, identity.ErrDenied) || !strings.Contains(err.Error(), "access_denied (The person said no)") {
			t.Errorf("Finish = %v, want %v", err, identity.ErrDenied)
		}
	})
	t.Run("a code twice", func(t *testing.T) {
		to, keep := begin(t, s)
		returned := p.SignIn(t, to, redirect.ReturnURL, "ana", "right")
		if _, err := s.Finish(t.Context(), redirect, keep, returned); err != nil {
			t.Fatal(err)
		}
		_, err := s.Finish(t.Context(), redirect, keep, returned)
		if !errors.Is(err, identity.ErrSignIn) || strings.Contains(err.Error(), returned.Get("code")) {
			t.Errorf("Finish = %v, want %v", err, identity.ErrSignIn)
		}
	})
	t.Run("a code of another browser's sign-in", func(t *testing.T) {
		to, _ := begin(t, s)
		_, keep := begin(t, s)
		if _, err := s.Finish(t.Context(), redirect, keep, p.SignIn(t, to, redirect.ReturnURL, "ana", "right")); !errors.Is(err, identity.ErrSignIn) {
			t.Errorf("Finish = %v, want %v", err, identity.ErrSignIn)
		}
	})
	t.Run("without PKCE", func(t *testing.T) {
		to, _ := begin(t, s)
		u, err := url.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		query := u.Query()
		query.Del("code_challenge")
		query.Del("code_challenge_method")
		u.RawQuery = query.Encode()
		returned := p.SignIn(t, u.String(), redirect.ReturnURL, "ana", "right")
		if returned.Get("error") != "invalid_request" {
			t.Errorf("the provider answers %v: this test is about none that wants PKCE", returned)
		}
	})
	t.Run("a wrong secret", func(t *testing.T) {
		if _, err := signIn(t, source(t, map[string]any{"client_secret": "wrong"}), "ana"); !errors.Is(err, identity.ErrSource) || !strings.Contains(err.Error(), "invalid_client") {
			t.Errorf("Finish = %v, want %v", err, identity.ErrSource)
		}
	})
	t.Run("another key", func(t *testing.T) {
		p.RotateKeys(t)
		c.at = c.at.Add(20 * time.Second)
		if _, err := signIn(t, s, "ana"); err != nil {
			t.Errorf("Finish = %v after the provider has changed its key", err)
		}
	})
	t.Run("logout", func(t *testing.T) {
		to, err := s.Logout(t.Context(), "https://mdm.example.com/login")
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.Get(to)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s answers %s", to, resp.Status)
		}
	})
}
