package profile

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
)

// heading is what the payloads of one profile share.
type heading struct {
	identifier   string // of the profile; those of its payloads begin with it
	organization string // optional
}

// payload returns the keys that the profile and all payloads in it share (Apple's
// page "CommonPayloadKeys").
func (h heading) payload(payloadType, identifier, display string) map[string]any {
	p := map[string]any{
		"PayloadType":        payloadType,
		"PayloadVersion":     1,
		"PayloadIdentifier":  identifier,
		"PayloadUUID":        derivedUUID(identifier),
		"PayloadDisplayName": display,
	}
	if h.organization != "" {
		p["PayloadOrganization"] = h.organization
	}
	return p
}

// roots returns payloads that make a device trust certificates.
func (h heading) roots(certs []*x509.Certificate) []any {
	var payloads []any
	for _, cert := range certs {
		sum := sha256.Sum256(cert.Raw)
		name := cert.Subject.CommonName
		if name == "" {
			name = "Root certificate" // what heads an entry in the device's settings
		}
		p := h.payload("com.apple.security.root", h.identifier+".root."+hex.EncodeToString(sum[:8]), name)
		p["PayloadContent"] = cert.Raw
		p["PayloadCertificateFileName"] = "root.cer"
		payloads = append(payloads, p)
	}
	return payloads
}

// derivedUUID returns a UUID that is always the same for name (RFC 9562, 5.8: its
// form is ours).
func derivedUUID(name string) string {
	sum := sha256.Sum256([]byte("gatehouse payload " + name))
	b := sum[:16]
	b[6] = b[6]&0x0f | 0x80 // version 8
	b[8] = b[8]&0x3f | 0x80 // variant
	return fmt.Sprintf("%X-%X-%X-%X-%X", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// checkURL refuses what must not stand in a profile for good: a query, which would
// name one user or one day, and credentials.
func checkURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return errors.New("malformed URL")
	case u.Scheme != "https" && u.Scheme != "http": // http where a proxy or a test stands in front
		return fmt.Errorf("%q is no http or https URL", raw)
	case u.Host == "":
		return fmt.Errorf("%q has no host", raw)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.User != nil:
		return fmt.Errorf("%q must have no query, fragment or user", raw)
	}
	return nil
}
