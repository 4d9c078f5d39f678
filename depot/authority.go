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
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

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
	name  string
	id    string
	cert  *x509.Certificate
	above []*x509.Certificate // who issued cert, up to the root; empty for a root
	key   crypto.Signer
	urls  urls
}

// Name returns what the authority is for: "identity", "root" or "payload".
func (a *Authority) Name() string { return a.name }

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
// count as issued must be recorded.
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
	// No pointers to revocation: they would be those of the day on which it was
	// made, which is before anyone said what devices reach this server by.
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
	return &Authority{name: name, id: authorityID(cert), cert: cert, above: chain, key: key}, nil
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

// authorityRecord is an authority as it is stored.
type authorityRecord struct {
	Name        string `json:"name"`
	Certificate []byte `json:"certificate"` // DER
	Key         []byte `json:"key"`         // PKCS #8, sealed
}

var authorities = storage.NewCollection("authority", 1, func(a authorityRecord) string { return a.Name })

// keyring is the authorities at one moment. It is replaced, never changed.
type keyring struct {
	byName map[string]*Authority
	byID   map[string]*Authority
}

func newKeyring(all ...*Authority) *keyring {
	k := &keyring{byName: map[string]*Authority{}, byID: map[string]*Authority{}}
	for _, a := range all {
		k.byName[a.name], k.byID[a.id] = a, a
	}
	return k
}

// openAuthorities loads the authorities and makes those that are missing: all of
// them in an empty database, and the issuer of payload certificates in one that an
// earlier version made. Of several processes that make them at once, one stores
// them, and all use those.
func (d *Depot) openAuthorities(ctx context.Context, c Config) error {
	var found []*Authority
	err := d.db.View(ctx, func(tx storage.Tx) (err error) {
		found, err = d.loadAuthorities(tx)
		return err
	})
	if err != nil {
		return err
	}
	made, err := d.makeAuthorities(c, newKeyring(found...))
	if err != nil {
		return err
	}
	if len(made) == 0 {
		d.keys.Store(newKeyring(found...))
		return nil
	}
	return d.db.Update(ctx, func(tx storage.Tx) error {
		d.created = false
		found, err := d.loadAuthorities(tx)
		if err != nil {
			return err
		}
		have := newKeyring(found...)
		for _, a := range made {
			if have.byName[a.name] != nil {
				continue
			}
			if a.name == payloadName && have.byName[rootName] != nil && !a.above[0].Equal(have.byName[rootName].cert) {
				return errors.New("another process has just made the authorities; start again")
			}
			rec, err := d.sealAuthority(a)
			if err != nil {
				return err
			}
			if err := authorities.Create(tx, rec); err != nil {
				return err
			}
			found = append(found, a)
			d.created = d.created || a.name == rootName
		}
		d.keys.Store(newKeyring(found...))
		return nil
	})
}

// makeAuthorities makes the authorities that have lacks. Their keys take a while
// each, and are made at the same time.
func (d *Depot) makeAuthorities(c Config, have *keyring) (made []*Authority, err error) {
	keys := map[string]*rsa.PrivateKey{}
	var work errgroup.Group
	var mu sync.Mutex
	for _, name := range []string{identityName, rootName, payloadName} {
		if have.byName[name] != nil {
			continue
		}
		work.Go(func() error {
			key, err := c.NewKey(name, c.KeyBits)
			if err != nil {
				return fmt.Errorf("make key of %s authority: %w", name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			keys[name] = key
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	now := c.Now().UTC()
	root := have.byName[rootName]
	for _, next := range []struct {
		name, commonName string
		pathLen          int
	}{
		{identityName, "Gatehouse Identity CA", 0},
		{rootName, "Gatehouse CA", 1}, // the issuer of payload certificates is below it
		{payloadName, "Gatehouse Issuing CA", 0},
	} {
		key := keys[next.name]
		if key == nil {
			continue
		}
		var above *Authority
		if next.name == payloadName {
			above = root
		}
		a, err := newAuthority(next.name, commonName(next.commonName, c.Name), next.pathLen, key, above, now)
		if err != nil {
			return nil, fmt.Errorf("make %s authority: %w", next.name, err)
		}
		a.urls = d.urls
		if a.name == rootName {
			root = a
		}
		made = append(made, a)
	}
	return made, nil
}

// loadAuthorities reads the authorities that there are.
func (d *Depot) loadAuthorities(tx storage.Tx) (found []*Authority, err error) {
	for rec, err := range authorities.All(tx, storage.Range{}) {
		if err != nil {
			return nil, err
		}
		a, err := d.openAuthority(rec)
		if err != nil {
			return nil, err
		}
		found = append(found, a)
	}
	have := newKeyring(found...)
	if len(found) > 0 && (have.byName[identityName] == nil || have.byName[rootName] == nil) {
		// Making the missing one anew would cut off whoever trusts the old one.
		return nil, fmt.Errorf("%w: one of two authorities is missing", storage.ErrCorrupt)
	}
	if payload := have.byName[payloadName]; payload != nil {
		root := have.byName[rootName]
		if err := guard.CheckIssued(payload.cert, root.cert); err != nil {
			return nil, fmt.Errorf("%w: the payload authority is not the root's", storage.ErrCorrupt)
		}
		payload.above = root.Chain()
	}
	return found, nil
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
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: key of authority %s signs nothing", storage.ErrCorrupt, rec.Name)
	}
	cert, err := guard.ParseCertificate(rec.Certificate)
	if err != nil || len(cert.SubjectKeyId) < 8 {
		return nil, fmt.Errorf("%w: certificate of authority %s", storage.ErrCorrupt, rec.Name)
	}
	if public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(signer.Public()) {
		return nil, fmt.Errorf("%w: certificate of authority %s is not of its key", storage.ErrCorrupt, rec.Name)
	}
	return &Authority{name: rec.Name, id: authorityID(cert), cert: cert, key: signer, urls: d.urls}, nil
}
