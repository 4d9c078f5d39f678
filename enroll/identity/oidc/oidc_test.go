package oidc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/oidc"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/oidc/oidctest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// clock is a time that tests move.
type clock struct{ at time.Time }

func newClock() *clock { return &clock{time.Now().Truncate(time.Second)} }

func (c *clock) now() time.Time { return c.at }

func newKind(t testing.TB, now func() time.Time) *oidc.Kind {
	t.Helper()
	kind, err := oidc.New(now)
	if err != nil {
		t.Fatal(err)
	}
	return kind
}

// open returns the source of settings that are good for the stand-in, with changes: nil
// removes a setting.
func open(t testing.TB, p *oidctest.StandIn, now func() time.Time, changes map[string]any) identity.RedirectSource {
	t.Helper()
	settings := map[string]any{
		"issuer": p.Issuer, "client_id": oidctest.ClientID, "client_secret": oidctest.ClientSecret, "allow_private": true,
	}
	maps.Copy(settings, changes)
	raw, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	kind := newKind(t, now)
	if err := kind.Check(raw); err != nil {
		t.Fatalf("Check(%s) = %v", raw, err)
	}
	source, err := kind.Open(raw)
	if err != nil {
		t.Fatalf("Open(%s) = %v", raw, err)
	}
	return source.(identity.RedirectSource)
}

var redirect = identity.Redirect{ReturnURL: "https://mdm.example.com/login/with/idp/callback", State: "state-of-this-sign-in"}

// signIn goes all the way.
func signIn(t testing.TB, p *oidctest.StandIn, source identity.RedirectSource) (identity.Person, error) {
	t.Helper()
	to, keep, err := source.Begin(t.Context(), redirect)
	if err != nil {
		return identity.Person{}, err
	}
	return source.Finish(t.Context(), redirect, keep, p.Authorize(t, to))
}

func TestAPersonSignsIn(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newClock()
	p := oidctest.NewStandIn(t, c.now)
	source := open(t, p, c.now, nil)
	person, err := signIn(t, p, source)
	if err != nil {
		t.Fatal(err)
	}
	if person.Subject != "248289761001" || person.Email != "ana@example.com" || person.Unverified {
		t.Errorf("person = %+v", person)
	}
	if want := []string{"staff", "it"}; !slices.Equal(person.Groups, want) {
		t.Errorf("groups = %q, want %q", person.Groups, want)
	}
	for name, want := range map[string]string{"preferred_username": "ana", "name": "Ana Example", "email_verified": "true"} {
		if got := person.First(name); got != want {
			t.Errorf("attribute %s = %q, want %q", name, got, want)
		}
	}
	if got := person.First("nonce"); got != "" {
		t.Errorf("attributes have the nonce")
	}
	if _, err := signIn(t, p, source); err != nil {
		t.Fatal(err)
	}
	if asked := p.Asked("/.well-known/openid-configuration"); asked != 1 {
		t.Errorf("discovery was asked %d times for two sign-ins, want 1", asked)
	}
	c.at = c.at.Add(2 * time.Hour)
	if _, err := signIn(t, p, source); err != nil {
		t.Fatal(err)
	}
	if asked := p.Asked("/.well-known/openid-configuration"); asked != 2 {
		t.Errorf("discovery was asked %d times two hours later, want 2", asked)
	}
}

func TestWhoWantsToBeSomebodyElseIsAsked(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	for name, tt := range map[string]struct {
		setting string
		known   []string // prompts that the provider says it knows
		want    string
	}{
		"to choose":                                       {want: "select_account"},
		"to choose, and what is asked each time":          {setting: "consent", want: "select_account consent"},
		"nothing more where they can choose each time":    {setting: "select_account", want: "select_account"},
		"nothing more where they sign in each time":       {setting: "login consent", want: "login consent"},
		"to choose, where that is known":                  {known: []string{"none", "login", "select_account"}, want: "select_account"},
		"to sign in, where nobody can choose":             {known: []string{"none", "login", "consent"}, want: "login"},
		"to choose, where neither is said to be there":    {known: []string{"create"}, want: "select_account"},
		"to sign in and consent, where nobody can choose": {setting: "consent", known: []string{"login"}, want: "login consent"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			p := oidctest.NewStandIn(t, c.now)
			if tt.known != nil {
				p.Change(func(b *oidctest.Behaviour) { b.Metadata = map[string]any{"prompt_values_supported": tt.known} })
			}
			source := open(t, p, c.now, map[string]any{"prompt": tt.setting})
			for _, somebodyElse := range []bool{false, true} {
				r, want := redirect, tt.setting
				if r.SelectAccount = somebodyElse; somebodyElse {
					want = tt.want
				}
				to, _, err := source.Begin(t.Context(), r)
				if err != nil {
					t.Fatal(err)
				}
				u, err := url.Parse(to)
				if err != nil {
					t.Fatal(err)
				}
				if got := u.Query().Get("prompt"); got != want {
					t.Errorf("prompt = %q with SelectAccount %v, want %q", got, somebodyElse, want)
				}
			}
		})
	}
}

