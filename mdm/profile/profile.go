// Package profile writes and reads configuration profiles: it builds those that enroll
// a device and those that bring it a certificate, makes others from forms and starters,
// signs profiles, and takes signed ones out of their envelope. It says what is wrong with
// a profile and what a device would not take of it, and fills in what is each device's own.
//
// It knows nothing of users, devices or certificate authorities, and keeps nothing.
package profile

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/smallstep/pkcs7"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// ContentType is the media type of profiles, signed or not.
const ContentType = "application/x-apple-aspen-config"

// MaxSize is the size in bytes up to which profiles are read.
const MaxSize = 8 << 20

// ErrNotProfile means that something is no configuration profile.
var ErrNotProfile = errors.New("not a configuration profile")

// Sign returns profile inside a CMS SignedData message (RFC 5652) in DER, signed
// with SHA-256 by signer, whose certificate is cert. The chain goes along, so that
// a device that trusts its root shows "Verified"; the root itself may be left out.
//
// signer holds an RSA or ECDSA key.
func Sign(profile []byte, cert *x509.Certificate, signer crypto.Signer, chain ...*x509.Certificate) ([]byte, error) {
	public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(signer.Public()) {
		return nil, errors.New("sign profile: the key is not the certificate's")
	}
	signed, err := pkcs7.NewSignedData(profile)
	if err != nil {
		return nil, fmt.Errorf("sign profile: %w", err)
	}
	signed.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if err := signed.AddSigner(cert, signer, pkcs7.SignerInfoConfig{}); err != nil {
		return nil, fmt.Errorf("sign profile: %w", err)
	}
	for _, c := range chain {
		signed.AddCertificate(c)
	}
	der, err := signed.Finish()
	if err != nil {
		return nil, fmt.Errorf("sign profile: %w", err)
	}
	return der, nil
}

// Unwrap returns the property list of a profile, and the certificate that signed
// it, nil if none did. The signature is right; whether the signer is trusted, and
// was at the time, is not looked at.
//
// Errors wrap ErrNotProfile, with guard's about the encoding.
func Unwrap(data []byte) (plist []byte, signer *x509.Certificate, err error) {
	if data = unarmor(data); isSigned(data) {
		signature, err := guard.VerifyAttached(data, MaxSize)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrNotProfile, err)
		}
		data, signer = signature.Content, signature.Certificate
	}
	if err := guard.CheckPlist(data, guard.PlistLimits{Bytes: MaxSize}); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrNotProfile, err)
	}
	return data, signer, nil
}

// Identifier returns the PayloadIdentifier of a profile: the name under which a
// device replaces one profile by another. A signature is not checked, since the
// device goes by the name in any case; errors are as of Unwrap.
func Identifier(data []byte) (string, error) {
	if data = unarmor(data); isSigned(data) {
		message, err := guard.ParseCMS(data, MaxSize)
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrNotProfile, err)
		}
		data = message.Content
	}
	var top struct {
		PayloadType       string
		PayloadIdentifier string
	}
	if err := guard.DecodePlist(data, &top, guard.PlistLimits{Bytes: MaxSize}); err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotProfile, err)
	}
	switch {
	case top.PayloadType != "Configuration":
		return "", fmt.Errorf("%w: its PayloadType is not Configuration", ErrNotProfile)
	case top.PayloadIdentifier == "":
		return "", fmt.Errorf("%w: it has no PayloadIdentifier", ErrNotProfile)
	}
	return top.PayloadIdentifier, nil
}

// isSigned tells BER, which begins with a SEQUENCE, from a property list.
func isSigned(data []byte) bool {
	return bytes.HasPrefix(data, []byte{0x30})
}
