package oidc

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

const (
	longestToken = 64 << 10 // bytes of an ID token, and of what userinfo says
	longestCode  = 16 << 10

	// skew is how far a provider's clock may be off.
	skew = time.Minute
)

// Source is one provider at which people sign in.
type Source struct {
	settings  settings
	client    *http.Client
	providers providers
	now       func() time.Time
}

var _ identity.RedirectSource = (*Source)(nil)

func newSource(s settings, now func() time.Time) (*Source, error) {
	client := newClient(s)
	return &Source{
		settings: s, client: client, now: now,
		providers: providers{settings: s, client: client, now: now},
	}, nil
}

// kept is what a sign-in needs again when the browser comes back.
type kept struct {
	Nonce    string `json:"nonce"`
	Verifier string `json:"verifier"` // RFC 7636
}

// Begin implements [identity.RedirectSource].
func (s *Source) Begin(ctx context.Context, r identity.Redirect) (to, keep string, err error) {
	p, err := s.providers.get(ctx)
	if err != nil {
		return "", "", fmt.Errorf("begin sign-in: %w", err)
	}
	k := kept{Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier()}
	sealed, err := json.Marshal(k)
	if err != nil {
		return "", "", fmt.Errorf("begin sign-in: %w", err)
	}
	options := []oauth2.AuthCodeOption{oidc.Nonce(k.Nonce), oauth2.S256ChallengeOption(k.Verifier)}
	add := func(name, value string) {
		if value != "" {
			options = append(options, oauth2.SetAuthURLParam(name, value))
		}
	}
	for name, value := range s.settings.ExtraAuthorizationParameters {
		add(name, value)
	}
	add("prompt", s.prompt(p, r))
	add("acr_values", strings.Join(s.settings.ACR, " "))
	if s.settings.MaxAge != nil {
		add("max_age", strconv.FormatInt(*s.settings.MaxAge, 10))
	}
	if len(r.LoginHint) <= 254 {
		add("login_hint", r.LoginHint)
	}
	return s.oauth(p, r).AuthCodeURL(r.State, options...), string(sealed), nil
}

// prompt is what the provider asks the person in any case (OpenID Connect Core 1.0,
// 3.1.2.1).
func (s *Source) prompt(p *provider, r identity.Redirect) string {
	prompts := strings.Fields(s.settings.Prompt)
	asks := func(prompt string) bool { return prompt == "select_account" || prompt == "login" }
	if !r.SelectAccount || slices.ContainsFunc(prompts, asks) {
		return s.settings.Prompt
	}
	ask := "select_account"
	if !slices.Contains(p.Prompts, ask) && slices.Contains(p.Prompts, "login") { // Keycloak
		ask = "login"
	}
	return strings.Join(append([]string{ask}, prompts...), " ")
}

func (s *Source) oauth(p *provider, r identity.Redirect) *oauth2.Config {
	return &oauth2.Config{
		ClientID:     s.settings.ClientID,
		ClientSecret: s.settings.ClientSecret,
		Endpoint:     oauth2.Endpoint{AuthURL: p.Authorization, TokenURL: p.Token, AuthStyle: p.style},
		RedirectURL:  r.ReturnURL,
		Scopes:       s.settings.Scopes,
	}
}

// Finish implements [identity.RedirectSource].
func (s *Source) Finish(ctx context.Context, r identity.Redirect, keep string, returned url.Values) (identity.Person, error) {
	person, err := s.finish(ctx, r, keep, returned)
	if err != nil {
		return identity.Person{}, fmt.Errorf("finish sign-in: %w", err)
	}
	return person, nil
}

func (s *Source) finish(ctx context.Context, r identity.Redirect, keep string, returned url.Values) (identity.Person, error) {
	var k kept
	if err := json.Unmarshal([]byte(keep), &k); err != nil || k.Nonce == "" || k.Verifier == "" {
		return identity.Person{}, fmt.Errorf("%w: nonce and verifier are lost", identity.ErrSignIn)
	}
	p, err := s.providers.get(ctx)
	if err != nil {
		return identity.Person{}, err
	}
	code, err := codeOf(returned, p)
	if err != nil {
		return identity.Person{}, err
	}
	token, err := s.oauth(p, r).Exchange(oidc.ClientContext(ctx, s.client), code, oauth2.VerifierOption(k.Verifier))
	if err != nil {
		return identity.Person{}, s.refusal(err, code, k.Verifier)
	}
	claims, err := s.verified(ctx, p, token, k.Nonce)
	if err != nil {
		return identity.Person{}, err
	}
	signedIn, _ := claims.time("auth_time") // of the token, whatever userinfo says
	if s.settings.UserInfo {
		more, err := s.userInfo(ctx, p, token)
		if err != nil {
			return identity.Person{}, err
		}
		if err := claims.add(more); err != nil {
			return identity.Person{}, err
		}
	}
	person, err := s.person(claims)
	if err != nil {
		return identity.Person{}, err
	}
	person.AuthenticatedAt = signedIn
	return person, nil
}

