package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity/oidc/oidctest"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// secrets are those of enrollments: what they are, by what they say.
type secrets map[string]string

// of adds what a device and its person have seen.
func (s secrets) of(d *mdmtest.Device, person *mdmtest.Browser) {
	token := d.Token()
	for _, secret := range []struct{ text, what string }{
		{token.Access, "access token"}, {token.Refresh, "refresh token"}, {d.Profile().SCEP.Challenge, "SCEP challenge"},
	} {
		if secret.text != "" {
			s[secret.text] = secret.what
		}
	}
	for _, v := range person.Visits() {
		for _, address := range []string{v.URL, v.Header.Get("Location")} {
			u, err := url.Parse(address)
			if err != nil {
				continue
			}
			if strings.Contains(u.Path, "/sign-in/") || strings.Contains(u.Path, "/authorize/") {
				s[path.Base(u.Path)] = "ticket"
			}
			if u.Scheme != "https" {
				for name, what := range map[string]string{"access-token": "access token", "code": "code"} {
					if text := u.Query().Get(name); text != "" && u.Scheme != "http" {
						s[text] = what
					}
				}
			}
		}
	}
}

// in reports the secrets in a text, but for those that are of kinds which may be there.
func (s secrets) in(t *testing.T, where, text string, but ...string) {
	t.Helper()
	for secret, what := range s {
		if strings.Contains(strings.Join(but, " "), what) {
			continue
		}
		for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret)), fmt.Sprintf("%x", secret), url.QueryEscape(secret)} {
			if i := strings.Index(text, form); i >= 0 {
				t.Errorf("%s: there is the %s of an enrollment: …%q", where, what, text[max(0, i-200):i])
				break
			}
		}
	}
}

// TestNoTokenLeaks enrols devices by both methods at servers that log all they can, in both
// forms, and then looks for what nobody may read there.
func TestNoTokenLeaks(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			s := start(t, t.TempDir(), "--log-format", format)
			s.person(t, map[string]any{"managed_apple_account": "ana@apple.example.com"})
			s.person(t, map[string]any{"email": "ben@example.com"}) // has no account at Apple
			idp := oidctest.NewStandIn(t, time.Now)
			idp.Change(func(b *oidctest.Behaviour) {
				b.Claims = map[string]any{"sub": "1", "preferred_username": "dora", "name": "Dora", "email": "dora@example.com", "email_verified": true}
			})
			var p redirectProvider
			s.call(t, "POST", "/api/v1/identity-providers", map[string]any{
				"kind": "oidc", "name": "Example ID", "uses": []string{"user", "account_device"},
				"settings": map[string]any{"issuer": idp.Issuer, "client_id": oidctest.ClientID, "client_secret": oidctest.ClientSecret, "allow_private": true},
				"mapping":  map[string]any{"managed_apple_account": "{email:local}@apple.example.com"},
			}, &p)
			leaks := s.enrolsAndErrs(t)

			for what, text := range s.saysOfEnrollments(t) {
				leaks.in(t, what, text)
			}
			s.end(t)
			leaks.in(t, "the log", s.out.String())
			file, err := os.ReadFile(filepath.Join(s.dir, "gatehouse.db"))
			must(t, err)
			if !bytes.Contains(file, []byte("enroll.authorizations")) {
				t.Fatal("the database's file has no authorizations: what was looked at?")
			}
			// A ticket lets nobody in: it says for which device somebody may sign in. Who is at
			// a provider meanwhile is remembered with where they go on.
			leaks.in(t, "the database's file", string(file), "ticket")
		})
	}
}

