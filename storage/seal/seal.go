// Package seal encrypts the secrets that the database holds: authority keys, push
// keys, tokens that devices have entrusted to us. The key lives in a file beside
// the database, so that a copy of the database alone gives nothing away.
//
// It knows nothing of what it seals, and of the database only that its content
// may be read, or changed, by somebody who should not.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
)

var (
	// ErrWrongKey means that something was sealed with another key than this one:
	// the key file was exchanged, or the database comes from elsewhere.
	ErrWrongKey = errors.New("sealed with another key")

	// ErrTampered means that what was sealed with this key is not as it was: it
	// changed, was cut short, or was sealed for another purpose.
	ErrTampered = errors.New("sealed value has been changed")
)

// KeySize is the size of a key in bytes.
const KeySize = 32

// Sealed values are: version (1 byte), key ID (8), nonce (12), cipher text, tag (16).
const (
	version    = 1
	idSize     = 8
	headerSize = 1 + idSize
)

// Box seals and opens values with one key. It may be used from many goroutines.
type Box struct {
	id   [idSize]byte
	aead cipher.AEAD
	mac  []byte // key of MAC
}

// New returns the Box of a key of KeySize random bytes. It does not keep key.
func New(key []byte) (*Box, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("key has %d bytes, not %d", len(key), KeySize)
	}
	// A key for each use; the ID tells nothing of the others.
	sealing, err := hkdf.Key(sha256.New, key, nil, "gatehouse seal v1", KeySize)
	if err != nil {
		return nil, err
	}
	id, err := hkdf.Key(sha256.New, key, nil, "gatehouse seal v1 key id", idSize)
	if err != nil {
		return nil, err
	}
	mac, err := hkdf.Key(sha256.New, key, nil, "gatehouse seal v1 mac", KeySize)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(sealing)
	if err != nil {
		return nil, err
	}
	// Random nonces of 96 bits are good for 2^32 values (NIST SP 800-38D, 8.3),
	// far more than a fleet has secrets.
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &Box{id: [idSize]byte(id), aead: aead, mac: mac}, nil
}

// Seal encrypts plaintext. The result can be opened for the same purpose only, so
// that a sealed value can't be put into another's place: name in purpose what the
// value is and whose, as in "push key com.apple.mgmt.External.1".
func (b *Box) Seal(purpose string, plaintext []byte) []byte {
	sealed := make([]byte, headerSize, headerSize+b.aead.Overhead()+len(plaintext))
	sealed[0] = version
	copy(sealed[1:], b.id[:])
	return b.aead.Seal(sealed, nil, plaintext, associated(sealed, purpose))
}

// Open returns what was sealed for purpose, or an error that wraps ErrWrongKey or
// ErrTampered.
func (b *Box) Open(purpose string, sealed []byte) ([]byte, error) {
	if len(sealed) < headerSize+b.aead.Overhead() || sealed[0] != version {
		return nil, fmt.Errorf("open %s: %w", purpose, ErrTampered)
	}
	if subtle.ConstantTimeCompare(sealed[1:headerSize], b.id[:]) != 1 {
		return nil, fmt.Errorf("open %s: %w", purpose, ErrWrongKey)
	}
	plaintext, err := b.aead.Open(nil, nil, sealed[headerSize:], associated(sealed[:headerSize], purpose))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", purpose, ErrTampered)
	}
	return plaintext, nil
}

// MACSize is the size of what MAC returns, in bytes.
const MACSize = sha256.Size

// MAC returns the authentication code of data for a purpose (HMAC-SHA256, RFC 2104): who has
// it was given it by a holder of this key, for this purpose and these data. It is for what we
// must know again and can't keep a record of; compare it in constant time ([hmac.Equal]).
func (b *Box) MAC(purpose string, data []byte) []byte {
	h := hmac.New(sha256.New, b.mac)
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(purpose)))) // so that none runs into data
	h.Write([]byte(purpose))
	h.Write(data)
	return h.Sum(nil)
}

func associated(header []byte, purpose string) []byte {
	return append(append(make([]byte, 0, len(header)+len(purpose)), header...), purpose...)
}