// codeOf returns the code of an authorization response (RFC 6749, 4.1.2), or what the
// provider says instead.
func codeOf(returned url.Values, p *provider) (string, error) {
	for _, name := range []string{"code", "error", "error_description", "iss"} {
		if len(returned[name]) > 1 {
			return "", fmt.Errorf("%w: the browser came back with more than one %s", identity.ErrSignIn, name) // RFC 6749, 3.1
		}
	}
	// RFC 9207, 2.4: a code of another provider never goes to this one.
	if iss, has := returned["iss"]; has && iss[0] != p.Issuer || !has && p.IssuerInItsResponses {
		return "", fmt.Errorf("%w: the browser came back from another provider", identity.ErrSignIn)
	}
	if class := returned.Get("error"); class != "" {
		return "", denial(class, returned.Get("error_description"))
	}
	code := returned.Get("code")
	if code == "" || len(code) > longestCode {
		return "", fmt.Errorf("%w: the browser came back without a code", identity.ErrSignIn)
	}
	return code, nil
}

// denied are the error responses that are about the person; others are about the provider
// or how it is set up (RFC 6749, 4.1.2.1; OpenID Connect Core 1.0, 3.1.2.6).
var denied = []string{
	"access_denied", "interaction_required", "login_required", "account_selection_required", "consent_required",
	"unmet_authentication_requirements",
}

func denial(class, description string) error {
	sentinel := identity.ErrSource
	if slices.Contains(denied, class) {
		sentinel = identity.ErrDenied
	}
	text := clean(class, 60)
	if description = clean(description, 200); description != "" {
		text += " (" + description + ")"
	}
	return fmt.Errorf("%w: %s", sentinel, text)
}

// refusal says why a code was worth nothing.
func (s *Source) refusal(err error, secrets ...string) error {
	var answered *oauth2.RetrieveError
	switch {
	case errors.Is(err, identity.ErrSource):
		return inner(err)
	case !errors.As(err, &answered):
		return fmt.Errorf("%w: its token endpoint does not answer as one", identity.ErrSource)
	}
	// What the provider says goes to the log, and it knows all of these.
	description := answered.ErrorDescription
	for _, secret := range append(secrets, s.settings.ClientSecret) {
		if secret != "" {
			description = strings.ReplaceAll(description, secret, "[secret]")
		}
	}
	text := "no reason given"
	if answered.ErrorCode != "" {
		text = clean(answered.ErrorCode, 60)
	}
	if description = clean(description, 200); description != "" {
		text += " (" + description + ")"
	}
	sentinel := identity.ErrSource
	if answered.ErrorCode == "invalid_grant" { // RFC 6749, 5.2: the code is used, too old or not ours
		sentinel = identity.ErrSignIn
	}
	return fmt.Errorf("%w: its token endpoint answers %d: %s", sentinel, answered.Response.StatusCode, text)
}

