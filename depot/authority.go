package depot

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

const (
	// authorityLife is how long an authority's own certificate lasts. Devices have
	// it in their profiles, and replacing it means sending each of them both old
	// and new one; what ages in that time is the key, and that is replaced by
	// choice, not by a date that passes unnoticed.
	authorityLife = 20 * 365 * 24 * time.Hour

	// authorityBackdate lets a device take part whose clock stands still on
	// yesterday. It is longer than any certificate is backdated that it issues.
	authorityBackdate = 24 * time.Hour

	// maxCommonName is the upper bound ub-common-name (RFC 5280, appendix A.1).
	maxCommonName = 64
)

var (
	// ErrAuthorityExpired means that an authority's certificate is so old that
	// nothing that it issues would be valid.
	ErrAuthorityExpired = errors.New("authority has expired")

	// ErrNotActive means that an authority is not, or not any more, the one of its
	// name that issues certificates.
	ErrNotActive = errors.New("authority is not the active one")
)

// Authority is one certificate authority: one generation of those of its name.
type Authority struct {
	name       string
	id         string
	generation int
	state      State
	since      time.Time
	imported   bool
	cert       *x509.Certificate
	above      []*x509.Certificate // who issued cert, up to the root; empty for a root
	key        crypto.Signer
	urls       urls
}

// Name returns what the authority is for: "identity", "root" or "payload". All of its
// generations have that in common.
func (a *Authority) Name() string { return a.name }

// Generation counts the authorities of one name, from 1.
func (a *Authority) Generation() int { return a.generation }

// State returns where the authority is in its life, as this process last heard.
func (a *Authority) State() State { return a.state }

// Since returns since when it is in its [Authority.State]; zero if that is from before
// such times were noted.
func (a *Authority) Since() time.Time { return a.since }

// Imported says whether the authority was somebody else's before.
func (a *Authority) Imported() bool { return a.imported }

// URLs returns where anybody may get its revocation list, ask for the status of its
// certificates, and get its own; all are empty if the world can't ask.
func (a *Authority) URLs() (crl, ocsp, certificate string) {
	if a.urls == (urls{}) {
		return "", "", ""
	}
	return a.urls.crl + a.id + ".crl", a.urls.ocsp, a.urls.issuer + a.id + ".cer"
}

// ID names the authority in URLs, and in the records of what it issued: 16
// hexadecimal digits of its key's identifier.
func (a *Authority) ID() string { return a.id }

// Certificate returns the authority's own certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// Chain returns the authority's own certificate and those above it, the root last.
func (a *Authority) Chain() []*x509.Certificate {
	return append([]*x509.Certificate{a.cert}, a.above...)
}

// Signer returns the authority's key, to sign CMS messages, CRLs and the like with.
// It is a [crypto.Decrypter] as well if the authority may be spoken to by SCEP: what
// a client encrypts, it encrypts to the authority.
func (a *Authority) Signer() crypto.Signer { return a.key }

// Sign issues a certificate for pub: an end entity, never an authority, with a
// random serial number, and never outliving a. It touches no storage: what is to
// count as issued must be recorded. An authority that is not the active one signs
// nothing but the certificate of its [Responder]: the error wraps [ErrNotActive].
func (a *Authority) Sign(pub crypto.PublicKey, c Contents) (*x509.Certificate, error) {
	cert, err := a.sign(pub, c)
	if err != nil {
		return nil, fmt.Errorf("sign %s certificate: %w", c.Name, err)
	}
	return cert, nil
}

