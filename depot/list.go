package depot

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha512" // of larger keys
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// listEncoder writes a CRL (RFC 5280, 5.1) as its entries come. crypto/x509 does the
// same out of a slice, by reflection, in ten times the time and memory: that counts
// when there are 100,000.
type listEncoder struct {
	entries []byte // revokedCertificates, without what is around them
}

var (
	oidCRLNumber      = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidAuthorityKeyID = asn1.ObjectIdentifier{2, 5, 29, 35}
)

// entryReason is the extension of an entry that gives the reason (5.3.1), less its
// last octet: crlEntryExtensions, Extension, 2.5.29.21, the value's OCTET STRING, and
// in it an ENUMERATED of one octet.
const entryReason = "\x30\x0c\x30\x0a\x06\x03\x55\x1d\x15\x04\x03\x0a\x01"

// add adds an entry. It is so short that each length in it has one octet.
func (e *listEncoder) add(r Revocation) error {
	digits := string(r.Serial)
	if len(digits)%2 != 0 {
		digits = "0" + digits
	}
	serial, err := hex.DecodeString(digits)
	if err != nil || len(serial) == 0 || len(serial) > 20 || r.Reason < 0 || r.Reason > 10 {
		return fmt.Errorf("%w: revocation of serial number %q", storage.ErrCorrupt, r.Serial)
	}
	start := len(e.entries)
	e.entries = append(e.entries, byte(cbasn1.SEQUENCE), 0, byte(cbasn1.INTEGER), byte(len(serial)))
	if serial[0]&0x80 != 0 { // or it would be negative
		e.entries[len(e.entries)-1]++
		e.entries = append(e.entries, 0)
	}
	e.entries = append(e.entries, serial...)
	tag, layout := timeForm(r.At)
	e.entries = append(e.entries, byte(tag), byte(len(layout)))
	e.entries = r.At.UTC().AppendFormat(e.entries, layout)
	if r.Reason != 0 { // "unspecified" is said by leaving it out
		e.entries = append(append(e.entries, entryReason...), byte(r.Reason))
	}
	e.entries[start+1] = byte(len(e.entries) - start - 2)
	return nil
}

// sign returns the CRL of a whose state is l. Of the same entries and state it makes
// the same bytes, whatever the process.
func (e *listEncoder) sign(a *Authority, l ListState) ([]byte, error) {
	algorithm, hash, err := signatureAlgorithm(a.key.Public())
	if err != nil {
		return nil, err
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(e.entries)+1024))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { // TBSCertList
		b.AddASN1Int64(1) // v2
		b.AddBytes(algorithm)
		b.AddBytes(a.cert.RawSubject)
		addTime(b, l.ThisUpdate)
		addTime(b, l.NextUpdate)
		if len(e.entries) > 0 { // an empty one must not be there (5.1.2.6)
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(e.entries) })
		}
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				addExtension(b, oidAuthorityKeyID, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1(cbasn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(a.cert.SubjectKeyId) })
					})
				})
				addExtension(b, oidCRLNumber, func(b *cryptobyte.Builder) { b.AddASN1Int64(l.Number) })
			})
		})
	})
	tbs, err := b.Bytes()
	if err != nil {
		return nil, err
	}
	h := hash.New()
	h.Write(tbs)
	digest := h.Sum(nil)
	signature, err := a.key.Sign(nil, digest, hash) // without randomness: see above
	if err != nil {
		return nil, err
	}
	if !verified(a.key.Public(), hash, digest, signature) {
		return nil, errors.New("the key's signature is not right")
	}
	b = cryptobyte.NewBuilder(make([]byte, 0, len(tbs)+len(signature)+64))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(algorithm)
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}

// timeForm is how a Time is written: UTCTime until 2049, and GeneralizedTime from then
// on (5.1.2.4).
func timeForm(t time.Time) (tag cbasn1.Tag, layout string) {
	if t.UTC().Year() < 2050 {
		return cbasn1.UTCTime, "060102150405Z"
	}
	return cbasn1.GeneralizedTime, "20060102150405Z"
}

func addTime(b *cryptobyte.Builder, t time.Time) {
	tag, layout := timeForm(t)
	b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(t.UTC().AppendFormat(nil, layout)) })
}

// addExtension adds an Extension that is not critical.
func addExtension(b *cryptobyte.Builder, id asn1.ObjectIdentifier, value cryptobyte.BuilderContinuation) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(id)
		b.AddASN1(cbasn1.OCTET_STRING, value)
	})
}

// signatureAlgorithm returns how a key signs: an AlgorithmIdentifier in DER, and the hash.
func signatureAlgorithm(pub crypto.PublicKey) (der []byte, hash crypto.Hash, err error) {
	var oid asn1.ObjectIdentifier
	_, isRSA := pub.(*rsa.PublicKey)
	key, isEC := pub.(*ecdsa.PublicKey)
	switch {
	case isRSA:
		oid, hash = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, crypto.SHA256
	case isEC && key.Curve == elliptic.P256():
		oid, hash = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, crypto.SHA256
	case isEC && key.Curve == elliptic.P384():
		oid, hash = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}, crypto.SHA384
	case isEC && key.Curve == elliptic.P521():
		oid, hash = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}, crypto.SHA512
	default:
		return nil, 0, fmt.Errorf("a key of type %T signs no lists", pub)
	}
	b := cryptobyte.NewBuilder(nil)
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		if isRSA {
			b.AddASN1NULL() // RFC 4055, 5
		}
	})
	der, err = b.Bytes()
	return der, hash, err
}

// verified checks a signature of our own: a key may be in hardware that fails.
func verified(pub crypto.PublicKey, hash crypto.Hash, digest, signature []byte) bool {
	switch key := pub.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, hash, digest, signature) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, digest, signature)
	}
	return false
}
