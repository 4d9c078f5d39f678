package profile

import (
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/mdm/internal/plistxml"
)

// Credential describes a profile that brings a device one certificate, for Wi-Fi, VPN
// or mail, and what the device needs to trust its issuer.
//
// A new one with the same Identifier takes the place of the old one. With the same
// SCEP.PayloadUUID the device keeps its key and certificate; with another it gets new
// ones, and gives up the old ones once it has them.
type Credential struct {
	Identifier   string // PayloadIdentifier: CredentialIdentifier makes one
	DisplayName  string // heads the profile in the device's settings
	Organization string // optional, as Description
	Description  string

	// Scope is ScopeUser for the user channel of a Mac. On iPhones and iPads the device
	// channel alone takes SCEP.
	Scope Scope

	Roots []*x509.Certificate
	SCEP  SCEP
}

// CredentialIdentifier returns the PayloadIdentifier for the profile that brings the
// certificate of a template, from the host of the server's URL:
// "com.example.mdm.gatehouse.certificate.wifi".
func CredentialIdentifier(host, template string) string {
	return reversed(host) + ".gatehouse.certificate." + template
}

// Encode returns the profile as an XML property list, unsigned. The same Credential
// gives the same bytes.
func (c Credential) Encode() ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("profile of a certificate: %w", err)
	}
	head := heading{c.Identifier, c.Organization}
	top := head.payload("Configuration", c.Identifier, c.DisplayName)
	top["PayloadScope"] = string(c.Scope)
	top["PayloadContent"] = append(head.roots(c.Roots), c.SCEP.payload(head, c.DisplayName))
	if c.Description != "" {
		top["PayloadDescription"] = c.Description
	}
	raw, err := plistxml.Marshal(top)
	if err != nil {
		return nil, fmt.Errorf("profile of a certificate: %w", err)
	}
	return raw, nil
}

func (c Credential) check() error {
	switch {
	case c.Identifier == "" || c.DisplayName == "":
		return errors.New("Identifier and DisplayName are required")
	case c.Scope != ScopeUser && c.Scope != ScopeSystem:
		return fmt.Errorf("no scope %q", c.Scope)
	}
	return c.SCEP.check()
}
