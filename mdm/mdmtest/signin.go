package mdmtest

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// OAuthError is an error of the authorization or token endpoint (RFC 6749, 4.1.2.1
// and 5.2).
type OAuthError struct {
	Status      int // of the token endpoint; 0 for the authorization's
	Code        string
	Description string
}

func (e *OAuthError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("OAuth: %s %s", e.Code, e.Description))
}

// SignInRequest is a sign-in that waits for its person.
type SignInRequest struct {
	Challenge Challenge
	URL       string // what the web session opens
	State     string // of apple-oauth2
	Verifier  string // of PKCE, empty without it
}

// SignIn answers a challenge: the person signs in, and what comes back becomes a
// token. It does not become the device's: [Device.SetToken].
func (d *Device) SignIn(ctx context.Context, c Challenge) (Token, error) {
	r, err := d.PrepareSignIn(c)
	if err != nil {
		return Token{}, err
	}
	back, err := d.Visit(ctx, r)
	if err == nil && d.twice(StepSignIn) {
		back, err = d.Visit(ctx, r)
	}
	if err != nil {
		return Token{}, err
	}
	return d.FinishSignIn(ctx, r, back)
}

// PrepareSignIn makes the URL that a challenge leads to.
func (d *Device) PrepareSignIn(c Challenge) (*SignInRequest, error) {
	account := d.opts.Account
	if account == nil {
		return nil, ErrNoAccount
	}
	r := &SignInRequest{Challenge: c}
	if c.Method == MethodWeb {
		r.URL = withQuery(c.URL, userIdentifier(account.Identifier))
		return r, nil
	}
	var err error
	if r.State, err = newUUID(d.opts.Rand); err != nil {
		return nil, err
	}
	query := "response_type=code&client_id=" + queryValue(c.ClientID) + "&redirect_uri=" + queryValue(c.RedirectURL) +
		"&state=" + r.State + "&login_hint=" + queryValue(account.Identifier)
	if account.Scope {
		query += "&scope=" + queryValue(c.Scope)
	}
	if account.PKCE {
		secret, err := readRandom(d.opts.Rand, 32)
		if err != nil {
			return nil, err
		}
		r.Verifier = base64.RawURLEncoding.EncodeToString(secret)
		sum := sha256.Sum256([]byte(r.Verifier))
		query += "&code_challenge=" + base64.RawURLEncoding.EncodeToString(sum[:]) + "&code_challenge_method=S256"
	}
	r.URL = withQuery(c.AuthorizationURL, query)
	return r, nil
}

// Visit lets the person sign in.
func (d *Device) Visit(ctx context.Context, r *SignInRequest) (Redirect, error) {
	if d.opts.Account == nil || d.opts.Account.Person == nil {
		return Redirect{}, errors.New("sign-in: Options.Account has no Person")
	}
	client, err := d.clientFor(nil)
	if err != nil {
		return Redirect{}, err
	}
	back, err := d.opts.Account.Person.SignIn(ctx, WebSession{
		URL: r.URL, UserAgent: d.opts.Model.hardware().browser, Transport: client.Transport,
	})
	if err != nil {
		return Redirect{}, fmt.Errorf("sign-in: %w", err)
	}
	return back, nil
}

// FinishSignIn takes the token from the redirect that ended a web session, or gets it
// for the code that is there.
func (d *Device) FinishSignIn(ctx context.Context, r *SignInRequest, back Redirect) (Token, error) {
	token, err := d.finishSignIn(ctx, r, back)
	if err != nil {
		return Token{}, fmt.Errorf("sign-in: %w", err)
	}
	return token, nil
}

