package template

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

const (
	// MaxRootFile is how many bytes a file of root certificates may have.
	MaxRootFile = 1 << 20

	maxRoots = 10
)

var (
	errPrivateKey  = errors.New("holds a private key, which must stay where it is: give the certificate alone")
	errCertificate = errors.New("is no certificate in PEM or DER")
)

// ParseRoots reads the certificates of authorities from a file in PEM or DER. It returns
// each in DER.
//
// Its errors are for whoever gave the file.
func ParseRoots(file []byte) ([][]byte, error) {
	certs, err := readCertificates(file)
	if err != nil {
		return nil, err
	}
	var roots [][]byte
	for _, cert := range certs {
		if !cert.IsCA || !cert.BasicConstraintsValid {
			return nil, fmt.Errorf("holds the certificate of %.100q, which is no authority's", cert.Subject.String())
		}
		roots = append(roots, cert.Raw)
	}
	return roots, nil
}

// readCertificates reads at least one certificate.
func readCertificates(file []byte) ([]*x509.Certificate, error) {
	if len(file) > MaxRootFile {
		return nil, fmt.Errorf("has %d bytes, at most %d", len(file), MaxRootFile)
	}
	if !bytes.Contains(file, []byte("-----BEGIN ")) {
		if isPrivateKey(file) {
			return nil, errPrivateKey
		}
		cert, err := parseCertificate(file)
		if err != nil {
			return nil, err
		}
		return []*x509.Certificate{cert}, nil
	}
	if bytes.Contains(file, []byte("PRIVATE KEY-----")) { // also one that can't be read
		return nil, errPrivateKey
	}
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		block, file = pem.Decode(file)
		switch {
		case block == nil && len(certs) == 0:
			return nil, errCertificate
		case block == nil:
			return certs, nil
		case block.Type != "CERTIFICATE" && block.Type != "TRUSTED CERTIFICATE":
			return nil, fmt.Errorf("holds a PEM block %.40q, and no certificate in it", block.Type)
		case len(certs) == maxRoots:
			return nil, fmt.Errorf("holds more than %d certificates", maxRoots)
		}
		cert, err := parseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
}

func parseCertificate(der []byte) (*x509.Certificate, error) {
	cert, err := guard.ParseCertificate(der)
	switch {
	case errors.Is(err, guard.ErrKey):
		return nil, errors.New("holds a certificate whose key is too weak, or of a kind that is not supported")
	case err != nil:
		return nil, errCertificate
	}
	return cert, nil
}

func isPrivateKey(der []byte) bool {
	if _, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return true
	}
	if _, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return true
	}
	_, err := x509.ParseECPrivateKey(der)
	return err == nil
}

func (t Template) checkRoots(bad *FieldErrors) {
	if len(t.Roots) > maxRoots {
		bad.add("root_certificates", "has %d certificates, at most %d", len(t.Roots), maxRoots)
		return
	}
	for i, der := range t.Roots {
		roots, err := ParseRoots(der)
		if err == nil && len(roots) != 1 {
			err = errCertificate
		}
		bad.join(fmt.Sprintf("root_certificates[%d]", i), err)
	}
	if len(t.Roots) > 0 && !t.IncludeRoot {
		bad.add("root_certificates", "are sent to no device without include_root")
	}
}

// RootCertificates returns Roots, parsed.
func (t Template) RootCertificates() ([]*x509.Certificate, error) {
	roots := make([]*x509.Certificate, len(t.Roots))
	for i, der := range t.Roots {
		var err error
		if roots[i], err = guard.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("template %s: root certificate %d: %w", t.Name, i, err)
		}
	}
	return roots, nil
}