// enrolsAndErrs enrols devices, and has each secret come where it does not belong.
func (s *running) enrolsAndErrs(t *testing.T) secrets {
	t.Helper()
	pool, err := keyPool()
	must(t, err)
	leaks := secrets{}
	device := func(identifier string, person *mdmtest.Browser, model mdmtest.Model) *mdmtest.Device {
		return s.phone(t, mdmtest.Options{Model: model, Keys: pool, Account: &mdmtest.Account{
			Identifier: identifier, Person: person, Reach: func(string) string { return s.url }, PKCE: model == mdmtest.Mac,
		}})
	}
	for _, method := range methods {
		var now map[string]any
		s.call(t, "PUT", "/api/v1/account-driven", map[string]any{
			"method":  method,
			"domains": []any{map[string]any{"domain": "example.com", "policy": map[string]any{"iPhone": "byod", "Mac": "adde"}}},
		}, &now)
		for model, person := range map[mdmtest.Model]*mdmtest.Browser{
			mdmtest.IPhone: {Login: anaEmail, Password: anaPassword},
			mdmtest.Mac:    {Click: []string{"Continue with Example ID"}},
		} {
			identifier := map[mdmtest.Model]string{mdmtest.IPhone: anaEmail, mdmtest.Mac: "dora@example.com"}[model]
			d := device(identifier, person, model)
			must(t, d.EnrollAccount(t.Context()))
			leaks.of(d, person)
			if d.Token().Refresh != "" {
				_, err := d.Refresh(t.Context())
				must(t, err)
				leaks.of(d, person)
			}
			if _, err := d.Poll(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.looksAt(t, person, leaks)
			if model == mdmtest.Mac {
				must(t, d.Remove(t.Context()))
				_, _ = d.PostEnrollment(t.Context(), s.url+"/enroll/adde", d.Token().Access)
			}
		}
		// A sign-in that ends at a page that says why.
		ben := &mdmtest.Browser{Login: "ben@example.com", Password: anaPassword}
		if err := device("ben@example.com", ben, mdmtest.IPhone).EnrollAccount(t.Context()); err == nil {
			t.Fatal("who has no account at Apple enrolls")
		}
		s.looksAt(t, ben, leaks)
	}
	kinds := map[string]int{}
	for _, what := range leaks {
		kinds[what]++
	}
	if kinds["access token"] < 6 || kinds["refresh token"] < 4 || kinds["code"] < 2 || kinds["ticket"] < 4 || kinds["SCEP challenge"] < 4 {
		t.Fatalf("the secrets are %v: fewer than there must be", kinds)
	}
	s.wrongPlaces(t, leaks)
	return leaks
}

// wrongPlaces has the secrets come where they are refused.
func (s *running) wrongPlaces(t *testing.T, leaks secrets) {
	t.Helper()
	for secret, what := range leaks {
		quoted := url.QueryEscape(secret)
		for _, r := range []struct{ method, path, form string }{
			{"GET", "/enroll/byod/sign-in/" + secret, ""},
			{"GET", "/enroll/adde/authorize/" + secret + "/more?code=" + quoted, ""},
			{"PUT", "/enroll/byod/sign-in/" + secret, ""},
			{"GET", "/enroll/token?code=" + quoted, ""},
			{"POST", "/enroll/token", "grant_type=authorization_code&client_id=gatehouse&redirect_uri=x&code=" + quoted},
			{"POST", "/enroll/token", "grant_type=refresh_token&client_id=gatehouse&refresh_token=" + quoted},
			{"POST", "/enroll/token", "%zz" + secret},
			{"POST", "/enroll/byod?access_token=" + quoted, secret},
			{"GET", "/.well-known/com.apple.remotemanagement?model-family=iPhone&user-identifier=" + quoted, ""},
			{"GET", "/login?next=/enroll/byod/sign-in/" + quoted, ""},
			{"PUT", "/mdm/connect?access_token=" + quoted, secret},
			{"GET", "/nothing/" + secret, ""},
			{"GET", "/api/v1/devices/" + secret, ""},
		} {
			req, err := http.NewRequestWithContext(t.Context(), r.method, s.url+r.path, strings.NewReader(r.form))
			must(t, err)
			req.Header.Set("Authorization", "Bearer "+secret)
			req.Header.Set("Accept", "text/html")
			if r.form != "" {
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			}
			resp, err := s.client.Transport.RoundTrip(req)
			must(t, err)
			var body bytes.Buffer
			_, err = body.ReadFrom(resp.Body)
			must(t, err)
			resp.Body.Close()
			if resp.StatusCode >= 500 {
				t.Errorf("%s of the %s: %d", r.method, what, resp.StatusCode)
			}
			if !strings.Contains(resp.Header.Get("Content-Type"), "text/html") { // a page leads to itself, in another language
				leaks.in(t, fmt.Sprintf("the answer %d to %s %.10s", resp.StatusCode, r.method, r.path), body.String())
			}
		}
	}
}

// looksAt goes through all pages that a person has seen.
func (s *running) looksAt(t *testing.T, person *mdmtest.Browser, leaks secrets) {
	t.Helper()
	for _, v := range person.Visits() {
		at, err := url.Parse(v.URL)
		must(t, err)
		where := v.Method + " " + at.Host + at.Path[:min(len(at.Path), 20)]
		if strings.HasPrefix(v.URL, s.url) {
			// The way back to the device stands in pages of its own sign-in.
			leaks.in(t, where+"'s page", string(v.Body), "ticket")
			leaks.in(t, where+"'s referrer", v.Referrer, "ticket")
			continue
		}
		leaks.in(t, where+", which is another's", v.URL+" "+v.Referrer+" "+v.Form.Encode()+" "+fmt.Sprint(v.Sent))
	}
}

// saysOfEnrollments is what the API tells whoever may ask.
func (s *running) saysOfEnrollments(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, path := range []string{"/devices", "/enrollment-attempts", "/users", "/certificates", "/audit?limit=1000", "/account-driven", "/settings", "/identity-providers"} {
		var answer any
		s.call(t, "GET", "/api/v1"+path, nil, &answer)
		texts[path] = fmt.Sprint(answer)
	}
	return texts
}
