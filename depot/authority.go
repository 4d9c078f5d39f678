package depot

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-mdm/gatehouse/storage"
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

// ErrAuthorityExpired means that an authority's certificate is so old that
// nothing that it issues would be valid.
var ErrAuthorityExpired = errors.New("authority has expired")

// Authority is one certificate authority.
type Authority struct {
	name string
	cert *x509.Certificate
	key  *rsa.PrivateKey
}

// Name returns "identity" or "root".
func (a *Authority) Name() string { return a.name }

// Certificate returns the authority's own, self-signed certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// Signer returns the authority's key, to sign CMS messages with. It is a
// [crypto.Decrypter] as well: what a SCEP client encrypts, it encrypts to the
// authority.
func (a *Authority) Signer() crypto.Signer { return a.key }

// Template is what a certificate is to say, beside what Sign sets itself.
type Template struct {
	Name                string // of the template, for errors
	Subject             pkix.Name
	NotBefore, NotAfter time.Time // cut to the authority's own
	KeyUsage            x509.KeyUsage
	ExtKeyUsage         []x509.ExtKeyUsage

	// Subject alternative names.
	DNSNames       []string
	EmailAddresses []string
	IPs            []net.IP
	URIs           []*url.URL

	// Where to ask about revocation and about the issuer; no extension if empty.
	CRLDistributionPoints []string
	OCSPServer            []string
	IssuingCertificateURL []string
}

// Sign issues a certificate for pub: an end entity, never an authority, with a
// random serial number, and never outliving a. It touches no storage: what is to
// count as issued must be recorded.
func (a *Authority) Sign(pub crypto.PublicKey, t Template) (*x509.Certificate, error) {
	cert, err := a.sign(pub, t)
	if err != nil {
		return nil, fmt.Errorf("sign %s certificate: %w", t.Name, err)
	}
	return cert, nil
}

func (a *Authority) sign(pub crypto.PublicKey, t Template) (*x509.Certificate, error) {
	if err := guard.CheckPublicKey(pub); err != nil {
		return nil, err
	}
	if t.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return nil, errors.New("an end entity signs no certificates")
	}
	if len(t.Subject.CommonName) > maxCommonName {
		return nil, fmt.Errorf("common name has %d bytes, at most %d", len(t.Subject.CommonName), maxCommonName)
	}
	if t.NotBefore.Before(a.cert.NotBefore) {
		t.NotBefore = a.cert.NotBefore
	}
	if t.NotAfter.After(a.cert.NotAfter) {
		t.NotAfter = a.cert.NotAfter
	}
	if !t.NotBefore.Before(t.NotAfter) {
		if !t.NotBefore.Before(a.cert.NotAfter) {
			return nil, ErrAuthorityExpired
		}
		return nil, errors.New("it would never be valid")
	}
	ski, err := subjectKeyID(pub)
	if err != nil {
		return nil, err
	}
	return create(&x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               t.Subject,
		NotBefore:             t.NotBefore,
		NotAfter:              t.NotAfter,
		KeyUsage:              t.KeyUsage,
		ExtKeyUsage:           t.ExtKeyUsage,
		BasicConstraintsValid: true, // CA:FALSE
		SubjectKeyId:          ski,
		AuthorityKeyId:        a.cert.SubjectKeyId,
		DNSNames:              t.DNSNames,
		EmailAddresses:        t.EmailAddresses,
		IPAddresses:           t.IPs,
		URIs:                  t.URIs,
		CRLDistributionPoints: t.CRLDistributionPoints,
		OCSPServer:            t.OCSPServer,
		IssuingCertificateURL: t.IssuingCertificateURL,
	}, a.cert, pub, a.key)
}

