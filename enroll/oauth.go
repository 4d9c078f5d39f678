package enroll

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// AuthorizationRequest is what a device asks of the authorization endpoint (RFC 6749, 4.1.1;
// PROTOCOL 2.5).
type AuthorizationRequest struct {
	RedirectURI   string
	State         string
	LoginHint     string // who the person typed to be
	CodeChallenge string // of PKCE, method S256; empty: none
}

// ErrAuthorizationClient means that an authorization request is not by a device that this
// server has challenged: nobody may be redirected by it.
var ErrAuthorizationClient = errors.New("the authorization request names another client or another place to return to")

// OAuthError is an error of OAuth 2 that the device is told (RFC 6749, 4.1.2.1 and 5.2).
type OAuthError struct {
	Code        string // "invalid_grant"
	Description string // for developers; ASCII without quotes
	// Location is where the device waits for it; empty at the token endpoint.
	Location string
	Err      error // for the log
}

func (e *OAuthError) Error() string {
	if e.Err != nil {
		return e.Code + ": " + e.Err.Error()
	}
	return e.Code + ": " + e.Description
}

// Unwrap returns what led to it.
func (e *OAuthError) Unwrap() error { return e.Err }

// pkceText is what RFC 7636 lets challenges and verifiers consist of.
var pkceText = regexp.MustCompile(`^[A-Za-z0-9._~-]{43,128}$`)

const maxState = 500

// ParseAuthorizationRequest reads the query of an authorization request. A parameter that is
// there twice is an error (RFC 6749, 3.1). Its errors wrap ErrAuthorizationClient, or are an
// *OAuthError with a Location.
func ParseAuthorizationRequest(query url.Values) (AuthorizationRequest, error) {
	for _, name := range []string{"client_id", "redirect_uri"} {
		if len(query[name]) != 1 {
			return AuthorizationRequest{}, fmt.Errorf("%w: %s must be there once", ErrAuthorizationClient, name)
		}
	}
	switch {
	case query.Get("client_id") != OAuthClientID:
		return AuthorizationRequest{}, fmt.Errorf("%w: client_id", ErrAuthorizationClient)
	case query.Get("redirect_uri") != OAuthRedirectURI: // exactly: no normal form, no prefix
		return AuthorizationRequest{}, fmt.Errorf("%w: redirect_uri", ErrAuthorizationClient)
	}
	r := AuthorizationRequest{
		RedirectURI: OAuthRedirectURI, State: query.Get("state"), LoginHint: query.Get("login_hint"), CodeChallenge: query.Get("code_challenge"),
	}
	refuse := func(code, description string) (AuthorizationRequest, error) {
		values := url.Values{"error": {code}, "error_description": {description}}
		if r.State != "" && len(r.State) <= maxState {
			values.Set("state", r.State)
		}
		return AuthorizationRequest{}, &OAuthError{Code: code, Description: description, Location: handBack(OAuthRedirectURI, values)}
	}
	for _, name := range []string{"response_type", "state", "scope", "login_hint", "code_challenge", "code_challenge_method"} {
		if len(query[name]) > 1 {
			return refuse("invalid_request", name+" is there more than once")
		}
	}
	method := query.Get("code_challenge_method")
	switch scope := query.Get("scope"); {
	case query.Get("response_type") == "":
		return refuse("invalid_request", "response_type is missing")
	case query.Get("response_type") != "code":
		return refuse("unsupported_response_type", "response_type must be code")
	case len(r.State) > maxState:
		return refuse("invalid_request", "state is too long")
	case scope != "" && scope != OAuthScope:
		return refuse("invalid_scope", "scope must be "+OAuthScope)
	case r.CodeChallenge == "" && method != "":
		return refuse("invalid_request", "code_challenge is missing")
	case r.CodeChallenge != "" && method != "S256": // plain, and its absence, protect nothing
		return refuse("invalid_request", "code_challenge_method must be S256")
	case r.CodeChallenge != "" && !pkceText.MatchString(r.CodeChallenge):
		return refuse("invalid_request", "code_challenge is not one of RFC 7636")
	}
	return r, nil
}

// TokenRequest is what a device asks of the token endpoint (RFC 6749, 4.1.3 and 6).
type TokenRequest struct {
	GrantType    string
	Code         string
	RedirectURI  string
	CodeVerifier string
	RefreshToken string
	ClientID     string
	Scope        string
}

// TokenResponse is the answer (RFC 6749, 5.1).
type TokenResponse struct {
	TokenType    string `json:"token_type"`
	Scope        string `json:"scope"`
	AccessToken  string `json:"access_token"`
	ExpiresIn    int64  `json:"expires_in"` // seconds
	RefreshToken string `json:"refresh_token,omitempty"`
}

