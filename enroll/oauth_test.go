package enroll_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// verifier is one of PKCE, and challenge what belongs to it (RFC 7636, appendix B).
const (
	verifier  = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
)

func TestAuthorizationRequests(t *testing.T) {
	storagetest.AnyEngine(t)
	if sum := sha256.Sum256([]byte(verifier)); base64.RawURLEncoding.EncodeToString(sum[:]) != challenge {
		t.Fatal("the challenge is not the verifier's")
	}
	const redirect = "apple-remotemanagement-user-login:/oauth2/redirection"
	// What Apple shows, and nothing else.
	usual := url.Values{
		"response_type": {"code"}, "client_id": {"gatehouse"}, "redirect_uri": {redirect}, "state": {"s1"}, "login_hint": {"ana@example.com"},
	}
	const nobody = "nobody is redirected"
	for name, tt := range map[string]struct {
		change url.Values // nil: without it
		want   string     // the error; empty: none
	}{
		"as Apple shows it":                    {nil, ""},
		"with what the challenge has":          {url.Values{"scope": {"MDM"}}, ""},
		"without a hint":                       {url.Values{"login_hint": nil}, ""},
		"without a state":                      {url.Values{"state": nil}, ""},
		"with PKCE":                            {url.Values{"code_challenge": {challenge}, "code_challenge_method": {"S256"}}, ""},
		"with what nobody knows":               {url.Values{"prompt": {"login"}, "nonce": {"a", "b"}}, ""},
		"a state of many kinds of letters":     {url.Values{"state": {"a b&c=d/ü"}}, ""},
		"no client":                            {url.Values{"client_id": nil}, nobody},
		"an empty client":                      {url.Values{"client_id": {""}}, nobody},
		"another client":                       {url.Values{"client_id": {"Gatehouse"}}, nobody},
		"two clients":                          {url.Values{"client_id": {"gatehouse", "gatehouse"}}, nobody},
		"no way back":                          {url.Values{"redirect_uri": nil}, nobody},
		"two ways back":                        {url.Values{"redirect_uri": {redirect, "https://evil.example"}}, nobody},
		"the way back in upper case":           {url.Values{"redirect_uri": {strings.ToUpper(redirect)}}, nobody},
		"the way back in other case":           {url.Values{"redirect_uri": {"apple-remotemanagement-user-login:/OAuth2/redirection"}}, nobody},
		"the way back with a slash":            {url.Values{"redirect_uri": {redirect + "/"}}, nobody},
		"the way back with a query":            {url.Values{"redirect_uri": {redirect + "?a=b"}}, nobody},
		"the way back with a fragment":         {url.Values{"redirect_uri": {redirect + "#a"}}, nobody},
		"the way back with a host":             {url.Values{"redirect_uri": {"apple-remotemanagement-user-login://evil.example/oauth2/redirection"}}, nobody},
		"the way back escaped":                 {url.Values{"redirect_uri": {"apple-remotemanagement-user-login:/oauth2/%72edirection"}}, nobody},
		"a beginning of the way back":          {url.Values{"redirect_uri": {"apple-remotemanagement-user-login:/oauth2"}}, nobody},
		"more than the way back":               {url.Values{"redirect_uri": {redirect + "s"}}, nobody},
		"the way back with a step up":          {url.Values{"redirect_uri": {"apple-remotemanagement-user-login:/oauth2/../oauth2/redirection"}}, nobody},
		"the way back of the other method":     {url.Values{"redirect_uri": {"apple-remotemanagement-user-login://authentication-results"}}, nobody},
		"a space before the way back":          {url.Values{"redirect_uri": {" " + redirect}}, nobody},
		"a web site as the way back":           {url.Values{"redirect_uri": {"https://evil.example/oauth2/redirection"}}, nobody},
		"no response type":                     {url.Values{"response_type": nil}, "invalid_request"},
		"the implicit response type":           {url.Values{"response_type": {"token"}}, "unsupported_response_type"},
		"two response types in one":            {url.Values{"response_type": {"code token"}}, "unsupported_response_type"},
		"the response type twice":              {url.Values{"response_type": {"code", "code"}}, "invalid_request"},
		"another scope":                        {url.Values{"scope": {"openid"}}, "invalid_scope"},
		"more than the scope":                  {url.Values{"scope": {"MDM openid"}}, "invalid_scope"},
		"the scope twice":                      {url.Values{"scope": {"MDM", "MDM"}}, "invalid_request"},
		"a state without end":                  {url.Values{"state": {strings.Repeat("s", 501)}}, "invalid_request"},
		"the state twice":                      {url.Values{"state": {"s1", "s2"}}, "invalid_request"},
		"the hint twice":                       {url.Values{"login_hint": {"ana", "ben"}}, "invalid_request"},
		"plain PKCE":                           {url.Values{"code_challenge": {verifier}, "code_challenge_method": {"plain"}}, "invalid_request"},
		"PKCE without a method":                {url.Values{"code_challenge": {challenge}}, "invalid_request"},
		"PKCE without a challenge":             {url.Values{"code_challenge_method": {"S256"}}, "invalid_request"},
		"PKCE with a challenge that is short":  {url.Values{"code_challenge": {"abc"}, "code_challenge_method": {"S256"}}, "invalid_request"},
		"PKCE with a challenge that is none":   {url.Values{"code_challenge": {strings.Repeat("+", 43)}, "code_challenge_method": {"S256"}}, "invalid_request"},
		"PKCE with two challenges":             {url.Values{"code_challenge": {challenge, challenge}, "code_challenge_method": {"S256"}}, "invalid_request"},
		"PKCE with the method twice":           {url.Values{"code_challenge": {challenge}, "code_challenge_method": {"S256", "plain"}}, "invalid_request"},
		"PKCE with its method in another case": {url.Values{"code_challenge": {challenge}, "code_challenge_method": {"s256"}}, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			query := url.Values{}
			for key, values := range usual {
				query[key] = values
			}
			for key, values := range tt.change {
				query[key] = values
				if values == nil {
					delete(query, key)
				}
			}
			got, err := enroll.ParseAuthorizationRequest(query)
			switch {
			case tt.want == "":
				want := enroll.AuthorizationRequest{
					RedirectURI: redirect, State: query.Get("state"), LoginHint: query.Get("login_hint"), CodeChallenge: query.Get("code_challenge"),
				}
				if err != nil || got != want {
					t.Errorf("it is %+v, %v; want %+v", got, err, want)
				}
			case tt.want == nobody:
				if !errors.Is(err, enroll.ErrAuthorizationClient) {
					t.Errorf("it is %+v, %v; want ErrAuthorizationClient", got, err)
				}
			default:
				refused, ok := errors.AsType[*enroll.OAuthError](err)
				if !ok || refused.Code != tt.want {
					t.Fatalf("it is %+v, %v; want %s", got, err, tt.want)
				}
				back, params, _ := strings.Cut(refused.Location, "?")
				told := must2(url.ParseQuery(params))(t)
				state := query.Get("state")
				if len(state) > 500 {
					state = ""
				}
				if back != redirect || told.Get("error") != tt.want || told.Get("state") != state || told.Get("error_description") == "" || told.Has("code") {
					t.Errorf("the device is told %s", refused.Location)
				}
			}
		})
	}
}

