package enroll

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// challengeLife is how long a profile may wait on a device before it is
// installed. iOS deletes one after 8 minutes; a Mac keeps it.
const challengeLife = time.Hour

// challenge is the right to one identity certificate: for an attempt, or for
// a device whose certificate is being renewed. Only its hash is kept.
type challenge struct {
	Hash       string       `json:"hash"`
	AttemptID  string       `json:"attempt_id,omitempty"`
	DeviceID   mdm.DeviceID `json:"device_id,omitempty"`
	Round      int          `json:"round,omitempty"` // of the attempt
	ExpiresAt  time.Time    `json:"expires_at"`
	ConsumedAt time.Time    `json:"consumed_at,omitzero"`
}

var challenges = storage.NewCollection("challenges", 1,
	func(c challenge) string { return c.Hash },
	storage.Index[challenge]{Name: byExpiry, Values: func(c challenge) []string {
		return []string{c.ExpiresAt.UTC().Format(time.RFC3339)}
	}},
)

const byExpiry = "expiry"

// newChallenge makes a challenge; secret goes into the profile and nowhere else.
func newChallenge(c challenge) (row challenge, secret string) {
	secret = rand.Text()
	c.Hash = hashSecret(secret)
	return c, secret
}

func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// Errors of issuance. A client learns only that it was refused; they are for the log.
var (
	ErrChallenge = errors.New("the challenge is missing, unknown, expired or used")
	ErrKeyReused = errors.New("the public key is in use by another certificate")
	ErrRenewal   = errors.New("the request is not signed by a certificate that may renew")
)

// openChallenge finds the challenge for secret if it may be spent now. It looks
// up by hash, so timing tells nothing of the secret.
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
