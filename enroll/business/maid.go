package business

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// ServiceManagedAppleAccount is the TokenServiceType whose tokens MAIDToken makes.
const ServiceManagedAppleAccount = "com.apple.maid"

// signs says whether Apple would know a token as signed by us: by the key of the
// certificate that it has, which is one that it has used, in the name that it gave us.
func (r record) signs() bool {
	return r.Current != nil && r.Proven && r.Token != nil && r.Account != nil && r.Account.ServerUUID != ""
}

// Announces says whether the server may announce com.apple.mdm.token among its
// ServerCapabilities: whether MAIDToken would have a token.
func (s *Service) Announces(tx storage.Tx) (bool, error) {
	r, err := load(tx)
	return r.signs(), err
}

// MAIDToken returns the TokenData by which a device proves at Apple that this server
// manages it, when somebody signs in there with a Managed Apple Account (Apple,
// "GetToken"): a JSON Web Token (RFC 7519) signed by RS256 (RFC 7518, 3.3). The error
// wraps ErrNoLink where Announces is false.
func (s *Service) MAIDToken(ctx context.Context) ([]byte, error) {
	r, err := s.load(ctx)
	if err != nil {
		return nil, err
	}
	if !r.signs() {
		return nil, ErrNoLink
	}
	key, err := s.open(*r.Current)
	if err != nil {
		return nil, err
	}
	claims, err := json.Marshal(struct {
		Issuer      string `json:"iss"`
		IssuedAt    int64  `json:"iat"` // seconds
		ID          string `json:"jti"`
		ServiceType string `json:"service_type"`
	}{r.Account.ServerUUID, s.now().Unix(), newUUID(), ServiceManagedAppleAccount})
	if err != nil {
		return nil, err
	}
	return signJWT(key, claims)
}

// signJWT returns claims in the compact form of a JSON Web Signature (RFC 7515, 7.1).
func signJWT(key *rsa.PrivateKey, claims []byte) ([]byte, error) {
	encode := base64.RawURLEncoding.AppendEncode
	token := encode(nil, []byte(`{"alg":"RS256","typ":"JWT"}`))
	token = encode(append(token, '.'), claims)
	sum := sha256.Sum256(token)
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		return nil, fmt.Errorf("sign token: %w", err)
	}
	return encode(append(token, '.'), signature), nil
}

// newUUID returns a random UUID (RFC 9562, 5.4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the program instead
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
