package oidc

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// settings are what an operator says of a provider, as JSON.
type settings struct {
	// Issuer is the provider's name for itself, exactly: below it are its documents
	// (OpenID Connect Discovery 1.0, 4).
	Issuer string `json:"issuer"`

	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"` // empty: a public client

	// ClientAuthentication is how the secret is shown: "basic", "post" or "none"; empty:
	// as the provider says that it wants it.
	ClientAuthentication string `json:"client_authentication"`

	Scopes []string `json:"scopes"`

	// GroupsClaim is where a person's groups are; a dot goes into an object
	// ("realm_access.roles"). Empty: groups are not read.
	GroupsClaim string `json:"groups_claim"`

	// ExtraAuthorizationParameters go to the provider with the browser: {"hd": "example.com"}.
	ExtraAuthorizationParameters map[string]string `json:"extra_authorization_parameters"`

	// MaxAge is how many seconds ago the person may have signed in to the provider; 0:
	// now; absent: as long as the provider likes.
	MaxAge *int64 `json:"max_age"`

	// Prompt is what the provider asks in any case: "login", "select_account", "consent".
	Prompt string `json:"prompt"`

	// ACR are the ways to sign in of which one is required (acr_values).
	ACR []string `json:"acr"`

	// RequiredClaims must have these values: {"tid": "…"}, {"hd": "example.com"}.
	RequiredClaims map[string]string `json:"required_claims"`

	// UserInfo has the provider asked for claims that its ID tokens lack, too.
	UserInfo bool `json:"userinfo"`

	// TrustEmail takes an e-mail address of which the provider does not say whether it is
	// verified as if it were.
	TrustEmail bool `json:"trust_email"`

	// AllowPrivate lets the provider be at a private address, or on this machine.
	AllowPrivate bool `json:"allow_private"`

	// CACertificates are trusted beside the system's: PEM.
	CACertificates string `json:"ca_certificates"`

	roots *x509.CertPool // nil: the system's
}

// Bounds of settings.
const (
	mostItems   = 20      // of a list
	longestText = 500     // of a value
	longestPEM  = 1 << 16 // of all certificates
)

// reserved are parameters of an authorization request that are not the operator's to set.
var reserved = []string{
	"client_id", "client_secret", "redirect_uri", "response_type", "response_mode", "scope", "state", "nonce",
	"code_challenge", "code_challenge_method", "request", "request_uri", "registration", "claims",
	"login_hint", "id_token_hint", "max_age", "prompt", "acr_values",
}

// parseSettings reads settings and says what is wrong with them.
func parseSettings(raw json.RawMessage) (settings, error) {
	s := settings{Scopes: []string{"openid", "profile", "email"}, GroupsClaim: "groups"}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil || object == nil {
		return settings{}, &identity.FieldError{Field: "settings", Reason: "must be an object"}
	}
	// Not decoded as a whole: encoding/json takes "Client_Secret" for client_secret, which
	// would not be kept as a secret.
	fields := reflect.ValueOf(&s).Elem()
	known := map[string]reflect.Value{}
	for i := range fields.NumField() {
		if name := fields.Type().Field(i).Tag.Get("json"); name != "" {
			known[name] = fields.Field(i)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		field, ok := known[name]
		if !ok {
			return settings{}, &identity.FieldError{Field: name, Reason: "is no setting of OpenID Connect"}
		}
		if string(object[name]) == "null" {
			continue // as if it were not there
		}
		if err := json.Unmarshal(object[name], field.Addr().Interface()); err != nil {
			return settings{}, &identity.FieldError{Field: name, Reason: "must be " + shape(field.Type())}
		}
	}
	if err := s.check(); err != nil {
		return settings{}, err
	}
	return s, nil
}

// shape says what JSON a field takes.
func shape(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list of texts"
	case reflect.Map:
		return "an object whose values are texts"
	case reflect.Pointer:
		return "a number of seconds"
	}
	return "a text"
}