// A provider may let in whom it remembers: it says itself when it last asked them.
func TestWhenSomebodyProvedWhoTheyAre(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newClock()
	p := oidctest.NewStandIn(t, c.now)
	source := open(t, p, c.now, map[string]any{"userinfo": true})
	hour := c.now().Add(-time.Hour).Unix()
	for name, tt := range map[string]struct {
		token, userInfo any // auth_time
		want            time.Time
	}{
		"an hour ago":                          {token: hour, want: time.Unix(hour, 0)},
		"it does not say":                      {},
		"a text":                               {token: "1"},
		"userinfo may be about something else": {userInfo: hour},
	} {
		t.Run(name, func(t *testing.T) {
			p.Change(func(b *oidctest.Behaviour) {
				b.Claims = map[string]any{"sub": "1", "auth_time": tt.token}
				b.UserInfo = map[string]any{"sub": "1", "auth_time": tt.userInfo}
			})
			who, err := signIn(t, p, source)
			if err != nil || !who.AuthenticatedAt.Equal(tt.want) {
				t.Errorf("they proved it at %v, %v; want %v", who.AuthenticatedAt, err, tt.want)
			}
		})
	}
}

func TestTheBrowserIsSentWithAllThatProtectsIt(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newClock()
	p := oidctest.NewStandIn(t, c.now)
	p.Change(func(b *oidctest.Behaviour) {
		b.Metadata = map[string]any{"authorization_endpoint": p.Issuer + "/authorize?tenant=7"}
	})
	source := open(t, p, c.now, map[string]any{
		"prompt": "select_account", "max_age": 0, "acr": []string{"urn:mfa", "phr"}, "scopes": []string{"openid", "groups"},
		"extra_authorization_parameters": map[string]string{"hd": "example.com", "resource": "a b&c"},
	})
	r := redirect
	r.LoginHint = "ana@example.com"
	to, keep, err := source.Begin(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	for name, want := range map[string]string{
		"tenant": "7", "client_id": oidctest.ClientID, "response_type": "code", "redirect_uri": r.ReturnURL, "state": r.State,
		"scope": "openid groups", "code_challenge_method": "S256", "prompt": "select_account", "max_age": "0", "acr_values": "urn:mfa phr",
		"hd": "example.com", "resource": "a b&c", "login_hint": "ana@example.com",
	} {
		if got := query[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	var kept struct{ Nonce, Verifier string }
	if err := json.Unmarshal([]byte(keep), &kept); err != nil {
		t.Fatal(err)
	}
	if len(query.Get("nonce")) < 22 || query.Get("nonce") != kept.Nonce || len(kept.Verifier) < 43 {
		t.Errorf("nonce or verifier are no good: %s", keep)
	}
	if strings.Contains(to, kept.Verifier) || strings.Contains(to, oidctest.ClientSecret) {
		t.Errorf("the URL gives a secret away: %s", to)
	}
	_, again, err := source.Begin(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if again == keep {
		t.Error("two sign-ins have the same nonce and verifier")
	}
}

// alter gives claims of an ID token other values; nil: none.
func alter(changes map[string]any) func(*oidctest.Token) {
	return func(t *oidctest.Token) {
		for name, value := range changes {
			if value == nil {
				delete(t.Claims, name)
			} else {
				t.Claims[name] = value
			}
		}
	}
}

func TestIDTokensThatDoNotHoldAreRefused(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newClock()
	at := func(d time.Duration) int64 { return c.at.Add(d).Unix() }
	foreign := oidctest.NewKey()
	for name, tt := range map[string]struct {
		alter    func(*oidctest.Token)
		settings map[string]any
		want     error // nil: it holds
	}{
		"of another issuer":                       {alter: alter(map[string]any{"iss": "https://evil.example"}), want: identity.ErrSignIn},
		"without an issuer":                       {alter: alter(map[string]any{"iss": nil}), want: identity.ErrSignIn},
		"unsigned":                                {alter: func(t *oidctest.Token) { t.Header["alg"] = "none" }, want: identity.ErrSignIn},
		"signed by the client secret":             {alter: func(t *oidctest.Token) { t.Header["alg"] = "HS256" }, want: identity.ErrSignIn},
		"signed by a key of nobody's":             {alter: func(t *oidctest.Token) { t.Key = foreign }, want: identity.ErrSignIn},
		"signed by an unknown key":                {alter: func(t *oidctest.Token) { t.Key, t.Header["kid"] = foreign, "another" }, want: identity.ErrSignIn},
		"whose key is somewhere else":             {alter: func(t *oidctest.Token) { t.Key, t.Header["jku"] = foreign, "https://evil.example/keys" }, want: identity.ErrSignIn},
		"with a key ID that leads nowhere":        {alter: func(t *oidctest.Token) { t.Header["kid"] = "../../etc/passwd" }, want: identity.ErrSignIn},
		"with another nonce":                      {alter: alter(map[string]any{"nonce": "x"}), want: identity.ErrSignIn},
		"without a nonce":                         {alter: alter(map[string]any{"nonce": nil}), want: identity.ErrSignIn},
		"for another client":                      {alter: alter(map[string]any{"aud": "other"}), want: identity.ErrSignIn},
		"for no client":                           {alter: alter(map[string]any{"aud": nil}), want: identity.ErrSignIn},
		"for two clients, given to neither":       {alter: alter(map[string]any{"aud": []string{oidctest.ClientID, "other"}}), want: identity.ErrSignIn},
		"for two clients, given to the other one": {alter: alter(map[string]any{"aud": []string{oidctest.ClientID, "other"}, "azp": "other"}), want: identity.ErrSignIn},
		"for two clients, given to us":            {alter: alter(map[string]any{"aud": []string{"other", oidctest.ClientID}, "azp": oidctest.ClientID})},
		"for us, given to another client":         {alter: alter(map[string]any{"azp": "other"}), want: identity.ErrSignIn},
		"that ended two minutes ago":              {alter: alter(map[string]any{"exp": at(-2 * time.Minute)}), want: identity.ErrSignIn},
		"that ended by the provider's clock only": {alter: alter(map[string]any{"exp": at(-30 * time.Second)})},
		"that does not say when it ends":          {alter: alter(map[string]any{"exp": nil}), want: identity.ErrSignIn},
		"from two minutes ahead":                  {alter: alter(map[string]any{"iat": at(2 * time.Minute)}), want: identity.ErrSignIn},
		"from half a minute ahead":                {alter: alter(map[string]any{"iat": at(30 * time.Second)})},
		"that does not say when it was issued":    {alter: alter(map[string]any{"iat": nil}), want: identity.ErrSignIn},
		"that is not valid yet":                   {alter: alter(map[string]any{"nbf": at(2 * time.Minute)}), want: identity.ErrSignIn},
		"without a subject":                       {alter: alter(map[string]any{"sub": nil}), want: identity.ErrSignIn},
		"with a subject of 256 bytes":             {alter: alter(map[string]any{"sub": strings.Repeat("a", 256)}), want: identity.ErrSignIn},
		"with a subject that is a number":         {alter: alter(map[string]any{"sub": 7}), want: identity.ErrSignIn},
		"of another access token":                 {alter: alter(map[string]any{"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}), want: identity.ErrSignIn},
		"of 70 KiB":                               {alter: alter(map[string]any{"filler": strings.Repeat("a", 70<<10)}), want: identity.ErrSource},
		"of a sign-in an hour ago, where 5 minutes are asked for": {
			alter: alter(map[string]any{"auth_time": at(-time.Hour)}), settings: map[string]any{"max_age": 300}, want: identity.ErrSignIn,
		},
		"that does not say when the sign-in was, where that is asked for": {
			alter: alter(map[string]any{"auth_time": nil}), settings: map[string]any{"max_age": 300}, want: identity.ErrSignIn,
		},
		"of a sign-in four minutes ago, where 5 are asked for": {
			alter: alter(map[string]any{"auth_time": at(-4 * time.Minute)}), settings: map[string]any{"max_age": 300},
		},
		"of a sign-in that is too weak": {
			alter: alter(map[string]any{"acr": "pwd"}), settings: map[string]any{"acr": []string{"mfa"}}, want: identity.ErrDenied,
		},
		"of a sign-in that is strong enough": {
			alter: alter(map[string]any{"acr": "mfa"}), settings: map[string]any{"acr": []string{"phr", "mfa"}},
		},
		"of another organisation": {
			alter: alter(map[string]any{"hd": "evil.example"}), settings: map[string]any{"required_claims": map[string]string{"hd": "example.com"}}, want: identity.ErrDenied,
		},
		"of no organisation": {
			settings: map[string]any{"required_claims": map[string]string{"hd": "example.com"}}, want: identity.ErrDenied,
		},
		"of the right organisation": {
			alter: alter(map[string]any{"hd": "example.com"}), settings: map[string]any{"required_claims": map[string]string{"hd": "example.com"}},
		},
		"whose groups are too many to be said": {
			alter: alter(map[string]any{
				"groups":       nil,
				"_claim_names": map[string]string{"groups": "src1"}, "_claim_sources": map[string]any{"src1": map[string]string{"endpoint": "https://graph.example/x"}},
			}), want: identity.ErrSource,
		},
		"whose groups nobody reads": {
			alter: alter(map[string]any{
				"groups":       nil,
				"_claim_names": map[string]string{"groups": "src1"}, "_claim_sources": map[string]any{"src1": map[string]string{"endpoint": "https://graph.example/x"}},
			}), settings: map[string]any{"groups_claim": ""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := oidctest.NewStandIn(t, c.now)
			p.Change(func(b *oidctest.Behaviour) { b.Alter = tt.alter })
			person, err := signIn(t, p, open(t, p, c.now, tt.settings))
			if !errors.Is(err, tt.want) {
				t.Fatalf("Finish = %v, want %v", err, tt.want)
			}
			if tt.want != nil && (person.Subject != "" || len(person.Attributes) > 0) {
				t.Errorf("Finish says who it is, too: %+v", person)
			}
			if err != nil && len(err.Error()) > 500 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestWhatTheBrowserComesBackWith(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newClock()
	p := oidctest.NewStandIn(t, c.now)
	source := open(t, p, c.now, nil)
	for name, tt := range map[string]struct {
		change func(url.Values)
		keep   func(string) string
		want   error
		says   string
	}{
		"as it should":              {},
		"without a code":            {change: func(v url.Values) { v.Del("code") }, want: identity.ErrSignIn},
		"with a code of nobody's":   {change: func(v url.Values) { v.Set("code", "x") }, want: identity.ErrSignIn, says: "invalid_grant"},
		"with two codes":            {change: func(v url.Values) { v.Add("code", "x") }, want: identity.ErrSignIn},
		"with a very long code":     {change: func(v url.Values) { v.Set("code", strings.Repeat("a", 20<<10)) }, want: identity.ErrSignIn},
		"from another provider":     {change: func(v url.Values) { v.Set("iss", "https://evil.example") }, want: identity.ErrSignIn},
		"from nobody":               {change: func(v url.Values) { v.Del("iss") }, want: identity.ErrSignIn},
		"when the nonce is lost":    {keep: func(string) string { return `{"verifier":"x"}` }, want: identity.ErrSignIn},
		"when the verifier is lost": {keep: func(string) string { return `{"nonce":"x"}` }, want: identity.ErrSignIn},
		"when all is lost":          {keep: func(string) string { return "" }, want: identity.ErrSignIn},
		"to another verifier":       {keep: func(k string) string { return strings.Replace(k, `"verifier":"`, `"verifier":"x`, 1) }, want: identity.ErrSignIn, says: "invalid_grant"},
		"denied": {
			change: func(v url.Values) {
				v.Del("code")
				v.Set("error", "access_denied")
				v.Set("error_description", "No\r\nway\x1b[31m, <b>Ana</b> "+strings.Repeat("x", 1000))
			},
			want: identity.ErrDenied, says: "access_denied (No way [31m, <b>Ana</b> xxx",
		},
		"denied by another provider": {
			change: func(v url.Values) { v.Del("code"); v.Set("error", "access_denied"); v.Del("iss") }, want: identity.ErrSignIn,
		},
		"with nobody signed in": {change: func(v url.Values) { v.Set("error", "login_required") }, want: identity.ErrDenied},
		"with its own trouble":  {change: func(v url.Values) { v.Set("error", "temporarily_unavailable") }, want: identity.ErrSource},
		"with our mistake":      {change: func(v url.Values) { v.Set("error", "invalid_scope") }, want: identity.ErrSource, says: "invalid_scope"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to, keep, err := source.Begin(t.Context(), redirect)
			if err != nil {
				t.Fatal(err)
			}
			returned := p.Authorize(t, to)
			if tt.change != nil {
				tt.change(returned)
			}
			if tt.keep != nil {
				keep = tt.keep(keep)
			}
			_, err = source.Finish(t.Context(), redirect, keep, returned)
			if !errors.Is(err, tt.want) {
				t.Fatalf("Finish = %v, want %v", err, tt.want)
			}
			if err != nil && (!strings.Contains(err.Error(), tt.says) || len(err.Error()) > 500 || strings.ContainsAny(err.Error(), "\r\n\x1b")) {
				t.Errorf("Finish = %q, want one short line with %q", err, tt.says)
			}
		})
	}

	t.Run("twice", func(t *testing.T) {
		to, keep, err := source.Begin(t.Context(), redirect)
		if err != nil {
			t.Fatal(err)
		}
		returned := p.Authorize(t, to)
		if _, err := source.Finish(t.Context(), redirect, keep, returned); err != nil {
			t.Fatal(err)
		}
		if _, err := source.Finish(t.Context(), redirect, keep, returned); !errors.Is(err, identity.ErrSignIn) {
			t.Errorf("the second Finish = %v, want %v", err, identity.ErrSignIn)
		}
	})
}

func TestAProviderThatDoesNotSayIssInResponsesNeedNot(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newClock()
	p := oidctest.NewStandIn(t, c.now)
	p.Change(func(b *oidctest.Behaviour) {
		b.Metadata = map[string]any{"authorization_response_iss_parameter_supported": false}
		b.Response = func(v url.Values) { v.Del("iss") }
	})
	if _, err := signIn(t, p, open(t, p, c.now, nil)); err != nil {
		t.Error(err)
	}
	p.Change(func(b *oidctest.Behaviour) { b.Response = func(v url.Values) { v.Set("iss", "https://evil.example") } })
	if _, err := signIn(t, p, open(t, p, c.now, nil)); !errors.Is(err, identity.ErrSignIn) {
		t.Errorf("Finish = %v, want %v", err, identity.ErrSignIn)
	}
}

func TestAProviderThatIsNoneOrIsDown(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newClock()
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	text := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, body)
		}
	}
	to := func(url string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, url, http.StatusTemporaryRedirect) }
	}
	flood := func(w http.ResponseWriter, _ *http.Request) {
		block := make([]byte, 1<<20)
		for range 100 {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}
	const discovery = "/.well-known/openid-configuration"
	for name, tt := range map[string]struct {
		instead  map[string]http.HandlerFunc
		metadata map[string]any
		settings map[string]any
		says     string
	}{
		"discovery is not there":                     {instead: map[string]http.HandlerFunc{discovery: status(404)}, says: "status 404"},
		"discovery fails":                            {instead: map[string]http.HandlerFunc{discovery: status(503)}, says: "status 503"},
		"discovery leads elsewhere":                  {instead: map[string]http.HandlerFunc{discovery: to("http://127.0.0.1:1/")}, says: "status 307"},
		"discovery is no JSON":                       {instead: map[string]http.HandlerFunc{discovery: text("<html>secret page")}, says: "can't be read"},
		"discovery is endless":                       {instead: map[string]http.HandlerFunc{discovery: flood}, says: "more than 1 MiB"},
		"discovery is of another issuer":             {metadata: map[string]any{"issuer": "https://evil.example"}, says: "https://evil.example"},
		"discovery's issuer has a slash too many":    {settings: map[string]any{"issuer": "SLASH"}, says: "so that must be the setting issuer"},
		"discovery has no keys":                      {metadata: map[string]any{"jwks_uri": nil}, says: "jwks_uri"},
		"discovery sends the browser to a script":    {metadata: map[string]any{"authorization_endpoint": "javascript:alert(1)"}, says: "authorization_endpoint"},
		"discovery has the code sent in the clear":   {metadata: map[string]any{"token_endpoint": "http://login.example.com/token"}, says: "token_endpoint"},
		"the token endpoint takes no secret":         {metadata: map[string]any{"token_endpoint_auth_methods_supported": []string{"private_key_jwt"}}, says: "no client secret"},
		"keys are at a cloud's metadata service":     {metadata: map[string]any{"jwks_uri": "https://169.254.169.254/keys"}, says: "not reachable from here"},
		"keys lead elsewhere":                        {instead: map[string]http.HandlerFunc{"/keys": to("http://127.0.0.1:1/")}, says: "status 307"},
		"keys fail":                                  {instead: map[string]http.HandlerFunc{"/keys": status(500)}, says: "status 500"},
		"keys are endless":                           {instead: map[string]http.HandlerFunc{"/keys": flood}, says: "more than 1 MiB"},
		"the token endpoint fails":                   {instead: map[string]http.HandlerFunc{"/token": status(502)}, says: "status 502"},
		"the token endpoint leads elsewhere":         {instead: map[string]http.HandlerFunc{"/token": to("http://127.0.0.1:1/")}, says: "status 307"},
		"the token endpoint is endless":              {instead: map[string]http.HandlerFunc{"/token": flood}, says: "more than 1 MiB"},
		"the token endpoint gives no ID token":       {instead: map[string]http.HandlerFunc{"/token": text(`{"access_token":"a"}`)}, says: "no ID token"},
		"the token endpoint says nothing":            {instead: map[string]http.HandlerFunc{"/token": text(``)}, says: "token endpoint"},
		"the token endpoint does not know us":        {settings: map[string]any{"client_secret": "wrong"}, says: "invalid_client"},
		"userinfo fails":                             {instead: map[string]http.HandlerFunc{"/userinfo": status(401)}, settings: map[string]any{"userinfo": true}, says: "status 401"},
		"userinfo is no JSON":                        {instead: map[string]http.HandlerFunc{"/userinfo": text("hello")}, settings: map[string]any{"userinfo": true}, says: "no JSON"},
		"userinfo is not there, and is to be asked":  {metadata: map[string]any{"userinfo_endpoint": ""}, settings: map[string]any{"userinfo": true}, says: "userinfo_endpoint"},
		"userinfo is endless":                        {instead: map[string]http.HandlerFunc{"/userinfo": flood}, settings: map[string]any{"userinfo": true}, says: "more than 1 MiB"},
		"private addresses are not allowed":          {settings: map[string]any{"allow_private": false, "issuer": "https://127.0.0.1:1"}, says: "private addresses are not allowed"},
		"the metadata service is never allowed":      {settings: map[string]any{"issuer": "https://169.254.169.254"}, says: "metadata"},
		"nobody listens":                             {settings: map[string]any{"issuer": "http://127.0.0.1:1"}, says: "connection refused"},
		"a name for this machine is not allowed":     {settings: map[string]any{"allow_private": false, "issuer": "https://localhost:1"}, says: "private addresses are not allowed"},
		"an address in another form is not allowed":  {settings: map[string]any{"allow_private": false, "issuer": "https://[::ffff:127.0.0.1]:1"}, says: "private addresses are not allowed"},
		"an address as one number is not allowed":    {settings: map[string]any{"allow_private": false, "issuer": "https://2130706433:1"}, says: ""},
		"the token endpoint's own words are cleaned": {instead: map[string]http.HandlerFunc{"/token": leak}, says: "invalid_client (code [secret] verifier [secret] secret [secret])"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := oidctest.NewStandIn(t, c.now)
			p.Change(func(b *oidctest.Behaviour) { b.Instead, b.Metadata = tt.instead, tt.metadata })
			if tt.settings["issuer"] == "SLASH" {
				tt.settings["issuer"] = p.Issuer + "/"
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			source := open(t, p, c.now, tt.settings)
			to, keep, err := source.Begin(ctx, redirect)
			if err == nil {
				_, err = source.Finish(ctx, redirect, keep, p.Authorize(t, to))
			}
			if !errors.Is(err, identity.ErrSource) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("sign-in = %v, want %v with %q", err, identity.ErrSource, tt.says)
			}
			if err != nil && (len(err.Error()) > 600 || strings.Contains(err.Error(), "secret page")) {
				t.Errorf("the error says too much: %v", err)
			}
		})
	}
}

// leak answers a token request with all that was in it.
func leak(w http.ResponseWriter, r *http.Request) {
	_, secret, _ := r.BasicAuth()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	_ = json.NewEncoder(w).Encode(map[string]string{
		"error":             "invalid_client",
		"error_description": fmt.Sprintf("code %s verifier %s secret %s", r.PostFormValue("code"), r.PostFormValue("code_verifier"), secret),
	})
}

func TestAProviderThatHangsHoldsNobodyUp(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newClock()
	p := oidctest.NewStandIn(t, c.now)
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	p.Change(func(b *oidctest.Behaviour) {
		b.Instead = map[string]http.HandlerFunc{"/.well-known/openid-configuration": func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		}}
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	source := open(t, p, c.now, nil)
	go func() {
		_, _, err := source.Begin(ctx, redirect)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, identity.ErrSource) || !errors.Is(err, context.Canceled) {
		t.Errorf("Begin = %v, want %v", err, identity.ErrSource)
	}
}

func TestKeysThatChangeAreFetchedOnce(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newClock()
	p := oidctest.NewStandIn(t, c.now)
	source := open(t, p, c.now, nil)
	step := func(what string, asked int, want error) {
		t.Helper()
		if _, err := signIn(t, p, source); !errors.Is(err, want) {
			t.Errorf("%s: sign-in = %v, want %v", what, err, want)
		}
		if got := p.Asked("/keys"); got != asked {
			t.Errorf("%s: keys were asked for %d times, want %d", what, got, asked)
		}
	}
	step("first", 1, nil)
	step("again", 1, nil)
	c.at = c.at.Add(time.Minute)
	p.RotateKeys()
	step("after a change", 2, nil)
	step("and again", 2, nil)

	// Unknown keys one after the other make us ask no more than now and then.
	p.Change(func(b *oidctest.Behaviour) { b.Alter = func(t *oidctest.Token) { t.Header["kid"] = "nobody's" } })
	c.at = c.at.Add(time.Minute)
	for range 5 {
		step("an unknown key", 3, identity.ErrSignIn)
	}
	c.at = c.at.Add(time.Minute)
	step("a minute later", 4, identity.ErrSignIn)

	// A failure is not remembered.
	p.Change(func(b *oidctest.Behaviour) {
		b.Alter = nil
		b.Instead = map[string]http.HandlerFunc{"/keys": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }}
	})
	p.RotateKeys()
	c.at = c.at.Add(time.Minute)
	step("while keys can't be fetched", 5, identity.ErrSource)
	p.Change(func(b *oidctest.Behaviour) { b.Instead = nil })
	step("when they can be", 6, nil)
}

func TestHowAClientShowsItsSecret(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newClock()
	for name, tt := range map[string]struct {
		settings  map[string]any
		supported any
		basic     bool
		secret    bool
	}{
		"basic where nothing is said":           {basic: true, secret: true},
		"basic where both are supported":        {supported: []string{"client_secret_post", "client_secret_basic"}, basic: true, secret: true},
		"in the form where that is supported":   {supported: []string{"client_secret_post"}, secret: true},
		"in the form where the operator says":   {settings: map[string]any{"client_authentication": "post"}, secret: true},
		"basic where the operator says":         {settings: map[string]any{"client_authentication": "basic"}, supported: []string{"client_secret_post"}, basic: true, secret: true},
		"not at all where there is none":        {settings: map[string]any{"client_secret": ""}, supported: []string{"client_secret_basic", "none"}},
		"not at all where the operator says so": {settings: map[string]any{"client_secret": "", "client_authentication": "none"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := oidctest.NewStandIn(t, c.now)
			basic, secret := false, false
			p.Change(func(b *oidctest.Behaviour) {
				b.Metadata = map[string]any{"token_endpoint_auth_methods_supported": tt.supported}
				b.Instead = map[string]http.HandlerFunc{"/token": func(w http.ResponseWriter, r *http.Request) {
					var shown string
					_, shown, basic = r.BasicAuth()
					secret = shown == oidctest.ClientSecret || r.PostFormValue("client_secret") == oidctest.ClientSecret
					if !basic && r.PostFormValue("client_id") != oidctest.ClientID {
						t.Error("the client does not say who it is")
					}
					w.WriteHeader(http.StatusServiceUnavailable)
				}}
			})
			if _, err := signIn(t, p, open(t, p, c.now, tt.settings)); !errors.Is(err, identity.ErrSource) {
				t.Fatalf("sign-in = %v", err)
			}
			if basic != tt.basic || secret != tt.secret {
				t.Errorf("basic %v, secret %v; want %v, %v", basic, secret, tt.basic, tt.secret)
			}
			if asked := p.Asked("/token"); asked != 1 {
				t.Errorf("a code was tried %d times, want once", asked)
			}
		})
	}
}

func TestAddressesThatNobodyVouchesForAreUnverified(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newClock()
	for name, tt := range map[string]struct {
		verified   any
		settings   map[string]any
		unverified bool
	}{
		"verified":                            {verified: true},
		"verified, as a text":                 {verified: "true"},
		"not verified":                        {verified: false, unverified: true},
		"not verified, as a text":             {verified: "false", unverified: true},
		"nothing said":                        {unverified: true},
		"nothing said, and that is enough":    {settings: map[string]any{"trust_email": true}},
		"not verified, which is never enough": {verified: false, settings: map[string]any{"trust_email": true}, unverified: true},
		"nonsense":                            {verified: []string{"true"}, unverified: true},
		"nonsense, where nothing said would be enough":   {verified: 1, settings: map[string]any{"trust_email": true}, unverified: true},
		"verified, where nothing said would be enough":   {verified: true, settings: map[string]any{"trust_email": true}},
		"verified, where userinfo is asked and the same": {verified: true, settings: map[string]any{"userinfo": true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := oidctest.NewStandIn(t, c.now)
			p.Change(func(b *oidctest.Behaviour) { b.Alter = alter(map[string]any{"email_verified": tt.verified}) })
			person, err := signIn(t, p, open(t, p, c.now, tt.settings))
			if err != nil {
				t.Fatal(err)
			}
			if person.Email != "ana@example.com" || person.Unverified != tt.unverified {
				t.Errorf("e-mail %q, unverified %v; want unverified %v", person.Email, person.Unverified, tt.unverified)
			}
		})
	}
}

func TestUserInfoFillsWhatTokensLack(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newClock()
	p := oidctest.NewStandIn(t, c.now)
	source := open(t, p, c.now, map[string]any{"userinfo": true, "groups_claim": "realm_access.roles"})
	thin := alter(map[string]any{"email": nil, "email_verified": nil, "groups": nil, "name": "From the token"})
	p.Change(func(b *oidctest.Behaviour) {
		b.Alter = thin
		b.UserInfo = map[string]any{
			"sub": "248289761001", "email": "ana@example.org", "email_verified": true, "name": "From userinfo",
			"realm_access": map[string]any{"roles": []any{"one", 2, true, nil, "", map[string]any{}}},
		}
	})
	person, err := signIn(t, p, source)
	if err != nil {
		t.Fatal(err)
	}
	if person.Email != "ana@example.org" || person.Unverified || person.First("name") != "From the token" {
		t.Errorf("person = %+v", person)
	}
	if want := []string{"one", "2", "true"}; !slices.Equal(person.Groups, want) || !slices.Equal(person.Attributes["realm_access.roles"], want) {
		t.Errorf("groups = %q, want %q", person.Groups, want)
	}

	// The token's address is not verified because another one is.
	p.Change(func(b *oidctest.Behaviour) {
		b.Alter = alter(map[string]any{"email": "boss@example.com", "email_verified": true})
		b.UserInfo = map[string]any{"sub": "248289761001", "email": "ana@example.org"}
	})
	if person, err = signIn(t, p, source); err != nil || person.Email != "ana@example.org" || !person.Unverified {
		t.Errorf("person = %+v, %v; want ana@example.org, unverified", person, err)
	}
	p.Change(func(b *oidctest.Behaviour) {
		b.Alter = alter(map[string]any{"email": "boss@example.com", "email_verified": nil})
		b.UserInfo = map[string]any{"sub": "248289761001", "email_verified": true}
	})
	if person, err = signIn(t, p, source); err != nil || person.Email != "boss@example.com" || !person.Unverified {
		t.Errorf("person = %+v, %v; want boss@example.com, unverified", person, err)
	}

	p.Change(func(b *oidctest.Behaviour) { b.UserInfo = map[string]any{"sub": "somebody else"} })
	if _, err := signIn(t, p, source); !errors.Is(err, identity.ErrSignIn) {
		t.Errorf("userinfo of somebody else: %v, want %v", err, identity.ErrSignIn)
	}
}

func TestClaimsHaveBounds(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newClock()
	p := oidctest.NewStandIn(t, c.now)
	p.Change(func(b *oidctest.Behaviour) {
		many := map[string]any{"long": strings.Repeat("a", 2000), "https://example.com/id": "literal", "deep": map[string]any{"a": map[string]any{"b": map[string]any{"c": "d"}}}}
		for i := range 300 {
			many[fmt.Sprintf("claim-%03d", i)] = "x"
		}
		b.Alter = alter(many)
	})
	person, err := signIn(t, p, open(t, p, c.now, nil))
	if err != nil {
		t.Fatal(err)
	}
	if len(person.Attributes) > 200 {
		t.Errorf("%d attributes", len(person.Attributes))
	}
	for _, name := range []string{"long", "deep.a.b.c"} {
		if got := person.First(name); got != "" {
			t.Errorf("%s = %q, want nothing", name, got)
		}
	}
}

func TestLogoutAtTheProvider(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newClock()
	p := oidctest.NewStandIn(t, c.now)
	to, err := open(t, p, c.now, nil).Logout(t.Context(), "https://mdm.example.com/login")
	if err != nil {
		t.Fatal(err)
	}
	want := p.Issuer + "/logout?client_id=gatehouse&post_logout_redirect_uri=https%3A%2F%2Fmdm.example.com%2Flogin"
	if to != want {
		t.Errorf("Logout = %s, want %s", to, want)
	}
	p.Change(func(b *oidctest.Behaviour) { b.Metadata = map[string]any{"end_session_endpoint": nil} })
	if to, err = open(t, p, c.now, nil).Logout(t.Context(), "https://mdm.example.com/login"); to != "" || err != nil {
		t.Errorf("Logout = %q, %v of a provider that has none, want nothing", to, err)
	}
}

func TestCertificatesOfAnAuthorityOfTheirOwn(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newClock()
	p := oidctest.NewTLSStandIn(t, c.now)
	if _, err := signIn(t, p, open(t, p, c.now, nil)); !errors.Is(err, identity.ErrSource) || !strings.Contains(err.Error(), "not trusted here") {
		t.Errorf("sign-in = %v, want %v about the certificate", err, identity.ErrSource)
	}
	if _, err := signIn(t, p, open(t, p, c.now, map[string]any{"ca_certificates": p.Certificate})); err != nil {
		t.Errorf("sign-in with the authority's certificate = %v", err)
	}
}

func TestSettingsThatAreWrongAreNamed(t *testing.T) {
	storagetest.AnyEngine(t)
	kind := newKind(t, time.Now)
	for name, tt := range map[string]struct {
		change map[string]any
		field  string // empty: they are good
		reason string
	}{
		"as few as can be":                      {},
		"a public client":                       {change: map[string]any{"client_secret": ""}},
		"null is as if not there":               {change: map[string]any{"scopes": nil, "max_age": nil, "prompt": nil}},
		"no issuer":                             {change: map[string]any{"issuer": nil}, field: "issuer", reason: "is required"},
		"an issuer that is no URL":              {change: map[string]any{"issuer": "login.example.com"}, field: "issuer"},
		"an issuer with a space":                {change: map[string]any{"issuer": "https://login.example.com/a b"}, field: "issuer"},
		"an issuer with a query":                {change: map[string]any{"issuer": "https://login.example.com/?a"}, field: "issuer", reason: "no user, query or fragment"},
		"an issuer with a password":             {change: map[string]any{"issuer": "https://a:b@login.example.com"}, field: "issuer"},
		"an issuer that is the document":        {change: map[string]any{"issuer": "https://login.example.com/.well-known/openid-configuration"}, field: "issuer", reason: "must end before"},
		"an issuer in the clear":                {change: map[string]any{"issuer": "http://login.example.com"}, field: "issuer", reason: "https"},
		"an issuer in the clear elsewhere":      {change: map[string]any{"issuer": "http://login.example.com", "allow_private": true}, field: "issuer"},
		"an issuer in the clear, on loopback":   {change: map[string]any{"issuer": "http://127.0.0.1:9", "allow_private": true}},
		"an issuer that is a file":              {change: map[string]any{"issuer": "file:///etc/passwd"}, field: "issuer"},
		"an issuer by gopher":                   {change: map[string]any{"issuer": "gopher://login.example.com"}, field: "issuer"},
		"an issuer that is a number":            {change: map[string]any{"issuer": 7}, field: "issuer", reason: "must be a text"},
		"no client":                             {change: map[string]any{"client_id": ""}, field: "client_id"},
		"a client with a line break":            {change: map[string]any{"client_id": "a\nb"}, field: "client_id"},
		"a secret with a space after it":        {change: map[string]any{"client_secret": "s3cret "}, field: "client_secret", reason: "space"},
		"a secret that is very long":            {change: map[string]any{"client_secret": strings.Repeat("a", 501)}, field: "client_secret"},
		"post without a secret":                 {change: map[string]any{"client_secret": "", "client_authentication": "post"}, field: "client_secret"},
		"a secret that is not shown":            {change: map[string]any{"client_authentication": "none"}, field: "client_secret"},
		"an unknown authentication":             {change: map[string]any{"client_authentication": "client_secret_jwt"}, field: "client_authentication"},
		"scopes without openid":                 {change: map[string]any{"scopes": []string{"email"}}, field: "scopes", reason: "openid"},
		"scopes in one text":                    {change: map[string]any{"scopes": "openid email"}, field: "scopes", reason: "a list of texts"},
		"scopes with a space":                   {change: map[string]any{"scopes": []string{"openid email"}}, field: "scopes"},
		"a scope for later":                     {change: map[string]any{"scopes": []string{"openid", "offline_access"}}, field: "scopes"},
		"a parameter that is set otherwise":     {change: map[string]any{"extra_authorization_parameters": map[string]string{"redirect_uri": "https://evil.example"}}, field: "extra_authorization_parameters", reason: "redirect_uri"},
		"parameters that are a list":            {change: map[string]any{"extra_authorization_parameters": []string{"a"}}, field: "extra_authorization_parameters"},
		"a max_age below zero":                  {change: map[string]any{"max_age": -1}, field: "max_age"},
		"a max_age that is a text":              {change: map[string]any{"max_age": "1h"}, field: "max_age", reason: "seconds"},
		"a prompt that asks nothing":            {change: map[string]any{"prompt": "none"}, field: "prompt"},
		"two prompts":                           {change: map[string]any{"prompt": "login consent"}},
		"a required claim without a value":      {change: map[string]any{"required_claims": map[string]string{"hd": ""}}, field: "required_claims"},
		"certificates that are none":            {change: map[string]any{"ca_certificates": "hello"}, field: "ca_certificates"},
		"certificates with a key among them":    {change: map[string]any{"ca_certificates": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}, field: "ca_certificates"},
		"a setting that does not exist":         {change: map[string]any{"isuer": "x"}, field: "isuer", reason: "no setting"},
		"a secret under another spelling":       {change: map[string]any{"Client_Secret": "s3cret"}, field: "Client_Secret"},
		"allow_private that is a text":          {change: map[string]any{"allow_private": "yes"}, field: "allow_private", reason: "true or false"},
		"the first that is wrong, by its name":  {change: map[string]any{"zzz": 1, "aaa": 1}, field: "aaa"},
		"groups that are nobody's":              {change: map[string]any{"groups_claim": ""}},
		"a class of sign-ins that has a space":  {change: map[string]any{"acr": []string{"a b"}}, field: "acr"},
		"an issuer with nothing but a fragment": {change: map[string]any{"issuer": "https://login.example.com#"}, field: "issuer"},
	} {
		t.Run(name, func(t *testing.T) {
			settings := map[string]any{"issuer": "https://login.example.com", "client_id": "gatehouse", "client_secret": "s3cret"}
			maps.Copy(settings, tt.change)
			raw, err := json.Marshal(settings)
			if err != nil {
				t.Fatal(err)
			}
			err = kind.Check(raw)
			if tt.field == "" {
				if err != nil {
					t.Errorf("Check(%s) = %v", raw, err)
				}
				return
			}
			var wrong *identity.FieldError
			if !errors.As(err, &wrong) || wrong.Field != tt.field || !strings.Contains(wrong.Reason, tt.reason) {
				t.Errorf("Check(%s) = %v, want %s %s", raw, err, tt.field, tt.reason)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("Check gives the secret away: %v", err)
			}
		})
	}
	for _, raw := range []string{"", "null", "[]", `"x"`, `{"issuer":`} {
		if err := kind.Check(json.RawMessage(raw)); !errors.Is(err, identity.ErrInvalid) {
			t.Errorf("Check(%q) = %v, want %v", raw, err, identity.ErrInvalid)
		}
	}
}
