package template

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
)

// Expanded is what a template comes to for one device: what the certificate says, and
// what the device is told to ask for.
type Expanded struct {
	Subject    Subject // values are text as it is
	RawSubject []byte  // the same in DER
	SANs       SANs

	KeyUsage        x509.KeyUsage
	ExtKeyUsage     []x509.ExtKeyUsage
	ExtKeyUsageOIDs []asn1.ObjectIdentifier // that ExtKeyUsage has no names for
}

// Expand replaces the variables of t by what f says. It returns a *FieldError where a
// fact is missing, or makes a name that no certificate can have.
//
// There are as many RDNs, attributes and alternative names of each type as in t, whatever
// f holds.
func (t Template) Expand(f Facts) (Expanded, error) {
	var e Expanded
	var err error
	if e.Subject, err = t.Subject.expand(f); err != nil {
		return Expanded{}, fmt.Errorf("template %s: %w", t.Name, err)
	}
	if e.SANs, err = t.SANs.expand(f); err != nil {
		return Expanded{}, fmt.Errorf("template %s: %w", t.Name, err)
	}
	if e.RawSubject, err = e.Subject.der(); err != nil {
		return Expanded{}, fmt.Errorf("template %s: subject: %w", t.Name, err)
	}
	e.KeyUsage, e.ExtKeyUsage, e.ExtKeyUsageOIDs, err = t.Usages()
	return e, err
}
