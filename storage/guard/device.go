package guard

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
)

// minDeviceRSABits is what the identities that Apple builds into devices have at the
// least, as has the authority that issues them.
const minDeviceRSABits = 1024

// VerifyAttachedByDevice is VerifyAttached for a message that a device signs by the
// identity that Apple built into it (Apple: "Over-the-Air Profile Delivery and
// Configuration"; MachineInfo): an RSA key may have 1024 bits. Such a signature says
// little by itself; [CheckIssuedByKey] tells whether Apple vouches for the signer.
func VerifyAttachedByDevice(cms []byte, maxBytes int) (Signature, error) {
	return verifyAttached(cms, maxBytes, minDeviceRSABits)
}

// CheckIssuedByKey says whether the owner of key, an [*rsa.PublicKey] of 1024 to 4096
// bits or an [*ecdsa.PublicKey], signed cert. It takes SHA-1, by which Apple signs the
// identities of devices and which crypto/x509 refuses; so it is for keys that are pinned,
// and for nothing else. It judges neither dates, nor names, nor usage.
func CheckIssuedByKey(cert *x509.Certificate, key crypto.PublicKey) error {
	if err := checkKeyBoundsFrom(key, minDeviceRSABits); err != nil {
		return err
	}
	hash, ok := certificateHash(cert.SignatureAlgorithm, key)
	if !ok || !rightSignature(key, hash, sum(hash, cert.RawTBSCertificate), cert.Signature) {
		return fmt.Errorf("%w: of a certificate", ErrSignature)
	}
	return nil
}

// certificateHash returns the hash function of a signature by key.
func certificateHash(algorithm x509.SignatureAlgorithm, key crypto.PublicKey) (hash crypto.Hash, ok bool) {
	switch key.(type) {
	case *rsa.PublicKey:
		hash, ok = map[x509.SignatureAlgorithm]crypto.Hash{
			x509.SHA1WithRSA: crypto.SHA1, x509.SHA256WithRSA: crypto.SHA256,
			x509.SHA384WithRSA: crypto.SHA384, x509.SHA512WithRSA: crypto.SHA512,
		}[algorithm]
	case *ecdsa.PublicKey:
		hash, ok = map[x509.SignatureAlgorithm]crypto.Hash{
			x509.ECDSAWithSHA1: crypto.SHA1, x509.ECDSAWithSHA256: crypto.SHA256,
			x509.ECDSAWithSHA384: crypto.SHA384, x509.ECDSAWithSHA512: crypto.SHA512,
		}[algorithm]
	}
	return hash, ok
}
