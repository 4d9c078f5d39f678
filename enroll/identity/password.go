package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// The cost of a password hash: OWASP's first recommendation for argon2id with
// little memory, about 20 ms on a small server.
const (
	argonMemory  = 19 * 1024 // KiB
	argonTime    = 2
	argonThreads = 1
	argonSalt    = 16 // bytes
	argonKey     = 32 // bytes
)

// concurrentHashes bounds the memory that strangers can make us use by logging in.
const concurrentHashes = 2

// maxPassword is in bytes. argon2 takes any length; nobody types this much.
const maxPassword = 1024

// decoyHash belongs to nobody. Checking a password against it takes as long as
// against a real hash, so that time doesn't tell which users exist.
func (s *Service) decoyHash() string {
	return s.phc(make([]byte, argonSalt), make([]byte, argonKey))
}

// MinPassword is the least number of characters of a password. It need not have characters
// of any kind, but must not be [ErrGuessable].
const MinPassword = 8

// checkPassword returns a *FieldError for what can't be the password of somebody who goes by
// names.
func checkPassword(password string, names ...string) error {
	if len([]rune(password)) < MinPassword {
		return &FieldError{"password", fmt.Sprintf("must have at least %d characters", MinPassword)}
	}
	if len(password) > maxPassword {
		return &FieldError{"password", fmt.Sprintf("must have at most %d bytes", maxPassword)}
	}
	if guessable(password, names...) {
		return ErrGuessable
	}
	return nil
}

// hashPassword returns a PHC string: algorithm, parameters, salt and hash.
func (s *Service) hashPassword(ctx context.Context, password string) (string, error) {
	salt := make([]byte, argonSalt)
	_, _ = rand.Read(salt)
	key, err := s.argon(ctx, password, salt, argonTime, s.hashMemory, argonThreads, argonKey)
	if err != nil {
		return "", err
	}
	return s.phc(salt, key), nil
}

// phc returns the string that is kept of a hash at the cost of new ones.
func (s *Service) phc(salt, key []byte) string {
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s",
		argon2.Version, s.hashMemory, argonTime, argonThreads, b64(salt), b64(key))
}

// checkHash reports whether phc was made of password.
func (s *Service) checkHash(ctx context.Context, phc, password string) (bool, error) {
	parts := strings.Split(phc, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false, errors.New("stored password hash is not argon2id")
	}
	var version int
	var memory, time uint32
	var threads uint8
	if _, err := fmt.Sscanf(parts[2], "v=%d", &version); err != nil || version != argon2.Version {
		return false, errors.New("stored password hash has another version")
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &time, &threads); err != nil {
		return false, errors.New("stored password hash has no parameters")
	}
	salt, errSalt := base64.RawStdEncoding.DecodeString(parts[4])
	want, errWant := base64.RawStdEncoding.DecodeString(parts[5])
	if errSalt != nil || errWant != nil || len(want) == 0 {
		return false, errors.New("stored password hash is not base64")
	}
	if len(password) > maxPassword {
		password = "" // can't be anybody's, and takes the same time
	}
	got, err := s.argon(ctx, password, salt, time, memory, threads, uint32(len(want)))
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}

// argon computes a hash as soon as there is room for one more.
func (s *Service) argon(ctx context.Context, password string, salt []byte, time, memory uint32, threads uint8, size uint32) ([]byte, error) {
	select {
	case s.hashing <- struct{}{}:
		defer func() { <-s.hashing }()
		return argon2.IDKey([]byte(password), salt, time, memory, threads, size), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a free hasher: %w", ctx.Err())
	}
}
