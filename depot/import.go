package depot

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

const (
	// maxImport bounds what an authority is imported from, in bytes.
	maxImport = 1 << 20
	// maxPassphrase bounds what it is encrypted with, in bytes.
	maxPassphrase = 1024
	// maxImportCertificates is how many certificates it may hold.
	maxImportCertificates = 16
)

// Import is an authority that was somebody else's, as its owner hands it over.
type Import struct {
	Data       []byte // PEM, or PKCS #12 in DER: the certificate, those above it, and the key
	Passphrase string // of an encrypted key, or of the PKCS #12 file
}

// Import stores somebody else's authority as the next one of a name; it issues nothing
// before [Depot.Activate]. What is wrong with it is an error of type [*FieldError], of
// the field "certificate", "key", "passphrase" or "data". It also wraps [ErrNextExists]
// or [ErrAuthorityHere].
//
// Any of the three may be imported, the organisation root only as a root. An issuer of
// payload certificates that is below a root of its own brings the certificates above
// it along: they are its [Authority.Chain] from then on, and its root is one of
// [Depot.Anchors]. also may be nil.
func (d *Depot) Import(ctx context.Context, name string, in Import, also Also) (*Authority, error) {
	r, err := roleOf(name)
	if err != nil {
		return nil, err
	}
	parts, err := readImport(in)
	if err != nil {
		return nil, fmt.Errorf("import %s authority: %w", name, err)
	}
	cert, above, err := parts.authority()
	if err != nil {
		return nil, fmt.Errorf("import %s authority: %w", name, err)
	}
	if err := checkImport(r, cert, above, d.now()); err != nil {
		return nil, fmt.Errorf("import %s authority: %w", name, err)
	}
	generation, err := d.nextGeneration(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("import %s authority: %w", name, err)
	}
	a := &Authority{
		name: name, id: authorityID(cert), generation: generation, imported: true,
		cert: cert, above: above, key: parts.key, urls: d.urls,
	}
	if err := d.add(ctx, a, also); err != nil {
		return nil, fmt.Errorf("import %s authority: %w", name, err)
	}
	return d.Authority(a.id), nil
}

// importParts is what was found in an Import.
type importParts struct {
	key   crypto.Signer
	certs []*x509.Certificate
}

// authority returns the certificate that the key belongs to and, in order, those above it.
func (p importParts) authority() (cert *x509.Certificate, above []*x509.Certificate, err error) {
	switch {
	case len(p.certs) == 0:
		return nil, nil, &FieldError{"certificate", "is missing: only a key was found"}
	case p.key == nil:
		return nil, nil, &FieldError{"key", "is missing: only certificates were found"}
	}
	public := p.key.Public().(interface{ Equal(crypto.PublicKey) bool })
	for _, c := range p.certs {
		if public.Equal(c.PublicKey) {
			cert = c
			break
		}
	}
	if cert == nil {
		return nil, nil, &FieldError{"key", "is not that of the certificate"}
	}
	for at := cert; !isRoot(at); {
		i := slices.IndexFunc(p.certs, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, at.RawIssuer) && guard.CheckIssued(at, c) == nil
		})
		if i < 0 || len(above) >= maxImportCertificates {
			return nil, nil, &FieldError{"certificate", fmt.Sprintf("must come with those above it, up to a root: %q is missing", at.Issuer)}
		}
		at = p.certs[i]
		above = append(above, at)
	}
	return cert, above, nil
}

