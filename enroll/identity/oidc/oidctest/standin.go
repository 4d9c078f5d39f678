// Package oidctest has OpenID providers for tests: a real one, which is a program of its
// own, and a stand-in that also does what no real one would.
package oidctest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"
)

// The client that every provider of this package knows.
const (
	ClientID     = "gatehouse"
	ClientSecret = "not-a-secret-but-long-enough-to-be-one"
)

// StandIn is an OpenID provider on loopback at which everybody is signed in at once. It
// is as strict as a real one until it is told otherwise.
type StandIn struct {
	Issuer string

	// Certificate is the one that it shows, as PEM; empty: it talks in the clear.
	Certificate string

	now func() time.Time

	mu        sync.Mutex
	behaviour Behaviour
	key       *ecdsa.PrivateKey
	keyID     string
	codes     map[string]url.Values // what was asked for, by the code that it was answered with
	asked     map[string]int
}

// Behaviour is what a stand-in does.
type Behaviour struct {
	// Claims say who signs in: at least sub.
	Claims map[string]any

	// UserInfo is what the userinfo endpoint says; nil: the same.
	UserInfo map[string]any

	// Metadata goes over what the provider says of itself.
	Metadata map[string]any

	// Alter changes an ID token before it is signed; nil: nothing.
	Alter func(*Token)

	// Response changes the parameters that the browser comes back with; nil: nothing.
	Response func(url.Values)

	// Instead answers requests for a path in the stand-in's place.
	Instead map[string]http.HandlerFunc
}

// Token is an ID token before it is signed.
type Token struct {
	Header, Claims map[string]any
	Key            *ecdsa.PrivateKey
}

// NewStandIn starts a stand-in, which ends with the test. now is its clock.
func NewStandIn(t testing.TB, now func() time.Time) *StandIn {
	t.Helper()
	s := newStandIn(now)
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.Issuer = server.URL
	return s
}

// NewTLSStandIn is NewStandIn with a certificate.
func NewTLSStandIn(t testing.TB, now func() time.Time) *StandIn {
	t.Helper()
	s := newStandIn(now)
	server := httptest.NewUnstartedServer(s)
	server.Config.ErrorLog = quiet()
	server.StartTLS()
	t.Cleanup(server.Close)
	s.Issuer = server.URL
	s.Certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	return s
}

func newStandIn(now func() time.Time) *StandIn {
	s := &StandIn{now: now, codes: map[string]url.Values{}, asked: map[string]int{}}
	s.behaviour.Claims = map[string]any{
		"sub": "248289761001", "preferred_username": "ana", "name": "Ana Example",
		"email": "ana@example.com", "email_verified": true, "groups": []string{"staff", "it"},
	}
	s.RotateKeys()
	return s
}

// Change changes what the stand-in does from now on.
func (s *StandIn) Change(change func(*Behaviour)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.behaviour)
}

// RotateKeys has the stand-in sign by another key, and forget the one before.
func (s *StandIn) RotateKeys() {
	key := NewKey()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key, s.keyID = key, rand.Text()
}

// NewKey returns a key that no provider has.
func NewKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // never: rand.Reader does not fail
	}
	return key
}

// Asked returns how often a path was asked for.
func (s *StandIn) Asked(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[path]
}

// Authorize opens the URL to which a browser is sent, and returns what it would come back
// with.
func (s *StandIn) Authorize(t testing.TB, to string) url.Values {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	back, problem := s.authorize(u.Query())
	if problem != "" {
		t.Fatalf("authorization request refused: %s", problem)
	}
	return back.Query()
}