// code signs ana in by a request, and returns the code that her device is given.
func (r *reception) code(t *testing.T, o enroll.AuthorizationRequest) (code string, a enroll.Attempt) {
	t.Helper()
	o.RedirectURI = enroll.OAuthRedirectURI
	h := must2(r.FinishAccountSignIn(context.Background(), r.ask(t, enroll.ModeBYOD, anIPhone).ticket, r.ana, &o))(t)
	back, params, _ := strings.Cut(h.Location, "?")
	told := must2(url.ParseQuery(params))(t)
	if back != enroll.OAuthRedirectURI || told.Get("state") != o.State || told.Has("state") != (o.State != "") || told.Has("access-token") {
		t.Fatalf("the device is told %s", h.Location)
	}
	return told.Get("code"), h.Attempt
}

// wantOAuth says that a token request was refused.
func wantOAuth(t testing.TB, what string, err error, code string) {
	t.Helper()
	if refused, ok := errors.AsType[*enroll.OAuthError](err); !ok || refused.Code != code || refused.Location != "" {
		t.Errorf("%s: %v, want %s", what, err, code)
	}
}

func TestTheStateComesBackAsItWas(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t, byOAuth)
	for _, state := range []string{"", "3F2504E0-4F89-11D3-9A0C-0305E82C3301", "a b&c=d/ü#%41\r\n"} {
		r.code(t, enroll.AuthorizationRequest{State: state})
	}
}

