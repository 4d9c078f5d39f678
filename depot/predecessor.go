package depot

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// AdoptedAuthority stands in [Certificate.Authority] of an identity that a [Predecessor]
// issued: a device goes on speaking by it until it has one of ours.
const AdoptedAuthority = "adopted"

// Predecessor is the authority of another MDM server whose devices come here. It issues
// nothing here, and nothing is known of its key: its signature is what a device's
// certificate from there is believed by, once, when the device first speaks to us.
type Predecessor struct {
	ID          Fingerprint `json:"id"`
	Certificate []byte      `json:"certificate"` // DER
	Subject     string      `json:"subject"`
	NotAfter    time.Time   `json:"not_after"`
	AddedAt     time.Time   `json:"added_at"`
	AddedBy     string      `json:"added_by,omitempty"`

	// ClaimsUntil is until when one of its certificates may become the identity of a device of
	// which the other server did not tell which one it has.
	ClaimsUntil time.Time `json:"claims_until"`
}

var predecessors = storage.NewCollection("predecessor", 1, func(p Predecessor) string { return string(p.ID) })

// maxPredecessors bounds how many signatures a stranger's certificate is tried against.
const maxPredecessors = 16

// ReadPredecessor reads the certificate of an authority, in PEM or DER. What is wrong with it
// is a [*FieldError] of the field "certificate".
func ReadPredecessor(data []byte) (*x509.Certificate, error) {
	wrong := func(format string, args ...any) error {
		return &FieldError{"certificate", fmt.Sprintf(format, args...)}
	}
	if len(data) > maxImport {
		return nil, wrong("is larger than 1 MiB")
	}
	der := data
	if !bytes.HasPrefix(data, []byte{0x30}) {
		der = nil
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			switch {
			case block.Type != "CERTIFICATE": // its key is not wanted
			case der != nil:
				return nil, wrong("must be one: there are several; give that which issued the devices' identities")
			default:
				der = block.Bytes
			}
		}
	}
	if len(der) == 0 {
		return nil, wrong("is missing: it must be one in PEM or DER")
	}
	cert, err := guard.ParseCertificate(der)
	switch {
	case errors.Is(err, guard.ErrKey):
		return nil, wrong("has a key that is not good for an authority: RSA of 2048 to 4096 bits, or ECDSA on P-256, P-384 or P-521")
	case err != nil:
		return nil, wrong("can't be read")
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return nil, wrong("of %q must be an authority's: it is an end entity's", cert.Subject)
	case cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, wrong("of %q must allow keyCertSign", cert.Subject)
	}
	return cert, nil
}

// AddPredecessor keeps an authority that [ReadPredecessor] has read, or sets until when its
// certificates may claim devices. One that has expired is taken: devices whose certificates are
// known go on by them. A certificate with the key of an authority of ours is a [*FieldError].
func (d *Depot) AddPredecessor(tx storage.Tx, cert *x509.Certificate, by string, claimsUntil time.Time) (p Predecessor, err error) {
	for _, a := range d.Authorities() {
		if key, ok := a.cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && key.Equal(cert.PublicKey) {
			return p, &FieldError{"certificate", "is that of an authority of this server: its devices are here already"}
		}
	}
	fp := FingerprintOf(cert)
	p, err = predecessors.Get(tx, string(fp))
	if errors.Is(err, storage.ErrNotFound) {
		n := 0
		for _, err := range predecessors.All(tx, storage.Range{}) {
			if err != nil {
				return p, err
			}
			n++
		}
		if n >= maxPredecessors {
			return p, &FieldError{"certificate", fmt.Sprintf("must be one of at most %d: delete one that no device will come from any more", maxPredecessors)}
		}
		p, err = Predecessor{
			ID: fp, Certificate: cert.Raw, Subject: SubjectOf(cert), NotAfter: cert.NotAfter.UTC(), AddedAt: d.now().UTC(), AddedBy: by,
		}, nil
	}
	if err != nil {
		return p, err
	}
	p.ClaimsUntil = claimsUntil.UTC()
	return p, predecessors.Put(tx, p)
}

// Predecessors returns all of them.
func (d *Depot) Predecessors(tx storage.Tx) (all []Predecessor, err error) {
	for p, err := range predecessors.All(tx, storage.Range{}) {
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// DeletePredecessor forgets an authority: no certificate from there is adopted any more. Those
// that were stay. One that is not there is an error that wraps storage.ErrNotFound.
func (d *Depot) DeletePredecessor(tx storage.Tx, id Fingerprint) error {
	if _, err := predecessors.Get(tx, string(id)); err != nil {
		return err
	}
	return predecessors.Delete(tx, string(id))
}

// PredecessorOf returns who of them signed cert, an end entity's, or an error that wraps
// storage.ErrNotFound. It judges no dates.
func (d *Depot) PredecessorOf(tx storage.Tx, cert *x509.Certificate) (Predecessor, error) {
	for p, err := range predecessors.All(tx, storage.Range{}) {
		if err != nil {
			return Predecessor{}, err
		}
		issuer, err := guard.ParseCertificate(p.Certificate)
		if err != nil {
			return Predecessor{}, fmt.Errorf("%w: predecessor %s", storage.ErrCorrupt, p.ID)
		}
		if !cert.IsCA && bytes.Equal(cert.RawIssuer, issuer.RawSubject) && guard.CheckIssued(cert, issuer) == nil {
			return p, nil
		}
	}
	return Predecessor{}, fmt.Errorf("predecessor that issued %q: %w", cert.Subject, storage.ErrNotFound)
}

// Adopt records a predecessor's certificate as a device's identity. The rest of c is the
// caller's.
func (d *Depot) Adopt(tx storage.Tx, cert *x509.Certificate, c Certificate) error {
	c.Authority, c.IssuedAt = AdoptedAuthority, cert.NotBefore.UTC()
	return d.Record(tx, cert, c)
}
