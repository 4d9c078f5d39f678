package depot

import (
	"crypto"
	"crypto/x509"
	"fmt"

	"software.sslmate.com/src/go-pkcs12"
)

// Protection says how a PKCS #12 file is encrypted.
type Protection string

// The protections.
const (
	// Compatible is what every system of Apple's and OpenSSL 3 read without being told
	// anything: triple DES with keys derived by SHA-1. The password has to be one that
	// can't be guessed.
	Compatible Protection = "compatible"
	// Modern is AES-256 with keys derived by PBKDF2 (RFC 8018), which older systems
	// can't read.
	Modern Protection = "modern"
)

// bundleIterations is how often keys are derived from passwords, also for the MAC, as
// OpenSSL has it.
const bundleIterations = 2048

// EncodePKCS12 returns a PKCS #12 file (RFC 7292) with a key, its certificate and the
// chain above that. The password has characters of the Basic Multilingual Plane only.
func EncodePKCS12(key crypto.PrivateKey, cert *x509.Certificate, chain []*x509.Certificate, password string, p Protection) ([]byte, error) {
	encoder := pkcs12.LegacyDES
	if p == Modern {
		encoder = pkcs12.Modern2023
	}
	file, err := encoder.WithIterations(bundleIterations).Encode(key, cert, chain, password)
	if err != nil {
		return nil, fmt.Errorf("encode PKCS #12: %w", err)
	}
	return file, nil
}