func TestTokenRequests(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	usual := enroll.TokenRequest{GrantType: "authorization_code", RedirectURI: enroll.OAuthRedirectURI, ClientID: "gatehouse"}
	pkce := enroll.AuthorizationRequest{CodeChallenge: challenge}
	for name, tt := range map[string]struct {
		o      enroll.AuthorizationRequest
		change func(q *enroll.TokenRequest, r *reception)
		want   string
	}{
		"as Apple shows it":            {enroll.AuthorizationRequest{}, func(*enroll.TokenRequest, *reception) {}, ""},
		"with the scope":               {enroll.AuthorizationRequest{}, func(q *enroll.TokenRequest, _ *reception) { q.Scope = "MDM" }, ""},
		"just in time":                 {enroll.AuthorizationRequest{}, func(_ *enroll.TokenRequest, r *reception) { r.pass(2*time.Minute - time.Second) }, ""},
		"too late":                     {enroll.AuthorizationRequest{}, func(_ *enroll.TokenRequest, r *reception) { r.pass(2 * time.Minute) }, "invalid_grant"},
		"no grant type":                {enroll.AuthorizationRequest{}, func(q *enroll.TokenRequest, _ *reception) { q.GrantType = "" }, "invalid_request"},
		"a grant type of others":       {enroll.AuthorizationRequest{}, func(q *enroll.TokenRequest, _ *reception) { q.GrantType = "password" }, "unsupported_grant_type"},
		"no code":                      {enroll.AuthorizationRequest{}, func(q *enroll.TokenRequest, _ *reception) { q.Code = "" }, "invalid_request"},
		"a code that nobody gave":      {enroll.AuthorizationRequest{}, func(q *enroll.TokenRequest, _ *reception) { q.Code = strings.Repeat("A", len(q.Code)) }, "invalid_grant"},
		"a code cut short":             {enroll.AuthorizationRequest{}, func(q *enroll.TokenRequest, _ *reception) { q.Code = q.Code[1:] }, "invalid_grant"},
		"a code with a letter changed": {enroll.AuthorizationRequest{}, func(q *enroll.TokenRequest, _ *reception) { q.Code = flip(q.Code) }, "invalid_grant"},
		"no client":                    {enroll.AuthorizationRequest{}, func(q *enroll.TokenRequest, _ *reception) { q.ClientID = "" }, "invalid_client"},
		"another client":               {enroll.AuthorizationRequest{}, func(q *enroll.TokenRequest, _ *reception) { q.ClientID = "GATEHOUSE" }, "invalid_client"},
		"no way back":                  {enroll.AuthorizationRequest{}, func(q *enroll.TokenRequest, _ *reception) { q.RedirectURI = "" }, "invalid_request"},
		"another way back":             {enroll.AuthorizationRequest{}, func(q *enroll.TokenRequest, _ *reception) { q.RedirectURI += "/" }, "invalid_grant"},
		"another scope":                {enroll.AuthorizationRequest{}, func(q *enroll.TokenRequest, _ *reception) { q.Scope = "openid" }, "invalid_scope"},
		"with its verifier":            {pkce, func(q *enroll.TokenRequest, _ *reception) { q.CodeVerifier = verifier }, ""},
		"with another verifier":        {pkce, func(q *enroll.TokenRequest, _ *reception) { q.CodeVerifier = flip(verifier) }, "invalid_grant"},
		"with the challenge itself":    {pkce, func(q *enroll.TokenRequest, _ *reception) { q.CodeVerifier = challenge }, "invalid_grant"},
		"without its verifier":         {pkce, func(*enroll.TokenRequest, *reception) {}, "invalid_grant"},
		"with a verifier for nothing":  {enroll.AuthorizationRequest{}, func(q *enroll.TokenRequest, _ *reception) { q.CodeVerifier = verifier }, "invalid_grant"},
		"by a user who is disabled": {enroll.AuthorizationRequest{}, func(_ *enroll.TokenRequest, r *reception) {
			yes := true
			_, _ = r.people.UpdateUser(ctx, identity.Local(), r.ana.ID, identity.UserChange{Disabled: &yes})
		}, "invalid_grant"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReception(t, byOAuth)
			q := usual
			q.Code, _ = r.code(t, tt.o)
			right := q
			if tt.o.CodeChallenge != "" {
				right.CodeVerifier = verifier
			}
			tt.change(&q, r)
			got, err := r.IssueTokens(ctx, q)
			if tt.want == "" {
				must(t, err)
				if got.TokenType != "Bearer" || got.Scope != "MDM" || got.ExpiresIn != 8*3600 || got.AccessToken == "" || got.RefreshToken == "" || got.AccessToken == got.RefreshToken {
					t.Errorf("the answer is %+v", got)
				}
				_, err := r.post(t, enroll.ModeBYOD, got.AccessToken, anIPhone)
				must(t, err)
				return
			}
			wantOAuth(t, "IssueTokens", err, tt.want)
			if got != (enroll.TokenResponse{}) {
				t.Errorf("the answer is %+v all the same", got)
			}
			// A mistake costs nothing: the code is good for who has it right.
			if _, err := r.IssueTokens(ctx, right); err != nil && name != "too late" && name != "by a user who is disabled" {
				t.Errorf("the right request, then: %v", err)
			}
		})
	}
}

