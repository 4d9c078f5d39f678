package template

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"regexp"
	"strings"
)

// digestName names the digest that has n bytes, as far as Apple's SCEP client knows it
// and it is worth anything; empty: none.
func digestName(n int) string {
	switch n {
	case 20:
		return "SHA-1"
	case 28:
		return "SHA-224"
	case 32:
		return "SHA-256"
	case 48:
		return "SHA-384"
	case 64:
		return "SHA-512"
	}
	return ""
}

var (
	errFingerprint = errors.New("is no fingerprint: give it in hexadecimal or base64, of SHA-256 or another SHA, or the certificate as PEM")
	errMD5         = errors.New("has the length of MD5, for which certificates can be forged: give that of SHA-256")

	// fingerprintLabel is what tools print before a fingerprint: "SHA256 Fingerprint=",
	// "sha256:".
	fingerprintLabel = regexp.MustCompile(`(?i)^(sha-?(1|224|256|384|512)|md5)?( fingerprint)?[=:] *`)
)

// ParseFingerprint reads the fingerprint of a certificate: hexadecimal with any
// delimiters, base64, or a PEM with the certificate itself, of which it is then the
// SHA-256.
func ParseFingerprint(s string) ([]byte, error) {
	if strings.Contains(s, "-----BEGIN ") {
		certs, err := readCertificates([]byte(s))
		if err != nil {
			return nil, err
		}
		if len(certs) > 1 {
			return nil, errors.New("holds several certificates, and could be the fingerprint of any")
		}
		sum := sha256.Sum256(certs[0].Raw)
		return sum[:], nil
	}
	s = fingerprintLabel.ReplaceAllString(strings.TrimSpace(s), "")
	// Hexadecimal first: the digits of a SHA-256 could be a SHA-384 in base64, but for
	// the odds.
	digits := strings.Map(func(r rune) rune {
		if strings.ContainsRune(":-., _\t\r\n", r) {
			return -1
		}
		return r
	}, s)
	if digest, err := hex.DecodeString(digits); err == nil {
		if checked, err := knownDigest(digest); err == nil || errors.Is(err, errMD5) {
			return checked, err
		}
	}
	text := strings.TrimRight(strings.Join(strings.Fields(s), ""), "=")
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if digest, err := encoding.Strict().DecodeString(text); err == nil {
			return knownDigest(digest)
		}
	}
	return nil, errFingerprint
}

func knownDigest(digest []byte) ([]byte, error) {
	switch {
	case len(digest) == 16:
		return nil, errMD5
	case digestName(len(digest)) == "":
		return nil, errFingerprint
	}
	return digest, nil
}
