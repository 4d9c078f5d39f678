package template

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Key usages that a template may have, by their names in RFC 5280, 4.2.1.3.
const (
	DigitalSignature = "digitalSignature"
	KeyEncipherment  = "keyEncipherment"
)

// keyUsages returns the bits of usages.
func keyUsages(usages []string) (bits x509.KeyUsage, err error) {
	for _, usage := range usages {
		var bit x509.KeyUsage
		switch usage {
		case DigitalSignature:
			bit = x509.KeyUsageDigitalSignature
		case KeyEncipherment:
			bit = x509.KeyUsageKeyEncipherment
		default:
			return 0, fmt.Errorf("has %.64q, which is neither %s nor %s", usage, DigitalSignature, KeyEncipherment)
		}
		if bits&bit != 0 {
			return 0, fmt.Errorf("has %s twice", usage)
		}
		bits |= bit
	}
	if bits == 0 {
		return 0, errors.New("must have at least one")
	}
	return bits, nil
}

// purpose is an extended key usage with a name.
type purpose struct {
	name    string
	oid     string
	std     x509.ExtKeyUsage
	unnamed bool   // crypto/x509 has none for it
	refused string // why no template has it
}

func purposes() []purpose {
	return []purpose{
		{name: "clientAuth", oid: "1.3.6.1.5.5.7.3.2", std: x509.ExtKeyUsageClientAuth},
		{name: "serverAuth", oid: "1.3.6.1.5.5.7.3.1", std: x509.ExtKeyUsageServerAuth},
		{name: "emailProtection", oid: "1.3.6.1.5.5.7.3.4", std: x509.ExtKeyUsageEmailProtection},
		{name: "codeSigning", oid: "1.3.6.1.5.5.7.3.3", std: x509.ExtKeyUsageCodeSigning},
		{name: "ipsecIKE", oid: "1.3.6.1.5.5.7.3.17", unnamed: true},           // RFC 4945
		{name: "smartcardLogon", oid: "1.3.6.1.4.1.311.20.2.2", unnamed: true}, // Windows, and macOS with a directory
		{name: "pkinitKPClientAuth", oid: "1.3.6.1.5.2.3.4", unnamed: true},    // RFC 4556
		{name: "eapOverLAN", oid: "1.3.6.1.5.5.7.3.14", unnamed: true},         // RFC 4334
		{name: "anyExtendedKeyUsage", oid: "2.5.29.37.0", refused: "would make the certificate good for any purpose"},
		{name: "OCSPSigning", oid: "1.3.6.1.5.5.7.3.9", refused: "would let its holder say which certificates are revoked"},
		{name: "timeStamping", oid: "1.3.6.1.5.5.7.3.8", refused: "is for time-stamping authorities"},
		{name: "anyApplicationPolicy", oid: "1.3.6.1.4.1.311.10.12.1", refused: "would make the certificate good for any purpose"},
		{name: "certificateRequestAgent", oid: "1.3.6.1.4.1.311.20.2.1", refused: "would let its holder ask for certificates of others"},
	}
}

// PurposeName returns the name that RFC 5280 and its kin have for an extended key usage, or
// the OID itself.
func PurposeName(oid string) string {
	for _, p := range purposes() {
		if p.oid == oid {
			return p.name
		}
	}
	return oid
}

// purposeOf finds an extended key usage by its name or OID.
func purposeOf(s string) (purpose, error) {
	for _, p := range purposes() {
		if p.name != s && p.oid != s {
			continue
		}
		if p.refused != "" {
			return purpose{}, fmt.Errorf("%s is not for templates: it %s", p.name, p.refused)
		}
		return p, nil
	}
	if _, err := parseOID(s); err != nil {
		var names []string
		for _, p := range purposes() {
			if p.refused == "" {
				names = append(names, p.name)
			}
		}
		return purpose{}, fmt.Errorf("%.64q is none of %s, and no dotted OID", s, strings.Join(names, ", "))
	}
	return purpose{name: s, oid: s, unnamed: true}, nil
}

// CanonicalUsages returns extended key usages with those by their names that have one.
// What is none is left for [Template.Check].
func CanonicalUsages(usages []string) []string {
	out := slices.Clone(usages)
	for i, usage := range usages {
		if p, err := purposeOf(usage); err == nil {
			out[i] = p.name
		}
	}
	return out
}

const maxPurposes = 16

func (e *FieldErrors) checkUsages(field string, usages []string) {
	if len(usages) == 0 {
		e.add(field, "must have at least one: a certificate without would be good for any purpose")
	}
	if len(usages) > maxPurposes {
		e.add(field, "has %d values, at most %d", len(usages), maxPurposes)
		return
	}
	seen := map[string]bool{}
	for i, usage := range usages {
		p, err := purposeOf(usage)
		switch {
		case err != nil:
			e.join(fmt.Sprintf("%s[%d]", field, i), err)
		case seen[p.oid]:
			e.add(fmt.Sprintf("%s[%d]", field, i), "is there twice")
		}
		seen[p.oid] = true
	}
}

// extKeyUsages returns usages as crypto/x509 takes them: by its own names, and the OIDs
// of what it has no names for.
func extKeyUsages(usages []string) (named []x509.ExtKeyUsage, oids []asn1.ObjectIdentifier, err error) {
	for _, usage := range usages {
		p, err := purposeOf(usage)
		if err != nil {
			return nil, nil, err
		}
		if !p.unnamed {
			named = append(named, p.std)
			continue
		}
		oid, err := parseOID(p.oid)
		if err != nil {
			return nil, nil, err
		}
		oids = append(oids, oid)
	}
	return named, oids, nil
}