// checkImport says whether cert can be an authority of ours.
func checkImport(r role, cert *x509.Certificate, above []*x509.Certificate, now time.Time) error {
	wrong := func(format string, args ...any) error {
		return &FieldError{"certificate", fmt.Sprintf(format, args...)}
	}
	for _, c := range append([]*x509.Certificate{cert}, above...) {
		switch {
		case !c.BasicConstraintsValid || !c.IsCA:
			return wrong("of %q must be an authority's: it is an end entity's", c.Subject)
		case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
			return wrong("of %q must allow keyCertSign", c.Subject)
		case now.Before(c.NotBefore):
			return wrong("of %q is not valid before %s", c.Subject, c.NotBefore.UTC().Format(time.RFC3339))
		case !now.Before(c.NotAfter):
			return wrong("of %q expired at %s", c.Subject, c.NotAfter.UTC().Format(time.RFC3339))
		case len(c.UnhandledCriticalExtensions) > 0:
			return wrong("of %q has a critical extension that is not known here: %s", c.Subject, c.UnhandledCriticalExtensions[0])
		}
	}
	for i, c := range above { // i authorities are between c and cert
		if limit, ok := pathLimit(c); ok && limit < i+1+r.pathLen {
			return wrong("of %q allows too short a path of authorities below it", c.Subject)
		}
	}
	key, isRSA := cert.PublicKey.(*rsa.PublicKey)
	switch limit, limited := pathLimit(cert); {
	case cert.Subject.CommonName == "":
		return wrong("must have a common name, by which people and devices tell authorities apart")
	case len(cert.SubjectKeyId) < 8:
		return wrong("must have a subject key identifier of at least 8 bytes")
	case cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return wrong("must allow keyCertSign")
	case cert.KeyUsage&x509.KeyUsageCRLSign == 0:
		return wrong("must allow cRLSign: revocations are published in its name")
	case limited && limit < r.pathLen:
		return wrong("must allow an authority below it: its path length is %d", limit)
	case r.name == rootName && len(above) > 0:
		return wrong("must be a root's: %q issued it", cert.Issuer)
	case r.name != rootName && !isRSA:
		return wrong("must have an RSA key: devices encrypt their SCEP requests to it")
	case isRSA && (key.N.BitLen() < 2048 || key.N.BitLen() > 4096):
		return wrong("must have an RSA key of 2048 to 4096 bits")
	case len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) > 0 && !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny):
		return wrong("must not be restricted to some extended key usages")
	case constrained(cert):
		return wrong("must not be restricted to some names")
	}
	return nil
}

// pathLimit returns how many authorities there may be below c, if that is limited.
func pathLimit(c *x509.Certificate) (limit int, limited bool) {
	if c.MaxPathLen > 0 || c.MaxPathLen == 0 && c.MaxPathLenZero {
		return c.MaxPathLen, true
	}
	return 0, false
}

func constrained(c *x509.Certificate) bool {
	return len(c.PermittedDNSDomains)+len(c.ExcludedDNSDomains)+len(c.PermittedIPRanges)+len(c.ExcludedIPRanges)+
		len(c.PermittedEmailAddresses)+len(c.ExcludedEmailAddresses)+len(c.PermittedURIDomains)+len(c.ExcludedURIDomains) > 0
}

// readImport finds the certificates and the key.
func readImport(in Import) (parts importParts, err error) {
	if len(in.Data) > maxImport {
		return importParts{}, &FieldError{"data", "is larger than 1 MiB"}
	}
	if len(in.Passphrase) > maxPassphrase {
		return importParts{}, &FieldError{"passphrase", fmt.Sprintf("is longer than %d bytes", maxPassphrase)}
	}
	data := bytes.TrimSpace(in.Data)
	switch {
	case len(data) == 0:
		return importParts{}, &FieldError{"data", "is empty"}
	case bytes.HasPrefix(in.Data, []byte{0x30}):
		parts, err = readPKCS12(in.Data, in.Passphrase)
	default:
		parts, err = readPEM(data, in.Passphrase)
	}
	if err != nil {
		return importParts{}, err
	}
	if parts.key == nil {
		return parts, nil
	}
	if err := guard.CheckPublicKey(parts.key.Public()); err != nil {
		_, why, _ := strings.Cut(err.Error(), guard.ErrKey.Error()+": ")
		return importParts{}, &FieldError{"key", "is not good: " + why}
	}
	if key, ok := parts.key.(*rsa.PrivateKey); ok {
		if err := key.Validate(); err != nil {
			return importParts{}, &FieldError{"key", "is damaged"}
		}
	}
	return parts, nil
}