func (s *settings) check() error {
	wrong := func(field, reason string, args ...any) error {
		return &identity.FieldError{Field: field, Reason: fmt.Sprintf(reason, args...)}
	}
	issuer, err := url.Parse(s.Issuer)
	switch {
	case s.Issuer == "":
		return wrong("issuer", "is required: the provider's URL, such as https://login.example.com")
	case err != nil || issuer.Host == "" || len(s.Issuer) > longestText || strings.ContainsFunc(s.Issuer, isBlank):
		return wrong("issuer", "must be a URL such as https://login.example.com")
	case issuer.User != nil || issuer.RawQuery != "" || issuer.Fragment != "" || strings.HasSuffix(s.Issuer, "?") || strings.HasSuffix(s.Issuer, "#"):
		return wrong("issuer", "must have no user, query or fragment")
	case strings.HasSuffix(strings.TrimSuffix(issuer.Path, "/"), wellKnown):
		return wrong("issuer", "must end before %s", wellKnown)
	case issuer.Scheme == "https":
	case issuer.Scheme != "http":
		return wrong("issuer", "must begin with https://")
	case !s.AllowPrivate || !isLoopback(issuer.Hostname()):
		return wrong("issuer", "must begin with https://: without it, passwords and tokens are for everybody to read")
	}

	for _, text := range []struct{ field, value string }{
		{"client_id", s.ClientID}, {"client_secret", s.ClientSecret}, {"groups_claim", s.GroupsClaim},
	} {
		switch {
		case len(text.value) > longestText:
			return wrong(text.field, "must be at most %d bytes", longestText)
		case strings.ContainsFunc(text.value, isControl):
			return wrong(text.field, "must have no control characters")
		case text.value != strings.TrimSpace(text.value):
			return wrong(text.field, "must not begin or end with a space")
		}
	}
	if s.ClientID == "" {
		return wrong("client_id", "is required: the provider gives it to those who are registered")
	}
	switch s.ClientAuthentication {
	case "":
	case "basic", "post":
		if s.ClientSecret == "" {
			return wrong("client_secret", "is required where client_authentication is %s", s.ClientAuthentication)
		}
	case "none":
		if s.ClientSecret != "" {
			return wrong("client_secret", "must be empty where client_authentication is none")
		}
	default:
		return wrong("client_authentication", "must be basic, post or none")
	}

	for _, list := range []struct {
		field  string
		values []string
	}{{"scopes", s.Scopes}, {"acr", s.ACR}} {
		if len(list.values) > mostItems {
			return wrong(list.field, "must be at most %d", mostItems)
		}
		for _, value := range list.values {
			if !isScope(value) {
				return wrong(list.field, "must be words without spaces, quotes or backslashes: %q is none", cut(value, 40))
			}
		}
	}
	if !slices.Contains(s.Scopes, "openid") {
		return wrong("scopes", "must have openid among them")
	}
	if slices.Contains(s.Scopes, "offline_access") {
		return wrong("scopes", "must not have offline_access: nothing is done at the provider later")
	}

	if len(s.ExtraAuthorizationParameters) > mostItems {
		return wrong("extra_authorization_parameters", "must be at most %d", mostItems)
	}
	for _, name := range slices.Sorted(maps.Keys(s.ExtraAuthorizationParameters)) {
		value := s.ExtraAuthorizationParameters[name]
		switch {
		case slices.Contains(reserved, name):
			return wrong("extra_authorization_parameters", "must not have %s: it is set otherwise", name)
		case !isScope(name) || len(value) > longestText || strings.ContainsFunc(value, isControl):
			return wrong("extra_authorization_parameters", "can't have %q with that value", cut(name, 40))
		}
	}
	if len(s.RequiredClaims) > mostItems {
		return wrong("required_claims", "must be at most %d", mostItems)
	}
	for _, name := range slices.Sorted(maps.Keys(s.RequiredClaims)) {
		if name == "" || s.RequiredClaims[name] == "" {
			return wrong("required_claims", "must be names and values that are not empty")
		}
	}
	if s.MaxAge != nil && (*s.MaxAge < 0 || *s.MaxAge > 366*24*60*60) {
		return wrong("max_age", "must be between 0 and a year of seconds")
	}
	for word := range strings.FieldsSeq(s.Prompt) {
		if !slices.Contains([]string{"login", "select_account", "consent"}, word) {
			return wrong("prompt", "must be login, select_account or consent")
		}
	}
	s.Prompt = strings.Join(strings.Fields(s.Prompt), " ")

	if s.roots, err = rootsFrom(s.CACertificates); err != nil {
		return wrong("ca_certificates", "%v", err)
	}
	return nil
}

// rootsFrom returns the system's certificates with those of text; nil if text has none.
func rootsFrom(text string) (*x509.CertPool, error) {
	if len(text) > longestPEM {
		return nil, fmt.Errorf("must be at most %d KiB", longestPEM>>10)
	}
	rest := []byte(strings.TrimSpace(text))
	if len(rest) == 0 {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a system without any
	}
	for len(rest) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("must be certificates in PEM, and nothing else")
		}
		cert, err := guard.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("has a certificate that can't be read")
		}
		pool.AddCert(cert)
	}
	return pool, nil
}

// isScope reports whether s is a scope-token (RFC 6749, 3.3), which names of parameters
// and classes of sign-ins are as well.
func isScope(s string) bool {
	return s != "" && len(s) <= longestText && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= 0x20 || r >= 0x7f || r == '"' || r == '\\'
	})
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

func isBlank(r rune) bool { return r <= 0x20 || r == 0x7f || r == '\\' }

// isLoopback reports whether a host is this machine for sure.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}