// ServeHTTP implements [http.Handler].
func (s *StandIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked[r.URL.Path]++
	b := s.behaviour
	s.mu.Unlock()
	if instead := b.Instead[r.URL.Path]; instead != nil {
		instead(w, r)
		return
	}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		document := map[string]any{
			"issuer":                                         s.Issuer,
			"authorization_endpoint":                         s.Issuer + "/authorize",
			"token_endpoint":                                 s.Issuer + "/token",
			"jwks_uri":                                       s.Issuer + "/keys",
			"userinfo_endpoint":                              s.Issuer + "/userinfo",
			"end_session_endpoint":                           s.Issuer + "/logout",
			"response_types_supported":                       []string{"code"},
			"subject_types_supported":                        []string{"public"},
			"id_token_signing_alg_values_supported":          []string{"ES256", "HS256", "none"},
			"token_endpoint_auth_methods_supported":          []string{"client_secret_basic", "client_secret_post", "none"},
			"code_challenge_methods_supported":               []string{"S256"},
			"authorization_response_iss_parameter_supported": true,
		}
		maps.Copy(document, b.Metadata)
		answer(w, http.StatusOK, document)
	case "/authorize":
		back, problem := s.authorize(r.URL.Query())
		if problem != "" {
			http.Error(w, problem, http.StatusBadRequest)
			return
		}
		http.Redirect(w, r, back.String(), http.StatusFound)
	case "/token":
		s.token(w, r, b)
	case "/keys":
		s.mu.Lock()
		public, err := s.key.PublicKey.Bytes()
		id := s.keyID
		s.mu.Unlock()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answer(w, http.StatusOK, map[string]any{"keys": []any{map[string]any{
			"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": id,
			"x": base64url(public[1:33]), "y": base64url(public[33:]),
		}}})
	case "/userinfo":
		claims := b.UserInfo
		if claims == nil {
			claims = b.Claims
		}
		if r.Header.Get("Authorization") != "Bearer access-token" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		answer(w, http.StatusOK, claims)
	case "/logout":
		http.Redirect(w, r, r.URL.Query().Get("post_logout_redirect_uri"), http.StatusFound)
	default:
		http.NotFound(w, r)
	}
}

// authorize answers an authorization request with where the browser goes back to, or with
// what is wrong with the request.
func (s *StandIn) authorize(query url.Values) (back *url.URL, problem string) {
	back, err := url.Parse(query.Get("redirect_uri"))
	switch {
	case err != nil || !back.IsAbs():
		return nil, "redirect_uri is no URL"
	case query.Get("client_id") != ClientID:
		return nil, "unknown client"
	case query.Get("response_type") != "code" || query.Get("code_challenge_method") != "S256" || len(query.Get("code_challenge")) != 43:
		return nil, "code and PKCE are required"
	case query.Get("nonce") == "" || query.Get("state") == "":
		return nil, "nonce and state are required"
	}
	code := rand.Text()
	s.mu.Lock()
	s.codes[code] = query
	response := s.behaviour.Response
	s.mu.Unlock()
	values := url.Values{"code": {code}, "state": {query.Get("state")}, "iss": {s.Issuer}}
	if response != nil {
		response(values)
	}
	back.RawQuery = values.Encode()
	return back, ""
}

func (s *StandIn) token(w http.ResponseWriter, r *http.Request, b Behaviour) {
	refuse := func(status int, class string) { answer(w, status, map[string]any{"error": class}) }
	id, secret, basic := r.BasicAuth()
	if !basic {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	if id != ClientID || secret != "" && secret != ClientSecret {
		refuse(http.StatusUnauthorized, "invalid_client")
		return
	}
	code := r.PostFormValue("code")
	s.mu.Lock()
	asked, ok := s.codes[code]
	delete(s.codes, code)
	t := Token{Key: s.key, Header: map[string]any{"alg": "ES256", "kid": s.keyID}}
	s.mu.Unlock()
	challenge := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	if !ok || r.PostFormValue("redirect_uri") != asked.Get("redirect_uri") || base64url(challenge[:]) != asked.Get("code_challenge") {
		refuse(http.StatusBadRequest, "invalid_grant")
		return
	}
	now := s.now()
	t.Claims = map[string]any{
		"iss": s.Issuer, "aud": ClientID, "nonce": asked.Get("nonce"), "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "auth_time": now.Unix(),
	}
	maps.Copy(t.Claims, b.Claims)
	if b.Alter != nil {
		b.Alter(&t)
	}
	answer(w, http.StatusOK, map[string]any{
		"access_token": "access-token", "token_type": "Bearer", "expires_in": 300, "id_token": t.sign(),
	})
}

// sign returns t as a JWS, by whatever its header says.
func (t Token) sign() string {
	part := func(v map[string]any) string {
		data, err := json.Marshal(v)
		if err != nil {
			panic(err) // a test's mistake
		}
		return base64url(data)
	}
	input := part(t.Header) + "." + part(t.Claims)
	switch t.Header["alg"] {
	case "none":
		return input + "."
	case "HS256":
		mac := hmac.New(sha256.New, []byte(ClientSecret))
		mac.Write([]byte(input))
		return input + "." + base64url(mac.Sum(nil))
	}
	digest := crypto.SHA256.New()
	digest.Write([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, t.Key, digest.Sum(nil))
	if err != nil {
		panic(err) // never: rand.Reader does not fail
	}
	return input + "." + base64url(append(fixed(r), fixed(s)...))
}

// fixed is a number of a signature as JWS has it (RFC 7518, 3.4).
func fixed(n *big.Int) []byte { return n.FillBytes(make([]byte, 32)) }

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may have gone
}
