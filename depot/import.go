package depot

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/ecdsa"
	"crypto/pbkdf2"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"software.sslmate.com/src/go-pkcs12"

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

// Messages about passphrases.
var (
	errPassphraseMissing = &FieldError{"passphrase", "is missing: the key is encrypted"}
	errPassphraseWrong   = &FieldError{"passphrase", "is wrong, or the file is damaged"}
)

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
			if der, err = decryptPEM(block, passphrase); err != nil {
				return importParts{}, err
			}
			var key any
			if key, err = parseKey(block.Type, der); err == nil {
				err = p.addKey(key)
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

func parseKey(kind string, der []byte) (key any, err error) {
	switch kind {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(der)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(der)
	default:
		key, err = x509.ParsePKCS8PrivateKey(der)
	}
	if err != nil {
		return nil, &FieldError{"key", "can't be read as " + kind}
	}
	return key, nil
}

// decryptPEM returns the key in a block, decrypted if need be.
func decryptPEM(block *pem.Block, passphrase string) (der []byte, err error) {
	//lint:ignore SA1019 what it protects badly is taken in, not written
	legacy := x509.IsEncryptedPEMBlock(block)
	switch {
	case !legacy && block.Type != "ENCRYPTED PRIVATE KEY":
		return block.Bytes, nil
	case passphrase == "":
		return nil, errPassphraseMissing
	case !legacy:
		return decryptPKCS8(block.Bytes, passphrase)
	}
	//lint:ignore SA1019 as above
	der, err = x509.DecryptPEMBlock(block, []byte(passphrase))
	if errors.Is(err, x509.IncorrectPasswordError) {
		return nil, errPassphraseWrong
	}
	if err != nil {
		return nil, &FieldError{"key", "is encrypted in a way that is not known here; convert it with openssl pkcs8 -topk8"}
	}
	// About one wrong passphrase in 256 is not noticed by that.
	if _, err := parseKey(block.Type, der); err != nil {
		return nil, errPassphraseWrong
	}
	return der, nil
}

// readPKCS12 reads a PKCS #12 file (RFC 7292) in DER.
func readPKCS12(der []byte, passphrase string) (p importParts, err error) {
	if err := checkIterations(der); err != nil {
		return importParts{}, err
	}
	key, leaf, above, err := pkcs12.DecodeChain(der, passphrase)
	switch {
	case err == nil:
	case (errors.Is(err, pkcs12.ErrIncorrectPassword) || errors.Is(err, pkcs12.ErrDecryption)) && passphrase == "":
		return importParts{}, &FieldError{"passphrase", "is missing: the file is encrypted"}
	case errors.Is(err, pkcs12.ErrIncorrectPassword) || errors.Is(err, pkcs12.ErrDecryption):
		return importParts{}, errPassphraseWrong
	case strings.HasSuffix(err.Error(), "certificate missing"):
		return importParts{}, &FieldError{"certificate", "is missing: the PKCS #12 file has none"}
	case strings.HasSuffix(err.Error(), "private key missing"):
		return importParts{}, &FieldError{"key", "is missing: the PKCS #12 file holds certificates only"}
	case strings.HasSuffix(err.Error(), "exactly one key bag"):
		return importParts{}, &FieldError{"key", "must be one: the PKCS #12 file has several"}
	default:
		return importParts{}, &FieldError{"data", "can't be read as PKCS #12 in DER, or is encrypted in a way that is not known here; PEM will do"}
	}
	for _, cert := range append([]*x509.Certificate{leaf}, above...) {
		if err := p.addCertificate(cert.Raw); err != nil {
			return importParts{}, err
		}
	}
	return p, p.addKey(key)
}

// Object identifiers of encryption by passphrase (RFC 7292, appendix C; RFC 8018, appendix C).
var (
	oidPKCS12PBE = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 1} // and one more
	oidPBES2     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidDES3      = asn1.ObjectIdentifier{1, 2, 840, 113549, 3, 7}
	oidAES       = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1} // and one more
	oidHMAC      = asn1.ObjectIdentifier{1, 2, 840, 113549, 2}        // and one more
)

// below returns the last part of oid if that is parent and one more, else -1.
func below(oid, parent asn1.ObjectIdentifier) int {
	if len(oid) == len(parent)+1 && oid[:len(parent)].Equal(parent) {
		return oid[len(parent)]
	}
	return -1
}

type algorithm struct {
	OID        asn1.ObjectIdentifier
	Parameters asn1.RawValue `asn1:"optional"`
}

type pbkdf2Parameters struct {
	Salt       []byte
	Iterations int
	KeyLength  int       `asn1:"optional"`
	PRF        algorithm `asn1:"optional"`
}