// verified returns the claims of the ID token that came with an access token, once
// everything about it holds (OpenID Connect Core 1.0, 3.1.3.7).
func (s *Source) verified(ctx context.Context, p *provider, token *oauth2.Token, nonce string) (*claims, error) {
	raw, _ := token.Extra("id_token").(string)
	switch {
	case raw == "":
		return nil, fmt.Errorf("%w: it gave no ID token", identity.ErrSource)
	case len(raw) > longestToken:
		return nil, fmt.Errorf("%w: its ID token is longer than 64 KiB", identity.ErrSource)
	}
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%w: ID token: %s", identity.ErrSignIn, fmt.Sprintf(format, args...))
	}
	now := s.now()
	keys := witness{keys: p.keys}
	verified, err := oidc.NewVerifier(p.Issuer, &keys, &oidc.Config{
		ClientID:             s.settings.ClientID,
		SupportedSigningAlgs: p.Algorithms,
		Now:                  func() time.Time { return now.Add(-skew) },
	}).Verify(ctx, raw)
	switch {
	case keys.err != nil && !errors.Is(keys.err, errUnsigned):
		return nil, keys.err
	case err != nil:
		return nil, wrong("%s", clean(strings.TrimPrefix(err.Error(), "oidc: "), 200))
	}
	var c claims
	if err := c.read(verified.Claims); err != nil {
		return nil, wrong("%v", err)
	}
	switch {
	case subtle.ConstantTimeCompare([]byte(verified.Nonce), []byte(nonce)) != 1:
		return nil, wrong("it answers another sign-in: the nonce is not ours")
	case verified.Subject == "" || len(verified.Subject) > 255:
		return nil, wrong("sub is empty or longer than 255 bytes")
	case len(verified.Audience) > 1 && c.text("azp") == "", c.text("azp") != "" && c.text("azp") != s.settings.ClientID:
		return nil, wrong("it was given to another client: azp is %q", clean(c.text("azp"), 60))
	case verified.IssuedAt.Unix() <= 0:
		return nil, wrong("it does not say when it was issued")
	case verified.IssuedAt.After(now.Add(skew)):
		return nil, wrong("it was issued in the future: one of the two clocks is wrong")
	}
	if notBefore, ok := c.time("nbf"); ok && notBefore.After(now.Add(skew)) {
		return nil, wrong("it is not valid yet: one of the two clocks is wrong")
	}
	if verified.AccessTokenHash != "" {
		if err := verified.VerifyAccessToken(token.AccessToken); err != nil {
			return nil, wrong("it belongs to another access token")
		}
	}
	if s.settings.MaxAge != nil {
		signedIn, ok := c.time("auth_time")
		if !ok || now.Sub(signedIn) > time.Duration(*s.settings.MaxAge)*time.Second+skew {
			return nil, wrong("the person signed in to the provider too long ago, or it does not say when")
		}
	}
	if len(s.settings.ACR) > 0 && !slices.Contains(s.settings.ACR, c.text("acr")) {
		return nil, fmt.Errorf("%w: the person signed in there by %q, which is not enough", identity.ErrDenied, clean(c.text("acr"), 60))
	}
	return &c, nil
}

// witness remembers why a signature did not hold, which go-oidc says in words only.
type witness struct {
	keys *keySet
	err  error
}

// VerifySignature implements [oidc.KeySet].
func (w *witness) VerifySignature(ctx context.Context, jwt string) (payload []byte, err error) {
	payload, w.err = w.keys.VerifySignature(ctx, jwt)
	return payload, w.err
}

// userInfo asks the provider for claims with an access token (OpenID Connect Core 1.0,
// 5.3).
func (s *Source) userInfo(ctx context.Context, p *provider, token *oauth2.Token) (*claims, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.UserInfo, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: its userinfo_endpoint is no URL", identity.ErrSource)
	}
	request.Header.Set("Authorization", "Bearer "+token.AccessToken)
	request.Header.Set("Accept", "application/json")
	resp, err := s.client.Do(request)
	if err != nil {
		return nil, inner(err)
	}
	defer resp.Body.Close()
	var c claims
	if err := c.readFrom(resp.Body); err != nil {
		return nil, fmt.Errorf("%w: what userinfo says %w", identity.ErrSource, err)
	}
	return &c, nil
}

// Logout implements [identity.RedirectSource] (OpenID Connect RP-Initiated Logout 1.0, 2).
func (s *Source) Logout(ctx context.Context, back string) (to string, err error) {
	p, err := s.providers.get(ctx)
	if err != nil {
		return "", fmt.Errorf("logout: %w", err)
	}
	if p.EndSession == "" {
		return "", nil
	}
	u, err := url.Parse(p.EndSession)
	if err != nil {
		return "", fmt.Errorf("logout: %w: its end_session_endpoint is no URL", identity.ErrSource)
	}
	query := u.Query()
	query.Set("client_id", s.settings.ClientID)
	if back != "" {
		query.Set("post_logout_redirect_uri", back)
	}
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// inner is err without what net/http says around it: a URL with all that is in it.
func inner(err error) error {
	var outer *url.Error
	if errors.As(err, &outer) {
		return outer.Err
	}
	return err
}

// clean makes one short line of what others say.
func clean(text string, most int) string {
	return cut(strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "�"), func(r rune) bool {
		return r == ' ' || !strconv.IsPrint(r)
	}), " "), most)
}

// cut returns the first bytes of text, and says so if there are more.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
