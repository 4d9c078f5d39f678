package depot

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	// responderLife is how long a signer of OCSP answers lasts. Its certificate says
	// that there is no need to ask whether it was revoked, so it does not last long
	// (RFC 6960, 4.2.2.2.1).
	responderLife = 30 * 24 * time.Hour

	// responderBackdate is for clients whose clock is behind.
	responderBackdate = 10 * time.Minute

	responderTemplate = "ocsp"
)

// Responder signs OCSP answers in the name of an authority (RFC 6960, 4.2.2.2): with
// a key of its own, because anybody can have such answers made at any rate.
type Responder struct {
	cert    *x509.Certificate
	key     crypto.Signer
	renewAt time.Time
}

// Certificate returns the certificate by which the authority says so. It goes with
// each answer.
func (r *Responder) Certificate() *x509.Certificate { return r.cert }

// Signer returns the key, an ECDSA key on P-256.
func (r *Responder) Signer() crypto.Signer { return r.key }

// RenewAt is when to ask for another one.
func (r *Responder) RenewAt() time.Time { return r.renewAt }

// responderRecord is the responder in use for an authority. Replicas share it.
type responderRecord struct {
	Issuer      string `json:"issuer"`      // ID of the authority
	Certificate []byte `json:"certificate"` // DER
	Key         []byte `json:"key"`         // PKCS #8, sealed
}

var responders = storage.NewCollection("ocsp", 1, func(r responderRecord) string { return r.Issuer })

func (r responderRecord) purpose() string {
	return fmt.Sprintf("OCSP key of %s %x", r.Issuer, sha256.Sum256(r.Certificate))
}

// Responder returns the signer of OCSP answers about what a issued. It is made when
// there is none yet, when two thirds of its life are over, and when it was revoked.
func (d *Depot) Responder(ctx context.Context, a *Authority) (r *Responder, err error) {
	current := func(tx storage.Tx) (err error) {
		r, err = d.loadResponder(tx, a)
		return err
	}
	if err = d.db.View(ctx, current); !errors.Is(err, storage.ErrNotFound) {
		return r, err
	}
	made, err := d.makeResponder(a)
	if err != nil {
		return nil, err
	}
	err = d.db.Update(ctx, func(tx storage.Tx) error {
		if err := current(tx); !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(made.key)
		if err != nil {
			return err
		}
		rec := responderRecord{Issuer: a.id, Certificate: made.cert.Raw}
		rec.Key = d.box.Seal(rec.purpose(), pkcs8)
		if err := responders.Put(tx, rec); err != nil {
			return err
		}
		r = made
		return d.Record(tx, made.cert, Certificate{Authority: a.name, Template: responderTemplate})
	})
	if err != nil {
		return nil, fmt.Errorf("OCSP responder of %s: %w", a.name, err)
	}
	return r, nil
}

// loadResponder returns the responder in use, or an error that wraps
// storage.ErrNotFound if there is none that will do.
func (d *Depot) loadResponder(tx storage.Tx, a *Authority) (*Responder, error) {
	rec, err := responders.Get(tx, a.id)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(rec.Certificate)
	if err != nil {
		return nil, fmt.Errorf("%w: certificate of OCSP responder of %s", storage.ErrCorrupt, a.name)
	}
	r := &Responder{cert: cert, renewAt: renewResponderAt(cert, a)}
	now := d.now()
	if now.Before(cert.NotBefore) || !now.Before(r.renewAt) || !slices.Equal(cert.AuthorityKeyId, a.cert.SubjectKeyId) {
		return nil, fmt.Errorf("OCSP responder for other times: %w", storage.ErrNotFound)
	}
	issued, err := d.Get(tx, FingerprintOf(cert))
	if err != nil {
		return nil, fmt.Errorf("record of OCSP responder: %w", err)
	}
	if !issued.RevokedAt.IsZero() {
		return nil, fmt.Errorf("OCSP responder is revoked: %w", storage.ErrNotFound)
	}
	pkcs8, err := d.box.Open(rec.purpose(), rec.Key)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, fmt.Errorf("%w: key of OCSP responder of %s", storage.ErrCorrupt, a.name)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: key of OCSP responder of %s signs nothing", storage.ErrCorrupt, a.name)
	}
	r.key = signer
	return r, nil
}

// renewResponderAt is when two thirds of a responder's life are over. The last one
// of an authority lasts to the end: one more would last no longer.
func renewResponderAt(cert *x509.Certificate, a *Authority) time.Time {
	if !cert.NotAfter.Before(a.cert.NotAfter) {
		return cert.NotAfter
	}
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) * 2 / 3)
}

func (d *Depot) makeResponder(a *Authority) (*Responder, error) {
	now := d.now().UTC()
	if !now.Before(a.cert.NotAfter) {
		return nil, fmt.Errorf("OCSP responder of %s: %w", a.name, ErrAuthorityExpired)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of OCSP responder: %w", err)
	}
	cert, err := a.Sign(key.Public(), Contents{
		Name:              responderTemplate,
		Subject:           pkix.Name{CommonName: commonName("OCSP", a.cert.Subject.CommonName)},
		NotBefore:         now.Add(-responderBackdate),
		NotAfter:          now.Add(responderLife),
		KeyUsage:          x509.KeyUsageDigitalSignature,
		ExtKeyUsage:       []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
		NoRevocationCheck: true,
	})
	if err != nil {
		return nil, err
	}
	return &Responder{cert: cert, key: key, renewAt: renewResponderAt(cert, a)}, nil
}

// Standing is what is known of certificates of one authority at one moment.
type Standing struct {
	// Number is that of the authority's CRL, zero before the first one: as long as it
	// stays the same, no other certificate of the authority is revoked.
	Number int64

	// Certificates are the records, in the order of what was asked for. One without a
	// serial number stands for a certificate that the authority never issued.
	Certificates []Certificate
}

// Standing looks certificates of a up by their serial numbers.
func (d *Depot) Standing(ctx context.Context, a *Authority, serials ...Serial) (st Standing, err error) {
	err = d.db.View(ctx, func(tx storage.Tx) error {
		reads := []storage.Read{lists.Read(a.id)}
		for _, s := range serials {
			reads = append(reads, certificates.ReadLookup("serial", string(s)))
		}
		tx.Prefetch(reads...)

		st = Standing{}
		l, err := lists.Get(tx, a.id)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		st.Number = l.Number
		for _, s := range serials {
			c, err := d.Status(tx, a, s)
			if errors.Is(err, storage.ErrNotFound) {
				c, err = d.authorityBelow(a, s), nil
			}
			if err != nil {
				return err
			}
			st.Certificates = append(st.Certificates, c)
		}
		return nil
	})
	if err != nil {
		return Standing{}, fmt.Errorf("standing of certificates: %w", err)
	}
	return st, nil
}

// authorityBelow describes the authority whose certificate a issued with this serial
// number, if there is one: those are not among the records.
func (d *Depot) authorityBelow(a *Authority, s Serial) Certificate {
	for _, below := range d.Authorities() {
		chain := below.Chain()
		if issuer := chain[min(1, len(chain)-1)]; SerialOf(below.cert) == s && issuer.Equal(a.cert) {
			return Certificate{Serial: s, Authority: a.name, Issuer: a.id, NotBefore: below.cert.NotBefore, NotAfter: below.cert.NotAfter}
		}
	}
	return Certificate{}
}
