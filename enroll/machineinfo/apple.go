package machineinfo

import (
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// iPhoneDeviceCA issues the identities of iPhones, iPads and Macs. Apple prints it in
// "Over-the-Air Profile Delivery and Configuration", "Creating a Profile Server for
// Over-The-Air Enrollment and Configuration". It expired in 2014, has 1024 bits, and signs
// by SHA-1; Apple's devices are issued by it all the same (PROTOCOL 2.2).
//
//go:embed apple-iphone-device-ca.pem
var iPhoneDeviceCA []byte

// ErrNotApple means that none of the authorities for device identities issued a certificate.
var ErrNotApple = errors.New("no authority for device identities issued the certificate")

// Authorities are those that issue identities to devices. Their keys are what counts:
// neither their dates nor what is above them, nor the chain that a message brings, which is
// another one for Macs than for iPhones, and often none.
//
// An authority is pinned, never a root: Apple's roots are also above the certificates of
// developers and for push, which anybody can have.
type Authorities struct{ pinned []*x509.Certificate }

// Apple returns Apple's authorities.
func Apple() (Authorities, error) {
	block, _ := pem.Decode(iPhoneDeviceCA)
	if block == nil {
		return Authorities{}, errors.New("machineinfo: no certificate of Apple's is built in")
	}
	cert, err := x509.ParseCertificate(block.Bytes) // the guard refuses its key as too short
	if err != nil {
		return Authorities{}, fmt.Errorf("machineinfo: Apple's certificate: %w", err)
	}
	return Pin(cert), nil
}

// Pin returns authorities in the place of Apple's, for tests.
func Pin(pinned ...*x509.Certificate) Authorities { return Authorities{pinned} }

// Vouch returns nil if one of the authorities issued cert. ErrNotApple says who else
// pretends to have.
func (a Authorities) Vouch(cert *x509.Certificate) error {
	for _, ca := range a.pinned {
		if guard.CheckIssuedByKey(cert, ca.PublicKey) == nil {
			return nil
		}
	}
	return fmt.Errorf("%w: its issuer is %.200q", ErrNotApple, cert.Issuer)
}