// newAuthority makes an authority with a self-signed certificate.
func newAuthority(name, commonName string, pathLen int, key *rsa.PrivateKey, now time.Time) (*Authority, error) {
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
	cert, err := create(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &Authority{name: name, cert: cert, key: key}, nil
}

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

// authorityRecord is an authority as it is stored.
type authorityRecord struct {
	Name        string `json:"name"`
	Certificate []byte `json:"certificate"` // DER
	Key         []byte `json:"key"`         // PKCS #8, sealed
}

var authorities = storage.NewCollection("authority", 1, func(a authorityRecord) string { return a.Name })

// openAuthorities loads both authorities or makes both. Of several processes on
// one database that make them at once, one stores them, and all use those.
func (d *Depot) openAuthorities(ctx context.Context, c Config) error {
	err := d.db.View(ctx, d.loadAuthorities)
	if !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	now := c.Now().UTC()
	identity, err := d.makeAuthority(c, identityName, "Gatehouse Identity CA", 0, now)
	if err != nil {
		return err
	}
	root, err := d.makeAuthority(c, rootName, "Gatehouse CA", 1, now) // issuers for payload certificates below it
	if err != nil {
		return err
	}
	return d.db.Update(ctx, func(tx storage.Tx) error {
		d.created = false
		err := d.loadAuthorities(tx)
		if !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		for _, a := range []*Authority{identity, root} {
			rec, err := d.sealAuthority(a)
			if err != nil {
				return err
			}
			if err := authorities.Create(tx, rec); err != nil {
				return err
			}
		}
		d.identity, d.root, d.created = identity, root, true
		return nil
	})
}

func (d *Depot) makeAuthority(c Config, name, what string, pathLen int, now time.Time) (*Authority, error) {
	key, err := c.NewKey(c.KeyBits)
	if err != nil {
		return nil, fmt.Errorf("make key of %s authority: %w", name, err)
	}
	a, err := newAuthority(name, commonName(what, c.Name), pathLen, key, now)
	if err != nil {
		return nil, fmt.Errorf("make %s authority: %w", name, err)
	}
	return a, nil
}

// loadAuthorities reads both authorities, or returns an error that wraps
// storage.ErrNotFound if there is neither.
func (d *Depot) loadAuthorities(tx storage.Tx) error {
	identity, err := authorities.Get(tx, identityName)
	none := errors.Is(err, storage.ErrNotFound)
	if err != nil && !none {
		return err
	}
	root, err := authorities.Get(tx, rootName)
	switch {
	case errors.Is(err, storage.ErrNotFound) && none:
		return err
	case errors.Is(err, storage.ErrNotFound) || none:
		// Making the missing one anew would cut off whoever trusts the old one.
		return fmt.Errorf("%w: one of two authorities is missing", storage.ErrCorrupt)
	case err != nil:
		return err
	}
	if d.identity, err = d.openAuthority(identity); err != nil {
		return err
	}
	d.root, err = d.openAuthority(root)
	return err
}

// purpose binds a sealed key to its certificate: neither can be exchanged alone.
func (r authorityRecord) purpose() string {
	return fmt.Sprintf("key of authority %s %x", r.Name, sha256.Sum256(r.Certificate))
}

func (d *Depot) sealAuthority(a *Authority) (authorityRecord, error) {
	key, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return authorityRecord{}, err
	}
	rec := authorityRecord{Name: a.name, Certificate: a.cert.Raw}
	rec.Key = d.box.Seal(rec.purpose(), key)
	return rec, nil
}

func (d *Depot) openAuthority(rec authorityRecord) (*Authority, error) {
	pkcs8, err := d.box.Open(rec.purpose(), rec.Key)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, fmt.Errorf("%w: key of authority %s", storage.ErrCorrupt, rec.Name)
	}
	rsaKey, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: key of authority %s is not RSA", storage.ErrCorrupt, rec.Name)
	}
	cert, err := x509.ParseCertificate(rec.Certificate)
	if err != nil || !rsaKey.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%w: certificate of authority %s", storage.ErrCorrupt, rec.Name)
	}
	return &Authority{name: rec.Name, cert: cert, key: rsaKey}, nil
}