func (p *importParts) addCertificate(der []byte) error {
	if len(p.certs) == maxImportCertificates {
		return &FieldError{"certificate", fmt.Sprintf("must be one of at most %d", maxImportCertificates)}
	}
	cert, err := guard.ParseCertificate(der)
	if errors.Is(err, guard.ErrKey) {
		return &FieldError{"certificate", "has a key that is not good for an authority: RSA of 2048 to 4096 bits, or ECDSA on P-256, P-384 or P-521"}
	}
	if err != nil {
		return &FieldError{"certificate", "can't be read"}
	}
	p.certs = append(p.certs, cert)
	return nil
}

func (p *importParts) addKey(key any) error {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return p.addSigner(key)
	case *ecdsa.PrivateKey:
		return p.addSigner(key)
	}
	return &FieldError{"key", "must be an RSA or ECDSA key"}
}

func (p *importParts) addSigner(key crypto.Signer) error {
	if p.key != nil {
		return &FieldError{"key", "must be one: there are several"}
	}
	p.key = key
	return nil
}

func readPEM(data []byte, passphrase string) (p importParts, err error) {
	for {
		var block *pem.Block
		block, data = pem.Decode(data)
		if block == nil {
			break
		}
		der := block.Bytes
		switch block.Type {
		case "CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE":
			err = p.addCertificate(der)
		case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY":
			key, err := guard.PrivateKey(block, passphrase)
			if err == nil {
				err = p.addKey(key)
			}
			if err != nil {
				return importParts{}, ofKeyFile(err, "key", "can't be read as "+block.Type)
			}
		case "EC PARAMETERS": // openssl writes the curve's name before the key
		case "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST":
			err = &FieldError{"certificate", "is missing: this is a request for one"}
		default:
			err = &FieldError{"data", fmt.Sprintf("holds a %.40q, which is neither certificate nor private key", block.Type)}
		}
		if err != nil {
			return importParts{}, err
		}
	}
	if len(p.certs) == 0 && p.key == nil {
		return importParts{}, &FieldError{"data", "is neither PEM nor PKCS #12"}
	}
	return p, nil
}

// readPKCS12 reads a PKCS #12 file (RFC 7292) in DER.
func readPKCS12(der []byte, passphrase string) (p importParts, err error) {
	key, certs, err := guard.DecodePKCS12(der, passphrase)
	if err != nil {
		return importParts{}, ofKeyFile(err, "data", "can't be read as PKCS #12 in DER, or is encrypted in a way that is not known here; PEM will do")
	}
	for _, cert := range certs {
		if err := p.addCertificate(cert.Raw); err != nil {
			return importParts{}, err
		}
	}
	return p, p.addKey(key)
}

// ofKeyFile names the field that an error of guard's is about: that of field, with this
// reason, where it can't be read at all.
func ofKeyFile(err error, field, reason string) error {
	switch {
	case errors.Is(err, guard.ErrPassphraseMissing):
		return &FieldError{"passphrase", "is missing: the key is encrypted"}
	case errors.Is(err, guard.ErrPassphrase):
		return &FieldError{"passphrase", "is wrong, or the file is damaged"}
	case errors.Is(err, guard.ErrEncryption):
		return &FieldError{"key", "is encrypted in a way that is not known here; convert it with openssl pkcs8 -topk8 -v2 aes-256-cbc"}
	case errors.Is(err, guard.ErrTooLarge):
		return &FieldError{"data", "is too complex, or wants a passphrase hashed too often"}
	case errors.Is(err, guard.ErrNoCertificate):
		return &FieldError{"certificate", "is missing: the PKCS #12 file has none"}
	case errors.Is(err, guard.ErrNoPrivateKey):
		return &FieldError{"key", "is missing: the PKCS #12 file holds certificates only"}
	case errors.Is(err, guard.ErrSeveralKeys):
		return &FieldError{"key", "must be one: the PKCS #12 file has several"}
	case errors.Is(err, guard.ErrKeyFile):
		return &FieldError{field, reason}
	}
	return err
}
