package mdm

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// escrowPair is the certificate for which Macs encrypt their recovery keys, and its key. All
// replicas have the same one.
type escrowPair struct {
	Name        string `json:"name"`
	Certificate []byte `json:"certificate"` // DER
	Key         []byte `json:"key"`         // PKCS #8, sealed
}

const escrowPairName = "filevault"

var escrowPairs = storage.NewCollection("escrow_keys", 1, func(p escrowPair) string { return p.Name })

// escrowValidity is longer than a Mac lives: one that has the certificate in a profile encrypts
// for it as long as it has the profile.
const escrowValidity = 20 * 365 * 24 * time.Hour

func escrowPairPurpose(certificate []byte) string {
	sum := sha256.Sum256(certificate)
	return "mdm/escrow-key/" + hex.EncodeToString(sum[:])
}

// newEscrowPair makes a pair, which takes a noticeable time.
func (s *Service) newEscrowPair() (escrowPair, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return escrowPair{}, fmt.Errorf("make escrow key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return escrowPair{}, fmt.Errorf("make escrow key: %w", err)
	}
	now := s.now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "Gatehouse FileVault Recovery Key Escrow"},
		NotBefore:    now.Add(-24 * time.Hour), // a Mac's clock may be behind ours
		NotAfter:     now.Add(escrowValidity),
		KeyUsage:     x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment,
	}
	p := escrowPair{Name: escrowPairName}
	if p.Certificate, err = x509.CreateCertificate(rand.Reader, template, template, key.Public(), key); err != nil {
		return escrowPair{}, fmt.Errorf("make escrow certificate: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return escrowPair{}, fmt.Errorf("make escrow key: %w", err)
	}
	p.Key = s.box.Seal(escrowPairPurpose(p.Certificate), der)
	return p, nil
}

// escrowCertificate returns the certificate for which Macs encrypt, in DER, and makes the pair
// if there is none. The one that this process offers is made once: a transaction that runs
// again does not wait for another.
func (s *Service) escrowCertificate(tx storage.Tx) ([]byte, error) {
	p, err := escrowPairs.Get(tx, escrowPairName)
	if err == nil {
		return p.Certificate, nil
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return nil, fmt.Errorf("escrow certificate: %w", err)
	}
	if p, err = s.escrowPair(); err != nil {
		return nil, err
	}
	if err := escrowPairs.Put(tx, p); err != nil {
		return nil, fmt.Errorf("escrow certificate: %w", err)
	}
	return p.Certificate, nil
}

// EscrowCertificate returns the certificate for which a Mac is to encrypt its FileVault
// recovery key, in DER: SecurityInfo then brings the key here. A com.apple.security.pkcs1
// payload with it is what a com.apple.security.FDERecoveryKeyEscrow payload names.
func (s *Service) EscrowCertificate(ctx context.Context) (der []byte, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		p, err := escrowPairs.Get(tx, escrowPairName)
		der = p.Certificate
		return err
	})
	if err == nil {
		return der, nil
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return nil, fmt.Errorf("escrow certificate: %w", err)
	}
	if _, err = s.escrowPair(); err != nil { // not in a transaction, where it would hold others up
		return nil, err
	}
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		der, err = s.escrowCertificate(tx)
		return err
	})
	return der, err
}

// errNotOurs means that something is encrypted for a certificate that is not ours.
var errNotOurs = errors.New("encrypted for another certificate")

// maxRecoveryKey bounds the text of a recovery key in bytes. Apple's has 29.
const maxRecoveryKey = 256

// openEnvelope returns the recovery key in an EnvelopedData, or errNotOurs. Other errors say
// nothing of why it can't be opened: see [guard.DecryptEnveloped].
func (s *Service) openEnvelope(tx storage.Tx, cms []byte) (string, error) {
	p, err := escrowPairs.Get(tx, escrowPairName)
	if errors.Is(err, storage.ErrNotFound) {
		return "", errNotOurs
	}
	if err != nil {
		return "", fmt.Errorf("escrow key: %w", err)
	}
	cert, err := x509.ParseCertificate(p.Certificate)
	if err != nil {
		return "", fmt.Errorf("escrow certificate: %w", err)
	}
	der, err := s.box.Open(escrowPairPurpose(p.Certificate), p.Key)
	if err != nil {
		return "", fmt.Errorf("escrow key: %w", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return "", fmt.Errorf("escrow key: %w", err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return "", fmt.Errorf("escrow key: %w", storage.ErrCorrupt)
	}
	plain, err := guard.DecryptEnveloped(cms, cert, key, 0)
	if errors.Is(err, guard.ErrNotRecipient) {
		return "", errNotOurs
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return recoveryKeyIn(plain)
}