func TestACodeIsGoodOnce(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Run("before the device has come a second use ends it all", func(t *testing.T) {
		r := newReception(t, byOAuth)
		code, a := r.code(t, enroll.AuthorizationRequest{})
		got, err := r.exchange(code)
		must(t, err)
		_, err = r.post(t, enroll.ModeBYOD, got.access, anIPhone)
		must(t, err)
		_, err = r.exchange(code)
		wantOAuth(t, "the code again", err, "invalid_grant")
		_, err = r.post(t, enroll.ModeBYOD, got.access, anIPhone)
		ticket := askedIn(t, err).ticket
		_, err = r.refresh(got.refresh)
		wantOAuth(t, "its refresh token", err, "invalid_grant")
		_, err = r.exchange(code)
		wantOAuth(t, "the code a third time", err, "invalid_grant")
		again, b := r.granted(t, ticket, r.ana)
		if _, err = r.post(t, enroll.ModeBYOD, again.access, anIPhone); err != nil || a.ID == b.ID {
			t.Errorf("another sign-in, of %s after %s: %v", b.ID, a.ID, err)
		}
	})
	t.Run("an enrolled device loses nothing by it", func(t *testing.T) {
		r := newReception(t, byOAuth)
		code, _ := r.code(t, enroll.AuthorizationRequest{})
		g := &guest{r: r, mode: enroll.ModeBYOD, info: anIPhone, id: byod}
		var err error
		g.tokens, err = r.exchange(code)
		must(t, err)
		signed := must2(r.post(t, enroll.ModeBYOD, g.access, anIPhone))(t)
		g.cert = must2(r.IssueIdentity(context.Background(), request(t, keyring.take(t), challengeIn(t, signed))))(t)
		must(t, g.authenticate(g.access))
		_, err = r.exchange(code)
		wantOAuth(t, "the code again", err, "invalid_grant")
		must(t, g.tokenUpdate(g.id, g.access))
		must(t, g.idle())
		_, err = r.refresh(g.refresh)
		must(t, err)
	})
}

