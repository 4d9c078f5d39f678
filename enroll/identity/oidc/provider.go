package oidc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

const (
	wellKnown = "/.well-known/openid-configuration"

	// providerLife is how long a provider's documents are good. Keys that it has withdrawn
	// are not known for longer either.
	providerLife = time.Hour
)

// algorithms are those that an ID token may be signed by: not "none", and none whose key
// is the client secret.
var algorithms = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512,
	oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA,
}

// provider is what a provider says of itself (OpenID Connect Discovery 1.0, 3).
type provider struct {
	Issuer               string   `json:"issuer"`
	Authorization        string   `json:"authorization_endpoint"`
	Token                string   `json:"token_endpoint"`
	Keys                 string   `json:"jwks_uri"`
	UserInfo             string   `json:"userinfo_endpoint"`
	EndSession           string   `json:"end_session_endpoint"`
	Authentication       []string `json:"token_endpoint_auth_methods_supported"`
	Algorithms           []string `json:"id_token_signing_alg_values_supported"`
	Prompts              []string `json:"prompt_values_supported"`                        // Initiating User Registration via OpenID Connect 1.0, 4
	IssuerInItsResponses bool     `json:"authorization_response_iss_parameter_supported"` // RFC 9207

	style oauth2.AuthStyle
	keys  *keySet
	until time.Time // then it is asked again
}

// providers asks a provider what it is, and remembers the answer for a while.
type providers struct {
	settings settings
	client   *http.Client
	now      func() time.Time

	asking singleflight.Group

	mu    sync.Mutex
	known *provider
}

// get returns what the provider says of itself. Its errors wrap [identity.ErrSource].
func (p *providers) get(ctx context.Context) (*provider, error) {
	p.mu.Lock()
	known := p.known
	p.mu.Unlock()
	if known != nil && p.now().Before(known.until) {
		return known, nil
	}
	// It goes on if who asked first gives up: others may wait for it.
	detached := context.WithoutCancel(ctx)
	answer := p.asking.DoChan("", func() (any, error) {
		found, err := p.discover(detached)
		if err == nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.known = found
		}
		return found, err
	})
	select {
	case a := <-answer:
		found, _ := a.Val.(*provider)
		return found, a.Err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w while waiting for its documents", identity.ErrSource, ctx.Err())
	}
}

func (p *providers) discover(ctx context.Context) (*provider, error) {
	ctx = oidc.ClientContext(ctx, p.client)
	found, err := oidc.NewProvider(ctx, p.settings.Issuer)
	var mismatch *oidc.IssuerMismatchError
	switch {
	case errors.As(err, &mismatch):
		return nil, fmt.Errorf("%w: its name for itself is %s, so that must be the setting issuer", identity.ErrSource, cut(mismatch.Discovered, 200))
	case errors.Is(err, identity.ErrSource):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: its document at %s can't be read", identity.ErrSource, wellKnown)
	}
	answer := &provider{until: p.now().Add(providerLife)}
	if err := found.Claims(answer); err != nil {
		return nil, fmt.Errorf("%w: its document at %s can't be read", identity.ErrSource, wellKnown)
	}
	for _, endpoint := range []struct {
		name, url string
		required  bool
	}{
		{"authorization_endpoint", answer.Authorization, true},
		{"token_endpoint", answer.Token, true},
		{"jwks_uri", answer.Keys, true},
		{"userinfo_endpoint", answer.UserInfo, p.settings.UserInfo},
		{"end_session_endpoint", answer.EndSession, false},
	} {
		if endpoint.url == "" && !endpoint.required {
			continue
		}
		if !p.settings.goodURL(endpoint.url) {
			return nil, fmt.Errorf("%w: its document at %s has no good %s", identity.ErrSource, wellKnown, endpoint.name)
		}
	}
	if answer.style, err = p.settings.style(answer.Authentication); err != nil {
		return nil, err
	}
	answer.Algorithms = slices.DeleteFunc(answer.Algorithms, func(alg string) bool { return !slices.Contains(algorithms, alg) })
	answer.keys = newKeySet(answer.Keys, p.client, p.now)
	return answer, nil
}

// goodURL reports whether an endpoint can be used: as safe as the issuer is.
func (s *settings) goodURL(endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && s.AllowPrivate && isLoopback(u.Hostname())
}

// style is how the token endpoint learns who we are (OpenID Connect Core 1.0, 9). It is
// settled before, as a code is good for one try.
func (s *settings) style(supported []string) (oauth2.AuthStyle, error) {
	switch {
	case s.ClientSecret == "":
		return oauth2.AuthStyleInParams, nil // only client_id
	case s.ClientAuthentication == "post":
		return oauth2.AuthStyleInParams, nil
	case s.ClientAuthentication == "basic", len(supported) == 0, slices.Contains(supported, "client_secret_basic"):
		return oauth2.AuthStyleInHeader, nil
	case slices.Contains(supported, "client_secret_post"):
		return oauth2.AuthStyleInParams, nil
	}
	return 0, fmt.Errorf("%w: it takes no client secret, neither as basic nor as post", identity.ErrSource)
}
