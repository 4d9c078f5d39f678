// Package oidc knows people by an OpenID Connect provider: Entra ID, Google, Okta,
// Keycloak and others. A browser is sent there, and comes back with a code that is worth
// an ID token (OpenID Connect Core 1.0, 3.1, with PKCE, RFC 7636).
//
// It knows nothing of users of this server, of pages, or of where settings are kept: it
// is a kind of source for package identity. Neither its errors nor what it hands out
// hold a code, a token or a secret.
package oidc

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

// Kind makes sources of OpenID Connect providers.
type Kind struct {
	now func() time.Time
}

// New returns the Kind. now is what tokens' times are compared with.
func New(now func() time.Time) (*Kind, error) {
	if now == nil {
		return nil, errors.New("oidc: a clock is required")
	}
	return &Kind{now: now}, nil
}

var (
	_ identity.SourceKind = (*Kind)(nil)
	_ identity.Destined   = (*Kind)(nil)
	_ identity.Distinct   = (*Kind)(nil)
)

// Name implements [identity.SourceKind].
func (*Kind) Name() string { return "oidc" }

// Secrets implements [identity.SourceKind].
func (*Kind) Secrets() []string { return []string{"client_secret"} }

// Destinations implements [identity.Destined].
func (*Kind) Destinations() []string { return []string{"issuer", "ca_certificates"} }

// Namespace implements [identity.Distinct]: a sub is one person's at one issuer (OpenID
// Connect Core 1.0, 5.7).
func (*Kind) Namespace() []string { return []string{"issuer"} }

// Check implements [identity.SourceKind]. It asks nobody: whether the provider is there
// shows when somebody signs in.
func (*Kind) Check(raw json.RawMessage) error {
	_, err := parseSettings(raw)
	return err
}

// Open implements [identity.SourceKind]. The source is an [identity.RedirectSource].
func (k *Kind) Open(raw json.RawMessage) (any, error) {
	s, err := parseSettings(raw)
	if err != nil {
		return nil, err
	}
	return newSource(s, k.now)
}

// Mapping implements [identity.SourceKind]: the standard claims (OpenID Connect Core
// 1.0, 5.1).
func (*Kind) Mapping() identity.Mapping {
	return identity.Mapping{Username: "preferred_username", Email: "email", FullName: "name"}
}