func (a *Authority) sign(pub crypto.PublicKey, c Contents) (*x509.Certificate, error) {
	if err := guard.CheckPublicKey(pub); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	if a.state != StateActive && !c.NoRevocationCheck {
		return nil, fmt.Errorf("%w but %s", ErrNotActive, a.state)
	}
	if c.NotBefore.Before(a.cert.NotBefore) {
		c.NotBefore = a.cert.NotBefore
	}
	if c.NotAfter.After(a.cert.NotAfter) {
		c.NotAfter = a.cert.NotAfter
	}
	if !c.NotBefore.Before(c.NotAfter) {
		if !c.NotBefore.Before(a.cert.NotAfter) {
			return nil, ErrAuthorityExpired
		}
		return nil, errors.New("it would never be valid")
	}
	ski, err := subjectKeyID(pub)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               c.Subject,
		RawSubject:            c.RawSubject,
		NotBefore:             c.NotBefore,
		NotAfter:              c.NotAfter,
		KeyUsage:              c.KeyUsage,
		ExtKeyUsage:           c.ExtKeyUsage,
		UnknownExtKeyUsage:    c.ExtKeyUsageOIDs,
		BasicConstraintsValid: true, // CA:FALSE
		SubjectKeyId:          ski,
		AuthorityKeyId:        a.cert.SubjectKeyId,
	}
	a.urls.put(template, a.id)
	if c.NoRevocationCheck {
		template.OCSPServer, template.CRLDistributionPoints = nil, nil
		template.ExtraExtensions = append(template.ExtraExtensions, noCheck())
	}
	names, ok, err := c.alternativeNames()
	if err != nil {
		return nil, err
	}
	if ok {
		template.ExtraExtensions = append(template.ExtraExtensions, names)
	}
	return create(template, a.cert, pub, a.key)
}

// newAuthority makes an authority. above is who issues its certificate; nil means
// that it does so itself.
func newAuthority(name, commonName string, pathLen int, key crypto.Signer, above *Authority, now time.Time) (*Authority, error) {
	ski, err := subjectKeyID(key.Public())
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(),
		Subject:      pkix.Name{CommonName: commonName},
		NotBefore:    now.Add(-authorityBackdate),
		NotAfter:     now.Add(authorityLife),
		// Apple's SCEP client wants to see that the certificate that it encrypts to
		// is good for that, and that the one that signs the reply signs.
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            pathLen,
		MaxPathLenZero:        pathLen == 0,
		SubjectKeyId:          ski,
		AuthorityKeyId:        ski,
	}
	parent, parentKey := template, key
	var chain []*x509.Certificate
	if above != nil {
		parent, parentKey, chain = above.cert, above.key, above.Chain()
		template.AuthorityKeyId = parent.SubjectKeyId
		above.urls.put(template, above.id)
		if template.NotBefore.Before(parent.NotBefore) {
			template.NotBefore = parent.NotBefore
		}
		if template.NotAfter.After(parent.NotAfter) {
			template.NotAfter = parent.NotAfter
		}
	}
	cert, err := create(template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, err
	}
	return &Authority{name: name, id: authorityID(cert), generation: 1, state: StateActive, since: now, cert: cert, above: chain, key: key}, nil
}

// authorityID returns the [Authority.ID] of an authority with this certificate.
func authorityID(cert *x509.Certificate) string { return hex.EncodeToString(cert.SubjectKeyId)[:16] }

func create(template, parent *x509.Certificate, pub any, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// newSerial returns a positive serial number of 128 random bits (RFC 5280,
// 4.1.2.2, allows 20 octets).
func newSerial() *big.Int {
	var b [16]byte
	for {
		rand.Read(b[:]) // never fails
		if n := new(big.Int).SetBytes(b[:]); n.Sign() > 0 {
			return n
		}
	}
}

// subjectKeyID is method 1 of RFC 7093: 160 bits of the SHA-256 of the key.
func subjectKeyID(pub crypto.PublicKey) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(spki, &info); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(info.Key.Bytes)
	return sum[:20], nil
}

// PublicKeyHash returns the SHA-256 of a public key's SubjectPublicKeyInfo, in
// lower-case hexadecimal.
func PublicKeyHash(pub crypto.PublicKey) (string, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("hash public key: %w", err)
	}
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:]), nil
}

// commonName is an authority's name: what it is, and in parentheses whose, cut to
// what a certificate may hold.
func commonName(what, whose string) string {
	if whose == "" {
		return what
	}
	room := maxCommonName - len(what) - len(" ()")
	for len(whose) > room {
		_, size := utf8.DecodeLastRuneInString(whose)
		whose = whose[:len(whose)-size]
	}
	return what + " (" + whose + ")"
}