// TestRefreshTokens takes them through what goes wrong on the way to a device.
func TestRefreshTokens(t *testing.T) {
	ctx := context.Background()
	for name, story := range map[string]func(t *testing.T, r *reception, g *guest){
		"a new pair takes the place of the one before": func(t *testing.T, r *reception, g *guest) {
			old := g.tokens
			var err error
			g.tokens, err = r.refresh(old.refresh)
			must(t, err)
			if g.access == old.access || g.refresh == old.refresh {
				t.Errorf("the pairs are %+v and %+v", old, g.tokens)
			}
			must(t, g.poll(g.id, old.access)) // it may have lost the answer
			must(t, g.idle())
			askedIn(t, g.poll(g.id, old.access)) // it has not
			_, err = r.refresh(old.refresh)
			wantOAuth(t, "the old refresh token", err, "invalid_grant")
			_, err = r.refresh(g.refresh)
			must(t, err)
		},
		"an answer that is lost is asked for again": func(t *testing.T, r *reception, g *guest) {
			old := g.tokens
			lost, err := r.refresh(old.refresh)
			must(t, err)
			g.tokens, err = r.refresh(old.refresh)
			must(t, err)
			must(t, g.idle())
			g.tokens, err = r.refresh(g.refresh)
			must(t, err)
			for what, token := range map[string]string{"the old one": old.refresh, "the lost one": lost.refresh} {
				_, err = r.refresh(token)
				wantOAuth(t, what, err, "invalid_grant")
			}
			must(t, g.idle())
		},
		"many answers that are lost, and the first token still serves": func(t *testing.T, r *reception, g *guest) {
			old := g.tokens
			var all []tokens
			for range 10 {
				got, err := r.refresh(old.refresh)
				must(t, err)
				all = append(all, got)
			}
			if n := r.authorizations(t)[0].Tokens; n > 4 {
				t.Errorf("%d pairs are kept", n)
			}
			g.tokens = all[len(all)-1]
			must(t, g.idle())
			var err error
			g.tokens, err = r.refresh(g.refresh)
			must(t, err)
			must(t, g.idle())
		},
		"the refresh token of an access token that was used drops those before": func(t *testing.T, r *reception, g *guest) {
			second, err := r.refresh(g.refresh)
			must(t, err)
			third, err := r.refresh(second.refresh)
			must(t, err)
			_, err = r.refresh(g.refresh)
			wantOAuth(t, "the first one", err, "invalid_grant")
			must(t, g.poll(g.id, third.access))
		},
		"after the access token has run out": func(t *testing.T, r *reception, g *guest) {
			r.pass(8 * time.Hour)
			askedIn(t, g.idle())
			var err error
			g.tokens, err = r.refresh(g.refresh)
			must(t, err)
			must(t, g.idle())
			r.pass(8*time.Hour - time.Second)
			must(t, g.idle())
			r.pass(time.Second)
			askedIn(t, g.idle())
		},
		"silence does not end it before its time": func(t *testing.T, r *reception, g *guest) {
			r.pass(90 * 24 * time.Hour)
			got, err := r.refresh(g.refresh)
			must(t, err)
			r.pass(89 * 24 * time.Hour)
			_, err = r.refresh(got.refresh)
			must(t, err)
		},
		"silence ends it": func(t *testing.T, r *reception, g *guest) {
			r.pass(90*24*time.Hour + time.Hour)
			_, err := r.refresh(g.refresh)
			wantOAuth(t, "after 90 days and an hour", err, "invalid_grant")
			askedIn(t, g.idle())
		},
		"time ends it, however often it is used": func(t *testing.T, r *reception, g *guest) {
			r.policy(t, func(c *enroll.AccountDriven) { c.TokenLife = 3 * time.Hour })
			var err error
			for range 2 {
				r.pass(time.Hour)
				g.tokens, err = r.refresh(g.refresh)
				must(t, err)
				must(t, g.idle())
			}
			r.pass(time.Hour)
			_, err = r.refresh(g.refresh)
			wantOAuth(t, "after three hours", err, "invalid_grant")
			ticket := askedIn(t, g.idle()).ticket
			g.tokens, _ = r.granted(t, ticket, r.ana)
			must(t, g.idle())
			r.pass(2 * time.Hour)
			must(t, g.idle())
		},
		"the user is disabled": func(t *testing.T, r *reception, g *guest) {
			yes := true
			r.change(t, r.ana, identity.UserChange{Disabled: &yes})
			_, err := r.refresh(g.refresh)
			wantOAuth(t, "of a disabled user", err, "invalid_grant")
		},
		"the device is removed": func(t *testing.T, r *reception, g *guest) {
			_, err := r.Unenroll(ctx, g.device(t).ID)
			must(t, err)
			_, err = r.refresh(g.refresh)
			wantOAuth(t, "of a removed device", err, "invalid_grant")
		},
		"the device checks out": func(t *testing.T, r *reception, g *guest) {
			must(t, r.CheckOut(ctx, g.peer(""), g.id))
			_, err := r.refresh(g.refresh)
			wantOAuth(t, "of a device that left", err, "invalid_grant")
		},
		"its user must sign in": func(t *testing.T, r *reception, g *guest) {
			must2(r.RequireSignIn(ctx, g.device(t).ID))(t)
			_, err := r.refresh(g.refresh)
			wantOAuth(t, "after RequireSignIn", err, "invalid_grant")
		},
		"what is no refresh token": func(t *testing.T, r *reception, g *guest) {
			for what, token := range map[string]string{"an access token": g.access, "noise": "nonsense", "one letter changed": flip(g.refresh)} {
				_, err := r.refresh(token)
				wantOAuth(t, what, err, "invalid_grant")
			}
			_, err := r.refresh("")
			wantOAuth(t, "none", err, "invalid_request")
			_, err = r.IssueTokens(ctx, enroll.TokenRequest{GrantType: "refresh_token", RefreshToken: g.refresh, ClientID: "other"})
			wantOAuth(t, "another client", err, "invalid_client")
			_, err = r.IssueTokens(ctx, enroll.TokenRequest{GrantType: "refresh_token", RefreshToken: g.refresh, Scope: "openid"})
			wantOAuth(t, "another scope", err, "invalid_scope")
			_, err = r.IssueTokens(ctx, enroll.TokenRequest{GrantType: "refresh_token", RefreshToken: g.refresh}) // RFC 6749, 6, names no client
			must(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReception(t, byOAuth)
			story(t, r, r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod))
		})
	}
}