// IssueTokens answers a token request. A code is good once: when it comes again before the
// device has enrolled, what it was exchanged for is revoked, since nobody can tell who has it
// (RFC 6749, 4.1.2). A refresh token is good until what came in its place was used. Its error
// is an *OAuthError or the store's.
func (s *Service) IssueTokens(ctx context.Context, r TokenRequest) (TokenResponse, error) {
	var answer TokenResponse
	var a authorization
	var refused *OAuthError
	err := s.db.Update(ctx, func(tx storage.Tx) (err error) {
		answer, a, refused = TokenResponse{}, authorization{}, nil
		c, err := getAccountDriven(tx)
		if err != nil {
			return err
		}
		switch {
		case r.ClientID != "" && r.ClientID != OAuthClientID, r.ClientID == "" && r.GrantType == "authorization_code":
			refused = &OAuthError{Code: "invalid_client", Description: "client_id must be " + OAuthClientID}
		case r.Scope != "" && r.Scope != OAuthScope:
			refused = &OAuthError{Code: "invalid_scope", Description: "scope must be " + OAuthScope}
		case r.GrantType == "authorization_code":
			a, refused, err = s.redeemCode(tx, c, r)
		case r.GrantType == "refresh_token":
			a, refused, err = s.refresh(tx, c, r)
		case r.GrantType == "":
			refused = &OAuthError{Code: "invalid_request", Description: "grant_type is missing"}
		default:
			refused = &OAuthError{Code: "unsupported_grant_type", Description: "grant_type must be authorization_code or refresh_token"}
		}
		if err != nil || refused != nil {
			return err
		}
		answer.AccessToken, answer.RefreshToken = a.issue(c, s.now())
		answer.TokenType, answer.Scope, answer.ExpiresIn = "Bearer", OAuthScope, int64(c.AccessLife.Seconds())
		return authorizations.Put(tx, a)
	})
	switch {
	case err != nil:
		return TokenResponse{}, fmt.Errorf("issue access token: %w", err)
	case refused != nil:
		return TokenResponse{}, refused
	}
	s.log.InfoContext(ctx, "access token issued", "grant", r.GrantType, "attempt", a.AttemptID, "device", a.DeviceID)
	return answer, nil
}

// badGrant is the one answer to all that may be wrong with a code or a refresh token.
func badGrant(why string) *OAuthError {
	return &OAuthError{Code: "invalid_grant", Description: "the code or refresh token is not valid", Err: errors.New(why)}
}

// byGrant returns the authorization that a code or refresh token belongs to; zero if none.
func byGrant(tx storage.Tx, token string) (authorization, error) {
	a, err := authorizations.Get(tx, authorizationOf(token))
	if errors.Is(err, storage.ErrNotFound) || err == nil && a.Method != MethodOAuth2 {
		return authorization{}, nil
	}
	return a, err
}

func (s *Service) redeemCode(tx storage.Tx, c AccountDriven, r TokenRequest) (authorization, *OAuthError, error) {
	if r.Code == "" || r.RedirectURI == "" {
		return authorization{}, &OAuthError{Code: "invalid_request", Description: "code and redirect_uri are required"}, nil
	}
	a, err := byGrant(tx, r.Code)
	if err != nil {
		return a, nil, err
	}
	now := s.now()
	switch {
	case a.ID == "" || a.Code == nil || a.Code.Hash != hashSecret(r.Code):
		return a, badGrant("unknown code"), nil
	case !a.Code.UsedAt.IsZero():
		if a.DeviceID == "" && a.RevokedAt.IsZero() {
			a.RevokedAt = now.UTC()
			err = authorizations.Put(tx, a)
		}
		return a, badGrant("the code was used before"), err
	case !now.Before(a.Code.ExpiresAt):
		return a, badGrant("the code has expired"), nil
	case r.RedirectURI != a.Code.RedirectURI:
		return a, badGrant("redirect_uri is another one"), nil
	case a.Code.Challenge == "" && r.CodeVerifier != "", a.Code.Challenge != "" && challengeOf(r.CodeVerifier) != a.Code.Challenge:
		return a, badGrant("code_verifier is wrong"), nil
	}
	if refused, err := s.grantStands(tx, c, a); refused != nil || err != nil {
		return a, refused, err
	}
	code := *a.Code
	code.UsedAt = now.UTC()
	a.Code = &code
	return a, nil, nil
}

func (s *Service) refresh(tx storage.Tx, c AccountDriven, r TokenRequest) (authorization, *OAuthError, error) {
	if r.RefreshToken == "" {
		return authorization{}, &OAuthError{Code: "invalid_request", Description: "refresh_token is required"}, nil
	}
	a, err := byGrant(tx, r.RefreshToken)
	if err != nil {
		return a, nil, err
	}
	pair := a.find(r.RefreshToken, refreshHash)
	if a.ID == "" || pair < 0 {
		return a, badGrant("unknown refresh token"), nil
	}
	if refused, err := s.grantStands(tx, c, a); refused != nil || err != nil {
		return a, refused, err
	}
	a.Tokens = a.Tokens[pair:] // it has this one, so it needs none from before
	a.UsedAt = s.now().UTC()
	return a, nil, nil
}

// grantStands says whether the person of an authorization may still have what it stands for.
func (s *Service) grantStands(tx storage.Tx, c AccountDriven, a authorization) (*OAuthError, error) {
	switch err := s.lapsed(tx, a, c); {
	case isLapsed(err):
		return badGrant(err.Error()), nil
	case err != nil:
		return nil, err
	}
	u, err := identity.GetUser(tx, a.UserID)
	if errors.Is(err, storage.ErrNotFound) {
		return badGrant("the user is gone"), nil
	}
	if err != nil {
		return nil, err
	}
	if a.DeviceID != "" { // who may not enrol any more keeps what is enrolled
		if u.Disabled {
			return badGrant(ErrUserDisabled.Error()), nil
		}
		return nil, nil
	}
	switch err := mayEnrollBy(tx, u.Login(), a.Mode); {
	case userGone(err):
		return badGrant(err.Error()), nil
	case err != nil:
		return nil, err
	}
	return nil, nil
}