func (d *Device) finishSignIn(ctx context.Context, r *SignInRequest, back Redirect) (Token, error) {
	if back.Status != 0 && back.Status != http.StatusPermanentRedirect {
		return Token{}, fmt.Errorf("the session ends with %d, want 308", back.Status)
	}
	address, query, _ := strings.Cut(back.Location, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return Token{}, fmt.Errorf("the session's result: %w", err)
	}
	one := func(name string) string {
		if len(values[name]) != 1 {
			return ""
		}
		return values.Get(name)
	}
	if r.Challenge.Method == MethodWeb {
		if want := signInScheme + "://authentication-results"; address != want {
			return Token{}, fmt.Errorf("the session ends at %s, want %s", address, want)
		}
		token := Token{Access: one("access-token"), Challenge: r.Challenge}
		return token, checkToken(token.Access)
	}
	switch {
	case address != r.Challenge.RedirectURL:
		return Token{}, fmt.Errorf("the session ends at %s, want %s", address, r.Challenge.RedirectURL)
	case one("state") != r.State:
		return Token{}, errors.New("the session's result has another state")
	case values.Has("error"):
		return Token{}, &OAuthError{Code: one("error"), Description: one("error_description")}
	case one("code") == "":
		return Token{}, errors.New("the session's result has no code")
	}
	return d.Exchange(ctx, r, one("code"))
}

// Exchange gets the token for a code.
func (d *Device) Exchange(ctx context.Context, r *SignInRequest, code string) (Token, error) {
	form := url.Values{
		"grant_type": {"authorization_code"}, "code": {code},
		"redirect_uri": {r.Challenge.RedirectURL}, "client_id": {r.Challenge.ClientID},
	}
	if r.Verifier != "" {
		form.Set("code_verifier", r.Verifier)
	}
	return d.fetchToken(ctx, StepToken, r.Challenge, form)
}

// Refresh replaces the device's token by means of its refresh token, without the
// person. When the server refuses, an [*OAuthError], the refresh token is gone.
func (d *Device) Refresh(ctx context.Context) (Token, error) {
	old := d.Token()
	if old.Refresh == "" || old.Challenge.Method != MethodOAuth2 {
		return Token{}, errors.New("refresh: the device has no refresh token")
	}
	token, err := d.fetchToken(ctx, StepRefresh, old.Challenge, url.Values{
		"grant_type": {"refresh_token"}, "refresh_token": {old.Refresh}, "client_id": {old.Challenge.ClientID},
	})
	var refused *OAuthError
	switch {
	case errors.As(err, &refused):
		old.Refresh = ""
		d.SetToken(old)
		return Token{}, fmt.Errorf("refresh: %w", err)
	case err != nil:
		return Token{}, fmt.Errorf("refresh: %w", err)
	}
	if token.Refresh == "" {
		token.Refresh = old.Refresh // RFC 6749, 6
	}
	d.SetToken(token)
	return token, nil
}

func (d *Device) fetchToken(ctx context.Context, step Step, c Challenge, form url.Values) (Token, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return Token{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", managementAgent)
	reply, err := d.exchange(req, step)
	if err != nil {
		return Token{}, err
	}
	if reply.Status != http.StatusOK {
		return Token{}, oauthError(reply)
	}
	if kind := mediaType(reply.Header); kind != "application/json" {
		return Token{}, fmt.Errorf("token: Content-Type %q, want application/json", kind)
	}
	answer, err := decodeJSON(reply.Body)
	if err != nil {
		return Token{}, fmt.Errorf("token: %w", err)
	}
	f := fields{dict: answer}
	token := Token{Access: f.required("access_token"), Refresh: f.string("refresh_token"), Challenge: c}
	kind, seconds := f.required("token_type"), field[float64](&f, "expires_in")
	switch {
	case f.err != nil:
		return Token{}, fmt.Errorf("token: %w", f.err)
	case !strings.EqualFold(kind, "Bearer"):
		return Token{}, fmt.Errorf("token: token_type %q", kind)
	case answer["expires_in"] != nil && seconds <= 0:
		return Token{}, fmt.Errorf("token: expires_in %v", seconds)
	case seconds > 0:
		token.Expires = d.opts.Now().Add(time.Duration(seconds) * time.Second)
	}
	return token, checkToken(token.Access)
}

// oauthError is an OAuthError if the answer has its form.
func oauthError(reply *Reply) error {
	if mediaType(reply.Header) == "application/json" && reply.Status < 500 {
		if answer, err := decodeJSON(reply.Body); err == nil {
			f := fields{dict: answer}
			e := &OAuthError{Status: reply.Status, Code: f.required("error"), Description: f.string("error_description")}
			if f.err == nil {
				return e
			}
		}
	}
	return &HTTPError{*reply}
}
