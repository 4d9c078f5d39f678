package depot

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
)

// Errors of authorities elsewhere that requests are passed on to.
var (
	// ErrUpstreamUnavailable means that the other authority can't be reached, or has not
	// decided yet: the same request may be granted later.
	ErrUpstreamUnavailable = errors.New("the other authority is not available")

	// ErrUpstreamRefused means that the other authority has refused, or answers with what
	// must not be believed.
	ErrUpstreamRefused = errors.New("the other authority refuses")
)

// RevocationNote says what somebody who revokes c has to know, empty if there is nothing.
func (c Certificate) RevocationNote() string {
	if c.Authority != ExternalAuthority {
		return ""
	}
	return "another authority issued it, and must revoke it too: our lists and OCSP answers do not tell of it"
}

// ExternalSerial is what stands in [Certificate.Serial] of a certificate that is not
// ours: its serial number, a dash, and a part of the digest of its issuer's name. A serial
// number says which certificate is meant among those of one authority only (RFC 5280,
// 4.1.2.2), and there are authorities that begin at 1.
func ExternalSerial(cert *x509.Certificate) Serial {
	sum := sha256.Sum256(cert.RawIssuer)
	return SerialOf(cert) + "-" + Serial(hex.EncodeToString(sum[:4]))
}
