package issuance

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// challenge is the right of a device to one certificate of a template. Only its hash
// is kept.
type challenge struct {
	Hash       string       `json:"hash"`
	Template   string       `json:"template"`
	DeviceID   mdm.DeviceID `json:"device_id"`
	Try        string       `json:"try"` // of the assignment: the UUID of the command that brought it
	ExpiresAt  time.Time    `json:"expires_at"`
	ConsumedAt time.Time    `json:"consumed_at,omitzero"`

	// Upstream is set in the right to have a request passed on: the upstreamHash of the
	// server, and of the challenge that the request must have.
	Upstream string `json:"upstream,omitempty"`
}

// answer remembers what a request was answered with, because a client that lost the
// answer sends the same request again (RFC 8894, 4.4).
type answer struct {
	Key         string            `json:"key"`
	Fingerprint depot.Fingerprint `json:"fingerprint"`
	ExpiresAt   time.Time         `json:"expires_at"`
}

// answerLife is how long an identical request gets the identical answer.
const answerLife = 24 * time.Hour

const byExpiry = "expiry"

var (
	challenges = storage.NewCollection("issuance.challenges", 1,
		func(c challenge) string { return c.Hash },
		storage.Index[challenge]{Name: byExpiry, Values: func(c challenge) []string { return []string{sortable(c.ExpiresAt)} }},
	)
	answers = storage.NewCollection("issuance.answers", 1,
		func(a answer) string { return a.Key },
		storage.Index[answer]{Name: byExpiry, Values: func(a answer) []string { return []string{sortable(a.ExpiresAt)} }},
	)
)

// sortable formats t so that texts sort as times do.
func sortable(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// newChallenge makes a challenge; secret goes into the profile and nowhere else.
func newChallenge(c challenge) (row challenge, secret string) {
	secret = rand.Text()
	c.Hash = hashSecret(secret)
	return c, secret
}

func hashSecret(secret string) string { return hex.EncodeToString(digest([]byte(secret))) }

func digest(parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// openChallenge finds the one-time challenge for secret if it may be spent now. It
// looks up by hash, so timing tells nothing of the secret.
func (s *Service) openChallenge(tx storage.Tx, secret string) (challenge, error) {
	c, err := challenges.Get(tx, hashSecret(secret))
	if errors.Is(err, storage.ErrNotFound) {
		return challenge{}, fmt.Errorf("%w: unknown", ErrChallenge)
	}
	if err != nil {
		return challenge{}, err
	}
	switch {
	case !c.ConsumedAt.IsZero():
		return challenge{}, fmt.Errorf("%w: used", ErrChallenge)
	case !s.now().Before(c.ExpiresAt):
		return challenge{}, fmt.Errorf("%w: expired", ErrChallenge)
	}
	return c, nil
}

// issuedBefore returns what a request with this key was answered with.
func (s *Service) issuedBefore(tx storage.Tx, key string) (*x509.Certificate, error) {
	if key == "" {
		return nil, nil
	}
	a, err := answers.Get(tx, key)
	if errors.Is(err, storage.ErrNotFound) || err == nil && !s.now().Before(a.ExpiresAt) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rec, err := s.depot.Get(tx, a.Fingerprint)
	if err != nil {
		return nil, err
	}
	if !rec.RevokedAt.IsZero() {
		return nil, fmt.Errorf("%w: its certificate is revoked", ErrChallenge)
	}
	der, err := s.depot.DER(tx, a.Fingerprint)
	if err != nil {
		return nil, err
	}
	return guard.ParseCertificate(der)
}

func isAddress(s string) bool {
	local, domain, ok := strings.Cut(s, "@")
	return ok && local != "" && domain != ""
}
