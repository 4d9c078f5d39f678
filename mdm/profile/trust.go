package profile

import (
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/mdm/internal/plistxml"
)

// Trust describes a profile that makes a device trust roots, and does nothing else. A new
// one with the same Identifier takes the place of the old one.
type Trust struct {
	Identifier   string // PayloadIdentifier: TrustIdentifier makes one
	DisplayName  string // heads the profile in the device's settings
	Organization string // optional
	Roots        []*x509.Certificate
}

// TrustIdentifier returns the PayloadIdentifier for the profile with the roots of a
// server, from the host of its URL: "com.example.mdm.gatehouse.trust".
func TrustIdentifier(host string) string { return reversed(host) + ".gatehouse.trust" }

// Encode returns the profile as an XML property list, unsigned. The same Trust gives the
// same bytes.
func (t Trust) Encode() ([]byte, error) {
	if t.Identifier == "" || t.DisplayName == "" || len(t.Roots) == 0 {
		return nil, errors.New("profile of roots: Identifier, DisplayName and Roots are required")
	}
	head := heading{t.Identifier, t.Organization}
	top := head.payload("Configuration", t.Identifier, t.DisplayName)
	top["PayloadScope"] = string(ScopeSystem)
	top["PayloadContent"] = head.roots(t.Roots)
	raw, err := plistxml.Marshal(top)
	if err != nil {
		return nil, fmt.Errorf("profile of roots: %w", err)
	}
	return raw, nil
}
