package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

// keysRest is how long a provider is left alone after it was asked for its keys: tokens
// with unknown keys, one after the other, are no reason to ask each time.
const keysRest = 10 * time.Second

// errUnsigned means that no key of the provider's made a signature.
var errUnsigned = errors.New("signed by no key of the provider's")

// keySet is the public keys of a provider, which it may change at any time (OpenID
// Connect Core 1.0, 10.1.1).
type keySet struct {
	url    string
	client *http.Client
	now    func() time.Time

	asking chan struct{} // holds an element while somebody asks

	mu    sync.Mutex
	keys  []jose.JSONWebKey
	asked time.Time // when they were given; zero: never
}

var _ oidc.KeySet = (*keySet)(nil)

func newKeySet(url string, client *http.Client, now func() time.Time) *keySet {
	return &keySet{url: url, client: client, now: now, asking: make(chan struct{}, 1)}
}

// VerifySignature implements [oidc.KeySet]. Its errors wrap errUnsigned or
// [identity.ErrSource].
func (k *keySet) VerifySignature(ctx context.Context, jwt string) (payload []byte, err error) {
	allowed := make([]jose.SignatureAlgorithm, len(algorithms))
	for i, alg := range algorithms {
		allowed[i] = jose.SignatureAlgorithm(alg)
	}
	signed, err := jose.ParseSignedCompact(jwt, allowed)
	if err != nil {
		return nil, errUnsigned
	}
	if payload, ok := k.verify(signed); ok {
		return payload, nil
	}
	if err := k.ask(ctx); err != nil {
		return nil, err
	}
	if payload, ok := k.verify(signed); ok {
		return payload, nil
	}
	return nil, errUnsigned
}

func (k *keySet) verify(signed *jose.JSONWebSignature) (payload []byte, ok bool) {
	k.mu.Lock()
	keys := k.keys
	k.mu.Unlock()
	id := signed.Signatures[0].Header.KeyID
	for i := range keys {
		if id != "" && keys[i].KeyID != id {
			continue
		}
		if payload, err := signed.Verify(&keys[i]); err == nil {
			return payload, true
		}
	}
	return nil, false
}

// ask fetches the keys unless that was done just now. A provider that failed is asked
// again: it gave none that could be kept.
func (k *keySet) ask(ctx context.Context) error {
	select {
	case k.asking <- struct{}{}:
		defer func() { <-k.asking }()
	case <-ctx.Done():
		return fmt.Errorf("%w: %w while waiting for its keys", identity.ErrSource, ctx.Err())
	}
	if k.now().Sub(k.asked).Abs() < keysRest {
		return nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url, nil)
	if err != nil {
		return fmt.Errorf("%w: its jwks_uri is no URL", identity.ErrSource)
	}
	resp, err := k.client.Do(request)
	if err != nil {
		return inner(err)
	}
	defer resp.Body.Close()
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&set); err != nil {
		return fmt.Errorf("%w: its keys can't be read", identity.ErrSource)
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if err := json.Unmarshal(raw, &key); err != nil || !key.Valid() || !key.IsPublic() || key.Use == "enc" {
			continue // of a kind that is not known here, or for something else (RFC 7517, 5)
		}
		keys = append(keys, key)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys, k.asked = keys, k.now()
	return nil
}
