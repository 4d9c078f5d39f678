package profile

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// SCEP says where and how a device gets a certificate, and what it asks for: Apple's
// payload com.apple.security.scep.
type SCEP struct {
	// PayloadUUID is fresh with every challenge: a new one makes the device ask for
	// a new certificate.
	PayloadUUID string
	URL         string // http or https, without a query: the device adds one
	Name        string // of the authority; sent as message= with GetCACert
	Subject     []RDN  // that the device asks for; our own authorities set theirs
	SANs        SubjectAltName
	Challenge   string // never log a profile; empty: the authority wants none

	KeySize  int // bits of the RSA key: 1024, 2048 or 4096; 0: 2048
	KeyUsage KeyUsage

	// The device takes a certificate from no other authority than CA, or than the one
	// that Fingerprint is the digest of, where there is either.
	CA          *x509.Certificate
	Fingerprint []byte

	// Polling is how it asks again while a request is pending; nil: 3 times, every 10
	// seconds.
	Polling *Polling

	Extractable   bool // the key may leave the device's keychain
	AllAppsMayUse bool // the key, on a Mac, without asking its user
}

// Attribute is a type such as "CN" or a dotted OID, and a value. Apple knows C, L, ST,
// O, OU and CN by name.
type Attribute struct {
	Type, Value string
}

// RDN is one part of a subject: nearly always one Attribute.
type RDN []Attribute

// SubjectAltName is the alternative names that a device asks for, by Apple's names.
type SubjectAltName struct {
	RFC822Names     []string
	DNSNames        []string
	URIs            []string
	NTPrincipalName string // the only kind of which there can't be several
}

// KeyUsage says what a key is for. It is a sum of bits.
type KeyUsage int

// The usages that Apple knows.
const (
	Signing    KeyUsage = 1
	Encryption KeyUsage = 4

	bothUsages = Signing | Encryption // where none is given: Apple's default leaves it to the system
)

// Polling is how often a device asks for a certificate that is pending.
type Polling struct {
	Retries int
	Delay   time.Duration // whole seconds
}

// payload returns the payload, as display is what heads it in the device's settings.
func (s SCEP) payload(head heading, display string) map[string]any {
	subject := make([]any, len(s.Subject))
	for i, rdn := range s.Subject {
		attributes := make([]any, len(rdn))
		for j, a := range rdn {
			attributes[j] = []any{a.Type, a.Value}
		}
		subject[i] = attributes
	}
	keySize, usage, polling := s.KeySize, s.KeyUsage, s.Polling
	if keySize == 0 {
		keySize = 2048 // Apple's default is 1024
	}
	if usage == 0 {
		usage = bothUsages
	}
	if polling == nil {
		polling = &Polling{Retries: 3, Delay: 10 * time.Second}
	}
	content := map[string]any{ // names with spaces are Apple's
		"URL":                s.URL,
		"Subject":            subject,
		"Keysize":            keySize,
		"Key Type":           "RSA",
		"Key Usage":          int(usage),
		"Retries":            polling.Retries,
		"RetryDelay":         int(polling.Delay / time.Second),
		"KeyIsExtractable":   s.Extractable, // Apple's default is true
		"AllowAllAppsAccess": s.AllAppsMayUse,
	}
	if s.Name != "" {
		content["Name"] = s.Name
	}
	if s.Challenge != "" {
		content["Challenge"] = s.Challenge
	}
	switch {
	case s.CA != nil:
		sum := sha256.Sum256(s.CA.Raw)
		content["CAFingerprint"] = sum[:] // its length names the digest
	case s.Fingerprint != nil:
		content["CAFingerprint"] = s.Fingerprint
	}
	if names := s.SANs.encode(); len(names) > 0 {
		content["SubjectAltName"] = names
	}
	p := head.payload("com.apple.security.scep", head.identifier+".scep", display)
	p["PayloadUUID"] = s.PayloadUUID
	p["PayloadContent"] = content
	return p
}

func (n SubjectAltName) encode() map[string]any {
	names := map[string]any{}
	for _, kind := range []struct {
		key    string
		values []string
	}{{"rfc822Name", n.RFC822Names}, {"dNSName", n.DNSNames}, {"uniformResourceIdentifier", n.URIs}} {
		switch len(kind.values) {
		case 0:
		case 1: // as the schema says; arrays are in Apple's text only
			names[kind.key] = kind.values[0]
		default:
			list := make([]any, len(kind.values))
			for i, v := range kind.values {
				list[i] = v
			}
			names[kind.key] = list
		}
	}
	if n.NTPrincipalName != "" {
		names["ntPrincipalName"] = n.NTPrincipalName
	}
	return names
}

// maxCN is where macOS cuts a common name without a word, in bytes.
const maxCN = 64

func (s SCEP) check() error {
	if s.PayloadUUID == "" {
		return errors.New("SCEP.PayloadUUID is required")
	}
	if err := checkURL(s.URL); err != nil {
		return fmt.Errorf("SCEP.URL: %w", err)
	}
	switch s.KeySize {
	case 0, 1024, 2048, 4096:
	default:
		return fmt.Errorf("SCEP.KeySize %d is not 1024, 2048 or 4096", s.KeySize)
	}
	if s.KeyUsage&^bothUsages != 0 {
		return fmt.Errorf("SCEP.KeyUsage %d is not 1, 4 or 5", s.KeyUsage)
	}
	if p := s.Polling; p != nil && (p.Retries < 0 || p.Delay < 0 || p.Delay%time.Second != 0) {
		return errors.New("SCEP.Polling must be whole seconds, and nothing negative")
	}
	switch len(s.Fingerprint) {
	case 0, 20, 28, 32, 48, 64:
	default:
		return fmt.Errorf("SCEP.Fingerprint of %d bytes is no SHA digest", len(s.Fingerprint))
	}
	if s.CA != nil && s.Fingerprint != nil {
		return errors.New("SCEP has both CA and Fingerprint")
	}
	return s.checkSubject()
}

func (s SCEP) checkSubject() error {
	for _, rdn := range s.Subject {
		if len(rdn) == 0 {
			return errors.New("SCEP.Subject has an empty part")
		}
		for _, a := range rdn {
			if a.Type == "" || a.Value == "" {
				return errors.New("SCEP.Subject has an empty part")
			}
			if a.Type == "CN" && len(a.Value) > maxCN {
				return fmt.Errorf("the CN of SCEP.Subject has %d bytes, at most %d", len(a.Value), maxCN)
			}
		}
	}
	return nil
}

// named says whether the subject has a CN.
func (s SCEP) named() bool {
	for _, rdn := range s.Subject {
		for _, a := range rdn {
			if a.Type == "CN" {
				return true
			}
		}
	}
	return false
}
