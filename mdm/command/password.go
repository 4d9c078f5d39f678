package command

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/mdm/internal/plistxml"
)

// PasswordKey is a key of SetAutoAdminPassword that is ours, not Apple's: the password of
// which the device gets the hash. It stands in what is queued, and not in what is sent.
const PasswordKey = "password"

// passwordRounds is about as many as macOS takes for the passwords of its own accounts. A Mac
// takes any number; here they cost some 50 ms each time the command is sent.
const passwordRounds = 50_000

// HashPassword returns the passwordHash of a SetAutoAdminPassword for a password: a property
// list with a SALTED-SHA512-PBKDF2 dictionary of 128 bytes of entropy (Apple:
// SetAutoAdminPasswordCommand). It takes a noticeable time, and has another salt each time.
func HashPassword(password string) ([]byte, error) {
	salt := make([]byte, 32)
	rand.Read(salt) // never fails
	entropy, err := pbkdf2.Key(sha512.New, password, salt, passwordRounds, 128)
	if err != nil {
		return nil, fmt.Errorf("command: hash password: %w", err)
	}
	hash, err := plistxml.Marshal(map[string]any{
		"SALTED-SHA512-PBKDF2": map[string]any{"entropy": entropy, "iterations": int64(passwordRounds), "salt": salt},
	})
	if err != nil {
		return nil, fmt.Errorf("command: hash password: %w", err)
	}
	return hash, nil
}