// decryptPKCS8 decrypts an EncryptedPrivateKeyInfo (RFC 5958, 3) by PBES2 (RFC 8018, 6.2).
func decryptPKCS8(der []byte, passphrase string) ([]byte, error) {
	if err := checkIterations(der); err != nil {
		return nil, err
	}
	unknown := &FieldError{"key", "is encrypted in a way that is not known here; convert it with openssl pkcs8 -topk8 -v2 aes-256-cbc"}
	var info struct {
		Algorithm algorithm
		Data      []byte
	}
	var scheme struct{ KDF, Cipher algorithm }
	var kdf pbkdf2Parameters
	if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) > 0 {
		return nil, &FieldError{"key", "can't be read as ENCRYPTED PRIVATE KEY"}
	}
	if !info.Algorithm.OID.Equal(oidPBES2) {
		return nil, unknown
	}
	if _, err := asn1.Unmarshal(info.Algorithm.Parameters.FullBytes, &scheme); err != nil || !scheme.KDF.OID.Equal(oidPBKDF2) {
		return nil, unknown
	}
	if _, err := asn1.Unmarshal(scheme.KDF.Parameters.FullBytes, &kdf); err != nil || kdf.Iterations < 1 {
		return nil, unknown
	}
	prf := map[int]func() hash.Hash{8: sha256.New224, 9: sha256.New, 10: sha512.New384, 11: sha512.New}[below(kdf.PRF.OID, oidHMAC)]
	if kdf.PRF.OID == nil || below(kdf.PRF.OID, oidHMAC) == 7 {
		prf = sha1.New
	}
	size, newCipher := 0, aes.NewCipher
	switch below(scheme.Cipher.OID, oidAES) {
	case 2:
		size = 16
	case 22:
		size = 24
	case 42:
		size = 32
	}
	if scheme.Cipher.OID.Equal(oidDES3) {
		size, newCipher = 24, des.NewTripleDESCipher
	}
	if prf == nil || size == 0 {
		return nil, unknown
	}
	key, err := pbkdf2.Key(prf, passphrase, kdf.Salt, kdf.Iterations, size)
	if err != nil {
		return nil, unknown
	}
	block, err := newCipher(key)
	if err != nil {
		return nil, unknown
	}
	iv := scheme.Cipher.Parameters.Bytes
	if n := block.BlockSize(); len(iv) != n || len(info.Data) == 0 || len(info.Data)%n != 0 {
		return nil, &FieldError{"key", "can't be read as ENCRYPTED PRIVATE KEY"}
	}
	plain := make([]byte, len(info.Data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, info.Data)
	// The padding needs no look: what it surrounds is DER, which has a length.
	var value asn1.RawValue
	rest, err := asn1.Unmarshal(plain, &value)
	if err != nil || len(rest) > block.BlockSize() {
		return nil, errPassphraseWrong
	}
	if _, err := x509.ParsePKCS8PrivateKey(value.FullBytes); err != nil {
		return nil, errPassphraseWrong
	}
	return value.FullBytes, nil
}

const (
	// maxIterations bounds how often a passphrase is hashed to read one file, in all:
	// seconds. Browsers write the most, 600,000 for each of three parts.
	maxIterations = 5_000_000

	maxImportDepth  = 32
	maxImportValues = 20_000
)

// checkIterations refuses a file that would keep us hashing. It looks at all that is
// not encrypted itself, which is where every program writes how a key is encrypted.
func checkIterations(der []byte) error {
	w := iterationWalk{left: maxIterations, values: maxImportValues}
	if !w.walk(cryptobyte.String(der), 0) {
		return &FieldError{"data", "is too complex, or wants a passphrase hashed too often"}
	}
	return nil
}

type iterationWalk struct {
	left   int64
	values int
}

// walk goes through values of DER, and through the octet strings that hold some. It is
// false when a limit is exceeded.
func (w *iterationWalk) walk(in cryptobyte.String, depth int) bool {
	if depth > maxImportDepth {
		return false
	}
	for !in.Empty() {
		var value cryptobyte.String
		var tag cbasn1.Tag
		if w.values--; w.values < 0 {
			return false
		}
		if !in.ReadAnyASN1(&value, &tag) {
			return true // no DER: the parser proper will say so, or it is text
		}
		if tag == cbasn1.SEQUENCE && !w.count(value) {
			return false
		}
		inside := uint8(tag)&0x20 != 0 || tag == cbasn1.OCTET_STRING || tag == cbasn1.Tag(0).ContextSpecific()
		if inside && !w.walk(value, depth+1) {
			return false
		}
	}
	return true
}

// count takes the iterations off that a sequence asks for: an algorithm's parameters, or
// a MacData, which ends with a salt and their number.
func (w *iterationWalk) count(seq cryptobyte.String) bool {
	var n int64
	var oid asn1.ObjectIdentifier
	var params, salt cryptobyte.String
	algorithm, mac := seq, seq
	switch {
	case algorithm.ReadASN1ObjectIdentifier(&oid) && (oid.Equal(oidPBKDF2) || below(oid, oidPKCS12PBE) >= 0):
		if !algorithm.ReadASN1(&params, cbasn1.SEQUENCE) || !params.ReadASN1(&salt, cbasn1.OCTET_STRING) || !params.ReadASN1Integer(&n) {
			return false
		}
	case mac.SkipASN1(cbasn1.SEQUENCE) && mac.ReadASN1(&salt, cbasn1.OCTET_STRING) && mac.PeekASN1Tag(cbasn1.INTEGER):
		if !mac.ReadASN1Integer(&n) {
			return false
		}
	}
	w.left -= n
	return n >= 0 && w.left >= 0
}
