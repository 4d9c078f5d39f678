package business

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// pair is a key and the certificate that tells Apple of it.
type pair struct {
	Certificate []byte `json:"certificate"` // DER
	Key         []byte `json:"key"`         // PKCS #8, sealed
}

// validity of a certificate. Nobody looks at its end but to refuse it: Apple takes the
// key out of it when it is uploaded, and token and key are renewed by other means.
const validity = 10 * 365 * 24 * time.Hour

func newKey() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) }

// purpose binds a sealed key to its certificate.
func (p pair) purpose() string {
	sum := sha256.Sum256(p.Certificate)
	return "apple business key " + hex.EncodeToString(sum[:])
}

func (p pair) certificate() (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(p.Certificate)
	if err != nil {
		return nil, fmt.Errorf("certificate of the link to Apple: %w", err)
	}
	return cert, nil
}

// open returns the key.
func (s *Service) open(p pair) (*rsa.PrivateKey, error) {
	der, err := s.box.Open(p.purpose(), p.Key)
	if err != nil {
		return nil, fmt.Errorf("key of the link to Apple: %w", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("key of the link to Apple: %w", err)
	}
	return key.(*rsa.PrivateKey), nil
}

func (s *Service) newPair() (pair, error) {
	key, err := s.newKey()
	if err != nil {
		return pair{}, fmt.Errorf("make key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return pair{}, err
	}
	now := s.now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: clip("Gatehouse "+s.host, 64)}, // RFC 5280, ub-common-name
		NotBefore:    now.Add(-time.Hour),                                  // Apple's clock may be behind ours
		NotAfter:     now.Add(validity),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	var p pair
	if p.Certificate, err = x509.CreateCertificate(rand.Reader, template, template, key.Public(), key); err != nil {
		return pair{}, fmt.Errorf("make certificate: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return pair{}, err
	}
	p.Key = s.box.Seal(p.purpose(), der)
	return p, nil
}

// MakeKey returns the certificate to upload where Apple asks for the public key of a
// device management service, and makes it and its key if there is none.
//
// With replace it makes another one. The old key stays in use until a token comes that
// is for the new one: until then Apple knows none but the old.
func (s *Service) MakeKey(ctx context.Context, replace bool) (cert *x509.Certificate, made bool, err error) {
	r, err := s.load(ctx)
	if err != nil {
		return nil, false, err
	}
	var fresh pair
	if r.Current == nil || replace {
		if fresh, err = s.newPair(); err != nil {
			return nil, false, err
		}
	}
	var offered pair
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		made = false
		r, err := load(tx)
		before := r.audited()
		switch {
		case err != nil:
			return err
		case r.Current != nil && !replace:
			offered = *r.offered()
			return nil
		case fresh.Certificate == nil:
			return fmt.Errorf("the link was removed meanwhile: %w", ErrNoKey)
		case r.Proven:
			r.Next = &fresh
		default:
			r.Current, r.Next = &fresh, nil
		}
		offered, made = fresh, true
		if err := records.Put(tx, r); err != nil {
			return err
		}
		return s.tell(ctx, tx, "apple_business.key_created", map[string]string{"sha256": fingerprint(fresh.Certificate)}, event.Changes(before, r.audited()))
	})
	if err != nil {
		return nil, false, err
	}
	cert, err = offered.certificate()
	return cert, made, err
}

// Certificate returns the certificate to upload at Apple, or an error that wraps ErrNoKey.
func (s *Service) Certificate(ctx context.Context) (*x509.Certificate, error) {
	r, err := s.load(ctx)
	if err != nil {
		return nil, err
	}
	if r.Current == nil {
		return nil, ErrNoKey
	}
	return r.offered().certificate()
}

// offered is the pair whose certificate Apple should have.
func (r record) offered() *pair {
	if r.Next != nil {
		return r.Next
	}
	return r.Current
}

// pairs returns what a token may be for.
func (r record) pairs() (list []pair) {
	for _, p := range []*pair{r.Next, r.Current} {
		if p != nil {
			list = append(list, *p)
		}
	}
	return list
}

// prove makes the pair of this certificate the one that Apple knows, or says that there
// is none such any more.
func (r *record) prove(certificate []byte) bool {
	switch {
	case r.Next != nil && bytes.Equal(r.Next.Certificate, certificate):
		r.Current, r.Next = r.Next, nil
	case r.Current == nil || !bytes.Equal(r.Current.Certificate, certificate):
		return false
	}
	r.Proven = true
	return true
}

func fingerprint(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}
