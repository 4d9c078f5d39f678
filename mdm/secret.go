package mdm

import (
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// SecretKind names a secret that a device entrusts to the server.
type SecretKind string

// The secrets, as Apple calls them.
const (
	UnlockToken    SecretKind = "unlock_token"    // opens a forgotten passcode; from TokenUpdate
	BootstrapToken SecretKind = "bootstrap_token" // vouches for users of a Mac; from SetBootstrapToken
)

const secretBucket = "device_secrets"

func secretKey(id DeviceID, kind SecretKind) []byte { return storage.Key(string(id), string(kind)) }

func secretPurpose(id DeviceID, kind SecretKind) string {
	return "mdm/secret/" + string(id) + "/" + string(kind)
}

// SetSecret keeps a device's secret, sealed; an empty one is deleted.
func (s *Service) SetSecret(tx storage.Tx, id DeviceID, kind SecretKind, secret []byte) error {
	var err error
	if len(secret) == 0 {
		err = tx.Delete(secretBucket, secretKey(id, kind))
	} else {
		err = tx.Put(secretBucket, secretKey(id, kind), s.box.Seal(secretPurpose(id, kind), secret))
	}
	if err != nil {
		return fmt.Errorf("set %s of %s: %w", kind, id, err)
	}
	return nil
}

// Secret returns a device's secret, nil if it has none.
func (s *Service) Secret(tx storage.Tx, id DeviceID, kind SecretKind) ([]byte, error) {
	sealed, err := tx.Get(secretBucket, secretKey(id, kind))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get %s of %s: %w", kind, id, err)
	}
	secret, err := s.box.Open(secretPurpose(id, kind), sealed)
	if err != nil {
		return nil, fmt.Errorf("get %s of %s: %w", kind, id, err)
	}
	return secret, nil
}

// ForgetSecrets ends the secrets of a device that enrolls anew. What the device keeps from
// one enrollment to the next, such as the PIN of a Mac that was locked, can be revealed for
// some time on; the server does not send it anywhere any more.
func (s *Service) ForgetSecrets(tx storage.Tx, id DeviceID) error {
	return errors.Join(
		s.SetSecret(tx, id, UnlockToken, nil),
		s.SetSecret(tx, id, BootstrapToken, nil),
		s.forgetEscrow(tx, id),
	)
}