// TestSecretsAreNotKept looks for them in all that is stored.
func TestSecretsAreNotKept(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t, byOAuth)
	code, _ := r.code(t, enroll.AuthorizationRequest{})
	got, err := r.exchange(code)
	must(t, err)
	all := must2(r.Authorizations(context.Background()))(t)
	if len(all) != 1 || !strings.HasPrefix(code, all[0].ID) {
		t.Fatalf("the authorizations are %+v, and the code %s", all, code)
	}
	if r.stored(t, all[0].ID) == "" {
		t.Fatal("the search finds nothing")
	}
	for _, secret := range []string{code, got.access, got.refresh} {
		if slices.Contains([]string{all[0].ID, all[0].AttemptID}, secret) || len(secret) != 48 {
			t.Errorf("the secret %q is an ID, or can be guessed", secret)
		}
		if where := r.stored(t, secret[len(all[0].ID):]); where != "" {
			t.Errorf("a secret is stored in %s", where)
		}
	}
}

// stored says in which bucket something is that has text in it; empty: in none.
func (r *reception) stored(t *testing.T, text string) (where string) {
	t.Helper()
	r.view(t, func(tx storage.Tx) error {
		where = ""
		buckets, err := tx.Buckets()
		if err != nil {
			return err
		}
		for _, bucket := range buckets {
			for item, err := range tx.Scan(bucket, storage.Range{}) {
				if err != nil {
					return err
				}
				if strings.Contains(string(item.Key), text) || strings.Contains(string(item.Value), text) {
					where = bucket
				}
			}
		}
		return nil
	})
	return where
}
