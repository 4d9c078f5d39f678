package guard

import (
	"crypto/x509"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

const (
	// maxCertificateBytes bounds a certificate. Apple's have 1 to 2 KB.
	maxCertificateBytes = 64 << 10

	// defaultCSRBytes bounds a certificate request for callers that name no limit.
	defaultCSRBytes = 64 << 10

	// maxCSRParts is how many attributes, extensions and alternative names a
	// certificate request may have, of each.
	maxCSRParts = 100
)

// ParseCertificate parses a certificate in DER, and checks its key as
// CheckPublicKey does. It judges no signature, date or trust.
func ParseCertificate(der []byte) (*x509.Certificate, error) {
	if err := within(len(der), maxCertificateBytes, 0); err != nil {
		return nil, err
	}
	cert, err := parseCertificate(der)
	if err != nil {
		return nil, err
	}
	if err := CheckPublicKey(cert.PublicKey); err != nil {
		return nil, err
	}
	return cert, nil
}

// ParseCSR parses a certificate request (PKCS #10, RFC 2986) in DER of at most
// maxBytes bytes, or 64 KiB if that is zero. The request may have 100 attributes,
// extensions and alternative names, of each. Its signature and its key are
// CheckCSR's to judge.
func ParseCSR(der []byte, maxBytes int) (csr *x509.CertificateRequest, err error) {
	if err := within(len(der), maxBytes, defaultCSRBytes); err != nil {
		return nil, err
	}
	if _, err := normalize(der); err != nil {
		return nil, fmt.Errorf("%w: not ASN.1 within limits", ErrCertificate)
	}
	defer refuse(ErrCertificate, &err)
	csr, err = x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: crypto/x509 can't read it", ErrCertificate)
	}
	attrs, err := CSRAttributes(csr)
	if err != nil {
		return nil, err
	}
	names := len(csr.DNSNames) + len(csr.EmailAddresses) + len(csr.IPAddresses) + len(csr.URIs)
	if len(attrs) > maxCSRParts || len(csr.Extensions) > maxCSRParts || names > maxCSRParts {
		return nil, fmt.Errorf("%w: more than %d attributes, extensions or names", ErrCertificate, maxCSRParts)
	}
	return csr, nil
}

// CSRAttributes returns the attributes of a certificate request, in its order.
func CSRAttributes(csr *x509.CertificateRequest) ([]Attribute, error) {
	// CertificationRequestInfo (RFC 2986, 4.1).
	var info, skipped, attrs cryptobyte.String
	var version int64
	in := cryptobyte.String(csr.RawTBSCertificateRequest)
	if !in.ReadASN1(&info, cbasn1.SEQUENCE) ||
		!info.ReadASN1Integer(&version) ||
		!info.ReadASN1(&skipped, cbasn1.SEQUENCE) || // subject
		!info.ReadASN1(&skipped, cbasn1.SEQUENCE) { // public key
		return nil, fmt.Errorf("%w: it is not built as a request is", ErrCertificate)
	}
	if info.Empty() { // should be there, but empty; some clients leave it out
		return nil, nil
	}
	if !info.ReadASN1Element(&attrs, tagContext0) || !info.Empty() {
		return nil, fmt.Errorf("%w: it is not built as a request is", ErrCertificate)
	}
	list, err := parseAttributes(attrs, tagContext0)
	if err != nil {
		return nil, fmt.Errorf("%w: malformed attribute", ErrCertificate)
	}
	return list, nil
}

// CheckCSR says whether the key of csr is one that we issue certificates for,
// and whether its owner signed csr: the proof of possession (RFC 2986, 3).
func CheckCSR(csr *x509.CertificateRequest) (err error) {
	if err := CheckPublicKey(csr.PublicKey); err != nil {
		return err
	}
	defer refuse(ErrCertificate, &err)
	if err := csr.CheckSignature(); err != nil {
		return fmt.Errorf("%w: of a certificate request", ErrSignature)
	}
	return nil
}

// CheckIssued says whether the key of issuer signed cert. It judges neither dates
// nor usage; the names need not match either.
func CheckIssued(cert, issuer *x509.Certificate) (err error) {
	if err := checkKeyBounds(issuer.PublicKey); err != nil {
		return err
	}
	defer refuse(ErrCertificate, &err)
	if err := issuer.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		return fmt.Errorf("%w: of a certificate", ErrSignature)
	}
	return nil
}
